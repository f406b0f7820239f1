//! The compiled policy: what is enforced.

use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::index::{Index, Rank};
use super::network::NetworkSet;
use super::target::Target;
use super::{Action, Policy, Reason, Rule, Verdict};

/// The operator's rules, which no user can override.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AlwaysRules {
    /// `deny.always`: before everything else.
    pub deny: Vec<Rule>,
    /// `allow.always`: before the user's rules.
    pub allow: Vec<Rule>,
}

impl AlwaysRules {
    fn len(&self) -> usize {
        self.deny.len() + self.allow.len()
    }
}

/// The compiled effective policy: always-deny, always-allow, then the user's rules.
#[derive(Debug)]
pub struct Effective {
    /// Grows with every change, so that a query in flight can tell that it was judged under an
    /// older policy.
    pub generation: u64,
    default_action: Action,
    /// How many of the first rules are the operator's.
    always: usize,
    names: Index,
    allowed: NetworkSet,
    denied: NetworkSet,
}

impl Effective {
    /// Compiles `always` and `user`.
    #[must_use]
    pub fn compile(always: &AlwaysRules, user: &Policy, generation: u64) -> Self {
        let rules = || always.deny.iter().chain(&always.allow).chain(user.rules());
        let networks = |action| -> NetworkSet {
            rules()
                .filter(|rule| rule.action() == action)
                .filter_map(|rule| match rule.target() {
                    Target::Network(network) => Some(*network),
                    _ => None,
                })
                .collect()
        };
        let named = |rule: &&Rule| !matches!(rule.target(), Target::Network(_));
        let mut names = Index::with_capacity(rules().filter(named).count());
        for (position, rule) in rules().enumerate() {
            let rank = Rank::new(position, rule.action() == Action::Allow);
            match rule.target() {
                Target::Network(_) => {}
                Target::Name(name) => names.add_exact(name, rank),
                Target::Below(name) => names.add_below(name, rank),
            }
        }
        Self {
            generation,
            default_action: user.default_action(),
            always: always.len(),
            names,
            allowed: networks(Action::Allow),
            denied: networks(Action::Deny),
        }
    }

    /// Judges `name`, in any letter case, with or without a trailing dot; the root is the empty
    /// string. A label with a dot in it must come with that dot escaped as `\.`, and a backslash
    /// as `\\`. The first rule that matches decides; addresses and networks match no name.
    #[must_use]
    pub fn evaluate(&self, name: &str) -> Verdict {
        let Some(rank) = self.names.find(name) else {
            return Verdict {
                action: self.default_action,
                reason: Reason::Default,
            };
        };
        Verdict {
            action: if rank.is_allow() {
                Action::Allow
            } else {
                Action::Deny
            },
            reason: if rank.position() < self.always {
                Reason::Always
            } else {
                Reason::Rule
            },
        }
    }

    /// What an address rule or a network rule says about `address`, `None` if there is none. Their
    /// order does not matter: a denial wins.
    #[must_use]
    pub fn evaluate_address(&self, address: IpAddr) -> Option<Action> {
        if self.denied.contains(address) {
            Some(Action::Deny)
        } else if self.allowed.contains(address) {
            Some(Action::Allow)
        } else {
            None
        }
    }

    /// What happens to a name or an address that no rule matches.
    #[must_use]
    pub fn default_action(&self) -> Action {
        self.default_action
    }

    /// The networks that may be reached unless they are denied as well.
    #[must_use]
    pub fn allowed(&self) -> &NetworkSet {
        &self.allowed
    }

    /// The networks that may not be reached.
    #[must_use]
    pub fn denied(&self) -> &NetworkSet {
        &self.denied
    }
}

/// The policy in force, readable without a lock.
pub struct Live(ArcSwap<Effective>);

impl Live {
    /// Starts with `effective`.
    #[must_use]
    pub fn new(effective: impl Into<Arc<Effective>>) -> Self {
        Self(ArcSwap::new(effective.into()))
    }

    /// The policy as of now.
    #[must_use]
    pub fn snapshot(&self) -> arc_swap::Guard<Arc<Effective>> {
        self.0.load()
    }

    /// Puts `next` in force; who took a snapshot before keeps the old one.
    pub fn replace(&self, next: Arc<Effective>) {
        self.0.store(next);
    }
}
