//! What telemetry measures about itself (telemetry contract, section 8; OpenTelemetry semantic
//! conventions, "OpenTelemetry SDK metrics").

use std::collections::BTreeMap;
use std::sync::Arc;

use opentelemetry::KeyValue;

use super::export::account::Account;
use super::export::queue::Queue;
use super::instrument::{ObservableCounter, ObservableGauge};

crate::instruments! {
    /// The instruments of telemetry itself.
    pub struct SelfMetrics in "opensandbox/telemetry" {
        /// Data points whose export has ended; those that were lost have an `error.type`.
        metric_points: ObservableCounter = "otel.sdk.exporter.metric_data_point.exported",
            "{data_point}", attributes ["error.type"];
        /// Log records whose export has ended; those that were lost have an `error.type`.
        log_records: ObservableCounter = "otel.sdk.exporter.log.exported",
            "{log_record}", attributes ["error.type"];
        /// Log records that wait for export.
        queue_size: ObservableGauge = "otel.sdk.processor.log.queue.size", "{log_record}";
    }
}

/// Registers where the values come from; a signal that is not exported has none.
pub(super) fn observe(
    instruments: &SelfMetrics,
    metrics: Vec<Arc<Account>>,
    logs: Vec<Arc<Account>>,
    queues: Vec<Queue>,
) {
    let accounts = [
        (&instruments.metric_points, metrics),
        (&instruments.log_records, logs),
    ];
    for (instrument, accounts) in accounts {
        if accounts.is_empty() {
            continue;
        }
        instrument.observe(move |observe| {
            observe(accounts.iter().map(|a| a.exported()).sum(), &[]);
            let mut by_reason = BTreeMap::<_, u64>::new();
            for (reason, items) in accounts.iter().flat_map(|account| account.lost()) {
                *by_reason.entry(reason).or_default() += items;
            }
            for (reason, items) in by_reason {
                observe(items, &[KeyValue::new("error.type", reason)]);
            }
        });
    }
    if !queues.is_empty() {
        instruments.queue_size.observe(move |observe| {
            let waiting: usize = queues.iter().map(Queue::len).sum();
            observe(i64::try_from(waiting).unwrap_or(i64::MAX), &[]);
        });
    }
}
