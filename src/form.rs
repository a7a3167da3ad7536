//! `application/x-www-form-urlencoded`, read strictly: what RFC 6749 leaves open is refused, never guessed.

use std::fmt;

use zeroize::{Zeroize, Zeroizing};

use crate::error::{Error, Result};

/// Parameters that may stand more than once: `resource` (RFC 8707 §2) and `audience` (RFC 8693 §2.1).
const REPEATABLE: [&str; 2] = ["resource", "audience"];
const MAX_PARAMETERS: usize = 100;
const MAX_NAME: usize = 64;
const MAX_VALUE: usize = 16 * 1024;

/// A parsed form. Values may be secrets: they are wiped when the form goes, and `Debug` shows names only.
#[derive(Default)]
pub struct Form {
    /// All names and values, decoded, one after the other.
    text: Zeroizing<String>,
    parameters: Vec<Parameter>,
}

/// Where a parameter stands in the text: name from `start` to `value`, value from there to `end`.
#[derive(Clone, Copy)]
struct Parameter {
    start: usize,
    value: usize,
    end: usize,
}

impl Form {
    /// Parses a form body or a query string.
    ///
    /// # Errors
    /// 400 `invalid_request`, naming the parameter where that is safe: a repeated parameter (but `resource` and
    /// `audience`), a bad percent escape, text that is not UTF-8, a NUL, an empty name, more than 100 parameters, a
    /// name over 64 bytes, a value over 16 KiB. A parameter over size is never treated as absent.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        // Decoding never lengthens, so the buffer is never moved and no copy of a secret stays behind.
        let mut text = Zeroizing::new(Vec::with_capacity(bytes.len()));
        let mut parameters = Vec::with_capacity(8);
        for pair in bytes.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()) {
            if parameters.len() == MAX_PARAMETERS {
                return Err(Error::invalid_request("There are too many parameters."));
            }
            let parameter = read_pair(pair, &mut text)?;
            let name = &text[parameter.start..parameter.value];
            let repeated = parameters.iter().any(|known: &Parameter| text[known.start..known.value] == *name);
            if repeated && !REPEATABLE.iter().any(|word| word.as_bytes() == name) {
                return Err(refusal(name, "is repeated"));
            }
            parameters.push(parameter);
        }
        let text = String::from_utf8(std::mem::take(&mut *text)).map_err(|wrong| {
            wrong.into_bytes().zeroize();
            Error::invalid_request("The parameters are not UTF-8.")
        })?;
        let text = Zeroizing::new(text);
        // Valid as a whole, but a character may not reach from one name or value into the next.
        if parameters.iter().any(|at| !text.is_char_boundary(at.start) || !text.is_char_boundary(at.value)) {
            return Err(Error::invalid_request("The parameters are not UTF-8."));
        }
        Ok(Self { text, parameters })
    }

    /// The value of `name`, the first one if it may be repeated. RFC 6749 §3.2: sent without a value is not sent.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// Every value of `name`, in order, without empty ones.
    pub fn all<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        self.parameters
            .iter()
            .filter(move |at| self.text[at.start..at.value] == *name && at.value < at.end)
            .map(|at| &self.text[at.value..at.end])
    }
}

impl fmt::Debug for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.parameters.iter().map(|at| &self.text[at.start..at.value])).finish()
    }
}

fn read_pair(pair: &[u8], text: &mut Vec<u8>) -> Result<Parameter> {
    let split = pair.iter().position(|byte| *byte == b'=');
    let (name, value) = split.map_or((pair, &[][..]), |at| (&pair[..at], &pair[at + 1..]));
    let start = text.len();
    let named = decode_into(name, text);
    let middle = text.len();
    if !named {
        return Err(Error::invalid_request("A parameter's name has a bad percent escape or a NUL."));
    }
    match middle - start {
        0 => return Err(Error::invalid_request("A parameter has no name.")),
        1..=MAX_NAME => {}
        _ => return Err(Error::invalid_request("A parameter's name is too long.")),
    }
    if !decode_into(value, text) {
        return Err(refusal(&text[start..middle], "has a bad percent escape or a NUL"));
    }
    if text.len() - middle > MAX_VALUE {
        return Err(refusal(&text[start..middle], "is too long"));
    }
    Ok(Parameter { start, value: middle, end: text.len() })
}

/// Names the parameter only if it is a word as the registries have them: input is not echoed.
fn refusal(name: &[u8], what: &str) -> Error {
    match std::str::from_utf8(name) {
        Ok(name) if name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_')) => {
            Error::invalid_request(format!("Parameter {name} {what}."))
        }
        _ => Error::invalid_request(format!("A parameter {what}.")),
    }
}

/// Appends what `bytes` stand for. False for a bad percent escape or a NUL.
fn decode_into(mut bytes: &[u8], text: &mut Vec<u8>) -> bool {
    while let Some(at) = bytes.iter().position(|byte| matches!(byte, b'+' | b'%' | 0)) {
        text.extend_from_slice(&bytes[..at]);
        bytes = match &bytes[at..] {
            [b'+', rest @ ..] => {
                text.push(b' ');
                rest
            }
            [b'%', high, low, rest @ ..] => match (digit(*high), digit(*low)) {
                (Some(0), Some(0)) => return false,
                (Some(high), Some(low)) => {
                    text.push(high << 4 | low);
                    rest
                }
                _ => return false,
            },
            _ => return false,
        };
    }
    text.extend_from_slice(bytes);
    true
}

fn digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

/// Decodes one component, as the user name and password of HTTP Basic are encoded (RFC 6749 §2.3.1). `None` for a
/// bad percent escape, a NUL, or what is not UTF-8.
pub fn decode(component: &str) -> Option<String> {
    let mut text = Zeroizing::new(Vec::with_capacity(component.len()));
    if !decode_into(component.as_bytes(), &mut text) {
        return None;
    }
    String::from_utf8(std::mem::take(&mut *text)).map_err(|wrong| wrong.into_bytes().zeroize()).ok()
}

/// Encodes one component; [`decode`] undoes it.
pub fn encode(component: &str) -> String {
    url::form_urlencoded::byte_serialize(component.as_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn refused(body: &[u8]) -> String {
        let error = Form::parse(body).unwrap_err();
        assert_eq!(error.code.status(), 400);
        error.detail().to_owned()
    }

    #[test]
    fn rfc6749_3_2_parameters_are_sent_once_and_empty_is_omitted() {
        let form = Form::parse(b"grant_type=client_credentials&scope=&&client_id=a%20b+c").unwrap();
        assert_eq!(form.get("grant_type"), Some("client_credentials"));
        assert_eq!(form.get("scope"), None);
        assert_eq!(form.get("client_id"), Some("a b c"));
        assert_eq!(form.get("absent"), None);
        assert_eq!(refused(b"scope=a&scope=b"), "Parameter scope is repeated.");
        assert_eq!(refused(b"scope=a&sc%6Fpe="), "Parameter scope is repeated.");
    }

    #[test]
    fn rfc8707_2_resource_may_be_repeated() {
        let form = Form::parse(b"resource=https%3A%2F%2Fa&resource=&resource=https%3A%2F%2Fb").unwrap();
        assert_eq!(form.all("resource").collect::<Vec<_>>(), ["https://a", "https://b"]);
    }

    #[test]
    fn what_is_malformed_is_refused() {
        for body in [&b"a=%"[..], b"a=%2", b"a=%zz", b"a=%00", b"a=\0", b"%=a", b"a=%ff", b"=a", b"a%00=b", b"a=\xff"] {
            refused(body);
        }
        // One character in two halves: the first ends the name, the second begins the value, and so on.
        assert_eq!(refused(b"a%C3=%A4"), "The parameters are not UTF-8.");
        assert_eq!(refused(b"a=%C3&%A4=b"), "The parameters are not UTF-8.");
    }

    /// T-45: over size is refused and named, never treated as absent.
    #[test]
    fn t45_an_over_long_parameter_is_named() {
        let long = "a".repeat(MAX_VALUE + 1);
        assert_eq!(refused(format!("subject_token={long}").as_bytes()), "Parameter subject_token is too long.");
        assert_eq!(refused(format!("X\"-{long}=b").as_bytes()), "A parameter's name is too long.");
        assert_eq!(refused(format!("X%22={long}").as_bytes()), "A parameter is too long.");
        assert!(Form::parse(format!("scope={}", &long[1..]).as_bytes()).is_ok());
    }

    #[test]
    fn t180_too_many_parameters_are_refused() {
        let body = (0..100_000).map(|at| format!("p{at}=1")).collect::<Vec<_>>().join("&");
        assert_eq!(refused(body.as_bytes()), "There are too many parameters.");
    }

    #[test]
    fn t174_debug_shows_no_value() {
        let form = Form::parse(b"client_secret=hunter2").unwrap();
        assert_eq!(format!("{form:?}"), r#"["client_secret"]"#);
    }

    /// A fuzz target: any bytes; parses or refuses, and what it parses is what the URL standard's parser sees.
    fn parses_or_refuses(bytes: &[u8]) {
        let Ok(form) = Form::parse(bytes) else { return };
        let theirs: Vec<_> = url::form_urlencoded::parse(bytes).collect();
        assert_eq!(theirs.len(), form.parameters.len());
        for (name, value) in &theirs {
            assert!(value.is_empty() || form.all(name).any(|ours| ours == value));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_parse_as_the_url_standard_has_them_or_not_at_all(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            parses_or_refuses(&bytes);
        }

        #[test]
        fn texts_like_forms_parse_as_the_url_standard_has_them(text in "[a-c=&%+0-9A-F]{0,60}") {
            parses_or_refuses(text.as_bytes());
        }

        #[test]
        fn what_is_encoded_decodes_to_itself(values in prop::collection::btree_map("[a-z_]{1,8}", "[^\0]{1,40}", 0..9)) {
            let body = values.iter().map(|(name, value)| format!("{name}={}", encode(value))).collect::<Vec<_>>();
            let form = Form::parse(body.join("&").as_bytes()).unwrap();
            for (name, value) in &values {
                prop_assert_eq!(form.get(name), Some(value.as_str()));
                let decoded = decode(&encode(value));
                prop_assert_eq!(decoded.as_deref(), Some(value.as_str()));
            }
        }
    }
}
