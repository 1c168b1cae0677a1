//! Rows of stored relations at one moment: RocksDB ranges for tables and views, a replay for sources.
//!
//! ```text
//!   WHERE ──▶ Access: ranges of the key or an index ──▶ parts read side by side ──▶ batches ── minus rows the transaction touched
//!                                                                                   └──── plus rows it put in
//! ```

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::compute::filter_record_batch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{Constraint, Constraints, Result as DfResult};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use futures::StreamExt;
use tidemark_catalog::{Catalog, Object, ObjectKind};
use tidemark_common::connector::Positions;
use tidemark_common::{Error, Oid, Result, SqlState};
use tidemark_connectors::load::Strategy;
use tidemark_engine::Moment;
use tidemark_sql::relation::{Relation, RelationScan};
use tidemark_storage::{Collection, Index, Key, KeyRange, Snapshot};

use super::access::{self, Access, Way};
use super::names::Scans;
use super::shown::Shown;
use super::source_scan::SourceScan;
use crate::coordinator::definitions::{self, Environment};
use crate::coordinator::loads::load_of;
use crate::transaction::{OwnChanges, Transaction};

/// Rows of a batch.
const BATCH_ROWS: usize = 8192;

/// Scans for a statement: the moment's rows, the transaction's own changes over them.
#[derive(Clone)]
pub struct StoredRows {
    moment: Moment,
    environment: Arc<Environment>,
    /// By table: what the transaction has done to it.
    changed: HashMap<Oid, OwnChanges>,
    /// Tables whose hidden row number is wanted too, for UPDATE and DELETE.
    pub with_row_numbers: Option<Oid>,
}

impl StoredRows {
    pub fn new(transaction: &Transaction, environment: Arc<Environment>) -> Self {
        let changed = transaction.buffers().map(|buffer| (buffer.def().oid, buffer.changes())).collect();
        Self { moment: transaction.moment.clone(), environment, changed, with_row_numbers: None }
    }

    /// Without those that the transaction itself has created, which are filled when it commits. (A constraint that it has added
    /// came with new contents, of the table and of the index.)
    fn filled(&self, relation: Oid, indexes: Vec<Arc<Index>>) -> Vec<Arc<Index>> {
        let is_filled = |oid: Oid| oid == relation || self.moment.catalog.get(oid).is_some();
        indexes.into_iter().filter(|index| is_filled(index.id().oid())).collect()
    }
}

impl Scans for StoredRows {
    fn relation(&self, catalog: &Catalog, object: &Arc<Object>) -> Result<Arc<dyn TableProvider>> {
        if let Some(error) = self.moment.unreadable.get(&object.oid) {
            return Err(error.clone());
        }
        let mut relation = stored_relation(catalog, object)?;
        let scan: Arc<dyn RelationScan> = match &object.kind {
            ObjectKind::Source(source) if !source.key.is_empty() => {
                let rows = definitions::source_rows(object, source)?;
                let rows = rows.ok_or_else(|| Error::internal("a source with a key has no rows"))?;
                Arc::new(CollectionScan {
                    snapshot: self.moment.snapshot.clone(),
                    name: relation.name.clone(),
                    own: None,
                    key: rows.key,
                    indexes: rows.indexes,
                    collection: rows.collection,
                })
            }
            ObjectKind::Source(source) => {
                let def = definitions::source(object, source, catalog, &self.environment)?;
                let positions = source_positions(&self.moment.snapshot, object.oid)?;
                Arc::new(SourceScan { def, positions, snapshot: self.moment.snapshot.clone() })
            }
            ObjectKind::Table(table) => {
                let def = definitions::table(object, table, catalog)?;
                if self.with_row_numbers == Some(object.oid) {
                    relation.schema = def.collection.schema().clone();
                }
                Arc::new(CollectionScan {
                    snapshot: self.moment.snapshot.clone(),
                    name: relation.name.clone(),
                    own: self.changed.get(&object.oid).cloned(),
                    key: def.key,
                    indexes: self.filled(object.oid, def.indexes),
                    collection: def.collection,
                })
            }
            ObjectKind::MaterializedView(view) => {
                let collection = definitions::view_collection(object, view)?;
                Arc::new(CollectionScan {
                    snapshot: self.moment.snapshot.clone(),
                    name: relation.name.clone(),
                    own: None,
                    key: view.key.clone().unwrap_or_default(),
                    indexes: self.filled(object.oid, definitions::view_indexes(object, catalog)?),
                    collection,
                })
            }
            other => return Err(Error::internal(format!("a {} has no rows", other.name()))),
        };
        relation.scan = Some(scan);
        Ok(Arc::new(relation))
    }
}

/// A table, source or materialized view as plans see it, without rows.
pub fn stored_relation(catalog: &Catalog, object: &Object) -> Result<Relation> {
    let mut relation = Relation {
        oid: object.oid,
        name: catalog.qualified_name(object),
        schema: object.arrow_schema(),
        append_only: false,
        key: None,
        indexed: catalog.indexes_of(object.oid).filter_map(|(_, i)| i.columns.first()).map(|c| c.column).collect(),
        lookups: lookups(catalog, object),
        watermark: None,
        ttl: None,
        versions: None,
        constraints: None,
        scan: None,
        asked: None,
    };
    match &object.kind {
        ObjectKind::Table(table) => {
            relation.versions = versions(object)?;
            if let Some(key) = &table.primary_key {
                relation.key = Some(key.columns.clone());
                let constraint = Constraint::PrimaryKey(key.columns.clone());
                relation.constraints = Some(Constraints::new_unverified(vec![constraint]));
            }
            relation.indexed.extend(table.unique.iter().filter_map(|key| key.columns.first().copied()));
        }
        ObjectKind::Source(source) if !source.key.is_empty() => {
            relation.schema = definitions::source_schema(object);
            relation.key = Some(source.key.clone());
        }
        ObjectKind::Source(source) if source.is_shared() => {
            let message = format!("source \"{}\" has no rows: its tables have them", object.name);
            return Err(Error::new(SqlState::WrongObjectType, message).with_hint(format!(
                "CREATE TABLE name (*) FROM {} TABLE 'schema.table', and read that.",
                object.name
            )));
        }
        ObjectKind::Source(source) => {
            relation.append_only = true;
            relation.watermark = source.watermark.as_ref().map(|w| w.column);
            relation.ttl = source.ttl.and_then(|ttl| Some((ttl.position(&source.columns)?, ttl.micros)));
            relation.schema = definitions::source_schema(object);
        }
        ObjectKind::MaterializedView(view) => {
            relation.append_only = view.append_only;
            relation.key.clone_from(&view.key);
            relation.watermark = view.watermark;
        }
        other => {
            return Err(Error::new(
                SqlState::WrongObjectType,
                format!("\"{}\" is a {}, which has no rows", object.name, other.name()),
            ));
        }
    }
    Ok(relation)
}

/// From when to when a row of a table with the strategy scd2 holds.
fn versions(object: &Object) -> Result<Option<(usize, usize)>> {
    let Some(Strategy::Scd2(scd2)) = load_of(object)?.map(|load| load.strategy) else { return Ok(None) };
    let position = |name: &str| object.columns().iter().position(|column| column.name == name);
    Ok(position(&scd2.valid_from).zip(position(&scd2.valid_to)))
}

/// Columns with which a key or an index begins that leads to all rows without a NULL in them.
pub fn lookups(catalog: &Catalog, object: &Object) -> Vec<Vec<usize>> {
    let beginnings = |columns: &[usize]| (1..=columns.len()).map(|n| columns[..n].to_vec()).collect::<Vec<_>>();
    let mut found = Vec::new();
    if let ObjectKind::Table(table) = &object.kind {
        found.extend(table.primary_key.iter().flat_map(|key| beginnings(&key.columns)));
        // A unique index has no entry for a row with a NULL in any of its columns.
        found.extend(table.unique.iter().map(|key| key.columns.clone()));
    }
    for (_, index) in catalog.indexes_of(object.oid) {
        match index.unique {
            true => found.push(index.positions()),
            false => found.extend(beginnings(&index.positions())),
        }
    }
    found
}

fn source_positions(snapshot: &Arc<Snapshot>, source: Oid) -> Result<Positions> {
    let span = Key::source_positions(source);
    let mut positions = Positions::new();
    for entry in snapshot.scan(&span.start, &span.end) {
        let (key, stored) = entry?;
        if let Key::SourcePosition { split, .. } = Key::decode(&key)? {
            positions.insert(split.to_string(), tidemark_storage::value::decode(&stored)?);
        }
    }
    Ok(positions)
}

// ---- Tables and materialized views ----------------------------------------------------------------------------------

struct CollectionScan {
    snapshot: Arc<Snapshot>,
    collection: Arc<Collection>,
    /// The relation's, as EXPLAIN shows it.
    name: String,
    /// Key columns, in the order of the stored key.
    key: Vec<usize>,
    indexes: Vec<Arc<Index>>,
    own: Option<OwnChanges>,
}

impl fmt::Debug for CollectionScan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CollectionScan({})", self.collection.name())
    }
}

#[async_trait]
impl RelationScan for CollectionScan {
    async fn scan(
        &self,
        state: &dyn Session,
        columns: Vec<usize>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        // A table's hidden row number is the last stored column: all others are what the plan counts from.
        let schema: SchemaRef = Arc::new(self.collection.schema().project(&columns)?);
        let access = access::choose(&self.collection, &self.key, &self.indexes, filters, &self.snapshot)?;
        let parts = match &access {
            None => {
                let parts = self.collection.split_ranges(&self.snapshot, state.config().target_partitions())?;
                let last = parts.len().saturating_sub(1);
                // New rows may lie beyond the parts of all rows, which are those of the stored ones.
                let added = |i| if i == last { vec![KeyRange::full()] } else { vec![] };
                parts.into_iter().enumerate().map(|(i, range)| (vec![range], None, added(i))).collect()
            }
            Some(Access { way: Way::Key(_), ranges, .. }) => vec![(ranges.clone(), None, ranges.clone())],
            // The filters find those of the new rows that they ask for.
            Some(Access { way: Way::Index(index), ranges, .. }) => {
                vec![(ranges.clone(), Some(index.clone()), vec![KeyRange::full()])]
            }
        };
        let part = |(ranges, index, added)| {
            Arc::new(Part {
                snapshot: self.snapshot.clone(),
                collection: self.collection.clone(),
                index,
                own: self.own.clone(),
                added,
                ranges,
                columns: columns.clone(),
                schema: schema.clone(),
            }) as Arc<dyn PartitionStream>
        };
        let partitions = parts.into_iter().map(part).collect();
        let scan = Arc::new(StreamingTableExec::try_new(schema.clone(), partitions, None, vec![], false, limit)?);
        let words = match &access {
            None => format!("Scan: {}", self.name),
            Some(access) => format!("Scan: {} {access}", self.name),
        };
        let rows = match (&access, &self.own, limit) {
            (None, None, None) => Some(self.collection.row_count(&self.snapshot)? as usize),
            _ => None,
        };
        Ok(Arc::new(Shown { words, rows, inside: scan }))
    }

    fn pushdown(&self, filters: &[&Expr]) -> Vec<TableProviderFilterPushDown> {
        let columns = access::useful_columns(&self.collection, &self.key, &self.indexes);
        let of = |filter: &&Expr| match access::is_useful(filter, &columns) {
            true => TableProviderFilterPushDown::Inexact,
            false => TableProviderFilterPushDown::Unsupported,
        };
        filters.iter().map(of).collect()
    }
}

/// Ranges of keys, of the collection or of an index of it, read when it is executed.
struct Part {
    snapshot: Arc<Snapshot>,
    collection: Arc<Collection>,
    index: Option<Arc<Index>>,
    own: Option<OwnChanges>,
    /// The rows that the transaction put in come with this part: those of these ranges of the collection.
    added: Vec<KeyRange>,
    ranges: Vec<KeyRange>,
    columns: Vec<usize>,
    schema: SchemaRef,
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.collection.name())
    }
}

impl PartitionStream for Part {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _ctx: Arc<TaskContext>) -> SendableRecordBatchStream {
        let schema = self.schema.clone();
        let batches: Result<Batches> = match &self.own {
            None => self.plain(),
            Some(own) => self.overlaid(own.clone()),
        };
        let stream = match batches {
            Ok(batches) => futures::stream::iter(batches.map(|b| b.map_err(Into::into))).boxed(),
            Err(error) => futures::stream::once(async move { Err(error.into()) }).boxed(),
        };
        Box::pin(RecordBatchStreamAdapter::new(schema, stream))
    }
}

type Batches = Box<dyn Iterator<Item = Result<RecordBatch>> + Send>;

impl Part {
    fn plain(&self) -> Result<Batches> {
        self.stored(self.columns.clone())
    }

    fn stored(&self, columns: Vec<usize>) -> Result<Batches> {
        if let Some(index) = &self.index {
            let ranges = self.ranges.clone();
            return Ok(Box::new(index.read(&self.collection, &self.snapshot, columns, ranges, BATCH_ROWS)?));
        }
        if let [range] = self.ranges.as_slice() {
            return Ok(Box::new(self.collection.scan_whole(&self.snapshot, columns, range, BATCH_ROWS)?));
        }
        let (collection, snapshot) = (self.collection.clone(), self.snapshot.clone());
        let each = move |range: KeyRange| -> Batches {
            match collection.scan(&snapshot, Some(columns.clone()), &range, BATCH_ROWS) {
                Ok(scan) => Box::new(scan),
                Err(error) => Box::new(std::iter::once(Err(error))),
            }
        };
        Ok(Box::new(self.ranges.clone().into_iter().flat_map(each)))
    }

    /// Whole rows are needed to know their keys.
    fn overlaid(&self, own: OwnChanges) -> Result<Batches> {
        let scan = self.stored((0..self.collection.schema().fields().len()).collect())?;
        let (collection, columns) = (self.collection.clone(), self.columns.clone());
        let added: Vec<_> = self.added.iter().map(|range| own.added(range, BATCH_ROWS)).collect();
        let project = self.columns.clone();
        let stored = scan.map(move |batch| {
            let batch = batch?;
            let keys = collection.key_of(&batch)?;
            let kept = filter_record_batch(&batch, &own.untouched(&keys))?;
            Ok(kept.project(&columns)?)
        });
        let added = added.into_iter().flatten().map(move |batch| Ok(batch?.project(&project)?));
        Ok(Box::new(stored.chain(added)))
    }
}
