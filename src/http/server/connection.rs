//! One connection: its protocol, its deadlines, its requests.
//!
//! Owns the watch over a connection. A request under way is bounded by its body's limits and by
//! the client reading the response; between requests the client has to get on with it.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use ::http::header::{CONNECTION, EXPECT, HOST};
use ::http::{HeaderMap, HeaderValue, Response, StatusCode, Version};
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::service::service_fn;
use hyper_util::server::conn::auto::Builder;
use smol::Timer;
use smol::future::FutureExt;

use super::exchange::{Exchange, Peer, Recorded, Recorder};
use super::{
    FIRST_REQUEST, Handler, LINGER_BYTES, LINGER_TIME, Limits, MAX_ERROR_RESETS,
    MAX_PENDING_RESETS, MAX_STREAMS, Observer, PING_INTERVAL, STREAM_SEND_BYTES, Shared, Slot,
};
use crate::http::body::{Bounds, Owner};
use crate::http::io::{Clock, Exec, Stream};
use crate::http::{Body, Request, error};

/// The most bytes of interim responses that wait to be written when another one comes.
const INTERIM_BYTES: usize = 16 * 1024;

/// hyper's smallest read buffer.
const READ_BUFFER_BYTES: usize = 8192;

/// Serves one connection until either side closes it, it breaks a limit, or the drain is over.
pub(super) async fn serve<H: Handler, O: Observer>(
    shared: Arc<Shared<H, O>>,
    stream: Stream,
    peer: Peer,
    slot: Slot,
) {
    let slot = Arc::new(slot);
    let activity = Arc::new(Activity::default());
    let service = service_fn({
        let (shared, activity, slot) = (shared.clone(), activity.clone(), slot.clone());
        move |request| {
            let exchange = Exchange::new(peer, slot.clone(), activity.clone());
            let answer = answer(shared.clone(), activity.clone(), exchange, request);
            async move { Ok::<_, Infallible>(answer.await) }
        }
    });
    let builder = builder(&shared.limits, &shared.exec);
    let watched = Watched {
        stream,
        activity: activity.clone(),
    };
    let mut connection = pin!(builder.serve_connection_with_upgrades(watched, service));
    let mut watch = Watch::new(&activity, &shared.limits);
    let mut asked_to_end = pin!(shared.shutdown.wait());
    let ended = poll_fn(|context| {
        if let Poll::Ready(result) = connection.as_mut().poll(context) {
            return Poll::Ready(Ended::ByItself(result));
        }
        if asked_to_end.as_mut().poll(context).is_ready() {
            return Poll::Ready(Ended::ToBeClosed);
        }
        watch.poll(context)
    })
    .await;
    match ended {
        Ended::ByItself(Err(error)) => {
            if let Some(error) = error.downcast_ref::<hyper::Error>()
                && error.is_parse()
            {
                shared.observer.malformed(&peer, error);
            }
        }
        Ended::ByItself(Ok(())) | Ended::OutOfTime => {}
        Ended::ToBeClosed => {
            let rest = async {
                if is_asked(connection.as_mut(), &activity).await {
                    connection.as_mut().graceful_shutdown();
                    let _ended = connection.await;
                }
            };
            let rest = shared.shutdown.drain(shared.limits.drain_time, rest);
            if let Err(cut) = rest.await {
                // One report is as good as many, so a full channel is no loss.
                let _ = slot.running.try_send(cut);
            }
        }
    }
}

/// Goes on until a request has begun, or none came for [`FIRST_REQUEST`]: the request of a client
/// that was let in just now is on its way, and hyper would hang up on it. Whether the connection is
/// still to be ended.
async fn is_asked<E>(
    mut connection: Pin<&mut impl Future<Output = Result<(), E>>>,
    activity: &Activity,
) -> bool {
    let asked = poll_fn(|context| match connection.as_mut().poll(context) {
        Poll::Ready(_) => Poll::Ready(false),
        Poll::Pending if activity.begun.load(Ordering::Relaxed) > 0 => Poll::Ready(true),
        Poll::Pending => Poll::Pending,
    });
    let late = async {
        Timer::after(FIRST_REQUEST).await;
        true
    };
    asked.or(late).await
}

fn builder(limits: &Limits, exec: &Exec) -> Builder<Exec> {
    let mut builder = Builder::new(exec.clone());
    builder
        .http1()
        .timer(Clock)
        // The watch below tells an idle connection from a slow head; hyper would not.
        .header_read_timeout(None)
        .max_buf_size(limits.header_bytes.max(READ_BUFFER_BYTES));
    builder
        .http2()
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
    builder
}

/// Answers one request, whatever the handler does.
async fn answer<H: Handler, O: Observer>(
    shared: Arc<Shared<H, O>>,
    activity: Arc<Activity>,
    exchange: Exchange,
    request: Request<Incoming>,
) -> Response<Recorded<H, O>> {
    let (mut head, incoming) = request.into_parts();
    let version = head.version;
    let mut recorder = Recorder::begin(
        shared.clone(),
        activity.clone(),
        &mut head,
        exchange.clone(),
    );

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

    let bounds = Bounds {
        size: limits.body_bytes,
        silence: limits.body_silence,
        deadline: limits.body_time.map(|time| Instant::now() + time),
    };
    let reading = Reading {
        exchange: exchange.clone(),
        // Who waits for `100 Continue` has sent nothing yet.
        lingers: !head.headers.contains_key(EXPECT),
        exec: shared.exec.clone(),
    };
    let body = Body::received(incoming, bounds, reading);

    let response = if let Some((status, message)) = refusal {
        drop(body);
        let mut response = error::text(status, &message);
        if version < Version::HTTP_2 {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
        }
        response
    } else {
        head.extensions.insert(exchange);
        let handling = shared.handler.handle(Request::from_parts(head, body));
        let handled = AssertUnwindSafe(handling).catch_unwind().await;
        // The response may only follow when what comes before it is written.
        poll_fn(|context| activity.poll_informed(context)).await;
        match handled {
            Ok(mut response) => {
                // hyper says so by itself, but only if it knew before the request came.
                if version < Version::HTTP_2 && shared.shutdown.is_triggered() {
                    let close = HeaderValue::from_static("close");
                    response.headers_mut().entry(CONNECTION).or_insert(close);
                }
                response
            }
            // The panic itself went to the process's panic hook.
            Err(_) => {
                recorder.panicked();
                let mut response = Response::new(Body::empty());
                *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
                response
            }
        }
    };
    recorder.attach(response)
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
        if let (true, Some(rest)) = (self.lingers, unread) {
            self.exec.0.spawn(linger(rest)).detach();
        }
    }
}

/// Reads what is left of a body nobody wants, so that the client gets to read the response.
async fn linger(mut rest: Incoming) {
    let read = async {
        let mut left = LINGER_BYTES;
        while let Some(Ok(frame)) = rest.frame().await {
            let length = frame.data_ref().map_or(0, bytes::Bytes::len) as u64;
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

/// What a connection is doing, as its socket, its requests and its watch see it.
#[derive(Debug, Default)]
pub(super) struct Activity {
    /// Requests whose response has not ended.
    pub(super) in_flight: AtomicU64,
    /// Requests begun so far.
    begun: AtomicU64,
    /// Whether bytes came in since the last request began.
    received: AtomicBool,
    http2: AtomicBool,
    /// Whether the socket refuses to take more bytes.
    blocked: AtomicBool,
    /// Writes that succeeded so far.
    writes: AtomicU64,
    /// Whether the requests are HTTP/1.0, where the end of the connection may be the end of a body.
    http1_0: AtomicBool,
    /// Whether the connection is to be reset, because its end would pass for that of a body.
    is_cut: AtomicBool,
    /// Whether there is an interim response to be written.
    is_informing: AtomicBool,
    interim: Mutex<Interim>,
}

/// Interim responses (1xx) on their way. hyper has no place for them on the server's side, so they
/// are written past it: while a handler works, and everything hyper has for the client is written.
#[derive(Debug, Default)]
struct Interim {
    bytes: Vec<u8>,
    /// Wakes the handler when they are written.
    waker: Option<Waker>,
}

impl Activity {
    pub(super) fn begin(&self, version: Version) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        self.begun.fetch_add(1, Ordering::Relaxed);
        self.received.store(false, Ordering::Relaxed);
        self.http2
            .store(version == Version::HTTP_2, Ordering::Relaxed);
        self.http1_0
            .store(version < Version::HTTP_11, Ordering::Relaxed);
    }

    /// Queues an interim response, if there can be one.
    pub(super) fn inform(&self, status: StatusCode, headers: &HeaderMap) {
        if self.http2.load(Ordering::Relaxed) || self.http1_0.load(Ordering::Relaxed) {
            return;
        }
        let mut interim = self.interim();
        if interim.bytes.len() > INTERIM_BYTES {
            return;
        }
        let reason = status.canonical_reason().unwrap_or_default();
        let line = format!("HTTP/1.1 {} {reason}\r\n", status.as_str());
        interim.bytes.extend_from_slice(line.as_bytes());
        for (name, value) in headers {
            for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                interim.bytes.extend_from_slice(part);
            }
        }
        interim.bytes.extend_from_slice(b"\r\n");
        self.is_informing.store(true, Ordering::Release);
    }

    /// Ready when no interim response waits to be written.
    fn poll_informed(&self, context: &Context<'_>) -> Poll<()> {
        if !self.is_informing.load(Ordering::Acquire) {
            return Poll::Ready(());
        }
        let mut interim = self.interim();
        if interim.bytes.is_empty() {
            return Poll::Ready(());
        }
        interim.waker = Some(context.waker().clone());
        Poll::Pending
    }

    fn interim(&self) -> MutexGuard<'_, Interim> {
        self.interim.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The body of a response has failed. Where its end is marked, leaving out the mark says so.
    pub(super) fn fail(&self) {
        if self.http1_0.load(Ordering::Relaxed) {
            self.is_cut.store(true, Ordering::Relaxed);
        }
    }

    fn phase(&self) -> Phase {
        let begun = self.begun.load(Ordering::Relaxed);
        if self.blocked.load(Ordering::Relaxed) {
            Phase::Stalled(self.writes.load(Ordering::Relaxed))
        } else if self.in_flight.load(Ordering::Relaxed) > 0 {
            Phase::Busy
        } else if begun == 0
            || (self.received.load(Ordering::Relaxed) && !self.http2.load(Ordering::Relaxed))
        {
            Phase::Head(begun)
        } else {
            Phase::Idle(begun)
        }
    }
}

/// What a connection is waiting for. The numbers tell one wait from the next of its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The head of a request.
    Head(u64),
    /// A handler, or a body.
    Busy,
    /// The client, to read what was written.
    Stalled(u64),
    /// The next request.
    Idle(u64),
}

enum Ended<E> {
    ByItself(Result<(), E>),
    OutOfTime,
    /// It is to end as soon as what is under way is done.
    ToBeClosed,
}

/// The deadlines of a connection, on one timer that is rarely touched: it is armed for the nearest
/// deadline and, when it fires, armed again if that deadline has moved.
struct Watch<'a> {
    activity: &'a Activity,
    limits: &'a Limits,
    phase: Phase,
    since: Instant,
    armed: Instant,
    timer: Timer,
}

impl<'a> Watch<'a> {
    fn new(activity: &'a Activity, limits: &'a Limits) -> Self {
        let now = Instant::now();
        let armed = now + limits.header_time;
        Self {
            activity,
            limits,
            phase: activity.phase(),
            since: now,
            armed,
            timer: Timer::at(armed),
        }
    }

    fn poll<E>(&mut self, context: &mut Context<'_>) -> Poll<Ended<E>> {
        loop {
            let now = Instant::now();
            let phase = self.activity.phase();
            if phase != self.phase {
                (self.phase, self.since) = (phase, now);
            }
            let (limit, end) = self.sentence();
            let deadline = match end {
                Some(end) if self.since + limit <= now => return Poll::Ready(end),
                Some(_) => self.since + limit,
                // A response that ends on another thread wakes nobody here, so look again.
                None => now + limit,
            };
            if deadline < self.armed {
                self.armed = deadline;
                self.timer.set_at(deadline);
            }
            if Pin::new(&mut self.timer).poll(context).is_pending() {
                return Poll::Pending;
            }
            self.armed = now + Duration::from_secs(u32::MAX.into());
        }
    }

    /// How long the present phase may last, and what happens then.
    fn sentence<E>(&self) -> (Duration, Option<Ended<E>>) {
        match self.phase {
            Phase::Head(_) => (self.limits.header_time, Some(Ended::OutOfTime)),
            Phase::Stalled(_) => (self.limits.write_stall, Some(Ended::OutOfTime)),
            Phase::Idle(_) => (self.limits.idle_time, Some(Ended::ToBeClosed)),
            Phase::Busy => (self.limits.idle_time, None),
        }
    }
}

/// A stream that notes what happens on it.
struct Watched {
    stream: Stream,
    activity: Arc<Activity>,
}

impl Watched {
    fn poll_inform(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut interim = self.activity.interim();
        while !interim.bytes.is_empty() {
            let written = Pin::new(&mut self.stream).poll_write(context, &interim.bytes);
            let count = ready!(written)?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            interim.bytes.drain(..count);
        }
        self.activity.is_informing.store(false, Ordering::Release);
        if let Some(waker) = interim.waker.take() {
            waker.wake();
        }
        Poll::Ready(Ok(()))
    }

    fn note(&self, written: &Poll<io::Result<usize>>) {
        if written.is_ready() {
            self.activity.writes.fetch_add(1, Ordering::Relaxed);
        }
        self.activity
            .blocked
            .store(written.is_pending(), Ordering::Relaxed);
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if self.activity.is_cut.load(Ordering::Relaxed) {
            self.stream.reset_when_closed();
        }
    }
}

impl Read for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        cursor: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_read(context, cursor);
        if polled.is_ready() {
            self.activity.received.store(true, Ordering::Relaxed);
        }
        polled
    }
}

impl Write for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.note(&polled);
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.activity.is_informing.load(Ordering::Acquire) {
            ready!(self.poll_inform(context))?;
        }
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.note(&polled);
        polled
    }
}
