//! GROUP BY over SESSION: a session is kept as the states of its aggregates, not as its rows.
//!
//! ```text
//!   Over tidemark_session_start(ts, gap), .. for each k ─▶ .. ─▶ Aggregate by k, window_start, window_end
//!
//!   is the same as     Project ts, k, arguments ─▶ Exchange by k ─▶ Sessions k, window_start, window_end
//! ```
//!
//! where the input only grows, its time has a watermark, the key is the partition and the window, and neither arguments nor conditions
//! look at the window. Sessions of a longest length depend on each of their rows, and those of months are few: they stay as they are.

use std::sync::Arc;

use datafusion::logical_expr::Aggregate;
use datafusion::physical_expr::expressions::{Column, IsNotNullExpr, Literal};
use datafusion::physical_expr::utils::collect_columns;
use datafusion::physical_expr::window::{StandardWindowExpr, WindowExpr};
use datafusion::physical_plan::windows::WindowUDFExpr;
use datafusion::scalar::ScalarValue;
use tidemark_common::Result;
use tidemark_common::plan::{self, AggregateCall, NodeId, Op, Properties};

use super::panes::Fed;
use super::sources::{Base, Physical, Sources, substituted_by};
use super::{Lowering, watermark};
use crate::functions::{SESSION_END, SESSION_START, Span};

/// What Over says of each row and its session.
struct Found {
    /// The node whose rows they are.
    input: NodeId,
    time: usize,
    partition: Vec<usize>,
    gap: i64,
    /// How many columns rows have; those of `edges` are behind them.
    width: usize,
    edges: Vec<Edge>,
    /// The columns of the rows to be grouped, over those of Over.
    columns: Vec<Physical>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Edge {
    Start,
    End,
}

impl Lowering {
    /// The rows of `input` grouped by their first `group` columns, if those are sessions.
    pub(super) fn sessions(
        &mut self,
        input: NodeId,
        group: usize,
        calls: &[AggregateCall],
        aggregate: &Aggregate,
    ) -> Result<Option<NodeId>> {
        let Some(found) = self.found(input)? else { return Ok(None) };
        let Some((keys, columns)) = found.key(group)? else { return Ok(None) };
        let Some(fed) = Fed::new(&keys, calls, |column| found.of_row(column)) else { return Ok(None) };
        let time = self.schema(found.input).field(found.time).clone();
        let fields = fed.fields(time.clone(), self.schema(input));
        let calls = fed.calls(calls, &fields)?;

        let time = Arc::new(Column::new(time.name(), found.time)) as Physical;
        let node = self.project(found.input, std::iter::once(time).chain(fed.exprs).collect(), fields);
        let node = self.exchange(node, (1..=keys.len()).collect());
        let end = [keys.len() + 1].into_iter().collect();
        let properties = Properties {
            append_only: self.emit_on_close,
            key: Some((0..group).collect()),
            watermarks: (0..group).filter(|at| watermark::carries(&columns[*at], &end)).collect(),
        };
        let schema = self.aggregate_schema(input, group, &calls, aggregate);
        let sessions =
            plan::Sessions { keys: keys.len(), gap: found.gap, calls, columns, emit_on_close: self.emit_on_close };
        Ok(Some(self.add(Op::Sessions(sessions), vec![node], schema, properties)))
    }

    fn found(&self, node: NodeId) -> Result<Option<Found>> {
        let Sources { base: Base::Node(base), conditions, columns } = self.sources(node)? else { return Ok(None) };
        let Op::Over(over) = &self.nodes[base as usize].op else { return Ok(None) };
        let (Some(until), true, None) = (over.until, conditions.is_empty(), over.close) else { return Ok(None) };
        let Some(sessions) = over.functions.iter().map(session).collect::<Option<Vec<_>>>() else { return Ok(None) };
        let Some(&(_, gap)) = sessions.first() else { return Ok(None) };
        let exchange = self.nodes[base as usize].inputs[0];
        let input = match &self.nodes[exchange as usize].op {
            Op::Exchange { .. } => self.nodes[exchange as usize].inputs[0],
            _ => exchange,
        };
        let is_kept = self.properties(input).append_only && self.is_never_null(input, until.time)?;
        Ok(is_kept.then(|| Found {
            input,
            time: until.time,
            partition: over.partition.clone(),
            gap,
            width: self.schema(input).fields().len(),
            edges: sessions.into_iter().map(|(edge, _)| edge).collect(),
            columns,
        }))
    }

    fn is_never_null(&self, node: NodeId, column: usize) -> Result<bool> {
        let sources = self.sources(node)?;
        let tested = |condition: &Physical| {
            condition.downcast_ref::<IsNotNullExpr>().is_some_and(|test| test.arg() == &sources.columns[column])
        };
        Ok(!self.schema(node).field(column).is_nullable() || sources.conditions.iter().any(tested))
    }
}

impl Found {
    /// A column that does not look at the window, over the rows.
    fn of_row(&self, column: usize) -> Option<Physical> {
        let expr = &self.columns[column];
        collect_columns(expr).iter().all(|column| column.index() < self.width).then(|| Arc::clone(expr))
    }

    /// Where the partition's columns are in the key, and the key over those and the edges. `None`: it does not tell sessions apart, or
    /// has more in it.
    fn key(&self, group: usize) -> Result<Option<(Vec<usize>, Vec<Physical>)>> {
        let places: Vec<Option<usize>> = self.columns[..group].iter().map(watermark::as_column).collect();
        let in_key = |column: &usize| places.iter().position(|place| *place == Some(*column));
        let Some(keys) = self.partition.iter().map(in_key).collect::<Option<Vec<usize>>>() else { return Ok(None) };
        let has_edge = places.iter().flatten().any(|place| *place >= self.width);
        let place = |column: usize| match column.checked_sub(self.width) {
            None => self.partition.iter().position(|partition| *partition == column),
            Some(edge) => Some(keys.len() + usize::from(self.edges[edge] == Edge::End)),
        };
        let read = self.columns[..group].iter().flat_map(collect_columns);
        if !has_edge || read.into_iter().any(|column| place(column.index()).is_none()) {
            return Ok(None);
        }
        let moved = |column: usize| Some(Arc::new(Column::new("", place(column)?)) as Physical);
        let columns = self.columns[..group].iter().map(|expr| substituted_by(expr, moved)).collect::<Result<_>>()?;
        Ok(Some((keys, columns)))
    }
}

/// Which edge of a session a function gives, and the gap, if that is of fixed length and nothing else bounds the session.
fn session(function: &Arc<dyn WindowExpr>) -> Option<(Edge, i64)> {
    let function = function.as_any().downcast_ref::<StandardWindowExpr>()?.get_standard_func_expr();
    let edge = match function.as_any().downcast_ref::<WindowUDFExpr>()?.fun().name() {
        SESSION_START => Edge::Start,
        SESSION_END => Edge::End,
        _ => return None,
    };
    let arguments = function.expressions();
    let [_, gap] = arguments.as_slice() else { return None };
    match gap.downcast_ref::<Literal>()?.value() {
        ScalarValue::IntervalMonthDayNano(Some(gap)) => match Span::positive(*gap, "gap").ok()? {
            Span::Micros(gap) => Some((edge, gap)),
            Span::Months(_) => None,
        },
        _ => None,
    }
}
