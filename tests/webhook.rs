//! The deny webhook against a real endpoint that misbehaves as scripted.

use std::io::Write;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use opensandbox::egress::webhook::{QUEUE, Schedule, Settings, Tally, Target, Webhook};
use opensandbox::http::connect::Connector;
use opensandbox::http::resolve::{LiteralOnly, Resolve, Resolving};
use opensandbox::runtime::Runtime;
use slog::Drain as _;
use support::http::{Endpoint, Reply};

/// More than any delivery of these tests takes.
const AMPLE: Duration = Duration::from_secs(30);

/// What the webhook logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn logger(&self) -> slog::Logger {
        let drain = Mutex::new(slog_json::Json::default(self.clone()));
        slog::Logger::root(drain.map(slog::Fuse), slog::o!())
    }

    fn lines(&self) -> Vec<serde_json::Value> {
        let text = self.0.lock().expect("the log");
        let lines = text.split(|byte| *byte == b'\n');
        let lines = lines.filter(|line| !line.is_empty());
        lines
            .map(|line| serde_json::from_slice(line).expect("JSON"))
            .collect()
    }

    fn messages(&self) -> Vec<String> {
        let lines = self.lines();
        let messages = lines.iter().filter_map(|line| line["msg"].as_str());
        messages.map(str::to_owned).collect()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("the log").write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A runtime with a second thread, so that the test itself may block.
fn runtime() -> Runtime {
    Runtime::new(NonZeroUsize::new(2).expect("not zero")).expect("a runtime")
}

fn settings(url: &str) -> Settings {
    Settings {
        target: Target::parse(url).expect("a target"),
        sandbox: "sb1".to_owned(),
        schedule: Schedule {
            attempt: AMPLE,
            back_off: [1, 2, 4].map(Duration::from_millis),
        },
    }
}

fn start(runtime: &Runtime, settings: Settings, log: &Log) -> Webhook {
    let connector = Connector::new(LiteralOnly);
    Webhook::start(settings, connector, &runtime.spawner(), log.logger())
}

fn url(endpoint: &Endpoint) -> String {
    format!("http://{}/deny?secret=s3cret", endpoint.address())
}

#[test]
fn each_denial_is_one_post_in_order() {
    let (runtime, endpoint, log) = (runtime(), Endpoint::start(), Log::default());
    let webhook = start(&runtime, settings(&url(&endpoint)), &log);
    let publisher = webhook.publisher();
    publisher.denied("evil.test");
    publisher.denied("");
    publisher.denied("evil.test");
    let requests = endpoint.wait_for(2);
    for request in &requests {
        assert_eq!(request.line, "POST /deny?secret=s3cret");
        assert_eq!(request.header("content-type"), Some("application/json"));
        let address = endpoint.address().to_string();
        assert_eq!(request.header("host"), Some(address.as_str()));
        let (start, rest) = request.body.split_at(37);
        assert_eq!(start, r#"{"hostname":"evil.test","timestamp":""#);
        let (timestamp, end) = rest.split_at(20);
        assert!(
            timestamp.ends_with('Z') && !timestamp.contains('.'),
            "{timestamp}"
        );
        assert_eq!(end, r#"","source":"opensandbox-egress","sandboxId":"sb1"}"#);
    }
    let tally = runtime.block_on(webhook.finish(AMPLE));
    let delivered = Tally {
        delivered: 2,
        ..Tally::default()
    };
    assert_eq!(tally, delivered);
    assert_eq!(log.messages(), Vec::<String>::new());
}

#[test]
fn trouble_is_retried_until_it_passes() {
    let (runtime, endpoint, log) = (runtime(), Endpoint::start(), Log::default());
    endpoint.script([Reply::status(500), Reply::Close, Reply::Hang]);
    let mut brief = settings(&url(&endpoint));
    brief.schedule.attempt = Duration::from_secs(1);
    let webhook = start(&runtime, brief, &log);
    webhook.publisher().denied("evil.test");
    let requests = endpoint.wait_for(4);
    assert!(
        requests
            .iter()
            .all(|request| request.body == requests[0].body)
    );
    let tally = runtime.block_on(webhook.finish(AMPLE));
    assert_eq!((tally.delivered, tally.failed), (1, 0));
}

#[test]
fn four_attempts_are_all_and_an_outage_is_two_lines() {
    let (runtime, endpoint, log) = (runtime(), Endpoint::start(), Log::default());
    endpoint.script(std::iter::repeat_n(Reply::status(503), 8));
    let webhook = start(&runtime, settings(&url(&endpoint)), &log);
    for hostname in ["a.test", "b.test", "c.test"] {
        webhook.publisher().denied(hostname);
    }
    assert_eq!(endpoint.wait_for(9).len(), 9);
    let tally = runtime.block_on(webhook.finish(AMPLE));
    assert_eq!((tally.delivered, tally.failed), (1, 2));
    assert_eq!(
        log.messages(),
        [
            "deny webhook failed; denials are not told",
            "deny webhook delivers again",
            "denials were not told to the deny webhook"
        ]
    );
    assert_eq!(log.lines()[0]["error"], "status 503");
    assert_eq!(log.lines()[1]["lost"], 2);
    let text = format!("{:?}", log.lines());
    assert!(!text.contains("s3cret"), "the address is a secret: {text}");
}

#[test]
fn refusals_and_redirects_are_not_retried_nor_followed() {
    let (runtime, endpoint, log) = (runtime(), Endpoint::start(), Log::default());
    let elsewhere = Endpoint::start();
    let location = format!("Location: http://{}/", elsewhere.address());
    endpoint.script([
        Reply::Status(307, vec![location], String::new()),
        Reply::status(404),
    ]);
    let webhook = start(&runtime, settings(&url(&endpoint)), &log);
    for hostname in ["a.test", "b.test", "c.test"] {
        webhook.publisher().denied(hostname);
    }
    assert_eq!(endpoint.wait_for(3).len(), 3);
    let tally = runtime.block_on(webhook.finish(AMPLE));
    assert_eq!((tally.delivered, tally.failed), (1, 2));
    assert_eq!(elsewhere.requests(), []);
    assert_eq!(log.lines()[0]["error"], "non-retriable status 307");
}

#[test]
fn a_dead_endpoint_fills_the_queue_and_every_loss_is_counted() {
    let (runtime, log) = (runtime(), Log::default());
    // Nothing listens on the discard port of an address no other test uses.
    let mut dead = settings("http://127.0.0.77:9/");
    dead.schedule.back_off = [Duration::from_secs(3600); 3];
    let webhook = start(&runtime, dead, &log);
    let publisher = webhook.publisher();
    let offered = 2 * QUEUE as u64;
    for number in 0..offered {
        publisher.denied(&format!("{number}.test"));
    }
    let tally = webhook.tally();
    // One may be in the worker's hands, the rest waits in the queue.
    assert!(tally.pending <= QUEUE as u64 + 1, "{tally:?}");
    assert_eq!(tally.pending + tally.overflowed, offered);
    // The end interrupts the back-off; each of the rest is refused once.
    let tally = runtime.block_on(webhook.finish(AMPLE));
    assert_eq!((tally.delivered, tally.pending), (0, 0));
    assert_eq!(tally.failed + tally.overflowed, offered);
    let full = "deny webhook queue full; dropping denials".to_owned();
    let lines = log.messages();
    // Once more, if the worker took its one after the queue was full.
    let told = lines.iter().filter(|line| **line == full).count();
    assert!((1..=2).contains(&told), "{lines:?}");
    assert_eq!(log.lines().last().expect("a line")["lost"], offered);
}

#[test]
fn the_end_waits_no_longer_than_it_may() {
    let (runtime, endpoint, log) = (runtime(), Endpoint::start(), Log::default());
    endpoint.script([Reply::Hang]);
    let mut patient = settings(&url(&endpoint));
    patient.schedule.attempt = Duration::from_secs(3600);
    let webhook = start(&runtime, patient, &log);
    webhook.publisher().denied("a.test");
    webhook.publisher().denied("b.test");
    let _hanging = endpoint.wait_for(1);
    let tally = runtime.block_on(webhook.finish(Duration::from_millis(50)));
    assert_eq!(tally.pending, 2);
    assert_eq!(log.lines()[0]["pending"], 2);
}

/// Knows one name, and has two addresses for it.
struct Upstream;

impl Resolve for Upstream {
    fn resolve<'a>(&'a self, host: &'a str) -> Resolving<'a> {
        assert_eq!(host, "hook.test");
        let addresses = ["127.0.0.2", "127.0.0.1"].map(|text| text.parse().expect("an address"));
        Box::pin(std::future::ready(Ok(addresses.to_vec())))
    }
}

#[test]
fn names_go_to_the_given_resolver_and_a_dead_address_to_the_next() {
    let (runtime, endpoint, log) = (runtime(), Endpoint::start(), Log::default());
    let marked = Arc::new(Mutex::new(0));
    let seen = marked.clone();
    let connector = Connector::new(Upstream).socket_hook(move |_| {
        *seen.lock().expect("the count") += 1;
        Ok(())
    });
    let port = endpoint.address().port();
    let settings = settings(&format!("http://hook.test:{port}/"));
    let webhook = Webhook::start(settings, connector, &runtime.spawner(), log.logger());
    webhook.publisher().denied("evil.test");
    assert_eq!(
        endpoint.wait_for(1)[0].header("host"),
        Some(format!("hook.test:{port}").as_str())
    );
    let tally = runtime.block_on(webhook.finish(AMPLE));
    assert_eq!(tally.delivered, 1);
    assert_eq!(
        *marked.lock().expect("the count"),
        2,
        "every socket was shown to the hook"
    );
}
