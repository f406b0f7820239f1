//! The `static` provider: sandboxes from a file of routes, which is read again when it changes.
//!
//! Owns the format (TOML, or JSON when the name ends in `.json`) and the rule that a bad edit
//! changes nothing: what cannot be used as a whole is told with its line, and the routes stay as
//! they were. A token may stand in a file of its own, which may change as well.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use slog::{Logger, info, warn};
use smol::Timer;

use super::address;
use super::index::{Object, State, Writer};
use super::resource::MAX_TOKEN;
use super::status::CacheStatus;
use crate::config::{Look, Watched, toml_error};
use crate::runtime::Spawner;

/// The most octets of a file of routes.
pub const MAX_FILE: u64 = 16 * 1024 * 1024;

/// The most routes of a file.
pub const MAX_ROUTES: usize = 100_000;

/// The most files of tokens that are looked at.
pub const MAX_TOKEN_FILES: usize = 1024;

/// How often the files are looked at.
pub const INTERVAL: Duration = Duration::from_secs(1);

/// The name of the provider.
pub(super) const PROVIDER: &str = "static";

/// A file of routes, read.
#[derive(Debug)]
pub struct Routes {
    file: Watched,
    sandboxes: Vec<(String, Route)>,
    tokens: BTreeMap<PathBuf, TokenFile>,
    /// A version of the file that is not in force, and why not.
    refused: Option<(Vec<u8>, String)>,
}

/// What a look at the files found.
#[derive(Debug, Default)]
pub struct Refreshed {
    /// Something new is in force.
    pub changed: bool,
    /// What cannot be used, and was not told before.
    pub complaints: Vec<String>,
}

/// A file that holds one token.
#[derive(Debug)]
struct TokenFile {
    file: Watched,
    token: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    sandboxes: Sandboxes,
}

/// In the order of the file; an id is there once.
#[derive(Default)]
struct Sandboxes(Vec<(String, Route)>);

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Route {
    host: Host,
    token: Option<Token>,
    token_file: Option<PathBuf>,
}

#[derive(Clone, Debug)]
struct Host(String);

/// Never shown.
#[derive(Clone)]
struct Token(String);

impl fmt::Debug for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Token(..)")
    }
}

impl<'de> Deserialize<'de> for Host {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let host = address(&text).map(str::to_owned);
        host.map(Self).ok_or_else(|| {
            let expected = "an IP address or a DNS name, without a port";
            D::Error::custom(format!("host {text:?} is not {expected}"))
        })
    }
}

impl<'de> Deserialize<'de> for Token {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        usable(&text).map(Self).map_err(D::Error::custom)
    }
}

/// The token in some text.
fn usable(text: &str) -> Result<String, String> {
    let token = text.trim();
    match token.len() {
        0 => Err("the token is empty; leave it out to let anybody in".to_owned()),
        1..=MAX_TOKEN => Ok(token.to_owned()),
        _ => Err(format!("the token has more than {MAX_TOKEN} bytes")),
    }
}

impl<'de> Deserialize<'de> for Sandboxes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Table;
        impl<'de> Visitor<'de> for Table {
            type Value = Sandboxes;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a table of sandboxes by id")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Sandboxes, A::Error> {
                let mut seen = std::collections::HashSet::new();
                let mut sandboxes = Vec::new();
                while let Some((id, route)) = map.next_entry::<String, Route>()? {
                    let refusal = if id.is_empty() {
                        Some("an id is empty".to_owned())
                    } else if route.token.is_some() && route.token_file.is_some() {
                        Some(format!("{id:?} has both token and token_file"))
                    } else if sandboxes.len() == MAX_ROUTES {
                        Some(format!("more than {MAX_ROUTES} sandboxes"))
                    } else if !seen.insert(id.clone()) {
                        Some(format!("{id:?} is there twice"))
                    } else {
                        None
                    };
                    if let Some(refusal) = refusal {
                        return Err(A::Error::custom(refusal));
                    }
                    sandboxes.push((id, route));
                }
                Ok(Sandboxes(sandboxes))
            }
        }
        deserializer.deserialize_map(Table)
    }
}

/// The sandboxes of a document; the error says in which line it went wrong.
fn parse(path: &Path, content: &[u8]) -> Result<Vec<(String, Route)>, String> {
    let text = std::str::from_utf8(content).map_err(|cause| {
        let before = content.get(..cause.valid_up_to()).unwrap_or_default();
        let line = before.iter().filter(|octet| **octet == b'\n').count() + 1;
        format!("line {line}: not UTF-8")
    })?;
    let json = path
        .extension()
        .is_some_and(|extension| extension == "json");
    let document: Document = if json {
        serde_json::from_str(text).map_err(|cause| {
            let place = format!(" at line {} column {}", cause.line(), cause.column());
            let told = cause.to_string();
            let told = told.strip_suffix(&place).unwrap_or(&told);
            format!("line {}: {told}", cause.line())
        })?
    } else {
        toml::from_str(text).map_err(|cause| toml_error(text, &cause))?
    };
    Ok(document.sandboxes.0)
}

impl Routes {
    /// Reads the file at `path`, and the files of tokens it names.
    ///
    /// # Errors
    ///
    /// One of them cannot be used, with the reason in one line.
    pub fn open(path: &Path) -> Result<Self, String> {
        let mut routes = Self {
            file: Watched::new(path.to_owned(), MAX_FILE),
            sandboxes: Vec::new(),
            tokens: BTreeMap::new(),
            refused: None,
        };
        match routes.file.look()? {
            Look::Content(content) => routes.replace(&content)?,
            Look::Same | Look::Missing => return Err(format!("{}: no such file", path.display())),
        }
        Ok(routes)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sandboxes.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sandboxes.is_empty()
    }

    /// Looks at the files again. What cannot be used is told once, and changes nothing.
    pub fn refresh(&mut self) -> Refreshed {
        let mut found = Refreshed::default();
        match self.file.look() {
            Ok(Look::Same) => {}
            Ok(Look::Missing) => {
                self.refused = None;
                let path = self.file.path().display();
                found.complaints.push(format!("{path}: no such file"));
            }
            Ok(Look::Content(content)) => self.refused = Some((content, String::new())),
            Err(cause) => found.complaints.push(cause),
        }
        // A version that was refused may be good by now: it may have waited for a token's file.
        if let Some((content, told)) = self.refused.take() {
            match self.replace(&content) {
                Ok(()) => found.changed = true,
                Err(cause) => {
                    if cause != told {
                        found.complaints.push(cause.clone());
                    }
                    self.refused = Some((content, cause));
                }
            }
        }
        for known in self.tokens.values_mut() {
            match known.look() {
                Ok(None) => {}
                Ok(Some(token)) => {
                    known.token = token;
                    found.changed = true;
                }
                Err(cause) => found.complaints.push(cause),
            }
        }
        found
    }

    /// Puts the content of the file in force, or nothing of it.
    fn replace(&mut self, content: &[u8]) -> Result<(), String> {
        let path = self.file.path();
        let told = |cause: String| format!("{} {cause}", path.display());
        let sandboxes = parse(path, content).map_err(told)?;
        let directory = path.parent().unwrap_or(Path::new(""));
        let mut tokens = BTreeMap::new();
        for (id, route) in &sandboxes {
            let Some(name) = &route.token_file else {
                continue;
            };
            if tokens.contains_key(name) {
                continue;
            }
            if tokens.len() == MAX_TOKEN_FILES {
                return Err(told(format!(
                    "names more than {MAX_TOKEN_FILES} token files"
                )));
            }
            let mut file = TokenFile {
                file: Watched::new(directory.join(name), MAX_TOKEN as u64 + 2),
                token: String::new(),
            };
            let token = file
                .look()
                .and_then(|token| token.ok_or_else(|| file.gone()));
            file.token = token.map_err(|cause| told(format!("sandbox {id:?}: {cause}")))?;
            tokens.insert(name.clone(), file);
        }
        (self.sandboxes, self.tokens) = (sandboxes, tokens);
        Ok(())
    }

    fn objects(&self) -> impl Iterator<Item = Object<'_>> {
        self.sandboxes.iter().map(|(id, route)| {
            let named = route.token_file.as_ref();
            let filed = named.and_then(|name| Some(self.tokens.get(name)?.token.as_str()));
            let token = route.token.as_ref().map(|Token(text)| text.as_str());
            Object {
                namespace: "".into(),
                name: id.into(),
                // The operator vouches for what is at an address.
                uid: id.into(),
                token: token.or(filed).map(Into::into),
                state: State::Ready(route.host.0.as_str().into()),
            }
        })
    }
}

impl TokenFile {
    /// The token, if the file changed.
    fn look(&mut self) -> Result<Option<String>, String> {
        match self.file.look()? {
            Look::Same => Ok(None),
            Look::Missing => Err(self.gone()),
            Look::Content(content) => {
                let told = |cause: &str| format!("{}: {cause}", self.file.path().display());
                let text = String::from_utf8(content).map_err(|_| told("not UTF-8"))?;
                usable(&text).map(Some).map_err(|cause| told(&cause))
            }
        }
    }

    fn gone(&self) -> String {
        format!("{}: no such file", self.file.path().display())
    }
}

/// Puts the routes into the index.
fn publish(routes: &Routes, writer: &mut Writer, status: &CacheStatus, log: &Logger) {
    writer.begin_listing();
    for object in routes.objects() {
        if writer.put(&object).is_err() {
            break; // the file holds fewer than there is room for
        }
    }
    writer.finish_listing();
    status.listed();
    let path = routes.file.path().display().to_string();
    info!(log, "routes loaded"; "file" => path, "sandboxes" => routes.len());
}

/// Serves the routes, and keeps them fresh until it is dropped.
pub(super) async fn keep_fresh(
    mut routes: Routes,
    mut writer: Writer,
    status: Arc<CacheStatus>,
    spawner: Spawner,
    log: Logger,
) {
    publish(&routes, &mut writer, &status, &log);
    loop {
        Timer::after(INTERVAL).await;
        let look = move || {
            let found = routes.refresh();
            (routes, found)
        };
        let found;
        (routes, found) = spawner.unblock(look).await;
        for cause in &found.complaints {
            status.lost();
            warn!(log, "the routes stay as they were: {cause}");
        }
        if found.changed {
            publish(&routes, &mut writer, &status, &log);
        } else if status.is_in_touch() {
            status.heard();
        }
    }
}

#[cfg(test)]
mod tests;
