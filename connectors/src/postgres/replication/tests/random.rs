//! Random transactions on the other side, a mirror that falls and is cut off at random moments on this one: at each quiet point they
//! are equal.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tidemark_common::types::SqlType;
use tokio::time::timeout;

use super::mirror::Mirror;
use super::server::Database;

const COLUMNS: [(&str, SqlType); 5] = [
    ("a", SqlType::Integer),
    ("b", SqlType::Text),
    ("n", SqlType::Numeric(Some((12, 3)))),
    ("note", SqlType::Text),
    ("big", SqlType::Text),
];
const SELECT: &str = "SELECT a, b, n, note, big FROM t";

fn statement(rng: &mut SmallRng, step: usize) -> String {
    let (low, high) = (rng.gen_range(0..60), rng.gen_range(0..60));
    let rows = format!("a BETWEEN {} AND {}", low.min(high), low.max(high));
    match rng.gen_range(0..100) {
        0..30 => format!(
            "INSERT INTO t (a, b, n, note, big) SELECT g, 'k' || g % 3, g / 7.0, 's{step}', repeat('{}', {}) \
             FROM generate_series({low}, {low} + {}) g ON CONFLICT (a, b) DO UPDATE SET note = excluded.note",
            rng.gen_range(0..10),
            rng.gen_range(0..9000),
            rng.gen_range(0..9)
        ),
        30..55 => format!("UPDATE t SET note = 'u{step}', n = n + 1 WHERE {rows}"),
        55..65 => format!("UPDATE t SET big = repeat('v', {}) WHERE {rows} AND a % 2 = 0", rng.gen_range(0..9000)),
        // Keys that change, and come back.
        65..75 => format!("UPDATE t SET a = a + {} WHERE {rows}", if rng.r#gen() { 100 } else { 1000 }),
        75..80 => "DELETE FROM t WHERE a > 1000; UPDATE t SET a = a - 100 WHERE a > 100 AND NOT EXISTS \
                   (SELECT FROM t o WHERE o.a = t.a - 100 AND o.b = t.b)"
            .into(),
        80..90 => format!("DELETE FROM t WHERE {rows} AND a % 3 = 0"),
        90..93 => "TRUNCATE t".into(),
        93..96 => format!("ALTER TABLE t ADD COLUMN more_{step} int DEFAULT {step}"),
        96..98 => format!(
            "INSERT INTO t (a, b, note) SELECT 5000 + g, 'many', repeat('m', 20) FROM generate_series(1, {}) g ON CONFLICT DO NOTHING",
            rng.gen_range(1000..20_000)
        ),
        _ => "SAVEPOINT s; DELETE FROM t; ROLLBACK TO s".into(),
    }
}

async fn transaction(rng: &mut SmallRng, client: &tokio_postgres::Client, step: usize) {
    let statements: Vec<String> = (0..rng.gen_range(1..5)).map(|_| statement(rng, step)).collect();
    let end = if rng.gen_range(0..6) == 0 { "ROLLBACK" } else { "COMMIT" };
    let sql = format!("BEGIN; {}; {end}", statements.join("; "));
    if let Err(error) = client.batch_execute(&sql).await {
        // A key that is there already, a column added twice: nothing of it counts.
        assert!(error.as_db_error().is_some(), "{error:?}");
        client.batch_execute("ROLLBACK").await.unwrap();
    }
}

async fn disturb(rng: &mut SmallRng, mirror: &mut Mirror, client: &tokio_postgres::Client) {
    match rng.gen_range(0..10) {
        0..2 => mirror.fall(),
        2..5 => mirror.commit(),
        5 => {
            let kill =
                "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name LIKE 'mirror%'";
            client.batch_execute(kill).await.unwrap();
        }
        _ => {
            for _ in 0..rng.gen_range(0..4) {
                if let Ok(read) = timeout(Duration::from_millis(50), mirror.step()).await {
                    read.unwrap();
                }
            }
        }
    }
}

async fn mirrored(name: &str, seed: u64) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let database = Database::new(name).await;
    database
        .run(
            "CREATE TABLE t (a int, b text, n numeric(12, 3), note text, big text, PRIMARY KEY (a, b));
             ALTER TABLE t ALTER big SET STORAGE EXTERNAL;
             INSERT INTO t SELECT g, 'k' || g % 3, g / 8.0, 'first', repeat('x', g * 100) FROM generate_series(0, 59) g",
        )
        .await;
    let mut mirror = Mirror::new(database.source("t", &COLUMNS, 2), 2);
    let client = database.client().await;
    for step in 0..120 {
        transaction(&mut rng, &client, step).await;
        disturb(&mut rng, &mut mirror, &client).await;
        if step % 12 == 11 {
            mirror.until_equal(&database, SELECT).await;
        }
    }
    mirror.commit();
    mirror.catch_up(&database).await;
    mirror.until_equal(&database, SELECT).await;
    mirror.fall();
    mirror.source.dropped().await.unwrap();
}

#[tokio::test]
async fn a_mirror_equals_its_table() {
    mirrored("mirror_1", 1).await;
}

#[tokio::test]
async fn another_mirror_equals_its_table() {
    mirrored("mirror_2", 2).await;
}
