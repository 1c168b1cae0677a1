//! NORMALIZE, run by Tidemark and by PostgreSQL: the same nasty values become the same columns, and the same ones are refused.
//!
//! ```text
//!   a value ──▶ INSERT INTO t ─────────────────────────────────▶ columns here ───┐
//!          └──▶ tidemark_input ──the clauses' SQL──▶ INSERT ──▶ columns there ───┴─▶ equal
//! ```

use datafusion::sql::sqlparser::ast as sql;
use tidemark_connectors::load::{INPUT, Normalization, failures, normalized};
use tidemark_sql::ast::Statement;
use tidemark_sql::grammar;

use crate::harness::start;
use crate::postgres::Postgres;

const COLUMNS: [(&str, &str, &str); 22] = [
    ("trimmed", "TEXT", "trim"),
    ("collapsed", "TEXT", "collapse_spaces, trim, empty_to_null"),
    ("lowered", "TEXT", "lower"),
    ("uppered", "VARCHAR(80)", "trim, upper, default('n/a')"),
    ("digits", "TEXT", r"regex_replace('[^\d]', ''), regex_replace('^(.)(.*)$', '\2-\1'), empty_to_null"),
    ("spaceless", "TEXT", r"regex_replace('[\s'']+', '_')"),
    ("mail", "TEXT", "trim, lower, email"),
    ("small", "SMALLINT", "parse_int"),
    ("whole", "INTEGER", "empty_to_null, parse_int, default(-1)"),
    ("big", "BIGINT", "regex_replace(',', ''), parse_int"),
    ("amount", "NUMERIC(7,2)", "parse_numeric"),
    ("share", "NUMERIC(3,3)", "parse_numeric"),
    ("any_number", "NUMERIC", "parse_numeric"),
    ("double", "DOUBLE PRECISION", "parse_numeric"),
    ("single", "REAL", "parse_numeric"),
    ("day", "DATE", "parse_date"),
    (
        "any_day",
        "DATE",
        "parse_date ['YYYY-MM-DD', 'DD.MM.YYYY', 'MM/DD/YY', 'DD-Mon-YYYY', 'Month DD, YYYY', 'YYYYMMDD']",
    ),
    ("moment", "TIMESTAMPTZ", "parse_timestamp"),
    (
        "any_moment",
        "TIMESTAMPTZ",
        "parse_timestamp ['YYYY-MM-DDTHH24:MI:SS.MSTZH:TZM', 'DD.MM.YYYY HH24:MI', 'MM/DD/YYYY HH12:MI AM', 'YYYYMMDDHH24MISS', \
         '\"on\" DD Mon YYYY \"at\" HH24.MI']",
    ),
    ("without_zone", "TIMESTAMP", "parse_timestamp"),
    ("host", "TEXT", "derive(upper(split_part(mail, '@', 2))), lower, empty_to_null, default('none')"),
    ("number_inside", "SMALLINT", "derive(substring(trimmed from '[0-9]+')), parse_int"),
];

const VALUES: [&str; 118] = [
    "",
    " ",
    "abc",
    " Ab\u{a0}C\t",
    "\u{2003}a\u{3000}\u{200b}b\u{feff}",
    "a  b\n\n c",
    "ÄÖÜ ñ Ж",
    "it's",
    "\\d",
    "a\\1b",
    "%s $1 \\",
    "Ann@Example.org",
    " bob@x.io ",
    "a@b",
    "a b@c.de",
    "@c.de",
    "a@-c.de",
    "a@c..de",
    "o'neil@x.co.uk",
    "müller@x.de",
    "0",
    "-0",
    "+5",
    " 42 ",
    "\u{a0}42\n",
    "007",
    "00000000000000000000000000000000000000000001",
    "32767",
    "32768",
    "-32768",
    "-32769",
    "2147483647",
    "2147483648",
    "-2147483648",
    "9223372036854775807",
    "9223372036854775808",
    "-9223372036854775808",
    "-9223372036854775809",
    "99999999999999999999999999999999999999999999",
    "1,234",
    "1 234",
    "1.5",
    ".5",
    "5.",
    ".",
    "+",
    "-",
    "1e3",
    "1E-3",
    "1e99",
    "1e400",
    "NaN",
    "Infinity",
    "0x1F",
    "12345.67",
    "99999.994",
    "99999.995",
    "-99999.995",
    "99999.99499999999999999999999999999999999999999999999",
    "100000",
    "0.9994",
    "0.9995",
    "0.005",
    "0.015",
    "-0.0005",
    "0.12345678901234567890",
    "9999999999999999999999999999",
    "9999999999999999999999999999.99999999994",
    "9999999999999999999999999999.99999999995",
    "10000000000000000000000000000",
    "1.500",
    "3.4e38",
    "0.1",
    "1234567.891",
    "2024-02-29",
    "2023-02-29",
    "2024-02-30",
    "1900-02-29",
    "2000-02-29",
    "0000-01-01",
    "0001-01-01",
    "9999-12-31",
    "2024-13-01",
    "2024-00-10",
    "2024-04-31",
    "2024-1-5",
    "24-01-05",
    "2024-01-05 ",
    "20240105",
    "20240229235959",
    "30.02.2024",
    "5.3.2024",
    "05.03.2024 7:05",
    "31.04.2024 10:00",
    "02/29/24",
    "02/29/70",
    "2/30/24",
    "05-mar-2024",
    "05-Mai-2024",
    "FEBRUARY 29, 2024",
    "May 5, 2024",
    "2024-03-05 10:20",
    "2024-03-05T10:20:30",
    "2024-03-05t10:20:30.123456789Z",
    "2024-03-05 10:20:30.5 +05:30",
    "2024-03-05 10:20:30-0800",
    "2024-03-05 10:20:30+16",
    "2024-03-05 24:00:00",
    "2024-03-05 23:59:60",
    "2024-03-05 25:00",
    "2024-03-31 02:30:00",
    "2024-03-05T10:20:30.5+05:30",
    "2024-03-05T10:20:30.12Z",
    "03/05/2024 12:05 am",
    "03/05/2024 12:05 PM",
    "03/05/2024 13:05 PM",
    "on 5 Mar 2024 at 7.05",
    "infinity",
];

fn compiled(columns: &[(&str, &str, String)]) -> Vec<Normalization> {
    let list: Vec<String> =
        columns.iter().map(|(name, of, steps)| format!("{name} {of} NORMALIZE ({steps})")).collect();
    let Statement::Sql(create) =
        grammar::parse_one(&format!("CREATE TABLE t ({})", list.join(", "))).unwrap().statement
    else {
        panic!("not sqlparser's");
    };
    let sql::Statement::CreateTable(create) = *create else { panic!("no CREATE TABLE") };
    let column = |column: &sql::ColumnDef| {
        let sql_type = grammar::types::sql_type(&column.data_type).unwrap();
        let clause = column.options.iter().find_map(|option| match &option.option {
            sql::ColumnOption::Options(clause) => Some(grammar::normalize::of(clause).unwrap()),
            _ => None,
        });
        Normalization::compile(&column.name.value, &sql_type, &clause.unwrap()).unwrap()
    };
    create.columns.iter().map(column).collect()
}

fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}

async fn texts(client: &tokio_postgres::Client, sql: &str) -> Vec<String> {
    let messages = client.simple_query(sql).await.unwrap_or_else(|e| panic!("{e:?}: {sql}"));
    let text = |row: &tokio_postgres::SimpleQueryRow| {
        (0..row.len()).map(|i| row.get(i).unwrap_or("NULL").to_string()).collect::<Vec<_>>().join("|")
    };
    let rows = messages.iter().filter_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => Some(text(row)),
        _ => None,
    });
    rows.collect()
}

#[tokio::test]
async fn both_systems_normalise_alike() {
    let postgres = Postgres::start().await;
    postgres.run("CREATE DATABASE steps TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C.UTF-8'").await;
    let url = format!("host=127.0.0.1 port={} user=tidemark dbname=steps", postgres.port);
    let (there, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let instance = start().await;
    let here = instance.client().await;
    // Neither depends on the session.
    there.batch_execute("SET timezone = 'Asia/Tokyo'").await.unwrap();
    here.batch_execute("SET timezone = 'America/New_York'").await.unwrap();

    let can_fail = |steps: &str| steps.contains("parse_") || steps.contains("email");
    let lenient = |(name, of, steps): (&'static str, &'static str, &str)| {
        let on_failure = match (can_fail(steps), steps.contains("default(")) {
            (false, _) => "",
            (true, false) => ", on_failure = null",
            (true, true) => ", on_failure = default",
        };
        (name, of, format!("{steps}{on_failure}"))
    };
    let columns: Vec<(&str, &str, String)> = COLUMNS.into_iter().map(lenient).collect();
    let all = compiled(&columns);

    let defined: Vec<String> =
        columns.iter().map(|(name, of, steps)| format!("{name} {of} NORMALIZE ({steps})")).collect();
    let plain: Vec<String> = columns.iter().map(|(name, of, _)| format!("{name} {of}")).collect();
    let given: Vec<&str> = columns.iter().filter(|c| !c.2.starts_with("derive")).map(|(name, ..)| *name).collect();
    let input: Vec<String> = given.iter().map(|name| format!("{name} text")).collect();
    let values: Vec<Option<&str>> = VALUES.into_iter().map(Some).chain([None]).collect();
    let row = |(id, value): (usize, &Option<&str>)| {
        let value = value.map_or("NULL".to_string(), quoted);
        format!("({id}{})", format!(", {value}").repeat(given.len()))
    };
    let rows = values.iter().enumerate().map(row).collect::<Vec<_>>().join(", ");
    here.batch_execute(&format!("CREATE TABLE t (id INT, {})", defined.join(", "))).await.unwrap();
    here.batch_execute(&format!("INSERT INTO t VALUES {rows}")).await.unwrap_or_else(|e| panic!("{e:?}"));

    let names: Vec<String> = ["id"].into_iter().chain(columns.iter().map(|c| c.0)).map(str::to_string).collect();
    let load = format!(
        "CREATE TABLE t (id INT, {}); CREATE TABLE {INPUT} (id INT, {}); INSERT INTO {INPUT} VALUES {rows}; INSERT INTO t {}",
        plain.join(", "),
        input.join(", "),
        normalized(&names, &all, INPUT)
    );
    there.batch_execute(&load).await.unwrap_or_else(|e| panic!("{e:?}: {load}"));
    for ((name, _, steps), of) in columns.iter().zip(&all) {
        // Times in UTC, and no zeros behind a numeric that says no scale: it has one here.
        let shown = match *name {
            "any_number" => "trim_scale(any_number)::text".to_string(),
            "moment" | "any_moment" => format!("({name} AT TIME ZONE 'UTC')::text"),
            name => format!("{name}::text"),
        };
        let sql = format!("SELECT {shown} FROM t ORDER BY id");
        let (here, there) = (texts(&here, &sql).await, texts(&there, &sql).await);
        assert_eq!(here.len(), values.len());
        let differing: Vec<_> = here.iter().zip(&there).zip(&values).filter(|((h, t), _)| h != t).collect();
        assert!(differing.is_empty(), "{name} NORMALIZE ({steps}): here, there: {differing:?}\n{of:#?}");
        assert!(here.iter().any(|value| value != "NULL"), "{name} is never anything");
    }
}

#[tokio::test]
async fn both_systems_refuse_alike() {
    let postgres = Postgres::start().await;
    let there = postgres.client().await;
    let instance = start().await;
    let here = instance.client().await;
    let mut refused = 0;
    for (name, of, steps) in COLUMNS.into_iter().filter(|(.., steps)| !steps.starts_with("derive")) {
        let all = compiled(&[(name, of, steps.to_string())]);
        here.batch_execute(&format!("CREATE TABLE {name} ({name} {of} NORMALIZE ({steps}))")).await.unwrap();
        let Some(failures) = failures(&[name.to_string()], &all, INPUT) else { continue };
        there
            .batch_execute(&format!("DROP TABLE IF EXISTS {INPUT}; CREATE TABLE {INPUT} ({name} text)"))
            .await
            .unwrap();
        for value in VALUES {
            let inserted = here.batch_execute(&format!("INSERT INTO {name} VALUES ({})", quoted(value))).await;
            let load = format!("TRUNCATE {INPUT}; INSERT INTO {INPUT} VALUES ({})", quoted(value));
            there.batch_execute(&load).await.unwrap();
            let found = texts(&there, &failures).await;
            let error = inserted.err().map(|error| {
                let error = error.as_db_error().unwrap();
                (error.code().code().to_string(), error.message().to_string())
            });
            refused += usize::from(error.is_some());
            match (error, found.as_slice()) {
                (None, []) => {}
                (Some((code, message)), [found]) => {
                    assert!(code.starts_with("22"), "{code} {message}");
                    let value = found.strip_prefix("0|").unwrap();
                    let of = all[0].error(name, value);
                    assert_eq!((code, message), (of.code().to_string(), of.message().to_string()));
                }
                (error, found) => panic!("{name} NORMALIZE ({steps}) of {value:?}: here {error:?}, there {found:?}"),
            }
        }
    }
    assert!(refused > VALUES.len(), "{refused} values were refused");
}
