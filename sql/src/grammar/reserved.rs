//! Words that Postgres reserves, where `sqlparser` took them for names: `SELECT a, FROM t`, `SELECT * FROM WHERE x`.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{Expr, Ident, ObjectName, Visit, Visitor};
use datafusion::sql::sqlparser::tokenizer::Location;

/// Reserved in Postgres. Not all of them: DEFAULT and ON are values here and there, `offset` is a column of sources.
const RESERVED: [&str; 46] = [
    "SELECT",
    "FROM",
    "WHERE",
    "GROUP",
    "ORDER",
    "HAVING",
    "UNION",
    "EXCEPT",
    "INTERSECT",
    "LIMIT",
    "FETCH",
    "FOR",
    "INTO",
    "USING",
    "AND",
    "OR",
    "NOT",
    "AS",
    "IN",
    "CASE",
    "WHEN",
    "THEN",
    "ELSE",
    "END",
    "WITH",
    "DISTINCT",
    "RETURNING",
    "WINDOW",
    "CREATE",
    "GRANT",
    "PRIMARY",
    "FOREIGN",
    "REFERENCES",
    "UNIQUE",
    "CHECK",
    "CONSTRAINT",
    "COLUMN",
    "COLLATE",
    "CAST",
    "ASC",
    "DESC",
    "BOTH",
    "LEADING",
    "TRAILING",
    "PLACING",
    "TABLE",
];

/// Where the first reserved word stands that is used as a name.
pub(super) fn first(node: &impl Visit) -> Option<Location> {
    match node.visit(&mut Reserved) {
        ControlFlow::Break(location) => Some(location),
        ControlFlow::Continue(()) => None,
    }
}

struct Reserved;

impl Visitor for Reserved {
    type Break = Location;

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<Location> {
        match relation.0.first().and_then(|part| part.as_ident()) {
            Some(ident) if relation.0.len() == 1 => check(ident),
            _ => ControlFlow::Continue(()),
        }
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<Location> {
        match expr {
            Expr::Identifier(ident) => check(ident),
            _ => ControlFlow::Continue(()),
        }
    }
}

fn check(ident: &Ident) -> ControlFlow<Location> {
    let reserved = ident.quote_style.is_none() && RESERVED.iter().any(|word| ident.value.eq_ignore_ascii_case(word));
    if reserved && ident.span.start.line > 0 { ControlFlow::Break(ident.span.start) } else { ControlFlow::Continue(()) }
}
