use super::*;

fn select_from(text: &str) -> Result<Selected, String> {
    select(Path::new("/k/config"), text, Overrides::default())
}

/// A kubeconfig with these lines of cluster and user, as `kubectl config view --raw` writes it.
fn config(cluster: &str, user: &str) -> String {
    let indent = |lines: &str| {
        let lines = lines.lines().map(|line| format!("    {line}\n"));
        lines.collect::<String>()
    };
    format!(
        "apiVersion: v1\nkind: Config\npreferences: {{}}\ncurrent-context: main\n\
         contexts:\n- context:\n    cluster: c\n    namespace: n\n    user: u\n  name: main\n\
         clusters:\n- name: other\n  cluster:\n    server: https://other\n- cluster:\n{}  name: c\n\
         users:\n- name: u\n  user:\n{}",
        indent(cluster),
        indent(user)
    )
}

const SERVER: &str = "server: https://10.0.0.1:6443";

#[test]
fn the_current_context_selects_cluster_and_user() {
    let text = config(
        "server: https://10.0.0.1:6443\ncertificate-authority: pki/ca.crt\ntls-server-name: kube.test",
        "client-certificate-data: Y2Vy\n  dA==\nclient-key: /pki/key\ntoken: 12345",
    );
    let selected = select_from(&text).unwrap();
    assert_eq!(selected.server, "https://10.0.0.1:6443");
    let authorities = Material::File("/k/pki/ca.crt".into());
    assert_eq!(selected.trust, Trust::Authorities(authorities));
    assert_eq!(selected.tls_server_name.as_deref(), Some("kube.test"));
    let (certificate, key) = selected.who.identity.unwrap();
    assert_eq!(certificate, Material::Inline(b"cert".to_vec()));
    assert_eq!(key, Material::File("/pki/key".into()));
    assert_eq!(selected.who.token, Some(Secret::new("12345".to_owned())));
}

#[test]
fn data_wins_over_files_and_no_user_is_anonymous() {
    let text = config(
        "server: http://a\ncertificate-authority: x\ncertificate-authority-data: Y2E=",
        "tokenFile: token\n",
    );
    let selected = select_from(&text).unwrap();
    let authorities = Material::Inline(b"ca".to_vec());
    assert_eq!(selected.trust, Trust::Authorities(authorities));
    assert_eq!(
        selected.who.token_file.as_deref(),
        Some(Path::new("/k/token"))
    );
    let anonymous = "current-context: m\ncontexts: [{name: m, context: {cluster: c}}]\nclusters: [{name: c, cluster: {server: a}}]\n";
    let selected = select_from(anonymous).unwrap();
    assert!(selected.who.token.is_none() && selected.trust == Trust::Public);
}

#[test]
fn flags_choose_another_cluster_or_server() {
    let overrides = |server, cluster| Overrides { server, cluster };
    let text = config(SERVER, "token: t");
    let server = |overrides| select(Path::new("/k/config"), &text, overrides).map(|s| s.server);
    let found = server(overrides(None, Some("other")));
    assert_eq!(found.unwrap(), "https://other");
    let found = server(overrides(Some("http://s"), None));
    assert_eq!(found.unwrap(), "http://s");
    let found = server(overrides(None, Some("none")));
    assert_eq!(found.unwrap_err(), r#"there is no cluster "none""#);
}

#[test]
fn plugins_are_found_from_the_kubeconfig() {
    let version = "apiVersion: client.authentication.k8s.io/v1";
    for (command, expected) in [("aws", "aws"), ("./bin/x", "/k/./bin/x"), ("/x", "/x")] {
        let user = format!(
            "exec:\n  {version}\n  command: {command}\n  args: [get-token, '1']\n  env:\n  - name: A\n    value: b\n  interactiveMode: IfAvailable\n  provideClusterInfo: true\n  installHint: get it"
        );
        let exec = select_from(&config(SERVER, &user))
            .unwrap()
            .who
            .exec
            .unwrap();
        assert_eq!(exec.command, Path::new(expected));
        assert_eq!(exec.arguments, ["get-token", "1"]);
        assert_eq!(exec.variables["A"], "b");
        assert_eq!(
            exec.cluster.unwrap().server.as_deref(),
            Some("https://10.0.0.1:6443")
        );
    }
}

#[test]
fn what_is_missing_or_not_supported_is_named() {
    let exec = |lines: &str| config(SERVER, &format!("exec:\n{lines}"));
    let v1 = "  apiVersion: client.authentication.k8s.io/v1\n  command: x\n";
    for (text, told) in [
        (String::new(), "current-context is not set"),
        (
            "current-context: a\n".to_owned(),
            "there is no context \"a\"",
        ),
        (
            "current-context: [a]\n".to_owned(),
            "a field has a value of the wrong kind",
        ),
        ("a: b: c\n".to_owned(), "line 1: "),
        (
            config("proxy-url: http://p", ""),
            "proxy-url is not supported",
        ),
        (
            config("tls-server-name: x", ""),
            "the cluster has no server",
        ),
        (
            config(&format!("{SERVER}\ncertificate-authority-data: '*'"), ""),
            "certificate-authority-data is not base64",
        ),
        (
            config(
                &format!("{SERVER}\ninsecure-skip-tls-verify: true\ncertificate-authority: x"),
                "",
            ),
            "exclude each other",
        ),
        (
            config(SERVER, "client-certificate: x"),
            "client-certificate needs client-key",
        ),
        (
            config(SERVER, "client-key: x"),
            "client-key needs client-certificate",
        ),
        (config(SERVER, "username: u"), "the user has username: "),
        (
            config(SERVER, "auth-provider: {name: gcp}"),
            "the user has auth-provider: ",
        ),
        (config(SERVER, "as: root"), "the user has as: impersonation"),
        (exec("  command: x"), "exec has the apiVersion \"\""),
        (
            exec("  apiVersion: client.authentication.k8s.io/v1alpha1\n  command: x"),
            "v1alpha1",
        ),
        (exec("  apiVersion: x"), "exec has no command"),
        (
            exec(&format!("{v1}  interactiveMode: Always")),
            "there is none",
        ),
        (exec(&format!("{v1}token: t")), "both a token and exec"),
    ] {
        let error = select_from(&text).unwrap_err();
        assert!(error.contains(told), "{text}: {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
    let large = "#".repeat(MAX_BYTES + 1);
    assert!(select_from(&large).unwrap_err().contains("more than"));
}

#[test]
fn nothing_secret_is_shown() {
    let text = config(
        SERVER,
        "token: hush\nclient-key-data: aHVzaA==\nclient-certificate-data: aHVzaA==",
    );
    let shown = format!("{:?}", select_from(&text).unwrap());
    assert!(
        !shown.contains("hush") && !shown.contains("104, 117"),
        "{shown}"
    );
    // The value that does not fit is not part of the message either.
    let error = select_from(&config(SERVER, "token: [hush]")).unwrap_err();
    assert!(!error.contains("hush"), "{error}");
}
