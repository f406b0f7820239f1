//! What holds for any octets given to the reader of keys, and for any route that is signed.

use std::sync::Arc;

use opensandbox::ingress::access::{Credentials, Denied, Granted, Keys};
use opensandbox::ingress::provider::{Retired, Sandbox};
use opensandbox::ingress::route::Route;

/// Panics if a signature opens anything but what was signed.
pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let (list, label) = text.split_once('\0').unwrap_or((text, "sb-80"));
    if let Ok(keys) = Keys::parse(list) {
        assert!(keys.names().count() > 0);
        check_keys(&keys, label);
    }
}

fn check_keys(keys: &Keys, label: &str) {
    let Ok(route) = Route::from_label(label, "/") else {
        return;
    };
    let open = |route: &Route<'_>, now| {
        let sandbox = Sandbox {
            uid: "uid".into(),
            host: "10.0.0.1".into(),
            token: Some("token".into()),
            retired: Retired::default(),
        };
        let credentials = Credentials {
            presented: None,
            keys: Some(keys),
            now,
        };
        let decided = credentials.open(&Ok(Arc::new(sandbox)), route);
        decided.expect("a sandbox is there")
    };
    if route.signed.is_none() {
        assert_eq!(open(&route, 0), Err(Denied::SignatureRequired));
    }
    for name in keys.names() {
        let key = u8::try_from(name).expect("names are ASCII");
        let signed = keys
            .sign(key, &route.sandbox, route.port, 7)
            .expect("a key of that name");
        let mut signed_route = route.clone();
        signed_route.signed = Some(signed);
        assert_eq!(open(&signed_route, 7), Ok(Granted::Signature(key)));
        assert_eq!(open(&signed_route, 8), Err(Denied::Expired));
        let mut other = signed_route.clone();
        other.port = other.port.wrapping_add(1);
        let mut longer = signed_route;
        longer.signed = Some(opensandbox::ingress::route::Signed {
            expires: 8,
            ..signed
        });
        for tampered in [other, longer] {
            assert_eq!(open(&tampered, 7), Err(Denied::BadSignature));
        }
    }
}
