//! Rows over shards, and shards over threads.
//!
//! ```text
//!   chunks  1 2 │ 3 4 5 │ 6      shard 0: 1 2 3      operators      gather: 1 2 3, 4 5 6
//!                                shard 1: 4 5 6
//! ```
//!
//! A shard has rows that follow each other, and what it gives stands behind what lower shards give: rows that nothing moves keep their
//! order, and those of one key keep it through an exchange by that key. Sinks rely on it.

use std::panic::resume_unwind;

use tidemark_common::{Delta, Error, Result};

use crate::operators::Chunks;

/// Chunks are cut to this size when there are shards to spread them over.
const ROWS_PER_SLICE: usize = 8192;
/// Below this, starting threads costs more than it gains.
pub const ROWS_WORTH_THREADS: usize = 2048;

/// Slices of the chunks, to each shard about as many that follow each other.
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
    let all: usize = chunks.iter().map(Delta::num_rows).sum();
    let mut before = 0;
    for slice in slices {
        let middle = before + slice.num_rows() / 2;
        before += slice.num_rows();
        dealt[middle * shards / all].push(slice);
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
    let work = |(shard, (worker, inputs))| work(shard, worker, inputs);
    if busy < 2 || rows < ROWS_WORTH_THREADS {
        return jobs.map(work).collect();
    }
    side_by_side(jobs, work)
}

/// Calls `work` for each job, each on a thread of its own. What they give stands in the order of the jobs.
pub fn side_by_side<J: Send, T: Send>(
    jobs: impl Iterator<Item = J>,
    work: impl Fn(J) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let work = &work;
    std::thread::scope(|scope| {
        let threads: Vec<_> = jobs.map(|job| scope.spawn(move || work(job))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
    use datafusion::arrow::datatypes::Int64Type;

    use super::*;

    #[test]
    fn order_is_kept_and_work_shared() {
        let chunk = |from: i64, rows: i64| {
            let column: ArrayRef = Arc::new(Int64Array::from_iter_values(from..from + rows));
            Delta::inserts(RecordBatch::try_from_iter([("n", column)]).unwrap())
        };
        for sizes in [&[5, 3, 1, 1][..], &[40_000], &[1], &[], &[0, 7, 0], &[10, 30_000, 2, 9000]] {
            let mut from = 0;
            let chunks: Chunks = sizes
                .iter()
                .map(|rows| {
                    from += rows;
                    chunk(from - rows, *rows)
                })
                .collect();
            for shards in [1, 2, 3, 8] {
                let dealt = distribute(chunks.clone(), shards);
                let most = dealt.iter().map(|c| c.iter().map(Delta::num_rows).sum::<usize>()).max().unwrap();
                assert!(most <= from as usize / shards + ROWS_PER_SLICE, "{sizes:?} over {shards}: {most}");
                let together = gather(dealt);
                let values =
                    together.iter().flat_map(|c| c.batch.column(0).as_primitive::<Int64Type>().values().to_vec());
                assert!(values.eq(0..from), "{sizes:?} over {shards}");
            }
        }
    }
}
