//! The log records that wait for export, and the thread that exports them.
//!
//! Emitting is a copy to the end of a batch under a short lock; a full queue drops the new record
//! and counts it. Records lie back to back in the form they are sent in, so the thread takes whole
//! batches and looks into none. It sleeps while there is nothing to send, and under load is woken
//! once a batch: waking it costs more than a record. The SDK's own batch processor builds and
//! clones each record in the thread that logs, and tells neither how much waits nor how much it
//! dropped, which the telemetry contract (section 8) asks for.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use opentelemetry::Context;

use super::account::Account;
use crate::footprint;
use crate::telemetry::background;

/// Bytes of records that wait or are under way. The usual record takes some 250, so that this only
/// ever bounds unusual ones, such as lists of rules.
pub const QUEUE_BYTES: usize = 16 * 1024 * 1024;

/// How long nothing must have been logged before what exports take is given back.
const PAUSE: Duration = Duration::from_secs(1);

/// Where batches go.
pub trait Sink: Send + 'static {
    /// Exports a batch, however long that takes, and accounts for what becomes of it.
    fn export(&mut self, batch: &Batch);
}

/// Records that leave together.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// How many they are.
    pub records: usize,
    /// All of them, as the field `log_records` of an OTLP `ScopeLogs`.
    pub bytes: Vec<u8>,
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
    /// There is no room for a record of any length; for who asks without the lock.
    full: AtomicBool,
    /// The thread waits here.
    wake: Condvar,
    /// Everything that was queued has left, or the thread has ended.
    drained: Condvar,
    limits: Limits,
    account: Arc<Account>,
}

#[derive(Default)]
struct State {
    /// In the order they leave; only the last is not full.
    waiting: VecDeque<Batch>,
    /// Keeps its space for the next batch.
    spare: Vec<u8>,
    /// Records that wait or are under way, and their bytes.
    records: usize,
    bytes: usize,
    worker: Worker,
    /// Do not wait for a full batch.
    hurry: bool,
    /// Take no more records; the thread ends when the queue is empty.
    closed: bool,
    ended: bool,
}

/// What the thread is doing.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Worker {
    #[default]
    Working,
    /// Waits for a full batch.
    Gathering,
    /// Waits for anything at all.
    Asleep,
}

impl State {
    fn add(&mut self, record: &[u8], batch: usize) {
        let Self { waiting, spare, .. } = self;
        if waiting.back().is_none_or(|last| last.records >= batch) {
            waiting.push_back(Batch {
                records: 0,
                bytes: std::mem::take(spare),
            });
        }
        if let Some(last) = waiting.back_mut() {
            last.records += 1;
            last.bytes.extend_from_slice(record);
        }
        self.records += 1;
        self.bytes += record.len();
    }

    /// Whether a full batch waits, or there is no use in waiting for one.
    fn is_due(&self, batch: usize) -> bool {
        let full = |first: &Batch| first.records >= batch;
        self.closed || self.hurry || self.waiting.front().is_some_and(full)
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
    /// A queue in front of `sink`. What is lost here is entered in `account`.
    ///
    /// # Errors
    ///
    /// The system refuses a thread.
    pub fn start(
        mut sink: impl Sink,
        limits: Limits,
        account: Arc<Account>,
    ) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            full: AtomicBool::new(false),
            wake: Condvar::new(),
            drained: Condvar::new(),
            limits,
            account,
        });
        let worker = shared.clone();
        std::thread::Builder::new()
            .name("otel-logs".to_owned())
            .spawn(move || {
                background::step_back();
                let _suppressed = Context::enter_telemetry_suppressed_scope();
                let ended = Ended(&worker);
                worker.run(&mut sink);
                drop(ended);
            })?;
        Ok(Self { shared })
    }

    /// Records that wait or are under way.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shared.lock().records
    }

    /// Whether nothing waits and nothing is under way.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether a record is worth encoding: while the receiver is away for long, none is.
    #[must_use]
    pub fn has_room(&self) -> bool {
        !self.shared.full.load(Ordering::Relaxed)
    }

    /// Adds a record in the form [`Batch::bytes`] has it, or counts it as lost.
    pub fn push(&self, record: &[u8]) {
        let limits = &self.shared.limits;
        let mut state = self.shared.lock();
        let full = state.records >= limits.queue || state.bytes + record.len() > QUEUE_BYTES;
        if state.closed || full {
            drop(state);
            return self.refuse();
        }
        self.shared.account.offer(1);
        state.add(record, limits.batch);
        if state.records >= limits.queue {
            self.shared.full.store(true, Ordering::Relaxed);
        }
        let wake = match state.worker {
            Worker::Working => false,
            Worker::Gathering => state.is_due(limits.batch),
            Worker::Asleep => true,
        };
        if wake {
            state.worker = Worker::Working;
            drop(state);
            self.shared.wake.notify_one();
        }
    }

    /// Counts a record as lost that there is no room for.
    pub fn refuse(&self) {
        let reason = if self.shared.lock().closed {
            "shutdown"
        } else {
            "queue_full"
        };
        self.shared.account.offer(1);
        self.shared.account.lose(reason, 1);
    }

    /// Exports what waits, for at most `limit`; whether everything left in time. For tests and
    /// tools.
    #[must_use]
    pub fn flush(&self, limit: Duration) -> bool {
        let mut state = self.shared.lock();
        if state.records == 0 {
            return true;
        }
        state.hurry = true;
        drop(state);
        self.shared.wake.notify_one();
        self.wait(limit, |state| state.records == 0)
    }

    /// Takes no more records; what waits is exported, and then the thread ends.
    pub fn close(&self) {
        self.shared.lock().closed = true;
        self.shared.wake.notify_one();
    }

    /// Waits for the end of a closed queue, for at most `limit`; whether everything left in time.
    #[must_use]
    pub fn wait_closed(&self, limit: Duration) -> bool {
        self.wait(limit, |state| state.ended && state.records == 0)
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
    fn run(&self, sink: &mut impl Sink) {
        let mut batch = Batch::default();
        let mut busy = Instant::now();
        while self.next(&mut batch, busy) {
            sink.export(&batch);
            busy = Instant::now();
            let mut state = self.lock();
            state.records -= batch.records;
            state.bytes -= batch.bytes.len();
            self.full.store(false, Ordering::Relaxed);
            if state.records == 0 {
                state.hurry = false;
                drop(state);
                self.drained.notify_all();
            }
        }
    }

    /// Waits for records worth an export and takes a batch of them, instead of what is in `batch`,
    /// whose export ended at `busy`. `false`: there will be none any more.
    fn next(&self, batch: &mut Batch, busy: Instant) -> bool {
        let mut state = self.lock();
        if batch.records > 0 {
            batch.bytes.clear();
            state.spare = std::mem::take(&mut batch.bytes);
            // Under load the next batch is full before its time, and no record has to say that it
            // is there.
            state = self.gather(state);
        }
        if state.waiting.is_empty() && !state.closed {
            state = self.sleep(state, busy + PAUSE);
            state = self.gather(state);
        }
        match state.waiting.pop_front() {
            Some(next) => *batch = next,
            None => return false,
        }
        true
    }

    /// Waits for a full batch, for as long as a record waits for others.
    fn gather<'s>(&'s self, state: MutexGuard<'s, State>) -> MutexGuard<'s, State> {
        let (mut state, _) = self
            .wake
            .wait_timeout_while(state, self.limits.delay, |state| {
                state.worker = Worker::Gathering;
                !state.is_due(self.limits.batch)
            })
            .unwrap_or_else(PoisonError::into_inner);
        state.worker = Worker::Working;
        state
    }

    /// Waits for anything to happen. What exports take is given back at `quiet`.
    fn sleep<'s>(
        &'s self,
        mut state: MutexGuard<'s, State>,
        quiet: Instant,
    ) -> MutexGuard<'s, State> {
        let idle = |state: &mut State| {
            let idle = state.waiting.is_empty() && !state.closed;
            state.worker = if idle {
                Worker::Asleep
            } else {
                Worker::Working
            };
            idle
        };
        let left = quiet.saturating_duration_since(Instant::now());
        let pause;
        (state, pause) = self
            .wake
            .wait_timeout_while(state, left, idle)
            .unwrap_or_else(PoisonError::into_inner);
        if pause.timed_out() {
            state.spare = Vec::new();
            drop(state);
            footprint::give_back();
            state = self
                .wake
                .wait_while(self.lock(), idle)
                .unwrap_or_else(PoisonError::into_inner);
        }
        state
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    /// Tells the sizes of its batches; waits for a permit before each when given a gate.
    struct Probe {
        batches: mpsc::Sender<usize>,
        gate: Option<mpsc::Receiver<()>>,
    }

    impl Sink for Probe {
        fn export(&mut self, batch: &Batch) {
            let _ = self.batches.send(batch.records);
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
        let queue = Queue::start(probe, limits, account.clone()).expect("a thread");
        Bench {
            queue,
            account,
            batches,
        }
    }

    impl Bench {
        fn emit(&self, records: usize) {
            for _ in 0..records {
                self.queue.push(b"record");
            }
        }

        fn emit_sized(&self, octets: usize) {
            self.queue.push(&vec![b'x'; octets]);
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
        assert!(bench.queue.has_room());
        bench.emit(5);
        assert!(!bench.queue.has_room());
        assert_eq!(bench.queue.len(), 3);
        assert_eq!(bench.account.lost(), [("queue_full".into(), 3)]);
        drop(permit);
        assert!(bench.queue.flush(NEVER));
        assert!(bench.queue.is_empty() && bench.queue.has_room());
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
        assert_eq!(bench.queue.len(), 8);
        assert_eq!(bench.account.lost(), [("queue_full".into(), 1)]);
        drop(permit);
        assert!(bench.queue.flush(NEVER));
        bench.emit_sized(QUEUE_BYTES / 2);
        assert!(bench.queue.flush(NEVER));
        assert_eq!(bench.account.lost(), [("queue_full".into(), 1)]);
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
