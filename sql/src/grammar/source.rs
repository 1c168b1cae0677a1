//! `CREATE SOURCE name (columns) INCLUDE .. WITH (..) FORMAT .. ENCODE ..`, and `CREATE TABLE name (columns) FROM source TABLE '..'`

use datafusion::sql::sqlparser::tokenizer::Token;
use tidemark_common::{Error, Result};

use super::cursor::Cursor;
use super::options;
use crate::ast::{CreateSource, Include, ReplayDeadLetters, Watermark};

/// After `REPLAY DEAD LETTERS`.
pub(super) fn replay(c: &mut Cursor) -> Result<ReplayDeadLetters> {
    let force = c.accept(&["FORCE"]);
    if !c.accept(&["FROM"]) {
        return Err(c.unexpected("FROM").with_hint("Write REPLAY DEAD LETTERS FROM source WHERE ..;"));
    }
    let source = c.object_name()?;
    let selection = match c.accept(&["WHERE"]) {
        true => Some(Box::new(c.parse(|p| p.parse_expr())?)),
        false => None,
    };
    c.expect_end()?;
    Ok(ReplayDeadLetters { source, force, selection })
}

/// After `CREATE [OR REPLACE] SOURCE`.
pub(super) fn create(c: &mut Cursor, or_replace: bool) -> Result<CreateSource> {
    let if_not_exists = c.accept(&["IF", "NOT", "EXISTS"]);
    let name = c.object_name()?;
    let mut source = CreateSource {
        or_replace,
        if_not_exists,
        name,
        columns: vec![],
        paths: vec![],
        columns_from_data: false,
        constraints: vec![],
        from: None,
        watermark: None,
        include: vec![],
        options: vec![],
        secrets: vec![],
        format: None,
    };
    if *c.peek(0) == Token::LParen && *c.peek(2) != Token::Eq {
        column_list(c, &mut source)?;
    }
    if c.accept(&["FROM"]) {
        c.accept(&["SOURCE"]);
        let of = c.object_name()?;
        c.expect(&["TABLE"])?;
        source.from = Some((of, c.string()?));
        c.expect_end()?;
        return Ok(source);
    }
    let mut with = false;
    loop {
        let position = c.position();
        if c.accept(&["INCLUDE"]) {
            source.include.extend(includes(c)?);
        } else if c.accept(&["WITH"]) {
            if std::mem::replace(&mut with, true) {
                return Err(Error::syntax("WITH is given twice").with_position(position));
            }
            (source.options, source.secrets) = options::with_secrets(c)?;
        } else if let Some(format) = options::format(c)? {
            if source.format.replace(format).is_some() {
                return Err(Error::syntax("FORMAT is given twice").with_position(position));
            }
        } else {
            break;
        }
    }
    finish(c, with, "SOURCE")?;
    Ok(source)
}

/// Whether `CREATE TABLE` is that of a source: `name [(columns)] FROM source TABLE '..'`. After TABLE.
pub(super) fn is_table_of_source(c: &Cursor) -> bool {
    let mut ahead = c.within(c.at(), c.end());
    ahead.accept(&["IF", "NOT", "EXISTS"]);
    if ahead.object_name().is_err() {
        return false;
    }
    let mut depth = 0;
    while *ahead.peek(0) == Token::LParen || depth > 0 {
        match ahead.peek(0) {
            Token::LParen => depth += 1,
            Token::RParen => depth -= 1,
            _ if ahead.is_at_end() => return false,
            _ => {}
        }
        ahead.advance();
        if depth == 0 {
            break;
        }
    }
    ahead.is(&["FROM"])
}

/// Nothing may follow, and WITH must have been there.
pub(super) fn finish(c: &Cursor, with: bool, kind: &str) -> Result<()> {
    let hint = || match kind {
        "SOURCE" => "Say where the rows come from, for example WITH (connector = 'datagen').",
        _ => "Say where the rows go, for example WITH (connector = 'blackhole').",
    };
    match c.expect_end() {
        Err(error) if !with && *c.peek(0) == Token::LParen => {
            Err(error.with_hint(format!("WITH is missing before the options. {}", hint())))
        }
        Err(error) => Err(error),
        Ok(()) if !with => Err(c.unexpected("WITH (...)").with_hint(hint())),
        Ok(()) => Ok(()),
    }
}

fn column_list(c: &mut Cursor, source: &mut CreateSource) -> Result<()> {
    c.expect_token(&Token::LParen)?;
    loop {
        let position = c.position();
        if c.accept_token(&Token::Mul) {
            source.columns_from_data = true;
        } else if c.is(&["WATERMARK"]) && (c.is(&["WATERMARK", "FOR"]) || c.is(&["WATERMARK", "ON"])) {
            if source.watermark.replace(watermark(c)?).is_some() {
                return Err(Error::unsupported("a source can have one watermark").with_position(position));
            }
        } else if let Some(constraint) = c.parse(|p| p.parse_optional_table_constraint())? {
            source.constraints.push(constraint);
        } else {
            source.columns.push(c.parse(|p| p.parse_column_def())?);
            if c.accept(&["FROM"]) {
                source.paths.push((source.columns.len() - 1, c.string()?));
            }
        }
        if !c.accept_token(&Token::Comma) {
            break;
        }
    }
    if !c.accept_token(&Token::RParen) {
        return Err(c.unexpected("\",\" or \")\""));
    }
    Ok(())
}

fn watermark(c: &mut Cursor) -> Result<Watermark> {
    c.expect(&["WATERMARK"])?;
    if !c.accept(&["FOR"]) {
        return Err(c.unexpected("FOR").with_hint("Write WATERMARK FOR ts AS ts - INTERVAL '5 seconds'."));
    }
    let column = c.ident()?;
    if !c.accept(&["AS"]) {
        return Err(c
            .unexpected("AS")
            .with_hint(format!("Write WATERMARK FOR {column} AS {column} - INTERVAL '5 seconds'.")));
    }
    Ok(Watermark { column, expr: c.parse(|p| p.parse_expr())? })
}

/// `offset, partition AS p`; INCLUDE may stand before each.
fn includes(c: &mut Cursor) -> Result<Vec<Include>> {
    c.comma_separated(|c| {
        c.accept(&["INCLUDE"]);
        let what = c.ident()?.value.to_lowercase();
        let alias = if c.accept(&["AS"]) { Some(c.ident()?) } else { None };
        Ok(Include { what, alias })
    })
}
