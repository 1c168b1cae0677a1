//! Which rows bring a value that DISTINCT has not counted yet. For input that only grows.
//!
//! ```text
//!   group key ++ number of the arguments (u8) ++ the values ─▶ a bit for each FILTER that let a row with them through
//!
//!   count(DISTINCT x), count(DISTINCT x) FILTER (WHERE a)      one entry for each x of a group, two bits
//! ```
//!
//! `f(DISTINCT x)` over all rows is `f(x)` over these, so that no call keeps its values in its own state, to be read and written
//! as a whole by every epoch.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, BooleanArray};
use datafusion::arrow::datatypes::{Field, FieldRef, SchemaRef};
use tidemark_common::{Error, Result};
use tidemark_storage::{EpochCommit, KeyedState, RowCodec, Snapshot};

use super::calls::Call;
use super::{Piece, Touched};

/// Functions for which the order of values does not matter, so that they need not be kept.
const OF_EACH_VALUE: [&str; 3] = ["count", "sum", "avg"];

pub struct Distinct {
    sets: Vec<Set>,
    values: KeyedState,
}

/// Calls with the same arguments.
struct Set {
    /// The first of them, which evaluates the arguments.
    call: usize,
    codec: RowCodec,
    /// Columns of the conditions, each a bit.
    filters: Vec<Option<usize>>,
}

/// Of a call: its set and its bit in there.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    set: usize,
    bit: usize,
}

/// For each piece of an epoch, set and bit: the rows that count.
pub struct Fresh(Vec<Vec<Vec<BooleanArray>>>);

impl Fresh {
    pub fn rows(&self, piece: usize, place: Place) -> &BooleanArray {
        &self.0[piece][place.set][place.bit]
    }
}

impl Distinct {
    pub fn new(values: KeyedState) -> Self {
        Self { sets: Vec::new(), values }
    }

    /// Sees to the values of `calls[at]`; `None`: it keeps them itself.
    pub fn keep(&mut self, calls: &[Call], at: usize, input: &SchemaRef) -> Result<Option<Place>> {
        let call = &calls[at];
        let name = call.function.fun().name();
        if !call.function.is_distinct() || call.is_ordered() || !OF_EACH_VALUE.contains(&name) {
            return Ok(None);
        }
        let set = match self.sets.iter().position(|set| calls[set.call].has_same_arguments(call)) {
            Some(set) => set,
            None => {
                let fields = call.argument_types(input)?.into_iter().map(|of| Arc::new(Field::new("value", of, true)));
                let fields: Vec<FieldRef> = fields.collect();
                self.sets.push(Set { call: at, codec: RowCodec::for_keys(&fields)?, filters: Vec::new() });
                self.sets.len() - 1
            }
        };
        let filters = &mut self.sets[set].filters;
        let bit = filters.iter().position(|filter| *filter == call.filter).unwrap_or(filters.len());
        if bit == filters.len() {
            filters.push(call.filter);
        }
        match (u8::try_from(set), bit) {
            (Ok(_), ..64) => Ok(Some(Place { set, bit })),
            _ => Err(Error::unsupported("more than 256 arguments of DISTINCT, or more than 64 conditions on one")),
        }
    }

    /// Takes the epoch's rows.
    pub fn apply(&mut self, snapshot: &Snapshot, touched: &Touched, calls: &[Call]) -> Result<Fresh> {
        let mut fresh: Vec<Vec<Vec<BooleanArray>>> = touched.pieces.iter().map(|_| Vec::new()).collect();
        for (number, set) in self.sets.iter().enumerate() {
            for (piece, fresh) in touched.pieces.iter().zip(&mut fresh) {
                let rows = set.rows(number as u8, calls, touched, piece)?;
                self.values.load(snapshot, &rows.keys())?;
                fresh.push(first_rows(&rows, set.filters.len(), &mut self.values));
            }
        }
        Ok(Fresh(fresh))
    }

    pub fn drop_below(&mut self, snapshot: &Snapshot, horizon: &[u8]) -> Result<()> {
        if self.sets.is_empty() { Ok(()) } else { self.values.drop_below(snapshot, horizon) }
    }

    pub fn flush(&mut self, commit: &mut EpochCommit) {
        self.values.flush(commit);
    }

    pub fn state(&self) -> &KeyedState {
        &self.values
    }
}

/// The rows of a piece that a condition lets through.
struct Rows {
    /// Their keys, one behind the other, and where each ends.
    keys: Vec<u8>,
    ends: Vec<usize>,
    /// Which conditions; none of other rows.
    bits: Vec<u64>,
}

impl Rows {
    fn keys(&self) -> Vec<&[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| &self.keys[start..*end]).collect()
    }
}

impl Set {
    fn rows(&self, number: u8, calls: &[Call], touched: &Touched, piece: &Piece) -> Result<Rows> {
        let (batch, count) = (&piece.batch, piece.batch.num_rows());
        let first = &calls[self.call];
        let arguments: Vec<ArrayRef> =
            (0..first.num_arguments()).map(|at| first.argument(batch, at)).collect::<Result<_>>()?;
        let values = self.codec.encode_rows(&arguments, count)?;
        let mut bits = vec![0_u64; count];
        for (bit, filter) in self.filters.iter().enumerate() {
            let call = calls.iter().find(|call| call.filter == *filter).unwrap_or(first);
            match call.mask(batch)? {
                None => bits.iter_mut().for_each(|bits| *bits |= 1 << bit),
                Some(mask) => mask.values().set_indices().for_each(|row| bits[row] |= 1 << bit),
            }
        }
        let (mut keys, mut ends) = (Vec::new(), Vec::new());
        for row in (0..count).filter(|row| bits[*row] != 0) {
            keys.extend_from_slice(touched.groups.key(piece.groups[row]));
            keys.push(number);
            keys.extend_from_slice(values.row(row));
            ends.push(keys.len());
        }
        Ok(Rows { keys, ends, bits })
    }
}

/// For each bit, the rows that are the first to have it. `values` has loaded their keys.
fn first_rows(rows: &Rows, bits: usize, values: &mut KeyedState) -> Vec<BooleanArray> {
    let mut keys = rows.keys().into_iter();
    let fresh = rows.bits.iter().map(|&bits| {
        let Some(key) = (bits != 0).then(|| keys.next()).flatten() else { return 0 };
        let seen = values.get(key).map_or(0, bits_of);
        if bits & !seen != 0 {
            let bytes = (seen | bits).to_le_bytes();
            let len = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            values.put(key, &bytes[..len]);
        }
        bits & !seen
    });
    let fresh: Vec<u64> = fresh.collect();
    (0..bits).map(|bit| fresh.iter().map(|fresh| Some(fresh >> bit & 1 == 1)).collect()).collect()
}

fn bits_of(value: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    bytes[..value.len().min(8)].copy_from_slice(&value[..value.len().min(8)]);
    u64::from_le_bytes(bytes)
}
