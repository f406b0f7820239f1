//! The HTTP/1.1 client: a small pool of connections over a [`Connector`].
//!
//! Owns reuse, deadlines and limits of requests we make ourselves. Redirects are answers like any
//! other and are not followed; no environment variable is read.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ::http::header::HOST;
use ::http::uri::{Authority, Scheme};
use ::http::{HeaderValue, Uri, Version};
use bytes::Bytes;
use hyper::body::Incoming;
use smol::Timer;
use smol::future::FutureExt;

use super::body::{self, Bounds};
use super::connect::{self, Connector};
use super::pool::{self, Destination, Pool, Received};
use super::session::Session;
use super::{Request, Response};
use crate::runtime::Spawner;

/// How long a whole exchange may take: connection, request, response and its body.
pub const REQUEST_TIME: Duration = Duration::from_secs(30);

/// The most bytes of a response body.
pub const RESPONSE_BYTES: u64 = 4 * 1024 * 1024;

/// The most bytes of the head of a response, and of the read buffer of a connection.
pub const RESPONSE_HEADER_BYTES: usize = 64 * 1024;

/// The most unused connections kept for one origin.
pub const MAX_IDLE: usize = 8;

/// The most unused connections kept in all.
pub const MAX_IDLE_IN_ALL: usize = 512;

/// How long an unused connection is kept; less than the time after which servers close theirs.
pub const IDLE_TIME: Duration = Duration::from_secs(50);

const POOL: pool::Bounds = pool::Bounds {
    each: MAX_IDLE,
    all: MAX_IDLE_IN_ALL,
    time: IDLE_TIME,
};

/// Why a request got no response.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request's URI does not say where to send it.
    #[error("{0} is not an absolute http or https address")]
    Target(Uri),
    /// There is no connection.
    #[error(transparent)]
    Connect(#[from] connect::Error),
    /// The connection failed, or what came back is not HTTP.
    #[error("the exchange failed: {0}")]
    Exchange(#[from] hyper::Error),
    /// The response body ended early, or is too large.
    #[error("the response: {0}")]
    Body(#[from] body::Error),
    /// It took longer than it may.
    #[error("no response within {0:?}")]
    TimedOut(Duration),
}

/// What a request may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// See [`REQUEST_TIME`]; `Duration::MAX` for none.
    pub time: Duration,
    /// See [`RESPONSE_BYTES`].
    pub response_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            time: REQUEST_TIME,
            response_bytes: RESPONSE_BYTES,
        }
    }
}

/// Sends requests. Clones share the connections.
#[derive(Clone, Debug)]
pub struct Client {
    connector: Connector,
    spawner: Spawner,
    limits: Limits,
    pool: Arc<Pool<Origin>>,
}

impl Client {
    /// A client whose connections come from `connector` and live on `spawner`.
    #[must_use]
    pub fn new(spawner: Spawner, connector: Connector, limits: Limits) -> Self {
        Self {
            connector,
            spawner,
            limits,
            pool: Arc::new(Pool::new(POOL)),
        }
    }

    /// The same client, connections included, whose requests may take what `limits` say.
    #[must_use]
    pub fn limited(&self, limits: Limits) -> Self {
        Self {
            limits,
            ..self.clone()
        }
    }

    /// Sends a request with an absolute URI and waits for the head of the response. The deadline
    /// goes on for its body.
    ///
    /// # Errors
    ///
    /// There is no response. A request that could not be written on a reused connection, because
    /// the server had just closed it, is sent again on another one.
    pub async fn send(&self, request: Request) -> Result<Response, Error> {
        let deadline = Instant::now().checked_add(self.limits.time);
        let late = async {
            deadline.map_or_else(Timer::never, Timer::at).await;
            Err(Error::TimedOut(self.limits.time))
        };
        self.exchange(request, deadline).or(late).await
    }

    /// As [`send`](Self::send), and reads the whole response.
    ///
    /// # Errors
    ///
    /// There is no response, or not all of it.
    pub async fn fetch(&self, request: Request) -> Result<Response<Bytes>, Error> {
        let (head, body) = self.send(request).await?.into_parts();
        let limit = usize::try_from(self.limits.response_bytes).unwrap_or(usize::MAX);
        let bytes = body.collect(limit).await.map_err(|error| match error {
            body::Error::TimedOut => Error::TimedOut(self.limits.time),
            error => Error::Body(error),
        })?;
        Ok(Response::from_parts(head, bytes))
    }

    async fn exchange(
        &self,
        mut request: Request,
        deadline: Option<Instant>,
    ) -> Result<Response, Error> {
        let target = request.uri().clone();
        let origin = Origin::of(&target).ok_or_else(|| Error::Target(target.clone()))?;
        to_origin_form(&mut request, &origin);
        while let Some(mut session) = self.pool.take(&origin, Instant::now()) {
            match session.send(request).await {
                Ok(response) => return Ok(self.received(response, session, origin, deadline)),
                Err(mut error) => match error.take_message() {
                    // Not a byte of it was written.
                    Some(unsent) => request = unsent,
                    None => return Err(error.into_error().into()),
                },
            }
        }
        let stream = self.connector.connect(&target).await?;
        let mut session = Session::new(stream, RESPONSE_HEADER_BYTES).await?;
        match session.send(request).await {
            Ok(response) => Ok(self.received(response, session, origin, deadline)),
            Err(error) => Err(error.into_error().into()),
        }
    }

    /// Bounds the body of a response, whose end makes the connection free for another request.
    fn received(
        &self,
        response: Response<Incoming>,
        session: Session,
        origin: Origin,
        deadline: Option<Instant>,
    ) -> Response {
        let bounds = Bounds {
            size: self.limits.response_bytes,
            silence: self.limits.time,
            deadline,
        };
        let received = Received {
            session,
            response,
            now: Instant::now(),
        };
        received.kept_in(&self.pool, Some(origin), bounds, &self.spawner)
    }
}

/// Where requests go; what connections are kept by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Origin {
    scheme: Scheme,
    authority: Authority,
}

impl Destination for Origin {}

impl Origin {
    fn of(target: &Uri) -> Option<Self> {
        let authority = target.authority()?.clone();
        // A password in an address would end up in the Host header.
        let acceptable = !authority.as_str().contains('@');
        acceptable.then_some(Self {
            scheme: target.scheme()?.clone(),
            authority,
        })
    }
}

/// Makes the request what goes over the wire: path and query only, and a Host header.
fn to_origin_form(request: &mut Request, origin: &Origin) {
    if !request.headers().contains_key(HOST)
        && let Ok(host) = HeaderValue::from_str(origin.authority.as_str())
    {
        request.headers_mut().insert(HOST, host);
    }
    let path = request.uri().path_and_query().cloned();
    *request.uri_mut() = path.map_or_else(|| Uri::from_static("/"), Uri::from);
    *request.version_mut() = Version::HTTP_11;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Body;

    fn sent(uri: &'static str) -> Option<(String, String)> {
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = Uri::from_static(uri);
        let origin = Origin::of(request.uri())?;
        to_origin_form(&mut request, &origin);
        let host = request.headers()[HOST].to_str().unwrap().to_owned();
        Some((request.uri().to_string(), host))
    }

    #[test]
    fn requests_are_sent_in_origin_form() {
        for (uri, path, host) in [
            ("http://a.test", "/", "a.test"),
            ("http://a.test:81?q=1", "/?q=1", "a.test:81"),
            ("https://[::1]:8443/b/c%2F?d", "/b/c%2F?d", "[::1]:8443"),
        ] {
            assert_eq!(sent(uri), Some((path.to_owned(), host.to_owned())), "{uri}");
        }
        for uri in ["/only/a/path", "http://user:secret@a.test/"] {
            assert_eq!(sent(uri), None, "{uri}");
        }
    }
}
