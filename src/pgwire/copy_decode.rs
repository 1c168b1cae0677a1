//! COPY data into columns: text, csv and binary, in pieces of any size.
//!
//! ```text
//!   CopyData bytes ──push──▶ pending ──whole rows──▶ ColumnBuilders ──take_batch──▶ RecordBatch
//! ```
//!
//! What is kept is one incomplete row and one batch, both bounded.

use bytes::{Buf, BytesMut};
use datafusion::arrow::array::{RecordBatch, RecordBatchOptions};
use datafusion::arrow::datatypes::SchemaRef;
use tidemark_common::types::SqlType;
use tidemark_common::{Error, Result, SqlState};

use super::copy_out::BINARY_SIGNATURE;
use super::errors::Report;
use super::message::MAX_MESSAGE_BYTES;
use crate::session::{CopyFormat, CopyIn, CopyOptions};
use tidemark_common::values::{ColumnBuilder, Style};

/// A batch is handed on when it has this many rows or was read from this many bytes.
const BATCH_ROWS: usize = 8192;
const BATCH_BYTES: usize = 4 << 20;
/// Longest row.
const MAX_ROW_BYTES: usize = MAX_MESSAGE_BYTES;
/// Longest value that an error quotes.
const MAX_QUOTED: usize = 100;

type Decoded<T> = std::result::Result<T, Report>;

pub(super) struct CopyDecoder {
    schema: SchemaRef,
    options: CopyOptions,
    style: Style,
    builders: Vec<ColumnBuilder>,
    rows: usize,
    bytes: usize,
    pending: BytesMut,
    scan: Scan,
    /// Lines seen, or tuples of a binary COPY.
    line: u64,
    header_done: bool,
    /// `\.` or the trailer has come: what follows does not count.
    ended: bool,
    field: Vec<u8>,
}

/// How far the incomplete line at the front of `pending` has been looked at.
#[derive(Debug, Default, Clone, Copy)]
struct Scan {
    at: usize,
    in_quotes: bool,
    escaped: bool,
}

/// A field of a line before its type is looked at.
enum Field {
    Null,
    /// The text is in `CopyDecoder::field`.
    Text,
}

impl CopyDecoder {
    pub fn new(copy: CopyIn, style: Style) -> Result<Self> {
        let types = copy.schema.fields().iter().map(|field| SqlType::from_field(field));
        Ok(Self {
            builders: types.map(|t| ColumnBuilder::new(&t)).collect::<Result<_>>()?,
            header_done: copy.options.format != CopyFormat::Binary && !copy.options.header,
            schema: copy.schema,
            options: copy.options,
            style,
            rows: 0,
            bytes: 0,
            pending: BytesMut::new(),
            scan: Scan::default(),
            line: 0,
            ended: false,
            field: Vec::new(),
        })
    }

    /// More data. Call [`Self::next_batch`] until it gives none.
    pub fn push(&mut self, data: &[u8]) {
        if !self.ended {
            self.pending.extend_from_slice(data);
        }
    }

    /// Decodes what is there; a batch once it is large enough.
    pub fn next_batch(&mut self) -> Decoded<Option<RecordBatch>> {
        while self.rows < BATCH_ROWS && self.bytes < BATCH_BYTES {
            if self.ended || !self.take_row(false)? {
                if self.pending.len() > MAX_ROW_BYTES {
                    return Err(self.report(
                        Error::new(
                            SqlState::ProgramLimitExceeded,
                            format!("a row of COPY data is longer than {MAX_ROW_BYTES} bytes"),
                        ),
                        None,
                    ));
                }
                return Ok(None);
            }
        }
        self.take_batch().map(Some)
    }

    /// All data has come: the rows that are left, if any.
    pub fn finish(&mut self) -> Decoded<Option<RecordBatch>> {
        while !self.ended && self.rows < BATCH_ROWS && self.take_row(true)? {}
        if self.rows == 0 { Ok(None) } else { self.take_batch().map(Some) }
    }

    fn take_batch(&mut self) -> Decoded<RecordBatch> {
        let rows = std::mem::take(&mut self.rows);
        self.bytes = 0;
        let columns = self.builders.iter_mut().map(ColumnBuilder::finish).collect::<Result<Vec<_>>>();
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        columns
            .and_then(|columns| {
                // Nulls in columns that are declared not null are the session's to refuse.
                let fields: Vec<_> =
                    self.schema.fields().iter().map(|f| f.as_ref().clone().with_nullable(true)).collect();
                let schema = datafusion::arrow::datatypes::Schema::new(fields);
                Ok(RecordBatch::try_new_with_options(schema.into(), columns, &options)?)
            })
            .map_err(|error| self.report(error, None))
    }

    /// An error and where it was found. `column` with the value that was being read.
    fn report(&self, error: Error, column: Option<(usize, Option<&str>)>) -> Report {
        let mut context = format!("COPY, line {}", self.line);
        if let Some((at, value)) = column {
            context.push_str(&format!(", column {}", self.schema.field(at).name()));
            if let Some(value) = value {
                let end = value.floor_char_boundary(MAX_QUOTED);
                let dots = if end < value.len() { "..." } else { "" };
                context.push_str(&format!(": \"{}{dots}\"", &value[..end]));
            }
        }
        Report { error, context: Some(context) }
    }

    fn bad_format(&self, message: impl Into<String>) -> Report {
        self.report(Error::new(SqlState::BadCopyFileFormat, message), None)
    }

    /// True if a row (or the header) was taken off `pending`; false if there is no whole one.
    fn take_row(&mut self, at_end: bool) -> Decoded<bool> {
        match self.options.format {
            CopyFormat::Binary => self.take_tuple(at_end),
            _ => self.take_line(at_end),
        }
    }

    fn take_line(&mut self, at_end: bool) -> Decoded<bool> {
        let Some(end) = self.find_line_end() else {
            if !at_end || self.pending.is_empty() {
                return Ok(false);
            }
            self.line += 1;
            if self.scan.in_quotes {
                return Err(self.bad_format("unterminated CSV quoted field"));
            }
            let line = self.pending.split();
            self.scan = Scan::default();
            self.decode_line(&line)?;
            return Ok(true);
        };
        self.line += 1;
        let line = self.pending.split_to(end);
        self.pending.advance(1);
        self.scan = Scan::default();
        self.decode_line(&line)?;
        Ok(true)
    }

    /// Where the first line ends, looking only at what has not been looked at.
    fn find_line_end(&mut self) -> Option<usize> {
        let csv = self.options.format == CopyFormat::Csv;
        let (quote, escape) = (self.options.quote, self.options.escape);
        let scan = &mut self.scan;
        for (at, byte) in self.pending.iter().copied().enumerate().skip(scan.at) {
            if scan.escaped {
                scan.escaped = false;
            } else if csv {
                if scan.in_quotes && byte == escape && escape != quote {
                    scan.escaped = true;
                } else if byte == quote {
                    // A doubled quote leaves and enters again.
                    scan.in_quotes = !scan.in_quotes;
                } else if byte == b'\n' && !scan.in_quotes {
                    return Some(at);
                }
            } else if byte == b'\\' {
                scan.escaped = true;
            } else if byte == b'\n' {
                return Some(at);
            }
        }
        scan.at = self.pending.len();
        None
    }

    fn decode_line(&mut self, line: &[u8]) -> Decoded<()> {
        self.bytes += line.len();
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line == b"\\." {
            self.ended = true;
            self.pending.clear();
            return Ok(());
        }
        if !self.header_done {
            self.header_done = true;
            return Ok(());
        }
        let mut rest = Some(line);
        for at in 0..self.builders.len() {
            let Some(text) = rest else {
                let name = self.schema.field(at).name();
                return Err(self.bad_format(format!("missing data for column \"{name}\"")));
            };
            let (field, after) = match self.options.format {
                CopyFormat::Csv => self.csv_field(text, at)?,
                _ => self.text_field(text),
            };
            rest = after;
            self.append(at, field)?;
        }
        if rest.is_some_and(|rest| !self.builders.is_empty() || !rest.is_empty()) {
            return Err(self.bad_format("extra data after last expected column"));
        }
        self.rows += 1;
        Ok(())
    }

    fn append(&mut self, at: usize, field: Field) -> Decoded<()> {
        if let Field::Null = field {
            self.builders[at].append_null();
            return Ok(());
        }
        let field = std::mem::take(&mut self.field);
        let result = match std::str::from_utf8(&field) {
            Ok(text) if !text.contains('\0') => {
                self.builders[at].append_text(text, &self.style).map_err(|error| (error, Some(text)))
            }
            _ => {
                let message = "invalid byte sequence for encoding \"UTF8\"";
                Err((Error::new(SqlState::InvalidTextRepresentation, message), None))
            }
        };
        let result = result.map_err(|(error, text)| self.report(error, Some((at, text))));
        self.field = field;
        result
    }

    /// Up to the next delimiter that is not escaped, and what comes after it.
    fn text_field<'a>(&mut self, line: &'a [u8]) -> (Field, Option<&'a [u8]>) {
        let mut end = 0;
        let mut has_escape = false;
        while end < line.len() && line[end] != self.options.delimiter {
            if line[end] == b'\\' {
                has_escape = true;
                end += 1;
            }
            end += 1;
        }
        let end = end.min(line.len());
        let raw = &line[..end];
        let after = line.get(end + 1..);
        if raw == self.options.null.as_bytes() {
            return (Field::Null, after);
        }
        self.field.clear();
        if has_escape {
            unescape(raw, &mut self.field);
        } else {
            self.field.extend_from_slice(raw);
        }
        (Field::Text, after)
    }

    fn csv_field<'a>(&mut self, line: &'a [u8], column: usize) -> Decoded<(Field, Option<&'a [u8]>)> {
        let CopyOptions { delimiter, quote, escape, .. } = self.options;
        self.field.clear();
        let mut at = 0;
        let mut was_quoted = false;
        let mut in_quotes = false;
        while at < line.len() {
            let byte = line[at];
            if in_quotes {
                let next = line.get(at + 1).copied();
                if byte == escape && next.is_some_and(|next| next == quote || next == escape) {
                    self.field.push(line[at + 1]);
                    at += 2;
                    continue;
                }
                if byte == quote {
                    in_quotes = false;
                } else {
                    self.field.push(byte);
                }
            } else if byte == delimiter {
                break;
            } else if byte == quote {
                in_quotes = true;
                was_quoted = true;
            } else {
                self.field.push(byte);
            }
            at += 1;
        }
        if in_quotes {
            return Err(self.bad_format("unterminated CSV quoted field"));
        }
        let is_null_text = self.field == self.options.null.as_bytes();
        let is_null = is_null_text
            && if was_quoted {
                self.options.force_null.contains(&column)
            } else {
                !self.options.force_not_null.contains(&column)
            };
        Ok((if is_null { Field::Null } else { Field::Text }, line.get(at + 1..)))
    }

    /// A tuple of a binary COPY, or its header.
    fn take_tuple(&mut self, at_end: bool) -> Decoded<bool> {
        if !self.header_done {
            return self.take_header(at_end);
        }
        let Some(size) = self.tuple_size()? else {
            return if at_end { Err(self.bad_format("unexpected EOF in COPY data")) } else { Ok(false) };
        };
        if self.ended {
            return Ok(true);
        }
        let tuple = self.pending.split_to(size);
        let mut rest = &tuple[2..];
        for at in 0..self.builders.len() {
            let size = rest.get_i32();
            let result = match usize::try_from(size) {
                Ok(size) => {
                    let (value, after) = rest.split_at(size);
                    rest = after;
                    self.builders[at].append_binary(value)
                }
                Err(_) => {
                    self.builders[at].append_null();
                    Ok(())
                }
            };
            result.map_err(|error| self.report(error, Some((at, None))))?;
        }
        self.rows += 1;
        self.bytes += tuple.len();
        Ok(true)
    }

    fn take_header(&mut self, at_end: bool) -> Decoded<bool> {
        const FIXED: usize = 19;
        let known = self.pending.len().min(BINARY_SIGNATURE.len());
        if self.pending[..known] != BINARY_SIGNATURE[..known] || (at_end && self.pending.len() < FIXED) {
            return Err(self.bad_format("COPY file signature not recognized"));
        }
        let Some(head) = self.pending.get(BINARY_SIGNATURE.len()..FIXED) else {
            return Ok(false);
        };
        let (mut flags, mut extension) = head.split_at(4);
        let (flags, extension) = (flags.get_u32(), extension.get_i32());
        if flags & 0xffff_0000 != 0 {
            return Err(self.bad_format("unrecognized critical flags in COPY file header"));
        }
        let Some(extension) = usize::try_from(extension).ok().filter(|size| *size <= MAX_ROW_BYTES) else {
            return Err(self.bad_format("invalid COPY file header (wrong length)"));
        };
        if self.pending.len() < FIXED + extension {
            return if at_end { Err(self.bad_format("invalid COPY file header (missing length)")) } else { Ok(false) };
        }
        self.pending.advance(FIXED + extension);
        self.header_done = true;
        Ok(true)
    }

    /// Bytes of the tuple at the front if it is whole and right; sets `ended` at the trailer.
    fn tuple_size(&mut self) -> Decoded<Option<usize>> {
        let Some(mut count) = self.pending.get(..2) else {
            return Ok(None);
        };
        let count = count.get_i16();
        if count == -1 {
            if self.pending.len() > 2 {
                return Err(self.bad_format("received copy data after EOF marker"));
            }
            self.ended = true;
            self.pending.clear();
            return Ok(Some(0));
        }
        if self.scan.at == 0 {
            self.line += 1;
            self.scan.at = 2;
        }
        let expected = self.builders.len();
        if usize::try_from(count).ok() != Some(expected) {
            return Err(self.bad_format(format!("row field count is {count}, expected {expected}")));
        }
        let mut at = 2;
        for column in 0..expected {
            let Some(mut size) = self.pending.get(at..at + 4) else {
                return Ok(None);
            };
            at += 4;
            match size.get_i32() {
                -1 => {}
                size => match usize::try_from(size) {
                    Ok(size) => at += size,
                    Err(_) => {
                        let error = Error::new(SqlState::BadCopyFileFormat, "invalid field size");
                        return Err(self.report(error, Some((column, None))));
                    }
                },
            }
        }
        if self.pending.len() < at {
            return Ok(None);
        }
        self.scan.at = 0;
        Ok(Some(at))
    }
}

/// `\t`, `\n`, `\x41`, `\101`, and any other character for itself.
fn unescape(raw: &[u8], out: &mut Vec<u8>) {
    let mut rest = raw;
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'\\' {
            out.push(*first);
            continue;
        }
        let Some((letter, after)) = rest.split_first() else {
            out.push(b'\\');
            return;
        };
        rest = after;
        out.push(match letter {
            b'b' => 0x08,
            b'f' => 0x0c,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'v' => 0x0b,
            b'0'..=b'7' => digits(letter - b'0', &mut rest, 8, 2),
            b'x' if rest.first().is_some_and(u8::is_ascii_hexdigit) => digits(0, &mut rest, 16, 2),
            other => *other,
        });
    }
}

fn digits(first: u8, rest: &mut &[u8], radix: u32, most: usize) -> u8 {
    let mut value = u32::from(first);
    for _ in 0..most {
        let Some(digit) = rest.first().and_then(|b| char::from(*b).to_digit(radix)) else {
            break;
        };
        value = value * radix + digit;
        *rest = &rest[1..];
    }
    value as u8
}
