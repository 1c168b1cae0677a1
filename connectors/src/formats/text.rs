//! Text to values, by SQL type, as Postgres reads them.
//!
//! A whole column at a time: Arrow's cast where it knows the type, ours where it does not. A value that cannot be read becomes
//! NULL and is reported with its row, so that the caller can name the line or leave the row out.

use std::borrow::Cow;
use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, BinaryBuilder, Date32Array, StringArray, StringBuilder, TimestampMicrosecondArray,
};
use datafusion::arrow::compute::kernels::zip::zip;
use datafusion::arrow::compute::{self, CastOptions};
use datafusion::arrow::datatypes::{DataType, Field, Fields, Schema, TimeUnit};
use serde::de::IgnoredAny;
use tidemark_common::types::SqlType;
use tidemark_common::values::canonical_json;
use tidemark_common::{Error, Result, SqlState};

use super::Failures;

/// A column of values and the rows that could not be read (NULL in `array`).
#[derive(Debug)]
pub struct Parsed {
    pub array: ArrayRef,
    pub failures: Failures,
}

/// Reads one value.
pub fn parse_one(value: &str, sql_type: &SqlType) -> Result<ArrayRef> {
    let parsed = parse(&StringArray::from(vec![value]), &sql_type.to_field("value", true))?;
    match parsed.failures.into_iter().next() {
        Some((_, error)) => Err(error),
        None => Ok(parsed.array),
    }
}

/// Reads a column of values of the type that `field` says. NULL stays NULL.
pub fn parse(values: &StringArray, field: &Field) -> Result<Parsed> {
    let sql_type = SqlType::from_field(field);
    match &sql_type {
        SqlType::Text | SqlType::Name | SqlType::Varchar(None) => {
            Ok(Parsed { array: Arc::new(values.clone()), failures: Vec::new() })
        }
        SqlType::Varchar(Some(n)) => texts(values, |text| fit(text, *n, false)),
        SqlType::Char(n) => texts(values, |text| fit(text, *n, true)),
        SqlType::Uuid => {
            texts(values, |text| canonical_uuid(text).map(Cow::Owned).ok_or_else(|| syntax(&sql_type, text)))
        }
        SqlType::Jsonb => texts(values, |text| canonical_json(text).map(Cow::Owned)),
        SqlType::Json => texts(values, |text| check_json(text, &sql_type).map(|()| Cow::Borrowed(text))),
        SqlType::Bytea => bytes(values, &sql_type),
        SqlType::Array(_) | SqlType::Struct(_) | SqlType::Map(..) => nested(values, field),
        _ => by_cast(values, field, &sql_type),
    }
}

/// Columns already read as the held type, brought to the form in which values of the SQL type are kept: a uuid canonical,
/// a varchar within its length, a char padded.
pub fn conform(array: ArrayRef, field: &Field) -> Result<Parsed> {
    match (SqlType::from_field(field), array.data_type()) {
        (
            SqlType::Uuid | SqlType::Varchar(Some(_)) | SqlType::Char(_) | SqlType::Json | SqlType::Jsonb,
            DataType::Utf8,
        ) => parse(array.as_string::<i32>(), field),
        _ => Ok(Parsed { array, failures: Vec::new() }),
    }
}

/// Casts a column, reporting the rows that do not fit instead of failing.
pub fn cast(array: &ArrayRef, field: &Field) -> Result<Parsed> {
    if array.data_type() == field.data_type() {
        return conform(array.clone(), field);
    }
    if array.data_type() == &DataType::FixedSizeBinary(16) && SqlType::from_field(field) == SqlType::Uuid {
        let binary = array.as_fixed_size_binary();
        let texts = binary.iter().map(|bytes| bytes.map(|b| hyphenated(&hex(b)))).collect::<StringArray>();
        return Ok(Parsed { array: Arc::new(texts), failures: Vec::new() });
    }
    if !compute::can_cast_types(array.data_type(), field.data_type()) {
        return Err(Error::new(
            SqlState::DatatypeMismatch,
            format!(
                "column \"{}\" is of type {} but the data has {}",
                field.name(),
                SqlType::from_field(field),
                SqlType::from_data_type(array.data_type())
            ),
        ));
    }
    if matches!(array.data_type(), DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View) {
        let texts = compute::cast(array, &DataType::Utf8)?;
        return parse(texts.as_string::<i32>(), field);
    }
    let safe = CastOptions { safe: true, ..Default::default() };
    let result = compute::cast_with_options(array, field.data_type(), &safe)?;
    let failed = new_nulls(array, &result);
    let sql_type = SqlType::from_field(field);
    let failures = failed.into_iter().map(|row| {
        let shown = datafusion::arrow::util::display::array_value_to_string(array, row).unwrap_or_default();
        (
            row,
            in_column(
                Error::new(SqlState::NumericValueOutOfRange, format!("{shown} is out of range for type {sql_type}")),
                field,
            ),
        )
    });
    let mut failures: Vec<_> = failures.collect();
    let conformed = conform(result, field)?;
    failures.extend(conformed.failures);
    Ok(Parsed { array: conformed.array, failures })
}

/// Says in which column it was.
pub fn in_column(error: Error, field: &Field) -> Error {
    error.context(format!("column \"{}\"", field.name()))
}

pub fn not_utf8() -> Error {
    Error::new(SqlState::InvalidTextRepresentation, "invalid byte sequence for encoding \"UTF8\"")
}

fn by_cast(values: &StringArray, field: &Field, sql_type: &SqlType) -> Result<Parsed> {
    let safe = CastOptions { safe: true, ..Default::default() };
    if !compute::can_cast_types(&DataType::Utf8, field.data_type()) {
        return Err(Error::unsupported(format!("values of type {sql_type} cannot be read from text")));
    }
    let mut array = compute::cast_with_options(values, field.data_type(), &safe)?;
    let mut failed = new_nulls(values, &array);
    if !failed.is_empty() {
        // Rare, so only now: spellings that Postgres reads and Arrow does not.
        let respelt: StringArray = values.iter().map(|v| v.map(|text| respell(text, sql_type))).collect();
        array = with_infinity(&respelt, &compute::cast_with_options(&respelt, field.data_type(), &safe)?)?;
        failed = new_nulls(values, &array);
    }
    let failures = failed.into_iter().map(|row| (row, in_column(syntax(sql_type, values.value(row)), field))).collect();
    Ok(Parsed { array, failures })
}

/// Without the blanks that Postgres allows around anything but text, and with seconds in a time that has none.
fn respell<'a>(text: &'a str, sql_type: &SqlType) -> Cow<'a, str> {
    let text = text.trim();
    if *sql_type == SqlType::Interval {
        return Cow::Owned(text.split_whitespace().map(spell_out).collect::<Vec<_>>().join(" "));
    }
    let timed = matches!(sql_type, SqlType::Time | SqlType::Timestamp | SqlType::TimestampTz);
    let Some(colon) = text.find(':').filter(|_| timed) else { return Cow::Borrowed(text) };
    let minutes = text[colon + 1..].bytes().take_while(u8::is_ascii_digit).count();
    let end = colon + 1 + minutes;
    if minutes == 2 && !text[end..].starts_with(':') {
        return Cow::Owned(format!("{}:00{}", &text[..end], &text[end..]));
    }
    Cow::Borrowed(text)
}

/// The cast of `values` with `infinity` and `-infinity`, which Arrow does not read as dates and timestamps.
fn with_infinity(values: &StringArray, array: &ArrayRef) -> Result<ArrayRef> {
    let is_later = |text: &str| match text.to_ascii_lowercase().as_str() {
        "infinity" | "+infinity" => Some(true),
        "-infinity" => Some(false),
        _ => None,
    };
    let ends = |min: i64, max: i64| values.iter().map(move |v| is_later(v?).map(|later| if later { max } else { min }));
    let infinite: ArrayRef = match array.data_type() {
        DataType::Timestamp(TimeUnit::Microsecond, zone) => {
            let ends: TimestampMicrosecondArray = ends(i64::MIN, i64::MAX).collect();
            Arc::new(ends.with_timezone_opt(zone.clone()))
        }
        DataType::Date32 => {
            let ends = ends(i32::MIN.into(), i32::MAX.into());
            Arc::new(ends.map(|end| end.map(|days| days as i32)).collect::<Date32Array>())
        }
        _ => return Ok(Arc::clone(array)),
    };
    Ok(zip(&compute::is_not_null(&infinite)?, &infinite, array)?)
}

/// `-01:02:03` of an interval in words.
fn spell_out(word: &str) -> String {
    let (sign, digits) = match word.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", word.strip_prefix('+').unwrap_or(word)),
    };
    match digits.split(':').collect::<Vec<_>>().as_slice() {
        [hours, minutes] => format!("{sign}{hours} hours {sign}{minutes} minutes"),
        [hours, minutes, seconds] => format!("{sign}{hours} hours {sign}{minutes} minutes {sign}{seconds} seconds"),
        _ => format!("{sign}{digits}"),
    }
}

fn new_nulls(before: &dyn Array, after: &dyn Array) -> Vec<usize> {
    if after.null_count() == before.null_count() {
        return Vec::new();
    }
    (0..before.len()).filter(|&row| after.is_null(row) && !before.is_null(row)).collect()
}

/// Refuses what is no JSON.
pub(super) fn check_json(text: &str, sql_type: &SqlType) -> Result<()> {
    match serde_json::from_str::<IgnoredAny>(text) {
        Ok(_) => Ok(()),
        Err(error) => Err(syntax(sql_type, text).with_detail(error.to_string())),
    }
}

pub(super) fn syntax(sql_type: &SqlType, value: &str) -> Error {
    let shown: String = value.chars().take(60).collect();
    let state = match sql_type {
        SqlType::Date | SqlType::Time | SqlType::Timestamp | SqlType::TimestampTz | SqlType::Interval => {
            SqlState::InvalidDatetimeFormat
        }
        _ => SqlState::InvalidTextRepresentation,
    };
    Error::new(state, format!("invalid input syntax for type {sql_type}: \"{shown}\""))
}

fn texts<'a>(values: &'a StringArray, read: impl Fn(&'a str) -> Result<Cow<'a, str>>) -> Result<Parsed> {
    let mut builder = StringBuilder::with_capacity(values.len(), values.value_data().len());
    let mut failures = Vec::new();
    for (row, value) in values.iter().enumerate() {
        match value.map(&read) {
            None => builder.append_null(),
            Some(Ok(text)) => builder.append_value(text),
            Some(Err(error)) => {
                builder.append_null();
                failures.push((row, error));
            }
        }
    }
    Ok(Parsed { array: Arc::new(builder.finish()), failures })
}

/// A text of at most `n` characters; blanks beyond are cut as Postgres does, and with `pad` there are exactly `n`.
pub(super) fn fit(text: &str, n: u32, pad: bool) -> Result<Cow<'_, str>> {
    let n = n as usize;
    if text.len() <= n && !pad {
        return Ok(Cow::Borrowed(text));
    }
    let length = text.chars().count();
    if length > n {
        let cut = text.char_indices().nth(n).map_or(text.len(), |(at, _)| at);
        if !text[cut..].trim_matches(' ').is_empty() {
            let kind = if pad { "character" } else { "character varying" };
            return Err(Error::new(
                SqlState::StringDataRightTruncation,
                format!("value too long for type {kind}({n})"),
            ));
        }
        return Ok(Cow::Borrowed(&text[..cut]));
    }
    Ok(if pad && length < n { Cow::Owned(format!("{text}{}", " ".repeat(n - length))) } else { Cow::Borrowed(text) })
}

/// Lower-case with dashes; reads what Postgres reads: upper case, braces, dashes after any group of four digits.
pub fn canonical_uuid(text: &str) -> Option<String> {
    let text = text.trim();
    let inner = match text.strip_prefix('{') {
        Some(rest) => rest.strip_suffix('}')?,
        None => text,
    };
    let mut digits = String::with_capacity(36);
    let mut after_dash = true;
    for c in inner.chars() {
        match c {
            '-' if !after_dash && digits.len().is_multiple_of(4) => after_dash = true,
            c if c.is_ascii_hexdigit() => {
                digits.push(c.to_ascii_lowercase());
                after_dash = false;
            }
            _ => return None,
        }
    }
    (digits.len() == 32 && !after_dash).then(|| hyphenated(&digits))
}

pub(super) fn hyphenated(digits: &str) -> String {
    format!("{}-{}-{}-{}-{}", &digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..])
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|b| [DIGITS[usize::from(b >> 4)] as char, DIGITS[usize::from(b & 15)] as char]).collect()
}

/// `\x` and hex digits, or else the text's own bytes.
fn bytes(values: &StringArray, sql_type: &SqlType) -> Result<Parsed> {
    let mut builder = BinaryBuilder::new();
    let mut failures = Vec::new();
    for (row, value) in values.iter().enumerate() {
        let Some(text) = value else {
            builder.append_null();
            continue;
        };
        match text.strip_prefix("\\x").map(unhex) {
            None => builder.append_value(text.as_bytes()),
            Some(Some(bytes)) => builder.append_value(bytes),
            Some(None) => {
                builder.append_null();
                failures.push((row, syntax(sql_type, text)));
            }
        }
    }
    Ok(Parsed { array: Arc::new(builder.finish()), failures })
}

pub(crate) fn unhex(digits: &str) -> Option<Vec<u8>> {
    let digits = digits.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    let digit = |b: u8| (b as char).to_digit(16).map(|d| d as u8);
    digits.chunks_exact(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

/// Arrays, structs and maps are read as JSON; a one-dimensional array also as Postgres writes it.
fn nested(values: &StringArray, field: &Field) -> Result<Parsed> {
    let schema = Arc::new(Schema::new(Fields::from(vec![field.clone().with_nullable(true)])));
    let decoder = super::json::JsonRecords::new(&schema, &super::json::JsonOptions::default())?;
    let name = serde_json::to_string(field.name()).map_err(|e| Error::internal(e.to_string()))?;
    let lines: Vec<String> = values
        .iter()
        .map(|value| match value {
            None => "{}".to_string(),
            Some(text) => match array_literal(text) {
                Some(json) if matches!(field.data_type(), DataType::List(_)) => format!("{{{name}:{json}}}"),
                _ => format!("{{{name}:{}}}", text.replace('\n', " ")),
            },
        })
        .collect();
    let records: Vec<&[u8]> = lines.iter().map(|l| l.as_bytes()).collect();
    let (columns, failures) = decoder.columns(&records)?;
    let array = columns.into_iter().next().ok_or_else(|| Error::internal("no column came back"))?;
    debug_assert_eq!(array.len(), values.len());
    Ok(Parsed { array, failures })
}

/// `{a,"b c",NULL}` as a JSON array, or `None` if the text is not such a literal.
fn array_literal(text: &str) -> Option<String> {
    let inner = text.trim().strip_prefix('{')?.strip_suffix('}')?;
    let mut items = Vec::new();
    let mut chars = inner.chars().peekable();
    while chars.peek().is_some() {
        items.push(array_item(&mut chars)?);
        match chars.next() {
            None => break,
            // A comma must be followed by an item.
            Some(',') if chars.peek().is_some() => {}
            _ => return None,
        }
    }
    Some(format!("[{}]", items.join(",")))
}

/// One item as JSON, up to the comma or the end.
fn array_item(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<String> {
    let mut item = String::new();
    if chars.next_if_eq(&'"').is_some() {
        loop {
            match chars.next()? {
                '\\' => item.push(chars.next()?),
                '"' => return serde_json::to_string(&item).ok(),
                c => item.push(c),
            }
        }
    }
    while let Some(c) = chars.next_if(|c| *c != ',') {
        item.push(c);
    }
    match item.trim() {
        "" => None,
        t if t.contains(['{', '}', '"']) => None,
        t if t.eq_ignore_ascii_case("null") => Some("null".to_string()),
        "t" | "true" => Some("true".to_string()),
        "f" | "false" => Some("false".to_string()),
        t if serde_json::from_str::<serde_json::Number>(t).is_ok() => Some(t.to_string()),
        t => serde_json::to_string(t).ok(),
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::datatypes::{Date32Type, TimestampMicrosecondType};
    use datafusion::arrow::util::display::array_value_to_string;

    use super::*;

    fn read(value: &str, sql_type: &SqlType) -> String {
        match parse_one(value, sql_type) {
            Ok(array) => array_value_to_string(&array, 0).unwrap(),
            Err(error) => format!("{error:?}"),
        }
    }

    #[test]
    fn times_without_end() {
        for (text, micros, days) in [("infinity", i64::MAX, i32::MAX), (" -Infinity", i64::MIN, i32::MIN)] {
            let read = |sql_type| parse_one(text, &sql_type).unwrap();
            assert_eq!(read(SqlType::Timestamp).as_primitive::<TimestampMicrosecondType>().value(0), micros);
            assert_eq!(read(SqlType::TimestampTz).as_primitive::<TimestampMicrosecondType>().value(0), micros);
            assert_eq!(read(SqlType::Date).as_primitive::<Date32Type>().value(0), days);
            assert!(parse_one(text, &SqlType::Time).is_err());
        }
    }

    #[test]
    fn postgres_spellings_are_understood() {
        let u = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9";
        for (value, sql_type, expected) in [
            ("42", SqlType::Integer, "42"),
            (" 42 ", SqlType::Integer, "42"),
            ("t", SqlType::Boolean, "true"),
            ("off", SqlType::Boolean, "false"),
            ("1.5e3", SqlType::Double, "1500.0"),
            ("12.345", SqlType::Numeric(Some((10, 2))), "12.35"),
            ("2024-02-29", SqlType::Date, "2024-02-29"),
            ("23:59:59.5", SqlType::Time, "23:59:59.500"),
            ("2024-01-02 03:04:05", SqlType::Timestamp, "2024-01-02T03:04:05"),
            ("2024-01-02T03:04:05.678Z", SqlType::Timestamp, "2024-01-02T03:04:05.678"),
            ("2024-01-02 03:04:05+01", SqlType::TimestampTz, "2024-01-02T02:04:05Z"),
            ("2024-01-02", SqlType::Timestamp, "2024-01-02T00:00:00"),
            ("2024-01-02 03:04", SqlType::Timestamp, "2024-01-02T03:04:00"),
            ("2024-01-02T03:04Z", SqlType::TimestampTz, "2024-01-02T03:04:00Z"),
            ("2024-01-02 03:04:05.123456+05:30", SqlType::TimestampTz, "2024-01-01T21:34:05.123456Z"),
            ("2024-01-02 03:04:05 -0800", SqlType::TimestampTz, "2024-01-02T11:04:05Z"),
            ("03:04", SqlType::Time, "03:04:00"),
            ("1 day 02:03:04", SqlType::Interval, "1 days 2 hours 3 mins 4.000000000 secs"),
            ("-00:30", SqlType::Interval, "-30 mins"),
            ("NaN", SqlType::Double, "NaN"),
            ("Infinity", SqlType::Real, "inf"),
            ("2024-01-02 03:04:05", SqlType::TimestampTz, "2024-01-02T03:04:05Z"),
            ("{0A1B2C3D4E5F60718293A4B5C6D7E8F9}", SqlType::Uuid, u),
            (u, SqlType::Uuid, u),
            ("{\"a\": [1, 2]}", SqlType::Jsonb, "{\"a\": [1, 2]}"),
            ("\\x00ff", SqlType::Bytea, "00ff"),
            ("ab", SqlType::Char(4), "ab  "),
            ("ab  ", SqlType::Varchar(Some(2)), "ab"),
            ("{1,2,NULL}", SqlType::Array(Box::new(SqlType::Integer)), "[1, 2, ]"),
            ("{a b,\"c,d\"}", SqlType::Array(Box::new(SqlType::Text)), "[a b, c,d]"),
            ("[1, 2]", SqlType::Array(Box::new(SqlType::Integer)), "[1, 2]"),
            ("{}", SqlType::Array(Box::new(SqlType::Integer)), "[]"),
            ("{\"a\": 1}", SqlType::Struct(vec![("a".into(), SqlType::Integer)]), "{a: 1}"),
        ] {
            assert_eq!(read(value, &sql_type), expected, "{value} as {sql_type}");
        }
    }

    #[test]
    fn what_is_not_of_the_type_is_refused() {
        for (value, sql_type, code) in [
            ("4x", SqlType::Integer, "22P02"),
            ("", SqlType::Integer, "22P02"),
            ("99999", SqlType::SmallInt, "22P02"),
            ("maybe", SqlType::Boolean, "22P02"),
            ("2024-02-30", SqlType::Date, "22007"),
            ("yesterdayish", SqlType::Timestamp, "22007"),
            ("0a1b", SqlType::Uuid, "22P02"),
            ("{\"a\":", SqlType::Json, "22P02"),
            ("\\x0", SqlType::Bytea, "22P02"),
            ("abc", SqlType::Varchar(Some(2)), "22001"),
            ("{1,x}", SqlType::Array(Box::new(SqlType::Integer)), "22P02"),
        ] {
            let error = parse_one(value, &sql_type).expect_err(&format!("{value} as {sql_type}"));
            assert_eq!(error.code(), code, "{value} as {sql_type}: {error:?}");
        }
    }
}
