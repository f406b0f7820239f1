//! YAML as the JSON it stands for, as far as a kubeconfig needs it; pure.
//!
//! Plain `null`, `true` and `false` are what they say; every other scalar is text, so that a token
//! of digits needs no quotes. Aliases are refused: nothing writes them into a kubeconfig, and
//! without them a document cannot grow beyond what was read.

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span};
use serde_json::{Map, Value};

/// How deep a document may be nested.
const MAX_DEPTH: usize = 64;

/// Reads the first document of `text`; an empty one is null.
///
/// # Errors
///
/// It is not YAML, or not of the kind described above, with the line.
pub fn parse(text: &str) -> Result<Value, String> {
    let mut events = Parser::new_from_str(text);
    loop {
        match next(&mut events)? {
            (Event::StreamStart | Event::DocumentStart(_), _) => {}
            (Event::StreamEnd, _) => return Ok(Value::Null),
            first => return value(first, &mut events, 0),
        }
    }
}

type Events<'a> = Parser<'a, saphyr_parser::StrInput<'a>>;

fn next<'a>(events: &mut Events<'a>) -> Result<(Event<'a>, Span), String> {
    let told = |error: ScanError| format!("line {}: {}", error.marker().line(), error.info());
    let event = events.next_event();
    event
        .unwrap_or(Ok((Event::StreamEnd, Span::default())))
        .map_err(told)
}

fn value<'a>(
    (event, span): (Event<'a>, Span),
    events: &mut Events<'a>,
    depth: usize,
) -> Result<Value, String> {
    let refuse = |reason: &str| Err(format!("line {}: {reason}", span.start.line()));
    if depth > MAX_DEPTH {
        return refuse("nested too deeply");
    }
    match event {
        Event::Scalar(text, style, ..) => Ok(scalar(&text, style)),
        Event::SequenceStart(..) => {
            let mut items = Vec::new();
            loop {
                match next(events)? {
                    (Event::SequenceEnd, _) => return Ok(items.into()),
                    item => items.push(value(item, events, depth + 1)?),
                }
            }
        }
        Event::MappingStart(..) => {
            let mut members = Map::new();
            loop {
                let (key, span) = match next(events)? {
                    (Event::MappingEnd, _) => return Ok(members.into()),
                    (Event::Scalar(key, ..), span) => (key.into_owned(), span),
                    (_, span) => {
                        return Err(format!("line {}: a key that is no text", span.start.line()));
                    }
                };
                let member = value(next(events)?, events, depth + 1)?;
                if members.insert(key.clone(), member).is_some() {
                    return Err(format!(
                        "line {}: {key:?} is there twice",
                        span.start.line()
                    ));
                }
            }
        }
        Event::Alias(_) => refuse("aliases are not supported"),
        _ => refuse("the document is cut short"),
    }
}

fn scalar(text: &str, style: ScalarStyle) -> Value {
    match (style, text) {
        (ScalarStyle::Plain, "" | "~" | "null" | "Null" | "NULL") => Value::Null,
        (ScalarStyle::Plain, "true" | "True" | "TRUE") => true.into(),
        (ScalarStyle::Plain, "false" | "False" | "FALSE") => false.into(),
        (_, text) => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn documents_become_what_they_say() {
        for (text, expected) in [
            ("", json!(null)),
            ("# only a comment\n", json!(null)),
            ("--- {}\n", json!({})),
            ("a: b\nc: [1, two]\n", json!({"a": "b", "c": ["1", "two"]})),
            (
                "a: true\nb: 'true'\nc: ~\nd:\ne: \"x\\ny\"\n",
                json!({"a": true, "b": "true", "c": null, "d": null, "e": "x\ny"}),
            ),
            (
                "a: |\n  one\n  two\nb: >-\n  three\n  four\n",
                json!({"a": "one\ntwo\n", "b": "three four"}),
            ),
            (
                "clusters:\n- cluster:\n    server: https://a:6443\n  name: a\n",
                json!({"clusters": [{"cluster": {"server": "https://a:6443"}, "name": "a"}]}),
            ),
            (
                r#"{"apiVersion": "v1", "users": []}"#,
                json!({"apiVersion": "v1", "users": []}),
            ),
            ("a: 1\n---\nb: 2\n", json!({"a": "1"})),
        ] {
            assert_eq!(parse(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_refused_is_told_with_its_line() {
        let deep = "[".repeat(2 * MAX_DEPTH);
        for (text, told) in [
            ("a: b\n c: d\n", "line 2: "),
            ("a: &x 1\nb: *x\n", "line 2: aliases are not supported"),
            ("a: 1\na: 2\n", "line 2: \"a\" is there twice"),
            (
                "\"a\\nb\": 1\n\"a\\nb\": 2\n",
                "line 2: \"a\\nb\" is there twice",
            ),
            ("? [a]\n: b\n", "line 1: a key that is no text"),
            ("a: [1\n", "line "),
            ("a:\n\tb: 1\n", "line 2: "),
            (&deep, "line 1: "),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with(told), "{text:?}: {error}");
        }
    }
}
