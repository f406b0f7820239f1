//! What egress measures (telemetry contract, section 6; OSEP-0010, section 1.2).
//!
//! A host name or an address is never an attribute: those belong to the log records of
//! [`events`](super::events).

use opentelemetry::KeyValue;

use crate::telemetry::instrument::{
    Counter, Gauge, HTTP_SECONDS, Histogram, Labels, ObservableCounter, ObservableGauge,
    ObservableRatio, SUB_MILLISECOND_SECONDS, UpDownCounter,
};
use crate::telemetry::semconv::{HttpRequest, ServerRequestDuration};
use crate::telemetry::series::{KeyedCounter, KeyedHistogram};

crate::instruments! {
    /// The instruments of egress.
    pub struct Metrics in "opensandbox/egress" {
        /// DNS forward latency after the policy allowed the query, successful or not.
        query_duration: Histogram = "egress.dns.query.duration", "s", boundaries SUB_MILLISECOND_SECONDS;
        /// DNS queries denied by policy.
        denied: Counter = "egress.policy.denied_total", "{query}";
        /// Size of the static policy after its last successful apply to the kernel; 0 before that
        /// and in mode `dns`.
        nftables_rules: ObservableGauge = "egress.nftables.rules.count", "{element}";
        /// Successful static applies and learned-address additions.
        nftables_updates: Counter = "egress.nftables.updates.count", "{update}";
        /// Memory in use on the host.
        host_memory: ObservableGauge = "egress.system.memory.usage_bytes", "By";
        /// Busy share of the host's processors since the previous collection, 0 to 1.
        host_cpu: ObservableRatio = "egress.system.cpu.utilization", "1";
        /// DNS queries by what became of them.
        queries: Counter<QueryLabels> = "egress.dns.queries.count", "{query}",
            attributes ["decision", "transport", "outcome"];
        /// Upstream resolvers that answered their last health probe.
        upstreams_healthy: Gauge = "egress.dns.upstream.healthy", "{upstream}";
        /// Queries waiting for an upstream answer.
        in_flight: UpDownCounter = "egress.dns.inflight", "{query}";
        /// DNS messages that got no answer, or whose answer was discarded.
        dropped: Counter<DropReason> = "egress.dns.dropped.count", "{message}", attributes ["reason"];
        /// Time to apply a change to the kernel's packet filter.
        nftables_apply_duration: Histogram<NftablesOperation> = "egress.nftables.apply.duration", "s",
            attributes ["operation"], boundaries SUB_MILLISECOND_SECONDS;
        /// Packets the kernel refused by policy, as its own counter tells.
        nftables_dropped: ObservableCounter = "egress.nftables.dropped.packets", "{packet}";
        /// Addresses learned from DNS answers that are open now.
        nftables_learned: ObservableGauge = "egress.nftables.learned.elements", "{element}";
        /// Requests to the policy API.
        http_requests: KeyedCounter<HttpRequest> = "egress.http.request.count", "{request}",
            attributes ["http.method", "http.route", "http.status_code"];
        /// Time to answer a request to the policy API.
        http_duration: KeyedHistogram<HttpRequest> = "egress.http.request.duration", "s",
            attributes ["http.method", "http.route", "http.status_code"], boundaries HTTP_SECONDS;
        /// Time to answer a request, under the stable semantic conventions; only with
        /// OTEL_SEMCONV_STABILITY_OPT_IN.
        server_duration: ServerRequestDuration = "http.server.request.duration", "s",
            attributes ["http.request.method", "http.response.status_code", "http.route", "url.scheme", "error.type"],
            boundaries HTTP_SECONDS;
    }
}

crate::attribute_values! {
    /// What the policy said.
    pub enum Decision as "decision" {
        /// Forwarded.
        Allow = "allow",
        /// Refused by policy.
        Deny = "deny",
    }
}

crate::attribute_values! {
    /// How the client asked.
    pub enum Transport as "transport" {
        /// One datagram.
        Udp = "udp",
        /// A length-prefixed message on a connection.
        Tcp = "tcp",
    }
}

crate::attribute_values! {
    /// What the client was told, or why it was told nothing.
    pub enum Outcome as "outcome" {
        /// An answer, possibly empty.
        NoError = "noerror",
        /// The name does not exist, or is denied.
        NxDomain = "nxdomain",
        /// The upstream, or the filter in its place, failed.
        ServFail = "servfail",
        /// Another response code.
        Other = "other",
        /// No upstream answered in time.
        Timeout = "timeout",
        /// No upstream could be asked.
        Error = "error",
    }
}

crate::attribute_values! {
    /// Why a DNS message got no answer, or an answer was discarded.
    pub enum DropReason as "reason" {
        /// Too short, a response, or otherwise not a query.
        NotAQuery = "not_a_query",
        /// The bound on queries in flight was reached.
        InFlightLimit = "inflight_limit",
        /// The bound on client connections was reached.
        ConnectionLimit = "connection_limit",
        /// An upstream answer matched no pending query.
        Unsolicited = "unsolicited",
        /// The answer could not be sent to the client.
        SendFailed = "send_failed",
    }
}

crate::attribute_values! {
    /// A kind of change to the kernel's packet filter.
    pub enum NftablesOperation as "operation" {
        /// The whole static policy.
        Apply = "apply",
        /// Learned addresses.
        Learn = "learn",
    }
}

/// The attributes of `egress.dns.queries.count`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueryLabels {
    /// What the policy said.
    pub decision: Decision,
    /// How the client asked.
    pub transport: Transport,
    /// What the client was told.
    pub outcome: Outcome,
}

impl Labels for QueryLabels {
    const COMBINATIONS: usize =
        Decision::COMBINATIONS * Transport::COMBINATIONS * Outcome::COMBINATIONS;

    fn index(self) -> usize {
        (self.decision.index() * Transport::COMBINATIONS + self.transport.index())
            * Outcome::COMBINATIONS
            + self.outcome.index()
    }

    fn attributes(self) -> Vec<KeyValue> {
        [
            self.decision.attributes(),
            self.transport.attributes(),
            self.outcome.attributes(),
        ]
        .concat()
    }
}
