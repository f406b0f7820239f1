//! Processor time of the machine: the first line of `/proc/stat` (proc_stat(5)).

use super::text::{lines, number, words};

/// Clock ticks between two readings below which their ratio would be chance.
const FEWEST_TICKS: u64 = 10;

/// Time all processors have spent since the machine started, in clock ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// Everything but idling. Waiting for a disk is idling: the processor was free.
    pub busy: u64,
    /// Waiting for a disk.
    pub waiting: u64,
    /// Working and idling.
    pub total: u64,
}

impl Times {
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let mut fields = words(lines(text).next()?);
        if fields.next()? != b"cpu" {
            return None;
        }
        // user nice system idle iowait irq softirq steal; the guest times that follow are part
        // of user and nice. Old kernels have fewer.
        let mut ticks = [0; 8];
        let mut seen = 0;
        for (tick, field) in ticks.iter_mut().zip(fields) {
            *tick = number(field)?;
            seen += 1;
        }
        let [user, nice, system, idle, wait, irq, soft, steal] = ticks;
        let sum = |parts: &[u64]| {
            parts
                .iter()
                .try_fold(0_u64, |sum, part| sum.checked_add(*part))
        };
        let busy = sum(&[user, nice, system, irq, soft, steal])?;
        let total = sum(&[busy, idle, wait])?;
        (seen >= 4).then_some(Self {
            busy,
            waiting: wait,
            total,
        })
    }
}

/// Turns successive [`Times`] into the share of time spent working.
#[derive(Clone, Copy, Debug, Default)]
pub struct BusyShare {
    previous: Option<Times>,
    share: f64,
}

impl BusyShare {
    /// The share since the previous reading, 0 to 1; 0 for the first one. Readings too close
    /// together to say anything repeat the last answer, and the span goes on: two exporters may
    /// read at the same moment.
    pub fn advance(&mut self, now: Times) -> f64 {
        if let Some(previous) = self.previous {
            let total = now.total.saturating_sub(previous.total);
            if (1..FEWEST_TICKS).contains(&total) || now.total == previous.total {
                return self.share;
            }
            let busy = now.busy.saturating_sub(previous.busy);
            self.share = match total {
                // The counters went back, as they may when a container moves.
                0 => 0.0,
                total => (busy as f64 / total as f64).min(1.0),
            };
        }
        self.previous = Some(now);
        self.share
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_kernels_line() {
        let text = b"cpu  49811 15770 14622 538125 1456 0 182 50 9 9\ncpu0 1 1 1 1\n";
        assert_eq!(
            Times::parse(text),
            Some(Times {
                busy: 49_811 + 15_770 + 14_622 + 182 + 50,
                waiting: 1_456,
                total: 49_811 + 15_770 + 14_622 + 538_125 + 1_456 + 182 + 50,
            })
        );
        assert_eq!(
            Times::parse(b"cpu 1 2 3 4"),
            Some(Times {
                busy: 6,
                waiting: 0,
                total: 10
            })
        );
        for text in [
            "",
            "cpu",
            "cpu 1 2 3",
            "cpu0 1 2 3 4",
            "cpu 1 2 x 4",
            "cpu 18446744073709551615 1 0 0",
        ] {
            assert_eq!(Times::parse(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn the_share_between_readings() {
        let times = |busy, total| Times {
            busy,
            total,
            ..Times::default()
        };
        let mut share = BusyShare::default();
        assert_eq!(share.advance(times(500, 1000)), 0.0);
        assert_eq!(share.advance(times(525, 1100)), 0.25);
        // Too soon: the same answer, and the span is not cut.
        assert_eq!(share.advance(times(534, 1109)), 0.25);
        assert_eq!(share.advance(times(575, 1200)), 0.5);
        assert_eq!(share.advance(times(575, 1200)), 0.5);
        assert_eq!(share.advance(times(10, 20)), 0.0);
        assert_eq!(share.advance(times(30, 40)), 1.0);
    }

    proptest! {
        #[test]
        fn garbage_never_panics(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Times::parse(&text);
        }

        #[test]
        fn a_share_is_a_share(readings in proptest::collection::vec((any::<u64>(), any::<u64>()), 1..20)) {
            let mut share = BusyShare::default();
            for (busy, total) in readings {
                let value = share.advance(Times { busy, total, ..Times::default() });
                prop_assert!((0.0..=1.0).contains(&value));
            }
        }
    }
}
