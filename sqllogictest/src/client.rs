//! A connection as sqllogictest wants it: text in, text out, by the simple protocol.

use std::fmt;
use std::process::{Command, Output};
use std::time::Duration;

use async_trait::async_trait;
use sqllogictest::{AsyncDB, DBOutput, DefaultColumnType};
use tokio_postgres::{NoTls, SimpleQueryMessage};

pub struct Client {
    client: tokio_postgres::Client,
    connection: tokio::task::JoinHandle<()>,
    engine: &'static str,
}

/// An error as `42703: column "x" does not exist`, then DETAIL and HINT on lines of their own.
#[derive(Debug)]
pub struct ClientError {
    code: Option<String>,
    text: String,
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for ClientError {}

impl ClientError {
    /// SQLSTATE, if the server sent the error.
    pub fn code(&self) -> Option<&str> {
        self.code.as_deref()
    }

    /// The server asked for a password, and there was none.
    pub fn wants_password(&self) -> bool {
        self.text.contains("password missing")
    }
}

impl From<tokio_postgres::Error> for ClientError {
    fn from(error: tokio_postgres::Error) -> Self {
        let Some(db) = error.as_db_error() else {
            return ClientError { code: None, text: format!("connection: {error:?}") };
        };
        let mut text = format!("{}: {}", db.code().code(), db.message());
        for (word, line) in [("DETAIL", db.detail()), ("HINT", db.hint())] {
            if let Some(line) = line {
                text += &format!("\n{word}: {line}");
            }
        }
        ClientError { code: Some(db.code().code().to_string()), text }
    }
}

impl Client {
    /// `url`: as libpq takes it. `engine`: the label of `skipif` and `onlyif`.
    pub async fn connect(url: &str, engine: &'static str) -> Result<Self, ClientError> {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
        let connection = tokio::spawn(async move {
            // The statement that was running has the same error, and reports it.
            let _ = connection.await;
        });
        Ok(Self { client, connection, engine })
    }

    /// Rows as text, and the number from the last command tag.
    pub async fn query(&mut self, sql: &str) -> Result<(Option<Vec<Vec<String>>>, u64), ClientError> {
        let mut rows = None;
        let mut count = 0;
        for message in self.client.simple_query(sql).await? {
            match message {
                SimpleQueryMessage::RowDescription(_) => rows = Some(Vec::new()),
                SimpleQueryMessage::Row(row) => {
                    let row = (0..row.len()).map(|i| shown(row.get(i))).collect();
                    rows.get_or_insert_default().push(row);
                }
                SimpleQueryMessage::CommandComplete(n) => count = n,
                _ => {}
            }
        }
        Ok((rows, count))
    }

    /// Rows as lines, columns one space apart.
    pub async fn lines(&mut self, sql: &str) -> Result<Vec<String>, ClientError> {
        let (rows, _) = self.query(sql).await?;
        Ok(rows.unwrap_or_default().iter().map(|row| row.join(" ")).collect())
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

fn shown(value: Option<&str>) -> String {
    match value {
        None => "NULL".into(),
        Some("") => "(empty)".into(),
        Some(text) => text.into(),
    }
}

#[async_trait]
impl AsyncDB for Client {
    type Error = ClientError;
    type ColumnType = DefaultColumnType;

    async fn run(&mut self, sql: &str) -> Result<DBOutput<DefaultColumnType>, ClientError> {
        let (rows, count) = self.query(sql).await?;
        Ok(match rows {
            Some(rows) => {
                let columns = rows.first().map_or(0, Vec::len);
                DBOutput::Rows { types: vec![DefaultColumnType::Text; columns], rows }
            }
            None => DBOutput::StatementComplete(count),
        })
    }

    async fn shutdown(&mut self) {}

    fn engine_name(&self) -> &str {
        self.engine
    }

    async fn sleep(duration: Duration) {
        tokio::time::sleep(duration).await;
    }

    async fn run_command(command: Command) -> std::io::Result<Output> {
        tokio::process::Command::from(command).output().await
    }

    fn error_sql_state(error: &ClientError) -> Option<String> {
        error.code.clone()
    }
}
