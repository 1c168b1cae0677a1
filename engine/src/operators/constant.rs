//! VALUES, and SELECT without FROM: rows that come in the first step and stay.

use datafusion::arrow::array::RecordBatch;
use tidemark_common::{Delta, Result};

use super::{Chunks, Operator, StepContext};

pub struct Constant {
    batch: RecordBatch,
}

impl Constant {
    pub fn new(batch: RecordBatch) -> Self {
        Self { batch }
    }
}

impl Operator for Constant {
    fn step(&mut self, ctx: &StepContext<'_>, _inputs: Vec<Chunks>) -> Result<Chunks> {
        if ctx.first && self.batch.num_rows() > 0 {
            return Ok(vec![Delta::inserts(self.batch.clone())]);
        }
        Ok(Chunks::new())
    }
}
