//! CSV: records of text, each column parsed by its SQL type.
//!
//! With a header (the default) columns are found by name, whatever their order and case; without, by their place among the
//! declared columns. Only wanted columns leave the record. An empty field is NULL, quoted or not, unless the option `null` says
//! what NULL looks like.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use csv::ByteRecord;
use datafusion::arrow::array::{ArrayRef, StringBuilder};
use datafusion::arrow::datatypes::SchemaRef;
use tidemark_common::{Error, Result, SqlState, nearest};

use super::json::{CHUNK_BYTES, LONGEST_RECORD, too_long};
use super::record::{RecordDecoder, with_values};
use super::{Chunk, Failures, FileDecoder, assemble, text};
use crate::options::Options;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CsvOptions {
    pub header: bool,
    pub delimiter: u8,
    /// `None`: quotes mean nothing.
    pub quote: Option<u8>,
    /// `None`: a quote is escaped by doubling it.
    pub escape: Option<u8>,
    pub comment: Option<u8>,
    /// What stands for NULL. `None`: an empty field.
    pub null: Option<String>,
}

impl Default for CsvOptions {
    fn default() -> Self {
        Self { header: true, delimiter: b',', quote: Some(b'"'), escape: None, comment: None, null: None }
    }
}

impl CsvOptions {
    pub fn parse(own: &mut Options, with: &mut Options) -> Result<Self> {
        let default = Self::default();
        let bool = |own: &mut Options, with: &mut Options, key| match own.bool(key)? {
            Some(value) => Ok::<_, Error>(Some(value)),
            None => with.bool(key),
        };
        let header = bool(own, with, "header")?;
        let without = bool(own, with, "without_header")?;
        if header.is_some() && without.is_some() {
            return Err(Error::invalid("options \"header\" and \"without_header\" exclude each other"));
        }
        let mut byte = |key, default| match own.take(key).or(with.take(key)) {
            None => Ok(default),
            Some(text) if text.is_empty() => Ok(None),
            Some(text) if text == "\\t" => Ok(Some(b'\t')),
            Some(text) if text.len() == 1 => Ok(Some(text.as_bytes()[0])),
            Some(text) => Err(Error::invalid(format!("option \"{key}\" must be one ASCII character, not \"{text}\""))),
        };
        let delimiter = byte("delimiter", Some(default.delimiter))?;
        Ok(Self {
            header: header.or(without.map(|w| !w)).unwrap_or(default.header),
            delimiter: delimiter.ok_or_else(|| Error::invalid("option \"delimiter\" must not be empty"))?,
            quote: byte("quote", default.quote)?,
            escape: byte("escape", default.escape)?,
            comment: byte("comment", default.comment)?,
            null: own.take("null").or(with.take("null")),
        })
    }

    fn reader<R: Read>(&self, input: R) -> csv::Reader<R> {
        let mut builder = csv::ReaderBuilder::new();
        builder.has_headers(false).flexible(true).delimiter(self.delimiter).comment(self.comment).escape(self.escape);
        match self.quote {
            Some(quote) => builder.quote(quote),
            None => builder.quoting(false),
        };
        builder.from_reader(input)
    }
}

pub struct CsvDecoder {
    reader: csv::Reader<Bounded<Box<dyn Read + Send>>>,
    /// Bytes that the record being read may still take.
    allowance: Arc<AtomicUsize>,
    fields: Fields,
    record: ByteRecord,
}

impl CsvDecoder {
    /// `columns`: the wanted ones, each with its place in the declaration for files without a header, of `declared` columns.
    pub fn new(
        input: Box<dyn Read + Send>,
        columns: &SchemaRef,
        declared_places: &[usize],
        declared: &SchemaRef,
        options: &CsvOptions,
    ) -> Result<Self> {
        let allowance = Arc::new(AtomicUsize::new(LONGEST_RECORD));
        let mut decoder = Self {
            reader: options.reader(Bounded { inner: input, allowance: allowance.clone() }),
            allowance,
            fields: Fields {
                schema: columns.clone(),
                places: declared_places.to_vec(),
                width: declared.fields().len(),
                null: options.null.clone(),
            },
            record: ByteRecord::new(),
        };
        if options.header && decoder.read()? {
            decoder.use_header(declared)?;
        }
        Ok(decoder)
    }

    /// All declared columns must be there, wanted or not: a file without a header would lose its first row unnoticed.
    fn use_header(&mut self, declared: &SchemaRef) -> Result<()> {
        let mut names = Vec::with_capacity(self.record.len());
        for name in &self.record {
            names.push(String::from_utf8_lossy(name).trim_start_matches('\u{feff}').trim().to_string());
        }
        self.fields.width = names.len();
        let place = |name: &str| {
            let exact = names.iter().position(|n| n == name);
            exact.or_else(|| names.iter().position(|n| n.eq_ignore_ascii_case(name)))
        };
        for field in declared.fields() {
            place(field.name()).ok_or_else(|| missing_column(field.name(), &names))?;
        }
        self.fields.places = self
            .fields
            .schema
            .fields()
            .iter()
            .map(|f| place(f.name()).ok_or_else(|| missing_column(f.name(), &names)))
            .collect::<Result<_>>()?;
        Ok(())
    }

    /// Reads a record into `self.record`; false at the end.
    fn read(&mut self) -> Result<bool> {
        self.allowance.store(LONGEST_RECORD, Ordering::Relaxed);
        self.reader.read_byte_record(&mut self.record).map_err(|error| {
            if self.allowance.load(Ordering::Relaxed) == 0 {
                return too_long(self.reader.position().line());
            }
            match error.into_kind() {
                csv::ErrorKind::Io(error) => Error::from(error),
                other => Error::new(SqlState::BadCopyFileFormat, format!("{other:?}")),
            }
        })
    }
}

/// A column that a file does not have.
pub(super) fn missing_column(column: &str, names: &[String]) -> Error {
    let error = Error::new(SqlState::UndefinedColumn, format!("the file has no column \"{column}\""));
    match nearest(column, names.iter().map(String::as_str)) {
        Some(near) => error.with_hint(format!("Perhaps it is \"{near}\".")),
        None => error
            .with_detail(format!("It has: {}.", names.join(", ")))
            .with_hint("For CSV without a header: header = 'false'."),
    }
}

impl FileDecoder for CsvDecoder {
    fn skip(&mut self, records: u64) -> Result<u64> {
        let mut skipped = 0;
        while skipped < records && self.read()? {
            skipped += 1;
        }
        Ok(skipped)
    }

    fn next(&mut self, most: usize) -> Result<Option<Chunk>> {
        let mut columns = self.fields.builders();
        let mut lines = Vec::new();
        let mut failures = Vec::new();
        let mut bytes = 0;
        while lines.len() < most && bytes < CHUNK_BYTES && self.read()? {
            bytes += self.record.as_slice().len();
            if let Err(error) = self.fields.append(&self.record, &mut columns) {
                failures.push((lines.len(), error));
            }
            lines.push(self.record.position().map_or(0, csv::Position::line));
        }
        if lines.is_empty() {
            return Ok(None);
        }
        let columns = self.fields.parse(columns, &mut failures)?;
        assemble(&self.fields.schema, columns, lines.len(), failures, |record| Some(lines[record])).map(Some)
    }
}

/// Which fields of a record are wanted.
struct Fields {
    schema: SchemaRef,
    /// Where in the record each column of `schema` is.
    places: Vec<usize>,
    /// Fields that a record must have.
    width: usize,
    null: Option<String>,
}

impl Fields {
    fn builders(&self) -> Vec<StringBuilder> {
        self.places.iter().map(|_| StringBuilder::new()).collect()
    }

    /// Adds the wanted fields of the record, or NULLs and why.
    fn append(&self, record: &ByteRecord, builders: &mut [StringBuilder]) -> Result<()> {
        let mut result = Ok(());
        if record.len() != self.width {
            result = Err(Error::new(
                SqlState::BadCopyFileFormat,
                format!("the record has {} fields instead of {}", record.len(), self.width),
            ));
        }
        for (builder, &place) in builders.iter_mut().zip(&self.places) {
            let field = if result.is_ok() { record.get(place) } else { None };
            match field.map(std::str::from_utf8) {
                None => builder.append_null(),
                Some(Ok(value)) if self.is_null(value) => builder.append_null(),
                Some(Ok(value)) => builder.append_value(value),
                Some(Err(_)) => {
                    builder.append_null();
                    result = Err(text::not_utf8());
                }
            }
        }
        result
    }

    fn is_null(&self, value: &str) -> bool {
        match &self.null {
            None => value.is_empty(),
            Some(null) => value == null,
        }
    }

    /// The values of the columns.
    fn parse(&self, columns: Vec<StringBuilder>, failures: &mut Failures) -> Result<Vec<ArrayRef>> {
        let parsed = self.schema.fields().iter().zip(columns).map(|(field, mut texts)| {
            let parsed = text::parse(&texts.finish(), field)?;
            failures.extend(parsed.failures.into_iter().map(|(row, error)| {
                let named = error.message().starts_with("column ");
                (row, if named { error } else { text::in_column(error, field) })
            }));
            Ok(parsed.array)
        });
        parsed.collect()
    }
}

/// Decodes records that are already cut apart.
pub(crate) struct CsvRecords {
    options: CsvOptions,
    fields: Fields,
}

impl CsvRecords {
    /// `places` of the columns of `schema` in a record of `width` fields.
    pub fn new(schema: &SchemaRef, places: &[usize], width: usize, options: &CsvOptions) -> Self {
        let fields = Fields { schema: schema.clone(), places: places.to_vec(), width, null: options.null.clone() };
        Self { options: options.clone(), fields }
    }

    fn append(&self, value: &[u8], record: &mut ByteRecord, columns: &mut [StringBuilder]) -> Result<()> {
        let mut reader = self.options.reader(value);
        let first = reader.read_byte_record(record);
        let read = first.and_then(|is_one| Ok(is_one && !reader.read_byte_record(&mut ByteRecord::new())?));
        if !matches!(read, Ok(true)) {
            record.clear();
        }
        let appended = self.fields.append(record, columns);
        match read {
            Ok(true) => appended,
            Ok(false) => Err(Error::new(SqlState::BadCopyFileFormat, "the record is not exactly one line of CSV")),
            Err(error) => Err(Error::new(SqlState::BadCopyFileFormat, error.to_string())),
        }
    }
}

impl RecordDecoder for CsvRecords {
    fn columns(&self, records: &[Option<&[u8]>]) -> Result<(Vec<ArrayRef>, Failures)> {
        let (values, mut failures) = with_values(records, b"");
        let (mut columns, mut record) = (self.fields.builders(), ByteRecord::new());
        for (at, value) in values.into_iter().enumerate() {
            if let Err(error) = self.append(value, &mut record, &mut columns) {
                failures.push((at, error));
            }
        }
        let columns = self.fields.parse(columns, &mut failures)?;
        Ok((columns, failures))
    }
}

/// Stops a record that does not end, such as one with an open quote.
struct Bounded<R> {
    inner: R,
    allowance: Arc<AtomicUsize>,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let left = self.allowance.load(Ordering::Relaxed);
        if left == 0 {
            return Err(io::Error::other("record too long"));
        }
        let read = self.inner.read(into)?;
        self.allowance.store(left.saturating_sub(read), Ordering::Relaxed);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::Array;
    use datafusion::arrow::datatypes::Schema;
    use datafusion::arrow::util::pretty::pretty_format_batches;
    use tidemark_common::types::SqlType;

    use super::*;

    fn decode(columns: &[(&str, SqlType)], options: &CsvOptions, text: &str) -> Result<Chunk> {
        let schema = Arc::new(Schema::new(columns.iter().map(|(n, t)| t.to_field(n, true)).collect::<Vec<_>>()));
        let input = Box::new(io::Cursor::new(text.as_bytes().to_vec()));
        let places: Vec<usize> = (0..columns.len()).collect();
        let mut decoder = CsvDecoder::new(input, &schema, &places, &schema, options)?;
        Ok(decoder.next(1000)?.expect("rows"))
    }

    fn show(chunk: &Chunk) -> Vec<String> {
        let table = pretty_format_batches(std::slice::from_ref(&chunk.batch)).unwrap().to_string();
        let lines: Vec<&str> = table.lines().collect();
        lines[3..lines.len() - 1].iter().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    }

    #[test]
    fn columns_are_found_by_header() {
        let columns = [("b", SqlType::Text), ("a", SqlType::Integer)];
        let chunk = decode(&columns, &CsvOptions::default(), "\u{feff}A,x,B\n1,9,\"p,\"\"q\"\"\"\n,9,\n").unwrap();
        assert_eq!(show(&chunk), ["| p,\"q\" | 1 |", "| | |"]);
        let error = decode(&[("bb", SqlType::Text)], &CsvOptions::default(), "a,b\n1,2\n").unwrap_err();
        assert_eq!(error.code(), "42703");
        assert_eq!(error.hint(), Some("Perhaps it is \"b\"."));
    }

    #[test]
    fn options_change_the_dialect() {
        let options = CsvOptions {
            header: false,
            delimiter: b';',
            quote: Some(b'\''),
            escape: Some(b'\\'),
            comment: Some(b'#'),
            null: Some("\\N".to_string()),
        };
        let columns = [("a", SqlType::Text), ("b", SqlType::Integer)];
        let chunk = decode(&columns, &options, "#no\n'x;\\'y';1\n;2\n\\\\N;\\\\N\n").unwrap();
        assert_eq!(chunk.records, 3);
        assert_eq!(show(&chunk)[..2], ["| x;'y | 1 |", "| | 2 |"]);
        assert_eq!(chunk.batch.column(0).null_count(), 0);
    }

    #[test]
    fn bad_records_are_named_by_line() {
        let columns = [("a", SqlType::Integer), ("b", SqlType::Date)];
        let text = "a,b\n1,2024-01-01\nx,2024-01-01\n3\n\"4\",2024-99-01\n5,2024-01-05\n";
        let chunk = decode(&columns, &CsvOptions::default(), text).unwrap();
        let bad: Vec<(Option<u64>, &str)> = chunk.bad.iter().map(|b| (b.line, b.reason.message())).collect();
        assert_eq!(
            bad,
            [
                (Some(3), "column \"a\": invalid input syntax for type integer: \"x\""),
                (Some(4), "the record has 1 fields instead of 2"),
                (Some(5), "column \"b\": invalid input syntax for type date: \"2024-99-01\""),
            ]
        );
        assert_eq!(show(&chunk), ["| 1 | 2024-01-01 |", "| 5 | 2024-01-05 |"]);
    }
}
