//! What holds for any octets given to the policy parsers.

use std::collections::HashSet;
use std::net::IpAddr;

use opensandbox::egress::policy::{
    Action, AlwaysRules, Effective, Policy, Rule, Target, parse_rules, parse_targets,
};

/// Panics if `data` makes the policy break one of its laws.
pub fn check(data: &[u8]) {
    if let Ok(policy) = Policy::parse(data) {
        check_policy(&policy);
    }
    if let Ok(sent) = parse_rules(data) {
        let patch: Result<Vec<_>, _> = sent.iter().map(|rule| rule.check()).collect();
        if let Ok(patch) = patch {
            check_policy(&Policy::default().merged(patch));
        }
    }
    if let Ok(targets) = parse_targets(data) {
        check_removal(&targets);
    }
    if let Ok(text) = std::str::from_utf8(data) {
        check_target(text);
    }
}

/// What is written reads the same; a merge with itself only drops repeats; the index says what the
/// rules say one after the other.
fn check_policy(policy: &Policy) {
    let written = policy.to_file().expect("a policy can be written");
    let read = Policy::parse(&written).expect("what was written can be read");
    assert_eq!(&read, policy);

    let merged = policy.merged(policy.rules().to_vec());
    let mut seen = HashSet::new();
    let first_ones: Vec<_> = policy
        .rules()
        .iter()
        .filter(|rule| seen.insert(rule.target()))
        .cloned()
        .collect();
    assert_eq!(merged.rules(), first_ones);

    let effective = Effective::compile(&AlwaysRules::default(), policy, 1);
    for rule in policy.rules() {
        let name = match rule.target() {
            Target::Network(network) => {
                for address in [network.address(), network.last()] {
                    let expected = judge_address(policy.rules(), address);
                    assert_eq!(effective.evaluate_address(address), expected, "{address}");
                }
                continue;
            }
            Target::Name(name) => name.to_string(),
            Target::Below(name) => format!("x.{name}"),
        };
        // Whatever ends in a dot or is blank is judged as something shorter.
        if name.is_empty() || name.ends_with('.') || name.contains('\\') {
            continue;
        }
        assert_eq!(
            effective.evaluate(&name).action,
            judge(policy.rules(), &name).unwrap_or(policy.default_action()),
            "{name:?}"
        );
    }
}

/// Reads the rules one after the other.
fn judge(rules: &[Rule], name: &str) -> Option<Action> {
    let name = name.to_ascii_lowercase();
    let matches = |rule: &&Rule| match rule.target() {
        Target::Network(_) => false,
        Target::Name(exact) => exact.eq_ignore_ascii_case(&name),
        Target::Below(parent) => {
            let parent = parent.to_ascii_lowercase();
            name.ends_with(&format!(".{parent}"))
        }
    };
    rules.iter().find(matches).map(Rule::action)
}

/// Reads the rules one after the other; a denial wins over all.
fn judge_address(rules: &[Rule], address: IpAddr) -> Option<Action> {
    let covers = |rule: &&Rule| match rule.target() {
        Target::Network(network) => network.contains(address),
        _ => false,
    };
    let mut actions = rules.iter().filter(covers).map(Rule::action);
    let first = actions.next()?;
    if first == Action::Deny || actions.any(|action| action == Action::Deny) {
        return Some(Action::Deny);
    }
    Some(Action::Allow)
}

/// A policy of the targets is empty without them.
fn check_removal(targets: &[String]) {
    let rules: Vec<_> = targets
        .iter()
        .filter_map(|target| Rule::new(Action::Allow, target).ok())
        .collect();
    let count = rules.len();
    let (kept, removed) = Policy::new(rules, Action::Deny).without(targets);
    assert!(kept.rules().is_empty());
    assert_eq!(removed.len(), count);
}

fn check_target(text: &str) {
    let Ok(rule) = Rule::new(Action::Deny, text) else {
        assert!(text.trim().is_empty());
        return;
    };
    assert_eq!(rule.text(), text.trim());
    if let Target::Network(network) = rule.target() {
        assert!(network.contains(network.address()));
        assert!(network.contains(network.last()));
        let again = Target::parse(&network.to_string());
        assert_eq!(&again, rule.target(), "canonical text is the same network");
    }
}
