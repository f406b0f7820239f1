//! What the documents say is what the code says. `UPDATE_DOCS=1 cargo test --test documents` writes
//! the generated parts anew.

use std::fs;
use std::path::Path;

use opensandbox::config::{Kind, Setting};
use opensandbox::{daemon, egress};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|cause| panic!("{}: {cause}", path.display()))
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

#[test]
fn the_settings_of_egress_are_those_of_the_code() {
    const BEGIN: &str = "<!-- begin: settings (UPDATE_DOCS=1 cargo test --test documents) -->\n";
    const END: &str = "<!-- end: settings -->";
    let path = root().join("docs/egress.md");
    let text = read(&path);
    let (before, rest) = text.split_once(BEGIN).expect("the begin marker");
    let (found, after) = rest.split_once(END).expect("the end marker");
    let wanted = table(egress::config::SETTINGS.iter().chain(daemon::SETTINGS));
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, format!("{before}{BEGIN}{wanted}{END}{after}")).expect("write");
        return;
    }
    assert!(
        found == wanted,
        "docs/egress.md is not current: run UPDATE_DOCS=1 cargo test --test documents"
    );
}
