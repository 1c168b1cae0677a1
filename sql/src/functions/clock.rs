//! What clocks show: moments by the time zone of the session, which functions find in their configuration.
//!
//! ```text
//!   SET TimeZone ──▶ execution.time_zone ──Clock::of──▶ at::text, extract(hour FROM at), at + interval '1 day', ..
//! ```
//!
//! Materialized views are planned without a session, so theirs are UTC.

use std::str::FromStr;

use chrono::{LocalResult, Offset, TimeZone};
use chrono_tz::OffsetName;
use datafusion::arrow::array::timezone::Tz;
use datafusion::arrow::datatypes::IntervalMonthDayNano;
use datafusion::arrow::temporal_conversions::timestamp_us_to_datetime;
use datafusion::common::config::ConfigOptions;
use datafusion::logical_expr::ScalarUDF;
use tidemark_common::{Error, Result};

use super::calendar::{self, DAY, HOUR, MINUTE, SECOND};
use super::declare::{Kind, Row, function};
use super::value::Value;

pub const MOMENT_ADD: &str = "tidemark_moment_add";

pub(super) fn functions() -> Vec<ScalarUDF> {
    use Kind::{Interval, TimestampTz};
    let add = |r: &Row<'_>| add_interval(r.clock(), r.micros(0), r.interval(1)).map(Value::Int);
    vec![function(MOMENT_ADD).on(&[TimestampTz, Interval], TimestampTz, add).udf()]
}

/// A day later the clock shows the same time, though the day may have had 23 hours.
fn add_interval(clock: &Clock, micros: i64, interval: IntervalMonthDayNano) -> Result<i64> {
    let days = IntervalMonthDayNano::new(interval.months, interval.days, 0);
    let moved = if interval.months == 0 && interval.days == 0 {
        micros
    } else {
        clock.moment(calendar::add_interval(clock.local(micros)?, days)?)?
    };
    moved.checked_add(interval.nanoseconds / 1_000).ok_or_else(calendar::out_of_range)
}

/// A clock on a wall somewhere.
#[derive(Debug, Clone, Default)]
pub struct Clock {
    /// None: UTC.
    zone: Option<Tz>,
    /// The zone's name, if it has one and not only an offset.
    named: Option<chrono_tz::Tz>,
}

impl Clock {
    pub const UTC: Clock = Clock { zone: None, named: None };

    /// The session's clock.
    pub(super) fn of(options: &ConfigOptions) -> Result<Self> {
        options.execution.time_zone.as_deref().map_or(Ok(Self::UTC), Self::named)
    }

    pub(super) fn named(name: &str) -> Result<Self> {
        if ["utc", "z", "zulu", "gmt", "+00:00"].contains(&name.to_ascii_lowercase().as_str()) {
            return Ok(Self::UTC);
        }
        let zone = Tz::from_str(name).map_err(|_| {
            Error::invalid(format!("time zone \"{name}\" not recognized"))
                .with_hint("Use a name such as 'Europe/Paris', or an offset such as '+02:00'.")
        })?;
        Ok(Self { zone: Some(zone), named: chrono_tz::Tz::from_str(name).ok() })
    }

    pub(super) fn is_utc(&self) -> bool {
        self.zone.is_none()
    }

    /// How far east of Greenwich at a moment, in microseconds.
    pub(super) fn offset(&self, utc: i64) -> Result<i64> {
        let Some(zone) = &self.zone else { return Ok(0) };
        let at = timestamp_us_to_datetime(utc).ok_or_else(calendar::out_of_range)?;
        Ok(i64::from(zone.offset_from_utc_datetime(&at).fix().local_minus_utc()) * SECOND)
    }

    /// What the clock shows at a moment.
    pub(super) fn local(&self, utc: i64) -> Result<i64> {
        utc.checked_add(self.offset(utc)?).ok_or_else(calendar::out_of_range)
    }

    /// The moment at which the clock shows `local`.
    pub(super) fn moment(&self, local: i64) -> Result<i64> {
        let Some(zone) = &self.zone else { return Ok(local) };
        let at = timestamp_us_to_datetime(local).ok_or_else(calendar::out_of_range)?;
        let offset = match zone.offset_from_local_datetime(&at) {
            // Shown twice: the second time, by standard time.
            LocalResult::Single(offset) | LocalResult::Ambiguous(_, offset) => {
                i64::from(offset.fix().local_minus_utc()) * SECOND
            }
            // Jumped over: as if the clock had not jumped yet.
            LocalResult::None => self.offset(local.checked_sub(DAY).ok_or_else(calendar::out_of_range)?)?,
        };
        local.checked_sub(offset).ok_or_else(calendar::out_of_range)
    }

    /// What the zone is called at a moment: `CET`, `CEST`, `UTC`.
    pub(super) fn abbreviation(&self, utc: i64) -> Result<String> {
        let at = timestamp_us_to_datetime(utc).ok_or_else(calendar::out_of_range)?;
        Ok(match (&self.zone, &self.named) {
            (None, _) => "UTC".into(),
            (_, Some(named)) => match named.offset_from_utc_datetime(&at).abbreviation() {
                Some(text) => text.to_string(),
                None => offset_text(self.offset(utc)?),
            },
            _ => offset_text(self.offset(utc)?),
        })
    }
}

/// `+02`, `-03:30`, `+00:53:28`.
pub(super) fn offset_text(micros: i64) -> String {
    let (sign, size) = (if micros < 0 { '-' } else { '+' }, micros.abs());
    let (hours, minutes, seconds) = (size / HOUR, size % HOUR / MINUTE, size % MINUTE / SECOND);
    match (minutes, seconds) {
        (0, 0) => format!("{sign}{hours:02}"),
        (_, 0) => format!("{sign}{hours:02}:{minutes:02}"),
        _ => format!("{sign}{hours:02}:{minutes:02}:{seconds:02}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::functions::{input, output};

    fn berlin() -> Clock {
        Clock::named("Europe/Berlin").unwrap()
    }

    fn at(text: &str) -> i64 {
        input::parse_timestamptz(text).unwrap()
    }

    #[test]
    fn a_day_is_what_the_clock_takes_for_one() {
        let table = [
            ((0, 1, 0), "2024-03-31 12:00:00+02"),
            ((0, 0, 24), "2024-03-31 13:00:00+02"),
            ((1, 0, 0), "2024-04-30 12:00:00+02"),
            ((0, 1, 1), "2024-03-31 13:00:00+02"),
        ];
        for ((months, days, hours), expected) in table {
            let interval = IntervalMonthDayNano::new(months, days, hours * HOUR * 1_000);
            let moved = add_interval(&berlin(), at("2024-03-30 12:00+01"), interval).unwrap();
            assert_eq!(output::timestamptz(moved, &berlin()).unwrap(), expected);
        }
    }

    #[test]
    fn times_that_a_clock_shows_never_or_twice() {
        let local = |text: &str| input::parse_timestamp(text).unwrap();
        let moment = |text: &str| berlin().moment(local(text)).unwrap();
        assert_eq!(moment("2024-03-31 02:30"), at("2024-03-31 03:30+02"));
        assert_eq!(moment("2024-10-27 02:30"), at("2024-10-27 02:30+01"));
        let new_york = Clock::named("America/New_York").unwrap();
        assert_eq!(new_york.moment(local("2024-03-10 02:30")).unwrap(), at("2024-03-10 03:30-04"));
    }

    #[test]
    fn zones_have_names_that_change() {
        assert_eq!(berlin().abbreviation(at("2024-01-01")).unwrap(), "CET");
        assert_eq!(berlin().abbreviation(at("2024-07-01")).unwrap(), "CEST");
        assert_eq!(Clock::UTC.abbreviation(0).unwrap(), "UTC");
        assert_eq!(Clock::named("-03:30").unwrap().abbreviation(0).unwrap(), "-03:30");
        assert_eq!(offset_text(53 * MINUTE + 28 * SECOND), "+00:53:28");
    }
}
