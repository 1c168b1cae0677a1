//! The stream of changes: transactions in the order of their commits, each handed out whole.
//!
//! ```text
//!   keepalive  Begin T1 ─ rows ─ Commit  Begin T2 ─ rows ......... rows ─ Commit  keepalive ──▶
//!                                                    └ batch is full: unfinished ┘└ T2's end is the position
//! ```
//!
//! Transactions that come together go out together, as far as a batch holds them. Between transactions a keepalive moves the position.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::FutureExt;
use postgres_protocol::message::frontend::CopyData;
use tidemark_common::{Clock, Error, Result, SqlState};
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::changes::Changes;
use super::feedback::Feedback;
use super::join::{Copying, Join};
use super::lsn::Lsn;
use super::options::CdcOptions;
use super::pgoutput::Message;
use super::position::Position;
use super::publication::Publication;
use super::raw::{Raw, malformed};
use super::slot::Slot;
use super::table::Table;
use super::watch::Watch;
use super::wire::{Frame, Wire, said, unexpected};
use super::worker::{Following, Half, Worker, nobody_reads};
use crate::postgres::filter::{identifier, literal};

/// How often the server is told what is stored, and asked how far it is.
const BEAT: Duration = Duration::from_secs(1);
/// Beats without a word of the server after which it is taken for dead.
const SILENCE: u32 = 60;
/// Beats after which a position without rows is handed out: each costs an epoch.
const IDLE: u32 = 5;
/// Reads for which rows wait for others, while there is more to read at once.
const READS: u32 = 16;
/// Microseconds from 1970 to 2000, where the server's clock begins.
const EPOCH_2000: i64 = 946_684_800_000_000;

struct Stream<'a> {
    worker: &'a mut Worker,
    wire: Wire,
    beat: Interval,
    /// Of each table.
    changes: Vec<Changes>,
    /// Tables that wait for the stream to come to the moment of their copy.
    join: Option<Join>,
    _watch: Watch,
    /// Transactions whose commit lies before have been handed out.
    from: Lsn,
    /// All before has come whole.
    position: Lsn,
    open: Option<Open>,
    /// Beats since the server said something, and since something was handed out; reads since then.
    silent: u32,
    idle: u32,
    reads: u32,
}

/// The transaction that is coming.
struct Open {
    commit: Lsn,
    /// Rows of the table so far.
    rows: usize,
}

/// Reads the stream until it breaks.
pub async fn follow(worker: &mut Worker, from: Lsn, join: Option<Join>) -> Result<()> {
    let options = Arc::clone(&worker.options);
    let client = options.place.connect().await?;
    Slot::check_reaches(&client, &options, from).await?;
    let mut changes = Vec::new();
    for (place, of) in worker.tables.iter().enumerate() {
        let table = Table::find(&client, &of.options.place).await?;
        let joins = join.as_ref().is_some_and(|join| join.has(place));
        if !joins && !Publication::has_table(&client, &of.options).await? {
            return Err(left_out(&options, &of.options.place.label()));
        }
        changes.push(Changes::new(Arc::clone(&of.options), &table));
    }
    drop(client);
    let mut wire = Wire::open(&options.place).await?;
    let sql = format!(
        "START_REPLICATION SLOT {} LOGICAL {from} (proto_version '1', publication_names {})",
        identifier(&options.slot),
        literal(&identifier(&options.publication))
    );
    wire.copy_both(&sql).await.map_err(|e| options.place.named(e))?;
    worker.feedback.set_left_out(None);
    let _watch = watch(worker);
    let mut beat = interval(BEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (position, open, silent, idle, reads) = (from, None, 0, 0, 0);
    let mut stream = Stream { worker, wire, beat, changes, join, _watch, from, position, open, silent, idle, reads };
    stream.run().await
}

/// Asks whether the publication has the tables that it must have.
fn watch(worker: &Worker) -> Watch {
    let published = worker.tables.iter().filter(|table| table.copied.is_some());
    Watch::start(&worker.options, &worker.feedback, published.map(|table| Arc::clone(&table.options)).collect())
}

fn left_out(options: &CdcOptions, table: &str) -> Error {
    let message = format!("publication \"{}\" no longer has table \"{table}\"", options.publication);
    Error::new(SqlState::UndefinedObject, message)
        .with_hint("What has changed since then is not in the stream. Make the source anew: it copies the table again.")
}

impl Stream<'_> {
    async fn run(&mut self) -> Result<()> {
        loop {
            self.join().await?;
            while let Some(frame) = self.wire.arrived()? {
                self.frame(frame).await?;
                self.join().await?;
            }
            if self.is_whole() && self.worker.has_rows() {
                // What is there already goes with them.
                let more = if self.reads < READS { self.wire.more().now_or_never() } else { None };
                match more {
                    Some(more) => self.read(more)?,
                    None => self.hand_out().await?,
                }
                continue;
            }
            tokio::select! {
                more = self.wire.more() => self.read(more)?,
                _ = self.beat.tick() => self.beat().await?,
            }
        }
    }

    /// Copies the tables that wait, if all that committed before their moment has come.
    async fn join(&mut self) -> Result<()> {
        let has_come = |join: &mut Join| match &self.open {
            Some(open) => open.rows == 0 && open.commit >= join.at,
            None => self.worker.half.is_none() && self.position >= join.at,
        };
        let Some(join) = self.join.take_if(|join| has_come(join)) else { return Ok(()) };
        self.position = self.position.max(join.at);
        self.hand_out().await?;
        let (feedback, clock) = (Arc::clone(&self.worker.feedback), Arc::clone(&self.worker.options.clock));
        let mut copying: Copying<'_> = Box::pin(join.copy(&mut *self.worker));
        loop {
            tokio::select! {
                copied = &mut copying => {
                    copied?;
                    break;
                }
                _ = self.beat.tick() => report(&mut self.wire, &feedback, &*clock, self.position, false).await?,
            }
        }
        drop(copying);
        self._watch = watch(self.worker);
        self.silent = 0;
        Ok(())
    }

    fn read(&mut self, more: Result<()>) -> Result<()> {
        self.silent = 0;
        self.reads += 1;
        more
    }

    async fn beat(&mut self) -> Result<()> {
        self.silent += 1;
        self.idle += 1;
        if self.silent > SILENCE {
            let message = format!("the server has said nothing for {:?}", BEAT * SILENCE);
            return Err(Error::new(SqlState::ConnectionException, message));
        }
        if let Some(table) = self.worker.feedback.left_out() {
            return Err(left_out(&self.worker.options, &table));
        }
        if self.idle >= IDLE {
            self.hand_out_position().await?;
        }
        self.report(true).await
    }

    async fn frame(&mut self, frame: Frame) -> Result<()> {
        match frame.tag {
            b'd' => self.data(&frame.body).await,
            b'E' => Err(said(&frame.body)?),
            b'N' | b'S' => Ok(()),
            b'c' | b'C' => Err(Error::new(SqlState::ConnectionException, "the server ended the stream")),
            other => Err(unexpected(other)),
        }
    }

    async fn data(&mut self, body: &Bytes) -> Result<()> {
        let mut raw = Raw::new(body);
        match raw.u8()? {
            b'w' => {
                // Where it stands in the log, how far that goes, and the time.
                raw.take(8 + 8 + 8)?;
                let message = Message::parse(raw.rest())?;
                self.message(message).await
            }
            b'k' => {
                let end = Lsn(raw.u64()?);
                raw.take(8)?;
                let answer = raw.u8()? == 1;
                if self.is_between() {
                    self.position = self.position.max(end);
                }
                if answer {
                    self.report(false).await?;
                    // A server that shuts down waits until all is stored.
                    self.hand_out_position().await?;
                }
                Ok(())
            }
            other => Err(unexpected(other)),
        }
    }

    async fn message(&mut self, message: Message<'_>) -> Result<()> {
        match message {
            Message::Begin { commit } => self.begin(commit),
            Message::Commit { commit, end } => self.commit(commit, end).await,
            Message::Relation(relation) => {
                for (changes, table) in self.changes.iter_mut().zip(&mut self.worker.tables) {
                    table.unknown.extend(changes.relation(&relation).await?);
                }
                Ok(())
            }
            Message::Aside => Ok(()),
            row => {
                let rows = self.of_tables(&row);
                if self.counts(rows.iter().sum())? {
                    let tables = self.changes.iter().zip(&mut self.worker.tables).zip(rows);
                    for ((changes, table), _) in tables.filter(|(_, rows)| *rows > 0) {
                        changes.add(&row, &mut table.rows)?;
                    }
                }
                match self.worker.tables.iter().any(|table| table.rows.is_full()) {
                    true => self.hand_out().await,
                    false => Ok(()),
                }
            }
        }
    }

    fn begin(&mut self, commit: Lsn) -> Result<()> {
        if self.open.is_some() {
            return Err(malformed("a transaction begins in another"));
        }
        match self.worker.half {
            Some(half) if commit >= self.from && commit != half.commit => Err(not_again(half)),
            _ => {
                self.open = Some(Open { commit, rows: 0 });
                Ok(())
            }
        }
    }

    async fn commit(&mut self, commit: Lsn, end: Lsn) -> Result<()> {
        let open = self.open.take().filter(|open| open.commit == commit);
        let open = open.ok_or_else(|| malformed("a transaction ends that has not begun"))?;
        self.position = self.position.max(end);
        match self.worker.half {
            Some(half) if half.commit == commit && open.rows < half.rows => Err(not_again(half)),
            // Its end is waited for, even if no row is left.
            Some(half) if half.commit == commit => self.hand_out().await,
            _ => Ok(()),
        }
    }

    /// How many rows a message makes of each table, whose copy does not have them.
    fn of_tables(&self, row: &Message<'_>) -> Vec<usize> {
        let commit = self.open.as_ref().map(|open| open.commit);
        let counts = |table: &Following| table.copied.is_some_and(|copied| commit >= Some(copied));
        let tables = self.changes.iter().zip(&self.worker.tables);
        tables.map(|(changes, table)| if counts(table) { changes.rows(row) } else { 0 }).collect()
    }

    /// True if rows of the table are to be handed out: not those of what has been before.
    fn counts(&mut self, rows: usize) -> Result<bool> {
        let open = self.open.as_mut().ok_or_else(|| malformed("a row is outside of a transaction"))?;
        let before = open.rows;
        open.rows += rows;
        let is_handed = self.worker.half.is_some_and(|half| half.commit == open.commit && before < half.rows);
        Ok(rows > 0 && open.commit >= self.from && !is_handed)
    }

    /// The rows so far are those of whole transactions.
    fn is_whole(&self) -> bool {
        self.open.as_ref().is_none_or(|open| open.rows == 0)
    }

    /// No transaction is here in part.
    fn is_between(&self) -> bool {
        self.open.is_none() && self.worker.half.is_none()
    }

    async fn hand_out_position(&mut self) -> Result<()> {
        match self.is_between() && self.worker.at < Some(self.position) {
            true => self.hand_out().await,
            false => Ok(()),
        }
    }

    /// The rows so far. The server is told that we are there while nobody takes them.
    async fn hand_out(&mut self) -> Result<()> {
        let half =
            self.open.as_ref().filter(|open| open.rows > 0).map(|open| Half { commit: open.commit, rows: open.rows });
        let batches = self.worker.batches(half.is_none().then_some(Position::At(self.position)))?;
        let sender = self.worker.sender.clone();
        for batch in batches {
            let mut sending = std::pin::pin!(sender.send(Ok(batch)));
            loop {
                tokio::select! {
                    sent = &mut sending => {
                        sent.map_err(|_| nobody_reads())?;
                        break;
                    }
                    _ = self.beat.tick() => self.report(false).await?,
                }
            }
        }
        (self.worker.at, self.worker.half) = (Some(self.position), half);
        (self.idle, self.reads, self.worker.tries) = (0, 0, 0);
        Ok(())
    }

    async fn report(&mut self, answer: bool) -> Result<()> {
        let (feedback, clock) = (&self.worker.feedback, &*self.worker.options.clock);
        report(&mut self.wire, feedback, clock, self.position, answer).await
    }
}

/// What has been read, what is stored; `answer`: the server says how far it is.
async fn report(wire: &mut Wire, feedback: &Feedback, clock: &dyn Clock, position: Lsn, answer: bool) -> Result<()> {
    // What lies behind what has been read is not ours to let go.
    let stored = feedback.stored().min(position);
    let now = clock.now_micros() - EPOCH_2000;
    let mut status = vec![b'r'];
    for lsn in [position, stored, stored] {
        status.extend(lsn.0.to_be_bytes());
    }
    status.extend(now.to_be_bytes());
    status.push(u8::from(answer));
    let mut message = BytesMut::new();
    CopyData::new(Bytes::from(status))?.write(&mut message);
    wire.send(&message).await
}

fn not_again(half: Half) -> Error {
    let message = format!("the transaction that commits at {} does not come again as it was", half.commit);
    Error::new(SqlState::DataCorrupted, message).with_hint("ALTER SOURCE .. RESUME begins it anew.")
}
