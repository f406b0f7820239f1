//! One of the operator's files, and what its last usable version said.

use std::path::{Path, PathBuf};

use super::lines;
use crate::config::{Look, Watched};

/// Largest file, in octets.
const MAX_FILE: u64 = 4 * 1024 * 1024;

type Parse<T> = fn(&Path, &[u8]) -> Result<T, lines::Error>;

/// A file, and what its last usable version said.
#[derive(Debug)]
pub(super) struct Source<T> {
    file: Watched,
    parse: Parse<T>,
    /// What the last usable version said; nothing, if the file is missing.
    pub(super) content: T,
}

impl<T: Default> Source<T> {
    /// The file at `path`, not looked at yet.
    pub(super) fn new(path: PathBuf, parse: Parse<T>) -> Self {
        Self {
            file: Watched::new(path, MAX_FILE),
            parse,
            content: T::default(),
        }
    }

    pub(super) fn path(&self) -> &Path {
        self.file.path()
    }

    /// Reads the file if it is another version than at the last look. Whether it was.
    ///
    /// # Errors
    /// This version cannot be used, with the reason; the content is what it was. The same version
    /// is not an error again.
    pub(super) fn reload(&mut self) -> Result<bool, String> {
        self.content = match self.file.look()? {
            Look::Same => return Ok(false),
            Look::Missing => T::default(),
            Look::Content(octets) => {
                let parsed = (self.parse)(self.file.path(), &octets);
                parsed.map_err(|cause| cause.to_string())?
            }
        };
        Ok(true)
    }
}
