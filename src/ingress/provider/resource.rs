//! What the kinds of object have in common: where they are served, and their metadata.

use std::borrow::Cow;

use serde::Deserialize;

use super::index::{Object, State};

/// The longest secure-access token; the server makes them of 32 characters.
pub const MAX_TOKEN: usize = 4096;

/// Calls a function with the names the object of an id may have, until it returns true.
pub type EachName = fn(&str, &mut dyn FnMut(&str) -> bool);

/// A kind of object that stands for a sandbox.
#[derive(Clone, Copy, Debug)]
pub struct Resource {
    /// The value of `--provider-type`.
    pub provider: &'static str,
    /// The API group.
    pub group: &'static str,
    /// The versions understood, the best first.
    pub versions: &'static [&'static str],
    /// The name in paths.
    pub plural: &'static str,
    /// What stands before an id in a sentence about it: `sandbox `.
    pub subject: &'static str,
    /// The names the object of an id may have.
    pub each_name: EachName,
    /// Reads an object; see [`read_object`](super::read_object).
    pub parse: fn(&[u8]) -> serde_json::Result<Object<'_>>,
}

/// The part of `metadata` that is read.
#[derive(Deserialize)]
pub(super) struct Metadata<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow, default)]
    namespace: Cow<'a, str>,
    #[serde(borrow, default)]
    uid: Cow<'a, str>,
    #[serde(default)]
    pub(super) annotations: Option<Annotations>,
}

/// The annotations that are read.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Annotations {
    /// The addresses of a `BatchSandbox`'s pods.
    #[serde(rename = "sandbox.opensandbox.io/endpoints")]
    pub(super) endpoints: Option<String>,
    #[serde(rename = "opensandbox.io/secure-access-token")]
    token: Option<String>,
}

impl<'a> Metadata<'a> {
    /// The object in this state.
    pub(super) fn into_object(self, state: State<'a>) -> Object<'a> {
        let token = self.annotations.and_then(|annotations| annotations.token);
        let token = token.map(|token| token.trim().to_owned());
        let token = token
            .filter(|token| !token.is_empty())
            .map(Cow::<str>::Owned);
        let too_long = token.as_ref().is_some_and(|token| token.len() > MAX_TOKEN);
        // Refused, not left out, which would open the sandbox to anybody.
        let (token, state) = if too_long {
            let reason = format!(": the secure-access token has more than {MAX_TOKEN} bytes");
            let state = State::NotReady {
                host: None,
                reason: reason.into(),
            };
            (None, state)
        } else {
            (token, state)
        };
        Object {
            namespace: self.namespace,
            name: self.name,
            uid: self.uid,
            token,
            state,
        }
    }
}
