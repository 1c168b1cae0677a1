//! What one call of a function yields, and the array that a batch of them makes.

use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int32Array, Int64Array,
    Int64Builder, IntervalMonthDayNanoArray, ListBuilder, StringArray, StringBuilder, Time64MicrosecondArray,
    TimestampMicrosecondArray,
};
use datafusion::arrow::datatypes::{DataType, IntervalMonthDayNano};
use tidemark_common::types::{NUMERIC_PRECISION, NUMERIC_SCALE};
use tidemark_common::{Error, Result, SqlState};

use super::declare::Kind;

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Null,
    Bool(bool),
    /// Integers; also days of a date, microseconds of a time or timestamp.
    Int(i64),
    Float(f64),
    /// Digits and scale; brought to the scale of `numeric` when the array is built.
    Numeric(i128, i8),
    Text(String),
    Bytes(Vec<u8>),
    Interval(IntervalMonthDayNano),
    Texts(Vec<Option<String>>),
    Ints(Vec<Option<i64>>),
    TextLists(Vec<Vec<Option<String>>>),
}

macro_rules! from {
    ($($source:ty => $variant:ident),*) => {
        $(impl From<$source> for Value {
            fn from(value: $source) -> Self {
                Value::$variant(value.into())
            }
        })*
    };
}

from!(bool => Bool, i64 => Int, i32 => Int, f64 => Float, String => Text, &str => Text, Vec<u8> => Bytes,
    IntervalMonthDayNano => Interval, Vec<Option<String>> => Texts, Vec<Option<i64>> => Ints);

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Value::Null, Into::into)
    }
}

impl Value {
    /// A length or a position.
    pub(super) fn count(n: usize) -> Self {
        Value::Int(n as i64)
    }
}

/// Picks the values of one variant; another one is a fault in a declaration.
macro_rules! pick {
    ($values:expr, $variant:ident) => {
        $values.into_iter().map(|v| match v {
            Value::Null => Ok(None),
            Value::$variant(x) => Ok(Some(x)),
            other => Err(Error::internal(format!(
                "a function yielded {other:?} where {} was declared",
                stringify!($variant)
            ))),
        })
    };
}

/// The values as an array of `kind`.
pub(super) fn build(kind: Kind, values: Vec<Value>) -> Result<ArrayRef> {
    let ints = |values: Vec<Value>| pick!(values, Int).collect::<Result<Vec<Option<i64>>>>();
    Ok(match kind {
        Kind::Bool => Arc::new(pick!(values, Bool).collect::<Result<BooleanArray>>()?),
        Kind::Int8 => Arc::new(Int64Array::from(ints(values)?)),
        Kind::Int4 => Arc::new(narrow(ints(values)?)?.into_iter().collect::<Int32Array>()),
        Kind::Date => Arc::new(narrow(ints(values)?)?.into_iter().collect::<Date32Array>()),
        Kind::Time => Arc::new(Time64MicrosecondArray::from(ints(values)?)),
        Kind::Timestamp => Arc::new(TimestampMicrosecondArray::from(ints(values)?)),
        Kind::TimestampTz => Arc::new(TimestampMicrosecondArray::from(ints(values)?).with_timezone("UTC")),
        Kind::Float8 => Arc::new(pick!(values, Float).collect::<Result<Float64Array>>()?),
        Kind::Numeric => Arc::new(numerics(values)?),
        Kind::Text
        | Kind::Name
        | Kind::Uuid
        | Kind::Json
        | Kind::Jsonb
        | Kind::SameJson
        | Kind::Any
        | Kind::AnyArray => Arc::new(pick!(values, Text).collect::<Result<StringArray>>()?),
        Kind::Bytea => Arc::new(pick!(values, Bytes).collect::<Result<BinaryArray>>()?),
        Kind::Interval => Arc::new(pick!(values, Interval).collect::<Result<IntervalMonthDayNanoArray>>()?),
        Kind::Texts => text_lists(values)?,
        Kind::Ints => int_lists(values)?,
        Kind::TextLists => lists_of_text_lists(values)?,
    })
}

fn narrow(values: Vec<Option<i64>>) -> Result<Vec<Option<i32>>> {
    let out_of_range = |_| Error::new(SqlState::NumericValueOutOfRange, "integer out of range");
    values.into_iter().map(|v| v.map(|v| i32::try_from(v).map_err(out_of_range)).transpose()).collect()
}

fn numerics(values: Vec<Value>) -> Result<Decimal128Array> {
    let digits = values.into_iter().map(|v| match v {
        Value::Null => Ok(None),
        Value::Numeric(digits, scale) => rescale(digits, scale, NUMERIC_SCALE).map(Some),
        Value::Int(n) => rescale(n.into(), 0, NUMERIC_SCALE).map(Some),
        other => Err(Error::internal(format!("a function yielded {other:?} where a numeric was declared"))),
    });
    let array = digits.collect::<Result<Decimal128Array>>()?;
    Ok(array.with_precision_and_scale(NUMERIC_PRECISION, NUMERIC_SCALE)?)
}

/// `digits` at another scale, rounded half away from zero where digits go.
pub(super) fn rescale(digits: i128, from: i8, to: i8) -> Result<i128> {
    let overflow = || Error::new(SqlState::NumericValueOutOfRange, "value overflows numeric format");
    if to >= from {
        let factor = 10i128.checked_pow((to - from) as u32).ok_or_else(overflow)?;
        let digits = digits.checked_mul(factor).ok_or_else(overflow)?;
        return if digits.unsigned_abs() < 10u128.pow(38) { Ok(digits) } else { Err(overflow()) };
    }
    let Some(divisor) = 10i128.checked_pow((i32::from(from) - i32::from(to)) as u32) else { return Ok(0) };
    let (quotient, rest) = (digits / divisor, digits % divisor);
    let up = rest.unsigned_abs() * 2 >= divisor.unsigned_abs();
    Ok(if up { quotient + digits.signum() } else { quotient })
}

fn list_item(kind: Kind) -> datafusion::arrow::datatypes::FieldRef {
    match kind.sql_type().data_type() {
        DataType::List(item) => item,
        other => unreachable!("{other} is no list"),
    }
}

fn text_lists(values: Vec<Value>) -> Result<ArrayRef> {
    let mut builder = ListBuilder::new(StringBuilder::new()).with_field(list_item(Kind::Texts));
    for value in pick!(values, Texts) {
        builder.append_option(value?);
    }
    Ok(Arc::new(builder.finish()))
}

fn lists_of_text_lists(values: Vec<Value>) -> Result<ArrayRef> {
    let texts = ListBuilder::new(StringBuilder::new()).with_field(list_item(Kind::Texts));
    let mut builder = ListBuilder::new(texts).with_field(list_item(Kind::TextLists));
    for value in pick!(values, TextLists) {
        match value? {
            None => builder.append_null(),
            Some(lists) => {
                for list in lists {
                    builder.values().append_value(list);
                }
                builder.append(true);
            }
        }
    }
    Ok(Arc::new(builder.finish()))
}

fn int_lists(values: Vec<Value>) -> Result<ArrayRef> {
    let mut builder = ListBuilder::new(Int64Builder::new()).with_field(list_item(Kind::Ints));
    for value in pick!(values, Ints) {
        builder.append_option(value?);
    }
    Ok(Arc::new(builder.finish()))
}
