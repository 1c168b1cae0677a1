//! Joins: equal expressions become columns by which both inputs are exchanged, what else is asked of a pair is a residual.
//!
//! ```text
//!   Join  a.x = lower(b.y), a.v > b.v            Join on x = lower(y), v > v     keeps both inputs' rows
//!     a                                            Exchange by x
//!     b                                  ──▶         a
//!                                                  Exchange by lower(y)
//!                                                    Project  b's columns, lower(y)
//! ```
//!
//! If `a` is a table with a key or an index on `x`, its rows are looked up there and not kept again.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{JoinType, NullEquality};
use datafusion::logical_expr::{Expr, Join, LogicalPlan};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{CastExpr, Column};
use datafusion::physical_expr_common::physical_expr::fmt_sql;
use tidemark_common::plan::{self, JoinKind, NodeId, Op, Properties, Stored, Within};
use tidemark_common::{Error, Result};

use super::own_extreme::Pair;
use super::{Lowering, intervals, temporal, watermark};
use crate::asof;

/// An input, with its keys as columns.
pub(super) struct Side {
    pub node: NodeId,
    /// Columns of the logical plan; keys that were none come behind them.
    pub width: usize,
    pub keys: Vec<usize>,
}

impl Lowering {
    pub(super) fn join(&mut self, join: &Join) -> Result<NodeId> {
        if join.null_aware {
            return Err(Error::unsupported(
                "this NOT IN cannot be kept up to date: its subquery is tied to the outer row by equal names",
            )
            .with_hint("Give the tables of the subquery aliases, or write NOT EXISTS (SELECT .. WHERE y = x)."));
        }
        let (kind, turned) = kind_of(join.join_type);
        let (mut lefts, mut rights): (Vec<&Expr>, Vec<&Expr>) = join.on.iter().map(|(l, r)| (l, r)).unzip();
        let (mut left, mut right) = (&join.left, &join.right);
        if turned {
            std::mem::swap(&mut left, &mut right);
            std::mem::swap(&mut lefts, &mut rights);
        }
        let (filter, current) = asof::without_marker(join.filter.as_ref());
        // What an inner join asks of the clock is asked of its pairs.
        let (filter, of_clock) = match kind {
            JoinKind::Inner => temporal::without_clock(filter)?,
            _ => (filter, None),
        };
        let filter = filter.filter(|f| !is_true(f));
        if !turned && let Some(node) = self.lookup_join(join, current, filter.as_ref())? {
            return of_clock.map_or(Ok(node), |condition| self.filter(node, &condition, &join.schema));
        }
        let residual = filter.map(|filter| {
            let schema = left.schema().join(right.schema())?;
            self.physical(&filter, &schema)
        });
        let residual = residual.transpose()?;
        let left = self.side(left, &lefts)?;
        let right = self.side(right, &rights)?;
        let null_equal = join.null_equality == NullEquality::NullEqualsNull;
        if !current
            && !null_equal
            && let Some(node) = self.with_own_extreme(kind, &left, &right, residual.as_ref(), join)?
        {
            return of_clock.map_or(Ok(node), |condition| self.filter(node, &condition, &join.schema));
        }
        let (left, right) = self.exchanged(left, right)?;

        let shift = self.schema(left.node).fields().len() - left.width;
        let residual = residual.map(|expr| shifted(expr, left.width, shift)).transpose()?;
        let output = match kind {
            JoinKind::Semi | JoinKind::Anti | JoinKind::Mark => (0..left.width).collect(),
            _ => (0..left.width).chain((0..right.width).map(|c| c + left.width + shift)).collect(),
        };
        let on: Vec<(usize, usize)> = left.keys.iter().copied().zip(right.keys.iter().copied()).collect();
        if current {
            self.check_current(kind, left.node)?;
            self.current_joins = true;
        }
        let within =
            if current { None } else { self.within(kind, (&on, null_equal), residual.as_ref(), &left, &right) };
        let mut op = plan::Join { kind, on, null_equal, residual, output, looked_up: [None, None], within, current };
        op.looked_up = [self.looked_up(&op, &left, true), self.looked_up(&op, &right, false)];
        let properties = self.join_properties(&op, left.node, right.node);
        let schema = Arc::new(join.schema.as_arrow().clone());
        let node = self.add(Op::Join(op), vec![left.node, right.node], schema, properties);
        of_clock.map_or(Ok(node), |condition| self.filter(node, &condition, &join.schema))
    }

    /// A join of rows with an extreme of their own groups, on either side.
    fn with_own_extreme(
        &mut self,
        kind: JoinKind,
        left: &Side,
        right: &Side,
        residual: Option<&Arc<dyn PhysicalExpr>>,
        join: &Join,
    ) -> Result<Option<NodeId>> {
        if !matches!(kind, JoinKind::Inner | JoinKind::Semi) {
            return Ok(None);
        }
        let pair = Pair { kind, rows: left, extremes: right, residual, turned: false };
        let found = self.own_extreme(&pair, join.schema.as_arrow())?;
        if found.is_some() || kind == JoinKind::Semi {
            return Ok(found);
        }
        let turned = residual.map(|expr| turned(expr, left.width, right.width)).transpose()?;
        let pair = Pair { kind, rows: right, extremes: left, residual: turned.as_ref(), turned: true };
        self.own_extreme(&pair, join.schema.as_arrow())
    }

    /// A row that meets what is there when it comes cannot be taken back: by then other rows are there.
    pub(super) fn check_current(&self, kind: JoinKind, left: NodeId) -> Result<()> {
        if !matches!(kind, JoinKind::Inner | JoinKind::Left) {
            return Err(Error::internal("a join as of the present has another kind"));
        }
        if self.properties(left).append_only {
            return Ok(());
        }
        Err(Error::unsupported("FOR SYSTEM_TIME AS OF proctime() over rows that change is not supported")
            .with_detail("A row that is taken back would have to be found with what it met when it came.")
            .with_hint("Leave FOR SYSTEM_TIME out: a plain join follows both sides."))
    }

    /// How far apart in time rows are that meet, by columns with a watermark.
    fn within(
        &mut self,
        kind: JoinKind,
        (on, null_equal): (&[(usize, usize)], bool),
        residual: Option<&Arc<dyn PhysicalExpr>>,
        left: &Side,
        right: &Side,
    ) -> Option<Within> {
        let width = self.schema(left.node).fields().len();
        let (of_left, of_right) = (self.properties(left.node), self.properties(right.node));
        let has_watermark = |side: &Properties, schema: &Schema, column: usize| {
            side.watermarks.contains(&column)
                && matches!(schema.field(column).data_type(), DataType::Timestamp(TimeUnit::Microsecond, _))
        };
        let known = |l: usize, r: usize| {
            has_watermark(of_left, self.schema(left.node), l) && has_watermark(of_right, self.schema(right.node), r)
        };
        if let Some(within) = residual.and_then(|expr| intervals::of_versions(expr, self.schema(right.node), width))
            && known(within.left, within.right)
            && !of_right.append_only
            && (!within.until_met || matches!(kind, JoinKind::Inner | JoinKind::Left))
        {
            return Some(within);
        }
        // NULL equals NULL there, but has no time.
        let on = if null_equal { &[] } else { on };
        let equal = on.iter().map(|&(left, right)| Within::new(left, right, Some(0), Some(0)));
        let mut found: Vec<Within> =
            equal.chain(residual.map_or_else(Vec::new, |expr| intervals::of(expr, width))).collect();
        found.retain(|within| known(within.left, within.right));
        let both_ends = found.iter().filter(|w| w.least.is_some() && w.most.is_some());
        let soonest = watermark::tightest(self.schema(left.node), both_ends.clone().map(|w| w.left));
        let both_ends = both_ends.clone().find(|w| Some(w.left) == soonest);
        let mut within = *both_ends.or(found.first())?;
        let (waits_left, waits_right) = match kind {
            JoinKind::Inner => (false, false),
            JoinKind::Left | JoinKind::Semi | JoinKind::Anti | JoinKind::Mark => (true, false),
            JoinKind::Right => (false, true),
            JoinKind::Full => (true, true),
        };
        let is_final = (!waits_left || within.reach(true).is_some()) && (!waits_right || within.reach(false).is_some());
        let append_only = of_left.append_only && of_right.append_only;
        within.emit_on_close = self.emit_on_close && is_final && append_only;
        // A join in time is a window of its own.
        self.closes |= within.emit_on_close;
        Some(within)
    }

    /// The columns by which an input's rows can be looked up where they are stored, so that the join need not keep them.
    fn looked_up(&self, join: &plan::Join, side: &Side, is_left: bool) -> Option<Vec<usize>> {
        // How many matches a row has is kept with it, how many rows a key has is less than the rows, and an index may have no
        // entries for NULL.
        if join.counts_matches(is_left)
            || (join.keeps_counts() && !is_left)
            || join.null_equal
            || side.keys.is_empty()
            || (join.current && is_left)
        {
            return None;
        }
        let stored = Stored::of(&self.nodes, side.node)?;
        let columns = side.keys.iter().map(|key| stored.columns[*key]).collect::<Option<Vec<_>>>()?;
        let same = |by: &&Vec<usize>| by.len() == columns.len() && by.iter().all(|column| columns.contains(column));
        self.lookups.get(&stored.collection)?.iter().find(same).cloned()
    }

    /// Plans an input and makes columns of its keys.
    fn side(&mut self, input: &LogicalPlan, keys: &[&Expr]) -> Result<Side> {
        let node = self.plan(input)?;
        let keys = keys.iter().map(|k| self.physical(k, input.schema())).collect::<Result<Vec<_>>>()?;
        let width = self.schema(node).fields().len();
        let (node, keys) = self.with_columns(node, &keys)?;
        Ok(Side { node, width, keys })
    }

    /// Adds those expressions as columns that are none; gives the columns of all.
    pub(super) fn with_columns(
        &mut self,
        node: NodeId,
        exprs: &[Arc<dyn PhysicalExpr>],
    ) -> Result<(NodeId, Vec<usize>)> {
        let schema = Arc::clone(self.schema(node));
        let mut fields: Vec<Field> = schema.fields().iter().map(|f| f.as_ref().clone()).collect();
        let mut columns: Vec<Arc<dyn PhysicalExpr>> = column_exprs(&schema);
        let mut positions = Vec::with_capacity(exprs.len());
        for expr in exprs {
            positions.push(watermark::as_column(expr).unwrap_or(columns.len()));
            if positions.last() == Some(&columns.len()) {
                let name = fmt_sql(expr.as_ref()).to_string();
                fields.push(Field::new(name, expr.data_type(&schema)?, expr.nullable(&schema)?));
                columns.push(Arc::clone(expr));
            }
        }
        if columns.len() == schema.fields().len() {
            return Ok((node, positions));
        }
        Ok((self.project(node, columns, Arc::new(Schema::new(fields))), positions))
    }

    /// Both inputs, exchanged by their keys, which have the same types.
    fn exchanged(&mut self, left: Side, right: Side) -> Result<(Side, Side)> {
        let types = |this: &Self, side: &Side| -> Vec<DataType> {
            side.keys.iter().map(|&k| this.schema(side.node).field(k).data_type().clone()).collect()
        };
        let wanted = types(self, &left);
        let right = match types(self, &right) == wanted {
            true => right,
            false => self.cast_keys(right, &wanted)?,
        };
        let mut exchange = |side: Side| {
            let (schema, properties) = (Arc::clone(self.schema(side.node)), self.properties(side.node).clone());
            let node = self.add(Op::Exchange { keys: side.keys.clone() }, vec![side.node], schema, properties);
            Side { node, ..side }
        };
        let left = exchange(left);
        Ok((left, exchange(right)))
    }

    fn cast_keys(&mut self, side: Side, wanted: &[DataType]) -> Result<Side> {
        let schema = Arc::clone(self.schema(side.node));
        let keys = side.keys.iter().zip(wanted).map(|(&key, wanted)| {
            let column: Arc<dyn PhysicalExpr> = Arc::new(Column::new(schema.field(key).name(), key));
            match schema.field(key).data_type() == wanted {
                true => column,
                false => Arc::new(CastExpr::new(column, wanted.clone(), None)),
            }
        });
        let keys: Vec<_> = keys.collect();
        let (node, keys) = self.with_columns(side.node, &keys)?;
        Ok(Side { node, keys, ..side })
    }

    fn join_properties(&self, join: &plan::Join, left: NodeId, right: NodeId) -> Properties {
        let width = self.schema(left).fields().len();
        let (left, right) = (self.properties(left), self.properties(right));
        let grows = matches!(join.kind, JoinKind::Inner | JoinKind::Semi)
            || join.within.is_some_and(|within| within.emit_on_close);
        let position = |column: usize| join.output.iter().position(|c| *c == column);
        let of_left = left.key.as_ref().and_then(|key| key.iter().map(|&k| position(k)).collect::<Option<Vec<_>>>());
        let of_right =
            right.key.as_ref().and_then(|key| key.iter().map(|&k| position(k + width)).collect::<Option<Vec<_>>>());
        // Whether a row of the other input meets one row of this at most.
        let one_left = left.key.as_ref().is_some_and(|key| key.iter().all(|k| join.on.iter().any(|on| on.0 == *k)));
        let one_right = right.key.as_ref().is_some_and(|key| key.iter().all(|k| join.on.iter().any(|on| on.1 == *k)));
        let both = || Some([of_left.clone()?, of_right.clone()?].concat());
        let key = match join.kind {
            JoinKind::Semi | JoinKind::Anti | JoinKind::Mark => of_left,
            JoinKind::Inner | JoinKind::Left if one_right && of_left.is_some() => of_left,
            JoinKind::Inner | JoinKind::Right if one_left && of_right.is_some() => of_right,
            JoinKind::Inner | JoinKind::Left | JoinKind::Right => both(),
            // Rows without partner on either side may be all NULL in both keys.
            JoinKind::Full => None,
        };
        let marked = join.on.iter().filter(|(l, r)| left.watermarks.contains(l) && right.watermarks.contains(r));
        let bounded = join.within.iter().flat_map(|within| {
            let left = within.reach(true).map(|_| within.left);
            left.into_iter().chain(within.reach(false).map(|_| within.right + width))
        });
        let equal = marked.flat_map(|&(l, r)| [l, r + width]);
        // A row that waits for a partner comes when the watermark has passed it.
        let waits = join.within.is_some_and(|within| within.emit_on_close) && join.kind != JoinKind::Inner;
        let watermarks = equal.chain(bounded).filter(|_| !waits).filter_map(position).collect();
        if join.current {
            let watermarks = left.watermarks.iter().filter_map(|&column| position(column)).collect();
            return Properties { append_only: true, key, watermarks };
        }
        Properties { append_only: grows && left.append_only && right.append_only, key, watermarks }
    }
}

/// Our kind of a join, and whether its inputs change places.
fn kind_of(join_type: JoinType) -> (JoinKind, bool) {
    match join_type {
        JoinType::Inner => (JoinKind::Inner, false),
        JoinType::Left => (JoinKind::Left, false),
        JoinType::Right => (JoinKind::Right, false),
        JoinType::Full => (JoinKind::Full, false),
        JoinType::LeftSemi => (JoinKind::Semi, false),
        JoinType::LeftAnti => (JoinKind::Anti, false),
        JoinType::LeftMark => (JoinKind::Mark, false),
        JoinType::RightSemi => (JoinKind::Semi, true),
        JoinType::RightAnti => (JoinKind::Anti, true),
        JoinType::RightMark => (JoinKind::Mark, true),
    }
}

fn is_true(expr: &Expr) -> bool {
    matches!(expr, Expr::Literal(datafusion::scalar::ScalarValue::Boolean(Some(true)), _))
}

pub(super) fn column_exprs(schema: &Schema) -> Vec<Arc<dyn PhysicalExpr>> {
    let columns = schema.fields().iter().enumerate();
    columns.map(|(i, f)| Arc::new(Column::new(f.name(), i)) as Arc<dyn PhysicalExpr>).collect()
}

/// The columns from `from` on lie `shift` further to the right.
fn shifted(expr: Arc<dyn PhysicalExpr>, from: usize, shift: usize) -> Result<Arc<dyn PhysicalExpr>> {
    moved(expr, |column| if column >= from { column + shift } else { column })
}

/// The first `left` columns change places with the `right` ones behind them.
fn turned(expr: &Arc<dyn PhysicalExpr>, left: usize, right: usize) -> Result<Arc<dyn PhysicalExpr>> {
    moved(Arc::clone(expr), |column| if column < left { column + right } else { column - left })
}

fn moved(expr: Arc<dyn PhysicalExpr>, place: impl Fn(usize) -> usize) -> Result<Arc<dyn PhysicalExpr>> {
    let moved = expr.transform_up(|e| match e.downcast_ref::<Column>() {
        Some(column) if place(column.index()) != column.index() => {
            let column = Column::new(column.name(), place(column.index()));
            Ok(Transformed::yes(Arc::new(column) as Arc<dyn PhysicalExpr>))
        }
        _ => Ok(Transformed::no(e)),
    });
    Ok(moved?.data)
}
