//! Surroundings for egress: a network where it may redirect DNS, an upstream, and clients.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::process::{Command, Output};

use crate::daemon::Builder;
use crate::dns::Upstream;
use crate::http::{Response, request};
use crate::netns::{Namespace, permitted};

/// Where egress runs in a test. As root that is a network namespace with the redirect in force;
/// otherwise loopback ports, with the filter asked directly.
pub struct Place {
    namespace: Option<Namespace>,
    upstream: Upstream,
    dns: SocketAddr,
    api: SocketAddr,
}

impl Place {
    /// A place with an upstream that answers what it is told to.
    #[must_use]
    pub fn new() -> Self {
        let namespace = permitted().is_ok().then(Namespace::new);
        let (dns, api, upstream) = match &namespace {
            Some(namespace) => (15_353, 18_080, namespace.enter(Upstream::start)),
            None => (crate::free_port(), crate::free_port(), Upstream::start()),
        };
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Self {
            namespace,
            upstream,
            dns: local(dns),
            api: local(api),
        }
    }

    /// The only resolver egress knows.
    #[must_use]
    pub fn upstream(&self) -> &Upstream {
        &self.upstream
    }

    /// Where the DNS filter listens.
    #[must_use]
    pub fn dns(&self) -> SocketAddr {
        self.dns
    }

    /// Where the policy API listens.
    #[must_use]
    pub fn api(&self) -> SocketAddr {
        self.api
    }

    /// Runs `work` where egress runs: its sockets, threads and processes belong there too.
    pub fn enter<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        match &self.namespace {
            Some(namespace) => namespace.enter(work),
            None => work(),
        }
    }

    /// Prepares `egress` to run here with the policy `rules`; it is ready when its API answers.
    #[must_use]
    pub fn prepare<'a>(&'a self, egress: Builder<'a>, rules: &str) -> Builder<'a> {
        let egress = egress
            .env("OPENSANDBOX_EGRESS_RULES", rules)
            .env("OPENSANDBOX_EGRESS_RULES_DIR", "/nonexistent")
            .env("OPENSANDBOX_EGRESS_DNS_UPSTREAM", self.upstream.address())
            .env("OPENSANDBOX_EGRESS_DNS_PORT", self.dns.port())
            .env("OPENSANDBOX_EGRESS_HTTP_ADDR", self.api)
            .ready_when_http(self.api, "/healthz");
        match &self.namespace {
            Some(namespace) => egress.within(namespace),
            None => egress
                .env("OPENSANDBOX_EGRESS_ALLOW_UNENFORCED", true)
                .env("OPENSANDBOX_EGRESS_TEARDOWN_ON_EXIT", true),
        }
    }

    /// Runs a program here and waits for it.
    ///
    /// # Panics
    ///
    /// When it cannot be started.
    #[must_use]
    pub fn run(&self, program: &str, arguments: &[&str]) -> Output {
        self.enter(|| Command::new(program).args(arguments).output())
            .unwrap_or_else(|error| panic!("run {program}: {error}"))
    }

    /// What `dig` prints about one query to the filter, for example `["+tcp", "a.test", "AAAA"]`.
    ///
    /// # Panics
    ///
    /// When there is no `dig`.
    #[must_use]
    pub fn dig(&self, query: &[&str]) -> String {
        let (server, port) = (format!("@{}", self.dns.ip()), self.dns.port().to_string());
        let mut arguments = vec![&*server, "-p", &*port, "+tries=1", "+timeout=5"];
        arguments.extend(query);
        String::from_utf8_lossy(&self.run("dig", &arguments).stdout).into_owned()
    }

    /// Sends the filter one datagram that deserves no answer.
    ///
    /// # Panics
    ///
    /// When no socket can be had.
    pub fn send(&self, datagram: &[u8]) {
        let sent = self.enter(|| {
            let socket = UdpSocket::bind((IpAddr::from(Ipv4Addr::LOCALHOST), 0))?;
            socket.send_to(datagram, self.dns)
        });
        assert_eq!(sent.expect("send a datagram"), datagram.len());
    }

    /// One request to the policy API.
    ///
    /// # Panics
    ///
    /// When there is no answer.
    #[must_use]
    pub fn ask_api(&self, method: &str, path: &str, body: &str) -> Response {
        let headers = [("content-type", "application/json")];
        self.enter(|| request(self.api, method, path, &headers, body))
            .unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }
}

impl Default for Place {
    fn default() -> Self {
        Self::new()
    }
}
