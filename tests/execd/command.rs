//! `/command` (contract 7 and 14).

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client::{Events, Execd, PATIENCE, Run, builder, is_gone};
use support::eventually;

#[track_caller]
fn assert_invalid(execd: &Execd, request: &Value, message: &str) {
    let told = format!("invalid request, validation error {message}");
    let answer = execd.post("/command", request);
    answer.assert_error(400, "INVALID_REQUEST_BODY", &told);
}

const REQUIRED: &str = "Key: 'RunCommandRequest.Command' Error:Field validation for 'Command' failed on the 'required' tag";
const NOT_NEGATIVE: &str = "Key: 'RunCommandRequest.TimeoutMs' Error:Field validation for 'TimeoutMs' failed on the 'gte' tag";

#[test]
fn requests_are_validated_in_order() {
    let execd = Execd::start();
    let file = tempfile::NamedTempFile::new().unwrap();
    let file = file.path().to_str().unwrap();
    assert_invalid(&execd, &json!({}), REQUIRED);
    assert_invalid(&execd, &json!({"command": ""}), REQUIRED);
    assert_invalid(
        &execd,
        &json!({"command": "ls", "timeout": -100}),
        NOT_NEGATIVE,
    );
    let both = format!("{REQUIRED}\n{NOT_NEGATIVE}");
    assert_invalid(
        &execd,
        &json!({"timeout": -1, "gid": 1, "cwd": "/none"}),
        &both,
    );
    let gid = "uid is required when gid is provided";
    assert_invalid(
        &execd,
        &json!({"command": "ls", "gid": 1, "cwd": "/none"}),
        gid,
    );
    for (cwd, message) in [
        (
            "/no/such",
            "working directory does not exist: /no/such: stat /no/such: no such file or directory",
        ),
        (
            "$NOT_SET/x",
            "cannot resolve working directory \"$NOT_SET/x\": path references undefined environment variables: NOT_SET",
        ),
        (
            file,
            &format!("working directory path is not a directory: {file}"),
        ),
    ] {
        assert_invalid(&execd, &json!({"command": "ls", "cwd": cwd}), message);
    }
    for request in [
        json!({"command": " "}),
        json!({"command": "true", "timeout": 0}),
        json!({"command": "true", "timeout": null, "cwd": null, "envs": null, "uid": null}),
        json!({"command": "true", "cwd": ""}),
    ] {
        execd.run_as(&request).assert_complete();
    }
}

#[test]
fn bodies_are_read_with_the_old_tolerance() {
    let execd = Execd::start();
    let parsing = "error parsing request, MAYBE invalid body format. ";
    let post = |body: &str| execd.call("POST", "/command", &[], body);
    for (body, told) in [
        ("", "EOF"),
        ("{\"command\":", "unexpected EOF"),
        ("xyz", ""),
        ("[]", "json: cannot unmarshal"),
        (
            r#"{"command":"ls","timeout":"5"}"#,
            "json: cannot unmarshal string into Go struct field RunCommandRequest.timeout of type int64",
        ),
        (r#"{"command":"ls","timeout":30000.0}"#, "json: cannot"),
        (r#"{"command":"ls","uid":-1}"#, "json: cannot"),
        (r#"{"command":"ls","envs":{"A":1}}"#, "json: cannot"),
    ] {
        let answer = post(body);
        assert_eq!(answer.status, 400, "{body}");
        let answer = answer.json();
        assert_eq!(answer["code"], "INVALID_REQUEST_BODY");
        let message = answer["message"].as_str().unwrap();
        assert!(
            message.starts_with(&format!("{parsing}{told}")),
            "{message}"
        );
    }
    for body in [
        r#"{"Command":"echo x","ENVS":{"A":null}} trailing"#,
        r#"{"command":"no","unknown":[1],"command":"echo x"}"#,
        "\n {\"COMMAND\":\"echo x\"}{}",
    ] {
        let answer = execd.open("POST", "/command", &["Content-Type: text/plain"], body);
        assert_eq!(answer.status, 200, "{body}");
        assert_eq!(Run::of(Events(answer)).stdout(), ["x"], "{body}");
    }
}

#[test]
fn output_and_end_come_as_events() {
    let execd = Execd::start();
    let run = execd.run("echo \"hello\"; echo \"errline\" 1>&2");
    assert_eq!(run.stdout(), ["hello"]);
    assert_eq!(run.lines("stderr"), ["errline"]);
    run.assert_complete();
    let id = run.id();
    assert_eq!(id.len(), 32);
    assert!(
        id.bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    );
    assert!(run.pings >= 1);

    let run = execd.run("echo \"before\"; exit 3");
    assert_eq!(
        (run.stdout(), run.lines("stderr").len()),
        (vec!["before"], 0)
    );
    run.assert_failed("3", "exit status 3");

    execd
        .run("kill -9 $$")
        .assert_failed("-1", "signal: killed");
    execd.run("kill -SEGV $$").end()["error"]["traceback"][0]
        .as_str()
        .unwrap()
        .strip_prefix("signal: segmentation fault")
        .unwrap();
    execd
        .run("no-such-program")
        .assert_failed("127", "exit status 127");
    assert_eq!(
        execd.run("printf 'a\\n\\nb\\n\\n\\nc\\n'").stdout(),
        ["a", "\n", "b", "\n", "\n", "c"]
    );
    assert_eq!(
        execd.run("printf '10%%\\r20%%\\r\\nend'").stdout(),
        ["10%", "20%", "end"]
    );
    assert_eq!(execd.run("cat; echo $?").stdout(), ["0"]);
}

#[test]
fn a_short_command_takes_no_second() {
    let execd = Execd::start();
    let begun = Instant::now();
    for _ in 0..20 {
        execd.run("true").assert_complete();
    }
    // With a hold after each it would be twenty.
    assert!(begun.elapsed() < Duration::from_secs(15));
}

#[test]
fn the_directory_is_expanded_with_the_commands_own_environment() {
    let home = tempfile::tempdir().unwrap();
    std::fs::create_dir(home.path().join("workspace")).unwrap();
    let workspace = home.path().join("workspace");
    let workspace = workspace.to_str().unwrap();
    let execd = Execd::of(
        builder()
            .env("HOME", home.path().display())
            .env("WORKDIR", "/"),
    );
    for (cwd, expected) in [
        ("~/workspace", workspace),
        ("$WORKDIR/tmp", "/tmp"),
        ("", ""),
    ] {
        let run = execd.run_as(&json!({"command": "pwd", "cwd": cwd}));
        if !expected.is_empty() {
            assert_eq!(run.stdout(), [expected]);
        }
    }
    let request = json!({"command": "pwd", "cwd": "$WORKDIR", "envs": {"WORKDIR": workspace}});
    assert_eq!(execd.run_as(&request).stdout(), [workspace]);
    let request = json!({"command": "pwd", "cwd": "${ONLY_HERE}", "envs": {"ONLY_HERE": "/tmp"}});
    assert_eq!(execd.run_as(&request).stdout(), ["/tmp"]);
}

#[test]
fn environments_are_layered_and_secrets_stay() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("envs");
    std::fs::write(
        &file,
        "# a comment\nA=file\nB=file\nPATH=$PATH:/extra\nPATH=$PATH:/last\nMALFORMED-s3cret\nQ=\"q\"\n",
    )
    .unwrap();
    let mut execd = Execd::of(
        builder()
            .env("EXECD_ENVS", file.display())
            .env("EXECD_ACCESS_TOKEN_FILE", "")
            .env("JUPYTER_TOKEN", "s3cret-jupyter")
            .env("_EXECD_CLONE3_COMPAT_APPLIED", "1")
            .env("A", "own")
            .env("C", "own"),
    );
    let request = json!({
        "command": "echo $A $B $C $Q; echo $PATH | grep -o '/[a-z]*$'; env",
        "envs": {"B": "request", "EMPTY": null},
    });
    let run = execd.run_as(&request);
    let lines = run.stdout();
    assert_eq!(lines[..2], ["file request own q", "/last"]);
    assert!(lines.contains(&"EMPTY="));
    for secret in ["EXECD_ACCESS_TOKEN", "JUPYTER_TOKEN", "_EXECD_CLONE3"] {
        assert!(!lines.iter().any(|line| line.contains(secret)), "{secret}");
    }
    // It is read anew for every command.
    std::fs::write(&file, "A=changed\n").unwrap();
    assert_eq!(execd.run("echo $A").stdout(), ["changed"]);
    std::fs::remove_file(&file).unwrap();
    assert_eq!(execd.run("echo $A").stdout(), ["own"]);
    execd.daemon.stop();
    let log = execd.daemon.transcript();
    assert!(log.contains("EXECD_ENVS: skip malformed line 6"), "{log}");
    assert!(log.contains("EXECD_ENVS: failed to read file"), "{log}");
    assert!(!log.contains("s3cret"), "{log}");
}

#[test]
fn a_command_runs_as_whom_it_is_told() {
    if !support::require_root("another user") {
        return;
    }
    let execd = Execd::start();
    let show = "id -u; id -g; echo $HOME";
    let run = |mut request: Value| {
        request["command"] = json!(show);
        let run = execd.run_as(&request);
        run.assert_complete();
        let lines = run.stdout().into_iter().map(str::to_owned);
        lines.collect::<Vec<_>>()
    };
    assert_eq!(run(json!({"uid": 1}))[..2], ["1", "1"]);
    assert_eq!(run(json!({"uid": 1, "gid": 7}))[..2], ["1", "7"]);
    assert_eq!(run(json!({"user": "daemon"})), ["1", "1", "/usr/sbin"]);
    // A number without an account never gets the daemon's own group.
    assert_eq!(run(json!({"uid": 54321}))[..2], ["54321", "54321"]);
    assert_invalid(
        &execd,
        &json!({"command": "ls", "user": "no-such-user"}),
        "there is no user \"no-such-user\"",
    );
    assert_invalid(
        &execd,
        &json!({"command": "ls", "user": "daemon", "uid": 0}),
        "give either uid or user",
    );
}

#[test]
fn the_callers_trace_is_in_the_environment() {
    let execd = Execd::of(builder().env("TRACESTATE", "own=1").env("BAGGAGE", "own=1"));
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let show = json!({"command": "echo \"$TRACEPARENT|$TRACESTATE|$BAGGAGE\""}).to_string();
    let shown = |headers: &[&str]| {
        let answer = execd.open("POST", "/command", headers, &show);
        Run::of(Events(answer)).stdout()[0].to_owned()
    };
    let header = format!("traceparent: {parent}");
    let all = [&*header, "tracestate: a=1,b=2", "baggage: k=v"];
    assert_eq!(shown(&all), format!("{parent}|a=1,b=2|k=v"));
    // Nothing of another trace is mixed in.
    assert_eq!(shown(&[&header]), format!("{parent}||"));
    assert_eq!(shown(&["traceparent: nonsense"]), "|own=1|own=1");
    let request = json!({"command": "echo $TRACEPARENT", "envs": {"TRACEPARENT": "mine"}});
    let answer = execd.open("POST", "/command", &[&header], &request.to_string());
    assert_eq!(Run::of(Events(answer)).stdout(), ["mine"]);
}

#[test]
fn a_timeout_ends_everything_and_says_so() {
    let execd = Execd::start();
    let begun = Instant::now();
    let run = execd.run_as(&json!({
        "command": "sleep 300 & echo $!; wait",
        "timeout": 300,
    }));
    run.assert_failed("-1", "signal: terminated");
    assert_eq!(run.end()["error"]["traceback"][1], "timeout");
    assert!(begun.elapsed() < PATIENCE);
    let sleep = run.stdout()[0].to_owned();
    eventually(|| is_gone(&sleep).then_some(()));
    let status = execd.ended(&run.id());
    assert_eq!(status["exit_code"], -1);
    assert_eq!(status["error"], "signal: terminated, timeout");
}

#[test]
fn the_client_that_goes_ends_no_command() {
    let execd = Execd::start();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("done");
    let command = format!(
        "for i in $(seq 1 2000); do echo line $i; done; sleep 0.2; echo more; touch {}",
        file.display()
    );
    let request = json!({ "command": command });
    // At the head, at the first event, in the middle.
    for events in 0..3 {
        let mut stream = execd.begin(&request);
        for _ in 0..events {
            stream.0.piece().unwrap().unwrap();
        }
        stream.0.abandon();
        eventually(|| file.exists().then_some(()));
        std::fs::remove_file(&file).unwrap();
    }
    // Before the head.
    let body = request.to_string();
    let mut raw = std::net::TcpStream::connect(execd.address).unwrap();
    let head = format!(
        "POST /command HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    std::io::Write::write_all(&mut raw, head.as_bytes()).unwrap();
    eventually(|| file.exists().then_some(()));
    drop(raw);
    let mut stream = execd.begin(&json!({"command": "echo up; sleep 0.3; exit 4"}));
    let id = stream.wait_for(|event| event["type"] == "init")["text"].clone();
    stream.0.abandon();
    assert_eq!(execd.ended(id.as_str().unwrap())["exit_code"], 4);
    assert_eq!(execd.get("/ping").status, 200);
}

#[test]
fn what_a_shell_leaves_behind_goes_on_and_holds_nobody_up() {
    let execd = Execd::start();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("still");
    // It keeps standard output, and would die of SIGPIPE if that were closed.
    let daemonise = format!(
        "( setsid sh -c 'sleep 0.5; echo late; echo later; touch {}' & ) ; echo now",
        file.display()
    );
    let begun = Instant::now();
    let run = execd.run(&daemonise);
    assert_eq!(run.stdout(), ["now"]);
    run.assert_complete();
    assert!(begun.elapsed() < PATIENCE);
    eventually(|| file.exists().then_some(()));
    std::fs::remove_file(&file).unwrap();
    // The same in the background, where what comes late is in the log.
    let id = execd.run_in_background(&daemonise);
    execd.ended(&id);
    eventually(|| {
        let log = execd.get(&format!("/command/{id}/logs"));
        (log.text() == "now\nlate\nlater\n").then_some(())
    });
    eventually(|| file.exists().then_some(()));
}

#[test]
fn an_interrupt_ends_a_command_and_its_children() {
    let execd = Execd::start();
    let unknown = "error interruptting code context. no such session";
    execd
        .delete("/command?id=nope")
        .assert_error(500, "RUNTIME_ERROR", unknown);
    let mut events = execd.begin(&json!({"command": "sleep 300 & echo $!; wait"}));
    let id = events.wait_for(|event| event["type"] == "init")["text"].clone();
    let id = id.as_str().unwrap();
    let sleep = events.wait_for(|event| event["type"] == "stdout")["text"].clone();
    let answer = execd.delete(&format!("/command?id={id}"));
    assert_eq!((answer.status, answer.body.len()), (200, 0));
    assert_eq!(answer.header("content-type"), None);
    let end = events.wait_for(|event| event["type"] == "error");
    assert_eq!(end["error"]["evalue"], "-1");
    assert_eq!(
        end["error"]["traceback"],
        json!(["signal: terminated", "interrupted"])
    );
    assert!(events.0.piece().unwrap().is_none());
    eventually(|| is_gone(sleep.as_str().unwrap()).then_some(()));
    execd.delete(&format!("/command?id={id}")).assert_error(
        500,
        "RUNTIME_ERROR",
        &format!("error interruptting code context. command session {id} is not running"),
    );
}

#[test]
fn a_command_that_ignores_sigterm_is_killed() {
    let execd = Execd::start();
    let mut events = execd.begin(&json!({
        "command": "trap '' TERM; echo up; while :; do sleep 0.1; done",
    }));
    let id = events.wait_for(|event| event["type"] == "init")["text"].clone();
    events.wait_for_text("up");
    let answer = execd.delete(&format!("/command?id={}", id.as_str().unwrap()));
    assert_eq!(answer.status, 200);
    let end = events.wait_for(|event| event["type"] == "error");
    assert_eq!(end["error"]["traceback"][0], "signal: killed");
}

#[test]
fn the_status_of_a_command_from_begin_to_end() {
    let execd = Execd::start();
    execd.get("/command/status/nope").assert_error(
        404,
        "INVALID_REQUEST_BODY",
        "command not found: nope",
    );
    let mut events = execd.begin(&json!({"command": "read -t 300 < <(sleep 300); :"}));
    let id = events.wait_for(|event| event["type"] == "init")["text"].clone();
    let id = id.as_str().unwrap();
    // It is known as soon as its client knows it.
    let status = execd.get(&format!("/command/status/{id}")).json();
    let keys: Vec<_> = status.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["id", "content", "running", "started_at"]);
    assert_eq!(status["running"], true);
    assert_eq!(status["content"], "read -t 300 < <(sleep 300); :");
    execd.delete(&format!("/command?id={id}"));

    let run = execd.run("exit 7 # <&>");
    let answer = execd.get(&format!("/command/status/{}", run.id()));
    let json = "application/json; charset=utf-8";
    assert_eq!(answer.header("content-type"), Some(json));
    let text = answer.text();
    assert!(text.contains(r#""content":"exit 7 # \u003c\u0026\u003e","running":false,"exit_code":7,"error":"exit status 7","started_at":""#), "{text}");
    let status = answer.json();
    for key in ["started_at", "finished_at"] {
        let time = status[key].as_str().unwrap();
        assert!(time.len() >= 20 && time.ends_with('Z'), "{time}");
    }
    let status = execd.ended(&execd.run("true").id());
    assert_eq!(status["exit_code"], 0);
    assert!(status.get("error").is_none());
}

#[test]
fn a_background_command_returns_at_once_and_is_known() {
    let execd = Execd::start();
    let request =
        json!({"command": "echo out; echo err >&2; sleep 1; echo end", "background": true});
    let run = execd.run_as(&request);
    assert_eq!(run.events.len(), 2, "{run:?}");
    assert!(run.end().get("execution_time").is_none());
    let id = run.id();
    let status = execd.get(&format!("/command/status/{id}")).json();
    assert_eq!(status["running"], true);
    assert!(status.get("exit_code").is_none() && status.get("finished_at").is_none());
    assert_eq!(execd.ended(&id)["exit_code"], 0);
    let log = execd.get(&format!("/command/{id}/logs"));
    assert_eq!(log.text(), "out\nerr\nend\n");
    // Its input is empty, so it does not wait for any.
    let id = execd.run_in_background("cat; exit 5");
    assert_eq!(execd.ended(&id)["exit_code"], 5);
    // A timeout holds here, too.
    let request = json!({"command": "sleep 300", "background": true, "timeout": 100});
    let id = execd.run_as(&request).id();
    assert_eq!(execd.ended(&id)["error"], "signal: terminated, timeout");
    let id = execd.run_in_background("sleep 300");
    assert_eq!(execd.delete(&format!("/command?id={id}")).status, 200);
    assert_eq!(execd.ended(&id)["error"], "signal: terminated, interrupted");
}

#[test]
fn logs_are_read_by_cursor() {
    let execd = Execd::start();
    let id = execd.run_in_background("printf 'one\\n\\377two\\n'; sleep 300");
    let logs = |query: &str| execd.get(&format!("/command/{id}/logs{query}"));
    eventually(|| (logs("").body.len() == 9).then_some(()));
    for (query, body, cursor) in [
        ("", &b"one\n\xfftwo\n"[..], "9"),
        ("?cursor=", b"one\n\xfftwo\n", "9"),
        ("?cursor=nonsense", b"one\n\xfftwo\n", "9"),
        ("?cursor=4", b"\xfftwo\n", "9"),
        ("?cursor=4&limit=2", b"\xfft", "6"),
        ("?cursor=9", b"", "9"),
        ("?cursor=1000", b"", "1000"),
    ] {
        let answer = logs(query);
        assert_eq!(answer.status, 200);
        assert_eq!(answer.body, body, "{query}");
        assert_eq!(answer.header("execd-commands-tail-cursor"), Some(cursor));
        let text = "text/plain; charset=utf-8";
        assert_eq!(answer.header("content-type"), Some(text));
    }
    logs("?cursor=-1").assert_error(
        400,
        "INVALID_REQUEST_BODY",
        &format!("error seek file: seek {id}: invalid argument"),
    );
    execd.get("/command/nope/logs").assert_error(
        400,
        "INVALID_REQUEST_BODY",
        "command not found: nope",
    );
    let foreground = execd.run("true").id();
    execd
        .get(&format!("/command/{foreground}/logs"))
        .assert_error(
            400,
            "INVALID_REQUEST_BODY",
            &format!("command {foreground} is not running in background"),
        );
    execd.delete(&format!("/command?id={id}"));
}

#[test]
fn a_log_beyond_its_bound_begins_later_and_says_where() {
    let execd = Execd::start();
    // 64 MiB are kept.
    let id = execd.run_in_background("head -c 70000000 /dev/zero | tr '\\0' x; echo end");
    execd.ended(&id);
    let answer = execd.get(&format!("/command/{id}/logs"));
    let total = 70_000_004_u64;
    assert_eq!(answer.body.len(), 64 << 20);
    assert!(answer.body.ends_with(b"xend\n"));
    assert_eq!(
        answer.header("execd-commands-tail-cursor"),
        Some(&*total.to_string())
    );
    let start = (total - (64 << 20)).to_string();
    assert_eq!(answer.header("execd-commands-log-start"), Some(&*start));
}

#[test]
fn many_run_at_once() {
    let execd = Execd::start();
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..32)
            .map(|number| {
                scope.spawn({
                    let execd = &execd;
                    move || {
                        let run = execd.run(&format!("echo {number}; exit {number}"));
                        assert_eq!(run.stdout(), [number.to_string()]);
                        match number {
                            0 => run.assert_complete(),
                            _ => run.assert_failed(
                                &number.to_string(),
                                &format!("exit status {number}"),
                            ),
                        }
                    }
                })
            })
            .collect();
        for run in runs {
            run.join().unwrap();
        }
    });
}

#[test]
fn nothing_of_a_command_is_in_the_log() {
    let mut execd = Execd::of(builder().env("EXECD_ACCESS_TOKEN", "s3cret-token"));
    let token = "X-EXECD-ACCESS-TOKEN: s3cret-token";
    let call = |path: &str, body: &Value| {
        let answer = execd.open("POST", path, &[token], &body.to_string());
        answer.whole()
    };
    let command = "echo s3cret-output; echo s3cret-error >&2; s3cret-program";
    let request = json!({
        "command": command,
        "envs": {"S": "s3cret-value"},
        "cwd": "/",
    });
    assert_eq!(call("/command", &request).status, 200);
    let request = json!({"command": command, "background": true});
    assert_eq!(call("/command", &request).status, 200);
    let wrong = json!({"command": "ls", "cwd": "/s3cret-directory"});
    assert_eq!(call("/command", &wrong).status, 400);
    assert_eq!(
        call("/command", &json!({"s3cret-key": "s3cret"})).status,
        400
    );
    let created = call("/session", &json!({})).json();
    let path = format!("/session/{}/run", created["session_id"].as_str().unwrap());
    assert_eq!(call(&path, &json!({ "command": command })).status, 200);
    let wrong = "X-EXECD-ACCESS-TOKEN: s3cret-wrong";
    assert_eq!(execd.call("GET", "/ping", &[wrong], "").status, 401);
    execd.daemon.stop();
    let log = execd.daemon.transcript();
    assert!(!log.contains("s3cret"), "{log}");
    assert_eq!(execd.daemon.events("execd.execution").len(), 3, "{log}");
}

#[test]
fn at_level_debug_the_command_is_there_without_its_secrets() {
    let mut execd = Execd::of(builder().env("EXECD_LOG_LEVEL", "7"));
    execd.run("echo visible --token s3cret");
    execd.daemon.stop();
    let log = execd.daemon.transcript();
    assert!(log.contains("echo visible --token ****"), "{log}");
    assert!(!log.contains("s3cret"), "{log}");
}
