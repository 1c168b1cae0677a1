//! SUBSCRIBE: a snapshot, then changes with epoch and weight, until cancelled.

use std::pin::pin;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use tokio_postgres::NoTls;

use crate::harness::{Instance, start, text};

/// Lines of a COPY (SUBSCRIBE ..) TO STDOUT, without the epoch in front, until there are `n`.
async fn lines_until(instance: &Instance, sql: &str, snapshot: usize, n: usize, then: &[&str]) -> Vec<Vec<String>> {
    let client = instance.client().await;
    let token = client.cancel_token();
    let stream = client.copy_out::<_>(&format!("COPY (SUBSCRIBE {sql}) TO STDOUT")).await.unwrap();
    let mut stream = pin!(stream);
    let (mut bytes, mut then) = (Vec::new(), then.iter());
    let mut asked = snapshot;
    loop {
        let lines: Vec<Vec<String>> = text(&bytes).lines().map(|l| l.split('\t').map(String::from).collect()).collect();
        if lines.len() >= n {
            token.cancel_query(NoTls).await.unwrap();
            let rest: Result<Vec<Bytes>, _> = stream.try_collect().await;
            assert_eq!(rest.unwrap_err().code().map(|c| c.code()), Some("57014"));
            return lines;
        }
        // The next change is made when all lines so far are here.
        if lines.len() >= asked {
            if let Some(sql) = then.next() {
                instance.run(sql).await;
            }
            asked = lines.len() + 1;
        }
        bytes.extend(stream.next().await.expect("it never ends by itself").unwrap());
    }
}

#[tokio::test]
async fn snapshot_then_changes() {
    let instance = start().await;
    instance.run("CREATE TABLE t (k TEXT, a INT); INSERT INTO t VALUES ('x', 1), ('y', 2)").await;
    instance.run("CREATE MATERIALIZED VIEW v AS SELECT k, sum(a) AS s FROM t GROUP BY k").await;
    let lines =
        lines_until(&instance, "v", 2, 5, &["INSERT INTO t VALUES ('x', 10)", "DELETE FROM t WHERE k = 'y'"]).await;
    // epoch, weight, then the columns
    let mut snapshot: Vec<&[String]> = lines[..2].iter().map(|l| &l[1..]).collect();
    snapshot.sort();
    assert_eq!(snapshot, [["1", "x", "1"], ["1", "y", "2"]]);
    let mut update: Vec<&[String]> = lines[2..4].iter().map(|l| &l[1..]).collect();
    update.sort();
    assert_eq!(update, [["-1", "x", "1"], ["1", "x", "11"]]);
    assert_eq!(lines[2][0], lines[3][0], "an update is of one epoch");
    assert_eq!(&lines[4][1..], ["-1", "y", "2"]);
    let epochs: Vec<u64> = lines.iter().map(|l| l[0].parse().unwrap()).collect();
    assert!(epochs.is_sorted(), "{epochs:?}");
}

/// Rows are sent as they happen, not when some buffer is full.
#[tokio::test]
async fn rows_come_as_they_happen() {
    let instance = start().await;
    instance.run("CREATE TABLE t (a INT)").await;
    let statements: Vec<String> = (0..5).map(|n| format!("INSERT INTO t VALUES ({n})")).collect();
    let statements: Vec<&str> = statements.iter().map(String::as_str).collect();
    let client = instance.client().await;
    let rows = client.query_raw("SUBSCRIBE t", std::iter::empty::<i32>()).await.unwrap();
    let mut rows = pin!(rows);
    for (n, sql) in statements.iter().enumerate() {
        instance.run(sql).await;
        let row = rows.try_next().await.unwrap().expect("it never ends by itself");
        assert_eq!(row.get::<_, i32>(2), n as i32);
    }
}

#[tokio::test]
async fn without_a_snapshot() {
    let instance = start().await;
    instance.run("CREATE TABLE t (a INT); INSERT INTO t VALUES (1)").await;
    let client = instance.client().await;
    let rows = client.query_raw("SUBSCRIBE t WITH (snapshot = false)", std::iter::empty::<i32>()).await.unwrap();
    let mut rows = pin!(rows);
    // When it begins to listen is not known from outside: insert until it has heard one.
    let inserting = async {
        loop {
            instance.run("INSERT INTO t VALUES (2)").await;
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        row = rows.try_next() => assert_eq!(row.unwrap().unwrap().get::<_, i32>(2), 2),
        () = inserting => {}
    }
}

#[tokio::test]
async fn what_cannot_be_subscribed_to_is_refused() {
    let instance = start().await;
    assert_eq!(instance.error("SUBSCRIBE nothing").await.0, "42P01");
}
