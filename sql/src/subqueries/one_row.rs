//! Whether a plan gives one row at most, whatever its tables hold: an aggregate without GROUP BY does, and so does a filter that
//! gives every column of a key one value.

use std::collections::BTreeSet;

use datafusion::datasource::source_as_provider;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{BinaryExpr, Distinct, Expr, FetchType, LogicalPlan, Operator, TableScan};

use crate::relation::Relation;

/// `fixed`: columns of the plan's output of which only rows with one and the same value are of interest.
pub fn gives_one_row(plan: &LogicalPlan, fixed: &BTreeSet<usize>) -> bool {
    match plan {
        LogicalPlan::Subquery(subquery) => gives_one_row(&subquery.subquery, fixed),
        LogicalPlan::SubqueryAlias(alias) => gives_one_row(&alias.input, fixed),
        LogicalPlan::Sort(sort) => gives_one_row(&sort.input, fixed),
        LogicalPlan::Projection(projection) => {
            let below = fixed.iter().filter_map(|&c| column_of(&projection.expr[c], &projection.input));
            gives_one_row(&projection.input, &below.collect())
        }
        LogicalPlan::Filter(filter) => {
            let mut fixed = fixed.clone();
            fixed.extend(split_conjunction(&filter.predicate).into_iter().filter_map(|e| fixed_by(e, &filter.input)));
            gives_one_row(&filter.input, &fixed)
        }
        LogicalPlan::Aggregate(aggregate) => {
            let grouping_sets = matches!(aggregate.group_expr.as_slice(), [Expr::GroupingSet(_)]);
            !grouping_sets && (0..aggregate.group_expr.len()).all(|key| fixed.contains(&key))
        }
        LogicalPlan::Distinct(Distinct::All(input)) => {
            (0..input.schema().fields().len()).all(|c| fixed.contains(&c)) || gives_one_row(input, fixed)
        }
        LogicalPlan::Limit(limit) => {
            matches!(limit.get_fetch_type(), Ok(FetchType::Literal(Some(0 | 1)))) || gives_one_row(&limit.input, fixed)
        }
        LogicalPlan::EmptyRelation(_) => true,
        LogicalPlan::Values(values) => values.values.len() <= 1,
        LogicalPlan::TableScan(scan) => key_is_fixed(scan, fixed),
        _ => false,
    }
}

fn column_of(expr: &Expr, input: &LogicalPlan) -> Option<usize> {
    match expr {
        Expr::Column(column) => input.schema().index_of_column(column).ok(),
        Expr::Alias(alias) => column_of(&alias.expr, input),
        _ => None,
    }
}

/// The column that an equality with something from outside gives one value.
fn fixed_by(condition: &Expr, input: &LogicalPlan) -> Option<usize> {
    let Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) = condition else { return None };
    let is_outside = |e: &Expr| e.column_refs().is_empty() && !e.is_volatile();
    [(left, right), (right, left)]
        .into_iter()
        .find_map(|(column, other)| if is_outside(other) { column_of(column, input) } else { None })
}

fn key_is_fixed(scan: &TableScan, fixed: &BTreeSet<usize>) -> bool {
    let Ok(provider) = source_as_provider(&scan.source) else { return false };
    let Some(key) = provider.downcast_ref::<Relation>().and_then(|relation| relation.key.as_ref()) else {
        return false;
    };
    let of_relation = |c: &usize| scan.projection.as_ref().map_or(*c, |projection| projection[*c]);
    let fixed: BTreeSet<usize> = fixed.iter().map(of_relation).collect();
    key.iter().all(|column| fixed.contains(column))
}
