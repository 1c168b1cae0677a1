//! A PostgreSQL followed by logical replication: the server as a whole, killed at random moments.

use crate::harness::{Instance, Random, start};
use crate::postgres::Postgres;

const LOGICAL: &str = "wal_level = logical\nmax_replication_slots = 10\nmax_wal_senders = 10";

async fn slots(postgres: &Postgres) -> String {
    postgres.value("(SELECT count(*) FROM pg_replication_slots)").await
}

/// Waits until a query says the same here as another there.
async fn same(instance: &Instance, postgres: &Postgres, here: &str, there: &str) {
    let expected = postgres.lines(there).await;
    let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
    instance.wait_for(here, &expected).await;
}

#[tokio::test]
async fn a_table_and_all_that_becomes_of_it() {
    let (postgres, mut instance) = (Postgres::start_with(LOGICAL).await, start().await);
    postgres
        .run("CREATE TABLE orders (id int PRIMARY KEY, customer text, total numeric(10,2), at timestamptz, doc text)")
        .await;
    postgres.run("ALTER TABLE orders ALTER COLUMN doc SET STORAGE EXTERNAL").await;
    postgres
        .run("INSERT INTO orders SELECT n, 'c' || n % 3, n / 4.0, '2024-01-01 00:00:00+00', repeat('x', 5000) FROM generate_series(1, 2000) AS n")
        .await;
    instance.run(&postgres.connection("")).await;
    instance
        .run("CREATE SOURCE orders (*) WITH (connector = 'postgres-cdc', connection = c, table.name = 'orders')")
        .await;
    instance
        .run("CREATE MATERIALIZED VIEW sums AS SELECT customer, count(*) AS n, sum(total) AS total, sum(length(doc)) AS d FROM orders GROUP BY customer")
        .await;
    let groups = "SELECT customer, count(*) AS n, sum(total) AS total, sum(length(doc)) AS d FROM orders GROUP BY customer ORDER BY customer";
    let sums = "SELECT * FROM sums ORDER BY customer";
    same(&instance, &postgres, sums, groups).await;
    postgres.run("UPDATE orders SET total = total + 1 WHERE id % 2 = 0; UPDATE orders SET id = id + 10000 WHERE id < 5; DELETE FROM orders WHERE id BETWEEN 100 AND 200").await;
    same(&instance, &postgres, sums, groups).await;
    same(
        &instance,
        &postgres,
        "SELECT * FROM orders ORDER BY id LIMIT 50",
        "SELECT * FROM orders ORDER BY id LIMIT 50",
    )
    .await;
    let made = instance.value("SELECT definition FROM tidemark.objects WHERE name = 'orders'").await;
    assert!(made.contains("PRIMARY KEY (id)") && made.contains("connection = 'c'"), "{made}");
    // Through a pipeline into a table with history.
    instance
        .run(
            "CREATE TABLE history (id INT PRIMARY KEY, total NUMERIC(10,2)) WITH (strategy = 'scd2', deletes = 'soft')",
        )
        .await;
    instance.run("CREATE PIPELINE p INTO history AS SELECT id, total FROM orders WHERE id > 1990").await;
    let current = "SELECT id, total FROM history WHERE is_current ORDER BY id";
    let wanted = "SELECT id, total FROM orders WHERE id > 1990 ORDER BY id";
    same(&instance, &postgres, current, wanted).await;
    postgres.run("UPDATE orders SET total = 7 WHERE id = 1995; DELETE FROM orders WHERE id = 1996").await;
    same(&instance, &postgres, current, wanted).await;
    assert_eq!(instance.value("SELECT count(*) FROM history WHERE id IN (1995, 1996)").await, "3");
    instance.server.kill_and_restart().await.unwrap();
    postgres.run("TRUNCATE orders; INSERT INTO orders VALUES (1, 'new', 5, now(), 'd')").await;
    same(&instance, &postgres, sums, groups).await;
    instance.wait_for("SELECT state, lag_bytes IS NOT NULL FROM tidemark.sources", &["running t"]).await;
    assert_eq!(slots(&postgres).await, "1");
    instance.run("DROP SOURCE orders CASCADE").await;
    assert_eq!(slots(&postgres).await, "0");
    assert_eq!(postgres.value("(SELECT count(*) FROM pg_publication)").await, "0");
    // The same name again: nothing is left of the first.
    instance
        .run("CREATE SOURCE orders (*) WITH (connector = 'postgres-cdc', connection = c, table.name = 'orders')")
        .await;
    instance.wait_for("SELECT id, customer FROM orders", &["1 new"]).await;
}

/// Money moves between accounts in transactions: no sum is ever another, at any moment, whatever is killed.
#[tokio::test]
async fn transactions_are_whole_whatever_is_killed() {
    let (postgres, mut instance) = (Postgres::start_with(LOGICAL).await, start().await);
    postgres.run("CREATE TABLE accounts (id int PRIMARY KEY, balance int)").await;
    postgres.run("INSERT INTO accounts SELECT n, 100 FROM generate_series(0, 99) AS n").await;
    instance.run(&postgres.connection("")).await;
    instance
        .run("CREATE SOURCE accounts (id INT PRIMARY KEY, balance INT) WITH (connector = 'postgres-cdc', connection = c, table.name = 'accounts')")
        .await;
    instance.run("CREATE MATERIALIZED VIEW total AS SELECT sum(balance) AS balance, count(*) AS n FROM accounts").await;
    instance.wait_for("SELECT * FROM total", &["10000 100"]).await;
    let client = postgres.client().await;
    let mut random = Random::new(3);
    for round in 0..60 {
        let many = random.below(40) + 1;
        let moves: Vec<String> = (0..many)
            .map(|_| {
                let (from, to, much) = (random.below(100), random.below(100), random.below(30));
                format!("UPDATE accounts SET balance = balance - {much} WHERE id = {from}; UPDATE accounts SET balance = balance + {much} WHERE id = {to}")
            })
            .collect();
        client.batch_execute(&format!("BEGIN; {}; COMMIT", moves.join(";"))).await.unwrap();
        assert_eq!(
            instance.value("SELECT sum(balance), (SELECT balance FROM total) FROM accounts").await,
            "10000 10000"
        );
        if round % 12 == 11 {
            instance.server.kill_and_restart().await.unwrap();
            assert_eq!(instance.value("SELECT sum(balance) FROM accounts").await, "10000");
        }
    }
    let all = "SELECT * FROM accounts ORDER BY id";
    same(&instance, &postgres, all, all).await;
}

/// From a table there through a pipeline into tables there, by every strategy that compares, whatever is killed.
#[tokio::test]
async fn changes_go_on_into_another_postgres() {
    let (from, to, mut instance) = (Postgres::start_with(LOGICAL).await, Postgres::start().await, start().await);
    from.run("CREATE TABLE t (id int PRIMARY KEY, v int)").await;
    instance.run(&to.connection("")).await;
    instance
        .run(&format!(
            "CREATE SOURCE t (*) WITH (connector = 'postgres-cdc', host = '127.0.0.1', port = {}, user = 'tidemark', database = 'postgres', \
             table.name = 't')",
            from.port
        ))
        .await;
    for (name, strategy) in [
        ("hard", "merge', deletes = 'hard"),
        ("soft", "merge', deletes = 'soft"),
        ("history", "scd2', deletes = 'soft"),
        ("gone", "scd2', deletes = 'hard"),
    ] {
        instance
            .run(&format!("CREATE TABLE {name} (id INT PRIMARY KEY, v INT) WITH (connection = c, table = '{name}', strategy = '{strategy}')"))
            .await;
        instance.run(&format!("CREATE PIPELINE to_{name} INTO {name} AS SELECT id, v FROM t")).await;
    }
    // A row that is there already, and that nobody has changed, stays.
    to.run("INSERT INTO hard VALUES (5000, 1)").await;
    let mut random = Random::new(9);
    for round in 0..12 {
        for _ in 0..3 {
            let (low, v) = (random.below(40), random.below(9));
            let high = low + random.below(10);
            let statement = match random.below(4) {
                0 | 1 => format!(
                    "INSERT INTO t SELECT n, {v} FROM generate_series({low}, {high}) AS n ON CONFLICT (id) DO UPDATE SET v = excluded.v"
                ),
                2 => format!(
                    "UPDATE t SET id = id + 100 WHERE id BETWEEN {low} AND {high} AND NOT EXISTS (SELECT 1 FROM t AS o WHERE o.id = t.id + 100)"
                ),
                _ => format!("DELETE FROM t WHERE id BETWEEN {low} AND {high} OR id > 130"),
            };
            from.run(&statement).await;
        }
        if round % 4 == 3 {
            instance.server.kill_and_restart().await.unwrap();
        }
        let expected = from.lines("SELECT id, v FROM t ORDER BY id").await;
        for query in [
            "SELECT id, v FROM hard WHERE id < 5000 ORDER BY id",
            "SELECT id, v FROM soft WHERE NOT is_deleted ORDER BY id",
            "SELECT id, v FROM history WHERE is_current ORDER BY id",
            "SELECT id, v FROM gone WHERE is_current ORDER BY id",
        ] {
            wait_for_lines(&to, query, &expected, &instance).await;
        }
        assert_eq!(
            to.lines("SELECT id FROM gone GROUP BY id HAVING bool_and(NOT is_current)").await,
            Vec::<String>::new()
        );
    }
    assert_eq!(to.value("(SELECT count(*) FROM hard WHERE id = 5000)").await, "1");
    // What cannot be loaded waits, and is seen to.
    to.run("ALTER TABLE hard ADD CONSTRAINT small CHECK (v < 1000)").await;
    from.run("INSERT INTO t VALUES (900, 5000)").await;
    let waits =
        "SELECT state, epochs_behind, pending_rows, pending_bytes > 0 FROM tidemark.pipelines WHERE name = 'to_hard'";
    instance.wait_for(waits, &["failed 1 1 t"]).await;
    to.run("ALTER TABLE hard DROP CONSTRAINT small").await;
    instance
        .wait_for("SELECT epochs_behind, pending_rows FROM tidemark.pipelines WHERE name = 'to_hard'", &["0 0"])
        .await;
}

async fn wait_for_lines(postgres: &Postgres, query: &str, expected: &[String], instance: &Instance) {
    for _ in 0..600 {
        if postgres.lines(query).await == expected {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    let pipelines = instance.lines("SELECT name, state, error FROM tidemark.pipelines").await;
    panic!("{query}: {:?}, not {expected:?}\n{pipelines:#?}", postgres.lines(query).await);
}

#[tokio::test]
async fn what_makes_no_sense_is_refused() {
    let (postgres, instance) = (Postgres::start_with(LOGICAL).await, start().await);
    postgres.run("CREATE TABLE t (id int PRIMARY KEY, v int); CREATE TABLE keyless (v int)").await;
    instance.run(&postgres.connection("")).await;
    for (columns, more, code, message) in [
        ("(id INT, v INT)", "table.name = 't'", "42P16", "needs a primary key"),
        ("(id INT, v INT PRIMARY KEY)", "table.name = 't'", "55000", "is not by what table"),
        ("(id INT PRIMARY KEY, nobody INT)", "table.name = 't'", "42703", "nobody"),
        ("(id INT PRIMARY KEY)", "table.name = 'nowhere'", "42P01", "nowhere"),
        ("(*)", "table.name = 'keyless'", "42P16", "no primary key"),
        ("(id INT PRIMARY KEY)", "table.name = 't', slot.nme = 'x'", "22023", "slot.nme"),
        ("(id INT PRIMARY KEY)", "slot.name = 'x'", "22023", "table.name"),
    ] {
        let statement = format!("CREATE SOURCE s {columns} WITH (connector = 'postgres-cdc', connection = c, {more})");
        let (found, said) = instance.error(&statement).await;
        assert!(found == code && said.contains(message), "{statement}: {found} {said}");
    }
    assert_eq!(slots(&postgres).await, "0");
    let without = Postgres::start().await;
    without.run("CREATE TABLE t (id int PRIMARY KEY)").await;
    let statement = format!(
        "CREATE SOURCE s (id INT PRIMARY KEY) WITH (connector = 'postgres-cdc', host = '127.0.0.1', port = {}, user = 'tidemark', \
         database = 'postgres', table.name = 't')",
        without.port
    );
    let (code, said) = instance.error(&statement).await;
    assert!(said.contains("wal_level"), "{code} {said}");
}
