//! Functions that yield rows, as unnest() of ones that yield arrays.
//!
//! ```text
//!   SELECT generate_series(1, 3)                 ──▶  SELECT unnest(generate_series(1, 3))
//!   FROM string_to_table(t, ',') AS x            ──▶  FROM unnest(string_to_array(t, ',')) AS x (x)
//!   FROM t, generate_series(1, t.n) AS i         ──▶  FROM t, unnest(generate_series(1, t.n)) AS i (i)
//!   FROM jsonb_each(j)                           ──▶  FROM unnest(<keys of j>, <values of j>) AS jsonb_each (key, value)
//!   FROM unnest(a) WITH ORDINALITY AS t (x, n)   ──▶  FROM unnest(a, generate_series(1, array_length(a, 1))) AS t (x, n)
//! ```

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, ObjectName, TableAlias, TableAliasColumnDef,
    TableFactor, visit_expressions,
};

use super::build::{call, number};

/// A function of rows: the functions whose arrays are its columns, and what these are called; `None`: as the table is.
struct RowFunction {
    arrays: &'static [&'static str],
    columns: &'static [Option<&'static str>],
}

fn row_function(name: &str) -> Option<RowFunction> {
    const ONE: &[Option<&str>] = &[None];
    const VALUE: &[Option<&str>] = &[Some("value")];
    const PAIR: &[Option<&str>] = &[Some("key"), Some("value")];
    let (arrays, columns): (&'static [&'static str], _) = match name {
        "generate_series" => (&["generate_series"], ONE),
        "string_to_table" => (&["string_to_array"], ONE),
        "regexp_split_to_table" => (&["regexp_split_to_array"], ONE),
        "regexp_matches" => (&["tidemark_regexp_matches"], ONE),
        "json_array_elements" | "jsonb_array_elements" => (&["tidemark_json_elements"], VALUE),
        "json_array_elements_text" | "jsonb_array_elements_text" => (&["tidemark_json_elements_text"], VALUE),
        "json_object_keys" | "jsonb_object_keys" => (&["tidemark_json_keys"], ONE),
        "json_each" | "jsonb_each" => (&["tidemark_json_keys", "tidemark_json_values"], PAIR),
        "json_each_text" | "jsonb_each_text" => (&["tidemark_json_keys", "tidemark_json_values_text"], PAIR),
        _ => return None,
    };
    Some(RowFunction { arrays, columns })
}

fn plain_name(name: &ObjectName) -> Option<String> {
    match name.0.as_slice() {
        [name] => name.as_ident().map(|i| i.value.to_lowercase()),
        [schema, name] if schema.as_ident().is_some_and(|s| s.value == "pg_catalog") => {
            name.as_ident().map(|i| i.value.to_lowercase())
        }
        _ => None,
    }
}

fn expressions(args: &[FunctionArg]) -> Option<Vec<Expr>> {
    args.iter()
        .map(|arg| match arg {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr.clone()),
            _ => None,
        })
        .collect()
}

fn has_columns(exprs: &[Expr]) -> bool {
    exprs.iter().any(|expr| {
        visit_expressions(expr, |e| match e {
            Expr::Identifier(_) | Expr::CompoundIdentifier(_) | Expr::CompoundFieldAccess { .. } => {
                ControlFlow::Break(())
            }
            _ => ControlFlow::Continue(()),
        })
        .is_break()
    })
}

/// A function of rows in FROM.
pub(super) fn in_from(factor: &mut TableFactor) {
    match factor {
        TableFactor::Table { name, alias, args: Some(args), with_ordinality, .. } => {
            if let Some(name) = plain_name(name)
                && let Some(arguments) = expressions(&args.args)
                && let Some(new) = unnested(&name, arguments, alias, *with_ordinality)
            {
                *factor = new;
            }
        }
        TableFactor::Function { name, args, with_ordinality, alias, .. } => {
            if let Some(name) = plain_name(name)
                && let Some(arguments) = expressions(args)
                && let Some(new) = unnested(&name, arguments, alias, *with_ordinality)
            {
                *factor = new;
            }
        }
        TableFactor::UNNEST { alias, array_exprs, with_ordinality, with_offset: false, .. } => {
            let columns = vec![None; array_exprs.len()];
            named(alias, "unnest", &columns, *with_ordinality);
            if std::mem::take(with_ordinality) {
                number_rows(array_exprs);
            }
        }
        _ => {}
    }
}

fn unnested(name: &str, arguments: Vec<Expr>, alias: &Option<TableAlias>, ordinality: bool) -> Option<TableFactor> {
    let (mut array_exprs, columns) = if name == "unnest" {
        let columns = vec![None; arguments.len()];
        (arguments, columns)
    } else {
        let function = row_function(name)?;
        // What is constant, generate_series yields without holding it.
        if name == "generate_series" && !ordinality && !has_columns(&arguments) {
            return None;
        }
        let arrays = function.arrays.iter().map(|array| array_call(array, arguments.clone())).collect();
        (arrays, function.columns.to_vec())
    };
    let mut alias = alias.clone();
    named(&mut alias, name, &columns, ordinality);
    if ordinality {
        number_rows(&mut array_exprs);
    }
    Some(TableFactor::UNNEST {
        alias,
        array_exprs,
        with_offset: false,
        with_offset_alias: None,
        with_ordinality: false,
    })
}

/// Gives table and columns the names that they have where none are written.
fn named(alias: &mut Option<TableAlias>, name: &str, columns: &[Option<&str>], ordinality: bool) {
    let alias =
        alias.get_or_insert_with(|| TableAlias { explicit: true, name: Ident::new(name), columns: vec![], at: None });
    let own = alias.name.value.clone();
    let all = columns.iter().map(|c| c.map_or_else(|| own.clone(), str::to_string));
    let all: Vec<String> = all.chain(ordinality.then(|| "ordinality".to_string())).collect();
    for name in all.into_iter().skip(alias.columns.len()) {
        alias.columns.push(TableAliasColumnDef { name: Ident::with_quote('"', name), data_type: None });
    }
}

fn number_rows(array_exprs: &mut Vec<Expr>) {
    if let Some(first) = array_exprs.first() {
        let numbers =
            array_call("generate_series", vec![number(1), call("array_length", vec![first.clone(), number(1)])]);
        array_exprs.push(numbers);
    }
}

/// A function of rows in a select list; to be asked when the arguments have been seen.
pub(super) fn in_list(expr: &Expr) -> Option<Expr> {
    let Expr::Function(function) = expr else { return None };
    // Once rewritten, a call stays as it is.
    if function.name.0.last().and_then(|p| p.as_ident()).is_some_and(|i| i.quote_style.is_some()) {
        return None;
    }
    let name = plain_name(&function.name)?;
    let FunctionArguments::List(list) = &function.args else { return None };
    let arguments = expressions(&list.args)?;
    let RowFunction { arrays: [array], .. } = row_function(&name)? else { return None };
    Some(call("unnest", vec![array_call(array, arguments)]))
}

/// In quotes, generate_series is the function that yields an array.
fn array_call(array: &str, arguments: Vec<Expr>) -> Expr {
    let mut call = call(array, arguments);
    if let Expr::Function(function) = &mut call {
        function.name = ObjectName::from(vec![Ident::with_quote('"', array)]);
    }
    call
}
