//! A place in the server's log, as the server writes it: `16/B374D848`.

use std::fmt;
use std::str::FromStr;

use tidemark_common::{Error, Result, SqlState};

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lsn(pub u64);

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

impl FromStr for Lsn {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let part = |part: &str| match part.len() {
            1..=8 if part.bytes().all(|b| b.is_ascii_hexdigit()) => u64::from_str_radix(part, 16).ok(),
            _ => None,
        };
        let parts = text.split_once('/').and_then(|(high, low)| Some((part(high)?, part(low)?)));
        let (high, low) = parts.ok_or_else(|| {
            Error::new(SqlState::DataCorrupted, format!("\"{text}\" is no position in a log, such as 0/16B3748"))
        })?;
        Ok(Self(high << 32 | low))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_the_servers() {
        for (lsn, text) in
            [(0, "0/0"), (0x16B_3748, "0/16B3748"), (0x16_B374_D848, "16/B374D848"), (u64::MAX, "FFFFFFFF/FFFFFFFF")]
        {
            assert_eq!(Lsn(lsn).to_string(), text);
            assert_eq!(text.parse::<Lsn>().unwrap(), Lsn(lsn));
        }
        assert_eq!("0/016b3748".parse::<Lsn>().unwrap(), Lsn(0x16B_3748), "as PostgreSQL 19 pads it");
        for wrong in ["", "/", "0/", "/0", "0", "0/0/0", "0/g", "+1/0", "0/ 1", "123456789/0", "0/123456789"] {
            assert_eq!(wrong.parse::<Lsn>().unwrap_err().code(), "XX001", "{wrong}");
        }
    }
}
