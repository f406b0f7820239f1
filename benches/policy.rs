//! How long the policy takes to judge a name, and to be replaced (`SPECIFICATION.md`, number 9).
//!
//! `cargo bench --bench policy` prints one line a case. Under `cargo test` each case runs once.

use std::hint::black_box;
use std::time::{Duration, Instant};

use opensandbox::egress::policy::{AlwaysRules, Effective, Live, Policy};

/// How long a case is measured for; the best of several rounds counts.
const ROUND: Duration = Duration::from_millis(200);
const ROUNDS: usize = 5;

fn main() {
    let measured = std::env::args().any(|argument| argument == "--bench");
    let mut one_rule = [0.0; 4];
    for rules in [1, 100, 4096] {
        let policy = Policy::parse(document(rules).as_bytes()).expect("a valid policy");
        let effective = Effective::compile(&AlwaysRules::default(), &policy, 1);
        let live = Live::new(effective);
        for (case, (what, names)) in names(rules).into_iter().enumerate() {
            let mut next = names.iter().cycle();
            let best = best_of(measured, || {
                let name = next.next().expect("there are names");
                black_box(live.snapshot().evaluate(black_box(name)));
            });
            if rules == 1 {
                one_rule[case] = best;
            }
            println!(
                "verdict   {rules:>5} rules  {what:<20} {best:>9.1} ns  x{:.2} of 1 rule",
                best / one_rule[case]
            );
        }
    }
    for rules in [1, 100, 4096] {
        let body = document(rules);
        let live = Live::new(Effective::compile(
            &AlwaysRules::default(),
            &Policy::default(),
            1,
        ));
        let best = best_of(measured, || {
            let policy = Policy::parse(black_box(body.as_bytes())).expect("a valid policy");
            let next = Effective::compile(&AlwaysRules::default(), &policy, 2);
            live.replace(next.into());
        });
        println!("replace   {rules:>5} rules  parse and compile    {best:>9.0} ns");
    }
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

/// The best mean over all rounds, in nanoseconds; one call, unmeasured, in a test.
fn best_of(measured: bool, mut act: impl FnMut()) -> f64 {
    act();
    if !measured {
        return f64::NAN;
    }
    let round = || {
        let start = Instant::now();
        let mut calls = 0_u32;
        while start.elapsed() < ROUND {
            for _ in 0..16 {
                act();
            }
            calls += 16;
        }
        start.elapsed().as_secs_f64() * 1e9 / f64::from(calls)
    };
    std::iter::repeat_with(round)
        .take(ROUNDS)
        .fold(f64::INFINITY, f64::min)
}
