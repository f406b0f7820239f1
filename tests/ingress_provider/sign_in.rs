//! Who we are to the API server, and who it is to us: TLS, certificates, tokens that rotate, and
//! plugins.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use support::kube::{Cluster, Definition, Fault, Verb, batchsandbox};

use crate::scene::Setup;
use support::eventually;

const BATCH: &str = "batchsandboxes";

fn definitions() -> [Definition; 1] {
    [Definition::batchsandbox()]
}

fn secure(require_client: bool) -> Cluster {
    let cluster = Cluster::start_tls(definitions(), require_client);
    cluster.apply(BATCH, batchsandbox("ns", "a", "10.0.0.1"));
    cluster
}

#[test]
fn the_authority_of_the_kubeconfig_is_trusted_and_no_other() {
    let cluster = secure(false);
    let authority = cluster.authority().root_file();
    let authority = authority.display();
    for lines in [
        format!("certificate-authority: {authority}"),
        format!("certificate-authority: {authority}\ntls-server-name: localhost"),
        "insecure-skip-tls-verify: true".to_owned(),
    ] {
        let scene = Setup::new(&cluster).cluster(&lines).start();
        scene.found_at("a", "10.0.0.1");
    }
    let other = support::tls::Authority::new();
    for lines in [
        format!("certificate-authority: {}", other.root_file().display()),
        format!("certificate-authority: {authority}\ntls-server-name: elsewhere.test"),
        String::new(),
    ] {
        let scene = Setup::new(&cluster).cluster(&lines).start();
        let said = scene.said_once("does not answer");
        assert!(said.contains("no TLS session"), "{said}");
    }
}

#[test]
fn a_client_certificate_is_shown() {
    let cluster = secure(true);
    let authority = cluster.authority().root_file();
    let lines = format!("certificate-authority: {}", authority.display());
    let anonymous = Setup::new(&cluster).cluster(&lines).start();
    anonymous.said_once("does not answer");
    let client = cluster.authority().client();
    let user = format!(
        "client-certificate: {}\nclient-key: {}",
        client.certificate_file().display(),
        client.key_file().display()
    );
    let scene = Setup::new(&cluster).cluster(&lines).user(&user).start();
    scene.found_at("a", "10.0.0.1");
}

#[test]
fn a_token_that_rotates_is_read_again() {
    let cluster = Cluster::start(definitions());
    cluster.accept_tokens(&["one"]);
    let setup = Setup::new(&cluster).user("tokenFile: token");
    fs::write(setup.path("token"), "one\n").unwrap();
    let scene = setup.synced(&cluster);
    cluster.accept_tokens(&["two"]);
    cluster.cut_watches();
    let said = scene.said_once("(401)");
    assert!(
        said.contains("renew the token") && !said.contains("one"),
        "{said}"
    );
    fs::write(scene.folder.path().join("token"), "two\n").unwrap();
    cluster.wait_for_watch();
    cluster.apply(BATCH, batchsandbox("ns", "b", "10.0.0.2"));
    scene.found_at("b", "10.0.0.2");
    scene.said_once("answers again");

    // The file goes away for a moment, as mounts do.
    fs::remove_file(scene.folder.path().join("token")).unwrap();
    cluster.cut_watches();
    let said = scene.said_once("cannot sign in");
    assert!(said.contains("/token: "), "{said}");
    fs::write(scene.folder.path().join("token"), "two\n").unwrap();
    cluster.wait_for_watch();
}

/// A plugin that answers with the file `answer`, and keeps what it was told.
fn plugin(setup: &Setup) -> String {
    let script = "#!/bin/sh\nset -eu\ncd \"$(dirname \"$0\")\"\necho \"$KUBERNETES_EXEC_INFO $1 $COLOUR\" >>asked\ncat answer 2>/dev/null\n";
    let path = setup.path("plugin");
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    answer(setup.folder.path(), "one", None);
    "exec:\n  apiVersion: client.authentication.k8s.io/v1\n  command: ./plugin\n  args: [get]\n  env: [{name: COLOUR, value: blue}]\n  provideClusterInfo: true\n  interactiveMode: Never".to_owned()
}

fn answer(folder: &std::path::Path, token: &str, expires: Option<&str>) {
    let answer = serde_json::json!({
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "status": {"token": token, "expirationTimestamp": expires},
    });
    // At once, so that a plugin that runs now sees one or the other.
    fs::write(folder.join("next"), answer.to_string()).unwrap();
    fs::rename(folder.join("next"), folder.join("answer")).unwrap();
}

fn asked(folder: &std::path::Path) -> Vec<String> {
    let asked = fs::read_to_string(folder.join("asked")).unwrap_or_default();
    asked.lines().map(str::to_owned).collect()
}

#[test]
fn a_plugin_is_asked_once_and_again_when_it_is_refused() {
    let cluster = Cluster::start(definitions());
    cluster.accept_tokens(&["one"]);
    let setup = Setup::new(&cluster);
    let user = plugin(&setup);
    let scene = setup.user(&user).synced(&cluster);
    let folder = scene.folder.path();
    let first = asked(folder);
    // Discovery, list and watch with one credential.
    let [first] = first.as_slice() else {
        panic!("{first:#?}");
    };
    assert!(first.ends_with("} get blue"), "{first}");
    assert!(
        first.contains(&format!(r#""server":"{}""#, cluster.server())),
        "{first}"
    );
    assert!(first.contains(r#""interactive":false"#), "{first}");

    answer(folder, "two", None);
    cluster.accept_tokens(&["two"]);
    cluster.cut_watches();
    cluster.wait_for_watch();
    assert_eq!(asked(folder).len(), 2);
}

#[test]
fn a_credential_that_expired_is_replaced() {
    let cluster = Cluster::start(definitions());
    let setup = Setup::new(&cluster);
    let user = plugin(&setup);
    answer(setup.folder.path(), "one", Some("2001-01-01T00:00:00Z"));
    let scene = setup.user(&user).synced(&cluster);
    assert_eq!(asked(scene.folder.path()).len(), 3, "one for each request");
}

#[test]
fn a_plugin_that_fails_is_told_and_asked_again() {
    let cluster = Cluster::start(definitions());
    let setup = Setup::new(&cluster);
    let user = plugin(&setup);
    fs::remove_file(setup.path("answer")).unwrap();
    let scene = setup.user(&user).start();
    let said = scene.said_once("cannot sign in");
    assert!(
        said.contains("the credential plugin") && said.contains("failed"),
        "{said}"
    );
    answer(scene.folder.path(), "", None);
    let said = eventually(|| scene.log.saying("neither a token nor a certificate").pop());
    assert!(said.contains("/plugin answered with"), "{said}");
    answer(scene.folder.path(), "one", None);
    scene.synced();

    let missing = "exec:\n  apiVersion: client.authentication.k8s.io/v1beta1\n  command: no-such-plugin\n  installHint: get it from there";
    let scene = Setup::new(&cluster).user(missing).start();
    let said = scene.said_once("cannot start the credential plugin no-such-plugin");
    assert!(said.contains("(get it from there)"), "{said}");
}

#[test]
fn nothing_secret_is_in_the_log() {
    let cluster = Cluster::start(definitions());
    cluster.accept_tokens(&["other"]);
    cluster.script(Verb::Discover, Fault::Garbage);
    let scene = Setup::new(&cluster).user("token: hush-hush").start();
    scene.said_once("(401)");
    cluster.wait_for(Verb::List, 3);
    let leak = |line: &String| line.contains("hush");
    assert!(!scene.log.all().iter().any(leak), "{:#?}", scene.log.all());
}
