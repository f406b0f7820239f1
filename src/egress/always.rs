//! The operator's files: what is always denied, what is always allowed, what is not logged.
//!
//! Reads `deny.always`, `allow.always` and `log_skip.always` at start, where a file that cannot be
//! used stops the process, and again whenever one changed, where it does not: the rules it had stay
//! in force, and the log says so once. Each file stands for itself; a broken one does not hold up
//! another. Never decides what a rule means, and never touches the kernel: the
//! [`Writer`](super::writer::Writer) does.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_lite::FutureExt;
use slog::{Logger, info, warn};
use smol::Timer;

use super::events::Observer;
use super::policy::{Action, AlwaysRules, DomainSet, Rule};
use super::writer::{EnforceError, Writer};
use crate::lifecycle::Shutdown;
use crate::runtime::Spawner;

mod lines;
mod source;

use source::Source;

/// A file cannot be used at start.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// `deny.always` or `allow.always`.
    #[error("failed to load always allow/deny rule files: {0}")]
    Rules(String),
    /// `log_skip.always`.
    #[error("failed to load outbound log skip file: {0}")]
    LogSkip(String),
}

/// The files as last read, and the duty to read them again.
#[derive(Debug)]
pub struct AlwaysFiles {
    deny: Source<Vec<Rule>>,
    allow: Source<Vec<Rule>>,
    log_skip: Source<Arc<DomainSet>>,
    interval: Duration,
    looked: Instant,
    /// Rules were read that are not in force yet.
    pending: bool,
    /// Of the rules in force.
    fingerprint: u64,
}

impl AlwaysFiles {
    /// Reads the files in `directory`; those that are missing are empty. They are looked at again
    /// every `interval`.
    ///
    /// # Errors
    /// A file is there and cannot be used.
    pub fn open(
        directory: &Path,
        interval: Duration,
        now: Instant,
        log: &Logger,
    ) -> Result<Self, LoadError> {
        let mut files = Self {
            deny: Source::new(directory.join("deny.always"), deny_rules),
            allow: Source::new(directory.join("allow.always"), allow_rules),
            log_skip: Source::new(directory.join("log_skip.always"), log_skip),
            interval,
            looked: now,
            pending: false,
            fingerprint: 0,
        };
        files.deny.reload().map_err(LoadError::Rules)?;
        files.allow.reload().map_err(LoadError::Rules)?;
        files.log_skip.reload().map_err(LoadError::LogSkip)?;
        files.fingerprint = fingerprint(&files.rules());
        for (source, action) in [(&files.deny, "deny"), (&files.allow, "allow")] {
            info!(
                log,
                "loaded {} always-{action} rule(s) from {}",
                source.content.len(),
                source.path().display()
            );
        }
        files.announce_log_skip(log);
        Ok(files)
    }

    /// The rules as last read.
    #[must_use]
    pub fn rules(&self) -> AlwaysRules {
        AlwaysRules {
            deny: self.deny.content.clone(),
            allow: self.allow.content.clone(),
        }
    }

    /// The names that are not logged, as last read.
    #[must_use]
    pub fn log_skip(&self) -> Arc<DomainSet> {
        Arc::clone(&self.log_skip.content)
    }

    /// Looks whether a file changed, unless the last look was less than an interval ago, and puts
    /// what is new in force.
    pub fn refresh(&mut self, now: Instant, writer: &Writer, observer: &Observer) {
        if now.saturating_duration_since(self.looked) < self.interval {
            return;
        }
        self.looked = now;
        let log = observer.logger();
        for source in [&mut self.deny, &mut self.allow] {
            self.pending |= changed(source.reload(), log);
        }
        if changed(self.log_skip.reload(), log) {
            observer.log_skip.store(self.log_skip());
            self.announce_log_skip(log);
        }
        if let Err(cause) = self.enforce(writer, log) {
            warn!(
                log,
                "policy API: apply reloaded always rules to nftables failed: {cause}"
            );
        }
    }

    /// Refreshes until `shutdown`.
    pub async fn keep_fresh(
        mut self,
        writer: Arc<Writer>,
        observer: Arc<Observer>,
        spawner: Spawner,
        shutdown: Shutdown,
    ) {
        loop {
            let due = async {
                Timer::after(self.interval).await;
                true
            };
            let over = async {
                shutdown.wait().await;
                false
            };
            if !due.or(over).await {
                return;
            }
            let (writer, observer) = (Arc::clone(&writer), Arc::clone(&observer));
            self = spawner
                .unblock(move || {
                    self.refresh(Instant::now(), &writer, &observer);
                    self
                })
                .await;
        }
    }

    /// Puts pending rules in force, and what failed to be undone back into step.
    fn enforce(&mut self, writer: &Writer, log: &Logger) -> Result<(), EnforceError> {
        if !self.pending {
            return writer.reconcile();
        }
        let rules = self.rules();
        let (deny, allow) = (rules.deny.len(), rules.allow.len());
        let fingerprint = fingerprint(&rules);
        writer.set_always(rules)?;
        self.pending = false;
        if fingerprint != self.fingerprint {
            self.fingerprint = fingerprint;
            info!(
                log,
                "policy API: reloaded always rules applied (deny={deny} allow={allow} fp={fingerprint:016x})"
            );
        }
        Ok(())
    }

    fn announce_log_skip(&self, log: &Logger) {
        let patterns = self.log_skip.content.patterns().len();
        if patterns > 0 {
            info!(
                log,
                "loaded {patterns} outbound log skip pattern(s) from {}",
                self.log_skip.path().display()
            );
        }
    }
}

/// Whether there is something new; what failed is said and changes nothing.
fn changed(outcome: Result<bool, String>, log: &Logger) -> bool {
    outcome.unwrap_or_else(|cause| {
        warn!(
            log,
            "policy API: periodic reload of always rules failed: {cause}"
        );
        false
    })
}

fn deny_rules(path: &Path, content: &[u8]) -> Result<Vec<Rule>, lines::Error> {
    lines::parse(path, content, |line| Rule::new(Action::Deny, line))
}

fn allow_rules(path: &Path, content: &[u8]) -> Result<Vec<Rule>, lines::Error> {
    lines::parse(path, content, |line| Rule::new(Action::Allow, line))
}

fn log_skip(path: &Path, content: &[u8]) -> Result<Arc<DomainSet>, lines::Error> {
    // One by one, so that the line at fault can be named.
    let patterns = lines::parse(path, content, |line| {
        DomainSet::new(&[line]).map(|_| line.to_owned())
    })?;
    Ok(Arc::new(DomainSet::new(&patterns).unwrap_or_default())) // each was checked above
}

/// FNV-1a, 64 bits, over what the rules say, in whatever order they say it.
fn fingerprint(rules: &AlwaysRules) -> u64 {
    let fold = |hash: u64, octets: &[u8]| {
        octets.iter().fold(hash, |hash, octet| {
            (hash ^ u64::from(*octet)).wrapping_mul(0x0100_0000_01b3)
        })
    };
    let list = |hash, rules: &[Rule]| {
        let mut lines: Vec<_> = rules
            .iter()
            .map(|rule| format!("{}|{}\0", rule.action().as_str(), rule.text()))
            .collect();
        lines.sort_unstable();
        lines
            .iter()
            .fold(hash, |hash, line| fold(hash, line.as_bytes()))
    };
    let deny = list(0xcbf2_9ce4_8422_2325, &rules.deny);
    list(fold(deny, &[0xff]), &rules.allow)
}

#[cfg(test)]
mod tests;
