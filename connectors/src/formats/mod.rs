//! How bytes become columns, and columns bytes.
//!
//! ```text
//!   bytes of a file ──cut into records──▶ wanted columns only ──parse by SqlType──▶ Chunk (good rows; bad ones named)
//!   RecordBatch ──encode──▶ bytes of a file
//!   changes ──envelope──▶ messages ──record_encode──▶ keys and values of a topic
//! ```
//!
//! Text is the common ground: what a format cannot hold natively is read as text and parsed by [`text`], by the rules that
//! Postgres has for the same type, so that a uuid or an interval means the same in CSV, JSON and Parquet.

mod avro;
pub(crate) mod changes;
mod column;
pub mod csv;
pub(crate) mod drift;
pub mod encode;
pub(crate) mod envelope;
pub mod infer;
pub mod json;
pub(crate) mod json_numerics;
mod json_path;
mod json_scan;
pub mod parquet;
mod protobuf;
pub(crate) mod record;
pub(crate) mod record_encode;
pub(crate) mod registry;
pub(crate) mod schema_encode;
mod schema_source;
pub mod text;
mod varint;

#[cfg(test)]
mod damage_tests;
#[cfg(test)]
mod fuzz_tests;
#[cfg(test)]
mod random_rows;
#[cfg(test)]
mod record_tests;

use datafusion::arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions};
use datafusion::arrow::compute;
use datafusion::arrow::datatypes::SchemaRef;
use tidemark_common::{Error, Result, SqlState, nearest};

use crate::options::Options;
use crate::spec::FormatSpec;

/// Some records of a file, decoded.
#[derive(Debug, Clone)]
pub struct Chunk {
    /// The good rows.
    pub batch: RecordBatch,
    /// How many records were read for it, good and bad.
    pub records: usize,
    /// The records that could not be decoded, in order.
    pub bad: Vec<Bad>,
}

impl Chunk {
    /// The record of each row.
    pub fn good_records(&self) -> Vec<u32> {
        let mut bad = self.bad.iter().map(|b| b.record).peekable();
        (0..self.records).filter(|record| bad.next_if_eq(record).is_none()).map(|record| record as u32).collect()
    }
}

/// A record that could not be decoded.
#[derive(Debug, Clone)]
pub struct Bad {
    /// Its place among the `records` of the chunk.
    pub record: usize,
    /// Its first line in the file from 1, where the format has lines.
    pub line: Option<u64>,
    pub reason: Error,
}

/// Which records or rows could not be read, and why.
pub type Failures = Vec<(usize, Error)>;

/// Reads the records of one file in order.
pub trait FileDecoder: Send {
    /// Passes over `records` records; returns how many there were.
    fn skip(&mut self, records: u64) -> Result<u64>;

    /// The next records, at most `most`; `None` at the end.
    fn next(&mut self, most: usize) -> Result<Option<Chunk>>;
}

/// A format with its options.
#[derive(Debug, Clone, PartialEq)]
pub enum Format {
    Csv(csv::CsvOptions),
    Json(json::JsonOptions),
    Parquet,
}

const FORMATS: [&str; 3] = ["csv", "json", "parquet"];

impl Format {
    /// From FORMAT PLAIN ENCODE .., or the option `format`, or else the ending of `path`. Takes the format's own options from
    /// the WITH clause as well as from the ENCODE clause.
    pub fn choose(format: Option<&FormatSpec>, options: &mut Options, path: &str) -> Result<Self> {
        let mut own = match format {
            Some(spec) => Options::new(&spec.options)?,
            None => Options::default(),
        };
        let from_option = options.take("format").map(|f| f.to_lowercase());
        let name = match (format, from_option) {
            (Some(spec), _) if spec.format != "PLAIN" => {
                return Err(Error::unsupported(format!("files cannot be read or written as FORMAT {}", spec.format))
                    .with_hint("FORMAT PLAIN ENCODE CSV | JSON | PARQUET"));
            }
            (Some(spec), Some(option)) if !spec.encode.eq_ignore_ascii_case(&option) => {
                return Err(Error::invalid(format!("ENCODE {} contradicts format = '{option}'", spec.encode)));
            }
            (Some(spec), _) => spec.encode.to_lowercase(),
            (None, Some(option)) => option,
            (None, None) => Self::by_ending(path)?,
        };
        let chosen = match name.as_str() {
            "csv" => Format::Csv(csv::CsvOptions::parse(&mut own, options)?),
            "json" | "jsonl" | "ndjson" => Format::Json(json::JsonOptions::parse(&mut own, options)?),
            "parquet" => Format::Parquet,
            other => {
                let error = Error::invalid(format!("unknown format \"{other}\""));
                return Err(match nearest(other, FORMATS.iter().copied()) {
                    Some(near) => error.with_hint(format!("Perhaps you meant \"{near}\".")),
                    None => error.with_hint("Known here: CSV, JSON, PARQUET."),
                });
            }
        };
        own.finish()?;
        Ok(chosen)
    }

    fn by_ending(path: &str) -> Result<String> {
        let name = crate::file::compression::Compression::of(path).1.to_lowercase();
        for (ending, format) in
            [(".csv", "csv"), (".json", "json"), (".jsonl", "json"), (".ndjson", "json"), (".parquet", "parquet")]
        {
            if name.ends_with(ending) {
                return Ok(format.to_string());
            }
        }
        Err(Error::invalid(format!("the format of \"{path}\" cannot be told from its ending"))
            .with_hint("Add FORMAT PLAIN ENCODE CSV | JSON | PARQUET, or format = 'csv'."))
    }

    /// The usual ending of such files.
    pub fn extension(&self) -> &'static str {
        match self {
            Format::Csv(_) => "csv",
            Format::Json(_) => "json",
            Format::Parquet => "parquet",
        }
    }
}

/// Columns as they were parsed, with the rows that failed: what every decoder ends with. `failures` are by record, in any
/// order; the first of each record counts.
pub(crate) fn assemble(
    schema: &SchemaRef,
    columns: Vec<ArrayRef>,
    records: usize,
    mut failures: Failures,
    line: impl Fn(usize) -> Option<u64>,
) -> Result<Chunk> {
    for (field, column) in schema.fields().iter().zip(&columns) {
        if !field.is_nullable() && column.null_count() > 0 {
            failures.extend((0..records).filter(|&row| column.is_null(row)).map(|row| (row, not_null(field.name()))));
        }
    }
    failures.sort_by_key(|(record, _)| *record);
    failures.dedup_by_key(|(record, _)| *record);
    let columns = if failures.is_empty() {
        columns
    } else {
        let mut keep = vec![true; records];
        for (record, _) in &failures {
            keep[*record] = false;
        }
        let keep = BooleanArray::from(keep);
        columns.iter().map(|c| compute::filter(c, &keep)).collect::<Result<Vec<_>, _>>()?
    };
    let options = RecordBatchOptions::new().with_row_count(Some(records - failures.len()));
    let batch = RecordBatch::try_new_with_options(schema.clone(), columns, &options)?;
    let bad = failures.into_iter().map(|(record, reason)| Bad { record, line: line(record), reason }).collect();
    Ok(Chunk { batch, records, bad })
}

fn not_null(column: &str) -> Error {
    Error::new(SqlState::NotNullViolation, format!("null value in column \"{column}\" violates not-null constraint"))
}
