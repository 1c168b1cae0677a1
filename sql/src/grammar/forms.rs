//! Postgres' forms that DataFusion's planner has not, as ones that it has.
//!
//! ```text
//!   |/ x, ||/ x, @ x, ~ x, a ^@ b    ──▶  sqrt(x), cbrt(x), abs(x), tidemark_bit_not(x), starts_with(a, b)
//!   - 2 ^ 2                          ──▶  (- 2) ^ 2                 ts AT TIME ZONE z   ──▶  timezone(z, ts)
//!   f(b => 1)                        ──▶  f(0, 1)                   a[:2]               ──▶  a[1:2]
//!   FETCH FIRST 2 ROWS ONLY          ──▶  LIMIT 2                   0.1::float8         ──▶  '0.1'::float8
//!   (x).a                            ──▶  x.a
//! ```
//!
//! Functions of rows are in [`super::row_functions`].

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    AccessExpr, Array, BinaryOperator, CastKind, DataType, Expr, Fetch, Function, FunctionArg, FunctionArgExpr,
    FunctionArguments, LimitClause, OrderByKind, Parens, Query, Select, SelectItem, SetExpr, Subscript, TableFactor,
    UnaryOperator, Value, Values, VisitMut, VisitorMut,
};
use tidemark_common::{Error, Result, SqlState};

use super::build::{call, number, replaced};
use super::row_functions;

/// Rewrites every such form in `node`.
pub(super) fn rewrite(node: &mut impl VisitMut) -> Result<()> {
    match node.visit(&mut Forms) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(error),
    }
}

struct Forms;

fn flow(result: Result<()>) -> ControlFlow<Error> {
    match result {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => ControlFlow::Break(error),
    }
}

impl VisitorMut for Forms {
    type Break = Error;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Error> {
        if let SetExpr::Values(values) = query.body.as_mut() {
            empty_arrays(values);
        }
        flow(fetch(query).and_then(|()| order_of_union(query)))
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<Error> {
        flow(no_windows_in_where(select))
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Error> {
        row_functions::in_from(factor);
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Error> {
        minus_before_power(expr);
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Error> {
        let new = rewritten(expr);
        replaced(expr, new)
    }
}

/// Rewrites `(x).a` where x is a table of FROM; to be asked before anyone takes x for a column.
pub fn rewrite_fields(node: &mut impl VisitMut) {
    // It never breaks.
    let _all = node.visit(&mut Fields);
}

struct Fields;

impl VisitorMut for Fields {
    type Break = ();

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        fields_of_tables(select);
        ControlFlow::Continue(())
    }
}

/// `'{}'` in a column of VALUES that has arrays is the empty one.
fn empty_arrays(values: &mut Values) {
    let is_array = |row: &Parens<Vec<Expr>>, column: usize| matches!(row.content.get(column), Some(Expr::Array(_)));
    for column in 0..values.rows.first().map_or(0, |row| row.content.len()) {
        if !values.rows.iter().any(|row| is_array(row, column)) {
            continue;
        }
        for row in &mut values.rows {
            if let Some(expr @ Expr::Value(_)) = row.content.get_mut(column)
                && expr.to_string() == "'{}'"
            {
                *expr = Expr::Array(Array { elem: vec![], named: true });
            }
        }
    }
}

fn take(expr: &mut Expr) -> Expr {
    std::mem::replace(expr, Expr::Tuple(vec![]))
}

fn rewritten(expr: &mut Expr) -> Result<Option<Expr>> {
    Ok(match expr {
        Expr::UnaryOp { op, expr: inner } => {
            let function = match op {
                UnaryOperator::PGSquareRoot => "sqrt",
                UnaryOperator::PGCubeRoot => "cbrt",
                UnaryOperator::PGAbs => "abs",
                UnaryOperator::BitwiseNot => "tidemark_bit_not",
                _ => return Ok(None),
            };
            Some(call(function, vec![take(inner)]))
        }
        Expr::BinaryOp { left, op: BinaryOperator::PGStartsWith, right } => {
            Some(call("starts_with", vec![take(left), take(right)]))
        }
        Expr::AtTimeZone { timestamp, time_zone } => Some(call("timezone", vec![take(time_zone), take(timestamp)])),
        Expr::CompoundFieldAccess { root, access_chain } => {
            bounded(root, access_chain);
            None
        }
        Expr::Cast { kind: CastKind::Cast | CastKind::DoubleColon, expr: inner, data_type, .. }
            if is_float(data_type) =>
        {
            exact_number(inner);
            None
        }
        Expr::Function(function) => {
            positional(function)?;
            if function.over.is_none()
                && let [name] = function.name.0.as_slice()
                && let Some(name) = name.as_ident()
                && WINDOW_FUNCTIONS.contains(&name.value.to_lowercase().as_str())
            {
                return Err(Error::new(
                    SqlState::WrongObjectType,
                    format!("window function {} requires an OVER clause", name.value.to_lowercase()),
                ));
            }
            row_functions::in_list(expr)
        }
        _ => None,
    })
}

const WINDOW_FUNCTIONS: [&str; 9] =
    ["row_number", "rank", "dense_rank", "percent_rank", "cume_dist", "ntile", "lag", "lead", "nth_value"];

// ---- Operators -------------------------------------------------------------------------------------------------------

/// The sign belongs to the first operand: `-2 ^ 2` is 4.
fn minus_before_power(expr: &mut Expr) {
    let Expr::UnaryOp { op: UnaryOperator::Minus, expr: inner } = expr else { return };
    if !matches!(inner.as_ref(), Expr::BinaryOp { op: BinaryOperator::PGExp, .. }) {
        return;
    }
    let mut power = take(inner);
    let mut first = &mut power;
    while let Expr::BinaryOp { left, op: BinaryOperator::PGExp, .. } = first {
        first = left;
    }
    *first = Expr::UnaryOp { op: UnaryOperator::Minus, expr: Box::new(take(first)) };
    *expr = power;
}

/// Slices without a bound get it.
fn bounded(root: &Expr, chain: &mut [AccessExpr]) {
    let [AccessExpr::Subscript(Subscript::Slice { lower_bound, upper_bound, stride: None })] = chain else { return };
    lower_bound.get_or_insert_with(|| number(1));
    upper_bound.get_or_insert_with(|| call("array_length", vec![root.clone(), number(1)]));
}

fn is_float(data_type: &DataType) -> bool {
    match data_type {
        DataType::Real
        | DataType::Float(_)
        | DataType::Float4
        | DataType::Float8
        | DataType::Double(_)
        | DataType::DoublePrecision => true,
        DataType::Custom(name, _) => {
            super::types::base_name(name).is_some_and(|name| matches!(name.as_str(), "float4" | "float8"))
        }
        _ => false,
    }
}

/// A number that becomes a float is read as one: through a decimal it would lose its last digit.
fn exact_number(expr: &mut Expr) {
    match expr {
        Expr::Value(value) => {
            if let Value::Number(digits, _) = &value.value
                && digits.contains(['.', 'e', 'E'])
            {
                value.value = Value::SingleQuotedString(digits.clone());
            }
        }
        Expr::Nested(inner) => exact_number(inner),
        _ => {}
    }
}

// ---- Calls -----------------------------------------------------------------------------------------------------------

/// Names and defaults of the arguments of functions that are called by name.
const NAMED: [(&str, &[(&str, &str)]); 4] = [
    (
        "make_interval",
        &[("years", "0"), ("months", "0"), ("weeks", "0"), ("days", "0"), ("hours", "0"), ("mins", "0"), ("secs", "0")],
    ),
    ("make_date", &[("year", ""), ("month", ""), ("day", "")]),
    ("make_time", &[("hour", ""), ("min", ""), ("sec", "")]),
    ("make_timestamp", &[("year", ""), ("month", ""), ("mday", ""), ("hour", ""), ("min", ""), ("sec", "")]),
];

/// Arguments by name, in their places.
fn positional(function: &mut Function) -> Result<()> {
    let name = function.name.to_string().to_lowercase();
    let FunctionArguments::List(list) = &mut function.args else { return Ok(()) };
    let named = |arg: &FunctionArg| matches!(arg, FunctionArg::Named { .. } | FunctionArg::ExprNamed { .. });
    if !list.args.iter().any(named) {
        return Ok(());
    }
    let Some((_, parameters)) = NAMED.iter().find(|(known, _)| *known == name) else { return Ok(()) };
    let mut places: Vec<Option<FunctionArg>> = vec![None; parameters.len()];
    for (at, arg) in list.args.drain(..).enumerate() {
        let (place, arg) = match arg {
            FunctionArg::Named { name: parameter, arg, .. } => {
                let wanted = parameter.value.to_lowercase();
                let place = parameters.iter().position(|(known, _)| *known == wanted).ok_or_else(|| {
                    Error::new(SqlState::UndefinedFunction, format!("{name} has no argument \"{wanted}\""))
                })?;
                (place, FunctionArg::Unnamed(arg))
            }
            other => (at, other),
        };
        match places.get_mut(place) {
            Some(free @ None) => *free = Some(arg),
            _ => {
                return Err(Error::new(
                    SqlState::UndefinedFunction,
                    format!("function {name} does not take these arguments"),
                ));
            }
        }
    }
    let last = places.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
    for (place, (parameter, default)) in places.into_iter().take(last).zip(*parameters) {
        list.args.push(match place {
            Some(arg) => arg,
            None if default.is_empty() => {
                return Err(Error::new(
                    SqlState::UndefinedFunction,
                    format!("{name} lacks its argument \"{parameter}\""),
                ));
            }
            None => FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Value(
                Value::Number((*default).to_string(), false).into(),
            ))),
        });
    }
    Ok(())
}

// ---- Queries ---------------------------------------------------------------------------------------------------------

/// FETCH FIRST n ROWS ONLY, as the LIMIT that it is.
fn fetch(query: &mut Query) -> Result<()> {
    let Some(Fetch { with_ties, percent, quantity }) = query.fetch.take() else { return Ok(()) };
    if with_ties || percent {
        return Err(Error::unsupported("FETCH FIRST .. WITH TIES and PERCENT are not supported")
            .with_hint("Number the rows with rank() and select by the number."));
    }
    let rows = quantity.unwrap_or_else(|| number(1));
    match &mut query.limit_clause {
        None => {
            query.limit_clause = Some(LimitClause::LimitOffset { limit: Some(rows), offset: None, limit_by: vec![] });
            Ok(())
        }
        Some(LimitClause::LimitOffset { limit: limit @ None, .. }) => {
            *limit = Some(rows);
            Ok(())
        }
        Some(_) => Err(Error::syntax("multiple LIMIT clauses not allowed")),
    }
}

/// The result of UNION and its like is ordered by its own columns, which have the names of the first query's.
fn order_of_union(query: &Query) -> Result<()> {
    let Some(OrderByKind::Expressions(order)) = query.order_by.as_ref().map(|o| &o.kind) else { return Ok(()) };
    let SetExpr::SetOperation { left, .. } = query.body.as_ref() else { return Ok(()) };
    let mut first = left.as_ref();
    while let SetExpr::SetOperation { left, .. } = first {
        first = left;
    }
    let SetExpr::Select(select) = first else { return Ok(()) };
    let mut names = Vec::new();
    for item in &select.projection {
        match item {
            SelectItem::ExprWithAlias { alias, .. } => names.push(alias.value.to_lowercase()),
            SelectItem::UnnamedExpr(Expr::Identifier(ident)) => names.push(ident.value.to_lowercase()),
            SelectItem::UnnamedExpr(Expr::CompoundIdentifier(idents)) => {
                names.extend(idents.last().map(|ident| ident.value.to_lowercase()));
            }
            // Its name is for the planner to know.
            _ => return Ok(()),
        }
    }
    for by in order {
        if let Expr::Identifier(ident) = &by.expr
            && !names.contains(&ident.value.to_lowercase())
        {
            return Err(Error::new(SqlState::UndefinedColumn, format!("column \"{}\" does not exist", ident.value))
                .with_hint("The result of a UNION is ordered by its own columns."));
        }
    }
    Ok(())
}

fn no_windows_in_where(select: &Select) -> Result<()> {
    let Some(selection) = &select.selection else { return Ok(()) };
    let mut inside = Windows { depth: 0 };
    match datafusion::sql::sqlparser::ast::Visit::visit(selection, &mut inside) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => {
            Err(Error::new(SqlState::WindowingError, "window functions are not allowed in WHERE")
                .with_hint("Put the query in a subquery and filter outside of it."))
        }
    }
}

/// Looks for a window function outside of subqueries.
struct Windows {
    depth: usize,
}

impl datafusion::sql::sqlparser::ast::Visitor for Windows {
    type Break = ();

    fn pre_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
        self.depth += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        match expr {
            Expr::Function(f) if f.over.is_some() && self.depth == 0 => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    }
}

/// `(x).a`, where x is a table of FROM.
fn fields_of_tables(select: &mut Select) {
    let Select { from, projection, .. } = select;
    let factors = from.iter().flat_map(|t| std::iter::once(&t.relation).chain(t.joins.iter().map(|j| &j.relation)));
    let names: Vec<String> = factors
        .filter_map(|factor| match factor {
            TableFactor::Table { alias: Some(alias), .. } | TableFactor::Derived { alias: Some(alias), .. } => {
                Some(alias.name.value.to_lowercase())
            }
            TableFactor::Table { name, alias: None, .. } => {
                name.0.last().and_then(|p| p.as_ident()).map(|i| i.value.to_lowercase())
            }
            _ => None,
        })
        .collect();
    for item in projection {
        let (SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. }) = item else { continue };
        if let Expr::CompoundFieldAccess { root, access_chain } = expr
            && let Expr::Nested(inner) = root.as_ref()
            && let Expr::Identifier(table) = inner.as_ref()
            && names.contains(&table.value.to_lowercase())
            && let [AccessExpr::Dot(Expr::Identifier(column))] = access_chain.as_slice()
        {
            *expr = Expr::CompoundIdentifier(vec![table.clone(), column.clone()]);
        }
    }
}
