//! Rows of stored relations at one moment: RocksDB ranges for tables and views, a replay for sources.
//!
//! ```text
//!   WHERE on key columns ──▶ KeyRange ──▶ parts read side by side ──▶ batches ── minus rows the transaction touched
//!                                                                          └──── plus rows it put in
//! ```

use std::collections::HashMap;
use std::fmt;
use std::ops::Bound;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::compute::filter_record_batch;
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{Constraint, Constraints, Result as DfResult, ScalarValue};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{BinaryExpr, Expr, Operator, TableProviderFilterPushDown};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use futures::StreamExt;
use tidemark_catalog::{Catalog, Object, ObjectKind};
use tidemark_common::connector::Positions;
use tidemark_common::{Error, Oid, Result, SqlState};
use tidemark_engine::{Moment, Replay, SourceDef};
use tidemark_sql::relation::{Relation, RelationScan};
use tidemark_storage::{Collection, Key, KeyRange, Snapshot};

use super::names::Scans;
use crate::coordinator::definitions::{self, Environment};
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
}

impl Scans for StoredRows {
    fn relation(&self, catalog: &Catalog, object: &Arc<Object>) -> Result<Arc<dyn TableProvider>> {
        if let Some(error) = self.moment.unreadable.get(&object.oid) {
            return Err(error.clone());
        }
        let mut relation = stored_relation(catalog, object)?;
        let scan: Arc<dyn RelationScan> = match &object.kind {
            ObjectKind::Source(source) => {
                let def = definitions::source(object, source, &self.environment)?;
                let positions = source_positions(&self.moment.snapshot, object.oid)?;
                Arc::new(SourceScan { def, positions })
            }
            ObjectKind::Table(table) => {
                let def = definitions::table(object, table)?;
                if self.with_row_numbers == Some(object.oid) {
                    relation.schema = def.collection.schema().clone();
                }
                Arc::new(CollectionScan {
                    snapshot: self.moment.snapshot.clone(),
                    own: self.changed.get(&object.oid).cloned(),
                    key: def.key,
                    collection: def.collection,
                })
            }
            ObjectKind::MaterializedView(view) => {
                let collection = definitions::view_collection(object, view)?;
                let key = view.key.clone().unwrap_or_default();
                Arc::new(CollectionScan { snapshot: self.moment.snapshot.clone(), own: None, key, collection })
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
        watermark: None,
        constraints: None,
        scan: None,
    };
    match &object.kind {
        ObjectKind::Table(table) => {
            if let Some(key) = &table.primary_key {
                relation.key = Some(key.columns.clone());
                let constraint = Constraint::PrimaryKey(key.columns.clone());
                relation.constraints = Some(Constraints::new_unverified(vec![constraint]));
            }
        }
        ObjectKind::Source(source) => {
            relation.append_only = true;
            relation.watermark = source.watermark.as_ref().map(|w| w.column);
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
    /// Key columns, in the order of the stored key.
    key: Vec<usize>,
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
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        // A table's hidden row number is the last stored column: all others are what the plan counts from.
        let columns = match projection {
            Some(columns) => columns.clone(),
            None => (0..self.collection.schema().fields().len()).collect(),
        };
        let schema: SchemaRef = Arc::new(self.collection.schema().project(&columns)?);
        let range = self.range(filters)?;
        let parts = match &range {
            Some(range) => vec![range.clone()],
            None => self.collection.split_ranges(&self.snapshot, state.config().target_partitions())?,
        };
        // New rows may lie beyond the parts of all rows, which are those of the stored ones.
        let last = parts.len().saturating_sub(1);
        let added = range.unwrap_or_else(KeyRange::full);
        let partitions = parts
            .into_iter()
            .enumerate()
            .map(|(i, range)| {
                Arc::new(Part {
                    snapshot: self.snapshot.clone(),
                    collection: self.collection.clone(),
                    own: self.own.clone(),
                    added: (i == last).then(|| added.clone()),
                    range,
                    columns: columns.clone(),
                    schema: schema.clone(),
                }) as Arc<dyn PartitionStream>
            })
            .collect();
        Ok(Arc::new(StreamingTableExec::try_new(schema, partitions, None, vec![], false, limit)?))
    }

    fn pushdown(&self, filters: &[&Expr]) -> Vec<TableProviderFilterPushDown> {
        filters
            .iter()
            .map(|f| match comparison(f) {
                Some((name, ..)) if self.key_position(name).is_some() => TableProviderFilterPushDown::Inexact,
                _ => TableProviderFilterPushDown::Unsupported,
            })
            .collect()
    }
}

impl CollectionScan {
    fn key_position(&self, name: &str) -> Option<usize> {
        let schema = self.collection.schema();
        self.key.iter().position(|column| schema.field(*column).name() == name)
    }

    /// The keys that can satisfy the filters, if these say anything of the first key column.
    fn range(&self, filters: &[Expr]) -> Result<Option<KeyRange>> {
        let comparisons: Vec<_> = filters.iter().filter_map(comparison).collect();
        let of =
            |position: usize| comparisons.iter().filter(move |(name, ..)| self.key_position(name) == Some(position));
        let mut prefix: Vec<ScalarValue> = Vec::new();
        while prefix.len() < self.key.len() {
            match of(prefix.len()).find(|(_, op, _)| *op == Operator::Eq) {
                Some((_, _, value)) => prefix.push((*value).clone()),
                None => break,
            }
        }
        let mut lower = Bound::Unbounded;
        let mut upper = Bound::Unbounded;
        if prefix.len() < self.key.len() {
            for (_, op, value) in of(prefix.len()) {
                match op {
                    Operator::Gt => lower = Bound::Excluded((*value).clone()),
                    Operator::GtEq => lower = Bound::Included((*value).clone()),
                    Operator::Lt => upper = Bound::Excluded((*value).clone()),
                    Operator::LtEq => upper = Bound::Included((*value).clone()),
                    _ => {}
                }
            }
        }
        match (&lower, &upper) {
            (Bound::Unbounded, Bound::Unbounded) if prefix.is_empty() => Ok(None),
            (Bound::Unbounded, Bound::Unbounded) => Ok(Some(self.collection.prefix_range(&prefix)?)),
            _ => {
                let (lower, upper) = (lower.as_ref(), upper.as_ref());
                Ok(Some(self.collection.bounded_range(&prefix, lower, upper)?))
            }
        }
    }
}

/// `column op literal`, either way round, the literal not NULL.
fn comparison(expr: &Expr) -> Option<(&str, Operator, &ScalarValue)> {
    let Expr::BinaryExpr(BinaryExpr { left, op, right }) = expr else { return None };
    let known = matches!(op, Operator::Eq | Operator::Lt | Operator::LtEq | Operator::Gt | Operator::GtEq);
    match (left.as_ref(), right.as_ref()) {
        (Expr::Column(c), Expr::Literal(v, _)) if known && !v.is_null() => Some((&c.name, *op, v)),
        (Expr::Literal(v, _), Expr::Column(c)) if known && !v.is_null() => Some((&c.name, op.swap()?, v)),
        _ => None,
    }
}

/// One range of keys, read when it is executed.
struct Part {
    snapshot: Arc<Snapshot>,
    collection: Arc<Collection>,
    own: Option<OwnChanges>,
    /// The rows that the transaction put in come with this part: those of this range.
    added: Option<KeyRange>,
    range: KeyRange,
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
        let scan = self.collection.scan(&self.snapshot, Some(self.columns.clone()), &self.range, BATCH_ROWS)?;
        Ok(Box::new(scan))
    }

    /// Whole rows are needed to know their keys.
    fn overlaid(&self, own: OwnChanges) -> Result<Batches> {
        let scan = self.collection.scan(&self.snapshot, None, &self.range, BATCH_ROWS)?;
        let (collection, columns) = (self.collection.clone(), self.columns.clone());
        let added = self.added.as_ref().map(|range| own.added(range, BATCH_ROWS));
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

// ---- Sources ------------------------------------------------------------------------------------------------------

/// Reads a source again, up to where the moment has read it.
#[derive(Debug)]
struct SourceScan {
    def: SourceDef,
    positions: Positions,
}

#[async_trait]
impl RelationScan for SourceScan {
    async fn scan(
        &self,
        _state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        limit: Option<usize>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        let columns = match projection {
            Some(columns) => columns.clone(),
            None => (0..self.def.schema.fields().len()).collect(),
        };
        let schema: SchemaRef =
            Arc::new(Schema::new(columns.iter().map(|c| self.def.schema.fields()[*c].clone()).collect::<Vec<_>>()));
        let part =
            SourcePart { def: self.def.clone(), positions: self.positions.clone(), columns, schema: schema.clone() };
        Ok(Arc::new(StreamingTableExec::try_new(schema, vec![Arc::new(part)], None, vec![], false, limit)?))
    }

    fn pushdown(&self, filters: &[&Expr]) -> Vec<TableProviderFilterPushDown> {
        vec![TableProviderFilterPushDown::Unsupported; filters.len()]
    }
}

#[derive(Debug)]
struct SourcePart {
    def: SourceDef,
    positions: Positions,
    columns: Vec<usize>,
    schema: SchemaRef,
}

impl PartitionStream for SourcePart {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _ctx: Arc<TaskContext>) -> SendableRecordBatchStream {
        let (def, positions, columns) = (self.def.clone(), self.positions.clone(), self.columns.clone());
        let started = async move { Replay::start(def, &positions, columns).await };
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
