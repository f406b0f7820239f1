//! The resolvers allowed queries are forwarded to: where they come from, in which order they are
//! asked, and how well they do.
//!
//! The configured order is kept among the servers that work: it is how an administrator says that
//! the first one knows names the others do not. Measured round trips only decide how soon the next
//! one is asked.

mod list;
mod plan;
pub mod resolv_conf;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use slog::{error, info, warn};

use super::super::events::Observer;
use super::wire::{rcode, rcode_text};
use resolv_conf::ResolvConf;

pub use list::{ListError, parse_list};
pub use plan::Plan;

/// Most resolvers that can be configured.
pub const MAX_UPSTREAMS: usize = 32;

/// The port of DNS.
pub const PORT: u16 = 53;

/// What is used when `/etc/resolv.conf` names no resolver.
pub const FALLBACK: SocketAddr =
    SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::new(8, 8, 8, 8)), PORT);

/// Unanswered queries in a row after which a server is asked last, until it answers again.
const DEMOTE_AFTER: u32 = 3;

/// How soon the next server is asked while one has not been measured yet.
const UNMEASURED_PATIENCE: Duration = Duration::from_millis(400);

/// The least and the most patience with a server that has been measured.
const PATIENCE: (Duration, Duration) = (Duration::from_millis(300), Duration::from_millis(800));

/// How often one server's failures are logged at most.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(10);

/// Told of every address that may be asked, each time the list changes and before the first query
/// goes to a new one.
pub type UpstreamsHook = Arc<dyn Fn(&[SocketAddr]) + Send + Sync>;

/// Where the list of resolvers comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A list given by configuration, see [`parse_list`].
    List(Vec<SocketAddr>),
    /// A file in the format of `resolv.conf(5)`, as it is at the start.
    File(PathBuf),
    /// Such a file, followed as it changes. Whoever writes it decides whom the filter asks.
    Followed(PathBuf),
}

/// One resolver and what is known about it.
#[derive(Debug)]
pub struct Server {
    /// Where it is.
    pub address: SocketAddr,
    /// Whether its sockets go without the mark, because the workload may reach it anyway.
    pub exempt: bool,
    /// Smoothed round trip, microseconds; 0 until measured.
    round_trip: AtomicU32,
    /// Unanswered queries in a row.
    unanswered: AtomicU32,
    /// Whether the last probe failed.
    probe_failed: AtomicBool,
    since: Instant,
    /// When a failure was last logged, milliseconds after `since`; 0 for never.
    complained: AtomicU64,
}

impl Server {
    /// A server nothing is known about.
    #[must_use]
    pub fn new(address: SocketAddr, exempt: bool) -> Self {
        Self {
            address,
            exempt,
            round_trip: AtomicU32::new(0),
            unanswered: AtomicU32::new(0),
            probe_failed: AtomicBool::new(false),
            since: Instant::now(),
            complained: AtomicU64::new(0),
        }
    }

    /// Records an answer, whatever it said.
    pub fn answered(&self, after: Duration) {
        let sample = u32::try_from(after.as_micros()).unwrap_or(u32::MAX).max(1);
        let smoothed = match self.round_trip.load(Ordering::Relaxed) {
            0 => sample,
            // The weight RFC 6298 section 2 gives a new sample.
            known => known - known / 8 + sample / 8,
        };
        self.round_trip.store(smoothed.max(1), Ordering::Relaxed);
        if self.unanswered.load(Ordering::Relaxed) != 0 {
            self.unanswered.store(0, Ordering::Relaxed);
        }
        if self.probe_failed.load(Ordering::Relaxed) {
            self.probe_failed.store(false, Ordering::Relaxed);
        }
    }

    /// Records a sign of life that cannot be measured, such as an answer that came too late.
    pub fn alive(&self) {
        self.unanswered.store(0, Ordering::Relaxed);
    }

    /// Records that an answer did not come in time, or that the server could not be reached.
    pub fn silent(&self) {
        let _ = self
            .unanswered
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| {
                (count < DEMOTE_AFTER).then_some(count + 1)
            });
    }

    /// Whether it is asked in its configured place, not last.
    #[must_use]
    pub fn is_trusted(&self) -> bool {
        !self.probe_failed.load(Ordering::Relaxed)
            && self.unanswered.load(Ordering::Relaxed) < DEMOTE_AFTER
    }

    /// How long to wait for it before another server is asked as well.
    #[must_use]
    pub fn patience(&self) -> Duration {
        match self.round_trip.load(Ordering::Relaxed) {
            0 => UNMEASURED_PATIENCE,
            known => Duration::from_micros(u64::from(known) * 4).clamp(PATIENCE.0, PATIENCE.1),
        }
    }

    /// Whether a failure may be logged now.
    fn may_complain(&self) -> bool {
        let now = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX) + 1;
        let interval = COMPLAINT_INTERVAL.as_millis();
        self.complained
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| {
                (last == 0 || u128::from(now - last.min(now)) >= interval).then_some(now)
            })
            .is_ok()
    }
}

/// The resolvers of one moment, in configured order, each once.
#[derive(Debug, Default)]
pub struct Set(Vec<Arc<Server>>);

impl Set {
    /// In configured order.
    #[must_use]
    pub fn servers(&self) -> &[Arc<Server>] {
        &self.0
    }

    /// The server at `position` of the configured order.
    #[must_use]
    pub fn get(&self, position: usize) -> Option<&Arc<Server>> {
        self.0.get(position)
    }
}

/// Whether an answer ends a query; any other code leads on to the next server.
#[must_use]
pub fn is_final(code: u16) -> bool {
    code == rcode::NOERROR || code == rcode::NXDOMAIN
}

/// The resolvers in use.
pub struct Upstreams {
    set: ArcSwap<Set>,
    source: Source,
    exempt: Vec<IpAddr>,
    /// Addresses no query may be sent to: our own.
    own: Vec<SocketAddr>,
    resolv: ArcSwap<ResolvConf>,
    /// Whether the last round of probes found no server at all.
    all_failed: AtomicBool,
    hook: UpstreamsHook,
    observer: Arc<Observer>,
}

impl Upstreams {
    /// Reads the list for the first time. Servers in `exempt` go without the mark; a server that
    /// is one of our `own` listeners would answer itself and is left out.
    #[must_use]
    pub fn new(
        source: Source,
        exempt: Vec<IpAddr>,
        own: Vec<SocketAddr>,
        hook: UpstreamsHook,
        observer: Arc<Observer>,
    ) -> Self {
        let upstreams = Self {
            set: ArcSwap::default(),
            source,
            exempt,
            own,
            resolv: ArcSwap::default(),
            all_failed: AtomicBool::new(false),
            hook,
            observer,
        };
        match &upstreams.source {
            Source::List(list) => upstreams.replace(list.clone()),
            Source::File(_) | Source::Followed(_) => upstreams.reload(),
        }
        upstreams
    }

    /// The resolvers as of now.
    #[must_use]
    pub fn set(&self) -> arc_swap::Guard<Arc<Set>> {
        self.set.load()
    }

    /// The search list and its options, for names of our own that are not complete.
    #[must_use]
    pub fn resolv_conf(&self) -> arc_swap::Guard<Arc<ResolvConf>> {
        self.resolv.load()
    }

    /// The file that is followed, if there is one.
    #[must_use]
    pub fn file(&self) -> Option<&PathBuf> {
        match &self.source {
            Source::List(_) | Source::File(_) => None,
            Source::Followed(path) => Some(path),
        }
    }

    /// Reads the file again. A file that cannot be read leaves the servers in use as they are; at
    /// the start it leads to the fallback.
    pub fn reload(&self) {
        let (Source::File(path) | Source::Followed(path)) = &self.source else {
            return;
        };
        match std::fs::read_to_string(path) {
            Ok(text) => {
                let read = ResolvConf::parse(&text);
                let servers = read.upstreams();
                self.resolv.store(Arc::new(read));
                self.replace(if servers.is_empty() {
                    vec![FALLBACK]
                } else {
                    servers
                });
            }
            Err(cause) if self.set.load().servers().is_empty() => {
                warn!(
                    self.observer.logger(),
                    "[dns] fallback upstream resolver due to error: {}: {cause}",
                    path.display()
                );
                self.replace(vec![FALLBACK]);
            }
            Err(cause) => warn!(
                self.observer.logger(),
                "[dns] upstream resolvers stay as they are: {}: {cause}",
                path.display()
            ),
        }
    }

    /// Puts a new list in place; servers that stay keep what is known about them.
    fn replace(&self, addresses: Vec<SocketAddr>) {
        let old = self.set.load_full();
        let mut servers: Vec<Arc<Server>> = Vec::new();
        for address in addresses {
            if servers.iter().any(|known| known.address == address) {
                continue;
            }
            if self.own.contains(&address) {
                warn!(
                    self.observer.logger(),
                    "[dns] upstream {address} is this filter itself; left out"
                );
                continue;
            }
            if servers.len() == MAX_UPSTREAMS {
                break;
            }
            let kept = old.0.iter().find(|known| known.address == address);
            servers.push(kept.cloned().unwrap_or_else(|| self.introduce(address)));
        }
        let addresses: Vec<_> = servers.iter().map(|server| server.address).collect();
        if old.0.iter().map(|server| &server.address).ne(&addresses) {
            let list: Vec<_> = addresses.iter().map(ToString::to_string).collect();
            info!(
                self.observer.logger(),
                "[dns] upstream resolvers: {}",
                list.join(", ")
            );
            (self.hook)(&addresses);
            self.set.store(Arc::new(Set(servers)));
            self.report_health();
        }
    }

    fn introduce(&self, address: SocketAddr) -> Arc<Server> {
        let exempt = self.exempt.contains(&address.ip());
        if exempt {
            info!(
                self.observer.logger(),
                "[dns] upstream {} in nameserver exempt list, not setting SO_MARK",
                address.ip()
            );
        }
        Arc::new(Server::new(address, exempt))
    }

    fn report_health(&self) {
        let set = self.set.load();
        let healthy = set.0.iter().filter(|server| server.is_trusted()).count();
        let healthy = i64::try_from(healthy).unwrap_or(i64::MAX);
        self.observer.metrics.upstreams_healthy.record(healthy);
    }

    /// Records what a probe of `server` found.
    pub fn probed(&self, server: &Server, result: Result<Duration, String>) {
        match result {
            Ok(after) => {
                if server.probe_failed.swap(false, Ordering::Relaxed) {
                    info!(
                        self.observer.logger(),
                        "[dns] upstream probe {} succeeded again", server.address
                    );
                }
                server.answered(after);
            }
            Err(cause) => {
                if !server.probe_failed.swap(true, Ordering::Relaxed) {
                    error!(
                        self.observer.logger(),
                        "[dns] upstream probe {} failed: {cause}", server.address
                    );
                }
            }
        }
    }

    /// Ends a round of probes.
    pub fn round_ended(&self) {
        let set = self.set.load();
        let all = !set.0.is_empty()
            && set
                .0
                .iter()
                .all(|server| server.probe_failed.load(Ordering::Relaxed));
        if all && !self.all_failed.swap(true, Ordering::Relaxed) {
            warn!(
                self.observer.logger(),
                "[dns] all upstream probes failed; using full upstream list for forwarding"
            );
        } else if !all {
            self.all_failed.store(false, Ordering::Relaxed);
        }
        self.report_health();
    }

    /// Logs that asking `server` failed, not too often.
    pub fn complain(&self, server: &Server, cause: &str) {
        if server.may_complain() {
            warn!(
                self.observer.logger(),
                "[dns] upstream {} exchange error: {cause}", server.address
            );
        }
    }

    /// Logs that `server` gave an answer that ends nothing, not too often.
    pub fn complain_about_code(&self, server: &Server, code: u16) {
        if server.may_complain() {
            warn!(
                self.observer.logger(),
                "[dns] upstream {}: {}; trying next",
                server.address,
                rcode_text(code)
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::egress::metrics::Metrics;
    use crate::telemetry::instrument::Meter;

    fn observer() -> Arc<Observer> {
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        Arc::new(Observer::new(logger, Metrics::new(&Meter::noop())))
    }

    fn addresses(upstreams: &Upstreams) -> Vec<String> {
        upstreams
            .set()
            .servers()
            .iter()
            .map(|server| server.address.to_string())
            .collect()
    }

    #[test]
    fn a_file_is_followed_and_servers_keep_what_is_known() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("resolv.conf");
        let (told, changes) = std::sync::mpsc::channel();
        let hook: UpstreamsHook = Arc::new(move |list| told.send(list.len()).unwrap());
        let upstreams =
            Upstreams::new(Source::File(path.clone()), vec![], vec![], hook, observer());
        assert_eq!(addresses(&upstreams), ["8.8.8.8:53"]);

        std::fs::write(&path, "nameserver 192.0.2.1\nnameserver 192.0.2.2\n").unwrap();
        upstreams.reload();
        assert_eq!(addresses(&upstreams), ["192.0.2.1:53", "192.0.2.2:53"]);
        let second = upstreams.set().get(1).unwrap().clone();
        second.answered(Duration::from_millis(150));
        assert_eq!(second.patience(), Duration::from_millis(600));

        std::fs::write(&path, "nameserver 192.0.2.2\n").unwrap();
        upstreams.reload();
        assert_eq!(addresses(&upstreams), ["192.0.2.2:53"]);
        assert!(Arc::ptr_eq(upstreams.set().get(0).unwrap(), &second));

        assert_eq!(changes.try_iter().collect::<Vec<_>>(), [1, 2, 1]);
        std::fs::remove_file(&path).unwrap();
        upstreams.reload();
        assert_eq!(addresses(&upstreams), ["192.0.2.2:53"]);
    }

    #[test]
    fn our_own_listener_is_no_upstream() {
        let own: SocketAddr = "127.0.0.1:15353".parse().unwrap();
        let list = vec![own, "192.0.2.1:53".parse().unwrap()];
        let exempt = vec!["192.0.2.1".parse().unwrap()];
        let upstreams = Upstreams::new(
            Source::List(list),
            exempt,
            vec![own],
            Arc::new(|_| {}),
            observer(),
        );
        assert_eq!(addresses(&upstreams), ["192.0.2.1:53"]);
        assert!(upstreams.set().get(0).unwrap().exempt);
    }

    #[test]
    fn a_silent_server_is_demoted_until_it_answers() {
        let server = Server::new(FALLBACK, false);
        for _ in 0..DEMOTE_AFTER {
            assert!(server.is_trusted());
            server.silent();
        }
        assert!(!server.is_trusted());
        server.answered(Duration::from_millis(1));
        assert!(server.is_trusted());
        assert_eq!(server.patience(), PATIENCE.0);
    }

    #[test]
    fn failures_are_not_logged_too_often() {
        let server = Server::new(FALLBACK, false);
        assert!(server.may_complain());
        assert!(!server.may_complain());
    }
}
