//! Aggregate functions that PostgreSQL has and DataFusion has not, or with other types.
//!
//! ```text
//!   sum, avg ─▶ integers and numerics: exact (sum.rs, exact.rs);  anything else: DataFusion's
//!   json_agg, json_object_agg ─▶ array_agg's accumulators, and its lists as JSON (json.rs)
//!   string_agg ─▶ DataFusion's, in any number of orders (string_agg.rs)
//!   mode() WITHIN GROUP (ORDER BY x) ─▶ how often each value is there (mode.rs)
//! ```
//!
//! They are ordinary `AggregateUDF`s, so the engine runs them in views as it does all others.

mod exact;
pub(super) mod integers;
mod json;
mod mode;
mod string_agg;
mod sum;

pub(super) use json::in_zone as json_in_zone;

use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::tree_node::Transformed;
use datafusion::error::Result as DfResult;
use datafusion::functions_aggregate::variance::var_samp_udaf;
use datafusion::logical_expr::{Aggregate, AggregateUDF, Expr, ExprSchemable, LogicalPlan};
use datafusion::optimizer::optimizer::ApplyOrder;
use datafusion::optimizer::single_distinct_to_groupby::SingleDistinctToGroupBy;
use datafusion::optimizer::{Optimizer, OptimizerConfig, OptimizerRule};

pub(super) fn functions() -> Vec<AggregateUDF> {
    let named = [var_samp_udaf().as_ref().clone().with_aliases(["variance"])];
    let own = [sum::functions(), json::functions(), mode::functions(), string_agg::functions()];
    own.into_iter().flatten().chain(named).collect()
}

/// DataFusion's rules; the one that takes a sum of sums for the sum knows when that is not so.
pub fn optimizer_rules() -> Vec<Arc<dyn OptimizerRule + Send + Sync>> {
    let single_distinct = SingleDistinctToGroupBy::new();
    let mut rules = Optimizer::new().rules;
    for rule in &mut rules {
        if rule.name() == single_distinct.name() {
            *rule = Arc::new(SingleDistinct(SingleDistinctToGroupBy::new()));
        }
    }
    rules
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
