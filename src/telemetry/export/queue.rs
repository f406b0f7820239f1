//! The log records that wait for export, and the thread that exports them.
//!
//! Emitting is a push into a bounded queue under a short lock; a full queue drops the new record
//! and counts it. The thread sleeps while there is nothing to send, and unpacks batch by batch.
//! The SDK's own batch processor builds and clones each record in the thread that logs, and tells
//! neither how much waits nor how much it dropped, which the telemetry contract (section 8) asks
//! for.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use opentelemetry::Context;
use opentelemetry_proto::tonic::logs::v1::LogRecord;

use super::account::Account;
use crate::footprint;
use crate::telemetry::bridge::{Packed, Unpacker};

/// Bytes of records that wait or are under way. The usual record takes some 300, so that this only
/// ever bounds unusual ones, such as lists of rules.
pub const QUEUE_BYTES: usize = 16 * 1024 * 1024;

/// How long nothing must have been logged before what exports take is given back.
const PAUSE: Duration = Duration::from_secs(1);

/// Where batches go.
pub trait Sink: Send + 'static {
    /// Exports a batch, however long that takes, and accounts for what becomes of it.
    fn export(&mut self, batch: Vec<LogRecord>);
}

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

/// The bounded queue of one exporter. Clones share it.
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
    waiting: VecDeque<Packed>,
    /// Taken by the thread, not yet settled.
    under_way: usize,
    /// Of all of them.
    bytes: usize,
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
    /// A queue in front of `sink`, which is given what `unpacker` makes. What is lost here is
    /// entered in `account`.
    ///
    /// # Errors
    ///
    /// The system refuses a thread.
    pub fn start(
        mut sink: impl Sink,
        unpacker: Unpacker,
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
                worker.run(&mut sink, &unpacker);
                drop(ended);
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

    /// Adds a record, or counts it as lost.
    pub fn push(&self, record: Packed) {
        self.shared.account.offer(1);
        let limits = &self.shared.limits;
        let size = record.size();
        let mut state = self.shared.lock();
        if state.closed || state.len() >= limits.queue || state.bytes + size > QUEUE_BYTES {
            let reason = if state.closed {
                "shutdown"
            } else {
                "queue_full"
            };
            drop(state);
            self.shared.account.lose(reason, 1);
            return;
        }
        state.bytes += size;
        state.waiting.push_back(record);
        let waiting = state.waiting.len();
        drop(state);
        if waiting == 1 || waiting == limits.batch {
            self.shared.wake.notify_one();
        }
    }

    /// Exports what waits, for at most `limit`; whether everything left in time. For tests and
    /// tools.
    #[must_use]
    pub fn flush(&self, limit: Duration) -> bool {
        let mut state = self.shared.lock();
        if state.len() == 0 {
            return true;
        }
        state.hurry = true;
        drop(state);
        self.shared.wake.notify_one();
        self.wait(limit, |state| state.len() == 0)
    }

    /// Takes no more records; what waits is exported, and then the thread ends.
    pub fn close(&self) {
        self.shared.lock().closed = true;
        self.shared.wake.notify_one();
    }

    /// Waits for the end of a closed queue, for at most `limit`; whether everything left in time.
    #[must_use]
    pub fn wait_closed(&self, limit: Duration) -> bool {
        self.wait(limit, |state| state.ended && state.len() == 0)
    }

    /// Waits until `done`, for at most `limit`; whether it is.
    fn wait(&self, limit: Duration, done: impl Fn(&State) -> bool) -> bool {
        let state = self.shared.lock();
        let (state, _) = self
            .shared
            .drained
            .wait_timeout_while(state, limit, |state| !state.ended && !done(state))
            .unwrap_or_else(PoisonError::into_inner);
        done(&state)
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
    fn run(&self, sink: &mut impl Sink, unpacker: &Unpacker) {
        while let Some(mut records) = self.next() {
            while !records.is_empty() {
                let batch = records.drain(..self.limits.batch.min(records.len()));
                let mut bytes = 0;
                let batch: Vec<_> = batch
                    .map(|record| {
                        bytes += record.size();
                        unpacker.unpack(&record)
                    })
                    .collect();
                let count = batch.len();
                sink.export(batch);
                let mut state = self.lock();
                state.under_way -= count;
                state.bytes -= bytes;
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
    fn next(&self) -> Option<VecDeque<Packed>> {
        let idle = |state: &mut State| state.waiting.is_empty() && !state.closed;
        let (mut state, pause) = self
            .wake
            .wait_timeout_while(self.lock(), PAUSE, idle)
            .unwrap_or_else(PoisonError::into_inner);
        if pause.timed_out() {
            drop(state);
            footprint::give_back();
            state = self
                .wake
                .wait_while(self.lock(), idle)
                .unwrap_or_else(PoisonError::into_inner);
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::log::Written;
    use std::sync::mpsc;
    use std::time::SystemTime;

    /// Tells the sizes of its batches; waits for a permit before each when given a gate.
    struct Probe {
        batches: mpsc::Sender<usize>,
        gate: Option<mpsc::Receiver<()>>,
    }

    impl Sink for Probe {
        fn export(&mut self, batch: Vec<LogRecord>) {
            let _ = self.batches.send(batch.len());
            if let Some(gate) = &self.gate {
                let _ = gate.recv();
            }
        }
    }

    struct Bench {
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
            gate,
        };
        let unpacker = Unpacker::new([]);
        let queue = Queue::start(probe, unpacker, limits, account.clone()).expect("a thread");
        Bench {
            queue,
            account,
            batches,
        }
    }

    impl Bench {
        fn emit(&self, records: usize) {
            for _ in 0..records {
                self.emit_sized(0);
            }
        }

        fn emit_sized(&self, octets: usize) {
            let written = Written {
                line: &[],
                emitted: &format!("{{\"msg\":\"{}\"}}", "x".repeat(octets)).into_bytes(),
                context_fields: 0,
                trace_flags: None,
            };
            let level = slog::Level::Info;
            self.queue
                .push(Packed::new(SystemTime::now(), level, &written));
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
        bench.queue.close();
        assert!(bench.queue.wait_closed(NEVER));
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
        assert!(bench.queue.flush(NEVER));
        assert!(bench.queue.is_empty());
    }

    #[test]
    fn long_records_are_bounded_by_their_bytes() {
        let (permit, gate) = mpsc::channel();
        let limits = Limits {
            queue: 100,
            batch: 1,
            delay: Duration::ZERO,
        };
        let bench = bench(limits, Some(gate));
        for _ in 0..9 {
            bench.emit_sized(QUEUE_BYTES / 8);
        }
        assert_eq!(bench.queue.len(), 7);
        assert_eq!(bench.account.lost(), [("queue_full".into(), 2)]);
        drop(permit);
        assert!(bench.queue.flush(NEVER));
        bench.emit_sized(QUEUE_BYTES / 2);
        assert!(bench.queue.flush(NEVER));
        assert_eq!(bench.account.lost(), [("queue_full".into(), 2)]);
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
        bench.queue.close();
        assert!(!bench.queue.wait_closed(Duration::from_millis(10)));
        assert_eq!(bench.queue.len(), 2);
        assert_eq!(bench.account.outstanding(), 2);
        drop(permit);
    }
}
