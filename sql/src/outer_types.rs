//! What a subquery takes a column of the row outside for, when that column has got another type since.
//!
//! ```text
//!   SELECT .. FROM (SELECT 0 AS x) AS a WHERE EXISTS (SELECT .. WHERE y = a.x)
//!                          int, planned as bigint first                 ^ still bigint: y = x would be compared as that
//! ```
//!
//! DataFusion writes the type into each mention: [`settle`] sets them right, from the outside in.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::datatypes::FieldRef;
use datafusion::common::Column;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::error::Result as DfResult;
use datafusion::logical_expr::{Expr, LogicalPlan, Subquery};

use crate::set_operations;

/// Columns of rows outside.
type Outside = HashMap<Column, FieldRef>;

pub(crate) fn settle(plan: LogicalPlan) -> DfResult<LogicalPlan> {
    if !has_outer(&plan)? {
        return Ok(plan);
    }
    inside(plan, &Outside::new())
}

fn has_outer(plan: &LogicalPlan) -> DfResult<bool> {
    let mut any = false;
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            any |= expr.contains_outer();
            Ok(TreeNodeRecursion::Continue)
        })?;
        Ok(if any { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(any)
}

/// A query that sees `outside`.
fn inside(plan: LogicalPlan, outside: &Outside) -> DfResult<LogicalPlan> {
    Ok(plan.transform_up(|node| node_of(node, outside))?.data)
}

fn node_of(node: LogicalPlan, outside: &Outside) -> DfResult<Transformed<LogicalPlan>> {
    if matches!(node, LogicalPlan::RecursiveQuery(_) | LogicalPlan::Extension(_)) {
        return Ok(Transformed::no(node));
    }
    let node = lateral(node, outside)?;
    let mut seen = outside.clone();
    for input in node.inputs() {
        seen.extend(columns_of(input));
    }
    let settled = node.map_expressions(|expr| {
        expr.transform_down(|e| {
            Ok(match e {
                Expr::OuterReferenceColumn(field, column) => {
                    let field = outside.get(&column).cloned().unwrap_or(field);
                    Transformed::yes(Expr::OuterReferenceColumn(field, column))
                }
                Expr::ScalarSubquery(query) => Transformed::yes(Expr::ScalarSubquery(subquery(query, &seen)?)),
                Expr::Exists(mut exists) => {
                    exists.subquery = subquery(exists.subquery, &seen)?;
                    Transformed::yes(Expr::Exists(exists))
                }
                Expr::InSubquery(mut membership) => {
                    membership.subquery = subquery(membership.subquery, &seen)?;
                    Transformed::yes(Expr::InSubquery(membership))
                }
                Expr::SetComparison(mut comparison) => {
                    comparison.subquery = subquery(comparison.subquery, &seen)?;
                    Transformed::yes(Expr::SetComparison(comparison))
                }
                other => Transformed::no(other),
            })
        })
    })?;
    Ok(Transformed::yes(match settled.data {
        LogicalPlan::Union(union) => set_operations::union(union.inputs)?,
        other => other.recompute_schema()?,
    }))
}

/// The right side of a LATERAL join sees the left one.
fn lateral(node: LogicalPlan, outside: &Outside) -> DfResult<LogicalPlan> {
    let LogicalPlan::Join(mut join) = node else { return Ok(node) };
    let mut seen = outside.clone();
    seen.extend(columns_of(&join.left));
    let right = join.right.as_ref().clone().transform_down(|node| {
        let LogicalPlan::Subquery(query) = node else { return Ok(Transformed::no(node)) };
        let settled = LogicalPlan::Subquery(subquery(query, &seen)?);
        Ok(Transformed::new(settled, true, TreeNodeRecursion::Jump))
    })?;
    if right.transformed {
        join.right = Arc::new(right.data.transform_up(|node| node.recompute_schema().map(Transformed::yes))?.data);
    }
    Ok(LogicalPlan::Join(join))
}

fn subquery(query: Subquery, seen: &Outside) -> DfResult<Subquery> {
    let plan = inside(query.subquery.as_ref().clone(), seen)?;
    let outer_ref_columns = plan.all_out_ref_exprs();
    Ok(Subquery { subquery: Arc::new(plan), outer_ref_columns, spans: query.spans })
}

fn columns_of(plan: &LogicalPlan) -> impl Iterator<Item = (Column, FieldRef)> + '_ {
    plan.schema().iter().map(|(relation, field)| (Column::new(relation.cloned(), field.name()), Arc::clone(field)))
}
