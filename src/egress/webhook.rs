//! Tells an operator's endpoint of each denied query (contract `egress-dns-policy`, section 12).
//!
//! Owns the queue, the delivery with its retries, and the count of what was never told. Never
//! makes the DNS path wait: a full queue loses the denial, and the loss is counted and logged.
//!
//! Redirects are not followed. The address is the operator's word on who may learn what the
//! sandbox looks for, and a `POST` that turns into a `GET` elsewhere tells nobody anything; a 3xx
//! answer is a failure like a 4xx one. No proxy is taken from the environment. Names are resolved
//! by the connector the caller brings, which must ask the upstreams directly: through the filter
//! each delivery would be a query that may be denied, and so a denial to deliver.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, USER_AGENT};
use http::{HeaderValue, Method, Uri};
use serde::Serialize;
use slog::{Logger, info, warn};
use smol::Timer;
use smol::channel::{Receiver, Sender, TrySendError};
use smol::future::FutureExt as _;

use crate::http::client::{self, Client, Limits};
use crate::http::connect::Connector;
use crate::http::{Body, Request};
use crate::lifecycle::Shutdown;
use crate::runtime::Spawner;
use crate::telemetry::log::timestamp;

/// Denials that may wait to be told.
pub const QUEUE: usize = 256;

/// How often a denial is told, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    /// How long one attempt may take, connection included.
    pub attempt: Duration,
    /// The waits between attempts; there is one attempt more than waits.
    pub back_off: [Duration; 3],
}

impl Default for Schedule {
    fn default() -> Self {
        Self {
            attempt: Duration::from_secs(5),
            back_off: [1, 2, 4].map(Duration::from_secs),
        }
    }
}

/// The most bytes read of an answer, which nobody looks at.
const ANSWER_BYTES: u64 = 16 * 1024;

/// What an address would have to be to be told anything, and why it is not.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("an absolute http or https address without user and password, but {reason}")]
pub struct InvalidTarget {
    reason: &'static str,
}

/// Who is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target(Uri);

impl Target {
    /// Reads an address.
    ///
    /// # Errors
    ///
    /// It is not an absolute `http` or `https` address, or carries credentials, which would end
    /// up in logs and process lists.
    pub fn parse(text: &str) -> Result<Self, InvalidTarget> {
        let invalid = |reason| InvalidTarget { reason };
        let uri: Uri = text.trim().parse().map_err(|_| invalid("this is none"))?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) {
            return Err(invalid("the scheme is neither http nor https"));
        }
        let authority = uri.authority().ok_or_else(|| invalid("there is no host"))?;
        if authority.host().is_empty() {
            return Err(invalid("there is no host"));
        }
        if authority.as_str().contains('@') {
            return Err(invalid("there are credentials in it"));
        }
        Ok(Self(uri))
    }

    /// Whether it is reached over TLS.
    #[must_use]
    pub fn is_https(&self) -> bool {
        self.0.scheme_str() == Some("https")
    }

    /// The host, which unlike path and query holds no secret.
    fn host(&self) -> &str {
        self.0.host().unwrap_or_default()
    }
}

/// One denied query.
struct Denial {
    hostname: String,
    at: SystemTime,
}

/// The body of a delivery; the fields in the order clients have always seen.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Notice<'a> {
    hostname: &'a str,
    timestamp: String,
    source: &'a str,
    sandbox_id: &'a str,
}

/// What became of all denials so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Told.
    pub delivered: u64,
    /// Not told, because the queue was full.
    pub overflowed: u64,
    /// Not told, because every attempt failed.
    pub failed: u64,
    /// Waiting, or not told when the end came.
    pub pending: u64,
}

#[derive(Default)]
struct Counts {
    accepted: AtomicU64,
    delivered: AtomicU64,
    overflowed: AtomicU64,
    failed: AtomicU64,
    /// The queue overflowed, and that was logged; the next denial that fits ends it.
    overflowing: AtomicBool,
}

impl Counts {
    fn tally(&self) -> Tally {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let (delivered, failed) = (load(&self.delivered), load(&self.failed));
        Tally {
            delivered,
            overflowed: load(&self.overflowed),
            failed,
            pending: load(&self.accepted).saturating_sub(delivered + failed),
        }
    }
}

/// Accepts denials from the DNS path. Clones feed the same queue.
#[derive(Clone)]
pub struct Publisher {
    queue: Sender<Denial>,
    counts: Arc<Counts>,
    logger: Logger,
}

impl Publisher {
    /// Queues the denial of `hostname` (lower case, no trailing dot); the root is not told. Never
    /// waits.
    pub fn denied(&self, hostname: &str) {
        if hostname.is_empty() {
            return;
        }
        let denial = Denial {
            hostname: hostname.to_owned(),
            at: SystemTime::now(),
        };
        // Counted first, so that the worker never finishes more than was accepted.
        self.counts.accepted.fetch_add(1, Ordering::Relaxed);
        match self.queue.try_send(denial) {
            Ok(()) => {
                if self.counts.overflowing.swap(false, Ordering::Relaxed) {
                    info!(self.logger, "deny webhook queue has room again";
                        "lost" => self.counts.tally().overflowed);
                }
            }
            Err(TrySendError::Full(denial) | TrySendError::Closed(denial)) => {
                self.counts.accepted.fetch_sub(1, Ordering::Relaxed);
                self.counts.overflowed.fetch_add(1, Ordering::Relaxed);
                if !self.counts.overflowing.swap(true, Ordering::Relaxed) {
                    warn!(self.logger, "deny webhook queue full; dropping denials";
                        "target.host" => denial.hostname);
                }
            }
        }
    }
}

/// What a delivery says, to whom and when.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Who is told.
    pub target: Target,
    /// Goes into each body as it is.
    pub sandbox: String,
    /// When attempts are made.
    pub schedule: Schedule,
}

/// The running delivery.
pub struct Webhook {
    publisher: Publisher,
    closing: Shutdown,
    worker: smol::Task<()>,
}

impl Webhook {
    /// Starts to deliver over connections of `connector`.
    #[must_use]
    pub fn start(
        settings: Settings,
        connector: Connector,
        spawner: &Spawner,
        logger: Logger,
    ) -> Self {
        let (queue, denials) = smol::channel::bounded(QUEUE);
        let publisher = Publisher {
            queue,
            counts: Arc::default(),
            logger: logger.clone(),
        };
        let limits = Limits {
            time: settings.schedule.attempt,
            response_bytes: ANSWER_BYTES,
        };
        let closing = Shutdown::new();
        let worker = Worker {
            client: Client::new(spawner.clone(), connector, limits),
            settings,
            logger,
            closing: closing.clone(),
            counts: publisher.counts.clone(),
            failing: false,
        };
        Self {
            publisher,
            closing,
            worker: spawner.spawn(worker.run(denials)),
        }
    }

    /// The end that accepts denials.
    #[must_use]
    pub fn publisher(&self) -> Publisher {
        self.publisher.clone()
    }

    /// What became of the denials so far.
    #[must_use]
    pub fn tally(&self) -> Tally {
        self.publisher.counts.tally()
    }

    /// Accepts no more, tries once more to deliver what is queued, and gives up after `within`.
    /// What was not told since the start is counted in one line of the log.
    pub async fn finish(self, within: Duration) -> Tally {
        self.publisher.queue.close();
        self.closing.trigger();
        let worker = self.worker;
        let late = async {
            Timer::after(within).await;
        };
        worker.or(late).await;
        let tally = self.publisher.counts.tally();
        let lost = tally.overflowed + tally.failed + tally.pending;
        if lost > 0 {
            warn!(self.publisher.logger, "denials were not told to the deny webhook";
                "lost" => lost, "overflowed" => tally.overflowed, "failed" => tally.failed,
                "pending" => tally.pending);
        }
        tally
    }
}

/// How one attempt ended when it did not deliver.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// The endpoint does not want it, and will not want it later.
    #[error("non-retriable status {0}")]
    Refused(u16),
    /// The endpoint is in trouble.
    #[error("status {0}")]
    Status(u16),
    /// There was no answer.
    #[error(transparent)]
    Exchange(#[from] client::Error),
}

struct Worker {
    client: Client,
    settings: Settings,
    logger: Logger,
    closing: Shutdown,
    counts: Arc<Counts>,
    /// The last delivery failed, and that was logged; the next success ends it.
    failing: bool,
}

impl Worker {
    async fn run(mut self, denials: Receiver<Denial>) {
        while let Ok(denial) = denials.recv().await {
            match self.deliver(&denial).await {
                Ok(()) => {
                    self.counts.delivered.fetch_add(1, Ordering::Relaxed);
                    if std::mem::take(&mut self.failing) {
                        info!(self.logger, "deny webhook delivers again";
                            "webhook.host" => self.settings.target.host(),
                            "lost" => self.counts.tally().failed);
                    }
                }
                Err(failure) => {
                    self.counts.failed.fetch_add(1, Ordering::Relaxed);
                    // One line for a whole outage: a line for each denial would let the workload
                    // write the log.
                    if !std::mem::replace(&mut self.failing, true) {
                        warn!(self.logger, "deny webhook failed; denials are not told";
                            "webhook.host" => self.settings.target.host(),
                            "target.host" => &denial.hostname,
                            "error" => %failure);
                    }
                }
            }
        }
    }

    async fn deliver(&self, denial: &Denial) -> Result<(), Failure> {
        let notice = Notice {
            hostname: &denial.hostname,
            timestamp: timestamp::rfc3339_seconds(denial.at),
            source: "opensandbox-egress",
            sandbox_id: &self.settings.sandbox,
        };
        // A struct of strings always serialises.
        let body = Bytes::from(serde_json::to_vec(&notice).unwrap_or_default());
        let mut waits = self.settings.schedule.back_off.iter();
        loop {
            // Asked before the attempt: once the end has come each denial has one attempt left.
            let last = self.closing.is_triggered();
            let failure = match self.attempt(body.clone()).await {
                Ok(()) => return Ok(()),
                Err(failure @ Failure::Refused(_)) => return Err(failure),
                Err(failure) => failure,
            };
            let Some(wait) = waits.next().filter(|_| !last) else {
                return Err(failure);
            };
            let waited = async {
                Timer::after(*wait).await;
            };
            waited.or(self.closing.wait()).await;
        }
    }

    async fn attempt(&self, body: Bytes) -> Result<(), Failure> {
        let mut request = Request::new(Body::from(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.settings.target.0.clone();
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(USER_AGENT, HeaderValue::from_static("opensandbox-egress"));
        let response = self.client.send(request).await?;
        let status = response.status().as_u16();
        // Read for the connection's sake alone; the status has been given.
        let _unread = response.into_body().collect(ANSWER_BYTES as usize).await;
        match status {
            200..300 => Ok(()),
            300..500 => Err(Failure::Refused(status)),
            _ => Err(Failure::Status(status)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_has_its_fields_in_order() {
        let notice = Notice {
            hostname: "evil.test",
            timestamp: timestamp::rfc3339_seconds(
                SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_219_281_999),
            ),
            source: "opensandbox-egress",
            sandbox_id: " sb1",
        };
        assert_eq!(
            serde_json::to_string(&notice).expect("JSON"),
            r#"{"hostname":"evil.test","timestamp":"2026-11-21T00:01:21Z","source":"opensandbox-egress","sandboxId":" sb1"}"#
        );
    }

    #[test]
    fn targets_are_absolute_http_addresses_without_credentials() {
        for text in [
            "http://h",
            "https://h:8443/path?token=1",
            " http://[::1]:80/ ",
        ] {
            assert!(Target::parse(text).is_ok(), "{text}");
        }
        for text in ["", "h", "/path", "ftp://h/", "http://", "http://u:p@h/"] {
            assert!(Target::parse(text).is_err(), "{text}");
        }
    }
}
