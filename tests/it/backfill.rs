//! A view made over rows that are there already: what tidemark.jobs says of it on the way, also over a kill.

use crate::harness::{Instance, start};

const ROWS: i64 = 300_000;

/// Done, total, progress, and when it began.
async fn job(instance: &Instance) -> Option<(i64, i64, f64, String)> {
    let sql = "SELECT rows_done, rows_total, progress, started_at FROM tidemark.jobs WHERE name = 'v' AND state = 'backfilling'";
    let lines = instance.lines(sql).await;
    let fields: Vec<&str> = lines.first()?.splitn(4, ' ').collect();
    Some((fields[0].parse().unwrap(), fields[1].parse().unwrap(), fields[2].parse().unwrap(), fields[3].to_string()))
}

#[tokio::test]
async fn jobs_tell_how_far_it_is() {
    let mut instance = start().await;
    instance.run("CREATE TABLE t (a INT PRIMARY KEY, b TEXT)").await;
    instance.run(&format!("INSERT INTO t SELECT i, 'row ' || i FROM generate_series(1, {ROWS}) AS g(i)")).await;
    let client = instance.client().await;
    let create = tokio::spawn(async move {
        // Ends with an error when the server is killed under it.
        let _ = client.simple_query("CREATE MATERIALIZED VIEW v AS SELECT b, count(*) AS n FROM t GROUP BY b").await;
    });
    let (done, began) = loop {
        if let Some((done, total, progress, began)) = job(&instance).await
            && done > 0
        {
            assert_eq!(total, ROWS);
            assert!((progress - done as f64 / total as f64).abs() < 1e-9, "{progress} of {done} / {total}");
            break (done, began);
        }
        assert!(!create.is_finished(), "built before anyone saw it: more rows");
    };
    instance.server.kill_and_restart().await.unwrap();
    create.await.unwrap();
    if let Some((later, _, _, still)) = job(&instance).await {
        assert!(later >= done, "{later} rows after {done}");
        assert_eq!(still, began);
    }
    let end = format!("running {ROWS} {ROWS} 1 {began}");
    instance
        .wait_for(
            "SELECT state, rows_done, rows_total, progress, started_at FROM tidemark.jobs WHERE name = 'v'",
            &[end.as_str()],
        )
        .await;
    assert_eq!(instance.value("SELECT count(*), sum(n) FROM v").await, format!("{ROWS} {ROWS}"));
}
