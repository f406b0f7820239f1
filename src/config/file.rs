//! The file given with `--config`: a flat TOML table whose keys are flag names.
//!
//! Never interprets a value: numbers and booleans become the text a flag would have had.

use std::io::Read;
use std::path::{Path, PathBuf};

use super::{Error, nearest};

/// The largest configuration file that is read, in bytes.
pub const MAX_FILE_BYTES: u64 = 1 << 20;

/// A configuration file, read and checked for its form.
#[derive(Debug)]
pub struct File {
    path: PathBuf,
    entries: Vec<(String, String)>,
}

impl File {
    /// Reads a file of at most [`MAX_FILE_BYTES`].
    ///
    /// # Errors
    ///
    /// The file cannot be read, is too large or is not a flat TOML table.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let unreadable = |cause| Error::Unreadable {
            path: path.to_owned(),
            cause,
        };
        let file = std::fs::File::open(path).map_err(unreadable)?;
        let mut text = String::new();
        file.take(MAX_FILE_BYTES + 1)
            .read_to_string(&mut text)
            .map_err(unreadable)?;
        if text.len() as u64 > MAX_FILE_BYTES {
            return Err(Error::Malformed {
                path: path.to_owned(),
                reason: format!("it is larger than {MAX_FILE_BYTES} bytes"),
            });
        }
        Self::parse(path, &text)
    }

    /// Reads the text of a file; `path` is only for messages.
    ///
    /// # Errors
    ///
    /// The text is not a flat TOML table.
    pub fn parse(path: &Path, text: &str) -> Result<Self, Error> {
        let malformed = |reason| Error::Malformed {
            path: path.to_owned(),
            reason,
        };
        let table: toml::Table = text
            .parse()
            .map_err(|error| malformed(toml_error(text, &error)))?;
        let entries = table
            .iter()
            .map(|(key, value)| match scalar_or_list(value) {
                Some(text) => Ok((key.clone(), text)),
                None => Err(malformed(format!(
                    "{key} must be a string, a number, a boolean or an array of strings"
                ))),
            })
            .collect::<Result<_, _>>()?;
        Ok(Self {
            path: path.to_owned(),
            entries,
        })
    }

    /// The value of a key, as the text a flag would have had.
    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.entries
            .iter()
            .find_map(|(name, value)| (name == key).then_some(value.as_str()))
    }

    /// Refuses keys that are not among `known`.
    pub(super) fn only_knows<'a>(
        &self,
        known: impl Iterator<Item = &'a str> + Clone,
    ) -> Result<(), Error> {
        for (key, _) in &self.entries {
            if !known.clone().any(|name| name == key) {
                return Err(Error::UnknownKey {
                    path: self.path.clone(),
                    key: key.clone(),
                    nearest: nearest(key, known).map(str::to_owned),
                });
            }
        }
        Ok(())
    }
}

/// What the TOML parser says of `text`, with the line, without its multi-line excerpt.
#[must_use]
pub fn toml_error(text: &str, error: &toml::de::Error) -> String {
    let message = error.message().lines().next().unwrap_or("not TOML");
    let line = error
        .span()
        .and_then(|span| text.get(..span.start))
        .map_or(1, |before| before.matches('\n').count() + 1);
    format!("line {line}: {message}")
}

fn scalar_or_list(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::Array(items) => {
            let items: Option<Vec<&str>> = items.iter().map(toml::Value::as_str).collect();
            items.map(|items| items.join(","))
        }
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Float(number) => Some(number.to_string()),
        toml::Value::Boolean(switch) => Some(switch.to_string()),
        toml::Value::Datetime(_) | toml::Value::Table(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<File, Error> {
        File::parse(Path::new("f.toml"), text)
    }

    #[test]
    fn scalars_become_the_text_of_a_flag() {
        let file = parse("a = 1\nb = true\nc = 'x'\nd = 0.5\ne = ['p', 'q']").unwrap();
        let values: Vec<_> = "abcde".split("").filter_map(|key| file.get(key)).collect();
        assert_eq!(values, ["1", "true", "x", "0.5", "p,q"]);
    }

    #[test]
    fn what_is_not_a_flat_table_is_refused_in_one_line() {
        for (text, reason) in [
            ("a = 1\nb = = 2\n", "line 2: "),
            ("[section]\na = 1", "section must be"),
            ("a = [1]", "a must be"),
            ("a = 1979-05-27", "a must be"),
            ("a = 1\na = 2", "line 2: "),
        ] {
            let error = parse(text).unwrap_err().to_string();
            let expected = format!("the configuration file f.toml is not valid: {reason}");
            assert!(error.starts_with(&expected), "{error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }

    #[test]
    fn a_file_that_is_too_large_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("large.toml");
        let size = usize::try_from(MAX_FILE_BYTES).unwrap() + 1;
        std::fs::write(&path, "#".repeat(size)).unwrap();
        let error = File::read(&path).unwrap_err().to_string();
        assert!(error.contains("larger than 1048576 bytes"), "{error}");
        let error = File::read(&directory.path().join("none")).unwrap_err();
        assert!(error.to_string().contains("cannot read"), "{error}");
    }
}
