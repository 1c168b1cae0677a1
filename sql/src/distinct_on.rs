//! DISTINCT ON: the first row of each partition. DataFusion would make an aggregate of each column of it, which of rows that
//! are equal in ORDER BY need not take the same one; and a view keeps a first row, but all rows of an aggregate.
//!
//! ```text
//!   DistinctOn (a) b, c ORDER BY a, d      Projection b, c
//!     input                          ──▶     Sort a
//!                                              Filter row_number = 1
//!                                                Window row_number() PARTITION BY a ORDER BY d
//!                                                  input
//! ```

use datafusion::common::tree_node::Transformed;
use datafusion::error::Result as DfResult;
use datafusion::functions_window::expr_fn::row_number;
use datafusion::logical_expr::expr_rewriter::{normalize_cols, normalize_sorts};
use datafusion::logical_expr::{
    Distinct, DistinctOn, Expr, ExprFunctionExt, LogicalPlan, LogicalPlanBuilder, WindowFrame, lit,
};

/// Rewrites every DISTINCT ON in the plan, subqueries included.
pub fn rewrite(plan: LogicalPlan) -> DfResult<LogicalPlan> {
    Ok(plan
        .transform_up_with_subqueries(|plan| match plan {
            LogicalPlan::Distinct(Distinct::On(distinct)) => Ok(Transformed::yes(first_rows(distinct)?)),
            other => Ok(Transformed::no(other)),
        })?
        .data)
}

fn first_rows(distinct: DistinctOn) -> DfResult<LogicalPlan> {
    let DistinctOn { on_expr, select_expr, sort_expr, input, schema } = distinct;
    let on = normalize_cols(on_expr, &input)?;
    let select = normalize_cols(select_expr, &input)?;
    let mut order = normalize_sorts(sort_expr.unwrap_or_default(), &input)?;
    // Without an order there is no frame of values; a number has none anyway.
    let frame = WindowFrame::new(None);
    let number = row_number().partition_by(on.clone()).order_by(order.clone()).window_frame(frame).build()?;
    let name = number.schema_name().to_string();
    let number_column = Expr::Column(datafusion::common::Column::new_unqualified(name));
    let numbered = LogicalPlanBuilder::from(input).window([number])?.filter(number_column.eq(lit(1u64)))?;
    // A LIMIT behind it counts in the order of ON.
    order.truncate(on.len());
    let sorted = if order.is_empty() { numbered } else { numbered.sort(order)? };
    let named = select.into_iter().zip(schema.iter()).map(|(expr, (qualifier, field))| match &expr {
        Expr::Column(column) if column.name == *field.name() && column.relation.as_ref() == qualifier => expr,
        _ => expr.unalias().alias_qualified(qualifier.cloned(), field.name()),
    });
    sorted.project(named.collect::<Vec<_>>())?.build()
}
