//! Blocks: rows that came together in a collection keyed by a number, kept column by column.
//!
//! ```text
//!   numbers     1 ........... 8192   8193 .. 8200   8201 .......... 16392
//!               └──── block ─────┘   └ entries ┘    └───── block ──────┘
//!   entries         7: row, 9: GONE                      9000: row          are what became of rows of a block since
//!
//!   Part::Block { last: 8192, column: 0 }      how many rows (postcard)
//!   Part::Block { last: 8192, column: 1 + c }  column c of them: see `column`
//! ```
//!
//! A row by itself costs an encoding, an entry in the log and one in the store, and is decoded byte by byte; a block of thousands
//! costs as many as it has columns, and readers take the columns they want as they stand. Rows are looked up by number: whoever
//! wants one of a block takes its columns apart, so a collection that has indexes gets no blocks, and one that gets an index has its
//! rows entered one by one.
//!
//! **Invariant:** blocks do not overlap, and are never changed. An entry within a block's numbers counts before the block's row.

use std::ops::ControlFlow;
use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, Int64Array, RecordBatch, RecordBatchOptions, UInt32Array, new_null_array,
};
use datafusion::arrow::compute::{interleave_record_batch, take};
use datafusion::arrow::datatypes::{DataType, SchemaRef};
use tidemark_common::{Error, Result, SqlState};

use super::numbers::{key_of_number, number_of_key};
use super::{Collection, column, without_columns};
use crate::commit::EpochCommit;
use crate::keys::{Key, Part};
use crate::snapshot::{Cursor, Direction, Snapshot};
use crate::store::Store;
use crate::value;

/// Fewer rows than this are entries: a batch of as many is worth to be kept as it is on its way here.
pub const MIN_BLOCK_ROWS: usize = 1024;

/// Rows of a block at most: what a reader takes at a time.
const MAX_ROWS: usize = 8192;

/// The value of an entry whose row was in a block and is no more; it may outlast the block. No encoded row starts with this byte.
pub(super) const GONE: &[u8] = &[0xff];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Block {
    last: u64,
    rows: u64,
}

impl Block {
    pub fn first(&self) -> u64 {
        self.last + 1 - self.rows
    }

    /// The number after its last.
    pub fn end(&self) -> u64 {
        self.last + 1
    }

    pub fn first_key(&self) -> Vec<u8> {
        key_of(self.first()).to_vec()
    }

    /// The first key after its rows'.
    pub fn end_key(&self) -> Vec<u8> {
        key_of(self.end()).to_vec()
    }

    pub fn rows(&self) -> u64 {
        self.rows
    }
}

/// Rows of a block, with those in which its entries say otherwise.
#[derive(Debug)]
pub(super) struct BlockRows {
    pub batch: RecordBatch,
    numbers: Numbers,
}

#[derive(Debug)]
enum Numbers {
    From(u64),
    Each(Vec<u64>),
}

impl BlockRows {
    /// The key of a row.
    pub fn key(&self, row: usize) -> Vec<u8> {
        let number = match &self.numbers {
            Numbers::From(first) => first + row as u64,
            Numbers::Each(numbers) => numbers[row],
        };
        key_of(number).to_vec()
    }
}

/// Numbers of rows in blocks are not negative.
fn key_of(number: u64) -> [u8; 9] {
    key_of_number(number as i64)
}

fn number_of(key: &[u8]) -> Option<u64> {
    u64::try_from(number_of_key(key)?).ok()
}

/// The first number whose key is not before these bytes, which need not be a key.
fn first_number_from(bytes: &[u8]) -> u64 {
    let Some((&valid, rest)) = bytes.split_first() else { return 0 };
    if valid != 1 {
        return if valid == 0 { 0 } else { u64::MAX };
    }
    let mut number = [0; 8];
    let len = rest.len().min(8);
    number[..len].copy_from_slice(&rest[..len]);
    let number = u64::from_be_bytes(number);
    // Negative numbers come first, and are nobody's.
    number.checked_sub(1 << 63).map_or(0, |number| number + u64::from(rest.len() > 8))
}

impl Collection {
    /// The block of a row with this number, or the next one.
    pub(super) fn block_from(&self, snapshot: &Snapshot, number: u64) -> Result<Option<Block>> {
        match self.in_blocks {
            true => self.block_at(&mut snapshot.cursor(Key::blocks(self.id)), number),
            false => Ok(None),
        }
    }

    /// As [`Collection::block_from`], by a cursor over all blocks.
    fn block_at(&self, blocks: &mut Cursor<'_>, number: u64) -> Result<Option<Block>> {
        let from = self.part(Part::Block { last: number, column: 0 }).encode();
        let mut found = None;
        blocks.visit(&from, &Key::blocks(self.id).end, |key, stored| {
            let Key::Columns { part: Part::Block { last, column: 0 }, .. } = Key::decode(key)? else {
                return Err(self.torn());
            };
            let rows: u64 = value::decode(stored)?;
            if rows == 0 || rows > last + 1 {
                return Err(self.torn());
            }
            found = Some(Block { last, rows });
            Ok(ControlFlow::Break(()))
        })?;
        Ok(found)
    }

    /// As [`Collection::block_from`], of what keys from `from` on may find.
    pub(super) fn block_from_key(&self, snapshot: &Snapshot, from: &[u8]) -> Result<Option<Block>> {
        self.block_from(snapshot, first_number_from(from))
    }

    /// All blocks, ascending.
    pub(super) fn blocks(&self, snapshot: &Snapshot) -> Result<Vec<Block>> {
        let mut blocks = Vec::new();
        if !self.in_blocks {
            return Ok(blocks);
        }
        let mut cursor = snapshot.cursor(Key::blocks(self.id));
        let mut next = 0;
        while let Some(block) = self.block_at(&mut cursor, next)? {
            next = block.end();
            blocks.push(block);
        }
        Ok(blocks)
    }

    /// The last number that a row has or had; none in a collection that is not keyed so.
    pub fn last_number(&self, snapshot: &Snapshot) -> Result<Option<i64>> {
        let mut last = None;
        for span in [Key::rows(self.id), Key::blocks(self.id)] {
            snapshot.visit(&span.start, &span.end, Direction::Reverse, |key, _| {
                last = last.max(match Key::decode(key)? {
                    Key::Columns { part: Part::Block { last, .. }, .. } => Some(last),
                    Key::Row { key, .. } => number_of(key),
                    _ => None,
                });
                Ok(ControlFlow::Break(()))
            })?;
        }
        last.map(|last| i64::try_from(last).map_err(|_| self.torn())).transpose()
    }

    /// Writes rows with the numbers from `first` on.
    pub(super) fn write_blocks(&self, first: u64, batch: &RecordBatch, commit: &mut EpochCommit) -> Result<Vec<Block>> {
        let mut blocks = Vec::new();
        for at in (0..batch.num_rows()).step_by(MAX_ROWS) {
            let rows = batch.slice(at, MAX_ROWS.min(batch.num_rows() - at));
            blocks.push(self.write_block(first + at as u64, &rows, commit)?);
        }
        Ok(blocks)
    }

    fn write_block(&self, first: u64, batch: &RecordBatch, commit: &mut EpochCommit) -> Result<Block> {
        let rows = batch.num_rows() as u64;
        let block = Block { last: first + rows - 1, rows };
        let key = |column| self.part(Part::Block { last: block.last, column });
        commit.put_value(&key(0), &rows)?;
        for &column in &self.value_columns {
            commit.put(&key(place(column)?), &column::encode(&self.schema.fields()[column], batch.column(column))?);
        }
        Ok(block)
    }

    /// Rows with numbers from `from` to before `to` keys, as they are now; only `columns`, which `schema` describes.
    pub(super) fn read_block(
        &self,
        snapshot: &Snapshot,
        block: Block,
        (from, to): (&[u8], &[u8]),
        columns: &[usize],
        schema: &SchemaRef,
    ) -> Result<BlockRows> {
        let low = block.first().max(first_number_from(from));
        let high = block.end().min(first_number_from(to)).max(low);
        let mut changed: Vec<(u64, Option<Vec<u8>>)> = Vec::new();
        let prefix = Key::rows(self.id).start;
        let encoded = |number: u64| [prefix.as_slice(), &key_of(number)].concat();
        snapshot.visit(&encoded(low), &encoded(high), Direction::Forward, |key, stored| {
            let number = number_of(&key[prefix.len()..]).ok_or_else(|| self.torn())?;
            let row = value::unframe(stored)?;
            changed.push((number, (row != GONE).then(|| row.to_vec())));
            Ok(ControlFlow::Continue(()))
        })?;
        let arrays = self.block_columns(snapshot, block, columns)?;
        let options = RecordBatchOptions::new().with_row_count(Some(block.rows as usize));
        let batch = RecordBatch::try_new_with_options(Arc::clone(schema), arrays, &options)?;
        let batch = batch.slice((low - block.first()) as usize, (high - low) as usize);
        if changed.is_empty() {
            return Ok(BlockRows { batch, numbers: Numbers::From(low) });
        }
        self.with_changes(&batch, low, changed, columns)
    }

    /// Enters the rows of a block one by one, as they are now: whoever reads both finds the same.
    fn enter_block(&self, snapshot: &Snapshot, block: Block, commit: &mut EpochCommit) -> Result<()> {
        let all: Vec<usize> = (0..self.schema.fields().len()).collect();
        let rows = self.read_block(snapshot, block, (&[], &[u8::MAX]), &all, &self.schema)?;
        let columns: Vec<ArrayRef> = self.value_columns.iter().map(|&c| Arc::clone(rows.batch.column(c))).collect();
        let values = self.value_codec.encode_rows(&columns, rows.batch.num_rows())?;
        let prefix = Key::rows(self.id).start;
        for (row, value) in values.iter().enumerate() {
            commit.put_framed(&prefix, &rows.key(row), self.value_codec.stored(value));
        }
        Ok(())
    }

    /// The rows, numbered from `low` on, with these ones changed or gone.
    fn with_changes(
        &self,
        batch: &RecordBatch,
        low: u64,
        changed: Vec<(u64, Option<Vec<u8>>)>,
        columns: &[usize],
    ) -> Result<BlockRows> {
        let high = low + batch.num_rows() as u64;
        let keys: Vec<[u8; 9]> =
            changed.iter().filter(|(_, row)| row.is_some()).map(|(number, _)| key_of(*number)).collect();
        let keys: Vec<&[u8]> = keys.iter().map(|key| key.as_slice()).collect();
        let values: Vec<&[u8]> = changed.iter().filter_map(|(_, row)| row.as_deref()).collect();
        let now = self.decode(&keys, &values, columns, &batch.schema())?;
        let (mut changed, mut taken) = (changed.iter().peekable(), 0);
        let (mut rows, mut numbers) = (Vec::new(), Vec::new());
        for number in low..high {
            let row = match changed.next_if(|(at, _)| *at == number) {
                None => (0, (number - low) as usize),
                Some((_, None)) => continue,
                Some((_, Some(_))) => {
                    taken += 1;
                    (1, taken - 1)
                }
            };
            rows.push(row);
            numbers.push(number);
        }
        let batch = match batch.num_columns() {
            0 => without_columns(batch, rows.len())?,
            _ => interleave_record_batch(&[batch, &now], &rows)?,
        };
        Ok(BlockRows { batch, numbers: Numbers::Each(numbers) })
    }

    /// The values that rows of blocks would have as entries, out of their frames, for those of `wanted`, positions in `keys`,
    /// that are in one.
    pub(super) fn in_blocks<K: AsRef<[u8]>>(
        &self,
        snapshot: &Snapshot,
        keys: &[K],
        wanted: impl Iterator<Item = usize>,
    ) -> Result<Vec<(usize, Vec<u8>)>> {
        let mut found = Vec::new();
        if !self.in_blocks {
            return Ok(found);
        }
        let mut numbers: Vec<(u64, usize)> =
            wanted.filter_map(|at| Some((number_of(keys[at].as_ref())?, at))).collect();
        numbers.sort_unstable();
        let mut rest = numbers.as_slice();
        while let Some((number, _)) = rest.first() {
            let Some(block) = self.block_from(snapshot, *number)? else { break };
            rest = &rest[rest.partition_point(|(number, _)| *number < block.first())..];
            let (within, after) = rest.split_at(rest.partition_point(|(number, _)| *number < block.end()));
            rest = after;
            if within.is_empty() {
                continue;
            }
            let rows: UInt32Array =
                within.iter().map(|(number, _)| (number - block.first()) as u32).collect::<Vec<_>>().into();
            let columns = self.block_columns(snapshot, block, &self.value_columns)?;
            let columns: Vec<ArrayRef> = columns.iter().map(|c| take(c, &rows, None)).collect::<Result<_, _>>()?;
            let values = self.value_codec.encode_rows(&columns, within.len())?;
            for (&(_, at), value) in within.iter().zip(values.iter()) {
                found.push((at, self.value_codec.stored(value).to_vec()));
            }
        }
        Ok(found)
    }

    fn block_columns(&self, snapshot: &Snapshot, block: Block, columns: &[usize]) -> Result<Vec<ArrayRef>> {
        let stored = columns.iter().copied().filter(|column| !self.key_columns.contains(column));
        let mut arrays =
            self.columns_of(snapshot, block.rows as usize, stored, |column| Part::Block { last: block.last, column })?;
        for &column in &self.key_columns {
            let numbers = (block.first()..block.end()).map(|number| number as i64);
            arrays[column] = Some(Arc::new(Int64Array::from_iter_values(numbers)));
        }
        columns.iter().map(|&column| arrays[column].clone()).collect::<Option<_>>().ok_or_else(|| self.torn())
    }

    /// These columns of so many rows, each at its position in the schema, from their `place`s. Those that were added later are NULL.
    pub(super) fn columns_of(
        &self,
        snapshot: &Snapshot,
        rows: usize,
        columns: impl Iterator<Item = usize>,
        part: impl Fn(u16) -> Part<'static>,
    ) -> Result<Vec<Option<ArrayRef>>> {
        let fields = self.schema.fields();
        let mut arrays: Vec<Option<ArrayRef>> = vec![None; fields.len()];
        let mut wanted: Vec<usize> = columns.collect();
        wanted.sort_unstable();
        wanted.dedup();
        let key = |&column: &usize| Ok(self.part(part(place(column)?)).encode());
        let keys: Vec<Vec<u8>> = wanted.iter().map(key).collect::<Result<_>>()?;
        snapshot.multi_get_sorted(keys.iter().map(Vec::as_slice), |at, value| {
            let field = &fields[wanted[at]];
            arrays[wanted[at]] = Some(match value {
                Some(value) => column::decode(field, rows, value).ok_or_else(|| self.torn())??,
                None => new_null_array(field.data_type(), rows),
            });
            Ok(())
        })?;
        Ok(arrays)
    }

    /// The numbers of rows, in a collection whose rows have them.
    pub(super) fn numbers<'a>(&self, batch: &'a RecordBatch) -> Result<&'a Int64Array> {
        let column = self.key_columns.first().map(|&column| batch.column(column));
        let numbers = column.and_then(|column| column.as_any().downcast_ref());
        numbers.ok_or_else(|| Error::internal(format!("{} is not keyed by a number", self.name)))
    }

    pub(super) fn torn(&self) -> Error {
        Error::new(SqlState::DataCorrupted, format!("a block of rows of {} cannot be read", self.name))
    }
}

impl Store {
    /// Enters the rows of all blocks one by one, so that an index can look them up; the blocks can go with the next commit, by
    /// [`EpochCommit::delete_blocks`]. The snapshot that is returned has the entries.
    pub(crate) fn enter_blocks(&self, collection: &Collection, mut entered: Arc<Snapshot>) -> Result<Arc<Snapshot>> {
        for block in collection.blocks(&entered)? {
            let mut ahead = self.begin();
            collection.enter_block(&entered, block, &mut ahead)?;
            entered = self.prepare(&ahead)?;
        }
        Ok(entered)
    }
}

/// Whether one of these blocks, ascending, has a row of this key.
pub(super) fn holds(blocks: &[Block], key: &[u8]) -> bool {
    let Some(number) = number_of(key) else { return false };
    let next = blocks.partition_point(|block| block.last < number);
    blocks.get(next).is_some_and(|block| block.first() <= number)
}

/// Whether rows of a collection keyed by these columns can be in blocks.
pub(super) fn can_be_numbers(schema: &SchemaRef, key: &[usize]) -> bool {
    matches!(key, [column] if schema.field(*column).data_type() == &DataType::Int64)
}

/// Where a column stands in its block or sheet.
pub(super) fn place(column: usize) -> Result<u16> {
    u16::try_from(column + 1).map_err(|_| Error::internal("a table with more columns than can be kept apart"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_bytes_have_a_first_number_from_them() {
        for number in [0, 1, 255, 8192, i64::MAX as u64] {
            assert_eq!(first_number_from(&key_of(number)), number);
            assert_eq!(first_number_from(&[&key_of(number)[..], &[0]].concat()), number + 1);
        }
        assert_eq!((first_number_from(&key_of_number(-1)), first_number_from(&[1, 0x80, 0, 0, 0, 0, 0, 1])), (0, 256));
        assert_eq!((first_number_from(&[]), first_number_from(&[0]), first_number_from(&[2])), (0, 0, u64::MAX));
    }
}
