//! Columns of a node as expressions over the rows that they were made of.

use std::sync::Arc;

use datafusion::arrow::datatypes::{FieldRef, Schema};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::utils::split_conjunction;
use tidemark_common::plan::{NodeId, Op};
use tidemark_common::{Oid, Result};

use super::{Lowering, watermark};

pub(super) type Physical = Arc<dyn PhysicalExpr>;

/// What projections and filters make of `base`.
pub(super) struct Sources {
    pub base: Base,
    /// What all rows meet.
    pub conditions: Vec<Physical>,
    pub columns: Vec<Physical>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Base {
    /// Its columns by their place in the collection, whichever of them are read.
    Collection(Oid),
    Node(NodeId),
}

impl Lowering {
    pub(super) fn sources(&self, id: NodeId) -> Result<Sources> {
        let node = &self.nodes[id as usize];
        Ok(match &node.op {
            Op::Project { exprs } => {
                let below = self.sources(node.inputs[0])?;
                let columns = exprs.iter().map(|expr| substituted(expr, &below.columns)).collect::<Result<_>>()?;
                Sources { columns, ..below }
            }
            Op::Filter { predicate } => {
                let mut below = self.sources(node.inputs[0])?;
                for condition in split_conjunction(predicate) {
                    below.conditions.push(substituted(condition, &below.columns)?);
                }
                below
            }
            Op::Exchange { .. } => self.sources(node.inputs[0])?,
            Op::Input { collection, projection, .. } => Sources {
                base: Base::Collection(*collection),
                conditions: Vec::new(),
                columns: columns_at(&node.schema, projection.iter().copied()),
            },
            _ => Sources {
                base: Base::Node(id),
                conditions: Vec::new(),
                columns: columns_at(&node.schema, 0..node.schema.fields().len()),
            },
        })
    }
}

fn columns_at(schema: &Schema, places: impl Iterator<Item = usize>) -> Vec<Physical> {
    let column = |(field, at): (&FieldRef, usize)| Arc::new(Column::new(field.name(), at)) as Physical;
    schema.fields().iter().zip(places).map(column).collect()
}

/// `expr` with `columns` in the place of its columns.
pub(super) fn substituted(expr: &Physical, columns: &[Physical]) -> Result<Physical> {
    substituted_by(expr, |column| Some(Arc::clone(&columns[column])))
}

/// `expr` with what `source` gives in the place of its columns; those of which it gives nothing stay.
pub(super) fn substituted_by(expr: &Physical, source: impl Fn(usize) -> Option<Physical>) -> Result<Physical> {
    let transformed = Arc::clone(expr).transform(|expr| {
        Ok(match watermark::as_column(&expr).and_then(&source) {
            Some(source) => Transformed::yes(source),
            None => Transformed::no(expr),
        })
    });
    Ok(transformed?.data)
}
