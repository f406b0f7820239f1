//! What holds for any octets given to the readers of routes.

use http::{HeaderMap, HeaderValue, Uri};
use opensandbox::ingress::route::{HEADER, Mode, Route, redacted};

/// Panics if `data` makes a route break one of its laws.
pub fn check(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        if let Ok(route) = Route::from_label(text, "/a%2Fb") {
            assert_eq!(route.upstream_path(true), "/a%2Fb");
            assert_eq!(route.upstream_path(false), "/a%2Fb");
            check_route(&route);
        }
        if let Ok(route) = Route::from_path(text) {
            for is_secured in [true, false] {
                let path = route.upstream_path(is_secured);
                assert!(path == "/" || text.ends_with(path), "{text:?}: {path:?}");
                assert!(path.starts_with('/'), "{path:?}");
            }
            check_route(&route);
        }
        let shown = redacted(text);
        assert_eq!(redacted(&shown), shown, "nothing is left to leave out");
    }
    if let (Ok(value), Ok(uri)) = (HeaderValue::from_bytes(data), Uri::try_from(data)) {
        let headers = HeaderMap::from_iter([(HEADER, value)]);
        for mode in [Mode::Header, Mode::Uri] {
            let _ = Route::of(mode, &uri, &headers);
            let _ = Route::of(mode, &uri, &HeaderMap::new());
        }
    }
}

/// What is written reads the same, and does not show its signature.
fn check_route(route: &Route<'_>) {
    assert!(!route.sandbox.is_empty() && route.port != 0);
    let same = |read: Route<'_>| {
        assert_eq!(read.sandbox, route.sandbox);
        assert_eq!((read.port, read.signed), (route.port, route.signed));
    };
    // A dot ends a label, a colon may, and a scheme is cut off; a slash ends a segment.
    let plain = |octet: u8| octet.is_ascii_alphanumeric() || octet == b'-';
    if !route.sandbox.bytes().all(plain) || route.sandbox.starts_with('-') {
        return;
    }
    let label = route.label();
    let read = Route::from_label(&label, "/").expect("what was written can be read");
    // What looks like a signature is one.
    if route.signed.is_some() || read.signed.is_none() {
        same(read);
    }
    let prefix = route.prefix();
    same(Route::from_path(&prefix).expect("what was written can be read"));
    if let Some(signed) = route.signed {
        for text in [label, prefix] {
            assert!(!redacted(&text).ends_with(&signed.to_string()), "{text}");
        }
    }
}
