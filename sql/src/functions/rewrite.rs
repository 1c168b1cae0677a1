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

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, IntervalMonthDayNano, TimeUnit};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::Result as DfResult;
use datafusion::logical_expr::expr::{Between, Cast, InList, ScalarFunction};
use datafusion::logical_expr::expr_rewriter::FunctionRewrite;
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, Operator, ScalarUDF, lit};
use tidemark_common::types::SqlType;

use super::declare::{Kind, function};
use super::value::Value;
use super::{binary, casts, input, json, strings};

pub const TO_TEXT: &str = "tidemark_to_text";
const INTERVAL_ORDER: &str = "tidemark_interval_order";
pub const TO_BYTEA: &str = "tidemark_to_bytea";
pub const ROUND_HALF_EVEN: &str = "tidemark_round_half_even";
const TEXT_TO_ARRAY: &str = "tidemark_text_to_array";

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
        let functions = functions().into_iter().chain(input::functions()).map(Arc::new).collect();
        Self { functions }
    }

    fn call(&self, name: &str, arg: Expr) -> DfResult<Expr> {
        let function = self
            .functions
            .iter()
            .find(|f| f.name() == name)
            .ok_or_else(|| tidemark_common::Error::internal(format!("function {name} is not declared")))?;
        Ok(Expr::ScalarFunction(ScalarFunction::new_udf(Arc::clone(function), vec![arg])))
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
            (DataType::Float16 | DataType::Float32 | DataType::Float64, to) if to.is_integer() => ROUND_HALF_EVEN,
            (from, to) if from.is_decimal() && to.is_integer() => {
                return Ok(Some(datafusion::functions::math::expr_fn::round(vec![operand.clone()])));
            }
            (from, to) if to.is_string() && !from.is_string() && !from.is_null() => TO_TEXT,
            _ => return Ok(None),
        };
        self.call(name, operand.clone()).map(Some)
    }

    fn cast(&self, cast: Cast, schema: &DFSchema) -> DfResult<Transformed<Expr>> {
        let (_, from) = cast.expr.to_field(schema)?;
        let padded = matches!(SqlType::from_field(&from), SqlType::Char(_)) && cast.field.data_type().is_string();
        let operand = if padded {
            Some(self.call(TO_TEXT, cast.expr.as_ref().clone())?)
        } else {
            self.operand(&cast.expr, from.data_type(), cast.field.data_type())?
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

/// The interval that a literal text is.
pub fn interval_literal(text: &str) -> tidemark_common::Result<ScalarValue> {
    let parsed = crate::grammar::interval::parse(text, Default::default())?;
    let nanos = parsed.micros.checked_mul(1_000).ok_or_else(|| {
        tidemark_common::Error::new(tidemark_common::SqlState::DatetimeFieldOverflow, "interval out of range")
    })?;
    Ok(ScalarValue::IntervalMonthDayNano(Some(IntervalMonthDayNano::new(parsed.months, parsed.days, nanos))))
}

/// A literal text beside a value of `beside`, read as that type; `None`: it is something else, or right as it is.
fn literal(expr: &Expr, beside: &Field) -> DfResult<Option<Expr>> {
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
            ScalarValue::TimestampMicrosecond(Some(input::parse_timestamptz(text)?), Some("UTC".into()))
        }
        DataType::Date32 => ScalarValue::Date32(i32::try_from(input::parse_date(text)?).ok()),
        DataType::Interval(_) => interval_literal(text)?,
        DataType::Time64(TimeUnit::Microsecond) => ScalarValue::Time64Microsecond(Some(input::parse_time(text)?)),
        _ => return Ok(None),
    };
    Ok(Some(lit(value)))
}

fn replace(expr: &mut Expr, beside: &Field) -> DfResult<bool> {
    let new = literal(expr, beside)?;
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
        let is_interval = |e: &Expr| Ok::<_, datafusion::error::DataFusionError>(
            matches!(e.get_type(schema)?, DataType::Interval(_)),
        );
        if !compares(binary.op) || !is_interval(&binary.left)? || !is_interval(&binary.right)? {
            return Ok(Transformed::no(Expr::BinaryExpr(binary)));
        }
        let left = self.call(INTERVAL_ORDER, *binary.left)?;
        let right = self.call(INTERVAL_ORDER, *binary.right)?;
        Ok(Transformed::yes(Expr::BinaryExpr(BinaryExpr::new(Box::new(left), binary.op, Box::new(right)))))
    }
}

fn compare(mut binary: BinaryExpr, schema: &DFSchema) -> DfResult<Transformed<Expr>> {
    let mut changed = false;
    if compares(binary.op) && is_text_literal(&binary.right) {
        changed |= replace(&mut binary.right, &binary.left.to_field(schema)?.1)?;
    } else if compares(binary.op) && is_text_literal(&binary.left) {
        changed |= replace(&mut binary.left, &binary.right.to_field(schema)?.1)?;
    }
    Ok(if changed { Transformed::yes(Expr::BinaryExpr(binary)) } else { Transformed::no(Expr::BinaryExpr(binary)) })
}

fn is_text_literal(expr: &Expr) -> bool {
    matches!(expr, Expr::Literal(ScalarValue::Utf8(Some(_)), _))
}

impl FunctionRewrite for PostgresCasts {
    fn name(&self) -> &str {
        "postgres_casts"
    }

    fn rewrite(&self, expr: Expr, schema: &DFSchema, _: &ConfigOptions) -> DfResult<Transformed<Expr>> {
        match expr {
            Expr::Cast(cast) => self.cast(cast, schema),
            Expr::BinaryExpr(binary) => {
                let compared = compare(binary, schema)?;
                let changed = compared.transformed;
                match compared.data {
                    Expr::BinaryExpr(binary) => {
                        let ordered = self.intervals(binary, schema)?;
                        Ok(Transformed::new_transformed(ordered.data, changed || ordered.transformed))
                    }
                    other => Ok(Transformed::new_transformed(other, changed)),
                }
            }
            Expr::Between(Between { expr, negated, mut low, mut high })
                if is_text_literal(&low) || is_text_literal(&high) =>
            {
                let (_, beside) = expr.to_field(schema)?;
                let changed = replace(&mut low, &beside)? | replace(&mut high, &beside)?;
                let between = Expr::Between(Between { expr, negated, low, high });
                Ok(if changed { Transformed::yes(between) } else { Transformed::no(between) })
            }
            Expr::InList(InList { expr, mut list, negated }) if list.iter().any(is_text_literal) => {
                let (_, beside) = expr.to_field(schema)?;
                let mut changed = false;
                for item in &mut list {
                    changed |= replace(item, &beside)?;
                }
                let in_list = Expr::InList(InList { expr, list, negated });
                Ok(if changed { Transformed::yes(in_list) } else { Transformed::no(in_list) })
            }
            Expr::ScalarFunction(f) if f.name() == "round" && f.args.len() == 1 => {
                // Postgres rounds a double to even, a numeric away from zero.
                if f.args[0].get_type(schema)?.is_floating() {
                    return Ok(Transformed::yes(self.call(ROUND_HALF_EVEN, f.args[0].clone())?));
                }
                Ok(Transformed::no(Expr::ScalarFunction(f)))
            }
            other => Ok(Transformed::no(other)),
        }
    }
}
