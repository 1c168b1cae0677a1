//! A worker: a thread with a consumer of its own, which reads some of the partitions and decodes their records.
//!
//! ```text
//!   poll ─▶ up to 8192 records, in order of arrival ─▶ by partition ─▶ decode ─▶ SourceBatch of each ─▶ channel (waits if it is full)
//! ```
//!
//! The records stay where librdkafka has them until they have been decoded.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::Offset;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{BorrowedMessage, Message};
use tidemark_common::{Error, Result};
use tokio::sync::mpsc;

use super::client::Context;
use super::decoding::Decoding;
use super::error::{from_kafka, is_lasting};
use super::options::KafkaOptions;
use super::position::KafkaPosition;
use super::topics::{Partition, list_of};
use super::whole::Held;
use crate::formats::changes::open_at_end;
use crate::formats::registry;
use crate::{Positions, SourceBatch};

/// Bytes of values that are decoded together, about.
const CHUNK_BYTES: usize = 4 << 20;
/// How long it waits for records before it looks whether somebody still wants them.
const WAIT: Duration = Duration::from_millis(100);
/// How long it waits before it asks again for what it cannot decode without.
const BETWEEN_TRIES: Duration = Duration::from_secs(1);

/// A partition to read.
#[derive(Debug, Clone)]
pub(super) struct Assigned {
    pub partition: Partition,
    /// Its name among the splits.
    pub lane: Arc<str>,
    pub position: KafkaPosition,
    /// Where reading ends, and does not go on.
    pub until: Option<i64>,
}

impl Assigned {
    fn begins(&self) -> (Partition, Offset) {
        (self.partition.clone(), Offset::Offset(self.position.next))
    }

    /// Where it stands, for whoever keeps that.
    fn positions(&self) -> Positions {
        Positions::from([(self.lane.to_string(), self.position.to_string())])
    }

    fn is_done(&self) -> bool {
        self.until.is_some_and(|until| self.position.next >= until)
    }
}

/// What all workers of a reader have.
pub(super) struct Shared {
    pub decoding: Decoding,
    pub sender: mpsc::Sender<Result<SourceBatch>>,
    /// Each partition has an end.
    pub ends: bool,
    /// Records that a worker takes together at most.
    pub most: usize,
}

impl Shared {
    pub fn options(&self) -> &KafkaOptions {
        &self.decoding.options
    }

    /// Where a partition stands. Tells of it before its first row, so that its lane is waited for.
    pub fn nothing_yet(&self, one: &Assigned) -> SourceBatch {
        SourceBatch { positions: one.positions(), ..self.decoding.none(&one.lane) }
    }
}

pub(super) struct Worker {
    shared: Arc<Shared>,
    consumer: Arc<BaseConsumer<Context>>,
    assigned: HashMap<Partition, Assigned>,
    /// Transactions that have not ended.
    held: HashMap<Partition, Held>,
    /// Partitions that have been found since.
    found: std::sync::mpsc::Receiver<Assigned>,
}

/// Why it ends.
enum End {
    /// Everything that it was to read has been read, or nobody wants it any more.
    Done,
    Failed(Error),
}

impl From<Error> for End {
    fn from(error: Error) -> Self {
        End::Failed(error)
    }
}

impl Worker {
    pub fn new(
        shared: Arc<Shared>,
        consumer: Arc<BaseConsumer<Context>>,
        assigned: Vec<Assigned>,
        found: std::sync::mpsc::Receiver<Assigned>,
    ) -> Result<Self> {
        let list = list_of(assigned.iter().map(Assigned::begins))?;
        consumer.assign(&list).map_err(|e| from_kafka(&e, "reading partitions"))?;
        let assigned = assigned.into_iter().map(|one| (one.partition.clone(), one)).collect();
        Ok(Self { shared, consumer, assigned, held: HashMap::new(), found })
    }

    /// Reads until all is read, or nobody listens.
    pub fn run(mut self) {
        loop {
            // A panic would end this thread, and its partitions would stand still without a word.
            let stepped = std::panic::catch_unwind(AssertUnwindSafe(|| self.step()));
            match stepped.unwrap_or_else(|_| Err(Error::internal("reading records panicked; see the log").into())) {
                Ok(()) => {}
                Err(End::Done) => return,
                Err(End::Failed(error)) => {
                    // Nobody to tell if the reader is gone.
                    let _told = self.shared.sender.blocking_send(Err(error));
                    return;
                }
            }
        }
    }

    fn step(&mut self) -> Result<(), End> {
        while let Ok(found) = self.found.try_recv() {
            let list = list_of([found.begins()])?;
            self.consumer.incremental_assign(&list).map_err(|e| from_kafka(&e, "reading a new partition"))?;
            self.assigned.insert(found.partition.clone(), found);
        }
        let is_read = self.shared.ends && self.assigned.values().all(Assigned::is_done);
        let batches = match is_read {
            true => self.ended(|_| true)?,
            false => self.read()?,
        };
        for batch in batches {
            self.shared.sender.blocking_send(Ok(batch)).map_err(|_| End::Done)?;
        }
        match is_read || self.shared.sender.is_closed() {
            true => Err(End::Done),
            false => Ok(()),
        }
    }

    /// Transactions that have ended.
    fn ended(&mut self, has_ended: impl Fn(&Held) -> bool) -> Result<Vec<SourceBatch>> {
        let ended = self.held.extract_if(|_, held| has_ended(held));
        ended.map(|(_, held)| held.end(None)).filter_map(Result::transpose).collect()
    }

    /// The records that are there, or that come within a moment.
    fn read(&mut self) -> Result<Vec<SourceBatch>> {
        let mut groups: Vec<(Partition, Vec<BorrowedMessage<'_>>)> = Vec::new();
        let (mut records, mut bytes, mut at_end) = (0, 0, Vec::new());
        while records < self.shared.most && bytes < CHUNK_BYTES {
            let wait = if records == 0 { WAIT } else { Duration::ZERO };
            match self.consumer.poll(wait) {
                None => break,
                Some(Ok(message)) => {
                    records += 1;
                    bytes += message.payload_len() + message.key_len();
                    let same =
                        |(p, _): &&mut (Partition, _)| p.number == message.partition() && *p.topic == *message.topic();
                    match groups.iter_mut().find(same) {
                        Some((_, group)) => group.push(message),
                        None => {
                            let partition = Partition { topic: message.topic().into(), number: message.partition() };
                            groups.push((partition, vec![message]));
                        }
                    }
                }
                Some(Err(KafkaError::PartitionEOF(number))) => {
                    at_end.push(number);
                    break;
                }
                Some(Err(error)) => self.bear(&error)?,
            }
        }
        if !groups.is_empty() {
            self.consumer.context().told.is_well();
        }
        let mut batches = Vec::new();
        for (partition, messages) in &groups {
            let Some(assigned) = self.assigned.get_mut(partition) else { continue };
            let held = self.held.remove(partition);
            let held = whole(&self.shared, assigned, held, messages, &mut batches)?;
            self.held.extend(held.map(|held| (partition.clone(), held)));
        }
        let now = self.shared.options().clock.now_micros();
        batches.extend(self.ended(|held| held.has_ended(now))?);
        for number in at_end {
            // Where reading ends no two partitions of a worker have one number.
            let ended = self.assigned.values_mut().filter(|one| one.partition.number == number);
            ended.for_each(|one| one.position.next = one.position.next.max(one.until.unwrap_or(0)));
        }
        Ok(batches)
    }

    /// What passes is waited for, however long: librdkafka tries again, and says so in the log.
    fn bear(&self, error: &KafkaError) -> Result<()> {
        match error.rdkafka_error_code() {
            // The next token may do.
            Some(Code::Authentication | Code::SaslAuthenticationFailed)
                if self.shared.options().client.has_tokens() =>
            {
                tracing::warn!(source = self.shared.options().name, %error, "kafka takes no token of ours");
                Ok(())
            }
            Some(code) if !is_lasting(code) => {
                tracing::warn!(source = self.shared.options().name, %error, "kafka");
                Ok(())
            }
            _ => Err(from_kafka(error, "reading from Kafka")),
        }
    }
}

/// The rows of records of a partition but for those of the transaction that is still open after them, which is what it answers.
fn whole(
    shared: &Shared,
    assigned: &mut Assigned,
    held: Option<Held>,
    messages: &[BorrowedMessage<'_>],
    batches: &mut Vec<SourceBatch>,
) -> Result<Option<Held>> {
    let Some(decoder) = shared.decoding.changes() else {
        batches.extend(decoded(shared, assigned, messages)?);
        return Ok(None);
    };
    let belongs = |at: usize| decoder.belongs((messages[at].key(), messages[at].payload()));
    let open = open_at_end(messages.len(), held.as_ref().map(|held| held.id.as_slice()), belongs);
    let (begins, id) = match open {
        Some((begins, id)) => (begins, Some(id)),
        None => (messages.len(), None),
    };
    let goes_on = begins == 0 && id.is_some() && held.as_ref().map(|held| &held.id) == id.as_ref();
    let mut open = held;
    if !goes_on {
        let closed = match begins {
            0 => None,
            begins => decoded(shared, assigned, &messages[..begins])?,
        };
        match open.take() {
            Some(held) => batches.extend(held.end(closed)?),
            None => batches.extend(closed),
        }
    }
    let Some(id) = id else { return Ok(None) };
    let mut open = open.unwrap_or_else(|| Held::new(id));
    if let Some(batch) = decoded(shared, assigned, &messages[begins..])? {
        batches.extend(open.add(batch, shared.options().clock.now_micros(), &shared.options().name)?);
    }
    Ok(Some(open))
}

/// The rows of some records of a partition; none if all lie behind its end.
fn decoded(shared: &Shared, assigned: &mut Assigned, messages: &[BorrowedMessage<'_>]) -> Result<Option<SourceBatch>> {
    let (from, until) = (assigned.position.next, assigned.until.unwrap_or(i64::MAX));
    let wanted = |message: &&BorrowedMessage<'_>| from <= message.offset() && message.offset() < until;
    let records: Vec<&BorrowedMessage<'_>> = messages.iter().filter(wanted).collect();
    // What lay before one that is too far is there no longer.
    let after = messages.last().map_or(from, |last| last.offset().saturating_add(1));
    assigned.position.next = after.clamp(from, until.max(from));
    if records.is_empty() {
        return Ok(None);
    }
    let rows = patiently(shared, || shared.decoding.rows(&assigned.partition, &assigned.lane, &records))?;
    Ok(Some(SourceBatch { positions: assigned.positions(), ..rows }))
}

/// Waits for a schema registry that is away, as for a broker: for as long as somebody wants the records.
fn patiently<T>(shared: &Shared, decode: impl Fn() -> Result<T>) -> Result<T> {
    loop {
        match decode() {
            Err(error) if registry::is_passing(&error) && !shared.sender.is_closed() => {
                tracing::warn!(source = shared.options().name, %error, "waiting for the schema registry");
                std::thread::sleep(BETWEEN_TRIES);
            }
            decoded => return decoded,
        }
    }
}
