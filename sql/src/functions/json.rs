//! JSON text: checked, walked without being taken apart, and brought into `jsonb`'s canonical form.
//!
//! ```text
//!   json   text as typed ──Scanner──▶ ranges of the text, verbatim
//!   jsonb  text ──parse──▶ Json tree ──canonical──▶ keys by length, then bytes; last duplicate wins; ", " and ": "
//! ```
//!
//! A number is its digits: none is lost to floating point.

use std::borrow::Cow;
use std::ops::Range;

use tidemark_common::{Error, Result, SqlState};

/// How deep arrays and objects may nest.
pub(super) const MAX_DEPTH: usize = 512;

/// Digits that a number with an exponent may be written out to.
const MAX_DIGITS: i64 = 131_072;

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Json<'a> {
    Null,
    Bool(bool),
    /// In canonical digits once inside a `jsonb`.
    Number(Cow<'a, str>),
    String(Cow<'a, str>),
    Array(Vec<Json<'a>>),
    Object(Vec<(Cow<'a, str>, Json<'a>)>),
}

/// Parses a whole text.
pub(super) fn parse(text: &str) -> Result<Json<'_>> {
    let mut scanner = Scanner::new(text);
    let value = scanner.value(0)?;
    scanner.end()?;
    Ok(value)
}

/// Checks a whole text.
pub(super) fn check(text: &str) -> Result<()> {
    let mut scanner = Scanner::new(text);
    scanner.skip(0)?;
    scanner.end()
}

/// The canonical text of a `jsonb`.
pub(super) fn to_jsonb(text: &str) -> Result<String> {
    Ok(parse(text)?.canonical()?.to_string())
}

/// Reads a text from left to right.
pub(super) struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// The next byte that is not blank.
    pub(super) fn peek(&mut self) -> Option<u8> {
        let rest = &self.text.as_bytes()[self.at..];
        self.at += rest.iter().take_while(|b| matches!(b, b' ' | b'\t' | b'\n' | b'\r')).count();
        self.text.as_bytes().get(self.at).copied()
    }

    fn fail<T>(&self) -> Result<T> {
        let rest = &self.text[self.at.min(self.text.len())..];
        let detail = match rest.chars().next() {
            None => "The input string ended unexpectedly.".to_string(),
            Some(c) => {
                let word = rest.chars().take_while(|c| c.is_alphanumeric()).take(40).collect::<String>();
                format!("Token \"{}\" is invalid.", if word.is_empty() { c.to_string() } else { word })
            }
        };
        Err(Error::new(SqlState::InvalidTextRepresentation, "invalid input syntax for type json").with_detail(detail))
    }

    fn expect(&mut self, byte: u8) -> Result<()> {
        if self.peek() != Some(byte) {
            return self.fail();
        }
        self.at += 1;
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        if self.peek().is_some() { self.fail() } else { Ok(()) }
    }

    fn deeper(&self, depth: usize) -> Result<usize> {
        if depth >= MAX_DEPTH {
            let message = format!("JSON nests deeper than {MAX_DEPTH} levels");
            return Err(Error::new(SqlState::ProgramLimitExceeded, message));
        }
        Ok(depth + 1)
    }

    /// Passes one value and returns where it stands.
    pub(super) fn skip(&mut self, depth: usize) -> Result<Range<usize>> {
        let first = self.peek();
        let start = self.at;
        match first {
            Some(b'{') => self.members(depth, |scanner, _, depth| scanner.skip(depth).map(|_| ()))?,
            Some(b'[') => self.items(depth, |scanner, depth| scanner.skip(depth).map(|_| ()))?,
            Some(b'"') => {
                self.string()?;
            }
            _ => {
                self.value(depth)?;
            }
        }
        Ok(start..self.at)
    }

    /// Passes an object, calling `each` where a member's value stands; `each` must pass it.
    pub(super) fn members<F>(&mut self, depth: usize, mut each: F) -> Result<()>
    where
        F: FnMut(&mut Self, Cow<'a, str>, usize) -> Result<()>,
    {
        let depth = self.deeper(depth)?;
        self.expect(b'{')?;
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(());
        }
        loop {
            if self.peek() != Some(b'"') {
                return self.fail();
            }
            let key = self.string()?;
            self.expect(b':')?;
            each(self, key, depth)?;
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return self.fail(),
            }
        }
    }

    /// Passes an array, calling `each` where an item stands; `each` must pass it.
    pub(super) fn items<F>(&mut self, depth: usize, mut each: F) -> Result<()>
    where
        F: FnMut(&mut Self, usize) -> Result<()>,
    {
        let depth = self.deeper(depth)?;
        self.expect(b'[')?;
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(());
        }
        loop {
            each(self, depth)?;
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return self.fail(),
            }
        }
    }

    fn value(&mut self, depth: usize) -> Result<Json<'a>> {
        match self.peek() {
            Some(b'{') => {
                let mut members = Vec::new();
                self.members(depth, |scanner, key, depth| {
                    members.push((key, scanner.value(depth)?));
                    Ok(())
                })?;
                Ok(Json::Object(members))
            }
            Some(b'[') => {
                let mut items = Vec::new();
                self.items(depth, |scanner, depth| {
                    items.push(scanner.value(depth)?);
                    Ok(())
                })?;
                Ok(Json::Array(items))
            }
            Some(b'"') => Ok(Json::String(self.string()?)),
            Some(b't') => self.word("true", Json::Bool(true)),
            Some(b'f') => self.word("false", Json::Bool(false)),
            Some(b'n') => self.word("null", Json::Null),
            _ => self.number(),
        }
    }

    fn word(&mut self, word: &str, value: Json<'a>) -> Result<Json<'a>> {
        let rest = &self.text[self.at..];
        if !rest.starts_with(word) || rest[word.len()..].starts_with(|c: char| c.is_alphanumeric() || c == '_') {
            return self.fail();
        }
        self.at += word.len();
        Ok(value)
    }

    fn digits(&mut self) -> usize {
        let n = self.text.as_bytes()[self.at..].iter().take_while(|b| b.is_ascii_digit()).count();
        self.at += n;
        n
    }

    fn next_is(&mut self, bytes: &[u8]) -> bool {
        let is = self.text.as_bytes().get(self.at).is_some_and(|b| bytes.contains(b));
        self.at += usize::from(is);
        is
    }

    fn number(&mut self) -> Result<Json<'a>> {
        let start = self.at;
        let fail = |scanner: &mut Self| {
            scanner.at = start;
            scanner.fail()
        };
        self.next_is(b"-");
        let leading_zero = self.text.as_bytes().get(self.at) == Some(&b'0');
        let whole = self.digits();
        if whole == 0 || (leading_zero && whole > 1) {
            return fail(self);
        }
        if self.next_is(b".") && self.digits() == 0 {
            return fail(self);
        }
        if self.next_is(b"eE") {
            self.next_is(b"+-");
            if self.digits() == 0 {
                return fail(self);
            }
        }
        if self.text[self.at..].starts_with(|c: char| c.is_alphanumeric() || c == '_') {
            return fail(self);
        }
        Ok(Json::Number(Cow::Borrowed(&self.text[start..self.at])))
    }

    fn string(&mut self) -> Result<Cow<'a, str>> {
        self.at += 1;
        let start = self.at;
        let bytes = self.text.as_bytes();
        let plain = bytes[start..].iter().take_while(|b| !matches!(b, b'"' | b'\\') && **b >= 0x20).count();
        self.at += plain;
        if bytes.get(self.at) == Some(&b'"') {
            self.at += 1;
            return Ok(Cow::Borrowed(&self.text[start..self.at - 1]));
        }
        let mut out = self.text[start..self.at].to_string();
        loop {
            match self.text[self.at..].chars().next() {
                Some('"') => {
                    self.at += 1;
                    return Ok(Cow::Owned(out));
                }
                Some('\\') => out.push(self.escape()?),
                Some(c) if c >= ' ' => {
                    out.push(c);
                    self.at += c.len_utf8();
                }
                _ => return self.fail(),
            }
        }
    }

    fn escape(&mut self) -> Result<char> {
        let escaped = self.text.as_bytes().get(self.at + 1).copied();
        let plain = match escaped {
            Some(c @ (b'"' | b'\\' | b'/')) => char::from(c),
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => return self.unicode(),
            _ => return self.fail(),
        };
        self.at += 2;
        Ok(plain)
    }

    fn unicode(&mut self) -> Result<char> {
        let high = self.four_hex_digits()?;
        let code = if (0xD800..0xDC00).contains(&high) && self.text[self.at..].starts_with("\\u") {
            let low = self.four_hex_digits()?;
            if !(0xDC00..0xE000).contains(&low) {
                return self.fail();
            }
            0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00)
        } else {
            high
        };
        match char::from_u32(code) {
            Some('\0') => Err(Error::new(SqlState::InvalidTextRepresentation, "unsupported Unicode escape sequence")
                .with_detail("\\u0000 cannot be converted to text.")),
            Some(c) => Ok(c),
            None => self.fail(),
        }
    }

    fn four_hex_digits(&mut self) -> Result<u32> {
        let digits = self.text.get(self.at + 2..self.at + 6).filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
        match digits.and_then(|d| u32::from_str_radix(d, 16).ok()) {
            Some(code) => {
                self.at += 6;
                Ok(code)
            }
            None => self.fail(),
        }
    }
}

impl<'a> Json<'a> {
    /// Sorted, without duplicates, numbers written out: what `jsonb` keeps.
    pub(super) fn canonical(self) -> Result<Json<'a>> {
        Ok(match self {
            Json::Number(text) => Json::Number(write_out(text)?),
            Json::Array(items) => Json::Array(items.into_iter().map(Json::canonical).collect::<Result<_>>()?),
            Json::Object(members) => {
                let mut canonical = Vec::with_capacity(members.len());
                for (key, value) in members {
                    canonical.push((key, value.canonical()?));
                }
                Json::Object(sort_members(canonical))
            }
            other => other,
        })
    }

    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Json::Null => "null",
            Json::Bool(_) => "boolean",
            Json::Number(_) => "number",
            Json::String(_) => "string",
            Json::Array(_) => "array",
            Json::Object(_) => "object",
        }
    }

    pub(super) fn into_owned(self) -> Json<'static> {
        match self {
            Json::Null => Json::Null,
            Json::Bool(b) => Json::Bool(b),
            Json::Number(n) => Json::Number(Cow::Owned(n.into_owned())),
            Json::String(s) => Json::String(Cow::Owned(s.into_owned())),
            Json::Array(items) => Json::Array(items.into_iter().map(Json::into_owned).collect()),
            Json::Object(members) => {
                Json::Object(members.into_iter().map(|(k, v)| (Cow::Owned(k.into_owned()), v.into_owned())).collect())
            }
        }
    }

    /// One line a member, indented by four: `jsonb_pretty`.
    pub(super) fn pretty(&self, indent: usize, out: &mut String) {
        let line = |out: &mut String, indent: usize| {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', indent * 4));
        };
        match self {
            Json::Array(items) => {
                out.push('[');
                for (i, item) in items.iter().enumerate() {
                    out.push_str(if i > 0 { "," } else { "" });
                    line(out, indent + 1);
                    item.pretty(indent + 1, out);
                }
                line(out, indent);
                out.push(']');
            }
            Json::Object(members) => {
                out.push('{');
                for (i, (key, value)) in members.iter().enumerate() {
                    out.push_str(if i > 0 { "," } else { "" });
                    line(out, indent + 1);
                    quote(key, out);
                    out.push_str(": ");
                    value.pretty(indent + 1, out);
                }
                line(out, indent);
                out.push('}');
            }
            scalar => scalar.write(out),
        }
    }

    fn write(&self, out: &mut String) {
        match self {
            Json::Null => out.push_str("null"),
            Json::Bool(b) => out.push_str(if *b { "true" } else { "false" }),
            Json::Number(n) => out.push_str(n),
            Json::String(s) => quote(s, out),
            Json::Array(items) => {
                out.push('[');
                for (i, item) in items.iter().enumerate() {
                    out.push_str(if i > 0 { ", " } else { "" });
                    item.write(out);
                }
                out.push(']');
            }
            Json::Object(members) => {
                out.push('{');
                for (i, (key, value)) in members.iter().enumerate() {
                    out.push_str(if i > 0 { ", " } else { "" });
                    quote(key, out);
                    out.push_str(": ");
                    value.write(out);
                }
                out.push('}');
            }
        }
    }
}

/// With `jsonb`'s spacing.
impl std::fmt::Display for Json<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut out = String::new();
        self.write(&mut out);
        f.write_str(&out)
    }
}

/// Members in `jsonb`'s order, the last of equal keys kept.
pub(super) fn sort_members<'a>(mut members: Vec<(Cow<'a, str>, Json<'a>)>) -> Vec<(Cow<'a, str>, Json<'a>)> {
    // Reversed and sorted stably, the last of equal keys comes first, and is the one that dedup keeps.
    members.reverse();
    members.sort_by(|(a, _), (b, _)| (a.len(), a.as_bytes()).cmp(&(b.len(), b.as_bytes())));
    members.dedup_by(|(a, _), (b, _)| a == b);
    members
}

/// Appends `text` as a JSON string.
pub(super) fn quote(text: &str, out: &mut String) {
    use std::fmt::Write;
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c < ' ' => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

/// A number without exponent and without a negative zero, as `numeric` prints it; its scale stays.
fn write_out(text: Cow<'_, str>) -> Result<Cow<'_, str>> {
    let too_large = || Error::new(SqlState::NumericValueOutOfRange, "value overflows numeric format");
    let zero = !text.split(['e', 'E']).next().unwrap_or_default().bytes().any(|b| (b'1'..=b'9').contains(&b));
    if !text.contains(['e', 'E']) {
        return Ok(match text.strip_prefix('-') {
            Some(rest) if zero => Cow::Owned(rest.to_string()),
            _ => text,
        });
    }
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((&text, "0"));
    let exponent: i64 = exponent.parse().map_err(|_| too_large())?;
    if exponent.abs() > MAX_DIGITS {
        return Err(too_large());
    }
    let negative = mantissa.starts_with('-') && !zero;
    let (whole, fraction) =
        mantissa.trim_start_matches('-').split_once('.').unwrap_or((mantissa.trim_start_matches('-'), ""));
    let digits = format!("{whole}{fraction}");
    let point = whole.len() as i64 + exponent;
    let (whole, fraction) = if point <= 0 {
        ("0".to_string(), format!("{}{digits}", "0".repeat(point.unsigned_abs() as usize)))
    } else if point as usize >= digits.len() {
        (format!("{digits}{}", "0".repeat(point as usize - digits.len())), String::new())
    } else {
        (digits[..point as usize].to_string(), digits[point as usize..].to_string())
    };
    let whole = whole.trim_start_matches('0');
    let whole = if whole.is_empty() { "0" } else { whole };
    let sign = if negative { "-" } else { "" };
    Ok(Cow::Owned(if fraction.is_empty() { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jsonb_is_canonical() {
        let cases = [
            (r#"{"b":1,"aa":2,"a":3,"a":4}"#, r#"{"a": 4, "b": 1, "aa": 2}"#),
            (
                r#"[1.500, 1e3, -0.0, 1.5e-3, 12345678901234567890123, 1.25e1]"#,
                "[1.500, 1000, 0.0, 0.0015, 12345678901234567890123, 12.5]",
            ),
            (r#" "\u00e9\ud83d\ude00\n\/" "#, "\"é😀\\n/\""),
            ("[]", "[]"),
            ("{ }", "{}"),
            ("null", "null"),
        ];
        for (text, canonical) in cases {
            assert_eq!(to_jsonb(text).unwrap(), canonical);
            assert_eq!(to_jsonb(canonical).unwrap(), canonical, "canonical form is a fixed point");
        }
    }

    #[test]
    fn what_is_not_json_is_refused() {
        let bad = [
            "",
            "nope",
            "{",
            "[1,]",
            "{\"a\"}",
            "01",
            "1.",
            "1e",
            "-",
            "\"a",
            "\"\\x\"",
            "[1] 2",
            "nullx",
            "\"\u{1}\"",
            "\"\\ud800\"",
            "\"\\u0000\"",
            "1e999999999",
        ];
        for text in bad {
            assert!(to_jsonb(text).is_err(), "{text} was taken");
        }
        let deep = "[".repeat(MAX_DEPTH + 1);
        assert_eq!(check(&deep).unwrap_err().state(), SqlState::ProgramLimitExceeded);
    }
}
