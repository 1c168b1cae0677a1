//! Dates and times as people write them, in Postgres' syntax with DateStyle ISO, MDY:
//! `2024-01-31 04:05:06.7+02`, `Jan 31 2024 4:05 PM Europe/Berlin`, `1/31/2024`, `20240131T040506`, `44-03-15 BC`, `infinity`.
//!
//! The text is cut into words, each word fills a field of [`Fields`], and the type asked for takes the fields it has.

use crate::{Error, Result, SqlState};
use datafusion::arrow::array::timezone::Tz;

use super::Style;
use super::datetime::{Civil, MICROS_PER_DAY, MICROS_PER_SECOND, days_from_civil, days_in_month};
use super::style::{offset_of_local, zone_by_name};

/// Timestamps end where 64 bits of microseconds do, in the year 294247; dates before 5874898-01-01 and both begin at 4714-11-24
/// BC, as in Postgres.
const END_OF_TIMESTAMPS_DAYS: i64 = i64::MAX / MICROS_PER_DAY;
const END_OF_DATES_DAYS: i64 = 2_145_042_906;
const FIRST_DAY: i64 = -2_440_588;
/// Offsets from UTC are below 16 hours.
const MAX_OFFSET_SECONDS: i32 = 16 * 3600;

enum Bad {
    Syntax,
    Range,
    /// A month or day that would do if the other came first.
    MonthOrDay,
    Offset,
    Other(Error),
}

type Parsed<T> = std::result::Result<T, Bad>;

fn explain(bad: Bad, kind: &str, text: &str) -> Error {
    match bad {
        Bad::Syntax => {
            Error::new(SqlState::InvalidDatetimeFormat, format!("invalid input syntax for type {kind}: \"{text}\""))
        }
        Bad::Range => {
            Error::new(SqlState::DatetimeFieldOverflow, format!("date/time field value out of range: \"{text}\""))
        }
        Bad::MonthOrDay => {
            explain(Bad::Range, kind, text).with_hint("Perhaps you need a different \"datestyle\" setting.")
        }
        Bad::Offset => {
            Error::new(SqlState::DatetimeFieldOverflow, format!("time zone displacement out of range: \"{text}\""))
        }
        Bad::Other(error) => error,
    }
}

fn out_of_range(kind: &str, text: &str) -> Error {
    Error::new(SqlState::DatetimeFieldOverflow, format!("{kind} out of range: \"{text}\""))
}

pub(super) fn date(text: &str, style: &Style) -> Result<i32> {
    if let Some(days) = iso_date(text) {
        return Ok(days);
    }
    let days =
        match read(text, false).and_then(|fields| fields.moment(style)).map_err(|bad| explain(bad, "date", text))? {
            Moment::Infinity => return Ok(i32::MAX),
            Moment::MinusInfinity => return Ok(i32::MIN),
            Moment::At { days, .. } => days,
            Moment::Instant(micros) => {
                let local = micros.saturating_add(i64::from(style.offset_at(micros)) * MICROS_PER_SECOND);
                local.div_euclid(MICROS_PER_DAY)
            }
        };
    if !(FIRST_DAY..END_OF_DATES_DAYS).contains(&days) {
        return Err(out_of_range("date", text));
    }
    i32::try_from(days).map_err(|_| out_of_range("date", text))
}

/// The form that data has: 2024-01-31 and nothing else.
fn iso_date(text: &str) -> Option<i32> {
    let bytes: &[u8; 10] = text.as_bytes().try_into().ok()?;
    if bytes[4] != b'-' || bytes[7] != b'-' {
        return None;
    }
    let (year, month, day) = (i64::from(digits(&bytes[..4])?), digits(&bytes[5..7])?, digits(&bytes[8..])?);
    if year == 0 || !(1..=12).contains(&month) || day == 0 || day > days_in_month(year, month) {
        return None;
    }
    i32::try_from(days_from_civil(Civil { year, month, day })).ok()
}

/// The number that all of the bytes, at most nine, write.
fn digits(bytes: &[u8]) -> Option<u32> {
    bytes.iter().try_fold(0u32, |sum, b| b.is_ascii_digit().then(|| sum * 10 + u32::from(b - b'0')))
}

fn moment(text: &str, style: &Style) -> Parsed<Moment> {
    match iso_moment(text) {
        Some(moment) => Ok(moment),
        None => read(text, false)?.moment(style),
    }
}

/// The form that data has: `2024-01-31 04:05:06`, up to six digits of a second, `Z` or an offset such as `+02` or `+02:30`.
fn iso_moment(text: &str) -> Option<Moment> {
    let days = i64::from(iso_date(text.get(..10)?)?);
    let (clock, rest) = text.as_bytes()[10..].split_at_checked(9)?;
    let [b' ' | b'T', hour @ .., b':', m1, m2, b':', s1, s2] = clock else { return None };
    let (hour, minute, second) = (digits(hour)?, digits(&[*m1, *m2])?, digits(&[*s1, *s2])?);
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let (micros, rest) = match rest.strip_prefix(b".") {
        None => (0, rest),
        Some(rest) => {
            let count = rest.iter().take_while(|b| b.is_ascii_digit()).count();
            let (fraction, rest) = rest.split_at(count);
            if !(1..=6).contains(&count) {
                return None;
            }
            (digits(fraction)? * 10u32.pow(6 - count as u32), rest)
        }
    };
    let zone = match rest {
        [] => None,
        b"Z" => Some(0),
        [sign @ (b'+' | b'-'), h1, h2, rest @ ..] => {
            let minutes = match rest {
                [] => 0,
                [b':', minutes @ ..] if minutes.len() == 2 => digits(minutes)?,
                _ => return None,
            };
            let hours = digits(&[*h1, *h2])?;
            if hours > 15 || minutes > 59 {
                return None;
            }
            let seconds = (hours * 60 + minutes) as i32 * 60;
            Some(if *sign == b'-' { -seconds } else { seconds })
        }
        _ => return None,
    };
    let time = i64::from((hour * 60 + minute) * 60 + second) * MICROS_PER_SECOND + i64::from(micros);
    Some(Moment::At { days, time, zone: zone.map(Zone::Offset) })
}

pub(super) fn time(text: &str, style: &Style) -> Result<i64> {
    let bad = |bad| explain(bad, "time", text);
    let fields = read(text, true).map_err(bad)?;
    if fields.special == Some(Special::Now) {
        let local = style.now_micros + i64::from(style.offset_at(style.now_micros)) * MICROS_PER_SECOND;
        return Ok(local.rem_euclid(MICROS_PER_DAY));
    }
    fields.time.ok_or_else(|| bad(Bad::Syntax))
}

pub(super) fn timestamp(text: &str, style: &Style) -> Result<i64> {
    match moment(text, style).map_err(|bad| explain(bad, "timestamp", text))? {
        Moment::Infinity => Ok(i64::MAX),
        Moment::MinusInfinity => Ok(i64::MIN),
        Moment::At { days, time, .. } => micros(days, time).ok_or_else(|| out_of_range("timestamp", text)),
        Moment::Instant(micros) => Ok(micros + i64::from(style.offset_at(micros)) * MICROS_PER_SECOND),
    }
}

pub(super) fn timestamptz(text: &str, style: &Style) -> Result<i64> {
    let kind = "timestamp with time zone";
    match moment(text, style).map_err(|bad| explain(bad, kind, text))? {
        Moment::Infinity => Ok(i64::MAX),
        Moment::MinusInfinity => Ok(i64::MIN),
        Moment::At { days, time, zone } => {
            let local = micros(days, time).ok_or_else(|| out_of_range("timestamp", text))?;
            let offset = match zone {
                None => style.offset_of_local(local),
                Some(Zone::Offset(seconds)) => seconds,
                Some(Zone::Named(zone)) => offset_of_local(&zone, local),
            };
            local.checked_sub(i64::from(offset) * MICROS_PER_SECOND).ok_or_else(|| out_of_range("timestamp", text))
        }
        Moment::Instant(micros) => Ok(micros),
    }
}

fn micros(days: i64, time: i64) -> Option<i64> {
    if !(FIRST_DAY..END_OF_TIMESTAMPS_DAYS).contains(&days) {
        return None;
    }
    days.checked_mul(MICROS_PER_DAY)?.checked_add(time)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Special {
    Infinity,
    MinusInfinity,
    Epoch,
    Now,
    /// Midnight of today and so many days.
    Today(i64),
}

#[derive(Debug)]
enum Zone {
    /// Seconds east of UTC.
    Offset(i32),
    Named(Tz),
}

enum Moment {
    Infinity,
    MinusInfinity,
    At {
        days: i64,
        time: i64,
        zone: Option<Zone>,
    },
    /// Microseconds since 1970 UTC.
    Instant(i64),
}

/// A number that is part of a date, with its count of digits: `24` and `0024` are different years.
#[derive(Debug, Clone, Copy)]
struct Part {
    value: i64,
    digits: usize,
}

#[derive(Debug, Default)]
struct Fields {
    time_only: bool,
    special: Option<Special>,
    /// The numbers of the date in the order they were written, without the month if it came as a name.
    parts: Vec<Part>,
    month: Option<u32>,
    before_christ: bool,
    time: Option<i64>,
    afternoon: Option<bool>,
    zone: Option<Zone>,
}

/// `time_only`: digits alone are a time, not a date.
fn read(text: &str, time_only: bool) -> Parsed<Fields> {
    let mut fields = Fields { time_only, ..Fields::default() };
    let mut words = Words { rest: text.trim_ascii() };
    if words.rest.is_empty() {
        return Err(Bad::Syntax);
    }
    while let Some(first) = words.first() {
        match first {
            b' ' | b'\t' | b'\n' | b'\r' | b',' => words.skip(),
            b'0'..=b'9' => fields.number(&mut words)?,
            b'+' | b'-' if fields.time.is_some() || fields.has_date() => fields.offset(&mut words)?,
            // Jan-31-2024
            b'-' | b'/' if fields.month.is_some() && fields.parts.is_empty() => words.skip(),
            b'+' | b'-' if words.rest[1..].eq_ignore_ascii_case("infinity") => {
                fields.special = Some(if first == b'-' { Special::MinusInfinity } else { Special::Infinity });
                words.rest = "";
            }
            _ if first.is_ascii_alphabetic() => fields.word(&mut words)?,
            _ => return Err(Bad::Syntax),
        }
    }
    fields.finish_time()?;
    Ok(fields)
}

struct Words<'a> {
    rest: &'a str,
}

impl<'a> Words<'a> {
    fn first(&self) -> Option<u8> {
        self.rest.bytes().next()
    }

    fn skip(&mut self) {
        self.rest = &self.rest[1..];
    }

    fn take_while(&mut self, keep: impl Fn(u8) -> bool) -> &'a str {
        let end = self.rest.bytes().position(|b| !keep(b)).unwrap_or(self.rest.len());
        // Only ASCII is kept, so the cut is between characters.
        let (taken, rest) = self.rest.split_at(end);
        self.rest = rest;
        taken
    }

    fn digits(&mut self) -> Parsed<Part> {
        let digits = self.take_while(|b| b.is_ascii_digit());
        if digits.is_empty() || digits.len() > 9 {
            return Err(Bad::Syntax);
        }
        Ok(Part { value: digits.parse().map_err(|_| Bad::Syntax)?, digits: digits.len() })
    }
}

impl Fields {
    fn has_date(&self) -> bool {
        self.parts.len() + usize::from(self.month.is_some()) == 3
    }

    fn number(&mut self, words: &mut Words) -> Parsed<()> {
        let part = words.digits()?;
        match words.first() {
            Some(b':') => self.clock(part, words),
            _ if self.time_only
                && self.parts.is_empty()
                && matches!(part.digits, 4 | 6)
                && words.first() != Some(b'-') =>
            {
                self.compact_time(part, words)
            }
            Some(separator @ (b'-' | b'/' | b'.')) if self.parts.is_empty() && self.time.is_none() => {
                self.dashed_date(part, separator, words)
            }
            _ if self.parts.is_empty() && self.month.is_none() && (part.digits == 8 || part.digits == 6) => {
                self.compact_date(part);
                Ok(())
            }
            _ if self.time.is_none() && self.has_date() => self.compact_time(part, words),
            _ if self.parts.len() < 3 => {
                self.parts.push(part);
                Ok(())
            }
            _ => Err(Bad::Syntax),
        }
    }

    /// `2024-01-31`, `1/31/2024`, `31-Jan-2024`; the first number has been read.
    fn dashed_date(&mut self, first: Part, separator: u8, words: &mut Words) -> Parsed<()> {
        self.parts.push(first);
        for _ in 0..if self.month.is_some() { 1 } else { 2 } {
            if words.first() != Some(separator) {
                return Err(Bad::Syntax);
            }
            words.skip();
            if words.first().is_some_and(|b| b.is_ascii_alphabetic()) {
                let name = words.take_while(|b| b.is_ascii_alphabetic()).to_ascii_lowercase();
                if self.month.is_some() {
                    return Err(Bad::Syntax);
                }
                self.month = Some(month_by_name(&name).ok_or(Bad::Syntax)?);
            } else {
                self.parts.push(words.digits()?);
            }
        }
        if words.first() == Some(separator) { Err(Bad::Syntax) } else { Ok(()) }
    }

    /// `20240131`, `240131`
    fn compact_date(&mut self, part: Part) {
        let year = Part { value: part.value / 10_000, digits: part.digits - 4 };
        // With two digits the year would be taken for a month: write it out.
        let year = if year.digits == 2 { Part { value: two_digit_year(year.value), digits: 4 } } else { year };
        self.parts.push(year);
        self.parts.push(Part { value: part.value / 100 % 100, digits: 2 });
        self.parts.push(Part { value: part.value % 100, digits: 2 });
    }

    /// `040506`, `0405`, after a date.
    fn compact_time(&mut self, part: Part, words: &mut Words) -> Parsed<()> {
        let (hour, minute, second) = match part.digits {
            6 => (part.value / 10_000, part.value / 100 % 100, part.value % 100),
            4 => (part.value / 100, part.value % 100, 0),
            _ => return Err(Bad::Syntax),
        };
        let micros = fraction(words)?;
        self.set_time(hour, minute, second, micros)
    }

    /// `4:05`, `04:05:06.7`; the hour has been read.
    fn clock(&mut self, hour: Part, words: &mut Words) -> Parsed<()> {
        words.skip();
        let minute = words.digits()?;
        let mut second = Part { value: 0, digits: 2 };
        let mut micros = 0;
        if words.first() == Some(b':') {
            words.skip();
            second = words.digits()?;
            micros = fraction(words)?;
        }
        self.set_time(hour.value, minute.value, second.value, micros)
    }

    fn set_time(&mut self, hour: i64, minute: i64, second: i64, micros: i64) -> Parsed<()> {
        if self.time.is_some() {
            return Err(Bad::Syntax);
        }
        let time = ((hour * 60 + minute) * 60 + second) * MICROS_PER_SECOND + micros;
        if hour > 24 || minute > 59 || second > 60 || time > MICROS_PER_DAY {
            return Err(Bad::Range);
        }
        self.time = Some(time);
        Ok(())
    }

    /// `+02`, `-0530`, `+05:30:10`
    fn offset(&mut self, words: &mut Words) -> Parsed<()> {
        let sign = if words.first() == Some(b'-') { -1 } else { 1 };
        words.skip();
        let first = words.digits()?;
        let (hours, mut minutes, mut seconds) = match first.digits {
            1 | 2 => (first.value, 0, 0),
            3 | 4 => (first.value / 100, first.value % 100, 0),
            6 => (first.value / 10_000, first.value / 100 % 100, first.value % 100),
            _ => return Err(Bad::Syntax),
        };
        for field in [&mut minutes, &mut seconds] {
            if words.first() == Some(b':') {
                words.skip();
                *field = words.digits()?.value;
            }
        }
        let offset = (hours * 60 + minutes) * 60 + seconds;
        if minutes > 59 || seconds > 59 || offset >= i64::from(MAX_OFFSET_SECONDS) {
            return Err(Bad::Offset);
        }
        self.set_zone(Zone::Offset(sign * offset as i32))
    }

    fn set_zone(&mut self, zone: Zone) -> Parsed<()> {
        if self.zone.is_some() {
            return Err(Bad::Syntax);
        }
        self.zone = Some(zone);
        Ok(())
    }

    fn word(&mut self, words: &mut Words) -> Parsed<()> {
        let before = words.rest;
        let word = words.take_while(|b| b.is_ascii_alphabetic()).to_ascii_lowercase();
        if word == "t" && (self.time_only || !self.parts.is_empty()) && self.time.is_none() {
            return Ok(());
        }
        let special = match word.as_str() {
            "infinity" => Some(Special::Infinity),
            "epoch" => Some(Special::Epoch),
            "now" => Some(Special::Now),
            "today" => Some(Special::Today(0)),
            "tomorrow" => Some(Special::Today(1)),
            "yesterday" => Some(Special::Today(-1)),
            _ => None,
        };
        if special.is_some() && self.special.is_none() {
            self.special = special;
            return Ok(());
        }
        match word.as_str() {
            "bc" => self.before_christ = true,
            "ad" => {}
            "am" | "pm" if self.afternoon.is_none() => self.afternoon = Some(word == "pm"),
            "allballs" if self.time.is_none() => {
                self.time = Some(0);
                return self.set_zone(Zone::Offset(0));
            }
            word if self.month.is_none() && self.parts.len() < 3 && month_by_name(word).is_some() => {
                self.month = month_by_name(word);
            }
            word if is_weekday(word) => {}
            _ => return self.zone_name(before, words),
        }
        Ok(())
    }

    /// `UTC`, `EST`, `Europe/Berlin`, `Etc/GMT+5`
    fn zone_name<'a>(&mut self, before: &'a str, words: &mut Words<'a>) -> Parsed<()> {
        if self.parts.is_empty() && self.time.is_none() {
            return Err(Bad::Syntax);
        }
        words.rest = before;
        let name = words.take_while(|b| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'_'));
        if let Some(hours) = zone_by_abbreviation(&name.to_ascii_lowercase()) {
            return self.set_zone(Zone::Offset(hours * 3600));
        }
        if !name.contains('/') {
            // A country's zone, such as Japan.
            let zone = zone_by_name(name).map_err(|_| Bad::Syntax)?;
            return self.set_zone(Zone::Named(zone));
        }
        let sign_and_more = words.take_while(|b| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'_' | b'-' | b'+'));
        let zone = zone_by_name(&format!("{name}{sign_and_more}")).map_err(Bad::Other)?;
        self.set_zone(Zone::Named(zone))
    }

    fn finish_time(&mut self) -> Parsed<()> {
        const HOUR: i64 = 3600 * MICROS_PER_SECOND;
        let Some(afternoon) = self.afternoon else {
            return Ok(());
        };
        let time = self.time.ok_or(Bad::Syntax)?;
        if time >= 13 * HOUR {
            return Err(Bad::Range);
        }
        self.time = Some(time % (12 * HOUR) + if afternoon { 12 * HOUR } else { 0 });
        Ok(())
    }

    fn moment(self, style: &Style) -> Parsed<Moment> {
        let Some(special) = self.special else {
            let date = self.civil()?;
            return Ok(Moment::At { days: days_from_civil(date), time: self.time.unwrap_or(0), zone: self.zone });
        };
        if !self.parts.is_empty() || self.month.is_some() {
            return Err(Bad::Syntax);
        }
        let Special::Today(more) = special else {
            return match special {
                _ if self.time.is_some() => Err(Bad::Syntax),
                Special::Infinity => Ok(Moment::Infinity),
                Special::MinusInfinity => Ok(Moment::MinusInfinity),
                Special::Epoch => Ok(Moment::At { days: 0, time: 0, zone: Some(Zone::Offset(0)) }),
                _ => Ok(Moment::Instant(style.now_micros)),
            };
        };
        let local = style.now_micros + i64::from(style.offset_at(style.now_micros)) * MICROS_PER_SECOND;
        let days = local.div_euclid(MICROS_PER_DAY) + more;
        Ok(Moment::At { days, time: self.time.unwrap_or(0), zone: self.zone })
    }

    /// Year first if it has more than two digits; otherwise month, day, year.
    fn civil(&self) -> Parsed<Civil> {
        let named = |month| Part { value: i64::from(month), digits: 2 };
        let (year, month, day) = match (self.month, self.parts.as_slice()) {
            (None, [year, month, day]) if year.digits > 2 => (*year, *month, *day),
            (None, [month, day, year]) => (*year, *month, *day),
            (Some(month), [year, day]) if year.digits > 2 => (*year, named(month), *day),
            (Some(month), [day, year]) => (*year, named(month), *day),
            _ => return Err(Bad::Syntax),
        };
        if month.digits > 2 || day.digits > 2 {
            return Err(Bad::Syntax);
        }
        let (month, day) = (month.value, day.value);
        let mut value = if year.digits <= 2 && !self.before_christ { two_digit_year(year.value) } else { year.value };
        if value == 0 {
            return Err(Bad::Range);
        }
        if self.before_christ {
            value = 1 - value;
        }
        if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
            return Err(Bad::MonthOrDay);
        }
        let (month, day) = (month as u32, day as u32);
        if day > days_in_month(value, month) {
            return Err(Bad::Range);
        }
        Ok(Civil { year: value, month, day })
    }
}

/// The digits after a point, as microseconds, rounded.
fn fraction(words: &mut Words) -> Parsed<i64> {
    if words.first() != Some(b'.') {
        return Ok(0);
    }
    words.skip();
    let digits = words.take_while(|b| b.is_ascii_digit());
    if digits.is_empty() {
        return Ok(0);
    }
    // In floating point as Postgres does it, which decides how a half is rounded.
    let fraction: f64 = format!("0.{digits}").parse().map_err(|_| Bad::Syntax)?;
    Ok((fraction * MICROS_PER_SECOND as f64).round_ties_even() as i64)
}

fn two_digit_year(year: i64) -> i64 {
    if year < 70 { year + 2000 } else { year + 1900 }
}

/// By their whole names; the first three letters of each are another.
pub const MONTHS: [&str; 12] = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
];

fn month_by_name(word: &str) -> Option<u32> {
    let at = MONTHS.iter().position(|month| *month == word || month[..3] == *word);
    at.or_else(|| (word == "sept").then_some(8)).map(|at| at as u32 + 1)
}

fn is_weekday(word: &str) -> bool {
    const DAYS: [&str; 7] = ["sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"];
    DAYS.iter().any(|day| *day == word || day[..3] == *word) || matches!(word, "tues" | "wednes" | "thur" | "thurs")
}

/// Hours east of UTC of the abbreviations that people write; all others by name.
fn zone_by_abbreviation(word: &str) -> Option<i32> {
    Some(match word {
        "z" | "utc" | "gmt" | "zulu" | "wet" => 0,
        "bst" | "cet" | "met" | "west" => 1,
        "cest" | "eet" | "sast" => 2,
        "eest" | "msk" => 3,
        "jst" | "kst" => 9,
        "aest" => 10,
        "aedt" => 11,
        "nzst" => 12,
        "nzdt" => 13,
        "edt" => -4,
        "est" | "cdt" => -5,
        "cst" | "mdt" => -6,
        "mst" | "pdt" => -7,
        "pst" | "akdt" => -8,
        "akst" => -9,
        "hst" => -10,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::super::datetime::{write_date, write_time, write_timestamp, write_timestamptz};
    use super::*;

    fn text(write: impl FnOnce(&mut BytesMut)) -> String {
        let mut out = BytesMut::new();
        write(&mut out);
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn timestamps_in_many_spellings() {
        let style = Style::default();
        let cases = [
            ("2024-01-31 04:05:06.7", "2024-01-31 04:05:06.7"),
            ("2024-01-31T04:05:06", "2024-01-31 04:05:06"),
            ("20240131T040506", "2024-01-31 04:05:06"),
            ("20240131 040506.25", "2024-01-31 04:05:06.25"),
            ("2024-01-31", "2024-01-31 00:00:00"),
            ("1/31/2024 16:05", "2024-01-31 16:05:00"),
            ("1/31/24 4:05 pm", "2024-01-31 16:05:00"),
            ("Jan 31 2024 12:00 AM", "2024-01-31 00:00:00"),
            ("Wed 31 January 2024", "2024-01-31 00:00:00"),
            ("January 31, 2024", "2024-01-31 00:00:00"),
            ("31-Jan-2024", "2024-01-31 00:00:00"),
            ("Jan-31-2024", "2024-01-31 00:00:00"),
            ("2024-01-31 +05", "2024-01-31 00:00:00"),
            ("2024-Jan-31", "2024-01-31 00:00:00"),
            ("0044-03-15 12:00:00.5 BC", "0044-03-15 12:00:00.5 BC"),
            ("10000-01-01", "10000-01-01 00:00:00"),
            ("294246-12-31 23:59:59.999999", "294246-12-31 23:59:59.999999"),
            ("2024-01-31 24:00", "2024-02-01 00:00:00"),
            ("2024-01-31 10:00:60", "2024-01-31 10:01:00"),
            ("2024-01-31 04:05:06.1234567", "2024-01-31 04:05:06.123457"),
            ("2024-01-31 04:05:06+05", "2024-01-31 04:05:06"),
            ("epoch", "1970-01-01 00:00:00"),
            ("infinity", "infinity"),
            ("-Infinity", "-infinity"),
            ("1969-12-31 23:59:59.5", "1969-12-31 23:59:59.5"),
        ];
        for (input, expected) in cases {
            let micros = timestamp(input, &style).unwrap_or_else(|e| panic!("{input}: {e}"));
            assert_eq!(text(|out| write_timestamp(micros, b' ', out)), expected, "{input}");
        }
    }

    #[test]
    fn zones_are_taken_into_account() {
        let kolkata = Style::default().with_time_zone("Asia/Kolkata").unwrap();
        let cases = [
            ("2024-01-01 00:00Z", "2024-01-01 05:30:00+05:30"),
            ("2024-01-01 00:00", "2024-01-01 00:00:00+05:30"),
            ("1800-01-01 00:00Z", "1800-01-01 05:53:28+05:53:28"),
            ("2024-07-01 12:00 Europe/Berlin", "2024-07-01 15:30:00+05:30"),
            ("2024-07-01 12:00:00-0330", "2024-07-01 21:00:00+05:30"),
            ("2024-07-01 12:00:00 +05:30", "2024-07-01 12:00:00+05:30"),
            ("epoch", "1970-01-01 05:30:00+05:30"),
            ("2024-07-01 12:00 Japan", "2024-07-01 08:30:00+05:30"),
            ("2024-07-01 12:00 PST", "2024-07-02 01:30:00+05:30"),
        ];
        for (input, expected) in cases {
            let micros = timestamptz(input, &kolkata).unwrap_or_else(|e| panic!("{input}: {e}"));
            assert_eq!(text(|out| write_timestamptz(micros, &kolkata, b' ', out)), expected, "{input}");
        }
    }

    #[test]
    fn dates_and_times() {
        let style = Style { now_micros: 1_706_673_906_000_000, ..Style::default() };
        for (input, expected) in [
            ("0001-01-01 BC", "0001-01-01 BC"),
            ("2024-02-29", "2024-02-29"),
            ("5874897-12-31", "5874897-12-31"),
            ("today", "2024-01-31"),
            ("tomorrow", "2024-02-01"),
            ("now", "2024-01-31"),
            ("infinity", "infinity"),
        ] {
            assert_eq!(text(|out| write_date(date(input, &style).unwrap(), out)), expected);
        }
        for (input, expected) in [
            ("24:00", "24:00:00"),
            ("12:00:00.100", "12:00:00.1"),
            ("4:05 PM", "16:05:00"),
            ("now", "04:05:06"),
            ("0:30 am", "00:30:00"),
            ("102030.5", "10:20:30.5"),
            ("T10:20", "10:20:00"),
        ] {
            assert_eq!(text(|out| write_time(time(input, &style).unwrap(), out)), expected);
        }
    }

    #[test]
    fn errors_are_worded_as_in_postgres() {
        let style = Style::default();
        let message = |error: Error| format!("{} {}", error.code(), error.message());
        assert_eq!(message(date("x", &style).unwrap_err()), "22007 invalid input syntax for type date: \"x\"");
        assert_eq!(message(date("", &style).unwrap_err()), "22007 invalid input syntax for type date: \"\"");
        let month = date("2024-13-01", &style).unwrap_err();
        assert_eq!(month.hint(), Some("Perhaps you need a different \"datestyle\" setting."));
        assert_eq!(message(month), "22008 date/time field value out of range: \"2024-13-01\"");
        let day = timestamp("2024-02-30", &style).unwrap_err();
        assert_eq!(day.hint(), None);
        assert_eq!(message(day), "22008 date/time field value out of range: \"2024-02-30\"");
        assert_eq!(
            message(timestamptz("x", &style).unwrap_err()),
            "22007 invalid input syntax for type timestamp with time zone: \"x\""
        );
        assert_eq!(
            message(timestamptz("2024-01-01 00:00 Foo/Bar", &style).unwrap_err()),
            "22023 time zone \"Foo/Bar\" not recognized"
        );
        assert_eq!(message(time("25:00", &style).unwrap_err()), "22008 date/time field value out of range: \"25:00\"");
        assert_eq!(message(time("10:70", &style).unwrap_err()), "22008 date/time field value out of range: \"10:70\"");
        assert_eq!(message(date("5874898-01-01", &style).unwrap_err()), "22008 date out of range: \"5874898-01-01\"");
        assert_eq!(
            message(timestamp("294277-01-01", &style).unwrap_err()),
            "22008 timestamp out of range: \"294277-01-01\""
        );
        assert_eq!(
            message(timestamp("12:00:00", &style).unwrap_err()),
            "22007 invalid input syntax for type timestamp: \"12:00:00\""
        );
        assert!(timestamptz("2024-01-01 10:00:00+16", &style).is_err());
        for bad in
            ["2024-01", "2024-01-01-01", "1 2 3 4", "é", "2024-01-01 é", "12:", "--", "Jan", "2024-01-01 10:00 10:00"]
        {
            assert!(timestamp(bad, &style).is_err(), "{bad}");
        }
    }
}
