//! A dataflow: what keeps a view up to date, as a plan. `sql` makes it, `engine` runs it.
//!
//! ```text
//!   Input(bids) ─▶ Filter ─▶ Project ─▶ Exchange(auction) ─▶ Aggregate ─▶ Project ─▶ the view's contents
//!     node 0        node 1     node 2        node 3            node 4       node 5
//! ```
//!
//! Nodes are numbered in the order in which they run, inputs before users. A node's number is part of the name of its state on
//! disk, so the same query must always give the same numbers; [`Dataflow::fingerprint`] notices when it does not.
//!
//! Expressions are DataFusion's, over whole batches; columns are named by position.

mod clock;
mod growth;
mod join;
mod lookup;
mod lookup_join;
mod over;
mod panes;
mod sessions;
mod top_n;

use std::collections::BTreeSet;
use std::fmt::{self, Write};
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{DataType, SchemaRef};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_expr::expressions::Column;

use datafusion::physical_expr_common::physical_expr::fmt_sql;
use serde::{Deserialize, Serialize};

pub use self::clock::{CLOCK, Keeps, Temporal, clock_column, clock_schema, clock_type, numbers};
pub use self::growth::Growth;
pub use self::join::{Join, JoinKind, Within};
pub use self::lookup::Stored;
pub use self::lookup_join::LookupJoin;
pub use self::over::{Over, Until};
pub use self::panes::{PaneColumn, Panes, Shape, Window, Windows};
pub use self::sessions::Sessions;
pub use self::top_n::{RowNumber, SortKey, TopN};
use crate::Oid;
pub use crate::plan_text::readable;
use crate::values::duration_text;

pub type NodeId = u32;

#[derive(Debug, Clone)]
pub struct Dataflow {
    /// In the order in which they run; `nodes[i].id == i`.
    pub nodes: Vec<Node>,
}

#[derive(Debug, Clone)]
pub struct Node {
    pub id: NodeId,
    pub op: Op,
    pub inputs: Vec<NodeId>,
    /// Of the node's output.
    pub schema: SchemaRef,
    pub properties: Properties,
}

/// What is known of a stream of changes, whatever the data.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Properties {
    /// All weights are positive for ever.
    pub append_only: bool,
    /// Columns that tell the rows of the collection apart.
    pub key: Option<Vec<usize>>,
    /// Columns with a watermark: no later row has a smaller value in them.
    pub watermarks: BTreeSet<usize>,
}

#[derive(Debug, Clone)]
pub enum Op {
    /// Changes of a table, source or materialized view; `projection` picks from its columns.
    Input {
        collection: Oid,
        name: String,
        projection: Vec<usize>,
    },
    /// Rows that are there from the start and never change: VALUES, SELECT without FROM.
    Constant {
        batch: RecordBatch,
    },
    Filter {
        predicate: Arc<dyn PhysicalExpr>,
    },
    Project {
        exprs: Vec<Arc<dyn PhysicalExpr>>,
    },
    /// UNION ALL; the inputs have the same types.
    Union,
    /// Each row once for each element of its list columns, side by side, shorter ones filled with NULL. A struct column becomes its fields.
    Unnest {
        columns: Vec<UnnestColumn>,
        preserve_nulls: bool,
    },
    /// Sends each row to the shard that its key columns hash to. No columns: all rows to one shard.
    Exchange {
        keys: Vec<usize>,
    },
    Aggregate(Aggregate),
    Panes(Panes),
    Sessions(Sessions),
    Join(Join),
    LookupJoin(LookupJoin),
    TopN(TopN),
    Over(Over),
    /// Rows that are there while a condition on the clock holds.
    Temporal(Temporal),
    /// Each row with the time at which it is processed, as its last column.
    Clock,
    Pace(Pace),
}

/// When a view or sink tells what has changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Emit {
    /// At once.
    #[default]
    Changes,
    /// What has changed, at multiples of so many microseconds; what is final at once.
    ChangesEvery(i64),
    /// Only what is final.
    OnWindowClose,
}

/// EMIT CHANGES EVERY: changes are sent together at intervals. EMIT ON WINDOW CLOSE, where what computes them cannot wait itself:
/// only what is final is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Microseconds; `None`: nothing is sent before it is final.
    pub every: Option<i64>,
    /// The column by whose watermark rows are final: those are sent at once.
    pub close: Option<usize>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UnnestColumn {
    /// Goes through as it is.
    Keep(usize),
    /// One element of the list a row; nested lists are opened `depth` times.
    List { column: usize, depth: usize },
    /// The field of a struct column.
    Field { column: usize, field: usize },
}

/// GROUP BY. The input's first `group` columns are the key; the output is the key, then one column for each call.
#[derive(Debug, Clone)]
pub struct Aggregate {
    pub group: usize,
    pub calls: Vec<AggregateCall>,
    pub strategy: AggregateStrategy,
    /// The key column whose watermark closes groups: a group whose value is below the watermark is final, its state is let go.
    pub close: Option<usize>,
    /// Sends a group once, when it closes. Needs `close`.
    pub emit_on_close: bool,
    /// Sends the states of a group, in place of the results, for [`Panes`] to put together. Needs `emit_on_close` and
    /// [`AggregateStrategy::Merge`].
    pub partial: bool,
}

#[derive(Debug, Clone)]
pub struct AggregateCall {
    /// Its arguments, and the orderings of ORDER BY inside it, refer to the node's input.
    pub function: Arc<AggregateFunctionExpr>,
    /// FILTER (WHERE ..): a boolean column of the input.
    pub filter: Option<usize>,
}

/// How the groups' state is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AggregateStrategy {
    /// Accumulator states, merged with what each epoch adds. Append-only input.
    Merge,
    /// Counts and exact sums, which can be taken back, and the values of min and max. Any input; count, integer or decimal sum
    /// and avg, and [ordered](is_ordered_extreme) min and max only.
    Linear,
    /// All rows of each group; touched groups are computed anew. Any input, any function.
    Recompute,
}

/// A min or max whose values are in the order of their encoding, so that they can be kept in it. Not so floats (-0.0 is 0.0) and
/// intervals ('1 month' is '30 days').
pub fn is_ordered_extreme(function: &AggregateFunctionExpr) -> bool {
    let ordered = matches!(
        function.field().data_type(),
        DataType::Int16
            | DataType::Int32
            | DataType::Int64
            | DataType::Decimal128(..)
            | DataType::Decimal256(..)
            | DataType::Date32
            | DataType::Time64(_)
            | DataType::Timestamp(..)
            | DataType::Utf8
    );
    ordered && matches!(function.fun().name(), "min" | "max") && function.expressions().len() == 1
}

impl Dataflow {
    /// The last node, whose output is the view.
    pub fn output(&self) -> &Node {
        self.nodes.last().expect("a dataflow has at least its input")
    }

    /// The collections that it reads, each once.
    pub fn inputs(&self) -> BTreeSet<Oid> {
        self.nodes
            .iter()
            .filter_map(|n| match n.op {
                Op::Input { collection, .. } => Some(collection),
                _ => None,
            })
            .collect()
    }

    /// Text that changes whenever state kept for another plan would not fit this one.
    pub fn fingerprint(&self) -> String {
        self.text(Words::Exact).unwrap_or_else(|_| String::new())
    }
}

/// Whom a plan's text is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Words {
    /// Whoever reads EXPLAIN.
    Sql,
    /// The fingerprint: DataFusion's own, with places and types.
    Exact,
}

/// One line a node, the last node first and inputs indented below it, as EXPLAIN shows it.
impl fmt::Display for Dataflow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text(Words::Sql)?)
    }
}

impl Dataflow {
    fn text(&self, words: Words) -> Result<String, fmt::Error> {
        let mut text = String::new();
        self.write_node(&mut text, self.output(), 0, words)?;
        Ok(text.trim_end().to_string())
    }

    fn write_node(&self, out: &mut String, node: &Node, depth: usize, words: Words) -> fmt::Result {
        let arrow = if depth == 0 { "" } else { "->  " };
        let mut what = format!("{}{}", node.describe(self, words), node.properties_text());
        match words {
            Words::Sql => what = readable(&what),
            // State on disk goes by the node's number.
            Words::Exact => what = format!("{} {what}", node.id),
        }
        writeln!(out, "{:indent$}{arrow}{what}", "", indent = depth * 4)?;
        for input in &node.inputs {
            self.write_node(out, &self.nodes[*input as usize], depth + 1, words)?;
        }
        Ok(())
    }
}

impl Node {
    fn describe(&self, dataflow: &Dataflow, words: Words) -> String {
        let input_names = |columns: &[usize]| -> String {
            let schema = &dataflow.nodes[self.inputs[0] as usize].schema;
            columns.iter().map(|c| schema.field(*c).name().as_str()).collect::<Vec<_>>().join(", ")
        };
        match &self.op {
            Op::Input { name, collection, .. } => {
                // Its name may change; what is kept of it does not.
                let name = if words == Words::Exact { collection.to_string() } else { name.clone() };
                let columns: Vec<_> = self.schema.fields().iter().map(|f| f.name().as_str()).collect();
                format!("Input {name} ({})", columns.join(", "))
            }
            Op::Constant { batch } => format!("Constant ({} rows)", batch.num_rows()),
            Op::Filter { predicate } if words == Words::Sql => format!("Filter {}", fmt_sql(predicate.as_ref())),
            Op::Filter { predicate } => format!("Filter {predicate}"),
            Op::Project { exprs } if words == Words::Sql => {
                let columns = exprs.iter().zip(self.schema.fields()).map(|(e, f)| column_text(e.as_ref(), f.name()));
                format!("Project {}", columns.collect::<Vec<_>>().join(", "))
            }
            Op::Project { exprs } => {
                let columns: Vec<_> = exprs
                    .iter()
                    .zip(self.schema.fields())
                    .map(|(e, f)| {
                        let expr = e.to_string();
                        match expr.rsplit_once('@') {
                            Some((name, _)) if name == f.name() => name.to_string(),
                            _ => format!("{expr} AS {}", f.name()),
                        }
                    })
                    .collect();
                format!("Project {}", columns.join(", "))
            }
            Op::Union => "Union".into(),
            Op::Unnest { columns, .. } => {
                let lists: Vec<usize> = columns
                    .iter()
                    .filter_map(|c| match c {
                        UnnestColumn::Keep(_) => None,
                        UnnestColumn::List { column, .. } | UnnestColumn::Field { column, .. } => Some(*column),
                    })
                    .collect::<BTreeSet<_>>()
                    .into_iter()
                    .collect();
                format!("Unnest {}", input_names(&lists))
            }
            Op::Exchange { keys } if keys.is_empty() => "Exchange to one shard".into(),
            Op::Exchange { keys } => format!("Exchange by {}", input_names(keys)),
            Op::Aggregate(aggregate) => aggregate.describe(&input_names, words),
            Op::Panes(panes) => panes.describe(&|column| self.schema.field(column).name().clone(), words),
            Op::Sessions(sessions) => sessions.describe(&input_names, words),
            Op::Join(join) => {
                let [left, right] = [0, 1].map(|i| &dataflow.nodes[self.inputs[i] as usize].schema);
                let looked_up = [0, 1].map(|i| join.looked_up[i].as_ref().and(dataflow.stored_name(self.inputs[i])));
                join.describe(left, right, looked_up, words)
            }
            Op::LookupJoin(lookup) => lookup.describe(&dataflow.nodes[self.inputs[0] as usize].schema, words),
            Op::TopN(top_n) => top_n.describe(&input_names, words),
            Op::Over(over) => over.describe(&input_names, &self.schema, words),
            Op::Temporal(temporal) => temporal.describe(&input_names(&[temporal.column]), words),
            Op::Clock => "Clock proctime()".into(),
            Op::Pace(pace) => {
                let close = pace.close.map(|close| format!("{} is below the watermark", input_names(&[close])));
                match (pace.every.map(duration_text), close) {
                    (None, close) => format!("Hold until {}; keeps what changes until then", close.unwrap_or_default()),
                    (Some(every), None) => format!("Pace every {every}; keeps what changes until it is sent"),
                    (Some(every), Some(close)) => {
                        format!("Pace every {every}, at once where {close}; keeps what changes until it is sent")
                    }
                }
            }
        }
    }

    fn properties_text(&self) -> String {
        let p = &self.properties;
        let names = |columns: &mut dyn Iterator<Item = usize>| -> String {
            columns.map(|c| self.schema.field(c).name().to_string()).collect::<Vec<_>>().join(", ")
        };
        let mut text = String::from(if p.append_only { "  [append-only" } else { "  [updating" });
        if let Some(key) = &p.key {
            let _ = write!(
                text,
                ", key: {}",
                if key.is_empty() { "one row".into() } else { names(&mut key.iter().copied()) }
            );
        }
        if !p.watermarks.is_empty() {
            let _ = write!(text, ", watermark: {}", names(&mut p.watermarks.iter().copied()));
        }
        text.push(']');
        text
    }
}

fn as_column(expr: &Arc<dyn PhysicalExpr>) -> Option<usize> {
    expr.downcast_ref::<Column>().map(Column::index)
}

/// `expression AS name`; a name that the planner made up says no more than the expression.
fn column_text(expr: &dyn PhysicalExpr, name: &str) -> String {
    let text = fmt_sql(expr).to_string();
    let made_up = name.contains(|c: char| !c.is_alphanumeric() && c != '_');
    if text == name || made_up { text } else { format!("{text} AS {name}") }
}

impl Aggregate {
    fn describe(&self, input_names: &dyn Fn(&[usize]) -> String, words: Words) -> String {
        let keys: Vec<usize> = (0..self.group).collect();
        let calls: Vec<String> = self
            .calls
            .iter()
            .map(|c| match c.filter {
                // DataFusion's name of the call says it, too.
                Some(filter) if words == Words::Exact => {
                    format!("{} FILTER {}", c.function.name(), input_names(&[filter]))
                }
                _ => c.function.name().to_string(),
            })
            .collect();
        let mut text = match (self.group, calls.is_empty()) {
            (_, true) => format!("Distinct {}", input_names(&keys)),
            (0, false) => format!("Aggregate {}", calls.join(", ")),
            (_, false) => format!("Aggregate {} by {}", calls.join(", "), input_names(&keys)),
        };
        let _ = write!(
            text,
            "; keeps {}",
            match self.strategy {
                AggregateStrategy::Merge if self.calls.iter().any(|call| call.function.is_distinct()) => {
                    "one state a group, and the values of DISTINCT"
                }
                AggregateStrategy::Merge => "one state a group",
                AggregateStrategy::Linear if self.calls.iter().any(|c| is_ordered_extreme(&c.function)) => {
                    "counts and sums a group, and the values of min and max"
                }
                AggregateStrategy::Linear => "counts and sums a group",
                AggregateStrategy::Recompute => "the rows of each group",
            }
        );
        if let Some(close) = self.close {
            let _ = write!(text, " until {} is below the watermark", input_names(&[close]));
        }
        match (self.emit_on_close, self.partial) {
            (false, _) => {}
            (true, false) => text.push_str("; sends a group when it closes"),
            (true, true) => text.push_str("; sends a group's state when it closes"),
        }
        text
    }
}
