//! Test vectors of the RFCs, and josekit (OpenSSL) as an independent oracle.

use std::sync::Arc;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use josekit::jwk::Jwk;
use josekit::jws::{self, ES256, EdDSA, JwsHeader, JwsSigner, JwsVerifier, PS256, RS256};
use serde_json::{Value, json};

use super::*;
use crate::store::signing_keys::Times;
use crate::wire::Algorithm;

/// RFC 7515 §A.2.1, the public half.
pub(super) const RSA_JWK: &str = r#"{"kty":"RSA","n":"ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ","e":"AQAB"}"#;
/// RFC 7515 §A.3.1, the public half.
pub(super) const P256_JWK: &str = r#"{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#;
/// RFC 8037 §A.2.
pub(super) const ED25519_JWK: &str =
    r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;

const CLAIMS: &str = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
const RS256_SIGNATURE: &str = "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";
const ES256_SIGNATURE: &str = "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
const ED25519_INPUT: &str = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc";
const ED25519_SIGNATURE: &str =
    "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";

fn verify(key: &str, token: &str) -> Result<(), VerifyError> {
    let set = JwkSet::parse(format!(r#"{{"keys":[{key}]}}"#).as_bytes()).unwrap();
    set.verify(&Jws::parse(token, 8192).unwrap(), Algorithm::ALL).map(|_| ())
}

#[test]
fn rfc7515_a2_a3_and_rfc8037_a4_verify() {
    let tokens = [
        (RSA_JWK, format!("eyJhbGciOiJSUzI1NiJ9.{CLAIMS}.{RS256_SIGNATURE}")),
        (P256_JWK, format!("eyJhbGciOiJFUzI1NiJ9.{CLAIMS}.{ES256_SIGNATURE}")),
        (ED25519_JWK, format!("{ED25519_INPUT}.{ED25519_SIGNATURE}")),
    ];
    for (key, token) in &tokens {
        assert_eq!(verify(key, token), Ok(()));
        // One flipped bit of the signature, in a place where it stays canonical base64url.
        let at = token.len() - 5;
        let letter = if token.as_bytes()[at] == b'A' { "B" } else { "A" };
        let changed = format!("{}{letter}{}", &token[..at], &token[at + 1..]);
        assert_eq!(verify(key, &changed), Err(VerifyError::Signature));
        for (other, _) in tokens.iter().filter(|(other, _)| other != key) {
            assert_eq!(verify(other, token), Err(VerifyError::UnknownKey));
        }
    }
}

#[test]
fn rfc8037_a4_is_signed_to_the_byte() {
    // RFC 8410 §7: the fixed beginning of an Ed25519 PKCS#8 key, then the seed (RFC 8037 §A.1).
    let mut pkcs8 = STANDARD.decode("MC4CAQAwBQYDK2VwBCIEIA==").unwrap();
    pkcs8.extend(URL_SAFE_NO_PAD.decode("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A").unwrap());
    let pair = KeyPair::from_pkcs8(Algorithm::EdDsa, &pkcs8).unwrap();
    assert_eq!(URL_SAFE_NO_PAD.encode(pair.sign(ED25519_INPUT.as_bytes()).unwrap()), ED25519_SIGNATURE);
    // RFC 8037 §A.3.
    assert_eq!(pair.public_jwk().thumbprint(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
}

#[test]
fn rfc7638_3_1_thumbprint() {
    let key = json!({
        "kty": "RSA",
        "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw",
        "e": "AQAB",
        "alg": "RS256",
        "kid": "2011-04-29",
    });
    let key = PublicJwk::parse(key.to_string().as_bytes()).unwrap();
    assert_eq!(key.thumbprint(), "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
    assert_eq!(key.kid(), Some("2011-04-29"));
}

fn ring(algorithm: Algorithm) -> KeyRing {
    let (pair, _) = KeyPair::generate(algorithm, 2048).unwrap();
    let (public, kid) = (pair.public_jwk().clone(), pair.public_jwk().thumbprint());
    let alg_name = algorithm.as_str().to_owned();
    let signer = Signer::new(&kid, &alg_name, pair, SigningQueue::of_this_machine()).unwrap();
    let (state, signer) = (KeyState::Active, Some(Arc::new(signer)));
    KeyRing::new(vec![KeyEntry {
        kid,
        algorithm,
        alg_name,
        state,
        created_at: 0,
        times: Times::default(),
        public,
        signer,
    }])
}

fn oracle_verifier(algorithm: Algorithm, key: &Jwk) -> Box<dyn JwsVerifier> {
    match algorithm {
        Algorithm::Rs256 => Box::new(RS256.verifier_from_jwk(key).unwrap()),
        Algorithm::Ps256 => Box::new(PS256.verifier_from_jwk(key).unwrap()),
        Algorithm::Es256 => Box::new(ES256.verifier_from_jwk(key).unwrap()),
        Algorithm::EdDsa => Box::new(EdDSA.verifier_from_jwk(key).unwrap()),
    }
}

fn oracle_signer(algorithm: Algorithm, key: &Jwk) -> Box<dyn JwsSigner> {
    match algorithm {
        Algorithm::Rs256 => Box::new(RS256.signer_from_jwk(key).unwrap()),
        Algorithm::Ps256 => Box::new(PS256.signer_from_jwk(key).unwrap()),
        Algorithm::Es256 => Box::new(ES256.signer_from_jwk(key).unwrap()),
        Algorithm::EdDsa => Box::new(EdDSA.signer_from_jwk(key).unwrap()),
    }
}

#[tokio::test]
async fn josekit_verifies_our_tokens_with_our_published_key() {
    for &algorithm in Algorithm::ALL {
        let ring = ring(algorithm);
        let set: Value = serde_json::from_slice(ring.jwks()).unwrap();
        let key = Jwk::from_map(set["keys"][0].as_object().unwrap().clone()).unwrap();
        let claims = json!({"iss": "https://issuer.test", "sub": "a"});
        let token = ring.active(algorithm).unwrap().sign(Typ::AccessToken, &claims).await.unwrap();
        let verifier = oracle_verifier(algorithm, &key);
        let (payload, header) = jws::deserialize_compact(&token, verifier.as_ref()).unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&payload).unwrap(), claims);
        assert_eq!((header.token_type(), header.key_id()), (Some("at+jwt"), Some(ring.entries()[0].kid.as_str())));
        ring.verify_own(&Jws::parse(&token, 4096).unwrap()).unwrap();
    }
}

#[test]
fn we_verify_josekits_tokens() {
    for &algorithm in Algorithm::ALL {
        let key = match algorithm {
            Algorithm::Rs256 | Algorithm::Ps256 => Jwk::generate_rsa_key(2048).unwrap(),
            Algorithm::Es256 => Jwk::generate_ec_key(josekit::jwk::P_256).unwrap(),
            Algorithm::EdDsa => Jwk::generate_ed_key(josekit::jwk::Ed25519).unwrap(),
        };
        let token = jws::serialize_compact(b"{}", &JwsHeader::new(), oracle_signer(algorithm, &key).as_ref()).unwrap();
        let public = key.to_public_key().unwrap().to_string();
        assert_eq!(verify(&public, &token), Ok(()), "{algorithm}");
        assert_eq!(PublicJwk::parse(key.to_string().as_bytes()).unwrap_err(), JwkError::Private);
    }
}

/// T-60: an HMAC made with anything public about our key, or with nothing, is no signature.
#[test]
fn t60_no_hmac_over_a_public_key_passes() {
    for &algorithm in &[Algorithm::Rs256, Algorithm::Es256, Algorithm::EdDsa] {
        let ring = ring(algorithm);
        let entry = &ring.entries()[0];
        let set: Value = serde_json::from_slice(ring.jwks()).unwrap();
        let key = Jwk::from_map(set["keys"][0].as_object().unwrap().clone()).unwrap();
        let der = entry.public.spki();
        let lines: Vec<_> = STANDARD.encode(&der).as_bytes().chunks(64).map(<[u8]>::to_vec).collect();
        let pem = [b"-----BEGIN PUBLIC KEY-----\n", &lines.join(&b'\n')[..], b"\n-----END PUBLIC KEY-----\n"].concat();
        let members: Vec<_> = entry.public.members().map(|(_, value)| value.to_owned()).collect();
        let mut secrets: Vec<Vec<u8>> = vec![
            Vec::new(),
            pem.trim_ascii_end().to_vec(),
            pem,
            der,
            ring.jwks().to_vec(),
            key.to_string().into_bytes(),
        ];
        secrets.extend(members.iter().map(|value| value.clone().into_bytes()));
        secrets.extend(members.iter().filter_map(|value| URL_SAFE_NO_PAD.decode(value).ok()));
        let hashes = [("HS256", hmac::HMAC_SHA256), ("HS384", hmac::HMAC_SHA384), ("HS512", hmac::HMAC_SHA512)];
        for secret in &secrets {
            for (name, hash) in hashes {
                for alg in [name, algorithm.as_str()] {
                    let header = json!({"alg": alg, "kid": entry.kid}).to_string();
                    let input = format!("{}.e30", URL_SAFE_NO_PAD.encode(header));
                    let tag = hmac::sign(&hmac::Key::new(hash, secret), input.as_bytes());
                    let token = format!("{input}.{}", URL_SAFE_NO_PAD.encode(tag));
                    let jws = Jws::parse(&token, 8192).unwrap();
                    let expected = if alg == name { VerifyError::Algorithm } else { VerifyError::Signature };
                    assert_eq!(ring.verify_own(&jws).map(|_| ()), Err(expected));
                    let keys = JwkSet::parse(ring.jwks()).unwrap();
                    assert_eq!(keys.verify(&jws, Algorithm::ALL).map(|_| ()), Err(expected));
                }
            }
        }
    }
}
