//! Looking for words in a list of tokens.

use datafusion::sql::sqlparser::tokenizer::{Span, Token, TokenWithSpan, Word};

use crate::grammar::cursor::is_word;

pub(super) fn word_token(word: &str, span: Span) -> TokenWithSpan {
    TokenWithSpan::new(Token::make_word(word, None), span)
}

pub(super) fn word_at(list: &[TokenWithSpan], index: usize) -> String {
    match list.get(index).map(|t| &t.token) {
        Some(Token::Word(Word { value, quote_style: None, .. })) => value.to_ascii_uppercase(),
        _ => String::new(),
    }
}

pub(super) fn is_at(list: &[TokenWithSpan], index: usize, word: &str) -> bool {
    list.get(index).is_some_and(|t| is_word(&t.token, word))
}

pub(super) fn is(list: &[TokenWithSpan], index: usize, token: &Token) -> bool {
    list.get(index).is_some_and(|t| t.token == *token)
}

pub(super) fn starts_with(list: &[TokenWithSpan], words: &[&str]) -> bool {
    words.iter().enumerate().all(|(i, word)| is_at(list, i, word))
}

pub(super) fn ends_with(list: &[TokenWithSpan], words: &[&str]) -> bool {
    list.len().checked_sub(words.len()).is_some_and(|from| starts_with(&list[from..], words))
}

pub(super) fn phrase(list: &[TokenWithSpan], words: &[&str]) -> Option<usize> {
    (0..list.len()).find(|i| starts_with(&list[*i..], words))
}
