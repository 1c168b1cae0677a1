//! A remote relation in a query: a SELECT over there, of the columns that are asked for, with the filters and the limit that mean
//! the same on both sides.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::Result as DfResult;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use tidemark_common::Result;
use tidemark_common::types::SqlType;

use super::filter::{identifier, to_sql};
use super::pushdown::output;
use super::reading::Reading;
use super::scan::PostgresScan;
use super::types::{RemoteColumn, Texts};

/// A column as it stands in a SELECT list.
#[derive(Debug, Clone)]
pub struct Item {
    pub sql: String,
    pub column: RemoteColumn,
}

impl Item {
    pub(super) fn of(column: RemoteColumn) -> Self {
        let sql = match column.cast {
            Some(cast) => format!("{}::{cast}", identifier(&column.name)),
            None => identifier(&column.name),
        };
        Self { sql, column }
    }
}

#[derive(Debug)]
pub struct RemoteTable {
    reading: Arc<Reading>,
    /// What stands behind FROM.
    from: String,
    columns: Vec<Item>,
    schema: SchemaRef,
}

impl RemoteTable {
    pub(super) fn new(reading: Arc<Reading>, schema: &str, table: &str, columns: Vec<RemoteColumn>) -> Result<Self> {
        let fields: Vec<_> = columns.iter().map(|c| c.sql_type.to_field(&c.name, c.nullable)).collect();
        let from = format!("{}.{}", identifier(schema), identifier(table));
        let columns = columns.into_iter().map(Item::of).collect();
        Ok(Self { reading, from, columns, schema: Arc::new(Schema::new(fields)) })
    }

    /// What a SELECT over there gives, its columns called c0, c1, ..; `schema`: as they are here.
    pub(super) fn derived(reading: Arc<Reading>, select: &str, schema: &Schema, texts: &[Texts]) -> Self {
        let fields = schema.fields().iter().enumerate();
        let fields: Vec<Field> = fields.map(|(i, f)| f.as_ref().clone().with_name(output(i))).collect();
        // Casts to text have been done in it.
        let column = |(field, texts): (&Field, &Texts)| {
            Item::of(RemoteColumn {
                name: field.name().clone(),
                sql_type: SqlType::from_field(field),
                nullable: field.is_nullable(),
                cast: None,
                texts: *texts,
            })
        };
        let columns = fields.iter().zip(texts).map(column).collect();
        Self { reading, from: format!("({select}) AS q"), columns, schema: Arc::new(Schema::new(fields)) }
    }

    pub(super) fn reading(&self) -> &Arc<Reading> {
        &self.reading
    }

    pub(super) fn from(&self) -> &str {
        &self.from
    }

    /// The filters over there; `None` if one has to stay here.
    pub(super) fn conditions(&self, filters: &[Expr]) -> Option<Vec<String>> {
        filters.iter().map(|filter| to_sql(filter, &self.columns)).collect()
    }

    pub(super) fn item(&self, i: usize) -> Item {
        self.columns[i].clone()
    }

    fn query(&self, projection: &[usize], filters: &[Expr], limit: Option<usize>) -> String {
        let items: Vec<String> = projection.iter().map(|i| self.columns[*i].sql.clone()).collect();
        let mut sql = match items.is_empty() {
            true => format!("SELECT FROM {}", self.from),
            false => format!("SELECT {} FROM {}", items.join(", "), self.from),
        };
        let conditions: Vec<String> = filters.iter().filter_map(|filter| to_sql(filter, &self.columns)).collect();
        if !conditions.is_empty() {
            sql.push_str(&format!(" WHERE {}", conditions.join(" AND ")));
        }
        // A filter that stays here may need more rows than the limit.
        if let Some(limit) = limit.filter(|_| conditions.len() == filters.len()) {
            sql.push_str(&format!(" LIMIT {limit}"));
        }
        sql
    }
}

#[async_trait]
impl TableProvider for RemoteTable {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> DfResult<Vec<TableProviderFilterPushDown>> {
        let of = |filter: &&Expr| match to_sql(filter, &self.columns) {
            Some(_) => TableProviderFilterPushDown::Exact,
            None => TableProviderFilterPushDown::Unsupported,
        };
        Ok(filters.iter().map(of).collect())
    }

    async fn scan(
        &self,
        _state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        let projection = projection.cloned().unwrap_or_else(|| (0..self.columns.len()).collect());
        let schema: SchemaRef = Arc::new(self.schema.project(&projection)?);
        let sql = self.query(&projection, filters, limit);
        self.reading.plan_scan();
        Ok(Arc::new(PostgresScan::new(self.reading.clone(), sql, schema)))
    }
}
