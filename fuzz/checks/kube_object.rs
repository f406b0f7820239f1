//! What holds for any octets that come from an API server, or stand in a kubeconfig.

use std::path::Path;

use opensandbox::ingress::provider::index::{Found, State, Writer};
use opensandbox::ingress::provider::kubernetes::kubeconfig::{self, Overrides};
use opensandbox::ingress::provider::kubernetes::scan::{self, List, Part, Values};
use opensandbox::ingress::provider::{RESOURCES, read_object};

/// Panics if `data` breaks one of the laws of the readers.
pub fn check(data: &[u8]) {
    check_objects(data);
    check_pieces(data);
    if let Ok(text) = std::str::from_utf8(data) {
        // Whatever it says, it is told or refused in one line.
        if let Err(cause) = kubeconfig::select(Path::new("/k"), text, Overrides::default()) {
            assert_eq!(cause.lines().count(), 1, "{cause:?}");
        }
    }
}

/// An object that is read is found as it was read, and never without an address.
fn check_objects(data: &[u8]) {
    for resource in &RESOURCES {
        let Ok(object) = read_object(resource, data) else {
            continue;
        };
        let mut writer = Writer::new();
        writer.put(&object).expect("room for one");
        match (writer.index().find(&object.name), &object.state) {
            (Found::Ready(sandbox), State::Ready(host)) => {
                assert_eq!(*sandbox.host, **host);
                assert!(!host.is_empty() && *host != "0.0.0.0" && *host != "::");
                assert_eq!(sandbox.token.as_deref(), object.token.as_deref());
            }
            (Found::NotReady { reason, .. }, State::NotReady { reason: said, .. }) => {
                assert_eq!(reason, *said);
            }
            (found, state) => panic!("{found:?} of {state:?}"),
        }
    }
}

/// What comes out does not depend on the pieces in which it comes in.
fn check_pieces(data: &[u8]) {
    let whole = take_apart(data, data.len().max(1));
    assert_eq!(take_apart(data, 1), whole);
    assert_eq!(take_apart(data, 7), whole);
    // A list that is JSON is taken apart into what it holds.
    if let Ok(serde_json::Value::Object(list)) = serde_json::from_slice(data)
        && let Some(serde_json::Value::Array(items)) = list.get("items")
    {
        let once = data
            .windows(7)
            .filter(|window| window == b"\"items\"")
            .count()
            == 1;
        let found: Vec<serde_json::Value> = whole
            .1
            .iter()
            .filter_map(|item| serde_json::from_slice(item).ok())
            .collect();
        assert!(!once || (whole.3 && found == *items), "{found:?}");
    }
}

type Apart = (Vec<Vec<u8>>, Vec<Vec<u8>>, Vec<Vec<u8>>, bool);

/// The values of a stream, the items of a list, its members, and whether it is complete.
fn take_apart(data: &[u8], size: usize) -> Apart {
    let (mut values, mut items, mut members) = (Vec::new(), Vec::new(), Vec::new());
    let (mut stream, mut list) = (Values::default(), List::default());
    for piece in data.chunks(size) {
        let taken = stream.feed::<scan::Error>(piece, |value| {
            values.push(value.to_vec());
            Ok(())
        });
        if taken.is_err() {
            break;
        }
    }
    let mut broken = false;
    for piece in data.chunks(size) {
        let taken = list.feed::<scan::Error>(piece, |part| {
            match part {
                Part::Item(item) => items.push(item.to_vec()),
                Part::Member(key, value) => members.push([key, value].concat()),
            }
            Ok(())
        });
        if taken.is_err() {
            broken = true;
            break;
        }
    }
    (values, items, members, list.is_complete() && !broken)
}
