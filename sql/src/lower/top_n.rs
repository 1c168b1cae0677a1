//! ORDER BY .. LIMIT, and filters over a row number, as the first rows of each partition.
//!
//! ```text
//!   Limit 3 offset 2         TopN 3 after 2            Filter rn <= 3 AND c > 7         Filter c > 7
//!     Sort a DESC     ──▶      Exchange to one shard     Window row_number() AS rn        TopN 3 with number
//!       input                    input                     PARTITION BY b ORDER BY a  ──▶   Exchange by b
//!                                                          input                              input
//! ```
//!
//! The number is a column of the output only where somebody reads it: without it a row that comes first moves no other.

use std::collections::BTreeSet;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Schema};
use datafusion::common::Column;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{
    Between, BinaryExpr, Expr, FetchType, Filter, Limit, LogicalPlan, Operator, Projection, SkipType, Sort, SortExpr,
    Window, WindowFunctionDefinition,
};
use tidemark_common::plan::{self, NodeId, Op, Properties, RowNumber};
use tidemark_common::{Error, Result};

use super::key_columns::Keys;
use super::{Lowering, over, watermark};

/// Rows with a number above `offset`, at most `limit` of them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    pub number: RowNumber,
    pub offset: u64,
    pub limit: Option<u64>,
}

/// A filter over the number of rows.
pub(super) struct Numbered<'a> {
    window: &'a Window,
    /// What lies between filter and window: columns picked.
    picked: Option<&'a Projection>,
    partition: &'a [Expr],
    order: &'a [SortExpr],
    part: Part,
    /// The number as the filter names it.
    number: Column,
    /// What else the filter asks.
    others: Vec<&'a Expr>,
}

impl Lowering {
    pub(super) fn limit(&mut self, limit: &Limit) -> Result<NodeId> {
        let (SkipType::Literal(skip), FetchType::Literal(fetch)) = (limit.get_skip_type()?, limit.get_fetch_type()?)
        else {
            return Err(Error::unsupported("LIMIT and OFFSET of a materialized view must be constants"));
        };
        self.limited(&limit.input, skip as u64, fetch.map(|fetch| fetch as u64))
    }

    pub(super) fn sort(&mut self, sort: &Sort) -> Result<NodeId> {
        match sort.fetch {
            Some(fetch) => self.limited_sort(sort, 0, Some(fetch as u64)),
            // A set of rows has no order.
            None => self.plan(&sort.input),
        }
    }

    fn limited(&mut self, plan: &LogicalPlan, skip: u64, fetch: Option<u64>) -> Result<NodeId> {
        match plan {
            LogicalPlan::Sort(sort) => self.limited_sort(sort, skip, fetch),
            // Neither changes which rows there are.
            LogicalPlan::SubqueryAlias(alias) => self.limited(&alias.input, skip, fetch),
            LogicalPlan::Projection(projection) => {
                let input = self.limited(&projection.input, skip, fetch)?;
                self.projection_of(projection, input, projection.input.schema())
            }
            other => self.first_rows(other, &[], skip, fetch),
        }
    }

    fn limited_sort(&mut self, sort: &Sort, skip: u64, fetch: Option<u64>) -> Result<NodeId> {
        let left = sort.fetch.map(|all| (all as u64).saturating_sub(skip));
        let fetch = [left, fetch].into_iter().flatten().min();
        self.first_rows(&sort.input, &sort.expr, skip, fetch)
    }

    fn first_rows(
        &mut self,
        plan: &LogicalPlan,
        order: &[SortExpr],
        offset: u64,
        limit: Option<u64>,
    ) -> Result<NodeId> {
        let input = self.plan(plan)?;
        let part = Part { number: RowNumber::Each, offset, limit };
        let schema = self.schema(input).clone();
        let node = self.top_n(input, &[], order, plan.schema(), part, None)?;
        Ok(self.pick(node, &(0..schema.fields().len()).collect::<Vec<_>>(), &schema))
    }

    /// `numbered`: the schema of the output, whose last column is the number. Columns that keys compute stay behind it.
    fn top_n(
        &mut self,
        input: NodeId,
        partition: &[Expr],
        order: &[SortExpr],
        schema: &datafusion::common::DFSchema,
        part: Part,
        numbered: Option<&Schema>,
    ) -> Result<NodeId> {
        let keys = self.keys(input, partition, order, schema)?;
        Ok(self.first_of(keys, part, numbered))
    }

    /// The first rows of each partition; `numbered` as for [`top_n`](Self::top_n).
    pub(super) fn first_of(&mut self, keys: Keys, part: Part, numbered: Option<&Schema>) -> NodeId {
        let exchanged = self.exchange(keys.node, keys.partition.clone());
        let from = self.properties(exchanged).clone();
        let mut fields = self.schema(exchanged).fields().to_vec();
        if let Some(numbered) = numbered {
            fields.extend(numbered.fields().last().cloned());
        }
        let watermarks: BTreeSet<usize> =
            keys.partition.iter().copied().filter(|column| from.watermarks.contains(column)).collect();
        let each = part.number == RowNumber::Each;
        let key = match (from.key, part.limit) {
            (_, Some(1)) if each => Some(keys.partition.clone()),
            (None, _) if each && numbered.is_some() => {
                Some(keys.partition.iter().copied().chain([fields.len() - 1]).collect())
            }
            (key, _) => key,
        };
        let top_n = plan::TopN {
            close: watermark::tightest(
                self.schema(exchanged),
                keys.partition.iter().copied().filter(|column| watermarks.contains(column)),
            ),
            partition: keys.partition,
            order: keys.order,
            number: part.number,
            offset: part.offset,
            limit: part.limit,
            numbered: numbered.is_some(),
            append_only: from.append_only,
        };
        let properties = Properties { append_only: false, key, watermarks };
        self.add(Op::TopN(top_n), vec![exchanged], Arc::new(Schema::new(fields)), properties)
    }

    /// The filtered rows with their number.
    pub(super) fn numbered(&mut self, numbered: &Numbered<'_>) -> Result<NodeId> {
        let Numbered { window, picked, partition, order, part, .. } = numbered;
        let input = self.plan(&window.input)?;
        let width = self.schema(input).fields().len();
        let schema = Arc::new(window.schema.as_arrow().clone());
        let node = self.top_n(input, partition, order, window.input.schema(), *part, Some(&schema))?;
        let number = self.schema(node).fields().len() - 1;
        let node = self.pick(node, &(0..width).chain([number]).collect::<Vec<_>>(), &schema);
        match picked {
            None => self.filtered(node, &numbered.others, &window.schema),
            Some(picked) => {
                let node = self.projection_of(picked, node, &window.schema)?;
                self.filtered(node, &numbered.others, &picked.schema)
            }
        }
    }

    /// A projection of filtered rows that does not read their number, if this is one.
    pub(super) fn unnumbered(&mut self, projection: &Projection) -> Result<Option<NodeId>> {
        let LogicalPlan::Filter(filter) = projection.input.as_ref() else { return Ok(None) };
        let Some(numbered) = Numbered::find(filter) else { return Ok(None) };
        let reads = |expr: &Expr| expr.column_refs().contains(&numbered.number);
        if projection.expr.iter().any(reads) || numbered.others.iter().any(|expr| reads(expr)) {
            return Ok(None);
        }
        let Numbered { window, picked, partition, order, part, .. } = numbered;
        let input = self.plan(&window.input)?;
        let schema = self.schema(input).clone();
        let node = self.top_n(input, partition, order, window.input.schema(), part, None)?;
        let mut node = self.pick(node, &(0..schema.fields().len()).collect::<Vec<_>>(), &schema);
        let mut names = Arc::clone(window.input.schema());
        if let Some(picked) = picked {
            let columns = picked.schema.columns().into_iter().zip(&picked.expr);
            let (columns, exprs): (Vec<Column>, Vec<Expr>) =
                columns.filter(|(column, _)| *column != numbered.number).map(|(c, e)| (c, e.clone())).unzip();
            let named = exprs.into_iter().zip(columns).map(|(e, c)| e.unalias().alias_qualified(c.relation, c.name));
            let rest = Projection::try_new(named.collect(), Arc::clone(&window.input))?;
            node = self.projection_of(&rest, node, window.input.schema())?;
            names = rest.schema;
        }
        let node = self.filtered(node, &numbered.others, &names)?;
        Ok(Some(self.projection_of(projection, node, &names)?))
    }

    fn filtered(&mut self, input: NodeId, all: &[&Expr], schema: &datafusion::common::DFSchema) -> Result<NodeId> {
        let predicate = all.iter().map(|expr| (*expr).clone()).reduce(Expr::and);
        match predicate {
            Some(predicate) => self.filter(input, &predicate, schema),
            None => Ok(input),
        }
    }
}

impl<'a> Numbered<'a> {
    pub(super) fn find(filter: &'a Filter) -> Option<Self> {
        let (window, picked) = match filter.input.as_ref() {
            LogicalPlan::Window(window) => (window, None),
            LogicalPlan::Projection(picked) => match picked.input.as_ref() {
                LogicalPlan::Window(window) => (window, Some(picked)),
                _ => return None,
            },
            _ => return None,
        };
        let [function] = window.window_expr.as_slice() else { return None };
        let function = over::window_function(function)?;
        let WindowFunctionDefinition::WindowUDF(udf) = &function.fun else { return None };
        let number = match udf.name() {
            "row_number" => RowNumber::Each,
            "rank" => RowNumber::Rank,
            "dense_rank" => RowNumber::DenseRank,
            _ => return None,
        };
        let column = number_column(window, picked)?;
        let mut found = Numbered {
            window,
            picked,
            number: column.clone(),
            partition: &function.params.partition_by,
            order: &function.params.order_by,
            part: Part { number, offset: 0, limit: None },
            others: Vec::new(),
        };
        // Numbers above the first and up to the second are asked for.
        let (mut above, mut up_to) = (0, None);
        for conjunct in split_conjunction(&filter.predicate) {
            match Bounds::of(conjunct, &column) {
                Some(bounds) => {
                    above = above.max(bounds.above);
                    up_to = [up_to, bounds.up_to].into_iter().flatten().min();
                }
                None => found.others.push(conjunct),
            }
        }
        let up_to: u64 = up_to?;
        found.part.offset = above;
        found.part.limit = Some(up_to.saturating_sub(above));
        Some(found)
    }
}

/// The window's one result as a filter over it names it, unless what lies between them is more than a pick of columns.
fn number_column(window: &Window, picked: Option<&Projection>) -> Option<Column> {
    let (qualifier, field) = window.schema.qualified_field(window.schema.fields().len() - 1);
    let number = Column::new(qualifier.cloned(), field.name());
    let Some(picked) = picked else { return Some(number) };
    let is_column = |expr: &Expr| match expr {
        Expr::Alias(alias) => matches!(alias.expr.as_ref(), Expr::Column(_)),
        other => matches!(other, Expr::Column(_)),
    };
    let is_number = |expr: &Expr| matches!(expr.clone().unalias(), Expr::Column(column) if column == number);
    let mut found = picked.expr.iter().enumerate().filter(|(_, expr)| is_number(expr));
    match (picked.expr.iter().all(is_column), found.next(), found.next()) {
        (true, Some((at, _)), None) => picked.schema.columns().into_iter().nth(at),
        _ => None,
    }
}

/// Numbers above the one and up to the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bounds {
    above: u64,
    up_to: Option<u64>,
}

impl Bounds {
    /// What a comparison of the number with a constant says of it.
    fn of(expr: &Expr, number: &Column) -> Option<Self> {
        let is_number = |expr: &Expr| matches!(expr, Expr::Column(column) if column == number);
        match expr {
            Expr::BinaryExpr(BinaryExpr { left, op, right }) if is_number(left) => Self::compared(*op, integer(right)?),
            Expr::BinaryExpr(BinaryExpr { left, op, right }) if is_number(right) => {
                Self::compared(op.swap()?, integer(left)?)
            }
            Expr::Between(Between { expr, negated: false, low, high }) if is_number(expr) => {
                let (low, high) = (integer(low)?, integer(high)?);
                Some(Self { above: below(low), up_to: Some(clamped(high)) })
            }
            _ => None,
        }
    }

    fn compared(op: Operator, value: i64) -> Option<Self> {
        Some(match op {
            Operator::Lt => Self { above: 0, up_to: Some(below(value)) },
            Operator::LtEq => Self { above: 0, up_to: Some(clamped(value)) },
            Operator::Eq if value < 1 => Self { above: 0, up_to: Some(0) },
            Operator::Eq => Self { above: below(value), up_to: Some(clamped(value)) },
            Operator::Gt => Self { above: clamped(value), up_to: None },
            Operator::GtEq => Self { above: below(value), up_to: None },
            _ => return None,
        })
    }
}

/// Numbers begin at 1.
fn clamped(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

fn below(value: i64) -> u64 {
    clamped(value.saturating_sub(1))
}

fn integer(expr: &Expr) -> Option<i64> {
    let Expr::Literal(value, _) = expr else { return None };
    if !value.data_type().is_integer() {
        return None;
    }
    match value.cast_to(&DataType::Int64) {
        Ok(datafusion::common::ScalarValue::Int64(value)) => value,
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use datafusion::logical_expr::{col, lit};

    use super::*;

    #[test]
    fn comparisons_bound_the_number() {
        let number = Column::new_unqualified("rn");
        let bounds = |expr: Expr| Bounds::of(&expr, &number).map(|b| (b.above, b.up_to));
        let rn = || col("rn");
        assert_eq!(bounds(rn().lt_eq(lit(3u64))), Some((0, Some(3))));
        assert_eq!(bounds(rn().lt(lit(3i64))), Some((0, Some(2))));
        assert_eq!(bounds(lit(3i32).gt(rn())), Some((0, Some(2))));
        assert_eq!(bounds(rn().eq(lit(4))), Some((3, Some(4))));
        assert_eq!(bounds(rn().eq(lit(0))), Some((0, Some(0))));
        assert_eq!(bounds(rn().eq(lit(-7))), Some((0, Some(0))));
        assert_eq!(bounds(rn().gt(lit(2))), Some((2, None)));
        assert_eq!(bounds(rn().gt_eq(lit(-2))), Some((0, None)));
        assert_eq!(bounds(rn().between(lit(2), lit(5))), Some((1, Some(5))));
        for other in [rn().not_eq(lit(3)), rn().lt(lit(2.5)), col("a").lt(lit(3)), rn().lt(col("a")), rn().is_null()] {
            assert_eq!(bounds(other.clone()), None, "{other}");
        }
    }
}
