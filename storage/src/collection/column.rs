//! A column of a block, as the store has it.
//!
//! ```text
//!   whole numbers (also dates, times, decimals, ..) no further apart than 64 bits tell:
//!     INTEGERS, width w, 1 if there are NULLs, the least (i64) │ validity, a bit a row, if there are NULLs │ each less the least, w bytes
//!   all else:
//!     ARROW, u32 length of an Arrow IPC message │ the message │ its buffers
//! ```
//!
//! Numbers of one block are mostly near each other: a NUMERIC of 16 bytes takes two or four, and what is read, unpacked and kept
//! in the cache shrinks with it. All numbers are little-endian.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, PrimitiveArray, RecordBatch};
use datafusion::arrow::buffer::{BooleanBuffer, Buffer, NullBuffer};
use datafusion::arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, FieldRef, Int16Type, Int32Type, Int64Type, Schema, Time64MicrosecondType,
    TimeUnit, TimestampMicrosecondType,
};
use datafusion::arrow::ipc::reader::read_record_batch;
use datafusion::arrow::ipc::root_as_message;
use datafusion::arrow::ipc::writer::{DictionaryTracker, IpcDataGenerator, IpcWriteOptions};
use tidemark_common::{Error, Result};

use crate::value;

const ARROW: u8 = 0;
const INTEGERS: u8 = 1;

/// Calls `$f` with the type of `$data_type`'s numbers, if it has whole ones.
macro_rules! with_integers {
    ($data_type:expr, $f:ident, $($argument:expr),*) => {
        match $data_type {
            DataType::Int16 => $f::<Int16Type>($($argument),*),
            DataType::Int32 => $f::<Int32Type>($($argument),*),
            DataType::Int64 => $f::<Int64Type>($($argument),*),
            DataType::Date32 => $f::<Date32Type>($($argument),*),
            DataType::Time64(TimeUnit::Microsecond) => $f::<Time64MicrosecondType>($($argument),*),
            DataType::Timestamp(TimeUnit::Microsecond, _) => $f::<TimestampMicrosecondType>($($argument),*),
            DataType::Decimal128(..) => $f::<Decimal128Type>($($argument),*),
            _ => None,
        }
    };
}

/// The value of the column's key, in its frame.
pub(super) fn encode(field: &FieldRef, array: &ArrayRef) -> Result<Vec<u8>> {
    let mut value = vec![value::VERSION];
    if with_integers!(array.data_type(), encode_integers, array, &mut value).is_none() {
        encode_arrow(field, array, &mut value)?;
    }
    Ok(value)
}

/// `None`: that is no column of so many rows.
pub(super) fn decode(field: &FieldRef, rows: usize, value: &[u8]) -> Option<Result<ArrayRef>> {
    let (&kind, rest) = match value::unframe(value) {
        Ok(encoded) => encoded.split_first()?,
        Err(error) => return Some(Err(error)),
    };
    let array = match kind {
        ARROW => decode_arrow(field, rest)?,
        INTEGERS => Ok(with_integers!(field.data_type(), decode_integers, field.data_type(), rows, rest)?),
        _ => return None,
    };
    Some(array).filter(|array| array.as_ref().map_or(true, |array| array.len() == rows))
}

/// A number that may fit into 64 bits.
trait Integer: Copy {
    fn narrow(self) -> Option<i64>;

    /// Of one that was narrowed.
    fn widen(narrow: i64) -> Self;
}

macro_rules! integers {
    ($($integer:ty),*) => {$(
        impl Integer for $integer {
            fn narrow(self) -> Option<i64> {
                i64::try_from(self).ok()
            }

            fn widen(narrow: i64) -> Self {
                narrow as $integer
            }
        }
    )*};
}

integers!(i16, i32, i64, i128);

/// `None`: not all fit.
fn encode_integers<T: ArrowPrimitiveType<Native: Integer>>(array: &ArrayRef, out: &mut Vec<u8>) -> Option<()> {
    let array = array.as_primitive_opt::<T>()?;
    let nulls = array.nulls().filter(|nulls| nulls.null_count() > 0);
    let mut numbers: Vec<i64> = Vec::with_capacity(array.len());
    match nulls {
        None => array.values().iter().try_for_each(|value| value.narrow().map(|number| numbers.push(number)))?,
        // What stands in the place of a NULL is nobody's.
        Some(_) => {
            let known = array.iter().flatten().next().map_or(Some(0), Integer::narrow)?;
            array.iter().try_for_each(|value| value.map_or(Some(known), Integer::narrow).map(|n| numbers.push(n)))?;
        }
    }
    let least = numbers.iter().copied().min().unwrap_or(0);
    let width = width_of(numbers.iter().copied().max().unwrap_or(0).abs_diff(least));
    out.extend_from_slice(&[INTEGERS, width as u8, u8::from(nulls.is_some())]);
    out.extend_from_slice(&least.to_le_bytes());
    if let Some(nulls) = nulls {
        out.extend_from_slice(nulls.inner().sliced().as_slice());
    }
    let above = numbers.iter().map(|number| number.wrapping_sub(least) as u64);
    match width {
        0 => {}
        1 => out.extend(above.map(|n| n as u8)),
        2 => above.for_each(|n| out.extend_from_slice(&(n as u16).to_le_bytes())),
        4 => above.for_each(|n| out.extend_from_slice(&(n as u32).to_le_bytes())),
        _ => above.for_each(|n| out.extend_from_slice(&n.to_le_bytes())),
    }
    Some(())
}

/// Bytes that hold numbers up to this one.
fn width_of(greatest: u64) -> usize {
    match greatest {
        0 => 0,
        1..=0xff => 1,
        0x100..=0xffff => 2,
        0x1_0000..=0xffff_ffff => 4,
        _ => 8,
    }
}

fn decode_integers<T: ArrowPrimitiveType<Native: Integer>>(
    data_type: &DataType,
    rows: usize,
    encoded: &[u8],
) -> Option<ArrayRef> {
    let (&[width, has_nulls], rest) = encoded.split_first_chunk::<2>()?;
    let (least, rest) = rest.split_first_chunk::<8>()?;
    let (validity, numbers) = rest.split_at_checked(if has_nulls == 0 { 0 } else { rows.div_ceil(8) })?;
    if numbers.len() != rows * usize::from(width) {
        return None;
    }
    let least = i64::from_le_bytes(*least);
    let widen = |above: u64| T::Native::widen(least.wrapping_add(above as i64));
    let values: Vec<T::Native> = match width {
        0 => vec![widen(0); rows],
        1 => numbers.iter().map(|n| widen(u64::from(*n))).collect(),
        2 => numbers.as_chunks().0.iter().map(|n| widen(u64::from(u16::from_le_bytes(*n)))).collect(),
        4 => numbers.as_chunks().0.iter().map(|n| widen(u64::from(u32::from_le_bytes(*n)))).collect(),
        8 => numbers.as_chunks().0.iter().map(|n| widen(u64::from_le_bytes(*n))).collect(),
        _ => return None,
    };
    let nulls = (has_nulls != 0).then(|| NullBuffer::new(BooleanBuffer::new(Buffer::from(validity), 0, rows)));
    let array = PrimitiveArray::<T>::try_new(values.into(), nulls).ok()?;
    Some(Arc::new(array.with_data_type(data_type.clone())))
}

fn encode_arrow(field: &FieldRef, array: &ArrayRef, out: &mut Vec<u8>) -> Result<()> {
    let schema = Arc::new(Schema::new(vec![field.as_ref().clone().with_nullable(true)]));
    let batch = RecordBatch::try_new(schema, vec![Arc::clone(array)])?;
    let (_, encoded) = IpcDataGenerator::default().encode(
        &batch,
        &mut DictionaryTracker::new(false),
        &IpcWriteOptions::default(),
        &mut Default::default(),
    )?;
    let (message, buffers) = (encoded.ipc_message, encoded.arrow_data);
    let len = u32::try_from(message.len()).map_err(|_| Error::internal("an IPC message of 4 GiB"))?;
    out.reserve(1 + 4 + message.len() + buffers.len());
    out.push(ARROW);
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(&message);
    out.extend_from_slice(&buffers);
    Ok(())
}

fn decode_arrow(field: &FieldRef, encoded: &[u8]) -> Option<Result<ArrayRef>> {
    let (len, rest) = encoded.split_first_chunk::<4>()?;
    let (message, buffers) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
    let message = root_as_message(message).ok()?;
    let schema = Arc::new(Schema::new(vec![field.as_ref().clone().with_nullable(true)]));
    let batch = message.header_as_record_batch()?;
    let read = read_record_batch(&Buffer::from(buffers), batch, schema, &HashMap::new(), None, &message.version());
    Some(read.map(|batch| Arc::clone(batch.column(0))).map_err(Error::from))
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{
        Date32Array, Decimal128Array, Float64Array, Int16Array, Int32Array, Int64Array, StringArray,
        TimestampMicrosecondArray,
    };
    use datafusion::arrow::datatypes::Field;

    use super::*;

    fn check(array: impl Array + 'static, kind: u8, bytes: usize) {
        let array: ArrayRef = Arc::new(array);
        let field = Arc::new(Field::new("c", array.data_type().clone(), true));
        let encoded = encode(&field, &array).unwrap();
        assert_eq!((encoded[1], encoded.len()), (kind, bytes), "{array:?}");
        let decoded = |rows, encoded: &[u8]| decode(&field, rows, encoded);
        assert_eq!(&decoded(array.len(), &encoded).unwrap().unwrap(), &array);
        // Not torn, and of no other length, unless all are the same.
        assert!(bytes == HEAD || decoded(array.len() + 100, &encoded).is_none());
        let is_torn = |len| decoded(array.len(), &encoded[..len]).is_none_or(|read| read.is_err());
        assert!(kind == ARROW || (0..encoded.len()).all(is_torn));
    }

    const HEAD: usize = 12;

    #[test]
    fn numbers_take_the_bytes_they_need() {
        check(Int64Array::from(vec![7, 7, 7]), INTEGERS, HEAD);
        check(Int64Array::from(vec![-1, 254, 3]), INTEGERS, HEAD + 3);
        check(Int32Array::from(vec![-1, 255, 3]), INTEGERS, HEAD + 6);
        check(Int16Array::from(vec![i16::MIN, i16::MAX]), INTEGERS, HEAD + 4);
        check(Int32Array::from(vec![i32::MIN, i32::MAX]), INTEGERS, HEAD + 8);
        check(Int64Array::from(vec![i64::MIN, i64::MAX, 0]), INTEGERS, HEAD + 24);
        check(Date32Array::from(vec![20_000, 20_031]), INTEGERS, HEAD + 2);
        check(TimestampMicrosecondArray::from(vec![1, 70_000]).with_timezone("+00:00"), INTEGERS, HEAD + 8);
        let money = |values: Vec<Option<i128>>| Decimal128Array::from(values).with_precision_and_scale(38, 2).unwrap();
        check(money(vec![Some(100), Some(99_999)]), INTEGERS, HEAD + 8);
        // NULLs have a bit each.
        check(money(vec![Some(100_000_000_000), None, Some(100_000_000_001)]), INTEGERS, HEAD + 1 + 3);
        check(Int64Array::from(vec![None; 9]), INTEGERS, HEAD + 2);
        check(Int64Array::from(vec![None, Some(5), Some(6), Some(300)]).slice(1, 2), INTEGERS, HEAD + 2);
    }

    #[test]
    fn all_else_is_as_arrow_has_it() {
        let len = |array: ArrayRef| {
            let field = Arc::new(Field::new("c", array.data_type().clone(), true));
            let mut encoded = Vec::new();
            encode_arrow(&field, &array, &mut encoded).unwrap();
            encoded.len() + 1
        };
        let wide = Decimal128Array::from(vec![i128::MAX, 1]);
        check(wide.clone(), ARROW, len(Arc::new(wide)));
        let floats = Float64Array::from(vec![Some(1.5), None]);
        check(floats.clone(), ARROW, len(Arc::new(floats)));
        let texts = StringArray::from(vec![Some("a"), None, Some("")]);
        check(texts.clone(), ARROW, len(Arc::new(texts)));
    }
}
