//! The telemetry settings: the switch table of the telemetry contract (section 2), parsed from
//! [`Values`] into a typed [`Config`].
//!
//! Pure apart from one file, `/etc/hostinfo`, which is read only when the node fallback is switched
//! on and `HOST_IP` is unset. A value that does not parse becomes a [`Warning`] and a default; no
//! value of telemetry can keep a daemon from starting. Never shows a header value.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Uri};
use opentelemetry_sdk::metrics::Temporality;

use super::Component;
use super::semconv::HttpKeys;
use crate::config::{self, Kind, Origin, Setting, Values, Warning};

/// The largest log queue that can be configured, in records. Records hold around 1 KiB each.
pub const MAX_LOG_QUEUE: usize = 65_536;

/// Where the orchestrator writes the address of the node, for `OPENSANDBOX_OTLP_NODE_FALLBACK`.
const HOST_INFO: &str = "/etc/hostinfo";

/// What is shown in the place of a secret.
const HIDDEN: &str = "(hidden)";

macro_rules! settings {
    ($($flag:literal, $variable:literal, $default:literal, $kind:ident, $help:literal;)+) => {
        &[$(Setting { flag: $flag, variable: $variable, default: $default, kind: Kind::$kind, help: $help }),+]
    };
}

/// The settings every component has.
pub const SETTINGS: &[Setting] = settings! {
    "otel-sdk-disabled", "OTEL_SDK_DISABLED", "false", Switch, "Export nothing over OpenTelemetry; the log on standard output is unaffected";
    "otel-metrics-exporter", "OTEL_METRICS_EXPORTER", "", Text, "Comma list of otlp, console, prometheus, none; unset: otlp when a metrics endpoint is known";
    "otel-logs-exporter", "OTEL_LOGS_EXPORTER", "", Text, "Comma list of otlp, console, none; unset: otlp when a logs endpoint is known";
    "otel-exporter-otlp-endpoint", "OTEL_EXPORTER_OTLP_ENDPOINT", "", Text, "Base URL of the OTLP receiver; /v1/metrics and /v1/logs are appended for HTTP";
    "otel-exporter-otlp-metrics-endpoint", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "", Text, "URL metrics are sent to, used as it is";
    "otel-exporter-otlp-logs-endpoint", "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "", Text, "URL logs are sent to, used as it is";
    "otel-exporter-otlp-protocol", "OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf", Text, "http/protobuf, http/json or grpc";
    "otel-exporter-otlp-metrics-protocol", "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "", Text, "The protocol, for metrics only";
    "otel-exporter-otlp-logs-protocol", "OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", "", Text, "The protocol, for logs only";
    "otel-exporter-otlp-headers", "OTEL_EXPORTER_OTLP_HEADERS", "", Secret, "Headers of every export, as key=value,key2=value2, percent-encoded";
    "otel-exporter-otlp-metrics-headers", "OTEL_EXPORTER_OTLP_METRICS_HEADERS", "", Secret, "The headers, for metrics only";
    "otel-exporter-otlp-logs-headers", "OTEL_EXPORTER_OTLP_LOGS_HEADERS", "", Secret, "The headers, for logs only";
    "otel-exporter-otlp-timeout", "OTEL_EXPORTER_OTLP_TIMEOUT", "10000", Text, "Longest time one batch may take, retries included, in milliseconds";
    "otel-exporter-otlp-metrics-timeout", "OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "", Text, "The timeout, for metrics only";
    "otel-exporter-otlp-logs-timeout", "OTEL_EXPORTER_OTLP_LOGS_TIMEOUT", "", Text, "The timeout, for logs only";
    "otel-exporter-otlp-compression", "OTEL_EXPORTER_OTLP_COMPRESSION", "none", Text, "gzip or none";
    "otel-exporter-otlp-metrics-compression", "OTEL_EXPORTER_OTLP_METRICS_COMPRESSION", "", Text, "The compression, for metrics only";
    "otel-exporter-otlp-logs-compression", "OTEL_EXPORTER_OTLP_LOGS_COMPRESSION", "", Text, "The compression, for logs only";
    "otel-exporter-otlp-insecure", "OTEL_EXPORTER_OTLP_INSECURE", "", Text, "false: a gRPC endpoint without a scheme uses TLS";
    "otel-exporter-otlp-metrics-insecure", "OTEL_EXPORTER_OTLP_METRICS_INSECURE", "", Text, "The same, for metrics only";
    "otel-exporter-otlp-logs-insecure", "OTEL_EXPORTER_OTLP_LOGS_INSECURE", "", Text, "The same, for logs only";
    "otel-exporter-otlp-certificate", "OTEL_EXPORTER_OTLP_CERTIFICATE", "", Text, "File with the trusted certificates of the receiver, PEM";
    "otel-exporter-otlp-metrics-certificate", "OTEL_EXPORTER_OTLP_METRICS_CERTIFICATE", "", Text, "The same, for metrics only";
    "otel-exporter-otlp-logs-certificate", "OTEL_EXPORTER_OTLP_LOGS_CERTIFICATE", "", Text, "The same, for logs only";
    "otel-exporter-otlp-client-certificate", "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "", Text, "File with the client certificate chain, PEM";
    "otel-exporter-otlp-metrics-client-certificate", "OTEL_EXPORTER_OTLP_METRICS_CLIENT_CERTIFICATE", "", Text, "The same, for metrics only";
    "otel-exporter-otlp-logs-client-certificate", "OTEL_EXPORTER_OTLP_LOGS_CLIENT_CERTIFICATE", "", Text, "The same, for logs only";
    "otel-exporter-otlp-client-key", "OTEL_EXPORTER_OTLP_CLIENT_KEY", "", Text, "File with the client's private key, PEM";
    "otel-exporter-otlp-metrics-client-key", "OTEL_EXPORTER_OTLP_METRICS_CLIENT_KEY", "", Text, "The same, for metrics only";
    "otel-exporter-otlp-logs-client-key", "OTEL_EXPORTER_OTLP_LOGS_CLIENT_KEY", "", Text, "The same, for logs only";
    "otel-service-name", "OTEL_SERVICE_NAME", "", Text, "service.name of the resource; unset: opensandbox-<component>-<version>";
    "otel-resource-attributes", "OTEL_RESOURCE_ATTRIBUTES", "", Text, "Attributes of the resource, as key=value,key2=value2, percent-encoded";
    "otel-metric-export-interval", "OTEL_METRIC_EXPORT_INTERVAL", "60000", Text, "Milliseconds between two metric exports";
    "otel-metric-export-timeout", "OTEL_METRIC_EXPORT_TIMEOUT", "30000", Text, "Longest time one metric export may take, in milliseconds";
    "otel-blrp-schedule-delay", "OTEL_BLRP_SCHEDULE_DELAY", "1000", Text, "Longest time a log record waits for its batch, in milliseconds";
    "otel-blrp-export-timeout", "OTEL_BLRP_EXPORT_TIMEOUT", "30000", Text, "Longest time one log export may take, in milliseconds";
    "otel-blrp-max-queue-size", "OTEL_BLRP_MAX_QUEUE_SIZE", "2048", Text, "Log records that may wait for export; further ones are dropped and counted";
    "otel-blrp-max-export-batch-size", "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE", "512", Text, "Log records in one export";
    "otel-exporter-otlp-metrics-temporality-preference", "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "cumulative", Text, "cumulative, delta or lowmemory";
    "otel-exporter-otlp-metrics-default-histogram-aggregation", "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION", "explicit_bucket_histogram", Text, "explicit_bucket_histogram or base2_exponential_bucket_histogram";
    "otel-exporter-prometheus-host", "OTEL_EXPORTER_PROMETHEUS_HOST", "localhost", Text, "Address the scrape endpoint listens on";
    "otel-exporter-prometheus-port", "OTEL_EXPORTER_PROMETHEUS_PORT", "9464", Text, "Port the scrape endpoint listens on";
    "otel-semconv-stability-opt-in", "OTEL_SEMCONV_STABILITY_OPT_IN", "", Text, "http: the stable HTTP attribute keys; http/dup: both";
    "otel-log-level", "OTEL_LOG_LEVEL", "info", Text, "Verbosity of the OpenTelemetry SDK about itself: none, error, warn, info, debug, trace";
    "otlp-node-fallback", "OPENSANDBOX_OTLP_NODE_FALLBACK", "false", Switch, "With no endpoint set, export to port 4318 of the node (HOST_IP, else /etc/hostinfo)";
    "host-ip", "HOST_IP", "", Text, "Address of the node, for the node fallback";
};

/// The settings only `component` has.
#[must_use]
pub const fn component_settings(component: Component) -> &'static [Setting] {
    match component {
        Component::Execd => settings! {
            "sandbox-id", "OPENSANDBOX_ID", "", Text, "Identifier of the sandbox, on every metric and log record";
            "metrics-extra-attrs", "OPENSANDBOX_EXECD_METRICS_EXTRA_ATTRS", "", Text, "Attributes of every metric and log record, as key=value,key2=value2";
        },
        Component::Egress => settings! {
            "sandbox-id", "OPENSANDBOX_EGRESS_SANDBOX_ID", "", Text, "Identifier of the sandbox, on every metric and log record";
            "fallback-sandbox-id", "OPENSANDBOX_ID", "", Text, "Identifier of the sandbox when --sandbox-id is not given";
            "metrics-extra-attrs", "OPENSANDBOX_EGRESS_METRICS_EXTRA_ATTRS", "", Text, "Attributes of every metric and log record, as key=value,key2=value2";
        },
        Component::Ingress => settings! {
            "metrics-extra-attrs", "OPENSANDBOX_INGRESS_METRICS_EXTRA_ATTRS", "", Text, "Attributes of every metric and log record, as key=value,key2=value2";
        },
        Component::Supervisor => &[],
    }
}

/// How one component exports its metrics and logs.
#[derive(Clone, Debug)]
pub struct Config {
    /// Who exports.
    pub component: Component,
    /// `service.name`.
    pub service_name: String,
    /// The other attributes of `OTEL_RESOURCE_ATTRIBUTES`, in order.
    pub resource_attributes: Vec<(String, String)>,
    /// `sandbox_id` of the resource, of every data point and of every log line.
    pub sandbox_id: Option<String>,
    /// On every data point and every log line; no key twice, none of them `sandbox_id` when that is
    /// known.
    pub extra_attributes: Vec<(String, String)>,
    /// Where metrics go.
    pub metrics: Metrics,
    /// Where log records go, besides the log's own output.
    pub logs: Logs,
    /// Which keys describe HTTP requests.
    pub http_keys: HttpKeys,
    /// How much the SDK says about itself.
    pub diagnostics: Diagnostics,
}

/// Where metrics go; nothing set: nowhere.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// Pushed over OTLP.
    pub otlp: Option<Otlp>,
    /// Written to standard output.
    pub console: bool,
    /// Served to a Prometheus scraper.
    pub prometheus: Option<Prometheus>,
    /// Between two exports.
    pub interval: Duration,
    /// For one export.
    pub timeout: Duration,
    /// How sums and histograms relate to time, for OTLP.
    pub temporality: Temporality,
    /// Histograms have exponential buckets.
    pub exponential_histograms: bool,
}

/// Where log records go; nothing set: nowhere.
#[derive(Clone, Debug, Default)]
pub struct Logs {
    /// Pushed over OTLP.
    pub otlp: Option<Otlp>,
    /// Written to standard output in OTLP JSON.
    pub console: bool,
    /// The longest a record waits for its batch.
    pub schedule_delay: Duration,
    /// For one export.
    pub export_timeout: Duration,
    /// Records that may wait.
    pub max_queue_size: usize,
    /// Records in one export, at most [`Self::max_queue_size`].
    pub max_export_batch_size: usize,
}

/// How to reach an OTLP receiver.
#[derive(Clone)]
pub struct Otlp {
    /// The complete URL for HTTP; for gRPC only scheme and authority count.
    pub endpoint: Uri,
    /// How batches are encoded and carried.
    pub protocol: Protocol,
    /// Sent with each request; secret.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// For one batch, retries included.
    pub timeout: Duration,
    /// Compress with gzip.
    pub gzip: bool,
    /// Trusted certificates, PEM; unset: the built-in web roots.
    pub certificate: Option<PathBuf>,
    /// Client certificate chain, PEM.
    pub client_certificate: Option<PathBuf>,
    /// Client key, PEM.
    pub client_key: Option<PathBuf>,
}

impl std::fmt::Debug for Otlp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = self.headers.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("Otlp")
            .field("endpoint", &shown(&self.endpoint.to_string()))
            .field("protocol", &self.protocol)
            .field("headers", &names)
            .field("timeout", &self.timeout)
            .field("gzip", &self.gzip)
            .field("certificate", &self.certificate)
            .field("client_certificate", &self.client_certificate)
            .field("client_key", &self.client_key)
            .finish()
    }
}

/// Encoding and transport of OTLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Protobuf in an HTTP request.
    HttpProtobuf,
    /// JSON in an HTTP request.
    HttpJson,
    /// Protobuf in a gRPC call.
    Grpc,
}

impl Protocol {
    /// The value of `OTEL_EXPORTER_OTLP_PROTOCOL`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::HttpProtobuf => "http/protobuf",
            Self::HttpJson => "http/json",
            Self::Grpc => "grpc",
        }
    }
}

/// The scrape endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prometheus {
    /// Addresses to listen on; `localhost` is both of them.
    pub hosts: Vec<IpAddr>,
    /// Port to listen on; 0: any.
    pub port: u16,
}

/// How much the SDK says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Diagnostics {
    /// Nothing.
    Off,
    /// This level and above.
    Level(slog::Level),
}

/// The variables of one signal.
struct Signal {
    name: &'static str,
    path: &'static str,
    endpoint: &'static str,
    protocol: &'static str,
    headers: &'static str,
    timeout: &'static str,
    compression: &'static str,
    insecure: &'static str,
    certificate: &'static str,
    client_certificate: &'static str,
    client_key: &'static str,
}

const METRICS: Signal = Signal {
    name: "metrics",
    path: "/v1/metrics",
    endpoint: "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
    protocol: "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL",
    headers: "OTEL_EXPORTER_OTLP_METRICS_HEADERS",
    timeout: "OTEL_EXPORTER_OTLP_METRICS_TIMEOUT",
    compression: "OTEL_EXPORTER_OTLP_METRICS_COMPRESSION",
    insecure: "OTEL_EXPORTER_OTLP_METRICS_INSECURE",
    certificate: "OTEL_EXPORTER_OTLP_METRICS_CERTIFICATE",
    client_certificate: "OTEL_EXPORTER_OTLP_METRICS_CLIENT_CERTIFICATE",
    client_key: "OTEL_EXPORTER_OTLP_METRICS_CLIENT_KEY",
};

const LOGS: Signal = Signal {
    name: "logs",
    path: "/v1/logs",
    endpoint: "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT",
    protocol: "OTEL_EXPORTER_OTLP_LOGS_PROTOCOL",
    headers: "OTEL_EXPORTER_OTLP_LOGS_HEADERS",
    timeout: "OTEL_EXPORTER_OTLP_LOGS_TIMEOUT",
    compression: "OTEL_EXPORTER_OTLP_LOGS_COMPRESSION",
    insecure: "OTEL_EXPORTER_OTLP_LOGS_INSECURE",
    certificate: "OTEL_EXPORTER_OTLP_LOGS_CERTIFICATE",
    client_certificate: "OTEL_EXPORTER_OTLP_LOGS_CLIENT_CERTIFICATE",
    client_key: "OTEL_EXPORTER_OTLP_LOGS_CLIENT_KEY",
};

const GENERAL_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

impl Config {
    /// Reads the settings of `component`. What does not parse is appended to `warnings`.
    #[must_use]
    pub fn read(component: Component, values: &Values, warnings: &mut Vec<Warning>) -> Self {
        Self::read_with(component, values, warnings, || {
            std::fs::read_to_string(HOST_INFO).ok()
        })
    }

    /// A configuration that exports nothing.
    #[must_use]
    pub fn disabled(component: Component) -> Self {
        Self::read_with(
            component,
            &Values::from_pairs(SETTINGS, &[("OTEL_SDK_DISABLED", "true")]),
            &mut Vec::new(),
            || None,
        )
    }

    fn read_with(
        component: Component,
        values: &Values,
        warnings: &mut Vec<Warning>,
        host_info: impl Fn() -> Option<String>,
    ) -> Self {
        let mut reader = Reader { values, warnings };
        let (service_name, resource_attributes) = reader.resource(component);
        let sandbox_id = match component {
            Component::Execd => reader.text("OPENSANDBOX_ID"),
            Component::Egress => reader
                .text("OPENSANDBOX_EGRESS_SANDBOX_ID")
                .or_else(|| reader.text("OPENSANDBOX_ID")),
            Component::Ingress | Component::Supervisor => None,
        }
        .map(str::to_owned);
        let extra_attributes = reader.extra_attributes(component, sandbox_id.is_some());
        let disabled = reader.switch("OTEL_SDK_DISABLED").unwrap_or(false);
        let (metrics, logs) = if disabled {
            (Metrics::default(), Logs::default())
        } else {
            let node = reader.node(&host_info);
            (
                reader.metrics(node),
                reader.logs(node, component == Component::Egress),
            )
        };
        Self {
            component,
            service_name,
            resource_attributes,
            sandbox_id,
            extra_attributes,
            metrics,
            logs,
            http_keys: reader.http_keys(),
            diagnostics: reader.diagnostics(),
        }
    }

    /// Whether anything is exported at all.
    #[must_use]
    pub fn exports(&self) -> bool {
        let (metrics, logs) = (&self.metrics, &self.logs);
        metrics.otlp.is_some()
            || metrics.console
            || metrics.prometheus.is_some()
            || logs.otlp.is_some()
            || logs.console
    }

    /// The attributes of every data point and every log line: `sandbox_id`, then the extra ones.
    pub fn shared_attributes(&self) -> impl Iterator<Item = (&str, &str)> {
        self.sandbox_id
            .iter()
            .map(|id| ("sandbox_id", id.as_str()))
            .chain(
                self.extra_attributes
                    .iter()
                    .map(|(key, value)| (key.as_str(), value.as_str())),
            )
    }
}

/// Which exporters a signal was given.
struct Selection {
    otlp: bool,
    console: bool,
    prometheus: bool,
}

struct Reader<'a> {
    values: &'a Values,
    warnings: &'a mut Vec<Warning>,
}

impl<'a> Reader<'a> {
    fn text(&self, variable: &str) -> Option<&'a str> {
        let value = self.values.get(variable)?.trim();
        (!value.is_empty()).then_some(value)
    }

    /// The variable of the signal, else the general one, with the name of the one that is set.
    fn either(
        &self,
        signal: &'static str,
        general: &'static str,
    ) -> Option<(&'static str, &'a str)> {
        [signal, general]
            .into_iter()
            .find_map(|variable| Some((variable, self.text(variable)?)))
    }

    fn warn(&mut self, variable: &str, value: &str, used: impl Into<String>) {
        self.warnings.push(Warning {
            variable: variable.to_owned(),
            value: value.to_owned(),
            used: used.into(),
        });
    }

    fn switch(&mut self, variable: &str) -> Option<bool> {
        let value = self.text(variable)?;
        let switch = config::switch(value);
        if switch.is_none() {
            self.warn(variable, value, "false");
        }
        Some(switch.unwrap_or(false))
    }

    fn number<T>(&mut self, variable: &str, default: T, min: T, max: T) -> T
    where
        T: Copy + PartialOrd + std::str::FromStr + std::fmt::Display,
    {
        let Some(value) = self.text(variable) else {
            return default;
        };
        match value.parse::<T>() {
            Ok(number) if number < min => {
                self.warn(variable, value, default.to_string());
                default
            }
            Ok(number) if number > max => {
                self.warn(variable, value, max.to_string());
                max
            }
            Ok(number) => number,
            Err(_) => {
                self.warn(variable, value, default.to_string());
                default
            }
        }
    }

    fn milliseconds(&mut self, variable: &str, default: u64, min: u64) -> Duration {
        /// One day: longer is a mistake, and every wait has a bound.
        const MAX: u64 = 86_400_000;
        Duration::from_millis(self.number(variable, default, min, MAX))
    }

    /// One of `choices`, compared without case; the first is the default.
    fn choice<T: Copy>(&mut self, variable: &str, choices: &[(&str, T)], default: T) -> T {
        let Some(value) = self.text(variable) else {
            return default;
        };
        if let Some((_, choice)) = choices
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(value))
        {
            return *choice;
        }
        self.warn(
            variable,
            value,
            choices.first().map_or("", |(name, _)| name),
        );
        default
    }

    fn resource(&mut self, component: Component) -> (String, Vec<(String, String)>) {
        const VARIABLE: &str = "OTEL_RESOURCE_ATTRIBUTES";
        let mut attributes = Vec::new();
        if let Some(value) = self.text(VARIABLE) {
            match list(value).collect::<Option<Vec<_>>>() {
                // The specification discards the whole value when a part of it is wrong.
                None => self.warn(VARIABLE, value, "no attributes"),
                Some(parsed) => parsed
                    .into_iter()
                    .for_each(|(key, value)| put(&mut attributes, key, value)),
            }
        }
        let mut service_name = self.text("OTEL_SERVICE_NAME").map(str::to_owned);
        attributes.retain(|(key, value)| {
            let is_name = key == "service.name";
            if is_name && !value.is_empty() && service_name.is_none() {
                service_name = Some(value.clone());
            }
            !is_name
        });
        let service_name = service_name.unwrap_or_else(|| {
            format!(
                "opensandbox-{}-{}",
                component.name(),
                crate::version::VERSION
            )
        });
        (service_name, attributes)
    }

    fn extra_attributes(
        &mut self,
        component: Component,
        sandbox_known: bool,
    ) -> Vec<(String, String)> {
        let variable = match component {
            Component::Execd => "OPENSANDBOX_EXECD_METRICS_EXTRA_ATTRS",
            Component::Egress => "OPENSANDBOX_EGRESS_METRICS_EXTRA_ATTRS",
            Component::Ingress => "OPENSANDBOX_INGRESS_METRICS_EXTRA_ATTRS",
            Component::Supervisor => return Vec::new(),
        };
        let mut attributes = Vec::new();
        for segment in self.text(variable).unwrap_or_default().split(',') {
            let Some((key, value)) = segment.split_once('=') else {
                continue;
            };
            let (key, value) = (key.trim(), value.trim());
            if key.is_empty() || value.is_empty() {
                continue;
            }
            if key == "sandbox_id" && sandbox_known {
                self.warn(variable, segment.trim(), "the configured sandbox id");
                continue;
            }
            put(&mut attributes, key.to_owned(), value.to_owned());
        }
        attributes
    }

    /// The address of the node, when the fallback is on and one is known.
    fn node(&mut self, host_info: impl Fn() -> Option<String>) -> Option<IpAddr> {
        const SWITCH: &str = "OPENSANDBOX_OTLP_NODE_FALLBACK";
        if !self.switch(SWITCH).unwrap_or(false) {
            return None;
        }
        if let Some(value) = self.text("HOST_IP") {
            match value.parse() {
                Ok(address) => return Some(address),
                Err(_) => self.warn("HOST_IP", value, HOST_INFO),
            }
        }
        host_info()?
            .split_whitespace()
            .find_map(|word| word.parse().ok())
    }

    fn selection(&mut self, variable: &'static str, known: &[&str]) -> Option<Selection> {
        let value = self.text(variable)?;
        let mut selection = Selection {
            otlp: false,
            console: false,
            prometheus: false,
        };
        for name in value
            .split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty())
        {
            let name = name.to_ascii_lowercase();
            match name.as_str() {
                "none" => {}
                "otlp" => selection.otlp = true,
                "console" => selection.console = true,
                "prometheus" if known.contains(&"prometheus") => selection.prometheus = true,
                _ => self.warn(variable, &name, "the other exporters of the list"),
            }
        }
        Some(selection)
    }

    fn metrics(&mut self, node: Option<IpAddr>) -> Metrics {
        const VARIABLE: &str = "OTEL_METRICS_EXPORTER";
        let selection = self.selection(VARIABLE, &["prometheus"]);
        let (prometheus, console) = selection
            .as_ref()
            .map_or((false, false), |s| (s.prometheus, s.console));
        let otlp = match selection {
            Some(Selection { otlp: false, .. }) => None,
            explicit => {
                let otlp = self.otlp(&METRICS, node);
                self.require_endpoint(VARIABLE, explicit.is_some(), otlp)
            }
        };
        Metrics {
            otlp,
            console,
            prometheus: prometheus.then(|| self.prometheus()),
            interval: self.milliseconds("OTEL_METRIC_EXPORT_INTERVAL", 60_000, 1),
            timeout: self.milliseconds("OTEL_METRIC_EXPORT_TIMEOUT", 30_000, 1),
            temporality: self.choice(
                "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
                &[
                    ("cumulative", Temporality::Cumulative),
                    ("delta", Temporality::Delta),
                    ("lowmemory", Temporality::LowMemory),
                ],
                Temporality::Cumulative,
            ),
            exponential_histograms: self.choice(
                "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION",
                &[
                    ("explicit_bucket_histogram", false),
                    ("base2_exponential_bucket_histogram", true),
                ],
                false,
            ),
        }
    }

    /// `own_endpoint_only`: the general endpoint alone does not switch the logs on (egress).
    fn logs(&mut self, node: Option<IpAddr>, own_endpoint_only: bool) -> Logs {
        const VARIABLE: &str = "OTEL_LOGS_EXPORTER";
        let selection = self.selection(VARIABLE, &[]);
        let console = selection.as_ref().is_some_and(|s| s.console);
        let otlp = match selection {
            Some(Selection { otlp: false, .. }) => None,
            None if own_endpoint_only && self.text(LOGS.endpoint).is_none() => None,
            explicit => {
                let otlp = self.otlp(&LOGS, node);
                self.require_endpoint(VARIABLE, explicit.is_some(), otlp)
            }
        };
        let max_queue_size = self.number("OTEL_BLRP_MAX_QUEUE_SIZE", 2048, 1, MAX_LOG_QUEUE);
        const BATCH: &str = "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE";
        let max_export_batch_size = match self.values.origin(BATCH) {
            // The queue alone was made small: its batches are small too, which needs no word.
            Origin::Default => 512.min(max_queue_size),
            _ => self.number(BATCH, 512.min(max_queue_size), 1, max_queue_size),
        };
        Logs {
            otlp,
            console,
            schedule_delay: self.milliseconds("OTEL_BLRP_SCHEDULE_DELAY", 1000, 0),
            export_timeout: self.milliseconds("OTEL_BLRP_EXPORT_TIMEOUT", 30_000, 1),
            max_queue_size,
            max_export_batch_size,
        }
    }

    fn require_endpoint(
        &mut self,
        variable: &str,
        explicit: bool,
        otlp: Known<Otlp>,
    ) -> Option<Otlp> {
        match otlp {
            Known::Yes(otlp) => Some(otlp),
            Known::Unusable => None,
            Known::No => {
                if explicit {
                    self.warn(
                        variable,
                        "otlp",
                        "no export, because no OTLP endpoint is set",
                    );
                }
                None
            }
        }
    }

    fn otlp(&mut self, signal: &Signal, node: Option<IpAddr>) -> Known<Otlp> {
        let configured = self.either(signal.endpoint, GENERAL_ENDPOINT);
        if configured.is_none() && node.is_none() {
            return Known::No;
        }
        let protocol = self.protocol(signal);
        let endpoint = match (configured, node) {
            (Some((variable, value)), _) => self.endpoint(signal, protocol, variable, value),
            (None, Some(node)) => node_endpoint(signal, protocol, node),
            (None, None) => None,
        };
        let Some(endpoint) = endpoint else {
            return Known::Unusable;
        };
        let (timeout, _) = self
            .either(signal.timeout, "OTEL_EXPORTER_OTLP_TIMEOUT")
            .unwrap_or((signal.timeout, ""));
        let timeout = self.milliseconds(timeout, 10_000, 1);
        let gzip = match self.either(signal.compression, "OTEL_EXPORTER_OTLP_COMPRESSION") {
            Some((variable, _)) => self.choice(variable, &[("none", false), ("gzip", true)], false),
            None => false,
        };
        let path = |reader: &Self, own, general| {
            reader
                .either(own, general)
                .map(|(_, path)| PathBuf::from(path))
        };
        Known::Yes(Otlp {
            endpoint,
            protocol,
            headers: self.headers(signal),
            timeout,
            gzip,
            certificate: path(self, signal.certificate, "OTEL_EXPORTER_OTLP_CERTIFICATE"),
            client_certificate: path(
                self,
                signal.client_certificate,
                "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
            ),
            client_key: path(self, signal.client_key, "OTEL_EXPORTER_OTLP_CLIENT_KEY"),
        })
    }

    fn protocol(&mut self, signal: &Signal) -> Protocol {
        let choices = [Protocol::HttpProtobuf, Protocol::HttpJson, Protocol::Grpc]
            .map(|protocol| (protocol.as_str(), protocol));
        match self.either(signal.protocol, "OTEL_EXPORTER_OTLP_PROTOCOL") {
            Some((variable, _)) => self.choice(variable, &choices, Protocol::HttpProtobuf),
            None => Protocol::HttpProtobuf,
        }
    }

    fn endpoint(
        &mut self,
        signal: &Signal,
        protocol: Protocol,
        variable: &'static str,
        value: &str,
    ) -> Option<Uri> {
        let url = if value.contains("://") {
            value.to_owned()
        } else {
            // Only an explicit wish for TLS changes what a missing scheme means.
            let secure = protocol == Protocol::Grpc
                && self
                    .either(signal.insecure, "OTEL_EXPORTER_OTLP_INSECURE")
                    .and_then(|(variable, _)| self.switch(variable))
                    == Some(false);
            let url = format!("{}://{value}", if secure { "https" } else { "http" });
            self.warn(variable, shown(value), shown(&url));
            url
        };
        let parsed = url.parse::<Uri>().ok().filter(|uri| {
            matches!(uri.scheme_str(), Some("http" | "https"))
                && uri.host().is_some_and(|host| !host.is_empty())
                && has_valid_port(uri)
        });
        let Some(parsed) = parsed else {
            self.warn(
                variable,
                shown(value),
                format!(
                    "no export of {}, because it is not an http or https URL",
                    signal.name
                ),
            );
            return None;
        };
        if protocol == Protocol::Grpc {
            return Some(parsed);
        }
        let after_authority = url
            .split_once("://")
            .and_then(|(_, rest)| rest.find(['/', '?', '#']).map(|at| &rest[at..]));
        let complete = if variable == GENERAL_ENDPOINT {
            format!("{}{}", url.trim_end_matches('/'), signal.path)
        } else if after_authority.is_none() {
            format!("{url}{}", signal.path)
        } else {
            return Some(parsed);
        };
        complete.parse().ok()
    }

    fn headers(&mut self, signal: &Signal) -> Vec<(HeaderName, HeaderValue)> {
        let Some((variable, value)) = self.either(signal.headers, "OTEL_EXPORTER_OTLP_HEADERS")
        else {
            return Vec::new();
        };
        let mut headers = Vec::new();
        for pair in list(value) {
            let header = pair.and_then(|(name, value)| {
                let mut value = HeaderValue::from_str(&value).ok()?;
                value.set_sensitive(true);
                Some((HeaderName::from_bytes(name.as_bytes()).ok()?, value))
            });
            match header {
                Some(header) => headers.push(header),
                None => self.warn(variable, HIDDEN, "the other headers of the list"),
            }
        }
        headers
    }

    fn prometheus(&mut self) -> Prometheus {
        const HOST: &str = "OTEL_EXPORTER_PROMETHEUS_HOST";
        const LOCALHOST: [IpAddr; 2] = [
            IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
            IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
        ];
        let hosts = match self.text(HOST) {
            None | Some("localhost") => LOCALHOST.to_vec(),
            Some(value) => match value.trim_matches(['[', ']']).parse() {
                Ok(address) => vec![address],
                Err(_) => {
                    self.warn(HOST, value, "localhost");
                    LOCALHOST.to_vec()
                }
            },
        };
        Prometheus {
            hosts,
            port: self.number("OTEL_EXPORTER_PROMETHEUS_PORT", 9464, 0, u16::MAX),
        }
    }

    /// Categories other than `http` belong to other libraries and say nothing to us.
    fn http_keys(&self) -> HttpKeys {
        let value = self
            .text("OTEL_SEMCONV_STABILITY_OPT_IN")
            .unwrap_or_default();
        let has = |wanted| value.split(',').any(|category| category.trim() == wanted);
        if has("http/dup") {
            HttpKeys::Both
        } else if has("http") {
            HttpKeys::Stable
        } else {
            HttpKeys::Proposal
        }
    }

    fn diagnostics(&mut self) -> Diagnostics {
        use slog::Level;
        const INFO: Diagnostics = Diagnostics::Level(Level::Info);
        self.choice(
            "OTEL_LOG_LEVEL",
            &[
                ("info", INFO),
                ("none", Diagnostics::Off),
                ("off", Diagnostics::Off),
                ("error", Diagnostics::Level(Level::Error)),
                ("warn", Diagnostics::Level(Level::Warning)),
                ("warning", Diagnostics::Level(Level::Warning)),
                ("debug", Diagnostics::Level(Level::Debug)),
                ("trace", Diagnostics::Level(Level::Trace)),
                ("verbose", Diagnostics::Level(Level::Trace)),
                ("all", Diagnostics::Level(Level::Trace)),
            ],
            INFO,
        )
    }
}

/// Whether an endpoint is known, and if so whether it can be used.
enum Known<T> {
    Yes(T),
    Unusable,
    No,
}

fn node_endpoint(signal: &Signal, protocol: Protocol, node: IpAddr) -> Option<Uri> {
    let host = match node {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    };
    match protocol {
        Protocol::Grpc => format!("http://{host}:4317"),
        Protocol::HttpProtobuf | Protocol::HttpJson => {
            format!("http://{host}:4318{}", signal.path)
        }
    }
    .parse()
    .ok()
}

/// Whether the port is absent or a number; the parser takes any text for a port.
fn has_valid_port(uri: &Uri) -> bool {
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let host_and_port = authority.rsplit('@').next().unwrap_or_default();
    let port = host_and_port.strip_prefix(uri.host().unwrap_or_default());
    port.and_then(|port| port.strip_prefix(':'))
        .is_none_or(|port| port.parse::<u16>().is_ok())
}

/// A URL as it may be shown: hidden when it carries credentials.
fn shown(url: &str) -> &str {
    if url.contains('@') { HIDDEN } else { url }
}

/// Adds a pair; a key that is there keeps its place and takes the new value.
fn put(attributes: &mut Vec<(String, String)>, key: String, value: String) {
    match attributes.iter_mut().find(|(known, _)| *known == key) {
        Some((_, known)) => *known = value,
        None => attributes.push((key, value)),
    }
}

/// The pairs of a W3C Baggage list without metadata; `None` stands for a pair that is wrong.
fn list(value: &str) -> impl Iterator<Item = Option<(String, String)>> {
    value
        .split(',')
        .map(str::trim)
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (key, value) = pair.split_once('=')?;
            let key = config::percent_decoded(key.trim())?;
            (!key.is_empty()).then_some((key, config::percent_decoded(value.trim())?))
        })
}

#[cfg(test)]
mod tests;
