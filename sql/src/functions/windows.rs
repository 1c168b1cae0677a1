//! Windows of time: which ones a moment falls into.
//!
//! ```text
//!   tumble, size 10            hop, slide 5, size 10
//!   |----A----|----B----|      |----A----|
//!        ^ A                        |----B----|
//!                                     ^ A, B
//! ```
//!
//! Windows are half-open, [start, start + size), and aligned to the Unix epoch plus an offset: by division for sizes of fixed
//! length (a day is 24 hours), by the calendar (UTC) for sizes in months. The streaming planner knows the functions by name.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, ListArray, PrimitiveArray, TimestampMicrosecondArray};
use datafusion::arrow::buffer::{NullBuffer, OffsetBuffer};
use datafusion::arrow::datatypes::{
    DataType, Field, FieldRef, IntervalMonthDayNano, IntervalMonthDayNanoType, IntervalUnit, TimeUnit,
    TimestampMicrosecondType,
};
use datafusion::common::ScalarValue;
use datafusion::error::Result as DfResult;
use datafusion::logical_expr::sort_properties::{ExprProperties, SortProperties};
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use tidemark_common::plan::{self, Shape};
use tidemark_common::{Error, Result};

use super::calendar::{self, Civil, DAY};
use super::declare::no_such_function;

/// `tidemark_tumble_start(ts, size [, offset])`: start of the window that holds ts.
pub const TUMBLE_START: &str = "tidemark_tumble_start";
/// `tidemark_tumble_end(ts, size [, offset])`: end of the window that holds ts.
pub const TUMBLE_END: &str = "tidemark_tumble_end";
/// `tidemark_hop_starts(ts, slide, size [, offset])`: starts of the windows that hold ts, ascending.
pub const HOP_STARTS: &str = "tidemark_hop_starts";
/// `tidemark_cumulate_ends(ts, step, size [, offset])`: ends of the windows that hold ts, ascending; all begin where that of
/// `size` begins, and the next is longer by `step`.
pub const CUMULATE_ENDS: &str = "tidemark_cumulate_ends";
/// `tidemark_window_end(start, size)`: end of the window that begins at start.
pub const WINDOW_END: &str = "tidemark_window_end";

/// `tidemark_pane_start(ts, slide, size [, offset])`: the last edge of a window of HOP at or before ts. The spans are of fixed length.
pub const PANE_START: &str = "tidemark_pane_start";

/// The most windows one row may fall into: size divided by slide.
pub const MAX_WINDOWS_PER_ROW: i64 = 10_000;

/// [`PANE_START`].
pub fn pane_start_function() -> ScalarUDF {
    ScalarUDF::new_from_impl(WindowFunction::new(Which::PaneStart))
}

pub(super) fn functions() -> Vec<ScalarUDF> {
    [Which::TumbleStart, Which::TumbleEnd, Which::HopStarts, Which::CumulateEnds, Which::WindowEnd, Which::PaneStart]
        .into_iter()
        .map(|which| ScalarUDF::new_from_impl(WindowFunction::new(which)))
        .collect()
}

/// A length of time: of fixed length, or of whole months.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Span {
    Micros(i64),
    Months(i64),
}

impl Span {
    /// `what` names the argument in errors.
    pub fn new(interval: IntervalMonthDayNano, what: &str) -> Result<Self> {
        let fixed = i64::from(interval.days).checked_mul(DAY).and_then(|d| d.checked_add(interval.nanoseconds / 1000));
        match (i64::from(interval.months), fixed) {
            (0, Some(micros)) => Ok(Span::Micros(micros)),
            (months, Some(0)) => Ok(Span::Months(months)),
            (0, None) => Err(Error::invalid(format!("window {what} is too long"))),
            _ => Err(Error::invalid(format!("window {what} mixes months with days or hours"))
                .with_hint("Use whole months (or years), or a fixed length such as '30 days'.")),
        }
    }

    /// A size or a slide.
    pub fn positive(interval: IntervalMonthDayNano, what: &str) -> Result<Self> {
        match Self::new(interval, what)? {
            Span::Micros(n) | Span::Months(n) if n <= 0 => {
                Err(Error::invalid(format!("window {what} must be greater than zero")))
            }
            span => Ok(span),
        }
    }

    /// `start` moved by the span.
    pub fn after(self, start: i64) -> Result<i64> {
        match self {
            Span::Micros(n) => start.checked_add(n).ok_or_else(calendar::out_of_range),
            Span::Months(n) => calendar::add_months(start, n),
        }
    }
}

/// Where windows begin: every `step`, moved by `shift` microseconds and `shift_months`.
#[derive(Debug, Clone, Copy)]
struct Grid {
    step: Span,
    shift: i64,
    shift_months: i64,
}

impl Grid {
    fn new(step: Span, offset: Option<IntervalMonthDayNano>) -> Result<Self> {
        let offset = offset.map_or(Ok(Span::Micros(0)), |o| Span::new(o, "offset"))?;
        Ok(match (step, offset) {
            (Span::Micros(n), Span::Micros(o)) => Self { step, shift: o.rem_euclid(n), shift_months: 0 },
            (Span::Months(_), Span::Micros(o)) => Self { step, shift: o, shift_months: 0 },
            (Span::Months(n), Span::Months(o)) => Self { step, shift: 0, shift_months: o.rem_euclid(n) },
            (Span::Micros(_), Span::Months(_)) => {
                return Err(Error::invalid("window offset is in months but the windows are not")
                    .with_hint("Give the offset as a fixed length, such as '1 day'."));
            }
        })
    }

    /// The last start at or before `ts`.
    #[inline]
    fn start(&self, ts: i64) -> Result<i64> {
        match self.step {
            Span::Micros(n) => {
                let into = ts.rem_euclid(n) - self.shift;
                ts.checked_sub(if into < 0 { into + n } else { into }).ok_or_else(calendar::out_of_range)
            }
            Span::Months(n) => self.at_month(self.aligned_month(ts, n)?),
        }
    }

    /// Where the window of one step that holds `ts` ends.
    #[inline]
    fn end(&self, ts: i64) -> Result<i64> {
        match self.step {
            // A shifted month is not a whole month, so the end is that of the unshifted one, shifted.
            Span::Months(n) => self.at_month(self.aligned_month(ts, n)? + n),
            fixed => fixed.after(self.start(ts)?),
        }
    }

    /// The last aligned month at or before `ts`, counted from 1970-01.
    fn aligned_month(&self, ts: i64, n: i64) -> Result<i64> {
        let month = Civil::from_micros(ts.checked_sub(self.shift).ok_or_else(calendar::out_of_range)?).months();
        Ok(month - (month - self.shift_months).rem_euclid(n))
    }

    fn at_month(&self, month: i64) -> Result<i64> {
        calendar::month_start(month)?.checked_add(self.shift).ok_or_else(calendar::out_of_range)
    }

    /// Calls `each` with the start of every window of `size` that holds `ts`, ascending.
    fn starts(&self, ts: i64, size: Span, mut each: impl FnMut(i64)) -> Result<()> {
        match (self.step, size) {
            (Span::Micros(slide), Span::Micros(size)) => {
                let last = self.start(ts)?;
                // The window k slides before the last holds ts when last - k * slide + size > ts.
                let behind = size.saturating_sub(ts - last).saturating_sub(1);
                let k = behind.div_euclid(slide);
                if k >= 0 {
                    last.checked_sub(k * slide).ok_or_else(calendar::out_of_range)?;
                }
                (0..=k).rev().for_each(|k| each(last - k * slide));
            }
            (Span::Months(slide), Span::Months(size)) => {
                let month = Civil::from_micros(ts.checked_sub(self.shift).ok_or_else(calendar::out_of_range)?).months();
                let last = self.aligned_month(ts, slide)?;
                let k = (size - (month - last) - 1).div_euclid(slide);
                for k in (0..=k).rev() {
                    each(self.at_month(last - k * slide)?);
                }
            }
            _ => return Err(mixed("slide")),
        }
        Ok(())
    }
}

fn mixed(step: &str) -> Error {
    Error::invalid(format!("window {step} and size must both be in months, or both of fixed length"))
}

/// `name`: of the step, in errors.
fn check_windows_per_row(step: Span, size: Span, name: &str) -> Result<()> {
    if matches!((step, size), (Span::Micros(_), Span::Months(_)) | (Span::Months(_), Span::Micros(_))) {
        return Err(mixed(name));
    }
    let count = ratio(size, step);
    if count > MAX_WINDOWS_PER_ROW {
        return Err(Error::invalid(format!("each row would fall into {count} windows"))
            .with_hint(format!("Make the {name} longer: at most {MAX_WINDOWS_PER_ROW} windows may overlap.")));
    }
    Ok(())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Which {
    TumbleStart,
    TumbleEnd,
    HopStarts,
    CumulateEnds,
    WindowEnd,
    PaneStart,
}

impl Which {
    fn name(self) -> &'static str {
        match self {
            Which::TumbleStart => TUMBLE_START,
            Which::TumbleEnd => TUMBLE_END,
            Which::HopStarts => HOP_STARTS,
            Which::CumulateEnds => CUMULATE_ENDS,
            Which::WindowEnd => WINDOW_END,
            Which::PaneStart => PANE_START,
        }
    }

    /// How many arguments: fewest and most.
    fn arity(self) -> (usize, usize) {
        match self {
            Which::TumbleStart | Which::TumbleEnd => (2, 3),
            Which::HopStarts | Which::CumulateEnds | Which::PaneStart => (3, 4),
            Which::WindowEnd => (2, 2),
        }
    }

    /// It gives several windows a row, as a list.
    fn is_list(self) -> bool {
        matches!(self, Which::HopStarts | Which::CumulateEnds)
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct WindowFunction {
    which: Which,
    signature: Signature,
}

impl WindowFunction {
    fn new(which: Which) -> Self {
        Self { which, signature: Signature::user_defined(Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for WindowFunction {
    fn name(&self) -> &str {
        self.which.name()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> DfResult<Vec<DataType>> {
        let (fewest, most) = self.which.arity();
        let time = match types.first() {
            Some(DataType::Timestamp(_, zone)) => DataType::Timestamp(TimeUnit::Microsecond, zone.clone()),
            Some(t) if matches!(t, DataType::Date32 | DataType::Date64 | DataType::Null) || t.is_string() => {
                DataType::Timestamp(TimeUnit::Microsecond, None)
            }
            _ => return Err(no_such_function(self.name(), types).into()),
        };
        let interval =
            |t: &DataType| matches!(t, DataType::Interval(_) | DataType::Duration(_) | DataType::Null) || t.is_string();
        if types.len() < fewest || types.len() > most || !types[1..].iter().all(interval) {
            return Err(no_such_function(self.name(), types).into());
        }
        let intervals = types[1..].iter().map(|_| DataType::Interval(IntervalUnit::MonthDayNano));
        Ok(std::iter::once(time).chain(intervals).collect())
    }

    fn return_type(&self, types: &[DataType]) -> DfResult<DataType> {
        let time = types.first().ok_or_else(|| no_such_function(self.name(), types))?.clone();
        Ok(match self.which {
            which if which.is_list() => DataType::List(Arc::new(Field::new("item", time, true))),
            _ => time,
        })
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> DfResult<FieldRef> {
        let types: Vec<DataType> = args.arg_fields.iter().map(|f| f.data_type().clone()).collect();
        let nullable = args.arg_fields.iter().any(|f| f.is_nullable());
        Ok(Arc::new(Field::new(self.name(), self.return_type(&types)?, nullable)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let once = args.args.iter().all(|a| matches!(a, ColumnarValue::Scalar(_)));
        let times = args.args[0].to_array(if once { 1 } else { args.number_rows })?;
        let spans = Spans::new(&args.args[1..], times.len())?;
        let array = self.evaluate(times.as_primitive(), &spans)?;
        if once {
            Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&array, 0)?))
        } else {
            Ok(ColumnarValue::Array(array))
        }
    }

    /// A later moment never falls into an earlier window.
    fn output_ordering(&self, inputs: &[ExprProperties]) -> DfResult<SortProperties> {
        let constant_spans = inputs.iter().skip(1).all(|p| p.sort_properties == SortProperties::Singleton);
        match inputs.first() {
            Some(time) if constant_spans && !self.which.is_list() => Ok(time.sort_properties),
            _ => Ok(SortProperties::Unordered),
        }
    }
}

/// The interval arguments of a batch.
enum Spans {
    /// `None`: one of them is NULL.
    Constant(Option<Vec<IntervalMonthDayNano>>),
    Columns(Vec<PrimitiveArray<IntervalMonthDayNanoType>>),
}

impl Spans {
    fn new(args: &[ColumnarValue], rows: usize) -> Result<Self> {
        if args.iter().all(|a| matches!(a, ColumnarValue::Scalar(_))) {
            let constants = args.iter().map(|arg| match arg {
                ColumnarValue::Scalar(ScalarValue::IntervalMonthDayNano(value)) => Ok(*value),
                other => Err(Error::internal(format!("{} is no interval", other.data_type()))),
            });
            let constants: Vec<Option<IntervalMonthDayNano>> = constants.collect::<Result<_>>()?;
            return Ok(Spans::Constant(constants.into_iter().collect()));
        }
        let columns = args.iter().map(|arg| Ok(arg.to_array(rows)?.as_primitive().clone()));
        Ok(Spans::Columns(columns.collect::<Result<_>>()?))
    }

    fn row(&self, row: usize) -> Option<Vec<IntervalMonthDayNano>> {
        match self {
            Spans::Constant(spans) => spans.clone(),
            Spans::Columns(columns) => columns.iter().map(|c| c.is_valid(row).then(|| c.value(row))).collect(),
        }
    }
}

impl WindowFunction {
    fn evaluate(&self, times: &TimestampMicrosecondArray, spans: &Spans) -> Result<ArrayRef> {
        if self.which.is_list() {
            return self.lists(times, spans);
        }
        let out: TimestampMicrosecondArray = match spans {
            Spans::Constant(None) => TimestampMicrosecondArray::new_null(times.len()),
            Spans::Constant(Some(spans)) => {
                let window = Window::new(self.which, spans)?;
                times.try_unary::<_, TimestampMicrosecondType, Error>(|ts| window.apply(ts))?
            }
            Spans::Columns(_) => (0..times.len())
                .map(|row| match spans.row(row) {
                    Some(spans) if times.is_valid(row) => {
                        Window::new(self.which, &spans)?.apply(times.value(row)).map(Some)
                    }
                    _ => Ok(None),
                })
                .collect::<Result<_>>()?,
        };
        Ok(Arc::new(out.with_data_type(times.data_type().clone())))
    }

    fn lists(&self, times: &TimestampMicrosecondArray, spans: &Spans) -> Result<ArrayRef> {
        let constant = match spans {
            Spans::Constant(Some(spans)) => Some(Windows::new(self.which, spans)?),
            _ => None,
        };
        let mut bounds: Vec<i64> = Vec::with_capacity(times.len());
        let mut lengths = Vec::with_capacity(times.len());
        let mut valid = Vec::with_capacity(times.len());
        for row in 0..times.len() {
            let of_row = match (constant, spans) {
                (None, Spans::Columns(_)) => spans.row(row).map(|s| Windows::new(self.which, &s)).transpose()?,
                (constant, _) => constant,
            };
            let before = bounds.len();
            let held = match of_row {
                Some(windows) if times.is_valid(row) => {
                    windows.of(times.value(row), |bound| bounds.push(bound))?;
                    true
                }
                _ => false,
            };
            valid.push(held);
            lengths.push(bounds.len() - before);
        }
        let item = Arc::new(Field::new("item", times.data_type().clone(), true));
        let bounds = TimestampMicrosecondArray::from(bounds).with_data_type(times.data_type().clone());
        let nulls = NullBuffer::from(valid);
        Ok(Arc::new(ListArray::try_new(item, OffsetBuffer::from_lengths(lengths), Arc::new(bounds), Some(nulls))?))
    }
}

/// Of a function that gives several windows a row.
#[derive(Clone, Copy)]
enum Windows {
    HopStarts { grid: Grid, size: Span },
    CumulateEnds { grid: Grid, step: Span, size: Span },
}

impl Windows {
    fn new(which: Which, spans: &[IntervalMonthDayNano]) -> Result<Self> {
        let (name, offset) = (if which == Which::HopStarts { "slide" } else { "step" }, spans.get(2).copied());
        let (step, size) = (Span::positive(spans[0], name)?, Span::positive(spans[1], "size")?);
        check_windows_per_row(step, size, name)?;
        match which {
            Which::HopStarts => Ok(Windows::HopStarts { grid: Grid::new(step, offset)?, size }),
            _ if is_multiple(size, step) => Ok(Windows::CumulateEnds { grid: Grid::new(size, offset)?, step, size }),
            _ => Err(Error::invalid("the size of a CUMULATE window must be a multiple of its step")),
        }
    }

    /// Calls `each` with what the function gives for `ts`, ascending.
    fn of(&self, ts: i64, mut each: impl FnMut(i64)) -> Result<()> {
        match *self {
            Windows::HopStarts { grid, size } => grid.starts(ts, size, each),
            Windows::CumulateEnds { grid, step, size } => {
                let mut end = grid.start(ts)?;
                let last = grid.end(ts)?;
                for _ in 0..ratio(size, step) {
                    end = step.after(end)?;
                    if end > ts {
                        each(end.min(last));
                    }
                }
                Ok(())
            }
        }
    }
}

/// The windows of HOP_STARTS and CUMULATE_ENDS that aggregate in panes, from their arguments behind the time. `None`: they are of
/// months, or do not overlap.
pub fn paned(shape: Shape, spans: &[IntervalMonthDayNano]) -> Option<plan::Windows> {
    let micros = |interval: &IntervalMonthDayNano| match Span::new(*interval, "size") {
        Ok(Span::Micros(micros)) => Some(micros),
        _ => None,
    };
    let offset = spans.get(2).map_or(Some(0), micros)?;
    plan::Windows::new(shape, micros(spans.first()?)?, micros(spans.get(1)?)?, offset)
}

/// How often the shorter span goes into the longer one, both of one kind.
fn ratio(size: Span, step: Span) -> i64 {
    match (size, step) {
        (Span::Micros(size), Span::Micros(step)) | (Span::Months(size), Span::Months(step)) => size / step,
        _ => 0,
    }
}

fn is_multiple(size: Span, step: Span) -> bool {
    match (size, step) {
        (Span::Micros(size), Span::Micros(step)) | (Span::Months(size), Span::Months(step)) => size % step == 0,
        _ => false,
    }
}

/// What one call computes, its constants made ready.
enum Window {
    Start(Grid),
    End(Grid),
    Plus(Span),
    Pane(plan::Windows),
}

impl Window {
    fn new(which: Which, spans: &[IntervalMonthDayNano]) -> Result<Self> {
        if which == Which::PaneStart {
            let paned = paned(Shape::Hop, spans).ok_or_else(|| Error::internal("these windows have no panes"))?;
            return Ok(Window::Pane(paned));
        }
        let size = Span::positive(spans[0], "size")?;
        Ok(match which {
            Which::TumbleStart => Window::Start(Grid::new(size, spans.get(1).copied())?),
            Which::TumbleEnd => Window::End(Grid::new(size, spans.get(1).copied())?),
            Which::WindowEnd => Window::Plus(size),
            Which::HopStarts | Which::CumulateEnds | Which::PaneStart => {
                return Err(Error::internal("it yields no edge of one window"));
            }
        })
    }

    #[inline]
    fn apply(&self, ts: i64) -> Result<i64> {
        match self {
            Window::Start(grid) => grid.start(ts),
            Window::End(grid) => grid.end(ts),
            Window::Plus(size) => size.after(ts),
            Window::Pane(windows) => windows.pane(ts).ok_or_else(calendar::out_of_range),
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::super::input::parse_timestamp;
    use super::super::output::timestamp;
    use super::*;

    fn span(months: i32, micros: i64) -> IntervalMonthDayNano {
        IntervalMonthDayNano::new(months, 0, micros * 1000)
    }

    fn times(values: &[Option<i64>]) -> TimestampMicrosecondArray {
        TimestampMicrosecondArray::from(values.to_vec())
    }

    fn evaluate(which: Which, ts: &[Option<i64>], spans: &[IntervalMonthDayNano]) -> Result<ArrayRef> {
        WindowFunction::new(which).evaluate(&times(ts), &Spans::Constant(Some(spans.to_vec())))
    }

    fn one(which: Which, ts: &str, spans: &[IntervalMonthDayNano]) -> String {
        let array = evaluate(which, &[Some(parse_timestamp(ts).unwrap())], spans).unwrap();
        timestamp(array.as_primitive::<TimestampMicrosecondType>().value(0))
    }

    fn hops(ts: i64, spans: &[IntervalMonthDayNano]) -> Vec<i64> {
        let array = evaluate(Which::HopStarts, &[Some(ts)], spans).unwrap();
        array.as_list::<i32>().value(0).as_primitive::<TimestampMicrosecondType>().values().to_vec()
    }

    #[test]
    fn windows_are_aligned_to_the_epoch_also_before_it() {
        let hour = [span(0, calendar::HOUR)];
        assert_eq!(one(Which::TumbleStart, "2024-02-29 13:59:59", &hour), "2024-02-29 13:00:00");
        assert_eq!(one(Which::TumbleStart, "1969-12-31 23:30:00", &hour), "1969-12-31 23:00:00");
        assert_eq!(one(Which::TumbleEnd, "1969-12-31 23:30:00", &hour), "1970-01-01 00:00:00");
        let shifted = [span(0, calendar::HOUR), span(0, 15 * calendar::MINUTE)];
        assert_eq!(one(Which::TumbleStart, "2024-02-29 13:10:00", &shifted), "2024-02-29 12:15:00");
        assert_eq!(one(Which::TumbleEnd, "2024-02-29 13:10:00", &shifted), "2024-02-29 13:15:00");
    }

    #[test]
    fn months_follow_the_calendar() {
        assert_eq!(one(Which::TumbleStart, "2024-02-29 13:00:00", &[span(1, 0)]), "2024-02-01 00:00:00");
        assert_eq!(one(Which::TumbleEnd, "2024-02-29 13:00:00", &[span(1, 0)]), "2024-03-01 00:00:00");
        assert_eq!(one(Which::TumbleStart, "1969-05-05 00:00:00", &[span(12, 0)]), "1969-01-01 00:00:00");
        assert_eq!(one(Which::TumbleStart, "2024-02-29 00:00:00", &[span(12, 0), span(3, 0)]), "2023-04-01 00:00:00");
        let fifth = [span(1, 0), span(0, 4 * DAY)];
        assert_eq!(one(Which::TumbleStart, "2024-03-02 00:00:00", &fifth), "2024-02-05 00:00:00");
        assert_eq!(one(Which::TumbleEnd, "2024-03-02 00:00:00", &fifth), "2024-03-05 00:00:00");
        assert_eq!(one(Which::WindowEnd, "2024-02-01 00:00:00", &[span(3, 0)]), "2024-05-01 00:00:00");
        let may = parse_timestamp("2024-05-15").unwrap();
        let starts: Vec<String> = hops(may, &[span(1, 0), span(3, 0)]).into_iter().map(timestamp).collect();
        assert_eq!(starts, ["2024-03-01 00:00:00", "2024-04-01 00:00:00", "2024-05-01 00:00:00"]);
    }

    /// Against the definition: every s with s <= ts < s + size and s = offset modulo slide.
    #[test]
    fn hops_are_all_windows_that_hold_the_moment() {
        for (slide, size, offset) in [(5i64, 10i64, 0i64), (5, 12, 2), (7, 3, 1), (3, 3, -4), (4, 30, 9)] {
            for ts in -50i64..50 {
                let expected: Vec<i64> =
                    (-100..=ts).filter(|s| (s - offset).rem_euclid(slide) == 0 && ts < s + size).collect();
                assert_eq!(
                    hops(ts, &[span(0, slide), span(0, size), span(0, offset)]),
                    expected,
                    "{slide} {size} {offset} {ts}"
                );
            }
        }
    }

    /// Months against the calendar: windows lie side by side, hold their moment, and begin with a month.
    #[test]
    fn windows_of_months_lie_side_by_side() {
        let mut rng = StdRng::seed_from_u64(5);
        for _ in 0..2000 {
            let (months, shift) = (rng.random_range(1..30), rng.random_range(-20..20));
            let ts = rng.random_range(-60_000 * DAY..60_000 * DAY);
            let spans = [span(months, 0), span(shift, 0)];
            let at = |which, ts| {
                let array = evaluate(which, &[Some(ts)], &spans).unwrap();
                array.as_primitive::<TimestampMicrosecondType>().value(0)
            };
            let (start, end) = (at(Which::TumbleStart, ts), at(Which::TumbleEnd, ts));
            assert!(start <= ts && ts < end, "{months} {shift} {ts}");
            assert_eq!((at(Which::TumbleEnd, start - 1), at(Which::TumbleStart, end)), (start, end));
            assert!(timestamp(start).ends_with("-01 00:00:00"), "{}", timestamp(start));
            assert_eq!(end, calendar::add_interval(start, span(months, 0)).unwrap());
        }
    }

    /// Against the definition: every step's end behind the moment within the window that holds it.
    #[test]
    fn cumulating_windows_end_with_every_step() {
        for (step, size, offset) in [(5i64, 20i64, 0i64), (1, 7, 3), (6, 6, -1)] {
            for ts in -50i64..50 {
                let start = (ts - offset).div_euclid(size) * size + offset;
                let expected: Vec<i64> = (1..=size / step).map(|n| start + n * step).filter(|end| *end > ts).collect();
                let spans = [span(0, step), span(0, size), span(0, offset)];
                let array = evaluate(Which::CumulateEnds, &[Some(ts)], &spans).unwrap();
                let found = array.as_list::<i32>().value(0);
                assert_eq!(
                    found.as_primitive::<TimestampMicrosecondType>().values().to_vec(),
                    expected,
                    "{step} {size} {ts}"
                );
            }
        }
    }

    #[test]
    fn nulls_stay_and_types_too() {
        let array = times(&[Some(1), None]).with_timezone("UTC");
        let function = WindowFunction::new(Which::TumbleStart);
        let out = function.evaluate(&array, &Spans::Constant(Some(vec![span(0, 10)]))).unwrap();
        assert_eq!(out.data_type(), array.data_type());
        assert!(out.is_null(1) && out.is_valid(0));
        assert_eq!(function.evaluate(&array, &Spans::Constant(None)).unwrap().null_count(), 2);
        let sizes = PrimitiveArray::<IntervalMonthDayNanoType>::from(vec![None, Some(span(0, 10))]);
        assert_eq!(function.evaluate(&array, &Spans::Columns(vec![sizes])).unwrap().null_count(), 2);
        let lists = WindowFunction::new(Which::HopStarts)
            .evaluate(&array, &Spans::Constant(Some(vec![span(0, 5), span(0, 10)])))
            .unwrap();
        assert!(lists.is_null(1) && lists.as_list::<i32>().value(0).len() == 2);
    }

    #[test]
    fn what_is_no_window_is_refused() {
        for (which, spans, message) in [
            (Which::TumbleStart, vec![span(0, 0)], "window size must be greater than zero"),
            (Which::TumbleStart, vec![span(-1, 0)], "window size must be greater than zero"),
            (Which::HopStarts, vec![span(0, -5), span(0, 5)], "window slide must be greater than zero"),
            (Which::TumbleStart, vec![span(1, 5)], "window size mixes months with days or hours"),
            (
                Which::HopStarts,
                vec![span(0, 5), span(1, 0)],
                "window slide and size must both be in months, or both of fixed length",
            ),
            (Which::HopStarts, vec![span(0, 1), span(0, 20_000)], "each row would fall into 20000 windows"),
            (Which::TumbleStart, vec![span(0, 5), span(1, 0)], "window offset is in months but the windows are not"),
        ] {
            let error = evaluate(which, &[Some(0)], &spans).unwrap_err();
            assert_eq!((error.code(), error.message()), ("22023", message));
        }
        assert_eq!(evaluate(Which::TumbleStart, &[Some(i64::MIN)], &[span(0, 7)]).unwrap_err().code(), "22008");
    }
}
