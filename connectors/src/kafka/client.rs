//! How brokers are reached: the options `properties.*`, which are librdkafka's own.
//!
//! What Tidemark answers for itself (offsets, assignment) cannot be set. Options of which one half is missing are refused here, since
//! librdkafka would go on without them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, DeliveryResult, ProducerContext};
use rdkafka::statistics::Statistics;
use tidemark_common::{Error, Hidden, Result, SqlState};

use super::error::from_kafka;
use super::security::{self, Properties};
use super::tokens::{TakesToken, Tokens};
use crate::options::Options;

const PREFIX: &str = "properties.";
const SERVERS: &str = "bootstrap.servers";
pub(super) const TRANSACTIONS: &str = "transactional.id";

/// Properties that are not the user's, and why.
const OURS: [(&str, &str); 5] = [
    ("enable.auto.commit", "offsets are stored in the epochs"),
    ("enable.auto.offset.store", "offsets are stored in the epochs"),
    ("enable.partition.eof", "the reader sets it where it needs it"),
    ("group.instance.id", "a source takes part in no group"),
    ("partition.assignment.strategy", "a source has all partitions itself"),
];

/// What holds unless a property says otherwise.
const DEFAULTS: [(&str, &str); 2] = [("client.id", "tidemark"), ("reconnect.backoff.max.ms", "1000")];

/// And for those who read.
const READING: [(&str, &str); 6] = [
    ("isolation.level", "read_committed"),
    ("allow.auto.create.topics", "false"),
    ("statistics.interval.ms", "1000"),
    // Of each partition; librdkafka's own default is four times as much.
    ("queued.max.messages.kbytes", "16384"),
    // When that is full it rests for so long; its own second leaves the source without records for most of it.
    ("fetch.queue.backoff.ms", "10"),
    // What is no longer there is told, not passed over.
    ("auto.offset.reset", "error"),
];

/// And for those who write.
const WRITING: [(&str, &str); 5] = [
    // A transaction that begins while the last one is being ended is put off for so long.
    ("retry.backoff.ms", "10"),
    // Of a key everything goes to the partition where a client in Java would put it.
    ("partitioner", "murmur2_random"),
    ("enable.idempotence", "true"),
    ("queue.buffering.max.kbytes", "65536"),
    ("compression.codec", "lz4"),
];

/// A property has two names in librdkafka.
const SYNONYMS: [(&str, &str); 4] = [
    ("compression.type", "compression.codec"),
    ("sasl.mechanisms", "sasl.mechanism"),
    ("sasl.oauthbearer.client.credentials.client.id", "sasl.oauthbearer.client.id"),
    ("sasl.oauthbearer.client.credentials.client.secret", "sasl.oauthbearer.client.secret"),
];

/// What is heard of a question that came to nothing.
const EVENTS: usize = 32;

/// How long brokers may take to answer.
pub(super) const TIMEOUT: Duration = Duration::from_secs(10);

/// What a consumer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To ask what there is, and to read on and on.
    Follow,
    /// To read to an end.
    Bounded,
    /// To read again what has been read: what the topic still has of it.
    Replay,
}

/// What librdkafka does blocks.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|e| Err(Error::internal(format!("asking Kafka failed: {e}"))))
}

/// Checked properties.
#[derive(Debug, Clone)]
pub(super) struct ClientOptions {
    properties: Properties,
    /// Of clients that sign in by them.
    tokens: Option<Arc<Tokens>>,
}

impl ClientOptions {
    pub fn take(options: &mut Options) -> Result<Self> {
        let mut properties = options.take_credentials(PREFIX);
        for (synonym, name) in SYNONYMS {
            if let Some(value) = properties.remove(synonym) {
                properties.insert(name.to_string(), value);
            }
        }
        if !properties.contains_key(SERVERS) {
            return Err(Error::invalid("option \"properties.bootstrap.servers\" is missing")
                .with_hint("Add properties.bootstrap.servers = 'host:9092' to WITH (..)."));
        }
        if let Some((key, why)) = OURS.iter().find(|(key, _)| properties.contains_key(*key)) {
            return Err(Error::invalid(format!("option \"properties.{key}\" cannot be set: {why}")));
        }
        security::check(&properties)?;
        let tokens = Tokens::take(&mut properties, options)?;
        let this = Self { properties, tokens };
        // librdkafka knows its properties, and what they may be.
        this.config(&[]).create_native_config().map_err(|e| from_kafka(&e, "properties"))?;
        Ok(this)
    }

    pub fn get(&self, key: &str) -> Option<&str> {
        self.properties.get(key).map(Hidden::reveal)
    }

    fn config(&self, defaults: &[(&str, &str)]) -> ClientConfig {
        let mut config = ClientConfig::new();
        for (key, value) in DEFAULTS.iter().chain(defaults) {
            config.set(*key, *value);
        }
        for (key, value) in &self.properties {
            config.set(key, value.reveal());
        }
        config.set_log_level(RDKafkaLogLevel::Warning);
        config
    }

    fn reading(&self, group: &str) -> ClientConfig {
        let group = [("group.id", group)];
        let mut config = self.config(&READING.iter().chain(&group).copied().collect::<Vec<_>>());
        config.set("enable.auto.commit", "false").set("enable.auto.offset.store", "false");
        config
    }

    /// A client by these, named in the log after `source`.
    pub fn consumer(&self, source: &str, told: &Arc<Told>, purpose: Purpose) -> Result<Arc<BaseConsumer<Context>>> {
        let mut config = self.reading(&format!("tidemark-{source}"));
        if purpose != Purpose::Follow {
            config.set("enable.partition.eof", "true");
        }
        if purpose == Purpose::Replay {
            config.set("auto.offset.reset", "earliest");
        }
        self.signed_in(&config, || Context { source: source.to_string(), told: Arc::clone(told) })
    }

    /// A client that asks what a group has stored.
    pub fn member(&self, sink: &str, group: &str) -> Result<Arc<BaseConsumer<Context>>> {
        let mut config = self.reading(group);
        // What a transaction is about to store is waited for.
        config.set("isolation.level", "read_committed");
        self.signed_in(&config, || Context { source: sink.to_string(), told: Arc::default() })
    }

    /// A client that sends; with `transactions`, all or nothing under that id.
    pub fn producer(&self, sink: &str, transactions: Option<&str>) -> Result<Arc<BaseProducer<Sending>>> {
        let mut config = self.config(&WRITING);
        if let Some(id) = transactions
            && self.get(TRANSACTIONS).is_none()
        {
            config.set(TRANSACTIONS, id);
        }
        self.signed_in(&config, || Sending { sink: sink.to_string(), refused: Mutex::default() })
    }

    /// A client that has a token, if it signs in by one.
    fn signed_in<C: ClientContext, T>(&self, config: &ClientConfig, context: impl FnOnce() -> C) -> Result<Arc<T>>
    where
        T: FromClientConfigAndContext<C> + TakesToken + 'static,
    {
        let make = || config.create_with_context(context()).map_err(|e| from_kafka(&e, "connecting to Kafka"));
        match &self.tokens {
            Some(tokens) => tokens.sign_in(make),
            None => make().map(Arc::new),
        }
    }

    /// Why clients get no tokens, if they do not.
    pub fn trouble(&self) -> Option<Error> {
        self.tokens.as_ref()?.trouble()
    }

    /// Whether clients sign in by tokens: what a broker says of one does not hold for the next.
    pub fn has_tokens(&self) -> bool {
        self.tokens.is_some()
    }

    pub fn servers(&self) -> &str {
        self.get(SERVERS).unwrap_or_default()
    }

    /// Where a partition's missing rows are passed over.
    pub fn resets_offsets(&self) -> bool {
        self.get("auto.offset.reset").is_some_and(|way| way != "error")
    }
}

/// What the clients of a reader hear from the brokers.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// Rows that wait there, by topic and partition.
    waiting: Mutex<BTreeMap<(String, i32), u64>>,
    /// Why no broker can be spoken to.
    trouble: Mutex<Option<Error>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Told {
    pub fn rows(&self) -> u64 {
        lock(&self.waiting).values().sum()
    }

    pub fn trouble(&self) -> Option<Error> {
        lock(&self.trouble).clone()
    }

    /// Somebody has answered.
    pub fn is_well(&self) {
        *lock(&self.trouble) = None;
    }

    fn note(&self, statistics: &Statistics) {
        if statistics.brokers.values().any(|broker| broker.state == "UP") {
            self.is_well();
        }
        let mut known = lock(&self.waiting);
        for topic in statistics.topics.values() {
            for partition in topic.partitions.values().filter(|partition| partition.desired) {
                let (end, next) = (partition.ls_offset, partition.app_offset.max(partition.query_offset));
                let next = if next < 0 { partition.next_offset } else { next };
                if end >= 0 && next >= 0 {
                    known.insert((topic.topic.clone(), partition.partition), end.saturating_sub(next).max(0) as u64);
                }
            }
        }
    }

    /// Of a connection. What went wrong in a handshake is told nowhere else.
    fn note_failure(&self, message: &str) {
        let message = message.split_once("]: ").map_or(message, |(_thread, message)| message);
        let failure = || Error::new(SqlState::ConnectionException, message);
        lock(&self.trouble).get_or_insert_with(failure);
    }

    fn note_error(&self, error: &KafkaError, reason: &str) {
        let mut trouble = lock(&self.trouble);
        // That all are down comes after what is wrong with each.
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::AllBrokersDown) || trouble.is_none() {
            *trouble = Some(from_kafka(error, reason));
        }
    }
}

/// An error with what was said meanwhile: of a question that came to nothing librdkafka tells no more than that. For consumers that
/// have no partitions.
pub(super) fn explained(consumer: &BaseConsumer<Context>, error: &KafkaError, what: &str) -> Error {
    for _ in 0..EVENTS {
        consumer.poll(Duration::ZERO);
    }
    let error = from_kafka(error, what);
    match consumer.context().told.trouble() {
        Some(said) if said.state() == SqlState::InvalidAuthorization => said,
        Some(said) => error.with_detail(said.message()),
        None => error,
    }
}

/// What librdkafka tells of a client.
#[derive(Debug)]
pub(super) struct Context {
    /// The source, for the log.
    pub source: String,
    pub told: Arc<Told>,
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(&self.source, level, facility, message);
        if facility == "FAIL" && level as i32 <= RDKafkaLogLevel::Error as i32 {
            self.told.note_failure(message);
        }
    }

    fn stats(&self, statistics: Statistics) {
        self.told.note(&statistics);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(source = self.source, %error, "kafka: {reason}");
        self.told.note_error(&error, reason);
    }
}

impl ConsumerContext for Context {}

/// What librdkafka tells of a client that sends.
#[derive(Debug)]
pub(super) struct Sending {
    /// The sink, for the log.
    sink: String,
    /// The first record that could not be delivered, since it was asked last.
    refused: Mutex<Option<KafkaError>>,
}

impl Sending {
    pub fn refused(&self) -> Option<KafkaError> {
        lock(&self.refused).take()
    }
}

impl ClientContext for Sending {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(&self.sink, level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(sink = self.sink, %error, "kafka: {reason}");
    }
}

impl ProducerContext for Sending {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result {
            lock(&self.refused).get_or_insert(error.clone());
        }
    }
}

fn log(of: &str, level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical | RDKafkaLogLevel::Error => {
            tracing::error!(of, facility, "kafka: {message}");
        }
        RDKafkaLogLevel::Warning => tracing::warn!(of, facility, "kafka: {message}"),
        _ => tracing::debug!(of, facility, "kafka: {message}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(pairs: &[(&str, &str)]) -> Result<ClientOptions> {
        let servers = ("properties.bootstrap.servers".to_string(), "h:1".to_string());
        let pairs = pairs.iter().map(|(key, value)| (format!("properties.{key}"), value.to_string()));
        ClientOptions::take(&mut Options::new(&pairs.chain([servers]).collect::<Vec<_>>())?)
    }

    #[test]
    fn what_is_half_said_is_refused() {
        for (pairs, missing) in [
            (&[("sasl.username", "u")] as &[_], "security.protocol"),
            (&[("ssl.ca.location", "/ca")], "security.protocol"),
            (&[("security.protocol", "SASL_SSL")], "sasl.mechanism"),
            (&[("security.protocol", "SASL_SSL"), ("sasl.mechanism", "PLAIN")], "sasl.username"),
            (
                &[("security.protocol", "SASL_SSL"), ("sasl.mechanism", "PLAIN"), ("sasl.username", "u")],
                "sasl.password",
            ),
            (&[("security.protocol", "ssl"), ("ssl.certificate.location", "/c")], "ssl.key.location"),
            (&[("security.protocol", "ssl"), ("ssl.key.pem", "k")], "ssl.certificate.pem"),
        ] {
            let error = take(pairs).unwrap_err();
            assert!(error.message().ends_with(&format!("needs the option \"properties.{missing}\"")), "{error:?}");
        }
        assert!(take(&[("enable.auto.commit", "true")]).is_err());
        assert!(take(&[("security.protocol", "SASL_PLAINTEXT"), ("sasl.mechanism", "GSSAPI")]).is_err());
        assert!(ClientOptions::take(&mut Options::default()).is_err());
    }

    #[test]
    fn properties_come_before_defaults() {
        let options = take(&[("isolation.level", "read_uncommitted"), ("group.id", "g")]).unwrap();
        let config = options.reading("s");
        assert_eq!(config.get("isolation.level"), Some("read_uncommitted"));
        assert_eq!(config.get("group.id"), Some("g"));
        assert_eq!(config.get("auto.offset.reset"), Some("error"));
        assert_eq!(options.config(&WRITING).get("auto.offset.reset"), None);
        let options = take(&[("compression.type", "zstd")]).unwrap();
        assert_eq!(options.config(&WRITING).get("compression.codec"), Some("zstd"));
        assert_eq!(config.get("enable.auto.commit"), Some("false"));
    }
}
