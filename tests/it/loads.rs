//! Loads of one table from several sessions, over SIGKILL: no two versions of a key are current, and histories have no holes.

use std::time::Duration;

use tokio_postgres::NoTls;

use crate::harness::{Instance, Random, start, text};

const KEYS: u64 = 20;

async fn load_until_killed(url: String, seed: u64) -> u64 {
    let Ok((client, connection)) = tokio_postgres::connect(&url, NoTls).await else { return 0 };
    tokio::spawn(async move {
        // The kill ends it with an error; that is the test.
        let _ = connection.await;
    });
    let mut random = Random::new(seed);
    let mut loads = 0;
    while !client.is_closed() {
        let first = random.below(KEYS);
        let rows: Vec<String> =
            (first..first + 1 + random.below(6)).map(|id| format!("({id}, {})", random.below(3))).collect();
        for table in ["dim", "latest"] {
            // A conflict that has come again and again is an error of that statement alone.
            loads += u64::from(
                client.batch_execute(&format!("INSERT INTO {table} VALUES {}", rows.join(", "))).await.is_ok(),
            );
        }
    }
    loads
}

async fn check(instance: &Instance, round: u64) {
    let none = async |what: &str, sql: &str| {
        assert_eq!(instance.lines(sql).await, Vec::<String>::new(), "round {round}: {what}");
    };
    none("one current version", "SELECT id FROM dim WHERE is_current GROUP BY id HAVING count(*) <> 1").await;
    none("a version has an end or is current", "SELECT * FROM dim WHERE is_current <> (valid_to IS NULL)").await;
    none("no empty version", "SELECT * FROM dim WHERE valid_to <= valid_from").await;
    let next = "SELECT id, v, valid_to, lead(valid_from) OVER (PARTITION BY id ORDER BY valid_from) AS next, \
                lead(v) OVER (PARTITION BY id ORDER BY valid_from) AS next_v FROM dim";
    none("no hole", &format!("SELECT * FROM ({next}) AS n WHERE valid_to IS DISTINCT FROM next")).await;
    none("no version for nothing", &format!("SELECT * FROM ({next}) AS n WHERE v = next_v")).await;
    none("the view", "SELECT id, v FROM dim WHERE is_current EXCEPT SELECT id, v FROM now_valid").await;
    none("merge has a row a key", "SELECT id FROM latest GROUP BY id HAVING count(*) <> 1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_that_load_do_not_mix() {
    let mut instance = start().await;
    instance.run("CREATE TABLE dim (id INT PRIMARY KEY, v INT) WITH (strategy = 'scd2')").await;
    instance.run("CREATE TABLE latest (id INT, v INT) WITH (strategy = 'merge', keys = 'id')").await;
    instance.run("CREATE MATERIALIZED VIEW now_valid AS SELECT id, v FROM dim WHERE is_current").await;
    let mut loads = 0;
    for round in 0..4 {
        let url = instance.server.url();
        let writers: Vec<_> = (0..3).map(|n| tokio::spawn(load_until_killed(url.clone(), round * 10 + n))).collect();
        tokio::time::sleep(Duration::from_millis(1500)).await;
        check(&instance, round).await;
        instance.server.kill_and_restart().await.unwrap();
        for writer in writers {
            loads += writer.await.unwrap();
        }
        check(&instance, round).await;
    }
    assert!(loads > 20, "{loads} loads show little");
    assert_ne!(instance.value("SELECT count(*) FROM dim WHERE NOT is_current").await, "0");
}

#[tokio::test]
async fn copy_is_a_load() {
    let instance = start().await;
    instance.run("CREATE TABLE dim (id INT PRIMARY KEY, v TEXT) WITH (strategy = 'scd2', deletes = 'soft')").await;
    for rows in ["1\\tx\\n2\\ty\\n", "1\\tx\\n3\\tz\\n"] {
        let file = instance.dir.path().join("rows");
        std::fs::write(&file, rows.replace("\\t", "\t").replace("\\n", "\n")).unwrap();
        let done = instance.psql(&["-c", &format!("\\copy dim FROM '{}'", file.display())]);
        assert_eq!(text(&done.stdout), "COPY 2\n", "{}", text(&done.stderr));
    }
    let versions = instance.lines("SELECT id, v, is_current FROM dim ORDER BY id").await;
    assert_eq!(versions, ["1 x t", "2 y f", "3 z t"]);
    assert_eq!(instance.error("INSERT INTO dim VALUES (1, 'a'), (1, 'b')").await.0, "21000");
    let told = instance.psql(&["-c", "INSERT INTO dim VALUES (1, 'a')"]);
    let told = text(&told.stderr);
    assert!(
        told.contains("scd2 into \"dim\": 1 rows: 1 inserted, 0 updated, 0 unchanged, 2 closed, 0 deleted"),
        "{told}"
    );
}
