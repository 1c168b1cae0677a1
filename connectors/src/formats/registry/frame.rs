//! The five bytes before a record: a zero, and the schema's id.

use tidemark_common::{Error, Result, SqlState};

const MAGIC: u8 = 0;
const LENGTH: usize = 5;

/// The schema's id, and what comes after it.
pub(crate) fn split(record: &[u8]) -> Result<(u32, &[u8])> {
    match record {
        [MAGIC, a, b, c, d, body @ ..] => Ok((u32::from_be_bytes([*a, *b, *c, *d]), body)),
        _ => Err(Error::new(SqlState::InvalidBinaryRepresentation, "the record names no schema")
            .with_detail(match record.first() {
                Some(&MAGIC) => format!("It has {} bytes; a zero and the schema's id are {LENGTH}.", record.len()),
                Some(first) => format!("It begins with the byte {first:#04x}, not with a zero and the schema's id."),
                None => "It is empty.".to_string(),
            })
            .with_hint("Records that were written without a registry are read by schema.location.")),
    }
}

/// A record's beginning.
pub(crate) fn begin(id: u32) -> Vec<u8> {
    let mut record = Vec::with_capacity(64);
    record.push(MAGIC);
    record.extend(id.to_be_bytes());
    record
}
