//! `to_char` of dates, times and intervals, and `to_timestamp`, `to_date` by the same patterns.
//!
//! ```text
//!   'FMDay, DD Month YYYY' ──compile──▶ [Item] ──print──▶ text
//!                                              ──read───▶ date and time
//! ```

use datafusion::arrow::datatypes::IntervalMonthDayNano;
use tidemark_common::{Error, Result};

use super::calendar::{self, Civil, DAY, HOUR};
use super::clock::{Clock, offset_text};
use super::names::{MONTHS, ROMAN_MONTHS, WEEKDAYS};

/// One piece of a pattern.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Item {
    Text(String),
    Field { name: &'static str, fill: bool, ordinal: Option<bool> },
}

/// Longest first, so that `YYYY` is not four times `Y`. Those in lower case print in lower case.
const FIELDS: &[&str] = &[
    "SSSSS", "Y,YYY", "MONTH", "Month", "month", "A.M.", "P.M.", "a.m.", "p.m.", "B.C.", "A.D.", "b.c.", "a.d.",
    "HH12", "HH24", "YYYY", "IYYY", "IDDD", "SSSS", "DAY", "Day", "day", "YYY", "IYY", "MON", "Mon", "mon", "DDD",
    "FF1", "FF2", "FF3", "FF4", "FF5", "FF6", "TZH", "TZM", "AM", "PM", "am", "pm", "BC", "AD", "bc", "ad", "HH", "MI",
    "SS", "MS", "US", "YY", "IY", "MM", "DD", "DY", "Dy", "dy", "ID", "IW", "WW", "CC", "RM", "rm", "TZ", "tz", "OF",
    "Y", "I", "D", "W", "Q", "J",
];

/// Those that are read in either case.
fn field_at(pattern: &str) -> Option<(&'static str, usize)> {
    let exact = FIELDS.iter().find(|f| pattern.starts_with(**f));
    let upper = || {
        FIELDS
            .iter()
            .find(|f| pattern.get(..f.len()).is_some_and(|p| p.eq_ignore_ascii_case(f)) && f.to_uppercase() == **f)
    };
    let found = exact.copied().or_else(|| upper().copied())?;
    Some((found, found.len()))
}

pub(super) fn compile(pattern: &str) -> Vec<Item> {
    let mut items: Vec<Item> = Vec::new();
    let mut rest = pattern;
    let mut fill = true;
    while let Some(c) = rest.chars().next() {
        let prefix = rest.get(..2).unwrap_or_default();
        if prefix.eq_ignore_ascii_case("FM") || prefix.eq_ignore_ascii_case("FX") || prefix.eq_ignore_ascii_case("TM") {
            fill = !prefix.eq_ignore_ascii_case("FM") && fill;
            rest = &rest[2..];
        } else if let Some((name, length)) = field_at(rest) {
            rest = &rest[length..];
            let ordinal = match rest.get(..2) {
                Some("TH") => Some(true),
                Some("th") => Some(false),
                _ => None,
            };
            rest = if ordinal.is_some() { &rest[2..] } else { rest };
            items.push(Item::Field { name, fill, ordinal });
            fill = true;
        } else if c == '"' {
            let end = rest[1..].find('"').map_or(rest.len(), |e| e + 1);
            items.push(Item::Text(rest[1..end].to_string()));
            rest = rest.get(end + 1..).unwrap_or_default();
        } else {
            let skip = if c == '\\' { 1 } else { 0 };
            let c = rest[skip..].chars().next().unwrap_or(c);
            items.push(Item::Text(c.to_string()));
            rest = &rest[skip..][c.len_utf8().min(rest.len() - skip)..];
        }
    }
    items
}

/// What a clock's zone is called, and how far it is east of Greenwich.
pub(super) struct Zone {
    name: String,
    offset: i64,
}

/// What is printed: a moment, or an interval, whose fields run on.
pub(super) enum Source {
    Moment { civil: Civil, zone: Option<Zone> },
    Interval(IntervalMonthDayNano),
}

impl Source {
    pub(super) fn timestamp(micros: i64) -> Self {
        Source::Moment { civil: Civil::from_micros(micros), zone: None }
    }

    pub(super) fn moment(micros: i64, clock: &Clock) -> Result<Self> {
        let zone = Zone { name: clock.abbreviation(micros)?, offset: clock.offset(micros)? };
        Ok(Source::Moment { civil: Civil::from_micros(clock.local(micros)?), zone: Some(zone) })
    }

    fn parts(&self) -> (Civil, i64) {
        match self {
            Source::Moment { civil, .. } => (*civil, civil.hour()),
            Source::Interval(value) => {
                let micros = value.nanoseconds / 1000;
                let (years, months) = (i64::from(value.months / 12), i64::from(value.months % 12));
                let civil = Civil { year: years, month: months, day: value.days.into(), micros: micros % DAY };
                (civil, micros / HOUR)
            }
        }
    }
}

pub(super) fn print(items: &[Item], source: &Source) -> Result<String> {
    let mut out = String::new();
    for item in items {
        match item {
            Item::Text(text) => out.push_str(text),
            Item::Field { name, fill, ordinal } => {
                let text = field(name, *fill, source)?;
                let ending = ordinal.map(|upper| ordinal_ending(&text, upper)).unwrap_or_default();
                out.push_str(&text);
                out.push_str(ending);
            }
        }
    }
    Ok(out)
}

pub(super) fn ordinal_ending(text: &str, upper: bool) -> &'static str {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_digit).collect();
    let teens = digits.len() > 1 && digits[digits.len() - 2] == b'1';
    let ending = match digits.last() {
        Some(b'1') if !teens => ["st", "ST"],
        Some(b'2') if !teens => ["nd", "ND"],
        Some(b'3') if !teens => ["rd", "RD"],
        _ => ["th", "TH"],
    };
    ending[usize::from(upper)]
}

fn field(name: &str, fill: bool, source: &Source) -> Result<String> {
    let (civil, hour) = source.parts();
    let moment = matches!(source, Source::Moment { .. });
    let number = |n: i64, width: usize| {
        if fill { format!("{}{:0width$}", if n < 0 { "-" } else { "" }, n.abs()) } else { n.to_string() }
    };
    // Year 0 is 1 BC; an interval's years are a count.
    let year = if moment && civil.year <= 0 { 1 - civil.year } else { civil.year };
    if let Some(text) = time_field(name, civil, hour, &number) {
        return Ok(text);
    }
    if let Some(text) = year_field(name, year, &number) {
        return Ok(text);
    }
    let Source::Moment { zone, .. } = source else { return interval_field(name, civil, &number) };
    let zone_name = || zone.as_ref().map_or(String::new(), |zone| zone.name.clone());
    let offset = zone.as_ref().map_or(0, |zone| zone.offset);
    let iso = civil.iso_week();
    Ok(match name {
        "MM" => number(civil.month, 2),
        "DD" => number(civil.day, 2),
        "DDD" => number(civil.day_of_year(), 3),
        "D" => (civil.iso_weekday() % 7 + 1).to_string(),
        "ID" => civil.iso_weekday().to_string(),
        "IDDD" => number((iso.1 - 1) * 7 + civil.iso_weekday(), 3),
        "IW" => number(iso.1, 2),
        "WW" => number((civil.day_of_year() - 1) / 7 + 1, 2),
        "W" => ((civil.day - 1) / 7 + 1).to_string(),
        "Q" => ((civil.month - 1) / 3 + 1).to_string(),
        "J" => (civil.days() + 2_440_588).to_string(),
        "IYYY" => number(iso.0, 4),
        "IYY" => number(iso.0 % 1000, 3),
        "IY" => number(iso.0 % 100, 2),
        "I" => (iso.0 % 10).to_string(),
        "RM" | "rm" => {
            let roman = cased(name, ROMAN_MONTHS[civil.month as usize - 1]);
            if fill { format!("{roman:<4}") } else { roman }
        }
        "TZ" => zone_name(),
        "tz" => zone_name().to_lowercase(),
        "OF" => offset_text(offset),
        "TZH" => format!("{}{:02}", if offset < 0 { '-' } else { '+' }, offset.abs() / HOUR),
        "TZM" => format!("{:02}", offset.abs() % HOUR / calendar::MINUTE),
        "BC" | "AD" | "bc" | "ad" => cased(name, if civil.year > 0 { "AD" } else { "BC" }),
        "B.C." | "A.D." | "b.c." | "a.d." => cased(name, if civil.year > 0 { "A.D." } else { "B.C." }),
        _ => return Ok(word_field(name, civil, fill)),
    })
}

/// `DAY`, `Month`, `dy`, ...
fn word_field(name: &str, civil: Civil, fill: bool) -> String {
    let month = MONTHS[civil.month as usize - 1];
    let weekday = WEEKDAYS[(civil.iso_weekday() % 7) as usize];
    let word = match name.to_ascii_uppercase().as_str() {
        "MONTH" => month.1,
        "MON" => month.0,
        "DAY" => weekday.1,
        _ => weekday.0,
    };
    let long = name.eq_ignore_ascii_case("MONTH") || name.eq_ignore_ascii_case("DAY");
    let word = cased(name, word);
    if fill && long { format!("{word:<9}") } else { word }
}

fn time_field(name: &str, civil: Civil, hour: i64, number: &impl Fn(i64, usize) -> String) -> Option<String> {
    let fraction = civil.fraction();
    Some(match name {
        "HH24" => number(hour, 2),
        "HH" | "HH12" => number(if hour % 12 == 0 { 12 } else { hour % 12 }, 2),
        "MI" => number(civil.minute(), 2),
        "SS" => number(civil.second(), 2),
        "MS" | "FF3" => format!("{:03}", fraction / 1000),
        "US" | "FF6" => format!("{fraction:06}"),
        "FF1" => (fraction / 100_000).to_string(),
        "FF2" => format!("{:02}", fraction / 10_000),
        "FF4" => format!("{:04}", fraction / 100),
        "FF5" => format!("{:05}", fraction / 10),
        "SSSS" | "SSSSS" => (civil.micros / calendar::SECOND).to_string(),
        "AM" | "PM" | "am" | "pm" => cased(name, if hour % 24 < 12 { "AM" } else { "PM" }),
        "A.M." | "P.M." | "a.m." | "p.m." => cased(name, if hour % 24 < 12 { "A.M." } else { "P.M." }),
        _ => return None,
    })
}

fn year_field(name: &str, year: i64, number: &impl Fn(i64, usize) -> String) -> Option<String> {
    Some(match name {
        "YYYY" => number(year, 4),
        "YYY" => number(year % 1000, 3),
        "YY" => number(year % 100, 2),
        "Y" => (year % 10).to_string(),
        "Y,YYY" => format!("{},{:03}", year / 1000, year % 1000),
        "CC" => number((year + 99).div_euclid(100), 2),
        _ => return None,
    })
}

fn interval_field(name: &str, civil: Civil, number: &impl Fn(i64, usize) -> String) -> Result<String> {
    Ok(match name {
        "MM" => number(civil.month, 2),
        "DD" => number(civil.day, 2),
        "DDD" => number(civil.year * 360 + civil.month * 30 + civil.day, 3),
        _ => {
            return Err(Error::invalid(format!("invalid format specification for an interval value: \"{name}\""))
                .with_hint("Intervals are not tied to specific calendar dates."));
        }
    })
}

/// In the case in which the field is written.
fn cased(name: &str, word: &str) -> String {
    let mut letters = name.chars().filter(|c| c.is_alphabetic());
    match (letters.next(), letters.next()) {
        (Some(first), _) if first.is_lowercase() => word.to_lowercase(),
        (_, Some(second)) if second.is_lowercase() => word.to_string(),
        _ => word.to_uppercase(),
    }
}
