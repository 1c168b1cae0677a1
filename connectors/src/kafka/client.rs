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
use rdkafka::statistics::Statistics;
use tidemark_common::{Error, Hidden, Result};

use super::error::from_kafka;
use crate::options::Options;

const PREFIX: &str = "properties.";
const SERVERS: &str = "bootstrap.servers";

/// Properties that are not the user's, and why.
const OURS: [(&str, &str); 5] = [
    ("enable.auto.commit", "offsets are stored in the epochs"),
    ("enable.auto.offset.store", "offsets are stored in the epochs"),
    ("enable.partition.eof", "the reader sets it where it needs it"),
    ("group.instance.id", "a source takes part in no group"),
    ("partition.assignment.strategy", "a source has all partitions itself"),
];

/// What holds unless a property says otherwise.
const DEFAULTS: [(&str, &str); 6] = [
    ("client.id", "tidemark"),
    ("isolation.level", "read_committed"),
    ("allow.auto.create.topics", "false"),
    ("statistics.interval.ms", "1000"),
    // Of each partition; librdkafka's own default is four times as much.
    ("queued.max.messages.kbytes", "16384"),
    // What is no longer there is told, not passed over.
    ("auto.offset.reset", "error"),
];

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
        let this = Self(options.take_credentials(PREFIX));
        if !this.0.contains_key(SERVERS) {
            return Err(Error::invalid("option \"properties.bootstrap.servers\" is missing")
                .with_hint("Add properties.bootstrap.servers = 'host:9092' to WITH (..)."));
        }
        if let Some((key, why)) = OURS.iter().find(|(key, _)| this.0.contains_key(*key)) {
            return Err(Error::invalid(format!("option \"properties.{key}\" cannot be set: {why}")));
        }
        this.check_security()?;
        // librdkafka knows its properties, and what they may be.
        this.config("check").create_native_config().map_err(|e| from_kafka(&e, "properties"))?;
        Ok(this)
    }

    fn get(&self, key: &str) -> Option<&str> {
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

    fn config(&self, source: &str) -> ClientConfig {
        let mut config = ClientConfig::new();
        for (key, value) in DEFAULTS {
            config.set(key, value);
        }
        config.set("group.id", format!("tidemark-{source}"));
        for (key, value) in &self.0 {
            config.set(key, value.reveal());
        }
        config.set("enable.auto.commit", "false").set("enable.auto.offset.store", "false");
        config.set_log_level(RDKafkaLogLevel::Warning);
        config
    }

    /// A client by these, named in the log after `source`.
    pub fn consumer(&self, source: &str, lag: &Arc<Lag>, purpose: Purpose) -> Result<BaseConsumer<Context>> {
        let mut config = self.config(source);
        if purpose != Purpose::Follow {
            config.set("enable.partition.eof", "true");
        }
        if purpose == Purpose::Replay {
            config.set("auto.offset.reset", "earliest");
        }
        let context = Context { source: source.to_string(), lag: Arc::clone(lag) };
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
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical | RDKafkaLogLevel::Error => {
                tracing::error!(source = self.source, facility, "kafka: {message}");
            }
            RDKafkaLogLevel::Warning => tracing::warn!(source = self.source, facility, "kafka: {message}"),
            _ => tracing::debug!(source = self.source, facility, "kafka: {message}"),
        }
    }

    fn stats(&self, statistics: Statistics) {
        self.lag.note(&statistics);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::warn!(source = self.source, %error, "kafka: {reason}");
    }
}

impl ConsumerContext for Context {}

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
        let config = options.config("s");
        assert_eq!(config.get("isolation.level"), Some("read_uncommitted"));
        assert_eq!(config.get("group.id"), Some("g"));
        assert_eq!(config.get("auto.offset.reset"), Some("error"));
        assert_eq!(config.get("enable.auto.commit"), Some("false"));
    }
}
