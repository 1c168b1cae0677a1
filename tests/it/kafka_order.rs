//! Changes in a topic that come in another order than they were made in, and transactions that are to stay whole.

use std::time::Duration;

use rdkafka::producer::{BaseProducer, Producer};

use crate::harness::{Random, start};
use crate::kafka_broker::{Kafka, Record, send};
use crate::kafka_changes::source;
use crate::kafka_sink::sink;
use crate::registry::Registry;

const ID: &str = "(id INT PRIMARY KEY, v INT)";

/// Records as they were made; sent in any order, some of them twice, to sources that are killed in between.
#[tokio::test]
async fn an_older_change_does_not_undo_a_later_one() {
    let kafka = Kafka::shared();
    let mut instance = start().await;
    let formats = [
        ("order_d", "DEBEZIUM ENCODE JSON (order_by = 'source')"),
        ("order_m", "MAXWELL ENCODE JSON (order_by = 'source')"),
        ("order_c", "CUSTOM ENCODE JSON (op = '$.op', after = '$.row', key = '$.id', order_by = '$.ts, $.seq')"),
    ];
    let mut random = Random::new(9);
    let mut made = vec![Vec::new(); 3];
    let mut rows = std::collections::BTreeMap::new();
    for n in 0..200 {
        let (id, v) = (random.below(15), random.below(1000));
        let at = format!("\"lsn\": {}", 90 + n);
        match random.below(3) {
            0 => {
                rows.remove(&id);
                made[0].push(format!(r#"{{"op": "d", "before": {{"id": {id}}}, "source": {{{at}}}}}"#));
                made[1].push(format!(r#"{{"type": "delete", "ts": {n}, "xid": 1, "data": {{"id": {id}}}}}"#));
                made[2].push(format!(r#"{{"op": "d", "id": {id}, "ts": {}, "seq": {}}}"#, n / 7, n % 7));
            }
            _ => {
                rows.insert(id, v);
                let row = format!(r#"{{"id": {id}, "v": {v}}}"#);
                made[0].push(format!(r#"{{"op": "u", "after": {row}, "source": {{{at}}}}}"#));
                made[1].push(format!(r#"{{"type": "update", "ts": {n}, "xid": 1, "data": {row}, "old": {{}}}}"#));
                made[2].push(format!(r#"{{"op": "u", "row": {row}, "ts": {}, "seq": {}}}"#, n / 7, n % 7));
            }
        }
    }
    for ((topic, format), made) in formats.iter().zip(&made) {
        kafka.topic(topic, 1).await;
        instance.run(&source(kafka, topic, ID, topic, "", format)).await;
        instance
            .run(&format!("CREATE MATERIALIZED VIEW of_{topic} AS SELECT count(*) AS n, sum(v) AS v FROM {topic}"))
            .await;
        let mut sent: Vec<&str> = made.iter().chain(made.iter().take(30)).map(String::as_str).collect();
        for at in (1..sent.len()).rev() {
            sent.swap(at, random.below(at as u64 + 1) as usize);
        }
        for (part, records) in sent.chunks(80).enumerate() {
            kafka.send_texts(topic, records).await;
            let read = (part * 80 + records.len()).to_string();
            instance.wait_for(&format!("SELECT rows FROM tidemark.sources WHERE name = '{topic}'"), &[&read]).await;
            if part == 1 {
                instance.server.kill_and_restart().await.unwrap();
            }
        }
        let expected: Vec<String> = rows.iter().map(|(id, v)| format!("{id} {v}")).collect();
        assert_eq!(instance.lines(&format!("SELECT * FROM {topic} ORDER BY id")).await, expected, "{topic}");
        assert_eq!(instance.lines(&format!("VALIDATE MATERIALIZED VIEW of_{topic}")).await, Vec::<String>::new());
        let stale = instance.value(&format!("SELECT stale_rows FROM tidemark.sources WHERE name = '{topic}'")).await;
        assert!(stale.parse::<u64>().unwrap() > 50, "{stale}");
    }
    kafka.send_texts("order_d", &[r#"{"op": "c", "after": {"id": 1}}"#]).await;
    instance.wait_for("SELECT state FROM tidemark.sources WHERE name = 'order_d'", &["failed"]).await;
    let error = instance.value("SELECT error FROM tidemark.sources WHERE name = 'order_d'").await;
    assert!(error.contains("no \"source\", by which it is ordered"), "{error}");
}

#[tokio::test]
async fn what_cannot_be_ordered_is_refused() {
    let kafka = Kafka::shared();
    kafka.topic("order_refused", 1).await;
    let instance = start().await;
    for (format, code, words) in [
        ("UPSERT ENCODE JSON (order_by = '$.ts')", "0A000", "order_by is not supported for FORMAT UPSERT"),
        ("CUSTOM ENCODE JSON (op = '$.op', order_by = 'source')", "0A000", "FORMAT CUSTOM"),
        ("DEBEZIUM ENCODE JSON (order_by = 'lsn')", "22023", "\"lsn\" is no path"),
        ("DEBEZIUM ENCODE AVRO (schema.registry = 'http://127.0.0.1:1', order_by = '$.ts')", "0A000", "ENCODE JSON"),
    ] {
        let (found, said) = instance.error(&source(kafka, "s", ID, "order_refused", "", format)).await;
        assert!(found == code && said.contains(words), "{format}: {found} {said}");
    }
}

/// The same by a schema, in which `source` and `transaction` are records.
#[tokio::test]
async fn order_and_transactions_with_a_schema() {
    let (kafka, registry) = (Kafka::shared(), Registry::start().await);
    let instance = start().await;
    for encode in ["avro", "protobuf"] {
        let topic = format!("order_{encode}");
        kafka.topic(&topic, 1).await;
        let message = if encode == "protobuf" { ", message = 'shop.Row'" } else { "" };
        let with = format!("ENCODE {encode} (schema.registry = '{}'{message})", registry.url());
        instance.run(&format!("CREATE TABLE said_{encode} (n INT, op TEXT, id INT, v INT, lsn BIGINT, tx TEXT)")).await;
        let envelope = format!(
            "AS SELECT op, CASE WHEN op = 'd' THEN named_struct('id', id, 'v', v) END AS before, \
             CASE WHEN op <> 'd' THEN named_struct('id', id, 'v', v) END AS after, \
             named_struct('lsn', lsn, 'ts_ms', 5::bigint) AS source, named_struct('id', tx, 'total_order', n) AS transaction FROM said_{encode}"
        );
        let force = with.replace(')', ", force_append_only = true)");
        instance.run(&sink(kafka, &format!("to_{topic}"), &envelope, &topic, "", &format!("PLAIN {force}"))).await;
        for values in [
            "(1, 'c', 1, 10, 100, 'a')",
            "(2, 'u', 1, 30, 300, 'b')",
            "(3, 'u', 1, 20, 200, 'c')",
            "(4, 'c', 2, 7, 150, 'd')",
            "(5, 'd', 2, 7, 400, NULL)",
            "(6, 'u', 2, 8, 350, 'e')",
        ] {
            instance.run(&format!("INSERT INTO said_{encode} VALUES {values}")).await;
        }
        let ordered = with.replace(')', ", order_by = 'source')");
        instance.run(&source(kafka, &topic, ID, &topic, "", &format!("DEBEZIUM {ordered}"))).await;
        let sources = format!("SELECT rows, stale_rows FROM tidemark.sources WHERE name = '{topic}'");
        instance.wait_for(&sources, &["6 2"]).await;
        assert_eq!(instance.lines(&format!("SELECT * FROM {topic}")).await, ["1 30"]);
    }
}

/// Money moves between accounts in transactions, large ones among them: no sum is ever another.
#[tokio::test]
async fn transactions_come_whole() {
    let kafka = Kafka::shared();
    let mut instance = start().await;
    let sums = |name: &str| format!("SELECT sum(v), (SELECT v FROM of_{name}) FROM {name}");
    for (name, format) in [("whole_d", "DEBEZIUM ENCODE JSON"), ("whole_m", "MAXWELL ENCODE JSON")] {
        kafka.topic(name, 1).await;
        instance.run(&source(kafka, name, ID, name, "", format)).await;
        instance.run(&format!("CREATE MATERIALIZED VIEW of_{name} AS SELECT sum(v) AS v FROM {name}")).await;
        let is_debezium = name == "whole_d";
        let record = |id: u64, v: i64, transaction: u64, n: usize, is_last: bool| {
            let row = format!(r#"{{"id": {id}, "v": {v}}}"#);
            let mark = if is_last { "\"commit\": true".to_string() } else { format!("\"xoffset\": {n}") };
            match is_debezium {
                true => format!(
                    r#"{{"op": "u", "after": {row}, "transaction": {{"id": "{transaction}", "total_order": {n}}}}}"#
                ),
                false => format!(r#"{{"type": "update", "data": {row}, "old": {{}}, "xid": {transaction}, {mark}}}"#),
            }
        };
        let mut balances = vec![100i64; 100];
        let first: Vec<String> = (0..100).map(|id| record(id, 100, 1, id as usize, id == 99)).collect();
        kafka.send_texts(name, &first.iter().map(String::as_str).collect::<Vec<_>>()).await;
        instance.wait_for(&sums(name), &["10000 10000"]).await;
        let mut random = Random::new(11);
        for transaction in 2..30 {
            // Some are larger than what is decoded together.
            let moves = if transaction % 7 == 0 { 6000 } else { random.below(30) + 1 };
            let mut records = Vec::new();
            for n in 0..moves {
                let (from, to, much) = (random.below(100), random.below(100), random.below(50) as i64);
                balances[from as usize] -= much;
                records.push((from, balances[from as usize]));
                balances[to as usize] += much;
                records.push((to, balances[to as usize]));
                assert!(n < moves);
            }
            let last = records.len() - 1;
            let texts: Vec<String> =
                records.iter().enumerate().map(|(n, (id, v))| record(*id, *v, transaction, n, n == last)).collect();
            let sending = async {
                kafka.send_texts(name, &texts.iter().map(String::as_str).collect::<Vec<_>>()).await;
            };
            let looking = async {
                for _ in 0..3 {
                    assert_eq!(instance.value(&sums(name)).await, "10000 10000");
                }
            };
            tokio::join!(sending, looking);
            if transaction % 10 == 0 {
                instance.server.kill_and_restart().await.unwrap();
            }
        }
        // One that comes record by record is not seen before its end.
        let producer: BaseProducer = kafka.config().create().unwrap();
        let mut last = tokio::time::Instant::now();
        let mut steps_in_time = 0;
        for (n, balance) in balances.iter_mut().take(20).enumerate() {
            *balance -= 7;
            send(&producer, name, &[Record::new(0, record(n as u64, *balance, 100, n, false))]);
            tokio::time::sleep(Duration::from_millis(50)).await;
            let seen = instance.value(&sums(name)).await;
            // On a machine that stands still it may be taken for ended.
            if last.elapsed() > Duration::from_millis(400) && n > 0 {
                break;
            }
            assert_eq!(seen, "10000 10000", "after {n}");
            (last, steps_in_time) = (tokio::time::Instant::now(), n);
        }
        eprintln!("{name}: {steps_in_time} steps in time");
        producer.flush(Duration::from_secs(30)).unwrap();
        balances[50] += 10000 - balances.iter().sum::<i64>();
        kafka.send_texts(name, &[&record(50, balances[50], 100, 20, true)]).await;
        let expected: Vec<String> = balances.iter().enumerate().map(|(id, v)| format!("{id} {v}")).collect();
        let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
        instance.wait_for(&format!("SELECT * FROM {name} ORDER BY id"), &expected).await;
        assert_eq!(instance.value(&sums(name)).await, "10000 10000");
    }
}
