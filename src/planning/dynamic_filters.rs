//! What a join knows of its keys once it has read its build side, and a sort with a limit of the rows that can still be among the
//! first, as a condition for the scans below; and what a filter over a scan asks for.
//!
//! ```text
//!   HashJoinExec: o_custkey = c_custkey                  HashJoinExec
//!     customer WHERE ..                                    customer WHERE ..
//!     RepartitionExec                              ──▶     RepartitionExec
//!       orders                                               EarlyFilterExec: o_custkey is one of those
//!                                                              orders, without the row groups that have none of those
//! ```
//!
//! DataFusion makes such conditions. Its rule that hands them down finds columns by name, so that with two of one name, as any join
//! has them, a condition on one becomes a condition on the other (its issues 25244 and 25296, mended after 55.2). This one goes by
//! position. What is more, it goes through an equality (`a.k = b.k`) to the other side of a join, and asks for each row where
//! work for it is saved.
//!
//! A condition may let through what it excludes, and a node in between may make other rows of those that are excluded: what is
//! in the columns of the condition stays, and the join or the sort that it comes from has no use for any such row.

use std::sync::Arc;

use datafusion::arrow::datatypes::Schema;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{JoinSide, JoinType};
use datafusion::error::Result;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::utils::collect_columns;
use datafusion::physical_expr::{PhysicalExpr, split_conjunction};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::execution_plan::replace_children_if_necessary;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::filter_pushdown::{
    ChildFilterPushdownResult, ChildPushdownResult, FilterPushdownPhase, PushedDown, PushedDownPredicate,
};
use datafusion::physical_plan::joins::utils::build_join_schema;
use datafusion::physical_plan::joins::{HashJoinExec, NestedLoopJoinExec, PartitionMode, SortMergeJoinExec};
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::recursive_query::RecursiveQueryExec;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::union::{InterleaveExec, UnionExec};

use super::early_filter::EarlyFilterExec;
use super::outer_joins::UnknownConstantsExec;
use super::small_decimals;
use super::stages::StagedFilterExec;

/// Comes last: whoever changes a plan after it would part a join from its condition. On its way it puts our filters and our
/// arithmetic in place of DataFusion's.
#[derive(Debug)]
pub struct DynamicFilters;

impl PhysicalOptimizerRule for DynamicFilters {
    fn name(&self) -> &str {
        "DynamicFilters"
    }

    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, config: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        // Each round of a recursive query makes its joins anew, and leaves the scans with the conditions of the first.
        if plan.exists(|node| Ok(node.is::<RecursiveQueryExec>()))? {
            return Ok(plan);
        }
        push(&plan, Vec::new(), true, config)
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// A condition on its way down.
#[derive(Clone)]
struct Passing {
    /// Over the columns of the node that it has come to.
    condition: Arc<dyn PhysicalExpr>,
    of: Producer,
    /// There is work between here and the join, which a row that is left out saves.
    saves_work: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Producer {
    Join,
    /// It asks each row itself.
    Sort,
    /// The same, of what the query says.
    Filter,
}

/// The node with what the conditions, and those of joins and sorts below, become further down. `together`: of its partitions
/// all are read, or none.
fn push(
    node: &Arc<dyn ExecutionPlan>,
    passing: Vec<Passing>,
    together: bool,
    config: &ConfigOptions,
) -> Result<Arc<dyn ExecutionPlan>> {
    if node.children().is_empty() {
        return Ok(asking(pruned(node, &passing, config)?, passing, true));
    }
    let own = own_condition(node, together, config)?;
    let ways = ways(node);
    let at_scan = is_scan(node);
    let mut asked = passing.clone();
    let mut children = Vec::new();
    for (side, child) in node.children().into_iter().enumerate() {
        let mut below: Vec<Passing> = own.iter().filter(|(of, _)| *of == side).map(|(_, own)| own.clone()).collect();
        for (i, above) in passing.iter().enumerate() {
            let Some(condition) = through(&above.condition, &ways[side])? else { continue };
            // Rows are asked once, after what the scan itself asks of them.
            asked[i].saves_work &= at_scan;
            let saves_work = !at_scan && (above.saves_work || is_work(node.as_ref()));
            below.push(Passing { condition, of: above.of, saves_work });
        }
        children.push(push(child, below, reads_together(node.as_ref(), side, together), config)?);
    }
    let node = in_our_way(replace_children_if_necessary(Arc::clone(node), children)?)?;
    Ok(asking(remembering(node, own, config)?, asked, at_scan))
}

/// Our filters and our arithmetic in place of DataFusion's.
fn in_our_way(node: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    small_decimals::in_node(StagedFilterExec::instead_of(node)?)
}

/// The node, each of whose rows is asked where that saves work. Of a scan, where any condition does, they are asked what the
/// nearest join would ask anyhow, and first: no other need be asked of those that it excludes.
fn asking(node: Arc<dyn ExecutionPlan>, passing: Vec<Passing>, at_scan: bool) -> Arc<dyn ExecutionPlan> {
    let of_joins: Vec<Passing> = passing.into_iter().filter(|passing| passing.of == Producer::Join).collect();
    let all = at_scan && of_joins.iter().any(|passing| passing.saves_work);
    let asked = of_joins.into_iter().filter(|passing| all || passing.saves_work);
    EarlyFilterExec::over(node, asked.map(|passing| passing.condition).collect())
}

/// A scan that passes over parts of its files in which no such row is.
fn pruned(
    scan: &Arc<dyn ExecutionPlan>,
    passing: &[Passing],
    config: &ConfigOptions,
) -> Result<Arc<dyn ExecutionPlan>> {
    let schema = scan.schema();
    let conditions = passing.iter().flat_map(|passing| split_conjunction(&passing.condition));
    let conditions: Vec<_> = conditions.filter(|condition| is_of_whole_range(condition, &schema)).collect();
    // With a limit of its own it would go on to other rows.
    if conditions.is_empty() || scan.fetch().is_some() {
        return Ok(Arc::clone(scan));
    }
    let asked = |condition: &Arc<dyn PhysicalExpr>| ChildFilterPushdownResult {
        filter: Arc::clone(condition),
        child_results: Vec::new(),
    };
    let parent_filters = conditions.into_iter().map(asked).collect();
    let asked = ChildPushdownResult { parent_filters, self_filters: Vec::new() };
    let pushed = scan.handle_child_pushdown_result(FilterPushdownPhase::Post, asked, config)?;
    Ok(pushed.updated_node.unwrap_or_else(|| Arc::clone(scan)))
}

/// The least and the largest value of its columns, as files have them, are those of all rows: of floating-point numbers NaN, which is
/// larger than all others, is not among them.
fn is_of_whole_range(condition: &Arc<dyn PhysicalExpr>, schema: &Schema) -> bool {
    let columns = collect_columns(condition);
    let mut types = columns.iter().map(|column| schema.field(column.index()).data_type());
    types.all(|of| !of.is_floating() && !of.is_nested())
}

// ---- Where conditions come from -------------------------------------------------------------------------------------

/// What a join or a sort with a limit will know, or a filter knows, and of which of its inputs.
fn own_condition(
    node: &Arc<dyn ExecutionPlan>,
    together: bool,
    config: &ConfigOptions,
) -> Result<Option<(usize, Passing)>> {
    let of = if let Some(join) = node.downcast_ref::<HashJoinExec>() {
        // With one build side for all partitions each waits until all others have asked for it; one that is never read
        // never does.
        let waits = *join.partition_mode() == PartitionMode::CollectLeft;
        if waits && !together && join.right().properties().partitioning.partition_count() > 1 {
            return Ok(None);
        }
        Producer::Join
    } else if node.is::<SortExec>() {
        Producer::Sort
    } else if let Some(filter) = node.downcast_ref::<FilterExec>() {
        // The logical plan has each condition where it belongs: there is no further way down than into the scan below.
        let condition = Arc::clone(filter.predicate());
        return Ok(leads_to_scan(filter.input())
            .then_some((0, Passing { condition, of: Producer::Filter, saves_work: false })));
    } else {
        return Ok(None);
    };
    let made = node.gather_filters_for_pushdown(FilterPushdownPhase::Post, Vec::new(), config)?.self_filters();
    let made = made.into_iter().enumerate().find_map(|(side, own)| own.into_iter().next().map(|own| (side, own)));
    // Only of columns: an expression may be an error for rows that do not come as far as the join.
    let made =
        made.filter(|(_, own)| !own.children().is_empty() && own.children().iter().all(|key| key.is::<Column>()));
    Ok(made.map(|(side, condition)| (side, Passing { condition, of, saves_work: false })))
}

/// The join that makes the condition that was handed down. (A sort always has one.)
fn remembering(
    node: Arc<dyn ExecutionPlan>,
    own: Option<(usize, Passing)>,
    config: &ConfigOptions,
) -> Result<Arc<dyn ExecutionPlan>> {
    let Some((side, own)) = own.filter(|(_, own)| own.of == Producer::Join) else { return Ok(node) };
    let mut self_filters = vec![Vec::new(), Vec::new()];
    self_filters[side].push(PushedDownPredicate { discriminant: PushedDown::Yes, predicate: own.condition });
    let handed = ChildPushdownResult { parent_filters: Vec::new(), self_filters };
    let join = node.handle_child_pushdown_result(FilterPushdownPhase::Post, handed, config)?;
    Ok(join.updated_node.unwrap_or(node))
}

/// Whether all partitions of an input are read, or none.
fn reads_together(node: &dyn ExecutionPlan, side: usize, together: bool) -> bool {
    if let Some(join) = node.downcast_ref::<HashJoinExec>() {
        return match join.partition_mode() {
            // A partition whose build side is empty does not read the other.
            PartitionMode::Partitioned => side == 0 && together,
            _ => side == 0 || together,
        };
    }
    match node.is::<SortMergeJoinExec>() {
        true => false,
        false => together || is_gathering(node),
    }
}

/// A node that reads all its input whatever is read of it.
fn is_gathering(node: &dyn ExecutionPlan) -> bool {
    node.is::<RepartitionExec>() || node.is::<CoalescePartitionsExec>() || node.is::<SortPreservingMergeExec>()
}

/// Nothing but a scan's rows comes out of it.
fn leads_to_scan(node: &Arc<dyn ExecutionPlan>) -> bool {
    is_leaf_below(node, |between| is_gathering(between) || between.is::<CooperativeExec>())
}

fn is_work(node: &dyn ExecutionPlan) -> bool {
    node.is::<RepartitionExec>()
        || node.is::<AggregateExec>()
        || node.is::<SortExec>()
        || node.is::<HashJoinExec>()
        || node.is::<NestedLoopJoinExec>()
}

/// A leaf, or what keeps rows of one back.
fn is_scan(node: &Arc<dyn ExecutionPlan>) -> bool {
    is_leaf_below(node, |between| between.is::<FilterExec>() || between.is::<CooperativeExec>())
}

/// A leaf, or one below it with nothing but such nodes in between.
fn is_leaf_below(node: &Arc<dyn ExecutionPlan>, between: fn(&dyn ExecutionPlan) -> bool) -> bool {
    match node.children().as_slice() {
        [] => true,
        [child] => between(node.as_ref()) && is_leaf_below(child, between),
        _ => false,
    }
}

// ---- Where they go --------------------------------------------------------------------------------------------------

/// By column of a node: the column of its input that has the same value in all rows that count, if there is one.
type Way = Vec<Option<usize>>;

/// The condition over the columns of an input; `None` if not all its columns come from there.
fn through(condition: &Arc<dyn PhysicalExpr>, way: &Way) -> Result<Option<Arc<dyn PhysicalExpr>>> {
    let mut arrives = true;
    let below = Arc::clone(condition).transform_down(|expr| {
        let Some(column) = expr.downcast_ref::<Column>() else { return Ok(Transformed::no(expr)) };
        match way.get(column.index()).copied().flatten() {
            Some(index) => Ok(Transformed::yes(Arc::new(Column::new(column.name(), index)) as _)),
            None => {
                arrives = false;
                Ok(Transformed::no(expr))
            }
        }
    })?;
    Ok(arrives.then_some(below.data))
}

/// The way into each input of a node.
fn ways(node: &Arc<dyn ExecutionPlan>) -> Vec<Way> {
    let children = node.children();
    let nowhere = || vec![Vec::new(); children.len()];
    // Which rows are the first is decided here: without some of them it would be others.
    if node.fetch().is_some() {
        return nowhere();
    }
    let width = node.schema().fields().len();
    if keeps_columns(node.as_ref()) {
        return vec![(0..width).map(Some).collect(); children.len()];
    }
    if let Some(filter) = node.downcast_ref::<FilterExec>() {
        return vec![match filter.projection() {
            Some(projection) => projection.iter().map(|column| Some(*column)).collect(),
            None => (0..width).map(Some).collect(),
        }];
    }
    if let Some(projection) = node.downcast_ref::<ProjectionExec>() {
        return vec![projection.expr().iter().map(|shown| column_of(&shown.expr)).collect()];
    }
    if let Some(aggregate) = node.downcast_ref::<AggregateExec>() {
        return vec![way_of_groups(aggregate)];
    }
    ways_of_join(node).unwrap_or_else(nowhere)
}

fn keeps_columns(node: &dyn ExecutionPlan) -> bool {
    is_gathering(node)
        || node.is::<SortExec>()
        || node.is::<CooperativeExec>()
        || node.is::<UnknownConstantsExec>()
        || node.is::<UnionExec>()
        || node.is::<InterleaveExec>()
}

fn column_of(expr: &Arc<dyn PhysicalExpr>) -> Option<usize> {
    expr.downcast_ref::<Column>().map(Column::index)
}

/// What a group is grouped by is the same in all its rows. (But not in a grouping set, where it may be NULL.)
fn way_of_groups(aggregate: &AggregateExec) -> Way {
    let groups = aggregate.group_expr();
    match groups.has_grouping_set() || aggregate.limit_options().is_some() {
        true => Vec::new(),
        false => groups.expr().iter().map(|(expr, _)| column_of(expr)).collect(),
    }
}

/// To the side that a column is of, and to the other if it is equal to a column there.
fn ways_of_join(node: &Arc<dyn ExecutionPlan>) -> Option<Vec<Way>> {
    let (join_type, on, projection) = if let Some(join) = node.downcast_ref::<HashJoinExec>() {
        (*join.join_type(), join.on(), &join.projection)
    } else {
        let join = node.downcast_ref::<NestedLoopJoinExec>()?;
        (*join.join_type(), Default::default(), join.projection())
    };
    let [left, right] = node.children()[..] else { return None };
    let (left, right) = (left.schema(), right.schema());
    let equal: Vec<(usize, usize)> = on
        .iter()
        .filter_map(|(a, b)| column_of(a).zip(column_of(b)))
        .filter(|(a, b)| are_alike(&left, *a, &right, *b))
        .collect();
    let (_, columns) = build_join_schema(&left, &right, &join_type);
    let into = |output: usize, side: JoinSide| {
        let column = &columns[output];
        match (column.side == side, side) {
            (true, _) => keeps_rows(&join_type, side).then_some(column.index),
            (false, _) if column.side == JoinSide::None || !reaches_other(&join_type, column.side) => None,
            (false, JoinSide::Left) => equal.iter().find(|(_, b)| *b == column.index).map(|(a, _)| *a),
            (false, _) => equal.iter().find(|(a, _)| *a == column.index).map(|(_, b)| *b),
        }
    };
    let outputs: Vec<usize> = match projection {
        Some(projection) => projection.to_vec(),
        None => (0..columns.len()).collect(),
    };
    let way = |side| -> Way { outputs.iter().map(|output| into(*output, side)).collect() };
    Some(vec![way(JoinSide::Left), way(JoinSide::Right)])
}

/// Equal values are the same value. (Of floating-point numbers, two zeros are not.)
fn are_alike(left: &Schema, a: usize, right: &Schema, b: usize) -> bool {
    let (a, b) = (left.field(a).data_type(), right.field(b).data_type());
    a == b && !a.is_floating() && !a.is_nested()
}

/// Without a row of this side there is no other row instead of it.
fn keeps_rows(join_type: &JoinType, side: JoinSide) -> bool {
    match join_type {
        JoinType::Inner | JoinType::LeftSemi | JoinType::RightSemi | JoinType::LeftAnti | JoinType::RightAnti => true,
        JoinType::Left => side == JoinSide::Left,
        JoinType::Right => side == JoinSide::Right,
        _ => false,
    }
}

/// What the columns of this side exclude, its equals on the other exclude too: those are partners of no other row.
fn reaches_other(join_type: &JoinType, side: JoinSide) -> bool {
    match join_type {
        JoinType::Inner | JoinType::LeftSemi | JoinType::RightSemi => true,
        JoinType::Left => side == JoinSide::Left,
        JoinType::Right => side == JoinSide::Right,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::datatypes::{DataType, Field};
    use datafusion::logical_expr::Operator;
    use datafusion::physical_expr::expressions::{binary, lit};
    use datafusion::physical_plan::empty::EmptyExec;
    use datafusion::physical_plan::joins::HashJoinExecBuilder;
    use expect_test::{Expect, expect};

    use super::*;

    /// Two columns, called the same in all inputs.
    fn input() -> Arc<dyn ExecutionPlan> {
        let field = |name: &str| Field::new(name, DataType::Int64, true);
        Arc::new(EmptyExec::new(Arc::new(Schema::new(vec![field("id"), field("k")]))))
    }

    fn column(name: &str, index: usize) -> Arc<dyn PhysicalExpr> {
        Arc::new(Column::new(name, index))
    }

    /// `ON left.id = right.k`
    fn join(join_type: JoinType, projection: Option<Vec<usize>>) -> Arc<dyn ExecutionPlan> {
        let on = vec![(column("id", 0), column("k", 1))];
        let join = HashJoinExecBuilder::new(input(), input(), on, join_type).with_projection(projection);
        join.with_partition_mode(PartitionMode::CollectLeft).build_exec().unwrap()
    }

    /// By input: for each column of the node, the input's.
    fn check(node: &Arc<dyn ExecutionPlan>, expected: Expect) {
        let shown = |column: &Option<usize>| column.map_or("-".into(), |column| column.to_string());
        let way = |way: &Way| way.iter().map(shown).collect::<Vec<_>>().join(" ");
        let found: Vec<String> = ways(node).iter().map(way).collect();
        expected.assert_eq(&found.join(" | "));
    }

    #[test]
    fn to_the_side_that_is_meant_and_to_its_equal() {
        check(&join(JoinType::Inner, None), expect!["0 1 - 0 | 1 - 0 1"]);
        check(&join(JoinType::Inner, Some(vec![3, 1])), expect!["0 1 | 1 -"]);
        check(&join(JoinType::LeftSemi, None), expect!["0 1 | 1 -"]);
        check(&join(JoinType::RightSemi, None), expect!["- 0 | 0 1"]);
    }

    #[test]
    fn not_to_a_side_whose_rows_keep_others_back() {
        check(&join(JoinType::Left, None), expect!["0 1 - - | 1 - - -"]);
        check(&join(JoinType::Right, None), expect!["- - - 0 | - - 0 1"]);
        check(&join(JoinType::Full, None), expect!["- - - - | - - - -"]);
        check(&join(JoinType::LeftAnti, None), expect!["0 1 | - -"]);
        check(&join(JoinType::LeftMark, None), expect!["- - - | - - -"]);
    }

    #[test]
    fn a_condition_goes_by_position() {
        let condition =
            binary(column("id", 2), Operator::Gt, lit(5i64), &join(JoinType::Inner, None).schema()).unwrap();
        let of = |way: Way| through(&condition, &way).unwrap().map(|condition| condition.to_string());
        let ways = ways(&join(JoinType::Inner, None));
        assert_eq!(of(ways[0].clone()), None);
        assert_eq!(of(ways[1].clone()).as_deref(), Some("id@0 > 5"));
    }
}
