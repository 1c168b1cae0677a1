//! What the parser refuses, said as Postgres says it.

use datafusion::sql::sqlparser::parser::ParserError;
use datafusion::sql::sqlparser::tokenizer::{Location, Token, Word};
use tidemark_common::{Error, SqlState};

use super::tokens::Tokens;

/// `end`: the index after the last token the parser could see; `stopped`: the token it had come to.
pub(super) fn translate(error: ParserError, tokens: &Tokens, end: usize, stopped: usize) -> Error {
    match error {
        ParserError::RecursionLimitExceeded => {
            Error::new(SqlState::ProgramLimitExceeded, "statement is nested too deeply")
                .with_hint("Split the statement, for instance with views or WITH.")
        }
        ParserError::TokenizerError(message) => Error::syntax(message),
        ParserError::ParserError(message) => {
            let (message, location) = split_location(&message);
            let at = match location {
                // Tokens have lines from 1: 0 is where the parser ran out of them.
                Some(location) if location.line == 0 => Some(end),
                Some(location) => tokens.index_at(location),
                None => None,
            };
            match (message.strip_prefix("Expected: "), at) {
                (Some(expected), at) => {
                    let expected = expected.rsplit_once(", found: ").map_or(expected, |(expected, _)| expected);
                    unexpected(tokens, at.unwrap_or(stopped)).with_detail(format!("Expected {expected}."))
                }
                (None, Some(at)) => unexpected(tokens, at).with_detail(sentence(message)),
                (None, None) => unexpected(tokens, stopped).with_detail(sentence(message)),
            }
        }
    }
}

/// The token at `index` cannot stand there.
pub(super) fn unexpected(tokens: &Tokens, index: usize) -> Error {
    let Some(token) = tokens.list.get(index) else {
        return Error::syntax("syntax error at end of input").with_position(tokens.end_position());
    };
    let position = tokens.position(token.span.start);
    if starts_session_partition(tokens, index) {
        return super::windows::session_refused().with_position(position);
    }
    let text = tokens.slice(index, index + 1);
    let near: String = text.chars().take(100).collect();
    let error = Error::syntax(format!("syntax error at or near \"{near}\"")).with_position(position);
    match misplaced_keyword(tokens, index) {
        Some(hint) => error.with_hint(hint),
        None => error,
    }
}

/// `... at Line: 1, Column: 8` -> the message and where.
fn split_location(message: &str) -> (&str, Option<Location>) {
    let found = message.rsplit_once(" at Line: ").and_then(|(head, tail)| {
        let (line, column) = tail.split_once(", Column: ")?;
        Some((head, Location { line: line.parse().ok()?, column: column.trim().parse().ok()? }))
    });
    match found {
        Some((head, location)) => (head, Some(location)),
        None => (message, None),
    }
}

fn sentence(message: &str) -> String {
    let message = message.trim_end_matches('.');
    let mut chars = message.chars();
    match chars.next() {
        Some(first) => format!("{}{}.", first.to_uppercase(), chars.as_str()),
        None => String::new(),
    }
}

fn word(tokens: &Tokens, index: usize) -> Option<String> {
    match &tokens.list.get(index)?.token {
        Token::Word(Word { value, quote_style: None, .. }) => Some(value.to_ascii_uppercase()),
        _ => None,
    }
}

/// `SESSION(t PARTITION BY ...`: known, and refused for what it is.
fn starts_session_partition(tokens: &Tokens, index: usize) -> bool {
    if word(tokens, index).as_deref() != Some("PARTITION") {
        return false;
    }
    let open = (0..index).rev().find(|i| tokens.list[*i].token == Token::LParen);
    open.and_then(|i| i.checked_sub(1)).and_then(|i| word(tokens, i)).as_deref() == Some("SESSION")
}

fn misplaced_keyword(tokens: &Tokens, index: usize) -> Option<&'static str> {
    let first = word(tokens, 0)?;
    let here = word(tokens, index)?;
    Some(match (first.as_str(), here.as_str()) {
        ("CREATE", "EMIT") => "EMIT CHANGES or EMIT ON WINDOW CLOSE stands at the end of CREATE MATERIALIZED VIEW.",
        ("SELECT" | "WITH", "EMIT") => "EMIT belongs to CREATE MATERIALIZED VIEW and CREATE SINK.",
        (_, "FORMAT" | "ENCODE") => "FORMAT .. ENCODE .. stands after WITH (...) of CREATE SOURCE or CREATE SINK.",
        (_, "WATERMARK") => "WATERMARK FOR column AS expression stands in the column list of CREATE SOURCE.",
        ("SELECT" | "WITH", "TUMBLE" | "HOP" | "SESSION" | "CUMULATE") => "Window functions stand in FROM: FROM TUMBLE(t, ts, INTERVAL '1 minute').",
        _ => return None,
    })
}
