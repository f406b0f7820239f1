//! The account of lost records: how many, and why (`opensandbox.log.records.dropped`).

use std::sync::atomic::{AtomicU64, Ordering};

/// Why a record was not written to an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Reason {
    /// The output's reader or disk was slower than the records came.
    QueueFull,
    /// The record was longer than [`super::MAX_RECORD_BYTES`].
    TooLarge,
    /// The file could not be written: disk full, directory gone.
    WriteFailed,
    /// The reader of the pipe has gone away.
    OutputClosed,
    /// The process ended before the output took it.
    Shutdown,
}

impl Reason {
    /// Every reason, in the order of the counters.
    pub const ALL: [Reason; 5] = [
        Reason::QueueFull,
        Reason::TooLarge,
        Reason::WriteFailed,
        Reason::OutputClosed,
        Reason::Shutdown,
    ];

    /// The attribute value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Reason::QueueFull => "queue_full",
            Reason::TooLarge => "too_large",
            Reason::WriteFailed => "write_failed",
            Reason::OutputClosed => "output_closed",
            Reason::Shutdown => "shutdown",
        }
    }
}

/// Counters by reason, each growing from 0. A record lost at two outputs counts twice.
#[derive(Debug, Default)]
pub struct Dropped([AtomicU64; Reason::ALL.len()]);

impl Dropped {
    pub(in crate::telemetry) fn add(&self, reason: Reason, records: u64) {
        self.0[reason as usize].fetch_add(records, Ordering::Relaxed);
    }

    /// Records lost for this reason since the start.
    #[must_use]
    pub fn count(&self, reason: Reason) -> u64 {
        self.0[reason as usize].load(Ordering::Relaxed)
    }

    /// Records lost since the start.
    #[must_use]
    pub fn total(&self) -> u64 {
        Reason::ALL.iter().map(|reason| self.count(*reason)).sum()
    }
}
