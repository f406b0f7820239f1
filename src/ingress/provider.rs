//! Where sandboxes are: what the proxy knows of each, and the one way to ask.
//!
//! Owns the types every provider fills and every request reads. A look-up is memory only: it never
//! waits, and never asks anybody.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use event_listener::Event;

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
    /// Set when the sandbox is gone, or is reached at another address.
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
