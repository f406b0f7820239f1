//! JSON as the clients of the API are used to it: compact, with Go's escapes.
//!
//! `<`, `>` and `&` are escaped as in Go's encoder, and so are U+2028, U+2029 and U+0085: a client
//! that splits a stream with Unicode's line rules would otherwise cut an object in two.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter, Serializer};

/// Serialises `value`, without a final newline.
///
/// # Errors
///
/// The value cannot be JSON, for example a map whose keys are not strings.
pub fn encode<T: Serialize + ?Sized>(value: &T) -> serde_json::Result<Vec<u8>> {
    let mut output = Vec::with_capacity(128);
    value.serialize(&mut Serializer::with_formatter(&mut output, Escaping))?;
    Ok(output)
}

/// serde_json's compact output with the escapes above.
struct Escaping;

fn escape(character: char) -> Option<&'static [u8]> {
    Some(match character {
        '<' => b"\\u003c",
        '>' => b"\\u003e",
        '&' => b"\\u0026",
        '\u{85}' => b"\\u0085",
        '\u{2028}' => b"\\u2028",
        '\u{2029}' => b"\\u2029",
        _ => return None,
    })
}

impl Formatter for Escaping {
    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        mut fragment: &str,
    ) -> io::Result<()> {
        let mut inner = CompactFormatter;
        while let Some(at) = fragment.find(|c| escape(c).is_some()) {
            let (before, rest) = fragment.split_at(at);
            inner.write_string_fragment(writer, before)?;
            let mut characters = rest.chars();
            if let Some(escaped) = characters.next().and_then(escape) {
                writer.write_all(escaped)?;
            }
            fragment = characters.as_str();
        }
        inner.write_string_fragment(writer, fragment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(value: &impl Serialize) -> String {
        String::from_utf8(encode(value).unwrap()).unwrap()
    }

    #[test]
    fn escapes_what_go_escapes_and_every_line_separator() {
        assert_eq!(
            text(&"a<b>&\"\\\n\u{7}\u{85}\u{2028}x\u{2029}é"),
            r#""a\u003cb\u003e\u0026\"\\\n\u0007\u0085\u2028x\u2029é""#
        );
        let object = serde_json::json!({"z": [1, 2.5, null], "<k>": true});
        assert_eq!(text(&object), r#"{"z":[1,2.5,null],"\u003ck\u003e":true}"#);
    }

    proptest! {
        #[test]
        fn any_text_survives_the_round_trip(original: String) {
            let encoded = text(&original);
            let escaped = encoded.chars().all(|character| escape(character).is_none());
            prop_assert!(escaped, "{}", encoded);
            prop_assert_eq!(serde_json::from_str::<String>(&encoded).unwrap(), original);
        }
    }
}
