//! Spellings that belong to one kind of statement: its beginning, or its options.

use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

use super::words::{ends_with, is, is_at, phrase, starts_with, word_at, word_token};
use crate::grammar::cursor::is_word;

/// Respells what depends on the statement's first words.
pub(super) fn respell(mut list: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    /// The beginning of a statement, and what to put for it.
    const BEGINNINGS: [(&[&str], &[&str]); 8] = [
        (&["ABORT"], &["ROLLBACK"]),
        (&["CREATE", "UNLOGGED", "TABLE"], &["CREATE", "TABLE"]),
        (&["ALTER", "USER"], &["ALTER", "ROLE"]),
        (&["RESET", "TIME", "ZONE"], &["RESET", "timezone"]),
        (&["RESET", "SESSION", "AUTHORIZATION"], &["RESET", "session_authorization"]),
        (&["SET", "LOCAL", "SESSION", "AUTHORIZATION"], &["SET", "LOCAL", "session_authorization", "TO"]),
        (&["SET", "SCHEMA"], &["SET", "search_path", "TO"]),
        (&["DROP", "INDEX", "CONCURRENTLY"], &["DROP", "INDEX"]),
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
    overriding(&mut list);
    list
}

/// `INSERT INTO t OVERRIDING SYSTEM VALUE ..` as [`crate::ast::overriding`] finds it. What is written like that is another
/// statement, Hive's, and loses the INTO by which ours is known.
fn overriding(list: &mut Vec<TokenWithSpan>) {
    while let Some(at) = phrase(list, &["INSERT", "OVERWRITE", "INTO"]) {
        list.remove(at + 2);
    }
    for (kind, head) in [("SYSTEM", &["OVERWRITE", "INTO"][..]), ("USER", &["OVERWRITE", "INTO", "TABLE"])] {
        while let Some(at) = phrase(list, &["OVERRIDING", kind, "VALUE"]) {
            let Some(insert) = (0..at).rev().find(|i| starts_with(&list[*i..at], &["INSERT", "INTO"])) else { return };
            let span = list[insert].span;
            list.drain(at..at + 3);
            list.splice(insert + 1..insert + 2, head.iter().map(|word| word_token(word, span)));
        }
    }
}

/// DEFERRABLE asks for a snapshot that cannot fail: all of ours are.
fn without_deferrable(list: &mut Vec<TokenWithSpan>) {
    if !list
        .iter()
        .any(|t| is_word(&t.token, "READ") || is_word(&t.token, "ISOLATION") || is_word(&t.token, "DEFERRABLE"))
    {
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
    let Some(with) = (0..list.len()).find(|i| is_at(list, *i, "WITH") && is(list, i + 1, &Token::LParen)) else {
        return;
    };
    let mut at = with + 2;
    while at + 1 < list.len() && list[at].token != Token::RParen {
        let ends = |i: usize| is(list, i, &Token::Comma) || is(list, i, &Token::RParen);
        if matches!(list[at].token, Token::Word(_))
            && ends(at + 1)
            && (at == with + 2 || is(list, at - 1, &Token::Comma))
        {
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
    let starts = |i: usize| {
        is_option(&list[i].token) || (is_at(list, i, "NO") && i + 1 < list.len() && is_option(&list[i + 1].token))
    };
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
