//! How long the policy takes to judge a name, and to be replaced (`SPECIFICATION.md`, number 9).

use std::hint::black_box;
use std::time::Duration;

use opensandbox::egress::policy::{AlwaysRules, Effective, Live, Policy};
use support::bench::{Spread, Table, interleave, measured, timed};

/// How long a round of one case takes, and how many there are.
const ROUND: Duration = Duration::from_millis(100);
const ROUNDS: usize = 9;

/// How many rules the policies have.
const RULES: [usize; 3] = [1, 100, 4096];

fn main() {
    let rounds = if measured() { ROUNDS } else { 1 };
    let policies = RULES.map(|rules| {
        let policy = Policy::parse(document(rules).as_bytes()).expect("a valid policy");
        Live::new(Effective::compile(&AlwaysRules::default(), &policy, 1))
    });
    let mut described = Vec::new();
    let mut cases: Vec<Box<dyn FnMut() -> f64>> = Vec::new();
    for (rules, live) in RULES.iter().zip(&policies) {
        for (what, names) in names(*rules) {
            described.push((format!("verdict, {what}"), *rules));
            let mut next = 0;
            cases.push(timed(ROUND, move || {
                next = (next + 1) % names.len();
                black_box(live.snapshot().evaluate(black_box(&names[next])));
            }));
        }
    }
    for rules in RULES {
        let body = document(rules);
        let nothing = Policy::default();
        let live = Live::new(Effective::compile(&AlwaysRules::default(), &nothing, 1));
        described.push(("parse, compile and replace".to_owned(), rules));
        cases.push(timed(ROUND, move || {
            let policy = Policy::parse(black_box(body.as_bytes())).expect("a valid policy");
            let next = Effective::compile(&AlwaysRules::default(), &policy, 2);
            live.replace(next.into());
        }));
    }
    let results = interleave(rounds, &mut cases);
    let mut table = Table::new(&["policy", "rules", "ns each"]);
    for ((what, rules), rounds) in described.iter().zip(results) {
        table.row(&[what, rules, &Spread::of(rounds)]);
    }
    print!("{table}");
}

/// A policy of names, wildcards and addresses in turn.
fn document(rules: usize) -> String {
    let rule = |number: usize| {
        let target = match number % 4 {
            0 | 1 => format!("*.zone{number}.example.com"),
            2 => format!("host{number}.service.example.org"),
            _ => format!("10.{}.{}.0/24", number / 256 % 256, number % 256),
        };
        format!(r#"{{"action":"allow","target":"{target}"}}"#)
    };
    let rules: Vec<_> = (0..rules).map(rule).collect();
    format!(r#"{{"egress":[{}]}}"#, rules.join(","))
}

/// Names to judge, by what becomes of them.
fn names(rules: usize) -> [(&'static str, Vec<String>); 4] {
    let some = || (0..rules).step_by(7);
    [
        (
            "wildcard match",
            some()
                .map(|number| format!("www.zone{}.example.com", number / 4 * 4))
                .collect(),
        ),
        (
            "exact or no match",
            some()
                .map(|number| format!("host{}.service.example.org", number / 4 * 4 + 2))
                .collect(),
        ),
        (
            "no match",
            some()
                .map(|number| format!("host{number}.elsewhere.example.net"))
                .collect(),
        ),
        (
            "no match, 126 labels",
            some()
                .map(|number| format!("{}{number}", "a.".repeat(124)))
                .collect(),
        ),
    ]
}
