//! Output bytes to the lines of the event stream (contract 7.4 and 8.2).
//!
//! Pure, and exact: the terminators are the only bytes that do not come out. A line is handed on
//! without being copied where it lies whole in one piece of input, and never held beyond
//! [`HELD`] bytes, however long it is: a longer one comes in parts.

/// The most bytes of an unfinished line that are held back; beyond, it is handed on in parts.
pub const HELD: usize = 1024 * 1024;

/// Where lines end, and what becomes of blank ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// `/command`: at LF and at CR, together or alone; a blank line is the text `"\n"`.
    Command,
    /// `/session`: at LF, before which one CR is removed; blank lines are left out.
    Session,
}

/// A line, or a part of a very long one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece<'a> {
    /// Its bytes, without terminator.
    pub bytes: &'a [u8],
    /// Whether the line is complete with it.
    pub last: bool,
}

/// Cuts a stream into lines; one for each of standard output and standard error.
#[derive(Debug)]
pub struct Lines {
    rule: Rule,
    pending: Vec<u8>,
    /// The byte before was a CR that ended a line (`Rule::Command`).
    after_cr: bool,
    /// Part of the current line has been handed on.
    begun: bool,
    held: usize,
}

impl Lines {
    /// An empty stream.
    #[must_use]
    pub fn new(rule: Rule) -> Self {
        Self::with_limit(rule, HELD)
    }

    fn with_limit(rule: Rule, held: usize) -> Self {
        Self {
            rule,
            pending: Vec::new(),
            after_cr: false,
            begun: false,
            held,
        }
    }

    /// Takes the next bytes and hands on the lines they complete.
    pub fn push(&mut self, mut input: &[u8], mut emit: impl FnMut(Piece<'_>)) {
        while let Some(&first) = input.first() {
            let end = match self.rule {
                Rule::Command => memchr::memchr2(b'\n', b'\r', input),
                Rule::Session => memchr::memchr(b'\n', input),
            };
            let Some(end) = end else {
                self.after_cr = false;
                self.hold(input, &mut emit);
                return;
            };
            let (line, terminator) = (&input[..end], input[end]);
            let completes_crlf = end == 0 && self.after_cr && first == b'\n';
            if !completes_crlf {
                self.end(line, &mut emit);
            }
            self.after_cr = terminator == b'\r';
            input = &input[end + 1..];
        }
    }

    /// Hands on what is left when the stream ends without a terminator.
    pub fn finish(&mut self, emit: impl FnMut(Piece<'_>)) {
        if self.begun || !self.pending.is_empty() {
            self.end(&[], emit);
        }
        self.after_cr = false;
    }

    /// Whether part of a very long line has been handed on and its end has not.
    #[must_use]
    pub fn is_within_line(&self) -> bool {
        self.begun
    }

    fn end(&mut self, rest: &[u8], mut emit: impl FnMut(Piece<'_>)) {
        let line = if self.pending.is_empty() {
            rest
        } else {
            self.pending.extend_from_slice(rest);
            &self.pending
        };
        let begun = std::mem::take(&mut self.begun);
        let bytes = match self.rule {
            Rule::Command if line.is_empty() && !begun => b"\n",
            Rule::Command => line,
            Rule::Session => line.strip_suffix(b"\r").unwrap_or(line),
        };
        if begun || !bytes.is_empty() {
            emit(Piece { bytes, last: true });
        }
        if self.pending.capacity() > self.held / 16 {
            self.pending = Vec::new();
        } else {
            self.pending.clear();
        }
    }

    fn hold(&mut self, input: &[u8], emit: &mut impl FnMut(Piece<'_>)) {
        self.pending.extend_from_slice(input);
        if self.pending.len() > self.held {
            // A character is not cut in two, nor a CR from the LF it may belong to.
            let whole = self.pending.len() - unfinished(&self.pending);
            if whole == 0 {
                return;
            }
            emit(Piece {
                bytes: &self.pending[..whole],
                last: false,
            });
            self.pending.drain(..whole);
            self.begun = true;
        }
    }
}

/// How many bytes at the end may be the beginning of something longer: a UTF-8 sequence or CR LF.
fn unfinished(bytes: &[u8]) -> usize {
    let lead = bytes
        .iter()
        .rev()
        .take(3)
        .position(|byte| !(0x80..0xc0).contains(byte));
    match lead {
        Some(back) => {
            let missing = match bytes[bytes.len() - 1 - back] {
                b'\r' if back == 0 => true,
                0xc0..=0xdf => back < 1,
                0xe0..=0xef => back < 2,
                0xf0..=0xf7 => back < 3,
                _ => false,
            };
            if missing { back + 1 } else { 0 }
        }
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The lines of a stream that arrives in the given pieces.
    fn lines(rule: Rule, held: usize, input: &[&[u8]]) -> Vec<Vec<u8>> {
        let mut splitter = Lines::with_limit(rule, held);
        let mut complete = Vec::new();
        let mut current = Vec::new();
        let mut emit = |piece: Piece<'_>| {
            current.extend_from_slice(piece.bytes);
            if piece.last {
                complete.push(std::mem::take(&mut current));
            }
        };
        for piece in input {
            splitter.push(piece, &mut emit);
        }
        splitter.finish(&mut emit);
        assert!(current.is_empty());
        complete
    }

    /// The rule of `/command` in the contract's own words.
    fn reference(input: &[u8]) -> Vec<Vec<u8>> {
        let (mut events, mut pending, mut last_was_cr) = (Vec::new(), Vec::new(), false);
        for &byte in input {
            if byte == b'\n' || byte == b'\r' {
                if !pending.is_empty() {
                    events.push(std::mem::take(&mut pending));
                } else if !(byte == b'\n' && last_was_cr) {
                    events.push(b"\n".to_vec());
                }
                last_was_cr = byte == b'\r';
            } else {
                last_was_cr = false;
                pending.push(byte);
            }
        }
        if !pending.is_empty() {
            events.push(pending);
        }
        events
    }

    #[test]
    fn the_table_of_the_contract() {
        for (input, expected) in [
            (
                &[
                    "line1\nprog 10%\rprog 20%\rprog 30%\nlast\n",
                    "tail1\r\ntail2\n",
                ][..],
                &[
                    "line1", "prog 10%", "prog 20%", "prog 30%", "last", "tail1", "tail2",
                ][..],
            ),
            (
                &["line1\nlastline-without-newline"],
                &["line1", "lastline-without-newline"],
            ),
            (
                &["a\n\nb\n\n\nc\n\r\nd\n"],
                &["a", "\n", "b", "\n", "\n", "c", "\n", "d"],
            ),
            (&["a\r", "\nb\n"], &["a", "b"]),
            (&["\r", "\n"], &["\n"]),
            (&["a\n\nb\n\n\nc\n"], &["a", "\n", "b", "\n", "\n", "c"]),
        ] {
            let input: Vec<&[u8]> = input.iter().map(|piece| piece.as_bytes()).collect();
            let found = lines(Rule::Command, HELD, &input);
            let expected: Vec<&[u8]> = expected.iter().map(|line| line.as_bytes()).collect();
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn a_session_leaves_blank_lines_out_and_keeps_lone_cr() {
        let found = lines(Rule::Session, HELD, &[b"a\r\n\n\r\nb\rc\r\r\n{\"x\":1}"]);
        assert_eq!(found, [&b"a"[..], b"b\rc\r", b"{\"x\":1}"]);
    }

    #[test]
    fn an_unfinished_line_waits_for_its_end() {
        let mut splitter = Lines::new(Rule::Command);
        splitter.push(b"Password: ", |piece| panic!("{piece:?}"));
        let mut found = Vec::new();
        splitter.finish(|piece| found.push(piece.bytes.to_vec()));
        assert_eq!(found, [b"Password: "]);
    }

    #[test]
    fn a_very_long_line_is_not_held() {
        let mut splitter = Lines::new(Rule::Command);
        let chunk = "é".repeat(32 * 1024);
        let (mut bytes, mut ends, mut most) = (0, 0, 0);
        let mut emit = |piece: Piece<'_>| {
            assert!(std::str::from_utf8(piece.bytes).is_ok());
            bytes += piece.bytes.len();
            ends += usize::from(piece.last);
        };
        splitter.push(b"x", &mut emit);
        for _ in 0..1600 {
            splitter.push(chunk.as_bytes(), &mut emit);
            most = most.max(splitter.pending.capacity());
        }
        splitter.push(b"\n", &mut emit);
        assert_eq!((bytes, ends), (1 + 1600 * chunk.len(), 1));
        assert!(most <= 4 * HELD, "{most}");
    }

    fn stream() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let byte = prop_oneof![
            3 => Just(b'\n'), 3 => Just(b'\r'), 3 => Just(b'a'),
            1 => Just(0u8), 2 => Just(0xc3), 2 => Just(0xa9), 1 => any::<u8>()
        ];
        proptest::collection::vec(proptest::collection::vec(byte, 0..24), 0..12)
    }

    proptest! {
        #[test]
        fn any_stream_in_any_pieces_follows_the_rule(pieces in stream(), held in 1usize..16) {
            let whole = pieces.concat();
            let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
            prop_assert_eq!(lines(Rule::Command, held, &pieces), reference(&whole));
        }

        #[test]
        fn a_session_loses_only_terminators(pieces in stream(), held in 1usize..16) {
            let whole = pieces.concat();
            let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
            let expected: Vec<&[u8]> = whole
                .split(|byte| *byte == b'\n')
                .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
                .filter(|line| !line.is_empty())
                .collect();
            prop_assert_eq!(lines(Rule::Session, held, &pieces), expected);
        }
    }
}
