//! One transaction's changes of one table, before they are committed.
//!
//! ```text
//!   statements ──remove(rows), add(rows)──▶ log of batches ──▶ by key: the row before, the row now
//!                                            │                         │
//!                          ROLLBACK TO cuts it short       scans see it  ·  COMMIT sends the net of it
//! ```
//!
//! Rows have the table's stored columns. In a table without a primary key the last of these is the hidden row number; a row
//! that is new gets a negative one here, and its real one at commit.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, Int64Array, RecordBatch};
use datafusion::arrow::compute::interleave_record_batch;
use tidemark_common::{Error, Result, SqlState};
use tidemark_engine::{TableDef, TableWrite};

/// A row of a batch in the log.
type RowAt = (usize, usize);

#[derive(Debug, Clone, Copy)]
struct Entry {
    /// The row in the snapshot, if the transaction took one out.
    before: Option<RowAt>,
    now: Option<RowAt>,
}

#[derive(Debug, Clone)]
enum Logged {
    Removed(RecordBatch),
    Added(RecordBatch),
}

#[derive(Debug)]
pub struct TableBuffer {
    def: TableDef,
    log: Vec<Logged>,
    batches: Vec<RecordBatch>,
    rows: BTreeMap<Vec<u8>, Entry>,
    bytes: usize,
    next_row_number: i64,
}

impl TableBuffer {
    pub fn new(def: TableDef) -> Self {
        Self { def, log: Vec::new(), batches: Vec::new(), rows: BTreeMap::new(), bytes: 0, next_row_number: i64::MIN }
    }

    pub fn def(&self) -> &TableDef {
        &self.def
    }

    /// Memory of the buffered rows, roughly.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// For [`TableBuffer::rollback_to`].
    pub fn mark(&self) -> usize {
        self.log.len()
    }

    /// Forgets what came after the mark.
    pub fn rollback_to(&mut self, mark: usize) -> Result<()> {
        let mut log = std::mem::take(&mut self.log);
        log.truncate(mark);
        (self.batches, self.rows, self.bytes) = (Vec::new(), BTreeMap::new(), 0);
        for logged in log {
            match logged {
                Logged::Removed(batch) => self.remove(batch)?,
                Logged::Added(batch) => self.push_added(batch)?,
            }
        }
        Ok(())
    }

    /// Takes rows out, as they stand in the snapshot or in this buffer.
    pub fn remove(&mut self, batch: RecordBatch) -> Result<()> {
        let keys = self.def.collection.key_of(&batch)?;
        let at = self.keep(&batch);
        for (i, key) in keys.iter().enumerate() {
            match self.rows.get_mut(key) {
                Some(entry) => entry.now = None,
                None => {
                    self.rows.insert(key.to_vec(), Entry { before: Some((at, i)), now: None });
                }
            }
        }
        self.log.push(Logged::Removed(batch));
        Ok(())
    }

    /// Puts rows in. A row number of NULL is given here.
    pub fn add(&mut self, batch: RecordBatch) -> Result<RecordBatch> {
        let batch = self.number(batch)?;
        self.push_added(batch.clone())?;
        Ok(batch)
    }

    fn push_added(&mut self, batch: RecordBatch) -> Result<()> {
        let keys = self.def.collection.key_of(&batch)?;
        let at = self.keep(&batch);
        for (i, key) in keys.iter().enumerate() {
            let entry = self.rows.entry(key.to_vec()).or_insert(Entry { before: None, now: None });
            if entry.now.is_some() {
                return Err(self.duplicate());
            }
            entry.now = Some((at, i));
        }
        self.log.push(Logged::Added(batch));
        Ok(())
    }

    fn duplicate(&self) -> Error {
        let name = self.def.key_name.as_deref().unwrap_or(&self.def.name);
        Error::new(SqlState::UniqueViolation, format!("duplicate key value violates unique constraint \"{name}\""))
    }

    fn keep(&mut self, batch: &RecordBatch) -> usize {
        self.bytes += batch.get_array_memory_size() + batch.num_rows() * 64;
        self.batches.push(batch.clone());
        self.batches.len() - 1
    }

    fn number(&mut self, batch: RecordBatch) -> Result<RecordBatch> {
        if self.def.key_name.is_some() {
            return Ok(batch);
        }
        let position = batch.num_columns() - 1;
        let numbers = row_numbers(&batch)?;
        let given: Int64Array = numbers
            .iter()
            .map(|n| {
                Some(n.unwrap_or_else(|| {
                    // Below all that are stored, and rising: at the commit rows are numbered in this order.
                    self.next_row_number += 1;
                    self.next_row_number
                }))
            })
            .collect();
        replace_column(&batch, position, Arc::new(given))
    }

    /// True, and the row that is there now, for each key the transaction has touched.
    pub fn lookup(&self, key: &[u8]) -> Option<Option<RowAt>> {
        self.rows.get(key).map(|entry| entry.now)
    }

    /// Rows found by [`TableBuffer::lookup`].
    pub fn gather(&self, rows: &[RowAt]) -> Result<RecordBatch> {
        if rows.is_empty() {
            return Ok(RecordBatch::new_empty(self.def.collection.schema().clone()));
        }
        let batches: Vec<&RecordBatch> = self.batches.iter().collect();
        Ok(interleave_record_batch(&batches, rows)?)
    }

    /// Keys of the rows in the snapshot that no longer stand as they are there, and of those that are new.
    pub fn touched(&self) -> HashSet<Vec<u8>> {
        self.rows.keys().cloned().collect()
    }

    /// Keys of the rows that were taken out or put in after the mark.
    pub fn touched_since(&self, mark: usize) -> Result<HashSet<Vec<u8>>> {
        let mut keys = HashSet::new();
        for Logged::Removed(batch) | Logged::Added(batch) in &self.log[mark..] {
            keys.extend(self.def.collection.key_of(batch)?.iter().map(<[u8]>::to_vec));
        }
        Ok(keys)
    }

    /// The rows that the transaction put in and that are still there, in order of key.
    pub fn current(&self) -> Result<RecordBatch> {
        self.gather(&self.rows.values().filter_map(|e| e.now).collect::<Vec<_>>())
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The net of all changes, for the engine.
    pub fn into_write(self) -> Result<Option<TableWrite>> {
        let removed = self.gather(&self.rows.values().filter_map(|e| e.before).collect::<Vec<_>>())?;
        let mut added = self.current()?;
        if removed.num_rows() == 0 && added.num_rows() == 0 {
            return Ok(None);
        }
        if self.def.key_name.is_none() {
            let real: Int64Array = row_numbers(&added)?.iter().map(|n| n.filter(|n| *n >= 0)).collect();
            added = replace_column(&added, added.num_columns() - 1, Arc::new(real))?;
        }
        Ok(Some(TableWrite {
            table: self.def.oid,
            contents: self.def.collection.id(),
            removed: (removed.num_rows() > 0).then_some(removed),
            added: (added.num_rows() > 0).then_some(added),
        }))
    }
}

fn row_numbers(batch: &RecordBatch) -> Result<Int64Array> {
    let column = batch.column(batch.num_columns() - 1);
    column
        .as_any()
        .downcast_ref::<Int64Array>()
        .cloned()
        .ok_or_else(|| Error::internal("the row number is not a bigint"))
}

fn replace_column(batch: &RecordBatch, position: usize, column: ArrayRef) -> Result<RecordBatch> {
    let mut columns = batch.columns().to_vec();
    columns[position] = column;
    Ok(RecordBatch::try_new(batch.schema(), columns)?)
}
