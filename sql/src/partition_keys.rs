//! `OVER (PARTITION BY a + 1, a)` as `OVER (PARTITION BY a)`: what the other keys decide splits nothing further.
//!
//! DataFusion finds no order for such keys when one input order serves both, and fails as the query runs.

use std::sync::Arc;

use datafusion::common::Column;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::Result as DfResult;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan};

pub(crate) fn rewrite(plan: LogicalPlan) -> DfResult<LogicalPlan> {
    let rewritten = plan.transform_up_with_subqueries(|node| {
        let LogicalPlan::Window(window) = &node else { return Ok(Transformed::no(node)) };
        let schema = Arc::clone(window.input.schema());
        let names = NamePreserver::new(&node);
        node.map_expressions(|expr| {
            let name = names.save(&expr);
            let expr = expr.transform_down(|e| {
                let Expr::WindowFunction(mut window) = e else { return Ok(Transformed::no(e)) };
                let keys = &mut window.params.partition_by;
                // Of a float 0 and -0 are one key, and 1 / x tells them apart.
                let columns: Vec<Column> = keys.iter().filter_map(|key| key.try_as_col().cloned()).collect();
                let known = |column: &Column| {
                    let data_type = Expr::Column(column.clone()).get_type(&schema);
                    columns.contains(column) && !data_type.is_ok_and(|t| t.is_floating())
                };
                let decided = |key: &Expr| {
                    let named = key.column_refs();
                    !key.is_volatile() && !key.contains_outer() && !named.is_empty() && named.into_iter().all(known)
                };
                keys.retain(|key| matches!(key, Expr::Column(_)) || !decided(key));
                Ok(Transformed::yes(Expr::WindowFunction(window)))
            })?;
            Ok(expr.update_data(|expr| name.restore(expr)))
        })
    });
    Ok(rewritten?.data)
}
