//! GROUP BY and DISTINCT: rows in, changes of one row a group out.
//!
//! ```text
//!   chunks ─▶ late rows out ─▶ number the groups ─▶ Groups::apply ─▶ results before and after ─▶ -old +new
//!             (below the old    (keys.rs)            (merge.rs, linear.rs,                        where they differ
//!              watermark)                             recompute.rs)
//!                                                         │
//!             the new watermark ──────────────────────────┴─▶ groups below it: state dropped, or sent now and dropped
//! ```
//!
//! Groups come out in the order in which the epoch touched them, -old before +new; closed ones in the order of their keys.
//!
//! State is shared between shards under one [`StateId`], so that their number may change. Each shard reads and writes only
//! the keys that its rows can have; where a range of keys is taken, [`Owned`] leaves the others' alone.

mod calls;
mod distinct;
mod extremes;
pub(super) mod keys;
mod linear;
mod merge;
mod recompute;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch, RecordBatchOptions, UInt32Array, new_empty_array};
use datafusion::arrow::compute::{concat_batches, interleave};
use datafusion::arrow::datatypes::{FieldRef, SchemaRef};
use datafusion::scalar::ScalarValue;
use tidemark_common::plan::{self, AggregateStrategy, NodeId};
use tidemark_common::{Delta, Error, Oid, Result};
use tidemark_storage::{EpochCommit, KeyedState, RowCodec, Snapshot, StateId};

pub(super) use self::calls::{Call, conform};
use self::keys::{GroupNumbers, KeyCodec, on_time};
use self::linear::Linear;
use self::merge::Merge;
use self::recompute::Recompute;
use super::exchange::shards_of;
use super::{Chunks, Operator, StateSize, StepContext, Watermarks, only_input};

/// States that a node may have: [`Placement::state`] gives each its own id.
pub const STATES_PER_NODE: u32 = 4;

/// Where an instance of a node keeps its state, and which part of it is its own.
#[derive(Debug, Clone)]
pub struct Placement {
    pub oid: Oid,
    pub node: NodeId,
    pub shard: usize,
    pub shards: usize,
    /// The key columns whose hash gives a row's shard; none: all rows are on shard 0.
    pub shard_keys: Vec<usize>,
    /// Bytes of state to keep in memory.
    pub cache_budget: usize,
}

impl Placement {
    /// For errors.
    pub fn name(&self) -> String {
        format!("node {} of object {}", self.node, self.oid)
    }

    /// The ids of an object's states: 0 to 3 are not a node's, then come four for each node.
    pub fn state(&self, which: u32) -> StateId {
        debug_assert!(which < STATES_PER_NODE);
        StateId::new(self.oid, (self.node + 1) * STATES_PER_NODE + which)
    }
}

/// The state of groups under one strategy.
trait Groups: Send {
    /// Takes the epoch's rows and gives the touched groups' results before and after them; nothing where results are
    /// sent on closing only.
    fn apply(&mut self, snapshot: &Snapshot, touched: &Touched) -> Result<Change>;

    /// Forgets the groups with keys below `horizon`.
    fn drop_closed(&mut self, snapshot: &Snapshot, horizon: &[u8]) -> Result<()>;

    /// Forgets the groups with keys below `horizon` and gives their results, in the order of keys.
    fn take_closed(&mut self, snapshot: &Snapshot, horizon: &[u8], owned: &Owned<'_>) -> Result<Closed>;

    fn flush(&mut self, commit: &mut EpochCommit);

    fn size(&self) -> StateSize;
}

/// The rows of an epoch and the groups they are in.
struct Touched {
    groups: GroupNumbers,
    /// At least one, so that accumulators hear of groups without rows.
    pieces: Vec<Piece>,
}

struct Piece {
    batch: RecordBatch,
    weights: Option<Int64Array>,
    /// The group of each row.
    groups: Vec<usize>,
    /// How many groups there are up to and with this piece. Accumulators may take it that each has had a row.
    total: usize,
}

/// Results of groups, in ascending order: one row of `columns` each. Columns may be missing when there are no groups.
#[derive(Default)]
struct Side {
    groups: Vec<usize>,
    columns: Vec<ArrayRef>,
}

#[derive(Default)]
struct Change {
    old: Side,
    new: Side,
}

/// Results of closed groups, or their states.
#[derive(Default)]
struct Closed {
    keys: Vec<Vec<u8>>,
    columns: Vec<ArrayRef>,
}

impl Touched {
    fn in_one_piece(&self) -> Result<(RecordBatch, Vec<usize>)> {
        if let [piece] = self.pieces.as_slice() {
            return Ok((piece.batch.clone(), piece.groups.clone()));
        }
        let schema = self.pieces[0].batch.schema();
        let batch = concat_batches(&schema, self.pieces.iter().map(|p| &p.batch))?;
        Ok((batch, self.pieces.iter().flat_map(|p| p.groups.iter().copied()).collect()))
    }
}

/// Tells the keys of this shard from those of others.
pub(super) struct Owned<'a> {
    pub placement: &'a Placement,
    pub keys: &'a KeyCodec,
}

impl Owned<'_> {
    pub fn only<T>(&self, keys: Vec<Vec<u8>>, values: Vec<T>) -> Result<(Vec<Vec<u8>>, Vec<T>)> {
        let Placement { shard, shards, shard_keys, .. } = self.placement;
        if *shards == 1 || keys.is_empty() {
            return Ok((keys, values));
        }
        let shard_of_key = if shard_keys.is_empty() {
            vec![0; keys.len()]
        } else {
            let columns = self.keys.decode(keys.iter().map(Vec::as_slice))?;
            let hashed: Vec<ArrayRef> = shard_keys.iter().map(|&c| Arc::clone(&columns[c])).collect();
            shards_of(&hashed, keys.len(), *shards)?
        };
        let mine = keys.into_iter().zip(values).zip(shard_of_key).filter(|(_, of)| of == shard);
        Ok(mine.map(|(entry, _)| entry).unzip())
    }
}

/// The operator: one instance a shard.
pub struct Aggregate {
    placement: Placement,
    input: SchemaRef,
    output: SchemaRef,
    /// Key columns of the input.
    group: usize,
    close: Option<usize>,
    emit_on_close: bool,
    append_only: bool,
    keys: Arc<KeyCodec>,
    result_codec: RowCodec,
    groups: Box<dyn Groups>,
    /// Groups with keys below it are gone.
    closed_to: Option<Vec<u8>>,
    late_rows: u64,
}

impl Aggregate {
    pub fn new(plan: &plan::Aggregate, input: &SchemaRef, output: &SchemaRef, placement: Placement) -> Result<Self> {
        let name = placement.name();
        if plan.emit_on_close && plan.close.is_none() {
            return Err(Error::internal(format!("{name} sends groups when they close, but nothing closes them")));
        }
        if plan.partial && !plan.emit_on_close {
            return Err(Error::internal(format!("{name} sends states of groups that may still change")));
        }
        let fields: Vec<FieldRef> = input.fields()[..plan.group].to_vec();
        let keys = Arc::new(KeyCodec::new(&fields, plan.close)?);
        let calls = plan.calls.iter().map(|call| Call::new(call, plan.group == 0)).collect::<Result<Vec<_>>>()?;
        let results: Vec<FieldRef> = calls.iter().map(|c| Arc::clone(&c.result)).collect();
        let result_codec = RowCodec::new(&results)?;
        let sends_changes = !plan.emit_on_close;
        let budget = placement.cache_budget;
        let state = |which, budget| KeyedState::new(placement.state(which), budget);
        let groups: Box<dyn Groups> = match plan.strategy {
            AggregateStrategy::Merge => {
                let keeps_values = calls.iter().any(|call| call.function.is_distinct());
                let of_values = if keeps_values { budget - budget / 4 } else { 0 };
                let states = [state(0, budget - of_values), state(1, of_values)];
                Box::new(Merge::new(calls, input, states, sends_changes, plan.partial)?)
            }
            _ if plan.partial => {
                return Err(Error::internal(format!("{name}: these groups have no states to send")));
            }
            AggregateStrategy::Linear => {
                let values = state(1, if calls.iter().any(linear::is_extreme) { budget / 2 } else { 0 });
                let totals = state(0, budget - budget / 2);
                Box::new(Linear::new(name, calls, totals, values, plan.group == 0, sends_changes)?)
            }
            AggregateStrategy::Recompute => {
                let (rows, sent) = (state(0, budget - budget / 4), state(1, budget / 4));
                Box::new(Recompute::new(name, calls, Arc::clone(&keys), input, rows, sent, sends_changes)?)
            }
        };
        Ok(Self {
            input: Arc::clone(input),
            output: Arc::clone(output),
            group: plan.group,
            close: plan.close,
            emit_on_close: plan.emit_on_close,
            append_only: plan.strategy == AggregateStrategy::Merge,
            keys,
            result_codec,
            groups,
            closed_to: None,
            late_rows: 0,
            placement,
        })
    }

    /// The rows whose group is still open.
    fn on_time(&mut self, chunks: Chunks, watermarks_before: &Watermarks) -> Result<Chunks> {
        let Some(column) = self.close else { return Ok(chunks) };
        let (kept, late_rows) = on_time(chunks, column, &self.input, watermarks_before)?;
        self.late_rows += late_rows;
        Ok(kept)
    }

    fn touch(&self, chunks: Chunks, first: bool) -> Result<Touched> {
        let mut groups = GroupNumbers::default();
        let mut pieces = Vec::with_capacity(chunks.len());
        for delta in chunks {
            let delta = if self.append_only { copies(delta, &self.placement)? } else { delta };
            let numbers = self.keys.number(&delta.batch.columns()[..self.group], delta.num_rows(), &mut groups)?;
            let total = groups.len();
            pieces.push(Piece { batch: delta.batch, weights: delta.weights, groups: numbers, total });
        }
        if self.group == 0 && first && groups.is_empty() {
            groups.number(None, &[]);
            let batch = RecordBatch::new_empty(Arc::clone(&self.input));
            pieces.push(Piece { batch, weights: None, groups: Vec::new(), total: 1 });
        }
        Ok(Touched { groups, pieces })
    }

    /// -old +new for each touched group whose results differ.
    fn changes(&self, touched: &Touched, change: Change) -> Result<Option<Delta>> {
        let Change { old, new } = change;
        let picks = self.differing(touched, &old, &new)?;
        if picks.is_empty() {
            return Ok(None);
        }
        let groups = picks.iter().map(|&(side, row)| if side == OLD { old.groups[row] } else { new.groups[row] });
        let mut columns = self.keys.decode(groups.map(|group| touched.groups.key(group)))?;
        for index in 0..self.result_codec.num_columns() {
            let data_type = self.output.field(columns.len()).data_type();
            let empty = new_empty_array(data_type);
            let of = |side: &Side| side.columns.get(index).cloned().unwrap_or_else(|| Arc::clone(&empty));
            let (old, new) = (conform(of(&old), data_type)?, conform(of(&new), data_type)?);
            columns.push(interleave(&[&old, &new], &picks)?);
        }
        let all_new = picks.iter().all(|&(side, _)| side == NEW);
        let weights = picks.iter().map(|&(side, _)| if side == OLD { -1 } else { 1 });
        let weights = (!all_new).then(|| Int64Array::from_iter_values(weights));
        Ok(Some(Delta::new(self.batch(columns, picks.len())?, weights)))
    }

    /// What is to be sent: side and row, in the order of groups, old before new, those with equal bytes left out.
    fn differing(&self, touched: &Touched, old: &Side, new: &Side) -> Result<Vec<(usize, usize)>> {
        let encode = |side: &Side| match side.groups.len() {
            0 => Ok(self.result_codec.empty()),
            rows => self.result_codec.encode_rows(&side.columns, rows),
        };
        let (old_rows, new_rows) = if old.groups.is_empty() || new.groups.is_empty() {
            (self.result_codec.empty(), self.result_codec.empty())
        } else {
            (encode(old)?, encode(new)?)
        };
        let mut picks = Vec::new();
        let (mut o, mut n) = (0, 0);
        for group in 0..touched.groups.len() {
            let in_old = old.groups.get(o) == Some(&group);
            let in_new = new.groups.get(n) == Some(&group);
            let unchanged = in_old && in_new && old_rows.row(o) == new_rows.row(n);
            if !unchanged {
                picks.extend(in_old.then_some((OLD, o)));
                picks.extend(in_new.then_some((NEW, n)));
            }
            o += usize::from(in_old);
            n += usize::from(in_new);
        }
        Ok(picks)
    }

    /// Closes what the watermark has passed; gives the rows to send now.
    fn close(&mut self, snapshot: &Snapshot, watermark: Option<&ScalarValue>) -> Result<Option<Delta>> {
        let Some(watermark) = watermark.filter(|w| !w.is_null()) else { return Ok(None) };
        let horizon = self.keys.horizon(watermark)?;
        if self.closed_to.as_ref().is_some_and(|closed| *closed >= horizon) {
            return Ok(None);
        }
        let mut sent = None;
        if self.emit_on_close {
            let owned = Owned { placement: &self.placement, keys: &self.keys };
            let closed = self.groups.take_closed(snapshot, &horizon, &owned)?;
            if !closed.keys.is_empty() {
                sent = Some(self.closed_rows(closed)?);
            }
        } else {
            self.groups.drop_closed(snapshot, &horizon)?;
        }
        self.closed_to = Some(horizon);
        Ok(sent)
    }

    fn closed_rows(&self, closed: Closed) -> Result<Delta> {
        let mut columns = self.keys.decode(closed.keys.iter().map(Vec::as_slice))?;
        for results in closed.columns {
            columns.push(conform(results, self.output.field(columns.len()).data_type())?);
        }
        Ok(Delta::inserts(self.batch(columns, closed.keys.len())?))
    }

    fn batch(&self, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch> {
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.output), columns, &options)?)
    }
}

const OLD: usize = 0;
const NEW: usize = 1;

impl Operator for Aggregate {
    fn step(&mut self, ctx: &StepContext<'_>, inputs: Vec<Chunks>) -> Result<Chunks> {
        let chunks = self.on_time(only_input(inputs)?, ctx.watermarks_before)?;
        let touched = self.touch(chunks, ctx.first)?;
        let mut output = Chunks::new();
        if !touched.groups.is_empty() {
            let change = self.groups.apply(ctx.snapshot, &touched)?;
            output.extend(self.changes(&touched, change)?);
        }
        if let Some(column) = self.close {
            output.extend(self.close(ctx.snapshot, ctx.watermarks.get(&column))?);
        }
        Ok(output)
    }

    fn flush(&mut self, commit: &mut EpochCommit) -> Result<()> {
        self.groups.flush(commit);
        Ok(())
    }

    fn state_size(&self) -> StateSize {
        self.groups.size()
    }

    fn take_late_rows(&mut self) -> u64 {
        std::mem::take(&mut self.late_rows)
    }
}

/// Rows of weight n as n rows, for input that only grows.
pub(super) fn copies(delta: Delta, placement: &Placement) -> Result<Delta> {
    let Some(weights) = &delta.weights else { return Ok(delta) };
    if weights.values().iter().any(|&w| w < 0) {
        return Err(Error::internal(format!("{}: a row went away from append-only input", placement.name())));
    }
    let copies = weights.values().iter().enumerate();
    let indices = copies.flat_map(|(row, &n)| std::iter::repeat_n(row as u32, usize::try_from(n).unwrap_or(0)));
    Ok(Delta::inserts(delta.take(&UInt32Array::from_iter_values(indices))?.batch))
}

pub(super) fn size_of<'a>(states: impl IntoIterator<Item = &'a KeyedState>) -> StateSize {
    states.into_iter().fold(StateSize::default(), |sum, state| StateSize {
        entries: sum.entries + state.len().unwrap_or(0) as u64,
        cached_bytes: sum.cached_bytes + state.bytes() as u64,
    })
}
