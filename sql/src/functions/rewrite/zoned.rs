//! What a session's time zone decides before types are settled: dates and timestamps where moments are asked for.
//!
//! ```text
//!   at > '2024-02-01'::date     ──▶ at > timezone(zone, '2024-02-01'::timestamp)
//!   at::date                    ──▶ timezone(zone, at)::date
//!   at + interval '1 day'       ──▶ tidemark_moment_add(at, interval '1 day')
//! ```
//!
//! Only for zones other than UTC, in which DataFusion does the same by itself.

use datafusion::arrow::datatypes::DataType;
use datafusion::common::DFSchema;
use datafusion::common::tree_node::Transformed;
use datafusion::error::Result as DfResult;
use datafusion::logical_expr::expr::{AggregateFunction, Cast, ScalarFunction};
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, Operator, lit};
use tidemark_common::types::SqlType;

use super::PostgresCasts;
use crate::functions::{aggregates, clock, input};

/// Aggregates that write moments as text.
pub(super) fn aggregate(mut call: AggregateFunction, zone: Option<&str>) -> Transformed<Expr> {
    match zone.and_then(|zone| aggregates::json_in_zone(call.func.name(), zone)) {
        Some(zoned) if zoned != *call.func => {
            call.func = zoned.into();
            Transformed::yes(Expr::AggregateFunction(call))
        }
        _ => Transformed::no(Expr::AggregateFunction(call)),
    }
}

impl PostgresCasts {
    /// A moment as the clocks of `zone` show it, or the other way round.
    fn local(&self, time: Expr, zone: &str) -> DfResult<Expr> {
        self.calls("timezone", vec![lit(zone), time])
    }

    /// The arguments that a function takes as moments, made so by the session's clock; `None`: they are what it takes.
    pub(super) fn zoned_arguments(
        &self,
        call: &ScalarFunction,
        types: &[DataType],
        zone: &str,
    ) -> DfResult<Option<Vec<Expr>>> {
        let taken = match call.func.coerce_types(types) {
            Ok(taken) if types.len() == call.args.len() && taken.len() == types.len() => taken,
            // Types that it does not take are told where types are settled.
            _ => return Ok(None),
        };
        let (mut args, mut changed) = (call.args.clone(), false);
        for ((arg, from), to) in args.iter_mut().zip(types).zip(&taken) {
            if let Some(moment) = self.zoned(arg, from, to, zone)? {
                (*arg, changed) = (moment, true);
            }
        }
        Ok(changed.then_some(args))
    }

    /// Where one of `exprs` is a moment, what clocks show becomes one by the session's clock, so that they compare.
    pub(super) fn on_one_clock(
        &self,
        exprs: &mut [&mut Expr],
        schema: &DFSchema,
        zone: Option<&str>,
    ) -> DfResult<bool> {
        let Some(zone) = zone else { return Ok(false) };
        let moment = SqlType::TimestampTz.data_type();
        let types = exprs.iter().map(|e| e.get_type(schema)).collect::<DfResult<Vec<_>>>()?;
        if !types.contains(&moment) {
            return Ok(false);
        }
        let mut changed = false;
        for (expr, from) in exprs.iter_mut().zip(&types).filter(|(_, from)| !from.is_string()) {
            if let Some(other) = self.zoned(expr, from, &moment, zone)? {
                (**expr, changed) = (other, true);
            }
        }
        Ok(changed)
    }

    /// `moment + interval`, by the days and months of the session's clock.
    pub(super) fn moved_moment(&self, binary: &BinaryExpr, schema: &DFSchema) -> DfResult<Option<Expr>> {
        // A parameter has no type yet.
        let (Ok(left), Ok(right)) = (binary.left.get_type(schema), binary.right.get_type(schema)) else {
            return Ok(None);
        };
        let (left_expr, right_expr) = (binary.left.as_ref().clone(), binary.right.as_ref().clone());
        let args = match (left, binary.op, right) {
            (DataType::Timestamp(_, Some(_)), Operator::Plus, DataType::Interval(_)) => vec![left_expr, right_expr],
            (DataType::Timestamp(_, Some(_)), Operator::Minus, DataType::Interval(_)) => {
                vec![left_expr, Expr::Negative(Box::new(right_expr))]
            }
            (DataType::Interval(_), Operator::Plus, DataType::Timestamp(_, Some(_))) => vec![right_expr, left_expr],
            _ => return Ok(None),
        };
        self.calls(clock::MOMENT_ADD, args).map(Some)
    }

    /// Casts between what clocks show and moments, by the session's clock.
    pub(super) fn zoned(&self, operand: &Expr, from: &DataType, to: &DataType, zone: &str) -> DfResult<Option<Expr>> {
        use DataType::{Date32, Time64, Timestamp};
        Ok(match (from, to) {
            (from, Timestamp(_, Some(_))) if from.is_string() => {
                Some(self.calls(input::TO_TIMESTAMPTZ, vec![operand.clone(), lit(zone)])?)
            }
            (Timestamp(_, None), Timestamp(_, Some(_))) => Some(self.local(operand.clone(), zone)?),
            (Date32, Timestamp(_, Some(_))) => {
                let midnight = Expr::Cast(Cast::new(Box::new(operand.clone()), SqlType::Timestamp.data_type()));
                Some(self.local(midnight, zone)?)
            }
            (Timestamp(_, Some(_)), Timestamp(_, None) | Date32 | Time64(_)) => {
                Some(self.local(operand.clone(), zone)?)
            }
            _ => None,
        })
    }
}
