//! Tables of one PostgreSQL that share a replication slot: what a transaction did to several of them is seen at once.

use crate::harness::{Instance, Random, start};
use crate::postgres::Postgres;

const LOGICAL: &str = "wal_level = logical\nmax_replication_slots = 10\nmax_wal_senders = 10";
const PG: &str = "CREATE SOURCE pg WITH (connector = 'postgres-cdc', connection = c)";

/// Waits until a query says the same here as there.
async fn same(instance: &Instance, postgres: &Postgres, sql: &str) {
    let expected = postgres.lines(sql).await;
    let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
    instance.wait_for(sql, &expected).await;
}

async fn published(postgres: &Postgres) -> Vec<String> {
    postgres.lines("SELECT tablename FROM pg_publication_tables ORDER BY 1").await
}

#[tokio::test]
async fn tables_come_and_go() {
    let (postgres, mut instance) = (Postgres::start_with(LOGICAL).await, start().await);
    postgres
        .run(
            "CREATE TABLE a (id int PRIMARY KEY, v int); CREATE TABLE b (id int PRIMARY KEY, t text, more int); CREATE TABLE no_key (v int);
             INSERT INTO a SELECT n, n FROM generate_series(1, 20000) AS n; INSERT INTO b VALUES (1, 'x', 1), (2, 'y', 2)",
        )
        .await;
    instance.run(&postgres.connection("")).await;
    instance.run(PG).await;
    // It is there as soon as it is read, with or without tables.
    instance.wait_for("SELECT offsets IS NOT NULL FROM tidemark.sources", &["t"]).await;
    assert_eq!(postgres.lines("SELECT slot_name FROM pg_replication_slots").await, ["tidemark_postgres_pg"]);
    instance.run("CREATE TABLE a (*) FROM pg TABLE 'public.a'").await;
    instance.run("CREATE MATERIALIZED VIEW sums AS SELECT count(*) AS n, sum(v) AS v FROM a").await;
    same(&instance, &postgres, "SELECT count(*), sum(v) FROM a").await;
    instance.wait_for("SELECT * FROM sums", &["20000 200010000"]).await;
    postgres.run("UPDATE a SET v = v + 1 WHERE id <= 10; INSERT INTO b VALUES (3, 'z', 3)").await;
    instance.run("CREATE SOURCE b (id INT PRIMARY KEY, t TEXT) FROM SOURCE pg TABLE 'b'").await;
    same(&instance, &postgres, "SELECT id, t FROM b ORDER BY id").await;
    instance.wait_for("SELECT * FROM sums", &["20000 200010010"]).await;
    assert_eq!(published(&postgres).await, ["a", "b"]);
    assert_eq!(postgres.value("(SELECT count(*) FROM pg_replication_slots)").await, "1");
    instance
        .wait_for(
            "SELECT name, state, lag_bytes IS NOT NULL FROM tidemark.sources ORDER BY name",
            &["a running t", "b running t", "pg running t"],
        )
        .await;
    instance.wait_for("SELECT unknown_columns FROM tidemark.sources WHERE name = 'pg'", &["b.more"]).await;
    let made = instance.value("SELECT definition FROM tidemark.objects WHERE name = 'b'").await;
    assert!(made.starts_with("CREATE TABLE") && made.contains("FROM public.pg TABLE 'b'"), "{made}");
    for (sql, code, words) in [
        ("SELECT * FROM pg", "42809", "has no rows: its tables have them"),
        ("CREATE TABLE again (*) FROM pg TABLE 'public.a'", "42710", "is there already: \"a\""),
        ("CREATE TABLE n (*) FROM pg TABLE 'public.no_key'", "42P16", "no primary key"),
        ("CREATE TABLE n (*) FROM pg TABLE 'public.nowhere'", "42P01", "does not exist"),
        ("CREATE TABLE n (*) FROM a TABLE 'public.b'", "42809", "is not a source that has tables"),
        ("CREATE TABLE n (id TEXT PRIMARY KEY, w INT) FROM pg TABLE 'public.no_key'", "42703", "no column \"id\""),
        ("ALTER SOURCE a PAUSE", "0A000", "cannot be paused by itself"),
        ("DROP SOURCE pg", "2BP01", "depend"),
        ("INSERT INTO a VALUES (1, 1)", "42809", "a"),
    ] {
        let (found, said) = instance.error(sql).await;
        assert!(found == code && said.contains(words), "{sql}: {found} {said}");
    }
    instance.server.kill_and_restart().await.unwrap();
    postgres.run("DELETE FROM a WHERE id > 10; TRUNCATE b; INSERT INTO b VALUES (7, 'new', 1)").await;
    same(&instance, &postgres, "SELECT count(*), sum(v) FROM a").await;
    same(&instance, &postgres, "SELECT id, t FROM b ORDER BY id").await;
    // One that goes and comes again is copied again.
    instance.run("DROP TABLE b").await;
    assert_eq!(published(&postgres).await, ["a"]);
    postgres.run("INSERT INTO b VALUES (8, 'unseen', 1); UPDATE a SET v = 0").await;
    same(&instance, &postgres, "SELECT count(*), sum(v) FROM a").await;
    instance.run("CREATE TABLE b (*) FROM pg TABLE 'public.b'").await;
    same(&instance, &postgres, "SELECT * FROM b ORDER BY id").await;
    // One that is gone over there stops all, until it is gone here.
    postgres.run("DROP TABLE b; INSERT INTO a VALUES (-1, -1)").await;
    instance.wait_for("SELECT state FROM tidemark.sources WHERE name = 'pg'", &["failed"]).await;
    let error = instance.value("SELECT error FROM tidemark.sources WHERE name = 'a'").await;
    assert!(error.contains("public.b"), "{error}");
    instance.run("DROP TABLE b").await;
    same(&instance, &postgres, "SELECT count(*), sum(v) FROM a").await;
    postgres.run("INSERT INTO a VALUES (-2, -2)").await;
    same(&instance, &postgres, "SELECT count(*), sum(v) FROM a").await;
    instance.run("DROP SOURCE pg CASCADE").await;
    assert_eq!(
        postgres.value("(SELECT count(*) FROM pg_replication_slots) + (SELECT count(*) FROM pg_publication)").await,
        "0"
    );
}

/// Money moves between tables: no sum over them is ever another, while tables come and the server is killed.
#[tokio::test]
async fn a_transaction_over_tables_is_seen_at_once() {
    let (postgres, mut instance) = (Postgres::start_with(LOGICAL).await, start().await);
    let tables = ["cash", "bank", "fund"];
    for table in tables {
        postgres.run(&format!("CREATE TABLE {table} (id int PRIMARY KEY, balance int)")).await;
        postgres.run(&format!("INSERT INTO {table} SELECT n, 100 FROM generate_series(0, 49) AS n")).await;
    }
    instance.run(&postgres.connection("")).await;
    instance.run(PG).await;
    for table in &tables[..2] {
        instance.run(&format!("CREATE TABLE {table} (*) FROM pg TABLE 'public.{table}'")).await;
    }
    instance.wait_for("SELECT (SELECT count(*) FROM cash) + (SELECT count(*) FROM bank)", &["100"]).await;
    let parts = |tables: &[&str]| {
        tables.iter().map(|t| format!("SELECT balance FROM {t}")).collect::<Vec<_>>().join(" UNION ALL ")
    };
    instance
        .run(&format!("CREATE MATERIALIZED VIEW two AS SELECT sum(balance) AS s FROM ({}) AS x", parts(&tables[..2])))
        .await;
    let client = postgres.client().await;
    let mut random = Random::new(5);
    let mut has_three = false;
    for round in 0..80 {
        let (number, of) = (random.below(12) + 1, if has_three { 3 } else { 2 });
        let moves: Vec<String> = (0..number)
            .map(|_| {
                let (from, to, much) = (random.below(50), random.below(50), random.below(30));
                let (one, other) = (tables[random.below(of) as usize], tables[random.below(of) as usize]);
                format!("UPDATE {one} SET balance = balance - {much} WHERE id = {from}; UPDATE {other} SET balance = balance + {much} WHERE id = {to}")
            })
            .collect();
        client.batch_execute(&format!("BEGIN; {}; COMMIT", moves.join(";"))).await.unwrap();
        if round == 30 {
            // While money moves. The copy is of one moment, and so are all others from then on.
            instance.run("CREATE TABLE fund (*) FROM pg TABLE 'public.fund'").await;
            instance.wait_for("SELECT count(*) FROM fund", &["50"]).await;
            instance
                .run(&format!(
                    "CREATE MATERIALIZED VIEW three AS SELECT sum(balance) AS s FROM ({}) AS x",
                    parts(&tables)
                ))
                .await;
            has_three = true;
        }
        match has_three {
            false => assert_eq!(
                instance
                    .value(&format!("SELECT sum(balance), (SELECT s FROM two) FROM ({}) AS x", parts(&tables[..2])))
                    .await,
                "10000 10000"
            ),
            true => assert_eq!(
                instance
                    .value(&format!("SELECT sum(balance), (SELECT s FROM three) FROM ({}) AS x", parts(&tables)))
                    .await,
                "15000 15000"
            ),
        }
        if round % 20 == 19 {
            instance.server.kill_and_restart().await.unwrap();
        }
    }
    for table in tables {
        same(&instance, &postgres, &format!("SELECT * FROM {table} ORDER BY id")).await;
    }
    assert_eq!(instance.lines("VALIDATE MATERIALIZED VIEW three").await, Vec::<String>::new());
}

/// Tables come one after the other while rows are written, and the server is killed in the middle of their copies.
#[tokio::test]
async fn copies_are_cut_off() {
    let (postgres, mut instance) = (Postgres::start_with(LOGICAL).await, start().await);
    for table in ["a", "b", "c"] {
        postgres.run(&format!("CREATE TABLE {table} (id int PRIMARY KEY, v int); INSERT INTO {table} SELECT n, n FROM generate_series(1, 60000) AS n")).await;
    }
    instance.run(&postgres.connection("")).await;
    instance.run(PG).await;
    let client = postgres.client().await;
    for (n, table) in ["a", "b", "c"].into_iter().enumerate() {
        instance.run(&format!("CREATE TABLE {table} (*) FROM pg TABLE 'public.{table}'")).await;
        for change in [
            "UPDATE t SET v = v + 1 WHERE id % 7 = 3",
            "DELETE FROM t WHERE id % 10 = 1",
            "UPDATE t SET id = id + 100000 WHERE id % 10 = 2",
        ] {
            for of in ["a", "b", "c"] {
                client.batch_execute(&change.replace(" t ", &format!(" {of} "))).await.unwrap();
            }
        }
        tokio::time::sleep(std::time::Duration::from_millis(150 * n as u64)).await;
        instance.server.kill_and_restart().await.unwrap();
    }
    for table in ["a", "b", "c"] {
        same(&instance, &postgres, &format!("SELECT count(*), sum(id), sum(v) FROM {table}")).await;
    }
    assert_eq!(postgres.value("(SELECT count(*) FROM pg_replication_slots WHERE NOT temporary)").await, "1");
}
