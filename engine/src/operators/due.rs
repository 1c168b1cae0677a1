//! When rows will be final: of each partition the first time, so that a watermark finds what it has passed.
//!
//! ```text
//!   time, order-preserving (8 bytes) ++ partition key ─▶ nothing        one entry a partition
//!   └──── taken below the watermark ─┘
//! ```

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, AsArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, FieldRef, SchemaRef, TimeUnit, TimestampMicrosecondType};
use tidemark_common::plan::Until;
use tidemark_common::{Error, Result};
use tidemark_storage::{EpochCommit, KeyedState};

use super::aggregate::keys::{KeyCodec, typed_watermark};
use super::aggregate::{Owned, Placement};
use super::over::Computed;
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
    entries: KeyedState,
}

impl Due {
    pub fn new(until: Until, input: &SchemaRef, placement: &Placement) -> Result<Self> {
        let field = Arc::clone(&input.fields()[until.time]);
        if !matches!(field.data_type(), DataType::Timestamp(TimeUnit::Microsecond, _)) {
            return Err(Error::internal(format!("column {} is no time by which rows become final", field.name())));
        }
        Ok(Self {
            until,
            field,
            result: input.fields().len() + until.function,
            placement: placement.clone(),
            entries: KeyedState::new(placement.state(DUE), placement.cache_budget / CACHE_SHARE),
        })
    }

    /// The watermark of the time, in microseconds.
    pub fn watermark(&self, watermarks: &Watermarks) -> Result<Option<i64>> {
        let Some(watermark) = watermarks.get(&self.until.time).filter(|w| !w.is_null()) else { return Ok(None) };
        Ok(micros(&typed_watermark(watermark, &self.field)?)?.first().copied().flatten())
    }

    /// When each row will be final; never, if NULL.
    pub fn times(&self, computed: &Computed) -> Result<Vec<Option<i64>>> {
        micros(&computed.columns[self.result])
    }

    /// The partitions of this shard in which rows have become final.
    pub fn take(&mut self, ctx: &StepContext<'_>, keys: &KeyCodec) -> Result<Vec<Vec<u8>>> {
        let Some(watermark) = self.watermark(ctx.watermarks)? else { return Ok(Vec::new()) };
        let taken = self.entries.take_below(ctx.snapshot, &ordered(watermark))?;
        let partitions: Vec<Vec<u8>> = taken.into_iter().map(|(key, _)| key[8..].to_vec()).collect();
        let nothing = vec![(); partitions.len()];
        Ok(Owned { placement: &self.placement, keys }.only(partitions, nothing)?.0)
    }

    /// A partition has its first final row at another time.
    pub fn moved(&mut self, before: Option<i64>, after: Option<i64>, partition: &[u8]) {
        if before == after {
            return;
        }
        if let Some(before) = before {
            self.entries.delete(&entry(before, partition));
        }
        if let Some(after) = after {
            self.entries.put(&entry(after, partition), &[]);
        }
    }

    pub fn flush(&mut self, commit: &mut EpochCommit) {
        self.entries.flush(commit);
    }
}

fn entry(time: i64, partition: &[u8]) -> Vec<u8> {
    [&ordered(time), partition].concat()
}

/// Bytes in the order of the numbers.
fn ordered(time: i64) -> [u8; 8] {
    (time ^ i64::MIN).to_be_bytes()
}

fn micros(times: &ArrayRef) -> Result<Vec<Option<i64>>> {
    let plain = cast(times, &DataType::Timestamp(TimeUnit::Microsecond, None))?;
    Ok(plain.as_primitive::<TimestampMicrosecondType>().iter().collect())
}
