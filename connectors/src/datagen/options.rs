//! The options of a datagen source, checked against its columns.

use std::collections::BTreeMap;

use tidemark_common::types::SqlType;
use tidemark_common::{Error, Result, SqlState, nearest};

use super::column::{Column, ColumnOptions};
use super::{EventTime, START_TIME, UNLIMITED_EVENT_RATE};
use crate::formats::text;
use crate::options::Options;
use crate::spec::SourceSpec;

pub(super) struct Parsed {
    pub columns: Vec<Column>,
    pub time: EventTime,
    pub rate: Option<f64>,
    pub rows: Option<u64>,
}

const COLUMN_OPTIONS: [&str; 10] =
    ["kind", "start", "end", "min", "max", "max_past", "max-past", "length", "values", "null_rate"];

pub(super) fn parse(spec: &SourceSpec, options: &mut Options) -> Result<Parsed> {
    let rate = rate(options)?;
    let time =
        EventTime { start_micros: start_time(options)?, micros_per_row: 1e6 / rate.unwrap_or(UNLIMITED_EVENT_RATE) };
    let seed: u64 = options.parse("seed", "a whole number from 0")?.unwrap_or(0);
    let mut rows: Option<u64> = match options.parse("rows", "a whole number from 0")? {
        Some(rows) => Some(rows),
        None => options.parse("number-of-rows", "a whole number from 0")?,
    };
    let mut by_column = column_options(spec, options)?;
    let mut columns = Vec::new();
    for field in spec.columns.fields() {
        let mut own = by_column.remove(field.name()).unwrap_or_default();
        let (column, ends_after) = Column::new(field, seed, time, &mut own)
            .map_err(|error| error.context(format!("column \"{}\"", field.name())))?;
        own.finish(field)?;
        rows = match (rows, ends_after) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        columns.push(column);
    }
    Ok(Parsed { columns, time, rate, rows })
}

/// `None`: as fast as it goes.
fn rate(options: &mut Options) -> Result<Option<f64>> {
    let mut text = None;
    for key in ["rows_per_second", "rows-per-second", "datagen.rows.per.second"] {
        text = text.or(options.take(key));
    }
    let Some(text) = text else { return Ok(Some(10.0)) };
    match text.trim().to_lowercase().as_str() {
        "unlimited" => Ok(None),
        number => match number.parse::<f64>() {
            Ok(0.0) => Ok(None),
            Ok(rate) if rate > 0.0 && rate.is_finite() => Ok(Some(rate)),
            _ => Err(Error::invalid(format!(
                "option \"rows_per_second\" must be a number above 0, or 'unlimited', not \"{text}\""
            ))),
        },
    }
}

fn start_time(options: &mut Options) -> Result<i64> {
    let text = options.take("start_time").unwrap_or_else(|| START_TIME.to_string());
    let array = text::parse_one(&text, &SqlType::TimestampTz).map_err(|e| e.context("option \"start_time\""))?;
    Ok(super::column::raw(&array)? as i64)
}

/// `fields.<column>.<option>`, by column.
fn column_options(spec: &SourceSpec, options: &mut Options) -> Result<BTreeMap<String, ColumnOptions>> {
    let mut by_column: BTreeMap<String, ColumnOptions> = BTreeMap::new();
    for (key, value) in options.take_prefix("fields.") {
        let Some((column, option)) = key.rsplit_once('.') else {
            return Err(Error::invalid(format!("option \"fields.{key}\" must be fields.<column>.<option>")));
        };
        if spec.columns.column_with_name(column).is_none() {
            let error = Error::new(
                SqlState::UndefinedColumn,
                format!("option \"fields.{key}\" names column \"{column}\", which does not exist"),
            );
            let names = spec.columns.fields().iter().map(|f| f.name().as_str());
            return Err(match nearest(column, names) {
                Some(near) => error.with_hint(format!("Perhaps you meant \"{near}\".")),
                None => error,
            });
        }
        if !COLUMN_OPTIONS.contains(&option) {
            let error = Error::invalid(format!("unrecognized option \"fields.{key}\""));
            return Err(match nearest(option, COLUMN_OPTIONS.iter().copied()) {
                Some(near) => error.with_hint(format!("Perhaps you meant \"fields.{column}.{near}\".")),
                None => error.with_hint(format!("A column takes: {}.", COLUMN_OPTIONS.join(", "))),
            });
        }
        by_column.entry(column.to_string()).or_default().set(option, value);
    }
    Ok(by_column)
}
