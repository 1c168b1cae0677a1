//! Long chains of AND, OR and UNION made into balanced trees.
//!
//! ```text
//!          OR                        OR
//!        OR  d                    /      \
//!      OR  c          ──▶       OR        OR
//!     a  b                     a  b      c  d
//! ```
//!
//! `a = 1 OR a = 2 OR ...`, written by programs, is parsed into a tree as deep as it is long. AND and OR are associative, with
//! NULLs too, and so is UNION: depth can be taken out before anything recurses into it.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, Query, SetExpr, SetOperator, SetQuantifier, Statement, Table, VisitMut, VisitorMut,
};

/// A chain is taken apart from this length on.
const LONG: usize = 32;

pub(super) fn statement(mut statement: Statement) -> Statement {
    visit(&mut statement);
    statement
}

pub(super) fn query(mut query: Box<Query>) -> Box<Query> {
    visit(query.as_mut());
    query
}

fn visit(node: &mut impl VisitMut) {
    let ControlFlow::Continue(()) = node.visit(&mut Balance);
}

struct Balance;

impl VisitorMut for Balance {
    type Break = std::convert::Infallible;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Self::Break> {
        if let SetExpr::SetOperation { op: SetOperator::Union, set_quantifier, .. } = query.body.as_ref() {
            let quantifier = *set_quantifier;
            if is_long_union(&query.body, quantifier) {
                let nothing = SetExpr::Table(Box::new(Table { table_name: None, schema_name: None }));
                let whole = std::mem::replace(query.body.as_mut(), nothing);
                *query.body = pair_up(branches(whole, quantifier), |left, right| SetExpr::SetOperation {
                    op: SetOperator::Union,
                    set_quantifier: quantifier,
                    left: Box::new(left),
                    right: Box::new(right),
                });
            }
        }
        ControlFlow::Continue(())
    }

    /// Before the children are visited: so the visit does not go deep.
    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Self::Break> {
        if let Some(op) = connective(expr)
            && is_long(expr, &op)
        {
            let whole = std::mem::replace(expr, Expr::Tuple(vec![]));
            *expr = pair_up(operands(whole, &op), |left, right| Expr::BinaryOp {
                left: Box::new(left),
                op: op.clone(),
                right: Box::new(right),
            });
        }
        ControlFlow::Continue(())
    }
}

fn connective(expr: &Expr) -> Option<BinaryOperator> {
    match expr {
        Expr::BinaryOp { op: op @ (BinaryOperator::And | BinaryOperator::Or), .. } => Some(op.clone()),
        _ => None,
    }
}

fn is_long(mut expr: &Expr, chain: &BinaryOperator) -> bool {
    for _ in 0..LONG {
        match expr {
            Expr::BinaryOp { left, op, .. } if op == chain => expr = left,
            _ => return false,
        }
    }
    true
}

/// `((a OR b) OR c)` -> `[a, b, c]`, without recursion.
fn operands(mut expr: Expr, chain: &BinaryOperator) -> Vec<Expr> {
    let mut operands = Vec::new();
    loop {
        match expr {
            Expr::BinaryOp { left, op, right } if op == *chain => {
                operands.push(*right);
                expr = *left;
            }
            first => {
                operands.push(first);
                operands.reverse();
                return operands;
            }
        }
    }
}

fn is_long_union(mut body: &SetExpr, quantifier: SetQuantifier) -> bool {
    for _ in 0..LONG {
        match body {
            SetExpr::SetOperation { op: SetOperator::Union, set_quantifier, left, .. }
                if *set_quantifier == quantifier =>
            {
                body = left;
            }
            _ => return false,
        }
    }
    true
}

fn branches(mut body: SetExpr, quantifier: SetQuantifier) -> Vec<SetExpr> {
    let mut branches = Vec::new();
    loop {
        match body {
            SetExpr::SetOperation { op: SetOperator::Union, set_quantifier, left, right }
                if set_quantifier == quantifier =>
            {
                branches.push(*right);
                body = *left;
            }
            first => {
                branches.push(first);
                branches.reverse();
                return branches;
            }
        }
    }
}

/// Pairs neighbours until one is left: the order stays.
fn pair_up<T>(mut items: Vec<T>, pair: impl Fn(T, T) -> T) -> T {
    while items.len() > 1 {
        let mut pairs = Vec::with_capacity(items.len().div_ceil(2));
        let mut rest = items.into_iter();
        while let Some(left) = rest.next() {
            pairs.push(match rest.next() {
                Some(right) => pair(left, right),
                None => left,
            });
        }
        items = pairs;
    }
    items.pop().expect("a chain has operands")
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::ast::Expr;

    use super::*;

    #[test]
    fn order_stays_and_depth_goes() {
        let leaf = |i: usize| Expr::Identifier(format!("c{i}").as_str().into());
        let chain = (1..100).fold(leaf(0), |left, i| Expr::BinaryOp {
            left: Box::new(left),
            op: BinaryOperator::Or,
            right: Box::new(leaf(i)),
        });
        let mut balanced = chain.clone();
        visit(&mut balanced);
        fn leaves(expr: &Expr, depth: usize, out: &mut Vec<String>) {
            assert!(depth <= 7);
            match expr {
                Expr::BinaryOp { left, right, .. } => {
                    leaves(left, depth + 1, out);
                    leaves(right, depth + 1, out);
                }
                leaf => out.push(leaf.to_string()),
            }
        }
        let mut found = vec![];
        leaves(&balanced, 0, &mut found);
        assert_eq!(found, (0..100).map(|i| format!("c{i}")).collect::<Vec<_>>());
    }
}
