//! What the supervisor measures.

use crate::telemetry::instrument::{Counter, Gauge, Histogram, ObservableCounter, ObservableRatio};

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
        last_exit: Gauge = "supervisor.worker.last_exit.code", "{code}";
        /// Pauses before restarts.
        backoff: Histogram = "supervisor.backoff.seconds", "s", boundaries PAUSE_SECONDS;
        /// Crash loops: too many launches within the window.
        crash_loops: Counter = "supervisor.crashloop", "{event}";
        /// Orphaned processes whose end was collected.
        orphans: ObservableCounter = "supervisor.orphans.reaped", "{process}";
    }
}

crate::attribute_values! {
    /// What makes a restart necessary.
    pub enum Cause as "reason" {
        /// The worker ended with code 0.
        Exited = "exited",
        /// The worker ended with another code.
        Crashed = "crashed",
        /// A signal ended the worker.
        Signaled = "signaled",
        /// The worker could not be started.
        LaunchFailed = "launch_failed",
        /// A pre-start hook failed.
        PreStartFailed = "prestart_failed",
    }
}
