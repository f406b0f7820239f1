//! Cost of a log record in the thread that logs (`SPECIFICATION.md`, number 20): at most 1 us for
//! an event, its instruments included, and no allocation beyond the record.

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use opensandbox::telemetry::export::account::Account;
use opensandbox::telemetry::export::queue::{Batch, Limits, Queue, Sink};
use opensandbox::telemetry::instrument::Meter;
use opensandbox::telemetry::log::{
    self, Destination, EVENT_KEY, LogConfig, LogGuard, QUEUE_RECORDS, Threshold,
};
use opentelemetry::metrics::MeterProvider;
use opentelemetry_sdk::metrics::{ManualReader, SdkMeterProvider};
use rustix::time::{ClockId, clock_gettime};
use slog::{KV, Logger, Record, Serializer, debug, info};
use support::bench::{Spread, Table, interleave, measured};

/// Records in one round: fewer than the queue holds, so that none is dropped on the way.
const RECORDS: usize = QUEUE_RECORDS / 4;
const ROUNDS: usize = 40;
/// Far longer than the outputs take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Counts what the measured threads allocate.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call is passed on to the system allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`, which is that of `System`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the pointer came from `alloc` above and so from `System`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

opensandbox::instruments! {
    /// What an event of a query moves.
    struct Metrics in "bench" {
        /// Queries.
        queries: opensandbox::telemetry::instrument::Counter = "bench.queries", "{query}";
        /// Latency.
        duration: opensandbox::telemetry::instrument::Histogram = "bench.duration", "s",
            boundaries opensandbox::telemetry::instrument::SUB_MILLISECOND_SECONDS;
    }
}

/// The shape of `egress.outbound`.
struct Outbound<'a> {
    host: &'a str,
    addresses: &'a [IpAddr],
}

impl KV for Outbound<'_> {
    fn serialize(&self, _: &Record<'_>, serializer: &mut dyn Serializer) -> slog::Result {
        serializer.emit_str(EVENT_KEY.into(), "egress.outbound")?;
        serializer.emit_str("target.host".into(), self.host)?;
        serializer.emit_serde("target.ips".into(), &log::Nested(self.addresses))
    }
}

/// The shape of `ingress.access`: sixteen fields.
struct Access<'a> {
    host: &'a str,
}

impl KV for Access<'_> {
    fn serialize(&self, _: &Record<'_>, serializer: &mut dyn Serializer) -> slog::Result {
        let Self { host } = self;
        serializer.emit_str(EVENT_KEY.into(), "ingress.access")?;
        serializer.emit_arguments("target".into(), &format_args!("{host}:{}", 8080))?;
        serializer.emit_str("client".into(), "192.0.2.7")?;
        serializer.emit_str("uri".into(), "/sb-0123456789/8080/v1/run?x=1&y=2")?;
        serializer.emit_str("method".into(), "POST")?;
        serializer.emit_str("sandbox".into(), "sb-0123456789")?;
        serializer.emit_u16("port".into(), 8080)?;
        serializer.emit_u16("status".into(), 200)?;
        serializer.emit_str("proxy_type".into(), "http")?;
        serializer.emit_f64("duration_ms".into(), 12.345)?;
        serializer.emit_u64("bytes_in".into(), 17)?;
        serializer.emit_u64("bytes_out".into(), 4096)?;
        serializer.emit_str("route_mode".into(), "uri")?;
        serializer.emit_str("auth".into(), "signature")?;
        serializer.emit_char("key_id".into(), 'k')?;
        serializer.emit_str("error_type".into(), "none")
    }
}

/// What happens to a record afterwards is the business of another thread.
struct Discard;

impl Sink for Discard {
    fn export(&mut self, batch: &Batch) {
        black_box(batch);
    }
}

/// A queue that takes a round and wakes its thread only when it is flushed.
fn export_queue(guard: &LogGuard) -> Queue {
    let limits = Limits {
        queue: RECORDS,
        batch: RECORDS + 1,
        delay: Duration::from_secs(3600),
    };
    let account = Arc::new(Account::new("log records", &guard.local()));
    Queue::start(Discard, limits, account).expect("a thread")
}

fn build() -> (Logger, LogGuard) {
    log::build(&LogConfig {
        name: "opensandbox.egress",
        threshold: Threshold::Info,
        destinations: vec![Destination::File("/dev/null".into())],
        baseline: vec![
            ("sandbox_id".to_owned(), "sb-abc".to_owned()),
            ("tenant".to_owned(), "t1".to_owned()),
        ],
    })
    .expect("/dev/null can be opened")
}

/// Nanoseconds and allocations of each of a round's calls.
type Round = (f64, f64);

/// A case: after each round `settle` waits for what other threads do about it.
fn case<'a>(
    mut one: impl FnMut(usize) + 'a,
    settle: impl Fn() + 'a,
) -> Box<dyn FnMut() -> Round + 'a> {
    Box::new(move || {
        let (start, before) = (processor_time(), ALLOCATIONS.load(Ordering::Relaxed));
        (0..RECORDS).for_each(&mut one);
        let elapsed = processor_time() - start;
        let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
        settle();
        let each = |total: f64| total / RECORDS as f64;
        (each(elapsed.as_nanos() as f64), each(allocations as f64))
    })
}

/// Of this thread, whatever else the machine does meanwhile.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).expect("it only grows")
}

fn main() {
    let rounds = if measured() { ROUNDS } else { 1 };
    let (logger, guard) = build();
    let (exported, exported_guard) = build();
    let queue = export_queue(&exported_guard);
    exported_guard.export_to(vec![queue.clone()]);
    let addresses = [IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)); 2];
    let event = Outbound {
        host: "packages.example.test",
        addresses: &addresses,
    };
    let access = Access { host: "10.244.1.5" };
    let meters = SdkMeterProvider::builder()
        .with_reader(ManualReader::builder().build())
        .build();
    let metrics = Metrics::new(&Meter::new(meters.meter("bench"), Arc::from([])));
    let instruments = || {
        metrics.queries.add(1);
        metrics.duration.record(0.001);
    };
    let settle = || assert!(guard.flush(PATIENCE), "/dev/null takes everything");
    let settle_export = || {
        assert!(exported_guard.flush(PATIENCE), "/dev/null takes everything");
        assert!(queue.flush(PATIENCE), "nothing keeps the exporter");
    };

    let names = [
        "clock alone",
        "disabled level",
        "message",
        "message and two fields",
        "two instruments",
        "event",
        "event and two instruments",
        "event, two instruments and OTLP record",
        "event with 16 fields",
        "event with 16 fields and OTLP record",
    ];
    let mut cases = [
        case(
            |_| {
                black_box(std::time::SystemTime::now());
            },
            || (),
        ),
        case(
            |number| debug!(logger, "not written {}", number; "host" => event.host),
            settle,
        ),
        case(|_| info!(logger, "egress outbound"), settle),
        case(
            |number| info!(logger, "egress outbound"; "host" => event.host, "number" => number),
            settle,
        ),
        case(|_| instruments(), || ()),
        case(|_| info!(logger, "egress outbound"; &event), settle),
        case(
            |_| {
                instruments();
                info!(logger, "egress outbound"; &event);
            },
            settle,
        ),
        case(
            |_| {
                instruments();
                info!(exported, "egress outbound"; &event);
            },
            settle_export,
        ),
        case(|_| info!(logger, "ingress requested"; &access), settle),
        case(
            |_| info!(exported, "ingress requested"; &access),
            settle_export,
        ),
    ];
    let results = interleave(rounds, &mut cases);
    drop(cases);

    let mut table = Table::new(&["in the thread that logs", "ns each", "allocations"]);
    for (name, rounds) in names.iter().zip(&results) {
        let time = Spread::of(rounds.iter().map(|round| round.0));
        let allocations = Spread::of(rounds.iter().map(|round| round.1));
        table.row(&[name, &time, &format!("{:.2}", allocations.low)]);
    }
    print!("{table}");
    let lost = guard.close(PATIENCE) + exported_guard.close(PATIENCE);
    assert_eq!(lost, 0, "a lost record costs less than one that is written");
}
