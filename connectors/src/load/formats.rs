//! Formats of dates and times, in the letters of to_timestamp(), as regular expressions.
//!
//! ```text
//!   'DD.MM.YYYY HH24:MI' ──▶ ^([0-9]{1,2})\.([0-9]{1,2})\.([0-9]{4}) ([0-9]{1,2}):([0-9]{1,2})$
//!   '05.03.2024 10:20'   ──regexp_replace by \3-\2-\1 \4:\5:0+00──▶ '2024-03-05 10:20:0+00' ──valid?──▶ cast
//! ```
//!
//! PostgreSQL 15 cannot try to read a date: what the cast gets has been found valid, to the day of a leap year, by an expression
//! that both systems read alike.

use tidemark_common::values::MONTHS;
use tidemark_common::{Error, Result, nearest};

use super::literal;

/// What is known of a value that one of the formats has been found to fit.
pub(super) struct Formats {
    branches: Vec<Branch>,
    /// Hours count to twelve, and a letter at the end of the canonical text tells which twelve.
    has_halves: bool,
    has_names: bool,
    with_time: bool,
}

/// A regular expression, and how its groups make a canonical text.
struct Branch {
    pattern: String,
    template: String,
}

/// The parts of a format; longer names first, where one begins with another.
const PARTS: [(&str, Part); 18] = [
    ("YYYY", Part::Year),
    ("YY", Part::ShortYear),
    ("MONTH", Part::Month),
    ("MON", Part::ShortMonth),
    ("MM", Part::MonthNumber),
    ("MI", Part::Minute),
    ("MS", Part::Millis),
    ("DD", Part::Day),
    ("HH24", Part::Hour),
    ("HH12", Part::HourOfHalf),
    ("HH", Part::HourOfHalf),
    ("SS", Part::Second),
    ("US", Part::Micros),
    ("AM", Part::Half),
    ("PM", Part::Half),
    ("TZH:TZM", Part::Zone),
    ("TZHTZM", Part::Zone),
    ("TZH", Part::Zone),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Year,
    ShortYear,
    Month,
    ShortMonth,
    MonthNumber,
    Day,
    Hour,
    HourOfHalf,
    Minute,
    Second,
    Millis,
    Micros,
    Half,
    Zone,
}

enum Item {
    Part(Part),
    Literal(String),
}

impl Part {
    fn is_time(self) -> bool {
        !matches!(self, Part::Year | Part::ShortYear | Part::Month | Part::ShortMonth | Part::MonthNumber | Part::Day)
    }

    fn is_digits(self) -> bool {
        !matches!(self, Part::Month | Part::ShortMonth | Part::Half | Part::Zone)
    }

    /// Two of one kind say the same thing twice.
    fn kind(self) -> &'static str {
        match self {
            Part::Year | Part::ShortYear => "year",
            Part::Month | Part::ShortMonth | Part::MonthNumber => "month",
            Part::Day => "day",
            Part::Hour | Part::HourOfHalf => "hour",
            Part::Minute => "minute",
            Part::Second => "second",
            Part::Millis | Part::Micros => "fraction",
            Part::Half => "half of the day",
            Part::Zone => "time zone",
        }
    }
}

impl Formats {
    /// `with_time`: of parse_timestamp; without formats, those of ISO 8601.
    pub fn compile(formats: &[String], with_time: bool) -> Result<Self> {
        let mut compiled = Formats { branches: Vec::new(), has_halves: false, has_names: false, with_time };
        if formats.is_empty() {
            compiled.branches = iso(with_time);
            return Ok(compiled);
        }
        for format in formats {
            compiled.add(format)?;
        }
        Ok(compiled)
    }

    fn add(&mut self, format: &str) -> Result<()> {
        let items = items(format)?;
        let parts: Vec<Part> = items
            .iter()
            .filter_map(|item| match item {
                Item::Part(part) => Some(*part),
                Item::Literal(_) => None,
            })
            .collect();
        check(format, &parts, self.with_time)?;
        self.has_halves |= parts.contains(&Part::Half);
        self.has_names |= parts.iter().any(|part| matches!(part, Part::Month | Part::ShortMonth));
        if parts.contains(&Part::ShortYear) {
            // As PostgreSQL has it, the year nearest to 2020.
            self.branches.push(branch(&items, &parts, "[0-6][0-9]", "20", self.with_time));
            self.branches.push(branch(&items, &parts, "[7-9][0-9]", "19", self.with_time));
        } else {
            self.branches.push(branch(&items, &parts, "[0-9]{4}", "", self.with_time));
        }
        Ok(())
    }

    /// The canonical text of what `value` says, NULL if no format fits.
    pub fn canonical(&self, value: &str) -> String {
        let branch = |branch: &Branch| {
            let (pattern, template) = (literal(&branch.pattern), literal(&branch.template));
            format!(" WHEN {value} ~* {pattern} THEN regexp_replace({value}, {pattern}, {template}, 'i')")
        };
        let branches: Vec<String> = self.branches.iter().map(branch).collect();
        let mut text = format!("CASE{} END", branches.concat());
        if self.has_names {
            for (at, month) in MONTHS.iter().enumerate() {
                text = format!("regexp_replace({text}, '-{}[a-z]*-', '-{}-', 'i')", &month[..3], at + 1);
            }
        }
        if self.has_halves {
            // Twelve is the first hour of either half.
            text = format!("regexp_replace({text}, ' 12(:.*[ap]m)$', ' 0\\1', 'i')");
        }
        text
    }

    /// Whether a canonical text is of a day and a time that are.
    pub fn is_valid(&self, canonical: &str) -> String {
        format!("{canonical} ~* {}", literal(&valid(self.with_time, self.has_halves)))
    }

    /// The value of a canonical text that is valid: a date, or a timestamp with time zone.
    pub fn read(&self, canonical: &str) -> String {
        if !self.with_time {
            return format!("CAST({canonical} AS date)");
        }
        if !self.has_halves {
            return format!("CAST({canonical} AS timestamp with time zone)");
        }
        let whole = format!("regexp_replace({canonical}, '[ap]m$', '', 'i')");
        format!(
            "CAST({whole} AS timestamp with time zone) \
             + CASE WHEN {canonical} ~* 'pm$' THEN INTERVAL '12 hours' ELSE INTERVAL '0 hours' END"
        )
    }
}

fn branch(items: &[Item], parts: &[Part], year: &str, century: &str, with_time: bool) -> Branch {
    let mut pattern = String::from("^");
    for (at, item) in items.iter().enumerate() {
        match item {
            Item::Literal(text) => pattern.push_str(&escaped(text)),
            Item::Part(part) => {
                let digits = |at: Option<usize>| {
                    at.and_then(|at| items.get(at)).is_some_and(|i| matches!(i, Item::Part(p) if p.is_digits()))
                };
                // Beside other digits, only their number tells them apart.
                let fixed = digits(at.checked_sub(1)) || digits(Some(at + 1));
                pattern.push_str(&format!("({})", expression(*part, year, fixed)));
            }
        }
    }
    pattern.push('$');
    Branch { pattern, template: template(parts, century, with_time) }
}

fn expression(part: Part, year: &str, fixed: bool) -> String {
    match part {
        Part::Year | Part::ShortYear => year.to_string(),
        Part::Month => MONTHS.join("|"),
        Part::ShortMonth => MONTHS.map(|month| &month[..3]).join("|"),
        Part::Millis if fixed => "[0-9]{3}".into(),
        Part::Millis => "[0-9]{1,3}".into(),
        Part::Micros if fixed => "[0-9]{6}".into(),
        Part::Micros => "[0-9]{1,6}".into(),
        Part::Half => "am|pm".into(),
        Part::Zone => ZONE.into(),
        _ if fixed => "[0-9]{2}".into(),
        _ => "[0-9]{1,2}".into(),
    }
}

const ZONE: &str = "z|[+-][0-9]{1,2}(?::?[0-9]{2})?";

/// `\3-\2-\1 \4:\5:\6.\7+00` by the places of the parts.
fn template(parts: &[Part], century: &str, with_time: bool) -> String {
    let place = |of: &str| parts.iter().position(|part| part.kind() == of).map(|at| format!("\\{}", at + 1));
    let or = |of: &str, default: &str| place(of).unwrap_or_else(|| default.to_string());
    let date = format!("{century}{}-{}-{}", or("year", ""), or("month", "1"), or("day", "1"));
    if !with_time {
        return date;
    }
    let fraction = place("fraction").map_or(String::new(), |fraction| format!(".{fraction}"));
    let time = format!("{}:{}:{}{fraction}", or("hour", "0"), or("minute", "0"), or("second", "0"));
    format!("{date} {time}{}{}", or("time zone", "+00"), or("half of the day", ""))
}

/// A date, or a date and a time to any precision, with `T` or a blank between them.
fn iso(with_time: bool) -> Vec<Branch> {
    let date = "([0-9]{4}-[0-9]{1,2}-[0-9]{1,2})";
    let branch = |pattern: String, template: &str| Branch { pattern, template: template.into() };
    if !with_time {
        return vec![branch(format!("^{date}$"), "\\1")];
    }
    // What is finer than a microsecond is cut off.
    let (minutes, seconds) = ("([0-9]{1,2}:[0-9]{2})", "([0-9]{1,2}:[0-9]{2}:[0-9]{2})(?:(\\.[0-9]{1,6})[0-9]{0,3})?");
    vec![
        branch(format!("^{date}[ t]{seconds}$"), "\\1 \\2\\3+00"),
        branch(format!("^{date}[ t]{seconds} ?({ZONE})$"), "\\1 \\2\\3\\4"),
        branch(format!("^{date}$"), "\\1 0:00:00+00"),
        branch(format!("^{date}[ t]{minutes}$"), "\\1 \\2:00+00"),
        branch(format!("^{date}[ t]{minutes} ?({ZONE})$"), "\\1 \\2:00\\3"),
    ]
}

/// A canonical text of a day that is in the calendar, from the year 1 on, and of a time that is in the day.
fn valid(with_time: bool, has_halves: bool) -> String {
    const YEAR: &str = "(?:[1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])";
    const LEAP: &str = "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)";
    let months = [
        "(?:0?[13578]|1[02])-(?:0?[1-9]|[12][0-9]|3[01])",
        "(?:0?[469]|11)-(?:0?[1-9]|[12][0-9]|30)",
        "0?2-(?:0?[1-9]|1[0-9]|2[0-8])",
    ];
    let date = format!("(?:{YEAR}-(?:{})|{LEAP}-0?2-29)", months.join("|"));
    if !with_time {
        return format!("^{date}$");
    }
    let time = |hour: &str, half: &str| {
        let zone = "(?:z|[+-](?:0?[0-9]|1[0-5])(?::?[0-5][0-9])?)";
        format!("(?:{hour}):[0-5]?[0-9]:[0-5]?[0-9](?:\\.[0-9]{{1,6}})?{zone}{half}")
    };
    let day = time("[01]?[0-9]|2[0-3]", "");
    match has_halves {
        false => format!("^{date} {day}$"),
        true => format!("^{date} (?:{day}|{})$", time("0?[0-9]|1[01]", "[ap]m")),
    }
}

fn items(format: &str) -> Result<Vec<Item>> {
    let mut items: Vec<Item> = Vec::new();
    let literal = |items: &mut Vec<Item>, text: &str| match items.last_mut() {
        Some(Item::Literal(last)) => last.push_str(text),
        _ => items.push(Item::Literal(text.to_string())),
    };
    let mut rest = format;
    while let Some(first) = rest.chars().next() {
        if let Some(quoted) = rest.strip_prefix('"') {
            let Some((text, after)) = quoted.split_once('"') else {
                return Err(Error::invalid(format!("format '{format}' has a double quote that does not end")));
            };
            literal(&mut items, text);
            rest = after;
            continue;
        }
        let fits = |name: &str| rest.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name));
        if let Some((name, part)) = PARTS.into_iter().find(|(name, _)| fits(name)) {
            items.push(Item::Part(part));
            rest = &rest[name.len()..];
        } else if first.is_ascii_alphabetic() && !(first.eq_ignore_ascii_case(&'t') && between(&items, rest)) {
            let word: String = rest.chars().take_while(char::is_ascii_alphanumeric).collect();
            let error = Error::invalid(format!("format '{format}' has \"{word}\", which stands for nothing"));
            return Err(match nearest(&word.to_uppercase(), PARTS.iter().map(|(name, _)| *name)) {
                Some(near) => error.with_hint(format!("Perhaps you meant {near}. Plain text stands in double quotes.")),
                None => error.with_hint(
                    "Formats are made of YYYY, YY, MM, Mon, Month, DD, HH24, HH12, MI, SS, MS, US, AM, TZH:TZM, and of plain \
                     text in double quotes.",
                ),
            });
        } else {
            literal(&mut items, &rest[..first.len_utf8()]);
            rest = &rest[first.len_utf8()..];
        }
    }
    Ok(items)
}

/// The T of ISO 8601, which everybody writes without quotes.
fn between(items: &[Item], rest: &str) -> bool {
    matches!(items.last(), Some(Item::Part(Part::Day))) && rest[1..].to_ascii_uppercase().starts_with("HH")
}

fn check(format: &str, parts: &[Part], with_time: bool) -> Result<()> {
    let refuse = |why: &str| Err(Error::invalid(format!("format '{format}' {why}")));
    if let Some((_, twice)) = parts.iter().enumerate().find(|(at, p)| parts[..*at].iter().any(|q| q.kind() == p.kind()))
    {
        return refuse(&format!("gives the {} twice", twice.kind()));
    }
    let has = |kind: &str| parts.iter().any(|part| part.kind() == kind);
    let needs = [
        ("day", "month"),
        ("month", "year"),
        ("fraction", "second"),
        ("second", "minute"),
        ("minute", "hour"),
        ("half of the day", "hour"),
    ];
    if !has("year") {
        return refuse("has no year");
    }
    if let Some((part, needed)) = needs.into_iter().find(|(part, needed)| has(part) && !has(needed)) {
        return refuse(&format!("gives the {part} without the {needed}"));
    }
    if parts.contains(&Part::HourOfHalf) != parts.contains(&Part::Half) {
        return Err(Error::invalid(format!("format '{format}' has HH12 without AM, or AM without HH12"))
            .with_hint("HH24 counts the hours of the whole day."));
    }
    match parts.iter().find(|part| part.is_time()) {
        Some(part) if !with_time => refuse(&format!("of a date gives the {}", part.kind())),
        _ => Ok(()),
    }
}

/// Plain text in a regular expression.
fn escaped(text: &str) -> String {
    let special = |c: char| ".^$*+?()[]{}|\\-/".contains(c);
    text.chars().flat_map(|c| special(c).then_some('\\').into_iter().chain([c])).collect()
}
