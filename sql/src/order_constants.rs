//! A number in an aggregate's ORDER BY is a value, the same for every row; DataFusion takes it for the number of a column.
//!
//! ```text
//!   array_agg(x ORDER BY y, 1)  ──▶  array_agg(x ORDER BY y)
//! ```

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, FunctionArgumentClause, FunctionArguments, OrderByExpr, Statement, Value, visit_expressions_mut,
};

/// Leaves such numbers out, everywhere in the statement.
pub fn rewrite(statement: &mut Statement) {
    let _: ControlFlow<()> = visit_expressions_mut(statement, |expr| {
        if let Expr::Function(function) = expr
            && let FunctionArguments::List(arguments) = &mut function.args
        {
            arguments.clauses.retain_mut(|clause| match clause {
                FunctionArgumentClause::OrderBy(sorts) => {
                    sorts.retain(|sort| !is_number(sort));
                    !sorts.is_empty()
                }
                _ => true,
            });
        }
        ControlFlow::Continue(())
    });
}

fn is_number(sort: &OrderByExpr) -> bool {
    matches!(&sort.expr, Expr::Value(value) if matches!(value.value, Value::Number(..)))
}
