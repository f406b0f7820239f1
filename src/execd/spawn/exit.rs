//! How a process ended, and the words the execd API uses for it.
//!
//! Pure. The texts are those of the reference implementation (contract 7.2): clients show them.

use std::fmt;
use std::time::Duration;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It returned a status, 0 to 255.
    Code(i32),
    /// A signal ended it.
    Signal {
        /// The signal's number.
        number: i32,
        /// Whether the kernel wrote a core file.
        core_dumped: bool,
    },
}

impl Exit {
    /// The exit code of the API: the status, or -1 for a signal.
    #[must_use]
    pub fn code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal { .. } => -1,
        }
    }

    /// Whether the process returned 0.
    #[must_use]
    pub fn is_success(self) -> bool {
        self == Self::Code(0)
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Code(code) => write!(formatter, "exit status {code}"),
            Self::Signal {
                number,
                core_dumped,
            } => {
                match signal_text(number) {
                    Some(text) => write!(formatter, "signal: {text}")?,
                    None => write!(formatter, "signal: signal {number}")?,
                }
                if core_dumped {
                    formatter.write_str(" (core dumped)")?;
                }
                Ok(())
            }
        }
    }
}

fn signal_text(number: i32) -> Option<&'static str> {
    Some(match number {
        libc::SIGHUP => "hangup",
        libc::SIGINT => "interrupt",
        libc::SIGQUIT => "quit",
        libc::SIGILL => "illegal instruction",
        libc::SIGTRAP => "trace/breakpoint trap",
        libc::SIGABRT => "aborted",
        libc::SIGBUS => "bus error",
        libc::SIGFPE => "floating point exception",
        libc::SIGKILL => "killed",
        libc::SIGUSR1 => "user defined signal 1",
        libc::SIGSEGV => "segmentation fault",
        libc::SIGUSR2 => "user defined signal 2",
        libc::SIGPIPE => "broken pipe",
        libc::SIGALRM => "alarm clock",
        libc::SIGTERM => "terminated",
        _ => return None,
    })
}

/// What a process and the descendants it waited for used, as the kernel reports it (`getrusage(2)`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Processor time in user mode.
    pub user: Duration,
    /// Processor time in the kernel.
    pub system: Duration,
    /// The largest resident set of any one of the processes, in bytes; none where it was smaller than
    /// that of the daemon, which the kernel does not tell apart.
    pub max_rss_bytes: Option<u64>,
}

/// An ended process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// How.
    pub exit: Exit,
    /// What it used.
    pub usage: Usage,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_have_the_words_of_the_reference() {
        let signal = |number, core_dumped| Exit::Signal {
            number,
            core_dumped,
        };
        for (exit, code, text) in [
            (Exit::Code(0), 0, "exit status 0"),
            (Exit::Code(3), 3, "exit status 3"),
            (signal(9, false), -1, "signal: killed"),
            (signal(15, false), -1, "signal: terminated"),
            (
                signal(11, true),
                -1,
                "signal: segmentation fault (core dumped)",
            ),
            (signal(34, false), -1, "signal: signal 34"),
        ] {
            assert_eq!((exit.code(), exit.to_string().as_str()), (code, text));
        }
    }
}
