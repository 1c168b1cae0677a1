//! The values of a column that is not nested.

use std::fmt::Display;
use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, AsArray, BinaryArray, BooleanArray, BooleanBufferBuilder, Decimal128Array, Decimal256Array,
    PrimitiveArray, StringArray,
};
use datafusion::arrow::buffer::{NullBuffer, OffsetBuffer};
use datafusion::arrow::datatypes::{
    ArrowPrimitiveType, DataType, Date32Type, Decimal128Type, Decimal256Type, Float32Type, Float64Type, Int16Type,
    Int32Type, Int64Type, IntervalMonthDayNano, IntervalMonthDayNanoType, Time64MicrosecondType,
    TimestampMicrosecondType, i256,
};
use tidemark_common::types::SqlType;
use tidemark_common::values::canonical_json;
use tidemark_common::{Error, Result, SqlState};

use super::Scalar;
use crate::formats::text;

#[derive(Debug)]
pub(super) enum Values {
    Bool(BooleanBufferBuilder),
    Int16(Vec<i16>),
    Int32(Vec<i32>),
    Int64(Vec<i64>),
    Float32(Vec<f32>),
    Float64(Vec<f64>),
    Decimal128(Vec<i128>, Fixed),
    Decimal256(Vec<i256>, Fixed),
    Interval(Vec<IntervalMonthDayNano>),
    /// Ends, and all bytes one after the other.
    Bytes(Vec<i32>, Vec<u8>),
}

/// How many digits a numeric has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fixed {
    scale: i8,
    /// The first number that has too many.
    limit: i256,
}

impl Fixed {
    fn new(precision: u8, scale: i8) -> Self {
        let limit = i256::from_i128(10).checked_pow(u32::from(precision)).unwrap_or(i256::MAX);
        Self { scale, limit }
    }

    /// The number at our scale, rounded as PostgreSQL does.
    fn fit(self, value: i256, scale: i8) -> Option<i256> {
        let ten = i256::from_i128(10);
        let steps = i16::from(self.scale) - i16::from(scale);
        let factor = ten.checked_pow(u32::from(steps.unsigned_abs()));
        let scaled = match (steps, factor) {
            (0, _) => value,
            (1.., Some(factor)) => value.checked_mul(factor)?,
            (1.., None) if value == i256::ZERO => value,
            (1.., None) => return None,
            (_, None) => i256::ZERO,
            (_, Some(factor)) => {
                let (whole, rest) = (value.checked_div(factor)?, value.checked_rem(factor)?);
                let rounds = rest.checked_abs()? >= factor.checked_div(i256::from_i128(2))?;
                let away = if value.is_negative() { i256::MINUS_ONE } else { i256::ONE };
                if rounds { whole.checked_add(away)? } else { whole }
            }
        };
        scaled.checked_abs().filter(|size| *size < self.limit).map(|_| scaled)
    }
}

impl Values {
    pub fn new(sql_type: &SqlType) -> Result<Self> {
        Ok(match sql_type.data_type() {
            DataType::Boolean => Values::Bool(BooleanBufferBuilder::new(0)),
            DataType::Int16 => Values::Int16(Vec::new()),
            DataType::Int32 | DataType::Date32 => Values::Int32(Vec::new()),
            DataType::Int64 | DataType::Time64(_) | DataType::Timestamp(..) => Values::Int64(Vec::new()),
            DataType::Float32 => Values::Float32(Vec::new()),
            DataType::Float64 => Values::Float64(Vec::new()),
            DataType::Decimal128(precision, scale) => Values::Decimal128(Vec::new(), Fixed::new(precision, scale)),
            DataType::Decimal256(precision, scale) => Values::Decimal256(Vec::new(), Fixed::new(precision, scale)),
            DataType::Interval(_) => Values::Interval(Vec::new()),
            DataType::Utf8 | DataType::Binary => Values::Bytes(vec![0], Vec::new()),
            _ => return Err(Error::unsupported(format!("records have no values of type {sql_type}"))),
        })
    }

    pub fn append(&mut self, value: Scalar<'_>, sql_type: &SqlType) -> Result<()> {
        match (self, value) {
            (Values::Bytes(ends, bytes), value) => append_bytes(ends, bytes, value, sql_type)?,
            (this, Scalar::Text(value)) => this.append_text(value, sql_type)?,
            (Values::Bool(values), Scalar::Bool(value)) => values.append(value),
            (Values::Int16(values), Scalar::Int(value)) => values.push(narrow(value, sql_type)?),
            (Values::Int32(values), Scalar::Int(value)) => values.push(narrow(value, sql_type)?),
            (Values::Int64(values), Scalar::Int(value)) => values.push(value),
            (Values::Int16(values), Scalar::Unsigned(value)) => values.push(narrow(value, sql_type)?),
            (Values::Int32(values), Scalar::Unsigned(value)) => values.push(narrow(value, sql_type)?),
            (Values::Int64(values), Scalar::Unsigned(value)) => values.push(narrow(value, sql_type)?),
            (Values::Float32(values), Scalar::Int(value)) => values.push(value as f32),
            (Values::Float32(values), Scalar::Unsigned(value)) => values.push(value as f32),
            (Values::Float32(values), Scalar::Float(value)) => values.push(value),
            (Values::Float32(values), Scalar::Double(value)) => values.push(single(value, sql_type)?),
            (Values::Float64(values), Scalar::Int(value)) => values.push(value as f64),
            (Values::Float64(values), Scalar::Unsigned(value)) => values.push(value as f64),
            (Values::Float64(values), Scalar::Float(value)) => values.push(f64::from(value)),
            (Values::Float64(values), Scalar::Double(value)) => values.push(value),
            (Values::Decimal128(values, fixed), value) => {
                let fitted = number(value, sql_type)?.and_then(|(value, scale)| fixed.fit(value, scale));
                values.push(fitted.and_then(i256::to_i128).ok_or_else(|| sql_type.out_of_range())?);
            }
            (Values::Decimal256(values, fixed), value) => {
                let fitted = number(value, sql_type)?.and_then(|(value, scale)| fixed.fit(value, scale));
                values.push(fitted.ok_or_else(|| sql_type.out_of_range())?);
            }
            (Values::Int32(values), Scalar::Days(value)) => values.push(value),
            (Values::Int64(values), Scalar::Time(value)) => values.push(of_day(value, sql_type)?),
            (Values::Int64(values), Scalar::Timestamp(value)) => values.push(value),
            (Values::Interval(values), Scalar::Interval(value)) => values.push(value),
            (_, value) => return Err(unfit(value, sql_type)),
        }
        Ok(())
    }

    /// What a text says, as it would in JSON.
    fn append_text(&mut self, value: &str, sql_type: &SqlType) -> Result<()> {
        let read = || text::parse_one(value, sql_type).map_err(|_| text::syntax(sql_type, value));
        match (self, sql_type) {
            (Values::Int32(values), SqlType::Date) => values.push(read()?.as_primitive::<Date32Type>().value(0)),
            (Values::Int64(values), SqlType::Time) => {
                values.push(read()?.as_primitive::<Time64MicrosecondType>().value(0));
            }
            (Values::Int64(values), SqlType::Timestamp | SqlType::TimestampTz) => {
                values.push(read()?.as_primitive::<TimestampMicrosecondType>().value(0));
            }
            (Values::Interval(values), _) => values.push(read()?.as_primitive::<IntervalMonthDayNanoType>().value(0)),
            (Values::Decimal128(values, _), _) => values.push(read()?.as_primitive::<Decimal128Type>().value(0)),
            (Values::Decimal256(values, _), _) => values.push(read()?.as_primitive::<Decimal256Type>().value(0)),
            _ => return Err(unfit(Scalar::Text(value), sql_type)),
        }
        Ok(())
    }

    /// Something in the place of a NULL.
    pub fn append_nothing(&mut self) {
        match self {
            Values::Bool(values) => values.append(false),
            Values::Int16(values) => values.push(0),
            Values::Int32(values) => values.push(0),
            Values::Int64(values) => values.push(0),
            Values::Float32(values) => values.push(0.0),
            Values::Float64(values) => values.push(0.0),
            Values::Decimal128(values, _) => values.push(0),
            Values::Decimal256(values, _) => values.push(i256::ZERO),
            Values::Interval(values) => values.push(IntervalMonthDayNano::ZERO),
            Values::Bytes(ends, _) => ends.push(ends[ends.len() - 1]),
        }
    }

    pub fn truncate(&mut self, rows: usize) {
        match self {
            Values::Bool(values) => values.truncate(rows),
            Values::Int16(values) => values.truncate(rows),
            Values::Int32(values) => values.truncate(rows),
            Values::Int64(values) => values.truncate(rows),
            Values::Float32(values) => values.truncate(rows),
            Values::Float64(values) => values.truncate(rows),
            Values::Decimal128(values, _) => values.truncate(rows),
            Values::Decimal256(values, _) => values.truncate(rows),
            Values::Interval(values) => values.truncate(rows),
            Values::Bytes(ends, bytes) => {
                ends.truncate(rows + 1);
                bytes.truncate(ends[rows] as usize);
            }
        }
    }

    pub fn finish(self, nulls: Option<NullBuffer>, sql_type: &SqlType) -> Result<ArrayRef> {
        fn primitive<T: ArrowPrimitiveType>(values: Vec<T::Native>, nulls: Option<NullBuffer>) -> PrimitiveArray<T> {
            PrimitiveArray::new(values.into(), nulls)
        }
        let data_type = sql_type.data_type();
        Ok(match (self, &data_type) {
            (Values::Bool(mut values), _) => Arc::new(BooleanArray::new(values.finish(), nulls)),
            (Values::Int16(values), _) => Arc::new(primitive::<Int16Type>(values, nulls)),
            (Values::Int32(values), DataType::Date32) => Arc::new(primitive::<Date32Type>(values, nulls)),
            (Values::Int32(values), _) => Arc::new(primitive::<Int32Type>(values, nulls)),
            (Values::Int64(values), DataType::Time64(_)) => Arc::new(primitive::<Time64MicrosecondType>(values, nulls)),
            (Values::Int64(values), DataType::Timestamp(_, zone)) => {
                Arc::new(primitive::<TimestampMicrosecondType>(values, nulls).with_timezone_opt(zone.clone()))
            }
            (Values::Int64(values), _) => Arc::new(primitive::<Int64Type>(values, nulls)),
            (Values::Float32(values), _) => Arc::new(primitive::<Float32Type>(values, nulls)),
            (Values::Float64(values), _) => Arc::new(primitive::<Float64Type>(values, nulls)),
            (Values::Decimal128(values, _), _) => {
                Arc::new(Decimal128Array::new(values.into(), nulls).with_data_type(data_type))
            }
            (Values::Decimal256(values, _), _) => {
                Arc::new(Decimal256Array::new(values.into(), nulls).with_data_type(data_type))
            }
            (Values::Interval(values), _) => Arc::new(primitive::<IntervalMonthDayNanoType>(values, nulls)),
            (Values::Bytes(ends, bytes), DataType::Utf8) => {
                Arc::new(StringArray::try_new(OffsetBuffer::new(ends.into()), bytes.into(), nulls)?)
            }
            (Values::Bytes(ends, bytes), _) => {
                Arc::new(BinaryArray::try_new(OffsetBuffer::new(ends.into()), bytes.into(), nulls)?)
            }
        })
    }
}

fn narrow<N: TryInto<T> + Copy + Display, T>(value: N, sql_type: &SqlType) -> Result<T> {
    value.try_into().map_err(|_| {
        Error::new(SqlState::NumericValueOutOfRange, format!("{value} is out of range for type {sql_type}"))
    })
}

fn single(value: f64, sql_type: &SqlType) -> Result<f32> {
    let narrowed = value as f32;
    match narrowed.is_infinite() && value.is_finite() {
        true => {
            Err(Error::new(SqlState::NumericValueOutOfRange, format!("{value} is out of range for type {sql_type}")))
        }
        false => Ok(narrowed),
    }
}

/// A whole number or a decimal without its point; `None` if it is too large for any.
fn number(value: Scalar<'_>, sql_type: &SqlType) -> Result<Option<(i256, i8)>> {
    Ok(Some(match value {
        Scalar::Int(value) => (i256::from_i128(i128::from(value)), 0),
        Scalar::Unsigned(value) => (i256::from_i128(i128::from(value)), 0),
        Scalar::Decimal(value, scale) => (value, scale),
        other => return Err(unfit(other, sql_type)),
    }))
}

fn of_day(micros: i64, sql_type: &SqlType) -> Result<i64> {
    const DAY: i64 = 86_400_000_000;
    match (0..=DAY).contains(&micros) {
        true => Ok(micros),
        false => Err(Error::new(
            SqlState::DatetimeFieldOverflow,
            format!("{micros} microseconds are out of range for type {sql_type}"),
        )),
    }
}

fn append_bytes(ends: &mut Vec<i32>, bytes: &mut Vec<u8>, value: Scalar<'_>, sql_type: &SqlType) -> Result<()> {
    let mut push = |part: &[u8]| {
        ends.push(super::offset(bytes.len() + part.len())?);
        bytes.extend_from_slice(part);
        Ok(())
    };
    match (value, sql_type) {
        (Scalar::Text(value), SqlType::Varchar(Some(n))) => push(text::fit(value, *n, false)?.as_bytes()),
        (Scalar::Text(value), SqlType::Char(n)) => push(text::fit(value, *n, true)?.as_bytes()),
        (Scalar::Text(value), SqlType::Uuid) => {
            let canonical = text::canonical_uuid(value).ok_or_else(|| text::syntax(sql_type, value))?;
            push(canonical.as_bytes())
        }
        (Scalar::Text(value), SqlType::Jsonb) => push(canonical_json(value)?.as_bytes()),
        (Scalar::Text(value), SqlType::Json) => {
            text::check_json(value, sql_type)?;
            push(value.as_bytes())
        }
        (Scalar::Text(value), _) => push(value.as_bytes()),
        (Scalar::Bytes(value), SqlType::Bytea) => push(value),
        (Scalar::Bytes(value), SqlType::Text) => {
            push(std::str::from_utf8(value).map_err(|_| text::not_utf8())?.as_bytes())
        }
        (Scalar::Uuid(value), SqlType::Varchar(Some(_)) | SqlType::Char(_)) => {
            let written = text::hyphenated(&text::hex(&value));
            append_bytes(ends, bytes, Scalar::Text(&written), sql_type)
        }
        (Scalar::Uuid(value), SqlType::Uuid | SqlType::Text | SqlType::Varchar(None) | SqlType::Name) => {
            push(text::hyphenated(&text::hex(&value)).as_bytes())
        }
        (other, _) => Err(unfit(other, sql_type)),
    }
}

fn unfit(value: Scalar<'_>, sql_type: &SqlType) -> Error {
    Error::new(SqlState::DatatypeMismatch, format!("{value:?} is no value of type {sql_type}"))
}
