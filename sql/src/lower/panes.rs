//! HOP and CUMULATE that are sent on closing: a row is counted in its pane, not in each of its windows.
//!
//! ```text
//!   Unnest tidemark_hop_starts(ts) ─▶ ..  ─▶ Aggregate by window_start, window_end, k
//!
//!   is the same as     Project pane, k, arguments ─▶ Aggregate by pane, k, sends states ─▶ Panes window_start, window_end, k
//! ```
//!
//! where the input only grows, the key has what tells windows apart, and neither arguments nor conditions look at the window.

use std::sync::Arc;

use datafusion::arrow::datatypes::{Field, IntervalMonthDayNano, Schema, SchemaRef};
use datafusion::logical_expr::Aggregate;
use datafusion::physical_expr::ScalarFunctionExpr;
use datafusion::physical_expr::aggregate::AggregateExprBuilder;
use datafusion::physical_expr::expressions::{Column, Literal};
use datafusion::physical_expr::utils::collect_columns;
use datafusion::scalar::ScalarValue;
use tidemark_common::Result;
use tidemark_common::plan::{
    self, AggregateCall, AggregateStrategy, NodeId, Op, PaneColumn, Panes, Properties, Shape, UnnestColumn, Windows,
};

use super::sources::{Physical, substituted_by};
use super::{Lowering, watermark};
use crate::functions::{CUMULATE_ENDS, HOP_STARTS, TUMBLE_START, WINDOW_END, pane_start_function, paned};

/// Columns of what an expression over a window sees.
const START: usize = 0;
const END: usize = 1;

/// Rows that are about to be opened into windows, and what becomes of them above.
struct Opened {
    /// The node that they come from.
    input: NodeId,
    windows: Windows,
    shape: Shape,
    /// The start of a row's pane.
    pane: Physical,
    /// Conditions on rows.
    conditions: Vec<Physical>,
    columns: Vec<Traced>,
}

/// Where the values of a column come from.
#[derive(Clone)]
enum Traced {
    /// Over the rows that are opened.
    Row(Physical),
    /// Over the window's start and end.
    Window(Physical),
    Both,
}

impl Lowering {
    /// The rows of `input` grouped by their first `group` columns, if that can be done by panes.
    pub(super) fn panes(
        &mut self,
        input: NodeId,
        group: usize,
        calls: &[AggregateCall],
        aggregate: &Aggregate,
    ) -> Result<Option<NodeId>> {
        let Some(opened) = self.opened(input)? else { return Ok(None) };
        let Some((columns, keys)) = opened.key(group) else { return Ok(None) };
        let Some(fed) = Fed::new(&keys, calls, |column| opened.of_row(column)) else { return Ok(None) };
        let time = columns.iter().position(|column| matches!(column, PaneColumn::Window(_))).unwrap_or(0);
        let pane = Field::new("pane", self.schema(input).field(time).data_type().clone(), true);
        let fields = fed.fields(pane, self.schema(input));
        let calls = fed.calls(calls, &fields)?;

        let mut node = opened.input;
        for predicate in opened.conditions {
            let (schema, properties) = (self.schema(node).clone(), self.properties(node).clone());
            node = self.add(Op::Filter { predicate }, vec![node], schema, properties);
        }
        let node = self.project(node, std::iter::once(opened.pane).chain(fed.exprs).collect(), fields);
        let node = self.states_by_pane(node, keys.len(), &calls)?;
        let node = self.exchange(node, (1..=keys.len()).collect());
        let both = [START, END].into_iter().collect();
        let carries = |column: &PaneColumn| match column {
            PaneColumn::Key(_) => false,
            PaneColumn::Window(expr) => watermark::carries(expr, &both),
        };
        let properties = Properties {
            append_only: true,
            key: Some((0..group).collect()),
            watermarks: (0..group).filter(|at| carries(&columns[*at])).collect(),
        };
        let schema = self.aggregate_schema(input, group, &calls, aggregate);
        let panes = Panes { windows: opened.windows, keys: keys.len(), calls, columns };
        Ok(Some(self.add(Op::Panes(panes), vec![node], schema, properties)))
    }

    /// What `node` does with windows that are opened below it, through projections and filters.
    fn opened(&self, node: NodeId) -> Result<Option<Opened>> {
        let node = &self.nodes[node as usize];
        match &node.op {
            Op::Unnest { columns, .. } => {
                let below = &self.nodes[node.inputs[0] as usize];
                let Op::Project { exprs } = &below.op else { return Ok(None) };
                Opened::new(below.inputs[0], exprs, columns, self.schema(below.inputs[0]))
            }
            Op::Project { exprs } => {
                Ok(self.opened(node.inputs[0])?.map(|below| below.projected(exprs)).transpose()?)
            }
            Op::Filter { predicate } => match self.opened(node.inputs[0])? {
                Some(below) => Ok(below.filtered(predicate)?),
                None => Ok(None),
            },
            _ => Ok(None),
        }
    }

    /// The states of the calls by pane and key, sent when the pane closes.
    fn states_by_pane(&mut self, input: NodeId, keys: usize, calls: &[AggregateCall]) -> Result<NodeId> {
        let exchanged = self.exchange(input, (0..=keys).collect());
        let mut fields: Vec<_> = self.schema(exchanged).fields()[..=keys].to_vec();
        for call in calls {
            fields.extend(call.function.state_fields()?);
        }
        let properties =
            Properties { append_only: true, key: Some((0..=keys).collect()), watermarks: [0].into_iter().collect() };
        let op = Op::Aggregate(plan::Aggregate {
            group: keys + 1,
            calls: calls.to_vec(),
            strategy: AggregateStrategy::Merge,
            close: Some(0),
            emit_on_close: true,
            partial: true,
        });
        Ok(self.add(op, vec![exchanged], Arc::new(Schema::new(fields)), properties))
    }
}

impl Opened {
    /// `exprs`: over the rows, of which `columns` opens one.
    fn new(input: NodeId, exprs: &[Physical], columns: &[UnnestColumn], rows: &SchemaRef) -> Result<Option<Self>> {
        let lists = columns.iter().filter_map(|column| match column {
            UnnestColumn::List { column, depth: 1 } => Some(*column),
            _ => None,
        });
        let [list] = lists.collect::<Vec<_>>()[..] else { return Ok(None) };
        let Some(function) = exprs[list].downcast_ref::<ScalarFunctionExpr>() else { return Ok(None) };
        let Some((shape, windows)) = windows_of(function) else { return Ok(None) };
        let traced = columns.iter().map(|column| match column {
            UnnestColumn::List { .. } => Some(Traced::Window(edge(if shape == Shape::Hop { START } else { END }))),
            UnnestColumn::Keep(at) if shape == Shape::Cumulate && starts_with(&exprs[*at], function) => {
                Some(Traced::Window(edge(START)))
            }
            UnnestColumn::Keep(at) if *at != list => Some(Traced::Row(Arc::clone(&exprs[*at]))),
            _ => None,
        });
        let Some(columns) = traced.collect() else { return Ok(None) };
        let (pane, arguments) = (Arc::new(pane_start_function()), function.args().to_vec());
        let config = Arc::new(function.config_options().clone());
        let pane = Arc::new(ScalarFunctionExpr::try_new(pane, arguments, rows, config)?);
        Ok(Some(Self { input, windows, shape, pane, conditions: Vec::new(), columns }))
    }

    fn projected(mut self, exprs: &[Physical]) -> Result<Self> {
        self.columns = exprs.iter().map(|expr| self.trace(expr)).collect::<Result<_>>()?;
        Ok(self)
    }

    /// `None`: the condition looks at the window.
    fn filtered(mut self, predicate: &Physical) -> Result<Option<Self>> {
        let Traced::Row(predicate) = self.trace(predicate)? else { return Ok(None) };
        self.conditions.push(predicate);
        Ok(Some(self))
    }

    fn trace(&self, expr: &Physical) -> Result<Traced> {
        if let Some(column) = watermark::as_column(expr) {
            return Ok(self.columns[column].clone());
        }
        let columns = collect_columns(expr);
        let from = |wanted: fn(&Traced) -> bool| columns.iter().all(|column| wanted(&self.columns[column.index()]));
        if from(|column| matches!(column, Traced::Row(_))) {
            return Ok(Traced::Row(self.over_sources(expr)?));
        }
        if !from(|column| matches!(column, Traced::Window(_))) {
            return Ok(Traced::Both);
        }
        let expr = self.over_sources(expr)?;
        Ok(Traced::Window(if self.is_end(&expr) { edge(END) } else { expr }))
    }

    /// The same with what its columns are in their place.
    fn over_sources(&self, expr: &Physical) -> Result<Physical> {
        substituted_by(expr, |column| match &self.columns[column] {
            Traced::Row(source) | Traced::Window(source) => Some(Arc::clone(source)),
            Traced::Both => None,
        })
    }

    /// The end as it is written for HOP, whose list is one of starts.
    fn is_end(&self, expr: &Physical) -> bool {
        let Some(function) = expr.downcast_ref::<ScalarFunctionExpr>() else { return false };
        let size = function.args().get(1).and_then(span);
        self.shape == Shape::Hop
            && function.fun().name() == WINDOW_END
            && watermark::as_column(&function.args()[0]) == Some(START)
            && size
                .is_some_and(|size| paned(Shape::Hop, &[size, size]).is_some_and(|w| w.size() == self.windows.size()))
    }

    /// The key by window: its columns, and which of them are the key of a pane. `None`: it does not tell windows apart.
    fn key(&self, group: usize) -> Option<(Vec<PaneColumn>, Vec<usize>)> {
        let mut keys = Vec::new();
        let mut columns = Vec::new();
        for (at, column) in self.columns[..group].iter().enumerate() {
            columns.push(match column {
                Traced::Row(_) => {
                    keys.push(at);
                    PaneColumn::Key(keys.len() - 1)
                }
                Traced::Window(expr) => PaneColumn::Window(Arc::clone(expr)),
                Traced::Both => return None,
            });
        }
        // Cumulating windows start together.
        let tells = |edge: usize| edge == END || self.shape == Shape::Hop;
        let edges = columns.iter().filter_map(|column| match column {
            PaneColumn::Window(expr) => watermark::as_column(expr),
            PaneColumn::Key(_) => None,
        });
        edges.into_iter().any(tells).then_some((columns, keys))
    }

    /// A column that does not look at the window, over the rows that are opened.
    fn of_row(&self, column: usize) -> Option<Physical> {
        match &self.columns[column] {
            Traced::Row(expr) => Some(Arc::clone(expr)),
            _ => None,
        }
    }
}

/// What is grouped before windows are known: a time, the key without the window, what the calls read.
pub(super) struct Fed {
    /// Which column of the rows by window each is.
    sources: Vec<usize>,
    pub exprs: Vec<Physical>,
}

impl Fed {
    /// `row`: a column of the rows by window over those without one. `None`: a call looks at the window.
    pub(super) fn new(
        keys: &[usize],
        calls: &[AggregateCall],
        row: impl Fn(usize) -> Option<Physical>,
    ) -> Option<Self> {
        let read = calls.iter().flat_map(|call| {
            let arguments = call.function.expressions();
            let columns = arguments.iter().flat_map(collect_columns).map(|column| column.index()).collect::<Vec<_>>();
            columns.into_iter().chain(call.filter)
        });
        let mut sources = keys.to_vec();
        for column in read {
            if !sources.contains(&column) {
                sources.push(column);
            }
        }
        let exprs = sources.iter().map(|source| row(*source)).collect::<Option<_>>()?;
        Some(Self { sources, exprs })
    }

    /// `by_window`: the rows with a window each.
    pub(super) fn fields(&self, time: Field, by_window: &SchemaRef) -> SchemaRef {
        let rest = self.sources.iter().map(|source| by_window.field(*source).clone());
        Arc::new(Schema::new(std::iter::once(time).chain(rest).collect::<Vec<_>>()))
    }

    fn place(&self, column: usize) -> usize {
        1 + self.sources.iter().position(|source| *source == column).expect("all that calls read is there")
    }

    /// The calls over columns of `schema`.
    pub(super) fn calls(&self, calls: &[AggregateCall], schema: &SchemaRef) -> Result<Vec<AggregateCall>> {
        let moved = |column: usize| {
            let place = self.place(column);
            Some(Arc::new(Column::new(schema.field(place).name(), place)) as Physical)
        };
        let call = |call: &AggregateCall| {
            let function = &call.function;
            let arguments = function.expressions();
            let arguments = arguments.iter().map(|expr| substituted_by(expr, moved));
            let built = AggregateExprBuilder::new(Arc::new(function.fun().clone()), arguments.collect::<Result<_>>()?)
                .schema(Arc::clone(schema))
                .alias(function.name())
                .with_distinct(function.is_distinct())
                .with_ignore_nulls(function.ignore_nulls())
                .build()?;
            Ok(AggregateCall { function: Arc::new(built), filter: call.filter.map(|column| self.place(column)) })
        };
        calls.iter().map(call).collect()
    }
}

fn edge(which: usize) -> Physical {
    Arc::new(Column::new(["window_start", "window_end"][which], which))
}

/// The windows that a function lists.
fn windows_of(function: &ScalarFunctionExpr) -> Option<(Shape, Windows)> {
    let shape = match function.fun().name() {
        HOP_STARTS => Shape::Hop,
        CUMULATE_ENDS => Shape::Cumulate,
        _ => return None,
    };
    let spans = function.args()[1..].iter().map(span).collect::<Option<Vec<_>>>()?;
    Some((shape, paned(shape, &spans)?))
}

/// Whether `expr` is the start of the windows whose ends `ends` lists.
fn starts_with(expr: &Physical, ends: &ScalarFunctionExpr) -> bool {
    let Some(start) = expr.downcast_ref::<ScalarFunctionExpr>() else { return false };
    // Of time, step, size and offset a start has no step.
    let wanted = ends.args().iter().enumerate().filter(|(at, _)| *at != 1).map(|(_, argument)| argument);
    start.fun().name() == TUMBLE_START && start.args().iter().eq(wanted)
}

fn span(expr: &Physical) -> Option<IntervalMonthDayNano> {
    match expr.downcast_ref::<Literal>()?.value() {
        ScalarValue::IntervalMonthDayNano(span) => *span,
        _ => None,
    }
}
