//! Point lookups: a SELECT that gives every column of a relation's key reads its rows by key, without DataFusion's executor.
//!
//! ```text
//!   WHERE id = $1 AND v > $2
//!         │             │
//!   parameters ──▶ keys ──Collection::get_rows──▶ rows ──Filter, Project, Limit──▶ result
//! ```
//!
//! Planning costs a hundred times what reading a row does. So a lookup is made once from a statement's optimized plan, in which
//! `$n` stand as columns behind the relation's, and is run with other parameters as long as catalog and settings stay.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions, UInt32Array};
use datafusion::arrow::compute::{concat, filter, filter_record_batch, is_not_null, prep_null_mask_filter, take};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::common::cast::as_boolean_array;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, ScalarValue};
use datafusion::datasource::source_as_provider;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::utils::{split_binary, split_conjunction};
use datafusion::logical_expr::{BinaryExpr, Expr, FetchType, LogicalPlan, Operator, SkipType, TableScan, Volatility};
use datafusion::physical_expr::{PhysicalExpr, create_physical_expr};
use tidemark_catalog::ObjectKind;
use tidemark_common::{Oid, Result};
use tidemark_sql::relation::Relation;
use tidemark_storage::{Collection, Snapshot};

use super::Names;
use crate::coordinator::definitions;

/// Keys that one lookup reads at most; an IN list beyond it is planned as any query.
const MAX_KEYS: usize = 1000;

/// See the module.
#[derive(Debug)]
pub struct Lookup {
    pub relation: Oid,
    name: String,
    collection: Arc<Collection>,
    /// For each key column, in the key's order, the values it may have, over the parameters.
    keys: Vec<Vec<Arc<dyn PhysicalExpr>>>,
    /// Columns of the collection that the first step sees.
    columns: Vec<usize>,
    parameters: SchemaRef,
    steps: Vec<Step>,
    /// Of the result.
    pub schema: SchemaRef,
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
        let fields: Vec<FieldRef> = parameters
            .iter()
            .enumerate()
            .map(|(i, p)| Arc::new(Field::new(format!("${}", i + 1), p.data_type(), true)))
            .collect();
        // What does not plan is reported by whoever plans it with the values.
        let Ok(optimized) = typed(plan.clone(), &fields).and_then(|plan| names.planner().optimize(&plan)) else {
            return Ok(None);
        };
        let schema = Schema::new(fields);
        let mut making = Making {
            names,
            parameters: DFSchema::try_from(schema.clone())?,
            conditions: Vec::new(),
            single: false,
            steps: Vec::new(),
        };
        let Some(found) = making.descend(&optimized)? else { return Ok(None) };
        Ok(Some(Lookup {
            relation: found.relation,
            name: found.name,
            collection: found.collection,
            keys: found.keys,
            columns: found.columns,
            parameters: Arc::new(schema),
            steps: making.steps,
            schema: nullable(optimized.schema().as_arrow().fields().iter()),
        }))
    }

    /// The rows, as of the snapshot. `parameters` have the types that [`Lookup::of`] was given.
    pub fn run(&self, snapshot: &Snapshot, parameters: &[ScalarValue]) -> Result<RecordBatch> {
        let keys = self.encoded_keys(parameters)?;
        let found = self.collection.get_rows(snapshot, &keys)?.batch;
        let mut batch = found.project(&self.columns)?;
        for step in &self.steps {
            batch = step.run(batch, parameters)?;
        }
        under(self.schema.clone(), batch.columns().to_vec(), batch.num_rows())
    }

    /// Every combination of the key columns' values, each once, ascending. No row has NULL for a key that is asked for by `=`.
    fn encoded_keys(&self, parameters: &[ScalarValue]) -> Result<Vec<Vec<u8>>> {
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
        let columns = match count {
            0 => return Ok(Vec::new()),
            1 => values,
            _ => combinations(&values, count)?,
        };
        let encoded = self.collection.encode_keys(&columns, count)?;
        let keys: BTreeSet<Vec<u8>> = encoded.iter().map(<[u8]>::to_vec).collect();
        Ok(keys.into_iter().collect())
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
        let columns = self.collection.key_columns().iter().zip(&self.keys).map(|(column, values)| {
            let values: Vec<String> = values.iter().map(ToString::to_string).collect();
            let name = schema.field(*column).name();
            match values.as_slice() {
                [only] => format!("{name} = {only}"),
                several => format!("{name} IN ({})", several.join(", ")),
            }
        });
        let keys: Vec<String> = columns.collect();
        write!(f, "{:indent$}Lookup: {} by {}", "", self.name, keys.join(", "), indent = self.steps.len() * 2)
    }
}

// ---- Making one -----------------------------------------------------------------------------------------------------

/// True if nothing but the rows of one keyed relation is asked for, filtered, by all columns of the key too, and projected by
/// immutable expressions. `filtered`: names of the columns in filters so far.
fn is_candidate(plan: &LogicalPlan, filtered: &mut BTreeSet<String>) -> Result<bool> {
    let below = match plan {
        LogicalPlan::Projection(p) => &p.input,
        LogicalPlan::Filter(f) => {
            filtered.extend(f.predicate.column_refs().into_iter().map(|c| c.name.clone()));
            &f.input
        }
        LogicalPlan::SubqueryAlias(a) => &a.input,
        LogicalPlan::Limit(l) => &l.input,
        LogicalPlan::Sort(s) => &s.input,
        LogicalPlan::TableScan(scan) => {
            let provider = source_as_provider(&scan.source)?;
            if let Some(view) = provider.get_logical_plan() {
                return is_candidate(&view, filtered);
            }
            let Some(relation) = provider.downcast_ref::<Relation>() else { return Ok(false) };
            let by_key = |key: &Vec<usize>| key.iter().all(|k| filtered.contains(relation.schema.field(*k).name()));
            return Ok(relation.key.as_ref().is_some_and(by_key));
        }
        _ => return Ok(false),
    };
    let mut simple = true;
    plan.apply_expressions(|expr| {
        expr.apply(|e| {
            simple &= match e {
                Expr::ScalarFunction(f) => f.func.signature().volatility == Volatility::Immutable,
                Expr::Column(_) | Expr::Literal(..) | Expr::Placeholder(_) | Expr::Alias(_) | Expr::BinaryExpr(_) => {
                    true
                }
                Expr::Not(_) | Expr::IsNull(_) | Expr::IsNotNull(_) | Expr::IsTrue(_) | Expr::IsFalse(_) => true,
                Expr::IsNotTrue(_) | Expr::IsNotFalse(_) | Expr::IsUnknown(_) | Expr::IsNotUnknown(_) => true,
                Expr::Cast(_) | Expr::TryCast(_) | Expr::Negative(_) | Expr::Case(_) | Expr::Between(_) => true,
                Expr::InList(_) | Expr::Like(_) | Expr::SimilarTo(_) => true,
                _ => false,
            };
            Ok(if simple { TreeNodeRecursion::Continue } else { TreeNodeRecursion::Stop })
        })
    })?;
    Ok(simple && is_candidate(below, filtered)?)
}

/// The plan with parameters of these types.
fn typed(plan: LogicalPlan, parameters: &[FieldRef]) -> Result<LogicalPlan> {
    if parameters.is_empty() {
        return Ok(plan);
    }
    let plan = plan.transform_up(|node| {
        let typed = node.map_expressions(|expr| {
            expr.transform_up(|e| {
                let Expr::Placeholder(mut p) = e else { return Ok(Transformed::no(e)) };
                p.field = parameters.iter().find(|f| *f.name() == p.id).cloned();
                Ok(Transformed::yes(Expr::Placeholder(p)))
            })
        })?;
        typed.map_data(LogicalPlan::recompute_schema)
    })?;
    Ok(plan.data)
}

struct Making<'a> {
    names: &'a Names,
    parameters: DFSchema,
    /// What every row must satisfy, from the filters right above the scan.
    conditions: Vec<Expr>,
    /// There is one key to read, so at most one row.
    single: bool,
    steps: Vec<Step>,
}

struct Found {
    relation: Oid,
    name: String,
    collection: Arc<Collection>,
    keys: Vec<Vec<Arc<dyn PhysicalExpr>>>,
    columns: Vec<usize>,
}

impl Making<'_> {
    fn descend(&mut self, plan: &LogicalPlan) -> Result<Option<Found>> {
        match plan {
            LogicalPlan::TableScan(scan) => {
                let found = self.scan(scan)?;
                if let Some(fetch) = scan.fetch {
                    self.steps.push(Step::Limit { skip: 0, fetch });
                }
                Ok(found)
            }
            LogicalPlan::SubqueryAlias(alias) => self.descend(&alias.input),
            LogicalPlan::Filter(node) => {
                if let LogicalPlan::TableScan(_) | LogicalPlan::Filter(_) = node.input.as_ref() {
                    self.conditions.extend(split_conjunction(&node.predicate).into_iter().cloned());
                }
                let Some(found) = self.descend(&node.input)? else { return Ok(None) };
                let (predicate, input) = self.physical(&node.predicate, node.input.schema())?;
                self.steps.push(Step::Filter { predicate, input });
                Ok(Some(found))
            }
            LogicalPlan::Projection(node) => {
                let Some(found) = self.descend(&node.input)? else { return Ok(None) };
                let mut input = self.seen(node.input.schema())?.inner().clone();
                let mut exprs = Vec::with_capacity(node.expr.len());
                for (expr, field) in node.expr.iter().zip(node.schema.fields()) {
                    let (expr, seen) = self.physical(expr, node.input.schema())?;
                    if expr.data_type(&seen)? != *field.data_type() {
                        return Ok(None);
                    }
                    exprs.push(expr);
                    input = seen;
                }
                let output = nullable(node.schema.fields().iter());
                self.steps.push(Step::Project { exprs, input, output });
                Ok(Some(found))
            }
            LogicalPlan::Limit(node) => {
                let (SkipType::Literal(skip), FetchType::Literal(fetch)) =
                    (node.get_skip_type()?, node.get_fetch_type()?)
                else {
                    return Ok(None);
                };
                let found = self.descend(&node.input)?;
                self.steps.push(Step::Limit { skip, fetch: fetch.unwrap_or(usize::MAX) });
                Ok(found)
            }
            LogicalPlan::Sort(node) => {
                let found = self.descend(&node.input)?;
                if let Some(fetch) = node.fetch {
                    self.steps.push(Step::Limit { skip: 0, fetch });
                }
                // One row is in order.
                Ok(found.filter(|_| self.single))
            }
            _ => Ok(None),
        }
    }

    fn scan(&mut self, scan: &TableScan) -> Result<Option<Found>> {
        let provider = source_as_provider(&scan.source)?;
        let Some(relation) = provider.downcast_ref::<Relation>() else { return Ok(None) };
        let object = self.names.catalog.expect(relation.oid)?;
        let (collection, key) = match &object.kind {
            ObjectKind::Table(table) => {
                let def = definitions::table(object, table)?;
                (def.collection, def.key)
            }
            ObjectKind::MaterializedView(view) => {
                (definitions::view_collection(object, view)?, view.key.clone().unwrap_or_default())
            }
            _ => return Ok(None),
        };
        let schema = collection.schema();
        let mut keys = Vec::with_capacity(key.len());
        for column in &key {
            let field = schema.field(*column);
            let wanted = self.conditions.iter().filter_map(|c| equal_to(c, field.name())).min_by_key(Vec::len);
            let Some(wanted) = wanted else { return Ok(None) };
            let mut exprs = Vec::with_capacity(wanted.len());
            for value in wanted {
                let value = self.over_parameters(value)?;
                let (expr, seen) = self.physical(&value, &DFSchema::empty())?;
                if expr.data_type(&seen)? != *field.data_type() {
                    return Ok(None);
                }
                exprs.push(expr);
            }
            keys.push(exprs);
        }
        let count = keys.iter().map(Vec::len).try_fold(1usize, usize::checked_mul);
        // A view of one row has a key without columns.
        if key.is_empty() || count.is_none_or(|count| count > MAX_KEYS) {
            return Ok(None);
        }
        self.single = count == Some(1);
        let columns = match &scan.projection {
            Some(columns) => columns.clone(),
            None => (0..relation.schema.fields().len()).collect(),
        };
        Ok(Some(Found { relation: relation.oid, name: relation.name.clone(), collection, keys, columns }))
    }

    /// The columns that expressions over `schema` see.
    fn seen(&self, schema: &DFSchema) -> Result<DFSchema> {
        Ok(schema.join(&self.parameters)?)
    }

    fn over_parameters(&self, expr: &Expr) -> Result<Expr> {
        let expr = expr.clone().transform_up(|e| {
            Ok(match e {
                Expr::Placeholder(p) => Transformed::yes(Expr::Column(Column::new_unqualified(p.id))),
                other => Transformed::no(other),
            })
        })?;
        Ok(expr.data)
    }

    fn physical(&self, expr: &Expr, schema: &DFSchema) -> Result<(Arc<dyn PhysicalExpr>, SchemaRef)> {
        let seen = self.seen(schema)?;
        let expr = self.over_parameters(expr)?;
        // Functions that depend on the time zone find it there.
        let mut props = self.names.state.execution_props().clone();
        props.config_options = Some(self.names.state.config_options().clone());
        let physical = create_physical_expr(&expr, &seen, &props, &PhysicalPlanningContext::default())?;
        Ok((physical, nullable(seen.fields().iter())))
    }
}

/// The values that the condition allows `column` to have, if it is `column = value`, `column IN (..)` or `.. OR ..` of these.
fn equal_to<'a>(condition: &'a Expr, column: &str) -> Option<Vec<&'a Expr>> {
    let is_column = |e: &Expr| matches!(e, Expr::Column(c) if c.name == column);
    let is_value = |e: &Expr| e.column_refs().is_empty();
    match condition {
        Expr::InList(list) if !list.negated && is_column(&list.expr) && list.list.iter().all(is_value) => {
            Some(list.list.iter().collect())
        }
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) => match (left.as_ref(), right.as_ref()) {
            (c, value) | (value, c) if is_column(c) && is_value(value) => Some(vec![value]),
            _ => None,
        },
        Expr::BinaryExpr(BinaryExpr { op: Operator::Or, .. }) => {
            let values = split_binary(condition, Operator::Or).into_iter().map(|c| equal_to(c, column));
            Some(values.collect::<Option<Vec<_>>>()?.into_iter().flatten().collect())
        }
        _ => None,
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

/// The types that a lookup was made for.
pub fn types_of(parameters: &[ScalarValue]) -> Vec<DataType> {
    parameters.iter().map(ScalarValue::data_type).collect()
}
