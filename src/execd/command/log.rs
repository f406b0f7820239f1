//! The output of a background command, kept for whoever asks later.
//!
//! Short output stays in memory. Longer output goes to a file without a name, so that nothing is
//! left behind however the daemon ends, readable by nobody else; the file is a ring, so that an
//! endless command fills no disk. Where no file can be made, memory keeps a shorter end.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::execd::ring::Ring;

/// The most bytes kept in memory before a file takes over.
pub const MEMORY: usize = 256 * 1024;

/// The most bytes kept in the file: older ones are overwritten.
pub const FILE: u64 = 64 * 1024 * 1024;

/// A bounded log, addressed by byte offset from its beginning.
#[derive(Debug)]
pub struct Log {
    state: Mutex<State>,
    capacity: u64,
}

#[derive(Debug)]
enum State {
    Memory {
        ring: Ring,
        /// A file could not be made; it is not tried again.
        for_good: bool,
    },
    File {
        file: File,
        total: u64,
    },
}

impl Log {
    /// An empty log.
    #[must_use]
    pub fn new() -> Self {
        Self::with_capacity(FILE)
    }

    fn with_capacity(capacity: u64) -> Self {
        let ring = Ring::new(MEMORY);
        Self {
            state: Mutex::new(State::Memory {
                ring,
                for_good: false,
            }),
            capacity,
        }
    }

    /// Whether appending `bytes` more needs the file system, and so may block.
    #[must_use]
    pub fn blocks(&self, bytes: usize) -> bool {
        match &*self.state() {
            State::Memory { ring, for_good } => {
                !for_good && ring.total() + bytes as u64 > MEMORY as u64
            }
            State::File { .. } => true,
        }
    }

    /// Appends; `directory` is where a file may be made.
    pub fn append(&self, bytes: &[u8], directory: &Path) {
        let mut state = self.state();
        if let State::Memory { ring, for_good } = &mut *state {
            if *for_good || ring.total() + bytes.len() as u64 <= MEMORY as u64 {
                ring.write(bytes);
                return;
            }
            let (_, kept) = ring.read(0, MEMORY);
            match unnamed(directory).and_then(|file| {
                file.write_all_at(&kept, 0)?;
                Ok(file)
            }) {
                Ok(file) => {
                    let total = ring.total();
                    *state = State::File { file, total };
                }
                Err(_) => {
                    *for_good = true;
                    ring.write(bytes);
                    return;
                }
            }
        }
        if let State::File { file, total } = &mut *state {
            let bytes = &bytes[bytes.len().saturating_sub(as_length(self.capacity))..];
            let (position, first) = self.place(*total, bytes.len());
            // A full disk loses bytes of the log; their offsets stay, and read as they were.
            let _ = file.write_all_at(&bytes[..first], position);
            let _ = file.write_all_at(&bytes[first..], 0);
            *total += bytes.len() as u64;
        }
    }

    /// At most `limit` bytes from `offset`, and the offset of the first of them: the oldest that is
    /// kept if `offset` is older. Beyond the end there is nothing, at `offset` itself. May block.
    ///
    /// # Errors
    ///
    /// The file cannot be read.
    pub fn read(&self, offset: u64, limit: usize) -> io::Result<(u64, Vec<u8>)> {
        match &*self.state() {
            State::Memory { ring, .. } if offset >= ring.total() => Ok((offset, Vec::new())),
            State::Memory { ring, .. } => Ok(ring.read(offset, limit)),
            State::File { total, .. } if offset >= *total => Ok((offset, Vec::new())),
            State::File { file, total } => {
                let start = offset.max(total.saturating_sub(self.capacity));
                let length = as_length(total - start).min(limit);
                let mut read = vec![0; length];
                let (position, first) = self.place(start, length);
                let (front, back) = read.split_at_mut(first);
                file.read_exact_at(front, position)?;
                file.read_exact_at(back, 0)?;
                Ok((start, read))
            }
        }
    }

    /// What there is from `offset` on: it begins there, or with the oldest byte that is kept.
    #[must_use]
    pub fn extent(&self, offset: u64) -> std::ops::Range<u64> {
        let (kept, total) = match &*self.state() {
            State::Memory { ring, .. } => (MEMORY as u64, ring.total()),
            State::File { total, .. } => (self.capacity, *total),
        };
        if offset >= total {
            return offset..offset;
        }
        offset.max(total.saturating_sub(kept))..total
    }

    /// How many bytes the log has had.
    #[must_use]
    pub fn total(&self) -> u64 {
        match &*self.state() {
            State::Memory { ring, .. } => ring.total(),
            State::File { total, .. } => *total,
        }
    }

    /// How many bytes of memory and disk it holds.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.total().min(self.capacity)
    }

    /// Where in the file an offset lies, and how many of `length` bytes fit before its end.
    fn place(&self, offset: u64, length: usize) -> (u64, usize) {
        let position = offset % self.capacity;
        (position, length.min(as_length(self.capacity - position)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Whole after a panic: nothing between two changes can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Log {
    fn default() -> Self {
        Self::new()
    }
}

fn as_length(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// A file that has no name: made without one, or, where the file system cannot, unlinked at once.
fn unnamed(directory: &Path) -> io::Result<File> {
    std::fs::create_dir_all(directory)?;
    let mut options = File::options();
    options.read(true).write(true).mode(0o600);
    options
        .clone()
        .custom_flags(libc::O_TMPFILE)
        .open(directory)
        .or_else(|_| {
            let path = directory.join(format!("execd-{}.log", crate::execd::random_id()));
            let file = options.create_new(true).open(&path)?;
            std::fs::remove_file(&path)?;
            Ok(file)
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_cursor_walks_through_everything() {
        let directory = tempfile::tempdir().unwrap();
        let log = Log::new();
        log.append(b"one\n", directory.path());
        assert_eq!(log.read(0, 100).unwrap(), (0, b"one\n".to_vec()));
        assert_eq!(log.read(4, 100).unwrap(), (4, Vec::new()));
        assert_eq!(log.read(99, 100).unwrap(), (99, Vec::new()));
        log.append(b"two\n", directory.path());
        assert_eq!(log.read(4, 2).unwrap(), (4, b"tw".to_vec()));
        assert_eq!(
            (log.extent(4), log.extent(8), log.extent(99)),
            (4..8, 8..8, 99..99)
        );
    }

    #[test]
    fn long_output_goes_to_a_file_that_nobody_finds() {
        let directory = tempfile::tempdir().unwrap();
        let log = Log::new();
        let chunk = [b'x'; 64 * 1024];
        for _ in 0..8 {
            log.append(&chunk, directory.path());
        }
        assert!(matches!(*log.state(), State::File { .. }));
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
        let (start, all) = log.read(0, usize::MAX).unwrap();
        assert_eq!((start, all.len()), (0, 8 * chunk.len()));
    }

    #[test]
    fn without_a_file_the_end_stays_in_memory() {
        let log = Log::new();
        log.append(&[b'a'; MEMORY], Path::new("/proc/no-such-directory"));
        log.append(b"end", Path::new("/proc/no-such-directory"));
        let (start, kept) = log.read(0, usize::MAX).unwrap();
        assert_eq!((start, kept.len()), (3, MEMORY));
        assert!(kept.ends_with(b"aend"));
        assert_eq!(log.extent(0), 3..MEMORY as u64 + 3);
        assert!(!log.blocks(1 << 20));
    }

    proptest! {
        #[test]
        fn the_file_is_a_ring(
            writes in proptest::collection::vec(1usize..400, 1..20),
            offset in 0u64..9000,
            limit in 0usize..900,
        ) {
            let directory = tempfile::tempdir().unwrap();
            let log = Log::with_capacity(700);
            let first = vec![0u8; MEMORY];
            log.append(&first, directory.path());
            let mut stream = first;
            for (number, length) in writes.into_iter().enumerate() {
                let bytes: Vec<u8> = (0..length).map(|i| (i * 7 + number) as u8).collect();
                log.append(&bytes, directory.path());
                stream.extend(bytes);
            }
            let total = stream.len() as u64;
            // The bytes from before the file took over do not fit its capacity here.
            let offset = MEMORY as u64 + offset;
            let (start, read) = log.read(offset, limit).unwrap();
            if offset >= total {
                prop_assert_eq!((start, read), (offset, Vec::new()));
            } else {
                let expected = offset.max(total - 700);
                prop_assert_eq!(start, expected);
                let from = as_length(start);
                let to = (from + limit).min(stream.len());
                if start >= MEMORY as u64 {
                    prop_assert_eq!(&read, &stream[from..to]);
                }
            }
        }
    }
}
