//! How a process ends: signals, the shutdown token, drain deadlines, panics, exit codes.
//!
//! Owns the two stages of a shutdown (drain, then force) and the promise that every way out passes
//! by the flush of telemetry. Never knows what an applet does while it drains, and never logs: it
//! hands what happened to a callback.

mod panics;
mod signals;

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Duration;

use smol::Timer;
use smol::channel::{Receiver, Sender};
use smol::future::FutureExt;

use crate::config;

pub use panics::{Panic, report_panics};
pub use signals::{Notice, Signals};

/// How long an ending process waits for the last metrics and logs to be exported.
pub const FLUSH_DEADLINE: Duration = Duration::from_secs(5);

/// The exit codes of every applet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 0: the work is done, or a signal asked for the end and everything was drained.
    Success,
    /// 1: something failed after the start, or a drain was cut short.
    Failure,
    /// 64 (`EX_USAGE` of sysexits.h): the command line or the configuration cannot be used;
    /// nothing was bound, opened or started.
    Usage,
    /// 2: what [`Exit::Usage`] says, and any other failure before or outside the work, from an
    /// applet whose callers know the exit codes of the Go component.
    Setup,
}

impl Exit {
    /// The codes of most applets with their meaning, for the manual pages.
    pub const MEANINGS: &[(Self, &str)] = &[
        (
            Self::Success,
            "The work is done, or a signal asked for the end and everything was drained.",
        ),
        (
            Self::Failure,
            "Something failed after the start, or a drain was cut short.",
        ),
        (
            Self::Usage,
            "The command line or the configuration cannot be used; nothing was started.",
        ),
    ];

    /// The number given to the system.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Failure => 1,
            Self::Usage => 64,
            Self::Setup => 2,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Why an applet cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// Something the applet cannot do without failed.
    #[error("{what}: {cause}")]
    Failed {
        /// What was being done, for example `cannot listen on 0.0.0.0:18080`.
        what: String,
        /// What the failing part said.
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    /// What was found before the start does not allow one; the text says it all.
    #[error("{0}")]
    Refused(String),
    /// The main thread panicked; the panic itself went to the [`report_panics`] callback.
    #[error("the main thread panicked")]
    Panicked,
}

impl Fatal {
    /// A failure of `what`, for use in `map_err`.
    pub fn failed<E>(what: impl Into<String>) -> impl FnOnce(E) -> Self
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let what = what.into();
        move |cause| Self::Failed {
            what,
            cause: cause.into(),
        }
    }

    /// The exit code it leads to.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Config(_) => Exit::Usage,
            Self::Failed { .. } | Self::Refused(_) | Self::Panicked => Exit::Failure,
        }
    }
}

/// Runs an applet whose telemetry is up, to its end, whichever that is.
///
/// `main` works with `state`. A failure or a panic of it is given to `report` (which logs it) and
/// then, as after a normal end, `flush` takes the state apart and exports what telemetry still
/// holds, within the duration it is given.
pub fn conclude<S>(
    state: S,
    main: impl FnOnce(&S) -> Result<Exit, Fatal>,
    report: impl FnOnce(&S, &Fatal),
    flush: impl FnOnce(S, Duration),
) -> Exit {
    let outcome = catch_unwind(AssertUnwindSafe(|| main(&state))).unwrap_or(Err(Fatal::Panicked));
    let exit = outcome.unwrap_or_else(|fatal| {
        report(&state, &fatal);
        fatal.exit()
    });
    flush(state, FLUSH_DEADLINE);
    exit
}

/// A drain that did not complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DrainCut {
    /// It took longer than it may.
    #[error("the drain did not complete in time")]
    Deadline,
    /// A second signal asked not to wait.
    #[error("the drain was cut short by a second signal")]
    Forced,
}

/// The token by which everything learns that the process is to end.
///
/// It has two stages, each of which is entered once and never left: *triggered* (take no new work,
/// finish what is under way) and *forced* (drop what is under way, only flush telemetry). Clones
/// share their state.
#[derive(Clone, Debug)]
pub struct Shutdown {
    triggered: Latch,
    forced: Latch,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self::new()
    }
}

impl Shutdown {
    /// A token nobody has triggered.
    #[must_use]
    pub fn new() -> Self {
        Self {
            triggered: Latch::new(),
            forced: Latch::new(),
        }
    }

    /// Asks everything to finish.
    pub fn trigger(&self) {
        self.triggered.set();
    }

    /// Asks everything to stop at once.
    pub fn force(&self) {
        self.triggered.set();
        self.forced.set();
    }

    /// Whether the end was asked for.
    #[must_use]
    pub fn is_triggered(&self) -> bool {
        self.triggered.is_set()
    }

    /// Whether the end was asked for without a drain.
    #[must_use]
    pub fn is_forced(&self) -> bool {
        self.forced.is_set()
    }

    /// Completes when the end is asked for.
    pub async fn wait(&self) {
        self.triggered.wait().await;
    }

    /// Completes when the end is asked for without a drain.
    pub async fn wait_forced(&self) {
        self.forced.wait().await;
    }

    /// Waits for `work` to finish, but neither past `deadline` nor past a forced end.
    ///
    /// # Errors
    ///
    /// The work was dropped unfinished.
    pub async fn drain<T>(
        &self,
        deadline: Duration,
        work: impl Future<Output = T>,
    ) -> Result<T, DrainCut> {
        let done = async { Ok(work.await) };
        let late = async {
            Timer::after(deadline).await;
            Err(DrainCut::Deadline)
        };
        let forced = async {
            self.forced.wait().await;
            Err(DrainCut::Forced)
        };
        done.or(forced).or(late).await
    }
}

/// An event that happens at most once: the closing of a channel nothing is ever sent on.
#[derive(Clone, Debug)]
struct Latch {
    open: Sender<()>,
    closed: Receiver<()>,
}

impl Latch {
    fn new() -> Self {
        let (open, closed) = smol::channel::bounded(1);
        Self { open, closed }
    }

    fn set(&self) {
        self.open.close();
    }

    fn is_set(&self) -> bool {
        self.closed.is_closed()
    }

    async fn wait(&self) {
        // Nothing is sent, so the only way to return is the error of a closed channel.
        let _ = self.closed.recv().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn a_trigger_reaches_every_clone_before_and_after() {
        let shutdown = Shutdown::new();
        let clone = shutdown.clone();
        assert!(!clone.is_triggered());
        let waiter = std::thread::spawn(move || smol::block_on(clone.wait()));
        shutdown.trigger();
        waiter.join().unwrap();
        assert!(shutdown.is_triggered() && !shutdown.is_forced());
        smol::block_on(shutdown.wait());
    }

    #[test]
    fn dropping_every_other_clone_triggers_nothing() {
        let shutdown = Shutdown::new();
        drop(shutdown.clone());
        assert!(!shutdown.is_triggered());
    }

    #[test]
    fn a_drain_ends_with_the_work_the_deadline_or_force() {
        let shutdown = Shutdown::new();
        let long = Duration::from_secs(3600);
        let never = std::future::pending::<()>;
        smol::block_on(async {
            assert_eq!(shutdown.drain(long, async { 7 }).await, Ok(7));
            let cut = shutdown.drain(Duration::ZERO, never()).await;
            assert_eq!(cut, Err(DrainCut::Deadline));
            shutdown.force();
            let cut = shutdown.drain(long, never()).await;
            assert_eq!(cut, Err(DrainCut::Forced));
            assert!(shutdown.is_triggered());
        });
    }

    #[test]
    fn every_way_out_flushes_and_failures_are_reported_first() {
        let usage = || Fatal::from(config::Error::Usage("unknown flag --x".to_owned()));
        let io = || Fatal::failed("cannot listen")(std::io::Error::other("in use"));
        type Main = Box<dyn FnOnce() -> Result<Exit, Fatal>>;
        let ways: [(Main, Exit, &str); 4] = [
            (Box::new(|| Ok(Exit::Success)), Exit::Success, ""),
            (
                Box::new(move || Err(usage())),
                Exit::Usage,
                "unknown flag --x",
            ),
            (
                Box::new(move || Err(io())),
                Exit::Failure,
                "cannot listen: in use",
            ),
            (
                Box::new(|| panic!("this panic is part of a test")),
                Exit::Failure,
                "the main thread panicked",
            ),
        ];
        for (main, expected, message) in ways {
            let reported = Cell::new(String::new());
            let flushed = Cell::new(false);
            let exit = conclude(
                (),
                |()| main(),
                |(), fatal| {
                    assert!(!flushed.get());
                    reported.set(fatal.to_string());
                },
                |(), _| flushed.set(true),
            );
            assert_eq!(exit, expected);
            assert_eq!(reported.take(), message);
            assert!(flushed.get());
        }
    }
}
