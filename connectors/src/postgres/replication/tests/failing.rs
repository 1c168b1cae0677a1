//! What is refused at CREATE, and what a source does not survive.

use tidemark_common::Result;
use tidemark_common::types::SqlType;

use super::mirror::Mirror;
use super::server::Database;
use crate::testing::refused;
use crate::{Positions, infer_columns, open_source};

const ID: [(&str, SqlType); 1] = [("id", SqlType::BigInt)];

async fn check(database: &Database, table: &str, columns: &[(&str, SqlType)], more: &[(&str, &str)]) -> Result<()> {
    open_source(database.spec(table, columns, 1, more))?.check().await
}

/// Table, columns, more options; code and words of the error.
type Case<'a> = (&'a str, &'a [(&'a str, SqlType)], &'a [(&'a str, &'a str)], &'a str, &'a str);

#[tokio::test]
async fn what_could_not_be_read_is_refused() {
    let database = Database::new("refusing").await;
    database
        .run(
            "CREATE TABLE orders (id bigint PRIMARY KEY, n int UNIQUE NOT NULL, twice int GENERATED ALWAYS AS (n * 2) STORED);
             CREATE TABLE keyless (id bigint); CREATE TABLE two (a int, id bigint, PRIMARY KEY (id, a));
             CREATE TABLE nothing (id bigint PRIMARY KEY); ALTER TABLE nothing REPLICA IDENTITY NOTHING;
             CREATE TABLE indexed (id bigint UNIQUE NOT NULL, k int PRIMARY KEY);
             ALTER TABLE indexed REPLICA IDENTITY USING INDEX indexed_id_key;
             CREATE TABLE fully (id bigint); ALTER TABLE fully REPLICA IDENTITY FULL;
             CREATE UNLOGGED TABLE fleeting (id bigint PRIMARY KEY); CREATE VIEW seen AS SELECT id FROM orders;
             CREATE PUBLICATION empty; CREATE PUBLICATION inserts FOR TABLE orders WITH (publish = 'insert');
             CREATE PUBLICATION narrow FOR TABLE orders (id);
             CREATE TABLE whole (id bigint PRIMARY KEY) PARTITION BY RANGE (id)",
        )
        .await;
    database.run("SELECT pg_create_logical_replication_slot('refusing_taken', 'pgoutput')").await;
    let no = |name: &'static str| [("publication.name", name), ("publication.create.enable", "false")];
    let two = [("id", SqlType::BigInt), ("n", SqlType::Integer)];
    let cases: &[Case] = &[
        ("order", &ID, &[], "42P01", "\"public.order\" in connection \"127.0.0.1:"),
        ("seen", &ID, &[], "42809", "is no table"),
        ("fleeting", &ID, &[], "42809", "unlogged"),
        (
            "orders",
            &[("id", SqlType::BigInt), ("m", SqlType::Integer)],
            &[],
            "42703",
            "no column \"m\" Perhaps you meant \"n\"",
        ),
        (
            "orders",
            &[("id", SqlType::Integer)],
            &[],
            "42804",
            "\"id\" is declared as integer, and in table \"public.orders\" it is bigint",
        ),
        (
            "orders",
            &[("id", SqlType::BigInt), ("twice", SqlType::Integer)],
            &[],
            "0A000",
            "\"twice\" of table \"public.orders\" is generated",
        ),
        (
            "orders",
            &[("n", SqlType::Integer)],
            &[],
            "55000",
            "(n) is not by what table \"public.orders\" tells its rows, (id)",
        ),
        ("two", &ID, &[], "55000", "(id, a)"),
        ("keyless", &ID, &[], "55000", "no replica identity"),
        ("nothing", &ID, &[], "55000", "no replica identity"),
        (
            "orders",
            &ID,
            &no("absent"),
            "55000",
            "\"absent\" does not exist Over there: CREATE PUBLICATION \"absent\" FOR TABLE",
        ),
        (
            "orders",
            &ID,
            &no("empty"),
            "55000",
            "does not have table \"public.orders\" Over there: ALTER PUBLICATION \"empty\" ADD TABLE",
        ),
        ("whole", &ID, &[("publication.name", "empty")], "55000", "SET (publish_via_partition_root = true)"),
        ("orders", &ID, &[("publication.name", "inserts")], "55000", "leaves some changes out"),
        ("orders", &two, &[("publication.name", "narrow")], "55000", "leaves column \"n\" out"),
        ("orders", &ID, &[("slot.name", "refusing_taken")], "42710", "\"refusing_taken\" already exists"),
        ("orders", &ID, &[("database.name", "nowhere")], "3D000", "database \"nowhere\" does not exist"),
        ("orders", &ID, &[("port", "1")], "08000", "cannot connect to 127.0.0.1:1"),
    ];
    for (table, columns, more, code, words) in cases {
        let (found, message, hint) = refused(check(&database, table, columns, more).await);
        assert_eq!(found, *code, "{table}: {message}");
        assert!(format!("{message} {hint}").contains(words), "{table}: {message} {hint}");
    }
    for (table, columns) in [("orders", &two[..]), ("indexed", &ID), ("fully", &ID), ("whole", &ID)] {
        check(&database, table, columns, &[]).await.unwrap_or_else(|e| panic!("{table}: {e:?}"));
    }
    let infer = |table| {
        let spec = database.spec(table, &[], 0, &[]);
        async move { infer_columns(&spec.options, &[], None).await }
    };
    assert_eq!(infer("two").await.unwrap().metadata()["tidemark.key"], "1,0");
    assert_eq!(infer("orders").await.unwrap().fields().len(), 2, "without the generated one");
    assert_eq!(refused(infer("keyless").await).0, "42P16");
    database.run("SELECT pg_drop_replication_slot('refusing_taken')").await;
}

#[tokio::test]
async fn what_a_role_may_not() {
    let database = Database::new("rights").await;
    database
        .run(
            "CREATE ROLE reader LOGIN REPLICATION; CREATE TABLE t (id bigint PRIMARY KEY); CREATE TABLE s (id bigint PRIMARY KEY);
             CREATE TABLE r (id bigint PRIMARY KEY); ALTER TABLE r ENABLE ROW LEVEL SECURITY; GRANT SELECT ON t, r TO reader",
        )
        .await;
    for (table, words) in [
        ("t", "\"rights_t\" does not exist, and user \"reader\" may not change that"),
        ("s", "\"reader\" may not read table \"public.s\""),
        ("r", "row-level security hides rows of table \"public.r\""),
    ] {
        let (code, message, _) = refused(check(&database, table, &ID, &[("username", "reader")]).await);
        assert_eq!(code, "42501");
        assert!(message.contains(words), "{message}");
    }
    database.run("CREATE PUBLICATION rights_t FOR TABLE t").await;
    check(&database, "t", &ID, &[("username", "reader")]).await.unwrap();
}

/// A source of a table (id, n) that has been copied, and is followed.
async fn copied(database: &Database, table: &str) -> Mirror {
    let columns = [("id", SqlType::BigInt), ("n", SqlType::Integer)];
    database
        .run(&format!("CREATE TABLE {table} (id bigint PRIMARY KEY, n int); INSERT INTO {table} VALUES (1, 1)"))
        .await;
    let mut mirror = Mirror::new(database.source(table, &columns, 1), 1);
    mirror.step().await.unwrap();
    database.run(&format!("UPDATE {table} SET n = 2")).await;
    mirror.until_equal(database, &format!("SELECT id, n FROM {table}")).await;
    mirror
}

#[tokio::test]
async fn a_table_that_changes() {
    let database = Database::new("altered").await;
    let mut mirror = copied(&database, "t").await;
    database.run("ALTER TABLE t ADD COLUMN more text DEFAULT 'x'; INSERT INTO t VALUES (2, 2, 'y')").await;
    database
        .run("ALTER TABLE t DROP COLUMN more; INSERT INTO t VALUES (3, 3); ALTER TABLE t ALTER n TYPE smallint")
        .await;
    database.run("INSERT INTO t VALUES (4, 4)").await;
    mirror.until_equal(&database, "SELECT id, n FROM t").await;
    for (table, sql, code, words) in [
        (
            "dropped",
            "ALTER TABLE dropped DROP COLUMN n; INSERT INTO dropped VALUES (5)",
            "42703",
            "\"public.dropped\" has no column \"n\"",
        ),
        (
            "typed",
            "ALTER TABLE typed ALTER n TYPE bigint; INSERT INTO typed VALUES (5, 5)",
            "42804",
            "\"n\" is declared as integer",
        ),
        (
            "named",
            "ALTER TABLE named RENAME TO other; INSERT INTO other VALUES (5, 5)",
            "42P01",
            "is now called \"public.other\"",
        ),
        (
            "keyed",
            "ALTER TABLE keyed DROP CONSTRAINT keyed_pkey, ADD PRIMARY KEY (n); INSERT INTO keyed VALUES (5, 5)",
            "55000",
            "(id) is not by what",
        ),
    ] {
        let mut mirror = copied(&database, table).await;
        database.run(sql).await;
        let (found, said) = mirror.fails().await;
        assert_eq!(found, code, "{said}");
        assert!(said.contains(words) && said.contains("source \"s\""), "{said}");
    }
}

/// Neither says anything in the stream.
#[tokio::test]
async fn a_table_that_is_left_out_or_dropped() {
    let database = Database::new("left_out").await;
    let (mut t, mut u) = (copied(&database, "t").await, copied(&database, "u").await);
    database.run("ALTER PUBLICATION left_out_t DROP TABLE t; DROP TABLE u").await;
    for mirror in [&mut t, &mut u] {
        let (code, said) = mirror.fails().await;
        assert_eq!(code, "42704");
        assert!(said.contains("no longer has table \"public."), "{said}");
    }
    assert_eq!(u.fails().await.0, "42P01");
    // Both can be let go of all the same.
    t.source.dropped().await.unwrap();
    u.source.dropped().await.unwrap();
}

#[tokio::test]
async fn a_slot_that_is_gone_or_in_use() {
    let database = Database::new("slots").await;
    let mut mirror = copied(&database, "t").await;
    // Another source that names the same slot.
    let other = database.source("t", &[("id", SqlType::BigInt)], 1);
    let (code, message, _) = refused(other.check().await);
    assert!(matches!(code.as_str(), "55006" | "42710"), "{message}");
    mirror.fall();
    let stored = mirror.positions.clone();
    database.run("INSERT INTO t VALUES (2, 2)").await;
    let advance = "SELECT pg_replication_slot_advance('slots_t', pg_current_wal_lsn()) FROM pg_replication_slots WHERE slot_name = 'slots_t' AND active_pid IS NULL";
    while database.rows(advance).await.is_empty() {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    let (code, said) = mirror.fails().await;
    assert_eq!(code, "XX001");
    assert!(said.contains("has let go the changes from") && said.contains("Make the source anew"), "{said}");
    database.run("SELECT pg_drop_replication_slot('slots_t')").await;
    let (code, said) = mirror.fails().await;
    assert_eq!(code, "42704");
    assert!(said.contains("\"slots_t\" is no longer there"), "{said}");
    // Nothing was read by it before: nothing is read again; what was is kept by the engine.
    let source = &mirror.source;
    let mut empty = source.reader(&Positions::new(), Some(&Positions::new()), None).await.unwrap();
    assert!(empty.next().await.unwrap().is_none());
    assert_eq!(source.reader(&Positions::new(), Some(&stored), None).await.err().unwrap().code(), "XX000");
    let damaged = Positions::from([("public.t".to_string(), "x".to_string())]);
    assert_eq!(source.reader(&damaged, None, None).await.err().unwrap().code(), "XX001");
}
