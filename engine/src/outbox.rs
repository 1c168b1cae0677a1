//! Sinks: what an epoch sends is part of its commit; a task delivers it epoch by epoch.
//!
//! ```text
//!   tick:  changes ──▶ Outbox{sink, epoch, n} in the commit
//!   task:  Outbox after the last delivered ──▶ SinkWriter::deliver(epoch) ──▶ Delivered(epoch) ──▶ next commit:
//!                                                                      SinkProgress = epoch, entries through it deleted
//! ```
//!
//! A crash between deliver and the next commit delivers that epoch again, which a writer must make harmless.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use datafusion::arrow::array::{Array, ArrayRef, Int64Array, RecordBatch};
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::arrow::ipc::reader::StreamReader;
use datafusion::arrow::ipc::writer::StreamWriter;
use tidemark_common::connector::Sink;
use tidemark_common::{Clock, Delta, Epoch, Error, Oid, Result, SqlState};
use tidemark_storage::{EpochCommit, Key, Snapshot, Store, value};
use tokio::sync::{Notify, mpsc};
use tokio::task::AbortHandle;

use crate::engine::{Command, SinkDef};
use crate::operators::Chunks;

/// Waits between two attempts: the first, and the longest.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const MAX_BACKOFF: Duration = Duration::from_secs(30);
const WEIGHT_COLUMN: &str = "__tidemark_weight";

/// The driver's side of a sink.
pub(crate) struct Outbox {
    sink: Oid,
    pub delivered: Epoch,
    /// Epochs that wait.
    waiting: std::collections::VecDeque<(Epoch, Waiting)>,
    pub pending: Waiting,
    task: Option<AbortHandle>,
    wake: Arc<Notify>,
    pub report: Arc<Mutex<Report>>,
}

/// How much has not been delivered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub rows: u64,
    pub bytes: u64,
}

/// What the task has to say.
#[derive(Debug, Clone, Default)]
pub(crate) struct Report {
    pub error: Option<String>,
    /// It has given up: somebody else delivers in its place.
    pub gave_up: bool,
    /// Attempts in a row that have failed, and when the next is due, in microseconds since 1970.
    pub failures: u64,
    pub next_attempt: Option<i64>,
    pub rows: u64,
}

impl Outbox {
    pub fn open(sink: Oid, snapshot: &Arc<Snapshot>) -> Result<Self> {
        let delivered = snapshot.get_value(&Key::SinkProgress(sink))?.unwrap_or(0);
        let mut outbox = Self {
            sink,
            delivered,
            waiting: Default::default(),
            pending: Waiting::default(),
            task: None,
            wake: Arc::new(Notify::new()),
            report: Arc::default(),
        };
        let span = Key::outbox_after(sink, delivered);
        for entry in snapshot.scan(&span.start, &span.end) {
            let (key, stored) = entry?;
            if let Key::Outbox { epoch, .. } = Key::decode(&key)? {
                outbox.note(epoch, rows_of(value::unframe(&stored)?)?, stored.len() as u64);
            }
        }
        Ok(outbox)
    }

    fn note(&mut self, epoch: Epoch, rows: u64, bytes: u64) {
        if self.waiting.back().is_none_or(|(last, _)| *last != epoch) {
            self.waiting.push_back((epoch, Waiting::default()));
        }
        let of_epoch = self.waiting.back_mut().map(|(_, waiting)| waiting);
        for sum in of_epoch.into_iter().chain([&mut self.pending]) {
            sum.rows += rows;
            sum.bytes += bytes;
        }
    }

    pub fn pending_epochs(&self) -> u64 {
        self.waiting.len() as u64
    }

    pub fn append(&mut self, epoch: Epoch, changes: &Chunks, commit: &mut EpochCommit) -> Result<()> {
        for (seq, delta) in changes.iter().enumerate() {
            let stored = value::frame(&encode(delta)?);
            self.note(epoch, delta.num_rows() as u64, stored.len() as u64);
            commit.put(&Key::Outbox { sink: self.sink, epoch, seq: seq as u32 }, &stored);
        }
        Ok(())
    }

    /// Forgets what has been delivered, with the next commit.
    pub fn delivered(&mut self, epoch: Epoch, commit: &mut EpochCommit) -> Result<()> {
        self.delivered = epoch;
        while let Some((_, waited)) = self.waiting.pop_front_if(|(first, _)| *first <= epoch) {
            self.pending.rows -= waited.rows;
            self.pending.bytes -= waited.bytes;
        }
        commit.put(&Key::SinkProgress(self.sink), &value::encode(&epoch)?);
        commit.delete_outbox_through(self.sink, epoch);
        Ok(())
    }

    /// The epoch is committed: the task may look.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    pub fn start(
        &mut self,
        def: &SinkDef,
        store: Arc<Store>,
        commands: mpsc::WeakSender<Command>,
        runtime: &tokio::runtime::Handle,
        clock: Arc<dyn Clock>,
    ) {
        let delivery = Delivery {
            oid: def.oid,
            name: def.name.clone(),
            sink: def.sink.clone(),
            store,
            commands,
            wake: self.wake.clone(),
            report: self.report.clone(),
            clock,
            delivered: self.delivered,
        };
        self.stop();
        delivery.report(|r| (r.gave_up, r.failures, r.next_attempt) = (false, 0, None));
        self.task = Some(runtime.spawn(delivery.run()).abort_handle());
    }

    pub fn stop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }

    /// True until it is stopped, even if it has given up.
    pub fn is_started(&self) -> bool {
        self.task.is_some()
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.stop();
    }
}

struct Delivery {
    oid: Oid,
    name: String,
    sink: Arc<dyn Sink>,
    store: Arc<Store>,
    commands: mpsc::WeakSender<Command>,
    wake: Arc<Notify>,
    report: Arc<Mutex<Report>>,
    clock: Arc<dyn Clock>,
    delivered: Epoch,
}

impl Delivery {
    /// Delivers for ever; a failure is tried again, slower each time. Ends if somebody else delivers instead.
    async fn run(mut self) {
        loop {
            match self.deliver_all().await {
                Ok(()) => return,
                Err(error) if error.state() == SqlState::ObjectInUse => {
                    tracing::error!(sink = self.name, %error, "the sink has stopped");
                    self.report(|r| (r.error, r.gave_up) = (Some(error.to_string()), true));
                    self.say_so().await;
                    return;
                }
                Err(error) => {
                    tracing::warn!(sink = self.name, %error, "delivery failed, trying again");
                    let pause = self.failed(&error);
                    self.say_so().await;
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    /// The report is shown at the next epoch; there may be none for long.
    async fn say_so(&self) {
        if let Some(commands) = self.commands.upgrade() {
            // If it is not heard, the server stops.
            let _heard = commands.send(Command::SinkFails).await;
        }
    }

    /// How long to wait before the next attempt.
    fn failed(&self, error: &Error) -> Duration {
        let mut pause = Duration::ZERO;
        self.report(|r| {
            pause = backoff(r.failures, self.oid);
            let next = self.clock.now_micros().saturating_add(pause.as_micros() as i64);
            (r.error, r.failures, r.next_attempt) = (Some(error.to_string()), r.failures + 1, Some(next));
        });
        pause
    }

    /// Returns when the server stops.
    async fn deliver_all(&mut self) -> Result<()> {
        let mut writer = self.sink.writer().await?;
        let snapshot = self.store.snapshot();
        // What was delivered before this task began may have been stored since.
        let stored: Option<Epoch> = snapshot.get_value(&Key::SinkProgress(self.oid))?;
        self.delivered = self.delivered.max(stored.unwrap_or(0));
        if let Some(last) = writer.last().filter(|last| *last > self.delivered) {
            // A crash, or another task's end, has come between this epoch's delivery and the commit that says so.
            let changes = changes_of(&snapshot, self.oid, last)?;
            writer.confirm(changes).await?;
            if !self.delivered(last, 0).await {
                return Ok(());
            }
        }
        loop {
            let Some((epoch, changes)) = self.next_epoch()? else {
                self.all_is_well().await;
                self.wake.notified().await;
                continue;
            };
            let rows: usize = changes.iter().map(Delta::num_rows).sum();
            writer.deliver(epoch, changes).await?;
            if !self.delivered(epoch, rows as u64).await {
                return Ok(());
            }
        }
    }

    /// The target can be reached, and there is nothing to deliver.
    async fn all_is_well(&self) {
        let mut failed = false;
        self.report(|r| {
            failed = r.error.is_some();
            *r = Report { rows: r.rows, ..Report::default() };
        });
        if failed {
            self.say_so().await;
        }
    }

    /// False if the server stops.
    async fn delivered(&mut self, epoch: Epoch, rows: u64) -> bool {
        self.delivered = epoch;
        self.report(|r| {
            *r = Report { rows: r.rows + rows, ..Report::default() };
        });
        match self.commands.upgrade() {
            Some(commands) => commands.send(Command::Delivered(self.oid, epoch)).await.is_ok(),
            None => false,
        }
    }

    fn next_epoch(&self) -> Result<Option<(Epoch, Chunks)>> {
        let (snapshot, span) = (self.store.snapshot(), Key::outbox_after(self.oid, self.delivered));
        let Some(first) = snapshot.scan(&span.start, &span.end).next().transpose()? else {
            return Ok(None);
        };
        let Key::Outbox { epoch, .. } = Key::decode(&first.0)? else {
            return Err(Error::internal("another key among those of an outbox"));
        };
        Ok(Some((epoch, changes_of(&snapshot, self.oid, epoch)?)))
    }

    fn report(&self, change: impl FnOnce(&mut Report)) {
        change(&mut self.report.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

fn changes_of(snapshot: &Arc<Snapshot>, sink: Oid, epoch: Epoch) -> Result<Chunks> {
    let span = Key::outbox_of(sink, epoch);
    snapshot.scan(&span.start, &span.end).map(|entry| decode(value::unframe(&entry?.1)?)).collect()
}

/// Twice as long each time, less up to half of it: those that failed together do not come back together.
pub(crate) fn backoff(failures: u64, who: Oid) -> Duration {
    let whole = FIRST_BACKOFF.saturating_mul(1 << failures.min(16)).min(MAX_BACKOFF);
    let jitter = (failures ^ u64::from(who)).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    whole - whole.mul_f64(jitter as f64 / f64::from(u32::MAX) / 2.0)
}

/// A delta as the number of its rows (4 bytes, little-endian) and an Arrow IPC stream, the weights as one more column where there
/// are any.
fn encode(delta: &Delta) -> Result<Vec<u8>> {
    let batch = match &delta.weights {
        None => delta.batch.clone(),
        Some(weights) => {
            let mut fields: Vec<_> = delta.batch.schema().fields().iter().cloned().collect();
            fields.push(Arc::new(Field::new(WEIGHT_COLUMN, DataType::Int64, false)));
            let mut columns = delta.batch.columns().to_vec();
            columns.push(Arc::new(weights.clone()) as ArrayRef);
            RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?
        }
    };
    let rows = u32::try_from(batch.num_rows()).map_err(|_| Error::internal("a delta of more than 2^32 rows"))?;
    let mut writer = StreamWriter::try_new(rows.to_le_bytes().to_vec(), &batch.schema())?;
    writer.write(&batch)?;
    Ok(writer.into_inner()?)
}

fn corrupted() -> Error {
    Error::new(SqlState::DataCorrupted, "an outbox entry holds no batch")
}

fn rows_of(bytes: &[u8]) -> Result<u64> {
    let rows = bytes.first_chunk().ok_or_else(corrupted)?;
    Ok(u64::from(u32::from_le_bytes(*rows)))
}

fn decode(bytes: &[u8]) -> Result<Delta> {
    let stream = bytes.get(size_of::<u32>()..).ok_or_else(corrupted)?;
    let mut reader = StreamReader::try_new(stream, None)?;
    let batch = reader.next().ok_or_else(corrupted)??;
    let last = batch.num_columns().saturating_sub(1);
    if batch.schema().fields().get(last).is_none_or(|f| f.name() != WEIGHT_COLUMN) {
        return Ok(Delta::inserts(batch));
    }
    let weights = batch.column(last).as_any().downcast_ref::<Int64Array>().cloned().ok_or_else(corrupted)?;
    let columns: Vec<usize> = (0..last).collect();
    Ok(Delta::new(batch.project(&columns)?, Some(weights)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delta_survives_the_outbox() {
        let column: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None]));
        let batch = RecordBatch::try_from_iter([("a", column)]).unwrap();
        for delta in [Delta::inserts(batch.clone()), Delta::new(batch, Some(Int64Array::from(vec![1, -2])))] {
            let stored = encode(&delta).unwrap();
            assert_eq!(rows_of(&stored).unwrap(), 2);
            let back = decode(&stored).unwrap();
            assert_eq!(back.batch.column(0), delta.batch.column(0));
            assert_eq!(back.weights, delta.weights);
        }
    }
}
