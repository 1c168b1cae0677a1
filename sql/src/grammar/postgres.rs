//! Statements that Postgres knows: `sqlparser`'s, with the spellings it lacks.

use datafusion::sql::sqlparser::ast::Statement;
use tidemark_common::Result;

use super::cursor::Cursor;

pub(super) fn parse(c: &mut Cursor) -> Result<Statement> {
    let statement = match c.word(0).as_deref() {
        Some("TABLE") => Statement::Query(c.parse(|p| p.parse_query())?),
        _ => c.parse(|p| p.parse_statement())?,
    };
    c.expect_end()?;
    Ok(statement)
}
