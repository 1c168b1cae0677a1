//! JOIN .. USING and NATURAL JOIN as joins with ON, where every column says whose it is.
//!
//! ```text
//!   SELECT *, x + 1 FROM t FULL JOIN u USING (x)
//!     ──▶  SELECT coalesce(t.x, u.x) AS x, t.a, u.b, coalesce(t.x, u.x) + 1 FROM t FULL JOIN u ON t.x = u.x
//! ```
//!
//! The joined column is the left one's, of a RIGHT JOIN the right one's, of a FULL JOIN whichever is there; in `*` it comes first.
//! DataFusion would take one side's, NULL where that side has no row, and leave it in its place.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use datafusion::common::TableReference;
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Cte, Expr, Ident, Join, JoinConstraint, JoinOperator, ObjectName, OrderByKind, Query, Select,
    SelectItem, SetExpr, Statement, TableAlias, TableFactor, TableWithJoins, Value, Visit, VisitMut, Visitor,
    VisitorMut, WildcardAdditionalOptions,
};
use tidemark_common::{Error, Result, SqlState};

use crate::grammar::build::call;
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

fn joins_by_name(table: &TableWithJoins) -> bool {
    let nested = |factor: &TableFactor| match factor {
        TableFactor::NestedJoin { table_with_joins, .. } => joins_by_name(table_with_joins),
        _ => false,
    };
    nested(&table.relation) || table.joins.iter().any(|join| by_name(join).is_some() || nested(&join.relation))
}

/// Whose column the joined one is.
#[derive(Clone, Copy, PartialEq)]
enum Of {
    Left,
    Right,
    Either,
}

/// A join that may be by name.
struct Named<'a> {
    constraint: &'a JoinConstraint,
    /// The same join with another constraint.
    with: fn(JoinConstraint) -> JoinOperator,
    of: Of,
}

/// `None`: it has no USING and is not NATURAL.
fn by_name(join: &Join) -> Option<Named<'_>> {
    let (constraint, with, of): (_, fn(JoinConstraint) -> JoinOperator, _) = match &join.join_operator {
        JoinOperator::Join(c) => (c, JoinOperator::Join, Of::Left),
        JoinOperator::Inner(c) => (c, JoinOperator::Inner, Of::Left),
        JoinOperator::Left(c) => (c, JoinOperator::Left, Of::Left),
        JoinOperator::LeftOuter(c) => (c, JoinOperator::LeftOuter, Of::Left),
        JoinOperator::Right(c) => (c, JoinOperator::Right, Of::Right),
        JoinOperator::RightOuter(c) => (c, JoinOperator::RightOuter, Of::Right),
        JoinOperator::FullOuter(c) => (c, JoinOperator::FullOuter, Of::Either),
        _ => return None,
    };
    let named = Named { constraint, with, of };
    matches!(constraint, JoinConstraint::Using(_) | JoinConstraint::Natural).then_some(named)
}

/// What unqualified names of relations mean.
#[derive(Clone)]
struct Scope<'a> {
    resolver: &'a dyn Resolver,
    /// The columns of WITH queries, the innermost last; `None`: not known.
    ctes: Vec<(String, Option<Vec<String>>)>,
}

/// A column of a FROM: its name, and how to say it.
type Columns = Vec<(String, Expr)>;

/// A FROM, or a part of one.
#[derive(Default)]
struct Side {
    /// What `*` is.
    star: Columns,
    /// Of these, columns that USING has made of two.
    merged: Merged,
}

impl Scope<'_> {
    /// The names of a query's columns; `None`: it takes planning to know.
    fn columns(&self, query: &Query) -> Option<Vec<String>> {
        let mut inside = self.clone();
        inside.enter(query);
        let mut body = query.body.as_ref();
        loop {
            match body {
                SetExpr::Select(select) => return inside.select_columns(select),
                SetExpr::SetOperation { left, .. } => body = left,
                SetExpr::Query(query) => return inside.columns(query),
                SetExpr::Values(values) => {
                    return Some((1..=values.rows.first()?.content.len()).map(|n| format!("column{n}")).collect());
                }
                _ => return None,
            }
        }
    }

    fn enter(&mut self, query: &Query) {
        query.with.iter().flat_map(|with| &with.cte_tables).for_each(|cte| self.add(cte));
    }

    fn add(&mut self, cte: &Cte) {
        let columns = self.columns(&cte.query).map(|columns| renamed(columns, Some(&cte.alias)));
        self.ctes.push((folded(&cte.alias.name), columns));
    }

    fn leave(&mut self, query: &Query) {
        let own = query.with.as_ref().map_or(0, |with| with.cte_tables.len());
        self.ctes.truncate(self.ctes.len() - own);
    }

    fn select_columns(&self, select: &Select) -> Option<Vec<String>> {
        let mut names = Vec::new();
        for item in &select.projection {
            match item {
                SelectItem::ExprWithAlias { alias, .. } => names.push(folded(alias)),
                SelectItem::UnnamedExpr(Expr::Identifier(name)) => names.push(folded(name)),
                SelectItem::UnnamedExpr(Expr::CompoundIdentifier(path)) => names.push(folded(path.last()?)),
                SelectItem::Wildcard(options) if *options == WildcardAdditionalOptions::default() => {
                    names.extend(self.from(&select.from)?.star.into_iter().map(|(name, _)| name));
                }
                _ => return None,
            }
        }
        Some(names)
    }

    fn from(&self, from: &[TableWithJoins]) -> Option<Side> {
        let mut whole = Side::default();
        for table in from {
            let side = self.joined(&mut table.clone()).ok()??;
            whole.star.extend(side.star);
            whole.merged.extend(side.merged);
        }
        Some(whole)
    }

    /// The columns of joined tables; joins by name get their ON. `None`: some are not known.
    fn joined(&self, table: &mut TableWithJoins) -> Result<Option<Side>> {
        let mut left = self.factor(&mut table.relation)?;
        for join in &mut table.joins {
            let right = self.factor(&mut join.relation)?;
            left = match (left, right) {
                (Some(left), Some(right)) => Some(self.join(left, right, join)?),
                _ => None,
            };
        }
        Ok(left)
    }

    fn factor(&self, factor: &mut TableFactor) -> Result<Option<Side>> {
        let (columns, alias, own) = match factor {
            TableFactor::NestedJoin { table_with_joins, alias: None } => return self.joined(table_with_joins),
            TableFactor::Derived { subquery, alias: Some(alias), .. } => {
                let columns = self.columns(subquery);
                (columns, Some(&*alias), vec![alias.name.clone()])
            }
            TableFactor::Table { name, alias, args: None, .. } => {
                let own: Option<Vec<Ident>> = name.0.iter().map(|part| part.as_ident().cloned()).collect();
                let Some(own) = own else { return Ok(None) };
                (self.table(name), alias.as_ref(), own)
            }
            TableFactor::Table { alias: Some(alias), .. }
            | TableFactor::Function { alias: Some(alias), .. }
            | TableFactor::UNNEST { alias: Some(alias), .. }
                if !alias.columns.is_empty() =>
            {
                let columns = alias.columns.iter().map(|c| folded(&c.name)).collect();
                (Some(columns), Some(&*alias), vec![alias.name.clone()])
            }
            _ => return Ok(None),
        };
        let qualifier = alias.map_or(own, |alias| vec![alias.name.clone()]);
        Ok(columns.map(|columns| Side { star: qualified(renamed(columns, alias), &qualifier), ..Side::default() }))
    }

    fn table(&self, name: &ObjectName) -> Option<Vec<String>> {
        let parts: Option<Vec<String>> = name.0.iter().map(|part| part.as_ident().map(folded)).collect();
        let reference = match parts?.as_slice() {
            [table] => {
                if let Some((_, columns)) = self.ctes.iter().rfind(|(name, _)| name == table) {
                    return columns.clone();
                }
                TableReference::bare(table.as_str())
            }
            [schema, table] => TableReference::partial(schema.as_str(), table.as_str()),
            [database, schema, table] => TableReference::full(database.as_str(), schema.as_str(), table.as_str()),
            _ => return None,
        };
        let relation = self.resolver.resolve(&reference).ok()?;
        Some(relation.schema().fields().iter().map(|field| field.name().clone()).collect())
    }

    fn join(&self, left: Side, right: Side, join: &mut Join) -> Result<Side> {
        let Some(named) = by_name(join) else {
            let merged = left.merged.iter().chain(&right.merged).map(|(n, e)| (n.clone(), e.clone())).collect();
            substitute(&mut join.join_operator, &merged, self);
            let lefts = !matches!(join.join_operator, JoinOperator::RightSemi(_) | JoinOperator::RightAnti(_));
            let rights = !matches!(
                join.join_operator,
                JoinOperator::Semi(_) | JoinOperator::LeftSemi(_) | JoinOperator::Anti(_) | JoinOperator::LeftAnti(_)
            );
            let sides = [(left, lefts), (right, rights)].into_iter().filter(|(_, kept)| *kept);
            return Ok(sides.fold(Side::default(), |mut all, (side, _)| {
                all.star.extend(side.star);
                all.merged.extend(side.merged);
                all
            }));
        };
        let on = match named.constraint {
            JoinConstraint::Using(names) => names.iter().map(using_name).collect::<Result<Vec<_>>>()?,
            _ => common(&left.star, &right.star),
        };
        let mut all = Side { star: Vec::new(), merged: left.merged };
        all.merged.extend(right.merged);
        let mut condition: Option<Expr> = None;
        for name in &on {
            let (of_left, of_right) = (the_one(&left.star, name, "left")?, the_one(&right.star, name, "right")?);
            let equal = Expr::BinaryOp {
                left: Box::new(of_left.clone()),
                op: BinaryOperator::Eq,
                right: Box::new(of_right.clone()),
            };
            condition = Some(match condition {
                None => equal,
                Some(before) => {
                    Expr::BinaryOp { left: Box::new(before), op: BinaryOperator::And, right: Box::new(equal) }
                }
            });
            let merged = match named.of {
                Of::Left => of_left,
                Of::Right => of_right,
                Of::Either => call("coalesce", vec![of_left, of_right]),
            };
            all.star.push((name.clone(), merged.clone()));
            all.merged.insert(name.clone(), merged);
        }
        all.star.extend(left.star.into_iter().chain(right.star).filter(|(name, _)| !on.contains(name)));
        let always = || Expr::Value(Value::Boolean(true).into());
        join.join_operator = (named.with)(JoinConstraint::On(condition.unwrap_or_else(always)));
        Ok(all)
    }
}

fn using_name(name: &ObjectName) -> Result<String> {
    match name.0.as_slice() {
        [part] => part.as_ident().map(folded).ok_or_else(|| Error::syntax("USING takes names of columns")),
        _ => Err(Error::syntax(format!("USING ({name}): a column that both sides have is named without a table"))),
    }
}

/// Columns that both sides have, in the left one's order.
fn common(left: &Columns, right: &Columns) -> Vec<String> {
    let rights: BTreeSet<&String> = right.iter().map(|(name, _)| name).collect();
    let mut common: Vec<String> = Vec::new();
    for (name, _) in left {
        if rights.contains(name) && !common.contains(name) {
            common.push(name.clone());
        }
    }
    common
}

fn the_one(columns: &Columns, name: &str, side: &str) -> Result<Expr> {
    let mut named = columns.iter().filter(|(n, _)| n == name);
    match (named.next(), named.next()) {
        (Some((_, expr)), None) => Ok(expr.clone()),
        (None, _) => Err(Error::new(
            SqlState::UndefinedColumn,
            format!("column \"{name}\" specified in USING clause does not exist in {side} table"),
        )),
        (Some(_), Some(_)) => Err(Error::new(
            SqlState::AmbiguousColumn,
            format!("common column name \"{name}\" appears more than once in {side} table"),
        )),
    }
}

fn qualified(columns: Vec<String>, qualifier: &[Ident]) -> Columns {
    let path = |name: &str| {
        let column = Ident::with_quote('"', name);
        Expr::CompoundIdentifier(qualifier.iter().cloned().chain([column]).collect())
    };
    columns.into_iter().map(|name| (name.clone(), path(&name))).collect()
}

/// An alias may name the first columns.
fn renamed(mut columns: Vec<String>, alias: Option<&TableAlias>) -> Vec<String> {
    let names = alias.into_iter().flat_map(|alias| &alias.columns);
    columns.iter_mut().zip(names).for_each(|(column, name)| *column = folded(&name.name));
    columns
}

fn folded(ident: &Ident) -> String {
    if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_lowercase() }
}

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
            SelectItem::UnnamedExpr(Expr::Identifier(name)) if from.merged.contains_key(&folded(&name)) => {
                let name = folded(&name);
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
        let alias = |item: &SelectItem| matches!(item, SelectItem::ExprWithAlias { alias, .. } if folded(alias) == folded(name));
        select.projection.iter().any(alias)
    };
    for key in keys {
        match &mut key.expr {
            Expr::Identifier(name) if called(name) => {}
            expr => substitute(expr, merged, scope),
        }
    }
}

/// Puts what USING has merged in the place of its name, in subqueries too where they have no column of that name.
fn substitute(node: &mut impl VisitMut, merged: &Merged, scope: &Scope) {
    if !merged.is_empty() {
        let mut names = Names { merged, scope: scope.clone(), own: Vec::new() };
        let ControlFlow::Continue(()) = node.visit(&mut names);
    }
}

struct Names<'a> {
    merged: &'a Merged,
    scope: Scope<'a>,
    /// The columns of each SELECT on the way; `None`: not known, so that any name may be its own.
    own: Vec<Option<BTreeSet<String>>>,
}

impl VisitorMut for Names<'_> {
    type Break = std::convert::Infallible;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Self::Break> {
        self.scope.enter(query);
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, query: &mut Query) -> ControlFlow<Self::Break> {
        self.scope.leave(query);
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<Self::Break> {
        let own = self.scope.from(&select.from);
        self.own.push(own.map(|side| side.star.into_iter().map(|(name, _)| name).collect()));
        ControlFlow::Continue(())
    }

    fn post_visit_select(&mut self, _select: &mut Select) -> ControlFlow<Self::Break> {
        self.own.pop();
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Self::Break> {
        if let Expr::Identifier(name) = expr
            && let Some(merged) = self.merged.get(&folded(name))
            && self.own.iter().all(|own| own.as_ref().is_some_and(|own| !own.contains(&folded(name))))
        {
            *expr = merged.clone();
        }
        ControlFlow::Continue(())
    }
}
