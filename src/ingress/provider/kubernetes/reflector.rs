//! Keeps the index what the cluster is: one listing, then a watch, and again from where it ended.
//!
//! Owns what to do about every way a listing or a watch can end, and what the log says about it:
//! each change once. What was known is served on, whatever happens here.

use std::sync::Arc;
use std::time::{Duration, Instant};

use slog::{Logger, debug, info, warn};
use smol::Timer;
use smol::future::FutureExt as _;

use super::Times;
use super::api::{Api, AtLeast, Event, Failure};
use super::backoff::{Backoff, chance};
use crate::ingress::provider::index::{MAX_OBJECTS, Writer};
use crate::ingress::provider::read_object;
use crate::ingress::provider::resource::Resource;
use crate::ingress::provider::status::CacheStatus;

/// A watch that ends sooner than this without an event is a failure, or it would be repeated in a
/// tight loop.
const SHORT: Duration = Duration::from_secs(1);

/// The longest wait a server can ask for.
const LONGEST_ASKED: Duration = Duration::from_secs(60);

/// The one who changes the index.
pub(super) struct Reflector {
    api: Api,
    times: Times,
    writer: Writer,
    status: Arc<CacheStatus>,
    log: Logger,
    backoff: Backoff,
    /// What kind of trouble was told, and since when there is some.
    trouble: Option<(String, Instant)>,
    /// Whether it was said that objects are left out.
    left_out: bool,
}

/// Why a watch is over.
enum Over {
    /// It can go on from the last version.
    Resume,
    /// Everything has to be listed again.
    Relist,
}

impl Reflector {
    pub(super) fn new(
        api: Api,
        times: Times,
        writer: Writer,
        status: Arc<CacheStatus>,
        log: Logger,
    ) -> Self {
        Self {
            api,
            times,
            writer,
            status,
            log,
            backoff: Backoff::new(times.first_wait, times.longest_wait),
            trouble: None,
            left_out: false,
        }
    }

    /// Never ends.
    pub(super) async fn run(mut self) {
        let mut from = AtLeast::Any;
        loop {
            match self.list(&from).await {
                Ok(version) => from = self.follow(version).await,
                Err(failure) => {
                    if matches!(failure.code(), Some(410 | 504)) {
                        // The state asked for is too old, or newer than this server has.
                        from = AtLeast::Newest;
                    }
                    self.failed(failure).await;
                }
            }
        }
    }

    /// Reads every object, and returns from where to watch.
    async fn list(&mut self, from: &AtLeast) -> Result<String, Failure> {
        self.api.discover().await?;
        self.writer.begin_listing();
        let resource = *self.api.resource();
        let (mut continued, mut unreadable, mut full) = (String::new(), 0_usize, false);
        let version = loop {
            let writer = &mut self.writer;
            let visit = |item: &[u8]| match read_object(&resource, item) {
                Ok(object) => full |= writer.put(&object).is_err(),
                Err(_) => unreadable += 1,
            };
            let page = self.api.page(from, &continued, visit).await?;
            if page.r#continue.is_empty() {
                break page.resource_version;
            }
            continued = page.r#continue;
        };
        self.writer.finish_listing();
        self.status.listed();
        self.recovered();
        let objects = self.status.objects();
        debug!(self.log, "listed the sandboxes"; "objects" => objects, "version" => &version);
        self.leave_out(unreadable > 0 || full, unreadable);
        Ok(version)
    }

    /// Watches, again and again, until everything has to be listed anew.
    async fn follow(&mut self, mut version: String) -> AtLeast {
        loop {
            let outcome = match self.watch(&mut version).await {
                // Not even a bookmark. So it is when nothing changed since our version, and also
                // when the cluster was restored from an older state: then nothing comes, for ever.
                Ok(0) => self.api.reaches(&version).await,
                Ok(_) => Ok(()),
                Err(failure) => Err(failure),
            };
            match outcome {
                Ok(()) => self.status.heard(),
                Err(failure) => match self.ended(failure).await {
                    Over::Resume => {}
                    Over::Relist => return AtLeast::Version(version),
                },
            }
        }
    }

    /// What the end of a watch means.
    async fn ended(&mut self, failure: Failure) -> Over {
        match &failure {
            Failure::Refused { code: 410, .. } => {
                debug!(
                    self.log,
                    "the watch is too far behind and everything is listed again"
                );
                self.wait(None).await;
                Over::Relist
            }
            // It happens; it is trouble if the next one cannot be had.
            Failure::CutOff(cause) => {
                debug!(self.log, "the watch was cut off: {cause}");
                self.wait(None).await;
                Over::Resume
            }
            // Denied, or overloaded, or on its way out: the version may be good afterwards. Not so
            // with 504, which may say that the server does not know it yet, or never will.
            Failure::Refused {
                code: 401 | 403 | 429 | 500..=503,
                ..
            }
            | Failure::Transport(_)
            | Failure::Access(_) => {
                self.failed(failure).await;
                Over::Resume
            }
            Failure::Refused { .. } | Failure::Broken(_) | Failure::Versions { .. } => {
                self.failed(failure).await;
                Over::Relist
            }
        }
    }

    /// Watches once; `version` moves on with what is seen. Returns how many events there were.
    async fn watch(&mut self, version: &mut String) -> Result<u64, Failure> {
        let lasts = self.times.watch.mul_f64(1.0 + chance());
        let since = Instant::now();
        let mut watch = self.api.watch(version, lasts).await?;
        let mut settled = false;
        let mut events = 0_u64;
        loop {
            let more = watch.read(|event| {
                events += 1;
                self.apply(&event, version)
            });
            let calm = async {
                // Of a quiet cluster nothing may come for minutes; that nothing failed is enough.
                let calm = (!settled).then(|| since.checked_add(SHORT)).flatten();
                calm.map_or_else(Timer::never, Timer::at).await;
                Ok(true)
            };
            // Nothing is lost when the wait is over first: what was read was applied as well.
            let more = more.or(calm).await.map_err(|failure| match failure {
                Failure::Transport(cause) if settled => Failure::CutOff(cause),
                failure => failure,
            });
            if !more? {
                break;
            }
            if events > 0 || since.elapsed() >= SHORT {
                settled = true;
                self.status.heard();
                self.recovered();
            }
        }
        if events == 0 && since.elapsed() < SHORT {
            return Err(Failure::Transport("the watch ended at once".to_owned()));
        }
        Ok(events)
    }

    fn apply(&mut self, event: &Event<'_>, version: &mut String) -> Result<(), Failure> {
        let json = event.object.get().as_bytes();
        if event.r#type == "ERROR" {
            return Err(refusal(json));
        }
        let read = serde_json::from_slice(json);
        let Identified { metadata } = read.map_err(|cause| Failure::Broken(cause.to_string()))?;
        match event.r#type {
            "ADDED" | "MODIFIED" => match read_object(self.api.resource(), json) {
                Ok(object) => {
                    if self.writer.put(&object).is_err() {
                        self.leave_out(true, 0);
                    }
                }
                Err(_) => {
                    // What it was before may be wrong by now.
                    self.writer.remove(&metadata.namespace, &metadata.name);
                    self.leave_out(true, 1);
                }
            },
            "DELETED" => {
                self.writer.remove(&metadata.namespace, &metadata.name);
            }
            // A bookmark only moves the version; what is not known yet does not matter to us.
            _ => {}
        }
        if !metadata.resource_version.is_empty() {
            *version = metadata.resource_version;
        }
        Ok(())
    }

    /// Says what is wrong, if that was not said yet, and waits.
    async fn failed(&mut self, failure: Failure) {
        self.status.lost();
        let told = self.told(&failure);
        let kind = match &failure {
            // A server on its way out fails in several ways, and that is one change.
            Failure::Transport(_) => "no answer".to_owned(),
            // What the server says may have a number in it that changes.
            Failure::Refused { code, .. } => code.to_string(),
            _ => told.clone(),
        };
        let known = self
            .trouble
            .as_ref()
            .is_some_and(|(known, _)| *known == kind);
        if known {
            debug!(self.log, "{told}");
        } else {
            let meanwhile = if self.status.is_synced() {
                "what was known is served on"
            } else {
                "nothing is served before the first listing"
            };
            warn!(self.log, "{told}; {meanwhile}"; "server" => self.api.server());
            let since = self
                .trouble
                .take()
                .map_or_else(Instant::now, |(_, since)| since);
            self.trouble = Some((kind, since));
        }
        let asked = match failure {
            Failure::Refused { retry_after, .. } => retry_after,
            _ => None,
        };
        self.wait(asked).await;
    }

    /// Waits before another attempt, as long as the server asked for if it did.
    async fn wait(&mut self, asked: Option<Duration>) {
        let wait = match asked {
            Some(asked) => self.backoff.asked(asked.min(LONGEST_ASKED), chance()),
            None => self.backoff.failed(Instant::now(), chance()),
        };
        Timer::after(wait).await;
    }

    fn recovered(&mut self) {
        if let Some((_, since)) = self.trouble.take() {
            let seconds = since.elapsed().as_secs();
            info!(self.log, "the Kubernetes API server answers again"; "after_seconds" => seconds);
        }
    }

    /// What happened, and what to do about it.
    fn told(&self, failure: &Failure) -> String {
        let Resource { group, plural, .. } = self.api.resource();
        let what = match failure {
            Failure::Access(cause) => {
                return format!("cannot sign in to the Kubernetes API server: {cause}");
            }
            Failure::Transport(cause) | Failure::CutOff(cause) => {
                format!("does not answer: {cause}")
            }
            Failure::Refused { code: 401, .. } => "does not accept our credentials (401): renew \
                 the token or certificate of the service account or the kubeconfig"
                .to_owned(),
            Failure::Refused {
                code: 403, message, ..
            } => format!(
                "does not let us see the sandboxes (403): a ClusterRole has to allow get, list \
                 and watch of {plural} in {group}, and a ClusterRoleBinding has to give it to us: \
                 {message}"
            ),
            Failure::Refused { code: 404, .. } => format!(
                "has no {plural} in {group} (404): install the custom resource definition, or \
                 choose another --provider-type"
            ),
            Failure::Refused { code, message, .. } => format!("refused ({code}): {message}"),
            Failure::Broken(cause) => format!("answered with what cannot be read: {cause}"),
            Failure::Versions { .. } => {
                format!("has {plural} in {group} in other versions: {failure}")
            }
        };
        format!("the Kubernetes API server {what}")
    }

    /// Says once when objects are left out, and once when they are not any more.
    fn leave_out(&mut self, now: bool, unreadable: usize) {
        if now && !self.left_out {
            warn!(
                self.log,
                "some sandboxes are left out: their objects cannot be read, or there are too many";
                "unreadable" => unreadable,
                "most" => MAX_OBJECTS,
            );
        } else if !now && self.left_out {
            info!(self.log, "no sandbox is left out any more");
        }
        self.left_out = now;
    }
}

/// What every event says of its object.
#[derive(serde::Deserialize)]
struct Identified {
    metadata: Identity,
}

#[derive(Default, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Identity {
    name: String,
    namespace: String,
    resource_version: String,
}

/// The `Status` with which a watch ends.
fn refusal(json: &[u8]) -> Failure {
    #[derive(Default, serde::Deserialize)]
    #[serde(default)]
    struct Status {
        code: u16,
        message: String,
    }
    let status: Status = serde_json::from_slice(json).unwrap_or_default();
    Failure::Refused {
        code: status.code,
        message: status.message,
        retry_after: None,
    }
}
