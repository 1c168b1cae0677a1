//! Arithmetic that tells when a result does not fit: DataFusion's own wraps around, and divides floats by zero.
//!
//! [`super::rewrite`] puts these in the place of `+`, `-`, `*` of integers and `/` of floats.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, Datum, Float64Array};
use datafusion::arrow::compute::cast;
use datafusion::arrow::compute::kernels::numeric::{add, div, mul, sub};
use datafusion::arrow::datatypes::DataType;
use datafusion::arrow::error::ArrowError;
use datafusion::common::ScalarValue;
use datafusion::error::Result as DfResult;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{
    ColumnarValue, Expr, Operator, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use tidemark_common::types::SqlType;
use tidemark_common::{Error, SqlState};

use super::declare::no_such_function;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Operation {
    Add,
    Subtract,
    Multiply,
    Divide,
}

impl Operation {
    const ALL: [Operation; 4] = [Operation::Add, Operation::Subtract, Operation::Multiply, Operation::Divide];

    fn name(self) -> &'static str {
        match self {
            Operation::Add => "tidemark_add",
            Operation::Subtract => "tidemark_subtract",
            Operation::Multiply => "tidemark_multiply",
            Operation::Divide => "tidemark_divide",
        }
    }

    fn operator(self) -> Operator {
        match self {
            Operation::Add => Operator::Plus,
            Operation::Subtract => Operator::Minus,
            Operation::Multiply => Operator::Multiply,
            Operation::Divide => Operator::Divide,
        }
    }

    /// The type in which operands of these types meet; `None`: DataFusion's own operator is right for them.
    fn common_type(self, left: &DataType, right: &DataType) -> Option<DataType> {
        use DataType::{Float32, Float64, Int16, Int32, Int64};
        if self == Operation::Divide {
            return match (left, right) {
                (Float32, Float32) => Some(Float32),
                (Float32 | Float64, r) if r.is_numeric() => Some(Float64),
                (l, Float32 | Float64) if l.is_numeric() => Some(Float64),
                _ => None,
            };
        }
        let rank = |t: &DataType| [Int16, Int32, Int64].iter().position(|i| i == t);
        Some(if rank(left)? >= rank(right)? { left.clone() } else { right.clone() })
    }
}

pub(super) fn functions() -> Vec<ScalarUDF> {
    Operation::ALL.into_iter().map(udf).collect()
}

fn udf(operation: Operation) -> ScalarUDF {
    ScalarUDF::new_from_impl(Arithmetic { operation, signature: Signature::user_defined(Volatility::Immutable) })
}

/// The checked form of `left op right`, if there is one for operands of these types.
pub(super) fn checked(op: Operator, left: (&Expr, &DataType), right: (&Expr, &DataType)) -> Option<Expr> {
    let operation = Operation::ALL.into_iter().find(|o| o.operator() == op)?;
    operation.common_type(left.1, right.1)?;
    Some(call(operation, left.0.clone(), right.0.clone()))
}

/// The checked form of `- operand`.
pub(super) fn negated(operand: &Expr, data_type: &DataType) -> Option<Expr> {
    Operation::Subtract.common_type(data_type, data_type)?;
    let zero = ScalarValue::new_zero(data_type).ok()?;
    Some(call(Operation::Subtract, Expr::Literal(zero, None), operand.clone()))
}

fn call(operation: Operation, left: Expr, right: Expr) -> Expr {
    Expr::ScalarFunction(ScalarFunction::new_udf(Arc::new(udf(operation)), vec![left, right]))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Arithmetic {
    operation: Operation,
    signature: Signature,
}

impl Arithmetic {
    fn compute(&self, left: &dyn Datum, right: &dyn Datum) -> Result<ArrayRef, ArrowError> {
        match self.operation {
            Operation::Add => add(left, right),
            Operation::Subtract => sub(left, right),
            Operation::Multiply => mul(left, right),
            Operation::Divide => {
                refuse_zero(left, right)?;
                div(left, right)
            }
        }
    }

    fn evaluate(&self, left: &dyn Datum, right: &dyn Datum) -> DfResult<ArrayRef> {
        self.compute(left, right).map_err(|error| match error {
            ArrowError::ArithmeticOverflow(_) => {
                let sql_type = SqlType::from_data_type(left.get().0.data_type());
                Error::new(SqlState::NumericValueOutOfRange, format!("{sql_type} out of range")).into()
            }
            other => other.into(),
        })
    }
}

/// Floats divided by zero are infinite to Arrow; to Postgres only a NaN may be.
fn refuse_zero(left: &dyn Datum, right: &dyn Datum) -> Result<(), ArrowError> {
    let ((left, left_is_one), (right, right_is_one)) = (left.get(), right.get());
    let rows = if left_is_one { right.len() } else { left.len() };
    let (left, right) = (cast(left, &DataType::Float64)?, cast(right, &DataType::Float64)?);
    let value = |array: &Float64Array, one: bool, row: usize| {
        let row = if one { 0 } else { row };
        array.is_valid(row).then(|| array.value(row))
    };
    let (left, right): (&Float64Array, &Float64Array) = (left.as_primitive(), right.as_primitive());
    let by_zero = |row| {
        value(right, right_is_one, row) == Some(0.0) && value(left, left_is_one, row).is_some_and(|v| !v.is_nan())
    };
    if (0..rows).any(by_zero) { Err(ArrowError::DivideByZero) } else { Ok(()) }
}

impl ScalarUDFImpl for Arithmetic {
    fn name(&self) -> &str {
        self.operation.name()
    }

    fn schema_name(&self, args: &[Expr]) -> DfResult<String> {
        match args {
            [left, right] => {
                Ok(format!("{} {} {}", left.schema_name(), self.operation.operator(), right.schema_name()))
            }
            _ => Ok(self.name().to_string()),
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> DfResult<Vec<DataType>> {
        let common = self.return_type(types)?;
        Ok(vec![common.clone(), common])
    }

    fn return_type(&self, types: &[DataType]) -> DfResult<DataType> {
        match types {
            [left, right] => self.operation.common_type(left, right),
            _ => None,
        }
        .ok_or_else(|| no_such_function(self.name(), types).into())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        use ColumnarValue::{Array, Scalar};
        let [left, right] = args.args.as_slice() else {
            return Err(Error::internal(format!("{} takes two arguments", self.name())).into());
        };
        Ok(match (left, right) {
            (Scalar(l), Scalar(r)) => {
                let one = self.evaluate(&l.to_scalar()?, &r.to_scalar()?)?;
                Scalar(ScalarValue::try_from_array(&one, 0)?)
            }
            (Array(l), Scalar(r)) => Array(self.evaluate(l, &r.to_scalar()?)?),
            (Scalar(l), Array(r)) => Array(self.evaluate(&l.to_scalar()?, r)?),
            (Array(l), Array(r)) => Array(self.evaluate(l, r)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{Float64Array, Int32Array};

    use super::*;

    fn run(operation: Operation, left: &dyn Datum, right: &dyn Datum) -> Result<ArrayRef, String> {
        let function = Arithmetic { operation, signature: Signature::user_defined(Volatility::Immutable) };
        function.evaluate(left, right).map_err(|e| Error::from(e).code().to_string())
    }

    #[test]
    fn what_does_not_fit_is_told() {
        let most = Int32Array::from(vec![Some(i32::MAX), None]);
        let one = Int32Array::from(vec![1, 1]);
        assert_eq!(run(Operation::Add, &most, &one).unwrap_err(), "22003");
        let less = run(Operation::Subtract, &most, &one).unwrap();
        assert_eq!(less.as_ref(), &Int32Array::from(vec![Some(i32::MAX - 1), None]) as &dyn Array);
    }

    #[test]
    fn floats_are_not_divided_by_zero() {
        let zero = Float64Array::from(vec![0.0]);
        assert_eq!(run(Operation::Divide, &Float64Array::from(vec![1.0]), &zero).unwrap_err(), "22012");
        assert!(run(Operation::Divide, &Float64Array::from(vec![None]), &zero).unwrap().is_null(0));
        assert!(run(Operation::Divide, &Float64Array::from(vec![f64::NAN]), &zero).is_ok());
    }
}
