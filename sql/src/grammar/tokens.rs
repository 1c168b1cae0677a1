//! The tokens of one statement, and the way back from a token to the text as it was typed.

use datafusion::sql::sqlparser::tokenizer::{Location, Span, Token, TokenWithSpan, Tokenizer, Whitespace};
use tidemark_common::{Error, Result};

use super::dialect::TidemarkDialect;
use super::scan::Piece;

/// One statement: its text and its tokens without blanks and comments.
pub(super) struct Tokens<'a> {
    pub text: &'a str,
    pub list: Vec<TokenWithSpan>,
    /// Characters of the script before `text`.
    offset: usize,
    /// Byte and character at which each line of `text` starts.
    lines: Vec<(usize, usize)>,
}

impl<'a> Tokens<'a> {
    pub fn new(script: &'a str, piece: &Piece) -> Result<Self> {
        let text = &script[piece.bytes.clone()];
        let mut tokens = Self { text, list: Vec::new(), offset: piece.offset, lines: line_starts(text) };
        let mut list = Vec::new();
        Tokenizer::new(&TidemarkDialect::for_tokens(0), text).tokenize_with_location_into_buf(&mut list).map_err(
            |e| {
                Error::syntax(format!("syntax error at or near \"{}\"", tokens.snippet(e.location)))
                    .with_detail(e.message)
                    .with_position(tokens.position(e.location))
            },
        )?;
        let nameless =
            |t: &&TokenWithSpan| matches!(&t.token, Token::Word(w) if w.quote_style == Some('"') && w.value.is_empty());
        if let Some(token) = list.iter().find(nameless) {
            return Err(Error::syntax("zero-length delimited identifier at or near \"\"\"\"")
                .with_position(tokens.position(token.span.start)));
        }
        tokens.list = super::spelling::respell(without_blanks(list));
        Ok(tokens)
    }

    /// The text of the tokens `from..to`.
    pub fn slice(&self, from: usize, to: usize) -> &'a str {
        match (self.list.get(from), to.checked_sub(1).and_then(|last| self.list.get(last))) {
            (Some(first), Some(last)) if from < to => {
                self.text.get(self.byte(first.span.start)..self.byte(last.span.end)).unwrap_or_default()
            }
            _ => "",
        }
    }

    /// 1-based position in the script, in characters.
    pub fn position(&self, location: Location) -> usize {
        let line = self.lines.get((location.line as usize).saturating_sub(1));
        self.offset + line.map_or(0, |(_, character)| *character) + location.column as usize
    }

    /// Position just after the last character.
    pub fn end_position(&self) -> usize {
        self.offset + self.text.chars().count() + 1
    }

    pub fn index_at(&self, location: Location) -> Option<usize> {
        self.list.iter().position(|token| token.span.start == location)
    }

    fn byte(&self, location: Location) -> usize {
        let Some((start, _)) = self.lines.get((location.line as usize).saturating_sub(1)) else {
            return self.text.len();
        };
        let column = (location.column as usize).saturating_sub(1);
        self.text[*start..].char_indices().nth(column).map_or(self.text.len(), |(byte, _)| start + byte)
    }

    fn snippet(&self, location: Location) -> &'a str {
        let rest = &self.text[self.byte(location)..];
        rest.split_whitespace().next().unwrap_or_default()
    }
}

fn line_starts(text: &str) -> Vec<(usize, usize)> {
    let mut lines = vec![(0, 0)];
    for (character, (byte, c)) in text.char_indices().enumerate() {
        if c == '\n' {
            lines.push((byte + 1, character + 1));
        }
    }
    lines
}

/// Drops blanks and comments. String literals with a line break between them are one literal, as the standard has it.
fn without_blanks(list: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let mut kept: Vec<TokenWithSpan> = Vec::with_capacity(list.len() / 2);
    let mut line_break = false;
    for next in list {
        match next.token {
            Token::Whitespace(Whitespace::Newline | Whitespace::SingleLineComment { .. }) => line_break = true,
            Token::Whitespace(_) => {}
            Token::SingleQuotedString(ref more) if line_break && continues(kept.last_mut(), more, next.span) => {}
            _ => {
                line_break = false;
                kept.push(next);
            }
        }
    }
    kept
}

fn continues(last: Option<&mut TokenWithSpan>, more: &str, span: Span) -> bool {
    match last {
        Some(TokenWithSpan {
            token: Token::SingleQuotedString(text) | Token::EscapedStringLiteral(text),
            span: whole,
        }) => {
            text.push_str(more);
            whole.end = span.end;
            true
        }
        _ => false,
    }
}
