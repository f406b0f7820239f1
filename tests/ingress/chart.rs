//! The way the chart of OpenSandbox runs ingress: its arguments, unchanged, and a cluster.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use opensandbox::ingress::access::Keys;
use support::kube::{Cluster, Definition, batchsandbox};
use support::{Daemon, eventually, free_port, opensandbox};

use crate::scene::{PATIENCE, Running, Scene};

/// A kubeconfig for the cluster, as one of `kubectl` is.
fn kubeconfig(scene: &Scene, cluster: &Cluster) -> PathBuf {
    scene.write(
        "kubeconfig",
        &format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: test\n\
             clusters:\n- name: test\n  cluster:\n    server: {}\n\
             users:\n- name: test\n  user:\n    token: t\n\
             contexts:\n- name: test\n  context:\n    cluster: test\n    user: test\n",
            cluster.server()
        ),
    )
}

/// Ingress as `ingress-gateway.yaml` starts it, with this route mode.
fn gateway(scene: &Scene, cluster: &Cluster, mode: &str) -> Running {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let daemon = opensandbox!("ingress")
        .arg("--namespace=opensandbox")
        .arg(format!("--port={}", address.port()))
        .arg("--provider-type=batchsandbox")
        .arg(format!("--mode={mode}"))
        .arg("--log-level=info")
        .arg("--secure-access-keys=a=YQ==,b=Yg==")
        .env("KUBECONFIG", kubeconfig(scene, cluster).display())
        .ready_when_http(address, "/status.ok")
        .spawn();
    Running { daemon, address }
}

fn no_warnings(daemon: &Daemon) {
    let warnings = daemon
        .log()
        .into_iter()
        .filter(|line| line["level"] != "info");
    assert_eq!(warnings.collect::<Vec<_>>(), [] as [serde_json::Value; 0]);
}

#[test]
fn every_route_mode_of_the_chart_works_with_its_arguments() {
    let scene = Scene::new();
    let cluster = Cluster::start([Definition::batchsandbox()]);
    let id = "550e8400-e29b-41d4-a716-446655440000";
    cluster.apply("batchsandboxes", batchsandbox("data", id, "127.0.0.1"));
    let mut secured = batchsandbox("data", "shut", "127.0.0.1");
    secured["metadata"]["annotations"]["opensandbox.io/secure-access-token"] = "opaque".into();
    cluster.apply("batchsandboxes", secured);
    let port = scene.port();
    let keys = Keys::parse("b=Yg==").unwrap();
    let signed = keys.sign(b'b', "shut", port, 4_102_444_800).unwrap();
    let (expiry, host) = (signed.expiry(), "sandbox.example.com");

    // What the server hands out for each of its route modes.
    let header = gateway(&scene, &cluster, "header");
    let route = format!("{id}-{port}");
    let signed_route = format!("shut-{port}-{expiry}-{signed}");
    for route in [&route, &signed_route] {
        let answer = header.get("/ping", &[("OpenSandbox-Ingress-To", route)]);
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let wildcard = gateway(&scene, &cluster, "wildcard");
    for route in [&route, &signed_route] {
        let answer = wildcard.get("/ping", &[("Host", &format!("{route}.{host}"))]);
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let uri = gateway(&scene, &cluster, "uri");
    for prefix in [
        format!("/{id}/{port}"),
        format!("/shut/{port}/{expiry}/{signed}"),
    ] {
        assert_eq!(uri.get(&format!("{prefix}/ping"), &[]).status, 200);
    }
    assert_eq!(scene.backend.requests().len(), 6);
    assert!(
        scene
            .backend
            .requests()
            .iter()
            .all(|seen| seen.line == "GET /ping")
    );
    for mut running in [header, wildcard, uri] {
        no_warnings(&running.daemon);
        assert!(running.daemon.stop().success());
    }
}

/// What an SDK sees of a sandbox from its creation to its end.
#[test]
fn a_sandbox_comes_becomes_ready_moves_and_goes() {
    let scene = Scene::new();
    let cluster = Cluster::start([Definition::batchsandbox()]);
    let ingress = gateway(&scene, &cluster, "header");
    let route = format!("sb-{}", scene.port());
    let ask = || {
        let answer = ingress.get("/ping", &[("OpenSandbox-Ingress-To", &route)]);
        (answer.status, answer.body)
    };
    let told = |text: &str| format!("OpenSandbox Ingress: {text}\n");
    assert_eq!(ask(), (404, told("sandbox not found: sb")));
    let mut sandbox = batchsandbox("data", "sb", "127.0.0.1");
    sandbox["status"]["ready"] = 0.into();
    cluster.apply("batchsandboxes", sandbox);
    eventually(|| (ask().0 == 503).then_some(()));
    let unready = ask();
    assert!(
        unready
            .1
            .starts_with("OpenSandbox Ingress: sandbox not ready: sb"),
        "{unready:?}"
    );
    assert!(!unready.1.contains("data"), "{unready:?}");
    cluster.apply("batchsandboxes", batchsandbox("data", "sb", "127.0.0.1"));
    eventually(|| (ask().0 == 200).then_some(()));
    cluster.delete("batchsandboxes", "data", "sb");
    eventually(|| (ask().0 == 404).then_some(()));
    let object = |line: &serde_json::Value| line["object"] == "data/sb";
    ingress.daemon.wait_for_event("ingress.access", object);
}

#[test]
fn what_was_known_is_served_while_the_cluster_is_away_and_while_draining() {
    let scene = Scene::new();
    let mut cluster = Cluster::start([Definition::batchsandbox()]);
    cluster.apply("batchsandboxes", batchsandbox("data", "sb", "127.0.0.1"));
    let mut ingress = gateway(&scene, &cluster, "header");
    let status = |sandbox: &str| {
        let route = format!("{sandbox}-{}", scene.port());
        ingress
            .get("/", &[("OpenSandbox-Ingress-To", &route)])
            .status
    };
    assert_eq!(status("sb"), 200);
    cluster.down();
    ingress
        .daemon
        .wait_for_line(PATIENCE, |line| line["level"] == "warn");
    assert_eq!(status("sb"), 200);
    assert_eq!(ingress.get("/status.ok", &[]).status, 200);
    cluster.up();
    cluster.apply("batchsandboxes", batchsandbox("data", "later", "127.0.0.1"));
    eventually(|| (status("later") == 200).then_some(()));
    // The watch is alive until the last request is over.
    ingress.daemon.signal(rustix::process::Signal::TERM);
    eventually(|| (ingress.get("/status.ok", &[]).status == 503).then_some(()));
    cluster.apply("batchsandboxes", batchsandbox("data", "last", "127.0.0.1"));
    eventually(|| (status("last") == 200).then_some(()));
    assert!(ingress.daemon.wait(PATIENCE).success());
}
