//! Avro and Protobuf out of a real broker beside a schema registry: columns, evolution, bad records, and a registry that goes away.

use serde_json::{Value, json};

use crate::harness::{Instance, start};
use crate::kafka_broker::{Kafka, Record};
use crate::kafka_sink::sink;
use crate::registry::Registry;

/// `CREATE SOURCE name columns` over a topic; `format` stands after FORMAT PLAIN ENCODE.
fn source(name: &str, columns: &str, topic: &str, with: &str, format: &str) -> String {
    format!(
        "CREATE SOURCE {name} {columns} WITH (connector = 'kafka', properties.bootstrap.servers = '{}', topic = '{topic}'{with}) \
         FORMAT PLAIN ENCODE {format}",
        Kafka::shared().servers()
    )
}

pub fn avro(registry: &Registry) -> String {
    format!("AVRO (schema.registry = '{}')", registry.url())
}

/// A record in the registry's framing.
pub fn framed(id: u32, body: &[&[u8]]) -> Vec<u8> {
    [&[0], id.to_be_bytes().as_slice(), &body.concat()].concat()
}

/// A number as Avro writes it.
pub fn long(value: i64) -> Vec<u8> {
    varint(((value << 1) ^ (value >> 63)) as u64)
}

fn varint(mut rest: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
    out
}

pub fn text(value: &str) -> Vec<u8> {
    [long(value.len() as i64), value.as_bytes().to_vec()].concat()
}

pub fn record(name: &str, fields: Value) -> Value {
    json!({ "type": "record", "name": name, "fields": fields })
}

pub fn field(name: &str, of: Value) -> Value {
    json!({ "name": name, "type": of })
}

async fn send(topic: &str, values: Vec<Vec<u8>>) {
    Kafka::shared().send(topic, values.into_iter().map(|value| Record::new(0, value)).collect()).await;
}

pub async fn refused(instance: &Instance, statement: &str, code: &str, part: &str) {
    let (found, said) = instance.error(statement).await;
    assert!(found == code && said.contains(part), "{statement}: {found} {said}");
}

/// {"id", "note"}
fn simple() -> Value {
    record("R", json!([field("id", json!("int")), field("note", json!("string"))]))
}

#[tokio::test]
async fn avro_names_the_columns() {
    Kafka::shared().topic("avro_all", 1).await;
    let registry = Registry::start().await;
    let address = record("Address", json!([field("street", json!("string")), field("no", json!("int"))]));
    let schema = record(
        "Order",
        json!([
            field("id", json!("long")),
            field("price", json!({ "type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2 })),
            field("at", json!({ "type": "long", "logicalType": "timestamp-millis" })),
            field("kind", json!({ "type": "enum", "name": "Kind", "symbols": ["NEW", "OLD"] })),
            field("note", json!(["null", "string"])),
            field("tags", json!({ "type": "array", "items": "string" })),
            field("bill", address),
            field("ship", json!("Address")),
            field("what", json!(["null", "int", "string"])),
        ]),
    );
    let id = registry.avro("avro_all-value", &schema);
    let one = |number: i64, note: Option<&str>| {
        let note = note.map_or(long(0), |note| [long(1), text(note)].concat());
        let bill = [text("Elm"), long(5)].concat();
        let ship = [text("Oak"), long(6)].concat();
        let tags = [long(2), text("a"), text("b"), long(0)].concat();
        let price = [long(2), vec![0xff, 0x85]].concat();
        framed(id, &[&long(number), &price, &long(1_700_000_000_123), &long(1), &note, &tags, &bill, &ship, &long(0)])
    };
    send("avro_all", vec![one(1, None), one(2, Some("n"))]).await;
    let instance = start().await;
    instance.run(&source("s", "(*)", "avro_all", "", &avro(&registry))).await;
    let columns = "SELECT string_agg(column_name || ' ' || data_type, ', ' ORDER BY ordinal_position) \
                   FROM information_schema.columns WHERE table_name = 's'";
    let columns = instance.value(columns).await;
    assert!(
        columns.starts_with("id bigint, price numeric, at timestamp with time zone, kind text, note text, tags ARRAY"),
        "{columns}"
    );
    assert!(!columns.contains("what"), "{columns}");
    instance.run("CREATE MATERIALIZED VIEW m AS SELECT id, price, at, kind, note, tags FROM s").await;
    let expected =
        ["1 -1.23 2023-11-14 22:13:20.123+00 OLD NULL {a,b}", "2 -1.23 2023-11-14 22:13:20.123+00 OLD n {a,b}"];
    instance.wait_for("SELECT * FROM m ORDER BY id", &expected).await;
    assert_eq!(instance.value("SELECT (ship).street, (ship).no FROM s WHERE id = 1").await, "Oak 6");
    // Only what is declared, in its own types.
    instance.run(&source("part", "(KIND VARCHAR(3), id INT)", "avro_all", "", &avro(&registry))).await;
    instance.run("CREATE MATERIALIZED VIEW of_part AS SELECT id, kind FROM part").await;
    instance.wait_for("SELECT * FROM of_part ORDER BY id", &["1 OLD", "2 OLD"]).await;
    let known = registry.asked();
    assert_eq!(instance.value("SELECT count(*) FROM part").await, "2");
    assert!(registry.asked() <= known + 2, "a schema that is known is not asked for again");
    for (columns, format, code, part) in [
        ("(idd BIGINT)", avro(&registry), "42703", "column \"idd\""),
        ("(id TEXT)", avro(&registry), "42804", "column \"id\": it is of type text but the schema has long"),
        ("(what INT)", avro(&registry), "0A000", "column \"what\""),
        ("(id BIGINT)", "AVRO".to_string(), "22023", "schema.registry"),
        ("(id BIGINT)", "AVRO (schema.registry = 'http://127.0.0.1:1')".to_string(), "08000", "127.0.0.1:1"),
        ("(id BIGINT)", format!("AVRO (schema.registry = '{}', colour = 'red')", registry.url()), "22023", "colour"),
        (
            "(id BIGINT)",
            format!("PROTOBUF (message = 'Order', schema.registry = '{}')", registry.url()),
            "42804",
            "AVRO, not PROTOBUF",
        ),
    ] {
        refused(&instance, &source("bad", columns, "avro_all", "", &format), code, part).await;
    }
    Kafka::shared().topic("avro_nothing", 1).await;
    let statement = source("bad", "(id BIGINT)", "avro_nothing", "", &avro(&registry));
    refused(&instance, &statement, "42704", "subject \"avro_nothing-value\"").await;
}

#[tokio::test]
async fn schemas_evolve_while_the_source_runs() {
    Kafka::shared().topic("avro_evolves", 1).await;
    let registry = Registry::start().await;
    let first = registry.avro("avro_evolves-value", &simple());
    send("avro_evolves", vec![framed(first, &[&long(1), &text("one")])]).await;
    let mut instance = start().await;
    let format = format!("AVRO (schema.registry = 'http://127.0.0.1:1,{}')", registry.url());
    instance.run(&source("s", "(id BIGINT, note TEXT)", "avro_evolves", "", &format)).await;
    instance.run("CREATE MATERIALIZED VIEW m AS SELECT id, note FROM s").await;
    instance.wait_for("SELECT * FROM m", &["1 one"]).await;
    // The order, a wider type and a new field; then one that goes away.
    let second = record(
        "R",
        json!([{ "name": "more", "type": "string", "default": "-" }, field("note", json!("string")), field("id", json!("long"))]),
    );
    let second = registry.avro("avro_evolves-value", &second);
    send("avro_evolves", vec![framed(second, &[&text("m"), &text("two"), &long(1 << 40)])]).await;
    let third = registry.avro("avro_evolves-value", &record("R", json!([field("id", json!("long"))])));
    send("avro_evolves", vec![framed(third, &[&long(3)]), framed(first, &[&long(4), &text("four")])]).await;
    let all = ["1 one", "3 NULL", "4 four", "1099511627776 two"];
    instance.wait_for("SELECT * FROM m ORDER BY id", &all).await;
    instance.server.kill_and_restart().await.unwrap();
    send("avro_evolves", vec![framed(second, &[&text("m"), &text("five"), &long(5)])]).await;
    instance.wait_for("SELECT count(*) FROM m", &["5"]).await;
    assert_eq!(instance.lines("VALIDATE MATERIALIZED VIEW m").await, Vec::<String>::new());
}

#[tokio::test]
async fn a_registry_that_is_away_is_waited_for() {
    Kafka::shared().topic("avro_away", 1).await;
    let mut registry = Registry::start().await;
    let id = registry.avro("avro_away-value", &simple());
    send("avro_away", vec![framed(id, &[&long(1), &text("a")])]).await;
    let mut instance = start().await;
    instance.run(&source("s", "(id INT, note TEXT)", "avro_away", "", &avro(&registry))).await;
    instance.run("CREATE MATERIALIZED VIEW m AS SELECT count(*) AS n, sum(id) AS ids FROM s").await;
    instance.wait_for("SELECT * FROM m", &["1 1"]).await;
    registry.go_away().await;
    instance.server.kill9().unwrap();
    send("avro_away", vec![framed(id, &[&long(2), &text("b")])]).await;
    instance.server.kill_and_restart().await.unwrap();
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    assert_eq!(instance.value("SELECT * FROM m").await, "1 1");
    assert_eq!(instance.value("SELECT state <> 'failed' FROM tidemark.sources").await, "t");
    registry.come_back().await;
    instance.wait_for("SELECT * FROM m", &["2 3"]).await;
}

#[tokio::test]
async fn who_signs_in() {
    Kafka::shared().topic("avro_secret", 1).await;
    // tide:pass
    let registry = Registry::with(Some("dGlkZTpwYXNz")).await;
    let id = registry.avro("avro_secret-value", &simple());
    send("avro_secret", vec![framed(id, &[&long(1), &text("a")])]).await;
    let instance = start().await;
    let with = |password: &str| {
        let with = format!(", schema.registry.username = 'tide', schema.registry.password = {password}");
        source("s", "(id INT)", "avro_secret", &with, &avro(&registry))
    };
    refused(&instance, &source("s", "(id INT)", "avro_secret", "", &avro(&registry)), "28000", &registry.url()).await;
    let (_, said) = instance.error(&with("'wrongpass'")).await;
    assert!(!said.contains("wrongpass"), "{said}");
    let half = source("s", "(id INT)", "avro_secret", ", schema.registry.username = 'tide'", &avro(&registry));
    refused(&instance, &half, "22023", "schema.registry.password").await;
    let file = instance.dir.path().join("password");
    std::fs::write(&file, "pass").unwrap();
    instance.run(&format!("CREATE SECRET reg FROM FILE '{}'", file.display())).await;
    instance.run(&with("SECRET reg")).await;
    instance.run("CREATE MATERIALIZED VIEW m AS SELECT id FROM s").await;
    instance.wait_for("SELECT id FROM m", &["1"]).await;
    assert!(!instance.value("SELECT definition FROM tidemark.objects WHERE name = 's'").await.contains("pass'"));
}

#[tokio::test]
async fn bad_records_stop_the_source_or_are_left_out() {
    Kafka::shared().topic("avro_bad", 1).await;
    let registry = Registry::start().await;
    let id = registry.avro("avro_bad-value", &simple());
    let good = |number: i64| framed(id, &[&long(number), &text("n")]);
    let mut cut_off = good(9);
    cut_off.pop();
    let bad = vec![b"{\"id\": 1}".to_vec(), framed(77, &[&long(1)]), cut_off, [good(9), vec![1]].concat(), Vec::new()];
    send("avro_bad", [vec![good(1)], bad, vec![good(2)]].concat()).await;
    Kafka::shared().send("avro_bad", vec![Record::default()]).await;
    let instance = start().await;
    instance.run(&source("dropping", "(id INT, note TEXT)", "avro_bad", ", on_error = 'drop'", &avro(&registry))).await;
    instance.run("CREATE MATERIALIZED VIEW d AS SELECT count(*) AS n, sum(id) AS ids FROM dropping").await;
    instance.wait_for("SELECT * FROM d", &["2 3"]).await;
    instance.wait_for("SELECT bad_rows FROM tidemark.sources", &["6"]).await;
    instance.run(&source("failing", "(id INT)", "avro_bad", "", &avro(&registry))).await;
    instance.run("CREATE MATERIALIZED VIEW f AS SELECT sum(id) AS n FROM failing").await;
    instance.wait_for("SELECT state FROM tidemark.sources WHERE name = 'failing'", &["failed"]).await;
    let error = instance.value("SELECT error FROM tidemark.sources WHERE name = 'failing'").await;
    assert!(error.contains("offset 1") && error.contains("names no schema"), "{error}");
}

const PROTO: &str = "syntax = \"proto3\"; package shop; import \"common/money.proto\"; import \"google/protobuf/timestamp.proto\"; \
    message Ignored { int32 x = 1; } \
    message Order { enum Kind { NEW = 0; OLD = 1; } int64 id = 1; string note = 2; Money price = 3; Kind kind = 4; \
    google.protobuf.Timestamp at = 5; repeated string tags = 6; map<string, int32> counts = 7; optional int32 maybe = 8; }";

/// id, and the rest as it is.
fn order(id: u64, rest: &[u8]) -> Vec<u8> {
    [&[0x08], varint(id).as_slice(), rest].concat()
}

#[tokio::test]
async fn protobuf_names_the_columns() {
    Kafka::shared().topic("proto_all", 1).await;
    let registry = Registry::start().await;
    let money = "syntax = \"proto3\"; package shop; message Money { int64 cents = 1; string currency = 2; }";
    registry.protobuf("money", money, &[]);
    let id = registry.protobuf("proto_all-value", PROTO, &[("common/money.proto", "money")]);
    // The second message of the file: one place, 1.
    let place = [2, 2];
    let full = [
        0x12, 1, b'n', 0x1a, 6, 0x08, 99, 0x12, 2, b'E', b'U', 0x20, 1, 0x2a, 2, 0x08, 60, 0x32, 1, b'a', 0x32, 1,
        b'b', 0x3a, 5, 0x0a, 1, b'k', 0x10, 7, 0x40, 3,
    ];
    let good = vec![framed(id, &[&place, &order(1, &full)]), framed(id, &[&place, &order(2, &[])])];
    let bad = vec![framed(id, &[&[0], &[0x08, 1]]), framed(id, &[&place, &[0x08]]), b"{}".to_vec()];
    send("proto_all", [good, bad].concat()).await;
    let instance = start().await;
    let format = format!("PROTOBUF (message = 'shop.Order', schema.registry = '{}')", registry.url());
    instance.run(&source("s", "(*)", "proto_all", ", on_error = 'drop'", &format)).await;
    instance.run("CREATE MATERIALIZED VIEW m AS SELECT id, note, kind, at, tags, maybe FROM s").await;
    let expected = ["1 n OLD 1970-01-01 00:01:00+00 {a,b} 3", "2 (empty) NEW NULL {} NULL"];
    instance.wait_for("SELECT * FROM m ORDER BY id", &expected).await;
    assert_eq!(instance.value("SELECT (price).cents, (price).currency FROM s WHERE id = 1").await, "99 EU");
    instance.wait_for("SELECT bad_rows FROM tidemark.sources", &["3"]).await;
    // A later schema: another name, another number of the enum, a field that is not wanted.
    let later = PROTO.replace("string note = 2", "string remark = 2").replace("OLD = 1", "OLD = 1; ODD = 2");
    let later = registry.protobuf("proto_all-value", &later, &[("common/money.proto", "money")]);
    send("proto_all", vec![framed(later, &[&place, &order(3, &[0x12, 1, b'r', 0x20, 2, 0x4a, 1, b'?'])])]).await;
    instance.wait_for("SELECT * FROM m WHERE id = 3", &["3 r ODD NULL {} NULL"]).await;
    for (columns, message, code, part) in [
        ("(idd BIGINT)", "shop.Order", "42703", "column \"idd\""),
        ("(id TEXT)", "shop.Order", "42804", "column \"id\""),
        ("(id BIGINT)", "shop.Ordre", "42704", "message \"shop.Ordre\""),
    ] {
        let format = format!("PROTOBUF (message = '{message}', schema.registry = '{}')", registry.url());
        refused(&instance, &source("bad", columns, "proto_all", "", &format), code, part).await;
    }
    let format = format!("PROTOBUF (schema.registry = '{}')", registry.url());
    refused(&instance, &source("bad", "(id BIGINT)", "proto_all", "", &format), "22023", "option \"message\"").await;
}

/// Records that nothing stands before, of one schema.
#[tokio::test]
async fn schemas_from_files() {
    for topic in ["avro_raw", "proto_raw"] {
        Kafka::shared().topic(topic, 1).await;
    }
    let instance = start().await;
    let (avsc, proto) = (instance.dir.path().join("r.avsc"), instance.dir.path().join("m.proto"));
    std::fs::write(&avsc, simple().to_string()).unwrap();
    std::fs::write(&proto, "syntax = \"proto3\"; message M { int64 id = 1; string note = 2; }").unwrap();
    send("avro_raw", vec![[long(1), text("a")].concat()]).await;
    send("proto_raw", vec![order(2, &[0x12, 1, b'b'])]).await;
    let (avsc, proto) = (avsc.display(), proto.display());
    instance.run(&source("a", "(*)", "avro_raw", "", &format!("AVRO (schema.location = 'file://{avsc}')"))).await;
    let format = format!("PROTOBUF (schema.location = 'file://{proto}', message = 'M')");
    instance.run(&source("p", "(*)", "proto_raw", "", &format)).await;
    for (name, expected) in [("a", "1 a"), ("p", "2 b")] {
        instance.run(&format!("CREATE MATERIALIZED VIEW of_{name} AS SELECT id, note FROM {name}")).await;
        instance.wait_for(&format!("SELECT * FROM of_{name}"), &[expected]).await;
    }
    let missing = source("bad", "(*)", "avro_raw", "", "AVRO (schema.location = 'file:///no/such.avsc')");
    refused(&instance, &missing, "58P01", "/no/such.avsc").await;
}

#[tokio::test]
async fn what_a_sink_writes_a_source_reads() {
    let kafka = Kafka::shared();
    let mut instance = start().await;
    let mut registry = Registry::start().await;
    instance
        .run("CREATE TABLE t (id INT PRIMARY KEY, name TEXT, amount NUMERIC(9,2), at TIMESTAMPTZ, u UUID, tags TEXT[])")
        .await;
    let values = "(1, 'a', -1.50, '2024-01-01 10:00:00.123456+00', '0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9', '{x,y}'), (2, NULL, NULL, NULL, NULL, '{}')";
    instance.run(&format!("INSERT INTO t VALUES {values}")).await;
    let (avro, columns) =
        (avro(&registry), "(id INT, name TEXT, amount NUMERIC(9,2), at TIMESTAMPTZ, u UUID, tags TEXT[])");
    let protobuf = format!("PROTOBUF (message = 'shop.T', schema.registry = '{}')", registry.url());
    for (name, encode, declared) in [("as_avro", &avro, "(*)"), ("as_proto", &protobuf, columns)] {
        kafka.topic(name, 1).await;
        instance.run(&sink(kafka, &format!("to_{name}"), "FROM t", name, "", &format!("UPSERT ENCODE {encode}"))).await;
        instance.run(&source(name, declared, name, ", on_error = 'drop'", encode)).await;
        instance.run(&format!("CREATE MATERIALIZED VIEW of_{name} AS SELECT * FROM {name}")).await;
        let expected = [
            "1 a -1.50 2024-01-01 10:00:00.123456+00 0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9 {x,y}",
            "2 NULL NULL NULL NULL {}",
        ];
        instance.wait_for(&format!("SELECT * FROM of_{name} ORDER BY id"), &expected).await;
    }
    // While it is away rows wait; a tombstone is no record of the schema.
    registry.go_away().await;
    instance.server.kill_and_restart().await.unwrap();
    instance.run("UPDATE t SET name = 'b' WHERE id = 2").await;
    instance.run("DELETE FROM t WHERE id = 1").await;
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    registry.come_back().await;
    for name in ["as_avro", "as_proto"] {
        instance
            .wait_for(&format!("SELECT id, name FROM of_{name} ORDER BY id, name"), &["1 a", "2 b", "2 NULL"])
            .await;
        let bad = format!("SELECT bad_rows FROM tidemark.sources WHERE name = '{name}'");
        instance.wait_for(&bad, &["1"]).await;
    }
    let other = "AS SELECT id::text AS id, name, amount, at, u, tags FROM t";
    let format = format!("PLAIN ENCODE {}", avro.replace(')', ", force_append_only = 'true')"));
    refused(&instance, &sink(kafka, "other", other, "as_avro", "", &format), "42P17", "subject \"as_avro-value\"")
        .await;
    let odd = "AS SELECT id AS \"the id\" FROM t";
    refused(&instance, &sink(kafka, "odd", odd, "as_avro", "", &format), "42602", "the id").await;
}

/// Keys of a schema of their own, under a subject of their own; the values may have none.
#[tokio::test]
async fn keys_that_have_a_schema() {
    let kafka = Kafka::shared();
    let instance = start().await;
    let registry = Registry::start().await;
    instance.run("CREATE TABLE t (id INT PRIMARY KEY, name TEXT)").await;
    instance.run("INSERT INTO t VALUES (1, 'a')").await;
    let url = format!("schema.registry = '{}'", registry.url());
    let avro_value = format!("UPSERT ENCODE AVRO ({url})");
    let json_value = format!("UPSERT ENCODE JSON ({url}, message = 'shop.T')");
    for (topic, format, key) in [
        // A union's second branch and 1 as Avro has it; field 1, and 1 as Protobuf has it.
        ("key_avro", format!("{avro_value} KEY ENCODE AVRO"), "0202"),
        ("key_proto", format!("{json_value} KEY ENCODE PROTOBUF"), "000801"),
    ] {
        kafka.topic(topic, 1).await;
        instance.run(&sink(kafka, &format!("to_{topic}"), "FROM t", topic, "", &format)).await;
        let columns = "(v BYTEA)";
        let raw = format!(
            "CREATE SOURCE of_{topic} {columns} INCLUDE key AS k WITH (connector = 'kafka', topic = '{topic}', \
             properties.bootstrap.servers = '{}') FORMAT PLAIN ENCODE BYTES",
            kafka.servers()
        );
        instance.run(&raw).await;
        let view = format!(
            "CREATE MATERIALIZED VIEW seen_{topic} AS SELECT encode(k, 'hex') AS k, v IS NULL AS gone FROM of_{topic}"
        );
        instance.run(&view).await;
        instance.wait_for(&format!("SELECT count(*) FROM seen_{topic}"), &["1"]).await;
        let id = registry.id_of(&format!("{topic}-key"));
        let expected = format!("00{id:08x}{key}");
        assert_eq!(instance.value(&format!("SELECT k FROM seen_{topic}")).await, expected);
    }
    // What was written so is read so.
    let back = format!(
        "CREATE SOURCE back (id INT PRIMARY KEY, name TEXT) WITH (connector = 'kafka', topic = 'key_avro', \
         properties.bootstrap.servers = '{}') FORMAT {avro_value} KEY ENCODE AVRO",
        kafka.servers()
    );
    instance.run(&back).await;
    instance.wait_for("SELECT * FROM back", &["1 a"]).await;
    refused(&instance, &back.replace(&avro_value, &json_value).replace("back", "bad"), "0A000", "ENCODE JSON with KEY")
        .await;
    // A tombstone has the key of its row.
    instance.run("DELETE FROM t").await;
    instance.wait_for("SELECT count(*) FROM back", &["0"]).await;
    for topic in ["key_avro", "key_proto"] {
        let keys = format!("SELECT count(*), count(DISTINCT k), sum(gone::int) FROM seen_{topic}");
        instance.wait_for(&keys, &["2 1 1"]).await;
    }
    let without = "UPSERT ENCODE JSON KEY ENCODE AVRO";
    refused(&instance, &sink(kafka, "bad", "FROM t", "key_avro", "", without), "22023", "schema.registry").await;
    let unused = format!("UPSERT ENCODE JSON ({url})");
    refused(&instance, &sink(kafka, "bad", "FROM t", "key_avro", "", &unused), "22023", "schema.registry").await;
}
