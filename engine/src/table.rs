//! Tables: transactions' writes are checked against the newest state and become changes.
//!
//! ```text
//!   TableWrite (rows out, rows in) ──check──▶ Checked ──admit──▶ Delta of this epoch ──apply──▶ commit
//!        as the session saw them        │
//!                                       └─ the row is not what the session saw: conflict, nothing is admitted
//! ```
//!
//! Writers do not wait for each other. A session computes its changes on a snapshot; here, in the order of arrival, each row it
//! takes out must still be what it saw, and each key it puts in must still be free. So the first committer wins, and a
//! session whose write is refused runs its statement again on newer data.

pub(crate) mod follow;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use std::ops::Bound;

use datafusion::arrow::array::{Array, ArrayRef, Int64Array, RecordBatch};
use datafusion::arrow::compute::concat_batches;
use datafusion::arrow::datatypes::DataType;
use datafusion::scalar::ScalarValue;
use tidemark_common::{Delta, Epoch, Error, Oid, Result, SqlState};
use tidemark_storage::{
    Collection, CollectionWriter, EncodedRows, EpochCommit, Index, Key, MIN_BLOCK_ROWS, RowCodec, Snapshot, StateId,
};

/// A table as the driver needs it.
#[derive(Debug, Clone)]
pub struct TableDef {
    pub oid: Oid,
    pub name: String,
    /// Keyed by the primary key, or by the hidden row number.
    pub collection: Arc<Collection>,
    /// Positions of the key in the collection's columns.
    pub key: Vec<usize>,
    /// Name of the PRIMARY KEY constraint; `None`: the key is the hidden row number, the last column.
    pub key_name: Option<String>,
    /// Those of the UNIQUE constraints, and those of CREATE INDEX.
    pub indexes: Vec<Arc<Index>>,
    /// When rows go by themselves.
    pub ttl: Option<TableTtl>,
}

/// Rows go so long after the time in a column.
#[derive(Debug, Clone)]
pub struct TableTtl {
    /// A timestamp. Rows without one stay.
    pub column: usize,
    /// Microseconds.
    pub micros: i64,
    /// By that column; one of the table's indexes.
    pub index: Arc<Index>,
}

/// Rows that go at once.
const EXPIRED_ROWS: usize = 8192;
/// Microseconds until it is looked for old rows again.
const EXPIRY_STEP: i64 = 1_000_000;

/// Net changes of one table by one transaction. A row number of NULL is given at commit.
#[derive(Debug, Clone)]
pub struct TableWrite {
    pub table: Oid,
    /// The contents that the session saw; a table rewritten meanwhile has others.
    pub contents: StateId,
    /// Nothing of the table may have changed after this epoch, in which the session saw all of it.
    pub unchanged_since: Option<Epoch>,
    pub removed: Option<RecordBatch>,
    /// In the order in which they are numbered.
    pub added: Vec<RecordBatch>,
}

/// Bytes of a key or a row.
type Bytes = Box<[u8]>;
/// A key, and what it leads to from now on.
type KeyChange = (Bytes, Option<Bytes>);
type ByKey = HashMap<Bytes, Option<Bytes>>;

pub(crate) struct Table {
    pub def: TableDef,
    writer: CollectionWriter,
    key: RowCodec,
    row: RowCodec,
    next_row_number: i64,
    /// Rows changed in this epoch so far, by key: the row's bytes, or gone. Without those of `unread`.
    changed: ByKey,
    /// Writes of this epoch that nobody has had to look into: most often it is the epoch's only one.
    unread: Vec<Written>,
    /// The same for each index that is unique: its key -> the table's key.
    changed_unique: Vec<ByKey>,
    changes: Vec<Delta>,
    /// The last epoch that changed it.
    changed_at: Epoch,
    /// When it is looked for old rows.
    expires_at: i64,
}

/// Keys whose rows have gone, and rows that have come, with their keys.
struct Written {
    removed: Option<EncodedRows>,
    added: Option<(EncodedRows, RecordBatch)>,
}

/// A write that may be admitted: everything to remember of it.
pub(crate) struct Checked {
    removed: Option<RecordBatch>,
    added: Vec<RecordBatch>,
    written: Written,
    changed_unique: Vec<Vec<KeyChange>>,
}

impl Table {
    pub fn open(def: TableDef, snapshot: &Arc<Snapshot>, cache: usize) -> Result<Self> {
        let schema = def.collection.schema();
        let codec = |columns: &[usize]| {
            let fields: Vec<_> = columns.iter().map(|c| schema.fields()[*c].clone()).collect();
            RowCodec::for_keys(&fields)
        };
        let key = codec(&def.key)?;
        let next_row_number = match def.key_name {
            Some(_) => 0,
            None => def.collection.last_number(snapshot)?.unwrap_or(0) + 1,
        };
        Ok(Self {
            key,
            row: RowCodec::new(&schema.fields().iter().cloned().collect::<Vec<_>>())?,
            writer: CollectionWriter::new(def.collection.clone(), cache).with_indexes(def.indexes.iter().cloned()),
            next_row_number,
            changed: HashMap::new(),
            unread: Vec::new(),
            changed_unique: vec![HashMap::new(); def.indexes.len()],
            changes: Vec::new(),
            changed_at: snapshot.epoch(),
            expires_at: i64::MIN,
            def,
        })
    }

    /// Compares what the session saw with what is there, this epoch's earlier writes included.
    pub fn check(&mut self, snapshot: &Arc<Snapshot>, write: TableWrite) -> Result<Checked> {
        if write.contents != self.def.collection.id() {
            return Err(conflict(&self.def.name));
        }
        if write.unchanged_since.is_some_and(|epoch| self.changed_at > epoch || !self.changes.is_empty()) {
            return Err(conflict(&self.def.name));
        }
        let (fresh, added) = self.apart(write.added)?;
        self.read_changes()?;
        let removed_keys = write.removed.as_ref().map(|b| self.encode(&self.key, &self.def.key, b)).transpose()?;
        let added_keys = added.as_ref().map(|b| self.encode(&self.key, &self.def.key, b)).transpose()?;
        let removed_rows = write.removed.as_ref().map(|b| self.row.encode(b.columns())).transpose()?;
        if let (Some(keys), Some(rows)) = (&removed_keys, &removed_rows) {
            let current = self.current(snapshot, keys)?;
            let is_there = |i: usize| current[i].as_deref() == Some(rows.row(i));
            if !(0..keys.len()).all(is_there) {
                return Err(conflict(&self.def.name));
            }
        }
        if let Some(keys) = &added_keys {
            let gone: HashSet<&[u8]> = removed_keys.iter().flat_map(EncodedRows::iter).collect();
            self.check_free(snapshot, keys, &gone)?;
            if !are_distinct(keys) {
                return Err(self.duplicate_key());
            }
        }
        let changed_unique = (0..self.def.indexes.len())
            .map(|u| self.check_unique(u, snapshot, write.removed.as_ref(), added.as_ref(), added_keys.as_ref()))
            .collect::<Result<_>>()?;
        let written = Written { removed: removed_keys, added: added_keys.zip(added.clone()) };
        Ok(Checked { removed: write.removed, added: fresh.into_iter().chain(added).collect(), written, changed_unique })
    }

    /// Rows that get their numbers here, of which nobody knows yet and of which no constraint speaks, and the others, in one batch.
    fn apart(&mut self, added: Vec<RecordBatch>) -> Result<(Vec<RecordBatch>, Option<RecordBatch>)> {
        let (mut fresh, mut others) = (Vec::new(), Vec::new());
        let is_free = self.def.key_name.is_none() && self.def.indexes.iter().all(|index| !index.is_unique());
        for batch in added {
            let is_new = is_free && batch.column(self.def.key[0]).null_count() == batch.num_rows();
            let batch = if self.def.key_name.is_none() { self.number_rows(&batch)? } else { batch };
            if is_new { fresh.push(batch) } else { others.push(batch) }
        }
        let others = match others.len() {
            0 | 1 => others.pop(),
            _ => Some(concat_batches(self.def.collection.schema(), &others)?),
        };
        Ok((fresh, others))
    }

    /// Looks into what was written in this epoch.
    fn read_changes(&mut self) -> Result<()> {
        for written in std::mem::take(&mut self.unread) {
            let gone = written.removed.iter().flat_map(EncodedRows::iter);
            self.changed.extend(gone.map(|key| (key.into(), None)));
            if let Some((keys, batch)) = written.added {
                let rows = self.row.encode(batch.columns())?;
                self.changed.extend(keys.iter().enumerate().map(|(i, key)| (key.into(), Some(rows.row(i).into()))));
            }
        }
        Ok(())
    }

    /// The write is part of this epoch from here on.
    pub fn admit(&mut self, checked: Checked) {
        self.unread.push(checked.written);
        for (all, new) in self.changed_unique.iter_mut().zip(checked.changed_unique) {
            all.extend(new);
        }
        if let Some(batch) = checked.removed.filter(|b| b.num_rows() > 0) {
            self.changes.push(Delta::deletes(batch));
        }
        self.changes.extend(checked.added.into_iter().filter(|b| b.num_rows() > 0).map(Delta::inserts));
    }

    /// It is to be looked for old rows.
    pub fn is_due(&self, now: i64) -> bool {
        self.def.ttl.is_some() && now >= self.expires_at
    }

    /// Takes the oldest rows out whose time has come. Rows that a transaction of this epoch has changed wait for the next.
    pub fn expire(&mut self, snapshot: &Arc<Snapshot>, now: i64) -> Result<()> {
        // What was emptied in this epoch has no rows any more, whatever the snapshot shows.
        if !self.is_due(now) || self.changed_at > snapshot.epoch() {
            return Ok(());
        }
        let Some(TableTtl { column, micros, index }) = self.def.ttl.clone() else { return Ok(()) };
        let collection = &self.def.collection;
        let DataType::Timestamp(_, zone) = collection.schema().field(column).data_type().clone() else {
            return Err(Error::internal(format!("\"{}\" has a ttl by a column that is no time", self.def.name)));
        };
        let time = |micros: i64| ScalarValue::TimestampMicrosecond(Some(micros), zone.clone());
        let (first, last) = (time(i64::MIN), time(now.saturating_sub(micros)));
        let range = index.bounded_range(&[], Bound::Included(&first), Bound::Included(&last))?;
        let all = (0..collection.schema().fields().len()).collect();
        let mut old = index.read(collection, snapshot, all, vec![range], EXPIRED_ROWS)?;
        let old = old.next().transpose()?.filter(|rows| rows.num_rows() > 0);
        let is_full = old.as_ref().is_some_and(|rows| rows.num_rows() >= EXPIRED_ROWS);
        self.expires_at = if is_full { now } else { now.saturating_add(EXPIRY_STEP) };
        let Some(rows) = old else { return Ok(()) };
        let (table, contents) = (self.def.oid, self.def.collection.id());
        let write = TableWrite { table, contents, unchanged_since: None, removed: Some(rows), added: vec![] };
        match self.check(snapshot, write) {
            Ok(checked) => self.admit(checked),
            Err(error) if error.state() == SqlState::SerializationFailure => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Adds rows of the engine's own to this epoch.
    pub fn add(&mut self, snapshot: &Arc<Snapshot>, rows: RecordBatch) -> Result<()> {
        let (table, contents) = (self.def.oid, self.def.collection.id());
        let write = TableWrite { table, contents, unchanged_since: None, removed: None, added: vec![rows] };
        let checked = self.check(snapshot, write)?;
        self.admit(checked);
        Ok(())
    }

    /// Ends the epoch: writes what was admitted, and gives it to whoever follows the table.
    pub fn apply(&mut self, snapshot: &Arc<Snapshot>, commit: &mut EpochCommit) -> Result<Vec<Delta>> {
        let changes = std::mem::take(&mut self.changes);
        self.changed.clear();
        self.unread.clear();
        self.changed_unique.iter_mut().for_each(HashMap::clear);
        if !changes.is_empty() {
            // Rows that have only come are as well written one batch after the other, and the large ones not copied.
            let only_come = changes.iter().all(|delta| delta.weights.is_none());
            let (large, small): (Vec<_>, Vec<_>) =
                changes.iter().cloned().partition(|delta| only_come && delta.num_rows() >= MIN_BLOCK_ROWS);
            large.iter().try_for_each(|delta| self.writer.apply(snapshot, delta, commit))?;
            if !small.is_empty() {
                let net = Delta::concat(self.def.collection.schema(), &small)?;
                self.writer.apply(snapshot, &net, commit)?;
            }
            self.changed_at = commit.epoch();
        }
        Ok(changes)
    }

    pub fn writer_mut(&mut self) -> &mut CollectionWriter {
        &mut self.writer
    }

    /// Empties it; the epoch has no other change of it.
    pub fn truncate(&mut self, snapshot: &Snapshot, commit: &mut EpochCommit) -> Result<()> {
        self.changed_at = commit.epoch();
        self.writer.truncate(snapshot, commit)
    }

    fn encode(&self, codec: &RowCodec, columns: &[usize], batch: &RecordBatch) -> Result<EncodedRows> {
        let columns: Vec<ArrayRef> = columns.iter().map(|c| batch.column(*c).clone()).collect();
        codec.encode_rows(&columns, batch.num_rows())
    }

    /// Gives a number to each row that has none.
    fn number_rows(&mut self, batch: &RecordBatch) -> Result<RecordBatch> {
        let position = self.def.key[0];
        let numbers = batch.column(position).as_any().downcast_ref::<Int64Array>();
        let numbers = numbers.ok_or_else(|| Error::internal("the row number is not a bigint"))?;
        if numbers.null_count() == 0 {
            return Ok(batch.clone());
        }
        let given: Int64Array = numbers
            .iter()
            .map(|n| {
                Some(n.unwrap_or_else(|| {
                    self.next_row_number += 1;
                    self.next_row_number - 1
                }))
            })
            .collect();
        let mut columns = batch.columns().to_vec();
        columns[position] = Arc::new(given);
        Ok(RecordBatch::try_new(batch.schema(), columns)?)
    }

    /// Each key's row as bytes, as of now.
    fn current(&self, snapshot: &Arc<Snapshot>, keys: &EncodedRows) -> Result<Vec<Option<Box<[u8]>>>> {
        let mut rows: Vec<Option<Box<[u8]>>> = vec![None; keys.len()];
        let mut stored = Vec::new();
        for (i, key) in keys.iter().enumerate() {
            match self.changed.get(key) {
                Some(row) => rows[i] = row.clone(),
                None => stored.push(i),
            }
        }
        let wanted: Vec<&[u8]> = stored.iter().map(|i| keys.row(*i)).collect();
        let found = self.def.collection.get_rows(snapshot, &wanted)?;
        let encoded = self.row.encode_rows(found.batch.columns(), found.batch.num_rows())?;
        for (i, position) in stored.iter().zip(&found.found) {
            rows[*i] = position.map(|p| encoded.row(p).into());
        }
        Ok(rows)
    }

    fn check_free(&self, snapshot: &Arc<Snapshot>, keys: &EncodedRows, gone: &HashSet<&[u8]>) -> Result<()> {
        if self.def.key_name.is_none() {
            return Ok(()); // row numbers are ours: either just given, or of a row that was taken out above
        }
        let mut unknown = Vec::new();
        for key in keys.iter().filter(|key| !gone.contains(*key)) {
            match self.changed.get(key) {
                Some(Some(_)) => return Err(self.duplicate_key()),
                Some(None) => {}
                None => unknown.push(Key::Row { collection: self.def.collection.id(), key }.encode()),
            }
        }
        if snapshot.multi_get_encoded(&unknown)?.iter().any(Option::is_some) {
            return Err(self.duplicate_key());
        }
        Ok(())
    }

    fn check_unique(
        &self,
        index: usize,
        snapshot: &Snapshot,
        removed: Option<&RecordBatch>,
        added: Option<&RecordBatch>,
        added_keys: Option<&EncodedRows>,
    ) -> Result<Vec<KeyChange>> {
        let def = &self.def.indexes[index];
        let mut changed: ByKey = HashMap::new();
        if !def.is_unique() {
            return Ok(Vec::new());
        }
        if let Some(batch) = removed {
            let keys = def.keys_of(batch)?;
            changed.extend((0..batch.num_rows()).filter_map(|row| keys.get(row)).map(|key| (key.into(), None)));
        }
        if let (Some(batch), Some(to)) = (added, added_keys) {
            let keys = def.keys_of(batch)?;
            // Where there is no key there is a NULL, and NULLs are distinct.
            for (row, key) in (0..batch.num_rows()).filter_map(|row| Some((row, keys.get(row)?))) {
                let taken = match changed.get(key).or_else(|| self.changed_unique[index].get(key)) {
                    Some(state) => state.is_some(),
                    None => snapshot.get(&Key::Row { collection: def.id(), key })?.is_some(),
                };
                if taken {
                    return Err(duplicate(def.name()));
                }
                changed.insert(key.into(), Some(to.row(row).into()));
            }
        }
        Ok(changed.into_iter().collect())
    }

    fn duplicate_key(&self) -> Error {
        duplicate(self.def.key_name.as_deref().unwrap_or(&self.def.name))
    }
}

/// No key is there twice. Sessions give rows in the order of their keys.
fn are_distinct(keys: &EncodedRows) -> bool {
    let ascending = (1..keys.len()).all(|i| keys.row(i - 1) < keys.row(i));
    ascending || {
        let mut seen = HashSet::with_capacity(keys.len());
        keys.iter().all(|key| seen.insert(key))
    }
}

fn duplicate(constraint: &str) -> Error {
    Error::new(SqlState::UniqueViolation, format!("duplicate key value violates unique constraint \"{constraint}\""))
}

/// A row is no longer what the session saw.
pub(crate) fn conflict(table: &str) -> Error {
    Error::new(SqlState::SerializationFailure, "could not serialize access due to concurrent update")
        .with_detail(format!("A row of \"{table}\" was changed by a transaction that committed meanwhile."))
        .with_hint("Run the transaction again.")
}
