//! Making a lookup of a plan: what its filters set to values, and what is done to the rows besides.

use std::collections::BTreeSet;
use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::DFSchema;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::datasource::source_as_provider;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{BinaryExpr, Expr, FetchType, LogicalPlan, Operator, SkipType, TableScan, Volatility};
use datafusion::physical_expr::{PhysicalExpr, create_physical_expr};
use tidemark_catalog::ObjectKind;
use tidemark_common::{Oid, Result};
use tidemark_sql::relation::Relation;
use tidemark_storage::{Collection, Index, keys_keep_values};

use super::{Names, Step, nullable};
use crate::coordinator::definitions;
use crate::query::access::{MAX_RANGES, equal_to};
use crate::query::parameters::over_parameters;

/// True if nothing but the rows of one relation is asked for, filtered, by all columns of its key or the first one of an index too,
/// and projected by immutable expressions. `filtered`: names of the columns in filters so far.
pub(super) fn is_candidate(plan: &LogicalPlan, filtered: &mut BTreeSet<String>) -> Result<bool> {
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
            let by_index = |column: &usize| filtered.contains(relation.schema.field(*column).name());
            return Ok(relation.key.as_ref().is_some_and(by_key) || relation.indexed.iter().any(by_index));
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

pub(super) struct Making<'a> {
    names: &'a Names,
    parameters: DFSchema,
    /// What every row must satisfy, from the filters right above the scan.
    conditions: Vec<Expr>,
    /// There is one key to read, so at most one row.
    single: bool,
    pub steps: Vec<Step>,
}

pub(super) struct Found {
    pub relation: Oid,
    pub name: String,
    pub collection: Arc<Collection>,
    pub index: Option<Arc<Index>>,
    pub keys: Vec<Vec<Arc<dyn PhysicalExpr>>>,
    pub columns: Vec<usize>,
}

impl<'a> Making<'a> {
    pub fn new(names: &'a Names, parameters: DFSchema) -> Self {
        Self { names, parameters, conditions: Vec::new(), single: false, steps: Vec::new() }
    }

    pub fn descend(&mut self, plan: &LogicalPlan) -> Result<Option<Found>> {
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
                if self.is_implied(&node.predicate, &found) {
                    return Ok(Some(found));
                }
                let (predicate, input) = self.physical(&node.predicate, node.input.schema())?;
                self.steps.push(Step::Filter { predicate, input });
                Ok(Some(found))
            }
            LogicalPlan::Projection(node) => {
                let Some(mut found) = self.descend(&node.input)? else { return Ok(None) };
                if self.steps.is_empty()
                    && let Some(columns) = columns_of(&node.expr, node.input.schema())
                {
                    found.columns = columns.iter().map(|at| found.columns[*at]).collect();
                    return Ok(Some(found));
                }
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
        let catalog = &self.names.catalog;
        let (collection, key, indexes) = match &object.kind {
            ObjectKind::Table(table) => {
                let def = definitions::table(object, table, catalog)?;
                (def.collection, def.key, def.indexes)
            }
            ObjectKind::MaterializedView(view) => {
                let indexes = definitions::view_indexes(object, catalog)?;
                (definitions::view_collection(object, view)?, view.key.clone().unwrap_or_default(), indexes)
            }
            _ => return Ok(None),
        };
        // A view of one row has a key without columns.
        let mut found = None;
        let by_key = self.equal(relation, &key)?;
        if !key.is_empty() && by_key.len() == key.len() {
            found = Some((None, by_key));
        } else {
            let mut best = (false, 0, false);
            for index in indexes {
                let keys = self.equal(relation, index.columns())?;
                let (given, all) = (keys.len(), index.columns().len());
                let ranged = self.is_ranged(relation, &index, given);
                let rank = (index.is_unique() && given == all, given, ranged);
                if given > 0 && rank > best && is_complete(relation, &index, given) {
                    best = rank;
                    // A scan does better by the range than a lookup without it.
                    found = (!ranged).then_some((Some(index), keys));
                }
            }
        }
        let Some((index, keys)) = found else { return Ok(None) };
        let count: usize = keys.iter().map(Vec::len).product();
        self.single =
            count == 1 && index.as_ref().is_none_or(|index| index.is_unique() && index.columns().len() == keys.len());
        let columns = match &scan.projection {
            Some(columns) => columns.clone(),
            None => (0..relation.schema.fields().len()).collect(),
        };
        Ok(Some(Found { relation: relation.oid, name: relation.name.clone(), collection, index, keys, columns }))
    }

    /// For each of the first of `columns` that a condition sets to values, these: as long as they are not too many.
    fn equal(&self, relation: &Relation, columns: &[usize]) -> Result<Vec<Vec<Arc<dyn PhysicalExpr>>>> {
        let mut keys = Vec::with_capacity(columns.len());
        let mut count = 1;
        for column in columns {
            let Some(field) = relation.schema.fields().get(*column) else { break };
            let wanted = self.conditions.iter().filter_map(|c| equal_to(c, field.name())).min_by_key(Vec::len);
            let Some(wanted) = wanted.filter(|wanted| count * wanted.len() <= MAX_RANGES) else { break };
            count *= wanted.len();
            let mut exprs = Vec::with_capacity(wanted.len());
            for value in wanted {
                let value = over_parameters(value.clone())?;
                let (expr, seen) = self.physical(&value, &DFSchema::empty())?;
                if expr.data_type(&seen)? != *field.data_type() {
                    return Ok(keys);
                }
                exprs.push(expr);
            }
            keys.push(exprs);
        }
        Ok(keys)
    }

    /// Whether rows with the keys that are read satisfy the predicate because of these.
    fn is_implied(&self, predicate: &Expr, found: &Found) -> bool {
        let schema = found.collection.schema();
        let keys = found.collection.key_columns();
        let conditions = split_conjunction(predicate);
        // There is one for each column, so each is the one that the column's values were taken from.
        found.index.is_none()
            && self.conditions.len() == keys.len()
            && conditions.len() == keys.len()
            && keys.iter().map(|column| schema.field(*column)).all(|field| {
                keys_keep_values(field.data_type())
                    && conditions.iter().filter(|c| equal_to(c, field.name()).is_some()).count() == 1
            })
    }

    /// Whether a condition bounds the column of the index after the `given` ones, or asks for its NULLs.
    fn is_ranged(&self, relation: &Relation, index: &Index, given: usize) -> bool {
        let Some(next) = index.columns().get(given).map(|column| relation.schema.field(*column).name()) else {
            return false;
        };
        let is_next = |e: &Expr| matches!(e, Expr::Column(c) if c.name == *next);
        self.conditions.iter().any(|condition| match condition {
            Expr::BinaryExpr(BinaryExpr {
                left,
                op: Operator::Lt | Operator::LtEq | Operator::Gt | Operator::GtEq,
                right,
            }) => is_next(left) || is_next(right),
            Expr::Between(between) => is_next(&between.expr),
            Expr::IsNull(of) => is_next(of),
            _ => false,
        })
    }

    /// The columns that expressions over `schema` see.
    fn seen(&self, schema: &DFSchema) -> Result<DFSchema> {
        Ok(schema.join(&self.parameters)?)
    }

    fn physical(&self, expr: &Expr, schema: &DFSchema) -> Result<(Arc<dyn PhysicalExpr>, SchemaRef)> {
        let seen = self.seen(schema)?;
        let expr = over_parameters(expr.clone())?;
        let props = self.names.state.execution_props();
        let physical = create_physical_expr(&expr, &seen, props, &PhysicalPlanningContext::default())?;
        Ok((physical, nullable(seen.fields().iter())))
    }
}

/// Where in `input` the columns are, if the expressions are nothing else.
fn columns_of(exprs: &[Expr], input: &DFSchema) -> Option<Vec<usize>> {
    let columns = exprs.iter().map(|expr| match expr {
        Expr::Alias(alias) => alias.expr.try_as_col(),
        expr => expr.try_as_col(),
    });
    columns.map(|column| input.maybe_index_of_column(column?)).collect()
}

/// Whether the index has all rows of which its first columns are given: a unique one has none with NULL in the others.
fn is_complete(relation: &Relation, index: &Index, given: usize) -> bool {
    !index.is_unique() || index.columns()[given..].iter().all(|column| !relation.schema.field(*column).is_nullable())
}
