//! Conditions of a join that say how far apart in time its rows may lie.
//!
//! ```text
//!   b.ts >= a.ts - INTERVAL '5 seconds' AND b.ts < a.ts + INTERVAL '1 minute'  ─▶  b.ts - a.ts from -5 s to 1 min
//!   b.ts - a.ts BETWEEN INTERVAL '-5 seconds' AND INTERVAL '1 minute'          ─▶  the same
//! ```
//!
//! A month has 28 to 31 days here, and a day 22 to 26 hours: state is kept rather a little too long, the condition itself decides.

use std::sync::Arc;

use datafusion::arrow::datatypes::{IntervalMonthDayNano, Schema};
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::expressions::{BinaryExpr, Column, IsNullExpr, Literal};
use datafusion::physical_expr::utils::split_conjunction;
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};
use datafusion::scalar::ScalarValue;
use tidemark_common::plan::Within;

use crate::asof::BOUND;

const HOUR: i64 = 3_600_000_000;

/// A column and what is added to it: at least, and at most.
struct Moment {
    column: usize,
    least: i64,
    most: i64,
}

/// What `condition` says over the columns of a left input, `width` of them, then those of a right one.
pub(super) fn of(condition: &Arc<dyn PhysicalExpr>, width: usize) -> Vec<Within> {
    let mut found: Vec<Within> = Vec::new();
    for part in split_conjunction(condition) {
        let Some(within) = comparison(part, width) else { continue };
        match found.iter_mut().find(|known| known.left == within.left && known.right == within.right) {
            Some(known) => {
                known.least = known.least.max(within.least);
                known.most = [known.most, within.most].into_iter().flatten().min();
            }
            None => found.push(within),
        }
    }
    found
}

/// Of an ASOF join. With `>=`, `left.ts < bound OR bound IS NULL`, bound is the time of a version's successor: a version whose
/// successor lies below the left watermark meets nothing any more, a row below the right watermark has found its version. Versions
/// without a successor have no time, and stay. With `<=`, `left.ts > bound OR bound IS NULL`, it is that of the one before: a row
/// waits for its version, `left.ts <= right.ts`, and is done when that is.
pub(super) fn of_versions(condition: &Arc<dyn PhysicalExpr>, right: &Schema, width: usize) -> Option<Within> {
    let (left, operator, bound) = split_conjunction(condition).into_iter().find_map(|part| {
        let either = part.downcast_ref::<BinaryExpr>().filter(|binary| *binary.op() == Operator::Or)?;
        let (absent, within) = match either.left().is::<IsNullExpr>() {
            true => (either.left(), either.right()),
            false => (either.right(), either.left()),
        };
        let absent = column(absent.downcast_ref::<IsNullExpr>()?.arg())?;
        let bound = absent.checked_sub(width)?;
        let within = within.downcast_ref::<BinaryExpr>()?;
        let left = column(within.left())?;
        let is_bound = right.field(bound).name() == BOUND && column(within.right()) == Some(absent);
        (is_bound && left < width).then_some((left, *within.op(), bound))
    })?;
    match operator {
        Operator::Lt | Operator::LtEq => Some(Within::new(left, bound, Some(0), Some(0))),
        Operator::Gt | Operator::GtEq => {
            let met = of(condition, width).into_iter().find(|within| within.left == left && within.least == Some(0))?;
            Some(Within { until_met: true, ..met })
        }
        _ => None,
    }
}

fn column(expr: &Arc<dyn PhysicalExpr>) -> Option<usize> {
    expr.downcast_ref::<Column>().map(Column::index)
}

fn comparison(part: &Arc<dyn PhysicalExpr>, width: usize) -> Option<Within> {
    let binary = part.downcast_ref::<BinaryExpr>()?;
    let (mut smaller, mut greater) = match difference(binary.left(), binary.right()) {
        Some(both) => both,
        None => match difference(binary.right(), binary.left()) {
            Some((greater, smaller)) => (smaller, greater),
            None => (moment(binary.left())?, moment(binary.right())?),
        },
    };
    match binary.op() {
        Operator::Lt | Operator::LtEq => {}
        Operator::Gt | Operator::GtEq => std::mem::swap(&mut smaller, &mut greater),
        _ => return None,
    }
    // smaller + s <= greater + g, so greater - smaller is s - g at least.
    let least = smaller.least.saturating_sub(greater.most);
    match (smaller.column < width, greater.column < width) {
        (true, false) => Some(Within::new(smaller.column, greater.column - width, Some(least), None)),
        (false, true) => Some(Within::new(greater.column, smaller.column - width, None, Some(least.saturating_neg()))),
        _ => None,
    }
}

/// `a - b` compared with a constant is `a` compared with `b` and the constant.
fn difference(order: &Arc<dyn PhysicalExpr>, constant: &Arc<dyn PhysicalExpr>) -> Option<(Moment, Moment)> {
    let [difference] = arguments(order, "tidemark_interval_order")? else { return None };
    let [a, b] = arguments(difference, "tidemark_timestamp_diff")? else { return None };
    let ScalarValue::Decimal128(Some(value), _, scale) = constant.downcast_ref::<Literal>()?.value() else {
        return None;
    };
    let unit = 10i128.checked_pow(u32::try_from(*scale).ok()?)?;
    let (least, most) = (value.div_euclid(unit), value.div_euclid(unit) + i128::from(value % unit != 0));
    let (a, b) = (moment(a)?, moment(b)?);
    let later = |micros: i64, by: i128| i64::try_from(i128::from(micros) + by).ok();
    Some((a, Moment { column: b.column, least: later(b.least, least)?, most: later(b.most, most)? }))
}

fn arguments<'a>(expr: &'a Arc<dyn PhysicalExpr>, function: &str) -> Option<&'a [Arc<dyn PhysicalExpr>]> {
    let call = expr.downcast_ref::<ScalarFunctionExpr>()?;
    (call.fun().name() == function).then(|| call.args())
}

fn moment(expr: &Arc<dyn PhysicalExpr>) -> Option<Moment> {
    if let Some(column) = expr.downcast_ref::<Column>() {
        return Some(Moment { column: column.index(), least: 0, most: 0 });
    }
    let binary = expr.downcast_ref::<BinaryExpr>()?;
    let (column, interval, plus) = match binary.op() {
        Operator::Plus => {
            moment(binary.left()).zip(interval(binary.right())).map(|(m, i)| (m, i, true)).or_else(|| {
                let (interval, moment) = interval(binary.left()).zip(moment(binary.right()))?;
                Some((moment, interval, true))
            })?
        }
        Operator::Minus => (moment(binary.left())?, interval(binary.right())?, false),
        _ => return None,
    };
    let (least, most) = if plus { interval } else { (interval.1.saturating_neg(), interval.0.saturating_neg()) };
    Some(Moment {
        column: column.column,
        least: column.least.saturating_add(least),
        most: column.most.saturating_add(most),
    })
}

/// A constant interval in microseconds: at least, and at most.
fn interval(expr: &Arc<dyn PhysicalExpr>) -> Option<(i64, i64)> {
    let literal = expr.downcast_ref::<Literal>()?;
    let ScalarValue::IntervalMonthDayNano(Some(IntervalMonthDayNano { months, days, nanoseconds })) = literal.value()
    else {
        return None;
    };
    let month = |days: i64| i64::from(*months) * days;
    let days = [month(28), month(31)].map(|d| d + i64::from(*days));
    let hours = |days: i64| [days * 22, days * 24, days * 26];
    let all = days.into_iter().flat_map(hours).map(|hours| hours * HOUR);
    let exact = nanoseconds / 1000;
    let (least, most) = (all.clone().min()?, all.max()?);
    Some((least.saturating_add(exact), most.saturating_add(exact)))
}
