//! `to_char`, `to_timestamp`, `to_date`, `to_number`: the functions over the patterns.

use datafusion::logical_expr::ScalarUDF;
use tidemark_common::{Error, Result, SqlState};

use super::calendar::{DAY, SECOND};
use super::casts::numeric_of_text;
use super::clock::Clock;
use super::declare::{Kind, Row, function};
use super::format_time::{self, Source};
use super::value::Value;
use super::{format_number, output, read_time};

use Kind::{Date, Float8, Interval, Numeric, Text, Timestamp, TimestampTz};

pub(super) fn functions() -> Vec<ScalarUDF> {
    let moment = |r: &Row<'_>, source: Source| Ok(format_time::print(&r.time_format(r.text(1))?, &source)?.into());
    vec![
        function("to_char")
            .on(&[Timestamp, Text], Text, move |r| moment(r, Source::timestamp(r.micros(0))))
            .on(&[TimestampTz, Text], Text, move |r| moment(r, Source::moment(r.micros(0), r.clock())?))
            .on(&[Date, Text], Text, move |r| {
                moment(r, Source::moment(r.clock().moment(i64::from(r.date(0)) * DAY)?, r.clock())?)
            })
            .on(&[Interval, Text], Text, |r| {
                let source = Source::Interval(r.interval(0));
                Ok(format_time::print(&r.time_format(r.text(1))?, &source)?.into())
            })
            .on(&[Numeric, Text], Text, |r| {
                let (digits, scale) = r.numeric(0);
                number(r.text(1), &output::numeric(digits, scale))
            })
            .on(&[Float8, Text], Text, |r| {
                // Rust prints a float in plain form, without exponent.
                if r.float(0).is_finite() {
                    number(r.text(1), &r.float(0).to_string())
                } else {
                    Ok(output::float8(r.float(0)).into())
                }
            })
            .udf(),
        function("to_timestamp")
            .on(&[Text, Text], TimestampTz, |r| {
                Ok(read_time::read(&r.time_format(r.text(1))?, r.text(0), r.clock())?.into())
            })
            .on(&[Float8], TimestampTz, |r| {
                let micros = (r.float(0) * SECOND as f64).round();
                if micros.abs() >= i64::MAX as f64 || micros.is_nan() {
                    let message = format!("timestamp out of range: \"{}\"", output::float8(r.float(0)));
                    return Err(Error::new(SqlState::DatetimeFieldOverflow, message));
                }
                Ok((micros as i64).into())
            })
            .udf(),
        function("to_date")
            .on(&[Text, Text], Date, |r| {
                Ok(read_time::read(&r.time_format(r.text(1))?, r.text(0), &Clock::UTC)?.div_euclid(DAY).into())
            })
            .on(&[Text], Date, |r| super::input::parse_date(r.text(0)).map(Value::from))
            .udf(),
        function("to_number")
            .on(&[Text, Text], Numeric, |r| {
                let text = format_number::read(&format_number::compile(r.text(1))?, r.text(0))?;
                Ok(Value::Numeric(numeric_of_text(&text, false)?, tidemark_common::types::NUMERIC_SCALE))
            })
            .udf(),
    ]
}

fn number(pattern: &str, text: &str) -> Result<Value> {
    Ok(format_number::print(&format_number::compile(pattern)?, text).into())
}
