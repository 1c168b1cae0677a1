//! What clients really send, planned and executed over a sample database.
//!
//! `fixtures/*.sql` hold the queries under a comment that names them; `fixtures/*.out` what they answer, recorded with
//! `UPDATE_EXPECT=1`.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::util::pretty::pretty_format_batches;
use datafusion::catalog::{CatalogProvider, MemoryCatalogProvider, SchemaProvider, TableProvider};
use datafusion::common::TableReference;
use datafusion::execution::FunctionRegistry;
use datafusion::execution::context::SessionContext;
use datafusion::prelude::SessionConfig;
use datafusion::sql::parser::Statement;
use expect_test::{Expect, expect, expect_file};
use tidemark_catalog::*;
use tidemark_common::plan::Emit;
use tidemark_common::types::SqlType;
use tidemark_common::{Oid, Result};

use super::*;

#[derive(Debug)]
struct Facts;

impl SystemFacts for Facts {
    fn jobs(&self) -> Vec<JobFact> {
        vec![JobFact {
            id: 1,
            object: 16408,
            kind: "materialized view".into(),
            state: "backfilling".into(),
            rows_done: Some(25),
            rows_total: Some(100),
            ..Default::default()
        }]
    }
    fn sources(&self) -> Vec<SourceFact> {
        vec![SourceFact {
            oid: 16416,
            state: "running".into(),
            offsets: Some("42".into()),
            watermark: Some(1_700_000_000_000_000),
            rows: 42,
            late_rows: 1,
            ..Default::default()
        }]
    }
    fn late_rows(&self) -> Vec<LateRowFact> {
        vec![]
    }
    fn lookups(&self) -> Vec<LookupFact> {
        Vec::new()
    }

    fn sinks(&self) -> Vec<SinkFact> {
        vec![]
    }
    fn pipelines(&self) -> Vec<crate::pipelines::PipelineFact> {
        vec![]
    }
    fn cursors(&self) -> Vec<CursorFact> {
        Vec::new()
    }

    fn epochs(&self) -> Vec<EpochFact> {
        vec![EpochFact { epoch: 7, duration_ms: 1.5, rows_in: 10, rows_out: 2, bytes: 99, ..Default::default() }]
    }
    fn settings(&self) -> Vec<SettingFact> {
        let setting = |name: &str, value: &str, default: &str, source: &str| SettingFact {
            name: name.into(),
            value: value.into(),
            default: default.into(),
            source: source.into(),
            context: "user".into(),
            kind: "string".into(),
            ..Default::default()
        };
        vec![
            setting("search_path", "public", "public", "default"),
            setting("work_mem", "4MB", "4MB", "default"),
            setting("epoch_interval", "20ms", "100ms", "configuration file"),
        ]
    }
    fn sessions(&self) -> Vec<SessionFact> {
        vec![SessionFact { pid: 7, user: "tidemark".into(), state: "active".into(), ..Default::default() }]
    }
    fn functions(&self) -> Vec<FunctionFact> {
        let function = |name: &str, kind, argument: &str, result: &str| FunctionFact {
            name: name.into(),
            kind,
            arguments: vec![argument.into()],
            variadic: false,
            result: result.into(),
            volatility: 'i',
        };
        vec![
            function("lower", FunctionKind::Scalar, "text", "text"),
            function("sum", FunctionKind::Aggregate, "bigint", "bigint"),
            function("rank", FunctionKind::Window, "\"any\"", "bigint"),
        ]
    }
    fn size(&self, oid: Oid) -> Option<RelationSize> {
        [16387, 16408].contains(&oid).then(|| RelationSize {
            rows: 3,
            bytes: 16384,
            rows_inserted: 3,
            ..Default::default()
        })
    }
    fn sequence_last_value(&self, oid: Oid) -> Option<i64> {
        (oid == 16385).then_some(10)
    }
    fn database_bytes(&self) -> u64 {
        1 << 20
    }
}

fn column(attnum: i16, name: &str, sql_type: SqlType) -> Column {
    Column::new(name, sql_type, attnum)
}

fn object(oid: Oid, schema: Oid, name: &str, depends_on: &[Oid], kind: ObjectKind) -> Object {
    let depends_on = depends_on.iter().copied().collect();
    Object {
        oid,
        schema,
        name: name.into(),
        owner: SUPERUSER,
        comment: None,
        depends_on,
        reads: Vec::new(),
        lookups: Vec::new(),
        asked: Vec::new(),
        temporary: false,
        kind,
    }
}

fn key(oid: Oid, name: &str, columns: &[usize]) -> Key {
    Key { oid, name: name.into(), columns: columns.to_vec() }
}

const SALES: Oid = 16384;

fn orders() -> Object {
    let mut columns = vec![
        column(1, "id", SqlType::BigInt),
        column(2, "code", SqlType::Varchar(Some(12))),
        column(3, "amount", SqlType::Numeric(Some((10, 2)))),
        column(4, "placed", SqlType::TimestampTz),
        column(5, "note", SqlType::Text),
        column(6, "tags", SqlType::Array(Box::new(SqlType::Text))),
        column(7, "body", SqlType::Jsonb),
        column(8, "uid", SqlType::Uuid),
    ];
    columns[0].identity = Some(Identity::Always);
    columns[2].default = Some("0".into());
    columns[2].comment = Some("net".into());
    columns[3].default = Some("now()".into());
    for i in [0, 1, 3] {
        columns[i].nullable = false;
    }
    let table = Table {
        columns,
        primary_key: Some(key(16395, "orders_pkey", &[0])),
        unique: vec![key(16397, "orders_code_key", &[1])],
        checks: vec![Check { oid: 16388, name: "orders_amount_check".into(), expr: "amount >= 0".into() }],
        generation: 0,
        load: None,
        remote: None,
        ttl: None,
    };
    Object { comment: Some("customer orders".into()), ..object(16387, PUBLIC, "orders", &[], ObjectKind::Table(table)) }
}

fn sequence(increment: i64, start: i64, owned_by: Option<(Oid, i16)>) -> ObjectKind {
    let sql_type = SqlType::BigInt;
    ObjectKind::Sequence(Sequence { sql_type, start, increment, min: 1, max: i64::MAX, cycle: false, owned_by })
}

fn lines() -> Object {
    let mut columns = vec![
        column(1, "order_id", SqlType::BigInt),
        column(2, "line", SqlType::Integer),
        column(3, "qty", SqlType::SmallInt),
    ];
    columns[0].nullable = false;
    columns[1].nullable = false;
    let primary_key = Some(key(16402, "lines_pkey", &[0, 1]));
    let table = Table {
        columns,
        primary_key,
        unique: vec![],
        checks: vec![],
        generation: 0,
        load: None,
        remote: None,
        ttl: None,
    };
    object(16399, SALES, "lines", &[], ObjectKind::Table(table))
}

fn clicks() -> Object {
    let columns = vec![
        column(1, "user_id", SqlType::BigInt),
        column(2, "page", SqlType::Text),
        column(3, "ts", SqlType::TimestampTz),
        column(4, "file", SqlType::Text),
    ];
    let source = Source {
        added: 0,
        key: vec![],
        paths: vec![],
        shared: None,
        columns,
        declared: 3,
        include: vec![("file".into(), "file".into())],
        watermark: Some(Watermark { column: 2, expr: "ts - INTERVAL '5 seconds'".into() }),
        options: vec![
            ("connector".into(), "file".into()),
            ("path".into(), "/data/it's.csv".into()),
            ("csv.header".into(), "true".into()),
        ],
        secrets: vec![],
        format: Some(Format { format: "PLAIN".into(), encode: "CSV".into(), options: vec![] }),
        late_table: None,
        ttl: None,
        connection: None,
    };
    object(16416, PUBLIC, "clicks", &[], ObjectKind::Source(source))
}

fn sample() -> Catalog {
    let big = View {
        columns: vec![column(1, "id", SqlType::BigInt), column(2, "amount", SqlType::Numeric(Some((10, 2))))],
        query: "SELECT id, amount FROM orders WHERE amount > 100".into(),
        search_path: vec!["public".into()],
        own_names: false,
    };
    let totals = MaterializedView {
        storage: None,
        replaces: None,
        columns: vec![column(1, "order_id", SqlType::BigInt), column(2, "total", SqlType::BigInt)],
        query: "SELECT order_id, sum(qty) AS total FROM lines GROUP BY order_id".into(),
        search_path: vec!["sales".into(), "public".into()],
        own_names: false,
        emit: Emit::OnWindowClose,
        options: vec![],
        key: Some(vec![0]),
        append_only: false,
        watermark: None,
        fingerprint: String::new(),
    };
    let sink = Sink {
        query: "SELECT * FROM sales.totals".into(),
        search_path: vec!["public".into()],
        emit: Emit::Changes,
        columns: totals.columns.clone(),
        append_only: false,
        key: None,
        identity: String::new(),
        options: vec![("connector".into(), "blackhole".into())],
        secrets: vec![],
        connection: None,
        format: None,
        fingerprint: String::new(),
    };
    let objects = vec![
        object(SALES, 0, "sales", &[], ObjectKind::Schema),
        object(16385, PUBLIC, "ids", &[], sequence(5, 10, None)),
        object(16386, PUBLIC, "orders_id_seq", &[16387], sequence(1, 1, Some((16387, 1)))),
        orders(),
        lines(),
        object(16404, PUBLIC, "big", &[16387], ObjectKind::View(big)),
        object(16408, SALES, "totals", &[16399], ObjectKind::MaterializedView(totals)),
        clicks(),
        object(16420, PUBLIC, "to_nowhere", &[16408], ObjectKind::Sink(sink)),
    ];
    let changes: Vec<Change> = objects.into_iter().map(|o| Change::Put(Box::new(o))).collect();
    Catalog::new("tidemark", "tidemark").apply(&changes)
}

fn system() -> Arc<SystemContext> {
    SystemContext::new(Arc::new(sample()), Arc::new(Facts), vec!["public".into()])
}

#[derive(Debug)]
struct Me;

impl tidemark_sql::functions::SessionFacts for Me {
    fn user(&self) -> String {
        "tidemark".into()
    }
    fn database(&self) -> String {
        "tidemark".into()
    }
    fn search_path(&self) -> Vec<String> {
        vec!["public".into()]
    }
    fn setting(&self, name: &str) -> Option<String> {
        Some(if name == "search_path" { "\"$user\", public" } else { "on" }.into())
    }
    fn set_setting(&self, _name: &str, value: &str, _is_local: bool) -> Result<String> {
        Ok(value.into())
    }
    fn backend_pid(&self) -> i32 {
        7
    }
    fn transaction_start_micros(&self) -> i64 {
        0
    }
    fn statement_start_micros(&self) -> i64 {
        0
    }
    fn now_micros(&self) -> i64 {
        0
    }
    fn server_start_micros(&self) -> i64 {
        0
    }
    fn transaction_id(&self) -> i64 {
        1
    }
    fn random_bits(&self) -> u64 {
        0
    }
    fn set_seed(&self, _seed: f64) {}
}

#[derive(Debug)]
struct SystemSchema {
    name: &'static str,
    ctx: Arc<SystemContext>,
}

#[async_trait::async_trait]
impl SchemaProvider for SystemSchema {
    fn table_names(&self) -> Vec<String> {
        system_table_names(self.name)
    }

    async fn table(&self, name: &str) -> datafusion::error::Result<Option<Arc<dyn TableProvider>>> {
        Ok(system_table(self.name, name, &self.ctx))
    }

    fn table_exist(&self, name: &str) -> bool {
        system_table(self.name, name, &self.ctx).is_some()
    }
}

/// A context as a session has it.
fn session(system: &Arc<SystemContext>) -> SessionContext {
    let mut config = SessionConfig::new()
        .with_default_catalog_and_schema("tidemark", "public")
        .with_create_default_catalog_and_schema(false)
        .with_information_schema(false)
        .with_target_partitions(4);
    let options = config.options_mut();
    options.sql_parser.map_string_types_to_utf8view = false;
    options.sql_parser.parse_float_as_decimal = true;
    options.optimizer.prefer_existing_sort = true;
    options.sql_parser.dialect = datafusion::config::Dialect::PostgreSQL;
    let mut ctx = SessionContext::new_with_config(config);
    let catalog = MemoryCatalogProvider::new();
    for (_, name) in SYSTEM_SCHEMAS {
        catalog.register_schema(name, Arc::new(SystemSchema { name, ctx: Arc::clone(system) })).unwrap();
    }
    let public = datafusion::catalog::MemorySchemaProvider::new();
    public.register_table("nums".into(), nums()).unwrap();
    catalog.register_schema("public", Arc::new(public)).unwrap();
    ctx.register_catalog("tidemark", Arc::new(catalog));
    ctx.add_analyzer_rule(Arc::new(SystemSubqueries));
    tidemark_sql::functions::register(&mut ctx).unwrap();
    for planner in tidemark_sql::functions::expr_planners().into_iter().rev() {
        ctx.register_expr_planner(planner).unwrap();
    }
    for function in tidemark_sql::functions::session_functions(Arc::new(Me)) {
        ctx.register_udf(function);
    }
    for name in function_names() {
        ctx.register_udf(function(name, Some(system)).unwrap().as_ref().clone());
    }
    if ctx.state().scalar_functions().get("pg_size_pretty").is_none() {
        ctx.register_udf(size_pretty());
    }
    ctx
}

/// Stands in for the one among the SQL functions.
fn size_pretty() -> datafusion::logical_expr::ScalarUDF {
    use datafusion::arrow::array::{AsArray, StringArray};
    use datafusion::arrow::datatypes::{DataType, Int64Type};
    use datafusion::logical_expr::{ColumnarValue, Volatility, create_udf};
    let eval = |args: &[ColumnarValue]| {
        let bytes = ColumnarValue::values_to_arrays(args)?.remove(0);
        let text = |b: i64| if b < 10240 { format!("{b} bytes") } else { format!("{} kB", b / 1024) };
        let texts = bytes.as_primitive::<Int64Type>().iter().map(|b| b.map(text)).collect::<StringArray>();
        Ok(ColumnarValue::Array(Arc::new(texts)))
    };
    create_udf("pg_size_pretty", vec![DataType::Int64], DataType::Utf8, Volatility::Immutable, Arc::new(eval))
}

/// A user's table: (1, x), (2, Y), (NULL, x)
fn nums() -> Arc<dyn TableProvider> {
    use datafusion::arrow::array::{Int32Array, StringArray};
    let a = Arc::new(Int32Array::from(vec![Some(1), Some(2), None]));
    let b = Arc::new(StringArray::from(vec!["x", "Y", "x"]));
    let batch = RecordBatch::try_from_iter([("a", a as _), ("b", b as _)]).unwrap();
    Arc::new(datafusion::catalog::MemTable::try_new(batch.schema(), vec![vec![batch]]).unwrap())
}

async fn run(ctx: &SessionContext, sql: &str) -> std::result::Result<String, String> {
    let parsed = tidemark_sql::grammar::parse_one(sql).map_err(|e| format!("parse: {e}"))?;
    let tidemark_sql::ast::Statement::Sql(mut statement) = parsed.statement else {
        return Err(format!("parse: not a query: {sql}"));
    };
    rewrite_statement(&mut statement);
    tidemark_sql::grammar::casts::rewrite(statement.as_mut()).map_err(|e| format!("casts: {e}"))?;
    let shown = statement.to_string();
    let plan = ctx.state().statement_to_plan(Statement::Statement(statement)).await;
    let plan = plan.map_err(|e| format!("plan: {e}\n  {shown}"))?;
    let frame = ctx.execute_logical_plan(plan).await.map_err(|e| format!("execute: {e}"))?;
    let batches: Vec<RecordBatch> = frame.collect().await.map_err(|e| format!("run: {e}\n  {shown}"))?;
    let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
    if rows == 0 {
        return Ok("(no rows)".into());
    }
    // Whole system tables say nothing more than how many rows they have.
    if rows > 40 {
        return Ok(format!("({rows} rows)"));
    }
    let table = pretty_format_batches(&batches).map_err(|e| e.to_string())?.to_string();
    let mut lines: Vec<&str> = table.lines().collect();
    if !sql.to_lowercase().contains("order by") {
        let end = lines.len() - 1;
        lines[3..end].sort();
    }
    Ok(lines.join("\n"))
}

/// (name, query) of a fixture, relations' OIDs filled in.
fn queries(text: &str) -> Vec<(String, String)> {
    let oids: HashMap<&str, Oid> = [
        ("ids", 16385),
        ("orders_id_seq", 16386),
        ("orders", 16387),
        ("orders_pkey", 16395),
        ("orders_code_key", 16397),
        ("lines", 16399),
        ("lines_pkey", 16402),
        ("big", 16404),
        ("totals", 16408),
        ("clicks", 16416),
    ]
    .into();
    let mut found = vec![];
    for part in text.split("\n-- ").skip(1) {
        let (name, query) = part.split_once('\n').unwrap();
        let mut query = query.trim().trim_end_matches(';').to_string();
        for (name, oid) in &oids {
            query = query.replace(&format!("{{{name}}}"), &oid.to_string());
        }
        found.push((name.to_string(), query));
    }
    found
}

/// Every query answers; `known` names those that do not, each with the reason why.
async fn check_fixture(text: &str, known: &[&str], answers: Option<expect_test::ExpectFile>) {
    let system = system();
    let ctx = session(&system);
    let (mut out, mut failed) = (String::new(), vec![]);
    for (name, query) in queries(text) {
        match run(&ctx, &query).await {
            Ok(table) => writeln!(out, "-- {name}\n{table}\n").unwrap(),
            Err(_) if known.contains(&name.as_str()) => {}
            Err(error) => failed.push(format!("-- {name}\n{error}\n")),
        }
    }
    assert!(failed.is_empty(), "{} queries fail\n{}", failed.len(), failed.join("\n"));
    if let Some(answers) = answers {
        answers.assert_eq(&out);
    }
}

#[tokio::test]
async fn psql_is_answered() {
    check_fixture(include_str!("fixtures/psql.sql"), &[], Some(expect_file!["fixtures/psql.out"])).await;
}

#[tokio::test]
async fn sqlalchemy_is_answered() {
    check_fixture(include_str!("fixtures/sqlalchemy.sql"), &[], Some(expect_file!["fixtures/sqlalchemy.out"])).await;
}

#[tokio::test]
async fn asyncpg_is_answered() {
    check_fixture(include_str!("fixtures/asyncpg.sql"), &[], None).await;
}

#[tokio::test]
async fn pgcli_is_answered() {
    check_fixture(include_str!("fixtures/pgcli.sql"), &[], None).await;
}

#[tokio::test]
async fn jdbc_is_answered() {
    check_fixture(include_str!("fixtures/jdbc.sql"), &[], Some(expect_file!["fixtures/jdbc.out"])).await;
}

#[tokio::test]
async fn tools_are_answered() {
    // A lateral unnest WITH ORDINALITY is beyond DataFusion.
    check_fixture(
        include_str!("fixtures/tools.sql"),
        &["Django constraints"],
        Some(expect_file!["fixtures/tools.out"]),
    )
    .await;
}

#[tokio::test]
async fn every_system_table_can_be_read() {
    let system = system();
    let ctx = session(&system);
    for schema in ["pg_catalog", "information_schema", "tidemark"] {
        for name in system_table_names(schema) {
            let table = ctx.table(TableReference::partial(schema, name.as_str())).await.unwrap();
            table.collect().await.unwrap_or_else(|e| panic!("{schema}.{name}: {e}"));
        }
    }
}

#[tokio::test]
async fn an_unknown_name_is_an_error_that_names_it() {
    let system = system();
    let ctx = session(&system);
    let error = run(&ctx, "SELECT 'nothing'::regclass").await.unwrap_err();
    assert!(error.contains("relation \"nothing\" does not exist"), "{error}");
}

async fn check(query: &str, expected: Expect) {
    let system = system();
    expected.assert_eq(&run(&session(&system), query).await.unwrap());
}

#[tokio::test]
async fn schema_tidemark_tells_what_runs() {
    check(
        "SELECT name, state, progress, rows_total FROM tidemark.jobs",
        expect![[r#"
        +--------+-------------+----------+------------+
        | name   | state       | progress | rows_total |
        +--------+-------------+----------+------------+
        | totals | backfilling | 0.25     | 100        |
        +--------+-------------+----------+------------+"#]],
    )
    .await;
    check(
        "SELECT name, connector, state, offsets, watermark, late_rows FROM tidemark.sources",
        expect![[r#"
        +--------+-----------+---------+---------+----------------------+-----------+
        | name   | connector | state   | offsets | watermark            | late_rows |
        +--------+-----------+---------+---------+----------------------+-----------+
        | clicks | file      | running | 42      | 2023-11-14T22:13:20Z | 1         |
        +--------+-----------+---------+---------+----------------------+-----------+"#]],
    )
    .await;
    check(
        "SELECT schema_name, name, kind, depends_on FROM tidemark.objects ORDER BY oid",
        expect![[r#"
        +-------------+---------------+-------------------+------------+
        | schema_name | name          | kind              | depends_on |
        +-------------+---------------+-------------------+------------+
        | public      | ids           | sequence          | []         |
        | public      | orders_id_seq | sequence          | [16387]    |
        | public      | orders        | table             | []         |
        | sales       | lines         | table             | []         |
        | public      | big           | view              | [16387]    |
        | sales       | totals        | materialized view | [16399]    |
        | public      | clicks        | source            | []         |
        | public      | to_nowhere    | sink              | [16408]    |
        +-------------+---------------+-------------------+------------+"#]],
    )
    .await;
    check(
        "SELECT name, connector, state, epochs_behind FROM tidemark.sinks",
        expect![[r#"
        +------------+-----------+----------+---------------+
        | name       | connector | state    | epochs_behind |
        +------------+-----------+----------+---------------+
        | to_nowhere | blackhole | starting | 0             |
        +------------+-----------+----------+---------------+"#]],
    )
    .await;
    check(
        "SELECT name, value, source, changeable FROM tidemark.settings",
        expect![[r#"
            +----------------+--------+--------------------+------------+
            | name           | value  | source             | changeable |
            +----------------+--------+--------------------+------------+
            | epoch_interval | 20ms   | configuration file | by SET     |
            | search_path    | public | default            | by SET     |
            | work_mem       | 4MB    | default            | by SET     |
            +----------------+--------+--------------------+------------+"#]],
    )
    .await;
    check(
        "SELECT name, state, rows, emit FROM tidemark.materialized_views",
        expect![[r#"
            +--------+-------------+------+-----------------+
            | name   | state       | rows | emit            |
            +--------+-------------+------+-----------------+
            | totals | backfilling | 3    | on window close |
            +--------+-------------+------+-----------------+"#]],
    )
    .await;
}

#[test]
fn show_create_runs_again() {
    let catalog = sample();
    let all: Vec<String> =
        catalog.objects().filter(|o| o.oid >= SALES).map(|o| ddl::show_create(&catalog, o)).collect();
    for text in &all {
        tidemark_sql::grammar::parse_script(text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    }
    expect![[r#"
        CREATE SCHEMA sales;

        CREATE SEQUENCE public.ids AS bigint INCREMENT BY 5 MINVALUE 1 MAXVALUE 9223372036854775807 START WITH 10 NO CYCLE;

        CREATE SEQUENCE public.orders_id_seq AS bigint INCREMENT BY 1 MINVALUE 1 MAXVALUE 9223372036854775807 START WITH 1 NO CYCLE OWNED BY public.orders.id;

        CREATE TABLE public.orders (
            id bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
            code character varying(12) NOT NULL,
            amount numeric(10,2) DEFAULT 0,
            placed timestamp with time zone NOT NULL DEFAULT now(),
            note text,
            tags text[],
            body jsonb,
            uid uuid,
            CONSTRAINT orders_pkey PRIMARY KEY (id),
            CONSTRAINT orders_code_key UNIQUE (code),
            CONSTRAINT orders_amount_check CHECK (amount >= 0)
        );
        COMMENT ON TABLE public.orders IS 'customer orders';
        COMMENT ON COLUMN public.orders.amount IS 'net';

        CREATE TABLE sales.lines (
            order_id bigint NOT NULL,
            line integer NOT NULL,
            qty smallint,
            CONSTRAINT lines_pkey PRIMARY KEY (order_id, line)
        );

        CREATE VIEW public.big AS
        SELECT id, amount FROM orders WHERE amount > 100;

        CREATE MATERIALIZED VIEW sales.totals AS
        SELECT order_id, sum(qty) AS total FROM sales.lines GROUP BY order_id
        EMIT ON WINDOW CLOSE;

        CREATE SOURCE public.clicks (
            user_id bigint,
            page text,
            ts timestamp with time zone,
            WATERMARK FOR ts AS ts - INTERVAL '5 seconds'
        )
        INCLUDE file AS file
        WITH (
            connector = 'file',
            path = '/data/it''s.csv',
            csv.header = 'true'
        )
        FORMAT PLAIN ENCODE CSV;

        CREATE SINK public.to_nowhere
        FROM sales.totals
        WITH (connector = 'blackhole');"#]].assert_eq(&all.join("\n\n"));
}

#[test]
fn the_registry_tells_its_functions() {
    let facts = registry_functions(&SessionContext::new().state());
    let has = |name: &str, kind| facts.iter().any(|f| f.name == name && f.kind == kind);
    assert!(
        has("lower", FunctionKind::Scalar) && has("sum", FunctionKind::Aggregate) && has("rank", FunctionKind::Window)
    );
    assert!(facts.len() < 2000, "{}", facts.len());
}

/// What is rewritten for the catalog's sake must leave users' own queries as they are.
#[tokio::test]
async fn queries_of_users_tables_are_not_hurt() {
    let system = system();
    let ctx = session(&system);
    let queries = [
        "SELECT b, count(*) FROM nums GROUP BY b ORDER BY count DESC",
        "SELECT b, count(*) FROM nums GROUP BY b ORDER BY count(*) DESC, b",
        "SELECT count(*), count(a), count(*) + 1 FROM nums",
        "SELECT DISTINCT lower(b) FROM nums ORDER BY lower(b)",
        "SELECT DISTINCT lower(b) FROM nums ORDER BY lower",
        "SELECT lower(b), sum(a) FROM nums GROUP BY lower(b) HAVING sum(a) > 0 ORDER BY sum(a)",
        "SELECT a + 1 FROM nums GROUP BY a + 1 ORDER BY a + 1",
        "SELECT abs(a) FROM nums ORDER BY a DESC NULLS LAST",
        "SELECT a::text FROM nums WHERE a > 1 GROUP BY a ORDER BY a",
        "SELECT max(a) FROM nums HAVING max(a) > 1 ORDER BY max(a)",
        "SELECT b, row_number() OVER (ORDER BY b), sum(a) OVER (PARTITION BY b) FROM nums ORDER BY b, row_number",
        "SELECT t.count FROM (SELECT count(*) FROM nums) t",
        "SELECT (SELECT max(a) FROM nums), EXISTS (SELECT 1 FROM nums WHERE a = 9)",
        "SELECT b, (SELECT count(*) FROM nums m WHERE m.b = n.b) FROM nums n ORDER BY 1, 2",
        "SELECT b FROM nums WHERE lower(b) IN (SELECT upper(b) FROM nums WHERE a = 1) ORDER BY b",
        "SELECT upper(b) FROM nums UNION SELECT lower(b) FROM nums ORDER BY 1",
        "SELECT *, a * 2 FROM nums ORDER BY a",
        "SELECT a, nums.* FROM nums ORDER BY 1",
        "SELECT a, a, b FROM nums ORDER BY a LIMIT 1",
        "SELECT 1, 2, 'x', NULL, NULL, true",
        "WITH c AS (SELECT a % 2, sum(a) FROM nums GROUP BY a % 2) SELECT sum FROM c ORDER BY sum",
        "SELECT CASE WHEN a > 1 THEN 'big' END, coalesce(a, 0), a IN (1, 2), a = ANY('{1,7}') FROM nums ORDER BY 2",
        "SELECT b, array(SELECT a FROM nums m WHERE m.b = n.b ORDER BY a) FROM nums n ORDER BY 1",
        "SELECT x FROM generate_series(1, 2) AS x",
        "SELECT b LIKE 'x!%' ESCAPE '!' FROM nums ORDER BY 1",
        "SELECT n.b, count(*) FROM nums n GROUP BY n.b ORDER BY n.b",
        "SELECT b, grouping(b), sum(a) FROM nums GROUP BY ROLLUP (b) ORDER BY 1, 2",
        "SELECT b::uuid::text, '7'::numeric, a::json, b::varchar(3), NULL::int4 FROM nums WHERE a > 7",
        "SELECT a FROM nums n WHERE EXISTS (SELECT 1 FROM nums m WHERE m.b = n.b AND m.a > n.a)",
    ];
    let mut out = String::new();
    for query in queries {
        let answer = run(&ctx, query).await.unwrap_or_else(|e| e.lines().next().unwrap_or_default().to_string());
        writeln!(out, "{query}\n{answer}\n").unwrap();
    }
    expect_file!["fixtures/users.out"].assert_eq(&out);
}
