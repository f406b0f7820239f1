use std::fs;

use super::*;

struct Folder(tempfile::TempDir);

impl Folder {
    fn new(files: &[(&str, &str)]) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        for (name, text) in files {
            folder.write(name, text);
        }
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// As editors and `ConfigMap` mounts do it.
    fn write(&self, name: &str, text: &str) {
        let next = self.path("next");
        fs::write(&next, text).unwrap();
        fs::rename(next, self.path(name)).unwrap();
    }

    fn open(&self, name: &str) -> Result<Routes, String> {
        Routes::open(&self.path(name))
    }
}

/// Id, host and token of every route.
fn list(routes: &Routes) -> Vec<(String, String, Option<String>)> {
    let entry = |object: Object<'_>| match object.state {
        State::Ready(host) => (
            object.name.into_owned(),
            host.into_owned(),
            object.token.map(Into::into),
        ),
        State::NotReady { .. } => panic!("a route is always ready"),
    };
    routes.objects().map(entry).collect()
}

fn entry(id: &str, host: &str, token: Option<&str>) -> (String, String, Option<String>) {
    (id.to_owned(), host.to_owned(), token.map(str::to_owned))
}

#[test]
fn routes_are_toml_or_json() {
    let toml = "[sandboxes.demo]\nhost = '10.0.0.5'\n[sandboxes.\"b c\"]\nhost = '[fd00::1]'\ntoken = ' t '\n[sandboxes.c]\nhost = 'c.test'\ntoken_file = 'secret'\n";
    let json = r#"{"sandboxes": {
        "demo": {"host": "10.0.0.5"},
        "b c": {"host": "fd00::1", "token": "t"},
        "c": {"host": "c.test", "token_file": "secret"}
    }}"#;
    let folder = Folder::new(&[
        ("r.toml", toml),
        ("r.json", json),
        ("secret", "from file\n"),
        ("empty.toml", ""),
    ]);
    let expected = [
        entry("demo", "10.0.0.5", None),
        entry("b c", "fd00::1", Some("t")),
        entry("c", "c.test", Some("from file")),
    ];
    for name in ["r.toml", "r.json"] {
        assert_eq!(list(&folder.open(name).unwrap()), expected, "{name}");
    }
    assert!(folder.open("empty.toml").unwrap().is_empty());
}

#[test]
fn what_cannot_be_used_is_told_with_its_line() {
    let long = format!(
        "[sandboxes.a]\nhost='h'\ntoken='{}'",
        "t".repeat(MAX_TOKEN + 1)
    );
    for (name, text, told) in [
        (
            "r.toml",
            "[sandboxes.a]\nhost = '10.0.0.5:80'\n",
            "line 2: host \"10.0.0.5:80\" is not an IP address",
        ),
        (
            "r.toml",
            "\n[sandboxes.a]\nhost = ''\n",
            "line 3: host \"\"",
        ),
        ("r.toml", "[sandboxes.a]\nhost = = 1\n", "line 2: "),
        (
            "r.toml",
            "[sandboxes.a]\nhost = 'h'\ntokenfile = 'x'\n",
            "line 3: unknown field `tokenfile`",
        ),
        (
            "r.toml",
            "[sandboxes.a]\nhost='h'\n[sandboxes.a]\nhost='i'\n",
            "line 3: ",
        ),
        (
            "r.toml",
            "[sandboxes.a]\nhost='h'\ntoken=' '\n",
            "line 3: the token is empty",
        ),
        (
            "r.toml",
            "[sandboxes.a]\nhost='h'\ntoken='t'\ntoken_file='f'\n",
            "\"a\" has both token and token_file",
        ),
        (
            "r.toml",
            "[sandboxes.a]\ntoken='t'\n",
            "missing field `host`",
        ),
        (
            "r.toml",
            "[sandboxes.a]\nhost='h'\ntoken_file='none'\n",
            "sandbox \"a\": ",
        ),
        ("r.toml", "[sandboxes.'']\nhost='h'\n", "an id is empty"),
        (
            "r.toml",
            &long,
            "line 3: the token has more than 4096 bytes",
        ),
        (
            "r.json",
            "{\"sandboxes\": {\n\"a\": {\"host\": 1}}}",
            "line 2: invalid type",
        ),
        (
            "r.json",
            "{\"sandboxes\": {\n\"a\": {\"host\": \"h\"},\n\"a\": {\"host\": \"i\"}}}",
            "line 3: \"a\" is there twice",
        ),
        ("r.json", "", "line 1: EOF while parsing a value"),
        ("r.json", "\n\u{0}", "line 2: "),
    ] {
        let folder = Folder::new(&[(name, text)]);
        let error = folder.open(name).unwrap_err();
        assert!(error.contains(told), "{text}: {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
        assert!(error.contains(name) && !error.contains("ttttt"), "{error}");
    }
    let folder = Folder::new(&[]);
    fs::write(folder.path("r.toml"), b"a\n\xff").unwrap();
    assert!(
        folder
            .open("r.toml")
            .unwrap_err()
            .contains("line 2: not UTF-8")
    );
    assert!(
        folder
            .open("none.toml")
            .unwrap_err()
            .contains("no such file")
    );
}

#[test]
fn an_edit_is_in_force_and_a_bad_one_is_not() {
    let folder = Folder::new(&[("r.toml", "[sandboxes.a]\nhost='10.0.0.1'\n")]);
    let mut routes = folder.open("r.toml").unwrap();
    let before = list(&routes);
    assert!(!routes.refresh().changed);

    folder.write("r.toml", "[sandboxes.a]\nhost=''\n");
    let found = routes.refresh();
    assert!(
        !found.changed && found.complaints[0].contains("line 2: host"),
        "{found:?}"
    );
    let again = routes.refresh();
    assert!(again.complaints.is_empty(), "{again:?}");
    assert_eq!(list(&routes), before);

    fs::remove_file(folder.path("r.toml")).unwrap();
    assert_eq!(routes.refresh().complaints.len(), 1);
    assert_eq!(routes.refresh().complaints.len(), 0);
    assert_eq!(list(&routes), before);

    folder.write("r.toml", "[sandboxes.b]\nhost='10.0.0.2'\n");
    assert!(routes.refresh().changed);
    assert_eq!(list(&routes), [entry("b", "10.0.0.2", None)]);
}

#[test]
fn a_token_changes_with_its_file() {
    let text = "[sandboxes.a]\nhost='10.0.0.1'\ntoken_file='secret'\n";
    let folder = Folder::new(&[("r.toml", text), ("secret", "one")]);
    let mut routes = folder.open("r.toml").unwrap();
    folder.write("secret", "two\n");
    assert!(routes.refresh().changed);
    assert_eq!(list(&routes), [entry("a", "10.0.0.1", Some("two"))]);

    // Neither an empty file nor a missing one opens the sandbox.
    for change in ["empty", "missing"] {
        match change {
            "empty" => folder.write("secret", "\n"),
            _ => fs::remove_file(folder.path("secret")).unwrap(),
        }
        let found = routes.refresh();
        assert!(
            !found.changed && found.complaints.len() == 1,
            "{change}: {found:?}"
        );
        assert_eq!(list(&routes), [entry("a", "10.0.0.1", Some("two"))]);
    }
}

#[test]
fn routes_that_wait_for_the_file_of_a_token_come_with_it() {
    let folder = Folder::new(&[("r.toml", "")]);
    let mut routes = folder.open("r.toml").unwrap();
    folder.write(
        "r.toml",
        "[sandboxes.a]\nhost='10.0.0.1'\ntoken_file='secret'\n",
    );
    assert_eq!(routes.refresh().complaints.len(), 1);
    folder.write("secret", "t");
    assert!(routes.refresh().changed);
    assert_eq!(list(&routes), [entry("a", "10.0.0.1", Some("t"))]);
}
