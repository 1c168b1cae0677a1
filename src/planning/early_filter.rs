//! Rows without a partner in a join further up go before work is done for them.
//!
//! ```text
//!   HashJoinExec: on k ◀── the build side is read first: its keys become a condition
//!     build
//!     AggregateExec: by k
//!       RepartitionExec: by k
//!         EarlyFilterExec: k is one of the keys ◀── asked for as long as it keeps rows back
//!           DataSourceExec
//! ```

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::compute::filter_record_batch;
use datafusion::common::cast::as_boolean_array;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{ScalarValue, Statistics};
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{BinaryExpr, CaseExpr, Column, Literal, lit};
use datafusion::physical_expr::utils::collect_columns;
use datafusion::physical_plan::execution_plan::{CardinalityEffect, ChildrenPropertiesMode, ReplaceChildrenOptions};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::{
    ChildStats, DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, StatisticsArgs,
};

use super::kept_rows::{Kept, kept_rows, over};

/// Rows after which a condition has shown what it is good for.
const ROWS_OF_TRIAL: usize = 32 * 1024;

/// Its input, without the rows that the conditions exclude. It may let any of them through: a join asks again.
#[derive(Debug)]
pub(super) struct EarlyFilterExec {
    input: Arc<dyn ExecutionPlan>,
    conditions: Vec<Arc<dyn PhysicalExpr>>,
    metrics: ExecutionPlanMetricsSet,
}

impl EarlyFilterExec {
    /// Over the input, if there is a condition.
    pub fn over(input: Arc<dyn ExecutionPlan>, conditions: Vec<Arc<dyn PhysicalExpr>>) -> Arc<dyn ExecutionPlan> {
        match conditions.is_empty() {
            true => input,
            false => Arc::new(Self { input, conditions, metrics: ExecutionPlanMetricsSet::new() }),
        }
    }
}

impl DisplayAs for EarlyFilterExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EarlyFilterExec: ")?;
        for (i, condition) in self.conditions.iter().enumerate() {
            let and = if i == 0 { "" } else { " AND " };
            write!(f, "{and}{condition}")?;
        }
        Ok(())
    }
}

impl ExecutionPlan for EarlyFilterExec {
    fn name(&self) -> &str {
        "EarlyFilterExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    /// A join makes its condition only if it finds it here.
    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        let mut after = TreeNodeRecursion::Continue;
        for condition in &self.conditions {
            after = f(condition)?;
            if after == TreeNodeRecursion::Stop {
                break;
            }
        }
        Ok(after)
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Self::over(children.swap_remove(0), self.conditions.clone()))
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let input = self.input.execute(partition, Arc::clone(&context))?;
        let mut trials: Vec<Trial> = self.conditions.iter().map(Trial::new).collect();
        let ask = move |mut batch| {
            for trial in &mut trials {
                batch = trial.ask(batch)?;
            }
            Ok(Kept { batch, rows: None })
        };
        let metrics = BaselineMetrics::new(&self.metrics, partition);
        Ok(kept_rows(input, self.schema(), &context, metrics, ask))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    fn child_stats_requests(&self, partition: Option<usize>) -> Vec<ChildStats> {
        vec![ChildStats::At(partition)]
    }

    fn statistics_from_inputs(&self, inputs: &[Arc<Statistics>], _: &StatisticsArgs) -> Result<Arc<Statistics>> {
        Ok(Arc::new(Statistics::clone(&inputs[0]).to_inexact()))
    }

    fn cardinality_effect(&self) -> CardinalityEffect {
        CardinalityEffect::LowerEqual
    }
}

/// A condition and what it has done so far.
struct Trial {
    condition: Arc<dyn PhysicalExpr>,
    question: Option<Question>,
    rows: usize,
    kept: usize,
}

impl Trial {
    fn new(condition: &Arc<dyn PhysicalExpr>) -> Self {
        Self { condition: Arc::clone(condition), question: None, rows: 0, kept: 0 }
    }

    /// Of three rows it lets more than two through: it costs more than it saves.
    fn has_failed(&self) -> bool {
        self.rows >= ROWS_OF_TRIAL && self.kept * 3 > self.rows * 2
    }

    fn ask(&mut self, batch: RecordBatch) -> Result<RecordBatch> {
        if batch.num_rows() == 0 || self.has_failed() {
            return Ok(batch);
        }
        let generation = self.condition.snapshot_generation();
        let question = match self.question.take() {
            Some(question) if question.generation == generation => question,
            _ => Question::new(&self.condition, generation)?,
        };
        let answers = question.condition.evaluate(&batch.project(&question.columns)?)?;
        self.question = Some(question);
        let answers = answers.into_array(batch.num_rows())?;
        let answers = as_boolean_array(&answers)?;
        let kept = answers.true_count();
        self.rows += batch.num_rows();
        self.kept += kept;
        match kept == batch.num_rows() {
            true => Ok(batch),
            false => Ok(filter_record_batch(&batch, answers)?),
        }
    }
}

/// What a condition says since it was last changed.
struct Question {
    generation: u64,
    /// Over these columns alone, since its parts may be asked of copies of some rows.
    condition: Arc<dyn PhysicalExpr>,
    columns: Vec<usize>,
}

impl Question {
    fn new(condition: &Arc<dyn PhysicalExpr>, generation: u64) -> Result<Self> {
        let condition = condition.snapshot()?.unwrap_or_else(|| Arc::clone(condition));
        let condition = of_any_partition(condition);
        let used: BTreeSet<usize> = collect_columns(&condition).iter().map(Column::index).collect();
        let columns: Vec<usize> = used.into_iter().collect();
        Ok(Self { generation, condition: over(condition, &columns)?, columns })
    }
}

/// A join in partitions says what it knows of that in which the row's key would be. To find out which that is costs more than
/// to ask whether any of them has the key, and none but that one has.
fn of_any_partition(condition: Arc<dyn PhysicalExpr>) -> Arc<dyn PhysicalExpr> {
    let Some(case) = condition.downcast_ref::<CaseExpr>() else { return condition };
    let is_false = |expr: &&Arc<dyn PhysicalExpr>| {
        let literal = expr.downcast_ref::<Literal>();
        literal.is_some_and(|literal| *literal.value() == ScalarValue::Boolean(Some(false)))
    };
    let each = case.when_then_expr().iter().map(|(_, then)| then).chain(case.else_expr());
    let each = each.filter(|expr| !is_false(expr)).cloned();
    each.reduce(|a, b| Arc::new(BinaryExpr::new(a, Operator::Or, b))).unwrap_or_else(|| lit(false))
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{ArrayRef, Int64Array};
    use datafusion::arrow::datatypes::Schema;
    use datafusion::physical_expr::expressions::{binary, case, col};
    use expect_test::{Expect, expect};

    use super::*;

    /// `a` is 0 for all rows, `b` counts from 0.
    fn batch(rows: i64) -> RecordBatch {
        let (a, b) = (Int64Array::from(vec![0; rows as usize]), Int64Array::from_iter_values(0..rows));
        RecordBatch::try_from_iter([("a", Arc::new(a) as ArrayRef), ("b", Arc::new(b) as ArrayRef)]).unwrap()
    }

    fn of(column: &str, op: Operator, value: i64, schema: &Schema) -> Arc<dyn PhysicalExpr> {
        binary(col(column, schema).unwrap(), op, lit(value), schema).unwrap()
    }

    #[test]
    fn a_condition_that_keeps_nothing_back_is_asked_no_more() {
        let batch = batch(10_000);
        let schema = batch.schema();
        let (few, most) = (of("b", Operator::Lt, 100, &schema), of("b", Operator::Lt, 9_000, &schema));
        let (mut few, mut most) = (Trial::new(&few), Trial::new(&most));
        let rows = |trial: &mut Trial| trial.ask(batch.clone()).unwrap().num_rows();
        assert_eq!([0; 5].map(|_| rows(&mut few)), [100; 5]);
        assert_eq!([0; 5].map(|_| rows(&mut most)), [9_000, 9_000, 9_000, 9_000, 10_000]);
    }

    #[test]
    fn any_partition_will_do() {
        fn check(condition: Arc<dyn PhysicalExpr>, expected: Expect) {
            expected.assert_eq(&of_any_partition(condition).to_string());
        }
        let schema = batch(1).schema();
        let (first, second) = (of("b", Operator::Lt, 3, &schema), of("b", Operator::Gt, 7, &schema));
        let choice = |otherwise| {
            let whens = vec![(lit(0i64), first.clone()), (lit(1i64), second.clone())];
            case(Some(col("a", &schema).unwrap()), whens, otherwise).unwrap()
        };
        check(choice(Some(lit(false))), expect!["b@1 < 3 OR b@1 > 7"]);
        check(choice(Some(lit(true))), expect!["b@1 < 3 OR b@1 > 7 OR true"]);
        check(first.clone(), expect!["b@1 < 3"]);
    }
}
