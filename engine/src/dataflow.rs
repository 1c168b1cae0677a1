//! A running dataflow: a plan's nodes with their operators, one step an epoch.
//!
//! ```text
//!   changes of the collections it reads                       changes of the view
//!        │  spread over shards                                       ▲ shards' changes, one after the other
//!        ▼                                                           │
//!   shard 0: Filter ─▶ Project ─▶ Exchange ─▶ Aggregate ─▶ Project ──┤
//!   shard 1: Filter ─▶ Project ─▶    ╳     ─▶ Aggregate ─▶ Project ──┘
//! ```
//!
//! A node runs on all shards before the next node runs on any; shards share nothing, so they run on threads of their own
//! when there is enough to do. Watermarks do not depend on rows: they are carried through the plan first ([`watermarks`]).
//!
//! After an error the state in memory is half stepped: drop the dataflow and make a new one, which starts from the store.

#[cfg(test)]
mod differential;
mod sharding;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod throughput;
mod watermarks;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use datafusion::arrow::array::{RecordBatch, RecordBatchOptions};
use datafusion::arrow::datatypes::SchemaRef;
use tidemark_common::plan::{self, Node, NodeId, Op};
use tidemark_common::{Delta, Epoch, Error, Oid, Result};
use tidemark_storage::{EpochCommit, Snapshot};

use self::sharding::{ROWS_WORTH_THREADS, distribute, gather, map_shards, side_by_side};
use self::watermarks::WatermarkTracker;
use crate::operators::aggregate::{Aggregate, Placement};
use crate::operators::clock::Clock;
use crate::operators::constant::Constant;
use crate::operators::exchange::repartition;
use crate::operators::filter::Filter;
use crate::operators::join;
use crate::operators::lookup_join::{LookupJoin, LookupStatus, Outside};
use crate::operators::over::Over;
use crate::operators::pace::Pace;
use crate::operators::panes::Panes;
use crate::operators::project::Project;
use crate::operators::sessions::Sessions;
use crate::operators::temporal::TemporalFilter;
use crate::operators::top_n::TopN;
use crate::operators::union::Union;
use crate::operators::unnest::Unnest;
use crate::operators::{Chunks, HeldCollections, Operator, StateSize, StepContext, Watermarks};

/// How often windows over the clock look whether they are over, in microseconds.
const CLOCK_STEP: i64 = 1_000_000;

/// What happened to a collection in an epoch.
#[derive(Debug, Clone, Default)]
pub struct CollectionChanges {
    pub chunks: Chunks,
    /// By column of the collection, after these changes.
    pub watermarks: Watermarks,
    /// It has been silent for longer than its idle_timeout, so that its watermark holds nobody back.
    pub idle: bool,
}

/// What a node has done since the dataflow was started, for EXPLAIN ANALYZE and metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NodeStats {
    pub node: NodeId,
    pub rows_in: u64,
    pub rows_out: u64,
    pub late_rows: u64,
    pub nanos: u64,
    pub state: StateSize,
}

pub struct RunningDataflow {
    plan: Arc<plan::Dataflow>,
    shards: usize,
    nodes: Vec<RunningNode>,
    watermarks: WatermarkTracker,
    /// The time of its last epoch.
    stepped_at: Option<i64>,
    /// That its nodes have taken since the last flush.
    rows_unflushed: u64,
}

struct RunningNode {
    task: Task,
    /// How many nodes take its output.
    users: usize,
    stats: NodeStats,
}

/// How a node runs.
enum Task {
    /// Takes a collection's changes.
    Input { collection: Oid, projection: Vec<usize>, schema: SchemaRef },
    /// Moves rows between shards.
    Exchange { keys: Vec<usize> },
    /// An operator on every shard; `on_one_shard`: rows of any key may be anywhere, so all go to shard 0.
    Operator { instances: Vec<Box<dyn Operator>>, on_one_shard: bool },
}

impl RunningDataflow {
    /// `oid` names its state on disk; `cache_budget` is in bytes, for all of its state.
    pub fn new(plan: Arc<plan::Dataflow>, oid: Oid, shards: usize, cache_budget: usize) -> Result<Self> {
        let shards = shards.max(1);
        let stateful = plan.nodes.iter().filter(|n| keeps_state(&n.op)).count().max(1);
        let budget = cache_budget / (stateful * shards);
        let nodes = plan
            .nodes
            .iter()
            .map(|node| {
                let users = plan.nodes.iter().flat_map(|n| &n.inputs).filter(|i| **i == node.id).count();
                let task = Task::new(&plan, node, oid, shards, budget)
                    .map_err(|e| e.context(format!("node {} of object {oid}", node.id)))?;
                Ok(RunningNode { task, users, stats: NodeStats { node: node.id, ..NodeStats::default() } })
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Self {
            watermarks: WatermarkTracker::new(&plan, oid)?,
            plan,
            shards,
            nodes,
            stepped_at: None,
            rows_unflushed: 0,
        })
    }

    pub fn plan(&self) -> &Arc<plan::Dataflow> {
        &self.plan
    }

    /// Runs one epoch, `epoch`. `first`: it has never stepped, in this life or an earlier one. `snapshot` is that of the last commit, and
    /// `held` the collections as of then in which the plan looks rows up. `now`: the time of the epoch.
    pub fn step(
        &mut self,
        epoch: Epoch,
        snapshot: &Snapshot,
        held: &HeldCollections,
        first: bool,
        inputs: &BTreeMap<Oid, CollectionChanges>,
        now: i64,
    ) -> Result<CollectionChanges> {
        let held_back = self.held_back(snapshot)?;
        self.watermarks.advance(&self.plan, snapshot, inputs, &held_back, now)?;
        self.stepped_at = Some(now);
        let mut outputs: Vec<Vec<Chunks>> = Vec::with_capacity(self.nodes.len());
        let mut users_left: Vec<usize> = self.nodes.iter().map(|n| n.users).collect();
        for index in 0..self.nodes.len() {
            let node_inputs: Vec<Vec<Chunks>> = self.plan.nodes[index]
                .inputs
                .iter()
                .map(|&input| {
                    let input = input as usize;
                    users_left[input] -= 1;
                    if users_left[input] == 0 { std::mem::take(&mut outputs[input]) } else { outputs[input].clone() }
                })
                .collect();
            outputs.push(self.step_node(index, (epoch, snapshot, held, now), first, inputs, node_inputs)?);
        }
        let chunks = gather(outputs.pop().unwrap_or_default());
        Ok(CollectionChanges {
            chunks,
            watermarks: self.watermarks.output().clone(),
            idle: self.watermarks.output_is_idle(),
        })
    }

    /// When it has something to do though nothing comes in.
    pub fn due_at(&self) -> Result<Option<i64>> {
        let mut due = None;
        // The watermark of the clock moves by itself.
        if self.plan.nodes.iter().any(|n| matches!(n.op, Op::Clock)) {
            due = Some(self.stepped_at.map_or(i64::MIN, |at| at.saturating_add(CLOCK_STEP)));
        }
        for node in &self.nodes {
            let Task::Operator { instances, .. } = &node.task else { continue };
            for instance in instances {
                due = [due, instance.due_at()?].into_iter().flatten().min();
            }
        }
        Ok(due)
    }

    /// Of lookups with rows that wait: the watermarks that their output must not pass.
    fn held_back(&mut self, snapshot: &Snapshot) -> Result<BTreeMap<NodeId, Vec<Watermarks>>> {
        let mut held = BTreeMap::<NodeId, Vec<Watermarks>>::new();
        for node in &mut self.nodes {
            for lookup in node.task.lookups_mut() {
                held.entry(node.stats.node).or_default().push(lookup.held_back(snapshot)?);
            }
        }
        Ok(held)
    }

    /// Tells other systems what its lookups ask them. To be called after each commit.
    pub fn reach_out(&mut self, outside: &Outside) -> Result<()> {
        let mut lookups = self.nodes.iter_mut().flat_map(|node| node.task.lookups_mut());
        lookups.try_for_each(|lookup| lookup.reach_out(outside))
    }

    /// How each of its lookups fares, all shards together.
    pub fn lookups(&self) -> Vec<LookupStatus> {
        self.nodes
            .iter()
            .filter_map(|node| node.task.lookups().map(LookupJoin::status).reduce(LookupStatus::and))
            .collect()
    }

    /// Adds what changed since the last flush to the commit. Shards write theirs side by side when there is enough of it; what they have
    /// written stands one shard after the other, as if they had done so in turn.
    pub fn flush(&mut self, commit: &mut EpochCommit) -> Result<()> {
        let rows = std::mem::take(&mut self.rows_unflushed);
        let mut shards: Vec<Vec<&mut Box<dyn Operator>>> = (0..self.shards).map(|_| Vec::new()).collect();
        for node in &mut self.nodes {
            if let Task::Operator { instances, .. } = &mut node.task {
                shards.iter_mut().zip(instances).for_each(|(shard, instance)| shard.push(instance));
            }
        }
        if self.shards == 1 || rows < ROWS_WORTH_THREADS as u64 {
            shards.into_iter().flatten().try_for_each(|operator| operator.flush(commit))?;
        } else {
            let epoch = commit.epoch();
            let written = side_by_side(shards.into_iter(), |operators| {
                let mut own = EpochCommit::new(epoch);
                operators.into_iter().try_for_each(|operator| operator.flush(&mut own))?;
                Ok(own)
            })?;
            written.iter().for_each(|own| commit.append(own));
        }
        self.watermarks.flush(commit);
        Ok(())
    }

    pub fn stats(&self) -> Vec<NodeStats> {
        self.nodes.iter().map(|node| NodeStats { state: node.task.state_size(), ..node.stats }).collect()
    }

    /// Rows that came after their group had closed, since the dataflow was started.
    pub fn late_rows(&self) -> u64 {
        self.nodes.iter().map(|n| n.stats.late_rows).sum()
    }

    fn step_node(
        &mut self,
        index: usize,
        (epoch, snapshot, held, now): (Epoch, &Snapshot, &HeldCollections, i64),
        first: bool,
        changes: &BTreeMap<Oid, CollectionChanges>,
        inputs: Vec<Vec<Chunks>>,
    ) -> Result<Vec<Chunks>> {
        let started = instant();
        let shards = self.shards;
        let none = Watermarks::new();
        let of_input = |at: usize| self.plan.nodes[index].inputs.get(at).map(|input| self.watermarks.of(*input));
        let (watermarks_before, watermarks) = of_input(0).unwrap_or((&none, &none));
        let (right_watermarks_before, right_watermarks) = of_input(1).unwrap_or((&none, &none));
        let is_idle = |at: usize| self.plan.nodes[index].inputs.get(at).is_some_and(|i| self.watermarks.is_idle(*i));
        let idle = [is_idle(0), is_idle(1)];
        let RunningNode { task, stats, .. } = &mut self.nodes[index];
        let rows = inputs.iter().map(|shards| rows_in(shards)).sum::<u64>();
        stats.rows_in += rows;
        self.rows_unflushed += rows;
        let outputs = match task {
            Task::Input { collection, projection, schema } => {
                let chunks = changes.get(collection).map_or(&[][..], |c| &c.chunks);
                let projected = chunks.iter().map(|delta| project(delta, projection, schema)).collect::<Result<_>>()?;
                distribute(projected, shards)
            }
            Task::Exchange { keys } => {
                let input = inputs.into_iter().next().unwrap_or_default();
                exchange(input, keys, shards)?
            }
            Task::Operator { instances, on_one_shard } => {
                let inputs = by_shard(inputs, shards, *on_one_shard);
                map_shards(instances, inputs, |shard, instance, inputs| {
                    let first = first && shard == 0;
                    let ctx = StepContext {
                        epoch,
                        snapshot,
                        held,
                        first,
                        watermarks_before,
                        watermarks,
                        right_watermarks_before,
                        right_watermarks,
                        idle,
                        now,
                    };
                    instance.step(&ctx, inputs)
                })?
            }
        };
        stats.late_rows += task.take_late_rows();
        stats.rows_out += rows_in(&outputs);
        stats.nanos += u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        Ok(outputs)
    }
}

impl Task {
    fn new(plan: &plan::Dataflow, node: &Node, oid: Oid, shards: usize, budget: usize) -> Result<Self> {
        let input = || -> Result<&Node> {
            let input = node.inputs.first().ok_or_else(|| Error::internal("an operator has no input"))?;
            Ok(&plan.nodes[*input as usize])
        };
        let schema = || Arc::clone(&node.schema);
        let placement = move |shard| {
            let shard_keys = Vec::new();
            Placement { oid, node: node.id, shard, shards, shard_keys, cache_budget: budget }
        };
        let mut on_one_shard = false;
        let instance: Box<dyn Fn(usize) -> Result<Box<dyn Operator>>> = match &node.op {
            Op::Input { collection, projection, .. } => {
                return Ok(Task::Input { collection: *collection, projection: projection.clone(), schema: schema() });
            }
            Op::Exchange { keys } => return Ok(Task::Exchange { keys: keys.clone() }),
            Op::Constant { batch } => {
                let batch = project_batch(batch, &(0..batch.num_columns()).collect::<Vec<_>>(), &node.schema)?;
                Box::new(move |_| Ok(Box::new(Constant::new(batch.clone()))))
            }
            Op::Filter { predicate } => Box::new(|_| Ok(Box::new(Filter::new(Arc::clone(predicate))))),
            Op::Project { exprs } => Box::new(move |_| Ok(Box::new(Project::new(exprs.clone(), schema())))),
            Op::Union => Box::new(move |_| Ok(Box::new(Union::new(schema())))),
            Op::Unnest { columns, preserve_nulls } => {
                Box::new(move |_| Ok(Box::new(Unnest::new(columns.clone(), *preserve_nulls, schema()))))
            }
            Op::TopN(top_n) => {
                let input = input()?;
                on_one_shard = !matches!(input.op, Op::Exchange { .. });
                Box::new(move |shard| Ok(Box::new(TopN::new(top_n, &input.schema, &node.schema, &placement(shard))?)))
            }
            Op::Over(over) => {
                let input = input()?;
                on_one_shard = !matches!(&input.op, Op::Exchange { keys } if *keys == over.partition);
                let shard_keys = if on_one_shard { Vec::new() } else { (0..over.partition.len()).collect() };
                Box::new(move |shard| {
                    let placement = Placement { shard_keys: shard_keys.clone(), ..placement(shard) };
                    Ok(Box::new(Over::new(over, &input.schema, &node.schema, &placement)?))
                })
            }
            Op::LookupJoin(lookup) => {
                let input = input()?;
                let keys = lookup.keys().0;
                on_one_shard = !matches!(&input.op, Op::Exchange { keys: by } if *by == keys);
                Box::new(move |shard| Ok(Box::new(LookupJoin::new(lookup, node, &input.schema, &placement(shard))?)))
            }
            Op::Temporal(temporal) => {
                Box::new(move |shard| Ok(Box::new(TemporalFilter::new(temporal, &node.schema, placement(shard))?)))
            }
            Op::Clock => Box::new(move |_| Ok(Box::new(Clock::new(schema())))),
            Op::Pace(pace) => {
                on_one_shard = true;
                Box::new(move |shard| Ok(Box::new(Pace::new(*pace, &node.schema, &placement(shard))?)))
            }
            Op::Aggregate(aggregate) => {
                let input = input()?;
                let shard_keys = match &input.op {
                    Op::Exchange { keys } if keys.iter().all(|k| *k < aggregate.group) => keys.clone(),
                    _ => {
                        on_one_shard = true;
                        Vec::new()
                    }
                };
                Box::new(move |shard| {
                    let placement = Placement { shard_keys: shard_keys.clone(), ..placement(shard) };
                    Ok(Box::new(Aggregate::new(aggregate, &input.schema, &node.schema, placement)?))
                })
            }
            Op::Panes(panes) => {
                let input = input()?;
                let by_key = exchanged_behind_time(input, panes.keys);
                on_one_shard = by_key.is_none();
                let shard_keys = by_key.unwrap_or_default();
                Box::new(move |shard| {
                    let placement = Placement { shard_keys: shard_keys.clone(), ..placement(shard) };
                    Ok(Box::new(Panes::new(panes, &input.schema, &node.schema, placement)?))
                })
            }
            Op::Sessions(sessions) => {
                let input = input()?;
                let by_partition = exchanged_behind_time(input, sessions.keys);
                on_one_shard = by_partition.is_none();
                let shard_keys = by_partition.unwrap_or_default();
                Box::new(move |shard| {
                    let placement = Placement { shard_keys: shard_keys.clone(), ..placement(shard) };
                    Ok(Box::new(Sessions::new(sessions, &input.schema, &node.schema, placement)?))
                })
            }
            Op::Join(join) => {
                let sides: [&Node; 2] = [0, 1].map(|side| &plan.nodes[node.inputs[side] as usize]);
                let exchanged = |side: &Node, on: Vec<usize>| matches!(&side.op, Op::Exchange { keys } if *keys == on);
                on_one_shard = !exchanged(sides[0], join.on.iter().map(|on| on.0).collect())
                    || !exchanged(sides[1], join.on.iter().map(|on| on.1).collect());
                let shard_keys = if on_one_shard { Vec::new() } else { (0..join.on.len()).collect() };
                Box::new(move |shard| {
                    let placement = Placement { shard_keys: shard_keys.clone(), ..placement(shard) };
                    join::operator(join, node, &plan.nodes, &placement)
                })
            }
        };
        let instances = (0..shards).map(instance).collect::<Result<_>>()?;
        Ok(Task::Operator { instances, on_one_shard })
    }

    fn lookups(&self) -> impl Iterator<Item = &LookupJoin> {
        let instances = if let Task::Operator { instances, .. } = self { instances.as_slice() } else { &[] };
        instances.iter().filter_map(|instance| instance.lookup())
    }

    fn lookups_mut(&mut self) -> impl Iterator<Item = &mut LookupJoin> {
        let instances = if let Task::Operator { instances, .. } = self { instances.as_mut_slice() } else { &mut [] };
        instances.iter_mut().filter_map(|instance| instance.lookup_mut())
    }

    fn state_size(&self) -> StateSize {
        let Task::Operator { instances, .. } = self else { return StateSize::default() };
        instances.iter().map(|i| i.state_size()).fold(StateSize::default(), |sum, size| StateSize {
            entries: sum.entries + size.entries,
            cached_bytes: sum.cached_bytes + size.cached_bytes,
        })
    }

    fn take_late_rows(&mut self) -> u64 {
        let Task::Operator { instances, .. } = self else { return 0 };
        instances.iter_mut().map(|i| i.take_late_rows()).sum()
    }
}

/// The places in a key, which stands behind a time, of the columns that rows are exchanged by, if those are all of it.
fn exchanged_behind_time(input: &Node, key: usize) -> Option<Vec<usize>> {
    let by_key = matches!(&input.op, Op::Exchange { keys } if keys.iter().copied().eq(1..=key));
    by_key.then(|| (0..key).collect())
}

fn keeps_state(op: &Op) -> bool {
    matches!(
        op,
        Op::Aggregate(_)
            | Op::Panes(_)
            | Op::Sessions(_)
            | Op::Join(_)
            | Op::LookupJoin(_)
            | Op::TopN(_)
            | Op::Over(_)
            | Op::Temporal(_)
            | Op::Pace(_)
    )
}

fn project(delta: &Delta, projection: &[usize], schema: &SchemaRef) -> Result<Delta> {
    Ok(delta.with_batch(project_batch(&delta.batch, projection, schema)?))
}

fn project_batch(batch: &RecordBatch, projection: &[usize], schema: &SchemaRef) -> Result<RecordBatch> {
    let columns = projection.iter().map(|&c| Arc::clone(batch.column(c))).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)?)
}

/// Every shard splits what it has; what it has for a shard goes behind what lower shards have for it.
fn exchange(input: Vec<Chunks>, keys: &[usize], shards: usize) -> Result<Vec<Chunks>> {
    if shards == 1 {
        return Ok(input);
    }
    let mut nobody = vec![(); shards];
    let inputs = input.into_iter().map(|chunks| vec![chunks]).collect();
    let split = map_shards(&mut nobody, inputs, |_, (), chunks| repartition(gather(chunks), keys, shards))?;
    let mut outputs = vec![Chunks::new(); shards];
    for parts in split {
        for (output, part) in outputs.iter_mut().zip(parts) {
            output.extend(part);
        }
    }
    Ok(outputs)
}

/// From shards of each input to inputs of each shard.
fn by_shard(inputs: Vec<Vec<Chunks>>, shards: usize, on_one_shard: bool) -> Vec<Vec<Chunks>> {
    let mut turned: Vec<Vec<Chunks>> = vec![Vec::with_capacity(inputs.len()); shards];
    for mut input in inputs {
        if on_one_shard {
            input = vec![gather(input)];
        }
        input.resize(shards, Chunks::new());
        turned.iter_mut().zip(input).for_each(|(shard, chunks)| shard.push(chunks));
    }
    turned
}

fn rows_in(shards: &[Chunks]) -> u64 {
    shards.iter().flatten().map(|delta| delta.num_rows() as u64).sum()
}

/// For [`NodeStats::nanos`] only, which nothing depends on; hence not the injected clock.
#[allow(clippy::disallowed_methods)]
fn instant() -> Instant {
    Instant::now()
}
