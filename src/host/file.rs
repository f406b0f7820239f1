//! A file of `/proc` that is read again and again.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// No reading needs more; `/proc/stat` of a machine with hundreds of processors is cut, and the
/// line that is wanted comes first.
const MAX_BYTES: usize = 64 * 1024;
/// Room for a reading at first.
const FIRST_BYTES: usize = 2048;

/// Opened at the first reading and kept, with its buffer.
pub(super) struct ProcFile {
    path: PathBuf,
    file: Option<File>,
    buffer: Vec<u8>,
}

impl ProcFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            file: None,
            buffer: Vec::new(),
        }
    }

    /// What the file says now; `None` when it cannot be read, in which case the next reading
    /// opens it anew.
    pub(super) fn read(&mut self) -> Option<&[u8]> {
        let length = match self.fill() {
            Ok(length) => length,
            Err(_) => {
                self.file = None;
                return None;
            }
        };
        self.buffer.get(..length)
    }

    fn fill(&mut self) -> io::Result<usize> {
        let file = match &mut self.file {
            Some(file) => file,
            missing => missing.insert(File::open(&self.path)?),
        };
        if self.buffer.is_empty() {
            self.buffer.resize(FIRST_BYTES, 0);
        }
        let mut length = 0;
        loop {
            if length == self.buffer.len() {
                if length >= MAX_BYTES {
                    return Ok(length);
                }
                self.buffer.resize(length * 2, 0);
            }
            let rest = self.buffer.get_mut(length..).unwrap_or_default();
            match file.read_at(rest, length as u64) {
                Ok(0) => return Ok(length),
                Ok(count) => length += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_long_and_changing_files_up_to_the_bound() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let mut file = ProcFile::new(path.clone());
        assert!(file.read().is_none());
        for length in [
            0,
            10,
            FIRST_BYTES,
            FIRST_BYTES + 1,
            5,
            MAX_BYTES,
            MAX_BYTES + 1,
        ] {
            std::fs::write(&path, vec![b'x'; length]).unwrap();
            assert_eq!(file.read().unwrap().len(), length.min(MAX_BYTES));
        }
    }
}
