//! Statements that Postgres knows: `sqlparser`'s.

use datafusion::sql::sqlparser::ast::Statement;
use tidemark_common::Result;

use super::cursor::Cursor;
use super::{balance, error, reserved};

pub(super) fn parse(c: &mut Cursor) -> Result<Statement> {
    let statement = c.parse(|p| p.parse_statement())?;
    c.expect_end()?;
    let statement = balance::statement(statement);
    // Values of settings are words of any kind.
    if !matches!(statement, Statement::Set(_))
        && let Some(location) = reserved::first(&statement)
    {
        return Err(error::unexpected_at(c.tokens, location));
    }
    Ok(statement)
}
