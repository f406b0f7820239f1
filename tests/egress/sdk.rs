//! The official Python SDK reads, patches and deletes the rules of the running daemon.

use std::path::Path;
use std::process::Command;

use support::sdk;

use crate::scene::{API, Scene};

const TOKEN: &str = "s3cret";

#[test]
fn the_official_sdk_changes_the_policy() {
    let Some(scene) = Scene::new() else { return };
    let Some(python) = sdk::python() else { return };
    scene.resolve_everything();
    let mut egress = scene
        .egress("")
        .env("OPENSANDBOX_EGRESS_TOKEN", TOKEN)
        .spawn();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/egress/sdk.py");
    let output = scene
        .sandbox
        .enter(|| {
            Command::new(&python)
                .arg(&script)
                .args([API, TOKEN])
                .output()
        })
        .expect("run Python");
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{errors}");
    let version = sdk::pinned(include_str!("../sdks/requirements.txt"), "opensandbox");
    assert_eq!(said.trim_end(), format!("opensandbox {version}"));
    // What it changed is in force.
    assert_eq!(scene.ask("files.pypi.test"), Some(0));
    assert_eq!(scene.ask("evil.test"), Some(3));
    assert!(egress.stop().success());
    assert_eq!(egress.events("egress.updated").len(), 3);
    assert_eq!(egress.events("egress.update_failed").len(), 2);
}
