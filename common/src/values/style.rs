//! The session settings that change how values are written and read.

use std::str::FromStr;

use crate::{Error, Result, SqlState};
use chrono::{DateTime, Offset, TimeZone};
use datafusion::arrow::array::timezone::Tz;

use super::datetime::{Civil, MICROS_PER_DAY, civil_from_days, days_from_civil, days_in_month};

/// TimeZone, bytea_output, extra_float_digits, and the moment that `now` in a literal means. DateStyle is always ISO,
/// MDY; IntervalStyle is postgres or iso_8601.
#[derive(Debug, Clone)]
pub struct Style {
    /// `None`: UTC.
    pub(super) zone: Option<Tz>,
    /// bytea_output = 'escape'; otherwise hex.
    pub bytea_escape: bool,
    /// IntervalStyle = 'iso_8601'; otherwise postgres.
    pub iso_intervals: bool,
    /// 1 and more: shortest digits that read back as the same number.
    pub extra_float_digits: i32,
    /// Microseconds since 1970 UTC.
    pub now_micros: i64,
}

impl Default for Style {
    /// UTC, and the defaults of Postgres.
    fn default() -> Self {
        Self { zone: None, bytea_escape: false, iso_intervals: false, extra_float_digits: 1, now_micros: 0 }
    }
}

impl Style {
    /// The style with another time zone: a name of the IANA database or an offset such as `+05:30`.
    pub fn with_time_zone(mut self, name: &str) -> Result<Self> {
        self.zone = match name.to_ascii_lowercase().as_str() {
            "utc" | "gmt" | "z" | "zulu" | "etc/utc" => None,
            _ => Some(zone_by_name(name)?),
        };
        Ok(self)
    }

    /// Seconds east of UTC at an instant.
    pub(super) fn offset_at(&self, utc_micros: i64) -> i32 {
        self.zone.as_ref().map_or(0, |zone| offset_at(zone, utc_micros))
    }

    /// Seconds east of UTC for a time on the wall.
    pub(super) fn offset_of_local(&self, local_micros: i64) -> i32 {
        self.zone.as_ref().map_or(0, |zone| offset_of_local(zone, local_micros))
    }
}

pub(super) fn zone_by_name(name: &str) -> Result<Tz> {
    Tz::from_str(name).or_else(|_| Tz::from_str(&in_title_case(name))).map_err(|_| {
        Error::new(SqlState::InvalidParameterValue, format!("time zone \"{name}\" not recognized"))
            .with_hint("Use a name such as Europe/Berlin or an offset such as +05:30.")
    })
}

/// The tables of transitions end with the year before this one.
const END_OF_TABLES: i64 = 2100;

/// `europe/berlin` as the database of zones has it: Europe/Berlin.
fn in_title_case(name: &str) -> String {
    let mut at_start = true;
    let mut cased = String::with_capacity(name.len());
    for c in name.chars() {
        cased.push(if at_start { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() });
        at_start = !c.is_ascii_alphanumeric();
    }
    cased
}

fn offset_at(zone: &Tz, utc_micros: i64) -> i32 {
    // Earlier than the calendar of chrono, zones have the offset they have at its beginning.
    let seconds = within_tables(utc_micros).div_euclid(1_000_000).max(-8_000_000_000_000);
    match DateTime::from_timestamp(seconds, 0) {
        Some(at) => zone.offset_from_utc_datetime(&at.naive_utc()).fix().local_minus_utc(),
        None => 0,
    }
}

/// The last rules go on for ever: what the clocks do in a year is what they did in one that begins on the same day of the week and
/// is as long. There is one among any 28 years of the tables' last.
fn within_tables(utc_micros: i64) -> i64 {
    let year = civil_from_days(utc_micros.div_euclid(MICROS_PER_DAY)).year;
    if year < END_OF_TABLES {
        return utc_micros;
    }
    let first_day = |year| days_from_civil(Civil { year, month: 1, day: 1 });
    let length = |year| days_in_month(year, 2);
    let alike = |other: &i64| (first_day(year) - first_day(*other)) % 7 == 0 && length(year) == length(*other);
    match (END_OF_TABLES - 28..END_OF_TABLES).find(alike) {
        Some(other) => utc_micros - (first_day(year) - first_day(other)) * MICROS_PER_DAY,
        None => utc_micros,
    }
}

/// As Postgres: a time that happens twice is the later one, a time that is skipped is read with the offset from before.
pub(super) fn offset_of_local(zone: &Tz, local_micros: i64) -> i32 {
    const DAY: i64 = 86_400_000_000;
    let at = |micros: i64| offset_at(zone, micros);
    let holds = |offset: i32| at(local_micros.saturating_sub(i64::from(offset) * 1_000_000)) == offset;
    let before = at(local_micros.saturating_sub(DAY));
    let after = at(local_micros.saturating_add(DAY));
    if holds(after) { after } else { before }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_times_around_a_change_of_clocks() {
        let style = Style::default().with_time_zone("Europe/Berlin").unwrap();
        let at = |text: &str| {
            chrono::NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M").unwrap().and_utc().timestamp_micros()
        };
        assert_eq!(style.offset_of_local(at("2024-01-15 12:00")), 3600);
        assert_eq!(style.offset_of_local(at("2024-07-15 12:00")), 7200);
        // Skipped, and doubled.
        assert_eq!(style.offset_of_local(at("2024-03-31 02:30")), 3600);
        assert_eq!(style.offset_of_local(at("2024-10-27 02:30")), 3600);
        assert_eq!(style.offset_of_local(at("2024-10-27 01:30")), 7200);
        assert_eq!(style.offset_of_local(at("2024-03-31 03:30")), 7200);
    }

    #[test]
    fn rules_go_on_after_the_tables_end() {
        let style = Style::default().with_time_zone("america/new_york").unwrap();
        for (text, hours) in [
            ("2200-07-01 12:00", -4),
            ("2200-01-01 12:00", -5),
            ("9999-07-01 12:00", -4),
            ("2104-03-09 06:59", -5),
            ("2104-03-09 07:00", -4),
        ] {
            let at = chrono::NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M").unwrap().and_utc();
            assert_eq!(style.offset_at(at.timestamp_micros()), hours * 3600, "{text}");
        }
    }

    #[test]
    fn an_unknown_zone_is_named() {
        let error = Style::default().with_time_zone("Mars/Olympus").unwrap_err();
        assert_eq!(error.message(), "time zone \"Mars/Olympus\" not recognized");
    }
}
