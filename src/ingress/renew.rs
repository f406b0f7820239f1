//! Renew intents: telling the server, through a list in Redis, that a sandbox is in use (OSEP-0009).
//!
//! Owns what is said how often, the queue, and the one worker that hands it to Redis. Never holds a
//! request up: whatever cannot be queued is counted and left, and the next use says it again.

mod connection;
pub mod dsn;
mod intent;
pub mod resp;
mod throttle;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use smol::Timer;
use smol::channel::{Receiver, Sender, TrySendError};
use smol::future::FutureExt;

use super::events::{Observer, Renewed};
use super::metrics::RenewResult;
use super::proxy::Usage;
use crate::http::connect::Connector;
use crate::runtime::Spawner;

use connection::Connection;
use dsn::Dsn;
use intent::Intent;
use throttle::Throttle;

/// The most intents that wait for Redis.
pub const MAX_QUEUE: usize = 8192;

/// The most intents in one command to Redis.
pub const MAX_BATCH: usize = 128;

/// How long the intents that wait at the end of the process may take to reach Redis.
pub const DRAIN_TIME: Duration = Duration::from_secs(2);

/// The pause after a batch that Redis did not take; it doubles with each.
pub const FAILURE_PAUSE: Duration = Duration::from_millis(100);

/// The longest such pause.
pub const MAX_FAILURE_PAUSE: Duration = Duration::from_secs(5);

/// What is said where, and how often.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where Redis is.
    pub redis: Dsn,
    /// The list.
    pub queue_key: String,
    /// How long the list may grow; `None` is no limit.
    pub queue_max_len: Option<u64>,
    /// The least time between two intents for one sandbox; `None` is none.
    pub min_interval: Option<Duration>,
}

/// Says that sandboxes are in use; clones share everything.
#[derive(Clone)]
pub struct Renewals(Arc<Shared>);

struct Shared {
    throttle: Throttle,
    queue: Sender<Intent>,
    /// Intents that were queued and did not come to an end.
    pending: AtomicU64,
    queue_key: String,
    observer: Arc<Observer>,
}

impl Renewals {
    /// Starts the worker. Nothing connects to Redis before there is something to say.
    #[must_use]
    pub fn start(
        settings: Settings,
        connector: Connector,
        observer: Arc<Observer>,
        spawner: &Spawner,
    ) -> (Self, Worker) {
        let (queue, intents) = smol::channel::bounded(MAX_QUEUE);
        let depth = intents.clone();
        observer.metrics.renew_queue.observe(move |point| {
            point(i64::try_from(depth.len()).unwrap_or(i64::MAX), &[]);
        });
        let shared = Arc::new(Shared {
            throttle: Throttle::new(settings.min_interval),
            queue,
            pending: AtomicU64::new(0),
            queue_key: settings.queue_key.clone(),
            observer,
        });
        let redis = Connection::new(&settings, connector);
        let task = spawner.spawn(work(Arc::clone(&shared), intents, redis));
        let worker = Worker {
            shared: Arc::clone(&shared),
            task,
        };
        (Self(shared), worker)
    }

    /// A sandbox is in use. `path` is what goes on to it where routes are found in paths, as it was
    /// sent.
    pub fn touch(&self, sandbox: &str, port: u16, path: Option<&str>) {
        self.0.say(sandbox, port, path, Instant::now());
    }
}

impl Usage for Renewals {
    fn used(&self, sandbox: &str, port: u16, path: Option<&str>) {
        self.touch(sandbox, port, path);
    }
}

impl Shared {
    fn say(&self, sandbox: &str, port: u16, path: Option<&str>, now: Instant) {
        if !self.throttle.admit(sandbox, now) {
            self.tell(RenewResult::Throttled, 1, None, None);
            return;
        }
        self.pending.fetch_add(1, Ordering::Relaxed);
        let intent = Intent::new(sandbox, port, path, now, SystemTime::now());
        let result = match self.queue.try_send(intent) {
            Ok(()) => return,
            Err(TrySendError::Full(_)) => RenewResult::DroppedFull,
            Err(TrySendError::Closed(_)) => RenewResult::DroppedShutdown,
        };
        self.pending.fetch_sub(1, Ordering::Relaxed);
        self.throttle.settle(sandbox, None);
        self.tell(result, 1, Some(sandbox), None);
    }

    fn tell(
        &self,
        result: RenewResult,
        count: u64,
        sandbox: Option<&str>,
        error: Option<&connection::Error>,
    ) {
        Renewed {
            result,
            count,
            sandbox,
            queue: &self.queue_key,
            error: error.map(|error| error as &dyn std::fmt::Display),
        }
        .emit(&self.observer);
    }

    /// Redis has the batch, or does not.
    fn settle(&self, batch: &[Intent], outcome: Result<(), connection::Error>) {
        let count = batch.len() as u64;
        for intent in batch {
            let published = outcome.is_ok().then_some(intent.said);
            self.throttle.settle(&intent.sandbox, published);
        }
        match outcome {
            Ok(()) => {
                for intent in batch {
                    self.tell(RenewResult::Published, 1, Some(&intent.sandbox), None);
                }
            }
            Err(error) => {
                let one = match batch {
                    [intent] => Some(&*intent.sandbox),
                    _ => None,
                };
                self.tell(RenewResult::Failed, count, one, Some(&error));
            }
        }
        self.pending.fetch_sub(count, Ordering::Relaxed);
    }
}

async fn work(shared: Arc<Shared>, intents: Receiver<Intent>, mut redis: Connection) {
    let mut pause = FAILURE_PAUSE;
    while let Ok(first) = intents.recv().await {
        let mut batch = vec![first];
        while batch.len() < MAX_BATCH
            && let Ok(next) = intents.try_recv()
        {
            batch.push(next);
        }
        let outcome = redis.push(&batch).await;
        let failed = outcome.is_err();
        shared.settle(&batch, outcome);
        shared.throttle.sweep(Instant::now());
        if failed {
            // What is said meanwhile waits, each sandbox once. The end of the process does not.
            let over = async {
                Timer::after(pause).await;
            };
            over.or(shared.queue.closed()).await;
            pause = (pause * 2).min(MAX_FAILURE_PAUSE);
        } else {
            pause = FAILURE_PAUSE;
        }
    }
}

/// What hands intents to Redis.
pub struct Worker {
    shared: Arc<Shared>,
    task: smol::Task<()>,
}

impl Worker {
    /// Takes no further intents, and hands over those that wait, within [`DRAIN_TIME`].
    pub async fn finish(self) {
        self.shared.queue.close();
        let late = async {
            Timer::after(DRAIN_TIME).await;
        };
        self.task.or(late).await;
        let lost = self.shared.pending.load(Ordering::Relaxed);
        if lost > 0 {
            self.shared
                .tell(RenewResult::DroppedShutdown, lost, None, None);
        }
    }
}

#[cfg(test)]
mod tests;
