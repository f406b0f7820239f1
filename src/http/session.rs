//! A connection to a server, with one exchange after the other on it.
//!
//! Owns who drives it: whoever waits for the head of a response does, within its own task, so that
//! a request wakes no other one. What is left of an exchange after that is driven by a task of its
//! own, and an unused connection by nobody: it is looked at when something happens on it. Never
//! knows where a connection leads.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{self, SendRequest};

use super::io::{Drained, Stream};
use super::{Body, Request, Response};

/// A connection that speaks HTTP/1.1.
pub(super) struct Session {
    requests: SendRequest<Body>,
    /// What reads and writes; gone once the connection has ended.
    driver: Option<Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>>,
    relay: Arc<Relay>,
    waker: Waker,
    /// What is known of the socket.
    drained: Option<Drained>,
    made: Instant,
}

impl Session {
    /// Speaks HTTP on `stream`, with heads of at most `head_bytes`, which is also the most that is
    /// read at once.
    pub(super) async fn new(stream: Stream, head_bytes: usize) -> hyper::Result<Self> {
        let drained = stream.drained();
        let (requests, driver) = http1::Builder::new()
            .max_buf_size(head_bytes)
            .max_header_size(head_bytes)
            .handshake(stream)
            .await?;
        let relay = Arc::<Relay>::default();
        Ok(Self {
            requests,
            driver: Some(Box::pin(driver.with_upgrades())),
            waker: Waker::from(relay.clone()),
            relay,
            drained,
            made: Instant::now(),
        })
    }

    /// Sends a request and waits for the head of the response. Dropping the future leaves the
    /// connection in the middle of the exchange; it is of no use any more.
    ///
    /// # Errors
    ///
    /// There is no response. The request is given back if not a byte of it was written.
    pub(super) fn send(
        &mut self,
        request: Request,
    ) -> impl Future<Output = Result<Response<Incoming>, TrySendError<Request>>> {
        // On the heap, because it has room for the request, and is handed on.
        let mut response = Box::pin(self.requests.try_send_request(request));
        poll_fn(move |context| {
            // An ended connection has told the response why.
            let _ = self.drive(context);
            // Nothing but driving completes it, so there is nobody to be woken.
            let response = response.as_mut();
            response.poll(&mut Context::from_waker(Waker::noop()))
        })
    }

    /// Goes on with an exchange whose response is being read; ready when that is over.
    pub(super) fn poll_finish(&mut self, context: &Context<'_>) -> Poll<()> {
        let ended = self.drive(context);
        if self.requests.is_ready() {
            return Poll::Ready(());
        }
        ended
    }

    /// Whether the connection has ended.
    pub(super) fn has_ended(&self) -> bool {
        self.driver.is_none()
    }

    /// Whether another request can be sent: the last one was written and its response read.
    pub(super) fn is_free(&self) -> bool {
        self.driver.is_some() && self.requests.is_ready()
    }

    /// Whether an unused connection can still be used. If anything has happened on it, that is
    /// looked at: the server may have closed it, or sent what nobody asked for, which must not be
    /// taken for the response to the next request.
    pub(super) fn is_usable(&mut self) -> bool {
        let is_stirred = self.relay.target().is_stirred;
        if is_stirred {
            if let Some(drained) = &self.drained {
                drained.forget();
            }
            let _ = self.drive(&Context::from_waker(Waker::noop()));
        }
        self.is_free()
    }

    /// How long it has been there.
    pub(super) fn age(&self, now: Instant) -> Duration {
        now.duration_since(self.made)
    }

    /// Wakes nobody from here on.
    pub(super) fn rest(&self) {
        self.relay.target().waker.clone_from(Waker::noop());
    }

    /// Ready when the connection has ended.
    fn drive(&mut self, context: &Context<'_>) -> Poll<()> {
        let Some(driver) = &mut self.driver else {
            return Poll::Ready(());
        };
        {
            let mut target = self.relay.target();
            target.is_stirred = false;
            target.waker.clone_from(context.waker());
        }
        let mut relayed = Context::from_waker(&self.waker);
        let ended = driver.as_mut().poll(&mut relayed);
        if ended.is_ready() {
            // What went wrong is told to whoever waits for the response, when this is dropped at
            // the latest.
            self.driver = None;
        }
        ended.map(drop)
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Session")
            .field("is_free", &self.is_free())
            .finish_non_exhaustive()
    }
}

/// Wakes whoever drives a connection now. The socket and hyper know the relay only, so that a new
/// driver changes one thing instead of all they have noted, and the last one is not woken, or kept
/// in memory, by a connection it has let go.
#[derive(Default)]
struct Relay(Mutex<Target>);

struct Target {
    waker: Waker,
    /// Whether it was to be woken since it was set.
    is_stirred: bool,
}

impl Default for Target {
    fn default() -> Self {
        Self {
            waker: Waker::noop().clone(),
            is_stirred: false,
        }
    }
}

impl Relay {
    fn target(&self) -> MutexGuard<'_, Target> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for Relay {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let waker = {
            let mut target = self.target();
            target.is_stirred = true;
            std::mem::replace(&mut target.waker, Waker::noop().clone())
        };
        waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use smol::Async;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    #[test]
    fn one_look_is_enough_to_see_what_was_not_asked_for() {
        smol::block_on(async {
            for _ in 0..200 {
                let (mut server, ours) = UnixStream::pair().unwrap();
                let stream = Stream::unix(Async::new(ours).unwrap());
                let mut session = Session::new(stream, 8192).await.unwrap();
                poll_fn(|context| session.poll_finish(context)).await;
                session.rest();
                assert!(session.is_usable());
                server.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
                while !session.relay.target().is_stirred {
                    std::thread::yield_now();
                }
                assert!(!session.is_usable());
            }
        });
    }
}
