//! Columns that the other side has and the source does not: left out and told, or a reason to stop.

use crate::harness::{Instance, start};
use crate::kafka_broker::{Kafka, Record};
use crate::kafka_changes::{keyed, source};
use crate::kafka_sink::sink;
use crate::postgres::Postgres;
use crate::registry::Registry;

const LOGICAL: &str = "wal_level = logical\nmax_replication_slots = 10\nmax_wal_senders = 10";
const ID: &str = "(id INT PRIMARY KEY, name TEXT)";

async fn fails_with(instance: &Instance, source: &str, words: &str) {
    instance.wait_for(&format!("SELECT state FROM tidemark.sources WHERE name = '{source}'"), &["failed"]).await;
    let error = instance.value(&format!("SELECT error FROM tidemark.sources WHERE name = '{source}'")).await;
    assert!(error.contains(words), "{error}");
}

fn unknown(source: &str) -> String {
    format!("SELECT unknown_columns FROM tidemark.sources WHERE name = '{source}'")
}

#[tokio::test]
async fn new_keys_in_json() {
    let kafka = Kafka::shared();
    let mut instance = start().await;
    let custom = "CUSTOM ENCODE JSON (op = '$.op', op.ignore = 'n')";
    for (topic, format) in [
        ("drift_u", "UPSERT ENCODE JSON"),
        ("drift_d", "DEBEZIUM ENCODE JSON"),
        ("drift_m", "MAXWELL ENCODE JSON"),
        ("drift_c", custom),
    ] {
        kafka.topic(topic, 1).await;
        instance.run(&source(kafka, topic, ID, topic, "", format)).await;
    }
    let strict = ", on_drift = 'error', on_error = 'dlq'";
    instance.run(&source(kafka, "strict", ID, "drift_d", strict, "DEBEZIUM ENCODE JSON")).await;
    kafka
        .send(
            "drift_u",
            vec![keyed("1", Some(r#"{"id": 1, "name": "a", "more": 5}"#)), keyed("1", Some(r#"{"id": 1, "x y": 2}"#))],
        )
        .await;
    kafka.send_texts("drift_m", &[r#"{"type": "insert", "xid": 5, "data": {"id": 1, "added": null}}"#]).await;
    kafka.send_texts("drift_c", &[r#"{"op": "c", "id": 1, "name": "a", "at": 7}"#]).await;
    kafka.send_texts("drift_d", &[r#"{"op": "c", "after": {"id": 1, "name": "a"}, "source": {"lsn": 1}}"#]).await;
    instance.wait_for("SELECT * FROM strict", &["1 a"]).await;
    kafka
        .send_texts(
            "drift_d",
            &[r#"{"op": "u", "before": {"id": 1, "gone": 1}, "after": {"id": 1, "name": "b", "more": true}}"#],
        )
        .await;
    for (name, columns) in [("drift_u", "more, x y"), ("drift_m", "added"), ("drift_c", "at"), ("drift_d", "more")] {
        instance.wait_for(&unknown(name), &[columns]).await;
    }
    instance.wait_for("SELECT * FROM drift_d", &["1 b"]).await;
    fails_with(&instance, "strict", "column \"more\", which the source does not").await;
    instance.server.kill_and_restart().await.unwrap();
    instance.wait_for(&unknown("drift_u"), &["more, x y"]).await;
    // It stands before the record, whatever is done about it.
    fails_with(&instance, "strict", "column \"more\", which the source does not").await;
    assert_eq!(instance.lines("SELECT * FROM strict").await, ["1 a"]);
    assert_eq!(instance.value("SELECT count(*) FROM tidemark.dead_letters").await, "0");
}

#[tokio::test]
async fn new_fields_in_schemas() {
    let (kafka, registry) = (Kafka::shared(), Registry::start().await);
    let instance = start().await;
    for encode in ["avro", "protobuf"] {
        let (rows, changes) = (format!("drift_rows_{encode}"), format!("drift_changes_{encode}"));
        kafka.topic(&rows, 1).await;
        kafka.topic(&changes, 1).await;
        let message = if encode == "protobuf" { ", message = 'shop.Row'" } else { "" };
        let with = format!("ENCODE {encode} (schema.registry = '{}'{message})", registry.url());
        let (upsert, debezium) = (format!("UPSERT {with} KEY ENCODE TEXT"), format!("DEBEZIUM {with}"));
        let table = format!("t_{encode}");
        instance.run(&format!("CREATE TABLE {table} (id INT PRIMARY KEY, name TEXT, more INT)")).await;
        instance.run(&sink(kafka, &format!("to_{rows}"), &format!("FROM {table}"), &rows, "", &upsert)).await;
        let envelope = format!(
            "AS SELECT 'c' AS op, NULL::int AS ts_ms, named_struct('id', id, 'more', more, 'name', name) AS before, \
             named_struct('id', id, 'more', more, 'name', name) AS after FROM {table}"
        );
        let force = with.replace(')', ", force_append_only = true)");
        instance.run(&sink(kafka, &format!("to_{changes}"), &envelope, &changes, "", &format!("PLAIN {force}"))).await;
        instance.run(&format!("INSERT INTO {table} VALUES (1, 'a', 5)")).await;
        instance.run(&source(kafka, &rows, ID, &rows, "", &upsert)).await;
        instance.run(&source(kafka, &changes, ID, &changes, "", &debezium)).await;
        for name in [&rows, &changes] {
            instance.wait_for(&format!("SELECT * FROM {name}"), &["1 a"]).await;
            instance.wait_for(&unknown(name), &["more"]).await;
        }
        let strict = format!("strict_{encode}");
        instance.run(&source(kafka, &strict, ID, &changes, ", on_drift = 'error'", &debezium)).await;
        fails_with(&instance, &strict, "column \"more\"").await;
        assert_eq!(instance.value(&format!("SELECT count(*) FROM {strict}")).await, "0");
    }
}

#[tokio::test]
async fn new_columns_over_there() {
    let (postgres, instance) = (Postgres::start_with(LOGICAL).await, start().await);
    postgres
        .run("CREATE TABLE t (id int PRIMARY KEY, name text, more int, twice int GENERATED ALWAYS AS (id * 2) STORED)")
        .await;
    instance.run(&postgres.connection("")).await;
    let create = |name: &str, columns: &str, more: &str| {
        format!(
            "CREATE SOURCE {name} {columns} WITH (connector = 'postgres-cdc', connection = c, table.name = 't'{more})"
        )
    };
    let (code, said) = instance.error(&create("strict", ID, ", on_drift = 'error'")).await;
    assert!(code == "42804" && said.contains("table \"public.t\" has column \"more\""), "{code} {said}");
    let (code, said) = instance.error(&create("strict", ID, ", on_drift = 'evolve'")).await;
    assert!(code == "0A000" && said.contains("evolve"), "{code} {said}");
    instance.run(&create("t", ID, "")).await;
    instance.run(&create("strict", "(id INT PRIMARY KEY, name TEXT, more INT)", ", on_drift = 'error'")).await;
    postgres.run("INSERT INTO t VALUES (1, 'a', 1)").await;
    instance.wait_for("SELECT * FROM strict", &["1 a 1"]).await;
    instance.wait_for(&unknown("t"), &["more"]).await;
    postgres.run("BEGIN; INSERT INTO t VALUES (2, 'b', 2); ALTER TABLE t ADD COLUMN added int; INSERT INTO t (id, name, more, added) VALUES (3, 'c', 3, 4); COMMIT").await;
    instance.wait_for("SELECT count(*) FROM t", &["3"]).await;
    instance.wait_for(&unknown("t"), &["added, more"]).await;
    fails_with(&instance, "strict", "table \"public.t\" has column \"added\"").await;
    // Nothing of the transaction, then none of it again.
    instance.run("ALTER SOURCE strict RESUME").await;
    fails_with(&instance, "strict", "\"added\"").await;
    assert_eq!(instance.lines("SELECT * FROM strict").await, ["1 a 1"]);
}

#[tokio::test]
async fn where_it_makes_no_sense() {
    let kafka = Kafka::shared();
    kafka.topic("drift_refused", 1).await;
    kafka.send("drift_refused", vec![Record::new(0, r#"{"id": 1}"#)]).await;
    let instance = start().await;
    for (on_drift, format, code) in [
        ("ignore", "PLAIN ENCODE JSON", "22023"),
        ("evolve", "UPSERT ENCODE JSON", "0A000"),
        ("x", "UPSERT ENCODE JSON", "22023"),
    ] {
        let more = format!(", on_drift = '{on_drift}'");
        let (found, said) = instance.error(&source(kafka, "s", ID, "drift_refused", &more, format)).await;
        assert!(found == code && said.contains("on_drift"), "{found} {said}");
    }
}
