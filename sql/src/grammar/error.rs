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
    if let Some(error) = refused(tokens, index) {
        return error.with_position(position);
    }
    let text = match super::secret::may_be_value(tokens, index) {
        true => super::secret::STARS,
        false => tokens.slice(index, index + 1),
    };
    let near: String = text.chars().take(100).collect();
    let error = Error::syntax(format!("syntax error at or near \"{near}\"")).with_position(position);
    match misplaced_keyword(tokens, index) {
        Some(hint) => error.with_hint(hint),
        None => error,
    }
}

pub(super) fn unexpected_at(tokens: &Tokens, location: Location) -> Error {
    unexpected(tokens, tokens.index_at(location).unwrap_or(tokens.list.len()))
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

/// Postgres has it, Tidemark does not: better said than called a syntax error.
fn refused(tokens: &Tokens, index: usize) -> Option<Error> {
    let first = word(tokens, 0)?;
    let here = word(tokens, index).unwrap_or_default();
    let before = index.checked_sub(1).and_then(|i| word(tokens, i)).unwrap_or_default();
    let second = word(tokens, 1).unwrap_or_default();
    let conflict = (0..index).any(|i| word(tokens, i).as_deref() == Some("CONFLICT"));
    let (what, hint) = match (first.as_str(), before.as_str(), here.as_str()) {
        ("MOVE", _, "MOVE") => ("MOVE", "Use FETCH, and leave the rows aside."),
        ("DO", _, "DO") => ("DO", "Run the statements one by one."),
        ("REASSIGN", _, "REASSIGN") | ("DROP", _, "OWNED") => {
            ("REASSIGN OWNED and DROP OWNED", "Use ALTER .. OWNER TO, or DROP, for each object.")
        }
        ("COPY", _, "MATCH") => ("HEADER MATCH", "Use HEADER: the columns' names are then left aside."),
        ("COPY", _, "ON_ERROR" | "LOG_VERBOSITY" | "REJECT_LIMIT" | "DEFAULT") => {
            ("this option of COPY", "A row that cannot be read fails the COPY.")
        }
        ("COPY", _, "WHERE") => ("COPY .. FROM with WHERE", "Load into another table, then INSERT .. SELECT .. WHERE."),
        ("CREATE", _, "NULLS") => ("UNIQUE NULLS NOT DISTINCT", "NULLs are distinct; add NOT NULL to the column."),
        ("CREATE", _, "INCLUDING" | "EXCLUDING") => (
            "LIKE with INCLUDING or EXCLUDING",
            "LIKE other INCLUDING DEFAULTS is; name the rest of what the table has.",
        ),
        ("CREATE", "AS", "EXECUTE") => ("CREATE TABLE AS EXECUTE", "Write the query itself."),
        ("CREATE", _, "RECURSIVE") => ("CREATE RECURSIVE VIEW", "Write CREATE VIEW v AS WITH RECURSIVE ..."),
        ("CREATE", _, "WITH") if second == "DATABASE" => {
            ("CREATE DATABASE with options", "Write CREATE DATABASE name.")
        }
        ("CREATE", _, "WITH")
            if word(tokens, index + 1).is_some_and(|w| ["CHECK", "LOCAL", "CASCADED"].contains(&w.as_str())) =>
        {
            ("WITH CHECK OPTION", "Views cannot be written to, so there is nothing to check.")
        }
        ("ALTER", _, "SET" | "DROP" | "RESET") if second == "TABLE" => (
            "this form of ALTER TABLE",
            "Columns can be added, dropped, renamed, and change type, default and NOT NULL.",
        ),
        ("ALTER", "ALTER", "DATABASE" | "SYSTEM" | "DEFAULT") => {
            ("this form of ALTER", "Settings are changed with SET, or in tidemark.toml.")
        }
        ("INSERT" | "WITH", _, "WHERE") if conflict => {
            ("ON CONFLICT with WHERE", "Name the columns of the primary key only.")
        }
        ("INSERT" | "WITH", _, "") if conflict && tokens.list[index].token == Token::LParen => {
            ("ON CONFLICT over an expression", "Name the columns of the primary key only.")
        }
        ("UPDATE", _, "") if tokens.list[index].token == Token::LBracket => {
            ("assignment to an element of an array", "Assign the whole array.")
        }
        ("UPDATE" | "DELETE", "CURRENT", "OF") => ("WHERE CURRENT OF", "Name the row by its primary key."),
        ("MERGE", "THEN", "DO") => ("DO NOTHING in MERGE", "Leave the clause out."),
        (_, "ROWS", "FROM") => ("ROWS FROM", "Join the functions, or use unnest with several arrays."),
        (_, _, "EXCLUDE") => ("EXCLUDE in a window frame", "Choose the frame by its start and end."),
        (_, _, "SIMILAR") => ("substring(.. SIMILAR ..)", "Use regexp_match or substring(text from pattern)."),
        (_, "VARIADIC", _) => ("VARIADIC", "Give the arguments one by one."),
        ("GRANT" | "REVOKE", "GRANT" | "REVOKE", _) if index == 1 => {
            ("membership in a role and grant options", "Grant privileges to each role.")
        }
        _ => return None,
    };
    Some(Error::unsupported(format!("{what} is not supported")).with_hint(hint))
}

fn misplaced_keyword(tokens: &Tokens, index: usize) -> Option<&'static str> {
    let first = word(tokens, 0)?;
    let here = word(tokens, index)?;
    Some(match (first.as_str(), here.as_str()) {
        ("CREATE", "EMIT") => "EMIT CHANGES or EMIT ON WINDOW CLOSE stands at the end of CREATE MATERIALIZED VIEW.",
        ("SELECT" | "WITH", "EMIT") => "EMIT belongs to CREATE MATERIALIZED VIEW and CREATE SINK.",
        (_, "FORMAT" | "ENCODE") => "FORMAT .. ENCODE .. stands after WITH (...) of CREATE SOURCE or CREATE SINK.",
        (_, "WATERMARK") => "WATERMARK FOR column AS expression stands in the column list of CREATE SOURCE.",
        ("SELECT" | "WITH", "TUMBLE" | "HOP" | "SESSION" | "CUMULATE") => {
            "Window functions stand in FROM: FROM TUMBLE(t, ts, INTERVAL '1 minute')."
        }
        _ => return None,
    })
}
