//! One transaction's changes of one table, before they are committed.
//!
//! ```text
//!   statements ──remove(rows), add(rows)──▶ log of batches ──▶ by key: the row before, the row now
//!                                            │                         │
//!                          ROLLBACK TO cuts it short       scans see it  ·  COMMIT sends the net of it
//! ```
//!
//! A statement reads the log up to where it was when the statement began ([`OwnChanges`]), and of the index what its keys
//! touch: what a statement costs does not grow with what the transaction has done before.
//!
//! Rows have the table's stored columns. In a table without a primary key the last of these is the hidden row number; a row
//! that is new gets a negative one here, and its real one at commit.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use datafusion::arrow::array::{Array, ArrayRef, BooleanArray, Int64Array, RecordBatch};
use datafusion::arrow::compute::concat_batches;
use datafusion::arrow::datatypes::SchemaRef;
use tidemark_common::{Epoch, Error, Result, SqlState};
use tidemark_engine::{TableDef, TableWrite};
use tidemark_storage::{EncodedRows, KeyRange, StateId};

use super::changes::{Changes, Logged, RowAt};

/// A transaction's changes of one table as a statement sees them: those of the statements before it. What the transaction does
/// later is not among them, so a cursor goes on reading what it began with.
#[derive(Debug, Clone)]
pub struct OwnChanges {
    changes: Arc<RwLock<Changes>>,
    upto: usize,
    schema: SchemaRef,
}

impl OwnChanges {
    /// For each key of the snapshot: its row still stands as it is there.
    pub fn untouched(&self, keys: &EncodedRows) -> BooleanArray {
        let changes = read(&self.changes);
        keys.iter().map(|key| Some(!changes.touches(key, self.upto))).collect()
    }

    /// The rows of a range that the transaction put in and that are still there, in order of key.
    pub fn added(
        &self,
        range: &KeyRange,
        batch_rows: usize,
    ) -> impl Iterator<Item = Result<RecordBatch>> + Send + use<> {
        let rows: Vec<RowAt> = {
            let (from, to) = range.bounds();
            read(&self.changes).standing(self.upto, from, to)
        };
        let own = self.clone();
        (0..rows.len()).step_by(batch_rows).map(move |from| {
            let to = rows.len().min(from + batch_rows);
            read(&own.changes).gather(&rows[from..to], &own.schema)
        })
    }
}

// A thread that panicked has left nothing half done that others could not read.
fn read(changes: &RwLock<Changes>) -> RwLockReadGuard<'_, Changes> {
    changes.read().unwrap_or_else(PoisonError::into_inner)
}

fn write(changes: &RwLock<Changes>) -> RwLockWriteGuard<'_, Changes> {
    changes.write().unwrap_or_else(PoisonError::into_inner)
}

/// Keys under a constraint, and the rows' own.
type Index = HashMap<Box<[u8]>, Box<[u8]>>;

#[derive(Debug)]
pub struct TableBuffer {
    def: TableDef,
    changes: Arc<RwLock<Changes>>,
    next_row_number: i64,
    /// By UNIQUE constraint: keys of the rows put in that are still there, with the rows' own keys.
    indexes: HashMap<StateId, Index>,
    index_bytes: usize,
    unchanged_since: Option<Epoch>,
}

impl TableBuffer {
    pub fn new(def: TableDef) -> Self {
        Self {
            def,
            changes: Arc::default(),
            next_row_number: i64::MIN,
            indexes: HashMap::new(),
            index_bytes: 0,
            unchanged_since: None,
        }
    }

    /// The changes were made from all of the table as of that epoch: what others did since is a conflict.
    pub fn depends_on_all(&mut self, epoch: Epoch) {
        self.unchanged_since = Some(epoch);
    }

    pub fn def(&self) -> &TableDef {
        &self.def
    }

    /// Memory of the buffered rows, roughly.
    pub fn bytes(&self) -> usize {
        read(&self.changes).bytes + self.index_bytes
    }

    /// The changes so far, for a scan.
    pub fn changes(&self) -> OwnChanges {
        let upto = read(&self.changes).log.len();
        OwnChanges { changes: self.changes.clone(), upto, schema: self.def.collection.schema().clone() }
    }

    /// For [`TableBuffer::rollback_to`].
    pub fn mark(&self) -> usize {
        read(&self.changes).log.len()
    }

    /// Forgets what came after the mark. Scans that have seen it keep it.
    pub fn rollback_to(&mut self, mark: usize) -> Result<()> {
        let log: Vec<Logged> = {
            let changes = read(&self.changes);
            if changes.log.len() == mark {
                return Ok(());
            }
            changes.log[..mark].to_vec()
        };
        let mut changes = Changes::default();
        for logged in log {
            match logged {
                Logged::Removed(batch) => {
                    let keys = self.def.collection.key_of(&batch)?;
                    changes.remove(batch, &keys);
                }
                Logged::Added(batch) => {
                    let keys = self.def.collection.key_of(&batch)?;
                    let added = changes.add(batch, &keys);
                    debug_assert!(added, "it could be added before");
                }
                Logged::Appended(batch, first) => changes.append(batch, first),
            }
        }
        self.changes = Arc::new(RwLock::new(changes));
        self.indexes.clear();
        self.index_bytes = 0;
        Ok(())
    }

    /// Takes rows out, as they stand in the snapshot or in this buffer.
    pub fn remove(&mut self, batch: RecordBatch) -> Result<()> {
        let keys = self.def.collection.key_of(&batch)?;
        write(&self.changes).remove(batch, &keys);
        Ok(())
    }

    /// Puts rows in. A row number of NULL is given here.
    pub fn add(&mut self, batch: RecordBatch) -> Result<RecordBatch> {
        let is_new = self.def.key_name.is_none() && row_numbers(&batch)?.null_count() == batch.num_rows();
        let first = self.next_row_number + 1;
        let batch = self.number(batch)?;
        if is_new {
            write(&self.changes).append(batch.clone(), first);
            return Ok(batch);
        }
        let keys = self.def.collection.key_of(&batch)?;
        match write(&self.changes).add(batch.clone(), &keys) {
            true => Ok(batch),
            false => Err(self.duplicate()),
        }
    }

    fn duplicate(&self) -> Error {
        let name = self.def.key_name.as_deref().unwrap_or(&self.def.name);
        Error::new(SqlState::UniqueViolation, format!("duplicate key value violates unique constraint \"{name}\""))
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
        read(&self.changes).lookup(key)
    }

    /// Rows found by [`TableBuffer::lookup`].
    pub fn gather(&self, rows: &[RowAt]) -> Result<RecordBatch> {
        read(&self.changes).gather(rows, self.def.collection.schema())
    }

    /// Keys of the rows that were taken out or put in after the mark.
    pub fn touched_since(&self, mark: usize) -> Result<HashSet<Vec<u8>>> {
        let mut keys = HashSet::new();
        for logged in &read(&self.changes).log[mark..] {
            keys.extend(self.def.collection.key_of(logged.rows())?.iter().map(<[u8]>::to_vec));
        }
        Ok(keys)
    }

    /// The rows that the transaction put in and that are still there, in order of key.
    pub fn current(&self) -> Result<RecordBatch> {
        let schema = self.def.collection.schema();
        Ok(concat_batches(schema, &read(&self.changes).current(schema)?)?)
    }

    pub fn is_empty(&self) -> bool {
        read(&self.changes).is_empty()
    }

    // ---- UNIQUE -------------------------------------------------------------------------------------------------------

    pub fn has_index(&self, constraint: StateId) -> bool {
        self.indexes.contains_key(&constraint)
    }

    /// The key of the row put in that has this key under the constraint.
    pub fn holder(&self, constraint: StateId, key: &[u8]) -> Option<&[u8]> {
        self.indexes.get(&constraint)?.get(key).map(AsRef::as_ref)
    }

    /// Rows put in: their keys under the constraint, and their own.
    pub fn index(&mut self, constraint: StateId, keys: impl Iterator<Item = (Box<[u8]>, Box<[u8]>)>) {
        let index = self.indexes.entry(constraint).or_default();
        for (key, row_key) in keys {
            let bytes = key.len() + row_key.len() + 64;
            if index.insert(key, row_key).is_none() {
                self.index_bytes += bytes;
            }
        }
    }

    /// A row that was put in is gone.
    pub fn unindex(&mut self, constraint: StateId, key: &[u8]) {
        if let Some(index) = self.indexes.get_mut(&constraint)
            && let Some(row_key) = index.remove(key)
        {
            self.index_bytes = self.index_bytes.saturating_sub(key.len() + row_key.len() + 64);
        }
    }

    /// The net of all changes, for the engine.
    pub fn into_write(self) -> Result<Option<TableWrite>> {
        let schema = self.def.collection.schema();
        let changes = read(&self.changes);
        let (removed, mut added) = (changes.gather(&changes.before(), schema)?, changes.current(schema)?);
        if removed.num_rows() == 0 && added.is_empty() {
            return Ok(None);
        }
        if self.def.key_name.is_none() {
            for batch in &mut added {
                let real: Int64Array = row_numbers(batch)?.iter().map(|n| n.filter(|n| *n >= 0)).collect();
                *batch = replace_column(batch, batch.num_columns() - 1, Arc::new(real))?;
            }
        }
        Ok(Some(TableWrite {
            table: self.def.oid,
            contents: self.def.collection.id(),
            unchanged_since: self.unchanged_since,
            removed: (removed.num_rows() > 0).then_some(removed),
            added,
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
