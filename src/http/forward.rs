//! What a proxy changes in the heads it passes on.
//!
//! Owns the difference between a message and the connection it came on: hop-by-hop fields, framing,
//! upgrades, the `X-Forwarded-*` chain. Pure: heads in, heads out. Never chooses where to send
//! anything, and never looks at a field that is for the application.
//!
//! hyper has parsed and framed the message before it comes here, and writes it anew afterwards, so
//! a bare LF or a space in the wrong place cannot pass. By itself it refuses invalid bytes in names
//! and values (`\rchunked`, obs-fold, a blank before the colon), `Content-Length` values that
//! differ or are no number, and requests whose last coding is not `chunked`; it drops a
//! `Content-Length` beside a `Transfer-Encoding`, and closes such a connection. What it lets pass
//! and two readers could understand differently is refused here.

use std::net::IpAddr;

use ::http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE,
    COOKIE, FORWARDED, HOST, HeaderName, ORIGIN, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE,
    TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use ::http::uri::PathAndQuery;
use ::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, Version, request, response};
use hyper::ext::Protocol;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// Fields that belong to the connection a message came on.
static HOP_BY_HOP: [HeaderName; 8] = [
    CONNECTION,
    KEEP_ALIVE,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    PROXY_CONNECTION,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Fields that say where a request came from.
static PROVENANCE: [HeaderName; 6] = [
    FORWARDED,
    X_FORWARDED_FOR,
    X_FORWARDED_HOST,
    X_FORWARDED_PORT,
    X_FORWARDED_PROTO,
    X_REAL_IP,
];

/// Fields that no sender can mean for one connection only. Naming one in `Connection` is the trick
/// by which a client has a proxy drop what it should have passed on, so it has no effect.
static END_TO_END: [HeaderName; 9] = [
    AUTHORIZATION,
    CACHE_CONTROL,
    CONTENT_ENCODING,
    CONTENT_LENGTH,
    CONTENT_TYPE,
    COOKIE,
    HOST,
    ORIGIN,
    TRANSFER_ENCODING,
];

/// Why a message is not passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Its body has a coding that was not undone, so that its reader could not tell what it is.
    #[error("only the transfer coding \"chunked\" is supported")]
    TransferCoding,
    /// It says twice where it ends.
    #[error("both a length and a transfer coding")]
    Ambiguous,
    /// A tunnel to anywhere is asked for, or an extended `CONNECT` for anything but WebSocket.
    #[error("CONNECT is supported for WebSocket only")]
    Connect,
    /// A backend changed the protocol unasked, or to another than was asked for.
    #[error("the backend switched to a protocol that was not asked for")]
    Protocol,
}

impl Refused {
    /// The status a client is answered with when it is its request that is refused.
    #[must_use]
    pub fn status(self) -> StatusCode {
        match self {
            Self::TransferCoding | Self::Connect => StatusCode::NOT_IMPLEMENTED,
            Self::Ambiguous | Self::Protocol => StatusCode::BAD_REQUEST,
        }
    }
}

/// The change of protocol a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upgrade {
    /// The protocol, as the client wrote it.
    pub protocol: HeaderValue,
    /// Whether it was asked for with an extended `CONNECT` (RFC 8441), so that the answer to the
    /// client is 200 where that of the backend is 101.
    pub extended: bool,
}

impl Upgrade {
    /// What `head` asks for. An upgrade is recognised by its tokens, whatever their case and
    /// company. One to `h2c` is not offered to backends: what follows would be requests that
    /// nobody looked at. A request with a body (`bodied`) is an ordinary one, as RFC 9110 allows.
    #[must_use]
    pub fn asked_for(head: &request::Parts, bodied: bool) -> Option<Self> {
        if head.version == Version::HTTP_2 {
            let protocol = head.extensions.get::<Protocol>()?;
            let protocol = HeaderValue::from_str(protocol.as_str()).ok()?;
            return (head.method == Method::CONNECT).then_some(Self {
                protocol,
                extended: true,
            });
        }
        let protocol = head.headers.get(UPGRADE)?;
        let known = !protocol.is_empty() && !has_token(head.headers.get_all(UPGRADE), "h2c");
        let asked = head.version == Version::HTTP_11
            && known
            && !bodied
            && has_token(head.headers.get_all(CONNECTION), "upgrade");
        asked.then(|| Self {
            protocol: protocol.clone(),
            extended: false,
        })
    }

    /// Whether WebSocket is asked for.
    #[must_use]
    pub fn is_websocket(&self) -> bool {
        self.protocol.as_bytes().eq_ignore_ascii_case(b"websocket")
    }

    fn is_granted_by(&self, headers: &HeaderMap) -> bool {
        let granted = headers.get(UPGRADE).map(HeaderValue::as_bytes);
        granted.is_some_and(|granted| {
            let mut offers = self.protocol.as_bytes().split(|byte| *byte == b',');
            offers.any(|offer| offer.trim_ascii().eq_ignore_ascii_case(granted))
        })
    }
}

/// Where a request came from, for the fields that tell the backend.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    /// The address of the peer; none on a Unix socket.
    pub peer: Option<IpAddr>,
    /// Whether what the peer says about earlier hops is believed. If not, it is replaced.
    pub is_trusted: bool,
}

/// Makes of the head of a received request the head to send to a backend over HTTP/1.1, apart from
/// `Host`, which is left as it was. `bodied` says whether a body follows. Fields in `protected` are
/// kept even if the client names them in `Connection`. The extensions, which are about the connection
/// the request came on, are removed.
///
/// # Errors
///
/// The request must not be passed on.
pub fn request(
    head: &mut request::Parts,
    bodied: bool,
    upgrade: Option<&Upgrade>,
    origin: Origin,
    protected: &[HeaderName],
) -> Result<(), Refused> {
    if head.method == Method::CONNECT && !upgrade.is_some_and(Upgrade::is_websocket) {
        return Err(Refused::Connect);
    }
    check_framing(&head.headers)?;
    let trailers = has_token(head.headers.get_all(TE), "trailers");
    let host = head.uri.authority().map(|authority| {
        let host = authority.as_str();
        host.rsplit_once('@').map_or(host, |(_, host)| host)
    });
    let host = match host {
        Some(host) => HeaderValue::from_str(host).ok(),
        None => head.headers.get(HOST).cloned(),
    };

    let headers = &mut head.headers;
    if !origin.is_trusted {
        remove(headers, |name| PROVENANCE.contains(name));
    }
    strip(headers, bodied, protected);
    if let Some(upgrade) = upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, upgrade.protocol.clone());
    } else if trailers {
        headers.insert(CONNECTION, HeaderValue::from_static("TE"));
    }
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    if bodied && !headers.contains_key(CONTENT_LENGTH) {
        // Said here, because for some methods hyper would leave the body out.
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    if head.version == Version::HTTP_2 {
        join_cookies(headers);
    }
    append_peer(headers, origin.peer);
    if let Some(host) = host {
        headers.entry(X_FORWARDED_HOST).or_insert(host);
    }
    let scheme = HeaderValue::from_static("http");
    headers.entry(X_FORWARDED_PROTO).or_insert(scheme);

    if head.method == Method::CONNECT {
        head.method = Method::GET;
    }
    head.extensions.clear();
    let path = head.uri.path_and_query().cloned();
    let path = path.unwrap_or_else(|| PathAndQuery::from_static("/"));
    head.uri = Uri::from(path);
    head.version = Version::HTTP_11;
    Ok(())
}

/// Makes of the head of a backend's response the head to answer with. Returns whether the protocol
/// changes. `upgrade` is what the request asked for.
///
/// # Errors
///
/// The response must not be passed on.
pub fn response(head: &mut response::Parts, upgrade: Option<&Upgrade>) -> Result<bool, Refused> {
    let headers = &mut head.headers;
    if head.status == StatusCode::SWITCHING_PROTOCOLS {
        let asked = upgrade.filter(|upgrade| upgrade.is_granted_by(headers));
        let upgrade = asked.ok_or(Refused::Protocol)?;
        let granted = headers.get(UPGRADE).cloned();
        strip(headers, false, &[]);
        headers.remove(CONTENT_LENGTH);
        if upgrade.extended {
            head.status = StatusCode::OK;
            headers.remove("sec-websocket-accept");
        } else if let Some(granted) = granted {
            headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
            headers.insert(UPGRADE, granted);
        }
        head.version = Version::HTTP_11;
        return Ok(true);
    }
    if headers.contains_key(TRANSFER_ENCODING) {
        // RFC 9112 6.3: the coding wins, and the length must not be passed on.
        headers.remove(CONTENT_LENGTH);
    }
    check_framing(headers)?;
    single_length(headers);
    strip(headers, true, &[]);
    head.version = Version::HTTP_11;
    Ok(false)
}

/// Removes from the head of an interim response (1xx) what belongs to the backend's connection.
pub fn strip_interim(headers: &mut HeaderMap) {
    strip(headers, false, &[]);
    headers.remove(CONTENT_LENGTH);
}

/// Removes from trailers what frames, routes or authenticates a message, or belongs to a
/// connection: no trailer may carry it.
pub fn strip_trailers(trailers: &mut HeaderMap) {
    remove(trailers, |name| {
        END_TO_END.contains(name)
            || PROVENANCE.contains(name)
            || HOP_BY_HOP.contains(name)
            || *name == TRAILER
    });
}

/// Removes the fields that are unwanted. A look at the few there are takes less time than a search
/// for each that could be.
pub fn remove(headers: &mut HeaderMap, is_unwanted: impl Fn(&HeaderName) -> bool) {
    let names = headers.keys().filter(|name| is_unwanted(name));
    let unwanted: Vec<_> = names.cloned().collect();
    for name in unwanted {
        headers.remove(name);
    }
}

fn check_framing(headers: &HeaderMap) -> Result<(), Refused> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let Some(coding) = codings.next() else {
        return Ok(());
    };
    let coding = coding.as_bytes().trim_ascii();
    if codings.next().is_some() || !coding.eq_ignore_ascii_case(b"chunked") {
        return Err(Refused::TransferCoding);
    }
    if headers.contains_key(CONTENT_LENGTH) {
        return Err(Refused::Ambiguous);
    }
    Ok(())
}

/// hyper accepts a length said several times if it is the same; it is passed on once.
fn single_length(headers: &mut HeaderMap) {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let Some(first) = lengths.next() else { return };
    let said = first.as_bytes();
    let once = said.split(|byte| *byte == b',').next().unwrap_or_default();
    if (once.len() != said.len() || lengths.next().is_some())
        && let Ok(length) = HeaderValue::from_bytes(once.trim_ascii())
    {
        headers.insert(CONTENT_LENGTH, length);
    }
}

/// Removes what belongs to the connection a message came on, and what the message says does.
fn strip(headers: &mut HeaderMap, bodied: bool, protected: &[HeaderName]) {
    let mut named = Vec::new();
    for line in headers.get_all(CONNECTION) {
        for token in line.as_bytes().split(|byte| *byte == b',') {
            let token = token.trim_ascii();
            let usual = [&b"close"[..], b"keep-alive", b"upgrade", b"te"];
            if token.is_empty() || usual.iter().any(|usual| usual.eq_ignore_ascii_case(token)) {
                continue;
            }
            if let Ok(name) = HeaderName::from_bytes(token)
                && !END_TO_END.contains(&name)
                && !PROVENANCE.contains(&name)
                && !protected.contains(&name)
            {
                named.push(name);
            }
        }
    }
    for name in named {
        headers.remove(name);
    }
    remove(headers, |name| {
        HOP_BY_HOP.contains(name) || (!bodied && *name == TRAILER)
    });
}

/// HTTP/2 may split cookies into several fields, HTTP/1.1 must not (RFC 9113 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let crumbs: Vec<_> = headers.get_all(COOKIE).iter().collect();
    if crumbs.len() > 1 {
        let crumbs: Vec<_> = crumbs.into_iter().map(HeaderValue::as_bytes).collect();
        if let Ok(cookie) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
            headers.insert(COOKIE, cookie);
        }
    }
}

fn append_peer(headers: &mut HeaderMap, peer: Option<IpAddr>) {
    let Some(peer) = peer else { return };
    let mut chain = Vec::new();
    for hop in headers.get_all(X_FORWARDED_FOR) {
        chain.extend_from_slice(hop.as_bytes());
        chain.extend_from_slice(b", ");
    }
    // An address prints as ASCII, and what was a value before still is one.
    let peer = address(peer).into_bytes();
    if chain.is_empty() {
        chain = peer;
    } else {
        chain.extend_from_slice(&peer);
    }
    if let Ok(chain) = HeaderValue::from_maybe_shared(bytes::Bytes::from(chain)) {
        headers.insert(X_FORWARDED_FOR, chain);
    }
}

/// An address as text, an IPv4 address inside IPv6 as IPv4. Every request asks for it, and `fmt`
/// takes ten times as long for the usual kind.
#[must_use]
pub fn address(address: IpAddr) -> String {
    let v4 = match address.to_canonical() {
        IpAddr::V4(v4) => v4,
        IpAddr::V6(v6) => return v6.to_string(),
    };
    let mut text = String::with_capacity("255.255.255.255".len());
    let digit = |number| char::from(b'0' + number % 10);
    for (index, octet) in v4.octets().into_iter().enumerate() {
        if index > 0 {
            text.push('.');
        }
        if octet >= 100 {
            text.push(digit(octet / 100));
        }
        if octet >= 10 {
            text.push(digit(octet / 10));
        }
        text.push(digit(octet));
    }
    text
}

fn has_token(lines: ::http::header::GetAll<'_, HeaderValue>, token: &str) -> bool {
    lines.iter().any(|line| {
        let mut tokens = line.as_bytes().split(|byte| *byte == b',');
        tokens.any(|found| found.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANYONE: Origin = Origin {
        peer: Some(IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1))),
        is_trusted: true,
    };

    fn received(fields: &[(&'static str, &'static str)]) -> request::Parts {
        let mut request = ::http::Request::new(());
        *request.uri_mut() = Uri::from_static("/a%2Fb//c?d=%20");
        for (name, value) in fields {
            let value = HeaderValue::from_static(value);
            request.headers_mut().append(*name, value);
        }
        request.into_parts().0
    }

    fn answered(status: u16, fields: &[(&'static str, &'static str)]) -> response::Parts {
        let mut response = ::http::Response::new(());
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        for (name, value) in fields {
            let value = HeaderValue::from_static(value);
            response.headers_mut().append(*name, value);
        }
        response.into_parts().0
    }

    fn fields(headers: &HeaderMap) -> Vec<(String, String)> {
        let mut fields: Vec<_> = headers
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
            .collect();
        fields.sort();
        fields
    }

    fn passed_on(received_fields: &[(&'static str, &'static str)]) -> Vec<(String, String)> {
        let mut head = received(received_fields);
        request(&mut head, false, None, ANYONE, &[]).unwrap();
        let mut fields = fields(&head.headers);
        fields.retain(|(name, _)| name != "x-forwarded-for" && name != "x-forwarded-proto");
        fields
    }

    #[test]
    fn what_belongs_to_a_connection_stays_on_it() {
        let kept = passed_on(&[
            ("connection", "close, X-Internal"),
            ("connection", "keep-alive"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("proxy-authorization", "Basic x"),
            ("te", "gzip"),
            ("trailer", "x-sum"),
            ("upgrade", "h2c"),
            ("x-internal", "1"),
            ("accept", "*/*"),
            ("authorization", "Bearer t"),
        ]);
        let expected = [("accept", "*/*"), ("authorization", "Bearer t")];
        assert_eq!(kept, expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
    }

    #[test]
    fn naming_a_field_in_connection_does_not_drop_what_is_for_the_application() {
        let mut head = received(&[
            (
                "connection",
                "close, Authorization, Cookie, X-Forwarded-For, Host, Content-Length, X-Token",
            ),
            ("authorization", "Bearer t"),
            ("cookie", "a=b"),
            ("x-forwarded-for", "10.0.0.1"),
            ("host", "a.test"),
            ("content-length", "3"),
            ("x-token", "secret"),
        ]);
        let protected = [HeaderName::from_static("x-token")];
        request(&mut head, true, None, ANYONE, &protected).unwrap();
        for name in [
            "authorization",
            "cookie",
            "host",
            "content-length",
            "x-token",
        ] {
            assert!(head.headers.contains_key(name), "{name}");
        }
        assert_eq!(head.headers["x-forwarded-for"], "10.0.0.1, 192.0.2.1");
        assert!(!head.headers.contains_key("connection"));
    }

    #[test]
    fn the_chain_of_hops_grows_and_is_believed_only_from_the_trusted() {
        let before = [
            ("host", "a.test:80"),
            ("x-forwarded-for", "10.0.0.1, 198.51.100.2"),
            ("x-forwarded-for", "10.0.0.3"),
            ("x-forwarded-proto", "https"),
            ("x-real-ip", "10.0.0.1"),
        ];
        let mut head = received(&before);
        request(&mut head, false, None, ANYONE, &[]).unwrap();
        let chain = "10.0.0.1, 198.51.100.2, 10.0.0.3, 192.0.2.1";
        assert_eq!(head.headers["x-forwarded-for"], chain);
        assert_eq!(head.headers.get_all("x-forwarded-for").iter().count(), 1);
        assert_eq!(head.headers["x-forwarded-proto"], "https");
        assert_eq!(head.headers["x-forwarded-host"], "a.test:80");
        assert_eq!(head.headers["x-real-ip"], "10.0.0.1");

        let mut head = received(&before);
        let stranger = Origin {
            is_trusted: false,
            ..ANYONE
        };
        request(&mut head, false, None, stranger, &[]).unwrap();
        assert_eq!(head.headers["x-forwarded-for"], "192.0.2.1");
        assert_eq!(head.headers["x-forwarded-proto"], "http");
        assert!(!head.headers.contains_key("x-real-ip"));
    }

    #[test]
    fn an_address_inside_ipv6_is_written_as_ipv4() {
        let mut head = received(&[]);
        let origin = Origin {
            peer: Some("::ffff:192.0.2.9".parse().unwrap()),
            is_trusted: true,
        };
        request(&mut head, false, None, origin, &[]).unwrap();
        assert_eq!(head.headers["x-forwarded-for"], "192.0.2.9");
    }

    #[test]
    fn addresses_are_written_as_they_always_are() {
        for bits in (0..=u8::MAX).map(|octet| u32::from_be_bytes([octet, 0, 255 - octet, 9])) {
            let v4 = std::net::Ipv4Addr::from_bits(bits);
            assert_eq!(address(v4.into()), v4.to_string());
            assert_eq!(address(v4.to_ipv6_mapped().into()), v4.to_string());
        }
        assert_eq!(address("fd00::0:1".parse().unwrap()), "fd00::1");
    }

    #[test]
    fn paths_are_passed_on_as_they_came() {
        for uri in ["/a%2Fb//c?d=%20", "http://user@a.test:81/a%2Fb//c?d=%20"] {
            let mut head = received(&[("host", "b.test")]);
            head.uri = Uri::from_static(uri);
            request(&mut head, false, None, ANYONE, &[]).unwrap();
            assert_eq!(head.uri, "/a%2Fb//c?d=%20");
            let host = if uri.starts_with('/') {
                "b.test"
            } else {
                "a.test:81"
            };
            assert_eq!(head.headers["x-forwarded-host"], host);
        }
        let mut head = received(&[]);
        (head.method, head.uri) = (Method::OPTIONS, Uri::from_static("*"));
        request(&mut head, false, None, ANYONE, &[]).unwrap();
        assert_eq!(head.uri, "*");
    }

    #[test]
    fn trailers_are_asked_for_hop_by_hop() {
        let mut head = received(&[("te", "gzip;q=0.5, Trailers"), ("connection", "TE")]);
        request(&mut head, false, None, ANYONE, &[]).unwrap();
        assert_eq!(head.headers["te"], "trailers");
        assert_eq!(head.headers["connection"], "TE");
    }

    #[test]
    fn a_body_is_framed_once() {
        let mut head = received(&[("transfer-encoding", "chunked"), ("trailer", "x-sum")]);
        request(&mut head, true, None, ANYONE, &[]).unwrap();
        assert_eq!(head.headers["transfer-encoding"], "chunked");
        assert_eq!(head.headers["trailer"], "x-sum");
        let mut head = received(&[("content-length", "4")]);
        request(&mut head, true, None, ANYONE, &[]).unwrap();
        assert!(!head.headers.contains_key("transfer-encoding"));
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for (fields, refused) in [
            (
                &[("transfer-encoding", "gzip, chunked")][..],
                Refused::TransferCoding,
            ),
            (
                &[("transfer-encoding", "chunked, chunked")],
                Refused::TransferCoding,
            ),
            (
                &[("transfer-encoding", "identity")],
                Refused::TransferCoding,
            ),
            (
                &[("transfer-encoding", "xchunked")],
                Refused::TransferCoding,
            ),
            (
                &[("transfer-encoding", "chunked;q=1")],
                Refused::TransferCoding,
            ),
            (
                &[
                    ("transfer-encoding", "chunked"),
                    ("transfer-encoding", "chunked"),
                ],
                Refused::TransferCoding,
            ),
            (
                &[("transfer-encoding", "chunked"), ("content-length", "3")],
                Refused::Ambiguous,
            ),
        ] {
            let mut head = received(fields);
            let result = request(&mut head, true, None, ANYONE, &[]);
            assert_eq!(result, Err(refused), "{fields:?}");
        }
        let mut head = received(&[]);
        head.method = Method::CONNECT;
        let result = request(&mut head, false, None, ANYONE, &[]);
        assert_eq!(result, Err(Refused::Connect));
    }

    #[test]
    fn cookies_split_by_http2_are_joined() {
        let mut head = received(&[("cookie", "a=1"), ("cookie", "b=2")]);
        head.version = Version::HTTP_2;
        request(&mut head, false, None, ANYONE, &[]).unwrap();
        let cookies: Vec<_> = head.headers.get_all("cookie").iter().collect();
        assert_eq!(cookies, ["a=1; b=2"]);
    }

    #[test]
    fn an_upgrade_is_recognised_by_its_tokens() {
        for (connection, upgrade, asked) in [
            ("Upgrade", "websocket", true),
            ("keep-alive, Upgrade", "WebSocket", true),
            ("upgrade", "anything/1", true),
            ("keep-alive", "websocket", false),
            ("upgraded", "websocket", false),
            ("Upgrade", "", false),
            ("Upgrade, HTTP2-Settings", "h2c", false),
        ] {
            let head = received(&[("connection", connection), ("upgrade", upgrade)]);
            let found = Upgrade::asked_for(&head, false);
            assert_eq!(found.is_some(), asked, "{connection} {upgrade}");
            assert_eq!(Upgrade::asked_for(&head, true), None);
        }
    }

    #[test]
    fn an_upgrade_is_passed_on_with_what_belongs_to_it() {
        let mut head = received(&[
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-key", "k"),
            ("sec-websocket-protocol", "a, b"),
            ("authorization", "Bearer t"),
        ]);
        let upgrade = Upgrade::asked_for(&head, false).unwrap();
        request(&mut head, false, Some(&upgrade), ANYONE, &[]).unwrap();
        assert_eq!(head.headers["connection"], "Upgrade");
        assert_eq!(head.headers["upgrade"], "websocket");
        assert_eq!(head.headers["sec-websocket-protocol"], "a, b");
        assert_eq!(head.headers["authorization"], "Bearer t");

        let granted = [("connection", "upgrade"), ("upgrade", "WebSocket")];
        let mut head = answered(101, &granted);
        assert_eq!(response(&mut head, Some(&upgrade)), Ok(true));
        assert_eq!(head.headers["upgrade"], "WebSocket");
        let mut head = answered(101, &granted);
        assert_eq!(response(&mut head, None), Err(Refused::Protocol));
        let mut head = answered(101, &[("upgrade", "other")]);
        assert_eq!(response(&mut head, Some(&upgrade)), Err(Refused::Protocol));
        let mut head = answered(403, &[("connection", "close"), ("content-length", "3")]);
        assert_eq!(response(&mut head, Some(&upgrade)), Ok(false));
        assert_eq!(head.headers["content-length"], "3");
    }

    #[test]
    fn an_extended_connect_is_answered_in_its_own_way() {
        let mut head = received(&[]);
        head.version = Version::HTTP_2;
        head.method = Method::CONNECT;
        head.extensions.insert(Protocol::from_static("websocket"));
        let upgrade = Upgrade::asked_for(&head, true).unwrap();
        assert!(upgrade.is_websocket() && upgrade.extended);
        request(&mut head, false, Some(&upgrade), ANYONE, &[]).unwrap();
        assert_eq!(head.method, Method::GET);
        assert_eq!(head.headers["upgrade"], "websocket");
        let mut head = answered(
            101,
            &[
                ("connection", "upgrade"),
                ("upgrade", "websocket"),
                ("sec-websocket-accept", "x"),
                ("sec-websocket-protocol", "a"),
            ],
        );
        assert_eq!(response(&mut head, Some(&upgrade)), Ok(true));
        assert_eq!(head.status, StatusCode::OK);
        let only = [("sec-websocket-protocol".to_owned(), "a".to_owned())];
        assert_eq!(fields(&head.headers), only);
    }

    #[test]
    fn a_response_says_once_how_long_it_is() {
        let mut head = answered(
            200,
            &[("transfer-encoding", "chunked"), ("content-length", "9")],
        );
        assert_eq!(response(&mut head, None), Ok(false));
        assert_eq!(fields(&head.headers), []);
        let mut head = answered(200, &[("content-length", "5, 5")]);
        assert_eq!(response(&mut head, None), Ok(false));
        assert_eq!(head.headers["content-length"], "5");
        let mut head = answered(200, &[("transfer-encoding", "gzip, chunked")]);
        assert_eq!(response(&mut head, None), Err(Refused::TransferCoding));
    }

    #[test]
    fn trailers_carry_nothing_that_frames_or_routes() {
        let mut trailers = received(&[
            ("x-checksum", "1"),
            ("grpc-status", "0"),
            ("content-length", "1"),
            ("transfer-encoding", "chunked"),
            ("host", "a.test"),
            ("authorization", "Bearer t"),
            ("connection", "close"),
        ])
        .headers;
        strip_trailers(&mut trailers);
        let mut left: Vec<_> = trailers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["grpc-status", "x-checksum"]);
    }
}
