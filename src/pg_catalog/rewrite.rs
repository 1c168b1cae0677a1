//! Postgres' spelling of catalog queries in what DataFusion plans: an AST in place, never the text.
//!
//! | written                                  | becomes                                         |
//! |------------------------------------------|-------------------------------------------------|
//! | `FROM pg_class`                          | `FROM pg_catalog.pg_class`                      |
//! | `pg_catalog.f(x)`                        | `f(x)`                                          |
//! | `a OPERATOR(pg_catalog.~) b`             | `a ~ b`                                         |
//! | `x COLLATE pg_catalog.default`           | `x`                                             |
//! | `'t'::regclass`, `oid::regclass::text`   | see [`super::rewrite_casts`]                    |
//! | `x = ANY('{a,b}')`                       | `x IN ('a', 'b')`                               |
//! | `ARRAY(SELECT e FROM ..)`                | `array_or_empty((SELECT array_agg(e) FROM ..))` |
//! | `generate_subscripts(a, 1)`              | `unnest(array_subscripts(a))`                   |
//! | `c.tableoid`                             | the system table's OID                          |
//! | a subquery over an always empty table    | no rows, without planning the rest              |

use std::collections::{BTreeSet, HashMap};
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    AccessExpr, ArrayElemTypeDef, BinaryOperator, CaseWhen, CastKind, DataType, Expr, Function, FunctionArg,
    FunctionArgExpr, FunctionArgumentClause, FunctionArgumentList, FunctionArguments, GroupByExpr, Ident, JoinOperator,
    ObjectName, ObjectNamePart, OrderByExpr, OrderByKind, Query, Select, SelectItem, SetExpr, Statement,
    TableAliasColumnDef, TableFactor, Value, ValueWithSpan, Visit, VisitMut, Visitor, VisitorMut,
};

use super::output_names::{free_name, name_columns, name_distinct_order, output_name};
use super::pg_core::is_always_empty;
use super::relation::{Relation, relation};
use super::rewrite_casts::{self, array_items};

/// Rewrites the statement in place.
pub fn rewrite_statement(statement: &mut Statement) {
    let mut rewriter = Rewriter::default();
    let _ = VisitMut::visit(statement, &mut rewriter);
}

#[derive(Default)]
struct Rewriter {
    /// How many queries we are inside of.
    depth: usize,
    /// Names of common table expressions, which hide system tables.
    local: BTreeSet<String>,
    /// System tables by alias, a map a SELECT.
    scopes: Vec<HashMap<String, &'static Relation>>,
}

impl VisitorMut for Rewriter {
    type Break = ();

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        self.depth += 1;
        if let Some(with) = &query.with {
            self.local.extend(with.cte_tables.iter().map(|cte| cte.alias.name.value.clone()));
        }
        let top = self.depth == 1;
        let sorted_empty = matches!(query.body.as_ref(), SetExpr::Select(select) if empty_for_sure(select));
        for_each_select(&mut query.body, &mut |select| {
            if empty_for_sure(select) {
                make_empty(select);
            }
            name_columns(select);
            if top {
                select.projection.iter_mut().for_each(show_names);
            }
        });
        name_distinct_order(query);
        if sorted_empty {
            query.order_by = None;
        }
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _query: &mut Query) -> ControlFlow<()> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        let mut scope = HashMap::new();
        for table in &select.from {
            for factor in std::iter::once(&table.relation).chain(table.joins.iter().map(|j| &j.relation)) {
                if let TableFactor::Table { name, alias, args: None, .. } = factor
                    && let Some(found) = self.system_relation(name)
                {
                    let alias = alias.as_ref().map_or(found.name, |a| a.name.value.as_str());
                    scope.insert(alias.to_string(), found);
                }
            }
        }
        self.scopes.push(scope);
        ControlFlow::Continue(())
    }

    fn post_visit_select(&mut self, _select: &mut Select) -> ControlFlow<()> {
        self.scopes.pop();
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        self.table_factor(factor);
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        self.expr(expr);
        ControlFlow::Continue(())
    }
}

impl Rewriter {
    fn system_relation(&self, name: &ObjectName) -> Option<&'static Relation> {
        match parts(name).as_slice() {
            [name] if !self.local.contains(*name) => relation("pg_catalog", name),
            [schema, name] => relation(schema, name),
            _ => None,
        }
    }

    fn table_factor(&self, factor: &mut TableFactor) {
        let TableFactor::Table { name, alias, args, .. } = factor else { return };
        let Some(args) = args else {
            if name.0.len() == 1
                && let Some(found) = self.system_relation(name)
            {
                *name = ObjectName::from(vec![Ident::new("pg_catalog"), Ident::new(found.name)]);
            }
            return;
        };
        strip_qualifier(name);
        if parts(name).as_slice() != ["generate_series"] {
            return;
        }
        // Postgres calls a function's only column as the table is called.
        if let Some(alias) = alias
            && alias.columns.is_empty()
        {
            alias.columns.push(TableAliasColumnDef::from_name(alias.name.value.clone()));
        }
        for arg in &mut args.args {
            if let FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) = arg
                && matches!(expr, Expr::Function(_))
            {
                *expr = cast_to(expr.clone(), DataType::BigInt(None));
            }
        }
    }

    fn expr(&self, expr: &mut Expr) {
        match expr {
            Expr::Cast { .. } => rewrite_casts::cast(expr),
            Expr::Function(_) => function(expr),
            Expr::Collate { expr: inner, collation } if is_plain_collation(collation) => {
                *expr = inner.as_ref().clone();
                // What it was put around has not been seen yet.
                self.expr(expr);
            }
            Expr::BinaryOp { op, .. } => {
                if let BinaryOperator::PGCustomBinaryOperator(path) = op
                    && let [schema, name] = path.as_slice()
                    && schema == "pg_catalog"
                    && let Some(plain) = operator(name)
                {
                    *op = plain;
                }
            }
            Expr::AnyOp { left, compare_op: BinaryOperator::Eq, right, .. } => {
                if let Some(list) = array_items(right) {
                    *expr = Expr::InList { expr: left.clone(), list, negated: false };
                }
            }
            Expr::AllOp { left, compare_op: BinaryOperator::NotEq, right } => {
                if let Some(list) = array_items(right) {
                    *expr = Expr::InList { expr: left.clone(), list, negated: true };
                }
            }
            Expr::CompoundFieldAccess { .. } => fields_of_row(expr),
            Expr::Like { pattern, escape_char, .. } | Expr::ILike { pattern, escape_char, .. } => {
                if let Some(Value::SingleQuotedString(escape)) = escape_char.as_ref().map(|v| &v.value)
                    && let Some(escape) = escape.chars().next().filter(|c| *c != '\\')
                    && with_backslash(pattern, escape)
                {
                    *escape_char = None;
                }
            }
            Expr::Case { conditions, .. } => conditions.iter_mut().for_each(never_of_type),
            Expr::Identifier(ident) if ident.quote_style.is_none() => match ident.value.to_ascii_lowercase().as_str() {
                "current_schema" => *expr = call("current_schema", vec![]),
                "tableoid" => {
                    let scope = self.scopes.last().filter(|s| s.len() == 1);
                    if let Some(found) = scope.and_then(|s| s.values().next()) {
                        *expr = number(found.oid.into());
                    }
                }
                _ => {}
            },
            Expr::CompoundIdentifier(idents) => {
                if let [table, column] = idents.as_slice()
                    && column.value.eq_ignore_ascii_case("tableoid")
                    && let Some(found) = self.scopes.iter().rev().find_map(|s| s.get(&table.value))
                {
                    *expr = number(found.oid.into());
                }
            }
            _ => {}
        }
    }
}

/// `(f(x)).field`
fn fields_of_row(expr: &mut Expr) {
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
fn with_backslash(pattern: &mut Expr, escape: char) -> bool {
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

/// `WHEN t.typtype = 'd' THEN (subquery)`: there are no domains and no composite types, so the subquery, which may be beyond
/// DataFusion, is never asked.
fn never_of_type(when: &mut CaseWhen) {
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

pub(super) fn parts(name: &ObjectName) -> Vec<&str> {
    name.0.iter().filter_map(|p| p.as_ident()).map(|i| i.value.as_str()).collect()
}

fn strip_qualifier(name: &mut ObjectName) {
    if name.0.len() == 2 && matches!(parts(name).as_slice(), ["pg_catalog" | "information_schema", _]) {
        name.0.remove(0);
    }
}

fn is_plain_collation(collation: &ObjectName) -> bool {
    matches!(parts(collation).as_slice(), ["pg_catalog", _] | ["default" | "C" | "POSIX" | "ucs_basic"])
}

fn operator(name: &str) -> Option<BinaryOperator> {
    Some(match name {
        "~" => BinaryOperator::PGRegexMatch,
        "~*" => BinaryOperator::PGRegexIMatch,
        "!~" => BinaryOperator::PGRegexNotMatch,
        "!~*" => BinaryOperator::PGRegexNotIMatch,
        "~~" => BinaryOperator::PGLikeMatch,
        "~~*" => BinaryOperator::PGILikeMatch,
        "!~~" => BinaryOperator::PGNotLikeMatch,
        "!~~*" => BinaryOperator::PGNotILikeMatch,
        "=" => BinaryOperator::Eq,
        "<>" | "!=" => BinaryOperator::NotEq,
        "<" => BinaryOperator::Lt,
        ">" => BinaryOperator::Gt,
        "<=" => BinaryOperator::LtEq,
        ">=" => BinaryOperator::GtEq,
        "+" => BinaryOperator::Plus,
        "-" => BinaryOperator::Minus,
        "*" => BinaryOperator::Multiply,
        "/" => BinaryOperator::Divide,
        "%" => BinaryOperator::Modulo,
        "||" => BinaryOperator::StringConcat,
        _ => return None,
    })
}

pub(super) fn call(name: &str, args: Vec<Expr>) -> Expr {
    let args = args.into_iter().map(|e| FunctionArg::Unnamed(FunctionArgExpr::Expr(e))).collect();
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

fn number(n: i64) -> Expr {
    Expr::Value(Value::Number(n.to_string(), false).into())
}

fn cast_to(expr: Expr, data_type: DataType) -> Expr {
    Expr::Cast { kind: CastKind::Cast, expr: Box::new(expr), data_type, array: false, format: None }
}

fn cast_null(data_type: DataType) -> Expr {
    cast_to(null(), data_type)
}

fn null() -> Expr {
    Expr::Value(Value::Null.into())
}

pub(super) fn first_argument(function: &Function) -> Option<&Expr> {
    match &function.args {
        FunctionArguments::List(list) => match list.args.first() {
            Some(FunctionArg::Unnamed(FunctionArgExpr::Expr(expr))) => Some(expr),
            _ => None,
        },
        _ => None,
    }
}

fn function(expr: &mut Expr) {
    rewrite_casts::rename_to_reg(expr, "oid");
    let Expr::Function(f) = expr else { return };
    strip_qualifier(&mut f.name);
    let name = match parts(&f.name).as_slice() {
        [name] => name.to_ascii_lowercase(),
        _ => return,
    };
    let replaced = match name.as_str() {
        "array" => match &f.args {
            FunctionArguments::Subquery(query) => Some(array_of(query)),
            _ => None,
        },
        "generate_subscripts" => {
            first_argument(f).map(|a| call("unnest", vec![call("array_subscripts", vec![a.clone()])]))
        }
        "_pg_expandarray" => first_argument(f).map(|a| call("unnest", vec![call("array_expand", vec![a.clone()])])),
        "regexp_split_to_table" => rows_of("regexp_split_to_array", f),
        "string_to_table" => rows_of("string_to_array", f),
        "nextval" | "currval" | "setval" => {
            rewrite_casts::plain_sequence_name(f);
            None
        }
        _ => None,
    };
    if let Some(new) = replaced {
        *expr = new;
    }
}

/// A function of rows in a select list, by the one that yields the same as an array.
fn rows_of(array_function: &str, f: &Function) -> Option<Expr> {
    let mut f = f.clone();
    f.name = ObjectName::from(vec![Ident::new(array_function)]);
    Some(call("unnest", vec![Expr::Function(f)]))
}

/// `ARRAY(query)`
fn array_of(query: &Query) -> Expr {
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

/// At the top a value of a `reg..` type is shown, which is by name.
fn show_names(item: &mut SelectItem) {
    if let SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } = item {
        rewrite_casts::shown(expr);
    }
}

fn for_each_select(body: &mut SetExpr, f: &mut impl FnMut(&mut Select)) {
    match body {
        SetExpr::Select(select) => f(select),
        SetExpr::SetOperation { left, right, .. } => {
            for_each_select(left, f);
            for_each_select(right, f);
        }
        // A query in brackets is visited as a query.
        _ => {}
    }
}

/// Whether there can be no row: an inner-joined table is always empty, or only foreign keys are asked for.
fn reads_empty(select: &Select) -> bool {
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
fn empty_for_sure(select: &Select) -> bool {
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

fn make_empty(select: &mut Select) {
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

/// Names of parts that are plain identifiers.
pub(super) fn last_part(name: &ObjectName) -> Option<&Ident> {
    name.0.last().and_then(ObjectNamePart::as_ident)
}
