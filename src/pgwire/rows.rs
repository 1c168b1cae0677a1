//! Result rows: descriptions, and batches encoded straight into the output as DataRow messages.

use arrow_pg::datatypes::{PG_OID_ALIAS_KEY, is_pg_char_field, pg_type_for_alias_kind};
use bytes::{BufMut, BytesMut};
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{Field, Schema};
use datafusion::execution::SendableRecordBatchStream;
use futures::StreamExt;
use pgwire::messages::data::{FieldDescription, RowDescription};
use tidemark_common::types::SqlType;
use tidemark_common::{Error, Oid, Result, SqlState};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use super::backend::WireSession;
use super::errors::{Flow, Stop, shutting_down};
use super::io::{FLUSH_BYTES, Input, Interrupt, Output, interrupt};
use crate::session::{Rows, RowsTag};
use tidemark_common::values::{Column, Style};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Text,
    Binary,
}

impl Format {
    pub fn of_code(code: i16) -> Result<Format> {
        match code {
            0 => Ok(Format::Text),
            1 => Ok(Format::Binary),
            other => Err(Error::invalid(format!("unsupported format code: {other}"))),
        }
    }

    /// None given: all text; one: that for all; otherwise one each.
    pub fn of_codes(codes: &[i16], count: usize) -> Option<Result<Vec<Format>>> {
        match codes {
            [] => Some(Ok(vec![Format::Text; count])),
            [one] => Some(Format::of_code(*one).map(|format| vec![format; count])),
            each if each.len() == count => Some(each.iter().map(|code| Format::of_code(*code)).collect()),
            _ => None,
        }
    }
}

/// OID of a column's type. System tables name types that are none of ours by metadata.
pub(super) fn type_oid(field: &Field) -> Oid {
    if let Some(alias) = field.metadata().get(PG_OID_ALIAS_KEY).and_then(|kind| pg_type_for_alias_kind(kind)) {
        return alias.oid();
    }
    if is_pg_char_field(field) {
        return pgwire::api::Type::CHAR.oid();
    }
    SqlType::from_field(field).pg_oid()
}

/// `pg_type.typlen`: -1 is of variable length.
fn type_size(oid: Oid) -> i16 {
    match oid {
        16 | 18 => 1,
        21 => 2,
        23 | 26 | 700 | 1082 => 4,
        20 | 701 | 1083 | 1114 | 1184 => 8,
        1186 | 2950 => 16,
        19 => 64,
        _ => -1,
    }
}

pub(super) fn describe(schema: &Schema, formats: &[Format]) -> RowDescription {
    let columns = schema.fields().iter().enumerate().map(|(at, field)| {
        let oid = type_oid(field);
        let mut column = FieldDescription::default();
        column.name = field.name().replace('\0', "\u{fffd}");
        column.type_id = oid;
        column.type_size = type_size(oid);
        column.type_modifier = SqlType::from_field(field).typmod();
        column.format_code = i16::from(formats.get(at) == Some(&Format::Binary));
        column
    });
    RowDescription::new(columns.collect())
}

/// A batch being sent: its columns, and the first row that has not been written.
struct Sending {
    columns: Vec<Column>,
    row: usize,
    rows: usize,
}

/// A result on its way to the client. Holds one batch at a time.
pub(super) struct RowSender {
    /// `None`: there is no more than what is being sent.
    stream: Option<SendableRecordBatchStream>,
    formats: Vec<Format>,
    sending: Option<Sending>,
    pub tag: RowsTag,
    live: bool,
    /// Rows sent so far.
    total: u64,
}

/// Why sending rows ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    All(u64),
    /// As many as were asked for; there may be more.
    Limit,
}

/// What sending anything in pieces needs of the connection.
pub(super) struct Channel<'a, R, W> {
    pub input: &'a mut Input<R>,
    pub output: &'a mut Output<W>,
    pub shutdown: &'a CancellationToken,
    /// The running statement's.
    pub token: &'a CancellationToken,
}

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Channel<'_, R, W> {
    /// The next batch, or what came in its way.
    pub async fn next(&mut self, stream: &mut SendableRecordBatchStream) -> Flow<Option<RecordBatch>> {
        tokio::select! {
            biased;
            why = interrupt(self.input, self.shutdown, self.token) => Err(stop_for(why)),
            batch = stream.next() => batch.transpose().map_err(|error| Stop::from(Error::from(error))),
        }
    }

    /// Sends the output once there is enough of it.
    pub async fn flush_if_full(&mut self) -> Flow<()> {
        if self.output.buffer.len() < FLUSH_BYTES { Ok(()) } else { self.flush().await }
    }

    pub async fn flush(&mut self) -> Flow<()> {
        tokio::select! {
            biased;
            why = interrupt(self.input, self.shutdown, self.token) => Err(stop_for(why)),
            done = self.output.flush() => done,
        }
    }
}

pub(super) fn stop_for(why: Interrupt) -> Stop {
    match why {
        Interrupt::Cancelled => Stop::Cancelled,
        Interrupt::Shutdown => Stop::Fatal(shutting_down()),
        Interrupt::Gone => Stop::Gone,
    }
}

impl RowSender {
    pub fn new(rows: Rows, formats: Vec<Format>) -> Self {
        Self { stream: Some(rows.stream), formats, sending: None, tag: rows.tag, live: rows.live, total: 0 }
    }

    /// For rows of a SELECT that are all there.
    pub fn found(rows: &RecordBatch, formats: Vec<Format>) -> Result<Self> {
        let sending = Some(prepare(rows)?);
        Ok(Self { stream: None, formats, sending, tag: RowsTag::Select, live: false, total: 0 })
    }

    /// Sends rows until there are no more or `limit` have been sent (0: all). Memory stays at one batch and one piece of
    /// output, because the next is not made before the client has taken this one.
    pub async fn send<R, W>(&mut self, mut channel: Channel<'_, R, W>, style: &Style, limit: u64) -> Flow<Sent>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let mut sent = 0u64;
        loop {
            if limit > 0 && sent == limit {
                return Ok(Sent::Limit);
            }
            let Some(sending) = &mut self.sending else {
                let Some(stream) = &mut self.stream else { return Ok(Sent::All(sent)) };
                if self.live {
                    channel.flush().await?;
                }
                match channel.next(stream).await? {
                    Some(batch) => self.sending = Some(prepare(&batch)?),
                    None => return Ok(Sent::All(sent)),
                }
                continue;
            };
            let most = if limit == 0 { usize::MAX } else { usize::try_from(limit - sent).unwrap_or(usize::MAX) };
            let from = sending.row;
            sending.write(&self.formats, style, most, &mut channel.output.buffer)?;
            sent += (sending.row - from) as u64;
            self.total += (sending.row - from) as u64;
            if sending.row == sending.rows {
                self.sending = None;
            }
            channel.flush_if_full().await?;
        }
    }
}

fn prepare(batch: &RecordBatch) -> Result<Sending> {
    let schema = batch.schema();
    let columns = batch
        .columns()
        .iter()
        .zip(schema.fields())
        .map(|(array, field)| Column::new(array, field))
        .collect::<Result<_>>()?;
    Ok(Sending { columns, row: 0, rows: batch.num_rows() })
}

impl Sending {
    /// Writes rows until the output is full, `most` are written, or the batch ends.
    fn write(&mut self, formats: &[Format], style: &Style, most: usize, out: &mut BytesMut) -> Result<()> {
        let end = self.rows.min(self.row.saturating_add(most));
        while self.row < end && out.len() < FLUSH_BYTES {
            let start = out.len();
            if let Err(error) = write_row(&self.columns, self.row, formats, style, out) {
                out.truncate(start);
                return Err(error);
            }
            self.row += 1;
        }
        Ok(())
    }
}

/// One DataRow message.
fn write_row(columns: &[Column], row: usize, formats: &[Format], style: &Style, out: &mut BytesMut) -> Result<()> {
    out.put_u8(b'D');
    let start = out.len();
    out.put_i32(0);
    out.put_u16(columns.len() as u16);
    for (column, format) in columns.iter().zip(formats) {
        match format {
            Format::Binary => column.write_sized_binary(row, style, out)?,
            Format::Text if column.is_null(row) => out.put_i32(-1),
            Format::Text => {
                let at = out.len();
                out.put_i32(0);
                column.write_text(row, style, out);
                let size = (out.len() - at - 4) as u32;
                out[at..at + 4].copy_from_slice(&size.to_be_bytes());
            }
        }
    }
    let size = i32::try_from(out.len() - start)
        .map_err(|_| Error::new(SqlState::ProgramLimitExceeded, "a row is larger than 2 GB"))?;
    out[start..start + 4].copy_from_slice(&size.to_be_bytes());
    Ok(())
}

impl RowSender {
    /// The tag once all rows are sent, the last `count` by this Execute. A SELECT tells of these alone, as in Postgres.
    pub fn finished(&self, count: u64) -> String {
        command_tag(&self.tag, if self.tag == RowsTag::Select { count } else { self.total })
    }
}

pub(super) fn command_tag(tag: &RowsTag, rows: u64) -> String {
    match tag {
        RowsTag::Select => format!("SELECT {rows}"),
        RowsTag::Count(words) => format!("{words} {rows}"),
        RowsTag::Fixed(words) => (*words).to_string(),
    }
}

/// How the settings want values written.
pub(super) fn style_of<S: WireSession>(session: &S) -> Result<Style> {
    let mut style = Style::default();
    style.iso_intervals = session.setting("IntervalStyle").as_deref() == Some("iso_8601");
    style.bytea_escape = session.setting("bytea_output").as_deref() == Some("escape");
    if let Some(digits) = session.setting("extra_float_digits").and_then(|digits| digits.parse().ok()) {
        style.extra_float_digits = digits;
    }
    match session.setting("TimeZone") {
        Some(zone) => style.with_time_zone(&zone),
        None => Ok(style),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::array::{ArrayRef, Int32Array, Int64Array, StringArray};

    use super::*;

    fn batch(rows: i32) -> RecordBatch {
        let columns: [(&str, ArrayRef); 3] = [
            ("a", Arc::new(Int32Array::from_iter_values(0..rows))),
            ("b", Arc::new(Int64Array::from_iter_values((0..rows).map(|i| i64::from(i) * 1_000_003)))),
            ("c", Arc::new(StringArray::from_iter((0..rows).map(|i| (i % 2 == 0).then(|| format!("v{i}")))))),
        ];
        RecordBatch::try_from_iter(columns.map(|(name, array)| (name, array))).unwrap()
    }

    #[test]
    fn a_row_is_framed_with_its_values() {
        let mut sending = prepare(&batch(2)).unwrap();
        let mut out = BytesMut::new();
        let formats = [Format::Text, Format::Binary, Format::Text];
        sending.write(&formats, &Style::default(), usize::MAX, &mut out).unwrap();
        let mut expected: Vec<u8> = Vec::new();
        expected.extend(b"D\0\0\0\x1d\0\x03\0\0\0\x010\0\0\0\x08\0\0\0\0\0\0\0\0\0\0\0\x02v0");
        expected.extend(b"D\0\0\0\x1b\0\x03\0\0\0\x011\0\0\0\x08\0\0\0\0\0\x0f\x42\x43\xff\xff\xff\xff");
        assert_eq!(out.to_vec(), expected);
    }

    #[test]
    fn output_is_made_in_pieces() {
        let mut sending = prepare(&batch(100_000)).unwrap();
        let mut pieces = 0;
        while sending.row < sending.rows {
            let mut out = BytesMut::new();
            sending.write(&[Format::Text; 3], &Style::default(), usize::MAX, &mut out).unwrap();
            assert!(out.len() < FLUSH_BYTES + 100);
            pieces += 1;
        }
        assert!(pieces > 10);
    }
}
