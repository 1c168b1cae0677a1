//! What columns are called that no one named: as Postgres would, so that `count` can be asked for by that name.

use std::collections::BTreeSet;

use datafusion::sql::sqlparser::ast::{
    DataType, Distinct, Expr, Function, Ident, OrderByKind, Query, Select, SelectItem, SelectItemQualifiedWildcardKind,
    SetExpr, Statement, Value,
};
use tidemark_sql::ast::fold;

use super::rewrite::{first_argument, parts};

const UNNAMED: &str = "?column?";

/// The names of a query's columns as the client should see them, two of one name included; `None`: it takes planning to know
/// (`*`), or it is no query. To be asked before [`super::rewrite_statement`].
pub fn output_names(statement: &Statement) -> Option<Vec<String>> {
    let Statement::Query(query) = statement else { return None };
    let mut body = query.body.as_ref();
    loop {
        match body {
            SetExpr::Select(select) => return select.projection.iter().map(item_name).collect(),
            SetExpr::SetOperation { left, .. } => body = left,
            SetExpr::Query(query) => body = query.body.as_ref(),
            _ => return None,
        }
    }
}

fn item_name(item: &SelectItem) -> Option<String> {
    match item {
        SelectItem::UnnamedExpr(expr) => Some(output_name(expr)),
        SelectItem::ExprWithAlias { alias, .. } => Some(fold(alias)),
        _ => None,
    }
}

/// What Postgres calls the column of an expression.
pub(super) fn output_name(expr: &Expr) -> String {
    figure(expr).0
}

/// A name, and whether it is a column's or a function's own: a cast keeps such a name and replaces any other by the type's.
fn figure(expr: &Expr) -> (String, bool) {
    let own = |name: String| (name, true);
    let weak = |name: &str| (name.to_string(), false);
    match expr {
        Expr::Identifier(ident) => own(fold(ident)),
        Expr::CompoundIdentifier(idents) => idents.last().map_or_else(|| weak(UNNAMED), |ident| own(fold(ident))),
        Expr::Function(f) => match parts(&f.name).last().map(|n| n.to_lowercase()) {
            Some(name) => figure_call(f, name),
            None => weak(UNNAMED),
        },
        Expr::Nested(inner) | Expr::Collate { expr: inner, .. } => figure(inner),
        Expr::CompoundFieldAccess { root, .. } => figure(root),
        Expr::Cast { expr, data_type, .. } => match figure(expr) {
            (name, true) => own(name),
            _ => (type_name(data_type), false),
        },
        Expr::Case { else_result, .. } => match else_result.as_deref().map(figure) {
            Some((name, true)) => own(name),
            _ => weak("case"),
        },
        Expr::Subquery(query) => match query.body.as_ref() {
            SetExpr::Select(select) => select.projection.first().and_then(item_name).map_or_else(|| weak(UNNAMED), own),
            _ => weak(UNNAMED),
        },
        Expr::TypedString(typed) => (type_name(&typed.data_type), false),
        Expr::Value(v) if matches!(v.value, Value::Boolean(_)) => weak("bool"),
        Expr::Interval(_) => weak("interval"),
        Expr::Exists { .. } => own("exists".into()),
        Expr::Extract { .. } => own("extract".into()),
        Expr::Substring { .. } => own("substring".into()),
        Expr::Trim { .. } => own("btrim".into()),
        Expr::Position { .. } => own("position".into()),
        Expr::Overlay { .. } => own("overlay".into()),
        Expr::Ceil { .. } => own("ceil".into()),
        Expr::Floor { .. } => own("floor".into()),
        Expr::AtTimeZone { .. } => own("timezone".into()),
        Expr::Array(_) => own("array".into()),
        _ => weak(UNNAMED),
    }
}

/// The grammar writes casts and operators that DataFusion lacks as calls of `tidemark_..`: they keep the name of what was
/// written.
fn figure_call(f: &Function, name: String) -> (String, bool) {
    let Some(operation) = name.strip_prefix("tidemark_") else { return (name, true) };
    let Some(target) = operation.strip_prefix("to_") else { return (UNNAMED.into(), false) };
    match first_argument(f).map(figure) {
        Some((name, true)) => (name, true),
        // char(n) is called bpchar inside.
        _ => (super::context::short_type_name(target), false),
    }
}

fn type_name(data_type: &DataType) -> String {
    let text = data_type.to_string().to_lowercase();
    super::context::short_type_name(text.strip_prefix("pg_catalog.").unwrap_or(&text))
}

pub(super) fn free_name(name: String, used: &BTreeSet<String>) -> String {
    let mut free = name.clone();
    let mut n = 0;
    while used.contains(&free) {
        n += 1;
        free = format!("{name}_{n}");
    }
    free
}

/// Gives unnamed columns their names. Postgres allows two columns of one name, DataFusion does not: a second one, named or not,
/// gets a number, and the client sees [`output_names`].
pub(super) fn name_columns(select: &mut Select) {
    if matches!(select.distinct, Some(Distinct::On(_))) {
        // DISTINCT ON, ORDER BY and the list must go on saying the same.
        return;
    }
    let covered = covered_by_wildcards(select);
    let wild = select.projection.iter().filter_map(item_name).count() < select.projection.len();
    // Names that stay as they are: columns, and what was named.
    let mut used: BTreeSet<String> =
        select.projection.iter().filter(|item| is_named(item)).filter_map(item_name).collect();
    let mut columns: Vec<Vec<String>> = Vec::new();
    let mut aliases: BTreeSet<String> = BTreeSet::new();
    for (item, covered) in select.projection.iter_mut().zip(covered) {
        let Some(name) = item_name(item) else { continue };
        let (expr, taken) = match &*item {
            SelectItem::ExprWithAlias { expr, .. } => (expr, !aliases.insert(name.clone())),
            SelectItem::UnnamedExpr(expr) => match column_path(expr) {
                Some(path) => {
                    let taken = covered || columns.iter().any(|c| c.ends_with(&path) || path.ends_with(c));
                    columns.push(path);
                    (expr, taken)
                }
                // Beside a wildcard a cast column would have the name of the column itself.
                None => {
                    let taken = used.contains(&name) || (wild && is_cast(expr) && name != UNNAMED);
                    let alias = if taken { numbered(&name, &used) } else { name };
                    used.insert(alias.clone());
                    *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias: Ident::with_quote('"', alias) };
                    continue;
                }
            },
            _ => continue,
        };
        if taken {
            let alias = numbered(&name, &used);
            used.insert(alias.clone());
            *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias: Ident::with_quote('"', alias) };
        }
    }
}

fn is_named(item: &SelectItem) -> bool {
    match item {
        SelectItem::UnnamedExpr(expr) => column_path(expr).is_some(),
        _ => true,
    }
}

/// `t.a` as its parts, if the expression is a column.
fn column_path(expr: &Expr) -> Option<Vec<String>> {
    match expr {
        Expr::Identifier(ident) => Some(vec![fold(ident)]),
        Expr::CompoundIdentifier(idents) => Some(idents.iter().map(fold).collect()),
        _ => None,
    }
}

fn is_cast(expr: &Expr) -> bool {
    match expr {
        Expr::Cast { .. } => true,
        Expr::Function(f) => parts(&f.name).last().is_some_and(|n| n.starts_with("tidemark_to_")),
        Expr::Nested(inner) => is_cast(inner),
        _ => false,
    }
}

fn numbered(name: &str, used: &BTreeSet<String>) -> String {
    (1..).map(|n| format!("{name}_{n}")).find(|n| !used.contains(n)).unwrap_or_else(|| name.to_string())
}

/// `SELECT DISTINCT f(x) .. ORDER BY f(x)`: DataFusion looks for the expression under the name that it was given.
pub(super) fn name_distinct_order(query: &mut Query) {
    let SetExpr::Select(select) = query.body.as_ref() else { return };
    let Some(OrderByKind::Expressions(order)) = query.order_by.as_mut().map(|o| &mut o.kind) else { return };
    if select.distinct.is_none() {
        return;
    }
    for by in order {
        let written = by.expr.to_string();
        let listed = select.projection.iter().find_map(|item| match item {
            SelectItem::ExprWithAlias { expr, alias } if expr.to_string() == written => Some(alias.clone()),
            _ => None,
        });
        if let Some(alias) = listed {
            by.expr = Expr::Identifier(alias);
        }
    }
}

/// Which columns `*` or `t.*` beside them brings once more.
fn covered_by_wildcards(select: &Select) -> Vec<bool> {
    let one_table = matches!(select.from.as_slice(), [table] if table.joins.is_empty());
    let wild = |qualifier: &str| {
        select.projection.iter().any(|item| match item {
            SelectItem::Wildcard(_) => true,
            SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(name), _) => {
                (one_table && qualifier.is_empty()) || parts(name).last().is_some_and(|n| *n == qualifier)
            }
            _ => false,
        })
    };
    let covers = |item: &SelectItem| match item {
        SelectItem::UnnamedExpr(Expr::CompoundIdentifier(idents)) if idents.len() == 2 => wild(&idents[0].value),
        SelectItem::UnnamedExpr(Expr::Identifier(_)) => wild(""),
        _ => false,
    };
    select.projection.iter().map(covers).collect()
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
    use datafusion::sql::sqlparser::parser::Parser;

    use super::*;

    #[test]
    fn columns_are_called_as_postgres_calls_them() {
        let sql = "SELECT 1, count(*), a.B, \"X\", x::text, 'y'::text, '7'::text::int, CASE WHEN a THEN 1 END, EXISTS (SELECT 1), \
                   (SELECT max(q) FROM t), true, now() AS \"When\", extract(year FROM x), a + 1, sum(a) OVER ()";
        let statement = Parser::parse_sql(&PostgreSqlDialect {}, sql).unwrap().remove(0);
        let expected = [
            "?column?", "count", "b", "X", "x", "text", "int4", "case", "exists", "max", "bool", "When", "extract",
            "?column?", "sum",
        ];
        assert_eq!(output_names(&statement).unwrap(), expected);
        let star = Parser::parse_sql(&PostgreSqlDialect {}, "SELECT *, 1 FROM t").unwrap().remove(0);
        assert_eq!(output_names(&star), None);
    }
}
