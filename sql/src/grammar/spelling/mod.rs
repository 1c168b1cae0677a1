//! Postgres' spellings that `sqlparser` does not read, turned into ones it does, token by token.
//!
//! ```text
//!   TABLE t                        ──▶  SELECT * FROM t              ABORT              ──▶  ROLLBACK
//!   integer ARRAY[4]               ──▶  integer[4]                   FETCH c            ──▶  FETCH NEXT FROM c
//!   INTERVAL(3) '1 s'              ──▶  INTERVAL '1 s' SECOND(3)     CREATE USER a      ──▶  CREATE ROLE a LOGIN
//!   a ASOF JOIN b ON c             ──▶  a JOIN b ON tidemark_asof() AND c
//!   trim(leading from a)           ──▶  trim(leading ' ' from a)     COPY BINARY t ..   ──▶  COPY t .. BINARY
//! ```
//!
//! Each new token has the place of one that was typed, so errors point into the text as it is.

use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Word};

use self::words::{ends_with, is_at, word_at};
use super::cursor::is_word;
use crate::functions::{AS_OF, ASOF};

mod statement;
mod words;

pub(super) fn respell(list: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let list = statement::respell(list);
    let first_word = word_at(&list, 0);
    // The words of SHOW name a setting, and no type.
    if first_word == "SHOW" {
        return list;
    }
    let mut speller = Speller { out: Vec::with_capacity(list.len()), from: list, at: 0, first_word };
    while speller.at < speller.from.len() {
        if !speller.respelled() {
            speller.keep();
        }
    }
    speller.out
}

/// What may stand anywhere.
struct Speller {
    from: Vec<TokenWithSpan>,
    at: usize,
    out: Vec<TokenWithSpan>,
    first_word: String,
}

impl Speller {
    fn keep(&mut self) {
        self.out.push(self.from[self.at].clone());
        self.at += 1;
    }

    fn put(&mut self, token: Token) {
        let span = self.from[self.at.min(self.from.len() - 1)].span;
        self.out.push(TokenWithSpan::new(token, span));
    }

    fn put_words(&mut self, words: &[&str]) {
        for word in words {
            self.put(Token::make_word(word, None));
        }
    }

    fn next_is(&self, ahead: usize, word: &str) -> bool {
        is_at(&self.from, self.at + ahead, word)
    }

    fn next_token(&self, ahead: usize) -> &Token {
        self.from.get(self.at + ahead).map_or(&Token::EOF, |t| &t.token)
    }

    fn previous(&self) -> &Token {
        self.out.last().map_or(&Token::EOF, |t| &t.token)
    }

    /// True if the next tokens were put otherwise.
    fn respelled(&mut self) -> bool {
        let Token::Word(Word { keyword, quote_style: None, .. }) = self.next_token(0) else { return false };
        match keyword {
            Keyword::TABLE if self.is_query() => {
                self.put_words(&["SELECT"]);
                self.put(Token::Mul);
                self.put_words(&["FROM"]);
                self.at += 1;
                true
            }
            Keyword::INTERVAL => self.interval(),
            Keyword::ARRAY if self.follows_type() => {
                self.at += 1;
                if *self.next_token(0) != Token::LBracket {
                    self.at -= 1;
                    self.put(Token::LBracket);
                    self.put(Token::RBracket);
                    self.at += 1;
                }
                true
            }
            Keyword::MAP if *self.next_token(1) == Token::LParen => self.map_type(),
            Keyword::ASOF => self.asof(),
            Keyword::FOR if self.next_is(1, "SYSTEM_TIME") && self.next_is(2, "AS") && self.next_is(3, "OF") => {
                self.system_time()
            }
            Keyword::FOR if self.next_is(1, "NO") && self.next_is(2, "KEY") && self.next_is(3, "UPDATE") => {
                self.skip_within(2)
            }
            Keyword::FOR if self.next_is(1, "KEY") && self.next_is(2, "SHARE") => self.skip_within(1),
            Keyword::USING if matches!(self.next_token(1), Token::Gt | Token::Lt) => {
                let word = if *self.next_token(1) == Token::Gt { "DESC" } else { "ASC" };
                self.put_words(&[word]);
                self.at += 2;
                true
            }
            Keyword::AT if self.next_is(1, "LOCAL") => {
                self.put_words(&["AT", "TIME", "ZONE", "current_setting"]);
                self.put(Token::LParen);
                self.put(Token::SingleQuotedString("TimeZone".into()));
                self.put(Token::RParen);
                self.at += 2;
                true
            }
            Keyword::LEADING | Keyword::TRAILING | Keyword::BOTH if self.next_is(1, "FROM") => {
                self.keep();
                self.put(Token::SingleQuotedString(" ".into()));
                true
            }
            Keyword::EXCLUDE if self.next_is(1, "NO") && self.next_is(2, "OTHERS") => {
                self.at += 3;
                true
            }
            _ => false,
        }
    }

    /// `ASOF [LEFT] JOIN b ON c` is `[LEFT] JOIN b ON tidemark_asof() AND c`. Snowflake's `ASOF JOIN b MATCH_CONDITION (m) ON c`
    /// keeps rows without a match, as it does there.
    fn asof(&mut self) -> bool {
        let mut join = 1;
        while ["LEFT", "RIGHT", "FULL", "INNER", "OUTER"].iter().any(|word| self.next_is(join, word)) {
            join += 1;
        }
        // A column may have that name, before a join of another kind.
        let is_name = matches!(self.previous(), Token::Period | Token::Comma)
            || ["AS", "SELECT", "BY", "FROM", "JOIN"].iter().any(|word| is_word(self.previous(), word));
        let join = Some(join).filter(|join| !is_name && self.next_is(*join, "JOIN"));
        let Some(condition) = join.and_then(|join| self.condition(self.at + join + 1)) else { return false };
        let span = self.from[condition].span;
        let word = |word: &str| TokenWithSpan::new(Token::make_word(word, None), span);
        if is_at(&self.from, condition, "MATCH_CONDITION") {
            if let Some(on) = self.condition(condition + 1).filter(|on| is_at(&self.from, *on, "ON")) {
                self.from[on] = word("AND");
            }
            self.from[condition] = word("ON");
            self.put_words(&["LEFT"]);
        }
        self.insert_call(condition + 1, ASOF, &[]);
        self.at += 1;
        true
    }

    /// `b FOR SYSTEM_TIME AS OF t AS x ON c` is `b AS x ON tidemark_as_of(t) AND c`.
    fn system_time(&mut self) -> bool {
        let from = self.at + 4;
        let to = self.moment(from);
        let Some(condition) = self.condition(to).filter(|at| is_at(&self.from, *at, "ON")) else { return false };
        let time = self.from[from..to].to_vec();
        self.insert_call(condition + 1, AS_OF, &time);
        self.at = to;
        true
    }

    /// Where the moment ends that begins at `from`: `a.ts`, `proctime()`, `TIMESTAMP '2024-01-01'`, `(a.ts - INTERVAL '1 day')`.
    fn moment(&self, from: usize) -> usize {
        if *self.token_at(from) == Token::LParen {
            let mut depth = 0usize;
            for at in from..self.from.len() {
                match self.token_at(at) {
                    Token::LParen => depth += 1,
                    Token::RParen => depth -= 1,
                    _ => {}
                }
                if depth == 0 {
                    return at + 1;
                }
            }
        }
        let mut to = from + 1;
        while *self.token_at(to) == Token::Period {
            to += 2;
        }
        match (self.token_at(to), self.token_at(to + 1)) {
            (Token::LParen, Token::RParen) => to + 2,
            (Token::SingleQuotedString(_), _) => to + 1,
            _ => to,
        }
    }

    fn token_at(&self, at: usize) -> &Token {
        self.from.get(at).map_or(&Token::EOF, |t| &t.token)
    }

    /// Where the condition of the join begins whose table is at `from`.
    fn condition(&self, from: usize) -> Option<usize> {
        let mut depth = 0usize;
        for at in from..self.from.len() {
            match self.token_at(at) {
                Token::LParen => depth += 1,
                Token::RParen => depth = depth.checked_sub(1)?,
                Token::SemiColon => return None,
                _ if depth > 0 => {}
                _ if is_at(&self.from, at, "ON") || is_at(&self.from, at, "MATCH_CONDITION") => return Some(at),
                _ if is_at(&self.from, at, "JOIN") || is_at(&self.from, at, "WHERE") => return None,
                _ => {}
            }
        }
        None
    }

    /// `function(arguments) AND` before the token at `at`.
    fn insert_call(&mut self, at: usize, function: &str, arguments: &[TokenWithSpan]) {
        let span = self.from[at - 1].span;
        let token = |token: Token| TokenWithSpan::new(token, span);
        let open = [token(Token::make_word(function, None)), token(Token::LParen)];
        let close = [token(Token::RParen), token(Token::make_word("AND", None))];
        let call: Vec<TokenWithSpan> = open.into_iter().chain(arguments.iter().cloned()).chain(close).collect();
        self.from.splice(at..at, call);
    }

    /// Keeps this token and leaves out the `count` after it.
    fn skip_within(&mut self, count: usize) -> bool {
        self.keep();
        self.at += count;
        true
    }

    /// `TABLE t` is a query where a query may start, except as the argument of a window function.
    fn is_query(&self) -> bool {
        if !matches!(self.next_token(1), Token::Word(_)) {
            return false;
        }
        match self.previous() {
            Token::EOF => true,
            Token::LParen => !["TUMBLE", "HOP", "SESSION", "CUMULATE"]
                .iter()
                .any(|word| self.out.len() > 1 && is_at(&self.out, self.out.len() - 2, word)),
            // `crate::ast::overriding` is spelled like that.
            Token::Word(word) if word.keyword == Keyword::INTO && ends_with(&self.out, &["OVERWRITE", "INTO"]) => false,
            Token::Word(word) => {
                matches!(
                    word.keyword,
                    Keyword::AS | Keyword::UNION | Keyword::ALL | Keyword::EXCEPT | Keyword::INTERSECT
                ) || self.first_word == "INSERT"
                    || (self.first_word == "DECLARE" && word.keyword == Keyword::FOR)
                    || matches!(word.keyword, Keyword::EXPLAIN | Keyword::VERBOSE)
                    || (self.first_word == "EXPLAIN" && word.keyword == Keyword::ANALYZE)
                    || (self.first_word == "EXPLAIN" && self.out.iter().any(|t| is_word(&t.token, "INSERT")))
            }
            Token::RParen => matches!(self.first_word.as_str(), "INSERT" | "EXPLAIN" | "WITH"),
            _ => false,
        }
    }

    /// `INTERVAL (3) '1 s'`
    fn interval(&mut self) -> bool {
        let literal = matches!(self.next_token(4), Token::SingleQuotedString(_) | Token::EscapedStringLiteral(_));
        let precision = matches!(self.next_token(2), Token::Number(..));
        if !(literal && precision && *self.next_token(1) == Token::LParen && *self.next_token(3) == Token::RParen) {
            return false;
        }
        let digits = self.from[self.at + 1..self.at + 4].to_vec();
        self.keep();
        self.at += 3;
        self.keep();
        self.at -= 1;
        self.put_words(&["SECOND"]);
        self.at += 1;
        self.out.extend(digits);
        true
    }

    /// `integer ARRAY`, `numeric(10, 2) ARRAY`
    fn follows_type(&self) -> bool {
        let mut last = self.out.len();
        if *self.previous() == Token::RParen {
            match self.out.iter().rposition(|t| t.token == Token::LParen) {
                Some(open) => last = open,
                None => return false,
            }
        }
        last.checked_sub(1).is_some_and(|i| is_type_word(&self.out[i].token))
    }

    /// `MAP(TEXT, INT)` as a type; `map(keys, values)` is a function.
    fn map_type(&mut self) -> bool {
        let mut depth = 0usize;
        let mut end = self.at + 1;
        loop {
            match self.from.get(end).map(|t| &t.token) {
                Some(Token::LParen | Token::Lt | Token::LBracket) => depth += 1,
                Some(Token::Gt | Token::RBracket) => depth = depth.saturating_sub(1),
                Some(Token::RParen) => {
                    depth = depth.saturating_sub(1);
                    if depth == 0 {
                        break;
                    }
                }
                Some(Token::Comma | Token::Number(..)) => {}
                Some(token) if is_type_word(token) || is_word(token, "MAP") || is_word(token, "STRUCT") => {}
                _ => return false,
            }
            end += 1;
        }
        if end <= self.at + 2 {
            return false;
        }
        self.from[self.at + 1].token = Token::Lt;
        self.from[end].token = Token::Gt;
        self.keep();
        self.keep();
        true
    }
}

fn is_type_word(token: &Token) -> bool {
    const WORDS: [&str; 44] = [
        "INT",
        "INTEGER",
        "INT2",
        "INT4",
        "INT8",
        "SMALLINT",
        "BIGINT",
        "REAL",
        "FLOAT",
        "FLOAT4",
        "FLOAT8",
        "DOUBLE",
        "PRECISION",
        "NUMERIC",
        "DECIMAL",
        "DEC",
        "TEXT",
        "STRING",
        "VARCHAR",
        "CHAR",
        "CHARACTER",
        "VARYING",
        "BPCHAR",
        "BYTEA",
        "BOOL",
        "BOOLEAN",
        "DATE",
        "TIME",
        "TIMESTAMP",
        "TIMESTAMPTZ",
        "WITH",
        "WITHOUT",
        "ZONE",
        "INTERVAL",
        "UUID",
        "JSON",
        "JSONB",
        "OID",
        "NAME",
        "SERIAL",
        "BIGSERIAL",
        "ARRAY",
        "TIMETZ",
        "REGCLASS",
    ];
    WORDS.iter().any(|word| is_word(token, word))
}
