//! Tables of a real PostgreSQL in queries: their types, what goes over to it, one moment, cancelling, errors, and CHECK CONNECTION.

use std::time::Duration;

use crate::harness::{Instance, start, start_with};
use crate::postgres::{Postgres, certificates};

const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

async fn both() -> (Postgres, Instance) {
    let (postgres, instance) = (Postgres::start().await, start().await);
    instance.run(&postgres.connection("")).await;
    (postgres, instance)
}

async fn error(instance: &Instance, sql: &str) -> (String, String, String) {
    let error = instance.client().await.simple_query(sql).await.err().unwrap_or_else(|| panic!("succeeded: {sql}"));
    let error = error.as_db_error().unwrap_or_else(|| panic!("{error:?}: {sql}"));
    let more = format!("{} {}", error.detail().unwrap_or_default(), error.hint().unwrap_or_default());
    (error.code().code().to_string(), error.message().to_string(), more)
}

#[tokio::test]
async fn types_are_read_without_loss() {
    let (postgres, instance) = both().await;
    let values = [
        ("boolean", "true", "boolean"),
        ("int2", "-32768", "smallint"),
        ("int4", "2147483647", "integer"),
        ("int8", "-9223372036854775808", "bigint"),
        ("real", "1.5", "real"),
        ("double precision", "'-Infinity'", "double precision"),
        ("numeric", "12345678901234567.0123456789", "numeric"),
        ("numeric(20,5)", "-123456789012345.12345", "numeric(20,5)"),
        ("numeric(60,30)", "123456789012345678901234567890.123456789012345678901234567891", "numeric(60,30)"),
        ("numeric(2,-3)", "17000", "numeric(5,0)"),
        ("numeric(2,5)", "0.00017", "numeric(5,5)"),
        ("text", "'hällo ''x'''", "text"),
        ("varchar(10)", "'ten'", "character varying(10)"),
        ("char(5)", "'abc'", "character(5)"),
        ("name", "'nam'", "text"),
        ("\"char\"", "'q'", "text"),
        ("bytea", "'\\x00deadbeef'", "bytea"),
        ("date", "'2024-02-29'", "date"),
        ("date", "'infinity'", "date"),
        ("date", "'0044-03-15 BC'", "date"),
        ("time", "'23:59:59.999999'", "time without time zone"),
        ("timestamp", "'-infinity'", "timestamp without time zone"),
        ("timestamptz", "'2024-01-01 00:00:00.123456+05'", "timestamp with time zone"),
        ("interval", "'1 year 2 mons -3 days 04:05:06.789'", "interval"),
        ("uuid", "'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'", "uuid"),
        ("json", "'{\"b\": 1,  \"a\": [null]}'", "json"),
        ("jsonb", "'{\"a\": [1, 2.50], \"b\": \"x\"}'", "jsonb"),
        ("oid", "4000000000", "oid"),
        ("int4[]", "'{1,NULL,3}'", "integer[]"),
        ("int4[]", "'{}'", "integer[]"),
        ("int4[][]", "'{{1,2},{3,4}}'", "integer[]"),
        ("text[]", "'{a,\"b,c\",NULL,\"\"}'", "text[]"),
        ("numeric(5,2)[]", "'{1.25,2.50}'", "numeric(5,2)[]"),
        ("timestamptz[]", "'{2024-01-01 00:00:00+00,infinity}'", "timestamp with time zone[]"),
        ("uuid[]", "'{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}'", "uuid[]"),
        ("jsonb[]", "'{\"{\\\"a\\\": 1}\"}'", "jsonb[]"),
        ("mood", "'happy'", "text"),
        ("mood[]", "'{sad,happy}'", "text[]"),
        ("positive", "7", "integer"),
        ("cash", "1.234", "numeric(12,3)"),
        ("int4range", "'[1,5)'", "text"),
        ("timetz", "'12:00:00+02'", "text"),
        ("pair", "'(1,x)'", "text"),
    ];
    postgres
        .run(
            "CREATE TYPE mood AS ENUM ('sad', 'happy'); CREATE TYPE pair AS (a int, b text);
             CREATE DOMAIN positive AS int CHECK (value > 0); CREATE DOMAIN cash AS numeric(12,3)",
        )
        .await;
    let columns: Vec<String> = values.iter().enumerate().map(|(i, (t, ..))| format!("c{i} {t}")).collect();
    postgres.run(&format!("CREATE TABLE t (id int NOT NULL, {})", columns.join(", "))).await;
    let list: Vec<&str> = values.iter().map(|(_, v, _)| *v).collect();
    postgres.run(&format!("INSERT INTO t VALUES (1, {}); INSERT INTO t VALUES (2)", list.join(", "))).await;
    let client = postgres.client().await;
    client.batch_execute("SET timezone = 'UTC'").await.unwrap();
    for (i, (declared, ..)) in values.iter().enumerate() {
        let sql = |from: &str| format!("SELECT c{i} FROM {from} WHERE id = 1");
        let there = client.simple_query(&sql("t")).await.unwrap();
        let there = there.iter().find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        });
        assert_eq!(instance.value(&sql("c.public.t")).await, there.unwrap(), "{declared}");
        assert_eq!(
            instance.value(&format!("SELECT c{i} IS NULL FROM c.public.t WHERE id = 2")).await,
            "t",
            "{declared}"
        );
    }
    // And as a table made of it.
    instance.run("CREATE TABLE copied AS SELECT * FROM c.public.t").await;
    let types =
        "SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'copied'::regclass AND attnum > 1
        ORDER BY attnum";
    let here: Vec<&str> = values.iter().map(|(_, _, here)| *here).collect();
    assert_eq!(instance.lines(types).await, here);
    assert_eq!(
        instance.lines("SELECT * FROM copied ORDER BY id").await,
        instance.lines("SELECT * FROM c.public.t ORDER BY id").await
    );
}

#[tokio::test]
async fn a_numeric_is_exact_or_an_error() {
    let (postgres, instance) = both().await;
    postgres.run("CREATE TABLE t (n numeric); INSERT INTO t VALUES (1.123456789012345)").await;
    let (code, message, more) = error(&instance, "SELECT n FROM c.public.t").await;
    assert_eq!(code, "22003");
    assert!(message.contains("connection \"c\": column \"n\""), "{message}");
    assert!(more.contains("option \"numeric\""), "{more}");
    instance.run("ALTER CONNECTION c SET (numeric = 'numeric(60,20)')").await;
    assert_eq!(instance.value("SELECT n FROM c.public.t").await, "1.12345678901234500000");
    instance.run("ALTER CONNECTION c SET (numeric = 'text')").await;
    assert_eq!(instance.value("SELECT n FROM c.public.t").await, "1.123456789012345");
    postgres.run("UPDATE t SET n = 'NaN'").await;
    instance.run("ALTER CONNECTION c RESET (numeric)").await;
    assert!(error(&instance, "SELECT n FROM c.public.t").await.1.contains("column \"n\""));
}

const SHOP: &str = "
    CREATE TABLE customers (id int PRIMARY KEY, name text, country varchar(2), since date, score double precision, vip boolean);
    INSERT INTO customers SELECT g, CASE WHEN g % 7 > 0 THEN 'Name ' || g END, CASE g % 3 WHEN 0 THEN 'DE' WHEN 1 THEN 'at' END,
        date '2020-01-01' + g, CASE g % 4 WHEN 0 THEN 'NaN' WHEN 1 THEN '-0' ELSE g / 3.0 END::double precision, g % 2 = 0
        FROM generate_series(1, 300) g;
    CREATE TABLE orders (id bigint, customer int, amount numeric(10,2), at timestamptz, tag uuid);
    INSERT INTO orders SELECT g, CASE WHEN g % 11 > 0 THEN g % 320 END, g / 7.0, timestamptz '2024-01-01 00:00:00+00' + g * interval '1 hour',
        md5((g % 50)::text)::uuid FROM generate_series(1, 5000) g;";

/// Whatever goes over and whatever stays, the answer is that of the same rows in tables kept here.
#[tokio::test]
async fn what_goes_over_gives_what_would_have_been_worked_out_here() {
    let (postgres, instance) = both().await;
    postgres.run(SHOP).await;
    instance.run("CREATE SCHEMA kept").await;
    for table in ["customers", "orders"] {
        instance.run(&format!("CREATE TABLE kept.{table} AS SELECT * FROM c.public.{table}")).await;
    }
    // (query, what EXPLAIN must show of it over there)
    let queries = [
        ("SELECT * FROM @customers WHERE id = 17", "WHERE (\"id\" = 17)"),
        ("SELECT id FROM @customers WHERE id > 250 AND country = 'DE'", "(\"country\" = 'DE')"),
        ("SELECT id FROM @customers WHERE name LIKE 'Name 1%'", "LIKE 'Name 1%'"),
        ("SELECT id FROM @customers WHERE name >= 'Name 2' AND name < 'Name 3'", "COLLATE \"C\" >= 'Name 2'"),
        ("SELECT id FROM @customers WHERE name IS NULL OR NOT vip", "IS NULL) OR (NOT"),
        ("SELECT id FROM @customers WHERE since BETWEEN '2020-02-01' AND '2020-02-10'", "'2020-02-01'::date"),
        ("SELECT id FROM @customers WHERE score < 0.5", "'0.5'::double precision"),
        ("SELECT id FROM @customers WHERE score <= 0", "FROM \"public\".\"customers\"\n"),
        ("SELECT id FROM @customers WHERE upper(country) = 'AT'", "FROM \"public\".\"customers\"\n"),
        ("SELECT id FROM @customers WHERE id IN (1, 2, 3, 5, 8, 13, 21, 34)", "IN (1, 2"),
        ("SELECT id FROM @customers WHERE country <> 'DE'", "(\"country\" <> 'DE')"),
        ("SELECT id FROM @orders WHERE amount > 700.5", "(\"amount\" > 700.5"),
        ("SELECT id FROM @orders WHERE amount = 3", "\"amount\" = 3"),
        (
            "SELECT id FROM @orders WHERE at >= '2024-07-01 00:00:00+02'",
            "'2024-06-30 22:00:00+00'::timestamp with time zone",
        ),
        (
            "SELECT id FROM @orders WHERE tag = 'C4CA4238-a0b9-2382-0dcc-509a6f75849b'",
            "'c4ca4238-a0b9-2382-0dcc-509a6f75849b'::uuid",
        ),
        ("SELECT count(*) FROM @orders", "SELECT count(*) AS"),
        (
            "SELECT count(*), count(customer), sum(amount), min(at), max(id) FROM @orders WHERE customer > 100",
            "sum(\"amount\")",
        ),
        ("SELECT customer, count(*), sum(id) FROM @orders GROUP BY customer", "GROUP BY \"customer\""),
        ("SELECT country, count(*) FROM @customers GROUP BY country HAVING count(*) > 90", "GROUP BY \"country\""),
        ("SELECT count(DISTINCT customer) FROM @orders", "GROUP BY \"customer\""),
        ("SELECT min(name), max(name) FROM @customers", "min(\"name\" COLLATE \"C\")"),
        ("SELECT score, count(*) FROM @customers GROUP BY score", "SELECT \"score\" FROM"),
        ("SELECT sum(score) FROM @customers WHERE score > 1", "SELECT \"score\" FROM"),
        ("SELECT avg(amount) FROM @orders", "SELECT \"amount\" FROM"),
        ("SELECT sum(amount) FROM @orders WHERE false", ""),
        ("SELECT count(*), sum(amount) FROM @orders WHERE id < 0", "count(*) AS"),
        ("SELECT c.name, o.amount FROM @customers c JOIN @orders o ON o.customer = c.id WHERE o.amount > 600", "JOIN"),
        ("SELECT c.name, o.id FROM @customers c LEFT JOIN @orders o ON o.customer = c.id", "LEFT JOIN"),
        ("SELECT c.id, o.id FROM @customers c FULL JOIN @orders o ON o.customer = c.id", "FULL JOIN"),
        (
            "SELECT c.country, count(*), sum(o.amount) FROM @customers c JOIN @orders o ON o.customer = c.id GROUP BY c.country",
            "JOIN",
        ),
        (
            "SELECT o.customer, sum(o.amount), max(c.since) FROM @customers c JOIN @orders o ON o.customer = c.id GROUP BY o.customer",
            "GROUP BY",
        ),
        ("SELECT a.id, b.id FROM @customers a JOIN @customers b ON a.name = b.name", "COLLATE \"C\" = r."),
        (
            "SELECT c.id FROM @customers c WHERE EXISTS (SELECT 1 FROM @orders o WHERE o.customer = c.id AND o.amount > 650)",
            "",
        ),
        ("SELECT c.id, (SELECT max(o.amount) FROM @orders o WHERE o.customer = c.id) FROM @customers c", ""),
        ("SELECT id FROM @customers UNION ALL SELECT customer FROM @orders", ""),
        ("SELECT id FROM @customers ORDER BY id LIMIT 5 OFFSET 2", ""),
        ("SELECT DISTINCT country FROM @customers", "GROUP BY \"country\""),
        ("SELECT count(*) FROM @customers c JOIN kept.orders o ON o.customer = c.id", "SELECT \"id\" FROM"),
        (
            "SELECT name, sum(n) FROM (SELECT c.name, count(*) AS n FROM @customers c JOIN @orders o ON o.customer = c.id GROUP BY c.name) x GROUP BY name",
            "",
        ),
    ];
    for (query, shown) in queries {
        let here = query.replace('@', "kept.");
        let there = query.replace('@', "c.public.");
        let explained = instance.lines(&format!("EXPLAIN {there}")).await.join("\n") + "\n";
        assert!(explained.contains(shown), "{there}\n{explained}");
        let (mut here, mut there) = (instance.lines(&here).await, instance.lines(&there).await);
        here.sort();
        there.sort();
        assert_eq!(there, here, "{query}\n{explained}");
    }
    let limited = instance.lines("EXPLAIN SELECT id FROM c.public.orders WHERE id > 5 LIMIT 3").await.join("\n");
    assert!(limited.contains("WHERE (\"id\" > 5) LIMIT 3"), "{limited}");
    assert_eq!(instance.lines("SELECT id FROM c.public.orders WHERE id > 5 LIMIT 3").await.len(), 3);
}

#[tokio::test]
async fn remote_and_kept_tables_go_together() {
    let (postgres, instance) = both().await;
    postgres.run(SHOP).await;
    instance
        .run("CREATE TABLE notes (id INT PRIMARY KEY, note TEXT); INSERT INTO notes VALUES (1, 'one'), (2, 'two')")
        .await;
    let joined = "SELECT n.note, x.name FROM notes n JOIN c.public.customers x USING (id) ORDER BY 1";
    assert_eq!(instance.lines(joined).await, ["one Name 1", "two Name 2"]);
    instance.run(&format!("CREATE VIEW v AS {joined}")).await;
    assert_eq!(instance.lines("SELECT name FROM v ORDER BY 1").await, ["Name 1", "Name 2"]);
    instance.run("INSERT INTO notes SELECT id, name FROM c.public.customers WHERE id BETWEEN 3 AND 5").await;
    assert_eq!(instance.value("SELECT count(*) FROM notes").await, "5");
    instance
        .run("UPDATE notes SET note = x.country FROM c.public.customers x WHERE x.id = notes.id AND x.id = 3")
        .await;
    instance.run("DELETE FROM notes WHERE id IN (SELECT id FROM c.public.customers WHERE id = 5)").await;
    assert_eq!(instance.lines("SELECT * FROM notes ORDER BY id").await[2..], ["3 DE", "4 Name 4"]);
    let client = instance.client().await;
    let rows = client.query("SELECT name FROM c.public.customers WHERE id = $1", &[&8]).await.unwrap();
    assert_eq!(rows[0].get::<_, String>(0), "Name 8");
    assert_eq!(
        instance
            .lines("BEGIN; DECLARE k CURSOR FOR SELECT id FROM c.public.customers ORDER BY id; FETCH 2 FROM k; COMMIT")
            .await,
        ["1", "2"]
    );
    assert_eq!(instance.psql_ok("COPY (SELECT id FROM c.public.customers WHERE id < 3) TO STDOUT"), "1\n2\n");
    assert_eq!(instance.psql_ok("COPY c.public.customers (id) TO STDOUT").lines().count(), 300);
    let (code, message, _) = error(&instance, "DROP CONNECTION c").await;
    assert_eq!(code, "2BP01");
    assert!(message.contains("cannot drop connection c"), "{message}");
    instance.run("DROP CONNECTION c CASCADE").await;
    assert_eq!(error(&instance, "SELECT * FROM v").await.0, "42P01");
}

/// Money moves between two tables while statements add them up: each sees all of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_statement_reads_one_moment() {
    let (postgres, instance) = both().await;
    postgres
        .run("CREATE TABLE a (n int); CREATE TABLE b (n int); INSERT INTO a VALUES (1000); INSERT INTO b VALUES (0)")
        .await;
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let writer = {
        let (client, stop) = (postgres.client().await, stop.clone());
        tokio::spawn(async move {
            let mut moves = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                client.batch_execute("BEGIN; UPDATE a SET n = n - 1; UPDATE b SET n = n + 1; COMMIT").await.unwrap();
                moves += 1;
            }
            moves
        })
    };
    // Two scans, which no join or aggregate makes one.
    let sum = "SELECT sum(n) FROM (SELECT n FROM c.public.a UNION ALL SELECT n FROM c.public.b) x";
    let explained = instance.lines(&format!("EXPLAIN {sum}")).await;
    assert_eq!(explained.iter().filter(|l| l.contains("PostgresScan")).count(), 2, "{explained:?}");
    for _ in 0..30 {
        assert_eq!(instance.value(sum).await, "1000");
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(writer.await.unwrap() > 30);
}

#[tokio::test]
async fn what_is_cancelled_ends_over_there() {
    let (postgres, instance) = both().await;
    postgres.run("CREATE VIEW slow AS SELECT g, pg_sleep(100)::text AS s FROM generate_series(1, 100) g").await;
    let running = "(SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'COPY%slow%' AND state = 'active' AND pid <> pg_backend_pid())";
    let client = instance.client().await;
    let token = client.cancel_token();
    let statement = tokio::spawn(async move { client.simple_query("SELECT * FROM c.public.slow").await.map(|_| ()) });
    let wait = |count: &'static str| {
        let postgres = &postgres;
        async move {
            while postgres.value(running).await != count {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait("1")).await.unwrap();
    token.cancel_query(tokio_postgres::NoTls).await.unwrap();
    let error = statement.await.unwrap().unwrap_err();
    assert_eq!(error.code().unwrap().code(), "57014");
    tokio::time::timeout(Duration::from_secs(60), wait("0")).await.unwrap();
    let (code, _, _) = self::error(&instance, "SET statement_timeout = 300; SELECT * FROM c.public.slow").await;
    assert_eq!(code, "57014");
    tokio::time::timeout(Duration::from_secs(60), wait("0")).await.unwrap();
}

#[tokio::test]
async fn errors_are_the_servers_own() {
    let (postgres, instance) = both().await;
    postgres
        .run("CREATE VIEW broken AS SELECT 1 / g AS x FROM generate_series(-1, 1) g; CREATE TABLE orders (id int)")
        .await;
    let (code, message, more) = error(&instance, "SELECT x FROM c.public.broken").await;
    assert_eq!((code.as_str(), message.as_str()), ("22012", "connection \"c\": division by zero"));
    assert!(more.contains("Remote statement: SELECT \"x\" FROM \"public\".\"broken\""), "{more}");
    let (code, message, more) = error(&instance, "SELECT * FROM c.public.ordes").await;
    assert_eq!(code, "42P01");
    assert!(message.contains("relation \"public.ordes\" does not exist in connection \"c\""), "{message}");
    assert!(more.contains("Perhaps you meant \"c.public.orders\""), "{more}");
    let (_, _, more) = error(&instance, "SELECT * FROM c.orders").await;
    assert!(more.contains("name the schema, too, as in c.public.orders"), "{more}");
    let (code, message, more) = error(&instance, "CREATE MATERIALIZED VIEW v AS SELECT * FROM c.public.orders").await;
    assert_eq!(code, "0A000");
    assert!(
        message.contains("whose changes nobody tells of") && more.contains("FOR SYSTEM_TIME AS OF proctime()"),
        "{message} {more}"
    );
    instance.run("CREATE VIEW plain AS SELECT * FROM c.public.orders").await;
    assert_eq!(error(&instance, "CREATE MATERIALIZED VIEW v AS SELECT * FROM plain").await.0, "0A000");
    assert_eq!(error(&instance, "INSERT INTO c.public.orders VALUES (1)").await.0, "0A000");
    postgres.run("ALTER TABLE orders RENAME TO gone").await;
    assert_eq!(error(&instance, "SELECT * FROM plain").await.0, "42P01");
    drop(postgres);
    let (code, message, _) = error(&instance, "SELECT * FROM plain").await;
    assert_eq!(code, "08000");
    assert!(message.starts_with("connection \"c\": cannot connect to 127.0.0.1"), "{message}");
}

/// The steps of CHECK CONNECTION, and the last one's words.
async fn check(instance: &Instance) -> (Vec<String>, String) {
    let rows = instance.client().await.query("CHECK CONNECTION c", &[]).await.unwrap();
    let step =
        |row: &tokio_postgres::Row| format!("{} {}", row.get::<_, &str>(0), if row.get(1) { "ok" } else { "failed" });
    let last = rows.last().unwrap();
    let said = format!("{} {}", last.get::<_, &str>(2), last.get::<_, Option<&str>>(3).unwrap_or_default());
    (rows.iter().map(step).collect(), said)
}

async fn set(instance: &Instance, options: &str) {
    instance.run(&format!("ALTER CONNECTION c SET ({options})")).await;
}

#[tokio::test]
async fn check_connection_says_what_fails_and_where() {
    let postgres = Postgres::start().await;
    let mut instance = start_with(&["--secret-key", KEY]).await;
    instance.run("CREATE SECRET pw AS 'right'; CREATE SECRET wrong AS 'wrong'").await;
    postgres.run("CREATE ROLE reader LOGIN PASSWORD 'right'; CREATE TABLE t (a int)").await;
    postgres.authenticate("host all reader 127.0.0.1/32 scram-sha-256").await;
    instance.run(&postgres.connection(", password = SECRET pw")).await;
    let all = ["options ok", "resolve ok", "connect ok", "tls ok", "authenticate ok", "database ok", "permissions ok"];
    let (steps, said) = check(&instance).await;
    assert_eq!(steps, all);
    assert!(said.contains("1 of 1 tables and views can be read"), "{said}");

    let failing = |count: usize, step: &str| {
        let mut steps: Vec<String> = all[..count].iter().map(|s| s.to_string()).collect();
        steps.push(format!("{step} failed"));
        steps
    };
    set(&instance, "user = 'reader'").await;
    let (steps, said) = check(&instance).await;
    assert_eq!(steps, failing(6, "permissions"));
    assert!(said.contains("0 of 1") && said.contains("GRANT"), "{said}");
    set(&instance, "password = SECRET wrong").await;
    let (steps, said) = check(&instance).await;
    assert_eq!(steps, failing(4, "authenticate"));
    assert!(said.contains("password authentication failed for user \"reader\" (28P01)"), "{said}");
    set(&instance, "password = SECRET pw, database = 'nowhere'").await;
    let (steps, said) = check(&instance).await;
    assert_eq!(steps, failing(5, "database"));
    assert!(said.contains("database \"nowhere\" does not exist (3D000)"), "{said}");
    set(&instance, "database = 'postgres', sslmode = 'require'").await;
    let (steps, said) = check(&instance).await;
    assert_eq!(steps, failing(3, "tls"));
    assert!(said.contains("the server does not support TLS"), "{said}");
    set(&instance, "sslmode = 'disable', port = 1").await;
    let (steps, said) = check(&instance).await;
    assert_eq!(steps, failing(2, "connect"));
    assert!(said.contains("127.0.0.1:1"), "{said}");
    set(&instance, "host = 'nowhere.invalid'").await;
    let (steps, said) = check(&instance).await;
    assert_eq!(steps, failing(1, "resolve"));
    assert!(said.contains("host \"nowhere.invalid\" cannot be resolved"), "{said}");

    // A server that takes the connection and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    set(&instance, &format!("host = '127.0.0.1', port = {port}, sslmode = 'prefer', connect_timeout = '300ms'")).await;
    let (steps, said) = check(&instance).await;
    assert_eq!(steps, failing(3, "tls"));
    assert!(said.contains("no answer within connect_timeout"), "{said}");

    set(&instance, &format!("port = {}, user = 'tidemark', connect_timeout = 10", postgres.port)).await;
    instance.server.kill_and_restart().await.unwrap();
    assert_eq!(check(&instance).await.0, all);
    assert_eq!(instance.value("SELECT count(*) FROM c.public.t").await, "0");
    let created = instance.value("SELECT definition FROM tidemark.objects WHERE name = 'c'").await;
    assert!(created.contains("password = SECRET pw") && !created.contains("right"), "{created}");
}

#[tokio::test]
async fn tls_in_every_mode() {
    let dir = tempfile::tempdir().unwrap();
    let (ca, certificate, key) = certificates(dir.path(), "one");
    let (other, _, _) = certificates(dir.path(), "other");
    let postgres = Postgres::start().await;
    postgres.encrypt(&certificate, &key).await;
    let instance = start().await;
    instance.run(&postgres.connection(", sslmode = 'prefer'")).await;
    // One scan, which sees its own connection; no other client of this server encrypts.
    instance.wait_for("SELECT bool_or(ssl) FROM c.pg_catalog.pg_stat_ssl", &["t"]).await;
    let tls = || async {
        let lines = instance.lines("CHECK CONNECTION c").await;
        lines.into_iter().find(|l| l.starts_with("tls")).unwrap()
    };
    assert!(tls().await.contains("tls t TLSv1.3, certificate not verified"), "{}", tls().await);
    set(&instance, "sslmode = 'require'").await;
    assert!(tls().await.contains("not verified"));
    set(&instance, &format!("sslmode = 'require', sslrootcert = '{}'", other.display())).await;
    assert!(tls().await.starts_with("tls f"), "with a root it is verified: {}", tls().await);
    for (mode, root, host, ok) in [
        ("verify-ca", &ca, "127.0.0.1", true),
        ("verify-ca", &other, "127.0.0.1", false),
        ("verify-full", &ca, "localhost", true),
        ("verify-full", &ca, "127.0.0.1", false),
        ("verify-full", &other, "localhost", false),
        // The server's own certificate, as a self-signed one is trusted.
        ("verify-full", &certificate, "localhost", true),
    ] {
        set(&instance, &format!("sslmode = '{mode}', sslrootcert = '{}', host = '{host}'", root.display())).await;
        let said = tls().await;
        assert_eq!(said.starts_with("tls t"), ok, "{mode} {} {host}: {said}", root.display());
    }
    // A statement that is cancelled over TLS ends over there as well.
    postgres.run("CREATE VIEW slow AS SELECT pg_sleep(600)::text AS s").await;
    assert_eq!(error(&instance, "SET statement_timeout = 300; SELECT * FROM c.public.slow").await.0, "57014");
    let running = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'COPY%slow%' AND state = 'active'";
    let gone = async {
        while postgres.value(running).await != "0" {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), gone).await.unwrap();
}
