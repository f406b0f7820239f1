//! The scrape endpoint's text: metrics in the Prometheus exposition format 0.0.4, named by the
//! OpenTelemetry-to-Prometheus rules (OpenTelemetry specification, "Prometheus and OpenMetrics
//! Compatibility").
//!
//! Owns the rendering and the reader that collects for it. Opens no socket.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Weak};
use std::time::Duration;

use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::data::{
    AggregatedMetrics, Histogram, Metric, MetricData, ResourceMetrics,
};
use opentelemetry_sdk::metrics::reader::MetricReader;
use opentelemetry_sdk::metrics::{InstrumentKind, ManualReader, Pipeline, Temporality};

use super::instrument::{Instrument, Kind};

/// The `Content-Type` of [`Reader::scrape`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Collects when it is scraped.
#[derive(Clone, Debug, Default)]
pub struct Reader(Arc<ManualReader>);

impl Reader {
    /// The metrics of this moment as text; empty after the end of the meter provider.
    #[must_use]
    pub fn scrape(&self) -> String {
        let mut metrics = ResourceMetrics::default();
        match self.0.collect(&mut metrics) {
            Ok(()) => render(&metrics),
            Err(_) => String::new(),
        }
    }
}

impl MetricReader for Reader {
    fn register_pipeline(&self, pipeline: Weak<Pipeline>) {
        self.0.register_pipeline(pipeline);
    }

    fn collect(&self, metrics: &mut ResourceMetrics) -> OTelSdkResult {
        self.0.collect(metrics)
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.0.shutdown_with_timeout(timeout)
    }

    fn temporality(&self, _: InstrumentKind) -> Temporality {
        Temporality::Cumulative
    }
}

/// The name under which a scraper finds what `declared` measures.
#[must_use]
pub fn name_of(declared: &Instrument) -> String {
    let kind = match declared.kind {
        Kind::Counter | Kind::ObservableCounter => Type::Counter,
        Kind::Histogram => Type::Histogram,
        Kind::UpDownCounter
        | Kind::ObservableUpDownCounter
        | Kind::Gauge
        | Kind::ObservableGauge => Type::Gauge,
    };
    metric_name(declared.name, declared.unit, kind)
}

/// The type of a metric family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    Counter,
    Gauge,
    Histogram,
}

impl Type {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// All series of one name.
struct Family {
    kind: Type,
    help: String,
    lines: String,
}

/// Renders one collection. Families come in the order of their names.
#[must_use]
pub fn render(metrics: &ResourceMetrics) -> String {
    let mut families = BTreeMap::new();
    let resource: Vec<_> = metrics
        .resource()
        .iter()
        .map(|(key, value)| (key.as_str().to_owned(), value.to_string()))
        .collect();
    if !resource.is_empty() {
        let family = family(&mut families, "target_info", Type::Gauge, "Target metadata");
        if let Some(family) = family {
            sample(family, "target_info", &labels(resource), &1_u64);
        }
    }
    // The SDK's order is random; of two metrics that claim one name, the same has to win each time.
    let mut scopes: Vec<_> = metrics.scope_metrics().collect();
    scopes.sort_by_key(|scope| scope.scope().name());
    for scope in scopes {
        let scope_labels = scope_labels(scope.scope());
        for metric in scope.metrics() {
            match metric.data() {
                AggregatedMetrics::F64(data) => append(&mut families, metric, data, &scope_labels),
                AggregatedMetrics::U64(data) => append(&mut families, metric, data, &scope_labels),
                AggregatedMetrics::I64(data) => append(&mut families, metric, data, &scope_labels),
            }
        }
    }
    let mut text = String::new();
    for (name, family) in families {
        let Family { kind, help, lines } = family;
        if !help.is_empty() {
            let help = help.replace('\\', "\\\\").replace('\n', "\\n");
            let _ = writeln!(text, "# HELP {name} {help}");
        }
        let _ = writeln!(text, "# TYPE {name} {}", kind.as_str());
        text.push_str(&lines);
    }
    text
}

/// A number as the format writes it.
trait Number: Copy {
    fn write(self, text: &mut String);
}

impl Number for u64 {
    fn write(self, text: &mut String) {
        let _ = write!(text, "{self}");
    }
}

impl Number for i64 {
    fn write(self, text: &mut String) {
        let _ = write!(text, "{self}");
    }
}

impl Number for f64 {
    fn write(self, text: &mut String) {
        let _ = if self.is_nan() {
            write!(text, "NaN")
        } else if self.is_infinite() {
            write!(text, "{}Inf", if self > 0.0 { '+' } else { '-' })
        } else {
            write!(text, "{self}")
        };
    }
}

type Labels = BTreeMap<String, String>;

fn append<T: Number>(
    families: &mut BTreeMap<String, Family>,
    metric: &Metric,
    data: &MetricData<T>,
    scope: &[(String, String)],
) {
    let kind = match data {
        MetricData::Sum(sum) if sum.is_monotonic() => Type::Counter,
        MetricData::Sum(_) | MetricData::Gauge(_) => Type::Gauge,
        MetricData::Histogram(_) | MetricData::ExponentialHistogram(_) => Type::Histogram,
    };
    let name = metric_name(metric.name(), metric.unit(), kind);
    let Some(family) = family(families, &name, kind, metric.description()) else {
        return;
    };
    let all = |attributes: &mut dyn Iterator<Item = &KeyValue>| {
        let own = attributes.map(|kv| (kv.key.as_str().to_owned(), kv.value.to_string()));
        labels(own.chain(scope.iter().cloned()))
    };
    match data {
        MetricData::Sum(sum) => {
            for point in sum.data_points() {
                sample(family, &name, &all(&mut point.attributes()), &point.value());
            }
        }
        MetricData::Gauge(gauge) => {
            for point in gauge.data_points() {
                sample(family, &name, &all(&mut point.attributes()), &point.value());
            }
        }
        MetricData::Histogram(histogram) => append_histogram(family, &name, histogram, &all),
        // The text format has no exponential buckets; the one bucket every histogram has remains.
        MetricData::ExponentialHistogram(histogram) => {
            for point in histogram.data_points() {
                let labels = all(&mut point.attributes());
                let count = point.count() as u64;
                bucket(family, &name, &labels, f64::INFINITY, count);
                sample(family, &format!("{name}_sum"), &labels, &point.sum());
                sample(family, &format!("{name}_count"), &labels, &count);
            }
        }
    }
}

fn append_histogram<T: Number>(
    family: &mut Family,
    name: &str,
    histogram: &Histogram<T>,
    all: &dyn Fn(&mut dyn Iterator<Item = &KeyValue>) -> Labels,
) {
    for point in histogram.data_points() {
        let labels = all(&mut point.attributes());
        let mut cumulative = 0;
        let bounds = point.bounds().chain([f64::INFINITY]);
        for (bound, count) in bounds.zip(point.bucket_counts()) {
            cumulative += count;
            bucket(family, name, &labels, bound, cumulative);
        }
        sample(family, &format!("{name}_sum"), &labels, &point.sum());
        sample(family, &format!("{name}_count"), &labels, &point.count());
    }
}

/// The family `name`; `None` when it exists with another type, which would spoil the whole scrape.
fn family<'a>(
    families: &'a mut BTreeMap<String, Family>,
    name: &str,
    kind: Type,
    help: &str,
) -> Option<&'a mut Family> {
    let family = families.entry(name.to_owned()).or_insert_with(|| Family {
        kind,
        help: help.to_owned(),
        lines: String::new(),
    });
    (family.kind == kind).then_some(family)
}

fn bucket(family: &mut Family, name: &str, labels: &Labels, bound: f64, count: u64) {
    let mut labels = labels.clone();
    let mut le = String::new();
    bound.write(&mut le);
    labels.insert("le".to_owned(), le);
    sample(family, &format!("{name}_bucket"), &labels, &count);
}

fn sample<T: Number>(family: &mut Family, name: &str, labels: &Labels, value: &T) {
    let lines = &mut family.lines;
    lines.push_str(name);
    let mut separator = '{';
    for (key, value) in labels {
        let value = value
            .replace('\\', "\\\\")
            .replace('"', "\\\"")
            .replace('\n', "\\n");
        let _ = write!(lines, "{separator}{key}=\"{value}\"");
        separator = ',';
    }
    if separator == ',' {
        lines.push('}');
    }
    lines.push(' ');
    value.write(lines);
    lines.push('\n');
}

fn scope_labels(scope: &InstrumentationScope) -> Vec<(String, String)> {
    let mut labels = vec![("otel_scope_name".to_owned(), scope.name().to_owned())];
    let optional = [
        ("otel_scope_version", scope.version()),
        ("otel_scope_schema_url", scope.schema_url()),
    ];
    for (key, value) in optional {
        if let Some(value) = value {
            labels.push((key.to_owned(), value.to_owned()));
        }
    }
    let attributes = scope
        .attributes()
        .map(|kv| (format!("otel_scope_{}", kv.key), kv.value.to_string()));
    labels.extend(attributes);
    labels
}

/// Attributes as labels. Keys that become equal share a label; their values are joined by `;` in
/// the order of the original keys.
fn labels(attributes: impl IntoIterator<Item = (String, String)>) -> Labels {
    let mut attributes: Vec<_> = attributes.into_iter().collect();
    attributes.sort();
    let mut labels = Labels::new();
    for (key, value) in attributes {
        labels
            .entry(label_name(&key))
            .and_modify(|joined| {
                joined.push(';');
                joined.push_str(&value);
            })
            .or_insert(value);
    }
    labels
}

/// `[a-zA-Z_][a-zA-Z0-9_]*`; names that begin with `__` belong to Prometheus.
fn label_name(key: &str) -> String {
    let name = sanitized(key, |c| c.is_ascii_alphanumeric());
    if name.starts_with(|c: char| c.is_ascii_digit()) {
        format!("key_{name}")
    } else {
        name
    }
}

/// The name of a metric: sanitised, with its unit, and for a counter `_total` at its end.
fn metric_name(name: &str, unit: &str, kind: Type) -> String {
    let name = sanitized(name, |c| c.is_ascii_alphanumeric() || c == ':');
    let mut stem = match kind {
        Type::Counter => name.strip_suffix("_total").unwrap_or(&name).to_owned(),
        Type::Gauge | Type::Histogram => name,
    };
    let unit = match unit {
        "1" if kind == Type::Gauge => "ratio".to_owned(),
        unit => unit_name(unit),
    };
    let has_unit = stem == unit || stem.ends_with(&format!("_{unit}"));
    if !unit.is_empty() && !has_unit {
        stem = format!("{stem}_{unit}");
    }
    if kind == Type::Counter {
        stem.push_str("_total");
    }
    if stem.starts_with(|c: char| c.is_ascii_digit()) {
        stem.insert(0, '_');
    }
    stem
}

/// Every other character becomes `_`, and several `_` become one.
fn sanitized(name: &str, keep: impl Fn(char) -> bool) -> String {
    let mut result = String::with_capacity(name.len());
    for c in name.chars() {
        if keep(c) {
            result.push(c);
        } else if !result.ends_with('_') {
            result.push('_');
        }
    }
    result
}

/// The word for a unit in UCUM notation; annotations in braces say nothing, and neither does `1`.
fn unit_name(unit: &str) -> String {
    let mut plain = String::new();
    let mut depth = 0_usize;
    for c in unit.chars() {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            c if depth == 0 => plain.push(c),
            _ => {}
        }
    }
    let word = |unit: &str| match unit {
        "d" => "days".to_owned(),
        "h" => "hours".to_owned(),
        "min" => "minutes".to_owned(),
        "s" => "seconds".to_owned(),
        "ms" => "milliseconds".to_owned(),
        "us" => "microseconds".to_owned(),
        "ns" => "nanoseconds".to_owned(),
        "By" => "bytes".to_owned(),
        "KiBy" => "kibibytes".to_owned(),
        "MiBy" => "mebibytes".to_owned(),
        "GiBy" => "gibibytes".to_owned(),
        "%" => "percent".to_owned(),
        "1" => String::new(),
        other => sanitized(other, |c| c.is_ascii_alphanumeric()),
    };
    let per = |unit: &str| match unit {
        "s" => "second".to_owned(),
        "min" => "minute".to_owned(),
        "h" => "hour".to_owned(),
        "d" => "day".to_owned(),
        other => word(other),
    };
    match plain.split_once('/') {
        Some((of, time)) if !time.is_empty() => {
            let of = word(of);
            let separator = if of.is_empty() { "" } else { "_" };
            format!("{of}{separator}per_{}", per(time))
        }
        _ => word(&plain),
    }
    .trim_matches('_')
    .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry::metrics::MeterProvider as _;
    use opentelemetry_sdk::Resource;
    use opentelemetry_sdk::metrics::{Aggregation, Instrument, SdkMeterProvider, Stream};

    fn provider(reader: Reader) -> SdkMeterProvider {
        SdkMeterProvider::builder()
            .with_resource(
                Resource::builder_empty()
                    .with_attribute(KeyValue::new("service.name", "tea"))
                    .build(),
            )
            .with_reader(reader)
            .build()
    }

    #[test]
    fn names_carry_their_unit_and_never_total_twice() {
        use Type::{Counter, Gauge, Histogram};
        for (name, unit, kind, expected) in [
            (
                "execd.http.request.count",
                "{request}",
                Counter,
                "execd_http_request_count_total",
            ),
            (
                "execd.http.request.duration",
                "s",
                Histogram,
                "execd_http_request_duration_seconds",
            ),
            (
                "execd.jupyter.sessions.created_total",
                "{session}",
                Counter,
                "execd_jupyter_sessions_created_total",
            ),
            (
                "execd.system.network.io.bytes",
                "By",
                Counter,
                "execd_system_network_io_bytes_total",
            ),
            (
                "execd.system.cpu.usage",
                "%",
                Gauge,
                "execd_system_cpu_usage_percent",
            ),
            (
                "execd.system.memory.usage_bytes",
                "By",
                Gauge,
                "execd_system_memory_usage_bytes",
            ),
            (
                "egress.system.cpu.utilization",
                "1",
                Gauge,
                "egress_system_cpu_utilization_ratio",
            ),
            ("retries", "1", Counter, "retries_total"),
            (
                "process.cpu.time",
                "s",
                Counter,
                "process_cpu_time_seconds_total",
            ),
            ("work_total", "s", Counter, "work_seconds_total"),
            ("speed", "m/s", Gauge, "speed_m_per_second"),
            ("rate", "{query}/s", Gauge, "rate_per_second"),
            ("2.fast--x", "", Gauge, "_2_fast_x"),
            ("megabytes", "By", Gauge, "megabytes_bytes"),
        ] {
            assert_eq!(metric_name(name, unit, kind), expected);
        }
    }

    #[test]
    fn a_scrape_has_every_kind_with_its_scope_and_the_target() {
        let reader = Reader::default();
        let provider = provider(reader.clone());
        let meter = provider.meter("opensandbox/test");
        let attributes = [KeyValue::new("http.method", "GET")];
        meter
            .u64_counter("tea.cups.count")
            .with_unit("{cup}")
            .with_description("Cups \\ served\nso far")
            .build()
            .add(3, &attributes);
        meter
            .i64_up_down_counter("tea.guests")
            .build()
            .add(-2, &[KeyValue::new("table", "a\"b\\c\nd")]);
        let histogram = meter
            .f64_histogram("tea.brewing")
            .with_unit("s")
            .with_boundaries(vec![0.5, 1.0])
            .build();
        histogram.record(0.25, &[]);
        histogram.record(0.75, &[]);
        histogram.record(9.0, &[]);
        let expected = r#"# HELP target_info Target metadata
# TYPE target_info gauge
target_info{service_name="tea"} 1
# TYPE tea_brewing_seconds histogram
tea_brewing_seconds_bucket{le="0.5",otel_scope_name="opensandbox/test"} 1
tea_brewing_seconds_bucket{le="1",otel_scope_name="opensandbox/test"} 2
tea_brewing_seconds_bucket{le="+Inf",otel_scope_name="opensandbox/test"} 3
tea_brewing_seconds_sum{otel_scope_name="opensandbox/test"} 10
tea_brewing_seconds_count{otel_scope_name="opensandbox/test"} 3
# HELP tea_cups_count_total Cups \\ served\nso far
# TYPE tea_cups_count_total counter
tea_cups_count_total{http_method="GET",otel_scope_name="opensandbox/test"} 3
# TYPE tea_guests gauge
tea_guests{otel_scope_name="opensandbox/test",table="a\"b\\c\nd"} -2
"#;
        assert_eq!(reader.scrape(), expected);
        provider.shutdown().expect("no exporter can fail");
        assert_eq!(reader.scrape(), "");
    }

    #[test]
    fn exponential_histograms_keep_sum_and_count() {
        let reader = Reader::default();
        let provider = SdkMeterProvider::builder()
            .with_reader(reader.clone())
            .with_view(|_: &Instrument| {
                Stream::builder()
                    .with_aggregation(Aggregation::Base2ExponentialHistogram {
                        max_size: 160,
                        max_scale: 20,
                        record_min_max: true,
                    })
                    .build()
                    .ok()
            })
            .build();
        provider
            .meter("t")
            .f64_histogram("h")
            .build()
            .record(2.5, &[]);
        let text = reader.scrape();
        for line in [
            "h_bucket{le=\"+Inf\",otel_scope_name=\"t\"} 1\n",
            "h_sum{otel_scope_name=\"t\"} 2.5\n",
            "h_count{otel_scope_name=\"t\"} 1\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
    }

    #[test]
    fn one_name_has_one_type_and_one_header() {
        let reader = Reader::default();
        let provider = provider(reader.clone());
        for scope in ["a", "b"] {
            provider.meter(scope).u64_counter("x").build().add(1, &[]);
        }
        provider
            .meter("c")
            .f64_gauge("x_total")
            .build()
            .record(1.0, &[]);
        let text = reader.scrape();
        assert_eq!(text.matches("# TYPE x_total").count(), 1, "{text}");
        assert!(
            text.contains("x_total{otel_scope_name=\"a\"} 1\n"),
            "{text}"
        );
        assert!(
            text.contains("x_total{otel_scope_name=\"b\"} 1\n"),
            "{text}"
        );
    }

    #[test]
    fn labels_that_become_equal_are_joined() {
        let pairs = [("a.b", "1"), ("a_b", "2"), ("9", "3")];
        let labels = labels(pairs.map(|(key, value)| (key.to_owned(), value.to_owned())));
        assert_eq!(labels.get("a_b").map(String::as_str), Some("1;2"));
        assert_eq!(labels.get("key_9").map(String::as_str), Some("3"));
    }

    #[test]
    fn numbers_are_written_as_the_format_wants() {
        let written = |number: f64| {
            let mut text = String::new();
            number.write(&mut text);
            text
        };
        assert_eq!(written(f64::INFINITY), "+Inf");
        assert_eq!(written(f64::NEG_INFINITY), "-Inf");
        assert_eq!(written(f64::NAN), "NaN");
        assert_eq!(written(0.1), "0.1");
    }
}
