//! Expressions of a SELECT list as SQL for the other server: those that give the same on both sides, and no others.
//!
//! ```text
//!   columns, constants, conditions as in filter.rs
//!   + - * of integers and of numerics      ||, of texts      CASE, coalesce, nullif      casts to wider numbers and to text
//! ```
//!
//! What depends on a server's locale, clock or version (`upper`, `now`, regular expressions) stays here.

use datafusion::common::DFSchema;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{BinaryExpr, Case, Cast, Expr, ExprSchemable, Operator};
use tidemark_common::types::SqlType;

use super::filter::{Class, class, constant_of, to_sql, widens};
use super::table::Item;
use super::types::{RemoteColumn, Texts};

/// An item of a SELECT list over `items`, whose names `schema` has.
pub fn computed(expr: &Expr, schema: &DFSchema, items: &[Item]) -> Option<Item> {
    if let Some(at) = position(expr, schema) {
        return items.get(at).cloned();
    }
    let scope = Scope::new(schema, items)?;
    let sql_type = scope.type_of(expr)?;
    class(&sql_type)?;
    let sql = scope.value(expr)?;
    // What is computed has whatever collation its parts have.
    let texts = Texts { bytewise: false, ordered: false, folded: false };
    Some(Item { sql, column: RemoteColumn { name: String::new(), sql_type, nullable: true, cast: None, texts } })
}

/// The input's column that `expr` is.
pub fn position(expr: &Expr, schema: &DFSchema) -> Option<usize> {
    match expr {
        Expr::Column(column) => schema.maybe_index_of_column(column),
        Expr::Alias(alias) => position(&alias.expr, schema),
        _ => None,
    }
}

struct Scope<'a> {
    schema: &'a DFSchema,
    /// By the names of the schema, which are all different.
    items: Vec<Item>,
}

impl<'a> Scope<'a> {
    fn new(schema: &'a DFSchema, items: &[Item]) -> Option<Self> {
        let names: Vec<&String> = schema.fields().iter().map(|field| field.name()).collect();
        if names.iter().enumerate().any(|(at, name)| names[..at].contains(name)) {
            return None;
        }
        let named = |(item, name): (&Item, &&String)| Item {
            sql: item.sql.clone(),
            column: RemoteColumn { name: name.to_string(), ..item.column.clone() },
        };
        Some(Self { schema, items: items.iter().zip(&names).map(named).collect() })
    }

    fn type_of(&self, expr: &Expr) -> Option<SqlType> {
        let (_, field) = expr.to_field(self.schema).ok()?;
        Some(SqlType::from_field(&field))
    }

    /// In brackets, unless it needs none.
    fn value(&self, expr: &Expr) -> Option<String> {
        Some(match expr {
            Expr::Alias(alias) => self.value(&alias.expr)?,
            Expr::Column(_) => {
                let item = self.items.get(position(expr, self.schema)?)?;
                class(&item.column.sql_type).filter(|_| item.column.cast.is_none())?;
                item.sql.clone()
            }
            Expr::Literal(value, _) if value.is_null() => {
                let sql_type = self.type_of(expr)?;
                class(&sql_type).map(|_| format!("NULL::{sql_type}"))?
            }
            Expr::Literal(value, _) => constant_of(value, &self.type_of(expr)?)?,
            Expr::Cast(Cast { expr: inner, .. }) => {
                let (from, to) = (self.type_of(inner)?, self.type_of(expr)?);
                widens(&from, &to).then_some(())?;
                format!("{}::{to}", self.value(inner)?)
            }
            Expr::BinaryExpr(BinaryExpr { left, op, right }) => match op {
                Operator::Plus | Operator::Minus | Operator::Multiply => {
                    self.arithmetic(&op.to_string(), left, right, is_numeric)?
                }
                Operator::StringConcat => {
                    let is_text = |e: &Expr| Some(class(&self.type_of(e)?)? == Class::Text);
                    (is_text(left)? && is_text(right)?).then_some(())?;
                    format!("({} || {})", self.value(left)?, self.value(right)?)
                }
                _ => to_sql(expr, &self.items)?,
            },
            Expr::ScalarFunction(call) => self.call(call)?,
            Expr::Case(case) => self.case(case)?,
            _ => to_sql(expr, &self.items)?,
        })
    }

    fn arithmetic(&self, op: &str, left: &Expr, right: &Expr, fits: impl Fn(&SqlType) -> bool) -> Option<String> {
        (fits(&self.type_of(left)?) && fits(&self.type_of(right)?)).then_some(())?;
        Some(format!("({} {op} {})", self.value(left)?, self.value(right)?))
    }

    fn call(&self, call: &ScalarFunction) -> Option<String> {
        let values = || call.args.iter().map(|of| self.value(of)).collect::<Option<Vec<_>>>();
        match (call.func.name(), call.args.as_slice()) {
            ("tidemark_add", [left, right]) => self.arithmetic("+", left, right, is_integer),
            ("tidemark_subtract", [left, right]) => self.arithmetic("-", left, right, is_integer),
            ("tidemark_multiply", [left, right]) => self.arithmetic("*", left, right, is_integer),
            ("coalesce", _) => Some(format!("coalesce({})", values()?.join(", "))),
            ("nullif", [value, other]) => {
                let equal = to_sql(&value.clone().eq(other.clone()), &self.items)?;
                Some(format!("(CASE WHEN {equal} THEN NULL ELSE {} END)", self.value(value)?))
            }
            _ => None,
        }
    }

    fn case(&self, case: &Case) -> Option<String> {
        let mut sql = String::from("CASE");
        if case.expr.is_some() {
            return None;
        }
        for (when, then) in &case.when_then_expr {
            sql.push_str(&format!(" WHEN {} THEN {}", to_sql(when, &self.items)?, self.value(then)?));
        }
        if let Some(otherwise) = &case.else_expr {
            sql.push_str(&format!(" ELSE {}", self.value(otherwise)?));
        }
        Some(format!("({sql} END)"))
    }
}

fn is_integer(sql_type: &SqlType) -> bool {
    matches!(sql_type, SqlType::SmallInt | SqlType::Integer | SqlType::BigInt)
}

fn is_numeric(sql_type: &SqlType) -> bool {
    matches!(sql_type, SqlType::Numeric(Some(_)))
}
