//! COPY's binary format to record batches.
//!
//! ```text
//!   "PGCOPY\n\xff\r\n\0" flags extension │ fields: i16, then for each: length i32, bytes │ .. │ -1
//! ```
//!
//! Bytes may break anywhere; a row is taken when all of it is there.

use bytes::{Buf, BytesMut};
use datafusion::arrow::array::{RecordBatch, RecordBatchOptions};
use datafusion::arrow::datatypes::{FieldRef, SchemaRef};
use tidemark_common::types::SqlType;
use tidemark_common::values::ColumnBuilder;
use tidemark_common::{Error, Result, SqlState};

use crate::CHUNK_ROWS;

const SIGNATURE: &[u8; 11] = b"PGCOPY\n\xff\r\n\0";
/// Signature, flags, and the length of the extension.
const HEADER: usize = 19;

/// Bytes of a batch, at most, but for the row that goes beyond them.
const CHUNK_BYTES: usize = 4 << 20;

pub struct Decoder {
    schema: SchemaRef,
    columns: Vec<ColumnBuilder>,
    /// What has come and is not decoded.
    buffer: BytesMut,
    started: bool,
    ended: bool,
    rows: usize,
    bytes: usize,
}

impl Decoder {
    pub fn new(schema: SchemaRef) -> Result<Self> {
        let builder = |field: &FieldRef| {
            let mut builder = ColumnBuilder::new(&SqlType::from_field(field))?;
            builder.refuse_rounding();
            Ok(builder)
        };
        let columns = schema.fields().iter().map(builder).collect::<Result<_>>()?;
        Ok(Self { schema, columns, buffer: BytesMut::new(), started: false, ended: false, rows: 0, bytes: 0 })
    }

    pub fn push(&mut self, bytes: &[u8]) -> Result<()> {
        self.buffer.extend_from_slice(bytes);
        while !self.is_full() && self.step()? {}
        Ok(())
    }

    /// Goes on with what an earlier push has left.
    pub fn go_on(&mut self) -> Result<()> {
        self.push(&[])
    }

    /// A batch is complete.
    pub fn is_full(&self) -> bool {
        self.rows >= CHUNK_ROWS || self.bytes >= CHUNK_BYTES
    }

    /// No row has come since the last batch.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// The rows so far, if there are any.
    pub fn take(&mut self) -> Result<Option<RecordBatch>> {
        if self.rows == 0 {
            return Ok(None);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(self.rows));
        let columns = self.columns.iter_mut().map(ColumnBuilder::finish).collect::<Result<_>>()?;
        (self.rows, self.bytes) = (0, 0);
        Ok(Some(RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)?))
    }

    /// No more will come.
    pub fn finish(&self) -> Result<()> {
        match self.ended {
            true => Ok(()),
            false => Err(malformed("the rows ended before their end marker")),
        }
    }

    /// Header or one row; false if it is not all there.
    fn step(&mut self) -> Result<bool> {
        if !self.started {
            return self.header();
        }
        if self.ended {
            return match self.buffer.is_empty() {
                true => Ok(false),
                false => Err(malformed("there are bytes behind the end marker")),
            };
        }
        let Some(mut rest) = self.buffer.get(..).filter(|b| b.len() >= 2) else { return Ok(false) };
        let fields = rest.get_i16();
        if fields == -1 {
            self.buffer.advance(2);
            self.ended = true;
            return Ok(true);
        }
        if usize::try_from(fields).ok() != Some(self.columns.len()) {
            return Err(malformed(format!("a row of {fields} columns, not {}", self.columns.len())));
        }
        let Some(length) = row_length(rest, self.columns.len())? else { return Ok(false) };
        self.row(length)?;
        Ok(true)
    }

    fn header(&mut self) -> Result<bool> {
        let Some(header) = self.buffer.get(..HEADER) else { return Ok(false) };
        if !header.starts_with(SIGNATURE) {
            return Err(malformed("the signature of COPY is missing"));
        }
        let extension = (&header[15..]).get_u32() as usize;
        if self.buffer.len() < HEADER + extension {
            return Ok(false);
        }
        self.buffer.advance(HEADER + extension);
        self.started = true;
        Ok(true)
    }

    /// `length`: of all fields with their lengths.
    fn row(&mut self, length: usize) -> Result<()> {
        let row = self.buffer.split_to(2 + length);
        let mut rest = &row[2..];
        for (builder, field) in self.columns.iter_mut().zip(self.schema.fields()) {
            match usize::try_from(rest.get_i32()) {
                Err(_) => builder.append_null(),
                Ok(size) => {
                    let (value, behind) = rest.split_at(size);
                    builder.append_binary(value).map_err(|e| in_column(e, field))?;
                    rest = behind;
                }
            }
        }
        self.rows += 1;
        self.bytes += length;
        Ok(())
    }
}

/// Length of a row's fields, `None` if they are not all there.
fn row_length(bytes: &[u8], fields: usize) -> Result<Option<usize>> {
    let mut at = 0;
    for _ in 0..fields {
        let Some(mut length) = bytes.get(at..at + 4) else { return Ok(None) };
        let size = match length.get_i32() {
            -1 => 0,
            size => usize::try_from(size).map_err(|_| malformed("a negative length"))?,
        };
        at += 4 + size;
    }
    Ok((at <= bytes.len()).then_some(at))
}

fn in_column(error: Error, field: &FieldRef) -> Error {
    let named = error.context(format_args!("column \"{}\"", field.name()));
    match SqlType::from_field(field) {
        SqlType::Numeric(None) => named.with_hint(
            "The connection's option \"numeric\" says what a numeric without precision is read as: numeric(p, s) with up to 76 \
             digits, or text.",
        ),
        _ => named,
    }
}

fn malformed(why: impl std::fmt::Display) -> Error {
    Error::new(SqlState::ProtocolViolation, format!("the other server's COPY cannot be read: {why}"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::array::AsArray;
    use datafusion::arrow::datatypes::{Int32Type, Schema};

    use super::*;

    fn schema() -> SchemaRef {
        Arc::new(Schema::new(vec![SqlType::Integer.to_field("i", true), SqlType::Text.to_field("t", true)]))
    }

    fn rows(rows: &[(Option<i32>, &str)]) -> Vec<u8> {
        let mut bytes = [&SIGNATURE[..], &[0, 0, 0, 0], &[0, 0, 0, 2], b"xx"].concat();
        for (i, t) in rows {
            bytes.extend([0, 2]);
            match i {
                Some(i) => bytes.extend([&4i32.to_be_bytes()[..], &i.to_be_bytes()].concat()),
                None => bytes.extend((-1i32).to_be_bytes()),
            }
            bytes.extend([&(t.len() as i32).to_be_bytes()[..], t.as_bytes()].concat());
        }
        bytes.extend((-1i16).to_be_bytes());
        bytes
    }

    #[test]
    fn bytes_may_break_anywhere() {
        let bytes = rows(&[(Some(1), "one"), (None, ""), (Some(-3), "three")]);
        for size in 1..bytes.len() {
            let mut decoder = Decoder::new(schema()).unwrap();
            bytes.chunks(size).for_each(|chunk| decoder.push(chunk).unwrap());
            decoder.finish().unwrap();
            let batch = decoder.take().unwrap().unwrap();
            let ints: Vec<Option<i32>> = batch.column(0).as_primitive::<Int32Type>().iter().collect();
            assert_eq!(ints, [Some(1), None, Some(-3)], "in pieces of {size}");
            assert_eq!(batch.column(1).as_string::<i32>().value(2), "three");
            assert!(decoder.take().unwrap().is_none());
        }
    }

    #[test]
    fn a_batch_has_a_bound() {
        let many: Vec<(Option<i32>, &str)> = (0..20_000).map(|i| (Some(i), "x")).collect();
        let mut decoder = Decoder::new(schema()).unwrap();
        decoder.push(&rows(&many)).unwrap();
        let mut sizes = Vec::new();
        while let Some(batch) = decoder.take().unwrap() {
            sizes.push(batch.num_rows());
            decoder.go_on().unwrap();
        }
        assert_eq!(sizes, [8192, 8192, 3616]);
        decoder.finish().unwrap();
    }

    #[test]
    fn damage_is_an_error() {
        let bytes = rows(&[(Some(1), "one")]);
        let fails = |bytes: &[u8]| {
            let mut decoder = Decoder::new(schema()).unwrap();
            decoder.push(bytes).and_then(|()| decoder.finish()).unwrap_err().code()
        };
        assert_eq!(fails(&bytes[..bytes.len() - 1]), "08P01");
        assert_eq!(fails(&[&bytes[..], b"more"].concat()), "08P01");
        assert_eq!(fails(b"PGCOPX and so on and on and on"), "08P01");
        let mut wrong = bytes.clone();
        wrong[HEADER + 3] = 3;
        assert_eq!(fails(&wrong), "08P01", "three columns");
    }
}
