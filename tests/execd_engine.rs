//! The engine of execd against the kernel it runs on: commands, sessions and terminals, without any
//! HTTP in between.

use std::ffi::OsString;
use std::fs;
use std::future::Future;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use opensandbox::execd::command::{
    Commands, Event, InterruptError, Outcome, Request, StartCause, Stream,
};
use opensandbox::execd::environment::{Environment, File};
use opensandbox::execd::events::{Observer, Reason};
use opensandbox::execd::metrics::Metrics;
use opensandbox::execd::pty::{
    self, AttachError, Mode, Role, TerminalSignal, Terminals, Update, Viewer,
};
use opensandbox::execd::session::{Run, RunError, Sessions};
use opensandbox::execd::spawn::{Children, Credentials, Exit, SpawnError};
use opensandbox::execd::{Engine, clone3, reaper};
use opensandbox::runtime::Runtime;
use opensandbox::telemetry::instrument::Meter;
use smol::channel::Receiver;
use smol::future::FutureExt;

/// Longer than anything here takes on a busy machine; whatever waits for it has failed.
const PATIENCE: Duration = Duration::from_secs(300);

fn logger() -> slog::Logger {
    slog::Logger::root(slog::Discard, slog::o!())
}

fn engine_with(runtime: &Runtime, children: Children, own: Environment) -> Engine {
    Engine {
        spawner: runtime.spawner(),
        children,
        observer: Arc::new(Observer::new(logger(), Metrics::new(&Meter::noop()))),
        environment: Arc::new(own),
        temporary: Arc::new(std::env::temp_dir()),
    }
}

fn engine(runtime: &Runtime) -> Engine {
    let own = Environment::for_children(std::env::vars_os());
    engine_with(runtime, Children::new(), own)
}

/// Runs a test with an engine of its own.
fn with_engine<F: Future<Output = ()>>(test: impl FnOnce(Engine) -> F) {
    let runtime = Runtime::new(NonZeroUsize::new(2).unwrap()).unwrap();
    runtime.block_on(patiently(test(engine(&runtime))));
}

async fn patiently<T>(work: impl Future<Output = T>) -> T {
    let late = async {
        smol::Timer::after(PATIENCE).await;
        panic!("this should have ended by now");
    };
    work.or(late).await
}

fn request(engine: &Engine, command: &str) -> Request {
    Request {
        command: command.to_owned(),
        directory: None,
        environment: (*engine.environment).clone(),
        credentials: None,
        timeout: None,
        logger: logger(),
    }
}

/// Everything a run wrote, by stream, and its end.
async fn collect(events: &Receiver<Event>) -> (String, String, Outcome) {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    loop {
        match events.recv().await.expect("an end before the stream ends") {
            Event::Output(Stream::Stdout, bytes) => stdout.extend_from_slice(&bytes),
            Event::Output(Stream::Stderr, bytes) => stderr.extend_from_slice(&bytes),
            Event::End(outcome) => {
                assert!(events.recv().await.is_err(), "nothing comes after the end");
                let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
                return (text(stdout), text(stderr), outcome);
            }
        }
    }
}

async fn run(commands: &Commands, request: Request) -> (String, String, Outcome) {
    let running = commands.start(request).await.expect("the command starts");
    collect(&running.events).await
}

/// Runs the calling test again, alone in a process of its own that `wrapper` starts, and says
/// whether this is that process.
fn alone(test: &str, wrapper: &[&str]) -> bool {
    if std::env::var_os("EXECD_ENGINE_TEST").is_some_and(|name| name == test) {
        return true;
    }
    let exe = std::env::current_exe().unwrap();
    let mut words: Vec<OsString> = wrapper.iter().map(Into::into).collect();
    words.push(exe.into());
    words.extend(["--exact", test, "--nocapture", "--test-threads=1"].map(Into::into));
    let output = Command::new(&words[0])
        .args(&words[1..])
        .env("EXECD_ENGINE_TEST", test)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{test} failed on its own:\n{}\n{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    false
}

fn is_root() -> bool {
    // SAFETY: takes no arguments and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Says loudly that a test needs what this user may not do.
fn require_root(test: &str) -> bool {
    if !is_root() {
        eprintln!("SKIPPED {test}: needs root");
    }
    is_root()
}

fn open_descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

/// The state letters of this process's children.
fn children_states() -> Vec<char> {
    let me = std::process::id().to_string();
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| fs::read_to_string(entry.ok()?.path().join("stat")).ok())
        .filter_map(|stat| {
            let rest = stat.rsplit_once(") ")?.1.to_owned();
            let mut fields = rest.split(' ');
            let state = fields.next()?.chars().next()?;
            (fields.next()? == me).then_some(state)
        })
        .collect()
}

fn resident_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < PATIENCE, "{what} never came");
        smol::Timer::after(Duration::from_millis(5)).await;
    }
}

#[test]
fn a_command_streams_its_output_and_ends_once() {
    with_engine(|engine| async move {
        let commands = Commands::new(engine.clone());
        let (out, err, end) = run(
            &commands,
            request(&engine, "echo hello; echo errline 1>&2; printf tail"),
        )
        .await;
        assert_eq!((out.as_str(), err.as_str()), ("hello\ntail", "errline\n"));
        assert!(end.is_success() && end.code() == 0 && end.traceback().is_empty());

        let (out, _, end) = run(&commands, request(&engine, "echo before; exit 3")).await;
        assert_eq!((out.as_str(), end.code()), ("before\n", 3));
        assert_eq!(end.traceback(), ["exit status 3"]);

        let (_, _, end) = run(&commands, request(&engine, "kill -SEGV $$")).await;
        assert_eq!((end.code(), end.reason), (-1, Reason::Signal));
        assert!(end.traceback()[0].starts_with("signal: segmentation fault"));
    });
}

#[test]
fn a_child_gets_a_clean_process() {
    with_engine(|engine| async move {
        let commands = Commands::new(engine.clone());
        // A descriptor without close-on-exec, as a launcher might leave one behind.
        let leaked = fs::File::open("/dev/null").unwrap();
        // SAFETY: changes a flag of a descriptor that is open.
        unsafe { libc::fcntl(std::os::fd::AsRawFd::as_raw_fd(&leaked), libc::F_SETFD, 0) };
        let (out, _, _) = run(
            &commands,
            request(
                &engine,
                "ls /proc/self/fd | tr '\\n' ' '; readlink /proc/self/fd/0",
            ),
        )
        .await;
        // 3 is the directory that is listed.
        assert_eq!(out, "0 1 2 3 /dev/null\n");
        let (out, _, _) = run(
            &commands,
            request(
                &engine,
                "grep -E '^Sig(Blk|Ign)' /proc/self/status; \
                     read -r stat </proc/$$/stat; rest=${stat##*) }; set -- $rest; \
                     [ $3 = $$ ] && [ $4 = $$ ] && echo leads",
            ),
        )
        .await;
        let zero = "0000000000000000";
        assert_eq!(out, format!("SigBlk:\t{zero}\nSigIgn:\t{zero}\nleads\n"));
    });
}

#[test]
fn secrets_stay_with_the_daemon() {
    let runtime = Runtime::new(NonZeroUsize::MIN).unwrap();
    let own = [
        ("PATH", "/usr/bin:/bin"),
        ("HOME", "/root"),
        ("EXECD_ACCESS_TOKEN", "secret"),
        ("JUPYTER_TOKEN", "secret"),
    ];
    let own = Environment::for_children(own.map(|(n, v)| (n.into(), v.into())));
    let engine = engine_with(&runtime, Children::new(), own);
    let commands = Commands::new(engine.clone());
    let mut asked = request(&engine, "env | grep -c secret; echo $A $B");
    let file = File {
        variables: vec![("A".into(), "file".into()), ("B".into(), "file".into())],
        malformed: Vec::new(),
    };
    asked.environment = engine.layered(None, file).with([("B", "request")]);
    let (out, _, _) = runtime.block_on(run(&commands, asked));
    assert_eq!(out, "0\nfile request\n");
}

#[test]
fn what_the_kernel_refuses_is_said_clearly() {
    with_engine(|engine| async move {
        let commands = Commands::new(engine.clone());
        let mut gone = request(&engine, "true");
        gone.directory = Some("/no/such/directory".into());
        let error = commands.start(gone).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "chdir /no/such/directory: no such file or directory"
        );
        assert!(commands.status(&error.id).is_none());

        let long = format!("true {}", "x".repeat(3 << 20));
        let error = commands.start(request(&engine, &long)).await.unwrap_err();
        let message = error.to_string();
        assert!(message.starts_with("fork/exec "), "{message}");
        assert!(message.contains("argument list too long"), "{message}");

        let error = commands.start(request(&engine, "a\0b")).await.unwrap_err();
        assert!(error.to_string().contains("NUL"), "{error}");

        // Remembered under its id, since the client learns of it only there.
        let mut gone = request(&engine, "true");
        gone.directory = Some("/no/such/directory".into());
        let error = commands.start_background(gone).await.unwrap_err();
        let finished = commands.status(&error.id).unwrap().finished.unwrap();
        assert_eq!(finished.exit_code, 255);
        assert_eq!(finished.error, Some(error.to_string()));
    });
}

#[test]
fn a_broken_shell_is_said_clearly() {
    let bin = tempfile::tempdir().unwrap();
    let bash = bin.path().join("bash");
    fs::write(&bash, "no program").unwrap();
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&bash, executable).unwrap();
    let runtime = Runtime::new(NonZeroUsize::MIN).unwrap();
    let start = |path: &str| {
        let own = Environment::from_iter([(OsString::from("PATH"), OsString::from(path))]);
        let engine = engine_with(&runtime, Children::new(), own);
        let commands = Commands::new(engine.clone());
        runtime
            .block_on(commands.start(request(&engine, "true")))
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        start(bin.path().to_str().unwrap()),
        format!("fork/exec {}: exec format error", bash.display())
    );
    assert_eq!(
        start("/no/such/path"),
        "exec: \"sh\": executable file not found in $PATH"
    );
}

#[test]
fn a_command_runs_as_whom_it_is_asked_to() {
    if !require_root("a_command_runs_as_whom_it_is_asked_to") {
        return;
    }
    with_engine(|engine| async move {
        let commands = Commands::new(engine.clone());
        let mut asked = request(&engine, "id -u; id -g; id -G");
        asked.credentials = Some(Credentials {
            uid: 4242,
            gid: 4343,
            groups: vec![4343, 4444],
            account: None,
        });
        let (out, err, _) = run(&commands, asked).await;
        assert_eq!(out, "4242\n4343\n4343 4444\n", "{err}");
    });
}

#[test]
fn without_the_right_to_change_user_there_is_an_error() {
    let name = "without_the_right_to_change_user_there_is_an_error";
    if !require_root(name) || !alone(name, &["setpriv", "--reuid=1000", "--clear-groups"]) {
        return;
    }
    with_engine(|engine| async move {
        let commands = Commands::new(engine.clone());
        let mut asked = request(&engine, "true");
        asked.credentials = Some(Credentials {
            uid: 0,
            gid: 0,
            groups: Vec::new(),
            account: None,
        });
        let error = commands.start(asked).await.unwrap_err();
        assert!(
            matches!(
                error.cause,
                StartCause::Spawn(SpawnError::Credentials {
                    errno: libc::EPERM,
                    ..
                })
            ),
            "{error}"
        );
    });
}

#[test]
fn the_streams_keep_the_order_of_arrival() {
    with_engine(|engine| async move {
        let commands = Commands::new(engine.clone());
        let script = "for i in 1 2 3 4 5; do echo $i; sleep 0.05; echo $i >&2; sleep 0.05; done";
        let running = commands.start(request(&engine, script)).await.unwrap();
        let mut order = Vec::new();
        while let Ok(Event::Output(stream, bytes)) = running.events.recv().await {
            order.push((stream, String::from_utf8(bytes.to_vec()).unwrap()));
        }
        let expected: Vec<_> = (1..=5)
            .flat_map(|i| [Stream::Stdout, Stream::Stderr].map(|s| (s, format!("{i}\n"))))
            .collect();
        assert_eq!(order, expected);
    });
}

#[test]
fn output_can_be_reopened_by_its_path() {
    with_engine(|engine| async move {
        let commands = Commands::new(engine.clone());
        let script = "echo a; echo b > /dev/stdout; echo c | tee /dev/stderr; echo d > /dev/stderr";
        let (out, err, _) = run(&commands, request(&engine, script)).await;
        assert_eq!((out.as_str(), err.as_str()), ("a\nb\nc\n", "c\nd\n"));
    });
}

#[test]
fn bytes_come_out_as_they_went_in() {
    with_engine(|engine| async move {
        let commands = Commands::new(engine.clone());
        let script = "head -c 3000000 /dev/urandom | tee >(md5sum >&2)";
        let running = commands.start(request(&engine, script)).await.unwrap();
        let (mut out, mut sum) = (Vec::new(), Vec::new());
        while let Ok(Event::Output(stream, bytes)) = running.events.recv().await {
            match stream {
                Stream::Stdout => out.extend_from_slice(&bytes),
                Stream::Stderr => sum.extend_from_slice(&bytes),
            }
        }
        let check = Command::new("md5sum")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let mut check = check.unwrap();
        std::io::Write::write_all(&mut check.stdin.take().unwrap(), &out).unwrap();
        let expected = check.wait_with_output().unwrap().stdout;
        assert_eq!(out.len(), 3_000_000);
        // The sum comes from a process that may outlive the shell.
        assert!(sum.is_empty() || sum == expected);
    });
}

#[test]
fn what_a_shell_leaves_behind_goes_on() {
    with_engine(|engine| async move {
        let commands = Commands::new(engine.clone());
        let directory = tempfile::tempdir().unwrap();
        let proof = directory.path().join("proof");
        // Twice forked, with the shell's own output, to which it writes after the shell has ended.
        let script = format!(
            "( ( sleep 0.4; echo late && echo survived > {}; exec sleep 30 ) & ) ; echo now",
            proof.display()
        );
        let begin = Instant::now();
        let (out, _, end) = run(&commands, request(&engine, &script)).await;
        assert_eq!(out, "now\n");
        assert!(end.is_success());
        assert!(
            begin.elapsed() < Duration::from_secs(20),
            "did not wait for the descendant"
        );
        until("the descendant's proof", || proof.exists()).await;

        // In the background nothing is lost of what it writes.
        let id = commands
            .start_background(request(&engine, "( sleep 0.3; echo late ) & echo now"))
            .await
            .unwrap();
        until("the end", || {
            commands.status(&id).unwrap().finished.is_some()
        })
        .await;
        loop {
            let (start, log) = commands.read_log(&id, 0, usize::MAX).await.unwrap();
            if log == b"now\nlate\n" {
                assert_eq!(start, 0);
                break;
            }
            smol::Timer::after(Duration::from_millis(10)).await;
        }
    });
}

#[test]
fn a_background_command_is_known_at_once_and_its_log_is_in_order() {
    with_engine(|engine| async move {
        let commands = Commands::new(engine.clone());
        let script = "for i in 1 2 3; do echo out$i; echo err$i >&2; done; exit 5";
        let id = commands
            .start_background(request(&engine, script))
            .await
            .unwrap();
        let status = commands.status(&id).unwrap();
        assert_eq!(&*status.command, script);
        until("the end", || {
            commands.status(&id).unwrap().finished.is_some()
        })
        .await;
        let finished = commands.status(&id).unwrap().finished.unwrap();
        assert_eq!(finished.exit_code, 5);
        assert_eq!(finished.error.as_deref(), Some("exit status 5"));
        let expected = b"out1\nerr1\nout2\nerr2\nout3\nerr3\n";
        let (_, log) = commands.read_log(&id, 0, usize::MAX).await.unwrap();
        assert_eq!(log, expected);
        let cursor = expected.len() as u64;
        let (start, log) = commands.read_log(&id, cursor, usize::MAX).await.unwrap();
        assert_eq!((start, log.len()), (cursor, 0));
        let unknown = commands.read_log("nope", 0, 1).await.unwrap_err();
        assert_eq!(unknown.to_string(), "command not found: nope");
        let foreground = commands.start(request(&engine, "true")).await.unwrap();
        assert!(commands.read_log(&foreground.id, 0, 1).await.is_err());
    });
}

#[test]
fn a_timeout_ends_the_whole_session_of_processes() {
    with_engine(|engine| async move {
        let commands = Commands::new(engine.clone());
        let mut asked = request(
            &engine,
            &format!("set -m; {} & {}; echo never", nap(987), nap(986)),
        );
        asked.timeout = Some(Duration::from_millis(300));
        let (out, _, end) = run(&commands, asked).await;
        assert_eq!(
            (out.as_str(), end.code(), end.reason),
            ("", -1, Reason::Timeout)
        );
        assert_eq!(end.traceback(), ["signal: terminated", "timeout"]);
        until("the end of the jobs", || {
            !runs(&nap(987)) && !runs(&nap(986))
        })
        .await;
    });
}

/// A long sleep that is told from those of every other test and of every other run of the tests.
fn nap(number: u32) -> String {
    format!("sleep {number}.{}", std::process::id())
}

/// Whether a process with this command line runs.
fn runs(command: &str) -> bool {
    let wanted = command.replace(' ', "\0") + "\0";
    fs::read_dir("/proc").unwrap().any(|entry| {
        let path = entry.unwrap().path().join("cmdline");
        fs::read(path).is_ok_and(|line| line == wanted.as_bytes())
    })
}

#[test]
fn an_interrupt_ends_even_what_ignores_sigterm() {
    with_engine(|engine| async move {
        let commands = Commands::new(engine.clone());
        let script = format!("trap '' TERM; echo ready; while :; do {}; done", nap(985));
        let running = commands.start(request(&engine, &script)).await.unwrap();
        assert!(matches!(running.events.recv().await, Ok(Event::Output(..))));
        let begin = Instant::now();
        commands.interrupt(&running.id).await.unwrap();
        assert!(
            begin.elapsed() >= Duration::from_secs(3),
            "there is a grace period"
        );
        let (_, _, end) = collect(&running.events).await;
        assert_eq!((end.code(), end.reason), (-1, Reason::Interrupt));
        assert_eq!(
            end.exit,
            Exit::Signal {
                number: 9,
                core_dumped: false
            }
        );
        assert!(!runs(&nap(985)));
        let again = commands.interrupt(&running.id).await.unwrap_err();
        assert_eq!(again, InterruptError::NotRunning(running.id.clone()));
        let unknown = commands.interrupt("nope").await.unwrap_err();
        assert_eq!(unknown, InterruptError::Unknown);
    });
}

#[test]
fn a_client_that_goes_away_ends_nothing() {
    with_engine(|engine| async move {
        let commands = Commands::new(engine.clone());
        let script = "head -c 1000000 /dev/zero; exit 4";
        let running = commands.start(request(&engine, script)).await.unwrap();
        drop(running.events);
        until("the end", || {
            commands.status(&running.id).unwrap().finished.is_some()
        })
        .await;
        let finished = commands.status(&running.id).unwrap().finished.unwrap();
        assert_eq!(finished.exit_code, 4);
    });
}

#[test]
fn a_client_that_is_slow_slows_the_command_down() {
    with_engine(|engine| async move {
        let commands = Commands::new(engine.clone());
        let script = "head -c 10000000 /dev/zero; touch";
        let running = commands.start(request(&engine, script)).await.unwrap();
        smol::Timer::after(Duration::from_millis(300)).await;
        assert!(commands.status(&running.id).unwrap().finished.is_none());
        let (out, _, end) = collect(&running.events).await;
        assert_eq!((out.len(), end.code()), (10_000_000, 1));
    });
}

#[test]
fn a_kernel_without_pidfd_will_do() {
    let runtime = Runtime::new(NonZeroUsize::MIN).unwrap();
    let own = Environment::for_children(std::env::vars_os());
    let engine = engine_with(&runtime, Children::without_pidfd(), own);
    let commands = Commands::new(engine.clone());
    runtime.block_on(patiently(async {
        for code in 0..20 {
            let asked = request(&engine, &format!("echo x; exit {code}"));
            let (out, _, end) = run(&commands, asked).await;
            assert_eq!((out.as_str(), end.code()), ("x\n", code));
        }
    }));
}

#[test]
fn ten_thousand_commands_leave_nothing_behind() {
    if !alone("ten_thousand_commands_leave_nothing_behind", &["env"]) {
        return;
    }
    with_engine(|engine| async move {
        let commands = Commands::new(engine.clone());
        // What the runtime itself needs is open after the first.
        run(&commands, request(&engine, "true")).await;
        let descriptors = open_descriptors();
        let mut workers = Vec::new();
        for worker in 0..64 {
            let (commands, engine) = (commands.clone(), engine.clone());
            workers.push(engine.spawner.clone().spawn(async move {
                let mut right = 0;
                let mut number = worker;
                while number < 10_000 {
                    let code = number % 256;
                    let asked = request(&engine, &format!("echo {number}; exit {code}"));
                    let (out, err, end) = run(&commands, asked).await;
                    assert_eq!((out, err), (format!("{number}\n"), String::new()));
                    assert_eq!(end.code(), code);
                    right += 1;
                    number += 64;
                }
                right
            }));
        }
        let mut right = 0;
        for worker in workers {
            right += worker.await;
        }
        assert_eq!(right, 10_000);
        assert_eq!(commands.running(), 0);
        until("every pipe to be closed", || {
            open_descriptors() <= descriptors
        })
        .await;
        assert!(children_states().is_empty(), "zombies");
    });
}

#[test]
fn a_thousand_orphans_are_reaped_and_no_status_is_stolen() {
    let name = "a_thousand_orphans_are_reaped_and_no_status_is_stolen";
    let wrapper = ["unshare", "--pid", "--fork", "--mount-proc"];
    if !require_root(name) || !alone(name, &wrapper) {
        return;
    }
    assert!(reaper::is_first_process());
    with_engine(|engine| async move {
        let commands = Commands::new(engine.clone());
        let reaping = engine.spawner.spawn(reaper::run(engine.children.clone()));
        let mut running = Vec::new();
        for number in 0..100 {
            // Ten orphans each, ending before and after their parent.
            let script = format!(
                "for i in 1 2 3 4 5 6 7 8 9 10; do ( ( sleep 0.$i ) & ); done; exit {number}"
            );
            running.push(commands.start(request(&engine, &script)).await.unwrap());
        }
        for (number, running) in running.into_iter().enumerate() {
            let (_, _, end) = collect(&running.events).await;
            assert_eq!(end.code(), i32::try_from(number).unwrap());
        }
        until("the end of every orphan", || children_states().is_empty()).await;
        drop(reaping);
    });
}

#[test]
fn endless_output_takes_no_memory() {
    if !alone("endless_output_takes_no_memory", &["env"]) {
        return;
    }
    with_engine(|engine| async move {
        let commands = Commands::new(engine.clone());
        let running = commands
            .start(request(&engine, "yes | head -c 1G"))
            .await
            .unwrap();
        let (mut bytes, mut first, mut most) = (0, 0, 0);
        while let Ok(Event::Output(_, chunk)) = running.events.recv().await {
            bytes += chunk.len();
            if bytes % (1 << 22) < chunk.len() {
                let now = resident_kib();
                first = if first == 0 { now } else { first };
                most = most.max(now);
            }
        }
        assert_eq!(bytes, 1 << 30);
        assert!(most - first <= 8 * 1024, "grew from {first} to {most} KiB");
    });
}

#[test]
fn few_descriptors_are_enough_or_the_error_says_so() {
    let name = "few_descriptors_are_enough_or_the_error_says_so";
    if !alone(name, &["prlimit", "--nofile=64:64"]) {
        return;
    }
    with_engine(|engine| async move {
        let commands = Commands::new(engine.clone());
        let mut running = Vec::new();
        let error = loop {
            match commands.start(request(&engine, &nap(984))).await {
                Ok(started) => running.push(started),
                Err(error) => break error,
            }
            assert!(running.len() < 64);
        };
        assert!(error.to_string().contains("too many open files"), "{error}");
        for running in &running {
            commands.interrupt(&running.id).await.unwrap();
        }
        // What was used up for the failed start was given back.
        let (out, _, _) = run(&commands, request(&engine, "echo again")).await;
        assert_eq!(out, "again\n");
        let sessions = Sessions::new(engine.clone());
        let session = sessions
            .create(None, (*engine.environment).clone())
            .unwrap();
        assert_eq!(
            in_session(&sessions, &session, "echo $((1+1))").await.0,
            "2\n"
        );
    });
}

#[test]
fn a_limit_on_processes_is_an_error_that_says_so() {
    let name = "a_limit_on_processes_is_an_error_that_says_so";
    // Root is not bound by the limit.
    let wrapper = [
        "setpriv",
        "--reuid=54321",
        "--clear-groups",
        "prlimit",
        "--nproc=6:6",
    ];
    if !require_root(name) || !alone(name, &wrapper) {
        return;
    }
    with_engine(|engine| async move {
        let commands = Commands::new(engine.clone());
        let mut running = Vec::new();
        let error = loop {
            match commands
                .start(request(&engine, &format!("exec {}", nap(983))))
                .await
            {
                Ok(started) => running.push(started),
                Err(error) => break error,
            }
            assert!(running.len() < 64);
        };
        assert!(
            error
                .to_string()
                .contains("resource temporarily unavailable"),
            "{error}"
        );
        for running in &running {
            commands.interrupt(&running.id).await.unwrap();
        }
    });
}

async fn in_session(sessions: &Sessions, id: &str, command: &str) -> (String, Outcome) {
    let events = sessions.run(id, text(command)).await.unwrap();
    let (out, err, end) = collect(&events).await;
    assert_eq!(err, "", "standard error is merged");
    (out, end)
}

fn text(command: &str) -> Run {
    Run {
        command: command.to_owned(),
        directory: None,
        variables: Vec::new(),
        timeout: None,
        logger: logger(),
    }
}

/// Runs a test with a session of its own.
fn with_session<F: Future<Output = ()>>(test: impl FnOnce(Sessions, String) -> F) {
    with_engine(|engine| async move {
        let sessions = Sessions::new(engine.clone());
        let id = sessions
            .create(None, (*engine.environment).clone())
            .unwrap();
        test(sessions.clone(), id).await;
        sessions.delete_all().await;
    });
}

#[test]
fn the_pinned_cases_of_sessions() {
    with_session(|sessions, id| async move {
        let run = async |command: &str| in_session(&sessions, &id, command).await;
        let (out, end) = run("echo \"before\"; exit 7").await;
        assert_eq!((out.as_str(), end.code()), ("before\n", 7));
        assert_eq!(end.traceback(), ["exit status 7"]);

        run("export FOO=hello").await;
        let (out, end) = run("echo $FOO").await;
        assert_eq!((out.as_str(), end.is_success()), ("hello\n", true));

        let (out, end) = run("false; echo EXIT:$?").await;
        assert_eq!((out.as_str(), end.is_success()), ("EXIT:1\n", true));

        for number in 1..=3 {
            let script = format!(
                "export CHAIN=\"${{CHAIN-}}{number}\"; for i in $(seq 80); do echo line$i; done"
            );
            let (out, _) = run(&script).await;
            assert_eq!(out.lines().count(), 80);
        }
        assert_eq!(run("echo $CHAIN").await.0, "123\n");

        assert_eq!(run("set +x; printf '{\"foo\":1}'").await.0, "{\"foo\":1}");
        assert_eq!(run("set +x; true").await.0, "");

        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        let (out, end) = run(&format!(
            "set -x\ncat <<EOF > {0}\nheredoc $FOO\nEOF\ncat {0}\nset +x",
            file.display()
        ))
        .await;
        assert!(end.is_success() && out.contains("heredoc hello"), "{out}");
        assert!(!out.contains("osb"), "the driver shows: {out}");
        assert_eq!(run("echo after").await.0, "after\n");

        let script = directory.path().join("child.sh");
        fs::write(&script, "#!/bin/sh\necho child\n").unwrap();
        let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&script, executable).unwrap();
        let (out, end) = run(&format!("exec {}", script.display())).await;
        assert_eq!((out.as_str(), end.is_success()), ("child\n", true));
        assert_eq!(run("echo $FOO").await.0, "hello\n");

        let log = directory.path().join("log");
        let (out, end) = run(&format!(
            "exec 3>&1 4>&2\nexec > >(tee {}) 2>&1\nset -x\necho from-complex-exec\n\
             exec 1>&3 2>&4\necho after-restore\nset +x",
            log.display()
        ))
        .await;
        assert!(end.is_success());
        assert!(out.lines().any(|line| line == "from-complex-exec"), "{out}");
        assert!(out.lines().any(|line| line == "after-restore"), "{out}");
        assert_eq!(run("echo still-alive").await.0, "still-alive\n");
    });
}

#[test]
fn a_session_has_a_directory_that_runs_change() {
    with_session(|sessions, id| async move {
        let place = async |command: &str, directory: Option<&str>| {
            let mut asked = text(command);
            asked.directory = directory.map(PathBuf::from);
            let events = sessions.run(&id, asked).await.unwrap();
            collect(&events).await.0
        };
        assert_eq!(place("cd /usr", None).await, "");
        assert_eq!(place("pwd", None).await, "/usr\n");
        assert_eq!(place("pwd", Some("/var")).await, "/var\n");
        assert_eq!(place("pwd", None).await, "/var\n");
        // The text is not run anywhere else.
        let out = place("echo never", Some("/no/such/place")).await;
        assert!(
            out.contains("No such file") && !out.contains("never"),
            "{out}"
        );
    });
}

#[test]
fn everything_in_a_shell_survives_even_its_end() {
    with_session(|sessions, id| async move {
        let run = async |command: &str| in_session(&sessions, &id, command).await;
        let (out, _) = run(
            "plain='a  b'; export VALUE=$'$x`y`\\n\\ttab\\'q\\' \\\\ \\xff \\u20ac'; readonly FIXED=1\n\
             declare -A map=([k]='v w'); list=(one 'two three'); f() { echo \"f:$1:$plain\"; }\n\
             shopt -s expand_aliases extglob; alias greet='echo greetings'; umask 027; cd /usr\n\
             glob() { case $1 in +(a|b)) echo glob;; esac; }; set -o pipefail",
        )
        .await;
        assert_eq!(out, "");
        let check = "f 1; echo ${map[k]} ${list[1]} $FIXED; greet; umask; pwd; glob ab\n\
                     printf %s \"$VALUE\" | od -An -tx1 | tr -d ' \\n'; false | true; echo $?";
        let expected = "f:1:a  b\nv w two three 1\ngreetings\n0027\n/usr\nglob\n\
                        24786079600a09746162277127205c20ff20e282ac1\n";
        assert_eq!(run(check).await.0, expected);
        for end in [
            "exit 3",
            "kill -KILL $$",
            "set -e; plain=lost; false",
            "exec true",
        ] {
            run(end).await;
            assert_eq!(run(check).await.0, expected, "after {end}");
        }
        let (_, end) = run("plain=changed; exit 9").await;
        assert_eq!(end.code(), 9);
        assert_eq!(run("echo \"$plain\"").await.0, "a  b\n");
    });
}

#[test]
fn nothing_a_text_does_confuses_the_driver() {
    with_session(|sessions, id| async move {
        let run = async |command: &str| in_session(&sessions, &id, command).await;
        for (command, out, code) in [
            ("break; echo no", "", 0),
            ("continue", "", 0),
            (
                "IFS=,; set -f -u; read() { echo hacked; }; printf() { echo hacked; }",
                "",
                0,
            ),
            (
                "echo fine; unset -f read printf; set +fu; unset IFS",
                "fine\n",
                0,
            ),
            (
                "echo '__EXIT_CODE__:5'; echo $'a\\001b\\177c\\377' | od -An -c",
                "__EXIT_CODE__:5\n   a 001   b 177   c 377  \\n\n",
                0,
            ),
            ("exec 2>&1 >/dev/null; echo lost; exec >&2", "", 0),
            ("echo back", "back\n", 0),
            ("read -r line; echo \"<$line>\"", "<>\n", 0),
            ("ls /proc/self/fd | wc -l", "4\n", 0),
            ("(exit 3)", "", 3),
            ("return 4 2>/dev/null || (exit 6)", "", 6),
        ] {
            let (found, end) = run(command).await;
            assert_eq!((found.as_str(), end.code()), (out, code), "{command}");
        }
        let (out, end) = run("echo 'open").await;
        assert!(out.contains("line 1: unexpected EOF"), "{out}");
        assert_eq!(end.code(), 2);
        let (out, end) = run("true\nno-such-program").await;
        assert!(
            out.contains("line 2: no-such-program: command not found"),
            "{out}"
        );
        assert_eq!(end.code(), 127);
        let long = "x".repeat(1 << 20);
        let (out, _) = run(&format!("v={long}; echo ${{#v}}")).await;
        assert_eq!(out, format!("{}\n", 1 << 20));
        assert!(matches!(
            sessions.run(&id, text("a\0b")).await,
            Err(RunError::Nul)
        ));
        assert!(matches!(
            sessions.run("nope", text("true")).await,
            Err(RunError::Unknown)
        ));
    });
}

#[test]
fn a_timeout_ends_a_run_and_not_its_session() {
    with_session(|sessions, id| async move {
        let run = async |command: &str| in_session(&sessions, &id, command).await;
        run(&format!("kept=1; {} & disown", nap(982))).await;
        // The clock that tells what a run has started counts hundredths of a second.
        smol::Timer::after(Duration::from_millis(30)).await;
        let mut asked = text(&format!("kept=2; ({}); echo never", nap(981)));
        asked.timeout = Some(Duration::from_millis(300));
        let begin = Instant::now();
        let events = sessions.run(&id, asked).await.unwrap();
        let (out, _, end) = collect(&events).await;
        assert_eq!(
            (out.as_str(), end.code(), end.reason),
            ("", -1, Reason::Timeout)
        );
        assert!(begin.elapsed() < Duration::from_secs(20));
        assert!(!runs(&nap(981)));
        assert!(runs(&nap(982)), "what an earlier run started goes on");
        assert_eq!(run("echo $kept").await.0, "1\n");

        // A client that goes away ends its run, an interrupt too.
        let events = sessions.run(&id, text(&nap(980))).await.unwrap();
        drop(events);
        until("the end of the run", || !runs(&nap(980))).await;
        let events = sessions.run(&id, text(&nap(979))).await.unwrap();
        assert!(sessions.interrupt(&id).unwrap());
        let (_, _, end) = collect(&events).await;
        assert_eq!((end.code(), end.reason), (-1, Reason::Interrupt));
        assert_eq!(run("echo $kept").await.0, "1\n");

        // A deletion ends all of it.
        let events = sessions.run(&id, text(&nap(978))).await.unwrap();
        let begin = Instant::now();
        sessions.delete(&id).await.unwrap();
        assert!(begin.elapsed() < Duration::from_secs(20));
        let (_, _, end) = collect(&events).await;
        assert_eq!((end.code(), end.reason), (-1, Reason::Interrupt));
        until("the end of everything", || {
            !runs(&nap(982)) && !runs(&nap(978))
        })
        .await;
        assert!(sessions.delete(&id).await.is_err());
    });
}

#[test]
fn jobs_in_the_background_hold_no_run_up() {
    with_session(|sessions, id| async move {
        let run = async |command: &str| in_session(&sessions, &id, command).await;
        let begin = Instant::now();
        let (out, _) = run(&format!("(sleep 0.5; echo late; {}) & echo now", nap(977))).await;
        assert_eq!(out, "now\n");
        assert!(begin.elapsed() < Duration::from_secs(20));
        smol::Timer::after(Duration::from_millis(900)).await;
        // What it wrote in between comes first.
        assert_eq!(
            run("echo next; kill %1")
                .await
                .0
                .split('\n')
                .take(2)
                .collect::<Vec<_>>(),
            ["late", "next"]
        );
        // More than a pipe holds does not stop it either.
        run("(head -c 1000000 /dev/zero; echo done > /tmp/execd-engine-$$) & wait_for=/tmp/execd-engine-$$").await;
        let (out, _) =
            run("while [ ! -s $wait_for ]; do sleep 0.02; done; cat $wait_for; rm $wait_for").await;
        assert!(out.ends_with("done\n"));
    });
}

#[test]
fn runs_of_a_session_take_turns() {
    with_session(|sessions, id| async move {
        in_session(&sessions, &id, "n=0").await;
        let turns = (0..10).map(|_| in_session(&sessions, &id, "m=$n; sleep 0.02; n=$((m+1))"));
        // All of them wait at once.
        let mut waiting: Vec<_> = turns.map(Box::pin).collect();
        std::future::poll_fn(|context| {
            waiting.retain_mut(|run| match run.as_mut().poll(context) {
                Poll::Ready((_, end)) => {
                    assert!(end.is_success());
                    false
                }
                Poll::Pending => true,
            });
            if waiting.is_empty() {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
        assert_eq!(in_session(&sessions, &id, "echo $n").await.0, "10\n");
    });
}

#[test]
fn a_deletion_tells_those_who_wait_for_their_turn() {
    with_session(|sessions, id| async move {
        let first = sessions.run(&id, text(&nap(974))).await.unwrap();
        let waiting = async {
            assert!(matches!(
                sessions.run(&id, text("true")).await,
                Err(RunError::Unknown)
            ));
        };
        let deletion = async {
            until("the first run", || runs(&nap(974))).await;
            sessions.delete(&id).await.unwrap();
        };
        smol::future::zip(waiting, deletion).await;
        assert_eq!(collect(&first).await.2.reason, Reason::Interrupt);
    });
}

#[test]
fn variables_of_a_run_are_exported_before_it() {
    with_session(|sessions, id| async move {
        let mut asked = text("printenv TRACEPARENT");
        asked.variables = vec![("TRACEPARENT".to_owned(), Some("00-a'b-01".to_owned()))];
        let events = sessions.run(&id, asked.clone()).await.unwrap();
        assert_eq!(collect(&events).await.0, "00-a'b-01\n");
        asked.variables = vec![("TRACEPARENT".to_owned(), None)];
        let events = sessions.run(&id, asked).await.unwrap();
        assert_eq!(collect(&events).await.2.code(), 1);
    });
}

/// Runs a test with a terminal of its own.
fn with_terminal<F: Future<Output = ()>>(
    command: Option<&str>,
    test: impl FnOnce(Terminals, String) -> F,
) {
    with_engine(|engine| async move {
        let terminals = Terminals::new(engine.clone());
        let id = terminals
            .create(pty::Request {
                directory: None,
                command: command.map(str::to_owned),
                environment: (*engine.environment).clone(),
                logger: logger(),
            })
            .unwrap();
        test(terminals.clone(), id).await;
        terminals.delete_all().await;
    });
}

const WRITER: Role = Role::Writer { takeover: false };

async fn attach(terminals: &Terminals, id: &str, mode: Mode) -> Viewer {
    let viewer = terminals.attach(id, WRITER, 0).unwrap();
    viewer.start(mode, true).await.unwrap();
    viewer
}

/// What a viewer is shown until it contains `wanted`.
async fn shown(viewer: &Viewer, wanted: &str) -> String {
    let mut all = String::new();
    while !all.contains(wanted) {
        match viewer.next().await {
            Update::Output(_, bytes) => all.push_str(&String::from_utf8_lossy(&bytes)),
            other => panic!("{other:?} after {all:?}, before {wanted:?}"),
        }
    }
    all
}

/// All that is shown from now to the end, by stream, and the exit code.
async fn to_the_end(viewer: &Viewer) -> (Vec<u8>, Vec<u8>, i32) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    loop {
        match viewer.next().await {
            Update::Output(Stream::Stdout, bytes) => out.extend_from_slice(&bytes),
            Update::Output(Stream::Stderr, bytes) => err.extend_from_slice(&bytes),
            Update::Exit(code) => return (out, err, code),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_terminal_is_an_interactive_shell() {
    with_terminal(None, |terminals, id| async move {
        let status = terminals.status(&id).unwrap();
        assert_eq!((status.running, status.output_offset), (None, 0));
        let viewer = attach(&terminals, &id, Mode::Pty).await;
        viewer.write(b"echo sum=$((20+22)) $TERM\n").await.unwrap();
        let term = std::env::var("TERM").unwrap_or("xterm-256color".to_owned());
        shown(&viewer, &format!("sum=42 {term}")).await;
        viewer.resize(120, 40).unwrap();
        viewer
            .write(b"stty size; printf '\\033[1mX\\n'\n")
            .await
            .unwrap();
        let all = shown(&viewer, "\x1b[1mX").await;
        assert!(all.contains("40 120"), "{all}");
        assert_eq!(terminals.status(&id).unwrap().running, Some(Mode::Pty));
        viewer.write(b"exit 42\n").await.unwrap();
        assert_eq!(to_the_end(&viewer).await.2, 42);
        let status = terminals.status(&id).unwrap();
        assert_eq!((status.running, status.exit_code), (None, Some(42)));
        assert!(status.output_offset > 0);

        // Attaching again starts a new shell, after all that the old one has shown.
        drop(viewer);
        let viewer = terminals.attach(&id, WRITER, 0).unwrap();
        let left = viewer.start(Mode::Pipe, false).await.unwrap();
        assert_eq!((left.mode, left.replaced), (None, None));
        let started = viewer.start(Mode::Pipe, true).await.unwrap();
        assert_eq!(
            (started.mode, started.replaced),
            (Some(Mode::Pipe), Some(42))
        );
        let (offset, replay) = viewer.replay().unwrap();
        assert_eq!((offset, replay.len() as u64), (0, status.output_offset));
        assert!(String::from_utf8_lossy(&replay).contains("sum=42"));
        viewer.write(b"echo again\n").await.unwrap();
        shown(&viewer, "again").await;
        terminals.delete(&id).await.unwrap();
        assert_eq!(to_the_end(&viewer).await.2, -1);
        assert!(terminals.status(&id).is_none());
        assert!(terminals.delete(&id).await.is_err());
    });
}

#[test]
fn control_c_and_signals_reach_the_foreground_job() {
    with_terminal(None, |terminals, id| async move {
        let viewer = attach(&terminals, &id, Mode::Pty).await;
        for interrupt in [false, true] {
            let job = format!("echo go; {}; echo status=$?\n", nap(976));
            viewer.write(job.as_bytes()).await.unwrap();
            until("the job", || runs(&nap(976))).await;
            if interrupt {
                viewer.signal(TerminalSignal::Interrupt).unwrap();
            } else {
                viewer.write(b"\x03").await.unwrap();
            }
            until("the end of the job", || !runs(&nap(976))).await;
            viewer.write(b"echo alive=$((1+1))\n").await.unwrap();
            shown(&viewer, "alive=2").await;
        }
        // Jobs that have groups of their own and ignore the hang-up end with the terminal.
        let job = format!("(trap '' HUP; {}) &\necho started=$((1+1))\n", nap(975));
        viewer.write(job.as_bytes()).await.unwrap();
        shown(&viewer, "started=2").await;
        until("the job", || runs(&nap(975))).await;
        terminals.delete(&id).await.unwrap();
        until("the end of the job", || !runs(&nap(975))).await;
    });
}

#[test]
fn the_end_of_a_terminal_loses_no_output() {
    for mode in [Mode::Pty, Mode::Pipe] {
        for _ in 0..8 {
            let command = "for ((i=0;i<20000;i++)); do echo line $i; done; exit 7";
            with_terminal(Some(command), |terminals, id| async move {
                let viewer = attach(&terminals, &id, mode).await;
                let (out, _, code) = to_the_end(&viewer).await;
                assert_eq!(code, 7);
                let out = String::from_utf8(out).unwrap().replace('\r', "");
                let expected: String = (0..20000).map(|i| format!("line {i}\n")).collect();
                assert!(out == expected, "{} of {} bytes", out.len(), expected.len());
            });
        }
    }
}

#[test]
fn pipes_keep_the_streams_apart() {
    let command = "echo out; sleep 0.1; echo err >&2; sleep 0.1; echo more; cat";
    with_terminal(Some(command), |terminals, id| async move {
        let viewer = attach(&terminals, &id, Mode::Pipe).await;
        viewer.resize(10, 10).unwrap();
        let mut order = Vec::new();
        while order.len() < 3 {
            match viewer.next().await {
                Update::Output(stream, bytes) => order.push((stream, bytes)),
                other => panic!("{other:?}"),
            }
        }
        let expected = [
            (Stream::Stdout, "out\n"),
            (Stream::Stderr, "err\n"),
            (Stream::Stdout, "more\n"),
        ];
        assert_eq!(order, expected.map(|(stream, text)| (stream, text.into())));
        viewer.write(b"input\n").await.unwrap();
        shown(&viewer, "input\n").await;
    });
}

#[test]
fn a_takeover_moves_the_lease_and_keeps_the_shell() {
    with_terminal(None, |terminals, id| async move {
        let first = attach(&terminals, &id, Mode::Pty).await;
        first.write(b"mark=kept; echo set=$mark\n").await.unwrap();
        let seen = shown(&first, "set=kept").await;
        assert!(matches!(
            terminals.attach(&id, WRITER, 0),
            Err(AttachError::AlreadyConnected(_))
        ));
        // Others may look on.
        let observer = terminals.attach(&id, Role::Observer, 0).unwrap();
        shown(&observer, "set=kept").await;
        assert!(observer.write(b"x").await.is_err());

        let takeover = Role::Writer { takeover: true };
        let second = terminals.attach(&id, takeover, 0).unwrap();
        let started = second.start(Mode::Pipe, true).await.unwrap();
        assert_eq!((started.mode, started.replaced), (Some(Mode::Pty), None));
        loop {
            match first.next().await {
                Update::TakenOver => break,
                Update::Output(..) => {}
                other => panic!("{other:?}"),
            }
        }
        assert!(first.write(b"exit\n").await.is_err());
        drop(first);
        let (offset, replay) = second.replay().unwrap();
        assert!(offset == 0 && replay.starts_with(seen.as_bytes()));
        second.write(b"echo mark=$mark\n").await.unwrap();
        shown(&second, "mark=kept").await;
        shown(&observer, "mark=kept").await;

        let mut holders = vec![second];
        for _ in 0..6 {
            holders.push(terminals.attach(&id, takeover, u64::MAX).unwrap());
        }
        let last = holders.pop().unwrap();
        for holder in &holders {
            assert_eq!(holder.next().await, Update::TakenOver);
        }
        drop(holders);
        last.write(b"echo still=$mark\n").await.unwrap();
        shown(&last, "still=kept").await;
        drop(last);
        terminals.attach(&id, WRITER, 0).unwrap();
    });
}

#[test]
fn a_viewer_is_shown_every_byte_from_where_it_left() {
    let command = "for ((i=0;i<4000;i++)); do echo line $i; done; read";
    with_terminal(Some(command), |terminals, id| async move {
        let first = attach(&terminals, &id, Mode::Pipe).await;
        let mut all = shown(&first, "line 1000\n").await;
        drop(first);
        let again = terminals.attach(&id, WRITER, all.len() as u64).unwrap();
        if let Some((offset, replay)) = again.replay() {
            assert_eq!(offset, all.len() as u64);
            all.push_str(std::str::from_utf8(&replay).unwrap());
        }
        if !all.contains("line 3999\n") {
            all.push_str(&shown(&again, "line 3999\n").await);
        }
        let expected: String = (0..4000).map(|i| format!("line {i}\n")).collect();
        assert_eq!(all, expected);
    });
}

#[test]
fn a_slow_writer_paces_the_shell_and_a_dead_one_does_not() {
    let size = 5_000_000;
    let command = format!("head -c {size} /dev/zero; echo; echo end");
    with_terminal(Some(&command), |terminals, id| async move {
        let viewer = attach(&terminals, &id, Mode::Pipe).await;
        let observer = terminals.attach(&id, Role::Observer, 0).unwrap();
        // It takes something now and then: nothing is skipped.
        let mut bytes = 0;
        let mut rounds = 0;
        loop {
            match viewer.next().await {
                Update::Output(_, chunk) => bytes += chunk.len(),
                Update::Exit(code) => {
                    assert_eq!(code, 0);
                    break;
                }
                other => panic!("{other:?} after {bytes}"),
            }
            rounds += 1;
            if rounds % 16 == 0 {
                smol::Timer::after(Duration::from_millis(5)).await;
            }
        }
        assert_eq!(bytes, size + 5);
        // The one that looks on and took nothing is caught up.
        match observer.next().await {
            Update::CaughtUp { offset, bytes } => {
                assert_eq!(offset + bytes.len() as u64, size as u64 + 5);
                assert!(bytes.ends_with(b"end\n"));
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(observer.next().await, Update::Exit(0));
    });
    with_terminal(Some(&command), |terminals, id| async move {
        let viewer = attach(&terminals, &id, Mode::Pipe).await;
        until("the end", || {
            terminals.status(&id).unwrap().exit_code == Some(0)
        })
        .await;
        assert!(matches!(viewer.next().await, Update::CaughtUp { .. }));
        assert_eq!(viewer.next().await, Update::Exit(0));
    });
}

#[test]
fn idle_terminals_are_forgotten() {
    with_terminal(Some("true"), |terminals, id| async move {
        let viewer = attach(&terminals, &id, Mode::Pty).await;
        let collecting = {
            let terminals = terminals.clone();
            async move { terminals.collect_idle(Duration::from_millis(100)).await }
        };
        let test = async {
            to_the_end(&viewer).await;
            smol::Timer::after(Duration::from_millis(400)).await;
            assert!(terminals.status(&id).is_some(), "somebody is looking");
            drop(viewer);
            until("its end", || terminals.status(&id).is_none()).await;
        };
        test.or(collecting).await;
    });
}

#[test]
fn a_terminal_whose_directory_is_gone_says_so() {
    with_engine(|engine| async move {
        let terminals = Terminals::new(engine.clone());
        let id = terminals
            .create(pty::Request {
                directory: Some("/no/such/place".into()),
                command: None,
                environment: (*engine.environment).clone(),
                logger: logger(),
            })
            .unwrap();
        let viewer = terminals.attach(&id, WRITER, 0).unwrap();
        let error = viewer.start(Mode::Pty, true).await.unwrap_err().to_string();
        assert_eq!(error, "chdir /no/such/place: no such file or directory");
    });
}

#[test]
fn programs_can_be_kept_from_clone3() {
    let name = "programs_can_be_kept_from_clone3";
    if !alone(name, &["env"]) {
        return;
    }
    assert!(clone3::Mode::Install.apply(false, ["x"]).unwrap());
    // SAFETY: an empty argument makes no process even without the filter.
    let result = unsafe { libc::syscall(libc::SYS_clone3, std::ptr::null::<u8>(), 0) };
    let error = std::io::Error::last_os_error().raw_os_error();
    assert_eq!((result, error), (-1, Some(libc::ENOSYS)));
    with_engine(|engine| async move {
        let commands = Commands::new(engine.clone());
        let script = "grep Seccomp: /proc/self/status; (echo sub) | cat";
        let (out, _, end) = run(&commands, request(&engine, script)).await;
        assert_eq!((out.as_str(), end.code()), ("Seccomp:\t2\nsub\n", 0));
    });
}

/// Keeps what is logged, one line a record: its level, then its fields in alphabetical order.
#[derive(Clone, Default)]
struct Lines(Arc<std::sync::Mutex<Vec<String>>>);

impl slog::Drain for Lines {
    type Ok = ();
    type Err = slog::Never;

    fn log(&self, record: &slog::Record<'_>, _: &slog::OwnedKVList) -> Result<(), slog::Never> {
        struct Fields(Vec<String>);
        impl slog::Serializer for Fields {
            fn emit_arguments(
                &mut self,
                key: slog::Key,
                value: &std::fmt::Arguments<'_>,
            ) -> slog::Result {
                self.0.push(format!("{key}={value}"));
                Ok(())
            }
        }
        let mut fields = Fields(Vec::new());
        slog::KV::serialize(&record.kv(), record, &mut fields).unwrap();
        fields.0.sort();
        let line = format!("{} {}", record.level().as_str(), fields.0.join(" "));
        self.0.lock().unwrap().push(line);
        Ok(())
    }
}

#[test]
fn what_runs_is_counted_and_recorded_at_its_real_end() {
    let reader = opensandbox::telemetry::prometheus::Reader::default();
    let provider = opentelemetry_sdk::metrics::SdkMeterProvider::builder()
        .with_reader(reader.clone())
        .build();
    let meter = opentelemetry::metrics::MeterProvider::meter(&provider, Metrics::SCOPE);
    let meter = Meter::new(meter, Arc::from([]));
    let lines = Lines::default();
    let log = slog::Logger::root(lines.clone(), slog::o!());

    let runtime = Runtime::new(NonZeroUsize::new(2).unwrap()).unwrap();
    let mut engine = engine(&runtime);
    engine.observer = Arc::new(Observer::new(log.clone(), Metrics::new(&meter)));
    let value = |series: &str| {
        let text = reader.scrape();
        let line = text.lines().find(|line| line.starts_with(series));
        line.map(|line| line.rsplit(' ').next().unwrap().to_owned())
    };
    let of = |operation: &str, result: &str| {
        // The order of the labels is the exporter's.
        let text = reader.scrape();
        let line = text.lines().find(|line| {
            line.starts_with("execd_execution_count")
                && line.contains(&format!("operation=\"{operation}\""))
                && line.contains(&format!("result=\"{result}\""))
        });
        line.map(|line| line.rsplit(' ').next().unwrap().to_owned())
    };
    runtime.block_on(patiently(async {
        let commands = Commands::new(engine.clone());
        let logged = |command: &str| Request {
            logger: log.clone(),
            ..request(&engine, command)
        };
        let running = commands.start(logged("export TOKEN=hunter2; cat /proc/self/fd/9"));
        let (_, _, end) = collect(&running.await.unwrap().events).await;
        assert_eq!(end.code(), 1);
        run(&commands, logged("true")).await;
        let mut late = logged("sleep 50");
        late.timeout = Some(Duration::from_millis(50));
        run(&commands, late).await;
        let mut gone = logged("true");
        gone.directory = Some("/no/such/place".into());
        commands.start(gone).await.unwrap_err();
        let background = commands.start_background(logged("sleep 2")).await.unwrap();
        assert_eq!(value("execd_commands_active").as_deref(), Some("1"));
        assert_eq!(
            of("run_command", "success").as_deref(),
            Some("1"),
            "not before its end"
        );
        until("the end", || {
            commands.status(&background).unwrap().finished.is_some()
        })
        .await;
        assert_eq!(value("execd_commands_active").as_deref(), Some("0"));
        assert_eq!(of("run_command", "success").as_deref(), Some("2"));
        assert_eq!(of("run_command", "failure").as_deref(), Some("3"));

        let sessions = Sessions::new(engine.clone());
        let id = sessions
            .create(None, (*engine.environment).clone())
            .unwrap();
        for command in ["true", "exit 3"] {
            let run = Run {
                logger: log.clone(),
                ..text(command)
            };
            collect(&sessions.run(&id, run).await.unwrap()).await;
        }
        sessions.delete_all().await;
        assert_eq!(of("run_in_session", "success").as_deref(), Some("1"));
        assert_eq!(of("run_in_session", "failure").as_deref(), Some("1"));

        let terminals = Terminals::new(engine.clone());
        let id = terminals
            .create(pty::Request {
                directory: None,
                command: Some("read".to_owned()),
                environment: (*engine.environment).clone(),
                logger: log.clone(),
            })
            .unwrap();
        let viewer = attach(&terminals, &id, Mode::Pty).await;
        until("its start", || {
            value("execd_pty_sessions_active").as_deref() == Some("1")
        })
        .await;
        viewer.write(b"\n").await.unwrap();
        to_the_end(&viewer).await;
        until("its end", || {
            value("execd_pty_sessions_active").as_deref() == Some("0")
        })
        .await;
        until("its record", || of("pty", "success").is_some()).await;
    }));
    let memory = reader.scrape();
    let memory = memory
        .lines()
        .find(|line| line.starts_with("execd_execution_memory_bytes_sum"))
        .unwrap();
    assert!(memory.rsplit(' ').next().unwrap().parse::<f64>().unwrap() > 100_000.0);

    let lines = lines.0.lock().unwrap();
    let events: Vec<_> = lines
        .iter()
        .filter(|line| line.contains("opensandbox.event=execd.execution"))
        .collect();
    assert_eq!(events.len(), 8, "{lines:#?}");
    for part in [
        "exit_code=1",
        "result=failure",
        "reason=exit",
        "operation=run_command",
    ] {
        assert!(events[0].contains(part), "{part}: {}", events[0]);
    }
    assert!(events[2].contains("reason=timeout") && events[2].contains("exit_code=-1"));
    assert!(events[3].contains("reason=spawn_failed") && !events[3].contains("exit_code"));
    // The command line is there for those who ask for everything, without its secret.
    assert!(lines.iter().all(|line| !line.contains("hunter2")));
    for line in lines.iter().filter(|line| line.contains("cat /proc")) {
        assert!(
            line.starts_with("DEBUG") && line.contains("TOKEN=****"),
            "{line}"
        );
    }
}
