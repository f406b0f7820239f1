//! `supervisor`: keeps one worker running (`docs/supervisor.md`).
//!
//! Owns the life of the worker: hooks, launch, signals, the pause before a restart, the crash-loop
//! breaker, the event log. It is one thread that sleeps in one place ([`processes`]); it is made to
//! be process 1 of a container, so it reaps whatever falls to it. Never looks at what the worker
//! does.

pub mod backoff;
pub mod breaker;
pub mod config;
pub mod ended;
pub mod events;
pub mod metrics;
mod output;
mod processes;
mod sys;

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use breaker::Breaker;
use ended::Ended;
use events::{Observer, Run, Stage};
use metrics::Cause;
use processes::{Heed, Processes, Woken};

use crate::footprint;
use crate::lifecycle::Exit;

pub use config::{Config, SETTINGS};
pub use processes::Duty;

/// A command line.
#[derive(Clone, Debug)]
pub struct WorkerCommand {
    /// The program, looked up as a shell does.
    pub program: OsString,
    /// Its arguments.
    pub arguments: Vec<OsString>,
}

impl WorkerCommand {
    /// The command line of these words; `None` if there are none.
    #[must_use]
    pub fn new(words: &[OsString]) -> Option<Self> {
        let (program, arguments) = words.split_first()?;
        Some(Self {
            program: program.clone(),
            arguments: arguments.to_vec(),
        })
    }

    /// The file name of the program.
    #[must_use]
    pub fn name(&self) -> String {
        let path = Path::new(&self.program);
        let name = path.file_name().unwrap_or(path.as_os_str());
        name.to_string_lossy().into_owned()
    }
}

/// One supervisor with its worker.
pub struct Supervisor {
    config: Config,
    worker: WorkerCommand,
    processes: Processes,
    observer: Observer,
    breaker: Breaker,
    /// The last pause; zero after a stable run and at first.
    pause: Duration,
    /// The number of the current attempt, from 1.
    attempt: u64,
}

/// How an attempt to run the worker ended.
enum Attempt {
    /// The supervisor was told to stop.
    Stopped,
    /// The worker is not running, and is to be started again.
    Over(Cause),
}

impl Supervisor {
    /// A supervisor that has not started anything.
    #[must_use]
    pub fn new(config: Config, worker: WorkerCommand, duty: Duty, observer: Observer) -> Self {
        let processes = Processes::new(duty, observer.logger().clone(), observer.orphans());
        Self {
            breaker: Breaker::new(config.burst),
            config,
            worker,
            processes,
            observer,
            pause: Duration::ZERO,
            attempt: 0,
        }
    }

    /// Keeps the worker running until a signal asks to stop, which ends in
    /// [`Exit::Success`] whatever the worker does with it, or until a crash loop ends in
    /// [`Exit::Failure`].
    ///
    /// # Errors
    ///
    /// The system cannot wait; the worker is killed as soon as this process ends.
    pub fn run(mut self) -> io::Result<Exit> {
        loop {
            let due = Some(Instant::now());
            if self.processes.wait(None, due, Heed::Stop)? == Woken::Stop {
                break;
            }
            self.attempt += 1;
            let cause = match self.attempt()? {
                Attempt::Stopped => break,
                Attempt::Over(cause) => cause,
            };
            if self.crash_loop() && self.config.exit_on_burst {
                return Ok(Exit::Failure);
            }
            self.pause = self.config.backoff.next(self.pause, draw());
            events::Backoff {
                pause: self.pause,
                next_attempt: self.attempt + 1,
                cause,
            }
            .emit(&mut self.observer);
            let due = Instant::now().checked_add(self.pause);
            if self.processes.wait(None, due, Heed::Stop)? == Woken::Stop {
                break;
            }
        }
        events::Shutdown.emit(&mut self.observer);
        Ok(Exit::Success)
    }

    /// Hooks, launch, the worker's whole life, hooks.
    fn attempt(&mut self) -> io::Result<Attempt> {
        let prepared = self.run_hooks(Stage::PreStart, &[])?;
        if self.processes.stopping() {
            return Ok(Attempt::Stopped);
        }
        let started = Instant::now();
        self.breaker.launched(started);
        if !prepared {
            return Ok(Attempt::Over(Cause::PreStartFailed));
        }
        let mut command = Command::new(&self.worker.program);
        command.args(&self.worker.arguments).stdin(Stdio::null());
        let run = match self.processes.start_worker(&mut command) {
            Ok(pid) => Run {
                pid,
                attempt: self.attempt,
            },
            Err(error) => {
                events::LaunchFailed {
                    attempt: self.attempt,
                    error: self.describe(&error),
                }
                .emit(&mut self.observer);
                return Ok(Attempt::Over(Cause::LaunchFailed));
            }
        };
        events::Start(run).emit(&mut self.observer);
        if self.attempt == 1 {
            footprint::give_back();
        }
        let ended = self.attend(run.pid)?;
        let elapsed = started.elapsed();
        let exit = events::Exit {
            run,
            ended,
            elapsed,
            stopping: self.processes.stopping(),
        };
        exit.emit(&mut self.observer);
        self.processes.await_group_end(run.pid)?;
        if elapsed >= self.config.stable_after {
            self.settle(run, elapsed);
        }
        self.run_hooks(Stage::PostExit, &worker_variables(&exit))?;
        Ok(match self.processes.stopping() {
            true => Attempt::Stopped,
            false => Attempt::Over(exit.cause()),
        })
    }

    /// What the event log says of a program that cannot be started.
    fn describe(&self, error: &io::Error) -> String {
        format!("{}: {error}", self.worker.program.to_string_lossy())
    }

    /// Waits for the worker to end, and sees to it that it does once the supervisor is to stop.
    /// What is left of its process group has been killed afterwards.
    fn attend(&mut self, worker: Pid) -> io::Result<Option<Ended>> {
        let processes = &mut self.processes;
        if processes.wait(Some(worker), None, Heed::Stop)? == Woken::Stop {
            processes.signal(worker, Signal::TERM);
            let deadline = Instant::now().checked_add(self.config.grace_period);
            if processes.wait(Some(worker), deadline, Heed::Nothing)? == Woken::Deadline {
                processes.kill_group(worker);
                processes.wait(Some(worker), None, Heed::Nothing)?;
            }
        }
        // The worker still has its id, so this is its group and nobody else's.
        processes.kill_group(worker);
        processes.collect(worker)
    }

    /// A worker that ran this long is not in a crash loop, whatever ended it.
    fn settle(&mut self, run: Run, elapsed: Duration) {
        self.breaker.forgive();
        if !self.pause.is_zero() {
            events::Stable { run, elapsed }.emit(&mut self.observer);
            self.pause = Duration::ZERO;
        }
    }

    fn crash_loop(&mut self) -> bool {
        let Some(launches) = self.breaker.tripped(Instant::now()) else {
            return false;
        };
        events::BurstExit {
            attempt: self.attempt,
            launches,
            window: self.config.burst.window,
        }
        .emit(&mut self.observer);
        true
    }

    /// Runs every hook of a stage, in order; of those before a launch, none once the supervisor
    /// is to stop. Tells whether all went well.
    fn run_hooks(&mut self, stage: Stage, variables: &[(&str, String)]) -> io::Result<bool> {
        let (paths, timeout, heed) = match stage {
            Stage::PreStart => (
                &self.config.pre_start,
                self.config.pre_start_timeout,
                Heed::Stop,
            ),
            Stage::PostExit => (
                &self.config.post_exit,
                self.config.post_exit_timeout,
                Heed::Nothing,
            ),
        };
        let mut well = true;
        for path in paths {
            if heed == Heed::Stop && self.processes.stopping() {
                break;
            }
            let started = Instant::now();
            let mut command = Command::new(path);
            let variables = variables.iter().map(|(name, value)| (name, value));
            command.stdin(Stdio::null()).envs(variables);
            let ended = match self.processes.start_hook(path, command) {
                Ok(hook) => {
                    let ended = await_hook(&mut self.processes, hook, timeout, heed)?;
                    ended.ok_or_else(|| "its exit status is not known".to_owned())
                }
                Err(error) => Err(format!("{path}: {error}")),
            };
            let hook = events::Hook {
                stage,
                path,
                ended,
                elapsed: started.elapsed(),
            };
            well &= hook.failure().is_none();
            hook.emit(&mut self.observer);
        }
        Ok(well)
    }
}

/// Waits for a hook to end. One that takes too long, or has lost its purpose, is killed with its
/// process group; one that has ended may leave others behind.
fn await_hook(
    processes: &mut Processes,
    hook: Pid,
    timeout: Duration,
    heed: Heed,
) -> io::Result<Option<Ended>> {
    let deadline = Instant::now().checked_add(timeout);
    if processes.wait(Some(hook), deadline, heed)? != Woken::Ended {
        processes.kill_group(hook);
        processes.wait(Some(hook), None, Heed::Nothing)?;
    }
    processes.read_outputs();
    processes.collect(hook)
}

/// What post-exit hooks are told.
fn worker_variables(exit: &events::Exit) -> [(&'static str, String); 5] {
    let signal = exit.ended.and_then(Ended::signal).unwrap_or_default();
    let elapsed = events::milliseconds(exit.elapsed);
    [
        (
            "WORKER_EXIT_CODE",
            exit.ended.map_or(-1, Ended::code).to_string(),
        ),
        ("WORKER_SIGNAL", signal.into_owned()),
        ("WORKER_DURATION_MS", elapsed.to_string()),
        ("WORKER_PID", exit.run.pid.as_raw_pid().to_string()),
        ("WORKER_ATTEMPT", exit.run.attempt.to_string()),
    ]
}

/// A random number from 0 to 1; the middle if the system has none, which blurs nothing.
fn draw() -> f64 {
    getrandom::u32().map_or(0.5, |number| f64::from(number) / f64::from(u32::MAX))
}
