//! Small pieces of syntax tree, for the rewritings.

use std::ops::ControlFlow;

#[cfg(test)]
use datafusion::sql::sqlparser::ast::Statement;
use datafusion::sql::sqlparser::ast::{
    Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList, FunctionArguments, Ident, Interval, ObjectName,
    Value,
};
use tidemark_common::{Error, Result};

/// Puts what has been made of an expression in its place, as a visitor goes on.
pub(crate) fn replaced(expr: &mut Expr, new: Result<Option<Expr>>) -> ControlFlow<Error> {
    match new {
        Ok(Some(new)) => *expr = new,
        Ok(None) => {}
        Err(error) => return ControlFlow::Break(error),
    }
    ControlFlow::Continue(())
}

/// What a rewriting makes of `SELECT ..`, without the SELECT.
#[cfg(test)]
pub(crate) fn rewritten_select(sql: &str, rewrite: impl FnOnce(&mut Statement) -> Result<()>) -> Result<String> {
    let parsed = crate::grammar::parse_one(&format!("SELECT {sql}"))?.statement;
    let crate::ast::Statement::Sql(mut statement) = parsed else { panic!("{sql}") };
    rewrite(statement.as_mut())?;
    Ok(statement.to_string()["SELECT ".len()..].to_string())
}

/// `name(args)`
pub(crate) fn call(name: &str, args: Vec<Expr>) -> Expr {
    let args = args.into_iter().map(|arg| FunctionArg::Unnamed(FunctionArgExpr::Expr(arg))).collect();
    Expr::Function(Function {
        name: ObjectName::from(vec![Ident::new(name)]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList { duplicate_treatment: None, args, clauses: vec![] }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: vec![],
    })
}

pub(super) fn number(n: u32) -> Expr {
    Expr::Value(Value::Number(n.to_string(), false).into())
}

/// `INTERVAL 'text'`
pub(super) fn interval(text: String) -> Expr {
    Expr::Interval(Interval {
        value: Box::new(Expr::Value(Value::SingleQuotedString(text).into())),
        leading_field: None,
        leading_precision: None,
        last_field: None,
        fractional_seconds_precision: None,
    })
}

/// The text of a string literal, whatever its quotes.
pub(super) fn string_of(value: &Value) -> Option<&str> {
    match value {
        Value::SingleQuotedString(text) | Value::EscapedStringLiteral(text) | Value::UnicodeStringLiteral(text) => {
            Some(text)
        }
        Value::DollarQuotedString(text) => Some(&text.value),
        _ => None,
    }
}
