//! A [`Collection`]: the rows of a table or view, laid out so that what its readers look for is a range of keys.
//!
//! ```text
//!   layout     Key::Row                       value
//!   Keyed      the key columns, encoded       the other columns, encoded
//!   Sequence   a number, counting up, 8 B     all columns, encoded
//!   Multiset   all columns, encoded           how many of the row there are
//!              (rows keyed by a number may be in blocks: see `blocks`; others that rest have copies by column: see `sheets`)
//!
//!   Delta ──CollectionWriter::apply──▶ EpochCommit ~~▶ Snapshot ──Collection::scan──▶ CollectionScan ──▶ RecordBatch
//!                                                              ──Collection::get_rows──▶ FoundRows
//! ```
//!
//! An [`Index`] beside it leads from other columns to its rows.

mod blocks;
mod column;
mod folding;
mod index;
mod numbers;
mod point;
mod scan;
mod sheets;
mod split;
#[cfg(test)]
mod tests;
mod way;
mod whole;
mod writer;

use std::ops::Bound;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch, RecordBatchOptions};
use datafusion::arrow::datatypes::{FieldRef, SchemaRef};
use datafusion::scalar::ScalarValue;
use serde::{Deserialize, Serialize};
use tidemark_common::{Delta, Error, Result, SqlState};

use crate::keys::{Key, Part, StateId, successor};
use crate::rows::{EncodedRows, RowCodec, orders_as_sql};
use crate::snapshot::Snapshot;
use crate::value;

pub use blocks::MIN_BLOCK_ROWS;
pub use folding::FoldRules;
pub use index::{Index, IndexKeys, IndexScan};
pub use numbers::{key_of_number, number_of_key};
pub use scan::CollectionScan;
pub use way::Way;
pub use whole::WholeScan;
pub use writer::CollectionWriter;

/// How the rows of a collection are keyed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Layout {
    /// At most one row for each value of these columns, in this order of them.
    Keyed { key: Vec<usize> },
    /// Rows in the order they came; never changed, only truncated.
    Sequence,
    /// Rows with their number.
    Multiset,
}

#[derive(Debug)]
pub struct Collection {
    id: StateId,
    name: String,
    schema: SchemaRef,
    layout: Layout,
    /// Columns in the key, in its order, and their codec; none for a sequence.
    key_columns: Vec<usize>,
    key_codec: RowCodec,
    /// Columns in the value, and their codec; none for a multiset.
    value_columns: Vec<usize>,
    value_codec: RowCodec,
    /// Rows may be in blocks.
    in_blocks: bool,
}

/// What stands beside the rows of a collection, at [`Key::RowCount`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Contents {
    rows: u64,
    /// The number that the next row of a sequence gets. Not reused, so that whoever has read up to a number can go on.
    next_sequence: u64,
}

/// A range of a collection's keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRange {
    from: Vec<u8>,
    /// `None`: to the end.
    to: Option<Vec<u8>>,
}

/// Rows looked up by key.
#[derive(Debug, Clone)]
pub struct FoundRows {
    /// Those that were found.
    pub batch: RecordBatch,
    /// For each key, which row of `batch` it has.
    pub found: Vec<Option<usize>>,
}

impl KeyRange {
    pub fn full() -> Self {
        Self { from: Vec::new(), to: None }
    }

    /// Without the keys up to and with `key`.
    #[must_use]
    pub fn after(mut self, key: &[u8]) -> Self {
        let next = [key, &[0]].concat();
        self.from = self.from.max(next);
        self
    }

    /// The first key, and the first that is beyond; `None`: there is none.
    pub fn bounds(&self) -> (&[u8], Option<&[u8]>) {
        (&self.from, self.to.as_deref())
    }

    fn starting_with(prefix: Vec<u8>) -> Self {
        let to = successor(&prefix);
        Self { from: prefix, to }
    }

    /// The encoded keys of the range in `collection`.
    fn span(&self, collection: StateId) -> (Vec<u8>, Vec<u8>) {
        let rows = Key::rows(collection);
        let to = self.to.as_ref().map_or(rows.end, |to| [&rows.start, to.as_slice()].concat());
        ([&rows.start, self.from.as_slice()].concat(), to)
    }
}

impl Collection {
    pub fn new(id: StateId, schema: SchemaRef, layout: Layout) -> Result<Self> {
        let all: Vec<usize> = (0..schema.fields().len()).collect();
        let (key_columns, value_columns) = match &layout {
            Layout::Keyed { key } => {
                let twice = key.iter().enumerate().any(|(i, column)| key[..i].contains(column));
                if twice || key.iter().any(|&column| column >= all.len()) {
                    return Err(Error::internal(format!("collection {id} cannot be keyed by columns {key:?}")));
                }
                (key.clone(), all.into_iter().filter(|column| !key.contains(column)).collect())
            }
            Layout::Sequence => (Vec::new(), all),
            Layout::Multiset => (all, Vec::new()),
        };
        let fields = |columns: &[usize]| -> Vec<FieldRef> {
            columns.iter().map(|&column| Arc::clone(&schema.fields()[column])).collect()
        };
        let key_codec = match &layout {
            Layout::Keyed { .. } => RowCodec::for_keys(&fields(&key_columns))?,
            // Rows of a multiset come out as they went in.
            Layout::Sequence | Layout::Multiset => RowCodec::new(&fields(&key_columns))?,
        };
        let value_codec = RowCodec::new(&fields(&value_columns))?;
        let name = format!("collection {id}");
        Ok(Self { id, name, schema, layout, key_columns, key_codec, value_columns, value_codec, in_blocks: false })
    }

    /// The name in error messages.
    #[must_use]
    pub fn with_name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Rows that come together are kept in blocks: of a collection keyed by a number, which nobody but the writer gives.
    pub fn with_blocks(mut self) -> Result<Self> {
        if !self.is_keyed() || !blocks::can_be_numbers(&self.schema, &self.key_columns) {
            return Err(Error::internal(format!("{} is not keyed by a number", self.name)));
        }
        self.in_blocks = true;
        Ok(self)
    }

    /// The last `added` columns came later: rows that were stored before are NULL there. None of them is in the key.
    pub fn with_added(mut self, added: usize) -> Result<Self> {
        self.value_codec = self.value_codec.with_added(added)?;
        Ok(self)
    }

    pub fn id(&self) -> StateId {
        self.id
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Columns of the schema that the key is made of, in its order; none for a sequence.
    pub fn key_columns(&self) -> &[usize] {
        &self.key_columns
    }

    /// How many rows there are.
    pub fn row_count(&self, snapshot: &Snapshot) -> Result<u64> {
        Ok(self.contents(snapshot)?.rows)
    }

    /// How many rows are kept by column; those that have changed since are counted.
    pub fn rows_by_column(&self, snapshot: &Snapshot) -> Result<u64> {
        let blocks: u64 = self.blocks(snapshot)?.iter().map(|block| block.rows()).sum();
        let sheets: u64 = self.sheets(snapshot, &[], None)?.iter().map(|sheet| sheet.head.rows).sum();
        Ok(blocks + sheets)
    }

    /// Bytes on disk, roughly; what has not reached a table yet is not counted.
    pub fn approximate_bytes(&self, snapshot: &Snapshot) -> u64 {
        let spans = [Key::rows(self.id), Key::columns(self.id)];
        spans.iter().map(|span| snapshot.approximate_bytes(&span.start, &span.end)).sum()
    }

    /// The keys of rows. A sequence has none that rows would tell.
    pub fn key_of(&self, batch: &RecordBatch) -> Result<EncodedRows> {
        let columns: Vec<ArrayRef> = self.key_columns.iter().map(|&c| Arc::clone(batch.column(c))).collect();
        self.encode_keys(&columns, batch.num_rows())
    }

    /// Keys from the key's columns alone, in its order.
    pub fn encode_keys(&self, columns: &[ArrayRef], num_rows: usize) -> Result<EncodedRows> {
        if self.layout == Layout::Sequence {
            return Err(Error::internal(format!("{}: rows of a sequence do not tell their keys", self.name)));
        }
        self.key_codec.encode_rows(columns, num_rows)
    }

    /// Rows whose first key columns equal `values`, and perhaps more rows: filter them. NULL finds NULL.
    pub fn prefix_range(&self, values: &[ScalarValue]) -> Result<KeyRange> {
        Ok(KeyRange::starting_with(self.prefix(values)?.0))
    }

    /// Rows whose first key columns equal `prefix` and whose next one is within the bounds, and perhaps more rows.
    pub fn bounded_range(
        &self,
        prefix: &[ScalarValue],
        lower: Bound<&ScalarValue>,
        upper: Bound<&ScalarValue>,
    ) -> Result<KeyRange> {
        let (start, whole) = self.prefix(prefix)?;
        let mut range = KeyRange::starting_with(start.clone());
        let unbounded = matches!((lower, upper), (Bound::Unbounded, Bound::Unbounded));
        let Some(field) = self.key_field(prefix.len()).filter(|_| whole && !unbounded) else { return Ok(range) };
        if !orders_as_sql(field.data_type(), self.is_keyed()) {
            return Ok(range);
        }
        let encode = |value: &ScalarValue| -> Result<Vec<u8>> {
            let values: Vec<ScalarValue> = prefix.iter().chain([value]).cloned().collect();
            Ok(self.prefix(&values)?.0)
        };
        range.from = match lower {
            Bound::Included(value) => encode(value)?,
            Bound::Excluded(value) => after_all(&encode(value)?)?,
            // NULL, which is within no bounds, sorts first and is one zero byte.
            Bound::Unbounded => [start.as_slice(), &[1]].concat(),
        };
        match upper {
            Bound::Included(value) => range.to = Some(after_all(&encode(value)?)?),
            Bound::Excluded(value) => range.to = Some(encode(value)?),
            Bound::Unbounded => {}
        }
        Ok(range)
    }

    /// The rows with these keys, as of the snapshot. For a multiset, a row that is there once or more.
    pub fn get_rows<K: AsRef<[u8]>>(&self, snapshot: &Snapshot, keys: &[K]) -> Result<FoundRows> {
        let stored = self.stored(snapshot, keys)?;
        let values = stored.iter().map(unframed).collect::<Result<Vec<_>>>()?;
        self.found_rows(keys, &values)
    }

    /// The rows with these keys, with their weights, only `columns` of them, which `schema` describes. Those that are not there are
    /// left out.
    fn rows_at(
        &self,
        snapshot: &Snapshot,
        mut row_keys: Vec<Vec<u8>>,
        columns: &[usize],
        schema: &SchemaRef,
    ) -> Result<Delta> {
        let stored = self.stored(snapshot, &row_keys)?;
        let mut there = stored.iter().map(Option::is_some);
        row_keys.retain(|_| there.next() == Some(true));
        let keys: Vec<&[u8]> = row_keys.iter().map(Vec::as_slice).collect();
        let values: Vec<&[u8]> = stored.iter().flatten().map(|value| value::unframe(value)).collect::<Result<_>>()?;
        self.delta_of(&keys, &values, columns, schema)
    }

    /// What is stored at these keys, in its frame; a row of a block as an entry would have it.
    fn stored<K: AsRef<[u8]>>(&self, snapshot: &Snapshot, keys: &[K]) -> Result<Vec<Option<Vec<u8>>>> {
        let encoded: Vec<Vec<u8>> =
            keys.iter().map(|key| Key::Row { collection: self.id, key: key.as_ref() }.encode()).collect();
        let mut stored = snapshot.multi_get_encoded(&encoded)?;
        if self.in_blocks {
            let missing = (0..keys.len()).filter(|&at| stored[at].is_none());
            for (at, row) in self.in_blocks(snapshot, keys, missing)? {
                stored[at] = Some(value::frame(&row));
            }
            let gone = value::frame(blocks::GONE);
            stored.iter_mut().filter(|row| row.as_ref() == Some(&gone)).for_each(|row| *row = None);
        }
        Ok(stored)
    }

    /// Rows from their keys and values (out of their frames), with their weights.
    fn delta_of(&self, keys: &[&[u8]], values: &[&[u8]], columns: &[usize], schema: &SchemaRef) -> Result<Delta> {
        let batch = self.decode(keys, values, columns, schema)?;
        let weights = match self.layout {
            Layout::Multiset => {
                let weights = values.iter().map(|v| weight_of(v)).collect::<Result<Vec<_>>>()?;
                weights.iter().any(|&w| w != 1).then(|| Int64Array::from(weights))
            }
            Layout::Keyed { .. } | Layout::Sequence => None,
        };
        Ok(Delta::new(batch, weights))
    }

    /// Reads keys in `range` on `columns` of the schema (`None`: all), `batch_size` rows at a time.
    pub fn scan(
        self: &Arc<Self>,
        snapshot: &Arc<Snapshot>,
        projection: Option<Vec<usize>>,
        range: &KeyRange,
        batch_size: usize,
    ) -> Result<CollectionScan> {
        let columns = projection.unwrap_or_else(|| (0..self.schema.fields().len()).collect());
        let schema = Arc::new(self.schema.project(&columns)?);
        CollectionScan::new(Arc::clone(self), Arc::clone(snapshot), range.clone(), columns, schema, batch_size)
    }

    /// As [`Collection::scan`], in no order: what is kept by column is read so.
    pub fn scan_whole(
        self: &Arc<Self>,
        snapshot: &Arc<Snapshot>,
        columns: Vec<usize>,
        range: &KeyRange,
        batch_size: usize,
    ) -> Result<WholeScan> {
        let schema = Arc::new(self.schema.project(&columns)?);
        WholeScan::new(Arc::clone(self), Arc::clone(snapshot), range, columns, schema, batch_size)
    }

    /// At most `n` ranges that together hold every key once, of about the same size, for scans side by side.
    pub fn split_ranges(&self, snapshot: &Snapshot, n: usize) -> Result<Vec<KeyRange>> {
        split::split(self, snapshot, n)
    }

    /// The key of what there is of its rows by column.
    fn part<'a>(&self, part: Part<'a>) -> Key<'a> {
        Key::Columns { collection: self.id, part }
    }

    fn is_keyed(&self) -> bool {
        matches!(self.layout, Layout::Keyed { .. })
    }

    fn key_field(&self, position: usize) -> Option<&FieldRef> {
        self.key_columns.get(position).map(|&column| &self.schema.fields()[column])
    }

    /// The bytes at the start of keys whose first columns equal `values`; false if they say less than the values do.
    fn prefix(&self, values: &[ScalarValue]) -> Result<(Vec<u8>, bool)> {
        if values.len() > self.key_columns.len() {
            let (given, columns) = (values.len(), self.key_columns.len());
            return Err(Error::internal(format!("{}: {given} values for a key of {columns} columns", self.name)));
        }
        let mut arrays = Vec::with_capacity(values.len());
        for (position, value) in values.iter().enumerate() {
            let Some(field) = self.key_field(position) else { break };
            if !orders_as_sql(field.data_type(), self.is_keyed()) {
                break;
            }
            arrays.push(as_type_of(value, field)?.to_array()?);
        }
        Ok((self.key_codec.encode_prefix(&arrays)?, arrays.len() == values.len()))
    }

    fn contents(&self, snapshot: &Snapshot) -> Result<Contents> {
        Ok(snapshot.get_value(&Key::RowCount(self.id))?.unwrap_or_default())
    }

    fn found_rows<K: AsRef<[u8]>>(&self, keys: &[K], values: &[Option<&[u8]>]) -> Result<FoundRows> {
        let (mut found, mut present_keys, mut present_values) =
            (Vec::with_capacity(keys.len()), Vec::new(), Vec::new());
        for (key, value) in keys.iter().zip(values) {
            found.push(value.map(|value| {
                present_keys.push(key.as_ref());
                present_values.push(value);
                present_keys.len() - 1
            }));
        }
        let columns: Vec<usize> = (0..self.schema.fields().len()).collect();
        let batch = self.decode(&present_keys, &present_values, &columns, &self.schema)?;
        Ok(FoundRows { batch, found })
    }

    /// Rows from their keys and values (out of their frames), only `columns`, which `schema` describes.
    fn decode(&self, keys: &[&[u8]], values: &[&[u8]], columns: &[usize], schema: &SchemaRef) -> Result<RecordBatch> {
        let place = |within: &[usize], column: usize| within.iter().position(|&c| c == column);
        let from_key: Vec<usize> = columns.iter().filter_map(|&c| place(&self.key_columns, c)).collect();
        let from_value: Vec<usize> = columns.iter().filter_map(|&c| place(&self.value_columns, c)).collect();
        let mut key_arrays = self.key_codec.decode_columns(keys, &from_key)?.into_iter();
        let mut value_arrays = self.value_codec.decode_columns(values, &from_value)?.into_iter();
        let arrays = columns
            .iter()
            .map(|column| {
                let arrays = if self.key_columns.contains(column) { &mut key_arrays } else { &mut value_arrays };
                arrays.next().ok_or_else(|| Error::internal(format!("{}: column {column} is missing", self.name)))
            })
            .collect::<Result<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(keys.len()));
        Ok(RecordBatch::try_new_with_options(Arc::clone(schema), arrays, &options)?)
    }
}

fn unframed(stored: &Option<Vec<u8>>) -> Result<Option<&[u8]>> {
    stored.as_deref().map(value::unframe).transpose()
}

/// So many rows without any columns.
fn without_columns(batch: &RecordBatch, rows: usize) -> Result<RecordBatch> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    Ok(RecordBatch::try_new_with_options(batch.schema(), Vec::new(), &options)?)
}

/// The first key after all that start with `prefix`, which holds at least one encoded column.
fn after_all(prefix: &[u8]) -> Result<Vec<u8>> {
    successor(prefix).ok_or_else(|| Error::internal("an encoded column consists of 0xff only"))
}

/// `value` in the type of `field`, if that loses nothing.
fn as_type_of(value: &ScalarValue, field: &FieldRef) -> Result<ScalarValue> {
    if value.data_type() == *field.data_type() {
        return Ok(value.clone());
    }
    let cast = value.cast_to(field.data_type())?;
    if cast.cast_to(&value.data_type())? != *value {
        return Err(Error::new(
            SqlState::DatatypeMismatch,
            format!("{value} is no value of column \"{}\" of type {}", field.name(), field.data_type()),
        ));
    }
    Ok(cast)
}

fn weight_of(value: &[u8]) -> Result<i64> {
    postcard::from_bytes(value).map_err(|e| Error::new(SqlState::DataCorrupted, format!("a stored weight: {e}")))
}
