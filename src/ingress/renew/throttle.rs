//! How often it is said of one sandbox that it is in use.
//!
//! A sandbox that waits for Redis is not said again, one that Redis has been told of only after the
//! interval. What Redis was not told counts as not said.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The parts the sandboxes are spread over, each with a lock of its own.
const SHARDS: usize = 16;

/// The most sandboxes remembered; what is said of others is not held back.
pub const MAX_REMEMBERED: usize = 131_072;

#[derive(Clone, Copy)]
enum State {
    /// In the queue, or on the way.
    Waiting,
    /// Redis was told at this time.
    Said(Instant),
}

type Shard = HashMap<Box<str>, State>;

pub(super) struct Throttle {
    interval: Option<Duration>,
    hasher: RandomState,
    shards: [Mutex<Shard>; SHARDS],
    swept: Mutex<Instant>,
}

impl Throttle {
    /// With no interval, nothing is held back or remembered.
    pub(super) fn new(interval: Option<Duration>) -> Self {
        Self {
            interval,
            hasher: RandomState::new(),
            shards: std::array::from_fn(|_| Mutex::default()),
            swept: Mutex::new(Instant::now()),
        }
    }

    fn shard(&self, sandbox: &str) -> MutexGuard<'_, Shard> {
        let hash = self.hasher.hash_one(sandbox);
        let shard = &self.shards[(hash % SHARDS as u64) as usize];
        locked(shard)
    }

    /// Whether it may be said of the sandbox that it is in use; then it counts as waiting.
    pub(super) fn admit(&self, sandbox: &str, now: Instant) -> bool {
        let Some(interval) = self.interval else {
            return true;
        };
        let mut shard = self.shard(sandbox);
        match shard.get_mut(sandbox) {
            Some(State::Waiting) => false,
            Some(State::Said(at)) if now < *at + interval => false,
            Some(state) => {
                *state = State::Waiting;
                true
            }
            None => {
                if shard.len() < MAX_REMEMBERED / SHARDS {
                    shard.insert(sandbox.into(), State::Waiting);
                }
                true
            }
        }
    }

    /// Redis was told what was said at this time, or was not told.
    pub(super) fn settle(&self, sandbox: &str, said: Option<Instant>) {
        if self.interval.is_none() {
            return;
        }
        let mut shard = self.shard(sandbox);
        match said {
            None => {
                shard.remove(sandbox);
            }
            Some(at) => {
                if let Some(state) = shard.get_mut(sandbox) {
                    *state = State::Said(at);
                }
            }
        }
    }

    /// Forgets what is too old to hold anything back, once in each interval.
    pub(super) fn sweep(&self, now: Instant) {
        let Some(interval) = self.interval else {
            return;
        };
        let mut swept = locked(&self.swept);
        if now < *swept + interval {
            return;
        }
        *swept = now;
        for shard in &self.shards {
            let mut shard = locked(shard);
            shard.retain(|_, state| match state {
                State::Waiting => true,
                State::Said(at) => now < *at + interval,
            });
            // A crowd that is gone does not keep its room.
            if shard.len() < shard.capacity() / 4 {
                shard.shrink_to_fit();
            }
        }
    }
}

/// Whoever panicked left a map whole: every change of it is one call.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(60);

    #[test]
    fn a_sandbox_is_said_once_an_interval() {
        let throttle = Throttle::new(Some(INTERVAL));
        let start = Instant::now();
        assert!(throttle.admit("a", start));
        assert!(!throttle.admit("a", start + 10 * INTERVAL), "it waits");
        assert!(throttle.admit("b", start), "others do not care");
        throttle.settle("a", Some(start));
        assert!(!throttle.admit("a", start + INTERVAL - Duration::from_nanos(1)));
        assert!(throttle.admit("a", start + INTERVAL));
    }

    #[test]
    fn what_redis_was_not_told_was_not_said() {
        let throttle = Throttle::new(Some(INTERVAL));
        let start = Instant::now();
        assert!(throttle.admit("a", start));
        throttle.settle("a", None);
        assert!(throttle.admit("a", start));
    }

    #[test]
    fn without_an_interval_everything_is_said() {
        let throttle = Throttle::new(None);
        let now = Instant::now();
        assert!(throttle.admit("a", now) && throttle.admit("a", now));
        throttle.settle("a", Some(now));
        assert!(throttle.admit("a", now));
        assert_eq!(
            throttle
                .shards
                .iter()
                .map(|shard| locked(shard).len())
                .sum::<usize>(),
            0
        );
    }

    #[test]
    fn the_old_are_forgotten_and_the_waiting_are_not() {
        let throttle = Throttle::new(Some(INTERVAL));
        let start = Instant::now();
        for number in 0..1000 {
            let sandbox = number.to_string();
            assert!(throttle.admit(&sandbox, start));
            throttle.settle(&sandbox, Some(start));
        }
        assert!(throttle.admit("waiting", start));
        let remembered = || {
            throttle
                .shards
                .iter()
                .map(|shard| locked(shard).len())
                .sum::<usize>()
        };
        throttle.sweep(start + INTERVAL / 2);
        assert_eq!(remembered(), 1001);
        throttle.sweep(start + 2 * INTERVAL);
        assert_eq!(remembered(), 1);
    }

    #[test]
    fn who_cannot_be_remembered_is_not_held_back() {
        let throttle = Throttle::new(Some(INTERVAL));
        let start = Instant::now();
        let all = 2 * MAX_REMEMBERED;
        let admitted = (0..all).filter(|number| throttle.admit(&number.to_string(), start));
        assert_eq!(admitted.count(), all);
        let remembered: usize = throttle
            .shards
            .iter()
            .map(|shard| locked(shard).len())
            .sum();
        assert_eq!(remembered, MAX_REMEMBERED);
    }
}
