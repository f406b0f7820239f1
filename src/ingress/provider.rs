//! Where sandboxes are: what the proxy knows of each, and the one way to ask.
//!
//! Owns the types every provider fills and every request reads, the settings that choose a provider
//! and its start. A look-up is memory only: it never waits, and never asks anybody.

pub mod config;
pub mod index;
pub mod kubernetes;

mod agent_sandbox;
mod batchsandbox;
mod resource;
mod routes;
mod status;

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use event_listener::Event;
use slog::{Logger, error};
use smol::Task;

use crate::runtime::{Spawner, contained};
use index::{Found, Index, Object, Writer};
use resource::EachName;

pub use config::{Config, SETTINGS};
pub use resource::Resource;
pub use routes::Routes;
pub use status::CacheStatus;

/// A sandbox that takes requests.
#[derive(Debug)]
pub struct Sandbox {
    /// What tells this sandbox from every other, past and future: connections are never shared
    /// between two of these, whatever their addresses.
    pub uid: Arc<str>,
    /// An IP address without brackets, or a DNS name.
    pub host: Arc<str>,
    /// The secure-access token (OSEP-0011); none means that anybody may come in.
    pub token: Option<Arc<str>>,
    /// Set when the sandbox is gone, or its address or its token is another.
    pub retired: Retired,
}

/// Whether a sandbox takes no requests any more, so that its connections are to be closed. Costs
/// a hundred thousand sandboxes that nobody waits for next to nothing.
#[derive(Debug, Default)]
pub struct Retired {
    is_set: AtomicBool,
    event: Event,
}

impl Retired {
    /// Retires the sandbox, for good.
    pub fn set(&self) {
        self.is_set.store(true, Ordering::Release);
        self.event.notify(usize::MAX);
    }

    /// Whether it is retired.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.is_set.load(Ordering::Acquire)
    }

    /// Completes when it is retired.
    pub async fn wait(&self) {
        while !self.is_set() {
            let listener = self.event.listen();
            if !self.is_set() {
                listener.await;
            }
        }
    }
}

/// Why a look-up found no sandbox that takes requests.
///
/// The texts are sent to clients, and name no namespace.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    /// No sandbox has this id.
    #[error("sandbox not found: {id}")]
    NotFound {
        /// The id that was asked for.
        id: String,
    },
    /// The sandbox exists and cannot take requests now.
    #[error("sandbox not ready: {reason}")]
    NotReady {
        /// Why, for the client.
        reason: String,
        /// Where it is (`namespace/name`), for the log.
        object: String,
        /// Its secure-access token: who cannot present it is refused before it learns more.
        token: Option<Arc<str>>,
    },
    /// More than one sandbox has this id.
    #[error("ambiguous sandbox id {id:?} found in multiple namespaces")]
    Ambiguous {
        /// The id that was asked for.
        id: String,
        /// The objects (`namespace/name`), sorted, for the log.
        objects: Vec<String>,
    },
}

/// Knows the sandboxes.
pub trait Directory: Send + Sync + 'static {
    /// Finds the sandbox with this id. Callers see a whole object, never one half changed.
    ///
    /// # Errors
    ///
    /// There is none, or it takes no requests.
    fn find(&self, id: &str) -> Result<Arc<Sandbox>, Missing>;

    /// Whether the sandboxes were read completely at least once.
    fn is_synced(&self) -> bool;
}

/// The kinds of Kubernetes object that stand for a sandbox.
pub const RESOURCES: [Resource; 2] = [batchsandbox::RESOURCE, agent_sandbox::RESOURCE];

/// Reads an object of such a kind from its JSON.
///
/// # Errors
///
/// It is no object with a name, or one whose token cannot be read.
pub fn read_object<'a>(resource: &Resource, json: &'a [u8]) -> serde_json::Result<Object<'a>> {
    (resource.parse)(json)
}

/// A provider at work. Dropping it freezes what is known.
pub struct Provider {
    directory: Arc<dyn Directory>,
    status: Arc<CacheStatus>,
    _task: Task<()>,
}

impl std::fmt::Debug for Provider {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Provider")
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

impl Provider {
    /// What requests ask.
    #[must_use]
    pub fn directory(&self) -> Arc<dyn Directory> {
        Arc::clone(&self.directory)
    }

    /// How fresh it is. Wait for [`CacheStatus::synced`] before taking requests.
    #[must_use]
    pub fn status(&self) -> Arc<CacheStatus> {
        Arc::clone(&self.status)
    }
}

/// Starts the provider: it reads the sandboxes and keeps what it knows current, on `spawner`. The
/// log says, once a change, what is in its way.
#[must_use]
pub fn start(config: Config, spawner: &Spawner, log: &Logger) -> Provider {
    let writer = Writer::new();
    let index = writer.index();
    let (name, each_name, subject) = match &config {
        Config::Static(_) => (routes::PROVIDER, only as EachName, ""),
        Config::Kubernetes(config) => {
            let Resource {
                provider,
                each_name,
                subject,
                ..
            } = config.resource;
            (provider, each_name, subject)
        }
    };
    let status = Arc::new(CacheStatus::new(name, Arc::clone(&index)));
    let work = keep_fresh(config, writer, &status, spawner, log);
    let (known, log) = (Arc::clone(&status), log.clone());
    let task = spawner.spawn(async move {
        if contained(work).await.is_err() {
            known.lost();
            error!(
                log,
                "the sandboxes are not kept current any more; what was known is served on until \
                 a restart"
            );
        }
    });
    Provider {
        directory: Arc::new(Sandboxes {
            index,
            status: Arc::clone(&status),
            each_name,
            subject,
        }),
        status,
        _task: task,
    }
}

/// The work of the provider, which never ends.
fn keep_fresh(
    config: Config,
    writer: Writer,
    status: &Arc<CacheStatus>,
    spawner: &Spawner,
    log: &Logger,
) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    let (status, spawner, log) = (Arc::clone(status), spawner.clone(), log.clone());
    match config {
        Config::Static(routes) => {
            Box::pin(routes::keep_fresh(routes, writer, status, spawner, log))
        }
        Config::Kubernetes(config) => {
            Box::pin(kubernetes::keep_fresh(config, writer, status, spawner, log))
        }
    }
}

/// The id is the name.
fn only(id: &str, visit: &mut dyn FnMut(&str) -> bool) {
    visit(id);
}

/// The index, asked for ids.
struct Sandboxes {
    index: Arc<Index>,
    status: Arc<CacheStatus>,
    each_name: EachName,
    /// What stands before an id in the reason a sandbox is not ready.
    subject: &'static str,
}

impl Directory for Sandboxes {
    fn find(&self, id: &str) -> Result<Arc<Sandbox>, Missing> {
        let mut found = Found::Nothing;
        (self.each_name)(id, &mut |name| {
            found = self.index.find(name);
            !matches!(found, Found::Nothing)
        });
        let id = || id.to_owned();
        match found {
            Found::Ready(sandbox) => Ok(sandbox),
            Found::Nothing => Err(Missing::NotFound { id: id() }),
            Found::Ambiguous(objects) => Err(Missing::Ambiguous { id: id(), objects }),
            Found::NotReady {
                reason,
                object,
                token,
            } => Err(Missing::NotReady {
                reason: format!("{}{}{reason}", self.subject, id()),
                object,
                token,
            }),
        }
    }

    fn is_synced(&self) -> bool {
        self.status.is_synced()
    }
}

/// The address in some text: an IP address, without its brackets, or a DNS name. Never one that
/// leads to this machine by accident: nothing, the unspecified address, or a number that resolvers
/// take for an address.
fn address(text: &str) -> Option<&str> {
    let inner = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'));
    let bare = inner.unwrap_or(text);
    match bare.parse() {
        Ok(IpAddr::V4(address)) if inner.is_some() || address.is_unspecified() => return None,
        Ok(IpAddr::V6(address)) if address.to_canonical().is_unspecified() => return None,
        Ok(_) => return Some(bare),
        Err(_) if inner.is_some() => return None,
        Err(_) => {}
    }
    let name = bare.strip_suffix('.').unwrap_or(bare);
    let allowed = |octet: u8| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_');
    let is_label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(allowed);
    let last = name.rsplit('.').next().unwrap_or_default();
    let digits = last.strip_prefix("0x").or(last.strip_prefix("0X"));
    let number = digits.map_or_else(
        || last.bytes().all(|octet| octet.is_ascii_digit()),
        |digits| digits.bytes().all(|octet| octet.is_ascii_hexdigit()),
    );
    let is_name = name.len() <= 253 && name.split('.').all(is_label) && !number;
    is_name.then_some(bare)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_literal_or_names() {
        for (text, expected) in [
            ("10.0.0.1", Some("10.0.0.1")),
            ("127.0.0.1", Some("127.0.0.1")),
            ("fd00::1", Some("fd00::1")),
            ("[fd00::1]", Some("fd00::1")),
            ("sb.ns.svc.cluster.local", Some("sb.ns.svc.cluster.local")),
            ("sb.ns.svc.cluster.local.", Some("sb.ns.svc.cluster.local.")),
            ("localhost", Some("localhost")),
            ("3f2a", Some("3f2a")),
            ("under_score.test", Some("under_score.test")),
        ] {
            assert_eq!(address(text), expected, "{text}");
        }
        for text in [
            "",
            " ",
            ".",
            "a..b",
            "a b",
            "10.0.0.1:80",
            "host:80",
            "http://a",
            "a/b",
            "a@b",
            "[a]",
            "[10.0.0.1]",
            "0.0.0.0",
            "::",
            "[::]",
            "::ffff:0.0.0.0",
            "0",
            "127.1",
            "0x7f.1",
            "1.0x7f",
            "0x",
            "fd00::1%eth0",
            "\u{e4}.test",
            "a\0",
        ] {
            assert_eq!(address(text), None, "{text:?}");
        }
        assert_eq!(address(&"a.".repeat(127)), Some("a.".repeat(127).as_str()));
        assert_eq!(address(&"a.".repeat(128)), None);
        assert_eq!(address(&"a".repeat(64)), None);
    }
}
