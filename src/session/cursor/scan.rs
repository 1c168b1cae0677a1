//! A cursor's rows, and its place among them.
//!
//! ```text
//!   before the first      row 1 .. row n       after the last
//!   before_first          position = n         after_last, position = rows
//!
//!   forward only:  source ──▶ the batch under way ──▶ FETCH          one batch in memory
//!   SCROLL:        source ──▶ kept batches ◀──place──▶ FETCH         all rows read so far in memory
//!   WITH HOLD:     at COMMIT the rest of the source is read into memory
//! ```
//!
//! What each direction does, and to the place, is what PostgreSQL's DoPortalRunFetch does.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use datafusion::arrow::array::{Array, RecordBatch, UInt64Array};
use datafusion::arrow::compute::take_record_batch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::{FutureExt, StreamExt};
use tidemark_common::{Error, Result, SqlState};
use tidemark_sql::ast::FetchDirection;
use tokio::time::Instant;

/// Rows of a batch that goes backward.
const BATCH_ROWS: u64 = 8192;

/// What the SCROLL and WITH HOLD cursors of a session hold together.
pub(super) struct Memory {
    used: AtomicUsize,
    limit: usize,
}

impl Memory {
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { used: AtomicUsize::new(0), limit })
    }
}

/// A cursor's part of it, given back with the cursor.
struct Share {
    memory: Arc<Memory>,
    bytes: usize,
}

impl Share {
    fn grow(&mut self, batch: &RecordBatch) -> Result<()> {
        // Of these rows alone: a batch is often a part of larger arrays.
        let bytes: usize = batch.columns().iter().map(|c| c.to_data().get_slice_memory_size().unwrap_or(0)).sum();
        self.bytes += bytes;
        let used = self.memory.used.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if used <= self.memory.limit {
            return Ok(());
        }
        Err(Error::new(
            SqlState::ConfigurationLimitExceeded,
            "the session's SCROLL and WITH HOLD cursors have grown beyond max_cursor_bytes",
        )
        .with_hint("Declare the cursor NO SCROLL and WITHOUT HOLD, which keeps no rows, or raise max_cursor_bytes."))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.memory.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

enum Buffered {
    /// Forward only: what was read and not given.
    Ahead(Option<RecordBatch>),
    Kept(Kept),
}

/// Rows from the first on.
#[derive(Default)]
struct Kept {
    batches: Vec<RecordBatch>,
    /// Rows before each batch.
    starts: Vec<u64>,
    rows: u64,
}

impl Kept {
    fn push(&mut self, batch: RecordBatch) {
        self.starts.push(self.rows);
        self.rows += batch.num_rows() as u64;
        self.batches.push(batch);
    }

    /// The batch that has row `at`, and the row's place in it.
    fn find(&self, at: u64) -> (&RecordBatch, u64) {
        let batch = self.starts.partition_point(|start| *start <= at) - 1;
        (&self.batches[batch], at - self.starts[batch])
    }

    /// Up to `most` rows from `at` on.
    fn forward(&self, at: u64, most: u64) -> RecordBatch {
        let (batch, row) = self.find(at);
        let rows = most.min(batch.num_rows() as u64 - row);
        batch.slice(row as usize, rows as usize)
    }

    /// Up to `most` rows from `at` back.
    fn backward(&self, at: u64, most: u64) -> Result<RecordBatch> {
        let (batch, row) = self.find(at);
        let rows = most.min(row + 1).min(BATCH_ROWS);
        let places = UInt64Array::from_iter_values((0..rows).map(|i| row - i));
        Ok(take_record_batch(batch, &places)?)
    }
}

/// Rows on the way of one FETCH or MOVE.
pub(super) struct Walk {
    forward: bool,
    /// `None`: all.
    left: Option<u64>,
    /// Rows passed so far.
    pub passed: u64,
    /// Of a live source: how long to wait for a first row.
    until: Option<Instant>,
}

impl Walk {
    fn new(forward: bool, left: Option<u64>) -> Self {
        Self { forward, left, passed: 0, until: None }
    }

    pub fn waiting(mut self, until: Option<Instant>) -> Self {
        self.until = until;
        self
    }
}

/// What is left of a FETCH or MOVE once the cursor has been placed.
pub(super) enum Aim {
    Walk(Walk),
    /// A MOVE that is there already, and the number it reports.
    There(u64),
}

pub(super) struct Scan {
    schema: SchemaRef,
    /// `None`: read to its end.
    source: Option<SendableRecordBatchStream>,
    buffered: Buffered,
    share: Share,
    /// Rows come as they happen: there is no end to wait for.
    live: bool,
    /// Something began and did not end well: as in Postgres, nobody can go on from there.
    broken: bool,
    position: u64,
    before_first: bool,
    after_last: bool,
}

impl Scan {
    pub fn new(source: SendableRecordBatchStream, scroll: bool, live: bool, memory: &Arc<Memory>) -> Self {
        Self {
            schema: source.schema(),
            source: Some(source),
            buffered: if scroll { Buffered::Kept(Kept::default()) } else { Buffered::Ahead(None) },
            share: Share { memory: memory.clone(), bytes: 0 },
            live,
            broken: false,
            position: 0,
            before_first: true,
            after_last: false,
        }
    }

    pub fn is_broken(&self) -> bool {
        self.broken
    }

    fn scrolls(&self) -> bool {
        matches!(self.buffered, Buffered::Kept(_))
    }

    /// Goes where the direction's rows begin.
    pub async fn aim(&mut self, direction: FetchDirection, moves: bool) -> Result<Aim> {
        use FetchDirection::{Absolute, Backward, Forward, Relative};
        let (forward, count) = match direction {
            Absolute(0) => {
                self.rewind()?;
                return Ok(Aim::Walk(Walk::new(true, Some(0))));
            }
            Absolute(row) if row > 0 => {
                self.go_before(row.unsigned_abs()).await?;
                return Ok(Aim::Walk(Walk::new(true, Some(1))));
            }
            Absolute(row) => {
                self.check_backward()?;
                self.pass(true, None).await?;
                self.pass(false, Some(row.unsigned_abs() - 1)).await?;
                return Ok(Aim::Walk(Walk::new(false, Some(1))));
            }
            Relative(0) => (true, Some(0)),
            Relative(rows) => {
                self.pass(rows > 0, Some(rows.unsigned_abs() - 1)).await?;
                return Ok(Aim::Walk(Walk::new(rows > 0, Some(1))));
            }
            Forward(count) => (count.is_none_or(|n| n >= 0), count.map(i64::unsigned_abs)),
            Backward(count) => (count.is_some_and(|n| n < 0), count.map(i64::unsigned_abs)),
        };
        if count == Some(0) {
            let on_row = !self.before_first && !self.after_last;
            if moves {
                return Ok(Aim::There(u64::from(on_row)));
            }
            if on_row {
                // The row again: back by one, then on.
                self.pass(false, Some(1)).await?;
                return Ok(Aim::Walk(Walk::new(true, Some(1))));
            }
        }
        if moves && !forward && count.is_none() {
            let passed = if self.after_last { self.position } else { self.position.saturating_sub(1) };
            self.rewind()?;
            return Ok(Aim::There(passed));
        }
        Ok(Aim::Walk(Walk::new(forward, count)))
    }

    /// Goes to just before row `row`, from whichever side is nearer.
    async fn go_before(&mut self, row: u64) -> Result<()> {
        if row - 1 <= self.position / 2 {
            self.rewind()?;
            return self.pass(true, Some(row - 1)).await;
        }
        let here = self.position + u64::from(self.after_last);
        match row <= here {
            true => self.pass(false, Some(here - row + 1)).await,
            false => self.pass(true, Some(row - here - 1)).await,
        }
    }

    async fn pass(&mut self, forward: bool, rows: Option<u64>) -> Result<()> {
        if rows == Some(0) {
            return Ok(());
        }
        let mut walk = Walk::new(forward, rows);
        while self.next(&mut walk).await?.is_some() {}
        Ok(())
    }

    fn rewind(&mut self) -> Result<()> {
        if self.before_first && !self.after_last {
            return Ok(());
        }
        self.check_backward()?;
        (self.before_first, self.after_last, self.position) = (true, false, 0);
        Ok(())
    }

    fn check_backward(&mut self) -> Result<()> {
        if self.scrolls() {
            return Ok(());
        }
        self.broken = true;
        Err(Error::new(SqlState::ObjectNotInPrerequisiteState, "cursor can only scan forward")
            .with_hint("Declare it with SCROLL option to enable backward scan."))
    }

    /// The next rows of the walk, or the end of it.
    pub async fn next(&mut self, walk: &mut Walk) -> Result<Option<RecordBatch>> {
        if !walk.forward {
            self.check_backward()?;
        }
        if walk.left == Some(0) {
            return Ok(None);
        }
        let most = walk.left.unwrap_or(u64::MAX);
        let batch = match walk.forward {
            true => self.read_forward(most, walk).await?,
            false => self.read_backward(most)?,
        };
        if let Some(batch) = &batch {
            let rows = batch.num_rows() as u64;
            walk.passed += rows;
            walk.left = walk.left.map(|left| left - rows);
        }
        Ok(batch)
    }

    async fn read_forward(&mut self, most: u64, walk: &Walk) -> Result<Option<RecordBatch>> {
        if self.after_last {
            return Ok(None);
        }
        let batch = match self.buffered {
            Buffered::Ahead(_) => self.take_ahead(most, walk).await?,
            Buffered::Kept(_) => self.keep_and_read(most).await?,
        };
        match &batch {
            Some(batch) => {
                self.before_first = false;
                self.position += batch.num_rows() as u64;
            }
            // A live source has no more for now.
            None => self.after_last = self.source.is_none(),
        }
        Ok(batch)
    }

    async fn take_ahead(&mut self, most: u64, walk: &Walk) -> Result<Option<RecordBatch>> {
        let ahead = match &mut self.buffered {
            Buffered::Ahead(ahead) => ahead.take(),
            Buffered::Kept(_) => None,
        };
        let batch = match ahead {
            Some(batch) => batch,
            None if self.live => match self.pull_live(walk).await? {
                Some(batch) => batch,
                None => return Ok(None),
            },
            None => match self.pull().await? {
                Some(batch) => batch,
                None => return Ok(None),
            },
        };
        let rows = batch.num_rows();
        let given = usize::try_from(most).map_or(rows, |most| rows.min(most));
        if given < rows {
            self.buffered = Buffered::Ahead(Some(batch.slice(given, rows - given)));
        }
        Ok(Some(batch.slice(0, given)))
    }

    async fn keep_and_read(&mut self, most: u64) -> Result<Option<RecordBatch>> {
        loop {
            if let Buffered::Kept(kept) = &self.buffered
                && self.position < kept.rows
            {
                return Ok(Some(kept.forward(self.position, most)));
            }
            let Some(batch) = self.pull().await? else { return Ok(None) };
            self.keep(batch)?;
        }
    }

    fn keep(&mut self, batch: RecordBatch) -> Result<()> {
        self.broken = true;
        self.share.grow(&batch)?;
        self.broken = false;
        if let Buffered::Kept(kept) = &mut self.buffered {
            kept.push(batch);
        }
        Ok(())
    }

    fn read_backward(&mut self, most: u64) -> Result<Option<RecordBatch>> {
        let Buffered::Kept(kept) = &self.buffered else { return Ok(None) };
        let behind = if self.after_last { self.position } else { self.position.saturating_sub(1) };
        if behind == 0 {
            (self.before_first, self.position) = (true, 0);
            // Where there are no rows it is at both ends.
            self.after_last &= kept.rows == 0 && self.source.is_none();
            return Ok(None);
        }
        let batch = kept.backward(behind - 1, most)?;
        self.after_last = false;
        self.position = behind + 1 - batch.num_rows() as u64;
        Ok(Some(batch))
    }

    /// The next rows of the source.
    async fn pull(&mut self) -> Result<Option<RecordBatch>> {
        while let Some(source) = &mut self.source {
            // If this is given up midway, or fails, nobody knows where the source is.
            self.broken = true;
            let batch = source.next().await.transpose()?;
            self.broken = false;
            match batch {
                Some(batch) if batch.num_rows() > 0 => return Ok(Some(batch)),
                Some(_) => {}
                None => self.source = None,
            }
        }
        Ok(None)
    }

    /// Waits for the first row only, and not for ever if a time was given; then takes what is there.
    async fn pull_live(&mut self, walk: &Walk) -> Result<Option<RecordBatch>> {
        let pulled = if walk.passed > 0 {
            self.pull().now_or_never()
        } else if let Some(until) = walk.until {
            tokio::time::timeout_at(until, self.pull()).await.ok()
        } else {
            Some(self.pull().await)
        };
        match pulled {
            Some(pulled) => pulled,
            None => {
                // Given up while it waited, not while it read.
                self.broken = false;
                Ok(None)
            }
        }
    }

    /// Reads all that is left, so that the transaction may end.
    pub async fn hold(&mut self) -> Result<()> {
        if let Buffered::Kept(_) = self.buffered {
            while let Some(batch) = self.pull().await? {
                self.keep(batch)?;
            }
            return Ok(());
        }
        let mut rest = Vec::new();
        while let Some(batch) = self.pull().await? {
            self.share.grow(&batch)?;
            rest.push(Ok(batch));
        }
        let rest = RecordBatchStreamAdapter::new(self.schema.clone(), futures::stream::iter(rest));
        self.source = Some(Box::pin(rest));
        Ok(())
    }
}
