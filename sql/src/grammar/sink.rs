//! `CREATE SINK name FROM relation | AS query WITH (..) FORMAT .. ENCODE ..`, and `SUBSCRIBE`.

use datafusion::sql::sqlparser::tokenizer::Token;
use tidemark_common::{Error, Result};

use super::cursor::{Cursor, is_word};
use super::view::{Tail, query};
use super::{options, source};
use crate::ast::{CreateSink, SinkFrom, Subscribe, SubscribeFrom};

/// After `CREATE [OR REPLACE] SINK`.
pub(super) fn create(c: &mut Cursor, or_replace: bool) -> Result<CreateSink> {
    let if_not_exists = c.accept(&["IF", "NOT", "EXISTS"]);
    let name = c.object_name()?;
    let from = if c.accept(&["FROM"]) {
        SinkFrom::Relation(c.object_name()?)
    } else if c.accept(&["AS"]) {
        let options_start = options_after_query(c);
        let tail = Tail::of(&c.within(c.at(), options_start))?;
        let (query, text) = query(&c.within(c.at(), tail.start))?;
        *c = c.within(options_start, c.end());
        SinkFrom::Query { query, text, emit: tail.emit.unwrap_or_default() }
    } else {
        return Err(c
            .unexpected("FROM or AS")
            .with_hint("Write CREATE SINK name FROM view WITH (...), or CREATE SINK name AS SELECT ... WITH (...)."));
    };
    let mut sink = CreateSink { or_replace, if_not_exists, name, from, options: vec![], secrets: vec![], format: None };
    let mut with = false;
    loop {
        let position = c.position();
        if c.accept(&["WITH"]) {
            if std::mem::replace(&mut with, true) {
                return Err(Error::syntax("WITH is given twice").with_position(position));
            }
            (sink.options, sink.secrets) = options::with_secrets(c)?;
        } else if let Some(format) = options::format(c)? {
            if sink.format.replace(format).is_some() {
                return Err(Error::syntax("FORMAT is given twice").with_position(position));
            }
        } else {
            break;
        }
    }
    source::finish(c, with, "SINK")?;
    Ok(sink)
}

/// Index of the `WITH (` that is not the query's; a query's own WITH has a name after it.
fn options_after_query(c: &Cursor) -> usize {
    let mut depth = 0usize;
    let list = &c.tokens.list;
    let mut found = c.end();
    for index in c.at()..c.end() {
        match &list[index].token {
            Token::LParen => depth += 1,
            Token::RParen => depth = depth.saturating_sub(1),
            token
                if depth == 0
                    && is_word(token, "WITH")
                    && list.get(index + 1).is_some_and(|next| next.token == Token::LParen) =>
            {
                found = index;
            }
            _ => {}
        }
    }
    found
}

/// After `SUBSCRIBE`.
pub(super) fn subscribe(c: &mut Cursor) -> Result<Subscribe> {
    const HINT: &str =
        "Write SUBSCRIBE name, or SUBSCRIBE (SELECT ...), then WITH (snapshot = false) for changes only.";
    c.accept(&["TO"]);
    let options_start = options_after_query(c);
    let inner = c.within(c.at(), options_start);
    let from = match inner.word(0).as_deref() {
        Some("SELECT" | "WITH" | "VALUES") => {
            let (query, text) = query(&inner)?;
            SubscribeFrom::Query { query, text }
        }
        _ if *inner.peek(0) == Token::LParen => {
            let (query, text) = query(&inner)?;
            SubscribeFrom::Query { query, text: unwrapped(&text) }
        }
        _ => {
            let mut inner = inner;
            inner.accept(&["TABLE"]);
            let name = inner.object_name().map_err(|e| e.with_hint(HINT))?;
            inner.expect_end().map_err(|e| e.with_hint(HINT))?;
            SubscribeFrom::Relation(name)
        }
    };
    *c = c.within(options_start, c.end());
    let options = if c.accept(&["WITH"]) { options::parenthesized(c)? } else { vec![] };
    c.expect_end().map_err(|e| e.with_hint(HINT))?;
    Ok(Subscribe { from, options })
}

/// `(SELECT ..)` without the brackets, if they are one pair around all of it.
fn unwrapped(text: &str) -> String {
    let inner = text.strip_prefix('(').and_then(|t| t.strip_suffix(')'));
    match inner {
        Some(inner) if super::parse_one(inner).is_ok() => inner.trim().to_string(),
        _ => text.to_string(),
    }
}
