//! NORMALIZE in CREATE TABLE and ADD COLUMN, and what it keeps ALTER TABLE from.

use datafusion::sql::sqlparser::ast as sql;
use tidemark_catalog::{Column, Object, quote_ident};
use tidemark_common::normalize::Normalize;
use tidemark_common::values::Style;
use tidemark_common::{Error, Result, SqlState};
use tidemark_connectors::load::Normalization;
use tidemark_sql::grammar;

use super::alter::names_column;
use crate::session::{Normalizer, Session};

/// The clause, for a column that has none yet.
pub(super) fn set(column: &mut Column, clause: &[sql::SqlOption]) -> Result<()> {
    if column.normalize.is_some() {
        let message = format!("column \"{}\" has NORMALIZE twice", column.name);
        return Err(Error::new(SqlState::InvalidTableDefinition, message));
    }
    let normalize = grammar::normalize::of(clause)?;
    // What does not fit is refused before anything else is looked at.
    Normalization::compile(&column.name, &column.sql_type, &normalize)?;
    column.normalize = Some(normalize);
    Ok(())
}

/// What rows that are there hold in a column that is added.
pub(super) fn value_when_added(column: &Column) -> Result<String> {
    let default = column.normalize.as_ref().and_then(Normalize::default);
    match (&column.default, &column.normalize) {
        (_, Some(normalize)) if normalize.derived().is_some() => {
            Err(Error::unsupported(format!("a derived column, \"{}\", cannot be added", column.name))
                .with_hint("Make a table with it, and load it from this one."))
        }
        (Some(default), _) => Ok(default.clone()),
        (None, _) => Ok(match default {
            Some(text) => format!("CAST('{}' AS {})", text.replace('\'', "''"), column.sql_type),
            None => "NULL".into(),
        }),
    }
}

impl Session {
    /// The steps make sense now, not at the first INSERT.
    pub(super) fn check_normalized(&self, table: &str, columns: &[Column]) -> Result<()> {
        let derived = |column: &&Column| column.normalize.as_ref().is_some_and(|n| n.derived().is_some());
        if let Some(column) = columns.iter().filter(derived).find(|c| c.default.is_some() || c.identity.is_some()) {
            let message = format!("column \"{}\" is derived, and cannot have a DEFAULT", column.name);
            return Err(Error::new(SqlState::InvalidTableDefinition, message));
        }
        let names = self.names_for_ddl()?;
        let env = &self.database().environment;
        match Normalizer::plan(table, columns, &names, env, Style::default())? {
            Some(normalizer) => normalizer.check(),
            None => Ok(()),
        }
    }

    /// A column that others are derived from keeps its name and type, and one that is normalised its type.
    pub(super) fn refuse_if_normalized(
        &self,
        object: &Object,
        name: &str,
        operation: &sql::AlterTableOperation,
    ) -> Result<()> {
        use sql::{AlterColumnOperation as Change, AlterTableOperation as Op};
        let retyped = matches!(operation, Op::AlterColumn { op: Change::SetDataType { .. }, .. });
        if !retyped && matches!(operation, Op::AlterColumn { .. }) {
            return Ok(());
        }
        let quoted = quote_ident(name);
        let derives = |column: &&Column| {
            let expr = column.normalize.as_ref().and_then(Normalize::derived);
            expr.is_some_and(|expr| names_column(expr, &quoted))
        };
        let hint = "Make a table with other columns, and load it from this one.";
        if let Some(column) = object.columns().iter().find(derives) {
            let message = format!("column \"{}\" of \"{}\" is derived from \"{name}\"", column.name, object.name);
            return Err(Error::new(SqlState::DependentObjectsStillExist, message).with_hint(hint));
        }
        if retyped && object.columns().iter().any(|c| c.name == name && c.normalize.is_some()) {
            let message = format!("column \"{name}\" of \"{}\" is normalised, and keeps its type", object.name);
            return Err(Error::new(SqlState::DependentObjectsStillExist, message).with_hint(hint));
        }
        Ok(())
    }
}
