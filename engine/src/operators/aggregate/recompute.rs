//! All rows of each group are kept; the results of a touched group are computed anew. For any input and any function.
//!
//! ```text
//!   rows:  group key ++ the columns that the calls read ─▶ weight (i64), length of the group key (u32), big-endian
//!   sent:  group key ─▶ the results that were sent last           (not kept by EMIT ON WINDOW CLOSE)
//!
//!   the epoch's rows ──▶ rows ──scan of each touched group──▶ fresh accumulators ──▶ results
//! ```
//!
//! A row of weight n counts n times. Rows reach the accumulators in the order of their bytes, or in that of an ORDER BY
//! inside the call, so functions that depend on order give the same result at every run.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, UInt32Array, new_null_array};
use datafusion::arrow::compute::take;
use datafusion::arrow::datatypes::{Field, FieldRef, Schema, SchemaRef};
use tidemark_common::{Error, Result};
use tidemark_storage::{Entry, EpochCommit, KeyedState, RowCodec, Snapshot};

use super::calls::Call;
use super::keys::{GroupNumbers, KeyCodec};
use super::{Change, Closed, Groups, Owned, Side, Touched};
use crate::operators::{StateSize, check_weight};

pub struct Recompute {
    /// For errors.
    name: String,
    calls: Vec<Call>,
    keys: Arc<KeyCodec>,
    /// The input's schema; columns that are not kept are NULL, so all may be.
    schema: SchemaRef,
    /// The columns beside the key that the calls read.
    kept: Vec<usize>,
    row_codec: RowCodec,
    result_codec: RowCodec,
    rows: KeyedState,
    sent: KeyedState,
    /// There is no GROUP BY: the one group is there without rows, too.
    global: bool,
    sends_changes: bool,
}

/// Rows of some groups as the calls read them.
struct GroupRows {
    batch: RecordBatch,
    groups: Vec<usize>,
}

impl Recompute {
    #[allow(clippy::too_many_arguments)] // each is another thing, given in one place
    pub fn new(
        name: String,
        calls: Vec<Call>,
        keys: Arc<KeyCodec>,
        input: &SchemaRef,
        rows: KeyedState,
        sent: KeyedState,
        sends_changes: bool,
    ) -> Result<Self> {
        let group = keys.num_columns();
        let mut kept: Vec<usize> = calls.iter().flat_map(Call::columns).filter(|c| *c >= group).collect();
        kept.sort_unstable();
        kept.dedup();
        let nullable: Vec<Field> = input.fields().iter().map(|f| f.as_ref().clone().with_nullable(true)).collect();
        let kept_fields: Vec<FieldRef> = kept.iter().map(|&c| Arc::new(nullable[c].clone())).collect();
        let results: Vec<FieldRef> = calls.iter().map(|c| Arc::clone(&c.result)).collect();
        Ok(Self {
            name,
            global: group == 0,
            schema: Arc::new(Schema::new(nullable)),
            row_codec: RowCodec::new(&kept_fields)?,
            result_codec: RowCodec::new(&results)?,
            calls,
            keys,
            kept,
            rows,
            sent,
            sends_changes,
        })
    }

    /// Adds the epoch's weights to the kept rows.
    fn change_rows(&mut self, snapshot: &Snapshot, touched: &Touched) -> Result<()> {
        let mut changed = GroupNumbers::default();
        let mut changes: Vec<KeptRow> = Vec::new();
        let mut key = Vec::new();
        for piece in &touched.pieces {
            let columns: Vec<ArrayRef> = self.kept.iter().map(|&c| Arc::clone(piece.batch.column(c))).collect();
            let encoded = self.row_codec.encode_rows(&columns, piece.batch.num_rows())?;
            for (row, &group) in piece.groups.iter().enumerate() {
                key.clear();
                key.extend_from_slice(touched.groups.key(group));
                let key_len = key.len() as u32;
                key.extend_from_slice(encoded.row(row));
                let number = changed.number(None, &key);
                let weight = piece.weights.as_ref().map_or(1, |w| w.value(row));
                match changes.get_mut(number) {
                    Some(change) => change.weight += weight,
                    None => changes.push(KeptRow { weight, key_len }),
                }
            }
        }
        let keys = changed.keys();
        self.rows.load(snapshot, &keys)?;
        for (key, mut row) in keys.into_iter().zip(changes).filter(|(_, change)| change.weight != 0) {
            row.weight += self.rows.get(key).map(KeptRow::read).transpose()?.map_or(0, |before| before.weight);
            check_weight(&self.name, "a row", row.weight)?;
            match row.weight {
                0 => self.rows.delete(key),
                _ => self.rows.put(key, &row.write()),
            }
        }
        Ok(())
    }

    /// Those of the touched groups that are there now, and their rows, in which they are numbered in that order.
    fn touched_rows(&mut self, snapshot: &Snapshot, touched: &Touched) -> Result<(Vec<usize>, GroupRows)> {
        let mut entries = Vec::new();
        let mut present = Vec::new();
        let mut groups = Vec::new();
        let mut suffixes = Vec::new();
        for group in 0..touched.groups.len() {
            let found = self.rows.scan_prefix(snapshot, touched.groups.key(group))?;
            if found.is_empty() && !self.global {
                continue;
            }
            groups.extend(std::iter::repeat_n(present.len(), found.len()));
            present.push(group);
            suffixes.extend(found.iter().map(|_| touched.groups.key(group).len()));
            entries.extend(found);
        }
        let key_columns = self.keys.decode(present.iter().map(|&group| touched.groups.key(group)))?;
        let suffixes: Vec<&[u8]> = entries.iter().zip(&suffixes).map(|((key, _), &start)| &key[start..]).collect();
        let rows = self.assemble(&key_columns, &suffixes, &groups, &weights_of(&entries)?)?;
        Ok((present, rows))
    }

    /// Rows from their encoded columns: `group_columns` has a row a group.
    fn assemble(
        &self,
        group_columns: &[ArrayRef],
        suffixes: &[&[u8]],
        groups: &[usize],
        weights: &[i64],
    ) -> Result<GroupRows> {
        // One index a copy of a row.
        let mut copies: Vec<u32> = Vec::with_capacity(groups.len());
        for (row, &weight) in weights.iter().enumerate() {
            copies.extend(std::iter::repeat_n(row as u32, usize::try_from(weight).unwrap_or(0)));
        }
        let groups: Vec<usize> = copies.iter().map(|&row| groups[row as usize]).collect();
        let of_group = UInt32Array::from_iter_values(groups.iter().map(|&g| g as u32));
        let rows = groups.len();
        let mut columns: Vec<ArrayRef> =
            group_columns.iter().map(|c| take(c, &of_group, None)).collect::<Result<_, _>>()?;
        columns.extend(self.schema.fields()[columns.len()..].iter().map(|f| new_null_array(f.data_type(), rows)));
        if !self.kept.is_empty() {
            let copies = UInt32Array::from(copies);
            let decoded = self.row_codec.decode(suffixes.iter().copied())?;
            for (&column, values) in self.kept.iter().zip(decoded) {
                columns[column] = take(&values, &copies, None)?;
            }
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        Ok(GroupRows { batch: RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?, groups })
    }

    fn compute(&self, rows: &GroupRows, total: usize) -> Result<Vec<ArrayRef>> {
        self.calls
            .iter()
            .map(|call| {
                let mut accumulator = call.accumulator()?;
                call.update_in_order(accumulator.as_mut(), &rows.batch, &rows.groups, total)?;
                call.results(accumulator.as_mut())
            })
            .collect()
    }

    /// The results that were sent last.
    fn load_sent(&mut self, snapshot: &Snapshot, touched: &Touched) -> Result<Side> {
        let keys = touched.groups.keys();
        self.sent.load(snapshot, &keys)?;
        let known: Vec<usize> = (0..keys.len()).filter(|&g| self.sent.get(keys[g]).is_some()).collect();
        let columns = if known.is_empty() {
            Vec::new()
        } else {
            self.result_codec.decode(known.iter().filter_map(|&g| self.sent.get(keys[g])))?
        };
        Ok(Side { groups: known, columns })
    }

    /// Stores what is sent now.
    fn store_sent(&mut self, touched: &Touched, new: &Side) -> Result<()> {
        let encoded = self.result_codec.encode_rows(&new.columns, new.groups.len())?;
        let mut present = new.groups.iter().enumerate().peekable();
        for group in 0..touched.groups.len() {
            let key = touched.groups.key(group);
            match present.next_if(|(_, there)| **there == group) {
                Some((row, _)) => self.sent.put(key, encoded.row(row)),
                None => self.sent.delete(key),
            }
        }
        Ok(())
    }
}

impl Groups for Recompute {
    fn apply(&mut self, snapshot: &Snapshot, touched: &Touched) -> Result<Change> {
        self.change_rows(snapshot, touched)?;
        if !self.sends_changes {
            return Ok(Change::default());
        }
        let old = self.load_sent(snapshot, touched)?;
        let (groups, rows) = self.touched_rows(snapshot, touched)?;
        let columns = if groups.is_empty() { Vec::new() } else { self.compute(&rows, groups.len())? };
        let new = Side { groups, columns };
        if new.groups.is_empty() {
            touched.groups.keys().into_iter().for_each(|key| self.sent.delete(key));
        } else {
            self.store_sent(touched, &new)?;
        }
        Ok(Change { old, new })
    }

    fn drop_closed(&mut self, snapshot: &Snapshot, horizon: &[u8]) -> Result<()> {
        self.rows.drop_below(snapshot, horizon)?;
        self.sent.drop_below(snapshot, horizon)
    }

    fn take_closed(&mut self, snapshot: &Snapshot, horizon: &[u8], owned: &Owned<'_>) -> Result<Closed> {
        let entries = self.rows.take_below(snapshot, horizon)?;
        let mut closed = GroupNumbers::default();
        let mut groups = Vec::with_capacity(entries.len());
        let mut suffixes = Vec::with_capacity(entries.len());
        for (key, value) in &entries {
            let (group, suffix) = key.split_at(KeptRow::read(value)?.key_len as usize);
            groups.push(closed.number(None, group));
            suffixes.push(suffix);
        }
        let weights = weights_of(&entries)?;
        let key_columns = self.keys.decode(closed.keys())?;
        let rows = self.assemble(&key_columns, &suffixes, &groups, &weights)?;
        let results = if closed.is_empty() { Vec::new() } else { self.compute(&rows, closed.len())? };
        let keys: Vec<Vec<u8>> = closed.keys().into_iter().map(<[u8]>::to_vec).collect();
        let numbers: Vec<u32> = (0..keys.len() as u32).collect();
        let (keys, numbers) = owned.only(keys, numbers)?;
        let picked = UInt32Array::from(numbers);
        let columns = results.iter().map(|c| take(c, &picked, None)).collect::<Result<_, _>>()?;
        Ok(Closed { keys, columns })
    }

    fn flush(&mut self, commit: &mut EpochCommit) {
        self.rows.flush(commit);
        self.sent.flush(commit);
    }

    fn size(&self) -> StateSize {
        super::size_of([&self.rows, &self.sent])
    }
}

/// The value of a kept row.
struct KeptRow {
    weight: i64,
    key_len: u32,
}

impl KeptRow {
    fn write(&self) -> [u8; 12] {
        let mut value = [0; 12];
        value[..8].copy_from_slice(&self.weight.to_be_bytes());
        value[8..].copy_from_slice(&self.key_len.to_be_bytes());
        value
    }

    fn read(value: &[u8]) -> Result<Self> {
        let wrong = || Error::internal("the value of a kept row does not have twelve bytes");
        let (weight, key_len) = value.split_first_chunk::<8>().ok_or_else(wrong)?;
        let key_len = key_len.try_into().map_err(|_| wrong())?;
        Ok(Self { weight: i64::from_be_bytes(*weight), key_len: u32::from_be_bytes(key_len) })
    }
}

fn weights_of(entries: &[Entry]) -> Result<Vec<i64>> {
    entries.iter().map(|(_, value)| Ok(KeptRow::read(value)?.weight)).collect()
}
