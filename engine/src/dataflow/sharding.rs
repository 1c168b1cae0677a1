//! Rows over shards, and shards over threads.

use std::panic::resume_unwind;

use tidemark_common::{Error, Result};

use crate::operators::Chunks;

/// Chunks are cut to this size when there are shards to spread them over.
const ROWS_PER_SLICE: usize = 8192;
/// Below this, starting threads costs more than it gains.
const ROWS_WORTH_THREADS: usize = 2048;

/// Slices of the chunks, dealt to the shards in turn.
pub fn distribute(chunks: Chunks, shards: usize) -> Vec<Chunks> {
    let mut dealt = vec![Chunks::new(); shards];
    if shards == 1 {
        dealt[0] = chunks.into_iter().filter(|delta| !delta.is_empty()).collect();
        return dealt;
    }
    let slices = chunks.iter().flat_map(|delta| {
        (0..delta.num_rows())
            .step_by(ROWS_PER_SLICE)
            .map(|start| delta.slice(start, ROWS_PER_SLICE.min(delta.num_rows() - start)))
    });
    for (number, slice) in slices.enumerate() {
        dealt[number % shards].push(slice);
    }
    dealt
}

/// The chunks of all shards, one shard after the other.
pub fn gather(shards: Vec<Chunks>) -> Chunks {
    shards.into_iter().flatten().collect()
}

/// Calls `work` for every shard with its worker and its inputs; on threads when there are rows enough.
pub fn map_shards<W: Send, T: Send>(
    workers: &mut [W],
    inputs: Vec<Vec<Chunks>>,
    work: impl Fn(usize, &mut W, Vec<Chunks>) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    if workers.len() != inputs.len() {
        return Err(Error::internal(format!("{} shards got the rows of {}", workers.len(), inputs.len())));
    }
    let busy = inputs.iter().filter(|i| i.iter().flatten().any(|delta| !delta.is_empty())).count();
    let rows: usize = inputs.iter().flatten().flatten().map(|delta| delta.num_rows()).sum();
    let jobs = workers.iter_mut().zip(inputs).enumerate();
    if busy < 2 || rows < ROWS_WORTH_THREADS {
        return jobs.map(|(shard, (worker, inputs))| work(shard, worker, inputs)).collect();
    }
    let work = &work;
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            jobs.map(|(shard, (worker, inputs))| scope.spawn(move || work(shard, worker, inputs))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
    })
}
