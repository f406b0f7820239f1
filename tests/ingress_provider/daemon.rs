//! The daemon with a cluster behind it, as the chart starts it.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;
use support::backend::Backend;
use support::daemon::Builder;
use support::kube::{Cluster, Definition, Verb, batchsandbox};
use support::{eventually, free_port, opensandbox};

use crate::scene::{PATIENCE, Setup};

const BATCH: &str = "batchsandboxes";

/// The daemon with the arguments of the chart, and where it listens.
fn ingress<'a>(setup: &Setup) -> (Builder<'a>, SocketAddr) {
    setup.config().unwrap();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let builder = opensandbox!("ingress")
        .arg("--namespace=opensandbox")
        .arg(format!("--port={}", address.port()))
        .arg("--provider-type=batchsandbox")
        .arg("--mode=header")
        .arg("--log-level=info")
        .env("KUBECONFIG", setup.path("kubeconfig").display());
    (builder, address)
}

/// Status and body of a request to a sandbox.
fn ask(address: SocketAddr, route: &str) -> (u16, String) {
    let route = [("OpenSandbox-Ingress-To", route)];
    let response = support::http::request(address, "GET", "/", &route, "").unwrap();
    (response.status, response.body)
}

#[test]
fn the_port_opens_once_it_may_see_the_sandboxes() {
    let cluster = Cluster::start([Definition::batchsandbox()]);
    let backend = Backend::answering(|peer, _| peer.answer("hello"));
    let port = backend.address.port();
    cluster.apply(BATCH, batchsandbox("ns", "a", "127.0.0.1"));
    let mut asleep = batchsandbox("ns", "asleep", "127.0.0.1");
    asleep["status"]["ready"] = json!(0);
    cluster.apply(BATCH, asleep);
    cluster.forbid(true);
    let setup = Setup::new(&cluster);
    let (builder, address) = ingress(&setup);
    let mut daemon = builder.spawn();
    let told = |line: &serde_json::Value| line.to_string().contains("(403)");
    daemon.wait_for_line(PATIENCE, told);
    assert!(
        std::net::TcpStream::connect(address).is_err(),
        "not open before the first listing"
    );

    cluster.forbid(false);
    eventually(|| std::net::TcpStream::connect(address).ok());
    assert_eq!(
        support::http::get(address, "/status.ok").unwrap().body,
        "OK"
    );
    assert_eq!(
        ask(address, &format!("a-{port}")),
        (200, "hello".to_owned())
    );
    let (status, text) = ask(address, &format!("asleep-{port}"));
    assert_eq!(status, 503);
    assert!(
        text.contains("sandbox not ready: asleep (ready: 0/1)"),
        "{text}"
    );
    assert!(!text.contains("ns/"), "{text}");
    assert_eq!(ask(address, &format!("none-{port}")).0, 404);

    cluster.wait_for(Verb::Watch, 1);
    cluster.delete(BATCH, "ns", "a");
    eventually(|| (ask(address, &format!("a-{port}")).0 == 404).then_some(()));
    assert!(daemon.stop().success());
}

#[test]
fn what_is_wrong_with_the_cluster_ends_the_start_in_one_line() {
    let cluster = Cluster::start([Definition::batchsandbox()]);
    let setup = Setup::new(&cluster);
    let (builder, _) = ingress(&setup);
    std::fs::write(setup.path("kubeconfig"), "current-context: none\n").unwrap();
    let mut daemon = builder.spawn();
    assert_eq!(daemon.wait(PATIENCE).code(), Some(2));
    let said = daemon.stderr();
    let expected = "Error building kubeconfig: failed to create client config: ";
    assert!(
        said.contains(expected) && said.contains(r#"there is no context "none""#),
        "{said}"
    );
    assert!(cluster.requests().is_empty());
}

#[test]
fn a_pod_is_known_by_its_service_account_whose_token_rotates() {
    if !support::require_root("mounts the service account of a pod") {
        return;
    }
    let cluster = Cluster::start_tls([Definition::batchsandbox()], false);
    cluster.accept_tokens(&["one"]);
    cluster.apply(BATCH, batchsandbox("ns", "a", "127.0.0.1"));
    // What the kubelet mounts, for the daemon alone.
    let run = tempfile::tempdir().unwrap();
    let account = run.path().join("secrets/kubernetes.io/serviceaccount");
    std::fs::create_dir_all(&account).unwrap();
    std::fs::copy(cluster.authority().root_file(), account.join("ca.crt")).unwrap();
    std::fs::write(account.join("token"), "one").unwrap();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let server = cluster.server();
    let (host, port) = server
        .strip_prefix("https://")
        .unwrap()
        .split_once(':')
        .unwrap();
    let mut daemon = opensandbox!("ingress", format!("--port={}", address.port()))
        .bind_mount(run.path(), "/run")
        .env("KUBERNETES_SERVICE_HOST", host)
        .env("KUBERNETES_SERVICE_PORT", port)
        .ready_when_http(address, "/status.ok")
        .spawn();
    cluster.wait_for_watch();
    cluster.accept_tokens(&["two"]);
    std::fs::write(account.join("token"), "two").unwrap();
    cluster.cut_watches();
    cluster.wait_for_watch();
    let tokens = cluster.requests_for(Verb::Watch);
    let tokens = tokens
        .iter()
        .map(|watch| watch.headers["authorization"].as_str());
    assert_eq!(tokens.collect::<Vec<_>>(), ["Bearer one", "Bearer two"]);
    assert!(daemon.stop().success());
}

/// A port that is free on three addresses of this machine, and a backend on each, which answers
/// with its own address.
fn backends() -> (u16, Vec<Backend>) {
    let hosts = [1, 2, 3].map(|last| Ipv4Addr::new(127, 0, 0, last));
    let port = loop {
        let port = free_port();
        if hosts
            .iter()
            .all(|host| TcpListener::bind((*host, port)).is_ok())
        {
            break port;
        }
    };
    let at = |host: Ipv4Addr| {
        let answer = host.to_string();
        Backend::at(SocketAddr::from((host, port)), move |mut peer| {
            while peer.request().is_some() {
                peer.answer(&answer);
            }
        })
    };
    (port, hosts.into_iter().map(at).collect())
}

#[test]
fn no_request_reaches_another_sandbox_when_addresses_are_recycled_under_load() {
    let (port, _backends) = backends();
    let cluster = Cluster::start([Definition::batchsandbox()]);
    let setup = Setup::new(&cluster);
    let (builder, address) = ingress(&setup);
    for (name, host) in [("a", "127.0.0.1"), ("b", "127.0.0.2")] {
        cluster.apply(BATCH, batchsandbox("ns", name, host));
    }
    let daemon = builder.ready_when_http(address, "/status.ok").spawn();
    cluster.wait_for_watch();
    // Where each sandbox may be found at present; both while it moves.
    let places: Mutex<BTreeMap<&str, Vec<String>>> = Mutex::default();
    let allow = |name, hosts: &[&str]| {
        let hosts = hosts.iter().map(|&host| host.to_owned()).collect();
        places.lock().unwrap().insert(name, hosts);
    };
    allow("a", &["127.0.0.1"]);
    allow("b", &["127.0.0.2"]);
    let done = AtomicBool::new(false);
    let answers = Mutex::new(0_usize);
    std::thread::scope(|scope| {
        for name in ["a", "b", "a", "b"] {
            let (places, done, answers) = (&places, &done, &answers);
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    let before = places.lock().unwrap()[name].clone();
                    let (status, body) = ask(address, &format!("{name}-{port}"));
                    let after = places.lock().unwrap()[name].clone();
                    // Between its deletion and its creation there is no such sandbox.
                    let allowed = status == 404
                        || (status == 200 && (before.contains(&body) || after.contains(&body)));
                    assert!(
                        allowed,
                        "{name}: {status} {body}, not {before:?} or {after:?}"
                    );
                    *answers.lock().unwrap() += 1;
                }
            });
        }
        // Sandboxes trade places, each time as new ones at addresses the other just left.
        let settle = |name: &str, host: &str| {
            eventually(|| {
                (ask(address, &format!("{name}-{port}")) == (200, host.to_owned())).then_some(())
            });
            allow(if name == "a" { "a" } else { "b" }, &[host]);
        };
        let mut at = ["127.0.0.1", "127.0.0.2", "127.0.0.3"];
        for round in 0..12 {
            let name = ["a", "b"][round % 2];
            let (old, new) = (at[round % 2], at[2]);
            allow(name, &[old, new]);
            cluster.delete(BATCH, "ns", name);
            cluster.apply(BATCH, batchsandbox("ns", name, new));
            settle(name, new);
            at.swap(round % 2, 2);
            let enough = (round + 1) * 20;
            eventually(|| (*answers.lock().unwrap() >= enough).then_some(()));
        }
        done.store(true, Ordering::Relaxed);
    });
    drop(daemon);
}
