//! JSON texts in rows.

use serde::Deserializer;
use serde::de::{DeserializeOwned, Visitor, value::MapDeserializer};
use serde_json::{Error, Map, Value};

/// Reads a JSON object that the database holds into a struct. Members that only a later release knows are passed
/// over, so that this one runs on what that one wrote; where people write (`apply` files), they are refused.
///
/// # Errors
/// When the rest does not fit either.
pub fn from_row<T: DeserializeOwned>(text: &str) -> Result<T, Error> {
    T::deserialize(Row(serde_json::from_str(text)?))
}

/// The members of an object, of which a struct is shown its own only.
struct Row(Map<String, Value>);

impl<'de> Deserializer<'de> for Row {
    type Error = Error;

    fn deserialize_struct<V: Visitor<'de>>(
        mut self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.0.retain(|name, _| fields.contains(&name.as_str()));
        self.deserialize_any(visitor)
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_map(MapDeserializer::new(self.0.into_iter()))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_of_a_later_release_is_read() {
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Row {
            known: u8,
        }
        let later = r#"{"new": {"a": 1}, "known": 7, "newer": []}"#;
        assert!(serde_json::from_str::<Row>(later).is_err());
        assert_eq!(from_row::<Row>(later).unwrap().known, 7);
        assert!(from_row::<Row>(r#"{"known": "x"}"#).is_err() && from_row::<Row>("{}").is_err());
    }
}
