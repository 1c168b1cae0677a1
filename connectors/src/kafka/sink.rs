//! The Kafka sink: what CREATE SINK checks, and its writers.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use datafusion::arrow::array::{Array, AsArray};
use datafusion::arrow::datatypes::{Int32Type, TimestampMicrosecondType};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Header, OwnedHeaders};
use tidemark_common::{Delta, Epoch, Error, Net, Result, SqlState};

use super::client::{Context, TIMEOUT, blocking, explained};
use super::error::from_kafka;
use super::sink_options::{Beside, KafkaSinkOptions};
use super::transaction::{Outgoing, Sender};
use crate::formats::envelope::Message;
use crate::formats::text::unhex;
use crate::options::Options;
use crate::spec::SinkSpec;
use crate::{Sink, SinkWriter};

#[derive(Debug)]
struct KafkaSink {
    options: Arc<KafkaSinkOptions>,
    /// What the group had stored when this process looked last.
    seen: Arc<Mutex<Option<String>>>,
}

pub(crate) fn open(spec: SinkSpec, options: Options) -> Result<Arc<dyn Sink>> {
    let options = Arc::new(KafkaSinkOptions::parse(spec, options)?);
    Ok(Arc::new(KafkaSink { options, seen: Arc::default() }))
}

#[async_trait]
impl Sink for KafkaSink {
    async fn writer(&self) -> Result<Box<dyn SinkWriter>> {
        let (options, seen) = (Arc::clone(&self.options), Arc::clone(&self.seen));
        let sender = blocking(move || {
            let member = options.client.member(&options.name, &options.identity)?;
            check_topic(&member, &options.topic)?;
            options.writer.prepare()?;
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            Sender::open(&options, &member, &mut seen)
        });
        let writer =
            Writer { options: Arc::clone(&self.options), sender: Some(sender.await?), seen: self.seen.clone() };
        Ok(Box::new(writer))
    }
}

/// That it is there; nobody makes it by asking.
fn check_topic(member: &BaseConsumer<Context>, topic: &str) -> Result<()> {
    let what = format!("topic \"{topic}\"");
    let found = member.fetch_metadata(Some(topic), TIMEOUT).map_err(|e| explained(member, &e, &what))?;
    match found.topics().first().and_then(|topic| topic.error()) {
        None => Ok(()),
        Some(code) => {
            let code = rdkafka::types::RDKafkaErrorCode::from(code);
            Err(from_kafka(&rdkafka::error::KafkaError::MetadataFetch(code), &what))
        }
    }
}

struct Writer {
    options: Arc<KafkaSinkOptions>,
    /// `None` after a failure, and while it is at work.
    sender: Option<Sender>,
    seen: Arc<Mutex<Option<String>>>,
}

#[async_trait]
impl SinkWriter for Writer {
    async fn deliver(&mut self, epoch: Epoch, changes: Vec<Delta>) -> Result<()> {
        let sender = self.sender.take().ok_or_else(used_again)?;
        let (options, seen) = (Arc::clone(&self.options), Arc::clone(&self.seen));
        // Goes on to its end if nobody waits any more: a transaction is not left open.
        let sent = blocking(move || {
            let time = options.clock.now_micros().div_euclid(1000);
            let outgoing = outgoing(&options, &changes, time)?;
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            sender.send(epoch, time, &outgoing, &mut seen)?;
            Ok(sender)
        });
        self.sender = Some(sent.await?);
        Ok(())
    }

    fn last(&self) -> Option<Epoch> {
        self.sender.as_ref()?.last()
    }

    async fn confirm(&mut self, changes: Vec<Delta>) -> Result<()> {
        let sender = self.sender.take().ok_or_else(used_again)?;
        let options = Arc::clone(&self.options);
        let confirmed = blocking(move || {
            sender.confirm(|time| outgoing(&options, &changes, time))?;
            Ok(sender)
        });
        self.sender = Some(confirmed.await?);
        Ok(())
    }
}

fn used_again() -> Error {
    Error::internal("a writer that has failed is used again")
}

/// The messages with what goes beside them. `time`: milliseconds since 1970.
fn outgoing(options: &KafkaSinkOptions, changes: &[Delta], time: i64) -> Result<Vec<Outgoing>> {
    let net = Net::of(&options.schema, changes)?;
    let messages = options.writer.messages(&net, time)?;
    let Beside { partition, timestamp, headers } = &options.beside;
    let column = |at: &Option<usize>| at.map(|at| net.batch.column(at));
    let partitions = column(partition).map(|column| column.as_primitive::<Int32Type>());
    let times = column(timestamp).map(|column| column.as_primitive::<TimestampMicrosecondType>());
    let headers = column(headers).map(|column| column.as_string::<i32>());
    let one = |message: Message| {
        let row = message.row as usize;
        let partition = partitions.filter(|column| column.is_valid(row)).map(|column| column.value(row));
        if let Some(negative) = partition.filter(|partition| *partition < 0) {
            return Err(Error::new(SqlState::NumericValueOutOfRange, format!("there is no partition {negative}")));
        }
        Ok(Outgoing {
            key: message.key,
            value: message.value,
            partition,
            timestamp: times.filter(|column| column.is_valid(row)).map(|column| column.value(row).div_euclid(1000)),
            headers: match headers.filter(|column| column.is_valid(row)) {
                Some(column) => Some(headers_of(column.value(row))?),
                None => None,
            },
        })
    };
    messages.into_iter().map(one).collect()
}

/// Of a JSON object, as INCLUDE headers gives it: texts, `\x00ff` for bytes, null, and other values as their JSON.
fn headers_of(json: &str) -> Result<OwnedHeaders> {
    let refused = || {
        Error::new(SqlState::InvalidTextRepresentation, format!("headers must be a JSON object, not {json}"))
            .with_hint("jsonb_build_object('name', value, ..)")
    };
    let parsed: serde_json::Value = serde_json::from_str(json).map_err(|_| refused())?;
    let object = parsed.as_object().ok_or_else(refused)?;
    let mut headers = OwnedHeaders::new_with_capacity(object.len());
    for (key, value) in object {
        let value = match value {
            serde_json::Value::Null => None,
            serde_json::Value::String(text) => match text.strip_prefix("\\x").and_then(unhex) {
                Some(bytes) => Some(bytes),
                None => Some(text.clone().into_bytes()),
            },
            other => Some(other.to_string().into_bytes()),
        };
        headers = headers.insert(Header { key, value: value.as_ref() });
    }
    Ok(headers)
}

/// How long a transaction's end may take, beyond which nobody knows how it ended.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
