//! The logger from outside: what reaches its outputs, what happens when they do not take it, and
//! what becomes of a record on its way to OTLP.

use std::fmt;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use opensandbox::telemetry::export::account::Account;
use opensandbox::telemetry::export::queue::{Batch, Limits, Queue, Sink};
use opensandbox::telemetry::log::{
    self, Destination, EVENT_KEY, LogConfig, LogGuard, QUEUE_RECORDS, Reason, Threshold,
};
use opensandbox::telemetry::trace_context::TraceContext;
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ScopeLogs, SeverityNumber};
use prost::Message as _;
use serde_json::{Value, json};
use slog::{Drain, KV, Logger, Record, Serializer, debug, error, info, o, warn};

/// Far beyond what any of these tests needs to write.
const PATIENCE: Duration = Duration::from_secs(30);

fn config(outputs: &[&Path]) -> LogConfig {
    LogConfig {
        name: "opensandbox.test",
        threshold: Threshold::Info,
        destinations: outputs
            .iter()
            .map(|path| Destination::File(path.to_path_buf()))
            .collect(),
        baseline: vec![("sandbox_id".to_owned(), "sb-abc".to_owned())],
    }
}

fn build(outputs: &[&Path]) -> (Logger, LogGuard) {
    log::build(&config(outputs)).unwrap()
}

/// The lines of a log, each of which must be an object with the fields of every record.
fn lines(path: &Path) -> Vec<Value> {
    fs::read_to_string(path)
        .unwrap()
        .lines()
        .map(parse)
        .collect()
}

fn parse(line: &str) -> Value {
    let value: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    let keys: Vec<_> = value.as_object().unwrap().keys().take(5).collect();
    assert_eq!(
        keys,
        ["level", "ts", "logger", "msg", "sandbox_id"],
        "{line}"
    );
    value
}

/// A named pipe and the end it is read from.
fn pipe(directory: &Path) -> (PathBuf, fs::File) {
    let path = directory.join("pipe");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &path,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RWXU,
        0,
    )
    .unwrap();
    let reader = fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(&path)
        .unwrap();
    rustix::fs::fcntl_setfl(&reader, rustix::fs::OFlags::empty()).unwrap();
    (path, reader)
}

struct Happened<'a> {
    host: &'a str,
}

impl KV for Happened<'_> {
    fn serialize(&self, _: &Record<'_>, serializer: &mut dyn Serializer) -> slog::Result {
        serializer.emit_str(EVENT_KEY.into(), "test.happened")?;
        serializer.emit_str("target.host".into(), self.host)?;
        serializer.emit_serde(
            "target.ips".into(),
            &slog::Serde(vec!["192.0.2.1", "192.0.2.2"]),
        )?;
        serializer.emit_u64("count".into(), 3)
    }
}

#[test]
fn records_reach_every_output_before_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let (one, other) = (
        directory.path().join("a.log"),
        directory.path().join("b.log"),
    );
    let (logger, guard) = build(&[&one, &other]);
    info!(logger, "ready on {}", 8080; "port" => 8080);
    let child = logger.new(o!("request" => "r-1"));
    warn!(child, "event"; &Happened { host: "a.test" });
    assert_eq!(guard.close(PATIENCE), 0);

    let text = fs::read_to_string(&one).unwrap();
    assert_eq!(text, fs::read_to_string(&other).unwrap());
    let ends: Vec<_> = text
        .lines()
        .map(|line| line.split_once("\"logger\":").unwrap().1)
        .collect();
    assert_eq!(
        ends,
        [
            "\"opensandbox.test\",\"msg\":\"ready on 8080\",\"sandbox_id\":\"sb-abc\",\"port\":8080}",
            "\"opensandbox.test\",\"msg\":\"event\",\"sandbox_id\":\"sb-abc\",\"request\":\"r-1\",\
             \"opensandbox.event\":\"test.happened\",\"target.host\":\"a.test\",\
             \"target.ips\":[\"192.0.2.1\",\"192.0.2.2\"],\"count\":3}",
        ]
    );
}

#[test]
fn what_is_logged_after_the_end_is_counted() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.log");
    let (logger, guard) = build(&[&path]);
    let dropped = guard.dropped();
    drop(guard);
    info!(logger, "late");
    assert_eq!(dropped.count(Reason::Shutdown), 1);
    assert!(lines(&path).is_empty());
}

#[test]
fn the_level_changes_at_run_time_and_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.log");
    let (logger, guard) = build(&[&path]);
    let level = guard.level();
    debug!(logger, "too early");
    level.raise();
    assert_eq!(level.threshold(), Threshold::Debug);
    debug!(logger, "in time");
    for _ in 0..4 {
        level.lower();
    }
    assert_eq!(level.threshold(), Threshold::Silent);
    assert!(!logger.is_enabled(slog::Level::Critical));
    error!(logger, "too late");
    guard.close(PATIENCE);
    let messages: Vec<_> = lines(&path)
        .into_iter()
        .map(|line| line["msg"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(
        messages,
        [
            "log level is now debug",
            "in time",
            "log level is now info",
            "log level is now warn",
            "log level is now error",
            "log level is now fatal",
        ]
    );
}

#[test]
fn a_reader_that_stops_costs_records_and_nothing_else() {
    const RECORDS: usize = QUEUE_RECORDS * 2;
    let directory = tempfile::tempdir().unwrap();
    let (path, reader) = pipe(directory.path());
    let (logger, guard) = build(&[&path]);
    let dropped = guard.dropped();
    for number in 0..RECORDS {
        info!(logger, "record"; "number" => number);
    }
    let full = dropped.count(Reason::QueueFull);
    assert!(full > 0 && full < RECORDS as u64, "{full}");
    // Nobody reads, so this ends at the bound; what was queued is lost and counted.
    let lost = guard.close(Duration::from_millis(100));
    assert!(dropped.count(Reason::Shutdown) > 0);
    assert!(lost <= RECORDS as u64, "no record is lost twice");
    drop(reader);
}

#[test]
fn a_reader_that_comes_back_is_told_what_it_missed() {
    const RECORDS: u64 = QUEUE_RECORDS as u64 * 2;
    let directory = tempfile::tempdir().unwrap();
    let (path, reader) = pipe(directory.path());
    let (logger, guard) = build(&[&path]);
    for number in 0..RECORDS {
        info!(logger, "record"; "number" => number);
    }
    let dropped = guard.dropped();
    let lost = dropped.total();
    let reading = std::thread::spawn(move || {
        let (mut arrived, mut told) = (0, 0);
        for line in BufReader::new(reader).lines() {
            let line = parse(&line.unwrap());
            if line["msg"] == "log records dropped" {
                assert_eq!(line["level"], "warn");
                assert_eq!(line["reason"], "queue_full");
                told += line["count"].as_u64().unwrap();
            } else {
                arrived += 1;
            }
        }
        (arrived, told)
    });
    assert!(guard.flush(PATIENCE));
    assert_eq!(guard.close(PATIENCE), lost);
    drop(logger);
    assert_eq!(reading.join().unwrap(), (RECORDS - lost, lost));
}

#[test]
fn a_reader_that_leaves_is_not_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let (path, reader) = pipe(directory.path());
    let file = directory.path().join("a.log");
    let (logger, guard) = build(&[&path, &file]);
    drop(reader);
    info!(logger, "nobody hears this");
    let dropped = guard.dropped();
    guard.close(PATIENCE);
    assert_eq!(dropped.count(Reason::OutputClosed), 1);
    assert_eq!(lines(&file).len(), 1);
}

#[test]
fn a_full_disk_is_told_to_the_other_output() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("a.log");
    let (logger, guard) = build(&[Path::new("/dev/full"), &file]);
    for number in 0..3 {
        info!(logger, "record"; "number" => number);
        assert!(guard.flush(PATIENCE));
    }
    let dropped = guard.dropped();
    guard.close(PATIENCE);
    assert_eq!(dropped.count(Reason::WriteFailed), 3);
    let failures: Vec<_> = lines(&file)
        .into_iter()
        .filter(|line| line["level"] == "error")
        .collect();
    assert_eq!(failures.len(), 1, "told once: {failures:?}");
    assert_eq!(failures[0]["output"], "/dev/full");
    let message = failures[0]["msg"].as_str().unwrap();
    assert!(
        message.starts_with("log output failed: No space left"),
        "{message}"
    );
}

#[test]
fn a_directory_that_vanishes_is_survived_and_told_of() {
    let directory = tempfile::tempdir().unwrap();
    let inner = directory.path().join("logs");
    fs::create_dir(&inner).unwrap();
    let path = inner.join("a.log");
    let (logger, guard) = build(&[&path]);
    let dropped = guard.dropped();
    info!(logger, "before");
    assert!(guard.flush(PATIENCE));
    fs::remove_dir_all(&inner).unwrap();
    // The path is compared with the open file once a second, and again when a write is due.
    while dropped.count(Reason::WriteFailed) == 0 {
        info!(logger, "lost");
        assert!(guard.flush(PATIENCE));
        std::thread::sleep(Duration::from_millis(50));
    }
    fs::create_dir(&inner).unwrap();
    info!(logger, "after");
    let lost = guard.close(PATIENCE);
    let lines = lines(&path);
    assert_eq!(lines[0]["msg"], "after");
    assert_eq!(lines[1]["msg"], "log records dropped");
    assert_eq!(lines[1]["reason"], "write_failed");
    assert_eq!(lines[1]["count"], lost);
}

#[test]
fn an_output_that_cannot_be_opened_is_named() {
    let path = Path::new("/nonexistent/egress.log");
    let error = log::build(&config(&[path])).err().unwrap().to_string();
    assert_eq!(
        error,
        "cannot open log output \"/nonexistent/egress.log\": No such file or directory (os error 2)"
    );
    assert!(log::build(&config(&[Path::new("/")])).is_err());
    let directory = tempfile::tempdir().unwrap();
    let (path, reader) = pipe(directory.path());
    drop(reader);
    assert!(
        log::build(&config(&[&path])).is_err(),
        "a pipe nobody reads must not hang"
    );
}

#[test]
fn many_threads_never_tear_a_line() {
    const THREADS: u64 = 4;
    const RECORDS: u64 = 5000;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.log");
    let (logger, guard) = build(&[&path]);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let logger = logger.new(o!("thread" => thread));
            scope.spawn(move || {
                for number in 0..RECORDS {
                    info!(logger, "record"; "number" => number, "text" => "x".repeat(number as usize % 300));
                }
            });
        }
    });
    let lost = guard.close(PATIENCE);
    let mut next = [0; THREADS as usize];
    let mut records = 0;
    for line in lines(&path).iter().filter(|line| line["msg"] == "record") {
        let expected = &mut next[line["thread"].as_u64().unwrap() as usize];
        let number = line["number"].as_u64().unwrap();
        assert!(number >= *expected, "a thread's records keep their order");
        *expected = number + 1;
        records += 1;
    }
    assert_eq!(records + lost, THREADS * RECORDS);
}

/// Logs while it is being logged.
struct Talkative<'a>(&'a Logger);

impl fmt::Display for Talkative<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        info!(self.0, "inner {}", 1);
        f.write_str("done")
    }
}

#[test]
fn a_value_may_log_and_a_panic_in_one_breaks_nothing() {
    struct Panics;
    impl fmt::Display for Panics {
        fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
            panic!("a value of the test panics on purpose");
        }
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.log");
    let (logger, guard) = build(&[&path]);
    info!(logger, "outer {}", Talkative(&logger); "value" => %Talkative(&logger));
    let panicked = std::panic::catch_unwind(|| info!(logger, "never {}", Panics));
    assert!(panicked.is_err());
    info!(logger, "still here");
    guard.close(PATIENCE);
    let messages: Vec<_> = lines(&path)
        .into_iter()
        .map(|line| line["msg"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(messages, ["inner 1", "inner 1", "outer done", "still here"]);
}

#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<LogRecord>>>);

impl Sink for Captured {
    fn export(&mut self, batch: &Batch) {
        let records = ScopeLogs::decode(batch.bytes.as_slice())
            .unwrap()
            .log_records;
        assert_eq!(records.len(), batch.records);
        self.0.lock().unwrap().extend(records);
    }
}

/// The attributes of a record, values in the JSON of the protocol.
fn attributes(record: &LogRecord) -> Vec<(&str, Value)> {
    record
        .attributes
        .iter()
        .map(|attribute| {
            let value = serde_json::to_value(&attribute.value).unwrap();
            (attribute.key.as_str(), value)
        })
        .collect()
}

fn text(text: &str) -> Value {
    json!({"stringValue": text})
}

#[test]
fn an_otlp_record_keeps_the_types_and_the_trace() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.log");
    let (logger, guard) = build(&[&path]);
    let captured = Captured::default();
    let account = Account::new("log records", &guard.local());
    let limits = Limits {
        queue: 10,
        batch: 10,
        delay: Duration::ZERO,
    };
    let queue = Queue::start(captured.clone(), limits, Arc::new(account)).unwrap();
    info!(logger, "before there was an exporter");
    guard.export_to(vec![queue.clone()]);

    let mut headers = http::HeaderMap::new();
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    headers.insert("traceparent", parent.parse().unwrap());
    let traced = TraceContext::from_headers(&headers).logger(&logger);
    warn!(traced, "event"; &Happened { host: "a.test" });
    info!(logger, "plain {}", 1;
        "int" => -1, "float" => 1.5, "bool" => true, "none" => None::<u8>, "big" => u64::MAX,
        "map" => slog::Serde(serde_json::json!({"a": [1, null, "x"]})),
        "sandbox_id" => "not mine to say", "int" => 2);
    info!(guard.local(), "about the export itself");
    debug!(logger, "below the threshold");
    guard.close(PATIENCE);
    assert!(queue.flush(PATIENCE));

    let captured = captured.0.lock().unwrap();
    assert_eq!(captured.len(), 2);
    let event = &captured[0];
    assert_eq!(event.event_name, "test.happened");
    assert_eq!(serde_json::to_value(&event.body).unwrap(), text("event"));
    assert_eq!(event.severity_number(), SeverityNumber::Warn);
    assert_eq!(event.severity_text, "warn");
    assert!(event.time_unix_nano > 0 && event.observed_time_unix_nano > 0);
    assert_eq!(&event.trace_id[..4], b"\x4b\xf9\x2f\x35");
    assert_eq!(event.span_id, b"\x00\xf0\x67\xaa\x0b\xa9\x02\xb7");
    assert_eq!(event.flags, 1);
    let addresses = json!({"arrayValue": {"values": [text("192.0.2.1"), text("192.0.2.2")]}});
    assert_eq!(
        attributes(event),
        [
            ("sandbox_id", text("sb-abc")),
            (EVENT_KEY, text("test.happened")),
            ("target.host", text("a.test")),
            ("target.ips", addresses),
            ("count", json!({"intValue": "3"})),
        ]
    );
    let plain = &captured[1];
    assert_eq!(plain.event_name, "");
    assert!(plain.trace_id.is_empty() && plain.span_id.is_empty());
    assert_eq!(serde_json::to_value(&plain.body).unwrap(), text("plain 1"));
    let list = json!({"arrayValue": {"values": [{"intValue": "1"}, text("x")]}});
    let map = json!({"kvlistValue": {"values": [{"key": "a", "value": list}]}});
    assert_eq!(
        attributes(plain),
        [
            ("sandbox_id", text("sb-abc")),
            ("int", json!({"intValue": "-1"})),
            ("float", json!({"doubleValue": 1.5})),
            ("bool", json!({"boolValue": true})),
            ("big", text("18446744073709551615")),
            ("map", map),
        ]
    );

    let lines = lines(&path);
    assert_eq!(lines.len(), 4);
    assert_eq!(lines[1]["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!(lines[1]["span_id"], "00f067aa0ba902b7");
    assert_eq!(lines[1].get("trace_flags"), None);
    let keys: Vec<_> = lines[1].as_object().unwrap().keys().skip(5).collect();
    assert_eq!(
        keys,
        [
            "trace_id",
            "span_id",
            EVENT_KEY,
            "target.host",
            "target.ips",
            "count"
        ]
    );
}
