//! slog records as OTLP log records (telemetry contract, section 9).
//!
//! The body is the message, the event name is the `opensandbox.event` field, and every field is an
//! attribute that keeps its type. A record is written as the protobuf that is sent, field by field
//! beside its line of JSON and in the same thread: there is no form in between, and the thread that
//! exports only puts whole batches into their envelope. Knows the messages of
//! `opentelemetry/proto/logs/v1/logs.proto` and `common/v1/common.proto` by their numbers; never
//! touches the JSON log.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};

use super::log::EVENT_KEY;
use super::trace_context::{SPAN_ID_KEY, TRACE_ID_KEY, parse_id};

/// Room before a record for the tag and the length it gets when it is complete.
const FRAME: usize = 6;

/// The tag of a field: its number and how it is encoded.
const fn tag(number: u8, encoding: u8) -> u8 {
    number << 3 | encoding
}

const VARINT: u8 = 0;
const EIGHT_OCTETS: u8 = 1;
const LENGTH: u8 = 2;
const FOUR_OCTETS: u8 = 5;

/// Fields of `ResourceLogs`, `ScopeLogs` and `ExportLogsServiceRequest`.
pub(super) mod envelope {
    use super::{LENGTH, tag};

    pub const RESOURCE_LOGS: u8 = tag(1, LENGTH);
    pub const RESOURCE: u8 = tag(1, LENGTH);
    pub const SCOPE_LOGS: u8 = tag(2, LENGTH);
    pub const SCHEMA_URL: u8 = tag(3, LENGTH);
    pub const SCOPE: u8 = tag(1, LENGTH);
    pub const LOG_RECORDS: u8 = tag(2, LENGTH);
}

/// Fields of `LogRecord`.
mod record {
    use super::{EIGHT_OCTETS, FOUR_OCTETS, LENGTH, VARINT, tag};

    pub const TIME: u8 = tag(1, EIGHT_OCTETS);
    pub const SEVERITY_NUMBER: u8 = tag(2, VARINT);
    pub const SEVERITY_TEXT: u8 = tag(3, LENGTH);
    pub const BODY: u8 = tag(5, LENGTH);
    pub const ATTRIBUTES: u8 = tag(6, LENGTH);
    pub const FLAGS: u8 = tag(8, FOUR_OCTETS);
    pub const TRACE_ID: u8 = tag(9, LENGTH);
    pub const SPAN_ID: u8 = tag(10, LENGTH);
    pub const OBSERVED_TIME: u8 = tag(11, EIGHT_OCTETS);
    pub const EVENT_NAME: u8 = tag(12, LENGTH);
}

/// Fields of `KeyValue`.
mod pair {
    use super::{LENGTH, tag};

    pub const KEY: u8 = tag(1, LENGTH);
    pub const VALUE: u8 = tag(2, LENGTH);
}

/// Fields of `AnyValue`, of which one is there.
mod any {
    use super::{EIGHT_OCTETS, LENGTH, VARINT, tag};

    pub const STRING: u8 = tag(1, LENGTH);
    pub const BOOL: u8 = tag(2, VARINT);
    pub const INT: u8 = tag(3, VARINT);
    pub const DOUBLE: u8 = tag(4, EIGHT_OCTETS);
    pub const ARRAY: u8 = tag(5, LENGTH);
    pub const LIST: u8 = tag(6, LENGTH);
}

/// The only field of `ArrayValue` and of `KeyValueList`.
const VALUES: u8 = tag(1, LENGTH);

/// The key of an attribute, as records have it.
pub(super) struct Key {
    /// The attribute up to the length of its value, as if that and its own took one octet each.
    opening: Box<[u8]>,
    meaning: Meaning,
}

/// What a text under some key is, besides an attribute or in its place.
enum Meaning {
    None,
    Trace,
    Span,
    Event,
}

impl Key {
    /// Encodes `key`.
    pub(super) fn new(key: &str) -> Self {
        let mut out = vec![record::ATTRIBUTES, 0];
        octets(pair::KEY, key.as_bytes(), &mut out);
        out.extend_from_slice(&[pair::VALUE, 0]);
        Self {
            opening: out.into(),
            meaning: match key {
                TRACE_ID_KEY => Meaning::Trace,
                SPAN_ID_KEY => Meaning::Span,
                EVENT_KEY => Meaning::Event,
                _ => Meaning::None,
            },
        }
    }

    /// The field `key` of the `KeyValue`.
    fn field(&self) -> &[u8] {
        &self.opening[2..self.opening.len() - 2]
    }

    /// The length of the `KeyValue` where its value takes `value` octets.
    fn pair_length(&self, value: usize) -> usize {
        self.opening.len() - 3 + varint_length(value) + value
    }
}

/// A record in the making. Attributes are added one by one; where each lies is the caller's to
/// remember, who may change their order. What is added before a record was begun is not written.
#[derive(Default)]
pub(super) struct Wire(Vec<u8>);

impl Wire {
    /// Begins a record with `attributes`.
    pub(super) fn begin(
        &mut self,
        at: SystemTime,
        level: slog::Level,
        body: &str,
        attributes: &Attributes,
    ) {
        let out = &mut self.0;
        let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
        let at = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
        let (number, text) = severity(level);
        out.clear();
        out.extend_from_slice(&[0; FRAME]);
        eight_octets(record::TIME, at, out);
        eight_octets(record::OBSERVED_TIME, at, out);
        out.extend_from_slice(&[record::SEVERITY_NUMBER, number]);
        octets(record::SEVERITY_TEXT, text.as_bytes(), out);
        out.push(record::BODY);
        varint(octets_length(body.len()), out);
        octets(any::STRING, body.as_bytes(), out);
        out.extend_from_slice(&attributes.0);
    }

    /// The record, if one was begun.
    fn begun(&mut self) -> Option<&mut Vec<u8>> {
        Some(&mut self.0).filter(|out| !out.is_empty())
    }

    /// Adds the flags of the trace.
    pub(super) fn flags(&mut self, flags: u8) {
        if let Some(out) = self.begun() {
            out.push(record::FLAGS);
            out.extend_from_slice(&u32::from(flags).to_le_bytes());
        }
    }

    /// Adds a text; that of a trace, a span or an event is the record's own.
    pub(super) fn text(&mut self, key: &Key, text: &str) {
        let Some(out) = self.begun() else { return };
        match key.meaning {
            Meaning::None => {}
            Meaning::Trace => {
                if let Some(id) = parse_id::<16>(text) {
                    return octets(record::TRACE_ID, &id, out);
                }
            }
            Meaning::Span => {
                if let Some(id) = parse_id::<8>(text) {
                    return octets(record::SPAN_ID, &id, out);
                }
            }
            Meaning::Event => octets(record::EVENT_NAME, text.as_bytes(), out),
        }
        string(key, text, out);
    }

    /// Adds a truth value.
    pub(super) fn bool(&mut self, key: &Key, value: bool) {
        if let Some(out) = self.begun() {
            short(key, out, |out| value.write(out));
        }
    }

    /// Adds a whole number.
    pub(super) fn integer(&mut self, key: &Key, value: i64) {
        if let Some(out) = self.begun() {
            short(key, out, |out| value.write(out));
        }
    }

    /// Adds a whole number that 64 bits with a sign cannot hold, as the text of its digits.
    pub(super) fn large(&mut self, key: &Key, digits: &str) {
        if let Some(out) = self.begun() {
            string(key, digits, out);
        }
    }

    /// Adds a number; what is none has no attribute.
    pub(super) fn float(&mut self, key: &Key, value: f64) {
        if let Some(out) = self.begun().filter(|_| value.is_finite()) {
            short(key, out, |out| value.write(out));
        }
    }

    /// Adds the value that `json` says, with the types in it; null, which OTLP does not know, is
    /// left out of lists and maps, and is no attribute. Nested too deep to be read back, it is
    /// shown as it is.
    pub(super) fn json(&mut self, key: &Key, json: &[u8]) {
        // A text is one, however it was emitted.
        if json.first() == Some(&b'"')
            && let Ok(text) = serde_json::from_slice::<String>(json)
        {
            return self.text(key, &text);
        }
        let Some(out) = self.begun() else { return };
        let before = out.len();
        let mut present = Ok(false);
        attribute(key, out, |out| {
            let value = out.len();
            if texts(json, out).is_some() {
                present = Ok(true);
                return;
            }
            out.truncate(value);
            present = Nested(out).deserialize(&mut serde_json::Deserializer::from_slice(json));
        });
        if !matches!(present, Ok(true)) {
            out.truncate(before);
        }
        if present.is_err() {
            string(key, &String::from_utf8_lossy(json), out);
        }
    }

    /// How long the record is so far.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The octets themselves, to put attributes in another order.
    pub(super) fn octets(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }

    /// Forgets what was written.
    pub(super) fn clear(&mut self, kept: usize) {
        self.0.clear();
        self.0.shrink_to(kept);
    }

    /// Frames the record: the field of `ScopeLogs` that holds it; empty when none was begun.
    pub(super) fn finish(&mut self) -> &[u8] {
        let Some(length) = self.0.len().checked_sub(FRAME) else {
            return &[];
        };
        let mut frame = [0; FRAME];
        frame[0] = envelope::LOG_RECORDS;
        let mut rest = length;
        let mut last = 1;
        for (at, octet) in frame.iter_mut().enumerate().skip(1) {
            last = at;
            *octet = (rest & 0x7f) as u8;
            rest >>= 7;
            if rest == 0 {
                break;
            }
            *octet |= 0x80;
        }
        let start = FRAME - 1 - last;
        self.0[start..FRAME].copy_from_slice(&frame[..=last]);
        &self.0[start..]
    }
}

/// Attributes that every record of a logger has.
pub(super) struct Attributes(Vec<u8>);

impl Attributes {
    /// Of texts.
    pub(super) fn new<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut out = Vec::new();
        for (key, value) in pairs {
            string(&Key::new(key), value, &mut out);
        }
        Self(out)
    }
}

/// The numbers of the data model (`SeverityNumber`), and the texts of the JSON log: in both there
/// are four.
fn severity(level: slog::Level) -> (u8, &'static str) {
    match level {
        slog::Level::Critical | slog::Level::Error => (17, "error"),
        slog::Level::Warning => (13, "warn"),
        slog::Level::Info => (9, "info"),
        slog::Level::Debug | slog::Level::Trace => (5, "debug"),
    }
}

/// Adds an attribute with a text, whose lengths are known beforehand.
fn string(key: &Key, text: &str, out: &mut Vec<u8>) {
    let text = text.as_bytes();
    if text.len() <= MOST_SHORT {
        return short(key, out, |out| {
            out.extend_from_slice(&[any::STRING, text.len() as u8]);
            out.extend_from_slice(text);
        });
    }
    let value = octets_length(text.len());
    out.push(record::ATTRIBUTES);
    varint(key.pair_length(value), out);
    out.extend_from_slice(key.field());
    out.push(pair::VALUE);
    varint(value, out);
    octets(any::STRING, text, out);
}

/// The longest text that is added with its lengths put in afterwards.
const MOST_SHORT: usize = 64;

/// Adds an attribute whose `AnyValue`, what `value` appends, takes less than 128 octets.
fn short(key: &Key, out: &mut Vec<u8>, value: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&key.opening);
    let from = out.len();
    value(out);
    let length = out.len() - from;
    out[from - 1] = length as u8;
    let pair = key.pair_length(length);
    let octets = varint_length(pair);
    if octets == 1 {
        out[start + 1] = pair as u8;
    } else {
        // The key is a long one.
        out.splice(start + 1..start + 2, {
            let mut length = Vec::with_capacity(octets);
            varint(pair, &mut length);
            length
        });
    }
}

/// Adds the `AnyValue` of a list of texts without escapes, which is what most lists are, and read
/// far faster than JSON at large. `None`, and half of it may have been added: it is another value.
fn texts(json: &[u8], out: &mut Vec<u8>) -> Option<()> {
    // Without a backslash, every quote begins or ends a text.
    let mut pieces = json.split(|octet| *octet == b'"');
    if pieces.next()? != b"[" || json.contains(&b'\\') {
        return None;
    }
    message(any::ARRAY, out, |out| {
        loop {
            let text = pieces.next()?;
            out.push(VALUES);
            varint(octets_length(text.len()), out);
            octets(any::STRING, text, out);
            match pieces.next()? {
                b"," => {}
                b"]" => return Some(()),
                _ => return None,
            }
        }
    })
}

/// Adds an attribute whose `AnyValue` is what `value` appends.
fn attribute(key: &Key, out: &mut Vec<u8>, value: impl FnOnce(&mut Vec<u8>)) {
    message(record::ATTRIBUTES, out, |out| {
        out.extend_from_slice(key.field());
        message(pair::VALUE, out, value);
    });
}

/// Adds a field whose length is known only when it is written: there is room for a short one, and
/// a longer one is moved.
pub(super) fn message<T>(tag: u8, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    out.extend_from_slice(&[tag, 0]);
    let start = out.len();
    let result = write(out);
    let length = out.len() - start;
    if length < 0x80 {
        out[start - 1] = length as u8;
    } else {
        let room = varint_length(length) - 1;
        out.resize(out.len() + room, 0);
        out.copy_within(start..start + length, start + room);
        let mut place = start - 1;
        let mut rest = length;
        while rest >= 0x80 {
            out[place] = (rest & 0x7f) as u8 | 0x80;
            rest >>= 7;
            place += 1;
        }
        out[place] = rest as u8;
    }
    result
}

/// Adds a field of octets.
pub(super) fn octets(tag: u8, octets: &[u8], out: &mut Vec<u8>) {
    out.push(tag);
    varint(octets.len(), out);
    out.extend_from_slice(octets);
}

/// How long a field of so many octets is, with its tag.
pub(super) fn octets_length(octets: usize) -> usize {
    1 + varint_length(octets) + octets
}

fn eight_octets(tag: u8, value: u64, out: &mut Vec<u8>) {
    out.push(tag);
    out.extend_from_slice(&value.to_le_bytes());
}

/// Adds a number, seven bits an octet, the least first.
pub(super) fn varint(value: usize, out: &mut Vec<u8>) {
    varint_64(value as u64, out);
}

fn varint_64(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn varint_length(value: usize) -> usize {
    let bits = usize::BITS - (value | 1).leading_zeros();
    bits.div_ceil(7) as usize
}

/// What an `AnyValue` is made of without looking into it.
trait Simple {
    fn write(self, out: &mut Vec<u8>);
}

impl Simple for bool {
    fn write(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[any::BOOL, self.into()]);
    }
}

impl Simple for i64 {
    fn write(self, out: &mut Vec<u8>) {
        out.push(any::INT);
        varint_64(self.cast_unsigned(), out);
    }
}

impl Simple for f64 {
    fn write(self, out: &mut Vec<u8>) {
        eight_octets(any::DOUBLE, self.to_bits(), out);
    }
}

impl Simple for &str {
    fn write(self, out: &mut Vec<u8>) {
        octets(any::STRING, self.as_bytes(), out);
    }
}

/// Reads a JSON value and writes it as an `AnyValue`, in one pass. Tells whether there is one: null
/// is none.
struct Nested<'o>(&'o mut Vec<u8>);

impl Nested<'_> {
    fn simple<E>(self, value: impl Simple) -> Result<bool, E> {
        value.write(self.0);
        Ok(true)
    }
}

impl<'de> DeserializeSeed<'de> for Nested<'_> {
    type Value = bool;

    fn deserialize<D: serde::Deserializer<'de>>(self, json: D) -> Result<bool, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Nested<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<bool, E> {
        self.simple(value)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<bool, E> {
        self.simple(value)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<bool, E> {
        match i64::try_from(value) {
            Ok(value) => self.simple(value),
            Err(_) => self.simple(value.to_string().as_str()),
        }
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<bool, E> {
        self.simple(value)
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<bool, E> {
        self.simple(value)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<bool, A::Error> {
        message(any::ARRAY, self.0, |out| {
            while list.next_element_seed(Entry(out))?.is_some() {}
            Ok(true)
        })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<bool, A::Error> {
        message(any::LIST, self.0, |out| {
            loop {
                let before = out.len();
                let present = message(VALUES, out, |out| {
                    if map.next_key_seed(Name(out))?.is_none() {
                        return Ok(None);
                    }
                    let value = |out: &mut Vec<u8>| map.next_value_seed(Nested(out));
                    message(pair::VALUE, out, value).map(Some)
                })?;
                if present != Some(true) {
                    out.truncate(before);
                }
                if present.is_none() {
                    return Ok(true);
                }
            }
        })
    }
}

/// An entry of a list.
struct Entry<'o>(&'o mut Vec<u8>);

impl<'de> DeserializeSeed<'de> for Entry<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        let before = self.0.len();
        if !message(VALUES, self.0, |out| Nested(out).deserialize(json))? {
            self.0.truncate(before);
        }
        Ok(())
    }
}

/// The key of an entry of a map.
struct Name<'o>(&'o mut Vec<u8>);

impl<'de> DeserializeSeed<'de> for Name<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<(), E> {
        octets(pair::KEY, key.as_bytes(), self.0);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
    use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue, KeyValueList};
    use opentelemetry_proto::tonic::logs::v1::{LogRecord, ScopeLogs};
    use proptest::prelude::*;
    use prost::Message as _;

    fn written(body: &str, add: impl FnOnce(&mut Wire)) -> LogRecord {
        let attributes = Attributes::new([("tenant", "t1")]);
        let mut wire = Wire::default();
        wire.begin(UNIX_EPOCH, slog::Level::Info, body, &attributes);
        add(&mut wire);
        let mut scope = ScopeLogs::decode(wire.finish()).expect("a record");
        assert_eq!(scope.log_records.len(), 1);
        let mut record = scope.log_records.remove(0);
        let tenant = record.attributes.remove(0);
        assert_eq!(tenant, pair("tenant", text("t1")));
        record
    }

    fn pair(key: &str, value: Any) -> KeyValue {
        KeyValue {
            key: key.to_owned(),
            value: Some(holding(value)),
            ..KeyValue::default()
        }
    }

    fn holding(value: Any) -> AnyValue {
        AnyValue { value: Some(value) }
    }

    fn text(text: &str) -> Any {
        Any::StringValue(text.to_owned())
    }

    #[test]
    fn nothing_is_written_before_the_beginning() {
        let mut wire = Wire::default();
        wire.text(&Key::new("a"), "b");
        wire.json(&Key::new("a"), b"[1]");
        wire.flags(1);
        assert_eq!((wire.len(), wire.finish()), (0, &[][..]));
    }

    #[test]
    fn what_cannot_be_read_back_is_shown_as_it_is() {
        let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
        let record = written("m", |wire| {
            wire.json(&Key::new("deep"), deep.as_bytes());
            wire.integer(&Key::new("after"), 1);
        });
        let expected = [pair("deep", text(&deep)), pair("after", Any::IntValue(1))];
        assert_eq!(record.attributes, expected);
        assert_eq!(record.body, Some(holding(text("m"))));
    }

    #[test]
    fn nested_values_keep_their_types_and_lose_their_nulls() {
        let json =
            br#"{"a": [1, -2.5, true, null, "x\n", 18446744073709551615], "b": null, "c": {}}"#;
        let record = written("", |wire| {
            wire.json(&Key::new("map"), json);
            wire.json(&Key::new("null"), b"null");
            wire.float(&Key::new("nan"), f64::NAN);
        });
        let values = [
            Any::IntValue(1),
            Any::DoubleValue(-2.5),
            Any::BoolValue(true),
            text("x\n"),
            text("18446744073709551615"),
        ];
        let list = Any::ArrayValue(ArrayValue {
            values: values.map(holding).to_vec(),
        });
        let map = Any::KvlistValue(KeyValueList {
            values: vec![
                pair("a", list),
                pair("c", Any::KvlistValue(KeyValueList::default())),
            ],
        });
        assert_eq!(record.attributes, [pair("map", map)]);
    }

    #[test]
    fn a_list_is_one_of_texts_or_another() {
        let lists: [&[u8]; 7] = [
            br#"["a","b,c","",",","]"]"#,
            br#"[]"#,
            br#"["a",1,"b"]"#,
            br#"["a",["b"]]"#,
            br#"["a",null,{"b":"c"},"d"]"#,
            br#"["a\"","\\"]"#,
            br#"{"a":"b"}"#,
        ];
        for (list, json) in lists.into_iter().enumerate() {
            let record = written("", |wire| wire.json(&Key::new("list"), json));
            let mut value = Vec::new();
            let mut general = serde_json::Deserializer::from_slice(json);
            assert!(Nested(&mut value).deserialize(&mut general).unwrap());
            let expected = AnyValue::decode(value.as_slice()).unwrap();
            assert_eq!(record.attributes[0].value, Some(expected));
            let mut value = Vec::new();
            assert_eq!(texts(json, &mut value).is_some(), list == 0);
        }
    }

    #[test]
    fn the_trace_and_the_event_are_fields_of_the_record() {
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        let record = written("m", |wire| {
            wire.text(&Key::new(TRACE_ID_KEY), trace);
            wire.text(&Key::new(SPAN_ID_KEY), "00f067aa0ba902b7");
            wire.text(&Key::new(SPAN_ID_KEY), "none");
            wire.text(&Key::new(EVENT_KEY), "test.happened");
            wire.flags(3);
        });
        assert_eq!(record.trace_id[..2], [0x4b, 0xf9]);
        assert_eq!(record.span_id, [0, 0xf0, 0x67, 0xaa, 0x0b, 0xa9, 2, 0xb7]);
        assert_eq!(record.flags, 3);
        assert_eq!(record.event_name, "test.happened");
        let expected = [
            pair(SPAN_ID_KEY, text("none")),
            pair(EVENT_KEY, text("test.happened")),
        ];
        assert_eq!(record.attributes, expected);
    }

    proptest! {
        /// Lengths take one octet up to 127, two up to 16,383, then three.
        #[test]
        fn lengths_of_any_length(
            body in prop::sample::select(vec![0, 100, 127, 128, 16_300, 16_384, 70_000]),
            item in prop::sample::select(vec![0_usize, 50, 118, 128, 16_383, 16_384]),
            items in 0_usize..5,
            key in ".{0,150}",
        ) {
            let body = "b".repeat(body);
            let list = vec!["i".repeat(item); items];
            let record = written(&body, |wire| {
                wire.json(&Key::new(&key), &serde_json::to_vec(&list).unwrap());
                wire.text(&Key::new(&key), &body);
            });
            let values = list.iter().map(|item| holding(text(item))).collect();
            let list = Any::ArrayValue(ArrayValue { values });
            prop_assert_eq!(record.attributes, [pair(&key, list), pair(&key, text(&body))]);
            prop_assert_eq!(record.body, Some(holding(text(&body))));
        }

        #[test]
        fn numbers_of_any_size(number in any::<i64>(), shift in 0..64, float in any::<f64>()) {
            let number = number >> shift;
            let record = written("", |wire| {
                wire.integer(&Key::new("i"), number);
                wire.float(&Key::new("f"), float);
            });
            let mut expected = vec![pair("i", Any::IntValue(number))];
            expected.extend(float.is_finite().then(|| pair("f", Any::DoubleValue(float))));
            prop_assert_eq!(record.attributes, expected);
        }
    }
}
