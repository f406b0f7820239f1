//! The reverse proxy in front of every sandbox: finds the pod a request is for, and passes it on.
//!
//! A request's way is short: its route is parsed (pure), the sandbox is looked up in memory
//! ([`provider`]), access is decided (pure), the exchange is streamed both ways, and one event
//! tells what happened.
//!
//! Owns the order of a start and of an end. Requests are served on threads of their own, one a
//! core; what keeps them supplied (the sandboxes, the keys, Redis) works on the process's executor.

pub mod access;
pub mod config;
pub mod events;
pub mod forwarded;
pub mod keys;
pub mod metrics;
pub mod provider;
pub mod proxy;
pub mod renew;
pub mod route;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use slog::{Logger, info, warn};
use smol::Timer;
use smol::future::FutureExt;

use crate::daemon::Daemon;
use crate::http::server::Server;
use crate::lifecycle::{DrainCut, Exit, Fatal, Shutdown};
use crate::runtime;

use config::{Config, Renew};
use events::Observer;
use keys::KeySource;
use metrics::Metrics;
use provider::Provider;
use proxy::Usage;
use renew::{Renewals, Worker};

/// Runs until the daemon is asked to end. `inherited` are sockets that listen already; without any,
/// the address in the settings is listened on.
///
/// The port opens when the sandboxes were read completely for the first time, so that no request is
/// told that a sandbox does not exist because nobody has looked yet.
///
/// # Errors
///
/// Something ingress cannot do without failed.
pub fn run(config: Config, inherited: &[TcpListener], daemon: &Daemon) -> Result<Exit, Fatal> {
    let logger = daemon.logger();
    let spawner = daemon.runtime.spawner();
    let metrics = Metrics::new(&daemon.telemetry.meter(Metrics::SCOPE));
    metrics.observe_host();
    let provider = provider::start(config.provider, &spawner, logger);
    metrics.observe_cache(&provider.status());
    let events = Arc::new(Observer::new(logger.clone(), metrics));
    if !wait_for_sandboxes(&provider, daemon) {
        info!(
            logger,
            "the end was asked for before the sandboxes were read"
        );
        return Ok(Exit::Success);
    }

    let cores = runtime::threads();
    let limits = config.proxy.limits();
    let servers = if inherited.is_empty() {
        Server::bind_each(std::slice::from_ref(&config.listen), &limits, cores)
            .map_err(Fatal::failed("error starting http server"))?
    } else {
        Server::adopt_each(inherited, &limits, cores)
            .map_err(Fatal::failed("cannot use the sockets handed over"))?
    };
    let listening = servers.first().map(Server::addresses).unwrap_or_default();
    let (usage, worker) = renewals(config.renew, &events, daemon);
    let closing = Shutdown::new();
    let shared = Arc::new(proxy::Shared {
        keys: ArcSwapOption::from(config.keys.keys().cloned().map(Arc::new)),
        directory: provider.directory(),
        events,
        usage,
        draining: daemon.shutdown.clone(),
        shutdown: closing.clone(),
        settings: config.proxy,
    });
    announce(logger, &listening, &shared, &provider);
    if let KeySource::File(file) = config.keys {
        let in_force = Arc::clone(&shared);
        let put = move |keys| in_force.keys.store(Some(Arc::new(keys)));
        let refresh = file.keep_fresh(put, spawner.clone(), logger.clone());
        spawner.spawn(refresh).detach();
    }
    let serving = proxy::start(servers, &shared).map_err(Fatal::failed("cannot start a thread"))?;

    let served = daemon.runtime.block_on(async {
        daemon.shutdown.wait().await;
        let force = spawner.spawn(force(daemon.shutdown.clone(), closing.clone()));
        // Whoever spreads requests over the replicas needs a moment to leave this one out. The
        // sandboxes are kept current meanwhile, and until the last request is over.
        let delay = async {
            Timer::after(config.drain_delay).await;
        };
        delay.or(daemon.shutdown.wait_forced()).await;
        closing.trigger();
        let served = serving.finished().await;
        if let Some(worker) = worker {
            worker.finish(daemon.shutdown.wait_forced()).await;
        }
        force.cancel().await;
        served
    });
    drop(provider);
    match served {
        Ok(()) => {
            info!(logger, "ingress shutdown complete");
            Ok(Exit::Success)
        }
        Err(cut) => {
            warn!(logger, "requests were cut off: {cut}");
            Ok(match cut {
                // Nobody who forces the end needs to be told that it was.
                DrainCut::Forced => Exit::Success,
                DrainCut::Deadline => Exit::Failure,
            })
        }
    }
}

/// Waits until the sandboxes were read; false if the end was asked for first.
fn wait_for_sandboxes(provider: &Provider, daemon: &Daemon) -> bool {
    let status = provider.status();
    if !status.is_synced() {
        let provider = status.provider();
        info!(daemon.logger(), "reading the sandboxes"; "provider" => provider);
    }
    daemon.runtime.block_on(async {
        let synced = async {
            status.synced().await;
            true
        };
        let ended = async {
            daemon.shutdown.wait().await;
            false
        };
        synced.or(ended).await
    })
}

/// Who is told which sandboxes are in use, and who tells Redis.
fn renewals(
    renew: Option<Renew>,
    events: &Arc<Observer>,
    daemon: &Daemon,
) -> (Option<Arc<dyn Usage>>, Option<Worker>) {
    let Some(Renew {
        settings,
        connector,
    }) = renew
    else {
        return (None, None);
    };
    let spawner = daemon.runtime.spawner();
    let (renewals, worker) = Renewals::start(settings, connector, Arc::clone(events), &spawner);
    (Some(Arc::new(renewals)), Some(worker))
}

fn announce(
    logger: &Logger,
    listening: &[SocketAddr],
    shared: &proxy::Shared,
    provider: &Provider,
) {
    let addresses: Vec<_> = listening.iter().map(ToString::to_string).collect();
    let names: String = match &*shared.keys.load() {
        Some(keys) => keys.names().collect(),
        None => String::new(),
    };
    info!(logger, "ingress listening";
        "address" => addresses.join(","),
        "mode" => shared.settings.mode.as_str(),
        "provider" => provider.status().provider(),
        "sandboxes" => provider.status().objects(),
        "key_ids" => names);
}

/// Passes on that what is under way is to be dropped.
async fn force(asked: Shutdown, closing: Shutdown) {
    asked.wait_forced().await;
    closing.force();
}
