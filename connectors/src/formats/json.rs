//! JSON lines: one object a line.
//!
//! ```text
//!   lines ──┬─ arrow-json, wanted columns only ──▶ held types; or text ──text::parse──▶ uuid, interval, ...
//!           │                                                     numerics, by json_numerics
//!           ├─ json_scan ──▶ columns of type json: the value's own text
//!           └─ json_path ──▶ columns FROM '$.a.b': a record of their values, read as any
//! ```
//!
//! arrow-json reports an error for a batch as a whole, so a batch that fails is halved until the bad records stand alone.
//! A field that is missing is NULL, one that is not declared is passed over. Two liberties of arrow-json's stay: a number in a text
//! column is its text, and a fraction in an integer column is cut off.

use std::io::Read;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringBuilder, new_null_array};
use datafusion::arrow::compute;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef, TimeUnit};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::json::ReaderBuilder;
use tidemark_common::types::SqlType;
use tidemark_common::{Error, Result, SqlState};

use super::json_path::JsonPath;
use super::{Chunk, Failures, FileDecoder, assemble, json_numerics, json_scan, text};
use crate::options::Options;
use crate::spec::PATH_METADATA;

/// Lines that are longer are an error, so that a file that is not lines cannot fill the memory.
pub(super) const LONGEST_RECORD: usize = 64 << 20;
/// A chunk ends after so many bytes even if it has few records.
pub(super) const CHUNK_BYTES: usize = 4 << 20;
const READ_BYTES: usize = 256 << 10;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonOptions {
    /// What a number in a timestamp column counts.
    pub timestamp_unit: TimeUnit,
}

impl Default for JsonOptions {
    fn default() -> Self {
        Self { timestamp_unit: TimeUnit::Microsecond }
    }
}

impl JsonOptions {
    pub fn parse(own: &mut Options, with: &mut Options) -> Result<Self> {
        let text = own.take("timestamp_unit").or(with.take("timestamp_unit"));
        let timestamp_unit = match text.as_deref().map(str::trim) {
            None | Some("us") => TimeUnit::Microsecond,
            Some("s") => TimeUnit::Second,
            Some("ms") => TimeUnit::Millisecond,
            Some("ns") => TimeUnit::Nanosecond,
            Some(other) => {
                return Err(Error::invalid(format!(
                    "option \"timestamp_unit\" must be s, ms, us or ns, not \"{other}\""
                )));
            }
        };
        Ok(Self { timestamp_unit })
    }
}

/// How a column is had from the record.
#[derive(Debug, Clone, Copy, PartialEq)]
enum How {
    /// By arrow-json, column `n` of what it reads.
    Arrow(usize),
    /// By arrow-json as text, then by [`text::parse`].
    Text(usize),
    /// By arrow-json with numerics as texts, then by [`json_numerics`].
    Numerics(usize),
    /// The text of the value, unread.
    Raw,
    /// By its path: column `n` of what the decoder of such columns gives.
    Path(usize),
}

/// Decodes JSON objects that are already cut apart.
#[derive(Debug)]
pub struct JsonRecords {
    schema: SchemaRef,
    how: Vec<How>,
    /// What arrow-json is asked for.
    read: SchemaRef,
    by_path: Option<Box<ByPath>>,
}

/// Columns whose values lie anywhere in a record: they are put together to a record that has them under their names.
#[derive(Debug)]
struct ByPath {
    /// The beginning of the value: `"name":`.
    values: Vec<(JsonPath, Vec<u8>)>,
    records: JsonRecords,
}

impl ByPath {
    /// `None`: there are no such columns among these.
    fn of(schema: &SchemaRef, options: &JsonOptions) -> Result<Option<Box<Self>>> {
        let (mut values, mut fields) = (Vec::new(), Vec::new());
        for field in schema.fields() {
            let Some(path) = field.metadata().get(PATH_METADATA) else { continue };
            let path = JsonPath::parse(path).map_err(|e| e.context(format_args!("column \"{}\"", field.name())))?;
            let mut metadata = field.metadata().clone();
            metadata.remove(PATH_METADATA);
            values.push((path, format!("{}:", serde_json::Value::from(field.name().as_str())).into_bytes()));
            fields.push(field.as_ref().clone().with_metadata(metadata));
        }
        if fields.is_empty() {
            return Ok(None);
        }
        Ok(Some(Box::new(Self { values, records: JsonRecords::new(&Arc::new(Schema::new(fields)), options)? })))
    }

    fn columns(&self, records: &[&[u8]]) -> Result<(Vec<ArrayRef>, Failures)> {
        let object = |record: &&[u8]| {
            let found = self.values.iter().filter_map(|(path, name)| Some([name, path.find(record)?].concat()));
            [b"{", found.collect::<Vec<_>>().join(&b","[..]).as_slice(), b"}"].concat()
        };
        let objects: Vec<Vec<u8>> = records.iter().map(object).collect();
        self.records.columns(&objects.iter().map(Vec::as_slice).collect::<Vec<_>>())
    }
}

impl JsonRecords {
    pub fn new(schema: &SchemaRef, options: &JsonOptions) -> Result<Self> {
        let mut how = Vec::new();
        let mut read: Vec<FieldRef> = Vec::new();
        let by_path = ByPath::of(schema, options)?;
        let mut paths = 0..;
        for field in schema.fields() {
            if field.metadata().contains_key(PATH_METADATA) {
                how.extend(paths.next().map(How::Path));
                continue;
            }
            let data_type = match SqlType::from_field(field) {
                SqlType::Json | SqlType::Jsonb => {
                    how.push(How::Raw);
                    continue;
                }
                SqlType::Timestamp => DataType::Timestamp(options.timestamp_unit, None),
                SqlType::TimestampTz => DataType::Timestamp(options.timestamp_unit, Some("UTC".into())),
                SqlType::Date
                | SqlType::Time
                | SqlType::Interval
                | SqlType::Bytea
                | SqlType::Uuid
                | SqlType::Varchar(Some(_))
                | SqlType::Char(_) => {
                    how.push(How::Text(read.len()));
                    read.push(Arc::new(Field::new(field.name(), DataType::Utf8, true)));
                    continue;
                }
                _ => json_numerics::as_text(field.data_type()),
            };
            let has_numerics = json_numerics::as_text(field.data_type()) != *field.data_type();
            how.push(if has_numerics { How::Numerics(read.len()) } else { How::Arrow(read.len()) });
            read.push(Arc::new(Field::new(field.name(), data_type, true)));
        }
        let read = Arc::new(Schema::new(read));
        // Types that arrow-json cannot read are found here and not at the first record.
        ReaderBuilder::new(read.clone()).build_decoder().map_err(|error| Error::unsupported(error.to_string()))?;
        Ok(Self { schema: schema.clone(), how, read, by_path })
    }

    /// The columns of the records, and what failed, in any order; rows that failed are NULL.
    pub fn columns(&self, records: &[&[u8]]) -> Result<(Vec<ArrayRef>, Failures)> {
        let mut failures = Vec::new();
        let mut pieces = Vec::new();
        self.halve(records, 0, &mut pieces, &mut failures);
        let read = match pieces.as_slice() {
            [one] => one.clone(),
            many => compute::concat_batches(&self.read, many)?,
        };
        let by_path = match &self.by_path {
            Some(by_path) => {
                let (columns, failed) = by_path.columns(records)?;
                failures.extend(failed);
                columns
            }
            None => Vec::new(),
        };
        let mut columns = Vec::with_capacity(self.how.len());
        for (field, how) in self.schema.fields().iter().zip(&self.how) {
            let parsed = match how {
                How::Arrow(at) => {
                    columns.push(match read.column(*at) {
                        same if same.data_type() == field.data_type() => same.clone(),
                        other => compute::cast(other, field.data_type())?,
                    });
                    continue;
                }
                How::Numerics(at) => {
                    let (array, failures) = json_numerics::read(read.column(*at), field)?;
                    text::Parsed { array, failures }
                }
                How::Text(at) => text::parse(read.column(*at).as_string::<i32>(), field)?,
                How::Raw => self.raw(records, field)?,
                How::Path(at) => {
                    columns.push(Arc::clone(&by_path[*at]));
                    continue;
                }
            };
            failures.extend(parsed.failures.into_iter().map(|(row, error)| (row, text::in_column(error, field))));
            columns.push(parsed.array);
        }
        Ok((columns, failures))
    }

    /// Decodes all, or on an error each half by itself.
    fn halve(&self, records: &[&[u8]], first: usize, pieces: &mut Vec<RecordBatch>, failures: &mut Failures) {
        match self.decode(records) {
            Ok(batch) => pieces.push(batch),
            Err(error) if records.len() == 1 => {
                failures.push((first, record_error(&error)));
                let nulls = self.read.fields().iter().map(|f| new_null_array(f.data_type(), 1)).collect();
                pieces.push(batch_of(&self.read, nulls, 1));
            }
            Err(_) => {
                let (left, right) = records.split_at(records.len() / 2);
                self.halve(left, first, pieces, failures);
                self.halve(right, first + left.len(), pieces, failures);
            }
        }
    }

    fn decode(&self, records: &[&[u8]]) -> Result<RecordBatch, ArrowError> {
        let not_one = || ArrowError::JsonError("the line is not exactly one JSON object".to_string());
        let mut decoder = ReaderBuilder::new(self.read.clone())
            .with_batch_size(records.len().max(1))
            .with_coerce_primitive(true)
            .build_decoder()?;
        for (i, record) in records.iter().enumerate() {
            let read = decoder.decode(record)?;
            if decoder.len() != i + 1
                || decoder.has_partial_record()
                || !record[read..].iter().all(u8::is_ascii_whitespace)
            {
                return Err(not_one());
            }
        }
        match decoder.flush()? {
            Some(batch) => Ok(batch),
            None => Ok(RecordBatch::new_empty(self.read.clone())),
        }
    }

    fn raw(&self, records: &[&[u8]], field: &Field) -> Result<text::Parsed> {
        let mut builder = StringBuilder::new();
        for record in records {
            let mut value: Option<&[u8]> = None;
            // A record that is no object has been reported by arrow-json.
            let _scanned = json_scan::top_level(record, |key, text| {
                if json_scan::is_key(key, field.name()) {
                    value = Some(text);
                }
            });
            match value.and_then(|v| std::str::from_utf8(v).ok()) {
                None | Some("null") => builder.append_null(),
                Some(text) => builder.append_value(text),
            }
        }
        let array = builder.finish();
        match SqlType::from_field(field) {
            SqlType::Jsonb => text::parse(&array, field),
            _ => Ok(text::Parsed { array: Arc::new(array), failures: Vec::new() }),
        }
    }
}

fn batch_of(schema: &SchemaRef, columns: Vec<ArrayRef>, rows: usize) -> RecordBatch {
    let options = datafusion::arrow::array::RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(schema.clone(), columns, &options).expect("nulls of the schema's own types")
}

fn record_error(error: &ArrowError) -> Error {
    let message = error.to_string();
    let message = message.strip_prefix("Json error: ").unwrap_or(&message);
    Error::new(SqlState::InvalidTextRepresentation, format!("invalid JSON record: {message}"))
}

/// The lines of a JSON file.
pub struct JsonDecoder {
    records: JsonRecords,
    schema: SchemaRef,
    lines: Lines,
}

impl JsonDecoder {
    pub fn new(input: Box<dyn Read + Send>, columns: &SchemaRef, options: &JsonOptions) -> Result<Self> {
        Ok(Self { records: JsonRecords::new(columns, options)?, schema: columns.clone(), lines: Lines::new(input) })
    }
}

impl FileDecoder for JsonDecoder {
    fn skip(&mut self, records: u64) -> Result<u64> {
        let mut skipped = 0;
        while skipped < records {
            let most = usize::try_from(records - skipped).unwrap_or(usize::MAX).min(crate::CHUNK_ROWS);
            match self.lines.take(most)? {
                0 => break,
                n => skipped += n as u64,
            }
        }
        Ok(skipped)
    }

    fn next(&mut self, most: usize) -> Result<Option<Chunk>> {
        let count = self.lines.take(most)?;
        if count == 0 {
            return Ok(None);
        }
        let records = self.lines.taken();
        let (columns, failures) = self.records.columns(&records)?;
        let lines = &self.lines;
        assemble(&self.schema, columns, count, failures, |record| Some(lines.number(record))).map(Some)
    }
}

/// Cuts bytes into lines that are not blank.
struct Lines {
    input: Box<dyn Read + Send>,
    buffer: Vec<u8>,
    /// Where in `buffer` the next line starts.
    start: usize,
    /// Lines begun so far, the one at `start` not counted.
    count: u64,
    ended: bool,
    /// The lines that the last `take` found: place in `buffer` and number.
    found: Vec<(std::ops::Range<usize>, u64)>,
}

impl Lines {
    fn new(input: Box<dyn Read + Send>) -> Self {
        Self { input, buffer: Vec::new(), start: 0, count: 0, ended: false, found: Vec::new() }
    }

    /// Finds up to `most` lines; returns how many.
    fn take(&mut self, most: usize) -> Result<usize> {
        self.buffer.drain(..self.start);
        self.start = 0;
        self.found.clear();
        let mut searched = 0;
        while self.found.len() < most && (self.found.is_empty() || self.start < CHUNK_BYTES) {
            match memchr::memchr(b'\n', &self.buffer[searched..]) {
                Some(length) => {
                    self.push_line(searched + length);
                    self.start = searched + length + 1;
                    searched = self.start;
                }
                None if self.ended => {
                    self.push_line(self.buffer.len());
                    self.start = self.buffer.len();
                    break;
                }
                None => {
                    searched = self.buffer.len();
                    if searched - self.start > LONGEST_RECORD {
                        return Err(too_long(self.count + 1));
                    }
                    self.fill()?;
                }
            }
        }
        Ok(self.found.len())
    }

    fn push_line(&mut self, end: usize) {
        let mut line = self.start..end;
        if self.count == 0 && self.buffer[line.clone()].starts_with(b"\xef\xbb\xbf") {
            line.start += 3;
        }
        self.count += 1;
        if !self.buffer[line.clone()].iter().all(u8::is_ascii_whitespace) {
            self.found.push((line, self.count));
        }
    }

    fn fill(&mut self) -> Result<()> {
        let old = self.buffer.len();
        self.buffer.resize(old + READ_BYTES, 0);
        let read = read_some(&mut self.input, &mut self.buffer[old..]);
        self.buffer.truncate(old + *read.as_ref().unwrap_or(&0));
        self.ended = read? == 0;
        Ok(())
    }

    fn taken(&self) -> Vec<&[u8]> {
        self.found.iter().map(|(line, _)| &self.buffer[line.clone()]).collect()
    }

    fn number(&self, index: usize) -> u64 {
        self.found[index].1
    }
}

pub(super) fn too_long(line: u64) -> Error {
    Error::new(SqlState::ProgramLimitExceeded, format!("line {line} is longer than {} MiB", LONGEST_RECORD >> 20))
        .with_hint("Is this the right format, and are quotes closed?")
}

fn read_some(input: &mut dyn Read, into: &mut [u8]) -> std::io::Result<usize> {
    loop {
        match input.read(into) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::util::pretty::pretty_format_batches;

    use super::*;

    fn schema(columns: &[(&str, SqlType)]) -> SchemaRef {
        Arc::new(Schema::new(columns.iter().map(|(n, t)| t.to_field(n, true)).collect::<Vec<_>>()))
    }

    fn decode(columns: &[(&str, SqlType)], text: &str) -> Chunk {
        let input = Box::new(std::io::Cursor::new(text.as_bytes().to_vec()));
        let mut decoder = JsonDecoder::new(input, &schema(columns), &JsonOptions::default()).unwrap();
        decoder.next(1000).unwrap().unwrap()
    }

    fn show(chunk: &Chunk) -> Vec<String> {
        let table = pretty_format_batches(std::slice::from_ref(&chunk.batch)).unwrap().to_string();
        let lines: Vec<&str> = table.lines().collect();
        lines[3..lines.len() - 1].iter().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    }

    #[test]
    fn every_kind_of_column() {
        let chunk = decode(
            &[
                ("i", SqlType::Integer),
                ("j", SqlType::Json),
                ("u", SqlType::Uuid),
                ("ts", SqlType::TimestampTz),
                ("a", SqlType::Array(Box::new(SqlType::Integer))),
                ("s", SqlType::Text),
            ],
            concat!(
                r#"{"i": 1, "j": {"x": [1, 2]}, "u": "0A1B2C3D4E5F60718293A4B5C6D7E8F9", "ts": "2024-01-02 03:04:05+00", "a": [1,2], "s": 7}"#,
                "\n\n",
                r#"{"j": "text", "zzz": {"deep": 1}, "a": null, "i": null}"#,
                "\n",
                r#"{"j": null}"#,
            ),
        );
        assert!(chunk.bad.is_empty());
        assert_eq!(
            show(&chunk),
            [
                r#"| 1 | {"x": [1, 2]} | 0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9 | 2024-01-02T03:04:05Z | [1, 2] | 7 |"#,
                r#"| | "text" | | | | |"#,
                "| | | | | | |"
            ]
        );
    }

    #[test]
    fn bad_records_are_found_among_good_ones() {
        let mut text = String::new();
        for i in 0..100 {
            match i {
                17 => text.push_str("{\"i\": \"x\"}\n"),
                40 => text.push_str("{\"i\": 1\n"),
                41 => text.push_str("{\"i\": 1} {\"i\": 2}\n"),
                42 => text.push_str("[1]\n"),
                99 => text.push_str("{\"i\": 5} x\n"),
                _ => text.push_str(&format!("{{\"i\": {i}}}\n")),
            }
        }
        let chunk = decode(&[("i", SqlType::Integer)], &text);
        let lines: Vec<u64> = chunk.bad.iter().filter_map(|b| b.line).collect();
        assert_eq!(lines, [18, 41, 42, 43, 100]);
        assert_eq!(chunk.batch.num_rows(), 95);
        assert_eq!(chunk.records, 100);
    }

    #[test]
    fn no_columns_still_count() {
        assert_eq!(decode(&[], "{\"a\":1}\n{\"a\":2}\n").batch.num_rows(), 2);
        assert_eq!(decode(&[("j", SqlType::Json)], "{\"j\":1}\n{\"a\":2}\n").batch.num_rows(), 2);
    }

    #[test]
    fn numbers_as_timestamps_follow_the_unit() {
        let columns = schema(&[("ts", SqlType::Timestamp)]);
        let options = JsonOptions { timestamp_unit: TimeUnit::Millisecond };
        let input = Box::new(std::io::Cursor::new(b"{\"ts\": 1500}\n{\"ts\": \"1970-01-01T00:00:02\"}".to_vec()));
        let chunk = JsonDecoder::new(input, &columns, &options).unwrap().next(10).unwrap().unwrap();
        assert_eq!(show(&chunk), ["| 1970-01-01T00:00:01.500 |", "| 1970-01-01T00:00:02 |"]);
    }
}
