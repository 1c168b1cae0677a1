//! Rows in hand as a relation: what RETURNING and ON CONFLICT .. SET compute over.
//!
//! ```text
//!   [t: a, b] [excluded: a, b] ──MemTable──▶ LogicalPlan with qualified columns ──expressions──▶ rows
//! ```

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use datafusion::arrow::datatypes::{Field, FieldRef, Schema, SchemaRef};
use datafusion::common::{Column, DFSchema, TableReference};
use datafusion::datasource::{MemTable, provider_as_source};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};
use datafusion::scalar::ScalarValue;
use datafusion::sql::sqlparser::ast as sql;
use tidemark_common::{Error, Result, SqlState};

use super::super::{Outcome, RowsTag, fold, select, with_parameters};
use super::{rewritten, rewritten_items, select_query};
use crate::coordinator::definitions::ROW_NUMBER;
use crate::pg_catalog::output_names;
use crate::query::Names;

/// A column and the relation it is said to be of.
#[derive(Debug, Clone)]
pub(in crate::session) struct Named {
    pub relation: Option<String>,
    pub field: FieldRef,
}

/// Rows with named columns.
#[derive(Debug, Clone, Default)]
pub(in crate::session) struct RowSet {
    pub columns: Vec<Named>,
    /// A list of arrays, one a column, for each batch.
    pub batches: Vec<Vec<ArrayRef>>,
}

impl RowSet {
    pub fn of<'a>(relation: &str, fields: impl IntoIterator<Item = &'a FieldRef>) -> RowSet {
        RowSet::default().and(relation, fields)
    }

    /// With the columns of one more relation.
    #[must_use]
    pub fn and<'a>(mut self, relation: &str, fields: impl IntoIterator<Item = &'a FieldRef>) -> RowSet {
        let named = |field: &FieldRef| Named { relation: Some(relation.to_string()), field: field.clone() };
        self.columns.extend(fields.into_iter().map(named));
        self
    }

    pub fn push(&mut self, columns: Vec<ArrayRef>) {
        self.batches.push(columns);
    }

    /// A plan that yields the rows.
    pub fn plan(&self) -> Result<LogicalPlanBuilder> {
        let fields: Vec<Field> = self
            .columns
            .iter()
            .enumerate()
            .map(|(i, c)| c.field.as_ref().clone().with_name(format!("c{i}")).with_nullable(true))
            .collect();
        let schema = Arc::new(Schema::new(fields));
        let batch = |columns: &Vec<ArrayRef>| Ok(RecordBatch::try_new(schema.clone(), columns.clone())?);
        let batches = self.batches.iter().map(batch).collect::<Result<Vec<_>>>()?;
        let table = MemTable::try_new(schema.clone(), vec![batches])?;
        let scan = LogicalPlanBuilder::scan("rows", provider_as_source(Arc::new(table)), None)?;
        let named = self.columns.iter().enumerate().map(|(i, c)| {
            let column = Expr::Column(Column::new(Some("rows"), format!("c{i}")));
            column.alias_qualified(c.relation.as_deref().map(TableReference::bare), c.field.name())
        });
        Ok(scan.project(named.collect::<Vec<_>>())?)
    }

    /// An expression over the columns.
    pub fn expr(&self, names: &Names, expr: sql::Expr) -> Result<Expr> {
        names.planner().expr(&rewritten(expr)?, &self.schema()?)
    }

    fn schema(&self) -> Result<DFSchema> {
        let qualified = |c: &Named| (c.relation.as_deref().map(TableReference::bare), c.field.clone());
        Ok(DFSchema::new_with_metadata(self.columns.iter().map(qualified).collect(), Default::default())?)
    }
}

/// RETURNING, planned: expressions under stand-in names, and the names that they have.
pub(in crate::session) struct Returning {
    exprs: Vec<Expr>,
    names: Vec<String>,
}

impl Returning {
    /// `rows`: the columns to choose from.
    pub fn plan(names: &Names, rows: &RowSet, items: &[sql::SelectItem]) -> Result<Returning> {
        let schema = rows.schema()?;
        let mut returning = Returning { exprs: Vec::new(), names: Vec::new() };
        for (item, written) in rewritten_items(items.to_vec())?.into_iter().zip(items) {
            match item {
                sql::SelectItem::UnnamedExpr(expr) | sql::SelectItem::ExprWithAlias { expr, .. } => {
                    returning.push(names.planner().expr(&expr, &schema)?, output_name(written)?);
                }
                sql::SelectItem::Wildcard(_) => returning.push_all(rows, None)?,
                sql::SelectItem::QualifiedWildcard(sql::SelectItemQualifiedWildcardKind::ObjectName(name), _) => {
                    let relation = name.0.last().and_then(|p| p.as_ident()).map(fold).unwrap_or_default();
                    returning.push_all(rows, Some(&relation))?;
                }
                other => return Err(Error::unsupported(format!("RETURNING {other} is not supported"))),
            }
        }
        Ok(returning)
    }

    fn push(&mut self, expr: Expr, name: String) {
        self.exprs.push(expr.alias(format!("o{}", self.names.len())));
        self.names.push(name);
    }

    fn push_all(&mut self, rows: &RowSet, relation: Option<&str>) -> Result<()> {
        let before = self.names.len();
        for column in &rows.columns {
            let hidden = column.field.name() == ROW_NUMBER;
            if !hidden && (relation.is_none() || column.relation.as_deref() == relation) {
                let qualifier = column.relation.as_deref().map(TableReference::bare);
                let name = column.field.name().clone();
                self.push(Expr::Column(Column::new(qualifier, name.clone())), name);
            }
        }
        match relation {
            Some(relation) if self.names.len() == before => {
                Err(Error::new(SqlState::UndefinedTable, format!("missing FROM-clause entry for table \"{relation}\"")))
            }
            _ => Ok(()),
        }
    }

    /// The plan over `rows`, and the schema that the client sees.
    pub fn over(&self, rows: &RowSet) -> Result<(LogicalPlan, SchemaRef)> {
        let plan = rows.plan()?.project(self.exprs.clone())?.build()?;
        let fields: Vec<Field> = plan
            .schema()
            .fields()
            .iter()
            .zip(&self.names)
            .map(|(field, name)| field.as_ref().clone().with_name(name).with_nullable(true))
            .collect();
        Ok((plan, Arc::new(Schema::new(fields))))
    }

    pub async fn outcome(
        &self,
        names: &Names,
        rows: &RowSet,
        parameters: &[ScalarValue],
        tag: &'static str,
    ) -> Result<Outcome> {
        let (plan, schema) = self.over(rows)?;
        let batches = select::collect(names, with_parameters(plan, parameters)?).await?;
        // A parameter had no type before it had its value.
        let schema = match batches.first() {
            Some(batch) => under_types_of(&schema, batch),
            None => schema,
        };
        let restated = batches
            .into_iter()
            .map(|batch| {
                let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
                Ok(RecordBatch::try_new_with_options(schema.clone(), batch.columns().to_vec(), &options)?)
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(select::rows(schema.clone(), restated, RowsTag::Count(tag)))
    }
}

/// What Postgres calls the column.
fn output_name(item: &sql::SelectItem) -> Result<String> {
    let query = sql::Statement::Query(Box::new(select_query(vec![item.clone()], vec![], None)?));
    let name = output_names(&query).and_then(|names| names.into_iter().next());
    name.ok_or_else(|| Error::internal("an expression has no name"))
}

fn under_types_of(schema: &SchemaRef, batch: &RecordBatch) -> SchemaRef {
    let fields = schema.fields().iter().zip(batch.columns());
    Arc::new(Schema::new(
        fields.map(|(f, c)| f.as_ref().clone().with_data_type(c.data_type().clone())).collect::<Vec<_>>(),
    ))
}
