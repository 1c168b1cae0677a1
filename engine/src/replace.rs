//! A view takes the place of another one.
//!
//! ```text
//!            epoch e-1                      epoch e                              after
//!   v    [old rows] ──▶ readers        [old rows]                            freed
//!                                        ╲ new - old, and what e changes ──▶ readers
//!   v'   [new rows]                    [new rows]  is v from here on         [new rows] ──▶ readers
//! ```
//!
//! Its readers go on from their state: all they see of it is an epoch of changes. The difference is held in memory.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::array::{Int64Array, RecordBatch, RecordBatchOptions};
use datafusion::arrow::datatypes::DataType;
use tidemark_common::{Delta, Error, Oid, Result, SqlState};
use tidemark_storage::{Collection, EpochCommit, KeyRange, RowCodec, Snapshot};

use crate::driver::Driver;
use crate::engine::Step;
use crate::job::Job;
use crate::operators::Chunks;

const BATCH_ROWS: usize = 8192;

impl Driver {
    /// Refuses what can only be done later: the new view is not built, or a reader still reads the old rows.
    pub(crate) fn may_replace(&self, steps: &[Step]) -> Result<()> {
        for step in steps {
            let Step::Replace { view, by } = step else { continue };
            let Some(new) = self.jobs.get(by) else { return Err(Error::internal("nothing to replace a view by")) };
            let built = new.built().transpose()?.is_some();
            let mut readers = self.jobs.values().filter(|job| job.inputs().any(|input| input == *view));
            if !built || readers.any(Job::is_backfilling) {
                return Err(Error::new(SqlState::ObjectNotInPrerequisiteState, "a view is still being built"));
            }
        }
        Ok(())
    }

    /// After [`Driver::may_replace`].
    pub(crate) fn replace(&mut self, view: Oid, by: Oid, commit: &mut EpochCommit) -> Result<()> {
        let Some(mut new) = self.jobs.remove(&by) else { return Err(Error::internal("nothing to replace a view by")) };
        if let Some(old) = self.jobs.remove(&view) {
            let read = self.jobs.values().any(|job| job.inputs().any(|input| input == view));
            if let (Some(before), Some(after)) = (old.collection(), new.collection())
                && (read || self.subscribers.contains_key(&view))
            {
                self.replaced.insert(view, difference(before, after, &self.snapshot)?);
                if columns(before) != columns(after) {
                    // They were promised these columns.
                    self.subscribers.remove(&view);
                }
            }
            commit.delete_all_of(old.storage);
        }
        self.subscribers.remove(&by);
        new.oid = view;
        self.jobs.insert(view, new);
        Ok(())
    }
}

/// What they are called, and what they hold.
fn columns(collection: &Collection) -> Vec<(&str, &DataType)> {
    collection.schema().fields().iter().map(|field| (field.name().as_str(), field.data_type())).collect()
}

/// What to add to the rows of `before` for those of `after`, in the first columns, which both have.
fn difference(before: &Arc<Collection>, after: &Arc<Collection>, snapshot: &Arc<Snapshot>) -> Result<Chunks> {
    let columns: Vec<usize> = (0..before.schema().fields().len().min(after.schema().fields().len())).collect();
    let schema = Arc::new(after.schema().project(&columns)?);
    let codec = RowCodec::new(schema.fields())?;
    let mut weights: HashMap<Box<[u8]>, i64> = HashMap::new();
    for (collection, sign) in [(before, -1), (after, 1)] {
        let mut scan = collection.scan(snapshot, Some(columns.clone()), &KeyRange::full(), BATCH_ROWS)?;
        while let Some(delta) = scan.next_delta()? {
            let rows = codec.encode_rows(delta.batch.columns(), delta.num_rows())?;
            for (row, encoded) in rows.iter().enumerate() {
                let weight = sign * delta.weight(row);
                match weights.get_mut(encoded) {
                    Some(before) => *before += weight,
                    None => {
                        weights.insert(encoded.into(), weight);
                    }
                }
            }
        }
    }
    let mut rows: Vec<(Box<[u8]>, i64)> = weights.into_iter().filter(|(_, weight)| *weight != 0).collect();
    rows.sort_unstable();
    rows.chunks(BATCH_ROWS)
        .map(|rows| {
            let columns = codec.decode(rows.iter().map(|(row, _)| row.as_ref()))?;
            let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
            let batch = RecordBatch::try_new_with_options(schema.clone(), columns, &options)?;
            let weights: Int64Array = rows.iter().map(|(_, weight)| *weight).collect();
            Ok(Delta::new(batch, Some(weights)))
        })
        .collect()
}
