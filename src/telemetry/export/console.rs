//! The `console` exporter: each export is one line of OTLP JSON on standard output, the format of
//! the OTLP file exporter.
//!
//! For looking, not for transport: nothing is retried, and standard output is written on the
//! exporting thread.

use std::fmt;
use std::io::Write;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::logs::tonic::group_logs_by_resource_and_scope;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::logs::{LogBatch, LogExporter};
use opentelemetry_sdk::metrics::Temporality;
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::exporter::PushMetricExporter;

/// Writes exports to `W`.
pub struct Console<W> {
    output: Mutex<W>,
    temporality: Temporality,
    resource: ResourceAttributesWithSchema,
}

impl<W> fmt::Debug for Console<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Console").finish_non_exhaustive()
    }
}

impl<W: Write + Send + 'static> Console<W> {
    /// An exporter to `output`; metrics have `temporality`.
    pub fn new(output: W, temporality: Temporality) -> Self {
        Self {
            output: Mutex::new(output),
            temporality,
            resource: ResourceAttributesWithSchema::default(),
        }
    }

    /// One write for the whole line, so that it does not mix with log lines.
    fn line(&self, export: &impl serde::Serialize) -> OTelSdkResult {
        let failed = |error: &dyn fmt::Display| OTelSdkError::InternalFailure(error.to_string());
        let mut line = serde_json::to_vec(export).map_err(|error| failed(&error))?;
        line.push(b'\n');
        let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        output
            .write_all(&line)
            .and_then(|()| output.flush())
            .map_err(|error| failed(&error))
    }
}

impl<W: Write + Send + 'static> PushMetricExporter for Console<W> {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        self.line(&ExportMetricsServiceRequest::from(metrics))
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

impl<W: Write + Send + 'static> LogExporter for Console<W> {
    async fn export(&self, batch: LogBatch<'_>) -> OTelSdkResult {
        self.line(&ExportLogsServiceRequest {
            resource_logs: group_logs_by_resource_and_scope(&batch, &self.resource),
        })
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.resource = resource.into();
    }
}
