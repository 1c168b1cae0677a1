//! The columns of a FROM, and its joins by name as joins with ON.

use std::collections::BTreeSet;

use datafusion::common::TableReference;
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Cte, Expr, Ident, Join, JoinConstraint, JoinOperator, ObjectName, Query, Select, SelectItem,
    SetExpr, TableAlias, TableFactor, TableWithJoins, Value, WildcardAdditionalOptions,
};
use tidemark_common::{Error, Result, SqlState};

use super::Merged;
use super::names::substitute;
use crate::ast::fold;
use crate::grammar::build::call;
use crate::planner::Resolver;

pub(super) fn joins_by_name(table: &TableWithJoins) -> bool {
    let nested = |factor: &TableFactor| match factor {
        TableFactor::NestedJoin { table_with_joins, .. } => joins_by_name(table_with_joins),
        _ => false,
    };
    nested(&table.relation) || table.joins.iter().any(|join| by_name(join).is_some() || nested(&join.relation))
}

/// Whose column the joined one is.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Of {
    Left,
    Right,
    Either,
}

/// A join that may be by name.
pub(super) struct Named<'a> {
    constraint: &'a JoinConstraint,
    /// The same join with another constraint.
    with: fn(JoinConstraint) -> JoinOperator,
    pub(super) of: Of,
}

/// `None`: it has no USING and is not NATURAL.
pub(super) fn by_name(join: &Join) -> Option<Named<'_>> {
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
pub(super) struct Scope<'a> {
    pub(super) resolver: &'a dyn Resolver,
    /// The columns of WITH queries, the innermost last; `None`: not known.
    pub(super) ctes: Vec<(String, Option<Vec<String>>)>,
}

/// A column of a FROM: its name, and how to say it.
type Columns = Vec<(String, Expr)>;

/// A FROM, or a part of one.
#[derive(Default)]
pub(super) struct Side {
    /// What `*` is.
    pub(super) star: Columns,
    /// Of these, columns that USING has made of two.
    pub(super) merged: Merged,
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

    pub(super) fn enter(&mut self, query: &Query) {
        query.with.iter().flat_map(|with| &with.cte_tables).for_each(|cte| self.add(cte));
    }

    pub(super) fn add(&mut self, cte: &Cte) {
        let columns = self.columns(&cte.query).map(|columns| renamed(columns, Some(&cte.alias)));
        self.ctes.push((fold(&cte.alias.name), columns));
    }

    pub(super) fn leave(&mut self, query: &Query) {
        let own = query.with.as_ref().map_or(0, |with| with.cte_tables.len());
        self.ctes.truncate(self.ctes.len() - own);
    }

    fn select_columns(&self, select: &Select) -> Option<Vec<String>> {
        let mut names = Vec::new();
        for item in &select.projection {
            match item {
                SelectItem::ExprWithAlias { alias, .. } => names.push(fold(alias)),
                SelectItem::UnnamedExpr(Expr::Identifier(name)) => names.push(fold(name)),
                SelectItem::UnnamedExpr(Expr::CompoundIdentifier(path)) => names.push(fold(path.last()?)),
                SelectItem::Wildcard(options) if *options == WildcardAdditionalOptions::default() => {
                    names.extend(self.from(&select.from)?.star.into_iter().map(|(name, _)| name));
                }
                _ => return None,
            }
        }
        Some(names)
    }

    pub(super) fn from(&self, from: &[TableWithJoins]) -> Option<Side> {
        let mut whole = Side::default();
        for table in from {
            let side = self.joined(&mut table.clone()).ok()??;
            whole.star.extend(side.star);
            whole.merged.extend(side.merged);
        }
        Some(whole)
    }

    /// The columns of joined tables; joins by name get their ON. `None`: some are not known.
    pub(super) fn joined(&self, table: &mut TableWithJoins) -> Result<Option<Side>> {
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
                let columns = alias.columns.iter().map(|c| fold(&c.name)).collect();
                (Some(columns), Some(&*alias), vec![alias.name.clone()])
            }
            _ => return Ok(None),
        };
        let qualifier = alias.map_or(own, |alias| vec![alias.name.clone()]);
        Ok(columns.map(|columns| Side { star: qualified(renamed(columns, alias), &qualifier), ..Side::default() }))
    }

    fn table(&self, name: &ObjectName) -> Option<Vec<String>> {
        let parts: Option<Vec<String>> = name.0.iter().map(|part| part.as_ident().map(fold)).collect();
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
        [part] => part.as_ident().map(fold).ok_or_else(|| Error::syntax("USING takes names of columns")),
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
    columns.iter_mut().zip(names).for_each(|(column, name)| *column = fold(&name.name));
    columns
}
