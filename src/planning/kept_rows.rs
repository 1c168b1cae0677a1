//! The rows of an input that are kept when its batches are asked, in batches of the usual size.
//!
//! ```text
//!   batch ──ask──▶ batch, those of its rows that are kept ──copied once──▶ batch of many such rows
//! ```

use std::sync::Arc;

use datafusion::arrow::array::{BooleanArray, RecordBatch};
use datafusion::arrow::compute::BatchCoalescer;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::metrics::BaselineMetrics;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::TryStreamExt;

/// What of a batch is kept.
pub(super) struct Kept {
    pub batch: RecordBatch,
    /// `None`: all of its rows.
    pub rows: Option<BooleanArray>,
}

/// `ask` gives batches of `schema`, which may have other columns than those of the input.
pub(super) fn kept_rows(
    input: SendableRecordBatchStream,
    schema: SchemaRef,
    context: &TaskContext,
    metrics: BaselineMetrics,
    ask: impl FnMut(RecordBatch) -> Result<Kept> + Send + 'static,
) -> SendableRecordBatchStream {
    let batch_size = context.session_config().batch_size();
    let rows = Rows {
        input,
        ask,
        ready: BatchCoalescer::new(Arc::clone(&schema), batch_size)
            .with_biggest_coalesce_batch_size(Some(batch_size / 2)),
        ended: false,
        metrics,
    };
    let batches = futures::stream::try_unfold(rows, |mut rows| async move {
        let batch = rows.next().await?;
        Ok::<_, DataFusionError>(batch.map(|batch| (batch, rows)))
    });
    Box::pin(RecordBatchStreamAdapter::new(schema, batches))
}

/// A condition over these columns of its batches alone, in their order: what is asked of copies of some rows need not copy the others.
pub(super) fn over(condition: Arc<dyn PhysicalExpr>, columns: &[usize]) -> Result<Arc<dyn PhysicalExpr>> {
    let moved = condition.transform(|expr| {
        let Some(column) = expr.downcast_ref::<Column>() else { return Ok(Transformed::no(expr)) };
        let index = columns.iter().position(|used| *used == column.index()).unwrap_or(columns.len());
        Ok(Transformed::yes(Arc::new(Column::new(column.name(), index)) as _))
    });
    moved.data()
}

/// A partition as it is read.
struct Rows<Ask> {
    input: SendableRecordBatchStream,
    ask: Ask,
    /// Few rows of many batches become one.
    ready: BatchCoalescer,
    ended: bool,
    metrics: BaselineMetrics,
}

impl<Ask: FnMut(RecordBatch) -> Result<Kept>> Rows<Ask> {
    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        loop {
            if let Some(batch) = self.ready.next_completed_batch() {
                self.metrics.record_output(batch.num_rows());
                return Ok(Some(batch));
            }
            if self.ended {
                return Ok(None);
            }
            let batch = self.input.try_next().await?;
            let _timer = self.metrics.elapsed_compute().timer();
            match batch {
                Some(batch) => match (self.ask)(batch)? {
                    Kept { batch, rows: Some(rows) } => self.ready.push_batch_with_filter(batch, &rows)?,
                    Kept { batch, rows: None } => self.ready.push_batch(batch)?,
                },
                None => {
                    self.ended = true;
                    self.ready.finish_buffered_batch()?;
                }
            }
        }
    }
}
