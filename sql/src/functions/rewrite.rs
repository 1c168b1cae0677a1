//! Casts and comparisons that DataFusion does otherwise than Postgres, rewritten before types are settled.
//!
//! ```text
//!   '1 Feb 2024 10:00'::timestamp ──▶ tidemark_to_timestamp('1 Feb 2024 10:00')::timestamp
//!   ts > '2024-02-01 10:00'       ──▶ ts > <timestamp literal>
//!   2.5::int                      ──▶ round(2.5)::int
//!   ts::text                      ──▶ tidemark_to_text(ts)
//! ```
//!
//! It is part of [`super::register`], so it runs wherever DataFusion's analyzer does.

mod together;
mod zoned;

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, IntervalMonthDayNano, TimeUnit};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::Result as DfResult;
use datafusion::logical_expr::expr::{Between, Case, Cast, InList, ScalarFunction};
use datafusion::logical_expr::expr_rewriter::FunctionRewrite;
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, Operator, ScalarUDF, lit};
use tidemark_common::types::{NUMERIC_PRECISION, NUMERIC_SCALE, SqlType};
use tidemark_common::{Error, SqlState};

use super::declare::{Kind, function};
use super::extract::EXTRACT;
use super::value::Value;
use super::{arithmetic, binary, casts, clock, input, json, ratio, strings, text};

pub const TO_TEXT: &str = "tidemark_to_text";
const INTERVAL_ORDER: &str = "tidemark_interval_order";
pub const TO_BYTEA: &str = "tidemark_to_bytea";
pub const ROUND_HALF_EVEN: &str = "tidemark_round_half_even";
const TIME_TO_INTERVAL: &str = "tidemark_time_to_interval";
const TEXT_TO_ARRAY: &str = "tidemark_text_to_array";
const TEXT_TO_INTEGER: &str = "tidemark_text_to_integer";
const TEXT_TO_FLOAT: &str = "tidemark_text_to_float";
const TEXT_TO_NUMERIC: &str = "tidemark_text_to_numeric";
const TEXT_TO_BOOLEAN: &str = "tidemark_text_to_boolean";

pub(super) fn functions() -> Vec<ScalarUDF> {
    vec![
        function(TO_TEXT)
            .on(&[Kind::Any], Kind::Text, |r| {
                let text = strings::any_text(r, 0)?;
                let (_, _, sql_type) = r.any(0);
                Ok(match (sql_type, text.as_deref()) {
                    (SqlType::Boolean, Some("t")) => "true".into(),
                    (SqlType::Boolean, Some("f")) => "false".into(),
                    // A char's blanks are padding, not value.
                    (SqlType::Char(_), Some(text)) => text.trim_end_matches(' ').into(),
                    _ => text.into(),
                })
            })
            .udf(),
        function(INTERVAL_ORDER)
            .on(&[Kind::Interval], Kind::Numeric, |r| {
                /// Postgres counts a month as 30 days and a day as 24 hours where it compares.
                const DAYS: i128 = 30;
                const MICROS: i128 = 86_400_000_000;
                let i = r.interval(0);
                let days = i128::from(i.months) * DAYS + i128::from(i.days);
                Ok(Value::Numeric(days * MICROS + i128::from(i.nanoseconds / 1_000), 0))
            })
            .udf(),
        function(TO_BYTEA).on(&[Kind::Text], Kind::Bytea, |r| Ok(binary::parse_bytea(r.text(0))?.into())).udf(),
        function(TEXT_TO_ARRAY)
            .on(&[Kind::Text], Kind::Texts, |r| super::parse_text_array(r.text(0)).map(Value::from))
            .udf(),
        function(TEXT_TO_INTEGER).on(&[Kind::Text], Kind::Int8, |r| text::integer(r.text(0)).map(Value::Int)).udf(),
        function(TEXT_TO_FLOAT).on(&[Kind::Text], Kind::Float8, |r| text::float(r.text(0)).map(Value::Float)).udf(),
        function(TEXT_TO_NUMERIC)
            .on(&[Kind::Text], Kind::Numeric, |r| {
                Ok(Value::Numeric(casts::numeric_of_text(r.text(0), false)?, NUMERIC_SCALE))
            })
            .udf(),
        function(TEXT_TO_BOOLEAN).on(&[Kind::Text], Kind::Bool, |r| text::boolean(r.text(0)).map(Value::Bool)).udf(),
        function(TIME_TO_INTERVAL)
            .on(&[Kind::Time], Kind::Interval, |r| {
                Ok(Value::Interval(IntervalMonthDayNano::new(0, 0, r.micros(0) * 1_000)))
            })
            .udf(),
        function(ROUND_HALF_EVEN)
            .on(&[Kind::Float8], Kind::Float8, |r| Ok(Value::Float(r.float(0).round_ties_even())))
            .udf(),
    ]
}

#[derive(Debug)]
pub(super) struct PostgresCasts {
    functions: Vec<Arc<ScalarUDF>>,
}

impl PostgresCasts {
    pub(super) fn new() -> Self {
        let functions =
            functions().into_iter().chain(input::functions()).chain(clock::functions()).map(Arc::new).collect();
        Self { functions }
    }

    fn call(&self, name: &str, arg: Expr) -> DfResult<Expr> {
        self.calls(name, vec![arg])
    }

    fn calls(&self, name: &str, args: Vec<Expr>) -> DfResult<Expr> {
        let function = self
            .functions
            .iter()
            .find(|f| f.name() == name)
            .ok_or_else(|| tidemark_common::Error::internal(format!("function {name} is not declared")))?;
        Ok(Expr::ScalarFunction(ScalarFunction::new_udf(Arc::clone(function), args)))
    }

    /// A char as text, without the blanks that pad it; anything else as it is.
    fn unpadded(&self, expr: Expr, schema: &DFSchema) -> DfResult<Transformed<Expr>> {
        let is_char = expr.to_field(schema).is_ok_and(|(_, f)| matches!(SqlType::from_field(&f), SqlType::Char(_)));
        Ok(if is_char { Transformed::yes(self.call(TO_TEXT, expr)?) } else { Transformed::no(expr) })
    }

    /// Both operands as what they are compared by.
    fn comparable(&self, binary: BinaryExpr, schema: &DFSchema) -> DfResult<Transformed<Expr>> {
        let (left, right) = (binary.left.to_field(schema)?.1, binary.right.to_field(schema)?.1);
        let is_char = |f: &Field| matches!(SqlType::from_field(f), SqlType::Char(_));
        let wrapped = |left: Expr, right: Expr| {
            Transformed::yes(Expr::BinaryExpr(BinaryExpr::new(Box::new(left), binary.op, Box::new(right))))
        };
        if binary.op == Operator::StringConcat && (is_char(&left) || is_char(&right)) {
            let (left, right) = (self.unpadded(*binary.left, schema)?, self.unpadded(*binary.right, schema)?);
            return Ok(wrapped(left.data, right.data));
        }
        let other = |text: &Field, other: &DataType| {
            text.data_type().is_string() && !other.is_string() && !other.is_null() && !other.is_nested()
        };
        if binary.op == Operator::StringConcat && other(&left, right.data_type()) {
            return Ok(wrapped(*binary.left, self.call(TO_TEXT, *binary.right)?));
        }
        if binary.op == Operator::StringConcat && other(&right, left.data_type()) {
            return Ok(wrapped(self.call(TO_TEXT, *binary.left)?, *binary.right));
        }
        if !compares(binary.op) {
            return Ok(Transformed::no(Expr::BinaryExpr(binary)));
        }
        if is_char(&left) && is_char(&right) && SqlType::from_field(&left) != SqlType::from_field(&right) {
            return Ok(wrapped(self.call(TO_TEXT, *binary.left)?, self.call(TO_TEXT, *binary.right)?));
        }
        Ok(Transformed::no(Expr::BinaryExpr(binary)))
    }

    /// Functions that Postgres has otherwise for some types.
    fn function(
        &self,
        mut function: ScalarFunction,
        schema: &DFSchema,
        zone: Option<&str>,
    ) -> DfResult<Transformed<Expr>> {
        /// They give back what they are given.
        const KEEP_PADDING: [&str; 7] =
            ["coalesce", "nullif", "greatest", "least", "pg_typeof", "octet_length", "make_array"];
        /// They give one of their arguments.
        const GIVE_ONE: [&str; 5] = ["coalesce", "nullif", "greatest", "least", "make_array"];
        let types: Vec<DataType> = function.args.iter().filter_map(|a| a.get_type(schema).ok()).collect();
        if let Some(zone) = zone
            && let Some(args) = self.zoned_arguments(&function, &types, zone)?
        {
            return Ok(Transformed::yes(Expr::ScalarFunction(ScalarFunction::new_udf(function.func, args))));
        }
        let decimals = types.first().and_then(|t| match t {
            DataType::Decimal128(precision, _) | DataType::Decimal256(precision, _) => Some(*precision),
            _ => None,
        });
        if GIVE_ONE.contains(&function.name())
            && together::as_floats(&mut function.args.iter_mut().collect::<Vec<_>>(), schema)
        {
            return Ok(Transformed::yes(Expr::ScalarFunction(function)));
        }
        match function.name() {
            // Postgres rounds a double to even, a numeric away from zero.
            "round" if types.len() == 1 && types[0].is_floating() => {
                self.calls(ROUND_HALF_EVEN, function.args).map(Transformed::yes)
            }
            "floor" | "ceil" | "trunc" if function.args.len() == 1 && decimals.is_some() => {
                Ok(at_scale(Expr::ScalarFunction(function), decimals, 0))
            }
            "trunc" if function.args.len() == 2 && decimals.is_some() => {
                let scale = constant(&function.args[1]);
                let (Some(scale @ 0..), Some(DataType::Decimal128(_, from) | DataType::Decimal256(_, from))) =
                    (scale, types.first())
                else {
                    return Ok(Transformed::no(Expr::ScalarFunction(function)));
                };
                let scale = i8::try_from(scale).unwrap_or(*from).min(*from);
                Ok(at_scale(Expr::ScalarFunction(function), decimals, scale))
            }
            "mod" if types.len() == 2 && types.iter().any(DataType::is_decimal) => {
                let mut args = function.args.into_iter();
                match (args.next(), args.next()) {
                    (Some(left), Some(right)) => Ok(Transformed::yes(left % right)),
                    _ => Err(Error::internal("mod takes two arguments").into()),
                }
            }
            name if name.starts_with("tidemark_") || KEEP_PADDING.contains(&name) => {
                Ok(Transformed::no(Expr::ScalarFunction(function)))
            }
            _ => Expr::ScalarFunction(function).map_children(|argument| self.unpadded(argument, schema)),
        }
    }

    fn binary(&self, mut binary: BinaryExpr, schema: &DFSchema, zone: Option<&str>) -> DfResult<Transformed<Expr>> {
        if zone.is_some()
            && let Some(moved) = self.moved_moment(&binary, schema)?
        {
            return Ok(Transformed::yes(moved));
        }
        if compares(binary.op) && self.on_one_clock(&mut [&mut binary.left, &mut binary.right], schema, zone)? {
            return Ok(Transformed::yes(Expr::BinaryExpr(binary)));
        }
        if let Some(call) = check_arithmetic(&binary, schema) {
            return Ok(Transformed::yes(call));
        }
        let compared = compare(binary, schema, zone)?;
        let Expr::BinaryExpr(binary) = compared.data else { return Ok(compared) };
        let ordered = self.intervals(binary, schema)?;
        match ordered.data {
            Expr::BinaryExpr(binary) if !compared.transformed && !ordered.transformed => {
                self.comparable(binary, schema)
            }
            other => Ok(Transformed::new(other, compared.transformed || ordered.transformed, compared.tnr)),
        }
    }

    /// What the operand of a cast becomes; `None`: the cast is right as it is.
    fn operand(&self, operand: &Expr, from: &DataType, to: &DataType) -> DfResult<Option<Expr>> {
        let name = match (from, to) {
            (from, DataType::Timestamp(_, None)) if from.is_string() => input::TO_TIMESTAMP,
            (from, DataType::Timestamp(_, Some(_))) if from.is_string() => input::TO_TIMESTAMPTZ,
            (from, DataType::Date32 | DataType::Date64) if from.is_string() => input::TO_DATE,
            (from, DataType::Time64(_) | DataType::Time32(_)) if from.is_string() => input::TO_TIME,
            (from, DataType::Binary | DataType::LargeBinary | DataType::BinaryView) if from.is_string() => TO_BYTEA,
            (from, DataType::List(_) | DataType::LargeList(_)) if from.is_string() => TEXT_TO_ARRAY,
            (from, DataType::Int16 | DataType::Int32 | DataType::Int64) if from.is_string() => TEXT_TO_INTEGER,
            (from, DataType::Float32 | DataType::Float64) if from.is_string() => TEXT_TO_FLOAT,
            (from, DataType::Decimal128(_, scale)) if from.is_string() && *scale < NUMERIC_SCALE => TEXT_TO_NUMERIC,
            (from, DataType::Boolean) if from.is_string() => TEXT_TO_BOOLEAN,
            (DataType::Float16 | DataType::Float32 | DataType::Float64, to) if to.is_integer() => ROUND_HALF_EVEN,
            (DataType::Time64(_), DataType::Interval(_)) => TIME_TO_INTERVAL,
            // By the digits it shows, as in Postgres; dividing by a power of ten beyond 2^53 would round twice.
            (DataType::Decimal256(..), DataType::Float32 | DataType::Float64) => {
                let text = self.call(TO_TEXT, operand.clone())?;
                return self.call(TEXT_TO_FLOAT, text).map(Some);
            }
            (from, to) if from.is_decimal() && to.is_integer() => {
                return Ok(Some(datafusion::functions::math::expr_fn::round(vec![operand.clone()])));
            }
            (from, to) if to.is_string() && !from.is_string() && !from.is_null() => TO_TEXT,
            _ => return Ok(None),
        };
        self.call(name, operand.clone()).map(Some)
    }

    fn cast(&self, mut cast: Cast, schema: &DFSchema, zone: Option<&str>) -> DfResult<Transformed<Expr>> {
        if let Expr::ScalarFunction(function) = cast.expr.as_ref()
            && function.name() == EXTRACT
            && cast.field.data_type().is_decimal()
            && let Some(DataType::Date32) = function.args.get(1).and_then(|a| a.get_type(schema).ok())
        {
            // A date has no fractions.
            cast.field = Arc::new(cast.field.as_ref().clone().with_data_type(DataType::Decimal128(20, 0)));
            return Ok(Transformed::yes(Expr::Cast(cast)));
        }
        let (_, from) = cast.expr.to_field(schema)?;
        refuse_unrelated(from.data_type(), cast.field.data_type())?;
        let padded = matches!(SqlType::from_field(&from), SqlType::Char(_)) && cast.field.data_type().is_string();
        let operand = if padded {
            Some(self.call(TO_TEXT, cast.expr.as_ref().clone())?)
        } else {
            let zoned = match zone {
                Some(zone) => self.zoned(&cast.expr, from.data_type(), cast.field.data_type(), zone)?,
                None => None,
            };
            match zoned {
                Some(operand) => Some(operand),
                None => self.operand(&cast.expr, from.data_type(), cast.field.data_type())?,
            }
        };
        Ok(match operand {
            // Once rewritten, the operand's type is the cast's own family, and the rule lets it be.
            Some(operand) if operand != *cast.expr => {
                Transformed::yes(Expr::Cast(Cast { expr: Box::new(operand), field: cast.field }))
            }
            _ => Transformed::no(Expr::Cast(cast)),
        })
    }
}

/// DataFusion takes a number for true unless it is 0.
fn refuse_numbers_as_conditions(case: &Case, schema: &DFSchema) -> DfResult<()> {
    if case.expr.is_some() {
        return Ok(());
    }
    for (condition, _) in &case.when_then_expr {
        match condition.get_type(schema) {
            Ok(data_type) if data_type.is_numeric() => {
                let sql_type = SqlType::from_data_type(&data_type);
                let message = format!("argument of CASE/WHEN must be type boolean, not type {sql_type}");
                return Err(Error::new(SqlState::DatatypeMismatch, message).into());
            }
            // A parameter has no type yet.
            _ => {}
        }
    }
    Ok(())
}

/// The interval that a literal text is.
pub fn interval_literal(text: &str) -> tidemark_common::Result<ScalarValue> {
    let parsed = crate::grammar::interval::parse(text, Default::default())?;
    let nanos = parsed.micros.checked_mul(1_000).ok_or_else(|| {
        tidemark_common::Error::new(tidemark_common::SqlState::DatetimeFieldOverflow, "interval out of range")
    })?;
    Ok(ScalarValue::IntervalMonthDayNano(Some(IntervalMonthDayNano::new(parsed.months, parsed.days, nanos))))
}

/// Between times and numbers Postgres has no cast; Arrow would take a time for the number it is held as.
fn refuse_unrelated(from: &DataType, to: &DataType) -> DfResult<()> {
    let is_number = |t: &DataType| t.is_numeric() || matches!(t, DataType::Boolean);
    let is_time = |t: &DataType| t.is_temporal() && !matches!(t, DataType::Duration(_));
    if !(is_time(from) && is_number(to) || is_number(from) && is_time(to)) {
        return Ok(());
    }
    let (from, to) = (SqlType::from_data_type(from), SqlType::from_data_type(to));
    Err(Error::new(SqlState::CannotCoerce, format!("cannot cast type {from} to {to}")).into())
}

/// A literal text beside a value of `beside`, read as that type; `None`: it is something else, or right as it is.
fn literal(expr: &Expr, beside: &Field, zone: Option<&str>) -> DfResult<Option<Expr>> {
    let Expr::Literal(ScalarValue::Utf8(Some(text)), _) = expr else { return Ok(None) };
    let canonical = match SqlType::from_field(beside) {
        SqlType::Uuid => Some(casts::uuid(text)?.into_owned()),
        SqlType::Jsonb => Some(json::to_jsonb(text)?),
        SqlType::Char(n) => Some(format!("{:<width$}", text.trim_end_matches(' '), width = n as usize)),
        _ => None,
    };
    if let Some(canonical) = canonical {
        return Ok((canonical != *text).then(|| lit(canonical)));
    }
    let value = match beside.data_type() {
        DataType::Timestamp(_, None) => ScalarValue::TimestampMicrosecond(Some(input::parse_timestamp(text)?), None),
        DataType::Timestamp(_, Some(_)) => {
            ScalarValue::TimestampMicrosecond(Some(input::parse_timestamptz_in(text, zone)?), Some("UTC".into()))
        }
        DataType::Date32 => ScalarValue::Date32(i32::try_from(input::parse_date(text)?).ok()),
        DataType::Interval(_) => interval_literal(text)?,
        DataType::Time64(TimeUnit::Microsecond) => ScalarValue::Time64Microsecond(Some(input::parse_time(text)?)),
        DataType::Binary => ScalarValue::Binary(Some(binary::parse_bytea(text)?)),
        integer @ (DataType::Int16 | DataType::Int32 | DataType::Int64) => {
            let value = text::integer(text)?;
            // Out of the column's range it is still a number that a row can be compared with.
            match (integer, i16::try_from(value), i32::try_from(value)) {
                (DataType::Int16, Ok(value), _) => ScalarValue::Int16(Some(value)),
                (DataType::Int32, _, Ok(value)) => ScalarValue::Int32(Some(value)),
                _ => ScalarValue::Int64(Some(value)),
            }
        }
        DataType::Float32 => ScalarValue::Float32(Some(text::float(text)? as f32)),
        DataType::Float64 => ScalarValue::Float64(Some(text::float(text)?)),
        DataType::Decimal128(..) => {
            ScalarValue::Decimal128(Some(casts::numeric_of_text(text, false)?), NUMERIC_PRECISION, NUMERIC_SCALE)
        }
        DataType::Boolean => ScalarValue::Boolean(Some(text::boolean(text)?)),
        _ => return Ok(None),
    };
    Ok(Some(lit(value)))
}

/// A decimal whose further digits are zero, without them.
fn at_scale(expr: Expr, precision: Option<u8>, scale: i8) -> Transformed<Expr> {
    let held = match precision {
        Some(precision @ ..=38) => DataType::Decimal128(precision, scale),
        Some(precision) => DataType::Decimal256(precision, scale),
        None => return Transformed::no(expr),
    };
    Transformed::yes(Expr::Cast(Cast::new(Box::new(expr), held)))
}

fn constant(expr: &Expr) -> Option<i64> {
    match expr {
        Expr::Literal(ScalarValue::Int32(n), _) => n.map(i64::from),
        Expr::Literal(ScalarValue::Int64(n), _) => *n,
        _ => None,
    }
}

fn replace(expr: &mut Expr, beside: &Field, zone: Option<&str>) -> DfResult<bool> {
    let new = literal(expr, beside, zone)?;
    let changed = new.is_some();
    if let Some(new) = new {
        *expr = new;
    }
    Ok(changed)
}

fn compares(op: Operator) -> bool {
    use Operator::{Eq, Gt, GtEq, IsDistinctFrom, IsNotDistinctFrom, Lt, LtEq, NotEq};
    matches!(op, Eq | NotEq | Lt | LtEq | Gt | GtEq | IsDistinctFrom | IsNotDistinctFrom)
}

impl PostgresCasts {
    /// `1 day` is `24 hours`, though it is not the same interval.
    fn intervals(&self, binary: BinaryExpr, schema: &DFSchema) -> DfResult<Transformed<Expr>> {
        let is_interval = |e: &Expr| {
            Ok::<_, datafusion::error::DataFusionError>(matches!(e.get_type(schema)?, DataType::Interval(_)))
        };
        if !compares(binary.op) || !is_interval(&binary.left)? || !is_interval(&binary.right)? {
            return Ok(Transformed::no(Expr::BinaryExpr(binary)));
        }
        let left = self.call(INTERVAL_ORDER, *binary.left)?;
        let right = self.call(INTERVAL_ORDER, *binary.right)?;
        Ok(Transformed::yes(Expr::BinaryExpr(BinaryExpr::new(Box::new(left), binary.op, Box::new(right)))))
    }
}

fn compare(mut binary: BinaryExpr, schema: &DFSchema, zone: Option<&str>) -> DfResult<Transformed<Expr>> {
    let mut changed = false;
    if compares(binary.op) && is_text_literal(&binary.right) {
        changed |= replace(&mut binary.right, &binary.left.to_field(schema)?.1, zone)?;
    } else if compares(binary.op) && is_text_literal(&binary.left) {
        changed |= replace(&mut binary.left, &binary.right.to_field(schema)?.1, zone)?;
    }
    Ok(if changed { Transformed::yes(Expr::BinaryExpr(binary)) } else { Transformed::no(Expr::BinaryExpr(binary)) })
}

/// `+`, `-`, `*` of integers, `/` of floats and numerics, as calls that tell when the result does not fit.
fn check_arithmetic(binary: &BinaryExpr, schema: &DFSchema) -> Option<Expr> {
    use Operator::{Divide, Minus, Multiply, Plus};
    if !matches!(binary.op, Plus | Minus | Multiply | Divide) {
        return None;
    }
    // A parameter has no type yet, and then no check either: it has one when the statement is run.
    let (left, right) = (binary.left.get_type(schema).ok()?, binary.right.get_type(schema).ok()?);
    let (left, right) = ((binary.left.as_ref(), &left), (binary.right.as_ref(), &right));
    arithmetic::checked(binary.op, left, right).or_else(|| ratio::planned(binary.op, left, right))
}

fn is_text_literal(expr: &Expr) -> bool {
    matches!(expr, Expr::Literal(ScalarValue::Utf8(Some(_)), _))
}

impl FunctionRewrite for PostgresCasts {
    fn name(&self) -> &str {
        "postgres_casts"
    }

    fn rewrite(&self, expr: Expr, schema: &DFSchema, options: &ConfigOptions) -> DfResult<Transformed<Expr>> {
        let zone = options.execution.time_zone.as_deref().filter(|zone| !matches!(*zone, "UTC" | "+00:00"));
        match expr {
            Expr::Cast(cast) => self.cast(cast, schema, zone),
            Expr::BinaryExpr(binary) => self.binary(binary, schema, zone),
            Expr::Negative(operand) => {
                let checked = operand.get_type(schema).ok().and_then(|t| arithmetic::negated(&operand, &t));
                Ok(checked.map_or_else(|| Transformed::no(Expr::Negative(operand)), Transformed::yes))
            }
            Expr::Between(Between { mut expr, negated, mut low, mut high }) => {
                let mut changed = self.on_one_clock(&mut [&mut expr, &mut low, &mut high], schema, zone)?;
                if is_text_literal(&low) || is_text_literal(&high) {
                    let (_, beside) = expr.to_field(schema)?;
                    changed |= replace(&mut low, &beside, zone)? | replace(&mut high, &beside, zone)?;
                }
                let mut all = [expr.as_mut(), low.as_mut(), high.as_mut()];
                changed |= together::as_floats(&mut all, schema) | self.by_length(&mut all, schema)?;
                let between = Expr::Between(Between { expr, negated, low, high });
                Ok(if changed { Transformed::yes(between) } else { Transformed::no(between) })
            }
            Expr::InList(InList { mut expr, mut list, negated }) => {
                let mut all: Vec<&mut Expr> = std::iter::once(expr.as_mut()).chain(&mut list).collect();
                let mut changed = self.on_one_clock(&mut all, schema, zone)?;
                if list.iter().any(is_text_literal) {
                    let (_, beside) = expr.to_field(schema)?;
                    for item in &mut list {
                        changed |= replace(item, &beside, zone)?;
                    }
                }
                let mut all: Vec<&mut Expr> = std::iter::once(expr.as_mut()).chain(&mut list).collect();
                changed |= together::as_floats(&mut all, schema) | self.by_length(&mut all, schema)?;
                let in_list = Expr::InList(InList { expr, list, negated });
                Ok(if changed { Transformed::yes(in_list) } else { Transformed::no(in_list) })
            }
            Expr::ScalarFunction(f) => self.function(f, schema, zone),
            Expr::AggregateFunction(f) => Ok(zoned::aggregate(f, zone)),
            Expr::Case(mut case) => {
                refuse_numbers_as_conditions(&case, schema)?;
                let results = case.when_then_expr.iter_mut().map(|(_, then)| then).chain(&mut case.else_expr);
                let mut results: Vec<&mut Expr> = results.map(AsMut::as_mut).collect();
                let changed =
                    self.on_one_clock(&mut results, schema, zone)? | together::as_floats(&mut results, schema);
                Ok(if changed { Transformed::yes(Expr::Case(case)) } else { Transformed::no(Expr::Case(case)) })
            }
            other => Ok(Transformed::no(other)),
        }
    }
}
