//! What columns hold that an INSERT or COPY does not name.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};
use datafusion::arrow::datatypes::Schema;
use datafusion::common::DFSchema;
use datafusion::logical_expr::ExprSchemable;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::physical_expr::expressions::Literal;
use datafusion::physical_expr::{PhysicalExpr, create_physical_expr};
use datafusion::scalar::ScalarValue;
use rand::Rng;
use tidemark_catalog::Object;
use tidemark_common::types::SqlType;
use tidemark_common::{Error, Result};
use tidemark_connectors::load::{Load, Strategy};

use uuid::Uuid;

use crate::coordinator::definitions::{self, Environment};
use crate::coordinator::loads::load_of;
use crate::query::Names;
use crate::session::assign::Source;
use crate::session::dml::{Writer, parse_expression, rewritten};

/// DEFAULT expressions by column; `None`: NULL, or the column is given.
pub(in crate::session) struct Defaults(Vec<Option<Default>>);

struct Default {
    expr: Arc<dyn PhysicalExpr>,
    sql_type: SqlType,
}

impl Defaults {
    /// For rows that have all columns.
    pub fn none() -> Self {
        Self(Vec::new())
    }

    /// Defaults of the columns that are not `given`.
    pub fn plan(names: &Names, object: &Object, given: &[usize], env: &Environment) -> Result<Self> {
        let empty = DFSchema::empty();
        let props = names.state.execution_props();
        let plan = |text: &str| {
            let expr = names.planner().expr(&rewritten(parse_expression(text)?)?, &empty)?;
            let expr = definitions::runnable(expr, &empty, env)?;
            let (_, field) = expr.to_field(&empty)?;
            let physical = create_physical_expr(&expr, &empty, props, &PhysicalPlanningContext::default())?;
            Ok::<_, Error>(Default { expr: physical, sql_type: Source::typed(&field).sql_type })
        };
        let columns = object.columns().iter().enumerate();
        let defaults = columns.map(|(at, column)| match &column.default {
            Some(text) if !given.contains(&at) => plan(text).map(Some),
            _ => Ok(None),
        });
        Ok(Self(defaults.collect::<Result<_>>()?))
    }

    /// As [`Defaults::plan`], for one load: what its strategy fills in is the same in all of its rows.
    pub fn for_load(names: &Names, object: &Object, given: &[usize], env: &Environment) -> Result<Self> {
        let mut defaults = Self::plan(names, object, given, env)?;
        if let Some(Load { strategy: Strategy::Append { batch_id: Some(name), .. }, .. }) = load_of(object)?
            && let Some(at) = object.columns().iter().position(|column| column.name == name)
        {
            #[allow(clippy::disallowed_methods)] // an id, which no query computes with
            let id = Uuid::from_u128(rand::rng().random());
            defaults.set_text(at, id.to_string());
        }
        Ok(defaults)
    }

    /// The column holds this text's value, whatever else was its default.
    pub fn set_text(&mut self, column: usize, text: String) {
        let expr = Arc::new(Literal::new(ScalarValue::Utf8(Some(text))));
        self.0[column] = Some(Default { expr, sql_type: SqlType::Text });
    }

    /// Whole rows as they are stored, of `arrays` for the columns at `positions`.
    pub fn complete(
        &self,
        writer: &Writer,
        positions: &[usize],
        arrays: Vec<ArrayRef>,
        rows: usize,
    ) -> Result<RecordBatch> {
        writer.stored(self.columns(writer, positions, arrays, rows)?, rows)
    }

    /// All columns of rows, of `arrays` for the columns at `positions`; derived ones too.
    pub fn columns(
        &self,
        writer: &Writer,
        positions: &[usize],
        arrays: Vec<ArrayRef>,
        rows: usize,
    ) -> Result<Vec<ArrayRef>> {
        let mut columns: Vec<Option<ArrayRef>> = vec![None; writer.columns().len()];
        for (position, array) in positions.iter().zip(arrays) {
            columns[*position] = Some(array);
        }
        let missing = columns.iter().enumerate().filter(|(_, c)| c.is_none()).map(|(at, _)| at).collect::<Vec<_>>();
        if !missing.is_empty() {
            let options = RecordBatchOptions::new().with_row_count(Some(rows));
            let nothing = RecordBatch::try_new_with_options(Arc::new(Schema::empty()), vec![], &options)?;
            for at in missing {
                let column = &writer.columns()[at];
                columns[at] = Some(match self.0.get(at) {
                    Some(Some(default)) => {
                        let array = default.expr.evaluate(&nothing)?.into_array(rows)?;
                        let source = Source { sql_type: default.sql_type.clone(), unknown: false };
                        writer.assign(&[array], &[source], &[at])?.remove(0)
                    }
                    _ => match &writer.normalizer {
                        Some(normalizer) => normalizer.absent(at, rows)?,
                        None => None,
                    }
                    .unwrap_or_else(|| new_null_array(&column.sql_type.data_type(), rows)),
                });
            }
        }
        let mut columns: Vec<ArrayRef> = columns.into_iter().flatten().collect();
        writer.derive(&mut columns, rows)?;
        Ok(columns)
    }
}
