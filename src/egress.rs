//! The egress sidecar: decides by name what a sandbox may reach, and records it.
//!
//! Owns the DNS filter, the policy and its HTTP API, and the kernel redirect that makes the filter
//! unavoidable. Never terminates or inspects the workload's own connections.

mod account;
pub mod always;
pub mod api;
pub mod config;
pub mod dns;
pub mod events;
pub mod metrics;
pub mod netfilter;
pub mod policy;
#[cfg(test)]
mod recorder;
mod resolver;
pub mod store;
pub mod webhook;
pub mod writer;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use slog::{Logger, error, info, warn};

use crate::daemon::Daemon;
use crate::host::Host;
use crate::http::auth::Token;
use crate::http::connect::Connector;
use crate::http::server::{Limits, Server};
use crate::http::tls::{Tls, Verify};
use crate::lifecycle::{Exit, Fatal};

use account::Account;
use always::AlwaysFiles;
use api::{Api, Health, HealthGate, RequestIds};
use config::Config;
use dns::Listeners;
use events::Observer;
use metrics::Metrics;
use netfilter::{Mark, Redirect};
use store::Store;
use webhook::Webhook;
use writer::{Enforcer, NamesOnly, Unenforced, Writer};

pub use resolver::UpstreamResolver;

/// How long queries that wait for an upstream may still be answered after the end was asked for.
const DNS_DRAIN: Duration = Duration::from_secs(2);

/// How long the last denials may take to reach the webhook after the end was asked for.
const WEBHOOK_DRAIN: Duration = Duration::from_secs(2);

/// How connections of our own are made: names are asked of the upstreams directly, so that neither
/// the policy nor the redirect applies to them. Without TLS, whose trust store takes a tenth of
/// the memory of an idle process: who connects to an `https` target adds it.
#[must_use]
pub fn connector(resolver: &UpstreamResolver) -> Connector {
    Connector::new(resolver.clone())
}

/// The redirect, which the DNS filter tells of its upstreams; none where it is not enforced.
type SharedRedirect = Arc<Mutex<Option<Redirect>>>;

/// Runs until the daemon is asked to end.
///
/// The kernel redirects DNS to the filter before anything is read or served, so that a start that
/// fails or takes long leaves DNS closed, never open. Only the filter's port is taken before that:
/// where another egress has it, the redirect is that one's. The API is the last to listen: an answer of
/// `/healthz` means that the policy is in force.
///
/// # Errors
///
/// Something egress cannot do without failed; enforcement stays as it was at that moment.
pub fn run(config: Config, resolver: &UpstreamResolver, daemon: &Daemon) -> Result<Exit, Fatal> {
    let logger = daemon.logger();
    info!(logger, "enforcement mode: dns");
    let mark = Mark::random().map_err(Fatal::failed("cannot draw a packet mark"))?;
    let kernel = netfilter::Settings {
        port: config.dns_port,
        mark,
        user: rustix::process::geteuid().as_raw(),
        exempt: config.exempt.clone(),
        upstreams: Vec::new(),
    };
    let listeners = Listeners::bind(&dns_addresses(config.dns_port), logger).map_err(|cause| {
        if let Err(cause) = Redirect::close_if_open(&kernel) {
            error!(logger, "dns redirect: {cause}");
        }
        Fatal::failed("failed to start dns proxy")(cause)
    })?;
    let (redirect, health) = install_redirect(&kernel, config.allow_unenforced, logger)?;
    let redirect: SharedRedirect = Arc::new(Mutex::new(redirect));
    let hooks = dns_hooks(mark, &redirect, logger);
    let served = serve(&config, resolver, daemon, listeners, hooks, health);
    // Only an end that was asked for may open DNS.
    let teardown = config.teardown_on_exit && served.is_ok();
    end_redirect(lock(&redirect).take(), teardown, logger);
    served?;
    info!(logger, "egress shutdown complete");
    Ok(Exit::Success)
}

/// Filters and answers until the daemon is asked to end.
fn serve(
    config: &Config,
    resolver: &UpstreamResolver,
    daemon: &Daemon,
    listeners: Listeners,
    hooks: dns::Hooks,
    health: Health,
) -> Result<(), Fatal> {
    let logger = daemon.logger();
    let spawner = daemon.runtime.spawner();

    let webhook = config.deny_webhook.clone().map(|target| {
        info!(logger, "denied hostname webhook enabled");
        let settings = webhook::Settings {
            target,
            sandbox: config.webhook_sandbox_id.clone(),
            schedule: webhook::Schedule::default(),
        };
        webhook_connector(&settings.target, resolver)
            .map(|connector| Webhook::start(settings, connector, &spawner, logger.clone()))
    });
    let webhook = webhook.transpose()?;

    let meter = daemon.telemetry.meter(Metrics::SCOPE);
    let metrics = Metrics::new(&meter);
    observe_host(&metrics);
    observe_absent_packet_filter(&metrics);
    let observer = Observer::new(logger.clone(), metrics).listing_up_to(config.log_rules_max);
    let observer = Arc::new(match &webhook {
        Some(webhook) => observer.telling(webhook.publisher()),
        None => observer,
    });

    let policy = store::initial(config.policy_file.as_deref(), &config.rules, logger)
        .map_err(Fatal::failed("failed to load initial egress policy"))?;
    let always = AlwaysFiles::open(
        &config.rules_dir,
        config.rules_interval,
        Instant::now(),
        logger,
    )
    .map_err(Fatal::failed("failed to read the rules of the operator"))?;
    observer.log_skip.store(always.log_skip());
    let enforcer: Box<dyn Enforcer> = match &health {
        Health::Degraded(_) => Box::new(Unenforced),
        Health::Ready | Health::NotReady(_) => Box::new(NamesOnly),
    };
    let writer = Writer::start(
        policy,
        always.rules(),
        enforcer,
        Vec::new(),
        Store::open(config.policy_file.clone()),
        Arc::clone(&observer),
    )
    .map_err(Fatal::failed("cannot enforce the initial policy"))?;
    let writer = Arc::new(writer);

    let filter = dns::start(
        dns_config(config),
        listeners,
        writer.live(),
        Arc::clone(&observer),
        hooks,
        &spawner,
    )
    .map_err(Fatal::failed("failed to start dns proxy"))?;
    resolver.ask(filter.resolver());

    let limits = Limits {
        connections: api::MAX_CONNECTIONS,
        header_bytes: api::MAX_HEAD,
        // The API bounds bodies itself: a change it refuses is recorded.
        body_bytes: u64::MAX,
        ..Limits::default()
    };
    let server =
        Server::bind(std::slice::from_ref(&config.http_address), limits).map_err(|refused| {
            Fatal::failed("failed to start policy server")(format!(
                "{refused}; choose another address or port with OPENSANDBOX_EGRESS_HTTP_ADDR"
            ))
        })?;
    let ids = getrandom::u64().map_err(Fatal::failed("cannot draw request ids"))?;
    let settings = api::Settings {
        token: Token::new(
            api::TOKEN_HEADER,
            config.token.as_deref().unwrap_or_default(),
        ),
        max_rules: config.max_rules,
        request_ids: RequestIds::new(ids),
    };
    let api = Api::new(
        settings,
        Arc::clone(&writer),
        Arc::clone(&observer),
        Arc::new(HealthGate::new(health)),
        spawner.clone(),
    );
    info!(
        logger,
        "policy server listening on {} (POST /policy)", config.http_address
    );
    let refresh = always.keep_fresh(
        writer,
        Arc::clone(&observer),
        spawner.clone(),
        daemon.shutdown.clone(),
    );
    spawner.spawn(refresh).detach();

    let served = daemon.runtime.block_on(async {
        let account = Account(Arc::clone(&observer));
        let served = server.serve(spawner.clone(), api, account, daemon.shutdown.clone());
        let served = served.await;
        let filter = daemon.shutdown.drain(DNS_DRAIN * 2, filter.stop(DNS_DRAIN));
        if let Err(cut) = filter.await {
            warn!(logger, "dns proxy: {cut}");
        }
        if let Some(webhook) = webhook {
            webhook.finish(WEBHOOK_DRAIN).await;
        }
        served
    });
    if let Err(cut) = served {
        warn!(logger, "policy server: {cut}");
    }
    observer.conclude();
    Ok(())
}

fn webhook_connector(
    target: &webhook::Target,
    resolver: &UpstreamResolver,
) -> Result<Connector, Fatal> {
    let connector = connector(resolver);
    if !target.is_https() {
        return Ok(connector);
    }
    let tls = Tls::new(Verify::Public, None, &[]).map_err(Fatal::failed("cannot set up TLS"))?;
    Ok(connector.tls(tls))
}

/// Puts the redirect in, or says what the health is without it.
fn install_redirect(
    settings: &netfilter::Settings,
    allow_unenforced: bool,
    logger: &Logger,
) -> Result<(Option<Redirect>, Health), Fatal> {
    match Redirect::install(settings) {
        Ok(redirect) => {
            info!(
                logger,
                "dns redirect installed: port 53 of both address families leads to port {}",
                settings.port
            );
            if !redirect.has_zones() {
                info!(
                    logger,
                    "dns redirect: this kernel has no zones of connection tracking; now and then a query takes one more turn through the filter"
                );
            }
            Ok((Some(redirect), Health::Ready))
        }
        Err(cause) if cause.is_unavailable() && allow_unenforced => {
            error!(
                logger,
                "NOT ENFORCED: names are filtered only for clients that ask the filter by themselves: {cause}"
            );
            let missing = "dns is not redirected: OPENSANDBOX_EGRESS_ALLOW_UNENFORCED=true";
            Ok((None, Health::Degraded(missing.to_owned())))
        }
        Err(cause) if cause.is_unavailable() => Err(Fatal::failed(
            "failed to install the dns redirect",
        )(format!(
            "{cause}; or set OPENSANDBOX_EGRESS_ALLOW_UNENFORCED=true, which filters DNS only for clients that ask the filter by themselves"
        ))),
        Err(cause) => Err(Fatal::failed("failed to install the dns redirect")(cause)),
    }
}

/// Leaves the kernel as the operator wants it after the end.
fn end_redirect(redirect: Option<Redirect>, teardown: bool, logger: &Logger) {
    let Some(redirect) = redirect else { return };
    let ended = if teardown {
        redirect.remove()
    } else {
        redirect.seal()
    };
    match ended {
        Ok(()) if teardown => info!(logger, "dns redirect removed; DNS is open and unfiltered"),
        Ok(()) => info!(
            logger,
            "dns redirect stays; DNS is closed until a successor starts"
        ),
        Err(cause) => error!(logger, "dns redirect: {cause}"),
    }
}

/// How the filter reaches its upstreams: past the redirect where there is one, and only after the
/// kernel was told whom that exempts.
fn dns_hooks(mark: Mark, redirect: &SharedRedirect, logger: &Logger) -> dns::Hooks {
    let enforced = lock(redirect).is_some();
    let (redirect, logger) = (Arc::clone(redirect), logger.clone());
    dns::Hooks {
        socket: Arc::new(
            move |socket: BorrowedFd<'_>| {
                if enforced { mark.apply(socket) } else { Ok(()) }
            },
        ),
        upstreams: Arc::new(move |upstreams: &[SocketAddr]| {
            if let Some(redirect) = lock(&redirect).as_mut()
                && let Err(cause) = redirect.set_upstreams(upstreams)
            {
                error!(
                    logger,
                    "dns redirect: cannot exempt the upstream resolvers: {cause}"
                );
            }
        }),
    }
}

fn lock(redirect: &SharedRedirect) -> MutexGuard<'_, Option<Redirect>> {
    // A change of the table is one transaction, so a panic elsewhere leaves it whole.
    redirect.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where the filter listens.
fn dns_addresses(port: u16) -> [SocketAddr; 2] {
    [
        SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        SocketAddr::from((Ipv6Addr::LOCALHOST, port)),
    ]
}

fn dns_config(config: &Config) -> dns::Config {
    dns::Config {
        upstreams: config.upstreams.clone(),
        timeout: config.upstream_timeout,
        probe_name: config.probe_name.clone(),
        probe_interval: config.probe_interval,
        exempt: config.exempt.clone(),
        max_in_flight: dns::MAX_IN_FLIGHT,
    }
}

/// The readings of the host that the proposal asks egress for.
fn observe_host(metrics: &Metrics) {
    let host = Arc::new(Host::new());
    let source = Arc::clone(&host);
    metrics.host_memory.observe(move |point| {
        if let Some(memory) = source.memory() {
            point(i64::try_from(memory.used()).unwrap_or(i64::MAX), &[]);
        }
    });
    metrics.host_cpu.observe(move |point| {
        if let Some(busy) = host.cpu_busy() {
            point(busy, &[]);
        }
    });
}

/// Mode `dns` has no packet filter: its instruments exist and read zero.
fn observe_absent_packet_filter(metrics: &Metrics) {
    metrics.nftables_updates.add(0);
    metrics.nftables_rules.observe(|point| point(0, &[]));
    metrics.nftables_learned.observe(|point| point(0, &[]));
    metrics.nftables_dropped.observe(|point| point(0, &[]));
}
