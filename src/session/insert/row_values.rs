//! The rows of VALUES: literals and parameters are read as they stand, all other expressions are computed together.
//!
//! ```text
//!   (1, 'x', DEFAULT), ($1, lower('Y'), 3) ──▶ cells ──▶ an array a column
//!                            └─ computed ─▶ SELECT e0, e1, ..     with parameters, planned once
//! ```

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, RecordBatch, new_null_array};
use datafusion::arrow::compute::concat;
use datafusion::arrow::datatypes::DataType;
use datafusion::scalar::ScalarValue;
use datafusion::sql::sqlparser::ast as sql;
use tidemark_catalog::Column;
use tidemark_common::types::SqlType;
use tidemark_common::{Error, Result, SqlState};

use super::Insertion;
use crate::query::{Names, OneRow, has_subquery, types_of};
use crate::session::assign::{self, Source};
use crate::session::dml::{Writer, default_of, is_default, parameter_position, select_query};
use crate::session::plans::{Kept, MadeFor};
use crate::session::{select, with_parameters};

/// Expressions of one SELECT that computes cells.
const COMPUTED_AT_ONCE: usize = 128;

/// A value with the type it has by itself.
type Cell = (ScalarValue, Source);

enum Given {
    Cell(Cell),
    /// Place among the computed ones.
    Computed(usize),
}

/// Expressions that are computed again and again with other parameters.
pub struct ValuesRow {
    row: OneRow,
    sources: Vec<Source>,
}

/// What the session keeps of them.
pub(super) struct KeptRows<'a> {
    pub rows: &'a mut Kept<ValuesRow>,
    pub settings: u64,
}

/// The rows, if the query is VALUES and nothing else.
pub(super) fn of(query: &sql::Query) -> Option<&[sql::Parens<Vec<sql::Expr>>]> {
    let plain = query.with.is_none()
        && query.order_by.is_none()
        && query.limit_clause.is_none()
        && query.fetch.is_none()
        && query.locks.is_empty();
    match query.body.as_ref() {
        sql::SetExpr::Values(values) if plain => Some(&values.rows),
        _ => None,
    }
}

/// One array of the column's own type for each of the insertion's positions.
pub(super) async fn arrays(
    names: &Names,
    kept: KeptRows<'_>,
    insertion: &Insertion,
    rows: &[sql::Parens<Vec<sql::Expr>>],
    parameters: &[ScalarValue],
) -> Result<Vec<ArrayRef>> {
    let (writer, positions) = (&insertion.writer, &insertion.positions);
    let mut columns: Vec<Vec<Given>> = positions.iter().map(|_| Vec::with_capacity(rows.len())).collect();
    let mut exprs = Vec::new();
    for row in rows {
        for ((column, position), expr) in columns.iter_mut().zip(positions).zip(&row.content) {
            let of = &writer.columns()[*position];
            let default = is_default(expr);
            if !default {
                insertion.refuse_generated(*position)?;
            }
            let default = if insertion.ignores(*position) {
                Some(sql::Expr::Value(sql::Value::Null.into()))
            } else {
                default.then(|| default_of(of)).transpose()?
            };
            let expr = default.as_ref().unwrap_or(expr);
            column.push(match literal(expr, of, parameters)? {
                Some(cell) => Given::Cell(cell),
                None => {
                    exprs.push(expr.clone());
                    Given::Computed(exprs.len() - 1)
                }
            });
        }
    }
    let computed = compute(names, kept, exprs, parameters).await?;
    columns
        .into_iter()
        .zip(positions)
        .map(|(cells, at)| {
            let cells: Vec<Cell> = cells.into_iter().map(|cell| cell.value(&computed)).collect();
            let typed = cells.iter().filter(|(value, _)| !value.is_null()).map(|(_, source)| source);
            let taken = match &writer.normalizer {
                Some(normalizer) => normalizer.takes_all(*at, &typed.collect::<Vec<_>>())?,
                None => None,
            };
            match taken {
                Some((column, taken)) => writer.normalized(*at, taken, array(cells, &column, writer)?),
                None => array(cells, &writer.columns()[*at], writer),
            }
        })
        .collect()
}

impl Given {
    fn value(self, computed: &[Cell]) -> Cell {
        match self {
            Given::Cell(cell) => cell,
            Given::Computed(at) => computed[at].clone(),
        }
    }
}

fn array(cells: Vec<Cell>, column: &Column, writer: &Writer) -> Result<ArrayRef> {
    let mut values = Vec::with_capacity(cells.len());
    let mut sources: Vec<Source> = Vec::with_capacity(cells.len());
    for (value, source) in cells {
        assign::check(&source, column)?;
        values.push(value);
        sources.push(source);
    }
    // Most often all are of one type, or NULL.
    let mut typed = values.iter().zip(&sources).filter(|(v, _)| v.data_type() != DataType::Null);
    let convert =
        |array: &ArrayRef, source: &Source| assign::convert(array, &source.sql_type, &column.sql_type, &writer.style);
    let Some((first, source)) = typed.next() else {
        return Ok(new_null_array(&column.sql_type.data_type(), values.len()));
    };
    let first_type = first.data_type();
    if typed.all(|(v, s)| v.data_type() == first_type && s == source) {
        let source = source.clone();
        let typed_null = ScalarValue::try_from(&first_type)?;
        let values = values.into_iter().map(|v| if v.data_type() == DataType::Null { typed_null.clone() } else { v });
        return convert(&ScalarValue::iter_to_array(values)?, &source);
    }
    let converted = values
        .iter()
        .zip(&sources)
        .map(|(value, source)| convert(&value.to_array()?, source))
        .collect::<Result<Vec<_>>>()?;
    let refs: Vec<&dyn Array> = converted.iter().map(|a| a.as_ref()).collect();
    Ok(concat(&refs)?)
}

/// A value that needs no planning.
fn literal(expr: &sql::Expr, column: &Column, parameters: &[ScalarValue]) -> Result<Option<Cell>> {
    let text = |text: &str| Some((ScalarValue::Utf8(Some(text.to_string())), Source::unknown()));
    Ok(match expr {
        sql::Expr::Nested(inner) => literal(inner, column, parameters)?,
        sql::Expr::UnaryOp { op: sql::UnaryOperator::Minus, expr } => match expr.as_ref() {
            sql::Expr::Value(value) => match &value.value {
                sql::Value::Number(digits, _) => number(&format!("-{digits}"), column),
                _ => None,
            },
            _ => None,
        },
        sql::Expr::Value(value) => match &value.value {
            sql::Value::SingleQuotedString(s) | sql::Value::EscapedStringLiteral(s) => text(s),
            sql::Value::DollarQuotedString(s) => text(&s.value),
            sql::Value::Null => Some((ScalarValue::Null, Source::unknown())),
            sql::Value::Boolean(b) => {
                Some((ScalarValue::Boolean(Some(*b)), Source { sql_type: SqlType::Boolean, unknown: false }))
            }
            sql::Value::Number(digits, _) => number(digits, column),
            sql::Value::Placeholder(name) => Some(parameter(name, parameters)?),
            _ => None,
        },
        _ => None,
    })
}

fn number(digits: &str, column: &Column) -> Option<Cell> {
    if let Ok(value) = digits.parse::<i64>() {
        let small = i32::try_from(value).is_ok();
        let is_number = matches!(
            column.sql_type,
            SqlType::SmallInt
                | SqlType::Integer
                | SqlType::BigInt
                | SqlType::Numeric(_)
                | SqlType::Double
                | SqlType::Real
        );
        // For a column of numbers all integers are alike, so that they are one array.
        let sql_type = if small && !is_number { SqlType::Integer } else { SqlType::BigInt };
        return Some((ScalarValue::Int64(Some(value)), Source { sql_type, unknown: false }));
    }
    // The column's own input syntax takes all digits of it.
    matches!(column.sql_type, SqlType::Numeric(_) | SqlType::Double | SqlType::Real)
        .then(|| (ScalarValue::Utf8(Some(digits.to_string())), Source::unknown()))
}

fn parameter(name: &str, parameters: &[ScalarValue]) -> Result<Cell> {
    let value = parameter_position(name)
        .and_then(|at| parameters.get(at))
        .ok_or_else(|| Error::new(SqlState::UndefinedParameter, format!("there is no parameter {name}")))?;
    let sql_type = SqlType::from_data_type(&value.data_type());
    let unknown = matches!(sql_type, SqlType::Text);
    Ok((value.clone(), Source { sql_type, unknown }))
}

async fn compute(
    names: &Names,
    mut kept: KeptRows<'_>,
    exprs: Vec<sql::Expr>,
    parameters: &[ScalarValue],
) -> Result<Vec<Cell>> {
    let mut computed = Vec::with_capacity(exprs.len());
    for chunk in exprs.chunks(COMPUTED_AT_ONCE) {
        if let Some(known) = kept.values_row(names, chunk, parameters)? {
            computed.extend(cells(&known.row.row(parameters)?, &known.sources)?);
            continue;
        }
        let query = select_of(chunk)?;
        let plan = if chunk.iter().any(has_subquery) { names.plan(&query)? } else { names.plan_here(&query)? };
        let plan = with_parameters(plan, parameters)?;
        let sources = Source::of_plan(&plan);
        let batch = match OneRow::of(names, &plan, vec![])? {
            Some(row) => row.row(&[])?,
            None => {
                let batches = select::collect(names, plan).await?;
                batches.into_iter().next().ok_or_else(|| Error::internal("an expression in VALUES has no value"))?
            }
        };
        computed.extend(cells(&batch, &sources)?);
    }
    Ok(computed)
}

impl KeptRows<'_> {
    /// `None`: the expressions have to be planned with the values, or are not worth keeping.
    fn values_row(
        &mut self,
        names: &Names,
        exprs: &[sql::Expr],
        parameters: &[ScalarValue],
    ) -> Result<Option<Arc<ValuesRow>>> {
        if parameters.is_empty() || exprs.iter().any(has_subquery) {
            return Ok(None);
        }
        let text: String = exprs.iter().map(|expr| format!("{expr},")).collect();
        if let Some(known) = self.rows.get(&text, &names.catalog, self.settings, parameters) {
            return Ok(known.clone());
        }
        let plan = names.plan_here(&select_of(exprs)?)?;
        // What does not plan by types alone is reported, or planned, with the values.
        let row = OneRow::of(names, &plan, types_of(parameters)).unwrap_or(None).filter(OneRow::is_lasting);
        let sources = Source::of_plan(&with_parameters(plan, parameters)?);
        let made = row.map(|row| Arc::new(ValuesRow { row, sources }));
        let made_for = MadeFor::new(names.catalog.clone(), self.settings, parameters);
        self.rows.put(&text, made_for, made.clone());
        Ok(made)
    }
}

fn select_of(exprs: &[sql::Expr]) -> Result<sql::Query> {
    let items = exprs.iter().enumerate().map(|(i, expr)| sql::SelectItem::ExprWithAlias {
        expr: expr.clone(),
        alias: sql::Ident::new(format!("e{i}")),
    });
    select_query(items.collect(), vec![], None)
}

fn cells(row: &RecordBatch, sources: &[Source]) -> Result<Vec<Cell>> {
    let cell = |(column, source): (&ArrayRef, &Source)| Ok((ScalarValue::try_from_array(column, 0)?, source.clone()));
    row.columns().iter().zip(sources).map(cell).collect()
}
