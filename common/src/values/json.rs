//! JSON text: checked, brought into the form of jsonb, and written.
//!
//! Numbers stay text from end to end, so that none loses a digit.

use crate::{Error, Result, SqlState};
use bytes::{BufMut, BytesMut};

/// Brackets nest no deeper than this.
const MAX_DEPTH: usize = 256;
/// The longest number that an exponent may spread out to.
const MAX_EXPONENT: i64 = 1000;

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Json<'a> {
    Null,
    Bool(bool),
    Number(&'a str),
    String(String),
    Array(Vec<Json<'a>>),
    Object(Vec<(String, Json<'a>)>),
}

pub(super) fn parse(text: &str) -> Result<Json<'_>> {
    Parser { text, at: 0, decode: true }.document()
}

/// That the text is JSON; escapes are kept as they are, so they need not stand for characters.
pub(super) fn check(text: &str) -> Result<()> {
    Parser { text, at: 0, decode: false }.document().map(drop)
}

/// The text as jsonb keeps it: keys sorted by length and then bytes, the last of equal keys, one blank after `:` and `,`.
pub fn canonical(text: &str) -> Result<String> {
    let value = parse(text)?;
    let mut out = BytesMut::with_capacity(text.len() + 16);
    write_canonical(value, &mut out)?;
    String::from_utf8(out.to_vec()).map_err(|_| Error::internal("canonical JSON is not UTF-8"))
}

fn write_canonical(value: Json, out: &mut BytesMut) -> Result<()> {
    match value {
        Json::Null => out.put_slice(b"null"),
        Json::Bool(true) => out.put_slice(b"true"),
        Json::Bool(false) => out.put_slice(b"false"),
        Json::Number(text) => write_number(text, out)?,
        Json::String(text) => write_string(&text, out),
        Json::Array(items) => {
            out.put_u8(b'[');
            for (at, item) in items.into_iter().enumerate() {
                if at > 0 {
                    out.put_slice(b", ");
                }
                write_canonical(item, out)?;
            }
            out.put_u8(b']');
        }
        Json::Object(mut entries) => {
            entries.sort_by(|(a, _), (b, _)| a.len().cmp(&b.len()).then_with(|| a.cmp(b)));
            // The sort is stable, so the last of equal keys is the one that was written last.
            let mut kept: Vec<(String, Json)> = Vec::with_capacity(entries.len());
            for entry in entries {
                match kept.last_mut() {
                    Some(last) if last.0 == entry.0 => *last = entry,
                    _ => kept.push(entry),
                }
            }
            out.put_u8(b'{');
            for (at, (key, value)) in kept.into_iter().enumerate() {
                if at > 0 {
                    out.put_slice(b", ");
                }
                write_string(&key, out);
                out.put_slice(b": ");
                write_canonical(value, out)?;
            }
            out.put_u8(b'}');
        }
    }
    Ok(())
}

/// The value as text again.
pub(super) fn to_text(value: &Json) -> Result<String> {
    let mut out = BytesMut::new();
    write_canonical(value.clone(), &mut out)?;
    String::from_utf8(out.to_vec()).map_err(|_| Error::internal("JSON written is not UTF-8"))
}

/// As numeric prints it: without exponent, zeros at the end kept.
fn write_number(text: &str, out: &mut BytesMut) -> Result<()> {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i64>().unwrap_or(i64::MAX)),
        None => (text, 0),
    };
    if exponent.abs() > MAX_EXPONENT {
        return Err(Error::new(SqlState::NumericValueOutOfRange, "value overflows numeric format")
            .with_detail(format!("Exponents of numbers in jsonb go to {MAX_EXPONENT}.")));
    }
    let (negative, mantissa) = match mantissa.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, mantissa),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let mut digits: Vec<u8> = [whole, fraction].concat().into_bytes();
    let mut point = whole.len() as i64 + exponent;
    if point > digits.len() as i64 {
        digits.resize(point as usize, b'0');
    }
    if point < 1 {
        digits.splice(0..0, std::iter::repeat_n(b'0', (1 - point) as usize));
        point = 1;
    }
    let (whole, fraction) = digits.split_at(point as usize);
    let zeros = whole.iter().take_while(|d| **d == b'0').count().min(whole.len() - 1);
    if negative && digits.iter().any(|d| *d != b'0') {
        out.put_u8(b'-');
    }
    out.put_slice(&whole[zeros..]);
    if !fraction.is_empty() {
        out.put_u8(b'.');
        out.put_slice(fraction);
    }
    Ok(())
}

pub(super) fn write_string(text: &str, out: &mut BytesMut) {
    out.put_u8(b'"');
    for byte in text.bytes() {
        match byte {
            b'"' => out.put_slice(b"\\\""),
            b'\\' => out.put_slice(b"\\\\"),
            0x08 => out.put_slice(b"\\b"),
            0x0c => out.put_slice(b"\\f"),
            b'\n' => out.put_slice(b"\\n"),
            b'\r' => out.put_slice(b"\\r"),
            b'\t' => out.put_slice(b"\\t"),
            0..0x20 => out.put_slice(format!("\\u{byte:04x}").as_bytes()),
            byte => out.put_u8(byte),
        }
    }
    out.put_u8(b'"');
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    /// `\u` escapes must stand for characters that text can hold.
    decode: bool,
}

impl<'a> Parser<'a> {
    fn document(mut self) -> Result<Json<'a>> {
        let value = self.value(0)?;
        self.skip_blanks();
        if self.at < self.text.len() { Err(self.unexpected()) } else { Ok(value) }
    }

    fn error(&self, detail: impl Into<String>) -> Error {
        Error::new(SqlState::InvalidTextRepresentation, "invalid input syntax for type json").with_detail(detail)
    }

    fn unexpected(&self) -> Error {
        let rest = &self.text[self.at..];
        let word = rest.find(|c: char| !c.is_alphanumeric()).unwrap_or(rest.len());
        let end = if word > 0 { word } else { rest.chars().next().map_or(0, char::len_utf8) };
        match &rest[..end] {
            "" => self.error("The input string ended unexpectedly."),
            token => self.error(format!("Token \"{token}\" is invalid.")),
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip_blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn value(&mut self, depth: usize) -> Result<Json<'a>> {
        if depth == MAX_DEPTH {
            return Err(Error::new(SqlState::ProgramLimitExceeded, format!("JSON nests at most {MAX_DEPTH} deep")));
        }
        self.skip_blanks();
        match self.peek() {
            Some(b'{') => self.object(depth),
            Some(b'[') => self.array(depth),
            Some(b'"') => Ok(Json::String(self.string()?)),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => {
                for (word, value) in [("true", Json::Bool(true)), ("false", Json::Bool(false)), ("null", Json::Null)] {
                    let rest = &self.text[self.at..];
                    if rest.starts_with(word) && !rest[word.len()..].starts_with(char::is_alphanumeric) {
                        self.at += word.len();
                        return Ok(value);
                    }
                }
                Err(self.unexpected())
            }
        }
    }

    fn array(&mut self, depth: usize) -> Result<Json<'a>> {
        self.at += 1;
        let mut items = Vec::new();
        self.skip_blanks();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(Json::Array(items));
        }
        loop {
            items.push(self.value(depth + 1)?);
            self.skip_blanks();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => {
                    self.at += 1;
                    return Ok(Json::Array(items));
                }
                _ => return Err(self.unexpected()),
            }
        }
    }

    fn object(&mut self, depth: usize) -> Result<Json<'a>> {
        self.at += 1;
        let mut entries = Vec::new();
        self.skip_blanks();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(Json::Object(entries));
        }
        loop {
            self.skip_blanks();
            if self.peek() != Some(b'"') {
                return Err(self.unexpected());
            }
            let key = self.string()?;
            self.skip_blanks();
            if self.peek() != Some(b':') {
                return Err(self.unexpected());
            }
            self.at += 1;
            entries.push((key, self.value(depth + 1)?));
            self.skip_blanks();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => {
                    self.at += 1;
                    return Ok(Json::Object(entries));
                }
                _ => return Err(self.unexpected()),
            }
        }
    }

    fn digits(&mut self) -> usize {
        let from = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        self.at - from
    }

    fn number(&mut self) -> Result<Json<'a>> {
        let from = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        let first = self.peek();
        let whole = self.digits();
        let mut good = whole == 1 || (whole > 1 && first != Some(b'0'));
        if good && self.peek() == Some(b'.') {
            self.at += 1;
            good = self.digits() > 0;
        }
        if good && matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            good = self.digits() > 0;
        }
        let text = &self.text[from..self.at];
        if good && !self.text[self.at..].starts_with(char::is_alphanumeric) {
            Ok(Json::Number(text))
        } else {
            Err(self.error(format!("Token \"{text}\" is invalid.")))
        }
    }

    fn string(&mut self) -> Result<String> {
        self.at += 1;
        let mut text = String::new();
        loop {
            let rest = &self.text[self.at..];
            let plain = rest.find(|c: char| c == '"' || c == '\\' || c < ' ').unwrap_or(rest.len());
            text.push_str(&rest[..plain]);
            self.at += plain;
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(text);
                }
                Some(b'\\') => {
                    self.at += 1;
                    text.push(self.escape()?);
                }
                Some(byte) => return Err(self.error(format!("Character with value 0x{byte:02x} must be escaped."))),
                None => return Err(self.error("The input string ended unexpectedly.")),
            }
        }
    }

    fn escape(&mut self) -> Result<char> {
        let byte = self.peek().ok_or_else(|| self.error("The input string ended unexpectedly."))?;
        self.at += 1;
        Ok(match byte {
            b'"' | b'\\' | b'/' => char::from(byte),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => return self.unicode(),
            _ => return Err(self.error("Escape sequence is invalid.")),
        })
    }

    fn unicode(&mut self) -> Result<char> {
        let high = self.four_hex()?;
        if !self.decode {
            return Ok(char::from_u32(high).unwrap_or(char::REPLACEMENT_CHARACTER));
        }
        let code = match high {
            0 => {
                return Err(Error::new(SqlState::InvalidTextRepresentation, "unsupported Unicode escape sequence")
                    .with_detail("\\u0000 cannot be converted to text."));
            }
            0xD800..0xDC00 if self.text[self.at..].starts_with("\\u") => {
                self.at += 2;
                let low = self.four_hex()?;
                if !(0xDC00..0xE000).contains(&low) {
                    return Err(self.error("Unicode high surrogate must not follow a high surrogate."));
                }
                0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00)
            }
            other => other,
        };
        char::from_u32(code).ok_or_else(|| self.error("Unicode low surrogate must follow a high surrogate."))
    }

    fn four_hex(&mut self) -> Result<u32> {
        let digits = self.text.as_bytes().get(self.at..self.at + 4).filter(|d| d.iter().all(u8::is_ascii_hexdigit));
        let code = digits
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u32::from_str_radix(digits, 16).ok())
            .ok_or_else(|| self.error("\"\\u\" must be followed by four hexadecimal digits."))?;
        self.at += 4;
        Ok(code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What PostgreSQL 15 prints.
    #[test]
    fn jsonb_has_one_form() {
        let cases = [
            (
                r#"{"b":1,"aa":2,"a":[1,2.50,{"x":null}],"b":3, "u":"\u00e9\n\u0001\/"}"#,
                r#"{"a": [1, 2.50, {"x": null}], "b": 3, "u": "é\n\u0001/", "aa": 2}"#,
            ),
            ("1e5", "100000"),
            ("1.0E-3", "0.0010"),
            ("-0", "0"),
            ("-0.0", "0.0"),
            ("12.5e1", "125"),
            ("\"\"", "\"\""),
            ("{}", "{}"),
            (" [ ] ", "[]"),
            (r#""\ud83d\ude00""#, "\"😀\""),
        ];
        for (text, expected) in cases {
            assert_eq!(canonical(text).unwrap(), expected);
        }
    }

    #[test]
    fn what_is_no_json_is_refused() {
        for text in [
            "",
            "{",
            "{a",
            "[1,]",
            "{\"a\":}",
            "01",
            "1.",
            "-",
            "tru",
            "truex",
            "nul",
            "'a'",
            "\"a",
            "\"\\x\"",
            "\"\\u12\"",
            "\"\\ud800\"",
            "\"\n\"",
            "1 2",
            "[1",
            "{\"a\" 1}",
            "\"\\u0000\"",
            "\"\\",
            "é",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert_eq!(parse("{a").unwrap_err().detail(), Some("Token \"a\" is invalid."));
        assert!(parse(&"[".repeat(100_000)).is_err());
    }
}
