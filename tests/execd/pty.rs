//! `/pty`: terminals over REST and WebSocket (contract 9).

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use support::daemon::Builder;
use support::http::Response;
use support::websocket::{Client, Event, frame};

use crate::client::{Execd, PATIENCE, builder};
use support::eventually;

/// Makes a terminal.
fn terminal(execd: &Execd, request: &Value) -> String {
    let created = execd.post("/pty", request);
    assert_eq!(created.status, 201, "{created:?}");
    created.json()["session_id"].as_str().unwrap().to_owned()
}

fn status(execd: &Execd, id: &str) -> Value {
    let status = execd.get(&format!("/pty/{id}"));
    assert_eq!(status.status, 200, "{status:?}");
    status.json()
}

fn delete(execd: &Execd, id: &str) {
    let deleted = execd.delete(&format!("/pty/{id}"));
    assert_eq!((deleted.status, deleted.text()), (200, ""));
}

/// A client of a terminal that is connected.
struct View {
    client: Client,
    /// What the server said when it was.
    connected: Value,
    /// What it was shown before that.
    replay: Option<(u64, Vec<u8>)>,
    /// The offset of the next byte.
    offset: u64,
    /// What it was shown since.
    shown: Vec<u8>,
    /// The same of standard error only.
    errors: Vec<u8>,
    /// How often it was moved ahead.
    caught_up: usize,
}

/// How a terminal's client is told of the end.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Exit(i64),
    TakenOver,
    /// The connection was closed without a word.
    Dropped,
}

impl View {
    fn try_open(execd: &Execd, path: &str) -> Result<Self, Response> {
        let client = Client::connect(execd.address, path, &[])?;
        Ok(Self::of(client))
    }

    /// Waits until a client is connected.
    fn of(mut client: Client) -> Self {
        let mut next = client.receive();
        let replay = match &next {
            Event::Binary(bytes) => {
                let (start, bytes) = replayed(bytes);
                next = client.receive();
                Some((start, bytes))
            }
            _ => None,
        };
        let Event::Text(text) = next else {
            panic!("{next:?} before it is connected");
        };
        let connected: Value = serde_json::from_str(text.strip_suffix('\n').unwrap()).unwrap();
        assert_eq!(connected["type"], "connected", "{connected}");
        let offset = replay
            .as_ref()
            .map_or(0, |(start, bytes)| start + bytes.len() as u64);
        Self {
            client,
            connected,
            replay,
            offset,
            shown: Vec::new(),
            errors: Vec::new(),
            caught_up: 0,
        }
    }

    fn open(execd: &Execd, id: &str, query: &str) -> Self {
        let path = format!("/pty/{id}/ws{query}");
        Self::try_open(execd, &path).unwrap_or_else(|answer| panic!("{answer:?}"))
    }

    fn type_in(&mut self, text: &str) {
        self.client.binary(&[b"\0", text.as_bytes()].concat());
    }

    /// Takes what comes next into account; gives back what is no output.
    fn take(&mut self, event: Event) -> Option<Event> {
        let Event::Binary(bytes) = event else {
            return Some(event);
        };
        match bytes.split_first() {
            Some((1, output)) => self.output(output),
            Some((2, output)) => {
                self.errors.extend_from_slice(output);
                self.output(output);
            }
            Some((3, _)) => {
                let (start, bytes) = replayed(&bytes);
                assert!(start > self.offset, "nothing is shown twice");
                self.caught_up += 1;
                self.offset = start;
                self.output(&bytes);
            }
            _ => panic!("{bytes:?}"),
        }
        None
    }

    fn output(&mut self, output: &[u8]) {
        self.offset += output.len() as u64;
        self.shown.extend_from_slice(output);
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.shown).into_owned()
    }

    /// Reads until this was shown.
    fn until(&mut self, wanted: &str) {
        while !self.text().contains(wanted) {
            let event = self.client.receive();
            if let Some(event) = self.take(event) {
                panic!("{event:?} after {:?}, before {wanted:?}", self.text());
            }
        }
    }

    /// The next frame that is no output.
    fn answer(&mut self) -> Event {
        loop {
            let event = self.client.receive();
            if let Some(event) = self.take(event) {
                return event;
            }
        }
    }

    /// Reads to the end, and checks that the connection is closed by the server.
    fn end(&mut self) -> End {
        let end = match self.answer() {
            Event::Text(text) => {
                let exit: Value = serde_json::from_str(&text).unwrap();
                let code = exit["exit_code"].as_i64().unwrap();
                assert_eq!(
                    text,
                    format!("{{\"type\":\"exit\",\"exit_code\":{code}}}\n")
                );
                let close = self.client.receive();
                assert_eq!(close, Event::Close(1000, "process exited".to_owned()));
                self.client.close(1000);
                End::Exit(code)
            }
            Event::Close(4001, reason) => {
                assert_eq!(reason, "TAKEN_OVER");
                self.client.close(4001);
                End::TakenOver
            }
            Event::End | Event::Reset => return End::Dropped,
            other => panic!("{other:?} after {:?}", self.text()),
        };
        assert_eq!(self.client.receive(), Event::End);
        end
    }
}

/// The offset and the bytes of a replay frame.
fn replayed(frame: &[u8]) -> (u64, Vec<u8>) {
    assert_eq!(frame[0], 3);
    let start = u64::from_be_bytes(frame[1..9].try_into().unwrap());
    (start, frame[9..].to_vec())
}

#[test]
fn the_rest_interface_is_exact() {
    let execd = Execd::start();
    let created = execd.call("POST", "/pty", &[], "");
    assert_eq!(created.status, 201);
    let json = "application/json; charset=utf-8";
    assert_eq!(created.header("content-type"), Some(json));
    let id = created.json()["session_id"].as_str().unwrap().to_owned();
    assert_eq!(created.text(), format!(r#"{{"session_id":"{id}"}}"#));
    let lengths: Vec<_> = id.split('-').map(str::len).collect();
    assert_eq!(lengths, [8, 4, 4, 4, 12]);
    let status = execd.get(&format!("/pty/{id}"));
    assert_eq!(
        status.text(),
        format!(r#"{{"session_id":"{id}","running":false,"output_offset":0}}"#)
    );
    delete(&execd, &id);
    let gone = format!("pty session {id} not found");
    for method in ["GET", "DELETE"] {
        let answer = execd.call(method, &format!("/pty/{id}"), &[], "");
        answer.assert_error(404, "CONTEXT_NOT_FOUND", &gone);
    }
    let ws = execd.get(&format!("/pty/{id}/ws"));
    ws.assert_error(404, "CONTEXT_NOT_FOUND", &gone);
    let nameless = execd.get("/pty//ws");
    nameless.assert_error(400, "MISSING_QUERY", "missing path parameter 'sessionId'");
    for path in ["/pty", "/pty/", "/pty/x/y"] {
        assert_eq!(execd.get(path).status, 404, "{path}");
    }
    let moved = execd.call("POST", "/pty/", &[], "");
    assert_eq!(
        (moved.status, moved.header("location")),
        (307, Some("/pty"))
    );

    for (body, told) in [
        (r#"{"cwd":"#, "error parsing request: unexpected EOF"),
        (
            r#"{"command":7}"#,
            "error parsing request: json: cannot unmarshal number",
        ),
    ] {
        let answer = execd.call("POST", "/pty", &[], body);
        assert_eq!(answer.status, 400);
        assert_eq!(answer.json()["code"], "INVALID_REQUEST_BODY");
        let message = answer.json()["message"].as_str().unwrap().to_owned();
        assert!(message.starts_with(told), "{message}");
    }
}

#[test]
fn the_directory_of_a_terminal_is_made() {
    let root = tempfile::tempdir().unwrap();
    let execd = Execd::of(builder().env("ROOT", root.path().display()));
    let id = terminal(&execd, &json!({"cwd": "$ROOT/a/b", "command": "pwd"}));
    let mut view = View::open(&execd, &id, "?pty=0");
    assert_eq!(view.end(), End::Exit(0));
    let made = root.path().join("a/b").canonicalize().unwrap();
    assert_eq!(view.text(), format!("{}\n", made.display()));

    fs::write(root.path().join("file"), "").unwrap();
    for (cwd, told) in [
        ("$ROOT/file/x", "error creating pty session: mkdir "),
        (
            "$NOT_SET/x",
            "error creating pty session: resolve request cwd $NOT_SET/x: path references undefined environment variables: NOT_SET",
        ),
    ] {
        let answer = execd.post("/pty", &json!({ "cwd": cwd }));
        assert_eq!(answer.status, 500);
        // One document and no other after it.
        let error = answer.json();
        assert_eq!(error["code"], "RUNTIME_ERROR");
        let message = error["message"].as_str().unwrap();
        assert!(message.starts_with(told), "{message}");
    }
}

const UPGRADE: (&str, &str) = ("Connection", "Upgrade");
const WEBSOCKET: (&str, &str) = ("Upgrade", "websocket");
const VERSION: (&str, &str) = ("Sec-WebSocket-Version", "13");
const KEY: (&str, &str) = ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==");

#[test]
fn handshakes_are_refused_by_the_table() {
    let execd = Execd::start();
    let id = terminal(&execd, &json!({}));
    let path = format!("/pty/{id}/ws");
    let refused =
        |headers: &[(&str, &str)]| Client::handshake(execd.address, &path, headers).unwrap_err();
    for headers in [
        &[][..],
        &[("Connection", "keep-alive"), WEBSOCKET, VERSION, KEY],
        &[UPGRADE, WEBSOCKET, KEY],
        &[UPGRADE, WEBSOCKET, ("Sec-WebSocket-Version", "8"), KEY],
        &[UPGRADE, WEBSOCKET, VERSION],
        &[
            UPGRADE,
            WEBSOCKET,
            VERSION,
            ("Sec-WebSocket-Key", "c2hvcnQ="),
        ],
    ] {
        let answer = refused(headers);
        assert_eq!(answer.status, 400, "{headers:?}");
        assert_eq!(answer.body, "Bad Request\n");
        assert_eq!(answer.header("sec-websocket-version"), Some("13"));
        let text = "text/plain; charset=utf-8";
        assert_eq!(answer.header("content-type"), Some(text));
    }
    for headers in [
        &[UPGRADE, VERSION, KEY][..],
        &[UPGRADE, ("Upgrade", "other"), VERSION, KEY],
    ] {
        let answer = refused(headers);
        assert_eq!(answer.status, 426, "{headers:?}");
        assert_eq!(answer.body, "Upgrade Required\n");
        assert_eq!(answer.header("upgrade"), Some("websocket"));
        assert_eq!(answer.header("sec-websocket-version"), Some("13"));
    }
    assert_eq!(status(&execd, &id)["running"], false, "nothing was started");

    // None of them has the terminal; this one does.
    let mut holder = View::open(&execd, &id, "");
    let plain = format!("{path}?takeover=1");
    for (path, headers) in [
        (&path, &[UPGRADE, WEBSOCKET, VERSION, KEY][..]),
        (&path, &[]),
        (&plain, &[]),
        (&plain, &[UPGRADE, VERSION, KEY]),
    ] {
        let answer = Client::handshake(execd.address, path, headers).unwrap_err();
        assert_eq!(answer.status, 409, "{path} {headers:?}");
        assert_eq!(
            answer.body,
            format!(
                r#"{{"code":"ALREADY_CONNECTED","message":"another client is already connected to pty session {id}"}}"#
            )
        );
    }
    // One that cannot become a WebSocket takes nothing over.
    let answer = Client::handshake(execd.address, &plain, &[UPGRADE, WEBSOCKET, VERSION]);
    assert_eq!(answer.unwrap_err().status, 400);
    let other = [
        UPGRADE,
        WEBSOCKET,
        VERSION,
        KEY,
        ("Origin", "https://x.test"),
    ];
    let other = Client::handshake(execd.address, "/pty/nobody/ws", &other).unwrap_err();
    assert_eq!(other.status, 404);
    assert!(other.body.contains("pty session nobody not found"));
    holder.type_in("echo still=$((20+22))\n");
    holder.until("still=42");
}

#[test]
fn the_token_is_asked_of_handshakes() {
    let execd = Execd::of(builder().env("EXECD_ACCESS_TOKEN", "sEcr3t"));
    let token = ("X-EXECD-ACCESS-TOKEN", "sEcr3t");
    let created = execd.call("POST", "/pty", &["X-EXECD-ACCESS-TOKEN: sEcr3t"], "{}");
    let id = created.json()["session_id"].as_str().unwrap().to_owned();
    for prefix in ["", &format!("/proxy/{}", execd.address.port())] {
        let path = format!("{prefix}/pty/{id}/ws?takeover=1");
        let refused = Client::connect(execd.address, &path, &[]).unwrap_err();
        assert_eq!(refused.status, 401);
        let client = Client::connect(execd.address, &path, &[token]);
        let mut view = View::of(client.unwrap_or_else(|answer| panic!("{answer:?}")));
        // What is typed is not what is looked for.
        view.type_in("echo token=${EXECD_ACCESS_TOKEN:-no''ne}\n");
        view.until("token=none");
    }
}

#[test]
fn a_shell_is_typed_to_until_it_ends() {
    let execd = Execd::start();
    for prefix in [String::new(), format!("/proxy/{}", execd.address.port())] {
        let id = terminal(&execd, &json!({}));
        let path = format!("{prefix}/pty/{id}/ws");
        let mut client = Client::connect(execd.address, &path, &[]).unwrap();
        // A new terminal has shown nothing: this comes first, and is exact.
        assert_eq!(
            client.receive(),
            Event::Text(format!(
                "{{\"type\":\"connected\",\"session_id\":\"{id}\",\"mode\":\"pty\"}}\n"
            ))
        );
        let mut view = View {
            client,
            connected: Value::Null,
            replay: None,
            offset: 0,
            shown: Vec::new(),
            errors: Vec::new(),
            caught_up: 0,
        };
        view.type_in("stty size; echo sum=$((20+22)) ${TERM:+term}\n");
        view.until("sum=42 term");
        assert!(view.text().contains("24 80\r\n"), "{}", view.text());
        view.client
            .text(r#"{"type":"resize","cols":120,"rows":40}"#);
        view.client
            .text(r#"{"type":"stdin","data":"stty size; printf '\\033[1mé%s\\n' X\n"}"#);
        view.until("\u{1b}[1méX");
        assert!(view.text().contains("40 120\r\n"), "{}", view.text());
        assert_eq!(status(&execd, &id)["running"], true);

        view.client.text(r#"{"type":"ping"}"#);
        assert_eq!(
            view.answer(),
            Event::Text("{\"type\":\"pong\"}\n".to_owned())
        );
        view.client.text(r#"{"type":"no such \"type\""}"#);
        let unknown = r#"{"type":"error","error":"unknown frame type \"no such \\\"type\\\"\"","code":"INVALID_FRAME"}"#;
        assert_eq!(view.answer(), Event::Text(format!("{unknown}\n")));
        view.client.ping(b"alive?");
        assert_eq!(view.answer(), Event::Pong(b"alive?".to_vec()));
        // None of these means anything, and none does harm.
        for nothing in ["{", "[]", "7", "", r#"{"type":"resize","cols":"a"}"#] {
            view.client.text(nothing);
        }
        for nothing in [&b"\x01x"[..], b"\x7fls\n", b"", b"\0"] {
            view.client.binary(nothing);
        }
        for size in [
            r#"{"type":"resize","cols":0,"rows":9}"#,
            r#"{"type":"resize","cols":-1,"rows":9}"#,
            r#"{"type":"signal","signal":"SIGSTOP"}"#,
        ] {
            view.client.text(size);
        }
        view.type_in("echo again=$((1+1)); stty size\n");
        view.until("again=2\r\n40 120");
        view.type_in("exit 42\n");
        assert_eq!(view.end(), End::Exit(42));
        let status = status(&execd, &id);
        assert_eq!(
            (&status["running"], &status["exit_code"]),
            (&json!(false), &json!(42))
        );
        assert_eq!(status["output_offset"], view.offset);
    }
}

#[test]
fn pipes_keep_the_streams_apart() {
    let execd = Execd::start();
    let id = terminal(&execd, &json!({}));
    let mut view = View::open(&execd, &id, "?pty=0");
    assert_eq!(
        view.connected,
        json!({"type": "connected", "session_id": id, "mode": "pipe"})
    );
    view.client.text(r#"{"type":"resize","cols":9,"rows":9}"#);
    view.type_in("echo out; echo err >&2; test -t 0 || echo plain\n");
    view.until("plain\n");
    view.until("err\n");
    assert_eq!(String::from_utf8_lossy(&view.errors), "err\n");
    let mut lines: Vec<_> = view.text().lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines, ["err", "out", "plain"], "no echo and no prompt");
    // The mode of a shell that runs is what it is.
    let mut second = View::open(&execd, &id, "?pty=1&takeover=1&since=999999");
    assert_eq!(second.connected["mode"], "pipe");
    assert_eq!(second.replay, None);
    assert_eq!(view.end(), End::TakenOver);
    second.type_in("exit 7\n");
    assert_eq!(second.end(), End::Exit(7));
}

/// Execd as the image's launcher starts it: in the background of a shell that has no job control,
/// which lets it ignore interrupts.
fn in_the_background() -> Builder<'static> {
    let binary = env!("CARGO_BIN_EXE_opensandbox");
    Builder::new("/bin/sh").arg("-c").arg(format!(
        "trap '' INT QUIT; exec {binary} execd --host=127.0.0.1 --port=0"
    ))
}

#[test]
fn control_c_and_signals_reach_the_foreground_job() {
    let execd = Execd::of(in_the_background());
    let id = terminal(&execd, &json!({}));
    let mut view = View::open(&execd, &id, "");
    for (round, interrupt) in [true, false].into_iter().enumerate() {
        view.type_in(&format!("echo go{round}=$((1+1)); {}\n", nap(987)));
        view.until(&format!("go{round}=2"));
        eventually(|| (!processes(&nap(987)).is_empty()).then_some(()));
        if interrupt {
            view.client.binary(b"\0\x03");
        } else {
            view.client.text(r#"{"type":"signal","signal":"SIGINT"}"#);
        }
        eventually(|| processes(&nap(987)).is_empty().then_some(()));
        view.type_in(&format!("echo alive{round}=$((1+1))\n"));
        view.until(&format!("alive{round}=2"));
    }
    // However much it says, and however fast it is heard.
    for interrupt in [Some("\0\x03"), None] {
        view.shown.clear();
        let flood = format!("yes {}", std::process::id());
        view.type_in(&format!("{flood}\n"));
        while view.shown.len() < 20_000_000 {
            let event = view.client.receive();
            assert_eq!(view.take(event), None);
        }
        match interrupt {
            Some(interrupt) => view.client.binary(interrupt.as_bytes()),
            None => view.client.text(r#"{"type":"signal","signal":"SIGINT"}"#),
        }
        eventually(|| processes(&flood).is_empty().then_some(()));
        view.type_in("echo over=$((1+1))\n");
        let wanted = b"over=2";
        while !view.shown.windows(wanted.len()).any(|seen| seen == wanted) {
            // Of so much only the end is looked at.
            let seen = view.shown.len().saturating_sub(wanted.len());
            view.shown.drain(..seen);
            let event = view.client.receive();
            assert_eq!(view.take(event), None);
        }
    }
    view.client.text(r#"{"type":"signal","signal":"SIGKILL"}"#);
    assert_eq!(view.end(), End::Exit(-1));
}

/// A sleep that no other run of the tests has.
fn nap(seconds: u32) -> String {
    format!("sleep {seconds}.{}", std::process::id())
}

/// The processes with this command line.
fn processes(command: &str) -> Vec<u32> {
    let wanted = format!("{}\0", command.replace(' ', "\0"));
    let entries = fs::read_dir("/proc").unwrap();
    entries
        .filter_map(|entry| {
            let pid = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
            (line == wanted).then_some(pid)
        })
        .collect()
}

#[test]
fn the_end_of_a_shell_comes_after_all_of_its_output() {
    let execd = Execd::start();
    let expected: String = (0..20000).map(|i| format!("line {i}\n")).collect();
    let command = "for ((i=0;i<20000;i++)); do echo line $i; done; exit 7";
    for round in 0..6 {
        for query in ["", "?pty=0"] {
            let id = terminal(&execd, &json!({ "command": command }));
            let prefix = match round % 2 {
                0 => String::new(),
                _ => format!("/proxy/{}", execd.address.port()),
            };
            let mut view = View::try_open(&execd, &format!("{prefix}/pty/{id}/ws{query}")).unwrap();
            assert_eq!(view.end(), End::Exit(7));
            let shown = view.text().replace('\r', "");
            assert!(shown == expected, "{} bytes", shown.len());
            assert_eq!(view.caught_up, 0);
            let status = status(&execd, &id);
            assert_eq!(status["running"], false);
            assert_eq!(status["output_offset"], view.offset);
        }
    }
}

#[test]
fn a_client_that_comes_back_misses_and_repeats_no_byte() {
    let execd = Execd::start();
    let command = "for ((i=0;i<9000;i++)); do echo line $i; done; read";
    let id = terminal(&execd, &json!({ "command": command }));
    let mut all = Vec::new();
    let mut query = "?pty=0".to_owned();
    let expected: String = (0..9000).map(|i| format!("line {i}\n")).collect();
    while all.len() < expected.len() {
        let mut view = View::open(&execd, &id, &query);
        if let Some((start, bytes)) = &view.replay {
            assert_eq!(*start, all.len() as u64);
            all.extend_from_slice(bytes);
        }
        for _ in 0..3 {
            if all.len() + view.shown.len() < expected.len() {
                let event = view.client.receive();
                assert_eq!(view.take(event), None);
            }
        }
        all.extend_from_slice(&view.shown);
        query = format!("?pty=0&takeover=1&since={}", all.len());
    }
    assert!(all == expected.as_bytes());
    // An offset is read as far as it is a number; what is below 0 is the beginning.
    for (since, start) in [("-5", 0), ("12abc", 12), ("abc", 0)] {
        let view = View::open(&execd, &id, &format!("?takeover=1&since={since}"));
        let (from, bytes) = view.replay.unwrap();
        assert_eq!(from, start);
        assert!(bytes == all[usize::try_from(start).unwrap()..]);
    }
}

#[test]
fn what_is_kept_is_the_last_mebibyte() {
    let execd = Execd::start();
    let command = "head -c 3000000 /dev/zero; printf end; read";
    let id = terminal(&execd, &json!({ "command": command }));
    let mut view = View::open(&execd, &id, "?pty=0");
    view.until("end");
    assert_eq!((view.offset, view.caught_up), (3_000_003, 0));
    for since in [0, 1000, 3_000_003 - (1 << 20)] {
        let again = View::open(&execd, &id, &format!("?takeover=1&since={since}"));
        let (start, bytes) = again.replay.unwrap();
        assert_eq!((start, bytes.len()), (3_000_003 - (1 << 20), 1 << 20));
        assert!(bytes.ends_with(b"\0end"));
    }
    let again = View::open(&execd, &id, "?takeover=1&since=3000000");
    assert_eq!(again.replay, Some((3_000_000, b"end".to_vec())));
    let again = View::open(&execd, &id, "?takeover=1&since=3000003");
    assert_eq!(again.replay, None);
}

#[test]
fn a_shell_that_has_ended_is_replaced_and_that_is_said() {
    let execd = Execd::start();
    let id = terminal(&execd, &json!({}));
    let mut first = View::open(&execd, &id, "");
    first.type_in("echo first=$((1+1)); exit 3\n");
    assert_eq!(first.end(), End::Exit(3));
    let shown = first.shown;

    // One that wants none started, and one that only looks on, see what there was and how it ended.
    for query in ["?restart=0", "?view=1"] {
        let mut view = View::open(&execd, &id, query);
        assert_eq!(view.replay, Some((0, shown.clone())));
        assert_eq!(
            view.connected,
            json!({"type": "connected", "session_id": id})
        );
        assert_eq!(view.end(), End::Exit(3));
    }
    assert_eq!(status(&execd, &id)["running"], false);
    let mut second = View::open(&execd, &id, "?pty=0&restart=1");
    assert_eq!(second.replay, Some((0, shown)));
    assert_eq!(
        second.connected,
        json!({"type": "connected", "session_id": id, "mode": "pipe", "exit_code": 3})
    );
    assert_eq!(status(&execd, &id).get("exit_code"), None);
    second.type_in("echo second\n");
    second.until("second\n");
    // A size is for terminals again after pipes.
    second.type_in("exit\n");
    assert_eq!(second.end(), End::Exit(0));
    let mut third = View::open(&execd, &id, "?since=999999999");
    third
        .client
        .text(r#"{"type":"resize","cols":77,"rows":11}"#);
    third.type_in("stty size\n");
    third.until("11 77");
}

#[test]
fn a_takeover_moves_the_terminal_and_keeps_its_shell() {
    let execd = Execd::start();
    let id = terminal(&execd, &json!({}));
    // On a free terminal it just connects.
    let mut first = View::open(&execd, &id, "?takeover=1");
    first.type_in("mark=kept; echo set=$mark\n");
    first.until("set=kept");
    let mut second = View::open(&execd, &id, "?takeover=1");
    assert_eq!(first.end(), End::TakenOver);
    let (start, bytes) = second.replay.take().unwrap();
    assert_eq!(start, 0);
    assert!(bytes.starts_with(&first.shown));
    second.type_in("echo mark=$mark\n");
    second.until("mark=kept");
    // `takeover` means what it says only when it says 1.
    for query in ["?takeover=true", "?takeover=", ""] {
        let refused = View::try_open(&execd, &format!("/pty/{id}/ws{query}"));
        assert_eq!(refused.err().unwrap().status, 409, "{query}");
    }
}

#[test]
fn a_storm_of_takeovers_leaves_the_shell_and_one_client() {
    let execd = Execd::start();
    let id = terminal(&execd, &json!({}));
    let mut first = View::open(&execd, &id, "");
    first.type_in("mark=kept; echo set=$mark\n");
    first.until("set=kept");
    let address = execd.address;
    for _ in 0..20 {
        let clients: Vec<_> = (0..6)
            .map(|_| {
                let path = format!("/pty/{id}/ws?takeover=1&since=999999999");
                std::thread::spawn(move || Client::connect(address, &path, &[]))
            })
            .collect();
        let mut connected = 0;
        for client in clients {
            // Every one of them is let in; only the last one stays.
            let mut client = client.join().unwrap().unwrap_or_else(|a| panic!("{a:?}"));
            let deadline = Instant::now() + Duration::from_millis(200);
            while let Some(event) = client.receive_within(deadline.duration_since(Instant::now())) {
                match event {
                    Event::Text(text) => {
                        assert!(text.starts_with(r#"{"type":"connected""#), "{text}");
                        connected += 1;
                    }
                    Event::Binary(_) => {}
                    Event::Close(4001, _) => client.close(4001),
                    Event::End | Event::Reset => break,
                    other => panic!("{other:?}"),
                }
            }
        }
        assert!(connected >= 1);
    }
    let mut last = View::open(&execd, &id, "?takeover=1&since=999999999");
    last.type_in("echo mark=$mark\n");
    last.until("mark=kept");
    drop(last);
    // Free for anybody once the last one has left.
    eventually(|| View::try_open(&execd, &format!("/pty/{id}/ws")).ok());
}

#[test]
fn others_may_look_on() {
    let execd = Execd::start();
    let id = terminal(&execd, &json!({}));
    // Looking on starts nothing.
    let mut early = View::open(&execd, &id, "?view=1");
    assert_eq!(
        early.connected,
        json!({"type": "connected", "session_id": id})
    );
    assert_eq!(status(&execd, &id)["running"], false);
    let mut writer = View::open(&execd, &id, "");
    let mut views: Vec<_> = (0..4)
        .map(|_| View::open(&execd, &id, "?view=1&takeover=1"))
        .collect();
    assert_eq!(views[0].connected["mode"], "pty");
    for view in &mut views {
        view.type_in("echo typed\n");
        let refused = format!(
            "{{\"type\":\"error\",\"error\":\"this connection only views pty session {id}\",\"code\":\"STDIN_WRITE_FAILED\"}}\n"
        );
        assert_eq!(view.answer(), Event::Text(refused));
        view.client.text(r#"{"type":"signal","signal":"SIGKILL"}"#);
        view.client.text(r#"{"type":"resize","cols":9,"rows":9}"#);
        view.client.text(r#"{"type":"ping"}"#);
        assert_eq!(
            view.answer(),
            Event::Text("{\"type\":\"pong\"}\n".to_owned())
        );
    }
    writer.type_in("stty size; echo sum=$((20+22))\n");
    writer.until("sum=42");
    assert!(writer.text().contains("24 80"));
    assert!(!writer.text().contains("typed"));
    // The first one has seen it all.
    early.until("sum=42");
    assert_eq!(early.shown[..], writer.shown[..early.shown.len()]);
    for view in &mut views {
        view.until("sum=42");
    }
    // There is room for so many, and a place that is left is free again.
    let path = format!("/pty/{id}/ws?view=1");
    let mut more = Vec::new();
    let full = loop {
        match View::try_open(&execd, &path) {
            Ok(view) => more.push(view),
            Err(answer) => break answer,
        }
    };
    assert_eq!(more.len() + views.len() + 2, 16);
    assert_eq!(full.status, 503);
    assert_eq!(
        full.body,
        r#"{"code":"RUNTIME_ERROR","message":"16 clients are connected: close one"}"#
    );
    more.truncate(3);
    eventually(|| View::try_open(&execd, &path).ok());
    writer.type_in("exit 5\n");
    assert_eq!(writer.end(), End::Exit(5));
    for view in views.iter_mut().chain([&mut early]) {
        assert_eq!(view.end(), End::Exit(5));
    }
}

#[test]
fn a_client_that_reads_nothing_does_not_stop_the_shell() {
    let root = tempfile::tempdir().unwrap();
    let execd = Execd::start();
    let done = root.path().join("done");
    let command = format!(
        "head -c 30000000 /dev/zero; echo end; touch {}; read",
        done.display()
    );
    let id = terminal(&execd, &json!({ "command": command }));
    let mut slow = View::open(&execd, &id, "?pty=0");
    let idle = View::open(&execd, &id, "?view=1");
    eventually(|| done.exists().then_some(()));
    // It has missed some, is told where it goes on, and sees the end.
    let mut behind = View::open(&execd, &id, "?view=1&since=0");
    assert!(behind.replay.take().unwrap().1.ends_with(b"end\n"));
    slow.until("end\n");
    assert_eq!(slow.offset, 30_000_004);
    assert!(slow.caught_up >= 1);
    slow.type_in("\n");
    assert_eq!(slow.end(), End::Exit(0));
    drop(idle);
}

#[test]
fn a_client_that_takes_nothing_for_too_long_is_dropped() {
    let execd = Execd::start();
    let command = "while :; do head -c 1000000 /dev/zero; sleep 0.01; done";
    let id = terminal(&execd, &json!({ "command": command }));
    let stuck = View::open(&execd, &id, "?pty=0");
    let path = format!("/pty/{id}/ws");
    let refused = View::try_open(&execd, &path).err().unwrap();
    assert_eq!(refused.status, 409);
    // Its place is free without anybody asking for it.
    eventually(|| View::try_open(&execd, &path).ok());
    drop(stuck);
    delete(&execd, &id);
}

#[test]
fn a_client_that_is_silent_for_too_long_is_dropped() {
    let execd = Execd::start();
    let id = terminal(&execd, &json!({}));
    let mut alive = View::open(&execd, &id, "");
    let mut silent = View::open(&execd, &id, "?view=1");
    let begun = Instant::now();
    let mut pings = 0;
    // The one answers pings. The other answers none; its own do not count.
    loop {
        silent.client.ping(b"x");
        match silent.client.receive_within(Duration::from_secs(1)) {
            Some(Event::End | Event::Reset) => break,
            Some(Event::Ping(_)) => pings += 1,
            Some(Event::Pong(_) | Event::Binary(_)) | None => {}
            Some(other) => panic!("{other:?}"),
        }
        if let Some(Event::Ping(bytes)) = alive.client.receive_within(Duration::from_millis(10)) {
            alive.client.pong(&bytes);
        }
        assert!(begun.elapsed() < 3 * PATIENCE);
        std::thread::sleep(Duration::from_millis(200));
    }
    assert!(begun.elapsed() > Duration::from_secs(45));
    assert!(pings >= 1);
    alive.type_in("echo alive=$((1+1))\n");
    alive.until("alive=2");
}

#[test]
fn input_waits_for_a_shell_that_does_not_read() {
    let root = tempfile::tempdir().unwrap();
    let execd = Execd::start();
    let id = terminal(&execd, &json!({}));
    let mut view = View::open(&execd, &id, "");
    let file = root.path().join("input");
    view.type_in(&format!(
        "stty raw -echo; echo ready=$((1+1)); {}; head -c 600000 > {}; stty sane; echo done=$((1+1))\n",
        nap(986),
        file.display()
    ));
    view.until("ready=2");
    eventually(|| (!processes(&nap(986)).is_empty()).then_some(()));
    let input: Vec<u8> = (0..600_000_u32).map(|n| (n % 253) as u8).collect();
    for piece in input.chunks(50_000) {
        view.client.binary(&[b"\0", piece].concat());
    }
    // What is no input does not wait behind it.
    view.client.text(r#"{"type":"ping"}"#);
    assert_eq!(
        view.answer(),
        Event::Text("{\"type\":\"pong\"}\n".to_owned())
    );
    assert_eq!(processes(&nap(986)).len(), 1);
    view.client.text(r#"{"type":"signal","signal":"SIGTERM"}"#);
    view.until("done=2");
    assert!(fs::read(&file).unwrap() == input);
}

#[test]
fn a_shell_that_cannot_be_started_says_so() {
    let root = tempfile::tempdir().unwrap();
    let cwd = root.path().join("gone");
    let execd = Execd::start();
    let id = terminal(&execd, &json!({ "cwd": cwd }));
    fs::remove_dir(&cwd).unwrap();
    for _ in 0..2 {
        let path = format!("/pty/{id}/ws");
        let mut client = eventually(|| Client::connect(execd.address, &path, &[]).ok());
        let Event::Text(text) = client.receive() else {
            panic!("no text");
        };
        let error: Value = serde_json::from_str(&text).unwrap();
        let told = format!("chdir {}: no such file or directory", cwd.display());
        assert_eq!(
            error,
            json!({"type": "error", "error": told, "code": "START_FAILED"})
        );
        assert!(text.ends_with("}\n"));
        // Without a goodbye.
        assert_eq!(client.receive(), Event::End);
    }
    assert_eq!(status(&execd, &id)["running"], false);

    let execd = Execd::of(builder().env("PATH", root.path().display()));
    let id = terminal(&execd, &json!({}));
    let mut client = Client::connect(execd.address, &format!("/pty/{id}/ws"), &[]).unwrap();
    let Event::Text(text) = client.receive() else {
        panic!("no text");
    };
    assert!(
        text.contains("bash") && text.contains("START_FAILED"),
        "{text}"
    );
}

#[test]
fn a_terminal_that_is_deleted_ends_with_everything_in_it() {
    let execd = Execd::start();
    for query in ["", "?pty=0"] {
        let id = terminal(&execd, &json!({}));
        let mut view = View::open(&execd, &id, query);
        let (stubborn, plain) = (nap(985), nap(984));
        view.type_in(&format!(
            "echo go=$((1+1)); (trap '' HUP TERM; {stubborn}) & {plain}\n"
        ));
        view.until("go=2");
        eventually(|| (processes(&stubborn).len() == 1).then_some(()));
        eventually(|| (processes(&plain).len() == 1).then_some(()));
        delete(&execd, &id);
        assert_eq!(view.end(), End::Exit(-1));
        eventually(|| processes(&stubborn).is_empty().then_some(()));
        eventually(|| processes(&plain).is_empty().then_some(()));
        execd.get(&format!("/pty/{id}")).assert_error(
            404,
            "CONTEXT_NOT_FOUND",
            &format!("pty session {id} not found"),
        );
    }
    // It is deleted, too, when the one who asked for it does not wait.
    let id = terminal(&execd, &json!({}));
    let mut view = View::open(&execd, &id, "");
    let stubborn = nap(983);
    view.type_in(&format!("(trap '' HUP TERM; {stubborn})\n"));
    eventually(|| (processes(&stubborn).len() == 1).then_some(()));
    let mut asking = TcpStream::connect(execd.address).unwrap();
    let request = format!("DELETE /pty/{id} HTTP/1.1\r\nHost: x\r\n\r\n");
    asking.write_all(request.as_bytes()).unwrap();
    eventually(|| (execd.get(&format!("/pty/{id}")).status == 404).then_some(()));
    drop(asking);
    assert_eq!(view.end(), End::Exit(-1));
    eventually(|| processes(&stubborn).is_empty().then_some(()));
    // One that nobody was ever on.
    let id = terminal(&execd, &json!({}));
    let mut view = View::open(&execd, &id, "?view=1");
    delete(&execd, &id);
    assert_eq!(view.end(), End::Exit(-1));
}

#[test]
fn a_goodbye_is_answered_and_wrongs_are_named() {
    let execd = Execd::start();
    let id = terminal(&execd, &json!({}));
    let connect = || eventually(|| View::try_open(&execd, &format!("/pty/{id}/ws")).ok());
    let mut view = connect();
    view.client.close(1000);
    let closed = view.answer();
    assert_eq!(closed, Event::Close(1000, String::new()));
    // Closed by the server, not left to the client.
    assert_eq!(view.answer(), Event::End);

    let unmasked = [&[0x82, 3][..], b"\0hi"].concat();
    let text = frame(0x1, b"\xff\xfe");
    let reserved = [&[0xf2][..], &frame(0x2, b"\0x")[1..]].concat();
    let mut huge = vec![0x82, 0xff];
    huge.extend((5_u64 << 20).to_be_bytes());
    huge.extend([1, 2, 3, 4]);
    for (bytes, code) in [
        (unmasked, 1002),
        (text, 1007),
        (reserved, 1002),
        (huge, 1009),
        (frame(0x3, b""), 1002),
        (frame(0x9, &[0; 126]), 1002),
    ] {
        let mut view = connect();
        view.client.send_raw(&bytes);
        let Event::Close(told, reason) = view.answer() else {
            panic!("no goodbye");
        };
        assert_eq!(told, code);
        assert!(!reason.is_empty());
        view.client.close(code);
        assert!(matches!(view.answer(), Event::End | Event::Reset));
    }
    // The shell is still the first one's.
    let status = status(&execd, &id);
    assert_eq!(status["running"], true);
}

/// The open descriptors of a process, without numbers.
fn descriptors(pid: u32) -> Vec<String> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let mut targets: Vec<_> = entries
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .map(|target| {
            let target = target.to_string_lossy().into_owned();
            let kind = target.split(":[").next().unwrap_or_default();
            kind.to_owned()
        })
        .collect();
    targets.sort();
    targets
}

fn children(pid: u32) -> BTreeSet<u32> {
    let entries = fs::read_dir("/proc").unwrap();
    entries
        .filter_map(|entry| {
            let child: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(format!("/proc/{child}/stat")).ok()?;
            let after = stat.rsplit_once(") ")?.1;
            let parent: u32 = after.split(' ').nth(1)?.parse().ok()?;
            (parent == pid).then_some(child)
        })
        .collect()
}

/// A client that has gone before it read anything.
fn gone_at_once(execd: &Execd, path: &str, rest: &[u8]) {
    let mut stream = TcpStream::connect(execd.address).unwrap();
    let head: String = [UPGRADE, WEBSOCKET, VERSION, KEY]
        .iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .collect();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n{head}\r\n");
    stream
        .write_all(&[request.as_bytes(), rest].concat())
        .unwrap();
}

#[test]
fn nothing_is_left_of_a_client_that_goes_at_any_moment() {
    let execd = Execd::start();
    let pid = execd.daemon.pid();
    // What is started only once has been, and what this needs is closed again.
    let id = terminal(&execd, &json!({"command": "true"}));
    assert_eq!(View::open(&execd, &id, "").end(), End::Exit(0));
    delete(&execd, &id);
    let before = eventually(|| {
        let open = descriptors(pid);
        std::thread::sleep(Duration::from_millis(300));
        (descriptors(pid) == open).then_some(open)
    });
    for _ in 0..6 {
        let id = terminal(&execd, &json!({}));
        let path = format!("/pty/{id}/ws");
        let taking = format!("{path}?takeover=1");
        // Before the answer, with a frame of which half has come, and with one right behind.
        gone_at_once(&execd, &taking, b"");
        gone_at_once(&execd, &taking, &frame(0x2, b"\0echo hi\n")[..5]);
        gone_at_once(&execd, &taking, &frame(0x2, b"\0echo hi\n"));
        gone_at_once(&execd, &taking, &frame(0x8, b"\x03\xe8"));
        // After it was connected; in the middle of output; after half a frame; after a goodbye.
        drop(View::open(&execd, &id, "?takeover=1"));
        let mut view = View::open(&execd, &id, "?takeover=1");
        view.type_in("yes | head -c 20000000\n");
        let event = view.client.receive();
        view.take(event);
        drop(view);
        let mut view = View::open(&execd, &id, "?takeover=1&since=999999999");
        view.client.send_raw(&frame(0x2, &[0; 5000])[..4000]);
        view.client.shut_down();
        drop(view);
        let mut view = View::open(&execd, &id, "?takeover=1&since=999999999");
        view.client.close(1000);
        drop(view);
        // One that is taken over and does not answer; one that looks on and does nothing at all.
        let one = View::open(&execd, &id, "?takeover=1&since=999999999");
        let two = View::open(&execd, &id, "?takeover=1&since=999999999");
        drop((one, two));
        drop(View::open(&execd, &id, "?view=1"));
        // While it ends, and after.
        let mut view = View::open(&execd, &id, "?takeover=1&since=999999999");
        eventually(|| {
            // Whatever goes on there, and whatever it makes of an interrupt.
            view.type_in("\x03");
            std::thread::sleep(Duration::from_millis(50));
            view.type_in("exit\n");
            (status(&execd, &id)["running"] == false).then_some(())
        });
        drop(view);
        // All are gone, and their places are free.
        eventually(|| View::try_open(&execd, &format!("{path}?restart=0")).ok());
        delete(&execd, &id);
        eventually(|| children(pid).is_empty().then_some(()));
        eventually(|| (descriptors(pid) == before).then_some(()));
    }
}

#[test]
fn memory_stays_flat_over_many_terminals() {
    let execd = Execd::start();
    let resident = || execd.daemon.status("VmRSS");
    let run = |count: usize| {
        for _ in 0..count {
            let id = terminal(&execd, &json!({"command": "head -c 200000 /dev/zero"}));
            let mut view = View::open(&execd, &id, "");
            assert_eq!(view.end(), End::Exit(0));
            delete(&execd, &id);
        }
    };
    run(60);
    let before = resident();
    run(240);
    let after = resident();
    assert!(
        after < before + 4096,
        "{before} KiB before, {after} KiB after 240 terminals"
    );
}

#[test]
fn the_end_of_the_daemon_is_told_to_clients() {
    let mut execd = Execd::start();
    let id = terminal(&execd, &json!({}));
    let mut view = View::open(&execd, &id, "");
    view.type_in("echo go=$((1+1))\n");
    view.until("go=2");
    execd.daemon.signal(Signal::TERM);
    assert_eq!(view.end(), End::Exit(-1));
    assert!(execd.daemon.wait(PATIENCE).success());
}

#[test]
fn a_terminal_knows_the_trace_and_the_settings_of_its_maker() {
    let root = tempfile::tempdir().unwrap();
    let envs = root.path().join("envs");
    fs::write(&envs, "FROM_FILE=yes\n").unwrap();
    let execd = Execd::of(builder().env("EXECD_ENVS", envs.display()));
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let header = format!("traceparent: {parent}");
    let body = json!({"command": "echo $TRACEPARENT $FROM_FILE"}).to_string();
    let created = execd.call("POST", "/pty", &[&header], &body);
    let id = created.json()["session_id"].as_str().unwrap().to_owned();
    let mut view = View::open(&execd, &id, "?pty=0");
    assert_eq!(view.end(), End::Exit(0));
    assert_eq!(view.text(), format!("{parent} yes\n"));
    let event = execd
        .daemon
        .wait_for_event("execd.execution", |event| event["operation"] == "pty");
    assert_eq!(event["trace_id"], "0af7651916cd43dd8448eb211c80319c");
    assert_eq!(event["execution_id"], id.as_str());
    assert!(!execd.daemon.transcript().contains("TRACEPARENT"));
}

#[test]
fn requests_are_counted_once_and_by_their_template() {
    let execd = Execd::start();
    let id = terminal(&execd, &json!({"command": "true"}));
    let port = execd.address.port();
    let path = format!("/proxy/{port}/pty/{id}/ws");
    let mut view = View::try_open(&execd, &path).unwrap();
    assert_eq!(view.end(), End::Exit(0));
    delete(&execd, &id);
    let is_last = |event: &Value| event["method"] == "DELETE";
    execd.daemon.wait_for_event("execd.access", is_last);
    let seen: Vec<_> = execd
        .daemon
        .events("execd.access")
        .iter()
        .map(|event| format!("{} {} {}", event["method"], event["route"], event["status"]))
        .collect();
    assert_eq!(
        seen,
        [
            r#""POST" "/pty" 201"#,
            r#""GET" "/pty/:sessionId/ws" 101"#,
            r#""DELETE" "/pty/:sessionId" 200"#,
        ]
    );
}
