//! slog records as OTLP log records (telemetry contract, section 9).
//!
//! The body is the message, the event name is the `opensandbox.event` field, and every field is
//! an attribute that keeps its type. Never formats what can be passed on as it is, and never
//! touches the JSON log.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use opentelemetry::logs::{AnyValue, LogRecord, Logger, LoggerProvider, Severity};
use opentelemetry::{Key, SpanId, StringValue, TraceFlags, TraceId};
use opentelemetry_sdk::logs::{SdkLogger, SdkLoggerProvider};
use slog::{KV, OwnedKVList, Record, Serializer};

use super::log::{EVENT_KEY, positions};
use super::trace_context::{FLAGS_KEY, SPAN_ID_KEY, TRACE_ID_KEY, parse_id};

/// Distinct keys and event names that are remembered. An event beyond them has its name as an
/// attribute only; a key beyond them is allocated for each record.
const NAMES: usize = 256;
/// Places looked at for a name before it counts as beyond them.
const PROBES: usize = 8;

/// Turns the records of one logger into records of the SDK.
pub(super) struct Bridge {
    logger: SdkLogger,
    baseline: Vec<(Key, AnyValue)>,
    names: Names,
}

impl Bridge {
    /// A bridge to `provider`, with `scope` as the instrumentation scope and `baseline` on every
    /// record.
    pub(super) fn new(
        provider: &SdkLoggerProvider,
        scope: &'static str,
        baseline: &[(String, String)],
    ) -> Self {
        let mut attributes: Vec<(Key, AnyValue)> = Vec::with_capacity(baseline.len());
        for (key, value) in baseline {
            if !attributes
                .iter()
                .any(|(earlier, _)| earlier.as_str() == key)
            {
                let value = StringValue::from(Arc::<str>::from(value.as_str()));
                attributes.push((Key::from(Arc::<str>::from(key.as_str())), value.into()));
            }
        }
        Self {
            logger: provider.logger(scope),
            baseline: attributes,
            names: Names([const { OnceLock::new() }; NAMES]),
        }
    }

    /// Hands the record on, stamped with `now`.
    pub(super) fn emit(&self, now: SystemTime, record: &Record<'_>, context: &OwnedKVList) {
        let severity = severity(record.level());
        if !self.logger.event_enabled(severity, "", None) {
            return;
        }
        let mut fields = Fields::default();
        // An error ends the list it came from; the fields before it stay.
        let _ = context.serialize(record, &mut fields);
        let context_fields = fields.list.len();
        let _ = record.kv().serialize(record, &mut fields);

        let mut out = self.logger.create_log_record();
        out.set_timestamp(now);
        out.set_observed_timestamp(now);
        out.set_severity_number(severity);
        out.set_severity_text(severity_text(severity));
        out.set_body(text(record.msg()));
        if let (Some(trace_id), Some(span_id)) = (fields.trace_id, fields.span_id) {
            out.set_trace_context(
                TraceId::from_bytes(trace_id),
                SpanId::from_bytes(span_id),
                fields.flags.map(TraceFlags::new),
            );
        }
        for (key, value) in &self.baseline {
            out.add_attribute(key.clone(), value.clone());
        }
        let is_event = |field: &Option<(slog::Key, AnyValue)>| {
            field
                .as_ref()
                .is_some_and(|(key, _)| key.as_str() == EVENT_KEY)
        };
        let event = fields.list.get(context_fields).is_some_and(is_event);
        let mut written: Vec<slog::Key> = Vec::with_capacity(fields.list.len());
        for position in positions(context_fields, fields.list.len(), event) {
            let Some((key, value)) = fields.list.get_mut(position).and_then(Option::take) else {
                continue;
            };
            if written.contains(&key)
                || self
                    .baseline
                    .iter()
                    .any(|(baseline, _)| baseline.as_str() == key.as_str())
            {
                continue;
            }
            if key.as_str() == EVENT_KEY
                && let AnyValue::String(name) = &value
                && let Some(name) = self.names.get(name.as_str())
            {
                out.set_event_name(name);
            }
            let name = match self.names.get(key.as_str()) {
                Some(name) => Key::from(name),
                None => Key::from(key.as_str().to_owned()),
            };
            out.add_attribute(name, value);
            written.push(key);
        }
        self.logger.emit(out);
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

fn text(arguments: &fmt::Arguments<'_>) -> AnyValue {
    match arguments.as_str() {
        Some(text) => text.into(),
        None => arguments.to_string().into(),
    }
}

/// Texts that live as long as the process, which the SDK asks of an event name and which spare
/// an allocation for a key. Both are written in the source, so there are few; the bound holds
/// should that ever not be so.
struct Names([OnceLock<&'static str>; NAMES]);

impl Names {
    fn get(&self, name: &str) -> Option<&'static str> {
        // FNV-1a: the names are short, and nobody outside chooses them.
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let first = hash as usize % NAMES;
        (first..first + PROBES)
            .filter_map(|place| self.0.get(place % NAMES))
            .map(|slot| *slot.get_or_init(|| Box::leak(name.into())))
            .find(|known| *known == name)
    }
}

/// The fields of a record as they were emitted, without those that are not attributes.
#[derive(Default)]
struct Fields {
    list: Vec<Option<(slog::Key, AnyValue)>>,
    trace_id: Option<[u8; 16]>,
    span_id: Option<[u8; 8]>,
    flags: Option<u8>,
}

impl Fields {
    fn add(&mut self, key: slog::Key, value: impl Into<AnyValue>) -> slog::Result {
        self.list.push(Some((key, value.into())));
        Ok(())
    }

    /// A number as an integer, or as text where 64 bits with a sign cannot hold it.
    fn add_integer<N>(&mut self, key: slog::Key, number: N) -> slog::Result
    where
        N: Copy + TryInto<i64> + fmt::Display,
    {
        match number.try_into() {
            Ok(number) => self.add(key, AnyValue::Int(number)),
            Err(_) => self.add(key, number.to_string()),
        }
    }
}

macro_rules! typed {
    ($($method:ident($kind:ty) as $add:ident),+ $(,)?) => {
        $(fn $method(&mut self, key: slog::Key, value: $kind) -> slog::Result {
            self.$add(key, value)
        })+
    };
}

impl Serializer for Fields {
    typed!(
        emit_bool(bool) as add,
        emit_i8(i8) as add,
        emit_u16(u16) as add,
        emit_i16(i16) as add,
        emit_u32(u32) as add,
        emit_i32(i32) as add,
        emit_i64(i64) as add,
        emit_u64(u64) as add_integer,
        emit_i128(i128) as add_integer,
        emit_u128(u128) as add_integer,
        emit_usize(usize) as add_integer,
        emit_isize(isize) as add_integer,
        emit_f32(f32) as add,
        emit_f64(f64) as add,
    );

    fn emit_u8(&mut self, key: slog::Key, value: u8) -> slog::Result {
        if key.as_str() == FLAGS_KEY {
            self.flags = Some(value);
            return Ok(());
        }
        self.add(key, value)
    }

    fn emit_char(&mut self, key: slog::Key, value: char) -> slog::Result {
        self.add(key, value.to_string())
    }

    fn emit_str(&mut self, key: slog::Key, value: &str) -> slog::Result {
        match key.as_str() {
            TRACE_ID_KEY if self.trace_id.is_none() => self.trace_id = parse_id(value),
            SPAN_ID_KEY if self.span_id.is_none() => self.span_id = parse_id(value),
            _ => return self.add(key, value.to_owned()),
        }
        Ok(())
    }

    fn emit_arguments(&mut self, key: slog::Key, value: &fmt::Arguments<'_>) -> slog::Result {
        self.add(key, text(value))
    }

    /// OTLP attributes have no null: the attribute is absent.
    fn emit_unit(&mut self, _: slog::Key) -> slog::Result {
        Ok(())
    }

    /// OTLP attributes have no null: the attribute is absent.
    fn emit_none(&mut self, _: slog::Key) -> slog::Result {
        Ok(())
    }

    fn emit_bytes(&mut self, key: slog::Key, value: &[u8], _: slog::BytesKind) -> slog::Result {
        self.add(key, value)
    }

    fn emit_serde(&mut self, key: slog::Key, value: &dyn slog::SerdeValue) -> slog::Result {
        match serde_json::to_value(value.as_serde()).ok().and_then(nested) {
            Some(value) => self.add(key, value),
            None => Ok(()),
        }
    }
}

/// A JSON value with its types; `None` for null, which is also left out of lists and maps.
fn nested(value: serde_json::Value) -> Option<AnyValue> {
    use serde_json::Value;
    Some(match value {
        Value::Null => return None,
        Value::Bool(value) => value.into(),
        Value::String(value) => value.into(),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(integer), _) => integer.into(),
            (None, Some(float)) if number.is_f64() => float.into(),
            _ => number.to_string().into(),
        },
        Value::Array(values) => values.into_iter().filter_map(nested).collect(),
        Value::Object(fields) => fields
            .into_iter()
            .filter_map(|(key, value)| Some((key, nested(value)?)))
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_kept_once_and_bounded() {
        let names = Names([const { OnceLock::new() }; NAMES]);
        let first = names.get("target.host").unwrap();
        assert!(std::ptr::eq(first, names.get("target.host").unwrap()));
        let kept = (0..10 * NAMES)
            .filter(|number| {
                let name = format!("name {number}");
                names.get(&name).is_some_and(|kept| kept == name)
            })
            .count();
        assert!((NAMES / 2..NAMES).contains(&kept), "{kept}");
        assert_eq!(names.get("target.host"), Some(first));
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
        assert_eq!(nested(value), Some([("a", list)].into_iter().collect()));
        assert_eq!(nested(serde_json::Value::Null), None);
    }
}
