//! The outside world: one folder a system, `formats/` for how bytes become columns.
//!
//! ```text
//!   file, generator, topic ──SourceReader::next──▶ SourceBatch (decoded columns, position) ──▶ bounded queue ──▶ driver
//!   outbox of a sink ──SinkWriter::deliver(epoch, deltas)──▶ file, topic, table
//! ```
//!
//! Architecture invariant: nothing here calls the engine. The driver calls the traits of `tidemark_common::connector`, which
//! are implemented here; everything async lives on this side of them. A reader only moves forward and keeps no position of its own: what it has delivered becomes true when
//! the driver commits the positions that came with it, and a restart builds a new reader from those.

mod blackhole;
mod datagen;
mod fail;
mod file;
pub mod formats;
mod generator;
mod https;
pub mod kafka;
pub mod load;
mod nexmark;
pub mod options;
mod pace;
pub mod postgres;
mod spec;
#[cfg(test)]
mod testing;
mod wanted;

pub use fail::fail_point;
pub use tidemark_common::connector::{
    DeadLetter, MissingColumn, Positions, Record, RowChanges, RowOp, Sink, SinkWriter, Source, SourceBatch,
    SourceReader,
};

pub use spec::{
    FormatSpec, KEY_METADATA, PATH_METADATA, SinkSpec, SourceSpec, TableSpec, infer_columns, open_sink, open_source,
};

/// Rows that a reader makes or decodes at a time, at most.
pub const CHUNK_ROWS: usize = 8192;
