//! What lasts: one RocksDB store, written by one batch an epoch and read through snapshots.
//!
//! ```text
//!                 the epoch being made                                the epochs committed
//!   Delta ──▶ CollectionWriter ──┐
//!   state ──▶ KeyedState ────────┼──▶ EpochCommit ──▶ Store::commit ──▶ Arc<Snapshot> ──▶ CollectionScan ──▶ RecordBatch
//!   offsets, objects, outbox ────┘        (one WriteBatch, Key::Epoch in it)     └─────▶ get, multi_get, scan
//! ```
//!
//! [`Key`] lists every persisted key, [`value`] frames every persisted value, [`RowCodec`] turns rows into bytes whose
//! order is the rows' order. [`KeyedState`] is the cache that keeps hot entries away from RocksDB.
//!
//! Architecture invariants: no other crate knows RocksDB; nothing is written except through [`Store::commit`], and
//! through [`Store::prepare`] what no reader looks for before a commit says that it is there, or what changes nothing of what readers
//! find; nothing here is async, knows SQL, or knows what an operator is.

mod build;
mod collection;
mod commit;
mod errors;
mod hot;
mod keys;
mod rows;
mod snapshot;
mod state;
mod stats;
mod store;
pub mod value;

pub use collection::{
    Collection, CollectionScan, CollectionWriter, FoldRules, FoundRows, Index, IndexKeys, IndexScan, KeyRange, Layout,
    MIN_BLOCK_ROWS, Way, WholeScan, key_of_number, number_of_key,
};
pub use commit::EpochCommit;
pub use keys::{Key, Span, StateId, successor};
pub use rows::{EncodedRows, RowCodec, keys_keep_values};
pub use snapshot::{Chunk, Direction, Scan, Snapshot};
pub use state::{Entry, KeyedState};
pub use stats::StoreStats;
pub use store::{FORMAT_VERSION, Store, StoreOptions};
