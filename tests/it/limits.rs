//! Limits with a name: reaching one is an error with a hint or a wait, and harms nothing else.

use crate::harness::{start, start_with};

#[tokio::test]
async fn a_transaction_that_grows_too_large() {
    let instance = start_with(&["--max-transaction-bytes", "1MB"]).await;
    instance.run("CREATE TABLE t (id INT, s TEXT)").await;
    instance.run("CREATE MATERIALIZED VIEW n AS SELECT count(*) AS n FROM t").await;
    let insert = "INSERT INTO t SELECT i, repeat('x', 1000) FROM generate_series(1, 5000) AS g (i)";
    let error = instance.client().await.batch_execute(insert).await.expect_err("5 MB in a transaction of 1 MB");
    let error = error.as_db_error().unwrap();
    assert!(["54000", "53400"].contains(&error.code().code()), "{error:?}");
    let words = format!("{} {}", error.message(), error.hint().unwrap_or_default());
    assert!(words.contains("max_transaction_bytes"), "the limit has a name: {words}");
    assert_eq!(instance.value("SELECT n FROM n").await, "0");
    // In several statements it is the same.
    let client = instance.client().await;
    client.batch_execute("BEGIN").await.unwrap();
    let mut refused = None;
    for n in 0..5000 {
        if let Err(error) = client.execute("INSERT INTO t VALUES ($1, repeat('x', 1000))", &[&n]).await {
            refused = Some((n, error));
            break;
        }
    }
    let (n, error) = refused.expect("never refused");
    assert!(n > 100 && ["54000", "53400"].contains(&error.code().unwrap().code()), "{n}: {error:?}");
    client.batch_execute("ROLLBACK").await.unwrap();
    instance.run("INSERT INTO t VALUES (1, 'small')").await;
    assert_eq!(instance.value("SELECT n FROM n").await, "1");
}

#[tokio::test]
async fn a_query_that_needs_too_much_memory() {
    let instance = start_with(&["--query-memory-limit", "32MB"]).await;
    let client = instance.client().await;
    // A hash table of three million texts: refused or done on disk, but the server stays.
    let sql = "SELECT count(*) FROM (SELECT DISTINCT md5(i::text) AS t FROM generate_series(1, 3000000) AS g (i)) AS d";
    match client.query_one(sql, &[]).await {
        Ok(row) => assert_eq!(row.get::<_, i64>(0), 3_000_000),
        Err(error) => {
            let error = error.as_db_error().unwrap_or_else(|| panic!("{error:?}\n{}", instance.server.log_tail()));
            assert_eq!(error.code().code(), "53200", "{error:?}");
        }
    }
    assert_eq!(instance.value("SELECT 1").await, "1");
}

#[tokio::test]
async fn many_sessions_at_once() {
    let instance = start().await;
    instance.run("CREATE TABLE t (id INT, session INT)").await;
    instance.run("CREATE MATERIALIZED VIEW v AS SELECT session, count(*) AS n FROM t GROUP BY session").await;
    let mut sessions = Vec::new();
    for session in 0..50i32 {
        let client = instance.client().await;
        sessions.push(tokio::spawn(async move {
            for id in 0..20i32 {
                client.execute("INSERT INTO t VALUES ($1, $2)", &[&id, &session]).await.unwrap();
            }
            // What it wrote, it reads.
            client.query_one("SELECT n FROM v WHERE session = $1", &[&session]).await.unwrap().get::<_, i64>(0)
        }));
    }
    for session in sessions {
        assert_eq!(session.await.unwrap(), 20);
    }
    assert_eq!(instance.value("SELECT count(*), sum(n) FROM v").await, "50 1000");
}
