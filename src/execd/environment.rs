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
/// Lines are trimmed; empty ones and those that begin with `#` are skipped; the first `=` splits.
/// The name is taken as it is, quotes in the value stay, `$NAME` and `${NAME}` in it are replaced
/// from `environment` alone, undefined ones by nothing.
#[must_use]
pub fn parse_file(content: &[u8], environment: &Environment) -> File {
    let mut file = File::default();
    for (index, line) in content.split(|byte| *byte == b'\n').enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let Some(split) = line.iter().position(|byte| *byte == b'=') else {
            file.malformed.push(index + 1);
            continue;
        };
        let (name, value) = (&line[..split], &line[split + 1..]);
        let value = paths::substitute(OsStr::from_bytes(value), |name| {
            environment.get(name).unwrap_or_default().to_owned()
        });
        file.variables
            .push((OsString::from_vec(name.to_vec()), value));
    }
    file
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
            ("X=\"quoted\"", "X", "\"quoted\""),
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
