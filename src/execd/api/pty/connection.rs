//! One client's WebSocket on a terminal, from its opening to its end.
//!
//! Owns what is sent when, what a client may do, and every deadline between the two. Three things go
//! on side by side, and the first to end ends the connection: output goes out at the client's pace,
//! what the client sends is acted upon, and input that the shell has not read yet waits for it.
//! Never touches the terminal but through its [`Viewer`], which is dropped with the connection
//! whatever becomes of it.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use event_listener::Event;
use slog::{debug, warn};
use smol::Timer;
use smol::channel::{self, Receiver as Queue, Sender as Answers};
use smol::future::FutureExt;
use smol::stream::StreamExt;

use super::frames::{self, Code, Wanted};
use crate::execd::pty::{InputError, Mode, StartError, TerminalSignal, Update, Viewer};
use crate::http::websocket::{Ended, Gone, Received, Receiver, Sender, WebSocket};

/// How often a client is asked for a sign of life.
const PING_EVERY: Duration = Duration::from_secs(30);

/// How long a client may send nothing, not even an answer to a ping.
pub const READ_TIME: Duration = Duration::from_secs(60);

/// How long a client may take for one message.
pub const WRITE_TIME: Duration = Duration::from_secs(10);

/// How long a goodbye may take to one whose terminal was taken over.
const TAKEN_OVER_TIME: Duration = Duration::from_millis(200);

/// The most bytes that wait for the shell to read them before the client's next message does.
pub const MAX_BACKLOG: usize = 1024 * 1024;

/// How long a client's message waits for that.
pub const INPUT_PATIENCE: Duration = Duration::from_secs(60);

/// How long the end of a shell that no longer reads is waited for: it is better news than that.
const SHELL_END_TIME: Duration = Duration::from_secs(1);

/// The most answers that wait while output is sent.
pub const MAX_ANSWERS: usize = 8;

/// What a client has come for.
pub(super) struct Visit {
    /// The id of the terminal.
    pub id: String,
    /// To type, or to look on only.
    pub types: bool,
    /// What a shell is started on, by one who types.
    pub mode: Mode,
    /// Whether one is started in place of one that has ended.
    pub restarts: bool,
    /// Where records go.
    pub logger: slog::Logger,
}

/// How a connection ends.
enum End {
    /// The shell has ended, and all it has shown was sent.
    Exit(i32),
    /// Another client has the lease.
    TakenOver,
    /// The client said goodbye.
    Goodbye,
    /// The client is gone, or as good as gone.
    Gone,
    /// The client is told why it has to go.
    Wrong { code: u16, reason: &'static str },
    /// The shell takes no input.
    NoInput(String),
}

impl From<Gone> for End {
    fn from(_: Gone) -> Self {
        Self::Gone
    }
}

/// Serves a client until it leaves, the shell ends, or another client takes the terminal over.
pub(super) async fn serve(mut socket: WebSocket, viewer: Viewer, visit: Visit) {
    let end = match open(&mut socket.sender, &viewer, &visit).await {
        Ok(Ok(())) => {
            let (answers, queue) = channel::bounded(MAX_ANSWERS);
            let backlog = Backlog::default();
            let outgoing = outgoing(&mut socket.sender, &viewer, queue);
            let incoming = incoming(&mut socket.receiver, &viewer, &visit, &backlog, answers);
            outgoing.or(incoming).or(backlog.feed(&viewer)).await
        }
        Ok(Err(error)) => {
            warn!(
                visit.logger,
                "pty start failed for session {}: {error}", visit.id
            );
            return fail(socket, Code::StartFailed, &error.to_string()).await;
        }
        Err(end) => end,
    };
    match end {
        End::Exit(code) => {
            let told = in_time(&viewer, socket.sender.text(frames::exit(code))).await;
            // The terminal is free for the next one before the goodbye.
            drop(viewer);
            if told.is_ok() {
                socket.close(1000, "process exited", WRITE_TIME).await;
            }
        }
        End::TakenOver => socket.close(4001, "TAKEN_OVER", TAKEN_OVER_TIME).await,
        End::Goodbye => {
            drop(viewer);
            socket.receiver.finish().await;
        }
        End::Gone => {}
        End::Wrong { code, reason } => {
            drop(viewer);
            socket.close(code, reason, WRITE_TIME).await;
        }
        End::NoInput(message) => fail(socket, Code::StdinWriteFailed, &message).await,
    }
}

/// Tells a client what went wrong and hangs up.
pub(super) async fn fail(mut socket: WebSocket, code: Code, message: &str) {
    let late = async {
        Timer::after(WRITE_TIME).await;
        Err(Gone)
    };
    let told = socket.sender.text(frames::error(code, message)).or(late);
    if told.await.is_ok() {
        socket.hang_up().await;
    }
}

/// Shows what there is, sees to it that a shell runs, and says so.
///
/// What is shown is what there was before the shell was started, so that a new one begins after
/// the client knows of it.
async fn open(
    sender: &mut Sender,
    viewer: &Viewer,
    visit: &Visit,
) -> Result<Result<(), StartError>, End> {
    let replay = viewer.replay();
    let (mode, replaced) = if visit.types {
        match viewer.start(visit.mode, visit.restarts).await {
            Ok(started) => (started.mode, started.replaced),
            Err(error) => return Ok(Err(error)),
        }
    } else {
        (viewer.mode(), None)
    };
    if let Some((offset, bytes)) = replay {
        in_time(viewer, sender.binary(frames::replay(offset, &bytes))).await?;
    }
    let connected = frames::connected(&visit.id, mode, replaced);
    in_time(viewer, sender.text(connected)).await?;
    Ok(Ok(()))
}

/// Sends something, unless it takes too long or the lease is lost meanwhile.
async fn in_time(
    viewer: &Viewer,
    sending: impl Future<Output = Result<(), Gone>>,
) -> Result<(), End> {
    let sending = async { sending.await.map_err(End::from) };
    let revoked = async {
        viewer.revoked().await;
        Err(End::TakenOver)
    };
    let late = async {
        Timer::after(WRITE_TIME).await;
        Err(End::Gone)
    };
    sending.or(revoked).or(late).await
}

/// Sends output, answers and pings, one at a time.
async fn outgoing(sender: &mut Sender, viewer: &Viewer, queue: Queue<String>) -> End {
    enum Next {
        Ping,
        Answer(String),
        Update(Update),
    }
    let mut pings = Timer::interval(PING_EVERY);
    loop {
        let ping = async {
            pings.next().await;
            Next::Ping
        };
        let answer = async {
            match queue.recv().await {
                Ok(answer) => Next::Answer(answer),
                // The other end lives as long as this one.
                Err(_) => std::future::pending().await,
            }
        };
        let update = async { Next::Update(viewer.next().await) };
        let sent = match ping.or(answer).or(update).await {
            Next::Ping => in_time(viewer, sender.ping()).await,
            Next::Answer(answer) => in_time(viewer, sender.text(answer)).await,
            Next::Update(Update::Output(stream, bytes)) => {
                in_time(viewer, sender.binary(frames::output(stream, &bytes))).await
            }
            Next::Update(Update::CaughtUp { offset, bytes }) => {
                in_time(viewer, sender.binary(frames::replay(offset, &bytes))).await
            }
            Next::Update(Update::Exit(code)) => Err(End::Exit(code)),
            Next::Update(Update::TakenOver) => Err(End::TakenOver),
        };
        if let Err(end) = sent {
            return end;
        }
    }
}

/// Acts upon what the client sends.
async fn incoming(
    receiver: &mut Receiver,
    viewer: &Viewer,
    visit: &Visit,
    backlog: &Backlog,
    answers: Answers<String>,
) -> End {
    let mut deadline = Instant::now() + READ_TIME;
    loop {
        let late = async {
            Timer::at(deadline).await;
            Err(Ended::Gone)
        };
        let wanted = match receiver.next().or(late).await {
            Ok(Received::Binary(frame)) => frames::read_binary(&frame),
            Ok(Received::Text(frame)) => frames::read_text(&frame),
            Ok(Received::Pong) => Wanted::Nothing,
            // Only answers to our own questions show that it listens.
            Ok(Received::Ping) => continue,
            Err(Ended::Goodbye) => return End::Goodbye,
            Err(Ended::Gone) => return End::Gone,
            Err(Ended::Wrong { code, reason }) => return End::Wrong { code, reason },
        };
        let answer = match wanted {
            Wanted::Input(_) if !visit.types => Some(frames::error(
                Code::StdinWriteFailed,
                &format!("this connection only views pty session {}", visit.id),
            )),
            Wanted::Input(bytes) => match backlog.give(viewer, bytes).await {
                Ok(()) => None,
                Err(end) => return end,
            },
            Wanted::Size { columns, rows } => {
                if let Err(InputError::Write(error)) = viewer.resize(columns, rows) {
                    warn!(visit.logger, "pty resize session {}: {error}", visit.id);
                }
                None
            }
            Wanted::Signal(name) => {
                match TerminalSignal::from_name(&name) {
                    // Without a shell, or the lease, there is nothing to signal.
                    Some(signal) => drop(viewer.signal(signal)),
                    None => debug!(visit.logger, "pty session {}: unknown signal", visit.id),
                }
                None
            }
            Wanted::Pong => Some(frames::pong()),
            Wanted::Unknown(kind) => Some(frames::unknown(&kind)),
            Wanted::Nothing => None,
        };
        if let Some(answer) = answer {
            // While the other end waits for the client, so do its answers.
            let _ = answers.send(answer).await;
        }
        deadline = Instant::now() + READ_TIME;
    }
}

/// Input that the shell has not read yet, so that signals and sizes do not wait behind it.
#[derive(Default)]
struct Backlog {
    waiting: Mutex<Waiting>,
    changed: Event,
}

#[derive(Default)]
struct Waiting {
    pieces: VecDeque<Bytes>,
    size: usize,
}

impl Backlog {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives input to the shell, or lets it wait; waits itself while too much does.
    async fn give(&self, viewer: &Viewer, bytes: Bytes) -> Result<(), End> {
        let mut left = bytes;
        if self.waiting().pieces.is_empty() {
            let taken = match viewer.offer(&left) {
                Ok(taken) => taken,
                Err(error) => return refused(error).await,
            };
            left = left.slice(taken..);
        }
        if left.is_empty() {
            return Ok(());
        }
        let room = async {
            loop {
                let changed = self.changed.listen();
                if self.waiting().size < MAX_BACKLOG {
                    return true;
                }
                changed.await;
            }
        };
        let late = async {
            Timer::after(INPUT_PATIENCE).await;
            false
        };
        if !room.or(late).await {
            let seconds = INPUT_PATIENCE.as_secs();
            let message = format!("the shell has read nothing for {seconds} s");
            return Err(End::NoInput(message));
        }
        {
            let mut waiting = self.waiting();
            waiting.size += left.len();
            waiting.pieces.push_back(left);
        }
        self.changed.notify(usize::MAX);
        Ok(())
    }

    /// Gives the shell what waits, as it reads; ends when that fails for good.
    async fn feed(&self, viewer: &Viewer) -> End {
        loop {
            let changed = self.changed.listen();
            let first = self.waiting().pieces.front().cloned();
            let Some(first) = first else {
                changed.await;
                continue;
            };
            let given = match viewer.write(&first).await {
                Ok(()) => Ok(()),
                Err(error) => refused(error).await,
            };
            if let Err(end) = given {
                return end;
            }
            {
                let mut waiting = self.waiting();
                // It is taken off only now, so that nothing overtakes it.
                waiting.pieces.pop_front();
                waiting.size -= first.len();
            }
            self.changed.notify(usize::MAX);
        }
    }
}

/// What becomes of the connection when input is refused.
async fn refused(error: InputError) -> Result<(), End> {
    match error {
        // The client is about to be told.
        InputError::NotTheWriter | InputError::NotRunning => Ok(()),
        InputError::Write(_) => {
            // A shell that is ending fails like this, too; what ends first is told.
            Timer::after(SHELL_END_TIME).await;
            Err(End::NoInput(error.to_string()))
        }
    }
}
