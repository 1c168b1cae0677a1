//! `connector = 'file'`: files of a directory or bucket as a source, and a file an epoch as a sink.
//!
//! ```text
//!   path ──store──▶ object store + pattern ──listing, every poll_interval──▶ keys not read yet, in key order
//!     ──remote──▶ bytes ──compression──▶ bytes ──formats──▶ rows ──▶ SourceBatch { split = key, position = "seq:rows" }
//!
//!   rows of an epoch ──formats::encode──▶ <prefix>-<epoch>.<ext>
//! ```
//!
//! A file is read once, whole, when it is first seen; one that grows or changes afterwards is not read again (a warning says
//! so). Names that start with '_' or '.' are passed over: write a file under such a name and rename it when it is whole.

pub(crate) mod compression;
mod options;
mod position;
mod read;
mod remote;
mod sink;
mod source;
mod store;

pub(crate) use sink::open as open_sink;
pub(crate) use source::{infer, open as open_source};

#[cfg(test)]
mod sink_tests;
#[cfg(test)]
mod source_tests;
