//! slog records as OTLP log records (telemetry contract, section 9).
//!
//! The body is the message, the event name is the `opensandbox.event` field, and every field is
//! an attribute that keeps its type. The thread that logs only copies what the JSON log has
//! encoded already; the thread that exports makes the record of the SDK of it. Never touches the
//! JSON log.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use opentelemetry::logs::{AnyValue, LogRecord as _, Logger as _, LoggerProvider as _, Severity};
use opentelemetry::{InstrumentationScope, Key, SpanId, StringValue, TraceFlags, TraceId};
use opentelemetry_sdk::logs::{SdkLogRecord, SdkLogger, SdkLoggerProvider};
use serde::de::{Deserializer as _, MapAccess, Visitor};
use serde_json::Value;

use super::log::{EVENT_KEY, Written, positions};
use super::trace_context::{SPAN_ID_KEY, TRACE_ID_KEY, parse_id};

/// Distinct keys and event names that an [`Unpacker`] remembers. An event beyond them has its name
/// as an attribute only; a key beyond them is allocated for each record.
const NAMES: usize = 256;

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

/// Turns the records of one logger into records of the SDK.
pub struct Unpacker {
    /// Only makes empty records; nothing is emitted through it.
    logger: SdkLogger,
    scope: InstrumentationScope,
    baseline: Vec<(Key, AnyValue)>,
    names: Names,
}

impl Unpacker {
    /// For the logger `scope`, with `baseline` on every record.
    #[must_use]
    pub fn new<'a>(
        scope: &'static str,
        baseline: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Self {
        let mut attributes: Vec<(Key, AnyValue)> = Vec::new();
        for (key, value) in baseline {
            if !attributes
                .iter()
                .any(|(earlier, _)| earlier.as_str() == key)
            {
                let value = StringValue::from(Arc::<str>::from(value));
                attributes.push((Key::from(Arc::<str>::from(key)), value.into()));
            }
        }
        let provider = SdkLoggerProvider::builder().build();
        let logger = provider.logger(scope);
        // There is nothing to shut down, but a provider that was not would report its end.
        let _ = provider.shutdown();
        Self {
            logger,
            scope: InstrumentationScope::builder(scope).build(),
            baseline: attributes,
            names: Names::default(),
        }
    }

    /// The scope of every record.
    pub(super) fn scope(&self) -> &InstrumentationScope {
        &self.scope
    }

    /// The record of the SDK.
    pub(super) fn unpack(&mut self, packed: &Packed) -> SdkLogRecord {
        let severity = severity(packed.level);
        let mut out = self.logger.create_log_record();
        out.set_timestamp(packed.at);
        out.set_observed_timestamp(packed.at);
        out.set_severity_number(severity);
        out.set_severity_text(severity_text(severity));
        for (key, value) in &self.baseline {
            out.add_attribute(key.clone(), value.clone());
        }
        match Emitted::parse(&packed.emitted) {
            Ok(emitted) => self.add(&mut out, emitted, packed),
            // Values nested too deep to be read back: better shown as they are than lost.
            Err(_) => {
                out.set_body(String::from_utf8_lossy(&packed.emitted).into_owned().into());
            }
        }
        out
    }

    fn add(&mut self, out: &mut SdkLogRecord, emitted: Emitted, packed: &Packed) {
        let Emitted { message, mut list } = emitted;
        out.set_body(message.into());
        let mut id = |key| {
            list.iter_mut()
                .find(|field| field.as_ref().is_some_and(|(name, _)| name == key))
                .and_then(Option::take)
        };
        let trace_id = id(TRACE_ID_KEY).and_then(|(_, id)| parse_id(id.as_str()?));
        let span_id = id(SPAN_ID_KEY).and_then(|(_, id)| parse_id(id.as_str()?));
        if let (Some(trace_id), Some(span_id)) = (trace_id, span_id) {
            out.set_trace_context(
                TraceId::from_bytes(trace_id),
                SpanId::from_bytes(span_id),
                packed.trace_flags.map(TraceFlags::new),
            );
        }
        let context = packed.context_fields.min(list.len());
        let first = list.get(context).and_then(Option::as_ref);
        let event = first.is_some_and(|(key, _)| key == EVENT_KEY);
        let mut written: Vec<String> = Vec::with_capacity(list.len());
        for position in positions(context, list.len(), event) {
            let Some((key, value)) = list.get_mut(position).and_then(Option::take) else {
                continue;
            };
            let in_baseline = self.baseline.iter().any(|(taken, _)| taken.as_str() == key);
            if in_baseline || written.contains(&key) {
                continue;
            }
            if key == EVENT_KEY
                && let Some(name) = value.as_str().and_then(|name| self.names.get(name))
            {
                out.set_event_name(name);
            }
            // OTLP attributes have no null: the attribute is absent.
            if let Some(value) = any_value(value) {
                let name = match self.names.get(&key) {
                    Some(name) => Key::from(name),
                    None => Key::from(key.clone()),
                };
                out.add_attribute(name, value);
            }
            written.push(key);
        }
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

/// The numbers of the data model. As in the JSON log there are four severities.
fn severity(level: slog::Level) -> Severity {
    match level {
        slog::Level::Critical | slog::Level::Error => Severity::Error,
        slog::Level::Warning => Severity::Warn,
        slog::Level::Info => Severity::Info,
        slog::Level::Debug | slog::Level::Trace => Severity::Debug,
    }
}

/// The severity as the JSON log writes it.
fn severity_text(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "error",
        Severity::Warn => "warn",
        Severity::Info => "info",
        _ => "debug",
    }
}

/// Texts that live as long as the process, which the SDK asks of an event name and which spare
/// an allocation for a key. Both are written in the source, so there are few; the bound holds
/// should that ever not be so.
#[derive(Default)]
struct Names(HashSet<&'static str>);

impl Names {
    fn get(&mut self, name: &str) -> Option<&'static str> {
        if let Some(known) = self.0.get(name) {
            return Some(known);
        }
        if self.0.len() >= NAMES {
            return None;
        }
        let name: &'static str = Box::leak(name.into());
        self.0.insert(name);
        Some(name)
    }
}

/// A JSON value with its types; `None` for null, which is also left out of lists and maps.
fn any_value(value: Value) -> Option<AnyValue> {
    Some(match value {
        Value::Null => return None,
        Value::Bool(value) => value.into(),
        Value::String(value) => value.into(),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(integer), _) => integer.into(),
            (None, Some(float)) if number.is_f64() => float.into(),
            _ => number.to_string().into(),
        },
        Value::Array(values) => values.into_iter().filter_map(any_value).collect(),
        Value::Object(fields) => fields
            .into_iter()
            .filter_map(|(key, value)| Some((key, any_value(value)?)))
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_kept_once_and_bounded() {
        let mut names = Names::default();
        let first = names.get("target.host").unwrap();
        assert!(std::ptr::eq(first, names.get("target.host").unwrap()));
        let kept = (0..10 * NAMES)
            .filter(|number| names.get(&format!("name {number}")).is_some())
            .count();
        assert_eq!(kept, NAMES - 1);
        assert_eq!(names.get("target.host"), Some(first));
    }

    #[test]
    fn what_cannot_be_read_back_is_the_body() {
        let deep = format!(
            "{{\"msg\":\"m\",\"a\":{}{}}}",
            "[".repeat(200),
            "]".repeat(200)
        );
        let packed = Packed {
            at: SystemTime::UNIX_EPOCH,
            level: slog::Level::Info,
            trace_flags: None,
            context_fields: 0,
            emitted: deep.as_bytes().into(),
        };
        let record = Unpacker::new("test", [("tenant", "t1")]).unpack(&packed);
        assert_eq!(record.body(), Some(&AnyValue::from(deep)));
        assert_eq!(record.attributes_iter().count(), 1);
    }

    #[test]
    fn nested_values_keep_their_types() {
        let value = serde_json::json!({"a": [1, -2.5, true, null, "x", u64::MAX], "b": null});
        let list: AnyValue = [
            AnyValue::from(1),
            AnyValue::from(-2.5),
            AnyValue::from(true),
            AnyValue::from("x"),
            AnyValue::from(u64::MAX.to_string()),
        ]
        .into_iter()
        .collect();
        assert_eq!(any_value(value), Some([("a", list)].into_iter().collect()));
        assert_eq!(any_value(serde_json::Value::Null), None);
    }
}
