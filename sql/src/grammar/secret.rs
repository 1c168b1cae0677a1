//! `CREATE SECRET name AS 'value' | FROM ENV 'NAME' | FROM FILE 'path'`, and `ALTER SECRET` with another value.
//!
//! The value stands in the statement's text, which is logged and shown in system tables: [`without_value`] gives the text that
//! goes there, and an error does not repeat it either.

use datafusion::sql::sqlparser::tokenizer::Token;
use tidemark_common::{Hidden, Result};

use super::cursor::{Cursor, is_word};
use super::tokens::Tokens;
use crate::ast::{AlterSecret, CreateSecret, SecretFrom};

/// What stands in a value's place.
pub(super) const STARS: &str = "'***'";

const HINT: &str = "Write AS 'value', FROM ENV 'NAME', or FROM FILE 'path'.";

/// After `CREATE [OR REPLACE] SECRET`.
pub(super) fn create(c: &mut Cursor, or_replace: bool) -> Result<CreateSecret> {
    let if_not_exists = c.accept(&["IF", "NOT", "EXISTS"]);
    let name = c.object_name()?;
    Ok(CreateSecret { or_replace, if_not_exists, name, from: from(c)? })
}

/// After `ALTER`; `None` if what follows is no new value of a secret.
pub(super) fn alter(c: &mut Cursor) -> Result<Option<AlterSecret>> {
    let mut ahead = c.within(c.at(), c.end());
    if !ahead.accept(&["SECRET"]) {
        return Ok(None);
    }
    let if_exists = ahead.accept(&["IF", "EXISTS"]);
    let name = ahead.object_name()?;
    if !ahead.is(&["AS"]) && !ahead.is(&["FROM"]) && !matches!(ahead.peek(0), Token::SingleQuotedString(_)) {
        return Ok(None);
    }
    Ok(Some(AlterSecret { if_exists, name, from: from(&mut ahead)? }))
}

fn from(c: &mut Cursor) -> Result<SecretFrom> {
    let from = if c.accept(&["AS"]) {
        SecretFrom::Literal(Hidden::new(c.string()?))
    } else if c.accept(&["FROM", "ENV"]) {
        SecretFrom::Env(c.string()?)
    } else if c.accept(&["FROM", "FILE"]) {
        SecretFrom::File(c.string()?)
    } else {
        return Err(c.unexpected("AS or FROM").with_hint(HINT));
    };
    c.expect_end()?;
    Ok(from)
}

/// Index of the first token behind the name, if the statement, or one within it (EXPLAIN), gives a secret its value.
fn behind_name(tokens: &Tokens) -> Option<usize> {
    let word = |index: usize, word: &str| tokens.list.get(index).is_some_and(|t| is_word(&t.token, word));
    let words = |from: usize, words: &[&str]| words.iter().enumerate().all(|(i, w)| word(from + i, w));
    let after_kind = |start: usize| match (word(start, "CREATE"), word(start, "ALTER")) {
        (true, _) if words(start + 1, &["OR", "REPLACE", "SECRET"]) => Some(start + 4),
        (true, _) | (_, true) => word(start + 1, "SECRET").then_some(start + 2),
        _ => None,
    };
    let at = (0..tokens.list.len()).find_map(after_kind)?;
    let condition = match at {
        at if words(at, &["IF", "NOT", "EXISTS"]) => 3,
        at if words(at, &["IF", "EXISTS"]) => 2,
        _ => 0,
    };
    Some(at + condition + 1)
}

/// Whether the token may be the value that the statement gives to a secret, in the right place or not.
pub(super) fn may_be_value(tokens: &Tokens, index: usize) -> bool {
    let Some(behind) = behind_name(tokens) else { return false };
    let is_name = tokens.list.get(index).is_some_and(|t| matches!(t.token, Token::Word(_)));
    index >= behind || !is_name
}

/// The statement's text with stars for the value; `None` if it has none.
pub(super) fn without_value(tokens: &Tokens) -> Option<String> {
    let behind = behind_name(tokens)?;
    let value = (behind..tokens.list.len()).find(|i| is_word(&tokens.list[*i].token, "AS"))? + 1;
    Some(format!("{} {STARS}", tokens.slice(0, value)))
}
