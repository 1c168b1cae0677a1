//! Inputs of a join that need not be kept, because their rows are stored already and can be looked up there.
//!
//! ```text
//!   Join on k = id
//!     Exchange by id          rows with id = ..?  ──▶ the filter and the projection over what an index on id leads to
//!       Project id, name
//!         Filter active
//!           Input users  ◀── stored
//! ```

use std::collections::BTreeSet;

use datafusion::arrow::datatypes::SchemaRef;

use super::{Dataflow, Node, NodeId, Op};
use crate::Oid;

/// An input that is a stored collection, but for filters and projections.
#[derive(Debug)]
pub struct Stored<'a> {
    pub collection: Oid,
    /// Columns of the collection that the first step sees.
    pub projection: &'a [usize],
    /// Of those.
    pub schema: &'a SchemaRef,
    /// Filters and projections, the collection's side first.
    pub steps: Vec<&'a Node>,
    /// The column of the collection that each column of the input is.
    pub columns: Vec<Option<usize>>,
}

impl<'a> Stored<'a> {
    /// `None`: `input` is something else.
    pub fn of(nodes: &'a [Node], input: NodeId) -> Option<Self> {
        let node = nodes.get(input as usize)?;
        let below = || Self::of(nodes, *node.inputs.first()?);
        match &node.op {
            Op::Input { collection, projection, .. } => {
                let columns = projection.iter().copied().map(Some).collect();
                Some(Self { collection: *collection, projection, schema: &node.schema, steps: Vec::new(), columns })
            }
            Op::Exchange { .. } => below(),
            Op::Filter { .. } => {
                let mut stored = below()?;
                stored.steps.push(node);
                Some(stored)
            }
            Op::Project { exprs } => {
                let mut stored = below()?;
                stored.steps.push(node);
                let column = |expr| super::as_column(expr).and_then(|c| stored.columns[c]);
                stored.columns = exprs.iter().map(column).collect();
                Some(stored)
            }
            _ => None,
        }
    }
}

impl Dataflow {
    /// What the collection is called that an input is.
    pub(super) fn stored_name(&self, input: NodeId) -> Option<&str> {
        let collection = Stored::of(&self.nodes, input)?.collection;
        self.nodes.iter().find_map(|node| match &node.op {
            Op::Input { collection: oid, name, .. } if *oid == collection => Some(name.as_str()),
            _ => None,
        })
    }

    /// The columns by which joins look rows up in the collections that store them: the first ones of a key or an index.
    pub fn lookups(&self) -> BTreeSet<(Oid, Vec<usize>)> {
        let joins = self.nodes.iter().filter_map(|node| match &node.op {
            Op::Join(join) => Some((node, join)),
            _ => None,
        });
        let of = |(node, join): (&Node, &super::Join)| -> Vec<(Oid, Vec<usize>)> {
            let inputs = node.inputs.iter().zip(&join.looked_up);
            let found =
                inputs.filter_map(|(input, by)| Some((Stored::of(&self.nodes, *input)?.collection, by.clone()?)));
            found.collect()
        };
        joins.flat_map(of).collect()
    }
}
