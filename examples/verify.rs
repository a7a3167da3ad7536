//! Verifies Sealwright's access tokens, in a program that has josekit and reqwest and nothing of Sealwright.
//!
//! `verify ISSUER AUDIENCE` reads a token a line and prints `ok SUBJECT` or `no REASON` for each.

#![expect(clippy::disallowed_methods, reason = "a client has the system's clock, and an HTTP client of its own")]

use std::collections::HashMap;
use std::error::Error;
use std::io::{BufRead as _, Write as _, stdin, stdout};
use std::time::{Duration, Instant, SystemTime};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use josekit::jwk::{Jwk, JwkSet};
use josekit::jws::{EdDSA, JwsVerifier, RS256};
use josekit::jwt::{self, JwtPayload};
use serde_json::Value;

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

/// How much clocks may differ.
const SKEW: Duration = Duration::from_secs(5);
/// Between two fetches at least, however many tokens name keys that nobody knows.
const GAP: Duration = Duration::from_secs(5);

/// Keeps the JWKS for its max-age; a `kid` that is not in it has it fetched once more.
struct Verifier {
    issuer: String,
    audience: String,
    http: reqwest::Client,
    keys: HashMap<String, Jwk>,
    until: Option<Instant>,
    asked: Option<Instant>,
}

impl Verifier {
    /// The claims of a good token; an error for every other.
    async fn verify(&mut self, token: &str) -> Result<JwtPayload> {
        let head = token.split('.').next().unwrap_or_default();
        let head: Value = serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(head)?)?;
        // RFC 9068 §4: an ID token is signed by the same keys, and is no access token.
        let typ = head["typ"].as_str().ok_or("typ")?.to_ascii_lowercase();
        if typ.strip_prefix("application/").unwrap_or(&typ) != "at+jwt" {
            return Err("typ".into());
        }
        let jwk = self.key(head["kid"].as_str().ok_or("kid")?).await?;
        // The key says by what algorithm it verifies; josekit refuses a header that says another, and any `crit`.
        let verifier: Box<dyn JwsVerifier> = match jwk.algorithm() {
            Some("EdDSA") => Box::new(EdDSA.verifier_from_jwk(jwk)?),
            Some("RS256") => Box::new(RS256.verifier_from_jwk(jwk)?),
            _ => return Err("alg".into()),
        };
        let (claims, _) = jwt::decode_with_verifier(token, &*verifier)?;
        let now = SystemTime::now();
        // Not josekit's JwtPayloadValidator: it is content with a token that has no `aud`, and allows for no skew.
        if claims.issuer() != Some(&*self.issuer) {
            return Err("iss".into());
        }
        if !claims.audience().is_some_and(|audience| audience.contains(&&*self.audience)) {
            return Err("aud".into());
        }
        if claims.expires_at().is_none_or(|exp| now >= exp + SKEW) {
            return Err("exp".into());
        }
        if claims.not_before().is_some_and(|nbf| nbf > now + SKEW) {
            return Err("nbf".into());
        }
        Ok(claims)
    }

    async fn key(&mut self, kid: &str) -> Result<&Jwk> {
        let now = Instant::now();
        if self.until.is_none_or(|until| now >= until) {
            self.keys.clear();
        }
        if !self.keys.contains_key(kid) && self.asked.is_none_or(|asked| now - asked >= GAP) {
            self.asked = Some(now);
            self.fetch(now).await?;
        }
        Ok(self.keys.get(kid).ok_or("unknown kid")?)
    }

    async fn fetch(&mut self, now: Instant) -> Result<()> {
        let url = format!("{}/.well-known/jwks.json", self.issuer);
        let answer = self.http.get(url).timeout(Duration::from_secs(3)).send().await?.error_for_status()?;
        let cache = answer.headers().get("cache-control").map(|value| value.to_str()).transpose()?;
        let age = cache.and_then(|text| text.split(',').find_map(|part| part.trim().strip_prefix("max-age=")));
        let age = Duration::from_secs(age.map_or(Ok(0), str::parse)?);
        let set = JwkSet::from_bytes(answer.bytes().await?)?;
        self.keys = set.keys().into_iter().filter_map(|key| Some((key.key_id()?.to_owned(), key.clone()))).collect();
        self.until = Some(now + age.max(GAP));
        Ok(())
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let [issuer, audience] = <[String; 2]>::try_from(std::env::args().skip(1).collect::<Vec<_>>())
        .map_err(|_| "usage: verify ISSUER AUDIENCE")?;
    // reqwest takes the process's provider of cryptography for TLS.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let http = reqwest::Client::builder().no_proxy().build()?;
    let mut verifier = Verifier { issuer, audience, http, keys: HashMap::new(), until: None, asked: None };
    for line in stdin().lock().lines() {
        let verdict = match verifier.verify(line?.trim()).await {
            Ok(claims) => format!("ok {}", claims.subject().unwrap_or("nobody")),
            Err(error) => format!("no {}", error.to_string().replace('\n', " ")),
        };
        writeln!(stdout(), "{verdict}")?;
    }
    Ok(())
}
