//! How brokers are reached: the options `properties.*`, which are librdkafka's own.
//!
//! What Tidemark answers for itself (offsets, assignment) cannot be set. Options of which one half is missing are refused here, since
//! librdkafka would go on without them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, DeliveryResult, ProducerContext};
use rdkafka::statistics::Statistics;
use tidemark_common::{Error, Hidden, Result};

use super::error::from_kafka;
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
const READING: [(&str, &str); 5] = [
    ("isolation.level", "read_committed"),
    ("allow.auto.create.topics", "false"),
    ("statistics.interval.ms", "1000"),
    // Of each partition; librdkafka's own default is four times as much.
    ("queued.max.messages.kbytes", "16384"),
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
const SYNONYMS: [(&str, &str); 1] = [("compression.type", "compression.codec")];

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

/// Checked properties, the prefix cut off.
#[derive(Debug, Clone)]
pub(super) struct ClientOptions(BTreeMap<String, Hidden>);

impl ClientOptions {
    pub fn take(options: &mut Options) -> Result<Self> {
        let mut this = Self(options.take_credentials(PREFIX));
        for (synonym, name) in SYNONYMS {
            if let Some(value) = this.0.remove(synonym) {
                this.0.insert(name.to_string(), value);
            }
        }
        if !this.0.contains_key(SERVERS) {
            return Err(Error::invalid("option \"properties.bootstrap.servers\" is missing")
                .with_hint("Add properties.bootstrap.servers = 'host:9092' to WITH (..)."));
        }
        if let Some((key, why)) = OURS.iter().find(|(key, _)| this.0.contains_key(*key)) {
            return Err(Error::invalid(format!("option \"properties.{key}\" cannot be set: {why}")));
        }
        this.check_security()?;
        // librdkafka knows its properties, and what they may be.
        this.config(&[]).create_native_config().map_err(|e| from_kafka(&e, "properties"))?;
        Ok(this)
    }

    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(Hidden::reveal)
    }

    fn check_security(&self) -> Result<()> {
        let protocol = self.get("security.protocol").unwrap_or("plaintext").to_lowercase();
        let (is_sasl, is_tls) = (protocol.starts_with("sasl_"), protocol.ends_with("ssl"));
        let given = |prefix: &str| self.0.keys().find(|key| key.starts_with(prefix));
        if let Some(key) = given("sasl.").filter(|_| !is_sasl) {
            return Err(half(key, "security.protocol", "'SASL_SSL', or 'SASL_PLAINTEXT' without encryption"));
        }
        if let Some(key) = given("ssl.").filter(|_| !is_tls) {
            return Err(half(key, "security.protocol", "'SSL' or 'SASL_SSL'"));
        }
        for part in ["location", "pem"] {
            let (certificate, key) = (format!("ssl.certificate.{part}"), format!("ssl.key.{part}"));
            match (self.get(&certificate), self.get(&key)) {
                (Some(_), None) => return Err(half(&certificate, &key, "the key of the certificate")),
                (None, Some(_)) => return Err(half(&key, &certificate, "the certificate of the key")),
                _ => {}
            }
        }
        if !is_sasl {
            return Ok(());
        }
        let mechanism = self.get("sasl.mechanism").or_else(|| self.get("sasl.mechanisms"));
        let Some(mechanism) = mechanism else {
            return Err(half("security.protocol", "sasl.mechanism", "'PLAIN', 'SCRAM-SHA-256' or 'SCRAM-SHA-512'"));
        };
        match mechanism.to_uppercase().as_str() {
            "PLAIN" | "SCRAM-SHA-256" | "SCRAM-SHA-512" => {
                let needed = ["sasl.username", "sasl.password"];
                match needed.iter().find(|key| !self.0.contains_key(**key)) {
                    Some(key) => Err(half("sasl.mechanism", key, "who signs in, and with what")),
                    None => Ok(()),
                }
            }
            other => Err(Error::unsupported(format!("sasl.mechanism {other} is not supported"))
                .with_hint("Known here: PLAIN, SCRAM-SHA-256, SCRAM-SHA-512.")),
        }
    }

    fn config(&self, defaults: &[(&str, &str)]) -> ClientConfig {
        let mut config = ClientConfig::new();
        for (key, value) in DEFAULTS.iter().chain(defaults) {
            config.set(*key, *value);
        }
        for (key, value) in &self.0 {
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
    pub fn consumer(&self, source: &str, lag: &Arc<Lag>, purpose: Purpose) -> Result<BaseConsumer<Context>> {
        let mut config = self.reading(&format!("tidemark-{source}"));
        if purpose != Purpose::Follow {
            config.set("enable.partition.eof", "true");
        }
        if purpose == Purpose::Replay {
            config.set("auto.offset.reset", "earliest");
        }
        let context = Context { source: source.to_string(), lag: Arc::clone(lag) };
        config.create_with_context(context).map_err(|e| from_kafka(&e, "connecting to Kafka"))
    }

    /// A client that asks what a group has stored.
    pub fn member(&self, sink: &str, group: &str) -> Result<BaseConsumer<Context>> {
        let mut config = self.reading(group);
        // What a transaction is about to store is waited for.
        config.set("isolation.level", "read_committed");
        let context = Context { source: sink.to_string(), lag: Arc::default() };
        config.create_with_context(context).map_err(|e| from_kafka(&e, "connecting to Kafka"))
    }

    /// A client that sends; with `transactions`, all or nothing under that id.
    pub fn producer(&self, sink: &str, transactions: Option<&str>) -> Result<BaseProducer<Sending>> {
        let mut config = self.config(&WRITING);
        if let Some(id) = transactions
            && self.get(TRANSACTIONS).is_none()
        {
            config.set(TRANSACTIONS, id);
        }
        let context = Sending { sink: sink.to_string(), refused: Mutex::default() };
        config.create_with_context(context).map_err(|e| from_kafka(&e, "connecting to Kafka"))
    }

    pub fn servers(&self) -> &str {
        self.get(SERVERS).unwrap_or_default()
    }

    /// Where a partition's missing rows are passed over.
    pub fn resets_offsets(&self) -> bool {
        self.get("auto.offset.reset").is_some_and(|way| way != "error")
    }
}

fn half(given: &str, missing: &str, what: &str) -> Error {
    Error::invalid(format!("option \"properties.{given}\" needs the option \"properties.{missing}\""))
        .with_hint(format!("It is {what}."))
}

/// Rows that wait at the brokers, by topic and partition.
#[derive(Debug, Default)]
pub(super) struct Lag(Mutex<BTreeMap<(String, i32), u64>>);

impl Lag {
    pub fn rows(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().sum()
    }

    fn note(&self, statistics: &Statistics) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
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
}

/// What librdkafka tells of a client.
#[derive(Debug)]
pub(super) struct Context {
    /// The source, for the log.
    pub source: String,
    pub lag: Arc<Lag>,
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(&self.source, level, facility, message);
    }

    fn stats(&self, statistics: Statistics) {
        self.lag.note(&statistics);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(source = self.source, %error, "kafka: {reason}");
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
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).take()
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
            self.refused.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error.clone());
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
