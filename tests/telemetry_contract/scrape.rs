//! The scrape endpoint of the real daemon, read as strictly as a Prometheus server reads it, and
//! by Debian's Prometheus itself.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use opensandbox::telemetry::prometheus::name_of;
use serde_json::Value;
use support::Daemon;
use support::egress::Place;
use support::http::get;
use support::sdk;

use crate::daemon::{PATIENCE, egress, traffic};
use crate::registry::rows_of;

/// One line with a value.
#[derive(Debug)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

/// The families of a scrape by name, each with its type and its samples.
type Families = BTreeMap<String, (String, Vec<Sample>)>;

fn is_name(text: &str, colons: bool) -> bool {
    let mut characters = text.chars();
    let first = |c: char| c.is_ascii_alphabetic() || c == '_' || (colons && c == ':');
    characters.next().is_some_and(first) && characters.all(|c| first(c) || c.is_ascii_digit())
}

/// `name{key="value",...} number`, with the escapes of the format.
fn sample(line: &str) -> Option<Sample> {
    let end = line.find(['{', ' '])?;
    let (name, rest) = line.split_at(end);
    let mut labels = BTreeMap::new();
    let value = match rest.strip_prefix('{') {
        None => rest.strip_prefix(' ')?,
        Some(mut rest) => loop {
            if let Some(value) = rest.strip_prefix("} ") {
                break value;
            }
            let (key, after) = rest.split_once("=\"")?;
            let mut value = String::new();
            let mut characters = after.char_indices();
            let end = loop {
                match characters.next()? {
                    (at, '"') => break at,
                    (_, '\\') => value.push(match characters.next()?.1 {
                        'n' => '\n',
                        c @ ('\\' | '"') => c,
                        _ => return None,
                    }),
                    (_, c) => value.push(c),
                }
            };
            if !is_name(key, false) || labels.insert(key.to_owned(), value).is_some() {
                return None;
            }
            rest = &after[end + 1..];
            rest = rest.strip_prefix(',').unwrap_or(rest);
        },
    };
    is_name(name, true).then_some(Sample {
        name: name.to_owned(),
        labels,
        value: value.parse().ok()?,
    })
}

/// Parses a scrape; every family has help and a type before its samples, and comes once.
fn parse(text: &str) -> Families {
    let mut families = Families::new();
    let mut current = String::new();
    let mut helped = BTreeSet::new();
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').unwrap_or_else(|| panic!("{line}"));
            assert!(!help.is_empty() && helped.insert(name.to_owned()), "{line}");
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap_or_else(|| panic!("{line}"));
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!(helped.contains(name), "no help: {line}");
            let earlier = families.insert(name.to_owned(), (kind.to_owned(), Vec::new()));
            assert!(earlier.is_none(), "twice: {line}");
            name.clone_into(&mut current);
        } else {
            let sample = sample(line).unwrap_or_else(|| panic!("not a sample: {line}"));
            let (kind, samples) = families
                .get_mut(&current)
                .unwrap_or_else(|| panic!("before any type: {line}"));
            let suffix = sample.name.strip_prefix(&current);
            let allowed: &[&str] = match kind.as_str() {
                "histogram" => &["_bucket", "_sum", "_count"],
                _ => &[""],
            };
            assert!(
                suffix.is_some_and(|suffix| allowed.contains(&suffix)),
                "{line}"
            );
            samples.push(sample);
        }
    }
    families
}

fn assert_consistent(families: &Families) {
    for (name, (kind, samples)) in families {
        assert!(!samples.is_empty(), "{name}");
        let mut series = BTreeSet::new();
        for sample in samples {
            let key = format!("{} {:?}", sample.name, sample.labels);
            assert!(series.insert(key), "twice: {sample:?}");
        }
        assert_eq!(
            kind == "counter",
            name.ends_with("_total"),
            "{name}: {kind}"
        );
        assert!(!name.contains("_total_total"), "{name}");
        if kind == "counter" {
            assert!(samples.iter().all(|sample| sample.value >= 0.), "{name}");
        }
        if kind == "histogram" {
            assert_histogram(name, samples);
        }
    }
}

/// Buckets grow with their bound, and the infinite one is the count.
fn assert_histogram(name: &str, samples: &[Sample]) {
    let mut buckets = BTreeMap::<_, Vec<(f64, f64)>>::new();
    let mut counts = BTreeMap::new();
    for sample in samples {
        let mut labels = sample.labels.clone();
        let bound = labels.remove("le");
        let labels = format!("{labels:?}");
        if let Some(bound) = bound {
            let bound = bound.parse().expect("a number");
            buckets
                .entry(labels)
                .or_default()
                .push((bound, sample.value));
        } else if sample.name.ends_with("_count") {
            counts.insert(labels, sample.value);
        }
    }
    assert_eq!(buckets.len(), counts.len(), "{name}");
    for (labels, buckets) in buckets {
        for pair in buckets.windows(2) {
            assert!(
                pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1,
                "{name}{labels}"
            );
        }
        assert_eq!(
            buckets.last(),
            Some(&(f64::INFINITY, counts[&labels])),
            "{name}"
        );
    }
}

fn assert_promtool_agrees(text: &str) {
    let Some(directory) = sdk::prometheus() else {
        return;
    };
    let mut promtool = Command::new(directory.join("promtool"))
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool runs");
    let mut input = promtool.stdin.take().expect("a pipe");
    input.write_all(text.as_bytes()).expect("promtool reads");
    drop(input);
    let output = promtool.wait_with_output().expect("promtool ends");
    let said = String::from_utf8_lossy(&output.stderr);
    // Exit code 3: it can be read, and the linter would have named something otherwise. Names and
    // units are the contract's.
    assert!(
        matches!(output.status.code(), Some(0 | 3)),
        "{said}\n{text}"
    );
}

/// A Prometheus that scrapes one target every second; ended when dropped.
struct Prometheus {
    process: Child,
    address: SocketAddr,
    _directory: tempfile::TempDir,
}

impl Prometheus {
    /// In the namespace of the caller; `None` where there is no Prometheus.
    fn scraping(target: SocketAddr) -> Option<Self> {
        let program = sdk::prometheus()?.join("prometheus");
        let directory = tempfile::tempdir().expect("a directory");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, support::free_port()));
        let config = directory.path().join("prometheus.yml");
        let text = format!(
            "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\n\
             scrape_configs: [{{job_name: egress, static_configs: [{{targets: ['{target}']}}]}}]\n"
        );
        std::fs::write(&config, text).expect("a file");
        let process = Command::new(program)
            .arg(format!("--config.file={}", config.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                directory.path().display()
            ))
            .arg(format!("--web.listen-address={address}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("Prometheus runs");
        Some(Self {
            process,
            address,
            _directory: directory,
        })
    }

    /// The first value that `query` has, once it has one.
    fn value(&self, query: &str) -> String {
        let path = format!("/api/v1/query?query={query}");
        let value = || {
            let answer = get(self.address, &path).ok()?;
            let answer: Value = serde_json::from_str(&answer.body).ok()?;
            let value = answer.pointer("/data/result/0/value/1")?.as_str()?;
            Some(value.to_owned())
        };
        let deadline = Instant::now() + PATIENCE;
        loop {
            match value() {
                Some(value) => return value,
                None => assert!(Instant::now() < deadline, "{query} has no value"),
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _gone = self.process.kill();
        let _reaped = self.process.wait();
    }
}

/// Egress after some traffic, and where it is scraped.
fn scraped(place: &Place) -> (Daemon, SocketAddr) {
    let port = place.enter(support::free_port);
    let daemon = egress(place)
        .env("OTEL_METRICS_EXPORTER", "prometheus")
        .env("OTEL_EXPORTER_PROMETHEUS_PORT", port)
        .spawn();
    traffic(place);
    (daemon, (place.api().ip(), port).into())
}

#[test]
fn a_real_prometheus_takes_all_of_it() {
    let place = Place::new();
    let (mut daemon, target) = scraped(&place);
    place.enter(|| {
        let Some(prometheus) = Prometheus::scraping(target) else {
            return;
        };
        let denied = "egress_policy_denied_total{sandbox_id=%22sb-contract%22}";
        assert_eq!(prometheus.value(denied), "1");
        assert_eq!(prometheus.value("up"), "1");
        let answered = "egress_dns_query_duration_seconds_count%20%3E%200";
        assert_ne!(prometheus.value(answered), "0");
        // A sample it refuses is left out and counted.
        let (scraped, kept) = (
            "scrape_samples_scraped",
            "scrape_samples_post_metric_relabeling",
        );
        assert_eq!(prometheus.value(scraped), prometheus.value(kept));
    });
    assert_eq!(daemon.stop().code(), Some(0));
}

#[test]
fn a_scrape_is_what_prometheus_expects() {
    let place = Place::new();
    let (mut daemon, target) = scraped(&place);
    let answer = place.enter(|| get(target, "/metrics")).expect("a scrape");
    assert_eq!(answer.status, 200);
    let content = "content-type: text/plain; version=0.0.4; charset=utf-8".to_owned();
    assert!(answer.headers.contains(&content), "{:?}", answer.headers);
    let missing = place.enter(|| get(target, "/")).expect("an answer");
    assert_eq!(missing.status, 404);
    assert_eq!(daemon.stop().code(), Some(0));

    let families = parse(&answer.body);
    assert_consistent(&families);
    assert_promtool_agrees(&answer.body);
    let value = |name: &str, with: &[(&str, &str)]| -> f64 {
        let family = families.get(name).unwrap_or_else(|| panic!("no {name}"));
        let includes = |sample: &&Sample| {
            with.iter()
                .all(|(key, value)| sample.labels.get(*key).is_some_and(|found| found == value))
        };
        family
            .1
            .iter()
            .filter(includes)
            .map(|sample| sample.value)
            .sum()
    };
    let sandbox = ("sandbox_id", "sb-contract");
    assert_eq!(value("egress_policy_denied_total", &[sandbox]), 1.);
    let request = [
        sandbox,
        ("http_method", "PATCH"),
        ("http_route", "/policy"),
        ("http_status_code", "400"),
    ];
    assert_eq!(value("egress_http_request_count_total", &request), 1.);
    assert!(value("egress_system_memory_usage_bytes", &[]) > 0.);
    assert!(families.contains_key("egress_dns_query_duration_seconds"));
    assert!(families.contains_key("egress_system_cpu_utilization_ratio"));
    // Under the names the documentation gives.
    let documented: BTreeSet<_> = rows_of("opensandbox/egress")
        .map(|(_, declared)| name_of(declared))
        .collect();
    let strangers: Vec<_> = families
        .keys()
        .filter(|name| *name != "target_info" && !documented.contains(*name))
        .collect();
    assert_eq!(strangers, Vec::<&String>::new());
    let target = families.get("target_info").expect("target_info");
    assert_eq!(target.1[0].labels["sandbox_id"], "sb-contract");
}
