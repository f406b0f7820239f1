//! Commands: one shell each, in the foreground with its output as a stream of events, or in the
//! background with its output kept as a log.
//!
//! Owns the table of commands and what is retained of them. Ends a command only when its time is up
//! or somebody asks; a client that goes away ends nothing, and neither does the shell's own end for
//! what it leaves running.

pub mod log;

use std::collections::{HashMap, VecDeque};
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use smol::Async;
use smol::Timer;
use smol::channel::{Receiver, Sender};
use smol::future::{self, FutureExt};
use smol::lock::Semaphore;

use super::Engine;
use super::environment::Environment;
use super::events::{CommandEnded, CommandStarted, Execution, Reason};
use super::metrics::Operation;
pub use super::pump::Stream;
use super::pump::{Discard, Pipes, Sink, pipe};
use super::spawn::{Child, Credentials, Ended, Exit, SpawnError, Spec, find_shell};
use super::terminate::{self, Manner};
use log::Log;

/// The most pieces of output, of at most 64 KiB each, that wait for a foreground client.
pub const QUEUED_OUTPUT: usize = 4;

/// The most finished commands that are remembered; the oldest is forgotten first.
pub const MAX_FINISHED: usize = 4096;

/// The most bytes that the finished commands' texts and logs hold together.
pub const MAX_RETAINED: u64 = 256 * 1024 * 1024;

/// The most commands that run at once.
pub const MAX_RUNNING: usize = 4096;

/// The most shells that have ended but whose descendants' output is still being read. Beyond, the
/// pipes of the next ones are closed.
pub const MAX_LEFTOVERS: usize = 1024;

/// How long an interrupt waits, beyond the grace period, for the end of what it has killed.
const INTERRUPT_SLACK: Duration = Duration::from_millis(200);

/// What to run.
#[derive(Clone, Debug)]
pub struct Request {
    /// The text given to the shell.
    pub command: String,
    /// Where; the daemon's own directory when absent.
    pub directory: Option<std::path::PathBuf>,
    /// Its whole environment, see [`Engine::layered`].
    pub environment: Environment,
    /// As whom; the daemon's user when absent.
    pub credentials: Option<Credentials>,
    /// How long it may take.
    pub timeout: Option<Duration>,
    /// Where its record goes; carries the trace context of the request.
    pub logger: slog::Logger,
}

/// What comes from a running command, in order; the end is the last and comes once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It wrote something.
    Output(Stream, Bytes),
    /// It ended.
    End(Outcome),
}

/// How an execution ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The end of the shell.
    pub exit: Exit,
    /// What ended it.
    pub reason: Reason,
    /// From just before its start.
    pub elapsed: Duration,
}

impl Outcome {
    /// Whether it ended by itself and returned 0.
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.reason == Reason::Exit && self.exit.is_success()
    }

    /// The exit code of the API: -1 when a signal, the timeout or an interrupt ended it.
    #[must_use]
    pub fn code(&self) -> i32 {
        match self.reason {
            Reason::Timeout | Reason::Interrupt => -1,
            _ => self.exit.code(),
        }
    }

    /// What a client is told of a failure, most important first; empty after a success.
    #[must_use]
    pub fn traceback(&self) -> Vec<String> {
        if self.is_success() {
            return Vec::new();
        }
        let mut lines = vec![self.exit.to_string()];
        match self.reason {
            Reason::Timeout => lines.push("timeout".to_owned()),
            Reason::Interrupt => lines.push("interrupted".to_owned()),
            _ => {}
        }
        lines
    }
}

/// A command that could not be started.
#[derive(Debug, thiserror::Error)]
#[error("{cause}")]
pub struct StartError {
    /// The id it would have had; a background command is remembered under it, a foreground one not.
    pub id: String,
    /// Why.
    pub cause: StartCause,
}

/// Why a command could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartCause {
    /// The system refused.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// Too many run already.
    #[error("{MAX_RUNNING} commands are running: wait for one to end or interrupt it")]
    TooMany,
}

/// A foreground command.
#[derive(Debug)]
pub struct Running {
    /// Its id.
    pub id: String,
    /// Its output and its end. Dropping it lets the command run on unheard.
    pub events: Receiver<Event>,
}

/// What is known of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Its id.
    pub id: String,
    /// The text given to the shell.
    pub command: Arc<str>,
    /// When it was started.
    pub started: SystemTime,
    /// How and when it ended, unless it runs.
    pub finished: Option<Finished>,
}

/// The end of a command, as it is remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// When.
    pub at: SystemTime,
    /// The exit code of the API; 255 for a background command that could not be started.
    pub exit_code: i32,
    /// What went wrong; none after a success.
    pub error: Option<String>,
}

/// A command that cannot be interrupted.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum InterruptError {
    /// There is none with this id.
    #[error("no such session")]
    Unknown,
    /// It has ended.
    #[error("command session {0} is not running")]
    NotRunning(String),
}

/// A log that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// There is no command with this id.
    #[error("command not found: {0}")]
    Unknown(String),
    /// Its output went to its client.
    #[error("command {0} is not running in background")]
    Foreground(String),
    /// The log's file failed.
    #[error("error open combined output file for command {id}: {cause}")]
    Read {
        /// The command.
        id: String,
        /// Why.
        cause: std::io::Error,
    },
}

/// The commands of the daemon. Clones share their state.
#[derive(Clone)]
pub struct Commands {
    shared: Arc<Shared>,
}

struct Shared {
    engine: Engine,
    table: Mutex<Table>,
    leftovers: Arc<Semaphore>,
}

#[derive(Default)]
struct Table {
    entries: HashMap<String, Arc<Entry>>,
    running: usize,
    /// Oldest first, with the bytes each held at its end.
    finished: VecDeque<(String, u64)>,
    /// The sum of what is with each of them.
    retained: u64,
}

struct Entry {
    command: Arc<str>,
    started: SystemTime,
    log: Option<Arc<Log>>,
    finished: Mutex<Option<Finished>>,
    /// Closed to ask for the end.
    interrupt: Sender<()>,
    /// Closed at the end.
    ended: Receiver<()>,
}

impl Entry {
    fn finished(&self) -> MutexGuard<'_, Option<Finished>> {
        self.finished.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn retained(&self) -> u64 {
        self.command.len() as u64 + self.log.as_ref().map_or(0, |log| log.held())
    }
}

impl Commands {
    /// No commands yet.
    #[must_use]
    pub fn new(engine: Engine) -> Self {
        Self {
            shared: Arc::new(Shared {
                engine,
                table: Mutex::default(),
                leftovers: Arc::new(Semaphore::new(MAX_LEFTOVERS)),
            }),
        }
    }

    /// Runs a command whose output is streamed.
    ///
    /// # Errors
    ///
    /// It could not be started, and is not remembered.
    pub async fn start(&self, request: Request) -> Result<Running, StartError> {
        let id = super::random_id();
        let begun = Instant::now();
        let started = match self.spawn(&request, Wiring::Separate).await {
            Ok(started) => started,
            Err(cause) => {
                self.refused(&id, &request, begun);
                return Err(StartError { id, cause });
            }
        };
        CommandStarted.emit(&self.shared.engine.observer);
        let (sender, events) = smol::channel::bounded(QUEUED_OUTPUT);
        let execution = self.enter(&id, request, begun, None);
        let commands = self.clone();
        let task = async move {
            let mut sink = Client(sender.clone());
            let (outcome, pipes) = commands.run(execution, started, &mut sink).await;
            commands.follow(pipes, Discard);
            // A client that is gone wants no end either.
            let _ = sender.send(Event::End(outcome)).await;
        };
        self.shared.engine.spawner.spawn(task).detach();
        Ok(Running { id, events })
    }

    /// Runs a command whose output is kept, and returns its id.
    ///
    /// # Errors
    ///
    /// It could not be started; that is remembered under the id.
    pub async fn start_background(&self, request: Request) -> Result<String, StartError> {
        let id = super::random_id();
        let begun = Instant::now();
        let log = Arc::new(Log::new());
        let started = match self.spawn(&request, Wiring::Combined).await {
            Ok(started) => started,
            Err(cause) => {
                self.refused(&id, &request, begun);
                let execution = self.enter(&id, request, begun, Some(log));
                let finished = Finished {
                    at: SystemTime::now(),
                    exit_code: 255,
                    error: Some(cause.to_string()),
                };
                self.finish(&execution, finished);
                return Err(StartError { id, cause });
            }
        };
        CommandStarted.emit(&self.shared.engine.observer);
        let execution = self.enter(&id, request, begun, Some(log.clone()));
        let commands = self.clone();
        let task = async move {
            let mut sink = Kept {
                log,
                engine: commands.shared.engine.clone(),
            };
            let (_, pipes) = commands.run(execution, started, &mut sink).await;
            commands.follow(pipes, sink);
        };
        self.shared.engine.spawner.spawn(task).detach();
        Ok(id)
    }

    /// What is known of a command.
    #[must_use]
    pub fn status(&self, id: &str) -> Option<Status> {
        let entry = self.table().entries.get(id)?.clone();
        let finished = entry.finished().clone();
        Some(Status {
            id: id.to_owned(),
            command: entry.command.clone(),
            started: entry.started,
            finished,
        })
    }

    /// The offsets of what is kept of a background command's output from byte `cursor` on.
    ///
    /// # Errors
    ///
    /// There is no such log.
    pub fn log_extent(&self, id: &str, cursor: u64) -> Result<std::ops::Range<u64>, LogError> {
        Ok(self.log(id)?.extent(cursor))
    }

    /// At most `limit` bytes of a background command's output from byte `cursor`, and where they
    /// begin: later than asked for when output that old is no longer kept.
    ///
    /// # Errors
    ///
    /// There is no such log, or its file failed.
    pub async fn read_log(
        &self,
        id: &str,
        cursor: u64,
        limit: usize,
    ) -> Result<(u64, Vec<u8>), LogError> {
        let log = self.log(id)?;
        let read = if log.blocks(0) {
            let spawner = &self.shared.engine.spawner;
            spawner.unblock(move || log.read(cursor, limit)).await
        } else {
            log.read(cursor, limit)
        };
        read.map_err(|cause| LogError::Read {
            id: id.to_owned(),
            cause,
        })
    }

    fn log(&self, id: &str) -> Result<Arc<Log>, LogError> {
        let entry = self.table().entries.get(id).cloned();
        let entry = entry.ok_or_else(|| LogError::Unknown(id.to_owned()))?;
        let log = entry.log.clone();
        log.ok_or_else(|| LogError::Foreground(id.to_owned()))
    }

    /// Ends a command and everything in its session, and waits until it has ended, or as good as.
    ///
    /// # Errors
    ///
    /// There is nothing to end.
    pub async fn interrupt(&self, id: &str) -> Result<(), InterruptError> {
        let entry = self.table().entries.get(id).cloned();
        let entry = entry.ok_or(InterruptError::Unknown)?;
        if entry.finished().is_some() {
            return Err(InterruptError::NotRunning(id.to_owned()));
        }
        entry.interrupt.close();
        let ended = async {
            // Nothing is ever sent.
            let _ = entry.ended.recv().await;
        };
        let patience = async {
            Timer::after(terminate::GRACE + INTERRUPT_SLACK).await;
        };
        ended.or(patience).await;
        Ok(())
    }

    /// Ends every command that runs, as at the end of the daemon.
    pub async fn interrupt_all(&self) {
        let running: Vec<_> = {
            let table = self.table();
            let entries = table.entries.values();
            entries
                .filter(|entry| entry.finished().is_none())
                .cloned()
                .collect()
        };
        for entry in &running {
            entry.interrupt.close();
        }
        for entry in running {
            // Nothing is ever sent.
            let _ = entry.ended.recv().await;
        }
    }

    /// How many commands run.
    #[must_use]
    pub fn running(&self) -> usize {
        self.table().running
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.shared
            .table
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    async fn spawn(&self, request: &Request, wiring: Wiring) -> Result<Started, StartCause> {
        if self.table().running >= MAX_RUNNING {
            return Err(StartCause::TooMany);
        }
        let engine = self.shared.engine.clone();
        if request.directory.is_none() {
            return Ok(Started::new(&engine, request, wiring)?);
        }
        // Entering a directory of a file system that hangs would hang the executor.
        let request = request.clone();
        let spawner = engine.spawner.clone();
        Ok(spawner
            .unblock(move || Started::new(&engine, &request, wiring))
            .await?)
    }

    fn refused(&self, id: &str, request: &Request, begun: Instant) {
        let event = Execution {
            operation: Operation::RunCommand,
            id,
            command: &request.command,
            exit_code: None,
            reason: Reason::SpawnFailed,
            elapsed: begun.elapsed(),
            usage: None,
        };
        event.emit(&self.shared.engine.observer, &request.logger);
    }

    /// Enters a command into the table.
    fn enter(
        &self,
        id: &str,
        request: Request,
        begun: Instant,
        log: Option<Arc<Log>>,
    ) -> ExecutionState {
        let (interrupt, interrupted) = smol::channel::bounded(1);
        let (ending, ended) = smol::channel::bounded(1);
        let entry = Arc::new(Entry {
            command: request.command.into(),
            started: SystemTime::now(),
            log,
            finished: Mutex::new(None),
            interrupt,
            ended,
        });
        let mut table = self.table();
        table.entries.insert(id.to_owned(), entry.clone());
        table.running += 1;
        ExecutionState {
            id: id.to_owned(),
            entry,
            begun,
            timeout: request.timeout,
            logger: request.logger,
            interrupted,
            ending,
        }
    }

    /// Sees a command through to its end.
    async fn run(
        &self,
        execution: ExecutionState,
        mut started: Started,
        sink: &mut impl Sink,
    ) -> (Outcome, Pipes) {
        let observer = self.shared.engine.observer.clone();
        let (shell_ended, shell_end) = smol::channel::bounded(1);
        let watch = async {
            let (ended, reason) = watch(&started.shell, &execution).await;
            let outcome = Outcome {
                exit: ended.map_or(Exit::Code(1), |ended| ended.exit),
                reason,
                elapsed: execution.begun.elapsed(),
            };
            // What it wrote is in the pipe by now.
            shell_ended.close();
            CommandEnded.emit(&observer);
            let event = Execution {
                operation: Operation::RunCommand,
                id: &execution.id,
                command: &execution.entry.command,
                exit_code: Some(outcome.code()),
                reason,
                elapsed: outcome.elapsed,
                usage: ended.map(|ended| ended.usage),
            };
            event.emit(&observer, &execution.logger);
            self.finish(
                &execution,
                Finished {
                    at: SystemTime::now(),
                    exit_code: outcome.code(),
                    error: (!outcome.is_success()).then(|| outcome.traceback().join(", ")),
                },
            );
            outcome
        };
        let (outcome, ()) = future::zip(watch, started.pipes.until(&shell_end, sink)).await;
        (outcome, started.pipes)
    }

    /// Remembers the end of a command, and forgets the oldest ones beyond the limits.
    fn finish(&self, execution: &ExecutionState, finished: Finished) {
        *execution.entry.finished() = Some(finished);
        let mut table = self.table();
        table.running -= 1;
        let retained = execution.entry.retained();
        table.retained += retained;
        table.finished.push_back((execution.id.clone(), retained));
        while table.finished.len() > MAX_FINISHED
            || (table.retained > MAX_RETAINED && table.finished.len() > 1)
        {
            let Some((oldest, retained)) = table.finished.pop_front() else {
                break;
            };
            table.entries.remove(&oldest);
            table.retained -= retained;
        }
        drop(table);
        execution.ending.close();
    }

    /// Goes on reading what a shell's descendants write.
    fn follow(&self, pipes: Pipes, sink: impl Sink + 'static) {
        if pipes.at_end() {
            return;
        }
        let Some(permit) = self.shared.leftovers.try_acquire_arc() else {
            return;
        };
        let task = async move {
            pipes.follow(sink).await;
            drop(permit);
        };
        self.shared.engine.spawner.spawn(task).detach();
    }
}

/// What accompanies a command from its start to its end.
struct ExecutionState {
    id: String,
    entry: Arc<Entry>,
    begun: Instant,
    timeout: Option<Duration>,
    logger: slog::Logger,
    interrupted: Receiver<()>,
    ending: Sender<()>,
}

/// Waits for the end of a shell, or brings it about. No status is the sign of an error that leaves
/// it unknown.
async fn watch(shell: &Child, execution: &ExecutionState) -> (Option<Ended>, Reason) {
    let ended = async {
        let _ = shell.exited().await;
        None
    };
    let timeout = async {
        match execution.timeout {
            Some(timeout) => Timer::after(timeout.saturating_sub(execution.begun.elapsed())).await,
            None => future::pending().await,
        };
        Some(Reason::Timeout)
    };
    let interrupt = async {
        let _ = execution.interrupted.recv().await;
        Some(Reason::Interrupt)
    };
    let cut = ended.or(interrupt).or(timeout).await;
    if cut.is_some() {
        terminate::session(shell, Manner::COMMAND).await;
    }
    let ended = shell.wait().await.ok();
    let by_itself = match ended.map(|ended| ended.exit) {
        Some(Exit::Signal { .. }) => Reason::Signal,
        _ => Reason::Exit,
    };
    (ended, cut.unwrap_or(by_itself))
}

/// How a command's output is wired.
#[derive(Clone, Copy)]
enum Wiring {
    /// Two pipes.
    Separate,
    /// One pipe for both streams, in which their order is exact.
    Combined,
}

/// A shell that runs, and what it writes to.
struct Started {
    shell: Child,
    pipes: Pipes,
}

impl Started {
    fn new(engine: &Engine, request: &Request, wiring: Wiring) -> Result<Self, SpawnError> {
        let program = find_shell(&engine.environment)?;
        let input = null().map_err(SpawnError::descriptors("open /dev/null"))?;
        let make = || pipe().map_err(SpawnError::descriptors("pipe"));
        let (output, child_output) = make()?;
        let (error, child_error): (Option<Async<OwnedFd>>, Option<OwnedFd>) = match wiring {
            Wiring::Separate => make().map(|(read, write)| (Some(read), Some(write)))?,
            Wiring::Combined => (None, None),
        };
        let name = program.file_name().unwrap_or(OsStr::new("sh"));
        let shell = engine.children.spawn(&Spec {
            program: &program,
            arguments: &[name, OsStr::new("-c"), OsStr::new(&request.command)],
            environment: &request.environment,
            directory: request.directory.as_deref(),
            credentials: request.credentials.as_ref(),
            descriptors: &[
                input.as_fd(),
                child_output.as_fd(),
                child_error.as_ref().unwrap_or(&child_output).as_fd(),
            ],
            terminal: false,
        })?;
        let output = (Stream::Stdout, output);
        let error = error.map(|pipe| (Stream::Stderr, pipe));
        Ok(Self {
            shell,
            pipes: Pipes::new([output].into_iter().chain(error)),
        })
    }
}

/// An input that has nothing.
pub(super) fn null() -> std::io::Result<std::fs::File> {
    std::fs::File::open("/dev/null")
}

/// Hands output to a client, at the client's pace for as long as it listens.
struct Client(Sender<Event>);

impl Sink for Client {
    async fn take(&mut self, stream: Stream, bytes: Bytes) {
        // The error says that the client is gone: the command runs on unheard.
        let _ = self.0.send(Event::Output(stream, bytes)).await;
    }
}

/// Keeps output in a log.
struct Kept {
    log: Arc<Log>,
    engine: Engine,
}

impl Sink for Kept {
    async fn take(&mut self, _: Stream, bytes: Bytes) {
        if self.log.blocks(bytes.len()) {
            let (log, directory) = (self.log.clone(), self.engine.temporary.clone());
            let append = move || log.append(&bytes, &directory);
            self.engine.spawner.unblock(append).await;
        } else {
            self.log.append(&bytes, &self.engine.temporary);
        }
    }
}
