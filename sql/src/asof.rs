//! Joins with the version of a row that held at a time: ASOF JOIN, and FOR SYSTEM_TIME AS OF.
//!
//! ```text
//!   ticks ASOF JOIN rates ON t.k = r.k AND t.ts >= r.ts
//!
//!   rates of one k    ●──────────────●──────────●─────────▶      each holds until the next: lead(ts) OVER (PARTITION BY k
//!   ticks                  ▲    ▲        ▲                        ORDER BY ts), so that the rest is a join on
//!                                                                 t.ts >= r.ts AND (t.ts < until OR until IS NULL)
//! ```
//!
//! With `<=` and `<` a version holds back to the one before it. Of versions with one time the last in the order of all columns
//! counts (with `<=` and `<` the first). A table with the strategy scd2 says itself from when to when a version holds. As of
//! `proctime()` the rows that are there now are the version; a view asks each row once, when it comes.
//!
//! The grammar has spelled such joins as ones whose condition calls the functions below.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, JoinType};
use datafusion::datasource::source_as_provider;
use datafusion::functions_window::expr_fn::{lag, lead};
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{
    BinaryExpr, Expr, ExprFunctionExt, Join, LogicalPlan, LogicalPlanBuilder, Operator, WindowFrame,
};
use tidemark_common::{Error, Result};

use crate::functions::epoch_clock::{asks_clock, clock_call};
use crate::functions::{AS_OF, ASOF, CURRENT, current_function};
use crate::relation::Relation;

/// Until when, or since when, a version holds.
pub(crate) const BOUND: &str = "tidemark_bound";

/// Rewrites every such join in the plan, subqueries included.
pub fn rewrite(plan: LogicalPlan) -> Result<LogicalPlan> {
    let rewritten = plan.transform_up_with_subqueries(|plan| match plan {
        LogicalPlan::Join(join) => Ok(rewritten(join)?),
        other => Ok(Transformed::no(other)),
    })?;
    let mut left = false;
    rewritten.data.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            left |= expr.exists(|e| Ok(marker(e).is_some()))?;
            Ok(TreeNodeRecursion::Continue)
        })
    })?;
    match left {
        false => Ok(rewritten.data),
        true => Err(Error::unsupported(
            "the condition of ASOF JOIN and of FOR SYSTEM_TIME AS OF is comparisons tied by AND",
        )
        .with_hint("Put other conditions into WHERE or a subquery.")),
    }
}

/// What a join asks of the versions.
enum Marker {
    Asof,
    AsOf(Expr),
}

fn marker(expr: &Expr) -> Option<Marker> {
    let Expr::ScalarFunction(call) = expr else { return None };
    match (call.func.name(), call.args.as_slice()) {
        (ASOF, []) => Some(Marker::Asof),
        (AS_OF, [time]) => Some(Marker::AsOf(time.clone())),
        _ => None,
    }
}

/// What marks a join that meets the rows of the moment. It names both sides, so that it stays between them.
fn current(join: &Join) -> Result<Expr> {
    let first = |schema: &DFSchema| schema.columns().into_iter().next().map(Expr::Column);
    match (first(join.left.schema()), first(join.right.schema())) {
        (Some(left), Some(right)) => Ok(current_function().call(vec![left, right])),
        _ => Err(Error::unsupported("FOR SYSTEM_TIME AS OF joins relations that have columns")),
    }
}

/// A condition without what marks a join that meets the rows of the moment, and whether it was marked.
pub(crate) fn without_marker(condition: Option<&Expr>) -> (Option<Expr>, bool) {
    let parts = condition.map_or_else(Vec::new, |condition| split_conjunction_owned(condition.clone()));
    let all = parts.len();
    let is_marker = |part: &Expr| matches!(part, Expr::ScalarFunction(call) if call.func.name() == CURRENT);
    let rest: Vec<Expr> = parts.into_iter().filter(|part| !is_marker(part)).collect();
    let is_marked = rest.len() < all;
    (conjunction(rest), is_marked)
}

/// `proctime()`, or another function that asks the clock.
fn is_clock(time: &Expr) -> bool {
    match time {
        Expr::Alias(alias) => is_clock(&alias.expr),
        Expr::Cast(cast) => is_clock(&cast.expr),
        Expr::ScalarFunction(call) => call.args.is_empty() && asks_clock(call.func.name()),
        _ => false,
    }
}

fn rewritten(join: Join) -> Result<Transformed<LogicalPlan>> {
    let Some(filter) = &join.filter else { return Ok(Transformed::no(LogicalPlan::Join(join))) };
    let mut parts = split_conjunction_owned(filter.clone());
    let marked = parts.iter().enumerate().find_map(|(at, part)| Some((at, marker(part)?)));
    let Some((at, marker)) = marked else {
        return Ok(Transformed::no(LogicalPlan::Join(join)));
    };
    if !matches!(join.join_type, JoinType::Inner | JoinType::Left) {
        return Err(Error::unsupported("a join with versions keeps rows of its left side only")
            .with_hint("Write ASOF JOIN or ASOF LEFT JOIN, JOIN or LEFT JOIN .. FOR SYSTEM_TIME AS OF."));
    }
    parts.remove(at);
    parts.extend(join.on.iter().map(|(left, right)| left.clone().eq(right.clone())));
    let plan = match marker {
        Marker::AsOf(time) if is_clock(&time) => {
            if clock_call(&time)?.is_some() {
                parts.push(current(&join)?);
            }
            joined(&join, join.right.as_ref().clone(), parts)?
        }
        Marker::AsOf(time) => as_of(&join, time, parts)?,
        Marker::Asof => asof(&join, parts)?,
    };
    Ok(Transformed::yes(plan))
}

/// `FOR SYSTEM_TIME AS OF time`: the right side says what its versions are.
fn as_of(join: &Join, time: Expr, mut parts: Vec<Expr>) -> Result<LogicalPlan> {
    let right = join.right.schema();
    let column = |at: usize| Expr::Column(Column::from(right.qualified_field(at)));
    match versions(&join.right)? {
        Versions::Between(from, to) => {
            parts.push(time.clone().gt_eq(column(from)));
            parts.push(column(to).is_null().or(time.lt(column(to))));
            joined(join, join.right.as_ref().clone(), parts)
        }
        Versions::Since(since) => {
            parts.push(time.gt_eq(column(since)));
            asof(join, parts)
        }
    }
}

fn no_versions(why: &str) -> Error {
    Error::unsupported(format!("FOR SYSTEM_TIME AS OF a column needs a relation with versions: {why}")).with_hint(
        "Use a table WITH (strategy = 'scd2'), a source with a WATERMARK, or ASOF JOIN, which names the time itself.",
    )
}

/// How a relation tells which of its rows held at a time, by positions of columns.
enum Versions {
    /// From when to when each holds.
    Between(usize, usize),
    /// From when: until the next.
    Since(usize),
}

/// Of a relation by its name.
fn versions(plan: &LogicalPlan) -> Result<Versions> {
    let unnamed = || no_versions("it is not a table, source or materialized view by its name");
    match plan {
        LogicalPlan::SubqueryAlias(alias) => versions(&alias.input),
        LogicalPlan::TableScan(scan) => {
            let provider = source_as_provider(&scan.source)?;
            let relation = provider.downcast_ref::<Relation>().ok_or_else(unnamed)?;
            let between = relation.versions.map(|(from, to)| Versions::Between(from, to));
            let since = relation.watermark.map(Versions::Since);
            between.or(since).ok_or_else(|| no_versions("it has neither the strategy scd2 nor a watermark"))
        }
        _ => Err(unnamed()),
    }
}

/// The row of the right side whose time is the nearest on its side of the left row's.
fn asof(join: &Join, mut parts: Vec<Expr>) -> Result<LogicalPlan> {
    let (left, right) = (join.left.schema(), join.right.schema());
    let (mut keys, mut nearest) = (Vec::new(), Vec::new());
    for part in &parts {
        let Some((of_left, operator, of_right)) = sides(part, left, right) else { return Err(refused(part)) };
        match operator {
            Operator::Eq => keys.push(of_right),
            Operator::Gt | Operator::GtEq | Operator::Lt | Operator::LtEq => {
                nearest.push((of_left, operator, of_right))
            }
            _ => return Err(refused(part)),
        }
    }
    let [(time, operator, version)] = nearest.as_slice() else {
        return Err(Error::syntax(format!("ASOF JOIN takes one comparison of times, not {}", nearest.len()))
            .with_hint("Write ON a.k = b.k AND a.ts >= b.ts; =, and one of >=, >, <= and <."));
    };
    let others = right.columns().into_iter().map(Expr::Column).filter(|column| column != version);
    let order = std::iter::once(version.clone()).chain(others).map(|e| e.sort(true, false)).collect();
    let neighbour = match operator {
        Operator::Gt | Operator::GtEq => lead(version.clone(), Some(1), None),
        _ => lag(version.clone(), Some(1), None),
    };
    let frame = WindowFrame::new(Some(false));
    let neighbour = neighbour.partition_by(keys).order_by(order).window_frame(frame).build()?;
    let bound = Expr::Column(Column::new_unqualified(neighbour.schema_name().to_string())).alias(BOUND);
    let columns = right.columns().into_iter().map(Expr::Column).chain([bound]);
    let windowed = LogicalPlanBuilder::from(join.right.as_ref().clone()).window([neighbour])?;
    let versions = windowed.project(columns.collect::<Vec<_>>())?.build()?;
    let bound = Expr::Column(Column::new_unqualified(BOUND));
    let within = match operator {
        Operator::GtEq => time.clone().lt(bound.clone()),
        Operator::Gt => time.clone().lt_eq(bound.clone()),
        Operator::LtEq => time.clone().gt(bound.clone()),
        _ => time.clone().gt_eq(bound.clone()),
    };
    parts.push(bound.is_null().or(within));
    joined(join, versions, parts)
}

fn refused(part: &Expr) -> Error {
    Error::unsupported(format!("{part} in the condition of ASOF JOIN is not supported"))
        .with_hint("Write ON a.k = b.k AND a.ts >= b.ts; other conditions belong into WHERE or a subquery.")
}

/// `left operator right`, whichever way it was written.
fn sides(part: &Expr, left: &DFSchema, right: &DFSchema) -> Option<(Expr, Operator, Expr)> {
    let Expr::BinaryExpr(BinaryExpr { left: a, op, right: b }) = part else { return None };
    let of = |expr: &Expr, schema: &DFSchema| {
        let columns = expr.column_refs();
        !columns.is_empty() && columns.iter().all(|column| schema.has_column(column))
    };
    if of(a, left) && of(b, right) {
        return Some((a.as_ref().clone(), *op, b.as_ref().clone()));
    }
    if of(b, left) && of(a, right) {
        return Some((b.as_ref().clone(), op.swap()?, a.as_ref().clone()));
    }
    None
}

/// The join with another right side, and the columns that it had.
fn joined(join: &Join, right: LogicalPlan, parts: Vec<Expr>) -> Result<LogicalPlan> {
    let columns: Vec<Expr> = join.schema.columns().into_iter().map(Expr::Column).collect();
    let joined = LogicalPlanBuilder::from(Arc::unwrap_or_clone(Arc::clone(&join.left)))
        .join_on(right, join.join_type, parts)?
        .project(columns)?
        .build()?;
    Ok(joined)
}
