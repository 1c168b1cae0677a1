//! A place in a statement's tokens: matches words that `sqlparser` does not know, and lends itself to `sqlparser` for
//! the parts it does.

use datafusion::sql::sqlparser::ast::{Ident, ObjectName};
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Word};
use tidemark_common::{Error, Result};

use super::dialect::TidemarkDialect;
use super::error;
use super::tokens::Tokens;

/// Depth of `sqlparser`'s recursion; one bracket takes one to three.
const RECURSION_LIMIT: usize = 400;

/// Reads the tokens `at..end` of a statement.
pub(super) struct Cursor<'t> {
    pub tokens: &'t Tokens<'t>,
    at: usize,
    end: usize,
}

impl<'t> Cursor<'t> {
    pub fn new(tokens: &'t Tokens<'t>) -> Self {
        Self { tokens, at: 0, end: tokens.list.len() }
    }

    /// A cursor over `from..to` of the same statement.
    pub fn within(&self, from: usize, to: usize) -> Self {
        Self { tokens: self.tokens, at: from, end: to }
    }

    /// Index of the next token.
    pub fn at(&self) -> usize {
        self.at
    }

    pub fn end(&self) -> usize {
        self.end
    }

    pub fn is_at_end(&self) -> bool {
        self.at >= self.end
    }

    pub fn peek(&self, ahead: usize) -> &Token {
        match self.list().get(ahead) {
            Some(token) => &token.token,
            None => &Token::EOF,
        }
    }

    /// The word `ahead`, upper-case, if it is one and not quoted.
    pub fn word(&self, ahead: usize) -> Option<String> {
        match self.peek(ahead) {
            Token::Word(Word { value, quote_style: None, .. }) => Some(value.to_ascii_uppercase()),
            _ => None,
        }
    }

    pub fn is(&self, words: &[&str]) -> bool {
        words.iter().enumerate().all(|(i, word)| is_word(self.peek(i), word))
    }

    /// Steps over `words` if they are next.
    pub fn accept(&mut self, words: &[&str]) -> bool {
        let found = self.is(words);
        if found {
            self.at += words.len();
        }
        found
    }

    pub fn accept_one_of(&mut self, words: &[&'static str]) -> Option<&'static str> {
        let found = words.iter().find(|word| self.is(&[word]))?;
        self.at += 1;
        Some(found)
    }

    pub fn expect(&mut self, words: &[&str]) -> Result<()> {
        for word in words {
            if !self.accept(&[word]) {
                return Err(self.unexpected(word));
            }
        }
        Ok(())
    }

    pub fn accept_token(&mut self, token: &Token) -> bool {
        let found = self.peek(0) == token && !self.is_at_end();
        if found {
            self.at += 1;
        }
        found
    }

    pub fn expect_token(&mut self, token: &Token) -> Result<()> {
        if self.accept_token(token) { Ok(()) } else { Err(self.unexpected(&format!("\"{token}\""))) }
    }

    pub fn expect_end(&self) -> Result<()> {
        if self.is_at_end() { Ok(()) } else { Err(self.unexpected("end of statement")) }
    }

    pub fn advance(&mut self) {
        self.at = (self.at + 1).min(self.end);
    }

    /// The next token cannot stand here.
    pub fn unexpected(&self, expected: &str) -> Error {
        error::unexpected(self.tokens, self.at).with_detail(format!("Expected {expected}."))
    }

    /// Position of the next token in the script.
    pub fn position(&self) -> usize {
        match self.tokens.list.get(self.at) {
            Some(token) => self.tokens.position(token.span.start),
            None => self.tokens.end_position(),
        }
    }

    /// Lets `sqlparser` parse from here on; the cursor goes on where it stopped.
    pub fn parse<T>(&mut self, parse: impl FnOnce(&mut Parser) -> Result<T, ParserError>) -> Result<T> {
        let list = self.list();
        let dialect = TidemarkDialect::for_tokens(list.len());
        let mut parser =
            Parser::new(&dialect).with_recursion_limit(RECURSION_LIMIT).with_tokens_with_locations(list.to_vec());
        let parsed = parse(&mut parser);
        let stopped = self.at + parser.index().min(list.len());
        let parsed = parsed.map_err(|e| error::translate(e, self.tokens, self.end, stopped))?;
        self.at = stopped;
        Ok(parsed)
    }

    pub fn object_name(&mut self) -> Result<ObjectName> {
        let mut parts = vec![self.ident()?];
        while self.accept_token(&Token::Period) {
            parts.push(self.ident()?);
        }
        Ok(ObjectName::from(parts))
    }

    pub fn ident(&mut self) -> Result<Ident> {
        match self.list().first() {
            Some(TokenWithSpan { token: Token::Word(word), span }) => {
                let ident = word.to_ident(*span);
                self.at += 1;
                Ok(ident)
            }
            _ => Err(self.unexpected("a name")),
        }
    }

    pub fn string(&mut self) -> Result<String> {
        let text = match self.peek(0) {
            Token::SingleQuotedString(text) | Token::EscapedStringLiteral(text) | Token::UnicodeStringLiteral(text) => {
                text.clone()
            }
            Token::DollarQuotedString(text) => text.value.clone(),
            _ => return Err(self.unexpected("a string")),
        };
        self.at += 1;
        Ok(text)
    }

    pub fn comma_separated<T>(&mut self, mut parse: impl FnMut(&mut Self) -> Result<T>) -> Result<Vec<T>> {
        let mut items = vec![parse(self)?];
        while self.accept_token(&Token::Comma) {
            items.push(parse(self)?);
        }
        Ok(items)
    }

    fn list(&self) -> &'t [TokenWithSpan] {
        self.tokens.list.get(self.at..self.end).unwrap_or_default()
    }
}

pub(in crate::grammar) fn is_word(token: &Token, word: &str) -> bool {
    matches!(token, Token::Word(Word { value, quote_style: None, .. }) if value.eq_ignore_ascii_case(word))
}
