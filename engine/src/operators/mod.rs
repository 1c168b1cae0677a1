//! Operators: plain functions from changes to changes, with state that a commit makes durable.
//!
//! ```text
//!   chunks of changes ──step──▶ chunks of changes      (state changes in memory)
//!                       flush ──▶ this epoch's commit   (the dirty part of it goes to disk)
//! ```
//!
//! One operator, one file. Each node of a dataflow has one instance a shard; an instance sees only the rows of its shard
//! and shares nothing. No async, no locks, no clocks in here but the epoch's own time: the same input in the same epochs gives
//! the same bytes.

pub mod aggregate;
pub mod clock;
pub mod constant;
mod due;
pub mod exchange;
pub mod filter;
pub mod join;
pub mod lookup_join;
pub mod over;
pub mod pace;
pub mod panes;
mod partitions;
pub mod project;
pub mod sessions;
pub mod temporal;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
pub(crate) mod time_index;
pub mod top_n;
pub mod union;
pub mod unnest;

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::array::{Array, BooleanArray};
use datafusion::arrow::compute::prep_null_mask_filter;
use datafusion::scalar::ScalarValue;
use tidemark_common::{Delta, Epoch, Error, Oid, Result};
use tidemark_storage::{Collection, EpochCommit, Index, Snapshot};

use self::lookup_join::LookupJoin;

/// Changes of one epoch on one shard, in pieces, in order. No empty pieces.
pub type Chunks = Vec<Delta>;

/// Watermarks by column position: from now on no row has a smaller value there.
pub type Watermarks = BTreeMap<usize, ScalarValue>;

/// What an operator may know of the epoch it works in.
pub struct StepContext<'a> {
    /// The epoch that is made.
    pub epoch: Epoch,
    /// All state as of the last committed epoch.
    pub snapshot: &'a Snapshot,
    /// The collections in which joins look rows up, as of that epoch.
    pub held: &'a HeldCollections,
    /// The dataflow has never stepped before: what is there without input (constants, the row of an aggregate without
    /// GROUP BY) is sent now. True on one shard only, shard 0.
    pub first: bool,
    /// The input's watermarks before this epoch: what lies below them was final already.
    pub watermarks_before: &'a Watermarks,
    /// The input's watermarks after this epoch's rows: what lies below them becomes final now.
    pub watermarks: &'a Watermarks,
    /// Those of a second input, before and after; none, if there is no second.
    pub right_watermarks_before: &'a Watermarks,
    pub right_watermarks: &'a Watermarks,
    /// The first and the second input have been silent for longer than their users are willing to wait.
    pub idle: [bool; 2],
    /// The time of the epoch, in microseconds since 1970. Never before that of an earlier epoch.
    pub now: i64,
}

/// By OID.
pub type HeldCollections = BTreeMap<Oid, Held>;

/// A collection as it was stored before an epoch, and what of it had come to the dataflow.
#[derive(Debug, Clone)]
pub struct Held {
    pub collection: Arc<Collection>,
    pub indexes: Vec<Arc<Index>>,
    pub seen: Seen,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    Nothing,
    /// A backfill has read the keys up to this one.
    UpTo(Vec<u8>),
    All,
}

pub trait Operator: Send {
    /// Takes one shard's changes of one epoch, one element for each input; gives the changes of its output.
    fn step(&mut self, ctx: &StepContext<'_>, inputs: Vec<Chunks>) -> Result<Chunks>;

    /// Adds the state that changed since the last flush to the commit. Stateless operators have nothing to add.
    fn flush(&mut self, _commit: &mut EpochCommit) -> Result<()> {
        Ok(())
    }

    /// When it has something to do though nothing comes in: a time in microseconds since 1970.
    fn due_at(&self) -> Result<Option<i64>> {
        Ok(None)
    }

    /// Live state entries and their bytes in memory, for EXPLAIN ANALYZE and metrics.
    fn state_size(&self) -> StateSize {
        StateSize::default()
    }

    /// Rows dropped since the last call because their group had closed before they came.
    fn take_late_rows(&mut self) -> u64 {
        0
    }

    /// The one operator that asks other systems.
    fn lookup(&self) -> Option<&LookupJoin> {
        None
    }

    fn lookup_mut(&mut self) -> Option<&mut LookupJoin> {
        None
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StateSize {
    /// 0 where that is not known without counting: state that is not all in memory.
    pub entries: u64,
    pub cached_bytes: u64,
}

/// Where a mask is true; NULL is not.
fn true_rows(mask: &BooleanArray) -> BooleanArray {
    if mask.null_count() == 0 { mask.clone() } else { prep_null_mask_filter(mask) }
}

/// Refuses a weight below 0. `what`: of what, in operator `name`.
fn check_weight(name: &str, what: &str, weight: i64) -> Result<()> {
    match weight {
        0.. => Ok(()),
        _ => Err(Error::internal(format!(
            "{name}: {what} is there {weight} times: it went away more often than it had come"
        ))),
    }
}

/// The changes of the one input of an operator that has one.
fn only_input(mut inputs: Vec<Chunks>) -> Result<Chunks> {
    match (inputs.pop(), inputs.is_empty()) {
        (Some(only), true) => Ok(only),
        _ => Err(Error::internal("an operator with one input got another number of them")),
    }
}
