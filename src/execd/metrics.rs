//! What execd measures about requests, executions and the system (telemetry contract, section 5).
//!
//! Nothing a client can choose freely is an attribute: no command, no path, no session id.

use std::sync::Arc;

use opentelemetry::KeyValue;

use crate::host::Host;
use crate::telemetry::instrument::{
    Counter, Histogram, Labels, ObservableCounter, ObservableGauge, ObservableRatio,
    STREAMING_HTTP_SECONDS, UpDownCounter,
};
use crate::telemetry::semconv::{HttpRequest, ServerRequestDuration};
use crate::telemetry::series::{KeyedCounter, KeyedHistogram};

/// Boundaries, in seconds, for executions.
pub const EXECUTION_SECONDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
    300.0, 900.0, 3600.0,
];

/// Boundaries, in bytes, for memory: powers of 4 from 1 MiB to 64 GiB.
pub const MEMORY_BYTES: &[f64] = &[
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
    268_435_456.0,
    1_073_741_824.0,
    4_294_967_296.0,
    17_179_869_184.0,
    68_719_476_736.0,
];

crate::instruments! {
    /// The instruments of execd.
    pub struct Metrics in "opensandbox/execd" {
        /// Requests served, counted when their response ends or is abandoned.
        http_requests: KeyedCounter<HttpRequest> = "execd.http.request.count", "{request}",
            attributes ["http.method", "http.route", "http.status_code"];
        /// Time from a request's head to the end of its response.
        http_duration: KeyedHistogram<HttpRequest> = "execd.http.request.duration", "s",
            attributes ["http.method", "http.route", "http.status_code"],
            boundaries STREAMING_HTTP_SECONDS;
        /// Time to answer a request, under the stable semantic conventions; only with
        /// OTEL_SEMCONV_STABILITY_OPT_IN.
        server_duration: ServerRequestDuration = "http.server.request.duration", "s",
            attributes ["http.request.method", "http.response.status_code", "http.route", "url.scheme", "error.type"],
            boundaries STREAMING_HTTP_SECONDS;
        /// Executions, foreground or background, at their real end.
        executions: Counter<ExecutionLabels> = "execd.execution.count", "{execution}",
            attributes ["operation", "result"];
        /// Time from the start of an execution to its real end.
        execution_duration: Histogram<ExecutionLabels> = "execd.execution.duration", "s",
            attributes ["operation", "result"], boundaries EXECUTION_SECONDS;
        /// Peak resident set of a finished execution, where the kernel tells it from the daemon's own.
        execution_memory: Histogram<Operation> = "execd.execution.memory_bytes", "By",
            attributes ["operation"], boundaries MEMORY_BYTES;
        /// Commands that run now, foreground and background.
        commands_active: UpDownCounter = "execd.commands.active", "{command}";
        /// Terminals whose shell runs now.
        ptys_active: UpDownCounter = "execd.pty.sessions.active", "{session}";
        /// Busy share of the host's processors since the last collection, 0 to 100.
        host_cpu: ObservableRatio = "execd.system.cpu.usage", "%";
        /// Memory in use on the host: total less available.
        host_memory: ObservableGauge = "execd.system.memory.usage_bytes", "By";
        /// Processes in the sandbox.
        host_processes: ObservableGauge = "execd.system.process.count", "{process}";
        /// Bytes through all network interfaces, loopback included.
        network_io: ObservableCounter = "execd.system.network.io.bytes", "By",
            attributes ["direction"];
        /// Sockets in any state.
        network_connections: ObservableGauge = "execd.system.network.connections.active",
            "{connection}", attributes ["protocol"];
    }
}

impl Metrics {
    /// Takes the readings of the system from `host`, whenever they are collected.
    pub fn observe(&self, host: Host) {
        let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let host = Arc::new(host);
        let source = Arc::clone(&host);
        self.host_cpu.observe(move |point| {
            if let Some(busy) = source.cpu_busy() {
                point(busy * 100.0, &[]);
            }
        });
        let source = Arc::clone(&host);
        self.host_memory.observe(move |point| {
            if let Some(memory) = source.memory() {
                point(signed(memory.used()), &[]);
            }
        });
        let source = Arc::clone(&host);
        self.host_processes.observe(move |point| {
            if let Some(processes) = source.processes() {
                point(signed(processes), &[]);
            }
        });
        let source = Arc::clone(&host);
        self.network_io.observe(move |point| {
            if let Some(traffic) = source.traffic() {
                point(traffic.received, &Direction::In.attributes());
                point(traffic.sent, &Direction::Out.attributes());
            }
        });
        self.network_connections.observe(move |point| {
            if let Some(sockets) = host.connections() {
                point(signed(sockets.tcp), &Protocol::Tcp.attributes());
                point(signed(sockets.udp), &Protocol::Udp.attributes());
            }
        });
    }
}

crate::attribute_values! {
    /// Which way bytes went.
    pub enum Direction as "direction" {
        /// Received.
        In = "in",
        /// Sent.
        Out = "out",
    }
}

crate::attribute_values! {
    /// What kind of socket.
    pub enum Protocol as "protocol" {
        /// TCP.
        Tcp = "tcp",
        /// UDP.
        Udp = "udp",
    }
}

crate::attribute_values! {
    /// What is executed.
    pub enum Operation as "operation" {
        /// Code in a kernel.
        RunCode = "run_code",
        /// A command of its own.
        RunCommand = "run_command",
        /// A command in a persistent shell.
        RunInSession = "run_in_session",
        /// The shell of a terminal.
        Pty = "pty",
    }
}

/// What is executed, and whether it went well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExecutionLabels {
    /// What.
    pub operation: Operation,
    /// It returned 0, was not cut short, and had been started.
    pub success: bool,
}

impl ExecutionLabels {
    /// The value of the attribute `result`.
    #[must_use]
    pub const fn result(self) -> &'static str {
        if self.success { "success" } else { "failure" }
    }
}

impl Labels for ExecutionLabels {
    const COMBINATIONS: usize = Operation::COMBINATIONS * 2;

    fn index(self) -> usize {
        self.operation.index() * 2 + usize::from(self.success)
    }

    fn attributes(self) -> Vec<KeyValue> {
        vec![
            KeyValue::new("operation", self.operation.as_str()),
            KeyValue::new("result", self.result()),
        ]
    }
}
