//! Watermarks through a plan: from what the collections say to what each node may rely on.
//!
//! ```text
//!   Input: its collection's ─▶ Filter, Exchange: the same ─▶ Project: the expression of the watermark ─▶ Aggregate: those
//!   of its key                Union: the least of all inputs; Unnest: of a list, its least element
//!                             Join: the least of two columns that must be equal, or lie within a time
//!                             Panes: the first window that its input's leaves open; Sessions: that of the time, for the end;
//!                             TopN, Over: those of the partition's columns
//!                             Lookup Join: the input's before the epoch, and no more than the rows that wait
//! ```
//!
//! A watermark never goes back. Those of the inputs are stored with the dataflow's state, so that after a restart what was
//! closed stays closed; the others follow from them.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};
use datafusion::arrow::datatypes::{FieldRef, Schema, SchemaRef};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::scalar::ScalarValue;
use tidemark_common::plan::{Dataflow, Join, Node, NodeId, Op, UnnestColumn, clock_column};
use tidemark_common::{Oid, Result};
use tidemark_storage::{EpochCommit, KeyedState, RowCodec, Snapshot, StateId};

use super::CollectionChanges;
use crate::operators::time_index::watermark_micros;
use crate::operators::{Watermarks, panes, sessions};

/// The state of a dataflow that is not a node's: see [`Placement::state`](crate::operators::aggregate::Placement::state).
const WATERMARKS: u32 = 1;
const CACHE_BYTES: usize = 64 << 10;

/// The watermarks of each node's output, before and after the epoch.
pub struct WatermarkTracker {
    before: Vec<Watermarks>,
    after: Vec<Watermarks>,
    /// Nodes whose inputs have all been silent for longer than their users are willing to wait: they hold nobody back.
    idle: Vec<bool>,
    /// Input or Union node and column, big-endian u32 each ─▶ the value as a row.
    stored: KeyedState,
    loaded: bool,
}

impl WatermarkTracker {
    pub fn new(plan: &Dataflow, oid: Oid) -> Result<Self> {
        let none = vec![Watermarks::new(); plan.nodes.len()];
        let stored = KeyedState::new(StateId::new(oid, WATERMARKS), CACHE_BYTES);
        let idle = vec![false; plan.nodes.len()];
        Ok(Self { before: none.clone(), after: none, idle, stored, loaded: false })
    }

    /// Takes over what the collections say after this epoch. `held_back`: of lookups, what rows that wait have before the epoch.
    pub fn advance(
        &mut self,
        plan: &Dataflow,
        snapshot: &Snapshot,
        inputs: &BTreeMap<Oid, CollectionChanges>,
        held_back: &BTreeMap<NodeId, Vec<Watermarks>>,
        now: i64,
    ) -> Result<()> {
        let keys = stored_keys(plan);
        self.stored.load(snapshot, &keys)?;
        if !self.loaded {
            self.restore(plan)?;
            self.loaded = true;
        }
        self.before.clone_from(&self.after);
        for (index, node) in plan.nodes.iter().enumerate() {
            self.idle[index] = match &node.op {
                Op::Input { collection, .. } => inputs.get(collection).is_some_and(|c| c.idle),
                // What waits will still come.
                Op::LookupJoin(_) if waits(held_back, node.id) => false,
                _ => !node.inputs.is_empty() && node.inputs.iter().all(|i| self.idle[*i as usize]),
            };
            let mut next = match &node.op {
                Op::Input { collection, projection, .. } => {
                    inputs.get(collection).map_or_else(Watermarks::new, |c| projected(&c.watermarks, projection))
                }
                // Any row of the epoch may have to wait.
                Op::LookupJoin(_) => {
                    let held = held_back.get(&node.id).into_iter().flatten();
                    held.fold(self.before[node.inputs[0] as usize].clone(), no_further)
                }
                _ => derived(plan, node, &self.after, &self.idle, Some(now))?,
            };
            next.retain(|column, value| node.properties.watermarks.contains(column) && !value.is_null());
            let moved = move_forward(&mut self.after[index], next);
            if is_stored(&node.op) {
                for column in moved {
                    let value = encode(&node.schema, column, &self.after[index][&column])?;
                    self.stored.put(&key(node.id, column), &value);
                }
            }
        }
        Ok(())
    }

    /// Those of a node's output before and after the epoch.
    pub fn of(&self, node: NodeId) -> (&Watermarks, &Watermarks) {
        (&self.before[node as usize], &self.after[node as usize])
    }

    /// Those of the dataflow's output after the epoch.
    pub fn output(&self) -> &Watermarks {
        self.after.last().expect("a dataflow has at least one node")
    }

    pub fn is_idle(&self, node: NodeId) -> bool {
        self.idle[node as usize]
    }

    pub fn output_is_idle(&self) -> bool {
        self.idle.last().copied().unwrap_or(false)
    }

    pub fn flush(&mut self, commit: &mut EpochCommit) {
        self.stored.flush(commit);
    }

    /// The watermarks as they were when the last commit was made.
    fn restore(&mut self, plan: &Dataflow) -> Result<()> {
        for (index, node) in plan.nodes.iter().enumerate() {
            let mut restored = derived(plan, node, &self.after, &self.idle, None)?;
            restored.retain(|column, value| node.properties.watermarks.contains(column) && !value.is_null());
            if is_stored(&node.op) {
                let mut stored = Watermarks::new();
                for &column in &node.properties.watermarks {
                    if let Some(value) = self.stored.get(&key(node.id, column)) {
                        stored.insert(column, decode(&node.schema, column, value)?);
                    }
                }
                move_forward(&mut restored, stored);
            }
            self.after[index] = restored;
        }
        Ok(())
    }
}

fn waits(held_back: &BTreeMap<NodeId, Vec<Watermarks>>, node: NodeId) -> bool {
    held_back.get(&node).into_iter().flatten().any(|held| !held.is_empty())
}

/// The lesser of two watermarks, column by column.
fn no_further(mut watermarks: Watermarks, limits: &Watermarks) -> Watermarks {
    for (column, limit) in limits {
        if let Some(value) = watermarks.get_mut(column)
            && limit.partial_cmp(value) == Some(Ordering::Less)
        {
            *value = limit.clone();
        }
    }
    watermarks
}

/// Of inputs, of what may have gone on without an idle input, and of what may have stayed behind its input.
fn is_stored(op: &Op) -> bool {
    matches!(op, Op::Input { .. } | Op::Union | Op::Join(_) | Op::LookupJoin(_))
}

fn stored_keys(plan: &Dataflow) -> Vec<[u8; 8]> {
    let stored = plan.nodes.iter().filter(|n| is_stored(&n.op));
    stored.flat_map(|n| n.properties.watermarks.iter().map(|&column| key(n.id, column))).collect()
}

fn key(node: NodeId, column: usize) -> [u8; 8] {
    let column = u32::try_from(column).expect("a schema has far fewer than 2^32 columns");
    (u64::from(node) << 32 | u64::from(column)).to_be_bytes()
}

fn codec(schema: &SchemaRef, column: usize) -> Result<RowCodec> {
    RowCodec::new(&[Arc::clone(&schema.fields()[column])])
}

fn encode(schema: &SchemaRef, column: usize, value: &ScalarValue) -> Result<Vec<u8>> {
    Ok(codec(schema, column)?.encode(&[typed(value, &schema.fields()[column])?])?.row(0).to_vec())
}

fn decode(schema: &SchemaRef, column: usize, value: &[u8]) -> Result<ScalarValue> {
    let columns = codec(schema, column)?.decode([value])?;
    Ok(ScalarValue::try_from_array(&columns[0], 0)?)
}

fn typed(value: &ScalarValue, field: &FieldRef) -> Result<ArrayRef> {
    Ok(value.cast_to(field.data_type())?.to_array()?)
}

/// Raises watermarks, never lowers them; gives the columns that moved.
fn move_forward(watermarks: &mut Watermarks, next: Watermarks) -> Vec<usize> {
    let mut moved = Vec::new();
    for (column, value) in next {
        let stays = watermarks
            .get(&column)
            .is_some_and(|old| matches!(value.partial_cmp(old), Some(Ordering::Less | Ordering::Equal)));
        if !stays {
            watermarks.insert(column, value);
            moved.push(column);
        }
    }
    moved
}

/// Of a node that is no input, from those of its inputs. `now`: the time of the epoch, if it is known.
fn derived(plan: &Dataflow, node: &Node, all: &[Watermarks], idle: &[bool], now: Option<i64>) -> Result<Watermarks> {
    let Some(&first) = node.inputs.first() else { return Ok(Watermarks::new()) };
    let input = &all[first as usize];
    match &node.op {
        // What a lookup had is stored.
        Op::Input { .. } | Op::Constant { .. } | Op::LookupJoin(_) => Ok(Watermarks::new()),
        // Their columns stay where they are; a node's properties say which of them keep their watermark.
        Op::Filter { .. } | Op::Exchange { .. } | Op::TopN(_) | Op::Pace(_) => Ok(input.clone()),
        // Rows come and go long after their times.
        Op::Temporal(_) => Ok(Watermarks::new()),
        Op::Clock => {
            let mut watermarks = input.clone();
            if let Some(now) = now {
                watermarks
                    .insert(node.schema.fields().len() - 1, ScalarValue::try_from_array(&clock_column(now, 1)?, 0)?);
            }
            Ok(watermarks)
        }
        Op::Over(over) => {
            let mut watermarks = input.clone();
            if let Some(until) = over.until
                && let Some(time) = input.get(&until.time)
            {
                let width = plan.nodes[first as usize].schema.fields().len();
                watermarks.insert(width + until.function, time.clone());
            }
            Ok(watermarks)
        }
        Op::Project { exprs } => through_project(plan, node, exprs, input),
        Op::Union => {
            let active = node.inputs.iter().any(|i| !idle[*i as usize]);
            let counted = node.inputs.iter().filter(|i| !active || !idle[**i as usize]);
            Ok(least_of_all(counted.map(|i| &all[*i as usize])))
        }
        Op::Unnest { columns, .. } => through_unnest(columns, input),
        Op::Join(join) => through_join(plan, node, join, all, idle),
        Op::Panes(paned) => panes::watermarks(paned, input, &plan.nodes[first as usize].schema),
        Op::Sessions(by_session) => sessions::watermarks(by_session, input, &plan.nodes[first as usize].schema),
        // Its first columns are the input's.
        Op::Aggregate(aggregate) => Ok(input.range(..aggregate.group).map(|(c, value)| (*c, value.clone())).collect()),
    }
}

fn projected(watermarks: &Watermarks, projection: &[usize]) -> Watermarks {
    let columns = projection.iter().enumerate();
    columns.filter_map(|(to, from)| Some((to, watermarks.get(from)?.clone()))).collect()
}

/// Evaluates the expressions on a row that has the watermarks and NULL elsewhere.
fn through_project(
    plan: &Dataflow,
    node: &Node,
    exprs: &[Arc<dyn PhysicalExpr>],
    input: &Watermarks,
) -> Result<Watermarks> {
    if input.is_empty() || node.properties.watermarks.is_empty() {
        return Ok(Watermarks::new());
    }
    let schema = &plan.nodes[node.inputs[0] as usize].schema;
    let fields: Vec<_> = schema.fields().iter().map(|f| f.as_ref().clone().with_nullable(true)).collect();
    let columns = schema
        .fields()
        .iter()
        .enumerate()
        .map(|(column, field)| match input.get(&column) {
            Some(value) => typed(value, field),
            None => Ok(new_null_array(field.data_type(), 1)),
        })
        .collect::<Result<Vec<_>>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(1));
    let row = RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)?;
    let mut watermarks = Watermarks::new();
    for &column in &node.properties.watermarks {
        let value = exprs[column].evaluate(&row)?.into_array(1)?;
        if value.is_valid(0) {
            watermarks.insert(column, ScalarValue::try_from_array(&value, 0)?);
        }
    }
    Ok(watermarks)
}

/// Only columns in which all have one, and there the least.
fn least_of_all<'a>(mut inputs: impl Iterator<Item = &'a Watermarks>) -> Watermarks {
    let Some(mut least) = inputs.next().cloned() else { return Watermarks::new() };
    for input in inputs {
        least.retain(|column, _| input.contains_key(column));
        for (column, value) in &mut least {
            let other = &input[column];
            if other.partial_cmp(value) == Some(Ordering::Less) {
                *value = other.clone();
            }
        }
    }
    least
}

/// A row that comes now may meet one from long ago, but none with another value in columns that must be equal, nor one further away
/// in time than the join allows.
fn through_join(plan: &Dataflow, node: &Node, join: &Join, all: &[Watermarks], idle: &[bool]) -> Result<Watermarks> {
    let [left, right] = [0, 1].map(|input| &all[node.inputs[input] as usize]);
    let silent = [0, 1].map(|input| idle[node.inputs[input] as usize]);
    let left_schema = &plan.nodes[node.inputs[0] as usize].schema;
    let width = left_schema.fields().len();
    let mut watermarks = Watermarks::new();
    let mut put = |column: usize, value: &ScalarValue| {
        for (to, _) in join.output.iter().enumerate().filter(|(_, from)| **from == column) {
            watermarks.insert(to, value.clone());
        }
    };
    if join.current {
        left.iter().for_each(|(column, value)| put(*column, value));
    }
    if let Some(within) = &join.within {
        let right_schema = &plan.nodes[node.inputs[1] as usize].schema;
        let of_left = watermark_micros(left, within.left, &left_schema.fields()[within.left])?;
        let of_right = watermark_micros(right, within.right, &right_schema.fields()[within.right])?;
        let both = without_idle(of_left, of_right, silent);
        let least = |own: i64, partners: i64, reach: i64| own.min(partners.saturating_sub(reach));
        let bound = |value: i64, field: &FieldRef| {
            ScalarValue::TimestampMicrosecond(Some(value), None).cast_to(field.data_type())
        };
        if let (Some((l, r)), Some(reach)) = (both, within.reach(true)) {
            put(within.left, &bound(least(l, r, reach), &left_schema.fields()[within.left])?);
        }
        if let (Some((l, r)), Some(reach)) = (both, within.reach(false)) {
            put(width + within.right, &bound(least(r, l, reach), &right_schema.fields()[within.right])?);
        }
    }
    for &(l, r) in &join.on {
        let Some((of_left, of_right)) = without_idle(left.get(&l), right.get(&r), silent) else { continue };
        let least = if of_right.partial_cmp(of_left) == Some(Ordering::Less) { of_right } else { of_left };
        put(l, least);
        put(width + r, least);
    }
    Ok(watermarks)
}

/// Two watermarks, of which one that is idle is as far as the other.
fn without_idle<T: Copy>(left: Option<T>, right: Option<T>, idle: [bool; 2]) -> Option<(T, T)> {
    match idle {
        [true, false] => right.map(|right| (right, right)),
        [false, true] => left.map(|left| (left, left)),
        _ => left.zip(right),
    }
}

fn through_unnest(columns: &[UnnestColumn], input: &Watermarks) -> Result<Watermarks> {
    let mut watermarks = Watermarks::new();
    for (to, column) in columns.iter().enumerate() {
        let value = match column {
            UnnestColumn::Keep(from) => input.get(from).cloned(),
            UnnestColumn::List { column, depth } => match input.get(column) {
                Some(list) => least_element(list.clone(), *depth)?,
                None => None,
            },
            UnnestColumn::Field { column, field } => match input.get(column) {
                Some(ScalarValue::Struct(row)) => Some(ScalarValue::try_from_array(row.column(*field), 0)?),
                _ => None,
            },
        };
        if let Some(value) = value.filter(|v| !v.is_null()) {
            watermarks.insert(to, value);
        }
    }
    Ok(watermarks)
}

/// The least of what a list opened `depth` times holds.
fn least_element(list: ScalarValue, depth: usize) -> Result<Option<ScalarValue>> {
    if depth == 0 {
        return Ok(Some(list).filter(|v| !v.is_null()));
    }
    let elements: ArrayRef = match &list {
        ScalarValue::List(array) => array.value(0),
        ScalarValue::LargeList(array) => array.value(0),
        ScalarValue::FixedSizeList(array) => array.value(0),
        _ => return Ok(None),
    };
    let mut least: Option<ScalarValue> = None;
    for index in 0..elements.len() {
        if let Some(value) = least_element(ScalarValue::try_from_array(&elements, index)?, depth - 1)? {
            let is_less = least.as_ref().is_none_or(|l| value.partial_cmp(l) == Some(Ordering::Less));
            if is_less {
                least = Some(value);
            }
        }
    }
    Ok(least)
}
