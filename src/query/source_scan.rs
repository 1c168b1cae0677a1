//! Rows of a source for a batch query, up to where the moment has read it.
//!
//! ```text
//!   local Parquet files, read to their ends, without a watermark ────▶ DataFusion's own scan: row groups side by side, those left
//!                                                                       out that no row of a condition can be in, statistics
//!   all else ──▶ a replay: the source's reader once more, late rows left out as they were
//! ```

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::Result as DfResult;
use datafusion::datasource::file_format::FileFormat;
use datafusion::datasource::file_format::parquet::ParquetFormat;
use datafusion::datasource::listing::{ListingOptions, ListingTable, ListingTableConfig, ListingTableUrl};
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfig};
use datafusion::datasource::source::DataSourceExec;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use futures::StreamExt;
use tidemark_common::Error;
use tidemark_common::connector::{ParquetFiles, Positions};
use tidemark_engine::{Replay, SourceDef};
use tidemark_sql::relation::RelationScan;
use tidemark_storage::Snapshot;

use crate::planning;

#[derive(Debug)]
pub(super) struct SourceScan {
    pub def: SourceDef,
    pub positions: Positions,
    pub snapshot: Arc<Snapshot>,
}

impl SourceScan {
    /// The table of its files, if that has these columns as the source declares them. Text that is compared comes as views.
    async fn files(
        &self,
        state: &dyn Session,
        columns: &[usize],
        compared: &BTreeSet<&str>,
    ) -> DfResult<Option<ListingTable>> {
        if self.def.watermark.is_some() {
            return Ok(None);
        }
        let Some(files) = self.def.source.parquet_files(&self.positions).await? else { return Ok(None) };
        let url = format!("tidemark-source-{}://files", self.def.oid);
        let Some(paths) = paths(&url, &files)? else { return Ok(None) };
        if files.files.is_empty() || columns.iter().any(|column| *column >= files.columns) {
            return Ok(None);
        }
        let format = ParquetFormat::default().with_force_view_types(false);
        for file in &files.files {
            let there = format.infer_schema(state, &files.store, std::slice::from_ref(file)).await?;
            if !columns.iter().all(|column| is_as_declared(&there, &self.def.schema, *column)) {
                return Ok(None);
            }
        }
        state.runtime_env().register_object_store(ObjectStoreUrl::parse(&url)?.as_ref(), files.store);
        let declared = self.def.schema.fields()[..files.columns].iter().map(|field| {
            match *field.data_type() == DataType::Utf8 && compared.contains(field.name().as_str()) {
                true => Arc::new(field.as_ref().clone().with_data_type(DataType::Utf8View)),
                false => Arc::clone(field),
            }
        });
        let options = ListingOptions::new(Arc::new(format)).with_file_extension("");
        let config = ListingTableConfig::new_with_multi_paths(paths)
            .with_listing_options(options)
            .with_schema(Arc::new(Schema::new(declared.collect::<Vec<_>>())));
        ListingTable::try_new(config).map(Some)
    }
}

/// How many files a scan reads: DataFusion passes over what it does not find.
fn files_in(scan: &Arc<dyn ExecutionPlan>) -> usize {
    let source = scan.downcast_ref::<DataSourceExec>().map(|scan| scan.data_source());
    let files = source.and_then(|source| source.downcast_ref::<FileScanConfig>());
    files.map_or(0, |files| files.file_groups.iter().map(FileGroup::len).sum())
}

/// Where DataFusion finds the files; `None`: a name would say something else in a URL.
fn paths(url: &str, files: &ParquetFiles) -> DfResult<Option<Vec<ListingTableUrl>>> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-=".contains(c);
    let names: Vec<&str> = files.files.iter().map(|file| file.location.as_ref()).collect();
    if !names.iter().all(|name| name.chars().all(plain)) {
        return Ok(None);
    }
    names.iter().map(|name| ListingTableUrl::parse(format!("{url}/{name}"))).collect::<DfResult<_>>().map(Some)
}

/// The file has a column of that name, whose values are the source's as they stand. All else is cast as the source casts it.
fn is_as_declared(there: &Schema, declared: &SchemaRef, column: usize) -> bool {
    let is_text = |t: &DataType| matches!(t, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    let declared = declared.field(column);
    there.field_with_name(declared.name()).is_ok_and(|field| {
        let (a, b) = (field.data_type(), declared.data_type());
        a == b || (is_text(a) && is_text(b))
    })
}

#[async_trait]
impl RelationScan for SourceScan {
    async fn scan(
        &self,
        state: &dyn Session,
        columns: Vec<usize>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        let compared = filters.iter().flat_map(Expr::column_refs).map(|column| column.name.as_str()).collect();
        if let Some(files) = self.files(state, &columns, &compared).await? {
            let scan = files.scan(state, Some(&columns), filters, limit).await?;
            if files_in(&scan) == files.table_paths().len() {
                return planning::as_text(scan);
            }
        }
        let schema: SchemaRef = Arc::new(self.def.schema.project(&columns)?);
        let (def, positions, snapshot) = (self.def.clone(), self.positions.clone(), self.snapshot.clone());
        let part = SourcePart { def, positions, snapshot, columns, schema: schema.clone() };
        Ok(Arc::new(StreamingTableExec::try_new(schema, vec![Arc::new(part)], None, vec![], false, limit)?))
    }

    fn pushdown(&self, filters: &[&Expr]) -> Vec<TableProviderFilterPushDown> {
        // Row groups are left out by them; rows are not.
        vec![TableProviderFilterPushDown::Inexact; filters.len()]
    }
}

#[derive(Debug)]
struct SourcePart {
    def: SourceDef,
    positions: Positions,
    snapshot: Arc<Snapshot>,
    columns: Vec<usize>,
    schema: SchemaRef,
}

impl PartitionStream for SourcePart {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _ctx: Arc<TaskContext>) -> SendableRecordBatchStream {
        let (def, positions, columns) = (self.def.clone(), self.positions.clone(), self.columns.clone());
        let snapshot = self.snapshot.clone();
        let started = async move { Replay::start(def, snapshot, &positions, columns).await };
        let stream = futures::stream::once(started).flat_map(|replay| match replay {
            Ok(replay) => futures::stream::try_unfold(replay, |mut replay| async move {
                Ok(replay.next().await?.map(|batch| (batch, replay)))
            })
            .boxed(),
            Err(error) => futures::stream::once(async move { Err(error) }).boxed(),
        });
        Box::pin(RecordBatchStreamAdapter::new(self.schema.clone(), stream.map(|b| b.map_err(Error::into))))
    }
}
