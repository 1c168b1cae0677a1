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
    assert!(code == "42804" && said.contains("table \"public.t\" has column \"more\""), "{code} {said}");
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
        ("evolve", "PLAIN ENCODE JSON", "22023"),
        ("x", "UPSERT ENCODE JSON", "22023"),
    ] {
        let more = format!(", on_drift = '{on_drift}'");
        let (found, said) = instance.error(&source(kafka, "s", ID, "drift_refused", &more, format)).await;
        assert!(found == code && said.contains("on_drift"), "{found} {said}");
    }
}

/// The rows of a source that has grown, of a view that was there before, and of one that is made now.
async fn grown(instance: &Instance, source: &str, columns: &str, expected: &[&str]) {
    let of_source = format!("SELECT {columns} FROM {source} ORDER BY id");
    instance.wait_for(&of_source, expected).await;
    instance.run(&format!("CREATE MATERIALIZED VIEW new_{source} AS SELECT {columns} FROM {source}")).await;
    assert_eq!(instance.lines(&format!("SELECT {columns} FROM new_{source} ORDER BY id")).await, expected);
    for view in [format!("new_{source}"), format!("old_{source}")] {
        assert_eq!(instance.lines(&format!("VALIDATE MATERIALIZED VIEW {view}")).await, Vec::<String>::new(), "{view}");
    }
    instance.run(&format!("DROP MATERIALIZED VIEW new_{source}")).await;
}

fn types(source: &str) -> String {
    format!(
        "SELECT string_agg(column_name || ' ' || data_type, ', ' ORDER BY ordinal_position) \
         FROM information_schema.columns WHERE table_name = '{source}'"
    )
}

#[tokio::test]
async fn json_evolves() {
    let kafka = Kafka::shared();
    let mut instance = start().await;
    let evolve = ", on_drift = 'evolve', on_error = 'dlq'";
    for (topic, format) in [
        ("evolve_u", "UPSERT ENCODE JSON"),
        ("evolve_d", "DEBEZIUM ENCODE JSON"),
        ("evolve_m", "MAXWELL ENCODE JSON"),
        ("evolve_c", "CUSTOM ENCODE JSON (op = '$.op')"),
    ] {
        kafka.topic(topic, 1).await;
        instance.run(&source(kafka, topic, ID, topic, evolve, format)).await;
        instance.run(&format!("CREATE MATERIALIZED VIEW old_{topic} AS SELECT * FROM {topic}")).await;
    }
    let record = |topic: &str, row: &str| match topic {
        "evolve_d" => Record::new(0, format!("{{\"op\": \"c\", \"after\": {{{row}}}, \"source\": {{\"lsn\": 1}}}}")),
        "evolve_m" => {
            Record::new(0, format!("{{\"type\": \"insert\", \"xid\": 5, \"commit\": true, \"data\": {{{row}}}}}"))
        }
        "evolve_c" => Record::new(0, format!("{{\"op\": \"c\", {row}}}")),
        _ => keyed(&row[6..7], Some(&format!("{{{row}}}"))),
    };
    let topics = ["evolve_u", "evolve_d", "evolve_m", "evolve_c"];
    for topic in topics {
        let rows = [
            "\"id\": 1, \"name\": \"a\"",
            "\"id\": 2, \"name\": \"b\", \"more\": null",
            "\"id\": 3, \"name\": \"c\", \"more\": 12, \"X y\": \"t\", \"half\": 0.5",
            "\"id\": 4, \"name\": \"d\", \"flag\": true, \"deep\": {\"a\": [1]}, \"more\": 13",
        ];
        kafka.send(topic, rows.map(|row| record(topic, row)).to_vec()).await;
    }
    let columns = "id, name, more, \"X y\", half, flag, deep";
    let all = [
        "1 a NULL NULL NULL NULL NULL",
        "2 b NULL NULL NULL NULL NULL",
        "3 c 12 t 0.5 NULL NULL",
        "4 d 13 NULL NULL t {\"a\": [1]}",
    ];
    for topic in topics {
        let old = format!("SELECT * FROM old_{topic} ORDER BY id");
        instance.wait_for(&old, &["1 a", "2 b", "3 c", "4 d"]).await;
        grown(&instance, topic, columns, &all).await;
        let added = instance.value(&types(topic)).await;
        for one in ["more bigint", "X y text", "half double precision", "flag boolean", "deep jsonb"] {
            assert!(added.contains(one), "{added}");
        }
    }
    instance.server.kill_and_restart().await.unwrap();
    for topic in topics {
        // A row of before the columns goes, and one gets a value.
        let row = record(topic, "\"id\": 1, \"name\": \"z\", \"more\": 7");
        kafka.send(topic, vec![row]).await;
        let all = ["1 z 7 NULL NULL NULL NULL", all[1], all[2], all[3]];
        instance.wait_for(&format!("SELECT more FROM {topic} WHERE id = 1"), &["7"]).await;
        grown(&instance, topic, columns, &all).await;
    }
    let history =
        "SELECT count(*), min(change), count(DISTINCT sql) FROM tidemark.schema_history WHERE name = 'evolve_u'";
    assert_eq!(instance.value(history).await, "5 add column 5");
    let text = instance.lines("SHOW CREATE SOURCE evolve_u").await.concat();
    assert!(text.contains("more bigint"), "{text}");
    assert_eq!(instance.value("SELECT count(*) FROM tidemark.dead_letters").await, "0");
}

#[tokio::test]
async fn schemas_evolve_the_source() {
    let (kafka, registry) = (Kafka::shared(), Registry::start().await);
    let instance = start().await;
    for encode in ["avro", "protobuf"] {
        let topic = format!("evolves_{encode}");
        kafka.topic(&topic, 1).await;
        let message = if encode == "protobuf" { ", message = 'shop.Row'" } else { "" };
        let upsert =
            format!("UPSERT ENCODE {encode} (schema.registry = '{}'{message}) KEY ENCODE TEXT", registry.url());
        instance.run(&format!("CREATE TABLE t_{encode} (id INT PRIMARY KEY, name TEXT)")).await;
        instance.run(&sink(kafka, &format!("to_{topic}"), &format!("FROM t_{encode}"), &topic, "", &upsert)).await;
        instance.run(&format!("INSERT INTO t_{encode} VALUES (1, 'a')")).await;
        instance.wait_for(&format!("SELECT epochs_behind FROM tidemark.sinks WHERE name = 'to_{topic}'"), &["0"]).await;
        instance.run(&source(kafka, &topic, ID, &topic, ", on_drift = 'evolve'", &upsert)).await;
        instance.run(&format!("CREATE MATERIALIZED VIEW old_{topic} AS SELECT * FROM {topic}")).await;
        instance.wait_for(&format!("SELECT * FROM old_{topic}"), &["1 a"]).await;
        // A later version of the schema, by another sink.
        instance
            .run(&format!("CREATE TABLE u_{encode} (id INT PRIMARY KEY, name TEXT, more BIGINT, at TIMESTAMPTZ)"))
            .await;
        instance.run(&sink(kafka, &format!("also_to_{topic}"), &format!("FROM u_{encode}"), &topic, "", &upsert)).await;
        instance.run(&format!("INSERT INTO u_{encode} VALUES (2, 'b', 5, '2026-01-02 03:04:05+00')")).await;
        instance.wait_for(&format!("SELECT * FROM old_{topic} ORDER BY id"), &["1 a", "2 b"]).await;
        let at = "2026-01-02 03:04:05+00";
        grown(&instance, &topic, "id, name, more, at", &["1 a NULL NULL", &format!("2 b 5 {at}")]).await;
    }
}

#[tokio::test]
async fn tables_over_there_evolve() {
    let (postgres, instance) = (Postgres::start_with(LOGICAL).await, start().await);
    postgres.run("CREATE TABLE t (id int PRIMARY KEY, name text); INSERT INTO t VALUES (1, 'a')").await;
    postgres.run("CREATE TABLE s (id int PRIMARY KEY, name text); INSERT INTO s VALUES (1, 'a')").await;
    instance.run(&postgres.connection("")).await;
    instance
        .run(
            "CREATE SOURCE t (*) WITH (connector = 'postgres-cdc', connection = c, table.name = 't', on_drift = 'evolve');
             CREATE SOURCE pg WITH (connector = 'postgres-cdc', connection = c, on_drift = 'evolve');
             CREATE TABLE s (*) FROM pg TABLE 'public.s';
             CREATE MATERIALIZED VIEW old_t AS SELECT * FROM t;
             CREATE MATERIALIZED VIEW old_s AS SELECT * FROM s",
        )
        .await;
    for name in ["t", "s"] {
        instance.wait_for(&format!("SELECT * FROM old_{name}"), &["1 a"]).await;
        postgres
            .run(&format!(
                "BEGIN; INSERT INTO {name} VALUES (2, 'b'); ALTER TABLE {name} ADD COLUMN more numeric(8, 2), ADD COLUMN tags text[];
                 INSERT INTO {name} VALUES (3, 'c', 1.5, '{{x,y}}'); UPDATE {name} SET more = 2 WHERE id = 1; COMMIT"
            ))
            .await;
        let all = ["1 a 2.00 NULL", "2 b NULL NULL", "3 c 1.50 {x,y}"];
        instance.wait_for(&format!("SELECT id, name FROM old_{name} ORDER BY id"), &["1 a", "2 b", "3 c"]).await;
        grown(&instance, name, "id, name, more, tags", &all).await;
        postgres.run(&format!("UPDATE {name} SET tags = '{{z}}' WHERE id = 2; DELETE FROM {name} WHERE id = 3")).await;
        instance.wait_for(&format!("SELECT tags FROM {name} WHERE id = 2"), &["{z}"]).await;
        grown(&instance, name, "id, name, more, tags", &["1 a 2.00 NULL", "2 b NULL {z}"]).await;
    }
    // What the rows that are there have got is not in the log: it would be wrong here.
    postgres.run("ALTER TABLE t ADD COLUMN filled int DEFAULT 7; INSERT INTO t (id, name) VALUES (9, 'i')").await;
    fails_with(&instance, "t", "column \"filled\"").await;
    let (code, said) = instance.error("ALTER SOURCE t ADD COLUMN filled INT").await;
    assert!(code == "55000" && said.contains("\"filled\" of table \"public.t\" has a default"), "{code} {said}");
    assert_eq!(instance.lines("SELECT id FROM t ORDER BY id").await, ["1", "2"]);
}

#[tokio::test]
async fn columns_are_added_by_hand() {
    let kafka = Kafka::shared();
    let mut instance = start().await;
    kafka.topic("by_hand", 1).await;
    kafka.topic("by_hand_d", 1).await;
    let rows = [r#"{"id": 1, "v": 5, "at": {"x": "p"}}"#, r#"{"id": 2}"#];
    kafka.send_texts("by_hand", &rows).await;
    instance.run(&source(kafka, "plain", "(id INT)", "by_hand", "", "PLAIN ENCODE JSON")).await;
    instance.run("CREATE MATERIALIZED VIEW old_plain AS SELECT * FROM plain").await;
    instance.wait_for("SELECT * FROM old_plain ORDER BY id", &["1", "2"]).await;
    instance.run("ALTER SOURCE plain ADD COLUMN v INT").await;
    instance.run("ALTER SOURCE plain ADD x TEXT FROM '$.at.x'").await;
    instance.run("ALTER SOURCE plain ADD COLUMN IF NOT EXISTS v TEXT").await;
    // The topic is read again by who comes later.
    grown(&instance, "plain", "id, v, x", &["1 5 p", "2 NULL NULL"]).await;
    instance.server.kill_and_restart().await.unwrap();
    kafka.send_texts("by_hand", &[r#"{"id": 3, "v": 6}"#]).await;
    instance.wait_for("SELECT * FROM old_plain ORDER BY id", &["1", "2", "3"]).await;
    grown(&instance, "plain", "id, v, x", &["1 5 p", "2 NULL NULL", "3 6 NULL"]).await;
    let text = instance.lines("SHOW CREATE SOURCE plain").await.concat();
    assert!(text.contains("x text FROM '$.at.x'"), "{text}");

    // One that has stopped before a column goes on when it has it.
    let strict = ", on_drift = 'error'";
    instance.run(&source(kafka, "strict", ID, "by_hand_d", strict, "DEBEZIUM ENCODE JSON")).await;
    instance.run("CREATE MATERIALIZED VIEW old_strict AS SELECT * FROM strict").await;
    kafka
        .send_texts(
            "by_hand_d",
            &[
                r#"{"op": "c", "after": {"id": 1, "name": "a"}}"#,
                r#"{"op": "c", "after": {"id": 2, "name": "b", "more": "7"}}"#,
            ],
        )
        .await;
    fails_with(&instance, "strict", "column \"more\"").await;
    instance.run("ALTER SOURCE strict ADD COLUMN more INT").await;
    grown(&instance, "strict", "id, name, more", &["1 a NULL", "2 b 7"]).await;
    assert_eq!(instance.value("SELECT state FROM tidemark.sources WHERE name = 'strict'").await, "running");

    let include = source(kafka, "beside", "(id INT)", "by_hand", "", "PLAIN ENCODE JSON")
        .replace(" WITH", " INCLUDE offset WITH");
    instance.run(&include).await;
    instance.run("CREATE SOURCE made (id INT) WITH (connector = 'datagen')").await;
    for (statement, code, part) in [
        ("ALTER SOURCE plain ADD COLUMN v INT", "42701", "column \"v\" of relation \"plain\" already exists"),
        ("ALTER SOURCE plain ADD COLUMN w INT NOT NULL", "0A000", "NOT NULL"),
        ("ALTER SOURCE plain ADD COLUMN w nonsense", "42704", "nonsense"),
        ("ALTER SOURCE plain ADD COLUMN w", "42601", ""),
        ("ALTER SOURCE plain ADD COLUMN w INT FROM 'w'", "", "w"),
        ("ALTER SOURCE nothing ADD COLUMN w INT", "42P01", "nothing"),
        ("ALTER SOURCE old_plain ADD COLUMN w INT", "42809", "old_plain"),
        ("ALTER SOURCE beside ADD COLUMN w INT", "0A000", "INCLUDE"),
        ("ALTER SOURCE made ADD COLUMN w INT", "0A000", "its rows are made"),
    ] {
        let (found, said) = instance.error(statement).await;
        assert!((code.is_empty() || found == code) && said.contains(part), "{statement}: {found} {said}");
    }
}
