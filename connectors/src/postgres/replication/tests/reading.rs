//! A table is copied, and then followed.

use std::sync::Arc;
use std::time::Duration;

use tidemark_common::types::SqlType;
use tokio::time::{sleep, timeout};

use super::mirror::{Mirror, PATIENCE};
use super::server::Database;
use crate::postgres::replication::lsn::Lsn;
use crate::{KEY_METADATA, infer_columns, open_source};

const COLUMNS: [(&str, SqlType); 3] = [("id", SqlType::BigInt), ("note", SqlType::Text), ("big", SqlType::Text)];
const TABLE: &str =
    "CREATE TABLE t (id bigint PRIMARY KEY, note text, big text); ALTER TABLE t ALTER big SET STORAGE EXTERNAL";
const SELECT: &str = "SELECT id, note, big FROM t";

#[tokio::test]
async fn a_copy_then_changes() {
    let database = Database::new("changes").await;
    database.run(TABLE).await;
    database.run("INSERT INTO t VALUES (1, 'a', repeat('x', 10000)), (2, E'b\\t\\n\\\\N', NULL)").await;
    let source = database.source("t", &COLUMNS, 1);
    source.check().await.unwrap();
    let mut mirror = Mirror::new(source, 1);
    mirror.step().await.unwrap();
    assert_eq!(mirror.ops, ["Truncate", "Put 1 a x*10000", "Put 2 b\t\n\\N NULL"]);
    mirror.ops.clear();
    database
        .run(
            "BEGIN; UPDATE t SET note = 'c' WHERE id = 1; UPDATE t SET id = 3 WHERE id = 1; INSERT INTO t VALUES (1, 'd', 'e');
             DELETE FROM t WHERE id = 2; UPDATE t SET id = 4, big = NULL WHERE id = 3; COMMIT;
             BEGIN; INSERT INTO t VALUES (9, 'never'); SAVEPOINT s; DELETE FROM t; ROLLBACK;
             BEGIN; INSERT INTO t VALUES (5); SAVEPOINT s; INSERT INTO t VALUES (6); ROLLBACK TO s; COMMIT",
        )
        .await;
    mirror.until_equal(&database, SELECT).await;
    let wanted =
        ["Put 1 c ·", "Delete 1", "Put 3 c ·", "Put 1 d e", "Delete 2", "Delete 3", "Put 4 c NULL", "Put 5 NULL NULL"];
    assert_eq!(mirror.ops, wanted);
    mirror.ops.clear();
    database.run("TRUNCATE t; INSERT INTO t VALUES (7, '', '')").await;
    mirror.until_equal(&database, SELECT).await;
    assert_eq!(mirror.ops, ["Truncate", "Put 7  "]);
    // Under FULL the old row is told, and nothing needs to be kept.
    mirror.ops.clear();
    database
        .run("UPDATE t SET big = repeat('y', 10000); ALTER TABLE t REPLICA IDENTITY FULL; UPDATE t SET note = 'f'")
        .await;
    mirror.until_equal(&database, SELECT).await;
    assert_eq!(mirror.ops, ["Put 7  y*10000", "Put 7 f y*10000"]);
}

/// A key that is kept out of line, and so is not in the new row: the old one has it.
#[tokio::test]
async fn a_long_key() {
    let database = Database::new("long_key").await;
    database.run("CREATE TABLE t (id text PRIMARY KEY, note text); ALTER TABLE t ALTER id SET STORAGE EXTERNAL").await;
    database.run("INSERT INTO t VALUES (repeat('k', 2500), 'a'), (repeat('l', 2500), 'b')").await;
    let mut mirror = Mirror::new(database.source("t", &[("id", SqlType::Text), ("note", SqlType::Text)], 1), 1);
    mirror.step().await.unwrap();
    mirror.ops.clear();
    database
        .run("UPDATE t SET note = 'c' WHERE note = 'a'; UPDATE t SET id = repeat('m', 2400) WHERE note = 'b'")
        .await;
    mirror.until_equal(&database, "SELECT id, note FROM t").await;
    assert_eq!(mirror.ops, ["Put k*2500 c", "Delete l*2500", "Put m*2400 b"]);
}

/// What was stored and what comes after it are all, wherever the reader falls.
#[tokio::test]
async fn each_restart_goes_on_where_it_was() {
    let database = Database::new("restarts").await;
    database.run(TABLE).await;
    database.run("CREATE TABLE other (n int); INSERT INTO t SELECT g, 'first' FROM generate_series(1, 10) g").await;
    let second = database.spec("t", &COLUMNS, 1, &[("slot.name", "restarts_second")]);
    let mut whole = Mirror::new(database.source("t", &COLUMNS, 1), 1);
    let mut falling = Mirror::new(open_source(second).unwrap(), 1);
    whole.step().await.unwrap();
    falling.step().await.unwrap();
    for round in 0..30 {
        let sql = format!(
            "BEGIN; INSERT INTO t VALUES (100 + {round}, 'n', repeat('z', 3000)); UPDATE t SET note = '{round}' WHERE id <= 3;
             UPDATE t SET id = id + 1000 WHERE id = 100 + {round} - 1; COMMIT; INSERT INTO other VALUES (1);
             BEGIN; DELETE FROM t WHERE id = 1000 + {round}; COMMIT"
        );
        database.run(&sql).await;
        falling.step().await.unwrap();
        falling.fall();
        if round % 7 == 0 {
            falling.commit();
        }
    }
    whole.until_equal(&database, SELECT).await;
    falling.until_equal(&database, SELECT).await;
    assert_eq!(whole.ops, falling.ops);
    assert_eq!(whole.ops.iter().filter(|op| op.as_str() == "Truncate").count(), 1);
}

#[tokio::test]
async fn a_copy_that_falls_begins_again() {
    let database = Database::new("copying").await;
    database.run(TABLE).await;
    database.run("INSERT INTO t SELECT g, 'copied', NULL FROM generate_series(1, 30000) g").await;
    let mut mirror = Mirror::new(database.source("t", &COLUMNS, 1), 1);
    mirror.step().await.unwrap();
    mirror.step().await.unwrap();
    assert!(
        mirror.position().starts_with("snapshot ") && mirror.position().ends_with(" rows"),
        "{:?}",
        mirror.positions
    );
    mirror.commit();
    let slot = "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = 'copying_t'";
    let before = database.value(slot).await;
    mirror.fall();
    database.run("DELETE FROM t WHERE id <= 10; UPDATE t SET note = 'changed' WHERE id = 20000").await;
    // Again, and this time before anything of it is stored.
    mirror.reader = Some(mirror.source.reader(&mirror.positions, None, None).await.unwrap());
    mirror.reader.as_mut().unwrap().next().await.unwrap();
    mirror.fall();
    mirror.ops.clear();
    mirror.until_equal(&database, SELECT).await;
    assert_eq!(mirror.ops.len(), 1 + 29990);
    assert_ne!(database.value(slot).await, before, "the slot is another");
    database.run("UPDATE t SET note = 'again' WHERE id > 29000").await;
    mirror.until_equal(&database, SELECT).await;
}

#[tokio::test]
async fn a_transaction_is_handed_out_whole() {
    let database = Database::new("whole").await;
    database.run(TABLE).await;
    let mut mirror = Mirror::new(database.source("t", &COLUMNS, 1), 1);
    mirror.step().await.unwrap();
    let stored = mirror.positions.clone();
    // More than sockets and queues hold.
    database
        .run("INSERT INTO t VALUES (0); INSERT INTO t SELECT g, repeat('n', 400) FROM generate_series(1, 120000) g")
        .await;
    let mut reader = mirror.source.reader(&stored, None, None).await.unwrap();
    let (mut rows, mut parts, mut killed) = (0, 0, String::new());
    let reads = "SELECT active_pid FROM pg_replication_slots WHERE slot_name = 'whole_t'";
    mirror.fall();
    loop {
        let batch = reader.next().await.unwrap().unwrap();
        rows += batch.batch.num_rows();
        if parts == 2 {
            // The connection breaks in the middle: what has been handed out of it does not come again.
            let kill = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = 'whole_t'";
            killed = database.value(reads).await;
            assert_eq!(database.value(kill).await, "t");
        }
        parts += 1;
        if rows > 1 && !batch.unfinished {
            break;
        }
    }
    assert!(parts > 14, "{parts}");
    assert_eq!(rows, 120_001);
    assert_ne!(database.value(reads).await, killed, "another process has sent the rest");
    drop(reader);
    // A reader that falls in the middle has stored nothing of it.
    mirror.step().await.unwrap();
    mirror.step().await.unwrap();
    mirror.fall();
    assert!(mirror.rows.len() < 2);
    mirror.ops.clear();
    mirror.rows.clear();
    mirror.positions = stored;
    mirror.until_equal(&database, SELECT).await;
    assert_eq!(mirror.ops.len(), 120_001);
}

async fn until<F: Future<Output = bool>>(what: &str, mut is_so: impl FnMut() -> F) {
    let waited = timeout(PATIENCE, async {
        while !is_so().await {
            sleep(Duration::from_millis(100)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// The server keeps what is not stored, and no more; also for a table that nobody changes.
#[tokio::test]
async fn the_slot_lets_go_what_is_stored() {
    let database = Database::new("kept").await;
    database.run(TABLE).await;
    database.run("CREATE TABLE other (n int)").await;
    let mut mirror = Mirror::new(database.source("t", &COLUMNS, 1), 1);
    mirror.step().await.unwrap();
    let confirmed = || async {
        let sql = "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = 'kept_t'";
        database.value(sql).await.parse::<Lsn>().unwrap()
    };
    let first = confirmed().await;
    database.run("INSERT INTO t VALUES (1); INSERT INTO other SELECT g FROM generate_series(1, 10000) g").await;
    mirror.catch_up(&database).await;
    assert_eq!(mirror.ops, ["Truncate", "Put 1 NULL NULL"]);
    sleep(Duration::from_secs(3)).await;
    assert_eq!(confirmed().await, first);
    let lag = || mirror.reader.as_ref().unwrap().lag_bytes();
    until("a lag", || async { lag().is_some_and(|bytes| bytes > 100_000) }).await;
    let stored: Lsn = mirror.position().parse().unwrap();
    mirror.commit();
    until("stored is let go", || async { confirmed().await == stored }).await;
    assert_eq!(mirror.reader.as_ref().unwrap().lag_rows(), None);
}

#[tokio::test]
async fn what_is_dropped_leaves_nothing() {
    let database = Database::new("leaving").await;
    database.run(TABLE).await;
    database.run("CREATE TABLE u (id bigint PRIMARY KEY); CREATE PUBLICATION theirs FOR TABLE u").await;
    let published = "SELECT coalesce(string_agg(pubname || ': ' || tablename, ', ' ORDER BY pubname, tablename), '') FROM pg_publication_tables";
    let shared = |table: &str| {
        let spec = database.spec(table, &COLUMNS[..1], 1, &[("publication.name", "shared")]);
        Mirror::new(open_source(spec).unwrap(), 1)
    };
    let (mut t, mut u) = (shared("t"), shared("u"));
    let theirs =
        database.spec("t", &COLUMNS[..1], 1, &[("publication.name", "theirs"), ("slot.name", "leaving_third")]);
    let mut third = Mirror::new(open_source(theirs).unwrap(), 1);
    for mirror in [&mut t, &mut u, &mut third] {
        mirror.source.check().await.unwrap();
        mirror.step().await.unwrap();
    }
    assert_eq!(database.value(published).await, "shared: t, shared: u, theirs: t, theirs: u");
    t.fall();
    t.source.dropped().await.unwrap();
    database.run("INSERT INTO u VALUES (1)").await;
    u.until_equal(&database, "SELECT id FROM u").await;
    u.fall();
    u.source.dropped().await.unwrap();
    assert_eq!(database.value(published).await, "theirs: t, theirs: u");
    third.fall();
    third.source.dropped().await.unwrap();
    // Once more: it is gone already.
    third.source.dropped().await.unwrap();
    assert_eq!(database.value(published).await, "theirs: t, theirs: u");
    assert_eq!(database.value("SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE 'leaving%'").await, "0");
}

/// Each type is read alike in the copy and in the stream, and shown as over there.
#[tokio::test]
async fn every_type() {
    let database = Database::new("typed").await;
    database
        .run(
            "CREATE TYPE mood AS ENUM ('sad', 'glad'); CREATE DOMAIN price AS numeric(8, 3);
             CREATE TABLE t (id smallint, b boolean, i int, f real, d double precision, n numeric(12, 2), p price, free numeric,
                s varchar(5), c char(5), y bytea, da date, ti time, ts timestamp, tz timestamptz, iv interval, u uuid, j json,
                jb jsonb, a int[][], ta text[], m mood, ip inet, PRIMARY KEY (id))",
        )
        .await;
    let values = |id: i32| {
        format!(
            "INSERT INTO t VALUES ({id}, true, -7, 1.1, 1e-300, 123.40, 5.125, 12345.678, 'ab', 'ab', '\\x00ff', '2024-02-29',
             '12:34:56.789', '2024-02-29 01:02:03.000004', '2024-02-29 01:02:03+05', '1 year 2 days 03:04:05.6',
             'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '{{\"a\" : [1, null]}}', '{{\"b\":1,\"a\":2}}', '{{{{1,2}},{{3,NULL}}}}',
             '{{\"a b\",NULL,\"c\\\"d\"}}', 'glad', '10.0.0.1/8'); INSERT INTO t (id) VALUES ({id} + 1)"
        )
    };
    database.run(&values(1)).await;
    let spec = database.spec("t", &[], 0, &[]);
    let schema = infer_columns(&spec.options, &[], None).await.unwrap();
    assert_eq!(schema.metadata()[KEY_METADATA], "0");
    let types: Vec<String> = schema.fields().iter().map(|f| SqlType::from_field(f).to_string()).collect();
    let wanted = "smallint, boolean, integer, real, double precision, numeric(12,2), numeric(8,3), numeric, character varying(5), \
                  character(5), bytea, date, time without time zone, timestamp without time zone, timestamp with time zone, interval, \
                  uuid, json, jsonb, integer[][], text[], text, text";
    assert_eq!(types.join(", "), wanted);
    let spec = crate::SourceSpec { columns: Arc::clone(&schema), key: vec![0], ..spec };
    let source = open_source(spec).unwrap();
    source.check().await.unwrap();
    let mut mirror = Mirror::new(source, 1);
    mirror.until_equal(&database, "SELECT * FROM t").await;
    database.run(&values(3)).await;
    mirror.until_equal(&database, "SELECT * FROM t").await;
    // As text all of them are what PostgreSQL writes.
    let texts: Vec<(&str, SqlType)> = schema.fields().iter().map(|f| (f.name().as_str(), SqlType::Text)).collect();
    let spec = database.spec("t", &texts, 1, &[("slot.name", "typed_texts")]);
    let mut mirror = Mirror::new(open_source(spec).unwrap(), 1);
    mirror.until_equal(&database, "SELECT * FROM t").await;
    database.run(&values(5)).await;
    mirror.until_equal(&database, "SELECT * FROM t").await;
}

/// Only some columns, in another order; of a table in parts; the rows that a publication has.
#[tokio::test]
async fn parts_of_a_table() {
    let database = Database::new("parts").await;
    database
        .run(
            "CREATE SCHEMA \"S 1\"; CREATE TABLE \"S 1\".\"T\" (\"a b\" int, k text, v int, gone int, PRIMARY KEY (k, \"a b\"))
                PARTITION BY RANGE (\"a b\");
             CREATE TABLE \"S 1\".low PARTITION OF \"S 1\".\"T\" FOR VALUES FROM (0) TO (10);
             CREATE TABLE \"S 1\".high PARTITION OF \"S 1\".\"T\" FOR VALUES FROM (10) TO (20);
             INSERT INTO \"S 1\".\"T\" SELECT g, 'k' || g, g, 0 FROM generate_series(0, 19) g;
             CREATE TABLE f (id bigint PRIMARY KEY, v int); INSERT INTO f SELECT g, g FROM generate_series(1, 10) g;
             CREATE PUBLICATION few FOR TABLE f (id, v) WHERE (id > 5)",
        )
        .await;
    let columns = [("k", SqlType::Varchar(None)), ("a b", SqlType::BigInt), ("v", SqlType::Double)];
    let spec = database.spec("T", &columns, 2, &[("schema.name", "S 1"), ("slot.name", "parts")]);
    let source = open_source(spec).unwrap();
    source.check().await.unwrap();
    let mut mirror = Mirror::new(source, 2);
    let select = "SELECT k, \"a b\", v FROM \"S 1\".\"T\"";
    mirror.until_equal(&database, select).await;
    database.run("UPDATE \"S 1\".\"T\" SET \"a b\" = \"a b\" + 10 WHERE \"a b\" < 5; TRUNCATE \"S 1\".high; INSERT INTO \"S 1\".\"T\" VALUES (3, 'x')").await;
    database.run("DELETE FROM \"S 1\".\"T\" WHERE \"a b\" >= 10").await;
    // Truncating a part is no change of the whole that would be told: what it had stays until it is deleted by key.
    mirror.catch_up(&database).await;
    assert!(mirror.ops.contains(&"Put k3 13 3".to_string()), "{:?}", mirror.ops);
    assert!(mirror.ops.contains(&"Put x 3 NULL".to_string()), "{:?}", mirror.ops);
    let spec =
        database.spec("f", &[("id", SqlType::BigInt), ("v", SqlType::Integer)], 1, &[("publication.name", "few")]);
    let source = open_source(spec).unwrap();
    source.check().await.unwrap();
    let mut mirror = Mirror::new(source, 1);
    let select = "SELECT id, v FROM f WHERE id > 5";
    mirror.until_equal(&database, select).await;
    database.run("UPDATE f SET v = v + 1; INSERT INTO f VALUES (0, 0), (20, 20)").await;
    mirror.until_equal(&database, select).await;
}
