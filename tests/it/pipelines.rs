//! Pipelines on a running server: schedules, what follows what, attempts, SIGKILL in the middle of runs, alerts.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::harness::{Random, start};

#[tokio::test]
async fn schedules_are_kept_and_what_comes_after_follows() {
    let mut instance = start().await;
    instance.run("CREATE TABLE raw (id INT PRIMARY KEY); INSERT INTO raw VALUES (1), (2)").await;
    for table in ["a", "b", "c"] {
        instance.run(&format!("CREATE TABLE {table} (id INT PRIMARY KEY) WITH (strategy = 'merge')")).await;
    }
    instance.run("CREATE PIPELINE a INTO a EVERY INTERVAL '1 second' AS SELECT id FROM raw").await;
    instance.run("CREATE PIPELINE b INTO b AFTER a AS SELECT id + 10 AS id FROM a").await;
    instance.run("CREATE PIPELINE c INTO c AFTER a, b AS SELECT id FROM a UNION ALL SELECT id FROM b").await;
    instance.wait_for("SELECT id FROM c ORDER BY id", &["1", "2", "11", "12"]).await;
    let parent = "SELECT DISTINCT r.pipeline, p.pipeline FROM tidemark.run_history r \
                  JOIN tidemark.run_history p ON p.run = r.parent WHERE r.pipeline = 'b'";
    assert_eq!(instance.lines(parent).await, ["b a"]);
    let late = "SELECT count(*) > 0 FROM tidemark.run_history WHERE trigger = 'schedule' AND started >= scheduled_for";
    assert_eq!(instance.value(late).await, "t");

    instance.run("ALTER PIPELINE a PAUSE").await;
    instance.wait_for("SELECT count(*) FROM tidemark.run_history WHERE status = 'running'", &["0"]).await;
    let runs = instance.value("SELECT count(*) FROM tidemark.run_history WHERE pipeline = 'a'").await;
    instance.run("INSERT INTO raw VALUES (3)").await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(instance.value("SELECT count(*) FROM tidemark.run_history WHERE pipeline = 'a'").await, runs);

    // Paused it stays, also over a restart, and goes on as if nothing had been missed.
    instance.server.kill_and_restart().await.unwrap();
    assert_eq!(
        instance.lines("SELECT name, state FROM tidemark.pipelines ORDER BY 1").await,
        ["a paused", "b idle", "c idle"]
    );
    instance.run("ALTER PIPELINE a RESUME").await;
    instance.wait_for("SELECT count(*) FROM c", &["6"]).await;
}

#[tokio::test]
async fn runs_that_are_killed_are_done_once() {
    let mut instance = start().await;
    instance.run("CREATE TABLE raw (id BIGINT PRIMARY KEY)").await;
    instance.run("CREATE TABLE copy (id BIGINT) WITH (strategy = 'append', batch_id = true)").await;
    instance
        .run("CREATE PIPELINE p INTO copy EVERY INTERVAL '1 second' WITH (incremental_column = 'id', catch_up = 'all') AS SELECT id FROM raw")
        .await;
    let mut random = Random::new(7);
    let mut next = 0;
    for _ in 0..5 {
        let until = next + 20_000 + random.below(30_000);
        instance.run(&format!("INSERT INTO raw SELECT * FROM generate_series({next}, {until})")).await;
        next = until + 1;
        tokio::time::sleep(Duration::from_millis(300 + random.below(1200))).await;
        instance.server.kill_and_restart().await.unwrap();
    }
    instance.wait_for("SELECT count(*) = (SELECT count(*) FROM raw) FROM copy", &["t"]).await;
    instance.run("ALTER PIPELINE p PAUSE").await;
    instance.wait_for("SELECT count(*) FROM tidemark.run_history WHERE status = 'running'", &["0"]).await;
    assert_eq!(instance.value("SELECT count(*) - count(DISTINCT id) FROM copy").await, "0");
    let told = "SELECT sum(rows_in) FROM tidemark.run_history WHERE status = 'succeeded'";
    assert_eq!(instance.value(told).await, next.to_string());
    let mark = instance.value("SELECT value FROM tidemark.watermarks").await;
    assert_eq!(mark, (next - 1).to_string());
}

#[tokio::test]
async fn a_run_that_was_cut_off_is_marked_and_taken_up_again() {
    let mut instance = start().await;
    instance.run("CREATE TABLE t (n BIGINT PRIMARY KEY, s TEXT) WITH (strategy = 'merge')").await;
    instance
        .run("CREATE PIPELINE slow INTO t AS SELECT n, repeat('x', 20) AS s FROM generate_series(1, 300000) AS g (n)")
        .await;
    let client = instance.client().await;
    let run = tokio::spawn(async move { client.batch_execute("RUN PIPELINE slow").await });
    instance.wait_for("SELECT status FROM tidemark.run_history", &["running"]).await;
    let (code, message) = instance.error("RUN PIPELINE slow").await;
    assert_eq!((code.as_str(), message.as_str()), ("55006", "pipeline \"slow\" is running"));
    instance.server.kill_and_restart().await.unwrap();
    assert!(run.await.unwrap().is_err());
    let history = "SELECT run, attempt, status FROM tidemark.run_history ORDER BY attempt";
    instance.wait_for(history, &["1 1 interrupted", "1 2 succeeded"]).await;
    assert_eq!(instance.value("SELECT count(*) FROM t").await, "300000");
}

#[tokio::test]
async fn attempts_follow_one_another_and_end() {
    let instance = start().await;
    instance.run("CREATE TABLE raw (n INT); INSERT INTO raw VALUES (0)").await;
    instance.run("CREATE TABLE t (n INT)").await;
    instance
        .run("CREATE PIPELINE p INTO t WITH (retries = 2, retry_backoff = '200 milliseconds') AS SELECT 10 / n AS n FROM raw")
        .await;
    let (code, message) = instance.error("RUN PIPELINE p").await;
    assert_eq!((code.as_str(), message.as_str()), ("22012", "pipeline \"p\", run 1: division by zero"));
    let history = "SELECT run, attempt, status, sqlstate FROM tidemark.run_history ORDER BY run, attempt";
    let failed = ["1 1 failed 22012", "1 2 failed 22012", "1 3 failed 22012"];
    assert_eq!(instance.lines(history).await, failed);

    instance.run("ALTER PIPELINE p SET (retries = 20)").await;
    let client = instance.client().await;
    let run = tokio::spawn(async move { client.batch_execute("RUN PIPELINE p").await });
    instance.wait_for("SELECT count(*) > 1 FROM tidemark.run_history WHERE run = 2", &["t"]).await;
    instance.run("UPDATE raw SET n = 5").await;
    run.await.unwrap().unwrap();
    assert_eq!(instance.value("SELECT n FROM t").await, "2");

    // Ctrl-C, and the pipeline's own bound.
    instance.run("CREATE PIPELINE slow INTO t WITH (timeout = '300 milliseconds', retries = 5, retry_backoff = '1 minute') AS SELECT count(*)::int AS n FROM generate_series(1, 100000) a (x) JOIN generate_series(1, 100000) b (x) ON a.x % 100 <> b.x % 101").await;
    let client = instance.client().await;
    let token = client.cancel_token();
    let run = tokio::spawn(async move { client.batch_execute("RUN PIPELINE slow").await });
    let of_slow = "SELECT status, error FROM tidemark.run_history WHERE pipeline = 'slow'";
    instance.wait_for(of_slow, &["failed the attempt took longer than the pipeline's timeout"]).await;
    token.cancel_query(tokio_postgres::NoTls).await.unwrap();
    let error = run.await.unwrap().unwrap_err();
    assert_eq!(error.code().unwrap().code(), "57014");
    instance.wait_for("SELECT state FROM tidemark.pipelines WHERE name = 'slow'", &["failed"]).await;
}

#[tokio::test]
async fn explain_shows_the_sql_of_the_next_run() {
    let instance = start().await;
    instance.run("CREATE TABLE raw (id INT PRIMARY KEY, at TIMESTAMPTZ)").await;
    instance.run("INSERT INTO raw VALUES (1, '2026-01-01 00:00+00'), (2, '2026-01-02 00:00+00')").await;
    instance.run("CREATE TABLE t (id INT PRIMARY KEY, at TIMESTAMPTZ) WITH (strategy = 'merge')").await;
    instance
        .run("CREATE PIPELINE p INTO t EVERY INTERVAL '1 day' WITH (incremental_column = 'at') AS SELECT * FROM raw")
        .await;
    instance.run("RUN PIPELINE p").await;
    instance.run("INSERT INTO raw VALUES (3, '2026-01-03 00:00+00')").await;
    let shown = instance.lines("EXPLAIN PIPELINE p").await.join("\n");
    let head = "Pipeline p, every 86400 seconds\n  Watermark: at from 2026-01-02 00:00:00+00 to 2026-01-03 00:00:00+00\n  \
                Into t: merge by id\n    SELECT id, at FROM (SELECT * FROM raw) AS input WHERE at > CAST('2026-01-02 00:00:00+00' AS \
                timestamp with time zone) AND at <= CAST('2026-01-03 00:00:00+00' AS timestamp with time zone)";
    assert!(shown.starts_with(head) && shown.contains("FilterExec"), "{shown}");
    assert_eq!(instance.value("SELECT count(*) FROM t").await, "2");
}

#[tokio::test]
async fn what_a_continuous_pipeline_loads_is_its_query_over_sigkill() {
    let mut instance = start().await;
    instance.run("CREATE TABLE orders (id BIGINT PRIMARY KEY, customer INT, amount INT)").await;
    instance.run("INSERT INTO orders SELECT i, i % 7, i % 5 FROM generate_series(1, 100) AS g (i)").await;
    let columns = "(customer INT PRIMARY KEY, total BIGINT, n BIGINT)";
    instance.run(&format!("CREATE TABLE totals {columns} WITH (strategy = 'merge', deletes = 'hard')")).await;
    instance.run(&format!("CREATE TABLE history {columns} WITH (strategy = 'scd2', deletes = 'soft')")).await;
    let query = "SELECT customer, sum(amount) AS total, count(*) AS n FROM orders GROUP BY customer";
    instance.run(&format!("CREATE PIPELINE live INTO totals, history CONTINUOUS AS {query}")).await;
    instance
        .run(
            "CREATE SOURCE clicks (id BIGINT, page TEXT) WITH (connector = 'datagen', rows_per_second = 5000, rows = 20000, seed = 3, \
             fields.id.kind = 'sequence', fields.id.start = 1)",
        )
        .await;
    instance.run("CREATE TABLE pages (id BIGINT, page TEXT) WITH (strategy = 'append', batch_id = true)").await;
    instance.run("CREATE PIPELINE pages INTO pages AS SELECT id, page FROM clicks").await;
    let mut random = Random::new(11);
    for round in 0..4u64 {
        let client = instance.client().await;
        let mut commands: Vec<String> = Vec::new();
        for _ in 0..30 {
            let (id, customer, amount) = (random.below(200), random.below(9), random.below(50));
            commands.push(match random.below(3) {
                0 => format!("DELETE FROM orders WHERE customer = {customer} AND id % 3 = {}", round % 3),
                _ => format!("INSERT INTO orders VALUES ({id}, {customer}, {amount}) ON CONFLICT (id) DO UPDATE SET amount = excluded.amount"),
            });
        }
        let writer = tokio::spawn(async move {
            for command in commands {
                if client.batch_execute(&command).await.is_err() {
                    break;
                }
            }
        });
        tokio::time::sleep(Duration::from_millis(200 + random.below(500))).await;
        instance.server.kill_and_restart().await.unwrap();
        writer.await.unwrap();
    }
    let same = |table: &str| {
        format!(
            "SELECT count(*) FROM (({query}) EXCEPT SELECT customer, total, n FROM {table}) AS d \
                 UNION ALL SELECT count(*) FROM (SELECT customer, total, n FROM {table} EXCEPT ({query})) AS d"
        )
    };
    instance.wait_for(&same("totals"), &["0", "0"]).await;
    instance.wait_for(&same("(SELECT * FROM history WHERE is_current) AS h"), &["0", "0"]).await;
    instance.wait_for("SELECT count(*), count(DISTINCT id) FROM pages", &["20000 20000"]).await;
    instance.run("DROP PIPELINE live").await;
    instance.wait_for("SELECT status FROM tidemark.run_history WHERE pipeline = 'live'", &["dropped"]).await;
}

/// Bodies of the requests that come, each answered with 200.
async fn webhook() -> (String, Arc<Mutex<Vec<serde_json::Value>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}/hook/s3cret", listener.local_addr().unwrap());
    let bodies = Arc::new(Mutex::new(Vec::new()));
    let received = bodies.clone();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let received = received.clone();
            tokio::spawn(async move {
                let mut request = Vec::new();
                let mut buffer = [0; 4096];
                loop {
                    let read = stream.read(&mut buffer).await.unwrap();
                    request.extend_from_slice(&buffer[..read]);
                    let text = String::from_utf8_lossy(&request);
                    if let Some((_, body)) = text.split_once("\r\n\r\n")
                        && let Ok(body) = serde_json::from_str(body)
                    {
                        received.lock().unwrap().push(body);
                        break;
                    }
                    assert_ne!(read, 0, "half a request: {text}");
                }
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await.unwrap();
            });
        }
    });
    (address, bodies)
}

#[tokio::test]
async fn word_is_sent_of_a_failure_again_while_it_lasts_and_once_when_it_is_over() {
    let (address, bodies) = webhook().await;
    let instance = start().await;
    let file = instance.dir.path().join("address");
    std::fs::write(&file, &address).unwrap();
    instance.run(&format!("CREATE SECRET hook FROM FILE '{}'", file.display())).await;
    instance.run("CREATE TABLE raw (n INT); INSERT INTO raw VALUES (0)").await;
    instance.run("CREATE TABLE t (n INT)").await;
    instance
        .run("CREATE PIPELINE p INTO t WITH (alert_webhook = SECRET hook, alert_every = '1 second') AS SELECT 10 / n AS n FROM raw")
        .await;
    instance.error("RUN PIPELINE p").await;
    let status = || -> Vec<String> {
        let bodies = bodies.lock().unwrap();
        bodies.iter().map(|body| body["status"].as_str().unwrap().to_string()).collect()
    };
    let until = async |enough: &dyn Fn() -> bool| {
        for _ in 0..200 {
            if enough() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("only {:?} came", status());
    };
    until(&|| status().len() >= 2).await;
    {
        let bodies = bodies.lock().unwrap();
        assert_eq!(bodies[0]["pipeline"], "p");
        assert_eq!(bodies[0]["run"], 1);
        assert_eq!(bodies[0]["error"], "division by zero");
        assert_eq!(bodies[1]["failing_since"], bodies[0]["failing_since"]);
    }
    instance.run("UPDATE raw SET n = 1").await;
    instance.run("RUN PIPELINE p").await;
    until(&|| status().last().is_some_and(|last| last == "recovered")).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(status().iter().filter(|status| *status == "recovered").count(), 1);
    assert_eq!(status().last().unwrap(), "recovered");
    let shown = instance.lines("SHOW CREATE PIPELINE p").await.join("\n");
    assert!(shown.contains("SECRET hook") && !shown.contains("s3cret"), "{shown}");
    let log = instance.server.log().unwrap();
    assert!(!log.contains("s3cret"), "{log}");
}
