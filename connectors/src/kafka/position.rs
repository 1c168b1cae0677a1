//! How far a partition has been read: `120..458`, from offset 120 on and up to 458.
//!
//! The start is kept, so that whoever reads the source again begins where the first reading did, wherever its `latest` would be now.

use std::fmt;
use std::str::FromStr;

use tidemark_common::{Error, SqlState};

/// Offsets; `next` is the one after the last that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct KafkaPosition {
    pub start: i64,
    pub next: i64,
}

impl fmt::Display for KafkaPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.start, self.next)
    }
}

impl FromStr for KafkaPosition {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let parsed = text.split_once("..").and_then(|(start, next)| Some((start.parse().ok()?, next.parse().ok()?)));
        match parsed {
            Some((start, next)) if 0 <= start && start <= next => Ok(Self { start, next }),
            _ => Err(Error::new(
                SqlState::DataCorrupted,
                format!("the position of a partition must be two offsets, not \"{text}\""),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_read_as_they_are_written() {
        let position = KafkaPosition { start: 120, next: 458 };
        assert_eq!(position.to_string().parse::<KafkaPosition>().unwrap(), position);
        for text in ["", "5", "5..", "7..3", "-2..3", "a..b"] {
            assert!(text.parse::<KafkaPosition>().is_err(), "{text}");
        }
    }
}
