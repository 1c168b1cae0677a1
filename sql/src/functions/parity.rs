//! Every expression of `parity.txt`, compared with what PostgreSQL 15 answered.
//!
//! A line is `expression  ==>  PostgreSQL's answer`, followed by `  ~~>  ours` where we answer something else. Numbers are compared
//! without trailing zeros, errors by SQLSTATE. `UPDATE_EXPECT=1` rewrites our side.

use std::sync::Arc;

use datafusion::execution::SessionStateBuilder;
use datafusion::prelude::{SessionConfig, SessionContext};
use tidemark_common::types::SqlType;
use tidemark_common::{Error, Result};

use super::session::tests::StillSession;
use crate::ast::Statement;
use crate::grammar;

/// A context as a session has it.
pub(super) fn context() -> SessionContext {
    let mut config = SessionConfig::new().with_target_partitions(1);
    config.options_mut().sql_parser.parse_float_as_decimal = true;
    config.options_mut().execution.time_zone = Some("UTC".into());
    let state = SessionStateBuilder::new()
        .with_config(config)
        .with_default_features()
        .with_expr_planners(super::expr_planners())
        .build();
    let context = SessionContext::new_with_state(state);
    super::register(&mut *context.state_ref().write()).expect("functions register");
    for function in super::session_functions(Arc::new(StillSession::default())) {
        context.register_udf(function);
    }
    context
}

/// The text of the one value of `SELECT expression`.
pub(super) async fn evaluate(context: &SessionContext, expression: &str) -> Result<String> {
    let parsed = grammar::parse_one(&format!("SELECT ({expression})"))?;
    let Statement::Sql(mut statement) = parsed.statement else {
        return Err(Error::syntax("not a query"));
    };
    grammar::windows::rewrite(statement.as_mut())?;
    grammar::casts::rewrite(statement.as_mut())?;
    let plan = context.state().statement_to_plan(datafusion::sql::parser::Statement::Statement(statement)).await?;
    let batches = context.execute_logical_plan(plan).await?.collect().await?;
    let batch = batches.iter().find(|b| b.num_rows() == 1).ok_or_else(|| Error::internal("not one row"))?;
    let sql_type = SqlType::from_field(batch.schema().field(0));
    let text = super::text_of(batch.column(0), 0, &sql_type)?;
    Ok(match (text.as_deref(), sql_type) {
        (None, _) => "<null>".into(),
        (Some("t"), SqlType::Boolean) => "true".into(),
        (Some("f"), SqlType::Boolean) => "false".into(),
        (Some(text), SqlType::Char(_)) => text.trim_end().into(),
        (Some(text), _) => text.replace('\\', "\\\\").replace('\n', "\\n"),
    })
}

fn without_zeros(number: &str) -> &str {
    if number.contains('.') { number.trim_end_matches('0').trim_end_matches('.') } else { number }
}

fn agree(theirs: &str, ours: &str) -> bool {
    let code = |answer: &str| answer.strip_prefix("ERROR ").map(|rest| rest[..5].to_string());
    match (code(theirs), code(ours)) {
        (Some(theirs), Some(ours)) => theirs == ours,
        (None, None) if theirs.parse::<f64>().is_ok() => without_zeros(theirs) == without_zeros(ours),
        (None, None) => theirs == ours,
        _ => false,
    }
}

#[tokio::test]
async fn expressions_as_postgres_answers_them() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/functions/parity.txt");
    let recorded = std::fs::read_to_string(path).unwrap();
    let context = context();
    let mut actual = String::new();
    for line in recorded.lines() {
        let Some((expression, answers)) = line.split_once("  ==>  ") else {
            actual.push_str(&format!("{line}\n"));
            continue;
        };
        let theirs = answers.split_once("  ~~>  ").map_or(answers, |(theirs, _)| theirs);
        let ours = match evaluate(&context, expression).await {
            Ok(text) => text,
            Err(e) => format!("ERROR {}", e.code()),
        };
        actual.push_str(&format!("{expression}  ==>  {theirs}"));
        if !agree(theirs, &ours) {
            actual.push_str(&format!("  ~~>  {ours}"));
        }
        actual.push('\n');
    }
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(path, &actual).unwrap();
        return;
    }
    for (recorded, actual) in recorded.lines().zip(actual.lines()) {
        assert_eq!(recorded, actual, "run with UPDATE_EXPECT=1 if the change is meant");
    }
}
