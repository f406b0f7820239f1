//! Unused connections, kept by what they lead to.
//!
//! Owns how many are kept, and for how long. A connection is handed out only to who asks for an
//! equal destination, and never once that destination is gone.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;

use super::Body;
use super::body::Owner;

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
    /// How long one is kept.
    pub time: Duration,
}

/// The unused connections.
#[derive(Debug)]
pub struct Pool<D> {
    bounds: Bounds,
    kept: Mutex<Kept<D>>,
}

#[derive(Debug)]
struct Kept<D> {
    by_destination: HashMap<D, Vec<Idle>>,
    count: usize,
    swept: Instant,
}

#[derive(Debug)]
struct Idle {
    connection: SendRequest<Body>,
    since: Instant,
}

impl<D: Destination> Pool<D> {
    /// An empty one.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        let kept = Mutex::new(Kept {
            by_destination: HashMap::new(),
            count: 0,
            swept: Instant::now(),
        });
        Self { bounds, kept }
    }

    /// The connection to `destination` used last, which is the least likely to have been closed.
    pub fn take(&self, destination: &D) -> Option<SendRequest<Body>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        kept.sweep_if_due(&self.bounds, now);
        let idle = kept.by_destination.get_mut(destination)?;
        let mut taken = 0;
        let mut found = None;
        while let Some(last) = idle.pop() {
            taken += 1;
            if last.is_usable(&self.bounds, now) {
                found = Some(last.connection);
                break;
            }
        }
        // The entry stays: the destination is likely to be asked for again, and an empty one is
        // removed by the next sweep.
        kept.count -= taken;
        found.filter(|_| !destination.is_gone())
    }

    /// Keeps a connection, if there is room for it.
    pub fn put(&self, destination: D, connection: SendRequest<Body>) {
        if destination.is_gone() || connection.is_closed() {
            return;
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        kept.sweep_if_due(&self.bounds, now);
        if kept.count >= self.bounds.all {
            return;
        }
        let idle = kept.by_destination.entry(destination).or_default();
        if idle.len() < self.bounds.each {
            idle.push(Idle {
                connection,
                since: now,
            });
            kept.count += 1;
        }
    }

    /// Closes what is past its time or leads nowhere. Uses of the pool do this too, so only one
    /// that may lie unused with connections in it needs to be swept.
    pub fn sweep(&self) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.sweep(&self.bounds, Instant::now());
    }
}

/// A connection whose response is being read; it goes back when that is over. One that still has
/// unread bytes of it is closed.
pub(super) struct Lent<D: Destination> {
    pub pool: Arc<Pool<D>>,
    pub connection: Option<(D, SendRequest<Body>)>,
}

impl<D: Destination> Owner for Lent<D> {
    fn release(&mut self, unread: Option<Incoming>) {
        if let (None, Some((destination, connection))) = (unread, self.connection.take()) {
            self.pool.put(destination, connection);
        }
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
            idle.retain(|idle| !is_gone && idle.is_usable(bounds, now));
            !idle.is_empty()
        });
        self.count = self.by_destination.values().map(Vec::len).sum();
        self.swept = now;
    }
}

impl Idle {
    fn is_usable(&self, bounds: &Bounds, now: Instant) -> bool {
        now.duration_since(self.since) < bounds.time && !self.connection.is_closed()
    }
}
