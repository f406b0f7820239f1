//! What the documents say about the source, compared with the source.
//! `UPDATE_DOCS=1 cargo test --test docs` writes the generated parts anew.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use opensandbox::config::{Kind, Setting};
use opensandbox::{daemon, egress, execd, ingress};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Name and value of every constant in `source`, outside its tests.
fn constants(source: &str) -> Vec<(String, String)> {
    let code = source
        .split("#[cfg(test)]\nmod tests")
        .next()
        .unwrap_or_default();
    let declared = code.split("const ").skip(1);
    declared
        .filter_map(|declared| {
            let (declaration, _) = declared.split_once(';')?;
            let (name, rest) = declaration.split_once(": ")?;
            let (_, value) = rest.split_once(" = ")?;
            let words: Vec<_> = value.split_whitespace().collect();
            Some((name.to_owned(), words.join(" ")))
        })
        .collect()
}

/// File, name and value of every constant that `docs/limits.md` names.
fn documented() -> Vec<(String, String, String)> {
    let page = read("docs/limits.md");
    let rows = page.lines().filter(|line| line.starts_with("| "));
    rows.filter_map(|row| {
        let cell = row.split(" | ").nth(1)?;
        let mut code = cell.split('`').skip(1).step_by(2);
        let (file, constant) = (code.next()?, code.next()?);
        let (name, value) = constant.split_once(" = ")?;
        Some((file.to_owned(), name.to_owned(), value.to_owned()))
    })
    .collect()
}

#[test]
fn the_limits_are_those_of_the_source() {
    let documented = documented();
    assert!(documented.len() > 80, "found only {}", documented.len());
    for (file, name, value) in documented {
        let found = constants(&read(Path::new("src").join(&file)));
        let actual = found.iter().find(|(found, _)| *found == name);
        let actual = actual.unwrap_or_else(|| panic!("{file} has no constant {name}"));
        assert_eq!(actual.1, value, "{name} in {file}");
    }
}

#[test]
fn no_limit_is_missing() {
    /// What is complete in this version; the other applets are listed as they are finished.
    const COMPLETE: [&str; 8] = [
        "config",
        "egress",
        "execd",
        "host",
        "http",
        "ingress",
        "runtime",
        "telemetry",
    ];
    let documented = documented();
    for source in sources(&root().join("src")) {
        let file = source.strip_prefix(root().join("src")).unwrap();
        let module = file.iter().next().unwrap().to_str().unwrap();
        if !COMPLETE.contains(&module.trim_end_matches(".rs")) || file.ends_with("tests.rs") {
            continue;
        }
        for (name, _) in constants(&read(&source)) {
            let listed = documented
                .iter()
                .any(|(place, listed, _)| Path::new(place) == file && *listed == name);
            assert!(
                listed || !name.starts_with("MAX_"),
                "docs/limits.md does not list {name} of {}",
                file.display()
            );
        }
    }
}

/// Every source file below `directory`.
fn sources(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .flat_map(|path| {
            if path.is_dir() {
                sources(&path)
            } else {
                vec![path]
            }
        })
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .collect()
}

/// The settings as a Markdown table.
fn table<'a>(settings: impl IntoIterator<Item = &'a Setting>) -> String {
    let mut table = String::from("| flag | variable | default | |\n|---|---|---|---|\n");
    for setting in settings {
        let default = match setting.default {
            "" => "unset".to_owned(),
            default => format!("`{default}`"),
        };
        let kind = match setting.kind {
            Kind::Secret => " (masked where settings are shown)",
            Kind::Text | Kind::Switch | Kind::List => "",
        };
        table.push_str(&format!(
            "| `--{}` | `{}` | {default} | {}{kind} |\n",
            setting.flag, setting.variable, setting.help
        ));
    }
    table
}

/// Compares the table of settings in a document with the code, or writes it anew.
fn settings_of<'a>(document: &str, settings: impl IntoIterator<Item = &'a Setting>) {
    const BEGIN: &str = "<!-- begin: settings (UPDATE_DOCS=1 cargo test --test docs) -->\n";
    const END: &str = "<!-- end: settings -->";
    let path = root().join(document);
    let text = read(&path);
    let (before, rest) = text.split_once(BEGIN).expect("the begin marker");
    let (found, after) = rest.split_once(END).expect("the end marker");
    let wanted = table(settings);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, format!("{before}{BEGIN}{wanted}{END}{after}")).expect("write");
        return;
    }
    assert!(
        found == wanted,
        "{document} is not current: run UPDATE_DOCS=1 cargo test --test docs"
    );
}

#[test]
fn the_settings_of_egress_are_those_of_the_code() {
    settings_of(
        "docs/egress.md",
        egress::config::SETTINGS.iter().chain(daemon::SETTINGS),
    );
}

#[test]
fn the_settings_of_execd_are_those_of_the_code() {
    use execd::config::{LOG_SETTINGS, SETTINGS};
    settings_of(
        "docs/execd.md",
        SETTINGS.iter().chain(LOG_SETTINGS).chain(daemon::SETTINGS),
    );
}

#[test]
fn the_settings_of_ingress_are_those_of_the_code() {
    use ingress::{config, provider};
    settings_of(
        "docs/ingress.md",
        config::SETTINGS
            .iter()
            .chain(provider::SETTINGS)
            .chain(daemon::SETTINGS),
    );
}

/// The tests that a document names in its tables: `a_test_of_this_form`.
fn named_tests(text: &str) -> BTreeSet<&str> {
    let code = text.split('`').skip(1).step_by(2);
    code.filter(|word| {
        word.matches('_').count() >= 3
            && word
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
    })
    .collect()
}

/// Fails if `document` names a test that there is none of, or too few for the check to mean much.
fn tests_are_there(document: &str) {
    let text = read(document);
    let named = named_tests(&text);
    assert!(named.len() > 30, "found only {}", named.len());
    let places = ["src", "tests"].map(|place| sources(&root().join(place)));
    let tests: String = places.iter().flatten().map(read).collect();
    for name in named {
        assert!(
            tests.contains(&format!("fn {name}()")),
            "{document}: there is no test {name}"
        );
    }
}

#[test]
fn the_tests_that_execd_md_names_are_there() {
    tests_are_there("docs/execd.md");
}

#[test]
fn the_tests_that_ingress_md_names_are_there() {
    tests_are_there("docs/ingress.md");
}

/// The Markdown files at the top and below `docs/`.
fn documents() -> Vec<PathBuf> {
    let mut documents = Vec::new();
    for directory in [
        root().to_owned(),
        root().join("docs"),
        root().join("packaging"),
    ] {
        for entry in fs::read_dir(&directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.extension().is_some_and(|extension| extension == "md") {
                documents.push(path);
            }
        }
    }
    documents
}

/// The anchors a document has, by the rule of the common forges: letters, digits, blanks as dashes.
fn anchors(text: &str) -> BTreeSet<String> {
    text.lines()
        .filter_map(|line| line.strip_prefix('#'))
        .map(|heading| {
            let heading = heading.trim_start_matches('#').trim().to_lowercase();
            let kept = heading.chars().filter_map(|character| match character {
                ' ' => Some('-'),
                '-' | '_' => Some(character),
                character if character.is_alphanumeric() => Some(character),
                _ => None,
            });
            kept.collect()
        })
        .collect()
}

#[test]
fn every_link_leads_somewhere() {
    let mut broken = Vec::new();
    for document in documents() {
        let text = read(&document);
        let directory = document.parent().expect("a directory");
        for link in text.split("](").skip(1) {
            let link = link.split([')', ' ']).next().unwrap_or_default();
            if link.contains("://") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() {
                document.clone()
            } else {
                directory.join(file)
            };
            let leads =
                target.exists() && (anchor.is_empty() || anchors(&read(&target)).contains(anchor));
            if !leads {
                broken.push(format!("{}: {link}", document.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}
