//! `ARRAY(SELECT ..)`, which DataFusion has as an aggregate in a scalar subquery.

use datafusion::sql::sqlparser::ast::{
    ArrayElemTypeDef, DataType, Expr, FunctionArg, FunctionArgExpr, FunctionArgumentClause, FunctionArguments,
    OrderByExpr, OrderByKind, Query, SelectItem, SetExpr, TableFactor, Value,
};

use super::rewrite::{call, cast_null, parts};
use super::rewrite_empty::reads_empty;

/// `ARRAY(query)`
pub(super) fn array_of(query: &Query) -> Expr {
    if let SetExpr::Select(select) = query.body.as_ref()
        && reads_empty(select)
    {
        let texts = DataType::Array(ArrayElemTypeDef::SquareBracket(Box::new(DataType::Text), None));
        return call("array_or_empty", vec![cast_null(texts)]);
    }
    if let Some(known) = array_over_function(query) {
        return call("array_or_empty", vec![known]);
    }
    let mut query = query.clone();
    let order = match query.order_by.as_ref().map(|o| &o.kind) {
        Some(OrderByKind::Expressions(by)) => by.clone(),
        _ => vec![],
    };
    let plain = query.limit_clause.is_none() && query.fetch.is_none();
    if let SetExpr::Select(select) = query.body.as_mut()
        && plain
        && select.distinct.is_none()
        && select.projection.len() == 1
        && let SelectItem::UnnamedExpr(item) | SelectItem::ExprWithAlias { expr: item, .. } = &select.projection[0]
    {
        let aggregate = aggregate_of(item.clone(), order);
        select.projection = vec![SelectItem::UnnamedExpr(aggregate)];
        query.order_by = None;
    }
    call("array_or_empty", vec![Expr::Subquery(Box::new(query))])
}

/// `array_agg(item ORDER BY order)`, where a position in `order` is `item`.
fn aggregate_of(item: Expr, mut order: Vec<OrderByExpr>) -> Expr {
    for by in &mut order {
        if matches!(&by.expr, Expr::Value(v) if matches!(v.value, Value::Number(..))) {
            by.expr = item.clone();
        }
    }
    let mut aggregate = call("array_agg", vec![item]);
    if let Expr::Function(f) = &mut aggregate
        && let FunctionArguments::List(list) = &mut f.args
        && !order.is_empty()
    {
        list.clauses.push(FunctionArgumentClause::OrderBy(order));
    }
    aggregate
}

/// psql's queries over one function call of the outer row's array, which DataFusion has no lateral join for.
fn array_over_function(query: &Query) -> Option<Expr> {
    let SetExpr::Select(select) = query.body.as_ref() else { return None };
    let [SelectItem::UnnamedExpr(item)] = select.projection.as_slice() else { return None };
    let [table] = select.from.as_slice() else { return None };
    if select.selection.is_some() || !table.joins.is_empty() {
        return None;
    }
    let (function, argument) = match &table.relation {
        TableFactor::UNNEST { array_exprs, .. } => ("unnest", array_exprs.first()?.clone()),
        TableFactor::Table { name, args: Some(args), .. } => match args.args.first()? {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(argument)) => (*parts(name).last()?, argument.clone()),
            _ => return None,
        },
        _ => return None,
    };
    match (function, item.to_string().as_str()) {
        ("unnest", _) if matches!(item, Expr::Identifier(_)) => Some(argument),
        ("unnest", text) if text.starts_with("'toast.' || ") => Some(call("toast_options_text", vec![argument])),
        ("pg_options_to_table", text) if text.contains("option_name") && text.contains("option_value") => {
            Some(call("options_text", vec![argument]))
        }
        _ => None,
    }
}
