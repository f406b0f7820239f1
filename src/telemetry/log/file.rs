//! A log file that is rotated by size, keeps a bounded number of backups for a bounded time, and
//! survives whatever happens to its directory.
//!
//! Backups are named `<stem>-<UTC time><extension>`, as the Go components name theirs, and are
//! not compressed.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::sink::{Failure, open_append, whole_lines, write_all};
use super::timestamp;

/// Bytes after which a log file is rotated.
const ROTATE_BYTES: u64 = 100 * 1024 * 1024;

/// Rotated files that are kept.
const BACKUPS: usize = 10;

/// How long a rotated file is kept.
const BACKUP_AGE: Duration = Duration::from_secs(30 * 24 * 3600);

/// When a file is rotated, and what is kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rotation {
    /// No file grows beyond this.
    pub(super) bytes: u64,
    /// Backups kept.
    pub(super) backups: usize,
    /// Age at which a backup is removed.
    pub(super) age: Duration,
}

impl Default for Rotation {
    fn default() -> Self {
        Self {
            bytes: ROTATE_BYTES,
            backups: BACKUPS,
            age: BACKUP_AGE,
        }
    }
}

/// How often the path is compared with the open file.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// See the module documentation.
pub(super) struct RotatingFile {
    path: PathBuf,
    stem: String,
    extension: String,
    rotation: Rotation,
    /// `None` after the path stopped leading to the file and could not be opened anew.
    file: Option<File>,
    size: u64,
    looked: SystemTime,
}

impl RotatingFile {
    /// Takes over `file`, which was just opened at `path`.
    pub(super) fn new(path: &Path, file: File, rotation: Rotation) -> io::Result<Self> {
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .ok_or(io::ErrorKind::InvalidFilename)?;
        let (stem, extension) = name.split_at(name.rfind('.').unwrap_or(name.len()));
        let now = SystemTime::now();
        let opened = Self {
            stem: stem.to_owned(),
            extension: extension.to_owned(),
            path: path.to_owned(),
            rotation,
            size: file.metadata()?.len(),
            file: Some(file),
            looked: now,
        };
        opened.prune(now);
        Ok(opened)
    }

    /// Appends whole lines, rotating between two of them where the size asks for it.
    pub(super) fn write(&mut self, lines: &[u8], now: SystemTime) -> Result<(), Failure> {
        let mut written = 0;
        while let Some(rest) = lines.get(written..).filter(|rest| !rest.is_empty()) {
            let result = self.part(rest, now).and_then(|part| {
                written += self.append(rest.get(..part).unwrap_or_default())?;
                Ok(())
            });
            if let Err(error) = result {
                return Err(Failure { written, error });
            }
        }
        Ok(())
    }

    /// Length of the first lines of `rest` that go into the current file, after opening or
    /// rotating it as needed.
    fn part(&mut self, rest: &[u8], now: SystemTime) -> io::Result<usize> {
        self.look(now)?;
        let limit = self.rotation.bytes;
        let fits = move |size: u64| -> usize {
            let room = limit.saturating_sub(size);
            let room = usize::try_from(room).unwrap_or(usize::MAX);
            if rest.len() <= room {
                rest.len()
            } else {
                whole_lines(rest.get(..room).unwrap_or_default())
            }
        };
        match fits(self.size) {
            0 => {}
            part => return Ok(part),
        }
        if self.size > 0 {
            self.rotate(now)?;
        }
        Ok(match fits(self.size) {
            // A line longer than a whole file still has to go somewhere.
            0 => rest.len(),
            part => part,
        })
    }

    fn append(&mut self, lines: &[u8]) -> io::Result<usize> {
        let file = self.file.as_ref().ok_or(io::ErrorKind::NotFound)?;
        let mut written = 0;
        let result = write_all(file, lines, &mut written);
        if result.is_err() {
            // Half a line would make the next one unreadable too. Where it cannot be taken back
            // the disk is in more trouble than the log.
            let _ = file.set_len(self.size);
            return result.map(|()| 0);
        }
        self.size += written as u64;
        Ok(written)
    }

    /// Makes sure the path still leads to the open file: the directory may have been removed, or
    /// another program may have rotated the file.
    fn look(&mut self, now: SystemTime) -> io::Result<()> {
        let due = now
            .duration_since(self.looked)
            .map_or(true, |since| since >= LOOK_EVERY);
        if let Some(file) = &self.file {
            if !due {
                return Ok(());
            }
            self.looked = now;
            let open = file.metadata()?;
            self.size = open.len();
            let same = fs::metadata(&self.path)
                .is_ok_and(|named| (named.dev(), named.ino()) == (open.dev(), open.ino()));
            if same {
                return Ok(());
            }
            self.file = None;
        }
        let file = open_append(&self.path)?;
        self.size = file.metadata()?.len();
        self.file = Some(file);
        Ok(())
    }

    /// Renames the file to a backup and begins a new one. A file that cannot be renamed is
    /// written on, and the next attempt comes after as many bytes again.
    fn rotate(&mut self, now: SystemTime) -> io::Result<()> {
        if fs::rename(&self.path, self.free_name(now)).is_err() {
            self.size = 0;
            return Ok(());
        }
        self.file = None;
        self.look(now)?;
        self.prune(now);
        Ok(())
    }

    /// The name of a backup made at `now`, or as soon after as there is none of that name.
    fn free_name(&self, now: SystemTime) -> PathBuf {
        let mut time = now;
        loop {
            let name = format!(
                "{}-{}{}",
                self.stem,
                timestamp::file_name(time),
                self.extension
            );
            let backup = self.path.with_file_name(name);
            if !backup.exists() {
                return backup;
            }
            time += Duration::from_millis(1);
        }
    }

    /// Removes the backups that are too many or too old. What cannot be removed now is tried
    /// again after the next rotation.
    fn prune(&self, now: SystemTime) {
        let mut backups = self.backups();
        backups.sort_by(|(one, _), (other, _)| other.cmp(one));
        for (position, (time, path)) in backups.into_iter().enumerate() {
            let old = now
                .duration_since(time)
                .is_ok_and(|age| age > self.rotation.age);
            if old || position >= self.rotation.backups {
                let _ = fs::remove_file(path);
            }
        }
    }

    fn backups(&self) -> Vec<(SystemTime, PathBuf)> {
        let directory = match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let Ok(entries) = fs::read_dir(directory) else {
            return Vec::new();
        };
        entries
            .flatten()
            .filter_map(|entry| {
                let name = entry.file_name();
                let time = name
                    .to_str()?
                    .strip_prefix(&self.stem)?
                    .strip_prefix('-')?
                    .strip_suffix(&self.extension)?;
                Some((timestamp::parse_file_name(time)?, entry.path()))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Duration = Duration::from_secs(1_795_218_707);

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + START + Duration::from_secs(seconds)
    }

    fn open(path: &Path, rotation: Rotation) -> RotatingFile {
        RotatingFile::new(path, open_append(path).unwrap(), rotation).unwrap()
    }

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn small() -> Rotation {
        Rotation {
            bytes: 8,
            ..Rotation::default()
        }
    }

    #[test]
    fn rotates_between_lines() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("egress.log");
        let mut file = open(&path, small());
        file.write(b"one\ntwo\nthree\n", at(0)).unwrap();
        file.write(b"4\n", at(1)).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"three\n4\n");
        let backup = directory.path().join("egress-2026-11-20T23-51-47.000.log");
        assert_eq!(fs::read(backup).unwrap(), b"one\ntwo\n");
        assert_eq!(names(directory.path()).len(), 2);
    }

    #[test]
    fn a_line_longer_than_a_file_is_written_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut file = open(&path, small());
        file.write(b"a\n", at(0)).unwrap();
        file.write(b"a longer line\n", at(0)).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"a longer line\n");
    }

    #[test]
    fn counts_what_a_file_held_before() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log.txt");
        fs::write(&path, "before\n").unwrap();
        open(&path, small()).write(b"after\n", at(0)).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"after\n");
    }

    #[test]
    fn keeps_so_many_backups_and_no_longer_than_that() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("e.log");
        for name in [
            "e-2026-10-01T00-00-00.000.log",
            "e-2026-11-01T00-00-00.000.log",
            "e-other.log",
            "f-2026-10-01T00-00-00.000.log",
        ] {
            fs::write(directory.path().join(name), "").unwrap();
        }
        let rotation = Rotation {
            backups: 3,
            ..small()
        };
        let mut file = open(&path, rotation);
        for second in 0..5 {
            file.write(b"1234567\n", at(second)).unwrap();
        }
        assert_eq!(
            names(directory.path()),
            [
                "e-2026-11-20T23-51-49.000.log",
                "e-2026-11-20T23-51-50.000.log",
                "e-2026-11-20T23-51-51.000.log",
                "e-other.log",
                "e.log",
                "f-2026-10-01T00-00-00.000.log",
            ]
        );
    }

    #[test]
    fn two_rotations_in_one_millisecond_keep_both_backups() {
        let directory = tempfile::tempdir().unwrap();
        let mut file = open(&directory.path().join("e.log"), small());
        file.write(b"1234567\n1234567\n1234567\n", at(0)).unwrap();
        assert_eq!(names(directory.path()).len(), 3);
    }

    #[test]
    fn finds_its_way_back_after_the_directory_vanished() {
        let directory = tempfile::tempdir().unwrap();
        let inner = directory.path().join("logs");
        fs::create_dir(&inner).unwrap();
        let path = inner.join("e.log");
        let mut file = open(&path, Rotation::default());
        let now = SystemTime::now();
        file.write(b"one\n", now).unwrap();
        fs::remove_dir_all(&inner).unwrap();
        let later = now + LOOK_EVERY;
        let failure = file.write(b"two\n", later).unwrap_err();
        assert_eq!(failure.error.kind(), io::ErrorKind::NotFound);
        assert_eq!(failure.written, 0);
        fs::create_dir(&inner).unwrap();
        file.write(b"three\n", later).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"three\n");
    }

    #[test]
    fn follows_a_file_that_another_program_rotated() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("e.log");
        let mut file = open(&path, Rotation::default());
        let now = SystemTime::now();
        fs::rename(&path, directory.path().join("e.log.1")).unwrap();
        file.write(b"one\n", now + LOOK_EVERY).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"one\n");
    }
}
