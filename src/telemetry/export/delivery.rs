//! Carries one encoded batch to the OTLP receiver, with all its attempts, inside one time limit.
//!
//! The `opentelemetry-otlp` exporters encode; a [`Delivery`] is the HTTP client they are given, for
//! all three protocols. Everything it needs to make progress runs on the thread that exports: the
//! connection's tasks live on an executor that is driven only while an export is under way, and its
//! socket is waited for by that thread itself, so an idle exporter costs nothing, a busy one wakes
//! no other thread, and a busy main flow cannot delay it. Never blocks longer than its
//! time limit, whatever the receiver does, and never lets the receiver choose how much memory an
//! answer takes.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::{Request, Response};
use opentelemetry_http::{HttpClient, HttpError};
use smol::future::FutureExt;
use smol::{Executor, Timer, channel};

use super::account::{Accepted, Account, Failure};
use super::retry::{self, Backoff};
use super::transport::{Answer, Transport};
use crate::runtime::{Runtime, Spawner};

/// The end of a process, as the exporters see it: no further attempts, and a last moment.
#[derive(Clone, Debug)]
pub struct Stop {
    cutoff: Arc<OnceLock<Instant>>,
    closer: channel::Sender<()>,
    closed: channel::Receiver<()>,
}

impl Default for Stop {
    fn default() -> Self {
        let (closer, closed) = channel::bounded(1);
        Self {
            cutoff: Arc::default(),
            closer,
            closed,
        }
    }
}

impl Stop {
    /// Begins the end: waits between attempts are over now, attempts are over at `cutoff`.
    pub fn begin(&self, cutoff: Instant) {
        let _ = self.cutoff.set(cutoff);
        self.closer.close();
    }

    /// Whether the end has begun.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.cutoff.get().is_some()
    }

    /// Completes when the end has begun.
    async fn begun(&self) {
        // Nothing is ever sent, so this ends when the channel closes.
        let _ = self.closed.recv().await;
    }

    /// `deadline`, or the last moment of the process if that is earlier.
    fn clamp(&self, deadline: Instant) -> Instant {
        self.cutoff
            .get()
            .map_or(deadline, |cutoff| deadline.min(*cutoff))
    }

    /// Completes at the last moment of the process, if its end begins.
    async fn reached(&self) {
        self.begun().await;
        if let Some(cutoff) = self.cutoff.get() {
            Timer::at(*cutoff).await;
        }
    }
}

/// What ends an attempt. One timer serves them all, and is set again only when it went off: setting
/// one wakes the thread that waits for timers, and few attempts last as long as they may.
#[derive(Debug)]
struct Alarm {
    timer: Timer,
    /// When it goes off; none once it has.
    set: Option<Instant>,
}

impl Alarm {
    fn new() -> Self {
        Self {
            timer: Timer::never(),
            set: None,
        }
    }

    /// Ready at `deadline`.
    fn poll(&mut self, deadline: Instant, context: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.set.is_none_or(|set| deadline < set) {
                self.timer.set_at(deadline);
                self.set = Some(deadline);
            }
            ready!(Pin::new(&mut self.timer).poll(context));
            self.set = None;
            if deadline <= Instant::now() {
                return Poll::Ready(());
            }
        }
    }
}

/// The way to one receiver for one signal. Clones share it.
#[derive(Clone)]
pub struct Delivery(Arc<Inner>);

struct Inner {
    transport: Transport,
    executor: Arc<Executor<'static>>,
    /// What the thread that exports waits with; it is that of one export at a time.
    runtime: Mutex<Runtime>,
    /// Has the socket waited for there.
    spawner: Spawner,
    alarm: Mutex<Alarm>,
    timeout: Duration,
    stop: Stop,
    /// How the last batch ended; taken when it is entered in an account.
    outcome: Mutex<Option<Result<Accepted, Failure>>>,
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery").finish_non_exhaustive()
    }
}

impl Delivery {
    /// A way over `transport`, giving each batch `timeout` for all its attempts.
    ///
    /// # Errors
    ///
    /// The system refuses a descriptor.
    pub fn new(transport: Transport, timeout: Duration, stop: Stop) -> io::Result<Self> {
        let runtime = Runtime::for_one_thread()?;
        Ok(Self(Arc::new(Inner {
            transport,
            executor: Arc::default(),
            spawner: runtime.spawner(),
            runtime: Mutex::new(runtime),
            alarm: Mutex::new(Alarm::new()),
            timeout,
            stop,
            outcome: Mutex::default(),
        })))
    }

    /// Enters in `account` what became of the batch of `items` sent last; nothing was sent: it could
    /// not be encoded.
    pub fn settle(&self, account: &Account, items: usize) {
        account.settle(items as u64, self.0.outcome().take());
    }
}

impl Inner {
    fn outcome(&self) -> MutexGuard<'_, Option<Result<Accepted, Failure>>> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn deliver(&self, batch: &Request<Bytes>) -> Result<Accepted, Failure> {
        let deadline = self.stop.clamp(Instant::now() + self.timeout);
        let mut backoff = Backoff::default();
        loop {
            let (failure, asked) = match self.attempt(batch, deadline).await {
                Ok(Answer::Accepted(accepted)) => return Ok(accepted),
                Ok(Answer::Refused(failure)) => return Err(failure),
                Ok(Answer::Later(failure, asked)) => (failure, asked),
                Err(failure) => (failure, None),
            };
            if self.stop.has_begun() {
                return Err(Failure::Shutdown(Box::new(failure)));
            }
            let wait = backoff.next(asked, random());
            if Instant::now() + wait >= deadline {
                return Err(failure);
            }
            let waited = async {
                Timer::after(wait).await;
                true
            };
            let stopped = async {
                self.stop.begun().await;
                false
            };
            if !waited.or(stopped).await {
                return Err(Failure::Shutdown(Box::new(failure)));
            }
        }
    }

    async fn attempt(&self, batch: &Request<Bytes>, deadline: Instant) -> Result<Answer, Failure> {
        let answer = self
            .transport
            .send(batch, deadline, &self.executor, &self.spawner);
        let expired = poll_fn(|context| {
            let mut alarm = self.alarm.lock().unwrap_or_else(PoisonError::into_inner);
            alarm.poll(deadline, context)
        });
        let late = async {
            expired.or(self.stop.reached()).await;
            Err(Failure::Timeout)
        };
        answer.or(late).await
    }
}

impl HttpClient for Delivery {
    fn send_bytes<'a, 'b>(
        &'a self,
        batch: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(async move {
            let inner = &self.0;
            let runtime = inner.runtime.lock().unwrap_or_else(PoisonError::into_inner);
            // Blocks, which is all that the thread that exports is there for.
            let outcome = runtime.block_on(inner.executor.run(inner.deliver(&batch)));
            *inner.outcome() = Some(outcome);
            // The encoder is told that all is well, whatever happened: it would only read the
            // answer again, and report once more what the account reports, without a limit.
            Ok(Response::new(Bytes::new()))
        })
    }
}

/// A number that differs between processes and moments; without a random source, the clock.
fn random() -> u32 {
    getrandom::u32().unwrap_or_else(|_| {
        SystemTime::UNIX_EPOCH
            .elapsed()
            .map_or(0, |elapsed| elapsed.subsec_nanos())
    })
}

/// The wait the `Retry-After` of an answer asks for.
pub(super) fn asked(headers: &http::HeaderMap) -> Option<Duration> {
    let header = headers.get(http::header::RETRY_AFTER)?.to_str().ok()?;
    retry::retry_after(header, SystemTime::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_goes_off_at_the_deadline_it_was_asked_for_last() {
        let mut alarm = Alarm::new();
        let after = |milliseconds| Instant::now() + Duration::from_millis(milliseconds);
        smol::block_on(async {
            for [first, last] in [[10, 40], [3_600_000, 10]] {
                let (first, last) = (after(first), after(last));
                let early = poll_fn(|context| Poll::Ready(alarm.poll(first, context))).await;
                assert!(early.is_pending());
                poll_fn(|context| alarm.poll(last, context)).await;
                assert!(Instant::now() >= last);
                assert_eq!(alarm.set, None);
            }
        });
    }
}
