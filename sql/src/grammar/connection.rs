//! `CREATE CONNECTION name WITH (type = .., ..)`

use datafusion::sql::sqlparser::tokenizer::Token;
use tidemark_common::Result;

use super::cursor::Cursor;
use super::options;
use crate::ast::CreateConnection;

const HINT: &str = "Write CREATE CONNECTION name WITH (type = 'postgres', host = .., database = .., user = ..).";

/// After `CREATE [OR REPLACE] CONNECTION`.
pub(super) fn create(c: &mut Cursor, or_replace: bool) -> Result<CreateConnection> {
    let if_not_exists = c.accept(&["IF", "NOT", "EXISTS"]);
    let name = c.object_name()?;
    if !c.accept(&["WITH"]) || *c.peek(0) != Token::LParen {
        return Err(c.unexpected("WITH (...)").with_hint(HINT));
    }
    let (options, secrets) = options::with_secrets(c)?;
    c.expect_end()?;
    Ok(CreateConnection { or_replace, if_not_exists, name, options, secrets })
}
