//! Optimized logical plan -> dataflow: the operators that keep the query's result up to date.
//!
//! ```text
//!   Projection                        Project
//!     Aggregate  by window, count(*)    Aggregate   keeps one state a group
//!       Filter                 ──▶        Exchange  rows of one key meet on one shard
//!         TableScan bids                    Project key and arguments become columns
//!                                             Filter
//!                                               Input bids
//! ```
//!
//! One file an operator that needs more than a few lines. What cannot be kept incrementally is refused here, with the reason
//! and what would work.

mod aggregate;
mod grouping_sets;
mod intervals;
mod join;
mod key_columns;
mod lookup_join;
mod over;
mod own_extreme;
mod panes;
mod sessions;
mod sources;
mod temporal;
mod top_n;
mod unnest;
mod watermark;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use datafusion::arrow::array::{RecordBatch, RecordBatchOptions};
use datafusion::arrow::datatypes::{DataType, Schema, SchemaRef, TimeUnit};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, internal_datafusion_err};
use datafusion::datasource::source_as_provider;
use datafusion::execution::context::ExecutionProps;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{Distinct, Expr, LogicalPlan, Projection, TableScan, Values, Volatility};
use datafusion::physical_expr::expressions::{CastExpr, Column};
use datafusion::physical_expr::{PhysicalExpr, create_physical_expr};
use tidemark_common::plan::{Dataflow, Emit, Keeps, Node, NodeId, Op, Pace, Properties};
use tidemark_common::types::SqlType;
use tidemark_common::{Error, Oid, Result};

use crate::asof;
use crate::functions::CURRENT;
use crate::functions::epoch_clock::clock_call;
use crate::relation::Relation;

pub use lookup_join::not_followed;

/// A query as a dataflow.
///
/// `plan` must be optimized: types coerced, subqueries turned into joins. `emit`: when changes are sent; on closing, windowed
/// groups once, when they are final.
pub fn lower(plan: &LogicalPlan, emit: Emit) -> Result<Dataflow> {
    let emit_on_close = emit == Emit::OnWindowClose;
    let mut lowering = Lowering {
        nodes: Vec::new(),
        lookups: BTreeMap::new(),
        props: ExecutionProps::new(),
        emit_on_close,
        closes: false,
        current_joins: false,
        marks_dropped: false,
    };
    let output = lowering.plan(strip_order(plan))?;
    if lowering.marks_dropped && !lowering.current_joins {
        return Err(Error::unsupported("this join FOR SYSTEM_TIME AS OF proctime() cannot be kept up to date")
            .with_hint("Join by equal columns, in a subquery of its own."));
    }
    let mut output = lowering.store_types(output)?;
    if emit_on_close {
        output = lowering.hold(output);
        lowering.check_closes(output)?;
    }
    if let Emit::ChangesEvery(every) = emit {
        lowering.pace(output, every);
    }
    Ok(Dataflow { nodes: lowering.reachable() })
}

/// Refuses what would make a view differ from its query from one moment to the next. `plan` must not be optimized yet, or
/// now() is a constant already.
pub fn check_deterministic(plan: &LogicalPlan) -> Result<()> {
    let mut offender = None;
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|e| {
                if let Expr::ScalarFunction(f) = e
                    && f.func.signature().volatility != Volatility::Immutable
                    // What may stand where is for the lowering to say.
                    && clock_call(e)?.is_none()
                    && f.func.name() != CURRENT
                {
                    offender = Some(f.func.name().to_string());
                    return Ok(TreeNodeRecursion::Stop);
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    match offender {
        None => Ok(()),
        Some(name) => {
            Err(Error::unsupported(format!("function {name}() cannot be used in a view that is kept up to date"))
                .with_detail(
                    "Its value changes without any change of the input, so that the view could not equal its query.",
                )
                .with_hint(
                    "Use it in the SELECT over the view, or store its value in a column when the row is written.",
                ))
        }
    }
}

/// The order of a view's rows means nothing: ORDER BY without LIMIT at the top is left out, as Postgres allows it there.
fn strip_order(plan: &LogicalPlan) -> &LogicalPlan {
    match plan {
        LogicalPlan::Sort(sort) if sort.fetch.is_none() => strip_order(&sort.input),
        other => other,
    }
}

struct Lowering {
    nodes: Vec<Node>,
    /// Of the relations read, the columns by which rows can be looked up.
    lookups: BTreeMap<Oid, Vec<Vec<usize>>>,
    props: ExecutionProps,
    emit_on_close: bool,
    /// An aggregate that closes windows has been seen.
    closes: bool,
    /// A join as of the present has been seen; the mark of one has been seen elsewhere.
    current_joins: bool,
    marks_dropped: bool,
}

impl Lowering {
    /// The node that does this already, or a new one: what a query says twice (a WITH query read twice) is computed and kept once.
    fn add(&mut self, op: Op, inputs: Vec<NodeId>, schema: SchemaRef, properties: Properties) -> NodeId {
        // Only Debug shows all of an expression, types of literals included.
        let same = |n: &&Node| n.inputs == inputs && n.schema == schema && format!("{:?}", n.op) == format!("{op:?}");
        if let Some(node) = self.nodes.iter().find(same) {
            return node.id;
        }
        let id = self.nodes.len() as NodeId;
        self.nodes.push(Node { id, op, inputs, schema, properties });
        id
    }

    /// The nodes that the last one needs: a better plan may have replaced others.
    fn reachable(self) -> Vec<Node> {
        let mut needed = vec![false; self.nodes.len()];
        if let Some(last) = needed.last_mut() {
            *last = true;
        }
        for node in self.nodes.iter().rev() {
            if needed[node.id as usize] {
                node.inputs.iter().for_each(|input| needed[*input as usize] = true);
            }
        }
        let mut ids: Vec<NodeId> = Vec::with_capacity(needed.len());
        let mut kept: Vec<Node> = Vec::new();
        for (mut node, needed) in self.nodes.into_iter().zip(needed) {
            ids.push(kept.len() as NodeId);
            if needed {
                node.id = kept.len() as NodeId;
                node.inputs.iter_mut().for_each(|input| *input = ids[*input as usize]);
                kept.push(node);
            }
        }
        kept
    }

    fn properties(&self, node: NodeId) -> &Properties {
        &self.nodes[node as usize].properties
    }

    fn schema(&self, node: NodeId) -> &SchemaRef {
        &self.nodes[node as usize].schema
    }

    fn plan(&mut self, plan: &LogicalPlan) -> Result<NodeId> {
        match plan {
            LogicalPlan::TableScan(scan) => self.table_scan(scan),
            LogicalPlan::SubqueryAlias(alias) => self.plan(&alias.input),
            LogicalPlan::Projection(projection) => self.projection(projection),
            LogicalPlan::Filter(filter) => match top_n::Numbered::find(filter) {
                Some(numbered) => self.numbered(&numbered),
                None => {
                    let input = self.plan(&filter.input)?;
                    // The optimizer may have inferred a copy of a join's mark for one of its sides.
                    let (predicate, marked) = asof::without_marker(Some(&filter.predicate));
                    self.marks_dropped |= marked;
                    predicate.map_or(Ok(input), |predicate| self.filter(input, &predicate, filter.input.schema()))
                }
            },
            LogicalPlan::Union(union) => self.union(&union.inputs, plan.schema()),
            LogicalPlan::Aggregate(aggregate) => self.aggregate(aggregate),
            LogicalPlan::Distinct(Distinct::All(input)) => self.distinct(input),
            LogicalPlan::Limit(limit) => self.limit(limit),
            LogicalPlan::Sort(sort) => self.sort(sort),
            LogicalPlan::Window(window) => self.over(window),
            LogicalPlan::Unnest(unnest) => self.unnest(unnest),
            LogicalPlan::Join(join) => self.join(join),
            LogicalPlan::Values(values) => self.values(values),
            LogicalPlan::EmptyRelation(empty) => {
                let schema = Arc::new(empty.schema.as_arrow().clone());
                self.constant(schema, usize::from(empty.produce_one_row))
            }
            other => Err(refuse(other)),
        }
    }

    fn table_scan(&mut self, scan: &TableScan) -> Result<NodeId> {
        let provider = source_as_provider(&scan.source)?;
        let Some(relation) = provider.downcast_ref::<Relation>() else {
            return Err(Error::unsupported(format!("\"{}\" cannot be read by a materialized view", scan.table_name))
                .with_hint("System tables and table functions have no changes to follow; query them with SELECT."));
        };
        if relation.asked.is_some() {
            return Err(not_followed(&relation.name));
        }
        // A limit in the scan only says what the Limit above it says.
        if !scan.filters.is_empty() {
            return Err(Error::internal("a filter was pushed into the input of a dataflow"));
        }
        let projection = scan.projection.clone().unwrap_or_else(|| (0..relation.schema.fields().len()).collect());
        let position = |column: usize| projection.iter().position(|p| *p == column);
        let properties = Properties {
            append_only: relation.append_only,
            key: relation.key.as_ref().and_then(|key| key.iter().map(|k| position(*k)).collect()),
            watermarks: relation.watermark.and_then(position).into_iter().collect(),
        };
        let schema = Arc::new(relation.schema.project(&projection)?);
        self.lookups.insert(relation.oid, relation.lookups.clone());
        let op = Op::Input { collection: relation.oid, name: relation.name.clone(), projection };
        Ok(self.add(op, vec![], schema, properties))
    }

    fn projection(&mut self, projection: &Projection) -> Result<NodeId> {
        if let Some(node) = self.unnumbered(projection)? {
            return Ok(node);
        }
        let input = self.plan(&projection.input)?;
        self.projection_of(projection, input, projection.input.schema())
    }

    /// The projection over `input`, whose columns are those of `schema`.
    fn projection_of(&mut self, projection: &Projection, input: NodeId, schema: &DFSchema) -> Result<NodeId> {
        if let Some(node) = self.with_clock(projection, input, schema)? {
            return Ok(node);
        }
        let exprs = projection.expr.iter().map(|e| self.physical(e, schema)).collect::<Result<Vec<_>>>()?;
        Ok(self.project(input, exprs, Arc::new(projection.schema.as_arrow().clone())))
    }

    /// Adds a Project, unless it would change nothing but names.
    fn project(&mut self, input: NodeId, exprs: Vec<Arc<dyn PhysicalExpr>>, schema: SchemaRef) -> NodeId {
        let from = self.properties(input).clone();
        let columns: Vec<Option<usize>> = exprs.iter().map(watermark::as_column).collect();
        let key = from.key.as_ref().and_then(|key| {
            key.iter().map(|k| columns.iter().position(|c| *c == Some(*k))).collect::<Option<Vec<_>>>()
        });
        let watermarks =
            exprs.iter().enumerate().filter(|(_, e)| watermark::carries(e, &from.watermarks)).map(|(i, _)| i).collect();
        let properties = Properties { append_only: from.append_only, key, watermarks };
        self.add(Op::Project { exprs }, vec![input], schema, properties)
    }

    /// Brings columns whose Arrow type is not the one that their SQL type is stored in (nanoseconds, large strings) into that.
    fn store_types(&mut self, input: NodeId) -> Result<NodeId> {
        let schema = self.schema(input).clone();
        let stored: Vec<DataType> = schema.fields().iter().map(|f| SqlType::from_field(f).data_type()).collect();
        if schema.fields().iter().zip(&stored).all(|(f, s)| f.data_type() == s) {
            return Ok(input);
        }
        let (mut exprs, mut fields) = (Vec::new(), Vec::new());
        for (i, (field, stored)) in schema.fields().iter().zip(stored).enumerate() {
            let column: Arc<dyn PhysicalExpr> = Arc::new(Column::new(field.name(), i));
            exprs.push(match *field.data_type() == stored {
                true => column,
                false => Arc::new(CastExpr::new(column, stored.clone(), None)) as Arc<dyn PhysicalExpr>,
            });
            fields.push(field.as_ref().clone().with_data_type(stored));
        }
        let before = self.properties(input).clone();
        let node = self.project(input, exprs, Arc::new(Schema::new(fields)));
        // A cast between forms of one SQL type keeps what tells rows apart.
        self.nodes[node as usize].properties.key = before.key;
        Ok(node)
    }

    fn union(&mut self, inputs: &[Arc<LogicalPlan>], schema: &DFSchema) -> Result<NodeId> {
        let inputs = inputs.iter().map(|i| self.plan(i)).collect::<Result<Vec<_>>>()?;
        Ok(self.union_of(inputs, Arc::new(schema.as_arrow().clone())))
    }

    fn union_of(&mut self, inputs: Vec<NodeId>, schema: SchemaRef) -> NodeId {
        let watermarks: Option<BTreeSet<usize>> =
            inputs.iter().map(|i| self.properties(*i).watermarks.clone()).reduce(|a, b| &a & &b);
        let properties = Properties {
            append_only: inputs.iter().all(|i| self.properties(*i).append_only),
            key: None,
            watermarks: watermarks.unwrap_or_default(),
        };
        self.add(Op::Union, inputs, schema, properties)
    }

    fn values(&mut self, values: &Values) -> Result<NodeId> {
        let schema = Arc::new(values.schema.as_arrow().clone());
        let empty = DFSchema::empty();
        let one_row = one_row_batch();
        let rows = values
            .values
            .iter()
            .map(|row| {
                row.iter()
                    .map(|e| Ok(self.physical(e, &empty)?.evaluate(&one_row)?.into_array(1)?))
                    .collect::<Result<Vec<_>>>()
            })
            .map(|columns| Ok(RecordBatch::try_new(schema.clone(), columns?)?))
            .collect::<Result<Vec<_>>>()?;
        let batch = datafusion::arrow::compute::concat_batches(&schema, &rows)?;
        Ok(self.add_constant(batch))
    }

    fn constant(&mut self, schema: SchemaRef, rows: usize) -> Result<NodeId> {
        let batch = if schema.fields().is_empty() {
            let options = RecordBatchOptions::new().with_row_count(Some(rows));
            RecordBatch::try_new_with_options(schema, vec![], &options)?
        } else if rows == 0 {
            RecordBatch::new_empty(schema)
        } else {
            return Err(Error::internal("a row of an empty relation has columns"));
        };
        Ok(self.add_constant(batch))
    }

    fn add_constant(&mut self, batch: RecordBatch) -> NodeId {
        let schema = batch.schema();
        self.add(
            Op::Constant { batch },
            vec![],
            schema,
            Properties { append_only: true, key: None, watermarks: BTreeSet::new() },
        )
    }

    fn physical(&self, expr: &Expr, schema: &DFSchema) -> Result<Arc<dyn PhysicalExpr>> {
        if let Some(name) = first_subquery(expr)? {
            return Err(Error::unsupported(format!(
                "{name} here cannot be turned into a join, so it cannot be kept up to date"
            ))
            .with_hint("Write it as a join, or use it in the SELECT over the view."));
        }
        if let Some(name) = clock_call(expr)? {
            return Err(Error::unsupported(format!("{name}() cannot be used here in a view that is kept up to date"))
                .with_detail("Its value changes with every moment, so that the view would have to be computed anew with each.")
                .with_hint(
                    "In WHERE, compare a column with it: ts > now() - INTERVAL '1 hour'. The time at which a row is read is proctime().",
                ));
        }
        Ok(create_physical_expr(expr, schema, &self.props, &PhysicalPlanningContext::default())?)
    }

    /// Sends what has changed at intervals.
    fn pace(&mut self, output: NodeId, every: i64) {
        let (schema, properties) = (self.schema(output).clone(), self.properties(output).clone());
        let close = self.closing_time(output);
        // Of a row that is held back only the time is known by which it is not held any longer.
        let properties = Properties { watermarks: close.into_iter().collect(), ..properties };
        self.add(Op::Pace(Pace { every: Some(every), close }), vec![output], schema, properties);
    }

    /// On closing, what changes until it is final is held back until then.
    fn hold(&mut self, output: NodeId) -> NodeId {
        let (schema, properties) = (self.schema(output).clone(), self.properties(output).clone());
        match self.closing_time(output) {
            Some(close) if !properties.append_only => {
                self.closes = true;
                let watermarks = BTreeSet::from([close]);
                let properties = Properties { append_only: true, watermarks, ..properties };
                self.add(Op::Pace(Pace { every: None, close: Some(close) }), vec![output], schema, properties)
            }
            _ => output,
        }
    }

    /// A column of the output by whose watermark its rows are final.
    fn closing_time(&self, output: NodeId) -> Option<usize> {
        let schema = self.schema(output);
        let is_time = |c: &usize| matches!(schema.field(*c).data_type(), DataType::Timestamp(TimeUnit::Microsecond, _));
        watermark::tightest(schema, self.properties(output).watermarks.iter().copied().filter(is_time))
    }

    /// EMIT ON WINDOW CLOSE must mean something, and must not send what it would have to take back.
    fn check_closes(&self, output: NodeId) -> Result<()> {
        let leaves = |op: &Op| matches!(op, Op::Temporal(temporal) if temporal.keeps == Keeps::Above);
        if !self.properties(output).append_only && self.nodes.iter().any(|node| leaves(&node.op)) {
            return Err(Error::unsupported("EMIT ON WINDOW CLOSE: rows leave again as time passes").with_hint(
                "Leave out the condition on now(), or, if it is a source that lets its rows go, read one without ttl.",
            ));
        }
        if !self.closes {
            return Err(Error::unsupported(
                "EMIT ON WINDOW CLOSE needs a GROUP BY over a window column of a watermark, or a join in time",
            )
            .with_hint(
                "Declare WATERMARK FOR on the source, and GROUP BY window_start, window_end of TUMBLE, HOP, CUMULATE or SESSION over it.",
            ));
        }
        if !self.properties(output).append_only {
            return Err(Error::unsupported(
                "EMIT ON WINDOW CLOSE: a part of the query changes rows after they were sent",
            )
            .with_hint("Every GROUP BY in the query must include a window column."));
        }
        Ok(())
    }
}

fn one_row_batch() -> RecordBatch {
    let options = RecordBatchOptions::new().with_row_count(Some(1));
    RecordBatch::try_new_with_options(Arc::new(Schema::empty()), vec![], &options)
        .expect("a batch without columns has any number of rows")
}

/// What kind of subquery is in the expression, if any was left by the optimizer.
fn first_subquery(expr: &Expr) -> Result<Option<&'static str>> {
    let mut found = None;
    expr.apply(|e| {
        found = match e {
            Expr::ScalarSubquery(_) => Some("a scalar subquery"),
            Expr::InSubquery(_) => Some("IN (subquery)"),
            Expr::Exists(_) => Some("EXISTS (subquery)"),
            _ => None,
        };
        Ok(if found.is_some() { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })
    .map_err(|e| internal_datafusion_err!("{e}"))?;
    Ok(found)
}

/// Why `plan` cannot be kept, and what would work.
fn refuse(plan: &LogicalPlan) -> Error {
    let (what, hint) = match plan {
        LogicalPlan::Subquery(_) => (
            "a LATERAL subquery that is tied to its row by more than equal columns",
            "Write it as a JOIN with the whole condition, and GROUP BY the outer row.",
        ),
        LogicalPlan::RecursiveQuery(_) => {
            ("WITH RECURSIVE", "A recursive query has no bound on the work that one change makes; use it in SELECT.")
        }
        other => {
            return Error::unsupported(format!("{} cannot be kept up to date incrementally", other.display()));
        }
    };
    Error::unsupported(format!("{what} in a materialized view is not supported")).with_hint(hint)
}
