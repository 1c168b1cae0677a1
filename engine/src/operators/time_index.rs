//! Keys by a time, so that a watermark finds what it has passed.
//!
//! ```text
//!   time, order-preserving (8 bytes) ++ key ─▶ value
//!   └──── taken below the watermark ─┘
//! ```

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, SchemaRef, TimeUnit, TimestampMicrosecondType};
use tidemark_common::{Delta, Error, Result};
use tidemark_storage::{Entry, EpochCommit, KeyedState, RowCodec, Snapshot};

use super::aggregate::keys::typed_watermark;
use super::aggregate::size_of;
use super::{StateSize, Watermarks};

const TIME_BYTES: usize = 8;
/// Behind all keys: the last time, and no key.
const NOTE: [u8; TIME_BYTES] = [0xFF; TIME_BYTES];

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

    /// A time before which there is no key; `None`: there is no key at all. Before anything was taken nobody has looked: the time
    /// is not known.
    pub fn first(&self) -> Option<Option<i64>> {
        let low = self.0.low()?;
        Some(time_of(low))
    }

    /// Takes out everything, as [`TimeIndex::take_below`] does.
    pub fn take_all(&mut self, snapshot: &Snapshot) -> Result<Vec<Entry>> {
        let mut taken = self.take_below(snapshot, i64::MAX)?;
        let last = self.0.take_below(snapshot, &[0xFF; TIME_BYTES + 1])?;
        taken.extend(last.into_iter().map(|(key, value)| (key[TIME_BYTES..].to_vec(), value)));
        Ok(taken)
    }

    /// Adds weights to rows, each an entry with its weight; those of weight 0 are gone. `check` sees each weight that changes.
    pub fn add<'a>(
        &mut self,
        snapshot: &Snapshot,
        rows: impl Iterator<Item = (i64, &'a [u8], i64)>,
        check: impl Fn(i64) -> Result<()>,
    ) -> Result<()> {
        let mut net: HashMap<(i64, &[u8]), i64> = HashMap::new();
        rows.for_each(|(time, row, weight)| *net.entry((time, row)).or_default() += weight);
        let mut changes: Vec<((i64, &[u8]), i64)> = net.into_iter().filter(|(_, weight)| *weight != 0).collect();
        changes.sort_unstable();
        let keys: Vec<Vec<u8>> = changes.iter().map(|((time, row), _)| entry(*time, row)).collect();
        self.0.load(snapshot, &keys)?;
        for (key, (_, change)) in keys.iter().zip(changes) {
            let weight = self.0.get(key).map_or(Ok(0), weight_of)? + change;
            check(weight)?;
            if weight == 0 {
                self.0.delete(key);
                continue;
            }
            let mut buffer = [0; 10];
            let value = postcard::to_slice(&weight, &mut buffer)
                .map_err(|e| Error::internal(format!("cannot encode weight {weight}: {e}")))?;
            self.0.put(key, value);
        }
        Ok(())
    }

    /// Remembers a time, besides the keys.
    pub fn note(&mut self, time: i64) {
        self.0.put(&NOTE, &time.to_be_bytes());
    }

    pub fn noted(&mut self, snapshot: &Snapshot) -> Result<Option<i64>> {
        self.0.load(snapshot, &[NOTE])?;
        Ok(self.0.get(&NOTE).and_then(|time| time.try_into().ok()).map(i64::from_be_bytes))
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

/// Rows that [`TimeIndex::add`] has put and that were taken out, with their weights times `sign`.
pub fn taken_rows(taken: &[Entry], codec: &RowCodec, schema: &SchemaRef, sign: i64) -> Result<Delta> {
    let columns = codec.decode(taken.iter().map(|(row, _)| row.as_slice()))?;
    let weights = taken.iter().map(|(_, weight)| Ok(sign * weight_of(weight)?)).collect::<Result<Vec<i64>>>()?;
    Ok(Delta::new(RecordBatch::try_new(Arc::clone(schema), columns)?, Some(Int64Array::from(weights))))
}

fn weight_of(value: &[u8]) -> Result<i64> {
    postcard::from_bytes(value).map_err(|e| Error::internal(format!("a kept row's weight cannot be read: {e}")))
}

fn entry(time: i64, key: &[u8]) -> Vec<u8> {
    [&ordered(time), key].concat()
}

/// Bytes in the order of the numbers.
pub fn ordered(time: i64) -> [u8; TIME_BYTES] {
    (time ^ i64::MIN).to_be_bytes()
}

/// The time that a key begins with; `None`: it is too short for one.
pub fn time_of(key: &[u8]) -> Option<i64> {
    Some(i64::from_be_bytes(*key.first_chunk::<TIME_BYTES>()?) ^ i64::MIN)
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
