//! Where the API server is found, by the contract's order.

use std::collections::BTreeMap;

use super::*;
use crate::ingress::provider::{Config as Provider, SETTINGS};

const KUBECONFIG: &str = "current-context: m\ncontexts: [{name: m, context: {cluster: c}}]\nclusters: [{name: c, cluster: {server: 'https://from.file'}}, {name: d, cluster: {server: 'https://other'}}]\n";

/// The address found with these settings and files.
fn server(pairs: &[(&str, &str)], files: &[(&str, &str)]) -> Result<String, String> {
    match read(pairs, files)? {
        Provider::Kubernetes(config) => Ok(config.access.server().to_string()),
        Provider::Static(_) => Err("static".to_owned()),
    }
}

fn read(pairs: &[(&str, &str)], files: &[(&str, &str)]) -> Result<Provider, String> {
    let files: BTreeMap<_, _> = files.iter().copied().collect();
    let read_file = |path: &Path| {
        let found = path.to_str().and_then(|path| files.get(path));
        found
            .map(|text| (*text).to_owned())
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    };
    let values = Values::from_pairs(SETTINGS, pairs);
    let config = Provider::read(&values, &read_file, &mut Vec::new());
    config.map_err(|error| error.to_string())
}

const POD: [(&str, &str); 2] = [
    ("KUBERNETES_SERVICE_HOST", "10.96.0.1"),
    ("KUBERNETES_SERVICE_PORT", "443"),
];

fn service_account(authority: &str) -> [(&'static str, &str); 2] {
    [
        ("/var/run/secrets/kubernetes.io/serviceaccount/token", "t"),
        (
            "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt",
            authority,
        ),
    ]
}

#[test]
fn the_kubeconfig_comes_before_the_home_and_the_pod() {
    let authority = rcgen::generate_simple_self_signed(vec!["a".to_owned()]).unwrap();
    let authority = authority.cert.pem();
    let mut files = vec![("/home/.kube/config", KUBECONFIG)];
    files.extend(service_account(&authority));
    let home = ("HOME", "/home");
    let mut all = vec![home];
    all.extend(POD);
    assert_eq!(server(&all, &files).unwrap(), "https://from.file/");
    // An empty one, or none, is passed over.
    files[0].1 = "\n";
    assert_eq!(server(&all, &files).unwrap(), "https://10.96.0.1:443/");
    assert_eq!(server(&POD, &files).unwrap(), "https://10.96.0.1:443/");
    let six = [("KUBERNETES_SERVICE_HOST", "fd00::1"), POD[1]];
    assert_eq!(server(&six, &files).unwrap(), "https://[fd00::1]:443/");
    // One that is named has to be there, and is one path.
    let named = [("KUBECONFIG", "/a:/b"), home];
    let error = server(&named, &files).unwrap_err();
    let expected = "Error building kubeconfig: failed to create client config: /a:/b: ";
    assert!(error.starts_with(expected), "{error}");
}

#[test]
fn flags_override_the_kubeconfig() {
    let files = [("/k", KUBECONFIG)];
    let kubeconfig = ("KUBECONFIG", "/k");
    let cluster = ("OPENSANDBOX_INGRESS_KUBE_CLUSTER", "d");
    let flag = ("OPENSANDBOX_INGRESS_KUBE_SERVER", "http://127.0.0.1:8001");
    assert_eq!(
        server(&[kubeconfig, cluster], &files).unwrap(),
        "https://other/"
    );
    assert_eq!(
        server(&[kubeconfig, flag], &files).unwrap(),
        "http://127.0.0.1:8001/"
    );
    assert_eq!(server(&[flag], &[]).unwrap(), "http://127.0.0.1:8001/");
}

#[test]
fn nothing_configured_says_what_to_do() {
    let no_token = &service_account("")[1..];
    for (pairs, files) in [
        (&[][..], &[][..]),
        (&POD, no_token),
        (&POD[..1], &service_account("")),
    ] {
        let error = server(pairs, files).unwrap_err();
        let expected = "Error building kubeconfig: failed to create client config: invalid configuration: no configuration has been provided";
        assert!(error.starts_with(expected), "{error}");
        assert!(
            error.contains("--kubeconfig") && error.contains("static"),
            "{error}"
        );
    }
    let error = server(&POD, &service_account("junk")).unwrap_err();
    assert!(error.contains("the CA certificates"), "{error}");
}

#[test]
fn rates_are_numbers_that_are_not_negative() {
    let kubeconfig = ("KUBECONFIG", "/k");
    let files = [("/k", KUBECONFIG)];
    for (variable, text) in [
        ("KUBE_API_QPS", "0.5"),
        ("KUBE_API_QPS", "0"),
        ("KUBE_API_BURST", "7.9"),
    ] {
        assert!(
            read(&[kubeconfig, (variable, text)], &files).is_ok(),
            "{text}"
        );
    }
    for (variable, text) in [
        ("KUBE_API_QPS", "-1"),
        ("KUBE_API_QPS", "x"),
        ("KUBE_API_BURST", "NaN"),
    ] {
        let error = read(&[kubeconfig, (variable, text)], &files).unwrap_err();
        assert!(
            error.contains(variable) && error.contains("not negative"),
            "{error}"
        );
    }
}

#[test]
fn the_provider_is_chosen_by_name() {
    let files = [("/k", KUBECONFIG)];
    let choose = |name| {
        let pairs = [
            ("OPENSANDBOX_INGRESS_PROVIDER_TYPE", name),
            ("KUBECONFIG", "/k"),
        ];
        read(&pairs, &files)
    };
    for name in ["batchsandbox", "agent-sandbox"] {
        match choose(name).unwrap() {
            Provider::Kubernetes(config) => assert_eq!(config.resource.provider, name),
            Provider::Static(_) => panic!("{name}"),
        }
    }
    let error = choose("docker").unwrap_err();
    assert!(
        error.starts_with("unsupported provider type: docker (from environment)"),
        "{error}"
    );
    let error = choose("static").unwrap_err();
    assert!(error.contains("--routes"), "{error}");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("r.toml");
    std::fs::write(&path, "[sandboxes.a]\nhost = 'h'\n").unwrap();
    let routes = ("OPENSANDBOX_INGRESS_ROUTES", path.to_str().unwrap());
    let provider = ("OPENSANDBOX_INGRESS_PROVIDER_TYPE", "static");
    match read(&[provider, routes], &[]).unwrap() {
        Provider::Static(routes) => assert_eq!(routes.len(), 1),
        Provider::Kubernetes(_) => panic!("not static"),
    }
    std::fs::write(&path, "x").unwrap();
    let error = read(&[provider, routes], &[]).unwrap_err();
    assert!(
        error.starts_with("OPENSANDBOX_INGRESS_ROUTES: ") && error.contains("line 1"),
        "{error}"
    );
}
