//! The scrape endpoint: `GET /metrics` for a Prometheus scraper, on a port of its own.
//!
//! It exists only when the `prometheus` exporter was asked for. Collections run beside the
//! executor, because they read files of `/proc`.

use std::net::SocketAddr;

use http::request::Parts;
use http::{HeaderValue, Method, StatusCode, header};

use super::env::Prometheus;
use super::prometheus::{CONTENT_TYPE, Reader};
use crate::http::listen::{Listen, Refused};
use crate::http::server::{Limits, Server, Unobserved};
use crate::http::{Body, Request, Response};
use crate::lifecycle::Shutdown;
use crate::runtime::Spawner;

/// The most scrapers that are served at once.
const MAX_CONNECTIONS: usize = 16;

/// Listens where `place` says and serves what `reader` collects, until `shutdown`. Returns the
/// addresses.
///
/// # Errors
///
/// The first address cannot be had. The others may be missing: `localhost` is two of them, and not
/// every sandbox has IPv6.
pub(super) fn serve(
    place: &Prometheus,
    reader: &Reader,
    spawner: &Spawner,
    shutdown: Shutdown,
) -> Result<Vec<SocketAddr>, Refused> {
    let limits = || Limits {
        connections: MAX_CONNECTIONS,
        body_bytes: 0,
        ..Limits::default()
    };
    let addresses: Vec<Listen> = place
        .hosts
        .iter()
        .filter_map(|host| {
            SocketAddr::from((*host, place.port))
                .to_string()
                .parse()
                .ok()
        })
        .collect();
    let first = addresses.get(..1).unwrap_or_default();
    let server = Server::bind(&addresses, limits()).or_else(|_| Server::bind(first, limits()))?;
    let listening = server.addresses();
    let (reader, spawner) = (reader.clone(), spawner.clone());
    let handler = {
        let spawner = spawner.clone();
        move |request: Request| {
            let (reader, spawner) = (reader.clone(), spawner.clone());
            let (head, _) = request.into_parts();
            async move { answer(&head, reader, &spawner).await }
        }
    };
    let serving = server.serve(spawner.clone(), handler, Unobserved, shutdown);
    spawner
        .spawn(async move {
            // A scraper that is cut off asks again.
            let _ = serving.await;
        })
        .detach();
    Ok(listening)
}

async fn answer(request: &Parts, reader: Reader, spawner: &Spawner) -> Response {
    let refuse = |status| {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = status;
        response
    };
    if request.uri.path() != "/metrics" {
        return refuse(StatusCode::NOT_FOUND);
    }
    if !matches!(request.method, Method::GET | Method::HEAD) {
        let mut response = refuse(StatusCode::METHOD_NOT_ALLOWED);
        let allow = HeaderValue::from_static("GET, HEAD");
        response.headers_mut().insert(header::ALLOW, allow);
        return response;
    }
    let text = spawner.unblock(move || reader.scrape()).await;
    let mut response = Response::new(Body::from(text));
    let content_type = HeaderValue::from_static(CONTENT_TYPE);
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, content_type);
    response
}
