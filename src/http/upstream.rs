//! The client side of a proxy: requests passed on to backends, with everything streamed.
//!
//! Owns the connections to backends, their reuse, and when a request may be tried again. Bodies
//! have no limit of size or time here: they are as slow as the slower of the two sides. No name is
//! looked at, no redirect followed, no environment variable read.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use ::http::StatusCode;
use ::http::header::EXPECT;

use bytes::Bytes;
use event_listener::Event;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use smol::Timer;
use smol::future::{FutureExt, yield_now};

use super::body::{self, Bounds};
use super::connect::{self, Connector};
use super::pool::{self, Destination, Pool, Received};
use super::server::Exchange;
use super::session::Session;
use super::{Body, Request, Response, forward};
use crate::runtime::Spawner;

/// The most bytes of the head of a response, and of the read buffer of a connection.
pub const RESPONSE_HEADER_BYTES: usize = 64 * 1024;

/// The most unused connections kept to one backend.
pub const MAX_IDLE: usize = 64;

/// The most unused connections kept in all.
pub const MAX_IDLE_IN_ALL: usize = 1024;

/// How long an unused connection is kept.
pub const IDLE_TIME: Duration = Duration::from_secs(90);

/// How long a backend may keep silent about `Expect: 100-continue` before it gets the body anyway.
pub const CONTINUE_TIME: Duration = Duration::from_secs(1);

/// Why a request got no response.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no connection.
    #[error("{0}")]
    Connect(#[from] connect::Error),
    /// The system does not let us wait for one more connection.
    #[error("cannot wait for the connection: {0}")]
    Watch(io::Error),
    /// The connection failed before there was a response, or what came back is not HTTP.
    #[error("{}", cause(.0))]
    Exchange(#[from] hyper::Error),
}

impl Error {
    /// What went wrong, for counting.
    #[must_use]
    pub fn kind(&self) -> Failure {
        match self {
            Self::Connect(connect::Error::TimedOut { .. }) => Failure::ConnectTimeout,
            Self::Connect(connect::Error::Resolve { .. }) => Failure::Resolve,
            Self::Connect(connect::Error::Connect { cause, .. })
                if cause.kind() == io::ErrorKind::TimedOut =>
            {
                Failure::ConnectTimeout
            }
            Self::Connect(_) | Self::Watch(_) => Failure::ConnectRefused,
            Self::Exchange(error) if error.is_parse() => Failure::Malformed,
            Self::Exchange(error) if is_body(error) => Failure::RequestBody,
            Self::Exchange(_) => Failure::Reset,
        }
    }
}

/// The kinds of failure of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The name of the backend has no address.
    Resolve,
    /// The backend refused the connection, or cannot be reached.
    ConnectRefused,
    /// The backend did not accept the connection in time.
    ConnectTimeout,
    /// The connection ended before there was a response.
    Reset,
    /// What came back is not HTTP.
    Malformed,
    /// The client did not send the whole request.
    RequestBody,
}

/// The innermost reason hyper gives: `connection refused` rather than `client error`.
fn cause(error: &hyper::Error) -> String {
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

fn is_body(error: &hyper::Error) -> bool {
    std::error::Error::source(error).is_some_and(|source| source.is::<body::Error>())
}

/// A response, and what is known of how it came.
#[derive(Debug)]
pub struct Answer {
    /// The response. Its body ends with an error if the backend does not finish it.
    pub response: Response,
    /// The connection, once the protocol has changed: to be had after a 101.
    pub upgrade: Option<OnUpgrade>,
    /// How long connecting took; none on a connection that was there.
    pub connecting: Option<Duration>,
    /// How long all took up to the head of the response.
    pub elapsed: Duration,
}

/// Passes requests on. Clones share the connections.
#[derive(Clone, Debug)]
pub struct Upstream<D> {
    spawner: Spawner,
    connector: Connector,
    pool: Arc<Pool<D>>,
}

impl<D: Destination> Upstream<D> {
    /// Connections come from `connector` and live on `spawner`.
    #[must_use]
    pub fn new(spawner: Spawner, connector: Connector) -> Self {
        let pool = Arc::new(Pool::new(pool::Bounds {
            each: MAX_IDLE,
            all: MAX_IDLE_IN_ALL,
            time: IDLE_TIME,
        }));
        Self {
            spawner,
            connector,
            pool,
        }
    }

    /// Closes unused connections that are past their time or lead nowhere any more.
    pub fn sweep(&self) {
        self.pool.sweep();
    }

    /// Does so again and again, for ever.
    pub async fn tidy(&self) {
        loop {
            Timer::after(pool::SWEEP_INTERVAL).await;
            self.sweep();
        }
    }

    /// Sends a request, complete with `Host`, and waits for the head of the response, however long
    /// that takes. `host` is a name or an address without brackets. Connections are shared between
    /// requests of equal `destination` only.
    ///
    /// Interim responses (1xx) that come before it are passed on to `client`. `100 Continue` is not
    /// among them: it lets the body through.
    ///
    /// Dropping the future closes the connection, which is how a backend learns that the client
    /// has gone.
    ///
    /// # Errors
    ///
    /// There is no response. A request of which not a byte was written, because the backend had
    /// just closed a kept connection, is sent again on another one; no other request is.
    #[expect(
        clippy::manual_async_fn,
        reason = "an async fn keeps its arguments twice"
    )]
    pub fn send(
        &self,
        destination: &D,
        host: &str,
        port: u16,
        mut request: Request,
        client: Option<&Exchange>,
    ) -> impl Future<Output = Result<Answer, Error>> + Send {
        async move {
            let started = Instant::now();
            // Whoever else has a request ready comes first, so that they are written one right after
            // the other: waking a backend that went to sleep in between costs more than the detour.
            yield_now().await;
            let gate = Gate::before(&mut request);
            listen_for_interims(&mut request, gate.clone(), client.cloned());
            while let Some(mut session) = self.pool.take(destination, started) {
                match session.send(request).await {
                    Ok(response) => {
                        return Ok(self.answer(destination, session, gate, response, started));
                    }
                    Err(mut error) => match error.take_message() {
                        Some(unsent) => request = unsent,
                        None => return Err(error.into_error().into()),
                    },
                }
            }
            // On the heap, so that requests that need no new connection are small.
            let (mut session, connecting) = Box::pin(self.connect(host, port)).await?;
            match session.send(request).await {
                Ok(response) => Ok(Answer {
                    connecting: Some(connecting),
                    ..self.answer(destination, session, gate, response, started)
                }),
                Err(error) => Err(error.into_error().into()),
            }
        }
    }

    /// Makes a connection. Tells how long that took.
    async fn connect(&self, host: &str, port: u16) -> Result<(Session, Duration), Error> {
        let asked = Instant::now();
        let stream = self.connector.reach(host, port).await?;
        let stream = stream.moved_to(&self.spawner).map_err(Error::Watch)?;
        let elapsed = asked.elapsed();
        Ok((Session::new(stream, RESPONSE_HEADER_BYTES).await?, elapsed))
    }

    fn answer(
        &self,
        destination: &D,
        mut session: Session,
        gate: Option<Arc<Gate>>,
        mut response: Response<Incoming>,
        started: Instant,
    ) -> Answer {
        let now = Instant::now();
        let elapsed = now.duration_since(started);
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let upgrade = hyper::upgrade::on(&mut response);
            let switching = poll_fn(move |context| session.poll_finish(context));
            self.spawner.spawn(switching).detach();
            return Answer {
                response: response.map(|_| Body::empty()),
                upgrade: Some(upgrade),
                connecting: None,
                elapsed,
            };
        }
        // Where a body was held back there is no next request.
        let withheld = gate.is_some_and(|gate| gate.shut());
        let destination = (!withheld).then(|| destination.clone());
        let received = Received {
            session,
            response,
            now,
        };
        Answer {
            response: received.kept_in(&self.pool, destination, Bounds::NONE, &self.spawner),
            upgrade: None,
            connecting: None,
            elapsed,
        }
    }
}

/// Opens the gate when the backend says so, and passes on what else it says before its response.
fn listen_for_interims(request: &mut Request, gate: Option<Arc<Gate>>, client: Option<Exchange>) {
    if gate.is_none() && client.is_none() {
        return;
    }
    // Called by who drives the connection, which is who waits for the response.
    hyper::ext::on_informational(request, move |response| {
        if response.status() == StatusCode::CONTINUE {
            if let Some(gate) = &gate {
                gate.set(OPEN);
            }
        } else if let Some(client) = &client {
            let mut headers = response.headers().clone();
            forward::strip_interim(&mut headers);
            client.inform(response.status(), &headers);
        }
    });
}

/// What holds back a request's body until the backend wants it (`Expect: 100-continue`).
#[derive(Debug)]
struct Gate {
    state: AtomicU8,
    moved: Event,
}

const WAITING: u8 = 0;
const OPEN: u8 = 1;
const SHUT: u8 = 2;

impl Gate {
    /// Puts a gate before the body of `request` if that is what it asks for.
    fn before(request: &mut Request) -> Option<Arc<Self>> {
        let expectation = request.headers().get(EXPECT)?;
        let waits = expectation.as_bytes().eq_ignore_ascii_case(b"100-continue");
        if !waits || http_body::Body::is_end_stream(request.body()) {
            return None;
        }
        let gate = Arc::new(Self {
            state: AtomicU8::new(WAITING),
            moved: Event::new(),
        });
        let body = std::mem::take(request.body_mut());
        let waiting = gate.clone();
        *request.body_mut() = Body::stream(Gated {
            body,
            opening: Some(Box::pin(async move { waiting.opening().await })),
        });
        Some(gate)
    }

    fn set(&self, state: u8) {
        let waiting = WAITING;
        let _ = self
            .state
            .compare_exchange(waiting, state, Ordering::AcqRel, Ordering::Acquire);
        self.moved.notify(usize::MAX);
    }

    /// Shuts the gate because the backend has answered; says whether the body was held back.
    fn shut(&self) -> bool {
        self.set(SHUT);
        self.state.load(Ordering::Acquire) == SHUT
    }

    async fn opening(&self) {
        let late = async {
            Timer::after(CONTINUE_TIME).await;
            self.set(OPEN);
        };
        let opened = async {
            loop {
                let moved = self.moved.listen();
                if self.state.load(Ordering::Acquire) != WAITING {
                    return;
                }
                moved.await;
            }
        };
        opened.or(late).await;
        if self.state.load(Ordering::Acquire) == SHUT {
            // Nobody wants it any more. The connection is closed when the response is over.
            std::future::pending().await
        }
    }
}

/// A body that is not read before its gate opens, so that the client is not told to send it.
struct Gated {
    body: Body,
    opening: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl http_body::Body for Gated {
    type Data = Bytes;
    type Error = body::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, body::Error>>> {
        if let Some(opening) = &mut self.opening {
            ready!(opening.as_mut().poll(context));
            self.opening = None;
        }
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
