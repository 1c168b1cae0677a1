//! Keys by a time, so that a watermark finds what it has passed.
//!
//! ```text
//!   time, order-preserving (8 bytes) ++ key ─▶ value
//!   └──── taken below the watermark ─┘
//! ```

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, AsArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, TimeUnit, TimestampMicrosecondType};
use tidemark_common::{Error, Result};
use tidemark_storage::{Entry, EpochCommit, KeyedState, Snapshot};

use super::aggregate::keys::typed_watermark;
use super::aggregate::size_of;
use super::{StateSize, Watermarks};

const TIME_BYTES: usize = 8;

pub struct TimeIndex(KeyedState);

impl TimeIndex {
    pub fn new(entries: KeyedState) -> Self {
        Self(entries)
    }

    pub fn put(&mut self, time: i64, key: &[u8], value: &[u8]) {
        self.0.put(&entry(time, key), value);
    }

    pub fn delete(&mut self, time: i64, key: &[u8]) {
        self.0.delete(&entry(time, key));
    }

    /// Makes [`TimeIndex::get`] answer for these.
    pub fn load<'a>(&mut self, snapshot: &Snapshot, keys: impl Iterator<Item = (i64, &'a [u8])>) -> Result<()> {
        let keys: Vec<Vec<u8>> = keys.map(|(time, key)| entry(time, key)).collect();
        self.0.load(snapshot, &keys)
    }

    pub fn get(&self, time: i64, key: &[u8]) -> Option<&[u8]> {
        self.0.get(&entry(time, key))
    }

    /// A time before which there is no key; `None`: there is no key at all. Before anything was taken nobody has looked: the time
    /// is not known.
    pub fn first(&self) -> Option<Option<i64>> {
        let low = self.0.low()?;
        let time = low.first_chunk::<TIME_BYTES>();
        Some(time.map(|time| i64::from_be_bytes(*time) ^ i64::MIN))
    }

    /// Takes out everything, as [`TimeIndex::take_below`] does.
    pub fn take_all(&mut self, snapshot: &Snapshot) -> Result<Vec<Entry>> {
        let mut taken = self.take_below(snapshot, i64::MAX)?;
        let last = self.0.take_below(snapshot, &[0xFF; TIME_BYTES + 1])?;
        taken.extend(last.into_iter().map(|(key, value)| (key[TIME_BYTES..].to_vec(), value)));
        Ok(taken)
    }

    pub fn size(&self) -> StateSize {
        size_of([&self.0])
    }

    /// Takes out the keys whose times lie below `bound`, the earliest first, with their values.
    pub fn take_below(&mut self, snapshot: &Snapshot, bound: i64) -> Result<Vec<Entry>> {
        let taken = self.0.take_below(snapshot, &ordered(bound))?;
        Ok(taken.into_iter().map(|(key, value)| (key[TIME_BYTES..].to_vec(), value)).collect())
    }

    pub fn flush(&mut self, commit: &mut EpochCommit) {
        self.0.flush(commit);
    }
}

fn entry(time: i64, key: &[u8]) -> Vec<u8> {
    [&ordered(time), key].concat()
}

/// Bytes in the order of the numbers.
fn ordered(time: i64) -> [u8; TIME_BYTES] {
    (time ^ i64::MIN).to_be_bytes()
}

/// Timestamps in microseconds.
pub fn micros(times: &ArrayRef) -> Result<Vec<Option<i64>>> {
    let plain = cast(times, &DataType::Timestamp(TimeUnit::Microsecond, None))?;
    Ok(plain.as_primitive::<TimestampMicrosecondType>().iter().collect())
}

/// The watermark of a column of timestamps, in microseconds.
pub fn watermark_micros(watermarks: &Watermarks, column: usize, field: &Arc<Field>) -> Result<Option<i64>> {
    let Some(watermark) = watermarks.get(&column).filter(|w| !w.is_null()) else { return Ok(None) };
    Ok(micros(&typed_watermark(watermark, field)?)?.first().copied().flatten())
}

/// Refuses a column that is no time.
pub fn check_time(field: &Field) -> Result<()> {
    match field.data_type() {
        DataType::Timestamp(TimeUnit::Microsecond, _) => Ok(()),
        _ => Err(Error::internal(format!("column {} is no time by which rows become final", field.name()))),
    }
}
