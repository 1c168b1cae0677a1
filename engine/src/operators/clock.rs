//! The time of processing: each row with the time of the epoch that it comes in, as its last column.
//!
//! Rows only ever come, so none has to be found again with the time that it had. Later epochs have later times: the column has a
//! watermark.

use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use tidemark_common::plan::clock_column;
use tidemark_common::{Delta, Result};

use super::{Chunks, Operator, StepContext, only_input};

pub struct Clock {
    output: SchemaRef,
}

impl Clock {
    pub fn new(output: SchemaRef) -> Self {
        Self { output }
    }
}

impl Operator for Clock {
    fn step(&mut self, ctx: &StepContext<'_>, inputs: Vec<Chunks>) -> Result<Chunks> {
        let stamp = |delta: Delta| -> Result<Delta> {
            let mut columns = delta.batch.columns().to_vec();
            columns.push(clock_column(ctx.now, delta.num_rows())?);
            let batch = RecordBatch::try_new(Arc::clone(&self.output), columns)?;
            Ok(delta.with_batch(batch))
        };
        only_input(inputs)?.into_iter().map(stamp).collect()
    }
}
