//! Transactions between sessions: one epoch at COMMIT, one snapshot to read from, one's own writes.

use std::collections::BTreeMap;

use crate::harness::{Random, start};

#[tokio::test]
async fn writes_become_visible_at_commit_all_at_once() {
    let instance = start().await;
    instance.run("CREATE TABLE t (a INT); CREATE MATERIALIZED VIEW v AS SELECT count(*) AS n FROM t").await;
    let (writer, reader) = (instance.client().await, instance.client().await);
    writer.batch_execute("BEGIN; INSERT INTO t VALUES (1); INSERT INTO t VALUES (2)").await.unwrap();
    assert_eq!(writer.query_one("SELECT count(*) FROM t", &[]).await.unwrap().get::<_, i64>(0), 2, "its own writes");
    assert_eq!(reader.query_one("SELECT count(*) FROM t", &[]).await.unwrap().get::<_, i64>(0), 0);
    writer.batch_execute("COMMIT").await.unwrap();
    assert_eq!(reader.query_one("SELECT count(*) FROM t", &[]).await.unwrap().get::<_, i64>(0), 2);
    assert_eq!(reader.query_one("SELECT n FROM v", &[]).await.unwrap().get::<_, i64>(0), 2);
}

#[tokio::test]
async fn reads_of_a_transaction_see_one_snapshot() {
    let instance = start().await;
    instance.run("CREATE TABLE t (a INT); CREATE MATERIALIZED VIEW v AS SELECT count(*) AS n FROM t").await;
    instance.run("INSERT INTO t VALUES (1)").await;
    let (writer, reader) = (instance.client().await, instance.client().await);
    reader.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ").await.unwrap();
    assert_eq!(reader.query_one("SELECT n FROM v", &[]).await.unwrap().get::<_, i64>(0), 1);
    writer.batch_execute("INSERT INTO t VALUES (2), (3)").await.unwrap();
    assert_eq!(reader.query_one("SELECT n FROM v", &[]).await.unwrap().get::<_, i64>(0), 1);
    assert_eq!(reader.query_one("SELECT count(*) FROM t", &[]).await.unwrap().get::<_, i64>(0), 1);
    reader.batch_execute("COMMIT").await.unwrap();
    assert_eq!(reader.query_one("SELECT n FROM v", &[]).await.unwrap().get::<_, i64>(0), 3);
}

#[tokio::test]
async fn savepoints_take_back_a_part() {
    let instance = start().await;
    instance.run("CREATE TABLE t (a INT PRIMARY KEY)").await;
    let client = instance.client().await;
    client.batch_execute("BEGIN; INSERT INTO t VALUES (1); SAVEPOINT s; INSERT INTO t VALUES (2)").await.unwrap();
    // A failed statement fails the transaction, and ROLLBACK TO heals it.
    let error = client.batch_execute("INSERT INTO t VALUES (1)").await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "23505");
    let error = client.batch_execute("SELECT 1").await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "25P02");
    client.batch_execute("ROLLBACK TO s; INSERT INTO t VALUES (3); RELEASE s; COMMIT").await.unwrap();
    assert_eq!(instance.lines("SELECT a FROM t ORDER BY a").await, ["1", "3"]);
}

#[tokio::test]
async fn of_two_that_write_the_same_row_one_is_told() {
    let instance = start().await;
    instance.run("CREATE TABLE t (id INT PRIMARY KEY, n INT); INSERT INTO t VALUES (1, 0)").await;
    let (one, two) = (instance.client().await, instance.client().await);
    one.batch_execute("BEGIN; UPDATE t SET n = n + 1 WHERE id = 1").await.unwrap();
    two.batch_execute("BEGIN").await.unwrap();
    two.simple_query("SELECT * FROM t").await.unwrap();
    // It may be told at the UPDATE or at the COMMIT, but neither change may be lost silently.
    let update = tokio::spawn(async move {
        let updated = two.batch_execute("UPDATE t SET n = n + 10 WHERE id = 1").await;
        let committed = two.batch_execute("COMMIT").await;
        (updated, committed)
    });
    one.batch_execute("COMMIT").await.unwrap();
    let (updated, committed) = update.await.unwrap();
    let n = instance.value("SELECT n FROM t").await;
    match updated.and(committed) {
        Ok(()) => assert_eq!(n, "11", "both said they were done"),
        Err(e) => {
            assert_eq!(e.code().unwrap().code(), "40001");
            assert_eq!(n, "1");
        }
    }
}

#[tokio::test]
async fn concurrent_increments_are_not_lost() {
    let instance = start().await;
    instance.run("CREATE TABLE t (id INT PRIMARY KEY, n INT); INSERT INTO t VALUES (1, 0)").await;
    let mut sessions = Vec::new();
    for _ in 0..4 {
        let client = instance.client().await;
        sessions.push(tokio::spawn(async move {
            let mut done = 0;
            for _ in 0..25 {
                match client.execute("UPDATE t SET n = n + 1 WHERE id = 1", &[]).await {
                    Ok(n) => done += n,
                    Err(e) => assert_eq!(e.code().unwrap().code(), "40001", "{e:?}"),
                }
            }
            done
        }));
    }
    let mut done = 0;
    for session in sessions {
        done += session.await.unwrap();
    }
    assert!(done > 0);
    assert_eq!(instance.value("SELECT n FROM t").await, done.to_string());
}

#[tokio::test]
async fn a_dropped_connection_takes_its_transaction_with_it() {
    let instance = start().await;
    instance.run("CREATE TABLE t (a INT)").await;
    {
        let client = instance.client().await;
        client.batch_execute("BEGIN; INSERT INTO t VALUES (1)").await.unwrap();
    }
    instance.run("INSERT INTO t VALUES (2)").await;
    assert_eq!(instance.lines("SELECT a FROM t").await, ["2"]);
}

#[tokio::test]
async fn a_temporary_table_is_its_sessions_own() {
    let instance = start().await;
    let (one, two) = (instance.client().await, instance.client().await);
    one.batch_execute("CREATE TEMP TABLE t (a INT); INSERT INTO t VALUES (1)").await.unwrap();
    let error = two.batch_execute("SELECT * FROM t").await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "42P01");
    two.batch_execute("CREATE TEMP TABLE t (b TEXT)").await.unwrap();
    assert_eq!(one.query_one("SELECT a FROM t", &[]).await.unwrap().get::<_, i32>(0), 1);
}

/// Promise 3: what a statement wrote is in every view downstream when it returns.
#[tokio::test]
async fn you_read_what_you_wrote() {
    let instance = start().await;
    instance.run("CREATE TABLE t (k INT, a INT)").await;
    instance.run("CREATE MATERIALIZED VIEW v1 AS SELECT k, sum(a) AS s FROM t GROUP BY k").await;
    instance.run("CREATE MATERIALIZED VIEW v2 AS SELECT count(*) AS groups, sum(s) AS total FROM v1").await;
    let client = instance.client().await;
    let mut total = 0i64;
    for n in 0..50i32 {
        client.execute("INSERT INTO t VALUES ($1, $2)", &[&(n % 5), &n]).await.unwrap();
        total += i64::from(n);
        let row = client.query_one("SELECT groups, total::bigint FROM v2", &[]).await.unwrap();
        assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (i64::from(n.min(4) + 1), total));
    }
}

/// A long transaction at random against a model: what it reads, whole and by key, is what it has done.
#[tokio::test]
async fn a_long_transaction_reads_its_own_changes() {
    let instance = start().await;
    instance.run("CREATE TABLE t (id INT PRIMARY KEY, u INT UNIQUE, n INT)").await;
    instance.run("INSERT INTO t SELECT i, -i, 0 FROM generate_series(0, 49) AS g (i)").await;
    instance.run("CREATE MATERIALIZED VIEW v AS SELECT count(*) AS rows, sum(n) AS n FROM t").await;
    let client = instance.client().await;
    for seed in 1..4 {
        let mut random = Random::new(seed);
        let mut model: BTreeMap<i32, i32> = BTreeMap::new();
        for row in client.query("SELECT id, n FROM t", &[]).await.unwrap() {
            model.insert(row.get(0), row.get(1));
        }
        let mut saved = model.clone();
        client.batch_execute("BEGIN; SAVEPOINT s").await.unwrap();
        for step in 0..300i32 {
            let id = random.below(100) as i32;
            match random.below(12) {
                0..=3 => {
                    let free = !model.contains_key(&id);
                    let sql = "INSERT INTO t VALUES ($1, -$1::INT, $2) ON CONFLICT DO NOTHING";
                    let inserted = client.execute(sql, &[&id, &step]).await.unwrap();
                    assert_eq!(inserted, u64::from(free), "{id}");
                    model.entry(id).or_insert(step);
                }
                4..=6 => {
                    let updated = client.execute("UPDATE t SET n = $2 WHERE id = $1", &[&id, &step]).await.unwrap();
                    assert_eq!(updated, u64::from(model.contains_key(&id)));
                    model.entry(id).and_modify(|n| *n = step);
                }
                7 => {
                    let deleted =
                        client.execute("DELETE FROM t WHERE id BETWEEN $1::INT AND $1::INT + 3", &[&id]).await.unwrap();
                    let before = model.len();
                    model.retain(|key, _| !(id..=id + 3).contains(key));
                    assert_eq!(deleted as usize, before - model.len());
                }
                8 => {
                    client.batch_execute("SAVEPOINT s").await.unwrap();
                    saved = model.clone();
                }
                9 => {
                    // A row that is there is in the way, under either key.
                    let taken = model.keys().next().copied().unwrap_or(0);
                    let sql = format!("INSERT INTO t VALUES ({}, {}, 0)", 1000 + step, -taken);
                    let result = client.batch_execute(&sql).await;
                    assert_eq!(result.is_err(), !model.is_empty(), "{sql}");
                    client.batch_execute("ROLLBACK TO s").await.unwrap();
                    model = saved.clone();
                }
                10 => {
                    let rows =
                        client.query("SELECT id, n FROM t WHERE id >= $1 ORDER BY id LIMIT 5", &[&id]).await.unwrap();
                    let rows: Vec<(i32, i32)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
                    let expected: Vec<(i32, i32)> = model.range(id..).take(5).map(|(id, n)| (*id, *n)).collect();
                    assert_eq!(rows, expected);
                }
                _ => {
                    let row = client.query_opt("SELECT n FROM t WHERE id = $1", &[&id]).await.unwrap();
                    assert_eq!(row.map(|row| row.get::<_, i32>(0)), model.get(&id).copied());
                }
            }
        }
        let all = client.query("SELECT id, n, u FROM t ORDER BY id", &[]).await.unwrap();
        let all: BTreeMap<i32, i32> = all.iter().map(|row| (row.get(0), row.get(1))).collect();
        assert_eq!(all, model, "seed {seed}");
        client.batch_execute("COMMIT").await.unwrap();
        let expected = format!("{} {}", model.len(), model.values().sum::<i32>());
        assert_eq!(instance.value("SELECT rows, n FROM v").await, expected, "seed {seed}");
        assert_eq!(instance.value("SELECT count(*), sum(n) FROM t").await, expected, "seed {seed}");
    }
}
