//! The reader of a Kafka source: workers that read, and a look now and then at whether there are new partitions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use async_trait::async_trait;
use datafusion::arrow::array::RecordBatch;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Offset, TopicPartitionList};
use tidemark_common::{Error, Result, SqlState};
use tokio::sync::mpsc;

use super::client::{Context, Lag};
use super::error::from_kafka;
use super::options::{KafkaOptions, Startup};
use super::position::KafkaPosition;
use super::stored::Stored;
use super::topics::Partition;
use super::worker::{Assigned, Shared, Worker};
use crate::options::OnError;
use crate::pace::Pace;
use crate::wanted::Wanted;
use crate::{CHUNK_ROWS, Positions, SourceBatch, SourceReader};

/// How long brokers may take to answer.
pub(super) const TIMEOUT: Duration = Duration::from_secs(10);
/// Batches that wait between the workers and the reader.
const QUEUED_BATCHES: usize = 4;
/// How often offsets are committed to the group.
const COMMITS: Duration = Duration::from_secs(5);
/// With a limit of rows a second, batches are no longer than the rows of this part of a second.
const BATCHES_A_SECOND: f64 = 20.0;

pub(super) fn consumer(options: &KafkaOptions, lag: &Arc<Lag>, tells_ends: bool) -> Result<BaseConsumer<Context>> {
    let mut config = options.client.config(&options.name);
    config.set("enable.partition.eof", if tells_ends { "true" } else { "false" });
    let context = Context { source: options.name.clone(), lag: Arc::clone(lag) };
    config.create_with_context(context).map_err(|e| from_kafka(&e, "connecting to Kafka"))
}

/// Starts reading. Blocks for as long as brokers take to say what there is.
pub(super) fn start(
    options: &Arc<KafkaOptions>,
    stored: Arc<Stored>,
    from: &Positions,
    until: Option<&Positions>,
    projection: Option<&[usize]>,
) -> Result<KafkaReader> {
    let all = options.on_error == OnError::Drop;
    let wanted = Wanted::new(&options.schema, &options.declared, &options.included, projection, all, None)?;
    let decoder = options.format.decoder(&options.declared, &wanted.decoded, &wanted.places)?;
    let (sender, batches) = mpsc::channel(QUEUED_BATCHES);
    let rate = options.rows_per_second.filter(|_| until.is_none());
    let most = rate.map_or(CHUNK_ROWS, |rate| ((rate / BATCHES_A_SECOND).ceil() as usize).clamp(1, CHUNK_ROWS));
    let schema = Arc::clone(&wanted.schema);
    let ends = until.is_some() || options.bounded;
    let shared = Arc::new(Shared { options: Arc::clone(options), wanted, decoder, sender, ends, most });
    let lag = Arc::new(Lag::default());
    let control = consumer(options, &lag, false)?;
    let positions = from.iter().map(|(split, text)| Ok((options.topics.partition(split)?, text.parse()?)));
    let positions: BTreeMap<Partition, KafkaPosition> = positions.collect::<Result<_>>()?;
    let (assigned, begun) = match until {
        Some(until) => (replayed(options, &positions, until)?, Vec::new()),
        None => followed(options, &control, positions)?,
    };
    let known = assigned.iter().map(|one| one.partition.clone()).collect();
    let mut found = Vec::new();
    for share in shares(assigned, ends) {
        let (sender, receiver) = std::sync::mpsc::channel();
        found.push((sender, share.len()));
        let worker = Worker::new(Arc::clone(&shared), consumer(options, &lag, ends)?, share, receiver)?;
        let thread = std::thread::Builder::new().name(format!("kafka {}", options.name));
        thread.spawn(move || worker.run()).map_err(|e| Error::new(SqlState::IoError, e.to_string()))?;
    }
    let mut first: Vec<SourceBatch> = begun.iter().map(|one| nothing_yet(one, &schema)).collect();
    // All with the first that is handed out, and so in one epoch: a partition that is not known later is a new one.
    let positions = first.iter_mut().flat_map(|batch| std::mem::take(&mut batch.positions)).collect();
    first.last_mut().into_iter().for_each(|batch| batch.positions = Positions::clone(&positions));
    if !ends {
        let options = Arc::clone(options);
        let discovery = Discovery { options, control, shared, stored, known, workers: found, schema };
        tokio::spawn(discovery.run());
    }
    Ok(KafkaReader { first, batches, pending: None, pace: Pace::new(Arc::clone(&options.clock), rate), lag })
}

/// The partitions of `until`, each up to there.
fn replayed(
    options: &KafkaOptions,
    from: &BTreeMap<Partition, KafkaPosition>,
    until: &Positions,
) -> Result<Vec<Assigned>> {
    let one = |(split, text): (&String, &String)| {
        let partition = options.topics.partition(split)?;
        let end: KafkaPosition = text.parse()?;
        let next = from.get(&partition).map_or(end.start, |position| position.next);
        let position = KafkaPosition { start: end.start, next };
        Ok(Assigned { partition, lane: split.as_str().into(), position, until: Some(end.next) })
    };
    let all: Vec<Assigned> = until.iter().map(one).collect::<Result<_>>()?;
    Ok(all.into_iter().filter(|one| one.until.is_some_and(|until| one.position.next < until)).collect())
}

/// All partitions there are, and those of them that have not been read before.
fn followed(
    options: &KafkaOptions,
    control: &BaseConsumer<Context>,
    known: BTreeMap<Partition, KafkaPosition>,
) -> Result<(Vec<Assigned>, Vec<Assigned>)> {
    // Where the source has been read already, a partition is a new one, and all of it came since.
    let startup = if known.is_empty() { &options.startup } else { &Startup::Earliest };
    let there = options.topics.partitions(control, TIMEOUT)?;
    if let Some(gone) = known.keys().find(|partition| !there.contains(partition)) {
        return Err(Error::new(SqlState::UndefinedObject, format!("{gone} is no longer there"))
            .with_hint("It has been read before. Make the source anew, or bring the topic back."));
    }
    let (mut all, mut begun) = (Vec::new(), Vec::new());
    for partition in there {
        let watermarks = control.fetch_watermarks(&partition.topic, partition.number, TIMEOUT);
        let (low, high) = watermarks.map_err(|e| from_kafka(&e, &format!("reading {partition}")))?;
        let position = match known.get(&partition) {
            Some(position) => *position,
            None => {
                let start = beginning(options, startup, control, &partition, (low, high))?;
                KafkaPosition { start, next: start }
            }
        };
        let lane = options.topics.split(&partition).into();
        let until = options.bounded.then_some(high);
        let is_new = !known.contains_key(&partition);
        let assigned = Assigned { partition, lane, position, until };
        begun.extend(is_new.then(|| assigned.clone()));
        all.push(assigned);
    }
    Ok((all, begun))
}

fn beginning(
    options: &KafkaOptions,
    startup: &Startup,
    control: &BaseConsumer<Context>,
    partition: &Partition,
    (low, high): (i64, i64),
) -> Result<i64> {
    match startup {
        Startup::Earliest => Ok(low),
        Startup::Latest => Ok(high),
        Startup::Offsets(offsets) => match offsets.get(&partition.number) {
            None => Ok(low),
            Some(offset) if (low..=high).contains(offset) || options.client.resets_offsets() => {
                Ok((*offset).clamp(low, high))
            }
            Some(offset) => Err(Error::new(
                SqlState::NumericValueOutOfRange,
                format!("{partition} has no offset {offset}: it has those from {low} on and before {high}"),
            )),
        },
        Startup::Timestamp(millis) => {
            let what = || format!("looking for a time in {partition}");
            let mut list = TopicPartitionList::new();
            list.add_partition_offset(&partition.topic, partition.number, Offset::Offset(*millis))
                .map_err(|e| from_kafka(&e, &what()))?;
            let found = control.offsets_for_times(list, TIMEOUT).map_err(|e| from_kafka(&e, &what()))?;
            let found = found.elements().first().map(rdkafka::topic_partition_list::TopicPartitionListElem::offset);
            Ok(if let Some(Offset::Offset(offset)) = found { offset } else { high })
        }
    }
}

/// Who reads what: a worker a core at most. Where reading ends, none has two partitions of one number, since librdkafka says only by
/// that number where the end is.
fn shares(assigned: Vec<Assigned>, ends: bool) -> Vec<Vec<Assigned>> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let workers = cores.min(assigned.len()).max(1);
    let mut shares: Vec<Vec<Assigned>> = vec![Vec::new(); workers];
    for one in assigned {
        let has_number = |share: &&mut Vec<Assigned>| {
            ends && share.iter().any(|other| other.partition.number == one.partition.number)
        };
        match shares.iter_mut().filter(|share| !has_number(share)).min_by_key(|share| share.len()) {
            Some(share) => share.push(one),
            None => shares.push(vec![one]),
        }
    }
    shares
}

/// Tells of a partition before its first row, so that its lane is waited for.
fn nothing_yet(one: &Assigned, schema: &datafusion::arrow::datatypes::SchemaRef) -> SourceBatch {
    SourceBatch {
        lane: Arc::clone(&one.lane),
        batch: RecordBatch::new_empty(Arc::clone(schema)),
        places: None,
        positions: Positions::from([(one.lane.to_string(), one.position.to_string())]),
        bytes: 0,
        dropped: 0,
    }
}

/// Looks for new partitions, and topics, and hands each to the worker that has the fewest; and tells the group how far the source is.
struct Discovery {
    options: Arc<KafkaOptions>,
    control: BaseConsumer<Context>,
    shared: Arc<Shared>,
    stored: Arc<Stored>,
    known: BTreeSet<Partition>,
    workers: Vec<(Sender<Assigned>, usize)>,
    schema: datafusion::arrow::datatypes::SchemaRef,
}

impl Discovery {
    async fn run(mut self) {
        let every = self.options.discovery.min(COMMITS);
        let looks = (self.options.discovery.as_secs_f64() / every.as_secs_f64()).ceil() as u64;
        for round in 1.. {
            tokio::select! {
                () = self.shared.sender.closed() => return,
                () = tokio::time::sleep(every) => {}
            }
            let asked = tokio::task::spawn_blocking(move || {
                if let Err(error) = self.stored.send(&self.options.topics, &self.control) {
                    tracing::warn!(source = self.options.name, %error, "the group does not know how far the source is");
                }
                let found = if round % looks == 0 { self.look() } else { Ok(Vec::new()) };
                (self, found)
            });
            let Ok((this, found)) = asked.await else { return };
            self = this;
            match found {
                Ok(found) => {
                    for one in found {
                        if !self.hand_out(one).await {
                            return;
                        }
                    }
                }
                // The next look may find them.
                Err(error) => tracing::warn!(source = self.options.name, %error, "looking for new partitions"),
            }
        }
    }

    fn look(&self) -> Result<Vec<Assigned>> {
        let there = self.options.topics.partitions(&self.control, TIMEOUT)?;
        let new = there.into_iter().filter(|partition| !self.known.contains(partition));
        let one = |partition: Partition| {
            let watermarks = self.control.fetch_watermarks(&partition.topic, partition.number, TIMEOUT);
            let (start, _) = watermarks.map_err(|e| from_kafka(&e, &format!("reading {partition}")))?;
            let lane = self.options.topics.split(&partition).into();
            Ok(Assigned { partition, lane, position: KafkaPosition { start, next: start }, until: None })
        };
        new.map(one).collect()
    }

    /// False if nobody reads any more.
    async fn hand_out(&mut self, one: Assigned) -> bool {
        tracing::info!(source = self.options.name, "found {}", one.partition);
        self.known.insert(one.partition.clone());
        if self.shared.sender.send(Ok(nothing_yet(&one, &self.schema))).await.is_err() {
            return false;
        }
        let worker = self.workers.iter_mut().min_by_key(|(_, partitions)| *partitions);
        worker.is_some_and(|(sender, partitions)| {
            *partitions += 1;
            sender.send(one).is_ok()
        })
    }
}

pub(super) struct KafkaReader {
    /// Partitions that nobody has read before.
    first: Vec<SourceBatch>,
    batches: mpsc::Receiver<Result<SourceBatch>>,
    /// Taken from `batches`, and not yet handed out.
    pending: Option<SourceBatch>,
    pace: Pace,
    lag: Arc<Lag>,
}

#[async_trait]
impl SourceReader for KafkaReader {
    async fn next(&mut self) -> Result<Option<SourceBatch>> {
        if let Some(batch) = self.first.pop() {
            return Ok(Some(batch));
        }
        if self.pending.is_none() {
            match self.batches.recv().await {
                None => return Ok(None),
                Some(batch) => self.pending = Some(batch?),
            }
        }
        let rows = self.pending.as_ref().map_or(0, |batch| batch.batch.num_rows());
        if rows > 0 {
            self.pace.ready().await;
            self.pace.spend(rows);
        }
        Ok(self.pending.take())
    }

    fn lag_rows(&self) -> Option<u64> {
        Some(self.lag.rows())
    }
}
