//! Whether egress is ready, as `/healthz` tells.

use std::sync::Arc;

use arc_swap::ArcSwap;

/// The state of the sidecar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// The policy is enforced.
    Ready,
    /// It runs, but with less than it was built for; the text says what is missing.
    Degraded(String),
    /// The workload must not start yet; the text says what it waits for.
    NotReady(String),
}

/// Told by who knows, read by `/healthz`.
#[derive(Debug)]
pub struct HealthGate(ArcSwap<Health>);

impl HealthGate {
    /// Starts with `health`.
    #[must_use]
    pub fn new(health: Health) -> Self {
        Self(ArcSwap::from_pointee(health))
    }

    /// From now on it is `health`.
    pub fn set(&self, health: Health) {
        self.0.store(Arc::new(health));
    }

    /// What it is now.
    #[must_use]
    pub fn get(&self) -> Arc<Health> {
        self.0.load_full()
    }
}
