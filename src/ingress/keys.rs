//! Where the keys of signed routes come from, and the file that is read again when it changes, so
//! that keys are exchanged without a restart.

use std::path::Path;
use std::time::Duration;

use slog::{Logger, info, warn};
use smol::Timer;

use super::access::Keys;
use crate::config::{Look, Watched};
use crate::runtime::Spawner;

/// The most octets of a file of keys.
pub const MAX_FILE: u64 = 64 * 1024;

/// The time between looks at the file.
pub const INTERVAL: Duration = Duration::from_secs(1);

/// Where the keys come from.
#[derive(Debug)]
pub enum KeySource {
    /// There are none.
    None,
    /// They were given in the settings.
    Given(Keys),
    /// A file has them.
    File(KeyFile),
}

impl KeySource {
    /// The keys to start with.
    #[must_use]
    pub fn keys(&self) -> Option<&Keys> {
        match self {
            Self::None => None,
            Self::Given(keys) => Some(keys),
            Self::File(file) => Some(&file.keys),
        }
    }
}

/// A file of keys, as last read.
#[derive(Debug)]
pub struct KeyFile {
    file: Watched,
    keys: Keys,
}

impl KeyFile {
    /// Reads the file.
    ///
    /// # Errors
    ///
    /// It cannot be read, or holds no keys, with the reason in one line.
    pub fn open(path: &Path) -> Result<Self, String> {
        let mut file = Watched::new(path.to_owned(), MAX_FILE);
        match read(&mut file)? {
            Some(keys) => Ok(Self { file, keys }),
            None => Err(format!("{}: no such file", path.display())),
        }
    }

    /// The keys, if the file has others now.
    ///
    /// # Errors
    ///
    /// What it has cannot be used, with the reason in one line, once.
    fn refresh(&mut self) -> Result<Option<&Keys>, String> {
        match read(&mut self.file)? {
            None => Ok(None),
            Some(keys) => {
                self.keys = keys;
                Ok(Some(&self.keys))
            }
        }
    }

    /// Puts in force what the file has, for as long as it is polled. What cannot be used changes
    /// nothing.
    pub async fn keep_fresh(
        mut self,
        put_in_force: impl Fn(Keys) + Send + 'static,
        spawner: Spawner,
        log: Logger,
    ) {
        loop {
            Timer::after(INTERVAL).await;
            let look = spawner.unblock(move || {
                let found = self.refresh().map(Option::<&Keys>::cloned);
                (self, found)
            });
            let (same, found) = look.await;
            self = same;
            match found {
                Ok(None) => {}
                Ok(Some(keys)) => {
                    let names: String = keys.names().collect();
                    put_in_force(keys);
                    info!(log, "secure-access keys replaced"; "key_ids" => names);
                }
                Err(cause) => warn!(log, "secure-access keys stay as they are: {cause}"),
            }
        }
    }
}

/// What the file has, if it is there and has changed.
fn read(file: &mut Watched) -> Result<Option<Keys>, String> {
    let content = match file.look()? {
        Look::Same => return Ok(None),
        Look::Missing => return Err(format!("{}: no such file", file.path().display())),
        Look::Content(content) => content,
    };
    let told = |cause: String| format!("{}: {cause}", file.path().display());
    let text = std::str::from_utf8(&content).map_err(|_| told("not UTF-8".to_owned()))?;
    Keys::parse(text)
        .map(Some)
        .map_err(|cause| told(cause.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn names(keys: &Keys) -> String {
        keys.names().collect()
    }

    #[test]
    fn other_keys_are_noticed_and_bad_ones_are_told_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys");
        let missing = KeyFile::open(&path).unwrap_err();
        assert!(missing.ends_with("keys: no such file"), "{missing}");
        fs::write(&path, "a=YQ==\n").unwrap();
        let mut file = KeyFile::open(&path).unwrap();
        assert_eq!(names(&file.keys), "a");
        assert!(file.refresh().unwrap().is_none());
        fs::write(&path, "a=YQ==\nb=Yg==\n").unwrap();
        assert_eq!(file.refresh().unwrap().map(names).as_deref(), Some("ab"));
        fs::write(&path, "c=s3cret!\n").unwrap();
        let refused = file.refresh().unwrap_err();
        assert!(refused.contains("illegal base64") && !refused.contains("s3cret"));
        assert!(file.refresh().unwrap().is_none(), "told once");
        fs::remove_file(&path).unwrap();
        assert!(file.refresh().unwrap_err().ends_with("no such file"));
        assert!(file.refresh().unwrap().is_none(), "told once");
        assert_eq!(names(&file.keys), "ab");
        fs::write(&path, "c=Yw==").unwrap();
        assert_eq!(file.refresh().unwrap().map(names).as_deref(), Some("c"));
    }
}
