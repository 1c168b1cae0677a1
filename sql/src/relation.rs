//! A stored relation as plans see it: a table, a source or a materialized view.
//!
//! The planner needs its columns and stream properties; whoever executes a batch plan needs rows, and gets them through
//! [`RelationScan`], which the server implements over a snapshot.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::Constraints;
use datafusion::common::Result as DfResult;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use tidemark_common::connector::LookupTable;
use tidemark_common::{Error, Oid};

/// Reads a relation's rows at the moment a statement sees.
#[async_trait]
pub trait RelationScan: fmt::Debug + Send + Sync {
    /// `columns`: of the relation's schema.
    async fn scan(
        &self,
        state: &dyn Session,
        columns: Vec<usize>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> DfResult<Arc<dyn ExecutionPlan>>;

    /// How much of each filter `scan` takes over.
    fn pushdown(&self, filters: &[&Expr]) -> Vec<TableProviderFilterPushDown>;
}

#[derive(Debug)]
pub struct Relation {
    pub oid: Oid,
    /// As EXPLAIN shows it.
    pub name: String,
    pub schema: SchemaRef,
    pub append_only: bool,
    pub key: Option<Vec<usize>>,
    /// The first column of each of its indexes.
    pub indexed: Vec<usize>,
    /// Columns by which a join may look its rows up: those with which a key or an index begins. None of a source.
    pub lookups: Vec<Vec<usize>>,
    /// Column that carries a watermark.
    pub watermark: Option<usize>,
    /// Rows go so many microseconds after the time in this column: of a source.
    pub ttl: Option<(usize, i64)>,
    /// Columns that say from when to when a row holds: of a table with the strategy scd2.
    pub versions: Option<(usize, usize)>,
    /// PRIMARY KEY, so that GROUP BY it allows the other columns.
    pub constraints: Option<Constraints>,
    /// `None` while planning a dataflow, which never scans.
    pub scan: Option<Arc<dyn RelationScan>>,
    /// In a dataflow, of a table of another system: nobody tells of its changes, its rows can be asked for by key.
    pub asked: Option<Arc<dyn LookupTable>>,
}

#[async_trait]
impl TableProvider for Relation {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn constraints(&self) -> Option<&Constraints> {
        self.constraints.as_ref()
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> DfResult<Vec<TableProviderFilterPushDown>> {
        Ok(match &self.scan {
            Some(scan) => scan.pushdown(filters),
            None => vec![TableProviderFilterPushDown::Unsupported; filters.len()],
        })
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        let columns = projection.cloned().unwrap_or_else(|| (0..self.schema.fields().len()).collect());
        match &self.scan {
            Some(scan) => scan.scan(state, columns, filters, limit).await,
            None => Err(Error::internal(format!("\"{}\" was planned as a stream and then scanned", self.name)).into()),
        }
    }
}
