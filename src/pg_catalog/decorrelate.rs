//! Correlated subqueries in Postgres' catalog queries that DataFusion does not plan by itself.
//!
//! ```text
//!   SELECT (SELECT d.adbin FROM pg_attrdef d WHERE d.adrelid = a.attrelid AND ..) FROM pg_attribute a
//!     ──▶ SELECT sq.v FROM pg_attribute a LEFT JOIN (SELECT d.adbin v, d.adrelid k0 ..) sq ON sq.k0 = a.attrelid AND ..
//! ```
//!
//! DataFusion asks that a correlated scalar subquery aggregates, so that it yields one row. The catalog's keys see to that in
//! the queries that clients ask of system tables, which are the only ones rewritten here: over a user's tables a second row
//! must stay an error. EXISTS in a select list becomes a mark join, whatever it reads.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, JoinType};
use datafusion::config::ConfigOptions;
use datafusion::error::Result;
use datafusion::logical_expr::expr::{Exists, InSubquery};
use datafusion::logical_expr::expr_rewriter::strip_outer_reference;
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, Join, LogicalPlan, LogicalPlanBuilder, Subquery, lit, not, when};
use datafusion::optimizer::AnalyzerRule;
use datafusion::optimizer::decorrelate::PullUpCorrelatedExpr;

use tidemark_catalog::SYSTEM_SCHEMAS;

/// Add with `SessionContext::add_analyzer_rule`.
#[derive(Debug, Default)]
pub struct SystemSubqueries;

/// One pass over a plan.
struct Pass {
    /// Numbers the joined subqueries of the plan: none has another's name, and the same query the same names each time.
    joined: Cell<usize>,
}

const PREFIX: &str = "__system_sq_";

impl AnalyzerRule for SystemSubqueries {
    fn name(&self) -> &str {
        "system_subqueries"
    }

    fn analyze(&self, plan: LogicalPlan, _config: &ConfigOptions) -> Result<LogicalPlan> {
        let mut joined = 0;
        plan.apply_with_subqueries(|node| {
            if let LogicalPlan::SubqueryAlias(alias) = node
                && let Some(number) = alias.alias.table().strip_prefix(PREFIX).and_then(|n| n.parse::<usize>().ok())
            {
                joined = joined.max(number + 1);
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
        let pass = Pass { joined: Cell::new(joined) };
        plan.transform_up_with_subqueries(|node| pass.rewrite(node)).data()
    }
}

impl Pass {
    fn rewrite(&self, node: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
        match node {
            LogicalPlan::Projection(projection) => {
                let mut input = projection.input.as_ref().clone();
                let mut changed = false;
                let mut exprs = Vec::with_capacity(projection.expr.len());
                for expr in &projection.expr {
                    let name = expr.schema_name().to_string();
                    let new = self.extract(expr.clone(), &mut input, true)?;
                    changed |= new.transformed;
                    exprs.push(if new.transformed { new.data.alias_if_changed(name)? } else { new.data });
                }
                if !changed {
                    return Ok(Transformed::no(LogicalPlan::Projection(projection)));
                }
                Ok(Transformed::yes(LogicalPlanBuilder::from(input).project(exprs)?.build()?))
            }
            LogicalPlan::Filter(filter) => {
                let mut input = filter.input.as_ref().clone();
                // DataFusion has EXISTS in a filter itself.
                let new = self.extract(filter.predicate.clone(), &mut input, false)?;
                if !new.transformed {
                    return Ok(Transformed::no(LogicalPlan::Filter(filter)));
                }
                let columns = filter.input.schema().columns().into_iter().map(Expr::from);
                Ok(Transformed::yes(LogicalPlanBuilder::from(input).filter(new.data)?.project(columns)?.build()?))
            }
            LogicalPlan::Join(join) if matches!(join.join_type, JoinType::Inner | JoinType::Left) => {
                self.rewrite_join(join)
            }
            other => Ok(Transformed::no(other)),
        }
    }

    /// `a JOIN b ON b.x = (SELECT .. WHERE .. = a.y)`: the subquery is joined to `a` first.
    fn rewrite_join(&self, join: Join) -> Result<Transformed<LogicalPlan>> {
        let of_left = |subquery: &Subquery| {
            let mut outer = subquery.outer_ref_columns.iter();
            outer.all(|e| matches!(e, Expr::OuterReferenceColumn(_, column) if join.left.schema().has_column(column)))
        };
        let Some(filter) = &join.filter else { return Ok(Transformed::no(LogicalPlan::Join(join))) };
        let takes = |e: &Expr| Ok(matches!(e, Expr::ScalarSubquery(s) if wants_join(s)? && of_left(s)));
        if !filter.exists(takes)? {
            return Ok(Transformed::no(LogicalPlan::Join(join)));
        }
        let mut left = join.left.as_ref().clone();
        let filter = self.extract(filter.clone(), &mut left, false)?.data;
        let on = join.on.iter().map(|(l, r)| l.clone().eq(r.clone())).chain([filter]);
        let columns = join.schema.columns().into_iter().map(Expr::from);
        let joined = LogicalPlanBuilder::from(left).join_on(join.right.as_ref().clone(), join.join_type, on)?;
        Ok(Transformed::yes(joined.project(columns)?.build()?))
    }

    /// Takes the subqueries out of `expr` and joins them to `input`.
    fn extract(&self, expr: Expr, input: &mut LogicalPlan, exists_too: bool) -> Result<Transformed<Expr>> {
        expr.transform_down(|expr| match &expr {
            Expr::ScalarSubquery(subquery) if wants_join(subquery)? => {
                Ok(match self.join(subquery, input, JoinType::Left, None)? {
                    Some(column) => Transformed::new(column, true, TreeNodeRecursion::Jump),
                    None => Transformed::no(expr),
                })
            }
            Expr::Exists(Exists { subquery, negated }) if exists_too => {
                Ok(match self.join(subquery, input, JoinType::LeftMark, None)? {
                    Some(mark) if *negated => Transformed::new(not(mark), true, TreeNodeRecursion::Jump),
                    Some(mark) => Transformed::new(mark, true, TreeNodeRecursion::Jump),
                    None => Transformed::no(expr),
                })
            }
            // A mark is false where IN would be NULL, which no one tells apart in these.
            Expr::InSubquery(InSubquery { expr: wanted, subquery, negated })
                if exists_too && reads_only_system(&subquery.subquery)? =>
            {
                Ok(match self.join(subquery, input, JoinType::LeftMark, Some(wanted))? {
                    Some(mark) if *negated => Transformed::new(not(mark), true, TreeNodeRecursion::Jump),
                    Some(mark) => Transformed::new(mark, true, TreeNodeRecursion::Jump),
                    None => Transformed::no(expr),
                })
            }
            _ => Ok(Transformed::no(expr)),
        })
    }

    /// Joins the subquery to `input`; returns the column that has its value. `None`: it has to stay.
    /// Of `wanted IN (subquery)` only rows that equal `wanted` count.
    fn join(
        &self,
        subquery: &Subquery,
        input: &mut LogicalPlan,
        join_type: JoinType,
        wanted: Option<&Expr>,
    ) -> Result<Option<Expr>> {
        let mark = join_type == JoinType::LeftMark;
        let (plan, late) = without_outer_value(subquery.subquery.as_ref())?;
        let mut pull_up = PullUpCorrelatedExpr::new().with_exists_sub_query(mark);
        let inner = plan.rewrite(&mut pull_up).data()?;
        if !pull_up.can_pull_up {
            return Ok(None);
        }
        let alias = format!("{PREFIX}{}", self.joined.get());
        self.joined.set(self.joined.get() + 1);
        let mut correlated: BTreeSet<Column> =
            pull_up.correlated_subquery_cols_map.values().flatten().cloned().collect();
        if let Some(late) = &late {
            correlated.extend(late.column_refs().into_iter().cloned());
        }
        // Each under a name of its own: two tables of the subquery may both have an `oid`.
        let renamed: BTreeMap<&Column, String> =
            correlated.iter().enumerate().map(|(i, column)| (column, format!("k{i}"))).collect();
        let value = Expr::from(inner.schema().columns()[0].clone()).alias("v");
        let keys = renamed.iter().map(|(column, name)| Expr::from((*column).clone()).alias(name));
        let columns: Vec<Expr> = std::iter::once(value).chain(keys).collect();
        let right = LogicalPlanBuilder::from(inner).project(columns)?.alias(alias.as_str())?.build()?;
        let from_right = |expr: Expr| {
            let renamed = expr.transform(|expr| match &expr {
                Expr::Column(column) if renamed.contains_key(column) => {
                    let renamed = Column::new(Some(alias.as_str()), renamed[column].clone());
                    Ok(Transformed::yes(Expr::Column(renamed)))
                }
                _ => Ok(Transformed::no(expr)),
            });
            renamed.data()
        };
        let mut on = conjunction(pull_up.join_filters).map_or(Ok(lit(true)), from_right)?;
        if let Some(wanted) = wanted {
            on = on.and(wanted.clone().eq(Expr::Column(Column::new(Some(alias.as_str()), "v"))));
        }
        *input = LogicalPlanBuilder::from(input.clone()).join_on(right, join_type, Some(on))?.build()?;
        let value = Expr::Column(Column::new(Some(alias.as_str()), if mark { "mark" } else { "v" }));
        Ok(Some(match late {
            Some(late) => when(value.is_not_null(), strip_outer_reference(from_right(late)?)).end()?,
            None => value,
        }))
    }
}

/// Where the selected value itself names outer columns, it is computed after the join: the plan then yields whether there is
/// a row, and the columns that the value needs of it.
fn without_outer_value(plan: &LogicalPlan) -> Result<(LogicalPlan, Option<Expr>)> {
    match plan {
        LogicalPlan::Projection(projection) if projection.expr.iter().any(Expr::contains_outer) => {
            let [value] = projection.expr.as_slice() else { return Ok((plan.clone(), None)) };
            let needed: BTreeSet<Column> = value.column_refs().into_iter().cloned().collect();
            let columns = std::iter::once(lit(true).alias("found")).chain(needed.into_iter().map(Expr::Column));
            let plan = LogicalPlanBuilder::from(projection.input.as_ref().clone()).project(columns)?.build()?;
            Ok((plan, Some(value.clone().unalias())))
        }
        other => Ok((other.clone(), None)),
    }
}

/// Whether DataFusion would refuse this scalar subquery though catalog keys make it single-valued.
fn wants_join(subquery: &Subquery) -> Result<bool> {
    Ok(!subquery.outer_ref_columns.is_empty()
        && !is_aggregate(&subquery.subquery)
        && reads_only_system(&subquery.subquery)?)
}

fn is_aggregate(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Projection(p) => is_aggregate(&p.input),
        LogicalPlan::SubqueryAlias(s) => is_aggregate(&s.input),
        LogicalPlan::Filter(f) => is_aggregate(&f.input),
        LogicalPlan::Aggregate(a) => a.group_expr.is_empty(),
        _ => false,
    }
}

fn reads_only_system(plan: &LogicalPlan) -> Result<bool> {
    let user = plan.exists(|node| {
        Ok(match node {
            LogicalPlan::TableScan(scan) => {
                !scan.table_name.schema().is_some_and(|s| SYSTEM_SCHEMAS.iter().any(|(_, name)| *name == s))
            }
            _ => false,
        })
    })?;
    Ok(!user)
}
