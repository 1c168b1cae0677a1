//! A filter's conditions, each asked of the rows that those before it have left.
//!
//! ```text
//!   batch ──▶ day >= 1994-01-01 ──few left: copied out──▶ discount > 5 ──▶ quantity < 24 ──▶ which rows of the batch
//! ```
//!
//! DataFusion's filter does so too, but condition by condition of a tree of ANDs, each of which brings the answers of its few rows
//! back among those of all: that took longer than to ask. It also asks what may fail (`x <> 0 AND 1 / x > 2`) of rows that are
//! out already if they are not few; here never.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use datafusion::arrow::array::{Array, BooleanArray, BooleanBufferBuilder, RecordBatch};
use datafusion::arrow::buffer::BooleanBuffer;
use datafusion::arrow::compute::filter_record_batch;
use datafusion::arrow::datatypes::Schema;
use datafusion::common::cast::as_boolean_array;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{ScalarValue, Statistics};
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::ColumnarValue;
use datafusion::physical_expr::utils::collect_columns;
use datafusion::physical_expr::{PhysicalExpr, split_conjunction};
use datafusion::physical_plan::execution_plan::{
    CardinalityEffect, ChildrenPropertiesMode, ReplaceChildrenOptions, replace_children_if_necessary,
};
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::metrics::{
    BaselineMetrics, ExecutionPlanMetricsSet, MetricBuilder, MetricType, MetricsSet,
};
use datafusion::physical_plan::{
    ChildStats, DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, StatisticsArgs,
};

use super::cheap_first::may_fail;
use super::kept_rows::{Kept, kept_rows, over};

/// Rows are copied out if there are so many times as many in all.
const FEW: usize = 4;

/// DataFusion's filter, run in stages. What it knows of its rows stays what it was, and so do the plans built on that.
#[derive(Debug)]
pub(super) struct StagedFilterExec {
    filter: Arc<FilterExec>,
    stages: Arc<Stages>,
    metrics: ExecutionPlanMetricsSet,
}

impl StagedFilterExec {
    /// In place of a filter; another node as it is.
    pub fn instead_of(node: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
        match node.downcast_ref::<FilterExec>() {
            Some(filter) if filter.fetch().is_none() => Ok(Arc::new(Self::new(filter.clone())?)),
            _ => Ok(node),
        }
    }

    fn new(filter: FilterExec) -> Result<Self> {
        let stages = Stages::new(filter.predicate(), &filter.input().schema())?;
        Ok(Self { filter: Arc::new(filter), stages: Arc::new(stages), metrics: ExecutionPlanMetricsSet::new() })
    }
}

impl DisplayAs for StagedFilterExec {
    fn fmt_as(&self, format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.filter.fmt_as(format, f)
    }
}

impl ExecutionPlan for StagedFilterExec {
    fn name(&self) -> &str {
        self.filter.name()
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.filter.properties()
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        self.filter.maintains_input_order()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        self.filter.children()
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        self.filter.apply_expressions(f)
    }

    fn replace_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Self::instead_of(replace_children_if_necessary(Arc::clone(&self.filter) as _, children)?)
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let input = self.filter.input().execute(partition, Arc::clone(&context))?;
        let (stages, filter) = (Arc::clone(&self.stages), Arc::clone(&self.filter));
        let selectivity =
            MetricBuilder::new(&self.metrics).with_type(MetricType::Summary).ratio_metrics("selectivity", partition);
        let ask = move |batch: RecordBatch| {
            let rows = stages.ask(&batch)?;
            selectivity.add_total(batch.num_rows());
            selectivity.add_part(rows.true_count());
            let batch = match filter.projection() {
                Some(projection) => batch.project(projection)?,
                None => batch,
            };
            Ok(Kept { batch, rows: Some(rows) })
        };
        let metrics = BaselineMetrics::new(&self.metrics, partition);
        Ok(kept_rows(input, self.schema(), &context, metrics, ask))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    fn child_stats_requests(&self, partition: Option<usize>) -> Vec<ChildStats> {
        self.filter.child_stats_requests(partition)
    }

    fn statistics_from_inputs(&self, inputs: &[Arc<Statistics>], args: &StatisticsArgs) -> Result<Arc<Statistics>> {
        self.filter.statistics_from_inputs(inputs, args)
    }

    fn cardinality_effect(&self) -> CardinalityEffect {
        self.filter.cardinality_effect()
    }
}

/// The conditions of a conjunction, in their order.
#[derive(Debug)]
struct Stages {
    /// Columns of the batch that are asked for, those that are needed longest first.
    columns: Vec<usize>,
    stages: Vec<Stage>,
}

#[derive(Debug)]
struct Stage {
    /// Over [`Stages::columns`].
    condition: Arc<dyn PhysicalExpr>,
    /// How many of these are needed from here on.
    width: usize,
    /// It is not asked of rows that are out.
    may_fail: bool,
}

impl Stages {
    fn new(predicate: &Arc<dyn PhysicalExpr>, schema: &Schema) -> Result<Self> {
        let conditions = split_conjunction(predicate);
        let mut last_use = BTreeMap::new();
        for (at, condition) in conditions.iter().enumerate() {
            last_use.extend(collect_columns(condition).iter().map(|column| (column.index(), at)));
        }
        let mut columns: Vec<usize> = last_use.keys().copied().collect();
        columns.sort_by_key(|column| std::cmp::Reverse(last_use[column]));
        let stage = |(at, condition): (usize, &Arc<dyn PhysicalExpr>)| {
            Ok(Stage {
                condition: over(Arc::clone(condition), &columns)?,
                width: columns.iter().filter(|column| last_use[column] >= at).count(),
                may_fail: may_fail(condition, schema),
            })
        };
        let stages = conditions.into_iter().enumerate().map(stage).collect::<Result<_>>()?;
        Ok(Self { columns, stages })
    }

    /// The rows of which all conditions are true.
    fn ask(&self, batch: &RecordBatch) -> Result<BooleanArray> {
        let mut asked = batch.project(&self.columns)?;
        // Which rows were copied out, time after time; and which of those are left.
        let mut copied: Vec<BooleanBuffer> = Vec::new();
        let mut left: Option<BooleanBuffer> = None;
        for stage in &self.stages {
            if let Some(rows) = left.take() {
                let count = rows.count_set_bits();
                if count == 0 {
                    return Ok(none(batch.num_rows()));
                }
                let is_part = count < asked.num_rows();
                if is_part && (stage.may_fail || count * FEW < asked.num_rows()) {
                    let needed: Vec<usize> = (0..stage.width).collect();
                    let picked = BooleanArray::new(rows.clone(), None);
                    asked = filter_record_batch(&asked.project(&needed)?, &picked)?;
                    copied.push(rows);
                } else if is_part {
                    left = Some(rows);
                }
            }
            let answers = match stage.condition.evaluate(&asked)? {
                ColumnarValue::Scalar(ScalarValue::Boolean(Some(true))) => continue,
                ColumnarValue::Scalar(_) => return Ok(none(batch.num_rows())),
                ColumnarValue::Array(answers) => are_true(as_boolean_array(&answers)?),
            };
            left = Some(match left {
                Some(rows) => &rows & &answers,
                None => answers,
            });
        }
        let left = left.unwrap_or_else(|| BooleanBuffer::new_set(asked.num_rows()));
        let rows = copied.iter().rev().fold(left, |left, copied| among(copied, &left));
        Ok(BooleanArray::new(rows, None))
    }
}

fn none(rows: usize) -> BooleanArray {
    BooleanArray::new(BooleanBuffer::new_unset(rows), None)
}

/// NULL is not true.
fn are_true(answers: &BooleanArray) -> BooleanBuffer {
    match answers.nulls() {
        Some(valid) => answers.values() & valid.inner(),
        None => answers.values().clone(),
    }
}

/// Of the rows that were copied out of all, some are left: which of all.
fn among(copied: &BooleanBuffer, left: &BooleanBuffer) -> BooleanBuffer {
    let mut all = BooleanBufferBuilder::new(copied.len());
    all.append_n(copied.len(), false);
    for (at, row) in copied.set_indices().enumerate() {
        if left.value(at) {
            all.set_bit(row, true);
        }
    }
    all.finish()
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{ArrayRef, Int64Array};
    use datafusion::logical_expr::Operator;
    use datafusion::physical_expr::conjunction;
    use datafusion::physical_expr::expressions::{binary, col, lit};
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    fn of(
        left: Arc<dyn PhysicalExpr>,
        op: Operator,
        right: Arc<dyn PhysicalExpr>,
        schema: &Schema,
    ) -> Arc<dyn PhysicalExpr> {
        binary(left, op, right, schema).unwrap()
    }

    #[test]
    fn what_stages_keep_is_what_a_conjunction_keeps() {
        const NAMES: [&str; 4] = ["a", "b", "c", "d"];
        let mut rng = StdRng::seed_from_u64(3);
        for _ in 0..500 {
            let rows = rng.random_range(0..200);
            let columns = NAMES.map(|name| {
                let values = (0..rows).map(|_| Some(rng.random_range(-1..10i64)).filter(|v| *v >= 0));
                (name, Arc::new(values.collect::<Int64Array>()) as ArrayRef, true)
            });
            let batch = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
            let schema = batch.schema();
            let mut operand = || match rng.random_range(0..6) {
                0 => lit(5i64),
                at => col(NAMES[at % 4], &schema).unwrap(),
            };
            let count = 1 + rows % 5;
            let predicate = conjunction((0..count).map(|_| of(operand(), Operator::Lt, operand(), &schema)));
            let expected = predicate.evaluate(&batch).unwrap().into_array(batch.num_rows()).unwrap();
            let expected = are_true(as_boolean_array(&expected).unwrap());
            let found = Stages::new(&predicate, &schema).unwrap().ask(&batch).unwrap();
            assert_eq!(found, BooleanArray::new(expected, None), "{predicate}");
        }
    }

    #[test]
    fn what_may_fail_is_asked_of_no_row_that_is_out() {
        let a = Int64Array::from_iter_values((0..100).map(|i| i % 10));
        let batch = RecordBatch::try_from_iter([("a", Arc::new(a) as ArrayRef)]).unwrap();
        let schema = batch.schema();
        let a = || col("a", &schema).unwrap();
        let is_not_zero = of(a(), Operator::NotEq, lit(0i64), &schema);
        let quotient = of(of(lit(8i64), Operator::Divide, a(), &schema), Operator::Gt, lit(2i64), &schema);
        let predicate = conjunction([is_not_zero, quotient]);
        assert_eq!(Stages::new(&predicate, &schema).unwrap().ask(&batch).unwrap().true_count(), 20);
    }
}
