//! The frames of a terminal's WebSocket, byte for byte (contract 9.3).
//!
//! Pure. Binary frames begin with a byte that says what they are; text frames are JSON objects,
//! which end in a newline when they are ours.

use bytes::Bytes;
use serde::Serialize;

use crate::execd::api::input::{Fields, Mistake};
use crate::execd::pty::{Mode, Stream};
use crate::http::json;

/// What input of the client begins with.
const INPUT: u8 = 0x00;

/// What output begins with, and error output of a shell on pipes.
const OUTPUT: u8 = 0x01;
const ERROR_OUTPUT: u8 = 0x02;

/// What bytes at a given offset begin with.
const REPLAY: u8 = 0x03;

/// The most characters of an unknown type that are repeated to the client.
const QUOTED_CHARACTERS: usize = 64;

/// What a client wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// To type.
    Input(Bytes),
    /// Another size of the terminal; of no effect unless both are above 0.
    Size { columns: u32, rows: u32 },
    /// A signal, by its name.
    Signal(String),
    /// A sign of life.
    Pong,
    /// Something there is none of.
    Unknown(String),
    /// Nothing that means anything.
    Nothing,
}

/// Reads a binary frame of the client.
pub(super) fn read_binary(frame: &Bytes) -> Wanted {
    match frame.split_first() {
        Some((&INPUT, _)) => Wanted::Input(frame.slice(1..)),
        _ => Wanted::Nothing,
    }
}

/// Reads a text frame of the client, as bodies are read. One that is no JSON object, or has a field
/// of the wrong type, means nothing.
pub(super) fn read_text(frame: &[u8]) -> Wanted {
    parse(frame).unwrap_or(Wanted::Nothing)
}

fn parse(frame: &[u8]) -> Result<Wanted, Mistake> {
    let fields = Fields::parse(frame, "frame")?;
    let kind = fields.text("type")?.unwrap_or_default();
    let data = fields.text("data")?.unwrap_or_default();
    let signal = fields.text("signal")?.unwrap_or_default();
    let columns = count(fields.signed("cols")?);
    let rows = count(fields.signed("rows")?);
    Ok(match kind {
        "stdin" => Wanted::Input(data.to_owned().into()),
        "resize" => Wanted::Size { columns, rows },
        "signal" => Wanted::Signal(signal.to_owned()),
        "ping" => Wanted::Pong,
        unknown => Wanted::Unknown(unknown.chars().take(QUOTED_CHARACTERS).collect()),
    })
}

/// A number of columns or rows: what is below 0 counts as 0, what is above the range as its end.
fn count(given: Option<i64>) -> u32 {
    let given = given.unwrap_or(0).max(0);
    u32::try_from(given).unwrap_or(u32::MAX)
}

/// What a text frame of ours says.
#[derive(Default, Serialize)]
struct Frame<'a> {
    r#type: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    session_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<i32>,
    #[serde(skip_serializing_if = "str::is_empty")]
    error: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    code: &'a str,
}

impl Frame<'_> {
    fn line(&self) -> String {
        // Texts and a number always serialise, and to UTF-8.
        let mut line = json::encode(self).unwrap_or_default();
        line.push(b'\n');
        String::from_utf8(line).unwrap_or_default()
    }
}

/// The client is connected: to a shell on `mode`, or to none. `replaced` tells how a shell ended
/// that this one was started in place of.
pub(super) fn connected(id: &str, mode: Option<Mode>, replaced: Option<i32>) -> String {
    let frame = Frame {
        r#type: "connected",
        session_id: id,
        mode: mode.map(name),
        exit_code: replaced,
        ..Frame::default()
    };
    frame.line()
}

/// What a mode is called.
pub(super) fn name(mode: Mode) -> &'static str {
    match mode {
        Mode::Pty => "pty",
        Mode::Pipe => "pipe",
    }
}

/// The shell has ended.
pub(super) fn exit(code: i32) -> String {
    let frame = Frame {
        r#type: "exit",
        exit_code: Some(code),
        ..Frame::default()
    };
    frame.line()
}

/// A sign of life.
pub(super) fn pong() -> String {
    let frame = Frame {
        r#type: "pong",
        ..Frame::default()
    };
    frame.line()
}

/// What went wrong, for a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    StartFailed,
    StdinWriteFailed,
    InvalidFrame,
    SessionGone,
    RuntimeError,
}

impl Code {
    fn as_str(self) -> &'static str {
        match self {
            Self::StartFailed => "START_FAILED",
            Self::StdinWriteFailed => "STDIN_WRITE_FAILED",
            Self::InvalidFrame => "INVALID_FRAME",
            Self::SessionGone => "SESSION_GONE",
            Self::RuntimeError => "RUNTIME_ERROR",
        }
    }
}

/// Something went wrong.
pub(super) fn error(code: Code, message: &str) -> String {
    let frame = Frame {
        r#type: "error",
        error: message,
        code: code.as_str(),
        ..Frame::default()
    };
    frame.line()
}

/// There is no frame of that type.
pub(super) fn unknown(kind: &str) -> String {
    error(Code::InvalidFrame, &format!("unknown frame type {kind:?}"))
}

/// Output that follows what was sent before.
pub(super) fn output(stream: Stream, bytes: &[u8]) -> Vec<u8> {
    let kind = match stream {
        Stream::Stdout => OUTPUT,
        Stream::Stderr => ERROR_OUTPUT,
    };
    [&[kind], bytes].concat()
}

/// Output from an offset on, whatever was sent before.
pub(super) fn replay(offset: u64, bytes: &[u8]) -> Vec<u8> {
    [&[REPLAY], &offset.to_be_bytes()[..], bytes].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn frames_of_ours_are_exact() {
        let connected = |mode, replaced| connected("5b3e-1", mode, replaced);
        for (frame, expected) in [
            (
                connected(Some(Mode::Pty), None),
                r#"{"type":"connected","session_id":"5b3e-1","mode":"pty"}"#,
            ),
            (
                connected(Some(Mode::Pipe), Some(-1)),
                r#"{"type":"connected","session_id":"5b3e-1","mode":"pipe","exit_code":-1}"#,
            ),
            (
                connected(None, None),
                r#"{"type":"connected","session_id":"5b3e-1"}"#,
            ),
            (exit(0), r#"{"type":"exit","exit_code":0}"#),
            (exit(-1), r#"{"type":"exit","exit_code":-1}"#),
            (pong(), r#"{"type":"pong"}"#),
            (
                error(Code::StartFailed, "no <bash>"),
                r#"{"type":"error","error":"no \u003cbash\u003e","code":"START_FAILED"}"#,
            ),
            (
                unknown("a\"b\n"),
                r#"{"type":"error","error":"unknown frame type \"a\\\"b\\n\"","code":"INVALID_FRAME"}"#,
            ),
        ] {
            assert_eq!(frame, format!("{expected}\n"));
        }
        assert_eq!(output(Stream::Stdout, b"ab"), b"\x01ab");
        assert_eq!(output(Stream::Stderr, b""), b"\x02");
        assert_eq!(replay(0x0102, b"x"), b"\x03\0\0\0\0\0\0\x01\x02x");
    }

    #[test]
    fn frames_of_clients_mean_what_the_table_says() {
        let input = |text: &'static str| Wanted::Input(Bytes::from_static(text.as_bytes()));
        let size = |columns, rows| Wanted::Size { columns, rows };
        for (frame, wanted) in [
            (r#"{"type":"stdin","data":"é\n"}"#, input("é\n")),
            (r#"{"type":"stdin"}"#, input("")),
            (r#"{"type":"resize","cols":120,"rows":40}"#, size(120, 40)),
            (r#"{"type":"resize","cols":-1,"rows":0}"#, size(0, 0)),
            (
                r#"{"type":"resize","cols":99999999999,"rows":70000}"#,
                size(u32::MAX, 70000),
            ),
            (r#"{"TYPE":"resize","Cols":1,"ROWS":2}"#, size(1, 2)),
            (
                r#"{"type":"resize","cols":"120","rows":40}"#,
                Wanted::Nothing,
            ),
            (r#"{"type":"resize","cols":1.5,"rows":40}"#, Wanted::Nothing),
            (
                r#"{"type":"signal","signal":"SIGINT"}"#,
                Wanted::Signal("SIGINT".to_owned()),
            ),
            (r#"{"type":"ping","type":"stdin"}"#, input("")),
            (r#"{"Type":"ping","type":null}"#, Wanted::Pong),
            (r#" {"type":"ping"} "#, Wanted::Pong),
            (r#"{"type":"ping"}x"#, Wanted::Pong),
            (r#"{"type":7}"#, Wanted::Nothing),
            (r#"{"type":"paint"}"#, Wanted::Unknown("paint".to_owned())),
            ("{}", Wanted::Unknown(String::new())),
            ("null", Wanted::Unknown(String::new())),
            ("[]", Wanted::Nothing),
            ("{\"type\":", Wanted::Nothing),
            ("", Wanted::Nothing),
        ] {
            assert_eq!(read_text(frame.as_bytes()), wanted, "{frame}");
        }
        let long = format!(r#"{{"type":"{}"}}"#, "x".repeat(100));
        let cut = "x".repeat(QUOTED_CHARACTERS);
        assert_eq!(read_text(long.as_bytes()), Wanted::Unknown(cut));

        let binary = |bytes: &'static [u8]| read_binary(&Bytes::from_static(bytes));
        assert_eq!(binary(b"\0ls\n\0"), input("ls\n\0"));
        assert_eq!(binary(b"\0"), input(""));
        assert_eq!(binary(b"\x01ls\n"), Wanted::Nothing);
        assert_eq!(binary(b""), Wanted::Nothing);
    }

    proptest! {
        #[test]
        fn nothing_a_client_sends_is_too_much(frame in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read_text(&frame);
            let _ = read_binary(&frame.into());
        }

        #[test]
        fn types_are_repeated_as_they_are(kind in "[a-z]{1,20}") {
            let frame = unknown(&kind);
            let value: serde_json::Value = serde_json::from_str(frame.trim_end()).unwrap();
            prop_assert_eq!(value["error"].as_str().unwrap(), format!("unknown frame type \"{kind}\""));
            prop_assert_eq!(read_text(frame.as_bytes()), Wanted::Unknown("error".to_owned()));
        }
    }
}
