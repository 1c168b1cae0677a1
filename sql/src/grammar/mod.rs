//! Text to statements.
//!
//! ```text
//!   script ──scan──▶ pieces ──tokens, spelling──▶ tokens ──┬── source, view, sink, objects, show ──▶ ast::Parsed
//!                                                          └── postgres (sqlparser), balance ───────▶
//!
//!   then, on the query of a statement, before it is planned:
//!   windows  TUMBLE / HOP in FROM ──▶ plain SQL          casts  ::uuid, ::varchar(n), INTERVAL ..  ──▶ function calls
//!   types    text[] in DDL ──▶ SqlType                           literals  '{}' beside ARRAY[1], 1e3  ──▶ typed
//! ```
//!
//! `sqlparser` does expressions, queries and all of Postgres' statements; what it does not know is matched word by word here,
//! and lends it the cursor for the parts it does.
//!
//! Architecture invariant: nothing here looks anything up. Whether a name exists is for the planner to say.

mod balance;
pub(crate) mod build;
pub mod casts;
mod connection;
mod cursor;
mod declare;
mod dialect;
mod error;
pub mod forms;
pub mod interval;
pub mod literals;
pub mod normalize;
mod objects;
mod options;
mod pipeline;
mod postgres;
mod reserved;
mod row_functions;
mod scan;
mod secret;
mod show;
mod sink;
mod source;
mod spelling;
mod tokens;
pub mod types;
mod view;
pub mod windows;

use datafusion::sql::sqlparser::tokenizer::Token;
use tidemark_common::{Error, Result};

use self::cursor::Cursor;
use self::scan::Piece;
pub use self::scan::{MAX_CHAIN, MAX_CONDITIONS, MAX_NESTING, MAX_TOKENS};
use self::tokens::Tokens;
use crate::ast::{Parsed, Statement};

/// All statements of a script. Empty ones are left out, so the list may be empty.
pub fn parse_script(sql: &str) -> Result<Vec<Parsed>> {
    scan::split(sql)?.iter().map(|piece| parse_piece(sql, piece)).collect()
}

/// The one statement of `sql`, or [`Statement::Empty`].
pub fn parse_one(sql: &str) -> Result<Parsed> {
    let pieces = scan::split(sql)?;
    match pieces.as_slice() {
        [] => Ok(Parsed { statement: Statement::Empty, text: String::new(), offset: 0 }),
        [piece] => parse_piece(sql, piece),
        [_, second, ..] => {
            Err(Error::syntax("cannot insert multiple commands into a prepared statement")
                .with_position(second.offset + 1))
        }
    }
}

/// Above this, the chain of conditions is a tree too deep for an ordinary stack until [`balance`] has been at it.
const CONDITIONS_ON_OWN_STACK: usize = 500;
const DEEP_STACK: usize = 256 << 20;

fn parse_piece(script: &str, piece: &Piece) -> Result<Parsed> {
    if piece.conditions <= CONDITIONS_ON_OWN_STACK {
        return parse_on_this_stack(script, piece);
    }
    let parse = || parse_on_this_stack(script, piece);
    let parsed = std::thread::scope(|scope| {
        let thread =
            std::thread::Builder::new().name("parse".into()).stack_size(DEEP_STACK).spawn_scoped(scope, parse)?;
        Ok::<_, std::io::Error>(thread.join())
    })?;
    parsed.map_err(|_| Error::internal("the parser panicked"))?
}

fn parse_on_this_stack(script: &str, piece: &Piece) -> Result<Parsed> {
    let tokens = Tokens::new(script, piece)?;
    let statement = statement(&mut Cursor::new(&tokens))?;
    let text = secret::without_value(&tokens).unwrap_or_else(|| tokens.text.to_string());
    Ok(Parsed { statement, text, offset: piece.offset })
}

/// The statement that all of the cursor's tokens make.
fn statement(c: &mut Cursor) -> Result<Statement> {
    if let Some(statement) = own(c)? {
        return Ok(statement);
    }
    Ok(Statement::Sql(Box::new(postgres::parse(c)?)))
}

/// `COPY (SUBSCRIBE ..) TO STDOUT [options]`: the options are read as those of a query's COPY.
fn copy_subscribe(c: &mut Cursor) -> Result<Statement> {
    let open = c.at() + 1;
    let mut depth = 0;
    let close = (open..c.end()).find(|i| {
        match c.peek(i - c.at()) {
            Token::LParen => depth += 1,
            Token::RParen => depth -= 1,
            _ => {}
        }
        depth == 0
    });
    let Some(close) = close else { return Err(c.unexpected("\")\"")) };
    let mut inside = c.within(open + 1, close);
    inside.expect(&["SUBSCRIBE"])?;
    let subscribe = sink::subscribe(&mut inside)?;
    let copy = format!("COPY (SELECT 1) {}", c.tokens.slice(close + 1, c.end()));
    match parse_one(&copy)?.statement {
        Statement::Sql(copy) => {
            while !c.is_at_end() {
                c.advance();
            }
            Ok(Statement::CopySubscribe { subscribe, copy })
        }
        _ => Err(Error::internal("a COPY that is none")),
    }
}

/// Upkeep that Postgres asks for and that happens here by itself, and constraints, which are always immediate.
const NO_OPS: [&str; 6] = ["VACUUM", "ANALYZE", "CHECKPOINT", "REINDEX", "CLUSTER", "SET CONSTRAINTS"];

/// Tidemark's own statements, known by their first words.
fn own(c: &mut Cursor) -> Result<Option<Statement>> {
    let mut ahead = c.within(c.at(), c.end());
    let statement = if ahead.accept(&["CREATE"]) {
        let or_replace = ahead.accept(&["OR", "REPLACE"]);
        if ahead.is(&["TABLE"]) && source::is_table_of_source(&after_word(&ahead)) {
            ahead.advance();
            let table = source::create(&mut ahead, or_replace)?;
            return Ok(Some(Statement::CreateSource(table)));
        }
        match objects::own_kind(&mut ahead) {
            Some(kind) => create(&mut ahead, kind, or_replace)?,
            None => return Ok(None),
        }
    } else if ahead.accept(&["DROP"]) {
        match objects::own_kind(&mut ahead) {
            Some(kind) => Statement::Drop(objects::drop(&mut ahead, kind)?),
            None => return Ok(None),
        }
    } else if ahead.accept(&["ALTER"]) {
        if let Some(alter) = secret::alter(&mut ahead)? {
            return Ok(Some(Statement::AlterSecret(alter)));
        }
        match objects::altered_kind(&mut ahead) {
            Some(kind) => Statement::Alter(objects::alter(&mut ahead, kind)?),
            None => return Ok(None),
        }
    } else if ahead.accept(&["SUBSCRIBE"]) {
        Statement::Subscribe(sink::subscribe(&mut ahead)?)
    } else if ahead.is(&["COPY"]) && *ahead.peek(1) == Token::LParen && ahead.word(2).as_deref() == Some("SUBSCRIBE") {
        copy_subscribe(&mut ahead)?
    } else if ahead.accept(&["DECLARE"]) {
        Statement::Declare(declare::declare(&mut ahead)?)
    } else if let Some(verb) = ahead.accept_one_of(&["FETCH", "MOVE"]) {
        Statement::Fetch(declare::fetch(&mut ahead, verb == "MOVE")?)
    } else if ahead.accept(&["CLOSE"]) {
        Statement::Close(declare::close(&mut ahead)?)
    } else if ahead.accept(&["EXPLAIN"]) {
        Statement::Explain(show::explain(&mut ahead)?)
    } else if ahead.accept(&["COMMENT", "ON"]) {
        Statement::Comment(objects::comment(&mut ahead)?)
    } else if ahead.accept(&["CANCEL", "JOB"]) {
        Statement::CancelJob(objects::cancel_job(&mut ahead)?)
    } else if ahead.accept(&["CHECK", "CONNECTION"]) {
        Statement::CheckConnection(objects::check_connection(&mut ahead)?)
    } else if ahead.accept(&["REFRESH", "MATERIALIZED", "VIEW"]) {
        Statement::Refresh(objects::refresh(&mut ahead)?)
    } else if ahead.accept(&["RUN"]) {
        Statement::RunPipeline(pipeline::run(&mut ahead, false)?)
    } else if ahead.accept(&["DRY", "RUN"]) {
        Statement::RunPipeline(pipeline::run(&mut ahead, true)?)
    } else if ahead.accept(&["REPLAY", "DEAD", "LETTERS"]) {
        Statement::ReplayDeadLetters(source::replay(&mut ahead)?)
    } else if ahead.accept(&["SHOW", "RUNS"]) {
        Statement::ShowRuns(pipeline::show_runs(&mut ahead)?)
    } else if ahead.accept(&["VALIDATE", "PIPELINE"]) {
        Statement::ValidatePipeline(objects::validate(&mut ahead)?)
    } else if ahead.accept(&["VALIDATE", "MATERIALIZED", "VIEW"]) {
        Statement::Validate(objects::validate(&mut ahead)?)
    } else if let Some(tag) = NO_OPS.into_iter().find(|tag| ahead.is(&tag.split(' ').collect::<Vec<_>>())) {
        Statement::NoOp(tag)
    } else {
        return show::parse(&mut ahead);
    };
    Ok(Some(statement))
}

fn after_word<'t>(c: &Cursor<'t>) -> Cursor<'t> {
    c.within(c.at() + 1, c.end())
}

fn create(c: &mut Cursor, kind: crate::ast::ObjectType, or_replace: bool) -> Result<Statement> {
    use crate::ast::ObjectType;
    Ok(match kind {
        ObjectType::Source => Statement::CreateSource(source::create(c, or_replace)?),
        ObjectType::Sink => Statement::CreateSink(sink::create(c, or_replace)?),
        ObjectType::Secret => Statement::CreateSecret(secret::create(c, or_replace)?),
        ObjectType::Connection => Statement::CreateConnection(connection::create(c, or_replace)?),
        ObjectType::Pipeline => Statement::CreatePipeline(pipeline::create(c, or_replace)?),
        _ => Statement::CreateMaterializedView(view::create(c, or_replace)?),
    })
}
