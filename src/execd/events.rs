//! What happens in execd, as one struct an event: `emit` writes the log record and moves the
//! instruments together (telemetry contract, section 9).
//!
//! No record carries a command line, a body, a token or the value of a variable; the command line
//! of an execution is there at level `debug`, sanitised.

use std::time::Duration;

use slog::{KV, Record, Serializer, debug, info};

use super::metrics::{ExecutionLabels, Metrics, Operation};
use super::sanitise::sanitise;
use super::spawn::Usage;
use crate::telemetry::semconv::HttpRequest;

/// Where events go.
pub struct Observer {
    logger: slog::Logger,
    /// The instruments; public for readings that are not events, such as gauges.
    pub metrics: Metrics,
}

impl Observer {
    /// Sends records to `logger` and measurements to `metrics`.
    #[must_use]
    pub fn new(logger: slog::Logger, metrics: Metrics) -> Self {
        Self { logger, metrics }
    }

    /// The logger, for plain operational lines.
    pub fn logger(&self) -> &slog::Logger {
        &self.logger
    }
}

/// `execd.access`: a request was served, or its response abandoned.
pub struct Access {
    /// Method, route template and final status.
    pub request: HttpRequest,
    /// From the request's head to the end of the response.
    pub elapsed: Duration,
    /// Whether the whole response was sent.
    pub complete: bool,
}

impl Access {
    /// Writes the record to `logger` (that of the request, with its trace context) and moves the
    /// instruments.
    pub fn emit(&self, to: &Observer, logger: &slog::Logger) {
        to.metrics.http_requests.add_for(1, &self.request);
        let seconds = self.elapsed.as_secs_f64();
        to.metrics.http_duration.record_for(seconds, &self.request);
        to.metrics.server_duration.record(seconds, self.request);
        info!(logger, "execd access"; self);
    }
}

impl KV for Access {
    fn serialize(&self, _: &Record<'_>, serializer: &mut dyn Serializer) -> slog::Result {
        serializer.emit_str("opensandbox.event".into(), "execd.access")?;
        serializer.emit_str("method".into(), self.request.method.as_str())?;
        serializer.emit_str("route".into(), self.request.route)?;
        serializer.emit_u16("status".into(), self.request.status)?;
        serializer.emit_f64("duration".into(), self.elapsed.as_secs_f64())?;
        if self.complete {
            return Ok(());
        }
        serializer.emit_bool("aborted".into(), true)
    }
}

/// Why an execution ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// By itself.
    Exit,
    /// A signal that execd did not send.
    Signal,
    /// It took longer than it may.
    Timeout,
    /// Somebody asked for its end.
    Interrupt,
    /// It never began.
    SpawnFailed,
}

impl Reason {
    /// The text in records.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Exit => "exit",
            Self::Signal => "signal",
            Self::Timeout => "timeout",
            Self::Interrupt => "interrupt",
            Self::SpawnFailed => "spawn_failed",
        }
    }
}

/// `execd.execution`: an execution ended, or could not begin.
pub struct Execution<'a> {
    /// What was executed.
    pub operation: Operation,
    /// The id its client knows it by.
    pub id: &'a str,
    /// The command line, for level `debug`.
    pub command: &'a str,
    /// Its exit code, -1 after a signal; none when it never began.
    pub exit_code: Option<i32>,
    /// Why it ended.
    pub reason: Reason,
    /// From its start to its end.
    pub elapsed: Duration,
    /// What it used, where the kernel says so for it alone.
    pub usage: Option<Usage>,
}

impl Execution<'_> {
    fn labels(&self) -> ExecutionLabels {
        ExecutionLabels {
            operation: self.operation,
            success: self.reason == Reason::Exit && self.exit_code == Some(0),
        }
    }

    /// Writes the record to `logger` (that of the request, with its trace context) and moves the
    /// instruments.
    pub fn emit(&self, to: &Observer, logger: &slog::Logger) {
        let labels = self.labels();
        to.metrics.executions.add_for(1, labels);
        to.metrics
            .execution_duration
            .record_for(self.elapsed.as_secs_f64(), labels);
        if let Some(peak) = self.usage.and_then(|usage| usage.max_rss_bytes) {
            #[expect(clippy::cast_precision_loss, reason = "exact up to 8 PiB")]
            let peak = peak as f64;
            to.metrics.execution_memory.record_for(peak, self.operation);
        }
        info!(logger, "execd execution"; self);
        debug!(logger, "execd execution"; "execution_id" => self.id,
            "command" => %sanitise(self.command));
    }
}

impl KV for Execution<'_> {
    fn serialize(&self, _: &Record<'_>, serializer: &mut dyn Serializer) -> slog::Result {
        serializer.emit_str("opensandbox.event".into(), "execd.execution")?;
        serializer.emit_str("operation".into(), self.operation.as_str())?;
        serializer.emit_str("execution_id".into(), self.id)?;
        serializer.emit_str("result".into(), self.labels().result())?;
        serializer.emit_str("reason".into(), self.reason.as_str())?;
        if let Some(code) = self.exit_code {
            serializer.emit_i32("exit_code".into(), code)?;
        }
        serializer.emit_f64("duration".into(), self.elapsed.as_secs_f64())?;
        if let Some(usage) = self.usage {
            serializer.emit_f64("cpu_time".into(), (usage.user + usage.system).as_secs_f64())?;
            if let Some(peak) = usage.max_rss_bytes {
                serializer.emit_u64("max_rss".into(), peak)?;
            }
        }
        Ok(())
    }
}

/// A command began to run.
pub struct CommandStarted;

impl CommandStarted {
    /// Moves the instrument; [`CommandEnded`] moves it back.
    pub fn emit(&self, to: &Observer) {
        to.metrics.commands_active.add(1);
    }
}

/// A command that had begun ended.
pub struct CommandEnded;

impl CommandEnded {
    /// Moves the instrument.
    pub fn emit(&self, to: &Observer) {
        to.metrics.commands_active.add(-1);
    }
}

/// The shell of a terminal began to run.
pub struct PtyStarted;

impl PtyStarted {
    /// Moves the instrument; [`PtyEnded`] moves it back.
    pub fn emit(&self, to: &Observer) {
        to.metrics.ptys_active.add(1);
    }
}

/// The shell of a terminal ended.
pub struct PtyEnded;

impl PtyEnded {
    /// Moves the instrument.
    pub fn emit(&self, to: &Observer) {
        to.metrics.ptys_active.add(-1);
    }
}
