//! The process: command line, port, log, signals, orphans (contract 1).

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use rustix::process::Signal;
use serde_json::json;

use crate::client::{Execd, PATIENCE, builder, is_gone};
use support::eventually;

/// Runs execd, which is expected to end by itself.
fn said(arguments: &[&str], variables: &[(&str, &str)]) -> (i32, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = Command::new(env!("CARGO_BIN_EXE_opensandbox"))
        .arg("execd")
        .args(arguments)
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

#[test]
fn a_command_line_that_cannot_be_used_ends_with_2() {
    for (arguments, variables, told) in [
        (&["-nope"][..], &[][..], "nope"),
        (&["--port", "abc"], &[], "EXECD_LISTEN_PORT"),
        (&["-port=99999"], &[], "EXECD_LISTEN_PORT"),
        (&["--log-level=info"], &[], "EXECD_LOG_LEVEL"),
        (
            &["--graceful-shutdown-timeout=3"],
            &[],
            "EXECD_API_GRACE_SHUTDOWN",
        ),
        (
            &[],
            &[("EXECD_API_GRACE_SHUTDOWN", "soon")],
            "EXECD_API_GRACE_SHUTDOWN",
        ),
        (
            &[],
            &[("EXECD_JUPYTER_IDLE_POLL_INTERVAL", "x")],
            "EXECD_JUPYTER_IDLE_POLL_INTERVAL",
        ),
        (&[], &[("JUPYTER_HOST", "localhost:1")], "JUPYTER_HOST"),
        (
            &[],
            &[("EXECD_LOG_FILE", "/no/such/dir/x")],
            "EXECD_LOG_FILE",
        ),
        (
            &[],
            &[("EXECD_ACCESS_TOKEN_FILE", "/no/such")],
            "EXECD_ACCESS_TOKEN_FILE",
        ),
    ] {
        let (code, _, stderr) = said(arguments, variables);
        assert_eq!(code, 2, "{arguments:?} {variables:?}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(stderr.contains(told), "{stderr}");
    }
    let (code, stdout, _) = said(&["-h"], &[]);
    assert_eq!(code, 0);
    assert!(stdout.contains("--jupyter-host"), "{stdout}");
}

#[test]
fn go_flags_in_every_spelling_and_words_that_mean_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let link = directory.path().join("execd");
    symlink(env!("CARGO_BIN_EXE_opensandbox"), &link).unwrap();
    let port = support::free_port();
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    // As the image is started, and as the smoke test of the Go component starts it.
    let mut daemon = support::daemon::Builder::new(&link)
        .arg("-jupyter-host=anything")
        .arg("--jupyter-token=secret")
        .arg("-port")
        .arg(port.to_string())
        .arg("--jupyter-idle-poll-interval=0")
        .arg("--graceful-shutdown-timeout=-1s")
        .arg("tail")
        .arg("-f")
        .arg("/dev/null")
        .arg("--port=1")
        .ready_when_http(address, "/ping")
        .spawn();
    let said = daemon.transcript();
    let banner = "=====================================================\n OpenSandbox Execd\n-----------------------------------------------------\n Version     : ";
    assert!(said.contains(banner), "{said}");
    assert!(!said.contains("=secret"), "{said}");
    assert_eq!(daemon.stop().code(), Some(0));
}

#[test]
fn a_port_that_is_taken_ends_it_with_1() {
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = holder.local_addr().unwrap().port();
    let (code, stdout, _) = said(&["--host=127.0.0.1", &format!("--port={port}")], &[]);
    assert_eq!(code, 1);
    let text =
        format!("failed to listen on :{port}: listen tcp4 :{port}: bind: address already in use");
    assert!(stdout.contains(&text), "{stdout}");
}

#[test]
fn it_listens_on_ipv4_alone() {
    let execd = Execd::of(support::opensandbox!("execd", "--port=0"));
    let port = execd.address.port();
    assert_eq!(execd.get("/ping").status, 200);
    assert!(std::net::TcpStream::connect(("::1", port)).is_err());
}

#[test]
fn the_log_goes_where_and_says_what_it_is_told_to() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("execd.log");
    let other = directory.path().join("other.log");
    let port = support::free_port();
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    let mut daemon = support::opensandbox!("execd", "--host=127.0.0.1")
        .arg(format!("--port={port}"))
        .env("EXECD_LOG_FILE", file.display())
        .env("OPENSANDBOX_LOG_OUTPUT", other.display())
        .ready_when_http(address, "/ping")
        .spawn();
    assert_eq!(daemon.stop().code(), Some(0));
    let log = std::fs::read_to_string(&file).unwrap();
    assert!(
        log.contains(&format!("execd listening on :{port} (IPv4)")),
        "{log}"
    );
    assert!(!other.exists() && daemon.log().is_empty());

    for (level, lines) in [
        ("2", false),
        ("3", false),
        ("4", false),
        ("6", true),
        ("9", true),
    ] {
        let mut daemon = support::opensandbox!("execd", "--host=127.0.0.1")
            .arg(format!("--port={port}"))
            .arg(format!("--log-level={level}"))
            .ready_when_http(address, "/ping")
            .spawn();
        assert_eq!(daemon.stop().code(), Some(0));
        assert_eq!(
            !daemon.log().is_empty(),
            lines,
            "{level}: {}",
            daemon.transcript()
        );
    }
}

#[test]
fn programs_are_kept_from_clone3_where_that_is_asked_for() {
    let seccomp = "grep -E 'Seccomp:|NoNewPrivs:' /proc/self/status | tr -s '\\t\\n' '  '";
    let execd = Execd::start();
    let before = execd.run(seccomp).stdout().concat();
    for mode in ["1", " True ", "reexec"] {
        let execd = Execd::of(builder().env("EXECD_CLONE3_COMPAT", mode));
        let text = "execd running with clone3 compatibility (seccomp returns ENOSYS for clone3)";
        execd.daemon.wait_for_line(PATIENCE, |line| {
            line["msg"] == text && line["level"] == "warn"
        });
        let run = execd.run(seccomp);
        assert_eq!(run.stdout().concat(), "NoNewPrivs: 1 Seccomp: 2 ", "{mode}");
        assert_eq!(execd.run("echo a | cat | cat").stdout(), ["a"]);
        assert_eq!(
            execd.run("env | grep -c CLONE3_COMPAT_APPLIED").stdout(),
            ["0"]
        );
        // Even where it was started again there is one banner, and one process.
        let banners = execd
            .daemon
            .transcript()
            .matches("OpenSandbox Execd")
            .count();
        assert_eq!(banners, 1, "{mode}");
    }
    for mode in ["0", "off", ""] {
        let execd = Execd::of(builder().env("EXECD_CLONE3_COMPAT", mode));
        assert_eq!(execd.run(seccomp).stdout().concat(), before);
    }
    let (code, _, stderr) = said(&[], &[("EXECD_CLONE3_COMPAT", "2")]);
    assert_eq!(code, 1);
    let text = "execd: invalid EXECD_CLONE3_COMPAT=\"2\" (use 1, true, or reexec)\n";
    assert!(stderr.ends_with(text), "{stderr}");
}

#[test]
fn the_end_lets_streams_finish_and_ends_what_does_not() {
    let mut execd = Execd::of(builder().env("EXECD_DRAIN_TIMEOUT", "3s"));
    let background = execd.run_in_background("sleep 300");
    let session = execd.session();
    let mut in_session = execd.begin_in(&session, &json!({"command": "echo up; sleep 300"}));
    in_session.wait_for_text("up");
    let mut finishes = execd.begin(&json!({"command": "echo up; sleep 1; echo finished"}));
    finishes.wait_for_text("up");
    let mut endless = execd.begin(&json!({"command": "echo $$; sleep 300"}));
    let line = endless.wait_for(|event| event["type"] == "stdout");
    let pid = line["text"].as_str().unwrap().to_owned();
    execd.daemon.signal(Signal::TERM);
    // No new work is taken.
    eventually(|| {
        std::net::TcpStream::connect(execd.address)
            .is_err()
            .then_some(())
    });
    finishes.wait_for_text("finished");
    finishes.wait_for(|event| event["type"] == "execution_complete");
    for events in [&mut endless, &mut in_session] {
        let end = events.wait_for(|event| event["type"] == "error");
        assert_eq!(end["error"]["evalue"], "-1");
        assert!(
            events.0.piece().unwrap().is_none(),
            "the stream ends properly"
        );
    }
    assert_eq!(execd.daemon.wait(PATIENCE).code(), Some(0));
    assert!(!Path::new("/proc").join(pid).exists());
    let log = execd.daemon.transcript();
    let record = execd.daemon.events("execd.execution");
    let of_background = record
        .iter()
        .find(|record| record["execution_id"] == background);
    assert_eq!(
        of_background.expect("a record")["reason"],
        "interrupt",
        "{log}"
    );
    assert!(log.contains("execd shutdown complete"), "{log}");
    execd.daemon.assert_well_formed();
}

#[test]
fn an_idle_daemon_ends_at_once() {
    let mut execd = Execd::of(builder().env("EXECD_DRAIN_TIMEOUT", "1h"));
    execd.run("true");
    execd.run_in_background("sleep 300");
    assert_eq!(execd.daemon.stop().code(), Some(0));
}

#[test]
fn a_second_signal_waits_for_nothing() {
    let mut execd = Execd::of(builder().env("EXECD_DRAIN_TIMEOUT", "1h"));
    let mut events =
        execd.begin(&json!({"command": "trap '' TERM; echo $$; while :; do sleep 1; done"}));
    let line = events.wait_for(|event| event["type"] == "stdout");
    let pid = line["text"].as_str().unwrap().to_owned();
    execd.daemon.signal(Signal::TERM);
    execd.daemon.wait_for_line(PATIENCE, |line| {
        line["msg"]
            .as_str()
            .unwrap()
            .starts_with("received shutdown")
    });
    execd.daemon.signal(Signal::INT);
    let status = execd.daemon.wait(PATIENCE);
    assert_eq!(status.code(), Some(0), "{}", execd.daemon.transcript());
    assert!(execd.daemon.transcript().contains("second"));
    // It ignores SIGTERM and is gone all the same.
    eventually(|| is_gone(&pid).then_some(()));
}

#[test]
fn what_runs_is_left_alone_where_that_is_asked_for() {
    let mut execd = Execd::of(builder().env("EXECD_END_CHILDREN", "false"));
    let id = execd.run_in_background("echo $$; exec sleep 300");
    let log = || execd.get(&format!("/command/{id}/logs"));
    let pid: i32 = eventually(|| log().text().trim().parse().ok());
    execd.daemon.stop();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::test_kill_process(pid).expect("it still runs");
    rustix::process::kill_process(pid, Signal::KILL).unwrap();
}

#[test]
fn orphans_are_inherited_and_reaped() {
    let execd = Execd::start();
    let run = execd.run("( setsid sleep 0.3 & echo $! ) ; true");
    let orphan = run.stdout()[0].to_owned();
    let parent = || {
        let stat = std::fs::read_to_string(format!("/proc/{orphan}/stat")).ok()?;
        let fields = stat.rsplit_once(") ")?.1.to_owned();
        fields.split(' ').nth(1)?.parse::<u32>().ok()
    };
    if let Some(parent) = parent() {
        assert_eq!(parent, execd.daemon.pid());
    }
    // Not even a zombie is left.
    eventually(|| (!Path::new("/proc").join(&orphan).exists()).then_some(()));
}
