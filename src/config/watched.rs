//! A file that is read again when it changed.
//!
//! Owns what tells one version of a file from another, and the bound on its size. Never decides
//! when to look, or what the content means.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

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

/// What a look at the file found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Look {
    /// What it was at the last look.
    Same,
    /// It is not there any more.
    Missing,
    /// This content.
    Content(Vec<u8>),
}

/// A file to look at again and again.
#[derive(Debug)]
pub struct Watched {
    path: PathBuf,
    most: u64,
    seen: Seen,
}

impl Watched {
    /// The file at `path`, of at most so many octets. It counts as missing before the first look.
    #[must_use]
    pub fn new(path: PathBuf, most: u64) -> Self {
        Self {
            path,
            most,
            seen: Seen::Missing,
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the file if it is another version than at the last look.
    ///
    /// # Errors
    /// It cannot be read, with the reason. The same reason is not an error again.
    pub fn look(&mut self) -> Result<Look, String> {
        self.read().or_else(|cause| {
            let reason = format!("{}: {cause}", self.path.display());
            let seen = Seen::Unreadable(reason.clone());
            if std::mem::replace(&mut self.seen, seen.clone()) == seen {
                return Ok(Look::Same);
            }
            Err(reason)
        })
    }

    fn read(&mut self) -> io::Result<Look> {
        let file = match open(&self.path) {
            Ok(file) => file,
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
                let before = std::mem::replace(&mut self.seen, Seen::Missing);
                return Ok(match before {
                    Seen::Missing => Look::Same,
                    Seen::Present(_) | Seen::Unreadable(_) => Look::Missing,
                });
            }
            Err(cause) => return Err(cause),
        };
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        let version = Seen::Present(Version::from(&metadata));
        if self.seen == version {
            return Ok(Look::Same);
        }
        let mut content = Vec::new();
        file.take(self.most.saturating_add(1))
            .read_to_end(&mut content)?;
        if content.len() as u64 > self.most {
            let reason = format!("larger than {} octets", self.most);
            return Err(io::Error::other(reason));
        }
        // Of before the read: a write in between makes it another version at the next look.
        self.seen = version;
        Ok(Look::Content(content))
    }
}

/// Opens without waiting, whatever `path` is.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_another_version_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let mut file = Watched::new(path.clone(), 4);
        assert_eq!(file.look(), Ok(Look::Same));
        std::fs::write(&path, "one").unwrap();
        assert_eq!(file.look(), Ok(Look::Content(b"one".to_vec())));
        assert_eq!(file.look(), Ok(Look::Same));
        let next = directory.path().join("next");
        std::fs::write(&next, "two").unwrap();
        std::fs::rename(&next, &path).unwrap();
        assert_eq!(file.look(), Ok(Look::Content(b"two".to_vec())));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(file.look(), Ok(Look::Missing));
        assert_eq!(file.look(), Ok(Look::Same));
    }

    #[test]
    fn what_cannot_be_read_is_told_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let mut file = Watched::new(path.clone(), 4);
        std::fs::write(&path, "large").unwrap();
        let reason = file.look().unwrap_err();
        assert!(reason.ends_with("/file: larger than 4 octets"), "{reason}");
        assert_eq!(file.look(), Ok(Look::Same));
        std::fs::write(&path, "ok").unwrap();
        assert_eq!(file.look(), Ok(Look::Content(b"ok".to_vec())));
        let mut folder = Watched::new(directory.path().to_owned(), 4);
        assert!(folder.look().unwrap_err().contains("not a regular file"));
    }
}
