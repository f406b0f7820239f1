//! Routes, token, redirects and bodies (contract 2, 3 and 5).

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;

use serde_json::json;

use crate::client::{Execd, PATIENCE, builder};

#[test]
fn ping_is_empty() {
    let execd = Execd::start();
    let pong = execd.get("/ping");
    assert_eq!((pong.status, pong.body.len()), (200, 0));
    assert_eq!(pong.header("content-length"), Some("0"));
    assert_eq!(pong.header("content-type"), None);
}

#[test]
fn what_is_not_there_is_404_whatever_the_method() {
    let execd = Execd::start();
    for (method, path) in [
        ("GET", "/"),
        ("GET", "//ping"),
        ("GET", "/Ping"),
        ("GET", "/ping//"),
        ("POST", "/ping"),
        ("OPTIONS", "/ping"),
        ("PUT", "/command"),
        ("GET", "/command"),
        ("GET", "/command/status/"),
        ("GET", "/command/a%2Fb/logs"),
        ("GET", "/session/x"),
        ("DELETE", "/session/"),
        ("PATCH", "/metrics"),
        ("POST", "/ping/"),
    ] {
        let answer = execd.call(method, path, &[], "");
        assert_eq!(answer.status, 404, "{method} {path}");
        assert_eq!(answer.text(), "404 page not found", "{method} {path}");
        assert_eq!(answer.header("content-type"), Some("text/plain"));
    }
    let head = execd.open("HEAD", "/ping", &[], "");
    assert_eq!(head.status, 404);
}

#[test]
fn paths_are_decoded_before_they_are_compared() {
    let execd = Execd::start();
    assert_eq!(execd.get("/p%69ng").status, 200);
    assert_eq!(execd.get("/ping?x=%zz").status, 200);
    // `status` wins over an id of that name.
    execd.get("/command/status/logs").assert_error(
        404,
        "INVALID_REQUEST_BODY",
        "command not found: logs",
    );
    let answer = execd.get("/%zz");
    assert_eq!(answer.status, 400);
    assert!(
        answer
            .header("content-type")
            .unwrap()
            .starts_with("text/plain")
    );
    assert_eq!(answer.header("connection"), Some("close"));
}

#[test]
fn empty_segments_reach_the_handler() {
    let execd = Execd::start();
    execd.call("POST", "/session//run", &[], "").assert_error(
        400,
        "MISSING_QUERY",
        "missing path parameter 'sessionId'",
    );
    execd
        .get("/command//logs")
        .assert_error(400, "MISSING_QUERY", "missing command execution id");
    execd
        .delete("/command")
        .assert_error(400, "MISSING_QUERY", "missing query parameter 'id'");
}

#[test]
fn a_final_slash_is_redirected() {
    let execd = Execd::start();
    for (method, path, status, location) in [
        ("GET", "/ping/", 301, "/ping"),
        ("GET", "/metrics/?a=b", 301, "/metrics?a=b"),
        ("POST", "/command/", 307, "/command"),
        ("DELETE", "/command/?id=1", 307, "/command?id=1"),
        ("DELETE", "/session/abc/", 307, "/session/abc"),
        ("POST", "/session/", 307, "/session"),
        ("POST", "/session//run/", 307, "/session//run"),
    ] {
        let answer = execd.call(method, path, &[], "");
        assert_eq!(answer.status, status, "{method} {path}");
        assert_eq!(answer.header("location"), Some(location), "{method} {path}");
    }
    let answer = execd.call("GET", "/ping/", &["X-Forwarded-Prefix: /a//b/"], "");
    assert_eq!(answer.header("location"), Some("/a/b/ping"));
}

#[test]
fn everything_needs_the_token() {
    let execd = Execd::of(builder().env("EXECD_ACCESS_TOKEN", "sEcr3t-token"));
    for (method, path) in [
        ("GET", "/ping"),
        ("GET", "/ping/"),
        ("GET", "/metrics"),
        ("GET", "/nope"),
        ("POST", "/command"),
        ("OPTIONS", "/command"),
        ("GET", "/proxy/80/"),
    ] {
        for headers in [
            &[][..],
            &["X-EXECD-ACCESS-TOKEN:"],
            &["X-EXECD-ACCESS-TOKEN: sEcr3t-toke"],
            &["X-EXECD-ACCESS-TOKEN: sEcr3t-tokens"],
            &["Authorization: Bearer sEcr3t-token"],
        ] {
            let answer = execd.call(method, path, headers, "");
            assert_eq!(answer.status, 401, "{method} {path}");
            let json = "application/json; charset=utf-8";
            assert_eq!(answer.header("content-type"), Some(json));
            let told = "Unauthorized: invalid or missing header X-EXECD-ACCESS-TOKEN";
            assert!(answer.text().starts_with(&format!(r#"{{"error":"{told}""#)));
            let answer = answer.json();
            assert_eq!(answer["code"], "UNAUTHORIZED");
            assert_eq!(answer["message"], told);
        }
    }
    let answer = execd.call("GET", "/ping?token=sEcr3t-token", &[], "");
    assert_eq!(answer.status, 401);
    let token = ["x-execd-access-token: sEcr3t-token"];
    assert_eq!(execd.call("GET", "/ping", &token, "").status, 200);
    assert_eq!(execd.call("GET", "/nope", &token, "").status, 404);
}

#[test]
fn the_flag_wins_over_the_variable_and_both_over_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    std::fs::write(&file, "from-file\n").unwrap();
    let ping = |execd: &Execd, token: &str| {
        let header = format!("X-EXECD-ACCESS-TOKEN: {token}");
        execd.call("GET", "/ping", &[&header], "").status
    };
    let from_file = builder().env("EXECD_ACCESS_TOKEN_FILE", file.display());
    let execd = Execd::of(from_file);
    assert_eq!((ping(&execd, "from-file"), ping(&execd, "x")), (200, 401));
    let both = builder()
        .env("EXECD_ACCESS_TOKEN_FILE", file.display())
        .env("EXECD_ACCESS_TOKEN", "test-token-from-env");
    let execd = Execd::of(both);
    assert_eq!(ping(&execd, "test-token-from-env"), 200);
    let all = builder()
        .arg("--access-token=cli-token")
        .env("EXECD_ACCESS_TOKEN", "test-token-from-env");
    let execd = Execd::of(all);
    assert_eq!(ping(&execd, "cli-token"), 200);
    assert_eq!(ping(&execd, "test-token-from-env"), 401);
}

#[test]
fn http_is_held_to_its_rules() {
    let execd = Execd::start();
    let raw = |request: &str| {
        let mut stream = TcpStream::connect(execd.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        // The server may close with bytes of ours unread.
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    };
    assert!(raw("GET /ping HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 400"));
    assert!(raw("GET /ping HTTP/1.0\r\n\r\n").starts_with("HTTP/1.0 200"));
    let long = "x".repeat(100 * 1024);
    let answer = raw(&format!(
        "GET /ping HTTP/1.1\r\nHost: x\r\nX: {long}\r\n\r\n"
    ));
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
}

#[test]
fn a_body_has_a_bound() {
    let execd = Execd::start();
    let long = "x".repeat(5 * 1024 * 1024);
    let answer = execd.post("/command", &json!({ "command": long }));
    assert_eq!(answer.status, 413);
    assert_eq!(answer.json()["code"], "INVALID_REQUEST_BODY");
    assert_eq!(execd.get("/ping").status, 200);
}

#[test]
fn curl_is_a_client() {
    if !support::tools::require_programs(&["curl"]) {
        return;
    }
    let execd = Execd::start();
    let url = format!("http://{}/command", execd.address);
    let output = Command::new("curl")
        .args([
            "--silent",
            "--show-error",
            "--no-buffer",
            "--max-time",
            "60",
        ])
        .args(["--data", r#"{"command":"printf 'a\n\nb\n'"}"#, &url])
        .output()
        .unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let kinds: Vec<_> = text
        .split_terminator("\n\n")
        .map(|event| event.split('"').nth(3).unwrap())
        .filter(|kind| *kind != "ping")
        .collect();
    let expected = ["init", "stdout", "stdout", "stdout", "execution_complete"];
    assert_eq!(kinds, expected, "{text}");
}

#[test]
fn every_request_is_one_record_and_names_its_trace() {
    let mut execd = Execd::start();
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let header = format!("traceparent: 00-{trace}-b7ad6b7169203331-01");
    execd.call("GET", "/command/status/s3cret-id?q=s3cret", &[&header], "");
    execd.call("BREW", "/s3cret", &[], "");
    execd.daemon.stop();
    let records = execd.daemon.events("execd.access");
    assert_eq!(records.len(), 2, "{records:?}");
    assert_eq!(records[0]["route"], "/command/status/:id");
    assert_eq!(records[0]["status"], 404);
    assert_eq!(records[0]["trace_id"], trace);
    assert_eq!(records[0]["span_id"], "b7ad6b7169203331");
    assert_eq!(records[1]["method"], "_OTHER");
    assert_eq!(records[1]["route"], "unknown");
    assert!(!execd.daemon.transcript().contains("s3cret"));
}
