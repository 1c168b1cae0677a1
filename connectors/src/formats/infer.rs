//! Columns from data: Parquet's own schema, or what a sample of CSV or JSON looks like.

use std::io::{BufReader, Read};
use std::sync::Arc;

use datafusion::arrow::csv::reader::Format as CsvFormat;
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::arrow::json::reader::infer_json_schema;
use datafusion::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use datafusion::parquet::file::reader::ChunkReader;
use tidemark_common::types::SqlType;
use tidemark_common::{Error, Result, SqlState};

use super::Format;
use super::csv::CsvOptions;
use super::parquet::parquet_error;

/// Records looked at.
const SAMPLE: usize = 1000;

/// From the text of a CSV or JSON file.
pub fn from_text(format: &Format, input: Box<dyn Read + Send>) -> Result<SchemaRef> {
    let found = match format {
        Format::Csv(options) => csv_format(options).infer_schema(input, Some(SAMPLE))?.0,
        Format::Json(_) => infer_json_schema(BufReader::new(input), Some(SAMPLE))?.0,
        Format::Parquet => return Err(Error::internal("Parquet is not text")),
    };
    named(&found, |field| from_sample(field.data_type()))
}

/// From the footer of a Parquet file.
pub fn from_parquet<R: ChunkReader + 'static>(input: R) -> Result<SchemaRef> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(input).map_err(parquet_error)?;
    named(builder.schema(), SqlType::from_field)
}

fn csv_format(options: &CsvOptions) -> CsvFormat {
    let mut format = CsvFormat::default().with_header(options.header).with_delimiter(options.delimiter);
    if let Some(quote) = options.quote {
        format = format.with_quote(quote);
    }
    if let Some(escape) = options.escape {
        format = format.with_escape(escape);
    }
    if let Some(comment) = options.comment {
        format = format.with_comment(comment);
    }
    format
}

/// The columns as SQL has them, all of them nullable: the next file may hold what this one does not.
fn named(found: &Schema, sql_type: impl Fn(&Field) -> SqlType) -> Result<SchemaRef> {
    if found.fields().is_empty() {
        return Err(Error::new(SqlState::IndeterminateDatatype, "no columns could be found in the data")
            .with_hint("Declare the columns."));
    }
    let fields = found.fields().iter().map(|f| sql_type(f).to_field(f.name().trim_start_matches('\u{feff}'), true));
    Ok(Arc::new(Schema::new(fields.collect::<Vec<_>>())))
}

/// A sample without zone, unit or any value at all still has to become a type.
fn from_sample(data_type: &DataType) -> SqlType {
    match data_type {
        DataType::Null => SqlType::Text,
        DataType::Timestamp(_, zone) => {
            SqlType::from_data_type(&DataType::Timestamp(TimeUnit::Microsecond, zone.clone()))
        }
        DataType::List(item) => SqlType::Array(Box::new(from_sample(item.data_type()))),
        DataType::Struct(fields) => {
            SqlType::Struct(fields.iter().map(|f| (f.name().clone(), from_sample(f.data_type()))).collect())
        }
        other => SqlType::from_data_type(other),
    }
}
