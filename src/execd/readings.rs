//! What `GET /metrics` tells: processors and memory, of the machine or of the control group
//! (contract 6).
//!
//! The share of processor time needs two readings. The earlier one is that of the request before,
//! where it is not too old; else the request waits for [`WINDOW`].

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Serialize, Serializer};
use smol::Timer;

use super::config::Scope;
use crate::host::{Cgroup, Host};

/// The least time between the two readings of a share: at 100 ticks a second and processor, it is
/// exact to 4 % of one.
pub const WINDOW: Duration = Duration::from_millis(250);

/// The time from which on an earlier reading is too old to speak of now.
pub const MAX_WINDOW: Duration = Duration::from_secs(10);

/// How long a reading stays the earlier one while others ask.
const RENEW: Duration = Duration::from_secs(1);

/// What the system does not tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Processor time.
    #[error("failed to get CPU percent: /proc/stat or the control group cannot be read")]
    Cpu,
    /// Memory.
    #[error("failed to get memory info: /proc/meminfo or the control group cannot be read")]
    Memory,
}

/// The answer of `GET /metrics`, its keys in order.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Reading {
    /// Processors that may be used.
    #[serde(serialize_with = "number")]
    pub cpu_count: f64,
    /// Share of their time that was used, 0 to 100.
    #[serde(serialize_with = "number")]
    pub cpu_used_pct: f64,
    /// Memory there is, in MiB.
    #[serde(serialize_with = "number")]
    pub mem_total_mib: f64,
    /// Memory in use, in MiB.
    #[serde(serialize_with = "number")]
    pub mem_used_mib: f64,
    /// When it was asked for, in milliseconds since 1970.
    pub timestamp: u64,
}

/// A whole number without a fraction, as Go writes it.
fn number<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    #[expect(clippy::cast_possible_truncation, reason = "it is exact below 2^53")]
    if value.fract() == 0.0 && value.abs() < 9e15 {
        serializer.serialize_i64(*value as i64)
    } else {
        serializer.serialize_f64(*value)
    }
}

/// Processor time used, of how much there was, up to a moment.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    at: Instant,
    used: f64,
    of: f64,
}

impl Sample {
    /// The share used since an earlier one, 0 to 100.
    #[must_use]
    pub fn share_since(&self, earlier: &Self) -> f64 {
        let (used, of) = (self.used - earlier.used, self.of - earlier.of);
        if used <= 0.0 || of <= 0.0 {
            return 0.0;
        }
        (used / of * 100.0).min(100.0)
    }
}

/// Takes readings.
pub struct Readings {
    host: Host,
    cgroup: Cgroup,
    scope: Scope,
    began: Instant,
    earlier: Mutex<Option<Sample>>,
}

impl Readings {
    /// Readings of the machine, or of the control group of this process.
    #[must_use]
    pub fn new(scope: Scope) -> Self {
        Self {
            host: Host::new(),
            cgroup: Cgroup::of_this_process(),
            scope,
            began: Instant::now(),
            earlier: Mutex::new(None),
        }
    }

    /// The state of now. `timestamp` is when it was asked for.
    ///
    /// # Errors
    ///
    /// The system does not tell.
    pub async fn now(&self, timestamp: u64) -> Result<Reading, Error> {
        let first = self.sample()?;
        let earlier = match *self.earlier() {
            Some(earlier) if first.at - earlier.at < MAX_WINDOW => earlier,
            _ => first,
        };
        let age = first.at - earlier.at;
        let last = if age < WINDOW {
            Timer::after(WINDOW - age).await;
            self.sample()?
        } else {
            first
        };
        let mut kept = self.earlier();
        if kept.is_none_or(|kept| last.at.saturating_duration_since(kept.at) >= RENEW) {
            *kept = Some(last);
        }
        drop(kept);
        self.reading(last.share_since(&earlier), timestamp)
    }

    /// Processor time up to now.
    ///
    /// # Errors
    ///
    /// The system does not tell.
    pub fn sample(&self) -> Result<Sample, Error> {
        let at = Instant::now();
        let (used, of) = match self.scope {
            Scope::Host => {
                let times = self.host.cpu_times().ok_or(Error::Cpu)?;
                // Clients have always been told the time of waiting for a disk as used.
                (float(times.busy + times.waiting), float(times.total))
            }
            Scope::Cgroup => {
                let used = self.cgroup.cpu_time().ok_or(Error::Cpu)?;
                let passed = (at - self.began).as_secs_f64();
                (used.as_secs_f64(), passed * self.cpu_count())
            }
        };
        Ok(Sample { at, used, of })
    }

    /// The state of now with a share that is known.
    ///
    /// # Errors
    ///
    /// The system does not tell.
    pub fn reading(&self, cpu_used_pct: f64, timestamp: u64) -> Result<Reading, Error> {
        let host = self.host.memory().ok_or(Error::Memory)?;
        let (total, used) = match self.scope {
            Scope::Host => (host.total, host.taken()),
            Scope::Cgroup => (
                self.cgroup
                    .memory_limit()
                    .unwrap_or(host.total)
                    .min(host.total),
                self.cgroup.memory_working_set().ok_or(Error::Memory)?,
            ),
        };
        let mebibytes = |bytes: u64| float(bytes) / (1024.0 * 1024.0);
        Ok(Reading {
            cpu_count: self.cpu_count(),
            cpu_used_pct,
            mem_total_mib: mebibytes(total),
            mem_used_mib: mebibytes(used.min(total)),
            timestamp,
        })
    }

    /// Processors' worth of time there is. Of the machine, clients have always been told as many as
    /// the runtime of Go would use: those it may run on, and no fewer than two of them for a quota.
    fn cpu_count(&self) -> f64 {
        let allowed =
            rustix::thread::sched_getaffinity(None).map_or(1.0, |set| f64::from(set.count()));
        match (self.scope, self.cgroup.cpu_quota()) {
            (_, None) => allowed,
            (Scope::Host, Some(quota)) => quota.ceil().max(2.0).min(allowed),
            (Scope::Cgroup, Some(quota)) => quota.min(allowed),
        }
    }

    fn earlier(&self) -> std::sync::MutexGuard<'_, Option<Sample>> {
        // Whole after a panic: it is replaced as a whole.
        self.earlier.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[expect(clippy::cast_precision_loss, reason = "exact up to 8 PiB")]
fn float(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_have_no_fraction() {
        let reading = Reading {
            cpu_count: 2.0,
            cpu_used_pct: 45.5,
            mem_total_mib: 24103.92,
            mem_used_mib: 0.0,
            timestamp: 1_795_219_935_057,
        };
        assert_eq!(
            serde_json::to_string(&reading).unwrap(),
            r#"{"cpu_count":2,"cpu_used_pct":45.5,"mem_total_mib":24103.92,"mem_used_mib":0,"timestamp":1795219935057}"#
        );
    }

    #[test]
    fn a_share_is_from_0_to_100() {
        let at = Instant::now();
        let sample = |used, of| Sample { at, used, of };
        for (earlier, later, share) in [
            ((0.0, 0.0), (1.0, 4.0), 25.0),
            ((5.0, 10.0), (5.0, 20.0), 0.0),
            ((5.0, 10.0), (4.0, 20.0), 0.0),
            ((5.0, 10.0), (6.0, 10.0), 0.0),
            ((0.0, 0.0), (5.0, 4.0), 100.0),
        ] {
            let later = sample(later.0, later.1);
            assert_eq!(later.share_since(&sample(earlier.0, earlier.1)), share);
        }
    }

    #[test]
    fn this_machine_has_a_reading() {
        let readings = Readings::new(Scope::Host);
        let begun = Instant::now();
        let first = smol::block_on(readings.now(1)).unwrap();
        assert!(begun.elapsed() >= WINDOW);
        for reading in [first, smol::block_on(readings.now(2)).unwrap()] {
            assert!(reading.cpu_count >= 1.0);
            assert!((0.0..=100.0).contains(&reading.cpu_used_pct));
            assert!(reading.mem_total_mib > 0.0);
            assert!((0.0..=reading.mem_total_mib).contains(&reading.mem_used_mib));
        }
    }
}
