//! Record batches to COPY's binary format: the other way of [`super::copy`].

use bytes::{BufMut, Bytes, BytesMut};
use datafusion::arrow::array::RecordBatch;
use tidemark_common::values::{Column, Style};
use tidemark_common::{Error, Result, SqlState};

/// Signature, no flags, no extension.
const HEADER: &[u8; 19] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// Bytes of a message, at most, but for the row that goes beyond them.
const MESSAGE: usize = 256 << 10;

#[derive(Default)]
pub struct Encoder {
    out: BytesMut,
    started: bool,
}

impl Encoder {
    /// The batch as messages, each of whole rows.
    pub fn encode(&mut self, batch: &RecordBatch) -> Result<Vec<Bytes>> {
        self.start();
        let schema = batch.schema();
        let fields = schema.fields().iter();
        let columns = batch.columns().iter().zip(fields).map(|(array, field)| Column::new(array, field));
        let columns = columns.collect::<Result<Vec<_>>>()?;
        let width = i16::try_from(columns.len())
            .map_err(|_| Error::new(SqlState::ProgramLimitExceeded, "a table has too many columns"))?;
        let style = Style::default();
        let mut messages = Vec::new();
        for row in 0..batch.num_rows() {
            self.out.put_i16(width);
            for column in &columns {
                column.write_sized_binary(row, &style, &mut self.out)?;
            }
            if self.out.len() >= MESSAGE {
                messages.push(self.out.split().freeze());
            }
        }
        if !self.out.is_empty() {
            messages.push(self.out.split().freeze());
        }
        Ok(messages)
    }

    /// What stands behind the last row.
    pub fn finish(&mut self) -> Bytes {
        self.start();
        self.out.put_i16(-1);
        self.out.split().freeze()
    }

    fn start(&mut self) {
        if !std::mem::replace(&mut self.started, true) {
            self.out.put_slice(HEADER);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::array::{Int32Array, StringArray};
    use datafusion::arrow::datatypes::Schema;
    use tidemark_common::types::SqlType;

    use super::*;
    use crate::postgres::copy::Decoder;

    #[test]
    fn what_is_written_can_be_read() {
        let schema =
            Arc::new(Schema::new(vec![SqlType::Integer.to_field("i", true), SqlType::Text.to_field("t", true)]));
        let ints = Int32Array::from_iter((0..100_000).map(|i| (i % 7 != 0).then_some(i)));
        let texts = StringArray::from_iter((0..100_000).map(|i| (i % 5 != 0).then(|| "x".repeat(i % 11))));
        let batch = RecordBatch::try_new(schema.clone(), vec![Arc::new(ints), Arc::new(texts)]).unwrap();
        let (mut encoder, mut decoder) = (Encoder::default(), Decoder::new(schema.clone()).unwrap());
        let mut messages = encoder.encode(&batch).unwrap();
        assert!(messages.len() > 3 && messages.iter().all(|m| m.len() < MESSAGE + 100));
        messages.push(encoder.finish());
        let mut read = Vec::new();
        for message in messages {
            decoder.push(&message).unwrap();
            while decoder.is_full() {
                read.extend(decoder.take().unwrap());
                decoder.go_on().unwrap();
            }
        }
        read.extend(decoder.take().unwrap());
        decoder.finish().unwrap();
        assert_eq!(datafusion::arrow::compute::concat_batches(&schema, &read).unwrap(), batch);
    }

    #[test]
    fn no_rows_are_a_header_and_an_end() {
        assert_eq!(Encoder::default().finish().len(), HEADER.len() + 2);
    }
}
