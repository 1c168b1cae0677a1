//! What the store says about itself, for metrics and system tables.

use rocksdb::{DB, Range, properties};
use tidemark_common::{Epoch, Result};

use crate::errors::from_rocksdb;
use crate::keys::{self, KINDS};

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoreStats {
    pub epoch: Epoch,
    /// Entries of all kinds, an estimate.
    pub entries: u64,
    /// Bytes of the tables on disk.
    pub table_bytes: u64,
    /// Bytes not yet in tables: in memory, and in the log.
    pub memtable_bytes: u64,
    pub block_cache_bytes: u64,
    pub block_cache_pinned_bytes: u64,
    pub table_reader_bytes: u64,
    /// Bytes that compaction has yet to rewrite; when it grows, writes come faster than the disk takes them.
    pub pending_compaction_bytes: u64,
    pub running_compactions: u64,
    pub running_flushes: u64,
    pub snapshots: u64,
    pub background_errors: u64,
    /// RocksDB holds writers back, because compaction is behind.
    pub write_stopped: bool,
    /// Approximate bytes on disk of each kind of key.
    pub bytes_by_kind: Vec<(&'static str, u64)>,
}

pub(crate) fn collect(db: &DB, epoch: Epoch) -> Result<StoreStats> {
    let number = |name: &properties::PropName| -> Result<u64> {
        // A property that RocksDB does not keep under these options counts as nothing.
        Ok(db.property_int_value(name).map_err(from_rocksdb)?.unwrap_or(0))
    };
    let spans: Vec<_> = KINDS.iter().map(|(_, tag)| keys::span(vec![*tag])).collect();
    let ranges: Vec<_> = spans.iter().map(|span| Range::new(&span.start, &span.end)).collect();
    let sizes = db.get_approximate_sizes(&ranges);
    Ok(StoreStats {
        epoch,
        entries: number(properties::ESTIMATE_NUM_KEYS)?,
        table_bytes: number(properties::TOTAL_SST_FILES_SIZE)?,
        memtable_bytes: number(properties::CUR_SIZE_ALL_MEM_TABLES)?,
        block_cache_bytes: number(properties::BLOCK_CACHE_USAGE)?,
        block_cache_pinned_bytes: number(properties::BLOCK_CACHE_PINNED_USAGE)?,
        table_reader_bytes: number(properties::ESTIMATE_TABLE_READERS_MEM)?,
        pending_compaction_bytes: number(properties::ESTIMATE_PENDING_COMPACTION_BYTES)?,
        running_compactions: number(properties::NUM_RUNNING_COMPACTIONS)?,
        running_flushes: number(properties::NUM_RUNNING_FLUSHES)?,
        snapshots: number(properties::NUM_SNAPSHOTS)?,
        background_errors: number(properties::BACKGROUND_ERRORS)?,
        write_stopped: number(properties::IS_WRITE_STOPPED)? != 0,
        bytes_by_kind: KINDS.iter().map(|(name, _)| *name).zip(sizes).collect(),
    })
}
