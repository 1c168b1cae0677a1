//! Reading one file, on a thread of its own: bytes to pieces of rows.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use datafusion::arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use datafusion::arrow::compute;
use datafusion::arrow::datatypes::{DataType, Int64Type, Schema};
use tidemark_common::{Error, Result, SqlState};

use super::compression::Compression;
use super::options::{FileOptions, Included};
use super::remote::RemoteFile;
use crate::CHUNK_ROWS;
use crate::formats::csv::CsvDecoder;
use crate::formats::json::JsonDecoder;
use crate::formats::parquet::ParquetDecoder;
use crate::formats::{Bad, Chunk, FileDecoder, Format};
use crate::options::OnError;
use crate::wanted::Wanted;

/// Some rows of a file.
#[derive(Debug)]
pub(super) struct Piece {
    pub split: Arc<str>,
    pub seq: u64,
    /// Records of the file before this piece.
    pub first: u64,
    /// Records that the piece stands for, bad ones counted.
    pub records: u64,
    pub batch: RecordBatch,
    /// If some records were bad: for each row, its record's place in the piece.
    pub numbers: Option<Vec<u32>>,
    /// Event time of the rows in microseconds, when they are replayed by it.
    pub times: Option<Int64Array>,
    pub bytes: usize,
    /// The file's size, if this is the end of it.
    pub done: Option<u64>,
}

/// A file to read.
pub(super) struct Job {
    pub options: Arc<FileOptions>,
    pub wanted: Arc<Wanted<Included>>,
    pub file: RemoteFile,
    pub size: u64,
    pub modified_micros: i64,
    pub split: Arc<str>,
    /// The file's name in messages.
    pub shown: String,
    pub seq: u64,
    /// Records that have been read before.
    pub from: u64,
    /// Where a replay stops: after so many records, and whether the file was done then.
    pub until: Option<(u64, Option<u64>)>,
}

impl Job {
    /// Reads and sends; stops early when nobody takes the pieces any more.
    pub fn run(self, mut send: impl FnMut(Piece) -> bool) -> Result<()> {
        self.read(&mut send).map_err(|error| self.explain(error))
    }

    fn read(&self, send: &mut dyn FnMut(Piece) -> bool) -> Result<()> {
        let mut decoder = self.decoder()?;
        if decoder.skip(self.from)? < self.from {
            return Err(self.shrunk());
        }
        let fetched = self.file.fetched();
        let mut at = self.from;
        // The last piece carries the end of the file, so one is held back.
        let mut held: Option<Piece> = None;
        loop {
            let most = match self.until {
                Some((until, _)) if until <= at => break,
                Some((until, _)) => CHUNK_ROWS.min(usize::try_from(until - at).unwrap_or(usize::MAX)),
                None => CHUNK_ROWS,
            };
            let Some(chunk) = decoder.next(most)? else { break };
            let bytes = fetched.swap(0, Ordering::Relaxed) as usize;
            let piece = self.piece(chunk, at, bytes)?;
            at += piece.records;
            if let Some(ready) = held.replace(piece)
                && !send(ready)
            {
                return Ok(());
            }
        }
        let done = match self.until {
            Some((until, _)) if at < until => return Err(self.shrunk()),
            Some((_, done)) => done,
            None => Some(self.size),
        };
        let last = match held {
            Some(piece) => Piece { done, ..piece },
            None => Piece { done, ..self.piece(self.nothing(), at, 0)? },
        };
        send(last);
        Ok(())
    }

    fn decoder(&self) -> Result<Box<dyn FileDecoder>> {
        let compression = Compression::of(&self.split).0;
        let text = || -> Result<Box<dyn Read + Send>> { compression.decompress(self.file.read()) };
        let columns = &self.wanted.decoded;
        Ok(match &self.options.format {
            Format::Csv(options) => {
                let declared = &self.options.declared;
                Box::new(CsvDecoder::new(text()?, columns, &self.wanted.places, declared, options)?)
            }
            Format::Json(options) => Box::new(JsonDecoder::new(text()?, columns, options)?),
            Format::Parquet if compression != Compression::None => {
                return Err(Error::unsupported("a Parquet file that is compressed as a whole cannot be read")
                    .with_hint("Parquet compresses inside; leave out the outer compression."));
            }
            Format::Parquet => Box::new(ParquetDecoder::new(self.file.clone(), columns)?),
        })
    }

    fn piece(&self, chunk: Chunk, first: u64, bytes: usize) -> Result<Piece> {
        if let (OnError::Fail, Some(bad)) = (self.options.on_error, chunk.bad.first()) {
            return Err(bad_record(bad, first));
        }
        let numbers = (!chunk.bad.is_empty()).then(|| chunk.good_records());
        let rows = chunk.batch.num_rows();
        let include = |what: &Included| self.include(*what, first, rows, numbers.as_deref());
        let batch = self.wanted.batch(&chunk.batch, include)?;
        let times = match self.wanted.beside {
            None => None,
            Some(at) => {
                let times = compute::cast(chunk.batch.column(at), &DataType::Int64)?;
                Some(times.as_primitive::<Int64Type>().clone())
            }
        };
        let records = chunk.records as u64;
        Ok(Piece { split: self.split.clone(), seq: self.seq, first, records, batch, numbers, times, bytes, done: None })
    }

    fn include(&self, what: Included, first: u64, rows: usize, numbers: Option<&[u32]>) -> ArrayRef {
        match what {
            Included::File => Arc::new(StringArray::from_iter_values(std::iter::repeat_n(&self.split, rows))),
            Included::Offset => Arc::new(Int64Array::from_iter_values((0..rows).map(|row| {
                let record = numbers.map_or(row as u64, |n| u64::from(n[row]));
                (first + record) as i64
            }))),
            Included::Timestamp => {
                let times = std::iter::repeat_n(self.modified_micros, rows);
                Arc::new(TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC"))
            }
        }
    }

    fn nothing(&self) -> Chunk {
        let schema: &Schema = &self.wanted.decoded;
        Chunk { batch: RecordBatch::new_empty(Arc::new(schema.clone())), records: 0, bad: Vec::new() }
    }

    fn shrunk(&self) -> Error {
        Error::new(SqlState::DataCorrupted, "the file has fewer rows than were read from it before")
            .with_hint("A file must not change once it has been read: put new rows into a new file.")
    }

    /// Says which file it was.
    fn explain(&self, error: Error) -> Error {
        let compression = Compression::of(&self.split).0;
        if error.state() == SqlState::IoError && compression != Compression::None {
            return Error::new(
                SqlState::DataCorrupted,
                format!("\"{}\" is cut off, damaged or not {compression:?}: {}", self.shown, error.message()),
            );
        }
        error.context(format!("\"{}\"", self.shown))
    }
}

const DROP_HINT: &str = "Mend the file, or leave such records out: on_error = 'drop'.";

fn bad_record(bad: &Bad, first: u64) -> Error {
    let place = match bad.line {
        Some(line) => format!("line {line}"),
        None => format!("row {}", first + bad.record as u64 + 1),
    };
    bad.reason.clone().context(place).with_hint(DROP_HINT)
}
