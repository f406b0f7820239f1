//! Wall-clock time as text: RFC 3339 in UTC with milliseconds, and the form that backup names of
//! log files carry. Pure; the clock is the caller's.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Length of `2026-11-20T23:51:47.822Z`.
const RFC3339_LENGTH: usize = 24;
/// Length of `2026-11-20T23-51-47.822`.
const FILE_NAME_LENGTH: usize = 23;

const SECONDS_A_DAY: u64 = 86_400;

/// The last second before the year 10000, which four digits cannot say.
const LAST_SECOND: u64 = 253_402_300_799;

/// A point in time, to the millisecond. Times before 1970 count as 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Instant {
    second: u64,
    millisecond: u32,
}

impl Instant {
    fn new(time: SystemTime) -> Self {
        let since_epoch = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            second: since_epoch.as_secs().min(LAST_SECOND),
            millisecond: since_epoch.subsec_millis(),
        }
    }
}

/// Formats times of records. Those of one second share everything but the milliseconds, so the
/// rest is kept from one call to the next.
#[derive(Clone, Debug)]
pub(super) struct Formatter {
    second: u64,
    text: [u8; RFC3339_LENGTH],
}

impl Default for Formatter {
    fn default() -> Self {
        Self {
            second: 0,
            text: *b"1970-01-01T00:00:00.000Z",
        }
    }
}

impl Formatter {
    /// `time` in RFC 3339 form (section 5.6), UTC, with three fractional digits.
    pub(super) fn rfc3339(&mut self, time: SystemTime) -> &str {
        let instant = Instant::new(time);
        if instant.second != self.second {
            self.second = instant.second;
            write_date_and_time(&mut self.text, instant.second);
        }
        write_digits(&mut self.text[20..23], instant.millisecond.into());
        // Only ASCII is ever written into it.
        std::str::from_utf8(&self.text).unwrap_or_default()
    }
}

/// `time` in RFC 3339 form, UTC, without a fraction.
pub(crate) fn rfc3339_seconds(time: SystemTime) -> String {
    format!("{}Z", to_the_second(time))
}

/// `time` in RFC 3339 form, UTC, with as many fractional digits as it needs, at most nine: what
/// Go's `time.RFC3339Nano` gives.
pub(crate) fn rfc3339_nanoseconds(time: SystemTime) -> String {
    let since_epoch = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let fraction = format!(".{:09}", since_epoch.subsec_nanos());
    let fraction = fraction.trim_end_matches('0').trim_end_matches('.');
    format!("{}{fraction}Z", to_the_second(time))
}

/// `time` in RFC 3339 form, UTC, with nine fractional digits.
pub(crate) fn rfc3339_nine_digits(time: SystemTime) -> String {
    let since_epoch = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{}.{:09}Z", to_the_second(time), since_epoch.subsec_nanos())
}

fn to_the_second(time: SystemTime) -> String {
    let mut formatter = Formatter::default();
    let text = formatter.rfc3339(time);
    text.split('.').next().unwrap_or_default().to_owned()
}

/// `time` in the form of a backup name: RFC 3339 without its colons and its `Z`, as the Go
/// components name theirs.
pub(super) fn file_name(time: SystemTime) -> String {
    let mut formatter = Formatter::default();
    let text = formatter.rfc3339(time).replace(':', "-");
    text.trim_end_matches('Z').to_owned()
}

/// Reads what [`file_name`] wrote; `None` for every other text.
pub(super) fn parse_file_name(text: &str) -> Option<SystemTime> {
    let bytes = text.as_bytes();
    if bytes.len() != FILE_NAME_LENGTH {
        return None;
    }
    let number = |from: usize, to: usize| -> Option<u64> {
        bytes.get(from..to)?.iter().try_fold(0, |number, digit| {
            digit
                .is_ascii_digit()
                .then(|| number * 10 + u64::from(digit - b'0'))
        })
    };
    let days = days_from_civil(number(0, 4)?, number(5, 7)?, number(8, 10)?)?;
    let seconds = number(11, 13)? * 3600 + number(14, 16)? * 60 + number(17, 19)?;
    let time = UNIX_EPOCH
        + Duration::from_secs(days * SECONDS_A_DAY + seconds)
        + Duration::from_millis(number(20, 23)?);
    // One way to write a time: whatever does not come out the same is not one of ours.
    (file_name(time) == text).then_some(time)
}

fn write_date_and_time(text: &mut [u8; RFC3339_LENGTH], second: u64) {
    let (year, month, day) = civil_from_days(second / SECONDS_A_DAY);
    let of_day = second % SECONDS_A_DAY;
    write_digits(&mut text[0..4], year);
    write_digits(&mut text[5..7], month);
    write_digits(&mut text[8..10], day);
    write_digits(&mut text[11..13], of_day / 3600);
    write_digits(&mut text[14..16], of_day / 60 % 60);
    write_digits(&mut text[17..19], of_day % 60);
}

fn write_digits(text: &mut [u8], mut number: u64) {
    for digit in text.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

/// Days from 0000-03-01, where the years of this arithmetic begin, to 1970-01-01.
const DAYS_TO_EPOCH: u64 = 719_468;
/// Days in the 400 years after which the Gregorian calendar repeats.
const DAYS_AN_ERA: u64 = 146_097;

/// The Gregorian date of a day counted from 1970-01-01. Years begin in March, so that the leap
/// day is a year's last and the months before it have a fixed pattern of 153 days in five.
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let days = days + DAYS_TO_EPOCH;
    let era = days / DAYS_AN_ERA;
    let of_era = days % DAYS_AN_ERA;
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

/// The inverse of [`civil_from_days`]; `None` before 1970 and for a month that does not exist.
fn days_from_civil(year: u64, month: u64, day: u64) -> Option<u64> {
    if !(1..=12).contains(&month) {
        return None;
    }
    let year = year.checked_sub(u64::from(month <= 2))?;
    let from_march = (month + 9) % 12;
    let of_year = (153 * from_march + 2) / 5 + day;
    let days = year * 365 + year / 4 - year / 100 + year / 400 + of_year;
    days.checked_sub(1 + DAYS_TO_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(second: u64, millisecond: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(second) + Duration::from_millis(millisecond)
    }

    #[test]
    fn known_times() {
        let mut formatter = Formatter::default();
        for (time, expected) in [
            (at(0, 0), "1970-01-01T00:00:00.000Z"),
            (at(0, 7), "1970-01-01T00:00:00.007Z"),
            (at(951_782_400, 0), "2000-02-29T00:00:00.000Z"),
            (at(1_795_218_707, 822), "2026-11-20T23:51:47.822Z"),
            (at(4_107_542_399, 999), "2100-02-28T23:59:59.999Z"),
            (at(4_107_542_400, 0), "2100-03-01T00:00:00.000Z"),
            (at(LAST_SECOND, 0), "9999-12-31T23:59:59.000Z"),
            (at(LAST_SECOND + 5, 0), "9999-12-31T23:59:59.000Z"),
            (
                UNIX_EPOCH - Duration::from_secs(5),
                "1970-01-01T00:00:00.000Z",
            ),
        ] {
            assert_eq!(formatter.rfc3339(time), expected);
        }
    }

    #[test]
    fn nanoseconds_without_trailing_zeros() {
        for (nanoseconds, expected) in [
            (0, "2026-11-20T23:51:47Z"),
            (1, "2026-11-20T23:51:47.000000001Z"),
            (160_000_000, "2026-11-20T23:51:47.16Z"),
            (999_999_999, "2026-11-20T23:51:47.999999999Z"),
        ] {
            let time = at(1_795_218_707, 0) + Duration::from_nanos(nanoseconds);
            assert_eq!(rfc3339_nanoseconds(time), expected);
        }
    }

    #[test]
    fn backup_names() {
        let time = at(1_795_218_707, 822);
        assert_eq!(file_name(time), "2026-11-20T23-51-47.822");
        assert_eq!(parse_file_name("2026-11-20T23-51-47.822"), Some(time));
        for text in [
            "",
            "2026-11-20T23-51-47",
            "2026-13-20T23-51-47.822",
            "2026-02-30T23-51-47.822",
            "2026-11-20T25-51-47.822",
            "2026-11-20 23-51-47.822",
            "1969-11-20T23-51-47.822",
            "2026-11-20T23-51-47.8é",
        ] {
            assert_eq!(parse_file_name(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(second in 0..=LAST_SECOND, millisecond in 0..1000_u64) {
            let time = at(second, millisecond);
            prop_assert_eq!(parse_file_name(&file_name(time)), Some(time));
        }

        #[test]
        fn garbage_is_refused_without_a_panic(text in ".{0,30}") {
            let _ = parse_file_name(&text);
        }

        #[test]
        fn the_kept_second_never_shows(times in proptest::collection::vec(0..4_000_000_u64, 1..20)) {
            let mut kept = Formatter::default();
            for time in times {
                let time = at(time / 1000, time % 1000);
                let mut fresh = Formatter::default();
                prop_assert_eq!(kept.rfc3339(time), fresh.rfc3339(time));
            }
        }
    }
}
