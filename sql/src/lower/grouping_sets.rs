//! GROUPING SETS, ROLLUP, CUBE: each row once for each set, then an ordinary GROUP BY.
//!
//! ```text
//!   a, b, arguments ─┬─▶ Project a, b,    0, a, b, arguments ─┐
//!                    ├─▶ Project a, NULL, 1, a, b, arguments ─┴─▶ Union ─▶ Aggregate by a, b, id ─┬─▶ Union
//!                    └─▶ Aggregate by nothing ─▶ Project NULL, NULL, 3, results ──────────────────┘
//! ```
//!
//! The id has a bit for each key that a set leaves out, the first key the highest; grouping() reads it. The empty set has a row
//! even without input, so it is an aggregate of its own. A set that is written n times gives its rows n times.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Schema};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::logical_expr::{Aggregate, Expr, GroupingSet, Operator, Projection};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{self, Literal, binary};
use tidemark_common::plan::{NodeId, Op};
use tidemark_common::{Error, Result};

use super::Lowering;
use super::aggregate::{Arguments, Rewritten};

/// For each key whether the set has it.
type Set = Vec<bool>;

/// Keys and arguments as columns of `node`.
struct Grouped<'a> {
    aggregate: &'a Aggregate,
    projection: Projection,
    calls: Vec<Rewritten>,
    node: NodeId,
    keys: usize,
}

impl Lowering {
    pub(super) fn grouping_sets(&mut self, aggregate: &Aggregate, sets: &GroupingSet) -> Result<NodeId> {
        let keys: Vec<Expr> = sets.distinct_expr().into_iter().cloned().collect();
        let sets = written(sets, &keys);
        let source = self.plan(&aggregate.input)?;
        let mut arguments = Arguments::new(&keys);
        let calls = aggregate.aggr_expr.iter().map(|e| arguments.rewrite(e)).collect::<Result<Vec<_>>>()?;
        let (projection, node) = self.arguments(source, arguments, &aggregate.input)?;
        let grouped = Grouped { aggregate, projection, calls, node, keys: keys.len() };

        let mut distinct: Vec<(Set, usize)> = Vec::new();
        for set in sets {
            match distinct.iter_mut().find(|(other, _)| *other == set) {
                Some((_, times)) => *times += 1,
                None => distinct.push((set, 1)),
            }
        }
        let mut outputs = Vec::new();
        let (empty, others): (Vec<_>, Vec<_>) = distinct.iter().partition(|(set, _)| !set.contains(&true));
        if !others.is_empty() {
            let node = self.expanded(&grouped, &others.iter().map(|(set, _)| set).collect::<Vec<_>>())?;
            outputs.push(node);
            for (set, times) in others.into_iter().filter(|(_, times)| *times > 1) {
                let again = self.of_set(node, &grouped, set)?;
                outputs.extend(std::iter::repeat_n(again, times - 1));
            }
        }
        for (set, times) in empty {
            let node = self.total(&grouped, set)?;
            outputs.extend(std::iter::repeat_n(node, *times));
        }
        let once = distinct.iter().all(|(_, times)| *times == 1);
        Ok(self.united(outputs, &grouped, once))
    }

    /// The rows once for each set, grouped.
    fn expanded(&mut self, grouped: &Grouped<'_>, sets: &[&Set]) -> Result<NodeId> {
        let columns = self.schema(grouped.node).fields().clone();
        let key_fields: Vec<FieldRef> = grouped.aggregate.schema.fields()[..=grouped.keys].to_vec();
        let named = |(at, field): (usize, &FieldRef)| Arc::new(field.as_ref().clone().with_name(format!("__key{at}")));
        let hidden: Vec<FieldRef> = key_fields.iter().enumerate().map(named).collect();
        let fields: Vec<FieldRef> = key_fields.iter().chain(&columns).cloned().collect();
        let schema = Arc::new(Schema::new(fields));
        let copies = sets
            .iter()
            .map(|set| {
                let mut exprs = self.keys_of(grouped, set)?;
                exprs.extend(columns.iter().enumerate().map(|(at, f)| column(f, at)));
                Ok(self.project(grouped.node, exprs, schema.clone()))
            })
            .collect::<Result<Vec<_>>>()?;
        let node = if let [one] = copies[..] { one } else { self.union_of(copies, schema) };
        // The calls find their arguments by name, behind keys that have names of their own.
        let hidden = hidden.into_iter().map(|field| (None, field));
        let visible = grouped.projection.schema.iter().map(|(q, f)| (q.cloned(), Arc::clone(f)));
        let names = DFSchema::new_with_metadata(hidden.chain(visible).collect(), Default::default())?;
        let calls = self.calls(grouped.aggregate, &grouped.calls, &names, grouped.keys + 1)?;
        self.group(node, grouped.keys + 1, calls, grouped.aggregate)
    }

    /// The aggregate over all rows, with the keys that the others have.
    fn total(&mut self, grouped: &Grouped<'_>, set: &Set) -> Result<NodeId> {
        let calls = self.calls(grouped.aggregate, &grouped.calls, &grouped.projection.schema, 0)?;
        let node = self.group(grouped.node, 0, calls, grouped.aggregate)?;
        let mut exprs = self.keys_of(grouped, set)?;
        let results = self.schema(node).fields().clone();
        exprs.extend(results.iter().enumerate().map(|(at, field)| column(field, at)));
        Ok(self.project(node, exprs, Arc::new(grouped.aggregate.schema.as_arrow().clone())))
    }

    /// The rows of one set among those of all.
    fn of_set(&mut self, node: NodeId, grouped: &Grouped<'_>, set: &Set) -> Result<NodeId> {
        let schema = self.schema(node).clone();
        let id = column(&schema.fields()[grouped.keys], grouped.keys);
        let wanted = self.id(grouped, set)?;
        let predicate = binary(id, Operator::Eq, wanted, &schema)?;
        let properties = self.properties(node).clone();
        Ok(self.add(Op::Filter { predicate }, vec![node], schema, properties))
    }

    fn united(&mut self, outputs: Vec<NodeId>, grouped: &Grouped<'_>, once: bool) -> NodeId {
        if let [one] = outputs[..] {
            return one;
        }
        let node = self.union_of(outputs, Arc::new(grouped.aggregate.schema.as_arrow().clone()));
        self.nodes[node as usize].properties.key = once.then(|| (0..=grouped.keys).collect());
        node
    }

    /// The keys that a set has, NULL for the others, and its id.
    fn keys_of(&self, grouped: &Grouped<'_>, set: &Set) -> Result<Vec<Arc<dyn PhysicalExpr>>> {
        let fields = self.schema(grouped.node).fields();
        let mut exprs = Vec::with_capacity(set.len() + 1);
        for (at, has) in set.iter().enumerate() {
            exprs.push(match has {
                true => column(&fields[at], at),
                false => Arc::new(Literal::new(ScalarValue::try_from(fields[at].data_type())?)),
            });
        }
        exprs.push(self.id(grouped, set)?);
        Ok(exprs)
    }

    fn id(&self, grouped: &Grouped<'_>, set: &Set) -> Result<Arc<dyn PhysicalExpr>> {
        let field: &Field = grouped.aggregate.schema.field(grouped.keys);
        if set.len() > 63
            || !matches!(field.data_type(), DataType::UInt8 | DataType::UInt16 | DataType::UInt32 | DataType::UInt64)
        {
            return Err(Error::internal(format!("grouping sets over {} keys have an id of no known type", set.len())));
        }
        let bits = set.iter().fold(0u64, |bits, has| bits << 1 | u64::from(!has));
        Ok(Arc::new(Literal::new(ScalarValue::UInt64(Some(bits)).cast_to(field.data_type())?)))
    }
}

fn column(field: &FieldRef, at: usize) -> Arc<dyn PhysicalExpr> {
    Arc::new(expressions::Column::new(field.name(), at))
}

/// The sets as they were written, over `keys`.
fn written(sets: &GroupingSet, keys: &[Expr]) -> Vec<Set> {
    match sets {
        GroupingSet::Rollup(exprs) => {
            (0..=exprs.len()).rev().map(|n| (0..keys.len()).map(|k| k < n).collect()).collect()
        }
        GroupingSet::Cube(exprs) => {
            let bits = exprs.len();
            (0..1usize << bits)
                .map(|left_out| (0..bits).map(|k| left_out >> (bits - 1 - k) & 1 == 0).collect())
                .collect()
        }
        GroupingSet::GroupingSets(sets) => {
            sets.iter().map(|set| keys.iter().map(|key| set.contains(key)).collect()).collect()
        }
    }
}
