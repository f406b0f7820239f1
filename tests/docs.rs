//! What the documents say about the source, compared with the source.

use std::fs;
use std::path::{Path, PathBuf};

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
    const COMPLETE: [&str; 6] = ["config", "egress", "host", "http", "runtime", "telemetry"];
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
