//! JOIN .. USING and NATURAL JOIN as joins with ON, where every column says whose it is.
//!
//! ```text
//!   SELECT *, x + 1 FROM t FULL JOIN u USING (x)
//!     ──▶  SELECT coalesce(t.x, u.x) AS x, t.a, u.b, coalesce(t.x, u.x) + 1 FROM t FULL JOIN u ON t.x = u.x
//! ```
//!
//! The joined column is the left one's, of a RIGHT JOIN the right one's, of a FULL JOIN whichever is there; in `*` it comes first.
//! DataFusion would take one side's, NULL where that side has no row, and leave it in its place.

mod names;
mod scope;

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, Ident, Join, OrderByKind, Query, Select, SelectItem, SetExpr, Statement, TableFactor, TableWithJoins, Visit,
    VisitMut, Visitor, VisitorMut,
};
use tidemark_common::{Error, Result};

use self::names::substitute;
use self::scope::{Of, Scope, Side, by_name, joins_by_name};
use crate::ast::fold;
use crate::planner::Resolver;

/// Rewrites every such join of the statement, subqueries included.
pub fn rewrite(statement: &mut Statement, resolver: &dyn Resolver) -> Result<()> {
    if Visit::visit(statement, &mut Asks).is_continue() {
        return Ok(());
    }
    let mut joins = Joins { scope: Scope { resolver, ctes: Vec::new() }, open: Vec::new() };
    match VisitMut::visit(statement, &mut joins) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(error),
    }
}

/// Breaks at the first USING or NATURAL.
struct Asks;

impl Visitor for Asks {
    type Break = ();

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<()> {
        if select.from.iter().any(joins_by_name) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

/// Names that joins have merged, and what each means.
type Merged = BTreeMap<String, Expr>;

/// Rewrites from the inside out.
struct Joins<'a> {
    scope: Scope<'a>,
    /// What the SELECT of each open query has merged: its ORDER BY sees the same.
    open: Vec<Option<Merged>>,
}

impl VisitorMut for Joins<'_> {
    type Break = Error;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Error> {
        // A WITH query sees those before it, and not itself.
        for cte in query.with.iter_mut().flat_map(|with| &mut with.cte_tables) {
            VisitMut::visit(&mut cte.query, self)?;
            self.scope.add(cte);
        }
        self.open.push(None);
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, query: &mut Query) -> ControlFlow<Error> {
        if let Some(Some(merged)) = self.open.pop() {
            order_by(query, &merged, &self.scope);
        }
        self.scope.leave(query);
        ControlFlow::Continue(())
    }

    fn post_visit_select(&mut self, select: &mut Select) -> ControlFlow<Error> {
        if !select.from.iter().any(joins_by_name) {
            return ControlFlow::Continue(());
        }
        match self.scope.select(select) {
            Ok(merged) => {
                if let Some(open) = self.open.last_mut() {
                    *open = merged;
                }
                ControlFlow::Continue(())
            }
            Err(error) => ControlFlow::Break(error),
        }
    }
}

impl Scope<'_> {
    fn select(&self, select: &mut Select) -> Result<Option<Merged>> {
        let mut from = select.from.clone();
        let mut whole = Side::default();
        for table in &mut from {
            let Some(side) = self.joined(table)? else { return not_known(&select.from) };
            whole.star.extend(side.star);
            whole.merged.extend(side.merged);
        }
        select.from = from;
        select.projection = listed(std::mem::take(&mut select.projection), &whole)?;
        substitute(&mut select.projection, &whole.merged, self);
        substitute(&mut select.distinct, &whole.merged, self);
        substitute(&mut select.from, &whole.merged, self);
        substitute(&mut select.selection, &whole.merged, self);
        substitute(&mut select.group_by, &whole.merged, self);
        substitute(&mut select.having, &whole.merged, self);
        substitute(&mut select.named_window, &whole.merged, self);
        Ok(Some(whole.merged))
    }
}

/// DataFusion takes it as it is: one side's column is right unless that side may have no row.
fn not_known(from: &[TableWithJoins]) -> Result<Option<Merged>> {
    fn may_lack_left(table: &TableWithJoins) -> bool {
        let nested = |factor: &TableFactor| match factor {
            TableFactor::NestedJoin { table_with_joins, .. } => may_lack_left(table_with_joins),
            _ => false,
        };
        let here = |join: &Join| by_name(join).is_some_and(|named| named.of != Of::Left) || nested(&join.relation);
        nested(&table.relation) || table.joins.iter().any(here)
    }
    if from.iter().any(may_lack_left) {
        return Err(Error::unsupported("RIGHT or FULL JOIN .. USING beside something whose columns have no names")
            .with_hint("Write ON, or name the columns: f() AS t (a, b)."));
    }
    Ok(None)
}

/// The list with `*` spelled out, and names for columns that have become expressions.
fn listed(items: Vec<SelectItem>, from: &Side) -> Result<Vec<SelectItem>> {
    let mut list = Vec::with_capacity(items.len());
    for item in items {
        match item {
            SelectItem::Wildcard(options) => {
                if options.opt_exclude.is_some() || options.opt_except.is_some() || options.opt_replace.is_some() {
                    return Err(Error::unsupported("* EXCLUDE of tables joined by USING")
                        .with_hint("Name the columns, or write ON."));
                }
                list.extend(from.star.iter().map(|(name, expr)| column(name, expr)));
            }
            SelectItem::UnnamedExpr(Expr::Identifier(name)) if from.merged.contains_key(&fold(&name)) => {
                let name = fold(&name);
                list.push(column(&name, &from.merged[&name]));
            }
            other => list.push(other),
        }
    }
    Ok(list)
}

fn column(name: &str, expr: &Expr) -> SelectItem {
    match expr {
        Expr::CompoundIdentifier(_) => SelectItem::UnnamedExpr(expr.clone()),
        _ => SelectItem::ExprWithAlias { expr: expr.clone(), alias: Ident::with_quote('"', name) },
    }
}

/// A name alone in ORDER BY is a result's, if one is called so; inside an expression it never is.
fn order_by(query: &mut Query, merged: &Merged, scope: &Scope) {
    let SetExpr::Select(select) = query.body.as_ref() else { return };
    let Some(OrderByKind::Expressions(keys)) = query.order_by.as_mut().map(|order| &mut order.kind) else { return };
    let called = |name: &Ident| {
        let alias =
            |item: &SelectItem| matches!(item, SelectItem::ExprWithAlias { alias, .. } if fold(alias) == fold(name));
        select.projection.iter().any(alias)
    };
    for key in keys {
        match &mut key.expr {
            Expr::Identifier(name) if called(name) => {}
            expr => substitute(expr, merged, scope),
        }
    }
}
