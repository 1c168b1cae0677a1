//! The grammar from outside: what users type, what must be refused politely, and what nobody types.

use tidemark_sql::ast::*;
use tidemark_sql::grammar::{parse_one, parse_script};

fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'))
}

const POSTGRES: &str = include_str!("grammar/postgres.txt");
const REFUSED: &str = include_str!("grammar/refused.txt");
const OWN: &str = include_str!("grammar/own.txt");

#[test]
fn what_postgres_users_type_parses() {
    for line in lines(POSTGRES) {
        let parsed = parse_one(line).unwrap_or_else(|e| panic!("{line}\n{e:?}"));
        // A comment at the end is not the statement's.
        assert!(line.starts_with(&parsed.text), "{line}");
        assert_eq!(parsed.offset, 0);
    }
}

#[test]
fn what_tidemark_has_not_is_refused_by_name() {
    for line in lines(REFUSED) {
        let error = parse_one(line).expect_err(line);
        assert_eq!(error.code(), "0A000", "{line}: {error:?}");
        assert!(error.hint().is_some(), "{line}");
    }
}

#[test]
fn own_statements_parse() {
    for line in lines(OWN) {
        match parse_one(line).unwrap_or_else(|e| panic!("{line}\n{e:?}")).statement {
            Statement::Sql(statement) => panic!("{line} is not ours but {statement:?}"),
            Statement::Empty => panic!("{line} is nothing"),
            _ => {}
        }
    }
}

/// `CREATE SOURCE ..` and the like, with the part that a test is about.
macro_rules! parsed {
    ($sql:expr, $variant:path) => {
        match parse_one($sql).unwrap_or_else(|e| panic!("{}\n{e:?}", $sql)).statement {
            $variant(statement) => statement,
            other => panic!("{} is {other:?}", $sql),
        }
    };
}

fn options(list: &WithOptions) -> Vec<String> {
    list.iter().map(|(key, value)| format!("{key}={value}")).collect()
}

#[test]
fn source_with_everything() {
    let source = parsed!(
        "CREATE OR REPLACE SOURCE IF NOT EXISTS app.clicks (
            user_id BIGINT NOT NULL, page TEXT, ts TIMESTAMPTZ,
            PRIMARY KEY (user_id),
            WATERMARK FOR ts AS ts - INTERVAL '5 seconds')
          INCLUDE offset, partition AS p INCLUDE timestamp AS kafka_ts
          WITH (connector = 'kafka', properties.bootstrap.servers = 'localhost:9092', 'Topic' = \"clicks\",
                fields.id.min = -5, rate = 1.5, on = true, password = SECRET pg_pw, mode = earliest)
          FORMAT plain ENCODE json (timestamp.format = 'iso')",
        Statement::CreateSource
    );
    assert!(source.or_replace && source.if_not_exists && !source.columns_from_data);
    assert_eq!(source.name.to_string(), "app.clicks");
    assert_eq!(
        source.columns.iter().map(|c| c.to_string()).collect::<Vec<_>>(),
        ["user_id BIGINT NOT NULL", "page TEXT", "ts TIMESTAMPTZ"]
    );
    assert_eq!(source.constraints.len(), 1);
    let watermark = source.watermark.unwrap();
    assert_eq!(
        (watermark.column.to_string(), watermark.expr.to_string()),
        ("ts".into(), "ts - INTERVAL '5 seconds'".into())
    );
    let include = source.include.iter().map(|i| format!("{}>{}", i.what, i.alias.as_ref().map_or("", |a| &a.value)));
    assert_eq!(include.collect::<Vec<_>>(), ["offset>", "partition>p", "timestamp>kafka_ts"]);
    assert_eq!(
        options(&source.options),
        [
            "connector=kafka",
            "properties.bootstrap.servers=localhost:9092",
            "topic=clicks",
            "fields.id.min=-5",
            "rate=1.5",
            "on=true",
            "mode=earliest"
        ]
    );
    assert_eq!(source.secrets.iter().map(|(k, name)| format!("{k}={name}")).collect::<Vec<_>>(), ["password=pg_pw"]);
    let format = source.format.unwrap();
    assert_eq!((format.format.as_str(), format.encode.as_str()), ("PLAIN", "JSON"));
    assert_eq!(options(&format.options), ["timestamp.format=iso"]);
}

#[test]
fn sources_without_columns() {
    assert!(parsed!("CREATE SOURCE s (*) WITH (connector = 'file')", Statement::CreateSource).columns_from_data);
    for text in [
        "CREATE TABLE IF NOT EXISTS t (*) FROM pg TABLE 'public.t'",
        "CREATE SOURCE IF NOT EXISTS t (*) FROM SOURCE pg TABLE 'public.t'",
    ] {
        let shared = parsed!(text, Statement::CreateSource);
        let (of, table) = shared.from.unwrap();
        assert!(shared.columns_from_data && shared.if_not_exists, "{text}");
        assert_eq!((of.to_string().as_str(), table.as_str()), ("pg", "public.t"));
    }
    let shared = parsed!(
        "CREATE TABLE s.t (a INT, b NUMERIC(3, 1), PRIMARY KEY (a)) FROM pg TABLE 't'",
        Statement::CreateSource
    );
    assert_eq!((shared.columns.len(), shared.constraints.len()), (2, 1));
    let bare = parsed!("CREATE SOURCE s WITH (connector = 'nexmark')", Statement::CreateSource);
    assert!(bare.columns.is_empty() && !bare.columns_from_data);
    let both =
        parsed!("CREATE SOURCE s (*, WATERMARK FOR ts AS ts) WITH (connector = 'file')", Statement::CreateSource);
    assert!(both.columns_from_data && both.watermark.is_some());
}

#[test]
fn the_text_of_a_views_query_is_as_typed() {
    let check = |tail: &str, emit: Emit, no_data: bool| {
        let view = parsed!(
            &format!("CREATE MATERIALIZED VIEW v AS SELECT  a, /* x */ 'é'\n FROM t {tail}"),
            Statement::CreateMaterializedView
        );
        assert_eq!(view.query_text, "SELECT  a, /* x */ 'é'\n FROM t");
        assert_eq!(view.query.to_string(), "SELECT a, 'é' FROM t");
        assert_eq!((view.emit, view.with_no_data), (emit, no_data), "{tail}");
    };
    check("", Emit::Changes, false);
    check("EMIT CHANGES", Emit::Changes, false);
    check("emit on window close", Emit::OnWindowClose, false);
    check("WITH DATA", Emit::Changes, false);
    check("WITH NO DATA EMIT ON WINDOW CLOSE", Emit::OnWindowClose, true);
    check("EMIT ON WINDOW CLOSE WITH NO DATA", Emit::OnWindowClose, true);
    let view = parsed!(
        "CREATE OR REPLACE MATERIALIZED VIEW IF NOT EXISTS s.v (a, b) WITH (parallelism = 2) AS TABLE t",
        Statement::CreateMaterializedView
    );
    assert!(view.or_replace && view.if_not_exists);
    assert_eq!(
        (view.columns.len(), options(&view.options), view.query_text),
        (2, vec!["parallelism=2".into()], "TABLE t".into())
    );
}

#[test]
fn sinks() {
    let sink =
        parsed!("CREATE SINK s FROM app.v WITH (connector = 'file') FORMAT PLAIN ENCODE CSV", Statement::CreateSink);
    assert_eq!(sink.from, SinkFrom::Relation(parsed!("SHOW COLUMNS FROM app.v", Statement::ShowColumns)));
    assert_eq!(sink.format.unwrap().encode, "CSV");
    let sink = parsed!(
        "CREATE SINK s AS WITH x AS (SELECT 1) SELECT * FROM x EMIT ON WINDOW CLOSE WITH (connector = 'blackhole')",
        Statement::CreateSink
    );
    let SinkFrom::Query { text, emit, .. } = sink.from else { panic!() };
    assert_eq!((text.as_str(), emit), ("WITH x AS (SELECT 1) SELECT * FROM x", Emit::OnWindowClose));
    assert_eq!(options(&sink.options), ["connector=blackhole"]);
}

#[test]
fn subscriptions() {
    let from = |sql: &str| match parsed!(sql, Statement::Subscribe).from {
        SubscribeFrom::Relation(name) => name.to_string(),
        SubscribeFrom::Query { text, .. } => text,
    };
    assert_eq!(from("SUBSCRIBE v"), "v");
    assert_eq!(from("SUBSCRIBE TO app.v"), "app.v");
    assert_eq!(from("SUBSCRIBE (SELECT a FROM v)"), "SELECT a FROM v");
    assert_eq!(from("SUBSCRIBE TO (SELECT a FROM v) WITH (snapshot = false)"), "SELECT a FROM v");
    assert_eq!(from("SUBSCRIBE SELECT a FROM v WITH (snapshot = false)"), "SELECT a FROM v");
    assert_eq!(from("SUBSCRIBE (SELECT 1) UNION (SELECT 2)"), "(SELECT 1) UNION (SELECT 2)");
    assert_eq!(
        options(&parsed!("SUBSCRIBE v WITH (snapshot = false)", Statement::Subscribe).options),
        ["snapshot=false"]
    );
}

#[test]
fn drop_alter_show_explain_comment() {
    let drop = parsed!("DROP MATERIALIZED VIEW IF EXISTS a, s.b CASCADE", Statement::Drop);
    assert_eq!(
        (drop.object_type, drop.if_exists, drop.names.len(), drop.cascade),
        (ObjectType::MaterializedView, true, 2, true)
    );
    let action = |sql: &str| parsed!(sql, Statement::Alter).action;
    assert_eq!(action("ALTER SOURCE s PAUSE"), AlterAction::Pause);
    assert_eq!(action("ALTER SINK s RESUME"), AlterAction::Resume);
    assert_eq!(action("ALTER MATERIALIZED VIEW v OWNER TO alice"), AlterAction::OwnerTo("alice".into()));
    assert_eq!(
        action("ALTER MATERIALIZED VIEW v SET (a = 'b')"),
        AlterAction::Set(vec![("a".into(), "b".into())], vec![])
    );
    assert_eq!(action("ALTER MATERIALIZED VIEW v SET a = 3"), AlterAction::Set(vec![("a".into(), "3".into())], vec![]));
    assert_eq!(
        action("ALTER MATERIALIZED VIEW v SET a TO DEFAULT"),
        AlterAction::Set(vec![("a".into(), "DEFAULT".into())], vec![])
    );
    assert_eq!(action("ALTER SEQUENCE s RESTART WITH -3"), AlterAction::Restart(Some(-3)));
    assert_eq!(action("ALTER TABLE t SET SCHEMA x"), AlterAction::SetSchema("x".into()));
    assert_eq!(action("ALTER VIEW IF EXISTS v RENAME TO w"), AlterAction::Rename("w".into()));
    let renamed = || AlterAction::RenameColumn("a".into(), "b".into());
    assert_eq!(action("ALTER VIEW v RENAME a TO b"), renamed());
    assert_eq!(action("ALTER MATERIALIZED VIEW IF EXISTS v RENAME COLUMN a TO b"), renamed());
    let show = parsed!("SHOW MATERIALIZED VIEWS FROM app LIKE 'a%'", Statement::ShowObjects);
    assert_eq!(
        (show.object_type, show.schema.unwrap().value.as_str(), show.like.unwrap().as_str()),
        (ObjectType::MaterializedView, "app", "a%")
    );
    assert_eq!(parsed!("SHOW CREATE SINK s", Statement::ShowCreate).object_type, Some(ObjectType::Sink));
    assert_eq!(parsed!("SHOW CREATE s", Statement::ShowCreate).object_type, None);
    let explain = parsed!("EXPLAIN (ANALYZE, VERBOSE off) SELECT 1", Statement::Explain);
    assert!(explain.analyze && !explain.verbose);
    let explain = parsed!("EXPLAIN MATERIALIZED VIEW v", Statement::Explain);
    assert!(matches!(explain.target, ExplainTarget::Object(ObjectType::MaterializedView, _)));
    let explain = parsed!("EXPLAIN CREATE MATERIALIZED VIEW v AS SELECT 1", Statement::Explain);
    let ExplainTarget::Statement(inner) = explain.target else { panic!() };
    assert!(matches!(*inner, Statement::CreateMaterializedView(_)));
    let comment = parsed!("COMMENT ON COLUMN s.t.c IS 'it''s'", Statement::Comment);
    assert_eq!(
        (comment.object_type, comment.name.0.len(), comment.comment.as_deref()),
        (CommentObject::Column, 3, Some("it's"))
    );
    assert_eq!(parsed!("COMMENT ON SINK s IS NULL", Statement::Comment).comment, None);
    assert_eq!(parsed!("CANCEL JOB 7", Statement::CancelJob), "7");
    assert_eq!(parsed!("VACUUM FULL t", Statement::NoOp), "VACUUM");
    assert_eq!(parsed!("SET CONSTRAINTS ALL DEFERRED", Statement::NoOp), "SET CONSTRAINTS");
}

#[test]
fn scripts() {
    let script = "-- é first\nSELECT 1;\n\nSUBSCRIBE v; -- nothing\n;SELECT ';';";
    let parsed = parse_script(script).unwrap();
    let found: Vec<_> = parsed.iter().map(|p| (p.offset, p.text.as_str())).collect();
    assert_eq!(found, [(11, "SELECT 1"), (22, "SUBSCRIBE v"), (47, "SELECT ';'")]);
    assert!(parse_script(" ; -- x").unwrap().is_empty());
    assert_eq!(parse_one(" ; ").unwrap().statement, Statement::Empty);
    let error = parse_one("SELECT 1; SELECT 2").unwrap_err();
    assert_eq!((error.code(), error.position()), ("42601", Some(11)));
}

#[test]
fn errors_point_and_help() {
    let table = [
        ("SELECT * FORM t", "syntax error at or near \"t\"", 15),
        ("SELECT", "syntax error at end of input", 7),
        ("SELECT 1;\nSELECT é, FROM t", "syntax error at or near \"FROM\"", 21),
        ("SELECT 'é' FROM t WHERE )", "syntax error at or near \")\"", 25),
        ("SELEC 1", "syntax error at or near \"SELEC\"", 1),
        ("CREATE TABLE t (a int,)", "syntax error at or near \")\"", 23),
        ("CREATE SOURCE s (a int b) WITH (connector = 'x')", "syntax error at or near \"b\"", 24),
        ("CREATE MATERIALIZED VIEW v AS SELECT FROM WHERE EMIT CHANGES", "syntax error at or near \"WHERE\"", 43),
        ("DROP SINK", "syntax error at end of input", 10),
        ("SELECT 'a", "unterminated quoted string at or near \"'a\"", 8),
    ];
    for (sql, message, position) in table {
        let error = parse_script(sql).expect_err(sql);
        assert_eq!((error.code(), error.message(), error.position()), ("42601", message, Some(position)), "{sql}");
    }
    let hints = [
        ("CREATE SOURCE s (a INT)", "WITH (connector"),
        ("CREATE SOURCE s (a INT) (connector = 'x')", "WITH is missing"),
        ("CREATE SOURCE s (connector = 'x')", "WITH is missing"),
        ("CREATE SOURCE s (a INT) WITH (connector = 'x') FORMAT PLAIN", "FORMAT PLAIN ENCODE JSON"),
        ("CREATE SOURCE s (a INT) WITH (connector = 'x') ENCODE JSON", "FORMAT comes first"),
        ("CREATE SOURCE s (a INT, WATERMARK FOR a) WITH (connector = 'x')", "WATERMARK FOR a AS a"),
        ("CREATE SOURCE s WITH (connector 'x')", "connector = 'value'"),
        ("CREATE SINK s v WITH (connector = 'x')", "CREATE SINK name FROM view"),
        ("CREATE SINK s FROM v", "WITH (connector"),
        ("CREATE MATERIALIZED VIEW v SELECT 1", "AS SELECT"),
        ("CREATE MATERIALIZED VIEW v AS SELECT 1 EMIT CHANGE", "EMIT CHANGES"),
        ("CREATE MATERIALIZED VIEW v AS SELECT 1 EMIT ON WINDOW", "EMIT ON WINDOW CLOSE"),
        ("SUBSCRIBE", "SUBSCRIBE name"),
        ("SUBSCRIBE v WHERE a > 1", "SUBSCRIBE (SELECT"),
        ("EXPLAIN DROP TABLE t", "EXPLAIN takes"),
    ];
    for (sql, hint) in hints {
        let error = parse_one(sql).expect_err(sql);
        assert_eq!(error.code(), "42601", "{sql}: {error:?}");
        assert!(error.hint().is_some_and(|h| h.contains(hint)), "{sql}: {error:?}");
    }
}

#[test]
fn an_option_twice_is_an_error() {
    let error = parse_one("CREATE SOURCE s WITH (a = 1, A = 2)").unwrap_err();
    assert_eq!((error.message(), error.position()), ("option \"a\" specified more than once", Some(30)));
}

#[test]
fn reserved_words_are_not_names() {
    for (sql, near, position) in [
        ("SELECT a, FROM t", "FROM", 11),
        ("SELECT * FROM WHERE", "WHERE", 15),
        ("SELECT * FROM t WHERE ORDER BY a", "ORDER", 23),
        ("INSERT INTO table VALUES (1)", "table", 13),
    ] {
        let error = parse_one(sql).expect_err(sql);
        let expected = format!("syntax error at or near \"{near}\"");
        assert_eq!((error.message(), error.position()), (expected.as_str(), Some(position)), "{sql}");
    }
    parse_one("SELECT \"from\" FROM \"where\"").unwrap();
}

#[test]
fn the_value_of_a_secret_is_in_no_text() {
    let texts = [
        ("CREATE SECRET s AS 'hush'", "CREATE SECRET s AS '***'"),
        ("/* hush? */ alter secret if exists \"a s\" as $$hush$$ ; ", "alter secret if exists \"a s\" as '***'"),
        ("CREATE OR REPLACE SECRET s FROM ENV 'HUSH'", "CREATE OR REPLACE SECRET s FROM ENV 'HUSH'"),
        (
            "EXPLAIN (verbose) CREATE OR REPLACE SECRET s AS 'hush'",
            "EXPLAIN (verbose) CREATE OR REPLACE SECRET s AS '***'",
        ),
        ("CREATE SECRET IF NOT EXISTS s FROM FILE '/x'", "CREATE SECRET IF NOT EXISTS s FROM FILE '/x'"),
    ];
    for (sql, text) in texts {
        let parsed = parse_one(sql).unwrap();
        assert_eq!(parsed.text, text);
        assert!(!format!("{parsed:?}").contains("hush"), "{parsed:?}");
    }
    for wrong in [
        "CREATE SECRET s 'hush'",
        "CREATE SECRET s AS hush",
        "ALTER SECRET s AS 'x' 'hush'",
        "CREATE SECRET s = 'hush'",
        "CREATE SECRET 'hush'",
        "ALTER SECRET 'hush' AS 1",
    ] {
        let error = parse_one(wrong).unwrap_err();
        assert_eq!(error.code(), "42601");
        assert!(!format!("{error:?}").contains("hush"), "{error:?}");
    }
}
