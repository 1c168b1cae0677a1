//! CREATE OR REPLACE of a view that takes its time: the old one goes on until the new one takes its place, over a kill too.

use std::pin::pin;

use futures::StreamExt;
use tokio::task::JoinHandle;
use tokio_postgres::Error;

use crate::harness::{Instance, start, text};

const ROWS: i64 = 20_000;

/// A view that is read, over a table with rows; `v` counts them by `k`, `best` reads `v`.
async fn counted() -> Instance {
    let instance = start().await;
    for sql in [
        "CREATE TABLE t (id INT PRIMARY KEY, k INT)".to_string(),
        format!("INSERT INTO t SELECT i, i % 4 FROM generate_series(1, {ROWS}) AS g (i)"),
        "CREATE MATERIALIZED VIEW v AS SELECT k, count(*) AS n FROM t GROUP BY k".into(),
        "CREATE INDEX v_n ON v (n)".into(),
        "CREATE MATERIALIZED VIEW best AS SELECT max(n) AS n, count(*) AS groups FROM v".into(),
    ] {
        instance.run(&sql).await;
    }
    instance
}

/// Begins to replace `v`, and stops where it would read the rows of `t`.
async fn replacing(instance: &Instance, query: &str) -> JoinHandle<Result<(), Error>> {
    let client = instance.client().await;
    let sql = format!("CREATE OR REPLACE MATERIALIZED VIEW v WITH (backfill_rate_limit = 0) AS {query}");
    let statement = tokio::spawn(async move { client.simple_query(&sql).await.map(|_| ()) });
    let job = "SELECT name, state FROM tidemark.jobs WHERE name LIKE 'v %'";
    instance.wait_for(job, &["v (replacement) backfilling"]).await;
    statement
}

const GO_ON: &str = "ALTER MATERIALIZED VIEW \"v (replacement)\" SET backfill_rate_limit TO DEFAULT";
const LEFT: &str = "SELECT count(*) FROM tidemark.objects WHERE name LIKE '%replacement%'";

fn code(result: Result<(), Error>) -> String {
    result.unwrap_err().code().expect("an error of the server").code().to_string()
}

#[tokio::test]
async fn the_old_one_goes_on_until_then() {
    let instance = counted().await;
    let statement = replacing(&instance, "SELECT k, sum(id) AS n FROM t GROUP BY k").await;
    instance.run(&format!("INSERT INTO t VALUES ({}, 3)", ROWS + 1)).await;
    assert_eq!(instance.value("SELECT n FROM v WHERE k = 3").await, "5001");
    assert_eq!(instance.value("SELECT * FROM best").await, "5001 4");
    assert!(!statement.is_finished());

    // A subscriber sees one epoch of changes, and goes on.
    let client = instance.client().await;
    let changes = client.copy_out("COPY (SUBSCRIBE v) TO STDOUT").await.unwrap();
    let mut changes = pin!(changes);
    let mut lines: Vec<String> = Vec::new();
    while lines.len() < 4 {
        lines.extend(text(&changes.next().await.unwrap().unwrap()).lines().map(String::from));
    }
    instance.run(GO_ON).await;
    statement.await.unwrap().unwrap();
    while lines.len() < 12 {
        lines.extend(text(&changes.next().await.unwrap().unwrap()).lines().map(String::from));
    }
    let epochs: Vec<&str> = lines[4..].iter().map(|line| line.split('\t').next().unwrap()).collect();
    assert!(epochs.iter().all(|epoch| *epoch == epochs[0]), "{lines:?}");

    let sum: i64 = (1..=ROWS).filter(|id| id % 4 == 3).sum::<i64>() + ROWS + 1;
    assert_eq!(instance.value(&format!("SELECT k FROM v WHERE n = {sum}")).await, "3");
    assert_eq!(instance.value("SELECT * FROM best").await, format!("{sum} 4"));
    assert_eq!(instance.value(LEFT).await, "0");
    for view in ["v", "best"] {
        assert!(instance.lines(&format!("VALIDATE MATERIALIZED VIEW {view}")).await.is_empty());
    }
}

#[tokio::test]
async fn a_kill_is_no_end_of_it() {
    let mut instance = counted().await;
    let statement = replacing(&instance, "SELECT k, sum(id) AS n FROM t WHERE k <> 0 GROUP BY k").await;
    instance.server.kill_and_restart().await.unwrap();
    statement.await.unwrap().unwrap_err();
    assert_eq!(instance.value("SELECT * FROM best").await, "5000 4");
    // Somebody begins to read the old one: that is waited for.
    instance.run("CREATE MATERIALIZED VIEW least AS SELECT min(n) AS n FROM v").await;
    instance.run(GO_ON).await;
    instance.wait_for(LEFT, &["0"]).await;
    let sum = |k: i64| (1..=ROWS).filter(|id| id % 4 == k).sum::<i64>();
    for _ in 0..2 {
        assert_eq!(instance.value("SELECT * FROM best").await, format!("{} 3", sum(3)));
        assert_eq!(instance.value("SELECT n FROM least").await, sum(1).to_string());
        assert_eq!(instance.value(&format!("SELECT k FROM v WHERE n = {}", sum(2))).await, "2");
        instance.server.kill_and_restart().await.unwrap();
        assert!(!instance.server.log_tail().contains("building it again"));
    }
    instance.run("DELETE FROM t WHERE id % 4 = 3").await;
    assert_eq!(instance.value("SELECT * FROM best").await, format!("{} 2", sum(2)));
}

#[tokio::test]
async fn it_can_be_given_up() {
    let instance = counted().await;
    let query = "SELECT k, sum(id) AS n FROM t GROUP BY k";

    let statement = replacing(&instance, query).await;
    instance.run("CANCEL JOB \"v (replacement)\"").await;
    assert_eq!(code(statement.await.unwrap()), "57014");
    assert_eq!(instance.value(LEFT).await, "0");

    // Another one takes over.
    let first = replacing(&instance, query).await;
    instance.run("CREATE OR REPLACE MATERIALIZED VIEW v AS SELECT k, count(*) + 1 AS n FROM t GROUP BY k").await;
    assert_eq!(code(first.await.unwrap()), "57014");
    assert_eq!(instance.value("SELECT * FROM best").await, "5001 4");

    // What it was to replace goes.
    let statement = replacing(&instance, "SELECT k, sum(id) AS n FROM t GROUP BY k HAVING k > 0").await;
    instance.run("DROP MATERIALIZED VIEW v CASCADE").await;
    assert_eq!(code(statement.await.unwrap()), "57014");
    assert_eq!(instance.value(LEFT).await, "0");
    instance.run("CREATE MATERIALIZED VIEW v AS SELECT 1 AS one").await;
}
