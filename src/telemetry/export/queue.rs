//! The log records that wait for export, and the thread that exports them.
//!
//! Emitting is a push into a bounded queue under a short lock; a full queue drops the new record
//! and counts it. The thread sleeps while there is nothing to send. The SDK's own batch processor
//! tells neither how much waits nor how much it dropped, which the telemetry contract (section 8)
//! asks for.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use opentelemetry::{Context, InstrumentationScope};
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::logs::{LogBatch, LogExporter, LogProcessor, SdkLogRecord};

use super::account::Account;

/// How many records wait, for how long, and how many leave together.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Records that may wait or be under way.
    pub queue: usize,
    /// Records in one export.
    pub batch: usize,
    /// The longest a record waits for others.
    pub delay: Duration,
}

/// A log processor with a bounded queue.
#[derive(Clone)]
pub struct Queue {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// The queue got its first record, a full batch, a flush or its end.
    wake: Condvar,
    /// Everything that was queued has left, or the thread has ended.
    drained: Condvar,
    limits: Limits,
    account: Arc<Account>,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<(SdkLogRecord, InstrumentationScope)>,
    /// Taken by the thread, not yet settled.
    under_way: usize,
    /// Do not wait for a full batch.
    hurry: bool,
    /// Take no more records; the thread ends when the queue is empty.
    closed: bool,
    ended: bool,
}

impl State {
    fn len(&self) -> usize {
        self.waiting.len() + self.under_way
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is whole between any two statements that can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").field("len", &self.len()).finish()
    }
}

impl Queue {
    /// A queue in front of `exporter`, whose losses are entered in `account`; that the exporter
    /// itself accounts for what it exports is its own affair.
    ///
    /// # Errors
    ///
    /// The system refuses a thread.
    pub fn start<E: LogExporter + 'static>(
        exporter: E,
        limits: Limits,
        account: Arc<Account>,
    ) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            wake: Condvar::new(),
            drained: Condvar::new(),
            limits,
            account,
        });
        let worker = shared.clone();
        std::thread::Builder::new()
            .name("otel-logs".to_owned())
            .spawn(move || {
                let _suppressed = Context::enter_telemetry_suppressed_scope();
                let ended = Ended(&worker);
                worker.run(&exporter);
                drop(ended);
                let _ = exporter.shutdown();
            })?;
        Ok(Self { shared })
    }

    /// Records that wait or are under way.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shared.lock().len()
    }

    /// Whether nothing waits and nothing is under way.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waits until `done`, for at most `limit`.
    fn wait(&self, limit: Duration, done: impl Fn(&State) -> bool) -> OTelSdkResult {
        let state = self.shared.lock();
        let (state, _) = self
            .shared
            .drained
            .wait_timeout_while(state, limit, |state| !state.ended && !done(state))
            .unwrap_or_else(PoisonError::into_inner);
        if done(&state) {
            Ok(())
        } else {
            Err(OTelSdkError::Timeout(limit))
        }
    }
}

/// Says that the thread has ended, also when it panics.
struct Ended<'a>(&'a Shared);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.closed = true;
        state.ended = true;
        drop(state);
        self.0.drained.notify_all();
    }
}

impl Shared {
    fn run(&self, exporter: &impl LogExporter) {
        while let Some(records) = self.next() {
            let records: Vec<_> = records
                .iter()
                .map(|(record, scope)| (record, scope))
                .collect();
            for batch in records.chunks(self.limits.batch) {
                // The exporter has counted and reported what went wrong.
                let _ = smol::future::block_on(exporter.export(LogBatch::new(batch)));
                self.lock().under_way -= batch.len();
            }
            let mut state = self.lock();
            if state.len() == 0 {
                state.hurry = false;
                drop(state);
                self.drained.notify_all();
            }
        }
    }

    /// Waits for records worth an export and takes them all; `None`: there will be none any more.
    fn next(&self) -> Option<VecDeque<(SdkLogRecord, InstrumentationScope)>> {
        let mut state = self
            .wake
            .wait_while(self.lock(), |state| {
                state.waiting.is_empty() && !state.closed
            })
            .unwrap_or_else(PoisonError::into_inner);
        let due = Instant::now() + self.limits.delay;
        loop {
            if state.closed || state.hurry || state.waiting.len() >= self.limits.batch {
                break;
            }
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            (state, _) = self
                .wake
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner);
        }
        let records = std::mem::take(&mut state.waiting);
        state.under_way = records.len();
        (!records.is_empty()).then_some(records)
    }
}

impl LogProcessor for Queue {
    fn emit(&self, record: &mut SdkLogRecord, scope: &InstrumentationScope) {
        self.shared.account.offer(1);
        let mut state = self.shared.lock();
        if state.closed || state.len() >= self.shared.limits.queue {
            let reason = if state.closed {
                "shutdown"
            } else {
                "queue_full"
            };
            drop(state);
            self.shared.account.lose(reason, 1);
            return;
        }
        state.waiting.push_back((record.clone(), scope.clone()));
        let waiting = state.waiting.len();
        drop(state);
        if waiting == 1 || waiting == self.shared.limits.batch {
            self.shared.wake.notify_one();
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        /// Longer than any export may take by default; a flush is for tests and tools.
        const LIMIT: Duration = Duration::from_secs(30);
        let mut state = self.shared.lock();
        if state.len() == 0 {
            return Ok(());
        }
        state.hurry = true;
        drop(state);
        self.shared.wake.notify_one();
        self.wait(LIMIT, |state| state.len() == 0)
    }

    fn shutdown_with_timeout(&self, limit: Duration) -> OTelSdkResult {
        self.shared.lock().closed = true;
        self.shared.wake.notify_one();
        self.wait(limit, |state| state.ended && state.len() == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry::logs::{LogRecord as _, Logger as _, LoggerProvider as _};
    use opentelemetry_sdk::logs::SdkLoggerProvider;
    use std::sync::mpsc;

    /// Tells the sizes of its batches; waits for a permit before each when given a gate.
    #[derive(Debug)]
    struct Probe {
        batches: mpsc::Sender<usize>,
        gate: Option<Mutex<mpsc::Receiver<()>>>,
    }

    impl LogExporter for Probe {
        async fn export(&self, batch: LogBatch<'_>) -> OTelSdkResult {
            let _ = self.batches.send(batch.iter().count());
            if let Some(gate) = &self.gate {
                let _ = gate.lock().expect("one exporter").recv();
            }
            Ok(())
        }
    }

    struct Bench {
        provider: SdkLoggerProvider,
        queue: Queue,
        account: Arc<Account>,
        batches: mpsc::Receiver<usize>,
    }

    fn bench(limits: Limits, gate: Option<mpsc::Receiver<()>>) -> Bench {
        let (sender, batches) = mpsc::channel();
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let account = Arc::new(Account::new("log records", &logger));
        let probe = Probe {
            batches: sender,
            gate: gate.map(Mutex::new),
        };
        let queue = Queue::start(probe, limits, account.clone()).expect("a thread");
        Bench {
            provider: SdkLoggerProvider::builder()
                .with_log_processor(queue.clone())
                .build(),
            queue,
            account,
            batches,
        }
    }

    impl Bench {
        fn emit(&self, records: usize) {
            let logger = self.provider.logger("test");
            for _ in 0..records {
                let mut record = logger.create_log_record();
                record.set_body("body".into());
                logger.emit(record);
            }
        }
    }

    const NEVER: Duration = Duration::from_secs(3600);

    #[test]
    fn a_full_batch_leaves_at_once_and_the_end_takes_the_rest() {
        let limits = Limits {
            queue: 100,
            batch: 4,
            delay: NEVER,
        };
        let bench = bench(limits, None);
        bench.emit(4);
        assert_eq!(bench.batches.recv(), Ok(4));
        bench.emit(2);
        bench.queue.shutdown_with_timeout(NEVER).expect("in time");
        assert_eq!(bench.batches.iter().sum::<usize>(), 2);
        assert_eq!(bench.account.lost(), []);
        bench.emit(1);
        assert_eq!(bench.account.lost(), [("shutdown".into(), 1)]);
    }

    #[test]
    fn a_lonely_record_leaves_after_the_delay() {
        let limits = Limits {
            queue: 100,
            batch: 50,
            delay: Duration::from_millis(1),
        };
        let bench = bench(limits, None);
        bench.emit(1);
        assert_eq!(bench.batches.recv(), Ok(1));
    }

    #[test]
    fn a_full_queue_drops_and_counts_what_is_under_way_too() {
        let (permit, gate) = mpsc::channel();
        let limits = Limits {
            queue: 3,
            batch: 1,
            delay: Duration::ZERO,
        };
        let bench = bench(limits, Some(gate));
        bench.emit(1);
        assert_eq!(bench.batches.recv(), Ok(1));
        bench.emit(5);
        assert_eq!(bench.queue.len(), 3);
        assert_eq!(bench.account.lost(), [("queue_full".into(), 3)]);
        drop(permit);
        bench.queue.force_flush().expect("in time");
        assert!(bench.queue.is_empty());
    }

    #[test]
    fn the_end_is_bounded_when_an_export_hangs() {
        let (permit, gate) = mpsc::channel();
        let limits = Limits {
            queue: 10,
            batch: 1,
            delay: Duration::ZERO,
        };
        let bench = bench(limits, Some(gate));
        bench.emit(2);
        assert_eq!(bench.batches.recv(), Ok(1));
        let ended = bench.queue.shutdown_with_timeout(Duration::from_millis(10));
        assert!(matches!(ended, Err(OTelSdkError::Timeout(_))), "{ended:?}");
        assert_eq!(bench.queue.len(), 2);
        assert_eq!(bench.account.outstanding(), 2);
        drop(permit);
    }
}
