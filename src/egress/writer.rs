//! The one writer of the policy: everything that changes what is enforced goes through here.
//!
//! A change is a [`Transaction`]: reviewed, staged on disk, applied to the kernel, made permanent,
//! then published to the DNS filter. A step that fails undoes those before it, so that the policy
//! in memory, in the kernel and on disk stay the same one. Changes wait for each other; readers
//! never wait.

use std::error::Error;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use slog::{Logger, error, warn};

use super::events::{Loaded, Observer};
use super::policy::{AlwaysRules, Effective, Live, Policy, Rule, Target};
use super::store::Store;

/// How many suspicious targets are named in one line; the rest are counted.
const NAMED_SUSPECTS: usize = 3;

/// What makes a policy unavoidable.
pub trait Enforcer: Send + Sync {
    /// The mode as users know it: `dns`, `dns+nft`, or `dns-unenforced`.
    fn mode(&self) -> &str;

    /// Whether rules for addresses and networks have an effect.
    fn filters_addresses(&self) -> bool;

    /// Enforces `next` instead of what was enforced. When it returns, no learned address that
    /// `next` does not allow is open.
    ///
    /// # Errors
    /// It could not; what was enforced before still is.
    fn apply(&self, next: &Arc<Effective>) -> Result<(), EnforceError>;
}

/// The kernel did not take a policy.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct EnforceError(#[source] pub Box<dyn Error + Send + Sync>);

/// Mode `dns`: the answers of the DNS filter are all the enforcement there is.
#[derive(Debug)]
pub struct NamesOnly;

impl Enforcer for NamesOnly {
    fn mode(&self) -> &str {
        "dns"
    }

    fn filters_addresses(&self) -> bool {
        false
    }

    fn apply(&self, _: &Arc<Effective>) -> Result<(), EnforceError> {
        Ok(())
    }
}

/// Mode `dns` without the kernel's redirect: only clients that ask the filter are filtered.
#[derive(Debug)]
pub struct Unenforced;

impl Enforcer for Unenforced {
    fn mode(&self) -> &str {
        "dns-unenforced"
    }

    fn filters_addresses(&self) -> bool {
        false
    }

    fn apply(&self, _: &Arc<Effective>) -> Result<(), EnforceError> {
        Ok(())
    }
}

/// Something that depends on the policy and may object to a change, such as the credential vault.
pub trait Reviewer: Send + Sync {
    /// Whether `next` may become the policy.
    ///
    /// # Errors
    /// Why not, as the client is told.
    fn review(&self, next: &Effective) -> Result<(), String>;
}

/// Why a change was not made. Nothing is different from before.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// Something that depends on the policy objects.
    #[error("{0}")]
    Review(String),
    /// The policy file could not be written.
    #[error("persist policy: {0}")]
    Save(#[source] io::Error),
    /// The kernel did not take it.
    #[error(transparent)]
    Enforce(#[from] EnforceError),
}

/// Holds the policy, and changes it.
pub struct Writer {
    observer: Arc<Observer>,
    enforcer: Box<dyn Enforcer>,
    reviewers: Vec<Box<dyn Reviewer>>,
    store: Store,
    user: ArcSwap<Policy>,
    live: Arc<Live>,
    state: Mutex<State>,
}

/// What changes look at and move.
struct State {
    always: AlwaysRules,
    /// Of the last attempt; failed ones use up a number.
    generation: u64,
    /// Whether the kernel enforces what is published. False only after undoing failed.
    in_step: bool,
}

impl Writer {
    /// Enforces `user` and `always` with `enforcer`, and reports the policy as loaded. Changes
    /// that the API makes are kept in `store`.
    ///
    /// # Errors
    /// The kernel did not take the policy.
    pub fn start(
        user: Policy,
        always: AlwaysRules,
        enforcer: Box<dyn Enforcer>,
        reviewers: Vec<Box<dyn Reviewer>>,
        store: Store,
        observer: Arc<Observer>,
    ) -> Result<Self, EnforceError> {
        let generation = 1;
        let effective = Arc::new(Effective::compile(&always, &user, generation));
        enforcer.apply(&effective)?;
        let writer = Self {
            observer,
            enforcer,
            reviewers,
            store,
            user: ArcSwap::from_pointee(user),
            live: Arc::new(Live::new(effective)),
            state: Mutex::new(State {
                always,
                generation,
                in_step: true,
            }),
        };
        let user = writer.policy();
        writer.warn_about_operator(&writer.lock().always);
        Loaded {
            default_action: user.default_action(),
            rules: user.rules(),
        }
        .emit(&writer.observer);
        writer.warn_about(user.rules(), writer.observer.logger());
        Ok(writer)
    }

    /// The user's policy, without the operator's rules.
    #[must_use]
    pub fn policy(&self) -> Arc<Policy> {
        self.user.load_full()
    }

    /// What judges names, kept up to date with every change.
    #[must_use]
    pub fn live(&self) -> Arc<Live> {
        Arc::clone(&self.live)
    }

    /// What makes the policy unavoidable.
    #[must_use]
    pub fn enforcer(&self) -> &dyn Enforcer {
        &*self.enforcer
    }

    /// Waits for changes under way, and keeps others out until the transaction is dropped. What
    /// there is to say about it goes to `log`.
    #[must_use]
    pub fn begin<'a>(&'a self, log: &'a Logger) -> Transaction<'a> {
        Transaction {
            writer: self,
            state: self.lock(),
            log,
        }
    }

    /// Puts other rules of the operator in force.
    ///
    /// # Errors
    /// The kernel did not take them; the previous ones are in force.
    pub fn set_always(&self, always: AlwaysRules) -> Result<(), EnforceError> {
        let mut state = self.lock();
        let generation = state.next_generation();
        let effective = Arc::new(Effective::compile(&always, &self.user.load(), generation));
        self.enforcer.apply(&effective)?;
        self.live.replace(effective);
        state.always = always;
        state.in_step = true;
        self.warn_about_operator(&state.always);
        Ok(())
    }

    /// Tries once more to undo a change, if that failed before.
    ///
    /// # Errors
    /// The kernel did not take the policy in force.
    pub fn reconcile(&self) -> Result<(), EnforceError> {
        let mut state = self.lock();
        if !state.in_step {
            self.enforcer.apply(&self.live.snapshot())?;
            state.in_step = true;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is changed last and at once, so a panic elsewhere leaves it whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn warn_about_operator(&self, always: &AlwaysRules) {
        let rules = always.deny.iter().chain(&always.allow);
        self.warn_about(rules, self.observer.logger());
    }

    /// Says in `log` which of `rules` have no effect. Returns the part of it that does not depend
    /// on the mode.
    pub fn warn_about<'a>(
        &self,
        rules: impl IntoIterator<Item = &'a Rule> + Clone,
        log: &Logger,
    ) -> Option<String> {
        let suspects = describe_suspects(rules.clone());
        if let Some(suspects) = &suspects {
            warn!(log, "policy: {suspects}");
        }
        let addresses = rules
            .into_iter()
            .filter(|rule| matches!(rule.target(), Target::Network(_)))
            .count();
        if addresses > 0 && !self.enforcer.filters_addresses() {
            warn!(
                log,
                "policy: {addresses} rule(s) for addresses are kept but not enforced in mode {}",
                self.enforcer.mode()
            );
        }
        suspects
    }
}

impl State {
    fn next_generation(&mut self) -> u64 {
        self.generation += 1;
        self.generation
    }
}

/// A change in the making. Others wait until it is dropped.
pub struct Transaction<'a> {
    writer: &'a Writer,
    state: MutexGuard<'a, State>,
    log: &'a Logger,
}

impl Transaction<'_> {
    /// The user's policy, which nobody else can change meanwhile.
    #[must_use]
    pub fn policy(&self) -> Arc<Policy> {
        self.writer.policy()
    }

    /// Makes `next` the policy, everywhere or nowhere.
    ///
    /// # Errors
    /// See [`Refused`].
    pub fn commit(&mut self, next: Arc<Policy>) -> Result<(), Refused> {
        let writer = self.writer;
        let generation = self.state.next_generation();
        let effective = Arc::new(Effective::compile(&self.state.always, &next, generation));
        for reviewer in &writer.reviewers {
            reviewer.review(&effective).map_err(Refused::Review)?;
        }
        // Staging first lets a full disk refuse the change before the kernel saw it.
        let staged = writer.store.stage(&next).map_err(Refused::Save)?;
        writer.enforcer.apply(&effective)?;
        if let Err(cause) = staged.commit() {
            self.undo();
            return Err(Refused::Save(cause));
        }
        writer.live.replace(effective);
        writer.user.store(next);
        self.state.in_step = true;
        Ok(())
    }

    /// Enforces what is published instead of what was just applied.
    fn undo(&mut self) {
        let writer = self.writer;
        if let Err(cause) = writer.enforcer.apply(&writer.live.snapshot()) {
            self.state.in_step = false;
            error!(
                self.log,
                "policy: the previous policy could not be enforced again, trying until it can be: {cause}"
            );
        }
    }
}

/// One line about the targets in `rules` that can never match, if there are any.
fn describe_suspects<'a>(rules: impl IntoIterator<Item = &'a Rule>) -> Option<String> {
    let mut named = Vec::new();
    let mut count = 0_usize;
    for rule in rules {
        if let Some(suspicion) = rule.suspicion() {
            count += 1;
            if named.len() < NAMED_SUSPECTS {
                named.push(format!("{} ({suspicion})", rule.quoted()));
            }
        }
    }
    let rest = match count.saturating_sub(named.len()) {
        0 => String::new(),
        rest => format!(", and {rest} more"),
    };
    (count > 0).then(|| {
        format!(
            "{count} target(s) can never match: {}{rest}",
            named.join(", ")
        )
    })
}
