//! A plan's leaf under the words by which EXPLAIN shows it, with what is known of its rows.

use std::fmt;
use std::sync::Arc;

use datafusion::common::stats::Precision;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, Statistics};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, StatisticsArgs, execution_plan::ReplaceChildrenOptions,
};

/// Does what the plan inside does.
#[derive(Debug)]
pub struct Shown {
    pub words: String,
    /// How many there are, if that is known: joins are put in order by it, and `count(*)` asks for no more.
    pub rows: Option<usize>,
    pub inside: Arc<dyn ExecutionPlan>,
}

impl DisplayAs for Shown {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.words)
    }
}

impl ExecutionPlan for Shown {
    fn name(&self) -> &str {
        "Shown"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.inside.properties()
    }

    fn fetch(&self) -> Option<usize> {
        self.inside.fetch()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        self.inside.apply_expressions(f)
    }

    fn replace_children(
        self: Arc<Self>,
        _: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn with_new_children(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn statistics_from_inputs(&self, _: &[Arc<Statistics>], args: &StatisticsArgs) -> Result<Arc<Statistics>> {
        let mut known = Statistics::new_unknown(&self.schema());
        if let (Some(rows), None) = (self.rows, args.partition()) {
            known.num_rows = Precision::Exact(rows);
        }
        Ok(Arc::new(known))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        self.inside.execute(partition, context)
    }
}
