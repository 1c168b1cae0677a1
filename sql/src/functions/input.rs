//! Text as dates and times, the way Postgres reads them: ISO 8601 in its common variants, month names, slashes, AM and PM, zones.
//!
//! ```text
//!   "29 Feb 2024 1:04 PM +02"  ──words──▶  29 | feb | 2024 | 1:04 | pm | +02  ──▶ date, time, offset
//! ```

use datafusion::logical_expr::ScalarUDF;
use tidemark_common::{Error, Result, SqlState};

use super::calendar::{self, DAY, HOUR, MINUTE, SECOND, checked_days};
use super::clock::Clock;
use super::declare::{Kind, function};
use super::names::MONTHS;
use super::value::Value;

pub const TO_TIMESTAMP: &str = "tidemark_to_timestamp";
pub const TO_TIMESTAMPTZ: &str = "tidemark_to_timestamptz";
pub const TO_DATE: &str = "tidemark_to_date";
pub const TO_TIME: &str = "tidemark_to_time";

pub(super) fn functions() -> Vec<ScalarUDF> {
    use Kind::{Date, Text, Time, Timestamp, TimestampTz};
    vec![
        function(TO_TIMESTAMP).on(&[Text], Timestamp, |r| parse_timestamp(r.text(0)).map(Value::from)).udf(),
        function(TO_TIMESTAMPTZ)
            .on(&[Text], TimestampTz, |r| parse_timestamptz(r.text(0)).map(Value::from))
            .on(&[Text, Text], TimestampTz, |r| parse_timestamptz_in(r.text(0), Some(r.text(1))).map(Value::from))
            .udf(),
        function(TO_DATE).on(&[Text], Date, |r| parse_date(r.text(0)).map(Value::from)).udf(),
        function("timezone")
            .on(&[Text, TimestampTz], Timestamp, |r| Clock::named(r.text(0))?.local(r.micros(1)).map(Value::Int))
            .on(&[Text, Timestamp], TimestampTz, |r| at_zone(r.text(0), r.micros(1)).map(Value::Int))
            .udf(),
        function(TO_TIME).on(&[Text], Time, |r| parse_time(r.text(0)).map(Value::from)).udf(),
    ]
}

/// The moment at which clocks of the zone show `local`.
pub(super) fn at_zone(zone: &str, local: i64) -> Result<i64> {
    Clock::named(zone)?.moment(local)
}

/// Microseconds since 1970-01-01; a zone in the text is passed over, as Postgres does.
pub fn parse_timestamp(text: &str) -> Result<i64> {
    if let Some(positive) = infinity(text) {
        return Ok(if positive { i64::MAX } else { i64::MIN });
    }
    let parts = Parts::read(text, "timestamp")?;
    parts.local(text, "timestamp")
}

/// As [`parse_timestamp`], moved to UTC by the zone in the text; without one it is UTC.
pub fn parse_timestamptz(text: &str) -> Result<i64> {
    parse_timestamptz_in(text, None)
}

/// Without a zone in the text it is a time of `zone`.
pub(super) fn parse_timestamptz_in(text: &str, zone: Option<&str>) -> Result<i64> {
    if let Some(positive) = infinity(text) {
        return Ok(if positive { i64::MAX } else { i64::MIN });
    }
    let parts = Parts::read(text, "timestamp with time zone")?;
    let local = parts.local(text, "timestamp with time zone")?;
    match &parts.zone {
        None => zone.map_or(Ok(local), |zone| at_zone(zone, local)),
        Some(Zone::Offset(micros)) => local.checked_sub(*micros).ok_or_else(calendar::out_of_range),
        Some(Zone::Named(clock)) => clock.moment(local),
    }
}

/// Days since 1970-01-01.
pub fn parse_date(text: &str) -> Result<i64> {
    if let Some(positive) = infinity(text) {
        return Ok(i64::from(if positive { i32::MAX } else { i32::MIN }));
    }
    let parts = Parts::read(text, "date")?;
    parts.date.ok_or_else(|| invalid(text, "date"))
}

/// Whether the text is a time after all others, or one before.
fn infinity(text: &str) -> Option<bool> {
    match text.trim().to_ascii_lowercase().as_str() {
        "infinity" | "+infinity" => Some(true),
        "-infinity" => Some(false),
        _ => None,
    }
}

/// Microseconds since midnight.
pub fn parse_time(text: &str) -> Result<i64> {
    let word = text.trim();
    if word.starts_with(|c: char| c.is_ascii_alphabetic()) && word.contains(['-', '/']) {
        // Postgres takes such a word for a zone.
        return Err(Error::invalid(format!("time zone \"{word}\" not recognized")));
    }
    let parts = Parts::read(text, "time")?;
    parts.time.ok_or_else(|| invalid(text, "time"))
}

fn invalid(text: &str, what: &str) -> Error {
    Error::new(SqlState::InvalidDatetimeFormat, format!("invalid input syntax for type {what}: \"{text}\""))
}

fn out_of_range(text: &str) -> Error {
    Error::new(SqlState::DatetimeFieldOverflow, format!("date/time field value out of range: \"{text}\""))
}

enum Zone {
    Offset(i64),
    Named(Clock),
}

/// What a text says, each at most once.
#[derive(Default)]
struct Parts {
    date: Option<i64>,
    time: Option<i64>,
    zone: Option<Zone>,
}

impl Parts {
    fn local(&self, text: &str, what: &str) -> Result<i64> {
        let days = self.date.ok_or_else(|| invalid(text, what))?;
        days.checked_mul(DAY).and_then(|d| d.checked_add(self.time.unwrap_or(0))).ok_or_else(calendar::out_of_range)
    }

    fn read(text: &str, what: &str) -> Result<Self> {
        let trimmed = text.trim();
        if let Some(parts) = Self::read_iso(trimmed) {
            return Ok(parts);
        }
        let mut parts = Parts::default();
        if trimmed.eq_ignore_ascii_case("epoch") {
            parts.date = Some(0);
            return Ok(parts);
        }
        let lower = trimmed.to_ascii_lowercase();
        let mut fields = DateFields::default();
        let mut half = None;
        for word in words(&lower) {
            let taken = match word.as_str() {
                "am" | "pm" => half.replace(word.as_str() == "pm").is_none(),
                "bc" => !std::mem::replace(&mut fields.before_christ, true),
                "ad" => true,
                "t" => parts.time.is_none(),
                word if word.contains(':') && parts.time.is_none() && !word.starts_with(['+', '-']) => {
                    parts.time =
                        time(word).ok_or_else(|| invalid(text, what))?.ok_or_else(|| out_of_range(text))?.into();
                    true
                }
                word if parts.time.is_some() && (word.starts_with(['+', '-'])) => {
                    parts.set_zone(offset(word).map(Zone::Offset))
                }
                word if fields.take(word) => true,
                "z" | "utc" | "gmt" | "zulu" => parts.set_zone(Some(Zone::Offset(0))),
                word => {
                    let at = lower.find(word).unwrap_or(0);
                    let as_typed = trimmed.get(at..at + word.len()).unwrap_or(word);
                    parts.set_zone(Clock::named(as_typed).ok().map(Zone::Named))
                }
            };
            if !taken {
                return Err(invalid(text, what));
            }
        }
        if !fields.is_empty() {
            let (year, month, day) = fields.date().ok_or_else(|| invalid(text, what))?;
            let year = if fields.before_christ { -year } else { year };
            parts.date = Some(checked_days(year, month, day).map_err(|_| out_of_range(text))?);
        }
        if let (Some(pm), Some(time)) = (half, parts.time) {
            let hour = time / HOUR;
            if !(1..=12).contains(&hour) {
                return Err(out_of_range(text));
            }
            parts.time = Some(time % HOUR + (hour % 12 + if pm { 12 } else { 0 }) * HOUR);
        }
        Ok(parts)
    }

    fn set_zone(&mut self, zone: Option<Zone>) -> bool {
        let new = zone.is_some() && self.zone.is_none();
        if new {
            self.zone = zone;
        }
        new
    }

    /// `2024-02-29`, with `T` or a blank and `13:04:05.678` after it: what machines write.
    fn read_iso(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        let number = |range: std::ops::Range<usize>| -> Option<i64> {
            let digits = bytes.get(range)?;
            digits.iter().all(u8::is_ascii_digit).then(|| digits.iter().fold(0, |n, d| n * 10 + i64::from(d - b'0')))
        };
        if bytes.get(4) != Some(&b'-') || bytes.get(7) != Some(&b'-') {
            return None;
        }
        let date = checked_days(number(0..4)?, number(5..7)?, number(8..10)?).ok()?;
        let mut parts = Parts { date: Some(date), ..Parts::default() };
        if bytes.len() == 10 {
            return Some(parts);
        }
        if !matches!(bytes[10], b' ' | b'T' | b't') {
            return None;
        }
        let rest = &text[11..];
        let end = rest.find(|c: char| !(c.is_ascii_digit() || c == ':' || c == '.')).unwrap_or(rest.len());
        parts.time = Some(time(&rest[..end])??);
        parts.zone = match &rest[end..] {
            "" => None,
            "Z" | "z" => Some(Zone::Offset(0)),
            zone => Some(Zone::Offset(offset(zone)?)),
        };
        Some(parts)
    }
}

/// Words of letters, of digits with their separators, and of signs before digits.
fn words(text: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut last = ' ';
    let mut seen_time = false;
    for c in text.chars() {
        let glued = match words.last() {
            _ if matches!(last, ' ' | ',') => false,
            None => false,
            Some(word) if word.starts_with(|c: char| c.is_alphabetic()) => {
                c.is_alphabetic() || c == '/' || c == '_' || (c == '-' && word.contains('/'))
            }
            Some(_) if matches!(c, '+' | '-') && seen_time => false,
            Some(_) => c.is_ascii_digit() || matches!(c, ':' | '.' | '-' | '/' | '+'),
        };
        if !matches!(c, ' ' | ',') {
            match words.last_mut() {
                Some(word) if glued => word.push(c),
                _ => words.push(c.to_string()),
            }
            seen_time |= c == ':';
        }
        last = c;
    }
    words
}

/// `13:04[:05[.678]]`; the inner `None`: a field is out of range.
fn time(word: &str) -> Option<Option<i64>> {
    let mut fields = word.split(':');
    let (hour, minute) = (fields.next()?, fields.next()?);
    let (second, fraction) = fields.next().map_or(("0", ""), |s| s.split_once('.').unwrap_or((s, "")));
    if fields.next().is_some() || [hour, minute, second].iter().any(|f| f.is_empty() || f.len() > 2) {
        return None;
    }
    let (hour, minute, second): (i64, i64, i64) = (hour.parse().ok()?, minute.parse().ok()?, second.parse().ok()?);
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let micros = format!("{:0<7}", fraction.get(..fraction.len().min(7))?).parse::<i64>().ok()?;
    let total = hour * HOUR + minute * MINUTE + second * SECOND + (micros + 5) / 10;
    let valid = hour <= 24 && minute < 60 && second <= 60 && total <= DAY;
    Some(valid.then_some(total))
}

/// `+02`, `-0330`, `+05:30`.
fn offset(word: &str) -> Option<i64> {
    let sign = match word.as_bytes().first()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let body = &word[1..];
    let (hours, rest) = match body.split_once(':') {
        Some((hours, minutes)) => (hours, minutes),
        None if body.len() > 2 => body.split_at(body.len() - 2),
        None => (body, "0"),
    };
    let (minutes, seconds) = rest.split_once(':').unwrap_or((rest, "0"));
    let (hours, minutes, seconds): (i64, i64, i64) =
        (hours.parse().ok()?, minutes.parse().ok()?, seconds.parse().ok()?);
    let valid = (0..16).contains(&hours) && (0..60).contains(&minutes) && (0..60).contains(&seconds);
    valid.then_some(sign * (hours * HOUR + minutes * MINUTE + seconds * SECOND))
}

/// The numbers and the month name of a date, in the order they came.
#[derive(Default)]
struct DateFields {
    numbers: Vec<(i64, usize)>,
    month: Option<i64>,
    before_christ: bool,
}

impl DateFields {
    fn is_empty(&self) -> bool {
        self.numbers.is_empty() && self.month.is_none()
    }

    fn take(&mut self, word: &str) -> bool {
        if word.starts_with(|c: char| c.is_alphabetic()) {
            let month = MONTHS
                .iter()
                .position(|(short, long)| word.eq_ignore_ascii_case(short) || word.eq_ignore_ascii_case(long));
            return match month {
                Some(month) if self.month.is_none() => {
                    self.month = Some(month as i64 + 1);
                    true
                }
                None => is_weekday(word),
                Some(_) => false,
            };
        }
        // 20240229
        if word.len() == 8 && word.bytes().all(|b| b.is_ascii_digit()) && self.numbers.is_empty() {
            for (range, digits) in [(0..4, 4), (4..6, 2), (6..8, 2)] {
                self.numbers.push((word[range].parse().unwrap_or(0), digits));
            }
            return true;
        }
        let parts = word.split(['-', '/', '.']).filter(|p| !p.is_empty()).collect::<Vec<_>>();
        for part in &parts {
            match part.parse::<i64>() {
                Ok(number) if self.numbers.len() < 3 && part.len() <= 6 => self.numbers.push((number, part.len())),
                _ => return false,
            }
        }
        !parts.is_empty()
    }

    fn date(&self) -> Option<(i64, i64, i64)> {
        let century = |(year, digits): (i64, usize)| match digits {
            1 | 2 if year < 70 => year + 2000,
            1 | 2 => year + 1900,
            _ => year,
        };
        match (self.month, self.numbers.as_slice()) {
            // Year first when it has more than two digits, else Postgres' default: month, day, year.
            (None, [first, month, day]) if first.1 > 2 => Some((first.0, month.0, day.0)),
            (None, [month, day, year]) => Some((century(*year), month.0, day.0)),
            (Some(month), [year, day]) if year.1 > 2 => Some((year.0, month, day.0)),
            (Some(month), [day, year]) => Some((century(*year), month, day.0)),
            _ => None,
        }
    }
}

fn is_weekday(word: &str) -> bool {
    super::names::WEEKDAYS
        .iter()
        .any(|(short, long)| word.eq_ignore_ascii_case(short) || word.eq_ignore_ascii_case(long))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::functions::output;

    #[test]
    fn timestamps_in_many_spellings() {
        let table = [
            ("2024-02-29", "2024-02-29 00:00:00"),
            ("2024-02-29 13:04", "2024-02-29 13:04:00"),
            (" 2024-02-29T13:04:05.678901Z ", "2024-02-29 13:04:05.678901"),
            ("2024-02-29 13:04:05.6789016", "2024-02-29 13:04:05.678902"),
            ("2024/2/29 1:04 pm", "2024-02-29 13:04:00"),
            ("20240229 12:00 AM", "2024-02-29 00:00:00"),
            ("29 Feb 2024", "2024-02-29 00:00:00"),
            ("February 29, 2024 10:00:00", "2024-02-29 10:00:00"),
            ("Thu 29-Feb-2024 10:00", "2024-02-29 10:00:00"),
            ("02/29/2024", "2024-02-29 00:00:00"),
            ("2/29/24", "2024-02-29 00:00:00"),
            ("0044-03-15 BC", "0044-03-15 00:00:00 BC"),
            ("epoch", "1970-01-01 00:00:00"),
            ("2024-02-29 24:00", "2024-03-01 00:00:00"),
        ];
        for (text, expected) in table {
            assert_eq!(
                parse_timestamp(text).map(output::timestamp).unwrap_or_else(|e| e.to_string()),
                expected,
                "{text}"
            );
        }
    }

    #[test]
    fn zones_move_to_utc() {
        let table = [
            ("2024-02-29 13:04:05+02", "2024-02-29 11:04:05+00"),
            ("2024-02-29 13:04:05 -03:30", "2024-02-29 16:34:05+00"),
            ("2024-02-29T13:04:05+0200", "2024-02-29 11:04:05+00"),
            ("29 Feb 2024 13:04 UTC", "2024-02-29 13:04:00+00"),
            ("2024-02-29 13:04", "2024-02-29 13:04:00+00"),
        ];
        for (text, expected) in table {
            assert_eq!(
                parse_timestamptz(text)
                    .and_then(|micros| output::timestamptz(micros, &Clock::UTC))
                    .unwrap_or_else(|e| e.to_string()),
                expected,
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_no_date_is_refused() {
        for (text, state) in [
            ("", "22007"),
            ("yesterday?", "22007"),
            ("2024-02-30", "22008"),
            ("2024-13-01", "22008"),
            ("2024-02-29 25:00", "22008"),
            ("2024-02-29 10:00 10:00", "22007"),
            ("10:00", "22007"),
            ("2024", "22007"),
            ("2024-02-29 10:00 Mars/Base", "22007"),
            ("é", "22007"),
        ] {
            assert_eq!(parse_timestamp(text).map_err(|e| e.code()), Err(state), "{text}");
        }
    }
}
