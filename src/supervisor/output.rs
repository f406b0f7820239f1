//! What a hook writes, as lines of the log.

use std::io::{ErrorKind, PipeReader, Read};
use std::os::fd::{AsFd, BorrowedFd};

use slog::{Logger, info, warn};

/// The longest line that is logged whole, in octets; what follows is left out. Escaped in the
/// worst way it still fits a pipe's atomic write.
pub const MAX_LINE: usize = 512;

/// The lines of one run of a hook that are logged; the rest is read and thrown away.
pub const MAX_LINES: usize = 200;

/// What is read at once, in octets.
const CHUNK: usize = 4096;

/// Chunks read before other work gets its turn.
const CHUNKS_AT_ONCE: usize = 16;

/// The output of one run of a hook.
pub struct Output {
    hook: String,
    reader: PipeReader,
    line: Vec<u8>,
    lines: usize,
}

impl Output {
    /// Reads for the hook called `hook` from a pipe that does not block.
    pub fn new(hook: &str, reader: PipeReader) -> Self {
        Self {
            hook: hook.to_owned(),
            reader,
            line: Vec::new(),
            lines: 0,
        }
    }

    /// Logs what there is. Tells whether there may be more later.
    pub fn read(&mut self, logger: &Logger) -> bool {
        let mut chunk = [0; CHUNK];
        for _ in 0..CHUNKS_AT_ONCE {
            match self.reader.read(&mut chunk) {
                Ok(length) if length > 0 => {
                    self.take(chunk.get(..length).unwrap_or_default(), logger);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => {
                    self.end_line(logger);
                    return false;
                }
            }
        }
        true
    }

    /// Logs what is left of the last line.
    pub fn close(mut self, logger: &Logger) {
        self.end_line(logger);
    }

    fn take(&mut self, octets: &[u8], logger: &Logger) {
        for piece in octets.split_inclusive(|octet| *octet == b'\n') {
            let (text, ended) = match piece.split_last() {
                Some((b'\n', text)) => (text, true),
                _ => (piece, false),
            };
            let room = MAX_LINE.saturating_sub(self.line.len());
            self.line.extend(text.iter().take(room));
            if ended {
                self.end_line(logger);
            }
        }
    }

    fn end_line(&mut self, logger: &Logger) {
        if self.line.is_empty() {
            return;
        }
        match self.lines {
            ..MAX_LINES => {
                let line = String::from_utf8_lossy(&self.line);
                info!(logger, "hook output"; "hook" => &self.hook, "line" => &*line);
            }
            MAX_LINES => {
                warn!(logger, "hook output is too long, the rest is not logged"; "hook" => &self.hook);
            }
            _ => {}
        }
        self.lines = self.lines.saturating_add(1);
        self.line.clear();
    }
}

impl AsFd for Output {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }
}
