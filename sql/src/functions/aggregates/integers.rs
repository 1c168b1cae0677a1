//! Integers and decimals of any width as 128- or 256-bit integers, and back with a check that they fit.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, BooleanArray, PrimitiveBuilder};
use datafusion::arrow::datatypes::{DataType, Decimal128Type, Decimal256Type, Int32Type, Int64Type, UInt64Type, i256};
use tidemark_common::types::SqlType;
use tidemark_common::{Error, Result};

/// The types of which there are exact sums.
pub fn is_exact(data_type: &DataType) -> bool {
    use DataType::{Decimal128, Decimal256, Int32, Int64, UInt64};
    matches!(data_type, Int32 | Int64 | UInt64 | Decimal128(..) | Decimal256(..))
}

pub fn scale_of(data_type: &DataType) -> i8 {
    match data_type {
        DataType::Decimal128(_, scale) | DataType::Decimal256(_, scale) => *scale,
        _ => 0,
    }
}

/// Whether there are values that take 256 bits.
pub fn is_wide(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Decimal256(..))
}

/// Calls `take` with each value that is not NULL and that the filter lets through. Not of wide types.
pub fn for_each(
    array: &ArrayRef,
    filter: Option<&BooleanArray>,
    mut take: impl FnMut(usize, i128) -> Result<()>,
) -> Result<()> {
    match array.data_type() {
        DataType::Int32 => walk::<Int32Type>(array, filter, |row, v| take(row, v.into())),
        DataType::Int64 => walk::<Int64Type>(array, filter, |row, v| take(row, v.into())),
        DataType::UInt64 => walk::<UInt64Type>(array, filter, |row, v| take(row, v.into())),
        DataType::Decimal128(..) => walk::<Decimal128Type>(array, filter, take),
        other => Err(Error::internal(format!("values of type {other} have no exact sum"))),
    }
}

/// The same, of all types.
pub fn for_each_wide(
    array: &ArrayRef,
    filter: Option<&BooleanArray>,
    mut take: impl FnMut(usize, i256) -> Result<()>,
) -> Result<()> {
    match is_wide(array.data_type()) {
        true => walk::<Decimal256Type>(array, filter, take),
        false => for_each(array, filter, |row, v| take(row, i256::from_i128(v))),
    }
}

fn walk<T: ArrowPrimitiveType>(
    array: &ArrayRef,
    filter: Option<&BooleanArray>,
    mut take: impl FnMut(usize, T::Native) -> Result<()>,
) -> Result<()> {
    let values = array.as_primitive::<T>();
    if values.null_count() == 0 && filter.is_none() {
        return values.values().iter().enumerate().try_for_each(|(row, value)| take(row, *value));
    }
    let kept = |row: usize| filter.is_none_or(|f| f.is_valid(row) && f.value(row));
    for (row, value) in values.values().iter().enumerate() {
        if values.is_valid(row) && kept(row) {
            take(row, *value)?;
        }
    }
    Ok(())
}

/// The values as an array of `data_type`; an error (22003) where one does not fit.
pub fn to_array(values: impl Iterator<Item = Option<i256>>, data_type: &DataType) -> Result<ArrayRef> {
    fn build<T: ArrowPrimitiveType>(
        values: impl Iterator<Item = Option<i256>>,
        data_type: &DataType,
        narrow: impl Fn(i256) -> Option<T::Native>,
    ) -> Result<ArrayRef> {
        let mut builder = PrimitiveBuilder::<T>::with_capacity(values.size_hint().0).with_data_type(data_type.clone());
        for value in values {
            match value.map(|v| narrow(v).ok_or_else(|| out_of_range(data_type))) {
                Some(value) => builder.append_value(value?),
                None => builder.append_null(),
            }
        }
        Ok(Arc::new(builder.finish()))
    }
    match data_type {
        DataType::Int32 => build::<Int32Type>(values, data_type, |v| v.to_i128()?.try_into().ok()),
        DataType::Int64 => build::<Int64Type>(values, data_type, |v| v.to_i128()?.try_into().ok()),
        DataType::UInt64 => build::<UInt64Type>(values, data_type, |v| v.to_i128()?.try_into().ok()),
        DataType::Decimal128(precision, _) => {
            let limit = 10u128.pow((*precision).min(38).into());
            build::<Decimal128Type>(values, data_type, |v| v.to_i128().filter(|v| v.unsigned_abs() < limit))
        }
        DataType::Decimal256(precision, _) => {
            let limit = ten_to(*precision);
            build::<Decimal256Type>(values, data_type, |v| within(v, limit))
        }
        other => Err(Error::internal(format!("a sum has no type {other}"))),
    }
}

pub fn ten_to(exponent: u8) -> i256 {
    i256::from_i128(10).wrapping_pow(exponent.min(76).into())
}

fn within(value: i256, limit: i256) -> Option<i256> {
    (value < limit && value > limit.wrapping_neg()).then_some(value)
}

pub fn out_of_range(data_type: &DataType) -> Error {
    SqlType::from_data_type(data_type).out_of_range()
}
