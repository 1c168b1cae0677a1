//! Intervals in all of Postgres' spellings.
//!
//! ```text
//!   '1 day 2 hours'  '1 2:03:04'  '1-2'  '@ 1 min ago'  'P1Y2M3DT4H5M6S'   ──▶  months, days, microseconds
//! ```
//!
//! Months, days and microseconds are kept apart, as in Postgres: a month has no fixed days, a day no fixed hours.

use tidemark_common::{Error, Result, SqlState};

use super::cursor::Cursor;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Interval {
    pub months: i32,
    pub days: i32,
    pub micros: i64,
}

/// A field of an interval, from the largest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Field {
    Year,
    Month,
    Day,
    Hour,
    Minute,
    Second,
}

/// `INTERVAL '..' first TO last (precision)`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Qualifier {
    pub first: Option<Field>,
    pub last: Option<Field>,
    /// Digits after the point of the seconds.
    pub precision: Option<u32>,
}

const MICROS_PER_SECOND: i128 = 1_000_000;
const MICROS_PER_MINUTE: i128 = 60 * MICROS_PER_SECOND;
const MICROS_PER_HOUR: i128 = 60 * MICROS_PER_MINUTE;
const MICROS_PER_DAY: i128 = 24 * MICROS_PER_HOUR;
/// Amounts are read as billionths.
const ONE: i128 = 1_000_000_000;

/// Reads `text` as Postgres' `interval` input does.
pub fn parse(text: &str, qualifier: Qualifier) -> Result<Interval> {
    let parsed = match text.trim_start().strip_prefix(['P', 'p']) {
        Some(iso) => parse_iso(iso.trim_end()),
        None => parse_words(text, qualifier),
    };
    parsed.and_then(|sum| sum.finish(qualifier)).map_err(|problem| problem.error(text))
}

impl Interval {
    /// A spelling that arrow reads exactly.
    pub fn canonical(&self) -> String {
        let (seconds, fraction) = (self.micros / 1_000_000, (self.micros % 1_000_000).unsigned_abs());
        let sign = if self.micros < 0 { "-" } else { "" };
        let mut parts = Vec::new();
        if self.months != 0 {
            parts.push(format!("{} months", self.months));
        }
        if self.days != 0 {
            parts.push(format!("{} days", self.days));
        }
        if self.micros != 0 || parts.is_empty() {
            let seconds = seconds.unsigned_abs();
            parts.push(match fraction {
                0 => format!("{sign}{seconds} seconds"),
                _ => format!("{sign}{seconds}.{fraction:06} seconds"),
            });
        }
        parts.join(" ")
    }
}

enum Problem {
    Syntax,
    Range,
}

impl Problem {
    fn error(self, text: &str) -> Error {
        match self {
            Problem::Syntax => Error::new(
                SqlState::InvalidDatetimeFormat,
                format!("invalid input syntax for type interval: \"{text}\""),
            )
            .with_hint("Write an interval as '1 day 2 hours' or '1 02:03:04'."),
            Problem::Range => {
                Error::new(SqlState::DatetimeFieldOverflow, format!("interval field value out of range: \"{text}\""))
            }
        }
    }
}

/// The parts as they add up, wide enough not to overflow before the end.
#[derive(Default)]
struct Sum {
    months: i128,
    days: i128,
    micros: i128,
}

impl Sum {
    /// Adds `amount` billionths of a unit; a fraction goes on to smaller fields, as in Postgres.
    fn add(&mut self, amount: i128, unit: &str) -> Result<(), Problem> {
        match unit {
            "millennium" | "millennia" | "mil" | "mils" => self.add_months(amount, 12_000),
            "century" | "centuries" | "c" | "cent" => self.add_months(amount, 1_200),
            "decade" | "decades" | "dec" | "decs" => self.add_months(amount, 120),
            "year" | "years" | "y" | "yr" | "yrs" => self.add_months(amount, 12),
            "month" | "months" | "mon" | "mons" => {
                self.months += amount / ONE;
                self.add_days(amount % ONE * 30);
            }
            "week" | "weeks" | "w" => self.add_days(amount * 7),
            "day" | "days" | "d" => self.add_days(amount),
            "hour" | "hours" | "h" | "hr" | "hrs" => self.add_micros(amount, MICROS_PER_HOUR),
            "minute" | "minutes" | "m" | "min" | "mins" => self.add_micros(amount, MICROS_PER_MINUTE),
            "second" | "seconds" | "s" | "sec" | "secs" => self.add_micros(amount, MICROS_PER_SECOND),
            "millisecond" | "milliseconds" | "ms" | "msec" | "msecs" => self.add_micros(amount, 1_000),
            "microsecond" | "microseconds" | "us" | "usec" | "usecs" => self.add_micros(amount, 1),
            _ => return Err(Problem::Syntax),
        }
        Ok(())
    }

    fn add_months(&mut self, amount: i128, months: i128) {
        self.months += divide_rounded(amount * months, ONE);
    }

    fn add_days(&mut self, amount: i128) {
        self.days += amount / ONE;
        self.add_micros(amount % ONE, MICROS_PER_DAY);
    }

    fn add_micros(&mut self, amount: i128, micros: i128) {
        self.micros += divide_rounded(amount * micros, ONE);
    }

    fn negate(&mut self) {
        (self.months, self.days, self.micros) = (-self.months, -self.days, -self.micros);
    }

    /// Cuts off what is smaller than the qualifier's last field.
    fn finish(mut self, qualifier: Qualifier) -> Result<Interval, Problem> {
        let cut = |value: i128, unit: i128| value - value % unit;
        match qualifier.last.or(qualifier.first) {
            Some(Field::Year) => (self.months, self.days, self.micros) = (cut(self.months, 12), 0, 0),
            Some(Field::Month) => (self.days, self.micros) = (0, 0),
            Some(Field::Day) => self.micros = 0,
            Some(Field::Hour) => self.micros = cut(self.micros, MICROS_PER_HOUR),
            Some(Field::Minute) => self.micros = cut(self.micros, MICROS_PER_MINUTE),
            Some(Field::Second) | None => {}
        }
        if let Some(digits @ 0..=5) = qualifier.precision {
            let unit = 10_i128.pow(6 - digits);
            self.micros = divide_rounded(self.micros, unit) * unit;
        }
        Ok(Interval {
            months: i32::try_from(self.months).map_err(|_| Problem::Range)?,
            days: i32::try_from(self.days).map_err(|_| Problem::Range)?,
            micros: i64::try_from(self.micros).map_err(|_| Problem::Range)?,
        })
    }
}

fn divide_rounded(value: i128, by: i128) -> i128 {
    let half = if value < 0 { -by / 2 } else { by / 2 };
    (value + half) / by
}

/// `1 day -2:03 ago`, `1-2`, `1.5`
fn parse_words(text: &str, qualifier: Qualifier) -> Result<Sum, Problem> {
    let lower = text.trim().to_lowercase();
    let lower = lower.strip_prefix('@').unwrap_or(&lower);
    let mut words: Vec<&str> = lower.split_whitespace().collect();
    let ago = words.last() == Some(&"ago") && words.pop().is_some();
    if words.is_empty() {
        return Err(Problem::Syntax);
    }
    let mut sum = Sum::default();
    let mut rest = words.into_iter().peekable();
    while let Some(word) = rest.next() {
        let split = word.find(|c: char| c.is_alphabetic()).unwrap_or(word.len());
        let (number, mut unit) = word.split_at(split);
        if number.contains(':') {
            if !unit.is_empty() {
                return Err(Problem::Syntax);
            }
            sum.micros += time(number, qualifier)?;
        } else if let Some((years, months)) = years_and_months(number) {
            let amount = integer(years)? * 12;
            let months = integer(months)?;
            sum.months += if years.starts_with('-') { amount - months } else { amount + months };
        } else {
            let amount = amount(number)?;
            if unit.is_empty() {
                unit = match rest.peek() {
                    Some(next) if next.starts_with(char::is_alphabetic) => rest.next().unwrap_or_default(),
                    // `1 2:03`: days, then a time.
                    Some(next) if next.contains(':') => "day",
                    _ => unit_of(qualifier),
                };
            }
            sum.add(amount, unit)?;
        }
    }
    if ago {
        sum.negate();
    }
    Ok(sum)
}

fn unit_of(qualifier: Qualifier) -> &'static str {
    match qualifier.last.or(qualifier.first) {
        Some(Field::Year) => "year",
        Some(Field::Month) => "month",
        Some(Field::Day) => "day",
        Some(Field::Hour) => "hour",
        Some(Field::Minute) => "minute",
        Some(Field::Second) | None => "second",
    }
}

/// `1-2`, `-1-2`
fn years_and_months(word: &str) -> Option<(&str, &str)> {
    let digits = word.strip_prefix(['-', '+']).unwrap_or(word);
    let dash = digits.find('-')? + (word.len() - digits.len());
    Some((&word[..dash], &word[dash + 1..]))
}

/// `[-]h:m[:s[.f]]`; `m:s` under MINUTE TO SECOND, or where the second part has a fraction.
fn time(word: &str, qualifier: Qualifier) -> Result<i128, Problem> {
    let (negative, digits) = match word.strip_prefix(['-', '+']) {
        Some(digits) => (word.starts_with('-'), digits),
        None => (false, word),
    };
    let parts: Vec<&str> = digits.split(':').collect();
    let minutes_first = qualifier.first == Some(Field::Minute) && qualifier.last == Some(Field::Second);
    let (hours, minutes, seconds) = match parts.as_slice() {
        [minutes, seconds] if minutes_first || seconds.contains('.') => ("0", *minutes, *seconds),
        [hours, minutes] => (*hours, *minutes, "0"),
        [hours, minutes, seconds] => (*hours, *minutes, *seconds),
        _ => return Err(Problem::Syntax),
    };
    let unsigned = |part: &str| if part.starts_with(['-', '+']) { Err(Problem::Syntax) } else { integer(part) };
    let (hours, minutes) = (unsigned(hours)?, unsigned(minutes)?);
    if seconds.starts_with(['-', '+']) {
        return Err(Problem::Syntax);
    }
    let seconds = amount(seconds)?;
    if minutes >= 60 || seconds > 60 * ONE {
        return Err(Problem::Range);
    }
    let micros =
        hours * MICROS_PER_HOUR + minutes * MICROS_PER_MINUTE + divide_rounded(seconds * MICROS_PER_SECOND, ONE);
    Ok(if negative { -micros } else { micros })
}

/// Keeps every product of the parts far from overflow.
const MAX_DIGITS: usize = 18;

fn integer(text: &str) -> Result<i128, Problem> {
    if text.len() > MAX_DIGITS + 1 {
        return Err(Problem::Range);
    }
    text.parse().map_err(|_| Problem::Syntax)
}

/// `[-]12.345` in billionths.
fn amount(text: &str) -> Result<i128, Problem> {
    let (negative, digits) = match text.strip_prefix(['-', '+']) {
        Some(digits) => (text.starts_with('-'), digits),
        None => (false, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let all_digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    if (whole.is_empty() && fraction.is_empty()) || !all_digits(whole) || !all_digits(fraction) {
        return Err(Problem::Syntax);
    }
    let whole = if whole.is_empty() { 0 } else { integer(whole)? };
    let fraction: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let value = whole * ONE + integer(&fraction)?;
    Ok(if negative { -value } else { value })
}

/// After the `P` of ISO 8601: `1Y2M3DT4H5M6S`, `1W`, or `0001-02-03T04:05:06`.
fn parse_iso(text: &str) -> Result<Sum, Problem> {
    let (date, time_part) = text.split_once(['T', 't']).map_or((text, None), |(date, time)| (date, Some(time)));
    let mut sum = Sum::default();
    if date.is_empty() && time_part.is_none_or(str::is_empty) {
        return Err(Problem::Syntax);
    }
    match date.split('-').collect::<Vec<_>>().as_slice() {
        [years, months, days] if !years.is_empty() => {
            sum.months += integer(years)? * 12 + integer(months)?;
            sum.days += integer(days)?;
        }
        _ => designated(date, &mut sum, |unit| match unit {
            'Y' => Some("year"),
            'M' => Some("month"),
            'W' => Some("week"),
            'D' => Some("day"),
            _ => None,
        })?,
    }
    match time_part {
        Some(clock) if clock.contains(':') => sum.micros += time(clock, Qualifier::default())?,
        Some(designators) => designated(designators, &mut sum, |unit| match unit {
            'H' => Some("hour"),
            'M' => Some("minute"),
            'S' => Some("second"),
            _ => None,
        })?,
        None => {}
    }
    Ok(sum)
}

fn designated(text: &str, sum: &mut Sum, unit: impl Fn(char) -> Option<&'static str>) -> Result<(), Problem> {
    let mut rest = text;
    while let Some(end) = rest.find(|c: char| c.is_ascii_alphabetic()) {
        let designator = rest[end..].chars().next().map(|c| c.to_ascii_uppercase());
        let unit = designator.and_then(&unit).ok_or(Problem::Syntax)?;
        sum.add(amount(&rest[..end])?, unit)?;
        rest = &rest[end + 1..];
    }
    if rest.is_empty() { Ok(()) } else { Err(Problem::Syntax) }
}

/// What stands behind EVERY: a fixed time.
pub(super) struct Every {
    pub micros: i64,
    position: usize,
}

impl Every {
    pub fn refused(&self, message: &str) -> Error {
        Error::new(SqlState::InvalidParameterValue, message).with_position(self.position)
    }
}

/// After EVERY: `INTERVAL '5 minutes'`, `INTERVAL '5' MINUTE` or the string alone. `months`: what to do about months.
pub(super) fn every(c: &mut Cursor, months: &str) -> Result<Every> {
    let position = c.position();
    c.accept(&["INTERVAL"]);
    let mut text = c.string().map_err(|e| e.with_hint("Write EVERY INTERVAL '5 minutes'."))?;
    if let Some(unit) = c.accept_one_of(&["SECOND", "MINUTE", "HOUR", "DAY"]) {
        text = format!("{text} {unit}");
    }
    let interval = parse(&text, Qualifier::default()).map_err(|e| e.with_position(position))?;
    let mut every = Every { micros: 0, position };
    if interval.months != 0 {
        return Err(every.refused("EVERY takes no months, which are not all as long").with_hint(months.to_string()));
    }
    let days = i64::from(interval.days).checked_mul(86_400_000_000);
    let micros = days.and_then(|days| days.checked_add(interval.micros));
    every.micros = micros.ok_or_else(|| every.refused("the interval behind EVERY is too long"))?;
    Ok(every)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000_000;
    const MINUTE: i64 = 60_000_000;

    fn read(text: &str) -> (i32, i32, i64) {
        let i = parse(text, Qualifier::default()).unwrap_or_else(|e| panic!("{text}: {e}"));
        (i.months, i.days, i.micros)
    }

    #[test]
    fn spellings() {
        assert_eq!(read("1 day 2 hours"), (0, 1, 2 * HOUR));
        assert_eq!(read("1day 2h"), (0, 1, 2 * HOUR));
        assert_eq!(read("  @ 1 minute ago "), (0, 0, -MINUTE));
        assert_eq!(read("1 2:03:04.5"), (0, 1, 2 * HOUR + 3 * MINUTE + 4_500_000));
        assert_eq!(read("-1:30"), (0, 0, -HOUR - 30 * MINUTE));
        assert_eq!(read("1-2"), (14, 0, 0));
        assert_eq!(read("-1-2 +3 -4:05"), (-14, 3, -4 * HOUR - 5 * MINUTE));
        assert_eq!(read("1.5 years"), (18, 0, 0));
        assert_eq!(read("1.5 months"), (1, 15, 0));
        assert_eq!(read("1.5 days"), (0, 1, 12 * HOUR));
        assert_eq!(read("1.5 weeks"), (0, 10, 12 * HOUR));
        assert_eq!(read("5"), (0, 0, 5_000_000));
        assert_eq!(read("100 ms 7 us"), (0, 0, 100_007));
        assert_eq!(read("2 millennia 1 century 1 decade"), (25_320, 0, 0));
        assert_eq!(read("-3 days -1.000001 secs"), (0, -3, -1_000_001));
        assert_eq!(read("1 year 2 mons 3 days 04:05:06"), (14, 3, 4 * HOUR + 5 * MINUTE + 6_000_000));
    }

    #[test]
    fn iso_8601() {
        assert_eq!(read("P1Y2M3DT4H5M6S"), (14, 3, 4 * HOUR + 5 * MINUTE + 6_000_000));
        assert_eq!(read("PT1.5S"), (0, 0, 1_500_000));
        assert_eq!(read("P1W"), (0, 7, 0));
        assert_eq!(read("P-1DT-2H"), (0, -1, -2 * HOUR));
        assert_eq!(read("P0001-02-03T04:05:06"), (14, 3, 4 * HOUR + 5 * MINUTE + 6_000_000));
    }

    #[test]
    fn qualifiers() {
        let read = |text, first, last, precision| {
            let i = parse(text, Qualifier { first, last, precision }).unwrap();
            (i.months, i.days, i.micros)
        };
        assert_eq!(read("1", Some(Field::Minute), None, None), (0, 0, MINUTE));
        assert_eq!(read("1-2", Some(Field::Year), Some(Field::Month), None), (14, 0, 0));
        assert_eq!(read("1 2:03", Some(Field::Day), Some(Field::Minute), None), (0, 1, 2 * HOUR + 3 * MINUTE));
        assert_eq!(read("2:03", Some(Field::Minute), Some(Field::Second), None), (0, 0, 2 * MINUTE + 3_000_000));
        assert_eq!(read("1 day 2:03:04", Some(Field::Hour), None, None), (0, 1, 2 * HOUR));
        assert_eq!(read("1.23456", Some(Field::Second), None, Some(2)), (0, 0, 1_230_000));
    }

    #[test]
    fn refused() {
        for text in
            ["", "ago", "1 fortnight", "a day", "1:2:3:4", "1 day day", "P", "PT", "P1", "1:-2", "--1 day", "1.2.3 s"]
        {
            let error = parse(text, Qualifier::default()).unwrap_err();
            assert_eq!(error.code(), "22007", "{text}");
        }
        for text in ["9999999999 days", "1:60", "99999999999999999999 s", "999999999999999999 hours"] {
            assert_eq!(parse(text, Qualifier::default()).unwrap_err().code(), "22008", "{text}");
        }
    }

    #[test]
    fn canonical_text_reads_back() {
        for text in ["1 year -3 days 04:05:06.000007", "-0.5 s", "0", "-1 mon", "100 years 1:00"] {
            let interval = parse(text, Qualifier::default()).unwrap();
            assert_eq!(parse(&interval.canonical(), Qualifier::default()).unwrap(), interval, "{text}");
        }
        assert_eq!(parse("1 day 1.5 s", Qualifier::default()).unwrap().canonical(), "1 days 1.500000 seconds");
    }
}
