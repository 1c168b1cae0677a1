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

/// One that may read slowly is cancelled: others keep their pace, its creator is told, and the name is free.
#[tokio::test]
async fn a_slow_one_is_cancelled() {
    let instance = start().await;
    instance.run("CREATE TABLE t (a INT PRIMARY KEY)").await;
    instance.run("INSERT INTO t SELECT i FROM generate_series(1, 100000) AS g(i)").await;
    let client = instance.client().await;
    let create = tokio::spawn(async move {
        client.simple_query("CREATE MATERIALIZED VIEW v WITH (backfill_rate_limit = 50) AS SELECT a FROM t").await
    });
    instance.wait_for("SELECT rows_done > 0 FROM tidemark.jobs WHERE name = 'v'", &["t"]).await;
    instance.run("CREATE MATERIALIZED VIEW other AS SELECT count(*) AS n FROM t").await;
    instance.run("INSERT INTO t VALUES (0)").await;
    assert_eq!(instance.value("SELECT n FROM other").await, "100001");
    assert_eq!(
        instance.value("SELECT state, rows_total FROM tidemark.jobs WHERE name = 'v'").await,
        "backfilling 100001"
    );
    assert_eq!(instance.error("SELECT count(*) FROM v").await.0, "55000");

    instance.run("CANCEL JOB v").await;
    let error = create.await.unwrap().unwrap_err();
    assert_eq!(error.as_db_error().unwrap().code().code(), "57014", "{error:?}");
    assert_eq!(instance.value("SELECT count(*) FROM tidemark.objects WHERE name = 'v'").await, "0");
    assert_eq!(instance.value("SELECT count(*) FROM tidemark.jobs WHERE name = 'v'").await, "0");
    instance.run("CREATE MATERIALIZED VIEW v AS SELECT count(*) AS n FROM t").await;
    assert_eq!(instance.value("SELECT n FROM v").await, "100001");
}

/// The limit is part of the view over a kill, can be changed while it is built, and holds for sources too.
#[tokio::test]
async fn a_limit_can_be_changed_on_the_way() {
    let mut instance = start().await;
    instance.run("CREATE TABLE t (a INT PRIMARY KEY)").await;
    instance.run("INSERT INTO t SELECT i FROM generate_series(1, 50000) AS g(i)").await;
    instance
        .run(
            "CREATE SOURCE s (id INT) WITH (connector = 'datagen', rows = 20000, rows_per_second = 'unlimited', \
             fields.id.kind = 'sequence')",
        )
        .await;
    instance.run("CREATE MATERIALIZED VIEW reads AS SELECT count(*) AS n FROM s").await;
    instance.wait_for("SELECT n FROM reads", &["20000"]).await;
    let client = instance.client().await;
    let create = tokio::spawn(async move {
        // Ends with an error when the server is killed under it.
        let _ =
            client.simple_query("CREATE MATERIALIZED VIEW v WITH (backfill_rate_limit = 0) AS SELECT a FROM t").await;
    });
    let client = instance.client().await;
    let replay = tokio::spawn(async move {
        // In a message of its own: two that change the catalog at the same time, and it runs again.
        client.simple_query("SET backfill_rate_limit = 0").await.unwrap();
        let _ = client.simple_query("CREATE MATERIALIZED VIEW w AS SELECT count(*) AS n FROM s").await;
    });
    let both = "SELECT name, state, rows_done FROM tidemark.jobs WHERE name IN ('v', 'w') ORDER BY 1";
    instance.wait_for(both, &["v backfilling 0", "w backfilling 0"]).await;
    instance.server.kill_and_restart().await.unwrap();
    create.await.unwrap();
    replay.await.unwrap();
    instance.run("INSERT INTO t VALUES (0)").await;
    instance.wait_for(both, &["v backfilling 0", "w backfilling 0"]).await;
    instance.run("ALTER MATERIALIZED VIEW v SET backfill_rate_limit = 1000000").await;
    instance.run("ALTER MATERIALIZED VIEW w SET backfill_rate_limit TO DEFAULT").await;
    instance.wait_for(both, &["v running 50001", "w running 20000"]).await;
    assert_eq!(instance.value("SELECT count(*) FROM v").await, "50001");
    assert_eq!(instance.value("SELECT n FROM w").await, "20000");
}

/// While both inputs of a join are read, rows that the backfill has not come to are not found, and changes go on over a kill.
#[tokio::test]
async fn a_join_looks_up_only_what_was_read() {
    let mut instance = start().await;
    instance.run("CREATE TABLE a (id INT PRIMARY KEY, k INT)").await;
    instance.run("CREATE TABLE b (k INT, n INT)").await;
    instance.run("CREATE INDEX b_k ON b (k)").await;
    instance.run("INSERT INTO a SELECT i, i % 5000 FROM generate_series(1, 20000) AS g(i)").await;
    instance.run("INSERT INTO b SELECT i % 5000, i FROM generate_series(1, 10000) AS g(i)").await;
    instance.run("CREATE INDEX a_k ON a (k)").await;
    let client = instance.client().await;
    let create = tokio::spawn(async move {
        client.simple_query("SET backfill_rate_limit = 10000").await.unwrap();
        // Ends with an error when the server is killed under it.
        let join = "SELECT a.id, b.n FROM a JOIN b ON a.k = b.k";
        let _ = client.simple_query(&format!("CREATE MATERIALIZED VIEW v AS {join}")).await;
    });
    instance.wait_for("SELECT rows_done > 3000 FROM tidemark.jobs WHERE name = 'v'", &["t"]).await;
    for step in 0..6 {
        let half = if step < 3 { "id < 10000" } else { "id > 10000" };
        instance.run(&format!("UPDATE a SET k = k + 1 WHERE {half} AND id % 7 = {step}")).await;
        instance.run(&format!("UPDATE b SET k = 4999 - k WHERE n % 11 = {step}")).await;
        instance.run(&format!("BEGIN; DELETE FROM a WHERE k = {step}; DELETE FROM b WHERE k = {step}; COMMIT")).await;
        if step == 2 {
            assert_eq!(instance.value("SELECT state FROM tidemark.jobs WHERE name = 'v'").await, "backfilling");
            instance.server.kill_and_restart().await.unwrap();
        }
    }
    create.await.unwrap();
    instance.run("ALTER MATERIALIZED VIEW v SET backfill_rate_limit TO DEFAULT").await;
    instance.wait_for("SELECT state FROM tidemark.jobs WHERE name = 'v'", &["running"]).await;
    instance.run("INSERT INTO b SELECT k, -id FROM a WHERE id < 50").await;
    assert_eq!(instance.lines("VALIDATE MATERIALIZED VIEW v").await, Vec::<String>::new());
    assert_ne!(instance.value("SELECT count(*) FROM v").await, "0");
    assert!(
        instance.lines("EXPLAIN MATERIALIZED VIEW v").await.concat().contains("keeps nothing, looks up in public.a")
    );
}
