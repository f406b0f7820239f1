//! The egress policy: which names and addresses a sandbox may reach.
//!
//! Owns the model (rules, their order, the default action), its JSON form, and the compiled form
//! that judges a name in the time it takes to read it. Pure: no I/O, no clock, no globals.
//!
//! A [`Policy`] is what the user wrote, kept as typed. An [`Effective`] is what is enforced: the
//! operator's [`AlwaysRules`] first, then the user's rules, compiled once and never changed.
//! [`Live`] is the effective policy of this moment.

use std::collections::HashSet;
use std::fmt;

use serde::{Serialize, Serializer, ser::SerializeStruct};

mod document;
mod domain_set;
mod effective;
mod index;
mod network;
mod target;

pub use document::{SentRule, parse_rules, parse_targets};
pub use domain_set::{DomainSet, NotADomain};
pub use effective::{AlwaysRules, Effective, Live};
pub use network::{Network, NetworkSet};
pub use target::{Suspicion, Target};

/// How much of a value that is refused is quoted back, in characters.
const QUOTED_CHARACTERS: usize = 64;

/// What a rule, or the default, says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// May be reached.
    Allow,
    /// May not be reached.
    Deny,
}

impl Action {
    /// The JSON value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }

    /// Reads a JSON value: blanks around it and letter case do not matter, nothing means deny.
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        if text.is_empty() || text.eq_ignore_ascii_case("deny") {
            Some(Self::Deny)
        } else if text.eq_ignore_ascii_case("allow") {
            Some(Self::Allow)
        } else {
            None
        }
    }
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

/// The shape of a policy, as the `mode` of a status answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// No rules, everything may be reached.
    AllowAll,
    /// No rules, nothing may be reached.
    DenyAll,
    /// There are rules.
    Enforcing,
}

impl Mode {
    /// The JSON value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AllowAll => "allow_all",
            Self::DenyAll => "deny_all",
            Self::Enforcing => "enforcing",
        }
    }
}

/// Why a policy is refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not JSON, or JSON of another shape.
    #[error(transparent)]
    Syntax(#[from] serde_json::Error),
    /// The bytes are not text.
    #[error("invalid UTF-8 at byte {}", .0.valid_up_to())]
    Encoding(#[from] std::str::Utf8Error),
    /// A `defaultAction` that is neither `allow` nor `deny`. Letting it pass would open what it
    /// was probably meant to close.
    #[error("unsupported defaultAction {}", Quoted(.0))]
    UnsupportedDefault(String),
    /// A rule's `action` that is neither `allow` nor `deny`.
    #[error("unsupported action {}", Quoted(.0))]
    UnsupportedAction(String),
    /// A rule without a target.
    #[error("egress target cannot be empty")]
    EmptyTarget,
}

/// The beginning of a text, quoted and escaped.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.char_indices().nth(QUOTED_CHARACTERS) {
            Some((end, _)) => write!(f, "{:?}...", self.0.get(..end).unwrap_or_default()),
            None => write!(f, "{:?}", self.0),
        }
    }
}

/// One line of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    action: Action,
    /// The target as typed, without the blanks around it.
    text: Box<str>,
    target: Target,
}

impl Rule {
    /// A rule for `target`, an address, a network in prefix notation, a name, or `*.` and a name.
    ///
    /// # Errors
    /// [`Error::EmptyTarget`]; any other text is accepted, see [`Rule::suspicion`].
    pub fn new(action: Action, target: &str) -> Result<Self, Error> {
        let text = target.trim();
        if text.is_empty() {
            return Err(Error::EmptyTarget);
        }
        Ok(Self {
            action,
            text: text.into(),
            target: Target::parse(text),
        })
    }

    /// Yes or no.
    #[must_use]
    pub fn action(&self) -> Action {
        self.action
    }

    /// The target as typed, without the blanks around it.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The target as typed, quoted for a message and cut to a readable length.
    #[must_use]
    pub fn quoted(&self) -> impl fmt::Display {
        Quoted(&self.text)
    }

    /// What the target means.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Why this rule can never match anything, if so.
    #[must_use]
    pub fn suspicion(&self) -> Option<Suspicion> {
        self.target.suspicion()
    }
}

impl Serialize for Rule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut rule = serializer.serialize_struct("Rule", 2)?;
        rule.serialize_field("action", self.action.as_str())?;
        rule.serialize_field("target", self.text())?;
        rule.end()
    }
}

/// What the user wants: rules in order, the first match of a name wins, and what happens else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    rules: Vec<Rule>,
    default_action: Action,
}

impl Default for Policy {
    /// Nothing may be reached.
    fn default() -> Self {
        Self::new(Vec::new(), Action::Deny)
    }
}

impl Policy {
    /// A policy of `rules`, the first match wins, and `default_action` for what none matches.
    #[must_use]
    pub fn new(rules: Vec<Rule>, default_action: Action) -> Self {
        Self {
            rules,
            default_action,
        }
    }

    /// Reads a policy document. Nothing, blanks, `null` and `{}` mean [`Policy::default`].
    ///
    /// Object keys match in any letter case, unknown ones are ignored, the last of two equal ones
    /// counts, and `null` is as good as absent: what the decoder of the Go component accepts.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn parse(document: &[u8]) -> Result<Self, Error> {
        let text = std::str::from_utf8(document)?.trim();
        if text.is_empty() {
            return Ok(Self::default());
        }
        let document = document::parse(text)?;
        let default_action = Action::parse(&document.default_action)
            .ok_or_else(|| Error::UnsupportedDefault(document.default_action.trim().to_owned()))?;
        Ok(Self::new(document.egress.0?, default_action))
    }

    /// The rules in order.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// What happens to a name that no rule matches.
    #[must_use]
    pub fn default_action(&self) -> Action {
        self.default_action
    }

    /// The shape of the policy.
    #[must_use]
    pub fn mode(&self) -> Mode {
        match (self.rules.is_empty(), self.default_action) {
            (true, Action::Allow) => Mode::AllowAll,
            (true, Action::Deny) => Mode::DenyAll,
            (false, _) => Mode::Enforcing,
        }
    }

    /// The policy with `patch` in front of its rules. Of several rules for one target the first
    /// stays, so what is patched in overrides what was there.
    #[must_use]
    pub fn merged(&self, patch: Vec<Rule>) -> Self {
        let mut seen = HashSet::new();
        let mut rules: Vec<_> = patch
            .into_iter()
            .chain(self.rules.iter().cloned())
            .collect();
        rules.retain(|rule| seen.insert(rule.target.clone()));
        Self::new(rules, self.default_action)
    }

    /// The policy without the rules for any of `targets`, and the rules taken out. Different
    /// spellings of one target are the same target; empty ones are ignored.
    #[must_use]
    pub fn without<T: AsRef<str>>(&self, targets: &[T]) -> (Self, Vec<Rule>) {
        let unwanted: HashSet<_> = targets
            .iter()
            .map(|target| target.as_ref().trim())
            .filter(|target| !target.is_empty())
            .map(Target::parse)
            .collect();
        let (removed, kept) = self
            .rules
            .iter()
            .cloned()
            .partition(|rule| unwanted.contains(&rule.target));
        (Self::new(kept, self.default_action), removed)
    }

    /// The policy as it is kept in a file: two blanks of indentation, a line feed at the end.
    ///
    /// # Errors
    /// Never in practice: the model has no value that JSON lacks.
    pub fn to_file(&self) -> Result<Vec<u8>, Error> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        Ok(text)
    }
}

impl Serialize for Policy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut policy = serializer.serialize_struct("Policy", 2)?;
        policy.serialize_field("egress", &self.rules)?;
        policy.serialize_field("defaultAction", self.default_action.as_str())?;
        policy.end()
    }
}

#[cfg(test)]
mod tests;
