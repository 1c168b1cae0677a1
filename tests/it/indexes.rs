//! Indexes through changes, SIGKILL and restarts: what they lead to is what a scan finds.
//!
//! ```text
//!   round:  sessions write ──▶ an index is created or dropped ──▶ SIGKILL ──▶ restart ──▶ by index = by scan, for every value
//! ```

use std::time::Duration;

use tokio_postgres::NoTls;

use crate::harness::{Instance, Random, start, text};

const ROUNDS: u64 = 8;

const VIEWS: [&str; 3] = [
    // With a key, without one, only ever growing.
    "CREATE MATERIALIZED VIEW totals AS SELECT a, count(*) AS n, max(b) AS best FROM t GROUP BY a",
    "CREATE MATERIALIZED VIEW bag AS SELECT a % 3 AS r, b FROM t",
    "CREATE MATERIALIZED VIEW log AS SELECT n % 5 AS k, n FROM ticks",
];

/// Relations, the indexes that there may be, and conditions that each can serve.
const INDEXES: [(&str, &str, &str, &[&str]); 8] = [
    ("t", "t_a", "(a)", &["a = {}", "a IN ({}, 1, 2)", "a > {}", "a IS NULL", "a < {} AND length(b) < 100"]),
    ("t", "t_b_f", "(b, f DESC)", &["b = 'b{}'", "b = 'b{}' AND f > 3", "b IS NULL AND f > {}", "b >= 'b{}'"]),
    ("t", "t_f", "USING hash (f)", &["f = {}", "f = 0", "f IN (-1, {}, 0)"]),
    ("keyless", "keyless_a", "(a)", &["a = {}", "a = {} OR a = 3", "a IS NULL"]),
    ("totals", "totals_n", "(n)", &["n = {}", "n BETWEEN 2 AND {}"]),
    ("totals", "totals_best", "(best, n)", &["best = 'b{}'", "best IS NULL", "best = 'b{}' AND n >= 2"]),
    ("bag", "bag_r", "(r, b)", &["r = {}", "r = 1 AND b = 'b{}'", "r IS NULL"]),
    ("log", "log_k", "(k)", &["k = {}", "k IN (1, {})"]),
];

/// A statement that changes some rows.
fn change(random: &mut Random) -> String {
    let mut n = |below| random.below(below);
    let value = |n: u64, shown: String| if n == 0 { "NULL".to_string() } else { shown };
    match n(7) {
        0..=2 => {
            let (id, a, b) = (n(1_000_000), n(12), n(9));
            let (a, b) = (value(a, a.to_string()), value(b, format!("'b{b}'")));
            format!("INSERT INTO t VALUES ({id}, {a}, {b}, {}.0 / 2) ON CONFLICT (id) DO UPDATE SET a = {a}", n(12))
        }
        3 => format!("UPDATE t SET a = a + 1, f = -f WHERE a = {}", n(12)),
        4 => format!("UPDATE t SET b = 'b{}' WHERE b = 'b{}' AND a < 6", n(9), n(9)),
        5 => format!("DELETE FROM t WHERE a = {} AND id % 3 = 0", n(12)),
        _ => format!(
            "INSERT INTO keyless SELECT a, b FROM t WHERE a = {}; DELETE FROM keyless WHERE a = {}",
            n(12),
            n(12)
        ),
    }
}

async fn change_until_killed(url: String, seed: u64) {
    let Ok((client, connection)) = tokio_postgres::connect(&url, NoTls).await else { return };
    tokio::spawn(async move {
        // The kill ends it with an error; that is the test.
        let _ = connection.await;
    });
    let mut random = Random::new(seed);
    loop {
        // A conflict with another session is an error of that statement alone.
        if client.batch_execute(&change(&mut random)).await.is_err() && client.is_closed() {
            return;
        }
    }
}

/// For every condition: what is found with the indexes that there are is what a scan finds. One statement reads one moment, so
/// this can be asked while others write.
async fn check(instance: &Instance, random: &mut Random, round: u64) {
    for (relation, index, _, conditions) in INDEXES {
        for condition in conditions {
            let condition = condition.replace("{}", &random.below(13).to_string());
            let found = format!("SELECT * FROM {relation} WHERE {condition}");
            // No index serves that.
            let scanned = format!("SELECT * FROM {relation} WHERE CASE WHEN random() < 2 THEN {condition} END");
            let differing = format!(
                "SELECT count(*) FROM (({found} EXCEPT ALL {scanned}) UNION ALL ({scanned} EXCEPT ALL {found})) AS d"
            );
            let when = format!("round {round}: {found}");
            assert_eq!(instance.value(&differing).await, "0", "{when}");
            let there = instance.value(&format!("SELECT count(*) FROM pg_indexes WHERE indexname = '{index}'")).await;
            let found = instance.lines(&format!("EXPLAIN {found}")).await.join("\n");
            assert!(there == "0" || found.contains(&format!("by index {index}:")), "{when}\n{found}");
            let scanned = instance.lines(&format!("EXPLAIN {scanned}")).await.join("\n");
            assert!(!scanned.contains(" by "), "{when}\n{scanned}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_index_leads_to_is_what_a_scan_finds() {
    let mut instance = start().await;
    instance.run("CREATE TABLE t (id INT PRIMARY KEY, a INT, b TEXT, f DOUBLE PRECISION)").await;
    instance.run("CREATE TABLE keyless (a INT, b TEXT)").await;
    instance.run("CREATE SOURCE ticks (n BIGINT) WITH (connector = 'datagen', rows_per_second = 500)").await;
    for view in VIEWS {
        instance.run(view).await;
    }
    let mut random = Random::new(1);
    for round in 0..ROUNDS {
        let url = instance.server.url();
        let writers: Vec<_> =
            (0..3).map(|session| tokio::spawn(change_until_killed(url.clone(), round * 10 + session))).collect();
        for (relation, index, columns, _) in INDEXES {
            if random.below(3) > 0 {
                let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
                let running = tokio::spawn(connection);
                let create = format!("CREATE INDEX IF NOT EXISTS {index} ON {relation} {columns}");
                // Another session's DDL may be first.
                client.batch_execute(&create).await.unwrap();
                if random.below(4) == 0 {
                    client.batch_execute(&format!("DROP INDEX {index}")).await.unwrap();
                }
                drop(client);
                let _ = running.await;
            }
        }
        check(&instance, &mut random, round).await;
        // In the middle of a build, or just after it.
        let last = tokio::spawn(create_until_killed(url.clone()));
        tokio::time::sleep(Duration::from_millis(random.below(40))).await;
        instance.server.kill_and_restart().await.unwrap();
        for task in writers.into_iter().chain([last]) {
            task.await.unwrap();
        }
        check(&instance, &mut random, round).await;
        instance.run("DROP INDEX IF EXISTS last_b").await;
    }
    let rows: u64 = instance.value("SELECT count(*) FROM t").await.parse().unwrap();
    assert!(rows > 50, "{rows} rows show little");
}

async fn create_until_killed(url: String) {
    let Ok((client, connection)) = tokio_postgres::connect(&url, NoTls).await else { return };
    tokio::spawn(async move {
        let _ = connection.await;
    });
    while !client.is_closed() {
        // Until the server is killed.
        let _ = client.batch_execute("CREATE INDEX last_b ON t (b)").await;
        let _ = client.batch_execute("DROP INDEX last_b").await;
    }
}

#[tokio::test]
async fn an_index_is_built_over_many_rows_or_not_at_all() {
    let mut instance = start().await;
    instance.run("CREATE TABLE big (id INT PRIMARY KEY, a INT, b INT)").await;
    instance.run("INSERT INTO big SELECT i, i % 1000, i FROM generate_series(1, 60000) AS g(i)").await;
    // One of the last rows is in the way, when most are entered already.
    instance.run("INSERT INTO big VALUES (70000, 1, 60000)").await;
    let (code, message) = instance.error("CREATE UNIQUE INDEX big_b ON big (b)").await;
    assert_eq!((code.as_str(), message.as_str()), ("23505", "could not create unique index \"big_b\""));
    instance.run("DELETE FROM big WHERE id = 70000").await;
    instance.run("CREATE UNIQUE INDEX big_b ON big (b)").await;
    instance.run("CREATE INDEX big_a ON big (a)").await;
    for _ in 0..2 {
        assert_eq!(instance.value("SELECT count(*) FROM big WHERE a = 7").await, "60");
        assert_eq!(instance.value("SELECT id FROM big WHERE b = 59999").await, "59999");
        assert_eq!(instance.error("INSERT INTO big VALUES (80000, 0, 59999)").await.0, "23505");
        instance.server.kill_and_restart().await.unwrap();
    }
    // More rows than a lookup holds.
    instance.run("UPDATE big SET a = 7 WHERE a < 50").await;
    assert_eq!(instance.value("SELECT count(*) FROM (SELECT id FROM big WHERE a = 7) AS s").await, "3000");
    assert_eq!(instance.lines("SELECT id FROM big WHERE a = 7").await.len(), 3000);
}

#[tokio::test]
async fn psql_shows_indexes() {
    let instance = start().await;
    instance.run("CREATE TABLE t (id INT PRIMARY KEY, a INT, b TEXT UNIQUE)").await;
    instance.run("CREATE MATERIALIZED VIEW v AS SELECT a, count(*) AS n FROM t GROUP BY a").await;
    // As dbt's adapter for Postgres does.
    instance.run("create index if not exists \"1f9e\" on \"tidemark\".\"public\".\"t\" using btree (a, b)").await;
    instance.run("CREATE INDEX ON v (n)").await;
    let shown = instance.psql_ok("\\d t");
    for line in
        ["\"t_pkey\" PRIMARY KEY, btree (id)", "\"1f9e\" btree (a, b)", "\"t_b_key\" UNIQUE CONSTRAINT, btree (b)"]
    {
        assert!(shown.contains(line), "{shown}");
    }
    assert!(instance.psql_ok("\\d v").contains("\"v_n_idx\" btree (n)"));
    let listed = instance.psql(&["-At", "-c", "\\di"]);
    let listed = text(&listed.stdout);
    for line in ["public|1f9e|index|tidemark|t", "public|v_n_idx|index|tidemark|v"] {
        assert!(listed.contains(line), "{listed}");
    }
}
