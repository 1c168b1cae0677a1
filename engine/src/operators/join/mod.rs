//! Joins: changes of two inputs in, changes of their pairs out, or of the rows of one that have (no) partner in the other.
//!
//! ```text
//!   left chunks  ─▶ net changes by key ─┐   Pairs   kept rows of both inputs ─▶ pairs, and rows without any
//!                                       ├─▶   or
//!   right chunks ─▶ net changes by key ─┘   Exists  kept left rows, right counts ─▶ left rows
//! ```
//!
//! Both inputs are exchanged by the key, so a shard sees all rows of the keys that it sees. What they keep is all of the
//! inputs' rows until they go away again, or until no partner can come any more where the join says how far apart in time
//! partners are ([`horizon`]). An input that is stored by its key already is not kept again but looked up there ([`stored`]).

mod emit;
mod exists;
mod horizon;
mod log;
mod pairs;
mod side;
mod stored;
#[cfg(test)]
mod tests;

use datafusion::arrow::datatypes::Schema;
use std::sync::Arc;
use tidemark_common::plan::{self, Node, Stored};
use tidemark_common::{Error, Result};
use tidemark_storage::KeyedState;

pub(super) use self::emit::{Output, Picked};
use self::exists::Exists;
use self::horizon::Horizon;
use self::log::Log;
use self::pairs::Pairs;
pub(super) use self::pairs::Residual;
pub(super) use self::side::Keys;
use self::side::{Kept, Side};
use self::stored::StoredRows;
use super::aggregate::Placement;
use super::{Chunks, Operator};

const LEFT: u32 = 0;
const RIGHT: u32 = 1;
/// By their times.
const LEFT_TIMES: u32 = 2;
const RIGHT_TIMES: u32 = 3;
const TIMES_CACHE_SHARE: usize = 8;

/// The operator of one shard, as node `node` of `nodes` says.
pub fn operator(join: &plan::Join, node: &Node, nodes: &[Node], placement: &Placement) -> Result<Box<dyn Operator>> {
    let name = placement.name();
    let state = |which| KeyedState::new(placement.state(which), placement.cache_budget / 2);
    let [left, right] = [0, 1].map(|input| &nodes[node.inputs[input] as usize].schema);
    let rows_of = |input: usize, which| -> Result<Kept> {
        if join.current && input == 0 {
            return Ok(Kept::Nothing);
        }
        let Some(by) = &join.looked_up[input] else {
            let append_only = nodes[node.inputs[input] as usize].properties.append_only;
            let as_log = append_only && join.keeps_logs(input == 0);
            return Ok(if as_log { Kept::Log(Log::new(state(which))) } else { Kept::Own(state(which)) });
        };
        let astray = || Error::internal(format!("{name}: an input to look up in is not stored"));
        let stored = Stored::of(nodes, node.inputs[input]).ok_or_else(astray)?;
        let keys: Vec<usize> = join.on.iter().map(|on| if input == 0 { on.0 } else { on.1 }).collect();
        Ok(Kept::Stored(StoredRows::new(name.clone(), &stored, by, &keys)?))
    };
    let left_keys = Keys::new(left, join.on.iter().map(|on| on.0).collect(), join.null_equal)?;
    let right_keys = Keys::new(right, join.on.iter().map(|on| on.1).collect(), join.null_equal)?;
    let sends = Output::new(join.output.clone(), left.fields().len(), Arc::clone(&node.schema));
    if join.keeps_counts() {
        let left = Side::new(placement, left, left_keys, rows_of(0, LEFT)?, false, None)?;
        return Ok(Box::new(Exists::new(name, join.kind, left, right_keys, state(RIGHT), sends)));
    }
    let all: Vec<_> = left.fields().iter().chain(right.fields()).cloned().collect();
    let residual = join.residual.as_ref().map(|expr| Residual::new(expr, &Schema::new(all))).transpose()?;
    let horizon = |is_left: bool, which| -> Result<Option<Horizon>> {
        let Some(within) = &join.within else { return Ok(None) };
        let append_only = nodes[node.inputs[usize::from(!is_left)] as usize].properties.append_only;
        let times = KeyedState::new(placement.state(which), placement.cache_budget / TIMES_CACHE_SHARE);
        Horizon::new(within, is_left, [left, right], (append_only, within.emit_on_close), times)
    };
    let horizons = (horizon(true, LEFT_TIMES)?, horizon(false, RIGHT_TIMES)?);
    let left = Side::new(placement, left, left_keys, rows_of(0, LEFT)?, join.counts_matches(true), horizons.0)?;
    let right = Side::new(placement, right, right_keys, rows_of(1, RIGHT)?, join.counts_matches(false), horizons.1)?;
    let waits = join.within.is_some_and(|within| within.emit_on_close);
    Ok(Box::new(Pairs::new(join.kind, left, right, residual, sends, waits)))
}

fn two_inputs(inputs: Vec<Chunks>) -> Result<[Chunks; 2]> {
    inputs.try_into().map_err(|_| Error::internal("a join got another number of inputs than two"))
}
