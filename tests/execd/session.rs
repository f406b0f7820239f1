//! `/session` (contract 8).

use std::time::{Duration, Instant};

use serde_json::json;

use crate::client::{Events, Execd, PATIENCE, Run, builder};
use support::eventually;

#[test]
fn sessions_are_made_and_deleted() {
    let execd = Execd::start();
    let id = execd.session();
    assert_eq!(id.len(), 36);
    assert_eq!(id.matches('-').count(), 4);
    let deleted = execd.delete(&format!("/session/{id}"));
    assert_eq!((deleted.status, deleted.body.len()), (200, 0));
    execd.delete(&format!("/session/{id}")).assert_error(
        404,
        "CONTEXT_NOT_FOUND",
        &format!("session {id} not found"),
    );
    let request = json!({"command": "true"});
    let answer = execd.post(&format!("/session/{id}/run"), &request);
    answer.assert_error(
        404,
        "CONTEXT_NOT_FOUND",
        "error running in session. context not found",
    );
}

#[test]
fn the_directory_of_a_session_is_made() {
    let root = tempfile::tempdir().unwrap();
    let execd = Execd::of(builder().env("ROOT", root.path().display()));
    let create = |body: &str| execd.call("POST", "/session", &[], body);
    let created = create(r#"{"CWD":"$ROOT/a/b"}"#);
    let id = created.json()["session_id"].as_str().unwrap().to_owned();
    let expected = root.path().join("a/b");
    assert_eq!(
        execd.run_in(&id, "pwd").stdout(),
        [expected.to_str().unwrap()]
    );
    assert_eq!(create("{").json()["code"], "INVALID_REQUEST_BODY");
    create("{").assert_error(
        400,
        "INVALID_REQUEST_BODY",
        "error parsing request. unexpected EOF",
    );
    create(r#"{"cwd":"$NOT_SET"}"#).assert_error(
        500,
        "RUNTIME_ERROR",
        "error creating session. resolve request cwd $NOT_SET: path references undefined environment variables: NOT_SET",
    );
    let answer = create(r#"{"cwd":"/dev/null/x"}"#);
    assert_eq!(answer.status, 500);
    let answer = answer.json();
    let message = answer["message"].as_str().unwrap();
    assert!(
        message.starts_with("error creating session. mkdir /dev/null/x: "),
        "{message}"
    );
    assert_eq!(create("null").status, 200);
}

#[test]
fn runs_are_validated() {
    let execd = Execd::start();
    let path = format!("/session/{}/run", execd.session());
    let post = |body: &str| execd.call("POST", &path, &[], body);
    post("").assert_error(400, "INVALID_REQUEST_BODY", "error parsing request. EOF");
    let field = "Key: 'RunInSessionRequest.Command' Error:Field validation for 'Command' failed on the 'required' tag";
    let required = format!("invalid request. {field}");
    // The names of old versions are unknown keys.
    post(r#"{"code":"ls","timeout_ms":1}"#).assert_error(400, "INVALID_REQUEST_BODY", &required);
    let field = "Key: 'RunInSessionRequest.Timeout' Error:Field validation for 'Timeout' failed on the 'gte' tag";
    let negative = format!("invalid request. {field}");
    post(r#"{"command":"ls","timeout":-1}"#).assert_error(400, "INVALID_REQUEST_BODY", &negative);
    post(r#"{"command":"ls","cwd":"/none"}"#).assert_error(
        400,
        "INVALID_REQUEST_BODY",
        "invalid request. working directory does not exist: /none: stat /none: no such file or directory",
    );
    let nul = post("{\"command\":\"a\\u0000b\"}");
    assert_eq!(nul.status, 400, "{nul:?}");
}

#[test]
fn a_session_keeps_what_its_texts_do() {
    let execd = Execd::start();
    let id = execd.session();
    let run = execd.run_in(
        &id,
        "export FOO=hello; plain=1; f() { echo f:$plain; }; cd /tmp",
    );
    run.assert_complete();
    assert_eq!(run.id(), id);
    let run = execd.run_in(&id, "echo $FOO; f; pwd");
    assert_eq!(run.stdout(), ["hello", "f:1", "/tmp"]);
    let run = execd.run_in(&id, "false; echo EXIT:$?");
    assert_eq!(run.stdout(), ["EXIT:1"]);
    run.assert_complete();
    let request = json!({"command": "pwd", "cwd": "/var"});
    assert_eq!(Run::of(execd.begin_in(&id, &request)).stdout(), ["/var"]);
    assert_eq!(execd.run_in(&id, "pwd").stdout(), ["/var"]);
    let run = execd.run_in(&id, "echo \"before\"; exit 7");
    assert_eq!(run.stdout(), ["before"]);
    run.assert_failed("7", "exit status 7");
    assert_eq!(
        execd.run_in(&id, "echo $FOO; pwd").stdout(),
        ["hello", "/var"]
    );
    let run = execd.run_in(&id, "sh -c 'echo session-fail >&2; exit 7'");
    assert_eq!(run.stdout(), ["session-fail"]);
    assert!(run.lines("stderr").is_empty());
    run.assert_failed("7", "exit status 7");
    // A directory in a request is below the daemon's own, not below the session's.
    let own = std::env::current_dir().unwrap();
    let request = json!({"command": "pwd", "cwd": "src"});
    let run = Run::of(execd.begin_in(&id, &request));
    assert_eq!(run.stdout(), [own.join("src").to_str().unwrap()]);
}

#[test]
fn every_line_comes_and_nothing_else() {
    let execd = Execd::start();
    let id = execd.session();
    let run = execd.run_in(&id, "set +x; printf '{\"foo\":1}'");
    assert_eq!(run.stdout(), ["{\"foo\":1}"]);
    assert!(execd.run_in(&id, "set +x; true").stdout().is_empty());
    for turn in 0..3 {
        let run = execd.run_in(
            &id,
            "for i in $(seq 1 70); do echo line $i; done; export T=$((T+1))",
        );
        assert_eq!(run.stdout().len(), 70, "{turn}");
    }
    assert_eq!(execd.run_in(&id, "echo $T").stdout(), ["3"]);
    let run = execd.run_in(
        &id,
        "printf 'a\\r\\n\\n\\rb\\n'; echo __EXIT_CODE__:9; echo __PWD__:/x",
    );
    assert_eq!(run.stdout(), ["a", "\rb", "__EXIT_CODE__:9", "__PWD__:/x"]);
    run.assert_complete();
}

#[test]
fn what_once_broke_sessions_does_not() {
    let execd = Execd::start();
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let id = execd.session();
    let (note, child, log) = (path("note"), path("child.sh"), path("log"));
    let text = format!("set -x\ncat > {note} <<'EOF'\nfirst $HOME\nsecond\nEOF\nset +x");
    execd.run_in(&id, &text).assert_complete();
    let run = execd.run_in(&id, &format!("cat {note}"));
    assert_eq!(run.stdout(), ["first $HOME", "second"]);

    std::fs::write(&child, "#!/bin/sh\necho child\n").unwrap();
    let run = execd.run_in(&id, &format!("chmod +x {child}; exec {child}"));
    assert_eq!(run.stdout(), ["child"]);
    run.assert_complete();
    assert_eq!(execd.run_in(&id, "echo next").stdout(), ["next"]);

    let text = format!(
        "exec 3>&1 4>&2; exec > >(tee {log}) 2>&1; echo one; echo two >&2; exec 1>&3 2>&4 3>&- 4>&-"
    );
    let run = execd.run_in(&id, &text);
    run.assert_complete();
    assert_eq!(run.stdout(), ["one", "two"]);
    assert_eq!(execd.run_in(&id, "echo after").stdout(), ["after"]);
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "one\ntwo\n");
}

#[test]
fn the_file_of_variables_holds_for_sessions_too() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("envs");
    std::fs::write(&file, "FROM_FILE=yes\n").unwrap();
    let execd = Execd::of(builder().env("EXECD_ENVS", file.display()));
    let id = execd.session();
    assert_eq!(execd.run_in(&id, "echo $FROM_FILE").stdout(), ["yes"]);
}

#[test]
fn each_run_has_the_trace_of_its_caller_alone() {
    let execd = Execd::start();
    let id = execd.session();
    let path = format!("/session/{id}/run");
    let show = json!({"command": "echo \"$TRACEPARENT|$BAGGAGE\""}).to_string();
    let shown = |headers: &[&str]| {
        let answer = execd.open("POST", &path, headers, &show);
        Run::of(Events(answer)).stdout()[0].to_owned()
    };
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let header = format!("traceparent: {parent}");
    assert_eq!(shown(&[&header, "baggage: k=v"]), format!("{parent}|k=v"));
    assert_eq!(shown(&[&header]), format!("{parent}|"));
    assert_eq!(shown(&[]), "|");
}

#[test]
fn a_timeout_is_an_error_event() {
    let execd = Execd::start();
    let id = execd.session();
    execd.run_in(&id, "export KEPT=1");
    let begun = Instant::now();
    // What holds standard output does not hold the run.
    let request = json!({"command": "sleep 300 & sleep 300", "timeout": 300});
    let run = Run::of(execd.begin_in(&id, &request));
    run.assert_failed("-1", "signal: killed");
    assert_eq!(run.end()["error"]["traceback"][1], "timeout");
    assert!(begun.elapsed() < PATIENCE);
    assert_eq!(execd.run_in(&id, "echo $KEPT").stdout(), ["1"]);
    let run = execd.run_in(&id, "sleep 300 & echo hi");
    assert_eq!(run.stdout(), ["hi"]);
    run.assert_complete();
}

#[test]
fn the_client_that_goes_ends_its_run() {
    let execd = Execd::start();
    let id = execd.session();
    let mut events = execd.begin_in(&id, &json!({"command": "echo $BASHPID; sleep 300"}));
    let line = events.wait_for(|event| event["type"] == "stdout");
    let pid: u32 = line["text"].as_str().unwrap().parse().unwrap();
    events.0.abandon();
    eventually(|| (!std::path::Path::new(&format!("/proc/{pid}")).exists()).then_some(()));
    assert_eq!(execd.run_in(&id, "echo still").stdout(), ["still"]);
}

#[test]
fn a_deletion_ends_the_run() {
    let execd = Execd::start();
    let id = execd.session();
    let mut events = execd.begin_in(&id, &json!({"command": "echo up; sleep 300"}));
    events.wait_for_text("up");
    let begun = Instant::now();
    assert_eq!(execd.delete(&format!("/session/{id}")).status, 200);
    let end = events.wait_for(|event| event["type"] == "error");
    assert_eq!(end["error"]["evalue"], "-1");
    assert!(begun.elapsed() < PATIENCE);
    assert_eq!(execd.delete(&format!("/session/{id}")).status, 404);
}

#[test]
fn an_interrupt_ends_the_run_and_not_the_session() {
    let execd = Execd::start();
    let id = execd.session();
    execd.run_in(&id, "export KEPT=1");
    let mut events = execd.begin_in(&id, &json!({"command": "echo up; sleep 300"}));
    events.wait_for_text("up");
    assert_eq!(execd.delete(&format!("/command?id={id}")).status, 200);
    let end = events.wait_for(|event| event["type"] == "error");
    assert_eq!(end["error"]["traceback"][1], "interrupted");
    assert_eq!(execd.run_in(&id, "echo $KEPT").stdout(), ["1"]);
}

#[test]
fn who_waits_for_a_turn_is_told_at_once_that_it_is_alive() {
    let execd = Execd::start();
    let id = execd.session();
    let mut first = execd.begin_in(&id, &json!({"command": "echo up; sleep 300"}));
    first.wait_for_text("up");
    let mut second = execd.begin_in(&id, &json!({"command": "echo second"}));
    second.wait_for(|event| event["type"] == "init");
    let mut third = execd.begin_in(&id, &json!({"command": "echo third"}));
    third.wait_for(|event| event["type"] == "init");
    // It gives its turn up.
    second.0.abandon();
    execd.delete(&format!("/command?id={id}"));
    third.wait_for_text("third");
    third.wait_for(|event| event["type"] == "execution_complete");
}

#[test]
fn without_bash_the_stream_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let execd = Execd::of(builder().env("PATH", directory.path().display()));
    let id = execd.session();
    let run = execd.run_in(&id, "true");
    let cause = "start bash: exec: \"bash\": executable file not found in $PATH";
    run.assert_failed(cause, cause);
    let cause = "exec: \"sh\": executable file not found in $PATH";
    let run = execd.run("true");
    run.assert_failed(cause, cause);
    execd
        .get(&format!("/command/status/{}", run.id()))
        .assert_error(
            404,
            "INVALID_REQUEST_BODY",
            &format!("command not found: {}", run.id()),
        );
    let run = execd.run_as(&json!({"command": "true", "background": true}));
    run.assert_failed(cause, cause);
    let status = execd.ended(&run.id());
    assert_eq!(
        (&status["exit_code"], &status["error"]),
        (&json!(255), &json!(cause))
    );
}

#[test]
fn a_run_ends_with_its_last_event() {
    let execd = Execd::of(builder().env("EXECD_API_GRACE_SHUTDOWN", "1h"));
    let id = execd.session();
    let begun = Instant::now();
    execd.run_in(&id, "true").assert_complete();
    execd
        .run_in(&id, "false")
        .assert_failed("1", "exit status 1");
    execd.run("true").assert_complete();
    assert!(begun.elapsed() < Duration::from_secs(60));
}
