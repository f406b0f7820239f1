//! The daemon inside a sandbox: runs commands, persistent shells and terminals for the clients of
//! its API.
//!
//! All modules but [`api`] know nothing of HTTP: they take values and give values, futures and
//! streams. Whoever serves them builds one [`Engine`] and the registries on it.

pub mod api;
pub mod clone3;
pub mod command;
pub mod config;
pub mod environment;
pub mod events;
pub mod frames;
pub mod lines;
pub mod metrics;
pub mod paths;
mod processes;
pub mod pty;
mod pump;
pub mod readings;
pub mod reaper;
pub mod ring;
pub mod sanitise;
pub mod session;
pub mod spawn;
mod terminate;
pub mod text;

use std::ffi::{OsStr, OsString};
use std::hash::{BuildHasher, Hasher};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use slog::{Logger, info, warn};
use smol::Timer;
use smol::future::{self, FutureExt};

use crate::daemon::Daemon;
use crate::host::Host;
use crate::http::auth::Token;
use crate::http::listen::Listen;
use crate::http::server::{Limits, Server};
use crate::lifecycle::{Exit, Fatal};
use crate::runtime::Spawner;
use api::{Account, Api};
use config::Config;
use environment::Environment;
use events::Observer;
use metrics::Metrics;
use spawn::{Children, Credentials};

/// How long what runs may take to end once it is told to, beyond its grace period, and the streams
/// that tell of it to be sent.
const END_TIME: Duration = Duration::from_secs(5);

/// The longest a client may leave a stream unread while there is something to read; then it counts
/// as gone. A person at a debugger may take a while.
const STREAM_STALL: Duration = Duration::from_secs(300);

/// The address of the API, which is listened on before anything else is done.
///
/// # Errors
///
/// It is taken, or not this machine's.
fn listen(config: &Config) -> Result<Server, Fatal> {
    let Config { host, port, .. } = config;
    let address = Listen::from(SocketAddr::from((*host, *port)));
    let limits = Limits {
        // Handlers bound the bodies they read; what is streamed has no bound.
        body_bytes: u64::MAX,
        body_time: None,
        write_stall: STREAM_STALL,
        drain_time: config.drain + END_TIME,
        ..Limits::default()
    };
    Server::bind(&[address], limits).map_err(|refused| {
        let cause = match refused.cause.raw_os_error() {
            Some(libc::EADDRINUSE) => "address already in use".to_owned(),
            Some(libc::EACCES) => "permission denied".to_owned(),
            Some(libc::EADDRNOTAVAIL) => "cannot assign requested address".to_owned(),
            _ => refused.cause.to_string(),
        };
        Fatal::failed(format!("failed to listen on :{port}"))(format!(
            "listen tcp4 :{port}: bind: {cause}"
        ))
    })
}

/// Serves until the daemon is asked to end. `variables` are the process's own.
///
/// # Errors
///
/// The address cannot be had.
pub fn run(
    config: Config,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
    daemon: &Daemon,
) -> Result<Exit, Fatal> {
    let logger = daemon.logger();
    let server = listen(&config)?;
    let port = server
        .addresses()
        .first()
        .map_or(config.port, SocketAddr::port);
    if config.clone3 {
        warn!(
            logger,
            "execd running with clone3 compatibility (seccomp returns ENOSYS for clone3)"
        );
    }
    let metrics = Metrics::new(&daemon.telemetry.meter(Metrics::SCOPE));
    metrics.observe(Host::new());
    let environment = Environment::for_children(variables);
    let temporary = environment.get("TMPDIR").filter(|path| !path.is_empty());
    let engine = Engine {
        spawner: daemon.runtime.spawner(),
        children: Children::new(),
        observer: Arc::new(Observer::new(logger.clone(), metrics)),
        temporary: Arc::new(temporary.map_or_else(|| "/tmp".into(), PathBuf::from)),
        environment: Arc::new(environment),
    };
    keep_orphans(&engine, logger);
    let settings = api::Settings {
        token: Token::new(
            api::TOKEN_HEADER,
            config.token.as_deref().unwrap_or_default(),
        ),
        envs_file: config.envs_file.clone(),
        metrics_scope: config.metrics_scope,
        port,
    };
    if !settings.token.is_required() {
        info!(
            logger,
            "no access token is set: whoever reaches the API may use it"
        );
    }
    let api = Api::new(settings, engine.clone(), daemon.shutdown.clone());
    let terminals = api.terminals().clone();
    let collect = async move { terminals.collect_idle(pty::IDLE).await };
    engine.spawner.spawn(collect).detach();
    info!(logger, "execd listening on :{port} (IPv4)");
    let ended = daemon
        .runtime
        .block_on(serve(server, &api, &config, daemon));
    if let Err(cut) = ended {
        warn!(logger, "execd: {cut}");
    }
    info!(logger, "execd shutdown complete");
    Ok(Exit::Success)
}

/// Serves, and sees to the end: first requests finish by themselves, then what they run is ended,
/// and every stream tells so.
async fn serve(
    server: Server,
    api: &Api,
    config: &Config,
    daemon: &Daemon,
) -> Result<(), crate::lifecycle::DrainCut> {
    let shutdown = &daemon.shutdown;
    let spawner = daemon.runtime.spawner();
    let account = Account(Arc::clone(&api.engine().observer));
    let serving = server.serve(spawner, api.clone(), account, shutdown.clone());
    let (drained, serving_ended) = smol::channel::bounded::<()>(1);
    let serving = async {
        let served = serving.await;
        drained.close();
        served
    };
    let ending = async {
        shutdown.wait().await;
        let in_time = async {
            // Nothing is ever sent.
            let _ = serving_ended.recv().await;
        };
        let late = async {
            Timer::after(config.drain).await;
        };
        in_time.or(late).or(shutdown.wait_forced()).await;
        let end = async {
            if config.end_children {
                let commands = api.commands().interrupt_all();
                let sessions = api.sessions().delete_all();
                let terminals = api.terminals().delete_all();
                future::zip(future::zip(commands, sessions), terminals).await;
            }
            api.upgraded_ended().await;
        };
        shutdown.drain(END_TIME, end).await
    };
    let (served, ended) = future::zip(serving, ending).await;
    served.and(ended)
}

/// Takes over the orphans of what is run, as the first process of a sandbox must and any other may.
fn keep_orphans(engine: &Engine, logger: &Logger) {
    if !reaper::is_first_process()
        && let Err(error) = reaper::inherit_orphans()
    {
        warn!(logger, "cannot become the reaper of orphans: {error}");
        return;
    }
    let (children, logger) = (engine.children.clone(), logger.clone());
    let reap = async move {
        if let Err(error) = reaper::run(children).await {
            warn!(logger, "cannot reap orphans: {error}");
        }
    };
    engine.spawner.spawn(reap).detach();
}

/// What everything that runs processes shares. Clones share their state.
#[derive(Clone)]
pub struct Engine {
    /// Where tasks run.
    pub spawner: Spawner,
    /// The processes of this one.
    pub children: Children,
    /// Where events go.
    pub observer: Arc<Observer>,
    /// The daemon's own variables that children see; the lowest layer of every environment.
    pub environment: Arc<Environment>,
    /// Where output that is kept goes when it is too long for memory.
    pub temporary: Arc<PathBuf>,
}

impl Engine {
    /// The environment of a command, on which that of the request goes: the daemon's, then the
    /// account's of the user it runs as, then that of the `EXECD_ENVS` file.
    #[must_use]
    pub fn layered(
        &self,
        credentials: Option<&Credentials>,
        file: environment::File,
    ) -> Environment {
        let account = credentials
            .and_then(|credentials| credentials.account.as_ref())
            .into_iter()
            .flat_map(|account| {
                [
                    ("HOME", account.home.as_str()),
                    ("USER", account.name.as_str()),
                    ("LOGNAME", account.name.as_str()),
                ]
            });
        self.environment.with(account).with(file.variables)
    }

    /// The daemon's own home directory, which `~` stands for.
    #[must_use]
    pub fn home(&self) -> Option<&OsStr> {
        self.environment.get("HOME")
    }
}

/// A random id: 32 lower-case hexadecimal digits, a version 4 UUID without its dashes.
pub(crate) fn random_id() -> String {
    use std::fmt::Write;
    let mut id = String::with_capacity(32);
    for byte in random_uuid() {
        // Writing to a string does not fail.
        let _ = write!(id, "{byte:02x}");
    }
    id
}

/// The same with its dashes.
pub(crate) fn random_dashed_id() -> String {
    let id = random_id();
    [&id[..8], &id[8..12], &id[12..16], &id[16..20], &id[20..]].join("-")
}

fn random_uuid() -> [u8; 16] {
    let mut bytes = [0; 16];
    if getrandom::fill(&mut bytes).is_err() {
        // Ids are told apart, never kept secret: the hasher's keys differ at every call.
        for half in bytes.chunks_mut(8) {
            let hasher = std::collections::hash_map::RandomState::new().build_hasher();
            half.copy_from_slice(&hasher.finish().to_le_bytes());
        }
    }
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_version_4_uuids() {
        let id = random_id();
        assert_eq!(id.len(), 32);
        assert!(
            id.bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        );
        assert_eq!(id.as_bytes()[12], b'4');
        assert!(b"89ab".contains(&id.as_bytes()[16]));
        assert_ne!(id, random_id());
        let dashed = random_dashed_id();
        let lengths: Vec<_> = dashed.split('-').map(str::len).collect();
        assert_eq!(lengths, [8, 4, 4, 4, 12]);
    }
}
