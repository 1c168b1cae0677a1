//! DataFusion's optimizer rules, some of them kept from plans that they do not understand, and one of ours.

use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::FunctionalDependencies;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::Result as DfResult;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{Aggregate, Expr, ExprSchemable, LogicalPlan};
use datafusion::optimizer::optimizer::ApplyOrder;
use datafusion::optimizer::{Optimizer, OptimizerConfig, OptimizerRule};

use crate::date_bounds::DateBounds;

type Rule = Arc<dyn OptimizerRule + Send + Sync>;

/// The rules of all sessions, in their order.
pub fn rules() -> Vec<Rule> {
    let guarded = |rule: Rule| -> Rule {
        let guard = match rule.name() {
            "single_distinct_aggregation_to_group_by" => single_distinct,
            "eliminate_join" => without_lateral,
            "eliminate_duplicated_expr" | "optimize_projections" => without_keys_of_lists,
            "push_down_filter" => not_whole,
            _ => return rule,
        };
        Arc::new(Guarded { rule, guard })
    };
    let then = |rule: Rule| -> Vec<Rule> {
        match rule.name() {
            "simplify_expressions" => vec![Arc::new(DateBounds), rule, Arc::new(DateBounds)],
            _ => vec![guarded(rule)],
        }
    };
    Optimizer::new().rules.into_iter().flat_map(then).collect()
}

/// A rule that gets plans from its guard.
#[derive(Debug)]
struct Guarded {
    rule: Rule,
    guard: fn(LogicalPlan) -> DfResult<Guard>,
}

/// What becomes of a plan.
enum Guard {
    /// The rule is applied to it.
    Let(LogicalPlan),
    /// It stays as it is.
    Keep(LogicalPlan),
}

impl Guard {
    fn keep_if(keeps: bool, plan: LogicalPlan) -> DfResult<Self> {
        Ok(if keeps { Guard::Keep(plan) } else { Guard::Let(plan) })
    }
}

impl OptimizerRule for Guarded {
    fn name(&self) -> &str {
        self.rule.name()
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        self.rule.apply_order()
    }

    fn rewrite(&self, plan: LogicalPlan, config: &dyn OptimizerConfig) -> DfResult<Transformed<LogicalPlan>> {
        match (self.guard)(plan)? {
            Guard::Let(plan) => self.rule.rewrite(plan, config),
            Guard::Keep(plan) => Ok(Transformed::no(plan)),
        }
    }
}

/// A join of which nothing is used goes; that a lateral subquery uses it shows only once that has become a join itself.
fn without_lateral(plan: LogicalPlan) -> DfResult<Guard> {
    Guard::keep_if(plan.exists(|node| Ok(matches!(node, LogicalPlan::Subquery(_))))?, plan)
}

/// A key of a row is none of what becomes of its lists, `Unnest` says otherwise: so ORDER BY and GROUP BY would lose columns.
fn without_keys_of_lists(plan: LogicalPlan) -> DfResult<Guard> {
    if !plan.exists(|node| Ok(matches!(node, LogicalPlan::Unnest(_))))? {
        return Ok(Guard::Let(plan));
    }
    let plan = plan.transform_up(|node| match node {
        LogicalPlan::Unnest(mut unnest) => {
            let schema = unnest.schema.as_ref().clone();
            unnest.schema = Arc::new(schema.with_functional_dependencies(FunctionalDependencies::empty())?);
            Ok(Transformed::yes(LogicalPlan::Unnest(unnest)))
        }
        other => Ok(Transformed::yes(other.recompute_schema()?)),
    })?;
    Ok(Guard::Let(plan.data))
}

/// A condition on no column goes below no aggregation that has a row without any input.
fn not_whole(plan: LogicalPlan) -> DfResult<Guard> {
    Guard::keep_if(filters_whole(&plan), plan)
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
fn single_distinct(plan: LogicalPlan) -> DfResult<Guard> {
    let keeps = match &plan {
        LogicalPlan::Aggregate(aggregate) => cannot_be_nested(aggregate)?,
        _ => false,
    };
    Guard::keep_if(keeps, plan)
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
