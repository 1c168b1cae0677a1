//! SHOW of objects, DESCRIBE and EXPLAIN. SHOW of a setting is Postgres' own and left to `sqlparser`.

use datafusion::sql::sqlparser::ast::ObjectName;
use datafusion::sql::sqlparser::tokenizer::Token;
use tidemark_common::{Error, Result};

use super::cursor::Cursor;
use super::objects;
use crate::ast::{Explain, ExplainTarget, ObjectType, ShowCreate, ShowObjects, Statement};

/// The statement, if it starts with one of our SHOW or DESCRIBE forms.
pub(super) fn parse(c: &mut Cursor) -> Result<Option<Statement>> {
    if let Some(word) = c.accept_one_of(&["DESCRIBE", "DESC"]) {
        c.accept(&["TABLE"]);
        return match c.is_at_end() {
            true => Err(c.unexpected("a name").with_hint(format!("Write {word} name."))),
            false => relation(c).map(Statement::ShowColumns).map(Some),
        };
    }
    if c.is(&["SHOW", "CREATE"]) {
        c.advance();
        c.advance();
        let object_type = objects::any_kind(c);
        return Ok(Some(Statement::ShowCreate(ShowCreate { object_type, name: relation(c)? })));
    }
    if c.accept(&["SHOW", "COLUMNS", "FROM"]) || c.accept(&["SHOW", "COLUMNS", "IN"]) {
        return relation(c).map(Statement::ShowColumns).map(Some);
    }
    if c.is(&["SHOW"]) {
        return show_objects(c);
    }
    Ok(None)
}

fn relation(c: &mut Cursor) -> Result<ObjectName> {
    let name = c.object_name()?;
    c.expect_end()?;
    Ok(name)
}

fn show_objects(c: &mut Cursor) -> Result<Option<Statement>> {
    const KINDS: [(&[&str], ObjectType); 16] = [
        (&["TABLES"], ObjectType::Table),
        (&["VIEWS"], ObjectType::View),
        (&["MATERIALIZED", "VIEWS"], ObjectType::MaterializedView),
        (&["SOURCES"], ObjectType::Source),
        (&["SINKS"], ObjectType::Sink),
        (&["JOBS"], ObjectType::Job),
        (&["SECRETS"], ObjectType::Secret),
        (&["CONNECTIONS"], ObjectType::Connection),
        (&["PIPELINES"], ObjectType::Pipeline),
        (&["SCHEMAS"], ObjectType::Schema),
        (&["INDEXES"], ObjectType::Index),
        (&["SEQUENCES"], ObjectType::Sequence),
        (&["ROLES"], ObjectType::Role),
        (&["USERS"], ObjectType::Role),
        (&["DATABASES"], ObjectType::Database),
        (&["FUNCTIONS"], ObjectType::Function),
    ];
    let rest = c.within(c.at() + 1, c.end());
    let Some((words, object_type)) = KINDS.iter().find(|(words, _)| rest.is(words)) else { return Ok(None) };
    *c = c.within(c.at() + 1 + words.len(), c.end());
    let schema = if c.accept_one_of(&["FROM", "IN"]).is_some() { Some(c.ident()?) } else { None };
    let like = if c.accept(&["LIKE"]) { Some(c.string()?) } else { None };
    c.expect_end()?;
    Ok(Some(Statement::ShowObjects(ShowObjects { object_type: *object_type, schema, like })))
}

/// After `EXPLAIN`.
pub(super) fn explain(c: &mut Cursor) -> Result<Explain> {
    let (analyze, verbose) =
        if *c.peek(0) == Token::LParen && !starts_query_in_brackets(c) { explain_options(c)? } else { words(c) };
    let named = named_object(c)?;
    let target = match named {
        Some((object_type, name)) => ExplainTarget::Object(object_type, name),
        None => ExplainTarget::Statement(Box::new(explained_statement(c)?)),
    };
    Ok(Explain { analyze, verbose, target })
}

/// `EXPLAIN (SELECT 1)`: the bracket is the query's.
fn starts_query_in_brackets(c: &Cursor) -> bool {
    matches!(c.word(1).as_deref(), Some("SELECT" | "WITH" | "VALUES" | "TABLE")) || *c.peek(1) == Token::LParen
}

fn words(c: &mut Cursor) -> (bool, bool) {
    let analyze = c.accept(&["ANALYZE"]) || c.accept(&["ANALYSE"]);
    let verbose = c.accept(&["VERBOSE"]);
    (analyze, verbose)
}

fn explain_options(c: &mut Cursor) -> Result<(bool, bool)> {
    // These add figures to Postgres' output; ours shows what it has.
    const FIGURES: [&str; 10] =
        ["COSTS", "BUFFERS", "TIMING", "SUMMARY", "SETTINGS", "WAL", "MEMORY", "GENERIC_PLAN", "SERIALIZE", "IO"];
    let (mut analyze, mut verbose) = (false, false);
    c.expect_token(&Token::LParen)?;
    loop {
        let position = c.position();
        let name = c.word(0).ok_or_else(|| c.unexpected("an option of EXPLAIN"))?;
        c.advance();
        let value = match c.peek(0) {
            Token::Comma | Token::RParen => None,
            _ => Some(option_value(c)?),
        };
        let on = !matches!(value.as_deref(), Some("FALSE" | "OFF" | "0"));
        match name.as_str() {
            "ANALYZE" | "ANALYSE" => analyze = on,
            "VERBOSE" => verbose = on,
            "FORMAT" if value.as_deref() == Some("TEXT") => {}
            "FORMAT" => {
                return Err(Error::unsupported("EXPLAIN shows plans as text only")
                    .with_hint("Leave FORMAT out, or write FORMAT TEXT.")
                    .with_position(position));
            }
            name if FIGURES.contains(&name) => {}
            _ => {
                return Err(Error::syntax(format!("unrecognized EXPLAIN option \"{}\"", name.to_lowercase()))
                    .with_hint("The options are ANALYZE and VERBOSE.")
                    .with_position(position));
            }
        }
        if !c.accept_token(&Token::Comma) {
            break;
        }
    }
    c.expect_token(&Token::RParen)?;
    Ok((analyze, verbose))
}

fn option_value(c: &mut Cursor) -> Result<String> {
    let value = match c.peek(0) {
        Token::Number(number, _) => number.clone(),
        Token::Word(word) => word.value.to_ascii_uppercase(),
        _ => return c.string().map(|text| text.to_ascii_uppercase()),
    };
    c.advance();
    Ok(value)
}

/// `MATERIALIZED VIEW name` and the like. `TABLE name` is a query.
fn named_object(c: &mut Cursor) -> Result<Option<(ObjectType, ObjectName)>> {
    let object_type = match objects::own_kind(c) {
        Some(kind) => kind,
        None if c.accept(&["VIEW"]) => ObjectType::View,
        None => return Ok(None),
    };
    Ok(Some((object_type, relation(c)?)))
}

fn explained_statement(c: &mut Cursor) -> Result<Statement> {
    const EXPLAINABLE: [&str; 9] =
        ["SELECT", "WITH", "VALUES", "TABLE", "INSERT", "UPDATE", "DELETE", "CREATE", "SUBSCRIBE"];
    let in_brackets = *c.peek(0) == Token::LParen;
    if !in_brackets && !c.word(0).is_some_and(|word| EXPLAINABLE.contains(&word.as_str()) || word == "EXECUTE") {
        return Err(c
            .unexpected("a statement that has a plan")
            .with_hint("EXPLAIN takes a query, INSERT, UPDATE, DELETE, CREATE .. AS, or MATERIALIZED VIEW name."));
    }
    super::statement(&mut c.within(c.at(), c.end()))
}
