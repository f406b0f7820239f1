//! Requests that became tunnels.
//!
//! Owns when a tunnel ends besides by itself: when its sandbox is gone, when the process drains,
//! when it is silent or open for longer than it may. WebSocket peers are told so with code 1001
//! where that can be read, in the middle of a frame the connection just ends.

use std::sync::Arc;
use std::time::Duration;

use ::http::StatusCode;
use hyper::upgrade::OnUpgrade;
use smol::Timer;
use smol::future::FutureExt;

use super::ledger::{Ending, Ledger};
use super::{Shared, usage};
use crate::http::forward::Upgrade;
use crate::http::server::Exchange;
use crate::http::tunnel::{self, End, Options, Traffic};
use crate::ingress::events::{TunnelClosed, TunnelOpened};
use crate::ingress::metrics::UpstreamError;
use crate::ingress::provider::Sandbox;

/// How often it is looked whether bytes pass, for the counters and the use of the sandbox.
const LOOK: Duration = usage::REPORT_INTERVAL;

/// A request whose sandbox has agreed to change the protocol.
pub(super) struct Tunnel {
    pub shared: Arc<Shared>,
    pub ledger: Arc<Ledger>,
    /// The place of the client's connection, held until the tunnel is over.
    pub exchange: Exchange,
    pub sandbox: Arc<Sandbox>,
}

impl Tunnel {
    /// Carries bytes until the end, and tells of it.
    pub(super) async fn run(self, client: OnUpgrade, backend: OnUpgrade) {
        let traffic = Traffic::default();
        let failure = match smol::future::try_zip(client, backend).await {
            Ok((client, backend)) => {
                let upgrade = self.ledger.upgrade();
                let options = Options {
                    websocket: upgrade.is_some_and(Upgrade::is_websocket),
                    idle: self.shared.settings.tunnel_idle,
                };
                TunnelOpened.emit(&self.shared.events);
                let carrying = tunnel::run(client, backend, options, &traffic, self.asked());
                let end = carrying.or(self.look(&traffic)).await;
                TunnelClosed.emit(&self.shared.events);
                failure_of(end)
            }
            Err(error) => Some((UpstreamError::ClientClosed, error.to_string())),
        };
        let status = match self.ledger.upgrade() {
            Some(upgrade) if upgrade.extended => StatusCode::OK,
            _ => StatusCode::SWITCHING_PROTOCOLS,
        };
        let ending = Ending {
            status: Some(status),
            elapsed: self.ledger.age(),
            received: traffic.to_backend(),
            sent: traffic.to_client(),
            failure,
        };
        self.ledger.close(&self.shared, &ending);
        drop(self.exchange);
    }

    /// Completes when the tunnel is to end.
    async fn asked(&self) {
        let lifetime = async {
            match self.shared.settings.tunnel_lifetime {
                Some(lifetime) => drop(Timer::after(lifetime).await),
                None => std::future::pending().await,
            }
        };
        let draining = self.shared.shutdown.wait();
        draining.or(self.sandbox.retired.wait()).or(lifetime).await;
    }

    /// Counts what passes and says that the sandbox is in use, as long as something does.
    async fn look(&self, traffic: &Traffic) -> End {
        let (mut received, mut sent) = (0, 0);
        loop {
            Timer::after(LOOK).await;
            let now = (traffic.to_backend(), traffic.to_client());
            if now == (received, sent) {
                continue;
            }
            self.ledger
                .moved(&self.shared, now.0 - received, now.1 - sent);
            (received, sent) = now;
            if let Some(usage) = &self.shared.usage {
                self.ledger
                    .with_route(|sandbox, port| usage.used(sandbox, port, None));
            }
        }
    }
}

fn failure_of(end: End) -> Option<(UpstreamError, String)> {
    match end {
        End::Finished | End::Asked | End::Idle => None,
        End::Client(error) => Some((UpstreamError::ClientClosed, error.to_string())),
        End::Backend(error) => Some((UpstreamError::Reset, error.to_string())),
    }
}
