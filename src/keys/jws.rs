//! Compact JWS (RFC 7515 §7.1), read strictly.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use super::json;
use crate::wire::Algorithm;

/// A parsed token whose signature nobody has checked yet: nothing in it may be believed.
#[derive(Debug)]
pub struct Jws<'a> {
    /// The protected header.
    pub header: Header,
    /// The payload's bytes.
    pub payload: Vec<u8>,
    /// What is signed: the encoded header, a dot, the encoded payload.
    pub signing_input: &'a str,
    /// The signature's bytes; never empty.
    pub signature: Vec<u8>,
}

/// The members of a protected header that count. `jku`, `jwk`, `x5u` and `x5c` are not read, so nothing can follow
/// them (RFC 8725bis §3.10).
#[derive(Clone, Debug, Deserialize)]
pub struct Header {
    /// The algorithm's name as it stands. `none` is a name like any other that we do not know.
    pub alg: String,
    /// What kind of token this says it is; compare with [`Header::is_typ`].
    #[serde(default, deserialize_with = "json::present")]
    pub typ: Option<String>,
    /// Which key it says signed it: a name to look up, never a path or a query.
    #[serde(default, deserialize_with = "json::present")]
    pub kid: Option<String>,
    #[serde(default, deserialize_with = "json::present")]
    crit: Option<IgnoredAny>,
    #[serde(default, deserialize_with = "json::present")]
    b64: Option<IgnoredAny>,
}

/// Why a text is not a token that we read. Carries nothing of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwsError {
    /// Longer than the caller takes.
    #[error("the token is too long")]
    TooLong,
    /// Not three parts of canonical base64url with single dots between.
    #[error("not a compact JWS")]
    NotCompact,
    /// The header is not a JSON object with unique names and a textual `alg`.
    #[error("the header is malformed")]
    Header,
    /// The header uses an extension (`crit`, `b64`) that we do not process.
    #[error("the header demands an extension that is not supported")]
    Extension,
    /// The payload is not the JSON asked for, or repeats a name.
    #[error("the claims are malformed")]
    Claims,
}

impl<'a> Jws<'a> {
    /// Reads a compact JWS of at most `max_len` bytes. Checks its form only.
    ///
    /// # Errors
    /// See [`JwsError`].
    pub fn parse(text: &'a str, max_len: usize) -> Result<Self, JwsError> {
        if text.len() > max_len {
            return Err(JwsError::TooLong);
        }
        let (signing_input, signature) = text.rsplit_once('.').ok_or(JwsError::NotCompact)?;
        // A second dot inside either part is outside base64url's alphabet, so there are exactly two.
        let (header, payload) = signing_input.split_once('.').ok_or(JwsError::NotCompact)?;
        let (header, payload, signature) = (decode(header)?, decode(payload)?, decode(signature)?);
        if signature.is_empty() {
            return Err(JwsError::NotCompact);
        }
        let header: Header = json::object(&header).map_err(|_| JwsError::Header)?;
        // RFC 7515 §4.1.11: an extension that is not understood makes the JWS invalid. RFC 7797 (`b64`) must be in
        // `crit`; alone it is a mistake or a trick.
        if header.crit.is_some() || header.b64.is_some() {
            return Err(JwsError::Extension);
        }
        Ok(Self { header, payload, signing_input, signature })
    }

    /// The payload as a JSON object of claims with unique names.
    ///
    /// # Errors
    /// [`JwsError::Claims`].
    pub fn claims<T: DeserializeOwned>(&self) -> Result<T, JwsError> {
        json::object(&self.payload).map_err(|_| JwsError::Claims)
    }
}

impl Header {
    /// The algorithm, when we know one of this exact name.
    pub fn algorithm(&self) -> Option<Algorithm> {
        Algorithm::named(&self.alg)
    }

    /// Whether `typ` is `expected` (given without `application/`): a media type, so case does not count, and
    /// `application/` may stand before it (RFC 7515 §4.1.9).
    pub fn is_typ(&self, expected: &str) -> bool {
        const PREFIX: &str = "application/";
        self.typ.as_deref().is_some_and(|typ| {
            let prefixed = typ.get(..PREFIX.len()).is_some_and(|prefix| prefix.eq_ignore_ascii_case(PREFIX));
            typ[if prefixed { PREFIX.len() } else { 0 }..].eq_ignore_ascii_case(expected)
        })
    }
}

/// Canonical base64url: no padding, no other characters, unused bits zero (else one token had many spellings).
fn decode(part: &str) -> Result<Vec<u8>, JwsError> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| JwsError::NotCompact)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    fn token(header: &str, payload: &str) -> String {
        format!("{}.{}.AAAA", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload))
    }

    fn parse(text: &str) -> Result<Jws<'_>, JwsError> {
        Jws::parse(text, 8192)
    }

    /// S-30: the compact serialization and its alphabet, nothing else.
    #[test]
    fn s30_only_the_compact_serialization_is_read() {
        let good = token(r#"{"alg":"EdDSA"}"#, "{}");
        assert_eq!(parse(&good).unwrap().signing_input, good.strip_suffix(".AAAA").unwrap());
        let [header, payload, signature] = good.split('.').collect::<Vec<_>>()[..] else { panic!() };
        let json = format!(r#"{{"protected":"{header}","payload":"{payload}","signature":"{signature}"}}"#);
        let bad = [
            json,
            String::new(),
            ".".into(),
            "..".into(),
            format!("{header}.{payload}"),
            format!("{header}.{payload}."),
            format!("{good}."),
            format!(".{good}"),
            format!("{good}.{signature}"),
            format!("{good}.{signature}.{signature}"),
            format!("{good}="),
            format!("{good} "),
            format!(" {good}"),
            format!("{good}\n"),
            format!("{good}\0"),
            good.replace(".AAAA", ".AA+A"),
            good.replace(".AAAA", ".AA/A"),
            good.replace(".AAAA", ".AAA="),
            good.replace(".AAAA", ".A"),
            good.replace(".AAAA", ".AB"),
            good.replace(".AAAA", ".AAB"),
            good.replace(".AAAA", ".ÄÄ"),
        ];
        for text in bad {
            assert_eq!(parse(&text).err(), Some(JwsError::NotCompact), "{text:?}");
        }
        assert_eq!(Jws::parse(&good, good.len() - 1).err(), Some(JwsError::TooLong));
        assert!(Jws::parse(&good, good.len()).is_ok());
    }

    /// T-61: `none` in any case, missing, of another type.
    #[test]
    fn t61_alg_is_one_exact_known_text() {
        for alg in ["none", "None", "NONE", "nOnE", "HS256", "rs256", "RS256 ", "", "ES512", "ed25519", "eddsa"] {
            let text = token(&format!(r#"{{"alg":"{alg}"}}"#), "{}");
            assert_eq!(parse(&text).unwrap().header.algorithm(), None, "{alg}");
        }
        for header in [r#"{"typ":"JWT"}"#, r#"{"alg":["RS256"]}"#, r#"{"alg":null}"#, r#"{"alg":1}"#, r#"{"alg":{}}"#] {
            assert_eq!(parse(&token(header, "{}")).err(), Some(JwsError::Header), "{header}");
        }
        assert_eq!(Algorithm::named("EdDSA"), Some(Algorithm::EdDsa));
        assert_eq!(Algorithm::named("Ed25519"), Some(Algorithm::EdDsa));
    }

    /// T-70: headers as data. `kid` may be anything; key locations are not read; extensions are refused.
    #[test]
    fn t70_kid_is_data_and_key_locations_are_not_read() {
        for kid in ["../../etc/passwd", "' OR 1=1 --", "a\u{0}b", ""] {
            let header = serde_json::json!({"alg": "RS256", "kid": kid, "jku": "https://evil.test", "x5u": 1, "jwk": {}, "x5c": []});
            let text = token(&header.to_string(), "{}");
            assert_eq!(parse(&text).unwrap().header.kid.as_deref(), Some(kid));
        }
        let huge = token(&format!(r#"{{"alg":"RS256","kid":"{}"}}"#, "k".repeat(1 << 20)), "{}");
        assert_eq!(parse(&huge).err(), Some(JwsError::TooLong));
        for header in [
            r#"{"alg":"RS256","crit":[]}"#,
            r#"{"alg":"RS256","crit":null}"#,
            r#"{"alg":"RS256","crit":["exp"],"exp":1}"#,
            r#"{"alg":"RS256","b64":false}"#,
            r#"{"alg":"RS256","b64":true}"#,
        ] {
            assert_eq!(parse(&token(header, "{}")).err(), Some(JwsError::Extension), "{header}");
        }
        for header in [
            r#"{"alg":"RS256","alg":"none"}"#,
            r#"{"alg":"RS256","x":{"a":1,"a":2}}"#,
            r#"{"alg":"RS256","kid":null}"#,
            r#"{"alg":"RS256","kid":7}"#,
            r#"{"alg":"RS256","typ":7}"#,
            r#"["RS256",null,null,null,null]"#,
            r#""RS256""#,
            "",
            "{",
            "{}x",
            "\u{feff}{\"alg\":\"RS256\"}",
        ] {
            assert_eq!(parse(&token(header, "{}")).err(), Some(JwsError::Header), "{header}");
        }
    }

    #[test]
    fn claims_with_a_repeated_name_are_refused() {
        let text = token(r#"{"alg":"EdDSA"}"#, r#"{"sub":"a","sub":"b"}"#);
        assert_eq!(parse(&text).unwrap().claims::<Value>(), Err(JwsError::Claims));
        for payload in ["", "[]", "null", "{", r#""x""#] {
            let text = token(r#"{"alg":"EdDSA"}"#, payload);
            assert_eq!(parse(&text).unwrap().claims::<Value>(), Err(JwsError::Claims), "{payload}");
        }
    }

    #[test]
    fn rfc7515_4_1_9_typ_is_a_media_type() {
        let header = |typ: &str| parse(&token(&format!(r#"{{"alg":"a","typ":"{typ}"}}"#), "")).unwrap().header;
        for typ in ["at+jwt", "AT+JWT", "application/at+jwt", "Application/At+Jwt"] {
            assert!(header(typ).is_typ("at+jwt"), "{typ}");
        }
        for typ in [
            "JWT",
            "",
            "application/",
            "application/application/at+jwt",
            "at+jwt ",
            "text/at+jwt",
            "äpplication/at+jwt",
        ] {
            assert!(!header(typ).is_typ("at+jwt"), "{typ}");
        }
        assert!(!parse(&token(r#"{"alg":"a"}"#, "")).unwrap().header.is_typ("at+jwt"));
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in ".{0,200}") {
            let _ = parse(&text);
        }

        #[test]
        fn parsing_hostile_headers_never_panics(header in ".{0,80}", payload in ".{0,80}", typ in ".{0,20}") {
            let _ = parse(&token(&header, &payload)).map(|jws| jws.claims::<Value>());
            let header = serde_json::json!({"alg": header, "typ": typ}).to_string();
            let text = token(&header, &payload);
            let jws = parse(&text).unwrap();
            let _ = (jws.header.is_typ("at+jwt"), jws.header.algorithm());
        }

        #[test]
        fn a_token_has_one_spelling(text in "[A-Za-z0-9_-]{0,40}\\.[A-Za-z0-9_-]{0,40}\\.[A-Za-z0-9_-]{0,40}") {
            let parts: Vec<_> = text.split('.').collect();
            let decoded: Vec<_> = parts.iter().filter_map(|part| decode(part).ok()).collect();
            if decoded.len() == 3 {
                let again: Vec<_> = decoded.iter().map(|bytes| URL_SAFE_NO_PAD.encode(bytes)).collect();
                prop_assert_eq!(again.join("."), text);
            }
        }
    }
}
