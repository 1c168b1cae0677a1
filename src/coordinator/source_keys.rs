//! PRIMARY KEY of a source: its rows are put and deleted by it.

use datafusion::arrow::datatypes::Schema;
use datafusion::sql::sqlparser::ast as sql;
use tidemark_catalog::Column;
use tidemark_common::types::SqlType;
use tidemark_common::{Error, Result, SqlState};
use tidemark_connectors::KEY_METADATA;
use tidemark_sql::ast::CreateSource;

use crate::session::fold;

/// The only constraint that a column of a source can have; its columns are never NULL anyway.
pub(super) fn is_key(option: &sql::ColumnOptionDef) -> bool {
    matches!(option.option, sql::ColumnOption::PrimaryKey(_))
}

/// Positions of the key among `names`: the declared columns, then those of INCLUDE. Empty: there is none.
pub(super) fn primary_key(create: &CreateSource, names: &[&str]) -> Result<Vec<usize>> {
    let mut keys: Vec<Vec<String>> = Vec::new();
    for column in create.columns.iter().filter(|column| column.options.iter().any(is_key)) {
        keys.push(vec![fold(&column.name)]);
    }
    for constraint in &create.constraints {
        match constraint {
            sql::TableConstraint::PrimaryKey(key) => {
                let name = |column: &sql::IndexColumn| match &column.column.expr {
                    sql::Expr::Identifier(ident) => Ok(fold(ident)),
                    other => Err(Error::syntax(format!("a key is of columns, not of {other}"))),
                };
                keys.push(key.columns.iter().map(name).collect::<Result<_>>()?);
            }
            other => {
                return Err(Error::unsupported(format!("{other} on a source is not supported"))
                    .with_hint("A source can have a PRIMARY KEY."));
            }
        }
    }
    if keys.len() > 1 {
        let message = format!("multiple primary keys for source \"{}\" are not allowed", create.name);
        return Err(Error::new(SqlState::InvalidTableDefinition, message));
    }
    let mut positions = Vec::new();
    for name in keys.into_iter().flatten() {
        let at = names.iter().position(|known| *known == name).ok_or_else(|| {
            Error::new(SqlState::UndefinedColumn, format!("column \"{name}\" named in key does not exist"))
        })?;
        if positions.contains(&at) {
            let message = format!("column \"{name}\" appears twice in primary key constraint");
            return Err(Error::new(SqlState::DuplicateColumn, message));
        }
        positions.push(at);
    }
    Ok(positions)
}

/// The key that came with the columns, where these were taken from the data.
pub(super) fn found(schema: &Schema) -> Result<Vec<usize>> {
    let positions = schema.metadata().get(KEY_METADATA).map(String::as_str).unwrap_or_default();
    let position =
        |text: &str| text.parse().map_err(|_| Error::internal(format!("\"{text}\" is no position of a key")));
    positions.split(',').filter(|text| !text.is_empty()).map(position).collect()
}

pub(super) fn check_types(columns: &[Column], key: &[usize]) -> Result<()> {
    match key.iter().map(|at| &columns[*at]).find(|column| column.sql_type == SqlType::Json) {
        None => Ok(()),
        Some(column) => Err(Error::new(
            SqlState::UndefinedObject,
            format!("data type json of column \"{}\" cannot be a key", column.name),
        )
        .with_hint("Use jsonb, whose values have one form.")),
    }
}

/// Event time and age are for rows that only come.
pub(super) fn rows_that_change() -> Error {
    Error::unsupported("a source with a PRIMARY KEY has neither WATERMARK nor ttl: its rows change and go").with_hint(
        "TUMBLE and the others work over it without; for results that are final, leave the PRIMARY KEY out and read the records as they come.",
    )
}
