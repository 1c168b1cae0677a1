//! Kept rows of an input that only grows: nobody takes one back, so none has to be found again, and what comes of a key together
//! stands together.
//!
//! ```text
//!   join key ++ epoch (u64) ++ piece (u32) ─▶ weight, length (varints), the columns beside the key · the next row ..
//! ```
//!
//! So an epoch writes an entry a key, not one a row, and looks nothing up for it. Pieces bound the values; where rows are let go by
//! their times, those of a piece lie close together in time, and it goes with its last one.

use tidemark_common::{Epoch, Error, Result};
use tidemark_storage::{KeyedState, Snapshot};

use super::horizon::{PIECE_ROWS, PIECE_SPAN};

/// What stands behind the join's key.
const SUFFIX: usize = 12;

pub struct Log(KeyedState);

/// A row: when it is let go, if it is; its weight; its columns beside the key.
pub type Row<'a> = (Option<i64>, i64, &'a [u8]);

impl Log {
    pub fn new(entries: KeyedState) -> Self {
        Self(entries)
    }

    /// Calls `each` with the rows of `keys`: the position of the key, weight and columns.
    pub fn find(&mut self, snapshot: &Snapshot, keys: &[&[u8]], mut each: impl FnMut(usize, i64, &[u8])) -> Result<()> {
        let mut is_whole = true;
        self.0.scan_prefixes(snapshot, keys, |at, _, value| {
            let mut rest = value;
            while let Some((weight, row)) = split_row(&mut rest) {
                each(at, weight, row);
            }
            is_whole &= rest.is_empty();
        })?;
        if is_whole { Ok(()) } else { Err(Error::internal("a piece of a join's rows is damaged")) }
    }

    /// Keeps rows of a key, all that come of it in this epoch. Gives the last time of each piece, and its entry.
    pub fn keep(&mut self, epoch: Epoch, key: &[u8], rows: &mut [Row<'_>]) -> Result<Vec<(Option<i64>, Vec<u8>)>> {
        rows.sort_by_key(|(time, ..)| *time);
        let mut rest = &*rows;
        let mut pieces = Vec::new();
        let mut value = Vec::new();
        while let Some((first, ..)) = rest.first() {
            let last = first.map(|first| first.saturating_add(PIECE_SPAN));
            let len = rest.partition_point(|(time, ..)| *time <= last).min(PIECE_ROWS);
            let (piece, others) = rest.split_at(len);
            value.clear();
            for (_, weight, row) in piece {
                value = write(&(weight, row.len()), value)?;
                value.extend_from_slice(row);
            }
            let entry = [key, &epoch.to_be_bytes(), &(pieces.len() as u32).to_be_bytes()].concat();
            self.0.put(&entry, &value);
            pieces.push((piece[len - 1].0, entry));
            rest = others;
        }
        Ok(pieces)
    }

    /// The length of the join's key in an entry.
    pub fn key_len(entry: &[u8]) -> usize {
        entry.len() - SUFFIX
    }

    pub fn entries(&self) -> &KeyedState {
        &self.0
    }

    pub fn entries_mut(&mut self) -> &mut KeyedState {
        &mut self.0
    }
}

fn write(head: &(&i64, usize), to: Vec<u8>) -> Result<Vec<u8>> {
    postcard::to_extend(head, to).map_err(|e| Error::internal(format!("cannot encode a row's weight: {e}")))
}

fn split_row<'a>(rest: &mut &'a [u8]) -> Option<(i64, &'a [u8])> {
    let ((weight, len), tail) = postcard::take_from_bytes::<(i64, usize)>(rest).ok()?;
    let (row, others) = tail.split_at_checked(len)?;
    *rest = others;
    Some((weight, row))
}
