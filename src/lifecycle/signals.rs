//! The signals a daemon understands.
//!
//! `SIGPIPE` is not among them because the standard library already ignores it: a write to a
//! closed pipe or socket is an error of that write, and nothing more.

use std::io;

use async_signal::Signal;
use smol::stream::{Stream, StreamExt};

use super::{Exit, Shutdown};

/// What a signal meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The first `SIGTERM` or `SIGINT`: the shutdown is about to be triggered.
    Drain,
    /// The second one: the shutdown is about to be forced.
    Force,
    /// `SIGUSR1`: the log level is to become more verbose.
    MoreVerbose,
    /// `SIGUSR2`: the log level is to become less verbose.
    LessVerbose,
}

/// The signals of this process, caught from the moment this value exists.
#[derive(Debug)]
pub struct Signals(async_signal::Signals);

impl Signals {
    /// Every signal with what it does, for the manual pages.
    pub const MEANINGS: &[(&str, &str)] = &[
        (
            "SIGTERM, SIGINT",
            "Take no new work, finish what is under way, export what telemetry still holds, end. \
             A second one drops what is under way; a third one ends the process at once.",
        ),
        (
            "SIGUSR1",
            "Make the log one level more verbose; the log says so.",
        ),
        (
            "SIGUSR2",
            "Make the log one level less verbose; the log says so.",
        ),
    ];

    /// Catches the signals; what arrives before [`watch`](Self::watch) is kept.
    ///
    /// # Errors
    ///
    /// The system refuses a handler or the pipe behind it.
    pub fn catch() -> io::Result<Self> {
        let signals = [Signal::Term, Signal::Int, Signal::Usr1, Signal::Usr2];
        async_signal::Signals::new(signals).map(Self)
    }

    /// Turns signals into stages of `shutdown` and calls to `notify`, until the process ends.
    /// What `notify` says of a stage comes before the stage: after it, the end may already have
    /// closed what is spoken to.
    ///
    /// The third `SIGTERM` or `SIGINT` ends the process without any flush: whoever sends it has
    /// seen the first two not work.
    pub async fn watch(self, shutdown: Shutdown, notify: impl FnMut(Notice)) {
        let signals = self.0.filter_map(Result::ok);
        follow(signals, &shutdown, notify).await;
        std::process::exit(Exit::Failure.code().into());
    }
}

/// Returns when the third request to end arrives.
async fn follow(
    signals: impl Stream<Item = Signal>,
    shutdown: &Shutdown,
    mut notify: impl FnMut(Notice),
) {
    let mut signals = std::pin::pin!(signals);
    while let Some(signal) = signals.next().await {
        match signal {
            Signal::Usr1 => notify(Notice::MoreVerbose),
            Signal::Usr2 => notify(Notice::LessVerbose),
            _ if shutdown.is_forced() => return,
            _ if shutdown.is_triggered() => {
                notify(Notice::Force);
                shutdown.force();
            }
            _ => {
                notify(Notice::Drain);
                shutdown.trigger();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use smol::stream;

    #[test]
    fn the_first_drains_the_second_forces_the_third_gives_up() {
        let shutdown = Shutdown::new();
        let mut notices = Vec::new();
        let signals = [
            Signal::Usr1,
            Signal::Term,
            Signal::Usr2,
            Signal::Int,
            Signal::Term,
            Signal::Usr1,
        ];
        smol::block_on(follow(stream::iter(signals), &shutdown, |notice| {
            let stage = (shutdown.is_triggered(), shutdown.is_forced());
            notices.push((notice, stage));
        }));
        assert!(shutdown.is_forced());
        assert_eq!(
            notices,
            [
                (Notice::MoreVerbose, (false, false)),
                (Notice::Drain, (false, false)),
                (Notice::LessVerbose, (true, false)),
                (Notice::Force, (true, false)),
            ]
        );
    }

    #[test]
    fn a_signal_sent_before_the_watch_begins_is_kept() {
        let signals = Signals::catch().unwrap();
        let pid = rustix::process::getpid();
        rustix::process::kill_process(pid, rustix::process::Signal::USR1).unwrap();
        let first = smol::block_on(signals.0.filter_map(Result::ok).next());
        assert_eq!(first, Some(Signal::Usr1));
    }
}
