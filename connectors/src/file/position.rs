//! How far a file has been read, as text: `seq:rows`, and when it is done `seq:rows:done:size`.

use std::fmt;
use std::str::FromStr;

use tidemark_common::{Error, Result, SqlState};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FilePosition {
    /// In which order files were begun: a replay keeps to it, whatever files have come since.
    pub seq: u64,
    /// Records read, bad ones counted.
    pub rows: u64,
    /// The file's size in bytes once it has been read to its end.
    pub done: Option<u64>,
}

impl fmt::Display for FilePosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.seq, self.rows)?;
        match self.done {
            Some(size) => write!(f, ":done:{size}"),
            None => Ok(()),
        }
    }
}

impl FromStr for FilePosition {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parts: Vec<&str> = text.split(':').collect();
        let number = |part: &str| {
            part.parse::<u64>()
                .map_err(|_| Error::new(SqlState::DataCorrupted, format!("\"{text}\" is not a file position")))
        };
        match parts.as_slice() {
            [seq, rows] => Ok(Self { seq: number(seq)?, rows: number(rows)?, done: None }),
            [seq, rows, "done", size] => Ok(Self { seq: number(seq)?, rows: number(rows)?, done: Some(number(size)?) }),
            _ => Err(Error::new(SqlState::DataCorrupted, format!("\"{text}\" is not a file position"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        for text in ["0:0", "7:120", "3:9:done:4096"] {
            assert_eq!(text.parse::<FilePosition>().unwrap().to_string(), text);
        }
        for text in ["", "1", "1:2:3", "1:2:over:3", "a:1"] {
            assert_eq!(text.parse::<FilePosition>().unwrap_err().code(), "XX001", "{text}");
        }
    }
}
