//! RocksDB's errors as a Postgres user knows them.

use rocksdb::ErrorKind;
use tidemark_common::{Error, SqlState};

pub(crate) fn from_rocksdb(error: rocksdb::Error) -> Error {
    let kind = error.kind();
    let message = error.into_string();
    if message.contains("No space left on device") || message.contains("quota exceeded") {
        return Error::new(SqlState::DiskFull, format!("the disk of the data directory is full: {message}"))
            .with_hint("Make room on the disk, then restart; everything acknowledged is kept.");
    }
    let state = match kind {
        ErrorKind::IOError => SqlState::IoError,
        ErrorKind::Corruption => SqlState::DataCorrupted,
        _ => SqlState::Internal,
    };
    Error::new(state, format!("storage: {message}"))
}
