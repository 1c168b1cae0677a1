//! For tests: changes as text, plans from SQL, and a dataflow over a store of its own.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, DFSchemaRef};
use datafusion::datasource::MemTable;
use datafusion::logical_expr::execution_props::ExecutionProps;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{Expr, LogicalPlan, expr_schema::ExprSchemable};
use datafusion::physical_expr::aggregate::LoweredAggregateBuilder;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::window::WindowExpr;
use datafusion::physical_expr::{PhysicalExpr, create_physical_expr};
use datafusion::physical_planner::create_window_expr;
use datafusion::prelude::SessionContext;
use datafusion::scalar::ScalarValue;
use tempfile::TempDir;
use tidemark_common::plan::{Aggregate, AggregateCall, AggregateStrategy, Dataflow, Node, NodeId, Op, Properties};
use tidemark_common::{Delta, Oid, Result};
use tidemark_storage::{Collection, CollectionWriter, Index, Key, Layout, StateId, Store, StoreOptions};

use super::{Chunks, Held, HeldCollections, Seen, Watermarks};
use crate::dataflow::{CollectionChanges, RunningDataflow};

/// The collection that test plans read.
pub const INPUT: Oid = 20000;
pub const VIEW: Oid = 20001;

/// "k bigint, v text": nullable columns.
pub fn schema(columns: &str) -> SchemaRef {
    let field = |column: &str| {
        let (name, data_type) = column.trim().split_once(' ').unwrap();
        let data_type = match data_type.trim() {
            "bigint" => DataType::Int64,
            "double" => DataType::Float64,
            "boolean" => DataType::Boolean,
            "text" => DataType::Utf8,
            "numeric" => DataType::Decimal128(20, 2),
            "timestamp" => DataType::Timestamp(TimeUnit::Microsecond, None),
            other => panic!("no test type {other}"),
        };
        Field::new(name, data_type, true)
    };
    Arc::new(Schema::new(columns.split(',').map(field).collect::<Vec<_>>()))
}

/// A row a line: "+ 1 a", "- 2 NULL", "+3 7 b".
pub fn delta(schema: &SchemaRef, text: &str) -> Delta {
    let mut weights = Vec::new();
    let mut columns: Vec<Vec<ScalarValue>> = vec![Vec::new(); schema.fields().len()];
    for line in text.lines().map(str::trim).filter(|l| !l.is_empty()) {
        let mut words = line.split_whitespace();
        weights.push(match words.next().unwrap() {
            "+" => 1,
            "-" => -1,
            weight => weight.parse().unwrap(),
        });
        for (column, field) in columns.iter_mut().zip(schema.fields()) {
            let word = words.next().unwrap_or_else(|| panic!("a value is missing in {line:?}"));
            column.push(match word {
                "NULL" => ScalarValue::try_from(field.data_type()).unwrap(),
                word => ScalarValue::try_from_string(word.replace('_', " "), field.data_type()).unwrap(),
            });
        }
    }
    let batch = batch_of(schema, columns);
    let inserts = weights.iter().all(|w| *w == 1);
    Delta::new(batch, (!inserts).then(|| weights.into()))
}

pub fn batch_of(schema: &SchemaRef, columns: Vec<Vec<ScalarValue>>) -> RecordBatch {
    if columns.iter().all(Vec::is_empty) {
        return RecordBatch::new_empty(Arc::clone(schema));
    }
    let arrays = columns.into_iter().map(|c| ScalarValue::iter_to_array(c).unwrap()).collect();
    RecordBatch::try_new(Arc::clone(schema), arrays).unwrap()
}

/// The rows as [`delta`] reads them, in their order.
pub fn show(chunks: &[Delta]) -> String {
    let mut text = String::new();
    for delta in chunks {
        for (row, values) in rows_text(&delta.batch).into_iter().enumerate() {
            let weight = match delta.weight(row) {
                1 => "+".to_string(),
                -1 => "-".to_string(),
                n => format!("{n:+}"),
            };
            text.push_str(&format!("{weight} {}\n", values.join(" ")));
        }
    }
    text
}

pub fn rows_text(batch: &RecordBatch) -> Vec<Vec<String>> {
    let options = FormatOptions::new().with_null("NULL");
    let formatters: Vec<_> =
        batch.columns().iter().map(|c| ArrayFormatter::try_new(c.as_ref(), &options).unwrap()).collect();
    (0..batch.num_rows()).map(|row| formatters.iter().map(|f| f.value(row).to_string()).collect()).collect()
}

pub fn changes(chunks: Chunks) -> CollectionChanges {
    CollectionChanges { chunks, watermarks: Watermarks::new(), ..CollectionChanges::default() }
}

/// A plan from nodes that are given in order.
pub fn plan(nodes: Vec<(Op, Vec<NodeId>, SchemaRef, Properties)>) -> Arc<Dataflow> {
    let nodes = nodes.into_iter().enumerate();
    let nodes =
        nodes.map(|(id, (op, inputs, schema, properties))| Node { id: id as u32, op, inputs, schema, properties });
    Arc::new(Dataflow { nodes: nodes.collect() })
}

pub fn input(schema: &SchemaRef, watermarks: &[usize]) -> (Op, Vec<NodeId>, SchemaRef, Properties) {
    let op = Op::Input { collection: INPUT, name: "t".into(), projection: (0..schema.fields().len()).collect() };
    (op, vec![], Arc::clone(schema), with_watermarks(watermarks))
}

pub fn with_watermarks(columns: &[usize]) -> Properties {
    Properties { watermarks: columns.iter().copied().collect(), ..Properties::default() }
}

pub fn column(schema: &SchemaRef, name: &str) -> Arc<dyn PhysicalExpr> {
    Arc::new(Column::new_with_schema(name, schema).unwrap())
}

/// A dataflow, its store, and what it has sent so far.
pub struct TestFlow {
    dir: TempDir,
    store: Option<Arc<Store>>,
    plan: Arc<Dataflow>,
    pub flow: RunningDataflow,
    first: bool,
    /// Inputs that are stored, by an index on their first column.
    held: HeldCollections,
    /// The time of the next epoch.
    pub now: i64,
}

impl TestFlow {
    pub fn new(plan: Arc<Dataflow>, shards: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir);
        let flow = RunningDataflow::new(Arc::clone(&plan), VIEW, shards, 1 << 20).unwrap();
        Self { dir, store: Some(store), plan, flow, first: true, held: HeldCollections::new(), now: 0 }
    }

    /// Stores an input, too, in a multiset with an index on the first column.
    pub fn store_input(&mut self, oid: Oid, schema: &SchemaRef) {
        let collection = Collection::new(StateId::new(oid, 0), Arc::clone(schema), Layout::Multiset).unwrap();
        let index = Index::new(StateId::new(oid, 1), "i", schema, vec![0], false).unwrap();
        let held = Held { collection: Arc::new(collection), indexes: vec![Arc::new(index)], seen: Seen::All };
        self.held.insert(oid, held);
    }

    fn store(&self) -> &Arc<Store> {
        self.store.as_ref().unwrap()
    }

    pub fn try_epoch(&mut self, changes: CollectionChanges) -> Result<CollectionChanges> {
        self.try_epoch_of(&BTreeMap::from([(INPUT, changes)]))
    }

    /// Of several collections.
    pub fn try_epoch_of(&mut self, inputs: &BTreeMap<Oid, CollectionChanges>) -> Result<CollectionChanges> {
        let snapshot = self.store().snapshot();
        let output = self.flow.step(snapshot.epoch() + 1, &snapshot, &self.held, self.first, inputs, self.now)?;
        self.first = false;
        let mut commit = self.store().begin();
        self.flow.flush(&mut commit)?;
        for (oid, held) in &self.held {
            let chunks = inputs.get(oid).map_or(&[][..], |changes| &changes.chunks);
            let net = Delta::concat(held.collection.schema(), chunks)?;
            let writer = CollectionWriter::new(Arc::clone(&held.collection), 0);
            writer.with_indexes(held.indexes.clone()).apply(&snapshot, &net, &mut commit)?;
        }
        self.store().commit(commit, snapshot.epoch() + 1, false)?;
        Ok(output)
    }

    pub fn epoch(&mut self, changes: CollectionChanges) -> CollectionChanges {
        self.try_epoch(changes).unwrap()
    }

    /// Rows in, rows out, without watermarks.
    pub fn rows(&mut self, schema: &SchemaRef, text: &str) -> String {
        show(&self.epoch(changes(vec![delta(schema, text)])).chunks)
    }

    /// Starts anew from what is stored.
    pub fn reopen(&mut self, shards: usize) {
        self.store().close().unwrap();
        self.store = None;
        self.store = Some(open(&self.dir));
        self.flow = RunningDataflow::new(Arc::clone(&self.plan), VIEW, shards, 1 << 20).unwrap();
    }

    /// Entries of operators' state on disk, watermarks aside.
    pub fn stored_entries(&self) -> usize {
        self.stored().iter().filter(|(state, _, _)| *state >= super::aggregate::STATES_PER_NODE).count()
    }

    /// Number of the state, key and value of each entry on disk.
    pub fn stored(&self) -> Vec<(u32, Vec<u8>, Vec<u8>)> {
        let span = Key::states_of_object(VIEW);
        let entries = self.store().snapshot().scan(&span.start, &span.end);
        entries
            .map(|entry| {
                let (key, value) = entry.unwrap();
                let Key::State { state, key } = Key::decode(&key).unwrap() else { panic!("a key of another kind") };
                (state.node(), key.to_vec(), value)
            })
            .collect()
    }
}

fn open(dir: &TempDir) -> Arc<Store> {
    Store::open(dir.path(), &StoreOptions { sync: false, ..StoreOptions::default() }).unwrap()
}

/// How [`lower`] plans.
#[derive(Debug, Clone, Copy)]
pub struct Lowering {
    pub strategy: AggregateStrategy,
    pub close: Option<usize>,
    pub emit_on_close: bool,
}

pub fn context(batch: RecordBatch) -> SessionContext {
    let ctx = SessionContext::new();
    let table = MemTable::try_new(batch.schema(), vec![vec![batch]]).unwrap();
    ctx.register_table("t", Arc::new(table)).unwrap();
    ctx
}

/// The plan of "SELECT key.., call.. FROM t GROUP BY key..": Input, Project, Exchange, Aggregate.
pub async fn lower(schema: &SchemaRef, sql: &str, lowering: Lowering) -> Arc<Dataflow> {
    let ctx = context(RecordBatch::new_empty(Arc::clone(schema)));
    let plan = ctx.sql(sql).await.unwrap().into_unoptimized_plan();
    let state = ctx.state();
    let plan = state.analyzer().execute_and_check(plan, &state.config_options().clone(), |_, _| {}).unwrap();
    let mut found = None;
    plan.apply(|node| {
        if let LogicalPlan::Aggregate(aggregate) = node {
            found =
                Some((aggregate.group_expr.clone(), aggregate.aggr_expr.clone(), Arc::clone(aggregate.input.schema())));
        }
        if let LogicalPlan::Distinct(_) = node {
            let input = node.inputs()[0];
            let columns = input.schema().columns().into_iter().map(Expr::Column).collect();
            let (group, input) = match input {
                LogicalPlan::Projection(p) => (p.expr.clone(), p.input.schema()),
                _ => (columns, input.schema()),
            };
            found = Some((group, vec![], Arc::clone(input)));
        }
        Ok(TreeNodeRecursion::Continue)
    })
    .unwrap();
    let (group, calls, input_schema) = found.expect("the query aggregates");
    lower_aggregate(schema, &group, &calls, &input_schema, lowering)
}

fn lower_aggregate(
    schema: &SchemaRef,
    group: &[Expr],
    calls: &[Expr],
    input_schema: &DFSchemaRef,
    lowering: Lowering,
) -> Arc<Dataflow> {
    let (props, planning) = (ExecutionProps::new(), PhysicalPlanningContext::default());
    let physical = |e: &Expr| create_physical_expr(e, input_schema, &props, &planning).unwrap();
    let filters: Vec<Option<Expr>> = calls.iter().map(filter_of).collect();
    let mut exprs: Vec<Arc<dyn PhysicalExpr>> = group.iter().map(physical).collect();
    let mut fields: Vec<Field> = group
        .iter()
        .enumerate()
        .map(|(i, e)| Field::new(format!("g{i}"), e.get_type(input_schema).unwrap(), true))
        .collect();
    let mut qualified: Vec<_> = fields.iter().map(|f| (None, Arc::new(f.clone()))).collect();
    for (index, (qualifier, field)) in input_schema.iter().enumerate() {
        exprs.push(Arc::new(Column::new(field.name(), index)));
        fields.push(field.as_ref().clone());
        qualified.push((qualifier.cloned(), Arc::clone(field)));
    }
    let mut filter_columns = Vec::new();
    for filter in &filters {
        filter_columns.push(filter.as_ref().map(|filter| {
            exprs.push(physical(filter));
            let field = Field::new(format!("f{}", fields.len()), DataType::Boolean, true);
            qualified.push((None, Arc::new(field.clone())));
            fields.push(field);
            fields.len() - 1
        }));
    }
    let projected = Arc::new(Schema::new(fields));
    let df_schema = DFSchema::new_with_metadata(qualified, Default::default()).unwrap();
    let calls: Vec<AggregateCall> = calls
        .iter()
        .zip(filter_columns)
        .map(|(call, filter)| {
            let builder = LoweredAggregateBuilder::new(call, &df_schema, &projected, &props, &planning);
            AggregateCall { function: builder.build().unwrap().aggregate, filter }
        })
        .collect();
    let keys: Vec<usize> = (0..group.len()).collect();
    let mut out: Vec<Arc<Field>> = keys.iter().map(|&k| Arc::clone(&projected.fields()[k])).collect();
    out.extend(calls.iter().map(|c| c.function.field()));
    let Lowering { strategy, close, emit_on_close } = lowering;
    let aggregate = Aggregate { group: group.len(), calls, strategy, close, emit_on_close, partial: false };
    let watermarks: Vec<usize> = close.into_iter().collect();
    // Test tables carry the watermark in the column that the closing key is.
    let watermarked_inputs: Vec<usize> = close
        .map(|c| input_schema.index_of_column(&group[c].column_refs().into_iter().next().unwrap().clone()).unwrap())
        .into_iter()
        .collect();
    plan(vec![
        input(schema, &watermarked_inputs),
        (Op::Project { exprs }, vec![0], Arc::clone(&projected), with_watermarks(&watermarks)),
        (Op::Exchange { keys }, vec![1], projected, with_watermarks(&watermarks)),
        (Op::Aggregate(aggregate), vec![2], Arc::new(Schema::new(out)), with_watermarks(&watermarks)),
    ])
}

/// Input, Exchange by the partition, and a node that keeps partitions; `results`: its columns behind those of the input.
pub fn over_partitions(schema: &SchemaRef, partition: &[usize], op: Op, results: Vec<Field>) -> Arc<Dataflow> {
    let fields: Vec<Field> = schema.fields().iter().map(|f| f.as_ref().clone()).chain(results).collect();
    let close = match &op {
        Op::TopN(top_n) => top_n.close,
        Op::Over(over) => over.close.or(over.until.map(|until| until.time)),
        _ => None,
    };
    let watermarks: Vec<usize> = close.into_iter().collect();
    plan(vec![
        input(schema, &watermarks),
        (Op::Exchange { keys: partition.to_vec() }, vec![0], Arc::clone(schema), with_watermarks(&watermarks)),
        (op, vec![1], Arc::new(Schema::new(fields)), with_watermarks(&watermarks)),
    ])
}

/// The window functions of "SELECT f() OVER (..), .. FROM t", all with one partition and order, and their fields.
pub async fn window_functions(schema: &SchemaRef, sql: &str) -> (Vec<Arc<dyn WindowExpr>>, Vec<Field>) {
    let ctx = context(RecordBatch::new_empty(Arc::clone(schema)));
    let plan = ctx.sql(sql).await.unwrap().into_unoptimized_plan();
    let state = ctx.state();
    let plan = state.analyzer().execute_and_check(plan, &state.config_options().clone(), |_, _| {}).unwrap();
    let (props, planning) = (ExecutionProps::new(), PhysicalPlanningContext::default());
    let mut functions = Vec::new();
    plan.apply(|node| {
        if let LogicalPlan::Window(window) = node {
            for expr in &window.window_expr {
                functions.push(create_window_expr(expr, window.input.schema(), &props, &planning)?);
            }
        }
        Ok(TreeNodeRecursion::Continue)
    })
    .unwrap();
    let fields = functions.iter().map(|f| f.field().unwrap().as_ref().clone()).collect();
    (functions, fields)
}

fn filter_of(call: &Expr) -> Option<Expr> {
    match call {
        Expr::Alias(alias) => filter_of(&alias.expr),
        Expr::AggregateFunction(function) => function.params.filter.as_ref().map(|f| f.as_ref().clone()),
        _ => None,
    }
}
