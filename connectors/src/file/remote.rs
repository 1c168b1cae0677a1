//! A file of an object store as something to read from.
//!
//! Decoders are plain code that reads; the store is async. A decoder runs on a blocking thread, and here it waits for the store.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Buf, Bytes};
use datafusion::parquet::errors::ParquetError;
use datafusion::parquet::file::reader::{ChunkReader, Length};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use tokio::runtime::Handle;

/// What is asked of the store at a time when a file is read from end to end.
const BLOCK_BYTES: u64 = 2 << 20;

#[derive(Clone)]
pub(super) struct RemoteFile {
    store: Arc<dyn ObjectStore>,
    key: Path,
    size: u64,
    runtime: Handle,
    /// Bytes had from the store, by this and all its clones.
    fetched: Arc<AtomicU64>,
}

impl RemoteFile {
    /// To be called inside the runtime, and used on a thread where one may block.
    pub fn new(store: Arc<dyn ObjectStore>, meta: &ObjectMeta) -> Self {
        Self { store, key: meta.location.clone(), size: meta.size, runtime: Handle::current(), fetched: Arc::default() }
    }

    pub fn fetched(&self) -> Arc<AtomicU64> {
        self.fetched.clone()
    }

    /// The file from its start.
    pub fn read(&self) -> RemoteRead {
        RemoteRead { file: self.clone(), at: 0, block: Bytes::new() }
    }

    fn fetch(&self, start: u64, end: u64) -> io::Result<Bytes> {
        let end = end.min(self.size);
        if start >= end {
            return Ok(Bytes::new());
        }
        let bytes = self.runtime.block_on(self.store.get_range(&self.key, start..end)).map_err(io::Error::other)?;
        self.fetched.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        if (bytes.len() as u64) < end - start {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file has become shorter while it was read"));
        }
        Ok(bytes)
    }
}

impl Length for RemoteFile {
    fn len(&self) -> u64 {
        self.size
    }
}

impl ChunkReader for RemoteFile {
    type T = RemoteRead;

    fn get_read(&self, start: u64) -> Result<RemoteRead, ParquetError> {
        Ok(RemoteRead { file: self.clone(), at: start, block: Bytes::new() })
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        let bytes = self.fetch(start, start.saturating_add(length as u64))?;
        if bytes.len() < length {
            return Err(ParquetError::EOF(format!("expected {length} bytes at {start}, found {}", bytes.len())));
        }
        Ok(bytes)
    }
}

/// Reads on from one place.
pub(super) struct RemoteRead {
    file: RemoteFile,
    at: u64,
    block: Bytes,
}

impl Read for RemoteRead {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.block.is_empty() {
            self.block = self.file.fetch(self.at, self.at + BLOCK_BYTES)?;
            self.at += self.block.len() as u64;
        }
        let length = into.len().min(self.block.len());
        self.block.copy_to_slice(&mut into[..length]);
        Ok(length)
    }
}
