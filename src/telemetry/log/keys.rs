//! The keys of fields, and what each looks like in a line and in a record of OTLP.
//!
//! Records have the same few keys again and again, and those of one kind have them in one order. So
//! what can be known of a key is found out when it is met first, and which of them comes next is
//! guessed from what came next before. Never writes a field.

use std::collections::HashMap;

use super::encoder::{RESERVED, open};
use super::order::EVENT_KEY;
use crate::telemetry::bridge;
use crate::telemetry::trace_context::FLAGS_KEY;

/// How many keys are kept from record to record. Keys come from the code, which has fewer.
const KEPT: usize = 256;

/// The keys that the records of one encoder had.
#[derive(Default)]
pub(super) struct Keys {
    known: Vec<Known>,
    numbers: HashMap<Box<str>, usize>,
    /// Which encoder's they are.
    encoder: u64,
    /// The number of the key met last, and how many records there were.
    last: usize,
    records: u64,
}

/// What is known of a key.
pub(super) struct Known {
    key: Box<str>,
    /// A comma, the key and a colon.
    pub(super) line: Box<[u8]>,
    /// As OTLP has it.
    pub(super) record: bridge::Key,
    /// Whether a line, and a record of OTLP, have none of this key yet.
    pub(super) in_line: bool,
    pub(super) in_record: bool,
    /// It is [`EVENT_KEY`].
    pub(super) is_event: bool,
    /// It is [`FLAGS_KEY`], which is no field.
    pub(super) is_flags: bool,
    /// The record that had it last, and the one that gave it a place last.
    met: u64,
    placed: u64,
    /// The key that came after it last.
    next: usize,
}

impl Keys {
    /// Begins a record of the encoder that has this number.
    pub(super) fn begin(&mut self, encoder: u64) {
        if self.encoder != encoder || self.known.len() > KEPT {
            *self = Self {
                encoder,
                records: self.records,
                ..Self::default()
            };
        }
        self.records += 1;
    }

    /// The number of `key`, and whether the record had it before. `baseline` are the keys that
    /// lines and records have anyway.
    pub(super) fn meet(&mut self, key: &str, baseline: &[String]) -> (usize, bool) {
        let guess = self.known.get(self.last).map_or(0, |last| last.next);
        let number = match self.known.get(guess) {
            Some(known) if is_same(known.key.as_bytes(), key.as_bytes()) => guess,
            _ => self.search(key, baseline),
        };
        self.last = number;
        let met = &mut self.known[number].met;
        let again = std::mem::replace(met, self.records) == self.records;
        (number, again)
    }

    /// The same without guessing; the next guess will be this.
    fn search(&mut self, key: &str, baseline: &[String]) -> usize {
        let number = match self.numbers.get(key) {
            Some(number) => *number,
            None => {
                let number = self.known.len();
                self.known.push(Known::new(key, baseline));
                self.numbers.insert(key.into(), number);
                number
            }
        };
        if let Some(last) = self.known.get_mut(self.last) {
            last.next = number;
        }
        number
    }

    /// Whether the record has given no field of this key a place before.
    pub(super) fn place(&mut self, number: usize) -> bool {
        let placed = &mut self.known[number].placed;
        std::mem::replace(placed, self.records) != self.records
    }

    /// What is known of the key of this number.
    pub(super) fn get(&self, number: usize) -> &Known {
        &self.known[number]
    }
}

impl Known {
    fn new(key: &str, baseline: &[String]) -> Self {
        let mut line = Vec::new();
        open(key, &mut line);
        let is_taken = baseline.iter().any(|taken| taken == key);
        Self {
            key: key.into(),
            line: line.into(),
            record: bridge::Key::new(key),
            in_line: !is_taken && !RESERVED.contains(&key),
            in_record: !is_taken,
            is_event: key == EVENT_KEY,
            is_flags: key == FLAGS_KEY,
            met: 0,
            placed: 0,
            next: 0,
        }
    }
}

/// Eight octets at a time: musl compares one by one.
fn is_same(one: &[u8], other: &[u8]) -> bool {
    if one.len() != other.len() {
        return false;
    }
    let number = |octets: &[u8; 8]| u64::from_ne_bytes(*octets);
    let (Some(end), Some(other_end)) = (one.last_chunk(), other.last_chunk()) else {
        return one.iter().zip(other).all(|(one, other)| one == other);
    };
    // The last eight are looked at together with some that are among the first.
    let mut pairs = one.as_chunks().0.iter().zip(other.as_chunks().0);
    number(end) == number(other_end) && pairs.all(|(one, other)| number(one) == number(other))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keys_are_known_again_in_any_order() {
        let mut keys = Keys::default();
        let mut numbers = |record: &[&str]| {
            keys.begin(1);
            let meet = |key: &&str| keys.meet(key, &[]);
            record.iter().map(meet).collect::<Vec<_>>()
        };
        assert_eq!(
            numbers(&["a", "b", "a"]),
            [(0, false), (1, false), (0, true)]
        );
        assert_eq!(
            numbers(&["b", "a", "c"]),
            [(1, false), (0, false), (2, false)]
        );
        assert_eq!(
            numbers(&["a", "b", "c"]),
            [(0, false), (1, false), (2, false)]
        );
    }

    #[test]
    fn another_encoder_or_too_many_keys_begin_anew() {
        let mut keys = Keys::default();
        let baseline = ["b".to_owned()];
        keys.begin(1);
        keys.meet("a", &baseline);
        let (number, _) = keys.meet("b", &baseline);
        assert_eq!((number, keys.get(number).in_line), (1, false));
        keys.begin(2);
        let (number, again) = keys.meet("b", &[]);
        assert_eq!((number, again, keys.get(number).in_line), (0, false, true));
        for key in 0..=KEPT {
            keys.meet(&key.to_string(), &[]);
        }
        keys.begin(2);
        assert_eq!(keys.meet("b", &[]), (0, false));
    }

    proptest! {
        #[test]
        fn is_same_is_equality(one in "[ab]{0,20}", other in "[ab]{0,20}", tail in 0_usize..20) {
            prop_assert_eq!(is_same(one.as_bytes(), other.as_bytes()), one == other);
            prop_assert!(is_same(one.as_bytes(), one.clone().as_bytes()));
            let mut almost = one.clone().into_bytes();
            if let Some(octet) = almost.get_mut(tail) {
                *octet = b'c';
                prop_assert!(!is_same(one.as_bytes(), &almost));
            }
        }
    }
}
