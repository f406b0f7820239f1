//! What the fuzz targets check, over their committed seeds and small damage to them.

use std::fs;
use std::path::Path;

#[path = "../fuzz/checks/dns_answer.rs"]
mod dns_answer;
#[path = "../fuzz/checks/dns_query.rs"]
mod dns_query;
#[path = "../fuzz/checks/http_forward.rs"]
mod http_forward;
#[path = "../fuzz/checks/ingress_keys.rs"]
mod ingress_keys;
#[path = "../fuzz/checks/ingress_route.rs"]
mod ingress_route;
#[path = "../fuzz/checks/kube_object.rs"]
mod kube_object;
#[path = "../fuzz/checks/policy.rs"]
mod policy;

/// Runs `check` over every seed of `target`, each of its beginnings, and each of its octets
/// replaced by some that mean something to a parser.
fn over_seeds(target: &str, check: fn(&[u8])) {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/seeds")
        .join(target);
    let mut count = 0;
    for entry in fs::read_dir(seeds).unwrap() {
        let seed = fs::read(entry.unwrap().path()).unwrap();
        check(&seed);
        for position in 0..seed.len() {
            check(&seed[..position]);
            let mut damaged = seed.clone();
            for octet in *b"\0\"*.,:/[]{}\\#%0\x80\xff" {
                damaged[position] = octet;
                check(&damaged);
            }
        }
        count += 1;
    }
    assert!(count > 0, "there are seeds");
}

#[test]
fn policy() {
    over_seeds("policy", policy::check);
}

#[test]
fn dns_answer() {
    over_seeds("dns_answer", dns_answer::check);
}

#[test]
fn dns_query() {
    over_seeds("dns_query", dns_query::check);
}

#[test]
fn http_forward() {
    over_seeds("http_forward", http_forward::check);
}

#[test]
fn ingress_keys() {
    over_seeds("ingress_keys", ingress_keys::check);
}

#[test]
fn ingress_route() {
    over_seeds("ingress_route", ingress_route::check);
}

#[test]
fn kube_object() {
    over_seeds("kube_object", kube_object::check);
}
