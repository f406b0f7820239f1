//! The settings of egress and their typed form (contract `egress-dns-policy`, sections 2 and 3).
//!
//! Owns every name, default and parse rule. Reads nothing itself: the values come resolved from
//! [`config`](crate::config). A value that decides what is enforced must parse or the start is
//! refused; a number of lesser weight falls back to its default with a warning.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::config::{Error, Kind, Setting, Values, Warning};

/// Every setting of egress besides those of telemetry.
pub const SETTINGS: &[Setting] = &[
    Setting {
        flag: "mode",
        variable: "OPENSANDBOX_EGRESS_MODE",
        default: "dns",
        kind: Kind::Text,
        help: "How the policy is enforced. `dns`: DNS answers decide, and port 53 is redirected to the filter",
    },
    Setting {
        flag: "rules",
        variable: "OPENSANDBOX_EGRESS_RULES",
        default: "",
        kind: Kind::Text,
        help: "Initial policy as JSON; without one everything is denied",
    },
    Setting {
        flag: "policy-file",
        variable: "OPENSANDBOX_EGRESS_POLICY_FILE",
        default: "",
        kind: Kind::Text,
        help: "File the policy is loaded from, in preference to the rules, and saved to after each change over the API",
    },
    Setting {
        flag: "rules-dir",
        variable: "OPENSANDBOX_EGRESS_RULES_DIR",
        default: "/var/egress/rules",
        kind: Kind::Text,
        help: "Directory of deny.always, allow.always and log_skip.always",
    },
    Setting {
        flag: "max-rules",
        variable: "OPENSANDBOX_EGRESS_MAX_RULES",
        default: "4096",
        kind: Kind::Text,
        help: "Most rules a policy set over the API may have; 0 lifts the limit",
    },
    Setting {
        flag: "http-addr",
        variable: "OPENSANDBOX_EGRESS_HTTP_ADDR",
        default: ":18080",
        kind: Kind::Text,
        help: "Listen address of the policy API; an empty host means every interface, both families",
    },
    Setting {
        flag: "token",
        variable: "OPENSANDBOX_EGRESS_TOKEN",
        default: "",
        kind: Kind::Secret,
        help: "Token clients of the policy API must send as OPENSANDBOX-EGRESS-AUTH; empty leaves the API open",
    },
    Setting {
        flag: "token-file",
        variable: "OPENSANDBOX_EGRESS_TOKEN_FILE",
        default: "",
        kind: Kind::Text,
        help: "File that holds the token, one final newline dropped; the token given directly wins",
    },
    Setting {
        flag: "dns-port",
        variable: "OPENSANDBOX_EGRESS_DNS_PORT",
        default: "15353",
        kind: Kind::Text,
        help: "Loopback port of the DNS filter, on 127.0.0.1 and ::1, UDP and TCP",
    },
    Setting {
        flag: "dns-upstream",
        variable: "OPENSANDBOX_EGRESS_DNS_UPSTREAM",
        default: "",
        kind: Kind::Text,
        help: "Upstream resolvers, comma list of literal addresses with optional port; unset: the nameservers of /etc/resolv.conf",
    },
    Setting {
        flag: "dns-upstream-timeout",
        variable: "OPENSANDBOX_EGRESS_DNS_UPSTREAM_TIMEOUT",
        default: "5",
        kind: Kind::Text,
        help: "Seconds a query may wait for an upstream, 1 to 120",
    },
    Setting {
        flag: "dns-upstream-probe",
        variable: "OPENSANDBOX_EGRESS_DNS_UPSTREAM_PROBE",
        default: ".",
        kind: Kind::Text,
        help: "Name the health probe asks for: the root asks for NS, any other name for A",
    },
    Setting {
        flag: "dns-upstream-probe-interval",
        variable: "OPENSANDBOX_EGRESS_DNS_UPSTREAM_PROBE_INTERVAL_SEC",
        default: "30",
        kind: Kind::Text,
        help: "Seconds between health probes, 1 to 3600",
    },
    Setting {
        flag: "nameserver-exempt",
        variable: "OPENSANDBOX_EGRESS_NAMESERVER_EXEMPT",
        default: "",
        kind: Kind::Text,
        help: "Resolver addresses the workload may ask directly, past the policy; comma list of literal addresses",
    },
    Setting {
        flag: "deny-webhook",
        variable: "OPENSANDBOX_EGRESS_DENY_WEBHOOK",
        default: "",
        kind: Kind::Text,
        help: "URL that is told of each denied query",
    },
    Setting {
        flag: "allow-unenforced",
        variable: "OPENSANDBOX_EGRESS_ALLOW_UNENFORCED",
        default: "false",
        kind: Kind::Switch,
        help: "Start without CAP_NET_ADMIN: names are filtered only for clients that ask the filter by themselves",
    },
    Setting {
        flag: "teardown-on-exit",
        variable: "OPENSANDBOX_EGRESS_TEARDOWN_ON_EXIT",
        default: "false",
        kind: Kind::Switch,
        help: "Remove the kernel's redirect at a graceful stop; by default it stays, and DNS stays closed",
    },
    Setting {
        flag: "log-rules-max",
        variable: "OPENSANDBOX_EGRESS_LOG_RULES_MAX",
        default: "256",
        kind: Kind::Text,
        help: "Most rules a log record lists; a longer list is logged as its digest and count",
    },
];

/// What egress was told to do.
#[derive(Clone, Debug)]
pub struct Config {
    /// Policy JSON from the environment; empty when not given.
    pub rules: String,
    /// Where the policy is loaded from and saved to.
    pub policy_file: Option<PathBuf>,
    /// Directory of the always files.
    pub rules_dir: PathBuf,
    /// Most rules of a policy set over the API; `None` is no limit.
    pub max_rules: Option<usize>,
    /// Listen address of the policy API, in Go's form.
    pub http_address: String,
    /// API token; `None` leaves the API open.
    pub token: Option<String>,
    /// Loopback addresses of the DNS filter.
    pub dns_listen: Vec<SocketAddr>,
    /// Upstream resolvers; `None` means `/etc/resolv.conf`.
    pub upstreams: Option<Vec<SocketAddr>>,
    /// How long a query may wait for upstreams.
    pub upstream_timeout: Duration,
    /// Name the health probe asks for; empty is the root.
    pub probe_name: String,
    /// Time between health probes.
    pub probe_interval: Duration,
    /// Resolvers the workload may ask directly.
    pub exempt: Vec<IpAddr>,
    /// URL told of denials.
    pub deny_webhook: Option<String>,
    /// Start although the kernel cannot be made to redirect.
    pub allow_unenforced: bool,
    /// Remove the redirect at a graceful stop.
    pub teardown_on_exit: bool,
    /// Most rules a log record lists.
    pub log_rules_max: usize,
}
