//! GROUP BY and DISTINCT: key and arguments become columns, rows of one key meet on one shard, groups keep state.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Schema};
use datafusion::common::Column;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::logical_expr::expr::{AggregateFunction, AggregateFunctionParams, Sort};
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{Aggregate, Expr, LogicalPlan, Projection};
use datafusion::physical_expr::aggregate::{AggregateFunctionExpr, LoweredAggregateBuilder};
use tidemark_common::plan::{self, AggregateCall, AggregateStrategy, NodeId, Op, Properties};
use tidemark_common::{Error, Result};

use super::Lowering;

impl Lowering {
    pub(super) fn distinct(&mut self, input: &Arc<LogicalPlan>) -> Result<NodeId> {
        let keys = input.schema().columns().into_iter().map(Expr::Column).collect();
        self.aggregate(&Aggregate::try_new(input.clone(), keys, vec![])?)
    }

    pub(super) fn aggregate(&mut self, aggregate: &Aggregate) -> Result<NodeId> {
        if matches!(aggregate.group_expr.as_slice(), [Expr::GroupingSet(_)]) {
            return Err(Error::unsupported(
                "GROUPING SETS, ROLLUP and CUBE in a materialized view are not supported yet",
            )
            .with_hint("Make one view for each grouping, or UNION ALL of several GROUP BYs."));
        }
        let source = self.plan(&aggregate.input)?;
        let mut arguments = Arguments::new(&aggregate.group_expr);
        let rewritten = aggregate.aggr_expr.iter().map(|e| arguments.rewrite(e)).collect::<Result<Vec<_>>>()?;

        let projection = Projection::try_new(arguments.columns, aggregate.input.clone())?;
        let exprs =
            projection.expr.iter().map(|e| self.physical(e, aggregate.input.schema())).collect::<Result<Vec<_>>>()?;
        let projected = self.project(source, exprs, Arc::new(projection.schema.as_arrow().clone()));

        let group = aggregate.group_expr.len();
        let (schema, properties) = (self.schema(projected).clone(), self.properties(projected).clone());
        let exchanged =
            self.add(Op::Exchange { keys: (0..group).collect() }, vec![projected], schema, properties.clone());

        let names = aggregate.schema.fields().iter().skip(group).map(|f| f.name().as_str());
        let calls = rewritten
            .iter()
            .zip(names)
            .map(|(call, name)| call.lower(name, &projection, &self.props))
            .collect::<Result<Vec<_>>>()?;
        let close = properties.watermarks.iter().copied().find(|c| *c < group);
        let emit_on_close = self.emit_on_close && close.is_some();
        self.closes |= close.is_some();
        let strategy = strategy(&calls, properties.append_only);
        // A key is sent the first time it is seen and never taken back.
        let grows_only = (calls.is_empty() && properties.append_only) || emit_on_close;
        let output = Properties {
            append_only: grows_only,
            key: Some((0..group).collect()),
            watermarks: properties.watermarks.into_iter().filter(|c| *c < group).collect(),
        };
        let schema = self.aggregate_schema(exchanged, group, &calls, aggregate);
        let op = Op::Aggregate(plan::Aggregate { group, calls, strategy, close, emit_on_close });
        Ok(self.add(op, vec![exchanged], schema, output))
    }

    fn aggregate_schema(
        &self,
        input: NodeId,
        group: usize,
        calls: &[AggregateCall],
        aggregate: &Aggregate,
    ) -> Arc<Schema> {
        let key = self.schema(input).fields().iter().take(group).cloned();
        let logical = aggregate.schema.fields().iter().skip(group);
        let outputs = calls.iter().zip(logical).map(|(c, l)| {
            let field = c.function.field();
            Arc::new(field.as_ref().clone().with_name(l.name()).with_nullable(l.is_nullable()))
        });
        Arc::new(Schema::new(key.chain(outputs).collect::<Vec<_>>()))
    }
}

/// Turns key, arguments, orderings and filters into columns of a projection. Constants stay where they are: some functions
/// (percentiles, string_agg's separator) must see them.
struct Arguments {
    /// Group keys first.
    columns: Vec<Expr>,
}

/// An aggregate over columns of the projection.
struct Rewritten {
    expr: Expr,
    filter: Option<usize>,
}

impl Arguments {
    fn new(group: &[Expr]) -> Self {
        Self { columns: group.to_vec() }
    }

    fn rewrite(&mut self, expr: &Expr) -> Result<Rewritten> {
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
        self.columns.push(bare.data);
        Ok(self.columns.len() - 1)
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
        projection: &Projection,
        props: &datafusion::execution::context::ExecutionProps,
    ) -> Result<AggregateCall> {
        let planning = PhysicalPlanningContext::default();
        let schema = projection.schema.as_arrow();
        let lowered = LoweredAggregateBuilder::new(&self.expr, &projection.schema, schema, props, &planning)
            .with_name(name)
            .build()?;
        Ok(AggregateCall { function: lowered.aggregate, filter: self.filter })
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

/// Counts, and sums that are exact, can be taken back by subtracting.
fn is_linear(function: &AggregateFunctionExpr) -> bool {
    let exact = matches!(
        function.field().data_type(),
        DataType::Int64 | DataType::UInt64 | DataType::Decimal128(..) | DataType::Decimal256(..)
    );
    !function.is_distinct()
        && function.order_bys().is_empty()
        && match function.fun().name() {
            "count" => function.expressions().len() == 1,
            "sum" => exact,
            _ => false,
        }
}
