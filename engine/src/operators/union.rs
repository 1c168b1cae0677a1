//! UNION ALL: the changes of one input after those of the other, under the names of the output.

use std::sync::Arc;

use datafusion::arrow::array::{RecordBatch, RecordBatchOptions};
use datafusion::arrow::datatypes::SchemaRef;
use tidemark_common::Result;

use super::{Chunks, Operator, StepContext};

pub struct Union {
    schema: SchemaRef,
}

impl Union {
    pub fn new(schema: SchemaRef) -> Self {
        Self { schema }
    }
}

impl Operator for Union {
    fn step(&mut self, _ctx: &StepContext<'_>, inputs: Vec<Chunks>) -> Result<Chunks> {
        let mut output = Chunks::with_capacity(inputs.iter().map(Vec::len).sum());
        for delta in inputs.into_iter().flatten() {
            let options = RecordBatchOptions::new().with_row_count(Some(delta.num_rows()));
            let columns = delta.batch.columns().to_vec();
            let batch = RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?;
            output.push(delta.with_batch(batch));
        }
        Ok(output)
    }
}
