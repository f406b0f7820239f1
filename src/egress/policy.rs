//! The egress policy: which names and addresses a sandbox may reach.
//!
//! Pure: no I/O, no clock, no globals.

use std::sync::Arc;

use arc_swap::ArcSwap;

/// What a rule, or the default, says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// May be reached.
    Allow,
    /// May not be reached.
    Deny,
}

/// Which part of the policy decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A rule of the user's policy.
    Rule,
    /// The default action.
    Default,
    /// A line of an always file.
    Always,
}

impl Reason {
    /// The `reason` field of `egress.denied`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rule => "rule",
            Self::Default => "default",
            Self::Always => "always",
        }
    }
}

/// The answer to "may this name be resolved?".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Yes or no.
    pub action: Action,
    /// Which part of the policy decided.
    pub reason: Reason,
}

/// A set of exact names and `*.` suffixes.
#[derive(Clone, Debug, Default)]
pub struct DomainSet {}

impl DomainSet {
    /// Whether `name` (lower case, no trailing dot) is in the set.
    #[must_use]
    pub fn contains(&self, _name: &str) -> bool {
        false
    }
}

/// The compiled effective policy: always-deny, always-allow, then the user's rules.
#[derive(Debug)]
pub struct Effective {
    /// Grows by one with every change, so that a query in flight can tell that it was judged
    /// under an older policy.
    pub generation: u64,
    default_action: Action,
}

impl Effective {
    /// Judges `name`: lower case, no trailing dot, the root as the empty string.
    #[must_use]
    pub fn evaluate(&self, _name: &str) -> Verdict {
        Verdict {
            action: self.default_action,
            reason: Reason::Default,
        }
    }
}

/// The policy in force, readable without a lock.
pub struct Live(ArcSwap<Effective>);

impl Live {
    /// Starts with `effective`.
    #[must_use]
    pub fn new(effective: Effective) -> Self {
        Self(ArcSwap::from_pointee(effective))
    }

    /// The policy as of now.
    #[must_use]
    pub fn snapshot(&self) -> arc_swap::Guard<Arc<Effective>> {
        self.0.load()
    }
}
