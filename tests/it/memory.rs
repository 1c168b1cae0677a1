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
