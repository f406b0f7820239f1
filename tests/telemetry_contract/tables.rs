//! The metric tables of the telemetry contract, word for word: sections 4 to 8.

use opensandbox::telemetry::instrument::Kind::{self, *};

/// One line of a metric table.
pub struct Row {
    pub name: &'static str,
    pub kind: Kind,
    pub unit: &'static str,
    /// Besides `sandbox_id` and the extra attributes.
    pub attributes: &'static [&'static str],
    pub boundaries: &'static [f64],
}

const fn row(name: &'static str, kind: Kind, unit: &'static str) -> Row {
    Row {
        name,
        kind,
        unit,
        attributes: &[],
        boundaries: &[],
    }
}

impl Row {
    const fn with(self, attributes: &'static [&'static str]) -> Self {
        Self { attributes, ..self }
    }

    const fn within(self, boundaries: &'static [f64]) -> Self {
        Self { boundaries, ..self }
    }
}

/// Section 4, "HTTP".
const HTTP: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1., 2.5, 5., 7.5, 10.,
];

/// Section 4, "Sub-millisecond work".
const SUB_MILLISECOND: &[f64] = &[
    0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.,
    2.5, 5.,
];

const REQUEST: &[&str] = &["http.method", "http.route", "http.status_code"];

/// Section 4, "HTTP", extended for routes that stream.
const STREAMING_HTTP: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1., 2.5, 5., 7.5, 10., 30., 60., 300.,
    900., 3600.,
];

/// Section 4, "Execution".
const EXECUTION: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1., 2.5, 5., 10., 30., 60., 300.,
    900., 3600.,
];

const MIB: f64 = 1024. * 1024.;

/// Section 4, "Memory".
const MEMORY: &[f64] = &[
    MIB,
    4. * MIB,
    16. * MIB,
    64. * MIB,
    256. * MIB,
    1024. * MIB,
    4096. * MIB,
    16_384. * MIB,
    65_536. * MIB,
];

/// Section 5, and the request duration of section 4.
pub const EXECD: &[Row] = &[
    row("execd.http.request.count", Counter, "{request}").with(REQUEST),
    row("execd.http.request.duration", Histogram, "s")
        .with(REQUEST)
        .within(STREAMING_HTTP),
    row("execd.execution.count", Counter, "{execution}").with(&["operation", "result"]),
    row("execd.execution.duration", Histogram, "s")
        .with(&["operation", "result"])
        .within(EXECUTION),
    row("execd.execution.memory_bytes", Histogram, "By")
        .with(&["operation"])
        .within(MEMORY),
    row("execd.jupyter.sessions.active", UpDownCounter, "{session}"),
    row("execd.jupyter.sessions.created_total", Counter, "{session}"),
    row("execd.jupyter.sessions.deleted_total", Counter, "{session}"),
    row("execd.filesystem.operations.count", Counter, "{operation}").with(&["operation", "result"]),
    row("execd.filesystem.operations.duration", Histogram, "s")
        .with(&["operation", "result"])
        .within(EXECUTION),
    row("execd.system.cpu.usage", ObservableGauge, "%"),
    row("execd.system.memory.usage_bytes", ObservableGauge, "By"),
    row("execd.system.process.count", ObservableGauge, "{process}"),
    row("execd.system.network.io.bytes", ObservableCounter, "By").with(&["direction"]),
    row(
        "execd.system.network.connections.active",
        ObservableGauge,
        "{connection}",
    )
    .with(&["protocol"]),
    row("execd.commands.active", UpDownCounter, "{command}"),
    row("execd.pty.sessions.active", UpDownCounter, "{session}"),
    row(STANDARD_DURATION, Histogram, "s")
        .with(STANDARD)
        .within(STREAMING_HTTP),
];

/// The keys of the stable semantic conventions.
const STANDARD: &[&str] = &[
    "http.request.method",
    "http.response.status_code",
    "http.route",
    "url.scheme",
    "error.type",
];

/// Section 6, and the request duration of section 4.
pub const EGRESS: &[Row] = &[
    row("egress.dns.query.duration", Histogram, "s").within(SUB_MILLISECOND),
    row("egress.policy.denied_total", Counter, "{query}"),
    row("egress.nftables.rules.count", ObservableGauge, "{element}"),
    row("egress.nftables.updates.count", Counter, "{update}"),
    row("egress.system.memory.usage_bytes", ObservableGauge, "By"),
    row("egress.system.cpu.utilization", ObservableGauge, "1"),
    row("egress.dns.queries.count", Counter, "{query}").with(&["decision", "transport", "outcome"]),
    row("egress.dns.upstream.healthy", Gauge, "{upstream}"),
    row("egress.dns.inflight", UpDownCounter, "{query}"),
    row("egress.dns.dropped.count", Counter, "{message}").with(&["reason"]),
    row("egress.nftables.apply.duration", Histogram, "s")
        .with(&["operation"])
        .within(SUB_MILLISECOND),
    row(
        "egress.nftables.dropped.packets",
        ObservableCounter,
        "{packet}",
    ),
    row(
        "egress.nftables.learned.elements",
        ObservableGauge,
        "{element}",
    ),
    row("egress.http.request.count", Counter, "{request}").with(REQUEST),
    row("egress.http.request.duration", Histogram, "s")
        .with(REQUEST)
        .within(HTTP),
    row(STANDARD_DURATION, Histogram, "s")
        .with(STANDARD)
        .within(HTTP),
];

/// Section 4, "routing resolution".
const RESOLUTION: &[f64] = &[
    0.000_001,
    0.000_002_5,
    0.000_005,
    0.000_01,
    0.000_025,
    0.00005,
    0.0001,
    0.00025,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.,
    2.5,
    5.,
];

/// Section 7 with the table it refers to (contract `ingress`, section 11.4), and the request
/// duration of section 4.
pub const INGRESS: &[Row] = &[
    row("ingress.http.request.count", Counter, "{request}").with(&[
        "http.method",
        "http.status_code",
        "proxy_type",
    ]),
    row("ingress.http.request.duration", Histogram, "s")
        .with(&["http.method", "proxy_type"])
        .within(STREAMING_HTTP),
    row("ingress.routing.resolutions.count", Counter, "{resolution}").with(&["result"]),
    row("ingress.routing.resolution.duration", Histogram, "s")
        .with(&["result"])
        .within(RESOLUTION),
    row("ingress.proxy.http.requests_total", Counter, "{request}"),
    row(
        "ingress.proxy.websocket.connections_total",
        Counter,
        "{connection}",
    ),
    row("ingress.system.cpu.usage", ObservableGauge, "%"),
    row("ingress.system.memory.usage_bytes", ObservableGauge, "By"),
    row("ingress.http.requests.active", UpDownCounter, "{request}").with(&["proxy_type"]),
    row(
        "ingress.proxy.websocket.connections.active",
        UpDownCounter,
        "{connection}",
    ),
    row("ingress.upstream.errors.count", Counter, "{error}").with(&["error.type", "proxy_type"]),
    row("ingress.upstream.connect.duration", Histogram, "s")
        .with(&["proxy_type"])
        .within(SUB_MILLISECOND),
    row(
        "ingress.upstream.response.time_to_first_byte",
        Histogram,
        "s",
    )
    .with(&["proxy_type"])
    .within(HTTP),
    row(
        "ingress.secure_access.decisions.count",
        Counter,
        "{decision}",
    )
    .with(&["result"]),
    row("ingress.cache.objects", ObservableGauge, "{object}").with(&["provider"]),
    row("ingress.cache.synced", ObservableGauge, "{cache}").with(&["provider"]),
    row("ingress.cache.last_event.age", ObservableGauge, "s").with(&["provider"]),
    row("ingress.cache.relists.count", ObservableCounter, "{relist}").with(&["provider"]),
    row("ingress.renew_intent.events.count", Counter, "{event}").with(&["result"]),
    row(
        "ingress.renew_intent.queue.depth",
        ObservableGauge,
        "{event}",
    ),
    row("ingress.proxy.io.bytes", Counter, "By").with(&["direction", "proxy_type"]),
    row(STANDARD_DURATION, Histogram, "s")
        .with(STANDARD)
        .within(STREAMING_HTTP),
];

/// Exists only with `OTEL_SEMCONV_STABILITY_OPT_IN` (section 4).
pub const STANDARD_DURATION: &str = "http.server.request.duration";

/// Section 8, the process.
pub const PROCESS: &[Row] = &[
    row("process.cpu.time", ObservableCounter, "s").with(&["cpu.mode"]),
    row("process.memory.usage", ObservableUpDownCounter, "By"),
    row(
        "process.unix.file_descriptor.count",
        ObservableUpDownCounter,
        "{file_descriptor}",
    ),
    row("process.thread.count", ObservableUpDownCounter, "{thread}"),
    row("process.uptime", ObservableGauge, "s"),
    row(
        "opensandbox.log.records.dropped",
        ObservableCounter,
        "{record}",
    )
    .with(&["reason"]),
];

/// The supervisor contract, section 14.5, and what `docs/supervisor.md` adds.
pub const SUPERVISOR: &[Row] = &[
    row("supervisor.worker.restarts_total", Counter, "{restart}").with(&["reason"]),
    row("supervisor.worker.uptime", ObservableGauge, "s"),
    row("supervisor.worker.last_exit.code", Gauge, "{code}"),
    row("supervisor.backoff.seconds", Histogram, "s")
        .within(&[0.1, 0.5, 1., 2., 5., 10., 30., 60., 300.]),
    row("supervisor.crashloop", Counter, "{event}"),
    row("supervisor.orphans.reaped", ObservableCounter, "{process}"),
];

/// Section 8, the SDK's own health.
pub const TELEMETRY: &[Row] = &[
    row(
        "otel.sdk.exporter.metric_data_point.exported",
        ObservableCounter,
        "{data_point}",
    )
    .with(&["error.type"]),
    row(
        "otel.sdk.exporter.log.exported",
        ObservableCounter,
        "{log_record}",
    )
    .with(&["error.type"]),
    row(
        "otel.sdk.processor.log.queue.size",
        ObservableGauge,
        "{log_record}",
    ),
];

/// Attributes a data point has only where they apply (semantic conventions: "conditionally
/// required").
pub const CONDITIONAL: &[&str] = &["error.type", "http.route"];

/// The closed sets of sections 6 and 8.
pub const EGRESS_VALUES: &[(&str, &[&str])] = &[
    ("decision", &["allow", "deny"]),
    ("transport", &["udp", "tcp"]),
    (
        "outcome",
        &[
            "noerror", "nxdomain", "servfail", "other", "timeout", "error",
        ],
    ),
    ("operation", &["apply", "learn"]),
    ("cpu.mode", &["user", "system"]),
];

/// The closed sets of sections 5 and 8.
pub const EXECD_VALUES: &[(&str, &[&str])] = &[
    (
        "operation",
        &["run_code", "run_command", "run_in_session", "pty"],
    ),
    ("result", &["success", "failure"]),
    ("direction", &["in", "out"]),
    ("protocol", &["tcp", "udp"]),
    ("cpu.mode", &["user", "system"]),
];
