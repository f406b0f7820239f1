//! Whether the upstreams work: one question to each, again and again, and an eye on the file they
//! come from.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_proto::rr::Name;
use smol::Timer;
use smol::future::FutureExt as _;

use super::Shared;
use super::exchange::{self, Protocol, Question};
use super::upstream::{Server, is_final};
use super::wire::{answer, rcode_text, reply, rtype};

/// The longest a probe waits for its answer.
const MAX_WAIT: Duration = Duration::from_secs(2);

/// How often the file the upstreams come from is looked at.
pub const FILE_INTERVAL: Duration = Duration::from_secs(5);

/// What a probe asks.
#[derive(Clone, Debug)]
pub struct Probe {
    name: Name,
    kind: u16,
    /// Time between two rounds.
    interval: Duration,
}

impl Probe {
    /// A probe that asks for the address of `name`, or for the name servers of the root if it is
    /// empty or `.`.
    ///
    /// # Errors
    ///
    /// It is no domain name.
    pub fn new(name: &str, interval: Duration) -> Result<Self, hickory_proto::ProtoError> {
        let root = matches!(name, "" | ".");
        let mut name = if root {
            Name::root()
        } else {
            Name::from_ascii(name)?
        };
        name.set_fqdn(true);
        Ok(Self {
            name,
            kind: if root { rtype::NS } else { rtype::A },
            interval,
        })
    }
}

/// Probes every upstream at once, then in intervals.
pub async fn watch_servers(shared: Arc<Shared>, probe: Probe) {
    loop {
        let set = shared.upstreams.set().clone();
        let probes: Vec<_> = set
            .servers()
            .iter()
            .map(|server| {
                let (shared, server, probe) = (shared.clone(), server.clone(), probe.clone());
                let spawner = shared.spawner.clone();
                spawner.spawn(async move {
                    let result = ask(&shared, &server, &probe).await;
                    shared.upstreams.probed(&server, result);
                })
            })
            .collect();
        for probe in probes {
            probe.await;
        }
        shared.upstreams.round_ended();
        Timer::after(probe.interval).await;
    }
}

async fn ask(shared: &Shared, server: &Server, probe: &Probe) -> Result<Duration, String> {
    let message = reply::ask(0, &probe.name, probe.kind);
    let end = message.len();
    let question = Question { message, end };
    let start = Instant::now();
    let limit = shared.timeout.min(MAX_WAIT);
    let asked = exchange::ask_one(shared, server, &question, Protocol::Udp).or(async {
        Timer::after(limit).await;
        Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time"))
    });
    let answer = asked.await.map_err(|cause| cause.to_string())?;
    match answer::rcode(&answer) {
        code if is_final(code) => Ok(start.elapsed()),
        code => Err(rcode_text(code).into_owned()),
    }
}

/// What tells one state of a file from another.
fn stamp(path: &Path) -> Option<(u64, u64, i64, i64)> {
    let metadata = fs::metadata(path).ok()?;
    Some((
        metadata.ino(),
        metadata.size(),
        metadata.mtime(),
        metadata.mtime_nsec(),
    ))
}

/// Follows the file the upstreams come from, if it is to be followed. Looking at it now and then
/// works for every way it is replaced, in place or by a bind mount.
pub async fn watch_file(shared: Arc<Shared>, interval: Duration) {
    let Some(path) = shared.upstreams.file().cloned() else {
        return;
    };
    // The first look reads the file again: it may have changed since the start.
    let mut known = None;
    loop {
        Timer::after(interval).await;
        let current = stamp(&path);
        if current.is_some() && current != known {
            known = current;
            shared.upstreams.reload();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Hooks;
    use super::super::upstream::{Source, Upstreams};
    use super::*;
    use crate::egress::events::Observer;
    use crate::egress::metrics::Metrics;
    use crate::egress::policy::{AlwaysRules, Effective, Live, Policy};
    use crate::runtime::Runtime;
    use crate::telemetry::instrument::Meter;
    use std::num::NonZeroUsize;

    #[test]
    fn a_changed_file_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("resolv.conf");
        fs::write(&path, "nameserver 192.0.2.1\n").unwrap();
        let runtime = Runtime::new(NonZeroUsize::MIN).unwrap();
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let observer = Arc::new(Observer::new(logger, Metrics::new(&Meter::noop())));
        let hooks = Hooks::none();
        let (told, changes) = smol::channel::unbounded();
        let tell =
            Arc::new(move |list: &[std::net::SocketAddr]| told.try_send(list.to_vec()).unwrap());
        let source = Source::Followed(path.clone());
        let upstreams = Upstreams::new(source, vec![], vec![], tell, observer.clone());
        let policy = Effective::compile(&AlwaysRules::default(), &Policy::default(), 1);
        let shared = Arc::new(Shared {
            live: Arc::new(Live::new(policy)),
            observer,
            upstreams,
            hooks,
            timeout: Duration::from_secs(1),
            max_in_flight: 1,
            spawner: runtime.spawner(),
        });
        let _watch = runtime.spawn(watch_file(shared, Duration::from_millis(1)));
        runtime.block_on(async {
            assert_eq!(changes.recv().await.unwrap().len(), 1);
            // In place, as container runtimes do.
            fs::write(&path, "nameserver 192.0.2.1\nnameserver 192.0.2.2\n").unwrap();
            assert_eq!(changes.recv().await.unwrap().len(), 2);
            // By another file in its place.
            let next = directory.path().join("next");
            fs::write(&next, "nameserver 192.0.2.3\n").unwrap();
            fs::rename(&next, &path).unwrap();
            let expected = "192.0.2.3:53".parse().unwrap();
            assert_eq!(changes.recv().await.unwrap(), [expected]);
        });
    }

    #[test]
    fn a_probe_asks_for_the_root_or_a_name() {
        let second = Duration::from_secs(1);
        for name in ["", "."] {
            let probe = Probe::new(name, second).unwrap();
            assert_eq!(
                (probe.name.to_ascii(), probe.kind),
                (".".to_owned(), rtype::NS)
            );
        }
        let probe = Probe::new("intranet.corp", second).unwrap();
        assert_eq!(probe.name.to_ascii(), "intranet.corp.");
        assert_eq!(probe.kind, rtype::A);
        assert!(Probe::new("a..b", second).is_err());
    }
}
