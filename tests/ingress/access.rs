//! Who comes in, over HTTP: the access matrix of the contract, and keys that change.

use opensandbox::ingress::access::Keys;
use support::http::Response;

use crate::scene::{PATIENCE, Running, Scene, TOKEN};
use support::eventually;

const KEYS: &str = "k=aW5ncmVzcy10ZXN0LXNlY3JldA==,z=YQ==";
/// Long after this test, in base 36.
const LATER: u64 = 4_102_444_800;

/// A signature of the sandbox `shut` and this port, with its expiry before it.
fn signed(keys: &str, key: u8, port: u16, expires: u64, by: char) -> String {
    let keys = Keys::parse(keys).unwrap();
    let signed = keys.sign(key, "shut", port, expires).unwrap();
    format!("{}{by}{signed}", signed.expiry())
}

/// What came of a request: what the sandbox saw, or what the client was told.
#[derive(Debug, PartialEq, Eq)]
enum Came {
    /// Through, with this request line.
    Through(String),
    /// No further, with this status and text.
    Refused(u16, String),
}

fn came(scene: &Scene, ingress: &Running, path: &str, headers: &[(&str, &str)]) -> Came {
    let before = scene.backend.requests().len();
    let answer = ingress.get(path, headers);
    let Some(text) = answer.body.strip_prefix("OpenSandbox Ingress: ") else {
        assert_eq!(answer.status, 200, "{answer:?}");
        let marker = answer.header("reverse-proxy-server-powerby");
        assert_eq!(marker, Some("OpenSandbox-ingress"));
        let seen = scene.backend.wait_for(before + 1).pop().unwrap();
        for ours in [
            "opensandbox-ingress-to",
            "open-sandbox-ingress",
            "opensandbox-secure-access",
        ] {
            assert_eq!(seen.header(ours), None, "{seen:?}");
        }
        let address = scene.backend.address().to_string();
        assert_eq!(seen.header("host"), Some(&*address));
        return Came::Through(seen.line);
    };
    assert_eq!(scene.backend.requests().len(), before, "it was passed on");
    assert_is_ours(&answer);
    Came::Refused(answer.status, text.trim_end().to_owned())
}

/// What every answer of our own looks like.
fn assert_is_ours(answer: &Response) {
    let header = |name| answer.header(name);
    assert_eq!(header("content-type"), Some("text/plain; charset=utf-8"));
    assert_eq!(header("x-content-type-options"), Some("nosniff"));
    assert_eq!(
        header("content-length"),
        Some(&*answer.body.len().to_string())
    );
    assert_eq!(header("reverse-proxy-server-powerby"), None);
    assert_eq!(header("www-authenticate"), None);
    assert!(answer.body.ends_with('\n'));
}

fn refused(status: u16, text: &str) -> Came {
    Came::Refused(status, text.to_owned())
}

const MISMATCH: &str = "signature: secure access header mismatch";
const REQUIRED: &str = "signature: signature required for this sandbox";
const BAD: &str = "signature: unauthorized: signature mismatch";

#[test]
fn the_access_matrix_holds_for_headers_and_hosts() {
    let scene = Scene::new();
    let port = scene.port();
    let keyed = scene
        .ingress()
        .arg(format!("--secure-access-keys={KEYS}"))
        .spawn();
    let keyless = scene.ingress().spawn();
    let on = || Came::Through("GET /on?a=1&b=2".to_owned());
    let valid = signed(KEYS, b'k', port, LATER, '-');
    let wrong = format!("{}-01234567k", valid.split('-').next().unwrap());
    let expired = signed(KEYS, b'k', port, 7, '-');
    let unknown = format!("{}x", &valid[..valid.len() - 1]);
    // Route, secure-access header, with keys, what comes of it.
    for (route, header, has_keys, expected) in [
        (format!("open-{port}"), None, true, on()),
        (format!("open-{port}"), Some("noise"), true, on()),
        (format!("open-{port}"), Some(""), true, on()),
        (format!("open-{port}-0-01234567a"), None, true, on()),
        (format!("shut-{port}"), None, true, refused(401, REQUIRED)),
        (format!("shut-{port}"), Some(TOKEN), true, on()),
        (format!("shut-{port}"), Some(TOKEN), false, on()),
        (
            format!("shut-{port}"),
            Some("wrong"),
            true,
            refused(401, MISMATCH),
        ),
        (
            format!("shut-{port}"),
            Some(""),
            true,
            refused(401, MISMATCH),
        ),
        (format!("shut-{port}-{valid}"), None, true, on()),
        (
            format!("shut-{port}-{valid}"),
            Some("wrong"),
            true,
            refused(401, MISMATCH),
        ),
        (
            format!("shut-{port}-{expired}"),
            Some("wrong"),
            true,
            refused(401, MISMATCH),
        ),
        (
            format!("shut-{port}-{wrong}"),
            None,
            true,
            refused(401, BAD),
        ),
        (format!("shut-{port}-{wrong}"), Some(TOKEN), true, on()),
        (format!("shut-{port}-{expired}"), Some(TOKEN), true, on()),
        (
            format!("shut-{port}-{expired}"),
            None,
            true,
            refused(401, "signature: access expired"),
        ),
        (
            format!("shut-{port}-{unknown}"),
            None,
            true,
            refused(401, "signature: unauthorized: unknown signed_key_id"),
        ),
        (
            format!("shut-{port}-{valid}"),
            None,
            false,
            refused(503, "signature: ingress verifier not configured"),
        ),
        (
            format!("nobody-{port}"),
            None,
            true,
            refused(404, "sandbox not found: nobody"),
        ),
        (
            "open".to_owned(),
            None,
            true,
            refused(400, "invalid ingress route: invalid host: open"),
        ),
        (
            "open-65536".to_owned(),
            None,
            true,
            refused(
                400,
                "invalid ingress route: invalid port format: invalid port \"65536\"",
            ),
        ),
    ] {
        let ingress = if has_keys { &keyed } else { &keyless };
        let secure = header.map(|value| ("OpenSandbox-Secure-Access", value));
        let by_header: Vec<_> = [("OpenSandbox-Ingress-To", &*route)]
            .into_iter()
            .chain(secure)
            .collect();
        let path = "/on?a=1&b=2";
        assert_eq!(came(&scene, ingress, path, &by_header), expected, "{route}");
        let former: Vec<_> = [("OPEN-SANDBOX-INGRESS", &*route)]
            .into_iter()
            .chain(secure)
            .collect();
        assert_eq!(came(&scene, ingress, path, &former), expected, "{route}");
        // In a host, below a domain; what is told repeats the host.
        if !matches!(expected, Came::Refused(400, _)) {
            let host = format!("{}.sandbox.gw:80", route.to_uppercase());
            let by_host: Vec<_> = [("Host", &*host)].into_iter().chain(secure).collect();
            assert_eq!(came(&scene, ingress, path, &by_host), expected, "{host}");
            let target = format!("http://{route}.sandbox.gw{path}");
            let absolute: Vec<_> = secure.into_iter().collect();
            assert_eq!(
                came(&scene, ingress, &target, &absolute),
                expected,
                "{target}"
            );
        }
    }
    // An address is no route.
    let host = keyed.address.to_string();
    let text = format!("invalid ingress route: invalid host: {host}");
    assert_eq!(came(&scene, &keyed, "/", &[]), refused(400, &text));
}

#[test]
fn the_access_matrix_holds_for_paths() {
    let scene = Scene::new();
    let port = scene.port();
    let keyed = scene
        .ingress()
        .arg("--mode=uri")
        .arg(format!("--secure-access-keys={KEYS}"))
        .spawn();
    let keyless = scene.ingress().arg("--mode=uri").spawn();
    let on = |path: &str| Came::Through(format!("GET {path}"));
    let valid = signed(KEYS, b'k', port, LATER, '/');
    let wrong = format!("{}/01234567k", valid.split('/').next().unwrap());
    for (path, header, has_keys, expected) in [
        (format!("/open/{port}"), None, true, on("/")),
        (
            format!("/open/{port}/v1/status?x=%20"),
            None,
            true,
            on("/v1/status?x=%20"),
        ),
        // Nothing between the route and the query is touched.
        (
            format!("/open/{port}//a%2Fb/./../c%20d%3Fe?"),
            None,
            true,
            on("//a%2Fb/./../c%20d%3Fe?"),
        ),
        // Where no credential is needed, a signature is the application's.
        (
            format!("/open/{port}/0/01234567a/extra/segment"),
            Some("noise"),
            true,
            on("/0/01234567a/extra/segment"),
        ),
        (
            format!("/shut/{port}/only/legacy"),
            None,
            true,
            refused(401, REQUIRED),
        ),
        (
            format!("/shut/{port}/only/legacy"),
            Some(TOKEN),
            true,
            on("/only/legacy"),
        ),
        (format!("/shut/{port}/{valid}/p/q"), None, true, on("/p/q")),
        (format!("/shut/{port}/{valid}"), None, true, on("/")),
        (
            format!("/shut/{port}/{valid}/p/q"),
            Some("wrong"),
            true,
            refused(401, MISMATCH),
        ),
        (
            format!("/shut/{port}/{wrong}/p/q"),
            None,
            true,
            refused(401, BAD),
        ),
        (
            format!("/shut/{port}/{wrong}/p/q"),
            Some(TOKEN),
            true,
            on("/p/q"),
        ),
        (
            format!("/shut/{port}/{valid}/p/q"),
            None,
            false,
            refused(503, "signature: ingress verifier not configured"),
        ),
        (
            format!("/shut/{port}/0/cafebabe0/api/x"),
            Some(TOKEN),
            false,
            on("/api/x"),
        ),
        (
            "/nobody/80/hello".to_owned(),
            None,
            true,
            refused(404, "sandbox not found: nobody"),
        ),
        (
            "/".to_owned(),
            None,
            true,
            refused(
                400,
                "invalid ingress route: invalid URI path format: expected '/<sandbox-id>/<sandbox-port>/<path-to-request>', got: /",
            ),
        ),
        (
            "/open/080/x".to_owned(),
            None,
            true,
            refused(
                400,
                "invalid ingress route: invalid port format: port must not have leading zeros",
            ),
        ),
    ] {
        let ingress = if has_keys { &keyed } else { &keyless };
        // A header names no route here.
        let route = Some(("OpenSandbox-Ingress-To", "open-1"));
        let secure = header.map(|value| ("OpenSandbox-Secure-Access", value));
        let headers: Vec<_> = route.into_iter().chain(secure).collect();
        assert_eq!(came(&scene, ingress, &path, &headers), expected, "{path}");
    }
    // No signature that was right is in the log.
    let signature = valid.split('/').nth(1).unwrap();
    let records = keyed.daemon.events("ingress.access");
    assert!(!records.is_empty());
    for record in records {
        assert!(!record.to_string().contains(signature), "{record}");
    }
}

#[test]
fn ports_can_be_closed() {
    let scene = Scene::new();
    let port = scene.port();
    let ingress = scene
        .ingress()
        .arg(format!("--denied-ports=22,{port}"))
        .spawn();
    let to = |port: u16| format!("shut-{port}");
    let asked = |route: &str| came(&scene, &ingress, "/", &[("OpenSandbox-Ingress-To", route)]);
    // Before anything about the sandbox is told.
    let text = format!("port {port} is not open");
    assert_eq!(asked(&to(port)), refused(403, &text));
    assert_eq!(asked(&format!("nobody-{port}")), refused(403, &text));
    assert_eq!(asked(&to(port - 1)), refused(401, REQUIRED));
}

#[test]
fn keys_are_exchanged_without_a_restart() {
    let scene = Scene::new();
    let port = scene.port();
    let (old, new) = ("a=b2xk", "b=bmV3");
    let file = scene.write("keys", old);
    let ingress = scene
        .ingress()
        .arg(format!("--secure-access-keys-file={}", file.display()))
        .spawn();
    let open = |keys: &str, key| {
        let route = format!("shut-{port}-{}", signed(keys, key, port, LATER, '-'));
        ingress
            .get("/", &[("OpenSandbox-Ingress-To", &route)])
            .status
    };
    assert_eq!((open(old, b'a'), open(new, b'b')), (200, 401));
    // Both hold while the server is being told of the new one.
    scene.write("keys", &format!("{old}\n{new}\n"));
    eventually(|| (open(new, b'b') == 200).then_some(()));
    assert_eq!(open(old, b'a'), 200);
    // A mistake changes nothing, and is told.
    scene.write("keys", "b=!");
    let told = |line: &serde_json::Value| {
        let text = line["msg"].as_str().unwrap_or_default();
        text.starts_with("secure-access keys stay as they are: ")
    };
    ingress.daemon.wait_for_line(PATIENCE, told);
    assert_eq!((open(old, b'a'), open(new, b'b')), (200, 200));
    scene.write("keys", new);
    eventually(|| (open(old, b'a') == 401).then_some(()));
    assert_eq!(open(new, b'b'), 200);
    let transcript = ingress.daemon.transcript();
    assert!(!transcript.contains("b2xk") && !transcript.contains("bmV3"));
}
