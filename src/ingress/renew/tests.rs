use super::*;
use crate::ingress::metrics::Metrics;
use crate::ingress::renew::dsn::Address;
use crate::runtime::Runtime;
use crate::telemetry::instrument::Meter;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::num::NonZeroUsize;
use std::sync::{Condvar, Mutex, mpsc};

/// Answers like Redis: every command with `+OK`, or with `-ERR` while told to; and hands over what
/// it was sent.
struct Script {
    address: std::net::SocketAddr,
    commands: mpsc::Receiver<Vec<String>>,
    gate: Arc<Gate>,
}

#[derive(Default)]
struct Gate {
    state: Mutex<(bool, bool)>,
    changed: Condvar,
}

impl Gate {
    /// Lets commands be answered, or not; with an error, or not.
    fn set(&self, open: bool, failing: bool) {
        *self.state.lock().unwrap() = (open, failing);
        self.changed.notify_all();
    }

    /// Waits until commands may be answered; whether they fail.
    fn pass(&self) -> bool {
        let state = self.state.lock().unwrap();
        self.changed
            .wait_while(state, |(open, _)| !*open)
            .unwrap()
            .1
    }
}

impl Script {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (sent, commands) = mpsc::channel();
        let gate = Arc::new(Gate::default());
        gate.set(true, false);
        let passing = Arc::clone(&gate);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                serve(stream.unwrap(), &sent, &passing);
            }
        });
        Self {
            address,
            commands,
            gate,
        }
    }

    fn next(&self) -> Vec<String> {
        self.commands.recv_timeout(Duration::from_secs(30)).unwrap()
    }
}

fn serve(stream: TcpStream, sent: &mpsc::Sender<Vec<String>>, gate: &Gate) {
    stream.set_nodelay(true).unwrap();
    let mut answers = stream.try_clone().unwrap();
    let mut reader = BufReader::new(stream);
    let number = |reader: &mut BufReader<TcpStream>| {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        line.get(1..)?.trim().parse::<usize>().ok()
    };
    while let Some(words) = number(&mut reader) {
        let mut command = Vec::new();
        for _ in 0..words {
            let mut word = vec![0; number(&mut reader).unwrap() + 2];
            reader.read_exact(&mut word).unwrap();
            word.truncate(word.len() - 2);
            command.push(String::from_utf8(word).unwrap());
        }
        let _ = sent.send(command);
        let answer = if gate.pass() {
            "-ERR no\r\n"
        } else {
            "+OK\r\n"
        };
        if answers.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

struct Scene {
    renewals: Renewals,
    worker: Option<Worker>,
    redis: Script,
    runtime: Runtime,
}

impl Scene {
    fn with(min_interval: Option<Duration>) -> Self {
        let redis = Script::start();
        let mut dsn = Dsn::parse("redis://h").unwrap();
        dsn.address = Address::Tcp {
            host: redis.address.ip().to_string(),
            port: redis.address.port(),
            tls: None,
        };
        let settings = Settings {
            redis: dsn,
            queue_key: "list".to_owned(),
            queue_max_len: Some(10),
            min_interval,
        };
        let runtime = Runtime::new(NonZeroUsize::new(2).unwrap()).unwrap();
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let observer = Arc::new(Observer::new(logger, Metrics::new(&Meter::noop())));
        let connector = Connector::default();
        let (renewals, worker) = Renewals::start(settings, connector, observer, &runtime.spawner());
        Self {
            renewals,
            worker: Some(worker),
            redis,
            runtime,
        }
    }

    fn pending(&self) -> u64 {
        self.renewals.0.pending.load(Ordering::Relaxed)
    }

    fn until_settled(&self) {
        while self.pending() > 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn finish(&mut self) {
        let worker = self.worker.take().unwrap();
        self.runtime.block_on(worker.finish(std::future::pending()));
    }
}

const HOUR: Duration = Duration::from_secs(3600);

fn sandboxes(lpush: &[String]) -> Vec<String> {
    assert_eq!(lpush[..2], ["LPUSH", "list"]);
    let names = lpush[2..].iter().map(|intent| {
        let intent: serde_json::Value = serde_json::from_str(intent).unwrap();
        intent["sandbox_id"].as_str().unwrap().to_owned()
    });
    names.collect()
}

#[test]
fn an_intent_goes_to_the_head_of_a_list_whose_tail_is_cut() {
    let mut scene = Scene::with(Some(HOUR));
    scene.renewals.touch("sb", 80, Some("/x"));
    assert_eq!(sandboxes(&scene.redis.next()), ["sb"]);
    assert_eq!(scene.redis.next(), ["LTRIM", "list", "0", "9"]);
    scene.until_settled();
    // Redis knows, for an hour.
    scene.renewals.touch("sb", 80, None);
    assert_eq!(scene.pending(), 0);
    scene.finish();
    assert!(scene.redis.commands.try_recv().is_err());
}

#[test]
fn what_waits_goes_in_one_command_each_sandbox_once() {
    let mut scene = Scene::with(Some(HOUR));
    scene.redis.gate.set(false, false);
    scene.renewals.touch("first", 80, None);
    assert_eq!(sandboxes(&scene.redis.next()), ["first"]);
    for sandbox in ["a", "b", "a", "first", "c"] {
        scene.renewals.touch(sandbox, 80, None);
    }
    scene.redis.gate.set(true, false);
    scene.redis.next();
    assert_eq!(sandboxes(&scene.redis.next()), ["a", "b", "c"]);
    scene.finish();
}

#[test]
fn what_redis_refuses_is_said_again_by_the_next_request() {
    let mut scene = Scene::with(Some(HOUR));
    scene.redis.gate.set(true, true);
    scene.renewals.touch("sb", 80, None);
    assert_eq!(sandboxes(&scene.redis.next()), ["sb"]);
    scene.until_settled();
    scene.redis.gate.set(true, false);
    scene.renewals.touch("sb", 80, None);
    loop {
        // The second command of the first batch may still be on its way.
        let command = scene.redis.next();
        if command[0] == "LPUSH" {
            assert_eq!(sandboxes(&command), ["sb"]);
            break;
        }
    }
    scene.finish();
}

#[test]
fn a_full_queue_and_an_ended_one_hold_nobody_up() {
    let mut scene = Scene::with(None);
    scene.redis.gate.set(false, false);
    scene.renewals.touch("first", 80, None);
    scene.redis.next();
    for _ in 0..MAX_QUEUE + 100 {
        scene.renewals.touch("sb", 80, None);
    }
    assert_eq!(scene.pending(), MAX_QUEUE as u64 + 1);
    scene.redis.gate.set(true, false);
    scene.finish();
    assert_eq!(scene.pending(), 0, "everything that waited was handed over");
    scene.renewals.touch("sb", 80, None);
    assert_eq!(scene.pending(), 0);
    let mut pushed = 0;
    while let Ok(command) = scene.redis.commands.try_recv() {
        if command[0] == "LPUSH" {
            let batch = sandboxes(&command).len();
            assert!(batch <= MAX_BATCH);
            pushed += batch;
        }
    }
    assert_eq!(pushed, MAX_QUEUE);
}
