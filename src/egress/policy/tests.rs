//! The contract's cases, and the laws of the model.

use std::net::IpAddr;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn parse(document: &str) -> Policy {
    Policy::parse(document.as_bytes()).unwrap()
}

fn refusal(document: &str) -> String {
    Policy::parse(document.as_bytes()).unwrap_err().to_string()
}

fn rules(lines: &[&str]) -> Vec<Rule> {
    lines
        .iter()
        .map(|line| {
            let (action, target) = line.split_once(' ').unwrap();
            Rule::new(Action::parse(action).unwrap(), target).unwrap()
        })
        .collect()
}

fn lines(policy: &Policy) -> Vec<String> {
    let line = |rule: &Rule| format!("{} {}", rule.action().as_str(), rule.text());
    policy.rules().iter().map(line).collect()
}

fn compile(policy: &Policy) -> Effective {
    Effective::compile(&AlwaysRules::default(), policy, 1)
}

fn allows(policy: &Policy, name: &str) -> bool {
    compile(policy).evaluate(name).action == Action::Allow
}

#[test]
fn nothing_means_deny_all() {
    for document in ["", "   ", "null", "{}\n", "{}", " \n null "] {
        let policy = parse(document);
        assert_eq!(policy, Policy::default(), "{document:?}");
        assert!(!allows(&policy, "example.com."));
    }
}

#[test]
fn a_missing_default_is_deny() {
    for document in [
        r#"{"egress":[{"action":"allow","target":"example.com"}]}"#,
        r#"{"defaultAction":""}"#,
        r#"{"defaultAction":null}"#,
        r#"{"defaultAction":"allow","defaultAction":null}"#,
        r#"{"defaultAction":"  DENY "}"#,
    ] {
        assert_eq!(parse(document).default_action(), Action::Deny, "{document}");
    }
}

#[test]
fn an_unknown_default_is_refused_rather_than_open() {
    assert_eq!(
        refusal(r#"{"defaultAction":"foo"}"#),
        r#"unsupported defaultAction "foo""#
    );
}

#[test]
fn an_unknown_action_is_refused() {
    assert_eq!(
        refusal(r#"{"egress":[{"action":"foo","target":"a"}]}"#),
        r#"unsupported action "foo""#
    );
}

#[test]
fn a_refusal_quotes_no_more_than_a_line() {
    let document = format!(r#"{{"defaultAction":"{}"}}"#, "x".repeat(10_000));
    assert!(refusal(&document).len() < 200);
}

#[test]
fn a_missing_action_is_deny() {
    let policy = parse(r#"{"defaultAction":"allow","egress":[{"target":"a.test"}]}"#);
    assert_eq!(lines(&policy), ["deny a.test"]);
}

#[test]
fn a_target_is_needed() {
    for document in [
        r#"{"egress":[{"action":"allow","target":""}]}"#,
        r#"{"egress":[{"action":"allow","target":"  "}]}"#,
        r#"{"egress":[{"action":"allow"}]}"#,
        r#"{"egress":[null]}"#,
    ] {
        assert_eq!(refusal(document), "egress target cannot be empty");
    }
}

#[test]
fn the_decoder_is_as_lenient_as_clients_expect() {
    let policy = parse(
        r#"{"DEFAULTACTION":"Allow","extra":{"a":[1e999]},"Egress":[{"Action":" ALLOW ","TARGET":" Foo.Test ","x":1}]}"#,
    );
    assert_eq!(policy.default_action(), Action::Allow);
    assert_eq!(lines(&policy), ["allow Foo.Test"]);
    let last = parse(r#"{"egress":[{"target":"a"},{"target":"b"}],"EGRESS":[{"target":"c"}]}"#);
    assert_eq!(lines(&last), ["deny c"]);
    assert!(parse(r#"{"egress":null}"#).rules().is_empty());
}

#[test]
fn other_documents_are_refused() {
    for document in [
        "[]",
        "1",
        "\"deny\"",
        "nonsense",
        "{",
        "{} {}",
        r#"{"egress":{}}"#,
        r#"{"egress":["a"]}"#,
        r#"{"egress":[["allow","a"]]}"#,
        r#"{"defaultAction":1}"#,
        r#"{"defaultAction":"\ud800"}"#,
    ] {
        assert!(matches!(
            Policy::parse(document.as_bytes()),
            Err(Error::Syntax(_))
        ));
    }
    assert!(matches!(
        Policy::parse(b"{\"egress\":[{\"target\":\"\xff\"}]}"),
        Err(Error::Encoding(_))
    ));
    assert!(matches!(
        Policy::parse("[".repeat(100_000).as_bytes()),
        Err(Error::Syntax(_))
    ));
}

#[test]
fn the_output_always_has_a_list_and_a_fixed_order() {
    assert_eq!(
        serde_json::to_string(&Policy::default()).unwrap(),
        r#"{"egress":[],"defaultAction":"deny"}"#
    );
    let file = parse(r#"{"defaultAction":"allow","egress":[{"action":"deny","target":"A.b"}]}"#)
        .to_file()
        .unwrap();
    let expected = "{\n  \"egress\": [\n    {\n      \"action\": \"deny\",\n      \"target\": \"A.b\"\n    }\n  ],\n  \"defaultAction\": \"allow\"\n}\n";
    assert_eq!(String::from_utf8(file).unwrap(), expected);
}

#[test]
fn targets_are_of_the_kind_the_contract_says() {
    let network = |text: &str| match Target::parse(text) {
        Target::Network(network) => network.to_string(),
        other => panic!("{text}: {other:?}"),
    };
    assert_eq!(network("1.2.3.4"), "1.2.3.4");
    assert_eq!(network("2001:DB8::1"), "2001:db8::1");
    assert_eq!(network("fe80::1%eth0"), "fe80::1");
    assert_eq!(network("::ffff:1.2.3.4"), "::ffff:1.2.3.4");
    assert_eq!(network("10.0.0.1/8"), "10.0.0.0/8");
    assert_eq!(network("2001:db8::/32"), "2001:db8::/32");
    assert_eq!(network("0.0.0.0/0"), "0.0.0.0/0");
    assert_eq!(network("::/0"), "::/0");
    for dead in [
        "01.2.3.4",
        "1.2.3",
        "1.2.3.4/33",
        "10.0.0.0/08",
        "10.0.0.0/+8",
        "10.0.0.0/",
        "1.2.3.4%eth0",
        "::1%",
        "1.2.3.4:53",
        "[::1]",
        "http://x/",
        "a b",
        "*",
        "*.",
        "a.*.b",
        "a..b",
        ".a",
        "a\u{0}b",
    ] {
        let target = Target::parse(dead);
        assert!(!matches!(target, Target::Network(_)), "{dead}");
        assert!(target.suspicion().is_some(), "{dead}");
    }
    for alive in ["a", "foo.com.", "*.foo.com", "_dmarc.a-b.c0m", "bücher.de"] {
        assert_eq!(Target::parse(alive).suspicion(), None, "{alive}");
    }
    assert_eq!(
        Target::parse("::ffff:1.2.3.4").suspicion(),
        Some(Suspicion::MappedAddress)
    );
}

#[test]
fn a_trailing_dot_and_other_scripts_match() {
    let policy = Policy::new(
        rules(&["allow Example.COM.", "allow *.bücher.de"]),
        Action::Deny,
    );
    assert!(allows(&policy, "example.com"));
    assert!(allows(&policy, "www.xn--bcher-kva.de."));
    assert_eq!(lines(&policy), ["allow Example.COM.", "allow *.bücher.de"]);
}

#[test]
fn a_wildcard_matches_below_and_on_label_boundaries() {
    let policy = Policy::new(rules(&["allow *.foo.com"]), Action::Deny);
    assert!(allows(&policy, "a.foo.com"));
    assert!(allows(&policy, "A.b.FOO.com."));
    for other in ["foo.com", "xfoo.com", "a.foo.com.evil", "", ".", "com"] {
        assert!(!allows(&policy, other), "{other}");
    }
    let exact = Policy::new(rules(&["allow foo.com"]), Action::Deny);
    assert!(allows(&exact, "foo.com"));
    assert!(!allows(&exact, "a.foo.com"));
}

#[test]
fn an_escaped_dot_is_no_label_boundary() {
    let policy = Policy::new(rules(&["allow *.foo.com"]), Action::Deny);
    assert!(!allows(&policy, r"a\.foo.com"));
    assert!(allows(&policy, r"a\\.foo.com"));
    assert!(!allows(&policy, r"a\\\.foo.com"));
    assert!(allows(&policy, r"b.a\.c.foo.com"));
}

#[test]
fn rules_and_names_may_have_any_number_of_labels() {
    // Two of them more labels than a name can have.
    for labels in [1, 2, 126, 127, 128, 200] {
        let parent = vec!["a"; labels].join(".");
        let targets = [format!("allow {parent}"), format!("allow *.b.{parent}")];
        let targets = targets.each_ref().map(String::as_str);
        let policy = Policy::new(rules(&targets), Action::Deny);
        assert!(allows(&policy, &parent), "{labels}");
        assert!(allows(&policy, &format!("a.b.{parent}")), "{labels}");
        assert!(allows(&policy, &format!("a.a.b.{parent}")), "{labels}");
        for other in ["a.", "b.", "b.b.", "a.c."] {
            let other = format!("{other}{parent}");
            assert_eq!(
                allows(&policy, &other),
                other.starts_with("b.b."),
                "{other}"
            );
        }
    }
}

#[test]
fn the_first_match_wins() {
    let wildcard_first = ["allow *.example.com", "deny api.example.com"];
    let policy = Policy::new(rules(&wildcard_first), Action::Deny);
    assert!(allows(&policy, "api.example.com"));
    let exact_first = ["deny api.example.com", "allow *.example.com"];
    let policy = Policy::new(rules(&exact_first), Action::Deny);
    assert!(!allows(&policy, "api.example.com"));
    let twice = ["allow a.test", "deny a.test"];
    assert!(allows(&Policy::new(rules(&twice), Action::Deny), "a.test"));
}

#[test]
fn the_root_and_addresses_take_the_default() {
    let policy = Policy::new(rules(&["deny 1.2.3.4", "deny *"]), Action::Allow);
    assert!(allows(&policy, "."));
    assert!(allows(&policy, ""));
    assert!(allows(&policy, "1.2.3.4"));
}

#[test]
fn the_operator_comes_first() {
    let judge = |deny: &[&str], allow: &[&str], user: &[&str]| {
        let always = AlwaysRules {
            deny: rules(deny),
            allow: rules(allow),
        };
        let user = Policy::new(rules(user), Action::Deny);
        Effective::compile(&always, &user, 1).evaluate("a.test")
    };
    let verdict = |action, reason| Verdict { action, reason };
    assert_eq!(
        judge(&["deny a.test"], &[], &["allow a.test"]),
        verdict(Action::Deny, Reason::Always)
    );
    assert_eq!(
        judge(&[], &["allow a.test"], &["deny a.test"]),
        verdict(Action::Allow, Reason::Always)
    );
    assert_eq!(
        judge(&["deny a.test"], &["allow a.test"], &[]),
        verdict(Action::Deny, Reason::Always)
    );
    assert_eq!(
        judge(&["deny b.test"], &["allow b.test"], &["allow a.test"]),
        verdict(Action::Allow, Reason::Rule)
    );
    assert_eq!(judge(&[], &[], &[]), verdict(Action::Deny, Reason::Default));
}

#[test]
fn networks_are_split_by_action_and_family() {
    let policy = Policy::new(
        rules(&[
            "allow 1.1.1.1",
            "allow 2.2.0.0/16",
            "deny 2001:db8::/32",
            "deny 2001:db9::1",
            "allow a.test",
        ]),
        Action::Deny,
    );
    let effective = compile(&policy);
    let text = |networks: &[Network]| networks.iter().map(Network::to_string).collect::<Vec<_>>();
    assert_eq!(text(effective.allowed().v4()), ["1.1.1.1", "2.2.0.0/16"]);
    assert!(effective.allowed().v6().is_empty());
    assert!(effective.denied().v4().is_empty());
    assert_eq!(
        text(effective.denied().v6()),
        ["2001:db8::/32", "2001:db9::1"]
    );
}

#[test]
fn a_denied_network_beats_an_allowed_address_in_any_order() {
    let address: IpAddr = "10.0.0.5".parse().unwrap();
    for order in [
        ["allow 10.0.0.5", "deny 10.0.0.0/8"],
        ["deny 10.0.0.0/8", "allow 10.0.0.5"],
    ] {
        let effective = compile(&Policy::new(rules(&order), Action::Allow));
        assert_eq!(effective.evaluate_address(address), Some(Action::Deny));
    }
    let effective = compile(&Policy::new(rules(&["allow 10.0.0.0/8"]), Action::Deny));
    assert_eq!(effective.evaluate_address(address), Some(Action::Allow));
    assert_eq!(
        effective.evaluate_address("11.0.0.1".parse().unwrap()),
        None
    );
}

#[test]
fn contained_networks_are_dropped() {
    let set = |list: &str| -> Vec<String> {
        let networks = list.split(", ").map(|text| Network::parse(text).unwrap());
        let set: NetworkSet = networks.collect();
        set.as_slice().iter().map(Network::to_string).collect()
    };
    assert_eq!(
        set("100.64.0.0/10, 127.0.0.1, 100.100.2.136, 100.100.2.138"),
        ["100.64.0.0/10", "127.0.0.1"]
    );
    assert_eq!(set("1.1.1.1, 1.1.1.1"), ["1.1.1.1"]);
    assert_eq!(
        set("2001:db8:1::/48, 2001:db8::/32, 2001:db8::1"),
        ["2001:db8::/32"]
    );
    assert_eq!(set("::/0, 0.0.0.0/0, 1.2.3.4, ::1"), ["0.0.0.0/0", "::/0"]);
}

#[test]
fn a_merge_overrides_and_moves_to_the_front() {
    let base = Policy::new(
        rules(&["allow example.com", "deny *.example.com"]),
        Action::Deny,
    );
    let merged = base.merged(rules(&["deny blocked.com", "allow example.com"]));
    assert_eq!(
        lines(&merged),
        [
            "deny blocked.com",
            "allow example.com",
            "deny *.example.com"
        ]
    );
    let base = Policy::new(rules(&["deny Example.COM"]), Action::Allow);
    let merged = base.merged(rules(&["allow example.com"]));
    assert_eq!(lines(&merged), ["allow example.com"]);
    assert_eq!(merged.default_action(), Action::Allow);
}

#[test]
fn a_merge_and_a_removal_see_through_spelling() {
    let base = Policy::new(
        rules(&[
            "allow a.com.",
            "allow 2001:0db8::1",
            "allow 10.1.2.3/8",
            "allow 9.9.9.9",
        ]),
        Action::Deny,
    );
    let patch = rules(&["deny A.com", "deny 9.9.9.9/32"]);
    assert_eq!(base.merged(patch).rules().len(), 4);
    let (kept, removed) = base.without(&[" A.COM ", "2001:db8::1", "10.0.0.0/8", ""]);
    assert_eq!(lines(&kept), ["allow 9.9.9.9"]);
    assert_eq!(removed.len(), 3);
}

#[test]
fn a_removal_keeps_the_order_and_the_default() {
    let base = Policy::new(
        rules(&["allow a.com", "deny blocked.com", "allow Example.COM"]),
        Action::Allow,
    );
    let (kept, removed) = base.without(&["blocked.com", "nonexistent.com"]);
    assert_eq!(lines(&kept), ["allow a.com", "allow Example.COM"]);
    assert_eq!(removed, rules(&["deny blocked.com"]));
    assert_eq!(kept.default_action(), Action::Allow);
    let (kept, _) = base.without(&["example.com"]);
    assert_eq!(lines(&kept), ["allow a.com", "deny blocked.com"]);
}

#[test]
fn the_mode_follows_from_the_shape() {
    assert_eq!(parse("").mode(), Mode::DenyAll);
    assert_eq!(parse(r#"{"defaultAction":"allow"}"#).mode(), Mode::AllowAll);
    let one = Policy::new(rules(&["allow a"]), Action::Allow);
    assert_eq!(one.mode(), Mode::Enforcing);
}

#[test]
fn a_domain_set_matches_like_rules_do() {
    let set =
        DomainSet::new(&["metadata.internal", " *.cluster.local", "Foo.Example.Com"]).unwrap();
    assert_eq!(
        set.patterns(),
        ["metadata.internal", "*.cluster.local", "Foo.Example.Com"]
    );
    for name in [
        "metadata.internal",
        "METADATA.internal.",
        "a.b.cluster.local",
        "foo.example.com",
    ] {
        assert!(set.contains(name), "{name}");
    }
    for name in ["a.metadata.internal", "cluster.local", "", "."] {
        assert!(!set.contains(name), "{name}");
    }
    assert!(!DomainSet::default().contains("a"));
    assert!(!DomainSet::new(&["", " "]).unwrap().contains("a"));
    let refused = DomainSet::new(&["10.0.0.0/8"]).unwrap_err().to_string();
    assert_eq!(
        refused,
        "\"10.0.0.0/8\" is not a domain pattern; only host/domain entries are supported"
    );
}

/// What the index must agree with: the rules one after the other, label by label.
fn judge_one_by_one(always: &AlwaysRules, user: &Policy, name: &str) -> Verdict {
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    let matches = |rule: &Rule| match rule.target() {
        Target::Network(_) => false,
        Target::Name(exact) => !name.is_empty() && **exact == *name,
        Target::Below(parent) => name.ends_with(&format!(".{parent}")),
    };
    let operator = always.deny.iter().chain(&always.allow);
    if let Some(rule) = operator.clone().find(|rule| matches(rule)) {
        let (action, reason) = (rule.action(), Reason::Always);
        return Verdict { action, reason };
    }
    if let Some(rule) = user.rules().iter().find(|rule| matches(rule)) {
        let (action, reason) = (rule.action(), Reason::Rule);
        return Verdict { action, reason };
    }
    let (action, reason) = (user.default_action(), Reason::Default);
    Verdict { action, reason }
}

fn any_action() -> impl Strategy<Value = Action> {
    prop_oneof![Just(Action::Allow), Just(Action::Deny)]
}

/// Names over so few labels that rules and queries meet.
fn any_name() -> impl Strategy<Value = String> {
    vec("[abAB]{1,2}|com", 1..5).prop_map(|labels| labels.join("."))
}

fn any_network() -> impl Strategy<Value = Network> {
    prop_oneof![
        (0_u32..8, 0_u32..4, 24_u8..=32).prop_map(|(a, b, len)| {
            Network::new(IpAddr::from((0x0a00_0000 | b << 8 | a).to_be_bytes()), len).unwrap()
        }),
        (0_u128..8, 0_u128..4, 108_u8..=128).prop_map(|(a, b, len)| {
            Network::new(
                IpAddr::from((0xfd00 << 112 | b << 16 | a).to_be_bytes()),
                len,
            )
            .unwrap()
        }),
    ]
}

fn any_target() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => any_name(),
        4 => any_name().prop_map(|name| format!("*.{name}")),
        1 => any_name().prop_map(|name| format!("{name}.")),
        2 => any_network().prop_map(|network| network.to_string()),
        1 => "\\PC{0,4}[a-z*]\\PC{0,4}",
    ]
}

fn any_rule() -> impl Strategy<Value = Rule> {
    (any_action(), any_target()).prop_map(|(action, target)| Rule::new(action, &target).unwrap())
}

fn any_policy() -> impl Strategy<Value = Policy> {
    (vec(any_rule(), 0..24), any_action()).prop_map(|(rules, default)| Policy::new(rules, default))
}

proptest! {
    #[test]
    fn the_index_agrees_with_reading_the_rules_in_order(
        deny in vec(any_rule(), 0..4),
        allow in vec(any_rule(), 0..4),
        user in any_policy(),
        names in vec(any_name(), 16),
    ) {
        let always = AlwaysRules { deny, allow };
        let effective = Effective::compile(&always, &user, 7);
        prop_assert_eq!(effective.generation, 7);
        for name in names {
            prop_assert_eq!(
                effective.evaluate(&name),
                judge_one_by_one(&always, &user, &name),
                "{}", name
            );
        }
    }

    #[test]
    fn what_is_written_reads_the_same(policy in any_policy()) {
        prop_assert_eq!(&Policy::parse(&policy.to_file().unwrap()).unwrap(), &policy);
        prop_assert_eq!(&Policy::parse(&serde_json::to_vec(&policy).unwrap()).unwrap(), &policy);
    }

    #[test]
    fn a_merge_is_idempotent_and_judges_as_patch_before_base(
        base in any_policy(),
        patch in vec(any_rule(), 0..8),
        name in any_name(),
    ) {
        let merged = base.merged(patch.clone());
        prop_assert_eq!(&merged.merged(patch.clone()), &merged);
        prop_assert_eq!(merged.default_action(), base.default_action());
        let concatenated = patch.into_iter().chain(base.rules().iter().cloned()).collect();
        let reference = Policy::new(concatenated, base.default_action());
        prop_assert_eq!(compile(&merged).evaluate(&name), compile(&reference).evaluate(&name));
        let targets: HashSet<_> = merged.rules().iter().map(Rule::target).collect();
        prop_assert_eq!(targets.len(), merged.rules().len());
    }

    #[test]
    fn a_removal_takes_all_of_a_target_and_nothing_else(
        base in any_policy(),
        targets in vec(any_target(), 0..6),
    ) {
        let (kept, removed) = base.without(&targets);
        prop_assert_eq!(kept.rules().len() + removed.len(), base.rules().len());
        let named: HashSet<_> = targets.iter().map(|text| Target::parse(text.trim())).collect();
        prop_assert!(kept.rules().iter().all(|rule| !named.contains(rule.target())));
        prop_assert!(removed.iter().all(|rule| named.contains(rule.target())));
        let (again, none) = kept.without(&targets);
        prop_assert_eq!(&again, &kept);
        prop_assert!(none.is_empty());
    }

    #[test]
    fn a_network_set_covers_what_its_networks_cover(
        networks in vec(any_network(), 0..24),
        probes in vec(any_network(), 24),
    ) {
        let set: NetworkSet = networks.iter().copied().collect();
        let again: NetworkSet = set.as_slice().iter().copied().collect();
        prop_assert_eq!(&again, &set);
        for probe in probes.iter().flat_map(|network| [network.address(), network.last()]) {
            let covered = networks.iter().any(|network| network.contains(probe));
            prop_assert_eq!(set.contains(probe), covered, "{}", probe);
        }
        for pair in set.as_slice().windows(2) {
            prop_assert!(pair[0].last() < pair[1].address());
        }
        prop_assert_eq!(set.v4().len() + set.v6().len(), set.as_slice().len());
    }

    #[test]
    fn no_document_is_a_panic(document in vec(any::<u8>(), 0..256)) {
        if let Ok(policy) = Policy::parse(&document) {
            let expected = judge_one_by_one(&AlwaysRules::default(), &policy, "a.test");
            prop_assert_eq!(compile(&policy).evaluate("a.test"), expected);
        }
    }

    #[test]
    fn what_is_compared_is_lower_case_without_a_trailing_dot(text in "\\PC*") {
        if let Target::Name(name) | Target::Below(name) = Target::parse(&text) {
            prop_assert!(!name.bytes().any(|octet| octet.is_ascii_uppercase()));
            prop_assert!(!name.ends_with('.') || text.ends_with(".."));
        }
    }
}
