//! DROP, ALTER, COMMENT and CANCEL of the objects that Postgres has not, or has otherwise.

use datafusion::sql::sqlparser::ast::{Ident, ObjectName};
use datafusion::sql::sqlparser::tokenizer::Token;
use tidemark_common::{Error, Result};

use super::cursor::Cursor;
use super::options;
use crate::ast::{Alter, AlterAction, Comment, CommentObject, Drop, ObjectType};

/// `SOURCE`, `SINK`, `MATERIALIZED VIEW`, `SECRET`, `CONNECTION`, `PIPELINE`: the kinds whose statements are all ours.
pub(super) fn own_kind(c: &mut Cursor) -> Option<ObjectType> {
    if c.accept(&["MATERIALIZED", "VIEW"]) {
        return Some(ObjectType::MaterializedView);
    }
    match c.accept_one_of(&["SOURCE", "SINK", "SECRET", "CONNECTION", "PIPELINE"])? {
        "SOURCE" => Some(ObjectType::Source),
        "SINK" => Some(ObjectType::Sink),
        "SECRET" => Some(ObjectType::Secret),
        "PIPELINE" => Some(ObjectType::Pipeline),
        _ => Some(ObjectType::Connection),
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

/// After `DROP` and one of [`own_kind`].
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

/// The kind whose ALTER is ours, if the statement after `ALTER` is one that `sqlparser` has not.
pub(super) fn altered_kind(c: &mut Cursor) -> Option<ObjectType> {
    let mut ahead = c.within(c.at(), c.end());
    let kind = any_kind(&mut ahead)?;
    let mut action = ahead.within(ahead.at(), ahead.end());
    action.accept(&["IF", "EXISTS"]);
    let known = action.object_name().is_ok()
        && match kind {
            ObjectType::MaterializedView
            | ObjectType::Source
            | ObjectType::Sink
            | ObjectType::Secret
            | ObjectType::Connection
            | ObjectType::Pipeline
            | ObjectType::Sequence => true,
            ObjectType::Table => action.is(&["SET", "SCHEMA"]),
            ObjectType::Index => action.is(&["RENAME", "TO"]),
            ObjectType::Schema => action.is(&["RENAME", "TO"]) || action.is(&["OWNER", "TO"]),
            ObjectType::View | ObjectType::Database => {
                action.is(&["RENAME"]) || action.is(&["OWNER", "TO"]) || action.is(&["SET", "SCHEMA"])
            }
            _ => false,
        };
    if known || own_kind(&mut c.within(c.at(), c.end())).is_some() {
        *c = ahead;
        return Some(kind);
    }
    None
}

/// After `ALTER kind`.
pub(super) fn alter(c: &mut Cursor, object_type: ObjectType) -> Result<Alter> {
    let if_exists = c.accept(&["IF", "EXISTS"]);
    let name = c.object_name()?;
    let action = if c.accept(&["RENAME", "TO"]) {
        AlterAction::Rename(c.ident()?)
    } else if matches!(object_type, ObjectType::View | ObjectType::MaterializedView) && c.accept(&["RENAME"]) {
        c.accept(&["COLUMN"]);
        let from = c.ident()?;
        c.expect(&["TO"])?;
        AlterAction::RenameColumn(from, c.ident()?)
    } else if c.accept(&["SET", "SCHEMA"]) {
        AlterAction::SetSchema(c.ident()?)
    } else if c.accept(&["OWNER", "TO"]) {
        AlterAction::OwnerTo(c.ident()?.value)
    } else if c.is(&["SET"]) && *c.peek(1) == Token::LParen {
        c.advance();
        let (options, secrets) = options::with_secrets(c)?;
        AlterAction::Set(options, secrets)
    } else if object_type == ObjectType::Pipeline && c.is(&["RESET"]) && *c.peek(1) != Token::LParen {
        c.advance();
        c.accept(&["WATERMARK"]);
        AlterAction::ResetWatermark
    } else if matches!(object_type, ObjectType::Connection | ObjectType::Pipeline) && c.accept(&["RESET"]) {
        AlterAction::Reset(options::keys(c)?)
    } else if c.accept(&["SET"]) {
        let (options, secrets) = options::assigned(c)?;
        AlterAction::Set(options, secrets)
    } else if c.accept(&["PAUSE"]) {
        AlterAction::Pause
    } else if c.accept(&["RESUME"]) {
        AlterAction::Resume
    } else if object_type == ObjectType::Source && c.accept(&["ADD"]) {
        c.accept(&["COLUMN"]);
        let if_not_exists = c.accept(&["IF", "NOT", "EXISTS"]);
        let column = Box::new(c.parse(|p| p.parse_column_def())?);
        let path = if c.accept(&["FROM"]) { Some(c.string()?) } else { None };
        AlterAction::AddColumn { if_not_exists, column, path }
    } else if object_type == ObjectType::Sequence && c.accept(&["RESTART"]) {
        c.accept(&["WITH"]);
        AlterAction::Restart(if c.is_at_end() { None } else { Some(whole_number(c)?) })
    } else if object_type == ObjectType::Sequence {
        return Err(Error::unsupported("ALTER SEQUENCE can only RESTART, RENAME TO, OWNER TO and SET SCHEMA")
            .with_hint("Drop the sequence and create it anew with other options.")
            .with_position(c.position()));
    } else {
        return Err(c.unexpected("RENAME TO, SET SCHEMA, OWNER TO, SET, PAUSE, RESUME or, of a source, ADD COLUMN"));
    };
    c.expect_end()?;
    Ok(Alter { object_type, if_exists, name, action })
}

fn whole_number(c: &mut Cursor) -> Result<i64> {
    let negative = c.accept_token(&Token::Minus);
    let number = match c.peek(0) {
        Token::Number(digits, _) => format!("{}{digits}", if negative { "-" } else { "" }).parse().ok(),
        _ => None,
    };
    let number = number.ok_or_else(|| c.unexpected("a whole number"))?;
    c.advance();
    Ok(number)
}

/// After `REFRESH MATERIALIZED VIEW`.
pub(super) fn refresh(c: &mut Cursor) -> Result<ObjectName> {
    c.accept(&["CONCURRENTLY"]);
    let name = c.object_name()?;
    if !c.accept(&["WITH", "DATA"]) {
        c.accept(&["WITH", "NO", "DATA"]);
    }
    c.expect_end()?;
    Ok(name)
}

/// After `VALIDATE MATERIALIZED VIEW`.
pub(super) fn validate(c: &mut Cursor) -> Result<ObjectName> {
    let name = c.object_name()?;
    c.expect_end()?;
    Ok(name)
}

/// After `CHECK CONNECTION`.
pub(super) fn check_connection(c: &mut Cursor) -> Result<ObjectName> {
    let name = c.object_name()?;
    c.expect_end()?;
    Ok(name)
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
