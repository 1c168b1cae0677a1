//! What hangs on the clock: rows that come and go as time passes, the time of processing, output at intervals.
//!
//! The time of an epoch stands still within it and never goes back from one to the next.

use std::fmt::Write;
use std::sync::{Arc, LazyLock};

use datafusion::arrow::array::{ArrayRef, RecordBatch, TimestampMicrosecondArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr_common::physical_expr::fmt_sql;

use super::Words;
use crate::{Error, Result};

/// The column that stands for now() in an expression over the clock alone.
pub const CLOCK: &str = "now";

/// A condition between a column and the clock, such as `ts > now() - INTERVAL '1 hour'`: rows leave, or come, as time passes.
///
/// ```text
///                       now() - 1 hour         now()
///   ───────┬──────────────────┼──────────────────┼────────▶
///        a row              leaves             comes      (ts > now() - 1 hour, ts <= now())
/// ```
#[derive(Debug, Clone)]
pub struct Temporal {
    /// The column that the row is judged by.
    pub column: usize,
    /// What it is compared with: an expression over the [`clock_schema`] that never falls as time passes.
    pub bound: Arc<dyn PhysicalExpr>,
    pub keeps: Keeps,
    /// Equal is enough.
    pub or_equal: bool,
}

/// Which rows are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeps {
    /// Those above the bound: they leave when it reaches them.
    Above,
    /// Those below it: they come when it has reached them.
    Below,
}

impl Temporal {
    pub(super) fn describe(&self, name: &str, words: Words) -> String {
        let operator = match (self.keeps, self.or_equal) {
            (Keeps::Above, false) => ">",
            (Keeps::Above, true) => ">=",
            (Keeps::Below, false) => "<",
            (Keeps::Below, true) => "<=",
        };
        let kept = match self.keeps {
            Keeps::Above => "the rows until they leave",
            Keeps::Below => "the rows until they come",
        };
        let bound = match words {
            Words::Sql => fmt_sql(self.bound.as_ref()).to_string(),
            Words::Exact => self.bound.to_string(),
        };
        let mut text = String::from("Temporal Filter ");
        let _ = write!(text, "{name} {operator} {bound}; keeps {kept}");
        text
    }

    /// The value of the bound at a time in microseconds: microseconds or, for a date, days.
    pub fn at(&self, now: i64) -> Result<i64> {
        let value = self.bound.evaluate(&clock_row(now)?)?.into_array(1)?;
        let found = numbers(&value)?.first().copied().flatten();
        found.ok_or_else(|| Error::internal(format!("{} is NULL", self.bound)))
    }
}

static CLOCK_SCHEMA: LazyLock<SchemaRef> =
    LazyLock::new(|| Arc::new(Schema::new(vec![Field::new(CLOCK, clock_type(), false)])));

/// One column: the time.
pub fn clock_schema() -> SchemaRef {
    CLOCK_SCHEMA.clone()
}

/// TIMESTAMPTZ.
pub fn clock_type() -> DataType {
    crate::types::SqlType::TimestampTz.data_type()
}

/// The time as an array of `rows`.
pub fn clock_column(now: i64, rows: usize) -> Result<ArrayRef> {
    let times = TimestampMicrosecondArray::from(vec![now; rows]);
    let DataType::Timestamp(TimeUnit::Microsecond, zone) = clock_type() else {
        return Err(Error::internal("the clock is not in microseconds"));
    };
    Ok(Arc::new(times.with_timezone_opt(zone)))
}

fn clock_row(now: i64) -> Result<RecordBatch> {
    Ok(RecordBatch::try_new(clock_schema(), vec![clock_column(now, 1)?])?)
}

/// Times as numbers in their order: microseconds or, of dates, days.
pub fn numbers(times: &ArrayRef) -> Result<Vec<Option<i64>>> {
    use datafusion::arrow::array::AsArray;
    use datafusion::arrow::datatypes::{Date32Type, TimestampMicrosecondType};
    match times.data_type() {
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            Ok(times.as_primitive::<TimestampMicrosecondType>().iter().collect())
        }
        DataType::Date32 => Ok(times.as_primitive::<Date32Type>().iter().map(|d| d.map(i64::from)).collect()),
        other => Err(Error::internal(format!("{other} is no time"))),
    }
}
