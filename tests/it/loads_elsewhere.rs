//! Loads into tables that are kept in a real PostgreSQL: the same results as here, drift, errors, and exactly once over crashes at
//! every step.

use tidemark_sqllogictest::{Server, run_script};

use crate::harness::{Instance, Random, repository, start, text};
use crate::postgres::Postgres;

async fn both() -> (Postgres, Instance) {
    let (postgres, instance) = (Postgres::start().await, start().await);
    instance.run(&postgres.connection("")).await;
    (postgres, instance)
}

/// Statements, each by itself: a load is no part of a transaction here.
async fn run_each(instance: &Instance, statements: &str) {
    for statement in statements.split(';').map(str::trim).filter(|statement| !statement.is_empty()) {
        instance.run(statement).await;
    }
}

/// SQLSTATE and message of an error, then its detail and its hint.
async fn error(instance: &Instance, sql: &str) -> (String, String) {
    let error = instance.client().await.simple_query(sql).await.err().unwrap_or_else(|| panic!("succeeded: {sql}"));
    let error = error.as_db_error().unwrap_or_else(|| panic!("{error:?}: {sql}"));
    let more = format!("{}\n{}", error.detail().unwrap_or_default(), error.hint().unwrap_or_default());
    (format!("{} {}", error.code().code(), error.message()), more)
}

/// What psql says of a statement besides its result.
fn notices(instance: &Instance, sql: &str) -> String {
    let done = instance.psql(&["-c", sql]);
    assert!(done.status.success(), "{sql}\n{}", text(&done.stderr));
    text(&done.stderr)
}

#[tokio::test]
async fn the_suites_of_loads_give_the_same() {
    for suite in ["load_merge", "load_scd2"] {
        let (_postgres, instance) = both().await;
        let path = repository().join(format!("sqllogictest/suites/tidemark/{suite}.slt"));
        let script = std::fs::read_to_string(path).unwrap();
        assert!(script.matches("WITH (strategy").count() > 5, "{suite}");
        let script = script.replace("WITH (strategy", "WITH (connection = 'c', strategy");
        if let Err(failure) = run_script(&instance.server.url(), "elsewhere", &script).await {
            panic!("{suite}: {failure}\n{}", instance.server.log_tail());
        }
    }
}

#[tokio::test]
async fn a_table_is_made_shown_and_left() {
    let (postgres, mut instance) = both().await;
    let create = "CREATE TABLE dim (id BIGINT PRIMARY KEY, email VARCHAR(40) NOT NULL, tags TEXT[]) \
                  WITH (strategy = 'scd2', connection = 'c', table = 'dwh.\"Dim\"', on_drift = 'evolve')";
    let told = notices(&instance, create);
    assert!(told.contains("connection \"c\": table \"dwh\".\"Dim\" created"), "{told}");
    let columns = "SELECT string_agg(attname || ' ' || format_type(atttypid, atttypmod) || attnotnull, ', ' ORDER BY attnum) \
                   FROM pg_attribute WHERE attrelid = 'dwh.\"Dim\"'::regclass AND attnum > 0";
    assert_eq!(
        postgres.value(columns).await,
        "id biginttrue, email character varying(40)true, tags text[]false, valid_from timestamp with time zonetrue, \
         valid_to timestamp with time zonefalse, is_current booleantrue, row_hash byteatrue"
    );
    let indexes = "SELECT string_agg(indexdef, '; ' ORDER BY indexname DESC) FROM pg_indexes WHERE schemaname = 'dwh'";
    let indexes = postgres.value(indexes).await;
    assert!(indexes.contains("(id, valid_from)") && indexes.contains("(id) WHERE is_current"), "{indexes}");
    instance.run("INSERT INTO dim VALUES (1, 'a@x', '{a,NULL}'), (2, 'b@x', NULL)").await;
    instance.server.kill_and_restart().await.unwrap();

    assert_eq!(instance.lines("SELECT id, email, tags FROM dim ORDER BY id").await, ["1 a@x {a,NULL}", "2 b@x NULL"]);
    assert_eq!(instance.lines("SELECT change FROM tidemark.schema_history WHERE name = 'dim'").await.len(), 3);
    let history = "SELECT sql FROM tidemark.schema_history WHERE change LIKE 'schema%' AND changed_at <= now() \
                   AND connection = 'c' AND remote_table = 'dwh.\"Dim\"'";
    assert_eq!(instance.value(history).await, "CREATE SCHEMA \"dwh\"");
    assert_eq!(instance.value("SELECT connection FROM tidemark.tables WHERE name = 'dim' AND rows IS NULL").await, "c");
    let shown = instance.value("SELECT definition FROM tidemark.objects WHERE name = 'dim'").await;
    assert!(shown.contains("connection = 'c'") && shown.contains("table = 'dwh.\"Dim\"'"), "{shown}");
    assert!(shown.contains("on_drift = 'evolve'") && !shown.contains("row_hash"), "{shown}");
    assert!(instance.psql_ok("\\d dim").contains("valid_from"));
    let plan = instance.lines("EXPLAIN SELECT email FROM dim WHERE id = 2").await.join("\n");
    assert!(plan.contains("SELECT \"email\" FROM \"dwh\".\"Dim\" WHERE (\"id\" = 2)"), "{plan}");
    instance.run("CREATE VIEW known AS SELECT id, email FROM dim WHERE is_current").await;
    assert_eq!(instance.value("SELECT email FROM known WHERE id = 1").await, "a@x");
    assert_eq!(instance.psql_ok("COPY dim (id) TO STDOUT").lines().count(), 2);

    for (sql, said) in [
        ("UPDATE dim SET email = 'x'", "55000 cannot update \"dim\": it is kept in connection \"c\""),
        ("DELETE FROM dim", "55000 cannot delete from \"dim\""),
        ("TRUNCATE dim", "55000 cannot truncate \"dim\""),
        ("ALTER TABLE dim ADD COLUMN x INT", "55000 cannot alter \"dim\""),
        ("CREATE INDEX ON dim (email)", "55000 cannot create an index on \"dim\""),
        ("SUBSCRIBE dim", "55000 cannot subscribe to \"dim\""),
        (
            "CREATE MATERIALIZED VIEW v AS SELECT * FROM dim",
            "0A000 \"c.dwh.Dim\" is a table of another system, whose changes nobody",
        ),
        (
            "CREATE MATERIALIZED VIEW v AS SELECT * FROM known",
            "0A000 \"c.dwh.Dim\" is a table of another system, whose changes nobody",
        ),
        ("INSERT INTO dim VALUES (1, 'a', NULL) RETURNING id", "0A000 RETURNING is not possible"),
        ("BEGIN; INSERT INTO dim VALUES (1, 'a', NULL)", "25001 INSERT of \"dim\", which is kept in another system"),
        ("SELECT 1; INSERT INTO dim VALUES (1, 'a', NULL)", "25001 INSERT of \"dim\""),
        ("BEGIN; COPY dim FROM STDIN", "25001 COPY of \"dim\""),
        ("BEGIN READ ONLY; INSERT INTO dim VALUES (1, 'a', NULL)", "25006 cannot execute INSERT in a read-only"),
        ("DROP CONNECTION c", "2BP01 cannot drop connection c"),
        (
            "CREATE TABLE x (a INT) WITH (strategy = 'append', connection = 'd')",
            "42704 connection \"d\" does not exist",
        ),
        ("CREATE TABLE x (a INT) WITH (connection = 'c')", "22023 option \"strategy\" is missing"),
        (
            "CREATE TABLE x (a INT) WITH (strategy = 'append', table = 'x')",
            "22023 option \"table\" needs \"connection\"",
        ),
        (
            "CREATE TABLE x (a INT) WITH (strategy = 'append', connection = 'c', table = 'a.b.c')",
            "22023 option \"table\" must be",
        ),
        (
            "CREATE TABLE x (a INT) WITH (strategy = 'append', connection = 'c', on_drift = 'x')",
            "22023 option \"on_drift\" must be",
        ),
        ("CREATE TABLE x (a INT CHECK (a > 0)) WITH (strategy = 'append', connection = 'c')", "0A000 CHECK of \"x\""),
        ("CREATE TEMP TABLE x (a INT) WITH (strategy = 'append', connection = 'c')", "0A000 TEMPORARY of \"x\""),
        ("BEGIN; CREATE TABLE x (a INT) WITH (strategy = 'append', connection = 'c')", "25001 CREATE TABLE of \"x\""),
    ] {
        let (found, _) = error(&instance, sql).await;
        assert!(found.starts_with(said), "{sql}: {found}");
    }
    instance.run("ALTER TABLE dim RENAME TO customers; ALTER CONNECTION c RENAME TO d").await;
    assert_eq!(instance.value("SELECT count(*) FROM customers").await, "2");
    instance.run("DROP VIEW known").await;
    let told = notices(&instance, "DROP TABLE customers");
    assert!(told.contains("\"customers\" is kept as dwh.\"Dim\" in connection \"d\", where it stays"), "{told}");
    assert_eq!(postgres.value("SELECT count(*) FROM dwh.\"Dim\"").await, "2");
}

#[tokio::test]
async fn rows_come_by_every_way() {
    let (postgres, instance) = both().await;
    run_each(&instance, "CREATE TABLE log (id INT DEFAULT 7, note TEXT) WITH (strategy = 'append', connection = 'c', loaded_at = true, batch_id = true);
             CREATE TABLE latest (id INT, note TEXT) WITH (strategy = 'truncate', connection = 'c');
             CREATE TABLE many (id INT PRIMARY KEY, note TEXT) WITH (strategy = 'merge', connection = 'c');
             CREATE TABLE here (id INT, note TEXT); INSERT INTO here SELECT i, 'n' || i FROM generate_series(1, 5) AS g(i)",
        )
        .await;
    instance.run("INSERT INTO log (note) VALUES ('given')").await;
    instance.run("INSERT INTO log DEFAULT VALUES").await;
    instance.run("INSERT INTO log SELECT * FROM here WHERE id < 3").await;
    let file = instance.dir.path().join("rows");
    std::fs::write(&file, "8\tcopied\n9\t\\N\n").unwrap();
    for table in ["log", "latest"] {
        let done = instance.psql(&["-c", &format!("\\copy {table} FROM '{}'", file.display())]);
        assert_eq!(text(&done.stdout), "COPY 2\n", "{}", text(&done.stderr));
    }
    let logged = "SELECT string_agg(id || coalesce(note, '-'), ' ' ORDER BY id, note) FROM log";
    assert_eq!(postgres.value(logged).await, "1n1 2n2 7given 7- 8copied 9-");
    let loads = "SELECT count(DISTINCT _batch_id) || ' ' || count(DISTINCT _loaded_at) FROM log";
    assert_eq!(postgres.value(loads).await, "4 4");
    assert_eq!(postgres.value("SELECT string_agg(id::text, ' ') FROM latest").await, "8 9");

    // Who began to read before sees what was there then.
    let reader = postgres.client().await;
    reader.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1").await.unwrap();
    instance.run("INSERT INTO latest SELECT id + 10, note FROM latest").await;
    let seen = reader.query_one("SELECT sum(id)::int FROM latest", &[]).await.unwrap();
    assert_eq!(seen.get::<_, i32>(0), 17);
    assert_eq!(postgres.value("SELECT sum(id) FROM latest").await, "37");

    // More rows than a batch has, and more bytes than anything may hold here.
    let told =
        notices(&instance, "INSERT INTO many SELECT i, repeat('x', 100) FROM generate_series(1, 200000) AS g(i)");
    assert!(told.contains("200000 rows: 200000 inserted, 0 updated, 0 unchanged"), "{told}");
    let told =
        notices(&instance, "INSERT INTO many SELECT i, repeat('x', 100 + i % 2) FROM generate_series(1, 1000) AS g(i)");
    assert!(
        told.contains("merge into \"many\": 1000 rows: 0 inserted, 500 updated, 500 unchanged, 0 closed, 0 deleted"),
        "{told}"
    );
    let client = instance.client().await;
    let done = client.execute("INSERT INTO many VALUES ($1, $2)", &[&0, &"parameter"]).await.unwrap();
    assert_eq!((done, instance.value("SELECT note FROM many WHERE id = 0").await.as_str()), (1, "parameter"));
}

#[tokio::test]
async fn what_is_in_the_same_database_stays_there() {
    let (postgres, instance) = both().await;
    postgres
        .run(
            "CREATE SCHEMA raw; CREATE TABLE raw.customers (id int, name text, city text, seen timestamptz);
             INSERT INTO raw.customers SELECT i, 'n' || i, 'c' || i % 3, '2024-01-01' FROM generate_series(1, 3000) i;
             CREATE ROLE reader LOGIN SUPERUSER",
        )
        .await;
    run_each(&instance, "CREATE TABLE dim (id INT PRIMARY KEY, name TEXT, city TEXT) WITH (strategy = 'scd2', connection = 'c', table = 'dwh.dim');
             CREATE TABLE cities (city TEXT PRIMARY KEY, n BIGINT) WITH (strategy = 'merge', connection = 'c');
             CREATE TABLE stamped (id INT, name TEXT, at TIMESTAMPTZ DEFAULT now()) WITH (strategy = 'append', connection = 'c')",
        )
        .await;
    let within = "no row left connection \"c\": the load runs there as SQL";
    let told = notices(&instance, "INSERT INTO dim SELECT id, name, city FROM c.raw.customers WHERE id <= 2000");
    assert!(told.contains(within) && told.contains("2000 rows: 2000 inserted"), "{told}");
    let told = notices(&instance, "INSERT INTO dim (city, id) SELECT city, id FROM c.raw.customers WHERE id = 1");
    assert!(told.contains(within) && told.contains("1 rows: 1 inserted, 0 updated, 0 unchanged, 1 closed"), "{told}");
    assert_eq!(postgres.value("SELECT name IS NULL FROM dwh.dim WHERE id = 1 AND is_current").await, "true");
    let told = notices(&instance, "INSERT INTO cities SELECT city, count(*) FROM c.raw.customers GROUP BY city");
    assert!(told.contains(within) && told.contains("3 rows: 3 inserted"), "{told}");
    assert_eq!(instance.lines("SELECT * FROM cities ORDER BY 1").await, ["c0 1000", "c1 1000", "c2 1000"]);
    let explained = instance.lines("EXPLAIN INSERT INTO dim SELECT id, name, city FROM c.raw.customers").await;
    assert!(
        explained[0]
            .starts_with("Load: scd2 into dwh.dim of connection \"c\", as SQL over there: SELECT \"id\" AS \"c0\""),
        "{explained:?}"
    );

    instance
        .run("CREATE TABLE log (id INT, name TEXT) WITH (strategy = 'append', connection = 'c', loaded_at = true, batch_id = true)")
        .await;
    let told = notices(&instance, "INSERT INTO log SELECT id, name FROM c.raw.customers WHERE id <= 40");
    assert!(told.contains(within), "{told}");
    assert_eq!(postgres.value("SELECT count(_loaded_at) || ' ' || count(DISTINCT _batch_id) FROM log").await, "40 1");

    // What is computed here, and what is somewhere else, is sent.
    instance
        .run("CREATE TABLE clean (id INT, name TEXT NORMALIZE (regex_replace('n|n1', ''))) WITH (strategy = 'append', connection = 'c')")
        .await;
    instance.run(&postgres.connection("").replace("CONNECTION c ", "CONNECTION other ")).await;
    instance.run("ALTER CONNECTION other SET (user = 'reader')").await;
    for (sql, rows) in [
        ("INSERT INTO dim SELECT id, upper(name), city FROM c.raw.customers WHERE id <= 10", 10),
        ("INSERT INTO dim SELECT id, name, city FROM other.raw.customers WHERE id <= 20", 20),
        ("INSERT INTO clean SELECT id, name FROM c.raw.customers WHERE id <= 20", 20),
        ("INSERT INTO stamped (id, name) SELECT id, name FROM c.raw.customers WHERE id <= 30", 30),
    ] {
        let explained = instance.lines(&format!("EXPLAIN {sql}")).await;
        assert!(explained[0].ends_with("by COPY"), "{explained:?}");
        let done = instance.psql(&["-c", sql]);
        assert!(!text(&done.stderr).contains(within), "{sql}: {}", text(&done.stderr));
        assert!(text(&done.stdout).starts_with("INSERT 0 "), "{sql}: {}", text(&done.stderr));
        if sql.contains("stamped") {
            assert_eq!(instance.value("SELECT count(at) FROM stamped").await, rows.to_string());
        }
    }
    assert_eq!(
        postgres.value("SELECT string_agg(name, ' ' ORDER BY valid_from) FROM dwh.dim WHERE id = 2").await,
        "n2 N2 n2"
    );
}

/// Each query is loaded over there as SQL, and by COPY, as another role reads it: with the same result.
#[tokio::test]
async fn what_is_computed_over_there_is_what_is_computed_here() {
    let (postgres, instance) = both().await;
    postgres
        .run(
            "CREATE TABLE src (id int, a int, b bigint, n numeric(12,3), s text, v varchar(20), f float8, d text, t timestamptz);
             INSERT INTO src SELECT i, i * 7 % 13 - 5, i * 1000003, (i % 17 - 8) / 7.0, nullif('s' || i % 5, 's3'),
                 CASE i % 3 WHEN 0 THEN ' \u{a0}ÄÖ straße ' || i WHEN 1 THEN 'ab''c' END, i / 3.0, CASE i % 4 WHEN 0 THEN ' 2024-02-' || i % 40
                 WHEN 1 THEN 'x' WHEN 2 THEN i || '.5' END, '2024-03-31 00:30+00'::timestamptz + i * interval '7 minutes'
                 FROM generate_series(1, 400) i;
             CREATE ROLE reader LOGIN SUPERUSER",
        )
        .await;
    instance.run(&postgres.connection("").replace("CONNECTION c ", "CONNECTION other ")).await;
    instance.run("ALTER CONNECTION other SET (user = 'reader')").await;
    let queries = [
        ("id INT, x INT, y BIGINT, z BIGINT", "id, a + 1, a * b, b - a"),
        ("id INT, x NUMERIC(20,6), y NUMERIC(12,1), z NUMERIC(20,4)", "id, n * 2, n, n + a"),
        ("id INT, x TEXT, y TEXT, z TEXT", "id, coalesce(s, 'none') || '-' || v, 'it''s', nullif(s, 's1')"),
        (
            "id INT, x TEXT, y INT, z BOOLEAN",
            "id, CASE WHEN a > 3 AND s IS NULL THEN 'high' WHEN a < 0 THEN 'low' END, 7, a > 2",
        ),
        (
            "id INT, x UUID, y DATE, z NUMERIC(8,2)",
            "id, 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid, DATE '2024-02-29', -1.50",
        ),
        (
            "id INT, x TEXT NORMALIZE (trim, lower, collapse_spaces), y TEXT NORMALIZE (upper, empty_to_null)",
            "id, v, s",
        ),
        (
            "id INT, x DATE NORMALIZE (parse_date) , y NUMERIC(8,1) NORMALIZE (parse_numeric, default('0'))",
            "id, NULL, NULL",
        ),
        (
            "id INT, x DATE NORMALIZE (parse_date, on_failure = null), y INT NORMALIZE (default('4'))",
            "id, d, CASE WHEN a > 0 THEN a END",
        ),
        ("id INT, y NUMERIC(8,1) NORMALIZE (parse_numeric, default('-1'), on_failure = default)", "id, d"),
        ("id INT, x TEXT NORMALIZE (email, on_failure = null), y TIMESTAMPTZ", "id, v || '@example.org', t"),
    ];
    let within = "no row left connection \"c\": the load runs there as SQL";
    for (at, (columns, items)) in queries.iter().enumerate() {
        let mut results = Vec::new();
        for (from, there) in [("c", true), ("other", false)] {
            let table = format!("{from}_{at}");
            let create = format!("CREATE TABLE {table} ({columns}) WITH (strategy = 'append', connection = 'c')");
            instance.run(&create).await;
            let told = notices(&instance, &format!("INSERT INTO {table} SELECT {items} FROM {from}.public.src"));
            // A constant is no text of which the collation is known: NORMALIZE of it is done here.
            let there = there && !items.contains("NULL, NULL") && !items.contains("|| '@");
            assert_eq!(told.contains(within), there, "{columns}: {items}: {told}");
            results
                .push(postgres.value(&format!("SELECT string_agg(r::text, E'\\n' ORDER BY id) FROM {table} r")).await);
        }
        let [there, here]: [Vec<&str>; 2] = [0, 1].map(|i| results[i].lines().collect());
        assert_eq!((there.len(), here.len()), (400, 400), "{columns}: {items}");
        let different = there.iter().zip(&here).find(|(there, here)| there != here);
        assert_eq!(different, None, "{columns}: {items}");
    }

    // What a step cannot take is the same error, and nothing is loaded.
    instance
        .run("CREATE TABLE strict (id INT PRIMARY KEY, x INT NORMALIZE (parse_int)) WITH (strategy = 'merge', connection = 'c')")
        .await;
    let there = error(&instance, "INSERT INTO strict SELECT id, d FROM c.public.src WHERE id = 5").await;
    let here = error(&instance, "INSERT INTO strict SELECT id, d FROM other.public.src WHERE id = 5").await;
    assert_eq!(there, here);
    assert_eq!(there.0, "22P02 column \"x\" of \"strict\": step parse_int cannot take \"x\"");
    assert_eq!(instance.value("SELECT count(*) FROM strict").await, "0");
    let told = notices(&instance, "INSERT INTO strict SELECT id, s FROM c.public.src WHERE s IS NULL");
    assert!(told.contains(within), "{told}");
}

#[tokio::test]
async fn drift_is_shown_ignored_or_mended() {
    let (postgres, instance) = both().await;
    let create = |on_drift: &str| {
        format!(
            "CREATE TABLE dim (id BIGINT PRIMARY KEY, name TEXT, age INT) \
             WITH (strategy = 'merge', connection = 'c', on_drift = '{on_drift}')"
        )
    };
    postgres.run("CREATE TABLE dim (id int, name varchar(10), extra text)").await;
    let (said, more) = error(&instance, &create("error")).await;
    assert_eq!(said, "55000 table \"dim\" is not declared as \"public\".\"dim\" is in PostgreSQL");
    let lines: Vec<&str> = more.lines().take(6).collect();
    assert_eq!(
        lines,
        [
            "column \"id\": bigint here, integer there",
            "column \"id\": NOT NULL here, NULL there",
            "column \"name\": text here, character varying(10) there",
            "column \"age\": missing there",
            "column \"extra\": not declared here, text there",
            "key (id): no unique constraint there",
        ]
    );
    assert!(more.contains("on_drift = 'evolve'"), "{more}");
    let (said, _) = error(&instance, &create("ignore")).await;
    assert!(said.starts_with("55000"), "a missing column cannot be ignored: {said}");
    let told = notices(&instance, &create("evolve"));
    assert_eq!(told.lines().filter(|line| line.contains("connection \"c\": ")).count(), 4, "{told}");
    instance.run("INSERT INTO dim VALUES (3000000000, 'a name of more letters', 1)").await;

    // And again when it changes over there.
    postgres.run("ALTER TABLE dim DROP COLUMN age").await;
    assert!(error(&instance, "SELECT * FROM dim").await.0.starts_with("42703 column \"age\" of \"dim\" is not there"));
    let told = notices(&instance, "INSERT INTO dim VALUES (1, 'x', 2)");
    assert!(told.contains("column \"age\": missing there"), "{told}");
    assert_eq!(
        instance.lines("SELECT * FROM dim ORDER BY id").await,
        ["1 x 2", "3000000000 a name of more letters NULL"]
    );
    let history = "SELECT sql FROM tidemark.schema_history WHERE change LIKE 'column \"age\"%'";
    assert_eq!(instance.lines(history).await, ["ALTER TABLE \"public\".\"dim\" ADD COLUMN \"age\" integer"; 2]);
    postgres.run("ALTER TABLE dim ALTER COLUMN name TYPE date USING NULL").await;
    assert!(
        error(&instance, "INSERT INTO dim VALUES (1, 'x', 2)")
            .await
            .1
            .contains("column \"name\": text here, date there")
    );

    postgres.run("CREATE TABLE wide (id bigint, v numeric, extra text DEFAULT 'e')").await;
    instance
        .run("CREATE TABLE wide (id INT PRIMARY KEY, v INT) WITH (strategy = 'scd2', connection = 'c', table = 'w')")
        .await;
    postgres.run("DROP TABLE w").await;
    instance.run("INSERT INTO wide VALUES (1, 1)").await;
    assert_eq!(postgres.value("SELECT count(*) FROM w").await, "1", "what is gone is made again");
    instance
        .run("CREATE TABLE narrow (id INT PRIMARY KEY, v INT) WITH (strategy = 'merge', connection = 'c', table = 'wide', on_drift = 'ignore')")
        .await;
    for count in [1, 0] {
        let told = notices(&instance, "INSERT INTO narrow VALUES (1, 5)");
        assert!(told.contains(&format!("1 rows: {count} inserted, 0 updated")), "{told}");
    }
    assert_eq!(instance.lines("SELECT * FROM narrow").await, ["1 5"]);
    postgres.run("ALTER TABLE wide ADD COLUMN must int; UPDATE wide SET must = 1; ALTER TABLE wide ALTER COLUMN must SET NOT NULL").await;
    assert!(
        error(&instance, "INSERT INTO narrow VALUES (2, 5)")
            .await
            .1
            .contains("\"must\": not declared here, integer NOT NULL")
    );
    postgres.run("CREATE VIEW v AS SELECT 1 AS id").await;
    let (said, _) = error(&instance, "CREATE TABLE v (id INT) WITH (strategy = 'append', connection = 'c')").await;
    assert_eq!(said, "42809 connection \"c\": \"public\".\"v\" is not a table");
}

#[tokio::test]
async fn errors_change_nothing_and_say_what_the_server_said() {
    let (postgres, instance) = both().await;
    run_each(&instance, "CREATE TABLE dim (id INT PRIMARY KEY, v INT NOT NULL) WITH (strategy = 'scd2', connection = 'c'); INSERT INTO dim VALUES (1, 1)")
        .await;
    postgres.run("ALTER TABLE dim ADD CONSTRAINT small CHECK (v < 10); CREATE ROLE guest LOGIN").await;
    let (said, more) = error(&instance, "INSERT INTO dim VALUES (1, 2), (2, 20)").await;
    assert!(
        said.starts_with("23514 connection \"c\": new row for relation \"dim\" violates check constraint"),
        "{said}"
    );
    assert!(more.contains("Remote statement: INSERT INTO"), "{more}");
    assert!(error(&instance, "INSERT INTO dim VALUES (1, NULL)").await.0.starts_with("23502"));
    assert!(error(&instance, "INSERT INTO dim VALUES (1, 2), (2, 1 / (SELECT 0))").await.0.starts_with("22012"));
    assert_eq!(instance.lines("SELECT id, v, is_current FROM dim").await, ["1 1 t"]);
    instance.run("ALTER CONNECTION c SET (user = 'guest')").await;
    assert!(
        error(&instance, "INSERT INTO dim VALUES (1, 2)")
            .await
            .0
            .starts_with("42501 connection \"c\": permission denied")
    );
    let (said, _) = error(&instance, "CREATE TABLE x (a INT) WITH (strategy = 'append', connection = 'c')").await;
    assert!(said.starts_with("42501"), "{said}");
    instance.run("ALTER CONNECTION c SET (user = 'tidemark')").await;

    // Cancelled while another one has the table.
    let holder = postgres.client().await;
    holder.batch_execute("BEGIN; LOCK TABLE dim IN SHARE ROW EXCLUSIVE MODE").await.unwrap();
    let (said, _) = error(&instance, "SET statement_timeout = 500; INSERT INTO dim VALUES (1, 2)").await;
    assert!(said.starts_with("25001"), "{said}");
    let client = instance.client().await;
    client.batch_execute("SET statement_timeout = 500").await.unwrap();
    let cancelled = client.batch_execute("INSERT INTO dim VALUES (1, 2)").await.unwrap_err();
    assert_eq!(cancelled.code().unwrap().code(), "57014");
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
    let none_waits = async {
        while postgres.value(waiting).await != "0" {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), none_waits).await.unwrap();
    holder.batch_execute("COMMIT").await.unwrap();
    assert_eq!(instance.lines("SELECT id, v, is_current FROM dim").await, ["1 1 t"]);
    drop(postgres);
    assert!(
        error(&instance, "INSERT INTO dim VALUES (1, 2)").await.0.starts_with("08000 connection \"c\": cannot connect")
    );
    assert!(error(&instance, "SELECT * FROM dim").await.0.starts_with("08000"));
    assert!(
        error(&instance, "CREATE TABLE x (a INT) WITH (strategy = 'append', connection = 'c')")
            .await
            .0
            .starts_with("08000")
    );
    instance.run("DROP TABLE dim").await;
}

/// Sessions that load the same keys at the same time: no two versions are current, and histories have no holes.
#[tokio::test(flavor = "multi_thread")]
async fn loads_of_several_sessions_do_not_mix() {
    let (postgres, instance) = both().await;
    instance.run("CREATE TABLE dim (id INT PRIMARY KEY, v INT) WITH (strategy = 'scd2', connection = 'c')").await;
    let url = instance.server.url();
    let writers = (0..3).map(|seed| {
        let url = url.clone();
        tokio::spawn(async move {
            let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
            tokio::spawn(connection);
            let mut random = Random::new(seed + 1);
            for _ in 0..15 {
                let rows: Vec<String> = (0..8).map(|id| format!("({id}, {})", random.below(3))).collect();
                client.batch_execute(&format!("INSERT INTO dim VALUES {}", rows.join(", "))).await.unwrap();
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    let next = "SELECT id, v, valid_to, is_current, lead(valid_from) OVER w AS next, lead(v) OVER w AS next_v FROM dim \
                WINDOW w AS (PARTITION BY id ORDER BY valid_from)";
    for wrong in ["valid_to IS DISTINCT FROM next", "v = next_v", "is_current <> (valid_to IS NULL)"] {
        assert_eq!(postgres.value(&format!("SELECT count(*) FROM ({next}) n WHERE {wrong}")).await, "0", "{wrong}");
    }
    assert_eq!(postgres.value("SELECT count(*) FROM dim WHERE is_current").await, "8");
}

/// Where a load may be when the server dies.
const FAIL_POINTS: [&str; 14] = [
    "load.connected",
    "load.staged",
    "load.copying",
    "load.copied",
    "load.locked",
    "load.prepared",
    "load.applied.0",
    "load.applied.1",
    "load.applied.2",
    "load.applied.3",
    "load.applied.4",
    "load.progress",
    "load.commit",
    "load.committed",
];

#[tokio::test]
async fn a_run_is_done_once_whatever_step_dies() {
    let (postgres, mut instance) = both().await;
    run_each(
        &instance,
        "CREATE TABLE dim (id INT PRIMARY KEY, v INT) WITH (strategy = 'scd2', deletes = 'hard', connection = 'c');
             CREATE TABLE log (id INT, v INT) WITH (strategy = 'append', connection = 'c');
             CREATE TABLE latest (id INT, v INT) WITH (strategy = 'truncate', connection = 'c')",
    )
    .await;
    let mut expected_log = 0;
    for (round, point) in FAIL_POINTS.iter().enumerate() {
        // A table that nothing is in is loaded by another way.
        let first = format!("first_{round}");
        let create = "(id INT PRIMARY KEY, v INT) WITH (strategy = 'merge', connection = 'c')";
        run_each(&instance, &format!("CREATE TABLE {first} {create}")).await;
        for table in ["dim", "log", "latest", &first] {
            // Those that a load of this strategy comes by.
            let compares = table == "dim";
            let passed = match *point {
                "load.locked" => table != "log",
                "load.prepared" | "load.applied.2" | "load.applied.3" | "load.applied.4" => compares,
                "load.applied.0" => table != "log",
                "load.applied.1" => table != first,
                _ => true,
            };
            if !passed {
                continue;
            }
            let dir = instance.server.dir().to_path_buf();
            instance.server.kill9().unwrap();
            instance.server = Server::start_with(&dir, &[], &[("TIDEMARK_FAIL_POINT", point)]).await.unwrap();
            let run = format!("SET tidemark.run_id = 'round {round}'");
            let load = format!("INSERT INTO {table} VALUES (1, {round}), ({}, 7)", 10 + round);
            let client = instance.client().await;
            client.batch_execute(&run).await.unwrap();
            let died = client.simple_query(&load).await.err().unwrap_or_else(|| panic!("{table} went past {point}"));
            assert!(died.is_closed() || died.as_db_error().is_none(), "{table} {point}: {died:?}");

            instance.server.kill_and_restart().await.unwrap();
            for _ in 0..2 {
                let client = instance.client().await;
                client.batch_execute(&run).await.unwrap();
                assert_eq!(client.execute(load.as_str(), &[]).await.unwrap(), 2, "{table} {point}");
            }
            let what = format!("{table} after {point}");
            match table {
                "log" => {
                    expected_log += 2;
                    assert_eq!(postgres.value("SELECT count(*) FROM log").await, expected_log.to_string(), "{what}");
                }
                table if table == "latest" || table == first => {
                    let rows = format!("SELECT string_agg(id || ':' || v, ' ' ORDER BY id) FROM {table}");
                    let rows = postgres.value(&rows).await;
                    assert_eq!(rows, format!("1:{round} {}:7", 10 + round), "{what}");
                }
                _ => {
                    let rows = "SELECT string_agg(id || ':' || v || is_current, ' ' ORDER BY id, valid_from) FROM dim";
                    let old: Vec<String> = (0..round).map(|old| format!("1:{old}false")).collect();
                    let new = format!("1:{round}true {}:7true", 10 + round);
                    let expected = [old, vec![new]].concat().join(" ");
                    assert_eq!(postgres.value(rows).await, expected, "{what}");
                }
            }
            let recorded = format!(
                "SELECT rows || ' ' || inserted FROM tidemark.progress WHERE target = 'public.{table}' AND run_id = 'round {round}'"
            );
            assert_eq!(postgres.value(&recorded).await, "2 2", "{what}");
        }
    }
    let told = notices(&instance, "SET tidemark.run_id = 'round 3'");
    assert_eq!(told, "");
    let client = instance.client().await;
    client.batch_execute("SET tidemark.run_id = 'round 3'").await.unwrap();
    assert_eq!(
        client.execute("INSERT INTO log VALUES (1, 1), (2, 2), (3, 3)", &[]).await.unwrap(),
        2,
        "as it was then"
    );
    assert_eq!(postgres.value("SELECT count(*) FROM log").await, expected_log.to_string());
}

#[tokio::test]
async fn pipelines_load_elsewhere() {
    let (postgres, instance) = both().await;
    postgres.run("CREATE TABLE raw (id int, v int); INSERT INTO raw VALUES (1, 10), (2, 20)").await;
    run_each(
        &instance,
        "CREATE TABLE source (id INT, v INT); INSERT INTO source VALUES (1, 10), (2, 20), (3, 30);
         CREATE TABLE dim (id INT PRIMARY KEY, v INT) WITH (strategy = 'scd2', connection = 'c');
         CREATE TABLE log (id INT, v INT) WITH (strategy = 'append', connection = 'c');
         CREATE PIPELINE sent INTO dim AS SELECT id, v FROM source;
         CREATE PIPELINE within INTO log, dim AS SELECT id, v FROM c.public.raw",
    )
    .await;
    // Run, target, rows, inserted, updated, unchanged, closed, deleted.
    assert_eq!(instance.lines("RUN PIPELINE sent").await, ["1 dim 3 3 0 0 0 0"]);
    instance.run("UPDATE source SET v = 31 WHERE id = 3").await;
    assert_eq!(instance.lines("RUN PIPELINE sent").await, ["2 dim 3 1 0 2 1 0"]);
    assert_eq!(instance.lines("RUN PIPELINE within").await, ["3 log 2 2 0 0 0 0", "3 dim 2 0 0 2 0 0"]);
    assert_eq!(postgres.value("SELECT count(*) FROM dim").await, "4");
    let runs = "SELECT string_agg(target || ' ' || rows || ' ' || inserted, ', ' ORDER BY committed_at) FROM tidemark.progress";
    assert_eq!(postgres.value(runs).await, "public.dim 3 3, public.dim 3 1, public.log 2 2, public.dim 2 0");
    instance.run("RUN PIPELINE within WITH FULL REFRESH").await;
    assert_eq!(postgres.value("SELECT count(*) FROM log").await, "2");
    // What would be done over there is said, tried, and not done.
    let explained = instance.lines("EXPLAIN PIPELINE within").await.join("\n");
    assert!(
        explained.contains("Load: append into public.log of connection \"c\", as SQL over there: SELECT"),
        "{explained}"
    );
    assert!(
        instance.lines("VALIDATE PIPELINE within").await[2]
            .ends_with("t public.log of connection \"c\" is as declared NULL")
    );
    postgres.run("DROP TABLE log; ALTER TABLE dim RENAME TO gone").await;
    let checks = instance.lines("VALIDATE PIPELINE within").await;
    assert_eq!(checks[2], "into log t to be done first: table \"public\".\"log\" created NULL");
    let tried = instance.lines("DRY RUN PIPELINE sent").await;
    assert!(tried[0].starts_with("dim 3 3 0 0 0 0 [{"), "{tried:?}");
    assert_eq!(postgres.value("SELECT to_regclass('log') IS NULL AND to_regclass('dim') IS NULL").await, "true");
    postgres.run("ALTER TABLE gone RENAME TO dim; ALTER TABLE dim DROP COLUMN v").await;
    let checks = instance.lines("VALIDATE PIPELINE sent").await.join("\n");
    assert!(checks.contains("into dim f ") && checks.contains("column \"v\": missing there"), "{checks}");
    postgres.run("ALTER TABLE dim ADD COLUMN v int").await;
    instance.run("ALTER CONNECTION c SET (user = 'nobody')").await;
    let checks = instance.lines("VALIDATE PIPELINE sent").await.join("\n");
    assert!(checks.contains("into dim f ") && checks.contains("role \"nobody\" does not exist"), "{checks}");
    instance.run("ALTER CONNECTION c SET (user = 'tidemark')").await;
    // Another server counts its runs from one as well.
    let other = start().await;
    other.run(&postgres.connection("")).await;
    run_each(
        &other,
        "CREATE TABLE dim (id INT PRIMARY KEY, v INT) WITH (strategy = 'scd2', connection = 'c');
         CREATE PIPELINE sent INTO dim AS SELECT 4 AS id, 40 AS v",
    )
    .await;
    assert_eq!(other.lines("RUN PIPELINE sent").await, ["1 dim 1 1 0 0 0 0"]);
    assert_eq!(postgres.value("SELECT count(*) FROM dim").await, "5");
}

/// Cut off between the commit there and the commit here: the run is taken up with what it had, and what came meanwhile is the next
/// one's.
#[tokio::test]
async fn a_watermark_is_that_of_what_was_loaded() {
    let (postgres, mut instance) = both().await;
    postgres.run("CREATE TABLE raw (id int, v int); INSERT INTO raw VALUES (1, 10), (2, 20)").await;
    run_each(
        &instance,
        "CREATE TABLE log (id INT, v INT) WITH (strategy = 'append', connection = 'c');
         CREATE PIPELINE news INTO log WITH (incremental_column = 'id') AS SELECT id, v FROM c.public.raw",
    )
    .await;
    let dir = instance.server.dir().to_path_buf();
    instance.server.kill9().unwrap();
    instance.server = Server::start_with(&dir, &[], &[("TIDEMARK_FAIL_POINT", "load.committed")]).await.unwrap();
    assert!(instance.client().await.simple_query("RUN PIPELINE news").await.is_err());
    postgres.run("INSERT INTO raw VALUES (3, 30)").await;
    instance.server.kill_and_restart().await.unwrap();
    let ended = "SELECT status, rows_in, inserted, watermark_after FROM tidemark.run_history WHERE attempt = 2";
    instance.wait_for(ended, &["succeeded 2 2 2"]).await;
    // The history knows a moment before the next run may begin.
    instance.wait_for("SELECT run FROM tidemark.pipelines WHERE name = 'news'", &["NULL"]).await;
    assert_eq!(postgres.value("SELECT string_agg(id::text, ' ' ORDER BY id) FROM log").await, "1 2");
    instance.run("RUN PIPELINE news").await;
    assert_eq!(postgres.value("SELECT string_agg(id::text, ' ' ORDER BY id) FROM log").await, "1 2 3");
}
