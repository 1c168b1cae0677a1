//! `WITH x AS (INSERT | UPDATE | DELETE .. RETURNING ..) ..`: statements that are parts of one.
//!
//! ```text
//!   WITH a AS (DELETE ..  RETURNING *),   runs once, in the order of writing, whether it is read or not
//!        b AS (SELECT .. FROM a),         a query as ever
//!        c AS (INSERT .. SELECT FROM b)   runs once
//!   SELECT .. FROM a, t                   a: the rows that came back;  t: as it was before the statement
//! ```
//!
//! All parts see the rows as they were before the statement; what they do to a table that another part reads shows in what
//! they return, and nowhere else. A row that one part has changed is none of another's any more.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use datafusion::arrow::array::{RecordBatch, RecordBatchOptions};
use datafusion::arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::datasource::MemTable;
use datafusion::scalar::ScalarValue;
use datafusion::sql::sqlparser::ast as sql;
use futures::StreamExt;
use tidemark_common::types::SqlType;
use tidemark_common::{Error, Oid, Result, SqlState};
use tidemark_engine::TableDef;

use super::dml::modifying;
use super::{Outcome, RowsTag, Session, fold, select, with_parameters};
use crate::query::StoredRows;
use crate::transaction::Transaction;

/// What the parts of a statement share while it runs.
pub(super) struct Parts {
    /// Before the statement.
    pub rows: StoredRows,
    /// By table: how far the transaction's log of it went then.
    marks: HashMap<Oid, usize>,
    pub returned: HashMap<String, Returned>,
}

/// The rows that a part returned; `None`: it has no RETURNING.
pub(crate) type Returned = Option<Arc<dyn TableProvider>>;

impl Parts {
    fn new(rows: StoredRows, transaction: &Transaction) -> Self {
        let marks = transaction.buffers().map(|buffer| (buffer.def().oid, buffer.mark())).collect();
        Self { rows, marks, returned: HashMap::new() }
    }
}

/// True if a query of its WITH changes rows.
pub(super) fn has_parts(query: &sql::Query) -> bool {
    query.with.as_ref().is_some_and(|with| with.cte_tables.iter().any(|cte| modifying(&cte.query).is_some()))
}

/// `query` after the queries of a WITH.
fn after(reading: &[sql::Cte], with: &sql::With, query: &sql::Query) -> sql::Query {
    let mut query = query.clone();
    let own = query.with.take().map(|with| with.cte_tables).unwrap_or_default();
    let cte_tables: Vec<sql::Cte> = reading.iter().cloned().chain(own).collect();
    query.with = (!cte_tables.is_empty()).then(|| sql::With { cte_tables, ..with.clone() });
    query
}

/// The statement's own part, after the queries of its WITH that only read.
fn last(reading: &[sql::Cte], with: &sql::With, query: &sql::Query) -> sql::Query {
    after(reading, with, &sql::Query { with: None, ..query.clone() })
}

impl Session {
    /// Runs a query of which [`has_parts`] is true.
    pub(super) async fn run_parts(&mut self, query: &sql::Query, parameters: &[ScalarValue]) -> Result<Outcome> {
        self.begin_parts()?;
        let outcome = self.run_each_part(query, parameters).await;
        self.parts = None;
        outcome
    }

    async fn run_each_part(&mut self, query: &sql::Query, parameters: &[ScalarValue]) -> Result<Outcome> {
        let with = with_of(query)?;
        let mut reading = Vec::new();
        for cte in &with.cte_tables {
            if modifying(&cte.query).is_none() {
                reading.push(cte.clone());
                continue;
            }
            let outcome = self.modify(&after(&reading, with, &cte.query), parameters).await?;
            let returned = match outcome {
                Outcome::Rows(mut rows) => {
                    let mut batches = Vec::new();
                    while let Some(batch) = rows.stream.next().await {
                        batches.push(batch?);
                    }
                    Some(relation(cte, &rows.schema, batches)?)
                }
                _ => None,
            };
            self.note_returned(cte, returned);
        }
        let last = last(&reading, with, query);
        if modifying(&last).is_some() {
            return self.modify(&last, parameters).await;
        }
        let names = self.names(None)?;
        let plan = with_parameters(names.plan(&last)?, parameters)?;
        let schema: SchemaRef = Arc::new(plan.schema().as_arrow().clone());
        // In memory: what is shown must not depend on a reader who stops before the changes are committed.
        let batches = select::collect(&names, plan).await?;
        let schema = batches.first().map_or(schema, |batch| batch.schema());
        let schema = select::renamed(schema, &last);
        let batches = batches.into_iter().map(|batch| under(&schema, &batch)).collect::<Result<_>>()?;
        Ok(select::rows(schema, batches, RowsTag::Select))
    }

    /// The columns of what [`Session::run_parts`] gives.
    pub(super) fn describe_parts(
        &mut self,
        query: &sql::Query,
        parameters: &mut [Option<SqlType>],
    ) -> Result<Option<SchemaRef>> {
        self.begin_parts()?;
        let columns = self.describe_each_part(query, parameters);
        self.parts = None;
        columns
    }

    fn describe_each_part(
        &mut self,
        query: &sql::Query,
        parameters: &mut [Option<SqlType>],
    ) -> Result<Option<SchemaRef>> {
        let with = with_of(query)?;
        let mut reading = Vec::new();
        for cte in &with.cte_tables {
            if modifying(&cte.query).is_none() {
                reading.push(cte.clone());
                continue;
            }
            let schema = self.describe_modifying(&after(&reading, with, &cte.query), parameters)?;
            let returned = schema.map(|schema| relation(cte, &schema, vec![])).transpose()?;
            self.note_returned(cte, returned);
        }
        let last = sql::Statement::Query(Box::new(last(&reading, with, query)));
        self.describe_sql(&last, parameters)
    }

    fn begin_parts(&mut self) -> Result<()> {
        let transaction = self.transaction()?;
        let rows = StoredRows::new(transaction, self.db.environment.clone());
        self.parts = Some(Parts::new(rows, transaction));
        Ok(())
    }

    fn note_returned(&mut self, cte: &sql::Cte, returned: Returned) {
        if let Some(parts) = &mut self.parts {
            parts.returned.insert(fold(&cte.alias.name), returned);
        }
    }

    /// Keys of a table's rows that parts of this statement have changed, put in or taken out.
    pub(super) fn changed_by_parts(&self, def: &TableDef) -> Result<HashSet<Vec<u8>>> {
        match (&self.parts, self.transaction()?.buffer(def.oid)) {
            (Some(parts), Some(buffer)) => buffer.touched_since(parts.marks.get(&def.oid).copied().unwrap_or(0)),
            _ => Ok(HashSet::new()),
        }
    }
}

fn with_of(query: &sql::Query) -> Result<&sql::With> {
    let with = query.with.as_ref().ok_or_else(|| Error::internal("the statement has no WITH"))?;
    let names: Vec<String> = with.cte_tables.iter().map(|cte| fold(&cte.alias.name)).collect();
    match names.iter().enumerate().find(|(at, name)| names[..*at].contains(name)) {
        Some((_, name)) => {
            Err(Error::new(SqlState::DuplicateAlias, format!("WITH query name \"{name}\" specified more than once")))
        }
        None => Ok(with),
    }
}

/// What a part returned, under the names that WITH gives its columns.
fn relation(cte: &sql::Cte, schema: &SchemaRef, batches: Vec<RecordBatch>) -> Result<Arc<dyn TableProvider>> {
    let aliases = &cte.alias.columns;
    if aliases.len() > schema.fields().len() {
        let (name, there, given) = (fold(&cte.alias.name), schema.fields().len(), aliases.len());
        return Err(Error::new(
            SqlState::InvalidColumnReference,
            format!("WITH query \"{name}\" has {there} columns available but {given} columns specified"),
        ));
    }
    let fields = schema.fields().iter().enumerate().map(|(at, field)| match aliases.get(at) {
        Some(alias) => field.as_ref().clone().with_name(fold(&alias.name)),
        None => field.as_ref().clone(),
    });
    let schema = Arc::new(Schema::new(fields.map(|f| f.with_nullable(true)).collect::<Vec<Field>>()));
    let batches = batches.iter().map(|batch| under(&schema, batch)).collect::<Result<_>>()?;
    Ok(Arc::new(MemTable::try_new(schema, vec![batches])?))
}

fn under(schema: &SchemaRef, batch: &RecordBatch) -> Result<RecordBatch> {
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(schema.clone(), batch.columns().to_vec(), &options)?)
}
