//! What an aggregate's ORDER BY says that is of no account.
//!
//! ```text
//!   array_agg(x ORDER BY y, 1)  ──▶  array_agg(x ORDER BY y)     a number is a value, the same for every row; DataFusion takes
//!                                                                it for the number of a column
//!   max(x ORDER BY y)           ──▶  max(x)                      DataFusion would sort, and once for all calls
//! ```

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, Function, FunctionArgumentClause, FunctionArguments, OrderByExpr, Statement, Value, visit_expressions_mut,
};

/// Aggregates that give the same in every order. (Of floating-point numbers: but for how they round.)
const SAME_IN_ANY_ORDER: [&str; 18] = [
    "count",
    "sum",
    "avg",
    "min",
    "max",
    "bool_and",
    "bool_or",
    "every",
    "bit_and",
    "bit_or",
    "bit_xor",
    "stddev",
    "stddev_samp",
    "stddev_pop",
    "variance",
    "var_samp",
    "var_pop",
    "corr",
];

/// Leaves it out, everywhere in the statement.
pub fn rewrite(statement: &mut Statement) {
    let _: ControlFlow<()> = visit_expressions_mut(statement, |expr| {
        if let Expr::Function(function) = expr {
            let all = is_same_in_any_order(function);
            if let FunctionArguments::List(arguments) = &mut function.args {
                arguments.clauses.retain_mut(|clause| match clause {
                    FunctionArgumentClause::OrderBy(sorts) => {
                        sorts.retain(|sort| !all && !is_number(sort));
                        !sorts.is_empty()
                    }
                    _ => true,
                });
            }
        }
        ControlFlow::Continue(())
    });
}

fn is_same_in_any_order(function: &Function) -> bool {
    let name = function.name.0.last().and_then(|part| part.as_ident());
    name.is_some_and(|name| SAME_IN_ANY_ORDER.iter().any(|known| name.value.eq_ignore_ascii_case(known)))
}

fn is_number(sort: &OrderByExpr) -> bool {
    matches!(&sort.expr, Expr::Value(value) if matches!(value.value, Value::Number(..)))
}
