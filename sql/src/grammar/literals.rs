//! What has no type of its own in Postgres takes the type of what stands beside it; and special syntax that is a function.
//!
//! ```text
//!   VALUES (DATE '2024-01-01'), ('2023-01-01')  ──▶  .., (CAST('2023-01-01' AS DATE))
//!   ARRAY[1] @> '{}', ARRAY[1] || NULL          ──▶  ARRAY[1] @> '{}'::bigint[], ..
//!   array_append(ARRAY[1], '2')                 ──▶  array_append(ARRAY[1], '2'::bigint)
//!   1e3, 1e300                                  ──▶  1000::numeric(4, 0), '1e300'::float8
//!   x AT TIME ZONE 'UTC'                        ──▶  timezone('UTC', x)
//!   (a, b) OVERLAPS (c, d)                      ──▶  comparisons
//!   x LIKE ANY (ARRAY['a', 'b'])                ──▶  x LIKE 'a' OR x LIKE 'b'
//!   a[2:]                                       ──▶  a[2:array_length(a, 1)]
//! ```
//!
//! Only what the text itself tells is seen: a column's type is for the planner.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    AccessExpr, Array, ArrayElemTypeDef, BinaryOperator, CastKind, DataType, DateTimeField, ExactNumberInfo, Expr,
    Function, FunctionArg, FunctionArgExpr, FunctionArguments, Query, SetExpr, Subscript, UnaryOperator, Value, Values,
    VisitMut, VisitorMut,
};
use datafusion::sql::sqlparser::keywords::ALL_KEYWORDS;
use tidemark_common::{Error, Result, SqlState};

use super::build::{call, string_of};

/// Rewrites all of `node`.
pub fn rewrite(node: &mut impl VisitMut) -> Result<()> {
    match node.visit(&mut Literals) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(error),
    }
}

struct Literals;

impl VisitorMut for Literals {
    type Break = Error;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Error> {
        for_each_values(&mut query.body);
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Error> {
        match expr {
            Expr::Value(value) => {
                if let Value::Number(text, _) = &value.value
                    && let Some(number) = without_exponent(text)
                {
                    *expr = number;
                }
            }
            Expr::AtTimeZone { timestamp, time_zone } => {
                *expr = call("timezone", vec![take(time_zone), take(timestamp)]);
            }
            Expr::BinaryOp { left, op: BinaryOperator::Overlaps, right } => {
                if let (Expr::Tuple(left), Expr::Tuple(right)) = (left.as_ref(), right.as_ref())
                    && let ([a, b], [c, d]) = (left.as_slice(), right.as_slice())
                {
                    *expr = overlaps((a, b), (c, d));
                }
            }
            Expr::BinaryOp { left, op, right } if on_arrays(op) => array_operands(left, right),
            Expr::Function(function) => {
                if let Some(new) = array_function(function) {
                    *expr = new;
                }
            }
            Expr::Like { any: true, pattern, .. } | Expr::ILike { any: true, pattern, .. } => {
                if let Some(patterns) = listed(pattern) {
                    *expr = like_any(expr, &patterns);
                }
            }
            Expr::Array(array) if is_ragged(array) => {
                return ControlFlow::Break(Error::new(
                    SqlState::ArraySubscriptError,
                    "multidimensional arrays must have array expressions with matching dimensions",
                ));
            }
            Expr::CompoundFieldAccess { root, access_chain } => open_slice(root, access_chain),
            Expr::Extract { field: DateTimeField::Custom(field), .. } => {
                let word = field.value.to_ascii_uppercase();
                if field.quote_style.is_none() && ALL_KEYWORDS.binary_search(&word.as_str()).is_ok() {
                    return ControlFlow::Break(Error::syntax(format!("syntax error at or near \"{}\"", field.value)));
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

fn take(expr: &mut Expr) -> Expr {
    std::mem::replace(expr, Expr::Tuple(vec![]))
}

fn for_each_values(body: &mut SetExpr) {
    match body {
        SetExpr::Values(values) => type_values(values),
        SetExpr::SetOperation { left, right, .. } => {
            for_each_values(left);
            for_each_values(right);
        }
        // A query in brackets is visited as a query.
        _ => {}
    }
}

/// Gives the literals of a column the type that another row has there.
fn type_values(values: &mut Values) {
    let width = values.rows.iter().map(|row| row.content.len()).min().unwrap_or(0);
    for column in 0..width {
        if !values.rows.iter().any(|row| is_untyped(&row.content[column])) {
            continue;
        }
        let types = values.rows.iter().filter_map(|row| type_of(&row.content[column]));
        let Some(data_type) = types.reduce(wider) else { continue };
        for row in &mut values.rows {
            if is_untyped(&row.content[column]) {
                cast(&mut row.content[column], &data_type);
            }
        }
    }
}

/// Of a whole number and another one, the other.
fn wider(a: DataType, b: DataType) -> DataType {
    if matches!(a, DataType::BigInt(None)) { b } else { a }
}

/// A literal in quotes.
fn is_untyped(expr: &Expr) -> bool {
    match expr {
        Expr::Value(value) => string_of(&value.value).is_some(),
        Expr::Nested(inner) => is_untyped(inner),
        _ => false,
    }
}

fn is_null(expr: &Expr) -> bool {
    matches!(expr, Expr::Value(value) if value.value == Value::Null)
}

fn cast(expr: &mut Expr, data_type: &DataType) {
    let inner = take(expr);
    *expr = Expr::Cast {
        kind: CastKind::Cast,
        expr: Box::new(inner),
        data_type: data_type.clone(),
        array: false,
        format: None,
    };
}

/// The type that an expression has by its spelling alone.
fn type_of(expr: &Expr) -> Option<DataType> {
    match expr {
        Expr::Nested(inner) => type_of(inner),
        Expr::Cast { data_type, .. } => Some(data_type.clone()),
        Expr::TypedString(typed) => Some(typed.data_type.clone()),
        Expr::Interval(_) => Some(DataType::Interval { fields: None, precision: None }),
        Expr::UnaryOp { op: UnaryOperator::Minus | UnaryOperator::Plus, expr } => type_of(expr),
        Expr::Value(value) => match &value.value {
            Value::Boolean(_) => Some(DataType::Boolean),
            Value::Number(text, _) if text.bytes().all(|b| b.is_ascii_digit()) => Some(DataType::BigInt(None)),
            Value::Number(..) => Some(DataType::Numeric(ExactNumberInfo::None)),
            _ => None,
        },
        Expr::Array(Array { elem, .. }) => elem.iter().filter_map(type_of).reduce(wider).map(array_of),
        _ => None,
    }
}

fn array_of(item: DataType) -> DataType {
    DataType::Array(ArrayElemTypeDef::SquareBracket(Box::new(item), None))
}

/// The type of the items, if the expression is an array by its spelling.
fn item_type(expr: &Expr) -> Option<DataType> {
    match type_of(expr)? {
        DataType::Array(ArrayElemTypeDef::SquareBracket(item, _)) => Some(*item),
        _ => None,
    }
}

/// Rows of different lengths.
fn is_ragged(array: &Array) -> bool {
    let lengths = array.elem.iter().filter_map(|row| match row {
        Expr::Array(row) => Some(row.elem.len()),
        _ => None,
    });
    lengths.clone().zip(lengths.skip(1)).any(|(a, b)| a != b)
}

fn on_arrays(op: &BinaryOperator) -> bool {
    use BinaryOperator as B;
    matches!(
        op,
        B::AtArrow | B::ArrowAt | B::PGOverlap | B::StringConcat | B::Eq | B::NotEq | B::Lt | B::LtEq | B::Gt | B::GtEq
    )
}

fn array_operands(left: &mut Expr, right: &mut Expr) {
    let types = (item_type(left), item_type(right));
    for (item, other) in [(types.0, right), (types.1, left)] {
        if let Some(item) = item
            && (is_untyped(other) || is_null(other))
        {
            cast(other, &array_of(item));
        }
    }
}

fn arguments(function: &mut Function) -> Option<Vec<&mut Expr>> {
    let FunctionArguments::List(list) = &mut function.args else { return None };
    list.args
        .iter_mut()
        .map(|arg| match arg {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr),
            _ => None,
        })
        .collect()
}

/// Types the literal arguments of a function of arrays; or the expression that stands for the call.
fn array_function(function: &mut Function) -> Option<Expr> {
    let [name] = function.name.0.as_slice() else { return None };
    let name = name.as_ident()?.value.to_ascii_lowercase();
    let mut args = arguments(function)?;
    match (name.as_str(), args.as_mut_slice()) {
        ("array_cat", [left, right]) => array_operands(left, right),
        ("array_remove", [array, item]) if is_null(item) => return Some(call("array_compact", vec![take(array)])),
        ("array_append" | "array_remove" | "array_position" | "array_positions", [array, item])
        | ("array_prepend", [item, array]) => {
            if let Some(item_type) = item_type(array)
                && is_untyped(item)
            {
                cast(item, &item_type);
            }
        }
        ("trim_array", [array, count]) => {
            let length = call("array_length", vec![array.clone(), one()]);
            let last = Expr::BinaryOp {
                left: Box::new(length),
                op: BinaryOperator::Minus,
                right: Box::new(Expr::Nested(Box::new(take(count)))),
            };
            return Some(call("array_slice", vec![take(array), one(), last]));
        }
        ("array_fill", [item, lengths]) => {
            let lengths = match lengths {
                Expr::Array(Array { elem, .. }) if !elem.is_empty() => elem.clone(),
                _ => return None,
            };
            let fill = |item, length| call("array_repeat", vec![item, length]);
            return Some(lengths.into_iter().rev().fold(take(item), fill));
        }
        ("pg_typeof", [value]) if is_untyped(value) => {
            return Some(Expr::Value(Value::SingleQuotedString("unknown".into()).into()));
        }
        _ => {}
    }
    None
}

fn one() -> Expr {
    super::build::number(1)
}

/// The items of `ARRAY[..]` or of a list in brackets.
fn listed(expr: &Expr) -> Option<Vec<Expr>> {
    match expr {
        Expr::Nested(inner) => listed(inner),
        Expr::Array(Array { elem, .. }) | Expr::Tuple(elem) if !elem.is_empty() => Some(elem.clone()),
        _ => None,
    }
}

fn like_any(like: &Expr, patterns: &[Expr]) -> Expr {
    let one = |pattern: &Expr| {
        let mut like = like.clone();
        if let Expr::Like { any, pattern: old, .. } | Expr::ILike { any, pattern: old, .. } = &mut like {
            *any = false;
            **old = pattern.clone();
        }
        like
    };
    let or = |left, right| Expr::BinaryOp { left: Box::new(left), op: BinaryOperator::Or, right: Box::new(right) };
    let any = patterns.iter().map(one).reduce(or);
    Expr::Nested(Box::new(any.unwrap_or_else(|| Expr::Value(Value::Boolean(false).into()))))
}

/// Bounds that are left out of `a[2:]` and `a[:2]`.
fn open_slice(root: &Expr, chain: &mut [AccessExpr]) {
    if let [AccessExpr::Subscript(Subscript::Slice { lower_bound, upper_bound, stride: None })] = chain {
        lower_bound.get_or_insert_with(one);
        upper_bound.get_or_insert_with(|| call("array_length", vec![root.clone(), one()]));
    }
}

/// Two periods have a moment in common: each begins before the other ends, or both begin at once.
fn overlaps(left: (&Expr, &Expr), right: (&Expr, &Expr)) -> Expr {
    let binary = |left: Expr, op, right: Expr| Expr::BinaryOp { left: Box::new(left), op, right: Box::new(right) };
    let bounds = |(start, end): (&Expr, &Expr)| {
        // The second may be how long the period is.
        let end = match type_of(end) {
            Some(DataType::Interval { .. }) => binary(start.clone(), BinaryOperator::Plus, end.clone()),
            _ => end.clone(),
        };
        let both = vec![start.clone(), end];
        (call("least", both.clone()), call("greatest", both))
    };
    let ((from, until), (other_from, other_until)) = (bounds(left), bounds(right));
    let together = binary(from.clone(), BinaryOperator::Eq, other_from.clone());
    let before = binary(from, BinaryOperator::Lt, other_until);
    let after = binary(other_from, BinaryOperator::Lt, until);
    let crossing = Expr::Nested(Box::new(binary(before, BinaryOperator::And, after)));
    Expr::Nested(Box::new(binary(together, BinaryOperator::Or, crossing)))
}

/// `1.5e3` as an exact number without an exponent, as a float where that has too many digits; `None`: it has no exponent.
fn without_exponent(text: &str) -> Option<Expr> {
    /// What a 128-bit decimal holds.
    const MAX_DIGITS: usize = 38;
    let (mantissa, exponent) = text.split_once(['e', 'E'])?;
    let exponent: i32 = exponent.parse().ok()?;
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    let point = i32::try_from(whole.len()).ok()?.checked_add(exponent)?;
    let (length, zero) = (i32::try_from(digits.len()).ok()?, "0");
    let (whole, fraction) = if point <= 0 {
        (String::new(), zero.repeat(point.unsigned_abs() as usize % (MAX_DIGITS + 1)) + &digits)
    } else if point >= length {
        let zeros = (point - length).min(MAX_DIGITS as i32 + 1) as usize;
        (digits + &zero.repeat(zeros), String::new())
    } else {
        let (whole, fraction) = digits.split_at(point as usize);
        (whole.to_string(), fraction.to_string())
    };
    let whole = whole.trim_start_matches('0');
    let whole = if whole.is_empty() { zero } else { whole };
    let in_reach = point.unsigned_abs() as usize <= MAX_DIGITS;
    if !in_reach || whole.len() + fraction.len() > MAX_DIGITS {
        let mut float = Expr::Value(Value::SingleQuotedString(text.to_string()).into());
        cast(&mut float, &DataType::DoublePrecision);
        return Some(float);
    }
    let number = |text: String| Expr::Value(Value::Number(text, false).into());
    if !fraction.is_empty() {
        return Some(number(format!("{whole}.{fraction}")));
    }
    let mut exact = number(whole.to_string());
    // A whole number, and numeric all the same.
    cast(&mut exact, &DataType::Numeric(ExactNumberInfo::PrecisionAndScale(whole.len() as u64, 0)));
    Some(exact)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grammar::build::rewritten_select;

    fn rewritten(sql: &str) -> String {
        rewritten_select(sql, rewrite).unwrap()
    }

    #[test]
    fn literals_take_the_type_beside_them() {
        let table = [
            ("ARRAY[1] @> '{}'", "ARRAY[1] @> CAST('{}' AS BIGINT[])"),
            ("ARRAY[1] || NULL", "ARRAY[1] || CAST(NULL AS BIGINT[])"),
            ("array_append(ARRAY[1], 'x')", "array_append(ARRAY[1], CAST('x' AS BIGINT))"),
            ("'a' || 'b'", "'a' || 'b'"),
            ("x FROM (VALUES (DATE 'a'), ('b')) AS v", "x FROM (VALUES (DATE 'a'), (CAST('b' AS DATE))) AS v"),
            ("x FROM (VALUES (1), (2.5), ('b')) AS v", "x FROM (VALUES (1), (2.5), (CAST('b' AS NUMERIC))) AS v"),
        ];
        for (sql, expected) in table {
            assert_eq!(rewritten(sql), expected, "{sql}");
        }
    }

    #[test]
    fn exponents_are_exact() {
        let table = [
            ("1e3", "CAST(1000 AS NUMERIC(4,0))"),
            ("1.5e1", "CAST(15 AS NUMERIC(2,0))"),
            ("1.25e1", "12.5"),
            ("1e-5", "0.00001"),
            ("12e-1", "1.2"),
            ("1e300", "CAST('1e300' AS DOUBLE PRECISION)"),
        ];
        for (sql, expected) in table {
            assert_eq!(rewritten(sql), expected, "{sql}");
        }
    }

    #[test]
    fn syntax_becomes_functions() {
        assert_eq!(rewritten("x AT TIME ZONE 'UTC'"), "timezone('UTC', x)");
        assert_eq!(rewritten("a LIKE ANY (ARRAY['x', 'y'])"), "(a LIKE 'x' OR a LIKE 'y')");
        assert_eq!(rewritten("a[2:]"), "a[2:array_length(a, 1)]");
        assert_eq!(rewritten("array_fill(7, ARRAY[2, 3])"), "array_repeat(array_repeat(7, 3), 2)");
    }
}
