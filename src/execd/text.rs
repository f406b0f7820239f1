//! Output bytes as the text of a JSON string (contract 2.7).
//!
//! Pure. The one place where bytes that are not UTF-8 are changed: each of them becomes U+FFFD.

use crate::json::{self, Escapes};

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
        json::escape::<Stream>(valid, json);
        rest = &rest[valid.len()..];
        if let Some((_, after)) = rest.split_first() {
            json.extend_from_slice("\u{fffd}".as_bytes());
            rest = after;
        }
    }
}

/// What clients cannot bear to see as it is.
struct Stream;

impl Escapes for Stream {
    #[inline(always)]
    fn may_begin(octet: u8) -> bool {
        (octet == b'<')
            | (octet == b'>')
            | (octet == b'&')
            // What U+0085, and U+2028 and U+2029, begin with.
            | (octet == 0xc2)
            | (octet == 0xe2)
    }

    fn include(character: char) -> bool {
        matches!(
            character,
            '<' | '>' | '&' | '\u{85}' | '\u{2028}' | '\u{2029}'
        )
    }
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
