//! LATERAL of what has no table of its own, as columns beside those of the table before it.
//!
//! ```text
//!   Join                                        Projection: t.*, u.x
//!     t                              ──▶          Unnest: x
//!     u: Unnest: x                                  Projection: t.*, t.xs AS x
//!          Projection: outer(t.xs) AS x               t
//!            (one empty row)
//! ```
//!
//! DataFusion plans such a join and then cannot run it.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, JoinType, TableReference};
use datafusion::error::Result as DfResult;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, Projection, Unnest};
use datafusion::scalar::ScalarValue;

/// Rewrites every such join in the plan, subqueries included.
pub fn rewrite(plan: LogicalPlan) -> DfResult<LogicalPlan> {
    Ok(plan.transform_up_with_subqueries(join)?.data)
}

fn join(plan: LogicalPlan) -> DfResult<Transformed<LogicalPlan>> {
    let LogicalPlan::Join(join) = &plan else { return Ok(Transformed::no(plan)) };
    if !join.on.is_empty() || !refers_outside(&join.right)? {
        return Ok(Transformed::no(plan));
    }
    let always = match &join.filter {
        None => true,
        Some(Expr::Literal(ScalarValue::Boolean(Some(true)), _)) => true,
        Some(_) => false,
    };
    let one_row = !contains_unnest(&join.right)?;
    match join.join_type {
        JoinType::Inner => {}
        // One row for each, so none is without.
        JoinType::Left if always && one_row => {}
        _ => return Ok(Transformed::no(plan)),
    }
    let Some(beside) = graft(&join.right, &join.left)? else { return Ok(Transformed::no(plan)) };
    let beside = match &join.filter {
        Some(filter) if !always => LogicalPlanBuilder::from(beside).filter(filter.clone())?.build()?,
        _ => beside,
    };
    Ok(Transformed::yes(beside))
}

fn refers_outside(plan: &LogicalPlan) -> DfResult<bool> {
    plan.exists(|node| Ok(node.contains_outer_reference() || matches!(node, LogicalPlan::Subquery(_))))
}

fn contains_unnest(plan: &LogicalPlan) -> DfResult<bool> {
    let inside = |node: &LogicalPlan| Ok(matches!(node, LogicalPlan::Unnest(_)));
    match plan {
        LogicalPlan::SubqueryAlias(alias) => contains_unnest(&alias.input),
        LogicalPlan::Subquery(subquery) => contains_unnest(&subquery.subquery),
        other => other.exists(inside),
    }
}

/// `right` with the columns of `left` before its own; `None`: it has tables of its own.
fn graft(right: &LogicalPlan, left: &Arc<LogicalPlan>) -> DfResult<Option<LogicalPlan>> {
    let kept = || left.schema().columns().into_iter().map(Expr::Column);
    Ok(match right {
        LogicalPlan::EmptyRelation(empty) if empty.produce_one_row && empty.schema.fields().is_empty() => {
            Some(left.as_ref().clone())
        }
        LogicalPlan::Subquery(subquery) => graft(&subquery.subquery, left)?,
        LogicalPlan::Projection(projection) => {
            let Some(input) = graft(&projection.input, left)? else { return Ok(None) };
            let own = projection.expr.iter().map(|expr| inside(expr, left)).collect::<DfResult<Vec<_>>>()?;
            let exprs = kept().chain(own).collect();
            Some(LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(input))?))
        }
        LogicalPlan::Unnest(unnest) => {
            let Some(input) = graft(&unnest.input, left)? else { return Ok(None) };
            let unnest = Unnest::try_new(Arc::new(input), unnest.exec_columns.clone(), unnest.options.clone())?;
            Some(LogicalPlan::Unnest(unnest))
        }
        LogicalPlan::SubqueryAlias(alias) => {
            let Some(input) = graft(&alias.input, left)? else { return Ok(None) };
            let width = left.schema().fields().len();
            let own = input.schema().columns().into_iter().skip(width).collect::<Vec<Column>>();
            let renamed = own
                .into_iter()
                .zip(alias.schema.fields())
                .map(|(column, field)| Expr::Column(column).alias_qualified(Some(alias.alias.clone()), field.name()));
            let exprs = kept().chain(renamed).collect();
            Some(LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(input))?))
        }
        _ => None,
    })
}

/// The expression with columns of `left` where it referred to them from outside, under the name that it had.
fn inside(expr: &Expr, left: &LogicalPlan) -> DfResult<Expr> {
    let (qualifier, name): (Option<TableReference>, String) = expr.qualified_name();
    let changed = expr.clone().transform_up(|e| {
        Ok(match e {
            Expr::OuterReferenceColumn(_, column) if left.schema().has_column(&column) => {
                Transformed::yes(Expr::Column(column))
            }
            other => Transformed::no(other),
        })
    })?;
    let same = changed.data.qualified_name() == (qualifier.clone(), name.clone());
    Ok(if same { changed.data } else { changed.data.alias_qualified(qualifier, name) })
}
