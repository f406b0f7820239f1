//! When a failed export is tried again (OTLP specification, sections "Failures", "Retry" and
//! "Throttling"). Pure: the clock and the randomness are parameters.

use std::time::{Duration, SystemTime};

/// The first wait between two attempts.
const FIRST: Duration = Duration::from_millis(250);

/// The longest wait between two attempts that the receiver did not ask for.
const LONGEST: Duration = Duration::from_secs(5);

/// The longest wait a receiver can ask for; more is cut to this.
pub const LONGEST_ASKED: Duration = Duration::from_secs(300);

/// The waits between the attempts of one export: exponential, with jitter.
#[derive(Debug, Default)]
pub struct Backoff {
    attempts: u32,
}

impl Backoff {
    /// The next wait: between half and all of twice the previous bound, and never shorter than what
    /// the receiver `asked` for. `random` spreads receivers' clients over time.
    pub fn next(&mut self, asked: Option<Duration>, random: u32) -> Duration {
        let bound = FIRST
            .saturating_mul(1_u32.checked_shl(self.attempts).unwrap_or(u32::MAX))
            .min(LONGEST);
        self.attempts = self.attempts.saturating_add(1);
        let jittered = bound.mul_f64(0.5 + 0.5 * f64::from(random) / f64::from(u32::MAX));
        jittered.max(asked.unwrap_or_default().min(LONGEST_ASKED))
    }
}

/// Whether an HTTP status is worth another attempt.
#[must_use]
pub fn http_status(status: u16) -> bool {
    matches!(status, 429 | 502 | 503 | 504)
}

/// Whether a gRPC status is worth another attempt; `throttled`: it came with a `RetryInfo`, which
/// alone makes `RESOURCE_EXHAUSTED` temporary.
#[must_use]
pub fn grpc_status(code: u16, throttled: bool) -> bool {
    match code {
        // CANCELLED, DEADLINE_EXCEEDED, ABORTED, OUT_OF_RANGE, UNAVAILABLE, DATA_LOSS
        1 | 4 | 10 | 11 | 14 | 15 => true,
        // RESOURCE_EXHAUSTED
        8 => throttled,
        _ => false,
    }
}

/// The wait a `Retry-After` header asks for: seconds, or a date (RFC 9110, section 10.2.3).
#[must_use]
pub fn retry_after(header: &str, now: SystemTime) -> Option<Duration> {
    let header = header.trim();
    if let Ok(seconds) = header.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(header).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_bound_and_are_spread() {
        let waits = |random| {
            let mut backoff = Backoff::default();
            (0..8)
                .map(|_| backoff.next(None, random).as_millis())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            waits(u32::MAX),
            [250, 500, 1000, 2000, 4000, 5000, 5000, 5000]
        );
        assert_eq!(waits(0), [125, 250, 500, 1000, 2000, 2500, 2500, 2500]);
    }

    #[test]
    fn many_attempts_do_not_overflow() {
        let mut backoff = Backoff { attempts: u32::MAX };
        assert_eq!(backoff.next(None, u32::MAX), LONGEST);
    }

    #[test]
    fn the_receiver_can_ask_for_longer_but_not_for_shorter_or_for_ever() {
        let asked = |seconds| Backoff::default().next(Some(Duration::from_secs(seconds)), u32::MAX);
        assert_eq!(asked(0), FIRST);
        assert_eq!(asked(7), Duration::from_secs(7));
        assert_eq!(asked(u64::MAX), LONGEST_ASKED);
    }

    #[test]
    fn only_what_the_specification_calls_temporary_is_retried() {
        let http: Vec<u16> = (100..600).filter(|status| http_status(*status)).collect();
        assert_eq!(http, [429, 502, 503, 504]);
        let grpc = |throttled| (0..17).filter(move |code| grpc_status(*code, throttled));
        assert_eq!(grpc(false).collect::<Vec<_>>(), [1, 4, 10, 11, 14, 15]);
        assert_eq!(grpc(true).collect::<Vec<_>>(), [1, 4, 8, 10, 11, 14, 15]);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        for (header, expected) in [
            ("120", Some(120)),
            (" 0 ", Some(0)),
            ("Sun, 06 Nov 1994 08:50:07 GMT", Some(30)),
            ("Sun, 06 Nov 1994 08:40:00 GMT", Some(0)),
            ("soon", None),
            ("-1", None),
            ("", None),
        ] {
            assert_eq!(
                retry_after(header, now),
                expected.map(Duration::from_secs),
                "{header:?}"
            );
        }
    }
}
