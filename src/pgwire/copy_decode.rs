//! COPY data into columns: text, csv and binary, in pieces of any size.
//!
//! ```text
//!   CopyData bytes ──push──▶ pending ──whole rows──▶ ColumnBuilders ──take_batch──▶ RecordBatch
//! ```
//!
//! What is kept is one incomplete row and one batch, both bounded. A field is read where it lies in `pending`, unless it has
//! escapes or quotes.

use bytes::{Buf, BytesMut};
use datafusion::arrow::array::{RecordBatch, RecordBatchOptions};
use datafusion::arrow::datatypes::SchemaRef;
use memchr::{memchr, memchr2};
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
    /// The last field that was not as it was sent, as it is meant.
    unescaped: Vec<u8>,
}

/// How far the incomplete line at the front of `pending` has been looked at.
#[derive(Debug, Default, Clone, Copy)]
struct Scan {
    at: usize,
    in_quotes: bool,
}

/// A field of a line before its type is looked at.
enum Field<'a> {
    Null,
    /// As it was sent.
    Text(&'a str),
    /// In `CopyDecoder::unescaped`.
    Unescaped,
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
            unescaped: Vec::new(),
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
        if self.take_rows(false)? {
            return self.take_batch().map(Some);
        }
        if self.pending.len() > MAX_ROW_BYTES {
            return Err(self.report(
                Error::new(
                    SqlState::ProgramLimitExceeded,
                    format!("a row of COPY data is longer than {MAX_ROW_BYTES} bytes"),
                ),
                None,
            ));
        }
        Ok(None)
    }

    /// All data has come: the rows that are left, if any.
    pub fn finish(&mut self) -> Decoded<Option<RecordBatch>> {
        self.take_rows(true)?;
        if self.rows == 0 { Ok(None) } else { self.take_batch().map(Some) }
    }

    /// Moves rows from `pending` to the builders; true once they are enough for a batch.
    fn take_rows(&mut self, at_end: bool) -> Decoded<bool> {
        let mut pending = std::mem::take(&mut self.pending);
        let mut taken = 0;
        let is_full = loop {
            if self.rows >= BATCH_ROWS || self.bytes >= BATCH_BYTES {
                break true;
            }
            if self.ended {
                pending.clear();
                return Ok(false);
            }
            match self.take_row(&pending[taken..], at_end)? {
                Some(bytes) => taken += bytes,
                None => break false,
            }
        };
        pending.advance(taken);
        self.pending = pending;
        Ok(is_full)
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

    /// Takes the row (or the header) at the front of `pending`: its bytes. `None` if it is not whole.
    fn take_row(&mut self, pending: &[u8], at_end: bool) -> Decoded<Option<usize>> {
        match self.options.format {
            CopyFormat::Binary => self.take_tuple(pending, at_end),
            _ => self.take_line(pending, at_end),
        }
    }

    fn take_line(&mut self, pending: &[u8], at_end: bool) -> Decoded<Option<usize>> {
        let (line, taken) = match self.find_line_end(pending) {
            Some(end) => (&pending[..end], end + 1),
            None if !at_end || pending.is_empty() => return Ok(None),
            None => (pending, pending.len()),
        };
        self.line += 1;
        if std::mem::take(&mut self.scan).in_quotes {
            return Err(self.bad_format("unterminated CSV quoted field"));
        }
        self.decode_line(line)?;
        Ok(Some(taken))
    }

    /// Where the first line ends, looking only at what has not been looked at.
    fn find_line_end(&mut self, pending: &[u8]) -> Option<usize> {
        let csv = self.options.format == CopyFormat::Csv;
        let (quote, escape) = (self.options.quote, self.options.escape);
        let scan = &mut self.scan;
        loop {
            let rest = &pending[scan.at..];
            // What may end the line, or hide its end.
            let found = match (csv, scan.in_quotes) {
                (false, _) => memchr2(b'\n', b'\\', rest),
                (true, false) => memchr2(b'\n', quote, rest),
                (true, true) => memchr2(quote, escape, rest),
            };
            let Some(found) = found else {
                scan.at = pending.len();
                return None;
            };
            let (at, byte) = (scan.at + found, rest[found]);
            scan.at = at + 1;
            if byte == b'\n' {
                return Some(at);
            }
            if csv && byte == quote {
                // A doubled quote leaves and enters again.
                scan.in_quotes = !scan.in_quotes;
            } else if scan.at < pending.len() {
                scan.at += 1;
            } else {
                // What it escapes has not come yet.
                scan.at = at;
                return None;
            }
        }
    }

    fn decode_line(&mut self, line: &[u8]) -> Decoded<()> {
        self.bytes += line.len();
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line == b"\\." {
            self.ended = true;
            return Ok(());
        }
        if !self.header_done {
            self.header_done = true;
            return Ok(());
        }
        let mut rest = Some(checked_text(line).map_err(|error| self.report(error, None))?);
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
        let text = match field {
            Field::Null => {
                self.builders[at].append_null();
                return Ok(());
            }
            Field::Text(text) => text,
            Field::Unescaped => checked_text(&self.unescaped).map_err(|error| self.report(error, Some((at, None))))?,
        };
        let appended = self.builders[at].append_text(text, &self.style);
        appended.map_err(|error| self.report(error, Some((at, Some(text)))))
    }

    /// Up to the next delimiter that is not escaped, and what comes after it.
    fn text_field<'a>(&mut self, line: &'a str) -> (Field<'a>, Option<&'a str>) {
        let bytes = line.as_bytes();
        let delimiter = self.options.delimiter;
        let mut end = bytes.iter().position(|b| *b == delimiter || *b == b'\\').unwrap_or(bytes.len());
        let has_escape = bytes.get(end) == Some(&b'\\');
        while end < bytes.len() && bytes[end] != delimiter {
            end += if bytes[end] == b'\\' { 2 } else { 1 };
        }
        let end = end.min(bytes.len());
        let (raw, after) = (&line[..end], line.get(end + 1..));
        if raw == self.options.null {
            return (Field::Null, after);
        }
        if !has_escape {
            return (Field::Text(raw), after);
        }
        self.unescaped.clear();
        unescape(raw.as_bytes(), &mut self.unescaped);
        (Field::Unescaped, after)
    }

    fn csv_field<'a>(&mut self, line: &'a str, column: usize) -> Decoded<(Field<'a>, Option<&'a str>)> {
        let CopyOptions { delimiter, quote, escape, .. } = self.options;
        let bytes = line.as_bytes();
        let plain = bytes.iter().position(|b| *b == delimiter || *b == quote).unwrap_or(bytes.len());
        if bytes.get(plain) != Some(&quote) {
            let field = &line[..plain];
            let is_null = field == self.options.null && !self.options.force_not_null.contains(&column);
            return Ok((if is_null { Field::Null } else { Field::Text(field) }, line.get(plain + 1..)));
        }
        self.unescaped.clear();
        self.unescaped.extend_from_slice(&bytes[..plain]);
        let mut at = plain;
        let mut in_quotes = false;
        while at < bytes.len() {
            let byte = bytes[at];
            if in_quotes {
                let next = bytes.get(at + 1).copied();
                if byte == escape && next.is_some_and(|next| next == quote || next == escape) {
                    self.unescaped.push(bytes[at + 1]);
                    at += 2;
                    continue;
                }
                if byte == quote {
                    in_quotes = false;
                } else {
                    self.unescaped.push(byte);
                }
            } else if byte == delimiter {
                break;
            } else if byte == quote {
                in_quotes = true;
            } else {
                self.unescaped.push(byte);
            }
            at += 1;
        }
        if in_quotes {
            return Err(self.bad_format("unterminated CSV quoted field"));
        }
        let is_null = self.unescaped == self.options.null.as_bytes() && self.options.force_null.contains(&column);
        Ok((if is_null { Field::Null } else { Field::Unescaped }, line.get(at + 1..)))
    }

    /// A tuple of a binary COPY, or its header.
    fn take_tuple(&mut self, pending: &[u8], at_end: bool) -> Decoded<Option<usize>> {
        if !self.header_done {
            return self.take_header(pending, at_end);
        }
        let Some(size) = self.tuple_size(pending)? else {
            return if at_end { Err(self.bad_format("unexpected EOF in COPY data")) } else { Ok(None) };
        };
        if self.ended {
            return Ok(Some(size));
        }
        let mut rest = &pending[2..size];
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
        self.bytes += size;
        Ok(Some(size))
    }

    fn take_header(&mut self, pending: &[u8], at_end: bool) -> Decoded<Option<usize>> {
        const FIXED: usize = 19;
        let known = pending.len().min(BINARY_SIGNATURE.len());
        if pending[..known] != BINARY_SIGNATURE[..known] || (at_end && pending.len() < FIXED) {
            return Err(self.bad_format("COPY file signature not recognized"));
        }
        let Some(head) = pending.get(BINARY_SIGNATURE.len()..FIXED) else {
            return Ok(None);
        };
        let (mut flags, mut extension) = head.split_at(4);
        let (flags, extension) = (flags.get_u32(), extension.get_i32());
        if flags & 0xffff_0000 != 0 {
            return Err(self.bad_format("unrecognized critical flags in COPY file header"));
        }
        let Some(extension) = usize::try_from(extension).ok().filter(|size| *size <= MAX_ROW_BYTES) else {
            return Err(self.bad_format("invalid COPY file header (wrong length)"));
        };
        if pending.len() < FIXED + extension {
            return if at_end { Err(self.bad_format("invalid COPY file header (missing length)")) } else { Ok(None) };
        }
        self.header_done = true;
        Ok(Some(FIXED + extension))
    }

    /// Bytes of the tuple at the front if it is whole and right; sets `ended` at the trailer.
    fn tuple_size(&mut self, pending: &[u8]) -> Decoded<Option<usize>> {
        let Some(mut count) = pending.get(..2) else {
            return Ok(None);
        };
        let count = count.get_i16();
        if count == -1 {
            if pending.len() > 2 {
                return Err(self.bad_format("received copy data after EOF marker"));
            }
            self.ended = true;
            return Ok(Some(2));
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
            let Some(mut size) = pending.get(at..at + 4) else {
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
        if pending.len() < at {
            return Ok(None);
        }
        self.scan.at = 0;
        Ok(Some(at))
    }
}

fn checked_text(bytes: &[u8]) -> Result<&str> {
    match std::str::from_utf8(bytes) {
        Ok(text) if memchr(0, bytes).is_none() => Ok(text),
        _ => Err(Error::new(SqlState::InvalidTextRepresentation, "invalid byte sequence for encoding \"UTF8\"")),
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
