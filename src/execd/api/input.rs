//! JSON bodies as execd has always read them (contract 2.6): only the first value counts, keys
//! match in any case, of two equal keys the last is meant, `null` leaves the default, integers are
//! integers.

use std::fmt;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;
use smol::Timer;
use smol::future::FutureExt;

use super::Api;
use super::answer::Failure;
use crate::http::{Body, body, error};

/// The most bytes of a JSON body. A command of the shell cannot be longer than 128 KiB, and its
/// environment not than a quarter of its stack.
pub const MAX_BODY: usize = 4 * 1024 * 1024;

/// The most JSON bodies that are read at once; the next wait for their turn.
pub const MAX_READERS: usize = 64;

/// How long a JSON body may take to arrive.
pub const READ_TIME: Duration = Duration::from_secs(30);

/// Why a body is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Mistake(String);

/// Reads a whole JSON body.
pub(super) async fn read(api: &Api, body: Body) -> Result<bytes::Bytes, Failure> {
    let late = async {
        Timer::after(READ_TIME).await;
        Err(body::Error::TimedOut)
    };
    let _turn = api.shared.readers.acquire().await;
    let read = body.collect(MAX_BODY).or(late).await;
    read.map_err(|cause| Failure {
        status: error::status_of(&cause),
        ..Failure::invalid(format!("error reading request body: {cause}"))
    })
}

/// The fields of an object.
#[derive(Debug)]
pub(super) struct Fields {
    /// What errors call it.
    name: &'static str,
    pairs: Vec<(String, Value)>,
}

impl Fields {
    /// Parses the object `name`, which must be there.
    pub(super) fn parse(bytes: &[u8], name: &'static str) -> Result<Self, Mistake> {
        let mut values = serde_json::Deserializer::from_slice(bytes).into_iter::<Object>();
        match values.next() {
            Some(Ok(Object(pairs))) => Ok(Self { name, pairs }),
            None => Err(Mistake("EOF".to_owned())),
            Some(Err(error)) if error.is_eof() => Err(Mistake("unexpected EOF".to_owned())),
            Some(Err(error)) if error.is_data() => Err(Mistake(format!(
                "json: cannot unmarshal into Go value of type model.{name}: {error}"
            ))),
            Some(Err(error)) => Err(Mistake(error.to_string())),
        }
    }

    /// Parses the object, or none where the body is empty.
    pub(super) fn parse_optional(bytes: &[u8], name: &'static str) -> Result<Self, Mistake> {
        if bytes.trim_ascii().is_empty() {
            let pairs = Vec::new();
            return Ok(Self { name, pairs });
        }
        Self::parse(bytes, name)
    }

    fn values(&self, key: &str) -> impl DoubleEndedIterator<Item = &Value> {
        self.pairs
            .iter()
            .filter(move |(name, value)| name.eq_ignore_ascii_case(key) && !value.is_null())
            .map(|(_, value)| value)
    }

    /// The last value of a key, of which every value must be a `kind`.
    fn last<'a, T>(
        &'a self,
        key: &str,
        kind: &str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, Mistake> {
        let mut last = None;
        for value in self.values(key) {
            last = Some(read(value).ok_or_else(|| self.mistake(key, kind, value))?);
        }
        Ok(last)
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&str>, Mistake> {
        self.last(key, "string", Value::as_str)
    }

    pub(super) fn switch(&self, key: &str) -> Result<bool, Mistake> {
        Ok(self.last(key, "bool", Value::as_bool)?.unwrap_or(false))
    }

    pub(super) fn signed(&self, key: &str) -> Result<Option<i64>, Mistake> {
        self.last(key, "int64", Value::as_i64)
    }

    pub(super) fn id(&self, key: &str) -> Result<Option<u32>, Mistake> {
        self.last(key, "uint32", |value| {
            value.as_u64().and_then(|id| u32::try_from(id).ok())
        })
    }

    /// An object of texts; `null` among them is the empty one.
    pub(super) fn texts(&self, key: &str) -> Result<Vec<(String, String)>, Mistake> {
        let mut texts = Vec::new();
        for value in self.values(key) {
            let Value::Object(object) = value else {
                return Err(self.mistake(key, "map[string]string", value));
            };
            for (name, value) in object {
                let text = match value {
                    Value::Null => "",
                    Value::String(text) => text,
                    other => return Err(self.mistake(key, "string", other)),
                };
                texts.push((name.clone(), text.to_owned()));
            }
        }
        Ok(texts)
    }

    fn mistake(&self, key: &str, expected: &str, found: &Value) -> Mistake {
        let found = match found {
            Value::Null => "null",
            Value::Bool(_) => "bool",
            Value::Number(_) => "number",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        let name = self.name;
        Mistake(format!(
            "json: cannot unmarshal {found} into Go struct field {name}.{key} of type {expected}"
        ))
    }
}

/// An object with all its keys, equal ones too; `null` is an empty one.
struct Object(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;

        impl<'de> Visitor<'de> for Pairs {
            type Value = Object;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_unit<E>(self) -> Result<Object, E> {
                Ok(Object(Vec::new()))
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Object, M::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Object(pairs))
            }
        }

        deserializer.deserialize_any(Pairs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Fields, String> {
        Fields::parse(text.as_bytes(), "RunCommandRequest").map_err(|mistake| mistake.to_string())
    }

    #[test]
    fn bodies_are_read_as_they_always_were() {
        for (text, command) in [
            (r#"{"command":"ls"}"#, Some("ls")),
            (r#"{"Command":"ls"}"#, Some("ls")),
            (r#"{"COMMAND":"a","command":"b"}"#, Some("b")),
            (r#"{"command":"a","Command":"b","command":"c"}"#, Some("c")),
            (r#"{"command":"a","command":null}"#, Some("a")),
            (r#"{"command":"ls","x":[{}]} trailing"#, Some("ls")),
            (r#"  {"command":"ls"}{"command":"no"}"#, Some("ls")),
            ("{}", None),
            ("null", None),
            (r#"{"command":null}"#, None),
        ] {
            let fields = parse(text).unwrap();
            assert_eq!(fields.text("command").unwrap(), command, "{text}");
        }
    }

    #[test]
    fn what_is_no_object_is_told() {
        for (text, told) in [
            ("", "EOF"),
            ("  ", "EOF"),
            (r#"{"command":"l"#, "unexpected EOF"),
            ("xyz", "expected"),
            ("[]", "json: cannot unmarshal"),
            ("\"text\"", "json: cannot unmarshal"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(told), "{text}: {error}");
        }
        assert!(
            Fields::parse_optional(b" \n", "X")
                .unwrap()
                .pairs
                .is_empty()
        );
    }

    #[test]
    fn a_value_of_another_type_is_named() {
        let fields = parse(r#"{"command":1,"timeout":"5","uid":-1,"envs":{"A":1},"background":0}"#);
        let fields = fields.unwrap();
        let told = |result: Result<(), Mistake>| result.unwrap_err().to_string();
        assert_eq!(
            told(fields.signed("timeout").map(drop)),
            "json: cannot unmarshal string into Go struct field RunCommandRequest.timeout of type int64"
        );
        assert!(told(fields.text("command").map(drop)).contains("number into"));
        assert!(told(fields.id("uid").map(drop)).contains("of type uint32"));
        assert!(told(fields.texts("envs").map(drop)).contains("number into"));
        assert!(told(fields.switch("background").map(drop)).contains("of type bool"));
    }

    #[test]
    fn integers_are_integers_in_range() {
        for (text, expected) in [
            ("30000", Some(Some(30000))),
            ("0", Some(Some(0))),
            ("-1", Some(Some(-1))),
            ("null", Some(None)),
            ("30000.0", None),
            ("3e4", None),
            ("9223372036854775808", None),
            ("true", None),
        ] {
            let fields = parse(&format!(r#"{{"timeout":{text}}}"#)).unwrap();
            assert_eq!(fields.signed("timeout").ok(), expected, "{text}");
        }
        let fields = parse(r#"{"envs":{"A":"1","B":null},"envs":{"A":"2"}}"#).unwrap();
        let expected = [("A", "1"), ("B", ""), ("A", "2")];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(fields.texts("envs").unwrap(), expected);
    }
}
