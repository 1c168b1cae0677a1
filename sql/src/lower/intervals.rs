//! Conditions of a join that say how far apart in time its rows may lie.
//!
//! ```text
//!   b.ts >= a.ts - INTERVAL '5 seconds' AND b.ts < a.ts + INTERVAL '1 minute'  ─▶  b.ts - a.ts from -5 s to 1 min
//! ```
//!
//! A month has 28 to 31 days here, and a day 22 to 26 hours: state is kept rather a little too long, the condition itself decides.

use std::sync::Arc;

use datafusion::arrow::datatypes::IntervalMonthDayNano;
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{BinaryExpr, Column, Literal};
use datafusion::physical_expr::utils::split_conjunction;
use datafusion::scalar::ScalarValue;
use tidemark_common::plan::Within;

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

fn comparison(part: &Arc<dyn PhysicalExpr>, width: usize) -> Option<Within> {
    let binary = part.downcast_ref::<BinaryExpr>()?;
    let (mut smaller, mut greater) = (moment(binary.left())?, moment(binary.right())?);
    match binary.op() {
        Operator::Lt | Operator::LtEq => {}
        Operator::Gt | Operator::GtEq => std::mem::swap(&mut smaller, &mut greater),
        _ => return None,
    }
    // smaller + s <= greater + g, so greater - smaller is s - g at least.
    let least = smaller.least.saturating_sub(greater.most);
    match (smaller.column < width, greater.column < width) {
        (true, false) => Some(Within {
            left: smaller.column,
            right: greater.column - width,
            least: Some(least),
            most: None,
            emit_on_close: false,
        }),
        (false, true) => Some(Within {
            left: greater.column,
            right: smaller.column - width,
            least: None,
            most: Some(least.saturating_neg()),
            emit_on_close: false,
        }),
        _ => None,
    }
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
