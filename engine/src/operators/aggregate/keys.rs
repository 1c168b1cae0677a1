//! Group keys as bytes, and their numbers within an epoch.
//!
//! ```text
//!              ┌────────┬──────────────┬──────────────────┐
//!   with close │ 0 or 1 │ close column │ the other columns│    0: has a value, 1: NULL. So all groups that a watermark
//!              └────────┴──────────────┴──────────────────┘    closes are one range of keys that starts at the first,
//!   without                             │ the columns      │    and a NULL window lies behind them all: it never closes
//!                                       └──────────────────┘
//! ```
//!
//! In an epoch each key gets a dense number when it is first seen; that is the group index which accumulators work with.

use std::hash::BuildHasher;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, Scalar};
use datafusion::arrow::compute::kernels::cmp::lt;
use datafusion::arrow::compute::{cast, not};
use datafusion::arrow::datatypes::{FieldRef, SchemaRef};
use datafusion::scalar::ScalarValue;
use hashbrown::{DefaultHashBuilder, HashTable};
use tidemark_common::{Error, Result};
use tidemark_storage::RowCodec;

use crate::operators::{Chunks, Watermarks, true_rows};

const HAS_VALUE: u8 = 0;
const IS_NULL: u8 = 1;

/// Turns key columns into bytes and back.
pub struct KeyCodec {
    rows: RowCodec,
    /// Encodes the close column alone: what it gives is how keys with that value go on after the marker.
    close: Option<CloseColumn>,
    /// The key columns in the order in which they are encoded.
    order: Vec<usize>,
}

struct CloseColumn {
    column: usize,
    field: FieldRef,
    codec: RowCodec,
}

impl KeyCodec {
    pub fn new(fields: &[FieldRef], close: Option<usize>) -> Result<Self> {
        let order: Vec<usize> = close.into_iter().chain((0..fields.len()).filter(|c| Some(*c) != close)).collect();
        let ordered: Vec<FieldRef> = order.iter().map(|&c| Arc::clone(&fields[c])).collect();
        let close = match close {
            Some(column) => {
                let field = Arc::clone(&fields[column]);
                let codec = RowCodec::for_keys(std::slice::from_ref(&field))?;
                Some(CloseColumn { column, field, codec })
            }
            None => None,
        };
        Ok(Self { rows: RowCodec::for_keys(&ordered)?, close, order })
    }

    pub fn num_columns(&self) -> usize {
        self.order.len()
    }

    /// Gives each row of `columns` the number of its group.
    pub fn number(&self, columns: &[ArrayRef], rows: usize, groups: &mut GroupNumbers) -> Result<Vec<usize>> {
        if self.order.is_empty() {
            groups.number(None, &[]);
            return Ok(vec![0; rows]);
        }
        let ordered: Vec<ArrayRef> = self.order.iter().map(|&c| Arc::clone(&columns[c])).collect();
        let encoded = self.rows.encode_rows(&ordered, rows)?;
        let close = self.close.as_ref().map(|close| &columns[close.column]);
        let marker = |row: usize| close.map(|c| if c.is_null(row) { IS_NULL } else { HAS_VALUE });
        Ok(encoded.iter().enumerate().map(|(row, bytes)| groups.number(marker(row), bytes)).collect())
    }

    /// The key columns of encoded keys, in the input's order.
    pub fn decode<'a>(&self, keys: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<ArrayRef>> {
        let skip = self.marker_len();
        let ordered = self.rows.decode(keys.into_iter().map(|key| &key[skip..]))?;
        let mut columns: Vec<Option<ArrayRef>> = vec![None; ordered.len()];
        for (&column, array) in self.order.iter().zip(ordered) {
            columns[column] = Some(array);
        }
        Ok(columns.into_iter().map(|c| c.expect("the order names every column once")).collect())
    }

    /// The first key that `watermark` does not close.
    pub fn horizon(&self, watermark: &ScalarValue) -> Result<Vec<u8>> {
        let Some(close) = &self.close else {
            return Err(Error::internal("an aggregate without a closing column was asked to close"));
        };
        let value = typed_watermark(watermark, &close.field)?;
        let mut key = vec![HAS_VALUE];
        key.extend_from_slice(close.codec.encode(&[value])?.row(0));
        Ok(key)
    }

    fn marker_len(&self) -> usize {
        usize::from(self.close.is_some())
    }
}

/// The rows whose `column` is not below the watermark, which has closed what is, and how many were.
pub fn on_time(chunks: Chunks, column: usize, input: &SchemaRef, watermarks: &Watermarks) -> Result<(Chunks, u64)> {
    let Some(watermark) = watermarks.get(&column).filter(|w| !w.is_null()) else { return Ok((chunks, 0)) };
    let watermark = Scalar::new(typed_watermark(watermark, &input.fields()[column])?);
    let mut kept = Chunks::with_capacity(chunks.len());
    let mut late_rows = 0;
    for delta in chunks {
        let late = true_rows(&lt(delta.batch.column(column), &watermark)?);
        match late.true_count() {
            0 => kept.push(delta),
            all if all == delta.num_rows() => late_rows += all as u64,
            some => {
                late_rows += some as u64;
                kept.push(delta.filter(&not(&late)?)?);
            }
        }
    }
    Ok((kept, late_rows))
}

/// A watermark as an array of one row with the column's type.
pub fn typed_watermark(watermark: &ScalarValue, field: &FieldRef) -> Result<ArrayRef> {
    let value = watermark.to_array_of_size(1)?;
    if value.data_type() == field.data_type() {
        return Ok(value);
    }
    Ok(cast(&value, field.data_type())?)
}

/// The keys seen in an epoch, numbered from 0 in the order in which they were first seen.
#[derive(Default)]
pub struct GroupNumbers {
    table: HashTable<u32>,
    hasher: DefaultHashBuilder,
    bytes: Vec<u8>,
    /// Where each key ends in `bytes`.
    ends: Vec<usize>,
}

impl GroupNumbers {
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    pub fn key(&self, group: usize) -> &[u8] {
        key_at(&self.bytes, &self.ends, group)
    }

    /// All keys, in the order of their numbers.
    pub fn keys(&self) -> Vec<&[u8]> {
        (0..self.len()).map(|group| self.key(group)).collect()
    }

    /// The number of a key that was given one without a marker.
    pub fn find(&self, key: &[u8]) -> Option<usize> {
        let hash = self.hasher.hash_one(key);
        self.table.find(hash, |&group| self.key(group as usize) == key).map(|&group| group as usize)
    }

    /// The number of the key made of `marker` and `row`. The row alone tells keys apart, as NULL has its own bytes there.
    pub fn number(&mut self, marker: Option<u8>, row: &[u8]) -> usize {
        let Self { table, hasher, bytes, ends } = self;
        let skip = usize::from(marker.is_some());
        let row_of = |group: u32| &key_at(bytes, ends, group as usize)[skip..];
        let hash = hasher.hash_one(row);
        if let Some(&group) = table.find(hash, |&group| row_of(group) == row) {
            return group as usize;
        }
        let group = u32::try_from(ends.len()).expect("an epoch has far fewer than 2^32 groups");
        table.insert_unique(hash, group, |&group| hasher.hash_one(row_of(group)));
        bytes.extend(marker);
        bytes.extend_from_slice(row);
        ends.push(bytes.len());
        group as usize
    }
}

fn key_at<'a>(bytes: &'a [u8], ends: &[usize], group: usize) -> &'a [u8] {
    let start = if group == 0 { 0 } else { ends[group - 1] };
    &bytes[start..ends[group]]
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{Float64Array, Int64Array, StringArray};
    use datafusion::arrow::datatypes::{DataType, Field};

    use super::*;

    fn fields(types: &[DataType]) -> Vec<FieldRef> {
        types.iter().enumerate().map(|(i, t)| Arc::new(Field::new(format!("c{i}"), t.clone(), true))).collect()
    }

    #[test]
    fn closing_column_leads_and_null_comes_last() {
        let codec = KeyCodec::new(&fields(&[DataType::Utf8, DataType::Int64]), Some(1)).unwrap();
        let names: ArrayRef = Arc::new(StringArray::from(vec![Some("z"), Some("a"), None, Some("m")]));
        let windows: ArrayRef = Arc::new(Int64Array::from(vec![Some(-5), Some(10), Some(10), None]));
        let mut groups = GroupNumbers::default();
        let numbers = codec.number(&[Arc::clone(&names), Arc::clone(&windows)], 4, &mut groups).unwrap();
        assert_eq!(numbers, [0, 1, 2, 3]);
        let mut sorted = groups.keys();
        sorted.sort_unstable();
        assert_eq!(sorted, [groups.key(0), groups.key(2), groups.key(1), groups.key(3)]);
        let horizon = codec.horizon(&ScalarValue::Int64(Some(10))).unwrap();
        let closed: Vec<bool> = groups.keys().iter().map(|k| *k < horizon.as_slice()).collect();
        assert_eq!(closed, [true, false, false, false]);
        let horizon = codec.horizon(&ScalarValue::Int64(Some(i64::MAX))).unwrap();
        assert!(groups.key(3) > horizon.as_slice(), "a NULL window never closes");
        let decoded = codec.decode(groups.keys()).unwrap();
        assert_eq!((&decoded[0], &decoded[1]), (&names, &windows));
    }

    #[test]
    fn equal_values_are_one_group() {
        let codec = KeyCodec::new(&fields(&[DataType::Float64]), None).unwrap();
        let values = vec![Some(0.0), Some(-0.0), Some(f64::NAN), None, Some(-f64::NAN), None, Some(1.0)];
        let column: ArrayRef = Arc::new(Float64Array::from(values));
        let mut groups = GroupNumbers::default();
        assert_eq!(codec.number(&[column], 7, &mut groups).unwrap(), [0, 0, 1, 2, 1, 2, 3]);
    }
}
