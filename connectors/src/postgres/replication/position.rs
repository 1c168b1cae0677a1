//! How far a source has been read, as text for the epoch.
//!
//! ```text
//!   (none)  ─▶  snapshot 0/16B3748, 8192 rows  ─▶  ..  ─▶  0/16B3748  ─▶  0/16B9A10  ─▶  ..
//! ```

use std::fmt;
use std::str::FromStr;

use tidemark_common::{Error, Result};

use super::lsn::Lsn;
use crate::Positions;

const SNAPSHOT: &str = "snapshot ";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// Rows of the snapshot at `at` have been copied, and not all of them: the next reader begins anew.
    Copying { at: Lsn, rows: u64 },
    /// What was committed before has been read.
    At(Lsn),
}

impl Position {
    /// Where the stream goes on; `None`: the copy comes first.
    pub fn of(positions: &Positions, split: &str) -> Result<Option<Lsn>> {
        let stored = positions.get(split).map(|text| text.parse()).transpose();
        match stored.map_err(|e: Error| e.context(format_args!("the stored position of {split}")))? {
            None | Some(Position::Copying { .. }) => Ok(None),
            Some(Position::At(lsn)) => Ok(Some(lsn)),
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Position::Copying { at, rows } => write!(f, "{SNAPSHOT}{at}, {rows} rows"),
            Position::At(lsn) => write!(f, "{lsn}"),
        }
    }
}

impl FromStr for Position {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let Some(rest) = text.strip_prefix(SNAPSHOT) else { return Ok(Position::At(text.parse()?)) };
        let (at, rows) = rest.split_once(", ").unwrap_or((rest, ""));
        let rows = rows.strip_suffix(" rows").and_then(|rows| rows.parse().ok());
        let rows = rows.ok_or_else(|| {
            Error::new(tidemark_common::SqlState::DataCorrupted, format!("\"{text}\" does not say how many rows"))
        })?;
        Ok(Position::Copying { at: at.parse()?, rows })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_says_where_to_go_on() {
        let of = |text: &str| Position::of(&Positions::from([("public.t".to_string(), text.to_string())]), "public.t");
        assert_eq!(Position::of(&Positions::new(), "public.t").unwrap(), None);
        assert_eq!(of("snapshot 0/A, 12 rows").unwrap(), None);
        assert_eq!(of("0/A").unwrap(), Some(Lsn(10)));
        for position in [Position::Copying { at: Lsn(10), rows: 8192 }, Position::At(Lsn(1 << 40))] {
            assert_eq!(position.to_string().parse::<Position>().unwrap(), position);
        }
        for wrong in ["", "snapshot ", "snapshot 0/A", "snapshot 0/A, x rows", "snapshot x, 1 rows", "later"] {
            assert_eq!(of(wrong).unwrap_err().code(), "XX001", "{wrong}");
        }
    }
}
