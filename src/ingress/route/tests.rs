use super::*;
use http::HeaderValue;
use proptest::prelude::*;

const SIGNED: &str = "alpha-beta-8080-1a2b3c-abcdef12k";

/// Sandbox, port and, of a signed route, expiry and signature; or what the client is told.
type Read = Result<(String, u16, Option<(String, String)>), String>;

fn read(route: Result<Route<'_>, Error>) -> Read {
    let route = route.map_err(|error| error.to_string())?;
    let signed = route.signed;
    let signed = signed.map(|signed| (signed.expiry().to_string(), signed.to_string()));
    Ok((route.sandbox.into_owned(), route.port, signed))
}

fn unsigned(sandbox: &str, port: u16) -> Read {
    Ok((sandbox.to_owned(), port, None))
}

fn signed(sandbox: &str, port: u16, expires: &str, signature: &str) -> Read {
    let signed = Some((expires.to_owned(), signature.to_owned()));
    Ok((sandbox.to_owned(), port, signed))
}

fn refused(detail: &str) -> Read {
    Err(format!("invalid ingress route: {detail}"))
}

fn syntax(port: &str) -> Read {
    refused(&format!(
        "invalid port format: strconv.Atoi: parsing \"{port}\": invalid syntax"
    ))
}

fn no_port(port: &str) -> Read {
    refused(&format!("invalid port format: invalid port \"{port}\""))
}

/// The table of the contract, section 4.2, with the changes it asks for.
#[test]
fn labels_are_read_as_the_contract_says() {
    for (label, expected) in [
        ("sandbox-1234.example.com", unsigned("sandbox", 1234)),
        (
            "https://alpha-beta-8080.sandbox.test",
            unsigned("alpha-beta", 8080),
        ),
        ("invalidhost", refused("invalid host: invalidhost")),
        (
            "-1234.example.com",
            refused("invalid host: -1234.example.com"),
        ),
        ("127.0.0.1:19010", refused("invalid host: 127.0.0.1:19010")),
        ("a-b-c-d-80", unsigned("a-b-c-d", 80)),
        (SIGNED, signed("alpha-beta", 8080, "1a2b3c", "abcdef12k")),
        ("a--1-0-abcdef12k", signed("a-", 1, "0", "abcdef12k")),
        ("sb-80-0-abcdef12k.gw", signed("sb", 80, "0", "abcdef12k")),
        ("sb-80-00-abcdef12k.gw", syntax("abcdef12k")),
        ("sb-08080-0-abcdef12k", syntax("abcdef12k")),
        ("sb-70000-0-abcdef12k", syntax("abcdef12k")),
        ("only-two", syntax("two")),
        ("sb-x", syntax("x")),
        ("sb-", syntax("")),
        (
            "sb-99999999999999999999",
            refused(
                "invalid port format: strconv.Atoi: parsing \"99999999999999999999\": value out of range",
            ),
        ),
        ("sb-08080", unsigned("sb", 8080)),
        ("sb-+80", unsigned("sb", 80)),
        ("sb--80", unsigned("sb-", 80)),
        ("--80", refused("invalid host: --80")),
        ("-80", refused("invalid host: -80")),
        (".x", refused("invalid host: .x")),
        ("SB-80", unsigned("SB", 80)),
        (" sb-80", unsigned(" sb", 80)),
        ("https://http://a-80", unsigned("a", 80)),
        ("http://https://a-80", unsigned("https://a", 80)),
        // Changed: what no port can be is refused here, not at the connection.
        ("sb-0", no_port("0")),
        ("sb-65536", no_port("65536")),
        ("sb-99999", no_port("99999")),
        ("sb-80-00-123456789", no_port("123456789")),
        // Changed: the port of a host without a dot is one.
        ("sb-80:1234", unsigned("sb", 80)),
        (
            SIGNED_WITH_PORT,
            signed("alpha-beta", 8080, "1a2b3c", "abcdef12k"),
        ),
        ("[::1]:8080", refused("invalid host: [::1]:8080")),
        ("sb-80:x", syntax("80:x")),
    ] {
        assert_eq!(read(Route::from_label(label, "/")), expected, "{label:?}");
    }
}

const SIGNED_WITH_PORT: &str = "alpha-beta-8080-1a2b3c-abcdef12k:28888";

/// The table of the contract, section 4.3, with the changes it asks for.
#[test]
fn paths_are_read_as_the_contract_says() {
    let cut = |path: &'static str| {
        Route::from_path(path).map(|route| (route.upstream_path(true), route.upstream_path(false)))
    };
    for (path, secured, unsecured) in [
        ("/my-sandbox/8080", "/", "/"),
        ("/sb/80/", "/", "/"),
        (
            "/sb/9090/1a2b3c/01234567a/extra/path",
            "/extra/path",
            "/1a2b3c/01234567a/extra/path",
        ),
        ("/sb/9090/1a2b3c/01234567a", "/", "/1a2b3c/01234567a"),
        ("/sb/9090/1a2b3c/01234567a/", "/", "/1a2b3c/01234567a/"),
        (
            "/sb/9090/1a2b3c/01234567a//x",
            "//x",
            "/1a2b3c/01234567a//x",
        ),
        (
            "/sb/9090/1A2b3c/01234567a/x",
            "/1A2b3c/01234567a/x",
            "/1A2b3c/01234567a/x",
        ),
        (
            "/sb/9090/01a/01234567a/x",
            "/01a/01234567a/x",
            "/01a/01234567a/x",
        ),
        (
            "/sb/9090/1a2b3c/0123456ga/x",
            "/1a2b3c/0123456ga/x",
            "/1a2b3c/0123456ga/x",
        ),
        ("/sb/9090/1a2b3c", "/1a2b3c", "/1a2b3c"),
        ("/sb/+80/x", "/x", "/x"),
        // Changed: what is not the route goes on as it was sent.
        (
            "/sb/80/a%2Fb/c%20d%3Fe",
            "/a%2Fb/c%20d%3Fe",
            "/a%2Fb/c%20d%3Fe",
        ),
        ("/sb/80//a/../b/./%", "//a/../b/./%", "//a/../b/./%"),
        ("/s%62/%38%30/x", "/x", "/x"),
        ("/sb/80/%zz/01234567a", "/%zz/01234567a", "/%zz/01234567a"),
        ("/sb/80/%30/01234567%61/x", "/x", "/%30/01234567%61/x"),
    ] {
        assert_eq!(cut(path), Ok((secured, unsecured)), "{path}");
    }
    let route = Route::from_path("/s%62/%38%30/x").unwrap();
    assert_eq!((route.sandbox.as_ref(), route.port), ("sb", 80));
    let path = |got: &str| {
        refused(&format!(
            "invalid URI path format: expected '/<sandbox-id>/<sandbox-port>/<path-to-request>', got: {got}"
        ))
    };
    for (given, expected) in [
        (
            "/sb/08080",
            refused("invalid port format: port must not have leading zeros"),
        ),
        ("/sb/0/x", no_port("0")),
        ("/sb/65536/x", no_port("65536")),
        ("/sb/abc/x", no_port("abc")),
        ("/sb/", no_port("")),
        ("/", path("/")),
        ("/sb", path("/sb")),
        ("*", path("*")),
        (
            "//80/x",
            refused("missing sandbox-id or sandbox-port in URI path"),
        ),
        ("", Err("missing URI path".to_owned())),
        // Changed: a slash that is escaped separates nothing.
        ("/sb%2F80%2Fa", path("/sb%2F80%2Fa")),
        ("/%zz/80/x", refused("invalid URL escape in \"%zz\"")),
        ("/sb/80%/x", refused("invalid URL escape in \"80%\"")),
        ("/%ff/80/x", refused("invalid URL escape in \"%ff\"")),
    ] {
        assert_eq!(read(Route::from_path(given)), expected, "{given:?}");
    }
}

#[test]
fn the_first_header_wins_over_the_former_one_and_the_host() {
    let route = |uri: &str, headers: &[(&'static str, &'static str)]| {
        let uri: Uri = uri.parse().unwrap();
        let headers = headers.iter().map(|(name, value)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        });
        read(Route::of(Mode::Header, &uri, &headers.collect()))
    };
    let (new, old, host) = ("opensandbox-ingress-to", "open-sandbox-ingress", "host");
    assert_eq!(
        route(
            "/",
            &[(new, "a-1"), (new, "b-2"), (old, "c-3"), (host, "d-4")]
        ),
        unsigned("a", 1)
    );
    assert_eq!(
        route("/", &[(new, ""), (new, "b-2"), (old, "c-3"), (host, "d-4")]),
        unsigned("c", 3)
    );
    assert_eq!(
        route("/", &[(old, ""), (host, "d-4.gw:80")]),
        unsigned("d", 4)
    );
    // The target of a request in absolute form replaces the host.
    assert_eq!(route("http://e-5.gw/", &[(host, "d-4")]), unsigned("e", 5));
    // A host is the same in any case; the value of a header is taken as it is.
    assert_eq!(
        route("/", &[(host, "D-80-1A2B3C-ABCDEF12K.GW")]),
        signed("d", 80, "1a2b3c", "abcdef12k")
    );
    assert_eq!(route("http://SB-80.gw/", &[]), unsigned("sb", 80));
    assert_eq!(route("/", &[(new, "SB-80")]), unsigned("SB", 80));
    let missing = Err("missing header 'Opensandbox-Ingress-To' or 'Host'".to_owned());
    assert_eq!(route("/", &[]), missing);
    assert_eq!(route("/", &[(new, ""), (host, "")]), missing);
}

#[test]
fn a_header_that_is_no_text_is_no_route() {
    let value = HeaderValue::from_bytes(b"sb\xff-80").unwrap();
    let headers = HeaderMap::from_iter([(HEADER, value)]);
    let route = read(Route::of(Mode::Header, &Uri::from_static("/"), &headers));
    assert_eq!(route, refused("invalid host: sb\u{fffd}-80"));
}

#[test]
fn a_path_goes_on_untouched_where_a_header_names_the_route() {
    let headers = HeaderMap::from_iter([(HEADER, HeaderValue::from_static(SIGNED))]);
    let uri = Uri::from_static("http://X.test/a%2Fb//c/../%7e?q=%20#f");
    let route = Route::of(Mode::Header, &uri, &headers).unwrap();
    assert_eq!(route.upstream_path(true), "/a%2Fb//c/../%7e");
    assert_eq!(route.upstream_path(false), "/a%2Fb//c/../%7e");
    let uri = Uri::from_static("http://SB-80.test/a%2Fb");
    let headers = HeaderMap::new();
    let route = Route::of(Mode::Header, &uri, &headers).unwrap();
    assert_eq!(route.upstream_path(true), "/a%2Fb");
}

#[test]
fn in_mode_uri_no_header_names_the_route() {
    let headers = HeaderMap::from_iter([(HEADER, HeaderValue::from_static("other-1"))]);
    let uri = Uri::from_static("/sb/80/x?q");
    let route = Route::of(Mode::Uri, &uri, &headers).unwrap();
    assert_eq!((route.sandbox.as_ref(), route.port), ("sb", 80));
    assert_eq!(route.upstream_path(false), "/x");
}

#[test]
fn an_expiry_is_the_one_shortest_text_of_a_64_bit_number() {
    for (text, expected) in [
        ("0", Some(0)),
        ("z", Some(35)),
        ("x2qxvk", Some(2_000_000_000)),
        ("3w5e11264sgsf", Some(u64::MAX)),
        ("3w5e11264sgsg", None),
        ("zzzzzzzzzzzzz", None),
        ("10000000000000", None),
        ("00", None),
        ("01", None),
        ("", None),
        ("1A", None),
        ("+1", None),
        ("1_0", None),
    ] {
        assert_eq!(parse_expiry(text), expected, "{text}");
        if let Some(number) = expected {
            assert_eq!(Expiry(number).to_string(), text);
        }
    }
}

#[test]
fn a_signature_is_eight_hexadecimal_digits_and_a_key() {
    for (text, valid) in [
        ("abcdef12k", true),
        ("123456789", true),
        ("00000000z", true),
        ("ABCDEF12k", false),
        ("abcdefg2k", false),
        ("abcdef12K", false),
        ("abcdef12_", false),
        ("abcdef12", false),
        ("abcdef12kk", false),
        ("", false),
        ("abcdef1é", false),
    ] {
        assert_eq!(Signed::parse("0", text).is_some(), valid, "{text}");
    }
}

#[test]
fn modes_have_the_names_the_chart_passes() {
    for (name, mode) in [
        ("header", Some(Mode::Header)),
        ("host", Some(Mode::Header)),
        ("wildcard", Some(Mode::Header)),
        ("uri", Some(Mode::Uri)),
        ("URI", None),
        ("", None),
    ] {
        assert_eq!(name.parse().ok(), mode, "{name}");
    }
    for mode in [Mode::Header, Mode::Uri] {
        assert_eq!(mode.as_str().parse(), Ok(mode));
    }
}

#[test]
fn nothing_that_opens_a_sandbox_is_shown() {
    for (text, expected) in [
        ("/a/b?c=d", "/a/b?c=d"),
        ("", ""),
        (
            "/sb/80/1a2b3c/01234567a/x?y=1",
            "/sb/80/1a2b3c/*********/x?y=1",
        ),
        ("/sb/80/1a2b3c/01234567a", "/sb/80/1a2b3c/*********"),
        (
            "/s%62/%380/1a2b3%63/0123456%37a/x",
            "/s%62/%380/1a2b3%63/*********/x",
        ),
        (
            "http://sb-80-1a2b3c-01234567a.gw/x?next=http://sb-81-0-abcdef12k.gw/",
            "http://sb-80-1a2b3c-*********.gw/x?next=http://sb-81-0-*********.gw/",
        ),
        // Neither a port nor an expiry, or not separated as a route is.
        ("/files/x/1a2b3c/01234567a", "/files/x/1a2b3c/01234567a"),
        ("/80/01/01234567a", "/80/01/01234567a"),
        ("/80-0/01234567a", "/80-0/01234567a"),
        ("/é/80/0/01234567a/é", "/é/80/0/*********/é"),
    ] {
        assert_eq!(redacted(text), expected, "{text}");
    }
    let error = Route::from_label("sb-08080-0-abcdef12k", "/").unwrap_err();
    assert!(!error.logged().contains("abcdef12k"));
}

fn any_route() -> impl Strategy<Value = (String, u16, Option<Signed>)> {
    let signed = (any::<u64>(), "[0-9a-f]{8}", "[0-9a-z]").prop_map(|(expires, digest, key)| {
        let mut signed = Signed::parse("0", &(digest + &key)).unwrap();
        signed.expires = expires;
        signed
    });
    let sandbox = "[a-z0-9][a-z0-9-]{0,40}";
    (sandbox, 1..=u16::MAX, proptest::option::of(signed))
}

proptest! {
    #[test]
    fn what_is_written_reads_the_same((sandbox, port, signed) in any_route(), rest in "(/[a-z0-9%./]{0,20})?") {
        let route = Route {
            sandbox: sandbox.as_str().into(),
            port,
            signed,
            path: "/",
            unsecured_path: "/",
        };
        let label = route.label();
        let read = Route::from_label(&label, "/").unwrap();
        prop_assert_eq!(&read, &route);
        let host = format!("{label}.example.com:28888");
        prop_assert_eq!(&Route::from_label(&host, "/").unwrap(), &route);

        // A path that begins with what could be a signature is a signed route by its grammar.
        let path = route.prefix() + &rest;
        let read = Route::from_path(&path).unwrap();
        prop_assert_eq!(read.sandbox, sandbox);
        prop_assert_eq!(read.port, port);
        if signed.is_some() {
            prop_assert_eq!(read.signed, signed);
            prop_assert_eq!(read.path, if rest.is_empty() { "/" } else { &rest });
        }
        if let Some(signed) = signed {
            for text in [&host, &path] {
                prop_assert!(!redacted(text).contains(&signed.to_string()));
            }
        }
    }

    #[test]
    fn what_goes_on_is_the_end_of_what_was_sent(path in "/?[a-z0-9%/+.é]{0,40}") {
        if let Ok(route) = Route::from_path(&path) {
            for secured in [true, false] {
                let on = route.upstream_path(secured);
                prop_assert!(on.starts_with('/'));
                prop_assert!(on == "/" || path.ends_with(on));
            }
        }
    }

    #[test]
    fn no_text_panics(text in any::<String>()) {
        let _ = Route::from_label(&text, "/");
        let _ = Route::from_path(&text);
        let _ = redacted(&text);
    }
}
