//! The one body type of requests and responses, received and sent.
//!
//! Owns the limits on what is received: size, silence between two pieces, total time. Small bodies
//! cost no allocation; anything that streams is back-pressured by whoever reads it.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;

use super::{BoxError, forward};

/// Why a body ended before its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is longer than the reader allows.
    #[error("the body is larger than {limit} bytes")]
    TooLarge {
        /// The most bytes allowed.
        limit: u64,
    },
    /// The sender paused for too long, or took too long altogether.
    #[error("the body did not arrive in time")]
    TimedOut,
    /// The connection failed, or the framing is invalid.
    #[error("the body was cut short: {0}")]
    Transport(#[from] hyper::Error),
    /// The producer of the body failed.
    #[error(transparent)]
    Producer(BoxError),
}

/// A request or response body.
///
/// It is the same type on every side, so that a proxy passes on what it received.
#[derive(Default)]
pub struct Body(Kind);

#[derive(Default)]
enum Kind {
    #[default]
    Empty,
    Full(Bytes),
    Received(Box<dyn Receive>),
    Streamed(UnsyncBoxBody<Bytes, Error>),
}

impl Body {
    /// No bytes.
    #[must_use]
    pub fn empty() -> Self {
        Self::default()
    }

    /// What `producer` yields, pulled as fast as the peer reads.
    pub fn stream<B>(producer: B) -> Self
    where
        B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        let producer = producer.map_err(|error| Error::Producer(error.into()));
        Self(Kind::Streamed(UnsyncBoxBody::new(producer)))
    }

    /// Reads everything into memory, which is one buffer of at most `limit` bytes.
    ///
    /// # Errors
    ///
    /// The body is longer than `limit`, or it ended early.
    pub async fn collect(self, limit: usize) -> Result<Bytes, Error> {
        let too_large = || Error::TooLarge {
            limit: limit as u64,
        };
        let announced = self.size_hint().lower();
        if announced > limit as u64 {
            return Err(too_large());
        }
        if let Kind::Full(bytes) = self.0 {
            return Ok(bytes);
        }
        let mut limited = Limited::new(self, limit);
        let mut first = Bytes::new();
        let mut joined = BytesMut::new();
        while let Some(frame) = limited.frame().await {
            let frame = frame.map_err(|error| match error.downcast::<Error>() {
                Ok(error) => *error,
                Err(error) if error.is::<LengthLimitError>() => too_large(),
                Err(error) => Error::Producer(error),
            })?;
            let Ok(data) = frame.into_data() else {
                continue;
            };
            if first.is_empty() && joined.is_empty() {
                // Most bodies come in one piece, which is then passed on as it is.
                first = data;
            } else {
                if joined.is_empty() {
                    // `announced` is within `limit`, so a peer cannot make this larger.
                    joined.reserve((announced as usize).max(first.len() + data.len()));
                    joined.extend_from_slice(&std::mem::take(&mut first));
                }
                joined.extend_from_slice(&data);
            }
        }
        Ok(if joined.is_empty() {
            first
        } else {
            joined.freeze()
        })
    }

    /// The same body of any size that takes as long as it takes, to be passed on to somebody who
    /// bounds it.
    #[must_use]
    pub fn unbounded(mut self) -> Self {
        if let Kind::Received(received) = &mut self.0 {
            received.unbind();
        }
        self
    }

    /// A body from the network, held to `bounds`, on behalf of `owner`.
    pub(super) fn received(incoming: Incoming, bounds: Bounds, mut owner: impl Owner) -> Self {
        if incoming.is_end_stream() {
            owner.release(None);
            return Self::empty();
        }
        Self(Kind::Received(Box::new(Received {
            state: Some((incoming, owner)),
            left: bounds.size,
            bounds,
            alarm: None,
        })))
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self(if bytes.is_empty() {
            Kind::Empty
        } else {
            Kind::Full(bytes)
        })
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::from(bytes).into()
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Bytes::from(text).into()
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        Bytes::from_static(text.as_bytes()).into()
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.0 {
            Kind::Empty => "empty",
            Kind::Full(_) => "full",
            Kind::Received(_) => "received",
            Kind::Streamed(_) => "streamed",
        };
        write!(formatter, "Body({kind}, {:?})", self.size_hint())
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let kind = &mut self.get_mut().0;
        match kind {
            Kind::Empty => Poll::Ready(None),
            Kind::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                *kind = Kind::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Kind::Received(received) => received.poll(context),
            Kind::Streamed(stream) => Pin::new(stream).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Empty => true,
            Kind::Full(_) => false,
            Kind::Received(received) => received
                .incoming()
                .is_none_or(http_body::Body::is_end_stream),
            Kind::Streamed(stream) => stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Received(received) => received
                .incoming()
                .map_or_else(|| SizeHint::with_exact(0), http_body::Body::size_hint),
            Kind::Streamed(stream) => stream.size_hint(),
        }
    }
}

/// What a received body may cost.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// The most bytes of data.
    pub size: u64,
    /// The longest wait for the next piece; `Duration::MAX` for any.
    pub silence: Duration,
    /// When the last piece must have arrived.
    pub deadline: Option<Instant>,
}

impl Bounds {
    /// A body of any size that takes as long as it takes: it goes to somebody who bounds it.
    pub const NONE: Self = Self {
        size: u64::MAX,
        silence: Duration::MAX,
        deadline: None,
    };

    fn are_timed(&self) -> bool {
        self.silence != Duration::MAX || self.deadline.is_some()
    }
}

/// Whoever the connection of a received body belongs to.
pub(super) trait Owner: Send + Sync + 'static {
    /// So many bytes of the body were read.
    fn read(&self, _bytes: u64) {}

    /// Called once: at the end of the body with nothing, or with what is left unread when the body
    /// is dropped or breaks its bounds.
    fn release(&mut self, unread: Option<Incoming>);
}

/// A received body, whoever owns it.
trait Receive: Send {
    fn incoming(&self) -> Option<&Incoming>;

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>>;

    fn unbind(&mut self);
}

struct Received<O: Owner> {
    /// Gone once the body has ended or failed.
    state: Option<(Incoming, O)>,
    left: u64,
    bounds: Bounds,
    /// Armed while waiting for a piece; a body that is already there needs no timer.
    alarm: Option<smol::Timer>,
}

impl<O: Owner> Receive for Received<O> {
    fn incoming(&self) -> Option<&Incoming> {
        self.state.as_ref().map(|(incoming, _)| incoming)
    }

    fn unbind(&mut self) {
        (self.left, self.bounds) = (Bounds::NONE.size, Bounds::NONE);
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let Some((incoming, owner)) = &mut self.state else {
            return Poll::Ready(None);
        };
        let Poll::Ready(frame) = Pin::new(incoming).poll_frame(context) else {
            let bounds = self.bounds;
            if !bounds.are_timed() {
                return Poll::Pending;
            }
            let alarm = self.alarm.get_or_insert_with(|| {
                let silent = Instant::now().checked_add(bounds.silence);
                let next = silent.into_iter().chain(bounds.deadline).min();
                next.map_or_else(smol::Timer::never, smol::Timer::at)
            });
            ready!(Pin::new(alarm).poll(context));
            self.release(false);
            return Poll::Ready(Some(Err(Error::TimedOut)));
        };
        self.alarm = None;
        let result = frame.map(|frame| {
            let mut frame = frame?;
            if let Some(trailers) = frame.trailers_mut() {
                forward::strip_trailers(trailers);
            }
            let length = frame.data_ref().map_or(0, Bytes::len) as u64;
            owner.read(length);
            let left = self.left.checked_sub(length);
            self.left = left.ok_or(Error::TooLarge {
                limit: self.bounds.size,
            })?;
            Ok(frame)
        });
        match &result {
            // The length is only known beforehand when it was announced.
            None => self.release(true),
            Some(Err(_)) => self.release(false),
            Some(Ok(_)) if self.incoming().is_some_and(http_body::Body::is_end_stream) => {
                self.release(true);
            }
            Some(Ok(_)) => {}
        }
        Poll::Ready(result)
    }
}

impl<O: Owner> Received<O> {
    fn release(&mut self, ended: bool) {
        if let Some((incoming, mut owner)) = self.state.take() {
            owner.release((!ended).then_some(incoming));
        }
    }
}

impl<O: Owner> Drop for Received<O> {
    fn drop(&mut self) {
        self.release(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::StreamBody;

    fn pieces(pieces: &[&'static str]) -> Body {
        let frames: Vec<Result<_, Error>> = pieces
            .iter()
            .map(|piece| Ok(Frame::data(Bytes::from_static(piece.as_bytes()))))
            .collect();
        Body::stream(StreamBody::new(smol::stream::iter(frames)))
    }

    #[test]
    fn collecting_joins_the_pieces_within_the_limit() {
        smol::block_on(async {
            assert_eq!(Body::empty().collect(0).await.unwrap(), "");
            assert_eq!(Body::from("four").collect(4).await.unwrap(), "four");
            assert_eq!(
                pieces(&["a", "", "bc", "d"]).collect(4).await.unwrap(),
                "abcd"
            );
            assert_eq!(pieces(&["", "x"]).collect(9).await.unwrap(), "x");
            for body in [Body::from("four"), pieces(&["fo", "ur"]), pieces(&["four"])] {
                let error = body.collect(3).await.unwrap_err();
                assert!(matches!(error, Error::TooLarge { limit: 3 }), "{error}");
            }
        });
    }

    #[test]
    fn a_failing_producer_keeps_its_cause() {
        let failing = StreamBody::new(smol::stream::iter([Err::<Frame<Bytes>, _>(
            std::io::Error::other("the pipe broke"),
        )]));
        let error = smol::block_on(Body::stream(failing).collect(10)).unwrap_err();
        assert_eq!(error.to_string(), "the pipe broke");
    }

    #[test]
    fn sizes_are_known_when_they_can_be() {
        assert_eq!(Body::from("abc").size_hint().exact(), Some(3));
        assert!(Body::from("").is_end_stream());
        assert_eq!(pieces(&["abc"]).size_hint().exact(), None);
    }
}
