//! Casts to the types that Arrow has not: what the planner puts where SQL says `::uuid`, `::jsonb`, `::varchar(3)`, `::numeric`,
//! and where a value is assigned to a column of such a type.
//!
//! Each returns a field that carries the SQL type ([`SqlType::to_field`]).

use std::borrow::Cow;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, Decimal128Array, StringArray};
use datafusion::arrow::compute::{CastOptions, cast_with_options};
use datafusion::arrow::datatypes::{DataType, Decimal128Type, Field, FieldRef};
use datafusion::common::ScalarValue;
use datafusion::error::Result as DfResult;
use datafusion::logical_expr::sort_properties::{ExprProperties, SortProperties};
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use tidemark_common::types::{NUMERIC_PRECISION, NUMERIC_SCALE, SqlType};
use tidemark_common::{Error, Result, SqlState};

use super::clock::Clock;
use super::declare::no_such_function;
use super::value::rescale;
use super::{json, output};

pub const TO_UUID: &str = "tidemark_to_uuid";
pub const TO_JSON: &str = "tidemark_to_json";
pub const TO_JSONB: &str = "tidemark_to_jsonb";
/// `(x, n)`: an explicit cast, which cuts.
pub const TO_VARCHAR: &str = "tidemark_to_varchar";
/// `(x, n)`: an assignment, which refuses what is too long unless only blanks go.
pub const ASSIGN_VARCHAR: &str = "tidemark_assign_varchar";
pub const TO_CHAR: &str = "tidemark_to_char";
pub const ASSIGN_CHAR: &str = "tidemark_assign_char";
pub const TO_NUMERIC: &str = "tidemark_to_numeric";

pub(super) fn functions() -> Vec<ScalarUDF> {
    use Cast::*;
    [Uuid, Json, Jsonb, Varchar, AssignVarchar, Char, AssignChar, Numeric]
        .into_iter()
        .map(|cast| {
            ScalarUDF::new_from_impl(CastFunction { cast, signature: Signature::user_defined(Volatility::Immutable) })
        })
        .collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Cast {
    Uuid,
    Json,
    Jsonb,
    Varchar,
    AssignVarchar,
    Char,
    AssignChar,
    Numeric,
}

impl Cast {
    fn name(self) -> &'static str {
        match self {
            Cast::Uuid => TO_UUID,
            Cast::Json => TO_JSON,
            Cast::Jsonb => TO_JSONB,
            Cast::Varchar => TO_VARCHAR,
            Cast::AssignVarchar => ASSIGN_VARCHAR,
            Cast::Char => TO_CHAR,
            Cast::AssignChar => ASSIGN_CHAR,
            Cast::Numeric => TO_NUMERIC,
        }
    }

    fn has_length(self) -> bool {
        matches!(self, Cast::Varchar | Cast::AssignVarchar | Cast::Char | Cast::AssignChar)
    }

    fn sql_type(self, length: Option<i64>) -> Result<SqlType> {
        let length = || -> Result<u32> {
            let length = length.ok_or_else(|| Error::internal(format!("{} needs a constant length", self.name())))?;
            u32::try_from(length)
                .ok()
                .filter(|n| *n > 0)
                .ok_or_else(|| Error::invalid(format!("length for type {} must be at least 1", self.type_name())))
        };
        Ok(match self {
            Cast::Uuid => SqlType::Uuid,
            Cast::Json => SqlType::Json,
            Cast::Jsonb => SqlType::Jsonb,
            Cast::Varchar | Cast::AssignVarchar => SqlType::Varchar(Some(length()?)),
            Cast::Char | Cast::AssignChar => SqlType::Char(length()?),
            Cast::Numeric => SqlType::Numeric(None),
        })
    }

    fn type_name(self) -> &'static str {
        if matches!(self, Cast::Char | Cast::AssignChar) { "character" } else { "character varying" }
    }

    fn apply<'a>(self, text: &'a str, length: usize) -> Result<Cow<'a, str>> {
        match self {
            Cast::Uuid => uuid(text),
            Cast::Json => json::check(text).map(|()| Cow::Borrowed(text)),
            Cast::Jsonb => json::to_jsonb(text).map(Cow::Owned),
            Cast::Varchar => Ok(Cow::Borrowed(cut(text, length))),
            Cast::AssignVarchar => self.fit(text, length).map(Cow::Borrowed),
            Cast::Char => Ok(pad(cut(text, length), length)),
            Cast::AssignChar => Ok(pad(self.fit(text, length)?, length)),
            Cast::Numeric => Err(Error::internal("numeric is no text")),
        }
    }

    fn fit(self, text: &str, length: usize) -> Result<&str> {
        let kept = cut(text, length);
        if text[kept.len()..].bytes().all(|b| b == b' ') {
            return Ok(kept);
        }
        let message = format!("value too long for type {}({length})", self.type_name());
        Err(Error::new(SqlState::StringDataRightTruncation, message))
    }
}

/// The first `length` characters.
fn cut(text: &str, length: usize) -> &str {
    // So many bytes are at most so many characters.
    if text.len() <= length {
        return text;
    }
    text.char_indices().nth(length).map_or(text, |(at, _)| &text[..at])
}

fn pad(text: &str, length: usize) -> Cow<'_, str> {
    let missing = length.saturating_sub(text.chars().count());
    if missing == 0 { Cow::Borrowed(text) } else { Cow::Owned(format!("{text}{}", " ".repeat(missing))) }
}

/// Postgres takes any case, braces around, and a dash after any group of four digits.
pub(super) fn uuid(text: &str) -> Result<Cow<'_, str>> {
    let invalid =
        || Error::new(SqlState::InvalidTextRepresentation, format!("invalid input syntax for type uuid: \"{text}\""));
    if is_canonical_uuid(text) {
        return Ok(Cow::Borrowed(text));
    }
    let body = match (text.strip_prefix('{'), text.ends_with('}')) {
        (Some(rest), true) => &rest[..rest.len() - 1],
        (None, false) => text,
        _ => return Err(invalid()),
    };
    let mut digits = String::with_capacity(36);
    let mut count = 0;
    let mut dash_allowed = false;
    for c in body.chars() {
        if c == '-' && dash_allowed {
            dash_allowed = false;
        } else if c.is_ascii_hexdigit() && count < 32 {
            if matches!(count, 8 | 12 | 16 | 20) {
                digits.push('-');
            }
            digits.push(c.to_ascii_lowercase());
            count += 1;
            dash_allowed = count % 4 == 0 && count < 32;
        } else {
            return Err(invalid());
        }
    }
    if count == 32 { Ok(Cow::Owned(digits)) } else { Err(invalid()) }
}

fn is_canonical_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(i, b)| match i {
            8 | 13 | 18 | 23 => b == b'-',
            _ => b.is_ascii_digit() || (b'a'..=b'f').contains(&b),
        })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct CastFunction {
    cast: Cast,
    signature: Signature,
}

impl ScalarUDFImpl for CastFunction {
    fn name(&self) -> &str {
        self.cast.name()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> DfResult<Vec<DataType>> {
        let text = |t: &DataType| if t.is_string() || t.is_null() { DataType::Utf8 } else { t.clone() };
        match types {
            [value] if !self.cast.has_length() => Ok(vec![text(value)]),
            [value, length] if self.cast.has_length() && length.is_integer() => Ok(vec![text(value), DataType::Int64]),
            _ => Err(no_such_function(self.name(), types).into()),
        }
    }

    fn return_type(&self, _: &[DataType]) -> DfResult<DataType> {
        Ok(if self.cast == Cast::Numeric { SqlType::Numeric(None).data_type() } else { DataType::Utf8 })
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> DfResult<FieldRef> {
        let length = match args.scalar_arguments.get(1) {
            Some(Some(ScalarValue::Int64(length))) => *length,
            _ => None,
        };
        let nullable = args.arg_fields.first().is_none_or(|f| f.is_nullable());
        Ok(self.cast.sql_type(length)?.to_field_ref(self.name(), nullable))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let length = match args.args.get(1) {
            Some(ColumnarValue::Scalar(ScalarValue::Int64(Some(length)))) => usize::try_from(*length).unwrap_or(0),
            _ => 0,
        };
        let (array, once) = match &args.args[0] {
            ColumnarValue::Array(array) => (Arc::clone(array), false),
            ColumnarValue::Scalar(value) => (value.to_array()?, true),
        };
        let out = if self.cast == Cast::Numeric {
            to_numeric(&array, &args.arg_fields[0])?
        } else {
            self.cast_text(&array, &args.arg_fields[0], length, &Clock::of(&args.config_options)?)?
        };
        if once {
            Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&out, 0)?))
        } else {
            Ok(ColumnarValue::Array(out))
        }
    }

    fn output_ordering(&self, inputs: &[ExprProperties]) -> DfResult<SortProperties> {
        let number = |p: &ExprProperties| p.range.data_type().is_numeric();
        match inputs.first() {
            Some(value) if self.cast == Cast::Numeric && number(value) => Ok(value.sort_properties),
            _ => Ok(SortProperties::Unordered),
        }
    }
}

impl CastFunction {
    fn cast_text(&self, array: &ArrayRef, field: &Field, length: usize, clock: &Clock) -> Result<ArrayRef> {
        if let Some(texts) = array.as_string_opt::<i32>() {
            let cast = texts.iter().map(|text| text.map(|t| self.cast.apply(t, length)).transpose());
            return Ok(Arc::new(cast.collect::<Result<StringArray>>()?));
        }
        let sql_type = SqlType::from_field(field);
        let casts = (0..array.len()).map(|row| {
            let text = output::text_of(array, row, &sql_type, clock)?;
            text.map(|t| Ok(self.cast.apply(&t, length)?.into_owned())).transpose()
        });
        Ok(Arc::new(casts.collect::<Result<StringArray>>()?))
    }
}

fn out_of_range(text: &str) -> Error {
    Error::new(SqlState::NumericValueOutOfRange, format!("value \"{text}\" does not fit type numeric"))
        .with_detail(format!(
            "A numeric without precision keeps {} digits before the point and {NUMERIC_SCALE} after it.",
            i16::from(NUMERIC_PRECISION) - i16::from(NUMERIC_SCALE)
        ))
        .with_hint("Give a precision and scale, as in numeric(38,18), or use double precision.")
}

/// Text must fit exactly; a number that was computed is rounded to the scale.
fn to_numeric(array: &ArrayRef, field: &Field) -> Result<ArrayRef> {
    let sql_type = SqlType::from_field(field);
    if matches!(array.data_type(), DataType::Decimal256(..)) {
        let options = CastOptions { safe: false, ..CastOptions::default() };
        return Ok(cast_with_options(array, &SqlType::Numeric(None).data_type(), &options)?);
    }
    let decimal = array.as_primitive_opt::<Decimal128Type>();
    let digits = (0..array.len()).map(|row| {
        if array.is_null(row) {
            return Ok(None);
        }
        if let (Some(decimals), DataType::Decimal128(_, scale)) = (decimal, array.data_type()) {
            return rescale(decimals.value(row), *scale, NUMERIC_SCALE).map(Some);
        }
        let Some(text) = output::text_of(array, row, &sql_type, &Clock::UTC)? else { return Ok(None) };
        let exact = array.data_type().is_string();
        numeric_of_text(&text, exact).map(Some)
    });
    let array: Decimal128Array = digits.collect::<Result<_>>()?;
    Ok(Arc::new(array.with_precision_and_scale(NUMERIC_PRECISION, NUMERIC_SCALE)?))
}

pub(super) fn numeric_of_text(text: &str, exact: bool) -> Result<i128> {
    let invalid = || {
        Error::new(SqlState::InvalidTextRepresentation, format!("invalid input syntax for type numeric: \"{text}\""))
    };
    let trimmed = text.trim();
    if ["nan", "inf", "infinity"].contains(&trimmed.trim_start_matches(['-', '+']).to_lowercase().as_str()) {
        return Err(out_of_range(text));
    }
    let (mantissa, exponent) = match trimmed.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().map_err(|_| invalid())?),
        None => (trimmed, 0),
    };
    let (sign, mantissa) = match mantissa.as_bytes().first() {
        Some(b'-') => (-1, &mantissa[1..]),
        Some(b'+') => (1, &mantissa[1..]),
        _ => (1, mantissa),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(invalid());
    }
    let fraction_digits = fraction.len() as i64 - i64::from(exponent);
    let significant = digits.trim_start_matches('0').trim_end_matches('0');
    let scale = fraction_digits - (digits.len() - digits.trim_end_matches('0').len()) as i64;
    if significant.is_empty() {
        return Ok(0);
    }
    if exact && scale > i64::from(NUMERIC_SCALE) {
        return Err(out_of_range(text));
    }
    if significant.len() > 38 || scale < -38 {
        return Err(out_of_range(text));
    }
    let value: i128 = significant.parse().map_err(|_| out_of_range(text))?;
    let Ok(scale) = i8::try_from(scale) else { return Ok(0) };
    rescale(sign * value, scale, NUMERIC_SCALE).map_err(|_| out_of_range(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_in_every_spelling() {
        let canonical = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";
        for text in [
            canonical,
            "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11",
            "{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}",
            "a0eebc999c0b4ef8bb6d6bb9bd380a11",
            "a0ee-bc99-9c0b-4ef8-bb6d-6bb9-bd38-0a11",
        ] {
            assert_eq!(uuid(text).unwrap(), canonical);
        }
        for text in [
            "",
            "{",
            "{}",
            "a0eebc99",
            "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}",
            "a0e-ebc999c0b4ef8bb6d6bb9bd380a11",
            "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11-",
            "a0eebc999c0b4ef8bb6d6bb9bd380a1é",
        ] {
            assert_eq!(uuid(text).unwrap_err().state(), SqlState::InvalidTextRepresentation, "{text}");
        }
    }

    #[test]
    fn lengths_count_characters() {
        assert_eq!(Cast::Varchar.apply("héllo", 2).unwrap(), "hé");
        assert_eq!(Cast::AssignVarchar.apply("hé   ", 2).unwrap(), "hé");
        assert_eq!(Cast::AssignChar.apply("é", 3).unwrap(), "é  ");
        let error = Cast::AssignVarchar.apply("abc", 2).unwrap_err();
        assert_eq!((error.code(), error.message()), ("22001", "value too long for type character varying(2)"));
    }

    #[test]
    fn numeric_text_is_exact_or_refused() {
        let ten = 10i128.pow(10);
        assert_eq!(numeric_of_text("1.5", true).unwrap(), 15 * ten / 10);
        assert_eq!(numeric_of_text(" -1e3 ", true).unwrap(), -1000 * ten);
        assert_eq!(numeric_of_text("0.10000000000000", true).unwrap(), ten / 10);
        assert_eq!(numeric_of_text(".5", true).unwrap(), ten / 2);
        assert_eq!(numeric_of_text("0.33333333333", false).unwrap(), 3_333_333_333);
        for (text, state) in [
            ("0.12345678901", SqlState::NumericValueOutOfRange),
            ("1e28", SqlState::NumericValueOutOfRange),
            ("NaN", SqlState::NumericValueOutOfRange),
            ("1.2.3", SqlState::InvalidTextRepresentation),
            ("", SqlState::InvalidTextRepresentation),
            ("é", SqlState::InvalidTextRepresentation),
        ] {
            assert_eq!(numeric_of_text(text, true).unwrap_err().state(), state, "{text}");
        }
    }
}
