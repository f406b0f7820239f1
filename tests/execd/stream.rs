//! The event stream (contract 4, 7.4 and 2.7): its bytes, its pace, and what it costs.

use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};

use crate::client::{Execd, builder};
use support::eventually;

/// The rule of `/command` in the contract's own words.
fn lines(input: &[u8]) -> Vec<String> {
    let (mut events, mut pending, mut last_was_cr) = (Vec::new(), Vec::new(), false);
    for &byte in input {
        if byte == b'\n' || byte == b'\r' {
            if !pending.is_empty() {
                events.push(text(&std::mem::take(&mut pending)));
            } else if !(byte == b'\n' && last_was_cr) {
                events.push("\n".to_owned());
            }
            last_was_cr = byte == b'\r';
        } else {
            last_was_cr = false;
            pending.push(byte);
        }
    }
    if !pending.is_empty() {
        events.push(text(&pending));
    }
    events
}

/// The documented replacement: each byte that is no UTF-8 becomes U+FFFD.
fn text(bytes: &[u8]) -> String {
    let replaced = bytes.utf8_chunks().map(|chunk| {
        let invalid = "\u{fffd}".repeat(chunk.invalid().len());
        [chunk.valid(), &invalid].concat()
    });
    replaced.collect()
}

fn pieces() -> impl Strategy<Value = Vec<(bool, Vec<u8>)>> {
    let byte = prop_oneof![
        3 => Just(b'\n'), 3 => Just(b'\r'), 3 => Just(b'a'), 2 => Just(0u8), 2 => Just(b'"'),
        1 => Just(0xc2), 1 => Just(0x85), 1 => Just(0xe2), 1 => Just(0x80), 1 => Just(0xa8),
        1 => Just(b'<'), 2 => any::<u8>()
    ];
    let piece = prop_oneof![
        8 => proptest::collection::vec(byte, 0..200),
        1 => (any::<u8>(), 60_000usize..200_000).prop_map(|(byte, length)| vec![byte; length]),
    ];
    proptest::collection::vec((any::<bool>(), piece), 1..8)
}

#[test]
fn any_bytes_in_are_the_same_bytes_out() {
    let execd = Execd::start();
    let directory = tempfile::tempdir().unwrap();
    let check = |pieces: Vec<(bool, Vec<u8>)>| {
        let mut command = format!("cd {}", directory.path().display());
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        for (number, (to_stderr, piece)) in pieces.iter().enumerate() {
            std::fs::write(directory.path().join(number.to_string()), piece).unwrap();
            let (stream, redirect) = match to_stderr {
                true => (&mut stderr, " >&2"),
                false => (&mut stdout, ""),
            };
            stream.extend_from_slice(piece);
            command.push_str(&format!("; cat {number}{redirect}"));
        }
        let run = execd.run(&command);
        run.assert_complete();
        prop_assert_eq!(run.stdout(), lines(&stdout));
        prop_assert_eq!(run.lines("stderr"), lines(&stderr));
        Ok(())
    };
    let config = Config {
        cases: 48,
        failure_persistence: None,
        ..Config::default()
    };
    TestRunner::new(config).run(&pieces(), check).unwrap();
}

#[test]
fn the_bytes_of_a_stream_are_those_of_the_contract() {
    let execd = Execd::start();
    let request =
        json!({"command": "printf '<&>\\302\\205\\342\\200\\250\\377\\0\\t\\033[0m\\n'; exit 3"});
    let answer = execd.open("POST", "/command", &[], &request.to_string());
    for (name, value) in [
        ("content-type", "text/event-stream"),
        ("cache-control", "no-cache"),
        ("connection", "keep-alive"),
        ("x-accel-buffering", "no"),
        ("transfer-encoding", "chunked"),
    ] {
        assert_eq!(answer.header(name), Some(value));
    }
    let body = answer.whole();
    let body = body.text();
    // Times aside, and the ping, which may come anywhere.
    let digits = |text: &str| {
        let mut text = text.to_owned();
        while let Some(at) = text.find("\"timestamp\":1") {
            let end = at + text[at..].find(['}', ',']).unwrap();
            text.replace_range(at..end, "T");
        }
        text
    };
    let (init, rest) = body.split_once("\n\n").unwrap();
    assert!(init.starts_with(r#"{"type":"init","text":""#), "{init}");
    assert_eq!(
        digits(init).len(),
        r#"{"type":"init","text":"","#.len() + 32 + 2
    );
    assert_eq!(
        digits(rest),
        concat!(
            r#"{"type":"ping","text":"pong",T}"#,
            "\n\n",
            r#"{"type":"stdout","text":"\u003c\u0026\u003e\u0085\u2028"#,
            "\u{fffd}",
            r#"\u0000\t\u001b[0m",T}"#,
            "\n\n",
            r#"{"type":"error",T,"error":{"ename":"CommandExecError","evalue":"3","traceback":["exit status 3"]}}"#,
            "\n\n",
        )
    );
}

#[test]
fn a_silent_command_is_heard_to_be_alive() {
    let execd = Execd::start();
    let run = execd.run("sleep 3.5");
    assert!(run.pings >= 2, "{run:?}");
    let took = run.end()["execution_time"].as_u64().unwrap();
    assert!(took >= 3500, "{took}");
}

#[test]
fn output_comes_when_it_is_written() {
    let execd = Execd::start();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("go");
    let mut events = execd.begin(&json!({
        "command": format!("echo one; until [ -e {0} ]; do sleep 0.02; done; echo two", file.display()),
    }));
    // The command waits until the first line was seen.
    events.wait_for_text("one");
    std::fs::write(&file, "").unwrap();
    events.wait_for_text("two");
}

#[test]
fn a_line_of_100_megabytes_is_one_event_and_costs_no_memory() {
    const LENGTH: usize = 100_000_000;
    let execd = Execd::start();
    execd.run("true");
    let before = execd.daemon.status("VmHWM");
    let command = format!(
        "echo first; head -c {LENGTH} /dev/zero | tr '\\0' Z; echo; echo err >&2; echo last"
    );
    let mut answer = execd.begin(&json!({ "command": command })).0;
    let (mut total, mut others) = (0, Vec::new());
    while let Some(piece) = answer.piece().unwrap() {
        total += piece.iter().filter(|byte| **byte == b'Z').count();
        others.extend(piece.into_iter().filter(|byte| *byte != b'Z'));
    }
    let events: Vec<Value> = String::from_utf8(others)
        .unwrap()
        .split_terminator("\n\n")
        .map(|event| serde_json::from_str(event).unwrap_or_else(|error| panic!("{error}: {event}")))
        .collect();
    let lines: Vec<_> = events
        .iter()
        .filter(|event| event["type"] == "stdout")
        .map(|event| event["text"].as_str().unwrap())
        .collect();
    assert_eq!(lines, ["first", "", "last"]);
    assert_eq!(total, LENGTH);
    let grown = execd.daemon.status("VmHWM") - before;
    assert!(grown < 32 * 1024, "{grown} KiB");
}

#[test]
fn a_client_that_does_not_read_slows_the_command_and_fills_nothing() {
    let execd = Execd::start();
    let mut events = execd.begin(&json!({"command": "yes; :"}));
    let id = events.wait_for(|event| event["type"] == "init")["text"].clone();
    events.wait_for_text("y");
    std::thread::sleep(Duration::from_millis(500));
    let before = execd.daemon.status("VmRSS");
    std::thread::sleep(Duration::from_millis(1500));
    let grown = execd.daemon.status("VmRSS").saturating_sub(before);
    assert!(grown < 8 * 1024, "{grown} KiB");
    // It goes on when the client does.
    for _ in 0..100 {
        events.0.piece().unwrap().unwrap();
    }
    let delete = format!("/command?id={}", id.as_str().unwrap());
    std::thread::scope(|scope| {
        // Someone has to read for the end to come through.
        scope.spawn(|| while events.0.piece().unwrap().is_some() {});
        assert_eq!(execd.delete(&delete).status, 200);
    });
}

#[test]
fn a_client_that_is_gone_lets_the_command_write_on() {
    let execd = Execd::start();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("done");
    let command = format!(
        "head -c 50000000 /dev/zero | tr '\\0' '\\n'; touch {}",
        file.display()
    );
    let mut events = execd.begin(&json!({ "command": command }));
    events.wait_for_text("\n");
    events.0.abandon();
    eventually(|| file.exists().then_some(()));
}

#[test]
fn standard_streams_can_be_opened_by_name() {
    let execd = Execd::start();
    // As files these would be cut to nothing by each.
    let run = execd.run(
        "echo a; echo b > /dev/stdout; echo c; echo d > /dev/stderr; echo e | tee /dev/stderr",
    );
    assert_eq!(run.stdout(), ["a", "b", "c", "e"]);
    assert_eq!(run.lines("stderr"), ["d", "e"]);
}

#[test]
fn http_2_carries_streams_too() {
    if !support::tools::require_programs(&["curl"]) {
        return;
    }
    let execd = Execd::of(builder());
    let output = std::process::Command::new("curl")
        .args(["--silent", "--http2-prior-knowledge", "--max-time", "60"])
        .args(["--data", r#"{"command":"echo x"}"#])
        .arg(format!("http://{}/command", execd.address))
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains(r#""text":"x""#), "{text}");
}
