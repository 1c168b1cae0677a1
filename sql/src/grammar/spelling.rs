//! Postgres' spellings that `sqlparser` does not read, turned into ones it does, token by token.
//!
//! ```text
//!   TABLE t                        ──▶  SELECT * FROM t              ABORT              ──▶  ROLLBACK
//!   integer ARRAY[4]               ──▶  integer[4]                   FETCH c            ──▶  FETCH NEXT FROM c
//!   INTERVAL(3) '1 s'              ──▶  INTERVAL '1 s' SECOND(3)     CREATE USER a      ──▶  CREATE ROLE a LOGIN
//!   trim(leading from a)           ──▶  trim(leading ' ' from a)     COPY BINARY t ..   ──▶  COPY t .. BINARY
//! ```
//!
//! Each new token has the place of one that was typed, so errors point into the text as it is.

use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Span, Token, TokenWithSpan, Word};

use super::cursor::is_word;

pub(super) fn respell(list: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let list = statement(list);
    let first_word = word_at(&list, 0);
    let mut speller = Speller { out: Vec::with_capacity(list.len()), from: list, at: 0, first_word };
    while speller.at < speller.from.len() {
        if !speller.respelled() {
            speller.keep();
        }
    }
    speller.out
}

/// What depends on the statement's first words.
fn statement(mut list: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    /// The beginning of a statement, and what to put for it.
    const BEGINNINGS: [(&[&str], &[&str]); 9] = [
        (&["ABORT"], &["ROLLBACK"]),
        (&["CREATE", "UNLOGGED", "TABLE"], &["CREATE", "TABLE"]),
        (&["ALTER", "USER"], &["ALTER", "ROLE"]),
        (&["RESET", "TIME", "ZONE"], &["RESET", "timezone"]),
        (&["RESET", "SESSION", "AUTHORIZATION"], &["RESET", "session_authorization"]),
        (&["SET", "LOCAL", "SESSION", "AUTHORIZATION"], &["SET", "LOCAL", "session_authorization", "TO"]),
        (&["SET", "SCHEMA"], &["SET", "search_path", "TO"]),
        (&["DROP", "INDEX", "CONCURRENTLY"], &["DROP", "INDEX"]),
        (&["FETCH", "FORWARD", "FROM"], &["FETCH", "NEXT", "FROM"]),
    ];
    let Some(first) = list.first().map(|token| token.span) else { return list };
    for (typed, known) in BEGINNINGS {
        if starts_with(&list, typed) {
            list.splice(0..typed.len(), known.iter().map(|word| word_token(word, first)));
            break;
        }
    }
    match word_at(&list, 0).as_str() {
        "BEGIN" | "START" | "SET" => without_deferrable(&mut list),
        "FETCH" => fetch(&mut list),
        "COPY" => copy(&mut list),
        "CREATE" if is_at(&list, 1, "USER") => {
            list[1].token = Token::make_word("ROLE", None);
            if !list.iter().any(|t| is_word(&t.token, "NOLOGIN") || is_word(&t.token, "LOGIN")) {
                let after_with = if is_at(&list, 3, "WITH") { 4 } else { 3 };
                list.insert(after_with.min(list.len()), word_token("LOGIN", first));
            }
        }
        "CREATE" => create(&mut list),
        _ => {}
    }
    list
}

/// DEFERRABLE asks for a snapshot that cannot fail: all of ours are.
fn without_deferrable(list: &mut Vec<TokenWithSpan>) {
    if !list.iter().any(|t| is_word(&t.token, "READ") || is_word(&t.token, "ISOLATION") || is_word(&t.token, "DEFERRABLE")) {
        return;
    }
    while let Some(at) = list.iter().position(|t| is_word(&t.token, "DEFERRABLE")) {
        let mut from = at;
        if from > 0 && is_at(list, from - 1, "NOT") {
            from -= 1;
        }
        if from > 0 && list[from - 1].token == Token::Comma {
            from -= 1;
        }
        list.drain(from..=at);
    }
}

/// Fills in what may be left out: `FETCH c`, `FETCH 10 c`, `FETCH FORWARD c`.
fn fetch(list: &mut Vec<TokenWithSpan>) {
    let Some(last) = list.len().checked_sub(1).filter(|last| *last > 0) else { return };
    let span = list[last].span;
    // The sign of a count is part of the number.
    if let Some(minus) = list.iter().position(|t| t.token == Token::Minus)
        && let Some(TokenWithSpan { token: Token::Number(number, _), .. }) = list.get_mut(minus + 1)
    {
        number.insert(0, '-');
        list.remove(minus);
    }
    let last = list.len() - 1;
    if !is_at(list, last - 1, "FROM") && !is_at(list, last - 1, "IN") {
        list.insert(last, word_token("FROM", span));
    }
    let before_name = list.len() - 2;
    match before_name {
        1 => list.insert(1, word_token("NEXT", span)),
        2 if is_at(list, 1, "FORWARD") => list[1].token = Token::make_word("NEXT", None),
        2 if is_at(list, 1, "BACKWARD") => list[1].token = Token::make_word("PRIOR", None),
        _ => {}
    }
}

/// `COPY BINARY t`, and the options' values in their other spellings.
fn copy(list: &mut Vec<TokenWithSpan>) {
    if is_at(list, 1, "BINARY") && list.len() > 3 && !is_at(list, 2, "FROM") && !is_at(list, 2, "TO") {
        let binary = list.remove(1);
        list.push(binary);
    }
    // Options stand after STDIN, STDOUT or the file's name; a query before them is not touched.
    let mut depth = 0usize;
    let target = list.iter().position(|t| {
        match t.token {
            Token::LParen => depth += 1,
            Token::RParen => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth == 0 && (is_word(&t.token, "FROM") || is_word(&t.token, "TO"))
    });
    let Some(target) = target else { return };
    let mut at = target + 2;
    while at < list.len() {
        let span = list[at].span;
        if is_at(list, at, "DELIMITERS") {
            list[at].token = Token::make_word("DELIMITER", None);
        } else if is_at(list, at, "FORMAT") {
            if let Some(TokenWithSpan { token: token @ Token::SingleQuotedString(_), .. }) = list.get_mut(at + 1)
                && let Token::SingleQuotedString(name) = &*token
            {
                *token = Token::make_word(&name.clone(), None);
            }
        } else if is_at(list, at, "HEADER") || is_at(list, at, "FREEZE") {
            if let Some(on) = list.get(at + 1).and_then(|t| truth(&t.token)) {
                list[at + 1].token = Token::make_word(if on { "TRUE" } else { "FALSE" }, None);
            }
        } else if ["FORCE_QUOTE", "FORCE_NULL", "FORCE_NOT_NULL"].iter().any(|word| is_at(list, at, word)) {
            if list.get(at + 1).is_some_and(|t| t.token == Token::Mul) {
                let all = [Token::LParen, Token::make_word("*", Some('"')), Token::RParen];
                list.splice(at + 1..at + 2, all.map(|token| TokenWithSpan::new(token, span)));
            }
        } else if is_at(list, at, "FORCE")
            && is_at(list, at + 1, "QUOTE")
            && list.get(at + 2).is_some_and(|t| t.token == Token::Mul)
        {
            list[at + 2].token = Token::make_word("*", Some('"'));
        }
        at += 1;
    }
}

fn truth(token: &Token) -> Option<bool> {
    let text = match token {
        Token::Word(word) => &word.value,
        Token::SingleQuotedString(text) | Token::Number(text, _) => text,
        _ => return None,
    };
    match text.to_ascii_lowercase().as_str() {
        "true" | "on" | "1" => Some(true),
        "false" | "off" | "0" => Some(false),
        _ => None,
    }
}

fn create(list: &mut Vec<TokenWithSpan>) {
    if let Some(at) = phrase(list, &["WITHOUT", "OIDS"]) {
        list.drain(at..at + 2);
    }
    while let Some(at) = (1..list.len()).find(|i| is_at(list, *i, "VIRTUAL") && list[i - 1].token == Token::RParen) {
        list[at].token = Token::make_word("STORED", None);
    }
    options_with_values(list);
    if list.iter().take(4).any(|t| is_word(&t.token, "SEQUENCE")) {
        order_sequence_options(list, 0);
    }
    let mut from = 0;
    while let Some(at) = phrase(&list[from..], &["AS", "IDENTITY"]).map(|at| from + at) {
        order_sequence_options(list, at);
        from = at + 1;
    }
    if list.iter().take(5).any(|t| is_word(&t.token, "TABLE")) {
        table_as(list);
    }
}

/// `WITH (security_barrier)`: an option alone is on.
fn options_with_values(list: &mut Vec<TokenWithSpan>) {
    let Some(with) = (0..list.len()).find(|i| is_at(list, *i, "WITH") && is(list, i + 1, &Token::LParen)) else { return };
    let mut at = with + 2;
    while at + 1 < list.len() && list[at].token != Token::RParen {
        let ends = |i: usize| is(list, i, &Token::Comma) || is(list, i, &Token::RParen);
        if matches!(list[at].token, Token::Word(_)) && ends(at + 1) && (at == with + 2 || is(list, at - 1, &Token::Comma)) {
            let span = list[at].span;
            list.insert(at + 1, TokenWithSpan::new(Token::Eq, span));
            list.insert(at + 2, word_token("true", span));
        }
        at += 1;
    }
}

/// Puts the options of a sequence in the order that `sqlparser` asks for; Postgres asks for none.
fn order_sequence_options(list: &mut [TokenWithSpan], from: usize) {
    const ORDER: [&str; 6] = ["INCREMENT", "MINVALUE", "MAXVALUE", "START", "CACHE", "CYCLE"];
    let is_option = |t: &Token| ORDER.iter().any(|word| is_word(t, word));
    let starts = |i: usize| is_option(&list[i].token) || (is_at(list, i, "NO") && i + 1 < list.len() && is_option(&list[i + 1].token));
    let Some(begin) = (from..list.len()).find(|i| starts(*i)) else { return };
    let end = (begin..list.len())
        .find(|i| matches!(list[*i].token, Token::RParen | Token::Comma) || is_at(list, *i, "OWNED"))
        .unwrap_or(list.len());
    let mut options: Vec<Vec<TokenWithSpan>> = Vec::new();
    let mut after_no = false;
    for i in begin..end {
        if starts(i) && !after_no {
            options.push(vec![]);
        }
        after_no = is_at(list, i, "NO");
        if let Some(option) = options.last_mut() {
            option.push(list[i].clone());
        }
    }
    let rank = |option: &Vec<TokenWithSpan>| {
        ORDER.iter().position(|word| option.iter().take(2).any(|t| is_word(&t.token, word)))
    };
    options.sort_by_key(rank);
    for (place, token) in list[begin..end].iter_mut().zip(options.into_iter().flatten()) {
        *place = token;
    }
}

/// `CREATE TABLE t (a, b) AS query WITH NO DATA`: names and emptiness become part of the query.
fn table_as(list: &mut Vec<TokenWithSpan>) {
    let mut depth = 0usize;
    let found = list.iter().position(|t| {
        match t.token {
            Token::LParen => depth += 1,
            Token::RParen => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth == 0 && is_word(&t.token, "AS")
    });
    let Some(as_at) = found else { return };
    let mut no_data = false;
    if ends_with(list, &["WITH", "NO", "DATA"]) {
        list.truncate(list.len() - 3);
        no_data = true;
    } else if ends_with(list, &["WITH", "DATA"]) {
        list.truncate(list.len() - 2);
    }
    let names = column_names(&list[..as_at]);
    if names.is_none() && !no_data {
        return;
    }
    let span = list[as_at].span;
    let token = |token: Token| TokenWithSpan::new(token, span);
    let mut head = vec![word_token("SELECT", span), token(Token::Mul), word_token("FROM", span), token(Token::LParen)];
    let mut tail = vec![token(Token::RParen), word_token("AS", span), token(Token::make_word("query", Some('"')))];
    if let Some((open, close)) = names {
        let names: Vec<_> = list.drain(open..=close).collect();
        tail.extend(names);
    }
    if no_data {
        tail.extend([word_token("LIMIT", span), token(Token::Number("0".into(), false))]);
    }
    let as_at = (0..list.len()).find(|i| list[*i].span == span && is_at(list, *i, "AS")).unwrap_or(list.len() - 1);
    head.extend(list.drain(as_at + 1..).collect::<Vec<_>>());
    list.extend(head);
    list.extend(tail);
}

/// `(a, b)` just before AS: names without types.
fn column_names(before_as: &[TokenWithSpan]) -> Option<(usize, usize)> {
    let open = before_as.iter().position(|t| t.token == Token::LParen)?;
    let close = open + before_as[open..].iter().position(|t| t.token == Token::RParen)?;
    let inside = &before_as[open + 1..close];
    let alternate = inside.iter().enumerate().all(|(i, t)| match i % 2 {
        0 => matches!(t.token, Token::Word(_)),
        _ => t.token == Token::Comma,
    });
    (alternate && inside.len() % 2 == 1 && !is_at(before_as, open.checked_sub(1)?, "WITH")).then_some((open, close))
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
            Keyword::FOR if self.next_is(1, "NO") && self.next_is(2, "KEY") && self.next_is(3, "UPDATE") => self.skip_within(2),
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
            Token::Word(word) => {
                matches!(word.keyword, Keyword::AS | Keyword::UNION | Keyword::ALL | Keyword::EXCEPT | Keyword::INTERSECT)
                    || self.first_word == "INSERT"
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
        "INT", "INTEGER", "INT2", "INT4", "INT8", "SMALLINT", "BIGINT", "REAL", "FLOAT", "FLOAT4", "FLOAT8", "DOUBLE",
        "PRECISION", "NUMERIC", "DECIMAL", "DEC", "TEXT", "STRING", "VARCHAR", "CHAR", "CHARACTER", "VARYING", "BPCHAR",
        "BYTEA", "BOOL", "BOOLEAN", "DATE", "TIME", "TIMESTAMP", "TIMESTAMPTZ", "WITH", "WITHOUT", "ZONE", "INTERVAL", "UUID",
        "JSON", "JSONB", "OID", "NAME", "SERIAL", "BIGSERIAL", "ARRAY", "TIMETZ", "REGCLASS",
    ];
    WORDS.iter().any(|word| is_word(token, word))
}

fn word_token(word: &str, span: Span) -> TokenWithSpan {
    TokenWithSpan::new(Token::make_word(word, None), span)
}

fn word_at(list: &[TokenWithSpan], index: usize) -> String {
    match list.get(index).map(|t| &t.token) {
        Some(Token::Word(Word { value, quote_style: None, .. })) => value.to_ascii_uppercase(),
        _ => String::new(),
    }
}

fn is_at(list: &[TokenWithSpan], index: usize, word: &str) -> bool {
    list.get(index).is_some_and(|t| is_word(&t.token, word))
}

fn is(list: &[TokenWithSpan], index: usize, token: &Token) -> bool {
    list.get(index).is_some_and(|t| t.token == *token)
}

fn starts_with(list: &[TokenWithSpan], words: &[&str]) -> bool {
    words.iter().enumerate().all(|(i, word)| is_at(list, i, word))
}

fn ends_with(list: &[TokenWithSpan], words: &[&str]) -> bool {
    list.len().checked_sub(words.len()).is_some_and(|from| starts_with(&list[from..], words))
}

fn phrase(list: &[TokenWithSpan], words: &[&str]) -> Option<usize> {
    (0..list.len()).find(|i| starts_with(&list[*i..], words))
}
