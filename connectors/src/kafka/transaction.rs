//! An epoch's messages in one transaction, with the epoch's number.
//!
//! ```text
//!   open:   init_transactions ──▶ who sent under this id before can no more (fenced), what it left open is aborted
//!           committed(group)  ──▶ the last epoch that is in the topic, if any
//!
//!   send:   begin ─▶ messages ─▶ offset of (topic, 0) in the group = epoch ─▶ commit
//!                                                                       all of it, or nothing
//!
//!   after a crash:   delivered, as the store knows it      what the group says
//!                    ────────────┬──────────────────────────────┬──────────────▶ epochs
//!                                └── sent already: left out ────┘└── to be sent
//! ```
//!
//! What is left out must be what was sent: the offset's metadata has a checksum of its epoch's messages. It differs if the directory
//! is an older copy, which has since gone another way; then nothing is sent. The metadata also says which process has sent it: if,
//! while this one runs, another has sent since, then this one gives up.

use std::sync::Arc;
use std::time::Duration;

use flate2::Crc;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerGroupMetadata};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::OwnedHeaders;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};
use tidemark_common::{Epoch, Error, Result, SqlState};

use super::client::{Context, Sending, TIMEOUT};
use super::error::from_kafka;
use super::sink::PATIENCE;
use super::sink_options::KafkaSinkOptions;

/// How long a full queue is waited for before it is tried again.
const QUEUE_WAIT: Duration = Duration::from_millis(100);
/// How long is waited for messages to be taken before it is looked again.
const DRAIN_WAIT: Duration = Duration::from_millis(2);
/// Of a transaction's end that did not come to one, but may if it is asked for again.
const ATTEMPTS: usize = 5;

/// A message as it goes out.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub partition: Option<i32>,
    /// Milliseconds since 1970.
    pub timestamp: Option<i64>,
    pub headers: Option<OwnedHeaders>,
}

pub(super) struct Sender {
    producer: Arc<BaseProducer<Sending>>,
    topic: String,
    epochs: Option<Epochs>,
}

/// Where the epochs are stored that are in the topic.
struct Epochs {
    group: ConsumerGroupMetadata,
    group_name: String,
    /// This process.
    sender: String,
    /// The last one that was in the topic when the sender was opened.
    sent: Option<(Epoch, Note)>,
}

/// The metadata of an epoch's offset: `checksum time process`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Note {
    checksum: u32,
    /// In milliseconds since 1970, as the messages may say.
    time: i64,
    sender: String,
}

impl Sender {
    /// `seen`: what the group had stored when this process looked last.
    pub fn open(options: &KafkaSinkOptions, member: &BaseConsumer<Context>, seen: &mut Option<String>) -> Result<Self> {
        let transactions = options.exactly_once.then_some(options.identity.as_str());
        let producer = options.client.producer(&options.name, transactions)?;
        let topic = options.topic.clone();
        if transactions.is_none() {
            return Ok(Self { producer, topic, epochs: None });
        }
        producer.init_transactions(PATIENCE).map_err(|e| from_kafka(&e, "beginning to send by transactions"))?;
        let group_name = options.client.get("group.id").unwrap_or(&options.identity).to_string();
        let failed = |e: KafkaError| from_kafka(&e, &format!("asking the group \"{group_name}\""));
        let mut asked = TopicPartitionList::new();
        asked.add_partition(&topic, 0);
        let stored = member.committed_offsets(asked, TIMEOUT).map_err(failed)?;
        let stored = stored.elements().first().and_then(|one| match one.offset() {
            Offset::Offset(epoch) => Some((epoch as Epoch, one.metadata().to_string())),
            _ => None,
        });
        let now = stored.as_ref().map(|(epoch, note)| format!("{epoch} {note}"));
        let sent = stored.map(|(epoch, note)| Ok::<_, Error>((epoch, note.parse::<Note>()?))).transpose()?;
        if let (Some((_, note)), Some(before)) = (&sent, seen.as_ref())
            && now.as_ref() != Some(before)
            && note.sender != options.process
        {
            return Err(somebody_else(&options.name, &group_name, &note.sender));
        }
        *seen = now;
        let group = member.group_metadata().ok_or_else(|| Error::internal("a consumer has no group"))?;
        let epochs = Epochs { group, group_name, sender: options.process.clone(), sent };
        Ok(Self { producer, topic, epochs: Some(epochs) })
    }

    /// Returns when the messages are in the topic for good.
    pub fn send(&self, epoch: Epoch, time: i64, messages: &[Outgoing], seen: &mut Option<String>) -> Result<()> {
        let Some(epochs) = &self.epochs else {
            self.produce(messages)?;
            return self.drain();
        };
        if messages.is_empty() {
            return Ok(());
        }
        let failed = |error| from_kafka(&error, &format!("sending epoch {epoch} to topic \"{}\"", self.topic));
        let note = Note { checksum: checksum(messages), time, sender: epochs.sender.clone() };
        self.producer.begin_transaction().map_err(failed)?;
        let in_transaction = || {
            self.produce(messages)?;
            self.drain()?;
            self.store(epochs, epoch, &note)
        };
        if let Err(error) = in_transaction() {
            // So that nobody who reads the topic waits for its end; the next writer ends it in any case.
            let _aborted = self.producer.abort_transaction(TIMEOUT);
            return Err(error);
        }
        self.commit().map_err(failed)?;
        *seen = Some(format!("{epoch} {note}"));
        Ok(())
    }

    pub fn last(&self) -> Option<Epoch> {
        self.epochs.as_ref()?.sent.as_ref().map(|(epoch, _)| *epoch)
    }

    /// An error if the last epoch was not sent with the messages that there are of that time.
    pub fn confirm(&self, messages: impl FnOnce(i64) -> Result<Vec<Outgoing>>) -> Result<()> {
        let Some(Epochs { sent: Some((epoch, note)), group_name, .. }) = &self.epochs else { return Ok(()) };
        if note.checksum == checksum(&messages(note.time)?) {
            Ok(())
        } else {
            Err(gone_another_way(*epoch, group_name))
        }
    }

    fn produce(&self, messages: &[Outgoing]) -> Result<()> {
        for message in messages {
            let mut record = BaseRecord::<[u8], [u8]>::to(&self.topic);
            (record.key, record.payload) = (message.key.as_deref(), message.value.as_deref());
            (record.partition, record.timestamp) = (message.partition, message.timestamp);
            record.headers = message.headers.clone();
            while let Err((error, back)) = self.producer.send(record) {
                if error.rdkafka_error_code() != Some(Code::QueueFull) {
                    return Err(from_kafka(&error, &format!("sending to topic \"{}\"", self.topic)));
                }
                record = back;
                self.producer.poll(QUEUE_WAIT);
                self.check_refused()?;
            }
        }
        self.producer.poll(Duration::ZERO);
        Ok(())
    }

    /// The epoch, in the transaction.
    fn store(&self, epochs: &Epochs, epoch: Epoch, note: &Note) -> Result<()> {
        let what = format!("storing epoch {epoch} in the group \"{}\"", epochs.group_name);
        let offset = i64::try_from(epoch).map_err(|_| Error::internal("an epoch beyond bigint"))?;
        let mut list = TopicPartitionList::new();
        let mut stored = list.add_partition(&self.topic, 0);
        stored.set_metadata(note.to_string());
        stored.set_offset(Offset::Offset(offset)).map_err(|e| from_kafka(&e, &what))?;
        let sent = self.producer.send_offsets_to_transaction(&list, &epochs.group, PATIENCE);
        sent.map_err(|e| from_kafka(&e, &what))
    }

    fn commit(&self) -> Result<(), KafkaError> {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.producer.commit_transaction(PATIENCE) {
                Err(KafkaError::Transaction(error)) if error.is_retriable() && tries < ATTEMPTS => {}
                ended => return ended,
            }
        }
    }

    /// Until all messages have been taken or refused. `Producer::flush` waits for 100 ms at a time, whatever comes.
    fn drain(&self) -> Result<()> {
        let failed = |error: KafkaError| from_kafka(&error, &format!("sending to topic \"{}\"", self.topic));
        let mut rounds = PATIENCE.as_millis() / DRAIN_WAIT.as_millis();
        while self.producer.in_flight_count() > 0 {
            rounds = rounds.checked_sub(1).ok_or_else(|| failed(KafkaError::Flush(Code::OperationTimedOut)))?;
            self.producer.poll(DRAIN_WAIT);
        }
        self.check_refused()
    }

    fn check_refused(&self) -> Result<()> {
        let what = format!("sending to topic \"{}\"", self.topic);
        self.producer.context().refused().map_or(Ok(()), |error| Err(from_kafka(&error, &what)))
    }
}

fn checksum(messages: &[Outgoing]) -> u32 {
    let mut crc = Crc::new();
    for message in messages {
        for part in [&message.key, &message.value] {
            crc.update(&part.as_ref().map_or(u64::MAX, |bytes| bytes.len() as u64).to_le_bytes());
            crc.update(part.as_deref().unwrap_or_default());
        }
    }
    crc.sum()
}

fn somebody_else(sink: &str, group: &str, sender: &str) -> Error {
    let message = format!("another server has delivered for sink \"{sink}\": {sender}");
    Error::new(SqlState::ObjectInUse, message)
        .with_detail(format!("The group \"{group}\" has what it stored."))
        .with_hint(
            "Two servers run on copies of one data directory. Stop one; ALTER SINK .. RESUME lets this one go on.",
        )
}

fn gone_another_way(epoch: Epoch, group: &str) -> Error {
    let message = format!("epoch {epoch} was delivered with other changes than it has here");
    Error::new(SqlState::ObjectInUse, message)
        .with_detail(format!("The group \"{group}\" has its checksum."))
        .with_hint(
            "The data directory is an older copy that has gone another way, or another sink has used this group. \
             DROP SINK and CREATE it again to deliver from what is here.",
        )
}

impl std::fmt::Display for Note {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:08x} {} {}", self.checksum, self.time, self.sender)
    }
}

impl std::str::FromStr for Note {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parts = || {
            let mut parts = text.splitn(3, ' ');
            let checksum = u32::from_str_radix(parts.next()?, 16).ok()?;
            Some(Self { checksum, time: parts.next()?.parse().ok()?, sender: parts.next()?.to_string() })
        };
        parts().ok_or_else(|| {
            Error::new(SqlState::ObjectInUse, format!("an offset that Tidemark did not store: \"{text}\""))
                .with_hint("properties.group.id is to be a group of this sink's own.")
        })
    }
}
