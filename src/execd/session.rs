//! Sessions: persistent shells, to which clients send one text after another.
//!
//! What a text does to its shell is there for the next one: variables with their exact values,
//! exported or not, functions, aliases, options, the directory, jobs in the background. A shell
//! that ends (`exit`, `exec`, a timeout, an interrupt) is replaced, as it was before the text that
//! ended it, when the next text comes; what earlier texts left running goes on.
//!
//! The shell speaks with the daemon over descriptors of their own (`session/driver.sh`), so nothing
//! a text writes can be mistaken for anything but output.

mod shell;

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use smol::Timer;
use smol::channel::{Receiver, Sender};
use smol::future::{self, FutureExt};

use super::command::{Event, Outcome};
use super::environment::Environment;
use super::events::{Execution, Reason};
use super::metrics::Operation;
use super::pump::{Discard, Sink, Stream};
use super::ring::Ring;
use super::spawn::{Exit, SpawnError};
use super::terminate::{self, Manner};
use super::{Engine, processes};
use shell::{Shell, quote};

/// The most sessions there are at once.
pub const MAX_SESSIONS: usize = 1024;

/// The most texts of one session that wait for their turn.
pub const QUEUED_RUNS: usize = 64;

/// The most pieces of output, of at most 64 KiB each, that wait for a client.
pub const QUEUED_OUTPUT: usize = 4;

/// The most bytes kept of what background jobs write between two runs; the next run begins with
/// them.
pub const BETWEEN_RUNS: usize = 64 * 1024;

/// The most ended shells of one session whose descendants are still ended with it.
pub const FORMER_SHELLS: usize = 64;

/// How long a run may take that sets no limit of its own (contract 8.2).
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

/// How long a process that a run has just started, that outlives it and that reads from a pipe is
/// given for the last of its output: that of `> >(tee log)` writes after the text has ended.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How long it is waited for a fork of the shell to become such a process.
const FIRST_STEPS: Duration = Duration::from_millis(50);

/// How often it is looked whether they have ended.
const LOOK: Duration = Duration::from_millis(2);

/// How long a shell may take for its own bookkeeping.
const BOOKKEEPING: Duration = Duration::from_secs(10);

/// How long a deletion waits, beyond the grace period, for the end of what it has killed.
const DELETE_SLACK: Duration = Duration::from_millis(200);

/// What to run in a session.
#[derive(Clone, Debug)]
pub struct Run {
    /// The text.
    pub command: String,
    /// Where; becomes the session's directory. Where the text before left it when absent.
    pub directory: Option<PathBuf>,
    /// Variables to export, or to remove, before it.
    pub variables: Vec<(String, Option<String>)>,
    /// How long it may take; [`DEFAULT_TIMEOUT`] when absent.
    pub timeout: Option<Duration>,
    /// Where its record goes; carries the trace context of the request.
    pub logger: slog::Logger,
}

/// A session that cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("there are {MAX_SESSIONS} sessions: delete one")]
pub struct TooManySessions;

/// There is no session of that id.
#[derive(Debug, thiserror::Error)]
#[error("session {0} not found")]
pub struct Unknown(pub String);

/// A text that cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// There is no such session, or it was deleted meanwhile.
    #[error("context not found")]
    Unknown,
    /// Too many texts wait already.
    #[error("{QUEUED_RUNS} runs are waiting in this session: wait for one to end")]
    Busy,
    /// A shell cannot be given such a text.
    #[error("the command, its directory or a variable has a NUL byte in it")]
    Nul,
    /// The shell could not be started.
    #[error("start bash: {0}")]
    Start(#[from] SpawnError),
}

/// The sessions of the daemon. Clones share their state.
#[derive(Clone)]
pub struct Sessions {
    engine: Engine,
    table: Arc<Mutex<HashMap<String, Session>>>,
}

/// What the table knows of a session.
#[derive(Clone)]
struct Session {
    jobs: Sender<Job>,
    /// Closed to ask for the end.
    closing: Sender<()>,
    /// Closed at the end.
    closed: Receiver<()>,
    /// Of the text that runs: closed to ask for its end.
    interrupt: Arc<Mutex<Option<Sender<()>>>>,
}

/// A text that waits for its turn, as its client sees it; to drop it is to give the turn up.
#[derive(Debug)]
pub struct Submitted {
    begin: Receiver<Result<(), SpawnError>>,
    events: Receiver<Event>,
}

impl Submitted {
    /// Completes when the text begins, with its output and its end.
    ///
    /// # Errors
    ///
    /// It cannot begin.
    pub async fn begun(self) -> Result<Receiver<Event>, RunError> {
        self.begin.recv().await.map_err(|_| RunError::Unknown)??;
        Ok(self.events)
    }
}

/// A text that waits for its turn.
struct Job {
    run: Run,
    begun: Sender<Result<(), SpawnError>>,
    events: Sender<Event>,
}

impl Sessions {
    /// No sessions yet.
    #[must_use]
    pub fn new(engine: Engine) -> Self {
        Self {
            engine,
            table: Arc::default(),
        }
    }

    /// Makes a session, whose shell starts with its first run, and returns its id.
    ///
    /// # Errors
    ///
    /// There are too many.
    pub fn create(
        &self,
        directory: Option<PathBuf>,
        environment: Environment,
    ) -> Result<String, TooManySessions> {
        let id = super::random_dashed_id();
        let (jobs, queue) = smol::channel::bounded(QUEUED_RUNS);
        let (closing, asked) = smol::channel::bounded(1);
        let (ending, closed) = smol::channel::bounded(1);
        let interrupt = Arc::default();
        let actor = Actor {
            engine: self.engine.clone(),
            id: id.clone(),
            directory,
            environment,
            shell: None,
            state: None,
            between: Ring::new(BETWEEN_RUNS),
            former: Vec::new(),
            closing: asked,
            interrupt: Arc::clone(&interrupt),
        };
        let mut table = self.table();
        if table.len() >= MAX_SESSIONS {
            return Err(TooManySessions);
        }
        table.insert(
            id.clone(),
            Session {
                jobs,
                closing,
                closed,
                interrupt,
            },
        );
        let task = async move {
            actor.serve(queue).await;
            ending.close();
        };
        self.engine.spawner.spawn(task).detach();
        Ok(id)
    }

    /// Runs a text when those before it have ended. Completes when it begins, with its output and
    /// its end; to drop them is to end it.
    ///
    /// # Errors
    ///
    /// It cannot begin.
    pub async fn run(&self, id: &str, run: Run) -> Result<Receiver<Event>, RunError> {
        self.submit(id, run)?.begun().await
    }

    /// Lets a text wait for its turn.
    ///
    /// # Errors
    ///
    /// It will never have one.
    pub fn submit(&self, id: &str, run: Run) -> Result<Submitted, RunError> {
        let session = self.table().get(id).cloned().ok_or(RunError::Unknown)?;
        let directory = run.directory.as_ref().map(|path| path.as_os_str());
        let variables = run.variables.iter();
        if run.command.contains('\0')
            || directory.is_some_and(|path| path.as_encoded_bytes().contains(&0))
            || variables
                .flat_map(|(name, value)| [Some(name), value.as_ref()])
                .flatten()
                .any(|text| text.contains('\0'))
        {
            return Err(RunError::Nul);
        }
        let (begun, begin) = smol::channel::bounded(1);
        let (events, stream) = smol::channel::bounded(QUEUED_OUTPUT);
        let job = Job { run, begun, events };
        session.jobs.try_send(job).map_err(|error| match error {
            smol::channel::TrySendError::Full(_) => RunError::Busy,
            smol::channel::TrySendError::Closed(_) => RunError::Unknown,
        })?;
        Ok(Submitted {
            begin,
            events: stream,
        })
    }

    /// Ends the text that runs; the session stays. Says whether one was running.
    ///
    /// # Errors
    ///
    /// There is no such session.
    pub fn interrupt(&self, id: &str) -> Result<bool, Unknown> {
        let session = self.table().get(id).cloned();
        let session = session.ok_or_else(|| Unknown(id.to_owned()))?;
        let current = lock(&session.interrupt).take();
        Ok(current.is_some_and(|interrupt| interrupt.close()))
    }

    /// Ends a session with everything in it, and waits until that has ended, or as good as.
    ///
    /// # Errors
    ///
    /// There is no such session.
    pub async fn delete(&self, id: &str) -> Result<(), Unknown> {
        let session = self.table().remove(id);
        let session = session.ok_or_else(|| Unknown(id.to_owned()))?;
        session.close().await;
        Ok(())
    }

    /// Ends every session, as at the end of the daemon.
    pub async fn delete_all(&self) {
        let sessions: Vec<_> = self.table().drain().map(|(_, session)| session).collect();
        for session in &sessions {
            session.ask_to_end();
        }
        for session in &sessions {
            session.close().await;
        }
    }

    /// Whether there is such a session.
    #[must_use]
    pub fn contains(&self, id: &str) -> bool {
        self.table().contains_key(id)
    }

    fn table(&self) -> MutexGuard<'_, HashMap<String, Session>> {
        lock(&self.table)
    }
}

/// Locks what is whole even after a panic: every change is a single step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Session {
    /// Takes no more texts, and ends the one that runs.
    fn ask_to_end(&self) {
        self.jobs.close();
        self.closing.close();
    }

    async fn close(&self) {
        self.ask_to_end();
        let closed = async {
            // Nothing is ever sent.
            let _ = self.closed.recv().await;
        };
        let patience = async {
            Timer::after(terminate::GRACE + DELETE_SLACK).await;
        };
        closed.or(patience).await;
    }
}

/// What runs the texts of one session, one after another.
struct Actor {
    engine: Engine,
    id: String,
    directory: Option<PathBuf>,
    environment: Environment,
    shell: Option<Shell>,
    /// What restores the shell as the last text left it that did not end it.
    state: Option<Vec<u8>>,
    /// What was written since the last run.
    between: Ring,
    /// The kernel's sessions of earlier shells in which something may still run.
    former: Vec<u32>,
    closing: Receiver<()>,
    interrupt: Arc<Mutex<Option<Sender<()>>>>,
}

/// Why a run ended.
enum End {
    /// The text came to its end.
    Answer(i32),
    /// The shell did, with it.
    Shell,
    /// It was cut short.
    Cut(Reason),
}

impl Actor {
    async fn serve(mut self, queue: Receiver<Job>) {
        while let Some(job) = self.next(&queue).await {
            // The client of a text that has waited may be gone.
            if !job.events.is_closed() {
                self.serve_one(job).await;
            }
        }
        if let Some(shell) = self.shell.take() {
            terminate::session(&shell.child, Manner::COMMAND).await;
            // The error is that of a process which is gone.
            let _ = shell.child.wait().await;
        }
        terminate::leaderless(&self.former).await;
    }

    /// Waits for the next text; meanwhile reads what jobs in the background write.
    async fn next(&mut self, queue: &Receiver<Job>) -> Option<Job> {
        let next = async { queue.recv().await.ok() };
        let closing = async {
            // Nothing is ever sent.
            let _ = self.closing.recv().await;
            // Those who wait for their turn learn that it will not come.
            while queue.try_recv().is_ok() {}
            None
        };
        let Some(shell) = &mut self.shell else {
            return closing.or(next).await;
        };
        let (_never, open) = smol::channel::bounded(1);
        let between = async {
            shell.output.until(&open, &mut self.between).await;
            None
        };
        closing.or(next).or(between).await
    }

    async fn serve_one(&mut self, job: Job) {
        let Job { run, begun, events } = job;
        let start = Instant::now();
        if let Err(error) = self.ensure_shell().await {
            self.record(&run, start, None, Reason::SpawnFailed);
            // The error says that the client is gone.
            let _ = begun.send(Err(error)).await;
            return;
        }
        let Some(mut shell) = self.shell.take() else {
            return;
        };
        let (interrupt, interrupted) = smol::channel::bounded(1);
        *lock(&self.interrupt) = Some(interrupt);
        let _ = begun.send(Ok(())).await;
        let mut client = Client(&events);
        let (_, waiting) = self.between.read(0, BETWEEN_RUNS);
        if !waiting.is_empty() {
            self.between = Ring::new(BETWEEN_RUNS);
            client.take(Stream::Stdout, waiting.into()).await;
        }

        let since = processes::ticks_now();
        let (output_ended, output_end) = smol::channel::bounded(1);
        let watch = async {
            let prepare = prepare(&run);
            let answer = async {
                match shell.control.run(&prepare, run.command.as_bytes()).await {
                    Some(code) => End::Answer(code),
                    // The shell has ended, or has become another program that will.
                    None => future::pending().await,
                }
            };
            let ended = async {
                let _ = shell.child.exited().await;
                End::Shell
            };
            let end = answer
                .or(ended)
                .or(cut(Reason::Interrupt, self.closing.recv()))
                .or(cut(Reason::Interrupt, interrupted.recv()))
                .or(cut(Reason::Interrupt, events.closed()))
                .or(cut(
                    Reason::Timeout,
                    Timer::after(run.timeout.unwrap_or(DEFAULT_TIMEOUT)),
                ))
                .await;
            match end {
                End::Answer(_) => last_words(shell.child.id(), since).await,
                End::Shell => {}
                End::Cut(_) if self.closing.is_closed() => {
                    terminate::session(&shell.child, Manner::COMMAND).await;
                }
                End::Cut(_) => terminate::since(&shell.child, since).await,
            }
            output_ended.close();
            end
        };
        let (end, ()) = future::zip(watch, shell.output.until(&output_end, &mut client)).await;

        lock(&self.interrupt).take();
        let (exit, reason) = match end {
            End::Answer(code) => (Exit::Code(code), Reason::Exit),
            End::Shell | End::Cut(_) => {
                let ended = shell.child.wait().await.ok();
                let exit = ended.map_or(Exit::Code(1), |ended| ended.exit);
                let reason = match (&end, exit) {
                    (End::Cut(reason), _) => *reason,
                    (_, Exit::Signal { .. }) => Reason::Signal,
                    _ => Reason::Exit,
                };
                (exit, reason)
            }
        };
        let outcome = Outcome {
            exit,
            reason,
            elapsed: start.elapsed(),
        };
        self.record(&run, start, Some(outcome.code()), reason);
        // The error says that the client is gone.
        let _ = events.send(Event::End(outcome)).await;
        if matches!(end, End::Answer(_)) {
            self.keep(shell).await;
        } else {
            self.leave(shell);
        }
    }

    /// Takes the state of a shell that has come to the end of a text, and keeps the shell.
    async fn keep(&mut self, mut shell: Shell) {
        let state = shell.control.state();
        match within_bookkeeping(&mut shell.output, &mut self.between, state).await {
            Some(state) => {
                // A state that is too long leaves the one before in place.
                self.state = state.or(self.state.take());
                self.shell = Some(shell);
            }
            None => {
                terminate::since(&shell.child, u64::MAX).await;
                // The error is that of a process which is gone.
                let _ = shell.child.wait().await;
                self.leave(shell);
            }
        }
    }

    /// Remembers that descendants of an ended shell may go on, and goes on reading what they write.
    fn leave(&mut self, shell: Shell) {
        self.former
            .retain(|session| !processes::of_session(*session).is_empty());
        self.former.truncate(FORMER_SHELLS - 1);
        self.former.push(shell.child.id());
        if !shell.output.at_end() {
            self.engine
                .spawner
                .spawn(shell.output.follow(Discard))
                .detach();
        }
    }

    /// Sees to it that there is a shell, as the last text left it.
    async fn ensure_shell(&mut self) -> Result<(), SpawnError> {
        if let Some(shell) = self.shell.take() {
            if matches!(shell.child.collect(), Ok(None)) {
                self.shell = Some(shell);
                return Ok(());
            }
            self.leave(shell);
        }
        let mut shell = self.start().await?;
        if let Some(state) = &self.state {
            let mut restore = b"builtin eval ".to_vec();
            quote(state, &mut restore);
            restore.extend_from_slice(b" >/dev/null 2>&1");
            let restored = async {
                shell.control.run(b":", &restore).await?;
                shell.control.state().await
            };
            let done = within_bookkeeping(&mut shell.output, &mut Discard, restored).await;
            if done.is_none() {
                // Its state ends it, such as one whose directory is on a file system that hangs.
                self.state = None;
                terminate::session(&shell.child, Manner::COMMAND).await;
                let _ = shell.child.wait().await;
                self.leave(shell);
                shell = self.start().await?;
            }
        }
        self.shell = Some(shell);
        Ok(())
    }

    async fn start(&self) -> Result<Shell, SpawnError> {
        let engine = self.engine.clone();
        let environment = self.environment.clone();
        // The state brings its own directory; the first one may be gone by then.
        let directory = self.directory.clone().filter(|_| self.state.is_none());
        self.engine
            .spawner
            .unblock(move || Shell::start(&engine, &environment, directory.as_deref()))
            .await
    }

    fn record(&self, run: &Run, start: Instant, exit_code: Option<i32>, reason: Reason) {
        let event = Execution {
            operation: Operation::RunInSession,
            id: &self.id,
            command: &run.command,
            exit_code,
            reason,
            elapsed: start.elapsed(),
            usage: None,
        };
        event.emit(&self.engine.observer, &run.logger);
    }
}

/// The end of a run that something else brings about.
async fn cut<T>(reason: Reason, cause: impl Future<Output = T>) -> End {
    let _ = cause.await;
    End::Cut(reason)
}

/// Lets a shell do its bookkeeping while its output is read; none if it does not come to an end.
async fn within_bookkeeping<T>(
    output: &mut super::pump::Pipes,
    sink: &mut impl Sink,
    work: impl Future<Output = Option<T>>,
) -> Option<T> {
    let (_never, open) = smol::channel::bounded(1);
    let read = async {
        output.until(&open, sink).await;
        None
    };
    let late = async {
        Timer::after(BOOKKEEPING).await;
        None
    };
    work.or(late).or(read).await
}

/// Waits a little for processes that take what a run has written and write it for it. Jobs in the
/// background do not: their input is `/dev/null`.
async fn last_words(shell: u32, since: u64) {
    let begin = Instant::now();
    let is_awaited = |child: u32| match begin.elapsed() {
        elapsed if elapsed >= LAST_WORDS => false,
        elapsed if elapsed < FIRST_STEPS && processes::is_fork_of(child, shell) => true,
        _ => processes::reads_a_pipe(child),
    };
    while processes::children(shell)
        .iter()
        .any(|child| child.started >= since && is_awaited(child.pid))
    {
        Timer::after(LOOK).await;
    }
}

/// What the shell does before a text: variables and the directory.
fn prepare(run: &Run) -> Vec<u8> {
    let mut text = Vec::new();
    for (name, value) in &run.variables {
        match value {
            Some(value) => {
                text.extend_from_slice(b"builtin export ");
                quote(format!("{name}={value}").as_bytes(), &mut text);
            }
            None => {
                text.extend_from_slice(b"builtin unset ");
                quote(name.as_bytes(), &mut text);
            }
        }
        text.extend_from_slice(b"; ");
    }
    match &run.directory {
        // Not by way of CDPATH, which would print it, too.
        Some(directory) => {
            text.extend_from_slice(b"CDPATH= builtin cd -- ");
            quote(directory.as_os_str().as_bytes(), &mut text);
        }
        None => text.push(b':'),
    }
    text
}

/// Hands output to the client of a run, at the client's pace for as long as it listens.
struct Client<'a>(&'a Sender<Event>);

impl Sink for Client<'_> {
    async fn take(&mut self, stream: Stream, bytes: Bytes) {
        // The error says that the client is gone, which ends the run.
        let _ = self.0.send(Event::Output(stream, bytes)).await;
    }
}

impl Sink for Ring {
    async fn take(&mut self, _: Stream, bytes: Bytes) {
        self.write(&bytes);
    }
}
