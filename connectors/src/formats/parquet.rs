//! Parquet: columns by name, cast to the declared types.
//!
//! Only wanted columns are read from the file, and a file that is resumed skips row groups that have been read.

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::parquet::arrow::ProjectionMask;
use datafusion::parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use datafusion::parquet::errors::ParquetError;
use datafusion::parquet::file::reader::ChunkReader;
use tidemark_common::{Error, Result, SqlState};

use super::csv::missing_column;
use super::{Chunk, FileDecoder, assemble, text};
use crate::CHUNK_ROWS;

pub struct ParquetDecoder<R: ChunkReader + 'static> {
    schema: SchemaRef,
    builder: Option<ParquetRecordBatchReaderBuilder<R>>,
    reader: Option<ParquetRecordBatchReader>,
    /// Rows to pass over before the first.
    offset: u64,
    total: u64,
    /// Name in the file of each column of `schema`.
    names: Vec<String>,
    rest: Option<RecordBatch>,
}

impl<R: ChunkReader + 'static> ParquetDecoder<R> {
    pub fn new(input: R, columns: &SchemaRef) -> Result<Self> {
        let builder = ParquetRecordBatchReaderBuilder::try_new(input).map_err(parquet_error)?;
        let file = builder.schema().clone();
        let mut names = Vec::new();
        let mut roots = Vec::new();
        for field in columns.fields() {
            let exact = file.fields().iter().position(|f| f.name() == field.name());
            let place =
                exact.or_else(|| file.fields().iter().position(|f| f.name().eq_ignore_ascii_case(field.name())));
            let Some(place) = place else {
                let known: Vec<String> = file.fields().iter().map(|f| f.name().clone()).collect();
                return Err(missing_column(field.name(), &known));
            };
            names.push(file.field(place).name().clone());
            roots.push(place);
        }
        let mask = ProjectionMask::roots(builder.parquet_schema(), roots);
        let total = builder.metadata().file_metadata().num_rows().max(0) as u64;
        let builder = builder.with_projection(mask).with_batch_size(CHUNK_ROWS);
        Ok(Self { schema: columns.clone(), builder: Some(builder), reader: None, offset: 0, total, names, rest: None })
    }

    fn next_batch(&mut self) -> Result<Option<RecordBatch>> {
        if let Some(rest) = self.rest.take() {
            return Ok(Some(rest));
        }
        if let Some(builder) = self.builder.take() {
            self.reader = Some(builder.with_offset(self.offset as usize).build().map_err(parquet_error)?);
        }
        match self.reader.as_mut().and_then(Iterator::next) {
            None => Ok(None),
            Some(batch) => batch.map(Some).map_err(|error| damaged(&error.to_string())),
        }
    }
}

impl<R: ChunkReader + 'static> FileDecoder for ParquetDecoder<R> {
    fn skip(&mut self, records: u64) -> Result<u64> {
        debug_assert!(self.reader.is_none(), "rows are passed over before the first is read");
        self.offset = records.min(self.total);
        Ok(self.offset)
    }

    fn next(&mut self, most: usize) -> Result<Option<Chunk>> {
        let Some(mut batch) = self.next_batch()? else { return Ok(None) };
        if batch.num_rows() > most {
            self.rest = Some(batch.slice(most, batch.num_rows() - most));
            batch = batch.slice(0, most);
        }
        let rows = batch.num_rows();
        let mut failures = Vec::new();
        let mut columns = Vec::new();
        for (field, name) in self.schema.fields().iter().zip(&self.names) {
            let column =
                batch.column_by_name(name).ok_or_else(|| Error::internal(format!("column \"{name}\" was not read")))?;
            let parsed = text::cast(column, field)?;
            failures.extend(parsed.failures);
            columns.push(parsed.array);
        }
        assemble(&self.schema, columns, rows, failures, |_| None).map(Some)
    }
}

pub(super) fn parquet_error(error: ParquetError) -> Error {
    match error {
        ParquetError::External(inner) => match inner.downcast::<std::io::Error>() {
            Ok(error) => Error::from(*error),
            Err(other) => damaged(&other.to_string()),
        },
        ParquetError::EOF(message) | ParquetError::General(message) => damaged(&message),
        other => damaged(&other.to_string()),
    }
}

fn damaged(message: &str) -> Error {
    Error::new(SqlState::DataCorrupted, "this is not a whole Parquet file").with_detail(message.to_string()).with_hint(
        "If the file is still being written, write it under a name that starts with '_' or '.' and rename it when it is whole.",
    )
}
