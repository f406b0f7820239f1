//! One connection: its protocol, its requests, its end.
//!
//! Owns what an idle connection costs: after a moment without a request, hyper's buffers are given
//! back and only the socket and its deadlines are kept, until there is something to be read.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use ::http::header::{CONNECTION, EXPECT, HOST};
use ::http::{HeaderValue, Response, StatusCode, Version};
use bytes::Bytes;
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::rt::{Read, ReadBuf};
use hyper::server::conn::{http1, http2};
use hyper::service::{Service, service_fn};
use hyper::upgrade::OnUpgrade;
use smol::Timer;
use smol::future::FutureExt;

use super::exchange::{Exchange, Peer, Recorded, Recorder};
use super::link::{Link, Watched};
use super::watch::{Verdict, Watch};
use super::{
    FIRST_REQUEST, Handler, LINGER_BYTES, LINGER_TIME, Limits, MAX_ERROR_RESETS,
    MAX_PENDING_RESETS, MAX_STREAMS, Observer, PING_INTERVAL, STREAM_SEND_BYTES, Shared, Slot,
};
use crate::http::body::{Bounds, Owner};
use crate::http::io::{Clock, Exec, Stream};
use crate::http::{Body, Request, error};
use crate::lifecycle::Shutdown;

/// hyper's smallest read buffer.
const READ_BUFFER_BYTES: usize = 8192;

/// What a client says first to speak HTTP/2 (RFC 9113 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What makes connections of sockets, in either version.
#[derive(Clone, Debug)]
pub(super) struct Builders {
    http1: http1::Builder,
    http2: http2::Builder<Exec>,
}

impl Builders {
    pub fn new(limits: &Limits, exec: &Exec) -> Self {
        let mut http1 = http1::Builder::new();
        http1
            // The watch tells an idle connection from a slow head; hyper would not.
            .header_read_timeout(None)
            .max_header_size(limits.header_bytes)
            .max_buf_size(limits.header_bytes.max(READ_BUFFER_BYTES));
        let mut http2 = http2::Builder::new(exec.clone());
        http2
            .timer(Clock)
            .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
            .max_concurrent_streams(MAX_STREAMS)
            .max_send_buf_size(STREAM_SEND_BYTES)
            // A client that opens streams only to reset them is told to go away (CVE-2023-44487).
            .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
            .max_local_error_reset_streams(MAX_ERROR_RESETS)
            .enable_connect_protocol()
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_INTERVAL);
        Self { http1, http2 }
    }
}

/// Serves one connection until either side closes it, it breaks a limit, or the drain is over.
pub(super) async fn serve<H: Handler, O: Observer>(
    shared: Arc<Shared<H, O>>,
    mut stream: Stream,
    peer: Peer,
    slot: Slot,
) {
    let link = Arc::new(Link::new(peer, shared.limits.lifetime));
    let client = Client {
        shared: &shared,
        link: &link,
        slot: &Arc::new(slot),
    };
    let mut guard = Guard {
        shutdown: &shared.shutdown,
        asked_to_end: pin!(shared.shutdown.wait()),
        is_listening: false,
        watch: Watch::new(&link, &shared.limits),
    };
    let opened = {
        let mut opening = pin!(opening(&mut stream));
        match guard.over(|context| opening.as_mut().poll(context)).await {
            // What is rare is on the heap here and below, so that a task is small.
            Err(Verdict::Close) => Box::pin(within(FIRST_REQUEST, opening)).await,
            opened => opened.ok(),
        }
    };
    let Some(Ok(octets)) = opened else { return };
    if octets == PREFACE[..] {
        link.speaks_http2();
        let watched = Watched::new(stream, link.clone(), octets);
        Box::pin(serve_http2(client, watched, &mut guard)).await;
    } else if !octets.is_empty() {
        let watched = Watched::new(stream, link.clone(), octets);
        serve_http1(client, watched, &mut guard).await;
    }
}

/// Reads what tells the versions apart, which is the whole preface of HTTP/2 or the first octets
/// that are none of it. Nothing is the end of the connection.
async fn opening(stream: &mut Stream) -> io::Result<Bytes> {
    let mut octets = [MaybeUninit::uninit(); PREFACE.len()];
    let mut buffer = ReadBuf::uninit(&mut octets);
    loop {
        let before = buffer.filled().len();
        poll_fn(|context| Pin::new(&mut *stream).poll_read(context, buffer.unfilled())).await?;
        let filled = buffer.filled();
        let is_told = filled.len() == before || filled.len() == PREFACE.len();
        if is_told || !PREFACE.starts_with(filled) {
            return Ok(Bytes::copy_from_slice(filled));
        }
    }
}

/// What ends a connection, besides itself.
struct Guard<'a, W> {
    shutdown: &'a Shutdown,
    asked_to_end: Pin<&'a mut W>,
    /// Whether the connection is woken when it is asked to end, so that asking is enough.
    is_listening: bool,
    watch: Watch<'a>,
}

impl<W: Future<Output = ()>> Guard<'_, W> {
    /// Polls `work` until it is done, or something is to become of the connection before it is.
    async fn over<T>(
        &mut self,
        mut work: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Result<T, Verdict> {
        poll_fn(|context| {
            if let Poll::Ready(done) = work(context) {
                return Poll::Ready(Ok(done));
            }
            if self.shutdown.is_triggered() {
                return Poll::Ready(Err(Verdict::Close));
            }
            if !self.is_listening {
                if self.asked_to_end.as_mut().poll(context).is_ready() {
                    return Poll::Ready(Err(Verdict::Close));
                }
                self.is_listening = true;
            }
            self.watch.poll(context).map(Err)
        })
        .await
    }
}

/// What comes of `work` in `time`, if something does.
async fn within<T>(time: Duration, work: impl Future<Output = T>) -> Option<T> {
    let late = async {
        Timer::after(time).await;
        None
    };
    async { Some(work.await) }.or(late).await
}

/// A client that is served.
struct Client<'a, H, O> {
    shared: &'a Arc<Shared<H, O>>,
    link: &'a Arc<Link>,
    slot: &'a Arc<Slot>,
}

impl<H: Handler, O: Observer> Client<'_, H, O> {
    fn service(
        &self,
    ) -> impl Service<
        Request<Incoming>,
        Response = Response<Recorded<H, O>>,
        Error = Infallible,
        Future: Send,
    > + Send
    + Unpin
    + use<H, O> {
        let (shared, link, slot) = (self.shared.clone(), self.link.clone(), self.slot.clone());
        service_fn(move |request| answer(shared.clone(), link.clone(), slot.clone(), request))
    }

    /// Ends a connection when what is under way is done, or soon to come: the request of a client
    /// that was let in just now is on its way, and hyper would hang up on it.
    async fn finish<C: Future<Output = hyper::Result<()>>>(
        &self,
        mut connection: Pin<&mut C>,
        graceful_shutdown: impl FnOnce(Pin<&mut C>),
    ) {
        let rest = async {
            let begun = poll_fn(|context| match connection.as_mut().poll(context) {
                Poll::Ready(_) => Poll::Ready(false),
                Poll::Pending if self.link.has_begun() => Poll::Ready(true),
                Poll::Pending => Poll::Pending,
            });
            if within(FIRST_REQUEST, begun).await != Some(false) {
                graceful_shutdown(connection.as_mut());
                let _ended = connection.await;
            }
        };
        let shared = self.shared;
        let rest = shared.shutdown.drain(shared.limits.drain_time, rest);
        if let Err(cut) = rest.await {
            // One report is as good as many, so a full channel is no loss.
            let _ = self.slot.running.try_send(cut);
        }
    }

    fn report(&self, ended: hyper::Result<()>) {
        if let Err(error) = ended
            && error.is_parse()
        {
            self.shared.observer.malformed(&self.link.peer, &error);
        }
    }
}

async fn serve_http1<H: Handler, O: Observer>(
    client: Client<'_, H, O>,
    mut watched: Watched,
    guard: &mut Guard<'_, impl Future<Output = ()>>,
) {
    loop {
        let builder = &client.shared.builders.http1;
        let serving = builder.serve_connection(watched, client.service());
        // On the heap, so that a parked connection takes no room for it.
        let mut connection = Box::new(serving.with_upgrades());
        guard.watch.allow_parking(true);
        loop {
            let mut pinned = Pin::new(&mut *connection);
            match guard.over(|context| pinned.as_mut().poll(context)).await {
                Ok(result) => return client.report(result),
                Err(Verdict::Cut) => return,
                Err(Verdict::Close) => {
                    let end = http1::UpgradeableConnection::graceful_shutdown;
                    return Box::pin(client.finish(pinned, end)).await;
                }
                Err(Verdict::Retire) => pinned.graceful_shutdown(),
                Err(Verdict::Park) => {
                    client.link.keep(true);
                    pinned.as_mut().graceful_shutdown();
                    let ended = poll_fn(|context| Poll::Ready(pinned.as_mut().poll(context))).await;
                    client.link.keep(false);
                    match ended {
                        Poll::Ready(Ok(())) => break,
                        Poll::Ready(result) => return client.report(result),
                        // It was not idle in the eyes of hyper, which ends it now when it is.
                        Poll::Pending => guard.watch.allow_parking(false),
                    }
                }
            }
        }
        // hyper has ended an idle connection, written all there was, and left the socket open.
        let Some(parts) = connection.into_parts() else {
            return;
        };
        watched = parts.io;
        watched.put_back(parts.read_buf);
        guard.watch.allow_parking(false);
        let readable = guard.over(|context| watched.poll_readable(context));
        if readable.await.is_err() {
            return;
        }
    }
}

async fn serve_http2<H: Handler, O: Observer>(
    client: Client<'_, H, O>,
    watched: Watched,
    guard: &mut Guard<'_, impl Future<Output = ()>>,
) {
    let builder = &client.shared.builders.http2;
    let mut connection = pin!(builder.serve_connection(watched, client.service()));
    loop {
        match guard
            .over(|context| connection.as_mut().poll(context))
            .await
        {
            Ok(result) => return client.report(result),
            Err(Verdict::Cut | Verdict::Park) => return,
            Err(Verdict::Close) => {
                let end = http2::Connection::graceful_shutdown;
                return client.finish(connection, end).await;
            }
            Err(Verdict::Retire) => connection.as_mut().graceful_shutdown(),
        }
    }
}

/// Answers one request, whatever the handler does.
#[expect(
    clippy::manual_async_fn,
    reason = "an async fn keeps its arguments twice"
)]
fn answer<H: Handler, O: Observer>(
    shared: Arc<Shared<H, O>>,
    link: Arc<Link>,
    slot: Arc<Slot>,
    request: Request<Incoming>,
) -> impl Future<Output = Result<Response<Recorded<H, O>>, Infallible>> + Send {
    async move {
        let version = request.version();
        let (mut recorder, received) = receive(&shared, &link, slot, request);
        let request = match received {
            Ok(request) => request,
            Err(refusal) => return Ok(recorder.attach(refusal)),
        };
        // Polled where it is: what is passed by value is copied, and this may be large.
        let mut handling = pin!(shared.handler.handle(request));
        let handled = poll_fn(|context| {
            let poll = AssertUnwindSafe(|| handling.as_mut().poll(context));
            match catch_unwind(poll) {
                Ok(polled) => polled.map(Some),
                // The panic itself went to the process's panic hook.
                Err(_) => Poll::Ready(None),
            }
        });
        let handled = handled.await;
        // The response may only follow when what comes before it is written.
        poll_fn(|context| link.poll_informed(context)).await;
        let mut response = handled.unwrap_or_else(|| {
            recorder.panicked();
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            response
        });
        // hyper says so by itself, but only if it knew before the request came.
        if version < Version::HTTP_2 && shared.shutdown.is_triggered() {
            let close = HeaderValue::from_static("close");
            response.headers_mut().entry(CONNECTION).or_insert(close);
        }
        Ok(recorder.attach(response))
    }
}

/// Begins the account of a request, and makes of it what the handler is given, or an answer where it
/// is given nothing.
fn receive<H: Handler, O: Observer>(
    shared: &Arc<Shared<H, O>>,
    link: &Arc<Link>,
    slot: Arc<Slot>,
    request: Request<Incoming>,
) -> (Recorder<H, O>, Result<Request, Response<Body>>) {
    let (mut head, incoming) = request.into_parts();
    let version = head.version;
    let has_body = !incoming.is_end_stream();
    let wants_switch = head.extensions.get::<OnUpgrade>().is_some();
    link.begin(version, has_body, wants_switch);
    let recorder = Recorder::begin(shared.clone(), link.clone(), slot, &mut head);

    let limits = &shared.limits;
    let refusal = if version == Version::HTTP_11 && head.headers.get_all(HOST).iter().count() != 1 {
        Some((
            StatusCode::BAD_REQUEST,
            "exactly one Host header is required".to_owned(),
        ))
    } else if incoming.size_hint().lower() > limits.body_bytes {
        let message = format!("the body is larger than {} bytes", limits.body_bytes);
        Some((StatusCode::PAYLOAD_TOO_LARGE, message))
    } else {
        None
    };

    let body = if has_body {
        let bounds = Bounds {
            size: limits.body_bytes,
            silence: limits.body_silence,
            deadline: limits.body_time.map(|time| Instant::now() + time),
        };
        let reading = Reading {
            exchange: recorder.exchange().clone(),
            // Who waits for `100 Continue` has sent nothing yet.
            lingers: !head.headers.contains_key(EXPECT),
            exec: shared.exec.clone(),
        };
        Body::received(incoming, bounds, reading)
    } else {
        Body::empty()
    };

    if let Some((status, message)) = refusal {
        drop(body);
        let mut response = error::text(status, &message);
        if version < Version::HTTP_2 {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
        }
        return (recorder, Err(response));
    }
    head.extensions.insert(recorder.exchange().clone());
    (recorder, Ok(Request::from_parts(head, body)))
}

/// A request's body while it is read.
struct Reading {
    exchange: Exchange,
    lingers: bool,
    exec: Exec,
}

impl Owner for Reading {
    fn read(&self, bytes: u64) {
        self.exchange.add_received(bytes);
    }

    fn release(&mut self, unread: Option<Incoming>) {
        match unread {
            None => self.exchange.link().body_ended(),
            Some(rest) if self.lingers => self.exec.0.spawn(linger(rest)).detach(),
            Some(_) => {}
        }
    }
}

/// Reads what is left of a body nobody wants, so that the client gets to read the response.
async fn linger(mut rest: Incoming) {
    let read = async {
        let mut left = LINGER_BYTES;
        while let Some(Ok(frame)) = rest.frame().await {
            let length = frame.data_ref().map_or(0, Bytes::len) as u64;
            match left.checked_sub(length) {
                Some(now) => left = now,
                None => return,
            }
        }
    };
    let late = async {
        Timer::after(LINGER_TIME).await;
    };
    read.or(late).await;
}
