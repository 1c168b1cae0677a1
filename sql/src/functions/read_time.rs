//! `to_timestamp(text, pattern)` and `to_date(text, pattern)`.

use tidemark_common::{Error, Result, SqlState};

use super::calendar::{self, DAY, HOUR, MINUTE, SECOND, checked_days, to_days};
use super::clock::Clock;
use super::format_time::Item;
use super::names::{MONTHS, ROMAN_MONTHS, WEEKDAYS};

/// What the fields of a text said.
#[derive(Debug, Default)]
struct Found {
    year: Option<i64>,
    month: Option<i64>,
    day: Option<i64>,
    day_of_year: Option<i64>,
    iso: (Option<i64>, Option<i64>, Option<i64>),
    julian: Option<i64>,
    hour: i64,
    pm: Option<bool>,
    rest_of_hour: i64,
    since_midnight: Option<i64>,
    before_christ: bool,
    zone: Option<i64>,
}

/// Microseconds since 1970-01-01; without a zone in the text it is what `clock` shows.
pub(super) fn read(items: &[Item], text: &str, clock: &Clock) -> Result<i64> {
    let mut found = Found::default();
    let mut rest = text.trim_start();
    for (i, item) in items.iter().enumerate() {
        match item {
            // A separator stands for any separators, as in Postgres.
            Item::Text(separator) => {
                let blank = |c: char| !c.is_alphanumeric() && c != '+' && c != '-';
                if separator.chars().all(|c| !c.is_alphanumeric()) {
                    rest = rest.strip_prefix(separator.as_str()).unwrap_or(rest);
                    rest = rest.trim_start_matches(|c: char| {
                        blank(c) || (c == '-' && !separator.is_empty() && separator == "-")
                    });
                } else {
                    rest = rest.strip_prefix(separator.as_str()).unwrap_or(rest);
                }
            }
            Item::Field { name, fill, ordinal } => {
                rest = rest.trim_start();
                if rest.is_empty() {
                    break;
                }
                // Digits run together when another number follows at once.
                let fixed = *fill && matches!(items.get(i + 1), Some(Item::Field { .. }));
                rest = found.field(name, rest, fixed)?;
                if ordinal.is_some() {
                    rest = rest.trim_start_matches(|c: char| c.is_ascii_alphabetic());
                }
            }
        }
    }
    found.micros(text, clock)
}

fn invalid(rest: &str, name: &str) -> Error {
    let word: String = rest.chars().take(name.len().max(1)).collect();
    Error::new(SqlState::InvalidDatetimeFormat, format!("invalid value \"{word}\" for \"{name}\""))
}

fn number<'a>(rest: &'a str, name: &str, most: usize) -> Result<(i64, usize, &'a str)> {
    let signed = usize::from(rest.starts_with(['+', '-']));
    let digits = rest[signed..].bytes().take(most).take_while(u8::is_ascii_digit).count();
    let parsed = rest[..signed + digits].parse().map_err(|_| invalid(rest, name))?;
    Ok((parsed, digits, &rest[signed + digits..]))
}

/// The one of `words` that `rest` begins with, in any case.
fn word<'a>(rest: &'a str, name: &str, words: &[&str]) -> Result<(usize, &'a str)> {
    let starts = |word: &&str| rest.get(..word.len()).is_some_and(|r| r.eq_ignore_ascii_case(word));
    // The longest, so that VII is not taken for V.
    let best = words.iter().enumerate().filter(|(_, w)| starts(w)).max_by_key(|(_, w)| w.len());
    best.map(|(i, w)| (i, &rest[w.len()..])).ok_or_else(|| invalid(rest, name))
}

impl Found {
    fn field<'a>(&mut self, name: &str, rest: &'a str, fixed: bool) -> Result<&'a str> {
        let upper = name.to_ascii_uppercase();
        let width = |n: usize| if fixed { n } else { 18 };
        let n = |most: usize| number(rest, name, most);
        match upper.as_str() {
            "YYYY" | "YYY" | "YY" | "Y" | "IYYY" | "IYY" | "IY" | "I" => return self.year(&upper, rest, fixed),
            "Y,YYY" => {
                let (thousands, _, after) = n(2)?;
                let (year, _, after) = number(after.trim_start_matches(','), name, 3)?;
                self.year = Some(thousands * 1000 + year);
                return Ok(after);
            }
            "MONTH" | "MON" => {
                let long = MONTHS.map(|m| m.1);
                let short = MONTHS.map(|m| m.0);
                let (month, after) = word(rest, name, &long).or_else(|_| word(rest, name, &short))?;
                self.month = Some(month as i64 + 1);
                return Ok(after);
            }
            "RM" => {
                let (month, after) = word(rest, name, &ROMAN_MONTHS)?;
                self.month = Some(month as i64 + 1);
                return Ok(after);
            }
            "DAY" | "DY" => {
                let long = WEEKDAYS.map(|d| d.1);
                let short = WEEKDAYS.map(|d| d.0);
                return Ok(word(rest, name, &long).or_else(|_| word(rest, name, &short))?.1);
            }
            "AM" | "PM" | "A.M." | "P.M." => {
                let (which, after) = word(rest, name, &["AM", "A.M.", "PM", "P.M."])?;
                self.pm = Some(which > 1);
                return Ok(after);
            }
            "BC" | "AD" | "B.C." | "A.D." => {
                let (which, after) = word(rest, name, &["AD", "A.D.", "BC", "B.C."])?;
                self.before_christ = which > 1;
                return Ok(after);
            }
            "TZ" | "OF" | "TZH" | "TZM" => return self.zone(&upper, rest),
            "MS" | "US" | "FF1" | "FF2" | "FF3" | "FF4" | "FF5" | "FF6" => {
                let (value, digits, after) = n(6)?;
                self.rest_of_hour += value * 10i64.pow(6 - digits.min(6) as u32);
                return Ok(after);
            }
            _ => {}
        }
        let most = match upper.as_str() {
            "J" | "SSSS" | "SSSSS" => 18,
            "DDD" | "IDDD" => width(3),
            "D" | "ID" | "Q" | "W" => width(1),
            _ => width(2),
        };
        let (value, _, after) = n(most)?;
        match upper.as_str() {
            "MM" => self.month = Some(value),
            "DD" => self.day = Some(value),
            "DDD" => self.day_of_year = Some(value),
            "IW" => self.iso.1 = Some(value),
            "ID" => self.iso.2 = Some(value),
            "J" => self.julian = Some(value),
            "HH24" => self.hour = in_range(value, 0, 24, name)?,
            "HH" | "HH12" => self.hour = in_range(value, 1, 12, name)? % 12,
            "MI" => self.rest_of_hour += in_range(value, 0, 59, name)? * MINUTE,
            "SS" => self.rest_of_hour += in_range(value, 0, 59, name)? * SECOND,
            "SSSS" | "SSSSS" => self.since_midnight = Some(in_range(value, 0, 86_400, name)? * SECOND),
            // A weekday, week of the month, quarter or century does not decide the date.
            _ => {}
        }
        Ok(after)
    }

    fn year<'a>(&mut self, name: &str, rest: &'a str, fixed: bool) -> Result<&'a str> {
        let (value, digits, after) = number(rest, name, if fixed { name.len() } else { 6 })?;
        let value = match digits {
            // Short years are the ones nearest to 2020.
            1 | 2 if !name.ends_with("YYYY") => value + if value < 70 { 2000 } else { 1900 },
            3 if !name.ends_with("YYYY") => value + if value < 520 { 2000 } else { 1000 },
            _ => value,
        };
        if name.starts_with('I') {
            self.iso.0 = Some(value);
        } else {
            self.year = Some(value);
        }
        Ok(after)
    }

    fn zone<'a>(&mut self, name: &str, rest: &'a str) -> Result<&'a str> {
        if name == "TZM" {
            let (minutes, _, after) = number(rest, name, 2)?;
            let hours = self.zone.unwrap_or(0);
            self.zone = Some(hours + if hours < 0 { -minutes } else { minutes } * MINUTE);
            return Ok(after);
        }
        if let Ok((_, after)) = word(rest, name, &["UTC", "GMT", "Z"]) {
            self.zone = Some(0);
            return Ok(after);
        }
        let (hours, _, after) = number(rest, name, 2)?;
        self.zone = Some(hours * HOUR);
        match after.strip_prefix(':') {
            Some(minutes) if name != "TZH" => self.zone("TZM", minutes),
            _ => Ok(after),
        }
    }

    fn micros(&self, text: &str, clock: &Clock) -> Result<i64> {
        let out_of_range =
            || Error::new(SqlState::DatetimeFieldOverflow, format!("date/time field value out of range: \"{text}\""));
        // Without a year it is the year before 1, as in Postgres.
        let year = self.year.unwrap_or(0);
        let year = if self.before_christ || year == 0 { -year.max(1) } else { year };
        let days = match (self.julian, self.iso, self.day_of_year) {
            (Some(julian), ..) => julian - 2_440_588,
            (_, (Some(iso_year), week, weekday), _) => {
                let fourth = to_days(iso_year, 1, 4);
                let monday = fourth - (fourth + 3).rem_euclid(7);
                monday + (week.unwrap_or(1) - 1) * 7 + weekday.unwrap_or(1) - 1
            }
            (_, _, Some(day)) if self.month.is_none() => {
                let first = checked_days(year, 1, 1).map_err(|_| out_of_range())?;
                let last = checked_days(year, 12, 31).map_err(|_| out_of_range())?;
                Some(first + day - 1).filter(|d| (first..=last).contains(d)).ok_or_else(out_of_range)?
            }
            _ => checked_days(year, self.month.unwrap_or(1), self.day.unwrap_or(1)).map_err(|_| out_of_range())?,
        };
        let hour = match self.pm {
            Some(_) if self.hour > 12 => {
                return Err(Error::new(
                    SqlState::InvalidDatetimeFormat,
                    format!("hour \"{}\" is invalid for the 12-hour clock", self.hour),
                ));
            }
            Some(pm) => self.hour % 12 + if pm { 12 } else { 0 },
            None => self.hour,
        };
        let time = self.since_midnight.unwrap_or(hour * HOUR + self.rest_of_hour);
        let local = days.checked_mul(DAY).and_then(|d| d.checked_add(time)).ok_or_else(calendar::out_of_range)?;
        match self.zone {
            Some(zone) => local.checked_sub(zone).ok_or_else(calendar::out_of_range),
            None => clock.moment(local),
        }
    }
}

fn in_range(value: i64, low: i64, high: i64, name: &str) -> Result<i64> {
    if (low..=high).contains(&value) {
        return Ok(value);
    }
    let message = format!("date/time field value out of range: \"{value}\" for \"{name}\"");
    Err(Error::new(SqlState::DatetimeFieldOverflow, message))
}
