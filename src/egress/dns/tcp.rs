//! The TCP path, on the executor: length-prefixed queries, several at a time on one connection
//! (RFC 7766). A query that came over TCP is forwarded over TCP, so that an answer that does not
//! fit a datagram arrives whole.

use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use slog::warn;
use smol::channel::{Receiver, Sender};
use smol::future::FutureExt as _;
use smol::lock::Semaphore;
use smol::{Async, Timer};

use super::Shared;
use super::exchange::{self, Protocol, Question, Said, read_message, write_message};
use super::wire::answer;
use super::wire::query::{self, Rejection};
use super::wire::reply::{self, ExtendedError};
use super::wire::{self, rtype_text};
use crate::egress::events::{Denied, Dropped, Outbound, Refused};
use crate::egress::metrics::{DropReason, Outcome, Transport};
use crate::egress::policy::Action;
use crate::lifecycle::Shutdown;

/// Client connections open at the same time; more are closed at once, and counted.
pub const MAX_CONNECTIONS: usize = 256;

/// Queries answered on one connection.
pub const MAX_QUERIES: usize = 128;

/// Queries of one connection waiting for an upstream at the same time.
pub const MAX_PIPELINED: usize = 16;

/// How long a new connection may stay silent.
const FIRST_READ: Duration = Duration::from_secs(2);

/// How long a connection may stay silent between queries.
const IDLE: Duration = Duration::from_secs(8);

/// How long a client may take to accept an answer.
const WRITE: Duration = Duration::from_secs(2);

/// Pause after a failed accept, for example while the process is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts connections until `stop`. `open` is held by each connection as long as it lives.
pub async fn serve(
    shared: Arc<Shared>,
    listener: Async<std::net::TcpListener>,
    connections: Arc<Semaphore>,
    stop: Shutdown,
    open: Sender<()>,
) {
    loop {
        let accept = async { Some(listener.accept().await) };
        let Some(accepted) = accept
            .or(async {
                stop.wait().await;
                None
            })
            .await
        else {
            return;
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(cause) => {
                warn!(shared.observer.logger(), "[dns] accept failed: {cause}");
                Timer::after(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(permit) = connections.try_acquire_arc() else {
            let reason = DropReason::ConnectionLimit;
            Dropped { reason }.emit(&shared.observer);
            continue;
        };
        let (shared, stop, open) = (Arc::clone(&shared), stop.clone(), open.clone());
        let spawner = shared.spawner.clone();
        let connection = async move {
            // How a connection ends is the client's affair.
            let _ = converse(shared, stream, stop).await;
            drop((permit, open));
        };
        spawner.spawn(connection).detach();
    }
}

/// Serves one connection: reads on one side, writes finished answers on the other.
async fn converse(shared: Arc<Shared>, stream: Async<TcpStream>, stop: Shutdown) -> io::Result<()> {
    stream.get_ref().set_nodelay(true)?;
    let mut reading = stream;
    let mut writing = Async::new(reading.get_ref().try_clone()?)?;
    let (answers, finished) = smol::channel::bounded(MAX_PIPELINED);
    let read = async {
        let result = read_queries(&shared, &mut reading, &stop, &answers).await;
        // The writer goes on until every query has been answered.
        drop(answers);
        result
    };
    let write = write_answers(&mut writing, &finished);
    let (read, write) = smol::future::zip(read, write).await;
    read.and(write)
}

async fn read_queries(
    shared: &Arc<Shared>,
    stream: &mut Async<TcpStream>,
    stop: &Shutdown,
    answers: &Sender<Vec<u8>>,
) -> io::Result<()> {
    let pipeline = Arc::new(Semaphore::new(MAX_PIPELINED));
    let mut patience = FIRST_READ;
    for _ in 0..MAX_QUERIES {
        let message = read_message(stream)
            .or(async {
                Timer::after(patience).await;
                Err(io::ErrorKind::TimedOut.into())
            })
            .or(async {
                stop.wait().await;
                Err(io::ErrorKind::ConnectionAborted.into())
            })
            .await?;
        if answers.is_closed() {
            break;
        }
        patience = IDLE;
        let permit = pipeline.acquire_arc().await;
        let (shared, answers) = (Arc::clone(shared), answers.clone());
        let spawner = shared.spawner.clone();
        let answer = async move {
            let mut answer = Vec::new();
            answer_query(&shared, &message, &mut answer).await;
            if !answer.is_empty() {
                // The client may have gone.
                let _ = answers.send(answer).await;
            }
            drop(permit);
        };
        spawner.spawn(answer).detach();
    }
    Ok(())
}

async fn write_answers(
    stream: &mut Async<TcpStream>,
    finished: &Receiver<Vec<u8>>,
) -> io::Result<()> {
    while let Ok(answer) = finished.recv().await {
        let written = write_message(stream, &answer).or(async {
            Timer::after(WRITE).await;
            Err(io::ErrorKind::TimedOut.into())
        });
        if let Err(cause) = written.await {
            finished.close();
            // Wakes the reading side.
            stream.get_ref().shutdown(std::net::Shutdown::Both)?;
            return Err(cause);
        }
    }
    Ok(())
}

/// Counts a query as in flight while it lives.
struct InFlight<'a>(&'a Shared);

impl<'a> InFlight<'a> {
    fn new(shared: &'a Shared) -> Self {
        shared.observer.metrics.in_flight.add(1);
        Self(shared)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.observer.metrics.in_flight.add(-1);
    }
}

/// Appends the answer to one message; nothing for what gets none.
async fn answer_query(shared: &Arc<Shared>, message: &[u8], out: &mut Vec<u8>) {
    const TRANSPORT: Transport = Transport::Tcp;
    let observer = &shared.observer;
    let mut name = String::new();
    let query = match query::parse(message, &mut name) {
        Ok(query) => query,
        Err(Rejection::NotAQuery) => {
            let reason = DropReason::NotAQuery;
            return Dropped { reason }.emit(observer);
        }
        Err(rejection) => {
            reply::rejected(message, rejection, out);
            return Refused {
                transport: TRANSPORT,
            }
            .emit(observer);
        }
    };
    let judge = || {
        let policy = shared.live.snapshot();
        (policy.evaluate(&name), policy.generation)
    };
    let deny = |reason, out: &mut Vec<u8>| {
        reply::denied(message, &query, out);
        Denied {
            host: &name,
            query_type: &rtype_text(query.kind),
            reason,
            transport: TRANSPORT,
            outcome: Outcome::NxDomain,
        }
        .emit(observer);
    };
    let (verdict, generation) = judge();
    if verdict.action == Action::Deny {
        return deny(verdict.reason, out);
    }
    let started = Instant::now();
    let in_flight = InFlight::new(shared);
    let question = Question {
        message: message.to_vec(),
        end: query.question_end,
    };
    let said = exchange::ask(shared, question, Protocol::Tcp).await;
    drop(in_flight);
    let elapsed = started.elapsed();
    let (verdict, current) = judge();
    if current != generation && verdict.action == Action::Deny {
        return deny(verdict.reason, out);
    }
    let mut ips = Vec::new();
    let (outcome, error) = match said {
        Said::Final(mut answer) => {
            let outcome = super::outcome(answer::rcode(&answer));
            let mut addresses = Vec::new();
            if answer::addresses(&answer, query.question_end, &mut addresses).is_ok() {
                ips.extend(addresses.iter().map(|address| address.ip));
            }
            wire::set_id(&mut answer, query.id);
            *out = answer;
            (outcome, None)
        }
        Said::Consolation(mut answer, error) => {
            let outcome = super::outcome(answer::rcode(&answer));
            wire::set_id(&mut answer, query.id);
            *out = answer;
            (outcome, Some(error))
        }
        Said::Nothing { error, timed_out } => {
            let (why, outcome) = if timed_out {
                (ExtendedError::NO_REACHABLE_AUTHORITY, Outcome::Timeout)
            } else {
                (ExtendedError::NETWORK_ERROR, Outcome::Error)
            };
            reply::failed(message, &query, why, out);
            (outcome, Some(error))
        }
    };
    Outbound {
        host: &name,
        addresses: &ips,
        error: error.as_deref(),
        transport: TRANSPORT,
        outcome,
        elapsed,
    }
    .emit(observer);
}
