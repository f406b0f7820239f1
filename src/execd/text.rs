//! Output bytes as the text of a JSON string (contract 2.7).
//!
//! Pure. The one place where bytes that are not UTF-8 are changed: each of them becomes U+FFFD.

/// Appends `bytes` to `json` as the inside of a JSON string.
///
/// Control characters, `"`, `\`, `<`, `>` and `&` are escaped, and so are U+0085, U+2028 and
/// U+2029: clients cut the stream at line breaks, and some count these among them.
pub fn escape(bytes: &[u8], json: &mut String) {
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
            json.push(char::REPLACEMENT_CHARACTER);
            rest = after;
        }
    }
}

fn escape_str(text: &str, json: &mut String) {
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
            '\u{0}'..='\u{1f}' | '<' | '>' | '&' | '\u{85}' | '\u{2028}' | '\u{2029}' => "",
            _ => continue,
        };
        json.push_str(&text[plain..at]);
        plain = seen;
        if escaped.is_empty() {
            json.push_str("\\u");
            for shift in [12, 8, 4, 0] {
                let digit = u32::from(character) >> shift & 0xf;
                json.extend(char::from_digit(digit, 16));
            }
        } else {
            json.push_str(escaped);
        }
    }
    json.push_str(&text[plain..]);
}

/// Where the next character begins that may have to be escaped.
fn next_special(bytes: &[u8]) -> Option<usize> {
    /// So many bytes are looked at together.
    const TOGETHER: usize = 32;
    // Without branches, so that it is done for many bytes by one instruction.
    let special = |byte: &u8| {
        let byte = *byte;
        (byte < b' ')
            | (byte == b'"')
            | (byte == b'\\')
            | (byte == b'<')
            | (byte == b'>')
            | (byte == b'&')
            // What U+0085, and U+2028 and U+2029, begin with.
            | (byte == 0xc2)
            | (byte == 0xe2)
    };
    let mut before = 0;
    for bytes in bytes.chunks(TOGETHER) {
        if bytes.iter().fold(false, |any, byte| any | special(byte)) {
            return bytes.iter().position(special).map(|at| before + at);
        }
        before += bytes.len();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn escaped(bytes: &[u8]) -> String {
        let mut json = String::new();
        escape(bytes, &mut json);
        json
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
