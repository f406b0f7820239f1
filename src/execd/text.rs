//! Output bytes as the text of a JSON string (contract 2.7).
//!
//! Pure. The one place where bytes that are not UTF-8 are changed: each of them becomes U+FFFD.

/// So many bytes are looked at, and copied, together.
const TOGETHER: usize = 32;

/// Appends `bytes` to `json` as the inside of a JSON string.
///
/// Control characters, `"`, `\`, `<`, `>` and `&` are escaped, and so are U+0085, U+2028 and
/// U+2029: clients cut the stream at line breaks, and some count these among them.
pub fn escape(bytes: &[u8], json: &mut Vec<u8>) {
    json.reserve(bytes.len() + 2);
    let mut rest = bytes;
    while !rest.is_empty() {
        let valid = match std::str::from_utf8(rest) {
            Ok(text) => text,
            Err(error) => {
                // Always valid; the fallback only avoids a panic path.
                std::str::from_utf8(&rest[..error.valid_up_to()]).unwrap_or_default()
            }
        };
        escape_str(valid, json);
        rest = &rest[valid.len()..];
        if let Some((_, after)) = rest.split_first() {
            json.extend_from_slice("\u{fffd}".as_bytes());
            rest = after;
        }
    }
}

fn escape_str(text: &str, json: &mut Vec<u8>) {
    let (mut plain, mut seen) = (0, 0);
    while let Some(at) = next_special(&text.as_bytes()[seen..]) {
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
            '\u{1b}' => "\\u001b",
            '<' => "\\u003c",
            '>' => "\\u003e",
            '&' => "\\u0026",
            '\u{0}'..='\u{1f}' | '\u{85}' | '\u{2028}' | '\u{2029}' => "",
            _ => continue,
        };
        append(&text.as_bytes()[plain..at], json);
        plain = seen;
        if escaped.is_empty() {
            append_code(character, json);
        } else {
            json.extend_from_slice(escaped.as_bytes());
        }
    }
    append(&text.as_bytes()[plain..], json);
}

/// Appends a character of the basic plane as its code.
fn append_code(character: char, json: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    json.extend_from_slice(b"\\u");
    let code = u32::from(character);
    let digits = [12, 8, 4, 0].map(|shift| DIGITS[(code >> shift & 0xf) as usize]);
    json.extend_from_slice(&digits);
}

/// Appends in groups of a length that is known, which are cheaper than calls of `memcpy`: musl's
/// takes some 20 ns however little there is to copy.
fn append(bytes: &[u8], json: &mut Vec<u8>) {
    let Some(last) = bytes.last_chunk::<TOGETHER>() else {
        json.extend_from_slice(bytes);
        return;
    };
    json.reserve(bytes.len() + TOGETHER);
    let (groups, rest) = bytes.as_chunks::<TOGETHER>();
    for group in groups {
        json.extend_from_slice(group);
    }
    // The last group begins with what was appended already.
    json.truncate(json.len() + rest.len() - TOGETHER);
    json.extend_from_slice(last);
}

/// Where the next character begins that may have to be escaped.
fn next_special(bytes: &[u8]) -> Option<usize> {
    let (groups, rest) = bytes.as_chunks();
    let mut seen = 0;
    for group in groups {
        if any_special(group) {
            break;
        }
        seen += TOGETHER;
    }
    // The last bytes are looked at together with some that were seen before.
    if seen == bytes.len() - rest.len() && bytes.last_chunk().is_some_and(|last| !any_special(last))
    {
        return None;
    }
    let at = bytes[seen..].iter().copied().position(is_special)?;
    Some(seen + at)
}

/// Without branches, so that it is done for many bytes by one instruction.
#[inline(always)]
fn any_special(bytes: &[u8; TOGETHER]) -> bool {
    let mut any = 0;
    for byte in bytes {
        any |= u8::from(is_special(*byte));
    }
    any != 0
}

#[inline(always)]
fn is_special(byte: u8) -> bool {
    (byte < b' ')
        | (byte == b'"')
        | (byte == b'\\')
        | (byte == b'<')
        | (byte == b'>')
        | (byte == b'&')
        // What U+0085, and U+2028 and U+2029, begin with.
        | (byte == 0xc2)
        | (byte == 0xe2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn escaped(bytes: &[u8]) -> String {
        let mut json = Vec::new();
        escape(bytes, &mut json);
        String::from_utf8(json).unwrap()
    }

    #[test]
    fn the_escapes_of_the_contract() {
        for (bytes, json) in [
            (&b"plain"[..], "plain"),
            (b"\xff\xe2\x82", "\u{fffd}\u{fffd}\u{fffd}"),
            (b"a\0b\x1b[0m", "a\\u0000b\\u001b[0m"),
            (b"<&>\"\\", "\\u003c\\u0026\\u003e\\\"\\\\"),
            (
                "\u{85}\u{2028}\u{2029}é\u{7f}".as_bytes(),
                "\\u0085\\u2028\\u2029é\u{7f}",
            ),
            (b"\n\r\t", "\\n\\r\\t"),
        ] {
            assert_eq!(escaped(bytes), json);
        }
    }

    #[test]
    fn every_length_and_place_is_copied_and_seen() {
        let alphabet = "abcdefghijklmnopqrstuvwxyz".bytes().cycle();
        for length in 0..4 * TOGETHER {
            let plain: Vec<u8> = alphabet.clone().take(length).collect();
            assert_eq!(escaped(&plain).as_bytes(), plain);
            for at in 0..length {
                let mut text = plain.clone();
                text[at] = b'<';
                let expected = String::from_utf8(text.clone()).unwrap();
                assert_eq!(escaped(&text), expected.replace('<', "\\u003c"));
            }
        }
    }

    proptest! {
        #[test]
        fn text_comes_out_of_a_json_parser_as_it_went_in(text in any::<String>()) {
            let json = format!("\"{}\"", escaped(text.as_bytes()));
            prop_assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
            // `splitlines` of Python, which clients use.
            let breaks = ['\n', '\r', '\x0b', '\x0c', '\x1c', '\x1d', '\x1e', '\u{85}', '\u{2028}', '\u{2029}'];
            prop_assert!(!json.contains(breaks));
        }

        #[test]
        fn only_invalid_bytes_change(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let json = format!("\"{}\"", escaped(&bytes));
            let expected: String = bytes
                .utf8_chunks()
                .flat_map(|chunk| {
                    let replaced = std::iter::repeat_n('\u{fffd}', chunk.invalid().len());
                    chunk.valid().chars().chain(replaced).collect::<Vec<_>>()
                })
                .collect();
            prop_assert_eq!(serde_json::from_str::<String>(&json).unwrap(), expected);
        }
    }
}
