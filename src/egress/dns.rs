//! The DNS filter: answers what the policy denies, forwards what it allows, and records both.
//!
//! Owns the listeners, the sockets towards upstreams and the wire format. Never decides: the
//! verdict is asked of the policy snapshot, when a query arrives and again when its answer does.

mod entropy;
mod exchange;
pub mod mmsg;
mod probe;
mod resolver;
mod socket;
mod tcp;
mod udp;
pub mod upstream;
pub mod wire;

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use slog::{Logger, info, warn};
use smol::channel::{Receiver, Sender};
use smol::future::FutureExt as _;
use smol::lock::Semaphore;
use smol::{Async, Task, Timer};

use self::probe::Probe;
use self::socket::Listener;
use self::upstream::{Server, Source, Upstreams};
use self::wire::rcode;
use super::events::Observer;
use super::metrics::Outcome;
use super::policy::Live;
use crate::lifecycle::Shutdown;
use crate::runtime::Spawner;

pub use self::resolver::Resolver;
pub use self::socket::SocketHook;
pub use self::upstream::UpstreamsHook;

/// Queries waiting for an upstream at the same time, over UDP; more are dropped, and counted.
pub const MAX_IN_FLIGHT: usize = 4096;

/// What the thread needs after its deadline to tell the clients that still wait.
const STOP_MARGIN: Duration = Duration::from_millis(50);

/// What the filter is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// Whom it asks.
    pub upstreams: Source,
    /// How long a query may wait for all upstreams together.
    pub timeout: Duration,
    /// Name the health probe asks for; empty or `.` is the root.
    pub probe_name: String,
    /// Time between health probes.
    pub probe_interval: Duration,
    /// Resolvers whose sockets go without the hook.
    pub exempt: Vec<IpAddr>,
    /// Queries waiting at the same time, normally [`MAX_IN_FLIGHT`].
    pub max_in_flight: usize,
}

/// How the kernel's redirect is kept apart from our own queries.
#[derive(Clone)]
pub struct Hooks {
    /// Applied to every socket towards an upstream before it is used, for example to mark it.
    /// Servers of the exempt list are spared.
    pub socket: SocketHook,
    /// Told of the addresses such sockets go to.
    pub upstreams: UpstreamsHook,
}

impl Hooks {
    /// Does nothing: for a filter without a redirect.
    #[must_use]
    pub fn none() -> Self {
        Self {
            socket: Arc::new(|_| Ok(())),
            upstreams: Arc::new(|_| {}),
        }
    }
}

/// Why the filter does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An address cannot be listened on.
    #[error(
        "cannot listen on {address} for dns: {cause}; stop what uses the port, or choose another with OPENSANDBOX_EGRESS_DNS_PORT"
    )]
    Listen {
        /// Which.
        address: SocketAddr,
        /// What the system said.
        cause: io::Error,
    },
    /// No listener is left.
    #[error("cannot listen for dns: the system has neither 127.0.0.1 nor ::1")]
    NoListener,
    /// The health probe cannot ask for this.
    #[error("OPENSANDBOX_EGRESS_DNS_UPSTREAM_PROBE: {name:?} is not a domain name: {cause}")]
    ProbeName {
        /// What was given.
        name: String,
        /// What is wrong with it.
        cause: hickory_proto::ProtoError,
    },
    /// A descriptor or a thread cannot be had.
    #[error("cannot start the dns filter: {0}")]
    System(#[from] io::Error),
}

/// What every path of the filter needs.
struct Shared {
    live: Arc<Live>,
    observer: Arc<Observer>,
    upstreams: Upstreams,
    hooks: Hooks,
    timeout: Duration,
    max_in_flight: usize,
    spawner: Spawner,
}

/// The filter at work.
pub struct Running {
    addresses: Vec<SocketAddr>,
    shared: Arc<Shared>,
    datagrams: Arc<udp::Stop>,
    connections: Shutdown,
    /// Closed when the thread and every connection have ended.
    ended: Receiver<()>,
    /// Cancelled with the filter: the probes and the watch of the file.
    _background: [Task<()>; 2],
}

/// The sockets of a filter that is not started yet; queries wait in them.
pub struct Listeners(Vec<Listener>);

impl Listeners {
    /// Listens on every address, UDP and TCP; says in `log` which address families are missing.
    ///
    /// # Errors
    ///
    /// An address is taken, or no address family is left.
    pub fn bind(addresses: &[SocketAddr], log: &Logger) -> Result<Self, Error> {
        let mut listeners = Vec::new();
        for &address in addresses {
            match Listener::bind(address) {
                Ok(listener) => listeners.push(listener),
                Err(cause) if lacks_family(&cause) => {
                    warn!(log, "[dns] not listening on {address}: {cause}");
                }
                Err(cause) => return Err(Error::Listen { address, cause }),
            }
        }
        if listeners.is_empty() {
            return Err(Error::NoListener);
        }
        Ok(Self(listeners))
    }
}

/// Starts the filter; when it returns, queries are answered.
///
/// # Errors
///
/// See [`Error`].
pub fn start(
    config: Config,
    listeners: Listeners,
    live: Arc<Live>,
    observer: Arc<Observer>,
    hooks: Hooks,
    spawner: &Spawner,
) -> Result<Running, Error> {
    let probe = Probe::new(&config.probe_name, config.probe_interval).map_err(|cause| {
        let name = config.probe_name.clone();
        Error::ProbeName { name, cause }
    })?;
    let addresses: Vec<_> = listeners
        .0
        .iter()
        .map(|listener| listener.udp.local_addr())
        .collect::<io::Result<_>>()?;
    let (datagrams, streams): (Vec<_>, Vec<_>) = listeners
        .0
        .into_iter()
        .map(|listener| (listener.udp, listener.tcp))
        .unzip();
    let upstreams = Upstreams::new(
        config.upstreams,
        config.exempt,
        addresses.clone(),
        Arc::clone(&hooks.upstreams),
        Arc::clone(&observer),
    );
    let shared = Arc::new(Shared {
        live,
        observer,
        upstreams,
        hooks,
        timeout: config.timeout,
        max_in_flight: config.max_in_flight,
        spawner: spawner.clone(),
    });
    let (alive, ended) = smol::channel::bounded(1);
    let stop = Arc::new(udp::Stop::new()?);
    let connections = Shutdown::new();
    start_thread(&shared, datagrams, &stop, alive.clone())?;
    let limit = Arc::new(Semaphore::new(tcp::MAX_CONNECTIONS));
    for stream in streams {
        let serve = tcp::serve(
            Arc::clone(&shared),
            Async::new(stream)?,
            Arc::clone(&limit),
            connections.clone(),
            alive.clone(),
        );
        spawner.spawn(serve).detach();
    }
    for address in &addresses {
        info!(shared.observer.logger(), "dns proxy started on {address}");
    }
    let background = [
        spawner.spawn(probe::watch_servers(Arc::clone(&shared), probe)),
        spawner.spawn(probe::watch_file(Arc::clone(&shared), probe::FILE_INTERVAL)),
    ];
    Ok(Running {
        addresses,
        shared,
        datagrams: stop,
        connections,
        ended,
        _background: background,
    })
}

/// Whether the health probe can ask for this: a domain name, or nothing or `.` for the root.
#[must_use]
pub fn is_probe_name(name: &str) -> bool {
    Probe::new(name, Duration::MAX).is_ok()
}

fn start_thread(
    shared: &Arc<Shared>,
    listeners: Vec<UdpSocket>,
    stop: &Arc<udp::Stop>,
    alive: Sender<()>,
) -> io::Result<()> {
    let (shared, stop) = (Arc::clone(shared), Arc::clone(stop));
    std::thread::Builder::new()
        .name("dns".to_owned())
        .spawn(move || {
            udp::serve(&shared, &listeners, &stop);
            drop(alive);
        })?;
    Ok(())
}

/// Whether an error means that the system has no such address, as opposed to a taken one.
fn lacks_family(cause: &io::Error) -> bool {
    matches!(
        cause.raw_os_error(),
        Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)
    )
}

impl Running {
    /// Where the filter listens.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Looks up names through the same upstreams, without asking the policy.
    #[must_use]
    pub fn resolver(&self) -> Resolver {
        Resolver::new(Arc::clone(&self.shared))
    }

    /// Takes no more queries, answers those that wait for at most `within`, and ends.
    pub async fn stop(self, within: Duration) {
        self.datagrams.request(Instant::now() + within);
        self.connections.trigger();
        let ended = async {
            // Nothing is ever sent: the channel closes with the last sender.
            let _ = self.ended.recv().await;
        };
        let late = async {
            // The thread ends by itself at the deadline; connections that linger are let go.
            Timer::after(within + STOP_MARGIN).await;
        };
        ended.or(late).await;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.datagrams.request(Instant::now());
        self.connections.trigger();
    }
}

/// What a response code means to the client.
fn outcome(code: u16) -> Outcome {
    match code {
        rcode::NOERROR => Outcome::NoError,
        rcode::NXDOMAIN => Outcome::NxDomain,
        rcode::SERVFAIL => Outcome::ServFail,
        _ => Outcome::Other,
    }
}

/// How long to wait for `server` before another one of `servers` is asked as well: so that each
/// has its turn within `timeout`, and twice as long with each of the `rounds` that found all of
/// them silent.
fn patience(server: &Server, timeout: Duration, servers: usize, rounds: u32) -> Duration {
    let share = timeout / u32::try_from(servers + 1).unwrap_or(u32::MAX);
    server.patience().min(share) * 2_u32.saturating_pow(rounds.min(16))
}
