//! Any subquery as a join: the rescue for those that DataFusion leaves in the plan.
//!
//! ```text
//!   Projection  (SELECT max(y) FROM u WHERE u.x <= t.x)        Projection  v
//!     t                                                 ──▶      LeftJoin  t.x = d, NULL as a value
//!                                                                  t
//!                                                                  SELECT d, max(y) AS v  ◀── the subquery, for every d
//!                                                                    FROM (SELECT DISTINCT t.x AS d), u WHERE u.x <= d GROUP BY d
//! ```
//!
//! The subquery is answered once for each value of the outer columns that it names, its *domain*; then every row looks its answer
//! up. Source: Neumann and Kemper, "Unnesting Arbitrary Queries" (BTW 2015).

use std::collections::BTreeSet;
use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, JoinType, NullEquality};
use datafusion::error::Result as DfResult;
use datafusion::logical_expr::{
    Aggregate, Expr, Filter, Join, LogicalPlan, LogicalPlanBuilder, Projection, Sort, Subquery, lit,
};
use tidemark_common::{Error, Result};

use super::domain::Domain;
use super::one_row::gives_one_row;
use super::value_of;

/// True if there is a subquery in an optimized plan that cannot be run: anything but a scalar one that is not tied to a row.
pub fn has_subqueries(plan: &LogicalPlan) -> DfResult<bool> {
    let cannot_run = |expr: &Expr| match expr {
        Expr::ScalarSubquery(subquery) => !subquery.outer_ref_columns.is_empty(),
        other => is_subquery(other),
    };
    plan.exists(|node| {
        let mut found = matches!(node, LogicalPlan::Subquery(_)) || node.contains_outer_reference();
        node.apply_expressions(|expr| {
            found |= expr.exists(|e| Ok(cannot_run(e)))?;
            Ok(TreeNodeRecursion::Continue)
        })?;
        Ok(found)
    })
}

/// The subqueries of a plan that is not optimized yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    None,
    Some,
    /// DataFusion takes one for something else: in ON it pushes EXISTS to a side that does not have the row it is tied to, and of
    /// two rows further out it forgets one.
    Astray,
}

pub fn find(plan: &LogicalPlan) -> DfResult<Found> {
    let mut found = Found::None;
    plan.apply_with_subqueries(|node| {
        let in_on = matches!(node, LogicalPlan::Join(_));
        if matches!(node, LogicalPlan::Subquery(_)) && found == Found::None {
            found = Found::Some;
        }
        node.apply_expressions(|expr| {
            expr.apply(|e| {
                if let Some(subquery) = subquery_of(e) {
                    let named = subquery.subquery.all_out_ref_exprs();
                    let here = |column: &Column| node.inputs().iter().any(|input| input.schema().has_column(column));
                    let astray = in_on || !named.iter().filter_map(outer_column).all(|column| here(&column));
                    if astray {
                        found = Found::Astray;
                        return Ok(TreeNodeRecursion::Stop);
                    }
                    found = Found::Some;
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    Ok(found)
}

fn subquery_of(expr: &Expr) -> Option<&Subquery> {
    match expr {
        Expr::ScalarSubquery(subquery) => Some(subquery),
        Expr::Exists(exists) => Some(&exists.subquery),
        Expr::InSubquery(inside) => Some(&inside.subquery),
        Expr::SetComparison(comparison) => Some(&comparison.subquery),
        _ => None,
    }
}

fn is_subquery(expr: &Expr) -> bool {
    subquery_of(expr).is_some()
}

/// Rewrites every subquery of a plan that is not optimized yet, from the inside out.
pub fn unnest(plan: LogicalPlan) -> Result<LogicalPlan> {
    let mut unnesting = Unnesting::default();
    Ok(plan.transform_up_with_subqueries(|node| unnesting.node(node))?.data)
}

#[derive(Default)]
struct Unnesting {
    /// Gives what is joined names of its own.
    joined: usize,
}

impl Unnesting {
    fn node(&mut self, node: LogicalPlan) -> DfResult<Transformed<LogicalPlan>> {
        let mut any = false;
        node.apply_expressions(|expr| {
            any |= expr.exists(|e| Ok(is_subquery(e)))?;
            Ok(TreeNodeRecursion::Continue)
        })?;
        let lateral =
            matches!(&node, LogicalPlan::Join(join) if !outer_columns(&join.right, join.left.schema()).is_empty());
        if !any && !lateral {
            return Ok(Transformed::no(node));
        }
        let rewritten = match node {
            LogicalPlan::Projection(projection) => {
                let (exprs, input) = self.named(projection.expr, projection.input)?;
                LogicalPlan::Projection(Projection::try_new(exprs, input)?)
            }
            LogicalPlan::Filter(filter) => {
                let columns = columns_of(&filter.input);
                let (predicate, input) = self.one(filter.predicate, filter.input)?;
                let filtered = LogicalPlan::Filter(Filter::try_new(predicate, input)?);
                LogicalPlan::Projection(Projection::try_new(columns, Arc::new(filtered))?)
            }
            LogicalPlan::Aggregate(aggregate) => {
                let (group, input) = self.named(aggregate.group_expr, aggregate.input)?;
                let (calls, input) = self.named(aggregate.aggr_expr, input)?;
                LogicalPlan::Aggregate(Aggregate::try_new(input, group, calls)?)
            }
            LogicalPlan::Sort(mut sort) => {
                let columns = columns_of(&sort.input);
                for key in &mut sort.expr {
                    (key.expr, sort.input) = self.one(std::mem::take(&mut key.expr), sort.input)?;
                }
                let sorted = LogicalPlan::Sort(Sort { ..sort });
                LogicalPlan::Projection(Projection::try_new(columns, Arc::new(sorted))?)
            }
            LogicalPlan::Join(join) => self.join(join)?,
            _ => return Err(not_there("here")),
        };
        Ok(Transformed::yes(rewritten))
    }

    /// Expressions of a node that gives them as columns: under the names that they have.
    fn named(&mut self, exprs: Vec<Expr>, mut input: Arc<LogicalPlan>) -> DfResult<(Vec<Expr>, Arc<LogicalPlan>)> {
        let mut values = Vec::with_capacity(exprs.len());
        for expr in exprs {
            let (relation, name) = expr.qualified_name();
            let value;
            (value, input) = self.one(expr, input)?;
            let same = value.qualified_name() == (relation.clone(), name.clone());
            values.push(if same { value } else { value.alias_qualified(relation, name) });
        }
        Ok((values, input))
    }

    /// The expression with columns in the place of its subqueries, and the input with these columns.
    fn one(&mut self, expr: Expr, input: Arc<LogicalPlan>) -> DfResult<(Expr, Arc<LogicalPlan>)> {
        let expr = value_of(expr, input.schema())?;
        let mut input = input;
        let value = expr.transform_down(|e| {
            let answer = match &e {
                Expr::ScalarSubquery(subquery) => {
                    if !gives_one_row(&subquery.subquery, &BTreeSet::new()) {
                        return Err(several_rows());
                    }
                    let column =
                        subquery.subquery.schema().columns().into_iter().next().ok_or_else(|| not_there("here"))?;
                    let answer;
                    (answer, input) = self.answered(subquery, Expr::Column(column), Arc::clone(&input))?;
                    answer
                }
                Expr::Exists(exists) => {
                    let answer;
                    (answer, input) = self.answered(&exists.subquery, lit(true), Arc::clone(&input))?;
                    if exists.negated { answer.is_null() } else { answer.is_not_null() }
                }
                Expr::InSubquery(_) | Expr::SetComparison(_) => return Err(not_there("in this place")),
                _ => return Ok(Transformed::no(e)),
            };
            Ok(Transformed::new(answer, true, TreeNodeRecursion::Jump))
        })?;
        Ok((value.data, input))
    }

    /// The input with a column more: `value` of the subquery's row, one at most for each row of the input.
    fn answered(
        &mut self,
        subquery: &Subquery,
        value: Expr,
        input: Arc<LogicalPlan>,
    ) -> DfResult<(Expr, Arc<LogicalPlan>)> {
        self.joined += 1;
        let outer = outer_columns(&subquery.subquery, input.schema());
        let domain = Domain::of(&input, outer, self.joined)?;
        let name = format!("__value{}", self.joined);
        let answers = domain.for_each(&subquery.subquery)?;
        let columns = domain.columns().map(Expr::Column).chain([value.clone().alias(&name)]);
        let mut answers = LogicalPlanBuilder::from(answers).project(columns.collect::<Vec<_>>())?;
        if !matches!(value, Expr::Column(_)) {
            answers = answers.distinct()?;
        }
        let joined = domain.join(&input, answers.build()?, JoinType::Left, None)?;
        let kept = columns_of(&input).into_iter().chain([Expr::Column(Column::new_unqualified(&name))]);
        let joined = LogicalPlanBuilder::from(joined).project(kept.collect::<Vec<_>>())?.build()?;
        Ok((Expr::Column(Column::new_unqualified(name)), Arc::new(joined)))
    }

    fn join(&mut self, join: Join) -> DfResult<LogicalPlan> {
        let columns: Vec<Expr> = join.schema.columns().into_iter().map(Expr::Column).collect();
        let outer = outer_columns(&join.right, join.left.schema());
        let joined = if outer.is_empty() {
            self.condition(join)?
        } else {
            // LATERAL: the right side, for each row of the left one.
            let kind = match join.join_type {
                JoinType::Inner | JoinType::Left if join.on.is_empty() => join.join_type,
                _ => return Err(not_there("in a join of this kind")),
            };
            self.joined += 1;
            let domain = Domain::of(&join.left, outer, self.joined)?;
            let right = domain.for_each(&join.right)?;
            domain.join(&join.left, right, kind, join.filter)?
        };
        LogicalPlanBuilder::from(joined).project(columns)?.build()
    }

    /// A subquery in ON: of an inner join it may look at both sides, else at one.
    fn condition(&mut self, join: Join) -> DfResult<LogicalPlan> {
        let Some(filter) = join.filter.clone() else { return Err(not_there("in a join of this kind")) };
        if join.join_type == JoinType::Inner {
            let pairs = LogicalPlan::Join(Join { filter: None, ..join });
            let (predicate, input) = self.one(filter, Arc::new(pairs))?;
            return Ok(LogicalPlan::Filter(Filter::try_new(predicate, input)?));
        }
        let parts = datafusion::logical_expr::utils::split_conjunction_owned(filter);
        let (mut left, mut right, mut rest) = (Arc::clone(&join.left), Arc::clone(&join.right), Vec::new());
        for part in parts {
            if !part.exists(|e| Ok(is_subquery(e)))? {
                rest.push(part);
                continue;
            }
            let seen = seen_by(&part);
            let within = |plan: &LogicalPlan| seen.iter().all(|column| plan.schema().has_column(column));
            let condition;
            if within(&join.left) {
                (condition, left) = self.one(part, left)?;
            } else if within(&join.right) {
                (condition, right) = self.one(part, right)?;
            } else {
                return Err(not_there("in ON, where it looks at both sides of an outer join"));
            }
            rest.push(condition);
        }
        let (keys_left, keys_right) = join.on.into_iter().unzip::<Expr, Expr, Vec<_>, Vec<_>>();
        let equal = keys_left.into_iter().zip(keys_right).map(|(l, r)| match join.null_equality {
            NullEquality::NullEqualsNothing => l.eq(r),
            NullEquality::NullEqualsNull => {
                datafusion::logical_expr::binary_expr(l, datafusion::logical_expr::Operator::IsNotDistinctFrom, r)
            }
        });
        let right = Arc::unwrap_or_clone(right);
        LogicalPlanBuilder::from(Arc::unwrap_or_clone(left)).join_on(right, join.join_type, equal.chain(rest))?.build()
    }
}

/// Columns that an expression and its subqueries see.
fn seen_by(expr: &Expr) -> BTreeSet<Column> {
    let mut seen: BTreeSet<Column> = expr.column_refs().into_iter().cloned().collect();
    expr.apply(|e| {
        let Some(subquery) = subquery_of(e) else { return Ok(TreeNodeRecursion::Continue) };
        seen.extend(subquery.subquery.all_out_ref_exprs().iter().filter_map(outer_column));
        Ok(TreeNodeRecursion::Continue)
    })
    .expect("the closure does not fail");
    seen
}

fn outer_column(expr: &Expr) -> Option<Column> {
    match expr {
        Expr::OuterReferenceColumn(_, column) => Some(column.clone()),
        _ => None,
    }
}

/// The columns of `schema` that a plan names from inside.
fn outer_columns(plan: &LogicalPlan, schema: &DFSchema) -> Vec<Column> {
    let mut columns: Vec<Column> = Vec::new();
    for column in plan.all_out_ref_exprs().iter().filter_map(outer_column) {
        if schema.has_column(&column) && !columns.contains(&column) {
            columns.push(column);
        }
    }
    columns
}

fn columns_of(plan: &LogicalPlan) -> Vec<Expr> {
    plan.schema().columns().into_iter().map(Expr::Column).collect()
}

pub(super) fn not_there(place: &str) -> datafusion::error::DataFusionError {
    Error::unsupported(format!("a subquery {place} cannot be turned into a join"))
        .with_hint("Write it as a join.")
        .into()
}

fn several_rows() -> datafusion::error::DataFusionError {
    Error::unsupported("a subquery used as an expression here may give more than one row")
        .with_hint("Aggregate it, as in (SELECT max(x) ..), or end it with LIMIT 1.")
        .into()
}
