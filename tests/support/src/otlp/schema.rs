//! The data model: what an export must look like, alone and after the exports before it
//! (OTLP `metrics.proto` and `logs.proto`, metrics API "Instrument name syntax").

use std::collections::{BTreeMap, BTreeSet};
use std::time::{SystemTime, UNIX_EPOCH};

use opentelemetry_proto::tonic::common::v1::{InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, ExponentialHistogramDataPoint, HistogramDataPoint, Metric,
    NumberDataPoint, metric, number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;

use super::view::{self, Kind, Point};
use super::{Payload, Request};

/// How far the clock of a record may be from ours, nanoseconds: one hour.
const CLOCK_SKEW: u64 = 3_600_000_000_000;
/// Longest instrument name and unit (metrics API).
const NAME_LIMIT: usize = 255;
const UNIT_LIMIT: usize = 63;

/// What the exports before this one established.
#[derive(Default)]
pub struct Schema {
    /// Last point of each series.
    series: BTreeMap<String, Last>,
    /// Kind, unit and description of each metric of each scope.
    metrics: BTreeMap<(String, String), (String, String, String)>,
}

/// The last accepted point of a series.
struct Last {
    start: u64,
    time: u64,
    total: f64,
}

impl Schema {
    /// What is wrong with `request`.
    pub fn check(&mut self, request: &Request) -> Vec<String> {
        let mut faults = Faults::default();
        match &request.payload {
            Payload::Metrics(metrics) => {
                if metrics.resource_metrics.is_empty() {
                    faults.add("an export without resource metrics");
                }
                for of_resource in &metrics.resource_metrics {
                    resource(of_resource.resource.as_ref(), &mut faults);
                    for of_scope in &of_resource.scope_metrics {
                        scope(of_scope.scope.as_ref(), &mut faults);
                        let mut names = BTreeSet::new();
                        for metric in &of_scope.metrics {
                            faults.within(&metric.name, |faults| {
                                if !names.insert(&metric.name) {
                                    faults.add("twice in one scope");
                                }
                                self::metric(metric, faults);
                            });
                        }
                    }
                }
                if request.accepted() {
                    for point in view::points(metrics) {
                        self.history(&point, &mut faults);
                    }
                }
            }
            Payload::Logs(logs) => {
                if logs.resource_logs.is_empty() {
                    faults.add("an export without resource logs");
                }
                for of_resource in &logs.resource_logs {
                    resource(of_resource.resource.as_ref(), &mut faults);
                    for of_scope in &of_resource.scope_logs {
                        scope(of_scope.scope.as_ref(), &mut faults);
                        if of_scope.log_records.is_empty() {
                            faults.add("a scope without log records");
                        }
                        for record in &of_scope.log_records {
                            log_record(record, &mut faults);
                        }
                    }
                }
            }
        }
        faults.found
    }

    /// Compares a point with the one before it in its series.
    fn history(&mut self, point: &Point, faults: &mut Faults) {
        faults.within(&point.name, |faults| {
            let identity = (
                format!("{:?}", point.kind),
                point.unit.clone(),
                point.description.clone(),
            );
            let key = (point.scope.clone(), point.name.clone());
            let known = self.metrics.entry(key).or_insert_with(|| identity.clone());
            if *known != identity {
                faults.add(format!("was {known:?}, now is {identity:?}"));
            }
            let series = format!(
                "{:?} {} {} {:?}",
                point.resource, point.scope, point.name, point.attributes
            );
            if let Some(last) = self.series.get(&series) {
                succession(last, point, faults);
            }
            let last = Last {
                start: point.start,
                time: point.time,
                total: point.value.as_f64(),
            };
            self.series.insert(series, last);
        });
    }
}

fn succession(last: &Last, point: &Point, faults: &mut Faults) {
    if point.time <= last.time {
        faults.add(format!("time {} after {}", point.time, last.time));
    }
    match point.kind {
        Kind::Gauge => {}
        Kind::Sum { delta: true, .. }
        | Kind::Histogram { delta: true }
        | Kind::ExponentialHistogram { delta: true } => {
            if point.start < last.time {
                faults.add(format!(
                    "delta from {} overlaps the one to {}",
                    point.start, last.time
                ));
            }
        }
        Kind::Sum { monotonic, .. } => cumulative(last, point, monotonic, faults),
        Kind::Histogram { .. } | Kind::ExponentialHistogram { .. } => {
            cumulative(last, point, true, faults);
        }
    }
}

fn cumulative(last: &Last, point: &Point, monotonic: bool, faults: &mut Faults) {
    if point.start == last.start {
        if monotonic && point.value.as_f64() < last.total {
            faults.add(format!("fell from {} to {:?}", last.total, point.value));
        }
    } else if point.start < last.time {
        faults.add(format!(
            "start {} differs from {} without a reset after {}",
            point.start, last.start, last.time
        ));
    }
}

/// Collects what is wrong, each with the place where.
#[derive(Default)]
struct Faults {
    place: Vec<String>,
    found: Vec<String>,
}

impl Faults {
    fn add(&mut self, text: impl AsRef<str>) {
        let place = self.place.join(": ");
        self.found.push(format!("{place}: {}", text.as_ref()));
    }

    fn within(&mut self, place: &str, check: impl FnOnce(&mut Self)) {
        self.place.push(place.to_owned());
        check(self);
        self.place.pop();
    }
}

fn resource(resource: Option<&Resource>, faults: &mut Faults) {
    faults.within("resource", |faults| {
        let Some(resource) = resource else {
            return faults.add("absent");
        };
        attributes(&resource.attributes, faults);
        let all = view::attributes(&resource.attributes);
        let service = all.get("service.name").and_then(|name| name.as_str());
        if service.unwrap_or_default().is_empty() {
            faults.add("no service.name");
        }
    });
}

fn scope(scope: Option<&InstrumentationScope>, faults: &mut Faults) {
    faults.within("scope", |faults| match scope {
        None => faults.add("absent"),
        Some(scope) => {
            if scope.name.is_empty() {
                faults.add("without a name");
            }
            attributes(&scope.attributes, faults);
        }
    });
}

fn attributes(pairs: &[KeyValue], faults: &mut Faults) {
    let mut keys = BTreeSet::new();
    for pair in pairs {
        if pair.key.is_empty() {
            faults.add("an empty attribute key");
        }
        if !keys.insert(&pair.key) {
            faults.add(format!("attribute {} twice", pair.key));
        }
        let value = pair.value.as_ref();
        if value.is_none_or(|value| value.value.is_none()) {
            faults.add(format!("attribute {} without a value", pair.key));
        }
    }
}

fn metric(metric: &Metric, faults: &mut Faults) {
    let mut characters = metric.name.chars();
    let valid = characters
        .next()
        .is_some_and(|first| first.is_ascii_alphabetic())
        && characters.all(|c| c.is_ascii_alphanumeric() || "_.-/".contains(c))
        && metric.name.len() <= NAME_LIMIT;
    if !valid {
        faults.add("not an instrument name");
    }
    if !metric.unit.is_ascii() || metric.unit.len() > UNIT_LIMIT {
        faults.add(format!("unit {:?}", metric.unit));
    }
    match &metric.data {
        None => faults.add("without data"),
        Some(metric::Data::Summary(_)) => faults.add("a summary"),
        Some(metric::Data::Gauge(gauge)) => {
            points(&gauge.data_points, false, faults, number);
        }
        Some(metric::Data::Sum(sum)) => {
            temporality(sum.aggregation_temporality, faults);
            points(&sum.data_points, true, faults, |point, faults| {
                number(point, faults);
                let negative = match point.value {
                    Some(number_data_point::Value::AsInt(value)) => value < 0,
                    Some(number_data_point::Value::AsDouble(value)) => value < 0.0,
                    None => false,
                };
                if sum.is_monotonic && negative {
                    faults.add("a monotonic sum below zero");
                }
            });
        }
        Some(metric::Data::Histogram(histogram)) => {
            temporality(histogram.aggregation_temporality, faults);
            points(&histogram.data_points, true, faults, explicit);
        }
        Some(metric::Data::ExponentialHistogram(histogram)) => {
            temporality(histogram.aggregation_temporality, faults);
            points(&histogram.data_points, true, faults, exponential);
        }
    }
}

fn temporality(value: i32, faults: &mut Faults) {
    match AggregationTemporality::try_from(value) {
        Ok(AggregationTemporality::Cumulative | AggregationTemporality::Delta) => {}
        _ => faults.add(format!("aggregation temporality {value}")),
    }
}

/// What all kinds of data points have.
trait DataPoint {
    fn attributes(&self) -> &[KeyValue];
    fn start(&self) -> u64;
    fn time(&self) -> u64;
}

macro_rules! data_point {
    ($($kind:ty),*) => {$(
        impl DataPoint for $kind {
            fn attributes(&self) -> &[KeyValue] {
                &self.attributes
            }
            fn start(&self) -> u64 {
                self.start_time_unix_nano
            }
            fn time(&self) -> u64 {
                self.time_unix_nano
            }
        }
    )*};
}

data_point!(
    NumberDataPoint,
    HistogramDataPoint,
    ExponentialHistogramDataPoint
);

fn points<P: DataPoint>(
    points: &[P],
    needs_start: bool,
    faults: &mut Faults,
    check: impl Fn(&P, &mut Faults),
) {
    if points.is_empty() {
        faults.add("without data points");
    }
    let mut seen = BTreeSet::new();
    for point in points {
        attributes(point.attributes(), faults);
        let identity = format!("{:?}", view::attributes(point.attributes()));
        faults.within(&identity, |faults| {
            if !seen.insert(identity.clone()) {
                faults.add("twice in one export");
            }
            time("time", point.time(), faults);
            if needs_start && point.start() == 0 {
                faults.add("no start time");
            }
            if point.start() > point.time() {
                faults.add(format!("starts {} after {}", point.start(), point.time()));
            }
            check(point, faults);
        });
    }
}

fn time(what: &str, nanoseconds: u64, faults: &mut Faults) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |now| u64::try_from(now.as_nanos()).unwrap_or(u64::MAX));
    if nanoseconds.abs_diff(now) > CLOCK_SKEW {
        faults.add(format!("{what} {nanoseconds} while it is {now}"));
    }
}

fn number(point: &NumberDataPoint, faults: &mut Faults) {
    match point.value {
        None => faults.add("without a value"),
        Some(number_data_point::Value::AsDouble(value)) if !value.is_finite() => {
            faults.add(format!("value {value}"));
        }
        Some(_) => {}
    }
}

fn explicit(point: &HistogramDataPoint, faults: &mut Faults) {
    let (bounds, buckets) = (&point.explicit_bounds, &point.bucket_counts);
    if bounds.iter().any(|bound| !bound.is_finite())
        || !bounds.is_sorted_by(|left, right| left < right)
    {
        faults.add(format!("bounds {bounds:?}"));
    }
    if buckets.len() != bounds.len() + 1 {
        faults.add(format!(
            "{} bounds, {} buckets",
            bounds.len(),
            buckets.len()
        ));
    }
    summary(
        point.count,
        buckets.iter().sum(),
        point.sum,
        point.min.zip(point.max),
        faults,
    );
}

fn exponential(point: &ExponentialHistogramDataPoint, faults: &mut Faults) {
    if !(-10..=20).contains(&point.scale) {
        faults.add(format!("scale {}", point.scale));
    }
    let halves = [point.positive.as_ref(), point.negative.as_ref()];
    let buckets = halves
        .into_iter()
        .flatten()
        .flat_map(|half| &half.bucket_counts);
    summary(
        point.count,
        point.zero_count + buckets.sum::<u64>(),
        point.sum,
        point.min.zip(point.max),
        faults,
    );
}

fn summary(
    count: u64,
    in_buckets: u64,
    sum: Option<f64>,
    range: Option<(f64, f64)>,
    faults: &mut Faults,
) {
    if count != in_buckets {
        faults.add(format!("count {count}, buckets hold {in_buckets}"));
    }
    match sum {
        None => faults.add("no sum"),
        Some(sum) if !sum.is_finite() => faults.add(format!("sum {sum}")),
        Some(sum) if count == 0 && sum != 0.0 => faults.add(format!("sum {sum} of nothing")),
        Some(_) => {}
    }
    if let Some((min, max)) = range
        && count > 0
        && (min.is_nan() || max.is_nan() || min > max)
    {
        faults.add(format!("minimum {min}, maximum {max}"));
    }
}

fn log_record(record: &LogRecord, faults: &mut Faults) {
    let body = view::value(record.body.as_ref());
    faults.within(&format!("log record {body}"), |faults| {
        if body.as_str().is_none_or(str::is_empty) {
            faults.add("the body is not text");
        }
        attributes(&record.attributes, faults);
        time("time", record.time_unix_nano, faults);
        time("observed time", record.observed_time_unix_nano, faults);
        if !(1..=24).contains(&record.severity_number) {
            faults.add(format!("severity number {}", record.severity_number));
        }
        if record.severity_text.is_empty() {
            faults.add("no severity text");
        }
        identifier("trace id", &record.trace_id, 16, faults);
        identifier("span id", &record.span_id, 8, faults);
        if record.trace_id.is_empty() && !record.span_id.is_empty() {
            faults.add("a span id without a trace id");
        }
    });
}

fn identifier(what: &str, bytes: &[u8], length: usize, faults: &mut Faults) {
    let valid = bytes.len() == length && bytes.iter().any(|byte| *byte != 0);
    if !bytes.is_empty() && !valid {
        faults.add(format!("{what} {bytes:?}"));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
    use opentelemetry_proto::tonic::common::v1::{AnyValue, any_value};
    use opentelemetry_proto::tonic::metrics::v1::{ResourceMetrics, ScopeMetrics, Sum};

    use super::*;
    use crate::otlp::Protocol;

    fn text(key: &str, value: &str) -> KeyValue {
        KeyValue {
            key: key.to_owned(),
            value: Some(AnyValue {
                value: Some(any_value::Value::StringValue(value.to_owned())),
            }),
            ..KeyValue::default()
        }
    }

    fn now() -> u64 {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("after 1970");
        u64::try_from(now.as_nanos()).expect("before 2554")
    }

    fn point(start: u64, time: u64, value: i64) -> NumberDataPoint {
        NumberDataPoint {
            start_time_unix_nano: start,
            time_unix_nano: time,
            value: Some(number_data_point::Value::AsInt(value)),
            ..NumberDataPoint::default()
        }
    }

    fn export(name: &str, data_points: Vec<NumberDataPoint>) -> Request {
        let sum = Sum {
            data_points,
            aggregation_temporality: AggregationTemporality::Cumulative as i32,
            is_monotonic: true,
        };
        let metric = Metric {
            name: name.to_owned(),
            data: Some(metric::Data::Sum(sum)),
            ..Metric::default()
        };
        let of_scope = ScopeMetrics {
            scope: Some(InstrumentationScope {
                name: "test".to_owned(),
                ..InstrumentationScope::default()
            }),
            metrics: vec![metric],
            ..ScopeMetrics::default()
        };
        let of_resource = ResourceMetrics {
            resource: Some(Resource {
                attributes: vec![text("service.name", "test")],
                ..Resource::default()
            }),
            scope_metrics: vec![of_scope],
            ..ResourceMetrics::default()
        };
        Request {
            protocol: Protocol::Grpc,
            path: String::new(),
            headers: BTreeMap::new(),
            encoded_size: 0,
            gzip: false,
            payload: Payload::Metrics(ExportMetricsServiceRequest {
                resource_metrics: vec![of_resource],
            }),
            fault: None,
        }
    }

    #[test]
    fn a_growing_counter_is_clean() {
        let (mut schema, now) = (Schema::default(), now());
        let first = export("a.count", vec![point(now, now + 1, 1)]);
        let second = export("a.count", vec![point(now, now + 2, 1)]);
        assert_eq!(schema.check(&first), Vec::<String>::new());
        assert_eq!(schema.check(&second), Vec::<String>::new());
    }

    #[test]
    fn each_defect_is_found() {
        let now = now();
        let cases = [
            ("1a", vec![point(now, now, 1)], "not an instrument name"),
            (
                "a",
                vec![point(now, now, 1), point(now, now, 1)],
                "twice in one export",
            ),
            ("a", vec![point(0, now, 1)], "no start time"),
            ("a", vec![point(now, 7, 1)], "time 7"),
            ("a", vec![point(now, now, -1)], "below zero"),
            ("a", vec![], "without data points"),
        ];
        for (name, points, wanted) in cases {
            let found = Schema::default().check(&export(name, points));
            assert!(found.iter().any(|text| text.contains(wanted)), "{found:?}");
        }
    }

    #[test]
    fn a_counter_that_falls_or_moves_its_start_is_found() {
        let now = now();
        for (next, wanted) in [
            (point(now, now + 2, 4), "fell from 5"),
            (point(now - 1, now + 2, 6), "without a reset"),
            (point(now, now + 1, 6), "after"),
        ] {
            let mut schema = Schema::default();
            let first = export("a", vec![point(now, now + 1, 5)]);
            assert_eq!(schema.check(&first), Vec::<String>::new());
            let found = schema.check(&export("a", vec![next]));
            assert!(found.iter().any(|text| text.contains(wanted)), "{found:?}");
        }
    }
}
