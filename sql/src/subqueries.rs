//! Subqueries that DataFusion would plan wrongly, or not at all, as others that it plans right.
//!
//! ```text
//!   WHERE x NOT IN (SELECT y ..)   ──▶  WHERE NOT EXISTS (.. y = x) AND NOT EXISTS (.. y IS NULL)
//!                                         AND (x IS NOT NULL OR NOT EXISTS (..))
//!   SELECT x IN (SELECT y ..)      ──▶  CASE WHEN EXISTS (.. y = x) THEN true
//!                                            WHEN EXISTS (.. y IS NULL) OR x IS NULL AND EXISTS (..) THEN NULL ELSE false END
//!   (x, y) IN (SELECT ..)          ──▶  likewise, in [`rows`]
//!   (SELECT y FROM u WHERE u.id = t.id), id a key  ──▶  (SELECT first_value(y) FROM u WHERE u.id = t.id)
//! ```
//!
//! DataFusion turns EXISTS into joins of every kind. Of IN it forgets the NULLs unless it stands alone in WHERE; a scalar
//! subquery tied to the outer row it wants to aggregate, so that there is one row. What is left in the plan after all that,
//! [`unnest`] turns into joins.

mod domain;
mod one_row;
pub(crate) mod rows;
mod unnest;

use std::collections::BTreeSet;
use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, ExprSchema, Spans};
use datafusion::error::Result as DfResult;
use datafusion::functions_aggregate::first_last::first_value_udaf;
use datafusion::logical_expr::expr::{AggregateFunction, Exists, InSubquery, SetComparison, SetQuantifier};
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{
    BinaryExpr, Expr, ExprSchemable, Filter, LogicalPlan, LogicalPlanBuilder, Operator, Projection, Subquery, lit, not,
    when,
};
use datafusion::scalar::ScalarValue;
use tidemark_common::{Error, Result};

use one_row::gives_one_row;
pub use unnest::{Found, find, has_subqueries, unnest};

/// Which NOT IN become EXISTS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotIn {
    /// Those that a batch plan gets wrong or cannot run.
    Some,
    /// All: no operator of a dataflow is aware of NULLs.
    All,
}

/// Rewrites the subqueries of a plan that is not analyzed yet.
pub fn rewrite(plan: LogicalPlan, not_in: NotIn) -> DfResult<LogicalPlan> {
    Ok(plan.transform_up_with_subqueries(|node| node_of(node, not_in))?.data)
}

fn node_of(node: LogicalPlan, not_in: NotIn) -> DfResult<Transformed<LogicalPlan>> {
    match rows::of_node(node)? {
        LogicalPlan::Filter(filter) if has_subquery(&filter.predicate) => {
            let schema = Arc::clone(filter.input.schema());
            let mut conditions = Vec::new();
            for condition in split_conjunction_owned(filter.predicate) {
                conditions.push(condition_of(single_row(condition)?, &schema, not_in)?);
            }
            let predicate = conjunction(conditions).unwrap_or_else(|| lit(true));
            Ok(Transformed::yes(LogicalPlan::Filter(Filter::try_new(predicate, filter.input)?)))
        }
        LogicalPlan::Projection(projection) if projection.expr.iter().any(has_subquery) => {
            let schema = Arc::clone(projection.input.schema());
            let values = projection.expr.into_iter().map(|expr| {
                let (relation, name) = expr.qualified_name();
                let value = value_of(single_row(expr)?, &schema)?;
                let same = value.qualified_name() == (relation.clone(), name.clone());
                Ok(if same { value } else { value.alias_qualified(relation, name) })
            });
            let values = values.collect::<DfResult<Vec<_>>>()?;
            Ok(Transformed::yes(LogicalPlan::Projection(Projection::try_new(values, projection.input)?)))
        }
        other => Ok(Transformed::yes(other)),
    }
}

fn has_subquery(expr: &Expr) -> bool {
    let is_one = |e: &Expr| matches!(e, Expr::InSubquery(_) | Expr::ScalarSubquery(_) | Expr::SetComparison(_));
    expr.exists(|e| Ok(is_one(e) || rows::Call::of(e).is_some())).expect("the closure does not fail")
}

/// A condition of WHERE, or a part of one that AND and OR make of it: NULL is as good as false.
fn condition_of(condition: Expr, schema: &DFSchema, not_in: NotIn) -> DfResult<Expr> {
    if let Some(call) = rows::Call::any(&condition) {
        return Ok(call.membership(schema)?.found);
    }
    if let Expr::Not(inner) = &condition
        && let Some(call) = rows::Call::any(inner)
    {
        return Ok(call.membership(schema)?.absent());
    }
    match as_membership(condition) {
        Expr::Not(inner) if matches!(*inner, Expr::InSubquery(_)) => {
            let Expr::InSubquery(mut inside) = *inner else { unreachable!("it was looked at") };
            inside.negated = !inside.negated;
            condition_of(Expr::InSubquery(inside), schema, not_in)
        }
        Expr::InSubquery(inside) if !inside.negated => Ok(Expr::InSubquery(inside)),
        Expr::InSubquery(inside) => {
            // Of `1 NOT IN (..)` DataFusion loses the NULLs as it pushes `1 = y` down.
            let simple = inside.subquery.outer_ref_columns.is_empty() && !inside.expr.column_refs().is_empty();
            if not_in == NotIn::Some && simple {
                return Ok(Expr::InSubquery(inside));
            }
            let Some(parts) = Membership::of(&inside, schema)? else { return Ok(Expr::InSubquery(inside)) };
            Ok(parts.absent())
        }
        Expr::BinaryExpr(BinaryExpr { left, op: op @ (Operator::And | Operator::Or), right }) => {
            // Only alone does DataFusion see to the NULLs of NOT IN.
            let part = |e: Box<Expr>| condition_of(*e, schema, NotIn::All).map(Box::new);
            Ok(Expr::BinaryExpr(BinaryExpr { left: part(left)?, op, right: part(right)? }))
        }
        other => value_of(other, schema),
    }
}

/// An expression whose value is asked for: true, false and NULL are three things.
fn value_of(expr: Expr, schema: &DFSchema) -> DfResult<Expr> {
    let changed = expr.transform_down(|e| {
        let e = as_membership(e);
        let (parts, negated) = match (&e, rows::Call::any(&e)) {
            (_, Some(call)) => (Some(call.membership(schema)?), false),
            (Expr::InSubquery(inside), None) => (Membership::of(inside, schema)?, inside.negated),
            _ => (None, false),
        };
        let Some(parts) = parts else { return Ok(Transformed::no(e)) };
        let unknown = [parts.null_within, parts.null_wanted].into_iter().flatten().reduce(Expr::or);
        let value = match unknown {
            None if negated => not(parts.found),
            None => parts.found,
            Some(unknown) => when(parts.found, lit(!negated))
                .when(unknown, lit(ScalarValue::Boolean(None)))
                .otherwise(lit(negated))?,
        };
        Ok(Transformed::new(value, true, TreeNodeRecursion::Jump))
    });
    Ok(changed?.data)
}

/// `= ANY` is IN, `<> ALL` is NOT IN.
fn as_membership(expr: Expr) -> Expr {
    match expr {
        Expr::SetComparison(SetComparison { expr, subquery, op: Operator::Eq, quantifier: SetQuantifier::Any }) => {
            Expr::InSubquery(InSubquery { expr, subquery, negated: false })
        }
        Expr::SetComparison(SetComparison { expr, subquery, op: Operator::NotEq, quantifier: SetQuantifier::All }) => {
            Expr::InSubquery(InSubquery { expr, subquery, negated: true })
        }
        other => other,
    }
}

/// The subquery's name, as x may be a column of the same table.
const WITHIN: &str = "__in";

/// What `x IN (subquery)` comes down to.
struct Membership {
    /// A row equals x.
    found: Expr,
    /// A row is NULL, if one can be.
    null_within: Option<Expr>,
    /// x is NULL and there is a row, if x can be NULL.
    null_wanted: Option<Expr>,
}

impl Membership {
    /// `None`: x cannot be told apart within the subquery.
    fn of(inside: &InSubquery, schema: &DFSchema) -> DfResult<Option<Self>> {
        let wanted = inside.expr.as_ref();
        let Some(from_within) = as_outer(wanted, schema)? else { return Ok(None) };
        let tied = !inside.subquery.outer_ref_columns.is_empty();
        let within = inside.subquery.subquery.as_ref().clone();
        // DataFusion cannot look for the outer row through a name.
        let within = if tied { within } else { LogicalPlanBuilder::from(within).alias(WITHIN)?.build()? };
        let [column]: [Column; 1] = within.schema().columns().try_into().map_err(|_| one_column())?;
        if wanted.column_refs().contains(&column) {
            return Ok(None);
        }
        let column = Expr::Column(column);
        let exists = |condition| exists(&inside.subquery.spans, &within, condition);
        let null_within = match column.nullable(within.schema()).unwrap_or(true) {
            true => Some(exists(Some(column.clone().is_null()))?),
            false => None,
        };
        let null_wanted = match wanted.nullable(schema).unwrap_or(true) {
            true => Some(wanted.clone().is_null().and(exists(None)?)),
            false => None,
        };
        Ok(Some(Self { found: exists(Some(column.eq(from_within)))?, null_within, null_wanted }))
    }

    /// True if x is not there, for certain.
    fn absent(self) -> Expr {
        let ways = [Some(self.found), self.null_within, self.null_wanted];
        ways.into_iter().flatten().map(not).reduce(Expr::and).unwrap_or_else(|| lit(true))
    }
}

fn one_column() -> datafusion::error::DataFusionError {
    Error::syntax("subquery has too many columns").into()
}

/// EXISTS over the rows of the subquery that fulfil `condition`.
fn exists(spans: &Spans, within: &LogicalPlan, condition: Option<Expr>) -> DfResult<Expr> {
    let plan = LogicalPlanBuilder::from(within.clone());
    let plan = match condition {
        Some(condition) => plan.filter(condition)?,
        None => plan,
    };
    let plan = plan.build()?;
    let subquery =
        Subquery { outer_ref_columns: plan.all_out_ref_exprs(), subquery: Arc::new(plan), spans: spans.clone() };
    Ok(Expr::Exists(Exists { subquery, negated: false }))
}

/// The expression as a subquery over rows of `schema` sees it. `None`: it is itself tied to a row further out.
fn as_outer(expr: &Expr, schema: &DFSchema) -> DfResult<Option<Expr>> {
    if expr.contains_outer() || has_subquery(expr) {
        return Ok(None);
    }
    let seen = expr.clone().transform(|e| match e {
        Expr::Column(column) => {
            let field = Arc::clone(schema.field_from_column(&column)?);
            Ok(Transformed::yes(Expr::OuterReferenceColumn(field, column)))
        }
        other => Ok(Transformed::no(other)),
    });
    Ok(Some(seen?.data))
}

/// Scalar subqueries tied to the outer row, and to one row of theirs by a key, as aggregates of that row.
fn single_row(expr: Expr) -> DfResult<Expr> {
    let changed = expr.transform_up(|e| {
        let Expr::ScalarSubquery(subquery) = &e else { return Ok(Transformed::no(e)) };
        let plan = &subquery.subquery;
        if subquery.outer_ref_columns.is_empty() || is_aggregate(plan) || !gives_one_row(plan, &BTreeSet::new()) {
            return Ok(Transformed::no(e));
        }
        let columns: Vec<Column> = plan.schema().columns();
        let [column] = columns.as_slice() else { return Ok(Transformed::no(e)) };
        let first = AggregateFunction::new_udf(
            first_value_udaf(),
            vec![Expr::Column(column.clone())],
            false,
            None,
            vec![],
            None,
        );
        let plan = LogicalPlanBuilder::from(plan.as_ref().clone())
            .aggregate(Vec::<Expr>::new(), vec![Expr::AggregateFunction(first).alias(&column.name)])?
            .build()?;
        let subquery = Subquery { subquery: Arc::new(plan), ..subquery.clone() };
        Ok(Transformed::yes(Expr::ScalarSubquery(subquery)))
    });
    Ok(changed?.data)
}

fn is_aggregate(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Aggregate(aggregate) => aggregate.group_expr.is_empty(),
        LogicalPlan::Projection(p) => is_aggregate(&p.input),
        LogicalPlan::SubqueryAlias(s) => is_aggregate(&s.input),
        LogicalPlan::Filter(f) => is_aggregate(&f.input),
        _ => false,
    }
}

/// Refuses scalar subqueries that may give several rows: a query then fails, but a view cannot fail later on.
pub fn check_single_rows(plan: &LogicalPlan) -> Result<()> {
    let mut several = false;
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|e| {
                let Expr::ScalarSubquery(subquery) = e else { return Ok(TreeNodeRecursion::Continue) };
                several |= !gives_one_row(&subquery.subquery, &BTreeSet::new());
                Ok(if several { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
            })
        })
    })?;
    if !several {
        return Ok(());
    }
    Err(Error::unsupported(
        "a subquery used as an expression may give more than one row, which a view cannot fail on later",
    )
    .with_hint("Aggregate it, as in (SELECT max(x) ..), or compare all columns of a PRIMARY KEY in its WHERE."))
}
