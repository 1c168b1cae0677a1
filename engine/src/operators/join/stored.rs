//! An input of a join whose rows a table or view stores by the join's key already: they are looked up there.
//!
//! ```text
//!   epoch e-1, committed: users by id ──keys asked for──▶ rows ──Filter, Project, as on the way here──▶ rows kept of the input
//!   epoch e:              changes of users ──────────────────────────────────────────────────────────▶ changed rows
//! ```
//!
//! While a backfill reads the collection, its rows beyond the last key that was read have not come here yet: they are left out.

use datafusion::arrow::array::ArrayRef;
use datafusion::arrow::datatypes::SchemaRef;
use std::sync::Arc;
use tidemark_common::plan::{Node, Op, Stored};
use tidemark_common::{Delta, Error, Oid, Result};
use tidemark_storage::Way;

use crate::operators::filter::Filter;
use crate::operators::project::Project;
use crate::operators::{Chunks, Operator, Seen, StepContext};

pub struct StoredRows {
    /// For errors.
    name: String,
    collection: Oid,
    /// Columns of the collection, and which of the join's keys each of them equals.
    by: Vec<usize>,
    keys: Vec<usize>,
    projection: Vec<usize>,
    /// Of the columns in `projection`.
    schema: SchemaRef,
    steps: Vec<Box<dyn Operator>>,
}

impl StoredRows {
    /// `on`: columns of the join's input, in the order of its keys. The rows are looked up `by` columns of the collection.
    pub fn new(name: String, stored: &Stored<'_>, by: &[usize], on: &[usize]) -> Result<Self> {
        let key_of = |by: &usize| on.iter().position(|column| stored.columns[*column] == Some(*by));
        let keys = by.iter().map(key_of).collect::<Option<Vec<_>>>();
        let keys = keys.filter(|keys| keys.len() == on.len());
        let keys = keys.ok_or_else(|| Error::internal(format!("{name}: rows are looked up by what is not the key")))?;
        let step = |node: &&Node| -> Result<Box<dyn Operator>> {
            match &node.op {
                Op::Filter { predicate } => Ok(Box::new(Filter::new(Arc::clone(predicate)))),
                Op::Project { exprs } => Ok(Box::new(Project::new(exprs.clone(), Arc::clone(&node.schema)))),
                _ => Err(Error::internal("a step on the way from a stored collection keeps state")),
            }
        };
        Ok(Self {
            steps: stored.steps.iter().map(step).collect::<Result<_>>()?,
            collection: stored.collection,
            by: by.to_vec(),
            keys,
            projection: stored.projection.to_vec(),
            schema: Arc::clone(stored.schema),
            name,
        })
    }

    /// The rows that had `keys` (an array for each key of the join; none is NULL, no two are the same) before this epoch.
    pub fn find(&mut self, ctx: &StepContext<'_>, keys: &[ArrayRef]) -> Result<Chunks> {
        let (name, oid) = (&self.name, self.collection);
        let held = ctx.held.get(&oid);
        let held = held.ok_or_else(|| Error::internal(format!("{name}: collection {oid} is not at hand")))?;
        let last = match &held.seen {
            Seen::Nothing => return Ok(Chunks::new()),
            Seen::UpTo(last) => Some(last.as_slice()),
            Seen::All => None,
        };
        let way = Way::by(&held.collection, &held.indexes, &self.by);
        let way = way.ok_or_else(|| {
            Error::internal(format!("{name}: \"{}\" has no index on {:?}", held.collection.name(), self.by))
        })?;
        let values: Vec<ArrayRef> = self.keys.iter().map(|&key| Arc::clone(&keys[key])).collect();
        let found = way.find(ctx.snapshot, &values, last, &self.projection, &self.schema)?;
        let found: Vec<Delta> = if found.is_empty() { Vec::new() } else { vec![found] };
        self.steps.iter_mut().try_fold(found, |rows, step| step.step(ctx, vec![rows]))
    }
}
