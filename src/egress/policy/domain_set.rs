//! A set of names, and of names with everything below them.

use super::index::{Index, Rank};
use super::target::Target;

/// The entry is an address or a network.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a domain pattern; only host/domain entries are supported")]
pub struct NotADomain(String);

/// Exact names and `*.` suffixes, matched like the targets of rules.
#[derive(Debug, Default)]
pub struct DomainSet {
    patterns: Vec<String>,
    index: Index,
}

impl DomainSet {
    /// The set of `patterns`; blank ones are skipped.
    ///
    /// # Errors
    /// [`NotADomain`] for an address or a network.
    pub fn new<T: AsRef<str>>(patterns: &[T]) -> Result<Self, NotADomain> {
        let mut set = Self {
            patterns: Vec::new(),
            index: Index::with_capacity(patterns.len()),
        };
        for pattern in patterns {
            let pattern = pattern.as_ref().trim();
            if pattern.is_empty() {
                continue;
            }
            match Target::parse(pattern) {
                Target::Network(_) => return Err(NotADomain(pattern.to_owned())),
                Target::Name(name) => set.index.add_exact(&name, Rank::new(0, true)),
                Target::Below(name) => set.index.add_below(&name, Rank::new(0, true)),
            }
            set.patterns.push(pattern.to_owned());
        }
        Ok(set)
    }

    /// The patterns as written, in order.
    #[must_use]
    pub fn patterns(&self) -> &[String] {
        &self.patterns
    }

    /// Whether `name` is in the set, in any letter case, with or without a trailing dot.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.index.find(name).is_some()
    }
}
