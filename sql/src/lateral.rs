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
//!
//! A LEFT JOIN keeps a row whose list has nothing in it: the list becomes one with a NULL.

use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, JoinType, TableReference};
use datafusion::error::Result as DfResult;
use datafusion::functions_nested::expr_fn::cardinality;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, Projection, Unnest, lit, when};
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
    let empty = match join.join_type {
        JoinType::Inner => Empty::Drop,
        // One row for each, so none is without.
        JoinType::Left if always && !contains_unnest(&join.right)? => Empty::Drop,
        JoinType::Left if always && only_names(&join.right) => Empty::Keep,
        _ => return Ok(Transformed::no(plan)),
    };
    let left = Hidden::of(&join.left)?;
    let Some(beside) = graft(&join.right, &left, empty)? else { return Ok(Transformed::no(plan)) };
    let beside = left.shown(beside)?;
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

/// What becomes of a row whose list has nothing in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Empty {
    Drop,
    Keep,
}

/// Above the unnest() columns only get other names, so that they are NULL where it gives none.
fn only_names(plan: &LogicalPlan) -> bool {
    fn is_name(expr: &Expr) -> bool {
        match expr {
            Expr::Column(_) => true,
            Expr::Alias(alias) => is_name(&alias.expr),
            _ => false,
        }
    }
    match plan {
        LogicalPlan::Subquery(subquery) => only_names(&subquery.subquery),
        LogicalPlan::SubqueryAlias(alias) => only_names(&alias.input),
        LogicalPlan::Projection(projection) => projection.expr.iter().all(is_name) && only_names(&projection.input),
        LogicalPlan::Unnest(_) => true,
        _ => false,
    }
}

/// The plan with `[NULL]` in the place of lists in `columns` that are empty or NULL.
fn never_empty(plan: LogicalPlan, columns: &[Column]) -> DfResult<LogicalPlan> {
    let mut exprs = Vec::with_capacity(plan.schema().fields().len());
    for (column, field) in plan.schema().columns().into_iter().zip(plan.schema().fields()) {
        let list = Expr::Column(column.clone());
        exprs.push(match field.data_type() {
            DataType::List(item) if columns.contains(&column) => {
                let null = ScalarValue::try_from(item.data_type())?;
                let one = ScalarValue::List(ScalarValue::new_list(&[null], item.data_type(), true));
                let filled = cardinality(list.clone()).gt(lit(0_u64));
                let kept = when(filled, list).otherwise(Expr::Literal(one, None))?;
                kept.alias_qualified(column.relation.clone(), column.name.clone())
            }
            _ => list,
        });
    }
    LogicalPlanBuilder::from(plan).project(exprs)?.build()
}

/// The table on the left, its columns under names that nothing in the right one has.
struct Hidden {
    plan: LogicalPlan,
    /// As they were called.
    columns: Vec<Column>,
}

impl Hidden {
    fn of(left: &Arc<LogicalPlan>) -> DfResult<Self> {
        let columns = left.schema().columns();
        let renamed = columns.iter().enumerate().map(|(i, c)| Expr::Column(c.clone()).alias(Self::name(i)));
        let plan = Projection::try_new(renamed.collect(), Arc::clone(left))?;
        Ok(Self { plan: LogicalPlan::Projection(plan), columns })
    }

    fn name(column: usize) -> String {
        format!("tidemark_outer_{column}")
    }

    fn column(&self, called: &Column) -> Option<Expr> {
        let at = self.columns.iter().position(|c| c == called)?;
        Some(Expr::Column(Column::from_name(Self::name(at))))
    }

    /// A plan that begins with the hidden columns, with their own names again.
    fn shown(&self, plan: LogicalPlan) -> DfResult<LogicalPlan> {
        let own = plan.schema().columns().into_iter().skip(self.columns.len()).map(Expr::Column);
        let left = self.columns.iter().enumerate().map(|(i, column)| {
            let hidden = Expr::Column(Column::from_name(Self::name(i)));
            hidden.alias_qualified(column.relation.clone(), column.name.clone())
        });
        let exprs = left.chain(own).collect();
        Ok(LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(plan))?))
    }
}

/// `right` with the columns of `left` before its own; `None`: it has tables of its own.
fn graft(right: &LogicalPlan, left: &Hidden, empty: Empty) -> DfResult<Option<LogicalPlan>> {
    let kept = || left.plan.schema().columns().into_iter().map(Expr::Column);
    Ok(match right {
        LogicalPlan::EmptyRelation(empty) if empty.produce_one_row && empty.schema.fields().is_empty() => {
            Some(left.plan.clone())
        }
        LogicalPlan::Subquery(subquery) => graft(&subquery.subquery, left, empty)?,
        LogicalPlan::Projection(projection) => {
            let Some(input) = graft(&projection.input, left, empty)? else { return Ok(None) };
            let own = projection.expr.iter().map(|expr| inside(expr, left)).collect::<DfResult<Vec<_>>>()?;
            let exprs = kept().chain(own).collect();
            Some(LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(input))?))
        }
        LogicalPlan::Unnest(unnest) => {
            let Some(mut input) = graft(&unnest.input, left, empty)? else { return Ok(None) };
            if empty == Empty::Keep {
                input = never_empty(input, &unnest.exec_columns)?;
            }
            let unnest = Unnest::try_new(Arc::new(input), unnest.exec_columns.clone(), unnest.options.clone())?;
            Some(LogicalPlan::Unnest(unnest))
        }
        LogicalPlan::SubqueryAlias(alias) => {
            let Some(input) = graft(&alias.input, left, empty)? else { return Ok(None) };
            let width = left.columns.len();
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
fn inside(expr: &Expr, left: &Hidden) -> DfResult<Expr> {
    let (qualifier, name): (Option<TableReference>, String) = expr.qualified_name();
    let changed = expr.clone().transform_up(|e| {
        Ok(match e {
            Expr::OuterReferenceColumn(field, column) => match left.column(&column) {
                Some(hidden) => Transformed::yes(hidden),
                None => Transformed::no(Expr::OuterReferenceColumn(field, column)),
            },
            other => Transformed::no(other),
        })
    })?;
    let same = changed.data.qualified_name() == (qualifier.clone(), name.clone());
    Ok(if same { changed.data } else { changed.data.alias_qualified(qualifier, name) })
}
