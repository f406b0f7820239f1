//! How a process ended, in the words of the event log. Pure.

use std::borrow::Cow;
use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

/// The end of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended(ExitStatus);

impl Ended {
    /// From the status `wait` gave.
    #[must_use]
    pub fn new(status: ExitStatus) -> Self {
        Self(status)
    }

    /// The exit code; -1 if a signal ended the process.
    #[must_use]
    pub fn code(self) -> i32 {
        self.0.code().unwrap_or(-1)
    }

    /// Whether the process said that all went well.
    #[must_use]
    pub fn success(self) -> bool {
        self.0.success()
    }

    /// The signal that ended the process.
    #[must_use]
    pub fn signal(self) -> Option<Cow<'static, str>> {
        self.0.signal().map(signal_name)
    }
}

/// As Go's `ProcessState.String` has it: `exit status 1`, `signal: killed`.
impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.signal() {
            Some(signal) => write!(f, "signal: {signal}")?,
            None => write!(f, "exit status {}", self.code())?,
        }
        match self.0.core_dumped() {
            true => f.write_str(" (core dumped)"),
            false => Ok(()),
        }
    }
}

/// The words of Go's `syscall.Signal.String` on Linux.
fn signal_name(number: i32) -> Cow<'static, str> {
    Cow::Borrowed(match number {
        1 => "hangup",
        2 => "interrupt",
        3 => "quit",
        4 => "illegal instruction",
        5 => "trace/breakpoint trap",
        6 => "aborted",
        7 => "bus error",
        8 => "floating point exception",
        9 => "killed",
        10 => "user defined signal 1",
        11 => "segmentation fault",
        12 => "user defined signal 2",
        13 => "broken pipe",
        14 => "alarm clock",
        15 => "terminated",
        other => return Cow::Owned(format!("signal {other}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(raw: i32) -> Ended {
        Ended::new(ExitStatus::from_raw(raw))
    }

    #[test]
    fn codes_and_signals_in_the_words_of_the_contract() {
        for (raw, code, signal, text) in [
            (0, 0, None, "exit status 0"),
            (1 << 8, 1, None, "exit status 1"),
            (255 << 8, 255, None, "exit status 255"),
            (9, -1, Some("killed"), "signal: killed"),
            (15, -1, Some("terminated"), "signal: terminated"),
            (
                11 | 0x80,
                -1,
                Some("segmentation fault"),
                "signal: segmentation fault (core dumped)",
            ),
            (6, -1, Some("aborted"), "signal: aborted"),
            (1, -1, Some("hangup"), "signal: hangup"),
            (2, -1, Some("interrupt"), "signal: interrupt"),
            (31, -1, Some("signal 31"), "signal: signal 31"),
        ] {
            let ended = ended(raw);
            assert_eq!(ended.code(), code, "{raw}");
            assert_eq!(ended.signal().as_deref(), signal, "{raw}");
            assert_eq!(ended.to_string(), text, "{raw}");
            assert_eq!(ended.success(), raw == 0);
        }
    }
}
