//! `/proxy/<port>/...`: what listens in the sandbox, reached through the daemon (contract 10).
//!
//! Owns what a path here means, and what the server behind it is told of the client. A request to
//! the daemon's own port is answered in process: in Docker's bridge mode that is every request.
//! Path and query go on as they came, byte for byte. Never follows, changes or keeps an answer.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use http::header::{HOST, HeaderName, SEC_WEBSOCKET_VERSION};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, StatusCode, Uri, request};
use http_body::Body as _;
use hyper::upgrade::OnUpgrade;
use slog::{Logger, error};
use smol::Timer;
use smol::future;
use smol::lock::SemaphoreGuardArc;

use super::answer::{self, Failure};
use super::{Api, Call, Endpoint, PROXY, TOKEN_HEADER};
use crate::http::connect::Connector;
use crate::http::forward::{self, Origin, Upgrade};
use crate::http::pool::Destination;
use crate::http::resolve::{Resolve, Resolving};
use crate::http::router::Router;
use crate::http::server::{Exchange, Peer};
use crate::http::tunnel::{self, Traffic};
use crate::http::upstream::{Answer, Upstream};
use crate::http::{Request, Response, error as refusal};
use crate::lifecycle::Shutdown;
use crate::runtime::Spawner;

/// How often a path may lead back to the daemon before it is refused.
pub const MAX_OWN_HOPS: usize = 8;

/// What requests that leave the process are counted as.
const TEMPLATE: &str = "/proxy/:port";

/// How often unused connections are looked at.
const TIDY: Duration = Duration::from_secs(30);

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

pub(super) fn routes(router: Router<Endpoint>) -> Router<Endpoint> {
    router.any("/proxy/*rest", |api, call| Box::pin(pass_on(api, call)))
}

/// A port of the sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Port(u16);

impl Destination for Port {}

/// Where the servers of a sandbox listen: on IPv4 loopback or, where nothing does, on IPv6.
struct Loopback;

impl Resolve for Loopback {
    fn resolve<'a>(&'a self, _: &'a str) -> Resolving<'a> {
        let both = vec![
            IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(Ipv6Addr::LOCALHOST),
        ];
        Box::pin(std::future::ready(Ok(both)))
    }
}

/// The servers of the sandbox. Clones share the connections to them.
#[derive(Clone)]
pub(super) struct Servers(Upstream<Port>);

impl Servers {
    /// Connections to them live on `spawner`; those that lie unused are closed in time.
    pub(super) fn new(spawner: &Spawner) -> Self {
        let servers = Self(Upstream::new(spawner.clone(), Connector::new(Loopback)));
        let upstream = servers.0.clone();
        let tidy = async move {
            loop {
                Timer::after(TIDY).await;
                upstream.sweep();
            }
        };
        spawner.spawn(tidy).detach();
        servers
    }
}

/// Why a path leads nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Astray {
    /// It does not begin with `/proxy/` as it is written.
    Elsewhere,
    /// There is nothing where the port should be.
    NoPort,
    /// What is there is none.
    NotAPort,
    /// It leads back here too often.
    TooManyHops,
}

impl Astray {
    fn response(self) -> Response {
        match self {
            Self::Elsewhere => answer::not_found(),
            Self::NoPort => refusal::text(StatusCode::BAD_REQUEST, "port is required"),
            Self::NotAPort => refusal::text(
                StatusCode::BAD_REQUEST,
                "port must be a number from 1 to 65535",
            ),
            Self::TooManyHops => refusal::text(
                StatusCode::LOOP_DETECTED,
                "the path leads back to execd too often",
            ),
        }
    }
}

/// Where a request is for in the end.
#[derive(Debug, PartialEq, Eq)]
enum Target {
    /// The daemon, at this path.
    Own(PathAndQuery),
    /// Another server, at this path.
    Server(Port, PathAndQuery),
}

impl Target {
    /// Follows `path` until it leaves, or no longer leads away from, the daemon at port `own`.
    fn of(path: &PathAndQuery, own: u16) -> Result<Self, Astray> {
        let (mut port, mut rest) = split(path)?;
        for _ in 0..MAX_OWN_HOPS {
            if port != own {
                return Ok(Self::Server(Port(port), rest));
            }
            if !rest.path().starts_with(PROXY) {
                return Ok(Self::Own(rest));
            }
            (port, rest) = split(&rest)?;
        }
        Err(Astray::TooManyHops)
    }
}

/// The port a path begins with, and what follows it.
fn split(path: &PathAndQuery) -> Result<(u16, PathAndQuery), Astray> {
    let after = path.as_str().strip_prefix(PROXY).ok_or(Astray::Elsewhere)?;
    let end = after.find(['/', '?']).unwrap_or(after.len());
    let (port, rest) = after.split_at(end);
    if port.is_empty() {
        return Err(Astray::NoPort);
    }
    // A sign would do for `parse`.
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    let port = port.parse().ok().filter(|port| digits && *port != 0);
    let port = port.ok_or(Astray::NotAPort)?;
    let rest = if rest.starts_with('/') {
        PathAndQuery::try_from(rest)
    } else {
        PathAndQuery::try_from(format!("/{rest}"))
    };
    // A part of a path is one.
    Ok((port, rest.map_err(|_| Astray::Elsewhere)?))
}

async fn pass_on(api: Api, call: Call) -> Result<Response, Failure> {
    let Call {
        mut request,
        logger,
        ..
    } = call;
    let path = request.uri().path_and_query();
    let target = path.ok_or(Astray::Elsewhere);
    match target.and_then(|path| Target::of(path, api.settings().port)) {
        Ok(Target::Own(path)) => {
            *request.uri_mut() = at(request.uri(), path);
            Ok(api.dispatch(request).await)
        }
        Ok(Target::Server(port, path)) => {
            *request.uri_mut() = at(request.uri(), path);
            send(&api, port, request, &logger).await
        }
        Err(astray) => Ok(astray.response()),
    }
}

/// The same target at another path.
fn at(uri: &Uri, path: PathAndQuery) -> Uri {
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(path.clone());
    Uri::from_parts(parts).unwrap_or_else(|_| path.into())
}

/// Passes a request on to a server of the sandbox, and its answer back.
async fn send(
    api: &Api,
    port: Port,
    mut request: Request,
    logger: &Logger,
) -> Result<Response, Failure> {
    let exchange = request.extensions().get::<Exchange>().cloned();
    let peer = exchange.as_ref().and_then(|exchange| {
        exchange.set_route(TEMPLATE);
        match exchange.peer() {
            Peer::Tcp(address) => Some(address.ip()),
            Peer::Unix => None,
        }
    });
    let client = hyper::upgrade::on(&mut request);
    let (mut head, body) = request.into_parts();
    let bodied = !body.is_end_stream();
    let upgrade = Upgrade::asked_for(&head, bodied);
    let place = match &upgrade {
        None => None,
        Some(_) => Some(
            api.upgraded()
                .ok_or_else(|| Failure::busy("too many connections are open: close one"))?,
        ),
    };
    if let Err(refused) = rewrite(&mut head, bodied, upgrade.as_ref(), peer) {
        return Ok(refusal::text(refused.status(), &refused.to_string()));
    }
    let method = head.method.clone();
    // How long the body takes is between the client and the server.
    let request = Request::from_parts(head, body.unbounded());
    let Servers(upstream) = api.servers();
    let failed = |cause: &dyn std::fmt::Display| {
        let Port(port) = port;
        error!(
            logger,
            "Proxy error: {cause}, request: {method} /proxy/{port}"
        );
        refusal::text(StatusCode::BAD_GATEWAY, "Bad Gateway")
    };
    let answer = upstream.send(&port, "localhost", port.0, request, exchange.as_ref());
    let Answer {
        response,
        upgrade: server,
        ..
    } = match answer.await {
        Ok(answer) => answer,
        Err(cause) => return Ok(failed(&cause)),
    };
    let (mut head, body) = response.into_parts();
    match (forward::response(&mut head, upgrade.as_ref()), server) {
        (Err(refused), _) => return Ok(failed(&refused)),
        (Ok(true), Some(server)) => {
            let websocket = upgrade.is_some_and(|upgrade| upgrade.is_websocket());
            let shutdown = api.shutdown().clone();
            let tunnel = tunnel(client, server, websocket, shutdown, place);
            api.engine().spawner.spawn(tunnel).detach();
        }
        (Ok(_), _) => {}
    }
    Ok(Response::from_parts(head, body))
}

/// Makes of a client's head what the server is sent. Its token is for the daemon alone.
fn rewrite(
    head: &mut request::Parts,
    bodied: bool,
    upgrade: Option<&Upgrade>,
    peer: Option<IpAddr>,
) -> Result<(), forward::Refused> {
    let host = head.uri.authority().map(|authority| {
        let authority = authority.as_str();
        let host = authority
            .rsplit_once('@')
            .map_or(authority, |(_, host)| host);
        HeaderValue::from_str(host)
    });
    let headers = &mut head.headers;
    if let Some(Ok(host)) = host {
        headers.insert(HOST, host);
    }
    headers.remove(TOKEN_HEADER);
    narrow_chain(headers);
    let origin = Origin {
        peer,
        is_trusted: true,
    };
    forward::request(head, bodied, upgrade, origin, &[])?;
    let headers = &mut head.headers;
    headers.remove(X_FORWARDED_HOST);
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static("http"));
    if upgrade.is_some_and(Upgrade::is_websocket) {
        headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    }
    Ok(())
}

/// Leaves of the hops before the peer only the first: where the request began.
fn narrow_chain(headers: &mut HeaderMap) {
    let chain = headers.get(X_FORWARDED_FOR);
    let first = chain.and_then(|chain| {
        let first = chain.as_bytes().split(|byte| *byte == b',').next()?;
        HeaderValue::from_bytes(first.trim_ascii()).ok()
    });
    let first = first.filter(|first| !first.is_empty());
    let first = first.or_else(|| headers.get(X_REAL_IP).cloned());
    match first {
        Some(first) => headers.insert(X_FORWARDED_FOR, first),
        None => headers.remove(X_FORWARDED_FOR),
    };
}

/// Carries what follows a change of protocol both ways, until one side ends it or the daemon does.
async fn tunnel(
    client: OnUpgrade,
    server: OnUpgrade,
    websocket: bool,
    shutdown: Shutdown,
    _place: Option<SemaphoreGuardArc>,
) {
    let Ok((client, server)) = future::try_zip(client, server).await else {
        return;
    };
    let options = tunnel::Options {
        websocket,
        idle: None,
    };
    tunnel::run(
        client,
        server,
        options,
        &Traffic::default(),
        shutdown.wait(),
    )
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: u16 = 44772;

    fn target(path: &'static str) -> Result<Target, Astray> {
        Target::of(&PathAndQuery::from_static(path), OWN)
    }

    fn server(port: u16, path: &'static str) -> Result<Target, Astray> {
        Ok(Target::Server(Port(port), PathAndQuery::from_static(path)))
    }

    fn own(path: &'static str) -> Result<Target, Astray> {
        Ok(Target::Own(PathAndQuery::from_static(path)))
    }

    #[test]
    fn paths_go_on_byte_for_byte() {
        for (path, expected) in [
            ("/proxy/8080", server(8080, "/")),
            ("/proxy/8080/", server(8080, "/")),
            ("/proxy/8080?a=/b", server(8080, "/?a=/b")),
            ("/proxy/8080/?", server(8080, "/?")),
            (
                "/proxy/1/a%2Fb//x/../y/?q=%20+%zz",
                server(1, "/a%2Fb//x/../y/?q=%20+%zz"),
            ),
            ("/proxy/65535//x", server(65535, "//x")),
            ("/proxy/08080/x", server(8080, "/x")),
            (
                "/proxy/8080/proxy/44772/ping",
                server(8080, "/proxy/44772/ping"),
            ),
            ("/proxy/44772", own("/")),
            ("/proxy/44772/ping?x", own("/ping?x")),
            ("/proxy/44772/proxy", own("/proxy")),
            ("/proxy/44772/proxy/8080/a%2fb", server(8080, "/a%2fb")),
            ("/proxy/44772/proxy/44772/ping", own("/ping")),
        ] {
            assert_eq!(target(path), expected, "{path}");
        }
    }

    #[test]
    fn other_paths_lead_nowhere() {
        for (path, expected) in [
            ("/proxy/", Astray::NoPort),
            ("/proxy//x", Astray::NoPort),
            ("/proxy/?x", Astray::NoPort),
            ("/proxy/44772/proxy/", Astray::NoPort),
            ("/proxy/0/", Astray::NotAPort),
            ("/proxy/65536/", Astray::NotAPort),
            ("/proxy/+80/", Astray::NotAPort),
            ("/proxy/%38080/", Astray::NotAPort),
            ("/proxy/http/", Astray::NotAPort),
            ("/proxy/127.0.0.1:80/", Astray::NotAPort),
            ("/%70roxy/80/", Astray::Elsewhere),
            ("/proxy%2F80/", Astray::Elsewhere),
        ] {
            assert_eq!(target(path), Err(expected), "{path}");
        }
    }

    #[test]
    fn leading_back_is_bounded() {
        let path = |hops: usize| {
            let path = format!("{}/ping", "/proxy/44772".repeat(hops));
            Target::of(&PathAndQuery::try_from(path).unwrap(), OWN)
        };
        assert_eq!(path(MAX_OWN_HOPS), own("/ping"));
        assert_eq!(path(MAX_OWN_HOPS + 1), Err(Astray::TooManyHops));
    }

    fn rewritten(uri: &'static str, fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut request = http::Request::new(());
        *request.uri_mut() = Uri::from_static(uri);
        for (name, value) in fields {
            let value = HeaderValue::from_static(value);
            request.headers_mut().append(*name, value);
        }
        let mut head = request.into_parts().0;
        let upgrade = Upgrade::asked_for(&head, false);
        let peer = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
        rewrite(&mut head, false, upgrade.as_ref(), Some(peer)).unwrap();
        head.headers
    }

    #[test]
    fn servers_are_told_of_the_client_and_not_its_token() {
        let headers = rewritten(
            "/x",
            &[
                ("host", "sandbox.test:44772"),
                ("x-execd-access-token", "secret"),
                ("x-execd-access-token", "again"),
                ("authorization", "Bearer app"),
                ("cookie", "a=b"),
                ("connection", "keep-alive, x-hop"),
                ("x-hop", "1"),
                ("x-forwarded-host", "evil.test"),
                ("x-forwarded-proto", "https"),
                ("x-forwarded-for", "203.0.113.9, 198.51.100.1"),
                ("x-real-ip", "203.0.113.77"),
            ],
        );
        let expected = [
            ("host", "sandbox.test:44772"),
            ("authorization", "Bearer app"),
            ("cookie", "a=b"),
            ("x-forwarded-for", "203.0.113.9, 192.0.2.1"),
            ("x-real-ip", "203.0.113.77"),
            ("x-forwarded-proto", "http"),
        ];
        for (name, value) in expected {
            assert_eq!(headers[name], value);
        }
        assert_eq!(headers.len(), expected.len(), "{headers:?}");
    }

    #[test]
    fn the_chain_begins_with_what_is_known() {
        let chain = |fields: &[(&'static str, &'static str)]| {
            let headers = rewritten("/", fields);
            headers[X_FORWARDED_FOR].to_str().unwrap().to_owned()
        };
        assert_eq!(chain(&[]), "192.0.2.1");
        assert_eq!(
            chain(&[("x-real-ip", "203.0.113.7")]),
            "203.0.113.7, 192.0.2.1"
        );
        assert_eq!(
            chain(&[("x-forwarded-for", " , 1.2.3.4"), ("x-real-ip", "5.6.7.8")]),
            "5.6.7.8, 192.0.2.1"
        );
        let absolute = rewritten("http://named.test:81/x", &[("host", "other.test")]);
        assert_eq!(absolute[HOST], "named.test:81");
    }

    #[test]
    fn a_websocket_is_asked_for_in_its_only_version() {
        let headers = rewritten(
            "/",
            &[
                ("connection", "upgrade"),
                ("upgrade", "WebSocket"),
                ("sec-websocket-version", "8"),
            ],
        );
        assert_eq!(headers["connection"], "Upgrade");
        assert_eq!(headers["upgrade"], "WebSocket");
        assert_eq!(headers[SEC_WEBSOCKET_VERSION], "13");
    }
}
