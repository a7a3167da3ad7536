//! Reading one table into two structs: a few fields of its own, and a struct with `deny_unknown_fields` for the rest.
//! serde's `flatten` would switch that refusal off, and lose the places of errors.

use std::marker::PhantomData;

use serde::de::value::{Error as Plain, MapAccessDeserializer, StrDeserializer};
use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error as _, MapAccess, Visitor};

/// The fields of a table that are not the other struct's.
pub(super) trait Own<'de>: Default {
    /// Their names.
    const FIELDS: &'static [&'static str];

    /// Reads the value of `field`, one of [`Own::FIELDS`], from `map`.
    fn take<A: MapAccess<'de>>(&mut self, field: &'static str, map: &mut A) -> Result<(), A::Error>;
}

/// Reads a table: its own fields, and the rest as `R`.
pub(super) fn split<'de, O: Own<'de>, R: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<(O, R), D::Error> {
    from.deserialize_map(Table(PhantomData))
}

/// Reads the value of `field` into `slot`, once.
pub(super) fn put<'de, T: Deserialize<'de>, A: MapAccess<'de>>(
    slot: &mut Option<T>,
    field: &'static str,
    map: &mut A,
) -> Result<(), A::Error> {
    if slot.is_some() {
        return Err(A::Error::duplicate_field(field));
    }
    *slot = Some(map.next_value()?);
    Ok(())
}

struct Table<O, R>(PhantomData<(O, R)>);

impl<'de, O: Own<'de>, R: Deserialize<'de>> Visitor<'de> for Table<O, R> {
    type Value = (O, R);

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a table")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        let mut own = O::default();
        let rest = R::deserialize(MapAccessDeserializer::new(Rest { own: &mut own, map }))?;
        Ok((own, rest))
    }
}

/// The table without the fields that `own` has taken.
struct Rest<'o, O, A> {
    own: &'o mut O,
    map: A,
}

impl<'de, O: Own<'de>, A: MapAccess<'de>> MapAccess<'de> for Rest<'_, O, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, mut seed: K) -> Result<Option<K::Value>, A::Error> {
        loop {
            match self.map.next_key_seed(Key { seed, own: PhantomData::<O> })? {
                None => return Ok(None),
                Some(Found::Rest(key)) => return Ok(Some(key)),
                Some(Found::Own(field, unused)) => {
                    self.own.take(field, &mut self.map)?;
                    seed = unused;
                }
            }
        }
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        self.map.next_value_seed(seed)
    }
}

/// Whose field a key is. A seed that was not used comes back.
enum Found<K, V> {
    Own(&'static str, K),
    Rest(V),
}

struct Key<O, K> {
    seed: K,
    own: PhantomData<O>,
}

impl<'de, O: Own<'de>, K: DeserializeSeed<'de>> DeserializeSeed<'de> for Key<O, K> {
    type Value = Found<K, K::Value>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_identifier(self)
    }
}

impl<'de, O: Own<'de>, K: DeserializeSeed<'de>> Visitor<'de> for Key<O, K> {
    type Value = Found<K, K::Value>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the name of a field")
    }

    fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Self::Value, E> {
        if let Some(field) = O::FIELDS.iter().find(|field| **field == name) {
            return Ok(Found::Own(field, self.seed));
        }
        // The struct knows only its own fields; whoever mistyped `client_secret` should read that one, too.
        let unknown = |cause: Plain| E::custom(format!("{cause}, `{}`", O::FIELDS.join("`, `")));
        self.seed.deserialize(StrDeserializer::<Plain>::new(name)).map(Found::Rest).map_err(unknown)
    }
}
