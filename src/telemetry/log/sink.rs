//! The places lines are written to: streams and rotating files. The writer thread may block here
//! as long as it takes; the direct log asks first whether a stream has room.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::SystemTime;

use super::destination::Destination;
use super::file::{RotatingFile, Rotation};

/// Permissions of a new log file.
const FILE_MODE: u32 = 0o644;

/// A write that ended early.
#[derive(Debug)]
pub(super) struct Failure {
    /// Bytes that were written, up to the end of a line.
    pub(super) written: usize,
    pub(super) error: io::Error,
}

impl Failure {
    /// Whether the other side has gone away, which is its right.
    pub(super) fn is_closed(&self) -> bool {
        self.error.kind() == io::ErrorKind::BrokenPipe
    }
}

/// An open destination.
pub(super) enum Sink {
    /// A pipe, terminal, socket or device, or a file somebody else opened.
    Stream(Stream),
    /// A regular file of ours.
    Rotating(RotatingFile),
}

impl Sink {
    pub(super) fn open(destination: &Destination, rotation: Rotation) -> io::Result<Self> {
        let inherited = match destination {
            Destination::Stdout => io::stdout().as_fd().try_clone_to_owned()?,
            Destination::Stderr => io::stderr().as_fd().try_clone_to_owned()?,
            Destination::File(path) => {
                let file = open_append(path)?;
                return Ok(if file.metadata()?.is_file() {
                    Sink::Rotating(RotatingFile::new(path, file, rotation)?)
                } else {
                    Sink::Stream(Stream::new(file))
                });
            }
        };
        Ok(Sink::Stream(Stream::new(inherited.into())))
    }

    /// Writes whole lines.
    pub(super) fn write(&mut self, lines: &[u8], now: SystemTime) -> Result<(), Failure> {
        match self {
            Sink::Stream(stream) => stream.write(lines),
            Sink::Rotating(file) => file.write(lines, now),
        }
    }
}

/// Opens a log file, creating it when only it is missing. Never waits, not even for the reader of
/// a named pipe.
pub(super) fn open_append(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(FILE_MODE)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
}

/// See [`Sink::Stream`].
pub(super) struct Stream {
    file: File,
    /// Part of a line was written before an error: the next line must not be glued to it.
    torn: bool,
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Stream {
    pub(super) fn new(file: File) -> Self {
        Self { file, torn: false }
    }

    fn write(&mut self, lines: &[u8]) -> Result<(), Failure> {
        if self.torn {
            let mut written = 0;
            write_all(&self.file, b"\n", &mut written)
                .map_err(|error| Failure { written: 0, error })?;
            self.torn = false;
        }
        let mut written = 0;
        write_all(&self.file, lines, &mut written).map_err(|error| {
            let whole = whole_lines(lines.get(..written).unwrap_or_default());
            self.torn = whole < written;
            Failure {
                written: whole,
                error,
            }
        })
    }
}

/// Length of the lines in `bytes` that end in it.
pub(super) fn whole_lines(bytes: &[u8]) -> usize {
    bytes
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |last| last + 1)
}

/// Writes everything and keeps `written` current. Waits where the descriptor is non-blocking,
/// which whoever shares standard output may have made it.
pub(super) fn write_all(mut file: &File, bytes: &[u8], written: &mut usize) -> io::Result<()> {
    while let Some(rest) = bytes.get(*written..).filter(|rest| !rest.is_empty()) {
        match file.write(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => *written += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => wait_writable(file)?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn wait_writable(file: &File) -> io::Result<()> {
    use rustix::event::{PollFd, PollFlags, poll};
    match poll(&mut [PollFd::new(file, PollFlags::OUT)], None) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
