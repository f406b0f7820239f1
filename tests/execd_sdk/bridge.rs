//! Docker's bridge mode: clients are on another host, as far as the network is concerned, and every
//! endpoint they are given is `host:44772/proxy/PORT`, that of execd itself included.

use std::net::SocketAddr;

use support::netns::Namespace;
use support::require_root;

use crate::scene::{Scene, TOKEN, javascript_says, python_says, succeeds};

const PORT: u16 = 44772;

/// Runs every client on one end of a cable, against execd on the other.
fn with_token(token: &'static str) {
    if !require_root("two network namespaces and a cable") {
        return;
    }
    let scene = Scene::new(token);
    let (host, sandbox) = Namespace::pair();
    let address = SocketAddr::new(Namespace::cable_v4(2), PORT);
    let endpoint = format!("{address}/proxy/{PORT}");
    let lifecycle = host.enter(|| scene.lifecycle(&endpoint));
    let mut execd = scene.execd(address).within(&sandbox).spawn();
    for kind in ["sync", "async"] {
        let Some(client) = scene.python(kind, &lifecycle) else {
            return;
        };
        assert_eq!(host.enter(|| succeeds(&execd, client)), python_says());
    }
    if let Some(client) = scene.javascript(&lifecycle) {
        assert_eq!(host.enter(|| succeeds(&execd, client)), javascript_says());
    }
    if let Some(client) = scene.terminals(&endpoint) {
        assert_eq!(host.enter(|| succeeds(&execd, client)), "terminals");
    }
    assert!(execd.stop().success());
}

#[test]
fn everything_works_through_the_proxy() {
    with_token("");
}

#[test]
fn everything_works_through_the_proxy_with_a_token() {
    with_token(TOKEN);
}
