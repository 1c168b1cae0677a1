//! Point lookups: a SELECT that gives every column of a relation's key, or the first ones of an index, reads its rows by these,
//! without DataFusion's executor.
//!
//! ```text
//!   WHERE id = $1 AND v > $2
//!         │             │
//!   parameters ──▶ keys ──Collection::get_rows, Index::read──▶ rows ──Filter, Project, Limit──▶ result
//! ```
//!
//! Planning costs a hundred times what reading a row does. So a lookup is made once from a statement's optimized plan, in which
//! `$n` stand as columns behind the relation's, and is run with other parameters as long as catalog and settings stay.

mod making;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions, UInt32Array};
use datafusion::arrow::compute::{concat, filter, filter_record_batch, is_not_null, prep_null_mask_filter, take};
use datafusion::arrow::datatypes::{FieldRef, Schema, SchemaRef};
use datafusion::common::cast::as_boolean_array;
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{Column, Literal};
use tidemark_common::{Oid, Result};
use tidemark_storage::{Collection, Index, Snapshot};

use self::making::{Making, is_candidate};
use super::Names;
use super::parameters::{fields_of, typed, types_of};

/// Rows that a lookup by an index reads at most: more are streamed, as any query's.
const MAX_ROWS: usize = 1000;

/// See the module.
#[derive(Debug)]
pub struct Lookup {
    pub relation: Oid,
    name: String,
    collection: Arc<Collection>,
    /// `None`: by key.
    index: Option<Arc<Index>>,
    /// For each key column, or the first ones of the index, in its order, the values it may have, over the parameters.
    keys: Vec<Vec<Arc<dyn PhysicalExpr>>>,
    /// The same where it is a key and there is nothing to compute.
    plain: Option<Vec<Vec<Plain>>>,
    /// Columns of the collection that the first step sees, and these as the collection has them.
    columns: Vec<usize>,
    found: SchemaRef,
    parameters: SchemaRef,
    steps: Vec<Step>,
    /// Of the result.
    pub schema: SchemaRef,
}

/// A value that is there already.
#[derive(Debug)]
enum Plain {
    Parameter(usize),
    Literal(ScalarValue),
}

impl Plain {
    fn of(expr: &Arc<dyn PhysicalExpr>) -> Option<Plain> {
        let parameter = expr.downcast_ref::<Column>().map(|column| Plain::Parameter(column.index()));
        parameter.or_else(|| expr.downcast_ref::<Literal>().map(|literal| Plain::Literal(literal.value().clone())))
    }

    fn value<'a>(&'a self, parameters: &'a [ScalarValue]) -> &'a ScalarValue {
        match self {
            Plain::Parameter(at) => &parameters[*at],
            Plain::Literal(value) => value,
        }
    }
}

/// What is done to the rows found. Expressions see the rows' columns, then the parameters.
#[derive(Debug)]
enum Step {
    Filter { predicate: Arc<dyn PhysicalExpr>, input: SchemaRef },
    Project { exprs: Vec<Arc<dyn PhysicalExpr>>, input: SchemaRef, output: SchemaRef },
    Limit { skip: usize, fetch: usize },
}

impl Lookup {
    /// False where `plan`, as the user wrote it, is certainly no lookup; costs little.
    pub fn is_candidate(plan: &LogicalPlan) -> Result<bool> {
        is_candidate(plan, &mut BTreeSet::new())
    }

    /// The lookup that gives what `plan` gives, if it is one. `plan` is a candidate; only the types of `parameters` count.
    pub fn of(names: &Names, plan: &LogicalPlan, parameters: &[ScalarValue]) -> Result<Option<Lookup>> {
        let fields = fields_of(types_of(parameters));
        // What does not plan is reported by whoever plans it with the values.
        let Ok(optimized) = typed(plan.clone(), &fields).and_then(|plan| names.planner().optimize(&plan)) else {
            return Ok(None);
        };
        let schema = Schema::new(fields);
        let mut making = Making::new(names, DFSchema::try_from(schema.clone())?);
        let Some(found) = making.descend(&optimized)? else { return Ok(None) };
        let plain = || found.keys.iter().map(|values| values.iter().map(Plain::of).collect()).collect();
        Ok(Some(Lookup {
            plain: if found.index.is_none() { plain() } else { None },
            found: Arc::new(found.collection.schema().project(&found.columns)?),
            relation: found.relation,
            name: found.name,
            collection: found.collection,
            index: found.index,
            keys: found.keys,
            columns: found.columns,
            parameters: Arc::new(schema),
            steps: making.steps,
            schema: nullable(optimized.schema().as_arrow().fields().iter()),
        }))
    }

    /// The index that it reads, whose OID is the relation's if it is a constraint's.
    pub fn index(&self) -> Option<Oid> {
        self.index.as_ref().map(|index| index.id().oid())
    }

    /// The rows, as of the snapshot. `parameters` have the types that [`Lookup::of`] was given. `None`: there are too many to hold.
    pub fn run(&self, snapshot: &Arc<Snapshot>, parameters: &[ScalarValue]) -> Result<Option<RecordBatch>> {
        let found = if self.steps.is_empty() { &self.schema } else { &self.found };
        let mut batch = match &self.index {
            None => self.collection.rows_at_places(snapshot, &self.places(parameters)?, &self.columns, found)?,
            Some(index) => match self.read(index, snapshot, parameters)? {
                Some(rows) => rows,
                None => return Ok(None),
            },
        };
        for step in &self.steps {
            batch = step.run(batch, parameters)?;
        }
        if !Arc::ptr_eq(batch.schema_ref(), &self.schema) {
            batch = under(self.schema.clone(), batch.columns().to_vec(), batch.num_rows())?;
        }
        Ok(Some(batch))
    }

    fn read(
        &self,
        index: &Arc<Index>,
        snapshot: &Arc<Snapshot>,
        parameters: &[ScalarValue],
    ) -> Result<Option<RecordBatch>> {
        let (columns, count) = self.wanted(parameters)?;
        let mut ranges = Vec::with_capacity(count);
        for row in 0..count {
            let values = columns.iter().map(|c| ScalarValue::try_from_array(c, row)).collect::<Result<Vec<_>, _>>()?;
            ranges.push(index.prefix_range(&values)?);
        }
        ranges.sort_by(|a, b| a.bounds().cmp(&b.bounds()));
        ranges.dedup();
        let mut scan = index.read(&self.collection, snapshot, self.columns.clone(), ranges, MAX_ROWS + 1)?;
        let Some(rows) = scan.next().transpose()? else {
            return Ok(Some(RecordBatch::new_empty(self.found.clone())));
        };
        // A batch that is full is not all, or just so many.
        Ok(Some(rows).filter(|rows| rows.num_rows() <= MAX_ROWS))
    }

    /// Where the rows are: those of every combination of the key columns' values, each once, ascending.
    fn places(&self, parameters: &[ScalarValue]) -> Result<Vec<Vec<u8>>> {
        let mut places = match self.plain.as_ref().and_then(|plain| self.plain_places(plain, parameters)) {
            Some(places) => places,
            None => {
                let (columns, count) = self.wanted(parameters)?;
                if count == 0 {
                    return Ok(Vec::new());
                }
                let encoded = self.collection.encode_keys(&columns, count)?;
                encoded.iter().map(|key| self.collection.place_of_key(key)).collect()
            }
        };
        places.sort_unstable();
        places.dedup();
        Ok(places)
    }

    /// Without arrays, which cost more than the rows do; `None`: values of these types need them.
    fn plain_places(&self, plain: &[Vec<Plain>], parameters: &[ScalarValue]) -> Option<Vec<Vec<u8>>> {
        let count: usize = plain.iter().map(Vec::len).product();
        let mut places = Vec::with_capacity(count);
        for row in 0..count {
            let key = || {
                let mut stride = count;
                plain.iter().map(move |values| {
                    stride /= values.len();
                    values[row / stride % values.len()].value(parameters)
                })
            };
            if !key().any(ScalarValue::is_null) {
                places.push(self.collection.place_of(key())?);
            }
        }
        Some(places)
    }

    /// Every combination of the columns' values, and how many these are. No row has NULL for what is asked for by `=`.
    fn wanted(&self, parameters: &[ScalarValue]) -> Result<(Vec<ArrayRef>, usize)> {
        let arrays = parameters.iter().map(|p| p.to_array()).collect::<Result<Vec<_>, _>>()?;
        let given = under(self.parameters.clone(), arrays, 1)?;
        let mut values = Vec::with_capacity(self.keys.len());
        for exprs in &self.keys {
            let each = exprs.iter().map(|e| e.evaluate(&given)?.into_array(1)).collect::<Result<Vec<_>, _>>()?;
            let all = match each.as_slice() {
                [only] => only.clone(),
                several => concat(&several.iter().map(|a| a.as_ref()).collect::<Vec<&dyn Array>>())?,
            };
            values.push(if all.null_count() == 0 { all } else { filter(&all, &is_not_null(&all)?)? });
        }
        let count: usize = values.iter().map(|v| v.len()).product();
        Ok(match count {
            0 => (Vec::new(), 0),
            1 => (values, 1),
            _ => (combinations(&values, count)?, count),
        })
    }
}

fn combinations(values: &[ArrayRef], count: usize) -> Result<Vec<ArrayRef>> {
    let mut stride = count;
    values
        .iter()
        .map(|column| {
            stride /= column.len();
            let rows: UInt32Array = (0..count).map(|i| (i / stride % column.len()) as u32).collect::<Vec<_>>().into();
            Ok(take(column, &rows, None)?)
        })
        .collect()
}

impl Step {
    fn run(&self, batch: RecordBatch, parameters: &[ScalarValue]) -> Result<RecordBatch> {
        let rows = batch.num_rows();
        let seen = |input: &SchemaRef| -> Result<RecordBatch> {
            let mut columns = batch.columns().to_vec();
            for parameter in parameters {
                columns.push(parameter.to_array_of_size(rows)?);
            }
            under(input.clone(), columns, rows)
        };
        match self {
            Step::Filter { predicate, input } => {
                let mask = predicate.evaluate(&seen(input)?)?.into_array(rows)?;
                Ok(filter_record_batch(&batch, &true_rows(as_boolean_array(&mask)?))?)
            }
            Step::Project { exprs, input, output } => {
                let seen = seen(input)?;
                let columns =
                    exprs.iter().map(|e| e.evaluate(&seen)?.into_array(rows)).collect::<Result<Vec<_>, _>>()?;
                under(output.clone(), columns, rows)
            }
            Step::Limit { skip, fetch } => {
                let skip = (*skip).min(rows);
                Ok(batch.slice(skip, (*fetch).min(rows - skip)))
            }
        }
    }
}

fn true_rows(mask: &BooleanArray) -> BooleanArray {
    if mask.null_count() == 0 { mask.clone() } else { prep_null_mask_filter(mask) }
}

/// As EXPLAIN shows it: the last step first.
impl fmt::Display for Lookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (depth, step) in self.steps.iter().rev().enumerate() {
            write!(f, "{:indent$}", "", indent = depth * 2)?;
            match step {
                Step::Filter { predicate, .. } => writeln!(f, "Filter: {predicate}")?,
                Step::Project { exprs, .. } => {
                    let exprs: Vec<String> = exprs.iter().map(ToString::to_string).collect();
                    writeln!(f, "Project: {}", exprs.join(", "))?;
                }
                Step::Limit { skip, fetch } => writeln!(f, "Limit: skip={skip}, fetch={fetch}")?,
            }
        }
        let schema = self.collection.schema();
        let by = self.index.as_ref().map_or(self.collection.key_columns(), |index| index.columns());
        let columns = by.iter().zip(&self.keys).map(|(column, values)| {
            let values: Vec<String> = values.iter().map(ToString::to_string).collect();
            let name = schema.field(*column).name();
            match values.as_slice() {
                [only] => format!("{name} = {only}"),
                several => format!("{name} IN ({})", several.join(", ")),
            }
        });
        let keys: Vec<String> = columns.collect();
        let (indent, name, keys) = (self.steps.len() * 2, &self.name, keys.join(", "));
        match &self.index {
            None => write!(f, "{:indent$}Lookup: {name} by {keys}", ""),
            Some(index) => write!(f, "{:indent$}Lookup: {name} by index {}: {keys}", "", index.name()),
        }
    }
}

/// What is declared NOT NULL may be missing in rows of a plan, such as the parameters.
fn nullable<'a>(fields: impl Iterator<Item = &'a FieldRef>) -> SchemaRef {
    Arc::new(Schema::new(fields.map(|f| f.as_ref().clone().with_nullable(true)).collect::<Vec<_>>()))
}

fn under(schema: SchemaRef, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    Ok(RecordBatch::try_new_with_options(schema, columns, &options)?)
}
