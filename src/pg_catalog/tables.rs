//! System tables as DataFusion scans them: rows are made when the scan is planned, not when the name is resolved.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::{Session, TableProvider};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::error::Result as DfResult;
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;
use tidemark_common::Result;

use super::context::SystemContext;
use super::relation::{Relation, relation, relations};
use super::{information_schema, pg_core, pg_proc, pg_views, static_tables, tidemark_schema};

/// The system table of this name, if there is one.
pub fn system_table(schema: &str, name: &str, ctx: &Arc<SystemContext>) -> Option<Arc<dyn TableProvider>> {
    let relation = relation(schema, name)?;
    Some(Arc::new(SystemTable { relation, ctx: Arc::clone(ctx) }))
}

/// Names of all system tables of a schema; empty for another schema.
pub fn system_table_names(schema: &str) -> Vec<String> {
    relations().filter(|r| r.schema == schema).map(|r| r.name.to_string()).collect()
}

/// Rows of a system table at this moment.
pub fn system_rows(relation: &'static Relation, ctx: &SystemContext) -> Result<RecordBatch> {
    if let Some(batch) = static_tables::static_batch(relation)? {
        return Ok(batch);
    }
    let mut rows = relation.rows();
    let name = relation.name;
    match relation.schema {
        "information_schema" => information_schema::fill(name, ctx, &mut rows)?,
        "tidemark" => tidemark_schema::fill(name, ctx, &mut rows)?,
        _ => {
            pg_core::fill(name, ctx, &mut rows)?
                || pg_views::fill(name, ctx, &mut rows)?
                || pg_proc::fill(name, ctx, &mut rows)?
        }
    };
    let batch = rows.finish()?;
    if (relation.schema, name) == ("pg_catalog", "pg_proc") {
        return pg_proc::with_type_functions(relation, batch);
    }
    Ok(batch)
}

#[derive(Debug)]
struct SystemTable {
    relation: &'static Relation,
    ctx: Arc<SystemContext>,
}

#[async_trait]
impl TableProvider for SystemTable {
    fn schema(&self) -> SchemaRef {
        self.relation.arrow.clone()
    }

    fn table_type(&self) -> TableType {
        if self.relation.kind == 'r' { TableType::Base } else { TableType::View }
    }

    async fn scan(
        &self,
        _state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        let batch = system_rows(self.relation, &self.ctx)?;
        Ok(MemorySourceConfig::try_new_exec(&[vec![batch]], self.schema(), projection.cloned())?)
    }
}
