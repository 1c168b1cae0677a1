//! An Apache Kafka broker: one for all tests, or one of a test's own that can be killed.

use std::collections::BTreeMap;
use std::process::{Child, Command};
use std::sync::OnceLock;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};

use crate::harness::{free_ports, repository, service};

const PATIENCE: Duration = Duration::from_secs(60);

pub struct Kafka {
    child: Child,
    ports: [u16; 2],
    guarded: Guarded,
    dir: tempfile::TempDir,
}

/// Listeners beside the one where anybody may come in.
#[derive(Debug, Clone, Default)]
struct Guarded {
    /// Name and port.
    ports: BTreeMap<&'static str, u16>,
    conf: String,
    java: String,
}

/// A listener for those who show who they are.
#[derive(Debug, Clone)]
pub struct Listener {
    pub name: &'static str,
    /// `SSL`, `SASL_PLAINTEXT`, ..
    pub protocol: &'static str,
    /// Of this listener only.
    pub settings: Vec<(&'static str, String)>,
}

impl Guarded {
    /// `open`: ports that anybody may use.
    fn of(listeners: &[Listener], [open, controller]: [u16; 2], java: &str) -> Self {
        if listeners.is_empty() {
            return Self::default();
        }
        let free: [u16; 4] = free_ports();
        let ports: BTreeMap<_, _> = listeners.iter().map(|one| one.name).zip(free).collect();
        assert_eq!(ports.len(), listeners.len());
        let join = |one: fn(&Listener, u16) -> String| {
            listeners.iter().map(|listener| one(listener, ports[listener.name])).collect::<Vec<_>>().join(",")
        };
        let at = join(|listener, port| format!("{}://127.0.0.1:{port}", listener.name));
        let protocols = join(|listener, _| format!("{}:{}", listener.name, listener.protocol));
        let mut conf = format!(
            "listeners=PLAINTEXT://127.0.0.1:{open},CONTROLLER://127.0.0.1:{controller},{at}\n\
             advertised.listeners=PLAINTEXT://127.0.0.1:{open},{at}\n\
             listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,{protocols}\n"
        );
        for listener in listeners {
            let prefix = format!("listener.name.{}", listener.name.to_lowercase());
            listener.settings.iter().for_each(|(key, value)| conf += &format!("{prefix}.{key}={value}\n"));
        }
        Self { ports, conf, java: java.into() }
    }
}

/// A record to send.
#[derive(Debug, Clone, Default)]
pub struct Record {
    pub partition: i32,
    pub key: Option<String>,
    pub value: Option<Vec<u8>>,
    pub headers: BTreeMap<String, Vec<u8>>,
    /// Milliseconds since 1970.
    pub timestamp: Option<i64>,
}

impl Record {
    pub fn new(partition: i32, value: impl Into<Vec<u8>>) -> Self {
        Self { partition, value: Some(value.into()), ..Self::default() }
    }

    /// `key value`, `-` for what is not there.
    pub fn line(&self) -> String {
        let value = self.value.as_ref().map_or("-".into(), |value| String::from_utf8_lossy(value));
        format!("{} {value}", self.key.as_deref().unwrap_or("-"))
    }
}

impl Kafka {
    /// That of all tests; each makes topics with names of its own.
    pub fn shared() -> &'static Kafka {
        static SHARED: OnceLock<Kafka> = OnceLock::new();
        SHARED.get_or_init(Kafka::start)
    }

    /// Gone when dropped, or when this process ends.
    pub fn start() -> Kafka {
        Self::guarded(&[], "")
    }

    /// With such listeners besides; `java`: options for it.
    pub fn guarded(listeners: &[Listener], java: &str) -> Kafka {
        let ports = free_ports();
        let guarded = Guarded::of(listeners, ports, java);
        let dir = tempfile::tempdir().unwrap();
        Kafka { child: spawn(ports, &guarded, dir.path()), ports, guarded, dir }
    }

    /// Where a guarded listener is.
    pub fn servers_of(&self, listener: &str) -> String {
        format!("127.0.0.1:{}", self.guarded.ports[listener])
    }

    pub fn servers(&self) -> String {
        format!("127.0.0.1:{}", self.ports[0])
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        let pid = std::fs::read_to_string(self.dir.path().join("pid")).unwrap();
        assert!(Command::new("kill").args(["-9", pid.trim()]).status().unwrap().success());
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// After [`kill`](Self::kill): with the same data, on the same port.
    pub fn restart(&mut self) {
        self.child = spawn(self.ports, &self.guarded, self.dir.path());
    }

    pub fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.servers());
        config
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        self.config().create().unwrap()
    }

    pub async fn topic(&self, name: &str, partitions: i32) {
        let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
        let options = AdminOptions::new().operation_timeout(Some(PATIENCE));
        let made = self.admin().create_topics([&topic], &options).await.unwrap();
        assert!(made.iter().all(Result::is_ok), "{made:?}");
    }

    /// Forgets what lies before an offset of partition 0, as retention does.
    pub async fn forget(&self, topic: &str, before: i64) {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, 0, Offset::Offset(before)).unwrap();
        self.admin().delete_records(&list, &AdminOptions::new()).await.unwrap();
    }

    /// So many partitions from now on.
    pub async fn widen(&self, name: &str, partitions: usize) {
        let wider = NewPartitions::new(name, partitions);
        let made = self.admin().create_partitions([&wider], &AdminOptions::new()).await.unwrap();
        assert!(made.iter().all(Result::is_ok), "{made:?}");
    }

    /// Sends, and waits until the broker has them.
    pub async fn send(&self, topic: &str, records: Vec<Record>) {
        let producer: BaseProducer = self.config().set("enable.idempotence", "true").create().unwrap();
        let topic = topic.to_string();
        tokio::task::spawn_blocking(move || {
            send(&producer, &topic, &records);
            producer.flush(PATIENCE).unwrap();
        })
        .await
        .unwrap();
    }

    /// All that is committed, by partition, each in its order.
    pub async fn read(&self, topic: &str) -> Vec<Record> {
        let mut config = self.config();
        config.set("group.id", "reader").set("isolation.level", "read_committed").set("enable.partition.eof", "true");
        let consumer: BaseConsumer = config.set("enable.auto.commit", "false").create().unwrap();
        let topic = topic.to_string();
        tokio::task::spawn_blocking(move || read(&consumer, &topic)).await.unwrap()
    }

    /// Texts into partition 0.
    pub async fn send_texts(&self, topic: &str, texts: &[&str]) {
        self.send(topic, texts.iter().map(|text| Record::new(0, *text)).collect()).await;
    }
}

pub fn send(producer: &BaseProducer, topic: &str, records: &[Record]) {
    for record in records {
        let mut sent = BaseRecord::<String, [u8]>::to(topic).partition(record.partition);
        if let Some(key) = &record.key {
            sent = sent.key(key);
        }
        if let Some(value) = &record.value {
            sent = sent.payload(value);
        }
        if let Some(timestamp) = record.timestamp {
            sent = sent.timestamp(timestamp);
        }
        let headers = record
            .headers
            .iter()
            .fold(OwnedHeaders::new(), |headers, (key, value)| headers.insert(Header { key, value: Some(value) }));
        sent = sent.headers(headers);
        producer.send(sent).map_err(|(error, _)| error).unwrap();
        producer.poll(Duration::ZERO);
    }
}

fn read(consumer: &BaseConsumer, topic: &str) -> Vec<Record> {
    let metadata = consumer.fetch_metadata(Some(topic), PATIENCE).unwrap();
    let mut list = TopicPartitionList::new();
    for partition in metadata.topics()[0].partitions() {
        list.add_partition_offset(topic, partition.id(), Offset::Beginning).unwrap();
    }
    consumer.assign(&list).unwrap();
    let (mut records, mut ended) = (Vec::new(), 0);
    while ended < list.count() {
        match consumer.poll(PATIENCE).expect("a broker that answers") {
            Ok(message) => {
                let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
                let header = |h: Header<'_, &[u8]>| (h.key.to_string(), h.value.unwrap_or(b"null").to_vec());
                records.push(Record {
                    partition: message.partition(),
                    key: message.key().map(|key| String::from_utf8_lossy(key).into_owned()),
                    value: message.payload().map(<[u8]>::to_vec),
                    headers: headers.map(header).collect(),
                    timestamp: message.timestamp().to_millis(),
                });
            }
            Err(KafkaError::PartitionEOF(_)) => ended += 1,
            Err(error) => panic!("{error}"),
        }
    }
    records.sort_by_key(|record| record.partition); // stable
    records
}

fn spawn(ports: [u16; 2], guarded: &Guarded, dir: &std::path::Path) -> Child {
    let jars = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("kafka");
    let mut script = Command::new(repository().join("scripts/kafka.sh"));
    script.arg(jars).env("KAFKA_PORT", ports[0].to_string()).env("KAFKA_CONTROLLER_PORT", ports[1].to_string());
    service(script.env("KAFKA_DIR", dir).env("KAFKA_CONF", &guarded.conf).env("KAFKA_OPTS", &guarded.java))
}

impl Drop for Kafka {
    fn drop(&mut self) {
        // Its input ends, and it with it.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
