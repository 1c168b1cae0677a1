//! The reader of a Kafka source: workers that read, and a look now and then at whether there are new partitions.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use async_trait::async_trait;
use rdkafka::Offset;
use rdkafka::consumer::{BaseConsumer, Consumer};
use tidemark_common::{Error, Result, SqlState};
use tokio::sync::mpsc;

use super::client::{ClientOptions, Context, Purpose, TIMEOUT, Told};
use super::decoding::Decoding;
use super::discovery::Discovery;
use super::error::from_kafka;
use super::options::{KafkaOptions, Startup};
use super::position::KafkaPosition;
use super::stored::Stored;
use super::topics::{Partition, list_of};
use super::worker::{Assigned, Shared, Worker};
use crate::pace::Pace;
use crate::{CHUNK_ROWS, Positions, SourceBatch, SourceReader};

/// Batches that wait between the workers and the reader.
const QUEUED_BATCHES: usize = 4;
/// With a limit of rows a second, batches are no longer than the rows of this part of a second.
const BATCHES_A_SECOND: f64 = 20.0;

/// Starts reading. Blocks for as long as brokers take to say what there is.
pub(super) fn start(
    options: &Arc<KafkaOptions>,
    stored: Arc<Stored>,
    from: &Positions,
    until: Option<&Positions>,
    projection: Option<&[usize]>,
) -> Result<KafkaReader> {
    let decoding = Decoding::new(options, projection)?;
    let (sender, batches) = mpsc::channel(QUEUED_BATCHES);
    let rate = options.rows_per_second.filter(|_| until.is_none());
    let most = rate.map_or(CHUNK_ROWS, |rate| ((rate / BATCHES_A_SECOND).ceil() as usize).clamp(1, CHUNK_ROWS));
    let purpose = match until {
        Some(_) => Purpose::Replay,
        None if options.bounded => Purpose::Bounded,
        None => Purpose::Follow,
    };
    let ends = purpose != Purpose::Follow;
    let shared = Arc::new(Shared { decoding, sender, ends, most });
    let told = Arc::new(Told::default());
    let positions = from.iter().map(|(split, text)| Ok((options.topics.partition(split)?, text.parse()?)));
    let positions: BTreeMap<Partition, KafkaPosition> = positions.collect::<Result<_>>()?;
    let mut first = Vec::new();
    match until {
        Some(until) => drop(workers(&shared, &told, purpose, replayed(options, &positions, until)?)?),
        None => {
            let control = options.client.consumer(&options.name, &told, Purpose::Follow)?;
            let (assigned, begun) = followed(options, &control, positions)?;
            first = begun.iter().map(|one| shared.nothing_yet(one)).collect();
            let known = assigned.iter().map(|one| one.partition.clone()).collect();
            let workers = workers(&shared, &told, purpose, assigned)?;
            if !ends {
                tokio::spawn(Discovery { control, shared, stored, known, workers }.run());
            }
        }
    }
    // All with the first that is handed out, and so in one epoch: a partition that is not known later is a new one.
    let positions: Positions = first.iter_mut().flat_map(|batch| std::mem::take(&mut batch.positions)).collect();
    if let Some(batch) = first.last_mut() {
        batch.positions = positions;
    }
    let (pace, client) = (Pace::new(Arc::clone(&options.clock), rate), options.client.clone());
    Ok(KafkaReader { first, batches, pending: None, pace, told, client })
}

/// Starts the workers. Each with how to give it another partition, and how many it has.
fn workers(
    shared: &Arc<Shared>,
    told: &Arc<Told>,
    purpose: Purpose,
    assigned: Vec<Assigned>,
) -> Result<Vec<(Sender<Assigned>, usize)>> {
    let mut workers = Vec::new();
    for share in shares(assigned, shared.ends).into_iter().filter(|share| !shared.ends || !share.is_empty()) {
        let (sender, receiver) = std::sync::mpsc::channel();
        workers.push((sender, share.len()));
        let consumer = shared.options().client.consumer(&shared.options().name, told, purpose)?;
        let worker = Worker::new(Arc::clone(shared), consumer, share, receiver)?;
        let thread = std::thread::Builder::new().name(format!("kafka {}", shared.options().name));
        thread.spawn(move || worker.run()).map_err(|e| Error::new(SqlState::IoError, e.to_string()))?;
    }
    Ok(workers)
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
        let (low, high) = partition.range(control, TIMEOUT)?;
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
            let list = list_of([(partition.clone(), Offset::Offset(*millis))])?;
            let found = control.offsets_for_times(list, TIMEOUT);
            let found = found.map_err(|e| from_kafka(&e, &format!("looking for a time in {partition}")))?;
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

pub(super) struct KafkaReader {
    /// Partitions that nobody has read before.
    first: Vec<SourceBatch>,
    batches: mpsc::Receiver<Result<SourceBatch>>,
    /// Taken from `batches`, and not yet handed out.
    pending: Option<SourceBatch>,
    pace: Pace,
    told: Arc<Told>,
    client: ClientOptions,
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
        Some(self.told.rows())
    }

    fn trouble(&self) -> Option<Error> {
        self.client.trouble().or_else(|| self.told.trouble())
    }
}
