//! ORDER BY a table's column beside an output column of the same name, which DataFusion takes to be ambiguous.
//!
//! ```text
//!   SELECT upper(t.a) AS a FROM t      ──▶  SELECT tidemark_0 AS a
//!   ORDER BY t.a LIMIT 2                    FROM (SELECT upper(t.a) AS tidemark_0, t.a AS tidemark_1 FROM t) AS tidemark_sorted
//!                                           ORDER BY tidemark_1 LIMIT 2
//! ```
//!
//! Queries that are clear, or whose columns have no names yet, stay as they are.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Distinct, Expr, Ident, OrderByKind, Query, Select, SelectItem, SetExpr, Statement, Value, VisitMut, VisitorMut,
    visit_expressions,
};
use tidemark_common::{Error, Result};

use crate::ast::fold;
use crate::grammar::windows::{alias, derived, select_of, template};

/// Rewrites every such query of the statement.
pub fn rewrite(statement: &mut Statement) -> Result<()> {
    match VisitMut::visit(statement, &mut Names) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(error),
    }
}

struct Names;

impl VisitorMut for Names {
    type Break = Error;

    fn post_visit_query(&mut self, query: &mut Query) -> ControlFlow<Error> {
        match apart(query) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(error),
        }
    }
}

fn apart(query: &mut Query) -> Result<()> {
    let Some(order) = query.order_by.as_mut() else { return Ok(()) };
    let OrderByKind::Expressions(sorts) = &mut order.kind else { return Ok(()) };
    let SetExpr::Select(select) = query.body.as_mut() else { return Ok(()) };
    if matches!(select.distinct, Some(Distinct::Distinct | Distinct::On(_))) {
        return Ok(());
    }
    let Some(outputs) = select.projection.iter().map(output).collect::<Option<Vec<_>>>() else { return Ok(()) };
    if !sorts.iter().any(|sort| is_ambiguous(&sort.expr, select)) {
        return Ok(());
    }
    if repeats(&outputs) || groups_by_output(select, &outputs) {
        return Ok(());
    }
    let mut inner: Vec<Expr> = outputs.iter().map(|(_, expr)| expr.clone()).collect();
    for sort in sorts {
        let at = match place(&sort.expr, &outputs) {
            Some(at) => at,
            None => {
                inner.push(sort.expr.clone());
                inner.len() - 1
            }
        };
        sort.expr = Expr::Identifier(hidden(at));
    }
    let outer = outputs
        .into_iter()
        .enumerate()
        .map(|(i, (alias, _))| SelectItem::ExprWithAlias { expr: Expr::Identifier(hidden(i)), alias });
    let outer = outer.collect();
    let renamed = inner.into_iter().enumerate().map(|(i, expr)| SelectItem::ExprWithAlias { expr, alias: hidden(i) });
    select.projection = renamed.collect();
    let (mut above, mut below) = (template("SELECT 1 FROM t")?, template("SELECT 1")?);
    std::mem::swap(select.as_mut(), select_of(&mut below)?);
    let outermost = select_of(&mut above)?;
    outermost.projection = outer;
    let table = outermost.from.first_mut().ok_or_else(|| Error::internal("template without a table"))?;
    table.relation = derived(below, alias(Ident::new("tidemark_sorted")));
    std::mem::swap(select.as_mut(), outermost);
    Ok(())
}

/// GROUP BY or HAVING names an output column, which then must keep its name.
fn groups_by_output(select: &Select, outputs: &[(Ident, Expr)]) -> bool {
    let names = |expr: &Expr| match expr {
        Expr::Identifier(name) if outputs.iter().any(|(output, of)| same(output, name) && of != expr) => {
            ControlFlow::Break(())
        }
        _ => ControlFlow::Continue(()),
    };
    visit_expressions(&select.group_by, names).is_break() || visit_expressions(&select.having, names).is_break()
}

fn hidden(column: usize) -> Ident {
    Ident::new(format!("tidemark_{column}"))
}

/// An output column: its name, and what it is.
fn output(item: &SelectItem) -> Option<(Ident, Expr)> {
    match item {
        SelectItem::ExprWithAlias { expr, alias } => Some((alias.clone(), expr.clone())),
        SelectItem::UnnamedExpr(expr @ Expr::Identifier(name)) => Some((name.clone(), expr.clone())),
        SelectItem::UnnamedExpr(expr @ Expr::CompoundIdentifier(path)) => Some((path.last()?.clone(), expr.clone())),
        _ => None,
    }
}

/// A table's column in the expression has the name that another output column was given.
fn is_ambiguous(sort: &Expr, select: &Select) -> bool {
    let given = |name: &Ident, expr: &Expr| {
        select.projection.iter().any(|item| match item {
            SelectItem::ExprWithAlias { expr: of, alias } => same(alias, name) && of != expr,
            _ => false,
        })
    };
    let found = visit_expressions(sort, |expr| match expr {
        Expr::CompoundIdentifier(path) if path.last().is_some_and(|name| given(name, expr)) => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    found.is_break()
}

/// Two output columns of one name, which a table cannot have.
fn repeats(outputs: &[(Ident, Expr)]) -> bool {
    outputs.iter().enumerate().any(|(i, (name, _))| outputs[..i].iter().any(|(before, _)| same(before, name)))
}

/// The output column that the expression stands for: by number, by name, or by being the same.
fn place(sort: &Expr, outputs: &[(Ident, Expr)]) -> Option<usize> {
    match sort {
        Expr::Value(value) => match &value.value {
            Value::Number(number, _) => number.parse::<usize>().ok()?.checked_sub(1).filter(|at| *at < outputs.len()),
            _ => None,
        },
        Expr::Identifier(name) => outputs.iter().position(|(output, _)| same(output, name)),
        other => outputs.iter().position(|(_, of)| of == other),
    }
}

fn same(one: &Ident, other: &Ident) -> bool {
    fold(one) == fold(other)
}
