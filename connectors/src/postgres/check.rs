//! CHECK CONNECTION: every step, one row each, up to the one that fails.

use std::sync::Arc;

use tidemark_common::{Error, Result};

use super::client::{Client, Step, Steps};
use super::error;
use super::options::PostgresOptions;

pub struct CheckRow {
    pub step: &'static str,
    pub ok: bool,
    pub detail: String,
    pub hint: Option<String>,
}

impl CheckRow {
    pub fn done(step: &'static str, detail: impl Into<String>) -> Self {
        Self { step, ok: true, detail: detail.into(), hint: None }
    }

    pub fn failed(step: &'static str, error: &Error) -> Self {
        let detail = match error.detail() {
            Some(detail) => format!("{} ({}): {detail}", error.message(), error.code()),
            None => format!("{} ({})", error.message(), error.code()),
        };
        Self { step, ok: false, detail, hint: error.hint().map(String::from) }
    }
}

pub async fn check(name: &Arc<str>, options: &Arc<PostgresOptions>) -> Vec<CheckRow> {
    let mut steps = Steps::new();
    let connected = Client::connect_in_steps(name, options, &mut steps).await;
    let mut rows: Vec<CheckRow> =
        steps.done.into_iter().map(|(step, detail)| CheckRow::done(step.name(), detail)).collect();
    let client = match connected {
        Ok(client) => client,
        Err(error) => {
            rows.push(CheckRow::failed(steps.current.name(), &error));
            return rows;
        }
    };
    for (step, asked) in [(Step::Database.name(), database(&client).await), ("permissions", permissions(&client).await)]
    {
        match asked {
            Ok(row) => rows.push(CheckRow { step, ..row }),
            Err(error) => {
                rows.push(CheckRow::failed(step, &error));
                break;
            }
        }
    }
    rows
}

async fn one_row(client: &Client, sql: &str) -> Result<tokio_postgres::Row> {
    let asked = tokio::time::timeout(client.options.connect_timeout, client.postgres.query_one(sql, &[])).await;
    match asked {
        Ok(row) => row.map_err(|e| error::remote(&client.name, &e, None)),
        Err(_) => Err(Error::new(
            tidemark_common::SqlState::ConnectionException,
            format!("the server gave no answer within connect_timeout, {:?}", client.options.connect_timeout),
        )),
    }
}

async fn database(client: &Client) -> Result<CheckRow> {
    let row = one_row(
        client,
        "SELECT current_database()::text, current_setting('server_version'), \
         current_setting('server_version_num')::int, pg_is_in_recovery(), \
         current_setting('default_transaction_read_only') = 'on'",
    )
    .await?;
    let (database, version, number): (String, String, i32) = (row.get(0), row.get(1), row.get(2));
    let (standby, read_only): (bool, bool) = (row.get(3), row.get(4));
    let can = match (standby, read_only) {
        (true, _) => "a standby: read only",
        (_, true) => "read only",
        _ => "can be written",
    };
    let mut done = CheckRow::done("", format!("{database}, PostgreSQL {version}, {can}"));
    if number < 120_000 {
        done.ok = false;
        done.hint = Some("PostgreSQL 12 and newer are supported.".into());
    }
    Ok(done)
}

async fn permissions(client: &Client) -> Result<CheckRow> {
    let row = one_row(
        client,
        "SELECT count(*) FILTER (WHERE has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')), \
         count(*), (SELECT count(*) FROM pg_namespace s WHERE s.nspname !~ '^(pg_|information_schema$)' \
         AND has_schema_privilege(s.oid, 'CREATE')) \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname !~ '^(pg_|information_schema$)'",
    )
    .await?;
    let (readable, all, schemas): (i64, i64, i64) = (row.get(0), row.get(1), row.get(2));
    let mut done = CheckRow::done(
        "",
        format!("{readable} of {all} tables and views can be read, tables can be created in {schemas} schemas"),
    );
    if all > 0 && readable == 0 {
        done.ok = false;
        done.hint = Some("GRANT USAGE ON SCHEMA and GRANT SELECT ON its tables to the user.".into());
    }
    Ok(done)
}
