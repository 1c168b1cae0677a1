//! Sessions of the server's own, and SQL that it runs through them.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::array::{Array, AsArray, RecordBatch};
use futures::StreamExt;
use tidemark_common::types::SqlType;
use tidemark_common::{Error, Result, SqlState};
use tidemark_sql::ast::Statement;
use tidemark_sql::grammar;

use super::{MAX_RETRIES, Outcome, Session};
use crate::coordinator::definitions::stored_query;
use crate::database::Database;
use crate::pipelines::history::DEAD_LETTERS;

/// Rows as text, as an internal query gives them.
pub(crate) type TextRows = Vec<Vec<Option<String>>>;

impl Session {
    /// A session that may write the tables of schema `tidemark`, and that no limit on connections keeps out.
    pub(crate) fn internal(db: &Arc<Database>, application_name: &str) -> Result<Session> {
        let mut session = Self::of_server(db, application_name)?;
        session.internal = true;
        Ok(session)
    }

    /// A session that the server begins, with a user's rights; no limit on connections keeps it out.
    pub(crate) fn of_server(db: &Arc<Database>, application_name: &str) -> Result<Session> {
        let parameters = BTreeMap::from([("application_name".to_string(), application_name.to_string())]);
        Self::register(db.clone(), &db.moment().catalog.superuser, &parameters, false)
    }

    /// Names are looked up along this path from here on.
    pub(crate) fn set_search_path(&self, path: &[String]) -> Result<()> {
        let path: Vec<String> = path.iter().map(|name| tidemark_catalog::quote_ident(name)).collect();
        self.info.set("search_path", Some(&path.join(", ")), false)?;
        Ok(())
    }

    /// Runs statements one after the other, each its own transaction unless they say otherwise.
    pub(crate) async fn script(&mut self, text: &str) -> Result<()> {
        for statement in grammar::parse_script(text)? {
            match self.execute(&statement, &[]).await? {
                Outcome::Rows(mut rows) => {
                    while let Some(batch) = rows.stream.next().await {
                        batch?;
                    }
                }
                Outcome::CopyIn(_) | Outcome::CopyOut(..) => {
                    self.copy_fail();
                    return Err(Error::unsupported("COPY with a client cannot be used here"));
                }
                Outcome::Command(_) | Outcome::Deallocate(_) | Outcome::Empty => {}
            }
        }
        Ok(())
    }

    /// Runs a statement on the server's own tables, in this session's transaction.
    pub(crate) async fn as_server(&mut self, text: &str) -> Result<()> {
        let before = std::mem::replace(&mut self.internal, true);
        let result = Box::pin(self.run(&grammar::parse_one(text)?, &[])).await;
        self.internal = before;
        result.map(|_| ())
    }

    /// The rows of a query whose columns are all text.
    pub(crate) async fn text_rows(&mut self, query: &str) -> Result<TextRows> {
        let Outcome::Rows(mut rows) = self.execute(&grammar::parse_one(query)?, &[]).await? else {
            return Err(Error::internal("an internal query gave no rows"));
        };
        let mut all = TextRows::new();
        while let Some(batch) = rows.stream.next().await {
            all.extend(as_text(&batch?)?);
        }
        Ok(all)
    }

    /// Ends a block that BEGIN opened as what was done in it ended; `None` where it has to be done again, as other
    /// sessions wrote what it had read.
    pub(crate) async fn block_done<T>(&mut self, done: Result<T>, tries: &mut usize) -> Result<Option<T>> {
        let result = match done {
            Ok(done) => self.script("COMMIT").await.map(|()| done),
            Err(error) => self.script("ROLLBACK").await.and(Err(error)),
        };
        match result {
            Err(error) if error.state() == SqlState::SerializationFailure && *tries < MAX_RETRIES => {
                *tries += 1;
                Ok(None)
            }
            result => result.map(Some),
        }
    }

    /// Does work in a transaction that ends with it.
    pub(crate) async fn in_own_transaction<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut Session) -> Result<T>,
    ) -> Result<T> {
        self.begin_if_none();
        let result = work(self).await;
        self.remote = Arc::default();
        match result {
            Ok(done) => self.commit().await.map(|()| done),
            Err(error) => {
                self.statement_failed();
                Err(error)
            }
        }
    }

    /// The columns of a query, as the transaction sees them.
    pub(crate) async fn query_columns(&mut self, text: &str) -> Result<Vec<(String, SqlType)>> {
        let query = stored_query(text)?;
        let statement = datafusion::sql::sqlparser::ast::Statement::Query(Box::new(query.clone()));
        self.find_remote(&Statement::Sql(Box::new(statement))).await?;
        let plan = self.names(None)?.plan(&query)?;
        let columns: Vec<(String, SqlType)> =
            plan.schema().fields().iter().map(|field| (field.name().clone(), SqlType::from_field(field))).collect();
        for (at, (name, _)) in columns.iter().enumerate() {
            if columns[..at].iter().any(|(other, _)| other == name) {
                return Err(Error::new(SqlState::DuplicateColumn, format!("column \"{name}\" is in the query twice"))
                    .with_hint("Give one of them another name: AS name."));
            }
        }
        Ok(columns)
    }

    pub(crate) fn is_internal(&self) -> bool {
        self.internal
    }

    /// The server's own sessions alone may change the rows of its tables; but what is in `tidemark.dead_letters` may go when people have
    /// dealt with it.
    pub(crate) fn check_may_delete(&self, schema: tidemark_common::Oid, name: &str) -> Result<()> {
        match schema == tidemark_catalog::TIDEMARK_SCHEMA && name == DEAD_LETTERS {
            true => Ok(()),
            false => self.check_may_change(schema, name),
        }
    }

    /// The server's own sessions alone may.
    pub(crate) fn check_may_change(&self, schema: tidemark_common::Oid, name: &str) -> Result<()> {
        if schema != tidemark_catalog::TIDEMARK_SCHEMA || self.internal {
            return Ok(());
        }
        Err(Error::new(SqlState::InsufficientPrivilege, format!("permission denied for table {name}"))
            .with_detail("It is the server's own.")
            .with_hint("Read it; for a copy to change, CREATE TABLE .. AS SELECT."))
    }
}

/// A moment as SQL: microseconds since 1970, of a clock.
pub(crate) fn time_literal(micros: i64) -> String {
    let moment = chrono::DateTime::from_timestamp_micros(micros).expect("no clock shows a year of six digits");
    format!("TIMESTAMPTZ '{}'", moment.format("%Y-%m-%d %H:%M:%S%.6f+00"))
}

fn as_text(batch: &RecordBatch) -> Result<TextRows> {
    let columns = batch
        .columns()
        .iter()
        .map(|column| Ok(datafusion::arrow::compute::cast(column, &datafusion::arrow::datatypes::DataType::Utf8)?));
    let columns = columns.collect::<Result<Vec<_>>>()?;
    let value =
        |column: &Arc<dyn Array>, row| column.is_valid(row).then(|| column.as_string::<i32>().value(row).to_string());
    Ok((0..batch.num_rows()).map(|row| columns.iter().map(|column| value(column, row)).collect()).collect())
}
