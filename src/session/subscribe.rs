//! SUBSCRIBE: the contents of a relation, then each epoch's changes of it, until cancelled.
//!
//! ```text
//!   epoch | weight | columns of the relation        weight: +n the row is there n more times, -n fewer
//!   ------+--------+------------------------
//!      41 |      1 | a, 1                            snapshot, as of one epoch
//!      42 |     -1 | a, 1                            an update: the old row goes,
//!      42 |      1 | a, 2                                       the new one comes, in one epoch
//! ```

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::sql::sqlparser::ast as sql;
use futures::StreamExt;
use tidemark_catalog::ObjectKind;
use tidemark_common::{Delta, Error, Result};
use tidemark_engine::Subscription;
use tidemark_sql::ast::{Subscribe, SubscribeFrom};

use super::{CopyOptions, Outcome, Rows, RowsTag, Session};
use crate::coordinator::definitions;
use crate::transaction::Transaction;

impl Session {
    pub(super) async fn subscribe(&mut self, subscribe: &Subscribe, copy: Option<CopyOptions>) -> Result<Outcome> {
        if self.transaction()?.explicit {
            return Err(Error::new(
                tidemark_common::SqlState::ActiveSqlTransaction,
                "SUBSCRIBE cannot run inside a transaction block",
            )
            .with_hint(
                "It follows the clock, and a transaction stands still: DECLARE c CURSOR FOR SUBSCRIBE .., and FETCH.",
            ));
        }
        let (schema, stream) = self.subscription(subscribe).await?;
        let rows = Rows { schema, stream, tag: RowsTag::Fixed("SUBSCRIBE"), live: true, binary: false };
        Ok(match copy {
            None => Outcome::Rows(rows),
            Some(options) => Outcome::CopyOut(rows, options),
        })
    }

    /// The contents and then the changes. They begin at a moment of their own, whatever the transaction reads.
    pub(super) async fn subscription(
        &mut self,
        subscribe: &Subscribe,
    ) -> Result<(SchemaRef, SendableRecordBatchStream)> {
        let name = relation_name(subscribe)?;
        let with_snapshot = with_snapshot(subscribe)?;
        let schema = self.subscribe_schema(subscribe)?;
        let object = crate::query::find_relation(self.catalog()?.as_ref(), &name, &self.search_path())?;
        let columns = object.columns().len();
        let subscription = self.db.engine.subscribe(object.oid).await?;
        if let Some(error) = subscription.moment.unreadable.get(&object.oid) {
            return Err(error.clone());
        }
        let epoch = subscription.moment.epoch() as i64;
        let snapshot = if with_snapshot { self.contents(&subscription, &name, &schema, epoch).await? } else { None };
        let changes =
            futures::stream::try_unfold((subscription, schema.clone()), move |(mut subscription, schema)| async move {
                let Some(change) = subscription.next().await? else { return Ok(None) };
                let batch = changes_batch(&schema, change.epoch as i64, &change.deltas, columns)?;
                Ok::<_, datafusion::error::DataFusionError>(Some((batch, (subscription, schema))))
            });
        let stream = match snapshot {
            Some(snapshot) => snapshot.chain(changes).boxed(),
            None => changes.boxed(),
        };
        let stream = Box::pin(RecordBatchStreamAdapter::new(schema.clone(), stream));
        Ok((schema, stream))
    }

    /// The relation as of the subscription's moment, every row with weight 1.
    async fn contents(
        &mut self,
        subscription: &Subscription,
        name: &sql::ObjectName,
        schema: &SchemaRef,
        epoch: i64,
    ) -> Result<Option<futures::stream::BoxStream<'static, datafusion::error::Result<RecordBatch>>>> {
        let query = definitions::stored_query(&format!("SELECT * FROM {name}"))?;
        // Planned as if in a transaction of the subscription's moment, which has changed nothing.
        let then = Transaction::new(subscription.moment.clone(), false, self.db.now(), 0);
        let now = self.transaction.replace(then);
        let planned = self.names(None).and_then(|names| names.plan(&query).map(|plan| (names, plan)));
        self.transaction = now;
        let (names, plan) = planned?;
        let (_, rows) = super::select::execute(&names, plan).await?;
        let schema = schema.clone();
        let stream = rows.map(move |batch| {
            let batch = batch?;
            let n = batch.num_rows();
            let mut columns: Vec<ArrayRef> =
                vec![Arc::new(Int64Array::from(vec![epoch; n])), Arc::new(Int64Array::from(vec![1; n]))];
            columns.extend(batch.columns().iter().cloned());
            Ok(RecordBatch::try_new(schema.clone(), columns)?)
        });
        Ok(Some(stream.boxed()))
    }

    pub(super) fn subscribe_schema(&mut self, subscribe: &Subscribe) -> Result<SchemaRef> {
        let name = relation_name(subscribe)?;
        let object = crate::query::find_relation(self.catalog()?.as_ref(), &name, &self.search_path())?;
        match &object.kind {
            ObjectKind::Table(_) | ObjectKind::MaterializedView(_) => self.refuse_if_remote(&object, "subscribe to")?,
            ObjectKind::View(_) => {
                return Err(Error::unsupported(format!(
                    "\"{}\" is a plain view, which is not kept up to date",
                    object.name
                ))
                .with_hint("CREATE MATERIALIZED VIEW with its query, and SUBSCRIBE to that."));
            }
            other => {
                return Err(Error::unsupported(format!("SUBSCRIBE to a {} is not supported", other.name()))
                    .with_hint("CREATE MATERIALIZED VIEW over it, and SUBSCRIBE to that."));
            }
        }
        let mut fields = vec![Field::new("epoch", DataType::Int64, true), Field::new("weight", DataType::Int64, true)];
        fields.extend(object.columns().iter().map(|c| c.sql_type.to_field(&c.name, true)));
        Ok(Arc::new(Schema::new(fields)))
    }
}

fn relation_name(subscribe: &Subscribe) -> Result<sql::ObjectName> {
    match &subscribe.from {
        SubscribeFrom::Relation(name) => Ok(name.clone()),
        SubscribeFrom::Query { .. } => Err(Error::unsupported("SUBSCRIBE to a query is not supported yet")
            .with_hint("CREATE MATERIALIZED VIEW with the query, and SUBSCRIBE to that.")),
    }
}

fn with_snapshot(subscribe: &Subscribe) -> Result<bool> {
    let mut snapshot = true;
    for (key, value) in &subscribe.options {
        match (key.as_str(), value.to_lowercase().as_str()) {
            ("snapshot", "true" | "on") => snapshot = true,
            ("snapshot", "false" | "off") => snapshot = false,
            ("snapshot", _) => return Err(Error::invalid("option \"snapshot\" must be true or false")),
            _ => {
                return Err(Error::invalid(format!("unrecognized option \"{key}\""))
                    .with_hint("SUBSCRIBE knows the option snapshot."));
            }
        }
    }
    Ok(snapshot)
}

/// One epoch's changes as rows, the ones that go before the ones that come.
fn changes_batch(schema: &SchemaRef, epoch: i64, deltas: &[Delta], columns: usize) -> Result<RecordBatch> {
    let visible: Vec<usize> = (0..columns).collect();
    let mut batches = Vec::with_capacity(deltas.len());
    for delta in deltas {
        let n = delta.num_rows();
        let weights: Int64Array = (0..n).map(|i| delta.weight(i)).collect();
        let mut arrays: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(vec![epoch; n])), Arc::new(weights)];
        arrays.extend(delta.batch.project(&visible)?.columns().iter().cloned());
        batches.push(RecordBatch::try_new(schema.clone(), arrays)?);
    }
    Ok(datafusion::arrow::compute::concat_batches(schema, &batches)?)
}
