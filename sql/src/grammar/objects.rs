//! DROP, ALTER, COMMENT and CANCEL of the objects that Postgres has not, or has otherwise.

use datafusion::sql::sqlparser::ast::{Ident, ObjectName};
use datafusion::sql::sqlparser::tokenizer::Token;
use tidemark_common::Result;

use super::cursor::Cursor;
use super::options;
use crate::ast::{Alter, AlterAction, Comment, CommentObject, Drop, ObjectType};

/// `SOURCE`, `SINK`, `MATERIALIZED VIEW`: the kinds whose statements are all ours.
pub(super) fn own_kind(c: &mut Cursor) -> Option<ObjectType> {
    if c.accept(&["MATERIALIZED", "VIEW"]) {
        return Some(ObjectType::MaterializedView);
    }
    match c.accept_one_of(&["SOURCE", "SINK"])? {
        "SOURCE" => Some(ObjectType::Source),
        _ => Some(ObjectType::Sink),
    }
}

/// Any kind of object by its word.
pub(super) fn any_kind(c: &mut Cursor) -> Option<ObjectType> {
    const KINDS: [(&str, ObjectType); 10] = [
        ("TABLE", ObjectType::Table),
        ("VIEW", ObjectType::View),
        ("SCHEMA", ObjectType::Schema),
        ("INDEX", ObjectType::Index),
        ("SEQUENCE", ObjectType::Sequence),
        ("ROLE", ObjectType::Role),
        ("USER", ObjectType::Role),
        ("DATABASE", ObjectType::Database),
        ("FUNCTION", ObjectType::Function),
        ("TYPE", ObjectType::Type),
    ];
    if let Some(kind) = own_kind(c) {
        return Some(kind);
    }
    let (_, kind) = KINDS.iter().find(|(word, _)| c.accept(&[word]))?;
    Some(*kind)
}

/// After `DROP SOURCE | SINK | MATERIALIZED VIEW`.
pub(super) fn drop(c: &mut Cursor, object_type: ObjectType) -> Result<Drop> {
    let if_exists = c.accept(&["IF", "EXISTS"]);
    let names = c.comma_separated(Cursor::object_name)?;
    let cascade = c.accept(&["CASCADE"]);
    if !cascade {
        c.accept(&["RESTRICT"]);
    }
    c.expect_end()?;
    Ok(Drop { object_type, if_exists, names, cascade })
}

/// After `ALTER SOURCE | SINK | MATERIALIZED VIEW`.
pub(super) fn alter(c: &mut Cursor, object_type: ObjectType) -> Result<Alter> {
    let if_exists = c.accept(&["IF", "EXISTS"]);
    let name = c.object_name()?;
    let action = if c.accept(&["RENAME", "TO"]) {
        AlterAction::Rename(c.ident()?)
    } else if c.accept(&["SET", "SCHEMA"]) {
        AlterAction::SetSchema(c.ident()?)
    } else if c.accept(&["OWNER", "TO"]) {
        AlterAction::OwnerTo(c.ident()?.value)
    } else if c.is(&["SET"]) && *c.peek(1) == Token::LParen {
        c.advance();
        AlterAction::Set(options::parenthesized(c)?)
    } else if c.accept(&["PAUSE"]) {
        AlterAction::Pause
    } else if c.accept(&["RESUME"]) {
        AlterAction::Resume
    } else {
        return Err(c.unexpected("RENAME TO, SET SCHEMA, OWNER TO, SET (...), PAUSE or RESUME"));
    };
    c.expect_end()?;
    Ok(Alter { object_type, if_exists, name, action })
}

/// After `COMMENT ON`.
pub(super) fn comment(c: &mut Cursor) -> Result<Comment> {
    let object_type = if c.accept(&["COLUMN"]) {
        CommentObject::Column
    } else {
        match any_kind(c) {
            Some(kind) => CommentObject::Object(kind),
            None => return Err(c.unexpected("a kind of object, such as TABLE or COLUMN")),
        }
    };
    let name = c.object_name()?;
    // A function's argument types.
    if *c.peek(0) == Token::LParen {
        while !c.is_at_end() && !c.accept_token(&Token::RParen) {
            c.advance();
        }
    }
    c.expect(&["IS"])?;
    let comment = if c.accept(&["NULL"]) { None } else { Some(c.string()?) };
    c.expect_end()?;
    Ok(Comment { object_type, name, comment })
}

/// After `CANCEL JOB`: a number, or the name of what the job works for.
pub(super) fn cancel_job(c: &mut Cursor) -> Result<String> {
    let job = match c.peek(0) {
        Token::Number(number, _) => {
            let number = number.clone();
            c.advance();
            number
        }
        Token::Word(_) => text_of(&c.object_name()?),
        _ => c.string().map_err(|e| e.with_hint("SHOW JOBS lists the jobs and their numbers."))?,
    };
    c.expect_end()?;
    Ok(job)
}

fn text_of(name: &ObjectName) -> String {
    let parts: Vec<&Ident> = name.0.iter().filter_map(|part| part.as_ident()).collect();
    parts.iter().map(|ident| ident.value.as_str()).collect::<Vec<_>>().join(".")
}
