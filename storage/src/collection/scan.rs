//! Reading a collection: entries of RocksDB, a chunk at a time, into record batches of the columns asked for.
//!
//! [`CollectionScan::next_delta`] yields each row of a multiset once, with its weight, and can be resumed by key;
//! the iterator repeats rows by their weight, as a SELECT shows them.

use std::sync::Arc;

use datafusion::arrow::array::{RecordBatch, UInt32Array};
use datafusion::arrow::compute::take_record_batch;
use datafusion::arrow::datatypes::SchemaRef;
use tidemark_common::{Delta, Error, Result};

use super::blocks::{Block, BlockRows, GONE};
use super::{Collection, KeyRange, without_columns};
use crate::keys::Key;
use crate::snapshot::{Chunk, Scan, Snapshot};
use crate::value;

#[derive(Debug)]
pub struct CollectionScan {
    collection: Arc<Collection>,
    snapshot: Arc<Snapshot>,
    range: KeyRange,
    /// Entries up to the next block.
    entries: Scan,
    /// That block.
    ahead: Option<Block>,
    columns: Vec<usize>,
    /// Of the batches it yields.
    schema: SchemaRef,
    batch_size: usize,
    chunk: Chunk,
    /// Rows of a block, and how many of them were yielded.
    block: Option<(BlockRows, usize)>,
    /// What was yielded last, and its last key.
    yielded: Yielded,
    last_key: Option<Vec<u8>>,
    repeating: Repeating,
}

#[derive(Debug)]
enum Yielded {
    Chunk,
    /// So many rows of `block`.
    Block(usize),
}

/// Deltas as batches: each row as often as it is there. After an error comes nothing more.
#[derive(Debug, Default)]
pub(super) struct Repeating {
    /// Rows that were not shown often enough yet.
    repeats: Option<Repeats>,
    failed: bool,
}

#[derive(Debug)]
struct Repeats {
    batch: RecordBatch,
    weights: Vec<i64>,
    row: usize,
    /// How often `row` was shown.
    shown: i64,
}

impl CollectionScan {
    pub(super) fn new(
        collection: Arc<Collection>,
        snapshot: Arc<Snapshot>,
        range: KeyRange,
        columns: Vec<usize>,
        schema: SchemaRef,
        batch_size: usize,
    ) -> Result<Self> {
        let (from, to) = range.span(collection.id);
        let first = range.bounds().0.to_vec();
        let mut scan = Self {
            entries: snapshot.scan(&from, &to),
            collection,
            snapshot,
            range,
            ahead: None,
            columns,
            schema,
            batch_size: batch_size.max(1),
            chunk: Chunk::default(),
            block: None,
            yielded: Yielded::Chunk,
            last_key: None,
            repeating: Repeating::default(),
        };
        scan.look_ahead(&first)?;
        Ok(scan)
    }

    /// Finds the next block from this key on; the entries before it come first.
    fn look_ahead(&mut self, from: &[u8]) -> Result<()> {
        let collection = &self.collection;
        if !collection.in_blocks {
            return Ok(());
        }
        let rows = Key::rows(collection.id).start;
        let block = collection.block_from_key(&self.snapshot, from)?;
        let (_, end) = self.range.span(collection.id);
        let until = block.map_or(end.clone(), |block| [rows.as_slice(), &block.first_key()].concat().min(end.clone()));
        self.ahead = block.filter(|_| until < end);
        self.entries = self.snapshot.scan(&[rows.as_slice(), from].concat(), &until);
        Ok(())
    }

    /// The schema of the batches.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The last key that [`CollectionScan::next_delta`] has yielded; a scan of a range [`after`](super::KeyRange::after) it,
    /// of this or a later snapshot, goes on from there.
    pub fn resume_key(&self) -> Option<&[u8]> {
        self.last_key.as_deref()
    }

    /// The keys of the rows that [`CollectionScan::next_delta`] has yielded last.
    pub(crate) fn row_keys(&self) -> Vec<Vec<u8>> {
        match (&self.yielded, &self.block) {
            (Yielded::Block(len), Some((rows, done))) => (done - len..*done).map(|row| rows.key(row)).collect(),
            _ => self.rows_of_chunk().map(|(key, _)| key.to_vec()).collect(),
        }
    }

    /// The next rows with their weights (`None` unless a multiset has some more than once).
    pub fn next_delta(&mut self) -> Result<Option<Delta>> {
        loop {
            if let Some((rows, done)) = &mut self.block {
                let len = self.batch_size.min(rows.batch.num_rows() - *done);
                if len > 0 {
                    let batch = rows.batch.slice(*done, len);
                    *done += len;
                    self.last_key = Some(rows.key(*done - 1));
                    self.yielded = Yielded::Block(len);
                    return Ok(Some(Delta::new(batch, None)));
                }
                self.block = None;
            }
            if let Some(rows) = self.next_entries()? {
                return Ok(Some(rows));
            }
            let Some(block) = self.ahead.take() else { return Ok(None) };
            let (from, to) = self.range.bounds();
            let rows = (from, to.unwrap_or(&[u8::MAX]));
            let rows = self.collection.read_block(&self.snapshot, block, rows, &self.columns, &self.schema)?;
            self.block = Some((rows, 0));
            self.look_ahead(&block.end_key())?;
        }
    }

    fn next_entries(&mut self) -> Result<Option<Delta>> {
        while self.entries.fill(&mut self.chunk, self.batch_size)? {
            let (keys, values): (Vec<&[u8]>, Vec<&[u8]>) = self.rows_of_chunk().unzip();
            if keys.is_empty() {
                continue;
            }
            let values = values.into_iter().map(value::unframe).collect::<Result<Vec<_>>>()?;
            let rows = self.collection.delta_of(&keys, &values, &self.columns, &self.schema)?;
            let last_key = keys.last().map(|key| key.to_vec());
            self.last_key = last_key;
            self.yielded = Yielded::Chunk;
            return Ok(Some(rows));
        }
        Ok(None)
    }

    /// Keys and values, in their frames; without rows of blocks that are no more.
    fn rows_of_chunk(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let prefix = Key::rows(self.collection.id).start.len();
        let is_gone = |value: &[u8]| self.collection.in_blocks && value.get(1..) == Some(GONE);
        self.chunk.iter().filter(move |(_, value)| !is_gone(value)).map(move |(key, value)| (&key[prefix..], value))
    }
}

impl Repeating {
    /// The next batch of what `deltas` gives.
    pub fn next(
        &mut self,
        batch_size: usize,
        deltas: impl FnMut() -> Result<Option<Delta>>,
    ) -> Option<Result<RecordBatch>> {
        if self.failed {
            return None;
        }
        let next = self.next_batch(batch_size, deltas);
        self.failed = next.is_err();
        next.transpose()
    }

    fn next_batch(
        &mut self,
        batch_size: usize,
        mut deltas: impl FnMut() -> Result<Option<Delta>>,
    ) -> Result<Option<RecordBatch>> {
        loop {
            if let Some(repeats) = &mut self.repeats {
                if let Some(batch) = repeats.next_batch(batch_size)? {
                    return Ok(Some(batch));
                }
                self.repeats = None;
            }
            match deltas()? {
                None => return Ok(None),
                Some(Delta { batch, weights: None }) => return Ok(Some(batch)),
                Some(Delta { batch, weights: Some(weights) }) => {
                    self.repeats = Some(Repeats::new(batch, weights.values().to_vec()));
                }
            }
        }
    }
}

impl Repeats {
    fn new(batch: RecordBatch, weights: Vec<i64>) -> Self {
        Self { batch, weights, row: 0, shown: 0 }
    }

    fn next_batch(&mut self, batch_size: usize) -> Result<Option<RecordBatch>> {
        let mut rows: Vec<u32> = Vec::new();
        while self.row < self.batch.num_rows() && rows.len() < batch_size {
            let left = self.weights[self.row] - self.shown;
            let room = i64::try_from(batch_size - rows.len()).unwrap_or(i64::MAX);
            let now = left.min(room);
            let row = u32::try_from(self.row).map_err(|_| Error::internal("a batch of more than 4 billion rows"))?;
            rows.extend(std::iter::repeat_n(row, usize::try_from(now).unwrap_or(0)));
            self.shown += now;
            if now == left {
                (self.row, self.shown) = (self.row + 1, 0);
            }
        }
        if rows.is_empty() {
            return Ok(None);
        }
        if self.batch.num_columns() == 0 {
            return Ok(Some(without_columns(&self.batch, rows.len())?));
        }
        Ok(Some(take_record_batch(&self.batch, &UInt32Array::from(rows))?))
    }
}

impl Iterator for CollectionScan {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut repeating = std::mem::take(&mut self.repeating);
        let next = repeating.next(self.batch_size, || self.next_delta());
        self.repeating = repeating;
        next
    }
}
