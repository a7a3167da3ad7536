//! Public keys as JSON (RFC 7517, RFC 7518 §6, RFC 8037 §2) that verify signatures.

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa::PublicKeyComponents;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RSA_PSS_2048_8192_SHA256,
};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::json;
use super::jws::Jws;
use crate::secret::sha256;
use crate::wire::Algorithm;

/// A public key, checked and parsed once, ready to verify.
#[derive(Clone, Debug)]
pub struct PublicJwk {
    kid: Option<String>,
    /// `kty` and the key's own members, in lexicographic order.
    members: Vec<(&'static str, String)>,
    /// One per algorithm this key may be used with: a single one, unless it is an RSA key that names no `alg`.
    verifiers: Vec<(Algorithm, ParsedPublicKey)>,
}

/// Why a JWK is not a key that verifies for us. Carries nothing of the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwkError {
    /// Not a JSON object of the right shape, or a member occurs twice.
    #[error("not a JSON Web Key (malformed, or a member occurs twice)")]
    Json,
    /// It has private or symmetric key material: a secret stands where public keys belong.
    #[error("the key contains private or symmetric key material; publish only its public half")]
    Private,
    /// A key for something we do not do; in a set it is passed over (RFC 7517 §5).
    #[error("the key is for another purpose: {0}")]
    Unsupported(&'static str),
    /// A key we should know, but a bad one: wrong length, off its curve, contradicting itself.
    #[error("the key is not usable: {0}")]
    Invalid(&'static str),
    /// A set has `keys`, at most [`JwkSet::MAX_KEYS`] objects.
    #[error("not a JSON Web Key Set of at most 100 keys")]
    Set,
}

/// Why a token was not verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// The header names an algorithm that the caller does not allow.
    #[error("the algorithm is not allowed here")]
    Algorithm,
    /// No key here fits the header's `kid` and `alg`: perhaps the keys were rotated.
    #[error("no key fits the token")]
    UnknownKey,
    /// A fitting key says the signature is wrong.
    #[error("the signature is wrong")]
    Signature,
}

/// The members of a JWK that we read. Those that would make it private are only noticed.
#[derive(Deserialize)]
struct Raw {
    kty: String,
    #[serde(default, rename = "use", deserialize_with = "json::present")]
    purpose: Option<String>,
    #[serde(default, deserialize_with = "json::present")]
    key_ops: Option<Vec<String>>,
    #[serde(default, deserialize_with = "json::present")]
    alg: Option<String>,
    #[serde(default, deserialize_with = "json::present")]
    kid: Option<String>,
    #[serde(default)]
    crv: String,
    #[serde(default)]
    n: String,
    #[serde(default)]
    e: String,
    #[serde(default)]
    x: String,
    #[serde(default)]
    y: String,
    #[serde(default, deserialize_with = "json::present")]
    d: Option<IgnoredAny>,
    #[serde(default, deserialize_with = "json::present")]
    p: Option<IgnoredAny>,
    #[serde(default, deserialize_with = "json::present")]
    q: Option<IgnoredAny>,
    #[serde(default, deserialize_with = "json::present")]
    dp: Option<IgnoredAny>,
    #[serde(default, deserialize_with = "json::present")]
    dq: Option<IgnoredAny>,
    #[serde(default, deserialize_with = "json::present")]
    qi: Option<IgnoredAny>,
    #[serde(default, deserialize_with = "json::present")]
    oth: Option<IgnoredAny>,
    #[serde(default, deserialize_with = "json::present")]
    k: Option<IgnoredAny>,
}

impl PublicJwk {
    /// Reads one JWK.
    ///
    /// # Errors
    /// See [`JwkError`].
    pub fn parse(text: &[u8]) -> Result<Self, JwkError> {
        Self::from_raw(json::object(text).map_err(|_| JwkError::Json)?)
    }

    fn from_raw(raw: Raw) -> Result<Self, JwkError> {
        let secret = [&raw.d, &raw.p, &raw.q, &raw.dp, &raw.dq, &raw.qi, &raw.oth, &raw.k];
        if secret.iter().any(|member| member.is_some()) {
            return Err(JwkError::Private);
        }
        if raw.purpose.is_some_and(|purpose| purpose != "sig") {
            return Err(JwkError::Unsupported("use is not sig"));
        }
        if raw.key_ops.is_some_and(|operations| operations.iter().all(|operation| operation != "verify")) {
            return Err(JwkError::Unsupported("key_ops has no verify"));
        }
        let alg = match raw.alg.as_deref().map(Algorithm::named) {
            Some(None) => return Err(JwkError::Unsupported("alg is not one of RS256, PS256, ES256, EdDSA, Ed25519")),
            Some(known) => known,
            None => None,
        };
        let fits = |own: Algorithm| match alg {
            Some(alg) if alg != own => Err(JwkError::Invalid("alg does not fit kty")),
            _ => Ok(()),
        };
        let key = match (raw.kty.as_str(), raw.crv.as_str()) {
            ("RSA", _) => Self::rsa(decode(&raw.n)?, decode(&raw.e)?, alg),
            ("EC", "P-256") => fits(Algorithm::Es256).and(Self::p256(&decode(&raw.x)?, &decode(&raw.y)?)),
            ("OKP", "Ed25519") => fits(Algorithm::EdDsa).and(Self::ed25519(&decode(&raw.x)?)),
            ("EC" | "OKP", _) => Err(JwkError::Unsupported("crv is not P-256 or Ed25519")),
            _ => Err(JwkError::Unsupported("kty is not RSA, EC or OKP")),
        }?;
        Ok(Self { kid: raw.kid, ..key })
    }

    /// An RSA key of big-endian numbers without leading zeros; its `kid` is its thumbprint. Without `alg` it serves
    /// RS256 and PS256.
    pub(super) fn rsa(n: Vec<u8>, e: Vec<u8>, alg: Option<Algorithm>) -> Result<Self, JwkError> {
        let members = vec![("e", encode(&e)), ("kty", "RSA".to_owned()), ("n", encode(&n))];
        // RFC 8725bis §3.4 and S-23: 2048 to 8192 bits. RFC 7518 §6.3.1: leading zeros are not allowed. Exponents
        // above 32 bits only serve to make verifying slow.
        let bits = n.len() * 8 - n.first().map_or(0, |byte| byte.leading_zeros() as usize);
        let odd = |number: &[u8]| number.last().is_some_and(|byte| byte & 1 == 1);
        if !(2048..=8192).contains(&bits) || n[0] == 0 || !odd(&n) {
            return Err(JwkError::Invalid(
                "an RSA modulus is an odd number of 2048 to 8192 bits without leading zeros",
            ));
        }
        if !(1..=4).contains(&e.len()) || e[0] == 0 || !odd(&e) || e == [1] {
            return Err(JwkError::Invalid("an RSA exponent is an odd number from 3 of at most 32 bits"));
        }
        let components = PublicKeyComponents { n, e };
        let mut verifiers = Vec::new();
        for algorithm in [Algorithm::Rs256, Algorithm::Ps256] {
            if alg.is_none_or(|alg| alg == algorithm) {
                let parameters = match algorithm {
                    Algorithm::Ps256 => &RSA_PSS_2048_8192_SHA256,
                    _ => &RSA_PKCS1_2048_8192_SHA256,
                };
                let parsed = components.to_parsed_public_key(parameters);
                verifiers.push((algorithm, parsed.map_err(|_| JwkError::Invalid("not an RSA key"))?));
            }
        }
        if verifiers.is_empty() {
            return Err(JwkError::Invalid("alg does not fit kty"));
        }
        Ok(Self::new(members, verifiers))
    }

    /// A P-256 key of 32-byte coordinates; its `kid` is its thumbprint.
    pub(super) fn p256(x: &[u8], y: &[u8]) -> Result<Self, JwkError> {
        if x.len() != 32 || y.len() != 32 {
            return Err(JwkError::Invalid("coordinates of P-256 have 32 bytes"));
        }
        let members = vec![("crv", "P-256".to_owned()), ("kty", "EC".to_owned()), ("x", encode(x)), ("y", encode(y))];
        // The library checks that the point is on the curve.
        let parsed = ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, [&[4], x, y].concat())
            .map_err(|_| JwkError::Invalid("not a point on P-256"))?;
        Ok(Self::new(members, vec![(Algorithm::Es256, parsed)]))
    }

    /// An Ed25519 key of 32 bytes; its `kid` is its thumbprint.
    pub(super) fn ed25519(x: &[u8]) -> Result<Self, JwkError> {
        let point: &[u8; 32] = x.try_into().map_err(|_| JwkError::Invalid("an Ed25519 key has 32 bytes"))?;
        if is_degenerate(point) {
            return Err(JwkError::Invalid("not a usable point of Ed25519"));
        }
        let members = vec![("crv", "Ed25519".to_owned()), ("kty", "OKP".to_owned()), ("x", encode(x))];
        let parsed =
            ParsedPublicKey::new(&ED25519, x).map_err(|_| JwkError::Invalid("not a usable point of Ed25519"))?;
        Ok(Self::new(members, vec![(Algorithm::EdDsa, parsed)]))
    }

    fn new(members: Vec<(&'static str, String)>, verifiers: Vec<(Algorithm, ParsedPublicKey)>) -> Self {
        let mut key = Self { kid: None, members, verifiers };
        key.kid = Some(key.thumbprint());
        key
    }

    /// The `kid` member; for keys of our own, the thumbprint.
    pub fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// The algorithms this key may verify: its `alg`, or what its type can do.
    pub fn algorithms(&self) -> impl Iterator<Item = Algorithm> {
        self.verifiers.iter().map(|(algorithm, _)| *algorithm)
    }

    /// `kty` and the members that make the key, by name, in lexicographic order.
    pub fn members(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.members.iter().map(|(name, value)| (*name, value.as_str()))
    }

    /// RFC 7638 §3: SHA-256 over the required members, as 43 base64url characters.
    pub fn thumbprint(&self) -> String {
        // The values are base64url or fixed words, so nothing needs escaping.
        let members: Vec<_> = self.members().map(|(name, value)| format!("\"{name}\":\"{value}\"")).collect();
        encode(&sha256(format!("{{{}}}", members.join(",")).as_bytes()))
    }

    /// The key as a DER `SubjectPublicKeyInfo` (RFC 5280 §4.1); empty if the library cannot write it.
    pub fn spki(&self) -> Vec<u8> {
        let der = self.verifiers.first().and_then(|(_, key)| key.as_der().ok());
        der.map(|der| der.as_ref().to_vec()).unwrap_or_default()
    }

    /// The key as PEM, `PUBLIC KEY` (RFC 7468 §13).
    pub fn pem(&self) -> String {
        let text = STANDARD.encode(self.spki());
        let lines: Vec<&str> = (0..text.len()).step_by(64).map(|at| &text[at..text.len().min(at + 64)]).collect();
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"))
    }

    /// Checks `signature` over `message` with `algorithm`, which the caller has already decided to allow.
    ///
    /// # Errors
    /// [`VerifyError::UnknownKey`] when this key is not for `algorithm`, [`VerifyError::Signature`].
    pub fn verify(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> Result<(), VerifyError> {
        let verifier = self.verifiers.iter().find(|(own, _)| *own == algorithm).ok_or(VerifyError::UnknownKey)?;
        verifier.1.verify_sig(message, signature).map_err(|_| VerifyError::Signature)
    }
}

/// The keys of one party.
#[derive(Clone, Debug, Default)]
pub struct JwkSet {
    /// Keys that can verify.
    pub keys: Vec<PublicJwk>,
    /// Why the others were passed over.
    pub skipped: Vec<JwkError>,
}

impl JwkSet {
    /// The most keys that one set may hold.
    pub const MAX_KEYS: usize = 100;
    /// The most keys that are tried for one token.
    const MAX_TRIES: usize = 8;

    /// Reads a JWK Set (RFC 7517 §5). Keys that are not for us, or bad, are passed over and listed in `skipped`.
    ///
    /// # Errors
    /// [`JwkError::Json`], [`JwkError::Set`]; [`JwkError::Private`] when any key shows a secret.
    pub fn parse(text: &[u8]) -> Result<Self, JwkError> {
        #[derive(Deserialize)]
        struct RawSet {
            keys: Vec<serde_json::Map<String, serde_json::Value>>,
        }
        let set: RawSet = json::object(text).map_err(|_| JwkError::Json)?;
        if set.keys.len() > Self::MAX_KEYS {
            return Err(JwkError::Set);
        }
        let mut parsed = Self::default();
        for key in set.keys {
            let raw = serde_json::from_value(serde_json::Value::Object(key)).map_err(|_| JwkError::Json);
            match raw.and_then(PublicJwk::from_raw) {
                Ok(key) => parsed.keys.push(key),
                Err(JwkError::Private) => return Err(JwkError::Private),
                Err(why) => parsed.skipped.push(why),
            }
        }
        Ok(parsed)
    }

    /// Finds the key that signed `jws`, with one of the algorithms `allowed`. Tries the keys of the token's `kid`
    /// (twins too), then those without one; all keys, when the token names none; never more than 8.
    ///
    /// # Errors
    /// See [`VerifyError`]; [`VerifyError::UnknownKey`] is the reason to fetch the set again.
    pub fn verify(&self, jws: &Jws<'_>, allowed: &[Algorithm]) -> Result<&PublicJwk, VerifyError> {
        let algorithm = jws.header.algorithm().filter(|alg| allowed.contains(alg)).ok_or(VerifyError::Algorithm)?;
        let wanted = jws.header.kid.as_deref();
        let named = self.keys.iter().filter(|key| wanted.is_some() && key.kid() == wanted);
        let unnamed = self.keys.iter().filter(|key| wanted.is_none() || key.kid().is_none());
        let fitting = named.chain(unnamed).filter(|key| key.algorithms().any(|own| own == algorithm));
        let mut result = Err(VerifyError::UnknownKey);
        for key in fitting.take(Self::MAX_TRIES) {
            result = key.verify(algorithm, jws.signing_input.as_bytes(), &jws.signature).map(|()| key);
            if result.is_ok() {
                break;
            }
        }
        result
    }
}

/// Whether these 32 bytes encode an Ed25519 point under which signatures prove nothing (RFC 8032 §5.1.3): of small
/// order, where one signature fits many messages, or with y not reduced modulo p, a second spelling of another key.
fn is_degenerate(point: &[u8; 32]) -> bool {
    let mut y = *point;
    y[31] &= 0x7f; // the top bit is x's sign
    y.reverse();
    let mut p = [0xff; 32]; // 2^255 - 19, big-endian
    (p[0], p[31]) = (0x7f, 0xed);
    let mut p_minus_1 = p;
    p_minus_1[31] = 0xec;
    let mut one = [0; 32];
    one[31] = 1;
    // y of the points of order 4 (0), 1 (1), 2 (p - 1) and 8.
    let small = [[0; 32], one, p_minus_1, ORDER_8[0], ORDER_8[1]];
    y >= p || small.contains(&y)
}

/// The two y coordinates of the points of order 8, big-endian; they sum to p.
const ORDER_8: [[u8; 32]; 2] = [
    [
        0x05, 0xfc, 0x53, 0x6d, 0x88, 0x02, 0x38, 0xb1, 0x39, 0x33, 0xc6, 0xd3, 0x05, 0xac, 0xdf, 0xd5, 0xf0, 0x98,
        0xef, 0xf2, 0x89, 0xf4, 0xc3, 0x45, 0xb0, 0x27, 0xb2, 0xc2, 0x8f, 0x95, 0xe8, 0x26,
    ],
    [
        0x7a, 0x03, 0xac, 0x92, 0x77, 0xfd, 0xc7, 0x4e, 0xc6, 0xcc, 0x39, 0x2c, 0xfa, 0x53, 0x20, 0x2a, 0x0f, 0x67,
        0x10, 0x0d, 0x76, 0x0b, 0x3c, 0xba, 0x4f, 0xd8, 0x4d, 0x3d, 0x70, 0x6a, 0x17, 0xc7,
    ],
];

fn decode(value: &str) -> Result<Vec<u8>, JwkError> {
    URL_SAFE_NO_PAD.decode(value).map_err(|_| JwkError::Invalid("a member is not base64url"))
}

fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::KeyPair;
    use crate::keys::vectors::{ED25519_JWK, P256_JWK, RSA_JWK};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn with(key: &str, changes: &Value) -> String {
        let mut key: Value = serde_json::from_str(key).unwrap();
        for (name, value) in changes.as_object().unwrap() {
            key[name] = value.clone();
        }
        key.to_string()
    }

    fn error(key: &str, changes: &Value) -> JwkError {
        PublicJwk::parse(with(key, changes).as_bytes()).unwrap_err()
    }

    #[test]
    fn s20_a_key_serves_one_algorithm_unless_it_names_none() {
        let algorithms = |key: &str| PublicJwk::parse(key.as_bytes()).unwrap().algorithms().collect::<Vec<_>>();
        assert_eq!(algorithms(RSA_JWK), [Algorithm::Rs256, Algorithm::Ps256]);
        assert_eq!(algorithms(&with(RSA_JWK, &json!({"alg": "PS256"}))), [Algorithm::Ps256]);
        assert_eq!(algorithms(P256_JWK), [Algorithm::Es256]);
        for alg in ["EdDSA", "Ed25519"] {
            assert_eq!(algorithms(&with(ED25519_JWK, &json!({"alg": alg}))), [Algorithm::EdDsa]);
        }
        for (key, alg) in [(RSA_JWK, "ES256"), (P256_JWK, "RS256"), (ED25519_JWK, "ES256"), (RSA_JWK, "EdDSA")] {
            assert_eq!(error(key, &json!({"alg": alg})), JwkError::Invalid("alg does not fit kty"));
        }
    }

    #[test]
    fn secrets_among_public_keys_are_refused() {
        for member in ["d", "p", "q", "dp", "dq", "qi", "oth", "k"] {
            for key in [RSA_JWK, P256_JWK, ED25519_JWK] {
                assert_eq!(error(key, &json!({member: "AQAB"})), JwkError::Private, "{member}");
                assert_eq!(error(key, &json!({member: null})), JwkError::Private, "{member}");
            }
        }
        assert_eq!(PublicJwk::parse(br#"{"kty":"oct","k":"AAAA"}"#).unwrap_err(), JwkError::Private);
        let set = format!(r#"{{"keys":[{RSA_JWK},{{"kty":"oct","k":"AAAA"}}]}}"#);
        assert_eq!(JwkSet::parse(set.as_bytes()).unwrap_err(), JwkError::Private);
    }

    #[test]
    fn keys_for_other_purposes_are_refused() {
        for changes in [
            json!({"use": "enc"}),
            json!({"key_ops": ["sign"]}),
            json!({"key_ops": []}),
            json!({"alg": "RSA-OAEP"}),
            json!({"alg": "HS256"}),
            json!({"alg": "none"}),
            json!({"kty": "AKP"}),
        ] {
            assert!(matches!(error(RSA_JWK, &changes), JwkError::Unsupported(_)), "{changes}");
        }
        assert!(matches!(error(P256_JWK, &json!({"crv": "P-384"})), JwkError::Unsupported(_)));
        assert!(matches!(error(ED25519_JWK, &json!({"crv": "X25519"})), JwkError::Unsupported(_)));
        assert!(PublicJwk::parse(with(RSA_JWK, &json!({"key_ops": ["verify"], "use": "sig"})).as_bytes()).is_ok());
        for changes in [json!({"use": null}), json!({"kid": 1}), json!({"alg": null}), json!({"key_ops": "verify"})] {
            assert_eq!(error(RSA_JWK, &changes), JwkError::Json, "{changes}");
        }
        let twice = RSA_JWK.replacen('{', r#"{"e":"AQAB","#, 1);
        assert_eq!(PublicJwk::parse(twice.as_bytes()).unwrap_err(), JwkError::Json);
        let unknown_twice = RSA_JWK.replacen('{', r#"{"z":1,"z":2,"#, 1);
        assert_eq!(PublicJwk::parse(unknown_twice.as_bytes()).unwrap_err(), JwkError::Json);
    }

    /// T-70, S-23: key sizes, points off their curve, points of small order.
    #[test]
    fn t70_weak_and_impossible_keys_are_refused() {
        let n = |bits: usize| {
            let mut n = vec![0xff; bits.div_ceil(8)];
            n[0] >>= (8 - bits % 8) % 8;
            encode(&n)
        };
        for bits in [1024, 2047, 8193, 16384] {
            assert!(matches!(error(RSA_JWK, &json!({"n": n(bits)})), JwkError::Invalid(_)), "{bits}");
        }
        for bits in [2048, 3072, 8192] {
            assert!(PublicJwk::parse(with(RSA_JWK, &json!({"n": n(bits)})).as_bytes()).is_ok(), "{bits}");
        }
        let zero_first = [&[0][..], &[0xff; 256]].concat();
        let even = [&[0xff; 255][..], &[0xfe]].concat();
        for n in [zero_first, even] {
            assert!(matches!(error(RSA_JWK, &json!({"n": encode(&n)})), JwkError::Invalid(_)));
        }
        for e in ["", "AA", "AQ", "Ag", "AAEAAQ", "AQAAAAE", "AQAB=", "AQA+"] {
            assert!(matches!(error(RSA_JWK, &json!({"e": e})), JwkError::Invalid(_)), "{e}");
        }
        for changes in [
            json!({"x": encode(&[1; 32])}),
            json!({"x": encode(&[1; 31])}),
            json!({"y": encode(&[0; 33])}),
            json!({"x": encode(&[0; 32]), "y": encode(&[0; 32])}),
            json!({"x": encode(&[0xff; 32])}),
            json!({"y": ""}),
        ] {
            assert!(matches!(error(P256_JWK, &changes), JwkError::Invalid(_)), "{changes}");
        }
        let mut small: Vec<[u8; 32]> = vec![[0; 32], [0xff; 32]];
        for (first, last) in [(1, 0), (0xec, 0x7f), (0xed, 0x7f), (0xee, 0x7f)] {
            let mut point = [if first == 1 { 0 } else { 0xff }; 32];
            (point[0], point[31]) = (first, last);
            small.push(point);
        }
        small.extend(ORDER_8.map(|mut y| {
            y.reverse();
            y
        }));
        for mut point in small {
            assert!(matches!(error(ED25519_JWK, &json!({"x": encode(&point)})), JwkError::Invalid(_)), "{point:?}");
            point[31] |= 0x80;
            assert!(matches!(error(ED25519_JWK, &json!({"x": encode(&point)})), JwkError::Invalid(_)), "{point:?}");
        }
        assert!(matches!(error(ED25519_JWK, &json!({"x": encode(&[9; 31])})), JwkError::Invalid(_)));
    }

    #[test]
    fn rfc7517_5_a_set_passes_over_what_it_does_not_know() {
        let set = format!(r#"{{"keys":[{{"kty":"AKP","pub":"x"}},{RSA_JWK},{{"kid":1}},{{}}],"more":1}}"#);
        let set = JwkSet::parse(set.as_bytes()).unwrap();
        assert_eq!((set.keys.len(), set.skipped.len()), (1, 3));
        for bad in ["{}", "[]", r#"{"keys":{}}"#, r#"{"keys":[1]}"#, r#"{"keys":[[]]}"#, r#"{"keys":[],"keys":[]}"#] {
            assert_eq!(JwkSet::parse(bad.as_bytes()).unwrap_err(), JwkError::Json, "{bad}");
        }
        let many = |count: usize| format!(r#"{{"keys":[{}]}}"#, vec!["{}"; count].join(","));
        assert!(JwkSet::parse(many(100).as_bytes()).is_ok());
        assert_eq!(JwkSet::parse(many(101).as_bytes()).unwrap_err(), JwkError::Set);
        // T-83: a huge document of keys is refused before any key is looked at.
        assert_eq!(JwkSet::parse(many(100_000).as_bytes()).unwrap_err(), JwkError::Set);
    }

    fn signed(pair: &KeyPair, header: &Value) -> String {
        let input = format!("{}.{}", encode(header.to_string().as_bytes()), encode(b"{}"));
        format!("{input}.{}", encode(&pair.sign(input.as_bytes()).unwrap()))
    }

    #[test]
    fn a_set_finds_the_key_by_kid_and_algorithm_and_tries_twins() {
        let pairs: Vec<_> = (0..3).map(|_| KeyPair::generate(Algorithm::EdDsa, 0).unwrap().0).collect();
        let keys: Vec<_> = pairs
            .iter()
            .zip([Some("twin"), Some("twin"), None])
            .map(|(pair, kid)| PublicJwk { kid: kid.map(str::to_owned), ..pair.public_jwk().clone() })
            .collect();
        let set = JwkSet { keys, skipped: Vec::new() };
        let check = |pair: &KeyPair, header: Value, allowed: &[Algorithm]| {
            let token = signed(pair, &header);
            set.verify(&Jws::parse(&token, 4096).unwrap(), allowed).map(PublicJwk::thumbprint)
        };
        let every = Algorithm::ALL;
        for pair in &pairs[..2] {
            let own = Ok(pair.public_jwk().thumbprint());
            assert_eq!(check(pair, json!({"alg": "EdDSA", "kid": "twin"}), every), own);
            assert_eq!(check(pair, json!({"alg": "Ed25519", "kid": "twin"}), every), own);
            assert_eq!(check(pair, json!({"alg": "EdDSA"}), every), own);
            assert_eq!(check(pair, json!({"alg": "EdDSA", "kid": "other"}), every), Err(VerifyError::Signature));
        }
        assert!(check(&pairs[2], json!({"alg": "EdDSA", "kid": "any"}), every).is_ok());
        // Many keys without a name do not push the named one out; the tries are bounded all the same.
        let unnamed = PublicJwk { kid: None, ..pairs[2].public_jwk().clone() };
        let mut crowd = JwkSet { keys: vec![unnamed; 20], skipped: Vec::new() };
        crowd.keys.push(pairs[0].public_jwk().clone());
        let kid = pairs[0].public_jwk().thumbprint();
        let (named, anonymous) = (json!({"alg": "EdDSA", "kid": kid}), json!({"alg": "EdDSA"}));
        let crowd = |header: &Value| {
            crowd.verify(&Jws::parse(&signed(&pairs[0], header), 4096).unwrap(), every).map(PublicJwk::thumbprint)
        };
        assert_eq!((crowd(&named), crowd(&anonymous)), (Ok(kid), Err(VerifyError::Signature)));
        let stranger = KeyPair::generate(Algorithm::EdDsa, 0).unwrap().0;
        assert_eq!(check(&stranger, json!({"alg": "EdDSA", "kid": "twin"}), every), Err(VerifyError::Signature));
        assert_eq!(check(&pairs[0], json!({"alg": "ES256", "kid": "twin"}), every), Err(VerifyError::UnknownKey));
        // T-61: the caller's list decides, not the header.
        for alg in ["EdDSA", "none", "HS256"] {
            assert_eq!(check(&pairs[0], json!({"alg": alg}), &[Algorithm::Rs256]), Err(VerifyError::Algorithm));
        }
    }

    proptest! {
        #[test]
        fn reading_keys_never_panics(text in ".{0,120}", x in "[A-Za-z0-9_-]{0,60}", n in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = PublicJwk::parse(text.as_bytes());
            let _ = JwkSet::parse(text.as_bytes());
            for key in [P256_JWK, ED25519_JWK] {
                let _ = PublicJwk::parse(with(key, &json!({"x": x})).as_bytes());
            }
            let _ = PublicJwk::parse(with(RSA_JWK, &json!({"n": encode(&n), "e": x})).as_bytes());
        }
    }
}
