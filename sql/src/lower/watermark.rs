//! Which expressions keep a watermark: those that never fall while their column does not.
//!
//! If no later row has `ts` below W, then no later row has `tumble_start(ts)` below `tumble_start(W)`. The engine finds the new
//! watermark by evaluating the expression on the old one, so it is enough to know here that it is monotone.

use std::collections::BTreeSet;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::ScalarFunctionExpr;
use datafusion::physical_expr::expressions::{BinaryExpr, CastExpr, Column, Literal};
use datafusion::scalar::ScalarValue;

/// Functions that are monotone in their one argument that is not a constant.
const MONOTONE: &[&str] = &[
    "tidemark_tumble_start",
    "tidemark_tumble_end",
    "tidemark_hop_starts",
    "tidemark_cumulate_ends",
    "tidemark_window_end",
    "tidemark_pane_start",
    "tidemark_date_add",
    "date_trunc",
    "date_bin",
    "to_timestamp",
    "to_timestamp_micros",
];

/// Of columns that each close what they are a key of, the one that does so first: a cumulating window is over at its own end, by
/// its start only with the longest.
pub(super) fn tightest(schema: &Schema, columns: impl Iterator<Item = usize> + Clone) -> Option<usize> {
    columns.clone().find(|column| schema.field(*column).name() == "window_end").or_else(|| columns.clone().next())
}

/// A column that the window functions make.
pub(super) fn is_of_window(field: &Field) -> bool {
    matches!(field.name().as_str(), "window_start" | "window_end" | "window_time")
}

pub(super) fn as_column(expr: &Arc<dyn PhysicalExpr>) -> Option<usize> {
    expr.downcast_ref::<Column>().map(Column::index)
}

/// True if the expression's value carries a watermark when the columns `watermarks` do.
pub(super) fn carries(expr: &Arc<dyn PhysicalExpr>, watermarks: &BTreeSet<usize>) -> bool {
    if let Some(column) = as_column(expr) {
        return watermarks.contains(&column);
    }
    if let Some(cast) = expr.downcast_ref::<CastExpr>() {
        return is_time(cast.cast_type()) && carries(cast.expr(), watermarks);
    }
    if let Some(binary) = expr.downcast_ref::<BinaryExpr>() {
        let (left, right) = (binary.left(), binary.right());
        return match binary.op() {
            Operator::Plus => {
                (carries(left, watermarks) && is_fixed(right)) || (is_fixed(left) && carries(right, watermarks))
            }
            Operator::Minus => carries(left, watermarks) && is_fixed(right),
            _ => false,
        };
    }
    if let Some(function) = expr.downcast_ref::<ScalarFunctionExpr>() {
        let (constant, varying): (Vec<_>, Vec<_>) = function.args().iter().partition(|a| is_constant(a));
        return (MONOTONE.contains(&function.fun().name()) || is_fixed_step(function))
            && constant.len() + 1 == function.args().len()
            && varying.iter().all(|a| carries(a, watermarks));
    }
    false
}

/// `ts + INTERVAL '1 day'` as it is spelled by the session's clock.
fn is_fixed_step(function: &ScalarFunctionExpr) -> bool {
    function.fun().name() == "tidemark_moment_add" && function.args().get(1).is_some_and(is_fixed)
}

/// A constant that moves all times by as much. Not so months: a month before the 30th and the 31st of March is the 28th of February,
/// and the hours of the day decide which of them comes first.
fn is_fixed(expr: &Arc<dyn PhysicalExpr>) -> bool {
    match expr.downcast_ref::<Literal>().map(Literal::value) {
        Some(ScalarValue::IntervalMonthDayNano(Some(interval))) => interval.months == 0,
        _ => is_constant(expr),
    }
}

fn is_constant(expr: &Arc<dyn PhysicalExpr>) -> bool {
    expr.is::<Literal>() || expr.downcast_ref::<CastExpr>().is_some_and(|c| is_constant(c.expr()))
}

fn is_time(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Timestamp(..) | DataType::Date32 | DataType::Date64)
}
