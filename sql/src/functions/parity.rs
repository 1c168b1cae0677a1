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
    let text = super::text_of(batch.column(0), 0, &sql_type, &super::Clock::UTC)?;
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

/// The text of each value of a one-column query.
async fn column(context: &SessionContext, sql: &str) -> Vec<Option<String>> {
    let parsed = grammar::parse_one(sql).unwrap();
    let Statement::Sql(mut statement) = parsed.statement else { panic!("{sql}") };
    grammar::windows::rewrite(statement.as_mut()).unwrap();
    grammar::casts::rewrite(statement.as_mut()).unwrap();
    let plan =
        context.state().statement_to_plan(datafusion::sql::parser::Statement::Statement(statement)).await.unwrap();
    let batches = context.execute_logical_plan(plan).await.unwrap().collect().await.unwrap();
    let mut out = Vec::new();
    for batch in &batches {
        let sql_type = SqlType::from_field(batch.schema().field(0));
        out.extend(
            (0..batch.num_rows())
                .map(|row| super::text_of(batch.column(0), row, &sql_type, &super::Clock::UTC).unwrap()),
        );
    }
    out
}

/// A column goes another way through a function than a constant does; both must say the same.
#[tokio::test]
async fn columns_and_constants_agree() {
    let context = context();
    let cases: [(&str, &[&str]); 12] = [
        ("upper(x) || tidemark_to_varchar(x, 2)", &["'abc'", "NULL", "'é'"]),
        ("x::uuid", &["'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'", "NULL"]),
        ("x::jsonb -> 'a' ->> 0", &["'{\"a\":[1]}'", "NULL", "'[]'"]),
        ("x::numeric", &["'1.50'", "NULL", "'-3'"]),
        ("x::timestamp", &["'2024-02-29 10:00'", "NULL", "'29 Feb 2024'"]),
        ("tidemark_tumble_start(x::timestamp, interval '1 hour')", &["'2024-02-29 10:59'", "NULL"]),
        ("tidemark_hop_starts(x::timestamptz, interval '1 hour', interval '2 hours')", &["'2024-02-29 10:59'", "NULL"]),
        ("extract(hour from x::timestamp)", &["'2024-02-29 10:59'", "NULL"]),
        ("regexp_replace(x, '(b+)', '<\\1>', 'g')", &["'abbabc'", "NULL"]),
        ("json_build_object('k', x)", &["'v'", "NULL"]),
        ("to_char(x::numeric, 'FM999.00')", &["'1.5'", "NULL"]),
        ("x::timestamp > '2024-02-29 10:00'", &["'2024-02-29 11:00'", "NULL", "'2024-02-28'"]),
    ];
    for (expression, values) in cases {
        let rows: Vec<String> = values.iter().map(|v| format!("({v})")).collect();
        let over_column =
            column(&context, &format!("SELECT {expression} FROM (VALUES {}) t(x)", rows.join(", "))).await;
        let mut over_constants = Vec::new();
        for value in values {
            let sql = format!("SELECT {}", replace_x(expression, &format!("({value}::text)")));
            over_constants.extend(column(&context, &sql).await);
        }
        assert_eq!(over_column, over_constants, "{expression}");
    }
}

/// `x` as a word of its own.
fn replace_x(expression: &str, value: &str) -> String {
    let regex = regex::Regex::new(r"\bx\b").unwrap();
    regex.replace_all(expression, regex::NoExpand(value)).into_owned()
}

#[tokio::test]
async fn types_are_told_by_the_fields() {
    let context = context();
    for (expression, sql_type) in [
        ("tidemark_to_uuid('a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11')", SqlType::Uuid),
        ("tidemark_to_varchar('abc', 2)", SqlType::Varchar(Some(2))),
        ("tidemark_assign_char('abc', 5)", SqlType::Char(5)),
        ("tidemark_to_jsonb('[1]') -> 0", SqlType::Jsonb),
        ("tidemark_to_json('[1]') -> 0", SqlType::Json),
        ("tidemark_to_numeric('1')", SqlType::Numeric(None)),
        ("current_user", SqlType::Name),
        ("date '2024-01-01' + interval '1 day'", SqlType::Timestamp),
    ] {
        let plan = context.sql(&format!("SELECT {expression}")).await.unwrap();
        assert_eq!(SqlType::from_field(plan.schema().field(0)), sql_type, "{expression}");
        let batches = plan.collect().await.unwrap();
        assert_eq!(SqlType::from_field(batches[0].schema().field(0)), sql_type, "{expression}, run");
    }
}

/// Waiting in `pg_sleep` ends when the query is dropped.
#[tokio::test]
async fn sleep_is_cancelled_with_its_query() {
    let context = context();
    let asleep = context.sql("SELECT pg_sleep(86400)").await.unwrap();
    let sleeping = tokio::spawn(asleep.collect());
    tokio::task::yield_now().await;
    sleeping.abort();
    assert!(sleeping.await.unwrap_err().is_cancelled());
    let awake = context.sql("SELECT pg_sleep(0.001)").await.unwrap().collect().await.unwrap();
    assert_eq!(awake[0].num_rows(), 1);
}
