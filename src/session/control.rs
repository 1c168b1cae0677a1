//! BEGIN, COMMIT, ROLLBACK, savepoints; SET, RESET, DISCARD; PREPARE and EXECUTE.

use datafusion::scalar::ScalarValue;
use datafusion::sql::sqlparser::ast as sql;
use tidemark_common::types::SqlType;
use tidemark_common::{Error, Result, SqlState};
use tidemark_sql::ast::{Parsed, Statement, fold};
use tidemark_sql::grammar;

use super::{Marks, Outcome, Prepared, Session};

/// In a failed transaction only its end is allowed.
pub(super) fn allowed_when_failed(statement: &Statement) -> bool {
    matches!(
        statement,
        Statement::Sql(s) if matches!(**s, sql::Statement::Commit { .. } | sql::Statement::Rollback { .. })
    )
}

fn done(tag: &str) -> Result<Outcome> {
    Ok(Outcome::Command(tag.into()))
}

impl Session {
    pub(super) async fn control(&mut self, statement: &sql::Statement) -> Result<Outcome> {
        use sql::Statement as S;
        match statement {
            S::StartTransaction { modes, .. } => self.start_transaction(modes),
            S::Commit { chain, .. } => self.end_block(true, *chain).await,
            S::Rollback { chain, savepoint: None } => self.end_block(false, *chain).await,
            S::Rollback { savepoint: Some(name), .. } => {
                let marks = self.in_block("ROLLBACK TO SAVEPOINT")?.rollback_to(&fold(name))?;
                self.info.roll_back_settings_to(marks.settings);
                self.cursors.close_since(marks.cursors);
                self.tell_cursors();
                let catalog = self.transaction()?.catalog.clone();
                self.info.note_schemas(&catalog);
                done("ROLLBACK")
            }
            S::Savepoint { name } => {
                let marks = Marks { settings: self.info.settings_mark(), cursors: self.cursors.mark() };
                self.in_block("SAVEPOINT")?.savepoint(&fold(name), marks);
                done("SAVEPOINT")
            }
            S::ReleaseSavepoint { name } => {
                self.in_block("RELEASE SAVEPOINT")?.release(&fold(name))?;
                done("RELEASE")
            }
            other => Err(Error::internal(format!("{other} is no transaction control"))),
        }
    }

    fn start_transaction(&mut self, modes: &[sql::TransactionMode]) -> Result<Outcome> {
        if self.transaction()?.explicit {
            self.warning("25001", "there is already a transaction in progress");
        }
        let read_only = modes.iter().rev().find_map(|m| match m {
            sql::TransactionMode::AccessMode(sql::TransactionAccessMode::ReadOnly) => Some(true),
            sql::TransactionMode::AccessMode(sql::TransactionAccessMode::ReadWrite) => Some(false),
            sql::TransactionMode::IsolationLevel(_) => None,
        });
        let transaction = self.transaction_mut()?;
        transaction.explicit = true;
        if let Some(read_only) = read_only {
            transaction.read_only = read_only;
        }
        done("BEGIN")
    }

    async fn end_block(&mut self, commit: bool, chain: bool) -> Result<Outcome> {
        let transaction = self.transaction()?;
        let (explicit, failed) = (transaction.explicit, transaction.failed);
        if !explicit {
            if chain {
                return Err(Error::new(SqlState::NoActiveSqlTransaction, "there is no transaction to chain"));
            }
            self.warning("25P01", "there is no transaction in progress");
        }
        let tag = if commit && !failed { "COMMIT" } else { "ROLLBACK" };
        if commit && !failed {
            self.commit().await?;
        } else {
            self.rollback();
        }
        if chain {
            self.begin_if_none();
            self.transaction_mut()?.explicit = true;
        }
        done(tag)
    }

    fn in_block(&mut self, what: &str) -> Result<&mut crate::transaction::Transaction> {
        let transaction = self.transaction_mut()?;
        if !transaction.explicit {
            return Err(Error::new(
                SqlState::NoActiveSqlTransaction,
                format!("{what} can only be used in transaction blocks"),
            ));
        }
        Ok(transaction)
    }

    // ---- SET ----------------------------------------------------------------------------------------------------------

    pub(super) fn set(&mut self, set: &sql::Set) -> Result<Outcome> {
        match set {
            sql::Set::SingleAssignment { scope, variable, values, .. } => {
                let local = matches!(scope, Some(sql::ContextModifier::Local));
                self.set_variable(&variable.to_string(), values, local)?;
            }
            sql::Set::SetTimeZone { local, value } => {
                self.set_variable("timezone", std::slice::from_ref(value), *local)?;
            }
            sql::Set::SetNames { charset_name, .. } => {
                self.info.set("client_encoding", Some(&charset_name.value), false)?;
            }
            sql::Set::SetTransaction { modes, session, .. } => self.set_transaction(modes, *session)?,
            sql::Set::SetRole { role_name: None, .. } => {}
            sql::Set::SetRole { role_name: Some(role), .. } if fold(role) == self.info.user => {}
            other => return Err(Error::unsupported(format!("{other} is not supported"))),
        }
        done("SET")
    }

    fn set_transaction(&mut self, modes: &[sql::TransactionMode], session: bool) -> Result<()> {
        for mode in modes {
            if let sql::TransactionMode::AccessMode(access) = mode {
                let read_only = *access == sql::TransactionAccessMode::ReadOnly;
                if session {
                    let value = if read_only { "on" } else { "off" };
                    self.info.set("default_transaction_read_only", Some(value), false)?;
                } else {
                    self.transaction_mut()?.read_only = read_only;
                }
            }
        }
        Ok(())
    }

    fn set_variable(&mut self, name: &str, values: &[sql::Expr], local: bool) -> Result<()> {
        let texts: Vec<String> = values.iter().map(setting_text).collect::<Result<_>>()?;
        if local && !self.transaction()?.explicit {
            self.warning("25P01", "SET LOCAL can only be used in transaction blocks");
            return Ok(());
        }
        let default = matches!(values, [sql::Expr::Identifier(i)] if i.quote_style.is_none() && i.value.eq_ignore_ascii_case("default"));
        let value = texts.join(", ");
        self.info.set(name, (!default).then_some(value.as_str()), local)?;
        if name.eq_ignore_ascii_case("transaction_read_only") {
            let read_only = self.info.setting("transaction_read_only").as_deref() == Some("on");
            self.transaction_mut()?.read_only = read_only;
        }
        Ok(())
    }

    pub(super) fn reset(&mut self, reset: &sql::ResetStatement) -> Result<Outcome> {
        match &reset.reset {
            sql::Reset::ALL => self.info.reset_all(),
            sql::Reset::ConfigurationParameter(name) => {
                self.info.set(&name.to_string(), None, false)?;
            }
        }
        done("RESET")
    }

    pub(super) fn discard(&mut self, what: &sql::DiscardObject) -> Result<Outcome> {
        match what {
            sql::DiscardObject::ALL => {
                if self.transaction()?.explicit {
                    return Err(Error::new(
                        SqlState::ActiveSqlTransaction,
                        "DISCARD ALL cannot run inside a transaction block",
                    ));
                }
                self.info.reset_all();
                self.info.forget_numbers();
                self.prepared.clear();
                self.cursors.close_all();
                self.tell_cursors();
                self.drop_temporary()?;
                done("DISCARD ALL")
            }
            sql::DiscardObject::PLANS => done("DISCARD PLANS"),
            sql::DiscardObject::SEQUENCES => {
                self.info.forget_numbers();
                done("DISCARD SEQUENCES")
            }
            sql::DiscardObject::TEMP => {
                self.drop_temporary()?;
                done("DISCARD TEMP")
            }
        }
    }

    // ---- PREPARE ------------------------------------------------------------------------------------------------------

    pub(super) fn prepare(
        &mut self,
        name: &sql::Ident,
        types: &[sql::DataType],
        statement: &sql::Statement,
    ) -> Result<Outcome> {
        let name = fold(name);
        if self.prepared.contains_key(&name) {
            return Err(Error::new(
                SqlState::DuplicatePreparedStatement,
                format!("prepared statement \"{name}\" already exists"),
            ));
        }
        let parameters = types.iter().map(grammar::types::sql_type).collect::<Result<Vec<_>>>()?;
        let text = statement.to_string();
        let statement = Parsed { statement: Statement::Sql(Box::new(statement.clone())), text, offset: 0 };
        // Names and types are checked now, as everything is again when it is run.
        self.describe_statement(&statement, &given(&parameters))?;
        self.prepared.insert(name, Prepared { statement, parameters });
        done("PREPARE")
    }

    pub(super) async fn execute_prepared(
        &mut self,
        name: Option<&sql::ObjectName>,
        arguments: &[sql::Expr],
    ) -> Result<Outcome> {
        let name = name.map(|n| n.to_string().trim_matches('"').to_lowercase()).unwrap_or_default();
        let prepared = self.prepared.get(&name).cloned().ok_or_else(|| missing(&name))?;
        self.find_remote(&prepared.statement.statement).await?;
        let described = self.describe_statement(&prepared.statement, &given(&prepared.parameters))?;
        if described.parameters.len() != arguments.len() {
            return Err(Error::syntax(format!("wrong number of parameters for prepared statement \"{name}\""))
                .with_detail(format!(
                    "Expected {} parameters but got {}.",
                    described.parameters.len(),
                    arguments.len()
                )));
        }
        let mut values: Vec<ScalarValue> = Vec::with_capacity(arguments.len());
        for (argument, sql_type) in arguments.iter().zip(&described.parameters) {
            values.push(self.constant(argument, sql_type).await?);
        }
        Box::pin(self.run(&prepared.statement, &values)).await
    }

    pub(super) fn deallocate(&mut self, name: &sql::Ident) -> Result<Outcome> {
        let folded = fold(name);
        if folded == "all" && name.quote_style.is_none() {
            self.prepared.clear();
            return done("DEALLOCATE ALL");
        }
        match self.prepared.remove(&folded) {
            Some(_) => done("DEALLOCATE"),
            None => Ok(Outcome::Deallocate(folded)),
        }
    }
}

fn missing(name: &str) -> Error {
    Error::new(SqlState::UndefinedPreparedStatement, format!("prepared statement \"{name}\" does not exist"))
}

fn given(types: &[SqlType]) -> Vec<Option<SqlType>> {
    types.iter().cloned().map(Some).collect()
}

/// What stands to the right of SET x =.
fn setting_text(value: &sql::Expr) -> Result<String> {
    Ok(match value {
        sql::Expr::Value(v) => match &v.value {
            sql::Value::SingleQuotedString(s) | sql::Value::DoubleQuotedString(s) => s.clone(),
            sql::Value::Boolean(b) => if *b { "on" } else { "off" }.into(),
            other => other.to_string(),
        },
        sql::Expr::Identifier(i) => match i.quote_style {
            Some(_) => format!("\"{}\"", i.value),
            None => i.value.clone(),
        },
        sql::Expr::UnaryOp { op: sql::UnaryOperator::Minus, expr } => format!("-{}", setting_text(expr)?),
        sql::Expr::Interval(i) => i.value.to_string().trim_matches('\'').to_string(),
        other => other.to_string(),
    })
}
