//! The one logger of all applets: JSON lines, and OTLP records when there is somewhere to send
//! them (telemetry contract, section 9).
//!
//! A record is encoded in the thread that logs and put into a bounded queue for each output; a
//! thread for each output writes. Logging therefore never waits for a reader or a disk: where the
//! queue is full the record is counted, and the count is told in the log once there is room.
//! Never reads the environment, and never decides what an applet has to say.

mod destination;
mod direct;
mod dropped;
mod encoder;
mod file;
mod keys;
mod level;
mod nested;
mod order;
mod queue;
mod sink;
pub(crate) mod timestamp;
mod writer;

use std::cell::Cell;
use std::convert::Infallible;
use std::io;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use opentelemetry::Context;
use slog::{Drain, Logger, OwnedKVList, Record, b, o, record};

pub use destination::Destination;
pub use direct::{LineWriter, MAX_STREAM_LINE, direct};
pub use dropped::{Dropped, Reason};
pub use level::Threshold;
pub use nested::Nested;
pub use order::EVENT_KEY;
pub use queue::{MAX_RECORD_BYTES, QUEUE_BYTES, QUEUE_RECORDS};

use super::export::queue::Queue as ExportQueue;
use encoder::{Encoder, Scratch, Written};
use file::Rotation;
use queue::{Limits, Queue};
use sink::Sink;

/// How long a dropped [`LogGuard`] waits for the outputs.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);

/// Stack of a writer thread, which holds no more than a path and a record of its own.
const WRITER_STACK_BYTES: usize = 256 * 1024;

/// What a logger is made of.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// The `logger` field, which is also the OTLP scope: `opensandbox.egress`, ...
    pub name: &'static str,
    /// The least severe records that are written.
    pub threshold: Threshold,
    /// Where they are written.
    pub destinations: Vec<Destination>,
    /// The fields of every record: `sandbox_id` and the extra attributes.
    pub baseline: Vec<(String, String)>,
}

/// Why there is no logger.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An output cannot be opened.
    #[error("cannot open log output {output:?}: {source}")]
    Open {
        /// As the operator wrote it.
        output: String,
        /// What the system says.
        source: io::Error,
    },
    /// The system has no thread for us.
    #[error("cannot start the thread that writes the log: {0}")]
    Thread(io::Error),
}

/// Opens the outputs and starts their writers. The logger's records go to them, and from
/// [`LogGuard::export_to`] on to OTLP as well.
///
/// # Errors
/// An output that cannot be opened, or a thread that cannot be started.
pub fn build(config: &LogConfig) -> Result<(Logger, LogGuard), Error> {
    let mut sinks = Vec::with_capacity(config.destinations.len());
    for destination in &config.destinations {
        let name = destination.to_string();
        match Sink::open(destination, Rotation::default()) {
            Ok(sink) => sinks.push((name, sink)),
            Err(source) => {
                return Err(Error::Open {
                    output: name,
                    source,
                });
            }
        }
    }
    start(config, sinks, Limits::default())
}

fn start(
    config: &LogConfig,
    sinks: Vec<(String, Sink)>,
    limits: Limits,
) -> Result<(Logger, LogGuard), Error> {
    let dropped = Arc::new(Dropped::default());
    let (names, sinks): (Vec<_>, Vec<_>) = sinks.into_iter().unzip();
    let pipeline = Arc::new(Pipeline {
        threshold: level::Shared::new(config.threshold),
        encoder: Encoder::new(config.name, &config.baseline),
        outputs: names
            .into_iter()
            .map(|name| Output {
                name,
                queue: Queue::new(limits, Arc::clone(&dropped)),
            })
            .collect(),
        dropped,
        exports: OnceLock::new(),
        no_context: o!().into(),
    });
    let guard = LogGuard {
        pipeline: Arc::clone(&pipeline),
    };
    for (position, sink) in sinks.into_iter().enumerate() {
        let pipeline = Arc::clone(&pipeline);
        std::thread::Builder::new()
            .name("log-writer".to_owned())
            .stack_size(WRITER_STACK_BYTES)
            .spawn(move || writer::run(&pipeline, position, sink))
            .map_err(Error::Thread)?;
    }
    let root = Root {
        pipeline,
        exported: true,
    };
    Ok((Logger::root(root, o!()), guard))
}

/// Everything the logger, its handles and its writers share.
struct Pipeline {
    threshold: level::Shared,
    encoder: Encoder,
    outputs: Vec<Output>,
    dropped: Arc<Dropped>,
    exports: OnceLock<Vec<ExportQueue>>,
    no_context: OwnedKVList,
}

struct Output {
    /// As the operator wrote it.
    name: String,
    queue: Queue,
}

thread_local! {
    /// Buffers of this thread. Taken out while in use, so that a value that logs while it is
    /// being logged finds none and brings its own.
    static SCRATCH: Cell<Option<Box<Scratch>>> = const { Cell::new(None) };
}

impl Pipeline {
    /// Hands a record to every output, and to OTLP if it is to be `exported`, whatever its level.
    fn write(&self, record: &Record<'_>, context: &OwnedKVList, exported: bool) {
        let exports = self
            .exports
            .get()
            .filter(|_| exported)
            .map_or(&[][..], Vec::as_slice);
        let exports = match exports {
            [_, ..] if Context::is_current_telemetry_suppressed() => &[],
            exports => exports,
        };
        let worth_it = exports.iter().any(ExportQueue::has_room);
        self.encode(record, context, worth_it, |written| {
            for output in &self.outputs {
                output.queue.push(written.line);
            }
            for queue in exports {
                if worth_it {
                    queue.push(written.record);
                } else {
                    queue.refuse();
                }
            }
        });
    }

    /// Encodes a record of the log about itself.
    fn encoded<T>(&self, record: &Record<'_>, then: impl FnOnce(&[u8]) -> T) -> T {
        self.encode(record, &self.no_context, false, |written| {
            then(written.line)
        })
    }

    fn encode<T>(
        &self,
        record: &Record<'_>,
        context: &OwnedKVList,
        exported: bool,
        then: impl FnOnce(Written<'_>) -> T,
    ) -> T {
        let now = SystemTime::now();
        // The buffers of a thread that is ending are gone: it gets new ones.
        let mut scratch = SCRATCH
            .try_with(Cell::take)
            .ok()
            .flatten()
            .unwrap_or_default();
        let encoder = &self.encoder;
        let result = then(encoder.encode(&mut scratch, now, record, context, exported));
        let _ = SCRATCH.try_with(|kept| kept.set(Some(scratch)));
        result
    }
}

/// The drain at the root of every logger.
struct Root {
    pipeline: Arc<Pipeline>,
    exported: bool,
}

// A panic in a value's formatting leaves no broken state behind: the buffers in use are lost with
// it, and the queue is changed only after encoding. The SDK's logger makes the same promise
// without the marker.
impl UnwindSafe for Root {}
impl RefUnwindSafe for Root {}

impl Drain for Root {
    type Ok = ();
    type Err = Infallible;

    #[inline]
    fn log(&self, record: &Record<'_>, context: &OwnedKVList) -> Result<(), Infallible> {
        if self.pipeline.threshold.admits(record.level()) {
            self.pipeline.write(record, context, self.exported);
        }
        Ok(())
    }

    #[inline]
    fn is_enabled(&self, level: slog::Level) -> bool {
        self.pipeline.threshold.admits(level)
    }
}

/// Changes how much is logged while the process runs (`SIGUSR1`, `SIGUSR2`).
#[derive(Clone)]
pub struct LevelHandle {
    pipeline: Arc<Pipeline>,
}

impl LevelHandle {
    /// The current threshold.
    #[must_use]
    pub fn threshold(&self) -> Threshold {
        self.pipeline.threshold.get()
    }

    /// One step more detail, announced in the log.
    pub fn raise(&self) {
        self.step(1);
    }

    /// One step less detail, announced in the log.
    pub fn lower(&self) {
        self.step(-1);
    }

    /// The announcement is written whatever the threshold: who sent the signal waits for it.
    fn step(&self, by: isize) {
        let (before, after) = self.pipeline.threshold.step(by);
        self.pipeline.write(
            &record!(
                slog::Level::Info,
                "",
                &format_args!("log level is now {after}"),
                b!("before" => before.as_str(), "after" => after.as_str())
            ),
            &self.pipeline.no_context,
            true,
        );
    }
}

/// Keeps the outputs open. Dropping it writes what is queued, within two seconds; records logged
/// afterwards are counted as dropped.
pub struct LogGuard {
    pipeline: Arc<Pipeline>,
}

impl LogGuard {
    /// The handle that changes the threshold.
    #[must_use]
    pub fn level(&self) -> LevelHandle {
        LevelHandle {
            pipeline: Arc::clone(&self.pipeline),
        }
    }

    /// Puts every record of the logger into `queues` too, from now on and for good.
    pub fn export_to(&self, queues: Vec<ExportQueue>) {
        self.pipeline.exports.get_or_init(|| queues);
    }

    /// A logger whose records are never exported: what the export says about itself must not
    /// become its own work.
    pub fn local(&self) -> Logger {
        let root = Root {
            pipeline: Arc::clone(&self.pipeline),
            exported: false,
        };
        Logger::root(root, o!())
    }

    /// The account of lost records.
    #[must_use]
    pub fn dropped(&self) -> Arc<Dropped> {
        Arc::clone(&self.pipeline.dropped)
    }

    /// Waits until everything logged before is written, at most `within`. Tells whether it is.
    pub fn flush(&self, within: Duration) -> bool {
        let deadline = Instant::now() + within;
        let mut all = true;
        for output in &self.pipeline.outputs {
            all &= output.queue.flush(deadline);
        }
        all
    }

    /// Writes what is queued and closes the outputs, within `within`. Returns how many records
    /// were lost since the start.
    pub fn close(self, within: Duration) -> u64 {
        self.pipeline.close(within);
        self.pipeline.dropped.total()
    }
}

impl Pipeline {
    fn close(&self, within: Duration) {
        let deadline = Instant::now() + within;
        for output in &self.outputs {
            output.queue.close();
        }
        for output in &self.outputs {
            output.queue.wait_finished(deadline);
        }
    }
}

impl Drop for LogGuard {
    fn drop(&mut self) {
        self.pipeline.close(CLOSE_WITHIN);
    }
}
