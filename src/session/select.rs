//! SELECT: plan against the transaction's moment, stream the rows.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch, StringArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{ParamValues, metadata::ScalarAndMetadata};
use datafusion::execution::{SendableRecordBatchStream, SessionState, TaskContext};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::scalar::ScalarValue;
use datafusion::sql::sqlparser::ast as sql;
use futures::StreamExt;
use tidemark_common::{Error, Result, SqlState};
use tidemark_engine::Moment;
use tidemark_sql::ast::Parsed;

use super::plans::MadeFor;
use super::{Outcome, Rows, RowsTag, Session};
use crate::pg_catalog::output_names;
use crate::planning::aside;
use crate::query::{Lookup, Names};

impl Session {
    pub(super) async fn select(
        &mut self,
        query: &sql::Query,
        text: &str,
        parameters: &[ScalarValue],
    ) -> Result<Outcome> {
        let settings = self.info.settings_version();
        let known = self.plans.lookups.get(text, &self.transaction()?.catalog, settings, parameters).cloned();
        if let Some(Some(lookup)) = &known
            && let Some(outcome) = self.look_up(lookup, parameters)?
        {
            return Ok(outcome);
        }
        if let Some(into) = crate::coordinator::tables::select_into(query) {
            return self.create_table_as(&into, parameters).await;
        }
        if super::parts::has_parts(query) {
            return self.run_parts(query, parameters).await;
        }
        if super::dml::modifying(query).is_some() {
            return self.modify(query, parameters).await;
        }
        let names = self.names(None)?;
        let plan = names.plan(query)?;
        if known.is_none()
            && let Some(outcome) = self.try_lookup(&names, &plan, (query, text), parameters)?
        {
            return Ok(outcome);
        }
        let (schema, stream) = execute(&names, with_parameters(plan, parameters)?).await?;
        let schema = renamed(schema, query);
        let stream = under(schema.clone(), stream);
        Ok(Outcome::Rows(Rows { schema, stream, tag: RowsTag::Select, live: false, binary: false }))
    }

    /// The rows of a statement that is known to be a lookup: at once, without a future and, outside of a transaction, without one of
    /// its own. `None`: it is to be executed.
    pub fn look_up_known(&mut self, statement: &Parsed, parameters: &[ScalarValue]) -> Result<Option<RecordBatch>> {
        let (moment, catalog) = match &self.transaction {
            Some(t) if t.failed => return Ok(None),
            Some(t) => (t.moment.clone(), t.catalog.clone()),
            None if self.implicit_block => return Ok(None),
            None => {
                let moment = self.db.moment();
                let catalog = moment.catalog.clone();
                (moment, catalog)
            }
        };
        let settings = self.info.settings_version();
        let Some(Some(lookup)) = self.plans.lookups.get(&statement.text, &catalog, settings, parameters) else {
            return Ok(None);
        };
        if self.transaction.is_some() && !self.can_look_up(lookup)? {
            return Ok(None);
        }
        self.info.begin_statement(&statement.text, self.db.now());
        let found = found(lookup, &moment, parameters);
        if !matches!(found, Ok(Some(_))) {
            // Executed, it says the same of itself again.
            return Ok(None);
        }
        self.info.end_statement(self.transaction_status(), self.db.now());
        found
    }

    /// Finds out whether the query is a lookup, remembers that, and runs it if so.
    fn try_lookup(
        &mut self,
        names: &Names,
        plan: &LogicalPlan,
        (query, text): (&sql::Query, &str),
        parameters: &[ScalarValue],
    ) -> Result<Option<Outcome>> {
        if !Lookup::is_candidate(plan)? {
            return Ok(None);
        }
        let lookup = Lookup::of(names, plan, parameters)?.map(|mut lookup| {
            lookup.schema = renamed(lookup.schema, query);
            Arc::new(lookup)
        });
        let made_for = MadeFor::new(names.catalog.clone(), self.info.settings_version(), parameters);
        self.plans.lookups.put(text, made_for, lookup.clone());
        lookup.map_or(Ok(None), |lookup| self.look_up(&lookup, parameters))
    }

    /// False: the transaction has changed the relation, so that what is stored is not all, or it has created the index, which is
    /// not filled yet.
    pub(super) fn can_look_up(&self, lookup: &Lookup) -> Result<bool> {
        let transaction = self.transaction()?;
        let filled = lookup.index().is_none_or(|index| transaction.moment.catalog.get(index).is_some());
        Ok(filled && transaction.buffer(lookup.relation).is_none())
    }

    /// Rows by key or index. `None`: it cannot be done so, or they are too many.
    fn look_up(&self, lookup: &Lookup, parameters: &[ScalarValue]) -> Result<Option<Outcome>> {
        if !self.can_look_up(lookup)? {
            return Ok(None);
        }
        let batch = found(lookup, &self.transaction()?.moment, parameters)?;
        Ok(batch.map(|batch| rows(lookup.schema.clone(), vec![batch], RowsTag::Select)))
    }
}

/// Rows as of the moment. `None`: they are too many.
fn found(lookup: &Lookup, moment: &Moment, parameters: &[ScalarValue]) -> Result<Option<RecordBatch>> {
    match moment.unreadable.get(&lookup.relation) {
        Some(error) => Err(error.clone()),
        None => lookup.run(&moment.snapshot, parameters),
    }
}

/// The schema with the column names that Postgres would give.
pub(super) fn renamed(schema: SchemaRef, query: &sql::Query) -> SchemaRef {
    let statement = sql::Statement::Query(Box::new(query.clone()));
    match output_names(&statement) {
        Some(names) if names.len() == schema.fields().len() => Arc::new(Schema::new(
            schema.fields().iter().zip(names).map(|(f, name)| f.as_ref().clone().with_name(name)).collect::<Vec<_>>(),
        )),
        _ => schema,
    }
}

/// The same columns under another schema.
pub(super) fn under(schema: SchemaRef, stream: SendableRecordBatchStream) -> SendableRecordBatchStream {
    let named = schema.clone();
    let restated = stream.map(move |batch| restate(&named, batch?));
    Box::pin(RecordBatchStreamAdapter::new(schema, restated))
}

/// Puts the values in the place of `$1`, `$2`, ...
pub(crate) fn with_parameters(plan: LogicalPlan, parameters: &[ScalarValue]) -> Result<LogicalPlan> {
    if parameters.is_empty() {
        return Ok(plan);
    }
    let values: Vec<ScalarAndMetadata> = parameters.iter().map(|p| ScalarAndMetadata::new(p.clone(), None)).collect();
    plan.with_param_values(ParamValues::List(values)).map_err(|e| {
        let error = Error::from(e);
        match error.message().contains("laceholder") {
            true => Error::new(SqlState::UndefinedParameter, error.message()),
            false => error,
        }
    })
}

/// Optimizes and starts a plan; the stream does the work as it is read.
pub(super) async fn execute(names: &Names, plan: LogicalPlan) -> Result<(SchemaRef, SendableRecordBatchStream)> {
    let state: &SessionState = &names.state;
    let optimized = aside(|| names.planner().optimize(&plan))?;
    let planning = crate::planning::physical(state, &optimized);
    let physical = aside(|| futures::executor::block_on(planning))?;
    let schema: SchemaRef = Arc::new(optimized.schema().as_arrow().clone());
    let stream = execute_stream(interruptible(physical)?, Arc::new(TaskContext::from(state)))?;
    // Fields keep the metadata of the logical plan, which names SQL types that Arrow has not.
    Ok((schema.clone(), under(schema, stream)))
}

/// A join may yield rows for minutes between two reads of its inputs, and only these give way to a cancel.
fn interruptible(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let interruptible = plan.transform_up(|node| {
        Ok(match node.name().ends_with("JoinExec") {
            true => Transformed::yes(Arc::new(CooperativeExec::new(node)) as Arc<dyn ExecutionPlan>),
            false => Transformed::no(node),
        })
    })?;
    Ok(interruptible.data)
}

/// The batch under the plan's schema.
fn restate(schema: &SchemaRef, batch: RecordBatch) -> datafusion::common::Result<RecordBatch> {
    let options = datafusion::arrow::array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    let same = schema.fields().iter().zip(batch.columns()).all(|(f, c)| f.data_type() == c.data_type());
    if same {
        let nullable =
            Schema::new(schema.fields().iter().map(|f| f.as_ref().clone().with_nullable(true)).collect::<Vec<Field>>());
        return Ok(RecordBatch::try_new_with_options(Arc::new(nullable), batch.columns().to_vec(), &options)?);
    }
    Ok(batch)
}

/// All rows of a plan.
pub(super) async fn collect(names: &Names, plan: LogicalPlan) -> Result<Vec<RecordBatch>> {
    let (_, mut stream) = execute(names, plan).await?;
    let mut batches = Vec::new();
    while let Some(batch) = stream.next().await {
        let batch = batch?;
        if batch.num_rows() > 0 {
            batches.push(batch);
        }
    }
    Ok(batches)
}

/// Rows that are there already.
pub(super) fn rows(schema: SchemaRef, batches: Vec<RecordBatch>, tag: RowsTag) -> Outcome {
    let stream = futures::stream::iter(batches.into_iter().map(Ok));
    let stream = Box::pin(RecordBatchStreamAdapter::new(schema.clone(), stream));
    Outcome::Rows(Rows { schema, stream, tag, live: false, binary: false })
}

/// A batch that is all there is.
pub(crate) fn one_batch(batch: RecordBatch, tag: &'static str) -> Outcome {
    rows(batch.schema(), vec![batch], RowsTag::Fixed(tag))
}

/// Rows of text, a list of values for each column.
pub(super) fn text_rows(columns: &[(&str, Vec<Option<String>>)], tag: &'static str) -> Result<Outcome> {
    let fields: Vec<Field> = columns.iter().map(|(name, _)| Field::new(*name, DataType::Utf8, true)).collect();
    let schema = Arc::new(Schema::new(fields));
    let arrays: Vec<ArrayRef> =
        columns.iter().map(|(_, values)| Arc::new(StringArray::from(values.clone())) as ArrayRef).collect();
    let batch = RecordBatch::try_new(schema.clone(), arrays)?;
    Ok(rows(schema, vec![batch], RowsTag::Fixed(tag)))
}
