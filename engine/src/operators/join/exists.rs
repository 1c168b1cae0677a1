//! Joins that only ask whether a key is there: semi, anti and mark joins without a further condition.
//!
//! ```text
//!   right rows ─▶ counts: key ─▶ how many rows have it     only where that becomes 0, or is 0 no longer,
//!   left rows  ─▶ kept by key                              are the kept left rows of the key looked at
//! ```

use tidemark_common::plan::JoinKind;
use tidemark_common::{Error, Result};
use tidemark_storage::{EpochCommit, KeyedState, Snapshot};

use super::emit::Output;
use super::side::{Keys, Side};
use super::two_inputs;
use crate::operators::aggregate::keys::GroupNumbers;
use crate::operators::aggregate::size_of;
use crate::operators::{Chunks, Operator, StateSize, StepContext};

pub struct Exists {
    /// For errors.
    name: String,
    kind: JoinKind,
    left: Side,
    right: Keys,
    /// Key ─▶ how many right rows have it.
    counts: KeyedState,
    output: Output,
}

/// Of one key.
#[derive(Debug, Clone, Copy)]
struct Count {
    before: i64,
    after: i64,
}

impl Count {
    fn appears_or_vanishes(self) -> bool {
        (self.before > 0) != (self.after > 0)
    }
}

impl Exists {
    pub fn new(name: String, kind: JoinKind, left: Side, right: Keys, counts: KeyedState, output: Output) -> Self {
        Self { name, kind, left, right, counts, output }
    }

    /// How much the number of right rows of each key changes.
    fn right_changes(&self, chunks: &Chunks, groups: &mut GroupNumbers) -> Result<Vec<i64>> {
        let mut changes = vec![0; groups.len()];
        for delta in chunks {
            self.right.each(&delta.batch, |row, key| {
                let Some(key) = key else { return };
                let group = groups.number(None, key);
                changes.resize(groups.len(), 0);
                changes[group] += delta.weight(row);
            })?;
        }
        Ok(changes)
    }

    /// Counts the right rows of each touched key.
    fn count(&mut self, snapshot: &Snapshot, groups: &GroupNumbers, changes: &[i64]) -> Result<Vec<Count>> {
        let keys = groups.keys();
        self.counts.load(snapshot, &keys)?;
        let mut counts = Vec::with_capacity(keys.len());
        for (key, change) in keys.into_iter().zip(changes) {
            let broken = |e| Error::internal(format!("{}: the count of a key cannot be read: {e}", self.name));
            let before: i64 = self.counts.get(key).map_or(Ok(0), postcard::from_bytes).map_err(broken)?;
            let after = before + change;
            match after {
                _ if *change == 0 => {}
                0 => self.counts.delete(key),
                1.. => {
                    let mut buffer = [0; 10];
                    let value = postcard::to_slice(&after, &mut buffer).map_err(broken)?;
                    self.counts.put(key, value);
                }
                _ => {
                    return Err(Error::internal(format!(
                        "{}: a key is there {after} times: rows went away more often than they had come",
                        self.name
                    )));
                }
            }
            counts.push(Count { before, after });
        }
        Ok(counts)
    }
}

impl Operator for Exists {
    fn step(&mut self, ctx: &StepContext<'_>, inputs: Vec<Chunks>) -> Result<Chunks> {
        let [left, right] = two_inputs(inputs)?;
        if left.is_empty() && right.is_empty() {
            return Ok(Chunks::new());
        }
        let mut groups = GroupNumbers::default();
        let changes = self.left.changes(&left, &mut groups)?;
        let right = self.right_changes(&right, &mut groups)?;
        let counts = self.count(ctx.snapshot, &groups, &right)?;
        let wanted: Vec<bool> = counts.iter().map(|count| count.appears_or_vanishes()).collect();
        let mut rows = self.left.load(ctx, &changes, &wanted, &groups)?;
        for (group, count) in counts.iter().enumerate() {
            rows.set_matches(group, count.before, count.after);
        }
        let mut output = Chunks::new();
        self.output.rows_alone(self.kind, true, Some(&rows), changes.keyless.as_ref(), &mut output)?;
        self.left.store(ctx, &rows, &groups)?;
        Ok(output)
    }

    fn flush(&mut self, commit: &mut EpochCommit) -> Result<()> {
        self.left.flush(commit);
        self.counts.flush(commit);
        Ok(())
    }

    fn state_size(&self) -> StateSize {
        size_of(self.left.kept().into_iter().chain([&self.counts]))
    }
}
