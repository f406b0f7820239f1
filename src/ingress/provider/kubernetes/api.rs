//! The requests to the API server, and what its answers mean.
//!
//! Owns the paths, the headers, the rate, and the order of a list's pages. Never decides when to
//! ask again.

use std::time::{Duration, Instant};

use ::http::header::{ACCEPT, AUTHORIZATION, USER_AGENT};
use ::http::{HeaderValue, StatusCode};
use http_body_util::BodyExt as _;
use serde::Deserialize;
use serde_json::value::RawValue;
use smol::Timer;

use super::Times;
use super::access::{self, Account};
use super::backoff::Bucket;
use super::scan::{self, List, Part, Values};
use crate::http::Request;
use crate::http::body::{self, Body};
use crate::http::client::{self, Limits};
use crate::ingress::provider::resource::Resource;
use crate::version::COMMIT;

/// The most bytes of an answer that is no list.
const MAX_ANSWER: u64 = 1024 * 1024;

/// The most characters of the server's message that are told.
const MAX_MESSAGE: usize = 512;

/// How many objects a page is to have, where the server makes pages.
const PAGE: usize = 500;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// We cannot even ask.
    #[error(transparent)]
    Access(#[from] access::Error),
    /// There is no answer, or not all of it.
    #[error("{0}")]
    Transport(String),
    /// A watch that worked was cut off.
    #[error("the watch was cut off: {0}")]
    CutOff(String),
    /// The server refused.
    #[error("{message} ({code})")]
    Refused {
        /// The HTTP status.
        code: u16,
        /// What it says.
        message: String,
        /// How long it asks to be left alone.
        retry_after: Option<Duration>,
    },
    /// What came is not what was asked for.
    #[error("the answer cannot be read: {0}")]
    Broken(String),
    /// None of the versions it serves is understood.
    #[error("it is served in {served} only; understood are {understood}")]
    Versions {
        /// What the server has.
        served: String,
        /// What we know.
        understood: String,
    },
}

impl From<client::Error> for Failure {
    fn from(error: client::Error) -> Self {
        Self::Transport(error.to_string())
    }
}

impl From<body::Error> for Failure {
    fn from(error: body::Error) -> Self {
        Self::Transport(error.to_string())
    }
}

impl From<scan::Error> for Failure {
    fn from(error: scan::Error) -> Self {
        Self::Broken(error.to_string())
    }
}

impl Failure {
    /// The HTTP status, if there is one.
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }
}

/// What a page of a list says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Page {
    /// From where a watch can go on.
    pub resource_version: String,
    /// What to ask for the next page with; empty if this is the last.
    pub r#continue: String,
}

/// Which state a list is to have at least.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AtLeast {
    /// Whatever the server has at hand.
    Any,
    /// This version.
    Version(String),
    /// The newest there is.
    Newest,
}

/// The API server, asked for one kind of object.
#[derive(Debug)]
pub struct Api {
    account: Account,
    resource: Resource,
    version: &'static str,
    bucket: Bucket,
    times: Times,
    agent: HeaderValue,
}

impl Api {
    /// Nothing is asked yet.
    pub fn new(account: Account, resource: Resource, bucket: Bucket, times: Times) -> Self {
        let agent = HeaderValue::from_str(&format!("opensandbox-ingress/{COMMIT}"));
        Self {
            account,
            resource,
            version: resource.versions.first().copied().unwrap_or_default(),
            bucket,
            times,
            agent: agent.unwrap_or(HeaderValue::from_static("opensandbox-ingress")),
        }
    }

    /// The kind of object.
    pub fn resource(&self) -> &Resource {
        &self.resource
    }

    /// Where the server is, for people.
    pub fn server(&self) -> String {
        self.account.access().server().to_string()
    }

    /// Finds out in which version the objects are served: the preferred one of those understood.
    /// Where the server does not say, it is the first that is.
    pub async fn discover(&mut self) -> Result<(), Failure> {
        #[derive(Default, Deserialize)]
        #[serde(default, rename_all = "camelCase")]
        struct Group {
            preferred_version: Version,
            versions: Vec<Version>,
        }
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Version {
            version: String,
        }
        let path = format!("/apis/{}", self.resource.group);
        let group = match self
            .get(&path, self.limits(self.times.list, MAX_ANSWER))
            .await
        {
            Ok(body) => {
                let limit = usize::try_from(MAX_ANSWER).unwrap_or(usize::MAX);
                let text = body.collect(limit).await?;
                serde_json::from_slice::<Group>(&text).unwrap_or_default()
            }
            // The list itself says what is wrong, more exactly.
            Err(Failure::Refused { .. }) => Group::default(),
            Err(failure) => return Err(failure),
        };
        if group.versions.is_empty() {
            return Ok(());
        }
        let known = self.resource.versions;
        let serves = |version: &&&str| {
            group
                .versions
                .iter()
                .any(|served| served.version == **version)
        };
        let preferred = known
            .iter()
            .find(|version| **version == group.preferred_version.version);
        let chosen = preferred.or_else(|| known.iter().find(serves));
        let Some(chosen) = chosen else {
            let served: Vec<_> = group
                .versions
                .iter()
                .map(|served| served.version.as_str())
                .collect();
            return Err(Failure::Versions {
                served: served.join(", "),
                understood: known.join(", "),
            });
        };
        self.version = chosen;
        Ok(())
    }

    fn path(&self) -> String {
        let Resource { group, plural, .. } = self.resource;
        format!("/apis/{group}/{}/{plural}", self.version)
    }

    /// Reads one page of the list; `visit` is called with every item.
    pub async fn page(
        &mut self,
        from: &AtLeast,
        continued: &str,
        mut visit: impl FnMut(&[u8]),
    ) -> Result<Page, Failure> {
        let path = self.path();
        let query = match (continued, from) {
            ("", AtLeast::Any) => format!("limit={PAGE}&resourceVersion=0"),
            ("", AtLeast::Version(version)) => format!("resourceVersion={}", escaped(version)),
            // All at once: what is asked for after a page expired must not expire again.
            ("", AtLeast::Newest) => String::new(),
            // The state was fixed by the first page.
            (continued, _) => format!("limit={PAGE}&continue={}", escaped(continued)),
        };
        let limits = self.limits(self.times.list, u64::MAX);
        let mut body = self.get(&format!("{path}?{query}"), limits).await?;
        let (mut list, mut page) = (List::default(), None);
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame?.into_data() else {
                continue;
            };
            list.feed(&data, |part| {
                match part {
                    Part::Item(item) => visit(item),
                    Part::Member(br#""metadata""#, value) => {
                        let read = serde_json::from_slice::<Page>(value);
                        page = Some(read.map_err(|cause| Failure::Broken(cause.to_string()))?);
                    }
                    Part::Member(..) => {}
                }
                Ok::<_, Failure>(())
            })?;
            // Many objects at once must not keep requests waiting.
            smol::future::yield_now().await;
        }
        if !list.is_complete() {
            return Err(Failure::Broken("the list was cut short".to_owned()));
        }
        let page = page.filter(|page| !page.resource_version.is_empty());
        page.ok_or_else(|| Failure::Broken("the list has no resourceVersion".to_owned()))
    }

    /// Fails if the server has not got as far as this version.
    pub async fn reaches(&mut self, version: &str) -> Result<(), Failure> {
        let (path, version) = (self.path(), escaped(version));
        let query = format!("limit=1&resourceVersion={version}&resourceVersionMatch=NotOlderThan");
        let limits = self.limits(self.times.list, u64::MAX);
        self.get(&format!("{path}?{query}"), limits).await?;
        Ok(())
    }

    /// Watches from a version on, for about as long as is asked for.
    pub async fn watch(&mut self, version: &str, lasts: Duration) -> Result<Watch, Failure> {
        let path = self.path();
        let version = escaped(version);
        // The server counts in seconds, and takes zero for "as you like".
        let seconds = lasts.as_secs().max(1);
        let query = format!(
            "allowWatchBookmarks=true&resourceVersion={version}&timeoutSeconds={seconds}&watch=true"
        );
        // What is silent for longer has died without a word.
        let limits = self.limits(lasts + self.times.margin, u64::MAX);
        let body = self.get(&format!("{path}?{query}"), limits).await?;
        Ok(Watch {
            body,
            values: Values::default(),
        })
    }

    fn limits(&self, time: Duration, response_bytes: u64) -> Limits {
        Limits {
            time,
            response_bytes,
        }
    }

    async fn get(&mut self, path_and_query: &str, limits: Limits) -> Result<Body, Failure> {
        let wait = self.bucket.take(Instant::now());
        if !wait.is_zero() {
            Timer::after(wait).await;
        }
        let (client, authorization) = self.account.prepare().await?;
        let uri = self.account.access().uri(path_and_query);
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = uri.map_err(|cause| Failure::Transport(cause.to_string()))?;
        let headers = request.headers_mut();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(USER_AGENT, self.agent.clone());
        if let Some(authorization) = authorization {
            headers.insert(AUTHORIZATION, authorization);
        }
        let (head, body) = client.limited(limits).send(request).await?.into_parts();
        if head.status.is_success() {
            return Ok(body);
        }
        if head.status == StatusCode::UNAUTHORIZED {
            self.account.refused();
        }
        let asked = head.headers.get("retry-after");
        let asked = asked.and_then(|value| value.to_str().ok()?.parse().ok());
        Err(Failure::Refused {
            code: head.status.as_u16(),
            message: message(body, head.status).await,
            retry_after: asked.map(Duration::from_secs),
        })
    }
}

/// What the server says about a refusal.
async fn message(body: Body, status: StatusCode) -> String {
    #[derive(Deserialize)]
    struct Status {
        message: String,
    }
    let limit = usize::try_from(MAX_ANSWER).unwrap_or(usize::MAX);
    let text = body.collect(limit).await.unwrap_or_default();
    let told = serde_json::from_slice::<Status>(&text).map(|status| status.message);
    let told = told.unwrap_or_else(|_| status.canonical_reason().unwrap_or("refused").to_owned());
    let one_line = told.split_whitespace().collect::<Vec<_>>().join(" ");
    one_line.chars().take(MAX_MESSAGE).collect()
}

/// A value in a query: versions and page tokens have few other characters than letters and digits.
fn escaped(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len());
    for octet in value.bytes() {
        if octet.is_ascii_alphanumeric() || b"-._~".contains(&octet) {
            escaped.push(char::from(octet));
        } else {
            escaped.push_str(&format!("%{octet:02X}"));
        }
    }
    escaped
}

/// A watch under way.
#[derive(Debug)]
pub struct Watch {
    body: Body,
    values: Values,
}

/// What a watch tells.
#[derive(Debug, Deserialize)]
pub struct Event<'a> {
    /// `ADDED`, `MODIFIED`, `DELETED`, `BOOKMARK` or `ERROR`.
    pub r#type: &'a str,
    /// The object, not read yet.
    #[serde(borrow)]
    pub object: &'a RawValue,
}

impl Watch {
    /// Reads on, and calls `visit` with every event that is complete. Whether the watch goes on.
    pub async fn read(
        &mut self,
        mut visit: impl FnMut(Event<'_>) -> Result<(), Failure>,
    ) -> Result<bool, Failure> {
        let Some(frame) = self.body.frame().await else {
            if self.values.is_between() {
                return Ok(false);
            }
            return Err(Failure::Transport("the watch was cut off".to_owned()));
        };
        let Ok(data) = frame?.into_data() else {
            return Ok(true);
        };
        self.values.feed(&data, |value| {
            let event = serde_json::from_slice(value);
            visit(event.map_err(|cause| Failure::Broken(cause.to_string()))?)
        })?;
        smol::future::yield_now().await;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_in_a_query_are_escaped() {
        assert_eq!(escaped("a-Z_0.~"), "a-Z_0.~");
        assert_eq!(escaped("a b&c=\u{e4}+"), "a%20b%26c%3D%C3%A4%2B");
    }
}
