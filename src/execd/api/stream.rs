//! The response that streams an execution (contract 4).
//!
//! Owns its pace: nothing is taken from the execution before the client has taken what came before,
//! and no more is turned into events at once than fills a frame. Dropping it, as the server does
//! when the client is gone, drops the execution's output; what that means is the engine's.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue};
use http_body::Frame;
use smol::Timer;
use smol::channel::Receiver;
use smol::stream::Stream as _;

use crate::execd::command::{Event, Outcome, Stream};
use crate::execd::frames::{End, Frames};
use crate::execd::lines::Rule;
use crate::http::{Body, BoxError, Response};

/// How often a client is told that the connection is alive.
pub const PING: Duration = Duration::from_secs(3);

/// The bytes of output that are turned into events before it is seen whether they fill a frame. Each
/// of them may become an event of its own.
const SLICE: usize = 4 * 1024;

/// The bytes of events that fill a frame; the rest of the output waits until they were sent. Events
/// never wait for more of them.
const FRAME: usize = 64 * 1024;

/// What an execution that waits for its turn will give: its events, or why it cannot begin.
pub(super) type Beginning = Pin<Box<dyn Future<Output = Result<Receiver<Event>, String>> + Send>>;

enum Source {
    Waiting(Beginning),
    Running(Pin<Box<Receiver<Event>>>),
    /// Everything is in the frames.
    Ended,
}

/// The events of one execution.
pub(super) struct Events {
    source: Source,
    frames: Frames,
    /// What has not been turned into events yet.
    output: (Stream, Bytes),
    ping: Timer,
}

impl Events {
    fn new(id: &str, rule: Rule, source: Source) -> Self {
        let mut frames = Frames::new(rule);
        let now = milliseconds();
        frames.init(id, now);
        frames.ping(now);
        Self {
            source,
            frames,
            output: (Stream::Stdout, Bytes::new()),
            ping: Timer::interval(PING),
        }
    }

    /// Those of a command that runs.
    pub(super) fn of_command(id: &str, events: Receiver<Event>) -> Self {
        Self::new(id, Rule::Command, Source::Running(Box::pin(events)))
    }

    /// Those of a text that waits for its turn in a session.
    pub(super) fn of_run(id: &str, beginning: Beginning) -> Self {
        Self::new(id, Rule::Session, Source::Waiting(beginning))
    }

    /// Those of an execution of which all is known.
    pub(super) fn of_end(id: &str, end: &End) -> Self {
        let mut events = Self::new(id, Rule::Command, Source::Ended);
        events.frames.end(end, milliseconds());
        events
    }

    /// The response that consists of them.
    pub(super) fn response(self) -> Response {
        let mut response = Response::new(Body::stream(self));
        stream_headers(&mut response);
        response
    }

    fn end(&mut self, end: &End) {
        self.frames.end(end, milliseconds());
        self.source = Source::Ended;
    }
}

/// What every endless response of the API carries.
pub(super) fn stream_headers(response: &mut Response) {
    let headers = response.headers_mut();
    for (name, value) in [
        (CONTENT_TYPE, "text/event-stream"),
        (CACHE_CONTROL, "no-cache"),
        (CONNECTION, "keep-alive"),
        (HeaderName::from_static("x-accel-buffering"), "no"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

/// Milliseconds since 1970.
pub(super) fn milliseconds() -> u128 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_millis()
}

/// The end of an execution that began.
fn end_of(outcome: Outcome) -> End {
    if outcome.is_success() {
        return End::Complete {
            milliseconds: outcome.elapsed.as_millis(),
        };
    }
    End::Error {
        value: outcome.code().to_string(),
        traceback: outcome.traceback(),
    }
}

/// The end of an execution that never began.
pub(super) fn never_began(cause: String) -> End {
    End::Error {
        value: cause.clone(),
        traceback: vec![cause],
    }
}

impl http_body::Body for Events {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        loop {
            let (stream, output) = &mut this.output;
            if !output.is_empty() && this.frames.len() < FRAME {
                if this.frames.is_empty() {
                    this.frames.reserve(output.len().min(FRAME / 2 + SLICE));
                }
                let slice = output.split_to(output.len().min(SLICE));
                this.frames.output(*stream, &slice, milliseconds());
                continue;
            }
            if !this.frames.is_empty() {
                let bytes = Bytes::from(this.frames.take());
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            if matches!(this.source, Source::Ended) {
                return Poll::Ready(None);
            }
            if Pin::new(&mut this.ping).poll_next(context).is_ready() {
                this.frames.ping(milliseconds());
            }
            match &mut this.source {
                Source::Waiting(beginning) => match beginning.as_mut().poll(context) {
                    Poll::Ready(Ok(events)) => this.source = Source::Running(Box::pin(events)),
                    Poll::Ready(Err(cause)) => this.end(&never_began(cause)),
                    Poll::Pending if this.frames.is_empty() => return Poll::Pending,
                    Poll::Pending => {}
                },
                Source::Running(events) => match events.as_mut().poll_next(context) {
                    Poll::Ready(Some(Event::Output(stream, bytes))) => {
                        this.output = (stream, bytes);
                    }
                    Poll::Ready(Some(Event::End(outcome))) => this.end(&end_of(outcome)),
                    Poll::Ready(None) => {
                        // Only a panic in the engine leaves an execution without an end.
                        this.end(&never_began("the execution was lost".to_owned()));
                    }
                    Poll::Pending if this.frames.is_empty() => return Poll::Pending,
                    Poll::Pending => {}
                },
                Source::Ended => {}
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.source, Source::Ended) && self.frames.is_empty()
    }
}
