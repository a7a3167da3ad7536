//! Strict JSON objects: what serde reads, less what two readers could read differently.

use std::collections::HashSet;
use std::fmt;

use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

/// The text is not a JSON object, says a member name twice, or does not have the shape asked for. Carries no input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a JSON object of the expected shape, or a member name occurs twice")]
pub struct NotStrict;

/// Reads `T` from an object (serde alone would take an array's items for a struct's members). RFC 7515 §4, RFC 7519 §4: member names must be unique, because two readers of one text may each take
/// another of the two values; so a repeated name is refused at every depth.
///
/// # Errors
/// [`NotStrict`], also when the text nests deeper than 128.
pub fn object<'a, T: serde::Deserialize<'a>>(text: &'a [u8]) -> Result<T, NotStrict> {
    if text.trim_ascii_start().first() != Some(&b'{') {
        return Err(NotStrict);
    }
    serde_json::from_slice::<UniqueNames>(text).map_err(|_| NotStrict)?;
    serde_json::from_slice(text).map_err(|_| NotStrict)
}

/// For optional members: present means a value of type `T`; `null` is not a way to say absent.
///
/// # Errors
/// As `T`'s own reading.
pub fn present<'de, T: serde::Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

/// Any JSON value whose objects have unique member names.
struct UniqueNames;

impl<'de> serde::Deserialize<'de> for UniqueNames {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Walk)
    }
}

struct Walk;

impl<'de> Visitor<'de> for Walk {
    type Value = UniqueNames;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON with unique member names")
    }

    fn visit_bool<E>(self, _: bool) -> Result<UniqueNames, E> {
        Ok(UniqueNames)
    }

    fn visit_i64<E>(self, _: i64) -> Result<UniqueNames, E> {
        Ok(UniqueNames)
    }

    fn visit_u64<E>(self, _: u64) -> Result<UniqueNames, E> {
        Ok(UniqueNames)
    }

    fn visit_f64<E>(self, _: f64) -> Result<UniqueNames, E> {
        Ok(UniqueNames)
    }

    fn visit_str<E>(self, _: &str) -> Result<UniqueNames, E> {
        Ok(UniqueNames)
    }

    fn visit_unit<E>(self) -> Result<UniqueNames, E> {
        Ok(UniqueNames)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<UniqueNames, A::Error> {
        while items.next_element::<UniqueNames>()?.is_some() {}
        Ok(UniqueNames)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<UniqueNames, A::Error> {
        let mut names = HashSet::new();
        while let Some(name) = members.next_key::<String>()? {
            if !names.insert(name) {
                return Err(A::Error::custom("a member name occurs twice"));
            }
            members.next_value::<UniqueNames>()?;
        }
        Ok(UniqueNames)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn rfc7519_4_repeated_names_are_refused_at_every_depth() {
        for good in [r#"{"a":1,"b":{"a":null,"c":[{"a":1.5},{"a":-2}]},"c":"x","d":true}"#, " {}\n"] {
            assert!(object::<Value>(good.as_bytes()).is_ok(), "{good}");
        }
        let deep = format!(r#"{{"a":{}{}}}"#, "[".repeat(200), "]".repeat(200));
        for bad in [
            r#"{"a":1,"a":1}"#,
            r#"{"x":[{"a":1,"a":2}]}"#,
            r#"{"a":1,"\u0061":2}"#,
            "{",
            "",
            "{}{}",
            "[]",
            "1",
            "null",
            &deep,
        ] {
            assert_eq!(object::<Value>(bad.as_bytes()), Err(NotStrict), "{bad}");
        }
    }
}
