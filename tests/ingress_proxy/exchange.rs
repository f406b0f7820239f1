//! One request and its response: what is passed on, what is not, and what is answered instead.

use opensandbox::ingress::access::Keys;
use opensandbox::ingress::provider::Missing;
use opensandbox::ingress::proxy::Settings;
use opensandbox::ingress::route::Mode;

use crate::scene::{Backend, Scene};

/// Names and values of the fields of a response, names in lower case.
fn fields(response: &str) -> Vec<(String, String)> {
    let (head, _) = response.split_once("\r\n\r\n").unwrap();
    let lines = head.split("\r\n").skip(1);
    let pairs = lines.map(|line| line.split_once(": ").unwrap());
    pairs
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect()
}

fn field(response: &str, name: &str) -> Option<String> {
    let found = fields(response);
    let mut named = found.into_iter().filter(|(found, _)| found == name);
    named.next().map(|(_, value)| value)
}

#[test]
fn a_request_reaches_its_sandbox_with_what_is_for_it() {
    let scene = Scene::new();
    let backend = Backend::recording("hello");
    let route = scene.sandbox("box", &backend);
    let response = scene.raw(format!(
        "POST /a%2Fb//c/../d?x=%20&y HTTP/1.1\r\nHost: gateway.test\r\n\
         OpenSandbox-Ingress-To: {route}\r\nOpenSandbox-Secure-Access: t\r\n\
         OPEN-SANDBOX-INGRESS: other-1\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\n\
         Keep-Alive: timeout=1\r\nProxy-Authorization: Basic x\r\nTE: trailers, gzip\r\n\
         Authorization: Bearer t\r\nCookie: a=1\r\nX-EXECD-ACCESS-TOKEN: e\r\n\
         OPENSANDBOX-EGRESS-AUTH: g\r\nX-Forwarded-For: 10.0.0.1\r\n\
         Accept-Encoding: br\r\nContent-Length: 4\r\n\r\nbody"
    ));
    assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
    assert!(response.ends_with("\r\n\r\nhello"), "{response}");
    let mark = field(&response, "reverse-proxy-server-powerby");
    assert_eq!(mark.as_deref(), Some("OpenSandbox-ingress"));

    let request = backend.request();
    assert_eq!(request.line, "POST /a%2Fb//c/../d?x=%20&y HTTP/1.1");
    assert_eq!(request.body, b"body");
    let host = backend.address.to_string();
    let mut seen = request.fields.clone();
    seen.sort();
    let expected = [
        ("accept-encoding", "br"),
        ("authorization", "Bearer t"),
        ("connection", "TE"),
        ("content-length", "4"),
        ("cookie", "a=1"),
        ("host", &host),
        ("opensandbox-egress-auth", "g"),
        ("te", "trailers"),
        ("x-execd-access-token", "e"),
        ("x-forwarded-for", "10.0.0.1, 127.0.0.1"),
        ("x-forwarded-host", "gateway.test"),
        ("x-forwarded-proto", "http"),
    ];
    assert_eq!(seen, expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
}

#[test]
fn responses_lose_only_what_belongs_to_the_connection() {
    let scene = Scene::new();
    let backend = Backend::answering(|peer, _| {
        peer.send(
            "HTTP/1.1 418 Short And Stout\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n\
             Connection: keep-alive, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\n\
             Proxy-Authenticate: Basic\r\nX-Request-ID: r\r\nContent-Length: 3\r\n\r\ntea",
        );
    });
    let route = scene.sandbox("box", &backend);
    let response = scene.get(&route, "/", "");
    assert!(response.starts_with("HTTP/1.1 418 "), "{response}");
    let found = fields(&response);
    let cookies: Vec<_> = found
        .iter()
        .filter(|(name, _)| name == "set-cookie")
        .collect();
    assert_eq!(cookies.len(), 2, "{response}");
    assert_eq!(field(&response, "x-request-id").as_deref(), Some("r"));
    for name in ["x-hop", "keep-alive", "proxy-authenticate", "content-type"] {
        assert_eq!(field(&response, name), None, "{response}");
    }
    assert!(field(&response, "date").is_some());
}

#[test]
fn connections_to_a_sandbox_are_used_again() {
    let scene = Scene::new();
    let backend = Backend::recording("ok");
    let route = scene.sandbox("box", &backend);
    for _ in 0..20 {
        assert!(scene.get(&route, "/", "").contains("200 OK"));
    }
    // One for each core at most: the kernel chooses which core a client comes to.
    assert!(backend.connections() <= 2, "{}", backend.connections());
}

#[test]
fn a_path_can_be_the_route() {
    let scene = Scene::with(Settings::new(Mode::Uri), |_| {});
    let backend = Backend::recording("ok");
    scene.sandbox("box", &backend);
    let port = backend.address.port();
    for (path, seen) in [
        (
            format!("/box/{port}/a%2Fb/c%20d%3Fe?q=%2F"),
            "/a%2Fb/c%20d%3Fe?q=%2F",
        ),
        (format!("/box/{port}"), "/"),
        (format!("/box/{port}//x/./y"), "//x/./y"),
        (
            format!("/box/{port}/0/cafebabe0/api?x"),
            "/0/cafebabe0/api?x",
        ),
    ] {
        backend.requests.lock().unwrap().clear();
        let response = scene.get("gateway", &path, "");
        assert!(response.contains("200 OK"), "{response}");
        assert_eq!(backend.request().line, format!("GET {seen} HTTP/1.1"));
    }
    let (sandbox, used, path) = scene.used.0.lock().unwrap()[0].clone();
    assert_eq!((sandbox.as_str(), used), ("box", port));
    assert_eq!(path.as_deref(), Some("/a%2Fb/c%20d%3Fe"));
    let access = scene.access(|access| access["uri"] == format!("/box/{port}"));
    assert_eq!(access["status"], 200);
    assert_eq!(access["route_mode"], "uri");
}

#[test]
fn absolute_targets_say_the_host_and_never_the_scheme() {
    let scene = Scene::new();
    let backend = Backend::recording("ok");
    let route = scene.sandbox("box", &backend);
    let response = scene.raw(format!(
        "GET https://{route}.test/x HTTP/1.1\r\nHost: other-1.test\r\nConnection: close\r\n\r\n"
    ));
    assert!(response.contains("200 OK"), "{response}");
    assert_eq!(backend.request().line, "GET /x HTTP/1.1");
    let forwarded = format!("{route}.test");
    assert_eq!(
        backend.request().field("x-forwarded-host"),
        Some(forwarded.as_str())
    );
}

#[test]
fn head_and_bodiless_answers_keep_their_fields() {
    let scene = Scene::new();
    let backend = Backend::answering(|peer, request| {
        if request.line.starts_with("HEAD") {
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n");
        } else if request.line.contains("/none") {
            peer.send("HTTP/1.1 204 No Content\r\nX-A: 1\r\n\r\n");
        } else {
            peer.send("HTTP/1.1 304 Not Modified\r\nETag: \"e\"\r\n\r\n");
        }
    });
    let route = scene.sandbox("box", &backend);
    let response = scene.raw(format!(
        "HEAD / HTTP/1.1\r\nHost: {route}.test\r\nConnection: close\r\n\r\n"
    ));
    assert_eq!(field(&response, "content-length").as_deref(), Some("1234"));
    assert!(response.ends_with("\r\n\r\n"), "{response}");
    let response = scene.get(&route, "/none", "");
    assert!(response.starts_with("HTTP/1.1 204 "), "{response}");
    assert_eq!(field(&response, "content-length"), None);
    let response = scene.get(&route, "/same", "");
    assert_eq!(
        field(&response, "etag").as_deref(),
        Some("\"e\""),
        "{response}"
    );
    assert_eq!(backend.connections().min(2), backend.connections());
}

#[test]
fn an_ipv6_sandbox_is_named_in_brackets() {
    let scene = Scene::new();
    let address = "[::1]:0".parse().unwrap();
    let backend = Backend::at(address, |mut peer| {
        let request = peer.request().unwrap();
        let host = request.field("host").unwrap().to_owned();
        peer.answer(&host);
    });
    scene.sandboxes.set("six", "six", "::1", None);
    let port = backend.address.port();
    let response = scene.get(&format!("six-{port}"), "/", "");
    assert!(response.ends_with(&format!("[::1]:{port}")), "{response}");
}

#[test]
fn what_ingress_answers_itself_is_text_with_its_name() {
    let scene = Scene::new();
    let backend = Backend::recording("ok");
    let port = backend.address.port();
    scene
        .sandboxes
        .set("secret", "secret", "127.0.0.1", Some("token"));
    scene.sandboxes.miss(
        "late",
        Missing::NotReady {
            reason: "late (ready: 0/1)".to_owned(),
            object: "space/late".to_owned(),
            token: None,
        },
    );
    scene.sandboxes.miss(
        "twice",
        Missing::Ambiguous {
            id: "twice".to_owned(),
            objects: vec!["a/twice".to_owned(), "b/twice".to_owned()],
        },
    );
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = listener.local_addr().unwrap().port();
    drop(listener);
    scene.sandboxes.set("closed", "closed", "127.0.0.1", None);
    for (route, status, text) in [
        (
            "nonsense".to_owned(),
            400,
            "invalid ingress route: invalid host: nonsense.test",
        ),
        (format!("gone-{port}"), 404, "sandbox not found: gone"),
        (
            format!("late-{port}"),
            503,
            "sandbox not ready: late (ready: 0/1)",
        ),
        (
            format!("twice-{port}"),
            502,
            "ambiguous sandbox id \"twice\" found in multiple namespaces",
        ),
        (
            format!("secret-{port}"),
            401,
            "signature: signature required for this sandbox",
        ),
        (
            format!("closed-{closed}"),
            502,
            "upstream connect failed: connection refused",
        ),
    ] {
        let response = scene.get(&route, "/", "");
        assert!(
            response.starts_with(&format!("HTTP/1.1 {status} ")),
            "{response}"
        );
        let body = format!("OpenSandbox Ingress: {text}\n");
        assert!(response.ends_with(&format!("\r\n\r\n{body}")), "{response}");
        let length = field(&response, "content-length").unwrap();
        assert_eq!(length, body.len().to_string());
        let kind = field(&response, "content-type");
        assert_eq!(kind.as_deref(), Some("text/plain; charset=utf-8"));
        let sniff = field(&response, "x-content-type-options");
        assert_eq!(sniff.as_deref(), Some("nosniff"));
        assert_eq!(field(&response, "reverse-proxy-server-powerby"), None);
        scene.access(|access| access["status"] == status);
    }
    let response = scene.get(
        &format!("secret-{port}"),
        "/",
        "OpenSandbox-Secure-Access: token\r\n",
    );
    assert!(response.contains("200 OK"), "{response}");
    assert_eq!(backend.request().field("opensandbox-secure-access"), None);
    let refused =
        scene.access(|access| access["status"] == 502 && access["sandbox_id"] == "closed");
    assert_eq!(refused["error_type"], "connect_refused");
}

#[test]
fn a_signed_route_opens_a_secured_sandbox_once_there_are_keys() {
    let scene = Scene::new();
    let backend = Backend::recording("ok");
    let port = backend.address.port();
    scene
        .sandboxes
        .set("secret", "secret", "127.0.0.1", Some("token"));
    let keys = Keys::parse("z=dGVzdC1zZWNyZXQtYnl0ZXM=").unwrap();
    let signed = keys.sign(b'z', "secret", port, u64::MAX).unwrap();
    let route = format!("secret-{port}-{}-{signed}", signed.expiry());
    assert!(scene.get(&route, "/", "").starts_with("HTTP/1.1 503 "));
    scene.keys(keys);
    assert!(scene.get(&route, "/", "").starts_with("HTTP/1.1 200 "));
    let forged = route.replace(&signed.to_string(), "00000000z");
    assert!(scene.get(&forged, "/", "").starts_with("HTTP/1.1 401 "));
    let access = scene.access(|access| access["status"] == 200);
    assert_eq!(
        (&access["auth"], &access["key_id"]),
        (&"signature".into(), &"z".into())
    );
    assert!(
        !access.to_string().contains(&signed.to_string()),
        "{access}"
    );
}

#[test]
fn probes_are_answered_before_routing() {
    let scene = Scene::new();
    for method in ["GET", "POST"] {
        let response = scene.raw(format!(
            "{method} /status.ok HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        ));
        assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
        assert!(response.ends_with("\r\n\r\nOK"), "{response}");
        let kind = field(&response, "content-type");
        assert_eq!(kind.as_deref(), Some("text/plain; charset=utf-8"));
    }
    let backend = Backend::recording("the sandbox's own");
    let route = scene.sandbox("box", &backend);
    let response = scene.get(&route, "/status.ok/", "");
    assert!(response.ends_with("the sandbox's own"), "{response}");
    assert_eq!(scene.access(|_| true)["uri"], "/status.ok/");
    assert_eq!(scene.accesses().len(), 1);
}

#[test]
fn an_access_record_says_what_happened() {
    let scene = Scene::new();
    let backend = Backend::recording("12345");
    let route = scene.sandbox("box", &backend);
    scene.raw(format!(
        "PUT /a?b HTTP/1.1\r\nHost: {route}.test\r\nX-Forwarded-For: 198.51.100.7\r\n\
         Content-Length: 3\r\nConnection: close\r\n\r\nabc"
    ));
    let access = scene.access(|_| true);
    for (key, value) in [
        ("msg", "ingress requested"),
        ("client", "198.51.100.7"),
        ("uri", "/a?b"),
        ("method", "PUT"),
        ("sandbox_id", "box"),
        ("proxy_type", "http"),
        ("auth", "none"),
        ("route_mode", "header"),
    ] {
        assert_eq!(access[key], value, "{access}");
    }
    assert_eq!(access["target"], backend.address.to_string());
    assert_eq!(access["port"], backend.address.port());
    assert_eq!(
        (&access["status"], &access["bytes_in"]),
        (&200.into(), &3.into())
    );
    assert_eq!(access["bytes_out"], 5);
    assert!(access.get("error").is_none(), "{access}");
}
