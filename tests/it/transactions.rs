//! Transactions between sessions: one epoch at COMMIT, one snapshot to read from, one's own writes.

use crate::harness::start;

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
