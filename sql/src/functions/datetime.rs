//! Date and time: differences, construction, bins.

use datafusion::arrow::datatypes::IntervalMonthDayNano;
use datafusion::logical_expr::ScalarUDF;
use tidemark_common::{Error, Result, SqlState};

use super::calendar::{self, Civil, DAY, HOUR, MINUTE, SECOND, add_interval, checked_days, days_in_month};
use super::declare::{Kind, Row, function};
use super::value::Value;

use Kind::{Date, Float8, Int4, Int8, Interval, Time, Timestamp, TimestampTz};

pub const TIMESTAMP_DIFF: &str = "tidemark_timestamp_diff";
pub const DATE_DIFF: &str = "tidemark_date_diff";
pub const DATE_ADD: &str = "tidemark_date_add";
pub const TIME_ADD: &str = "tidemark_time_add";
pub const TIME_DIFF: &str = "tidemark_time_diff";
pub const INTERVAL_MULTIPLY: &str = "tidemark_interval_multiply";

pub(super) fn functions() -> Vec<ScalarUDF> {
    let mut all = arithmetic();
    all.extend(construction());
    all.extend(bins());
    all
}

/// What the operators on dates, times and intervals become.
fn arithmetic() -> Vec<ScalarUDF> {
    let diff = |r: &Row<'_>| Ok(span_of_micros(checked_sub(r.micros(0), r.micros(1))?)?.into());
    let between = |r: &Row<'_>| Ok(age(r.micros(0), r.micros(1))?.into());
    let shown = |r: &Row<'_>| Ok(age(r.clock().local(r.micros(0))?, r.clock().local(r.micros(1))?)?.into());
    vec![
        function(TIMESTAMP_DIFF)
            .on(&[Timestamp, Timestamp], Interval, diff)
            .on(&[TimestampTz, TimestampTz], Interval, diff)
            .udf(),
        function(DATE_DIFF)
            .on(&[Date, Date], Int4, |r| Ok(Value::Int(i64::from(r.date(0)) - i64::from(r.date(1)))))
            .udf(),
        function(DATE_ADD)
            .on(&[Date, Int8], Date, |r| {
                i64::from(r.date(0)).checked_add(r.int(1)).map(Value::Int).ok_or_else(calendar::out_of_range)
            })
            .on(&[Date, Interval], Timestamp, |r| Ok(add_interval(date_micros(r, 0)?, r.interval(1))?.into()))
            .on(&[Date, Time], Timestamp, |r| Ok(checked_add(date_micros(r, 0)?, r.micros(1))?.into()))
            .udf(),
        function(TIME_ADD)
            .on(&[Time, Interval], Time, |r| {
                Ok(checked_add(r.micros(0), r.interval(1).nanoseconds / 1000)?.rem_euclid(DAY).into())
            })
            .udf(),
        function(TIME_DIFF)
            .on(&[Time, Time], Interval, |r| {
                Ok(IntervalMonthDayNano::new(0, 0, (r.micros(0) - r.micros(1)) * 1000).into())
            })
            .udf(),
        function(INTERVAL_MULTIPLY)
            .on(&[Interval, Float8], Interval, |r| Ok(multiply(r.interval(0), r.float(1))?.into()))
            .udf(),
        function("age")
            .on(&[Timestamp, Timestamp], Interval, between)
            .on(&[TimestampTz, TimestampTz], Interval, shown)
            .udf(),
        function("justify_days")
            .on(&[Interval], Interval, |r| justify(r.interval(0), false, true).map(Value::from))
            .udf(),
        function("justify_hours")
            .on(&[Interval], Interval, |r| justify(r.interval(0), true, false).map(Value::from))
            .udf(),
        function("justify_interval")
            .on(&[Interval], Interval, |r| justify(r.interval(0), true, true).map(Value::from))
            .udf(),
        function("isfinite")
            .on(&[Date], Kind::Bool, |_| Ok(true.into()))
            .on(&[Timestamp], Kind::Bool, |_| Ok(true.into()))
            .on(&[TimestampTz], Kind::Bool, |_| Ok(true.into()))
            .on(&[Interval], Kind::Bool, |_| Ok(true.into()))
            .udf(),
    ]
}

fn checked_sub(a: i64, b: i64) -> Result<i64> {
    a.checked_sub(b).ok_or_else(calendar::out_of_range)
}

fn checked_add(a: i64, b: i64) -> Result<i64> {
    a.checked_add(b).ok_or_else(calendar::out_of_range)
}

fn date_micros(row: &Row<'_>, i: usize) -> Result<i64> {
    i64::from(row.date(i)).checked_mul(DAY).ok_or_else(calendar::out_of_range)
}

fn interval_out_of_range() -> Error {
    Error::new(SqlState::DatetimeFieldOverflow, "interval out of range")
}

pub(super) fn interval(months: i64, days: i64, micros: i64) -> Result<IntervalMonthDayNano> {
    let narrow = |n: i64| i32::try_from(n).map_err(|_| interval_out_of_range());
    let nanos = micros.checked_mul(1000).ok_or_else(interval_out_of_range)?;
    Ok(IntervalMonthDayNano::new(narrow(months)?, narrow(days)?, nanos))
}

/// Whole days apart from the rest, as `timestamp - timestamp` gives them.
fn span_of_micros(micros: i64) -> Result<IntervalMonthDayNano> {
    interval(0, micros / DAY, micros % DAY)
}

/// Years, months and days by the calendar.
fn age(later: i64, earlier: i64) -> Result<IntervalMonthDayNano> {
    if later < earlier {
        let positive = age(earlier, later)?;
        return interval(-i64::from(positive.months), -i64::from(positive.days), -positive.nanoseconds / 1000);
    }
    let (a, b) = (Civil::from_micros(later), Civil::from_micros(earlier));
    let mut micros = a.micros - b.micros;
    let mut days = a.day - b.day;
    let mut months = (a.year - b.year) * 12 + a.month - b.month;
    if micros < 0 {
        micros += DAY;
        days -= 1;
    }
    if days < 0 {
        // Borrowed from the month of the earlier moment.
        days += days_in_month(b.year, b.month);
        months -= 1;
    }
    interval(months, days, micros)
}

/// A product's fractions of months go to days (30 a month), those of days to time.
fn multiply(value: IntervalMonthDayNano, factor: f64) -> Result<IntervalMonthDayNano> {
    let months = f64::from(value.months) * factor;
    let days = f64::from(value.days) * factor + (months - months.trunc()) * 30.0;
    // Six digits, or binary fractions would show up as microseconds.
    let days = (days * 1e6).round() / 1e6;
    let micros = (value.nanoseconds / 1000) as f64 * factor + (days - days.trunc()) * DAY as f64;
    let (months, days, micros) = (months.trunc(), days.trunc(), micros.round());
    if !(months.is_finite() && days.is_finite() && micros.abs() < i64::MAX as f64) {
        return Err(interval_out_of_range());
    }
    interval(months as i64, days as i64, micros as i64)
}

/// Hours over 24 to days, days over 30 to months, signs made alike.
fn justify(value: IntervalMonthDayNano, hours: bool, days: bool) -> Result<IntervalMonthDayNano> {
    let (mut month, mut day, mut micros) = (i64::from(value.months), i64::from(value.days), value.nanoseconds / 1000);
    if hours {
        day += micros / DAY;
        micros %= DAY;
    }
    if days {
        month += day / 30;
        day %= 30;
        if month > 0 && (day < 0 || (day == 0 && micros < 0 && hours)) {
            day += 30;
            month -= 1;
        } else if month < 0 && (day > 0 || (day == 0 && micros > 0 && hours)) {
            day -= 30;
            month += 1;
        }
    }
    if hours {
        if day > 0 && micros < 0 {
            micros += DAY;
            day -= 1;
        } else if day < 0 && micros > 0 {
            micros -= DAY;
            day += 1;
        }
    }
    interval(month, day, micros)
}

fn construction() -> Vec<ScalarUDF> {
    let timestamp = |r: &Row<'_>| {
        let days = checked_days(r.int(0), r.int(1), r.int(2))?;
        checked_add(days * DAY, time_of(r.int(3), r.int(4), r.float(5))?)
    };
    let parts = [Int4, Int4, Int4, Int4, Int4, Float8];
    let mut make_interval = function("make_interval").on(&[], Interval, |_| Ok(IntervalMonthDayNano::ZERO.into()));
    for count in 1..=7 {
        let kinds = [Int4, Int4, Int4, Int4, Int4, Int4, Float8];
        make_interval = make_interval.on(&kinds[..count], Interval, |r| {
            let n = |i: usize| if i < r.len() { r.int(i) } else { 0 };
            let seconds = if r.len() > 6 { r.float(6) } else { 0.0 };
            let micros = n(4) * HOUR + n(5) * MINUTE + (seconds * SECOND as f64).round() as i64;
            Ok(interval(n(0) * 12 + n(1), n(2) * 7 + n(3), micros)?.into())
        });
    }
    vec![
        function("make_date")
            .on(&[Int4, Int4, Int4], Date, |r| Ok(checked_days(r.int(0), r.int(1), r.int(2))?.into()))
            .udf(),
        function("make_time")
            .on(&[Int4, Int4, Float8], Time, |r| Ok(time_of(r.int(0), r.int(1), r.float(2))?.into()))
            .udf(),
        function("make_timestamp").on(&parts, Timestamp, move |r| timestamp(r).map(Value::from)).udf(),
        function("make_timestamptz")
            .on(&parts, TimestampTz, move |r| r.clock().moment(timestamp(r)?).map(Value::from))
            .on(&[Int4, Int4, Int4, Int4, Int4, Float8, Kind::Text], TimestampTz, move |r| {
                super::input::at_zone(r.text(6), timestamp(r)?).map(Value::from)
            })
            .udf(),
        make_interval.udf(),
    ]
}

fn time_of(hour: i64, minute: i64, second: f64) -> Result<i64> {
    let micros = (second * SECOND as f64).round();
    let valid = (0..=24).contains(&hour) && (0..60).contains(&minute) && (0.0..=60.0).contains(&second);
    let total = hour * HOUR + minute * MINUTE + if valid { micros as i64 } else { 0 };
    if !valid || total > DAY {
        let message = format!("time field value out of range: {hour}:{minute:02}:{second:02}");
        return Err(Error::new(SqlState::DatetimeFieldOverflow, message));
    }
    Ok(total)
}

fn bins() -> Vec<ScalarUDF> {
    let from_origin = |r: &Row<'_>| Ok(bin(r.interval(0), r.micros(1), r.micros(2))?.into());
    let from_epoch = |r: &Row<'_>| Ok(bin(r.interval(0), r.micros(1), 0)?.into());
    vec![
        function("date_bin")
            .on(&[Interval, Timestamp, Timestamp], Timestamp, from_origin)
            .on(&[Interval, TimestampTz, TimestampTz], TimestampTz, from_origin)
            .on(&[Interval, Timestamp], Timestamp, from_epoch)
            .on(&[Interval, TimestampTz], TimestampTz, from_epoch)
            .udf(),
    ]
}

fn bin(stride: IntervalMonthDayNano, ts: i64, origin: i64) -> Result<i64> {
    if stride.months != 0 {
        return Err(Error::unsupported("timestamps cannot be binned into intervals containing months or years")
            .with_hint("Use date_trunc for months and years."));
    }
    let stride = i64::from(stride.days) * DAY + stride.nanoseconds / 1000;
    if stride <= 0 {
        return Err(Error::new(SqlState::DatetimeFieldOverflow, "stride must be greater than zero"));
    }
    let since = checked_sub(ts, origin)?;
    checked_add(origin, since.div_euclid(stride) * stride)
}
