//! Readers of the common shapes of values; pure.

use std::time::Duration;

/// A boolean as Go's `strconv.ParseBool` reads it, and the words people use, in any case.
#[must_use]
pub fn switch(text: &str) -> Option<bool> {
    const ON: [&str; 6] = ["1", "t", "true", "y", "yes", "on"];
    const OFF: [&str; 6] = ["0", "f", "false", "n", "no", "off"];
    let is = |word: &&str| word.eq_ignore_ascii_case(text);
    if ON.iter().any(is) {
        Some(true)
    } else if OFF.iter().any(is) {
        Some(false)
    } else {
        None
    }
}

/// A duration as Go's `time.ParseDuration` reads it, without a sign: `1h30m`, `1.5s`, `20ms`, `0`.
///
/// A number without a unit is not a duration, except zero.
#[must_use]
pub fn duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at_checked(digits)?;
        let letters = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at_checked(letters)?;
        total = total.checked_add(scaled(number, nanoseconds(unit)?)?)?;
        rest = tail;
    }
    (!text.is_empty()).then_some(total)
}

/// A duration as Go's `Duration.String` writes it: `5m0s`, `1.5s`, `20ms`, `0s`.
#[must_use]
pub fn duration_text(duration: Duration) -> String {
    let nanoseconds = duration.as_nanos();
    let (unit, size) = match nanoseconds {
        0..1_000 => ("ns", 1),
        1_000..1_000_000 => ("\u{b5}s", 1_000),
        1_000_000..1_000_000_000 => ("ms", 1_000_000),
        _ => ("s", 1_000_000_000),
    };
    if nanoseconds == 0 {
        return "0s".to_owned();
    }
    let (mut whole, fraction) = (nanoseconds / size, nanoseconds % size);
    let mut text = String::new();
    if unit == "s" && whole >= 60 {
        let minutes = whole / 60;
        whole %= 60;
        if minutes >= 60 {
            text.push_str(&format!("{}h", minutes / 60));
        }
        text.push_str(&format!("{}m", minutes % 60));
    }
    text.push_str(&whole.to_string());
    if fraction > 0 {
        let digits = size.ilog10() as usize;
        let fraction = format!("{fraction:0digits$}");
        text.push('.');
        text.push_str(fraction.trim_end_matches('0'));
    }
    text.push_str(unit);
    text
}

/// A whole number as Go's flags read it: a sign, `0x`, `0o`, `0b` or a leading zero for a base
/// other than ten, and single underscores between digits.
#[must_use]
pub fn integer(text: &str) -> Option<i64> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let prefix = digits.get(..2).unwrap_or_default().to_ascii_lowercase();
    let (radix, digits) = match prefix.as_str() {
        "0x" => (16, &digits[2..]),
        "0o" => (8, &digits[2..]),
        "0b" => (2, &digits[2..]),
        _ if digits.len() > 1 && digits.starts_with('0') => (8, &digits[1..]),
        _ => (10, digits),
    };
    // Behind a base, an underscore may come first as well.
    let groups = if radix == 10 {
        digits
    } else {
        digits.strip_prefix('_').unwrap_or(digits)
    };
    let plain = groups.replace('_', "");
    let separated = groups.split('_').all(|group| !group.is_empty());
    if !separated || !plain.bytes().all(|octet| char::from(octet).is_digit(radix)) {
        return None;
    }
    let sign = if negative { "-" } else { "" };
    i64::from_str_radix(&format!("{sign}{plain}"), radix).ok()
}

/// The text a percent-encoded one stands for (RFC 3986, section 2.1); `None` if a percent sign is
/// not followed by two hexadecimal digits, or the octets are not UTF-8.
#[must_use]
pub fn percent_decoded(text: &str) -> Option<String> {
    String::from_utf8(percent_decoded_octets(text)?).ok()
}

/// As [`percent_decoded`], where what is encoded need not be a text.
#[must_use]
pub fn percent_decoded_octets(text: &str) -> Option<Vec<u8>> {
    let mut octets = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(octet) = rest.next() {
        octets.push(if octet == b'%' {
            let mut digit = || char::from(rest.next()?).to_digit(16);
            u8::try_from(digit()? << 4 | digit()?).ok()?
        } else {
            octet
        });
    }
    Some(octets)
}

/// Nanoseconds in one of Go's units.
fn nanoseconds(unit: &str) -> Option<u64> {
    Some(match unit {
        "ns" => 1,
        "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    })
}

/// `number` (decimal, with an optional fraction) times `unit` nanoseconds; digits below one
/// nanosecond are dropped.
fn scaled(number: &str, unit: u64) -> Option<Duration> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let whole = if whole.is_empty() {
        0
    } else {
        whole.parse::<u64>().ok()?.checked_mul(unit)?
    };
    let mut nanoseconds = whole;
    let mut place = unit;
    for digit in fraction.chars() {
        place /= 10;
        nanoseconds =
            nanoseconds.checked_add(place.checked_mul(u64::from(digit.to_digit(10)?))?)?;
    }
    Some(Duration::from_nanos(nanoseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_signs_stand_for_octets() {
        for (text, expected) in [
            ("", Some("")),
            ("a+b%20%C3%a9%25", Some("a+b é%")),
            ("%ff", None),
            ("%", None),
            ("%4", None),
            ("%zz", None),
            ("%+1", None),
        ] {
            assert_eq!(percent_decoded(text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn whole_numbers_follow_go() {
        for (text, expected) in [
            ("28888", Some(28888)),
            ("0", Some(0)),
            ("-1", Some(-1)),
            ("+7", Some(7)),
            ("0x70d8", Some(28888)),
            ("0X70D8", Some(28888)),
            ("0x_70_d8", Some(28888)),
            ("0o17", Some(15)),
            ("0b101", Some(5)),
            ("017", Some(15)),
            ("0_17", Some(15)),
            ("1_000", Some(1000)),
            ("00", Some(0)),
            ("0_", None),
            ("0x70_", None),
            ("-0x8000000000000000", Some(i64::MIN)),
            ("9223372036854775807", Some(i64::MAX)),
            ("9223372036854775808", None),
            ("1__0", None),
            ("1_", None),
            ("_1", None),
            ("0x", None),
            ("0x+1", None),
            ("--1", None),
            ("08", None),
            ("1.0", None),
            ("", None),
            ("-", None),
            ("1e3", None),
            (" 1", None),
        ] {
            assert_eq!(integer(text), expected, "{text:?}");
        }
    }

    #[test]
    fn durations_follow_go() {
        for (text, expected) in [
            ("0", Some(Duration::ZERO)),
            ("0s", Some(Duration::ZERO)),
            ("500ms", Some(Duration::from_millis(500))),
            ("1m30s", Some(Duration::from_secs(90))),
            ("1.5h", Some(Duration::from_secs(5400))),
            (".5s", Some(Duration::from_millis(500))),
            ("1.s", Some(Duration::from_secs(1))),
            ("1.25us", Some(Duration::from_nanos(1250))),
            ("7\u{b5}s", Some(Duration::from_micros(7))),
            ("", None),
            ("5", None),
            ("s", None),
            (".s", None),
            ("1..5s", None),
            ("-1s", None),
            ("1 s", None),
            ("1d", None),
            ("99999999999999999999h", None),
            ("9999999999h", None),
        ] {
            assert_eq!(duration(text), expected, "{text:?}");
        }
    }

    #[test]
    fn durations_are_written_as_go_writes_them() {
        for (nanoseconds, expected) in [
            (0, "0s"),
            (1, "1ns"),
            (1_100, "1.1\u{b5}s"),
            (2_200_000, "2.2ms"),
            (500_000_000, "500ms"),
            (3_300_000_000, "3.3s"),
            (90_000_000_000, "1m30s"),
            (300_000_000_000, "5m0s"),
            (245_001_000_000, "4m5.001s"),
            (3_600_000_000_000, "1h0m0s"),
            (18_367_001_000_000, "5h6m7.001s"),
        ] {
            let duration = Duration::from_nanos(nanoseconds);
            assert_eq!(duration_text(duration), expected);
        }
    }

    #[test]
    fn switches_are_closed_words() {
        for text in ["1", "t", "T", "TRUE", "true", "True", "y", "Yes", "ON"] {
            assert_eq!(switch(text), Some(true), "{text}");
        }
        for text in ["0", "f", "F", "FALSE", "no", "N", "off"] {
            assert_eq!(switch(text), Some(false), "{text}");
        }
        for text in ["", "2", "tru", "enabled", " true"] {
            assert_eq!(switch(text), None, "{text:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in ".{0,24}") {
            let _ = duration(&text);
            let _ = switch(&text);
        }

        #[test]
        fn what_is_written_is_read_back(nanoseconds: u64) {
            let written = Duration::from_nanos(nanoseconds);
            proptest::prop_assert_eq!(duration(&duration_text(written)), Some(written));
        }

        #[test]
        fn whole_milliseconds_are_exact(value in 0_u64..1_000_000_000) {
            proptest::prop_assert_eq!(
                duration(&format!("{value}ms")),
                Some(Duration::from_millis(value))
            );
        }
    }
}
