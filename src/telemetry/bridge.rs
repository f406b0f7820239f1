//! slog records as OTLP log records (telemetry contract, section 9).
//!
//! The body is the message, the event name is the `opensandbox.event` field, and every field is
//! an attribute that keeps its type. The thread that logs only copies what the JSON log has
//! encoded already; the thread that exports makes the record of it, and makes it in the form that
//! is sent: the SDK's own form would be built only to be copied. Never touches the JSON log.

use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue, KeyValueList};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, SeverityNumber};
use serde::de::{Deserializer as _, MapAccess, Visitor};
use serde_json::Value;

use super::log::{EVENT_KEY, Written, positions};
use super::trace_context::{SPAN_ID_KEY, TRACE_ID_KEY, parse_id};

/// A record on its way to an exporter. Clones share it.
#[derive(Clone, Debug)]
pub struct Packed {
    at: SystemTime,
    level: slog::Level,
    trace_flags: Option<u8>,
    context_fields: usize,
    /// The message and the fields as emitted; see [`Written`].
    emitted: Arc<[u8]>,
}

impl Packed {
    /// Copies a record of `level` that was stamped `at`.
    pub(super) fn new(at: SystemTime, level: slog::Level, written: &Written<'_>) -> Self {
        Self {
            at,
            level,
            trace_flags: written.trace_flags,
            context_fields: written.context_fields,
            emitted: written.emitted.into(),
        }
    }

    /// How much memory it takes, in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        size_of::<Self>() + self.emitted.len()
    }
}

/// Turns the records of one logger into records of the protocol.
pub struct Unpacker {
    baseline: Vec<KeyValue>,
}

impl Unpacker {
    /// With `baseline` on every record.
    #[must_use]
    pub fn new<'a>(baseline: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut attributes: Vec<KeyValue> = Vec::new();
        for (key, value) in baseline {
            if !attributes.iter().any(|earlier| earlier.key == key) {
                attributes.push(attribute(
                    key.to_owned(),
                    Any::StringValue(value.to_owned()),
                ));
            }
        }
        Self {
            baseline: attributes,
        }
    }

    /// The record of the protocol.
    pub(super) fn unpack(&self, packed: &Packed) -> LogRecord {
        let (number, text) = severity(packed.level);
        let since = packed.at.duration_since(UNIX_EPOCH).unwrap_or_default();
        let at = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
        let mut out = LogRecord {
            time_unix_nano: at,
            observed_time_unix_nano: at,
            severity_number: number.into(),
            severity_text: text.to_owned(),
            attributes: self.baseline.clone(),
            ..LogRecord::default()
        };
        let body = match Emitted::parse(&packed.emitted) {
            Ok(emitted) => self.add(&mut out, emitted, packed),
            // Values nested too deep to be read back: better shown as they are than lost.
            Err(_) => String::from_utf8_lossy(&packed.emitted).into_owned(),
        };
        out.body = Some(any(Any::StringValue(body)));
        out
    }

    /// Adds the fields; gives the message back.
    fn add(&self, out: &mut LogRecord, emitted: Emitted, packed: &Packed) -> String {
        let Emitted { message, mut list } = emitted;
        let mut id = |key| {
            list.iter_mut()
                .find(|field| field.as_ref().is_some_and(|(name, _)| name == key))
                .and_then(Option::take)
        };
        let trace_id = id(TRACE_ID_KEY).and_then(|(_, id)| parse_id::<16>(id.as_str()?));
        let span_id = id(SPAN_ID_KEY).and_then(|(_, id)| parse_id::<8>(id.as_str()?));
        if let (Some(trace_id), Some(span_id)) = (trace_id, span_id) {
            out.trace_id = trace_id.to_vec();
            out.span_id = span_id.to_vec();
            out.flags = packed.trace_flags.map_or(0, u32::from);
        }
        let context = packed.context_fields.min(list.len());
        let first = list.get(context).and_then(Option::as_ref);
        let event = first.is_some_and(|(key, _)| key == EVENT_KEY);
        for position in positions(context, list.len(), event) {
            let Some((key, value)) = list.get_mut(position).and_then(Option::take) else {
                continue;
            };
            if out.attributes.iter().any(|earlier| earlier.key == key) {
                continue;
            }
            if key == EVENT_KEY
                && let Some(name) = value.as_str()
            {
                out.event_name = name.to_owned();
            }
            // OTLP attributes have no null: the attribute is absent.
            if let Some(value) = any_value(value) {
                out.attributes.push(attribute(key, value));
            }
        }
        message
    }
}

fn any(value: Any) -> AnyValue {
    AnyValue { value: Some(value) }
}

fn attribute(key: String, value: Any) -> KeyValue {
    KeyValue {
        key,
        value: Some(any(value)),
        ..KeyValue::default()
    }
}

/// What was emitted: the message, and the fields in order, repeated ones included.
struct Emitted {
    message: String,
    list: Vec<Option<(String, Value)>>,
}

impl Emitted {
    fn parse(object: &[u8]) -> serde_json::Result<Self> {
        serde_json::Deserializer::from_slice(object).deserialize_map(Fields)
    }
}

struct Fields;

impl<'de> Visitor<'de> for Fields {
    type Value = Emitted;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a message and fields")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Emitted, A::Error> {
        let message: Option<(String, String)> = map.next_entry()?;
        let mut list = Vec::new();
        while let Some(field) = map.next_entry()? {
            list.push(Some(field));
        }
        Ok(Emitted {
            message: message.map(|(_, text)| text).unwrap_or_default(),
            list,
        })
    }
}

/// The numbers of the data model, and the texts of the JSON log: in both there are four.
fn severity(level: slog::Level) -> (SeverityNumber, &'static str) {
    match level {
        slog::Level::Critical | slog::Level::Error => (SeverityNumber::Error, "error"),
        slog::Level::Warning => (SeverityNumber::Warn, "warn"),
        slog::Level::Info => (SeverityNumber::Info, "info"),
        slog::Level::Debug | slog::Level::Trace => (SeverityNumber::Debug, "debug"),
    }
}

/// A JSON value with its types; `None` for null, which is also left out of lists and maps. An
/// integer that 64 bits with a sign cannot hold becomes text.
fn any_value(value: Value) -> Option<Any> {
    Some(match value {
        Value::Null => return None,
        Value::Bool(value) => Any::BoolValue(value),
        Value::String(value) => Any::StringValue(value),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(integer), _) => Any::IntValue(integer),
            (None, Some(float)) if number.is_f64() => Any::DoubleValue(float),
            _ => Any::StringValue(number.to_string()),
        },
        Value::Array(values) => Any::ArrayValue(ArrayValue {
            values: values.into_iter().filter_map(any_value).map(any).collect(),
        }),
        Value::Object(fields) => Any::KvlistValue(KeyValueList {
            values: fields
                .into_iter()
                .filter_map(|(key, value)| Some(attribute(key, any_value(value)?)))
                .collect(),
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_back_is_the_body() {
        let deep = format!(
            "{{\"msg\":\"m\",\"a\":{}{}}}",
            "[".repeat(200),
            "]".repeat(200)
        );
        let packed = Packed {
            at: UNIX_EPOCH,
            level: slog::Level::Info,
            trace_flags: None,
            context_fields: 0,
            emitted: deep.as_bytes().into(),
        };
        let record = Unpacker::new([("tenant", "t1"), ("tenant", "t2")]).unpack(&packed);
        assert_eq!(record.body, Some(any(Any::StringValue(deep))));
        let tenant = attribute("tenant".to_owned(), Any::StringValue("t1".to_owned()));
        assert_eq!(record.attributes, [tenant]);
    }

    #[test]
    fn nested_values_keep_their_types() {
        let value = serde_json::json!({"a": [1, -2.5, true, null, "x", u64::MAX], "b": null});
        let values = [
            Any::IntValue(1),
            Any::DoubleValue(-2.5),
            Any::BoolValue(true),
            Any::StringValue("x".to_owned()),
            Any::StringValue(u64::MAX.to_string()),
        ];
        let list = Any::ArrayValue(ArrayValue {
            values: values.map(any).to_vec(),
        });
        let map = Any::KvlistValue(KeyValueList {
            values: vec![attribute("a".to_owned(), list)],
        });
        assert_eq!(any_value(value), Some(map));
        assert_eq!(any_value(Value::Null), None);
    }
}
