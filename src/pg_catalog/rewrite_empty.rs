//! Parts of catalog queries that cannot yield a row, because Tidemark has nothing of the kind: policies, publications, foreign
//! keys, domains. They are cut before planning, for what they do with their rows is often beyond DataFusion.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    ArrayElemTypeDef, BinaryOperator, CaseWhen, DataType, Expr, FunctionArguments, GroupByExpr, Ident, JoinOperator,
    Query, Select, SelectItem, TableFactor, Value, Visit, Visitor,
};

use super::output_names::{free_name, output_name};
use super::pg_core::is_always_empty;
use super::rewrite::{cast_null, null, parts};

/// `WHEN t.typtype = 'd' THEN (subquery)`: there are no domains and no composite types, so the subquery, which may be beyond
/// DataFusion, is never asked.
pub(super) fn never_of_type(when: &mut CaseWhen) {
    let Expr::Subquery(query) = &when.result else { return };
    let Expr::BinaryOp { left, op: BinaryOperator::Eq, right } = &when.condition else { return };
    let column = match left.as_ref() {
        Expr::Identifier(ident) => Some(ident),
        Expr::CompoundIdentifier(idents) => idents.last(),
        _ => None,
    };
    let kind = right.to_string();
    if column.is_some_and(|c| c.value == "typtype") && (kind == "'c'" || kind == "'d'") {
        let text = query.to_string().to_lowercase();
        let item = if text.contains("::text") { DataType::Text } else { DataType::Integer(None) };
        let is_array = text.contains("array_agg");
        let data_type =
            if is_array { DataType::Array(ArrayElemTypeDef::SquareBracket(Box::new(item), None)) } else { item };
        when.result = cast_null(data_type);
    }
}

/// Whether there can be no row: an inner-joined table is always empty, or only foreign keys are asked for.
pub(super) fn reads_empty(select: &Select) -> bool {
    let name = |factor: &TableFactor| match factor {
        TableFactor::Table { name, args: None, .. } => match parts(name).as_slice() {
            [name] | ["pg_catalog", name] => Some((*name).to_string()),
            _ => None,
        },
        _ => None,
    };
    let inner =
        |op: &JoinOperator| matches!(op, JoinOperator::Join(_) | JoinOperator::Inner(_) | JoinOperator::CrossJoin(_));
    let no_foreign_keys = select.selection.as_ref().is_some_and(asks_for_foreign_keys);
    let empty = |factor: &TableFactor| {
        name(factor).is_some_and(|n| is_always_empty("pg_catalog", &n) || (no_foreign_keys && n == "pg_constraint"))
    };
    select.from.iter().any(|table| {
        let keeps_left = table.joins.iter().all(|j| inner(&j.join_operator) || is_left(&j.join_operator));
        let joined = table.joins.iter().any(|j| inner(&j.join_operator) && empty(&j.relation));
        keeps_left && (empty(&table.relation) || joined)
    })
}

/// `.. AND contype = 'f' AND ..`
fn asks_for_foreign_keys(condition: &Expr) -> bool {
    match condition {
        Expr::BinaryOp { left, op: BinaryOperator::And, right } => {
            asks_for_foreign_keys(left) || asks_for_foreign_keys(right)
        }
        Expr::Nested(inner) => asks_for_foreign_keys(inner),
        Expr::BinaryOp { left, op: BinaryOperator::Eq, right } => {
            output_name(left) == "contype" && right.to_string() == "'f'"
        }
        _ => false,
    }
}

/// There is no row, and planning the SELECT would take more than DataFusion has.
pub(super) fn empty_for_sure(select: &Select) -> bool {
    let all_named = select
        .projection
        .iter()
        .all(|item| matches!(item, SelectItem::UnnamedExpr(_) | SelectItem::ExprWithAlias { .. }));
    all_named && reads_empty(select) && {
        let mut hard = Hard::default();
        let _ = select.visit(&mut hard);
        hard.subquery && !hard.aggregate
    }
}

fn is_left(op: &JoinOperator) -> bool {
    matches!(op, JoinOperator::Left(_) | JoinOperator::LeftOuter(_))
}

#[derive(Default)]
struct Hard {
    subquery: bool,
    aggregate: bool,
    /// Queries inside the SELECT that the visitor is in: their aggregates are their own.
    depth: usize,
}

impl Visitor for Hard {
    type Break = ();

    fn pre_visit_query(&mut self, _query: &Query) -> ControlFlow<()> {
        self.depth += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _query: &Query) -> ControlFlow<()> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        const AGGREGATES: &[&str] = &["count", "sum", "min", "max", "array_agg", "bool_or", "bool_and", "avg"];
        match expr {
            Expr::Subquery(_) | Expr::AnyOp { .. } | Expr::AllOp { .. } => self.subquery = true,
            Expr::Function(f) if matches!(f.args, FunctionArguments::Subquery(_)) => self.subquery = true,
            Expr::Function(f) if self.depth == 0 => {
                self.aggregate |=
                    parts(&f.name).last().is_some_and(|n| AGGREGATES.contains(&n.to_lowercase().as_str()));
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

pub(super) fn make_empty(select: &mut Select) {
    select.from.clear();
    select.selection = Some(Expr::Value(Value::Boolean(false).into()));
    select.group_by = GroupByExpr::Expressions(vec![], vec![]);
    select.having = None;
    let mut used = BTreeSet::new();
    for item in &mut select.projection {
        let name = match &*item {
            SelectItem::ExprWithAlias { alias, .. } => alias.clone(),
            SelectItem::UnnamedExpr(expr) => Ident::with_quote('"', free_name(output_name(expr), &used)),
            _ => continue,
        };
        used.insert(name.value.clone());
        *item = SelectItem::ExprWithAlias { expr: null(), alias: name };
    }
}
