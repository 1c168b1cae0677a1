//! `sum` and `avg` with PostgreSQL's types: nothing wraps around, and an average of integers is a numeric.
//!
//! | of | `sum` | `avg` |
//! |---|---|---|
//! | smallint, integer | bigint | numeric |
//! | bigint, numeric | numeric | numeric |
//! | anything else | as DataFusion has it | as DataFusion has it |

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::error::Result as DfResult;
use datafusion::functions_aggregate::{average::avg_udaf, sum::sum_udaf};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::{AggregateOrderSensitivity, format_state_name};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, GroupsAccumulator, ReversedUDAF, Signature, Volatility,
};
use tidemark_common::types::SqlType;
use tidemark_common::{Error, SqlState};

use super::exact::{Exact, ExactDistinct, ExactGroups, ExactOne, Finish};
use super::integers::{is_exact, scale_of};
use crate::functions::declare::no_such_function;
use crate::functions::ratio;

pub fn functions() -> Vec<AggregateUDF> {
    [(Finish::Sum, sum_udaf()), (Finish::Average, avg_udaf())]
        .into_iter()
        .map(|(finish, inexact)| {
            let signature = Signature::user_defined(Volatility::Immutable);
            AggregateUDF::new_from_impl(SumOrAverage { finish, inexact, signature })
        })
        .collect()
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct SumOrAverage {
    finish: Finish,
    /// DataFusion's, for other types.
    inexact: Arc<AggregateUDF>,
    signature: Signature,
}

impl SumOrAverage {
    /// How values of `input` are summed; `None`: by DataFusion.
    fn exact(&self, input: &DataType) -> Option<Exact> {
        use DataType::{Decimal128, Decimal256, Int32, Int64};
        if !is_exact(input) {
            return None;
        }
        let sum_type = match (self.finish, input) {
            (Finish::Sum, Int32) => Int64,
            (_, Decimal128(_, scale)) => Decimal128(38, *scale),
            (_, Decimal256(_, scale)) => Decimal256(76, *scale),
            _ => Decimal128(38, 0),
        };
        let result = match self.finish {
            Finish::Sum => sum_type.clone(),
            Finish::Average => ratio::result_type(scale_of(&sum_type), 0),
        };
        Some(Exact { finish: self.finish, sum_type, result })
    }

    fn exact_of(&self, args: &AccumulatorArgs) -> Option<Exact> {
        self.exact(args.expr_fields.first()?.data_type())
    }

    fn argument_type(&self, written: &DataType) -> DfResult<DataType> {
        use DataType as D;
        Ok(match written {
            D::Dictionary(_, value) => self.argument_type(value)?,
            D::Int8 | D::Int16 | D::UInt8 | D::UInt16 => D::Int32,
            D::UInt32 => D::Int64,
            D::Decimal32(p, s) | D::Decimal64(p, s) => D::Decimal128(*p, *s),
            D::Float16 | D::Float32 | D::Null => D::Float64,
            exact if is_exact(exact) => exact.clone(),
            D::Float64 | D::Duration(_) => written.clone(),
            D::Interval(_) if self.finish == Finish::Sum => written.clone(),
            _ => return Err(no_such_function(self.name(), std::slice::from_ref(written)).into()),
        })
    }
}

impl AggregateUDFImpl for SumOrAverage {
    fn name(&self) -> &str {
        match self.finish {
            Finish::Sum => "sum",
            Finish::Average => "avg",
        }
    }

    fn aliases(&self) -> &[String] {
        self.inexact.aliases()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> DfResult<Vec<DataType>> {
        match types {
            [one] => Ok(vec![self.argument_type(one)?]),
            _ => Err(no_such_function(self.name(), types).into()),
        }
    }

    fn return_type(&self, types: &[DataType]) -> DfResult<DataType> {
        match types.first().and_then(|input| self.exact(input)) {
            Some(exact) => Ok(exact.result),
            None => self.inexact.return_type(types),
        }
    }

    fn return_field(&self, arguments: &[FieldRef]) -> DfResult<FieldRef> {
        let types: Vec<DataType> = arguments.iter().map(|f| f.data_type().clone()).collect();
        let result = self.return_type(&types)?;
        // The sum of numerics without a scale has none either.
        let unconstrained = SqlType::Numeric(None);
        let of_such = arguments.first().is_some_and(|f| SqlType::from_field(f) == unconstrained);
        if of_such && unconstrained.data_type() == result {
            return Ok(unconstrained.to_field_ref(self.name(), true));
        }
        Ok(Arc::new(Field::new(self.name(), result, true)))
    }

    fn accumulator(&self, args: AccumulatorArgs) -> DfResult<Box<dyn Accumulator>> {
        match self.exact_of(&args) {
            Some(exact) if args.is_distinct => {
                Ok(Box::new(ExactDistinct::new(exact, args.expr_fields[0].data_type().clone())))
            }
            Some(exact) => Ok(Box::new(ExactOne::new(exact))),
            None => self.inexact.accumulator(args),
        }
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs) -> DfResult<Box<dyn Accumulator>> {
        match self.exact_of(&args) {
            Some(_) if args.is_distinct => {
                let message = "DISTINCT is not implemented for window functions";
                Err(Error::new(SqlState::FeatureNotSupported, message).into())
            }
            Some(exact) => Ok(Box::new(ExactOne::new(exact))),
            None => self.inexact.create_sliding_accumulator(args),
        }
    }

    fn state_fields(&self, args: StateFieldsArgs) -> DfResult<Vec<FieldRef>> {
        let input = args.input_fields.first().map(|f| f.data_type().clone()).unwrap_or(DataType::Null);
        let Some(exact) = self.exact(&input) else { return self.inexact.state_fields(args) };
        let sum = Arc::new(Field::new(format_state_name(args.name, "sum"), exact.sum_type, true));
        if args.is_distinct {
            let name = format_state_name(args.name, "distinct");
            return Ok(vec![Arc::new(Field::new_list(name, Field::new_list_field(input, true), true))]);
        }
        Ok(match self.finish {
            Finish::Sum => vec![sum],
            Finish::Average => {
                vec![Arc::new(Field::new(format_state_name(args.name, "count"), DataType::Int64, true)), sum]
            }
        })
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        match self.exact_of(&args) {
            Some(_) => !args.is_distinct,
            None => self.inexact.groups_accumulator_supported(args),
        }
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs) -> DfResult<Box<dyn GroupsAccumulator>> {
        match self.exact_of(&args) {
            Some(exact) => Ok(Box::new(ExactGroups::new(exact))),
            None => self.inexact.create_groups_accumulator(args),
        }
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        ReversedUDAF::Identical
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }
}
