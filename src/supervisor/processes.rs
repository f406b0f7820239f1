//! The children of the supervisor and the one place where it waits: for a child, for a signal, for
//! the clock.
//!
//! Owns every `wait` of the process, so that reaping orphans can never take the status of a child
//! somebody asks for. Never decides what an end means.

use std::io::{self, PipeReader};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitOptions, kill_process, kill_process_group, test_kill_process_group, waitpid,
};
use slog::{Logger, debug, warn};

use super::ended::Ended;
use super::output::Output;
use super::sys::{self, SignalQueue};

/// Orphans reaped before signals and output get their turn.
const REAPED_AT_ONCE: usize = 256;

/// Outputs of hooks that are read at once. A hook that has ended may have left somebody who still
/// writes; beyond this many the oldest is closed.
pub const MAX_OUTPUTS: usize = 16;

/// How long the rest of a killed process group is waited for.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_POLL: Duration = Duration::from_millis(1);

/// Why a wait is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// The child has ended. It keeps its id, and so its process group, until it is collected.
    Ended,
    /// The supervisor was told to stop.
    Stop,
    /// The time has come.
    Deadline,
}

/// Whether a request to stop ends a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heed {
    /// It does, at once if it was made before.
    Stop,
    /// It does not.
    Nothing,
}

/// What makes a process responsible for others, taken on before it starts any thread.
#[derive(Debug)]
pub struct Duty {
    signals: SignalQueue,
    forward: Vec<Signal>,
}

impl Duty {
    /// Takes over the signals, of which `forward` are passed on to the worker, and the
    /// descendants that lose their parent. A thread started before would still be interrupted by
    /// the signals, so there must be none.
    ///
    /// # Errors
    ///
    /// The system refuses.
    pub fn take(forward: Vec<Signal>) -> io::Result<Self> {
        let mut signals = vec![Signal::TERM, Signal::INT, Signal::CHILD];
        signals.extend(&forward);
        let signals = SignalQueue::new(&signals)?;
        // Without effect on process 1, which orphans fall to anyway.
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        Ok(Self { signals, forward })
    }
}

/// See the module documentation.
pub struct Processes {
    duty: Duty,
    logger: Logger,
    /// Receives the forwarded signals.
    worker: Option<Pid>,
    outputs: Vec<Output>,
    orphans: Arc<AtomicU64>,
    stopping: bool,
}

impl Processes {
    /// No children yet. What goes wrong beside the work is told to `logger`, and orphans that were
    /// reaped are counted in `orphans`.
    #[must_use]
    pub fn new(duty: Duty, logger: Logger, orphans: Arc<AtomicU64>) -> Self {
        Self {
            duty,
            logger,
            worker: None,
            outputs: Vec::new(),
            orphans,
            stopping: false,
        }
    }

    /// Whether the supervisor was told to stop.
    #[must_use]
    pub fn stopping(&self) -> bool {
        self.stopping
    }

    /// Starts the worker, which receives the forwarded signals until it is collected.
    ///
    /// # Errors
    ///
    /// The program cannot be started.
    pub fn start_worker(&mut self, command: &mut Command) -> io::Result<Pid> {
        let pid = Pid::from_child(&sys::spawn(command)?);
        self.worker = Some(pid);
        Ok(pid)
    }

    /// Starts a hook called `name` whose output goes to the log.
    ///
    /// # Errors
    ///
    /// The program cannot be started.
    pub fn start_hook(&mut self, name: &str, mut command: Command) -> io::Result<Pid> {
        let (reader, writer) = io::pipe()?;
        command.stdout(writer.try_clone()?).stderr(writer);
        let pid = Pid::from_child(&sys::spawn(&mut command)?);
        // The command holds the writing end.
        drop(command);
        self.listen(name, reader)?;
        Ok(pid)
    }

    fn listen(&mut self, name: &str, reader: PipeReader) -> io::Result<()> {
        rustix::io::ioctl_fionbio(&reader, true)?;
        if self.outputs.len() >= MAX_OUTPUTS {
            self.outputs.remove(0).close(&self.logger);
        }
        self.outputs.push(Output::new(name, reader));
        Ok(())
    }

    /// Sends a signal to a child that has not been collected.
    pub fn signal(&self, child: Pid, signal: Signal) {
        self.note(kill_process(child, signal), child);
    }

    /// Kills the process group of a child that has not been collected.
    pub fn kill_group(&self, child: Pid) {
        self.note(kill_process_group(child, Signal::KILL), child);
    }

    /// Waits until nobody is left of a group that was killed, but not longer than [`LINGER`]: a
    /// process in an uninterruptible sleep dies when that ends.
    ///
    /// # Errors
    ///
    /// The system cannot wait.
    pub fn await_group_end(&mut self, group: Pid) -> io::Result<()> {
        let deadline = Instant::now() + LINGER;
        while test_kill_process_group(group) != Err(Errno::SRCH) && Instant::now() < deadline {
            // Whoever has died counts until it is reaped, which this does.
            self.wait(None, Some(Instant::now() + LINGER_POLL), Heed::Nothing)?;
        }
        Ok(())
    }

    /// A child that has changed its user may be out of reach; a group that is empty is no matter.
    fn note(&self, sent: rustix::io::Result<()>, child: Pid) {
        match sent {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(cause) => warn!(
                self.logger,
                "supervisor: cannot signal process {}: {cause}",
                child.as_raw_pid()
            ),
        }
    }

    /// Waits for `child` to end, until `deadline`, and for a request to stop if it is heeded.
    /// Meanwhile orphans are reaped, signals forwarded and outputs read.
    ///
    /// # Errors
    ///
    /// The system cannot wait.
    pub fn wait(
        &mut self,
        child: Option<Pid>,
        deadline: Option<Instant>,
        heed: Heed,
    ) -> io::Result<Woken> {
        loop {
            self.take_signals()?;
            let reaped = self.reap(child)?;
            if let Reaped::Child = reaped {
                return Ok(Woken::Ended);
            }
            if self.stopping && heed == Heed::Stop {
                return Ok(Woken::Stop);
            }
            let left = deadline.map(|time| time.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(Woken::Deadline);
            }
            match reaped {
                Reaped::More => self.sleep(Some(Duration::ZERO))?,
                Reaped::All | Reaped::Child => self.sleep(left)?,
            }
        }
    }

    /// Collects a child that has ended; `None` if the kernel has thrown its status away.
    ///
    /// # Errors
    ///
    /// The system cannot wait.
    pub fn collect(&mut self, child: Pid) -> io::Result<Option<Ended>> {
        if self.worker == Some(child) {
            self.worker = None;
        }
        loop {
            match waitpid(Some(child), WaitOptions::empty()) {
                Ok(Some((_, status))) => {
                    let status = ExitStatus::from_raw(status.as_raw());
                    return Ok(Some(Ended::new(status)));
                }
                Ok(None) | Err(Errno::CHILD) => return Ok(None),
                Err(Errno::INTR) => {}
                Err(cause) => return Err(cause.into()),
            }
        }
    }

    /// Reads what hooks have written so far.
    pub fn read_outputs(&mut self) {
        let logger = &self.logger;
        self.outputs.retain_mut(|output| output.read(logger));
    }

    fn take_signals(&mut self) -> io::Result<()> {
        while let Some(number) = self.duty.signals.next()? {
            match Signal::from_named_raw(number) {
                Some(Signal::TERM | Signal::INT) => self.stopping = true,
                Some(signal) if self.duty.forward.contains(&signal) => {
                    if let Some(worker) = self.worker {
                        debug!(self.logger, "supervisor: signal {number} forwarded");
                        self.signal(worker, signal);
                    }
                }
                // SIGCHLD says no more than that it is time to look.
                _ => {}
            }
        }
        Ok(())
    }

    /// Reaps children until `child` is among those that have ended, or none is left.
    fn reap(&mut self, child: Option<Pid>) -> io::Result<Reaped> {
        for _ in 0..REAPED_AT_ONCE {
            let ended = match sys::ended_child() {
                Ok(None) => return Ok(Reaped::All),
                Ok(Some(ended)) => ended,
                Err(error) if error.raw_os_error() == Some(libc::ECHILD) => {
                    // A child that is waited for and does not exist has ended unseen.
                    return Ok(child.map_or(Reaped::All, |_| Reaped::Child));
                }
                Err(error) => return Err(error),
            };
            if Some(ended) == child {
                return Ok(Reaped::Child);
            }
            waitpid(Some(ended), WaitOptions::NOHANG)?;
            self.orphans.fetch_add(1, Ordering::Relaxed);
        }
        Ok(Reaped::More)
    }

    /// Sleeps until a signal or an output wants attention, at most `left`, and reads the outputs.
    fn sleep(&mut self, left: Option<Duration>) -> io::Result<()> {
        let left = left.map(|left| Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        });
        let mut waiting = vec![PollFd::new(&self.duty.signals, PollFlags::IN)];
        let outputs = self.outputs.iter().map(AsFd::as_fd);
        waiting.extend(outputs.map(|output| PollFd::from_borrowed_fd(output, PollFlags::IN)));
        match poll(&mut waiting, left.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(cause) => return Err(cause.into()),
        }
        drop(waiting);
        self.read_outputs();
        Ok(())
    }
}

/// How far reaping came.
enum Reaped {
    /// To the child that is waited for, which was left as it is.
    Child,
    /// Nobody is left who has ended.
    All,
    /// As far as it may at once.
    More,
}
