//! Values as the text that Postgres prints: what `format('%s')`, `concat` and `to_json` see.

use std::fmt::Write;

use datafusion::arrow::array::{Array, AsArray};
use datafusion::arrow::datatypes::{self as t, DataType, IntervalMonthDayNano, IntervalUnit, TimeUnit};
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use tidemark_common::Result;
use tidemark_common::types::{SqlType, is_ratio};

use super::calendar::{Civil, DAY, HOUR, MINUTE, SECOND};
use super::clock::{Clock, offset_text};
use super::ratio;

/// The text of one value, moments as `clock` shows them; `None` is NULL.
pub fn text_of(array: &dyn Array, row: usize, sql_type: &SqlType, clock: &Clock) -> Result<Option<String>> {
    if array.is_null(row) || array.data_type().is_null() {
        return Ok(None);
    }
    Ok(Some(match array.data_type() {
        DataType::Boolean => if array.as_boolean().value(row) { "t" } else { "f" }.to_string(),
        DataType::Utf8 => array.as_string::<i32>().value(row).to_string(),
        DataType::LargeUtf8 => array.as_string::<i64>().value(row).to_string(),
        DataType::Utf8View => array.as_string_view().value(row).to_string(),
        DataType::Binary => bytea(array.as_binary::<i32>().value(row)),
        DataType::LargeBinary => bytea(array.as_binary::<i64>().value(row)),
        DataType::BinaryView => bytea(array.as_binary_view().value(row)),
        DataType::FixedSizeBinary(_) => bytea(array.as_fixed_size_binary().value(row)),
        DataType::Float32 => float4(array.as_primitive::<t::Float32Type>().value(row)),
        DataType::Float64 => float8(array.as_primitive::<t::Float64Type>().value(row)),
        DataType::Decimal128(_, scale) => {
            let text = numeric(array.as_primitive::<t::Decimal128Type>().value(row), *scale);
            if *sql_type == SqlType::Numeric(None) { trim_zeros(text) } else { text }
        }
        held if is_ratio(held) => ratio::text(array.as_primitive::<t::Decimal256Type>().value(row)),
        DataType::Int32 if *sql_type == SqlType::Oid => {
            (array.as_primitive::<t::Int32Type>().value(row) as u32).to_string()
        }
        DataType::Date32 => date(array.as_primitive::<t::Date32Type>().value(row).into()),
        DataType::Time64(TimeUnit::Microsecond) => time(array.as_primitive::<t::Time64MicrosecondType>().value(row)),
        DataType::Time64(TimeUnit::Nanosecond) => {
            time(array.as_primitive::<t::Time64NanosecondType>().value(row) / 1000)
        }
        DataType::Timestamp(unit, zone) => {
            let micros = timestamp_micros(array, row, *unit);
            if zone.is_some() { timestamptz(micros, clock)? } else { timestamp(micros) }
        }
        DataType::Interval(IntervalUnit::MonthDayNano) => {
            interval(array.as_primitive::<t::IntervalMonthDayNanoType>().value(row))
        }
        DataType::List(_) => list(&array.as_list::<i32>().value(row), sql_type, clock)?,
        DataType::LargeList(_) => list(&array.as_list::<i64>().value(row), sql_type, clock)?,
        DataType::FixedSizeList(..) => list(&array.as_fixed_size_list().value(row), sql_type, clock)?,
        DataType::Struct(_) => record(array, row, clock)?,
        _ => ArrayFormatter::try_new(array, &FormatOptions::default())?.value(row).try_to_string()?,
    }))
}

/// A timestamp column's value in microseconds, whatever its unit.
pub(super) fn timestamp_micros(array: &dyn Array, row: usize, unit: TimeUnit) -> i64 {
    match unit {
        TimeUnit::Second => array.as_primitive::<t::TimestampSecondType>().value(row).saturating_mul(SECOND),
        TimeUnit::Millisecond => array.as_primitive::<t::TimestampMillisecondType>().value(row).saturating_mul(1000),
        TimeUnit::Microsecond => array.as_primitive::<t::TimestampMicrosecondType>().value(row),
        TimeUnit::Nanosecond => array.as_primitive::<t::TimestampNanosecondType>().value(row).div_euclid(1000),
    }
}

pub(super) fn bytea(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(2 + bytes.len() * 2);
    out.push_str("\\x");
    for byte in bytes {
        let _ = write!(out, "{byte:02x}");
    }
    out
}

pub(super) fn float8(value: f64) -> String {
    shortest(format!("{value:e}"), value.is_finite(), 15)
}

fn float4(value: f32) -> String {
    shortest(format!("{value:e}"), value.is_finite(), 6)
}

/// Rust's shortest exponent form laid out as C's `%g` does: plain up to `digits` digits before the point.
fn shortest(text: String, finite: bool, digits: i32) -> String {
    if !finite {
        return text.replace("inf", "Infinity");
    }
    let Some((mantissa, exponent)) = text.split_once('e') else { return text };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if exponent < -4 || exponent >= digits {
        return format!("{mantissa}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs());
    }
    let (sign, mantissa) = mantissa.strip_prefix('-').map_or(("", mantissa), |m| ("-", m));
    let all: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    if exponent < 0 {
        return format!("{sign}0.{}{all}", "0".repeat((-exponent - 1) as usize));
    }
    let whole = exponent as usize + 1;
    if all.len() <= whole {
        return format!("{sign}{all}{}", "0".repeat(whole - all.len()));
    }
    format!("{sign}{}.{}", &all[..whole], &all[whole..])
}

pub(super) fn numeric(digits: i128, scale: i8) -> String {
    let sign = if digits < 0 { "-" } else { "" };
    let text = digits.unsigned_abs().to_string();
    if scale <= 0 {
        return if digits == 0 {
            "0".to_string()
        } else {
            format!("{sign}{text}{}", "0".repeat(scale.unsigned_abs().into()))
        };
    }
    let scale = scale as usize;
    let text = if text.len() <= scale { format!("{}{text}", "0".repeat(scale + 1 - text.len())) } else { text };
    let (whole, fraction) = text.split_at(text.len() - scale);
    format!("{sign}{whole}.{fraction}")
}

pub(super) fn trim_zeros(text: String) -> String {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_string() } else { text }
}

pub(super) fn date(days: i64) -> String {
    if days == i64::from(i32::MAX) || days == i64::from(i32::MIN) {
        return infinity(days > 0);
    }
    with_era(Civil::from_micros(days.saturating_mul(DAY)), String::new())
}

fn infinity(positive: bool) -> String {
    if positive { "infinity".into() } else { "-infinity".into() }
}

fn with_era(civil: Civil, rest: String) -> String {
    let (year, era) = if civil.year > 0 { (civil.year, "") } else { (1 - civil.year, " BC") };
    format!("{year:04}-{:02}-{:02}{rest}{era}", civil.month, civil.day)
}

pub(super) fn time(micros: i64) -> String {
    let (h, m, s) = (micros / HOUR, micros % HOUR / MINUTE, micros % MINUTE / SECOND);
    format!("{h:02}:{m:02}:{s:02}{}", fraction(micros % SECOND))
}

fn fraction(micros: i64) -> String {
    if micros == 0 { String::new() } else { format!(".{micros:06}").trim_end_matches('0').to_string() }
}

pub(super) fn timestamp(micros: i64) -> String {
    if micros == i64::MAX || micros == i64::MIN {
        return infinity(micros > 0);
    }
    let civil = Civil::from_micros(micros);
    with_era(civil, format!(" {}", time(civil.micros)))
}

pub(super) fn timestamptz(micros: i64, clock: &Clock) -> Result<String> {
    if micros == i64::MAX || micros == i64::MIN {
        return Ok(infinity(micros > 0));
    }
    let (text, offset) = (timestamp(clock.local(micros)?), offset_text(clock.offset(micros)?));
    Ok(match text.strip_suffix(" BC") {
        Some(text) => format!("{text}{offset} BC"),
        None => format!("{text}{offset}"),
    })
}

/// Postgres' own style: `1 year 2 mons 3 days 04:05:06.7`.
pub(super) fn interval(value: IntervalMonthDayNano) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut negative_before = false;
    let mut unit = |n: i64, one: &str, many: &str, parts: &mut Vec<String>| {
        if n != 0 {
            let plus = if negative_before && n > 0 { "+" } else { "" };
            parts.push(format!("{plus}{n} {}", if n == 1 { one } else { many }));
            negative_before = n < 0;
        }
    };
    unit((value.months / 12).into(), "year", "years", &mut parts);
    unit((value.months % 12).into(), "mon", "mons", &mut parts);
    unit(value.days.into(), "day", "days", &mut parts);
    let micros = value.nanoseconds / 1000;
    if micros != 0 || parts.is_empty() {
        let sign = if micros < 0 {
            "-"
        } else if negative_before {
            "+"
        } else {
            ""
        };
        parts.push(format!("{sign}{}", time(micros.abs())));
    }
    parts.join(" ")
}

fn list(items: &dyn Array, sql_type: &SqlType, clock: &Clock) -> Result<String> {
    let item_type = match sql_type {
        SqlType::Array(item) => (**item).clone(),
        _ => SqlType::from_data_type(items.data_type()),
    };
    let nested = matches!(item_type, SqlType::Array(_));
    let mut out = String::from("{");
    for row in 0..items.len() {
        if row > 0 {
            out.push(',');
        }
        match text_of(items, row, &item_type, clock)? {
            None => out.push_str("NULL"),
            Some(text) if nested => out.push_str(&text),
            Some(text) => push_quoted(&mut out, &text, needs_quotes_in_array),
        }
    }
    out.push('}');
    Ok(out)
}

fn needs_quotes_in_array(text: &str) -> bool {
    text.is_empty()
        || text.eq_ignore_ascii_case("null")
        || text.chars().any(|c| matches!(c, '{' | '}' | ',' | '"' | '\\') || c.is_ascii_whitespace())
}

fn push_quoted(out: &mut String, text: &str, needs: impl Fn(&str) -> bool) {
    if !needs(text) {
        out.push_str(text);
        return;
    }
    out.push('"');
    for c in text.chars() {
        if matches!(c, '"' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
}

fn record(array: &dyn Array, row: usize, clock: &Clock) -> Result<String> {
    let record = array.as_struct();
    let mut out = String::from("(");
    for (i, (column, field)) in record.columns().iter().zip(record.fields()).enumerate() {
        if i > 0 {
            out.push(',');
        }
        if let Some(text) = text_of(column, row, &SqlType::from_field(field), clock)? {
            let needs = |s: &str| {
                s.is_empty() || s.chars().any(|c| matches!(c, '(' | ')' | ',' | '"' | '\\') || c.is_ascii_whitespace())
            };
            push_quoted(&mut out, &text, needs);
        }
    }
    out.push(')');
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_as_postgres_prints_them() {
        let cases: [(f64, &str); 10] = [
            (0.1 + 0.2, "0.30000000000000004"),
            (1e20, "1e+20"),
            (1e-7, "1e-07"),
            (123_456_789_012_345.0, "123456789012345"),
            (1e15, "1e+15"),
            (0.0001, "0.0001"),
            (-2.5, "-2.5"),
            (f64::NEG_INFINITY, "-Infinity"),
            (f64::NAN, "NaN"),
            (-0.0, "-0"),
        ];
        for (value, text) in cases {
            assert_eq!(float8(value), text);
        }
        assert_eq!(float4(1_000_000.0), "1e+06");
    }

    #[test]
    fn intervals_keep_their_signs() {
        let iv = |m, d, us: i64| interval(IntervalMonthDayNano::new(m, d, us * 1000));
        assert_eq!(iv(14, 3, 4 * HOUR + 5 * MINUTE + 6_700_000), "1 year 2 mons 3 days 04:05:06.7");
        assert_eq!(iv(1, -1, HOUR), "1 mon -1 days +01:00:00");
        assert_eq!(iv(0, 0, -90 * SECOND), "-00:01:30");
        assert_eq!(iv(0, 0, 0), "00:00:00");
    }

    #[test]
    fn numbers_before_christ_and_below_one() {
        assert_eq!(numeric(-5, 3), "-0.005");
        assert_eq!(trim_zeros(numeric(1_500, 3)), "1.5");
        assert_eq!(date(super::super::calendar::to_days(0, 12, 31)), "0001-12-31 BC");
    }
}
