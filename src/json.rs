//! JSON text in pieces: the inside of strings, and numbers. Pure.

/// So many octets are looked at together.
const TOGETHER: usize = 32;
/// What a kind of text must not contain, besides what JSON itself forbids: `"`, `\` and the
/// characters before the space.
pub trait Escapes {
    /// Whether a character that is to be escaped may begin with `octet`; JSON's own are asked for
    /// elsewhere.
    fn may_begin(octet: u8) -> bool;

    /// Whether `character`, of the basic plane, is to be escaped.
    fn include(character: char) -> bool;
}

/// Appends `text` as the inside of a JSON string.
pub fn escape<E: Escapes>(text: &str, json: &mut Vec<u8>) {
    let (mut plain, mut seen) = (0, 0);
    while let Some(at) = next_special::<E>(&text.as_bytes()[seen..]) {
        let at = seen + at;
        let Some(character) = text[at..].chars().next() else {
            break;
        };
        seen = at + character.len_utf8();
        let escaped = match character {
            '"' => "\\\"",
            '\\' => "\\\\",
            '\n' => "\\n",
            '\r' => "\\r",
            '\t' => "\\t",
            '\u{0}'..='\u{1f}' => "",
            _ if E::include(character) => "",
            _ => continue,
        };
        json.extend_from_slice(&text.as_bytes()[plain..at]);
        plain = seen;
        if escaped.is_empty() {
            append_code(character, json);
        } else {
            json.extend_from_slice(escaped.as_bytes());
        }
    }
    json.extend_from_slice(&text.as_bytes()[plain..]);
}

/// Appends a character of the basic plane as its code.
fn append_code(character: char, json: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    json.extend_from_slice(b"\\u");
    let code = u32::from(character);
    let digits = [12, 8, 4, 0].map(|shift| DIGITS[(code >> shift & 0xf) as usize]);
    json.extend_from_slice(&digits);
}

/// Appends a number in decimal digits.
pub fn number(mut value: u64, json: &mut Vec<u8>) {
    /// As many as the largest has.
    const MOST: usize = 20;
    let mut digits = [0; MOST];
    let mut first = MOST;
    loop {
        first -= 1;
        digits[first] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    json.extend_from_slice(&digits[first..]);
}

/// Where the next character begins that may have to be escaped.
fn next_special<E: Escapes>(octets: &[u8]) -> Option<usize> {
    let (groups, rest) = octets.as_chunks::<TOGETHER>();
    let mut seen = 0;
    for group in groups {
        if any_special::<E, _>(group) {
            break;
        }
        seen += TOGETHER;
    }
    if seen == octets.len() - rest.len() {
        // The last octets are looked at together with some that were seen before.
        let tail = octets.last_chunk::<TOGETHER>();
        let plain = match tail {
            Some(last) => !any_special::<E, _>(last),
            None => is_plain::<E>(rest),
        };
        if plain {
            return None;
        }
    }
    let at = octets[seen..]
        .iter()
        .position(|octet| is_special::<E>(*octet))?;
    Some(seen + at)
}

/// Whether fewer octets than are looked at together need no escaping.
#[inline]
fn is_plain<E: Escapes>(octets: &[u8]) -> bool {
    #[inline(always)]
    fn ends<E: Escapes, const N: usize>(octets: &[u8]) -> Option<bool> {
        let (first, last) = (octets.first_chunk::<N>()?, octets.last_chunk::<N>()?);
        Some(!any_special::<E, N>(first) && !any_special::<E, N>(last))
    }
    ends::<E, 16>(octets)
        .or_else(|| ends::<E, 8>(octets))
        .or_else(|| ends::<E, 4>(octets))
        .unwrap_or_else(|| !octets.iter().any(|octet| is_special::<E>(*octet)))
}

/// Without branches, so that it is done for many octets by one instruction.
#[inline(always)]
fn any_special<E: Escapes, const N: usize>(octets: &[u8; N]) -> bool {
    let mut any = 0;
    for octet in octets {
        any |= u8::from(is_special::<E>(*octet));
    }
    any != 0
}

#[inline(always)]
fn is_special<E: Escapes>(octet: u8) -> bool {
    (octet < b' ') | (octet == b'"') | (octet == b'\\') | E::may_begin(octet)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Escapes `<`, and what a C1 control begins with.
    struct Sample;

    impl Escapes for Sample {
        fn may_begin(octet: u8) -> bool {
            (octet == b'<') | (octet == 0xc2)
        }

        fn include(character: char) -> bool {
            matches!(character, '<' | '\u{80}'..='\u{9f}')
        }
    }

    fn escaped(text: &str) -> String {
        let mut json = Vec::new();
        escape::<Sample>(text, &mut json);
        String::from_utf8(json).unwrap()
    }

    #[test]
    fn what_is_escaped_and_how() {
        for (text, json) in [
            ("", ""),
            ("plain", "plain"),
            ("a\0b\u{1b}[0m", "a\\u0000b\\u001b[0m"),
            ("<&\"\\", "\\u003c&\\\"\\\\"),
            ("\n\r\t\u{8}", "\\n\\r\\t\\u0008"),
            ("\u{80}\u{a0}é\u{2028}", "\\u0080\u{a0}é\u{2028}"),
        ] {
            assert_eq!(escaped(text), json);
        }
    }

    #[test]
    fn every_length_and_place_is_copied_and_seen() {
        let alphabet = ('a'..='z').cycle();
        for length in 0..4 * TOGETHER {
            let plain: String = alphabet.clone().take(length).collect();
            assert_eq!(escaped(&plain), plain);
            for at in 0..length {
                let mut text = plain.clone();
                text.replace_range(at..=at, "<");
                assert_eq!(escaped(&text), text.replace('<', "\\u003c"));
            }
        }
    }

    proptest! {
        #[test]
        fn text_comes_out_of_a_parser_as_it_went_in(text in any::<String>()) {
            let json = format!("\"{}\"", escaped(&text));
            prop_assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
        }

        #[test]
        fn numbers_are_written_as_ever(value in any::<u64>(), shift in 0..64) {
            let mut json = b"x".to_vec();
            number(value >> shift, &mut json);
            prop_assert_eq!(json, format!("x{}", value >> shift).into_bytes());
        }
    }
}
