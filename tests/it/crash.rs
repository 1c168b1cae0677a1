//! SIGKILL at moments nobody chose: what was acknowledged is there exactly once, and each view equals its query.
//!
//! ```text
//!   round:  sessions insert ──▶ SIGKILL ──▶ restart ──▶ count: acknowledged = once, unknown = at most once
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio_postgres::NoTls;

use crate::harness::{Instance, Random, start};

const SESSIONS: u64 = 4;

/// TIDEMARK_CRASH_ROUNDS makes it longer.
fn rounds() -> u64 {
    std::env::var("TIDEMARK_CRASH_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(30)
}

/// What a session knows about a row it sent.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fate {
    Acknowledged,
    /// The connection broke before the answer: it may be there or not.
    Unknown,
}

type Ledger = Arc<Mutex<BTreeMap<i64, Fate>>>;

/// Inserts rows, in batches and one by one, and moves money about, until the connection breaks.
async fn insert_until_killed(url: String, session: u64, round: u64, ledger: Ledger, stop: Arc<AtomicBool>) {
    let Ok((mut client, connection)) = tokio_postgres::connect(&url, NoTls).await else { return };
    tokio::spawn(async move {
        // The kill ends it with an error; that is the test.
        let _ = connection.await;
    });
    let mut random = Random::new(session * 1000 + round);
    for n in 0.. {
        if stop.load(Ordering::SeqCst) {
            return;
        }
        let first = ((round * SESSIONS + session) * 1_000_000 + n * 10) as i64;
        let ids: Vec<i64> = (0..1 + random.below(5) as i64).map(|i| first + i).collect();
        let values: Vec<String> = ids.iter().map(|id| format!("({id}, {session}, {})", id % 97)).collect();
        ledger.lock().await.extend(ids.iter().map(|id| (*id, Fate::Unknown)));
        let insert = format!("INSERT INTO events VALUES {}", values.join(", "));
        let done = match random.below(3) {
            0 => client.simple_query(&insert).await.map(|_| ()),
            1 => client.execute(&insert, &[]).await.map(|_| ()),
            _ => transfer(&mut client, &insert, &mut random).await,
        };
        if done.is_err() {
            return;
        }
        ledger.lock().await.extend(ids.iter().map(|id| (*id, Fate::Acknowledged)));
    }
}

/// The insert and a transfer between two accounts, all or nothing.
async fn transfer(
    client: &mut tokio_postgres::Client,
    insert: &str,
    random: &mut Random,
) -> Result<(), tokio_postgres::Error> {
    let (from, amount) = (random.below(10) as i32, random.below(100) as i64);
    let to = (from + 1) % 10;
    for _ in 0..20 {
        let transaction = client.transaction().await?;
        let result = async {
            transaction.execute("UPDATE accounts SET balance = balance - $1 WHERE id = $2", &[&amount, &from]).await?;
            transaction.batch_execute(insert).await?;
            transaction.execute("UPDATE accounts SET balance = balance + $1 WHERE id = $2", &[&amount, &to]).await
        };
        match result.await {
            Ok(_) => match transaction.commit().await {
                Err(e) if is_conflict(&e) => continue,
                other => return other,
            },
            Err(e) if is_conflict(&e) => transaction.rollback().await?,
            Err(e) => return Err(e),
        }
    }
    // Others were always faster: without the transfer.
    client.batch_execute(insert).await
}

fn is_conflict(error: &tokio_postgres::Error) -> bool {
    error.code().is_some_and(|c| c.code() == "40001")
}

const VIEWS: &[(&str, &str)] = &[
    ("by_session", "SELECT session, count(*) AS n, sum(value) AS total, min(id) AS first FROM events GROUP BY session"),
    ("big", "SELECT id, value * 2 AS twice FROM events WHERE value > 90"),
    ("kinds", "SELECT DISTINCT value FROM events"),
    ("busy", "SELECT session, n FROM by_session WHERE n > 10"),
    ("money", "SELECT sum(balance) AS total, count(*) AS accounts FROM accounts"),
];

async fn check(instance: &Instance, ledger: &BTreeMap<i64, Fate>, round: u64) {
    let mut found: BTreeMap<i64, i64> = BTreeMap::new();
    for line in instance.lines("SELECT id, count(*) FROM events GROUP BY id").await {
        let (id, n) = line.split_once(' ').unwrap();
        found.insert(id.parse().unwrap(), n.parse().unwrap());
    }
    for (id, fate) in ledger {
        match (fate, found.get(id).copied().unwrap_or(0)) {
            (Fate::Acknowledged, 1) | (Fate::Unknown, 0 | 1) => {}
            (fate, n) => panic!("round {round}: row {id} ({fate:?}) is there {n} times"),
        }
    }
    assert!(found.keys().all(|id| ledger.contains_key(id)), "round {round}: rows that nobody sent");
    assert_eq!(instance.value("SELECT sum(balance) FROM accounts").await, "1000", "round {round}: half a transfer");
    for (view, query) in VIEWS {
        // The same rows as sets and as many of them: no view here has a row twice.
        let difference = format!(
            "SELECT (SELECT count(*) FROM ((SELECT * FROM {view} EXCEPT ({query})) UNION ALL (({query}) EXCEPT SELECT * FROM {view})) AS d) \
             + abs((SELECT count(*) FROM {view}) - (SELECT count(*) FROM ({query}) AS q))"
        );
        assert_eq!(instance.value(&difference).await, "0", "round {round}: view {view} is not its query");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_survive_kill_9() {
    let mut instance = start().await;
    instance.run("CREATE TABLE events (id BIGINT, session INT, value BIGINT)").await;
    instance.run("CREATE TABLE accounts (id INT PRIMARY KEY, balance BIGINT NOT NULL)").await;
    instance.run("INSERT INTO accounts SELECT i, 100 FROM generate_series(0, 9) AS g(i)").await;
    for (view, query) in VIEWS {
        instance.run(&format!("CREATE MATERIALIZED VIEW {view} AS {query}")).await;
    }
    let ledger: Ledger = Arc::default();
    let mut random = Random::new(7);
    for round in 0..rounds() {
        let stop = Arc::new(AtomicBool::new(false));
        let sessions: Vec<_> = (0..SESSIONS)
            .map(|s| tokio::spawn(insert_until_killed(instance.server.url(), s, round, ledger.clone(), stop.clone())))
            .collect();
        tokio::time::sleep(Duration::from_millis(20 + random.below(250))).await;
        instance.server.kill9().unwrap();
        stop.store(true, Ordering::SeqCst);
        for session in sessions {
            session.await.unwrap();
        }
        let dir = instance.server.dir().to_path_buf();
        instance.server = tidemark_sqllogictest::Server::start(&dir).await.unwrap();
        check(&instance, &*ledger.lock().await, round).await;
    }
    let acknowledged = ledger.lock().await.values().filter(|f| **f == Fate::Acknowledged).count();
    assert!(acknowledged > 100, "too little happened to show anything: {acknowledged} rows");
}

/// Rows of a file source, counted through a view, while files arrive and the server dies.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_source_survives_kill_9() {
    const ROWS: usize = 500;
    let mut instance = start().await;
    let input = instance.dir.path().join("input");
    std::fs::create_dir(&input).unwrap();
    let write = |n: usize| {
        let rows: String =
            (n * ROWS..(n + 1) * ROWS).map(|id| format!("{{\"id\": {id}, \"k\": {}}}\n", id % 7)).collect();
        // Under another name first: a file that is still being written must not be read.
        let temporary = instance.dir.path().join("partial");
        std::fs::write(&temporary, rows).unwrap();
        std::fs::rename(&temporary, input.join(format!("part-{n:05}.jsonl"))).unwrap();
    };
    write(0);
    instance
        .run(&format!(
            "CREATE SOURCE f (id BIGINT, k INT) WITH (connector = 'file', path = '{}') FORMAT PLAIN ENCODE JSON",
            input.display()
        ))
        .await;
    instance.run("CREATE MATERIALIZED VIEW all_rows AS SELECT id, k FROM f").await;
    instance.run("CREATE MATERIALIZED VIEW totals AS SELECT k, count(*) AS n, sum(id) AS s FROM f GROUP BY k").await;
    let mut random = Random::new(11);
    let files = rounds() as usize;
    for n in 1..files {
        write(n);
        tokio::time::sleep(Duration::from_millis(random.below(120))).await;
        instance.server.kill_and_restart().await.unwrap();
    }
    let rows = (files * ROWS) as i64;
    let expected = format!("{rows} {rows} {}", rows * (rows - 1) / 2);
    instance.wait_for("SELECT count(*), count(DISTINCT id), sum(id) FROM all_rows", &[&expected]).await;
    let expected = format!("7 {rows} {}", rows * (rows - 1) / 2);
    instance.wait_for("SELECT count(*), sum(n), sum(s) FROM totals", &[&expected]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn datagen_survives_kill_9() {
    const ROWS: i64 = 300_000;
    let mut instance = start().await;
    instance
        .run(&format!(
            "CREATE SOURCE g (id BIGINT, k INT) WITH (connector = 'datagen', rows = {ROWS}, rows_per_second = 60000, \
             fields.id.kind = 'sequence', fields.id.start = 0, fields.k.kind = 'random', fields.k.min = 0, fields.k.max = 9)"
        ))
        .await;
    instance.run("CREATE MATERIALIZED VIEW totals AS SELECT k, count(*) AS n, sum(id) AS s FROM g GROUP BY k").await;
    instance.run("CREATE MATERIALIZED VIEW all_ids AS SELECT id FROM g").await;
    let mut random = Random::new(13);
    for _ in 0..rounds() / 3 {
        tokio::time::sleep(Duration::from_millis(random.below(300))).await;
        instance.server.kill_and_restart().await.unwrap();
        // Whatever epoch it is at, both views read the same rows of it.
        let both = "SELECT (SELECT count(*) FROM all_ids) = (SELECT coalesce(sum(n), 0) FROM totals)";
        assert_eq!(instance.value(both).await, "t");
    }
    let expected = format!("{ROWS} {}", ROWS * (ROWS - 1) / 2);
    instance.wait_for("SELECT sum(n), sum(s) FROM totals", &[&expected]).await;
    let expected = format!("{ROWS} {ROWS} 0 {}", ROWS - 1);
    instance.wait_for("SELECT count(*), count(DISTINCT id), min(id), max(id) FROM all_ids", &[&expected]).await;
}

/// Exactly once into files: names from the epoch, so that a repeated delivery leaves the same files.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_sink_survives_kill_9() {
    let mut instance = start().await;
    let output = instance.dir.path().join("output");
    instance.run("CREATE TABLE t (id BIGINT)").await;
    instance
        .run(&format!(
            "CREATE SINK out AS SELECT id FROM t WITH (connector = 'file', path = '{}', changelog = 'true') FORMAT PLAIN ENCODE JSON",
            output.display()
        ))
        .await;
    let mut random = Random::new(17);
    for round in 0..rounds() {
        instance.run(&format!("INSERT INTO t VALUES ({round})")).await;
        tokio::time::sleep(Duration::from_millis(random.below(100))).await;
        instance.server.kill_and_restart().await.unwrap();
    }
    let expected: Vec<i64> = (0..rounds() as i64).collect();
    let mut delivered = Vec::new();
    for _ in 0..600 {
        delivered = delivered_ids(&output);
        if delivered.len() >= expected.len() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(delivered, expected);
}

fn delivered_ids(dir: &std::path::Path) -> Vec<i64> {
    let mut ids = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if !path.is_file() || name.starts_with(['.', '_']) {
            continue;
        }
        for line in std::fs::read_to_string(&path).unwrap().lines() {
            let row: serde_json::Value = serde_json::from_str(line).unwrap();
            ids.push(row["id"].as_i64().unwrap());
        }
    }
    ids.sort();
    ids
}
