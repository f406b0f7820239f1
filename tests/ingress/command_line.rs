//! Flags, exit codes, and what is said at the start.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};

use rustix::process::Signal;
use support::{free_port, opensandbox};

use crate::scene::{PATIENCE, Scene};

/// Runs ingress to its end, without an environment.
fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_opensandbox"))
        .arg("ingress")
        .args(arguments)
        .env_clear()
        .output()
        .expect("start ingress")
}

#[test]
fn what_cannot_be_used_ends_with_2_and_one_line_before_kubernetes_is_asked() {
    // Whoever would ask Kubernetes would wait for it here.
    let kubernetes = TcpListener::bind("127.0.0.1:0").unwrap();
    kubernetes.set_nonblocking(true).unwrap();
    let server = format!("--server=http://{}", kubernetes.local_addr().unwrap());
    for (argument, expected) in [
        ("--mode=both", "expected header, host, wildcard or uri"),
        ("--port=http", "expected a whole number"),
        (
            "--provider-type=docker",
            "unsupported provider type: docker",
        ),
        (
            "--secure-access-keys=K=YQ==",
            "parse secure-access-keys: key_id must be lowercase",
        ),
        (
            "--secure-access-enabled",
            "unknown flag --secure-access-enabled",
        ),
        ("--renew-intent-enabled=maybe", "--renew-intent-enabled"),
        (
            "--trusted-proxies=everyone",
            "expected addresses and networks",
        ),
        ("--unknown", "unknown flag --unknown"),
    ] {
        let output = run(&[&server, argument]);
        assert_eq!(output.status.code(), Some(2), "{argument}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.contains(expected), "{said}");
    }
    let enabled = [
        "--renew-intent-enabled",
        "--renew-intent-redis-dsn=http://:s3cret@h",
    ];
    let output = run(&[&server, enabled[0], enabled[1]]);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("redis://") && !said.contains("s3cret"),
        "{said}"
    );
    assert!(kubernetes.accept().is_err(), "Kubernetes was asked");
}

#[test]
fn a_gateway_to_nothing_is_refused() {
    let output = run(&[]);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("no configuration has been provided"),
        "{said}"
    );
}

#[test]
fn help_ends_with_0() {
    for flag in ["-h", "-help", "--help"] {
        let output = run(&[flag]);
        assert!(output.status.success());
        let said = String::from_utf8(output.stdout).unwrap();
        for name in [
            "--secure-access-keys",
            "--renew-intent-min-interval",
            "--kubeconfig",
        ] {
            assert!(said.contains(name), "{name}");
        }
    }
}

#[test]
fn an_address_that_is_taken_is_named() {
    let scene = Scene::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let routes = scene.directory.path().join("routes.toml");
    let output = run(&[
        "-provider-type",
        "static",
        "-routes",
        routes.to_str().unwrap(),
        "--address=127.0.0.1",
        &format!("--port={}", taken.local_addr().unwrap().port()),
    ]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("error starting http server"), "{said}");
    assert!(said.contains("Address already in use"), "{said}");
}

#[test]
fn it_says_who_it_is_and_what_it_does() {
    let scene = Scene::new();
    let mut ingress = scene
        .ingress()
        .arg("--secure-access-keys=b=YQ==,a=c2VjcmV0")
        .arg("--mode=wildcard")
        // What follows means nothing, and does not stop it.
        .arg("tail")
        .arg("-f")
        .spawn();
    let line = ingress
        .daemon
        .wait_for_line(PATIENCE, |line| line["msg"] == "ingress listening");
    assert_eq!(line["address"], ingress.address.to_string());
    assert_eq!(line["mode"], "header");
    assert_eq!(line["provider"], "static");
    assert_eq!(line["key_ids"], "ab");
    assert_eq!(line["sandboxes"], 2);
    assert!(ingress.daemon.stop().success());
    let said = ingress.daemon.transcript();
    assert!(said.contains(" OpenSandbox Ingress\n"), "{said}");
    assert!(!said.contains("c2VjcmV0"), "{said}");
}

#[test]
fn the_name_of_the_program_selects_it() {
    let scene = Scene::new();
    let link = scene.directory.path().join("ingress");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_opensandbox"), &link).unwrap();
    let output = Command::new(&link).arg("--mode=both").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}

/// What `packaging/README.md` promises of a socket unit.
#[test]
fn sockets_are_taken_over_from_a_service_manager() {
    let scene = Scene::new();
    let port = free_port();
    let script = format!(
        "import os, socket, sys\n\
         listener = socket.create_server((\"127.0.0.1\", {port}))\n\
         os.dup2(listener.fileno(), 3)\n\
         os.set_inheritable(3, True)\n\
         os.environ[\"LISTEN_PID\"] = str(os.getpid())\n\
         os.environ[\"LISTEN_FDS\"] = \"1\"\n\
         os.execv(sys.argv[1], sys.argv[1:])\n"
    );
    let routes = scene.directory.path().join("routes.toml");
    let address = ([127, 0, 0, 1], port).into();
    // The port in the settings is another one, which is not listened on.
    let other = free_port();
    let mut daemon = support::daemon::Builder::new("python3")
        .arg("-c")
        .arg(script)
        .arg(env!("CARGO_BIN_EXE_opensandbox"))
        .arg("ingress")
        .arg("--provider-type=static")
        .arg(format!("--routes={}", routes.display()))
        .arg(format!("--port={other}"))
        .arg("--drain-delay=0")
        .ready_when_http(address, "/status.ok")
        .spawn();
    let route = format!("open-{}", scene.port());
    let headers = [("OpenSandbox-Ingress-To", &*route)];
    let answer = support::http::request(address, "GET", "/x", &headers, "").unwrap();
    assert_eq!(answer.status, 200);
    assert!(support::http::get(([127, 0, 0, 1], other).into(), "/status.ok").is_err());
    daemon.signal(Signal::TERM);
    assert!(daemon.wait(PATIENCE).success());
}

#[test]
fn a_socket_that_does_not_listen_is_refused() {
    let scene = Scene::new();
    let routes = scene.directory.path().join("routes.toml");
    let script = "export LISTEN_PID=$$ LISTEN_FDS=1; exec 3</dev/null; exec \"$@\"";
    let output = Command::new("sh")
        .args([
            "-c",
            script,
            "sh",
            env!("CARGO_BIN_EXE_opensandbox"),
            "ingress",
        ])
        .arg("--provider-type=static")
        .arg(format!("--routes={}", routes.display()))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("inherited descriptor 3"), "{said}");
}

#[test]
fn an_unreachable_kubernetes_keeps_the_port_closed_and_does_not_keep_it_from_ending() {
    let port = free_port();
    let kubernetes = free_port();
    let mut daemon = opensandbox!("ingress")
        .arg(format!("--server=http://127.0.0.1:{kubernetes}"))
        .arg("--address=127.0.0.1")
        .arg(format!("--port={port}"))
        .ready_when_line("reading the sandboxes")
        .spawn();
    assert!(support::http::get(([127, 0, 0, 1], port).into(), "/status.ok").is_err());
    assert!(daemon.stop().success());
    assert!(
        Path::new(&format!("/proc/{}", daemon.pid()))
            .read_dir()
            .is_err()
    );
}
