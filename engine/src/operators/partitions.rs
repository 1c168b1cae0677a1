//! Rows by partition, in order, kept: the state of top-N and of window functions.
//!
//! ```text
//!   partition key ++ order columns ++ the rest of the row ─▶ weight (i64), length of the order columns (u32), big-endian
//!   └─ a range ─┘    └ a row, sorted as ORDER BY says ──┘    equal ones by the rest, so always the same way
//! ```
//!
//! Where no more than a few rows of a partition are ever kept, they stand in one value under its key, in order:
//!
//! ```text
//!   partition key ─▶ weight (i64), length of the order columns (u32), length (u32), the row · the next ..
//! ```
//!
//! Then a partition is one key to load and one to write, and no range is searched for.
//!
//! Each column stands in the key once: an order column in the order, one that the partition's key gives back exactly there
//! only, every other in the rest. Shards share one state; each touches its own partitions only.

use std::collections::BTreeSet;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, UInt32Array};
use datafusion::arrow::compute::{SortOptions, take};
use datafusion::arrow::datatypes::{FieldRef, SchemaRef};
use datafusion::scalar::ScalarValue;
use tidemark_common::plan::SortKey;
use tidemark_common::{Error, Result};
use tidemark_storage::{EncodedRows, EpochCommit, KeyedState, RowCodec, Snapshot, keys_keep_values};

use super::aggregate::Placement;
use super::aggregate::keys::{GroupNumbers, KeyCodec, on_time};
use super::exchange::key_columns;
use super::{Chunks, StateSize, StepContext, check_weight};

pub struct Partitions {
    /// For errors.
    name: String,
    schema: SchemaRef,
    partition: Vec<usize>,
    pub(super) keys: KeyCodec,
    order: Part,
    rest: Part,
    /// Where each column of a row is decoded from.
    sources: Vec<Source>,
    /// The column that closes partitions.
    close: Option<usize>,
    /// Rows below its watermark are late.
    late_by: Option<usize>,
    closed_to: Option<Vec<u8>>,
    late_rows: u64,
    /// The rows of a partition are one value.
    in_lists: bool,
    /// Only so many rows of a partition, and those that are their peers, can ever matter.
    first: Option<usize>,
    rows: KeyedState,
}

/// Some columns of a row and their bytes.
struct Part {
    columns: Vec<usize>,
    codec: RowCodec,
}

#[derive(Clone, Copy)]
enum Source {
    Partition(usize),
    Order(usize),
    Rest(usize),
}

/// A row without its partition: its order columns' bytes, then the others'.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub bytes: Vec<u8>,
    pub order_len: usize,
}

impl Row {
    /// Rows with the same are peers.
    pub fn order(&self) -> &[u8] {
        &self.bytes[..self.order_len]
    }
}

/// What an epoch changes, by partition.
pub struct Touched {
    pub partitions: GroupNumbers,
    /// Rows and their weights, none of which is 0.
    pub changes: Vec<Vec<(Row, i64)>>,
    /// Partitions that are looked at though nothing of them changes.
    also_read: BTreeSet<usize>,
}

impl Touched {
    pub fn read_too(&mut self, partition: &[u8]) {
        let number = self.partitions.number(None, partition);
        self.changes.resize(self.partitions.len(), Vec::new());
        self.also_read.insert(number);
    }

    pub fn is_read(&self, partition: usize) -> bool {
        !self.changes[partition].is_empty() || self.also_read.contains(&partition)
    }
}

impl Partitions {
    pub fn new(
        input: &SchemaRef,
        partition: &[usize],
        order: &[SortKey],
        close: Option<usize>,
        placement: &Placement,
    ) -> Result<Self> {
        let field = |column: &usize| Arc::clone(&input.fields()[*column]);
        let key_fields: Vec<FieldRef> = partition.iter().map(field).collect();
        let closing = close.map(|column| partition.iter().position(|p| *p == column));
        let Some(closing) = closing.map_or(Some(None), |found| found.map(Some)) else {
            return Err(Error::internal("the column that closes partitions is none of theirs"));
        };
        let order_columns: Vec<usize> = order.iter().map(|key| key.column).collect();
        let source = |column: usize| match partition.iter().position(|p| *p == column) {
            _ if order_columns.contains(&column) => order_columns.iter().position(|c| *c == column).map(Source::Order),
            Some(at) if keys_keep_values(input.field(column).data_type()) => Some(Source::Partition(at)),
            _ => None,
        };
        let mut sources = Vec::new();
        let mut rest_columns = Vec::new();
        for column in 0..input.fields().len() {
            sources.push(source(column).unwrap_or_else(|| {
                rest_columns.push(column);
                Source::Rest(rest_columns.len() - 1)
            }));
        }
        let options: Vec<SortOptions> =
            order.iter().map(|k| SortOptions { descending: k.descending, nulls_first: k.nulls_first }).collect();
        let fields = |columns: &[usize]| columns.iter().map(field).collect::<Vec<FieldRef>>();
        Ok(Self {
            name: placement.name(),
            schema: Arc::clone(input),
            partition: partition.to_vec(),
            keys: KeyCodec::new(&key_fields, closing)?,
            order: Part { codec: RowCodec::sorted(&fields(&order_columns), &options)?, columns: order_columns },
            rest: Part { codec: RowCodec::new(&fields(&rest_columns))?, columns: rest_columns },
            sources,
            close,
            late_by: close,
            closed_to: None,
            late_rows: 0,
            in_lists: false,
            first: None,
            rows: KeyedState::new(placement.state(0), placement.cache_budget),
        })
    }

    /// Leaves out rows, too, that lie below the watermark of this column, in partitions that do not close.
    pub fn with_late_rows_by(mut self, column: Option<usize>) -> Self {
        self.late_by = self.late_by.or(column);
        self
    }

    /// Keeps the rows of a partition in one value, for [`list`](Self::list) and [`set_list`](Self::set_list). They are few.
    pub fn in_lists(mut self) -> Self {
        self.in_lists = true;
        self
    }

    /// Rows that come behind the first `rows` of their partition and have other order columns will not be asked for. For input that
    /// only grows.
    pub fn only_first(mut self, rows: usize) -> Self {
        self.first = Some(rows);
        self
    }

    /// Sorts an epoch's changes by partition, late ones left out, and loads the rows that they are of. Of lists a row may come more
    /// than once.
    pub fn touch(&mut self, ctx: &StepContext<'_>, chunks: Chunks) -> Result<Touched> {
        let chunks = match self.late_by {
            Some(column) => {
                let (kept, late) = on_time(chunks, column, &self.schema, ctx.watermarks_before)?;
                self.late_rows += late;
                kept
            }
            None => chunks,
        };
        let mut partitions = GroupNumbers::default();
        let mut keys = GroupNumbers::default();
        let mut changed: Vec<(usize, usize, i64)> = Vec::new();
        let mut changes = Vec::new();
        for delta in chunks {
            let numbers =
                self.keys.number(&key_columns(&delta.batch, &self.partition), delta.num_rows(), &mut partitions)?;
            let order =
                self.order.codec.encode_rows(&key_columns(&delta.batch, &self.order.columns), delta.num_rows())?;
            let (delta, numbers, order) =
                match self.first.filter(|_| delta.weights.is_none()).and_then(|first| leading(&numbers, &order, first))
                {
                    Some(rows) => {
                        let numbers = rows.iter().map(|row| numbers[*row as usize]).collect();
                        let delta = delta.take(&UInt32Array::from(rows))?;
                        let order = self
                            .order
                            .codec
                            .encode_rows(&key_columns(&delta.batch, &self.order.columns), delta.num_rows())?;
                        (delta, numbers, order)
                    }
                    None => (delta, numbers, order),
                };
            let rows = delta.num_rows();
            let rest = self.rest.codec.encode_rows(&key_columns(&delta.batch, &self.rest.columns), rows)?;
            if self.in_lists {
                changes.resize(partitions.len(), Vec::new());
                for (row, &partition) in numbers.iter().enumerate() {
                    let bytes = [order.row(row), rest.row(row)].concat();
                    changes[partition].push((Row { bytes, order_len: order.row(row).len() }, delta.weight(row)));
                }
                continue;
            }
            let mut key = Vec::new();
            for (row, &partition) in numbers.iter().enumerate() {
                key.clear();
                key.extend_from_slice(partitions.key(partition));
                key.extend_from_slice(order.row(row));
                key.extend_from_slice(rest.row(row));
                let number = keys.number(None, &key);
                match changed.get_mut(number) {
                    Some((.., weight)) => *weight += delta.weight(row),
                    None => changed.push((partition, order.row(row).len(), delta.weight(row))),
                }
            }
        }
        if self.in_lists {
            self.rows.load(ctx.snapshot, &partitions.keys())?;
            return Ok(Touched { partitions, changes, also_read: BTreeSet::new() });
        }
        changes.resize(partitions.len(), Vec::new());
        let mut loaded = Vec::new();
        for (number, (partition, order_len, weight)) in changed.into_iter().enumerate().filter(|(_, c)| c.2 != 0) {
            let key = keys.key(number);
            let bytes = key[partitions.key(partition).len()..].to_vec();
            changes[partition].push((Row { bytes, order_len }, weight));
            loaded.push(key);
        }
        self.rows.load(ctx.snapshot, &loaded)?;
        Ok(Touched { partitions, changes, also_read: BTreeSet::new() })
    }

    /// Changes how often a row is there. It must have been in what [`Partitions::touch`] loaded.
    pub fn change(&mut self, partition: &[u8], row: &Row, by: i64) -> Result<()> {
        let key = [partition, &row.bytes].concat();
        let before = self.rows.get(&key).map(read).transpose()?.map_or(0, |(weight, _)| weight);
        check_weight(&self.name, "a row", before + by)?;
        self.set(partition, row, before + by);
        Ok(())
    }

    /// Sets how often a row is there, whatever it was.
    pub fn set(&mut self, partition: &[u8], row: &Row, weight: i64) {
        let key = [partition, &row.bytes].concat();
        match weight {
            0 => self.rows.delete(&key),
            weight => self.rows.put(&key, &write(weight, row.order_len)),
        }
    }

    /// The rows of a partition that was touched, and their weights, in order.
    pub fn list(&self, partition: &[u8]) -> Result<Vec<(Row, i64)>> {
        let mut rest = self.rows.get(partition).unwrap_or_default();
        let mut rows = Vec::new();
        while !rest.is_empty() {
            let (head, tail) = rest.split_at_checked(12).ok_or_else(|| cut_off(&self.name))?;
            let (weight, order_len) = read(head)?;
            let (len, tail) = tail.split_first_chunk::<4>().ok_or_else(|| cut_off(&self.name))?;
            let (bytes, tail) =
                tail.split_at_checked(u32::from_be_bytes(*len) as usize).ok_or_else(|| cut_off(&self.name))?;
            rows.push((Row { bytes: bytes.to_vec(), order_len }, weight));
            rest = tail;
        }
        Ok(rows)
    }

    /// These are the rows of the partition from now on.
    pub fn set_list(&mut self, partition: &[u8], rows: &[(Row, i64)]) {
        let mut value = Vec::with_capacity(rows.iter().map(|(row, _)| 16 + row.bytes.len()).sum());
        for (row, weight) in rows {
            value.extend_from_slice(&write(*weight, row.order_len));
            let len = u32::try_from(row.bytes.len()).expect("a row is far shorter than 4 GiB");
            value.extend_from_slice(&len.to_be_bytes());
            value.extend_from_slice(&row.bytes);
        }
        self.rows.put(partition, &value);
    }

    /// Calls `each` with the rows of a partition and their weights, in order, until it says false.
    pub fn visit(
        &mut self,
        snapshot: &Snapshot,
        partition: &[u8],
        mut each: impl FnMut(Row, i64) -> bool,
    ) -> Result<()> {
        let mut failed = None;
        self.rows.visit_prefix(snapshot, partition, |key, value| match read(value) {
            Ok((weight, order_len)) => each(Row { bytes: key[partition.len()..].to_vec(), order_len }, weight),
            Err(error) => {
                failed = Some(error);
                false
            }
        })?;
        failed.map_or(Ok(()), Err)
    }

    /// Rows as a batch; the key of a row's partition is `partitions[of[row]]`.
    pub fn decode(&self, partitions: &[&[u8]], of: Vec<u32>, rows: &[&Row]) -> Result<RecordBatch> {
        let keys = if partitions.is_empty() { Vec::new() } else { self.keys.decode(partitions.iter().copied())? };
        let order = self.order.codec.decode(rows.iter().map(|row| row.order()))?;
        let rest = self.rest.codec.decode(rows.iter().map(|row| &row.bytes[row.order_len..]))?;
        let of = UInt32Array::from(of);
        let columns = self
            .sources
            .iter()
            .map(|source| {
                Ok(match *source {
                    Source::Partition(at) => take(&keys[at], &of, None)?,
                    Source::Order(at) => Arc::clone(&order[at]),
                    Source::Rest(at) => Arc::clone(&rest[at]),
                })
            })
            .collect::<Result<Vec<ArrayRef>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?)
    }

    /// Forgets the partitions that the watermark has passed.
    pub fn close(&mut self, ctx: &StepContext<'_>) -> Result<()> {
        let Some(column) = self.close else { return Ok(()) };
        let passed: Option<&ScalarValue> = ctx.watermarks.get(&column).filter(|w| !w.is_null());
        let Some(watermark) = passed else { return Ok(()) };
        let horizon = self.keys.horizon(watermark)?;
        if self.closed_to.as_ref().is_none_or(|closed| *closed < horizon) {
            self.rows.drop_below(ctx.snapshot, &horizon)?;
            self.closed_to = Some(horizon);
        }
        Ok(())
    }

    pub fn flush(&mut self, commit: &mut EpochCommit) {
        self.rows.flush(commit);
    }

    pub fn size(&self) -> StateSize {
        super::aggregate::size_of([&self.rows])
    }

    pub fn take_late_rows(&mut self) -> u64 {
        std::mem::take(&mut self.late_rows)
    }
}

/// The rows that are not behind `first` others of their partition, in their order; `None`: that is worth nothing.
fn leading(partitions: &[usize], order: &EncodedRows, first: usize) -> Option<Vec<u32>> {
    let last = *partitions.iter().max()?;
    // Where each partition's rows begin among all, sorted by partition.
    let mut ends = vec![0_u32; last + 2];
    partitions.iter().for_each(|&partition| ends[partition + 1] += 1);
    let most: u32 = ends.iter().map(|count| count.saturating_sub(first as u32)).sum();
    if (most as usize) < partitions.len() / 4 {
        return None;
    }
    (1..ends.len()).for_each(|at| ends[at] += ends[at - 1]);
    let mut sorted = vec![0_u32; partitions.len()];
    for (row, &partition) in partitions.iter().enumerate() {
        sorted[ends[partition] as usize] = row as u32;
        ends[partition] += 1;
    }
    let mut kept = Vec::new();
    let mut begin = 0;
    for end in ends.into_iter().map(|end| end as usize) {
        let rows = &mut sorted[begin..end.max(begin)];
        begin = end.max(begin);
        if rows.len() <= first {
            kept.extend_from_slice(rows);
            continue;
        }
        let (_, &mut bound, _) =
            rows.select_nth_unstable_by(first - 1, |&a, &b| order.row(a as usize).cmp(order.row(b as usize)));
        kept.extend(rows.iter().filter(|row| order.row(**row as usize) <= order.row(bound as usize)));
    }
    kept.sort_unstable();
    Some(kept)
}

fn cut_off(name: &str) -> Error {
    Error::internal(format!("{name}: the rows of a partition are cut off"))
}

fn write(weight: i64, order_len: usize) -> [u8; 12] {
    let order_len = u32::try_from(order_len).expect("a row is far shorter than 4 GiB");
    let mut value = [0; 12];
    value[..8].copy_from_slice(&weight.to_be_bytes());
    value[8..].copy_from_slice(&order_len.to_be_bytes());
    value
}

fn read(value: &[u8]) -> Result<(i64, usize)> {
    let wrong = || Error::internal("the value of a row in a partition does not have twelve bytes");
    let (weight, order_len) = value.split_first_chunk::<8>().ok_or_else(wrong)?;
    let order_len = order_len.try_into().map_err(|_| wrong())?;
    Ok((i64::from_be_bytes(*weight), u32::from_be_bytes(order_len) as usize))
}
