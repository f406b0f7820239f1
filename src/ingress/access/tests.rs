use super::*;
use crate::ingress::provider::Retired;
use crate::ingress::route::Mode;
use http::{HeaderValue, Uri};

/// A second long before every expiry that is to hold, and after every other.
const NOW: u64 = 1_800_000_000;
const LATER: u64 = 4_102_444_800;
const TOKEN: &str = "opaque-token";

fn keys(text: &str) -> Keys {
    Keys::parse(text).unwrap()
}

fn names(text: &str) -> Result<String, String> {
    let keys = Keys::parse(text).map_err(|error| error.to_string())?;
    Ok(keys.names().collect())
}

/// The vectors of the contract, section 5.3: what the server signs.
#[test]
fn signatures_are_those_of_the_server() {
    let range: Vec<u8> = (0..32).collect();
    let range = format!("a={}", BASE64.encode(range));
    for (list, key, sandbox, port, expires, expiry, signature) in [
        (
            "z=dGVzdC1zZWNyZXQtYnl0ZXM=",
            b'z',
            "my-sandbox",
            9000,
            2_000_000_000,
            "x2qxvk",
            "8e1e06e3z",
        ),
        (
            "z=dGVzdC1zZWNyZXQtYnl0ZXM=",
            b'z',
            "my-sandbox",
            9001,
            2_000_000_000,
            "x2qxvk",
            "f4b4f162z",
        ),
        (
            "z=dGVzdC1zZWNyZXQtYnl0ZXM=",
            b'z',
            "my-sandbox",
            9000,
            0,
            "0",
            "d6ee81e5z",
        ),
        ("a=AQID", b'a', "sb", 42, 0, "0", "8ccd73a1a"),
        (
            &range,
            b'a',
            "550e8400-e29b-41d4-a716-446655440000",
            44772,
            1_893_456_000,
            "vbbc00",
            "8be00311a",
        ),
        (
            "z=aw==",
            b'z',
            "s",
            1,
            u64::MAX,
            "3w5e11264sgsf",
            "fb7a374fz",
        ),
        (
            "0=dXJpLW1vZGUtc2VjcmV0",
            b'0',
            "d-e",
            3000,
            LATER,
            "1vuhmo0",
            "573b366c0",
        ),
        (
            "k=aW5ncmVzcy10ZXN0LXNlY3JldA==",
            b'k',
            "gamma",
            7777,
            LATER,
            "1vuhmo0",
            "b4ebd53bk",
        ),
        (
            "a=bXktdGVzdC1zZWNyZXQ=",
            b'a',
            "sbx-001",
            8080,
            2_000_000_000,
            "x2qxvk",
            "0ff8cd39a",
        ),
    ] {
        let keys = keys(list);
        let signed = keys.sign(key, sandbox, port, expires).unwrap();
        assert_eq!(signed.to_string(), signature);
        assert_eq!(signed.expiry().to_string(), expiry);
        let label = format!("{sandbox}-{port}-{expiry}-{signature}");
        let route = Route::from_label(&label, "/").unwrap();
        assert_eq!(keys.verify(&route, signed, expires), Ok(()));
        let uri = format!("/{sandbox}/{port}/{expiry}/{signature}/");
        let route = Route::from_path(&uri).unwrap();
        assert_eq!(keys.verify(&route, route.signed.unwrap(), 0), Ok(()));
    }
}

/// The table of the contract, section 5.4, with the changes it asks for.
#[test]
fn lists_of_keys_are_read_as_the_contract_says() {
    for (text, expected) in [
        ("a=YQ==,,", Ok("a")),
        (" a =YQ==", Ok("a")),
        ("a= YQ== , b=Yg==", Ok("ab")),
        ("b=Yg==,0=YQ==", Ok("0b")),
        ("a", Err("invalid keys segment 1 (want key_id=base64)")),
        ("a=", Err("invalid keys segment 1 (want key_id=base64)")),
        ("=YQ==", Err("invalid keys segment 1 (want key_id=base64)")),
        (
            "a=YQ==,ab=YQ==",
            Err("invalid keys segment 2: key_id must be exactly 1 character"),
        ),
        ("A=YQ==", Err("key_id must be lowercase [0-9a-z], got 'A'")),
        ("_=YQ==", Err("key_id must be [0-9a-z], got '_'")),
        ("é=YQ==", Err("key_id must be [0-9a-z], got 'é'")),
        (
            "a=Y!==",
            Err("decode secret for key 'a': illegal base64 data"),
        ),
        (",", Err("no keys parsed")),
        ("", Err("no keys parsed")),
        // Changed: what the server accepts, and the form the proposal shows.
        ("a=YQ", Ok("a")),
        ("a=base64:YQ==", Ok("a")),
        (
            "a=base64:",
            Err("invalid keys segment 1 (want key_id=base64)"),
        ),
        // Changed: which of two keys counts is no guess.
        ("a=YQ==,a=Yg==", Err("key_id 'a' is given twice")),
        // A file has one a line.
        ("a=YQ==\n\nb=Yg==\r\n", Ok("ab")),
    ] {
        let expected = expected.map(str::to_owned).map_err(str::to_owned);
        assert_eq!(names(text), expected, "{text:?}");
    }
    let padded = keys("a=YQ==").sign(b'a', "sb", 1, 2);
    assert_eq!(keys("a=base64:YQ").sign(b'a', "sb", 1, 2), padded);
    for name in [b'b', b'A', b'_', 0, 0xff] {
        assert_eq!(keys("a=YQ==").sign(name, "sb", 1, 2), None);
    }
}

#[test]
fn no_message_repeats_a_secret() {
    for text in [
        "c2VjcmV0",
        "c2VjcmV0=a",
        "=c2VjcmV0",
        "ab=c2VjcmV0",
        "a=c2VjcmV0!",
    ] {
        let error = Keys::parse(text).unwrap_err();
        for shown in [error.to_string(), format!("{error:?}")] {
            assert!(!shown.contains("c2VjcmV0"), "{shown}");
        }
    }
    assert_eq!(format!("{:?}", keys("a=c2VjcmV0,b=YQ==")), "['a', 'b']");
}

fn sandbox(token: Option<&str>) -> Result<Arc<Sandbox>, Missing> {
    Ok(Arc::new(Sandbox {
        uid: "uid".into(),
        host: "10.0.0.1".into(),
        token: token.map(Arc::from),
        retired: Retired::default(),
    }))
}

/// What becomes of a request to a sandbox: the path that goes on, or status and text.
fn enter(
    mode: Mode,
    token: Option<&str>,
    place: &str,
    header: Option<&'static str>,
    keys: Option<&Keys>,
) -> Result<String, (u16, String)> {
    let (uri, host) = match mode {
        Mode::Header => ("/on", place),
        Mode::Uri => (place, "ignored"),
    };
    let uri: Uri = uri.parse().unwrap();
    let mut headers = HeaderMap::new();
    headers.insert("host", HeaderValue::from_str(host).unwrap());
    if let Some(value) = header {
        headers.insert(HEADER, HeaderValue::from_static(value));
    }
    let enter = || {
        let route = Route::of(mode, &uri, &headers)?;
        let found = sandbox(token);
        let credentials = Credentials::of(&headers, keys, NOW);
        credentials.open(&found, &route).transpose()?;
        Ok(route.upstream_path(found?.token.is_some()).to_owned())
    };
    enter().map_err(|refusal: Refusal| (refusal.status().as_u16(), refusal.message()))
}

const MISMATCH: &str = "signature: secure access header mismatch";
const REQUIRED: &str = "signature: signature required for this sandbox";
const BAD: &str = "signature: unauthorized: signature mismatch";
const NO_VERIFIER: &str = "signature: ingress verifier not configured";

/// The access matrix of the contract, section 13.
#[test]
fn the_access_matrix_holds() {
    let keys = keys("k=aW5ncmVzcy10ZXN0LXNlY3JldA==,z=YQ==");
    let keys = Some(&keys);
    let on = |path: &str| Ok(path.to_owned());
    let no = |status: u16, text: &str| Err((status, format!("OpenSandbox Ingress: {text}")));
    let by_header =
        |token, label: &str, header, keys| enter(Mode::Header, token, label, header, keys);
    let by_uri = |token, path: &str, header, keys| enter(Mode::Uri, token, path, header, keys);
    let (open, shut) = (None, Some(TOKEN));

    for header in [None, Some("anything"), Some("")] {
        assert_eq!(
            by_header(open, "nosec-8080.sandbox.gw", header, keys),
            on("/on")
        );
    }
    assert_eq!(
        by_header(open, "nosec-8080-0-01234567a.gw", None, keys),
        on("/on")
    );
    assert_eq!(
        by_uri(open, "/nosec/3000/v1/status", None, keys),
        on("/v1/status")
    );
    for header in [None, Some("noise")] {
        let path = "/nosec/3000/1a2b3c/01234567a/extra/segment";
        assert_eq!(
            by_uri(open, path, header, keys),
            on("/1a2b3c/01234567a/extra/segment")
        );
    }

    assert_eq!(
        by_header(shut, "sec-7777.gw", None, keys),
        no(401, REQUIRED)
    );
    assert_eq!(by_header(shut, "sec-7777.gw", Some(TOKEN), keys), on("/on"));
    assert_eq!(
        by_header(shut, "sec-7777.gw", Some(" opaque-token "), keys),
        on("/on")
    );
    for header in ["wrong", "", "opaque-toke", "opaque-token2"] {
        assert_eq!(
            by_header(shut, "sec-7777.gw", Some(header), keys),
            no(401, MISMATCH)
        );
    }
    let valid = "gamma-7777-1vuhmo0-b4ebd53bk.gw";
    let wrong = "gamma-7777-1vuhmo0-b4ebd53ck.gw";
    let expired = "gamma-7777-0-01234567k.gw";
    assert_eq!(by_header(shut, valid, None, keys), on("/on"));
    for label in [valid, expired] {
        assert_eq!(
            by_header(shut, label, Some("wrong"), keys),
            no(401, MISMATCH)
        );
    }
    assert_eq!(by_header(shut, wrong, None, keys), no(401, BAD));
    for label in [wrong, expired] {
        assert_eq!(by_header(shut, label, Some(TOKEN), keys), on("/on"));
    }
    assert_eq!(
        by_header(shut, expired, None, keys),
        no(401, "signature: access expired")
    );
    assert_eq!(
        by_header(shut, "gamma-7777-1vuhmo0-b4ebd53b0", None, keys),
        no(401, "signature: unauthorized: unknown signed_key_id")
    );
    // The signature of one route opens no other.
    for label in [
        "gamma-7778-1vuhmo0-b4ebd53bk",
        "gamm-7777-1vuhmo0-b4ebd53bk",
        "gamma-7777-1vuhmo1-b4ebd53bk",
    ] {
        assert_eq!(by_header(shut, label, None, keys), no(401, BAD), "{label}");
    }
    assert_eq!(by_header(shut, valid, None, None), no(503, NO_VERIFIER));
    assert_eq!(
        by_header(shut, "mysb-9090.example.com", Some(TOKEN), None),
        on("/on")
    );

    assert_eq!(
        by_uri(shut, "/sec/5000/only/legacy", None, keys),
        no(401, REQUIRED)
    );
    assert_eq!(
        by_uri(shut, "/sec/5000/only/legacy", Some(TOKEN), keys),
        on("/only/legacy")
    );
    let valid = "/gamma/7777/1vuhmo0/b4ebd53bk/p/q";
    let wrong = "/gamma/7777/1vuhmo0/b4ebd53ck/p/q";
    assert_eq!(by_uri(shut, valid, None, keys), on("/p/q"));
    assert_eq!(by_uri(shut, valid, Some("wrong"), keys), no(401, MISMATCH));
    assert_eq!(by_uri(shut, wrong, None, keys), no(401, BAD));
    assert_eq!(by_uri(shut, wrong, Some(TOKEN), keys), on("/p/q"));
    assert_eq!(by_uri(shut, valid, None, None), no(503, NO_VERIFIER));
    assert_eq!(
        by_uri(shut, "/d-e/3000/0/cafebabe0/api/x", Some(TOKEN), None),
        on("/api/x")
    );
}

#[test]
fn a_signature_holds_to_the_last_second_and_the_last_one_for_ever() {
    let keys = keys("z=YQ==");
    for (expires, now, holds) in [
        (NOW, NOW, true),
        (NOW, NOW + 1, false),
        (u64::MAX, u64::MAX, true),
        (0, 0, true),
        (0, 1, false),
    ] {
        let signed = keys.sign(b'z', "sb", 80, expires).unwrap();
        let label = format!("sb-80-{}-{signed}", signed.expiry());
        let route = Route::from_label(&label, "/").unwrap();
        let expected = if holds { Ok(()) } else { Err(Denied::Expired) };
        assert_eq!(keys.verify(&route, signed, now), expected);
    }
}

#[test]
fn an_empty_token_is_none() {
    for token in [None, Some(""), Some(" \t")] {
        assert_eq!(
            enter(Mode::Header, token, "sb-80", Some("x"), None),
            Ok("/on".to_owned())
        );
    }
}

#[test]
fn what_is_not_ready_is_told_only_to_who_may_come_in() {
    let unready = |token: Option<&str>| -> Result<Arc<Sandbox>, Missing> {
        Err(Missing::NotReady {
            reason: "no endpoint".to_owned(),
            object: "ns/sb".to_owned(),
            token: token.map(Arc::from),
        })
    };
    let ask = |found: &Result<Arc<Sandbox>, Missing>, presented: Option<&[u8]>| {
        let route = Route::from_label("sb-80", "/").unwrap();
        let credentials = Credentials {
            presented,
            keys: None,
            now: NOW,
        };
        let decided = credentials.open(found, &route);
        decided
            .transpose()
            .map_err(Refusal::from)
            .and_then(|granted| {
                found.clone().map_err(Refusal::from)?;
                Ok(granted)
            })
    };
    let state = Refusal::from(unready(None).unwrap_err());
    assert_eq!(state.status(), 503);
    assert_eq!(
        state.message(),
        "OpenSandbox Ingress: sandbox not ready: no endpoint"
    );
    assert_eq!(ask(&unready(None), None), Err(state));
    assert_eq!(
        ask(&unready(Some(TOKEN)), None),
        Err(Denied::SignatureRequired.into())
    );
    assert_eq!(
        ask(&unready(Some(TOKEN)), Some(b"x")),
        Err(Denied::HeaderMismatch.into())
    );
    let told = ask(&unready(Some(TOKEN)), Some(TOKEN.as_bytes())).unwrap_err();
    assert_eq!(told.status(), 503);

    for (missing, status) in [
        (
            Missing::NotFound {
                id: "sb".to_owned(),
            },
            404,
        ),
        (
            Missing::Ambiguous {
                id: "sb".to_owned(),
                objects: vec!["a/sb".to_owned(), "b/sb".to_owned()],
            },
            502,
        ),
    ] {
        let refusal = ask(&Err(missing), None).unwrap_err();
        assert_eq!(refusal.status(), status);
        assert!(!refusal.message().contains("a/sb"), "{refusal}");
    }
}

#[test]
fn ports_are_open_unless_said_otherwise() {
    let ports = |allowed: &str, denied: &str| {
        let items = |text: &str| {
            let items = text.split(',').map(str::to_owned);
            items.filter(|item| !item.is_empty()).collect::<Vec<_>>()
        };
        let (allowed, denied) = (items(allowed), items(denied));
        Ports::parse(
            allowed.iter().map(String::as_str),
            denied.iter().map(String::as_str),
        )
    };
    let open = |allowed: &str, denied: &str, port| ports(allowed, denied).unwrap().contain(port);
    assert!(open("", "", 1) && open("", "", 65535));
    assert!(!open("", "44772,18080", 44772) && open("", "44772", 44773));
    assert!(open("80,8000-8999", "", 8000) && open("80,8000 - 8999", "", 8999));
    assert!(!open("80,8000-8999", "", 7999) && !open("80,8000-8999", "", 9000));
    assert!(!open("8000-8999", "8080", 8080), "a denial wins");
    for text in ["0", "65536", "x", "90-80", "-", "80-", "+80", "0-80"] {
        assert_eq!(ports(text, ""), Err(InvalidPorts), "{text}");
        assert_eq!(ports("", text), Err(InvalidPorts), "{text}");
    }
    let refusal = Refusal::Port(44772);
    assert_eq!(refusal.status(), 403);
    assert_eq!(
        refusal.message(),
        "OpenSandbox Ingress: port 44772 is not open"
    );
}
