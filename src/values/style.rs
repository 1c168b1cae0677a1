//! The session settings that change how values are written and read.

use std::str::FromStr;

use chrono::{DateTime, Offset, TimeZone};
use datafusion::arrow::array::timezone::Tz;
use tidemark_common::{Error, Result, SqlState};

/// TimeZone, bytea_output, extra_float_digits, and the moment that `now` in a literal means. DateStyle is always ISO, MDY and
/// IntervalStyle always postgres.
#[derive(Debug, Clone)]
pub struct Style {
    /// `None`: UTC.
    pub(super) zone: Option<Tz>,
    /// bytea_output = 'escape'; otherwise hex.
    pub bytea_escape: bool,
    /// 1 and more: shortest digits that read back as the same number.
    pub extra_float_digits: i32,
    /// Microseconds since 1970 UTC.
    pub now_micros: i64,
}

impl Default for Style {
    /// UTC, and the defaults of Postgres.
    fn default() -> Self {
        Self { zone: None, bytea_escape: false, extra_float_digits: 1, now_micros: 0 }
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
    Tz::from_str(name).map_err(|_| {
        Error::new(SqlState::InvalidParameterValue, format!("time zone \"{name}\" not recognized"))
            .with_hint("Use a name such as Europe/Berlin or an offset such as +05:30.")
    })
}

fn offset_at(zone: &Tz, utc_micros: i64) -> i32 {
    // Further out than the calendar of chrono, zones keep the offset they have at its end.
    let seconds = utc_micros.div_euclid(1_000_000).clamp(-8_000_000_000_000, 8_000_000_000_000);
    match DateTime::from_timestamp(seconds, 0) {
        Some(at) => zone.offset_from_utc_datetime(&at.naive_utc()).fix().local_minus_utc(),
        None => 0,
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
    fn an_unknown_zone_is_named() {
        let error = Style::default().with_time_zone("Mars/Olympus").unwrap_err();
        assert_eq!(error.message(), "time zone \"Mars/Olympus\" not recognized");
    }
}
