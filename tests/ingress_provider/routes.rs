//! Sandboxes from a file of routes, which is edited while they are served.

use std::fs;
use std::sync::Arc;

use crate::scene::{Scene, read};
use support::eventually;

#[test]
fn an_edit_is_served_and_a_bad_one_is_not() {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let path = folder.path().join("routes.toml");
    let write = |text: &str| {
        let next = folder.path().join("next");
        fs::write(&next, text).unwrap();
        fs::rename(next, &path).unwrap();
    };
    write("[sandboxes.a]\nhost = '10.0.0.1'\n\n[sandboxes.b]\nhost = 'b.test'\ntoken = 'hush'\n");
    let pairs = [
        ("OPENSANDBOX_INGRESS_PROVIDER_TYPE", "static"),
        ("OPENSANDBOX_INGRESS_ROUTES", path.to_str().unwrap()),
    ];
    let scene = Scene::start(read(&pairs).unwrap(), folder.clone());
    scene.synced();
    let (a, b) = (scene.find("a").unwrap(), scene.find("b").unwrap());
    assert_eq!((&*b.host, b.token.as_deref()), ("b.test", Some("hush")));
    assert_eq!(scene.status.provider(), "static");

    write("[sandboxes.a]\nhost = '10.0.0.1'\n\n[sandboxes.c]\nhost = 'not an address'\n");
    let said = scene.said_once("the routes stay as they were");
    assert!(said.contains("routes.toml line 5: host"), "{said}");
    assert!(!scene.status.is_in_touch());
    scene.find("b").unwrap();

    write("[sandboxes.a]\nhost = '10.0.0.1'\n\n[sandboxes.c]\nhost = '::1'\n");
    scene.found_at("c", "::1");
    scene.gone("b");
    eventually(|| scene.status.is_in_touch().then_some(()));
    assert!(Arc::ptr_eq(&a, &scene.find("a").unwrap()));
    assert!(b.retired.is_set() && !a.retired.is_set());
    assert_eq!(scene.status.objects(), 2);
    let leak = |line: &String| line.contains("hush");
    assert!(!scene.log.all().iter().any(leak), "{:#?}", scene.log.all());
}
