//! A sandbox, its egress, and the world outside.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use support::daemon::Builder;
use support::dns::{Reply, Upstream, ask, response_code, rtype};
use support::http::Response;
use support::netns::Namespace;
use support::tools::{Dug, curl, dig, require_programs};

/// Where the policy API listens unless told otherwise.
pub const API: &str = "127.0.0.1:18080";
/// Enough for whatever must happen.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A policy that allows `target` and nothing else.
pub fn allowing(target: &str) -> String {
    format!(r#"{{"egress":[{{"action":"allow","target":"{target}"}}],"defaultAction":"deny"}}"#)
}

/// A sandbox with a resolver on the other end of its cable.
pub struct Scene {
    pub sandbox: Namespace,
    pub outside: Namespace,
    /// Answers on the resolver's IPv4 address.
    pub upstream: Upstream,
    /// Where the always files are.
    pub rules: tempfile::TempDir,
}

impl Scene {
    /// `None` where it cannot be had, which was then said.
    pub fn new() -> Option<Self> {
        Self::without_upstream().map(|(sandbox, outside)| {
            let upstream = outside.enter(|| Upstream::start_at(resolver_v4()));
            Self {
                sandbox,
                outside,
                upstream,
                rules: tempfile::tempdir().unwrap(),
            }
        })
    }

    /// The two namespaces, without anything in them.
    pub fn without_upstream() -> Option<(Namespace, Namespace)> {
        let possible =
            support::require_root("namespaces") && require_programs(&["ip", "dig", "curl"]);
        possible.then(Namespace::pair)
    }

    /// Egress in the sandbox, asking the resolver, with `policy`.
    pub fn egress(&self, policy: &str) -> Builder<'_> {
        egress(&self.sandbox, self.rules.path(), policy)
            .env("OPENSANDBOX_EGRESS_DNS_UPSTREAM", resolver_v4())
    }

    /// What `dig` in the sandbox gets from the resolver it believes to ask.
    pub fn dig(&self, arguments: &[&str]) -> Dug {
        dig(&self.sandbox, resolver_v4(), arguments)
    }

    /// What `curl` in the sandbox gets from `/policy`.
    pub fn policy(&self, arguments: &[&str]) -> Response {
        let url = format!("http://{API}/policy");
        curl(&self.sandbox, &[arguments, &[&url]].concat())
    }

    /// The response code of a plain query of the workload; `None` when nothing answers.
    pub fn ask(&self, name: &str) -> Option<u8> {
        let answer = || ask(resolver_v4(), name, rtype::A, PATIENCE);
        self.sandbox.enter(answer).as_deref().map(response_code)
    }

    /// Lets every name resolve outside.
    pub fn resolve_everything(&self) {
        self.upstream
            .otherwise(Reply::addresses(60, &["198.51.100.7", "2001:db8:7::7"]));
    }
}

/// Egress in `sandbox` with `policy`, ready when it says so.
pub fn egress<'a>(sandbox: &'a Namespace, rules: &Path, policy: &str) -> Builder<'a> {
    support::opensandbox!("egress")
        .within(sandbox)
        .env("OPENSANDBOX_EGRESS_RULES_DIR", rules.display())
        .env("OPENSANDBOX_EGRESS_RULES", policy)
        .ready_when_http(API.parse().unwrap(), "/healthz")
}

pub fn resolver_v4() -> SocketAddr {
    SocketAddr::new(Namespace::cable_v4(2), 53)
}

pub fn resolver_v6() -> SocketAddr {
    SocketAddr::new(Namespace::cable_v6(2), 53)
}

/// A log record without its time, as it was written.
pub fn untimed(record: &Value) -> String {
    let mut record = record.clone();
    record.as_object_mut().unwrap().shift_remove("ts");
    record.to_string()
}
