//! Columns that an operator finds its keys in: those that are there, and behind them what a key computes.

use std::sync::Arc;

use datafusion::arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::common::DFSchema;
use datafusion::logical_expr::{Expr, SortExpr};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use tidemark_common::Result;
use tidemark_common::plan::{NodeId, Op, SortKey};

use super::{Lowering, watermark};

/// The keys of an operator over ordered partitions, in the columns of `node`.
pub(super) struct Keys {
    pub node: NodeId,
    pub partition: Vec<usize>,
    pub order: Vec<SortKey>,
}

impl Lowering {
    /// `input`'s first columns are those of `schema`, over which the keys are. What they compute goes behind all its columns.
    pub(super) fn keys(
        &mut self,
        input: NodeId,
        partition: &[Expr],
        order: &[SortExpr],
        schema: &DFSchema,
    ) -> Result<Keys> {
        let width = self.schema(input).fields().len();
        let mut made: Vec<Arc<dyn PhysicalExpr>> = Vec::new();
        let mut position = |lowering: &Self, expr: &Expr| -> Result<usize> {
            let expr = lowering.physical(expr, schema)?;
            if let Some(column) = watermark::as_column(&expr) {
                return Ok(column);
            }
            if let Some(at) = made.iter().position(|m| m.eq(&expr)) {
                return Ok(width + at);
            }
            made.push(expr);
            Ok(width + made.len() - 1)
        };
        let mut columns = Vec::new();
        for expr in partition {
            let column = position(self, expr)?;
            if !columns.contains(&column) {
                columns.push(column);
            }
        }
        let mut keys: Vec<SortKey> = Vec::new();
        for sort in order {
            let column = position(self, &sort.expr)?;
            // Within a partition its own columns order nothing, and a column that comes again neither.
            if !columns.contains(&column) && keys.iter().all(|key| key.column != column) {
                keys.push(SortKey { column, descending: !sort.asc, nulls_first: sort.nulls_first });
            }
        }
        let node = if made.is_empty() { input } else { self.append(input, made)? };
        Ok(Keys { node, partition: columns, order: keys })
    }

    /// The input's columns and then `exprs`.
    fn append(&mut self, input: NodeId, exprs: Vec<Arc<dyn PhysicalExpr>>) -> Result<NodeId> {
        let before = self.schema(input).clone();
        let mut fields: Vec<Field> = before.fields().iter().map(|f| f.as_ref().clone()).collect();
        for expr in &exprs {
            let name = datafusion::physical_expr_common::physical_expr::fmt_sql(expr.as_ref()).to_string();
            fields.push(expr.return_field(&before)?.as_ref().clone().with_name(name));
        }
        let all = columns_of(&before).chain(exprs).collect();
        Ok(self.project(input, all, Arc::new(Schema::new(fields))))
    }

    /// Some columns of the input under the names of `schema`; nothing if they are all of them.
    pub(super) fn pick(&mut self, input: NodeId, columns: &[usize], schema: &SchemaRef) -> NodeId {
        let before = self.schema(input).clone();
        if columns.len() == before.fields().len() && columns.iter().enumerate().all(|(at, column)| at == *column) {
            return input;
        }
        let all: Vec<_> = columns_of(&before).collect();
        let picked = columns.iter().map(|&column| Arc::clone(&all[column])).collect();
        self.project(input, picked, Arc::clone(schema))
    }

    pub(super) fn exchange(&mut self, input: NodeId, keys: Vec<usize>) -> NodeId {
        let (schema, properties) = (self.schema(input).clone(), self.properties(input).clone());
        self.add(Op::Exchange { keys }, vec![input], schema, properties)
    }
}

fn columns_of(schema: &SchemaRef) -> impl Iterator<Item = Arc<dyn PhysicalExpr>> + use<'_> {
    let column = |(at, field): (usize, &Arc<Field>)| Arc::new(Column::new(field.name(), at)) as Arc<dyn PhysicalExpr>;
    schema.fields().iter().enumerate().map(column)
}
