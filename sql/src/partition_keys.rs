//! Keys of `OVER (PARTITION BY ..)` as DataFusion can order them: where it has several, it fails, as the query runs, if one is
//! computed of columns that another one or a join's condition fixes.
//!
//! ```text
//!   OVER (PARTITION BY a + 1, a)    ──▶  OVER (PARTITION BY a)         what the other keys decide splits nothing further
//!   OVER (PARTITION BY a + b, c)    ──▶  OVER (PARTITION BY key, c)    over a projection that has a + b as key
//! ```

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema};
use datafusion::error::Result as DfResult;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder};

pub(crate) fn rewrite(plan: LogicalPlan) -> DfResult<LogicalPlan> {
    Ok(plan.transform_up_with_subqueries(window)?.data)
}

fn window(node: LogicalPlan) -> DfResult<Transformed<LogicalPlan>> {
    let LogicalPlan::Window(window) = &node else { return Ok(Transformed::no(node)) };
    let input = Arc::clone(&window.input);
    let columns = node.schema().columns();
    let names = NamePreserver::new(&node);
    let mut computed = Vec::new();
    let rewritten = node.map_expressions(|expr| {
        let name = names.save(&expr);
        let expr = expr.transform_down(|e| {
            let Expr::WindowFunction(mut window) = e else { return Ok(Transformed::no(e)) };
            let keys = &mut window.params.partition_by;
            drop_decided(keys, input.schema());
            if keys.len() > 1 {
                keys.iter_mut().filter(|key| is_computed(key)).for_each(|key| name_key(key, &mut computed));
            }
            Ok(Transformed::yes(Expr::WindowFunction(window)))
        })?;
        Ok(expr.update_data(|expr| name.restore(expr)))
    })?;
    let LogicalPlan::Window(window) = &rewritten.data else { return Ok(rewritten) };
    if computed.is_empty() {
        return Ok(rewritten);
    }
    let of_input = input.schema().columns().into_iter().map(Expr::Column);
    let with_keys = LogicalPlanBuilder::from(input).project(of_input.chain(computed))?;
    let plan = with_keys.window(window.window_expr.clone())?.project(columns.into_iter().map(Expr::Column))?.build()?;
    Ok(Transformed::yes(plan))
}

/// Leaves out keys that others decide.
fn drop_decided(keys: &mut Vec<Expr>, schema: &DFSchema) {
    // Of a float 0 and -0 are one key, and 1 / x tells them apart.
    let columns: Vec<Column> = keys.iter().filter_map(|key| key.try_as_col().cloned()).collect();
    let known = |column: &Column| {
        let data_type = Expr::Column(column.clone()).get_type(schema);
        columns.contains(column) && !data_type.is_ok_and(|t| t.is_floating())
    };
    let decided = |key: &Expr| {
        let named = key.column_refs();
        !key.is_volatile() && !key.contains_outer() && !named.is_empty() && named.into_iter().all(known)
    };
    keys.retain(|key| matches!(key, Expr::Column(_)) || !decided(key));
}

fn is_computed(key: &Expr) -> bool {
    !matches!(key, Expr::Column(_)) && !key.is_volatile() && !key.contains_outer() && !key.column_refs().is_empty()
}

/// Puts the name of a column in the place of a key, and the key among those that are computed before.
fn name_key(key: &mut Expr, computed: &mut Vec<Expr>) {
    let name = format!("__partition_key_{}", computed.len());
    computed.push(key.clone().alias(&name));
    *key = Expr::Column(Column::new_unqualified(name));
}
