//! The JSON form of a policy, read with the leniency clients rely on.
//!
//! Every part may be absent or `null`; keys match in any letter case; unknown keys are skipped;
//! the last of two equal keys counts. What the parts mean is decided by [`policy`](super).

use std::fmt;

use serde::Serialize;
use serde::de::{self, Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::{Action, Error, Rule};

/// A policy as sent.
#[derive(Debug, Default)]
pub(super) struct Document {
    pub(super) default_action: String,
    pub(super) egress: Rules,
}

/// The rules of a policy as sent, or why the first of them that is none is none. Each is checked as
/// soon as it is read: what only stands for it until then is not kept beside thousands of others.
#[derive(Debug)]
pub(super) struct Rules(pub(super) Result<Vec<Rule>, Error>);

impl Default for Rules {
    fn default() -> Self {
        Self(Ok(Vec::new()))
    }
}

/// A rule as sent, before anything about it was checked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SentRule {
    /// `allow`, `deny`, or anything else.
    pub action: String,
    /// Any text.
    pub target: String,
}

impl SentRule {
    /// The rule it stands for.
    ///
    /// # Errors
    /// [`Error::UnsupportedAction`] and [`Error::EmptyTarget`].
    pub fn check(&self) -> Result<Rule, Error> {
        let action = Action::parse(&self.action)
            .ok_or_else(|| Error::UnsupportedAction(self.action.trim().to_owned()))?;
        Rule::new(action, &self.target)
    }
}

/// Reads a policy document.
pub(super) fn parse(text: &str) -> Result<Document, Error> {
    Ok(serde_json::from_str(text)?)
}

/// Reads the array of rules that a merge is asked for. `null` is an empty one.
///
/// # Errors
/// [`Error::Syntax`] and [`Error::Encoding`].
pub fn parse_rules(body: &[u8]) -> Result<Vec<SentRule>, Error> {
    parse_list(body)
}

/// Reads the array of targets that are to be removed. `null` is an empty one, and an empty text
/// inside it.
///
/// # Errors
/// [`Error::Syntax`] and [`Error::Encoding`].
pub fn parse_targets(body: &[u8]) -> Result<Vec<String>, Error> {
    let targets: Vec<Option<String>> = parse_list(body)?;
    Ok(targets.into_iter().map(Option::unwrap_or_default).collect())
}

fn parse_list<'de, T: Deserialize<'de>>(body: &'de [u8]) -> Result<Vec<T>, Error> {
    let list: Option<Vec<T>> = serde_json::from_str(std::str::from_utf8(body)?)?;
    Ok(list.unwrap_or_default())
}

/// The next value of an object; `null` is the same as nothing.
fn value<'de, T: Deserialize<'de> + Default, M: MapAccess<'de>>(
    object: &mut M,
) -> Result<T, M::Error> {
    Ok(object.next_value::<Option<T>>()?.unwrap_or_default())
}

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct DocumentVisitor;

        impl<'de> Visitor<'de> for DocumentVisitor {
            type Value = Document;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a policy object")
            }

            fn visit_unit<E: de::Error>(self) -> Result<Document, E> {
                Ok(Document::default())
            }

            fn visit_map<M: MapAccess<'de>>(self, mut object: M) -> Result<Document, M::Error> {
                let mut document = Document::default();
                while let Some(key) = object.next_key::<String>()? {
                    if key.eq_ignore_ascii_case("egress") {
                        document.egress = value(&mut object)?;
                    } else if key.eq_ignore_ascii_case("defaultAction") {
                        document.default_action = value(&mut object)?;
                    } else {
                        object.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(document)
            }
        }

        deserializer.deserialize_any(DocumentVisitor)
    }
}

impl<'de> Deserialize<'de> for Rules {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct RulesVisitor;

        impl<'de> Visitor<'de> for RulesVisitor {
            type Value = Rules;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of rules")
            }

            fn visit_seq<S: SeqAccess<'de>>(self, mut array: S) -> Result<Rules, S::Error> {
                let mut rules = Ok(Vec::new());
                // To the end also after a rule that is none: the rest must be JSON all the same.
                while let Some(sent) = array.next_element::<SentRule>()? {
                    if let Ok(list) = &mut rules {
                        match sent.check() {
                            Ok(rule) => list.push(rule),
                            Err(cause) => rules = Err(cause),
                        }
                    }
                }
                Ok(Rules(rules))
            }
        }

        deserializer.deserialize_seq(RulesVisitor)
    }
}

impl<'de> Deserialize<'de> for SentRule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct RuleVisitor;

        impl<'de> Visitor<'de> for RuleVisitor {
            type Value = SentRule;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a rule object")
            }

            fn visit_unit<E: de::Error>(self) -> Result<SentRule, E> {
                Ok(SentRule::default())
            }

            fn visit_map<M: MapAccess<'de>>(self, mut object: M) -> Result<SentRule, M::Error> {
                let mut rule = SentRule::default();
                while let Some(key) = object.next_key::<String>()? {
                    if key.eq_ignore_ascii_case("action") {
                        rule.action = value(&mut object)?;
                    } else if key.eq_ignore_ascii_case("target") {
                        rule.target = value(&mut object)?;
                    } else {
                        object.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(rule)
            }
        }

        deserializer.deserialize_any(RuleVisitor)
    }
}
