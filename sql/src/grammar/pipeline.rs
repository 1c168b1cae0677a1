//! `CREATE PIPELINE name INTO table, .. [SCHEDULE ..] [AFTER ..] [ON SUCCESS ..] [WITH (..)] AS query`, and RUN.

use datafusion::sql::sqlparser::ast::SetExpr;
use datafusion::sql::sqlparser::tokenizer::Token;
use tidemark_common::{Error, Result};

use super::cursor::Cursor;
use super::interval;
use super::options;
use super::view::query;
use crate::ast::{CreatePipeline, PipelineTrigger, RunPipeline, ShowRuns};

const HINT: &str = "Write CREATE PIPELINE name INTO table SCHEDULE '0 * * * *' WITH (...) AS SELECT ...; \
                    EVERY INTERVAL '5 minutes', MANUAL or AFTER pipeline may stand for the schedule.";

/// After `CREATE [OR REPLACE] PIPELINE`.
pub(super) fn create(c: &mut Cursor, or_replace: bool) -> Result<CreatePipeline> {
    let if_not_exists = c.accept(&["IF", "NOT", "EXISTS"]);
    let name = c.object_name()?;
    if !c.accept(&["INTO"]) {
        return Err(c.unexpected("INTO").with_hint(HINT));
    }
    let targets = c.comma_separated(Cursor::object_name)?;
    let mut clauses = Clauses::default();
    while clauses.next(c)? {}
    if !c.accept(&["AS"]) {
        return Err(c.unexpected("AS").with_hint(HINT));
    }
    let (query, query_text) = query(&c.within(c.at(), c.end()))?;
    if matches!(*query.body, SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_) | SetExpr::Merge(_)) {
        return Err(Error::syntax("a pipeline needs a query, which gives the rows that it loads")
            .with_hint("Write AS SELECT ..: the INSERT is the pipeline's own."));
    }
    *c = c.within(c.end(), c.end());
    let (options, secrets) = clauses.with.unwrap_or_default();
    Ok(CreatePipeline {
        or_replace,
        if_not_exists,
        name,
        targets,
        trigger: clauses.trigger,
        after: clauses.after.unwrap_or_default(),
        on_success: clauses.on_success,
        on_failure: clauses.on_failure,
        options,
        secrets,
        query,
        query_text,
    })
}

/// What stands between the targets and AS, in any order.
#[derive(Default)]
struct Clauses {
    trigger: Option<PipelineTrigger>,
    after: Option<Vec<datafusion::sql::sqlparser::ast::ObjectName>>,
    on_success: Vec<String>,
    on_failure: Vec<String>,
    with: Option<(crate::ast::WithOptions, crate::ast::SecretOptions)>,
}

impl Clauses {
    /// Reads one clause, if there is another.
    fn next(&mut self, c: &mut Cursor) -> Result<bool> {
        let position = c.position();
        let twice = |what: &str| Err(Error::syntax(format!("{what} is given twice")).with_position(position));
        if let Some(trigger) = trigger(c)? {
            if self.trigger.replace(trigger).is_some() {
                return Err(Error::syntax("a pipeline has one schedule")
                    .with_position(position)
                    .with_hint("SCHEDULE, EVERY, MANUAL and CONTINUOUS exclude one another."));
            }
        } else if c.accept(&["AFTER"]) {
            if self.after.replace(c.comma_separated(Cursor::object_name)?).is_some() {
                return twice("AFTER");
            }
        } else if c.accept(&["ON", "SUCCESS"]) {
            self.on_success.extend(steps(c)?);
        } else if c.accept(&["ON", "FAILURE"]) {
            self.on_failure.extend(steps(c)?);
        } else if c.is(&["WITH"]) && *c.peek(1) == Token::LParen {
            c.advance();
            if self.with.replace(options::with_secrets(c)?).is_some() {
                return twice("WITH");
            }
        } else {
            return Ok(false);
        }
        Ok(true)
    }
}

fn trigger(c: &mut Cursor) -> Result<Option<PipelineTrigger>> {
    if c.accept(&["MANUAL"]) {
        return Ok(Some(PipelineTrigger::Manual));
    }
    if c.accept(&["CONTINUOUS"]) {
        return Ok(Some(PipelineTrigger::Continuous));
    }
    if c.accept(&["SCHEDULE"]) {
        let pattern =
            c.string().map_err(|e| e.with_hint("Write SCHEDULE '0 * * * *': minute hour day month weekday."))?;
        let zone = match c.accept(&["TIME", "ZONE"]) || c.accept(&["AT", "TIME", "ZONE"]) {
            true => Some(c.string()?),
            false => None,
        };
        return Ok(Some(PipelineTrigger::Schedule { pattern, zone }));
    }
    if !c.accept(&["EVERY"]) {
        return Ok(None);
    }
    let every = interval::every(c, "The first of each month is SCHEDULE '0 0 1 * *'.")?;
    if every.micros < 1_000_000 {
        return Err(every
            .refused("EVERY takes an interval of one second or more")
            .with_hint("A pipeline over a stream is CONTINUOUS."));
    }
    Ok(Some(PipelineTrigger::Every(every.micros)))
}

/// `'sql'`, `$$ sql $$`, several with commas.
fn steps(c: &mut Cursor) -> Result<Vec<String>> {
    let step = |c: &mut Cursor| {
        let position = c.position();
        let text =
            c.string().map_err(|e| e.with_hint("Write the statements as a string: ON SUCCESS $$ INSERT .. $$."))?;
        super::parse_script(&text).map_err(|e| {
            let place = e.position();
            let e = e.context("in a step of the pipeline").with_position(position);
            match place {
                Some(place) => e.with_detail(format!("At character {place} of the step.")),
                None => e,
            }
        })?;
        Ok(text)
    };
    c.comma_separated(step)
}

/// After `RUN` or `DRY RUN`.
pub(super) fn run(c: &mut Cursor, dry: bool) -> Result<RunPipeline> {
    c.expect(&["PIPELINE"])?;
    let name = c.object_name()?;
    let full_refresh = c.accept(&["WITH", "FULL", "REFRESH"]) || c.accept(&["FULL", "REFRESH"]);
    c.expect_end()?;
    Ok(RunPipeline { name, full_refresh, dry })
}

/// After `SHOW RUNS`.
pub(super) fn show_runs(c: &mut Cursor) -> Result<ShowRuns> {
    let pipeline = match c.accept_one_of(&["FOR", "OF", "FROM"]) {
        Some(_) => {
            c.accept(&["PIPELINE"]);
            Some(c.object_name()?)
        }
        None => None,
    };
    let limit = match c.accept(&["LIMIT"]) {
        true => match c.peek(0) {
            Token::Number(digits, _) => {
                let limit = digits.parse().map_err(|_| c.unexpected("a whole number"))?;
                c.advance();
                Some(limit)
            }
            _ => return Err(c.unexpected("a whole number")),
        },
        false => None,
    };
    c.expect_end()?;
    Ok(ShowRuns { pipeline, limit })
}
