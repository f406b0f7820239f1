//! Asking the upstreams from the executor: for clients on TCP, for health probes, and for names of
//! our own. The rules are those of the UDP path: trusted servers first, the next one early, an
//! answer that is not final leads on.

use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use smol::channel::Sender;
use smol::future::FutureExt as _;
use smol::io::{AsyncReadExt as _, AsyncWriteExt as _};
use smol::{Async, Task, Timer};

use super::entropy::Entropy;
use super::upstream::{Plan, Server, is_final};
use super::wire::answer::{self, Echo};
use super::wire::{self, MAX_MESSAGE, rcode_text};
use super::{Shared, patience, socket};

/// How a server is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// One datagram each way.
    Udp,
    /// One connection.
    Tcp,
}

/// A query that is complete except for its id.
#[derive(Debug)]
pub struct Question {
    /// In wire form.
    pub message: Vec<u8>,
    /// Where its question section ends.
    pub end: usize,
}

/// What the upstreams said together.
#[derive(Debug)]
pub enum Said {
    /// A final answer.
    Final(Vec<u8>),
    /// The last answer that is not final, and what is wrong with it.
    Consolation(Vec<u8>, String),
    /// No answer; what happened last, and whether time was the reason.
    Nothing {
        /// A short message.
        error: String,
        /// The time was over; otherwise every server failed.
        timed_out: bool,
    },
}

/// What one server said.
struct Outcome {
    server: usize,
    result: io::Result<Vec<u8>>,
    after: Duration,
}

/// Asks the upstreams in order until one gives a final answer, for at most the configured time.
pub async fn ask(shared: &Arc<Shared>, question: Question, protocol: Protocol) -> Said {
    let set = shared.upstreams.set().clone();
    let question = Arc::new(question);
    let deadline = Instant::now() + shared.timeout;
    // One place for each server: an attempt never waits to report.
    let (reports, outcomes) = smol::channel::bounded(set.servers().len().max(1));
    let mut plan = Plan::new(&set);
    // Dropping the tasks at the end cancels the attempts that are still under way.
    let mut attempts: Vec<Task<()>> = Vec::new();
    let mut waiting = 0_usize;
    let mut consolation = None;
    let mut error = "no upstream resolvers configured".to_owned();
    let mut last_asked = None;
    loop {
        let mut until = deadline;
        if let Some((server, target)) = plan.untried().and_then(|at| Some((at, set.get(at)?))) {
            let attempt = attempt(
                Arc::clone(shared),
                Arc::clone(target),
                server,
                Arc::clone(&question),
                protocol,
                reports.clone(),
            );
            attempts.push(shared.spawner.spawn(attempt));
            waiting += 1;
            last_asked = Some(target);
            let hedge = patience(target, shared.timeout, plan.servers(), 0);
            until = deadline.min(Instant::now() + hedge);
        } else if waiting == 0 {
            return match consolation {
                Some(message) => Said::Consolation(message, error),
                None => Said::Nothing {
                    error,
                    timed_out: false,
                },
            };
        }
        let outcome = async { outcomes.recv().await.ok() }
            .or(async {
                Timer::at(until).await;
                None
            })
            .await;
        let Some(outcome) = outcome else {
            if Instant::now() < deadline {
                continue;
            }
            if let Some(server) = last_asked {
                error = format!("{}: no answer in time", server.address);
                server.silent();
            }
            return match consolation {
                Some(message) => Said::Consolation(message, error),
                None => Said::Nothing {
                    error,
                    timed_out: true,
                },
            };
        };
        waiting -= 1;
        let Some(server) = set.get(outcome.server) else {
            continue;
        };
        match outcome.result {
            Ok(message) => {
                server.answered(outcome.after);
                let code = answer::rcode(&message);
                if is_final(code) {
                    return Said::Final(message);
                }
                shared.upstreams.complain_about_code(server, code);
                error = format!("{} from {}", rcode_text(code), server.address);
                consolation = Some(message);
            }
            Err(cause) => {
                server.silent();
                shared.upstreams.complain(server, &cause.to_string());
                error = format!("{}: {cause}", server.address);
            }
        }
    }
}

async fn attempt(
    shared: Arc<Shared>,
    target: Arc<Server>,
    server: usize,
    question: Arc<Question>,
    protocol: Protocol,
    reports: Sender<Outcome>,
) {
    let start = Instant::now();
    let result = ask_one(&shared, &target, &question, protocol).await;
    let outcome = Outcome {
        server,
        result,
        after: start.elapsed(),
    };
    // Nobody listens any more when another server was faster.
    let _ = reports.send(outcome).await;
}

/// Asks one server, without a limit of time; an answer of any response code is one.
///
/// # Errors
///
/// It cannot be asked, or what it sends is no answer.
pub async fn ask_one(
    shared: &Shared,
    server: &Server,
    question: &Question,
    protocol: Protocol,
) -> io::Result<Vec<u8>> {
    let id = Entropy::new().next()?;
    let mut message = question.message.clone();
    wire::set_id(&mut message, id);
    match protocol {
        Protocol::Udp => {
            let socket = Async::new(socket::datagrams_to(server, &shared.hooks.socket)?)?;
            socket.send(&message).await?;
            let mut buffer = vec![0; MAX_MESSAGE];
            loop {
                let length = socket.recv(&mut buffer).await?;
                let received = buffer.get(..length).unwrap_or_default();
                if is_answer(received, id, question) {
                    return Ok(received.to_vec());
                }
            }
        }
        Protocol::Tcp => {
            let mut stream = connect(shared, server).await?;
            write_message(&mut stream, &message).await?;
            let received = read_message(&mut stream).await?;
            if is_answer(&received, id, question) {
                Ok(received)
            } else {
                Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    answer::Malformed,
                ))
            }
        }
    }
}

fn is_answer(received: &[u8], id: u16, question: &Question) -> bool {
    match answer::echo(received, id, &question.message, question.end) {
        Echo::Question => {
            let read = answer::addresses(received, question.end, &mut Vec::new());
            read.is_ok() || answer::is_truncated(received)
        }
        Echo::HeaderOnly => !is_final(answer::rcode(received)),
        Echo::Foreign => false,
    }
}

async fn connect(shared: &Shared, server: &Server) -> io::Result<Async<TcpStream>> {
    let socket = socket::stream_to(server, &shared.hooks.socket)?;
    match socket.connect(&server.address.into()) {
        Err(cause) if cause.raw_os_error() != Some(libc::EINPROGRESS) => return Err(cause),
        _ => {}
    }
    let stream = Async::new(TcpStream::from(socket))?;
    stream.writable().await?;
    match stream.get_ref().take_error()? {
        Some(cause) => Err(cause),
        None => Ok(stream),
    }
}

/// Reads one length-prefixed message (RFC 1035 section 4.2.2).
///
/// # Errors
///
/// `UnexpectedEof` when the connection ends first.
pub async fn read_message(stream: &mut Async<TcpStream>) -> io::Result<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).await?;
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

/// Writes one length-prefixed message with one call, as RFC 7766 section 8 asks.
///
/// # Errors
///
/// The connection is gone, or the message is longer than a prefix can say.
pub async fn write_message(stream: &mut Async<TcpStream>, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    let framed = [&length.to_be_bytes()[..], message].concat();
    stream.write_all(&framed).await
}
