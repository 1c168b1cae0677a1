//! The file source: which files to read next, and the reader that hands out their rows.
//!
//! ```text
//!   from ──▶ files begun and not done, by seq ──▶ new files, by key ──▶ wait ──▶ new files ...      (one after the other)
//!   from, until ──▶ the files of `until` by seq, each up to its rows there ──▶ end
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use datafusion::arrow::datatypes::SchemaRef;
use object_store::ObjectMeta;
use object_store::path::Path;
use tidemark_common::connector::ParquetFiles;
use tidemark_common::{Error, Result, SqlState};
use tokio::sync::mpsc;

use super::compression::Compression;
use super::options::{FileOptions, Included, Replay, where_and_what};
use super::position::FilePosition;
use super::read::{Job, Piece};
use super::remote::RemoteFile;
use super::store::store_error;
use crate::formats::{Format, infer as infer_format};
use crate::options::Options;
use crate::pace::Pace;
use crate::spec::{FormatSpec, SourceSpec};
use crate::wanted::Wanted;
use crate::{Positions, Source, SourceBatch, SourceReader};

/// Pieces that wait between the decoding thread and the reader.
const QUEUED_PIECES: usize = 2;
const LANE: &str = "files";

#[derive(Debug)]
pub(super) struct FileSource(pub Arc<FileOptions>);

pub(crate) fn open(spec: SourceSpec, options: Options) -> Result<Arc<dyn Source>> {
    if spec.columns.fields().is_empty() {
        return Err(Error::new(SqlState::InvalidTableDefinition, "a file source must have columns")
            .with_hint("Declare them, or take them from the data: CREATE SOURCE name (*) WITH (..)."));
    }
    Ok(Arc::new(FileSource(Arc::new(FileOptions::parse(spec, options)?))))
}

/// The columns of the first file in key order.
pub(crate) async fn infer(mut options: Options, format: Option<&FormatSpec>) -> Result<SchemaRef> {
    let (location, format) = where_and_what(&mut options, format)?;
    let location = location.in_haste();
    let files = location.list().await?;
    let Some(first) = files.first() else {
        return Err(Error::new(
            SqlState::IndeterminateDatatype,
            format!("no file at \"{}\" to take columns from", location.base),
        )
        .with_hint("Declare the columns."));
    };
    let shown = location.show(&first.location);
    let file = RemoteFile::new(location.store.clone(), first);
    let compression = Compression::of(first.location.as_ref()).0;
    let found = tokio::task::spawn_blocking(move || match format {
        Format::Parquet => infer_format::from_parquet(file),
        text => infer_format::from_text(&text, compression.decompress(file.read())?),
    });
    let found = found.await.map_err(|e| Error::internal(format!("reading \"{shown}\" failed: {e}")))?;
    found.map_err(|e| e.context(format!("\"{shown}\"")))
}

#[async_trait]
impl Source for FileSource {
    fn schema(&self) -> SchemaRef {
        self.0.schema.clone()
    }

    async fn check(&self) -> Result<()> {
        self.0.location.check().await
    }

    async fn reader(
        &self,
        from: &Positions,
        until: Option<&Positions>,
        projection: Option<&[usize]>,
    ) -> Result<Box<dyn SourceReader>> {
        let paced = until.is_none();
        let options = &self.0;
        let beside = options.replay.as_ref().filter(|_| paced).map(|replay| replay.column);
        let (on_error, included) = (options.on_error, &options.included);
        let wanted = Wanted::new(&options.schema, &options.declared, included, projection, on_error, beside)?;
        let wanted = Arc::new(wanted);
        let (sender, pieces) = mpsc::channel(QUEUED_PIECES);
        let walk = Walk { options: self.0.clone(), wanted, sender: sender.clone() };
        let from = parse(from)?;
        let until = until.map(parse).transpose()?;
        tokio::spawn(async move {
            let walked = match until {
                Some(until) => walk.replay(&from, until).await,
                None => walk.follow(from).await,
            };
            if let Err(error) = walked {
                // Nobody to tell if the reader is gone.
                let _told = sender.send(Err(error)).await;
            }
        });
        let rate = self.0.rows_per_second.filter(|_| paced);
        Ok(Box::new(FileReader {
            pieces,
            pending: None,
            failed: None,
            pace: Pace::new(self.0.clock.clone(), rate),
            replay: self.0.replay.clone().filter(|_| paced),
            replay_start: None,
            options: self.0.clone(),
            lane: LANE.into(),
        }))
    }

    async fn parquet_files(&self, until: &Positions) -> Result<Option<ParquetFiles>> {
        let location = &self.0.location;
        if !matches!(self.0.format, Format::Parquet) || location.local.is_none() {
            return Ok(None);
        }
        let mut files = Vec::new();
        for (split, position) in parse(until)? {
            let key = Path::parse(&split).map_err(|e| store_error(e.into(), &split))?;
            // What is gone, or has other contents now, its reader will complain of.
            match location.head(&key).await {
                Ok(meta) if position.done == Some(meta.size) => files.push((position.seq, meta)),
                _ => return Ok(None),
            }
        }
        files.sort_by_key(|(seq, _)| *seq);
        let files = files.into_iter().map(|(_, meta)| meta).collect();
        Ok(Some(ParquetFiles { store: location.store.clone(), files, columns: self.0.declared.fields().len() }))
    }

    fn is_bounded(&self) -> bool {
        self.0.bounded
    }
}

type FilePositions = BTreeMap<String, FilePosition>;

fn parse(positions: &Positions) -> Result<FilePositions> {
    positions.iter().map(|(split, text)| Ok((split.clone(), text.parse()?))).collect()
}

/// Goes from file to file.
struct Walk {
    options: Arc<FileOptions>,
    wanted: Arc<Wanted<Included>>,
    sender: mpsc::Sender<Result<Piece>>,
}

impl Walk {
    async fn follow(&self, mut known: FilePositions) -> Result<()> {
        let mut begun: Vec<(String, FilePosition)> =
            known.iter().filter(|(_, p)| p.done.is_none()).map(|(s, p)| (s.clone(), *p)).collect();
        begun.sort_by_key(|(_, position)| position.seq);
        for (split, position) in begun {
            let meta = self.head(&split).await?;
            let size = meta.size;
            self.read(meta, position, None).await?;
            known.insert(split, FilePosition { done: Some(size), ..position });
        }
        let mut next_seq = known.values().map(|p| p.seq + 1).max().unwrap_or(0);
        loop {
            for meta in self.options.location.list().await? {
                let split = meta.location.to_string();
                if let Some(position) = known.get_mut(&split) {
                    self.warn_if_changed(&meta, position);
                    continue;
                }
                let position = FilePosition { seq: next_seq, rows: 0, done: None };
                next_seq += 1;
                known.insert(split, FilePosition { done: Some(meta.size), ..position });
                self.read(meta, position, None).await?;
                if self.sender.is_closed() {
                    return Ok(());
                }
            }
            if self.options.bounded {
                return Ok(());
            }
            tokio::select! {
                () = self.sender.closed() => return Ok(()),
                () = tokio::time::sleep(self.options.poll_interval) => {}
            }
        }
    }

    async fn replay(&self, from: &FilePositions, until: FilePositions) -> Result<()> {
        let mut files: Vec<(String, FilePosition)> = until.into_iter().collect();
        files.sort_by_key(|(_, position)| position.seq);
        for (split, end) in files {
            let begun = from.get(&split);
            if begun.is_some_and(|b| b.done.is_some() || (b.rows >= end.rows && end.done.is_none())) {
                continue;
            }
            let position = FilePosition { seq: end.seq, rows: begun.map_or(0, |b| b.rows), done: None };
            let meta = self.head(&split).await?;
            self.read(meta, position, Some((end.rows, end.done))).await?;
        }
        Ok(())
    }

    async fn head(&self, split: &str) -> Result<ObjectMeta> {
        let location = &self.options.location;
        let key = Path::parse(split).map_err(|e| store_error(e.into(), split))?;
        match location.head(&key).await {
            Ok(meta) => Ok(meta),
            Err(error) => Err(store_error(error, &location.show(&key))
                .with_hint("Rows of this file have been read, and are needed again: put it back.")),
        }
    }

    async fn read(&self, meta: ObjectMeta, position: FilePosition, until: Option<(u64, Option<u64>)>) -> Result<()> {
        let location = &self.options.location;
        let shown = location.show(&meta.location);
        let job = Job {
            options: self.options.clone(),
            wanted: self.wanted.clone(),
            file: RemoteFile::new(location.store.clone(), &meta),
            size: meta.size,
            modified_micros: meta.last_modified.timestamp_micros(),
            split: meta.location.to_string().into(),
            shown: shown.clone(),
            seq: position.seq,
            from: position.rows,
            until,
        };
        let sender = self.sender.clone();
        let reading = tokio::task::spawn_blocking(move || job.run(|piece| sender.blocking_send(Ok(piece)).is_ok()));
        // A decoder that panics on a damaged file must not take the process with it.
        reading.await.unwrap_or_else(|error| {
            Err(Error::new(SqlState::DataCorrupted, format!("\"{shown}\" could not be decoded"))
                .with_detail(error.to_string()))
        })
    }

    fn warn_if_changed(&self, meta: &ObjectMeta, position: &mut FilePosition) {
        if position.done.is_some_and(|size| size != meta.size) {
            tracing::warn!(
                file = %self.options.location.show(&meta.location),
                "a file changed after it was read; what was added is not read"
            );
            position.done = Some(meta.size);
        }
    }
}

struct FileReader {
    pieces: mpsc::Receiver<Result<Piece>>,
    /// Taken from `pieces` and not yet handed out, whole or in part.
    pending: Option<Piece>,
    /// An error is the last thing a reader says, and it keeps saying it.
    failed: Option<Error>,
    pace: Pace,
    replay: Option<Replay>,
    /// Event time and wall-clock time of the first row replayed by event time.
    replay_start: Option<(i64, i64)>,
    options: Arc<FileOptions>,
    lane: Arc<str>,
}

#[async_trait]
impl SourceReader for FileReader {
    async fn next(&mut self) -> Result<Option<SourceBatch>> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        if self.pending.is_none() {
            match self.pieces.recv().await {
                None => return Ok(None),
                Some(Ok(piece)) => self.pending = Some(piece),
                Some(Err(error)) => {
                    self.failed = Some(error.clone());
                    return Err(error);
                }
            }
        }
        let rows = self.pending.as_ref().map_or(0, |piece| piece.batch.num_rows());
        let allowed = if rows == 0 { 0 } else { self.pace.ready().await.min(self.due().await).min(rows) };
        self.pace.spend(allowed);
        Ok(self.pending.take().map(|piece| self.hand_out(piece, allowed)))
    }

    fn lag_rows(&self) -> Option<u64> {
        None
    }
}

/// Rows replayed by event time come in bunches no closer than this.
const BUNCH: Duration = Duration::from_millis(20);
const LONGEST_SLEEP: Duration = Duration::from_secs(1);

impl FileReader {
    /// Waits until a pending row is due by its event time and says how many are.
    async fn due(&mut self) -> usize {
        let Some(replay) = &self.replay else { return usize::MAX };
        let Some(times) = self.pending.as_ref().and_then(|piece| piece.times.as_ref()) else { return usize::MAX };
        loop {
            let now = self.options.clock.now_micros();
            let first = times.iter().flatten().next().unwrap_or(0);
            let (event_start, wall_start) = *self.replay_start.get_or_insert((first, now));
            let reached = event_start.saturating_add(((now - wall_start) as f64 * replay.speed) as i64);
            let due = times.iter().take_while(|time| time.is_none_or(|t| t <= reached)).count();
            if due > 0 {
                return due;
            }
            let ahead = (times.value(0) - reached) as f64 / replay.speed;
            let wait = Duration::from_micros(ahead.clamp(0.0, 1e9) as u64);
            tokio::time::sleep(wait.clamp(BUNCH, LONGEST_SLEEP)).await;
        }
    }

    /// The first `rows` rows of the piece; the rest stays pending.
    fn hand_out(&mut self, mut piece: Piece, rows: usize) -> SourceBatch {
        let all = piece.batch.num_rows();
        let mut batch = piece.batch.clone();
        let (mut records, mut bytes, mut done) = (piece.records, piece.bytes, piece.done);
        if rows < all {
            // Up to and with the last row's record; bad records behind it wait with the rest.
            records = piece.numbers.as_ref().map_or(rows as u64, |n| u64::from(n[rows - 1]) + 1);
            bytes = piece.bytes * rows / all;
            done = None;
            batch = piece.batch.slice(0, rows);
        }
        let position = FilePosition { seq: piece.seq, rows: piece.first + records, done };
        let handed = SourceBatch {
            lane: self.lane.clone(),
            batch,
            places: None,
            positions: Positions::from([(piece.split.to_string(), position.to_string())]),
            bytes,
            dropped: records - rows as u64,
            changes: None,
            dead: Vec::new(),
            unfinished: false,
            unknown: Vec::new(),
            into: None,
        };
        if rows < all {
            piece.first += records;
            piece.records -= records;
            piece.bytes -= bytes;
            piece.batch = piece.batch.slice(rows, all - rows);
            piece.times = piece.times.map(|times| times.slice(rows, all - rows));
            piece.numbers = piece.numbers.map(|n| n[rows..].iter().map(|at| at - records as u32).collect());
            self.pending = Some(piece);
        }
        handed
    }
}
