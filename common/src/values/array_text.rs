//! Array and record literals: `{1,NULL,"a b"}`, `(1,"a b",)`.

use std::ops::Range;

use crate::{Error, Oid, Result, SqlState};
use bytes::{BufMut, BytesMut};

use super::column::{Column, Data};
use super::{ColumnBuilder, Style};

/// Brackets nest no deeper than this.
const MAX_DEPTH: usize = 32;

pub(super) fn write_array(items: &Column, rows: Range<usize>, style: &Style, out: &mut BytesMut) {
    let bare = items.is_plain() || matches!(items.data, Data::List { .. });
    let mut text = BytesMut::new();
    out.put_u8(b'{');
    for (at, row) in rows.enumerate() {
        if at > 0 {
            out.put_u8(b',');
        }
        if items.is_null(row) {
            out.put_slice(b"NULL");
        } else if bare {
            items.write_text(row, style, out);
        } else {
            text.clear();
            items.write_text(row, style, &mut text);
            write_element(&text, out);
        }
    }
    out.put_u8(b'}');
}

fn write_element(text: &[u8], out: &mut BytesMut) {
    let special = |b: &u8| matches!(b, b'"' | b'\\' | b'{' | b'}' | b',' | b' ' | 0x09..=0x0d);
    if !text.is_empty() && !text.iter().any(special) && !text.eq_ignore_ascii_case(b"null") {
        return out.put_slice(text);
    }
    out.put_u8(b'"');
    for byte in text {
        if matches!(byte, b'"' | b'\\') {
            out.put_u8(b'\\');
        }
        out.put_u8(*byte);
    }
    out.put_u8(b'"');
}

pub(super) fn write_record(columns: &[(Column, Oid)], row: usize, style: &Style, out: &mut BytesMut) {
    let mut text = BytesMut::new();
    out.put_u8(b'(');
    for (at, (column, _)) in columns.iter().enumerate() {
        if at > 0 {
            out.put_u8(b',');
        }
        if column.is_null(row) {
            continue;
        }
        if column.is_plain() {
            column.write_text(row, style, out);
            continue;
        }
        text.clear();
        column.write_text(row, style, &mut text);
        let special = |b: &u8| matches!(b, b'"' | b'\\' | b'(' | b')' | b',' | b' ' | 0x09..=0x0d);
        if !text.is_empty() && !text.iter().any(special) {
            out.put_slice(&text);
            continue;
        }
        out.put_u8(b'"');
        for byte in &text {
            if matches!(byte, b'"' | b'\\') {
                out.put_u8(*byte);
            }
            out.put_u8(*byte);
        }
        out.put_u8(b'"');
    }
    out.put_u8(b')');
}

/// Reads a literal from the left.
struct Reader<'a> {
    literal: &'a str,
    at: usize,
    kind: &'static str,
}

impl<'a> Reader<'a> {
    fn malformed(&self, detail: &str) -> Error {
        Error::new(
            SqlState::InvalidTextRepresentation,
            format!("malformed {} literal: \"{}\"", self.kind, self.literal),
        )
        .with_detail(detail)
    }

    fn peek(&self) -> Result<u8> {
        self.literal.as_bytes().get(self.at).copied().ok_or_else(|| self.malformed("Unexpected end of input."))
    }

    fn skip_blanks(&mut self) {
        while self.literal.as_bytes().get(self.at).is_some_and(u8::is_ascii_whitespace) {
            self.at += 1;
        }
    }

    fn unexpected(&self, byte: u8) -> Error {
        self.malformed(&format!("Unexpected \"{}\" character.", char::from(byte)))
    }

    fn end(&mut self, after: &str) -> Result<()> {
        self.skip_blanks();
        if self.at == self.literal.len() { Ok(()) } else { Err(self.malformed(&format!("Junk after {after}."))) }
    }
}

/// Hands each element of an array literal to `item`.
pub(super) fn read_array(literal: &str, item: &mut ColumnBuilder, style: &Style) -> Result<usize> {
    let mut reader = Reader { literal, at: 0, kind: "array" };
    reader.skip_blanks();
    if reader.literal[reader.at..].starts_with('[') {
        // Bounds such as [1:3]= say nothing that the elements do not.
        let is_bound = |b: u8| b.is_ascii_digit() || matches!(b, b'[' | b']' | b':' | b'-' | b'+');
        match reader.literal.split_once('=') {
            Some((bounds, _)) if bounds.trim_ascii().bytes().all(is_bound) && bounds.ends_with(']') => {
                reader.at = bounds.len() + 1;
            }
            _ => return Err(reader.malformed("Missing \"=\" after array dimensions.")),
        }
        reader.skip_blanks();
    }
    let count = read_level(&mut reader, item, style, 0)?;
    reader.end("closing right brace")?;
    Ok(count)
}

fn read_level(reader: &mut Reader, item: &mut ColumnBuilder, style: &Style, depth: usize) -> Result<usize> {
    if depth == MAX_DEPTH {
        return Err(Error::new(SqlState::ProgramLimitExceeded, format!("arrays nest at most {MAX_DEPTH} deep")));
    }
    if reader.peek()? != b'{' {
        return Err(reader.malformed("Array value must start with \"{\" or dimension information."));
    }
    reader.at += 1;
    reader.skip_blanks();
    if reader.peek()? == b'}' {
        reader.at += 1;
        return Ok(0);
    }
    let mut count = 0;
    loop {
        reader.skip_blanks();
        read_element(reader, item, style, depth)?;
        count += 1;
        reader.skip_blanks();
        match reader.peek()? {
            b',' => reader.at += 1,
            b'}' => {
                reader.at += 1;
                return Ok(count);
            }
            other => return Err(reader.unexpected(other)),
        }
    }
}

fn read_element(reader: &mut Reader, item: &mut ColumnBuilder, style: &Style, depth: usize) -> Result<()> {
    if reader.peek()? == b'{' {
        let Some(inner) = item.list_item() else {
            return Err(reader.unexpected(b'{'));
        };
        let count = read_level(reader, inner, style, depth + 1)?;
        item.close_list(count);
        return Ok(());
    }
    let (text, quoted) = read_text(reader)?;
    if !quoted && text.eq_ignore_ascii_case("null") {
        item.append_null();
        return Ok(());
    }
    if item.list_item().is_some() {
        return Err(reader.malformed("Multidimensional arrays must have sub-arrays with matching dimensions."));
    }
    item.append_text(&text, style)
}

fn read_text(reader: &mut Reader) -> Result<(String, bool)> {
    let mut text = Vec::new();
    if reader.peek()? == b'"' {
        reader.at += 1;
        loop {
            match reader.peek()? {
                b'"' => break,
                b'\\' => {
                    reader.at += 1;
                    text.push(reader.peek()?);
                }
                byte => text.push(byte),
            }
            reader.at += 1;
        }
        reader.at += 1;
        return Ok((utf8(text), true));
    }
    let mut escaped = false;
    // Blanks at the end do not count unless they were escaped.
    let mut kept = 0;
    loop {
        match reader.peek()? {
            b',' | b'}' => break,
            byte @ (b'{' | b'"') => return Err(reader.unexpected(byte)),
            b'\\' => {
                reader.at += 1;
                text.push(reader.peek()?);
                kept = text.len();
                escaped = true;
            }
            byte => {
                text.push(byte);
                if !byte.is_ascii_whitespace() {
                    kept = text.len();
                }
            }
        }
        reader.at += 1;
    }
    text.truncate(kept);
    if text.is_empty() {
        return Err(reader.unexpected(reader.peek()?));
    }
    Ok((utf8(text), escaped))
}

fn utf8(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).expect("only whole characters are left out of a text")
}

/// Hands each field of a record literal to its column.
pub(super) fn read_record(literal: &str, columns: &mut [ColumnBuilder], style: &Style) -> Result<()> {
    let mut reader = Reader { literal, at: 0, kind: "record" };
    reader.skip_blanks();
    if reader.literal.as_bytes().get(reader.at) != Some(&b'(') {
        return Err(reader.malformed("Missing left parenthesis."));
    }
    reader.at += 1;
    for (at, column) in columns.iter_mut().enumerate() {
        if at > 0 {
            match reader.peek()? {
                b',' => reader.at += 1,
                _ => return Err(reader.malformed("Too few columns.")),
            }
        }
        match read_field(&mut reader)? {
            Some(text) => column.append_text(&text, style)?,
            None => column.append_null(),
        }
    }
    match reader.peek()? {
        b')' => reader.at += 1,
        _ => return Err(reader.malformed("Too many columns.")),
    }
    reader.end("right parenthesis")
}

/// Up to the next comma or parenthesis; nothing at all is null.
fn read_field(reader: &mut Reader) -> Result<Option<String>> {
    if matches!(reader.peek()?, b',' | b')') {
        return Ok(None);
    }
    let mut text = Vec::new();
    let mut in_quotes = false;
    loop {
        let byte = reader.peek()?;
        match byte {
            b'"' => {
                if in_quotes && reader.literal.as_bytes().get(reader.at + 1) == Some(&b'"') {
                    text.push(b'"');
                    reader.at += 1;
                } else {
                    in_quotes = !in_quotes;
                }
            }
            b'\\' => {
                reader.at += 1;
                text.push(reader.peek()?);
            }
            b',' | b')' if !in_quotes => return Ok(Some(utf8(text))),
            byte => text.push(byte),
        }
        reader.at += 1;
    }
}
