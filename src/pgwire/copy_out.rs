//! COPY .. TO STDOUT in text, csv and binary: one CopyData message a row, streamed like a result.

use bytes::{BufMut, BytesMut};
use datafusion::arrow::datatypes::Schema;
use pgwire::messages::copy::{CopyDone, CopyOutResponse};
use tidemark_common::{Error, Result, SqlState};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use super::backend::WireSession;
use super::connection::Connection;
use super::errors::Flow;
use crate::session::{CopyFormat, CopyOptions, Rows};
use tidemark_common::values::{Column, Style};

/// What a binary COPY begins with: the signature, no flags, no extension of the header.
pub(super) const BINARY_SIGNATURE: &[u8; 11] = b"PGCOPY\n\xff\r\n\0";

impl<R, W, S> Connection<R, W, S>
where
    R: AsyncRead + Unpin + Send,
    W: AsyncWrite + Unpin + Send,
    S: WireSession,
{
    pub(super) async fn copy_out(&mut self, rows: Rows, options: &CopyOptions, token: &CancellationToken) -> Flow<()> {
        let style = self.style()?;
        let Rows { schema, mut stream, live, .. } = rows;
        let count = schema.fields().len();
        let format = i16::from(options.format == CopyFormat::Binary);
        self.write_notices();
        self.output.put(CopyOutResponse::new(format as i8, count as i16, vec![format; count]))?;

        let writer = RowWriter { options, style: &style };
        let mut channel = self.channel(token);
        writer.write_head(&schema, &mut channel.output.buffer);
        let mut sent = 0u64;
        let mut scratch = BytesMut::new();
        loop {
            if live {
                channel.flush().await?;
            }
            let Some(batch) = channel.next(&mut stream).await? else {
                break;
            };
            let fields = schema.fields();
            let columns =
                batch.columns().iter().zip(fields).map(|(a, f)| Column::new(a, f)).collect::<Result<Vec<_>>>()?;
            for row in 0..batch.num_rows() {
                let first = sent == 0 && row == 0;
                writer.write_row(&columns, row, first, &mut scratch, &mut channel.output.buffer)?;
                channel.flush_if_full().await?;
            }
            sent += batch.num_rows() as u64;
        }
        writer.write_end(sent == 0, &mut channel.output.buffer);
        self.output.put(CopyDone::new())?;
        self.complete(format!("COPY {sent}"))
    }
}

/// Drivers expect it in the message of the first row, where Postgres puts it.
fn write_binary_head(out: &mut BytesMut) {
    out.put_slice(BINARY_SIGNATURE);
    out.put_i32(0);
    out.put_i32(0);
}

struct RowWriter<'a> {
    options: &'a CopyOptions,
    style: &'a Style,
}

impl RowWriter<'_> {
    fn write_head(&self, schema: &Schema, out: &mut BytesMut) {
        match self.options.format {
            CopyFormat::Binary => {}
            _ if !self.options.header => {}
            format => copy_data(out, |out| {
                for (at, field) in schema.fields().iter().enumerate() {
                    if at > 0 {
                        out.put_u8(self.options.delimiter);
                    }
                    let (name, columns) = (field.name().as_bytes(), schema.fields().len());
                    match format {
                        CopyFormat::Csv if self.is_plain(name, usize::MAX, columns) => out.put_slice(name),
                        CopyFormat::Csv => self.write_quoted(name, out),
                        _ => self.write_escaped(name, out),
                    }
                }
                out.put_u8(b'\n');
            }),
        }
    }

    fn write_end(&self, first: bool, out: &mut BytesMut) {
        if self.options.format == CopyFormat::Binary {
            copy_data(out, |out| {
                if first {
                    write_binary_head(out);
                }
                out.put_i16(-1);
            });
        }
    }

    /// On an error the row is not there at all.
    fn write_row(
        &self,
        columns: &[Column],
        row: usize,
        first: bool,
        scratch: &mut BytesMut,
        out: &mut BytesMut,
    ) -> Result<()> {
        let start = out.len();
        let mut result = Ok(());
        copy_data(out, |out| {
            result = match self.options.format {
                CopyFormat::Binary => {
                    if first {
                        write_binary_head(out);
                    }
                    self.write_binary_row(columns, row, out)
                }
                _ => {
                    self.write_text_row(columns, row, scratch, out);
                    Ok(())
                }
            };
        });
        if result.is_ok() && out.len() - start > i32::MAX as usize {
            result = Err(Error::new(SqlState::ProgramLimitExceeded, "a row is larger than 2 GB"));
        }
        if result.is_err() {
            out.truncate(start);
        }
        result
    }

    fn write_binary_row(&self, columns: &[Column], row: usize, out: &mut BytesMut) -> Result<()> {
        out.put_i16(columns.len() as i16);
        columns.iter().try_for_each(|column| column.write_sized_binary(row, self.style, out))
    }

    fn write_text_row(&self, columns: &[Column], row: usize, scratch: &mut BytesMut, out: &mut BytesMut) {
        for (at, column) in columns.iter().enumerate() {
            if at > 0 {
                out.put_u8(self.options.delimiter);
            }
            if column.is_null(row) {
                out.put_slice(self.options.null.as_bytes());
                continue;
            }
            // Most values stay as they are.
            let start = out.len();
            column.write_text(row, self.style, out);
            if self.is_plain(&out[start..], at, columns.len()) {
                continue;
            }
            scratch.clear();
            scratch.put_slice(&out[start..]);
            out.truncate(start);
            match self.options.format {
                CopyFormat::Csv => self.write_quoted(scratch, out),
                _ => self.write_escaped(scratch, out),
            }
        }
        out.put_u8(b'\n');
    }

    /// True if the text stands for itself. In CSV it is quoted, too, where it would be read as null or as the end of the data.
    fn is_plain(&self, text: &[u8], column: usize, columns: usize) -> bool {
        let options = self.options;
        let (delimiter, quote) = (options.delimiter, options.quote);
        // All bytes are looked at: without a way out the loops take many at a time.
        match options.format {
            CopyFormat::Csv => {
                let is_taken = text == options.null.as_bytes() || (columns == 1 && text == b"\\.");
                let is_special = |b: u8| b == delimiter || b == quote || b == b'\n' || b == b'\r';
                !is_taken
                    && !options.force_quote.contains(&column)
                    && !text.iter().fold(false, |any, b| any | is_special(*b))
            }
            _ => {
                let is_special = |b: u8| b == b'\\' || b == delimiter || (0x08..=0x0d).contains(&b);
                !text.iter().fold(false, |any, b| any | is_special(*b))
            }
        }
    }

    fn write_escaped(&self, text: &[u8], out: &mut BytesMut) {
        for byte in text {
            let escape = match byte {
                b'\\' => b'\\',
                0x08 => b'b',
                0x0c => b'f',
                b'\n' => b'n',
                b'\r' => b'r',
                b'\t' => b't',
                0x0b => b'v',
                byte if *byte == self.options.delimiter => *byte,
                byte => {
                    out.put_u8(*byte);
                    continue;
                }
            };
            out.put_slice(&[b'\\', escape]);
        }
    }

    fn write_quoted(&self, text: &[u8], out: &mut BytesMut) {
        let options = self.options;
        out.put_u8(options.quote);
        for byte in text {
            if *byte == options.quote || *byte == options.escape {
                out.put_u8(options.escape);
            }
            out.put_u8(*byte);
        }
        out.put_u8(options.quote);
    }
}

/// A CopyData message around what `write` writes.
fn copy_data(out: &mut BytesMut, write: impl FnOnce(&mut BytesMut)) {
    out.put_u8(b'd');
    let start = out.len();
    out.put_i32(0);
    write(out);
    let size = (out.len() - start) as u32;
    out[start..start + 4].copy_from_slice(&size.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::array::{ArrayRef, Int32Array, StringArray};
    use datafusion::arrow::datatypes::{DataType, Field};

    use super::*;

    fn written(options: &CopyOptions) -> String {
        let fields = [Field::new("a", DataType::Int32, true), Field::new("b,c", DataType::Utf8, true)];
        let arrays: [ArrayRef; 2] = [
            Arc::new(Int32Array::from(vec![Some(1), None, Some(3)])),
            Arc::new(StringArray::from(vec![Some("a\tb\\\nc,\"d\""), Some(""), None])),
        ];
        let columns: Vec<_> = arrays.iter().zip(&fields).map(|(a, f)| Column::new(a, f).unwrap()).collect();
        let style = Style::default();
        let writer = RowWriter { options, style: &style };
        let mut out = BytesMut::new();
        writer.write_head(&Schema::new(fields.to_vec()), &mut out);
        for row in 0..3 {
            writer.write_row(&columns, row, row == 0, &mut BytesMut::new(), &mut out).unwrap();
        }
        let mut text = String::new();
        while !out.is_empty() {
            let message = out.split_to(1 + u32::from_be_bytes(out[1..5].try_into().unwrap()) as usize);
            text.push_str(std::str::from_utf8(&message[5..]).unwrap());
        }
        text
    }

    #[test]
    fn text_and_csv_as_postgres_writes_them() {
        let text = CopyOptions {
            format: CopyFormat::Text,
            delimiter: b'\t',
            null: "\\N".into(),
            header: true,
            quote: b'"',
            escape: b'"',
            force_quote: vec![],
            force_not_null: vec![],
            force_null: vec![],
        };
        assert_eq!(written(&text), "a\tb,c\n1\ta\\tb\\\\\\nc,\"d\"\n\\N\t\n3\t\\N\n");
        let csv = CopyOptions { format: CopyFormat::Csv, delimiter: b',', null: String::new(), ..text.clone() };
        assert_eq!(written(&csv), "a,\"b,c\"\n1,\"a\tb\\\nc,\"\"d\"\"\"\n,\"\"\n3,\n");
        let forced = CopyOptions { force_quote: vec![0], header: false, escape: b'\\', ..csv };
        assert_eq!(written(&forced), "\"1\",\"a\tb\\\\\nc,\\\"d\\\"\"\n,\"\"\n\"3\",\n");
    }
}
