//! Ending what a client no longer wants: `SIGTERM`, a grace period, `SIGKILL`, for everything in it.
//!
//! Never signals a number that may be another process's by now. Collects nothing.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use smol::Timer;
use smol::future::FutureExt;

use super::processes;
use super::spawn::{Child, Scope, Target, kill};

/// How long processes have between `SIGTERM` and `SIGKILL` (contract 7.5).
pub const GRACE: Duration = Duration::from_secs(3);

/// How long a terminal's processes have between `SIGHUP` and `SIGKILL`.
const HANG_UP_GRACE: Duration = Duration::from_secs(1);

/// How often it is looked whether they have ended.
const LOOK: Duration = Duration::from_millis(50);

/// How a session is asked to end before it is made to.
#[derive(Clone, Copy)]
pub(super) struct Manner {
    signal: Signal,
    grace: Duration,
}

impl Manner {
    /// A command, or a shell without a terminal.
    pub(super) const COMMAND: Self = Self {
        signal: Signal::TERM,
        grace: GRACE,
    };

    /// An interactive shell: it ignores `SIGTERM`, and tells its jobs of a hang-up.
    pub(super) const TERMINAL: Self = Self {
        signal: Signal::HUP,
        grace: HANG_UP_GRACE,
    };
}

/// Ends the child and everything in its session. Returns when the child has ended.
pub(super) async fn session(child: &Child, manner: Manner) {
    let session = child.id();
    let groups = |signal| {
        let leads = child.signal(Scope::Group, signal);
        // Once the leader was collected, its number is kept by what is left of its session; if that
        // is nothing, it may have been given to another process, which shows by being there.
        if !leads && processes::one(session).is_some() {
            return;
        }
        // Jobs of a shell with job control have groups of their own.
        let mut groups: Vec<u32> = processes::of_session(session)
            .into_iter()
            .map(|member| member.group)
            .filter(|group| !leads || *group != session)
            .collect();
        groups.sort_unstable();
        groups.dedup();
        for group in groups {
            kill(Target::Group(group), signal);
        }
    };
    groups(manner.signal);
    // A stopped process acts on the signal only when it goes on.
    groups(Signal::CONT);
    let all_ended = async {
        // The error of a reactor that cannot wait is the deadline's business.
        if child.exited().await.is_err() {
            std::future::pending::<()>().await;
        }
        while !processes::of_session(session).is_empty() {
            Timer::after(LOOK).await;
        }
        true
    };
    let deadline = async {
        Timer::after(manner.grace).await;
        false
    };
    if !all_ended.or(deadline).await {
        groups(Signal::KILL);
        let _ = child.exited().await;
    }
}

/// Ends what a shell has started since `since` (clock ticks from boot), and the shell itself; what
/// was started before goes on. Returns when the shell has ended.
pub(super) async fn since(shell: &Child, since: u64) {
    let session = shell.id();
    let begun = || {
        processes::of_session(session)
            .into_iter()
            .filter(|member| member.started >= since && member.pid != session)
            .map(|member| member.pid)
    };
    let send = |signal| {
        for pid in begun() {
            kill(Target::Process(pid), signal);
        }
    };
    // The shell first and for good: it must not go on to its next line.
    shell.signal(Scope::Process, Signal::KILL);
    send(Signal::TERM);
    send(Signal::CONT);
    let all_ended = async {
        while begun().next().is_some() {
            Timer::after(LOOK).await;
        }
        true
    };
    let deadline = async {
        Timer::after(GRACE).await;
        false
    };
    if !all_ended.or(deadline).await {
        send(Signal::KILL);
    }
    let _ = shell.exited().await;
}

/// Ends what goes on in kernel sessions whose leaders have ended and were collected. Their numbers
/// are reserved while anything is in them; one that is empty may have been given to a new process,
/// which shows by that process being there.
pub(super) async fn leaderless(sessions: &[u32]) {
    let begin = Instant::now();
    let mut signal = Signal::TERM;
    loop {
        let mut left = 0;
        for session in sessions {
            if processes::one(*session).is_some() {
                continue;
            }
            for member in processes::of_session(*session) {
                kill(Target::Process(member.pid), signal);
                left += 1;
            }
        }
        if left == 0 || signal == Signal::KILL {
            return;
        }
        if begin.elapsed() >= GRACE {
            signal = Signal::KILL;
        } else {
            signal = Signal::CONT;
            Timer::after(LOOK).await;
        }
    }
}
