//! What is constant in the side of an outer join that may be missing is not constant in the join: it may be NULL.
//!
//! ```text
//!   a LEFT JOIN (b WHERE b.x = 5) ORDER BY b.x      DataFusion takes b.x for 5 everywhere, and does not sort
//!
//!   HashJoinExec: Left                              HashJoinExec: Left
//!     a                                      ──▶      a
//!     FilterExec: x = 5                               UnknownConstantsExec
//!                                                       FilterExec: x = 5
//! ```

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{JoinType, Statistics};
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::execution_plan::{
    CardinalityEffect, ChildrenPropertiesMode, ReplaceChildrenOptions, replace_children_if_necessary,
};
use datafusion::physical_plan::joins::{HashJoinExec, NestedLoopJoinExec, SortMergeJoinExec};
use datafusion::physical_plan::{
    ChildStats, DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, StatisticsArgs,
};

/// Puts the node where it is needed. Comes first, before anyone relies on an order.
#[derive(Debug)]
pub struct OuterJoinConstants;

impl PhysicalOptimizerRule for OuterJoinConstants {
    fn name(&self) -> &str {
        "OuterJoinConstants"
    }

    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_up(|node| {
            let Some(missing) = missing_sides(node.as_ref()) else { return Ok(Transformed::no(node)) };
            let wrapped = |(side, child): (usize, &Arc<dyn ExecutionPlan>)| match missing[side] {
                true => UnknownConstantsExec::over(child),
                false => child.clone(),
            };
            let children = node.children().into_iter().enumerate().map(wrapped).collect();
            Ok(Transformed::yes(replace_children_if_necessary(node, children)?))
        })
        .data()
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// Of an outer join: which of its inputs give NULLs where they have no row.
fn missing_sides(node: &dyn ExecutionPlan) -> Option<[bool; 2]> {
    let join_type = if let Some(join) = node.downcast_ref::<HashJoinExec>() {
        *join.join_type()
    } else if let Some(join) = node.downcast_ref::<NestedLoopJoinExec>() {
        *join.join_type()
    } else {
        node.downcast_ref::<SortMergeJoinExec>()?.join_type()
    };
    match join_type {
        JoinType::Left => Some([false, true]),
        JoinType::Right => Some([true, false]),
        JoinType::Full => Some([true, true]),
        _ => None,
    }
}

/// Its input, of which nobody knows what is constant.
#[derive(Debug, Clone)]
pub(super) struct UnknownConstantsExec {
    input: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
}

impl UnknownConstantsExec {
    fn over(input: &Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
        match input.properties().equivalence_properties().constants().is_empty() {
            true => input.clone(),
            false => Arc::new(Self::new(input.clone())),
        }
    }

    fn new(input: Arc<dyn ExecutionPlan>) -> Self {
        let known = input.properties();
        let mut properties = EquivalenceProperties::new(input.schema());
        properties.add_orderings(known.equivalence_properties().oeq_class().clone());
        let properties = PlanProperties::clone(known).with_eq_properties(properties);
        Self { input, properties: Arc::new(properties) }
    }
}

impl DisplayAs for UnknownConstantsExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UnknownConstantsExec")
    }
}

impl ExecutionPlan for UnknownConstantsExec {
    fn name(&self) -> &str {
        "UnknownConstantsExec"
    }

    fn schema(&self) -> SchemaRef {
        self.input.schema()
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(Self::new(children.swap_remove(0))))
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        self.input.execute(partition, context)
    }

    fn child_stats_requests(&self, partition: Option<usize>) -> Vec<ChildStats> {
        vec![ChildStats::At(partition)]
    }

    fn statistics_from_inputs(&self, inputs: &[Arc<Statistics>], _: &StatisticsArgs) -> Result<Arc<Statistics>> {
        Ok(Arc::clone(&inputs[0]))
    }

    fn cardinality_effect(&self) -> CardinalityEffect {
        CardinalityEffect::Equal
    }
}
