//! The bounded queue between the threads that log and the one that writes.
//!
//! Holds lines back to back in one buffer: adding a record is a copy under a short lock, and the
//! writer takes everything there is by exchanging buffers. Never blocks the adding side, never
//! allocates for a record once the buffer has grown, and never loses a record uncounted.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::dropped::{Dropped, Reason};

/// Bytes of records waiting for one output, those being written included.
pub const QUEUE_BYTES: usize = 2 * 1024 * 1024;
/// Records waiting for one output, those being written included.
pub const QUEUE_RECORDS: usize = 16_384;
/// Bytes of one record; a rules list at its limit takes some 80 KiB.
pub const MAX_RECORD_BYTES: usize = 256 * 1024;

/// How long the writer lets records gather after a write. Under load one write then carries many
/// records, and the logging threads need not wake the writer, which costs more than the record.
const GATHER: Duration = Duration::from_millis(5);
/// The same after a write of [`MANY`] records or more: of so many, nobody reads one by one.
const GATHER_LONG: Duration = Duration::from_millis(20);
const MANY: usize = 32;
/// Waiting bytes at which the writer is woken before that time is over.
const GATHERED_BYTES: usize = 128 * 1024;
/// Buffer space kept while nothing is logged.
const KEPT_BYTES: usize = 16 * 1024;

/// Records lost since this was last told, by reason.
pub(super) type Losses = [u64; Reason::ALL.len()];

/// What the writer is to do next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// Write the buffer.
    Lines,
    /// Nothing is waiting any more: tell what was lost.
    Report(Losses),
    /// The queue is closed and empty.
    Finish,
}

/// See the module documentation.
pub(super) struct Queue {
    state: Mutex<State>,
    /// The writer waits here for records.
    work: Condvar,
    /// [`Queue::flush`] and [`Queue::close`] wait here for the writer.
    progress: Condvar,
    limits: Limits,
    dropped: Arc<Dropped>,
}

/// The bounds of a queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) bytes: usize,
    pub(super) records: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bytes: QUEUE_BYTES,
            records: QUEUE_RECORDS,
        }
    }
}

#[derive(Default)]
struct State {
    waiting: Vec<u8>,
    waiting_records: usize,
    /// What the writer has taken and not yet written.
    taken_bytes: usize,
    taken_records: usize,
    losses: Losses,
    writer: Writer,
    /// How many callers wait for the queue to be empty.
    flushing: usize,
    closed: bool,
    finished: bool,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Writer {
    #[default]
    Working,
    /// Lets records gather.
    Gathering,
    /// Waits for anything at all.
    Asleep,
}

impl State {
    fn is_empty(&self) -> bool {
        self.waiting_records == 0 && self.taken_records == 0
    }
}

impl Queue {
    pub(super) fn new(limits: Limits, dropped: Arc<Dropped>) -> Self {
        Self {
            state: Mutex::default(),
            work: Condvar::new(),
            progress: Condvar::new(),
            limits,
            dropped,
        }
    }

    /// A panic while the lock is held leaves a state that is still consistent enough to log with.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds one line, or counts it as lost. Returns at once.
    pub(super) fn push(&self, line: &[u8]) {
        let mut state = self.lock();
        let refused = if state.closed {
            Some(Reason::Shutdown)
        } else if line.len() > MAX_RECORD_BYTES {
            Some(Reason::TooLarge)
        } else if state.waiting_records + state.taken_records >= self.limits.records
            || state.waiting.len() + state.taken_bytes + line.len() > self.limits.bytes
        {
            Some(Reason::QueueFull)
        } else {
            None
        };
        if let Some(reason) = refused {
            self.dropped.add(reason, 1);
            state.losses[reason as usize] += 1;
        } else {
            state.waiting.extend_from_slice(line);
            state.waiting_records += 1;
        }
        let wake = match state.writer {
            Writer::Working => false,
            Writer::Gathering => state.waiting.len() >= GATHERED_BYTES,
            Writer::Asleep => true,
        };
        if wake {
            state.writer = Writer::Working;
            drop(state);
            self.work.notify_one();
        }
    }

    /// Tells that the lines taken last are done with, and waits for more to do. With
    /// [`Work::Lines`] they are in `lines`, whose former contents are gone.
    pub(super) fn next(&self, lines: &mut Vec<u8>) -> Work {
        lines.clear();
        let mut state = self.lock();
        let wrote = state.taken_records > 0;
        let gather = if state.taken_records < MANY {
            GATHER
        } else {
            GATHER_LONG
        };
        state.taken_bytes = 0;
        state.taken_records = 0;
        if wrote && state.is_empty() {
            self.progress.notify_all();
        }
        if wrote && !state.closed && state.flushing == 0 && state.waiting.len() < GATHERED_BYTES {
            state.writer = Writer::Gathering;
            state = self
                .work
                .wait_timeout(state, gather)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
            state.writer = Writer::Working;
        }
        loop {
            if state.waiting_records > 0 {
                std::mem::swap(&mut state.waiting, lines);
                state.taken_bytes = lines.len();
                state.taken_records = std::mem::take(&mut state.waiting_records);
                return Work::Lines;
            }
            if state.losses.iter().any(|count| *count > 0) {
                return Work::Report(std::mem::take(&mut state.losses));
            }
            if state.closed {
                state.finished = true;
                self.progress.notify_all();
                return Work::Finish;
            }
            lines.shrink_to(KEPT_BYTES);
            state.waiting.shrink_to(KEPT_BYTES);
            state.writer = Writer::Asleep;
            state = self
                .work
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
            state.writer = Writer::Working;
        }
    }

    /// Waits until everything added before is written; `false` when `deadline` came first.
    pub(super) fn flush(&self, deadline: Instant) -> bool {
        let mut state = self.lock();
        state.flushing += 1;
        self.work.notify_one();
        while !state.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = self
                .progress
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        state.flushing -= 1;
        state.is_empty()
    }

    /// Refuses records from now on; the writer finishes once it has written what is there.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.work.notify_one();
    }

    /// Waits until the writer of a closed queue has finished. When `deadline` comes first, what
    /// it has not written is counted as lost, and so is what it is in the middle of writing.
    pub(super) fn wait_finished(&self, deadline: Instant) {
        let mut state = self.lock();
        while !state.finished {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let records = state.waiting_records + state.taken_records;
                self.dropped.add(Reason::Shutdown, records as u64);
                // Given up: waiting or counting once more would be wrong.
                state.finished = true;
                return;
            }
            state = self
                .progress
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(bytes: usize, records: usize) -> (Queue, Arc<Dropped>) {
        let dropped = Arc::new(Dropped::default());
        (
            Queue::new(Limits { bytes, records }, Arc::clone(&dropped)),
            dropped,
        )
    }

    fn losses(reason: Reason, count: u64) -> Losses {
        let mut losses = Losses::default();
        losses[reason as usize] = count;
        losses
    }

    #[test]
    fn lines_come_out_together_and_losses_after_them() {
        let (queue, dropped) = queue(100, 2);
        for line in ["a\n", "b\n", "c\n"] {
            queue.push(line.as_bytes());
        }
        let mut lines = Vec::new();
        assert_eq!(queue.next(&mut lines), Work::Lines);
        assert_eq!(lines, b"a\nb\n");
        // What the writer holds still counts against the bound.
        queue.push(b"d\n");
        queue.close();
        let expected = losses(Reason::QueueFull, 2);
        assert_eq!(queue.next(&mut lines), Work::Report(expected));
        assert_eq!(queue.next(&mut lines), Work::Finish);
        assert_eq!(dropped.count(Reason::QueueFull), 2);
        queue.push(b"e\n");
        assert_eq!(dropped.count(Reason::Shutdown), 1);
        assert_eq!(dropped.total(), 3);
    }

    #[test]
    fn bytes_are_bounded_as_well_as_records() {
        let (queue, dropped) = queue(10, 100);
        queue.push(b"12345678\n");
        queue.push(b"9\n");
        assert_eq!(dropped.count(Reason::QueueFull), 1);
        let (queue, dropped) = self::queue(usize::MAX, 100);
        queue.push(&vec![b'x'; MAX_RECORD_BYTES + 1]);
        assert_eq!(dropped.count(Reason::TooLarge), 1);
        let mut lines = Vec::new();
        assert_eq!(
            queue.next(&mut lines),
            Work::Report(losses(Reason::TooLarge, 1))
        );
    }

    #[test]
    fn waiting_for_a_writer_that_does_not_come_ends() {
        let (queue, dropped) = queue(100, 100);
        queue.push(b"a\n");
        queue.push(b"b\n");
        assert!(!queue.flush(Instant::now() + Duration::from_millis(10)));
        queue.close();
        queue.wait_finished(Instant::now() + Duration::from_millis(10));
        assert_eq!(dropped.count(Reason::Shutdown), 2);
    }

    #[test]
    fn every_record_of_every_thread_arrives_or_is_counted() {
        const THREADS: usize = 4;
        const RECORDS: usize = 20_000;
        let (queue, dropped) = queue(64 * 1024, 1000);
        let written = std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let (mut lines, mut written, mut reported) = (Vec::new(), 0, 0);
                loop {
                    match queue.next(&mut lines) {
                        Work::Lines => written += lines.split(|byte| *byte == b'\n').count() - 1,
                        Work::Report(losses) => reported += losses.iter().sum::<u64>(),
                        Work::Finish => return (written, reported),
                    }
                }
            });
            let adders: Vec<_> = (0..THREADS)
                .map(|_| {
                    scope.spawn(|| {
                        for number in 0..RECORDS {
                            queue.push(format!("{number}\n").as_bytes());
                        }
                    })
                })
                .collect();
            for adder in adders {
                adder.join().unwrap();
            }
            queue.flush(Instant::now() + Duration::from_secs(30));
            queue.close();
            writer.join().unwrap()
        });
        assert_eq!(written.1, dropped.total());
        assert_eq!(
            written.0 as u64 + dropped.total(),
            (THREADS * RECORDS) as u64
        );
    }
}
