//! Where the table is, and ordinary sessions there.

use std::sync::Arc;
use std::time::Duration;

use tidemark_common::{Error, Result, SqlState};
use tokio_postgres::types::ToSql;

use crate::options::Options;
use crate::postgres::client::Client;
use crate::postgres::error;
use crate::postgres::filter::identifier;
use crate::postgres::options::PostgresOptions;
use crate::postgres::reading::SETTINGS;

/// How long an answer about the catalog may take.
const ANSWER: Duration = Duration::from_secs(60);

#[derive(Debug, Clone)]
pub struct Place {
    /// As messages name it: host, port and database.
    pub name: Arc<str>,
    pub options: Arc<PostgresOptions>,
    pub schema: String,
    pub table: String,
}

impl Place {
    /// The options that say where the table is, in RisingWave's words or in ours.
    /// `is_shared`: there is none.
    pub fn take(options: &mut Options, is_shared: bool) -> Result<Self> {
        for (other, key) in [
            ("hostname", "host"),
            ("username", "user"),
            ("database.name", "database"),
            ("ssl.mode", "sslmode"),
            ("ssl.root.cert", "sslrootcert"),
        ] {
            options.spelled(other, key);
        }
        let schema = options.take("schema.name").unwrap_or_else(|| "public".into());
        let table = if is_shared { String::new() } else { options.require("table.name")? };
        let postgres = PostgresOptions::take(options)?.complete()?;
        let name = format!("{}/{}", postgres.address(), postgres.database);
        Ok(Self { name: name.into(), options: Arc::new(postgres), schema, table })
    }

    /// The split, the lane, and the table in messages.
    pub fn label(&self) -> String {
        format!("{}.{}", self.schema, self.table)
    }

    /// The table in SQL.
    pub fn quoted(&self) -> String {
        format!("{}.{}", identifier(&self.schema), identifier(&self.table))
    }

    pub fn named(&self, error: Error) -> Error {
        error.context(format_args!("connection \"{}\"", self.name))
    }

    pub async fn connect(&self) -> Result<Client> {
        let client = Client::connect(&self.name, &self.options).await?;
        client.run(SETTINGS).await?;
        Ok(client)
    }
}

/// The rows of a query about the catalog.
pub async fn query(client: &Client, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Vec<tokio_postgres::Row>> {
    let asked = tokio::time::timeout(ANSWER, client.postgres.query(sql, parameters)).await;
    let rows = asked.map_err(|_| {
        let message = format!("connection \"{}\": the server gave no answer within {ANSWER:?}", client.name);
        Error::new(SqlState::ConnectionException, message)
    })?;
    rows.map_err(|e| error::remote(&client.name, &e, None))
}
