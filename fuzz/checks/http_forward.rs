//! What holds for the heads a proxy passes on, whatever came in.

use std::net::{IpAddr, Ipv4Addr};

use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use opensandbox::http::forward::{self, Origin, Upgrade};

/// Fields that no client can have dropped.
const KEPT: [&str; 4] = ["authorization", "cookie", "host", "x-token"];

/// Panics if a head made of the lines of `data` breaks one of the laws on its way.
pub fn check(data: &[u8]) {
    let mut headers = HeaderMap::new();
    for line in data.split(|octet| *octet == b'\n').take(200) {
        let Some(colon) = line.iter().position(|octet| *octet == b':') else {
            continue;
        };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name), HeaderValue::from_bytes(value))
        {
            headers.append(name, value);
        }
    }
    for bodied in [false, true] {
        for is_trusted in [false, true] {
            check_request(&headers, bodied, is_trusted);
        }
    }
    for status in [StatusCode::OK, StatusCode::SWITCHING_PROTOCOLS] {
        check_response(&headers, status);
    }
    let mut trailers = headers;
    forward::strip_trailers(&mut trailers);
    check_plain(&trailers);
    assert!(!trailers.contains_key(CONTENT_LENGTH) && !trailers.contains_key(HOST));
}

fn check_request(headers: &HeaderMap, bodied: bool, is_trusted: bool) {
    let mut request = http::Request::new(());
    *request.headers_mut() = headers.clone();
    let (mut head, ()) = request.into_parts();
    let upgrade = Upgrade::asked_for(&head, bodied);
    assert!(upgrade.is_none() || !bodied, "an upgrade has no body");
    let peer = Some(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let origin = Origin { peer, is_trusted };
    let protected = [HeaderName::from_static("x-token")];
    if forward::request(&mut head, bodied, upgrade.as_ref(), origin, &protected).is_err() {
        return;
    }
    for name in KEPT {
        let before = headers.get_all(name).iter().count();
        assert_eq!(head.headers.get_all(name).iter().count(), before, "{name}");
    }
    let chain: Vec<_> = head.headers.get_all("x-forwarded-for").iter().collect();
    assert_eq!(chain.len(), 1);
    assert!(chain[0].as_bytes().ends_with(b"127.0.0.1"));
    assert!(is_trusted || chain[0] == "127.0.0.1");
    let codings: Vec<_> = head.headers.get_all(TRANSFER_ENCODING).iter().collect();
    let has_length = head.headers.contains_key(CONTENT_LENGTH);
    assert!(codings.is_empty() || (codings == ["chunked"] && !has_length && bodied));
    assert!(!bodied || has_length || !codings.is_empty());
    assert_eq!(head.headers.contains_key(UPGRADE), upgrade.is_some());
    if let Some(te) = head.headers.get(TE) {
        assert_eq!(te, "trailers");
    }
    let options: Vec<_> = head.headers.get_all(CONNECTION).iter().collect();
    assert!(
        options.is_empty() || options == ["Upgrade"] || options == ["TE"],
        "{options:?}"
    );
    for name in [TE, UPGRADE, CONNECTION, TRANSFER_ENCODING] {
        head.headers.remove(name);
    }
    check_plain(&head.headers);
}

fn check_response(headers: &HeaderMap, status: StatusCode) {
    let mut response = http::Response::new(());
    *response.headers_mut() = headers.clone();
    *response.status_mut() = status;
    let (mut head, ()) = response.into_parts();
    let Ok(switched) = forward::response(&mut head, None) else {
        return;
    };
    assert!(!switched, "nobody asked for it");
    assert_ne!(head.status, StatusCode::SWITCHING_PROTOCOLS);
    assert!(head.headers.get_all(CONTENT_LENGTH).iter().count() <= 1);
    check_plain(&head.headers);
}

/// Nothing in them belongs to a connection.
fn check_plain(headers: &HeaderMap) {
    for name in [
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "transfer-encoding",
        "upgrade",
    ] {
        assert!(!headers.contains_key(name), "{name}");
    }
}
