//! A large result goes through without being held: memory stays flat.

use futures::TryStreamExt;

use crate::harness::{Instance, start};

/// Resident memory of the server, in MB.
fn resident(instance: &Instance) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", instance.server.pid())).unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

#[tokio::test]
async fn ten_million_rows_hold_memory_flat() {
    const ROWS: u64 = 10_000_000;
    let instance = start().await;
    let client = instance.client().await;
    client.batch_execute("SELECT 1").await.unwrap();
    let before = resident(&instance);
    let sql = format!(
        "SELECT i, 'a row of some length, so that all of them weigh a gigabyte' AS t FROM generate_series(1, {ROWS}) AS g(i)"
    );
    let rows = client.query_raw(&sql, std::iter::empty::<i32>()).await.unwrap();
    let mut rows = std::pin::pin!(rows);
    let (mut n, mut most) = (0u64, 0);
    while rows.try_next().await.unwrap().is_some() {
        n += 1;
        if n.is_multiple_of(500_000) {
            most = most.max(resident(&instance));
        }
    }
    assert_eq!(n, ROWS);
    assert!(most < before + 200, "from {before} MB to {most} MB");
}

/// A generator without a limit, far faster than the view: it waits for the clock, and memory stays flat.
#[tokio::test]
async fn an_unlimited_source_holds_memory_flat() {
    let instance = start().await;
    let before = resident(&instance);
    instance
        .run(
            "CREATE SOURCE g (id BIGINT, word TEXT) WITH (connector = 'datagen', rows = 3000000, rows_per_second = 'unlimited', \
             fields.id.kind = 'sequence', fields.word.length = 100)",
        )
        .await;
    instance
        .run("CREATE MATERIALIZED VIEW v AS SELECT id % 10 AS k, count(*) AS n, max(word) AS w FROM g GROUP BY id % 10")
        .await;
    let mut most = 0;
    while instance.value("SELECT coalesce(sum(n), 0) FROM v").await != "3000000" {
        most = most.max(resident(&instance));
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert!(most < before + 500, "from {before} MB to {most} MB");
}
