//! `NORMALIZE (step, step(..), step [..], on_failure = ..)` behind a column's type.
//!
//! ```text
//!   column TEXT NORMALIZE (trim, regex_replace('-', ''))
//!                         └── parse: the list as options of the column ──of──▶ Normalize
//! ```
//!
//! Whether the steps fit the column's type is for whoever compiles them to say.

use datafusion::sql::sqlparser::ast::{Array, ColumnOption, Expr, Ident, SqlOption, UnaryOperator, Value};
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Token, Word};
use tidemark_common::normalize::{Normalize, OnFailure, Step};
use tidemark_common::{Error, Result, SqlState, nearest};

use super::build::string_of;
use crate::ast::fold;

const ON_FAILURE: &str = "on_failure";

/// The clause, if it is next.
pub(super) fn parse(parser: &mut Parser) -> Result<Option<ColumnOption>, ParserError> {
    let [first, second] = parser.peek_tokens_ref();
    let is_clause = matches!(&first.token, Token::Word(Word { value, quote_style: None, .. })
        if value.eq_ignore_ascii_case("normalize"))
        && second.token == Token::LParen;
    if !is_clause {
        return Ok(None);
    }
    parser.next_token();
    parser.next_token();
    let mut items = Vec::new();
    if parser.peek_token_ref().token != Token::RParen {
        items = parser.parse_comma_separated(item)?;
    }
    parser.expect_token(&Token::RParen)?;
    Ok(Some(ColumnOption::Options(items)))
}

fn item(parser: &mut Parser) -> Result<SqlOption, ParserError> {
    let key = parser.parse_identifier()?;
    let value = match parser.peek_token_ref().token {
        Token::Eq => {
            parser.next_token();
            parser.parse_expr()?
        }
        Token::LParen => {
            parser.next_token();
            let args = match parser.peek_token_ref().token {
                Token::RParen => vec![],
                _ => parser.parse_comma_separated(Parser::parse_expr)?,
            };
            parser.expect_token(&Token::RParen)?;
            Expr::Tuple(args)
        }
        Token::LBracket => {
            parser.next_token();
            let elem = match parser.peek_token_ref().token {
                Token::RBracket => vec![],
                _ => parser.parse_comma_separated(Parser::parse_expr)?,
            };
            parser.expect_token(&Token::RBracket)?;
            Expr::Array(Array { elem, named: false })
        }
        _ => return Ok(SqlOption::Ident(key)),
    };
    Ok(SqlOption::KeyValue { key, value })
}

/// What a column's options say, which [`parse`] has made of the clause.
pub fn of(items: &[SqlOption]) -> Result<Normalize> {
    let mut normalize = Normalize { steps: Vec::new(), on_failure: OnFailure::default() };
    let mut failure = None;
    for item in items {
        let (key, value) = match item {
            SqlOption::Ident(key) => (key, None),
            SqlOption::KeyValue { key, value } => (key, Some(value)),
            other => return Err(Error::internal(format!("NORMALIZE has no {other}"))),
        };
        if fold(key) != ON_FAILURE {
            normalize.steps.push(step(key, value)?);
        } else if failure.replace(on_failure(value)?).is_some() {
            return Err(Error::syntax("NORMALIZE has on_failure twice"));
        }
    }
    normalize.on_failure = failure.unwrap_or_default();
    if normalize.steps.is_empty() {
        return Err(Error::syntax("NORMALIZE has no steps").with_hint(format!("Steps are {}.", Step::NAMES.join(", "))));
    }
    Ok(normalize)
}

fn on_failure(value: Option<&Expr>) -> Result<OnFailure> {
    let word = match value {
        Some(Expr::Identifier(word)) => fold(word),
        Some(Expr::Value(value)) => match &value.value {
            Value::Null => "null".into(),
            value => string_of(value).unwrap_or_default().to_lowercase(),
        },
        _ => String::new(),
    };
    match word.as_str() {
        "error" => Ok(OnFailure::Error),
        "null" => Ok(OnFailure::Null),
        "default" => Ok(OnFailure::Default),
        _ => Err(Error::invalid("on_failure of NORMALIZE must be null, default or error")
            .with_hint("For example NORMALIZE (parse_int, on_failure = null).")),
    }
}

fn step(key: &Ident, value: Option<&Expr>) -> Result<Step> {
    let name = fold(key);
    if !Step::NAMES.contains(&name.as_str()) {
        return Err(unknown(&name));
    }
    let given = Given::of(value)?;
    let plain = |step: Step| match &given {
        Given::Nothing => Ok(step),
        _ => Err(Error::syntax(format!("step {name} of NORMALIZE takes no arguments"))),
    };
    match name.as_str() {
        "trim" => plain(Step::Trim),
        "lower" => plain(Step::Lower),
        "upper" => plain(Step::Upper),
        "empty_to_null" => plain(Step::EmptyToNull),
        "collapse_spaces" => plain(Step::CollapseSpaces),
        "email" => plain(Step::Email),
        "parse_int" => plain(Step::ParseInt),
        "parse_numeric" => plain(Step::ParseNumeric),
        "parse_date" => given.formats(&name).map(Step::ParseDate),
        "parse_timestamp" => given.formats(&name).map(Step::ParseTimestamp),
        "derive" => match given {
            Given::Arguments([expr]) => Ok(Step::Derive(expr.to_string())),
            _ => Err(Error::syntax("step derive of NORMALIZE takes one expression")
                .with_hint("For example derive(split_part(email, '@', 2)).")),
        },
        "default" => match given {
            Given::Arguments([value]) if literal(value).is_some() => {
                Ok(Step::Default(literal(value).expect("it was one just now")))
            }
            _ => Err(Error::syntax("step default of NORMALIZE takes one literal")
                .with_hint("For example default(0) or default('none'); what is computed is derive(expression).")),
        },
        "regex_replace" => match given {
            Given::Arguments([pattern, by]) if text(pattern).is_some() && text(by).is_some() => {
                Ok(Step::RegexReplace(text(pattern).expect("it is text").into(), text(by).expect("it is text").into()))
            }
            _ => Err(Error::syntax("step regex_replace of NORMALIZE takes a pattern and what to put for it")
                .with_hint("For example regex_replace('[^0-9]', '').")),
        },
        _ => Err(Error::internal(format!("step {name} of NORMALIZE is not read"))),
    }
}

fn unknown(name: &str) -> Error {
    let error = Error::new(SqlState::UndefinedObject, format!("NORMALIZE has no step \"{name}\""));
    match nearest(name, Step::NAMES.into_iter().chain([ON_FAILURE])) {
        Some(near) => error.with_hint(format!("Perhaps you meant \"{near}\".")),
        None => error.with_hint(format!("Steps are {}.", Step::NAMES.join(", "))),
    }
}

enum Given<'a> {
    Nothing,
    /// `(a, b)`
    Arguments(&'a [Expr]),
    /// `['a', 'b']`
    List(&'a [Expr]),
}

impl<'a> Given<'a> {
    fn of(value: Option<&'a Expr>) -> Result<Self> {
        match value {
            None => Ok(Given::Nothing),
            Some(Expr::Tuple(args)) => Ok(Given::Arguments(args)),
            Some(Expr::Array(list)) => Ok(Given::List(&list.elem)),
            Some(_) => {
                Err(Error::syntax("a step of NORMALIZE is no option").with_hint("The one option is on_failure."))
            }
        }
    }

    fn formats(&self, name: &str) -> Result<Vec<String>> {
        let wrong = || {
            Error::syntax(format!("the formats of step {name} are a list of texts"))
                .with_hint(format!("For example {name} ['YYYY-MM-DD', 'DD.MM.YYYY']."))
        };
        match self {
            Given::Nothing => Ok(Vec::new()),
            Given::List(list) if !list.is_empty() => {
                list.iter().map(|format| text(format).map(str::to_string).ok_or_else(wrong)).collect()
            }
            _ => Err(wrong()),
        }
    }
}

fn text(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Value(value) => string_of(&value.value),
        _ => None,
    }
}

/// The text of a literal that is not NULL.
fn literal(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Value(value) => match &value.value {
            Value::Number(digits, _) => Some(digits.clone()),
            Value::Boolean(is) => Some(is.to_string()),
            other => string_of(other).map(str::to_string),
        },
        Expr::UnaryOp { op: UnaryOperator::Minus, expr } => match expr.as_ref() {
            Expr::Value(value) => match &value.value {
                Value::Number(digits, _) => Some(format!("-{digits}")),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    }
}
