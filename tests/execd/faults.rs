//! What the system refuses (contract 7.2, steps 6 to 9): the client is told, and execd goes on.

use std::os::unix::fs::PermissionsExt as _;

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::json;

use crate::client::{Execd, Run, builder};
use support::eventually;

/// Execd below a shell that runs `limits` first.
fn limited(limits: &str) -> Execd {
    let execd = env!("CARGO_BIN_EXE_opensandbox");
    let script = format!("{limits}; exec {execd} execd --host=127.0.0.1 --port=0");
    Execd::of(
        support::daemon::Builder::new("/bin/sh")
            .arg("-c")
            .arg(script),
    )
}

#[test]
fn without_descriptors_commands_are_refused_until_there_are_some() {
    let execd = limited("ulimit -n 64");
    let mut running = Vec::new();
    let refused = loop {
        let request = json!({"command": "sleep 300"}).to_string();
        let answer = execd.open("POST", "/command", &[], &request);
        if answer.status != 200 {
            break answer.whole();
        }
        running.push(answer);
        assert!(running.len() < 64);
    };
    assert!(running.len() >= 4, "{}", running.len());
    assert_eq!(refused.status, 500, "{refused:?}");
    let refused = refused.json();
    assert_eq!(refused["code"], "RUNTIME_ERROR");
    let message = refused["message"].as_str().unwrap();
    assert!(message.starts_with("error running commands "), "{message}");
    assert!(message.contains("too many open files"), "{message}");
    // The descriptors of the streams come back, and so do those of the commands at their end.
    let ids: Vec<_> = running
        .iter_mut()
        .map(|answer| {
            let piece = String::from_utf8(answer.piece().unwrap().unwrap()).unwrap();
            piece.split('"').nth(7).unwrap().to_owned()
        })
        .collect();
    running.clear();
    for id in ids {
        eventually(|| {
            let answer = execd.delete(&format!("/command?id={id}"));
            // One that failed within its stream is not remembered.
            let known = execd.get(&format!("/command/status/{id}")).status == 200;
            (answer.status == 200 || !known).then_some(())
        });
    }
    execd.run("echo again | cat").assert_complete();
}

#[test]
fn without_processes_the_stream_says_so() {
    if !support::require_root("a user of its own with a limit") {
        return;
    }
    // The limit is that of a user, so no other test may be this one.
    let execd = env!("CARGO_BIN_EXE_opensandbox");
    let directory = tempfile::tempdir().unwrap();
    let copy = directory.path().join("execd");
    std::fs::copy(execd, &copy).unwrap();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let script = format!(
        "ulimit -u 24; exec {} --host=127.0.0.1 --port=0",
        copy.display()
    );
    let user = ["--reuid=54399", "--regid=54399", "--clear-groups"];
    let builder = support::daemon::Builder::new("setpriv");
    let builder = user
        .into_iter()
        .fold(builder, |builder, flag| builder.arg(flag));
    let execd = Execd::of(builder.arg("/bin/bash").arg("-c").arg(script));
    let mut running = Vec::new();
    let refused = loop {
        let request = json!({"command": "exec sleep 300", "background": true});
        let run = execd.run_as(&request);
        if run.end()["type"] == "error" {
            break run;
        }
        running.push(run.id());
        assert!(running.len() < 30);
    };
    let cause = refused.end()["error"]["evalue"].as_str().unwrap();
    assert!(
        cause.contains("resource temporarily unavailable"),
        "{cause}"
    );
    assert_eq!(refused.end()["error"]["traceback"][0], cause);
    for id in running {
        execd.delete(&format!("/command?id={id}"));
    }
    eventually(|| (execd.run("true").end()["type"] == "execution_complete").then_some(()));
}

#[test]
fn without_memory_the_stream_says_so() {
    let execd = Execd::start();
    let limit = |bytes: Option<u64>| {
        let limit = Rlimit {
            current: bytes,
            maximum: None,
        };
        let pid = Pid::from_raw(execd.daemon.pid().cast_signed());
        prlimit(pid, Resource::As, limit).unwrap();
    };
    // The heap has then what a request takes; a child's stack is mapped anew for each.
    let running: Vec<_> = (0..8)
        .map(|_| execd.begin(&json!({"command": "true"})))
        .collect();
    running
        .into_iter()
        .for_each(|events| Run::of(events).assert_complete());
    limit(Some(execd.daemon.status("VmSize") * 1024));
    let refused = execd.run("true");
    limit(None);
    let cause = refused.end()["error"]["evalue"].as_str().unwrap();
    assert!(cause.contains("cannot allocate memory"), "{cause}");
    execd.run("true").assert_complete();
}

#[test]
fn a_shell_that_is_no_program_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let shell = directory.path().join("bash");
    let run_with = |content: &[u8]| -> Run {
        std::fs::write(&shell, content).unwrap();
        std::fs::set_permissions(&shell, std::fs::Permissions::from_mode(0o755)).unwrap();
        let execd = Execd::of(builder().env("PATH", directory.path().display()));
        let run = execd.run("true");
        // It is not remembered.
        assert_eq!(
            execd.get(&format!("/command/status/{}", run.id())).status,
            404
        );
        run
    };
    let path = shell.display();
    let cause = format!("fork/exec {path}: exec format error");
    run_with(b"\x00\x01garbage").assert_failed(&cause, &cause);
    let cause = format!("fork/exec {path}: no such file or directory");
    run_with(b"#!/no/such/interpreter\n").assert_failed(&cause, &cause);
}

#[test]
fn what_cannot_be_an_argument_is_told() {
    let execd = Execd::start();
    let run = execd.run_as(&json!({"command": "echo a\u{0}b"}));
    let cause = run.end()["error"]["evalue"].as_str().unwrap();
    assert!(cause.contains("invalid argument"), "{cause}");
    // One argument of a program may have 128 KiB.
    let run = execd.run_as(&json!({"command": format!(": {}", "x".repeat(200_000))}));
    let cause = run.end()["error"]["evalue"].as_str().unwrap();
    assert!(cause.contains("argument list too long"), "{cause}");
    // A session has no such limit.
    let id = execd.session();
    let text = format!("x={}; echo ${{#x}}", "x".repeat(200_000));
    assert_eq!(execd.run_in(&id, &text).stdout(), ["200000"]);
}

#[test]
fn a_user_it_may_not_become_is_told() {
    if !support::require_root("a daemon of another user") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let copy = directory.path().join("execd");
    std::fs::copy(env!("CARGO_BIN_EXE_opensandbox"), &copy).unwrap();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let execd = Execd::of(
        support::daemon::Builder::new("setpriv")
            .arg("--reuid=54321")
            .arg("--regid=54321")
            .arg("--clear-groups")
            .arg(copy.display().to_string())
            .arg("--host=127.0.0.1")
            .arg("--port=0"),
    );
    let run = execd.run_as(&json!({"command": "id", "uid": 0}));
    let cause = run.end()["error"]["evalue"].as_str().unwrap();
    assert!(cause.contains("operation not permitted"), "{cause}");
    assert_eq!(execd.run("id -u").stdout(), ["54321"]);
}
