//! Sizes, rates, spans and dates as people write them.

use std::time::Duration;

use cobox_net::shown::civil;
pub use cobox_net::shown::{bytes, counted, name, time};

/// `1 pack`, `2 packs`.
#[must_use]
pub fn packs(count: u64) -> String {
    counted(count, "pack", "packs")
}

/// `1 entry`, `2 entries`.
#[must_use]
pub fn entries(count: u64) -> String {
    counted(count, "entry", "entries")
}

use crate::exit::{Outcome, Problem};

/// A time in the zone of this machine, as people read it on their clock.
#[must_use]
pub fn local_time(unix_ms: u64) -> String {
    let ms = i64::try_from(unix_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    ms.map_or_else(
        || time(unix_ms),
        |at| at.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string(),
    )
}

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// Bytes a second, in the units of [`bytes`].
#[must_use]
pub fn rate(bytes_per_s: u64) -> String {
    format!("{}/s", bytes(bytes_per_s))
}

/// A span with two units at the most.
#[must_use]
pub fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{:.1} s", duration.as_secs_f64()),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// Reads `50G`, `1.5T`, `200M`, `4096`; powers of 1024, and of 1000 with `B` (`50GB`).
///
/// # Errors
/// When it is not a size.
pub fn parse_bytes(text: &str) -> Outcome<u64> {
    let problem = || Problem::usage(format!("{text:?} is not a size."), "Write it like 500M, 50G or 1.5T.");
    let trimmed = text.trim();
    let digits = trimmed.find(|char: char| !char.is_ascii_digit() && char != '.').unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(digits);
    let power = |letter: &str| ["K", "M", "G", "T", "P"].iter().position(|known| *known == letter);
    let unit = unit.trim().to_ascii_uppercase();
    let factor: f64 = if unit.is_empty() || unit == "B" {
        1.0
    } else if let Some(at) = power(unit.trim_end_matches("IB")) {
        1024f64.powi(i32::try_from(at + 1).map_err(|_| problem())?)
    } else if let Some(at) = unit.strip_suffix('B').and_then(power) {
        1000f64.powi(i32::try_from(at + 1).map_err(|_| problem())?)
    } else {
        return Err(problem());
    };
    let value: f64 = number.parse().map_err(|_| problem())?;
    let count = value * factor;
    // Above 2^53 a float skips whole numbers, and no disk is that large.
    if count.is_finite() && (0.0..9e15).contains(&count) { Ok(count as u64) } else { Err(problem()) }
}

/// Reads `60s`, `5m`, `2h`, `1d`, or seconds.
///
/// # Errors
/// When it is not a span.
pub fn parse_span(text: &str) -> Outcome<Duration> {
    let problem =
        || Problem::usage(format!("{text:?} is not a span of time."), "Write it like 60s, 5m, 2h or 1d.");
    let trimmed = text.trim();
    let digits = trimmed.find(|char: char| !char.is_ascii_digit()).unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(digits);
    let factor = match unit {
        "" | "s" => 1,
        "m" | "min" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(problem()),
    };
    let seconds =
        number.parse::<u64>().ok().and_then(|value| value.checked_mul(factor)).ok_or_else(problem)?;
    // A hundred years: beyond it sums of times would overflow somewhere.
    if seconds > 100 * 366 * 86_400 { Err(problem()) } else { Ok(Duration::from_secs(seconds)) }
}

/// Reads `2027-01-31` as the end of that day, in milliseconds since 1970.
///
/// # Errors
/// When it is not a date.
pub fn parse_date(text: &str) -> Outcome<u64> {
    let problem = || Problem::usage(format!("{text:?} is not a date."), "Write it like 2027-01-31.");
    let parts: Vec<u64> =
        text.trim().split('-').map(str::parse).collect::<Result<_, _>>().map_err(|_| problem())?;
    let [year, month, day] = parts[..] else { return Err(problem()) };
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return Err(problem());
    }
    let (shifted_year, march) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let of_era = shifted_year % 400;
    let of_year = (153 * march + 2) / 5 + day - 1;
    let days = shifted_year / 400 * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    if civil(days) != (year, month, day) {
        return Err(problem());
    }
    Ok((days + 1) * DAY_MS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, count) in [
            ("0", 0),
            ("4096", 4096),
            ("50G", 50 << 30),
            ("1.5k", 1536),
            ("2 MiB", 2 << 20),
            ("50GB", 50_000_000_000),
            ("7b", 7),
        ] {
            assert_eq!(parse_bytes(text), Ok(count), "{text}");
        }
        for text in ["", "G", "-1", "1e3", "5X", "1..5", "99999999P"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn dates_round_trip_and_days_that_never_were_are_refused() {
        for (text, shown) in [("2026-11-22", "2026-11-22 23:59 UTC"), ("2028-02-29", "2028-02-29 23:59 UTC")]
        {
            assert_eq!(time(parse_date(text).expect("a date")), shown);
        }
        assert_eq!(time(0), "1970-01-01 00:00 UTC");
        for text in ["2027-02-29", "2026-13-01", "2026-00-01", "26-1", "tomorrow", "1969-12-31"] {
            assert!(parse_date(text).is_err(), "{text}");
        }
    }

    #[test]
    fn spans_are_read_and_shown() {
        assert_eq!(parse_span("90"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_span("2h"), Ok(Duration::from_secs(7200)));
        assert!(parse_span("h").is_err() && parse_span("18446744073709551615d").is_err());
        assert_eq!(span(Duration::from_millis(1500)), "1.5 s");
        assert_eq!(span(Duration::from_secs(3661)), "1 h 1 min");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(5), "5 B");
        assert_eq!(rate(2_500_000), "2.4 MiB/s");
    }
}
