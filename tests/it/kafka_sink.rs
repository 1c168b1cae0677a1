//! The Kafka sink beside a real broker: what its messages are, what it refuses, and who else may send for it.

use std::time::{Duration, Instant};

use crate::harness::{Instance, start};
use crate::kafka_broker::{Kafka, Record};

/// `CREATE SINK name FROM .. | AS .. WITH (connector = 'kafka', .., topic, more) FORMAT ..`
pub fn sink(kafka: &Kafka, name: &str, from: &str, topic: &str, more: &str, format: &str) -> String {
    format!(
        "CREATE SINK {name} {from} WITH (connector = 'kafka', properties.bootstrap.servers = '{}', topic = '{topic}' {more}) FORMAT {format}",
        kafka.servers()
    )
}

/// What the topic has, once it has so many records.
pub async fn read(kafka: &Kafka, topic: &str, records: usize) -> Vec<Record> {
    let began = Instant::now();
    loop {
        let found = kafka.read(topic).await;
        if found.len() >= records || began.elapsed() > Duration::from_secs(120) {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn lines(kafka: &Kafka, topic: &str, records: usize) -> Vec<String> {
    read(kafka, topic, records).await.iter().map(Record::line).collect()
}

#[tokio::test]
async fn what_changes_goes_out_by_its_key() {
    let kafka = Kafka::shared();
    let mut instance = start().await;
    for topic in ["out_upsert", "out_debezium", "out_new"] {
        kafka.topic(topic, 1).await;
    }
    instance.run("CREATE TABLE t (id INT PRIMARY KEY, name TEXT, amount NUMERIC(10,2))").await;
    instance.run("INSERT INTO t VALUES (1, 'a', 1.50), (2, NULL, 2)").await;
    instance.run(&sink(kafka, "u", "FROM t", "out_upsert", "", "UPSERT ENCODE JSON KEY ENCODE TEXT")).await;
    instance.run(&sink(kafka, "d", "FROM t", "out_debezium", ", key = 'id'", "DEBEZIUM ENCODE JSON")).await;
    let force = "PLAIN ENCODE CSV (force_append_only = 'true')";
    instance.run(&sink(kafka, "n", "AS SELECT id, name FROM t", "out_new", "", force)).await;
    assert_eq!(lines(kafka, "out_upsert", 2).await.len(), 2);
    instance.run("UPDATE t SET name = 'b' WHERE id = 1").await;
    instance.run("DELETE FROM t WHERE id = 2").await;
    assert_eq!(
        lines(kafka, "out_upsert", 4).await,
        [
            r#"1 {"id":1,"name":"a","amount":1.50}"#,
            r#"2 {"id":2,"name":null,"amount":2.00}"#,
            r#"1 {"id":1,"name":"b","amount":1.50}"#,
            "2 -",
        ]
    );
    let debezium = lines(kafka, "out_debezium", 5).await;
    let without_time = |line: &String| line.split(",\"ts_ms\"").next().unwrap().to_string();
    assert_eq!(
        debezium.iter().map(without_time).collect::<Vec<_>>(),
        [
            r#"{"id":1} {"before":null,"after":{"id":1,"name":"a","amount":1.50},"op":"c""#,
            r#"{"id":2} {"before":null,"after":{"id":2,"name":null,"amount":2.00},"op":"c""#,
            r#"{"id":1} {"before":{"id":1,"name":"a","amount":1.50},"after":{"id":1,"name":"b","amount":1.50},"op":"u""#,
            r#"{"id":2} {"before":{"id":2,"name":null,"amount":2.00},"after":null,"op":"d""#,
            r#"{"id":2} -"#,
        ]
    );
    assert_eq!(lines(kafka, "out_new", 3).await, ["- 1,a", "- 2,", "- 1,b"]);
    // What was sent is not sent again.
    instance.server.kill_and_restart().await.unwrap();
    instance.run("UPDATE t SET id = 3").await;
    assert_eq!(lines(kafka, "out_upsert", 6).await[4..], ["1 -", r#"3 {"id":3,"name":"b","amount":1.50}"#]);
    let made = instance.value("SELECT definition FROM tidemark.objects WHERE name = 'u'").await;
    assert!(made.contains("FORMAT UPSERT ENCODE JSON (key_encode = 'text')"), "{made}");
}

#[tokio::test]
async fn what_goes_beside_the_value() {
    let kafka = Kafka::shared();
    kafka.topic("beside", 3).await;
    kafka.topic("templates", 1).await;
    let instance = start().await;
    let servers = kafka.servers();
    instance
        .run(&format!("CREATE CONNECTION k WITH (type = 'kafka', properties.bootstrap.servers = '{servers}')"))
        .await;
    instance.run("CREATE TABLE t (k TEXT, v INT, p INT, at TIMESTAMPTZ, h JSONB)").await;
    instance
        .run(
            "CREATE SINK s FROM t WITH (connector = 'kafka', connection = k, topic = 'beside', key = 'k', partition = 'p', timestamp = 'at', \
             headers = 'h', value.fields-include = 'EXCEPT_KEY', properties.compression.type = 'zstd') \
             FORMAT PLAIN ENCODE JSON (force_append_only = true) KEY ENCODE BYTES",
        )
        .await;
    instance
        .run(
            r#"INSERT INTO t VALUES ('a', 1, 2, '2024-01-01 00:00:00.123+00', '{"x": "y", "raw": "\\x00ff", "n": 1}'), ('b', 2, 0, NULL, NULL)"#,
        )
        .await;
    let found = read(kafka, "beside", 2).await;
    assert_eq!(found.iter().map(Record::line).collect::<Vec<_>>(), [r#"b {"v":2}"#, r#"a {"v":1}"#]);
    assert_eq!((found[1].partition, found[1].timestamp), (2, Some(1_704_067_200_123)));
    let headers: Vec<(&str, &[u8])> = found[1].headers.iter().map(|(k, v)| (k.as_str(), v.as_slice())).collect();
    assert_eq!(headers, [("n", &b"1"[..]), ("raw", &[0, 255][..]), ("x", &b"y"[..])]);
    let made = instance.value("SELECT definition FROM tidemark.objects WHERE name = 's'").await;
    assert!(made.contains("connection = 'k'") && !made.contains("bootstrap"), "{made}");
    assert_eq!(instance.error("DROP CONNECTION k").await.0, "2BP01");
    instance.run("ALTER CONNECTION k SET (properties.client.id = 'another')").await;
    let at_least_once = ", sink.delivery-guarantee = 'at-least-once'";
    let template = "PLAIN ENCODE TEXT (template = '{k} has {v}', force_append_only = true)";
    instance.run(&sink(kafka, "templated", "FROM t", "templates", at_least_once, template)).await;
    instance.run("INSERT INTO t VALUES ('c', 3, 1)").await;
    assert_eq!(read(kafka, "beside", 3).await[1].line(), r#"c {"v":3}"#);
    assert_eq!(lines(kafka, "templates", 3).await, ["- a has 1", "- b has 2", "- c has 3"]);
    instance
        .wait_for("SELECT state, pending_rows, error FROM tidemark.sinks WHERE name = 's'", &["running 0 NULL"])
        .await;
    // A partition that is not there makes what is behind it wait, and is told.
    instance.run("INSERT INTO t VALUES ('d', 4, 7)").await;
    let behind = "SELECT state, epochs_behind, pending_rows, pending_bytes > 0 FROM tidemark.sinks WHERE name = 's'";
    instance.wait_for(behind, &["retrying 1 1 t"]).await;
    instance.run("ALTER SINK s PAUSE").await;
    instance.wait_for(behind, &["paused 1 1 t"]).await;
    kafka.widen("beside", 8).await;
    instance.run("ALTER SINK s RESUME").await;
    assert_eq!(read(kafka, "beside", 4).await[3].line(), r#"d {"v":4}"#);
    instance.wait_for(behind, &["running 0 0 f"]).await;
}

/// Whoever delivers begins anew while rows come: what was just delivered is known.
#[tokio::test]
async fn a_connection_is_altered_while_rows_come() {
    let kafka = Kafka::shared();
    kafka.topic("altered", 1).await;
    let instance = start().await;
    let servers = kafka.servers();
    instance
        .run(&format!("CREATE CONNECTION k WITH (type = 'kafka', properties.bootstrap.servers = '{servers}')"))
        .await;
    instance.run("CREATE SOURCE g (id BIGINT) WITH (connector = 'datagen', rows = 8000, rows_per_second = 2000, fields.id.kind = 'sequence')").await;
    instance
        .run("CREATE SINK s FROM g WITH (connector = 'kafka', connection = k, topic = 'altered') FORMAT PLAIN ENCODE JSON")
        .await;
    for round in 0..12 {
        tokio::time::sleep(Duration::from_millis(150)).await;
        match round % 2 {
            0 => instance.run(&format!("ALTER CONNECTION k SET (properties.client.id = 'c{round}')")).await,
            _ => instance.run("ALTER SINK s RESUME").await,
        }
    }
    let found = lines(kafka, "altered", 8000).await;
    let distinct: std::collections::BTreeSet<&String> = found.iter().collect();
    assert_eq!(
        (found.len(), distinct.len()),
        (8000, 8000),
        "{:?}",
        instance.lines("SELECT state, error FROM tidemark.sinks").await
    );
}

/// Two servers on copies of one directory: one of them goes on, the other stops.
#[tokio::test]
async fn a_second_server_of_a_sink_gives_up() {
    let kafka = Kafka::shared();
    kafka.topic("zombies", 1).await;
    let mut first = start().await;
    first.run("CREATE TABLE t (id INT)").await;
    first.run(&sink(kafka, "s", "FROM t", "zombies", "", "PLAIN ENCODE JSON (force_append_only = true)")).await;
    first.run("INSERT INTO t VALUES (1)").await;
    first.wait_for("SELECT epochs_behind, rows FROM tidemark.sinks", &["0 1"]).await;
    assert!(first.server.terminate().unwrap().success());
    let mut second = copy_of(&first).await;
    first.server.kill_and_restart().await.unwrap();
    second.run("INSERT INTO t VALUES (20)").await;
    assert_eq!(lines(kafka, "zombies", 2).await, [r#"- {"id":1}"#, r#"- {"id":20}"#]);
    first.run("INSERT INTO t VALUES (2)").await;
    first.wait_for("SELECT state FROM tidemark.sinks", &["failed"]).await;
    let error = first.value("SELECT error FROM tidemark.sinks").await;
    // It depends on whether it had looked before the other sent.
    let known = ["another server has delivered for sink", "was delivered with other changes"];
    assert!(known.iter().any(|known| error.contains(known)), "{error}");
    second.run("INSERT INTO t VALUES (21)").await;
    assert_eq!(lines(kafka, "zombies", 3).await[2], r#"- {"id":21}"#);
    // The first is the older copy now: what it has is not what was sent.
    second.server.kill9().unwrap();
    first.server.kill_and_restart().await.unwrap();
    first.wait_for("SELECT state FROM tidemark.sinks", &["failed"]).await;
    let error = first.value("SELECT error FROM tidemark.sinks").await;
    assert!(error.contains("was delivered with other changes"), "{error}");
    assert_eq!(lines(kafka, "zombies", 3).await.len(), 3);
}

/// A server on a copy of the directory of one that does not run.
async fn copy_of(instance: &Instance) -> Instance {
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("data");
    let copied = std::process::Command::new("cp").arg("-r").arg(instance.server.dir()).arg(&to).status().unwrap();
    assert!(copied.success());
    let server = crate::harness::Server::start(&to).await.unwrap();
    Instance { server, dir }
}

#[tokio::test]
async fn what_makes_no_sense_is_refused() {
    let kafka = Kafka::shared();
    kafka.topic("refusing", 1).await;
    let instance = start().await;
    instance.run("CREATE TABLE t (id INT PRIMARY KEY, name TEXT, at TIMESTAMPTZ)").await;
    instance.run("CREATE TABLE m (a TEXT, b TEXT)").await;
    let json = "PLAIN ENCODE JSON (force_append_only = true)";
    for (from, topic, more, format, code, message) in [
        ("FROM t", "nowhere", "", "UPSERT ENCODE JSON", "42704", "topic \"nowhere\""),
        ("FROM t", "refusing", "", "PLAIN ENCODE JSON", "0A000", "FORMAT PLAIN cannot say"),
        ("FROM m", "refusing", "", "UPSERT ENCODE JSON", "42P16", "needs a key"),
        ("FROM m", "refusing", ", key = 'a'", "UPSERT ENCODE JSON", "42P16", "(a) do not tell"),
        ("FROM t", "refusing", ", key = 'name'", "DEBEZIUM ENCODE JSON", "42P16", "(name) do not tell"),
        ("FROM t", "refusing", ", key = 'nobody'", json, "42703", "\"nobody\" of option \"key\""),
        ("FROM t", "refusing", ", key = 'id', primary_key = 'id'", json, "22023", "exclude each other"),
        ("FROM t", "refusing", ", partition = 'name'", json, "42804", "must be of type integer"),
        ("FROM t", "refusing", ", headers = 'name'", json, "42804", "must be of type jsonb"),
        ("FROM t", "refusing", "", "DEBEZIUM ENCODE CSV", "0A000", "DEBEZIUM ENCODE CSV"),
        ("FROM t", "refusing", "", "MAXWELL ENCODE JSON", "0A000", "FORMAT MAXWELL"),
        ("FROM t", "refusing", "", "UPSERT ENCODE TEXT", "42P16", "ENCODE TEXT writes one column"),
        ("AS SELECT id FROM t", "refusing", "", "UPSERT ENCODE TEXT", "0A000", "cannot tell a NULL"),
        ("FROM t", "refusing", "", "UPSERT ENCODE JSON KEY ENCODE XML", "22023", "unknown encoding \"xml\""),
        (
            "FROM t",
            "refusing",
            "",
            "PLAIN ENCODE JSON (force_append_only = true) KEY ENCODE TEXT",
            "22023",
            "KEY ENCODE needs",
        ),
        ("FROM t", "refusing", ", sink.delivery-guarantee = 'maybe'", json, "22023", "\"maybe\""),
        ("FROM t", "refusing", ", properties.no.such = '1'", json, "22023", "properties.no.such"),
        ("FROM t", "refusing", ", properties.enable.idempotence = 'false'", json, "22023", "enable.idempotence"),
        ("FROM t", "refusing", ", topics = 'x'", json, "22023", "unrecognized option \"topics\""),
    ] {
        let (found, said) = instance.error(&sink(kafka, "s", from, topic, more, format)).await;
        assert!(found == code && said.contains(message), "{more} {format}: {found} {said}");
    }
}
