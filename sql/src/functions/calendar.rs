//! Days and microseconds as years, months and days of the proleptic Gregorian calendar, and back; total over `i64`.

use datafusion::arrow::datatypes::IntervalMonthDayNano;
use tidemark_common::{Error, Result, SqlState};

pub(super) const SECOND: i64 = 1_000_000;
pub(super) const MINUTE: i64 = 60 * SECOND;
pub(super) const HOUR: i64 = 60 * MINUTE;
pub(super) const DAY: i64 = 24 * HOUR;

/// Days from 0000-03-01 to 1970-01-01; years counted from March put the leap day last.
const MARCH_OF_YEAR_0: i64 = 719_468;
const DAYS_IN_400_YEARS: i64 = 146_097;

/// A moment taken apart. Year 0 is 1 BC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Civil {
    pub(super) year: i64,
    pub(super) month: i64,
    pub(super) day: i64,
    /// Microseconds since midnight.
    pub(super) micros: i64,
}

impl Civil {
    pub(super) fn from_micros(micros: i64) -> Self {
        let (year, month, day) = from_days(micros.div_euclid(DAY));
        Self { year, month, day, micros: micros.rem_euclid(DAY) }
    }

    pub(super) fn hour(&self) -> i64 {
        self.micros / HOUR
    }

    pub(super) fn minute(&self) -> i64 {
        self.micros % HOUR / MINUTE
    }

    pub(super) fn second(&self) -> i64 {
        self.micros % MINUTE / SECOND
    }

    /// Microseconds below the second.
    pub(super) fn fraction(&self) -> i64 {
        self.micros % SECOND
    }

    /// Days since 1970-01-01.
    pub(super) fn days(&self) -> i64 {
        to_days(self.year, self.month, self.day)
    }

    pub(super) fn to_micros(self) -> Result<i64> {
        self.days().checked_mul(DAY).and_then(|m| m.checked_add(self.micros)).ok_or_else(out_of_range)
    }

    /// 1 Monday to 7 Sunday.
    pub(super) fn iso_weekday(&self) -> i64 {
        (self.days() + 3).rem_euclid(7) + 1
    }

    pub(super) fn day_of_year(&self) -> i64 {
        self.days() - to_days(self.year, 1, 1) + 1
    }

    /// ISO 8601 year and week.
    pub(super) fn iso_week(&self) -> (i64, i64) {
        // The week belongs to the year that holds its Thursday.
        let thursday = self.days() - self.iso_weekday() + 4;
        let (year, _, _) = from_days(thursday);
        (year, (thursday - to_days(year, 1, 1)) / 7 + 1)
    }

    /// Months since 1970-01.
    pub(super) fn months(&self) -> i64 {
        (self.year - 1970) * 12 + self.month - 1
    }
}

pub(super) fn out_of_range() -> Error {
    Error::new(SqlState::DatetimeFieldOverflow, "timestamp out of range")
}

pub(super) fn from_days(days: i64) -> (i64, i64, i64) {
    let days = days + MARCH_OF_YEAR_0;
    let era = days.div_euclid(DAYS_IN_400_YEARS);
    let day_of_era = days.rem_euclid(DAYS_IN_400_YEARS);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

/// `month` may lie outside 1..=12 by any number of years.
pub(super) fn to_days(year: i64, month: i64, day: i64) -> i64 {
    let year = year + (month - 1).div_euclid(12);
    let month = (month - 1).rem_euclid(12) + 1;
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month_from_march = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * DAYS_IN_400_YEARS + day_of_era - MARCH_OF_YEAR_0
}

pub(super) fn days_in_month(year: i64, month: i64) -> i64 {
    to_days(year, month + 1, 1) - to_days(year, month, 1)
}

/// The first microsecond of a month counted from 1970-01.
pub(super) fn month_start(months: i64) -> Result<i64> {
    to_days(1970, months + 1, 1).checked_mul(DAY).ok_or_else(out_of_range)
}

/// The same day `months` later, or the last of that month where it is shorter.
pub(super) fn add_months(micros: i64, months: i64) -> Result<i64> {
    let civil = Civil::from_micros(micros);
    let total = civil.year * 12 + civil.month - 1 + months;
    let (year, month) = (total.div_euclid(12), total.rem_euclid(12) + 1);
    Civil { year, month, day: civil.day.min(days_in_month(year, month)), ..civil }.to_micros()
}

pub(super) fn add_interval(micros: i64, interval: IntervalMonthDayNano) -> Result<i64> {
    let moved = if interval.months == 0 { micros } else { add_months(micros, interval.months.into())? };
    let rest = i64::from(interval.days) * DAY;
    moved.checked_add(rest).and_then(|m| m.checked_add(interval.nanoseconds / 1000)).ok_or_else(out_of_range)
}

/// Checks a date as typed: Postgres' `date field value out of range`.
pub(super) fn checked_days(year: i64, month: i64, day: i64) -> Result<i64> {
    // There is no year 0; a negative one is BC.
    let astronomical = if year < 0 { year + 1 } else { year };
    let possible = year != 0 && (1..=12).contains(&month) && (-4713..=294_276).contains(&astronomical);
    if possible && day >= 1 && day <= days_in_month(astronomical, month) {
        return Ok(to_days(astronomical, month, day));
    }
    let message = format!("date field value out of range: {year}-{month:02}-{day:02}");
    Err(Error::new(SqlState::DatetimeFieldOverflow, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_and_dates_are_inverse_over_eight_centuries() {
        let mut expected = (1600, 1, 1);
        for days in to_days(1600, 1, 1)..to_days(2400, 1, 1) {
            let (y, m, d) = from_days(days);
            assert_eq!((y, m, d), expected);
            assert_eq!(to_days(y, m, d), days);
            expected = if d < days_in_month(y, m) {
                (y, m, d + 1)
            } else if m < 12 {
                (y, m + 1, 1)
            } else {
                (y + 1, 1, 1)
            };
        }
        assert_eq!(to_days(1970, 1, 1), 0);
    }

    #[test]
    fn iso_weeks_turn_with_the_week_not_the_year() {
        let week = |y, m, d| Civil { year: y, month: m, day: d, micros: 0 }.iso_week();
        assert_eq!(week(2005, 1, 1), (2004, 53));
        assert_eq!(week(2006, 1, 1), (2005, 52));
        assert_eq!(week(2012, 12, 31), (2013, 1));
    }

    #[test]
    fn a_month_later_is_clamped() {
        let at = |y, m, d| to_days(y, m, d) * DAY;
        assert_eq!(add_months(at(2024, 1, 31), 1).unwrap(), at(2024, 2, 29));
        assert_eq!(add_months(at(2024, 2, 29), -12).unwrap(), at(2023, 2, 28));
        assert_eq!(add_months(at(1969, 12, 31), 2).unwrap(), at(1970, 2, 28));
    }
}
