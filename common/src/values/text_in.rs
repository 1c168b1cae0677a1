//! The input syntax of every type, with Postgres' words for what is wrong.

use std::str::FromStr;

use crate::{Error, Result, SqlState};

use super::builder::{ColumnBuilder, TextKind, Values};
use super::json::Json;
use super::numeric::Decimal;
use super::{Style, array_text, datetime_in, interval, json, numeric};

/// Longest `name`, in bytes.
const NAME_BYTES: usize = 63;

pub(super) fn append(builder: &mut ColumnBuilder, text: &str, style: &Style) -> Result<()> {
    match &mut builder.0 {
        Values::Boolean(b) => b.append_value(boolean(text)?),
        Values::Int16(b) => b.append_value(integer(text, "smallint")?),
        Values::Int32(b) => b.append_value(integer(text, "integer")?),
        Values::Int64(b) => b.append_value(integer(text, "bigint")?),
        Values::Oid(b) => b.append_value(oid(text)?),
        Values::Float32(b) => b.append_value(real(text)?),
        Values::Float64(b) => b.append_value(double(text)?),
        Values::Decimal128 { values, precision, scale, unconstrained, exact } => {
            values.append_value(match numeric::plain(text, *precision, *scale) {
                Some(value) => value,
                None => {
                    let decimal = numeric::checked(decimal(text)?, *scale, *exact)?;
                    numeric::to_i128(decimal, *precision, *scale, *unconstrained)?
                }
            });
        }
        Values::Decimal256 { values, precision, scale, exact } => {
            let decimal = numeric::checked(decimal(text)?, *scale, *exact)?;
            values.append_value(numeric::to_i256(decimal, *precision, *scale)?);
        }
        Values::Text(b, kind) => append_string(b, *kind, text)?,
        Values::Bytea(b) => b.append_value(bytea(text)?),
        Values::Date(b) => b.append_value(datetime_in::date(text, style)?),
        Values::Time(b) => b.append_value(datetime_in::time(text, style)?),
        Values::Timestamp(b) => b.append_value(datetime_in::timestamp(text, style)?),
        Values::TimestampTz(b) => b.append_value(datetime_in::timestamptz(text, style)?),
        Values::Interval(b) => b.append_value(interval::parse(text)?),
        Values::List { item, .. } => {
            let count = array_text::read_array(text, item, style)?;
            builder.close_list(count);
        }
        Values::Struct { columns, nulls, .. } => {
            array_text::read_record(text, columns, style)?;
            nulls.append_non_null();
        }
        Values::Map { .. } => append_json(builder, &json::parse(text)?, style)?,
    }
    Ok(())
}

fn invalid(kind: &str, text: &str) -> Error {
    Error::new(SqlState::InvalidTextRepresentation, format!("invalid input syntax for type {kind}: \"{text}\""))
}

fn out_of_range(kind: &str, text: &str) -> Error {
    Error::new(SqlState::NumericValueOutOfRange, format!("value \"{text}\" is out of range for type {kind}"))
}

pub(super) fn boolean(text: &str) -> Result<bool> {
    match text {
        "t" | "true" => return Ok(true),
        "f" | "false" => return Ok(false),
        _ => {}
    }
    let word = text.trim_ascii().to_ascii_lowercase();
    let begins = |whole: &str, least: usize| word.len() >= least && whole.starts_with(&word);
    if word == "1" || begins("true", 1) || begins("yes", 1) || begins("on", 2) {
        Ok(true)
    } else if word == "0" || begins("false", 1) || begins("no", 1) || begins("off", 2) {
        Ok(false)
    } else {
        Err(invalid("boolean", text))
    }
}

/// Any width of integer: the same syntax, different bounds.
pub(super) fn integer<T: FromStr>(text: &str, kind: &str) -> Result<T> {
    let trimmed = text.trim_ascii();
    trimmed.parse().map_err(|_| {
        let digits = trimmed.strip_prefix(['-', '+']).unwrap_or(trimmed);
        if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
            out_of_range(kind, text)
        } else {
            invalid(kind, text)
        }
    })
}

/// Unsigned, held in the bits of an i32; a negative number wraps as in Postgres.
fn oid(text: &str) -> Result<i32> {
    let value: i64 = integer(text, "oid")?;
    if (i64::from(i32::MIN)..=i64::from(u32::MAX)).contains(&value) {
        Ok(value as u32 as i32)
    } else {
        Err(out_of_range("oid", text))
    }
}

/// Rust's syntax for floats, less what Postgres does not take, plus a check that a number did not become infinite or zero.
fn float<T: FromStr + Into<f64> + Copy>(text: &str, kind: &str) -> Result<T> {
    let trimmed = text.trim_ascii();
    let value: T = trimmed.parse().map_err(|_| invalid(kind, text))?;
    let wide: f64 = value.into();
    let is_lost = if wide == 0.0 {
        let mantissa = trimmed.split(['e', 'E']).next().unwrap_or("");
        mantissa.bytes().any(|b| (b'1'..=b'9').contains(&b))
    } else {
        wide.is_infinite() && trimmed.bytes().any(|b| b.is_ascii_digit())
    };
    if is_lost {
        return Err(Error::new(
            SqlState::NumericValueOutOfRange,
            format!("\"{text}\" is out of range for type {kind}"),
        ));
    }
    Ok(value)
}

pub(super) fn double(text: &str) -> Result<f64> {
    float(text, "double precision")
}

fn real(text: &str) -> Result<f32> {
    float(text, "real")
}

fn decimal(text: &str) -> Result<Decimal> {
    Decimal::parse(text).ok_or_else(|| {
        let word = text.trim_ascii().trim_start_matches(['-', '+']).to_ascii_lowercase();
        if matches!(word.as_str(), "nan" | "inf" | "infinity") {
            numeric_special(text.trim_ascii())
        } else {
            invalid("numeric", text)
        }
    })
}

pub(super) fn numeric_special(value: &str) -> Error {
    Error::new(SqlState::FeatureNotSupported, format!("numeric cannot hold \"{value}\""))
        .with_hint("Use double precision for NaN and infinity.")
}

fn append_string(b: &mut datafusion::arrow::array::StringBuilder, kind: TextKind, text: &str) -> Result<()> {
    match kind {
        TextKind::Any => b.append_value(text),
        TextKind::Varchar(n) => b.append_value(at_most(text, n, "character varying")?),
        TextKind::Char(n) => {
            let kept = at_most(text, n, "character")?;
            b.append_value(format!("{kept:<width$}", width = n as usize));
        }
        TextKind::Name => b.append_value(&text[..text.floor_char_boundary(NAME_BYTES)]),
        TextKind::Uuid => b.append_value(uuid(text)?),
        TextKind::Json => {
            json::check(text)?;
            b.append_value(text);
        }
        TextKind::Jsonb => b.append_value(json::canonical(text)?),
    }
    Ok(())
}

/// Too long is an error, unless what is too much is blanks.
fn at_most<'a>(text: &'a str, n: u32, kind: &str) -> Result<&'a str> {
    match text.char_indices().nth(n as usize) {
        None => Ok(text),
        Some((end, _)) if text[end..].bytes().all(|b| b == b' ') => Ok(&text[..end]),
        Some(_) => Err(Error::new(SqlState::StringDataRightTruncation, format!("value too long for type {kind}({n})"))),
    }
}

/// 32 hexadecimal digits, a dash allowed after each four, braces around them allowed.
pub(super) fn uuid(text: &str) -> Result<String> {
    let inner = match text.strip_prefix('{') {
        Some(inner) => inner.strip_suffix('}').ok_or_else(|| invalid("uuid", text))?,
        None => text,
    };
    let mut canonical = String::with_capacity(36);
    let mut digits = 0;
    let mut after_dash = false;
    for byte in inner.bytes() {
        if byte == b'-' && digits > 0 && digits < 32 && digits % 4 == 0 && !after_dash {
            after_dash = true;
            continue;
        }
        if !byte.is_ascii_hexdigit() || digits == 32 {
            return Err(invalid("uuid", text));
        }
        if matches!(digits, 8 | 12 | 16 | 20) {
            canonical.push('-');
        }
        canonical.push(char::from(byte.to_ascii_lowercase()));
        digits += 1;
        after_dash = false;
    }
    if digits == 32 && !after_dash { Ok(canonical) } else { Err(invalid("uuid", text)) }
}

/// `\x0aff`, or bytes as they are with `\\` and `\ooo`.
pub(super) fn bytea(text: &str) -> Result<Vec<u8>> {
    if let Some(hex) = text.strip_prefix("\\x") {
        return bytea_hex(hex);
    }
    let malformed = || Error::new(SqlState::InvalidTextRepresentation, "invalid input syntax for type bytea");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'\\' {
            bytes.push(*first);
            continue;
        }
        match after {
            [b'\\', after @ ..] => {
                bytes.push(b'\\');
                rest = after;
            }
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..] => {
                bytes.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = after;
            }
            _ => return Err(malformed()),
        }
    }
    Ok(bytes)
}

fn bytea_hex(hex: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(hex.len() / 2);
    let mut high = None;
    for c in hex.chars() {
        if high.is_none() && c.is_ascii_whitespace() {
            continue;
        }
        let Some(digit) = c.to_digit(16) else {
            return Err(Error::invalid(format!("invalid hexadecimal digit: \"{c}\"")));
        };
        match high.take() {
            Some(high) => bytes.push((high << 4 | digit) as u8),
            None => high = Some(digit),
        }
    }
    if high.is_some() {
        return Err(Error::invalid("invalid hexadecimal data: odd number of digits"));
    }
    Ok(bytes)
}

/// A value out of a JSON document: maps are written as JSON, and so is what they hold.
fn append_json(builder: &mut ColumnBuilder, value: &Json, style: &Style) -> Result<()> {
    if *value == Json::Null {
        builder.append_null();
        return Ok(());
    }
    match (&mut builder.0, value) {
        (Values::Text(_, TextKind::Json | TextKind::Jsonb), value) => {
            builder.append_text(&json::to_text(value)?, style)
        }
        (Values::List { item, .. }, Json::Array(items)) => {
            for value in items {
                append_json(item, value, style)?;
            }
            builder.close_list(items.len());
            Ok(())
        }
        (Values::Struct { fields, columns, nulls }, Json::Object(entries)) => {
            for (field, column) in fields.iter().zip(columns) {
                match entries.iter().rfind(|(key, _)| key == field.name()) {
                    Some((_, value)) => append_json(column, value, style)?,
                    None => column.append_null(),
                }
            }
            nulls.append_non_null();
            Ok(())
        }
        (Values::Map { key, value, offsets, nulls, .. }, Json::Object(entries)) => {
            for (name, entry) in entries {
                key.append_text(name, style)?;
                append_json(value, entry, style)?;
            }
            offsets.push(offsets.last().copied().unwrap_or(0) + entries.len() as i32);
            nulls.append_non_null();
            Ok(())
        }
        (Values::List { .. } | Values::Struct { .. } | Values::Map { .. }, _) => {
            Err(Error::new(SqlState::InvalidTextRepresentation, "the JSON does not have the shape of the map's type"))
        }
        (_, Json::Bool(value)) => builder.append_text(if *value { "true" } else { "false" }, style),
        (_, Json::Number(text)) => builder.append_text(text, style),
        (_, Json::String(text)) => builder.append_text(text, style),
        (_, Json::Null | Json::Array(_) | Json::Object(_)) => {
            Err(Error::new(SqlState::InvalidTextRepresentation, "the JSON does not have the shape of the map's type"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message<T: std::fmt::Debug>(result: Result<T>) -> String {
        let error = result.unwrap_err();
        format!("{} {}", error.code(), error.message())
    }

    #[test]
    fn errors_are_worded_as_in_postgres() {
        assert_eq!(message(integer::<i32>("x", "integer")), "22P02 invalid input syntax for type integer: \"x\"");
        assert_eq!(
            message(integer::<i32>("99999999999", "integer")),
            "22003 value \"99999999999\" is out of range for type integer"
        );
        assert_eq!(
            message(integer::<i32>("1_000", "integer")),
            "22P02 invalid input syntax for type integer: \"1_000\""
        );
        assert_eq!(message(double("1e400")), "22003 \"1e400\" is out of range for type double precision");
        assert_eq!(message(double("1e-400")), "22003 \"1e-400\" is out of range for type double precision");
        assert_eq!(message(double("x")), "22P02 invalid input syntax for type double precision: \"x\"");
        assert_eq!(message(boolean("o")), "22P02 invalid input syntax for type boolean: \"o\"");
        assert_eq!(message(bytea("\\xg")), "22023 invalid hexadecimal digit: \"g\"");
        assert_eq!(message(bytea("\\xa")), "22023 invalid hexadecimal data: odd number of digits");
        assert_eq!(message(bytea("\\1")), "22P02 invalid input syntax for type bytea");
        assert_eq!(message(uuid("x")), "22P02 invalid input syntax for type uuid: \"x\"");
        assert_eq!(message(oid("5000000000")), "22003 value \"5000000000\" is out of range for type oid");
        assert_eq!(
            message(at_most("abcd", 3, "character varying")),
            "22001 value too long for type character varying(3)"
        );
    }

    #[test]
    fn what_postgres_accepts_is_accepted() {
        assert_eq!(integer::<i32>("  12 ", "integer").unwrap(), 12);
        assert_eq!(integer::<i16>("+7", "smallint").unwrap(), 7);
        assert_eq!(oid("-1").unwrap() as u32, u32::MAX);
        assert!(double(" nan ").unwrap().is_nan());
        assert_eq!(double("+inf").unwrap(), f64::INFINITY);
        assert_eq!(double(".5").unwrap(), 0.5);
        assert!(boolean(" yes").unwrap() && boolean("t").unwrap() && !boolean("of").unwrap());
        assert_eq!(bytea("a\\\\b\\001").unwrap(), b"a\\b\x01");
        assert_eq!(bytea("\\x 00 fF").unwrap(), [0, 255]);
        assert_eq!(uuid("{A0EEBC99-9C0B4EF8-BB6D6BB9BD380A11}").unwrap(), "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11");
        assert_eq!(at_most("abc  ", 3, "character varying").unwrap(), "abc");
    }
}
