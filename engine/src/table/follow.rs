//! The rows of a source that has a primary key: what its records say becomes changes.
//!
//! ```text
//!   records of an epoch, in order          rows before           changes
//!
//!   put    k=1 a=5 ─┐                      k=1 a=4               -(1, 4) +(1, 5)
//!   put    k=2 a=7  ├─ last of each key ──▶ k=2 a=7   ──compare──▶  (nothing)
//!   delete k=3     ─┘                      k=3 a=1               -(3, 1)
//!   truncate ──▶ what was before it is void, and every row goes that is not put after it
//! ```
//!
//! Records that say where they stand in the order of the other database count for nothing after a later one of their key ([`order`]).
//! A record that comes again changes nothing. Nobody else writes these rows, so that there is no conflict to look for.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, UInt32Array, new_null_array};
use datafusion::arrow::compute::{concat_batches, filter_record_batch, interleave, take_record_batch};
use tidemark_common::connector::{RowChanges, RowOp};
use tidemark_common::{Delta, Error, Result, SqlState};
use tidemark_storage::{KeyRange, Snapshot};

use self::order::{Order, Written};
use super::Table;

pub(crate) mod order;

/// Rows that are read at a time of a source that is emptied.
const CHUNK: usize = 8192;

/// What becomes of a key in this epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// The row of the records.
    Put(usize),
    Gone,
}

impl Fate {
    fn put(self) -> Option<usize> {
        match self {
            Fate::Put(row) => Some(row),
            Fate::Gone => None,
        }
    }
}

/// Where the value of a cell is.
#[derive(Debug, Clone)]
enum Cell {
    /// In a row of the records.
    New(usize),
    /// In the row that was there before the epoch with the key of that row of the records; if there was none, elsewhere.
    Before(usize, Option<Box<Cell>>),
}

/// The records of an epoch.
struct Records {
    rows: RecordBatch,
    ops: Vec<RowOp>,
    /// Of rows and columns.
    kept: Vec<(usize, usize)>,
    /// Where they stand, if they say it.
    versions: Vec<Box<[u8]>>,
}

impl Records {
    fn of(
        schema: &datafusion::arrow::datatypes::SchemaRef,
        parts: Vec<(RecordBatch, Option<RowChanges>)>,
    ) -> Result<Self> {
        let (mut ops, mut kept, mut versions) = (Vec::new(), Vec::new(), Vec::new());
        for (rows, changes) in &parts {
            let first = ops.len();
            match changes {
                None => ops.resize(first + rows.num_rows(), RowOp::Put),
                Some(changes) => {
                    ops.extend_from_slice(&changes.ops);
                    versions.extend_from_slice(&changes.versions);
                    kept.extend(changes.kept.iter().map(|(row, column)| (first + *row as usize, *column as usize)));
                }
            }
            if ops.len() - first != rows.num_rows() {
                return Err(Error::internal("a source has told of more or fewer changes than rows"));
            }
        }
        if !versions.is_empty() && versions.len() != ops.len() {
            return Err(Error::internal("a source has told of some of its records where they stand"));
        }
        Ok(Self { rows: concat_batches(schema, parts.iter().map(|(rows, _)| rows))?, ops, kept, versions })
    }
}

impl Table {
    /// Takes an epoch's records of a source whose rows these are. What is to be stored besides the rows.
    pub fn follow(
        &mut self,
        snapshot: &Arc<Snapshot>,
        parts: Vec<(RecordBatch, Option<RowChanges>)>,
    ) -> Result<Written> {
        let schema = self.def.collection.schema().clone();
        let records = Records::of(&schema, parts)?;
        if records.ops.is_empty() {
            return Ok(Written::default());
        }
        let keys = self.encode(&self.key, &self.def.key, &records.rows)?;
        let of_rows = (0..records.ops.len()).map(|row| keys.row(row));
        let mut order = match records.versions.is_empty() {
            true => None,
            false => Some(Order::open(self.def.oid, snapshot, of_rows)?),
        };
        let mut fates: BTreeMap<&[u8], Fate> = BTreeMap::new();
        let mut cells: HashMap<(usize, usize), Cell> = HashMap::new();
        let mut kept = records.kept.iter().copied().peekable();
        let mut is_emptied = false;
        // What the record just before this one has deleted.
        let mut deleted: Option<(usize, Option<Fate>)> = None;
        for (row, op) in records.ops.iter().enumerate() {
            let mut own = Vec::new();
            while let Some((_, column)) = kept.next_if(|(of, _)| *of == row) {
                own.push(column);
            }
            if *op == RowOp::Truncate {
                if order.as_mut().is_none_or(|order| order.empties(&records.versions[row])) {
                    (is_emptied, deleted) = (true, None);
                    fates.retain(|key, _| order.as_ref().is_some_and(|order| order.survives(key)));
                }
                continue;
            }
            self.check_key(&records.rows, row)?;
            let is_gone = *op == RowOp::Delete;
            if order.as_mut().is_some_and(|order| !order.takes(keys.row(row), &records.versions[row], is_gone)) {
                deleted = None;
                continue;
            }
            let before = fates.insert(keys.row(row), if *op == RowOp::Put { Fate::Put(row) } else { Fate::Gone });
            for column in own {
                let cell_of = |row: usize, fate: Option<Fate>, or: Option<Cell>| match fate {
                    Some(Fate::Put(earlier)) => cells.get(&(earlier, column)).cloned().or(Some(Cell::New(earlier))),
                    None if !is_emptied => Some(Cell::Before(row, or.map(Box::new))),
                    _ => or,
                };
                let moved = deleted.and_then(|(row, fate)| cell_of(row, fate, None));
                let cell = cell_of(row, before, moved).ok_or_else(|| self.nothing_to_keep(column))?;
                cells.insert((row, column), cell);
            }
            deleted = (*op == RowOp::Delete).then_some((row, before));
        }
        let wanted: Vec<&[u8]> = fates.keys().copied().collect();
        let found = self.def.collection.get_rows(snapshot, &wanted)?;
        let puts: Vec<usize> = fates.values().filter_map(|fate| fate.put()).collect();
        let before = |row: usize| found.found[wanted.binary_search(&keys.row(row)).ok()?];
        let added = self.merged(&records.rows, &found.batch, &puts, &cells, before)?;
        if is_emptied {
            let gone = self.emptied(snapshot, order.as_mut())?;
            self.change(gone, added)?;
        } else {
            self.change(vec![found.batch], added)?;
        }
        order.map_or(Ok(Written::default()), Order::finish)
    }

    /// What the epoch's records have changed so far. Nobody else changes such a table.
    pub fn forget_changes(&mut self) {
        self.changes.clear();
    }

    /// The rows that go since the source is emptied.
    fn emptied(&self, snapshot: &Arc<Snapshot>, mut order: Option<&mut Order<'_>>) -> Result<Vec<RecordBatch>> {
        let mut scan = self.def.collection.scan(snapshot, None, &KeyRange::full(), CHUNK)?;
        let mut all = Vec::new();
        while let Some(rows) = scan.next_delta()? {
            let mut rows = rows.batch;
            if let Some(order) = &mut order {
                let keys = self.encode(&self.key, &self.def.key, &rows)?;
                let keys: Vec<&[u8]> = (0..rows.num_rows()).map(|row| keys.row(row)).collect();
                rows = filter_record_batch(&rows, &BooleanArray::from(order.emptied(&keys)?))?;
            }
            all.push(rows);
        }
        Ok(all)
    }

    fn check_key(&self, rows: &RecordBatch, row: usize) -> Result<()> {
        let Some(null) = self.def.key.iter().find(|column| rows.column(**column).is_null(row)) else { return Ok(()) };
        let schema = self.def.collection.schema();
        Err(Error::new(
            SqlState::NotNullViolation,
            format!(
                "null value in column \"{}\" of the primary key of source \"{}\"",
                schema.field(*null).name(),
                self.def.name
            ),
        ))
    }

    fn nothing_to_keep(&self, column: usize) -> Error {
        let schema = self.def.collection.schema();
        let name = schema.field(column).name();
        Error::new(
            SqlState::DataCorrupted,
            format!(
                "a record of source \"{}\" keeps the value of column \"{name}\" of a row that is not there",
                self.def.name
            ),
        )
        .with_hint(
            "The source must have begun with all rows: read the topic from its beginning, or take a snapshot again.",
        )
    }

    /// The rows that are put: `puts` of `new`, in which some cells are taken from others. `before`: which of `old` has the key of a row
    /// of `new`.
    fn merged(
        &self,
        new: &RecordBatch,
        old: &RecordBatch,
        puts: &[usize],
        cells: &HashMap<(usize, usize), Cell>,
        before: impl Fn(usize) -> Option<usize>,
    ) -> Result<RecordBatch> {
        if cells.is_empty() {
            let rows = UInt32Array::from_iter_values(puts.iter().map(|row| *row as u32));
            return Ok(take_record_batch(new, &rows)?);
        }
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(new.num_columns());
        for column in 0..new.num_columns() {
            let place = |row: &usize| {
                let mut cell = cells.get(&(*row, column));
                loop {
                    match cell {
                        None => return Ok((0, *row)),
                        Some(Cell::New(row)) => return Ok((0, *row)),
                        Some(Cell::Before(row, or)) => match (before(*row), or) {
                            (Some(old), _) => return Ok((1, old)),
                            (None, Some(or)) => cell = Some(or),
                            (None, None) => return Err(self.nothing_to_keep(column)),
                        },
                    }
                }
            };
            let places = puts.iter().map(place).collect::<Result<Vec<_>>>()?;
            columns.push(match places.is_empty() {
                true => new_null_array(new.column(column).data_type(), 0),
                false => interleave(&[new.column(column), old.column(column)], &places)?,
            });
        }
        Ok(RecordBatch::try_new(new.schema(), columns)?)
    }

    /// Notes what goes and what comes, without rows that do both.
    fn change(&mut self, removed: Vec<RecordBatch>, added: RecordBatch) -> Result<()> {
        let new = self.row.encode(added.columns())?;
        let coming: HashMap<&[u8], usize> = (0..added.num_rows()).map(|row| (new.row(row), row)).collect();
        let mut stays = vec![false; added.num_rows()];
        let mut gone = Vec::new();
        for rows in removed {
            let old = self.row.encode(rows.columns())?;
            let goes = |row: &u32| match coming.get(old.row(*row as usize)) {
                Some(same) => {
                    stays[*same] = true;
                    false
                }
                None => true,
            };
            let goes = UInt32Array::from_iter_values((0..rows.num_rows() as u32).filter(goes));
            gone.push(Delta::deletes(take_record_batch(&rows, &goes)?));
        }
        let comes = UInt32Array::from_iter_values((0..added.num_rows() as u32).filter(|row| !stays[*row as usize]));
        self.changes.extend(gone.into_iter().filter(|delta| !delta.is_empty()));
        if !comes.is_empty() {
            self.changes.push(Delta::inserts(take_record_batch(&added, &comes)?));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
