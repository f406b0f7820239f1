//! One record to one line of JSON (telemetry contract, section 9).
//!
//! slog-json encodes; this module decides what it is given, notes where in its output each field
//! lies, and puts the pieces in the order of the contract. Never writes anywhere.

use std::cell::{Cell, RefCell};
use std::fmt::{self, Write as _};
use std::io;
use std::ops::Range;
use std::time::SystemTime;

use slog::{BorrowedKV, Drain, KV, Key, OwnedKVList, Record, RecordStatic, Serializer, o};

use super::order::{EVENT_KEY, positions};
use super::{level, timestamp};
use crate::telemetry::trace_context;

/// Written in place of a value whose own serialisation failed.
const UNREPRESENTABLE: &str = "(value cannot be written as JSON)";

/// Buffers longer than this are given back after a long record.
const KEPT_BYTES: usize = 16 * 1024;

/// Turns records into lines of one logger.
pub(super) struct Encoder {
    /// What stands between the time and the message: the logger's name.
    name: Vec<u8>,
    /// The baseline fields as they appear in every line, each with its leading comma.
    baseline: Vec<u8>,
    /// The keys no field may take, because the line has them already.
    reserved: Vec<String>,
    no_context: OwnedKVList,
}

/// The buffers of one encoding, kept from record to record so that none allocates.
#[derive(Default)]
pub(super) struct Scratch {
    encoded: Encoded,
    fields: Fields,
    line: Vec<u8>,
    clock: timestamp::Formatter,
}

/// What slog-json has written. Shared between it and the serializer that watches it.
#[derive(Default)]
struct Encoded(RefCell<Vec<u8>>);

impl Encoded {
    fn len(&self) -> usize {
        self.0.borrow().len()
    }
}

impl io::Write for &Encoded {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    /// slog-json writes a field in some nine pieces, so this is called often.
    #[inline]
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.borrow_mut().extend_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What became of a record.
pub(in crate::telemetry) struct Written<'s> {
    /// The line of the log, with its line feed.
    pub(in crate::telemetry) line: &'s [u8],
    /// The message and every field in the order slog emitted them, as one JSON object: what the
    /// line was made of.
    pub(in crate::telemetry) emitted: &'s [u8],
    /// How many of the fields belong to the logger rather than to the record.
    pub(in crate::telemetry) context_fields: usize,
    /// The trace flags, which are in neither.
    pub(in crate::telemetry) trace_flags: Option<u8>,
}

/// Where each field of a record lies.
#[derive(Default)]
struct Fields {
    list: Vec<Field>,
    trace_flags: Option<u8>,
    keys: String,
    formatted: String,
    /// Positions of the fields that made it into the line, to find repeated keys.
    written: Vec<usize>,
}

struct Field {
    /// In `Fields::keys`.
    key: Range<usize>,
    /// In `Encoded`, with the leading comma.
    text: Range<usize>,
}

impl Encoder {
    /// An encoder for the logger `name` whose lines all carry `baseline`.
    pub(super) fn new(name: &'static str, baseline: &[(String, String)]) -> Self {
        let mut encoder = Self {
            name: Vec::new(),
            baseline: Vec::new(),
            reserved: ["level", "ts", "logger", "msg"].map(String::from).to_vec(),
            no_context: o!().into(),
        };
        push_json(&mut encoder.name, "logger", name);
        for (key, value) in baseline {
            if !encoder.reserved.contains(key) {
                push_json(&mut encoder.baseline, key, value);
                encoder.reserved.push(key.clone());
            }
        }
        encoder
    }

    /// Encodes a record.
    pub(super) fn encode<'s>(
        &self,
        scratch: &'s mut Scratch,
        now: SystemTime,
        record: &Record<'_>,
        context: &OwnedKVList,
    ) -> Written<'s> {
        scratch.clear();
        let spread = Spread {
            record,
            context,
            encoded: &scratch.encoded,
            fields: RefCell::new(&mut scratch.fields),
            message: Cell::new(0),
            context_fields: Cell::new(0),
        };
        let outer = RecordStatic {
            location: record.location(),
            tag: record.tag(),
            level: record.level(),
        };
        // Writing to memory does not fail, and `Spread` answers for the errors of values.
        let _ = slog_json::Json::new(&scratch.encoded)
            .set_newlines(false)
            .build()
            .log(
                &Record::new(&outer, record.msg(), BorrowedKV(&spread)),
                &self.no_context,
            );
        let (message, context_fields) = (spread.message.get(), spread.context_fields.get());

        let encoded = scratch.encoded.0.borrow();
        let fields = &mut scratch.fields;
        let line = &mut scratch.line;
        line.extend_from_slice(b"{\"level\":\"");
        line.extend_from_slice(level::name(record.level()).as_bytes());
        line.extend_from_slice(b"\",\"ts\":\"");
        line.extend_from_slice(scratch.clock.rfc3339(now).as_bytes());
        line.push(b'"');
        line.extend_from_slice(&self.name);
        line.push(b',');
        // Without the brace slog-json began with.
        line.extend_from_slice(encoded.get(1..message).unwrap_or_default());
        line.extend_from_slice(&self.baseline);
        let event = fields
            .list
            .get(context_fields)
            .is_some_and(|first| fields.keys.get(first.key.clone()) == Some(EVENT_KEY));
        for position in positions(context_fields, fields.list.len(), event) {
            let Some(field) = fields.list.get(position) else {
                continue;
            };
            let key_of = |field: &Field| fields.keys.get(field.key.clone()).unwrap_or_default();
            let key = key_of(field);
            let taken = self.reserved.iter().any(|reserved| reserved == key)
                || fields.written.iter().any(|earlier| {
                    fields
                        .list
                        .get(*earlier)
                        .is_some_and(|earlier| key_of(earlier) == key)
                });
            if !taken {
                line.extend_from_slice(encoded.get(field.text.clone()).unwrap_or_default());
                fields.written.push(position);
            }
        }
        line.extend_from_slice(b"}\n");
        drop(encoded);
        escape_controls(&mut scratch.line);
        Written {
            line: &scratch.line,
            emitted: scratch.encoded.0.get_mut(),
            context_fields,
            trace_flags: scratch.fields.trace_flags,
        }
    }
}

impl Scratch {
    fn clear(&mut self) {
        fn clear(buffer: &mut Vec<u8>) {
            buffer.clear();
            buffer.shrink_to(KEPT_BYTES);
        }
        clear(self.encoded.0.get_mut());
        clear(&mut self.line);
        self.fields.list.clear();
        self.fields.trace_flags = None;
        self.fields.written.clear();
        self.fields.keys.clear();
        self.fields.formatted.shrink_to(KEPT_BYTES);
    }
}

/// A record's message, context and fields as one list for slog-json, with a note of what lies
/// where. What is the same in every line, and the time, need no encoding and are not in it.
struct Spread<'a, 'r> {
    record: &'a Record<'r>,
    context: &'a OwnedKVList,
    encoded: &'a Encoded,
    fields: RefCell<&'a mut Fields>,
    /// Where the encoded message ends.
    message: Cell<usize>,
    /// How many of the fields belong to the logger rather than to the record.
    context_fields: Cell<usize>,
}

impl KV for Spread<'_, '_> {
    fn serialize(&self, _: &Record<'_>, json: &mut dyn Serializer) -> slog::Result {
        let mut fields = self.fields.borrow_mut();
        let mut watch = Watch {
            json,
            encoded: self.encoded,
            fields: &mut fields,
        };
        watch.formatted(self.record.msg(), |watch, text| {
            watch.json.emit_str("msg".into(), text)
        })?;
        self.message.set(self.encoded.len());

        // An error ends the list it came from; what was encoded of it stays.
        let _ = self.context.serialize(self.record, &mut watch);
        self.context_fields.set(watch.fields.list.len());
        let _ = self.record.kv().serialize(self.record, &mut watch);
        Ok(())
    }
}

/// Passes fields on to slog-json and notes where each lies in what it writes.
struct Watch<'a, 'f> {
    json: &'a mut dyn Serializer,
    encoded: &'a Encoded,
    fields: &'a mut &'f mut Fields,
}

impl Watch<'_, '_> {
    fn field(
        &mut self,
        key: Key,
        emit: impl FnOnce(&mut dyn Serializer, Key) -> slog::Result,
    ) -> slog::Result {
        if key.as_str() == trace_context::FLAGS_KEY {
            return Ok(());
        }
        let (key_start, start) = (self.fields.keys.len(), self.encoded.len());
        self.fields.keys.push_str(key.as_str());
        if emit(self.json, key).is_err() {
            self.encoded.0.borrow_mut().truncate(start);
            let key = self.fields.keys.get(key_start..).unwrap_or_default();
            self.json
                .emit_str(Key::from(key.to_owned()), UNREPRESENTABLE)?;
        }
        self.fields.list.push(Field {
            key: key_start..self.fields.keys.len(),
            text: start..self.encoded.len(),
        });
        Ok(())
    }

    /// Formats `arguments` and hands the text on. A failing `Display` keeps what it wrote.
    fn formatted(
        &mut self,
        arguments: &fmt::Arguments<'_>,
        then: impl FnOnce(&mut Self, &str) -> slog::Result,
    ) -> slog::Result {
        if let Some(text) = arguments.as_str() {
            return then(self, text);
        }
        let mut text = std::mem::take(&mut self.fields.formatted);
        text.clear();
        let _ = text.write_fmt(*arguments);
        let result = then(self, &text);
        self.fields.formatted = text;
        result
    }
}

macro_rules! pass_on {
    ($($method:ident($kind:ty)),+ $(,)?) => {
        $(fn $method(&mut self, key: Key, value: $kind) -> slog::Result {
            self.field(key, |json, key| json.$method(key, value))
        })+
    };
}

impl Serializer for Watch<'_, '_> {
    pass_on!(
        emit_bool(bool),
        emit_char(char),
        emit_i8(i8),
        emit_u16(u16),
        emit_i16(i16),
        emit_u32(u32),
        emit_i32(i32),
        emit_u64(u64),
        emit_i64(i64),
        emit_u128(u128),
        emit_i128(i128),
        emit_usize(usize),
        emit_isize(isize),
        emit_f32(f32),
        emit_f64(f64),
        emit_str(&str),
        emit_serde(&dyn slog::SerdeValue),
    );

    fn emit_u8(&mut self, key: Key, value: u8) -> slog::Result {
        if key.as_str() == trace_context::FLAGS_KEY {
            self.fields.trace_flags = Some(value);
        }
        self.field(key, |json, key| json.emit_u8(key, value))
    }

    fn emit_unit(&mut self, key: Key) -> slog::Result {
        self.field(key, |json, key| json.emit_unit(key))
    }

    fn emit_none(&mut self, key: Key) -> slog::Result {
        self.field(key, |json, key| json.emit_none(key))
    }

    fn emit_arguments(&mut self, key: Key, value: &fmt::Arguments<'_>) -> slog::Result {
        self.formatted(value, |watch, text| watch.emit_str(key, text))
    }
}

/// Adds a field that is the same in every line, with its leading comma.
fn push_json(line: &mut Vec<u8>, key: &str, value: &str) {
    line.push(b',');
    // Writing a string to memory does not fail.
    let _ = serde_json::to_writer(&mut *line, key);
    line.push(b':');
    let _ = serde_json::to_writer(line, value);
}

/// Escapes what JSON allows to stand in a string but a terminal obeys or a line splitter breaks
/// at: DEL, the C1 controls, and the Unicode line and paragraph separators. Outside strings JSON
/// is plain ASCII, so every such character is inside one.
fn escape_controls(line: &mut Vec<u8>) {
    if line.is_ascii() && !line.contains(&0x7f) {
        return;
    }
    let is_control = |c: char| matches!(c, '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}');
    let Ok(text) = std::str::from_utf8(line) else {
        return;
    };
    if !text.contains(is_control) {
        return;
    }
    let mut escaped = String::with_capacity(line.len() + 16);
    for c in text.chars() {
        if is_control(c) {
            let _ = write!(escaped, "\\u{:04x}", u32::from(c));
        } else {
            escaped.push(c);
        }
    }
    *line = escaped.into_bytes();
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use slog::{b, record};
    use std::time::{Duration, UNIX_EPOCH};

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(1_795_218_707_822)
    }

    fn baseline(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    fn encode(encoder: &Encoder, record: &Record<'_>, context: &OwnedKVList) -> String {
        let mut scratch = Scratch::default();
        let written = encoder.encode(&mut scratch, now(), record, context);
        String::from_utf8(written.line.to_vec()).unwrap()
    }

    macro_rules! encoded {
        ($encoder:expr, $level:ident, $context:expr, $message:expr; $($fields:tt)*) => {
            encode(
                &$encoder,
                &record!(slog::Level::$level, "", &format_args!("{}", $message), b!($($fields)*)),
                &$context,
            )
        };
    }

    struct Event;

    impl KV for Event {
        fn serialize(&self, _: &Record<'_>, serializer: &mut dyn Serializer) -> slog::Result {
            serializer.emit_str(EVENT_KEY.into(), "test.happened")?;
            serializer.emit_str("target.host".into(), "a.test")?;
            serializer.emit_serde("rules".into(), &slog::Serde(vec![1, 2]))
        }
    }

    struct Fails;

    impl serde::Serialize for Fails {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            use serde::ser::{Error, SerializeSeq};
            let mut list = serializer.serialize_seq(None)?;
            list.serialize_element("half")?;
            Err(S::Error::custom("no more"))
        }
    }

    impl Clone for Fails {
        fn clone(&self) -> Self {
            Fails
        }
    }

    #[test]
    fn the_order_of_the_contract() {
        let encoder = Encoder::new(
            "opensandbox.egress",
            &baseline(&[("sandbox_id", "sb-abc"), ("tenant", "t1")]),
        );
        let context: OwnedKVList = o!("first" => 1, "second" => 2).into();
        assert_eq!(
            encoded!(encoder, Info, context, "hello"; "a" => 1, "b" => true, "c" => "x"),
            "{\"level\":\"info\",\"ts\":\"2026-11-20T23:51:47.822Z\",\
             \"logger\":\"opensandbox.egress\",\"msg\":\"hello\",\
             \"sandbox_id\":\"sb-abc\",\"tenant\":\"t1\",\
             \"first\":1,\"second\":2,\"a\":1,\"b\":true,\"c\":\"x\"}\n"
        );
        assert_eq!(
            encoded!(encoder, Critical, context, "hello"; Event),
            "{\"level\":\"error\",\"ts\":\"2026-11-20T23:51:47.822Z\",\
             \"logger\":\"opensandbox.egress\",\"msg\":\"hello\",\
             \"sandbox_id\":\"sb-abc\",\"tenant\":\"t1\",\
             \"first\":1,\"second\":2,\
             \"opensandbox.event\":\"test.happened\",\"target.host\":\"a.test\",\"rules\":[1,2]}\n"
        );
    }

    #[test]
    fn an_event_listed_with_a_macro_keeps_the_listed_order() {
        let encoder = Encoder::new("t", &[]);
        let line =
            encoded!(encoder, Info, o!().into(), "m"; o!(EVENT_KEY => "x", "b" => 2, "c" => 3));
        assert!(
            line.ends_with("\"opensandbox.event\":\"x\",\"b\":2,\"c\":3}\n"),
            "{line}"
        );
    }

    #[test]
    fn the_first_of_a_repeated_key_wins() {
        let encoder = Encoder::new(
            "t",
            &baseline(&[("sandbox_id", "sb"), ("msg", "no"), ("sandbox_id", "other")]),
        );
        let line = encoded!(encoder, Warning, o!("k" => "parent", "level" => "no").into(), "m";
            "sandbox_id" => "no", "k" => "no", "own" => "yes", "own" => "no", "msg" => "no");
        assert_eq!(
            line,
            "{\"level\":\"warn\",\"ts\":\"2026-11-20T23:51:47.822Z\",\"logger\":\"t\",\
             \"msg\":\"m\",\"sandbox_id\":\"sb\",\"k\":\"parent\",\"own\":\"yes\"}\n"
        );
    }

    #[test]
    fn nothing_breaks_out_of_a_line() {
        let encoder = Encoder::new("t", &baseline(&[("sandbox_id", "a\n\u{9b}b\"")]));
        let line = encoded!(encoder, Debug, o!().into(), "one\ntwo\r\u{1b}[31m\u{7f}\u{85}\u{2028}";
            "k\n\"" => "v\0\u{9b}é");
        assert!(line.ends_with('\n'));
        assert!(
            !line.trim_end_matches('\n').contains(char::is_control),
            "{line:?}"
        );
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["msg"], "one\ntwo\r\u{1b}[31m\u{7f}\u{85}\u{2028}");
        assert_eq!(value["sandbox_id"], "a\n\u{9b}b\"");
        assert_eq!(value["k\n\""], "v\0\u{9b}é");
    }

    #[test]
    fn a_value_that_fails_costs_only_itself() {
        let encoder = Encoder::new("t", &[]);
        let line = encoded!(encoder, Info, o!().into(), "m";
            "before" => 1, "bad" => slog::Serde(Fails), "after" => f64::NAN);
        assert!(
            line.ends_with(&format!(
                "\"before\":1,\"bad\":\"{UNREPRESENTABLE}\",\"after\":null}}\n"
            )),
            "{line}"
        );
    }

    #[test]
    fn kinds_of_values() {
        let encoder = Encoder::new("t", &[]);
        let error = std::io::Error::other("disk on fire");
        let line = encoded!(encoder, Info, o!().into(), "m";
            "u" => u64::MAX, "i" => i64::MIN, "f" => 1.5, "none" => None::<u8>, "c" => '"',
            "args" => format_args!("{}-{}", 1, 2), "error" => #&error);
        assert!(
            line.ends_with(
                "\"u\":18446744073709551615,\"i\":-9223372036854775808,\"f\":1.5,\"none\":null,\
                 \"c\":\"\\\"\",\"args\":\"1-2\",\"error\":\"disk on fire\"}\n"
            ),
            "{line}"
        );
    }

    proptest! {
        #[test]
        fn every_text_survives(message in any::<String>(), key in any::<String>(), value in any::<String>()) {
            let encoder = Encoder::new("t", &[]);
            let line = encoded!(encoder, Info, o!().into(), message; key.clone() => value.clone());
            prop_assert_eq!(line.matches('\n').count(), 1);
            prop_assert!(!line.trim_end().contains(|c: char| c.is_control()));
            let read: serde_json::Value = serde_json::from_str(&line).unwrap();
            prop_assert_eq!(read["msg"].as_str(), Some(message.as_str()));
            if !["level", "ts", "logger", "msg"].contains(&key.as_str()) {
                prop_assert_eq!(read[&key].as_str(), Some(value.as_str()));
            }
        }
    }
}
