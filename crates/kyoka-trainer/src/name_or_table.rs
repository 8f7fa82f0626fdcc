//! A setting that is the name of a preset, or a table with the preset and what differs from it.

use std::marker::PhantomData;

use serde::{
    Deserialize, Deserializer,
    de::{Error, IntoDeserializer, MapAccess, Visitor, value::MapAccessDeserializer},
};

/// Reads `"vapo"` through `named`, or a table such as `{ preset = "vapo", clip_high = 0.3 }` as it is.
pub(crate) fn name_or_table<'de, D, P, T>(deserializer: D, named: fn(P) -> T) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    P: Deserialize<'de>,
    T: Deserialize<'de>,
{
    deserializer.deserialize_any(NameOrTable { named, preset: PhantomData })
}

struct NameOrTable<P, T> {
    named: fn(P) -> T,
    preset: PhantomData<P>,
}

impl<'de, P: Deserialize<'de>, T: Deserialize<'de>> Visitor<'de> for NameOrTable<P, T> {
    type Value = T;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("the name of a preset, or a table with `preset` and settings")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<T, E> {
        Ok((self.named)(P::deserialize(name.into_deserializer())?))
    }

    fn visit_map<A: MapAccess<'de>>(self, table: A) -> Result<T, A::Error> {
        T::deserialize(MapAccessDeserializer::new(table))
    }
}
