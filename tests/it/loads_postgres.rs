//! The strategies' SQL, run by Tidemark and by PostgreSQL: random loads of the same rows make the same tables, byte for byte.
//!
//! ```text
//!   rows of a load ──▶ INSERT INTO dim ───────────────────────▶ dim here ───┐
//!                 └──▶ tidemark_input ──script, one transaction──▶ dim there ┴─▶ equal, hashes and all
//! ```

use tidemark_common::types::SqlType;
use tidemark_connectors::load::{Declared, INPUT, Load, Table, Target};

use crate::harness::{Instance, Random, start};
use crate::postgres::Postgres;

const LOADS: u64 = 25;

/// The columns of every table; the first one is the key.
const COLUMNS: &str = "id INT PRIMARY KEY, a TEXT, n NUMERIC, f DOUBLE PRECISION, at TIMESTAMPTZ, b BOOLEAN, j JSONB, d DATE, u UUID, x BYTEA";

fn declared() -> Vec<Declared> {
    let types = [
        SqlType::Integer,
        SqlType::Text,
        SqlType::Numeric(None),
        SqlType::Double,
        SqlType::TimestampTz,
        SqlType::Boolean,
        SqlType::Jsonb,
        SqlType::Date,
        SqlType::Uuid,
        SqlType::Bytea,
    ];
    let names = COLUMNS.split(", ").map(|column| column.split(' ').next().unwrap().to_string());
    names.zip(types).map(|(name, sql_type)| Declared { name, sql_type }).collect()
}

const STRATEGIES: [&[(&str, &str)]; 8] = [
    &[("strategy", "merge")],
    &[("strategy", "merge"), ("deletes", "soft"), ("update_columns", "a, n, x")],
    &[("strategy", "merge"), ("deletes", "hard"), ("dedupe", "latest by at")],
    &[("strategy", "scd2")],
    &[("strategy", "scd2"), ("deletes", "soft"), ("compare_columns", "a, f, j, u")],
    &[("strategy", "scd2"), ("deletes", "hard")],
    &[("strategy", "scd2"), ("event_time", "at"), ("deletes", "soft")],
    &[
        ("strategy", "scd2"),
        ("event_time", "at"),
        ("out_of_order", "splice"),
        ("ttl", "9000 days"),
        ("dedupe", "latest by a"),
    ],
];

fn value(random: &mut Random, some: &[&str]) -> String {
    match random.below(5) {
        0 => "NULL".into(),
        _ => some[random.below(some.len() as u64) as usize].into(),
    }
}

/// Rows as VALUES has them.
fn rows(random: &mut Random, load: u64) -> String {
    let row = |random: &mut Random| {
        // Mostly in order; what is refused is refused by both.
        let day = (2 * load + random.below(4)).saturating_sub(random.below(2));
        [
            (1 + random.below(6)).to_string(),
            value(random, &["''", "'ä'", "'a''b'", "'x'"]),
            value(random, &["1.50", "1.5", "-0.001", "1234567890.123", "100"]),
            value(random, &["0", "'-0'", "1e20", "'NaN'", "0.1"]),
            format!("'2024-01-01 10:00:00.5+02'::timestamptz + {day} * INTERVAL '1 day'"),
            value(random, &["true", "false"]),
            value(random, &["'{\"b\": 1, \"a\": [1,  2]}'", "'null'", "'{\"a\": [1, 2], \"b\": 1}'"]),
            value(random, &["'2024-02-29'", "'1999-12-31'"]),
            value(random, &["'00000000-0000-0000-0000-00000000000A'"]),
            value(random, &["'\\x00ff'", "''"]),
        ]
        .join(", ")
    };
    let rows: Vec<String> = (0..1 + random.below(5)).map(|_| format!("({})", row(random))).collect();
    format!("VALUES {}", rows.join(", "))
}

struct Both {
    here: Instance,
    there: tokio_postgres::Client,
    load: Load,
    columns: Vec<String>,
}

impl Both {
    /// Loads in PostgreSQL as of `now`; an error's SQLSTATE.
    async fn load_there(&mut self, rows: &str, now: &str) -> Result<(), String> {
        let now = format!("TIMESTAMPTZ '{now}'");
        let target = Target { name: "dim", columns: &self.columns, now: &now };
        let names: Vec<&str> = self.load.columns.iter().map(|column| column.name.as_str()).collect();
        let transaction = self.there.transaction().await.unwrap();
        let run = async |sql: &str| transaction.batch_execute(sql).await.unwrap_or_else(|e| panic!("{e:?}\n{sql}"));
        run(&self.load.input_table(&target)).await;
        run(&format!("INSERT INTO {INPUT} ({}) {rows}", names.join(", "))).await;
        if let Some(duplicates) = self.load.duplicates()
            && !transaction.query(&duplicates, &[]).await.unwrap().is_empty()
        {
            return Err("21000".into());
        }
        let script = self.load.script(&target, false).unwrap();
        for statement in &script.prepare {
            run(statement).await;
        }
        if let Some(check) = &script.check
            && !transaction.query(check, &[]).await.unwrap().is_empty()
        {
            return Err("22000".into());
        }
        for statement in &script.apply {
            run(&statement.sql).await;
        }
        transaction.commit().await.unwrap();
        Ok(())
    }

    fn contents(&self) -> String {
        // A numeric is shown with the digits that it was written with there, without zeros at the end here.
        let shown: Vec<&str> =
            self.columns.iter().map(|c| if c == "n" { "trim_scale(n)" } else { c.as_str() }).collect();
        format!("SELECT {} FROM dim ORDER BY {}", shown.join(", "), self.columns.join(", "))
    }
}

#[tokio::test]
async fn both_systems_make_the_same_tables() {
    let postgres = Postgres::start().await;
    postgres.run("CREATE DATABASE loads TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C.UTF-8'").await;
    let mut refused = 0;
    for (number, options) in STRATEGIES.into_iter().enumerate() {
        let here = start().await;
        let with: Vec<String> = options.iter().map(|(key, value)| format!("{key} = '{value}'")).collect();
        here.run(&format!("CREATE TABLE dim ({COLUMNS}) WITH ({})", with.join(", "))).await;
        let options: Vec<(String, String)> = options.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let declared = declared();
        let key = ["id".to_string()];
        let table = Table { name: "dim", columns: &declared, primary_key: Some(&key), unique: &[] };
        let (load, _) = Load::parse(&options, table).unwrap().unwrap();
        let own = load.own_columns();
        let columns: Vec<String> =
            declared.iter().map(|c| c.name.clone()).chain(own.iter().map(|o| o.name.clone())).collect();
        let own: Vec<String> = own.iter().map(|own| format!(", {} {}", own.name, own.sql_type)).collect();
        let plain = COLUMNS.replace(" PRIMARY KEY", "");
        let url = format!("host=127.0.0.1 port={} user=tidemark dbname=loads", postgres.port);
        let (there, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        let create = format!(
            "SET timezone = 'UTC'; DROP TABLE IF EXISTS dim; CREATE TABLE dim ({plain}{}, PRIMARY KEY ({}))",
            own.concat(),
            load.table_key().join(", ")
        );
        there.batch_execute(&create).await.unwrap();
        let mut both = Both { here, there, load, columns };
        let mut random = Random::new(number as u64 + 1);
        for load in 0..LOADS {
            let rows = rows(&mut random, load);
            // One moment for both: that of the transaction here.
            let client = both.here.client().await;
            client.batch_execute("SET timezone = 'UTC'; BEGIN").await.unwrap();
            let now: String = client.query_one("SELECT now()::text", &[]).await.unwrap().get(0);
            let loaded = match client.batch_execute(&format!("INSERT INTO dim {rows}")).await {
                Ok(()) => client.batch_execute("COMMIT").await.map(|()| None).unwrap(),
                Err(error) => {
                    Some(error.as_db_error().unwrap_or_else(|| panic!("{error:?}")).code().code().to_string())
                }
            };
            let loaded_there = both.load_there(&rows, &now).await.err();
            let what = format!("{options:?} load {load}: {rows}");
            assert_eq!(loaded, loaded_there, "{what}");
            refused += u64::from(loaded.is_some());
            let sql = both.contents();
            let of = async |client: &tokio_postgres::Client| -> Vec<String> {
                let messages = client.simple_query(&sql).await.unwrap();
                let text = |row: &tokio_postgres::SimpleQueryRow| {
                    (0..row.len()).map(|i| row.get(i).unwrap_or("NULL").to_string()).collect::<Vec<_>>().join("|")
                };
                let rows = messages.iter().filter_map(|message| match message {
                    tokio_postgres::SimpleQueryMessage::Row(row) => Some(text(row)),
                    _ => None,
                });
                rows.collect()
            };
            let client = both.here.client().await;
            client.batch_execute("SET timezone = 'UTC'").await.unwrap();
            let (here, there) = (of(&client).await, of(&both.there).await);
            let only =
                |a: &[String], b: &[String]| a.iter().filter(|row| !b.contains(row)).cloned().collect::<Vec<_>>();
            let differing = (only(&here, &there), only(&there, &here));
            assert_eq!(differing, (vec![], vec![]), "only here, only there; {what}");
            assert_eq!(here.len(), there.len(), "{what}");
        }
    }
    assert!((5..LOADS * 4).contains(&refused), "{refused} loads were refused");
}
