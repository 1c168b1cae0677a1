//! DataFusion's optimizer rules, some of them kept from plans that they do not understand.

use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::FunctionalDependencies;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::Result as DfResult;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{Aggregate, Expr, ExprSchemable, LogicalPlan};
use datafusion::optimizer::optimizer::ApplyOrder;
use datafusion::optimizer::single_distinct_to_groupby::SingleDistinctToGroupBy;
use datafusion::optimizer::{Optimizer, OptimizerConfig, OptimizerRule};

type Rule = Arc<dyn OptimizerRule + Send + Sync>;

/// The rules of all sessions, in their order.
pub fn rules() -> Vec<Rule> {
    let single_distinct = SingleDistinctToGroupBy::new();
    let guarded = |rule: Rule| -> Rule {
        match rule.name() {
            name if name == single_distinct.name() => Arc::new(SingleDistinct(SingleDistinctToGroupBy::new())),
            "eliminate_join" => Arc::new(EliminateJoin(rule)),
            "eliminate_duplicated_expr" | "optimize_projections" => Arc::new(Dependencies(rule)),
            "push_down_filter" => Arc::new(PushDownFilter(rule)),
            _ => rule,
        }
    };
    Optimizer::new().rules.into_iter().map(guarded).collect()
}

/// A join of which nothing is used goes; that a lateral subquery uses it shows only once that has become a join itself.
#[derive(Debug)]
struct EliminateJoin(Rule);

impl OptimizerRule for EliminateJoin {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        self.0.apply_order()
    }

    fn rewrite(&self, plan: LogicalPlan, config: &dyn OptimizerConfig) -> DfResult<Transformed<LogicalPlan>> {
        let is_lateral = |node: &LogicalPlan| Ok(matches!(node, LogicalPlan::Subquery(_)));
        match plan.exists(is_lateral)? {
            true => Ok(Transformed::no(plan)),
            false => self.0.rewrite(plan, config),
        }
    }
}

/// A key of a row is none of what becomes of its lists, `Unnest` says otherwise: so ORDER BY and GROUP BY would lose columns.
#[derive(Debug)]
struct Dependencies(Rule);

impl OptimizerRule for Dependencies {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        self.0.apply_order()
    }

    fn supports_rewrite(&self) -> bool {
        true
    }

    fn rewrite(&self, plan: LogicalPlan, config: &dyn OptimizerConfig) -> DfResult<Transformed<LogicalPlan>> {
        if !plan.exists(|node| Ok(matches!(node, LogicalPlan::Unnest(_))))? {
            return self.0.rewrite(plan, config);
        }
        let plan = plan.transform_up(|node| match node {
            LogicalPlan::Unnest(mut unnest) => {
                let schema = unnest.schema.as_ref().clone();
                unnest.schema = Arc::new(schema.with_functional_dependencies(FunctionalDependencies::empty())?);
                Ok(Transformed::yes(LogicalPlan::Unnest(unnest)))
            }
            other => Ok(Transformed::yes(other.recompute_schema()?)),
        })?;
        self.0.rewrite(plan.data, config)
    }
}

/// A condition on no column goes below no aggregation that has a row without any input.
#[derive(Debug)]
struct PushDownFilter(Rule);

impl OptimizerRule for PushDownFilter {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        self.0.apply_order()
    }

    fn supports_rewrite(&self) -> bool {
        true
    }

    fn rewrite(&self, plan: LogicalPlan, config: &dyn OptimizerConfig) -> DfResult<Transformed<LogicalPlan>> {
        match filters_whole(&plan) {
            true => Ok(Transformed::no(plan)),
            false => self.0.rewrite(plan, config),
        }
    }
}

/// Filters, one of which has a condition on no column, over an aggregation of all rows.
fn filters_whole(plan: &LogicalPlan) -> bool {
    let (mut node, mut is_constant) = (plan, false);
    while let LogicalPlan::Filter(filter) = node {
        is_constant |= split_conjunction(&filter.predicate).iter().any(|e| e.column_refs().is_empty());
        node = &filter.input;
    }
    let LogicalPlan::Aggregate(aggregate) = node else { return false };
    is_constant && aggregate.group_expr.iter().all(|e| matches!(e, Expr::GroupingSet(_)))
}

/// `count(DISTINCT a), sum(b)` as an aggregation of an aggregation, except where that would give the sum another type (the
/// sum of integers is a bigint, the sum of those a numeric), or lose the order of JSON's elements.
#[derive(Debug)]
struct SingleDistinct(SingleDistinctToGroupBy);

impl OptimizerRule for SingleDistinct {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        self.0.apply_order()
    }

    fn supports_rewrite(&self) -> bool {
        true
    }

    fn rewrite(&self, plan: LogicalPlan, config: &dyn OptimizerConfig) -> DfResult<Transformed<LogicalPlan>> {
        match &plan {
            LogicalPlan::Aggregate(aggregate) if cannot_be_nested(aggregate)? => Ok(Transformed::no(plan)),
            _ => self.0.rewrite(plan, config),
        }
    }
}

fn cannot_be_nested(aggregate: &Aggregate) -> DfResult<bool> {
    for expr in &aggregate.aggr_expr {
        let Expr::AggregateFunction(call) = expr else { continue };
        let sums_integers = call.func.name() == "sum" && !call.params.distinct;
        if call.func.name().starts_with("json")
            || sums_integers && expr.get_type(aggregate.input.schema())? == DataType::Int64
        {
            return Ok(true);
        }
    }
    Ok(false)
}
