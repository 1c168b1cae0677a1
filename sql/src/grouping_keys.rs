//! Keys of GROUPING SETS, ROLLUP and CUBE that are expressions, as columns of the input.
//!
//! ```text
//!   Aggregate ROLLUP (a + 1)         Aggregate ROLLUP ("a + 1")
//!     t                       ──▶      Projection  a + 1 AS "a + 1", t.*
//!                                        t
//! ```
//!
//! What stands above names a key by its expression's text: as a column it keeps that name, whatever becomes of the expression.

use std::sync::Arc;

use datafusion::common::Column;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::error::Result as DfResult;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{Aggregate, Expr, GroupingSet, LogicalPlan, LogicalPlanBuilder};

pub(crate) fn rewrite(plan: LogicalPlan) -> DfResult<LogicalPlan> {
    Ok(plan.transform_up_with_subqueries(node_of)?.data)
}

fn node_of(node: LogicalPlan) -> DfResult<Transformed<LogicalPlan>> {
    let LogicalPlan::Aggregate(aggregate) = &node else { return Ok(Transformed::no(node)) };
    let [Expr::GroupingSet(sets)] = aggregate.group_expr.as_slice() else { return Ok(Transformed::no(node)) };
    let keys = sets.distinct_expr();
    let made: Vec<Expr> = keys.into_iter().filter(|key| !matches!(key, Expr::Column(_))).cloned().collect();
    if made.is_empty() {
        return Ok(Transformed::no(node));
    }
    let columns = aggregate.input.schema().columns().into_iter().map(Expr::Column);
    let named = made.iter().map(|key| key.clone().alias(key.schema_name().to_string()));
    let input = LogicalPlanBuilder::from(aggregate.input.as_ref().clone()).project(columns.chain(named))?.build()?;
    let as_columns = |keys: &Vec<Expr>| keys.iter().map(|key| as_column(key, &made)).collect::<Vec<_>>();
    let sets = match sets {
        GroupingSet::Rollup(keys) => GroupingSet::Rollup(as_columns(keys)),
        GroupingSet::Cube(keys) => GroupingSet::Cube(as_columns(keys)),
        GroupingSet::GroupingSets(sets) => GroupingSet::GroupingSets(sets.iter().map(as_columns).collect()),
    };
    let names = NamePreserver::new(&node);
    let calls = aggregate.aggr_expr.iter().map(|call| {
        let name = names.save(call);
        Ok(name.restore(grouping(call.clone(), &made)?))
    });
    let calls = calls.collect::<DfResult<Vec<_>>>()?;
    let grouped = Aggregate::try_new(Arc::new(input), vec![Expr::GroupingSet(sets)], calls)?;
    Ok(Transformed::yes(LogicalPlan::Aggregate(grouped)))
}

fn as_column(key: &Expr, made: &[Expr]) -> Expr {
    match made.contains(key) {
        true => Expr::Column(Column::new_unqualified(key.schema_name().to_string())),
        false => key.clone(),
    }
}

/// The arguments of grouping() are keys.
fn grouping(call: Expr, made: &[Expr]) -> DfResult<Expr> {
    let named = call.transform_down(|e| match e {
        Expr::AggregateFunction(mut f) if f.func.name() == "grouping" => {
            f.params.args = f.params.args.iter().map(|key| as_column(key, made)).collect();
            Ok(Transformed::new(Expr::AggregateFunction(f), true, TreeNodeRecursion::Jump))
        }
        other => Ok(Transformed::no(other)),
    });
    Ok(named?.data)
}
