//! Session windows: rows of one partition that follow each other closely, as window functions over all of it.
//!
//! ```text
//!   gap 5                                                  gap 5, longest 8
//!   --x--x----x---------x-->  time                         --x--x----x--x------>
//!     |-----------|     |-----|                              |-------|-----|
//! ```
//!
//! A session begins with its first row and ends `gap` after its last one. A row that comes exactly then still belongs to it, as in
//! Flink. With a longest length, the first row that comes so long after the beginning begins another one, and the session ends
//! where that may begin at the latest. So sessions follow from the rows in the order of time, whatever the order they came in.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, TimestampMicrosecondArray};
use datafusion::arrow::datatypes::{
    DataType, Field, FieldRef, IntervalMonthDayNano, IntervalMonthDayNanoType, IntervalUnit, TimeUnit,
    TimestampMicrosecondType,
};
use datafusion::error::Result as DfResult;
use datafusion::logical_expr::function::{PartitionEvaluatorArgs, WindowUDFFieldArgs};
use datafusion::logical_expr::{LimitEffect, PartitionEvaluator, Signature, Volatility, WindowUDF, WindowUDFImpl};
use datafusion::physical_expr::PhysicalExpr;
use tidemark_common::{Error, Result};

use super::declare::no_such_function;
use super::windows::Span;

/// `tidemark_session_start(ts, gap [, longest]) OVER (PARTITION BY .. ORDER BY ts)`
pub const SESSION_START: &str = "tidemark_session_start";
/// `tidemark_session_end(ts, gap [, longest]) OVER (PARTITION BY .. ORDER BY ts)`
pub const SESSION_END: &str = "tidemark_session_end";

pub(super) fn functions() -> Vec<WindowUDF> {
    [Bound::Start, Bound::End].map(function).into()
}

pub fn session_end_function() -> Arc<WindowUDF> {
    Arc::new(function(Bound::End))
}

fn function(bound: Bound) -> WindowUDF {
    WindowUDF::new_from_impl(SessionBound { bound, signature: Signature::user_defined(Volatility::Immutable) })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Bound {
    Start,
    End,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct SessionBound {
    bound: Bound,
    signature: Signature,
}

impl WindowUDFImpl for SessionBound {
    fn name(&self) -> &str {
        match self.bound {
            Bound::Start => SESSION_START,
            Bound::End => SESSION_END,
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> DfResult<Vec<DataType>> {
        let time = match types.first() {
            Some(DataType::Timestamp(_, zone)) => DataType::Timestamp(TimeUnit::Microsecond, zone.clone()),
            Some(DataType::Date32 | DataType::Date64 | DataType::Null) => {
                DataType::Timestamp(TimeUnit::Microsecond, None)
            }
            _ => return Err(no_such_function(self.name(), types).into()),
        };
        let interval =
            |t: &DataType| matches!(t, DataType::Interval(_) | DataType::Duration(_) | DataType::Null) || t.is_string();
        if !matches!(types.len(), 2 | 3) || !types[1..].iter().all(interval) {
            return Err(no_such_function(self.name(), types).into());
        }
        let intervals = types[1..].iter().map(|_| DataType::Interval(IntervalUnit::MonthDayNano));
        Ok(std::iter::once(time).chain(intervals).collect())
    }

    fn field(&self, args: WindowUDFFieldArgs) -> DfResult<FieldRef> {
        let time = args.get_input_field(0).map(|field| field.data_type().clone());
        let time = time.ok_or_else(|| no_such_function(self.name(), &[]))?;
        Ok(Arc::new(Field::new(args.name(), time, true)))
    }

    fn partition_evaluator(&self, _: PartitionEvaluatorArgs) -> DfResult<Box<dyn PartitionEvaluator>> {
        Ok(Box::new(Evaluator(self.bound)))
    }

    fn limit_effect(&self, _: &[Arc<dyn PhysicalExpr>]) -> LimitEffect {
        // A row that is left out may be what holds two others together.
        LimitEffect::Unknown
    }
}

#[derive(Debug)]
struct Evaluator(Bound);

impl PartitionEvaluator for Evaluator {
    fn evaluate_all(&mut self, values: &[ArrayRef], rows: usize) -> DfResult<ArrayRef> {
        let times = values[0].as_primitive::<TimestampMicrosecondType>();
        let bounds = match Spacing::of(&values[1..])? {
            Some(spacing) => spacing.bounds(times, rows, self.0)?,
            None => vec![None; rows],
        };
        let bounds = TimestampMicrosecondArray::from(bounds).with_data_type(times.data_type().clone());
        Ok(Arc::new(bounds))
    }
}

/// What makes sessions: their gap, and how long they may be.
#[derive(Debug, Clone, Copy)]
struct Spacing {
    gap: Span,
    longest: Option<Span>,
}

impl Spacing {
    /// `None`: one of them is NULL.
    fn of(spans: &[ArrayRef]) -> Result<Option<Self>> {
        let spans: Option<Vec<IntervalMonthDayNano>> = spans.iter().map(constant).collect::<Result<_>>()?;
        let Some(spans) = spans else { return Ok(None) };
        let longest = spans.get(1).map(|longest| Span::positive(*longest, "longest length")).transpose()?;
        Ok(Some(Self { gap: Span::positive(spans[0], "gap")?, longest }))
    }

    /// For times in ascending order, of each the bound of its session; NULL for what has no time.
    fn bounds(self, times: &TimestampMicrosecondArray, rows: usize, bound: Bound) -> Result<Vec<Option<i64>>> {
        let mut bounds = vec![None; rows];
        let mut timed = (0..rows).filter(|row| times.is_valid(*row)).peekable();
        while let Some(first) = timed.next() {
            let start = times.value(first);
            let limit = self.longest.map(|longest| longest.after(start)).transpose()?;
            let mut members = vec![first];
            let mut end = self.gap.after(start)?;
            while let Some(row) =
                timed.next_if(|row| times.value(*row) <= end && limit.is_none_or(|limit| times.value(*row) < limit))
            {
                end = self.gap.after(times.value(row))?;
                members.push(row);
            }
            let end = limit.map_or(end, |limit| end.min(limit));
            for row in members {
                bounds[row] = Some(if bound == Bound::Start { start } else { end });
            }
        }
        Ok(bounds)
    }
}

/// The one value of an argument.
fn constant(values: &ArrayRef) -> Result<Option<IntervalMonthDayNano>> {
    let values = values.as_primitive::<IntervalMonthDayNanoType>();
    let first = (!values.is_empty() && values.is_valid(0)).then(|| values.value(0));
    if (1..values.len()).any(|row| values.is_valid(row).then(|| values.value(row)) != first) {
        return Err(Error::invalid("the gap and the longest length of SESSION windows must be the same for all rows"));
    }
    Ok(first)
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    fn sessions(times: &[i64], gap: i64, longest: Option<i64>) -> Vec<(i64, i64)> {
        let spacing = Spacing { gap: Span::Micros(gap), longest: longest.map(Span::Micros) };
        let array = TimestampMicrosecondArray::from(times.to_vec());
        let [starts, ends] =
            [Bound::Start, Bound::End].map(|bound| spacing.bounds(&array, times.len(), bound).unwrap());
        starts.into_iter().zip(ends).map(|(start, end)| (start.unwrap(), end.unwrap())).collect()
    }

    #[test]
    fn rows_that_follow_closely_are_one_session() {
        assert_eq!(sessions(&[1, 4, 9, 15], 5, None), [(1, 14), (1, 14), (1, 14), (15, 20)]);
        assert_eq!(sessions(&[1, 1, 6, 12], 5, None), [(1, 11), (1, 11), (1, 11), (12, 17)]);
        assert_eq!(sessions(&[0, 3, 6, 9, 12], 5, Some(8)), [(0, 8), (0, 8), (0, 8), (9, 17), (9, 17)]);
        assert_eq!(sessions(&[0, 8], 10, Some(8)), [(0, 8), (8, 16)]);
    }

    #[test]
    fn what_has_no_time_has_no_session() {
        let spacing = Spacing { gap: Span::Micros(5), longest: None };
        let times = TimestampMicrosecondArray::from(vec![None, Some(1), Some(3), None]);
        assert_eq!(spacing.bounds(&times, 4, Bound::End).unwrap(), [None, Some(8), Some(8), None]);
    }

    /// Windows of one row each, any two that touch made one until none do, as Flink does it.
    fn merged(times: &[i64], gap: i64) -> Vec<(i64, i64)> {
        let mut windows: Vec<(i64, i64)> = times.iter().map(|ts| (*ts, ts + gap)).collect();
        while let Some((a, b)) = (0..windows.len())
            .flat_map(|a| (a + 1..windows.len()).map(move |b| (a, b)))
            .find(|(a, b)| windows[*a].0 <= windows[*b].1 && windows[*b].0 <= windows[*a].1)
        {
            let other = windows.remove(b);
            windows[a] = (windows[a].0.min(other.0), windows[a].1.max(other.1));
        }
        times.iter().map(|ts| *windows.iter().find(|w| w.0 <= *ts && *ts <= w.1).unwrap()).collect()
    }

    #[test]
    fn sessions_are_what_merging_windows_in_any_order_gives() {
        let mut rng = StdRng::seed_from_u64(7);
        for _ in 0..300 {
            let mut times: Vec<i64> = (0..rng.random_range(1..30)).map(|_| rng.random_range(0..200)).collect();
            let gap = rng.random_range(1..20);
            let shuffled = merged(&times, gap);
            let mut expected: Vec<_> = times.iter().copied().zip(shuffled).collect();
            expected.sort_unstable();
            times.sort_unstable();
            let found: Vec<_> = times.iter().copied().zip(sessions(&times, gap, None)).collect();
            assert_eq!(found, expected, "{times:?} {gap}");
        }
    }
}
