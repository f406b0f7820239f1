//! Working directories as requests name them: `~`, `$NAME`, `${NAME}` (contract 2.8).
//!
//! The expansion is pure; only [`Directory::check`] and [`Directory::create`] look at the file
//! system, and they block.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use super::environment::Environment;

/// A path that cannot be expanded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExpandError {
    /// Variables that are not set, sorted.
    #[error("path references undefined environment variables: {}", .0.join(","))]
    Undefined(Vec<String>),
    /// `~` without a home directory.
    #[error("$HOME is not defined")]
    NoHome,
}

/// Replaces `$NAME` and `${NAME}`, where a name is `[A-Za-z_][A-Za-z0-9_]*`. Any other `$` stays.
#[must_use]
pub fn substitute(text: &OsStr, mut value: impl FnMut(&str) -> OsString) -> OsString {
    let mut rest = text.as_bytes();
    let mut result = Vec::with_capacity(rest.len());
    while let Some(dollar) = rest.iter().position(|byte| *byte == b'$') {
        let (before, from_dollar) = rest.split_at(dollar);
        result.extend_from_slice(before);
        match reference(from_dollar) {
            Some((name, length)) => {
                result.extend_from_slice(value(name).as_bytes());
                rest = &from_dollar[length..];
            }
            None => {
                result.push(b'$');
                rest = &from_dollar[1..];
            }
        }
    }
    result.extend_from_slice(rest);
    OsString::from_vec(result)
}

/// The variable that `text` begins with a reference to, and the reference's length.
fn reference(text: &[u8]) -> Option<(&str, usize)> {
    let braced = text.get(1) == Some(&b'{');
    let start = if braced { 2 } else { 1 };
    let body = text.get(start..)?;
    let length = body
        .iter()
        .enumerate()
        .take_while(|(index, byte)| {
            byte.is_ascii_alphabetic() || **byte == b'_' || (*index > 0 && byte.is_ascii_digit())
        })
        .count();
    let name = std::str::from_utf8(body.get(..length)?).ok()?;
    let closed = !braced || body.get(length) == Some(&b'}');
    (!name.is_empty() && closed).then_some((name, start + length + usize::from(braced)))
}

/// Expands a path. An empty one stays empty, which means "none given".
///
/// Variables come from `environment`; the home directory is that of `home`, the daemon's own
/// environment, whatever a request sets.
///
/// # Errors
///
/// A variable is not set, or the home directory is needed and unknown.
pub fn expand(
    path: &str,
    environment: &Environment,
    home: Option<&OsStr>,
) -> Result<PathBuf, ExpandError> {
    let mut undefined = BTreeSet::new();
    let path = substitute(OsStr::new(path), |name| {
        environment.get(name).map_or_else(
            || {
                undefined.insert(name.to_owned());
                OsString::new()
            },
            OsStr::to_owned,
        )
    });
    if !undefined.is_empty() {
        return Err(ExpandError::Undefined(undefined.into_iter().collect()));
    }
    let Some(rest) = path.as_bytes().strip_prefix(b"~") else {
        return Ok(path.into());
    };
    let home = || {
        home.filter(|home| !home.is_empty())
            .map(PathBuf::from)
            .ok_or(ExpandError::NoHome)
    };
    match rest {
        [] => home(),
        [b'/' | b'\\', rest @ ..] => Ok(clean(
            &home()?.join(OsStr::from_bytes(rest.strip_prefix(b"/").unwrap_or(rest))),
        )),
        _ => Ok(path.into()),
    }
}

/// Removes `.`, doubled slashes, and `..` together with what is before it.
fn clean(path: &Path) -> PathBuf {
    let mut cleaned = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir if cleaned.file_name().is_some() => {
                cleaned.pop();
            }
            Component::ParentDir if cleaned.has_root() => {}
            other => cleaned.push(other),
        }
    }
    cleaned
}

/// A working directory that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// The path cannot be expanded.
    #[error("cannot resolve working directory \"{given}\": {cause}")]
    Expand {
        /// As the request names it.
        given: String,
        /// Why.
        cause: ExpandError,
    },
    /// There is nothing.
    #[error("working directory does not exist: {given}: stat {}: no such file or directory", .resolved.display())]
    Missing {
        /// As the request names it.
        given: String,
        /// Expanded.
        resolved: PathBuf,
    },
    /// It cannot be looked at.
    #[error("cannot access working directory \"{given}\": {cause}")]
    Inaccessible {
        /// As the request names it.
        given: String,
        /// Why.
        cause: io::Error,
    },
    /// It is something else.
    #[error("working directory path is not a directory: {given}")]
    NotADirectory {
        /// As the request names it.
        given: String,
    },
    /// It cannot be made.
    #[error("mkdir {}: {cause}", .resolved.display())]
    Create {
        /// Expanded.
        resolved: PathBuf,
        /// Why.
        cause: io::Error,
    },
}

/// The working directory of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directory {
    given: String,
    resolved: PathBuf,
}

impl Directory {
    /// Expands what a request gives; none when it gives nothing.
    ///
    /// # Errors
    ///
    /// As [`expand`].
    pub fn resolve(
        given: &str,
        environment: &Environment,
        home: Option<&OsStr>,
    ) -> Result<Option<Self>, DirectoryError> {
        let resolved =
            expand(given, environment, home).map_err(|cause| DirectoryError::Expand {
                given: given.to_owned(),
                cause,
            })?;
        Ok((!resolved.as_os_str().is_empty()).then(|| Self {
            given: given.to_owned(),
            resolved,
        }))
    }

    /// The expanded path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.resolved
    }

    /// Checks that it is a directory. Blocks.
    ///
    /// # Errors
    ///
    /// It is not, or cannot be looked at.
    pub fn check(&self) -> Result<(), DirectoryError> {
        let given = self.given.clone();
        match std::fs::metadata(&self.resolved) {
            Ok(found) if found.is_dir() => Ok(()),
            Ok(_) => Err(DirectoryError::NotADirectory { given }),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Err(DirectoryError::Missing {
                given,
                resolved: self.resolved.clone(),
            }),
            Err(cause) => Err(DirectoryError::Inaccessible { given, cause }),
        }
    }

    /// Makes it, and its parents, unless it is there. Blocks.
    ///
    /// # Errors
    ///
    /// It cannot be made.
    pub fn create(&self) -> Result<(), DirectoryError> {
        std::fs::create_dir_all(&self.resolved).map_err(|cause| DirectoryError::Create {
            resolved: self.resolved.clone(),
            cause,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment() -> Environment {
        [("BASE_DIR", "base"), ("MID", "mid"), ("EMPTY", "")]
            .into_iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect()
    }

    #[test]
    fn paths_expand_by_the_table() {
        let home = Some(OsStr::new("/home/ada"));
        for (given, expected) in [
            ("", ""),
            ("/tmp", "/tmp"),
            ("relative/./x/..", "relative/./x/.."),
            ("~", "/home/ada"),
            ("~/", "/home/ada"),
            ("~/docs/$BASE_DIR", "/home/ada/docs/base"),
            ("~/docs//./a/../b", "/home/ada/docs/b"),
            ("~\\docs", "/home/ada/docs"),
            ("~//etc", "/home/ada/etc"),
            ("~ada/docs", "~ada/docs"),
            ("a/~/b", "a/~/b"),
            ("prefix/$MID/suffix", "prefix/mid/suffix"),
            ("prefix/${MID}suffix", "prefix/midsuffix"),
            ("/x$EMPTY", "/x"),
            ("/cost$", "/cost$"),
            ("/$1/${/${}", "/$1/${/${}"),
        ] {
            assert_eq!(
                expand(given, &environment(), home),
                Ok(expected.into()),
                "{given}"
            );
        }
    }

    #[test]
    fn undefined_variables_are_named_sorted_and_once() {
        let undefined = |names: &[&str]| {
            Err(ExpandError::Undefined(
                names.iter().map(|name| (*name).to_owned()).collect(),
            ))
        };
        for (given, names) in [
            ("$NOT_SET", &["NOT_SET"][..]),
            ("$NOT_SET/tmp", &["NOT_SET"]),
            ("prefix/$NOT_SET/suffix", &["NOT_SET"]),
            ("$Z/${A}/$Z/$MID", &["A", "Z"]),
        ] {
            assert_eq!(expand(given, &environment(), None), undefined(names));
        }
        assert_eq!(
            undefined(&["A", "B"]).unwrap_err().to_string(),
            "path references undefined environment variables: A,B"
        );
    }

    #[test]
    fn a_home_directory_is_needed_only_for_a_tilde() {
        for home in [None, Some(OsStr::new(""))] {
            assert_eq!(
                expand("~/x", &environment(), home),
                Err(ExpandError::NoHome)
            );
            assert_eq!(expand("/x", &environment(), home), Ok("/x".into()));
        }
    }

    #[test]
    fn directories_are_checked_and_made() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        std::fs::write(&file, "").unwrap();
        let directory = |path: &Path| {
            Directory::resolve(path.to_str().unwrap(), &Environment::default(), None)
                .unwrap()
                .unwrap()
        };
        directory(root.path()).check().unwrap();
        let missing = root.path().join("a/b");
        let message = directory(&missing).check().unwrap_err().to_string();
        assert!(message.contains("does not exist"), "{message}");
        assert!(message.contains(missing.to_str().unwrap()), "{message}");
        let message = directory(&file).check().unwrap_err().to_string();
        assert!(message.contains("not a directory"), "{message}");
        directory(&missing).create().unwrap();
        directory(&missing).check().unwrap();
        assert!(directory(&file.join("x")).create().is_err());
        assert_eq!(
            Directory::resolve("", &Environment::default(), None).unwrap(),
            None
        );
    }
}
