//! Terminals: an interactive shell each, that clients attach to and leave.
//!
//! Output goes into a bounded window on the end of everything the terminal has ever shown; each
//! viewer is a position in it. So attaching loses and repeats no byte, a slow viewer costs no
//! memory and stops nobody, and one that has fallen out of the window is caught up from its edge.
//! The one viewer that holds the lease also types. The shell is slowed down to its pace, as a
//! terminal does, for as long as it takes anything at all.

mod terminal;

use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use event_listener::Event;
use rustix::process::Signal;
use smol::future::{self, FutureExt};
use smol::{Async, Timer};

use super::Engine;
use super::environment::Environment;
use super::events::{Execution, PtyEnded, PtyStarted, Reason};
use super::metrics::Operation;
pub use super::pump::Stream;
use super::pump::{Discard, Sink};
use super::ring::Ring;
use super::spawn::{Child, Exit, Scope, SpawnError, Target, kill};
use super::terminate::{self, Manner};

/// The most terminals there are at once.
pub const MAX_TERMINALS: usize = 256;

/// The most viewers of one terminal.
pub const MAX_VIEWERS: usize = 16;

/// The most bytes of output kept for those who attach later.
pub const REPLAY: usize = 1024 * 1024;

/// The most bytes handed to a viewer at once.
pub const MAX_CHUNK: usize = 32 * 1024;

/// How far the viewer with the lease may be behind before the shell waits for it.
pub const PACE: u64 = REPLAY as u64 / 2;

/// How long the shell waits for a viewer that takes nothing.
pub const STALL: Duration = Duration::from_secs(1);

/// How long a terminal without a shell and without viewers stays.
pub const IDLE: Duration = Duration::from_secs(60 * 60);

/// How often idle terminals are looked for.
const IDLE_LOOK: Duration = Duration::from_secs(60);

/// How long a deletion waits for the end of what it has killed.
const DELETE_PATIENCE: Duration = Duration::from_millis(2500);

/// What a shell runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A pseudo-terminal: interactive, with echo and job control.
    Pty,
    /// Three pipes, with standard error apart.
    Pipe,
}

/// A terminal to be made.
#[derive(Clone, Debug)]
pub struct Request {
    /// Where its shell starts; in the daemon's own directory when absent.
    pub directory: Option<PathBuf>,
    /// What the shell runs; it is interactive when absent.
    pub command: Option<String>,
    /// Its whole environment.
    pub environment: Environment,
    /// Where its records go.
    pub logger: slog::Logger,
}

/// What is known of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// What its shell runs on, while it runs.
    pub running: Option<Mode>,
    /// How many bytes it has ever shown.
    pub output_offset: u64,
    /// How its last shell ended, -1 for a signal; none while one runs or before the first.
    pub exit_code: Option<i32>,
}

/// A terminal that cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("there are {MAX_TERMINALS} terminals: delete one")]
pub struct TooMany;

/// There is no terminal of that id.
#[derive(Debug, thiserror::Error)]
#[error("pty session {0} not found")]
pub struct Unknown(pub String);

/// A terminal that cannot be attached to.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// There is none of that id.
    #[error(transparent)]
    Unknown(#[from] Unknown),
    /// Another client holds the lease, and was not to be driven out.
    #[error("another client is already connected to pty session {0}")]
    AlreadyConnected(String),
    /// There are too many viewers.
    #[error("{MAX_VIEWERS} clients are connected: close one")]
    TooManyViewers,
}

/// What a client wants to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The one that types.
    Writer {
        /// Whether it takes the lease from another.
        takeover: bool,
    },
    /// One that looks on.
    Observer,
}

/// The shell of a terminal, as somebody who attaches finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Started {
    /// What it runs on; `None` if it has ended and was left at that.
    pub mode: Option<Mode>,
    /// How the one before it ended, when it had to be started for that reason.
    pub replaced: Option<i32>,
}

/// What a viewer is told next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Update {
    /// Output that follows what it was told before.
    Output(Stream, Bytes),
    /// It has fallen out of the window, and goes on at its edge.
    CaughtUp {
        /// The offset of the first of the bytes.
        offset: u64,
        /// All that is kept.
        bytes: Bytes,
    },
    /// The shell has ended, and all of its output was told.
    Exit(i32),
    /// Another client has the lease.
    TakenOver,
}

/// Input that could not be given to the shell.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// The client does not hold the lease.
    #[error("another client is connected")]
    NotTheWriter,
    /// There is no shell.
    #[error("the shell has ended")]
    NotRunning,
    /// The descriptor failed.
    #[error("write {0}")]
    Write(io::Error),
}

/// The terminals of the daemon. Clones share their state.
#[derive(Clone)]
pub struct Terminals {
    engine: Engine,
    table: Arc<Mutex<HashMap<String, Arc<Terminal>>>>,
}

struct Terminal {
    id: String,
    request: Request,
    state: Mutex<State>,
    /// Told of every change viewers may wait for.
    changed: Event,
    /// Told when a viewer has taken something or left.
    taken: Event,
    /// Held while a shell is started.
    starting: smol::lock::Mutex<()>,
}

struct State {
    output: Ring,
    /// Where the stream changes: offsets with what begins there, ascending.
    streams: VecDeque<(u64, Stream)>,
    shell: Option<Shell>,
    /// How the last shell ended.
    exit_code: Option<i32>,
    /// Positions of the viewers.
    viewers: HashMap<u64, u64>,
    next_viewer: u64,
    /// Which viewer types.
    writer: Option<u64>,
    /// The writer took nothing for so long that it is not waited for until it is near the end.
    stalled: bool,
    /// When a viewer or a shell was last there.
    used: Instant,
    deleted: bool,
}

/// A shell that runs.
#[derive(Clone)]
struct Shell {
    child: Arc<Child>,
    input: Arc<Async<OwnedFd>>,
    mode: Mode,
}

impl Shell {
    fn offer(&self, bytes: &[u8]) -> Result<usize, InputError> {
        loop {
            match rustix::io::write(self.input.get_ref(), bytes) {
                Ok(taken) => return Ok(taken),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return Ok(0),
                Err(error) => return Err(InputError::Write(error.into())),
            }
        }
    }

    /// Waits until it may take some more.
    async fn ready_for_input(&self) -> Result<(), InputError> {
        poll_fn(|context| self.input.poll_writable(context))
            .await
            .map_err(InputError::Write)
    }
}

impl Terminals {
    /// No terminals yet.
    #[must_use]
    pub fn new(engine: Engine) -> Self {
        Self {
            engine,
            table: Arc::default(),
        }
    }

    /// Makes a terminal, whose shell starts when somebody attaches, and returns its id.
    ///
    /// # Errors
    ///
    /// There are too many.
    pub fn create(&self, request: Request) -> Result<String, TooMany> {
        let id = super::random_dashed_id();
        let terminal = Terminal {
            id: id.clone(),
            request,
            state: Mutex::new(State {
                output: Ring::new(REPLAY),
                streams: VecDeque::new(),
                shell: None,
                exit_code: None,
                viewers: HashMap::new(),
                next_viewer: 0,
                writer: None,
                stalled: false,
                used: Instant::now(),
                deleted: false,
            }),
            changed: Event::new(),
            taken: Event::new(),
            starting: smol::lock::Mutex::new(()),
        };
        let mut table = lock(&self.table);
        if table.len() >= MAX_TERMINALS {
            return Err(TooMany);
        }
        table.insert(id.clone(), Arc::new(terminal));
        Ok(id)
    }

    /// What is known of a terminal.
    #[must_use]
    pub fn status(&self, id: &str) -> Option<Status> {
        let terminal = lock(&self.table).get(id)?.clone();
        let state = terminal.state();
        Some(Status {
            running: state.shell.as_ref().map(|shell| shell.mode),
            output_offset: state.output.total(),
            exit_code: state.exit_code,
        })
    }

    /// Becomes a viewer of a terminal, at offset `since` of its output: earlier than what is kept
    /// means from its beginning, later than its end means from there.
    ///
    /// # Errors
    ///
    /// There is no such terminal, or no room.
    pub fn attach(&self, id: &str, role: Role, since: u64) -> Result<Viewer, AttachError> {
        let terminal = lock(&self.table).get(id).cloned();
        let terminal = terminal.ok_or_else(|| Unknown(id.to_owned()))?;
        let mut state = terminal.state();
        if state.deleted {
            return Err(Unknown(id.to_owned()).into());
        }
        let key = state.next_viewer;
        if role == (Role::Writer { takeover: false }) && state.writer.is_some() {
            return Err(AttachError::AlreadyConnected(id.to_owned()));
        }
        if state.viewers.len() >= MAX_VIEWERS {
            return Err(AttachError::TooManyViewers);
        }
        state.next_viewer += 1;
        let position = since.min(state.output.total());
        state.viewers.insert(key, position);
        if matches!(role, Role::Writer { .. }) {
            state.writer = Some(key);
            state.stalled = false;
        }
        drop(state);
        terminal.changed.notify(usize::MAX);
        terminal.taken.notify(usize::MAX);
        Ok(Viewer {
            terminal,
            engine: self.engine.clone(),
            key,
            types: matches!(role, Role::Writer { .. }),
        })
    }

    /// Ends a terminal and everything in it, and waits until that has ended, or as good as. Its
    /// viewers are told of the shell's end.
    ///
    /// # Errors
    ///
    /// There is no such terminal.
    pub async fn delete(&self, id: &str) -> Result<(), Unknown> {
        let terminal = lock(&self.table).remove(id);
        let terminal = terminal.ok_or_else(|| Unknown(id.to_owned()))?;
        terminal.end().await;
        Ok(())
    }

    /// Ends every terminal, as at the end of the daemon.
    pub async fn delete_all(&self) {
        let terminals: Vec<_> = lock(&self.table).drain().collect();
        let ends: Vec<_> = terminals
            .into_iter()
            .map(|(_, terminal)| {
                let end = async move { terminal.end().await };
                self.engine.spawner.spawn(end)
            })
            .collect();
        for end in ends {
            end.await;
        }
    }

    /// Forgets terminals that have had neither a shell nor a viewer for `idle`, for as long as it is
    /// polled.
    pub async fn collect_idle(&self, idle: Duration) {
        loop {
            lock(&self.table).retain(|_, terminal| {
                let mut state = terminal.state();
                let in_use = state.shell.is_some() || !state.viewers.is_empty();
                state.deleted = !in_use && state.used.elapsed() >= idle;
                !state.deleted
            });
            Timer::after(IDLE_LOOK.min(idle)).await;
        }
    }
}

impl Terminal {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    async fn end(&self) {
        let shell = {
            let mut state = self.state();
            // A shell that is just being started sees it, and goes no further.
            state.deleted = true;
            state.shell.clone()
        };
        self.changed.notify(usize::MAX);
        let Some(shell) = shell else { return };
        let ended = terminate::session(&shell.child, Manner::TERMINAL);
        let patience = async {
            Timer::after(DELETE_PATIENCE).await;
        };
        ended.or(patience).await;
    }

    /// Sees a shell through to its end.
    async fn run(
        self: Arc<Self>,
        engine: Engine,
        child: Arc<Child>,
        mut output: super::pump::Pipes,
    ) {
        let begun = Instant::now();
        let (ending, end) = smol::channel::bounded(1);
        let watch = async {
            let ended = child.wait().await.ok();
            ending.close();
            ended
        };
        let mut window = Window(self.clone());
        let (ended, ()) = future::zip(watch, output.until(&end, &mut window)).await;
        let exit = ended.map_or(Exit::Code(1), |ended| ended.exit);
        let mode = {
            let mut state = self.state();
            state.exit_code = Some(exit.code());
            state.used = Instant::now();
            state.shell.take().map(|shell| shell.mode)
        };
        self.changed.notify(usize::MAX);
        PtyEnded.emit(&engine.observer);
        let event = Execution {
            operation: Operation::Pty,
            id: &self.id,
            command: self.request.command.as_deref().unwrap_or_default(),
            exit_code: Some(exit.code()),
            reason: match exit {
                Exit::Code(_) => Reason::Exit,
                Exit::Signal { .. } if self.state().deleted => Reason::Interrupt,
                Exit::Signal { .. } => Reason::Signal,
            },
            elapsed: begun.elapsed(),
            usage: ended.map(|ended| ended.usage),
        };
        event.emit(&engine.observer, &self.request.logger);
        // A terminal hangs up on what is left on it; what is left on pipes goes on.
        if mode == Some(Mode::Pipe) {
            output.follow(Discard).await;
        }
    }
}

/// Puts output into a terminal's window, at the pace of its writer.
struct Window(Arc<Terminal>);

impl Sink for Window {
    async fn take(&mut self, stream: Stream, bytes: Bytes) {
        {
            let mut state = self.0.state();
            let offset = state.output.total();
            if state.streams.back().is_none_or(|(_, last)| *last != stream) {
                state.streams.push_back((offset, stream));
            }
            state.output.write(&bytes);
            // The first mark tells the stream of the oldest byte.
            let oldest = state.output.oldest();
            while state
                .streams
                .get(1)
                .is_some_and(|(from, _)| *from <= oldest)
            {
                state.streams.pop_front();
            }
        }
        self.0.changed.notify(usize::MAX);
        let mut waiting: Option<((u64, u64), Instant)> = None;
        loop {
            let taken = self.0.taken.listen();
            let Some(behind) = self.0.state().behind() else {
                return;
            };
            let since = match waiting {
                Some((before, since)) if before == behind => since,
                _ => Instant::now(),
            };
            waiting = Some((behind, since));
            let patience = STALL.saturating_sub(since.elapsed());
            if patience.is_zero() {
                self.0.state().stalled = true;
                return;
            }
            let stall = async {
                Timer::after(patience).await;
            };
            taken.or(stall).await;
        }
    }
}

impl State {
    /// Where the writer is, if the shell has to wait for it.
    fn behind(&self) -> Option<(u64, u64)> {
        let writer = self.writer.filter(|_| !self.stalled)?;
        let position = *self.viewers.get(&writer)?;
        (self.output.total() - position > PACE).then_some((writer, position))
    }

    /// The stream of the byte at `offset`, and where another one begins.
    fn stream(&self, offset: u64) -> (Stream, u64) {
        let after = self.streams.partition_point(|(from, _)| *from <= offset);
        let stream = after
            .checked_sub(1)
            .and_then(|index| self.streams.get(index));
        (
            stream.map_or(Stream::Stdout, |(_, stream)| *stream),
            self.streams.get(after).map_or(u64::MAX, |(from, _)| *from),
        )
    }
}

/// A client's hold on a terminal; dropping it is to leave.
pub struct Viewer {
    terminal: Arc<Terminal>,
    engine: Engine,
    key: u64,
    types: bool,
}

impl Viewer {
    /// Sees to it that a shell runs: on `mode` if it is started by this. After the end of a shell a
    /// new one is started only if `again`.
    ///
    /// # Errors
    ///
    /// It could not be started.
    pub async fn start(&self, mode: Mode, again: bool) -> Result<Started, StartError> {
        let _starting = self.terminal.starting.lock().await;
        {
            let state = self.terminal.state();
            if state.deleted {
                return Err(StartError::Closing);
            }
            let mode = state.shell.as_ref().map(|shell| shell.mode);
            if mode.is_some() || (state.exit_code.is_some() && !again) {
                return Ok(Started {
                    mode,
                    replaced: None,
                });
            }
        }
        let (terminal, engine) = (self.terminal.clone(), self.engine.clone());
        let start = move || {
            let request = &terminal.request;
            terminal::start(
                &engine,
                mode,
                &request.environment,
                request.directory.as_deref(),
                request.command.as_deref(),
            )
        };
        let started = self.engine.spawner.unblock(start).await?;
        let child = Arc::new(started.child);
        let replaced = {
            let mut state = self.terminal.state();
            if state.deleted {
                child.signal(Scope::Group, Signal::KILL);
                return Err(StartError::Closing);
            }
            state.shell = Some(Shell {
                child: child.clone(),
                input: Arc::new(started.input),
                mode,
            });
            state.exit_code.take()
        };
        PtyStarted.emit(&self.engine.observer);
        let run = self
            .terminal
            .clone()
            .run(self.engine.clone(), child, started.output);
        self.engine.spawner.spawn(run).detach();
        Ok(Started {
            mode: Some(mode),
            replaced,
        })
    }

    /// What the shell runs on, while one runs.
    #[must_use]
    pub fn mode(&self) -> Option<Mode> {
        self.terminal.state().shell.as_ref().map(|shell| shell.mode)
    }

    /// All output that is kept from this viewer's position on, with the offset of its first byte;
    /// none if there is nothing new. What follows comes from [`next`](Self::next).
    #[must_use]
    pub fn replay(&self) -> Option<(u64, Bytes)> {
        let mut state = self.terminal.state();
        let position = state.viewers.get(&self.key).copied()?;
        let (offset, bytes) = state.output.read(position, REPLAY);
        let total = state.output.total();
        state.viewers.insert(self.key, total);
        drop(state);
        self.terminal.taken.notify(usize::MAX);
        (!bytes.is_empty()).then(|| (offset, bytes.into()))
    }

    /// Waits for what comes next. After an end or the loss of the lease it says so again.
    pub async fn next(&self) -> Update {
        loop {
            let changed = self.terminal.changed.listen();
            if let Some(update) = self.poll() {
                return update;
            }
            changed.await;
        }
    }

    fn poll(&self) -> Option<Update> {
        let mut state = self.terminal.state();
        if self.types && state.writer != Some(self.key) {
            return Some(Update::TakenOver);
        }
        let position = state.viewers.get(&self.key).copied()?;
        let total = state.output.total();
        if position == total {
            // No shell and no exit code is the time before the first start.
            let gone = state.shell.is_none() && state.deleted;
            let ended = state.exit_code.or(gone.then_some(-1));
            return ended.map(Update::Exit);
        }
        let update = if position < state.output.oldest() {
            let (offset, bytes) = state.output.read(position, REPLAY);
            state.viewers.insert(self.key, total);
            Update::CaughtUp {
                offset,
                bytes: bytes.into(),
            }
        } else {
            let (stream, next_stream) = state.stream(position);
            let limit = usize::try_from(next_stream - position).unwrap_or(usize::MAX);
            let (_, bytes) = state.output.read(position, limit.min(MAX_CHUNK));
            let position = position + bytes.len() as u64;
            state.viewers.insert(self.key, position);
            Update::Output(stream, bytes.into())
        };
        if state.writer == Some(self.key) {
            let position = state.viewers.get(&self.key).copied();
            if position.is_some_and(|position| total - position <= PACE) {
                state.stalled = false;
            }
        }
        drop(state);
        self.terminal.taken.notify(usize::MAX);
        Some(update)
    }

    /// Waits until the viewer has lost the lease; for one that only looks on, for ever.
    pub async fn revoked(&self) {
        loop {
            let changed = self.terminal.changed.listen();
            if self.types && self.terminal.state().writer != Some(self.key) {
                return;
            }
            changed.await;
        }
    }

    /// Gives the shell as much of some input as it takes at once, and says how much that was.
    ///
    /// # Errors
    ///
    /// It takes none, now or later.
    pub fn offer(&self, bytes: &[u8]) -> Result<usize, InputError> {
        self.shell()?.offer(bytes)
    }

    /// Gives the shell input, for as long as it takes to read it.
    ///
    /// # Errors
    ///
    /// Not all of it was taken.
    pub async fn write(&self, bytes: &[u8]) -> Result<(), InputError> {
        let mut left = bytes;
        while !left.is_empty() {
            // Asked for every time: the lease may be lost and the shell end meanwhile.
            let shell = self.shell()?;
            match shell.offer(left)? {
                0 => shell.ready_for_input().await?,
                taken => left = left.get(taken..).unwrap_or_default(),
            }
        }
        Ok(())
    }

    /// Tells the terminal its size; of no effect on pipes, or unless both are above 0.
    ///
    /// # Errors
    ///
    /// The client does not hold the lease, there is no shell, or the terminal refuses.
    pub fn resize(&self, columns: u32, rows: u32) -> Result<(), InputError> {
        let shell = self.shell()?;
        let fitting = |count: u32| u16::try_from(count).unwrap_or(u16::MAX);
        if shell.mode == Mode::Pipe || columns == 0 || rows == 0 {
            return Ok(());
        }
        terminal::resize(shell.input.get_ref(), fitting(columns), fitting(rows))
            .map_err(InputError::Write)
    }

    /// Sends a signal to the foreground job of the terminal; on pipes, to the shell and its group.
    ///
    /// # Errors
    ///
    /// The client does not hold the lease, or there is no shell.
    pub fn signal(&self, signal: TerminalSignal) -> Result<(), InputError> {
        let shell = self.shell()?;
        let signal = signal.number();
        let foreground = match shell.mode {
            Mode::Pty => rustix::termios::tcgetpgrp(shell.input.get_ref()).ok(),
            Mode::Pipe => None,
        };
        match foreground {
            Some(group) => {
                // Nobody is left to get it: the job has just ended.
                kill(Target::Group(group.as_raw_pid().unsigned_abs()), signal);
            }
            None => {
                shell.child.signal(Scope::Group, signal);
            }
        }
        Ok(())
    }

    fn shell(&self) -> Result<Shell, InputError> {
        let state = self.terminal.state();
        if state.writer != Some(self.key) {
            return Err(InputError::NotTheWriter);
        }
        state.shell.clone().ok_or(InputError::NotRunning)
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        {
            let mut state = self.terminal.state();
            state.viewers.remove(&self.key);
            if state.writer == Some(self.key) {
                state.writer = None;
                state.stalled = false;
            }
            state.used = Instant::now();
        }
        self.terminal.taken.notify(usize::MAX);
    }
}

/// A shell that could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The system refused.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// The terminal is being deleted.
    #[error("pty session is closing")]
    Closing,
}

/// A signal that clients may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TerminalSignal {
    /// `SIGINT`.
    Interrupt,
    /// `SIGTERM`.
    Terminate,
    /// `SIGKILL`.
    Kill,
    /// `SIGQUIT`.
    Quit,
    /// `SIGHUP`.
    HangUp,
}

impl TerminalSignal {
    /// Reads a name such as `SIGINT`.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "SIGINT" => Self::Interrupt,
            "SIGTERM" => Self::Terminate,
            "SIGKILL" => Self::Kill,
            "SIGQUIT" => Self::Quit,
            "SIGHUP" => Self::HangUp,
            _ => return None,
        })
    }

    fn number(self) -> Signal {
        match self {
            Self::Interrupt => Signal::INT,
            Self::Terminate => Signal::TERM,
            Self::Kill => Signal::KILL,
            Self::Quit => Signal::QUIT,
            Self::HangUp => Signal::HUP,
        }
    }
}

/// Locks what is whole even after a panic: every change is a single step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
