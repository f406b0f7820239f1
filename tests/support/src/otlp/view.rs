//! Exports flattened to what a test asks about: one value per data point or log record.

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, ExponentialHistogramDataPoint, HistogramDataPoint, Metric,
    NumberDataPoint, metric, number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;

/// An attribute value or a log body; byte strings are hexadecimal text.
pub type Value = serde_json::Value;

/// Attributes by key.
pub type Attributes = BTreeMap<String, Value>;

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Last value.
    Gauge,
    /// Sum; `monotonic` or not, `delta` or cumulative.
    Sum {
        /// Only grows.
        monotonic: bool,
        /// Since the previous export, not since the start.
        delta: bool,
    },
    /// Explicit buckets.
    Histogram {
        /// Since the previous export, not since the start.
        delta: bool,
    },
    /// Base-2 exponential buckets.
    ExponentialHistogram {
        /// Since the previous export, not since the start.
        delta: bool,
    },
}

/// The value of a data point.
#[derive(Clone, Debug, PartialEq)]
pub enum Number {
    /// Of an integer instrument.
    Int(i64),
    /// Of a floating-point instrument.
    Double(f64),
    /// Of a histogram with explicit buckets.
    Histogram {
        /// How many values.
        count: u64,
        /// Their sum.
        sum: f64,
        /// Upper bounds, inclusive, of all buckets but the last.
        bounds: Vec<f64>,
        /// Values in each bucket.
        buckets: Vec<u64>,
    },
    /// Of an exponential histogram.
    Exponential {
        /// How many values.
        count: u64,
        /// Their sum.
        sum: f64,
    },
}

impl Number {
    /// The value, or the number of values of a histogram.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "tests count to small numbers")]
    pub fn as_f64(&self) -> f64 {
        match self {
            Self::Int(value) => *value as f64,
            Self::Double(value) => *value,
            Self::Histogram { count, .. } | Self::Exponential { count, .. } => *count as f64,
        }
    }
}

/// One data point with everything it inherits.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// Resource attributes.
    pub resource: Attributes,
    /// Name of the meter.
    pub scope: String,
    /// Name of the metric.
    pub name: String,
    /// Its unit.
    pub unit: String,
    /// Its description.
    pub description: String,
    /// What it is.
    pub kind: Kind,
    /// Attributes of the point.
    pub attributes: Attributes,
    /// Start of its interval, nanoseconds since the epoch.
    pub start: u64,
    /// End of its interval, nanoseconds since the epoch.
    pub time: u64,
    /// What was measured.
    pub value: Number,
}

/// One log record with everything it inherits.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Resource attributes.
    pub resource: Attributes,
    /// Name of the logger.
    pub scope: String,
    /// When it happened, nanoseconds since the epoch.
    pub time: u64,
    /// When it was collected, nanoseconds since the epoch.
    pub observed: u64,
    /// 1 to 24.
    pub severity_number: i32,
    /// The level as the source names it.
    pub severity_text: String,
    /// Name of the event, or empty.
    pub event_name: String,
    /// The message.
    pub body: Value,
    /// Attributes of the record.
    pub attributes: Attributes,
    /// Hexadecimal, or empty.
    pub trace_id: String,
    /// Hexadecimal, or empty.
    pub span_id: String,
}

/// A value as JSON; an absent one is null.
pub fn value(value: Option<&AnyValue>) -> Value {
    match value.and_then(|value| value.value.as_ref()) {
        Some(any_value::Value::StringValue(text)) => text.as_str().into(),
        Some(any_value::Value::BoolValue(flag)) => (*flag).into(),
        Some(any_value::Value::IntValue(number)) => (*number).into(),
        Some(any_value::Value::DoubleValue(number)) => (*number).into(),
        Some(any_value::Value::BytesValue(bytes)) => hex(bytes).into(),
        Some(any_value::Value::ArrayValue(array)) => array
            .values
            .iter()
            .map(|item| self::value(Some(item)))
            .collect(),
        Some(any_value::Value::KvlistValue(list)) => {
            let fields = list.values.iter();
            fields
                .map(|field| (field.key.clone(), self::value(field.value.as_ref())))
                .collect::<serde_json::Map<_, _>>()
                .into()
        }
        // References into a string table belong to the profiles signal.
        Some(any_value::Value::StringValueStrindex(_)) | None => Value::Null,
    }
}

/// Attributes by key; the last of two with one key wins.
pub fn attributes(pairs: &[KeyValue]) -> Attributes {
    pairs
        .iter()
        .map(|pair| (pair.key.clone(), value(pair.value.as_ref())))
        .collect()
}

fn resource(resource: Option<&Resource>) -> Attributes {
    resource.map_or_else(Attributes::new, |resource| attributes(&resource.attributes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Every data point of an export.
pub fn points(request: &ExportMetricsServiceRequest) -> Vec<Point> {
    let mut points = Vec::new();
    for of_resource in &request.resource_metrics {
        let resource = resource(of_resource.resource.as_ref());
        for of_scope in &of_resource.scope_metrics {
            let scope = of_scope.scope.as_ref().map_or("", |scope| &scope.name);
            for metric in &of_scope.metrics {
                let fill = |parts: Parts| Point {
                    resource: resource.clone(),
                    scope: scope.to_owned(),
                    name: metric.name.clone(),
                    unit: metric.unit.clone(),
                    description: metric.description.clone(),
                    kind: parts.kind,
                    attributes: parts.attributes,
                    start: parts.start,
                    time: parts.time,
                    value: parts.value,
                };
                points.extend(parts(metric).into_iter().map(fill));
            }
        }
    }
    points
}

/// What a data point has of its own.
struct Parts {
    kind: Kind,
    attributes: Attributes,
    start: u64,
    time: u64,
    value: Number,
}

fn parts(metric: &Metric) -> Vec<Parts> {
    let delta = |temporality| temporality == AggregationTemporality::Delta as i32;
    match &metric.data {
        Some(metric::Data::Gauge(gauge)) => {
            let points = gauge.data_points.iter();
            points.map(|point| number(Kind::Gauge, point)).collect()
        }
        Some(metric::Data::Sum(sum)) => {
            let kind = Kind::Sum {
                monotonic: sum.is_monotonic,
                delta: delta(sum.aggregation_temporality),
            };
            let points = sum.data_points.iter();
            points.map(|point| number(kind, point)).collect()
        }
        Some(metric::Data::Histogram(histogram)) => {
            let delta = delta(histogram.aggregation_temporality);
            let points = histogram.data_points.iter();
            points
                .map(|point| explicit(Kind::Histogram { delta }, point))
                .collect()
        }
        Some(metric::Data::ExponentialHistogram(histogram)) => {
            let delta = delta(histogram.aggregation_temporality);
            let points = histogram.data_points.iter();
            points
                .map(|point| exponential(Kind::ExponentialHistogram { delta }, point))
                .collect()
        }
        Some(metric::Data::Summary(_)) | None => Vec::new(),
    }
}

fn number(kind: Kind, point: &NumberDataPoint) -> Parts {
    let value = match point.value {
        Some(number_data_point::Value::AsInt(value)) => Number::Int(value),
        Some(number_data_point::Value::AsDouble(value)) => Number::Double(value),
        None => Number::Double(f64::NAN),
    };
    Parts {
        kind,
        attributes: attributes(&point.attributes),
        start: point.start_time_unix_nano,
        time: point.time_unix_nano,
        value,
    }
}

fn explicit(kind: Kind, point: &HistogramDataPoint) -> Parts {
    Parts {
        kind,
        attributes: attributes(&point.attributes),
        start: point.start_time_unix_nano,
        time: point.time_unix_nano,
        value: Number::Histogram {
            count: point.count,
            sum: point.sum.unwrap_or(f64::NAN),
            bounds: point.explicit_bounds.clone(),
            buckets: point.bucket_counts.clone(),
        },
    }
}

fn exponential(kind: Kind, point: &ExponentialHistogramDataPoint) -> Parts {
    Parts {
        kind,
        attributes: attributes(&point.attributes),
        start: point.start_time_unix_nano,
        time: point.time_unix_nano,
        value: Number::Exponential {
            count: point.count,
            sum: point.sum.unwrap_or(f64::NAN),
        },
    }
}

/// Every log record of an export.
pub fn records(request: &ExportLogsServiceRequest) -> Vec<Record> {
    let mut records = Vec::new();
    for of_resource in &request.resource_logs {
        let resource = resource(of_resource.resource.as_ref());
        for of_scope in &of_resource.scope_logs {
            let scope = of_scope.scope.as_ref().map_or("", |scope| &scope.name);
            records.extend(of_scope.log_records.iter().map(|record| Record {
                resource: resource.clone(),
                scope: scope.to_owned(),
                time: record.time_unix_nano,
                observed: record.observed_time_unix_nano,
                severity_number: record.severity_number,
                severity_text: record.severity_text.clone(),
                event_name: record.event_name.clone(),
                body: value(record.body.as_ref()),
                attributes: attributes(&record.attributes),
                trace_id: hex(&record.trace_id),
                span_id: hex(&record.span_id),
            }));
        }
    }
    records
}
