//! The arguments of one call, as the code of a function reads them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int64Array,
    IntervalMonthDayNanoArray, ListArray, StringArray, Time64MicrosecondArray, TimestampMicrosecondArray,
};
use datafusion::arrow::datatypes::{DataType, IntervalMonthDayNano, IntervalUnit};
use datafusion::logical_expr::ColumnarValue;
use tidemark_common::types::SqlType;
use tidemark_common::{Error, Result, SqlState};

use super::clock::Clock;
use super::format_time::Item;

enum Data {
    Bool(BooleanArray),
    Int(Int64Array),
    Float(Float64Array),
    Numeric(Decimal128Array, i8),
    Text(StringArray),
    Bytes(BinaryArray),
    Date(Date32Array),
    Time(Time64MicrosecondArray),
    Timestamp(TimestampMicrosecondArray),
    Interval(IntervalMonthDayNanoArray),
    List(ListArray),
    Other,
}

/// One argument of a batch of calls.
pub(super) struct Column {
    array: ArrayRef,
    data: Data,
    sql_type: SqlType,
    /// One value for all rows.
    pub(super) scalar: bool,
}

impl Column {
    pub(super) fn new(arg: &ColumnarValue, sql_type: SqlType) -> Result<Self> {
        let (array, scalar) = match arg {
            ColumnarValue::Array(array) => (Arc::clone(array), false),
            ColumnarValue::Scalar(value) => (value.to_array()?, true),
        };
        use datafusion::arrow::datatypes as t;
        let data = match array.data_type() {
            DataType::Boolean => Data::Bool(array.as_boolean().clone()),
            DataType::Int64 => Data::Int(array.as_primitive::<t::Int64Type>().clone()),
            DataType::Float64 => Data::Float(array.as_primitive::<t::Float64Type>().clone()),
            DataType::Decimal128(_, s) => Data::Numeric(array.as_primitive::<t::Decimal128Type>().clone(), *s),
            DataType::Utf8 => Data::Text(array.as_string::<i32>().clone()),
            DataType::Binary => Data::Bytes(array.as_binary::<i32>().clone()),
            DataType::Date32 => Data::Date(array.as_primitive::<t::Date32Type>().clone()),
            DataType::Time64(t::TimeUnit::Microsecond) => {
                Data::Time(array.as_primitive::<t::Time64MicrosecondType>().clone())
            }
            DataType::Timestamp(t::TimeUnit::Microsecond, _) => {
                Data::Timestamp(array.as_primitive::<t::TimestampMicrosecondType>().clone())
            }
            DataType::Interval(IntervalUnit::MonthDayNano) => {
                Data::Interval(array.as_primitive::<t::IntervalMonthDayNanoType>().clone())
            }
            DataType::List(_) => Data::List(array.as_list::<i32>().clone()),
            _ => Data::Other,
        };
        Ok(Self { array, data, sql_type, scalar })
    }
}

/// Things made from constant arguments, kept for the rows of one batch.
#[derive(Default)]
pub(super) struct Cache {
    patterns: Mutex<HashMap<String, Arc<regex::Regex>>>,
    /// The last pattern of `to_char` and its kin.
    time_format: Mutex<Option<(String, Arc<Vec<Item>>)>>,
}

/// The most compiled patterns kept for one batch.
const CACHED_PATTERNS: usize = 64;

/// The arguments of one call. The getters are total over what the declared kinds promise; a wrong one is a fault in a
/// declaration, found by its first test.
pub(super) struct Row<'a> {
    columns: &'a [Column],
    row: usize,
    cache: &'a Cache,
    clock: &'a Clock,
}

impl<'a> Row<'a> {
    pub(super) fn new(columns: &'a [Column], row: usize, cache: &'a Cache, clock: &'a Clock) -> Self {
        Self { columns, row, cache, clock }
    }

    pub(super) fn len(&self) -> usize {
        self.columns.len()
    }

    /// The session's clock.
    pub(super) fn clock(&self) -> &'a Clock {
        self.clock
    }

    fn at(&self, i: usize) -> (&'a Column, usize) {
        let column = &self.columns[i];
        (column, if column.scalar { 0 } else { self.row })
    }

    pub(super) fn is_null(&self, i: usize) -> bool {
        let (column, row) = self.at(i);
        column.array.is_null(row) || column.array.data_type().is_null()
    }

    /// The argument as it came, with its SQL type.
    pub(super) fn any(&self, i: usize) -> (&'a ArrayRef, usize, &'a SqlType) {
        let (column, row) = self.at(i);
        (&column.array, row, &column.sql_type)
    }

    pub(super) fn bool(&self, i: usize) -> bool {
        match self.at(i) {
            (Column { data: Data::Bool(a), .. }, row) => a.value(row),
            (column, _) => column.mismatch("boolean"),
        }
    }

    pub(super) fn int(&self, i: usize) -> i64 {
        match self.at(i) {
            (Column { data: Data::Int(a), .. }, row) => a.value(row),
            (column, _) => column.mismatch("bigint"),
        }
    }

    /// An integer argument that Postgres declares as `integer`.
    pub(super) fn int4(&self, i: usize) -> Result<i32> {
        i32::try_from(self.int(i)).map_err(|_| Error::new(SqlState::NumericValueOutOfRange, "integer out of range"))
    }

    pub(super) fn float(&self, i: usize) -> f64 {
        match self.at(i) {
            (Column { data: Data::Float(a), .. }, row) => a.value(row),
            (column, _) => column.mismatch("double precision"),
        }
    }

    /// Digits and scale.
    pub(super) fn numeric(&self, i: usize) -> (i128, i8) {
        match self.at(i) {
            (Column { data: Data::Numeric(a, scale), .. }, row) => (a.value(row), *scale),
            (column, _) => column.mismatch("numeric"),
        }
    }

    pub(super) fn text(&self, i: usize) -> &'a str {
        match self.at(i) {
            (Column { data: Data::Text(a), .. }, row) => a.value(row),
            (column, _) => column.mismatch("text"),
        }
    }

    pub(super) fn bytes(&self, i: usize) -> &'a [u8] {
        match self.at(i) {
            (Column { data: Data::Bytes(a), .. }, row) => a.value(row),
            (column, _) => column.mismatch("bytea"),
        }
    }

    /// Days since 1970-01-01.
    pub(super) fn date(&self, i: usize) -> i32 {
        match self.at(i) {
            (Column { data: Data::Date(a), .. }, row) => a.value(row),
            (column, _) => column.mismatch("date"),
        }
    }

    /// Microseconds: of a time since midnight, of a timestamp since 1970-01-01.
    pub(super) fn micros(&self, i: usize) -> i64 {
        match self.at(i) {
            (Column { data: Data::Timestamp(a), .. }, row) => a.value(row),
            (Column { data: Data::Time(a), .. }, row) => a.value(row),
            (column, _) => column.mismatch("timestamp"),
        }
    }

    pub(super) fn interval(&self, i: usize) -> IntervalMonthDayNano {
        match self.at(i) {
            (Column { data: Data::Interval(a), .. }, row) => a.value(row),
            (column, _) => column.mismatch("interval"),
        }
    }

    /// The items of an array argument.
    pub(super) fn list(&self, i: usize) -> ArrayRef {
        match self.at(i) {
            (Column { data: Data::List(a), .. }, row) => a.value(row),
            (column, _) => column.mismatch("array"),
        }
    }

    pub(super) fn texts(&self, i: usize) -> Vec<Option<String>> {
        self.list(i).as_string::<i32>().iter().map(|s| s.map(str::to_string)).collect()
    }

    /// The compiled form of a `to_char` pattern.
    pub(super) fn time_format(&self, pattern: &str) -> Result<Arc<Vec<Item>>> {
        let mut last = self.cache.time_format.lock().map_err(|_| Error::internal("a pattern cache is poisoned"))?;
        match last.as_ref() {
            Some((text, items)) if text == pattern => Ok(Arc::clone(items)),
            _ => {
                let items = Arc::new(super::format_time::compile(pattern));
                *last = Some((pattern.to_string(), Arc::clone(&items)));
                Ok(items)
            }
        }
    }

    /// The compiled form of `pattern` with Postgres' `flags`.
    pub(super) fn regex(&self, pattern: &str, flags: &str) -> Result<Arc<regex::Regex>> {
        let key = format!("{flags}/{pattern}");
        let mut cached = self.cache.patterns.lock().map_err(|_| Error::internal("a pattern cache is poisoned"))?;
        if let Some(found) = cached.get(&key) {
            return Ok(Arc::clone(found));
        }
        let regex = Arc::new(super::regexp::compile(pattern, flags)?);
        if cached.len() >= CACHED_PATTERNS {
            cached.clear();
        }
        cached.insert(key, Arc::clone(&regex));
        Ok(regex)
    }
}

impl Column {
    fn mismatch(&self, wanted: &str) -> ! {
        unreachable!("a function declared for {wanted} was called with {}", self.array.data_type())
    }
}
