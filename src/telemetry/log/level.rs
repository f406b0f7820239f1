//! How much is logged: the threshold of a process, its names in the three components, and its
//! change at run time.
//!
//! Pure apart from one atomic; never writes a record itself.

use std::fmt;
use std::sync::atomic::{AtomicU8, Ordering};

/// The least severe records that are written. Ordered from silent to talkative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Threshold {
    /// Nothing; what the components call `fatal`, because they emit nothing that severe.
    Silent,
    /// Errors.
    Error,
    /// And warnings.
    Warn,
    /// And what an operator wants to see of a healthy process.
    #[default]
    Info,
    /// And everything.
    Debug,
}

impl Threshold {
    const ALL: [Threshold; 5] = [
        Threshold::Silent,
        Threshold::Error,
        Threshold::Warn,
        Threshold::Info,
        Threshold::Debug,
    ];

    /// The threshold egress and ingress call `name`; case and surrounding space do not matter.
    /// `None` when there is no such name, for which both use [`Threshold::Info`].
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        match name.trim().to_ascii_lowercase().as_str() {
            "debug" => Some(Threshold::Debug),
            "info" => Some(Threshold::Info),
            "warn" | "warning" => Some(Threshold::Warn),
            "error" => Some(Threshold::Error),
            "fatal" => Some(Threshold::Silent),
            _ => None,
        }
    }

    /// The threshold execd calls `number` (`--log-level`, after RFC 5424's severities): up to 2
    /// silent, 3 errors, 4 warnings, 5 and 6 information, from 7 everything.
    #[must_use]
    pub fn from_number(number: i64) -> Self {
        match number {
            ..=2 => Threshold::Silent,
            3 => Threshold::Error,
            4 => Threshold::Warn,
            5 | 6 => Threshold::Info,
            7.. => Threshold::Debug,
        }
    }

    /// The name an operator gives it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Threshold::Silent => "fatal",
            Threshold::Error => "error",
            Threshold::Warn => "warn",
            Threshold::Info => "info",
            Threshold::Debug => "debug",
        }
    }

    fn step(self, by: isize) -> Self {
        (self as usize)
            .checked_add_signed(by)
            .and_then(|position| Self::ALL.get(position).copied())
            .unwrap_or(self)
    }
}

impl fmt::Display for Threshold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The four names a record can have. slog's `trace` is written as `debug` and its `critical` as
/// `error`: a reader of the log knows no others.
pub(super) const fn name(level: slog::Level) -> &'static str {
    match level {
        slog::Level::Critical | slog::Level::Error => "error",
        slog::Level::Warning => "warn",
        slog::Level::Info => "info",
        slog::Level::Debug | slog::Level::Trace => "debug",
    }
}

/// A threshold shared by the drain that asks and the signal handler that changes it.
pub(super) struct Shared(AtomicU8);

impl Shared {
    pub(super) const fn new(threshold: Threshold) -> Self {
        Self(AtomicU8::new(threshold as u8))
    }

    pub(super) fn get(&self) -> Threshold {
        let position = usize::from(self.0.load(Ordering::Relaxed));
        Threshold::ALL.get(position).copied().unwrap_or_default()
    }

    /// Moves by `by` steps and returns the threshold before and after; at either end it stays.
    pub(super) fn step(&self, by: isize) -> (Threshold, Threshold) {
        let mut before = self.get();
        loop {
            let after = before.step(by);
            match self.0.compare_exchange(
                before as u8,
                after as u8,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return (before, after),
                Err(_) => before = self.get(),
            }
        }
    }

    /// Whether a record of this level is written: one relaxed load and one comparison.
    #[inline]
    pub(super) fn admits(&self, level: slog::Level) -> bool {
        let needed = match level {
            slog::Level::Critical | slog::Level::Error => Threshold::Error,
            slog::Level::Warning => Threshold::Warn,
            slog::Level::Info => Threshold::Info,
            slog::Level::Debug | slog::Level::Trace => Threshold::Debug,
        };
        needed as u8 <= self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_egress_and_ingress() {
        for (name, expected) in [
            ("debug", Some(Threshold::Debug)),
            (" INFO ", Some(Threshold::Info)),
            ("warn", Some(Threshold::Warn)),
            ("Warning", Some(Threshold::Warn)),
            ("error", Some(Threshold::Error)),
            ("fatal", Some(Threshold::Silent)),
            ("", None),
            ("trace", None),
            ("2", None),
        ] {
            assert_eq!(Threshold::from_name(name), expected, "{name:?}");
        }
    }

    #[test]
    fn numbers_of_execd() {
        let expected = [
            (i64::MIN, Threshold::Silent),
            (-1, Threshold::Silent),
            (0, Threshold::Silent),
            (2, Threshold::Silent),
            (3, Threshold::Error),
            (4, Threshold::Warn),
            (5, Threshold::Info),
            (6, Threshold::Info),
            (7, Threshold::Debug),
            (i64::MAX, Threshold::Debug),
        ];
        for (number, threshold) in expected {
            assert_eq!(Threshold::from_number(number), threshold, "{number}");
        }
    }

    #[test]
    fn a_step_stops_at_both_ends() {
        let shared = Shared::new(Threshold::Info);
        assert_eq!(shared.step(1), (Threshold::Info, Threshold::Debug));
        assert_eq!(shared.step(1), (Threshold::Debug, Threshold::Debug));
        for _ in 0..9 {
            shared.step(-1);
        }
        assert_eq!(shared.get(), Threshold::Silent);
        assert!(!shared.admits(slog::Level::Critical));
        assert_eq!(shared.step(1), (Threshold::Silent, Threshold::Error));
        assert!(shared.admits(slog::Level::Error));
        assert!(!shared.admits(slog::Level::Warning));
    }
}
