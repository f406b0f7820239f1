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
const FILE_INTERVAL: Duration = Duration::from_secs(5);

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

/// Follows the file the upstreams come from, if they come from one. Looking at it now and then
/// works for every way it is replaced, in place or by a bind mount.
pub async fn watch_file(shared: Arc<Shared>) {
    let Some(path) = shared.upstreams.file().cloned() else {
        return;
    };
    let mut known = stamp(&path);
    loop {
        Timer::after(FILE_INTERVAL).await;
        let current = stamp(&path);
        if current.is_some() && current != known {
            known = current;
            shared.upstreams.reload();
        }
    }
}
