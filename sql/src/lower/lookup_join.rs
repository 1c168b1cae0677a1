//! FOR SYSTEM_TIME AS OF proctime() of a table of another system: its rows are asked for by key.
//!
//! ```text
//!   Join  o.customer = c.id, c.active          Lookup Join  in warehouse.raw.customers on customer = id AND active
//!     o                              ──▶         Exchange by customer
//!     Filter active                                o
//!       TableScan warehouse.raw.customers c
//! ```

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::common::JoinType;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::datasource::source_as_provider;
use datafusion::logical_expr::{Cast, Expr, Join, LogicalPlan};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::conjunction_opt;
use datafusion::physical_expr::expressions::{CastExpr, Column};
use tidemark_common::plan::{self, JoinKind, NodeId, Op, Properties};
use tidemark_common::types::SqlType;
use tidemark_common::{Error, Result};

use super::Lowering;
use crate::relation::Relation;

/// A table of another system under filters and choices of columns.
struct Asked {
    relation: Arc<dyn datafusion::catalog::TableProvider>,
    /// The table's columns that are asked for, and as they come.
    columns: Vec<usize>,
    schema: SchemaRef,
    /// Of those, the ones that the plan's columns are.
    shown: Vec<usize>,
    filters: Vec<Arc<dyn PhysicalExpr>>,
}

impl Lowering {
    /// `None`: the right side is something else.
    pub(super) fn lookup_join(
        &mut self,
        join: &Join,
        current: bool,
        residual: Option<&Expr>,
    ) -> Result<Option<NodeId>> {
        let Some(asked) = self.asked(&join.right)? else { return Ok(None) };
        let relation = relation(&asked.relation)?;
        let kind = match join.join_type {
            JoinType::Inner => JoinKind::Inner,
            JoinType::Left => JoinKind::Left,
            _ => return Err(not_followed(&relation.name)),
        };
        if !current {
            return Err(not_followed(&relation.name));
        }
        self.current_joins = true;
        let left = self.plan(&join.left)?;
        self.check_current(kind, left)?;
        let width = self.schema(left).fields().len();
        let mut by = Vec::with_capacity(join.on.len());
        let mut keys = Vec::with_capacity(join.on.len());
        for (of_left, of_right) in &join.on {
            let column = asked.key(of_right, &join.right)?;
            let key = self.physical(of_left, join.left.schema())?;
            keys.push(as_key(key, self.schema(left), asked.schema.field(column), &relation.name)?);
            by.push(column);
        }
        if by.is_empty() {
            return Err(Error::unsupported(format!("a lookup in \"{}\" needs a key", relation.name))
                .with_hint("Join by equal columns: ON c.id = o.customer_id."));
        }
        let (left, keys) = self.with_columns(left, &keys)?;
        let (schema, properties) = (Arc::clone(self.schema(left)), self.properties(left).clone());
        let (left_schema, all) = (Arc::clone(&schema), schema.fields().len());
        let left = self.add(Op::Exchange { keys: keys.clone() }, vec![left], schema, properties.clone());
        let residual = residual.map(|residual| {
            let places: Vec<usize> = (0..width).chain(asked.shown.iter().map(|c| c + all)).collect();
            moved(self.physical(residual, &join.left.schema().join(join.right.schema())?)?, &places)
        });
        let op = plan::LookupJoin {
            kind,
            table: relation.asked.clone().ok_or_else(|| Error::internal("a table that cannot be asked"))?,
            name: relation.name.clone(),
            on: keys.into_iter().zip(by).collect(),
            filter: conjunction_opt(asked.filters),
            residual: residual.transpose()?,
            output: (0..width).chain(asked.shown.iter().map(|column| column + all)).collect(),
            columns: asked.columns,
            schema: asked.schema,
        };
        let properties = Properties {
            append_only: true,
            // Nobody knows how many rows of the table meet one.
            key: None,
            watermarks: properties
                .watermarks
                .range(..width)
                .copied()
                .filter(|c| is_time(left_schema.field(*c)))
                .collect(),
        };
        let schema = Arc::new(join.schema.as_arrow().clone());
        Ok(Some(self.add(Op::LookupJoin(op), vec![left], schema, properties)))
    }

    fn asked(&self, plan: &LogicalPlan) -> Result<Option<Asked>> {
        match plan {
            LogicalPlan::TableScan(scan) => {
                let provider = source_as_provider(&scan.source)?;
                let Some(relation) = provider.downcast_ref::<Relation>().filter(|r| r.asked.is_some()) else {
                    return Ok(None);
                };
                let columns = scan.projection.clone().unwrap_or_else(|| (0..relation.schema.fields().len()).collect());
                let schema = Arc::new(relation.schema.project(&columns)?);
                let shown = (0..columns.len()).collect();
                Ok(Some(Asked { relation: provider, columns, schema, shown, filters: Vec::new() }))
            }
            LogicalPlan::SubqueryAlias(alias) => self.asked(&alias.input),
            LogicalPlan::Filter(filter) => {
                let Some(mut asked) = self.asked(&filter.input)? else { return Ok(None) };
                let (predicate, _) = crate::asof::without_marker(Some(&filter.predicate));
                if let Some(predicate) = predicate {
                    let predicate = self.physical(&predicate, filter.input.schema())?;
                    asked.filters.push(moved(predicate, &asked.shown)?);
                }
                Ok(Some(asked))
            }
            LogicalPlan::Projection(projection) => {
                let Some(mut asked) = self.asked(&projection.input)? else { return Ok(None) };
                let column = |expr: &Expr| {
                    match expr.clone().unalias() {
                    Expr::Column(column) => Ok(asked.shown[projection.input.schema().index_of_column(&column)?]),
                    other => Err(Error::unsupported(format!("{other} cannot be computed in a lookup")).with_hint(
                        "Join the table as it is, and compute in the SELECT list. A table declared here has the types that it has there.",
                    )),
                }
                };
                asked.shown = projection.expr.iter().map(column).collect::<Result<_>>()?;
                Ok(Some(asked))
            }
            _ => Ok(None),
        }
    }
}

impl Asked {
    /// Which of the columns asked for a key of the join is.
    fn key(&self, expr: &Expr, plan: &LogicalPlan) -> Result<usize> {
        match expr {
            Expr::Column(column) => Ok(self.shown[plan.schema().index_of_column(column)?]),
            // A wider type to compare with a wider key.
            Expr::Cast(Cast { expr, field }) if field.data_type().is_integer() => self.key(expr, plan),
            other => Err(Error::unsupported(format!("{other} cannot be the key of a lookup"))
                .with_hint("Compare a column of the table as it is, ON c.id = ..; cast the other side to its type.")),
        }
    }
}

/// What rows that wait can be held against.
fn is_time(field: &Field) -> bool {
    matches!(field.data_type(), DataType::Timestamp(TimeUnit::Microsecond, _))
}

fn relation(provider: &Arc<dyn datafusion::catalog::TableProvider>) -> Result<&Relation> {
    provider.downcast_ref::<Relation>().ok_or_else(|| Error::internal("a lookup in what is no relation"))
}

/// The key as a column of the type that the table has it in.
fn as_key(key: Arc<dyn PhysicalExpr>, schema: &Schema, column: &Field, table: &str) -> Result<Arc<dyn PhysicalExpr>> {
    let (from, to) = (key.data_type(schema)?, column.data_type());
    let known = matches!(
        SqlType::from_field(column),
        SqlType::Boolean
            | SqlType::SmallInt
            | SqlType::Integer
            | SqlType::BigInt
            | SqlType::Numeric(_)
            | SqlType::Text
            | SqlType::Varchar(_)
            | SqlType::Uuid
            | SqlType::Date
            | SqlType::Time
            | SqlType::Timestamp
            | SqlType::TimestampTz
            | SqlType::Bytea
    );
    if !known {
        return Err(Error::unsupported(format!(
            "column \"{}\" of \"{table}\" cannot be the key of a lookup: its type is {}",
            column.name(),
            SqlType::from_field(column)
        ))
        .with_hint("Numbers, texts, uuids, dates, times, booleans and bytea can."));
    }
    if from == *to {
        return Ok(key);
    }
    if from.is_integer() && to.is_integer() {
        // What is too large for the table's type meets nothing.
        let safe = datafusion::arrow::compute::CastOptions { safe: true, ..Default::default() };
        return Ok(Arc::new(CastExpr::new(key, DataType::clone(to), Some(safe))));
    }
    Err(Error::unsupported(format!(
        "the key of a lookup in \"{table}\" must have the type of column \"{}\", {}",
        column.name(),
        SqlType::from_field(column)
    ))
    .with_hint("Cast the other side to it."))
}

/// The same expression over columns that lie elsewhere: column `i` at `places[i]`.
fn moved(expr: Arc<dyn PhysicalExpr>, places: &[usize]) -> Result<Arc<dyn PhysicalExpr>> {
    let moved = expr.transform_up(|e| match e.downcast_ref::<Column>() {
        Some(column) => {
            let column = Column::new(column.name(), places[column.index()]);
            Ok(Transformed::yes(Arc::new(column) as Arc<dyn PhysicalExpr>))
        }
        None => Ok(Transformed::no(e)),
    });
    Ok(moved?.data)
}

/// Why a table of another system cannot be an input.
pub fn not_followed(name: &str) -> Error {
    Error::unsupported(format!(
        "\"{name}\" is a table of another system, whose changes nobody tells of: what is kept up to date cannot follow it"
    ))
    .with_hint(
        "Meet its rows as they are when a row comes: JOIN .. FOR SYSTEM_TIME AS OF proctime() ON key = .. . Or load it into a table \
         here, with a pipeline, and read that.",
    )
}
