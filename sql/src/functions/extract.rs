//! `EXTRACT(part FROM x)`, exact, and `date_part('part', x)`, in double precision.

use datafusion::arrow::datatypes::IntervalMonthDayNano;
use datafusion::logical_expr::ScalarUDF;
use tidemark_common::{Error, Result};

use super::calendar::{Civil, DAY, HOUR, MINUTE, SECOND};
use super::clock::Clock;
use super::declare::{Kind, Row, function};
use super::value::Value;

pub const EXTRACT: &str = "tidemark_extract";

pub(super) fn functions() -> Vec<ScalarUDF> {
    let mut exact = function(EXTRACT);
    let mut float = function("date_part").alias("datepart");
    for kind in [Kind::Timestamp, Kind::TimestampTz, Kind::Date, Kind::Time, Kind::Interval] {
        exact = exact.on(&[Kind::Text, kind], Kind::Numeric, move |r| Ok(Value::Numeric(part(r, kind)?, 6)));
        float = float.on(&[Kind::Text, kind], Kind::Float8, move |r| Ok(Value::Float(part(r, kind)? as f64 / 1e6)));
    }
    vec![exact.udf(), float.udf()]
}

/// The digits after the point that Postgres shows of a part; 0: as many as there are.
pub(super) fn scale(part: &str) -> i8 {
    match part.to_ascii_lowercase().as_str() {
        "epoch" | "second" | "seconds" => 6,
        "millisecond" | "milliseconds" => 3,
        _ => 0,
    }
}

/// The part in millionths.
fn part(row: &Row<'_>, kind: Kind) -> Result<i128> {
    let name = row.text(0).to_ascii_lowercase();
    let found = match kind {
        Kind::Date => of_date(&name, i64::from(row.date(1))),
        Kind::Time => of_time(&name, row.micros(1)),
        Kind::Interval => of_interval(&name, row.interval(1)),
        Kind::TimestampTz => of_moment(&name, row.micros(1), row.clock())?,
        _ => of_timestamp(&name, row.micros(1)),
    };
    found.ok_or_else(|| unknown(&name, kind))
}

fn unknown(name: &str, kind: Kind) -> Error {
    let sql_type = kind.sql_type();
    if of_timestamp(name, 0).is_some() || ZONE_PARTS.contains(&name) {
        return Error::unsupported(format!("unit \"{name}\" not supported for type {sql_type}"));
    }
    Error::invalid(format!("unit \"{name}\" not recognized for type {sql_type}"))
}

fn whole(n: i64) -> i128 {
    i128::from(n) * 1_000_000
}

fn of_timestamp(name: &str, micros: i64) -> Option<i128> {
    let civil = Civil::from_micros(micros);
    Some(match name {
        "epoch" => i128::from(micros),
        _ => return of_calendar(name, &civil).or_else(|| of_time(name, civil.micros)),
    })
}

/// What only a moment has.
const ZONE_PARTS: [&str; 3] = ["timezone", "timezone_hour", "timezone_minute"];

fn of_moment(name: &str, micros: i64, clock: &Clock) -> Result<Option<i128>> {
    let seconds = || Ok::<_, Error>(clock.offset(micros)? / SECOND);
    Ok(match name {
        "epoch" => Some(i128::from(micros)),
        "timezone" => Some(whole(seconds()?)),
        "timezone_hour" => Some(whole(seconds()? / 3600)),
        "timezone_minute" => Some(whole(seconds()? % 3600 / 60)),
        _ => of_timestamp(name, clock.local(micros)?),
    })
}

/// A date has no hours.
fn of_date(name: &str, days: i64) -> Option<i128> {
    match name {
        "epoch" => Some(whole(days * (DAY / SECOND))),
        _ => of_calendar(name, &Civil::from_micros(days.saturating_mul(DAY))),
    }
}

fn of_calendar(name: &str, civil: &Civil) -> Option<i128> {
    // Before year 1 there is no year 0.
    let year = if civil.year > 0 { civil.year } else { civil.year - 1 };
    let count = |years: i64| if year > 0 { (year + years - 1) / years } else { (year - years + 1) / years };
    Some(whole(match name {
        "year" | "years" | "y" => year,
        "isoyear" => civil.iso_week().0,
        "quarter" => (civil.month - 1) / 3 + 1,
        "month" | "months" | "mon" => civil.month,
        "week" | "weeks" | "w" => civil.iso_week().1,
        "day" | "days" | "d" => civil.day,
        "dow" => civil.iso_weekday() % 7,
        "isodow" => civil.iso_weekday(),
        "doy" => civil.day_of_year(),
        "decade" => civil.year.div_euclid(10),
        "century" => count(100),
        "millennium" => count(1000),
        "julian" => civil.days() + 2_440_588,
        _ => return None,
    }))
}

fn of_time(name: &str, micros: i64) -> Option<i128> {
    Some(match name {
        "hour" | "hours" | "h" => whole(micros / HOUR),
        "minute" | "minutes" | "m" => whole(micros % HOUR / MINUTE),
        "second" | "seconds" | "s" => i128::from(micros % MINUTE),
        "millisecond" | "milliseconds" | "ms" => i128::from(micros % MINUTE) * 1000,
        "microsecond" | "microseconds" | "us" => whole(micros % MINUTE),
        "epoch" => i128::from(micros),
        _ => return None,
    })
}

fn of_interval(name: &str, value: IntervalMonthDayNano) -> Option<i128> {
    let (months, micros) = (i64::from(value.months), value.nanoseconds / 1000);
    let years = months / 12;
    Some(match name {
        "epoch" => {
            // A year is 365.25 days, a month 30.
            let days = i128::from(value.days) + i128::from(months % 12) * 30;
            days * i128::from(DAY) + i128::from(years) * i128::from(DAY) * 1461 / 4 + i128::from(micros)
        }
        "year" | "years" | "y" => whole(years),
        "month" | "months" | "mon" => whole(months % 12),
        "quarter" => whole(months % 12 / 3 + 1),
        "day" | "days" | "d" => whole(value.days.into()),
        "decade" => whole(years / 10),
        "century" => whole(years / 100),
        "millennium" => whole(years / 1000),
        _ => return of_time(name, micros),
    })
}
