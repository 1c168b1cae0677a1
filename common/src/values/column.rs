//! A batch's column, ready to be written value by value.

use std::sync::Arc;

use crate::types::{RATIO, SqlType};
use crate::{Error, Oid, Result};
use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Decimal256Array, Float32Array,
    Float64Array, Int16Array, Int32Array, Int64Array, IntervalMonthDayNanoArray, ListArray, MapArray, StringArray,
    Time64MicrosecondArray, TimestampMicrosecondArray,
};
use datafusion::arrow::buffer::NullBuffer;
use datafusion::arrow::compute::{CastOptions, cast_with_options};
use datafusion::arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Decimal256Type, Field, Float32Type, Float64Type, Int16Type, Int32Type,
    Int64Type, IntervalMonthDayNanoType, Time64MicrosecondType, TimestampMicrosecondType,
};
use datafusion::arrow::util::display::array_value_to_string;

/// An array in the Arrow type of its SQL type, taken apart for fast access.
#[derive(Debug)]
pub struct Column {
    nulls: Option<NullBuffer>,
    pub(super) data: Data,
}

/// How a decimal is shown.
#[derive(Debug, Clone, Copy)]
pub(super) struct DecimalForm {
    pub scale: i8,
    pub zeros: Zeros,
}

/// Which zeros at the end of a decimal are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Zeros {
    /// All that the scale has.
    All,
    /// Unconstrained numeric: none.
    None,
    /// A quotient's: as many as PostgreSQL shows.
    OfRatio,
}

#[derive(Debug)]
pub(super) enum Data {
    Boolean(BooleanArray),
    Int16(Int16Array),
    Int32(Int32Array),
    Int64(Int64Array),
    Oid(Int32Array),
    Float32(Float32Array),
    Float64(Float64Array),
    Decimal128(Decimal128Array, DecimalForm),
    Decimal256(Decimal256Array, DecimalForm),
    Text(StringArray),
    Uuid(StringArray),
    Json(StringArray),
    Jsonb(StringArray),
    Bytea(BinaryArray),
    Date(Date32Array),
    Time(Time64MicrosecondArray),
    Timestamp(TimestampMicrosecondArray),
    TimestampTz(TimestampMicrosecondArray),
    Interval(IntervalMonthDayNanoArray),
    List { array: ListArray, items: Box<Column>, item_oid: Oid },
    Struct { names: Vec<String>, columns: Vec<(Column, Oid)> },
    Map { array: MapArray, keys: Box<Column>, values: Box<Column> },
}

impl Column {
    pub fn new(array: &ArrayRef, field: &Field) -> Result<Column> {
        Column::of_type(array, &SqlType::from_field(field))
    }

    /// `array` may be of any Arrow type that casts to the one of `sql_type`.
    pub fn of_type(array: &ArrayRef, sql_type: &SqlType) -> Result<Column> {
        let array = held_as(array, sql_type)?;
        let array = array.as_ref();
        let nulls = array.logical_nulls().filter(|nulls| nulls.null_count() > 0);
        Ok(Column { nulls, data: Data::new(array, sql_type)? })
    }

    #[inline]
    pub fn is_null(&self, row: usize) -> bool {
        self.nulls.as_ref().is_some_and(|nulls| nulls.is_null(row))
    }
}

impl Data {
    fn new(array: &dyn Array, sql_type: &SqlType) -> Result<Data> {
        Ok(match sql_type {
            SqlType::Boolean => Data::Boolean(array.as_boolean().clone()),
            SqlType::SmallInt => Data::Int16(array.as_primitive::<Int16Type>().clone()),
            SqlType::Integer => Data::Int32(array.as_primitive::<Int32Type>().clone()),
            SqlType::BigInt => Data::Int64(array.as_primitive::<Int64Type>().clone()),
            SqlType::Oid => Data::Oid(array.as_primitive::<Int32Type>().clone()),
            SqlType::Real => Data::Float32(array.as_primitive::<Float32Type>().clone()),
            SqlType::Double => Data::Float64(array.as_primitive::<Float64Type>().clone()),
            SqlType::Numeric(None) => Data::decimal(array, Zeros::None)?,
            ratio if *ratio == RATIO => Data::decimal(array, Zeros::OfRatio)?,
            SqlType::Numeric(Some(_)) => Data::decimal(array, Zeros::All)?,
            SqlType::Text | SqlType::Varchar(_) | SqlType::Char(_) | SqlType::Name | SqlType::Other(_) => {
                Data::Text(array.as_string::<i32>().clone())
            }
            SqlType::Uuid => Data::Uuid(array.as_string::<i32>().clone()),
            SqlType::Json => Data::Json(array.as_string::<i32>().clone()),
            SqlType::Jsonb => Data::Jsonb(array.as_string::<i32>().clone()),
            SqlType::Bytea => Data::Bytea(array.as_binary::<i32>().clone()),
            SqlType::Date => Data::Date(array.as_primitive::<Date32Type>().clone()),
            SqlType::Time => Data::Time(array.as_primitive::<Time64MicrosecondType>().clone()),
            SqlType::Timestamp => Data::Timestamp(array.as_primitive::<TimestampMicrosecondType>().clone()),
            SqlType::TimestampTz => Data::TimestampTz(array.as_primitive::<TimestampMicrosecondType>().clone()),
            SqlType::Interval => Data::Interval(array.as_primitive::<IntervalMonthDayNanoType>().clone()),
            SqlType::Array(item) => {
                let list = array.as_list::<i32>();
                let items = Box::new(Column::of_type(list.values(), item)?);
                Data::List { array: list.clone(), items, item_oid: innermost(item).pg_oid() }
            }
            SqlType::Struct(fields) => {
                let mut columns = Vec::with_capacity(fields.len());
                for ((_, t), values) in fields.iter().zip(array.as_struct().columns()) {
                    columns.push((Column::of_type(values, t)?, t.pg_oid()));
                }
                Data::Struct { names: fields.iter().map(|(name, _)| name.clone()).collect(), columns }
            }
            SqlType::Map(key, value) => {
                let map = array.as_map();
                let keys = Box::new(Column::of_type(map.keys(), key)?);
                let values = Box::new(Column::of_type(map.values(), value)?);
                Data::Map { array: map.clone(), keys, values }
            }
        })
    }

    fn decimal(array: &dyn Array, zeros: Zeros) -> Result<Data> {
        match array.data_type() {
            DataType::Decimal128(_, scale) => Ok(Data::Decimal128(
                array.as_primitive::<Decimal128Type>().clone(),
                DecimalForm { scale: *scale, zeros },
            )),
            DataType::Decimal256(_, scale) => Ok(Data::Decimal256(
                array.as_primitive::<Decimal256Type>().clone(),
                DecimalForm { scale: *scale, zeros },
            )),
            other => Err(Error::internal(format!("a numeric column is held as {other}"))),
        }
    }
}

/// The type of the elements, whatever the number of dimensions.
pub(super) fn innermost(sql_type: &SqlType) -> &SqlType {
    match sql_type {
        SqlType::Array(item) => innermost(item),
        other => other,
    }
}

/// The array in the Arrow type of `sql_type`; as text where that type is none of ours.
fn held_as(array: &ArrayRef, sql_type: &SqlType) -> Result<ArrayRef> {
    if let SqlType::Other(_) = sql_type {
        let mut texts = Vec::with_capacity(array.len());
        for row in 0..array.len() {
            texts.push(if array.is_null(row) { None } else { Some(array_value_to_string(array, row)?) });
        }
        return Ok(Arc::new(StringArray::from(texts)));
    }
    let wanted = sql_type.data_type();
    if *array.data_type() == wanted {
        return Ok(Arc::clone(array));
    }
    let options = CastOptions { safe: false, ..CastOptions::default() };
    Ok(cast_with_options(array, &wanted, &options)?)
}
