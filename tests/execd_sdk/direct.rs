//! Clients that reach the daemon's port.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use rustix::process::Signal;
use support::daemon::Builder;
use support::free_port;

use crate::scene::{Scene, TOKEN, javascript_says, python_says, succeeds};

fn address() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, free_port()).into()
}

fn python(kind: &str, token: &'static str) {
    let scene = Scene::new(token);
    let address = address();
    let lifecycle = scene.lifecycle(&address.to_string());
    let Some(client) = scene.python(kind, &lifecycle) else {
        return;
    };
    let mut execd = scene.execd(address).spawn();
    assert_eq!(succeeds(&execd, client), python_says());
    assert!(execd.stop().success());
}

#[test]
fn the_synchronous_python_sdk_works() {
    python("sync", "");
}

#[test]
fn the_asynchronous_python_sdk_works_with_a_token() {
    python("async", TOKEN);
}

#[test]
fn the_javascript_sdk_works_with_a_token() {
    let scene = Scene::new(TOKEN);
    let address = address();
    let lifecycle = scene.lifecycle(&address.to_string());
    let Some(client) = scene.javascript(&lifecycle) else {
        return;
    };
    let mut execd = scene.execd(address).spawn();
    assert_eq!(succeeds(&execd, client), javascript_says());
    assert!(execd.stop().success());
}

#[test]
fn terminals_work_over_a_websocket() {
    for token in ["", TOKEN] {
        let scene = Scene::new(token);
        let address = address();
        let Some(client) = scene.terminals(&address.to_string()) else {
            return;
        };
        let mut execd = scene.execd(address).spawn();
        assert_eq!(succeeds(&execd, client), "terminals");
        assert!(execd.stop().success());
    }
}

/// A shell that starts execd in the background has it ignore SIGINT, which must not be inherited by
/// what runs in a terminal.
#[test]
fn terminals_work_below_bootstrap() {
    let scene = Scene::new("");
    let address = address();
    let Some(client) = scene.terminals(&address.to_string()) else {
        return;
    };
    let program = env!("CARGO_BIN_EXE_opensandbox");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/bootstrap.sh");
    let mut sandbox = Builder::new("sh")
        .arg(script)
        .arg("-c")
        .arg("sleep 1000; true")
        .env(
            "EXECD",
            format!("{program} execd --port {}", address.port()),
        )
        .env("EXECD_ENVS", scene.shared.path().join("envs").display())
        .ready_when_http(address, "/ping")
        .spawn();
    assert_eq!(succeeds(&sandbox, client), "terminals");
    sandbox.signal(Signal::TERM);
    let ended = sandbox.wait(Duration::from_secs(60));
    assert_eq!(ended.code(), Some(0), "{}", sandbox.transcript());
    let said = sandbox.transcript();
    assert!(said.contains("execd shutdown complete"), "{said}");
}
