//! Rows that wait for an answer.
//!
//! ```text
//!   key ++ number of the row (8 bytes, big-endian) ─▶ weight (8 bytes) ++ the row
//! ```
//!
//! They are kept with the commit of the epoch in which they came. What is asked about all of them (how many there are, which is the
//! earliest) is kept in memory, key by key.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::array::{Int64Array, RecordBatch, UInt32Array};
use datafusion::arrow::datatypes::{DataType, FieldRef, SchemaRef, TimeUnit};
use datafusion::scalar::ScalarValue;
use tidemark_common::{Delta, Error, Result};
use tidemark_storage::{EpochCommit, KeyedState, RowCodec, Snapshot};

use super::columns_at;
use crate::operators::aggregate::{Placement, size_of};
use crate::operators::exchange::shards_of;
use crate::operators::time_index::micros;
use crate::operators::{StateSize, Watermarks};

/// Which of a node's states it is.
const ROWS: u32 = 0;
const NUMBER_BYTES: usize = 8;
const WEIGHT_BYTES: usize = 8;
/// Rows that are looked at together when a restart finds them.
const LOADED_TOGETHER: usize = 8192;

pub struct Waiting {
    rows: KeyedState,
    codec: RowCodec,
    schema: SchemaRef,
    key_columns: Vec<usize>,
    /// Columns with a watermark.
    times: Vec<usize>,
    placement: Placement,
    keys: HashMap<Vec<u8>, OfKey>,
    /// Of all keys.
    rows_waiting: u64,
    bytes_waiting: u64,
    /// Of the next row.
    number: u64,
    loaded: bool,
}

/// What waits for one key.
#[derive(Default)]
struct OfKey {
    rows: u64,
    bytes: u64,
    /// Of each of the columns with a watermark, the least value.
    least: Vec<i64>,
}

/// Rows that have got their answer, and which of the keys each has.
pub struct Waited {
    pub rows: Delta,
    pub of: Vec<usize>,
}

impl Waiting {
    /// `times`: columns with a watermark, timestamps in microseconds.
    pub fn new(schema: &SchemaRef, key_columns: Vec<usize>, times: Vec<usize>, placement: &Placement) -> Result<Self> {
        let fields: Vec<FieldRef> = schema.fields().iter().cloned().collect();
        Ok(Self {
            rows: KeyedState::new(placement.state(ROWS), placement.cache_budget),
            codec: RowCodec::new(&fields)?,
            schema: Arc::clone(schema),
            key_columns,
            times,
            placement: placement.clone(),
            keys: HashMap::new(),
            rows_waiting: 0,
            bytes_waiting: 0,
            number: 0,
            loaded: false,
        })
    }

    pub fn is_loaded(&self) -> bool {
        self.loaded
    }

    /// Finds what was left by an earlier life of the server; gives its keys.
    pub fn load(&mut self, snapshot: &Snapshot) -> Result<Vec<Vec<u8>>> {
        self.loaded = true;
        let mut after: Option<Vec<u8>> = None;
        loop {
            let entries = self.rows.scan_chunk(snapshot, after.as_deref(), LOADED_TOGETHER)?;
            let Some((last, _)) = entries.last() else { break };
            after = Some(last.clone());
            let rows = entries.iter().map(|(_, value)| row_of(value)).collect::<Result<Vec<_>>>()?;
            let batch = RecordBatch::try_new(Arc::clone(&self.schema), self.codec.decode(rows.iter().copied())?)?;
            let times = self.times_of(&batch)?;
            // With another number of shards there are rows of others among them.
            let Placement { shard, shards, .. } = self.placement;
            let shard_of = shards_of(&columns_at(&batch, &self.key_columns), entries.len(), shards)?;
            for (row, (entry, value)) in entries.iter().enumerate() {
                let (key, number) = split(entry)?;
                self.number = self.number.max(number + 1);
                if shard_of[row] == shard {
                    self.count(key, value.len(), times.iter().map(|times| times[row]));
                }
            }
        }
        Ok(self.keys.keys().cloned().collect())
    }

    pub fn contains(&self, key: &[u8]) -> bool {
        self.keys.contains_key(key)
    }

    /// A row with this key is about to wait; true if it is the first.
    pub fn expect(&mut self, key: &[u8]) -> bool {
        let is_first = !self.contains(key);
        if is_first {
            self.keys.insert(key.to_vec(), OfKey::default());
        }
        is_first
    }

    /// Keeps rows of `delta`, each with its key.
    pub fn add(&mut self, delta: &Delta, rows: Vec<(u32, Vec<u8>)>) -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        let picked = delta.take(&UInt32Array::from_iter_values(rows.iter().map(|(row, _)| *row)))?;
        let encoded = self.codec.encode_rows(picked.batch.columns(), picked.num_rows())?;
        let times = self.times_of(&picked.batch)?;
        for (at, (_, key)) in rows.into_iter().enumerate() {
            let value = [&picked.weight(at).to_le_bytes()[..], encoded.row(at)].concat();
            self.rows.put(&[&key[..], &self.number.to_be_bytes()].concat(), &value);
            self.number += 1;
            self.count(&key, value.len(), times.iter().map(|times| times[at]));
        }
        Ok(())
    }

    /// Takes out what has waited for the keys, in the order in which it came.
    pub fn take(&mut self, snapshot: &Snapshot, keys: &[Vec<u8>]) -> Result<Waited> {
        let mut taken: Vec<(u64, usize, Vec<u8>)> = Vec::new();
        let mut entries = Vec::new();
        let mut damaged = None;
        self.rows.scan_prefixes(snapshot, keys, |key, entry, value| match split(entry) {
            Ok((_, number)) => {
                entries.push(entry.to_vec());
                taken.push((number, key, value.to_vec()));
            }
            Err(error) => damaged = Some(error),
        })?;
        if let Some(error) = damaged {
            return Err(error);
        }
        entries.iter().for_each(|entry| self.rows.delete(entry));
        for of in keys.iter().filter_map(|key| self.keys.remove(key)) {
            self.rows_waiting -= of.rows;
            self.bytes_waiting -= of.bytes;
        }
        taken.sort_unstable_by_key(|(number, ..)| *number);
        let rows = taken.iter().map(|(.., value)| row_of(value)).collect::<Result<Vec<_>>>()?;
        let weights = taken.iter().map(|(.., value)| weight_of(value)).collect::<Result<Vec<i64>>>()?;
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), self.codec.decode(rows.iter().copied())?)?;
        let inserts = weights.iter().all(|weight| *weight == 1);
        let rows = Delta::new(batch, (!inserts).then(|| Int64Array::from(weights)));
        Ok(Waited { rows, of: taken.into_iter().map(|(_, key, _)| key).collect() })
    }

    /// By column with a watermark, the least value that waits.
    pub fn least(&self, schema: &SchemaRef) -> Watermarks {
        let of = |(at, column): (usize, &usize)| {
            let least = self.keys.values().filter_map(|of| of.least.get(at)).copied().min()?;
            let DataType::Timestamp(TimeUnit::Microsecond, zone) = schema.field(*column).data_type() else {
                return None;
            };
            Some((*column, ScalarValue::TimestampMicrosecond(Some(least), zone.clone())))
        };
        self.times.iter().enumerate().filter_map(of).collect()
    }

    pub fn rows(&self) -> u64 {
        self.rows_waiting
    }

    pub fn bytes(&self) -> u64 {
        self.bytes_waiting
    }

    pub fn keys(&self) -> u64 {
        self.keys.len() as u64
    }

    pub fn size(&self) -> StateSize {
        StateSize { entries: self.rows(), ..size_of([&self.rows]) }
    }

    pub fn flush(&mut self, commit: &mut EpochCommit) {
        self.rows.flush(commit);
    }

    /// Of each of the columns with a watermark; NULL is later than everything.
    fn times_of(&self, batch: &RecordBatch) -> Result<Vec<Vec<i64>>> {
        let of = |column: &usize| -> Result<Vec<i64>> {
            Ok(micros(batch.column(*column))?.into_iter().map(|time| time.unwrap_or(i64::MAX)).collect())
        };
        self.times.iter().map(of).collect()
    }

    fn count(&mut self, key: &[u8], bytes: usize, times: impl Iterator<Item = i64>) {
        let of = self.keys.entry(key.to_vec()).or_default();
        let bytes = (key.len() + NUMBER_BYTES + bytes) as u64;
        (of.rows, of.bytes) = (of.rows + 1, of.bytes + bytes);
        (self.rows_waiting, self.bytes_waiting) = (self.rows_waiting + 1, self.bytes_waiting + bytes);
        for (at, time) in times.enumerate() {
            match of.least.get_mut(at) {
                Some(least) => *least = time.min(*least),
                None => of.least.push(time),
            }
        }
    }
}

fn damaged() -> Error {
    Error::internal("a row that waits for a lookup cannot be read")
}

/// Key and number.
fn split(entry: &[u8]) -> Result<(&[u8], u64)> {
    let (key, number) = entry.split_last_chunk::<NUMBER_BYTES>().ok_or_else(damaged)?;
    Ok((key, u64::from_be_bytes(*number)))
}

fn row_of(value: &[u8]) -> Result<&[u8]> {
    value.get(WEIGHT_BYTES..).ok_or_else(damaged)
}

fn weight_of(value: &[u8]) -> Result<i64> {
    value.first_chunk().map(|weight| i64::from_le_bytes(*weight)).ok_or_else(damaged)
}
