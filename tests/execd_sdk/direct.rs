//! Clients that reach the daemon's port.

use std::net::{Ipv4Addr, SocketAddr};

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
