//! `date_trunc(unit, x[, zone])`: the start of the unit that x lies in. Views group by it, so it runs a column at a time.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, IntervalMonthDayNanoArray, TimestampMicrosecondArray};
use datafusion::arrow::datatypes::{
    DataType, IntervalMonthDayNano, IntervalMonthDayNanoType, IntervalUnit, TimeUnit, TimestampMicrosecondType,
};
use datafusion::common::ScalarValue;
use datafusion::error::Result as DfResult;
use datafusion::logical_expr::sort_properties::{ExprProperties, SortProperties};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};
use tidemark_common::{Error, Result};

use super::calendar::{self, Civil, DAY, HOUR, MINUTE, SECOND};
use super::clock::Clock;
use super::datetime::interval;
use super::declare::no_such_function;

pub const DATE_TRUNC: &str = "date_trunc";

pub(super) fn functions() -> Vec<ScalarUDF> {
    let signature = Signature::user_defined(Volatility::Immutable);
    vec![ScalarUDF::new_from_impl(DateTrunc { signature, aliases: vec!["datetrunc".into()] })]
}

/// What is truncated to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    /// Of fixed length, in microseconds.
    Fixed(i64),
    Week,
    Months(i64),
    Decade,
    /// Centuries and millennia begin with year 1.
    Years(i64),
}

impl Unit {
    fn parse(name: &str, sql_type: &str) -> Result<Self> {
        let lower = name.to_ascii_lowercase();
        Ok(match lower.strip_suffix('s').unwrap_or(&lower) {
            "microsecond" => Unit::Fixed(1),
            "millisecond" => Unit::Fixed(1000),
            "second" => Unit::Fixed(SECOND),
            "minute" => Unit::Fixed(MINUTE),
            "hour" => Unit::Fixed(HOUR),
            "day" => Unit::Fixed(DAY),
            "week" => Unit::Week,
            "month" => Unit::Months(1),
            "quarter" => Unit::Months(3),
            "year" => Unit::Months(12),
            "decade" => Unit::Decade,
            "century" | "centurie" => Unit::Years(100),
            "millennium" | "millennia" => Unit::Years(1000),
            _ => return Err(Error::invalid(format!("unit \"{name}\" not recognized for type {sql_type}"))),
        })
    }

    /// Shorter than a day: no matter for the calendar.
    fn is_of_clock(self) -> bool {
        matches!(self, Unit::Fixed(length) if length < DAY)
    }

    /// The start of the unit that a clock shows.
    #[inline]
    fn moment_of_start(self, micros: i64, clock: &Clock) -> Result<i64> {
        let offset = clock.offset(micros)?;
        let start = self.start(micros.checked_add(offset).ok_or_else(calendar::out_of_range)?)?;
        // Within a day the clock may be put back, and which hour it is must stay.
        if self.is_of_clock() { Ok(start - offset) } else { clock.moment(start) }
    }

    #[inline]
    fn start(self, micros: i64) -> Result<i64> {
        let first_of = |year: i64| Civil { year, month: 1, day: 1, micros: 0 }.to_micros();
        match self {
            Unit::Fixed(step) => micros.checked_sub(micros.rem_euclid(step)).ok_or_else(calendar::out_of_range),
            Unit::Week => {
                let days = micros.div_euclid(DAY);
                // 1970-01-01 was a Thursday.
                (days - (days + 3).rem_euclid(7)).checked_mul(DAY).ok_or_else(calendar::out_of_range)
            }
            Unit::Months(n) => {
                let month = Civil::from_micros(micros).months();
                calendar::month_start(month - month.rem_euclid(n))
            }
            Unit::Decade => first_of(Civil::from_micros(micros).year.div_euclid(10) * 10),
            Unit::Years(n) => first_of((Civil::from_micros(micros).year - 1).div_euclid(n) * n + 1),
        }
    }

    fn of_interval(self, value: IntervalMonthDayNano) -> Result<IntervalMonthDayNano> {
        let (months, days, micros) = (i64::from(value.months), i64::from(value.days), value.nanoseconds / 1000);
        let whole = |unit: i64| interval(months / unit * unit, 0, 0);
        match self {
            Unit::Fixed(DAY) => interval(months, days, 0),
            Unit::Fixed(step) => interval(months, days, micros / step * step),
            Unit::Week => Err(Error::unsupported("unit \"week\" not supported for type interval")
                .with_detail("Months usually have fractional weeks.")),
            Unit::Months(n) => whole(n),
            Unit::Decade => whole(120),
            Unit::Years(n) => whole(n * 12),
        }
    }
}

/// Whose days, months and years.
enum Zone {
    All(Clock),
    Each(ArrayRef),
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct DateTrunc {
    signature: Signature,
    aliases: Vec<String>,
}

impl ScalarUDFImpl for DateTrunc {
    fn name(&self) -> &str {
        DATE_TRUNC
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> DfResult<Vec<DataType>> {
        let (unit, value, zone) = match types {
            [unit, value] => (unit, value, None),
            [unit, value, zone] => (unit, value, Some(zone)),
            _ => return Err(no_such_function(DATE_TRUNC, types).into()),
        };
        let utc = || DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        let value = match value {
            DataType::Timestamp(..) if zone.is_some() => utc(),
            DataType::Timestamp(_, zone) => DataType::Timestamp(TimeUnit::Microsecond, zone.clone()),
            // As in Postgres, where a date or a bare literal becomes a timestamptz.
            DataType::Date32 | DataType::Date64 | DataType::Null => utc(),
            text if text.is_string() => utc(),
            DataType::Interval(_) | DataType::Duration(_) if zone.is_none() => {
                DataType::Interval(IntervalUnit::MonthDayNano)
            }
            _ => return Err(no_such_function(DATE_TRUNC, types).into()),
        };
        if ![Some(unit), zone].into_iter().flatten().all(|t| t.is_string() || t.is_null()) {
            return Err(no_such_function(DATE_TRUNC, types).into());
        }
        let mut coerced = vec![DataType::Utf8, value];
        coerced.extend(zone.map(|_| DataType::Utf8));
        Ok(coerced)
    }

    fn return_type(&self, types: &[DataType]) -> DfResult<DataType> {
        types.get(1).cloned().ok_or_else(|| no_such_function(DATE_TRUNC, types).into())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let once = args.args.iter().all(|a| matches!(a, ColumnarValue::Scalar(_)));
        let rows = if once { 1 } else { args.number_rows };
        let values = args.args[1].to_array(rows)?;
        let zone = match args.args.get(2) {
            None => Zone::All(Clock::of(&args.config_options)?),
            Some(ColumnarValue::Scalar(ScalarValue::Utf8(Some(zone)))) => Zone::All(Clock::named(zone)?),
            Some(zones) => Zone::Each(zones.to_array(rows)?),
        };
        let array = match (&args.args[0], &zone) {
            (ColumnarValue::Scalar(ScalarValue::Utf8(Some(unit))), Zone::All(clock)) => {
                truncate_all(unit, &values, clock)?
            }
            (units, zone) => truncate_each(&units.to_array(rows)?, &values, zone)?,
        };
        if once {
            Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&array, 0)?))
        } else {
            Ok(ColumnarValue::Array(array))
        }
    }

    /// A later moment never has an earlier start.
    fn output_ordering(&self, inputs: &[ExprProperties]) -> DfResult<SortProperties> {
        Ok(match inputs {
            [unit, value] if unit.sort_properties == SortProperties::Singleton => value.sort_properties,
            _ => SortProperties::Unordered,
        })
    }
}

fn type_name(array: &ArrayRef) -> String {
    tidemark_common::types::SqlType::from_data_type(array.data_type()).to_string()
}

fn truncate_all(unit: &str, values: &ArrayRef, clock: &Clock) -> Result<ArrayRef> {
    let unit = Unit::parse(unit, &type_name(values))?;
    if let Some(intervals) = values.as_primitive_opt::<IntervalMonthDayNanoType>() {
        let out: IntervalMonthDayNanoArray = intervals.try_unary(|v| unit.of_interval(v))?;
        return Ok(Arc::new(out));
    }
    let times = values.as_primitive::<TimestampMicrosecondType>();
    let zoned = matches!(values.data_type(), DataType::Timestamp(_, Some(_))) && !clock.is_utc();
    let out: TimestampMicrosecondArray = if zoned {
        times.try_unary(|ts| unit.moment_of_start(ts, clock))?
    } else {
        times.try_unary(|ts| unit.start(ts))?
    };
    Ok(Arc::new(out.with_data_type(values.data_type().clone())))
}

/// The rare case of a unit or a zone that is a column: each row by itself.
fn truncate_each(units: &ArrayRef, values: &ArrayRef, zone: &Zone) -> Result<ArrayRef> {
    let units = units.as_string::<i32>();
    let rows = (0..values.len()).map(|row| {
        let null = || datafusion::arrow::array::new_null_array(values.data_type(), 1);
        if units.is_null(row) {
            return Ok(null());
        }
        match zone {
            Zone::All(clock) => truncate_all(units.value(row), &values.slice(row, 1), clock),
            Zone::Each(zones) if zones.is_null(row) => Ok(null()),
            Zone::Each(zones) => {
                let clock = Clock::named(zones.as_string::<i32>().value(row))?;
                truncate_all(units.value(row), &values.slice(row, 1), &clock)
            }
        }
    });
    let rows = rows.collect::<Result<Vec<_>>>()?;
    if rows.is_empty() {
        return Ok(datafusion::arrow::array::new_empty_array(values.data_type()));
    }
    let rows: Vec<&dyn Array> = rows.iter().map(AsRef::as_ref).collect();
    Ok(datafusion::arrow::compute::concat(&rows)?)
}
