//! The frame of every persisted value: one byte that says how the rest is to be read.
//!
//! ```text
//!   ┌─────────┬──────────────────────────────────────────┐
//!   │ version │ postcard of a struct, or an encoded row  │
//!   └─────────┴──────────────────────────────────────────┘
//! ```
//!
//! A struct that grows gets a new version here and a reader for the old one.

use serde::Serialize;
use serde::de::DeserializeOwned;
use tidemark_common::{Error, Result, SqlState};

/// The version that this build writes, the only one that exists.
pub const VERSION: u8 = 1;

/// Frames bytes that have an encoding of their own.
pub fn frame(bytes: &[u8]) -> Vec<u8> {
    let mut framed = Vec::with_capacity(bytes.len() + 1);
    framed.push(VERSION);
    framed.extend_from_slice(bytes);
    framed
}

/// The bytes inside the frame.
pub fn unframe(value: &[u8]) -> Result<&[u8]> {
    match value.split_first() {
        Some((&VERSION, bytes)) => Ok(bytes),
        Some((version, _)) => Err(Error::new(
            SqlState::DataCorrupted,
            format!("a stored value has format version {version}, this build reads {VERSION}"),
        )
        .with_hint("Open the data directory with the version of Tidemark that wrote it.")),
        None => Err(Error::new(SqlState::DataCorrupted, "a stored value is empty, without its format version")),
    }
}

pub fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>> {
    postcard::to_extend(value, vec![VERSION])
        .map_err(|e| Error::internal(format!("cannot encode a {}: {e}", std::any::type_name::<T>())))
}

pub fn decode<T: DeserializeOwned>(value: &[u8]) -> Result<T> {
    postcard::from_bytes(unframe(value)?).map_err(|e| {
        Error::new(SqlState::DataCorrupted, format!("a stored {} cannot be read: {e}", std::any::type_name::<T>()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_pinned() {
        assert_eq!(encode(&(7u64, "ab", -1i64)).unwrap(), [1, 7, 2, b'a', b'b', 1]);
        assert_eq!(decode::<(u64, String, i64)>(&[1, 7, 2, b'a', b'b', 1]).unwrap(), (7, "ab".to_string(), -1));
        assert_eq!(frame(b"xy"), [1, b'x', b'y']);
        assert_eq!(unframe(&[1, b'x']).unwrap(), b"x");
    }

    #[test]
    fn another_version_is_refused() {
        assert_eq!(unframe(&[9, 1]).unwrap_err().state(), SqlState::DataCorrupted);
        assert_eq!(unframe(&[]).unwrap_err().state(), SqlState::DataCorrupted);
        assert_eq!(decode::<u64>(&[1]).unwrap_err().state(), SqlState::DataCorrupted);
    }
}
