//! Integer literals as Postgres types them: `integer` where it fits, when DataFusion has planned `bigint`.
//!
//! A parameter under a cast gets the cast's type, too.
//!
//! It runs on the plan as it came from SQL, so that everything that is derived from types (the columns of a view, what a
//! client is told of a prepared statement) starts from these. Parameters come later and keep the types that they have.

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::Result as DfResult;
use datafusion::logical_expr::expr::{Cast, Placeholder};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};
use datafusion::scalar::ScalarValue;
use tidemark_common::types::SqlType;

use crate::set_operations;

pub(crate) fn settle(plan: LogicalPlan) -> DfResult<LogicalPlan> {
    let settled = plan.transform_down_up_with_subqueries(
        |node| {
            Ok(match node {
                // The working table's columns are fixed already.
                LogicalPlan::RecursiveQuery(_) => {
                    Transformed::new(node, false, datafusion::common::tree_node::TreeNodeRecursion::Jump)
                }
                node => Transformed::no(node),
            })
        },
        settle_node,
    )?;
    Ok(settled.data)
}

pub(crate) fn settle_expr(expr: Expr) -> DfResult<Expr> {
    Ok(narrow(expr)?.data)
}

fn settle_node(node: LogicalPlan) -> DfResult<Transformed<LogicalPlan>> {
    if let LogicalPlan::Limit(mut limit) = node {
        let typed = |count: Option<Box<Expr>>| count.map(|count| Box::new(counting(*count)));
        (limit.skip, limit.fetch) = (typed(limit.skip), typed(limit.fetch));
        return Ok(Transformed::yes(LogicalPlan::Limit(limit)));
    }
    if matches!(node, LogicalPlan::RecursiveQuery(_) | LogicalPlan::Extension(_)) {
        return Ok(Transformed::no(node));
    }
    let names = NamePreserver::new(&node);
    let node = node.map_expressions(|expr| {
        let name = names.save(&expr);
        Ok(narrow(expr)?.update_data(|expr| name.restore(expr)))
    })?;
    Ok(Transformed::yes(match node.data {
        LogicalPlan::Values(values) if node.transformed => LogicalPlanBuilder::values(values.values)?.build()?,
        LogicalPlan::Union(union) => set_operations::union(union.inputs)?,
        other => other.recompute_schema()?,
    }))
}

fn narrow(expr: Expr) -> DfResult<Transformed<Expr>> {
    match expr {
        Expr::Literal(ScalarValue::Int64(Some(n)), metadata) => Ok(match i32::try_from(n) {
            Ok(n) => Transformed::yes(Expr::Literal(ScalarValue::Int32(Some(n)), metadata)),
            Err(_) => Transformed::no(Expr::Literal(ScalarValue::Int64(Some(n)), metadata)),
        }),
        // DataFusion leaves a parameter under a cast without a type.
        Expr::Cast(cast) => match *cast.expr {
            Expr::Placeholder(Placeholder { id, field: None }) => {
                let parameter = Expr::Placeholder(Placeholder { id, field: Some(cast.field.clone()) });
                Ok(Transformed::yes(Expr::Cast(Cast { expr: Box::new(parameter), field: cast.field })))
            }
            _ => Expr::Cast(cast).map_children(narrow),
        },
        // What such a function is given as a constant is a length, a count or a position, and read as bigint.
        expr if takes_constants(&expr) => expr.map_children(|argument| match argument {
            Expr::Literal(..) => Ok(Transformed::no(argument)),
            argument => narrow(argument),
        }),
        expr => expr.map_children(narrow),
    }
}

/// A parameter of LIMIT or OFFSET.
fn counting(expr: Expr) -> Expr {
    match expr {
        Expr::Placeholder(Placeholder { id, field: None }) => {
            Expr::Placeholder(Placeholder { id, field: Some(SqlType::BigInt.to_field_ref("", true)) })
        }
        other => other,
    }
}

fn takes_constants(expr: &Expr) -> bool {
    match expr {
        Expr::AggregateFunction(_) | Expr::WindowFunction(_) => true,
        Expr::ScalarFunction(f) => f.name().starts_with("tidemark_") && !crate::subqueries::rows::is_call(f.name()),
        _ => false,
    }
}
