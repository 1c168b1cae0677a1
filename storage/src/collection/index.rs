//! An [`Index`] of a collection: from some of its columns to the rows that have their values.
//!
//! ```text
//!   index       Key::Row                                              value
//!   plain       the columns, encoded ++ the row's key in the collection   that key
//!   unique      the columns, encoded                                      the row's key in the collection
//!
//!   Delta ──CollectionWriter──▶ rows that came, rows that went ──▶ entries of every index, in the same EpochCommit
//!   KeyRange ──Index::read──▶ row keys ──Collection──▶ RecordBatch
//! ```
//!
//! A unique index has no entry for a row with NULL in one of its columns: NULLs are distinct, and so it leads to all rows only
//! where its columns are known not to be NULL.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, RecordBatch};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::util::display::array_value_to_string;
use datafusion::scalar::ScalarValue;
use tidemark_common::{Delta, Error, Result, SqlState};

use super::scan::Repeating;
use super::{Collection, KeyRange, Layout};
use crate::commit::EpochCommit;
use crate::keys::{Key, StateId};
use crate::rows::EncodedRows;
use crate::snapshot::{Chunk, Scan, Snapshot};
use crate::value;

#[derive(Debug)]
pub struct Index {
    name: String,
    columns: Vec<usize>,
    unique: bool,
    /// Its columns alone, all of them the key.
    pub(super) keys: Collection,
}

/// A row of a delta that changes what is under a key of the collection.
#[derive(Debug)]
pub(super) struct Move {
    pub row_key: Vec<u8>,
    /// Rows of the delta: what was there, what is there now.
    pub gone: Option<usize>,
    pub come: Option<usize>,
}

/// Keys of a batch's rows in an index.
pub struct IndexKeys {
    encoded: EncodedRows,
    null: Vec<bool>,
}

impl IndexKeys {
    /// `None`: a NULL in it, which equals nothing.
    pub fn get(&self, row: usize) -> Option<&[u8]> {
        (!self.null[row]).then(|| self.encoded.row(row))
    }
}

impl Index {
    /// Of a collection with columns as `schema` says. `id` is no other collection's.
    pub fn new(id: StateId, name: &str, schema: &SchemaRef, columns: Vec<usize>, unique: bool) -> Result<Self> {
        let own = Arc::new(schema.project(&columns)?);
        let layout = Layout::Keyed { key: (0..columns.len()).collect() };
        Ok(Self { name: name.into(), columns, unique, keys: Collection::new(id, own, layout)?.with_name(name) })
    }

    pub fn id(&self) -> StateId {
        self.keys.id
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Columns of the collection, in the order of the index.
    pub fn columns(&self) -> &[usize] {
        &self.columns
    }

    pub fn is_unique(&self) -> bool {
        self.unique
    }

    /// Bytes on disk, roughly, as [`Collection::approximate_bytes`].
    pub fn approximate_bytes(&self, snapshot: &Snapshot) -> u64 {
        self.keys.approximate_bytes(snapshot)
    }

    /// Of a range's entries.
    pub fn approximate_bytes_in(&self, snapshot: &Snapshot, range: &KeyRange) -> u64 {
        let (from, to) = range.span(self.id());
        snapshot.approximate_bytes(&from, &to)
    }

    /// What the rows have in the index's columns, without their own keys.
    pub fn keys_of(&self, batch: &RecordBatch) -> Result<IndexKeys> {
        let columns: Vec<ArrayRef> = self.columns.iter().map(|&c| Arc::clone(batch.column(c))).collect();
        self.encode(&columns, batch.num_rows())
    }

    fn encode(&self, columns: &[ArrayRef], rows: usize) -> Result<IndexKeys> {
        let encoded = self.keys.encode_keys(columns, rows)?;
        let null = (0..rows).map(|row| columns.iter().any(|c| c.is_null(row))).collect();
        Ok(IndexKeys { encoded, null })
    }

    /// As [`Collection::prefix_range`].
    pub fn prefix_range(&self, values: &[ScalarValue]) -> Result<KeyRange> {
        self.keys.prefix_range(values)
    }

    /// As [`Collection::bounded_range`].
    pub fn bounded_range(
        &self,
        prefix: &[ScalarValue],
        lower: Bound<&ScalarValue>,
        upper: Bound<&ScalarValue>,
    ) -> Result<KeyRange> {
        self.keys.bounded_range(prefix, lower, upper)
    }

    /// The error for a row, given the index's columns, that has the values of another one.
    pub(crate) fn not_unique(&self, batch: &RecordBatch, row: usize) -> Result<Error> {
        let schema = self.keys.schema();
        let names: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
        let values = batch.columns().iter().map(|c| Ok(array_value_to_string(c, row)?)).collect::<Result<Vec<_>>>()?;
        let message = format!("could not create unique index \"{}\"", self.name);
        let detail = format!("Key ({})=({}) is duplicated.", names.join(", "), values.join(", "));
        Ok(Error::new(SqlState::UniqueViolation, message).with_detail(detail))
    }

    /// The rows of `collection` whose entries are in `ranges`, which do not overlap; only `columns` of them.
    pub fn read(
        self: &Arc<Self>,
        collection: &Arc<Collection>,
        snapshot: &Arc<Snapshot>,
        columns: Vec<usize>,
        ranges: Vec<KeyRange>,
        batch_size: usize,
    ) -> Result<IndexScan> {
        let schema = Arc::new(collection.schema().project(&columns)?);
        let mut ranges: Vec<_> = ranges.iter().map(|range| range.span(self.id())).collect();
        ranges.reverse();
        Ok(IndexScan {
            index: Arc::clone(self),
            collection: Arc::clone(collection),
            snapshot: Arc::clone(snapshot),
            columns,
            schema,
            ranges,
            scan: None,
            chunk: Chunk::default(),
            batch_size: batch_size.max(1),
            repeating: Repeating::default(),
        })
    }

    /// The error for an entry whose row is not there.
    pub(super) fn astray(&self, collection: &Collection) -> Error {
        let (index, name) = (self.name(), collection.name());
        Error::new(SqlState::DataCorrupted, format!("index \"{index}\" leads to a row that \"{name}\" does not have"))
    }

    /// The entry of a row; `None`: it has none.
    fn entry(&self, keys: &IndexKeys, row: usize, row_key: &[u8]) -> Option<Vec<u8>> {
        match self.unique {
            true => keys.get(row).map(<[u8]>::to_vec),
            false => Some([keys.encoded.row(row), row_key].concat()),
        }
    }

    /// Enters what a delta of these rows has changed. What goes makes room for what comes, in whatever order.
    pub(super) fn write(&self, batch: &RecordBatch, moves: &[Move], commit: &mut EpochCommit) -> Result<()> {
        self.write_keys(&self.keys_of(batch)?, moves, commit);
        Ok(())
    }

    fn write_keys(&self, keys: &IndexKeys, moves: &[Move], commit: &mut EpochCommit) {
        let same = |a: usize, b: usize| keys.encoded.row(a) == keys.encoded.row(b) && keys.null[a] == keys.null[b];
        let moved = || moves.iter().filter(|m| !matches!((m.gone, m.come), (Some(a), Some(b)) if same(a, b)));
        let mut entries: BTreeMap<Vec<u8>, Option<&[u8]>> = BTreeMap::new();
        for Move { row_key, gone, .. } in moved() {
            entries.extend(gone.and_then(|row| self.entry(keys, row, row_key)).map(|entry| (entry, None)));
        }
        for Move { row_key, come, .. } in moved() {
            let entry = come.and_then(|row| self.entry(keys, row, row_key));
            entries.extend(entry.map(|entry| (entry, Some(row_key.as_slice()))));
        }
        let prefix = Key::Row { collection: self.id(), key: &[] }.encode();
        for (entry, row_key) in &entries {
            match row_key {
                Some(row_key) => commit.put_framed(&prefix, entry, row_key),
                None => commit.delete_encoded(&prefix, entry),
            }
        }
    }

    /// Enters rows that are in the collection already, given the index's columns of them. `Some`, and nothing: this row has what
    /// another one of them, or one entered before (as `snapshot` has it), has in the columns of a unique index.
    pub(crate) fn enter(
        &self,
        batch: &RecordBatch,
        row_keys: Vec<Vec<u8>>,
        snapshot: &Snapshot,
        commit: &mut EpochCommit,
    ) -> Result<Option<usize>> {
        let moves: Vec<Move> = row_keys
            .into_iter()
            .enumerate()
            .map(|(row, row_key)| Move { row_key, gone: None, come: Some(row) })
            .collect();
        let keys = self.encode(batch.columns(), batch.num_rows())?;
        if self.unique {
            let mut given: Vec<(&[u8], usize)> =
                (0..batch.num_rows()).filter_map(|row| Some((keys.get(row)?, row))).collect();
            given.sort_unstable();
            if let Some(two) = given.windows(2).find(|two| two[0].0 == two[1].0) {
                return Ok(Some(two[1].1));
            }
            let wanted: Vec<Vec<u8>> =
                given.iter().map(|(key, _)| Key::Row { collection: self.id(), key }.encode()).collect();
            if let Some(taken) = snapshot.multi_get_encoded(&wanted)?.iter().position(Option::is_some) {
                return Ok(Some(given[taken].1));
            }
        }
        self.write_keys(&keys, &moves, commit);
        Ok(None)
    }
}

/// Rows of a collection by an index, a batch at a time, those of a multiset as often as they are there.
pub struct IndexScan {
    index: Arc<Index>,
    collection: Arc<Collection>,
    snapshot: Arc<Snapshot>,
    columns: Vec<usize>,
    schema: SchemaRef,
    /// Encoded keys still to be read, the last first.
    ranges: Vec<(Vec<u8>, Vec<u8>)>,
    scan: Option<Scan>,
    chunk: Chunk,
    batch_size: usize,
    repeating: Repeating,
}

impl IndexScan {
    fn next_delta(&mut self) -> Result<Option<Delta>> {
        let row_keys = self.next_row_keys()?;
        if row_keys.is_empty() {
            return Ok(None);
        }
        let wanted = row_keys.len();
        let rows = self.collection.rows_at(&self.snapshot, row_keys, &self.columns, &self.schema)?;
        match rows.num_rows() == wanted {
            true => Ok(Some(rows)),
            false => Err(self.index.astray(&self.collection)),
        }
    }

    /// Keys of the next rows, of as many ranges as it takes to fill a batch; none at the end.
    fn next_row_keys(&mut self) -> Result<Vec<Vec<u8>>> {
        let mut row_keys = Vec::new();
        while row_keys.len() < self.batch_size {
            let scan = match &mut self.scan {
                Some(scan) => scan,
                None => match self.ranges.pop() {
                    Some((from, to)) => self.scan.insert(self.snapshot.scan(&from, &to)),
                    None => break,
                },
            };
            if !scan.fill(&mut self.chunk, self.batch_size - row_keys.len())? {
                self.scan = None;
                continue;
            }
            for (_, stored) in self.chunk.iter() {
                row_keys.push(value::unframe(stored)?.to_vec());
            }
        }
        Ok(row_keys)
    }
}

impl Iterator for IndexScan {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut repeating = std::mem::take(&mut self.repeating);
        let next = repeating.next(self.batch_size, || self.next_delta());
        self.repeating = repeating;
        next
    }
}
