//! Conditions as SQL for the other server: those that mean the same on both sides, and no others.
//!
//! ```text
//!   comparisons of a column with a constant, IN, BETWEEN, LIKE, IS [NOT] NULL, IS TRUE .., AND, OR, NOT
//!   numbers, dates, times, timestamps, uuid, bytea, boolean      as they are
//!   text     =, <>, IN, LIKE       if texts that differ are never equal over there
//!            <, <=, >, >=, BETWEEN  COLLATE "C": here, text is ordered by its bytes
//!   json, interval, char(n), what came as text                  stay here: equality is another one, or there is none
//! ```
//!
//! `real` and `double precision` are compared with finite constants other than zero: zeros have signs here.

use bytes::BytesMut;
use datafusion::logical_expr::{Between, BinaryExpr, Cast, Expr, Like, Operator};
use datafusion::scalar::ScalarValue;
use tidemark_common::types::SqlType;
use tidemark_common::values::{Column as Values, Style};

use super::table::Item;
use super::types::RemoteColumn;

/// Constants of an IN that goes over.
const MAX_LIST: usize = 1000;

/// `name` in double quotes.
pub fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

pub fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// The condition, or `None` if it has to stay here.
pub fn to_sql(expr: &Expr, columns: &[Item]) -> Option<String> {
    let inner = |expr: &Expr| to_sql(expr, columns);
    Some(match expr {
        Expr::BinaryExpr(BinaryExpr { left, op: op @ (Operator::And | Operator::Or), right }) => {
            format!("({} {op} {})", inner(left)?, inner(right)?)
        }
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            let (side, constant, op) = match (side(left, columns), side(right, columns)) {
                (Some(column), None) => (column, right, *op),
                (None, Some(column)) => (column, left, op.swap()?),
                _ => return None,
            };
            side.compared(op, constant)?
        }
        Expr::Not(of) => format!("(NOT {})", inner(of)?),
        Expr::IsNull(of) => format!("({} IS NULL)", column(of, columns)?.0),
        Expr::IsNotNull(of) => format!("({} IS NOT NULL)", column(of, columns)?.0),
        Expr::IsTrue(of) => format!("({} IS TRUE)", inner(of)?),
        Expr::IsNotTrue(of) => format!("({} IS NOT TRUE)", inner(of)?),
        Expr::IsFalse(of) => format!("({} IS FALSE)", inner(of)?),
        Expr::IsNotFalse(of) => format!("({} IS NOT FALSE)", inner(of)?),
        Expr::Column(_) => {
            let (name, column) = column(expr, columns)?;
            (column.sql_type == SqlType::Boolean).then_some(name)?
        }
        Expr::InList(list) if list.list.len() <= MAX_LIST && !list.list.is_empty() => {
            let side = side(&list.expr, columns)?;
            let items: Vec<String> = list.list.iter().map(|item| side.constant(item)).collect::<Option<_>>()?;
            let not = if list.negated { "NOT " } else { "" };
            side.equality().then(|| format!("({} {not}IN ({}))", side.name, items.join(", ")))?
        }
        Expr::Between(Between { expr, negated, low, high }) => {
            let side = side(expr, columns)?;
            let (low, high) = (side.compared(Operator::GtEq, low)?, side.compared(Operator::LtEq, high)?);
            format!("({}({low} AND {high}))", if *negated { "NOT " } else { "" })
        }
        Expr::Like(like) => liked(like, columns)?,
        _ => return None,
    })
}

/// A column of the relation as it stands in a SELECT, whatever its type.
fn column<'a>(expr: &Expr, columns: &'a [Item]) -> Option<(String, &'a RemoteColumn)> {
    let Expr::Column(named) = expr else { return None };
    let item = columns.iter().find(|item| item.column.name == named.name)?;
    Some((item.sql.clone(), &item.column))
}

/// How values of a type are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    Boolean,
    Number,
    Float,
    Text,
    /// There is only equality.
    Uuid,
    /// Date, time, timestamp, bytea.
    Ordered,
}

pub fn class(sql_type: &SqlType) -> Option<Class> {
    Some(match sql_type {
        SqlType::Boolean => Class::Boolean,
        SqlType::SmallInt | SqlType::Integer | SqlType::BigInt | SqlType::Numeric(_) => Class::Number,
        SqlType::Real | SqlType::Double => Class::Float,
        SqlType::Text | SqlType::Varchar(_) => Class::Text,
        SqlType::Uuid => Class::Uuid,
        SqlType::Date | SqlType::Time | SqlType::Timestamp | SqlType::TimestampTz | SqlType::Bytea => Class::Ordered,
        _ => return None,
    })
}

/// The column in a comparison.
struct Side<'a> {
    name: String,
    column: &'a RemoteColumn,
    class: Class,
}

fn side<'a>(expr: &Expr, columns: &'a [Item]) -> Option<Side<'a>> {
    let expr = match expr {
        Expr::Cast(Cast { expr: inner, field }) => {
            let (_, from) = column(inner, columns)?;
            widens(&from.sql_type, &SqlType::from_field(field)).then_some(inner.as_ref())?
        }
        other => other,
    };
    let (name, column) = column(expr, columns)?;
    let class = class(&column.sql_type).filter(|_| column.cast.is_none())?;
    Some(Side { name, column, class })
}

/// The cast changes no value, so that comparing its result is comparing what it is of.
pub fn widens(from: &SqlType, to: &SqlType) -> bool {
    let digits = |t: &SqlType| match t {
        SqlType::SmallInt => Some((5, 0)),
        SqlType::Integer => Some((10, 0)),
        SqlType::BigInt => Some((19, 0)),
        SqlType::Numeric(Some((precision, scale))) => {
            Some((i16::from(*precision) - i16::from(*scale), i16::from(*scale)))
        }
        _ => None,
    };
    match (digits(from), digits(to)) {
        (Some((whole, fraction)), Some((to_whole, to_fraction))) => to_whole >= whole && to_fraction >= fraction,
        _ => class(from) == Some(Class::Text) && *to == SqlType::Text,
    }
}

impl Side<'_> {
    fn equality(&self) -> bool {
        self.class != Class::Text || self.column.texts.bytewise
    }

    fn compared(&self, op: Operator, constant: &Expr) -> Option<String> {
        let constant = self.constant(constant)?;
        let (word, equality) = match op {
            Operator::Eq => ("=", true),
            Operator::NotEq => ("<>", true),
            Operator::IsDistinctFrom => ("IS DISTINCT FROM", true),
            Operator::IsNotDistinctFrom => ("IS NOT DISTINCT FROM", true),
            Operator::Lt => ("<", false),
            Operator::LtEq => ("<=", false),
            Operator::Gt => (">", false),
            Operator::GtEq => (">=", false),
            _ => return None,
        };
        match (equality, self.class) {
            (true, _) => self.equality().then(|| format!("({} {word} {constant})", self.name)),
            (false, Class::Uuid) => None,
            (false, Class::Text) => {
                self.column.texts.ordered.then(|| format!("({} COLLATE \"C\" {word} {constant})", self.name))
            }
            (false, _) => Some(format!("({} {word} {constant})", self.name)),
        }
    }

    /// A constant of the column's class.
    fn constant(&self, expr: &Expr) -> Option<String> {
        let Expr::Literal(value, _) = expr else { return None };
        if value.is_null() {
            return None;
        }
        let given = SqlType::from_data_type(&value.data_type());
        // A uuid is held as text.
        let sql_type = if self.class == Class::Uuid { SqlType::Text } else { given };
        let same = match self.class {
            Class::Uuid => matches!(value.data_type(), datafusion::arrow::datatypes::DataType::Utf8),
            Class::Ordered => sql_type == self.column.sql_type,
            of => class(&sql_type) == Some(of),
        };
        if !same {
            return None;
        }
        let text = text_of(value, &sql_type)?;
        Some(match self.class {
            Class::Number if text.starts_with('-') => format!("({text})"),
            Class::Number => text,
            Class::Boolean => (if text == "t" { "TRUE" } else { "FALSE" }).into(),
            Class::Text => literal(&text),
            Class::Uuid => is_uuid(&text).then(|| format!("{}::uuid", literal(&text)))?,
            Class::Float => {
                let number: f64 = text.parse().ok()?;
                (number.is_finite() && number != 0.0).then(|| format!("{}::{sql_type}", literal(&text)))?
            }
            Class::Ordered => format!("{}::{sql_type}", literal(&text)),
        })
    }
}

/// A constant of this type, which says so.
pub fn constant_of(value: &ScalarValue, sql_type: &SqlType) -> Option<String> {
    class(sql_type)?;
    Some(format!("{}::{sql_type}", literal(&text_of(value, sql_type)?)))
}

fn text_of(value: &ScalarValue, sql_type: &SqlType) -> Option<String> {
    let values = Values::of_type(&value.to_array().ok()?, sql_type).ok()?;
    let mut text = BytesMut::new();
    values.write_text(0, &Style::default(), &mut text);
    String::from_utf8(text.to_vec()).ok()
}

fn is_uuid(text: &str) -> bool {
    let dash = |i: usize| matches!(i, 8 | 13 | 18 | 23);
    text.len() == 36 && text.bytes().enumerate().all(|(i, b)| if dash(i) { b == b'-' } else { b.is_ascii_hexdigit() })
}

fn liked(like: &Like, columns: &[Item]) -> Option<String> {
    let side = side(&like.expr, columns)?;
    let Expr::Literal(ScalarValue::Utf8(Some(pattern)), _) = like.pattern.as_ref() else { return None };
    let plain = !like.case_insensitive && matches!(like.escape_char, None | Some('\\'));
    // What escapes nothing is an error over there.
    let whole = pattern.bytes().rev().take_while(|b| *b == b'\\').count() % 2 == 0;
    let text = side.class == Class::Text && side.column.texts.bytewise && side.column.texts.ordered;
    let not = if like.negated { "NOT " } else { "" };
    (plain && whole && text).then(|| format!("({} {not}LIKE {})", side.name, literal(pattern)))
}

#[cfg(test)]
mod tests {
    use datafusion::logical_expr::{col, lit};

    use super::super::types::Texts;
    use super::*;

    fn columns() -> Vec<Item> {
        let column = |name: &str, sql_type: SqlType| Item {
            sql: identifier(name),
            column: RemoteColumn {
                name: name.into(),
                sql_type,
                nullable: true,
                cast: None,
                texts: Texts { bytewise: true, ordered: true, folded: true },
            },
        };
        let mut mood = column("mood", SqlType::Text);
        mood.column.cast = Some("text");
        let mut folded = column("folded", SqlType::Text);
        folded.column.texts.bytewise = false;
        vec![
            column("i", SqlType::Integer),
            column("n", SqlType::Numeric(Some((10, 2)))),
            column("f", SqlType::Double),
            column("t", SqlType::Text),
            column("U\"", SqlType::Uuid),
            column("d", SqlType::Date),
            column("b", SqlType::Boolean),
            column("j", SqlType::Jsonb),
            column("c", SqlType::Char(3)),
            mood,
            folded,
        ]
    }

    fn sql(expr: Expr) -> String {
        to_sql(&expr, &columns()).unwrap_or_else(|| "stays".into())
    }

    #[test]
    fn what_means_the_same_goes_over() {
        assert_eq!(sql(col("i").eq(lit(5)).and(col("i").lt(lit(-1)))), "((\"i\" = 5) AND (\"i\" < (-1)))");
        assert_eq!(sql(lit(5).lt(col("i"))), "(\"i\" > 5)");
        assert_eq!(sql(col("n").gt_eq(lit(ScalarValue::Decimal128(Some(150), 10, 2)))), "(\"n\" >= 1.50)");
        assert_eq!(sql(col("f").gt(lit(0.5))), "(\"f\" > '0.5'::double precision)");
        assert_eq!(sql(col("t").eq(lit("it's"))), "(\"t\" = 'it''s')");
        assert_eq!(sql(col("t").lt(lit("m"))), "(\"t\" COLLATE \"C\" < 'm')");
        assert_eq!(sql(col("t").like(lit("a%"))), "(\"t\" LIKE 'a%')");
        assert_eq!(sql(col("b").is_not_true()), "(\"b\" IS NOT TRUE)");
        assert_eq!(sql(col("j").is_null()), "(\"j\" IS NULL)");
        assert_eq!(sql(col("i").in_list(vec![lit(1), lit(2)], true)), "(\"i\" NOT IN (1, 2))");
        assert_eq!(sql(col("i").between(lit(1), lit(2))), "(((\"i\" >= 1) AND (\"i\" <= 2)))");
        assert_eq!(sql(col("d").eq(lit(ScalarValue::Date32(Some(0))))), "(\"d\" = '1970-01-01'::date)");
        assert_eq!(sql(col("d").eq(lit(ScalarValue::Date32(Some(i32::MAX))))), "(\"d\" = 'infinity'::date)");
        let uuid = Expr::Column(datafusion::common::Column::new_unqualified("U\""));
        let id = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";
        assert_eq!(sql(uuid.clone().eq(lit(id))), format!("(\"U\"\"\" = '{id}'::uuid)"));
        assert_eq!(sql(uuid.clone().lt(lit(id))), "stays");
        assert_eq!(sql(uuid.eq(lit("no uuid"))), "stays");
    }

    #[test]
    fn what_may_mean_something_else_stays() {
        for expr in [
            col("f").lt(lit(0.0)),
            col("f").lt(lit(f64::NAN)),
            col("c").eq(lit("abc")),
            col("j").eq(lit("{}")),
            col("mood").eq(lit("sad")),
            col("folded").eq(lit("x")),
            col("t").ilike(lit("a%")),
            col("t").like(lit("a\\")),
            col("i").eq(lit(ScalarValue::Int32(None))),
            col("i").eq(col("i")),
            col("i").in_list(vec![lit(ScalarValue::Int32(None))], false),
            (col("i") + lit(1)).eq(lit(2)),
        ] {
            let text = expr.to_string();
            assert_eq!(sql(expr), "stays", "{text}");
        }
    }
}
