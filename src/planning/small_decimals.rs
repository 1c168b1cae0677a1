//! Sums, differences and products of decimals whose digits fit 64 bits, as nearly all do.
//!
//! ```text
//!   price * (1 - discount)    all values of a batch fit ──▶ 64 bits by 64 bits: nothing can overflow
//!                             some do not               ──▶ Arrow's kernel: 128 bits by 128, each result checked
//! ```
//!
//! The check, and the multiplication that it needs, are most of what such arithmetic costs.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, Decimal128Array, RecordBatch};
use datafusion::arrow::buffer::NullBuffer;
use datafusion::arrow::compute::kernels::numeric;
use datafusion::arrow::datatypes::{DataType, Decimal128Type, Schema};
use datafusion::common::ScalarValue;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::Result;
use datafusion::logical_expr::interval_arithmetic::Interval;
use datafusion::logical_expr::sort_properties::ExprProperties;
use datafusion::logical_expr::{ColumnarValue, Operator};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_expr::expressions::BinaryExpr;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateInputMode};
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};

/// Bits of a value beside its sign.
const BITS: u32 = 62;
/// What a value is multiplied by to have more digits after the point: less than 2^60.
const MOST_DIGITS: u32 = 18;

/// The arithmetic of a projection or of the arguments of aggregates; another node as it is.
pub(super) fn in_node(node: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    if let Some(projection) = node.downcast_ref::<ProjectionExec>() {
        let input = projection.input();
        let shown = projection.expr().iter().map(|shown| {
            let expr = faster(&shown.expr, &input.schema())?;
            Ok(expr.map(|expr| ProjectionExpr { expr, alias: shown.alias.clone() }))
        });
        let shown: Vec<_> = shown.collect::<Result<_>>()?;
        if shown.iter().all(Option::is_none) {
            return Ok(node);
        }
        let shown = shown.into_iter().zip(projection.expr()).map(|(new, old)| new.unwrap_or_else(|| old.clone()));
        return Ok(Arc::new(ProjectionExec::try_new(shown, Arc::clone(input))?));
    }
    if let Some(aggregate) = node.downcast_ref::<AggregateExec>()
        && aggregate.mode().input_mode() == AggregateInputMode::Raw
    {
        let schema = aggregate.input().schema();
        let functions = aggregate.aggr_expr().iter().map(|function| of_arguments(function, &schema));
        let functions: Vec<_> = functions.collect::<Result<_>>()?;
        return Ok(Arc::new(aggregate.with_new_aggr_exprs(functions)));
    }
    Ok(node)
}

fn of_arguments(function: &Arc<AggregateFunctionExpr>, schema: &Schema) -> Result<Arc<AggregateFunctionExpr>> {
    let (mut arguments, mut changed) = (function.expressions(), false);
    for argument in &mut arguments {
        if let Some(faster) = faster(argument, schema)? {
            (*argument, changed) = (faster, true);
        }
    }
    let order = function.order_bys().iter().map(|by| Arc::clone(&by.expr)).collect();
    let new = changed.then(|| function.with_new_expressions(arguments, order)).flatten();
    Ok(new.map_or_else(|| Arc::clone(function), Arc::new))
}

/// `None`: there is no such arithmetic in it.
fn faster(expr: &Arc<dyn PhysicalExpr>, schema: &Schema) -> Result<Option<Arc<dyn PhysicalExpr>>> {
    let made = Arc::clone(expr).transform_up(|expr| {
        let Some(binary) = expr.downcast_ref::<BinaryExpr>() else { return Ok(Transformed::no(expr)) };
        let is_decimal = |of: &Arc<dyn PhysicalExpr>| -> Result<bool> {
            Ok(matches!(of.data_type(schema)?, DataType::Decimal128(..)))
        };
        let is_arithmetic = matches!(binary.op(), Operator::Plus | Operator::Minus | Operator::Multiply);
        if !is_arithmetic || !is_decimal(binary.left())? || !is_decimal(binary.right())? {
            return Ok(Transformed::no(expr));
        }
        let result = binary.data_type(schema)?;
        Ok(Transformed::yes(Arc::new(SmallDecimals { whole: Arc::new(binary.clone()), result }) as _))
    })?;
    Ok(made.transformed.then_some(made.data))
}

/// `+`, `-` or `*` of decimals of 128 bits.
#[derive(Debug, PartialEq, Eq, Hash)]
struct SmallDecimals {
    whole: Arc<BinaryExpr>,
    result: DataType,
}

impl fmt::Display for SmallDecimals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.whole.fmt(f)
    }
}

impl PhysicalExpr for SmallDecimals {
    fn data_type(&self, _: &Schema) -> Result<DataType> {
        Ok(self.result.clone())
    }

    fn nullable(&self, schema: &Schema) -> Result<bool> {
        self.whole.nullable(schema)
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        let (left, right) = (self.whole.left().evaluate(batch)?, self.whole.right().evaluate(batch)?);
        if let Some(values) = self.small(&left, &right) {
            return Ok(ColumnarValue::Array(Arc::new(values)));
        }
        let (left, right) = (left.into_array(batch.num_rows())?, right.into_array(batch.num_rows())?);
        let values: ArrayRef = match self.whole.op() {
            Operator::Plus => numeric::add(&left, &right)?,
            Operator::Minus => numeric::sub(&left, &right)?,
            _ => numeric::mul(&left, &right)?,
        };
        Ok(ColumnarValue::Array(values))
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        self.whole.children()
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn PhysicalExpr>>) -> Result<Arc<dyn PhysicalExpr>> {
        let whole = Arc::clone(&self.whole).with_new_children(children)?;
        Ok(match whole.downcast_ref::<BinaryExpr>() {
            Some(binary) => Arc::new(Self { whole: Arc::new(binary.clone()), result: self.result.clone() }),
            None => whole,
        })
    }

    fn evaluate_bounds(&self, children: &[&Interval]) -> Result<Interval> {
        self.whole.evaluate_bounds(children)
    }

    fn propagate_constraints(&self, interval: &Interval, children: &[&Interval]) -> Result<Option<Vec<Interval>>> {
        self.whole.propagate_constraints(interval, children)
    }

    fn get_properties(&self, children: &[ExprProperties]) -> Result<ExprProperties> {
        self.whole.get_properties(children)
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.whole.fmt_sql(f)
    }
}

impl SmallDecimals {
    /// `None`: not all values are small, or both sides are constants.
    fn small(&self, left: &ColumnarValue, right: &ColumnarValue) -> Option<Decimal128Array> {
        let DataType::Decimal128(precision, scale) = self.result else { return None };
        let (left, right) = (Operand::of(left)?, Operand::of(right)?);
        let values = match self.whole.op() {
            Operator::Multiply => each(&left, &right, |a, b| i128::from(a) * i128::from(b)),
            op => {
                let (a_by, b_by) = (ten_to(scale, left.scale)?, ten_to(scale, right.scale)?);
                let (a_by, b_by) = (i128::from(a_by), i128::from(b_by));
                match op {
                    Operator::Plus => each(&left, &right, |a, b| i128::from(a) * a_by + i128::from(b) * b_by),
                    _ => each(&left, &right, |a, b| i128::from(a) * a_by - i128::from(b) * b_by),
                }
            }
        }?;
        let nulls = NullBuffer::union(left.nulls(), right.nulls());
        Decimal128Array::new(values.into(), nulls).with_precision_and_scale(precision, scale).ok()
    }
}

fn ten_to(to: i8, from: i8) -> Option<i64> {
    let digits = u32::try_from(i32::from(to) - i32::from(from)).ok()?;
    (digits <= MOST_DIGITS).then(|| 10i64.pow(digits))
}

struct Operand<'a> {
    values: Values<'a>,
    scale: i8,
}

enum Values<'a> {
    One(i64),
    Each(&'a Decimal128Array),
}

impl<'a> Operand<'a> {
    /// `None`: NULL, or a value is not small.
    fn of(value: &'a ColumnarValue) -> Option<Self> {
        let are_small = |bits: i128| bits < 1 << BITS;
        match value {
            ColumnarValue::Scalar(ScalarValue::Decimal128(Some(value), _, scale)) => {
                are_small(magnitude(*value)).then_some(Operand { values: Values::One(*value as i64), scale: *scale })
            }
            ColumnarValue::Array(values) => {
                let values = values.as_primitive_opt::<Decimal128Type>()?;
                let bits = values.values().iter().fold(0, |bits, value| bits | magnitude(*value));
                are_small(bits).then_some(Operand { scale: values.scale(), values: Values::Each(values) })
            }
            ColumnarValue::Scalar(_) => None,
        }
    }

    fn nulls(&self) -> Option<&NullBuffer> {
        match self.values {
            Values::One(_) => None,
            Values::Each(values) => values.nulls(),
        }
    }
}

/// A number with as many bits as the value has beside its sign.
fn magnitude(value: i128) -> i128 {
    value ^ (value >> 127)
}

fn each(left: &Operand, right: &Operand, of: impl Fn(i64, i64) -> i128) -> Option<Vec<i128>> {
    Some(match (&left.values, &right.values) {
        (Values::Each(left), Values::Each(right)) => {
            left.values().iter().zip(right.values()).map(|(a, b)| of(*a as i64, *b as i64)).collect()
        }
        (Values::Each(left), Values::One(b)) => left.values().iter().map(|a| of(*a as i64, *b)).collect(),
        (Values::One(a), Values::Each(right)) => right.values().iter().map(|b| of(*a, *b as i64)).collect(),
        (Values::One(_), Values::One(_)) => return None,
    })
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::datatypes::Field;
    use datafusion::physical_expr::expressions::{binary, col, lit};
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    fn column(rng: &mut StdRng, rows: usize, precision: u8, scale: i8) -> ArrayRef {
        let digits = rng.random_range(1..=u32::from(precision));
        let most = 10i128.pow(digits) - 1;
        let has_nulls: bool = rng.random();
        let value =
            |rng: &mut StdRng| (!has_nulls || rng.random_range(0..5) > 0).then(|| rng.random_range(-most..=most));
        let values: Decimal128Array = (0..rows).map(|_| value(rng)).collect();
        Arc::new(values.with_precision_and_scale(precision, scale).unwrap())
    }

    #[test]
    fn what_arrow_says() {
        let mut rng = StdRng::seed_from_u64(17);
        let mut small = 0;
        for _ in 0..2_000 {
            let mut of = || (rng.random_range(1..=38u8), rng.random_range(0..=12i8));
            let types = [of(), of()].map(|(precision, scale)| (precision, scale.min(precision as i8)));
            let fields = types.map(|(precision, scale)| DataType::Decimal128(precision, scale));
            let schema =
                Schema::new(vec![Field::new("a", fields[0].clone(), true), Field::new("b", fields[1].clone(), true)]);
            let rows = rng.random_range(0..20);
            let columns = types.map(|(precision, scale)| column(&mut rng, rows, precision, scale)).to_vec();
            let batch = RecordBatch::try_new(Arc::new(schema.clone()), columns).unwrap();
            let mut operand = |name: &str, of: &DataType| match (rng.random_range(0..4), of) {
                (0, DataType::Decimal128(precision, scale)) => {
                    lit(ScalarValue::Decimal128(rng.random::<bool>().then_some(3), *precision, *scale))
                }
                _ => col(name, &schema).unwrap(),
            };
            let (a, b) = (operand("a", &fields[0]), operand("b", &fields[1]));
            let op = [Operator::Plus, Operator::Minus, Operator::Multiply][rng.random_range(0..3)];
            let whole = binary(a, op, b, &schema).unwrap();
            let Some(new) = faster(&whole, &schema).unwrap() else { continue };
            assert_eq!(new.to_string(), whole.to_string());
            let of = |expr: &Arc<dyn PhysicalExpr>| {
                let values = expr.evaluate(&batch).and_then(|values| values.into_array(rows));
                values.map_err(|error| error.to_string())
            };
            assert_eq!(of(&new), of(&whole), "{whole} of {fields:?}");
            let SmallDecimals { whole, .. } = new.downcast_ref().unwrap();
            let sides = [whole.left(), whole.right()].map(|side| side.evaluate(&batch).unwrap());
            small += usize::from(new.downcast_ref::<SmallDecimals>().unwrap().small(&sides[0], &sides[1]).is_some());
        }
        assert!(small > 200, "{small}");
    }
}
