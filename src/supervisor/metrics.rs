//! What the supervisor measures.

use opentelemetry::KeyValue;

use crate::telemetry::instrument::{
    Counter, Gauge, Histogram, Labels, ObservableCounter, ObservableRatio,
};

/// Boundaries, in seconds, for pauses between restarts.
const PAUSE_SECONDS: &[f64] = &[0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0];

crate::instruments! {
    /// The instruments of the supervisor.
    pub struct Metrics in "opensandbox/supervisor" {
        /// Restarts of the worker that became due, by what made them necessary.
        restarts: Counter<Cause> = "supervisor.worker.restarts_total", "{restart}",
            attributes ["reason"];
        /// Time since the worker was started; no value while it is not running.
        uptime: ObservableRatio = "supervisor.worker.uptime", "s";
        /// Exit code of the worker's last run; -1 when a signal ended it.
        last_exit: Gauge = "supervisor.worker.last_exit.code", "1";
        /// Pauses before restarts.
        backoff: Histogram = "supervisor.backoff.seconds", "s", boundaries PAUSE_SECONDS;
        /// Crash loops: too many launches within the window.
        crash_loops: Counter = "supervisor.crashloop", "{event}";
        /// Orphaned processes whose end was collected.
        orphans: ObservableCounter = "supervisor.orphans.reaped", "{process}";
    }
}

/// What makes a restart necessary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The worker ended with code 0.
    Exited,
    /// The worker ended with another code.
    Crashed,
    /// A signal ended the worker.
    Signaled,
    /// The worker could not be started.
    LaunchFailed,
    /// A pre-start hook failed.
    PreStartFailed,
}

impl Cause {
    /// Every cause.
    pub const ALL: &'static [Self] = &[
        Self::Exited,
        Self::Crashed,
        Self::Signaled,
        Self::LaunchFailed,
        Self::PreStartFailed,
    ];

    /// The attribute value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Exited => "exited",
            Self::Crashed => "crashed",
            Self::Signaled => "signaled",
            Self::LaunchFailed => "launch_failed",
            Self::PreStartFailed => "prestart_failed",
        }
    }
}

impl Labels for Cause {
    const COMBINATIONS: usize = Self::ALL.len();

    fn index(self) -> usize {
        self as usize
    }

    fn attributes(self) -> Vec<KeyValue> {
        vec![KeyValue::new("reason", self.as_str())]
    }
}
