//! One record to one line of JSON and, if it is exported, to one record of OTLP (telemetry
//! contract, section 9).
//!
//! Both are written field by field as slog hands the fields over, with a note of where each lies:
//! most records need nothing more. Where the order of the contract is another, or a key comes
//! twice, the pieces are put in place afterwards. Structures are written by slog-json. Never writes
//! anywhere but to memory.

use std::fmt::{self, Write as _};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use slog::{BorrowedKV, Drain, KV, Key, OwnedKVList, Record, RecordStatic, Serializer, o};

use super::keys::{Keys, Known};
use super::order::positions;
use super::{level, timestamp};
use crate::json::{self, Escapes};
use crate::telemetry::bridge::{Attributes, Wire};
use crate::telemetry::trace_context;

/// Written in place of a value whose own serialisation failed.
const UNREPRESENTABLE: &str = "(value cannot be written as JSON)";

/// Buffers longer than this are given back after a long record.
const KEPT_BYTES: usize = 16 * 1024;

/// The keys a line has already.
pub(super) const RESERVED: [&str; 4] = ["level", "ts", "logger", "msg"];

/// How many encoders there were before, and one.
static ENCODERS: AtomicU64 = AtomicU64::new(1);

/// Turns records into lines of one logger.
pub(super) struct Encoder {
    /// What stands between the time and the text of the message: the logger's name.
    name: Vec<u8>,
    /// The baseline fields as they appear in every line, each with its leading comma.
    baseline: Vec<u8>,
    /// The same as OTLP has them.
    attributes: Attributes,
    /// The keys of the baseline, which no field may take.
    taken: Vec<String>,
    /// Tells it from every other encoder.
    number: u64,
    no_context: OwnedKVList,
}

/// The buffers of one encoding, kept from record to record so that none allocates.
#[derive(Default)]
pub(super) struct Scratch {
    line: Vec<u8>,
    wire: Wire,
    keys: Keys,
    fields: Fields,
    clock: timestamp::Formatter,
}

/// What became of a record.
pub(in crate::telemetry) struct Written<'s> {
    /// The line of the log, with its line feed.
    pub(in crate::telemetry) line: &'s [u8],
    /// The record of OTLP, framed; empty if it was not asked for.
    pub(in crate::telemetry) record: &'s [u8],
}

/// Where each field of a record lies, and what it takes to find out.
#[derive(Default)]
struct Fields {
    list: Vec<Field>,
    /// How many of them belong to the logger rather than to the record.
    of_context: usize,
    trace_flags: Option<u8>,
    /// A key came twice, or one that no field may take.
    is_mixed: bool,
    order: Vec<Place>,
    /// Texts that had to be formatted.
    formatted: String,
    /// What slog-json writes.
    json: Vec<u8>,
    /// Pieces that are being put in order.
    pieces: Vec<u8>,
}

struct Field {
    /// In [`Keys`].
    key: usize,
    /// In the line, with the leading comma.
    text: Range<usize>,
    /// In the record of OTLP.
    wire: Range<usize>,
}

/// The place of a field in the order of the contract.
struct Place {
    /// In [`Fields::list`].
    field: usize,
    in_line: bool,
    in_record: bool,
}

impl Encoder {
    /// An encoder for the logger `name` whose lines all carry `baseline`.
    pub(super) fn new(name: &'static str, baseline: &[(String, String)]) -> Self {
        let mut encoder = Self {
            name: b"\",\"logger\":\"".to_vec(),
            baseline: Vec::new(),
            attributes: Attributes::new([]),
            taken: baseline.iter().map(|(key, _)| key.clone()).collect(),
            number: ENCODERS.fetch_add(1, Ordering::Relaxed),
            no_context: o!().into(),
        };
        escape(name, &mut encoder.name);
        encoder.name.extend_from_slice(b"\",\"msg\":\"");
        let mut distinct: Vec<(&str, &str)> = Vec::new();
        for (key, value) in baseline {
            if distinct.iter().any(|(earlier, _)| earlier == key) {
                continue;
            }
            distinct.push((key, value));
            if !RESERVED.contains(&key.as_str()) {
                open(key, &mut encoder.baseline);
                quoted(value, &mut encoder.baseline);
            }
        }
        encoder.attributes = Attributes::new(distinct);
        encoder
    }

    /// Encodes a record, for OTLP too if it is to be `exported`.
    pub(super) fn encode<'s>(
        &self,
        scratch: &'s mut Scratch,
        now: SystemTime,
        record: &Record<'_>,
        context: &OwnedKVList,
        exported: bool,
    ) -> Written<'s> {
        scratch.clear();
        let Scratch {
            line,
            wire,
            keys,
            fields,
            clock,
        } = scratch;
        keys.begin(self.number);
        line.extend_from_slice(b"{\"level\":\"");
        line.extend_from_slice(level::name(record.level()).as_bytes());
        line.extend_from_slice(b"\",\"ts\":\"");
        line.extend_from_slice(clock.rfc3339(now).as_bytes());
        line.extend_from_slice(&self.name);
        let message = text_of(record.msg(), &mut fields.formatted);
        escape(message, line);
        if exported {
            wire.begin(now, record.level(), message, &self.attributes);
        }
        line.push(b'"');
        line.extend_from_slice(&self.baseline);

        let (line_start, wire_start) = (line.len(), wire.len());
        let mut watch = Watch {
            encoder: self,
            line,
            wire,
            keys,
            fields,
        };
        // An error ends the list it came from; what was encoded of it stays.
        let _ = context.serialize(record, &mut watch);
        watch.fields.of_context = watch.fields.list.len();
        let _ = record.kv().serialize(record, &mut watch);

        if !fields.in_order(keys) {
            fields.find_places(keys);
            fields.arrange(line, line_start, |field| &field.text, |place| place.in_line);
            let octets = wire.octets();
            fields.arrange(
                octets,
                wire_start,
                |field| &field.wire,
                |place| place.in_record,
            );
        }
        line.extend_from_slice(b"}\n");
        if let Some(flags) = fields.trace_flags {
            wire.flags(flags);
        }
        Written {
            line: &scratch.line,
            record: scratch.wire.finish(),
        }
    }

    /// Lets slog-json write `structure`; `None` when that fails.
    fn slog_json<'j>(
        &self,
        json: &'j mut Vec<u8>,
        structure: &dyn slog::SerdeValue,
    ) -> Option<&'j [u8]> {
        /// Between the braces of an object, before the value.
        const KEY: &[u8] = b"{\"\":";
        static OUTER: RecordStatic<'static> = slog::record_static!(slog::Level::Info, "");
        json.clear();
        slog_json::Json::new(&mut *json)
            .set_newlines(false)
            .build()
            .log(
                &Record::new(&OUTER, &format_args!(""), BorrowedKV(&Nameless(structure))),
                &self.no_context,
            )
            .ok()?;
        json.strip_prefix(KEY)?.strip_suffix(b"}")
    }
}

impl Scratch {
    fn clear(&mut self) {
        fn clear(buffer: &mut Vec<u8>) {
            buffer.clear();
            buffer.shrink_to(KEPT_BYTES);
        }
        clear(&mut self.line);
        self.wire.clear(KEPT_BYTES);
        self.fields.list.clear();
        self.fields.of_context = 0;
        self.fields.trace_flags = None;
        self.fields.is_mixed = false;
        self.fields.formatted.shrink_to(KEPT_BYTES);
        clear(&mut self.fields.json);
        clear(&mut self.fields.pieces);
    }
}

impl Fields {
    /// Whether the record is that of an event.
    fn is_event(&self, keys: &Keys) -> bool {
        let first = self.list.get(self.of_context);
        first.is_some_and(|first| keys.get(first.key).is_event)
    }

    /// Whether every field is in its place already.
    fn in_order(&self, keys: &Keys) -> bool {
        let own = self.list.len() - self.of_context;
        !self.is_mixed && self.of_context < 2 && (own < 2 || self.is_event(keys))
    }

    /// Finds the place of each field.
    fn find_places(&mut self, keys: &mut Keys) {
        self.order.clear();
        let is_event = self.is_event(keys);
        for position in positions(self.of_context, self.list.len(), is_event) {
            let Some(field) = self.list.get(position) else {
                continue;
            };
            let is_first = keys.place(field.key);
            let known = keys.get(field.key);
            self.order.push(Place {
                field: position,
                in_line: is_first && known.in_line,
                in_record: is_first && known.in_record,
            });
        }
    }

    /// Puts the pieces of `octets` from `start` on in order, and leaves out what does not belong.
    fn arrange(
        &mut self,
        octets: &mut Vec<u8>,
        start: usize,
        piece: impl Fn(&Field) -> &Range<usize>,
        belongs: impl Fn(&Place) -> bool,
    ) {
        self.pieces.clear();
        for place in self.order.iter().filter(|place| belongs(place)) {
            let range = self.list.get(place.field).map(&piece).cloned();
            let piece = range.and_then(|range| octets.get(range));
            self.pieces.extend_from_slice(piece.unwrap_or_default());
        }
        octets.truncate(start);
        octets.extend_from_slice(&self.pieces);
    }
}

/// The value of a field, as far as JSON and OTLP tell kinds apart.
#[derive(Clone, Copy)]
enum Value<'v> {
    Null,
    Bool(bool),
    Integer(i64),
    /// Beyond the other, in digits.
    Large(&'v str),
    Single(f32),
    Double(f64),
    Text(&'v str),
    Structure(&'v dyn slog::SerdeValue),
}

/// Writes fields as they come and notes where each lies.
struct Watch<'a> {
    encoder: &'a Encoder,
    line: &'a mut Vec<u8>,
    wire: &'a mut Wire,
    keys: &'a mut Keys,
    fields: &'a mut Fields,
}

impl Watch<'_> {
    fn field(&mut self, key: &Key, value: Value<'_>) -> slog::Result {
        let (key, again) = self.keys.meet(key.as_str(), &self.encoder.taken);
        let known = self.keys.get(key);
        if known.is_flags {
            return Ok(());
        }
        self.fields.is_mixed |= again || !known.in_line;
        let (start, wire_start) = (self.line.len(), self.wire.len());
        self.line.extend_from_slice(&known.line);
        write_value(
            self.encoder,
            known,
            value,
            self.line,
            self.wire,
            &mut self.fields.json,
        );
        self.fields.list.push(Field {
            key,
            text: start..self.line.len(),
            wire: wire_start..self.wire.len(),
        });
        Ok(())
    }

    /// A number that may be too large to be reckoned with.
    fn whole(&mut self, key: &Key, value: impl TryInto<i64> + Copy + fmt::Display) -> slog::Result {
        match value.try_into() {
            Ok(value) => self.field(key, Value::Integer(value)),
            Err(_) => {
                let mut formatted = std::mem::take(&mut self.fields.formatted);
                let digits = text_of(&format_args!("{value}"), &mut formatted);
                let result = self.field(key, Value::Large(digits));
                self.fields.formatted = formatted;
                result
            }
        }
    }
}

/// Writes the value of a field.
fn write_value(
    encoder: &Encoder,
    key: &Known,
    value: Value<'_>,
    line: &mut Vec<u8>,
    wire: &mut Wire,
    json: &mut Vec<u8>,
) {
    let key = &key.record;
    match value {
        Value::Null => line.extend_from_slice(b"null"),
        Value::Bool(value) => {
            line.extend_from_slice(if value { &b"true"[..] } else { b"false" });
            wire.bool(key, value);
        }
        Value::Integer(value) => {
            if value < 0 {
                line.push(b'-');
            }
            json::number(value.unsigned_abs(), line);
            wire.integer(key, value);
        }
        Value::Large(digits) => {
            line.extend_from_slice(digits.as_bytes());
            wire.large(key, digits);
        }
        Value::Single(value) => {
            json.clear();
            if serde_json::to_writer(&mut *json, &value).is_ok() {
                line.extend_from_slice(json);
                wire.json(key, json);
            }
        }
        Value::Double(value) => {
            let _ = serde_json::to_writer(&mut *line, &value);
            wire.float(key, value);
        }
        Value::Text(text) => {
            quoted(text, line);
            wire.text(key, text);
        }
        Value::Structure(structure) => match encoder.slog_json(json, structure) {
            Some(json) => {
                append_json(json, line);
                wire.json(key, json);
            }
            None => {
                quoted(UNREPRESENTABLE, line);
                wire.text(key, UNREPRESENTABLE);
            }
        },
    }
}

macro_rules! whole_numbers {
    ($($method:ident($kind:ty)),+ $(,)?) => {
        $(fn $method(&mut self, key: Key, value: $kind) -> slog::Result {
            self.whole(&key, value)
        })+
    };
}

impl Serializer for Watch<'_> {
    whole_numbers!(
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
    );

    fn emit_u8(&mut self, key: Key, value: u8) -> slog::Result {
        if key.as_str() == trace_context::FLAGS_KEY {
            self.fields.trace_flags = Some(value);
        }
        self.whole(&key, value)
    }

    fn emit_bool(&mut self, key: Key, value: bool) -> slog::Result {
        self.field(&key, Value::Bool(value))
    }

    fn emit_char(&mut self, key: Key, value: char) -> slog::Result {
        self.field(&key, Value::Text(value.encode_utf8(&mut [0; 4])))
    }

    fn emit_str(&mut self, key: Key, value: &str) -> slog::Result {
        self.field(&key, Value::Text(value))
    }

    fn emit_f32(&mut self, key: Key, value: f32) -> slog::Result {
        self.field(&key, Value::Single(value))
    }

    fn emit_f64(&mut self, key: Key, value: f64) -> slog::Result {
        self.field(&key, Value::Double(value))
    }

    fn emit_serde(&mut self, key: Key, value: &dyn slog::SerdeValue) -> slog::Result {
        self.field(&key, Value::Structure(value))
    }

    fn emit_unit(&mut self, key: Key) -> slog::Result {
        self.field(&key, Value::Null)
    }

    fn emit_none(&mut self, key: Key) -> slog::Result {
        self.field(&key, Value::Null)
    }

    fn emit_arguments(&mut self, key: Key, value: &fmt::Arguments<'_>) -> slog::Result {
        let mut formatted = std::mem::take(&mut self.fields.formatted);
        let result = self.field(&key, Value::Text(text_of(value, &mut formatted)));
        self.fields.formatted = formatted;
        result
    }
}

/// The text of `arguments`, which are formatted into `formatted` unless they are a text already. A
/// failing `Display` keeps what it wrote.
fn text_of<'t>(arguments: &fmt::Arguments<'_>, formatted: &'t mut String) -> &'t str {
    match arguments.as_str() {
        Some(text) => text,
        None => {
            formatted.clear();
            let _ = formatted.write_fmt(*arguments);
            formatted
        }
    }
}

/// A structure for slog-json, under an empty key.
struct Nameless<'v>(&'v dyn slog::SerdeValue);

impl KV for Nameless<'_> {
    fn serialize(&self, _: &Record<'_>, json: &mut dyn Serializer) -> slog::Result {
        json.emit_serde(Key::from(""), self.0)
    }
}

/// Appends a comma, the key and a colon.
pub(super) fn open(key: &str, line: &mut Vec<u8>) {
    line.extend_from_slice(b",\"");
    escape(key, line);
    line.extend_from_slice(b"\":");
}

/// Appends a string.
fn quoted(text: &str, line: &mut Vec<u8>) {
    line.push(b'"');
    escape(text, line);
    line.push(b'"');
}

/// Appends the inside of a string.
fn escape(text: &str, line: &mut Vec<u8>) {
    json::escape::<Terminal>(text, line);
}

/// What JSON allows to stand in a string but a terminal obeys or a line splitter breaks at: DEL,
/// the C1 controls, and the Unicode line and paragraph separators.
struct Terminal;

impl Escapes for Terminal {
    #[inline(always)]
    fn may_begin(octet: u8) -> bool {
        (octet == 0x7f) | (octet == 0xc2) | (octet == 0xe2)
    }

    fn include(character: char) -> bool {
        matches!(character, '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}')
    }
}

/// Appends what slog-json wrote, which escapes no more than JSON asks for. Outside strings JSON is
/// plain ASCII, so everything else is inside one.
fn append_json(json: &[u8], line: &mut Vec<u8>) {
    // Without branches, so that it is done for many by one instruction.
    let plain = json
        .iter()
        .fold(true, |plain, octet| plain & (*octet < 0x7f));
    if plain {
        return line.extend_from_slice(json);
    }
    let text = std::str::from_utf8(json).unwrap_or_default();
    let mut written = 0;
    for (at, control) in text.match_indices(Terminal::include) {
        line.extend_from_slice(json.get(written..at).unwrap_or_default());
        json::escape::<Terminal>(control, line);
        written = at + control.len();
    }
    line.extend_from_slice(json.get(written..).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::log::EVENT_KEY;
    use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
    use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue, KeyValueList};
    use opentelemetry_proto::tonic::logs::v1::{LogRecord, ScopeLogs, SeverityNumber};
    use proptest::prelude::*;
    use prost::Message as _;
    use slog::{b, record};
    use std::collections::HashSet;
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
        let written = encoder.encode(&mut scratch, now(), record, context, false);
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

    /// Fields, as anything that logs may emit them.
    #[derive(Clone, Debug)]
    struct Emitted(Vec<(String, Sample)>);

    #[derive(Clone, Debug)]
    enum Sample {
        Null,
        Bool(bool),
        Signed(i64),
        Unsigned(u64),
        Wide(i128),
        Float(f64),
        Text(String),
        Nested(serde_json::Value),
    }

    impl KV for Emitted {
        fn serialize(&self, _: &Record<'_>, to: &mut dyn Serializer) -> slog::Result {
            for (key, value) in &self.0 {
                let key = Key::from(key.clone());
                match value {
                    Sample::Null => to.emit_none(key)?,
                    Sample::Bool(value) => to.emit_bool(key, *value)?,
                    Sample::Signed(value) => to.emit_i64(key, *value)?,
                    Sample::Unsigned(value) => to.emit_u64(key, *value)?,
                    Sample::Wide(value) => to.emit_i128(key, *value)?,
                    Sample::Float(value) => to.emit_f64(key, *value)?,
                    Sample::Text(value) => to.emit_arguments(key, &format_args!("{value}"))?,
                    Sample::Nested(value) => to.emit_serde(key, &slog::Serde(value.clone()))?,
                }
            }
            Ok(())
        }
    }

    impl Sample {
        /// What the line has.
        fn json(&self) -> String {
            match self {
                Sample::Null => "null".to_owned(),
                Sample::Bool(value) => value.to_string(),
                Sample::Signed(value) => value.to_string(),
                Sample::Unsigned(value) => value.to_string(),
                Sample::Wide(value) => value.to_string(),
                Sample::Float(value) => serde_json::to_string(value).unwrap(),
                Sample::Text(value) => serde_json::to_string(value).unwrap(),
                Sample::Nested(value) => value.to_string(),
            }
        }

        fn is_text(&self) -> bool {
            matches!(
                self,
                Sample::Text(_) | Sample::Nested(serde_json::Value::String(_))
            )
        }

        /// What the OTLP record has.
        fn otlp(&self) -> Option<Any> {
            match self {
                Sample::Wide(value) => Some(match i64::try_from(*value) {
                    Ok(value) => Any::IntValue(value),
                    Err(_) => Any::StringValue(value.to_string()),
                }),
                Sample::Float(value) => value.is_finite().then_some(Any::DoubleValue(*value)),
                other => nested(serde_json::from_str(&other.json()).unwrap()),
            }
        }
    }

    fn nested(value: serde_json::Value) -> Option<Any> {
        use serde_json::Value;
        Some(match value {
            Value::Null => return None,
            Value::Bool(value) => Any::BoolValue(value),
            Value::String(value) => Any::StringValue(value),
            Value::Number(number) => match number.as_i64() {
                Some(integer) => Any::IntValue(integer),
                None if number.is_f64() => Any::DoubleValue(number.as_f64().unwrap()),
                None => Any::StringValue(number.to_string()),
            },
            Value::Array(values) => Any::ArrayValue(ArrayValue {
                values: values
                    .into_iter()
                    .filter_map(nested)
                    .map(any_value)
                    .collect(),
            }),
            Value::Object(fields) => Any::KvlistValue(KeyValueList {
                values: fields
                    .into_iter()
                    .filter_map(|(key, value)| Some(pair(&key, nested(value)?)))
                    .collect(),
            }),
        })
    }

    fn any_value(value: Any) -> AnyValue {
        AnyValue { value: Some(value) }
    }

    fn pair(key: &str, value: Any) -> KeyValue {
        KeyValue {
            key: key.to_owned(),
            value: Some(any_value(value)),
            ..KeyValue::default()
        }
    }

    fn keys() -> impl Strategy<Value = String> {
        let known = [
            "a",
            "b",
            "ab",
            "level",
            "msg",
            "sandbox_id",
            "trace_id",
            EVENT_KEY,
        ];
        let known = prop::sample::select(known.map(String::from).to_vec());
        prop_oneof![4 => known, 1 => any::<String>()]
    }

    fn samples() -> impl Strategy<Value = Sample> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<u64>().prop_map(Into::into),
            any::<f64>().prop_map(Into::into),
            any::<String>().prop_map(Into::into),
        ];
        let nested = leaf.prop_recursive(4, 30, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(serde_json::Value::from),
                prop::collection::hash_map(any::<String>(), inner, 0..6)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        });
        prop_oneof![
            Just(Sample::Null),
            any::<bool>().prop_map(Sample::Bool),
            any::<i64>().prop_map(Sample::Signed),
            any::<u64>().prop_map(Sample::Unsigned),
            any::<i128>().prop_map(Sample::Wide),
            any::<f64>().prop_map(Sample::Float),
            any::<String>().prop_map(Sample::Text),
            Just(Sample::Text("4bf92f3577b34da6a3ce929d0e0e4736".to_owned())),
            nested.prop_map(Sample::Nested),
        ]
    }

    fn emitted() -> impl Strategy<Value = Emitted> {
        prop::collection::vec((keys(), samples()), 0..8).prop_map(Emitted)
    }

    proptest! {
        /// The line and the record of OTLP against what the contract says of any record.
        #[test]
        fn line_and_record_are_those_of_the_contract(
            message in any::<String>(),
            baseline in prop::collection::vec((keys(), any::<String>()), 0..4),
            context in emitted(),
            own in emitted(),
        ) {
            let encoder = Encoder::new("t", &baseline);
            let owned: OwnedKVList = slog::OwnedKV(context.clone()).into();
            let mut scratch = Scratch::default();
            let mut encoded = |record: &Record<'_>| {
                let written = encoder.encode(&mut scratch, now(), record, &owned, true);
                (written.line.to_vec(), written.record.to_vec())
            };
            static WARNING: RecordStatic<'static> =
                slog::record_static!(slog::Level::Warning, "");
            let (line_octets, record_octets) =
                encoded(&Record::new(&WARNING, &format_args!("{message}"), BorrowedKV(&own)));

            let mut fields: Vec<_> = context.0.into_iter().rev().collect();
            match own.0.first() {
                Some((key, _)) if key == EVENT_KEY => fields.extend(own.0),
                _ => fields.extend(own.0.into_iter().rev()),
            }
            let mut line: Vec<(String, String)> = Vec::new();
            let mut add = |key: &str, json: String| {
                if line.iter().all(|(earlier, _)| earlier != key) {
                    line.push((key.to_owned(), json));
                }
            };
            let text = |text: &str| serde_json::to_string(text).unwrap();
            add("level", text("warn"));
            add("ts", text("2026-11-20T23:51:47.822Z"));
            add("logger", text("t"));
            add("msg", text(&message));
            baseline.iter().for_each(|(key, value)| add(key, text(value)));
            fields.iter().for_each(|(key, value)| add(key, value.json()));
            let got: serde_json::Value = serde_json::from_slice(&line_octets).unwrap();
            let got: Vec<_> = got.as_object().unwrap().clone().into_iter().collect();
            let parsed = |(key, json): (String, String)| (key, serde_json::from_str(&json).unwrap());
            prop_assert_eq!(got, line.into_iter().map(parsed).collect::<Vec<_>>());

            let at = now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
            let mut expected = LogRecord {
                time_unix_nano: at,
                observed_time_unix_nano: at,
                severity_number: SeverityNumber::Warn.into(),
                severity_text: "warn".to_owned(),
                body: Some(any_value(Any::StringValue(message))),
                ..LogRecord::default()
            };
            let mut seen = HashSet::new();
            for (key, value) in baseline {
                if seen.insert(key.clone()) {
                    expected.attributes.push(pair(&key, Any::StringValue(value)));
                }
            }
            for (key, value) in fields {
                if !seen.insert(key.clone()) {
                    continue;
                }
                // A number that only a text can hold is no name.
                let is_text = value.is_text();
                match (key.as_str(), value.otlp()) {
                    ("trace_id", Some(Any::StringValue(id))) if id.starts_with("4bf92f") => {
                        expected.trace_id = trace_context::parse_id::<16>(&id).unwrap().to_vec();
                    }
                    (key, Some(value)) => {
                        if let (EVENT_KEY, true, Any::StringValue(name)) = (key, is_text, &value) {
                            expected.event_name.clone_from(name);
                        }
                        expected.attributes.push(pair(key, value));
                    }
                    (_, None) => {}
                }
            }
            let got = ScopeLogs::decode(record_octets.as_slice()).unwrap().log_records;
            prop_assert_eq!(got, [expected]);
        }
    }
}
