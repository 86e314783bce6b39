//! JSON in which no object has a key twice. Of two values the one that a reader takes is not the one that another
//! takes (RFC 8259 4), so a verdict that has both is none. Pure.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Reads it.
pub(crate) fn parse(bytes: &[u8]) -> Result<Value, serde_json::Error> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = Strict.deserialize(&mut reader)?;
    reader.end().map(|()| value)
}

/// At most this many characters of a text from outside are shown.
const SHOWN_MAX: usize = 200;

/// The beginning of a text from outside, for a message.
pub(crate) fn beginning(text: &str) -> &str {
    text.char_indices().nth(SHOWN_MAX).map_or(text, |(end, _)| &text[..end])
}

struct Strict;

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(Strict)? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            if map.contains_key(&key) {
                return Err(A::Error::custom(format!(
                    "the key {:?} is there twice",
                    beginning(&key)
                )));
            }
            map.insert(key, entries.next_value_seed(Strict)?);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_what_others_read_but_no_key_twice() {
        for good in [
            "null",
            "[1, -2, 3.5, true, \"a\", {}]",
            "{\"a\": {\"a\": 1}, \"b\": [{\"a\": 2}, {\"a\": 3}]}",
            "18446744073709551615",
            "1e300",
            "\"\\u0061\"",
        ] {
            let read: Value = serde_json::from_str(good).unwrap();
            assert_eq!(parse(good.as_bytes()).unwrap(), read, "{good}");
        }
        for twice in [
            "{\"a\": 1, \"a\": 1}",
            "{\"b\": {\"a\": 1, \"c\": 2, \"a\": 3}}",
            "[{\"a\": 1, \"\\u0061\": 2}]",
        ] {
            let why = parse(twice.as_bytes()).unwrap_err().to_string();
            assert!(why.contains("\"a\" is there twice"), "{twice}: {why}");
        }
        for bad in ["", "{", "{} {}", "{\"a\" 1}"] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(parse("[".repeat(1 << 20).as_bytes()).is_err());
    }
}
