//! GROUP BY and DISTINCT: key and arguments become columns, rows of one key meet on one shard, groups keep state.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema};
use datafusion::logical_expr::expr::{AggregateFunction, AggregateFunctionParams, Sort};
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{Aggregate, Expr, LogicalPlan, Projection};
use datafusion::physical_expr::aggregate::{AggregateFunctionExpr, LoweredAggregateBuilder};
use tidemark_common::plan::{self, AggregateCall, AggregateStrategy, NodeId, Op, Properties, is_ordered_extreme};
use tidemark_common::{Error, Result};

use super::{Lowering, watermark};

impl Lowering {
    pub(super) fn distinct(&mut self, input: &Arc<LogicalPlan>) -> Result<NodeId> {
        let keys = input.schema().columns().into_iter().map(Expr::Column).collect();
        self.aggregate(&Aggregate::try_new(input.clone(), keys, vec![])?)
    }

    pub(super) fn aggregate(&mut self, aggregate: &Aggregate) -> Result<NodeId> {
        if let [Expr::GroupingSet(sets)] = aggregate.group_expr.as_slice() {
            return self.grouping_sets(aggregate, sets);
        }
        let source = self.plan(&aggregate.input)?;
        let mut arguments = Arguments::new(&aggregate.group_expr);
        let rewritten = aggregate.aggr_expr.iter().map(|e| arguments.rewrite(e)).collect::<Result<Vec<_>>>()?;
        let (projection, projected) = self.arguments(source, arguments, &aggregate.input)?;
        let calls = self.calls(aggregate, &rewritten, &projection.schema, 0)?;
        self.group(projected, aggregate.group_expr.len(), calls, aggregate)
    }

    /// Keys and arguments as columns.
    pub(super) fn arguments(
        &mut self,
        source: NodeId,
        arguments: Arguments,
        input: &Arc<LogicalPlan>,
    ) -> Result<(Projection, NodeId)> {
        let projection = Projection::try_new(arguments.columns, input.clone())?;
        let exprs = projection.expr.iter().map(|e| self.physical(e, input.schema())).collect::<Result<Vec<_>>>()?;
        let node = self.project(source, exprs, Arc::new(projection.schema.as_arrow().clone()));
        Ok((projection, node))
    }

    /// The calls over columns that `schema` names, of which the first `shift` are none of the arguments'.
    pub(super) fn calls(
        &self,
        aggregate: &Aggregate,
        rewritten: &[Rewritten],
        schema: &DFSchema,
        shift: usize,
    ) -> Result<Vec<AggregateCall>> {
        let results = aggregate.schema.fields().iter().skip(aggregate.schema.fields().len() - rewritten.len());
        let lower = |(call, field): (&Rewritten, &Arc<Field>)| call.lower(field.name(), schema, shift, &self.props);
        rewritten.iter().zip(results).map(lower).collect()
    }

    /// Groups rows by their first `group` columns.
    pub(super) fn group(
        &mut self,
        input: NodeId,
        group: usize,
        calls: Vec<AggregateCall>,
        aggregate: &Aggregate,
    ) -> Result<NodeId> {
        let properties = self.properties(input).clone();
        let close =
            watermark::tightest(self.schema(input), properties.watermarks.iter().copied().filter(|c| *c < group));
        let emit_on_close = self.emit_on_close && close.is_some();
        self.closes |= close.is_some();
        if strategy(&calls, true) == AggregateStrategy::Merge
            && let Some(sessions) = self.sessions(input, group, &calls, aggregate)?
        {
            return Ok(sessions);
        }
        let strategy = strategy(&calls, properties.append_only);
        if emit_on_close
            && strategy == AggregateStrategy::Merge
            && let Some(paned) = self.panes(input, group, &calls, aggregate)?
        {
            return Ok(paned);
        }
        let exchanged = self.exchange(input, (0..group).collect());
        // A group that is sent when one time is final may be long below the watermark of another; a window's times go together.
        let fields = self.schema(input).fields().clone();
        let keeps_watermark = |c: usize| !emit_on_close || close == Some(c) || watermark::is_of_window(&fields[c]);
        // A key is sent the first time it is seen and never taken back.
        let grows_only = (calls.is_empty() && properties.append_only) || emit_on_close;
        let output = Properties {
            append_only: grows_only,
            key: Some((0..group).collect()),
            watermarks: properties.watermarks.into_iter().filter(|c| *c < group && keeps_watermark(*c)).collect(),
        };
        let schema = self.aggregate_schema(exchanged, group, &calls, aggregate);
        let op = Op::Aggregate(plan::Aggregate { group, calls, strategy, close, emit_on_close, partial: false });
        Ok(self.add(op, vec![exchanged], schema, output))
    }

    pub(super) fn aggregate_schema(
        &self,
        input: NodeId,
        group: usize,
        calls: &[AggregateCall],
        aggregate: &Aggregate,
    ) -> Arc<Schema> {
        let key = self.schema(input).fields().iter().take(group).cloned();
        let logical = aggregate.schema.fields().iter().skip(aggregate.schema.fields().len() - calls.len());
        let outputs = calls.iter().zip(logical).map(|(c, l)| {
            let field = c.function.field();
            Arc::new(field.as_ref().clone().with_name(l.name()).with_nullable(l.is_nullable()))
        });
        Arc::new(Schema::new(key.chain(outputs).collect::<Vec<_>>()))
    }
}

/// Turns key, arguments, orderings and filters into columns of a projection. Constants stay where they are: some functions
/// (percentiles, string_agg's separator) must see them.
pub(super) struct Arguments {
    /// Group keys first.
    columns: Vec<Expr>,
}

/// An aggregate over columns of the projection.
pub(super) struct Rewritten {
    expr: Expr,
    filter: Option<usize>,
}

impl Arguments {
    pub(super) fn new(group: &[Expr]) -> Self {
        Self { columns: group.to_vec() }
    }

    pub(super) fn rewrite(&mut self, expr: &Expr) -> Result<Rewritten> {
        let call = match expr {
            Expr::AggregateFunction(call) => call,
            Expr::Alias(alias) => return self.rewrite(&alias.expr),
            other => return Err(Error::internal(format!("{other} is not an aggregate"))),
        };
        let p = &call.params;
        let args = p.args.iter().map(|a| self.column(a)).collect::<Result<Vec<_>>>()?;
        let order_by = p
            .order_by
            .iter()
            .map(|s| Ok(Sort { expr: self.column(&s.expr)?, ..s.clone() }))
            .collect::<Result<Vec<_>>>()?;
        let filter = p.filter.as_ref().map(|f| self.position(f)).transpose()?;
        let params = AggregateFunctionParams {
            args,
            distinct: p.distinct,
            filter: None,
            order_by,
            null_treatment: p.null_treatment,
        };
        Ok(Rewritten { expr: Expr::AggregateFunction(AggregateFunction { func: call.func.clone(), params }), filter })
    }

    fn column(&mut self, expr: &Expr) -> Result<Expr> {
        if is_constant(expr) {
            return Ok(expr.clone());
        }
        let position = self.position(expr)?;
        Ok(match &self.columns[position] {
            Expr::Column(column) => Expr::Column(column.clone()),
            other => Expr::Column(Column::new_unqualified(other.schema_name().to_string())),
        })
    }

    fn position(&mut self, expr: &Expr) -> Result<usize> {
        let bare = expr.clone().transform_up(|e| {
            Ok(match e {
                Expr::Alias(alias) => Transformed::yes(*alias.expr),
                other => Transformed::no(other),
            })
        })?;
        let same = |c: &Expr| *c == bare.data || matches!(c, Expr::Alias(a) if *a.expr == bare.data);
        if let Some(found) = self.columns.iter().position(same) {
            return Ok(found);
        }
        // A cast is called as what it casts: two of one column, to two types, need names of their own.
        let name = bare.data.schema_name().to_string();
        let is_taken =
            !matches!(bare.data, Expr::Column(_)) && self.columns.iter().any(|c| c.schema_name().to_string() == name);
        let place = self.columns.len();
        self.columns.push(if is_taken { bare.data.alias(format!("__argument_{place}")) } else { bare.data });
        Ok(place)
    }
}

fn is_constant(expr: &Expr) -> bool {
    match expr {
        Expr::Literal(..) => true,
        Expr::Alias(alias) => is_constant(&alias.expr),
        Expr::Cast(cast) => is_constant(&cast.expr),
        _ => false,
    }
}

impl Rewritten {
    fn lower(
        &self,
        name: &str,
        schema: &DFSchema,
        shift: usize,
        props: &datafusion::execution::context::ExecutionProps,
    ) -> Result<AggregateCall> {
        let planning = PhysicalPlanningContext::default();
        let lowered = LoweredAggregateBuilder::new(&self.expr, schema, schema.as_arrow(), props, &planning)
            .with_name(name)
            .build()?;
        Ok(AggregateCall { function: lowered.aggregate, filter: self.filter.map(|column| column + shift) })
    }
}

fn strategy(calls: &[AggregateCall], append_only: bool) -> AggregateStrategy {
    let ordered = calls.iter().any(|c| !c.function.order_bys().is_empty());
    if append_only && !ordered {
        AggregateStrategy::Merge
    } else if calls.iter().all(|c| is_linear(&c.function)) {
        AggregateStrategy::Linear
    } else {
        AggregateStrategy::Recompute
    }
}

/// Counts, and sums that are exact, can be taken back by subtracting; after a smallest or greatest value comes the next one.
fn is_linear(function: &AggregateFunctionExpr) -> bool {
    if is_ordered_extreme(function) {
        return true;
    }
    let exact = matches!(
        function.field().data_type(),
        DataType::Int64 | DataType::UInt64 | DataType::Decimal128(..) | DataType::Decimal256(..)
    );
    !function.is_distinct()
        && function.order_bys().is_empty()
        && match function.fun().name() {
            "count" => function.expressions().len() == 1,
            // An average of floats is a float.
            "sum" | "avg" => exact,
            _ => false,
        }
}
