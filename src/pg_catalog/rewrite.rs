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
//! | `c.tableoid`, `c.xmin`                   | the system table's OID, `catalog_version()`     |
//! | a subquery over an always empty table    | no rows, without planning the rest              |

use std::collections::{BTreeSet, HashMap};
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, CastKind, DataType, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList,
    FunctionArguments, Ident, ObjectName, ObjectNamePart, Query, Select, SelectItem, SelectItemQualifiedWildcardKind,
    SetExpr, Statement, TableAliasColumnDef, TableFactor, Value, ValueWithSpan, VisitMut, VisitorMut,
};

use tidemark_common::types::SqlType;

use super::output_names::{name_columns, name_distinct_order};
use super::relation::{Relation, relation};
use super::rewrite_access::{fields_of_row, subscripts, vector_subscripts, with_backslash};
use super::rewrite_arrays::array_of;
use super::rewrite_casts::{self, array_items};
use super::rewrite_empty::{empty_for_sure, make_empty, never_of_type};

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
                    scope.insert(alias.to_lowercase(), found);
                }
            }
        }
        self.scopes.push(scope);
        full_wildcards(select);
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

    /// A column of a system table in reach that is boolean.
    fn is_boolean_column(&self, expr: &Expr) -> bool {
        let boolean = |relation: &&'static Relation, name: &str| {
            relation.columns.iter().any(|c| c.name == name && c.sql_type == SqlType::Boolean)
        };
        match expr {
            Expr::Identifier(ident) => {
                self.scopes.last().is_some_and(|s| s.values().any(|r| boolean(r, &ident.value.to_lowercase())))
            }
            Expr::CompoundIdentifier(idents) => match idents.as_slice() {
                [table, column] => {
                    let found = self.scopes.iter().rev().find_map(|s| s.get(&table.value.to_lowercase()));
                    found.is_some_and(|r| boolean(r, &column.value.to_lowercase()))
                }
                _ => false,
            },
            _ => false,
        }
    }

    fn table_factor(&self, factor: &mut TableFactor) {
        if let TableFactor::UNNEST { alias: Some(alias), array_exprs, with_ordinality: false, .. } = factor
            && alias.columns.is_empty()
            && array_exprs.len() == 1
        {
            alias.columns.push(TableAliasColumnDef::from_name(alias.name.value.clone()));
        }
        let TableFactor::Table { name, alias, args: arguments, .. } = factor else { return };
        let Some(args) = arguments else {
            if name.0.len() == 1
                && let Some(found) = self.system_relation(name)
            {
                *name = ObjectName::from(vec![Ident::new("pg_catalog"), Ident::new(found.name)]);
            }
            return;
        };
        strip_qualifier(name);
        if parts(name).as_slice() == ["pg_get_keywords"] {
            *name = ObjectName::from(vec![Ident::new("pg_catalog"), Ident::new("pg_get_keywords")]);
            *arguments = None;
            return;
        }
        if parts(name).as_slice() != ["generate_series"] {
            return;
        }
        // Postgres calls a function's only column as the table is called.
        if let Some(alias) = alias
            && alias.columns.is_empty()
        {
            alias.columns.push(TableAliasColumnDef::from_name(alias.name.value.clone()));
        }
        type_series(&mut args.args);
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
            Expr::BinaryOp { left, op: BinaryOperator::Eq | BinaryOperator::NotEq, right }
                if self.is_boolean_column(left) =>
            {
                boolean_literal(right);
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
            Expr::CompoundFieldAccess { .. } => {
                vector_subscripts(expr);
                fields_of_row(expr);
            }
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
                column => {
                    let scope = self.scopes.last().filter(|s| s.len() == 1);
                    let found = scope.and_then(|s| s.values().next());
                    if let Some(value) = found.and_then(|relation| hidden_column(relation, column)) {
                        *expr = value;
                    }
                }
            },
            Expr::CompoundIdentifier(idents) => {
                if let [table, column] = idents.as_slice()
                    && let Some(found) = self.scopes.iter().rev().find_map(|s| s.get(&table.value.to_lowercase()))
                    && let Some(value) = hidden_column(found, &column.value.to_lowercase())
                {
                    *expr = value;
                }
            }
            _ => {}
        }
    }
}

/// The literals of `generate_series(TIMESTAMP '..', '..', '1 day')`.
fn type_series(args: &mut [FunctionArg]) {
    let [
        FunctionArg::Unnamed(FunctionArgExpr::Expr(start)),
        FunctionArg::Unnamed(FunctionArgExpr::Expr(end)),
        FunctionArg::Unnamed(FunctionArgExpr::Expr(step)),
    ] = args
    else {
        return;
    };
    let data_type = match start {
        Expr::TypedString(typed) => typed.data_type.clone(),
        Expr::Cast { data_type, .. } => data_type.clone(),
        _ => return,
    };
    if !matches!(data_type, DataType::Date | DataType::Timestamp(..)) {
        return;
    }
    let is_text = |e: &Expr| matches!(e, Expr::Value(v) if matches!(v.value, Value::SingleQuotedString(_)));
    if is_text(end) {
        *end = cast_to(end.clone(), data_type);
    }
    if is_text(step) {
        *step = cast_to(step.clone(), DataType::Interval { fields: None, precision: None });
    }
}

/// `t.*` over `s.t`: DataFusion wants the name as it is in FROM.
fn full_wildcards(select: &mut Select) {
    let Select { projection, from, .. } = select;
    for item in projection {
        let SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(qualifier), _) = item else {
            continue;
        };
        let [bare] = parts(qualifier)[..] else { continue };
        let factors = from.iter().flat_map(|t| std::iter::once(&t.relation).chain(t.joins.iter().map(|j| &j.relation)));
        let full = factors.filter_map(|factor| match factor {
            TableFactor::Table { name, alias: None, args: None, .. } if name.0.len() > 1 => Some(name),
            _ => None,
        });
        if let Some(full) = full.into_iter().find(|name| parts(name).last() == Some(&bare)) {
            *qualifier = full.clone();
        }
    }
}

/// `indisprimary = 't'`: in Postgres a literal is of the type that it is compared with.
fn boolean_literal(expr: &mut Expr) {
    let Expr::Value(ValueWithSpan { value, .. }) = expr else { return };
    if let Value::SingleQuotedString(text) = value {
        match text.to_lowercase().as_str() {
            "t" | "true" | "y" | "yes" | "on" | "1" => *value = Value::Boolean(true),
            "f" | "false" | "n" | "no" | "off" | "0" => *value = Value::Boolean(false),
            _ => {}
        }
    }
}

/// The columns that every table of Postgres has besides its own.
fn hidden_column(relation: &Relation, column: &str) -> Option<Expr> {
    match column {
        "tableoid" => Some(number(relation.oid.into())),
        // By it tools see whether a row of the catalog has changed.
        "xmin" => Some(call("catalog_version", vec![])),
        _ => None,
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

pub(super) fn number(n: i64) -> Expr {
    Expr::Value(Value::Number(n.to_string(), false).into())
}

fn cast_to(expr: Expr, data_type: DataType) -> Expr {
    Expr::Cast { kind: CastKind::Cast, expr: Box::new(expr), data_type, array: false, format: None }
}

pub(super) fn cast_null(data_type: DataType) -> Expr {
    cast_to(null(), data_type)
}

pub(super) fn null() -> Expr {
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
        "generate_subscripts" => first_argument(f).map(subscripts),
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

/// Names of parts that are plain identifiers.
pub(super) fn last_part(name: &ObjectName) -> Option<&Ident> {
    name.0.last().and_then(ObjectNamePart::as_ident)
}
