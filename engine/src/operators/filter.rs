//! WHERE and HAVING: rows go through where the predicate is true. NULL is not true.

use std::sync::Arc;

use datafusion::arrow::array::BooleanArray;
use datafusion::common::cast::as_boolean_array;
use datafusion::physical_expr::PhysicalExpr;
use tidemark_common::{Delta, Result};

use super::{Chunks, Operator, StepContext, only_input, true_rows};

pub struct Filter {
    predicate: Arc<dyn PhysicalExpr>,
}

impl Filter {
    pub fn new(predicate: Arc<dyn PhysicalExpr>) -> Self {
        Self { predicate }
    }
}

impl Operator for Filter {
    fn step(&mut self, _ctx: &StepContext<'_>, inputs: Vec<Chunks>) -> Result<Chunks> {
        let mut output = Chunks::new();
        for delta in only_input(inputs)? {
            let verdict = self.predicate.evaluate(&delta.batch)?.into_array(delta.num_rows())?;
            let kept = kept_rows(&delta, as_boolean_array(&verdict)?)?;
            if !kept.is_empty() {
                output.push(kept);
            }
        }
        Ok(output)
    }
}

fn kept_rows(delta: &Delta, verdict: &BooleanArray) -> Result<Delta> {
    let all_true = verdict.true_count() == verdict.len();
    if all_true {
        return Ok(delta.clone());
    }
    delta.filter(&true_rows(verdict))
}
