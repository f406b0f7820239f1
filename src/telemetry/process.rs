//! What every applet measures about itself: the process, by the semantic conventions, and the log
//! records it lost (telemetry contract, section 8).

use std::sync::Arc;

use opentelemetry::KeyValue;

use super::instrument::{
    Meter, ObservableCounter, ObservableRatio, ObservableTime, ObservableUpDownCounter,
};
use super::log::{Dropped, Reason};
use crate::host::Process;

crate::instruments! {
    /// The instruments of every process.
    pub struct Metrics in "opensandbox/process" {
        /// Processor time used by the process.
        cpu_time: ObservableTime = "process.cpu.time", "s", attributes ["cpu.mode"];
        /// Physical memory the process occupies.
        memory_usage: ObservableUpDownCounter = "process.memory.usage", "By";
        /// File descriptors the process has open.
        descriptors: ObservableUpDownCounter = "process.unix.file_descriptor.count", "{file_descriptor}";
        /// Threads of the process.
        threads: ObservableUpDownCounter = "process.thread.count", "{thread}";
        /// Time the process has been running.
        uptime: ObservableRatio = "process.uptime", "s";
        /// Log records that were not written to an output.
        log_records_dropped: ObservableCounter = "opensandbox.log.records.dropped", "{record}",
            attributes ["reason"];
    }
}

/// Registers the instruments on `meter`; `dropped` is the account of the process's log. What the
/// kernel does not tell has no data point.
pub fn observe(meter: &Meter, dropped: Arc<Dropped>) {
    let metrics = Metrics::new(meter);
    let process = Arc::new(Process::new());

    let source = Arc::clone(&process);
    metrics.cpu_time.observe(move |point| {
        if let Some(stat) = source.stat() {
            for (mode, time) in [("user", stat.user), ("system", stat.system)] {
                point(time.as_secs_f64(), &[KeyValue::new("cpu.mode", mode)]);
            }
        }
    });
    let source = Arc::clone(&process);
    metrics.memory_usage.observe(move |point| {
        if let Some(stat) = source.stat() {
            point(whole(stat.resident), &[]);
        }
    });
    let source = Arc::clone(&process);
    metrics.descriptors.observe(move |point| {
        if let Some(count) = source.descriptors() {
            point(whole(count), &[]);
        }
    });
    let source = Arc::clone(&process);
    metrics.threads.observe(move |point| {
        if let Some(stat) = source.stat() {
            point(whole(stat.threads), &[]);
        }
    });
    metrics.uptime.observe(move |point| {
        if let Some(stat) = process.stat() {
            point(stat.uptime().as_secs_f64(), &[]);
        }
    });
    metrics.log_records_dropped.observe(move |point| {
        for reason in Reason::ALL {
            let reason_attribute = KeyValue::new("reason", reason.as_str());
            point(dropped.count(reason), &[reason_attribute]);
        }
    });
}

fn whole(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry::metrics::MeterProvider;
    use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData, ResourceMetrics};
    use opentelemetry_sdk::metrics::exporter::PushMetricExporter;
    use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider, Temporality};
    use std::collections::BTreeMap;
    use std::sync::Mutex;
    use std::time::Duration;

    /// Series as `name{attributes}` to value.
    type Series = Arc<Mutex<BTreeMap<String, f64>>>;

    struct Collected(Series);

    impl PushMetricExporter for Collected {
        async fn export(
            &self,
            metrics: &ResourceMetrics,
        ) -> opentelemetry_sdk::error::OTelSdkResult {
            let mut series = self.0.lock().unwrap();
            for metric in metrics.scope_metrics().flat_map(|scope| scope.metrics()) {
                let mut put = |attributes: Vec<&KeyValue>, value: f64| {
                    let attributes: Vec<_> = attributes
                        .iter()
                        .map(|pair| format!("{}={}", pair.key, pair.value))
                        .collect();
                    let name = format!("{}{{{}}}", metric.name(), attributes.join(","));
                    series.insert(name, value);
                };
                match metric.data() {
                    AggregatedMetrics::I64(MetricData::Sum(sum)) => {
                        assert!(!sum.is_monotonic());
                        for point in sum.data_points() {
                            put(point.attributes().collect(), point.value() as f64);
                        }
                    }
                    AggregatedMetrics::U64(MetricData::Sum(sum)) => {
                        assert!(sum.is_monotonic());
                        for point in sum.data_points() {
                            put(point.attributes().collect(), point.value() as f64);
                        }
                    }
                    AggregatedMetrics::F64(MetricData::Sum(sum)) => {
                        assert!(sum.is_monotonic());
                        for point in sum.data_points() {
                            put(point.attributes().collect(), point.value());
                        }
                    }
                    AggregatedMetrics::F64(MetricData::Gauge(gauge)) => {
                        for point in gauge.data_points() {
                            put(point.attributes().collect(), point.value());
                        }
                    }
                    other => panic!("{}: {other:?}", metric.name()),
                }
            }
            Ok(())
        }

        fn force_flush(&self) -> opentelemetry_sdk::error::OTelSdkResult {
            Ok(())
        }

        fn shutdown_with_timeout(&self, _: Duration) -> opentelemetry_sdk::error::OTelSdkResult {
            Ok(())
        }

        fn temporality(&self) -> Temporality {
            Temporality::Cumulative
        }
    }

    #[test]
    fn every_declared_instrument_reports() {
        let series = Series::default();
        let provider = SdkMeterProvider::builder()
            .with_reader(PeriodicReader::builder(Collected(Arc::clone(&series))).build())
            .build();
        let meter = Meter::new(provider.meter(Metrics::SCOPE), Arc::from([]));
        let dropped = Arc::new(Dropped::default());
        dropped.add(Reason::QueueFull, 3);
        observe(&meter, dropped);
        provider.force_flush().unwrap();

        let series = series.lock().unwrap();
        for declared in Metrics::INVENTORY {
            let found = series
                .keys()
                .any(|name| name.starts_with(&format!("{}{{", declared.name)));
            assert!(found, "{} in {series:?}", declared.name);
        }
        assert_eq!(
            series["opensandbox.log.records.dropped{reason=queue_full}"],
            3.0
        );
        assert_eq!(
            series["opensandbox.log.records.dropped{reason=shutdown}"],
            0.0
        );
        assert!(series["process.cpu.time{cpu.mode=user}"] >= 0.0);
        assert!(series["process.memory.usage{}"] > 1e5);
        assert!(series["process.thread.count{}"] >= 2.0);
        assert!(series["process.unix.file_descriptor.count{}"] >= 3.0);
    }
}
