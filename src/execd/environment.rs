//! The environment of what execd runs: its own without secrets, then the `EXECD_ENVS` file, then
//! the request (contract 2.8).
//!
//! Pure: text in, variables out. Never reads a file or the process's environment itself.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use super::paths;
use crate::telemetry::trace_context::TraceContext;

/// The most bytes read of the `EXECD_ENVS` file; what lies beyond is ignored.
pub const MAX_FILE: u64 = 1024 * 1024;

/// Variables of the daemon that no child sees: they open its API or its Jupyter server, or are
/// notes from the daemon to itself.
pub const SECRETS: &[&str] = &[
    "EXECD_ACCESS_TOKEN",
    "EXECD_ACCESS_TOKEN_FILE",
    "JUPYTER_TOKEN",
    "_EXECD_CLONE3_COMPAT_APPLIED",
];

/// The variables that carry the trace of a request.
pub const TRACE: &[&str] = &["TRACEPARENT", "TRACESTATE", "BAGGAGE"];

/// A set of variables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    variables: BTreeMap<OsString, OsString>,
}

impl Environment {
    /// The daemon's own variables, of which children see all but the [`SECRETS`].
    #[must_use]
    pub fn for_children(own: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        own.into_iter()
            .filter(|(name, _)| !SECRETS.iter().any(|secret| name == secret))
            .collect()
    }

    /// The value of a variable.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&OsStr> {
        self.variables
            .get(OsStr::new(name))
            .map(OsString::as_os_str)
    }

    /// Sets a variable; the last value wins.
    pub fn set(&mut self, name: impl Into<OsString>, value: impl Into<OsString>) {
        self.variables.insert(name.into(), value.into());
    }

    /// Removes a variable.
    pub fn remove(&mut self, name: &str) {
        self.variables.remove(OsStr::new(name));
    }

    /// Sets a variable unless it is there.
    pub fn set_default(&mut self, name: &str, value: impl Into<OsString>) {
        self.variables
            .entry(name.into())
            .or_insert_with(|| value.into());
    }

    /// Sets the caller's trace. Where it names a span, all of the trace is the caller's: state and
    /// baggage of another one would be told of this.
    pub fn set_trace(&mut self, trace: &TraceContext) {
        if trace.parent().is_some() {
            for name in TRACE {
                self.remove(name);
            }
        }
        for (name, value) in trace.environment() {
            self.set(name, value);
        }
    }

    /// This environment with `overlay` on top.
    #[must_use]
    pub fn with<N, V>(&self, overlay: impl IntoIterator<Item = (N, V)>) -> Self
    where
        N: Into<OsString>,
        V: Into<OsString>,
    {
        let mut merged = self.clone();
        for (name, value) in overlay {
            merged.set(name, value);
        }
        merged
    }

    /// Every variable, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&OsStr, &OsStr)> {
        self.variables
            .iter()
            .map(|(name, value)| (name.as_os_str(), value.as_os_str()))
    }
}

impl FromIterator<(OsString, OsString)> for Environment {
    fn from_iter<I: IntoIterator<Item = (OsString, OsString)>>(variables: I) -> Self {
        Self {
            variables: variables.into_iter().collect(),
        }
    }
}

/// What an `EXECD_ENVS` file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct File {
    /// Its variables in order; of two with one name the later is meant.
    pub variables: Vec<(OsString, OsString)>,
    /// The numbers, from 1, of lines without `=`; never their text, which may be a secret.
    pub malformed: Vec<usize>,
}

/// Parses an `EXECD_ENVS` file.
///
/// Lines are trimmed; empty ones and those that begin with `#` are skipped; the first `=` splits,
/// and the name is taken as it is. A value may be in quotes, as the SDKs write it, and then have
/// line feeds: between single ones it is literal, between double ones `\n`, `\r`, `\t`, `\\` and
/// `\"` are escapes. Quotes that are not closed, or are closed before the end of a line, are part of
/// the value. `$NAME` and `${NAME}` are replaced from `environment` alone, undefined ones by
/// nothing, but not between single quotes.
#[must_use]
pub fn parse_file(content: &[u8], environment: &Environment) -> File {
    let mut file = File::default();
    let expanded = |value: &[u8]| {
        paths::substitute(OsStr::from_bytes(value), |name| {
            environment.get(name).unwrap_or_default().to_owned()
        })
    };
    let mut rest = content;
    let mut number = 0;
    while !rest.is_empty() {
        number += 1;
        let end = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
        let line = rest[..end].trim_ascii();
        let after = rest.get(end + 1..).unwrap_or_default();
        if line.is_empty() || line.starts_with(b"#") {
            rest = after;
            continue;
        }
        let Some(split) = memchr::memchr(b'=', line) else {
            file.malformed.push(number);
            rest = after;
            continue;
        };
        let name = OsString::from_vec(line[..split].to_vec());
        let begin = rest.len() - rest.trim_ascii_start().len() + split + 1;
        let value = match quoted(&rest[begin..]) {
            Some((value, length)) => {
                let entry = &rest[..begin + length];
                number += memchr::memchr_iter(b'\n', entry).count();
                let end = memchr::memchr(b'\n', &rest[entry.len()..]);
                rest = end.map_or(&[], |end| &rest[entry.len() + end + 1..]);
                match value {
                    Quoted::Literally(value) => OsString::from_vec(value),
                    Quoted::Freely(value) => expanded(&value),
                }
            }
            None => {
                rest = after;
                expanded(&line[split + 1..])
            }
        };
        file.variables.push((name, value));
    }
    file
}

/// A value without its quotes.
enum Quoted {
    /// Between single ones.
    Literally(Vec<u8>),
    /// Between double ones.
    Freely(Vec<u8>),
}

/// The quoted value that `text` begins with, alone on its last line, and how long it is.
fn quoted(text: &[u8]) -> Option<(Quoted, usize)> {
    let spaces = text
        .iter()
        .take_while(|byte| **byte != b'\n' && byte.is_ascii_whitespace())
        .count();
    let (quote, inner) = text.get(spaces..)?.split_first()?;
    let (value, length) = match quote {
        b'\'' => {
            let length = memchr::memchr(b'\'', inner)?;
            (Quoted::Literally(inner[..length].to_vec()), length)
        }
        b'"' => {
            let (value, length) = unescaped(inner)?;
            (Quoted::Freely(value), length)
        }
        _ => return None,
    };
    let length = spaces + 1 + length + 1;
    let left = text[length..].split(|byte| *byte == b'\n').next();
    left.unwrap_or_default()
        .trim_ascii()
        .is_empty()
        .then_some((value, length))
}

/// What `text` says up to the double quote that closes it, and how far that is.
fn unescaped(text: &[u8]) -> Option<(Vec<u8>, usize)> {
    let mut value = Vec::new();
    let mut bytes = text.iter().copied().enumerate();
    while let Some((index, byte)) = bytes.next() {
        match byte {
            b'"' => return Some((value, index)),
            b'\\' => match bytes.next()?.1 {
                b'n' => value.push(b'\n'),
                b'r' => value.push(b'\r'),
                b't' => value.push(b'\t'),
                same @ (b'\\' | b'"') => value.push(same),
                other => value.extend([b'\\', other]),
            },
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> Environment {
        pairs.iter().map(|(n, v)| (n.into(), v.into())).collect()
    }

    #[test]
    fn children_never_see_the_daemons_secrets() {
        let mut own: Vec<_> = SECRETS.iter().map(|n| ((*n).into(), "s".into())).collect();
        own.push(("PATH".into(), "/bin".into()));
        assert_eq!(
            Environment::for_children(own),
            environment(&[("PATH", "/bin")])
        );
    }

    #[test]
    fn a_file_is_read_line_by_line() {
        let base = environment(&[("BASE_DIR", "/opt/base"), ("FOO", "outer")]);
        let text = b"# comment\nFOO=bar\nPATH=$BASE_DIR/bin\nMALFORMED\nEMPTY=\n\n";
        let file = parse_file(text, &base);
        let expected: Vec<(OsString, OsString)> = vec![
            ("FOO".into(), "bar".into()),
            ("PATH".into(), "/opt/base/bin".into()),
            ("EMPTY".into(), "".into()),
        ];
        assert_eq!(file.variables, expected);
        assert_eq!(file.malformed, [4]);
    }

    #[test]
    fn values_are_literal_but_for_references_to_the_daemons_variables() {
        let base = environment(&[("A", "1")]);
        for (line, name, value) in [
            ("export X=1", "export X", "1"),
            ("X=a=b", "X", "a=b"),
            ("  X = v  ", "X ", " v"),
            ("X=${A}$B.", "X", "1."),
            ("X=$A$", "X", "1$"),
            ("=v", "", "v"),
        ] {
            let file = parse_file(line.as_bytes(), &base);
            assert_eq!(file.variables, [(name.into(), value.into())], "{line}");
        }
        // Earlier lines of the file are not visible to later ones.
        let file = parse_file(b"B=2\nC=$B", &base);
        assert_eq!(file.variables[1], ("C".into(), "".into()));
    }

    #[test]
    fn quotes_hold_a_value_together() {
        let base = environment(&[("A", "1")]);
        for (line, value) in [
            ("X=\"two words\"", "two words"),
            ("X='two words'", "two words"),
            ("X= ' kept '  ", " kept "),
            ("X=''", ""),
            ("X='$A \\n \"'", "$A \\n \""),
            ("X=\"$A \\n\\r\\t\\\\\\\" '\"", "1 \n\r\t\\\" '"),
            ("X=\"\\q\"", "\\q"),
            (
                "X='line one\nline # two\n\nY=3'",
                "line one\nline # two\n\nY=3",
            ),
            ("X=\"line one\nline two\"", "line one\nline two"),
            // What is no quoted value is one that has quotes.
            ("X='open", "'open"),
            ("X=\"open\\\"", "\"open\\\""),
            ("X='a' b", "'a' b"),
            ("X=a'b'", "a'b'"),
            ("X='", "'"),
        ] {
            let file = parse_file(line.as_bytes(), &base);
            assert_eq!(file.variables, [("X".into(), value.into())], "{line}");
        }
        // What comes after is found, and has its number.
        let text = b"A='1\n2'\nB='open\nC=\"x\"\nwrong\nD=4";
        let file = parse_file(text, &base);
        let expected = [("A", "1\n2"), ("B", "'open"), ("C", "x"), ("D", "4")];
        assert_eq!(file.variables, expected.map(|(n, v)| (n.into(), v.into())));
        assert_eq!(file.malformed, [5]);
    }

    proptest::proptest! {
        /// Whatever a file has, reading it ends, and lines without quotes are read alone.
        #[test]
        fn any_file_can_be_read(content: Vec<u8>) {
            let base = environment(&[("A", "1")]);
            let lines = content.split(|byte| *byte == b'\n').count();
            let file = parse_file(&content, &base);
            proptest::prop_assert!(file.variables.len() + file.malformed.len() <= lines);
            proptest::prop_assert!(file.malformed.iter().all(|number| (1..=lines).contains(number)));
        }

        /// What the SDKs write comes back: single quotes, or double ones where the value has single
        /// ones.
        #[test]
        fn what_is_quoted_as_the_sdks_do_comes_back(value in "[^$\0]*") {
            let base = environment(&[]);
            let quoted = if value.contains('\'') {
                let escapes = [('\\', "\\\\"), ('"', "\\\""), ('\n', "\\n"), ('\r', "\\r"), ('\t', "\\t")];
                let escaped = escapes.iter().fold(value.clone(), |text, (from, to)| text.replace(*from, to));
                format!("\"{escaped}\"")
            } else {
                format!("'{value}'")
            };
            let text = format!("BEFORE=1\nX={quoted}\nAFTER=2\n");
            let file = parse_file(text.as_bytes(), &base);
            let expected = [("BEFORE", "1"), ("X", &value), ("AFTER", "2")];
            proptest::prop_assert_eq!(file.variables, expected.map(|(n, v)| (n.into(), v.into())));
        }
    }

    #[test]
    fn later_layers_win() {
        let base = environment(&[("A", "1"), ("B", "2")]);
        let merged = base.with([("B", "override"), ("C", "3")]);
        assert_eq!(
            merged,
            environment(&[("A", "1"), ("B", "override"), ("C", "3")])
        );
        let file = parse_file(b"A=file\nB=file\nA=again", &base).variables;
        let request = [("B", "request")];
        let merged = base.with(file).with(request);
        assert_eq!(merged, environment(&[("A", "again"), ("B", "request")]));
    }
}
