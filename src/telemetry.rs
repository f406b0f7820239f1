//! The one telemetry module of all applets: metrics and logs over OpenTelemetry, JSON lines on
//! standard output (`docs/telemetry.md`).
//!
//! Owns what a process exports and how it ends. Nothing configured means nothing made: no
//! provider, no thread, no socket, no look-up. Never blocks what it observes, and never grows
//! without a bound: what cannot be delivered is dropped and counted.

mod background;
mod bridge;
pub mod diagnostics;
pub mod env;
pub mod export;
pub mod instrument;
pub mod log;
pub mod process;
pub mod prometheus;
mod resource;
mod scrape;
pub mod self_metrics;
pub mod semconv;
pub mod series;
pub mod trace_context;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use opentelemetry::KeyValue;
use opentelemetry::metrics::MeterProvider as _;

use slog::{Logger, error, warn};

pub use env::Config;
use export::Exporters;
use instrument::Meter;
use log::LogGuard;
use semconv::HttpKeys;

use crate::http::connect::Connector;
use crate::lifecycle::Shutdown;
use crate::runtime::Spawner;

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
    logger: Logger,
    log: LogGuard,
    exporters: Exporters,
    shared: Arc<[KeyValue]>,
    http_keys: HttpKeys,
    prometheus: Option<env::Prometheus>,
}

/// What a process could not deliver, counted since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// Data points in exports that failed, or that the receiver refused.
    pub metric_points: u64,
    /// Log records in exports that failed, that the receiver refused, or that found the queue full.
    pub log_records: u64,
    /// Whether the last metrics were exported, or given up, in time.
    pub metrics_flushed: bool,
}

impl Telemetry {
    /// Starts what `config` asks for, on top of an open log. The exporters connect with
    /// `connector`, which an applet that filters its own network makes so that it goes around the
    /// filter.
    #[must_use]
    pub fn init(config: &Config, (logger, log): (Logger, LogGuard), connector: &Connector) -> Self {
        let exporters = Exporters::start(config, &log.local(), connector);
        if !exporters.queues.is_empty() {
            log.export_to(exporters.queues.clone());
        }
        Self {
            logger,
            log,
            exporters,
            shared: shared(config),
            http_keys: config.http_keys,
            prometheus: config.metrics.prometheus.clone(),
        }
    }

    /// The meter of an instrumentation scope, for example `opensandbox/egress`. Its instruments
    /// record nothing when metrics go nowhere.
    #[must_use]
    pub fn meter(&self, scope: &'static str) -> Meter {
        let meter = match &self.exporters.meters {
            Some(meters) => Meter::new(meters.meter(scope), self.shared.clone()),
            None => Meter::noop(),
        };
        meter.with_http_keys(self.http_keys)
    }

    /// The logger of the process.
    pub fn logger(&self) -> &Logger {
        &self.logger
    }

    /// The log's outputs: their level, their losses.
    #[must_use]
    pub fn log(&self) -> &LogGuard {
        &self.log
    }

    /// Listens for scrapers until `shutdown`, when the `prometheus` exporter is on. Returns where;
    /// a port that cannot be had is an error in the log, and no reason to end.
    pub fn serve_scrapers(&self, spawner: &Spawner, shutdown: Shutdown) -> Vec<SocketAddr> {
        let (Some(place), Some(reader)) = (&self.prometheus, &self.exporters.scrape) else {
            return Vec::new();
        };
        scrape::serve(place, reader, spawner, shutdown).unwrap_or_else(|error| {
            error!(self.log.local(), "metrics cannot be scraped"; "error" => %error);
            Vec::new()
        })
    }

    /// Exports what is left, logs before metrics, then writes what was lost into the log and closes
    /// it, all within `limit`. Blocks.
    pub fn shutdown(self, limit: Duration) -> Losses {
        /// Left for the log's own outputs.
        const LOG_SHARE: u32 = 5;
        let log_limit = limit / LOG_SHARE;
        let logger = self.log.local();
        let losses = self.exporters.shutdown(limit - log_limit);
        let deadline = Instant::now() + log_limit;
        // What an output does not take is known once it was written. This is for an output that
        // works still: one that is full or gone cannot tell itself.
        self.log.flush(log_limit / 2);
        let log_lines = self.log.dropped().total();
        if losses.metric_points > 0
            || losses.log_records > 0
            || log_lines > 0
            || !losses.metrics_flushed
        {
            warn!(logger, "telemetry was lost";
                "metric_points" => losses.metric_points,
                "log_records" => losses.log_records,
                "log_lines" => log_lines,
                "metrics_flushed" => losses.metrics_flushed);
        }
        self.log
            .close(deadline.saturating_duration_since(Instant::now()));
        losses
    }
}

/// The attributes of every data point.
fn shared(config: &Config) -> Arc<[KeyValue]> {
    config
        .shared_attributes()
        .map(|(key, value)| KeyValue::new(key.to_owned(), value.to_owned()))
        .collect()
}
