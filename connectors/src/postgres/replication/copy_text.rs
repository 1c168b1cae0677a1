//! The rows of COPY in its text format, in which each value is as the type's output function writes it: as the stream has it, too.
//!
//! ```text
//!   12 ⇥ a\tb ⇥ \N ⏎        fields between tabs, \N for NULL, \b \f \n \r \t \v \\ within values
//! ```
//!
//! Bytes may break anywhere; a row is taken when all of it is there.

use bytes::{Buf, BytesMut};

use tidemark_common::Result;

use super::raw::malformed;

/// A row that is longer has no end that would ever come: PostgreSQL's own fit.
const MAX_ROW: usize = 1 << 30;

#[derive(Debug, Default)]
pub struct Lines {
    buffer: BytesMut,
    /// Bytes of the buffer in which no end has been found.
    searched: usize,
    row: Row,
}

/// A row's values, one behind the other.
#[derive(Debug, Default)]
pub struct Row {
    bytes: Vec<u8>,
    /// Where each ends in `bytes`; `None` for NULL.
    ends: Vec<(usize, bool)>,
}

impl Lines {
    pub fn push(&mut self, bytes: &[u8]) -> Result<()> {
        if self.buffer.len() + bytes.len() > MAX_ROW {
            return Err(malformed(format_args!("a row is longer than {MAX_ROW} bytes")));
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    /// The next row that is there whole.
    pub fn next(&mut self) -> Option<&Row> {
        let Some(end) = self.buffer[self.searched..].iter().position(|b| *b == b'\n') else {
            self.searched = self.buffer.len();
            return None;
        };
        let end = self.searched + end;
        self.row.read(&self.buffer[..end]);
        self.buffer.advance(end + 1);
        self.searched = 0;
        Some(&self.row)
    }

    /// No more will come.
    pub fn finish(&self) -> Result<()> {
        if self.buffer.is_empty() { Ok(()) } else { Err(malformed("the rows ended in the middle of one")) }
    }
}

impl Row {
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// `None`: NULL.
    pub fn get(&self, at: usize) -> Option<&[u8]> {
        let begin = if at == 0 { 0 } else { self.ends[at - 1].0 };
        let (end, is_null) = self.ends[at];
        (!is_null).then(|| &self.bytes[begin..end])
    }

    fn read(&mut self, line: &[u8]) {
        self.bytes.clear();
        self.ends.clear();
        for field in line.split(|b| *b == b'\t') {
            let is_null = field == b"\\N";
            if !is_null {
                self.unescape(field);
            }
            self.ends.push((self.bytes.len(), is_null));
        }
    }

    fn unescape(&mut self, field: &[u8]) {
        let mut rest = field;
        while let Some(at) = rest.iter().position(|b| *b == b'\\') {
            self.bytes.extend_from_slice(&rest[..at]);
            let escaped = rest.get(at + 1).copied().unwrap_or(b'\\');
            self.bytes.push(match escaped {
                b'b' => 0x08,
                b'f' => 0x0c,
                b'n' => b'\n',
                b'r' => b'\r',
                b't' => b'\t',
                b'v' => 0x0b,
                other => other,
            });
            rest = rest.get(at + 2..).unwrap_or_default();
        }
        self.bytes.extend_from_slice(rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(pieces: &[&[u8]]) -> Vec<Vec<Option<String>>> {
        let (mut lines, mut rows) = (Lines::default(), Vec::new());
        for piece in pieces {
            lines.push(piece).unwrap();
            while let Some(row) = lines.next() {
                rows.push((0..row.len()).map(|i| row.get(i).map(|v| String::from_utf8(v.to_vec()).unwrap())).collect());
            }
        }
        lines.finish().unwrap();
        rows
    }

    #[test]
    fn bytes_may_break_anywhere() {
        let text = b"1\t\\N\ta\\tb\\nc\\\\N\n\\\\N\t\t\\b\\f\\r\\v\n";
        let some = |text: &str| Some(text.to_string());
        let wanted =
            vec![vec![some("1"), None, some("a\tb\nc\\N")], vec![some("\\N"), some(""), some("\u{8}\u{c}\r\u{b}")]];
        for size in 1..=text.len() {
            assert_eq!(rows(&text.chunks(size).collect::<Vec<_>>()), wanted, "in pieces of {size}");
        }
        assert_eq!(rows(&[b"\n"]), [[some("")]]);
        let mut cut = Lines::default();
        cut.push(b"1\t2").unwrap();
        assert!(cut.next().is_none());
        assert_eq!(cut.finish().unwrap_err().code(), "08P01");
    }
}
