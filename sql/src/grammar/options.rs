//! `WITH (key = value, ...)` and `FORMAT x ENCODE y (...)`, shared by sources, sinks, views and SUBSCRIBE.

use datafusion::sql::sqlparser::ast::Ident;
use datafusion::sql::sqlparser::tokenizer::Token;
use tidemark_common::{Error, Result};

use super::cursor::Cursor;
use crate::ast::{Format, SecretOptions, WithOptions};

/// The option of a format that KEY ENCODE is.
const KEY_ENCODE: &str = "key_encode";

enum OptionValue {
    Text(String),
    /// `SECRET name`
    Secret(Ident),
}

/// `(key = value, ...)`, the opening bracket being next. Keys may be quoted, bare or dotted. No value is a secret.
pub(super) fn parenthesized(c: &mut Cursor) -> Result<WithOptions> {
    let position = c.position();
    let (options, secrets) = with_secrets(c)?;
    match secrets.first() {
        None => Ok(options),
        Some((key, _)) => {
            Err(Error::syntax(format!("option \"{key}\" cannot be a secret")).with_position(position).with_hint(
                "Options of connections, and the credentials of sources and sinks, can be: password = SECRET name.",
            ))
        }
    }
}

/// As [`parenthesized`], and which options are `SECRET name`.
pub(super) fn with_secrets(c: &mut Cursor) -> Result<(WithOptions, SecretOptions)> {
    c.expect_token(&Token::LParen)?;
    let (mut options, mut secrets) = (WithOptions::new(), SecretOptions::new());
    if c.accept_token(&Token::RParen) {
        return Ok((options, secrets));
    }
    loop {
        let position = c.position();
        let (key, value) = option(c)?;
        if options.iter().any(|(known, _)| *known == key) || secrets.iter().any(|(known, _)| *known == key) {
            return Err(Error::syntax(format!("option \"{key}\" specified more than once")).with_position(position));
        }
        match value {
            OptionValue::Text(text) => options.push((key, text)),
            OptionValue::Secret(name) => secrets.push((key, name)),
        }
        if !c.accept_token(&Token::Comma) {
            break;
        }
        // A comma after the last option is no harm.
        if *c.peek(0) == Token::RParen {
            break;
        }
    }
    c.expect_token(&Token::RParen)?;
    Ok((options, secrets))
}

/// `(key, ..)`, as after RESET.
pub(super) fn keys(c: &mut Cursor) -> Result<Vec<String>> {
    c.expect_token(&Token::LParen)?;
    let keys = c.comma_separated(key)?;
    c.expect_token(&Token::RParen)?;
    Ok(keys)
}

/// `key = value` or `key TO value`, as after SET.
pub(super) fn assigned(c: &mut Cursor) -> Result<(WithOptions, SecretOptions)> {
    let key = key(c)?;
    if !c.accept(&["TO"]) && !c.accept_token(&Token::Eq) {
        return Err(c.unexpected("\"=\" or TO"));
    }
    Ok(match value(c)? {
        OptionValue::Text(text) => (vec![(key, text)], vec![]),
        OptionValue::Secret(name) => (vec![], vec![(key, name)]),
    })
}

fn option(c: &mut Cursor) -> Result<(String, OptionValue)> {
    let key = key(c)?;
    if !c.accept_token(&Token::Eq) {
        return Err(c.unexpected("\"=\"").with_hint(format!("Options are written {key} = 'value'.")));
    }
    Ok((key, value(c)?))
}

/// Everything up to `=`: `topic`, `'topic'`, `"topic"`, `properties.bootstrap.servers`.
fn key(c: &mut Cursor) -> Result<String> {
    let mut key = String::new();
    loop {
        match c.peek(0) {
            Token::Word(word) => key.push_str(&word.value),
            Token::SingleQuotedString(text) | Token::Number(text, _) => key.push_str(text),
            _ => return Err(c.unexpected("the name of an option")),
        }
        c.advance();
        match c.peek(0) {
            Token::Period => key.push('.'),
            Token::Minus => key.push('-'),
            // `.1` in `a.1` is read as a number.
            Token::Number(text, _) if text.starts_with('.') => continue,
            _ => return Ok(key.to_lowercase()),
        }
        c.advance();
    }
}

fn value(c: &mut Cursor) -> Result<OptionValue> {
    if c.is(&["SECRET"]) && matches!(c.peek(1), Token::Word(_)) {
        c.advance();
        return Ok(OptionValue::Secret(c.ident()?));
    }
    text(c).map(OptionValue::Text)
}

fn text(c: &mut Cursor) -> Result<String> {
    if c.is(&["INTERVAL"]) {
        c.advance();
        return c.string();
    }
    let mut text = String::new();
    if c.accept_token(&Token::Minus) {
        text.push('-');
        if !matches!(c.peek(0), Token::Number(..)) {
            return Err(c.unexpected("a number"));
        }
    }
    match c.peek(0) {
        Token::Number(number, _) => text.push_str(number),
        Token::Word(word) => {
            text.push_str(&word.value);
            c.advance();
            while c.accept_token(&Token::Period) {
                text.push('.');
                text.push_str(&c.ident()?.value);
            }
            return Ok(text);
        }
        Token::Comma | Token::RParen | Token::EOF => return Err(c.unexpected("a value")),
        _ => return c.string(),
    }
    c.advance();
    Ok(text)
}

/// `FORMAT x ENCODE y [(...)] [KEY ENCODE z]`, if it is next.
pub(super) fn format(c: &mut Cursor) -> Result<Option<Format>> {
    if c.is(&["ENCODE"]) {
        return Err(c.unexpected("FORMAT").with_hint("Write FORMAT PLAIN ENCODE JSON: FORMAT comes first."));
    }
    if !c.accept(&["FORMAT"]) {
        return Ok(None);
    }
    let format = name(c, "a format", "Formats are PLAIN, UPSERT, DEBEZIUM and MAXWELL.")?;
    if !c.accept(&["ENCODE"]) {
        return Err(c
            .unexpected("ENCODE")
            .with_hint(format!("Write FORMAT {format} ENCODE JSON, or AVRO, PROTOBUF, CSV.")));
    }
    let encode = name(c, "an encoding", "Encodings are JSON, AVRO, PROTOBUF and CSV.")?;
    let mut options = if *c.peek(0) == Token::LParen { parenthesized(c)? } else { WithOptions::new() };
    if c.accept(&["KEY", "ENCODE"]) {
        let key = name(c, "an encoding", "Encodings of keys are JSON, TEXT and BYTES.")?;
        options.push((KEY_ENCODE.to_string(), key.to_lowercase()));
    }
    Ok(Some(Format { format, encode, options }))
}

fn name(c: &mut Cursor, what: &str, hint: &str) -> Result<String> {
    let word = c.word(0).ok_or_else(|| c.unexpected(what).with_hint(hint))?;
    c.advance();
    Ok(word)
}
