//! Records of a Kafka topic into nothing and into windows, beside a consumer that does nothing with them.
//!
//! ```text
//!   for each format: a topic of 4 partitions ──▶ BaseConsumer, in a process of its own       the limit: what librdkafka needs
//!                                            ──▶ fresh server: CREATE SOURCE, CREATE SINK | VIEW ──▶ until all rows are through
//!   ──▶ records/s, records per CPU-second of that process, and which of its threads spent it
//! ```
//!
//! `cargo bench --workspace --bench kafka -- [--records N] [--formats json,avro,protobuf] [--into blackhole|window]
//! [--properties fetch.min.bytes=100000,..]`, which are librdkafka's, for both

#![allow(clippy::disallowed_methods)] // measuring is what this is for

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use chrono::{DateTime, SecondsFormat};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};
use serde_json::json;
use tidemark_sqllogictest::process::{Service, cpu_seconds, cpu_seconds_by_thread, peak_memory};
use tidemark_sqllogictest::{Failure, Result, Server, free_port};

const PARTITIONS: i32 = 4;
const PATIENCE: Duration = Duration::from_secs(60);
/// Event time of the first record, in milliseconds; each is one later than the last.
const BEGINS: i64 = 1_735_689_600_000;
const PAGES: u64 = 1000;

const COLUMNS: &str = "id BIGINT, user_id BIGINT, page TEXT, referrer TEXT, price DOUBLE PRECISION, country TEXT, ts TIMESTAMPTZ, \
                       WATERMARK FOR ts AS ts - INTERVAL '5 seconds'";

const AVRO: &str = r#"{"type": "record", "name": "Click", "fields": [
    {"name": "id", "type": "long"}, {"name": "user_id", "type": "long"}, {"name": "page", "type": "string"},
    {"name": "referrer", "type": "string"}, {"name": "price", "type": "double"}, {"name": "country", "type": "string"},
    {"name": "ts", "type": {"type": "long", "logicalType": "timestamp-micros"}}]}"#;

const PROTOBUF: &str = r#"syntax = "proto3";
import "google/protobuf/timestamp.proto";
message Click {
    int64 id = 1; int64 user_id = 2; string page = 3; string referrer = 4; double price = 5; string country = 6;
    google.protobuf.Timestamp ts = 7;
}"#;

#[derive(Clone, Copy)]
enum Format {
    Json,
    Avro,
    Protobuf,
}

const FORMATS: [(&str, Format); 3] = [("json", Format::Json), ("avro", Format::Avro), ("protobuf", Format::Protobuf)];

const TARGETS: [(&str, &str); 2] = [
    ("blackhole", "CREATE SINK target FROM clicks WITH (connector = 'blackhole')"),
    (
        "window",
        "CREATE MATERIALIZED VIEW target AS SELECT window_start, page, count(*) AS n, sum(price) AS total
         FROM TUMBLE(clicks, ts, INTERVAL '1 minute') GROUP BY window_start, page",
    ),
];

/// A run of some process over all records.
struct Run {
    seconds: f64,
    cpu_seconds: f64,
}

/// Of the CPU-seconds of a server those of threads that are there from the first record to the last; all else is the engine's.
#[derive(Default)]
struct Split {
    librdkafka: f64,
    /// Polls and decodes.
    source: f64,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let argument = |name: &str| arguments.iter().position(|a| a == name).and_then(|i| arguments.get(i + 1)).cloned();
    let properties = argument("--properties").unwrap_or_default();
    let properties: Vec<(&str, &str)> = properties.split(',').filter_map(|one| one.split_once('=')).collect();
    if let (Some(topic), Some(servers)) = (argument("--consume"), argument("--servers")) {
        return consume(&servers, &topic, &properties);
    }
    let records: u64 = match argument("--records") {
        Some(text) => text.parse().map_err(|_| Failure(format!("--records must be a number, not {text}")))?,
        None => 2_000_000,
    };
    let (formats, into) = (argument("--formats"), argument("--into"));
    let dir = tempfile::tempdir()?;
    let (servers, _kafka) = kafka()?;
    println!(
        "| Format | Bytes | Into | Records/s | of the bare consumer | Records per CPU-second | of the bare consumer \
         | librdkafka | Poll and decode | Engine | Peak memory |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|");
    for (name, format) in FORMATS {
        if formats.as_ref().is_some_and(|wanted| !wanted.split(',').any(|one| one == name)) {
            continue;
        }
        let bytes = fill(&servers, name, format, records).await? as f64 / records as f64;
        let bare = bare(&servers, name, &properties, records)?;
        let line = |into: &str, run: &Run, rest: &str| {
            println!(
                "| {name} | {bytes:.0} | {into} | {} | {:.2} | {} | {:.2} | {rest} |",
                thousands(records as f64 / run.seconds),
                bare.seconds / run.seconds,
                thousands(records as f64 / run.cpu_seconds),
                bare.cpu_seconds / run.cpu_seconds,
            );
        };
        line("bare consumer", &bare, &format!("{:.1} s | | | ", bare.cpu_seconds));
        for (into, target) in TARGETS.iter().filter(|(name, _)| into.as_ref().is_none_or(|into| into == name)) {
            let dir = dir.path().join(format!("{name}-{into}"));
            std::fs::create_dir(&dir)?;
            let with: String =
                properties.iter().map(|(key, value)| format!(", properties.{key} = '{value}'")).collect();
            let source = format!(
                "CREATE SOURCE clicks ({COLUMNS}) WITH (connector = 'kafka', topic = '{name}', \
                 properties.bootstrap.servers = '{servers}'{with}) FORMAT PLAIN ENCODE {}",
                format.encode(&dir)?
            );
            let (run, split, peak) = measure(&dir.join("data"), &source, target, records).await?;
            let Split { librdkafka, source } = split;
            let engine = run.cpu_seconds - librdkafka - source;
            line(into, &run, &format!("{librdkafka:.1} s | {source:.1} s | {engine:.1} s | {} MB", peak / 1_000_000));
        }
    }
    Ok(())
}

fn thousands(n: f64) -> String {
    if n >= 1e6 { format!("{:.2} M", n / 1e6) } else { format!("{:.0} k", n / 1e3) }
}

/// A broker of its own, and where it listens.
fn kafka() -> Result<(String, Service)> {
    let [port, controller] = [free_port()?, free_port()?].map(|port| port.to_string());
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap_or(Path::new("target"));
    let mut script = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/kafka.sh"));
    script.arg(target.join("kafka")).env("KAFKA_PORT", &port).env("KAFKA_CONTROLLER_PORT", controller);
    Ok((format!("127.0.0.1:{port}"), Service::start(&mut script)?))
}

fn config(servers: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", servers);
    config
}

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure(format!("Kafka: {error}"))
}

/// Makes the topic of a format, and its records. How many bytes they have.
async fn fill(servers: &str, topic: &str, format: Format, records: u64) -> Result<u64> {
    let admin: AdminClient<DefaultClientContext> = config(servers).create().map_err(failed)?;
    let new = NewTopic::new(topic, PARTITIONS, TopicReplication::Fixed(1));
    for made in admin.create_topics([&new], &AdminOptions::new()).await.map_err(failed)? {
        made.map_err(|(_, code)| failed(code))?;
    }
    let mut config = config(servers);
    config.set("queue.buffering.max.messages", "500000").set("linger.ms", "50");
    let producer: BaseProducer = config.create().map_err(failed)?;
    let (mut bytes, mut value) = (0, Vec::new());
    for id in 0..records {
        value.clear();
        format.write(id, &mut value);
        bytes += value.len() as u64;
        let mut record = BaseRecord::<(), [u8]>::to(topic).partition((id % PARTITIONS as u64) as i32).payload(&value);
        while let Err((error, back)) = producer.send(record) {
            if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
                return Err(failed(error));
            }
            producer.poll(Duration::from_millis(10));
            record = back;
        }
        producer.poll(Duration::ZERO);
    }
    producer.flush(PATIENCE).map_err(failed)?;
    Ok(bytes)
}

impl Format {
    fn write(self, id: u64, out: &mut Vec<u8>) {
        // Looks random, and is the same in each run.
        let random =
            id.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(23).wrapping_mul(0xD6E8_FEB8_6659_FD93)
                >> 20;
        let user = random % 100_000;
        let page = format!("/products/{}", random / 7 % PAGES);
        let referrer = format!("https://www.example.org/search?q={}", random % 10_000);
        let price = (random % 10_000) as f64 / 100.0;
        let country = ["NL", "DE", "FR", "GB", "US"][(random % 5) as usize];
        let millis = BEGINS + id as i64;
        match self {
            Format::Json => {
                let ts = DateTime::from_timestamp_millis(millis).unwrap_or_default();
                let ts = ts.to_rfc3339_opts(SecondsFormat::Millis, true);
                let record = json!({ "id": id, "user_id": user, "page": page, "referrer": referrer, "price": price,
                                     "country": country, "ts": ts });
                out.extend_from_slice(record.to_string().as_bytes());
            }
            Format::Avro => {
                // Of what is not negative zigzag is twice as much.
                varint(out, id * 2);
                varint(out, user * 2);
                avro_text(out, &page);
                avro_text(out, &referrer);
                out.extend_from_slice(&price.to_le_bytes());
                avro_text(out, country);
                varint(out, millis as u64 * 2000);
            }
            Format::Protobuf => {
                out.push(1 << 3);
                varint(out, id);
                out.push(2 << 3);
                varint(out, user);
                protobuf_bytes(out, 3, page.as_bytes());
                protobuf_bytes(out, 4, referrer.as_bytes());
                out.push(5 << 3 | 1);
                out.extend_from_slice(&price.to_le_bytes());
                protobuf_bytes(out, 6, country.as_bytes());
                let mut ts = vec![1 << 3];
                varint(&mut ts, millis as u64 / 1000);
                ts.push(2 << 3);
                varint(&mut ts, millis as u64 % 1000 * 1_000_000);
                protobuf_bytes(out, 7, &ts);
            }
        }
    }

    /// What stands after ENCODE; the schema in a file of `dir`.
    fn encode(self, dir: &Path) -> Result<String> {
        let file = |name: &str, schema: &str| -> Result<String> {
            let path = dir.join(name);
            std::fs::write(&path, schema)?;
            Ok(path.display().to_string())
        };
        Ok(match self {
            Format::Json => "JSON".into(),
            Format::Avro => format!("AVRO (schema.location = 'file://{}')", file("click.avsc", AVRO)?),
            Format::Protobuf => {
                format!("PROTOBUF (schema.location = 'file://{}', message = 'Click')", file("click.proto", PROTOBUF)?)
            }
        })
    }
}

fn varint(out: &mut Vec<u8>, mut rest: u64) {
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

fn avro_text(out: &mut Vec<u8>, text: &str) {
    varint(out, text.len() as u64 * 2);
    out.extend_from_slice(text.as_bytes());
}

fn protobuf_bytes(out: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    out.push(field << 3 | 2);
    varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// [`consume`] in another process.
fn bare(servers: &str, topic: &str, properties: &[(&str, &str)], records: u64) -> Result<Run> {
    let properties: Vec<String> = properties.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let arguments = ["--servers", servers, "--consume", topic, "--properties", &properties.join(",")];
    let output = Command::new(std::env::current_exe()?).args(arguments).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let numbers: Vec<f64> = text.split_whitespace().filter_map(|number| number.parse().ok()).collect();
    match numbers[..] {
        [read, seconds, cpu_seconds] if read == records as f64 => Ok(Run { seconds, cpu_seconds }),
        _ => Err(Failure(format!("the bare consumer says {text} {}", String::from_utf8_lossy(&output.stderr)))),
    }
}

/// Reads a topic to its end, and prints how many records there were, seconds from the first on, and CPU-seconds.
fn consume(servers: &str, topic: &str, properties: &[(&str, &str)]) -> Result<()> {
    let mut config = config(servers);
    config.set("group.id", "bare").set("enable.auto.commit", "false").set("enable.partition.eof", "true");
    // Else it fetches nothing for a second whenever it has more than enough, and is no limit.
    config.set("fetch.queue.backoff.ms", "10");
    for (key, value) in properties {
        config.set(*key, *value);
    }
    let consumer: BaseConsumer = config.create().map_err(failed)?;
    let mut list = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        list.add_partition_offset(topic, partition, Offset::Beginning).map_err(failed)?;
    }
    consumer.assign(&list).map_err(failed)?;
    // A client that is new may wait for a second before it asks who has the partitions.
    let (mut began, mut records, mut bytes, mut ended) = (None, 0_u64, 0, 0);
    while ended < PARTITIONS {
        match consumer.poll(PATIENCE) {
            Some(Ok(message)) => {
                began.get_or_insert_with(Instant::now);
                records += 1;
                bytes += message.payload_len();
            }
            Some(Err(KafkaError::PartitionEOF(_))) => ended += 1,
            Some(Err(error)) => return Err(failed(error)),
            None => return Err(failed("no record comes")),
        }
    }
    let seconds = began.map_or(0.0, |began: Instant| began.elapsed().as_secs_f64());
    println!("{records} {seconds} {}", cpu_seconds(std::process::id())?);
    eprintln!("{bytes} bytes");
    Ok(())
}

async fn measure(data: &Path, source: &str, target: &str, records: u64) -> Result<(Run, Split, u64)> {
    let server = Server::start_with(data, &["--log", "warn"], &[]).await?;
    let mut client = server.connect().await?;
    client.query(source).await?;
    let cpu_before = cpu_seconds(server.pid())?;
    let began = Instant::now();
    client.query(target).await?;
    loop {
        let lines = client.lines("SELECT state, rows FROM tidemark.sources WHERE name = 'clicks'").await?;
        let line = lines.first().map_or("", String::as_str);
        match line.split_once(' ') {
            Some(("failed", _)) => return Err(Failure(format!("the source failed\n{}", server.log_tail()))),
            Some((_, rows)) if rows.parse() == Ok(records) => break,
            Some(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            None => return Err(Failure(format!("the source is gone\n{}", server.log_tail()))),
        }
    }
    let patience = Instant::now() + PATIENCE;
    while target.contains("VIEW") {
        // The rows are counted before they are seen.
        let counted = client.lines("SELECT sum(n) FROM target").await?;
        if counted == [records.to_string()] {
            break;
        }
        if Instant::now() > patience {
            let late = client.lines("SELECT late_rows FROM tidemark.sources").await?;
            return Err(Failure(format!("the view has counted {counted:?} of {records} records; late: {late:?}")));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let run = Run { seconds: began.elapsed().as_secs_f64(), cpu_seconds: cpu_seconds(server.pid())? - cpu_before };
    let split = Split::of(server.pid())?;
    Ok((run, split, peak_memory(server.pid())?))
}

impl Split {
    fn of(pid: u32) -> Result<Self> {
        let mut split = Self::default();
        for (thread, seconds) in cpu_seconds_by_thread(pid)? {
            match thread.split([':', ' ']).next() {
                Some("rdk") => split.librdkafka += seconds,
                Some("kafka") => split.source += seconds,
                _ => {}
            }
        }
        Ok(split)
    }
}
