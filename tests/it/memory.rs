//! A large result goes through without being held: memory stays flat.

use futures::TryStreamExt;

use crate::harness::{Instance, start, start_with};

/// Resident memory of the server, in MB.
fn resident(instance: &Instance) -> u64 {
    memory(instance, "VmRSS:")
}

/// A figure of /proc, in MB.
fn memory(instance: &Instance, figure: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", instance.server.pid())).unwrap();
    let line = status.lines().find(|l| l.starts_with(figure)).unwrap();
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

/// The same through a cursor: some rows come to the client, most are passed over.
#[tokio::test]
async fn a_cursor_over_ten_million_rows_holds_memory_flat() {
    const ROWS: u64 = 10_000_000;
    let instance = start().await;
    let client = instance.client().await;
    client.batch_execute("SELECT 1").await.unwrap();
    let before = resident(&instance);
    let declare = format!(
        "BEGIN; DECLARE c NO SCROLL CURSOR FOR SELECT i, 'a row of some length, so that all of them weigh a gigabyte' AS t \
         FROM generate_series(1, {ROWS}) AS g(i)"
    );
    client.batch_execute(&declare).await.unwrap();
    let (mut rows, mut most) = (0u64, 0);
    for _ in 0..100 {
        rows += client.query("FETCH 1000 FROM c", &[]).await.unwrap().len() as u64;
        rows += client.execute("MOVE 99000 FROM c", &[]).await.unwrap();
        most = most.max(resident(&instance));
    }
    assert_eq!(rows, ROWS);
    assert!(client.query("FETCH c", &[]).await.unwrap().is_empty());
    assert!(most < before + 200, "from {before} MB to {most} MB");
}

/// A statement that would change more than a transaction may hold is refused while it reads, not after.
#[tokio::test]
async fn changing_too_many_rows_holds_memory_within_the_limit() {
    let flags = ["--max-transaction-bytes", "32MB", "--block-cache-bytes", "16MB", "--epoch-interval", "10s"];
    let instance = start_with(&flags).await;
    instance.run("CREATE TABLE t (id INT PRIMARY KEY, s TEXT)").await;
    for part in 0..40 {
        let (from, to) = (part * 5000, part * 5000 + 4999);
        instance
            .run(&format!("INSERT INTO t SELECT i, repeat('x', 2000) FROM generate_series({from}, {to}) AS g (i)"))
            .await;
    }
    let statements = [
        "UPDATE t SET s = s || 'y'",
        "UPDATE t SET s = 'short' RETURNING id",
        "DELETE FROM t",
        "DELETE FROM t RETURNING *",
        "BEGIN; TRUNCATE t",
        "INSERT INTO t SELECT id + 1000000, s FROM t",
        "INSERT INTO t SELECT id, s FROM t ON CONFLICT (id) DO UPDATE SET s = excluded.s || 'z'",
    ];
    for sql in statements {
        // The highest so far is forgotten.
        std::fs::write(format!("/proc/{}/clear_refs", instance.server.pid()), "5").unwrap();
        let before = resident(&instance);
        let (code, message) = instance.error(sql).await;
        assert_eq!(code, "53400", "{sql}: {message}");
        assert!(message.contains("max_transaction_bytes"), "{sql}: {message}");
        let most = memory(&instance, "VmHWM:");
        assert!(most < before + 5 * 32, "{sql}: from {before} MB to {most} MB");
    }
    assert_eq!(instance.value("SELECT count(*), max(length(s)) FROM t").await, "200000 2000");
    // In pieces it goes.
    instance.run("DELETE FROM t WHERE id < 5000").await;
    assert_eq!(instance.value("SELECT count(*) FROM t").await, "195000");
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
