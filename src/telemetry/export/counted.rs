//! A metric exporter that knows how many points it carries: it enters in the [`Account`] what became
//! of each export.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::Temporality;
use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData, ResourceMetrics};
use opentelemetry_sdk::metrics::exporter::PushMetricExporter;

use super::account::Account;
use super::delivery::Delivery;
use crate::footprint;

/// Between exports that are further apart than this, their memory is given back.
const SELDOM: Duration = Duration::from_secs(1);

/// An OTLP exporter, the delivery under it, and the account over it.
pub struct Counted<E> {
    exporter: E,
    delivery: Delivery,
    account: Arc<Account>,
    interval: Duration,
}

impl<E> Counted<E> {
    /// Enters in `account` what `exporter` sends over `delivery`, once an `interval`.
    pub fn new(exporter: E, delivery: Delivery, account: Arc<Account>, interval: Duration) -> Self {
        Self {
            exporter,
            delivery,
            account,
            interval,
        }
    }
}

impl<E> fmt::Debug for Counted<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Counted").finish_non_exhaustive()
    }
}

impl PushMetricExporter for Counted<opentelemetry_otlp::MetricExporter> {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        let points = data_points(metrics);
        self.account.offer(points as u64);
        let _ = self.exporter.export(metrics).await;
        self.delivery.settle(&self.account, points);
        // Until the next time, nothing needs the half of the process that an export is.
        if self.interval >= SELDOM {
            footprint::give_back();
        }
        // The SDK would only print, without a limit, what the account has counted and said already.
        Ok(())
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn temporality(&self) -> Temporality {
        self.exporter.temporality()
    }
}

/// How many data points a collection has.
pub(super) fn data_points(metrics: &ResourceMetrics) -> usize {
    fn of<T>(data: &MetricData<T>) -> usize {
        match data {
            MetricData::Gauge(gauge) => gauge.data_points().count(),
            MetricData::Sum(sum) => sum.data_points().count(),
            MetricData::Histogram(histogram) => histogram.data_points().count(),
            MetricData::ExponentialHistogram(histogram) => histogram.data_points().count(),
        }
    }
    metrics
        .scope_metrics()
        .flat_map(|scope| scope.metrics())
        .map(|metric| match metric.data() {
            AggregatedMetrics::F64(data) => of(data),
            AggregatedMetrics::U64(data) => of(data),
            AggregatedMetrics::I64(data) => of(data),
        })
        .sum()
}
