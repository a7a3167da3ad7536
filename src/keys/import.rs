//! Private keys that were made elsewhere: read from a JWK (RFC 7517, RFC 7518 §6, RFC 8037 §2) or PEM (RFC 7468),
//! checked, and brought to the PKCS#8 that we keep.

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeyPairComponents, PublicKeyComponents};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use serde::Deserialize;
use serde::de::IgnoredAny;
use zeroize::Zeroizing;

use super::json;
use super::pair::KeyPair;
use crate::wire::Algorithm;

/// A private key from elsewhere that may sign for us.
pub struct Imported {
    /// The key.
    pub pair: KeyPair,
    /// The same as PKCS#8, to be sealed.
    pub pkcs8: Zeroizing<Vec<u8>>,
    /// The name of its algorithm that it, or whoever imports it, asked for.
    pub alg_name: Option<String>,
}

/// Why a text is not a private key that may sign for us. Carries nothing of the key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImportError {
    /// Neither a JWK nor PEM.
    #[error(
        "neither a private JWK nor PEM with one private key (PRIVATE KEY, RSA PRIVATE KEY or EC PRIVATE KEY; an \
         encrypted one must be decrypted first)"
    )]
    Malformed,
    /// More than one key: which one is meant?
    #[error("there are several private keys; give one")]
    Several,
    /// A key of another kind than those that we sign with.
    #[error("the key is not one that signs here: {0}")]
    Unsupported(&'static str),
    /// A key of a right kind, but a bad one.
    #[error("the key is not usable: {0}")]
    Invalid(&'static str),
    /// The key, its `alg` and the algorithm that was asked for do not agree.
    #[error("the key is for {own}, not for {wanted}")]
    Algorithm {
        /// What it can or may do.
        own: String,
        /// What was asked for.
        wanted: String,
    },
}

/// A private key as the library holds it.
enum Key {
    Rsa(RsaKeyPair),
    Ed25519(Ed25519KeyPair),
    P256(EcdsaKeyPair),
}

/// Reads a private key. `wanted` is the name of the algorithm that it shall sign with; without it, a JWK's own `alg`
/// counts, and an RSA key that names none is for RS256.
///
/// # Errors
/// See [`ImportError`].
pub fn private_key(text: &[u8], wanted: Option<&str>) -> Result<Imported, ImportError> {
    let (key, own) =
        if text.trim_ascii_start().first() == Some(&b'{') { from_jwk(text)? } else { (from_pem(text)?, None) };
    if let (Some(wanted), Some(own)) = (wanted, &own)
        && Algorithm::named(wanted) != Algorithm::named(own)
    {
        return Err(ImportError::Algorithm { own: own.clone(), wanted: wanted.to_owned() });
    }
    let alg_name = wanted.map(ToOwned::to_owned).or(own);
    let (algorithms, other): (&[Algorithm], _) = match key {
        Key::Rsa(_) => (&[Algorithm::Rs256, Algorithm::Ps256], "RS256 or PS256"),
        Key::Ed25519(_) => (&[Algorithm::EdDsa], "EdDSA"),
        Key::P256(_) => (&[Algorithm::Es256], "ES256"),
    };
    let algorithm = match &alg_name {
        None => algorithms[0],
        Some(name) => Algorithm::named(name)
            .filter(|named| algorithms.contains(named))
            .ok_or_else(|| ImportError::Algorithm { own: other.to_owned(), wanted: name.clone() })?,
    };
    let pkcs8 = key.pkcs8().ok_or(ImportError::Invalid("the library cannot write it"))?;
    let pair = KeyPair::from_pkcs8(algorithm, &pkcs8)
        .map_err(|_| ImportError::Invalid("an RSA signing key has 2048, 3072 or 4096 bits"))?;
    if let Key::Rsa(_) = key {
        strong_rsa(&pair)?;
    }
    // Whatever the parsers believed of it: what it signs must verify.
    let probe = b"sealwright import";
    let signed = pair.sign(probe).ok().filter(|signed| pair.public_jwk().verify(algorithm, probe, signed).is_ok());
    signed.ok_or(ImportError::Invalid("its private and public halves do not belong together"))?;
    Ok(Imported { pair, pkcs8, alg_name })
}

impl Key {
    /// As [`KeyPair::generate`] writes it.
    fn pkcs8(&self) -> Option<Zeroizing<Vec<u8>>> {
        let bytes = match self {
            Self::Rsa(pair) => pair.as_der().ok()?.as_ref().to_vec(),
            Self::Ed25519(pair) => pair.to_pkcs8v1().ok()?.as_ref().to_vec(),
            Self::P256(pair) => pair.to_pkcs8v1().ok()?.as_ref().to_vec(),
        };
        Some(Zeroizing::new(bytes))
    }
}

/// RFC 8725bis §3.4: exactly 2048, 3072 or 4096 bits; and an exponent from 65537 on, below which padding mistakes of
/// verifiers have been enough to forge a signature.
fn strong_rsa(pair: &KeyPair) -> Result<(), ImportError> {
    let number = |wanted: &str| {
        let member = pair.public_jwk().members().find(|(name, _)| *name == wanted);
        member.and_then(|(_, value)| URL_SAFE_NO_PAD.decode(value).ok()).unwrap_or_default()
    };
    let (n, e) = (number("n"), number("e"));
    let bits = n.len() * 8 - n.first().map_or(0, |byte| byte.leading_zeros() as usize);
    if !matches!(bits, 2048 | 3072 | 4096) {
        return Err(ImportError::Invalid("an RSA signing key has 2048, 3072 or 4096 bits"));
    }
    let exponent = e.iter().try_fold(0_u64, |sum, byte| Some(sum.checked_mul(256)? + u64::from(*byte)));
    if exponent.is_none_or(|exponent| exponent < 65_537) {
        return Err(ImportError::Invalid("its RSA exponent is below 65537"));
    }
    Ok(())
}

fn from_pem(text: &[u8]) -> Result<Key, ImportError> {
    let mut keys = PrivateKeyDer::pem_slice_iter(text);
    let first = keys.next().and_then(Result::ok).map(Zeroizing::new).ok_or(ImportError::Malformed)?;
    if keys.next().is_some() {
        return Err(ImportError::Several);
    }
    let p256 = &ECDSA_P256_SHA256_FIXED_SIGNING;
    match &*first {
        PrivateKeyDer::Pkcs1(der) => {
            let bad = ImportError::Invalid("not an RSA private key of two primes, 2048 to 4096 bits");
            RsaKeyPair::from_der(der.secret_pkcs1_der()).map(Key::Rsa).map_err(|_| bad)
        }
        PrivateKeyDer::Sec1(der) => {
            let other = ImportError::Unsupported("its curve is not P-256");
            EcdsaKeyPair::from_private_key_der(p256, der.secret_sec1_der()).map(Key::P256).map_err(|_| other)
        }
        PrivateKeyDer::Pkcs8(der) => {
            let der = der.secret_pkcs8_der();
            let ed25519 = || Ed25519KeyPair::from_pkcs8(der).map(Key::Ed25519);
            let ec = || EcdsaKeyPair::from_pkcs8(p256, der).map(Key::P256);
            let found = RsaKeyPair::from_pkcs8(der).map(Key::Rsa).or_else(|_| ed25519()).or_else(|_| ec());
            found.map_err(|_| ImportError::Unsupported("neither RSA of 2048 to 4096 bits, nor Ed25519, nor P-256"))
        }
        _ => Err(ImportError::Malformed),
    }
}

/// What we read of a private JWK. Texts are borrowed, so that no copy of a secret is left behind.
#[derive(Deserialize)]
struct PrivateJwk<'a> {
    kty: &'a str,
    #[serde(default, rename = "use", deserialize_with = "json::present")]
    purpose: Option<&'a str>,
    #[serde(default, borrow, deserialize_with = "json::present")]
    key_ops: Option<Vec<&'a str>>,
    #[serde(default, deserialize_with = "json::present")]
    alg: Option<&'a str>,
    #[serde(default)]
    crv: &'a str,
    #[serde(default)]
    n: &'a str,
    #[serde(default)]
    e: &'a str,
    #[serde(default)]
    x: &'a str,
    #[serde(default)]
    y: &'a str,
    #[serde(default)]
    d: &'a str,
    #[serde(default)]
    p: &'a str,
    #[serde(default)]
    q: &'a str,
    #[serde(default)]
    dp: &'a str,
    #[serde(default)]
    dq: &'a str,
    #[serde(default)]
    qi: &'a str,
    #[serde(default, deserialize_with = "json::present")]
    oth: Option<IgnoredAny>,
}

fn from_jwk(text: &[u8]) -> Result<(Key, Option<String>), ImportError> {
    let jwk: PrivateJwk<'_> = json::object(text).map_err(|_| ImportError::Malformed)?;
    if jwk.purpose.is_some_and(|purpose| purpose != "sig") {
        return Err(ImportError::Unsupported("its use is not sig"));
    }
    // RFC 7517 §4.3: operations of different purposes do not go together.
    let signs = |operations: &Vec<&str>| {
        operations.contains(&"sign") && operations.iter().all(|operation| ["sign", "verify"].contains(operation))
    };
    if jwk.key_ops.as_ref().is_some_and(|operations| !signs(operations)) {
        return Err(ImportError::Unsupported("its key_ops are not sign, or sign and verify"));
    }
    let key = match (jwk.kty, jwk.crv) {
        ("RSA", _) => rsa(&jwk),
        ("EC", "P-256") => {
            let point = [&[4][..], &decode(jwk.x)?, &decode(jwk.y)?].concat();
            let pair = EcdsaKeyPair::from_private_key_and_public_key(
                &ECDSA_P256_SHA256_FIXED_SIGNING,
                &sized(decode(jwk.d)?)?,
                &point,
            );
            pair.map(Key::P256).map_err(|_| ImportError::Invalid("x, y and d are not one key of P-256"))
        }
        ("OKP", "Ed25519") => {
            let pair = Ed25519KeyPair::from_seed_and_public_key(&sized(decode(jwk.d)?)?, &decode(jwk.x)?);
            pair.map(Key::Ed25519).map_err(|_| ImportError::Invalid("x and d are not one key of Ed25519"))
        }
        ("EC" | "OKP", _) => Err(ImportError::Unsupported("its crv is not P-256 or Ed25519")),
        _ => Err(ImportError::Unsupported("its kty is not RSA, EC or OKP")),
    }?;
    Ok((key, jwk.alg.map(ToOwned::to_owned)))
}

fn rsa(jwk: &PrivateJwk<'_>) -> Result<Key, ImportError> {
    if jwk.oth.is_some() {
        return Err(ImportError::Unsupported("it has more than two primes"));
    }
    if [jwk.d, jwk.p, jwk.q, jwk.dp, jwk.dq, jwk.qi].contains(&"") {
        return Err(ImportError::Invalid("a private RSA key has d, p, q, dp, dq and qi (RFC 7518 §6.3.2)"));
    }
    let components = KeyPairComponents {
        public_key: PublicKeyComponents { n: decode(jwk.n)?, e: decode(jwk.e)? },
        d: decode(jwk.d)?,
        p: decode(jwk.p)?,
        q: decode(jwk.q)?,
        dP: decode(jwk.dp)?,
        dQ: decode(jwk.dq)?,
        qInv: decode(jwk.qi)?,
    };
    let bad = ImportError::Invalid("its members are not one RSA key of 2048 to 4096 bits");
    RsaKeyPair::from_components(&components).map(Key::Rsa).map_err(|_| bad)
}

fn decode(value: &str) -> Result<Zeroizing<Vec<u8>>, ImportError> {
    let decoded = URL_SAFE_NO_PAD.decode(value).map(Zeroizing::new);
    decoded.map_err(|_| ImportError::Invalid("a member is not base64url"))
}

/// RFC 7518 §6.2.2.1, RFC 8037 §2: 32 bytes. The library would take the first 32 of more.
fn sized(d: Zeroizing<Vec<u8>>) -> Result<Zeroizing<Vec<u8>>, ImportError> {
    if d.len() == 32 { Ok(d) } else { Err(ImportError::Invalid("d has not 32 bytes; is it a private key?")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    /// A private JWK of each kind, made by another library.
    fn jwk(algorithm: Algorithm) -> Value {
        use josekit::jwk::Jwk;
        use josekit::jwk::alg::{ec::EcCurve, ed::EdCurve};
        let jwk = match algorithm {
            Algorithm::Rs256 | Algorithm::Ps256 => Jwk::generate_rsa_key(2048),
            Algorithm::Es256 => Jwk::generate_ec_key(EcCurve::P256),
            Algorithm::EdDsa => Jwk::generate_ed_key(EdCurve::Ed25519),
        };
        serde_json::to_value(jwk.unwrap()).unwrap()
    }

    fn read(jwk: &Value, wanted: Option<&str>) -> Result<Imported, ImportError> {
        private_key(jwk.to_string().as_bytes(), wanted)
    }

    #[test]
    fn a_jwk_of_each_algorithm_signs_for_its_own_public_half() {
        for &algorithm in Algorithm::ALL {
            let jwk = jwk(algorithm);
            let imported = read(&jwk, Some(algorithm.as_str())).unwrap();
            assert_eq!(imported.pair.algorithm(), algorithm);
            for (name, value) in imported.pair.public_jwk().members().filter(|(name, _)| *name != "kty") {
                assert_eq!(jwk[name], value, "{algorithm}: {name}");
            }
            assert!(KeyPair::from_pkcs8(algorithm, &imported.pkcs8).is_ok());
            // Another key's private half.
            let mut mixed = jwk.clone();
            mixed["d"] = self::jwk(algorithm)["d"].clone();
            assert!(matches!(read(&mixed, None), Err(ImportError::Invalid(_))), "{algorithm}");
            let mut public = jwk.clone();
            public.as_object_mut().unwrap().remove("d");
            assert!(matches!(read(&public, None), Err(ImportError::Invalid(_))), "{algorithm}");
        }
    }

    #[test]
    fn t70_alg_use_and_key_ops_of_a_jwk_must_agree() {
        let (rsa, ed) = (jwk(Algorithm::Rs256), jwk(Algorithm::EdDsa));
        let with = |jwk: &Value, name: &str, value: Value| {
            let mut jwk = jwk.clone();
            jwk[name] = value;
            jwk
        };
        assert_eq!(read(&rsa, None).unwrap().pair.algorithm(), Algorithm::Rs256);
        assert_eq!(read(&with(&rsa, "alg", json!("PS256")), None).unwrap().pair.algorithm(), Algorithm::Ps256);
        assert_eq!(read(&with(&ed, "alg", json!("Ed25519")), None).unwrap().alg_name.as_deref(), Some("Ed25519"));
        assert!(read(&with(&ed, "alg", json!("Ed25519")), Some("EdDSA")).is_ok(), "two names of one algorithm");
        for (jwk, wanted) in [
            (with(&rsa, "alg", json!("PS256")), Some("RS256")),
            (with(&rsa, "alg", json!("EdDSA")), None),
            (with(&rsa, "alg", json!("RSA-OAEP")), None),
            (with(&rsa, "alg", json!("HS256")), None),
            (rsa.clone(), Some("ES256")),
            (ed.clone(), Some("RS256")),
            (ed.clone(), Some("none")),
        ] {
            assert!(matches!(read(&jwk, wanted), Err(ImportError::Algorithm { .. })), "{wanted:?}");
        }
        for good in [json!(["sign"]), json!(["verify", "sign"])] {
            assert!(read(&with(&ed, "key_ops", good), None).is_ok());
        }
        for (name, value) in [
            ("use", json!("enc")),
            ("key_ops", json!(["verify"])),
            ("key_ops", json!([])),
            ("key_ops", json!(["sign", "deriveKey"])),
            ("kty", json!("oct")),
            ("crv", json!("X25519")),
        ] {
            assert!(matches!(read(&with(&ed, name, value), None), Err(ImportError::Unsupported(_))), "{name}");
        }
        for value in [Value::Null, json!(1)] {
            assert_eq!(read(&with(&ed, "use", value), None).err(), Some(ImportError::Malformed));
        }
        let twice = ed.to_string().replacen('{', "{\"kty\":\"OKP\",", 1);
        assert_eq!(private_key(twice.as_bytes(), None).err(), Some(ImportError::Malformed));
    }

    #[test]
    fn s23_a_private_half_has_the_length_of_its_kind() {
        let mut ed = jwk(Algorithm::EdDsa);
        for wrong in [ed["x"].clone(), json!("A".repeat(86)), json!(""), json!("A")] {
            ed["d"] = wrong;
            assert!(matches!(read(&ed, None), Err(ImportError::Invalid(_))));
        }
    }

    proptest! {
        #[test]
        fn reading_never_panics(text in "\\PC{0,80}", bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            for text in [text.as_bytes(), &bytes] {
                prop_assert!(private_key(text, None).is_err());
                let pem = format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", URL_SAFE_NO_PAD.encode(text));
                prop_assert!(private_key(pem.as_bytes(), None).is_err());
            }
        }
    }
}
