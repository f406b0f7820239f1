//! One request and its response, from the first byte read to the last byte written.
//!
//! Owns the promise that each exchange is recorded exactly once, however it ends.

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use ::http::header::{CONNECTION, CONTENT_LENGTH, Entry};
use ::http::request::Parts;
use ::http::{HeaderMap, HeaderValue, Method, StatusCode};
use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};

use super::link::{self, Link};
use super::{Handler, Observer, Shared, Slot};
use crate::http::{Body, Response, body};

/// The route of a request that matched no template.
pub const UNKNOWN_ROUTE: &str = "unknown";

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A TCP client.
    Tcp(SocketAddr),
    /// A client of the Unix socket.
    Unix,
}

/// What the server knows of a request besides its head; an extension of every request.
///
/// Holding one holds the connection's place among those a server may have open, and the end of
/// [`Server::serve`](super::Server::serve) waits for it. A tunnel holds one for as long as it runs.
#[derive(Clone, Debug)]
pub struct Exchange(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    link: Arc<Link>,
    _slot: Arc<Slot>,
    method: Method,
    started: Instant,
    route: OnceLock<&'static str>,
    received: AtomicU64,
    sent: AtomicU64,
}

impl Exchange {
    fn new(link: Arc<Link>, slot: Arc<Slot>, method: Method) -> Self {
        Self(Arc::new(Inner {
            link,
            _slot: slot,
            method,
            started: Instant::now(),
            route: OnceLock::new(),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
        }))
    }

    /// The connection it takes place on.
    pub(super) fn link(&self) -> &Link {
        &self.0.link
    }

    /// The bytes of the request's body read so far.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.0.received.load(Ordering::Relaxed)
    }

    /// The bytes of the response's body handed to the connection so far.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.0.sent.load(Ordering::Relaxed)
    }

    /// Sends an interim response (1xx) before the response. Only for a handler, from within its own
    /// future. HTTP/1.0 has no interim responses, hyper none over HTTP/2, and there is a limit to
    /// what may wait; beyond these nothing is sent, which a client has to expect.
    pub fn inform(&self, status: StatusCode, headers: &HeaderMap) {
        self.0.link.inform(status, headers);
    }

    pub(super) fn add_received(&self, bytes: u64) {
        link::add(&self.0.received, bytes);
    }

    /// Who sent the request.
    #[must_use]
    pub fn peer(&self) -> Peer {
        self.0.link.peer
    }

    /// Notes the template the request matched; the first one stays.
    pub fn set_route(&self, template: &'static str) {
        let _ = self.0.route.set(template);
    }

    /// The template noted, or [`UNKNOWN_ROUTE`].
    #[must_use]
    pub fn route(&self) -> &'static str {
        self.0.route.get().copied().unwrap_or(UNKNOWN_ROUTE)
    }
}

/// How an exchange ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The whole response was handed to the connection.
    Complete,
    /// The client went away, or the body failed, before the end of the response.
    Aborted,
    /// The handler or the body panicked.
    Panicked,
}

/// What there is to say about an exchange when it is over.
#[derive(Clone, Debug)]
pub struct Access {
    /// The method of the request.
    pub method: Method,
    /// The template the request matched, or [`UNKNOWN_ROUTE`].
    pub route: &'static str,
    /// The status answered; `None` when the client left before there was one.
    pub status: Option<StatusCode>,
    /// From the head of the request to the end of the response.
    pub duration: Duration,
    /// The bytes of the request body that were read.
    pub received: u64,
    /// The bytes of the response body handed to the connection.
    pub bytes: u64,
    /// How it ended.
    pub outcome: Outcome,
    /// What the body of the response said when it failed; none if it did not.
    pub failure: Option<String>,
}

/// Tells the observer about an exchange when it is dropped.
pub(super) struct Recorder<H: Handler, O: Observer> {
    shared: Arc<Shared<H, O>>,
    span: Option<O::Span>,
    exchange: Exchange,
    status: Option<StatusCode>,
    outcome: Outcome,
    failure: Option<String>,
}

impl<H: Handler, O: Observer> Recorder<H, O> {
    pub(super) fn begin(
        shared: Arc<Shared<H, O>>,
        link: Arc<Link>,
        slot: Arc<Slot>,
        head: &mut Parts,
    ) -> Self {
        let span = shared.observer.begin(head, &link.peer);
        shared.observer.share(&span, &mut head.extensions);
        Self {
            shared,
            span: Some(span),
            exchange: Exchange::new(link, slot, head.method.clone()),
            status: None,
            outcome: Outcome::Aborted,
            failure: None,
        }
    }

    pub(super) fn exchange(&self) -> &Exchange {
        &self.exchange
    }

    pub(super) fn panicked(&mut self) {
        self.outcome = Outcome::Panicked;
    }

    /// Goes on recording while the body of `response` is sent, if it may have one.
    pub(super) fn attach(mut self, response: Response) -> ::http::Response<Recorded<H, O>> {
        let (mut head, mut body) = response.into_parts();
        self.status = Some(head.status);
        let exchange = &self.exchange.0;
        let is_last = exchange
            .link
            .expires
            .is_some_and(|at| exchange.started >= at);
        if is_last && !exchange.link.is_http2() && head.status != StatusCode::SWITCHING_PROTOCOLS {
            // The connection is old enough, and the client waits for nothing else on it.
            let close = HeaderValue::from_static("close");
            head.headers.insert(CONNECTION, close);
        }
        let head_only = exchange.method == Method::HEAD;
        if head_only
            && let (Some(length @ 1..), Entry::Vacant(entry)) =
                (body.size_hint().exact(), head.headers.entry(CONTENT_LENGTH))
        {
            // Nothing says nothing about the length: a proxied answer never has the body.
            entry.insert(length.into());
        }
        let bodiless = head.status.is_informational()
            || head.status == StatusCode::NO_CONTENT
            || head.status == StatusCode::NOT_MODIFIED;
        if head_only || bodiless {
            // In HTTP/2 hyper would send it all the same.
            body = Body::empty();
        }
        if body.is_end_stream() {
            self.complete();
        }
        let recorded = Recorded {
            body,
            failure: None,
            recorder: self,
        };
        ::http::Response::from_parts(head, recorded)
    }

    fn complete(&mut self) {
        if self.outcome == Outcome::Aborted {
            self.outcome = Outcome::Complete;
        }
    }
}

impl<H: Handler, O: Observer> Drop for Recorder<H, O> {
    fn drop(&mut self) {
        let exchange = &self.exchange.0;
        exchange.link.end();
        if let Some(span) = self.span.take() {
            let access = Access {
                method: exchange.method.clone(),
                route: self.exchange.route(),
                status: self.status,
                duration: exchange.started.elapsed(),
                received: self.exchange.received(),
                bytes: self.exchange.sent(),
                outcome: self.outcome,
                failure: self.failure.take(),
            };
            self.shared.observer.end(span, access);
        }
    }
}

/// A response body on its way out.
pub(super) struct Recorded<H: Handler, O: Observer> {
    body: Body,
    /// Why it has failed, until what came before that is written.
    failure: Option<body::Error>,
    recorder: Recorder<H, O>,
}

// Nothing is pinned: the body is `Unpin`, and the span is only moved.
impl<H: Handler, O: Observer> Unpin for Recorded<H, O> {}

impl<H: Handler, O: Observer> http_body::Body for Recorded<H, O> {
    type Data = Bytes;
    type Error = body::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, body::Error>>> {
        let this = &mut *self;
        if let Some(error) = this.failure.take() {
            this.recorder.failure = Some(error.to_string());
            this.recorder.exchange.link().fail();
            return Poll::Ready(Some(Err(error)));
        }
        let body = Pin::new(&mut this.body);
        let polled = catch_unwind(AssertUnwindSafe(|| body.poll_frame(context)));
        let Ok(polled) = polled else {
            this.recorder.panicked();
            let cause = "the response body panicked".into();
            return Poll::Ready(Some(Err(body::Error::Producer(cause))));
        };
        match &polled {
            Poll::Pending => {}
            Poll::Ready(Some(Err(_))) => {}
            Poll::Ready(None) => this.recorder.complete(),
            Poll::Ready(Some(Ok(frame))) => {
                let length = frame.data_ref().map_or(0, Bytes::len) as u64;
                link::add(&this.recorder.exchange.0.sent, length);
                if this.body.is_end_stream() {
                    this.recorder.complete();
                }
            }
        }
        match polled {
            // hyper closes the connection at once, with what it has not written yet. It writes
            // before it asks again.
            Poll::Ready(Some(Err(error))) => {
                this.failure = Some(error);
                context.waker().wake_by_ref();
                Poll::Pending
            }
            polled => polled,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
