//! `connector = 'datagen'`: made-up rows for trying things out and for load.
//!
//! ```text
//!   row number n ──(seed, column)──▶ 64 mixed bits ──kind of the column──▶ value
//! ```
//!
//! Row n is a function of the options and n alone, so a replay is exact. Time is no exception: a timestamp is `start_time`
//! plus the seconds that n rows take at `rows_per_second`, whatever the wall clock says.

mod chance;
mod column;
mod options;

use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, Int32Array, Int64Array, RecordBatch, RecordBatchOptions, TimestampMicrosecondArray,
};
use datafusion::arrow::datatypes::SchemaRef;
use tidemark_common::types::SqlType;
use tidemark_common::{Error, Result, SqlState};

use self::column::Column;
pub(crate) use self::column::raw;
use crate::generator::{Generate, GeneratorSource};
use crate::options::Options;
use crate::spec::{SourceSpec, refuse_format, with_include};
use crate::{CHUNK_ROWS, Source};

/// Event time of row 0 unless `start_time` says otherwise; fixed, so that replays after a restart agree.
const START_TIME: &str = "2025-01-01 00:00:00";
/// Rows per second of event time where there is no limit in real time.
const UNLIMITED_EVENT_RATE: f64 = 1000.0;

/// Event time as a function of the row number.
#[derive(Debug, Clone, Copy)]
struct EventTime {
    start_micros: i64,
    micros_per_row: f64,
}

impl EventTime {
    fn at(self, row: u64) -> i64 {
        self.start_micros.saturating_add((row as f64 * self.micros_per_row) as i64)
    }
}

#[derive(Debug)]
enum Included {
    Offset,
    Partition,
    Timestamp,
}

#[derive(Debug)]
struct Datagen {
    schema: SchemaRef,
    columns: Vec<Column>,
    included: Vec<Included>,
    time: EventTime,
}

pub(crate) fn open(spec: SourceSpec, mut options: Options) -> Result<Arc<dyn Source>> {
    refuse_format(spec.format.as_ref(), "datagen")?;
    if spec.columns.fields().is_empty() {
        return Err(Error::new(SqlState::InvalidTableDefinition, "a datagen source must declare its columns"));
    }
    let schema = with_include(
        &spec,
        &[("offset", SqlType::BigInt), ("partition", SqlType::Integer), ("timestamp", SqlType::TimestampTz)],
    )?;
    let included = spec.include.iter().map(|(what, _)| match what.as_str() {
        "offset" => Included::Offset,
        "partition" => Included::Partition,
        _ => Included::Timestamp,
    });
    let parsed = options::parse(&spec, &mut options)?;
    options.finish()?;
    let generator = Datagen { schema, columns: parsed.columns, included: included.collect(), time: parsed.time };
    Ok(Arc::new(GeneratorSource {
        generator: Arc::new(generator),
        end: parsed.rows,
        rate: parsed.rate,
        chunk_rows: CHUNK_ROWS,
        clock: spec.clock,
    }))
}

impl Generate for Datagen {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn generate(
        &self,
        from: u64,
        end: u64,
        most: usize,
        columns: &[usize],
        projected: &SchemaRef,
    ) -> Result<(RecordBatch, u64)> {
        let end = end.min(from + most as u64);
        let rows = (end - from) as usize;
        let arrays = columns.iter().map(|&index| match self.columns.get(index) {
            Some(column) => column.build(from..end),
            None => Ok(self.include(&self.included[index - self.columns.len()], from, end)),
        });
        let arrays = arrays.collect::<Result<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        Ok((RecordBatch::try_new_with_options(projected.clone(), arrays, &options)?, end))
    }
}

impl Datagen {
    fn include(&self, what: &Included, from: u64, end: u64) -> ArrayRef {
        match what {
            Included::Offset => Arc::new(Int64Array::from_iter_values((from..end).map(|n| n as i64))),
            Included::Partition => Arc::new(Int32Array::from_iter_values((from..end).map(|_| 0))),
            Included::Timestamp => {
                let times = (from..end).map(|n| self.time.at(n));
                Arc::new(TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC"))
            }
        }
    }
}

#[cfg(test)]
mod tests;
