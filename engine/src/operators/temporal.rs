//! Temporal filter: rows that leave, or come, as time passes.
//!
//! ```text
//!   ts > now() - 1 hour                                   ts <= now()
//!   changes ─ above the bound ─▶ kept, sent               changes ─ at or below the bound ─▶ sent
//!             else: has left                                        above ─▶ kept, not sent
//!   bound moves ─▶ kept rows that it reaches: -           bound moves ─▶ kept rows that it reaches: +
//! ```
//!
//! What is there follows from the row and the bound alone, so a row that is taken back is found where it is, and nothing of rows
//! that have left is kept. The input is exchanged by the column, so that a row and its taking back meet.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch};
use datafusion::arrow::compute::filter_record_batch;
use datafusion::arrow::datatypes::{FieldRef, SchemaRef};
use tidemark_common::plan::{Keeps, Temporal, numbers};
use tidemark_common::{Delta, Error, Result};
use tidemark_storage::{EpochCommit, KeyedState, RowCodec};

use super::aggregate::Placement;
use super::exchange::shards_of;
use super::time_index::TimeIndex;
use super::{Chunks, Operator, StateSize, StepContext, only_input};

/// Which of a node's states it is.
const ROWS: u32 = 0;
/// A year in microseconds, and how many of them a row is looked for ahead.
const YEAR: i64 = 31_557_600_000_000;
const YEARS: i64 = 300;

pub struct TemporalFilter {
    plan: Temporal,
    schema: SchemaRef,
    codec: RowCodec,
    placement: Placement,
    /// By its number, the row ─▶ weight.
    rows: TimeIndex,
    /// The bound that is waited for, and when it will be.
    due: Cell<Option<(i64, i64)>>,
    now: i64,
}

impl TemporalFilter {
    pub fn new(plan: &Temporal, schema: &SchemaRef, placement: Placement) -> Result<Self> {
        let fields: Vec<FieldRef> = schema.fields().iter().cloned().collect();
        Ok(Self {
            plan: plan.clone(),
            schema: Arc::clone(schema),
            codec: RowCodec::new(&fields)?,
            rows: TimeIndex::new(KeyedState::new(placement.state(ROWS), placement.cache_budget)),
            placement,
            due: Cell::new(None),
            now: i64::MIN,
        })
    }

    /// The least number that the bound has not reached yet.
    fn limit(&self, now: i64) -> Result<i64> {
        let reached_by_equal =
            matches!((self.plan.keeps, self.plan.or_equal), (Keeps::Above, false) | (Keeps::Below, true));
        let bound = self.plan.at(now)?;
        Ok(if reached_by_equal { bound.saturating_add(1) } else { bound })
    }

    /// The kept rows that the bound has reached: they leave, or come.
    fn reached(&mut self, ctx: &StepContext<'_>, limit: i64) -> Result<Option<Delta>> {
        let taken = self.rows.take_below(ctx.snapshot, limit)?;
        if taken.is_empty() {
            return Ok(None);
        }
        let columns = self.codec.decode(taken.iter().map(|(row, _)| row.as_slice()))?;
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), columns)?;
        let sign = if self.plan.keeps == Keeps::Above { -1 } else { 1 };
        let weights = taken.iter().map(|(_, weight)| Ok(sign * weight_of(weight)?)).collect::<Result<Vec<i64>>>()?;
        let all = Delta::new(batch, Some(Int64Array::from(weights)));
        let mine = self.mine(all.batch.column(self.plan.column), all.num_rows())?;
        let mine = all.filter(&mine)?;
        Ok((!mine.is_empty()).then_some(mine))
    }

    /// After a restart with another number of shards there are rows of others among them.
    fn mine(&self, column: &ArrayRef, rows: usize) -> Result<BooleanArray> {
        let Placement { shard, shards, .. } = self.placement;
        if shards == 1 {
            return Ok(BooleanArray::from(vec![true; rows]));
        }
        Ok(shards_of(&[Arc::clone(column)], rows, shards)?.into_iter().map(|of| Some(of == shard)).collect())
    }

    /// Rows on one side of the bound are sent, on the other they wait; those that will be reached are kept.
    fn changed(&mut self, ctx: &StepContext<'_>, delta: &Delta, limit: i64) -> Result<Option<Delta>> {
        let times = numbers(delta.batch.column(self.plan.column))?;
        let ahead: BooleanArray = times.iter().map(|time| Some(time.is_some_and(|time| time >= limit))).collect();
        let is_there = |time: &Option<i64>| match self.plan.keeps {
            Keeps::Above => time.is_some_and(|time| time >= limit),
            Keeps::Below => time.is_some_and(|time| time < limit),
        };
        let sent: BooleanArray = times.iter().map(|time| Some(is_there(time))).collect();
        let kept = filter_record_batch(&delta.batch, &ahead)?;
        let weights = (0..delta.num_rows()).filter(|row| ahead.value(*row)).map(|row| delta.weight(row));
        self.keep(ctx, &kept, weights.collect())?;
        let sent = delta.filter(&sent)?;
        Ok((!sent.is_empty()).then_some(sent))
    }

    fn keep(&mut self, ctx: &StepContext<'_>, rows: &RecordBatch, weights: Vec<i64>) -> Result<()> {
        if weights.is_empty() {
            return Ok(());
        }
        let times = numbers(rows.column(self.plan.column))?;
        let encoded = self.codec.encode_rows(rows.columns(), rows.num_rows())?;
        let mut net: HashMap<(i64, &[u8]), i64> = HashMap::new();
        for (row, weight) in weights.into_iter().enumerate() {
            let time = times[row].ok_or_else(|| Error::internal("a row without a time is kept by its time"))?;
            *net.entry((time, encoded.row(row))).or_default() += weight;
        }
        let mut changes: Vec<((i64, &[u8]), i64)> = net.into_iter().filter(|(_, weight)| *weight != 0).collect();
        changes.sort_unstable();
        self.rows.load(ctx.snapshot, changes.iter().map(|(row, _)| *row))?;
        for ((time, row), weight) in changes {
            let before = self.rows.get(time, row).map_or(Ok(0), weight_of)?;
            match before + weight {
                0 => self.rows.delete(time, row),
                after @ 1.. => {
                    let mut buffer = [0; 10];
                    let value = postcard::to_slice(&after, &mut buffer)
                        .map_err(|e| Error::internal(format!("cannot encode weight {after}: {e}")))?;
                    self.rows.put(time, row, value);
                }
                after => {
                    return Err(Error::internal(format!(
                        "{}: a row is there {after} times: it went away more often than it had come",
                        self.placement.name()
                    )));
                }
            }
        }
        Ok(())
    }

    /// The first moment after `now` at which the bound has reached `time`.
    fn moment_of(&self, time: i64) -> Result<Option<i64>> {
        let reached = |now: i64| -> Result<bool> { Ok(self.limit(now)? > time) };
        let (mut before, mut step) = (self.now, 1_000_000);
        let end = self.now.saturating_add(YEAR * YEARS);
        let mut after = before;
        while !reached(after)? {
            if after >= end {
                return Ok(None);
            }
            before = after;
            after = after.saturating_add(step).min(end);
            step *= 2;
        }
        while after - before > 1 {
            let middle = before + (after - before) / 2;
            if reached(middle)? { after = middle } else { before = middle }
        }
        Ok(Some(after))
    }
}

fn weight_of(value: &[u8]) -> Result<i64> {
    postcard::from_bytes(value).map_err(|e| Error::internal(format!("a kept row's weight cannot be read: {e}")))
}

impl Operator for TemporalFilter {
    fn step(&mut self, ctx: &StepContext<'_>, inputs: Vec<Chunks>) -> Result<Chunks> {
        self.now = ctx.now;
        let limit = self.limit(ctx.now)?;
        let mut output = Chunks::new();
        output.extend(self.reached(ctx, limit)?);
        for delta in only_input(inputs)? {
            output.extend(self.changed(ctx, &delta, limit)?);
        }
        Ok(output)
    }

    fn flush(&mut self, commit: &mut EpochCommit) -> Result<()> {
        self.rows.flush(commit);
        Ok(())
    }

    fn due_at(&self) -> Result<Option<i64>> {
        let Some(first) = self.rows.first() else { return Ok(None) };
        // Before its first step it has not looked yet.
        let Some(first) = first.filter(|_| self.now != i64::MIN) else { return Ok(Some(i64::MIN)) };
        if let Some((known, at)) = self.due.get()
            && known == first
        {
            return Ok(Some(at));
        }
        let at = self.moment_of(first)?.unwrap_or(i64::MAX);
        self.due.set(Some((first, at)));
        Ok(Some(at))
    }

    fn state_size(&self) -> StateSize {
        self.rows.size()
    }
}
