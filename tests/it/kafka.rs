//! The Kafka source beside a real broker: what it reads, where it begins, what it refuses, and that nothing is lost or doubled.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::producer::{BaseProducer, Producer};

use crate::harness::{Instance, Random, start};
use crate::kafka_broker::{Kafka, Record, send};

/// `CREATE SOURCE name columns` over a topic.
fn source(kafka: &Kafka, name: &str, columns: &str, topic: &str, more: &str) -> String {
    let (include, with) = more.split_once("WITH").unwrap_or(("", more));
    format!(
        "CREATE SOURCE {name} {columns} {include} WITH (connector = 'kafka', properties.bootstrap.servers = '{}', topic = '{topic}' {with}) \
         FORMAT PLAIN ENCODE JSON",
        kafka.servers()
    )
}

/// n records `{"id": .., "v": ..}` over the partitions, from number `from` on.
fn numbered(from: i64, n: i64, partitions: i32) -> Vec<Record> {
    let one = |id: i64| {
        Record::new((id % i64::from(partitions)) as i32, format!("{{\"id\": {id}, \"v\": {}}}", id * 7 % 100))
    };
    (from..from + n).map(one).collect()
}

#[tokio::test]
async fn all_partitions_are_read_and_again_after_a_kill() {
    let kafka = Kafka::shared();
    kafka.topic("read_all", 3).await;
    let mut records = numbered(0, 1000, 3);
    records[0].key = Some("k0".into());
    records[0].timestamp = Some(1_700_000_000_123);
    records[0].headers = BTreeMap::from([("trace".into(), b"abc".to_vec()), ("raw".into(), vec![0xff, 0])]);
    kafka.send("read_all", records).await;
    let mut instance = start().await;
    let include = "INCLUDE key AS k, topic, partition AS p, offset AS o, timestamp AS sent, headers WITH";
    instance.run(&source(kafka, "s", "(id BIGINT, v INT)", "read_all", include)).await;
    instance
        .run(
            "CREATE MATERIALIZED VIEW totals AS SELECT p, count(*) AS n, sum(v) AS v, max(o) AS last FROM s GROUP BY p",
        )
        .await;
    instance.run("CREATE MATERIALIZED VIEW all_ids AS SELECT id FROM s").await;
    instance.wait_for("SELECT sum(n), count(*), max(last) FROM totals", &["1000 3 333"]).await;
    assert_eq!(
        instance.lines("SELECT convert_from(k, 'UTF8'), topic, p, o, sent, headers FROM s WHERE id = 0").await,
        ["k0 read_all 0 0 2023-11-14 22:13:20.123+00 {\"raw\": \"\\\\xff00\", \"trace\": \"abc\"}"]
    );
    assert_eq!(instance.value("SELECT k IS NULL AND headers IS NULL FROM s WHERE id = 1").await, "t");
    instance.server.kill9().unwrap();
    kafka.send("read_all", numbered(1000, 500, 3)).await;
    instance.server.kill_and_restart().await.unwrap();
    instance.wait_for("SELECT sum(n) FROM totals", &["1500"]).await;
    assert_eq!(
        instance.value("SELECT count(*), count(DISTINCT id), min(id), max(id) FROM all_ids").await,
        "1500 1500 0 1499"
    );
    assert_eq!(instance.lines("VALIDATE MATERIALIZED VIEW totals").await, Vec::<String>::new());
    instance.wait_for("SELECT rows, bad_rows, lag_rows FROM tidemark.sources", &["1500 0 0"]).await;
    let positions = instance.value("SELECT offsets FROM tidemark.sources").await;
    assert!(positions.contains("0..500"), "{positions}");
    // A view that is made later reads what the first ones have read.
    instance.run("CREATE MATERIALIZED VIEW later AS SELECT count(*) AS n, sum(id) AS ids FROM s").await;
    instance.wait_for("SELECT * FROM later", &[&format!("1500 {}", 1499 * 750)]).await;
}

#[tokio::test]
async fn reading_begins_where_it_is_told_to() {
    let kafka = Kafka::shared();
    kafka.topic("startup", 2).await;
    let mut records = numbered(0, 100, 2);
    records
        .iter_mut()
        .enumerate()
        .for_each(|(at, record)| record.timestamp = Some(1_700_000_000_000 + at as i64 * 1000));
    kafka.send("startup", records).await;
    let instance = start().await;
    for (name, option) in [
        ("earliest", ", scan.startup.mode = 'earliest'"),
        ("latest", ", scan.startup.mode = 'latest'"),
        ("millis", ", scan.startup.timestamp.millis = '1700000060000'"),
        ("at_time", ", scan.startup.mode = 'timestamp', scan.startup.timestamp = '2023-11-14 22:14:20+00'"),
        ("offsets", ", scan.startup.specific-offsets = 'partition:0,offset:45;partition:1,offset:50'"),
        ("bounded", ", bounded = 'true'"),
    ] {
        instance.run(&source(kafka, name, "(id BIGINT)", "startup", option)).await;
        instance
            .run(&format!("CREATE MATERIALIZED VIEW of_{name} AS SELECT count(*) AS n, min(id) AS first FROM {name}"))
            .await;
    }
    instance.wait_for("SELECT * FROM of_earliest", &["100 0"]).await;
    instance.wait_for("SELECT * FROM of_millis", &["40 60"]).await;
    instance.wait_for("SELECT * FROM of_at_time", &["40 60"]).await;
    instance.wait_for("SELECT * FROM of_offsets", &["5 90"]).await;
    instance.wait_for("SELECT * FROM of_bounded", &["100 0"]).await;
    instance.wait_for("SELECT state FROM tidemark.sources WHERE name = 'bounded'", &["finished"]).await;
    instance
        .wait_for(
            "SELECT count(*) FROM tidemark.sources WHERE name = 'latest' AND offsets::text LIKE '%50..50%'",
            &["1"],
        )
        .await;
    kafka.send("startup", numbered(100, 10, 2)).await;
    instance.wait_for("SELECT * FROM of_latest", &["10 100"]).await;
    instance.wait_for("SELECT n FROM of_earliest", &["110"]).await;
    // Whoever asks later begins where the source did.
    assert_eq!(instance.value("SELECT count(*), min(id) FROM latest").await, "10 100");
    assert_eq!(instance.value("SELECT n FROM of_bounded").await, "100");
    instance
        .run(&source(
            kafka,
            "far",
            "(id BIGINT)",
            "startup",
            ", scan.startup.specific-offsets = 'partition:0,offset:9999'",
        ))
        .await;
    instance.run("CREATE MATERIALIZED VIEW of_far AS SELECT count(*) AS n FROM far").await;
    instance
        .wait_for("SELECT error LIKE '%has no offset 9999%' FROM tidemark.sources WHERE name = 'far'", &["t"])
        .await;
}

/// What retention takes is gone for who reads again; who has not read it yet is told.
#[tokio::test]
async fn what_the_topic_no_longer_has() {
    let kafka = Kafka::shared();
    kafka.topic("forgotten", 1).await;
    kafka.send("forgotten", numbered(0, 100, 1)).await;
    let instance = start().await;
    instance.run(&source(kafka, "s", "(id BIGINT)", "forgotten", "")).await;
    instance
        .run(&source(kafka, "lenient", "(id BIGINT)", "forgotten", ", properties.auto.offset.reset = 'earliest'"))
        .await;
    for name in ["s", "lenient"] {
        instance
            .run(&format!("CREATE MATERIALIZED VIEW of_{name} AS SELECT count(*) AS n, sum(id) AS ids FROM {name}"))
            .await;
        instance.wait_for(&format!("SELECT * FROM of_{name}"), &["100 4950"]).await;
        instance.run(&format!("ALTER SOURCE {name} PAUSE")).await;
    }
    kafka.forget("forgotten", 50).await;
    assert_eq!(instance.value("SELECT count(*), min(id) FROM s").await, "50 50");
    instance.run("CREATE MATERIALIZED VIEW later AS SELECT count(*) AS n FROM s").await;
    instance.wait_for("SELECT * FROM later", &["50"]).await;
    kafka.send("forgotten", numbered(100, 100, 1)).await;
    kafka.forget("forgotten", 150).await;
    assert_eq!(instance.value("SELECT count(*) FROM s").await, "0");
    for name in ["s", "lenient"] {
        instance.run(&format!("ALTER SOURCE {name} RESUME")).await;
    }
    instance.wait_for("SELECT n FROM of_lenient", &["150"]).await;
    instance.wait_for("SELECT state FROM tidemark.sources WHERE name = 's'", &["failed"]).await;
    assert_eq!(instance.value("SELECT n FROM of_s").await, "100");
}

#[tokio::test]
async fn bad_records_stop_the_source_or_are_left_out() {
    let kafka = Kafka::shared();
    kafka.topic("bad", 1).await;
    kafka.send_texts("bad", &["{\"id\": 1}", "{\"id\": \"x\"}", "no json", "[]", "{\"id\": 2}"]).await;
    kafka.send("bad", vec![Record::default()]).await;
    let instance = start().await;
    instance.run(&source(kafka, "dropping", "(id BIGINT)", "bad", ", on_error = 'drop'")).await;
    instance.run("CREATE MATERIALIZED VIEW d AS SELECT count(*) AS n, sum(id) AS ids FROM dropping").await;
    instance.wait_for("SELECT * FROM d", &["2 3"]).await;
    instance.wait_for("SELECT bad_rows FROM tidemark.sources", &["4"]).await;
    assert_eq!(instance.value("SELECT count(*) FROM dropping").await, "2");
    instance.run(&source(kafka, "failing", "(id BIGINT)", "bad", "")).await;
    instance.run("CREATE MATERIALIZED VIEW f AS SELECT sum(id) AS n FROM failing").await;
    instance.wait_for("SELECT state FROM tidemark.sources WHERE name = 'failing'", &["failed"]).await;
    let error = instance.value("SELECT error FROM tidemark.sources WHERE name = 'failing'").await;
    assert!(error.contains("partition 0 of topic \"bad\", offset 1"), "{error}");
}

/// What cannot be decoded is kept as it came, once, whatever is killed.
#[tokio::test]
async fn bad_records_are_kept() {
    let kafka = Kafka::shared();
    kafka.topic("dead", 2).await;
    kafka.send_texts("dead", &["{\"id\": 1}", "{\"id\": \"x\"}", "no json", "{\"id\": 2}"]).await;
    kafka.send("dead", vec![Record { key: Some("k".into()), partition: 1, ..Record::default() }]).await;
    let mut instance = start().await;
    instance.run(&source(kafka, "s", "(id BIGINT)", "dead", ", on_error = 'dlq'")).await;
    instance.run("CREATE MATERIALIZED VIEW v AS SELECT sum(id) AS ids FROM s").await;
    instance.wait_for("SELECT ids FROM v", &["3"]).await;
    let letters = "SELECT source, split, position, convert_from(key, 'UTF8'), convert_from(value, 'UTF8') FROM tidemark.dead_letters \
                   ORDER BY split, position";
    let all = ["s 0 1 NULL {\"id\": \"x\"}", "s 0 2 NULL no json", "s 1 0 k NULL"];
    instance.wait_for(letters, &all).await;
    instance.server.kill_and_restart().await.unwrap();
    kafka.send_texts("dead", &["{\"id\": 5}"]).await;
    instance.wait_for("SELECT ids FROM v", &["8"]).await;
    // Who reads the topic again finds them again, and keeps them no second time.
    instance.run("CREATE MATERIALIZED VIEW later AS SELECT count(*) AS n FROM s").await;
    instance.wait_for("SELECT n FROM later", &["3"]).await;
    assert_eq!(instance.lines(letters).await, all);
    let why = instance.value("SELECT error FROM tidemark.dead_letters WHERE position = 1").await;
    assert!(why.contains("failed to parse \"x\""), "{why}");
    instance.wait_for("SELECT bad_rows FROM tidemark.sources", &["3"]).await;
    // Into a topic of their own, by a sink; what is dealt with here stays there.
    kafka.topic("buried", 1).await;
    instance
        .run(&format!(
            "CREATE SINK buried AS SELECT key, value, error FROM tidemark.dead_letters WHERE source = 's'
             WITH (connector = 'kafka', topic = 'buried', properties.bootstrap.servers = '{}', key = 'key',
                   value.fields-include = 'except_key')
             FORMAT PLAIN ENCODE JSON (force_append_only = true) KEY ENCODE BYTES",
            kafka.servers()
        ))
        .await;
    instance.wait_for("SELECT rows FROM tidemark.sinks WHERE name = 'buried'", &["3"]).await;
    instance.run("DELETE FROM tidemark.dead_letters WHERE source = 's'").await;
    assert_eq!(instance.lines(letters).await, Vec::<String>::new());
    kafka.send_texts("dead", &["still none"]).await;
    instance.wait_for("SELECT count(*) FROM tidemark.dead_letters", &["1"]).await;
    instance.wait_for("SELECT epochs_behind FROM tidemark.sinks", &["0"]).await;
    let buried = kafka.read("buried").await;
    assert_eq!(buried.len(), 4, "{buried:?}");
    assert!(buried.iter().any(|letter| letter.key.as_deref() == Some("k")));
    let (code, said) = instance
        .error(
            "CREATE SOURCE f (id INT) WITH (connector = 'file', path = '.', on_error = 'dlq') FORMAT PLAIN ENCODE JSON",
        )
        .await;
    assert!(code == "0A000" && said.contains("dlq"), "{code} {said}");
}

#[tokio::test]
async fn new_partitions_and_topics_are_found() {
    let kafka = Kafka::shared();
    kafka.topic("grow.a", 1).await;
    let instance = start().await;
    let servers = kafka.servers();
    for (name, topics) in [("one", "topic = 'grow.a'"), ("many", "topic_pattern = 'grow\\..*'")] {
        instance
            .run(&format!(
                "CREATE SOURCE {name} (id BIGINT) INCLUDE topic, partition AS p WITH (connector = 'kafka', properties.bootstrap.servers = '{servers}', \
                 {topics}, discovery_interval = '200ms') FORMAT PLAIN ENCODE JSON"
            ))
            .await;
        instance
            .run(&format!(
                "CREATE MATERIALIZED VIEW of_{name} AS SELECT topic, p, count(*) AS n FROM {name} GROUP BY topic, p"
            ))
            .await;
    }
    kafka.send("grow.a", numbered(0, 10, 1)).await;
    instance.wait_for("SELECT * FROM of_one", &["grow.a 0 10"]).await;
    kafka.widen("grow.a", 3).await;
    kafka.topic("grow.b", 1).await;
    kafka.send("grow.b", numbered(0, 5, 1)).await;
    kafka.send("grow.a", numbered(10, 30, 3)).await;
    instance.wait_for("SELECT * FROM of_one ORDER BY p", &["grow.a 0 20", "grow.a 1 10", "grow.a 2 10"]).await;
    let all = ["grow.a 0 20", "grow.a 1 10", "grow.a 2 10", "grow.b 0 5"];
    instance.wait_for("SELECT * FROM of_many ORDER BY topic, p", &all).await;
    assert_eq!(instance.value("SELECT count(*) FROM many").await, "45");
}

#[tokio::test]
async fn every_encoding() {
    let kafka = Kafka::shared();
    kafka.topic("encodings", 1).await;
    kafka.send_texts("encodings", &["1,\"a,b\",2024-01-01", "2,,", "\u{e9}"]).await;
    let instance = start().await;
    let with = format!(
        "WITH (connector = 'kafka', properties.bootstrap.servers = '{}', topic = 'encodings', on_error = 'drop')",
        kafka.servers()
    );
    for (name, columns, encode) in [
        ("csv", "(id INT, name TEXT, day DATE)", "CSV"),
        ("texts", "(value TEXT)", "TEXT"),
        ("raw", "(value BYTEA)", "BYTES"),
    ] {
        instance.run(&format!("CREATE SOURCE {name} {columns} {with} FORMAT PLAIN ENCODE {encode}")).await;
        instance.run(&format!("CREATE MATERIALIZED VIEW of_{name} AS SELECT * FROM {name}")).await;
    }
    instance.wait_for("SELECT * FROM of_csv ORDER BY id", &["1 a,b 2024-01-01", "2 NULL NULL"]).await;
    instance.wait_for("SELECT * FROM of_texts ORDER BY value", &["1,\"a,b\",2024-01-01", "2,,", "\u{e9}"]).await;
    instance.wait_for("SELECT value FROM of_raw WHERE length(value) = 2", &["\\xc3a9"]).await;
    kafka.topic("sampled", 1).await;
    kafka
        .send_texts("sampled", &["{\"id\": 1, \"name\": \"a\",\n \"tags\": [\"x\"]}", "{\"id\": 2.5, \"at\": true}"])
        .await;
    instance.run(&source(kafka, "sampled", "(*)", "sampled", "")).await;
    instance.run("CREATE MATERIALIZED VIEW of_sampled AS SELECT id, name, tags, at FROM sampled").await;
    instance.wait_for("SELECT * FROM of_sampled ORDER BY id", &["1 a {x} NULL", "2.5 NULL NULL t"]).await;
}

/// Values by their paths, of every type, and the whole record beside them.
#[tokio::test]
async fn values_by_path() {
    let kafka = Kafka::shared();
    kafka.topic("paths", 1).await;
    let texts = [
        r#"{"id": 1, "user": {"name": "a \"b\"", "at": "2024-01-01 10:00:00", "tags": ["x", "y"]}, "n": {"u": "6ccd780c-baba-1026-9564-5b8c656024db"}}"#,
        r#"{"id": 2, "user": {"at": 5, "tags": []}, "rest": [1,  2]}"#,
        r#"{"id": 3, "user": {"name": 4, "at": "never"}}"#,
        r#"{"id": "x", "user": {"at": "never"}}"#,
    ];
    kafka.send_texts("paths", &texts).await;
    let mut instance = start().await;
    let columns = "(id INT, name TEXT FROM '$.user.name', at TIMESTAMP FROM '$.user.at', first TEXT FROM '$.user.tags[0]', \
                   tags TEXT[] FROM '$.user.tags', u UUID FROM '$.n.u', doc JSONB FROM '$.user')";
    let include = "INCLUDE payload WITH , on_error = 'drop', timestamp_unit = 's'";
    instance.run(&source(kafka, "s", columns, "paths", include)).await;
    instance.run("CREATE MATERIALIZED VIEW v AS SELECT * FROM s").await;
    let rows = [
        "1 a \"b\" 2024-01-01 10:00:00 x {x,y} 6ccd780c-baba-1026-9564-5b8c656024db",
        "2 NULL 1970-01-01 00:00:05 NULL {} NULL",
    ];
    for relation in ["v", "s"] {
        let select = format!("SELECT id, name, at, first, tags, u FROM {relation} ORDER BY id");
        instance.wait_for(&select, &rows).await;
    }
    assert_eq!(
        instance.lines("SELECT doc, payload -> 'rest' FROM v WHERE id = 2").await,
        [r#"{"at": 5, "tags": []} [1, 2]"#]
    );
    assert_eq!(instance.value("SELECT bad_rows FROM tidemark.sources").await, "2");
    instance.server.kill_and_restart().await.unwrap();
    assert_eq!(instance.value("SELECT max(name) FROM s").await, "a \"b\"");
    let made = instance.value("SELECT definition FROM tidemark.objects WHERE name = 's'").await;
    assert!(made.contains("first text FROM '$.user.tags[0]'"), "{made}");
    let (code, said) = instance.error(&source(kafka, "t", "(a INT FROM 'x')", "paths", "")).await;
    assert!(code == "22023" && said.contains("column \"a\""), "{code} {said}");
    let (code, said) = instance
        .error("CREATE SOURCE f (a INT FROM '$.x') WITH (connector = 'file', path = '.') FORMAT PLAIN ENCODE CSV")
        .await;
    assert!(code == "0A000" && said.contains("FROM a path"), "{code} {said}");
}

#[tokio::test]
async fn what_was_not_committed_is_not_read() {
    let kafka = Kafka::shared();
    kafka.topic("transactions", 1).await;
    let producer: BaseProducer = kafka.config().set("transactional.id", "of_the_test").create().unwrap();
    let instance = start().await;
    instance.run(&source(kafka, "s", "(id BIGINT)", "transactions", "")).await;
    instance
        .run(&source(
            kafka,
            "dirty",
            "(id BIGINT)",
            "transactions",
            ", properties.isolation.level = 'read_uncommitted'",
        ))
        .await;
    instance.run("CREATE MATERIALIZED VIEW m AS SELECT count(*) AS n, min(id) AS a, max(id) AS b FROM s").await;
    instance.run("CREATE MATERIALIZED VIEW d AS SELECT count(*) AS n FROM dirty").await;
    let topic = "transactions".to_string();
    tokio::task::spawn_blocking(move || {
        let wait = Duration::from_secs(30);
        producer.init_transactions(wait).unwrap();
        for (from, commits) in [(0, true), (100, false), (200, true)] {
            producer.begin_transaction().unwrap();
            send(&producer, &topic, &numbered(from, 10, 1));
            producer.flush(wait).unwrap();
            if commits { producer.commit_transaction(wait).unwrap() } else { producer.abort_transaction(wait).unwrap() }
        }
    })
    .await
    .unwrap();
    instance.wait_for("SELECT * FROM m", &["20 0 209"]).await;
    instance.wait_for("SELECT * FROM d", &["30"]).await;
    assert_eq!(instance.value("SELECT count(*) FROM s").await, "20");
}

/// The watermark waits for the partition that is behind, though it is read last.
#[tokio::test]
async fn each_partition_is_a_lane() {
    let kafka = Kafka::shared();
    kafka.topic("lanes", 2).await;
    let at =
        |partition: i32, minute: i64| Record::new(partition, format!("{{\"ts\": \"2024-01-01 10:{minute:02}:00\"}}"));
    kafka.send("lanes", (0..50).map(|minute| at(0, minute)).collect()).await;
    let instance = start().await;
    instance.run(&source(kafka, "s", "(ts TIMESTAMP, WATERMARK FOR ts AS ts)", "lanes", "")).await;
    instance
        .run("CREATE MATERIALIZED VIEW m AS SELECT window_start, count(*) AS n FROM TUMBLE(s, ts, INTERVAL '10 minutes') GROUP BY window_start EMIT ON WINDOW CLOSE")
        .await;
    instance.wait_for("SELECT rows FROM tidemark.sources", &["50"]).await;
    kafka.send("lanes", (0..30).map(|minute| at(1, minute)).collect()).await;
    instance.wait_for("SELECT sum(n), count(*) FROM m", &["40 2"]).await;
    assert_eq!(instance.value("SELECT rows, late_rows FROM tidemark.sources").await, "80 0");
    assert_eq!(instance.value("SELECT count(*) FROM s").await, "80");
}

#[tokio::test]
async fn nothing_is_lost_or_doubled_when_server_and_broker_are_killed() {
    let mut kafka = Kafka::start();
    kafka.topic("killed", 3).await;
    let mut instance = start().await;
    instance.run(&source(&kafka, "s", "(id BIGINT, v INT)", "killed", "")).await;
    instance
        .run(
            "CREATE MATERIALIZED VIEW sums AS SELECT v % 10 AS k, count(*) AS n, sum(id) AS ids FROM s GROUP BY v % 10",
        )
        .await;
    instance.run("CREATE MATERIALIZED VIEW ids AS SELECT id FROM s").await;
    let mut random = Random::new(11);
    let mut sent = 0;
    for round in 0..6 {
        let more = 500 + random.below(3000) as i64;
        kafka.send("killed", numbered(sent, more, 3)).await;
        sent += more;
        tokio::time::sleep(Duration::from_millis(random.below(200))).await;
        if round % 3 == 2 {
            kafka.kill();
            kafka.restart();
        } else {
            instance.server.kill_and_restart().await.unwrap();
        }
    }
    let expected = format!("{sent} {}", sent * (sent - 1) / 2);
    instance.wait_for("SELECT sum(n), sum(ids) FROM sums", &[&expected]).await;
    let all = format!("{sent} {sent}");
    assert_eq!(instance.value("SELECT count(*), count(DISTINCT id) FROM ids").await, all);
    assert_eq!(instance.value("SELECT count(*), count(DISTINCT id) FROM s").await, all);
}

/// What sources share stands in a connection; what it says anew, they read by from then on.
#[tokio::test]
async fn sources_share_a_connection() {
    let kafka = Kafka::shared();
    kafka.topic("shared", 1).await;
    kafka.send("shared", numbered(0, 10, 1)).await;
    let mut instance = start().await;
    let servers = kafka.servers();
    instance
        .run(&format!("CREATE CONNECTION k WITH (type = 'kafka', properties.bootstrap.servers = '{servers}')"))
        .await;
    let checked = instance.lines("CHECK CONNECTION k").await;
    assert!(checked.len() == 2 && checked[1].starts_with("connect t 1 brokers"), "{checked:?}");
    let with = "WITH (connector = 'kafka', connection = k, topic = 'shared') FORMAT PLAIN ENCODE JSON";
    instance.run(&format!("CREATE SOURCE s (id BIGINT) {with}")).await;
    instance.run("CREATE MATERIALIZED VIEW m AS SELECT count(*) AS n FROM s").await;
    instance.wait_for("SELECT n FROM m", &["10"]).await;
    let made = instance.value("SELECT definition FROM tidemark.objects WHERE name = 's'").await;
    assert!(made.contains("connection = 'k'") && !made.contains("bootstrap"), "{made}");
    let (code, _) = instance.error("DROP CONNECTION k").await;
    assert_eq!(code, "2BP01");
    instance.run("ALTER CONNECTION k SET (properties.client.id = 'another')").await;
    kafka.send("shared", numbered(10, 10, 1)).await;
    instance.wait_for("SELECT n FROM m", &["20"]).await;
    let (code, said) = instance.error("ALTER CONNECTION k SET (properties.no.such = '1')").await;
    assert!(code == "22023" && said.contains("no.such"), "{code} {said}");
    instance.server.kill_and_restart().await.unwrap();
    kafka.send("shared", numbered(20, 10, 1)).await;
    instance.wait_for("SELECT n FROM m", &["30"]).await;
    for (statement, message) in [
        ("CREATE CONNECTION bad WITH (type = 'kafka')", "bootstrap.servers"),
        ("CREATE CONNECTION bad WITH (type = 'kafka', properties.bootstrap.servers = 'h:1', topic = 't')", "topic"),
        (
            "CREATE CONNECTION bad WITH (type = 'kafka', properties.bootstrap.servers = 'h:1', properties.sasl.password = 'x')",
            "must be a secret",
        ),
        ("CREATE SOURCE bad (id INT) WITH (connector = 'datagen', connection = k)", "connector = 'kafka'"),
        ("CREATE TABLE bad (id INT) WITH (connection = k, table = 't', strategy = 'append')", "type kafka"),
    ] {
        let (code, said) = instance.error(statement).await;
        assert!(code == "22023" && said.contains(message), "{statement}: {code} {said}");
    }
}

#[tokio::test]
async fn what_makes_no_sense_is_refused() {
    let kafka = Kafka::shared();
    kafka.topic("refused", 1).await;
    let instance = start().await;
    let refused = async |instance: &Instance, columns: &str, topic: &str, more: &str, code: &str, message: &str| {
        let (found, said) = instance.error(&source(kafka, "s", columns, topic, more)).await;
        assert!(found == code && said.contains(message), "{more}: {found} {said}");
    };
    refused(&instance, "(id INT)", "nowhere", "", "42704", "topic \"nowhere\"").await;
    refused(&instance, "(id INT)", "refused", ", properties.no.such = '1'", "22023", "properties.no.such").await;
    refused(
        &instance,
        "(id INT)",
        "refused",
        ", properties.fetch.min.bytes = 'x'",
        "22023",
        "properties.fetch.min.bytes",
    )
    .await;
    refused(&instance, "(id INT)", "refused", ", properties.sasl.username = 'u'", "22023", "security.protocol").await;
    refused(&instance, "(id INT)", "refused", ", topics = 'x'", "22023", "unrecognized option \"topics\"").await;
    refused(&instance, "(id INT)", "refused", "INCLUDE colour WITH", "42601", "INCLUDE colour").await;
    refused(&instance, "(*)", "refused", "", "42P18", "no record").await;
    let (code, said) = instance
        .error("CREATE SOURCE s (id INT) WITH (connector = 'kafka', properties.bootstrap.servers = '127.0.0.1:1', topic = 't') FORMAT PLAIN ENCODE JSON")
        .await;
    assert_eq!(code, "08000", "{said}");
    let (code, said) = instance
        .error("CREATE SOURCE s (id INT) WITH (connector = 'kafka', topic = 't') FORMAT PLAIN ENCODE JSON")
        .await;
    assert!(code == "22023" && said.contains("bootstrap.servers"), "{said}");
}
