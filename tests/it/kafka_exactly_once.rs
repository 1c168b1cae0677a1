//! Exactly once from end to end, while server and broker are killed.
//!
//! ```text
//!   datagen ─▶ sink ─▶ topic in ─▶ source ─┬─▶ join with a table ─▶ sink ─▶ topic joined      (read_committed)
//!                                          ├─▶ windows, closed ───▶ sink ─▶ topic windows     (read_committed)
//!                                          └─▶ windows, closed ───▶ view ─▶ pipeline ─▶ PostgreSQL
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::harness::{Instance, Random, start};
use crate::kafka_broker::{Kafka, Record};
use crate::kafka_sink::sink;
use crate::postgres::Postgres;

/// Rounds of one kill each; `make soak` asks for more.
fn rounds() -> u64 {
    std::env::var("TIDEMARK_KAFKA_ROUNDS").map_or(20, |rounds| rounds.parse().unwrap())
}

const ROWS_PER_SECOND: u64 = 2000;
const WINDOWS: &str = "SELECT window_start, k, count(*) AS n, sum(id) AS ids FROM TUMBLE(events, ts, INTERVAL '1 second') \
                       GROUP BY window_start, k EMIT ON WINDOW CLOSE";

async fn build(instance: &Instance, kafka: &Kafka, postgres: &Postgres, rows: u64) {
    for (topic, partitions) in [("in", 3), ("joined", 3), ("windows", 2)] {
        kafka.topic(topic, partitions).await;
    }
    let servers = kafka.servers();
    for statement in [
        format!(
            "CREATE SOURCE made (id BIGINT, k INT, ts TIMESTAMP) WITH (connector = 'datagen', rows = {rows}, rows_per_second = {ROWS_PER_SECOND}, \
             fields.id.kind = 'sequence', fields.k.min = 0, fields.k.max = 9)"
        ),
        sink(kafka, "to_in", "FROM made", "in", ", key = 'k'", "PLAIN ENCODE JSON KEY ENCODE TEXT"),
        format!(
            "CREATE SOURCE events (id BIGINT, k INT, ts TIMESTAMP, WATERMARK FOR ts AS ts) WITH (connector = 'kafka', topic = 'in', \
             properties.bootstrap.servers = '{servers}') FORMAT PLAIN ENCODE JSON"
        ),
        "CREATE TABLE names (k INT PRIMARY KEY, name TEXT)".into(),
        "INSERT INTO names SELECT n, 'name ' || n FROM generate_series(0, 9) AS n".into(),
        sink(
            kafka,
            "to_joined",
            "AS SELECT events.id, events.k, names.name FROM events JOIN names ON names.k = events.k",
            "joined",
            ", key = 'k', value.fields-include = 'except_key'",
            "PLAIN ENCODE JSON (force_append_only = true) KEY ENCODE TEXT",
        ),
        sink(kafka, "to_windows", &format!("AS {WINDOWS}"), "windows", ", key = 'k'", "PLAIN ENCODE JSON KEY ENCODE TEXT"),
        postgres.connection(""),
        "CREATE TABLE there (window_start TIMESTAMP, k INT, n BIGINT, ids BIGINT) WITH (connection = c, table = 'there', strategy = 'append')"
            .into(),
        format!("CREATE MATERIALIZED VIEW closed AS {WINDOWS}"),
        "CREATE PIPELINE to_there INTO there CONTINUOUS AS SELECT window_start, k, n, ids FROM closed".into(),
        "CREATE MATERIALIZED VIEW seen AS SELECT count(*) AS n, count(DISTINCT id) AS distinct_ids, sum(id) AS ids FROM events".into(),
    ] {
        instance.run(&statement).await;
    }
}

/// Nothing is under way any more: all has been made, read and delivered.
async fn quiet(instance: &Instance, rows: u64) {
    let patience = Duration::from_secs(180) + Duration::from_secs(rows / ROWS_PER_SECOND);
    let began = Instant::now();
    let state = "SELECT (SELECT n FROM seen), (SELECT sum(epochs_behind) FROM tidemark.sinks)";
    let expected = format!("{rows} 0");
    loop {
        let now = instance.value(state).await;
        if now == expected {
            return;
        }
        let sinks = instance.lines("SELECT name, state, epochs_behind, rows, error FROM tidemark.sinks").await;
        assert!(began.elapsed() < patience, "{now}, not {expected}: {sinks:#?}\n{}", instance.server.log_tail());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn field(record: &Record, name: &str) -> serde_json::Value {
    let value: serde_json::Value = serde_json::from_slice(record.value.as_ref().unwrap()).unwrap();
    value[name].clone()
}

#[tokio::test]
async fn every_row_arrives_once() {
    let (mut kafka, postgres, mut instance) = (Kafka::start(), Postgres::start().await, start().await);
    let rounds = rounds();
    let rows = rounds * ROWS_PER_SECOND;
    build(&instance, &kafka, &postgres, rows).await;
    let mut random = Random::new(7);
    for round in 0..rounds {
        tokio::time::sleep(Duration::from_millis(random.below(900))).await;
        match round % 5 {
            4 => {
                kafka.kill();
                tokio::time::sleep(Duration::from_millis(random.below(500))).await;
                kafka.restart();
            }
            3 => {
                kafka.kill();
                instance.server.kill9().unwrap();
                kafka.restart();
                instance.server.kill_and_restart().await.unwrap();
            }
            _ => instance.server.kill_and_restart().await.unwrap(),
        }
    }
    quiet(&instance, rows).await;
    assert_eq!(instance.value("SELECT late_rows FROM tidemark.sources WHERE name = 'events'").await, "0");
    let sum = rows * (rows + 1) / 2; // a sequence begins at 0 or 1: told apart below
    let seen = instance.value("SELECT n, distinct_ids, ids FROM seen").await;
    assert!(seen == format!("{rows} {rows} {sum}") || seen == format!("{rows} {rows} {}", sum - rows), "{seen}");
    check_joined(&kafka.read("joined").await, rows);
    let closed = instance.lines("SELECT to_json(window_start)::text, k, n, ids FROM closed ORDER BY 1, 2").await;
    assert!(!closed.is_empty());
    let mut windows: Vec<String> = kafka.read("windows").await.iter().map(window).collect();
    windows.sort();
    let mut expected = closed.clone();
    expected.sort();
    assert_eq!(windows, expected);
    let sums = "count(*) || ' ' || count(DISTINCT (window_start, k)) || ' ' || sum(n) || ' ' || sum(ids)";
    let here = instance.value(&format!("SELECT {sums} FROM closed")).await;
    let began = Instant::now();
    loop {
        let there = postgres.value(&format!("(SELECT {sums} FROM there)")).await;
        if there == here {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{there}, not {here}\n{}", instance.server.log_tail());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Each id once, those of a key in their order and in one partition.
fn check_joined(records: &[Record], rows: u64) {
    let ids: BTreeSet<i64> = records.iter().map(|record| field(record, "id").as_i64().unwrap()).collect();
    assert_eq!((records.len(), ids.len()), (rows as usize, rows as usize));
    let mut last: BTreeMap<&str, (i32, i64)> = BTreeMap::new();
    for record in records {
        let (key, id) = (record.key.as_deref().unwrap(), field(record, "id").as_i64().unwrap());
        assert_eq!(field(record, "name"), format!("name {key}"));
        if let Some((partition, before)) = last.insert(key, (record.partition, id)) {
            assert!(partition == record.partition && before < id, "key {key}: {before} before {id}");
        }
    }
}

fn window(record: &Record) -> String {
    let of = |name: &str| field(record, name);
    format!("{} {} {} {}", of("window_start"), of("k"), of("n"), of("ids"))
}
