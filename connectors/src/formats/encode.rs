//! Rows to the bytes of a whole file.
//!
//! The same rows always give the same bytes: a file that is written again after a crash is the file that was there.

use std::sync::{Arc, LazyLock};

use datafusion::arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, BinaryArray, Date32Array, PrimitiveArray, RecordBatch, StringArray,
    StringBuilder, TimestampMicrosecondArray,
};
use datafusion::arrow::csv::WriterBuilder as CsvWriterBuilder;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Float32Type, Float64Type, Schema, TimeUnit};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::json::WriterBuilder as JsonWriterBuilder;
use datafusion::arrow::json::writer::{
    Encoder, EncoderFactory, EncoderOptions, LineDelimited, NullableEncoder, make_encoder,
};
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::parquet::basic::{Compression, ZstdLevel};
use datafusion::parquet::file::properties::WriterProperties;
use serde::Serialize;
use tidemark_common::types::SqlType;
use tidemark_common::{Error, Result};

use super::csv::CsvOptions;
use super::{Format, text};

/// The bytes of a file with the rows of `batch`.
pub fn encode(format: &Format, batch: &RecordBatch) -> Result<Vec<u8>> {
    match format {
        Format::Csv(options) => csv(options, batch),
        Format::Json(_) => json(batch),
        Format::Parquet => parquet(batch),
    }
}

fn csv(options: &CsvOptions, batch: &RecordBatch) -> Result<Vec<u8>> {
    write_csv(options, &csv_columns(batch)?)
}

/// With columns that the CSV writer can write.
pub(super) fn csv_columns(batch: &RecordBatch) -> Result<RecordBatch> {
    let mut fields = Vec::new();
    let mut columns = Vec::new();
    for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
        let column = csv_column(field, column)?;
        fields.push(Field::new(field.name(), column.data_type().clone(), true));
        columns.push(column);
    }
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
}

pub(super) fn write_csv(options: &CsvOptions, batch: &RecordBatch) -> Result<Vec<u8>> {
    let mut builder = CsvWriterBuilder::new()
        .with_header(options.header)
        .with_delimiter(options.delimiter)
        .with_null(options.null.clone().unwrap_or_default());
    if let Some(quote) = options.quote {
        builder = builder.with_quote(quote);
    }
    if let Some(escape) = options.escape {
        builder = builder.with_double_quote(false).with_escape(escape);
    }
    let mut writer = builder.build(Vec::new());
    writer.write(batch)?;
    Ok(writer.into_inner())
}

/// What the CSV writer cannot write, as text that our reader reads back.
fn csv_column(field: &FieldRef, column: &ArrayRef) -> Result<ArrayRef> {
    Ok(match column.data_type() {
        DataType::Binary => {
            let texts = column.as_binary::<i32>().iter().map(|v| v.map(|bytes| format!("\\x{}", text::hex(bytes))));
            Arc::new(texts.collect::<StringArray>())
        }
        DataType::Interval(_) => interval_texts(column)?,
        other if other.is_nested() => {
            let mut texts = StringBuilder::new();
            for value in json_values(field, column)? {
                let text = value.map(String::from_utf8).transpose();
                texts.append_option(text.map_err(|e| Error::internal(e.to_string()))?);
            }
            Arc::new(texts.finish())
        }
        _ => column.clone(),
    })
}

/// Each value as JSON; `None`: it is NULL.
pub(super) fn json_values(field: &FieldRef, column: &dyn Array) -> Result<Vec<Option<Vec<u8>>>> {
    let options = EncoderOptions::default().with_explicit_nulls(true).with_encoder_factory(Arc::new(Ours));
    let mut encoder = make_encoder(field, column, &options)?;
    let value = |row: usize| {
        (!encoder.is_null(row)).then(|| {
            let mut out = Vec::new();
            encoder.encode(row, &mut out);
            out
        })
    };
    Ok((0..column.len()).map(value).collect())
}

fn interval_texts(column: &ArrayRef) -> Result<ArrayRef> {
    let formatter = ArrayFormatter::try_new(column, &FormatOptions::default())?;
    let texts = (0..column.len()).map(|row| column.is_valid(row).then(|| formatter.value(row).to_string()));
    Ok(Arc::new(texts.collect::<StringArray>()))
}

fn json(batch: &RecordBatch) -> Result<Vec<u8>> {
    let builder = JsonWriterBuilder::new().with_explicit_nulls(true).with_encoder_factory(Arc::new(Ours));
    let mut writer = builder.build::<_, LineDelimited>(Vec::new());
    writer.write(batch)?;
    writer.finish()?;
    Ok(writer.into_inner())
}

fn parquet(batch: &RecordBatch) -> Result<Vec<u8>> {
    let batch = &without_intervals(batch)?;
    let properties = WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::default())).build();
    let mut out = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut out, batch.schema(), Some(properties)).map_err(unwritable)?;
    writer.write(batch).map_err(unwritable)?;
    writer.close().map_err(unwritable)?;
    Ok(out)
}

/// Parquet has no interval as SQL has it: they are written as text.
fn without_intervals(batch: &RecordBatch) -> Result<RecordBatch> {
    let mut fields = Vec::new();
    let mut columns = Vec::new();
    for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
        if matches!(column.data_type(), DataType::Interval(_)) {
            fields.push(Arc::new(Field::new(field.name(), DataType::Utf8, field.is_nullable())));
            columns.push(interval_texts(column)?);
        } else {
            fields.push(field.clone());
            columns.push(column.clone());
        }
    }
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
}

fn unwritable(error: datafusion::parquet::errors::ParquetError) -> Error {
    Error::unsupported(format!("cannot write as Parquet: {error}"))
}

/// Of values that need nothing of ours.
static PLAIN: LazyLock<EncoderOptions> = LazyLock::new(EncoderOptions::default);

/// Values of type json go out as the JSON they are; bytes, and what has no end, as Postgres writes them.
#[derive(Debug)]
struct Ours;

impl EncoderFactory for Ours {
    fn make_default_encoder<'a>(
        &self,
        field: &'a FieldRef,
        array: &'a dyn Array,
        _options: &'a EncoderOptions,
    ) -> Result<Option<NullableEncoder<'a>>, ArrowError> {
        let encoder: Box<dyn Encoder + 'a> = match (SqlType::from_field(field), array.data_type()) {
            (SqlType::Json | SqlType::Jsonb, DataType::Utf8) => Box::new(RawJson(array.as_string())),
            (_, DataType::Binary) => Box::new(Hex(array.as_binary())),
            (_, DataType::Float32) => Box::new(Floats::<Float32Type>(array.as_primitive())),
            (_, DataType::Float64) => Box::new(Floats::<Float64Type>(array.as_primitive())),
            (_, DataType::Timestamp(TimeUnit::Microsecond, _)) => {
                let times: &TimestampMicrosecondArray = array.as_primitive();
                Box::new(OrEndless {
                    endless: Box::new(|row| endless(times.value(row), i64::MIN, i64::MAX)),
                    other: make_encoder(field, array, &PLAIN)?,
                })
            }
            (_, DataType::Date32) => {
                let days: &Date32Array = array.as_primitive();
                Box::new(OrEndless {
                    endless: Box::new(|row| endless(days.value(row), i32::MIN, i32::MAX)),
                    other: make_encoder(field, array, &PLAIN)?,
                })
            }
            _ => return Ok(None),
        };
        Ok(Some(NullableEncoder::new(encoder, array.nulls().cloned())))
    }
}

struct RawJson<'a>(&'a StringArray);

impl Encoder for RawJson<'_> {
    fn encode(&mut self, row: usize, out: &mut Vec<u8>) {
        // A record is a line; between tokens a line break is only a blank.
        out.extend(self.0.value(row).bytes().map(|b| if b == b'\n' || b == b'\r' { b' ' } else { b }));
    }
}

/// JSON has no number for infinity and NaN.
struct Floats<'a, T: ArrowPrimitiveType>(&'a PrimitiveArray<T>);

impl<T: ArrowPrimitiveType> Encoder for Floats<'_, T>
where
    T::Native: Serialize + Into<f64>,
{
    fn encode(&mut self, row: usize, out: &mut Vec<u8>) {
        let value = self.0.value(row);
        match serde_json::to_string(&value) {
            Ok(number) if value.into().is_finite() => out.extend_from_slice(number.as_bytes()),
            _ => out.extend_from_slice(no_number(value.into()).as_bytes()),
        }
    }
}

fn no_number(value: f64) -> &'static str {
    match (value.is_nan(), value > 0.0) {
        (true, _) => "\"NaN\"",
        (false, true) => "\"Infinity\"",
        (false, false) => "\"-Infinity\"",
    }
}

/// Times, of which `endless` knows those without an end.
struct OrEndless<'a> {
    endless: Box<dyn Fn(usize) -> Option<&'static str> + 'a>,
    other: NullableEncoder<'a>,
}

impl Encoder for OrEndless<'_> {
    fn encode(&mut self, row: usize, out: &mut Vec<u8>) {
        match (self.endless)(row) {
            Some(text) => out.extend_from_slice(text.as_bytes()),
            None => self.other.encode(row, out),
        }
    }
}

fn endless<T: PartialEq>(value: T, first: T, last: T) -> Option<&'static str> {
    match value {
        value if value == last => Some("\"infinity\""),
        value if value == first => Some("\"-infinity\""),
        _ => None,
    }
}

struct Hex<'a>(&'a BinaryArray);

impl Encoder for Hex<'_> {
    fn encode(&mut self, row: usize, out: &mut Vec<u8>) {
        out.extend_from_slice(b"\"\\\\x");
        out.extend_from_slice(text::hex(self.0.value(row)).as_bytes());
        out.push(b'"');
    }
}
