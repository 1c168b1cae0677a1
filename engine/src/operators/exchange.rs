//! Repartitioning: each row goes to the shard that its key columns hash to, so that one shard sees all rows of a key.
//!
//! ```text
//!   shard 0 ─┐ split by ┌─▶ shard 0: rows whose hash % shards == 0, those from shard 0 first
//!   shard 1 ─┘   hash   └─▶ shard 1
//! ```
//!
//! The hash is part of what makes the same input give the same bytes: it is written out below, has no seed but [`SEED`], and
//! does not depend on the machine, the process or a library. Values that SQL holds equal hash alike: NULL is one value, -0.0
//! is 0.0, every NaN is the same. What is on disk does not know shards, so their number may change at a restart.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt32Array};
use datafusion::arrow::datatypes::{
    ArrowPrimitiveType, DataType, Date32Type, Date64Type, Field, Float32Type, Float64Type, Int8Type, Int16Type,
    Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
    TimestampSecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use tidemark_common::{Delta, Result};
use tidemark_storage::RowCodec;

use super::Chunks;

const SEED: u64 = 0x7469_6465_6d61_726b; // "tidemark"
const NULL: u64 = 0x6e75_6c6c;

/// Splits one shard's changes into those for each of `shards`. No key columns: all to shard 0.
pub fn repartition(chunks: Chunks, keys: &[usize], shards: usize) -> Result<Vec<Chunks>> {
    let mut split = vec![Chunks::new(); shards];
    if keys.is_empty() || shards == 1 {
        split[0] = chunks;
        return Ok(split);
    }
    for delta in chunks {
        for (shard, part) in split_delta(&delta, keys, shards)?.into_iter().enumerate() {
            if let Some(part) = part {
                split[shard].push(part);
            }
        }
    }
    Ok(split)
}

fn split_delta(delta: &Delta, keys: &[usize], shards: usize) -> Result<Vec<Option<Delta>>> {
    let mut rows = vec![Vec::<u32>::new(); shards];
    for (row, shard) in shards_of(&key_columns(&delta.batch, keys), delta.num_rows(), shards)?.into_iter().enumerate() {
        rows[shard].push(u32::try_from(row).expect("arrow batches of ours are far below 2^32 rows"));
    }
    rows.into_iter()
        .map(|rows| match rows.len() {
            0 => Ok(None),
            all if all == delta.num_rows() => Ok(Some(delta.clone())),
            _ => Ok(Some(delta.take(&UInt32Array::from(rows))?)),
        })
        .collect()
}

/// Some columns of a batch.
pub fn key_columns(batch: &RecordBatch, keys: &[usize]) -> Vec<ArrayRef> {
    keys.iter().map(|&k| Arc::clone(batch.column(k))).collect()
}

/// The shard of each row.
pub fn shards_of(keys: &[ArrayRef], rows: usize, shards: usize) -> Result<Vec<usize>> {
    Ok(hash_rows(keys, rows)?.into_iter().map(|hash| (hash % shards as u64) as usize).collect())
}

/// The hash of each row.
pub fn hash_rows(columns: &[ArrayRef], rows: usize) -> Result<Vec<u64>> {
    let mut hashes = vec![SEED; rows];
    for column in columns {
        hash_column(column, &mut hashes)?;
    }
    Ok(hashes)
}

fn hash_column(column: &ArrayRef, hashes: &mut [u64]) -> Result<()> {
    match column.data_type() {
        DataType::Int8 => primitive::<Int8Type>(column, hashes, |v| v as u64),
        DataType::Int16 => primitive::<Int16Type>(column, hashes, |v| v as u64),
        DataType::Int32 => primitive::<Int32Type>(column, hashes, |v| v as u64),
        DataType::Int64 => primitive::<Int64Type>(column, hashes, |v| v as u64),
        DataType::UInt8 => primitive::<UInt8Type>(column, hashes, u64::from),
        DataType::UInt16 => primitive::<UInt16Type>(column, hashes, u64::from),
        DataType::UInt32 => primitive::<UInt32Type>(column, hashes, u64::from),
        DataType::UInt64 => primitive::<UInt64Type>(column, hashes, |v| v),
        DataType::Date32 => primitive::<Date32Type>(column, hashes, |v| v as u64),
        DataType::Date64 => primitive::<Date64Type>(column, hashes, |v| v as u64),
        DataType::Timestamp(TimeUnit::Second, _) => primitive::<TimestampSecondType>(column, hashes, |v| v as u64),
        DataType::Timestamp(TimeUnit::Millisecond, _) => {
            primitive::<TimestampMillisecondType>(column, hashes, |v| v as u64);
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            primitive::<TimestampMicrosecondType>(column, hashes, |v| v as u64);
        }
        DataType::Timestamp(TimeUnit::Nanosecond, _) => {
            primitive::<TimestampNanosecondType>(column, hashes, |v| v as u64);
        }
        DataType::Float32 => primitive::<Float32Type>(column, hashes, |v| float_bits(f64::from(v))),
        DataType::Float64 => primitive::<Float64Type>(column, hashes, float_bits),
        DataType::Utf8 => bytes(column, hashes, column.as_string::<i32>().iter().map(|v| v.map(str::as_bytes))),
        DataType::LargeUtf8 => bytes(column, hashes, column.as_string::<i64>().iter().map(|v| v.map(str::as_bytes))),
        DataType::Utf8View => bytes(column, hashes, column.as_string_view().iter().map(|v| v.map(str::as_bytes))),
        _ => return encoded(column, hashes),
    }
    Ok(())
}

fn primitive<T: ArrowPrimitiveType>(column: &ArrayRef, hashes: &mut [u64], to_u64: impl Fn(T::Native) -> u64) {
    let array = column.as_primitive::<T>();
    if array.null_count() == 0 {
        for (hash, value) in hashes.iter_mut().zip(array.values()) {
            *hash = mix(*hash, to_u64(*value));
        }
    } else {
        for (hash, value) in hashes.iter_mut().zip(array.iter()) {
            *hash = mix(*hash, value.map_or(NULL, &to_u64));
        }
    }
}

fn float_bits(value: f64) -> u64 {
    if value.is_nan() { f64::NAN.to_bits() } else { (value + 0.0).to_bits() }
}

fn bytes<'a>(column: &ArrayRef, hashes: &mut [u64], values: impl Iterator<Item = Option<&'a [u8]>>) {
    debug_assert_eq!(column.len(), hashes.len());
    for (hash, value) in hashes.iter_mut().zip(values) {
        *hash = value.map_or_else(|| mix(*hash, NULL), |v| mix_bytes(*hash, v));
    }
}

/// Any other type: the bytes that it is stored as in a key.
fn encoded(column: &ArrayRef, hashes: &mut [u64]) -> Result<()> {
    let field = Arc::new(Field::new("key", column.data_type().clone(), true));
    let rows = RowCodec::for_keys(&[field])?.encode(&[Arc::clone(column)])?;
    for (hash, row) in hashes.iter_mut().zip(rows.iter()) {
        *hash = mix_bytes(*hash, row);
    }
    Ok(())
}

/// Eight bytes at a time, little-endian, the rest padded with zeros, then the length.
fn mix_bytes(mut hash: u64, value: &[u8]) -> u64 {
    for piece in value.chunks(8) {
        let mut word = [0; 8];
        word[..piece.len()].copy_from_slice(piece);
        hash = mix(hash, u64::from_le_bytes(word));
    }
    mix(hash, value.len() as u64)
}

/// One round of splitmix64 over the state and the next word.
fn mix(hash: u64, word: u64) -> u64 {
    let mut z = (hash ^ word).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
