//! Lookup joins: streams that ask a real PostgreSQL for rows by key.

use std::path::PathBuf;

use crate::harness::{Instance, start};
use crate::postgres::Postgres;

/// A stream of orders from files, and customers in a PostgreSQL.
struct Shop {
    postgres: Postgres,
    instance: Instance,
    orders: PathBuf,
    files: usize,
}

const JOINED: &str = "SELECT o.id, o.customer, c.name FROM orders o \
                      LEFT JOIN c.public.customers FOR SYSTEM_TIME AS OF proctime() AS c ON c.id = o.customer";

impl Shop {
    async fn open(more: &str) -> Shop {
        let (postgres, instance) = (Postgres::start().await, start().await);
        let orders = instance.dir.path().join("orders");
        std::fs::create_dir(&orders).unwrap();
        postgres.run("CREATE TABLE customers (id int PRIMARY KEY, name text, vip boolean)").await;
        postgres.run("INSERT INTO customers VALUES (1, 'Ann', true), (2, 'Bob', false)").await;
        instance.run(&postgres.connection(more)).await;
        instance
            .run(&format!(
                "CREATE SOURCE orders (id BIGINT, customer BIGINT, ts TIMESTAMP, WATERMARK FOR ts AS ts)
                 WITH (connector = 'file', path = '{}', poll_interval = '50ms') FORMAT PLAIN ENCODE CSV",
                orders.display()
            ))
            .await;
        Shop { postgres, instance, orders, files: 0 }
    }

    /// Orders of customers, at the seconds of their numbers.
    fn order(&mut self, rows: &[(i64, &str)]) {
        let lines: String = rows
            .iter()
            .map(|(id, customer)| format!("{id},{customer},2026-01-01 00:{:02}:{:02}\n", id / 60, id % 60))
            .collect();
        let name = format!("{:05}.csv", self.files);
        self.files += 1;
        let hidden = self.orders.join(format!("_{name}"));
        std::fs::write(&hidden, format!("id,customer,ts\n{lines}")).unwrap();
        std::fs::rename(hidden, self.orders.join(name)).unwrap();
    }

    async fn see(&self, view: &str, expected: &[&str]) {
        self.instance.wait_for(&format!("SELECT * FROM {view} ORDER BY id"), expected).await;
    }

    async fn lookup(&self, columns: &str, expected: &str) {
        self.instance.wait_for(&format!("SELECT {columns} FROM tidemark.lookups"), &[expected]).await;
    }
}

#[tokio::test]
async fn each_row_meets_what_is_there_when_it_comes() {
    let mut shop = Shop::open("").await;
    shop.instance.run(&format!("CREATE MATERIALIZED VIEW joined AS {JOINED}")).await;
    shop.order(&[(1, "1"), (2, "2"), (3, "3"), (4, ""), (5, "99999999999")]);
    let first = ["1 1 Ann", "2 2 Bob", "3 3 NULL", "4 NULL NULL", "5 99999999999 NULL"];
    shop.see("joined", &first).await;
    shop.postgres.run("UPDATE customers SET name = 'Anne' WHERE id = 1; INSERT INTO customers VALUES (3, 'Cid')").await;
    shop.order(&[(6, "1"), (7, "3")]);
    shop.see("joined", &[&first[..], &["6 1 Anne", "7 3 Cid"]].concat()).await;
    // The view that is made now reads the stream again, and meets what is there now.
    shop.instance
        .run(
            "CREATE MATERIALIZED VIEW vips AS SELECT o.id, c.name FROM orders o
             JOIN c.public.customers FOR SYSTEM_TIME AS OF proctime() AS c ON o.customer = c.id AND c.vip AND o.id > 1",
        )
        .await;
    shop.see("vips", &["6 Anne"]).await;
    shop.instance
        .wait_for(
            "SELECT name, remote_table, rows_waiting, failures, error FROM tidemark.lookups ORDER BY 1",
            &["joined c.public.customers 0 0 NULL", "vips c.public.customers 0 0 NULL"],
        )
        .await;
    let plan = shop.instance.lines("EXPLAIN MATERIALIZED VIEW vips").await.join("\n");
    assert!(
        plan.contains("Inner Lookup Join in c.public.customers on CAST(customer AS integer) = id AND vip"),
        "{plan}"
    );
    let metrics = shop.instance.http("/metrics").await.1;
    assert!(metrics.contains("tidemark_lookup_waiting_rows{job=\"vips\",table=\"c.public.customers\"} 0"), "{metrics}");
    // The same query as a SELECT reads what is there at the moment.
    let now = shop.instance.lines(&format!("{JOINED} ORDER BY 1 LIMIT 1")).await;
    assert_eq!(now, ["1 1 Anne"]);
}

#[tokio::test]
async fn rows_wait_through_kills_and_are_sent_once() {
    let mut shop = Shop::open("").await;
    shop.instance.run(&format!("CREATE MATERIALIZED VIEW joined AS {JOINED}")).await;
    shop.instance
        .run(
            "CREATE MATERIALIZED VIEW by_minute AS SELECT window_start AS id, name, count(*) AS n
             FROM TUMBLE((SELECT o.ts, c.name FROM orders o
                          JOIN c.public.customers FOR SYSTEM_TIME AS OF proctime() AS c ON c.id = o.customer),
                         ts, INTERVAL '1 minute')
             GROUP BY window_start, name EMIT ON WINDOW CLOSE",
        )
        .await;
    shop.order(&[(1, "1")]);
    shop.see("joined", &["1 1 Ann"]).await;
    let blocker = shop.postgres.client().await;
    blocker.batch_execute("BEGIN; LOCK TABLE customers IN ACCESS EXCLUSIVE MODE").await.unwrap();
    shop.order(&[(2, "2"), (3, "1")]);
    shop.instance.wait_for("SELECT rows_waiting FROM tidemark.lookups", &["2", "2"]).await;
    // The stream goes on: what comes later does not overtake, and the minute stays open.
    shop.order(&[(200, "")]);
    shop.instance.wait_for("SELECT count(*) FROM joined", &["2"]).await;
    for _ in 0..3 {
        shop.instance.server.kill_and_restart().await.unwrap();
        shop.instance.wait_for("SELECT rows_waiting FROM tidemark.lookups", &["2", "2"]).await;
    }
    assert_eq!(shop.instance.lines("SELECT * FROM by_minute").await, Vec::<String>::new());
    blocker.batch_execute("UPDATE customers SET name = 'Robert' WHERE id = 2; COMMIT").await.unwrap();
    shop.see("joined", &["1 1 Ann", "2 2 Robert", "3 1 Ann", "200 NULL NULL"]).await;
    let minute = "SELECT name, n FROM by_minute ORDER BY name";
    shop.instance.wait_for(minute, &["Ann 2", "Robert 1"]).await;
}

#[tokio::test]
async fn a_table_that_was_changed_gives_an_error_and_no_wrong_row() {
    let mut shop = Shop::open("").await;
    shop.instance.run(&format!("CREATE MATERIALIZED VIEW joined AS {JOINED}")).await;
    shop.order(&[(1, "1")]);
    shop.see("joined", &["1 1 Ann"]).await;
    // Eight bytes would be read as another eight bytes: a timestamp in place of a bigint, say.
    for (id, change, back, says) in [
        (
            2,
            "ALTER TABLE customers ALTER name TYPE bytea USING name::bytea",
            "ALTER TABLE customers ALTER name TYPE text USING convert_from(name, 'UTF8')",
            "column \"name\" of c.public.customers has become bytea, it was text",
        ),
        (
            3,
            "ALTER TABLE customers RENAME name TO called",
            "ALTER TABLE customers RENAME called TO name",
            "column \"name\" of c.public.customers is not there any more",
        ),
        (4, "ALTER TABLE customers RENAME TO gone", "ALTER TABLE gone RENAME TO customers", "does not exist"),
    ] {
        shop.postgres.run(change).await;
        shop.order(&[(id, "1")]);
        shop.lookup(&format!("rows_waiting, failures > 0, error LIKE '%{says}%'"), "1 t t").await;
        shop.postgres.run(back).await;
        shop.instance.wait_for(&format!("SELECT name FROM joined WHERE id = {id}"), &["Ann"]).await;
        shop.lookup("rows_waiting, failures, error", "0 0 NULL").await;
    }
    // Columns that nobody asks for may change.
    shop.postgres.run("ALTER TABLE customers DROP vip, ADD more text").await;
    shop.order(&[(5, "2")]);
    shop.instance.wait_for("SELECT name FROM joined WHERE id = 5", &["Bob"]).await;
}

#[tokio::test]
async fn connections_say_what_is_remembered_and_may_be_altered() {
    let mut shop = Shop::open(", lookup_cache_ttl = '1 hour'").await;
    shop.instance.run(&format!("CREATE MATERIALIZED VIEW joined AS {JOINED}")).await;
    shop.order(&[(1, "1"), (2, "7")]);
    shop.lookup("keys_cached, keys_asked, cache_hits", "2 2 0").await;
    shop.postgres.run("UPDATE customers SET name = 'Anne' WHERE id = 1; INSERT INTO customers VALUES (7, 'Gil')").await;
    shop.order(&[(3, "1"), (4, "7")]);
    shop.see("joined", &["1 1 Ann", "2 7 NULL", "3 1 Ann", "4 7 NULL"]).await;
    shop.lookup("keys_cached, keys_asked, cache_hits", "2 2 2").await;
    shop.order(&[(5, "2")]);
    shop.lookup("keys_cached, keys_asked", "3 3").await;
    // The other server is out of reach; nothing is lost.
    shop.instance.run("ALTER CONNECTION c SET (port = 1)").await;
    shop.order(&[(6, "8")]);
    shop.lookup("rows_waiting, failures > 0, error LIKE 'connection \"c\": cannot connect to 127.0.0.1:1%'", "1 t t")
        .await;
    shop.instance.run("ALTER CONNECTION c RESET (lookup_cache_ttl)").await;
    shop.instance.run(&format!("ALTER CONNECTION c SET (port = {})", shop.postgres.port)).await;
    shop.instance.wait_for("SELECT name FROM joined WHERE id = 6", &["NULL"]).await;
    shop.instance.server.kill_and_restart().await.unwrap();
    shop.order(&[(7, "1"), (8, "7")]);
    shop.instance.wait_for("SELECT id, name FROM joined WHERE id > 6 ORDER BY id", &["7 Anne", "8 Gil"]).await;
    shop.lookup("keys_cached", "0").await;
    let (code, message) = shop.instance.error("DROP CONNECTION c").await;
    assert_eq!(
        (code.as_str(), message.as_str()),
        ("2BP01", "cannot drop connection c because other objects depend on it")
    );
}

#[tokio::test]
async fn sinks_pipelines_and_tables_kept_there_ask_too() {
    let mut shop = Shop::open("").await;
    let out = shop.instance.dir.path().join("out");
    shop.instance
        .run(&format!(
            "CREATE SINK s AS {JOINED} WITH (connector = 'file', path = '{}') FORMAT PLAIN ENCODE CSV",
            out.display()
        ))
        .await;
    shop.instance.run("CREATE TABLE loaded (id BIGINT, customer BIGINT, name TEXT) WITH (strategy = 'append')").await;
    shop.instance.run(&format!("CREATE PIPELINE p INTO loaded CONTINUOUS AS {JOINED}")).await;
    shop.instance
        .run(
            "CREATE TABLE customers_there (id INT PRIMARY KEY, name TEXT, vip BOOLEAN)
             WITH (strategy = 'merge', connection = 'c', table = 'public.customers')",
        )
        .await;
    shop.instance
        .run(
            "CREATE MATERIALIZED VIEW v AS SELECT o.id, c.name FROM orders o
             JOIN customers_there FOR SYSTEM_TIME AS OF proctime() AS c ON c.id = o.customer",
        )
        .await;
    shop.order(&[(1, "1"), (2, "5")]);
    shop.see("loaded", &["1 1 Ann", "2 5 NULL"]).await;
    shop.see("v", &["1 Ann"]).await;
    shop.instance.wait_for("SELECT rows FROM tidemark.sinks WHERE name = 's'", &["2"]).await;
    shop.instance.server.kill_and_restart().await.unwrap();
    shop.order(&[(3, "2")]);
    shop.see("loaded", &["1 1 Ann", "2 5 NULL", "3 2 Bob"]).await;
    shop.see("v", &["1 Ann", "3 Bob"]).await;
    // A table that is kept there goes by its own name. What was sent is not asked for again, whatever the connection is called.
    shop.postgres.run("UPDATE customers SET name = 'Robert' WHERE id = 2").await;
    for sql in ["DROP PIPELINE p", "DROP SINK s", "ALTER CONNECTION c RENAME TO d"] {
        shop.instance.run(sql).await;
    }
    shop.instance.server.kill_and_restart().await.unwrap();
    shop.order(&[(4, "1")]);
    shop.see("v", &["1 Ann", "3 Bob", "4 Ann"]).await;
}

#[tokio::test]
async fn every_type_that_can_be_a_key_finds_its_rows() {
    let shop = Shop::open("").await;
    let keys = [
        ("boolean", "BOOLEAN", "true"),
        ("int2", "SMALLINT", "-3"),
        ("int8", "BIGINT", "9223372036854775807"),
        ("numeric(12,3)", "NUMERIC(12,3)", "-1.250"),
        ("text", "TEXT", "it''s a \\ \"key\""),
        ("varchar(20)", "VARCHAR(20)", "ünï"),
        ("mood", "TEXT", "sad"),
        ("text COLLATE folded", "TEXT", "ABC"),
        ("uuid", "UUID", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
        ("date", "DATE", "2024-02-29"),
        ("time", "TIME", "12:00:00.000001"),
        ("timestamp", "TIMESTAMP", "2024-02-29 23:59:59.999999"),
        ("timestamptz", "TIMESTAMPTZ", "2024-02-29 23:59:59.999999+05"),
        ("bytea", "BYTEA", "\\x00ff"),
    ];
    shop.postgres
        .run(
            "CREATE TYPE mood AS ENUM ('sad', 'happy');
             CREATE COLLATION folded (provider = icu, locale = 'und-u-ks-level2', deterministic = false)",
        )
        .await;
    let columns: Vec<String> = keys.iter().enumerate().map(|(i, (there, ..))| format!("k{i} {there}")).collect();
    shop.postgres.run(&format!("CREATE TABLE t (found int, {})", columns.join(", "))).await;
    let values: Vec<String> = keys.iter().map(|(.., value)| format!("'{value}'")).collect();
    shop.postgres
        .run(&format!("INSERT INTO t VALUES (1, {}), (2{})", values.join(", "), ", NULL".repeat(keys.len())))
        .await;
    shop.instance
        .run("CREATE SOURCE one (n INT) WITH (connector = 'datagen', rows = 1, fields.n.kind = 'sequence')")
        .await;
    for (i, (there, here, value)) in keys.iter().enumerate() {
        shop.instance
            .run(&format!(
                "CREATE MATERIALIZED VIEW v{i} AS SELECT c.found FROM (SELECT n, '{value}'::{here} AS k FROM one) o
                 JOIN c.public.t FOR SYSTEM_TIME AS OF proctime() AS c ON c.k{i} = o.k",
            ))
            .await;
        shop.instance
            .wait_for(&format!("SELECT '{}', found FROM v{i}", there.replace('\'', "")), &[&format!("{there} 1")])
            .await;
    }
    // Both columns.
    shop.instance
        .run(
            "CREATE MATERIALIZED VIEW two AS SELECT c.found FROM (SELECT -3::smallint AS a, n FROM one) o
             JOIN c.public.t FOR SYSTEM_TIME AS OF proctime() AS c ON c.k1 = o.a AND c.k6 = 'sad' AND c.found = o.n + 1",
        )
        .await;
    shop.instance.wait_for("SELECT found FROM two", &["1"]).await;
}

#[tokio::test]
async fn what_cannot_be_asked_is_refused() {
    let shop = Shop::open("").await;
    shop.postgres.run("CREATE TABLE odd (j jsonb, c char(3), f float8, n numeric(10,2))").await;
    let refused = async |query: &str, code: &str, message: &str, hint: &str| {
        let error = shop.instance.client().await.simple_query(&format!("CREATE MATERIALIZED VIEW v AS {query}")).await;
        let error = error.err().unwrap_or_else(|| panic!("succeeded: {query}"));
        let error = error.as_db_error().unwrap_or_else(|| panic!("{error:?}"));
        assert_eq!(error.code().code(), code, "{query}: {}", error.message());
        assert!(error.message().contains(message), "{query}: {}", error.message());
        assert!(error.hint().unwrap_or_default().contains(hint), "{query}: {:?}", error.hint());
    };
    let of = "c ON c.id = o.customer";
    refused(
        &format!("SELECT o.id FROM orders o JOIN c.public.customers {of}"),
        "0A000",
        "nobody tells of",
        "FOR SYSTEM_TIME AS OF proctime()",
    )
    .await;
    refused("SELECT name FROM c.public.customers", "0A000", "nobody tells of", "with a pipeline").await;
    let asof = "FOR SYSTEM_TIME AS OF proctime() AS c";
    let from = format!("SELECT o.id FROM orders o JOIN c.public.customers {asof}");
    refused(&format!("{from} ON c.id > o.customer"), "0A000", "needs a key", "ON c.id = o.customer_id").await;
    refused(
        &format!("{from} ON c.id + 1 = o.customer"),
        "0A000",
        "cannot be the key of a lookup",
        "cast the other side",
    )
    .await;
    refused(
        &format!("{from} ON c.name = o.customer::text || '' AND c.vip = (o.id > 1) AND c.missing = 1"),
        "42703",
        "missing",
        "",
    )
    .await;
    let odd = format!("SELECT o.id FROM orders o JOIN c.public.odd {asof}");
    refused(&format!("{odd} ON c.f = o.id::float8"), "0A000", "its type is double precision", "uuids").await;
    refused(&format!("{odd} ON c.c = o.id::char(3)"), "0A000", "its type is character(3)", "").await;
    refused(&format!("{odd} ON c.n = o.id"), "0A000", "", "").await;
    refused(
        &format!("SELECT o.id FROM orders o JOIN c.public.nothing {asof} ON c.id = o.id"),
        "42P01",
        "does not exist",
        "",
    )
    .await;
    refused(
        &format!("SELECT o.id FROM (SELECT max(id) AS id FROM orders) o JOIN c.public.customers {asof} ON c.id = o.id"),
        "0A000",
        "over rows that change",
        "Leave FOR SYSTEM_TIME out",
    )
    .await;
    let (code, message) = shop.instance.error("ALTER CONNECTION c SET (lookup_cache_ttl = 'soon')").await;
    assert_eq!(code, "22023", "{message}");
    assert!(message.contains("lookup_cache_ttl"), "{message}");
}
