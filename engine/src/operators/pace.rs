//! EMIT CHANGES EVERY: changes are held back, netted, and sent together at multiples of an interval. Without an interval only what
//! is final is sent: EMIT ON WINDOW CLOSE of what has no closing of its own, such as the first rows of each window.
//!
//! ```text
//!   12:00:00        12:00:10        12:00:20            EVERY INTERVAL '10 seconds'
//!      ├──+a──+b──-a──┼──+c──window──┼──▶
//!                     +b      closes  +..
//!                             +its rows at once: what is final does not wait
//! ```

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::array::{Int64Array, RecordBatch};
use datafusion::arrow::datatypes::{FieldRef, SchemaRef};
use tidemark_common::plan::Pace as Plan;
use tidemark_common::{Delta, Error, Result};
use tidemark_storage::{EpochCommit, KeyedState, RowCodec};

use super::aggregate::Placement;
use super::time_index::{TimeIndex, micros, watermark_micros};
use super::{Chunks, Operator, StateSize, StepContext, only_input};

/// Which of a node's states it is.
const HELD: u32 = 0;
/// The place of rows that no watermark passes.
const OPEN: i64 = i64::MAX;

pub struct Pace {
    plan: Plan,
    schema: SchemaRef,
    codec: RowCodec,
    /// By the column with the watermark, the row ─▶ how often it has come or gone since it was last told.
    held: TimeIndex,
    /// All rows are on shard 0.
    is_first_shard: bool,
    /// When changes were last sent: the number of the interval. Rows held from an earlier life go first.
    sent: Option<i64>,
}

impl Pace {
    pub fn new(plan: Plan, schema: &SchemaRef, placement: &Placement) -> Result<Self> {
        let fields: Vec<FieldRef> = schema.fields().iter().cloned().collect();
        Ok(Self {
            plan,
            schema: Arc::clone(schema),
            codec: RowCodec::new(&fields)?,
            held: TimeIndex::new(KeyedState::new(placement.state(HELD), placement.cache_budget)),
            is_first_shard: placement.shard == 0,
            sent: None,
        })
    }

    fn hold(&mut self, ctx: &StepContext<'_>, delta: &Delta) -> Result<()> {
        let rows = delta.num_rows();
        let times = match self.plan.close {
            Some(column) => micros(delta.batch.column(column))?,
            None => vec![None; rows],
        };
        let encoded = self.codec.encode_rows(delta.batch.columns(), rows)?;
        let mut net: HashMap<(i64, &[u8]), i64> = HashMap::new();
        for row in 0..rows {
            *net.entry((times[row].unwrap_or(OPEN), encoded.row(row))).or_default() += delta.weight(row);
        }
        let mut changes: Vec<((i64, &[u8]), i64)> = net.into_iter().filter(|(_, weight)| *weight != 0).collect();
        changes.sort_unstable();
        self.held.load(ctx.snapshot, changes.iter().map(|(row, _)| *row))?;
        for ((time, row), weight) in changes {
            match self.held.get(time, row).map_or(Ok(0), weight_of)? + weight {
                0 => self.held.delete(time, row),
                after => {
                    let mut buffer = [0; 10];
                    let value = postcard::to_slice(&after, &mut buffer)
                        .map_err(|e| Error::internal(format!("cannot encode weight {after}: {e}")))?;
                    self.held.put(time, row, value);
                }
            }
        }
        Ok(())
    }

    fn send_below(&mut self, ctx: &StepContext<'_>, bound: Option<i64>) -> Result<Option<Delta>> {
        let taken = match bound {
            Some(bound) => self.held.take_below(ctx.snapshot, bound)?,
            None => self.held.take_all(ctx.snapshot)?,
        };
        if taken.is_empty() {
            return Ok(None);
        }
        let columns = self.codec.decode(taken.iter().map(|(row, _)| row.as_slice()))?;
        let weights = taken.iter().map(|(_, weight)| weight_of(weight)).collect::<Result<Vec<i64>>>()?;
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), columns)?;
        Ok(Some(Delta::new(batch, Some(Int64Array::from(weights)))))
    }
}

fn weight_of(value: &[u8]) -> Result<i64> {
    postcard::from_bytes(value).map_err(|e| Error::internal(format!("a held row's weight cannot be read: {e}")))
}

impl Operator for Pace {
    fn step(&mut self, ctx: &StepContext<'_>, inputs: Vec<Chunks>) -> Result<Chunks> {
        if !self.is_first_shard {
            return Ok(Chunks::new());
        }
        for delta in only_input(inputs)? {
            self.hold(ctx, &delta)?;
        }
        let number = self.plan.every.map(|every| ctx.now.div_euclid(every));
        if number.is_some() && self.sent != number {
            self.sent = number;
            return Ok(self.send_below(ctx, None)?.into_iter().collect());
        }
        let Some(column) = self.plan.close else { return Ok(Chunks::new()) };
        match watermark_micros(ctx.watermarks, column, &self.schema.fields()[column])? {
            Some(watermark) => Ok(self.send_below(ctx, Some(watermark))?.into_iter().collect()),
            None => Ok(Chunks::new()),
        }
    }

    fn flush(&mut self, commit: &mut EpochCommit) -> Result<()> {
        self.held.flush(commit);
        Ok(())
    }

    fn due_at(&self) -> Result<Option<i64>> {
        let Some(every) = self.plan.every else { return Ok(None) };
        let next = self.sent.map_or(i64::MIN, |number| (number + 1).saturating_mul(every));
        Ok(self.held.first().filter(|_| self.is_first_shard).map(|_| next))
    }

    fn state_size(&self) -> StateSize {
        self.held.size()
    }
}
