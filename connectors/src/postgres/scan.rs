//! A SELECT on another server as a leaf of a plan: `COPY (SELECT ..) TO STDOUT BINARY`, batch by batch as they are wanted.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::Result as DfResult;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, ReplaceChildrenOptions};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use futures::{StreamExt, TryStreamExt};
use tidemark_common::{Error, Result};
use tokio::time::timeout;
use tokio_postgres::CopyOutStream;

use super::client::Canceller;
use super::copy::Decoder;
use super::error;
use super::reading::{Lent, Reading};

/// How long rows wait for more.
const LINGER: Duration = Duration::from_millis(20);

#[derive(Debug)]
pub struct PostgresScan {
    reading: Arc<Reading>,
    sql: String,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
}

impl PostgresScan {
    pub fn new(reading: Arc<Reading>, sql: String, schema: SchemaRef) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema.clone()),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Self { reading, sql, schema, properties: Arc::new(properties) }
    }
}

impl DisplayAs for PostgresScan {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "PostgresScan: connection={}, sql={}", self.reading.name, self.sql)
    }
}

impl ExecutionPlan for PostgresScan {
    fn name(&self) -> &str {
        "PostgresScan"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> DfResult<TreeNodeRecursion>,
    ) -> DfResult<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        _: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn with_new_children(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>) -> DfResult<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(&self, _partition: usize, _context: Arc<TaskContext>) -> DfResult<SendableRecordBatchStream> {
        let started = Rows::start(self.reading.clone(), self.sql.clone(), self.schema.clone());
        let batches = futures::stream::once(started)
            .map_ok(|rows| {
                futures::stream::try_unfold(rows, |mut rows| async move {
                    Ok::<_, Error>(rows.next().await?.map(|batch| (batch, rows)))
                })
            })
            .try_flatten();
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema.clone(), batches.map_err(Error::into))))
    }
}

/// Rows on their way.
struct Rows {
    name: Arc<str>,
    sql: String,
    decoder: Decoder,
    stream: std::pin::Pin<Box<CopyOutStream>>,
    ended: bool,
    /// Ends the statement over there if nobody wants the rest.
    canceller: Canceller,
    _session: Lent,
}

impl Rows {
    async fn start(reading: Arc<Reading>, sql: String, schema: SchemaRef) -> Result<Rows> {
        let session = reading.lend().await?;
        let canceller = session.client().canceller();
        let copy = format!("COPY ({sql}) TO STDOUT (FORMAT binary)");
        let stream = session.client().postgres.copy_out(&copy).await;
        let stream = stream.map_err(|e| error::remote(&reading.name, &e, Some(&sql)))?;
        let decoder = Decoder::new(schema)?;
        let name = reading.name.clone();
        Ok(Rows { name, sql, decoder, stream: Box::pin(stream), ended: false, canceller, _session: session })
    }

    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        self.decoder.go_on().map_err(|e| self.unread(e))?;
        while !self.decoder.is_full() && !self.ended {
            let next = match self.decoder.is_empty() {
                true => self.stream.next().await,
                // Rows that are there do not wait for long for more that make a batch.
                false => match timeout(LINGER, self.stream.next()).await {
                    Ok(next) => next,
                    Err(_) => break,
                },
            };
            match next {
                Some(Ok(bytes)) => self.decoder.push(&bytes).map_err(|e| self.unread(e))?,
                Some(Err(error)) => {
                    self.canceller.disarm();
                    return Err(error::remote(&self.name, &error, Some(&self.sql)));
                }
                None => {
                    self.ended = true;
                    self.canceller.disarm();
                    self.decoder.finish().map_err(|e| self.unread(e))?;
                }
            }
        }
        self.decoder.take()
    }

    fn unread(&self, error: Error) -> Error {
        error.context(format_args!("connection \"{}\"", self.name))
    }
}
