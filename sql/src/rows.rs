//! Rows in comparisons, as comparisons of what they are made of.
//!
//! ```text
//!   (a, b) < (c, d)                   ──▶  a < c OR a = c AND b < d
//!   (a, b) IN ((1, 2), (3, 4))        ──▶  a = 1 AND b = 2 OR a = 3 AND b = 4
//!   (a, b) IN (SELECT x, y ..)        ──▶  tidemark_row_any('=', a, b, EXISTS (SELECT x, y ..))
//!   (a, b) < ALL (SELECT x, y ..)     ──▶  NOT tidemark_row_any('>=', a, b, EXISTS (SELECT x, y ..))
//!   (a, b) = (SELECT x, y ..)         ──▶  tidemark_row_is('=', a, b, EXISTS (SELECT x, y ..))
//!   GROUP BY (a, b)                   ──▶  GROUP BY a, b
//! ```
//!
//! DataFusion plans a subquery of several columns under EXISTS only: the calls stand until it has, and
//! [`crate::subqueries::rewrite`] puts conditions over its columns in their place.

use std::ops::ControlFlow;

use datafusion::logical_expr::Operator;
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, FunctionArg, FunctionArgExpr, FunctionArguments, GroupByExpr, Query, Select, UnaryOperator,
    Value, VisitMut, VisitorMut,
};
use tidemark_common::{Error, Result};

use crate::grammar::build::{call, replaced};

/// Whether a row of a subquery compares so: true, false or NULL as `= ANY` is.
pub(crate) const ANY: &str = "tidemark_row_any";
/// Whether the one row of a subquery compares so; NULL if there is none.
pub(crate) const IS: &str = "tidemark_row_is";

/// Rewrites every comparison of rows in `node`, subqueries included.
pub(crate) fn rewrite(node: &mut impl VisitMut) -> Result<()> {
    match node.visit(&mut Rows) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(error),
    }
}

struct Rows;

impl VisitorMut for Rows {
    type Break = Error;

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<Error> {
        if let GroupByExpr::Expressions(keys, _) = &mut select.group_by {
            *keys = std::mem::take(keys).into_iter().flat_map(parts).collect();
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Error> {
        let new = rewritten(expr);
        replaced(expr, new)
    }
}

/// Keys in brackets are several keys.
fn parts(key: Expr) -> Vec<Expr> {
    match key {
        Expr::Tuple(items) if !items.is_empty() => items,
        key => vec![key],
    }
}

/// What a row is made of: `(a, b)` or `ROW(a, b)`.
fn items(expr: &Expr) -> Option<Vec<Expr>> {
    match expr {
        Expr::Tuple(items) => Some(items.clone()),
        Expr::Nested(inner) => items(inner),
        Expr::Function(f) if f.over.is_none() && f.name.to_string().eq_ignore_ascii_case("row") => match &f.args {
            FunctionArguments::List(list) => list.args.iter().map(item).collect(),
            _ => None,
        },
        _ => None,
    }
}

fn item(arg: &FunctionArg) -> Option<Expr> {
    match arg {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr.clone()),
        _ => None,
    }
}

fn rewritten(expr: &Expr) -> Result<Option<Expr>> {
    Ok(Some(match expr {
        Expr::IsNull(inner) => match items(inner) {
            Some(items) => all(items.into_iter().map(|item| Expr::IsNull(Box::new(item))).collect())?,
            None => return Ok(None),
        },
        Expr::IsNotNull(inner) => match items(inner) {
            Some(items) => all(items.into_iter().map(|item| Expr::IsNotNull(Box::new(item))).collect())?,
            None => return Ok(None),
        },
        Expr::BinaryOp { left, op, right } => match comparison(op) {
            Some(op) => return binary(left, op, right),
            None => return Ok(None),
        },
        Expr::IsDistinctFrom(left, right) => return binary(left, Operator::IsDistinctFrom, right),
        Expr::IsNotDistinctFrom(left, right) => return binary(left, Operator::IsNotDistinctFrom, right),
        Expr::Between { expr, negated, low, high } => {
            let (Some(row), Some(low), Some(high)) = (items(expr), items(low), items(high)) else { return Ok(None) };
            let within = vec![of_items(&row, Operator::GtEq, &low)?, of_items(&row, Operator::LtEq, &high)?];
            not_if(*negated, all(within)?)
        }
        Expr::InList { expr, list, negated } => match items(expr) {
            Some(row) => in_list(&row, list, *negated)?,
            None => return Ok(None),
        },
        Expr::InSubquery { expr, subquery, negated } => match items(expr) {
            Some(row) => not_if(*negated, of_query(ANY, row, Operator::Eq, subquery)),
            None => return Ok(None),
        },
        Expr::AnyOp { left, compare_op, right, .. } => match of_set(left, compare_op, right) {
            Some((row, op, query)) => of_query(ANY, row, op, query),
            None => return Ok(None),
        },
        Expr::AllOp { left, compare_op, right } => match of_set(left, compare_op, right) {
            Some((row, op, query)) => {
                let op = op.negate().ok_or_else(|| Error::internal("a comparison has an opposite"))?;
                not_if(true, of_query(ANY, row, op, query))
            }
            None => return Ok(None),
        },
        _ => return Ok(None),
    }))
}

fn binary(left: &Expr, op: Operator, right: &Expr) -> Result<Option<Expr>> {
    match (items(left), items(right), right) {
        (Some(left), Some(right), _) => of_items(&left, op, &right).map(Some),
        (Some(left), None, Expr::Subquery(query)) => Ok(Some(of_query(IS, left, op, query))),
        _ => Ok(None),
    }
}

fn of_set<'a>(left: &Expr, op: &BinaryOperator, right: &'a Expr) -> Option<(Vec<Expr>, Operator, &'a Query)> {
    let Expr::Subquery(query) = right else { return None };
    Some((items(left)?, comparison(op)?, query.as_ref()))
}

fn of_query(function: &str, row: Vec<Expr>, op: Operator, query: &Query) -> Expr {
    let op = Expr::Value(Value::SingleQuotedString(op.to_string()).into());
    let rows = Expr::Exists { subquery: Box::new(query.clone()), negated: false };
    call(function, [op].into_iter().chain(row).chain([rows]).collect())
}

fn in_list(row: &[Expr], list: &[Expr], negated: bool) -> Result<Expr> {
    let one = |other: &Expr| match items(other) {
        Some(other) => of_items(row, Operator::Eq, &other),
        None => Err(Error::new(
            tidemark_common::SqlState::UndefinedFunction,
            format!("a row cannot be compared with {other}, which is none"),
        )),
    };
    let equal = list.iter().map(one).collect::<Result<Vec<_>>>()?;
    Ok(not_if(negated, paired(equal, &Operator::Or)?))
}

fn not_if(negated: bool, expr: Expr) -> Expr {
    match negated {
        true => Expr::UnaryOp { op: UnaryOperator::Not, expr: Box::new(expr) },
        false => expr,
    }
}

fn of_items(left: &[Expr], op: Operator, right: &[Expr]) -> Result<Expr> {
    if left.len() != right.len() {
        return Err(Error::syntax("unequal number of entries in row expressions"));
    }
    let pairs = left.iter().cloned().zip(right.iter().cloned()).collect();
    compared(op, pairs, &join).ok_or_else(|| Error::syntax("cannot compare rows of zero length"))
}

fn all(conditions: Vec<Expr>) -> Result<Expr> {
    paired(conditions, &Operator::And)
}

/// As shallow as can be: a list may be long.
fn paired(mut conditions: Vec<Expr>, op: &Operator) -> Result<Expr> {
    while conditions.len() > 1 {
        let mut halved = Vec::with_capacity(conditions.len().div_ceil(2));
        let mut rest = conditions.into_iter();
        while let Some(left) = rest.next() {
            halved.push(match rest.next() {
                Some(right) => join(left, *op, right),
                None => left,
            });
        }
        conditions = halved;
    }
    conditions.pop().ok_or_else(|| Error::syntax("a row of no items"))
}

fn join(left: Expr, op: Operator, right: Expr) -> Expr {
    use BinaryOperator as B;
    let (left, right) = (Box::new(left), Box::new(right));
    let op = match op {
        Operator::IsDistinctFrom => return Expr::IsDistinctFrom(left, right),
        Operator::IsNotDistinctFrom => return Expr::IsNotDistinctFrom(left, right),
        Operator::And => B::And,
        Operator::Or => B::Or,
        Operator::Eq => B::Eq,
        Operator::NotEq => B::NotEq,
        Operator::Lt => B::Lt,
        Operator::LtEq => B::LtEq,
        Operator::Gt => B::Gt,
        _ => B::GtEq,
    };
    let connects = matches!(op, B::And | B::Or);
    let joined = Expr::BinaryOp { left, op, right };
    if connects { Expr::Nested(Box::new(joined)) } else { joined }
}

fn comparison(op: &BinaryOperator) -> Option<Operator> {
    Some(match op {
        BinaryOperator::Eq => Operator::Eq,
        BinaryOperator::NotEq => Operator::NotEq,
        BinaryOperator::Lt => Operator::Lt,
        BinaryOperator::LtEq => Operator::LtEq,
        BinaryOperator::Gt => Operator::Gt,
        BinaryOperator::GtEq => Operator::GtEq,
        _ => return None,
    })
}

/// The operator that [`ANY`] or [`IS`] is given as text.
pub(crate) fn operator(text: &str) -> Option<Operator> {
    use Operator as O;
    let all = [O::Eq, O::NotEq, O::Lt, O::LtEq, O::Gt, O::GtEq, O::IsDistinctFrom, O::IsNotDistinctFrom];
    all.into_iter().find(|op| op.to_string() == text)
}

/// Two rows item by item; of an order, the first pair that differs decides. `None`: they have no items.
pub(crate) fn compared<E: Clone>(op: Operator, pairs: Vec<(E, E)>, join: &impl Fn(E, Operator, E) -> E) -> Option<E> {
    let connective = match op {
        Operator::Eq | Operator::IsNotDistinctFrom => Operator::And,
        Operator::NotEq | Operator::IsDistinctFrom => Operator::Or,
        _ => {
            let strict = if matches!(op, Operator::Lt | Operator::LtEq) { Operator::Lt } else { Operator::Gt };
            let mut pairs = pairs.into_iter().rev();
            let last = pairs.next().map(|(l, r)| join(l, op, r))?;
            return Some(pairs.fold(last, |rest, (l, r)| {
                let decided = join(l.clone(), strict, r.clone());
                join(decided, Operator::Or, join(join(l, Operator::Eq, r), Operator::And, rest))
            }));
        }
    };
    pairs.into_iter().map(|(l, r)| join(l, op, r)).reduce(|all, one| join(all, connective, one))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grammar::build::rewritten_select;

    fn rewritten(sql: &str) -> String {
        rewritten_select(sql, rewrite).unwrap()
    }

    #[test]
    fn rows_are_compared_by_their_items() {
        let table = [
            ("(a, b) = ROW(1, 2)", "(a = 1 AND b = 2)"),
            ("(a, b) <> (1, 2)", "(a <> 1 OR b <> 2)"),
            ("(a, b) < (1, 2)", "(a < 1 OR (a = 1 AND b < 2))"),
            ("(a, b, c) >= (1, 2, 3)", "(a > 1 OR (a = 1 AND (b > 2 OR (b = 2 AND c >= 3))))"),
            ("(a, b) IS DISTINCT FROM (1, 2)", "(a IS DISTINCT FROM 1 OR b IS DISTINCT FROM 2)"),
            ("(a, b) NOT IN ((1, 2), (3, 4))", "NOT ((a = 1 AND b = 2) OR (a = 3 AND b = 4))"),
            ("(a, b) IS NULL", "(a IS NULL AND b IS NULL)"),
            ("(a, b) IN (SELECT x, y FROM t)", "tidemark_row_any('=', a, b, EXISTS (SELECT x, y FROM t))"),
            ("(a, b) > ALL (SELECT x, y FROM t)", "NOT tidemark_row_any('<=', a, b, EXISTS (SELECT x, y FROM t))"),
            ("(a, b) <= (SELECT x, y FROM t)", "tidemark_row_is('<=', a, b, EXISTS (SELECT x, y FROM t))"),
            ("1 FROM t GROUP BY (a, b), c", "1 FROM t GROUP BY a, b, c"),
            ("a = (1) AND b IN (1, 2)", "a = (1) AND b IN (1, 2)"),
        ];
        for (sql, expected) in table {
            assert_eq!(rewritten(sql), expected, "{sql}");
        }
    }
}
