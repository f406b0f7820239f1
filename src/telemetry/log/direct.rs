//! A log written by the thread that logs, for a process too small to have a second one.
//!
//! Such a thread has other duties, so it must not wait for whoever reads its log: a line that a
//! pipe has no room for is lost, and counted in the next line that goes through. A file is waited
//! for, as disks are.

use std::convert::Infallible;
use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use slog::{Drain, Level, Logger, OwnedKVList, Record, b, o, record};

use super::encoder::{Encoder, Scratch};
use super::file::Rotation;
use super::sink::Sink;
use super::{Destination, Error, LogConfig, Reason, level};

/// The longest line a stream is given, in octets: what a pipe with room takes at once and whole,
/// however many write to it (`PIPE_BUF`, pipe(7)).
pub const MAX_STREAM_LINE: usize = 4096;

/// An output that is written by its owner.
pub struct LineWriter(Sink);

impl LineWriter {
    /// Opens an output; a file is rotated as every log is.
    ///
    /// # Errors
    ///
    /// The system refuses to open it.
    pub fn open(destination: &Destination) -> io::Result<Self> {
        Sink::open(destination, Rotation::default()).map(Self)
    }

    /// Writes a line, which ends with its line feed, by one system call.
    ///
    /// # Errors
    ///
    /// What the system says; for a stream also [`io::ErrorKind::WouldBlock`] if it has no room now,
    /// and [`io::ErrorKind::InvalidInput`] if the line is longer than [`MAX_STREAM_LINE`].
    pub fn write(&mut self, line: &[u8]) -> io::Result<()> {
        if let Sink::Stream(stream) = &self.0 {
            if line.len() > MAX_STREAM_LINE {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            let now = Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            };
            if poll(&mut [PollFd::new(stream, PollFlags::OUT)], Some(&now))? == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
        }
        let written = self.0.write(line, SystemTime::now());
        written.map_err(|failure| failure.error)
    }
}

/// Opens the outputs and makes a logger that starts no thread. Its records are not exported.
///
/// # Errors
///
/// An output that cannot be opened.
pub fn direct(config: &LogConfig) -> Result<Logger, Error> {
    let open = |destination: &Destination| match LineWriter::open(destination) {
        Ok(writer) => Ok(Output {
            writer,
            lost: [0; Reason::ALL.len()],
        }),
        Err(source) => Err(Error::Open {
            output: destination.to_string(),
            source,
        }),
    };
    let outputs: Result<_, _> = config.destinations.iter().map(open).collect();
    Ok(Logger::root(logger(config, outputs?), o!()))
}

fn logger(config: &LogConfig, outputs: Vec<Output>) -> Direct {
    Direct {
        threshold: level::Shared::new(config.threshold),
        encoder: Encoder::new(config.name, &config.baseline),
        no_context: o!().into(),
        state: Mutex::new(State {
            scratch: Scratch::default(),
            outputs,
        }),
    }
}

struct Direct {
    threshold: level::Shared,
    encoder: Encoder,
    no_context: OwnedKVList,
    state: Mutex<State>,
}

struct State {
    scratch: Scratch,
    outputs: Vec<Output>,
}

struct Output {
    writer: LineWriter,
    /// Records lost since the last one that was written, by reason.
    lost: [u64; Reason::ALL.len()],
}

impl Drain for Direct {
    type Ok = ();
    type Err = Infallible;

    fn log(&self, record: &Record<'_>, context: &OwnedKVList) -> Result<(), Infallible> {
        if !self.threshold.admits(record.level()) {
            return Ok(());
        }
        let now = SystemTime::now();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State { scratch, outputs } = &mut *state;
        for output in outputs {
            self.tell(scratch, output, now);
            let written = self.encoder.encode(scratch, now, record, context, false);
            if let Err(error) = output.writer.write(written.line) {
                output.lost[reason(&error) as usize] += 1;
            }
        }
        Ok(())
    }

    fn is_enabled(&self, level: Level) -> bool {
        self.threshold.admits(level)
    }
}

impl Direct {
    /// Writes one record for each reason records were lost for, if the output has room again.
    fn tell(&self, scratch: &mut Scratch, output: &mut Output, now: SystemTime) {
        for reason in Reason::ALL {
            let count = output.lost[reason as usize];
            if count == 0 {
                continue;
            }
            let written = self.encoder.encode(
                scratch,
                now,
                &record!(
                    Level::Warning,
                    "",
                    &format_args!("log records dropped"),
                    b!("reason" => reason.as_str(), "count" => count)
                ),
                &self.no_context,
                false,
            );
            if output.writer.write(written.line).is_err() {
                return;
            }
            output.lost[reason as usize] = 0;
        }
    }
}

fn reason(error: &io::Error) -> Reason {
    match error.kind() {
        io::ErrorKind::WouldBlock => Reason::QueueFull,
        io::ErrorKind::InvalidInput => Reason::TooLarge,
        io::ErrorKind::BrokenPipe => Reason::OutputClosed,
        _ => Reason::WriteFailed,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Threshold, sink::Stream};
    use super::*;
    use slog::{error, info};
    use std::fs::File;
    use std::io::{PipeReader, Read};
    use std::os::fd::OwnedFd;

    fn piped(threshold: Threshold) -> (Logger, PipeReader) {
        let (reader, writer) = io::pipe().unwrap();
        let stream = Stream::new(File::from(OwnedFd::from(writer)));
        let config = LogConfig {
            name: "opensandbox.supervisor",
            threshold,
            destinations: Vec::new(),
            baseline: vec![("team".to_owned(), "a".to_owned())],
        };
        let output = Output {
            writer: LineWriter(Sink::Stream(stream)),
            lost: [0; Reason::ALL.len()],
        };
        let direct = logger(&config, vec![output]);
        (Logger::root(direct, o!()), reader)
    }

    fn lines(mut reader: PipeReader) -> Vec<serde_json::Value> {
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
        lines.collect()
    }

    #[test]
    fn a_line_is_that_of_every_other_log() {
        let (logger, reader) = piped(Threshold::Error);
        info!(logger, "not written");
        error!(logger, "written"; "pid" => 7);
        drop(logger);
        let lines = lines(reader);
        let keys: Vec<_> = lines[0].as_object().unwrap().keys().collect();
        assert_eq!(keys, ["level", "ts", "logger", "msg", "team", "pid"]);
        assert_eq!(lines[0]["msg"], "written");
        assert_eq!(lines.len(), 1);
    }

    #[test]
    fn a_full_pipe_is_not_waited_for_and_what_it_did_not_take_is_told() {
        let (logger, mut reader) = piped(Threshold::Info);
        let filler = "x".repeat(2000);
        for _ in 0..100 {
            info!(logger, "{filler}");
        }
        info!(logger, "{}", "y".repeat(MAX_STREAM_LINE));
        // What a pipe holds at once.
        let mut taken = vec![0; 64 * 1024];
        let bytes = reader.read(&mut taken).unwrap();
        assert!(bytes > 30_000, "{bytes}");
        info!(logger, "room again");
        drop(logger);
        let mut rest = String::from_utf8_lossy(&taken[..bytes]).into_owned();
        reader.read_to_string(&mut rest).unwrap();
        let lines: Vec<serde_json::Value> = rest
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let [.., queue_full, too_large, last] = &lines[..] else {
            panic!("{} lines", lines.len());
        };
        let written = lines.len() - 3;
        assert_eq!(queue_full["reason"], "queue_full");
        assert_eq!(queue_full["count"], 100 - written);
        assert_eq!(too_large["reason"], "too_large");
        assert_eq!(too_large["count"], 1);
        assert_eq!(last["msg"], "room again");
    }

    #[test]
    fn a_reader_that_is_gone_is_survived() {
        let (logger, reader) = piped(Threshold::Info);
        drop(reader);
        info!(logger, "to nobody");
        info!(logger, "to nobody");
    }
}
