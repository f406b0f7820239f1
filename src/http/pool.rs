//! Unused connections, kept by what they lead to.
//!
//! Owns how many are kept, and for how long. A connection is handed out only to who asks for an
//! equal destination, and never once that destination is gone.

use std::collections::HashMap;
use std::future::poll_fn;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, ready};
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use hyper::body::Incoming;
use smol::Task;

use super::body::{self, Owner};
use super::session::Session;
use super::{Body, Response};
use crate::runtime::Spawner;

/// The least time between two looks at every connection of a pool.
pub const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// What a connection leads to.
pub trait Destination: Clone + Eq + Hash + Send + Sync + 'static {
    /// Whether there is nothing there any more, so that connections to it are to be closed.
    fn is_gone(&self) -> bool {
        false
    }
}

/// How many unused connections are kept, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// The most for one destination.
    pub each: usize,
    /// The most in all.
    pub all: usize,
    /// How long one is kept unused.
    pub time: Duration,
}

/// The age at which a connection takes no further request, so that what has changed on the way to
/// its destination counts in the end.
pub const MAX_AGE: Duration = Duration::from_secs(3600);

/// The unused connections.
#[derive(Debug)]
pub struct Pool<D> {
    bounds: Bounds,
    kept: Mutex<Kept<D>>,
}

#[derive(Debug)]
struct Kept<D> {
    /// Hashed by less than what resists floods of chosen keys: the bounds are small.
    by_destination: HashMap<D, Vec<Idle>, RandomState>,
    count: usize,
    swept: Instant,
}

#[derive(Debug)]
struct Idle {
    session: Session,
    since: Instant,
}

impl<D: Destination> Pool<D> {
    /// An empty one.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        let kept = Mutex::new(Kept {
            by_destination: HashMap::default(),
            count: 0,
            swept: Instant::now(),
        });
        Self { bounds, kept }
    }

    /// The connection to `destination` used last, which is the least likely to have been closed.
    pub(super) fn take(&self, destination: &D, now: Instant) -> Option<Session> {
        let mut kept = self.kept();
        kept.sweep_if_due(&self.bounds, now);
        // The entry stays: the destination is likely to be asked for again, and an empty one is
        // removed by the next sweep.
        let idle = kept.by_destination.get_mut(destination)?;
        let mut taken = 0;
        let mut found = None;
        while let Some(mut last) = idle.pop() {
            taken += 1;
            if last.is_usable(&self.bounds, now) {
                found = Some(last.session);
                break;
            }
        }
        kept.count -= taken;
        found.filter(|_| !destination.is_gone())
    }

    /// Keeps a connection that is free, if there is room for it.
    fn put(&self, destination: D, session: Session, now: Instant) {
        if session.age(now) >= MAX_AGE || destination.is_gone() {
            return;
        }
        session.rest();
        let mut kept = self.kept();
        kept.sweep_if_due(&self.bounds, now);
        if kept.count >= self.bounds.all {
            return;
        }
        let idle = kept.by_destination.entry(destination).or_default();
        if idle.len() < self.bounds.each {
            idle.push(Idle {
                session,
                since: now,
            });
            kept.count += 1;
        }
    }

    /// Closes what is past its time, leads nowhere any more, or was closed by the other side. Uses
    /// of the pool do this too, so only one that may lie unused with connections in it needs to be
    /// swept.
    pub fn sweep(&self) {
        self.kept().sweep(&self.bounds, Instant::now());
    }

    fn kept(&self) -> MutexGuard<'_, Kept<D>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a request got.
pub(super) struct Received {
    /// Where the rest comes from.
    pub session: Session,
    pub response: Response<Incoming>,
    /// When the head came.
    pub now: Instant,
}

impl Received {
    /// The response. The connection it came on is kept in `pool` for `destination` once it is free.
    /// It is closed if the body is dropped before its end, and where there is no `destination`.
    pub(super) fn kept_in<D: Destination>(
        self,
        pool: &Arc<Pool<D>>,
        destination: Option<D>,
        bounds: body::Bounds,
        spawner: &Spawner,
    ) -> Response {
        let session = self.session;
        let is_kept = destination.is_some();
        let driving = match destination {
            _ if session.has_ended() => None,
            // The body has come with the head.
            Some(destination) if session.is_free() => {
                pool.put(destination, session, self.now);
                None
            }
            destination => Some(Driving::start(pool, destination, session, spawner)),
        };
        let rest = Rest { driving, is_kept };
        self.response
            .map(|incoming| Body::received(incoming, bounds, rest))
    }
}

/// The rest of an exchange whose response is being read.
struct Rest {
    driving: Option<Driving>,
    is_kept: bool,
}

impl Owner for Rest {
    fn release(&mut self, unread: Option<Incoming>) {
        let driving = self.driving.take();
        if let (None, Some(driving)) = (unread, driving.filter(|_| self.is_kept)) {
            // The end can be read before the connection is back among the others. Whoever sends
            // the next request is to find it there.
            drop(driving.turn.lock());
            // The end of the request may still be on its way.
            driving.task.detach();
        }
    }
}

/// Drives a connection to the end of its exchange. Dropped, it ends at once, and the connection
/// with it.
struct Driving {
    task: Task<()>,
    /// Held while it does.
    turn: Arc<Mutex<()>>,
}

impl Driving {
    fn start<D: Destination>(
        pool: &Arc<Pool<D>>,
        mut destination: Option<D>,
        session: Session,
        spawner: &Spawner,
    ) -> Self {
        let turn = Arc::<Mutex<()>>::default();
        let (pool, held) = (pool.clone(), turn.clone());
        let mut session = Some(session);
        let task = spawner.spawn(poll_fn(move |context| {
            let _turn = held.lock();
            if let Some(session) = &mut session {
                ready!(session.poll_finish(context));
            }
            let free = session.take().filter(Session::is_free);
            if let (Some(destination), Some(session)) = (destination.take(), free) {
                pool.put(destination, session, Instant::now());
            }
            Poll::Ready(())
        }));
        Self { task, turn }
    }
}

impl<D: Destination> Kept<D> {
    fn sweep_if_due(&mut self, bounds: &Bounds, now: Instant) {
        if now.duration_since(self.swept) >= SWEEP_INTERVAL {
            self.sweep(bounds, now);
        }
    }

    fn sweep(&mut self, bounds: &Bounds, now: Instant) {
        self.by_destination.retain(|destination, idle| {
            let is_gone = destination.is_gone();
            idle.retain_mut(|idle| !is_gone && idle.is_usable(bounds, now));
            !idle.is_empty()
        });
        self.count = self.by_destination.values().map(Vec::len).sum();
        self.swept = now;
    }
}

impl Idle {
    fn is_usable(&mut self, bounds: &Bounds, now: Instant) -> bool {
        now.duration_since(self.since) < bounds.time && self.session.is_usable()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Request;
    use crate::http::io::Stream;
    use smol::Async;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    #[derive(Clone, Debug, PartialEq, Eq, Hash)]
    struct There;

    impl Destination for There {}

    fn pool() -> Pool<There> {
        Pool::new(Bounds {
            each: 2,
            all: 2,
            time: Duration::from_secs(90),
        })
    }

    /// A connection that is free, and the server's end of it.
    async fn session() -> (UnixStream, Session) {
        let (server, ours) = UnixStream::pair().unwrap();
        let stream = Stream::unix(Async::new(ours).unwrap());
        let mut session = Session::new(stream, 8192).await.unwrap();
        poll_fn(|context| session.poll_finish(context)).await;
        assert!(session.is_usable());
        (server, session)
    }

    #[test]
    fn a_connection_is_kept_until_it_is_old() {
        smol::block_on(async {
            let pool = pool();
            let (_server, session) = session().await;
            let now = Instant::now();
            pool.put(There, session, now);
            let session = pool.take(&There, now).unwrap();
            assert!(pool.take(&There, now).is_none());
            pool.put(There, session, now + MAX_AGE);
            assert!(pool.take(&There, now).is_none());
        });
    }

    #[test]
    fn a_connection_that_the_server_closed_is_closed() {
        smol::block_on(async {
            let pool = pool();
            let (mut server, session) = session().await;
            pool.put(There, session, Instant::now());
            server.shutdown(std::net::Shutdown::Write).unwrap();
            // The reactor has to notice first.
            let closed = smol::unblock(move || server.read(&mut [0]).unwrap());
            let sweeping = async {
                loop {
                    smol::Timer::after(Duration::from_millis(5)).await;
                    pool.sweep();
                }
            };
            assert_eq!(smol::future::or(closed, sweeping).await, 0);
            assert!(pool.take(&There, Instant::now()).is_none());
        });
    }

    #[test]
    fn what_comes_unasked_is_not_the_response_to_the_next_request() {
        smol::block_on(async {
            let pool = pool();
            let (mut server, session) = session().await;
            pool.put(There, session, Instant::now());
            server.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
            // The reactor has to notice first.
            while let Some(session) = pool.take(&There, Instant::now()) {
                pool.put(There, session, Instant::now());
                smol::Timer::after(Duration::from_millis(5)).await;
            }
        });
    }

    #[test]
    fn a_request_is_given_back_by_a_connection_that_has_ended() {
        smol::block_on(async {
            let (server, mut session) = session().await;
            drop(server);
            poll_fn(|context| match session.poll_finish(context) {
                _ if session.has_ended() => Poll::Ready(()),
                Poll::Ready(()) | Poll::Pending => Poll::Pending,
            })
            .await;
            let request = Request::new(Body::from("unsent"));
            let mut refused = session.send(request).await.unwrap_err();
            let request = refused.take_message().expect("the request");
            assert_eq!(request.into_body().collect(6).await.unwrap(), "unsent");
        });
    }
}
