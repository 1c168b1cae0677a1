//! Postgres' dialect with what Tidemark adds to it, as hooks into `sqlparser`.
//!
//! - `TABLE t` as an argument (of a window function) becomes [`Expr::Prefixed`], which prints as it was typed.
//! - Words that are functions only before `(` are names elsewhere: a column may be called `interval` or `position`.
//! - `NORMALIZE (..)` is an option of a column ([`super::normalize`]).
//! - A budget bounds the work: the parser tries alternatives and goes back, which in nested input can
//!   multiply with each level.

use std::any::TypeId;
use std::sync::atomic::{AtomicUsize, Ordering};

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, ColumnOption, Expr, Function, FunctionArguments, Ident, ObjectName, Statement,
};
use datafusion::sql::sqlparser::dialect::{Dialect, PostgreSqlDialect, Precedence};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Token, Word};

const POSTGRES: PostgreSqlDialect = PostgreSqlDialect {};

/// Expressions begun for each token; ordinary statements need fewer than three.
const WORK_PER_TOKEN: usize = 50;
const LEAST_WORK: usize = 10_000;

/// The dialect for one statement.
#[derive(Debug)]
pub(super) struct TidemarkDialect {
    budget: AtomicUsize,
}

impl TidemarkDialect {
    pub fn for_tokens(tokens: usize) -> Self {
        Self { budget: AtomicUsize::new(LEAST_WORK + tokens * WORK_PER_TOKEN) }
    }

    fn spend(&self) -> Result<(), ParserError> {
        let left = self.budget.load(Ordering::Relaxed);
        self.budget.store(left.saturating_sub(1), Ordering::Relaxed);
        if left == 0 { Err(ParserError::RecursionLimitExceeded) } else { Ok(()) }
    }
}

/// Answers that are Postgres' own.
macro_rules! as_postgres {
    ($($name:ident),* $(,)?) => { $(fn $name(&self) -> bool { POSTGRES.$name() })* };
}

/// What Postgres has not and DataFusion can plan.
macro_rules! yes {
    ($($name:ident),* $(,)?) => { $(fn $name(&self) -> bool { true })* };
}

impl Dialect for TidemarkDialect {
    /// `sqlparser` asks for the dialect by type in places: there we are Postgres.
    fn dialect(&self) -> TypeId {
        TypeId::of::<PostgreSqlDialect>()
    }

    fn identifier_quote_style(&self, identifier: &str) -> Option<char> {
        POSTGRES.identifier_quote_style(identifier)
    }

    fn is_delimited_identifier_start(&self, ch: char) -> bool {
        POSTGRES.is_delimited_identifier_start(ch)
    }

    fn is_identifier_start(&self, ch: char) -> bool {
        POSTGRES.is_identifier_start(ch)
    }

    fn is_identifier_part(&self, ch: char) -> bool {
        POSTGRES.is_identifier_part(ch)
    }

    fn is_custom_operator_part(&self, ch: char) -> bool {
        POSTGRES.is_custom_operator_part(ch)
    }

    fn get_next_precedence(&self, parser: &Parser) -> Option<Result<u8, ParserError>> {
        // `t PARTITION BY k` as an argument: a table, by columns.
        let [first, second] = parser.peek_tokens_ref();
        if is_keyword(&first.token, Keyword::PARTITION) && is_keyword(&second.token, Keyword::BY) {
            return Some(Ok(self.prec_value(Precedence::Or)));
        }
        POSTGRES.get_next_precedence(parser)
    }

    fn prec_value(&self, prec: Precedence) -> u8 {
        POSTGRES.prec_value(prec)
    }

    as_postgres!(
        supports_unicode_string_literal,
        supports_filter_during_aggregation,
        supports_group_by_expr,
        allow_extract_custom,
        allow_extract_single_quotes,
        supports_create_index_with_clause,
        supports_explain_with_utility_options,
        supports_listen_notify,
        supports_factorial_operator,
        supports_bitwise_shift_operators,
        supports_comment_on,
        supports_load_extension,
        supports_empty_projections,
        supports_nested_comments,
        supports_string_escape_constant,
        supports_numeric_literal_underscores,
        supports_array_typedef_with_brackets,
        supports_set_names,
        supports_alter_column_type_using,
        supports_notnull_operator,
        supports_interval_options,
        supports_insert_table_alias,
        supports_create_table_like_parenthesized,
        supports_select_wildcard_with_alias,
        supports_comma_separated_trim,
        supports_geometric_types,
    );

    yes!(
        supports_select_wildcard_exclude,
        supports_select_wildcard_replace,
        supports_order_by_all,
        supports_struct_literal,
        support_map_literal_syntax,
        supports_map_literal_with_angle_brackets,
        supports_named_fn_args_with_assignment_operator,
    );

    /// Reserved here means: when the word's own grammar fails, that is the error, and it is not tried again as a name.
    fn is_reserved_for_identifier(&self, kw: Keyword) -> bool {
        CALLED.contains(&kw)
            || matches!(
                kw,
                Keyword::CASE | Keyword::NOT | Keyword::ARRAY | Keyword::EXISTS | Keyword::INTERVAL | Keyword::STRUCT
            )
    }

    fn parse_prefix(&self, parser: &mut Parser) -> Option<Result<Expr, ParserError>> {
        if let Err(e) = self.spend() {
            return Some(Err(e));
        }
        let [first, second] = parser.peek_tokens_ref();
        let Token::Word(word @ Word { quote_style: None, keyword, .. }) = &first.token else { return None };
        let name = word.to_ident(first.span);
        let called = second.token == Token::LParen;
        match keyword {
            kw if CLAUSES.contains(kw) => Some(parser.expected("an expression", parser.peek_token())),
            Keyword::TABLE if is_argument(parser) => Some(parse_table_argument(parser, name)),
            Keyword::INTERVAL if !is_literal(&second.token) => Some(parse_name_or_call(parser, name)),
            Keyword::STRUCT if !called && second.token != Token::Lt => Some(parse_name_or_call(parser, name)),
            Keyword::CONVERT => Some(parse_name_or_call(parser, name)),
            Keyword::CURRENT_ROLE | Keyword::CURRENT_SCHEMA if !called => {
                parser.next_token();
                Some(Ok(function_without_parentheses(name)))
            }
            kw if !called && CALLED.contains(kw) => Some(parse_name_or_call(parser, name)),
            _ => None,
        }
    }

    fn parse_infix(&self, parser: &mut Parser, expr: &Expr, _precedence: u8) -> Option<Result<Expr, ParserError>> {
        if parser.parse_keywords(&[Keyword::PARTITION, Keyword::BY]) {
            return Some(parse_partitioned(parser, expr.clone()));
        }
        if parser.parse_keywords(&[Keyword::BETWEEN, Keyword::SYMMETRIC]) {
            return Some(self.parse_symmetric(parser, expr, false));
        }
        if parser.parse_keywords(&[Keyword::NOT, Keyword::BETWEEN, Keyword::SYMMETRIC]) {
            return Some(self.parse_symmetric(parser, expr, true));
        }
        // sqlparser takes all that follows for the operand, AND and OR too.
        if parser.parse_keywords(&[Keyword::IS, Keyword::DISTINCT, Keyword::FROM]) {
            let other = parser.parse_subexpr(self.prec_value(Precedence::Is));
            return Some(other.map(|other| Expr::IsDistinctFrom(Box::new(expr.clone()), Box::new(other))));
        }
        if parser.parse_keywords(&[Keyword::IS, Keyword::NOT, Keyword::DISTINCT, Keyword::FROM]) {
            let other = parser.parse_subexpr(self.prec_value(Precedence::Is));
            return Some(other.map(|other| Expr::IsNotDistinctFrom(Box::new(expr.clone()), Box::new(other))));
        }
        None
    }

    fn parse_column_option(
        &self,
        parser: &mut Parser,
    ) -> Result<Option<Result<Option<ColumnOption>, ParserError>>, ParserError> {
        Ok(super::normalize::parse(parser)?.map(|clause| Ok(Some(clause))))
    }

    fn parse_statement(&self, _parser: &mut Parser) -> Option<Result<Statement, ParserError>> {
        self.spend().err().map(Err)
    }
}

impl TidemarkDialect {
    /// `x BETWEEN SYMMETRIC a AND b` is x between the smaller and the larger of a and b.
    fn parse_symmetric(&self, parser: &mut Parser, expr: &Expr, negated: bool) -> Result<Expr, ParserError> {
        let precedence = self.prec_value(Precedence::Between);
        let first = parser.parse_subexpr(precedence)?;
        parser.expect_keyword_is(Keyword::AND)?;
        let second = parser.parse_subexpr(precedence)?;
        let between = |low: &Expr, high: &Expr| Expr::Between {
            expr: Box::new(expr.clone()),
            negated,
            low: Box::new(low.clone()),
            high: Box::new(high.clone()),
        };
        Ok(Expr::Nested(Box::new(Expr::BinaryOp {
            left: Box::new(between(&first, &second)),
            op: if negated { BinaryOperator::And } else { BinaryOperator::Or },
            right: Box::new(between(&second, &first)),
        })))
    }
}

/// Words with a grammar of their own when called.
const CALLED: [Keyword; 12] = [
    Keyword::CAST,
    Keyword::TRY_CAST,
    Keyword::SAFE_CAST,
    Keyword::CONVERT,
    Keyword::EXTRACT,
    Keyword::CEIL,
    Keyword::FLOOR,
    Keyword::POSITION,
    Keyword::SUBSTR,
    Keyword::SUBSTRING,
    Keyword::OVERLAY,
    Keyword::TRIM,
];

/// Words that end an expression's list and cannot begin an expression, though `sqlparser` takes them for names.
const CLAUSES: [Keyword; 10] = [
    Keyword::FROM,
    Keyword::WHERE,
    Keyword::GROUP,
    Keyword::ORDER,
    Keyword::HAVING,
    Keyword::UNION,
    Keyword::EXCEPT,
    Keyword::INTERSECT,
    Keyword::LIMIT,
    Keyword::INTO,
];

fn is_literal(token: &Token) -> bool {
    matches!(
        token,
        Token::SingleQuotedString(_)
            | Token::EscapedStringLiteral(_)
            | Token::DollarQuotedString(_)
            | Token::Number(..)
            | Token::Placeholder(_)
    )
}

fn is_argument(parser: &Parser) -> bool {
    matches!(parser.get_current_token().token, Token::LParen | Token::Comma | Token::RArrow | Token::Assignment)
}

fn parse_name_or_call(parser: &mut Parser, name: Ident) -> Result<Expr, ParserError> {
    parser.next_token();
    if parser.peek_token_ref().token == Token::LParen {
        parser.parse_function(ObjectName::from(vec![name]))
    } else {
        Ok(Expr::Identifier(name))
    }
}

/// `TABLE t` or `TABLE (SELECT ...)`.
fn parse_table_argument(parser: &mut Parser, word: Ident) -> Result<Expr, ParserError> {
    parser.next_token();
    let value = if parser.peek_token_ref().token == Token::LParen {
        parser.parse_expr()?
    } else {
        let mut parts = vec![parser.parse_identifier()?];
        while parser.consume_token(&Token::Period) {
            parts.push(parser.parse_identifier()?);
        }
        Expr::CompoundIdentifier(parts)
    };
    Ok(Expr::Prefixed { prefix: word, value: Box::new(value) })
}

/// Behind `t PARTITION BY`: a column, or several in brackets.
fn parse_partitioned(parser: &mut Parser, table: Expr) -> Result<Expr, ParserError> {
    let columns = match parser.consume_token(&Token::LParen) {
        true => {
            let columns = parser.parse_comma_separated(Parser::parse_expr)?;
            parser.expect_token(&Token::RParen)?;
            columns
        }
        false => vec![parser.parse_expr()?],
    };
    Ok(super::build::call(super::windows::PARTITIONED, [vec![table], columns].concat()))
}

fn is_keyword(token: &Token, keyword: Keyword) -> bool {
    matches!(token, Token::Word(word) if word.quote_style.is_none() && word.keyword == keyword)
}

/// As `sqlparser` makes CURRENT_USER.
fn function_without_parentheses(name: Ident) -> Expr {
    Expr::Function(Function {
        name: ObjectName::from(vec![name]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::None,
        filter: None,
        null_treatment: None,
        over: None,
        within_group: vec![],
    })
}
