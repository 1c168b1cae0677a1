//! Tables whose contents are kept in another system: CREATE TABLE .. WITH (connection = .., table = .., on_drift = ..).
//!
//! ```text
//!   WITH options ──▶ catalog::Remote ──target_table──▶ TargetTable ──settle──▶ the table over there, as it is declared
//!                                                             └── what was done: tidemark.schema_history
//! ```

use std::sync::Arc;

use datafusion::sql::sqlparser::ast as sql;
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::parser::Parser;
use tidemark_catalog::{Column, Key, Object, ObjectKind, Remote, Table};
use tidemark_common::types::SqlType;
use tidemark_common::{Error, Result, SqlState};
use tidemark_connectors::fail_point;
use tidemark_connectors::postgres::{Client, OnDrift, TargetColumn, TargetTable, indexes_for};

use super::Target;
use super::connections;
use super::loads::load_of;
use super::tables::Draft;
use crate::pipelines::history::schema_changed;
use crate::session::{Session, fold};

impl Session {
    /// Takes the options that say where the table is kept.
    pub(super) fn remote_of(&self, options: &mut Vec<(String, String)>, name: &str) -> Result<Option<Remote>> {
        let mut take = |key: &str| {
            let at = options.iter().position(|(k, _)| k == key)?;
            Some(options.remove(at).1)
        };
        let (connection, table, on_drift) = (take("connection"), take("table"), take("on_drift"));
        let Some(connection) = connection else {
            return match [("table", table), ("on_drift", on_drift)].into_iter().find(|(_, value)| value.is_some()) {
                None => Ok(None),
                Some((option, _)) => Err(Error::invalid(format!("option \"{option}\" needs \"connection\""))
                    .with_hint("connection = 'name' says in which PostgreSQL the table is kept: CREATE CONNECTION.")),
            };
        };
        if let Some(way) = &on_drift {
            OnDrift::parse(way)?;
        }
        let (schema, table) = match table {
            Some(text) => split_name(&text)?,
            None => ("public".to_string(), name.to_string()),
        };
        let connection = self.catalog()?.connection(&connection)?.oid;
        Ok(Some(Remote { connection, schema, table, on_drift }))
    }

    /// Makes the table over there, or sees that it is as it is declared.
    pub(super) async fn make_remote(&mut self, draft: &Draft, target: &Target, temporary: bool) -> Result<()> {
        let Some(remote) = &draft.remote else { return Ok(()) };
        check_draft(draft, temporary)?;
        self.refuse_in_block("CREATE TABLE", &draft.name)?;
        let table = Table {
            columns: draft.columns.clone(),
            primary_key: draft.primary_key.clone(),
            unique: draft.unique.clone(),
            checks: Vec::new(),
            generation: 0,
            load: draft.load.clone(),
            remote: None,
            ttl: None,
        };
        let object = Object {
            oid: draft.oid,
            schema: target.schema,
            name: draft.name.clone(),
            owner: 0,
            comment: None,
            depends_on: [].into(),
            reads: Vec::new(),
            lookups: Vec::new(),
            asked: Vec::new(),
            temporary,
            kind: ObjectKind::Table(table),
        };
        self.settle_remote(&object, remote).await.map(|_| ())
    }

    /// Connects to where the table is kept, and settles what it looks like there. What was done for that is remembered, whatever
    /// becomes of this transaction: it was.
    pub(crate) async fn settle_remote(&mut self, object: &Object, remote: &Remote) -> Result<Client> {
        let client = self.connect_remote(remote).await?;
        fail_point("load.connected");
        let changes = target_table(object, remote)?.settle(&client, on_drift(remote)?, false).await?;
        if changes.is_empty() {
            return Ok(client);
        }
        let (db, catalog) = (self.database(), self.catalog()?);
        let mut history = Session::internal(&db, "schema history")?;
        for change in changes {
            self.tell(format!("connection \"{}\": {}", client.name, change.change));
            let elsewhere = Some((client.name.as_ref(), remote.name()));
            schema_changed(&mut history, &catalog, object, elsewhere, &change.change, &change.sql).await?;
        }
        Ok(client)
    }

    /// The same, in a transaction over there that is left open, and what is done in it.
    pub(crate) async fn try_remote(&self, object: &Object, remote: &Remote) -> Result<(Client, Vec<String>)> {
        let client = self.connect_remote(remote).await?;
        let changes = target_table(object, remote)?.settle(&client, on_drift(remote)?, true).await?;
        Ok((client, changes.into_iter().map(|change| change.change).collect()))
    }

    pub(crate) async fn connect_remote(&self, remote: &Remote) -> Result<Client> {
        let catalog = self.catalog()?;
        let connection = catalog.expect(remote.connection)?;
        let key = self.database().environment.secret_key.clone();
        let options = connections::options(connection, &catalog, key.as_ref())?;
        Client::connect(&Arc::from(connection.name.as_str()), &Arc::new(options)).await
    }

    /// What cannot be done from here to a table that is kept elsewhere.
    pub(crate) fn refuse_if_remote(&self, object: &Object, verb: &str) -> Result<()> {
        let Some(remote) = object.remote() else { return Ok(()) };
        let catalog = self.catalog()?;
        let connection = catalog.get(remote.connection).map_or("", |c| c.name.as_str());
        Err(Error::new(
            SqlState::ObjectNotInPrerequisiteState,
            format!("cannot {verb} \"{}\": it is kept in connection \"{connection}\"", object.name),
        )
        .with_hint(format!(
            "From here it is loaded and read. Change {} over there; for other columns, DROP TABLE here, which leaves it alone, \
             and CREATE TABLE with them and on_drift = 'evolve'.",
            remote.name()
        )))
    }

    /// What is done over there is not taken back by ROLLBACK here.
    pub(crate) fn refuse_in_block(&self, what: &str, table: &str) -> Result<()> {
        let transaction = self.current_transaction()?;
        if transaction.read_only {
            let message = format!("cannot execute {what} in a read-only transaction");
            return Err(Error::new(SqlState::ReadOnlySqlTransaction, message));
        }
        if !self.in_transaction_block() && !self.is_part() && transaction.is_read_only_so_far() {
            return Ok(());
        }
        Err(Error::new(
            SqlState::ActiveSqlTransaction,
            format!("{what} of \"{table}\", which is kept in another system, cannot run inside a transaction block"),
        )
        .with_hint(
            "It is committed over there by itself, and ROLLBACK would not take it back: run it outside of BEGIN.",
        ))
    }
}

/// `schema.table`, or `table` of schema public; folded as Postgres does.
fn split_name(text: &str) -> Result<(String, String)> {
    let parsed = Parser::new(&PostgreSqlDialect {}).try_with_sql(text).and_then(|mut parser| {
        let name = parser.parse_object_name(false)?;
        parser.expect_token(&datafusion::sql::sqlparser::tokenizer::Token::EOF)?;
        Ok(name)
    });
    let parts: Vec<String> = match parsed {
        Ok(sql::ObjectName(parts)) => parts.iter().filter_map(|part| part.as_ident()).map(fold).collect(),
        Err(_) => Vec::new(),
    };
    match parts.as_slice() {
        [table] => Ok(("public".into(), table.clone())),
        [schema, table] => Ok((schema.clone(), table.clone())),
        _ => Err(Error::invalid(format!("option \"table\" must be 'schema.table', not \"{text}\""))),
    }
}

/// What a table over there cannot have.
fn check_draft(draft: &Draft, temporary: bool) -> Result<()> {
    let refuse = |what: &str, hint: &str| {
        Err(Error::unsupported(format!("{what} of \"{}\" is not supported: it is kept in another system", draft.name))
            .with_hint(hint))
    };
    if draft.load.is_none() {
        return Err(Error::invalid("option \"strategy\" is missing")
            .with_hint("Say how the table is loaded: strategy = 'append', 'truncate', 'merge' or 'scd2'."));
    }
    if temporary {
        return refuse("TEMPORARY", "Leave it out, or leave connection out: then the table is kept here.");
    }
    if !draft.checks.is_empty() {
        return refuse("CHECK", "Add the constraint to the table over there: its violation refuses a load.");
    }
    fn is_plain(sql_type: &SqlType) -> bool {
        match sql_type {
            SqlType::Array(item) => is_plain(item),
            other => !matches!(other, SqlType::Struct(_) | SqlType::Map(..) | SqlType::Other(_)),
        }
    }
    match draft.columns.iter().find(|column| !is_plain(&column.sql_type)) {
        Some(column) => {
            let what = format!("type {} of column \"{}\"", column.sql_type, column.name);
            refuse(&what, "Use jsonb, or a column for each field.")
        }
        None => Ok(()),
    }
}

fn on_drift(remote: &Remote) -> Result<OnDrift> {
    remote.on_drift.as_deref().map_or(Ok(OnDrift::Error), OnDrift::parse)
}

/// The table as it has to be over there.
pub(crate) fn target_table(object: &Object, remote: &Remote) -> Result<TargetTable> {
    let (ObjectKind::Table(table), Some(load)) = (&object.kind, load_of(object)?) else {
        return Err(Error::internal(format!("\"{}\" is not loaded", object.name)));
    };
    let column = |column: &Column| TargetColumn {
        name: column.name.clone(),
        sql_type: column.sql_type.clone(),
        nullable: column.nullable,
    };
    let names = |key: &Key| key.columns.iter().map(|at| table.columns[*at].name.clone()).collect();
    let keys: Vec<Vec<String>> = table.primary_key.iter().chain(&table.unique).map(names).collect();
    Ok(TargetTable {
        name: object.name.clone(),
        schema: remote.schema.clone(),
        table: remote.table.clone(),
        columns: table.columns.iter().map(column).collect(),
        indexes: indexes_for(&load, &keys),
        keys,
        has_primary_key: table.primary_key.is_some(),
    })
}
