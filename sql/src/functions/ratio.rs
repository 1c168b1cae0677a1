//! Quotients of numerics with PostgreSQL's digits, and products of such quotients.
//!
//! ```text
//!   a / b ──▶ rounded to as many digits as PostgreSQL chooses for these two values (at least 16 significant ones)
//!         ──▶ held as RATIO: decimal(76, 24), shown with the digits that its size calls for
//! ```
//!
//! PostgreSQL keeps with each numeric how many digits it shows; a column of decimals has one scale for all of its values. So the
//! digits are PostgreSQL's (up to 24 after the point), and zeros at the end are shown by a rule ([`shown_scale`]) that agrees
//! with PostgreSQL's except for a few quotients just above 1, which it shows with four zeros more.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, PrimitiveBuilder};
use datafusion::arrow::compute::{CastOptions, cast_with_options};
use datafusion::arrow::datatypes::{DataType, Decimal256Type, i256};
use datafusion::common::ScalarValue;
use datafusion::error::Result as DfResult;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{
    ColumnarValue, Expr, Operator, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use tidemark_common::types::{RATIO_SCALE, SqlType, is_ratio, shown_scale};
use tidemark_common::{Error, Result, SqlState};

use super::aggregates::integers::{out_of_range, scale_of, ten_to};
use super::declare::no_such_function;

const DIVIDE: &str = "tidemark_divide_numeric";
const MULTIPLY: &str = "tidemark_multiply_ratio";

pub(super) fn functions() -> Vec<ScalarUDF> {
    [Operation::Divide, Operation::Multiply].into_iter().map(udf).collect()
}

fn udf(operation: Operation) -> ScalarUDF {
    ScalarUDF::new_from_impl(RatioFunction { operation, signature: Signature::user_defined(Volatility::Immutable) })
}

/// The call that stands for `left op right`, if it is a quotient of numerics or a product with one.
pub(super) fn planned(op: Operator, left: (&Expr, &DataType), right: (&Expr, &DataType)) -> Option<Expr> {
    let operation = match op {
        Operator::Divide => Operation::Divide,
        Operator::Multiply => Operation::Multiply,
        _ => return None,
    };
    operation.result_type(left.1, right.1)?;
    let args = vec![left.0.clone(), right.0.clone()];
    Some(Expr::ScalarFunction(ScalarFunction::new_udf(Arc::new(udf(operation)), args)))
}

/// The type of a quotient of numerics of these scales.
pub(super) fn result_type(left: i8, right: i8) -> DataType {
    DataType::Decimal256(76, left.max(right).max(RATIO_SCALE))
}

/// A decimal: digits * 10^-scale.
#[derive(Debug, Clone, Copy)]
pub(super) struct Operand {
    pub digits: i256,
    pub scale: i8,
}

impl Operand {
    /// Position of its first digit in base 10000, and that digit; zero has 0 and 0.
    fn leading(self) -> (i32, i32) {
        let digits = self.digits.wrapping_abs();
        let Some(last) = digits.checked_ilog10() else { return (0, 0) };
        let exponent = last as i32 - i32::from(self.scale);
        let weight = exponent.div_euclid(4);
        let kept = exponent - weight * 4 + 1;
        let surplus = last as i32 + 1 - kept;
        let first = if surplus >= 0 {
            digits.wrapping_div(ten_to(surplus as u8))
        } else {
            digits.wrapping_mul(ten_to(-surplus as u8))
        };
        (weight, first.as_i128() as i32)
    }

    /// The digits after the point that are not zeros at the end.
    fn stripped_scale(self) -> i32 {
        let (mut digits, mut scale) = (self.digits, i32::from(self.scale));
        let ten = i256::from_i128(10);
        while scale > 0 && digits.wrapping_rem(ten) == i256::ZERO {
            digits = digits.wrapping_div(ten);
            scale -= 1;
        }
        scale
    }
}

/// How many digits after the point PostgreSQL gives a quotient: `select_div_scale` in its numeric.c.
fn digits_of_quotient(dividend: Operand, divisor: Operand, shown: i32) -> i32 {
    let ((left_weight, left_first), (right_weight, right_first)) = (dividend.leading(), divisor.leading());
    let weight = left_weight - right_weight - i32::from(left_first <= right_first);
    (16 - weight * 4).max(shown).max(0)
}

/// The quotient's digits at `scale`, rounded half away from zero to as many as PostgreSQL gives.
pub(super) fn divide(dividend: Operand, divisor: Operand, scale: i8) -> Result<i256> {
    divide_shown(dividend, divisor, dividend.scale.max(divisor.scale).into(), scale)
}

fn divide_shown(dividend: Operand, divisor: Operand, shown: i32, scale: i8) -> Result<i256> {
    if divisor.digits == i256::ZERO {
        return Err(Error::new(SqlState::DivisionByZero, "division by zero"));
    }
    let digits = digits_of_quotient(dividend, divisor, shown).min(scale.into());
    let overflow = || out_of_range(&DataType::Decimal256(76, scale));
    let shift = digits + i32::from(divisor.scale) - i32::from(dividend.scale);
    let quotient = rounded(dividend.digits, divisor.digits, shift).ok_or_else(overflow)?;
    let padded = quotient.checked_mul(ten_to((i32::from(scale) - digits) as u8)).ok_or_else(overflow)?;
    if padded.wrapping_abs() < ten_to(76) { Ok(padded) } else { Err(overflow()) }
}

/// `dividend * 10^shift / divisor`, rounded half away from zero; `None`: it does not fit.
fn rounded(dividend: i256, divisor: i256, shift: i32) -> Option<i256> {
    let power = u8::try_from(shift.unsigned_abs()).ok().filter(|p| *p <= 76)?;
    let (quotient, rest, divisor) = if shift < 0 {
        let divisor = divisor.checked_mul(ten_to(power))?;
        (dividend.checked_div(divisor)?, dividend.checked_rem(divisor)?, divisor)
    } else if let Some(dividend) = dividend.checked_mul(ten_to(power)) {
        (dividend.checked_div(divisor)?, dividend.checked_rem(divisor)?, divisor)
    } else {
        by_hand(dividend, divisor, power)?
    };
    let twice = rest.wrapping_abs().checked_mul(i256::from_i128(2))?;
    if twice < divisor.wrapping_abs() {
        return Some(quotient);
    }
    let away = if dividend.is_negative() == divisor.is_negative() { i256::ONE } else { i256::MINUS_ONE };
    quotient.checked_add(away)
}

/// Long division, a digit at a time: for dividends that have no room for the zeros.
fn by_hand(dividend: i256, divisor: i256, zeros: u8) -> Option<(i256, i256, i256)> {
    let ten = i256::from_i128(10);
    let (mut quotient, mut rest) = (dividend.checked_div(divisor)?, dividend.checked_rem(divisor)?);
    for _ in 0..zeros {
        rest = rest.checked_mul(ten)?;
        quotient = quotient.checked_mul(ten)?.checked_add(rest.checked_div(divisor)?)?;
        rest = rest.checked_rem(divisor)?;
    }
    Some((quotient, rest, divisor))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Operation {
    Divide,
    Multiply,
}

impl Operation {
    /// `None`: another operator is right for operands of these types.
    fn result_type(self, left: &DataType, right: &DataType) -> Option<DataType> {
        let exact = |t: &DataType| t.is_integer() || t.is_decimal();
        let numeric = exact(left) && exact(right) && (left.is_decimal() || right.is_decimal());
        match self {
            Operation::Divide if numeric => Some(result_type(scale_of(left), scale_of(right))),
            Operation::Multiply if numeric && (is_ratio(left) || is_ratio(right)) => Some(result_type(0, 0)),
            _ => None,
        }
    }

    fn symbol(self) -> Operator {
        match self {
            Operation::Divide => Operator::Divide,
            Operation::Multiply => Operator::Multiply,
        }
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct RatioFunction {
    operation: Operation,
    signature: Signature,
}

impl RatioFunction {
    fn compute(&self, left: (Operand, bool), right: (Operand, bool), result: &DataType) -> Result<i256> {
        let scale = scale_of(result);
        match self.operation {
            Operation::Divide => {
                let shown = |(operand, strip): (Operand, bool)| {
                    if strip { operand.stripped_scale() } else { operand.scale.into() }
                };
                divide_shown(left.0, right.0, shown(left).max(shown(right)), scale)
            }
            Operation::Multiply => {
                let surplus = i32::from(left.0.scale) + i32::from(right.0.scale) - i32::from(scale);
                let product = left.0.digits.checked_mul(right.0.digits);
                let product = product.and_then(|product| rounded(product, i256::ONE, -surplus));
                product.filter(|p| p.wrapping_abs() < ten_to(76)).ok_or_else(|| out_of_range(result))
            }
        }
    }
}

impl ScalarUDFImpl for RatioFunction {
    fn name(&self) -> &str {
        match self.operation {
            Operation::Divide => DIVIDE,
            Operation::Multiply => MULTIPLY,
        }
    }

    fn schema_name(&self, args: &[Expr]) -> DfResult<String> {
        match args {
            [left, right] => Ok(format!("{} {} {}", left.schema_name(), self.operation.symbol(), right.schema_name())),
            _ => Ok(self.name().to_string()),
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> DfResult<Vec<DataType>> {
        self.return_type(types)?;
        Ok(types.iter().map(as_decimal).collect())
    }

    fn return_type(&self, types: &[DataType]) -> DfResult<DataType> {
        match types {
            [left, right] => self.operation.result_type(left, right),
            _ => None,
        }
        .ok_or_else(|| no_such_function(self.name(), types).into())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let ([left, right], [left_field, right_field]) = (args.args.as_slice(), args.arg_fields.as_slice()) else {
            return Err(Error::internal(format!("{} takes two arguments", self.name())).into());
        };
        let scalar = matches!((left, right), (ColumnarValue::Scalar(_), ColumnarValue::Scalar(_)));
        let rows = if scalar { 1 } else { args.number_rows };
        let (left, right) = (Digits::new(left, rows)?, Digits::new(right, rows)?);
        // What is shown without the zeros at the end counts without them.
        let strips =
            |field| matches!(SqlType::from_field(field), SqlType::Numeric(None)) || is_ratio(field.data_type());
        let (left_strips, right_strips) = (strips(left_field), strips(right_field));
        let result = args.return_field.data_type();
        let mut builder = PrimitiveBuilder::<Decimal256Type>::with_capacity(rows).with_data_type(result.clone());
        for row in 0..rows {
            match (left.at(row), right.at(row)) {
                (Some(l), Some(r)) => {
                    builder.append_value(self.compute((l, left_strips), (r, right_strips), result)?)
                }
                _ => builder.append_null(),
            }
        }
        let array: ArrayRef = Arc::new(builder.finish());
        Ok(if scalar {
            ColumnarValue::Scalar(ScalarValue::try_from_array(&array, 0)?)
        } else {
            ColumnarValue::Array(array)
        })
    }
}

fn as_decimal(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Decimal128(..) | DataType::Decimal256(..) => data_type.clone(),
        DataType::Decimal32(p, s) | DataType::Decimal64(p, s) => DataType::Decimal128(*p, *s),
        _ => DataType::Decimal128(20, 0),
    }
}

/// A column of decimals, all with one scale.
struct Digits {
    array: ArrayRef,
    scale: i8,
    once: bool,
}

impl Digits {
    fn new(value: &ColumnarValue, rows: usize) -> DfResult<Self> {
        let once = matches!(value, ColumnarValue::Scalar(_));
        let array = value.to_array(if once { 1 } else { rows })?;
        let scale = scale_of(array.data_type());
        let options = CastOptions { safe: false, ..CastOptions::default() };
        let array = cast_with_options(&array, &DataType::Decimal256(76, scale), &options)?;
        Ok(Self { array, scale, once })
    }

    fn at(&self, row: usize) -> Option<Operand> {
        let row = if self.once { 0 } else { row };
        let array = self.array.as_primitive::<Decimal256Type>();
        array.is_valid(row).then(|| Operand { digits: array.value(row), scale: self.scale })
    }
}

/// A ratio as it is shown.
pub(super) fn text(digits: i256) -> String {
    let all = digits.to_string();
    let (sign, all) = match all.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", all.as_str()),
    };
    let scale = RATIO_SCALE as usize;
    let padded = format!("{all:0>width$}", width = scale + 1);
    let (whole, fraction) = padded.split_at(padded.len() - scale);
    let shown = &fraction[..shown_scale(all)];
    if shown.is_empty() { format!("{sign}{whole}") } else { format!("{sign}{whole}.{shown}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quotient(left: (i128, i8), right: (i128, i8)) -> String {
        let operand = |(digits, scale)| Operand { digits: i256::from_i128(digits), scale };
        text(divide(operand(left), operand(right), RATIO_SCALE).unwrap())
    }

    /// As PostgreSQL 15 answers.
    #[test]
    fn quotients_have_the_digits_of_postgres() {
        for (left, right, expected) in [
            ((1, 0), (30, 1), "0.33333333333333333333"),
            ((100, 0), (30, 1), "33.3333333333333333"),
            ((100_000, 0), (30, 1), "33333.333333333333"),
            ((1_000_000_000, 0), (3, 0), "333333333.33333333"),
            ((1, 0), (30_000, 0), "0.000033333333333333333333"),
            ((-2, 0), (3, 0), "-0.66666666666666666667"),
            ((10, 1), (2, 0), "0.50000000000000000000"),
            ((6, 0), (20, 1), "3.0000000000000000"),
            ((7, 0), (7, 0), "1.00000000000000000000"),
            ((35, 1), (3, 0), "1.16666666666666666667"),
            ((0, 0), (30, 1), "0.00000000000000000000"),
            ((i128::MAX, 0), (1, 0), "170141183460469231731687303715884105727"),
        ] {
            assert_eq!(quotient(left, right), expected, "{left:?} / {right:?}");
        }
    }

    #[test]
    fn long_dividends_are_divided_digit_by_digit() {
        let nines = ten_to(70);
        assert_eq!(by_hand(nines, i256::from_i128(3), 4).map(|(q, r, _)| (q, r)), {
            let q = nines.wrapping_mul(ten_to(4)).wrapping_div(i256::from_i128(3));
            Some((q, i256::ONE))
        });
        assert_eq!(rounded(ten_to(75), ten_to(75), 10), Some(ten_to(10)));
        assert_eq!(rounded(ten_to(75), i256::ONE, 10), None);
    }
}
