//! Topics that say what became of rows, and sources with a primary key that follow them.

use crate::harness::{Instance, Random, start};
use crate::kafka_broker::{Kafka, Record};
use crate::kafka_sink::sink;
use crate::registry::Registry;

pub fn source(kafka: &Kafka, name: &str, columns: &str, topic: &str, more: &str, format: &str) -> String {
    let (include, with) = more.split_once("WITH").unwrap_or(("", more));
    format!(
        "CREATE SOURCE {name} {columns} {include} WITH (connector = 'kafka', properties.bootstrap.servers = '{}', topic = '{topic}' {with}) \
         FORMAT {format}",
        kafka.servers()
    )
}

pub fn keyed(key: &str, value: Option<&str>) -> Record {
    Record { key: Some(key.into()), value: value.map(|value| value.as_bytes().to_vec()), ..Record::default() }
}

#[tokio::test]
async fn rows_come_change_and_go() {
    let kafka = Kafka::shared();
    kafka.topic("upserts", 1).await;
    let mut instance = start().await;
    let text_key = "UPSERT ENCODE JSON KEY ENCODE TEXT";
    instance
        .run(&source(
            kafka,
            "s",
            "(id INT PRIMARY KEY, v INT, t TEXT)",
            "upserts",
            "INCLUDE offset AS o WITH",
            text_key,
        ))
        .await;
    instance
        .run("CREATE MATERIALIZED VIEW sums AS SELECT t, count(*) AS n, sum(v) AS v, max(v) AS most FROM s GROUP BY t")
        .await;
    let records = [
        keyed("1", Some(r#"{"id": 1, "v": 10, "t": "a"}"#)),
        keyed("2", Some(r#"{"id": 2, "v": 20, "t": "a"}"#)),
        keyed("1", Some(r#"{"id": 1, "v": 11, "t": "b"}"#)),
        keyed("3", Some(r#"{"id": 3, "v": 30, "t": "a"}"#)),
    ];
    kafka.send("upserts", records.to_vec()).await;
    instance.wait_for("SELECT * FROM sums ORDER BY t", &["a 2 50 30", "b 1 11 11"]).await;
    assert_eq!(instance.lines("SELECT id, v, t, o FROM s ORDER BY id").await, ["1 11 b 2", "2 20 a 1", "3 30 a 3"]);
    kafka.send("upserts", vec![keyed("3", None), keyed("9", None), records[2].clone()]).await;
    instance.wait_for("SELECT * FROM sums ORDER BY t", &["a 1 20 20", "b 1 11 11"]).await;
    instance.server.kill_and_restart().await.unwrap();
    kafka.send("upserts", vec![keyed("2", Some(r#"{"id": 2, "v": 5, "t": "b"}"#))]).await;
    instance.wait_for("SELECT * FROM sums ORDER BY t", &["b 2 16 11"]).await;
    // A view that is made later reads the rows that are there, and not the topic again.
    instance.run("CREATE MATERIALIZED VIEW later AS SELECT id, v FROM s").await;
    instance.wait_for("SELECT * FROM later ORDER BY id", &["1 11", "2 5"]).await;
    for view in ["sums", "later"] {
        assert_eq!(instance.lines(&format!("VALIDATE MATERIALIZED VIEW {view}")).await, Vec::<String>::new());
    }
    assert_eq!(instance.value("SELECT rows, bad_rows, state FROM tidemark.sources").await, "8 0 running");
    let made = instance.value("SELECT definition FROM tidemark.objects WHERE name = 's'").await;
    assert!(made.contains("PRIMARY KEY (id)") && made.contains("key_encode = 'text'"), "{made}");
    assert_eq!(instance.error("INSERT INTO s VALUES (1, 1, 'x')").await.0, "42809");
    instance.run("DROP SOURCE s CASCADE").await;
    instance.run(&source(kafka, "s", "(id INT PRIMARY KEY, v INT)", "upserts", "", text_key)).await;
    instance.wait_for("SELECT * FROM s ORDER BY id", &["1 11", "2 5"]).await;
}

/// Plain rows replace those with their key; the key may be that of the message.
#[tokio::test]
async fn plain_rows_with_a_key() {
    let kafka = Kafka::shared();
    kafka.topic("plain_keyed", 1).await;
    let records = vec![
        keyed("a", Some(r#"{"id": 1, "v": 10}"#)),
        keyed("a", Some(r#"{"id": 2, "v": 20}"#)),
        Record::new(0, r#"{"id": 1, "v": 11}"#),
        Record::new(0, r#"{"v": 12}"#),
    ];
    kafka.send("plain_keyed", records).await;
    let instance = start().await;
    let drop = ", on_error = 'drop'";
    instance
        .run(&source(kafka, "by_id", "(id INT PRIMARY KEY, v INT)", "plain_keyed", drop, "PLAIN ENCODE JSON"))
        .await;
    let include = "INCLUDE key AS k WITH , on_error = 'drop'";
    instance
        .run(&source(kafka, "by_key", "(id INT, v INT, PRIMARY KEY (k))", "plain_keyed", include, "PLAIN ENCODE JSON"))
        .await;
    instance.wait_for("SELECT * FROM by_id ORDER BY id", &["1 11", "2 20"]).await;
    instance.wait_for("SELECT id, v, convert_from(k, 'UTF8') FROM by_key", &["2 20 a"]).await;
    instance.wait_for("SELECT name, bad_rows FROM tidemark.sources ORDER BY name", &["by_id 1", "by_key 2"]).await;
}

/// What stands for a key of several columns, and keys that are not there.
#[tokio::test]
async fn keys_that_do_not_do() {
    let kafka = Kafka::shared();
    kafka.topic("odd_keys", 1).await;
    let instance = start().await;
    let drop = ", on_error = 'dlq'";
    let columns = "(a INT, b INT, v INT, PRIMARY KEY (a, b))";
    instance.run(&source(kafka, "two", columns, "odd_keys", drop, "UPSERT ENCODE JSON")).await;
    let include = "INCLUDE key AS k WITH , on_error = 'dlq'";
    instance.run(&source(kafka, "beside", "(v INT, PRIMARY KEY (k))", "odd_keys", include, "UPSERT ENCODE JSON")).await;
    let records = vec![
        keyed("1", Some(r#"{"a": 1, "b": 1, "v": 5}"#)),
        keyed(r#"{"a": 1, "b": 2}"#, Some(r#"{"a": 1, "b": 2, "v": 6}"#)),
        keyed("1", None),
        Record::new(0, r#"{"a": 7, "b": 7, "v": 7}"#),
        keyed(r#"{"a": 1, "b": 2}"#, None),
    ];
    kafka.send("odd_keys", records).await;
    instance.wait_for("SELECT a, b, v FROM two ORDER BY a", &["1 1 5", "7 7 7"]).await;
    instance.wait_for("SELECT count(*) FROM beside", &["0"]).await;
    instance
        .wait_for("SELECT source, position FROM tidemark.dead_letters ORDER BY source", &["beside 3", "two 2"])
        .await;
    assert_eq!(instance.lines("SELECT DISTINCT state FROM tidemark.sources").await, ["running"]);
}

/// The same by a schema: rows, what was before and after them, and tombstones.
#[tokio::test]
async fn changes_with_a_schema() {
    let (kafka, registry) = (Kafka::shared(), Registry::start().await);
    let instance = start().await;
    for encode in ["avro", "protobuf"] {
        let (rows, changes) = (format!("rows_{encode}"), format!("changes_{encode}"));
        kafka.topic(&rows, 1).await;
        kafka.topic(&changes, 1).await;
        let message = if encode == "protobuf" { ", message = 'shop.Row'" } else { "" };
        let with = format!("ENCODE {encode} (schema.registry = '{}'{message})", registry.url());
        instance.run(&format!("CREATE TABLE t_{encode} (id INT PRIMARY KEY, name TEXT)")).await;
        let key = "KEY ENCODE TEXT";
        instance
            .run(&sink(
                kafka,
                &format!("to_{rows}"),
                &format!("FROM t_{encode}"),
                &rows,
                "",
                &format!("UPSERT {with} {key}"),
            ))
            .await;
        let columns = "(id INT PRIMARY KEY, name TEXT)";
        instance.run(&source(kafka, &rows, columns, &rows, "", &format!("UPSERT {with} {key}"))).await;
        instance.run(&format!("INSERT INTO t_{encode} VALUES (1, 'a'), (2, NULL), (3, 'c')")).await;
        instance.run(&format!("UPDATE t_{encode} SET name = 'b' WHERE id = 2")).await;
        instance.run(&format!("DELETE FROM t_{encode} WHERE id = 3")).await;
        instance.wait_for(&format!("SELECT * FROM {rows} ORDER BY id"), &["1 a", "2 b"]).await;
        // Records as Debezium writes them.
        instance
            .run(&format!("CREATE TABLE said_{encode} (n INT, op TEXT, bid INT, bname TEXT, aid INT, aname TEXT)"))
            .await;
        let envelope = format!(
            "AS SELECT op, CASE WHEN bid IS NULL THEN NULL ELSE named_struct('id', bid, 'name', bname) END AS before, \
             CASE WHEN aid IS NULL THEN NULL ELSE named_struct('id', aid, 'name', aname) END AS after FROM said_{encode}"
        );
        let force = with.replace(')', ", force_append_only = true)");
        instance.run(&sink(kafka, &format!("to_{changes}"), &envelope, &changes, "", &format!("PLAIN {force}"))).await;
        for values in [
            "(1, 'c', NULL, NULL, 1, 'a')",
            "(2, 'r', NULL, NULL, 2, 'b')",
            "(3, 'u', 2, 'b', 5, '__debezium_unavailable_value')",
            "(4, 'u', 1, 'a', 1, NULL)",
            "(5, 'c', NULL, NULL, 9, 'z')",
            "(6, 'd', 9, NULL, NULL, NULL)",
            "(7, 'x', NULL, NULL, 1, 'wrong')",
        ] {
            instance.run(&format!("INSERT INTO said_{encode} VALUES {values}")).await;
        }
        let debezium = format!("DEBEZIUM {with}");
        instance
            .run(&source(
                kafka,
                &changes,
                "(id INT PRIMARY KEY, name TEXT)",
                &changes,
                ", on_error = 'drop'",
                &debezium,
            ))
            .await;
        instance.wait_for(&format!("SELECT * FROM {changes} ORDER BY id"), &["1 NULL", "5 b"]).await;
        instance.wait_for(&format!("SELECT bad_rows FROM tidemark.sources WHERE name = '{changes}'"), &["1"]).await;
        instance
            .run(&format!(
                "INSERT INTO said_{encode} VALUES (8, 't', NULL, NULL, NULL, NULL), (9, 'c', NULL, NULL, 4, 'new')"
            ))
            .await;
        instance.wait_for(&format!("SELECT * FROM {changes} ORDER BY id"), &["4 new"]).await;
    }
}

#[tokio::test]
async fn changes_of_debezium_and_maxwell() {
    let kafka = Kafka::shared();
    let instance = start().await;
    for topic in ["debezium", "maxwell", "own"] {
        kafka.topic(topic, 1).await;
    }
    let columns = "(id INT PRIMARY KEY, name TEXT, doc JSONB)";
    instance.run(&source(kafka, "d", columns, "debezium", "", "DEBEZIUM ENCODE JSON")).await;
    instance.run(&source(kafka, "m", columns, "maxwell", "", "MAXWELL ENCODE JSON")).await;
    let custom = "CUSTOM ENCODE JSON (op = '$.k', after = '$.row', key = '$.id', op.put = 'set', op.delete = 'unset')";
    instance.run(&source(kafka, "o", columns, "own", "", custom)).await;
    for name in ["d", "m", "o"] {
        instance.run(&format!("CREATE MATERIALIZED VIEW of_{name} AS SELECT count(*) AS n, sum(id) AS ids, max(name) AS name FROM {name}")).await;
    }
    kafka
        .send_texts(
            "debezium",
            &[
                r#"{"op": "r", "after": {"id": 1, "name": "a", "doc": {"x": 1}}}"#,
                r#"{"op": "c", "after": {"id": 2, "name": "b"}}"#,
                r#"{"op": "u", "before": {"id": 2}, "after": {"id": 5, "name": "c"}}"#,
                r#"{"op": "u", "after": {"id": 1, "name": "z", "doc": "__debezium_unavailable_value"}}"#,
            ],
        )
        .await;
    instance.wait_for("SELECT * FROM d ORDER BY id", &[r#"1 z {"x": 1}"#, "5 c NULL"]).await;
    instance.wait_for("SELECT * FROM of_d", &["2 6 z"]).await;
    kafka.send_texts("debezium", &[r#"{"op": "t"}"#, r#"{"op": "c", "after": {"id": 7, "name": "new"}}"#]).await;
    instance.wait_for("SELECT * FROM of_d", &["1 7 new"]).await;
    kafka
        .send_texts(
            "maxwell",
            &[
                r#"{"type": "insert", "data": {"id": 1, "name": "a"}}"#,
                r#"{"type": "insert", "data": {"id": 2, "name": "b"}}"#,
                r#"{"type": "update", "data": {"id": 3, "name": "a"}, "old": {"id": 1}}"#,
                r#"{"type": "delete", "data": {"id": 2, "name": "b"}}"#,
            ],
        )
        .await;
    instance.wait_for("SELECT * FROM of_m", &["1 3 a"]).await;
    kafka
        .send_texts(
            "own",
            &[
                r#"{"k": "set", "id": 1, "row": {"id": 1, "name": "a"}}"#,
                r#"{"k": "set", "id": 2, "row": {"id": 2, "name": "b"}}"#,
                r#"{"k": "unset", "id": 1}"#,
            ],
        )
        .await;
    instance.wait_for("SELECT * FROM of_o", &["1 2 b"]).await;
    // Through a pipeline into a table with history.
    instance
        .run("CREATE TABLE history (id INT PRIMARY KEY, name TEXT) WITH (strategy = 'scd2', deletes = 'soft')")
        .await;
    instance.run("CREATE PIPELINE p INTO history AS SELECT id, name FROM m").await;
    instance.wait_for("SELECT count(*) FROM history WHERE is_current", &["1"]).await;
    kafka.send_texts("maxwell", &[r#"{"type": "update", "data": {"id": 3, "name": "x"}, "old": {"name": "a"}}"#]).await;
    instance.wait_for("SELECT id, name, is_current FROM history ORDER BY valid_from", &["3 a f", "3 x t"]).await;
    kafka
        .send_texts("debezium", &[r#"{"op": "u", "after": {"id": 99, "name": "__debezium_unavailable_value"}}"#])
        .await;
    instance.wait_for("SELECT state FROM tidemark.sources WHERE name = 'd'", &["failed"]).await;
    let error = instance.value("SELECT error FROM tidemark.sources WHERE name = 'd'").await;
    assert!(error.contains("of a row that is not there"), "{error}");
}

/// What a table's changes say, read back, is the table.
#[tokio::test]
async fn a_table_goes_out_and_comes_back() {
    let kafka = Kafka::shared();
    let mut instance = start().await;
    instance.run("CREATE TABLE t (id INT PRIMARY KEY, v INT, name TEXT)").await;
    for (name, format) in [("upsert", "UPSERT"), ("debezium", "DEBEZIUM")] {
        let topic = format!("mirror_{name}");
        kafka.topic(&topic, 2).await;
        instance.run(&sink(kafka, &format!("to_{name}"), "FROM t", &topic, "", &format!("{format} ENCODE JSON"))).await;
        let columns = "(id INT PRIMARY KEY, v INT, name TEXT)";
        instance.run(&source(kafka, name, columns, &topic, "", &format!("{format} ENCODE JSON"))).await;
        instance.run(&format!("CREATE MATERIALIZED VIEW of_{name} AS SELECT v % 3 AS g, count(*) AS n, sum(v) AS v, min(name) AS name FROM {name} GROUP BY v % 3")).await;
    }
    let mut random = Random::new(5);
    for round in 0..12 {
        for _ in 0..random.below(6) + 1 {
            change(&instance, &mut random).await;
        }
        if round % 4 == 3 {
            instance.server.kill_and_restart().await.unwrap();
        }
        let rows = instance.lines("SELECT * FROM t ORDER BY id").await;
        let expected: Vec<&str> = rows.iter().map(String::as_str).collect();
        let groups =
            instance.lines("SELECT v % 3 AS g, count(*), sum(v), min(name) FROM t GROUP BY v % 3 ORDER BY g").await;
        let grouped: Vec<&str> = groups.iter().map(String::as_str).collect();
        for name in ["upsert", "debezium"] {
            instance.wait_for(&format!("SELECT * FROM {name} ORDER BY id"), &expected).await;
            instance.wait_for(&format!("SELECT * FROM of_{name} ORDER BY g"), &grouped).await;
        }
    }
}

async fn change(instance: &Instance, random: &mut Random) {
    let (id, other, v) = (random.below(20), random.below(20), random.below(100));
    let statement = match random.below(6) {
        0 | 1 => format!("INSERT INTO t VALUES ({id}, {v}, 'n{v}') ON CONFLICT (id) DO UPDATE SET v = excluded.v"),
        2 => format!("UPDATE t SET v = {v}, name = NULL WHERE id < {id}"),
        3 => format!(
            "UPDATE t SET id = {other} WHERE id = {id} AND NOT EXISTS (SELECT 1 FROM t AS o WHERE o.id = {other})"
        ),
        4 => format!("DELETE FROM t WHERE id = {id}"),
        _ => format!(
            "INSERT INTO t SELECT n, {v}, 'm' || n FROM generate_series({id}, {id} + 3) AS n ON CONFLICT (id) DO NOTHING"
        ),
    };
    instance.run(&statement).await;
}

#[tokio::test]
async fn what_makes_no_sense_is_refused() {
    let kafka = Kafka::shared();
    kafka.topic("refused_changes", 1).await;
    let instance = start().await;
    for (columns, more, format, code, message) in [
        ("(id INT)", "", "UPSERT ENCODE JSON", "42P16", "FORMAT UPSERT is for a source with a PRIMARY KEY"),
        ("(id INT, PRIMARY KEY (nobody))", "", "UPSERT ENCODE JSON", "42703", "\"nobody\" named in key"),
        ("(id INT PRIMARY KEY, PRIMARY KEY (id))", "", "UPSERT ENCODE JSON", "42P16", "multiple primary keys"),
        ("(id JSON PRIMARY KEY)", "", "UPSERT ENCODE JSON", "42704", "json of column \"id\" cannot be a key"),
        (
            "(id INT PRIMARY KEY, ts TIMESTAMP, WATERMARK FOR ts AS ts)",
            "",
            "UPSERT ENCODE JSON",
            "0A000",
            "neither WATERMARK",
        ),
        (
            "(id INT PRIMARY KEY, ts TIMESTAMP)",
            ", ttl = '1 day', ttl_column = 'ts'",
            "UPSERT ENCODE JSON",
            "0A000",
            "nor ttl",
        ),
        ("(id INT PRIMARY KEY)", "", "UPSERT ENCODE CSV", "0A000", "FORMAT UPSERT ENCODE CSV"),
        ("(id INT PRIMARY KEY)", "", "CANAL ENCODE JSON", "0A000", "FORMAT CANAL"),
        ("(id INT PRIMARY KEY)", "", "CUSTOM ENCODE JSON", "22023", "option \"op\" is missing"),
        ("(id INT PRIMARY KEY)", "", "CUSTOM ENCODE JSON (op = 'kind')", "22023", "\"kind\" is no path"),
        ("(id INT UNIQUE)", "", "PLAIN ENCODE JSON", "0A000", "UNIQUE"),
        ("(*)", "", "DEBEZIUM ENCODE JSON", "42P16", "columns are not taken from changes"),
    ] {
        let (found, said) = instance.error(&source(kafka, "s", columns, "refused_changes", more, format)).await;
        assert!(found == code && said.contains(message), "{columns} {format}: {found} {said}");
    }
}
