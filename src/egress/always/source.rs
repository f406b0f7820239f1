//! One file that is read again when it changed.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::lines;

/// Largest file, in octets.
const MAX_FILE: u64 = 4 * 1024 * 1024;

/// What tells one version of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Version {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl From<&Metadata> for Version {
    fn from(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// What a file was at the last look.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Missing,
    Present(Version),
    /// The look itself failed.
    Unreadable(String),
}

type Parse<T> = fn(&Path, &[u8]) -> Result<T, lines::Error>;

/// A file, and what its last usable version said.
#[derive(Debug)]
pub(super) struct Source<T> {
    path: PathBuf,
    parse: Parse<T>,
    seen: Seen,
    /// What the last usable version said; nothing, if the file is missing.
    pub(super) content: T,
}

impl<T: Default> Source<T> {
    /// The file at `path`, not looked at yet.
    pub(super) fn new(path: PathBuf, parse: Parse<T>) -> Self {
        Self {
            path,
            parse,
            seen: Seen::Missing,
            content: T::default(),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the file if it is another version than at the last look. Whether it was.
    ///
    /// # Errors
    /// This version cannot be used, with the reason; the content is what it was. The same version
    /// is not an error again.
    pub(super) fn reload(&mut self) -> Result<bool, String> {
        match self.look() {
            Ok(None) => Ok(false),
            Ok(Some(content)) => {
                self.content = content;
                Ok(true)
            }
            Err(Failure::Line(cause)) => Err(cause.to_string()),
            Err(Failure::Io(cause)) => {
                let reason = format!("{}: {cause}", self.path.display());
                let seen = Seen::Unreadable(reason.clone());
                if std::mem::replace(&mut self.seen, seen) == Seen::Unreadable(reason.clone()) {
                    return Ok(false);
                }
                Err(reason)
            }
        }
    }

    fn look(&mut self) -> Result<Option<T>, Failure> {
        let file = match open(&self.path) {
            Ok(file) => file,
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
                let gone = self.seen != Seen::Missing;
                self.seen = Seen::Missing;
                return Ok(gone.then(T::default));
            }
            Err(cause) => return Err(cause.into()),
        };
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other("not a regular file").into());
        }
        let version = Seen::Present(Version::from(&metadata));
        if self.seen == version {
            return Ok(None);
        }
        let mut content = Vec::new();
        file.take(MAX_FILE + 1).read_to_end(&mut content)?;
        if content.len() as u64 > MAX_FILE {
            return Err(io::Error::other(format!("larger than {MAX_FILE} octets")).into());
        }
        // Of before the read: a write in between makes it another version at the next look.
        self.seen = version;
        Ok(Some((self.parse)(&self.path, &content)?))
    }
}

/// Opens without waiting, whatever `path` is.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Line(#[from] lines::Error),
}
