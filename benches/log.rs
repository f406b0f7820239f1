//! Cost of a log record in the thread that logs: nanoseconds each, best of several rounds.
//!
//! `cargo bench --bench log --profile quick`. The promise is at most 1 us for an event, its
//! instruments included, and no allocation beyond the record (SPECIFICATION.md).

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use opensandbox::telemetry::instrument::Meter;
use opensandbox::telemetry::log::{
    self, Destination, EVENT_KEY, LogConfig, LogGuard, QUEUE_RECORDS, Threshold,
};
use opentelemetry::InstrumentationScope;
use opentelemetry::metrics::MeterProvider;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::logs::{LogProcessor, SdkLogRecord, SdkLoggerProvider};
use opentelemetry_sdk::metrics::{ManualReader, SdkMeterProvider};
use slog::{KV, Logger, Record, Serializer, debug, info};

/// Records in one round: fewer than the queue holds, so that none is dropped on the way.
const RECORDS: usize = QUEUE_RECORDS / 4;
const ROUNDS: usize = 40;

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

/// The end of the bridge: what an exporter does afterwards happens in its own thread.
#[derive(Debug)]
struct Discard;

impl LogProcessor for Discard {
    fn emit(&self, record: &mut SdkLogRecord, _: &InstrumentationScope) {
        black_box(record);
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
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

fn measure(name: &str, guard: &LogGuard, mut one: impl FnMut(usize)) {
    let mut best = Duration::MAX;
    let mut allocations = u64::MAX;
    for _ in 0..ROUNDS {
        let (start, before) = (Instant::now(), ALLOCATIONS.load(Ordering::Relaxed));
        for number in 0..RECORDS {
            one(number);
        }
        best = best.min(start.elapsed());
        allocations = allocations.min(ALLOCATIONS.load(Ordering::Relaxed) - before);
        assert!(
            guard.flush(Duration::from_secs(10)),
            "/dev/null takes everything"
        );
    }
    println!(
        "{name:40} {:7.1} ns {:6.2} allocations",
        best.as_nanos() as f64 / RECORDS as f64,
        allocations as f64 / RECORDS as f64,
    );
}

fn main() {
    let (logger, guard) = build();
    let addresses = [IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)); 2];
    let event = Outbound {
        host: "packages.example.test",
        addresses: &addresses,
    };

    measure("clock alone", &guard, |_| {
        black_box(std::time::SystemTime::now());
    });
    measure("disabled level", &guard, |number| {
        debug!(logger, "not written {}", number; "host" => event.host, "number" => number);
    });
    measure("message", &guard, |_| info!(logger, "egress outbound"));
    measure("message and two fields", &guard, |number| {
        info!(logger, "egress outbound"; "target.host" => event.host, "number" => number);
    });
    measure(
        "event",
        &guard,
        |_| info!(logger, "egress outbound"; &event),
    );

    let meters = SdkMeterProvider::builder()
        .with_reader(ManualReader::builder().build())
        .build();
    let metrics = Metrics::new(&Meter::new(meters.meter("bench"), std::sync::Arc::from([])));
    measure("event and two instruments", &guard, |_| {
        metrics.queries.add(1);
        metrics.duration.record(0.001);
        info!(logger, "egress outbound"; &event);
    });

    let provider = SdkLoggerProvider::builder()
        .with_log_processor(Discard)
        .build();
    guard.export_to(&provider);
    measure("event, JSON and OTLP record", &guard, |_| {
        info!(logger, "egress outbound"; &event);
    });
    let lost = guard.close(Duration::from_secs(10));
    assert_eq!(lost, 0, "a lost record costs less than one that is written");
}
