//! When rows will be final: of each partition the first time, so that a watermark finds what it has passed.

use std::sync::Arc;

use datafusion::arrow::datatypes::{FieldRef, SchemaRef};
use tidemark_common::Result;
use tidemark_common::plan::Until;
use tidemark_storage::{EpochCommit, KeyedState};

use super::aggregate::keys::KeyCodec;
use super::aggregate::{Owned, Placement};
use super::over::Computed;
use super::time_index::{TimeIndex, check_time, micros, watermark_micros};
use super::{StepContext, Watermarks};

/// Which of a node's states it is.
const DUE: u32 = 1;
const CACHE_SHARE: usize = 8;

pub struct Due {
    pub until: Until,
    /// Of the time.
    field: FieldRef,
    /// The column that says when a row is final.
    result: usize,
    placement: Placement,
    /// One entry a partition.
    partitions: TimeIndex,
}

impl Due {
    pub fn new(until: Until, input: &SchemaRef, placement: &Placement) -> Result<Self> {
        let field = Arc::clone(&input.fields()[until.time]);
        check_time(&field)?;
        Ok(Self {
            until,
            field,
            result: input.fields().len() + until.function,
            placement: placement.clone(),
            partitions: TimeIndex::new(KeyedState::new(placement.state(DUE), placement.cache_budget / CACHE_SHARE)),
        })
    }

    /// The watermark of the time, in microseconds.
    pub fn watermark(&self, watermarks: &Watermarks) -> Result<Option<i64>> {
        watermark_micros(watermarks, self.until.time, &self.field)
    }

    /// When each row will be final; never, if NULL.
    pub fn times(&self, computed: &Computed) -> Result<Vec<Option<i64>>> {
        micros(&computed.columns[self.result])
    }

    /// The partitions of this shard in which rows have become final.
    pub fn take(&mut self, ctx: &StepContext<'_>, keys: &KeyCodec) -> Result<Vec<Vec<u8>>> {
        let Some(watermark) = self.watermark(ctx.watermarks)? else { return Ok(Vec::new()) };
        let taken = self.partitions.take_below(ctx.snapshot, watermark)?;
        let partitions: Vec<Vec<u8>> = taken.into_iter().map(|(key, _)| key).collect();
        let nothing = vec![(); partitions.len()];
        Ok(Owned { placement: &self.placement, keys }.only(partitions, nothing)?.0)
    }

    /// A partition has its first final row at another time.
    pub fn moved(&mut self, before: Option<i64>, after: Option<i64>, partition: &[u8]) {
        if before == after {
            return;
        }
        if let Some(before) = before {
            self.partitions.delete(before, partition);
        }
        if let Some(after) = after {
            self.partitions.put(after, partition, &[]);
        }
    }

    pub fn flush(&mut self, commit: &mut EpochCommit) {
        self.partitions.flush(commit);
    }
}
