//! The events of an execution as the bytes of its stream (contract 4): one JSON object and two line
//! feeds each.
//!
//! Pure. A line goes out as one event however long it is, without ever being held whole: the event
//! of a very long line stays open while its parts pass through. Events of the other stream wait for
//! its end meanwhile, up to [`DEFERRED`] bytes; beyond, the open line is cut in two.

use super::lines::{Lines, Piece, Rule};
use super::pump::Stream;
use super::text::escape;

/// The most bytes of events that wait for the end of a very long line of the other stream.
pub const DEFERRED: usize = 1024 * 1024;

/// Writes the events of one execution.
#[derive(Debug)]
pub struct Frames {
    stdout: Lines,
    stderr: Lines,
    wire: Wire,
}

/// How an execution ended, as its stream tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// Well.
    Complete {
        /// How long it took; not told when it is 0.
        milliseconds: u128,
    },
    /// Otherwise.
    Error {
        /// The exit code, or what kept it from starting.
        value: String,
        /// What happened, most important first.
        traceback: Vec<String>,
    },
}

impl Frames {
    /// The events of output that is cut into lines by `rule`.
    #[must_use]
    pub fn new(rule: Rule) -> Self {
        Self {
            stdout: Lines::new(rule),
            stderr: Lines::new(rule),
            wire: Wire::default(),
        }
    }

    /// Begins: names the execution.
    pub fn init(&mut self, id: &str, now: u128) {
        self.wire.whole("init", id.as_bytes(), now);
    }

    /// Says that the connection is alive; nothing within a very long line, which says so itself.
    pub fn ping(&mut self, now: u128) {
        if self.wire.open.is_none() {
            self.wire.whole("ping", b"pong", now);
        }
    }

    /// Tells the lines that `bytes` complete.
    pub fn output(&mut self, stream: Stream, bytes: &[u8], now: u128) {
        let Self {
            stdout,
            stderr,
            wire,
        } = self;
        let lines = match stream {
            Stream::Stdout => stdout,
            Stream::Stderr => stderr,
        };
        lines.push(bytes, |piece| wire.piece(stream, piece, now));
    }

    /// Makes room for the events of so many bytes of output in lines of some length, so that they
    /// are not moved while they grow.
    pub fn reserve(&mut self, output: usize) {
        self.wire.out.reserve(output * 2);
    }

    /// Tells what was left of both streams, and the end.
    pub fn end(&mut self, end: &End, now: u128) {
        let Self {
            stdout,
            stderr,
            wire,
        } = self;
        let mut finish = |stream| match stream {
            Stream::Stdout => stdout.finish(|piece| wire.piece(stream, piece, now)),
            Stream::Stderr => stderr.finish(|piece| wire.piece(stream, piece, now)),
        };
        finish(Stream::Stdout);
        finish(Stream::Stderr);
        self.wire.close(now);
        self.wire.end(end, now);
    }

    /// What is to be sent next; empty when there is nothing.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.wire.out)
    }

    /// How many bytes there are to be sent.
    #[must_use]
    pub fn len(&self) -> usize {
        self.wire.out.len()
    }

    /// Whether there is nothing to be sent.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.wire.out.is_empty()
    }
}

/// What is to be sent.
#[derive(Debug, Default)]
struct Wire {
    out: Vec<u8>,
    /// The stream whose event has begun and not ended.
    open: Option<Stream>,
    /// Events of the other stream that wait for its end.
    deferred: Vec<u8>,
    tail: Tail,
}

impl Wire {
    fn piece(&mut self, stream: Stream, piece: Piece<'_>, now: u128) {
        // What is left of a line that was cut may be nothing.
        if piece.bytes.is_empty() && self.open != Some(stream) {
            return;
        }
        if self.open.is_some_and(|open| open != stream) {
            if piece.last && self.deferred.len() <= DEFERRED {
                begin(&mut self.deferred, stream);
                escape(piece.bytes, &mut self.deferred);
                self.deferred.extend_from_slice(self.tail.at(now));
                return;
            }
            self.close(now);
        }
        if self.open.is_none() {
            begin(&mut self.out, stream);
            self.open = Some(stream);
        }
        escape(piece.bytes, &mut self.out);
        if piece.last {
            self.close(now);
        }
    }

    fn whole(&mut self, kind: &str, text: &[u8], now: u128) {
        self.out.extend_from_slice(b"{\"type\":\"");
        self.out.extend_from_slice(kind.as_bytes());
        self.out.extend_from_slice(b"\",\"text\":\"");
        escape(text, &mut self.out);
        self.out.extend_from_slice(self.tail.at(now));
    }

    /// Ends the event that has begun, if any, and lets those that wait for it follow.
    fn close(&mut self, now: u128) {
        if self.open.take().is_some() {
            self.out.extend_from_slice(self.tail.at(now));
            if !self.deferred.is_empty() {
                self.out.append(&mut std::mem::take(&mut self.deferred));
            }
        }
    }

    fn end(&mut self, end: &End, now: u128) {
        match end {
            End::Complete { milliseconds } => {
                self.text(r#"{"type":"execution_complete""#);
                if *milliseconds > 0 {
                    self.text(&format!(r#","execution_time":{milliseconds}"#));
                }
                self.text(&format!(r#","timestamp":{now}}}"#));
            }
            End::Error { value, traceback } => {
                self.text(&format!(
                    r#"{{"type":"error","timestamp":{now},"error":{{"ename":"CommandExecError","evalue":""#
                ));
                escape(value.as_bytes(), &mut self.out);
                self.text("\",\"traceback\":[");
                for (index, line) in traceback.iter().enumerate() {
                    self.text(if index == 0 { "\"" } else { ",\"" });
                    escape(line.as_bytes(), &mut self.out);
                    self.text("\"");
                }
                self.text("]}}");
            }
        }
        self.text("\n\n");
    }

    fn text(&mut self, text: &str) {
        self.out.extend_from_slice(text.as_bytes());
    }
}

/// Begins the event of a line. Each of the two is one copy of a length that is known.
fn begin(out: &mut Vec<u8>, stream: Stream) {
    match stream {
        Stream::Stdout => out.extend_from_slice(b"{\"type\":\"stdout\",\"text\":\""),
        Stream::Stderr => out.extend_from_slice(b"{\"type\":\"stderr\",\"text\":\""),
    }
}

/// What events with a text end with, written once for all of the same millisecond.
#[derive(Debug, Default)]
struct Tail {
    now: u128,
    text: String,
}

impl Tail {
    fn at(&mut self, now: u128) -> &[u8] {
        if self.text.is_empty() || self.now != now {
            self.now = now;
            self.text = format!("\",\"timestamp\":{now}}}\n\n");
        }
        self.text.as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::execd::lines::HELD;
    use serde_json::Value;

    fn frames() -> Frames {
        Frames::new(Rule::Command)
    }

    fn text(frames: &mut Frames) -> String {
        String::from_utf8(frames.take()).unwrap()
    }

    /// Type and text of every event.
    fn events(frames: &mut Frames) -> Vec<(String, String)> {
        let wire = text(frames);
        let objects = wire.split_terminator("\n\n").map(|object| {
            let object: Value = serde_json::from_str(object).unwrap();
            let field = |key: &str| object[key].as_str().unwrap_or_default().to_owned();
            (field("type"), field("text"))
        });
        objects.collect()
    }

    #[test]
    fn the_bytes_of_the_contract() {
        let mut frames = frames();
        frames.init("d729f82974fb4307a2289487d1232c9c", 1);
        frames.ping(2);
        frames.output(Stream::Stdout, b"h<i>\n", 3);
        frames.output(Stream::Stderr, b"err", 4);
        let end = End::Error {
            value: "3".to_owned(),
            traceback: vec!["exit status 3".to_owned(), "\"".to_owned()],
        };
        frames.end(&end, 5);
        assert_eq!(
            text(&mut frames),
            concat!(
                r#"{"type":"init","text":"d729f82974fb4307a2289487d1232c9c","timestamp":1}"#,
                "\n\n",
                r#"{"type":"ping","text":"pong","timestamp":2}"#,
                "\n\n",
                r#"{"type":"stdout","text":"h\u003ci\u003e","timestamp":3}"#,
                "\n\n",
                r#"{"type":"stderr","text":"err","timestamp":5}"#,
                "\n\n",
                r#"{"type":"error","timestamp":5,"error":{"ename":"CommandExecError","evalue":"3","traceback":["exit status 3","\""]}}"#,
                "\n\n",
            )
        );
        frames.end(&End::Complete { milliseconds: 0 }, 6);
        frames.end(&End::Complete { milliseconds: 7 }, 8);
        assert_eq!(
            text(&mut frames),
            concat!(
                r#"{"type":"execution_complete","timestamp":6}"#,
                "\n\n",
                r#"{"type":"execution_complete","execution_time":7,"timestamp":8}"#,
                "\n\n",
            )
        );
    }

    #[test]
    fn a_very_long_line_is_one_event_that_others_wait_for() {
        let mut frames = frames();
        let (mut sent, chunk) = (Vec::new(), vec![b'x'; 64 * 1024]);
        for _ in 0..=2 * HELD / chunk.len() {
            frames.output(Stream::Stdout, &chunk, 1);
            sent.append(&mut frames.take());
        }
        assert!(sent.len() >= HELD, "it is not held back");
        frames.output(Stream::Stderr, b"meanwhile\n", 1);
        frames.ping(1);
        assert!(frames.is_empty());
        frames.output(Stream::Stdout, b"end\nnext\n", 1);
        frames.ping(1);
        frames.wire.out.splice(0..0, sent);
        let events = events(&mut frames);
        let kinds: Vec<_> = events.iter().map(|(kind, _)| kind.as_str()).collect();
        assert_eq!(kinds, ["stdout", "stderr", "stdout", "ping"]);
        assert!(events[0].1.ends_with("xend") && events[0].1.len() > 2 * HELD);
        assert_eq!(events[1].1, "meanwhile");
        assert_eq!(events[2].1, "next");
    }

    #[test]
    fn two_very_long_lines_at_once_cut_each_other() {
        let mut frames = frames();
        let chunk = vec![b'x'; HELD + 1];
        frames.output(Stream::Stdout, &chunk, 1);
        frames.output(Stream::Stderr, &chunk, 1);
        frames.output(Stream::Stdout, b"\n", 1);
        frames.end(&End::Complete { milliseconds: 1 }, 1);
        let lengths: Vec<_> = events(&mut frames)
            .into_iter()
            .map(|(kind, text)| (kind, text.len()))
            .collect();
        let expected = [
            ("stdout", HELD + 1),
            ("stderr", HELD + 1),
            ("execution_complete", 0),
        ];
        let expected = expected.map(|(kind, length)| (kind.to_owned(), length));
        assert_eq!(lengths, expected);
    }

    #[test]
    fn what_waits_is_bounded() {
        let mut frames = frames();
        frames.output(Stream::Stdout, &vec![b'x'; HELD + 1], 1);
        drop(frames.take());
        let mut told = 0;
        while told < 2 * DEFERRED {
            frames.output(Stream::Stderr, b"a line of some length\n", 1);
            told += 22;
            assert!(frames.wire.deferred.len() <= DEFERRED + 100);
        }
        assert!(!frames.is_empty());
    }
}
