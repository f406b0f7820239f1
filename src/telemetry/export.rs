//! The exporters: from the SDK's providers to a receiver, to standard output, to a scraper.
//!
//! Each push exporter works on a thread of its own and touches the main flow only through the
//! SDK's instruments and the bounded log queue. What an exporter loses is in its
//! [`Account`](account::Account).

pub mod account;
pub mod console;
pub mod counted;
pub mod delivery;
mod logs;
mod message;
pub mod queue;
pub mod retry;
pub mod tls;
pub mod transport;

use std::sync::Arc;
use std::time::{Duration, Instant};

use opentelemetry::metrics::MeterProvider as _;
use opentelemetry_otlp::{RetryPolicy, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::{
    Aggregation, Instrument, InstrumentKind, PeriodicReader, SdkMeterProvider, Stream, Temporality,
};
use slog::{Logger, error};

use account::Account;
use console::{Console, ConsoleLogs};
use counted::Counted;
use delivery::{Delivery, Stop};
use logs::{Logs, Origin};
use queue::{Limits, Queue, Sink};
use transport::Transport;

use super::env::{Config, Metrics, Otlp, Protocol};
use super::instrument::Meter;
use super::prometheus;
use super::self_metrics::{self, SelfMetrics};
use crate::http::connect::Connector;

/// Buckets and scale of exponential histograms (OpenTelemetry specification, "Base2 Exponential
/// Bucket Histogram Aggregation").
const EXPONENTIAL: Aggregation = Aggregation::Base2ExponentialHistogram {
    max_size: 160,
    max_scale: 20,
    record_min_max: true,
};

/// The gRPC call for metrics (opentelemetry-proto, `metrics_service.proto`).
const METRICS_CALL: &str = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export";

/// The gRPC call for logs (opentelemetry-proto, `logs_service.proto`).
const LOGS_CALL: &str = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";

/// Why an exporter cannot be made.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Tls(#[from] tls::Error),
    #[error("the exporter cannot be built: {0}")]
    Exporter(#[from] opentelemetry_otlp::ExporterBuildError),
    #[error("the system refuses a thread or a descriptor: {0}")]
    System(#[from] std::io::Error),
}

/// Everything that exports.
#[derive(Debug, Default)]
pub struct Exporters {
    /// Where metrics come from; `None` when they go nowhere.
    pub meters: Option<SdkMeterProvider>,
    /// Where log records go; none when they are not exported.
    pub queues: Vec<Queue>,
    /// What a scraper is served.
    pub scrape: Option<prometheus::Reader>,
    metrics: Vec<Arc<Account>>,
    logs: Vec<Arc<Account>>,
    stop: Stop,
}

impl Exporters {
    /// Makes what `config` asks for, and nothing else. An exporter that cannot be made is reported
    /// to `logger`, which must not lead back to an exporter; the others are made all the same.
    #[must_use]
    pub fn start(config: &Config, logger: &Logger, connector: &Connector) -> Self {
        let mut exporters = Self::default();
        if !config.exports() {
            return exporters;
        }
        let resource = super::resource::of_process(config);
        exporters.start_logs(config, logger, connector, &resource);
        exporters.start_metrics(config, logger, connector, resource);
        exporters
    }

    fn start_logs(
        &mut self,
        config: &Config,
        logger: &Logger,
        connector: &Connector,
        resource: &Resource,
    ) {
        let logs = &config.logs;
        let origin = Origin::new(resource, config.component.logger());
        if let Some(otlp) = &logs.otlp {
            let account = Arc::new(Account::new("log records", logger));
            let delivery = self.delivery(otlp, LOGS_CALL, logs.export_timeout, connector);
            let started = delivery.and_then(|delivery| {
                let sink = Logs {
                    origin: origin.clone(),
                    protocol: otlp.protocol,
                    gzip: otlp.gzip,
                    delivery,
                    account: account.clone(),
                };
                self.queue(sink, config, account)
            });
            report(logger, "logs", started);
        }
        if logs.console {
            let account = Arc::new(Account::new("log records", logger));
            let sink = ConsoleLogs {
                console: Console::new(std::io::stdout(), Temporality::Cumulative, account.clone()),
                origin,
            };
            let started = self.queue(sink, config, account);
            report(logger, "logs", started);
        }
    }

    fn queue(
        &mut self,
        sink: impl Sink,
        config: &Config,
        account: Arc<Account>,
    ) -> Result<(), Error> {
        let limits = Limits {
            queue: config.logs.max_queue_size,
            batch: config.logs.max_export_batch_size,
            delay: config.logs.schedule_delay,
        };
        self.queues
            .push(Queue::start(sink, limits, account.clone())?);
        self.logs.push(account);
        Ok(())
    }

    fn start_metrics(
        &mut self,
        config: &Config,
        logger: &Logger,
        connector: &Connector,
        resource: Resource,
    ) {
        let metrics = &config.metrics;
        let mut builder = SdkMeterProvider::builder().with_resource(resource);
        let mut readers = 0;
        if let Some(otlp) = &metrics.otlp {
            let account = Arc::new(Account::new("metric points", logger));
            let exporter = self
                .delivery(otlp, METRICS_CALL, metrics.timeout, connector)
                .and_then(|delivery| metric_exporter(otlp, metrics, delivery, account.clone()));
            match exporter {
                Ok(exporter) => {
                    builder = builder.with_reader(
                        PeriodicReader::builder(exporter)
                            .with_interval(metrics.interval)
                            .build(),
                    );
                    self.metrics.push(account);
                    readers += 1;
                }
                Err(error) => report(logger, "metrics", Err(error)),
            }
        }
        if metrics.console {
            let account = Arc::new(Account::new("metric points", logger));
            let exporter = Console::new(std::io::stdout(), metrics.temporality, account.clone());
            self.metrics.push(account);
            builder = builder.with_reader(
                PeriodicReader::builder(exporter)
                    .with_interval(metrics.interval)
                    .build(),
            );
            readers += 1;
        }
        if metrics.prometheus.is_some() {
            let reader = prometheus::Reader::default();
            builder = builder.with_reader(reader.clone());
            self.scrape = Some(reader);
            readers += 1;
        }
        if readers == 0 {
            return;
        }
        if metrics.exponential_histograms {
            builder = builder.with_view(|instrument: &Instrument| {
                (instrument.kind() == InstrumentKind::Histogram)
                    .then(|| Stream::builder().with_aggregation(EXPONENTIAL).build().ok())?
            });
        }
        let meters = builder.build();
        let shared = super::shared(config);
        let meter = Meter::new(meters.meter(SelfMetrics::SCOPE), shared);
        self_metrics::observe(
            &SelfMetrics::new(&meter),
            self.metrics.clone(),
            self.logs.clone(),
            self.queues.clone(),
        );
        self.meters = Some(meters);
    }

    fn delivery(
        &self,
        otlp: &Otlp,
        call: &'static str,
        limit: Duration,
        connector: &Connector,
    ) -> Result<Delivery, Error> {
        let transport = Transport::new(otlp, call, connector)?;
        let timeout = otlp.timeout.min(limit);
        Ok(Delivery::new(transport, timeout, self.stop.clone())?)
    }

    /// Exports what is left for at most `limit`, and counts what was lost. Blocks.
    ///
    /// Logs go first, so that the last metrics tell what became of them. Where their receiver
    /// hangs, the metrics do not wait longer than half of the time.
    #[must_use]
    pub fn shutdown(mut self, limit: Duration) -> super::Losses {
        let start = Instant::now();
        let end = start + limit;
        self.stop.begin(end);
        self.queues.iter().for_each(Queue::close);
        self.wait_for_logs(start + limit / 2);
        let metrics_flushed = match self.meters.take() {
            Some(meters) => end_metrics(meters, end),
            None => true,
        };
        self.wait_for_logs(end);
        let lost = |accounts: &[Arc<Account>]| accounts.iter().map(|a| a.outstanding()).sum();
        super::Losses {
            metric_points: lost(&self.metrics),
            log_records: lost(&self.logs),
            metrics_flushed,
        }
    }

    fn wait_for_logs(&self, until: Instant) {
        for queue in &self.queues {
            let left = until.saturating_duration_since(Instant::now());
            // What does not leave in time is outstanding in its account.
            let _ = queue.wait_closed(left);
        }
    }
}

/// Collects and exports for the last time; tells whether that was over before `end`. The provider
/// does not keep to the limit it is given, so it gets a thread that can be left behind.
fn end_metrics(meters: SdkMeterProvider, end: Instant) -> bool {
    let left = || end.saturating_duration_since(Instant::now());
    let limit = left();
    let (done, metrics_done) = std::sync::mpsc::sync_channel(1);
    let started = std::thread::Builder::new()
        .name("otel-shutdown".to_owned())
        .spawn(move || {
            let _ = meters.shutdown_with_timeout(limit);
            let _ = done.send(());
        });
    // Without a thread the provider went down here, when the closure was dropped.
    started.is_err() || metrics_done.recv_timeout(left()).is_ok()
}

fn report(logger: &Logger, signal: &'static str, result: Result<(), Error>) {
    if let Err(error) = result {
        error!(logger, "an exporter cannot be used, and nothing is exported by it";
            "signal" => signal, "error" => %error);
    }
}

/// gRPC carries the same protobuf that goes into an HTTP request; the transport frames it.
fn encoding(protocol: Protocol) -> opentelemetry_otlp::Protocol {
    match protocol {
        Protocol::HttpJson => opentelemetry_otlp::Protocol::HttpJson,
        Protocol::HttpProtobuf | Protocol::Grpc => opentelemetry_otlp::Protocol::HttpBinary,
    }
}

/// Retries are the delivery's: the exporter's own would repeat what may not be repeated, and sleep
/// through the end of the process.
fn metric_exporter(
    otlp: &Otlp,
    metrics: &Metrics,
    delivery: Delivery,
    account: Arc<Account>,
) -> Result<Counted<opentelemetry_otlp::MetricExporter>, Error> {
    let mut builder = opentelemetry_otlp::MetricExporter::builder()
        .with_temporality(metrics.temporality)
        .with_http()
        .with_http_client(delivery.clone())
        .with_retry_policy(RetryPolicy::disabled())
        .with_endpoint(otlp.endpoint.to_string())
        .with_timeout(otlp.timeout)
        .with_protocol(encoding(otlp.protocol));
    if otlp.gzip {
        builder = builder.with_compression(opentelemetry_otlp::Compression::Gzip);
    }
    let exporter = builder.build()?;
    Ok(Counted::new(exporter, delivery, account, metrics.interval))
}
