//! Intervals in IntervalStyle postgres and iso_8601, out and in: `1 year 2 mons -3 days +04:05:06.7`, `P1Y2M`, `1-2`, `2 weeks ago`.

use crate::{Error, Result, SqlState};
use bytes::{BufMut, BytesMut};
use datafusion::arrow::datatypes::IntervalMonthDayNano;

use super::datetime::write_fraction;

const MICROS_PER_SECOND: i128 = 1_000_000;
const MICROS_PER_DAY: i128 = 86_400 * MICROS_PER_SECOND;

/// A time in microseconds as an interval of days and what is left: `1 day 02:00:00`.
pub fn duration_text(micros: i64) -> String {
    const DAY: i64 = 86_400_000_000;
    let mut text = BytesMut::new();
    write(IntervalMonthDayNano::new(0, (micros / DAY) as i32, micros % DAY * 1000), &mut text);
    String::from_utf8_lossy(&text).into_owned()
}

pub(crate) fn write(value: IntervalMonthDayNano, out: &mut BytesMut) {
    let mut parts = Parts { first: true, after_negative: false };
    parts.write(value.months / 12, "year", out);
    parts.write(value.months % 12, "mon", out);
    parts.write(value.days, "day", out);
    let micros = value.nanoseconds / 1000;
    if micros == 0 && !parts.first {
        return;
    }
    if !parts.first {
        out.put_u8(b' ');
    }
    if micros < 0 {
        out.put_u8(b'-');
    } else if parts.after_negative {
        out.put_u8(b'+');
    }
    let micros = micros.unsigned_abs();
    let seconds = micros / 1_000_000;
    write_at_least_two(seconds / 3600, out);
    out.put_u8(b':');
    write_at_least_two(seconds / 60 % 60, out);
    out.put_u8(b':');
    write_at_least_two(seconds % 60, out);
    write_fraction((micros % 1_000_000) as u32, out);
}

/// IntervalStyle iso_8601: `P1Y2M3DT4H5M6.7S`, each part with its own sign.
pub(super) fn write_iso(value: IntervalMonthDayNano, out: &mut BytesMut) {
    let part = |value: i64, unit: u8, out: &mut BytesMut| {
        if value != 0 {
            out.put_slice(itoa::Buffer::new().format(value).as_bytes());
            out.put_u8(unit);
        }
    };
    let micros = value.nanoseconds / 1000;
    out.put_u8(b'P');
    if value.months == 0 && value.days == 0 && micros == 0 {
        out.put_slice(b"T0S");
        return;
    }
    part((value.months / 12).into(), b'Y', out);
    part((value.months % 12).into(), b'M', out);
    part(value.days.into(), b'D', out);
    if micros == 0 {
        return;
    }
    out.put_u8(b'T');
    let seconds = micros / 1_000_000;
    part(seconds / 3600, b'H', out);
    part(seconds / 60 % 60, b'M', out);
    let rest = micros % 60_000_000;
    if rest != 0 {
        if rest < 0 {
            out.put_u8(b'-');
        }
        let rest = rest.unsigned_abs();
        out.put_slice(itoa::Buffer::new().format(rest / 1_000_000).as_bytes());
        write_fraction((rest % 1_000_000) as u32, out);
        out.put_u8(b'S');
    }
}

struct Parts {
    first: bool,
    /// The part before was negative, so a positive one says so.
    after_negative: bool,
}

impl Parts {
    fn write(&mut self, value: i32, unit: &str, out: &mut BytesMut) {
        if value == 0 {
            return;
        }
        if !self.first {
            out.put_u8(b' ');
        }
        if self.after_negative && value > 0 {
            out.put_u8(b'+');
        }
        out.put_slice(itoa::Buffer::new().format(value).as_bytes());
        out.put_u8(b' ');
        out.put_slice(unit.as_bytes());
        if value != 1 {
            out.put_u8(b's');
        }
        self.first = false;
        self.after_negative = value < 0;
    }
}

fn write_at_least_two(value: u64, out: &mut BytesMut) {
    if value < 10 {
        out.put_u8(b'0');
    }
    out.put_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Why a text is no interval.
enum Bad {
    Syntax,
    Range,
}

pub(super) fn parse(text: &str) -> Result<IntervalMonthDayNano> {
    let lower = text.trim_ascii().to_ascii_lowercase();
    let sum = match lower.strip_prefix('p') {
        Some(iso) => parse_iso(iso),
        None => parse_postgres(&lower),
    };
    sum.and_then(|sum| sum.finish()).map_err(|bad| match bad {
        Bad::Syntax => {
            Error::new(SqlState::InvalidDatetimeFormat, format!("invalid input syntax for type interval: \"{text}\""))
        }
        Bad::Range => {
            Error::new(SqlState::DatetimeFieldOverflow, format!("interval field value out of range: \"{text}\""))
        }
    })
}

#[derive(Debug, Default)]
struct Sum {
    months: i128,
    days: i128,
    micros: i128,
}

/// A number as written: whole part, and the fraction in [0, 1), both to be given the sign.
#[derive(Clone, Copy)]
struct Number {
    negative: bool,
    whole: i128,
    fraction: f64,
}

impl Sum {
    /// What does not fit a unit goes over to the next smaller: half a month is 15 days, half a day 12 hours.
    fn add(&mut self, number: Number, unit: &str) -> Result<(), Bad> {
        let sign = if number.negative { -1 } else { 1 };
        let mut months = |per: i128| {
            self.months += sign * (number.whole * per + (number.fraction * per as f64).round_ties_even() as i128);
        };
        match unit {
            "millennium" | "millennia" | "mil" | "mils" => months(12_000),
            "century" | "centuries" | "cent" | "c" => months(1_200),
            "decade" | "decades" | "dec" | "decs" => months(120),
            "year" | "years" | "yr" | "yrs" | "y" => months(12),
            "month" | "months" | "mon" | "mons" => {
                self.months += sign * number.whole;
                self.add_days(sign, 0, number.fraction * 30.0);
            }
            "week" | "weeks" | "w" => self.add_days(sign, number.whole * 7, number.fraction * 7.0),
            "day" | "days" | "d" => self.add_days(sign, number.whole, number.fraction),
            _ => {
                let micros = match unit {
                    "hour" | "hours" | "hr" | "hrs" | "h" => 3600 * MICROS_PER_SECOND,
                    "minute" | "minutes" | "min" | "mins" | "m" => 60 * MICROS_PER_SECOND,
                    "second" | "seconds" | "sec" | "secs" | "s" => MICROS_PER_SECOND,
                    "millisecond" | "milliseconds" | "ms" | "msec" | "msecs" => 1_000,
                    "microsecond" | "microseconds" | "us" | "usec" | "usecs" => 1,
                    _ => return Err(Bad::Syntax),
                };
                self.micros +=
                    sign * (number.whole * micros + (number.fraction * micros as f64).round_ties_even() as i128);
            }
        }
        Ok(())
    }

    /// `more`: days with a fraction, which goes over to the time.
    fn add_days(&mut self, sign: i128, days: i128, more: f64) {
        self.days += sign * (days + more.trunc() as i128);
        self.micros += sign * (more.fract() * MICROS_PER_DAY as f64).round_ties_even() as i128;
    }

    fn finish(self) -> Result<IntervalMonthDayNano, Bad> {
        let months = i32::try_from(self.months).map_err(|_| Bad::Range)?;
        let days = i32::try_from(self.days).map_err(|_| Bad::Range)?;
        let nanos = i64::try_from(self.micros * 1_000).map_err(|_| Bad::Range)?;
        Ok(IntervalMonthDayNano::new(months, days, nanos))
    }
}

/// Reads from the left of what is left.
struct Reader<'a>(&'a str);

impl<'a> Reader<'a> {
    fn skip_blanks(&mut self) {
        self.0 = self.0.trim_start_matches(|c: char| c.is_ascii_whitespace() || c == ',');
    }

    fn take_while(&mut self, keep: impl Fn(char) -> bool) -> &'a str {
        let end = self.0.find(|c| !keep(c)).unwrap_or(self.0.len());
        let (taken, rest) = self.0.split_at(end);
        self.0 = rest;
        taken
    }

    fn eat(&mut self, c: char) -> bool {
        match self.0.strip_prefix(c) {
            Some(rest) => {
                self.0 = rest;
                true
            }
            None => false,
        }
    }

    /// `12`, `-1.5`, `.5`
    fn number(&mut self) -> Result<Number, Bad> {
        let negative = self.eat('-');
        if !negative {
            self.eat('+');
        }
        let whole = self.take_while(|c| c.is_ascii_digit());
        let fraction = if self.eat('.') { Some(self.take_while(|c| c.is_ascii_digit())) } else { None };
        if whole.is_empty() && fraction.is_none_or(str::is_empty) {
            return Err(Bad::Syntax);
        }
        if whole.len() > 18 {
            return Err(Bad::Range);
        }
        let whole = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| Bad::Range)? };
        let fraction = match fraction {
            None | Some("") => 0.0,
            Some(digits) => format!("0.{digits}").parse().map_err(|_| Bad::Syntax)?,
        };
        Ok(Number { negative, whole, fraction })
    }
}

fn parse_postgres(text: &str) -> Result<Sum, Bad> {
    let mut reader = Reader(text.strip_prefix('@').unwrap_or(text));
    let mut sum = Sum::default();
    let mut any = false;
    loop {
        reader.skip_blanks();
        if reader.0.is_empty() {
            break;
        }
        if reader.0 == "ago" && any {
            return Ok(Sum { months: -sum.months, days: -sum.days, micros: -sum.micros });
        }
        any = true;
        let number = reader.number()?;
        if reader.0.starts_with(':') {
            add_time(&mut reader, number, &mut sum)?;
        } else if reader.0.starts_with('-') && number.fraction == 0.0 {
            add_year_month(&mut reader, number, &mut sum)?;
        } else {
            reader.skip_blanks();
            let unit = reader.take_while(|c| c.is_ascii_alphabetic());
            let unit = match unit {
                // SQL's `1 02:03:04` is a day and a time; a bare number at the end is seconds.
                "" if reader.0.is_empty() => "seconds",
                "" if reader.0.split_once(':').is_some_and(|(hours, _)| is_hours(hours)) => "days",
                "" => return Err(Bad::Syntax),
                unit => unit,
            };
            sum.add(number, unit)?;
        }
    }
    if any { Ok(sum) } else { Err(Bad::Syntax) }
}

fn is_hours(text: &str) -> bool {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
}

/// `04:05`, `04:05:06.7`; `04:05.5` is minutes and seconds, as in Postgres.
fn add_time(reader: &mut Reader, first: Number, sum: &mut Sum) -> Result<(), Bad> {
    let mut fields = vec![first];
    while fields.len() < 3 && reader.eat(':') {
        if !reader.0.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(Bad::Syntax);
        }
        fields.push(Number { negative: first.negative, ..reader.number()? });
    }
    let units: &[&str] = match fields.len() {
        2 if fields[1].fraction != 0.0 => &["minutes", "seconds"],
        _ => &["hours", "minutes", "seconds"],
    };
    for (at, (field, unit)) in fields.iter().zip(units).enumerate() {
        if at > 0 && field.whole > if *unit == "minutes" { 59 } else { 60 } {
            return Err(Bad::Range);
        }
        if field.fraction != 0.0 && *unit != "seconds" {
            return Err(Bad::Syntax);
        }
        sum.add(*field, unit)?;
    }
    Ok(())
}

/// SQL's `1-2`: years and months.
fn add_year_month(reader: &mut Reader, years: Number, sum: &mut Sum) -> Result<(), Bad> {
    reader.eat('-');
    let months = reader.number()?;
    if months.whole > 11 || months.negative || months.fraction != 0.0 {
        return Err(Bad::Range);
    }
    sum.add(years, "years")?;
    sum.add(Number { negative: years.negative, ..months }, "months")
}

/// What follows the P of `P1Y2M3DT4H5M6S`.
fn parse_iso(text: &str) -> Result<Sum, Bad> {
    let mut reader = Reader(text);
    let mut sum = Sum::default();
    let mut in_time = false;
    let mut any = false;
    while !reader.0.is_empty() {
        if !in_time && reader.eat('t') {
            in_time = true;
            continue;
        }
        let number = reader.number()?;
        let unit = reader.0.chars().next().ok_or(Bad::Syntax)?;
        reader.eat(unit);
        sum.add(
            number,
            match (in_time, unit) {
                (false, 'y') => "years",
                (false, 'm') => "months",
                (false, 'w') => "weeks",
                (false, 'd') => "days",
                (true, 'h') => "hours",
                (true, 'm') => "minutes",
                (true, 's') => "seconds",
                _ => return Err(Bad::Syntax),
            },
        )?;
        any = true;
    }
    if any { Ok(sum) } else { Err(Bad::Syntax) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(text: &str) -> String {
        let mut out = BytesMut::new();
        write(parse(text).unwrap(), &mut out);
        String::from_utf8(out.to_vec()).unwrap()
    }

    /// What PostgreSQL 15 prints.
    #[test]
    fn as_postgres_reads_and_prints_them() {
        let cases = [
            ("1 year 2 mons -3 days 04:05:06.7", "1 year 2 mons -3 days +04:05:06.7"),
            ("0", "00:00:00"),
            ("-1 mon +2 days", "-1 mons +2 days"),
            ("-00:00:01.5", "-00:00:01.5"),
            ("1-2", "1 year 2 mons"),
            ("1 2:03:04", "1 day 02:03:04"),
            ("P1Y2M3DT4H5M6S", "1 year 2 mons 3 days 04:05:06"),
            ("1.5 months", "1 mon 15 days"),
            ("1.5 days", "1 day 12:00:00"),
            ("2 weeks ago", "-14 days"),
            ("-1 day 02:00", "-1 days +02:00:00"),
            ("1 year -1 day", "1 year -1 days"),
            ("-13 months", "-1 years -1 mons"),
            ("1 mon -1 hour", "1 mon -01:00:00"),
            ("100:00:00", "100:00:00"),
            ("5 seconds", "00:00:05"),
            ("@ 1 minute", "00:01:00"),
            ("1h30m", "01:30:00"),
            ("10", "00:00:10"),
            ("01:02.5", "00:01:02.5"),
        ];
        for (text, expected) in cases {
            assert_eq!(printed(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_none_is_refused() {
        for text in ["", "x", "1 parsec", "ago", "1:", "P", "PT1D", "1--2", "- 1", "1:99", "1 2", "1 2 3:00"] {
            assert!(parse(text).is_err(), "{text}");
        }
        let error = parse("999999999999 years").unwrap_err();
        assert_eq!(error.message(), "interval field value out of range: \"999999999999 years\"");
        assert_eq!(parse("x").unwrap_err().message(), "invalid input syntax for type interval: \"x\"");
    }
}
