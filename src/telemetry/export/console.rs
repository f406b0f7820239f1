//! The `console` exporter: each export is one line of OTLP JSON on standard output, the format of
//! the OTLP file exporter.
//!
//! For looking, not for transport: nothing is retried, and standard output is written on the
//! exporting thread.

use std::fmt;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::Temporality;
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::exporter::PushMetricExporter;

use super::account::{Accepted, Account, Failure};
use super::counted::data_points;
use super::logs::Origin;
use super::queue::{Batch, Sink};

/// Writes exports to `W`.
pub struct Console<W> {
    output: Mutex<W>,
    temporality: Temporality,
    account: Arc<Account>,
}

impl<W> fmt::Debug for Console<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Console").finish_non_exhaustive()
    }
}

impl<W: Write + Send + 'static> Console<W> {
    /// An exporter to `output`; metrics have `temporality`.
    pub fn new(output: W, temporality: Temporality, account: Arc<Account>) -> Self {
        Self {
            output: Mutex::new(output),
            temporality,
            account,
        }
    }

    /// Writes an export of `items`, with one write for the whole line, so that it does not mix with
    /// log lines.
    fn line(&self, items: usize, export: io::Result<impl serde::Serialize>) -> OTelSdkResult {
        let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        let written = export.and_then(|export| {
            let mut line = serde_json::to_vec(&export)?;
            line.push(b'\n');
            output.write_all(&line)?;
            output.flush()
        });
        let outcome = match written {
            Ok(()) => Ok(Accepted::default()),
            Err(error) => Err(Failure::Output(error.to_string())),
        };
        self.account.settle(items as u64, Some(outcome));
        Ok(())
    }
}

impl<W: Write + Send + 'static> PushMetricExporter for Console<W> {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        let points = data_points(metrics);
        self.account.offer(points as u64);
        self.line(points, Ok(ExportMetricsServiceRequest::from(metrics)))
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }

    fn temporality(&self) -> Temporality {
        self.temporality
    }
}

/// Log records of one origin, for the console.
pub(super) struct ConsoleLogs<W> {
    pub(super) console: Console<W>,
    pub(super) origin: Origin,
}

impl<W: Write + Send + 'static> Sink for ConsoleLogs<W> {
    fn export(&mut self, batch: &Batch) {
        // The account has the failure.
        let _ = self.console.line(batch.records, self.origin.request(batch));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::prometheus::Reader;
    use opentelemetry::metrics::MeterProvider as _;
    use opentelemetry_sdk::metrics::SdkMeterProvider;
    use opentelemetry_sdk::metrics::reader::MetricReader as _;

    fn collected() -> ResourceMetrics {
        let reader = Reader::default();
        let provider = SdkMeterProvider::builder()
            .with_reader(reader.clone())
            .build();
        let cups = provider.meter("test").u64_counter("cups").build();
        cups.add(3, &[]);
        let mut metrics = ResourceMetrics::default();
        reader.collect(&mut metrics).expect("a collection");
        metrics
    }

    fn export<W: Write + Send + 'static>(output: W) -> (Console<W>, Arc<Account>) {
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let account = Arc::new(Account::new("metric points", &logger));
        let console = Console::new(output, Temporality::Cumulative, account.clone());
        let metrics = collected();
        let exported = PushMetricExporter::export(&console, &metrics);
        smol::block_on(exported).expect("the account has the failure");
        (console, account)
    }

    #[test]
    fn an_export_is_one_line_of_otlp_json() {
        let (console, account) = export(Vec::new());
        let output = console.output.into_inner().expect("no panic");
        let text = String::from_utf8(output).expect("JSON");
        assert_eq!(text.matches('\n').count(), 1, "{text}");
        let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let metric = &json["resourceMetrics"][0]["scopeMetrics"][0]["metrics"][0];
        assert_eq!(metric["name"], "cups");
        assert_eq!(metric["sum"]["dataPoints"][0]["asInt"], "3");
        assert_eq!((account.exported(), account.outstanding()), (1, 0));
    }

    #[test]
    fn an_output_that_is_gone_is_counted() {
        struct Gone;
        impl Write for Gone {
            fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
                Err(std::io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let (_, account) = export(Gone);
        assert_eq!(account.lost(), [("output".into(), 1)]);
    }
}
