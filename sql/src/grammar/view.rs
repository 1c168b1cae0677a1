//! `CREATE MATERIALIZED VIEW name AS query EMIT ..`, and the queries inside the other statements of ours.
//!
//! What stands after a query (`EMIT`, `WITH NO DATA`, a sink's `WITH (..)`) is found from the end of the statement, so that
//! the query itself is `sqlparser`'s alone.

use datafusion::sql::sqlparser::ast::Query;
use datafusion::sql::sqlparser::tokenizer::Token;
use tidemark_common::{Error, Result};

use super::cursor::{Cursor, is_word};
use super::{balance, error, interval, options, reserved};
use crate::ast::{CreateMaterializedView, Emit};

/// After `CREATE [OR REPLACE] MATERIALIZED VIEW`.
pub(super) fn create(c: &mut Cursor, or_replace: bool) -> Result<CreateMaterializedView> {
    let if_not_exists = c.accept(&["IF", "NOT", "EXISTS"]);
    let name = c.object_name()?;
    let columns = if c.accept_token(&Token::LParen) {
        let columns = c.comma_separated(Cursor::ident)?;
        c.expect_token(&Token::RParen)?;
        columns
    } else {
        vec![]
    };
    let options = if c.accept(&["WITH"]) { options::parenthesized(c)? } else { vec![] };
    if !c.accept(&["AS"]) {
        return Err(c.unexpected("AS").with_hint("Write CREATE MATERIALIZED VIEW name AS SELECT ..."));
    }
    let tail = Tail::of(c)?;
    let (query, query_text) = query(&c.within(c.at(), tail.start))?;
    Ok(CreateMaterializedView {
        or_replace,
        if_not_exists,
        name,
        columns,
        options,
        query,
        query_text,
        emit: tail.emit.unwrap_or_default(),
        with_no_data: tail.no_data.unwrap_or(false),
    })
}

/// The query that the whole of `c` is, and its text as typed.
pub(super) fn query(c: &Cursor) -> Result<(Box<Query>, String)> {
    let mut inner = c.within(c.at(), c.end());
    let query = inner.parse(|p| p.parse_query())?;
    inner.expect_end()?;
    let query = balance::query(query);
    if let Some(location) = reserved::first(query.as_ref()) {
        return Err(error::unexpected_at(c.tokens, location));
    }
    Ok((query, c.tokens.slice(c.at(), c.end()).to_string()))
}

/// What may follow a view's query, in any order.
pub(super) struct Tail {
    /// Index of its first token.
    pub start: usize,
    pub emit: Option<Emit>,
    no_data: Option<bool>,
}

impl Tail {
    pub fn of(c: &Cursor) -> Result<Self> {
        let mut tail = Tail { start: c.end(), emit: None, no_data: None };
        loop {
            let ends_in = |words: &[&str]| {
                let from = tail.start.checked_sub(words.len()).filter(|from| *from > c.at());
                from.is_some_and(|from| c.within(from, tail.start).is(words))
            };
            let (words, emit, no_data) = if ends_in(&["EMIT", "CHANGES"]) {
                (2, Some(Emit::Changes), None)
            } else if ends_in(&["EMIT", "ON", "WINDOW", "CLOSE"]) {
                (4, Some(Emit::OnWindowClose), None)
            } else if ends_in(&["WITH", "NO", "DATA"]) {
                (3, None, Some(true))
            } else if ends_in(&["WITH", "DATA"]) {
                (2, None, Some(false))
            } else if let Some((words, every)) = tail.every(c)? {
                (words, Some(Emit::ChangesEvery(every)), None)
            } else {
                return tail.check(c);
            };
            tail.start -= words;
            let twice = (emit.is_some() && tail.emit.is_some()) || (no_data.is_some() && tail.no_data.is_some());
            if twice {
                let first = c.within(tail.start, c.end());
                return Err(Error::syntax("conflicting or redundant options").with_position(first.position()));
            }
            tail.emit = tail.emit.or(emit);
            tail.no_data = tail.no_data.or(no_data);
        }
    }

    /// `EMIT CHANGES EVERY INTERVAL '10 seconds'`: how many tokens, and microseconds.
    fn every(&self, c: &Cursor) -> Result<Option<(usize, i64)>> {
        for words in 4..=6 {
            let Some(from) = self.start.checked_sub(words).filter(|from| *from > c.at()) else { continue };
            let mut inner = c.within(from, self.start);
            if !inner.accept(&["EMIT", "CHANGES", "EVERY"]) {
                continue;
            }
            let every = interval::every(&mut inner, "The month is a window of its own: use it in GROUP BY.")?;
            inner.expect_end()?;
            if every.micros <= 0 {
                return Err(every.refused("EVERY takes an interval above zero"));
            }
            return Ok(Some((words, every.micros)));
        }
        Ok(None)
    }

    /// EMIT followed by something else is a slip, not an alias.
    fn check(self, c: &Cursor) -> Result<Self> {
        let last =
            |back: usize| self.start.checked_sub(back).filter(|i| *i > c.at()).map(|i| (i, &c.tokens.list[i].token));
        for back in 1..=4 {
            if let Some((index, token)) = last(back)
                && is_word(token, "EMIT")
                && !matches!(c.tokens.list[index - 1].token, Token::Period | Token::Comma)
                && !is_word(&c.tokens.list[index - 1].token, "AS")
                && index + 1 < self.start
            {
                return Err(c.within(index + 1, c.end()).unexpected("CHANGES or ON WINDOW CLOSE").with_hint(
                    "Write EMIT CHANGES, EMIT CHANGES EVERY INTERVAL '10 seconds' or EMIT ON WINDOW CLOSE.",
                ));
            }
        }
        Ok(self)
    }
}
