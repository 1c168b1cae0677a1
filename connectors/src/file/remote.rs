//! A file of an object store as something to read from.
//!
//! Decoders are plain code that reads; the store is async. A decoder runs on a blocking thread, and here it waits for the store.
//!
//! ```text
//!   text      read()                    ──▶ blocks one after the other
//!   Parquet   get_read() of a header,   ──▶ a column's pages lie next to each other, and those of several columns are read in turn:
//!             get_bytes() of its page       the last blocks are kept, so that the store is asked once for many pages
//! ```

use std::collections::VecDeque;
use std::io::{self, Read};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Buf, Bytes};
use datafusion::parquet::errors::ParquetError;
use datafusion::parquet::file::reader::{ChunkReader, Length};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use tokio::runtime::Handle;

/// What is asked of the store at a time when a file is read from end to end.
const BLOCK_BYTES: u64 = 2 << 20;
/// What is asked of the store where single pages are read, and how much of that is kept.
const PAGES_BYTES: u64 = 512 << 10;
const KEPT_BLOCKS: usize = 64;

#[derive(Clone)]
pub(super) struct RemoteFile {
    store: Arc<dyn ObjectStore>,
    key: Path,
    size: u64,
    runtime: Handle,
    /// Bytes had from the store, by this and all its clones.
    fetched: Arc<AtomicU64>,
    /// Blocks of pages, by where they start, the newest last.
    kept: Arc<Mutex<VecDeque<(u64, Bytes)>>>,
}

impl RemoteFile {
    /// To be called inside the runtime, and used on a thread where one may block.
    pub fn new(store: Arc<dyn ObjectStore>, meta: &ObjectMeta) -> Self {
        Self {
            store,
            key: meta.location.clone(),
            size: meta.size,
            runtime: Handle::current(),
            fetched: Arc::default(),
            kept: Arc::default(),
        }
    }

    pub fn fetched(&self) -> Arc<AtomicU64> {
        self.fetched.clone()
    }

    /// The file from its start.
    pub fn read(&self) -> RemoteRead {
        RemoteRead { file: self.clone(), at: 0, block: Bytes::new(), pages: false }
    }

    /// What is at `start`: at least `length` bytes unless the file ends before, out of a block that is kept from here on.
    fn pages(&self, start: u64, length: u64) -> io::Result<Bytes> {
        let end = start.saturating_add(length).min(self.size);
        let holds = |(at, block): &(u64, Bytes)| *at <= start && end <= *at + block.len() as u64;
        let kept = || self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, block)) = kept().iter().rev().find(|block| holds(block)) {
            return Ok(block.slice((start - at) as usize..));
        }
        let block = self.fetch(start, start.saturating_add(length.max(PAGES_BYTES)))?;
        let mut kept = kept();
        if kept.len() == KEPT_BLOCKS {
            kept.pop_front();
        }
        kept.push_back((start, block.clone()));
        Ok(block)
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
        Ok(RemoteRead { file: self.clone(), at: start, block: Bytes::new(), pages: true })
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        let bytes = self.pages(start, length as u64)?;
        if bytes.len() < length {
            return Err(ParquetError::EOF(format!("expected {length} bytes at {start}, found {}", bytes.len())));
        }
        Ok(bytes.slice(..length))
    }
}

/// Reads on from one place.
pub(super) struct RemoteRead {
    file: RemoteFile,
    at: u64,
    block: Bytes,
    /// Only a little is read.
    pages: bool,
}

impl Read for RemoteRead {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.block.is_empty() {
            self.block = match self.pages {
                true => self.file.pages(self.at, into.len() as u64)?,
                false => self.file.fetch(self.at, self.at + BLOCK_BYTES)?,
            };
            self.at += self.block.len() as u64;
        }
        let length = into.len().min(self.block.len());
        self.block.copy_to_slice(&mut into[..length]);
        Ok(length)
    }
}
