//! The index against a plain map.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn object<'a>(namespace: &'a str, name: &'a str, host: &'a str) -> Object<'a> {
    Object {
        namespace: namespace.into(),
        name: name.into(),
        uid: "u".into(),
        token: None,
        state: State::Ready(host.into()),
    }
}

fn ready(index: &Index, name: &str) -> Arc<Sandbox> {
    match index.find(name) {
        Found::Ready(sandbox) => sandbox,
        other => panic!("{name}: {other:?}"),
    }
}

#[test]
fn a_sandbox_that_did_not_change_is_the_same_after_another_listing() {
    let mut writer = Writer::new();
    writer.begin_listing();
    writer.put(&object("n", "a", "10.0.0.1")).unwrap();
    writer.put(&object("n", "b", "10.0.0.2")).unwrap();
    writer.finish_listing();
    let index = writer.index();
    let (a, b) = (ready(&index, "a"), ready(&index, "b"));
    writer.begin_listing();
    writer.put(&object("n", "a", "10.0.0.1")).unwrap();
    writer.finish_listing();
    assert!(Arc::ptr_eq(&a, &ready(&index, "a")));
    assert!(!a.retired.is_set() && b.retired.is_set());
    assert!(matches!(index.find("b"), Found::Nothing));
    assert_eq!(index.len(), 1);
}

#[test]
fn a_listing_that_was_cut_off_removes_nothing() {
    let mut writer = Writer::new();
    writer.put(&object("n", "a", "10.0.0.1")).unwrap();
    writer.begin_listing();
    writer.begin_listing();
    writer.put(&object("n", "b", "10.0.0.2")).unwrap();
    ready(&writer.index(), "a");
    writer.finish_listing();
    assert!(matches!(writer.index().find("a"), Found::Nothing));
}

#[test]
fn another_uid_address_or_token_is_another_sandbox() {
    let first = object("n", "a", "10.0.0.1");
    let token = |text| Object {
        token: Some(Cow::Borrowed(text)),
        ..first.clone()
    };
    let uid = Object {
        uid: "v".into(),
        ..first.clone()
    };
    for second in [uid, object("n", "a", "10.0.0.2"), token("t")] {
        let mut writer = Writer::new();
        writer.put(&first).unwrap();
        let old = ready(&writer.index(), "a");
        writer.put(&second).unwrap();
        let new = ready(&writer.index(), "a");
        assert!(old.retired.is_set() && !new.retired.is_set());
        assert_eq!(new.token.as_deref(), second.token.as_deref());
        assert!(writer.remove("n", "a") && new.retired.is_set());
        assert!(!writer.remove("n", "a"));
    }
}

#[test]
fn connections_outlive_a_sandbox_that_is_not_ready_for_a_while() {
    let mut writer = Writer::new();
    let not_ready = |host: Option<&'static str>| Object {
        token: Some("t".into()),
        state: State::NotReady {
            host: host.map(Cow::from),
            reason: " sleeps".into(),
        },
        ..object("n", "a", "")
    };
    let awake = Object {
        token: Some("t".into()),
        ..object("n", "a", "10.0.0.1")
    };
    writer.put(&awake).unwrap();
    let before = ready(&writer.index(), "a");
    writer.put(&not_ready(Some("10.0.0.1"))).unwrap();
    match writer.index().find("a") {
        Found::NotReady {
            reason,
            object,
            token,
        } => {
            assert_eq!((reason.as_str(), object.as_str()), (" sleeps", "n/a"));
            assert_eq!(token.as_deref(), Some("t"));
        }
        other => panic!("{other:?}"),
    }
    assert!(!before.retired.is_set());
    writer.put(&awake).unwrap();
    assert!(Arc::ptr_eq(&before, &ready(&writer.index(), "a")));
    writer.put(&not_ready(None)).unwrap();
    assert!(before.retired.is_set());
}

#[test]
fn readers_see_whole_objects_while_they_change() {
    let mut writer = Writer::new();
    writer.put(&object("n", "a", "0")).unwrap();
    let index = writer.index();
    let done = &std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            let index = &index;
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    let sandbox = ready(index, "a");
                    assert_eq!(sandbox.token.as_deref().unwrap_or("0"), &*sandbox.host);
                }
            });
        }
        for round in 0..5_000 {
            let text = round.to_string();
            let mut next = object("n", "a", &text);
            next.token = Some(text.as_str().into());
            writer.put(&next).unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
}

/// What can happen to an index; names and namespaces are few, so that they meet.
#[derive(Clone, Debug)]
enum Step {
    Put(Object<'static>),
    Remove(String, String),
    Listing(Vec<Object<'static>>),
    CutListing(Vec<Object<'static>>),
}

fn any_object() -> impl Strategy<Value = Object<'static>> {
    let host = "[1-3]".prop_map(Cow::Owned);
    let state = prop_oneof![
        host.clone().prop_map(State::Ready),
        (proptest::option::of(host), "[xy]").prop_map(|(host, reason)| State::NotReady {
            host,
            reason: reason.into(),
        }),
    ];
    let token = proptest::option::of("[tu]".prop_map(Cow::Owned));
    ("[mn]", "[a-d]", "[u-w]", token, state).prop_map(|(namespace, name, uid, token, state)| {
        Object {
            namespace: namespace.into(),
            name: name.into(),
            uid: uid.into(),
            token,
            state,
        }
    })
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        any_object().prop_map(Step::Put),
        ("[mn]", "[a-d]").prop_map(|(namespace, name)| Step::Remove(namespace, name)),
        vec(any_object(), 0..8).prop_map(Step::Listing),
        vec(any_object(), 0..4).prop_map(Step::CutListing),
    ]
}

type Model = BTreeMap<(String, String), Object<'static>>;

fn key(object: &Object<'_>) -> (String, String) {
    (object.namespace.to_string(), object.name.to_string())
}

fn apply(step: &Step, writer: &mut Writer, model: &mut Model) {
    match step {
        Step::Put(object) => {
            writer.put(object).unwrap();
            model.insert(key(object), object.clone());
        }
        Step::Remove(namespace, name) => {
            let removed = model.remove(&(namespace.clone(), name.clone()));
            assert_eq!(writer.remove(namespace, name), removed.is_some());
        }
        Step::Listing(objects) | Step::CutListing(objects) => {
            writer.begin_listing();
            for object in objects {
                writer.put(object).unwrap();
                model.insert(key(object), object.clone());
            }
            if matches!(step, Step::Listing(_)) {
                writer.finish_listing();
                let listed: Vec<_> = objects.iter().map(key).collect();
                model.retain(|key, _| listed.contains(key));
            }
        }
    }
}

fn compare(index: &Index, model: &Model, held: &mut Vec<Arc<Sandbox>>) {
    assert_eq!(index.len(), model.len());
    let mut current = Vec::new();
    for name in ["a", "b", "c", "d"] {
        let same: Vec<_> = model
            .values()
            .filter(|object| object.name == name)
            .collect();
        match (index.find(name), same.as_slice()) {
            (Found::Nothing, []) => {}
            (Found::Ready(sandbox), [object]) => {
                assert_eq!(object.state, State::Ready(Cow::Borrowed(&*sandbox.host)));
                assert_eq!(object.uid, *sandbox.uid);
                assert_eq!(object.token.as_deref(), sandbox.token.as_deref());
                assert!(!sandbox.retired.is_set());
                current.push(sandbox);
            }
            (Found::NotReady { reason, token, .. }, [object]) => {
                assert_eq!(object.state.reason(), Some(reason.as_str()));
                assert_eq!(object.token.as_deref(), token.as_deref());
            }
            (Found::Ambiguous(objects), [_, _]) => {
                assert_eq!(objects, [format!("m/{name}"), format!("n/{name}")]);
            }
            (found, _) => panic!("{name}: {found:?}, not {same:?}"),
        }
    }
    // Whatever was handed out is retired, unless an object still has its uid, address and token.
    held.extend(current);
    for sandbox in held {
        let alive = model.values().any(|object| {
            object.uid == *sandbox.uid
                && object.state.host() == Some(&*sandbox.host)
                && object.token.as_deref() == sandbox.token.as_deref()
        });
        assert!(alive || sandbox.retired.is_set(), "{sandbox:?}");
    }
}

proptest! {
    #[test]
    fn any_sequence_of_events_is_the_state_of_a_plain_map(steps in vec(any_step(), 1..40)) {
        let mut writer = Writer::new();
        let (mut model, mut held) = (Model::new(), Vec::new());
        for step in &steps {
            apply(step, &mut writer, &mut model);
            compare(&writer.index(), &model, &mut held);
        }
    }
}
