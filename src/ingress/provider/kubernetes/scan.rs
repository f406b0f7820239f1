//! JSON as it arrives: the values of a stream, and the items of a list, one by one; pure.
//!
//! Owns where a value ends, and the bound on its size. Says nothing about what a value means, and
//! only finds its end: whoever parses it finds what is wrong inside.

use std::mem;

use memchr::memchr2;

/// The most bytes of one value. The API server takes no larger object than 3 MiB.
pub const MAX_VALUE: usize = 4 * 1024 * 1024;

/// What a buffer may keep for the next value.
const KEPT: usize = 64 * 1024;

/// Why a stream cannot be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A value is too large.
    #[error("a value has more than {MAX_VALUE} bytes")]
    TooLarge,
    /// It is not the JSON expected.
    #[error("not the JSON expected")]
    Malformed,
}

/// Gathers one value.
#[derive(Debug, Default)]
struct Value {
    bytes: Vec<u8>,
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl Value {
    /// Takes the bytes of the value from the front of `input`. Whether it is complete, which for a
    /// number or a word means that something else follows.
    fn take(&mut self, input: &mut &[u8]) -> Result<bool, Error> {
        let (length, complete) = self.measure(input);
        let (taken, rest) = input.split_at_checked(length).unwrap_or((input, &[]));
        if self.bytes.len() + taken.len() > MAX_VALUE {
            return Err(Error::TooLarge);
        }
        self.bytes.extend_from_slice(taken);
        *input = rest;
        Ok(complete)
    }

    /// How many bytes of `input` belong to the value, and whether it ends with them.
    fn measure(&mut self, input: &[u8]) -> (usize, bool) {
        let mut position = 0;
        while let Some(octet) = input.get(position) {
            if self.in_string {
                if mem::take(&mut self.escaped) {
                    position += 1;
                    continue;
                }
                let rest = input.get(position..).unwrap_or_default();
                let Some(found) = memchr2(b'"', b'\\', rest) else {
                    return (input.len(), false);
                };
                position += found + 1;
                if rest.get(found) == Some(&b'\\') {
                    self.escaped = true;
                    continue;
                }
                self.in_string = false;
                if self.depth == 0 {
                    return (position, true);
                }
                continue;
            }
            match octet {
                b'"' => self.in_string = true,
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' if self.depth == 0 => return (position, true),
                b'}' | b']' => {
                    self.depth -= 1;
                    if self.depth == 0 {
                        return (position + 1, true);
                    }
                }
                b',' | b' ' | b'\t' | b'\r' | b'\n' if self.depth == 0 => return (position, true),
                _ => {}
            }
            position += 1;
        }
        (input.len(), false)
    }

    /// Gives the value to `visit`, and is ready for the next one.
    fn finish<E>(&mut self, visit: impl FnOnce(&[u8]) -> Result<(), E>) -> Result<(), E> {
        let outcome = visit(&self.bytes);
        self.bytes.clear();
        self.bytes.shrink_to(KEPT);
        outcome
    }
}

fn skip_blanks(input: &mut &[u8]) {
    *input = input.trim_ascii_start();
}

/// The values of a stream, which stand one after the other.
#[derive(Debug, Default)]
pub struct Values {
    value: Value,
}

impl Values {
    /// Calls `visit` with each value that `input` completes.
    ///
    /// # Errors
    ///
    /// A value is too large, or `visit` fails.
    pub fn feed<E: From<Error>>(
        &mut self,
        mut input: &[u8],
        mut visit: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        loop {
            if self.is_between() {
                skip_blanks(&mut input);
            }
            if input.is_empty() {
                return Ok(());
            }
            let before = input.len();
            if self.value.take(&mut input)? {
                if input.len() == before && self.value.bytes.is_empty() {
                    return Err(Error::Malformed.into()); // a comma or a bracket out of place
                }
                self.value.finish(&mut visit)?;
            }
        }
    }

    /// Whether no value has begun.
    #[must_use]
    pub fn is_between(&self) -> bool {
        self.value.bytes.is_empty()
    }
}

/// A part of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part<'a> {
    /// One of its items.
    Item(&'a [u8]),
    /// Any other member: its name, as JSON, and its value.
    Member(&'a [u8], &'a [u8]),
}

/// The parts of one list: an object whose member `items` is an array.
#[derive(Debug, Default)]
pub struct List {
    place: Place,
    value: Value,
    key: Vec<u8>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    #[default]
    Start,
    /// Before a member's name, or the end if there is none yet.
    Key {
        first: bool,
    },
    InKey,
    Colon,
    BeforeValue,
    InValue,
    AfterValue,
    /// Before an item, or the end if there is none yet.
    Item {
        first: bool,
    },
    InItem,
    AfterItem,
    End,
}

impl List {
    /// Calls `visit` with each part that `input` completes.
    ///
    /// # Errors
    ///
    /// It is no list, a part is too large, or `visit` fails.
    pub fn feed<E: From<Error>>(
        &mut self,
        mut input: &[u8],
        mut visit: impl FnMut(Part<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        loop {
            if !matches!(self.place, Place::InKey | Place::InValue | Place::InItem) {
                skip_blanks(&mut input);
            }
            let Some(&octet) = input.first() else {
                return Ok(());
            };
            match self.place {
                Place::InKey => {
                    if self.value.take(&mut input)? {
                        self.key = mem::take(&mut self.value.bytes);
                        self.place = Place::Colon;
                    }
                }
                Place::InValue => {
                    if self.value.take(&mut input)? {
                        let key = &self.key;
                        self.value.finish(|value| visit(Part::Member(key, value)))?;
                        self.place = Place::AfterValue;
                    }
                }
                Place::InItem => {
                    if self.value.take(&mut input)? {
                        self.value.finish(|item| visit(Part::Item(item)))?;
                        self.place = Place::AfterItem;
                    }
                }
                place => {
                    let (next, taken) = self.step(place, octet)?;
                    self.place = next;
                    input = input.get(taken..).unwrap_or_default();
                }
            }
        }
    }

    /// Where a byte between values leads, and whether it is used up.
    fn step(&self, place: Place, octet: u8) -> Result<(Place, usize), Error> {
        Ok(match (place, octet) {
            (Place::Start, b'{') => (Place::Key { first: true }, 1),
            (Place::Key { first: true }, b'}') | (Place::AfterValue, b'}') => (Place::End, 1),
            (Place::Key { .. }, b'"') => (Place::InKey, 0),
            (Place::Colon, b':') => (Place::BeforeValue, 1),
            (Place::BeforeValue, b'[') if self.key == br#""items""# => {
                (Place::Item { first: true }, 1)
            }
            (Place::BeforeValue, octet) if begins_value(octet) => (Place::InValue, 0),
            (Place::AfterValue, b',') => (Place::Key { first: false }, 1),
            (Place::Item { first: true } | Place::AfterItem, b']') => (Place::AfterValue, 1),
            (Place::Item { .. }, octet) if begins_value(octet) => (Place::InItem, 0),
            (Place::AfterItem, b',') => (Place::Item { first: false }, 1),
            _ => return Err(Error::Malformed),
        })
    }

    /// Whether the list is complete.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.place == Place::End
    }
}

fn begins_value(octet: u8) -> bool {
    !matches!(octet, b']' | b'}' | b',' | b':')
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// Feeds `text` in pieces of `size` bytes.
    fn values(text: &[u8], size: usize) -> Result<Vec<String>, Error> {
        let (mut scanner, mut found) = (Values::default(), Vec::new());
        for piece in text.chunks(size) {
            scanner.feed::<Error>(piece, |value| {
                found.push(String::from_utf8(value.to_vec()).unwrap());
                Ok(())
            })?;
        }
        Ok(found)
    }

    /// The items, and the members with a `=`.
    fn parts(text: &[u8], size: usize) -> Result<(Vec<String>, Vec<String>, bool), Error> {
        let (mut scanner, mut items, mut members) = (List::default(), Vec::new(), Vec::new());
        let text_of = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        for piece in text.chunks(size) {
            scanner.feed::<Error>(piece, |part| {
                match part {
                    Part::Item(item) => items.push(text_of(item)),
                    Part::Member(key, value) => {
                        members.push(format!("{}={}", text_of(key), text_of(value)));
                    }
                }
                Ok(())
            })?;
        }
        Ok((items, members, scanner.is_complete()))
    }

    #[test]
    fn values_end_where_they_end_whatever_the_pieces() {
        let text = b" {\"a\":[1,\"}\\\"]\"]}\n\"x\\\\\" 12 null\n{}[]\t";
        for size in 1..=text.len() {
            let expected = [r#"{"a":[1,"}\"]"]}"#, r#""x\\""#, "12", "null", "{}", "[]"];
            assert_eq!(values(text, size).unwrap(), expected, "{size}");
        }
        for text in ["]", ",", "{} }"] {
            assert_eq!(values(text.as_bytes(), 9), Err(Error::Malformed), "{text}");
        }
    }

    #[test]
    fn lists_come_apart_whatever_the_pieces() {
        let text =
            br#" {"kind": "L\"ist", "items" : [ {"a": "]"} , 2,[3]], "metadata":{"x":{}},"n":1} "#;
        for size in 1..=text.len() {
            let (items, members, complete) = parts(text, size).unwrap();
            assert_eq!(items, [r#"{"a": "]"}"#, "2", "[3]"], "{size}");
            let expected = [r#""kind"="L\"ist""#, r#""metadata"={"x":{}}"#, r#""n"=1"#];
            assert_eq!(members, expected, "{size}");
            assert!(complete);
        }
        let (items, members, complete) = parts(br#"{"items":null}"#, 99).unwrap();
        assert_eq!((items.len(), members.len(), complete), (0, 1, true));
        for text in ["{}", r#"{"items":[]}"#] {
            assert!(parts(text.as_bytes(), 1).unwrap().2, "{text}");
        }
        assert!(!parts(br#"{"items":[{}"#, 3).unwrap().2);
    }

    #[test]
    fn what_is_no_list_is_refused() {
        for text in [
            "[]",
            "x",
            r#"{"items":[}"#,
            r#"{"items":[1,]}"#,
            r#"{"a":1,}"#,
            r#"{"a"}"#,
            r"{a:1}",
            r#"{"a":]}"#,
            "{} x",
        ] {
            assert_eq!(parts(text.as_bytes(), 99), Err(Error::Malformed), "{text}");
        }
    }

    #[test]
    fn a_value_is_bounded() {
        let mut text = vec![b'x'; MAX_VALUE + 2];
        text[0] = b'"';
        assert_eq!(values(&text, 1 << 16), Err(Error::TooLarge));
        let mut list = br#"{"items":["#.to_vec();
        list.extend(&text);
        assert_eq!(parts(&list, 1 << 16), Err(Error::TooLarge));
    }

    proptest! {
        #[test]
        fn any_list_comes_apart_as_it_was_made(
            texts in vec(".{0,20}", 0..10),
            pretty in any::<bool>(),
            size in 1usize..50,
        ) {
            let items: Vec<_> = texts.iter().map(|text| json!({"name": text, "l": [text]})).collect();
            let list = json!({"kind": "List", "items": items, "metadata": {"m": texts}});
            let text = if pretty {
                serde_json::to_string_pretty(&list).unwrap()
            } else {
                list.to_string()
            };
            let (found, members, complete) = parts(text.as_bytes(), size).unwrap();
            let found: Vec<serde_json::Value> =
                found.iter().map(|item| serde_json::from_str(item).unwrap()).collect();
            prop_assert_eq!(found, items);
            prop_assert_eq!((members.len(), complete), (2, true));
            let stream = format!("{text}\n{text}\n");
            prop_assert_eq!(values(stream.as_bytes(), size).unwrap(), [text.clone(), text]);
        }
    }
}
