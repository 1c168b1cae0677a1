//! REPLAY DEAD LETTERS: what could not be decoded counts once when it can be, for every view, whenever the view was made.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Instance, Random, start};
use crate::kafka_broker::{Kafka, Record};
use crate::kafka_formats::{avro, field, framed, long, record, refused, text};
use crate::registry::Registry;

/// {"id", "at", "note"}, and in the second version more.
fn schema(more: bool) -> Value {
    let at = json!({ "type": "long", "logicalType": "timestamp-millis" });
    let mut fields = vec![field("id", json!("int")), field("at", at), field("note", json!("string"))];
    if more {
        fields.push(json!({ "name": "more", "type": "string", "default": "-" }));
    }
    record("R", Value::Array(fields))
}

/// Milliseconds of 10:00:00.
const TEN: i64 = 1_700_042_400_000;

fn first(schema: u32, id: i64, second: i64) -> Record {
    Record::new(0, framed(schema, &[&long(id), &long(TEN + second * 1000), &text("first")]))
}

fn second(schema: u32, id: i64, second: i64) -> Record {
    Record::new(0, framed(schema, &[&long(id), &long(TEN + second * 1000), &text("second"), &text("more")]))
}

fn source(name: &str, topic: &str, more: &str, with: &str, registry: &Registry) -> String {
    format!(
        "CREATE SOURCE {name} (id INT, at TIMESTAMPTZ, note TEXT{more} WITH (connector = 'kafka', \
         properties.bootstrap.servers = '{}', topic = '{topic}', on_error = 'dlq'{with}) FORMAT PLAIN ENCODE {}",
        Kafka::shared().servers(),
        avro(registry)
    )
}

/// What `REPLAY DEAD LETTERS ..` says: its tag's number.
async fn replay(instance: &Instance, rest: &str) -> u64 {
    instance.client().await.execute(&format!("REPLAY DEAD LETTERS {rest}"), &[]).await.unwrap()
}

#[tokio::test]
async fn letters_count_once_for_every_view() {
    let kafka = Kafka::shared();
    kafka.topic("replayed", 1).await;
    let registry = Registry::start().await;
    let known = registry.avro("replayed-value", &schema(false));
    let unknown = known + 1;
    let mut told = second(unknown, 4, 18);
    told.timestamp = Some(1_700_000_000_123);
    told.headers = BTreeMap::from([("trace".into(), b"abc".to_vec()), ("raw".into(), vec![0xff, 0])]);
    // 2 will be late when it counts, 5 lies far ahead, where it must make nothing late.
    let records = vec![
        first(known, 1, 0),
        second(unknown, 2, 1),
        first(known, 3, 20),
        told,
        second(unknown, 5, 3600),
        first(known, 6, 21),
        first(known, 7, 22),
    ];
    kafka.send("replayed", records).await;
    let mut instance = start().await;
    let more = ", WATERMARK FOR at AS at - INTERVAL '5 seconds') INCLUDE timestamp AS sent, headers, offset AS o";
    instance.run(&source("s", "replayed", more, "", &registry)).await;
    let view = |name: &str| {
        format!(
            "CREATE MATERIALIZED VIEW {name} AS SELECT id, note, o, CASE WHEN id = 4 THEN sent END AS sent, headers FROM s"
        )
    };
    instance.run(&view("before")).await;
    let windows = "SELECT window_start, count(*) AS n FROM TUMBLE(s, at, INTERVAL '10 seconds') GROUP BY window_start";
    instance.run(&format!("CREATE MATERIALIZED VIEW windows AS {windows}")).await;
    instance.run("CREATE TABLE copied (id INT, note TEXT) WITH (strategy = 'append')").await;
    instance.run("CREATE PIPELINE copy INTO copied AS SELECT id, note FROM s").await;
    let letters = "SELECT position, timestamp IS NULL, headers FROM tidemark.dead_letters ORDER BY position";
    let headers = "{\"raw\": \"\\\\xff00\", \"trace\": \"abc\"}";
    instance.wait_for(letters, &["1 f NULL", &format!("3 f {headers}"), "4 f NULL"]).await;
    instance.wait_for("SELECT id FROM before ORDER BY id", &["1", "3", "6", "7"]).await;

    // Nothing can be decoded yet.
    assert_eq!(replay(&instance, "FROM s").await, 0);
    assert_eq!(instance.value("SELECT count(*) FROM tidemark.dead_letters").await, "3");
    registry.avro("replayed-value", &schema(true));
    // Now it could, but nobody has said so: it still does not count, for nobody.
    instance.server.kill_and_restart().await.unwrap();
    instance.run(&view("between")).await;
    let good = ["1", "3", "6", "7"];
    assert_eq!(instance.lines("SELECT id FROM between ORDER BY id").await, good);
    assert_eq!(instance.lines("SELECT id FROM s ORDER BY id").await, good);

    assert_eq!(replay(&instance, "FROM s WHERE position = 4 AND read_at > now() - INTERVAL '1 day'").await, 1);
    assert_eq!(replay(&instance, "FROM s").await, 2);
    assert_eq!(replay(&instance, "FROM s").await, 0);
    assert_eq!(instance.value("SELECT count(*) FROM tidemark.dead_letters").await, "0");
    let late = instance.value("SELECT late_rows, bad_rows FROM tidemark.sources WHERE name = 's'").await;
    assert_eq!(late, "1 3");
    kafka.send("replayed", vec![first(known, 8, 23)]).await;
    instance.wait_for("SELECT max(id) FROM before WHERE note = 'first'", &["8"]).await;
    let all = [
        "1 first 0 NULL NULL",
        "3 first 2 NULL NULL",
        &format!("4 second 3 2023-11-14 22:13:20.123+00 {headers}"),
        "5 second 4 NULL NULL",
        "6 first 5 NULL NULL",
        "7 first 6 NULL NULL",
        "8 first 7 NULL NULL",
    ];
    instance.run(&view("after")).await;
    instance.server.kill_and_restart().await.unwrap();
    instance.run(&view("later")).await;
    for name in ["before", "between", "after", "later"] {
        let rows = instance.lines(&format!("SELECT * FROM {name} ORDER BY id")).await;
        assert_eq!(rows, all, "{name}");
        assert_eq!(instance.lines(&format!("VALIDATE MATERIALIZED VIEW {name}")).await, Vec::<String>::new(), "{name}");
    }
    let ids = ["1", "3", "4", "5", "6", "7", "8"];
    assert_eq!(instance.lines("SELECT id FROM s ORDER BY id").await, ids);
    instance.wait_for("SELECT id FROM copied ORDER BY id", &ids).await;
    assert_eq!(instance.lines("VALIDATE MATERIALIZED VIEW windows").await, Vec::<String>::new());
    assert_eq!(instance.value("SELECT sum(n), count(*) FROM windows").await, "7 4");
}

/// Killed in the middle, as often as it takes.
#[tokio::test]
async fn a_replay_that_is_killed_goes_on() {
    let kafka = Kafka::shared();
    kafka.topic("replay_killed", 2).await;
    let registry = Registry::start().await;
    let known = registry.avro("replay_killed-value", &schema(false));
    let of = |id: i64| match id % 3 {
        0 => Record { partition: (id % 2) as i32, ..first(known, id, id) },
        _ => Record { partition: (id % 2) as i32, ..second(known + 1, id, id) },
    };
    kafka.send("replay_killed", (0..9000).map(of).collect()).await;
    let mut instance = start().await;
    instance.run(&source("s", "replay_killed", ")", "", &registry)).await;
    instance
        .run("CREATE MATERIALIZED VIEW v AS SELECT count(*) AS n, sum(id) AS ids, count(DISTINCT id) AS d FROM s")
        .await;
    instance.wait_for("SELECT n FROM v", &["3000"]).await;
    instance.wait_for("SELECT count(*) FROM tidemark.dead_letters", &["6000"]).await;
    registry.avro("replay_killed-value", &schema(true));
    let mut random = Random::new(7);
    for _ in 0..3 {
        let client = instance.client().await;
        let replaying = tokio::spawn(async move { client.simple_query("REPLAY DEAD LETTERS FROM s").await.map(drop) });
        tokio::time::sleep(Duration::from_millis(10 + random.below(150))).await;
        instance.server.kill_and_restart().await.unwrap();
        let _ended_or_cut_off = replaying.await.unwrap();
        let left: i64 = instance.value("SELECT count(*) FROM tidemark.dead_letters").await.parse().unwrap();
        let taken = instance.value("SELECT n, n - d FROM v").await;
        assert_eq!(taken, format!("{} 0", 9000 - left));
    }
    // Two at once share the work, whoever gets which.
    let (one, other) = tokio::join!(replay(&instance, "FROM s"), replay(&instance, "FROM s"));
    assert!(one + other <= 6000);
    assert_eq!(instance.value("SELECT n, ids, d FROM v").await, format!("9000 {} 9000", 8999 * 4500));
    assert_eq!(instance.value("SELECT count(*), sum(id) FROM s").await, format!("9000 {}", 8999 * 4500));
    assert_eq!(instance.value("SELECT count(*) FROM tidemark.dead_letters").await, "0");
}

/// Rows that later records replace: an old record must not come back unasked.
#[tokio::test]
async fn rows_with_a_key() {
    let kafka = Kafka::shared();
    kafka.topic("replay_keyed", 1).await;
    let registry = Registry::start().await;
    let known = registry.avro("replay_keyed-value", &schema(false));
    let keyed = |id: i64, record: Record| Record { key: Some(id.to_string()), ..record };
    let records =
        vec![keyed(1, second(known + 1, 1, 1)), keyed(1, first(known, 1, 2)), keyed(2, second(known + 1, 2, 3))];
    kafka.send("replay_keyed", records).await;
    let instance = start().await;
    instance
        .run(&format!(
            "CREATE SOURCE k (id INT PRIMARY KEY, at TIMESTAMPTZ, note TEXT) WITH (connector = 'kafka', \
             properties.bootstrap.servers = '{}', topic = 'replay_keyed', on_error = 'dlq') FORMAT UPSERT ENCODE {}",
            kafka.servers(),
            avro(&registry)
        ))
        .await;
    instance.run("CREATE MATERIALIZED VIEW v AS SELECT id, note FROM k").await;
    instance.wait_for("SELECT * FROM v", &["1 first"]).await;
    registry.avro("replay_keyed-value", &schema(true));
    refused(&instance, "REPLAY DEAD LETTERS FROM k", "55000", "what has become of these rows since").await;
    assert_eq!(instance.value("SELECT count(*) FROM tidemark.dead_letters").await, "2");
    assert_eq!(replay(&instance, "FORCE FROM k WHERE position = 2").await, 1);
    assert_eq!(instance.lines("SELECT * FROM v ORDER BY id").await, ["1 first", "2 second"]);
    assert_eq!(instance.lines("SELECT id FROM k ORDER BY id").await, ["1", "2"]);

    // With an order the older one counts for nothing.
    kafka.topic("replay_ordered", 1).await;
    let change = |lsn: i64, name: Value| {
        json!({ "op": "u", "before": null, "after": { "id": 1, "name": name }, "source": { "lsn": lsn } }).to_string()
    };
    let texts = [change(1, json!("a")), change(2, json!({ "not": "text" })), change(3, json!("c"))];
    kafka.send_texts("replay_ordered", &texts.iter().map(String::as_str).collect::<Vec<_>>()).await;
    instance
        .run(&format!(
            "CREATE SOURCE o (id INT PRIMARY KEY, name INT) WITH (connector = 'kafka', properties.bootstrap.servers = '{}', \
             topic = 'replay_ordered', on_error = 'dlq') FORMAT DEBEZIUM ENCODE JSON (order_by = 'source')",
            kafka.servers()
        ))
        .await;
    instance.run("CREATE MATERIALIZED VIEW w AS SELECT id, name FROM o").await;
    instance.wait_for("SELECT count(*) FROM tidemark.dead_letters WHERE source = 'o'", &["3"]).await;
    assert_eq!(replay(&instance, "FROM o").await, 0);

    for (statement, code, part) in [
        ("REPLAY DEAD LETTERS FROM nothing", "42P01", "\"nothing\""),
        ("REPLAY DEAD LETTERS FROM v", "42809", "\"v\" is a materialized view, not a source"),
        ("REPLAY DEAD LETTERS k", "42601", "k"),
        ("REPLAY DEAD LETTERS FROM k WHERE", "42601", "end"),
        ("REPLAY DEAD LETTERS FROM k WHERE nothing = 1", "42703", "nothing"),
        ("BEGIN; REPLAY DEAD LETTERS FROM k", "25001", "transaction block"),
        ("UPDATE tidemark.dead_letters SET value = NULL", "42501", "dead_letters"),
        ("INSERT INTO tidemark.dead_letters (source) VALUES ('k')", "42501", "dead_letters"),
    ] {
        refused(&instance, statement, code, part).await;
    }
}
