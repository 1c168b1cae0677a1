//! One column's values, by row number.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use datafusion::arrow::array::*;
use datafusion::arrow::buffer::{OffsetBuffer, ScalarBuffer};
use datafusion::arrow::compute;
use datafusion::arrow::datatypes::*;
use tidemark_common::types::SqlType;
use tidemark_common::{Error, Result, SqlState};

use super::EventTime;
use super::chance::{letters, mix, name_key, scale, unit, uuid};
use crate::formats::text;

/// The options `fields.<column>.*` of one column; what nobody takes is refused.
#[derive(Debug, Default)]
pub(super) struct ColumnOptions(BTreeMap<String, String>);

impl ColumnOptions {
    pub fn set(&mut self, option: &str, value: String) {
        self.0.insert(option.replace('-', "_"), value);
    }

    fn take(&mut self, option: &str) -> Option<String> {
        self.0.remove(option)
    }

    fn parse<T: std::str::FromStr>(&mut self, option: &str, what: &str) -> Result<Option<T>> {
        match self.take(option) {
            None => Ok(None),
            Some(text) => match text.trim().parse() {
                Ok(value) => Ok(Some(value)),
                Err(_) => Err(Error::invalid(format!("option \"{option}\" must be {what}, not \"{text}\""))),
            },
        }
    }

    pub fn finish(self, field: &Field) -> Result<()> {
        match self.0.keys().next() {
            None => Ok(()),
            Some(option) => Err(Error::invalid(format!(
                "option \"fields.{}.{option}\" does not go with this kind of {} column",
                field.name(),
                SqlType::from_field(field)
            ))),
        }
    }
}

/// How a value comes from its row number. Whole numbers, dates, times and decimals are handled as the integers that hold them.
#[derive(Debug)]
enum Values {
    Sequence {
        start: i128,
        step: i128,
    },
    Uniform {
        min: i128,
        max: i128,
    },
    FloatSequence {
        start: f64,
    },
    Float {
        min: f64,
        max: f64,
    },
    /// Event time less a random part of `max_past`.
    Time {
        time: EventTime,
        max_past: i64,
    },
    Choice(ArrayRef),
    Boolean,
    TextSequence {
        start: i64,
    },
    Text {
        length: usize,
    },
    Bytes {
        length: usize,
    },
    Uuid,
    Json,
    Interval,
    List {
        items: Box<Column>,
        length: usize,
    },
    Struct(Vec<Column>),
    Map {
        keys: Box<Column>,
        values: Box<Column>,
        length: usize,
    },
    Null,
}

#[derive(Debug)]
pub(super) struct Column {
    field: FieldRef,
    values: Values,
    /// Differs by seed and column, so that columns are independent.
    key: u64,
    null_rate: f64,
}

/// Numbers without `min` and `max` are drawn from 0 to this.
const DEFAULT_MAX: i128 = 1000;
const DEFAULT_TEXT_LENGTH: usize = 10;
const DEFAULT_ITEMS: usize = 3;
const LONGEST_TEXT: usize = 1 << 20;
const DAY_MICROS: i128 = 86_400_000_000;

impl Column {
    /// The column, and how many rows it has if it ends.
    pub fn new(
        field: &FieldRef,
        seed: u64,
        time: EventTime,
        options: &mut ColumnOptions,
    ) -> Result<(Self, Option<u64>)> {
        let null_rate = options.parse("null_rate", "a number from 0 to 1")?.unwrap_or(0.0);
        if !(0.0..=1.0).contains(&null_rate) {
            return Err(Error::invalid("option \"null_rate\" must be a number from 0 to 1"));
        }
        if null_rate > 0.0 && !field.is_nullable() {
            return Err(Error::invalid("option \"null_rate\" cannot be given for a NOT NULL column"));
        }
        let sql_type = SqlType::from_field(field);
        let kind = options.take("kind").unwrap_or_else(|| "default".to_string()).to_lowercase();
        let (values, rows) = match kind.as_str() {
            "sequence" => sequence(&sql_type, time, options)?,
            "choice" => (choice(&sql_type, options)?, None),
            "random" | "default" => (random(field, &sql_type, &kind, seed, time, options)?, None),
            other => {
                return Err(Error::invalid(format!(
                    "option \"kind\" must be sequence, random or choice, not \"{other}\""
                )));
            }
        };
        Ok((Self { field: field.clone(), values, key: mix(seed, name_key(field.name())), null_rate }, rows))
    }

    fn nested(field: &FieldRef, seed: u64, time: EventTime) -> Result<Box<Self>> {
        Ok(Box::new(Self::new(field, seed, time, &mut ColumnOptions::default())?.0))
    }

    pub fn build(&self, rows: Range<u64>) -> Result<ArrayRef> {
        let array = self.build_values(rows.clone())?;
        if self.null_rate == 0.0 {
            return Ok(array);
        }
        let nulls: BooleanArray = rows.map(|n| Some(unit(mix(self.key ^ 0x6e75_6c6c, n)) < self.null_rate)).collect();
        Ok(compute::nullif(&array, &nulls)?)
    }

    fn build_values(&self, rows: Range<u64>) -> Result<ArrayRef> {
        let bits = |n: u64| mix(self.key, n);
        let count = (rows.end - rows.start) as usize;
        Ok(match &self.values {
            Values::Sequence { start, step } => self.integers(rows.map(|n| start + i128::from(n) * step))?,
            Values::Uniform { min, max } => {
                let span = (max - min) as u128 + 1;
                self.integers(rows.map(|n| min + scale(bits(n), span)))?
            }
            Values::FloatSequence { start } => self.floats(rows.map(|n| start + n as f64))?,
            Values::Float { min, max } => self.floats(rows.map(|n| min + unit(bits(n)) * (max - min)))?,
            Values::Time { time, max_past } => {
                let span = *max_past as u128 + 1;
                let unit = if self.field.data_type() == &DataType::Date32 { DAY_MICROS } else { 1 };
                self.integers(rows.map(|n| (i128::from(time.at(n)) - scale(bits(n), span)).div_euclid(unit)))?
            }
            Values::Choice(choices) => {
                let span = choices.len() as u128;
                let indices = UInt32Array::from_iter_values(rows.map(|n| scale(bits(n), span) as u32));
                compute::take(choices, &indices, None)?
            }
            Values::Boolean => Arc::new(rows.map(|n| Some(bits(n) & 1 == 1)).collect::<BooleanArray>()),
            Values::TextSequence { start } => self.texts(rows.map(|n| start.wrapping_add(n as i64).to_string())),
            Values::Text { length } => self.texts(rows.map(|n| letters(bits(n), *length))),
            Values::Bytes { length } => {
                let values = rows.map(|n| letters(bits(n), *length).into_bytes());
                Arc::new(BinaryArray::from_iter_values(values))
            }
            Values::Uuid => self.texts(rows.map(|n| uuid(bits(n), mix(self.key ^ 1, n)))),
            Values::Json => self.texts(rows.map(|n| format!("{{\"n\": {n}, \"v\": {}}}", bits(n) % 1000))),
            Values::Interval => Arc::new(IntervalMonthDayNanoArray::from_iter_values(
                rows.map(|n| IntervalMonthDayNano::new(0, 0, (bits(n) % 86_400) as i64 * 1_000_000_000)),
            )),
            Values::List { items, length } => self.list(items, *length, rows)?,
            Values::Struct(columns) => {
                let arrays = columns.iter().map(|c| c.build(rows.clone())).collect::<Result<Vec<_>>>()?;
                let fields = columns.iter().map(|c| c.field.clone()).collect();
                Arc::new(StructArray::try_new_with_length(fields, arrays, None, count)?)
            }
            Values::Map { keys, values, length } => self.map(keys, values, *length, rows)?,
            Values::Null => new_null_array(self.field.data_type(), count),
        })
    }

    fn list(&self, items: &Column, length: usize, rows: Range<u64>) -> Result<ArrayRef> {
        let each = length as u64;
        let values = items.build(rows.start * each..rows.end * each)?;
        let offsets = OffsetBuffer::from_repeated_length(length, (rows.end - rows.start) as usize);
        let DataType::List(item) = self.field.data_type() else {
            return Err(Error::internal("a list column without a list type"));
        };
        Ok(Arc::new(ListArray::try_new(item.clone(), offsets, values, None)?))
    }

    fn map(&self, keys: &Column, values: &Column, length: usize, rows: Range<u64>) -> Result<ArrayRef> {
        let DataType::Map(entries, sorted) = self.field.data_type() else {
            return Err(Error::internal("a map column without a map type"));
        };
        let DataType::Struct(fields) = entries.data_type() else {
            return Err(Error::internal("a map without entries"));
        };
        let each = length as u64;
        let all = rows.start * each..rows.end * each;
        let offsets = OffsetBuffer::from_repeated_length(length, (rows.end - rows.start) as usize);
        let pairs = StructArray::try_new(fields.clone(), vec![keys.build(all.clone())?, values.build(all)?], None)?;
        Ok(Arc::new(MapArray::try_new(entries.clone(), offsets, pairs, None, *sorted)?))
    }

    /// The integers as the column's type holds them.
    fn integers(&self, values: impl Iterator<Item = i128>) -> Result<ArrayRef> {
        let data_type = self.field.data_type();
        let out_of_range = |value: i128| {
            Error::new(
                SqlState::NumericValueOutOfRange,
                format!(
                    "column \"{}\": {value} is out of range for type {}",
                    self.field.name(),
                    SqlType::from_field(&self.field)
                ),
            )
        };
        Ok(match data_type {
            DataType::Decimal128(precision, scale) => {
                Arc::new(Decimal128Array::from_iter_values(values).with_precision_and_scale(*precision, *scale)?)
            }
            DataType::Decimal256(precision, scale) => Arc::new(
                Decimal256Array::from_iter_values(values.map(i256::from_i128))
                    .with_precision_and_scale(*precision, *scale)?,
            ),
            _ => {
                let narrow =
                    values.map(|v| i64::try_from(v).map_err(|_| out_of_range(v))).collect::<Result<Vec<i64>>>()?;
                let int64 = Int64Array::new(ScalarBuffer::from(narrow), None);
                match data_type {
                    DataType::Int64 => Arc::new(int64),
                    DataType::Int16 | DataType::Int32 => compute::cast_with_options(
                        &int64,
                        data_type,
                        &compute::CastOptions { safe: false, ..Default::default() },
                    )
                    .map_err(|_| out_of_range(int64.iter().flatten().max_by_key(|v| v.abs()).unwrap_or(0).into()))?,
                    DataType::Date32 => compute::cast(&compute::cast(&int64, &DataType::Int32)?, data_type)?,
                    _ => compute::cast(&int64, data_type)?,
                }
            }
        })
    }

    fn floats(&self, values: impl Iterator<Item = f64>) -> Result<ArrayRef> {
        let array = Float64Array::from_iter_values(values);
        Ok(compute::cast(&array, self.field.data_type())?)
    }

    fn texts(&self, values: impl Iterator<Item = String>) -> ArrayRef {
        Arc::new(StringArray::from_iter_values(values))
    }
}

fn sequence(sql_type: &SqlType, time: EventTime, options: &mut ColumnOptions) -> Result<(Values, Option<u64>)> {
    let unsupported = || Error::unsupported(format!("a {sql_type} column cannot be a sequence"));
    match sql_type {
        SqlType::SmallInt | SqlType::Integer | SqlType::BigInt | SqlType::Oid | SqlType::Date | SqlType::Numeric(_) => {
            let step = match sql_type.data_type() {
                DataType::Decimal128(_, scale) | DataType::Decimal256(_, scale) => 10i128.pow(scale.max(0) as u32),
                _ => 1,
            };
            let default = if *sql_type == SqlType::Date { i128::from(time.start_micros) / DAY_MICROS } else { 0 };
            let start = bound("start", sql_type, options)?.unwrap_or(default);
            let rows = match bound("end", sql_type, options)? {
                Some(end) if end < start => return Err(Error::invalid("option \"end\" must not be below \"start\"")),
                Some(end) => Some(((end - start) / step + 1) as u64),
                None => None,
            };
            Ok((Values::Sequence { start, step }, rows))
        }
        SqlType::Real | SqlType::Double => {
            let start = options.parse("start", "a number")?.unwrap_or(0.0);
            let rows = options.parse::<f64>("end", "a number")?.map(|end| (end - start + 1.0).max(0.0) as u64);
            Ok((Values::FloatSequence { start }, rows))
        }
        SqlType::Timestamp | SqlType::TimestampTz => {
            let start_micros = bound("start", sql_type, options)?.map_or(time.start_micros, |v| v as i64);
            Ok((Values::Time { time: EventTime { start_micros, ..time }, max_past: 0 }, None))
        }
        SqlType::Text | SqlType::Varchar(_) => {
            let start = options.parse("start", "a whole number")?.unwrap_or(0);
            let rows = options.parse::<i64>("end", "a whole number")?.map(|end| (end - start + 1).max(0) as u64);
            Ok((Values::TextSequence { start }, rows))
        }
        _ => Err(unsupported()),
    }
}

fn choice(sql_type: &SqlType, options: &mut ColumnOptions) -> Result<Values> {
    let Some(values) = options.take("values") else {
        return Err(Error::invalid("kind = 'choice' needs the option \"values\", e.g. 'a,b,c'"));
    };
    let parsed = values.split(',').map(|v| text::parse_one(v.trim(), sql_type)).collect::<Result<Vec<_>>>()?;
    let arrays: Vec<&dyn Array> = parsed.iter().map(AsRef::as_ref).collect();
    Ok(Values::Choice(compute::concat(&arrays)?))
}

fn random(
    field: &FieldRef,
    sql_type: &SqlType,
    kind: &str,
    seed: u64,
    time: EventTime,
    options: &mut ColumnOptions,
) -> Result<Values> {
    let seed = mix(seed, name_key(field.name()));
    Ok(match sql_type {
        SqlType::Boolean => Values::Boolean,
        SqlType::SmallInt | SqlType::Integer | SqlType::BigInt | SqlType::Oid => {
            uniform(sql_type, DEFAULT_MAX, options)?
        }
        SqlType::Numeric(_) => {
            let (DataType::Decimal128(p, s) | DataType::Decimal256(p, s)) = sql_type.data_type() else {
                return Err(Error::internal("a numeric that is not a decimal"));
            };
            let largest = 10i128.checked_pow(u32::from(p)).map_or(i128::MAX, |v| v - 1);
            uniform(sql_type, largest.min(DEFAULT_MAX * 10i128.pow(s.max(0) as u32)), options)?
        }
        SqlType::Real | SqlType::Double => {
            let max: Option<f64> = options.parse("max", "a number")?;
            let min = options.parse("min", "a number")?.unwrap_or_else(|| max.unwrap_or(0.0).min(0.0));
            let max = max.unwrap_or(min + DEFAULT_MAX as f64);
            if min > max {
                return Err(Error::invalid("option \"min\" must not be above \"max\""));
            }
            Values::Float { min, max }
        }
        SqlType::Date => match options.take("max_past") {
            Some(text) => Values::Time { time, max_past: micros_of_interval(&text)? },
            None => ranged(sql_type, i128::from(time.start_micros) / DAY_MICROS, 364, options)?,
        },
        SqlType::Time => ranged(sql_type, 0, DAY_MICROS - 1, options)?,
        SqlType::Timestamp | SqlType::TimestampTz => timestamps(sql_type, kind, time, options)?,
        SqlType::Interval => Values::Interval,
        SqlType::Text | SqlType::Varchar(_) | SqlType::Name => {
            let most = if let SqlType::Varchar(Some(n)) = sql_type { *n as usize } else { LONGEST_TEXT };
            Values::Text { length: length(DEFAULT_TEXT_LENGTH.min(most), most, options)? }
        }
        SqlType::Char(n) => Values::Text { length: *n as usize },
        SqlType::Bytea => Values::Bytes { length: length(DEFAULT_TEXT_LENGTH, LONGEST_TEXT, options)? },
        SqlType::Uuid => Values::Uuid,
        SqlType::Json | SqlType::Jsonb => Values::Json,
        SqlType::Array(_) | SqlType::Struct(_) | SqlType::Map(..) => nested(field, seed, time, options)?,
        SqlType::Other(_) => Values::Null,
    })
}

fn nested(field: &FieldRef, seed: u64, time: EventTime, options: &mut ColumnOptions) -> Result<Values> {
    Ok(match field.data_type() {
        DataType::List(item) => {
            Values::List { items: Column::nested(item, seed, time)?, length: length(DEFAULT_ITEMS, 10_000, options)? }
        }
        DataType::Struct(fields) => {
            let columns = fields.iter().map(|f| Column::nested(f, seed, time).map(|c| *c));
            Values::Struct(columns.collect::<Result<_>>()?)
        }
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(pair) if pair.len() == 2 => Values::Map {
                keys: Column::nested(&pair[0], seed, time)?,
                values: Column::nested(&pair[1], seed, time)?,
                length: length(DEFAULT_ITEMS, 10_000, options)?,
            },
            _ => return Err(Error::internal("a map without keys and values")),
        },
        other => return Err(Error::unsupported(format!("datagen cannot make values of type {other}"))),
    })
}

fn timestamps(sql_type: &SqlType, kind: &str, time: EventTime, options: &mut ColumnOptions) -> Result<Values> {
    let max_past = match options.take("max_past") {
        Some(text) => micros_of_interval(&text)?,
        None => 0,
    };
    let min = bound("min", sql_type, options)?;
    let max = bound("max", sql_type, options)?;
    match (min, max) {
        (None, None) if kind == "random" && max_past == 0 => Ok(Values::Uniform {
            min: time.start_micros.into(),
            max: i128::from(time.start_micros) + 365 * DAY_MICROS - 1,
        }),
        (None, None) => Ok(Values::Time { time, max_past }),
        _ if max_past != 0 => Err(Error::invalid("options \"max_past\" and \"min\"/\"max\" exclude each other")),
        (min, max) => {
            let min = min.unwrap_or_else(|| max.map_or(0, |m| m - 365 * DAY_MICROS));
            checked(min, max.unwrap_or(min + 365 * DAY_MICROS))
        }
    }
}

/// Random whole numbers: 0 to `default_max` where neither end is given.
fn uniform(sql_type: &SqlType, default_max: i128, options: &mut ColumnOptions) -> Result<Values> {
    let max = bound("max", sql_type, options)?;
    let min = bound("min", sql_type, options)?.unwrap_or_else(|| max.unwrap_or(0).min(0));
    checked(min, max.unwrap_or_else(|| default_max.max(min)))
}

/// Random values from `default_min` on, or from `min`, over `span` unless `max` is given.
fn ranged(sql_type: &SqlType, default_min: i128, span: i128, options: &mut ColumnOptions) -> Result<Values> {
    let max = bound("max", sql_type, options)?;
    let min = bound("min", sql_type, options)?.unwrap_or_else(|| max.map_or(default_min, |m| default_min.min(m)));
    let max = max.unwrap_or(if *sql_type == SqlType::Time { default_min + span } else { min + span });
    checked(min, max)
}

fn checked(min: i128, max: i128) -> Result<Values> {
    if min > max {
        return Err(Error::invalid("option \"min\" must not be above \"max\""));
    }
    Ok(Values::Uniform { min, max })
}

fn length(default: usize, most: usize, options: &mut ColumnOptions) -> Result<usize> {
    let length = options.parse("length", "a whole number from 0")?.unwrap_or(default);
    if length > most {
        return Err(Error::invalid(format!("option \"length\" must not be above {most}")));
    }
    Ok(length)
}

fn bound(option: &str, sql_type: &SqlType, options: &mut ColumnOptions) -> Result<Option<i128>> {
    match options.take(option) {
        None => Ok(None),
        Some(text) => {
            let array = text::parse_one(&text, sql_type).map_err(|e| e.context(format!("option \"{option}\"")))?;
            raw(&array).map(Some)
        }
    }
}

/// The integer that holds the one value of `array`.
pub(crate) fn raw(array: &ArrayRef) -> Result<i128> {
    Ok(match array.data_type() {
        DataType::Decimal128(..) => array.as_primitive::<Decimal128Type>().value(0),
        DataType::Decimal256(..) => array
            .as_primitive::<Decimal256Type>()
            .value(0)
            .to_i128()
            .ok_or_else(|| Error::new(SqlState::NumericValueOutOfRange, "a bound must fit into 38 digits"))?,
        DataType::Date32 => array.as_primitive::<Date32Type>().value(0).into(),
        _ => compute::cast(array, &DataType::Int64)?.as_primitive::<Int64Type>().value(0).into(),
    })
}

fn micros_of_interval(text: &str) -> Result<i64> {
    let array = text::parse_one(text, &SqlType::Interval).map_err(|e| e.context("option \"max_past\""))?;
    let span = array.as_primitive::<IntervalMonthDayNanoType>().value(0);
    if span.months != 0 {
        return Err(Error::invalid("option \"max_past\" must be in days or less, as months differ in length"));
    }
    let micros = i64::from(span.days) * DAY_MICROS as i64 + span.nanoseconds / 1000;
    if micros < 0 {
        return Err(Error::invalid("option \"max_past\" must not be negative"));
    }
    Ok(micros)
}
