//! NORMALIZE of columns, as SQL that PostgreSQL reads as we do.
//!
//! ```text
//!   tidemark_input, as it comes ──SELECT clean(a) AS a, b──▶ ──SELECT a, canonical(b)──▶ ──SELECT result(a), ..──▶ rows to load
//!      text where a step parses                               dates and times              error | NULL | default where
//!                                                                                          a step cannot take a value
//!                                  .. and for columns that are derived from those, the same once more
//! ```
//!
//! Nothing here can fail while it runs: a value is looked at before it is cast, since PostgreSQL 15 cannot try a cast. What is to
//! be an error is found by a query of its own ([`Normalization::failed`]), as [`super::Load::null_keys`] finds keys.

use tidemark_common::normalize::{Normalize, OnFailure, Step};
use tidemark_common::types::SqlType;
use tidemark_common::{Error, Result, SqlState};

use super::formats::Formats;
use super::{literal, quoted};

/// One column's steps. The expressions are over the column, by its name.
#[derive(Debug, Clone, PartialEq)]
pub struct Normalization {
    pub column: String,
    /// What comes for the column: text for one of texts, and where a step parses it; else the column's own type.
    pub input: SqlType,
    /// Over the row's other columns, in place of what comes.
    pub derived: Option<String>,
    /// What the steps before the one that can fail make of it.
    pub clean: Option<String>,
    /// Over a clean value: the canonical text of a date or time, as a column of the name [`Normalization::canonical_name`].
    pub canonical: Option<String>,
    /// Over clean values and canonical texts: the value that is stored.
    pub result: String,
    /// Over the same: whether a step cannot take the value, where that is an error.
    pub failed: Option<String>,
    /// Over a value that has the column's type already and is not parsed.
    pub typed: Option<String>,
    /// The step that can fail.
    fallible: Option<Step>,
}

/// White space of Unicode, and what is as invisible: zero width space and byte order mark.
const SPACES: &str = "\\t\\n\\u000b\\f\\r \\u0085\\u00a0\\u1680\\u2000\\u2001\\u2002\\u2003\\u2004\\u2005\\u2006\\u2007\\u2008\\u2009\
                      \\u200a\\u200b\\u2028\\u2029\\u202f\\u205f\\u3000\\ufeff";

/// What browsers take for an address, with a dot in the domain.
const EMAIL: &str = "^[a-zA-Z0-9.!#$%&''*+/=?^_`{|}~-]+@[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?\
                     (\\.[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?)+$";

/// Digits before the point of a numeric that says no precision, and after it.
const WHOLE: u8 = 28;
const FRACTION: i8 = 10;

impl Normalization {
    /// Refuses steps that make no sense for the column.
    pub fn compile(column: &str, sql_type: &SqlType, normalize: &Normalize) -> Result<Self> {
        check(column, sql_type, normalize)?;
        let name = quoted(column);
        let parsing = normalize.parsing();
        let fallible = normalize.steps.iter().position(Step::can_fail);
        let (before, after) = normalize.steps.split_at(fallible.unwrap_or(normalize.steps.len()));
        let input = if parsing.is_some() || is_text(sql_type) { &SqlType::Text } else { sql_type };
        let mut clean = text_steps(before, &name, input)?;
        if parsing.is_some() {
            clean = format!("btrim({clean}, E'{SPACES}')");
        }
        let mut compiled = Normalization {
            column: column.to_string(),
            input: input.clone(),
            derived: normalize.derived().map(str::to_string),
            clean: (clean != name).then_some(clean),
            canonical: None,
            result: name.clone(),
            failed: None,
            typed: normalize.default().map(|text| format!("coalesce({name}, {})", typed_literal(text, sql_type))),
            fallible: after.first().cloned(),
        };
        let Some((fallible, after)) = after.split_first() else { return Ok(compiled) };
        let (valid, value) = compiled.reading(fallible, sql_type)?;
        let value = text_steps(after, &value, sql_type)?;
        let otherwise = match normalize.on_failure {
            OnFailure::Error => {
                compiled.failed = Some(format!("{name} IS NOT NULL AND ({valid}) IS NOT TRUE"));
                "NULL".into()
            }
            OnFailure::Null => "NULL".into(),
            OnFailure::Default => typed_literal(normalize.default().unwrap_or_default(), sql_type),
        };
        compiled.result = format!("CASE WHEN {name} IS NULL OR {valid} THEN {value} ELSE {otherwise} END");
        Ok(compiled)
    }

    /// Whether a step can take a clean value, and what it makes of it then.
    fn reading(&mut self, step: &Step, sql_type: &SqlType) -> Result<(String, String)> {
        let name = quoted(&self.column);
        let cast = format!("CAST({name} AS {sql_type})");
        Ok(match step {
            Step::ParseInt => (whole_number(&name, sql_type), cast),
            Step::ParseNumeric => number(&name, sql_type),
            Step::ParseDate(formats) | Step::ParseTimestamp(formats) => {
                let formats = Formats::compile(formats, matches!(step, Step::ParseTimestamp(_)))?;
                self.canonical = Some(formats.canonical(&name));
                let canonical = quoted(&self.canonical_name());
                let mut value = formats.read(&canonical);
                if *sql_type == SqlType::Timestamp {
                    value = format!("({value}) AT TIME ZONE 'UTC'");
                }
                (formats.is_valid(&canonical), value)
            }
            _ => (format!("{name} ~ '{EMAIL}'"), name),
        })
    }

    pub fn canonical_name(&self) -> String {
        format!("tidemark_canonical_{}", self.column)
    }

    /// The error for a clean value that the fallible step cannot take.
    pub fn error(&self, table: &str, value: &str) -> Error {
        /// Characters of a value that a message shows.
        const SHOWN: usize = 64;
        let step = self.fallible.as_ref().map_or("", Step::name);
        let mut shown: String = value.chars().take(SHOWN).collect();
        if shown.len() < value.len() {
            shown.push_str("...");
        }
        let state = match self.fallible {
            Some(Step::ParseDate(_) | Step::ParseTimestamp(_)) => SqlState::InvalidDatetimeFormat,
            Some(Step::ParseInt | Step::ParseNumeric) => SqlState::InvalidTextRepresentation,
            _ => SqlState::DataException,
        };
        let message = format!("column \"{}\" of \"{table}\": step {step} cannot take \"{shown}\"", self.column);
        Error::new(state, message).with_hint("With on_failure = null or default in its NORMALIZE, the row is taken.")
    }
}

/// A load's input with its columns normalised. `columns`: the table's; relation `from` has them all but those that are derived.
pub fn normalized(columns: &[String], all: &[Normalization], from: &str) -> String {
    let derived = of_kind(all, true);
    match derived.is_empty() {
        true => results(columns, &of_kind(all, false), from),
        false => results(columns, &derived, &derivation(columns, all, from)),
    }
}

/// A query for values that a step cannot take where that is an error, some of them: the column's place in `all`, and the value.
pub fn failures(columns: &[String], all: &[Normalization], from: &str) -> Option<String> {
    let query = |(at, of): (usize, &Normalization)| {
        let failed = of.failed.as_ref()?;
        let from = if of.derived.is_some() { derivation(columns, all, from) } else { from.to_string() };
        let columns = if of.derived.is_some() { columns.to_vec() } else { given(columns, all) };
        let read = canonical(&columns, &[of], &from);
        let value = quoted(&of.column);
        Some(format!("(SELECT {at} AS at, {value}::text AS value FROM ({read}) AS read WHERE {failed} LIMIT 1)"))
    };
    let queries: Vec<String> = all.iter().enumerate().filter_map(query).collect();
    (!queries.is_empty()).then(|| queries.join(" UNION ALL "))
}

fn of_kind(all: &[Normalization], derived: bool) -> Vec<&Normalization> {
    all.iter().filter(|of| of.derived.is_some() == derived).collect()
}

/// The columns that come.
fn given(columns: &[String], all: &[Normalization]) -> Vec<String> {
    let derived = of_kind(all, true);
    columns.iter().filter(|column| !derived.iter().any(|of| of.column == **column)).cloned().collect()
}

/// A relation with all columns, the derived ones as their expressions give them.
fn derivation(columns: &[String], all: &[Normalization], from: &str) -> String {
    let inner = results(&given(columns, all), &of_kind(all, false), from);
    let expr = |column: &String| all.iter().find(|of| of.column == *column).and_then(|of| of.derived.clone());
    format!("({}) AS derived", select(columns, expr, &[], &format!("({inner}) AS given")))
}

/// The three SELECTs, each over the one before.
fn results(columns: &[String], all: &[&Normalization], from: &str) -> String {
    let result = |column: &String| all.iter().find(|of| of.column == *column).map(|of| of.result.clone());
    select(columns, result, &[], &format!("({}) AS read", canonical(columns, all, from)))
}

/// Clean values, and the canonical texts beside them.
fn canonical(columns: &[String], all: &[&Normalization], from: &str) -> String {
    let clean = |column: &String| all.iter().find(|of| of.column == *column).and_then(|of| of.clean.clone());
    let clean = select(columns, clean, &[], from);
    let more: Vec<(String, String)> =
        all.iter().filter_map(|of| Some((of.canonical_name(), of.canonical.clone()?))).collect();
    select(columns, |_| None, &more, &format!("({clean}) AS clean"))
}

fn select(
    columns: &[String],
    expr: impl Fn(&String) -> Option<String>,
    more: &[(String, String)],
    from: &str,
) -> String {
    let column = |name: &String| match expr(name) {
        Some(expr) => format!("{expr} AS {}", quoted(name)),
        None => quoted(name),
    };
    let more = more.iter().map(|(name, expr)| format!("{expr} AS {}", quoted(name)));
    let items: Vec<String> = columns.iter().map(column).chain(more).collect();
    format!("SELECT {} FROM {from}", items.join(", "))
}

/// Steps that take any text, or any value, one around the other. `sql_type`: of the value.
fn text_steps(steps: &[Step], value: &str, sql_type: &SqlType) -> Result<String> {
    let mut value = value.to_string();
    for step in steps {
        value = match step {
            Step::Trim => format!("btrim({value}, E'{SPACES}')"),
            Step::Lower => format!("lower({value})"),
            Step::Upper => format!("upper({value})"),
            Step::EmptyToNull => format!("nullif({value}, '')"),
            Step::CollapseSpaces => format!("regexp_replace({value}, E'[{SPACES}]+', ' ', 'g')"),
            Step::RegexReplace(pattern, by) => {
                format!("regexp_replace({value}, {}, {}, 'g')", pattern_literal(pattern), literal(by))
            }
            Step::Default(text) => format!("coalesce({value}, {})", typed_literal(text, sql_type)),
            Step::Derive(_) => continue,
            _ => return Err(Error::internal(format!("step {} is not of texts", step.name()))),
        };
    }
    Ok(value)
}

fn typed_literal(text: &str, sql_type: &SqlType) -> String {
    format!("CAST({} AS {sql_type})", literal(text))
}

/// A user's pattern, its classes of characters spelled out where the two systems have others.
fn pattern_literal(pattern: &str) -> String {
    let mut out = String::new();
    let mut chars = pattern.chars();
    let mut bracket = false;
    while let Some(c) = chars.next() {
        match c {
            '\\' => {
                let class = chars.next();
                let spelled = match class {
                    Some('d') => Some("0-9".to_string()),
                    Some('w') => Some("A-Za-z0-9_".into()),
                    Some('s') => Some(SPACES.into()),
                    _ => None,
                };
                match (spelled, class) {
                    (Some(class), _) if bracket => out.push_str(&class),
                    (Some(class), _) => out.push_str(&format!("[{class}]")),
                    (None, Some(other)) => out.push_str(&format!("\\\\{}", doubled(other))),
                    (None, None) => out.push_str("\\\\"),
                }
                continue;
            }
            '[' => bracket = true,
            ']' => bracket = false,
            _ => {}
        }
        out.push_str(&doubled(c));
    }
    format!("E'{out}'")
}

fn doubled(c: char) -> String {
    match c {
        '\'' => "''".into(),
        '\\' => "\\\\".into(),
        other => other.to_string(),
    }
}

/// Whether the text is a whole number that the type can hold.
fn whole_number(name: &str, sql_type: &SqlType) -> String {
    let (low, high) = match sql_type {
        SqlType::SmallInt => (i64::from(i16::MIN), i64::from(i16::MAX)),
        SqlType::Integer => (i64::from(i32::MIN), i64::from(i32::MAX)),
        _ => (i64::MIN, i64::MAX),
    };
    // So many digits are a numeric in either system. The CASE is of texts: AND would promise no order.
    let digits = format!("CASE WHEN {name} ~ '^[+-]?0*[0-9]{{1,19}}$' THEN {name} END");
    format!("CAST({digits} AS numeric(20,0)) BETWEEN {low} AND {high}")
}

/// Whether the text is a number that the type can hold, and the number.
fn number(name: &str, sql_type: &SqlType) -> (String, String) {
    let cast = |to: &str| format!("CAST({name} AS {to})");
    let digits = |whole: u8| match whole {
        0 => "^[+-]?0*(\\.[0-9]*)?$".to_string(),
        whole => format!("^[+-]?(0*[0-9]{{1,{whole}}}(\\.[0-9]*)?|\\.[0-9]+)$"),
    };
    let decimal = |whole: u8, fraction: i8| {
        // What would be rounded up to one digit more.
        let too_large = format!("^[+-]?0*9{{{whole}}}\\.9{{{fraction}}}[5-9]");
        format!("({name} ~ '{}' AND {name} ~ '[0-9]' AND {name} !~ '{too_large}')", digits(whole))
    };
    // One digit more than is kept decides how the last one is rounded.
    let rounded = |to: &str, fraction: i8| {
        let longer = format!("(\\.[0-9]{{{}}})[0-9]+$", i16::from(fraction) + 1);
        format!("CAST(regexp_replace({name}, '{longer}', '\\1') AS {to})")
    };
    match sql_type {
        SqlType::Numeric(Some((precision, scale))) => {
            let whole = (i16::from(*precision) - i16::from(*scale)).max(0) as u8;
            (decimal(whole, *scale), rounded(&sql_type.to_string(), *scale))
        }
        SqlType::Numeric(None) => {
            let value = rounded(&format!("numeric({},{FRACTION})", WHOLE + FRACTION as u8), FRACTION);
            (decimal(WHOLE, FRACTION), format!("trim_scale({value})"))
        }
        // So many digits and so small an exponent are neither infinite nor zero.
        SqlType::Real => (exponential(name, 28, "[0-9]"), cast("real")),
        _ => (exponential(name, 200, "[0-9]{1,2}"), cast("double precision")),
    }
}

fn exponential(name: &str, digits: u8, exponent: &str) -> String {
    format!(
        "{name} ~ '^[+-]?([0-9]{{1,{digits}}}(\\.[0-9]{{0,{digits}}})?|\\.[0-9]{{1,{digits}}})([eE][+-]?{exponent})?$'"
    )
}

fn is_text(sql_type: &SqlType) -> bool {
    matches!(sql_type, SqlType::Text | SqlType::Varchar(_) | SqlType::Char(_))
}

fn check(column: &str, sql_type: &SqlType, normalize: &Normalize) -> Result<()> {
    let refuse =
        |why: String| Error::new(SqlState::InvalidTableDefinition, format!("NORMALIZE of column \"{column}\": {why}"));
    let mut parsed = false;
    for (at, step) in normalize.steps.iter().enumerate() {
        let name = step.name();
        let again = |other: &Step| !matches!(step, Step::RegexReplace(..)) && other.name() == name;
        if normalize.steps[..at].iter().any(again) {
            return Err(refuse(format!("step {name} is there twice")));
        }
        match step {
            Step::Derive(_) if at > 0 => {
                return Err(refuse("step derive is not the first".into())
                    .with_hint("It takes the place of what comes: the steps behind it are done with what it gives."));
            }
            Step::Derive(_) | Step::Default(_) => {}
            step if step.parses() => {
                if let Some(other) = normalize.steps[..at].iter().find(|other| other.parses()) {
                    return Err(refuse(format!("{name} cannot read what {} has read already", other.name())));
                }
                if normalize.steps.contains(&Step::Email) {
                    return Err(refuse(format!("{name} cannot read an address that step email lets through")));
                }
                check_parsed_type(step, sql_type).map_err(refuse)?;
                parsed = true;
            }
            _ if parsed => {
                let hint = "Put it before: what the parsing step gives is no text.";
                return Err(
                    refuse(format!("step {name} works on text, and stands behind one that parses")).with_hint(hint)
                );
            }
            _ if normalize.parsing().is_none() && !is_text(sql_type) => {
                return Err(refuse(format!("step {name} works on text, and the column is of type {sql_type}"))
                    .with_hint(
                        "Have the text parsed behind it: parse_int, parse_numeric, parse_date or parse_timestamp.",
                    ));
            }
            _ => {}
        }
    }
    if normalize.on_failure == OnFailure::Default && normalize.default().is_none() {
        return Err(refuse("on_failure = default needs a step default(value)".into()));
    }
    if normalize.on_failure != OnFailure::Error && !normalize.steps.iter().any(Step::can_fail) {
        return Err(refuse("on_failure is of no use where no step can fail".into())
            .with_hint("Steps that can are email, parse_int, parse_numeric, parse_date and parse_timestamp."));
    }
    Ok(())
}

/// Whether the step gives values of the column's type.
fn check_parsed_type(step: &Step, sql_type: &SqlType) -> std::result::Result<(), String> {
    let (fits, wanted) = match step {
        Step::ParseInt => {
            (matches!(sql_type, SqlType::SmallInt | SqlType::Integer | SqlType::BigInt), "smallint, integer or bigint")
        }
        Step::ParseNumeric => (
            match sql_type {
                SqlType::Numeric(Some((precision, scale))) => *scale >= 0 && i16::from(*scale) <= i16::from(*precision),
                SqlType::Numeric(None) | SqlType::Real | SqlType::Double => true,
                _ => false,
            },
            "numeric, real or double precision",
        ),
        Step::ParseDate(_) => (matches!(sql_type, SqlType::Date), "date"),
        _ => (matches!(sql_type, SqlType::Timestamp | SqlType::TimestampTz), "timestamptz or timestamp"),
    };
    match fits {
        true => Ok(()),
        false => Err(format!("{} is for columns of type {wanted}, not {sql_type}", step.name())),
    }
}
