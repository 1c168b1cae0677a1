//! Panes by number, and blocks of 2, 4, 8 .. of them, made when a window first asks for one: of n panes a window has at most
//! 2 log n blocks.
//!
//! ```text
//!   level 2   |       0..4        |       4..8        |
//!   level 1   |  0..2   |  2..4   |  4..6   |  6..8   |      the window of panes 1..7: 1, 2..4, 4..6, 6
//!   level 0   | 0  | 1  | 2  | 3  | 4  | 5  | 6  | 7  |
//! ```
//!
//! Only panes are stored, in pieces; blocks are made again from them when there is no room to keep them:
//!
//! ```text
//!   start of the pane · shard (u32) · piece (u32) ─▶ length (u32), key and states of a row · the next ..       big-endian
//! ```
//!
//! Source: K. Tangwongsan, M. Hirzel, S. Schneider, K.-L. Wu, General Incremental Sliding-Window Aggregation, VLDB 2015 (FlatFAT).

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, RecordBatch, UInt32Array};
use datafusion::arrow::compute::{concat, interleave, take};
use datafusion::arrow::datatypes::FieldRef;
use datafusion::logical_expr::GroupsAccumulator;
use tidemark_common::plan::Windows;
use tidemark_common::{Error, Result};
use tidemark_storage::{EpochCommit, KeyedState, RowCodec, Snapshot};

use crate::operators::StateSize;
use crate::operators::aggregate::keys::{GroupNumbers, KeyCodec};
use crate::operators::aggregate::{Call, Placement};
use crate::operators::exchange::shards_of;
use crate::operators::time_index::{ordered, time_of};

/// Bounds a stored value.
const ROWS_PER_PIECE: usize = 1024;
/// Keys that are worth numbering anew.
const MANY_KEYS: usize = 4096;

pub struct Blocks {
    windows: Windows,
    calls: Vec<Call>,
    placement: Placement,
    keys: KeyCodec,
    key_columns: usize,
    rows: RowCodec,
    state: KeyedState,
    loaded: bool,
    /// The panes with rows: number and start.
    panes: BTreeMap<i64, i64>,
    /// By level and number: the panes that they begin with have that number shifted left by the level.
    made: BTreeMap<(u32, i64), Arc<Block>>,
    bytes: usize,
    /// The keys in blocks have numbers of their own.
    known: GroupNumbers,
    /// How many keys had numbers when they were numbered last.
    numbered: usize,
}

/// What some panes come to, a row a key.
#[derive(Clone)]
struct Block {
    numbers: Vec<usize>,
    keys: Vec<ArrayRef>,
    states: Vec<ArrayRef>,
}

/// Blocks put together.
pub struct Merged {
    blocks: Vec<Arc<Block>>,
    /// Block and row in which each key was found first.
    found: Vec<(usize, usize)>,
    accumulators: Vec<Box<dyn GroupsAccumulator>>,
}

impl Block {
    fn bytes(&self) -> usize {
        let arrays = self.keys.iter().chain(&self.states).map(|array| array.get_array_memory_size());
        arrays.sum::<usize>() + self.numbers.len() * size_of::<usize>()
    }
}

impl Merged {
    pub fn rows(&self) -> usize {
        self.found.len()
    }

    /// The keys, and what each of `calls` comes to.
    pub fn results(mut self, calls: &[Call]) -> Result<(Vec<ArrayRef>, Vec<ArrayRef>)> {
        let results = calls.iter().zip(&mut self.accumulators).map(|(call, state)| call.results(state.as_mut()));
        let results = results.collect::<Result<_>>()?;
        Ok((self.keys()?, results))
    }

    fn keys(&self) -> Result<Vec<ArrayRef>> {
        let column = |at: usize| {
            let columns: Vec<&dyn Array> = self.blocks.iter().map(|block| block.keys[at].as_ref()).collect();
            Ok(interleave(&columns, &self.found)?)
        };
        (0..self.blocks[0].keys.len()).map(column).collect()
    }

    fn into_block(mut self, calls: &[Call]) -> Result<Block> {
        let mut states = Vec::new();
        for (call, accumulator) in calls.iter().zip(&mut self.accumulators) {
            states.extend(call.states(accumulator.as_mut())?);
        }
        let numbers = self.found.iter().map(|&(block, row)| self.blocks[block].numbers[row]).collect();
        Ok(Block { numbers, keys: self.keys()?, states })
    }
}

impl Blocks {
    /// `fields`: the key's, then those of the calls' states.
    pub fn new(
        windows: Windows,
        fields: &[FieldRef],
        key_columns: usize,
        calls: Vec<Call>,
        placement: Placement,
    ) -> Result<Self> {
        let states: usize = calls.iter().map(|call| call.state_fields.len()).sum();
        if fields.len() != key_columns + states {
            return Err(Error::internal(format!(
                "{}: the states of panes are not those of its calls",
                placement.name()
            )));
        }
        Ok(Self {
            windows,
            keys: KeyCodec::new(&fields[..key_columns], None)?,
            key_columns,
            rows: RowCodec::new(fields)?,
            // What is stored is kept in memory as blocks.
            state: KeyedState::new(placement.state(0), 0),
            loaded: false,
            panes: BTreeMap::new(),
            made: BTreeMap::new(),
            bytes: 0,
            known: GroupNumbers::default(),
            numbered: 0,
            calls,
            placement,
        })
    }

    pub fn calls(&self) -> &[Call] {
        &self.calls
    }

    /// Finds out which panes are stored, the first time.
    pub fn load(&mut self, snapshot: &Snapshot) -> Result<()> {
        if !std::mem::replace(&mut self.loaded, true) {
            let mut starts = Vec::new();
            self.state.visit_prefix(snapshot, &[], |key, _| {
                starts.push(time_of(key));
                true
            })?;
            starts.dedup();
            for start in starts {
                let start = start.ok_or_else(|| self.corrupted())?;
                self.panes.insert(self.windows.number(start), start);
            }
        }
        Ok(())
    }

    /// All rows of the pane that starts at `start`.
    pub fn put(&mut self, start: i64, rows: &[RecordBatch]) -> Result<()> {
        let column = |at: usize| {
            let parts: Vec<&dyn Array> = rows.iter().map(|batch| batch.column(at + 1).as_ref()).collect();
            Ok(concat(&parts)?)
        };
        let columns = (0..self.rows.num_columns()).map(column).collect::<Result<Vec<_>>>()?;
        let count = rows.iter().map(RecordBatch::num_rows).sum();
        self.store(start, &columns, count)?;
        let number = self.windows.number(start);
        if self.panes.insert(number, start).is_some() {
            return Err(Error::internal(format!("{}: a pane closed twice", self.placement.name())));
        }
        let block = self.block_of(columns, count)?;
        self.keep(0, number, block);
        Ok(())
    }

    fn store(&mut self, start: i64, columns: &[ArrayRef], count: usize) -> Result<()> {
        let encoded = self.rows.encode_rows(columns, count)?;
        let mut value = Vec::new();
        for (piece, first) in (0..count).step_by(ROWS_PER_PIECE).enumerate() {
            value.clear();
            for row in first..count.min(first + ROWS_PER_PIECE) {
                let row = encoded.row(row);
                let len = u32::try_from(row.len()).map_err(|_| Error::internal("a row of more than 4 GB"))?;
                value.extend(len.to_be_bytes());
                value.extend(row);
            }
            self.state.put(&key(start, self.placement.shard as u32, piece as u32), &value);
        }
        Ok(())
    }

    fn block_of(&mut self, mut columns: Vec<ArrayRef>, rows: usize) -> Result<Block> {
        let states = columns.split_off(self.key_columns);
        let numbers = self.keys.number(&columns, rows, &mut self.known)?;
        Ok(Block { numbers, keys: columns, states })
    }

    fn keep(&mut self, level: u32, number: i64, block: Block) -> Arc<Block> {
        let block = Arc::new(block);
        self.bytes += block.bytes();
        self.made.insert((level, number), Arc::clone(&block));
        block
    }

    /// The start of the first pane with rows that starts at or after `time`.
    pub fn first_pane(&self, time: i64) -> Option<i64> {
        let panes = match time {
            i64::MIN => self.panes.range(..),
            edge => self.panes.range(self.windows.number(edge)..),
        };
        panes.map(|(_, start)| *start).next()
    }

    /// What lies between two edges; `None`: nothing.
    pub fn between(&mut self, snapshot: &Snapshot, start: i64, end: i64) -> Result<Option<Merged>> {
        let (mut from, to) = (self.windows.number(start), self.windows.number(end));
        let mut blocks = Vec::new();
        while from < to {
            let level = from.trailing_zeros().min((to - from).ilog2());
            blocks.extend(self.block(snapshot, level, from >> level)?);
            from += 1 << level;
        }
        self.merge(blocks)
    }

    /// `None`: its panes have no rows.
    fn block(&mut self, snapshot: &Snapshot, level: u32, number: i64) -> Result<Option<Arc<Block>>> {
        if let Some(made) = self.made.get(&(level, number)) {
            return Ok(Some(Arc::clone(made)));
        }
        let panes = number << level..(number + 1) << level;
        let Some(start) = self.panes.range(panes).next().map(|(_, start)| *start) else { return Ok(None) };
        if level == 0 {
            return Ok(self.stored(snapshot, start)?.map(|block| self.keep(level, number, block)));
        }
        let left = self.block(snapshot, level - 1, number * 2)?;
        let right = self.block(snapshot, level - 1, number * 2 + 1)?;
        let Some(merged) = self.merge(left.into_iter().chain(right).collect())? else { return Ok(None) };
        if let [only] = merged.blocks.as_slice() {
            return Ok(Some(Arc::clone(only)));
        }
        let block = merged.into_block(&self.calls)?;
        Ok(Some(self.keep(level, number, block)))
    }

    /// A pane that is not in memory.
    fn stored(&mut self, snapshot: &Snapshot, start: i64) -> Result<Option<Block>> {
        let pieces = self.state.scan_prefix(snapshot, &ordered(start))?;
        let mut rows = Vec::new();
        for (_, piece) in &pieces {
            let mut rest = piece.as_slice();
            while !rest.is_empty() {
                let row = split_row(&mut rest).ok_or_else(|| self.corrupted())?;
                rows.push(row);
            }
        }
        let count = rows.len();
        let columns = self.rows.decode(rows)?;
        let (columns, count) = self.own(columns, count)?;
        if count == 0 {
            return Ok(None);
        }
        self.block_of(columns, count).map(Some)
    }

    /// The rows of this shard, among those that shards stored, maybe of another number of them.
    fn own(&self, columns: Vec<ArrayRef>, count: usize) -> Result<(Vec<ArrayRef>, usize)> {
        let Placement { shard, shards, shard_keys, .. } = &self.placement;
        if *shards == 1 {
            return Ok((columns, count));
        }
        let hashed: Vec<ArrayRef> = shard_keys.iter().map(|&key| Arc::clone(&columns[key])).collect();
        let of = if hashed.is_empty() { vec![0; count] } else { shards_of(&hashed, count, *shards)? };
        let mine = UInt32Array::from_iter_values((0..count as u32).filter(|row| of[*row as usize] == *shard));
        let columns = columns.iter().map(|column| take(column, &mine, None)).collect::<Result<_, _>>()?;
        Ok((columns, mine.len()))
    }

    fn merge(&self, blocks: Vec<Arc<Block>>) -> Result<Option<Merged>> {
        if blocks.is_empty() {
            return Ok(None);
        }
        let mut accumulators = self.calls.iter().map(Call::accumulator).collect::<Result<Vec<_>>>()?;
        let mut found = Vec::new();
        let mut places = vec![usize::MAX; self.known.len()];
        let mut groups = Vec::new();
        for (at, block) in blocks.iter().enumerate() {
            groups.clear();
            for (row, &number) in block.numbers.iter().enumerate() {
                let place = &mut places[number];
                if *place == usize::MAX {
                    *place = found.len();
                    found.push((at, row));
                }
                groups.push(*place);
            }
            let mut states = block.states.as_slice();
            for (call, accumulator) in self.calls.iter().zip(&mut accumulators) {
                let (own, others) = states.split_at(call.state_fields.len());
                // One block at a time: a state a key, and every key so far has had one.
                accumulator.merge_batch(own, &groups, found.len())?;
                states = others;
            }
        }
        Ok(Some(Merged { blocks, found, accumulators }))
    }

    /// Forgets the panes that start before `start`.
    pub fn drop_before(&mut self, snapshot: &Snapshot, start: i64) -> Result<()> {
        let rest = match start {
            i64::MAX => BTreeMap::new(),
            edge => self.panes.split_off(&self.windows.number(edge)),
        };
        let dropped = std::mem::replace(&mut self.panes, rest);
        if let Some((&last, _)) = dropped.last_key_value() {
            self.state.drop_below(snapshot, &ordered(start))?;
            self.made.retain(|(level, number), _| (number << level) > last);
            self.bytes = self.made.values().map(|block| block.bytes()).sum();
        }
        if self.bytes > self.placement.cache_budget {
            self.made.clear();
            self.bytes = 0;
        }
        if self.known.len() > MANY_KEYS.max(2 * self.numbered) {
            self.number_anew();
        }
        Ok(())
    }

    /// Gives numbers to keys that are in a block only.
    fn number_anew(&mut self) {
        let old = std::mem::take(&mut self.known);
        let mut numbers: Vec<Option<usize>> = vec![None; old.len()];
        for block in self.made.values_mut() {
            for number in &mut Arc::make_mut(block).numbers {
                let new = *numbers[*number].get_or_insert_with(|| self.known.number(None, old.key(*number)));
                *number = new;
            }
        }
        self.numbered = self.known.len();
    }

    pub fn flush(&mut self, commit: &mut EpochCommit) {
        self.state.flush(commit);
    }

    pub fn size(&self) -> StateSize {
        StateSize { entries: self.panes.len() as u64, cached_bytes: (self.bytes + self.state.bytes()) as u64 }
    }

    fn corrupted(&self) -> Error {
        Error::internal(format!("{}: a stored pane is damaged", self.placement.name()))
    }
}

fn key(start: i64, shard: u32, piece: u32) -> Vec<u8> {
    [&ordered(start)[..], &shard.to_be_bytes(), &piece.to_be_bytes()].concat()
}

fn split_row<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (len, rows) = rest.split_first_chunk::<4>()?;
    let (row, others) = rows.split_at_checked(u32::from_be_bytes(*len) as usize)?;
    *rest = others;
    Some(row)
}
