//! Operators and special syntax as calls: `->` on json, `date - date`, `EXTRACT(..)`, `SUBSTRING(.. FROM ..)`.

use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::{DataFusionError, Result as DfResult};
use datafusion::execution::SessionStateDefaults;
use datafusion::functions::math::expr_fn;
use datafusion::functions_nested::expr_fn::array_has_any;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion::logical_expr::{Expr, ExprSchemable, Operator, ScalarUDF, cast, lit};
use datafusion::sql::sqlparser::ast::BinaryOperator;
use tidemark_common::types::SqlType;

use super::{datetime, extract, json_access, json_edit, ratio};

/// Ours before DataFusion's: the first that plans an operator decides.
pub fn expr_planners() -> Vec<Arc<dyn ExprPlanner>> {
    let mut planners: Vec<Arc<dyn ExprPlanner>> = vec![Arc::new(PostgresOperators::new())];
    planners.extend(SessionStateDefaults::default_expr_planners());
    planners
}

#[derive(Debug)]
struct PostgresOperators {
    functions: Vec<Arc<ScalarUDF>>,
}

impl PostgresOperators {
    fn new() -> Self {
        Self { functions: super::functions().into_iter().map(Arc::new).collect() }
    }

    fn call(&self, name: &str, args: Vec<Expr>) -> Option<Expr> {
        let function = self.functions.iter().find(|f| f.name() == name)?;
        Some(Expr::ScalarFunction(ScalarFunction::new_udf(Arc::clone(function), args)))
    }
}

/// What the choice of an operator's function depends on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    Json,
    Array,
    Bytea,
    Date,
    Time,
    Timestamp,
    Interval,
    Integer,
    Number,
    Other,
}

fn family(expr: &Expr, schema: &DFSchema) -> DfResult<Family> {
    let (_, field) = expr.to_field(schema)?;
    Ok(match (SqlType::from_field(&field), field.data_type()) {
        (SqlType::Json | SqlType::Jsonb, _) => Family::Json,
        (_, DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..)) => Family::Array,
        (_, DataType::Binary | DataType::LargeBinary | DataType::BinaryView) => Family::Bytea,
        (_, DataType::Date32 | DataType::Date64) => Family::Date,
        (_, DataType::Time32(_) | DataType::Time64(_)) => Family::Time,
        (_, DataType::Timestamp(..)) => Family::Timestamp,
        (_, DataType::Interval(_) | DataType::Duration(_)) => Family::Interval,
        (_, t) if t.is_integer() => Family::Integer,
        (_, t) if t.is_numeric() => Family::Number,
        _ => Family::Other,
    })
}

/// The function of an operator, and whether its arguments change places.
fn function_of(op: &BinaryOperator, left: Family, right: Family) -> Option<(&'static str, bool)> {
    use BinaryOperator as B;
    use Family as F;
    let no_array = left != F::Array && right != F::Array;
    let json = left == F::Json || right == F::Json;
    Some(match (op, left, right) {
        (B::Arrow, ..) => (json_access::JSON_GET, false),
        (B::LongArrow, ..) => (json_access::JSON_GET_TEXT, false),
        (B::HashArrow, ..) => (json_access::JSON_GET_PATH, false),
        (B::HashLongArrow, ..) => (json_access::JSON_GET_PATH_TEXT, false),
        (B::HashMinus, ..) => (json_edit::JSONB_DELETE_PATH, false),
        (B::AtArrow, ..) if no_array => (json_access::JSONB_CONTAINS, false),
        (B::ArrowAt, ..) if no_array => (json_access::JSONB_CONTAINS, true),
        (B::Question, ..) => (json_access::JSONB_EXISTS, false),
        (B::QuestionPipe, ..) => (json_access::JSONB_EXISTS_ANY, false),
        (B::QuestionAnd, ..) => (json_access::JSONB_EXISTS_ALL, false),
        (B::StringConcat, ..) if json && no_array => (json_edit::JSONB_CONCAT, false),
        (B::StringConcat, F::Bytea, _) | (B::StringConcat, _, F::Bytea) => (super::binary::BYTEA_CONCAT, false),
        (B::Minus, F::Json, _) => (json_edit::JSONB_DELETE, false),
        (B::Minus, F::Date, F::Date) => (datetime::DATE_DIFF, false),
        (B::Minus, F::Timestamp, F::Timestamp | F::Date) | (B::Minus, F::Date, F::Timestamp) => {
            (datetime::TIMESTAMP_DIFF, false)
        }
        (B::Minus, F::Time, F::Time) => (datetime::TIME_DIFF, false),
        (B::Plus | B::Minus, F::Date, F::Integer | F::Interval) => (datetime::DATE_ADD, false),
        (B::Plus, F::Date, F::Time) => (datetime::DATE_ADD, false),
        (B::Plus, F::Integer | F::Interval | F::Time, F::Date) => (datetime::DATE_ADD, true),
        (B::Plus | B::Minus, F::Time, F::Interval) => (datetime::TIME_ADD, false),
        (B::Plus, F::Interval, F::Time) => (datetime::TIME_ADD, true),
        (B::Multiply | B::Divide, F::Interval, F::Integer | F::Number) => (datetime::INTERVAL_MULTIPLY, false),
        (B::Multiply, F::Integer | F::Number, F::Interval) => (datetime::INTERVAL_MULTIPLY, true),
        _ => return None,
    })
}

/// An array in quotes has the type of the array that it is compared with.
fn typed_arrays(mut expr: RawBinaryExpr, schema: &DFSchema) -> DfResult<RawBinaryExpr> {
    use BinaryOperator::{Eq, Gt, GtEq, Lt, LtEq, NotEq};
    if !matches!(expr.op, Eq | NotEq | Lt | LtEq | Gt | GtEq) {
        return Ok(expr);
    }
    let list =
        |e: &Expr| Ok::<_, DataFusionError>(Some(e.get_type(schema)?).filter(|t| matches!(t, DataType::List(_))));
    let is_text = |e: &Expr| matches!(e, Expr::Literal(ScalarValue::Utf8(Some(_)), _));
    if is_text(&expr.right)
        && let Some(array) = list(&expr.left)?
    {
        expr.right = cast(expr.right, array);
    } else if is_text(&expr.left)
        && let Some(array) = list(&expr.right)?
    {
        expr.left = cast(expr.left, array);
    }
    Ok(expr)
}

/// What divides numerics, or multiplies by a quotient. It is planned here already, because types follow from it.
fn quotient(expr: &RawBinaryExpr, schema: &DFSchema) -> DfResult<Option<Expr>> {
    let op = match expr.op {
        BinaryOperator::Divide => Operator::Divide,
        BinaryOperator::Multiply => Operator::Multiply,
        _ => return Ok(None),
    };
    let (left, right) = (expr.left.get_type(schema)?, expr.right.get_type(schema)?);
    Ok(ratio::planned(op, (&expr.left, &left), (&expr.right, &right)))
}

/// A float beside a number that is none is a double, and so is that number.
fn widen_floats(mut expr: RawBinaryExpr, schema: &DFSchema) -> DfResult<RawBinaryExpr> {
    use BinaryOperator::{Divide, Eq, Gt, GtEq, Lt, LtEq, Minus, Multiply, NotEq, Plus};
    if !matches!(expr.op, Plus | Minus | Multiply | Divide | Eq | NotEq | Lt | LtEq | Gt | GtEq) {
        return Ok(expr);
    }
    let exact = |t: &DataType| t.is_integer() || t.is_decimal();
    let (left, right) = (expr.left.get_type(schema)?, expr.right.get_type(schema)?);
    if (left.is_floating() && exact(&right)) || (exact(&left) && right.is_floating()) {
        expr.left = expr.left.cast_to(&DataType::Float64, schema)?;
        expr.right = expr.right.cast_to(&DataType::Float64, schema)?;
    }
    Ok(expr)
}

impl ExprPlanner for PostgresOperators {
    fn plan_binary_op(&self, expr: RawBinaryExpr, schema: &DFSchema) -> DfResult<PlannerResult<RawBinaryExpr>> {
        use BinaryOperator as B;
        match expr.op {
            B::PGExp => return Ok(PlannerResult::Planned(expr_fn::power(expr.left, expr.right))),
            B::PGOverlap => return Ok(PlannerResult::Planned(array_has_any(expr.left, expr.right))),
            _ => {}
        }
        let expr = typed_arrays(widen_floats(expr, schema)?, schema)?;
        if let Some(quotient) = quotient(&expr, schema)? {
            return Ok(PlannerResult::Planned(quotient));
        }
        let (left, right) = (family(&expr.left, schema)?, family(&expr.right, schema)?);
        let Some((name, swapped)) = function_of(&expr.op, left, right) else {
            return Ok(PlannerResult::Original(expr));
        };
        let (first, second) =
            if swapped { (expr.right.clone(), expr.left.clone()) } else { (expr.left.clone(), expr.right.clone()) };
        // What is subtracted is added negated, a divisor is multiplied inverted.
        let second = match (&expr.op, name) {
            (B::Minus, datetime::DATE_ADD | datetime::TIME_ADD) => Expr::Negative(Box::new(second)),
            (B::Divide, _) => lit(1.0) / second,
            _ => second,
        };
        Ok(match self.call(name, vec![first, second]) {
            Some(call) => PlannerResult::Planned(call),
            None => PlannerResult::Original(expr),
        })
    }

    fn plan_extract(&self, args: Vec<Expr>) -> DfResult<PlannerResult<Vec<Expr>>> {
        let scale = match args.first() {
            Some(Expr::Literal(ScalarValue::Utf8(Some(part)), _)) => extract::scale(part),
            _ => 0,
        };
        Ok(match self.call(extract::EXTRACT, args.clone()) {
            Some(call) if scale > 0 => PlannerResult::Planned(cast(call, DataType::Decimal128(38, scale))),
            Some(call) => PlannerResult::Planned(call),
            None => PlannerResult::Original(args),
        })
    }

    fn plan_substring(&self, args: Vec<Expr>) -> DfResult<PlannerResult<Vec<Expr>>> {
        Ok(match self.call("substring", args.clone()) {
            Some(call) => PlannerResult::Planned(call),
            None => PlannerResult::Original(args),
        })
    }
}
