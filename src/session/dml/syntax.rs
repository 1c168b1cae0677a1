//! Statements' syntax, as INSERT, UPDATE, DELETE and COPY share it: column lists, SET, DEFAULT, parameters, WITH.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Int64Array};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::scalar::ScalarValue;
use datafusion::sql::sqlparser::ast as sql;
use tidemark_catalog::{Column, Object};
use tidemark_common::types::SqlType;
use tidemark_common::{Error, Result, SqlState};
use tidemark_sql::ast::Statement;
use tidemark_sql::grammar;

use super::super::normalize::{given_type, refuse_derived};
use super::super::{Outcome, Session, describe, fold};
use crate::coordinator::definitions;
use crate::query::Names;

/// `WITH .. INSERT | UPDATE | DELETE`, which the parser has as a query.
pub(in crate::session) fn modifying(query: &sql::Query) -> Option<&sql::Statement> {
    match query.body.as_ref() {
        sql::SetExpr::Insert(statement) | sql::SetExpr::Update(statement) | sql::SetExpr::Delete(statement) => {
            Some(statement)
        }
        _ => None,
    }
}

/// An INSERT whose query knows the tables of a WITH before it.
fn insert_with(insert: &sql::Insert, with: Option<&sql::With>) -> sql::Insert {
    let mut insert = insert.clone();
    if let (Some(source), Some(with)) = (&mut insert.source, with) {
        let own = source.with.take().map(|w| w.cte_tables).unwrap_or_default();
        let mut with = with.clone();
        with.cte_tables.extend(own);
        source.with = Some(with);
    }
    insert
}

impl Session {
    /// Runs what [`modifying`] found.
    pub(in crate::session) async fn modify(
        &mut self,
        query: &sql::Query,
        parameters: &[ScalarValue],
    ) -> Result<Outcome> {
        let with = query.with.as_ref();
        match modifying(query) {
            Some(sql::Statement::Insert(insert)) => self.insert(&insert_with(insert, with), parameters).await,
            Some(sql::Statement::Update(update)) => self.update_with(update, with, parameters).await,
            Some(sql::Statement::Delete(delete)) => self.delete_with(delete, with, parameters).await,
            _ => Err(Error::internal("the query changes nothing")),
        }
    }

    pub(in crate::session) fn describe_modifying(
        &mut self,
        query: &sql::Query,
        parameters: &mut [Option<SqlType>],
    ) -> Result<Option<SchemaRef>> {
        let with = query.with.as_ref();
        match modifying(query) {
            Some(sql::Statement::Insert(insert)) => self.describe_insert(&insert_with(insert, with), parameters),
            Some(sql::Statement::Update(update)) => self.describe_update_with(update, with, parameters),
            Some(sql::Statement::Delete(delete)) => self.describe_delete_with(delete, with, parameters),
            _ => Err(Error::internal("the query changes nothing")),
        }
    }
}

/// A given column list as positions, or all columns.
pub(in crate::session) fn column_positions(object: &Object, columns: &[sql::Ident]) -> Result<Vec<usize>> {
    if columns.is_empty() {
        return Ok((0..object.columns().len()).collect());
    }
    let mut positions = Vec::with_capacity(columns.len());
    for ident in columns {
        let position = column_position(object, &fold(ident))?;
        if positions.contains(&position) {
            let name = fold(ident);
            return Err(Error::new(SqlState::DuplicateColumn, format!("column \"{name}\" specified more than once")));
        }
        positions.push(position);
    }
    Ok(positions)
}

pub(in crate::session) fn column_position(object: &Object, name: &str) -> Result<usize> {
    object.columns().iter().position(|c| c.name == name).ok_or_else(|| {
        let error = Error::new(
            SqlState::UndefinedColumn,
            format!("column \"{name}\" of relation \"{}\" does not exist", object.name),
        );
        match tidemark_common::nearest(name, object.columns().iter().map(|c| c.name.as_str())) {
            Some(near) => error.with_hint(format!("Perhaps you meant the column \"{near}\".")),
            None => error,
        }
    })
}

/// The last part of a column's name in SET or an INSERT's list.
pub(in crate::session) fn column_ident(name: &sql::ObjectName) -> Result<sql::Ident> {
    let ident = name.0.last().and_then(|part| part.as_ident()).cloned();
    ident.ok_or_else(|| Error::syntax(format!("\"{name}\" is no column")))
}

/// `DEFAULT` in the place of a value.
pub(in crate::session) fn is_default(expr: &sql::Expr) -> bool {
    match expr {
        sql::Expr::Identifier(ident) => ident.quote_style.is_none() && ident.value.eq_ignore_ascii_case("default"),
        sql::Expr::Nested(inner) => is_default(inner),
        _ => false,
    }
}

/// What a column holds when nothing is given.
pub(in crate::session) fn default_of(column: &Column) -> Result<sql::Expr> {
    match &column.default {
        Some(text) => parse_expression(text),
        None => Ok(sql::Expr::Value(sql::Value::Null.into())),
    }
}

pub(in crate::session) fn parse_expression(text: &str) -> Result<sql::Expr> {
    if let Statement::Sql(statement) = grammar::parse_one(&format!("SELECT {text}"))?.statement
        && let sql::Statement::Query(query) = *statement
        && let sql::SetExpr::Select(select) = *query.body
        && let Some(sql::SelectItem::UnnamedExpr(expr)) = select.projection.into_iter().next()
    {
        return Ok(expr);
    }
    Err(Error::syntax(format!("\"{text}\" is no expression")))
}

/// `SELECT items FROM from WHERE selection`
pub(in crate::session) fn select_query(
    items: Vec<sql::SelectItem>,
    from: Vec<sql::TableWithJoins>,
    selection: Option<sql::Expr>,
) -> Result<sql::Query> {
    let mut query = definitions::stored_query("SELECT 1")?;
    let sql::SetExpr::Select(select) = query.body.as_mut() else {
        return Err(Error::internal("a query is no SELECT"));
    };
    select.projection = items;
    select.from = from;
    select.selection = selection;
    Ok(query)
}

/// Select items in the spelling that the planner knows, expressions with the names that Postgres gives them.
pub(in crate::session) fn rewritten_items(items: Vec<sql::SelectItem>) -> Result<Vec<sql::SelectItem>> {
    let mut statement = sql::Statement::Query(Box::new(select_query(items, vec![], None)?));
    crate::query::rewrite(&mut statement)?;
    if let sql::Statement::Query(query) = statement
        && let sql::SetExpr::Select(select) = *query.body
    {
        return Ok(select.projection);
    }
    Err(Error::internal("a rewritten SELECT is no SELECT"))
}

/// An expression in the spelling that the planner knows.
pub(in crate::session) fn rewritten(expr: sql::Expr) -> Result<sql::Expr> {
    match rewritten_items(vec![sql::SelectItem::UnnamedExpr(expr)])?.into_iter().next() {
        Some(sql::SelectItem::UnnamedExpr(expr) | sql::SelectItem::ExprWithAlias { expr, .. }) => Ok(expr),
        _ => Err(Error::internal("a rewritten expression is no expression")),
    }
}

/// The columns that SET names, each with its new value; DEFAULT in place.
pub(in crate::session) fn set_list(
    object: &Object,
    assignments: &[sql::Assignment],
) -> Result<Vec<(usize, sql::Expr)>> {
    let mut list: Vec<(usize, sql::Expr)> = Vec::new();
    let mut set = |name: &sql::ObjectName, value: sql::Expr| {
        let position = column_position(object, &fold(&column_ident(name)?))?;
        let column = &object.columns()[position];
        refuse_derived(object, position)?;
        if list.iter().any(|(p, _)| *p == position) {
            let message = format!("multiple assignments to same column \"{}\"", column.name);
            return Err(Error::syntax(message));
        }
        let default = is_default(&value);
        if column.identity == Some(tidemark_catalog::Identity::Always) && !default {
            return Err(Error::new(
                SqlState::GeneratedAlways,
                format!("column \"{}\" can only be updated to DEFAULT", column.name),
            )
            .with_detail(format!("Column \"{}\" is an identity column defined as GENERATED ALWAYS.", column.name)));
        }
        list.push((position, if default { default_of(column)? } else { value }));
        Ok(())
    };
    for assignment in assignments {
        match &assignment.target {
            sql::AssignmentTarget::ColumnName(name) => set(name, assignment.value.clone())?,
            sql::AssignmentTarget::Tuple(names) => {
                for (name, value) in names.iter().zip(row_values(&assignment.value, names.len())?) {
                    set(name, value)?;
                }
            }
        }
    }
    Ok(list)
}

/// `(1, 2)`, `ROW(1, 2)` or `(SELECT a, b ..)` as so many values.
fn row_values(value: &sql::Expr, count: usize) -> Result<Vec<sql::Expr>> {
    let values = match value {
        sql::Expr::Tuple(values) => values.clone(),
        sql::Expr::Subquery(query) => subquery_columns(query)?,
        sql::Expr::Function(f) if f.name.to_string().eq_ignore_ascii_case("row") => match &f.args {
            sql::FunctionArguments::List(list) => list
                .args
                .iter()
                .filter_map(|arg| match arg {
                    sql::FunctionArg::Unnamed(sql::FunctionArgExpr::Expr(expr)) => Some(expr.clone()),
                    _ => None,
                })
                .collect(),
            _ => Vec::new(),
        },
        sql::Expr::Nested(inner) if count == 1 => vec![inner.as_ref().clone()],
        other if count == 1 => vec![other.clone()],
        _ => {
            return Err(Error::unsupported(
                "source for a multiple-column UPDATE item must be a sub-SELECT or ROW() expression",
            ));
        }
    };
    if values.len() != count {
        return Err(Error::syntax("number of columns does not match number of values"));
    }
    Ok(values)
}

/// A sub-select of several columns as one of each: the planner has no rows as values.
fn subquery_columns(query: &sql::Query) -> Result<Vec<sql::Expr>> {
    let sql::SetExpr::Select(select) = query.body.as_ref() else {
        return Err(Error::unsupported("SET (..) = (..) needs a plain SELECT on the right"));
    };
    let one = |item: &sql::SelectItem| {
        if !matches!(item, sql::SelectItem::UnnamedExpr(_) | sql::SelectItem::ExprWithAlias { .. }) {
            return Err(Error::unsupported("SET (..) = (SELECT * ..) is not supported").with_hint("Name the columns."));
        }
        let mut query = query.clone();
        if let sql::SetExpr::Select(select) = query.body.as_mut() {
            select.projection = vec![item.clone()];
        }
        Ok(sql::Expr::Subquery(Box::new(query)))
    };
    select.projection.iter().map(one).collect()
}

/// A sequence 0, 1, 2, ... to tell rows by.
pub(in crate::session) fn row_positions(rows: usize) -> ArrayRef {
    Arc::new((0..rows as i64).collect::<Int64Array>())
}

/// Place of `$n` in the list of parameters.
pub(in crate::session) fn parameter_position(name: &str) -> Option<usize> {
    name.strip_prefix('$')?.parse::<usize>().ok()?.checked_sub(1)
}

/// True for a bare `$n`; it takes the type of the column that it is assigned to, unless the client gave one.
pub(in crate::session) fn note_parameter(
    expr: &sql::Expr,
    column: Option<SqlType>,
    parameters: &mut [Option<SqlType>],
) -> bool {
    match expr {
        sql::Expr::Nested(inner) => note_parameter(inner, column, parameters),
        sql::Expr::Value(value) => match &value.value {
            sql::Value::Placeholder(name) => {
                let slot = parameter_position(name).and_then(|at| parameters.get_mut(at));
                if let (Some(slot), Some(column)) = (slot, column) {
                    slot.get_or_insert(column);
                }
                true
            }
            _ => false,
        },
        _ => false,
    }
}

/// Types of the parameters within SET.
pub(in crate::session) fn describe_set(
    object: &Object,
    assignments: &[sql::Assignment],
    parameters: &mut [Option<SqlType>],
) -> Result<()> {
    for (position, expr) in set_list(object, assignments)? {
        note_parameter(&expr, Some(given_type(&object.columns()[position])), parameters);
    }
    Ok(())
}

/// Types of the parameters within expressions that have no columns.
pub(in crate::session) fn describe_expressions(
    names: &Names,
    exprs: Vec<sql::Expr>,
    parameters: &mut [Option<SqlType>],
) -> Result<()> {
    let with_parameters: Vec<sql::Expr> = exprs.into_iter().filter(has_parameter).collect();
    for chunk in with_parameters.chunks(64) {
        let items = chunk.iter().enumerate().map(|(i, expr)| sql::SelectItem::ExprWithAlias {
            expr: expr.clone(),
            alias: sql::Ident::new(format!("e{i}")),
        });
        let plan = names.plan(&select_query(items.collect(), vec![], None)?)?;
        describe::fill(parameters, plan.get_parameter_types().unwrap_or_default());
    }
    Ok(())
}

fn has_parameter(expr: &sql::Expr) -> bool {
    let found = sql::visit_expressions(expr, |e| match e {
        sql::Expr::Value(value) if matches!(value.value, sql::Value::Placeholder(_)) => {
            std::ops::ControlFlow::Break(())
        }
        _ => std::ops::ControlFlow::Continue(()),
    });
    found.is_break()
}
