//! What happens to a worker, as one struct an event: `emit` writes the line of the event log and
//! that of the diagnostic log, and moves the instruments.
//!
//! Keys and their order are those of the Go component; `ts` is always UTC.

use std::borrow::Cow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use rustix::process::Pid;
use serde::Serialize;
use slog::{Logger, error, info, warn};

use super::ended::Ended;
use super::metrics::{Cause, Metrics};
use crate::config::duration_text;
use crate::telemetry::log::LineWriter;
use crate::telemetry::log::timestamp::rfc3339_nanoseconds;

/// Where events go.
pub struct Observer {
    name: String,
    logger: Logger,
    log: LineWriter,
    metrics: Metrics,
    running_since: Arc<Mutex<Option<Instant>>>,
    orphans: Arc<AtomicU64>,
}

impl Observer {
    /// Sends the events of the worker called `name` to `log`, to `logger` and to `metrics`.
    #[must_use]
    pub fn new(name: String, log: LineWriter, logger: Logger, metrics: Metrics) -> Self {
        let running_since = Arc::<Mutex<Option<Instant>>>::default();
        let since = running_since.clone();
        metrics.uptime.observe(move |observe| {
            if let Some(since) = *lock(&since) {
                observe(since.elapsed().as_secs_f64(), &[]);
            }
        });
        let orphans = Arc::<AtomicU64>::default();
        let reaped = orphans.clone();
        metrics.orphans.observe(move |observe| {
            observe(reaped.load(Ordering::Relaxed), &[]);
        });
        Self {
            name,
            logger,
            log,
            metrics,
            running_since,
            orphans,
        }
    }

    /// The logger, for plain operational lines.
    pub fn logger(&self) -> &Logger {
        &self.logger
    }

    /// Where orphans that were reaped are counted.
    #[must_use]
    pub fn orphans(&self) -> Arc<AtomicU64> {
        self.orphans.clone()
    }

    fn write(&mut self, event: &'static str, line: Line<'_>) {
        let line = Line {
            ts: rfc3339_nanoseconds(SystemTime::now()),
            name: &self.name,
            event,
            ..line
        };
        let written = serde_json::to_vec(&line)
            .map_err(Into::into)
            .and_then(|mut text| {
                text.push(b'\n');
                self.log.write(&text)
            });
        if let Err(cause) = written {
            warn!(
                self.logger,
                "supervisor: event {event} not written: {cause}"
            );
        }
    }
}

/// The value is replaced as a whole, so a panic elsewhere leaves it whole.
fn lock(since: &Mutex<Option<Instant>>) -> MutexGuard<'_, Option<Instant>> {
    since.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One line of the event log; what is not known is left out.
#[derive(Debug, Default, Serialize)]
struct Line<'a> {
    ts: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    event: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<i32>,
    #[serde(skip_serializing_if = "is_zero")]
    r#gen: u64,
    #[serde(skip_serializing_if = "is_zero")]
    attempt: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signal: Option<Cow<'static, str>>,
    #[serde(skip_serializing_if = "is_zero")]
    duration_ms: u64,
    #[serde(skip_serializing_if = "str::is_empty")]
    reason: &'static str,
    #[serde(skip_serializing_if = "is_zero")]
    sleep_ms: u64,
    #[serde(skip_serializing_if = "is_zero")]
    next_attempt: u64,
    #[serde(skip_serializing_if = "str::is_empty")]
    hook: &'a str,
    #[serde(skip_serializing_if = "is_zero")]
    attempts: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    window: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    error: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    reset_backoff: bool,
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature serde asks for"
)]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Whole milliseconds of a duration.
#[must_use]
pub fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// One run of the worker.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// Its process.
    pub pid: Pid,
    /// Which attempt it is, from 1; also the generation, as every attempt begins a new one.
    pub attempt: u64,
}

impl Run {
    fn line<'a>(self) -> Line<'a> {
        Line {
            pid: Some(self.pid.as_raw_pid()),
            r#gen: self.attempt,
            attempt: self.attempt,
            ..Line::default()
        }
    }
}

/// The hooks before a launch, or those after the end of the worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Before a launch.
    PreStart,
    /// After the end of the worker.
    PostExit,
}

/// `prestart`, `postexit`: a hook has ended, or could not be started.
pub struct Hook<'a> {
    /// When it was run.
    pub stage: Stage,
    /// Its path as given.
    pub path: &'a str,
    /// How it ended; the error if it never ran.
    pub ended: Result<Ended, String>,
    /// How long it took.
    pub elapsed: Duration,
}

impl Hook<'_> {
    /// Writes the event.
    pub fn emit(&self, to: &mut Observer) {
        let (event, log_name) = match self.stage {
            Stage::PreStart => ("prestart", "pre-start"),
            Stage::PostExit => ("postexit", "post-exit"),
        };
        let error = self.failure().unwrap_or_default();
        if !error.is_empty() {
            let path = self.path;
            warn!(
                to.logger,
                "supervisor: {log_name} hook failed: {event} hook {path:?}: {error}"
            );
        }
        let line = Line {
            exit_code: Some(self.ended.as_ref().map_or(-1, |ended| ended.code())),
            duration_ms: milliseconds(self.elapsed),
            hook: self.path,
            error,
            ..Line::default()
        };
        to.write(event, line);
    }

    /// What went wrong, if anything did.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        match &self.ended {
            Ok(ended) if ended.success() => None,
            Ok(ended) => Some(ended.to_string()),
            Err(error) => Some(error.clone()),
        }
    }
}

/// `start`: the worker runs.
pub struct Start(pub Run);

impl Start {
    /// Writes the event.
    pub fn emit(&self, to: &mut Observer) {
        let Run { pid, attempt } = self.0;
        *lock(&to.running_since) = Some(Instant::now());
        let pid = pid.as_raw_pid();
        info!(
            to.logger,
            "supervisor: worker started (pid={pid}, gen={attempt}, attempt={attempt})"
        );
        to.write("start", self.0.line());
    }
}

/// `exit`: the worker has ended.
pub struct Exit {
    /// Which run.
    pub run: Run,
    /// How it ended; `None` if the kernel no longer knows.
    pub ended: Option<Ended>,
    /// How long it ran.
    pub elapsed: Duration,
    /// Whether the supervisor had been told to stop.
    pub stopping: bool,
}

impl Exit {
    /// Writes the event.
    pub fn emit(&self, to: &mut Observer) {
        *lock(&to.running_since) = None;
        let code = self.ended.map_or(-1, Ended::code);
        to.metrics.last_exit.record(code.into());
        let signal = self.ended.and_then(Ended::signal);
        let reason = self.reason();
        let Run { pid, attempt } = self.run;
        let pid = pid.as_raw_pid();
        let elapsed = duration_text(self.elapsed);
        let name = signal.as_deref().unwrap_or_default();
        info!(
            to.logger,
            "supervisor: worker exited (pid={pid}, gen={attempt}, dur={elapsed}, code={code}, signal={name}, reason={reason})"
        );
        let line = Line {
            exit_code: Some(code),
            signal,
            duration_ms: milliseconds(self.elapsed),
            reason,
            ..self.run.line()
        };
        to.write("exit", line);
    }

    fn reason(&self) -> &'static str {
        match self.ended {
            None => "no_processstate",
            Some(_) if self.stopping => "shutdown",
            Some(_) => self.cause().as_str(),
        }
    }

    /// Why the worker has to be started again.
    #[must_use]
    pub fn cause(&self) -> Cause {
        match self.ended {
            Some(ended) if ended.success() => Cause::Exited,
            Some(ended) if ended.signal().is_some() => Cause::Signaled,
            Some(_) | None => Cause::Crashed,
        }
    }
}

/// `exit` with `launch_failed`: the worker could not be started.
pub struct LaunchFailed {
    /// Which attempt.
    pub attempt: u64,
    /// Why.
    pub error: String,
}

impl LaunchFailed {
    /// Writes the event.
    pub fn emit(&self, to: &mut Observer) {
        error!(to.logger, "supervisor: launch failed: {}", self.error);
        let line = Line {
            r#gen: self.attempt,
            attempt: self.attempt,
            reason: Cause::LaunchFailed.as_str(),
            error: self.error.clone(),
            ..Line::default()
        };
        to.write("exit", line);
    }
}

/// `stable`: the worker that has ended ran long enough for the next pause to be short again.
pub struct Stable {
    /// Which run.
    pub run: Run,
    /// How long it ran.
    pub elapsed: Duration,
}

impl Stable {
    /// Writes the event.
    pub fn emit(&self, to: &mut Observer) {
        let line = Line {
            attempt: 0,
            duration_ms: milliseconds(self.elapsed),
            reset_backoff: true,
            ..self.run.line()
        };
        to.write("stable", line);
    }
}

/// `backoff`: a restart is due after a pause.
pub struct Backoff {
    /// The pause.
    pub pause: Duration,
    /// The number of the attempt after it.
    pub next_attempt: u64,
    /// What made it necessary.
    pub cause: Cause,
}

impl Backoff {
    /// Writes the event and moves the instruments.
    pub fn emit(&self, to: &mut Observer) {
        to.metrics.backoff.record(self.pause.as_secs_f64());
        to.metrics.restarts.add_for(1, self.cause);
        let line = Line {
            sleep_ms: milliseconds(self.pause),
            next_attempt: self.next_attempt,
            ..Line::default()
        };
        to.write("backoff", line);
    }
}

/// `burst_exit`: a crash loop.
pub struct BurstExit {
    /// The last attempt.
    pub attempt: u64,
    /// Launches within the window.
    pub launches: usize,
    /// The window.
    pub window: Duration,
}

impl BurstExit {
    const REASON: &str = "crashloop budget exceeded";

    /// Writes the event and moves the instruments.
    pub fn emit(&self, to: &mut Observer) {
        to.metrics.crash_loops.add(1);
        error!(to.logger, "supervisor: supervisor: {}", Self::REASON);
        let line = Line {
            attempt: self.attempt,
            reason: Self::REASON,
            attempts: self.launches as u64,
            window: duration_text(self.window),
            ..Line::default()
        };
        to.write("burst_exit", line);
    }
}

/// `shutdown`: the supervisor ends because it was told to.
pub struct Shutdown;

impl Shutdown {
    /// Writes the event.
    pub fn emit(&self, to: &mut Observer) {
        let line = Line {
            reason: "ctx cancelled",
            ..Line::default()
        };
        to.write("shutdown", line);
    }
}
