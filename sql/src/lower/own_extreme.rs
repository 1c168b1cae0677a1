//! Rows joined with the greatest or least value of their own group: the first rows of each group by rank.
//!
//! ```text
//!   b JOIN (SELECT k, max(x) AS m FROM b GROUP BY k) AS g ON b.k = g.k AND b.x = g.m
//!
//!   is the same as    TopN 1 by rank, partition k, order x DESC       which keeps of input that only grows the first rows alone
//! ```
//!
//! A group by windows of TUMBLE may be asked for by its times, too: `b.ts >= window_start AND b.ts < window_end`.

use std::sync::Arc;

use datafusion::arrow::datatypes::Schema;
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::ScalarFunctionExpr;
use datafusion::physical_expr::expressions::{BinaryExpr, Column, IsNotNullExpr};
use datafusion::physical_expr::utils::{conjunction, split_conjunction};
use tidemark_common::Result;
use tidemark_common::plan::{self, JoinKind, NodeId, Op, RowNumber, SortKey, is_ordered_extreme};

use super::Lowering;
use super::join::Side;
use super::key_columns::Keys;
use super::sources::{Base, Physical, Sources, substituted};
use super::top_n::Part;
use super::watermark::as_column;
use crate::functions::{TUMBLE_END, TUMBLE_START};

/// An inner or semi join of `rows` with groups that `extremes` has.
pub(super) struct Pair<'a> {
    pub kind: JoinKind,
    pub rows: &'a Side,
    pub extremes: &'a Side,
    /// Over the columns of `rows`, then those of `extremes`.
    pub residual: Option<&'a Physical>,
    /// The groups' columns come first.
    pub turned: bool,
}

/// What ties rows to groups.
struct Ties<'a> {
    rows: &'a Sources,
    /// The columns of the grouped rows: the key, then the argument of the call.
    grouped: Vec<Physical>,
    greatest: bool,
    /// Which column of the rows is each of them.
    equal: Vec<Option<usize>>,
    /// Of a window's start and end, the column of its time.
    times: Vec<Option<usize>>,
}

impl Lowering {
    /// `schema`: of the join's output.
    pub(super) fn own_extreme(&mut self, pair: &Pair<'_>, schema: &Schema) -> Result<Option<NodeId>> {
        let groups = self.sources(pair.extremes.node)?;
        let (Base::Node(aggregate), true) = (groups.base, groups.conditions.is_empty()) else { return Ok(None) };
        let Some((input, call, group)) = self.one_extreme(aggregate) else { return Ok(None) };
        let (rows, grouped) = (self.sources(pair.rows.node)?, self.sources(input)?);
        if rows.base != grouped.base {
            return Ok(None);
        }
        let greatest = call.function.fun().name() == "max";
        let arguments = call.function.expressions();
        let Some(argument) = as_column(&arguments[0]) else { return Ok(None) };
        let of_groups: Vec<_> = (0..group).chain([argument]).map(|at| Arc::clone(&grouped.columns[at])).collect();
        let mut ties = Ties::new(&rows, of_groups, greatest);
        let mut on = pair.rows.keys.iter().zip(&pair.extremes.keys);
        if !on.all(|(&row, &of)| as_column(&groups.columns[of]).is_some_and(|of| ties.equal(row, of))) {
            return Ok(None);
        }
        for part in pair.residual.iter().flat_map(|residual| split_conjunction(residual)) {
            if !ties.compared(part, pair.rows.width, &groups.columns) {
                return Ok(None);
            }
        }
        let Some(tied) = ties.complete()? else { return Ok(None) };
        if !same_rows(&rows, &grouped, &tied.columns) {
            return Ok(None);
        }
        self.first_by_rank(pair, &tied, &groups.columns, greatest, schema)
    }

    /// The input, call and key length of an aggregate that finds one extreme.
    fn one_extreme(&self, aggregate: NodeId) -> Option<(NodeId, plan::AggregateCall, usize)> {
        let node = &self.nodes[aggregate as usize];
        let Op::Aggregate(plan::Aggregate { calls, group, partial: false, .. }) = &node.op else { return None };
        let [call] = calls.as_slice() else { return None };
        let fits = is_ordered_extreme(&call.function) && call.filter.is_none();
        fits.then(|| (node.inputs[0], call.clone(), *group))
    }

    fn first_by_rank(
        &mut self,
        pair: &Pair<'_>,
        tied: &Tied,
        groups: &[Physical],
        greatest: bool,
        schema: &Schema,
    ) -> Result<Option<NodeId>> {
        let width = pair.rows.width;
        let fields = Arc::clone(self.schema(pair.rows.node));
        let column = |at: usize| Arc::new(Column::new(fields.field(at).name(), at)) as Physical;
        // NULL is no greatest value, and meets nothing.
        let present = tied.columns.iter().filter(|at| fields.field(**at).is_nullable());
        let present = present.map(|at| Arc::new(IsNotNullExpr::new(column(*at))) as Physical).collect::<Vec<_>>();
        let mut node = pair.rows.node;
        if !present.is_empty() {
            let properties = self.properties(node).clone();
            let predicate = conjunction(present);
            node = self.add(Op::Filter { predicate }, vec![node], Arc::clone(&fields), properties);
        }
        let keys: Vec<Physical> = tied.keys.iter().map(|key| key.over(column)).collect::<Result<_>>()?;
        let (node, places) = self.with_columns(node, &keys)?;
        if places.contains(&tied.extreme) {
            return Ok(None);
        }
        let mut partition = places.clone();
        partition.sort_unstable();
        partition.dedup();
        let order = vec![SortKey { column: tied.extreme, descending: greatest, nulls_first: false }];
        let part = Part { number: RowNumber::Rank, offset: 0, limit: Some(1) };
        let mut node = self.first_of(Keys { node, partition, order }, part, None);
        if self.emit_on_close {
            node = self.hold(node);
            if !self.properties(node).append_only {
                return Ok(None);
            }
        }
        let columns = Arc::clone(self.schema(node));
        let column = |at: usize| Arc::new(Column::new(columns.field(at).name(), at)) as Physical;
        let of_group: Vec<Physical> = places.iter().copied().chain([tied.extreme]).map(column).collect();
        let rows = (0..width).map(|at| Ok(column(at)));
        let groups = groups[..pair.extremes.width].iter().map(|expr| substituted(expr, &of_group));
        let exprs: Result<Vec<Physical>> = match (pair.kind, pair.turned) {
            (JoinKind::Semi, _) => rows.collect(),
            (_, false) => rows.chain(groups).collect(),
            (_, true) => groups.chain(rows).collect(),
        };
        Ok(Some(self.project(node, exprs?, Arc::new(schema.clone()))))
    }
}

/// All of a group's key and its extreme, in columns of the rows.
struct Tied {
    keys: Vec<Key>,
    extreme: usize,
    /// The columns that must have a value.
    columns: Vec<usize>,
}

enum Key {
    Column(usize),
    /// A function of the column, which is its first argument.
    Window(Physical, usize),
}

impl Key {
    fn over(&self, column: impl Fn(usize) -> Physical) -> Result<Physical> {
        match self {
            Key::Column(at) => Ok(column(*at)),
            Key::Window(function, at) => {
                let mut arguments: Vec<Physical> = function.children().into_iter().map(Arc::clone).collect();
                arguments[0] = column(*at);
                Ok(Arc::clone(function).with_new_children(arguments)?)
            }
        }
    }
}

impl<'a> Ties<'a> {
    fn new(rows: &'a Sources, grouped: Vec<Physical>, greatest: bool) -> Self {
        let none = vec![None; grouped.len()];
        Self { rows, grouped, greatest, equal: none.clone(), times: none }
    }

    /// Column `row` of the rows equals column `of` of the groups: true if that says which group a row is in, or that it has the
    /// extreme.
    fn equal(&mut self, row: usize, of: usize) -> bool {
        let same = self.rows.columns[row].eq(&self.grouped[of]);
        if same {
            self.equal[of] = Some(row);
        }
        same
    }

    /// The same of a comparison. A row is never beyond the extreme of its group, so it has it where it is not short of it.
    fn compared(&mut self, part: &Physical, width: usize, groups: &[Physical]) -> bool {
        let Some(binary) = part.downcast_ref::<BinaryExpr>() else { return false };
        let (Some(left), Some(right)) = (as_column(binary.left()), as_column(binary.right())) else { return false };
        let (row, group, op) = match (left < width, right < width) {
            (true, false) => (left, right - width, *binary.op()),
            (false, true) => match binary.op().swap() {
                Some(op) => (right, left - width, op),
                None => return false,
            },
            _ => return false,
        };
        let Some(of) = as_column(&groups[group]) else { return false };
        let is_extreme = of + 1 == self.grouped.len();
        match op {
            Operator::Eq => self.equal(row, of),
            Operator::GtEq if is_extreme && self.greatest => self.equal(row, of),
            Operator::LtEq if is_extreme && !self.greatest => self.equal(row, of),
            Operator::GtEq => self.bound(row, of, TUMBLE_START),
            Operator::Lt => self.bound(row, of, TUMBLE_END),
            _ => false,
        }
    }

    /// Column `of` of the groups is what `function` says of column `row` of the rows.
    fn bound(&mut self, row: usize, of: usize, function: &str) -> bool {
        let of_time =
            window(&self.grouped[of], function).is_some_and(|window| window.args()[0].eq(&self.rows.columns[row]));
        if of_time {
            self.times[of] = Some(row);
        }
        of_time
    }

    /// `None`: a row may meet several groups, or need not have the extreme.
    fn complete(self) -> Result<Option<Tied>> {
        let Some((Some(extreme), equal)) = self.equal.split_last() else { return Ok(None) };
        let mut keys = Vec::new();
        let mut columns = vec![*extreme];
        for (of, equal) in equal.iter().enumerate() {
            let (key, column) = match (equal, self.times[of]) {
                (Some(row), _) => (Key::Column(*row), *row),
                (None, Some(row)) if self.has_other_end(of, row) => {
                    (Key::Window(Arc::clone(&self.grouped[of]), row), row)
                }
                _ => return Ok(None),
            };
            keys.push(key);
            columns.push(column);
        }
        columns.sort_unstable();
        columns.dedup();
        Ok(Some(Tied { keys, extreme: *extreme, columns }))
    }

    /// The other edge of the same window bounds the same time.
    fn has_other_end(&self, of: usize, row: usize) -> bool {
        let edge = |at: usize, name: &str| window(&self.grouped[at], name).map(ScalarFunctionExpr::args);
        let other = |one: &str, other: &str| {
            let arguments = edge(of, one);
            let fits = |at: usize| self.times[at] == Some(row) && edge(at, other) == arguments;
            arguments.is_some() && (0..self.grouped.len()).any(fits)
        };
        other(TUMBLE_START, TUMBLE_END) || other(TUMBLE_END, TUMBLE_START)
    }
}

fn window<'a>(expr: &'a Physical, function: &str) -> Option<&'a ScalarFunctionExpr> {
    expr.downcast_ref::<ScalarFunctionExpr>().filter(|found| found.fun().name() == function)
}

/// Whether both have the same rows, among those with a value in `columns` of `rows`.
fn same_rows(rows: &Sources, grouped: &Sources, columns: &[usize]) -> bool {
    let asked = |condition: &&Physical| {
        let present = condition.downcast_ref::<IsNotNullExpr>();
        !present.is_some_and(|present| columns.iter().any(|column| rows.columns[*column].eq(present.arg())))
    };
    let all_in =
        |some: &Sources, others: &Sources| some.conditions.iter().filter(asked).all(|c| others.conditions.contains(c));
    all_in(rows, grouped) && all_in(grouped, rows)
}
