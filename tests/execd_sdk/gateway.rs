//! A cluster's way: clients are given the address of ingress, and the sandbox in a header or in the
//! path.

use std::net::{Ipv4Addr, SocketAddr};

use support::{Daemon, free_port, opensandbox};

use crate::scene::{Scene, TOKEN, javascript_says, python_says, succeeds};

/// What ingress asks for besides what execd asks for.
const SECRET: &str = "opaque-token";

fn address() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, free_port()).into()
}

/// A gateway to one sandbox, `sb-1`, which is this machine.
fn gateway(scene: &Scene, mode: &str) -> (Daemon, SocketAddr) {
    let routes = scene.shared.path().join("routes.toml");
    let text = format!("[sandboxes.sb-1]\nhost = \"127.0.0.1\"\ntoken = \"{SECRET}\"\n");
    std::fs::write(&routes, text).expect("write");
    let address = address();
    let ingress = opensandbox!("ingress")
        .arg("--provider-type=static")
        .arg(format!("--routes={}", routes.display()))
        .arg("--address=127.0.0.1")
        .arg(format!("--port={}", address.port()))
        .arg(format!("--mode={mode}"))
        .arg("--drain-delay=0")
        .ready_when_http(address, "/status.ok")
        .spawn();
    (ingress, address)
}

/// The SDKs, told where the sandbox is as the server tells it for this mode.
fn clients(mode: &str) {
    let scene = Scene::new(TOKEN);
    let inside = address();
    let mut execd = scene.execd(inside).spawn();
    let (mut ingress, outside) = gateway(&scene, mode);
    let route = format!("sb-1-{}", inside.port());
    let secure = ("OpenSandbox-Secure-Access", SECRET);
    let lifecycle = match mode {
        "header" => scene.lifecycle_with(
            &outside.to_string(),
            &[("OpenSandbox-Ingress-To", &route), secure],
        ),
        _ => scene.lifecycle_with(&format!("{outside}/sb-1/{}", inside.port()), &[secure]),
    };
    for kind in ["sync", "async"] {
        let Some(client) = scene.python(kind, &lifecycle) else {
            return;
        };
        assert_eq!(succeeds(&ingress, client), python_says(), "{kind}");
    }
    if let Some(client) = scene.javascript(&lifecycle) {
        assert_eq!(succeeds(&ingress, client), javascript_says());
    }
    assert!(execd.stop().success());
    assert!(ingress.stop().success());
    // Everything came this way, and nothing failed in between.
    let records = ingress.events("ingress.access");
    assert!(records.len() > 20, "{records:?}");
    for record in records {
        assert_eq!(record["auth"], "header", "{record}");
        assert_eq!(record["sandbox_id"], "sb-1", "{record}");
        let kind = record["error_type"].as_str();
        // A client may leave a stream it has seen enough of.
        assert!(matches!(kind, None | Some("client_closed")), "{record}");
    }
}

#[test]
fn everything_works_with_the_sandbox_in_a_header() {
    clients("header");
}

#[test]
fn everything_works_with_the_sandbox_in_the_path() {
    clients("uri");
}

#[test]
fn terminals_work_over_a_websocket_with_a_signed_route() {
    use opensandbox::ingress::access::Keys;

    let scene = Scene::new(TOKEN);
    let inside = address();
    let mut execd = scene.execd(inside).spawn();
    let keys = scene.shared.path().join("keys");
    std::fs::write(&keys, "a=YQ==").expect("write");
    let routes = scene.shared.path().join("routes.toml");
    let text = format!("[sandboxes.sb-1]\nhost = \"127.0.0.1\"\ntoken = \"{SECRET}\"\n");
    std::fs::write(&routes, text).expect("write");
    let outside = address();
    let mut ingress = opensandbox!("ingress")
        .arg("--provider-type=static")
        .arg(format!("--routes={}", routes.display()))
        .arg(format!("--secure-access-keys-file={}", keys.display()))
        .arg("--address=127.0.0.1")
        .arg(format!("--port={}", outside.port()))
        .arg("--mode=uri")
        .arg("--drain-delay=0")
        .ready_when_http(outside, "/status.ok")
        .spawn();
    let signed = Keys::parse("a=YQ==")
        .expect("keys")
        .sign(b'a', "sb-1", inside.port(), 4_102_444_800)
        .expect("a key of that name");
    let endpoint = format!(
        "{outside}/sb-1/{}/{}/{signed}",
        inside.port(),
        signed.expiry()
    );
    let Some(client) = scene.terminals(&endpoint) else {
        return;
    };
    assert_eq!(succeeds(&ingress, client), "terminals");
    assert!(execd.stop().success());
    assert!(ingress.stop().success());
    let records = ingress.events("ingress.access");
    let tunnels = records.iter().filter(|record| record["status"] == 101);
    assert!(tunnels.count() > 3, "{records:?}");
    assert!(!ingress.transcript().contains(&signed.to_string()));
}
