//! What a connection is doing, as its socket, its requests and its watch see it.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use ::http::{HeaderMap, StatusCode, Version};
use bytes::{Buf, Bytes};
use hyper::rt::{Read, ReadBufCursor, Write};

use super::{LIFETIME_SPREAD, Peer};
use crate::http::io::Stream;

/// The most bytes of interim responses that wait to be written when another one comes.
const INTERIM_BYTES: usize = 16 * 1024;

/// What all parts of one connection share, what it becomes after an upgrade included.
#[derive(Debug)]
pub(super) struct Link {
    pub peer: Peer,
    /// When it is old enough to be ended.
    pub expires: Option<Instant>,
    /// Requests whose response has not ended.
    in_flight: AtomicU64,
    /// Requests begun so far.
    begun: AtomicU64,
    /// Whether bytes came in since the last request began.
    received: AtomicBool,
    is_http2: AtomicBool,
    /// Whether the socket refuses to take more bytes.
    blocked: AtomicBool,
    /// Writes that succeeded so far.
    writes: AtomicU64,
    /// Whether the requests are HTTP/1.0, where the end of the connection may be the end of a body.
    http1_0: AtomicBool,
    /// Whether the connection is to be reset, because its end would pass for that of a body.
    is_cut: AtomicBool,
    /// Whether a request has asked for another protocol. hyper hands the socket over at the next
    /// opportunity then.
    wants_switch: AtomicBool,
    /// Whether the body of the last request has not been read to its end.
    has_body: AtomicBool,
    /// Whether the socket is to stay open when hyper is done with it.
    is_kept: AtomicBool,
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

/// What a connection is waiting for. The numbers tell one wait from the next of its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The head of a request.
    Head(u64),
    /// A handler, or a body.
    Busy,
    /// The client, to read what was written.
    Stalled(u64),
    /// The next request.
    Idle(u64),
}

impl Link {
    pub fn new(peer: Peer, lifetime: Option<Duration>) -> Self {
        Self {
            peer,
            expires: lifetime.and_then(|lifetime| Instant::now().checked_add(spread(lifetime))),
            in_flight: AtomicU64::new(0),
            begun: AtomicU64::new(0),
            received: AtomicBool::new(false),
            is_http2: AtomicBool::new(false),
            blocked: AtomicBool::new(false),
            writes: AtomicU64::new(0),
            http1_0: AtomicBool::new(false),
            is_cut: AtomicBool::new(false),
            wants_switch: AtomicBool::new(false),
            has_body: AtomicBool::new(false),
            is_kept: AtomicBool::new(false),
            is_informing: AtomicBool::new(false),
            interim: Mutex::default(),
        }
    }

    pub fn speaks_http2(&self) {
        self.is_http2.store(true, Ordering::Relaxed);
    }

    pub fn is_http2(&self) -> bool {
        self.is_http2.load(Ordering::Relaxed)
    }

    /// A request begins, in the task of the connection.
    pub fn begin(&self, version: Version, has_body: bool, wants_switch: bool) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        count(&self.begun);
        self.received.store(false, Ordering::Relaxed);
        self.http1_0
            .store(version < Version::HTTP_11, Ordering::Relaxed);
        self.has_body.store(has_body, Ordering::Relaxed);
        if wants_switch {
            self.wants_switch.store(true, Ordering::Relaxed);
        }
    }

    /// Whether there has been a request.
    pub fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Relaxed) > 0
    }

    /// The body of the request has been read to its end.
    pub fn body_ended(&self) {
        self.has_body.store(false, Ordering::Relaxed);
    }

    /// A response has ended.
    pub fn end(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// The body of a response has failed. Where its end is marked, leaving out the mark says so.
    pub fn fail(&self) {
        if self.http1_0.load(Ordering::Relaxed) {
            self.is_cut.store(true, Ordering::Relaxed);
        }
    }

    /// Whether a request has asked for another protocol.
    pub fn wants_switch(&self) -> bool {
        self.wants_switch.load(Ordering::Relaxed)
    }

    /// Whether hyper's part of an idle connection can be left out until the next request.
    pub fn can_park(&self) -> bool {
        !(self.is_http2()
            || self.wants_switch()
            || self.has_body.load(Ordering::Relaxed)
            || self.is_informing.load(Ordering::Relaxed))
    }

    /// Whether the socket stays open when hyper is done with it.
    pub fn keep(&self, is_kept: bool) {
        self.is_kept.store(is_kept, Ordering::Relaxed);
    }

    pub fn phase(&self) -> Phase {
        let begun = self.begun.load(Ordering::Relaxed);
        if self.blocked.load(Ordering::Relaxed) {
            Phase::Stalled(self.writes.load(Ordering::Relaxed))
        } else if self.in_flight.load(Ordering::Relaxed) > 0 {
            Phase::Busy
        } else if begun == 0 || (self.received.load(Ordering::Relaxed) && !self.is_http2()) {
            Phase::Head(begun)
        } else {
            Phase::Idle(begun)
        }
    }

    /// Queues an interim response, if there can be one.
    pub fn inform(&self, status: StatusCode, headers: &HeaderMap) {
        if self.is_http2() || self.http1_0.load(Ordering::Relaxed) {
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
    pub fn poll_informed(&self, context: &Context<'_>) -> Poll<()> {
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
}

/// Counts where one task counts and others only look, which needs no atomic addition.
pub(super) fn count(counter: &AtomicU64) {
    add(counter, 1);
}

/// As [`count`], by more than one.
pub(super) fn add(counter: &AtomicU64, more: u64) {
    let now = counter.load(Ordering::Relaxed).wrapping_add(more);
    counter.store(now, Ordering::Relaxed);
}

/// A little less than `lifetime`, by another share for each connection, so that those that were
/// opened together do not end together.
fn spread(lifetime: Duration) -> Duration {
    // Keys differ each time; who guesses them learns when a connection ends, no more.
    let draw = RandomState::new().build_hasher().finish();
    let share = (draw >> 32) as f64 / f64::from(u32::MAX);
    lifetime.mul_f64(1.0 - LIFETIME_SPREAD * share)
}

/// A stream that notes what happens on it.
pub(super) struct Watched {
    stream: Stream,
    link: Arc<Link>,
    /// What was read already, and is to be read first.
    ahead: Bytes,
}

impl Watched {
    pub fn new(stream: Stream, link: Arc<Link>, ahead: Bytes) -> Self {
        Self {
            stream,
            link,
            ahead,
        }
    }

    /// Puts back what was read and not used.
    pub fn put_back(&mut self, unused: Bytes) {
        // An empty rest would keep the buffer it was cut from.
        self.ahead = if unused.is_empty() {
            Bytes::new()
        } else {
            unused
        };
    }

    /// Ready when there is something to be read, or may be.
    pub fn poll_readable(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.poll_readable(context)
    }

    fn poll_inform(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut interim = self.link.interim();
        while !interim.bytes.is_empty() {
            let written = Pin::new(&mut self.stream).poll_write(context, &interim.bytes);
            let count = ready!(written)?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            interim.bytes.drain(..count);
        }
        self.link.is_informing.store(false, Ordering::Release);
        if let Some(waker) = interim.waker.take() {
            waker.wake();
        }
        Poll::Ready(Ok(()))
    }

    fn note(&self, written: &Poll<io::Result<usize>>) {
        if written.is_ready() {
            count(&self.link.writes);
        }
        self.link
            .blocked
            .store(written.is_pending(), Ordering::Relaxed);
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if self.link.is_cut.load(Ordering::Relaxed) {
            self.stream.reset_when_closed();
        }
    }
}

impl Read for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut cursor: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let mut has_read = false;
        if !this.ahead.is_empty() {
            let length = this.ahead.len().min(cursor.remaining());
            cursor.put_slice(&this.ahead[..length]);
            this.ahead.advance(length);
            if this.ahead.is_empty() {
                this.ahead = Bytes::new();
            }
            has_read = true;
        }
        // What follows goes into the same buffer, which hyper would otherwise take for too small.
        let polled = if has_read && cursor.remaining() == 0 {
            Poll::Pending
        } else {
            Pin::new(&mut this.stream).poll_read(context, cursor)
        };
        let polled = match polled {
            Poll::Pending if has_read => Poll::Ready(Ok(())),
            polled => polled,
        };
        if polled.is_ready() {
            this.link.received.store(true, Ordering::Relaxed);
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
        if self.link.is_informing.load(Ordering::Acquire) {
            ready!(self.poll_inform(context))?;
        }
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.link.is_kept.load(Ordering::Relaxed) {
            return Poll::Ready(Ok(()));
        }
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
