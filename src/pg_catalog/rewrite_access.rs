//! Fields of rows, elements of vectors and patterns with an escape, in DataFusion's words.

use datafusion::sql::sqlparser::ast::{AccessExpr, BinaryOperator, Expr, Ident, Subscript, Value, ValueWithSpan};

use super::rewrite::{call, number};

/// `(f(x)).field`
pub(super) fn fields_of_row(expr: &mut Expr) {
    let Expr::CompoundFieldAccess { root, access_chain } = expr else { return };
    if !matches!(root.as_ref(), Expr::Nested(_)) {
        return;
    }
    let mut value = root.as_ref().clone();
    for access in access_chain {
        let AccessExpr::Dot(Expr::Identifier(field)) = access else { return };
        value = call("get_field", vec![value, Expr::Value(Value::SingleQuotedString(field.value.clone()).into())]);
    }
    *expr = value;
}

/// DataFusion's LIKE escapes by backslash only. `false`: the pattern is not made of literals.
pub(super) fn with_backslash(pattern: &mut Expr, escape: char) -> bool {
    match pattern {
        Expr::BinaryOp { left, op: BinaryOperator::StringConcat, right } => {
            with_backslash(left, escape) && with_backslash(right, escape)
        }
        Expr::Value(ValueWithSpan { value: Value::SingleQuotedString(text), .. }) => {
            let mut escaped = String::new();
            let mut chars = text.chars();
            while let Some(c) = chars.next() {
                match c {
                    c if c == escape => {
                        escaped.push('\\');
                        escaped.extend(chars.next());
                    }
                    '\\' => escaped.push_str("\\\\"),
                    c => escaped.push(c),
                }
            }
            *text = escaped;
            true
        }
        _ => false,
    }
}

/// Whether the expression is one of Postgres' vectors, whose first subscript is 0.
fn is_vector(name: &Ident) -> bool {
    matches!(name.value.to_lowercase().as_str(), "indkey" | "indclass" | "indoption" | "indcollation" | "proargtypes")
}

pub(super) fn ends_in_vector(expr: &Expr) -> bool {
    match expr {
        Expr::Identifier(ident) => is_vector(ident),
        Expr::CompoundIdentifier(idents) => idents.last().is_some_and(is_vector),
        _ => false,
    }
}

/// `indkey[0]` as `indkey[1]`.
pub(super) fn vector_subscripts(expr: &mut Expr) {
    let Expr::CompoundFieldAccess { root, access_chain } = expr else { return };
    let mut vector = ends_in_vector(root);
    for access in access_chain {
        match access {
            AccessExpr::Subscript(Subscript::Index { index }) if vector => {
                *index = Expr::BinaryOp {
                    left: Box::new(Expr::Nested(Box::new(index.clone()))),
                    op: BinaryOperator::Plus,
                    right: Box::new(number(1)),
                };
                vector = false;
            }
            AccessExpr::Dot(Expr::Identifier(ident)) => vector = is_vector(ident),
            _ => vector = false,
        }
    }
}

pub(super) fn subscripts(array: &Expr) -> Expr {
    let function = if ends_in_vector(array) { "vector_subscripts" } else { "array_subscripts" };
    call("unnest", vec![call(function, vec![array.clone()])])
}
