//! DataFusion's optimizer rules, two of them kept from plans that they do not understand.

use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::Result as DfResult;
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
