//! NORMALIZE of a table's columns, on its way in: the SQL that [`tidemark_connectors::load`] makes of it, batch by batch.
//!
//! ```text
//!   given text ─────────────────────▶ clean ──▶ canonical ──▶ failed? error : result ──▶ the column's type
//!   given with the column's type ───▶ default in the place of NULL ──────────────────▶ ┘
//!   not given, without a DEFAULT ───▶ as NULL in text
//!   derived, when all others are there: its expression, and then as given
//! ```

use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, StringArray, new_null_array,
};
use datafusion::arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::common::DFSchema;
use datafusion::common::tree_node::TreeNode;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{Expr, ExprSchemable};
use datafusion::physical_expr::{PhysicalExpr, create_physical_expr};
use tidemark_catalog::{Column, Object};
use tidemark_common::types::SqlType;
use tidemark_common::values::Style;
use tidemark_common::{Error, Result, SqlState};
use tidemark_connectors::load::Normalization;

use super::assign::{self, Source};
use super::dml::{parse_expression, rewritten};
use crate::coordinator::definitions::{self, Environment};
use crate::query::Names;

/// What the columns of a table do with what is given for them.
pub(crate) struct Normalizer {
    table: String,
    style: Style,
    /// By position in the table.
    columns: Vec<Option<Steps>>,
}

/// One column's steps, ready to run.
struct Steps {
    column: Column,
    of: Normalization,
    derived: Option<Derived>,
    clean: Option<Computed>,
    canonical: Option<Computed>,
    failed: Option<Computed>,
    result: Computed,
    typed: Option<Computed>,
}

/// An expression over columns, and what it gives.
struct Computed {
    expr: Arc<dyn PhysicalExpr>,
    over: SchemaRef,
    sql_type: SqlType,
}

struct Derived {
    value: Computed,
    /// The columns that it is over, by position in the table.
    positions: Vec<usize>,
}

/// What values are taken as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    /// They go through all steps.
    ForSteps,
    /// They have the column's type already, and are not parsed.
    Typed,
}

impl Normalizer {
    /// `None`: no column is normalised.
    pub fn plan(
        table: &str,
        columns: &[Column],
        names: &Names,
        env: &Environment,
        style: Style,
    ) -> Result<Option<Self>> {
        if columns.iter().all(|column| column.normalize.is_none()) {
            return Ok(None);
        }
        let steps = columns.iter().map(|column| Steps::plan(column, columns, names, env));
        Ok(Some(Self { table: table.to_string(), style, columns: steps.collect::<Result<_>>()? }))
    }

    fn steps(&self, at: usize) -> Option<&Steps> {
        self.columns.get(at)?.as_ref()
    }

    /// What a column takes, and how, of a source.
    pub(super) fn takes(&self, at: usize, source: &Source) -> Option<(Column, Taken)> {
        let steps = self.steps(at)?;
        let has_own_type = steps.of.input == SqlType::Text
            && !assign::is_text(&steps.column.sql_type)
            && !source.unknown
            && !assign::is_text(&source.sql_type);
        Some(match has_own_type {
            true => (steps.column.clone(), Taken::Typed),
            false => (steps.takes_input(), Taken::ForSteps),
        })
    }

    /// As [`Normalizer::takes`], of values that come one by one from several sources.
    pub(super) fn takes_all(&self, at: usize, sources: &[&Source]) -> Result<Option<(Column, Taken)>> {
        let Some(steps) = self.steps(at) else { return Ok(None) };
        let taken: Vec<(Column, Taken)> = sources.iter().filter_map(|source| self.takes(at, source)).collect();
        let Some(first) = taken.first() else { return Ok(Some((steps.takes_input(), Taken::ForSteps))) };
        if taken.iter().all(|(_, taken)| *taken == first.1) {
            return Ok(Some(first.clone()));
        }
        // A number's text is read as the number that it is.
        if matches!(steps.column.sql_type, SqlType::Date | SqlType::Timestamp | SqlType::TimestampTz) {
            let name = &steps.column.name;
            let message =
                format!("values for column \"{name}\" are text to be parsed, and {} too", steps.column.sql_type);
            return Err(Error::new(SqlState::DatatypeMismatch, message)
                .with_hint("Insert the ones and the others by a statement each."));
        }
        Ok(Some((steps.takes_input(), Taken::ForSteps)))
    }

    /// Values that a column takes become values of its type. `from`: the type that they were taken with.
    pub(super) fn apply(&self, at: usize, taken: Taken, values: &ArrayRef) -> Result<ArrayRef> {
        let Some(steps) = self.steps(at) else { return Ok(Arc::clone(values)) };
        match taken {
            Taken::Typed => steps.apply_typed(values, &self.style),
            Taken::ForSteps => steps.apply(values, &self.table, &self.style),
        }
    }

    /// What the column holds where nothing is given.
    pub fn absent(&self, at: usize, rows: usize) -> Result<Option<ArrayRef>> {
        let Some(steps) = self.steps(at) else { return Ok(None) };
        let nothing = new_null_array(&steps.of.input.data_type(), rows);
        steps.apply(&nothing, &self.table, &self.style).map(Some)
    }

    /// Fills the columns that are derived from the others.
    pub fn derive(&self, columns: &mut [ArrayRef], rows: usize) -> Result<()> {
        for (at, steps) in self.columns.iter().enumerate() {
            let Some(Steps { of, derived: Some(derived), .. }) = steps else { continue };
            let given = derived.positions.iter().map(|at| Arc::clone(&columns[*at])).collect();
            let value = derived.value.evaluate(given, rows)?;
            let value = assign::convert(&value, &derived.value.sql_type, &of.input, &self.style)?;
            columns[at] = self.apply(at, Taken::ForSteps, &value)?;
        }
        Ok(())
    }

    /// The columns that [`Normalizer::derive`] fills.
    pub fn derived(&self) -> impl Iterator<Item = usize> {
        let is = |(at, steps): (usize, &Option<Steps>)| steps.as_ref().and_then(|s| s.derived.as_ref()).map(|_| at);
        self.columns.iter().enumerate().filter_map(is)
    }

    /// What no value would survive: a pattern or a default that cannot be read.
    pub fn check(&self) -> Result<()> {
        for steps in self.columns.iter().flatten() {
            let check = || -> Result<()> {
                if let Some(typed) = &steps.typed {
                    let null = new_null_array(&steps.column.sql_type.data_type(), 1);
                    let value = typed.evaluate(vec![null], 1)?;
                    assign::convert(&value, &typed.sql_type, &steps.column.sql_type, &self.style)?;
                }
                if steps.of.input == SqlType::Text {
                    steps.read(&(Arc::new(StringArray::from(vec!["1"])) as ArrayRef))?;
                }
                Ok(())
            };
            check().map_err(|error| {
                let message = format!("NORMALIZE of column \"{}\": {}", steps.column.name, error.message());
                Error::new(error.state(), message)
            })?;
        }
        Ok(())
    }
}

impl Steps {
    fn plan(column: &Column, columns: &[Column], names: &Names, env: &Environment) -> Result<Option<Self>> {
        let Some(normalize) = &column.normalize else { return Ok(None) };
        let of = Normalization::compile(&column.name, &column.sql_type, normalize)?;
        let field = |name: &str, sql_type: &SqlType| sql_type.to_field(name, true);
        let given: SchemaRef = Arc::new(Schema::new(vec![field(&column.name, &of.input)]));
        let own: SchemaRef = Arc::new(Schema::new(vec![field(&column.name, &column.sql_type)]));
        let compute = |text: &str, over: &SchemaRef| Computed::plan(text, over, names, env);
        let clean = of.clean.as_ref().map(|text| compute(text, &given)).transpose()?;
        let canonical = of.canonical.as_ref().map(|text| compute(text, &given)).transpose()?;
        let read = match &canonical {
            None => given.clone(),
            Some(_) => {
                let canonical = field(&of.canonical_name(), &SqlType::Text);
                Arc::new(Schema::new(vec![field(&column.name, &of.input), canonical]))
            }
        };
        Ok(Some(Self {
            clean,
            canonical,
            failed: of.failed.as_ref().map(|text| compute(text, &read)).transpose()?,
            result: compute(&of.result, &read)?,
            typed: of.typed.as_ref().map(|text| compute(text, &own)).transpose()?,
            derived: of
                .derived
                .as_ref()
                .map(|text| Derived::plan(text, column, &of, columns, names, env))
                .transpose()?,
            column: column.clone(),
            of,
        }))
    }

    fn takes_input(&self) -> Column {
        Column { sql_type: self.of.input.clone(), ..self.column.clone() }
    }

    fn apply_typed(&self, values: &ArrayRef, style: &Style) -> Result<ArrayRef> {
        let Some(typed) = &self.typed else { return Ok(Arc::clone(values)) };
        let value = typed.evaluate(vec![Arc::clone(values)], values.len())?;
        assign::convert(&value, &typed.sql_type, &self.column.sql_type, style)
    }

    /// Clean values, and canonical texts beside them.
    fn read(&self, values: &ArrayRef) -> Result<Vec<ArrayRef>> {
        let rows = values.len();
        let mut read = vec![match &self.clean {
            Some(clean) => clean.evaluate(vec![Arc::clone(values)], rows)?,
            None => Arc::clone(values),
        }];
        if let Some(canonical) = &self.canonical {
            read.push(canonical.evaluate(read.clone(), rows)?);
        }
        Ok(read)
    }

    fn apply(&self, values: &ArrayRef, table: &str, style: &Style) -> Result<ArrayRef> {
        let rows = values.len();
        let read = self.read(values)?;
        if let Some(failed) = &self.failed {
            let failed = failed.evaluate(read.clone(), rows)?;
            let Some(failed) = failed.as_boolean_opt() else {
                return Err(Error::internal(format!("whether \"{}\" has failed is not boolean", self.column.name)));
            };
            if let Some(row) = failed.iter().position(|failed| failed == Some(true)) {
                let value = datafusion::arrow::util::display::array_value_to_string(&read[0], row)?;
                return Err(self.of.error(table, &value));
            }
        }
        let result = self.result.evaluate(read, rows)?;
        assign::convert(&result, &self.result.sql_type, &self.column.sql_type, style)
    }
}

impl Derived {
    fn plan(
        text: &str,
        column: &Column,
        of: &Normalization,
        columns: &[Column],
        names: &Names,
        env: &Environment,
    ) -> Result<Self> {
        let is_given = |c: &Column| c.normalize.as_ref().is_none_or(|n| n.derived().is_none());
        let positions: Vec<usize> = (0..columns.len()).filter(|at| is_given(&columns[*at])).collect();
        let field = |at: &usize| columns[*at].sql_type.to_field(&columns[*at].name, true);
        let over: SchemaRef = Arc::new(Schema::new(positions.iter().map(field).collect::<Vec<_>>()));
        let value = Computed::plan(text, &over, names, env).map_err(|error| match error.state() {
            SqlState::UndefinedColumn => error.with_hint(
                "derive takes the table's other columns, but those that are derived and those that its strategy fills.",
            ),
            _ => error,
        })?;
        let source = Source { sql_type: value.sql_type.clone(), unknown: false };
        let taken = Column { sql_type: of.input.clone(), ..column.clone() };
        if of.input == SqlType::Text && !assign::is_text(&column.sql_type) && !assign::is_text(&source.sql_type) {
            let message = format!(
                "derive of column \"{}\" gives {}, and a step behind it parses text",
                column.name, source.sql_type
            );
            return Err(Error::new(SqlState::DatatypeMismatch, message).with_hint("Leave the parsing step out."));
        }
        assign::check(&source, &taken)?;
        Ok(Self { value, positions })
    }
}

impl Computed {
    fn plan(text: &str, over: &SchemaRef, names: &Names, env: &Environment) -> Result<Self> {
        let schema = DFSchema::try_from(over.as_ref().clone())?;
        let expr = names.planner().expr(&rewritten(parse_expression(text)?)?, &schema)?;
        let is_query = |e: &Expr| matches!(e, Expr::ScalarSubquery(_) | Expr::Exists(_) | Expr::InSubquery(_));
        if expr.exists(|e| Ok(is_query(e)))? {
            return Err(Error::unsupported("cannot use subquery in NORMALIZE"));
        }
        if expr.exists(|e| Ok(matches!(e, Expr::AggregateFunction(_) | Expr::WindowFunction(_))))? {
            let message = "aggregate and window functions are not allowed in NORMALIZE";
            return Err(Error::new(SqlState::GroupingError, message));
        }
        let expr = definitions::runnable(expr, &schema, env)?;
        let (_, field): (_, Arc<Field>) = expr.to_field(&schema)?;
        let props = names.state.execution_props();
        let physical = create_physical_expr(&expr, &schema, props, &PhysicalPlanningContext::default())?;
        Ok(Self { expr: physical, over: over.clone(), sql_type: Source::typed(&field).sql_type })
    }

    fn evaluate(&self, columns: Vec<ArrayRef>, rows: usize) -> Result<ArrayRef> {
        let typed = columns.into_iter().zip(self.over.fields()).map(|(array, field)| {
            match array.data_type() == field.data_type() {
                true => Ok(array),
                false => Ok(datafusion::arrow::compute::cast(&array, field.data_type())?),
            }
        });
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let batch = RecordBatch::try_new_with_options(self.over.clone(), typed.collect::<Result<Vec<_>>>()?, &options)?;
        Ok(self.expr.evaluate(&batch)?.into_array(rows)?)
    }
}

/// The type by which a client gives values for the column.
pub(super) fn given_type(column: &Column) -> SqlType {
    match &column.normalize {
        Some(normalize) if normalize.parsing().is_some() || assign::is_text(&column.sql_type) => SqlType::Text,
        _ => column.sql_type.clone(),
    }
}

/// Refuses a value for a column that is derived.
pub(super) fn refuse_derived(object: &Object, position: usize) -> Result<()> {
    let column = &object.columns()[position];
    let Some(expr) = column.normalize.as_ref().and_then(|normalize| normalize.derived()) else { return Ok(()) };
    Err(Error::new(
        SqlState::GeneratedAlways,
        format!("column \"{}\" of \"{}\" is derived from other columns", column.name, object.name),
    )
    .with_detail(format!("It holds {expr}."))
    .with_hint("Leave the column out."))
}
