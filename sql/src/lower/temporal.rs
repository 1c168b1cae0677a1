//! Conditions on the clock: rows that are there for a time only.
//!
//! ```text
//!   Filter  v > 0 AND ts > now() - '1 hour'        Temporal Filter  ts > now - '1 hour'
//!     t                                     ──▶      Exchange by ts
//!                                                      Filter  v > 0
//!                                                        t
//! ```
//!
//! One side is of the row, the other of the clock alone and never falls as time passes: so a row comes once and leaves once.

use std::collections::BTreeSet;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use datafusion::common::DFSchema;
use datafusion::logical_expr::utils::{conjunction, split_conjunction};
use datafusion::logical_expr::{BinaryExpr, Expr, Operator, Projection};
use datafusion::scalar::ScalarValue;
use tidemark_common::plan::{self, CLOCK, Keeps, NodeId, Op, Properties, clock_schema, clock_type};
use tidemark_common::{Error, Result};

use super::{Lowering, watermark};
use crate::functions::epoch_clock::{PROCTIME, clock_call, micros_interval, over_clock};

/// `row operator clock`.
struct Comparison {
    row: Expr,
    operator: Operator,
    clock: Expr,
}

impl Lowering {
    pub(super) fn filter(&mut self, input: NodeId, predicate: &Expr, schema: &DFSchema) -> Result<NodeId> {
        let (mut plain, mut temporal) = (Vec::new(), Vec::new());
        for part in split_conjunction(predicate) {
            match clock_call(part)? {
                Some(_) if is_time_there(part) => {}
                Some(_) => temporal.push(part),
                None => plain.push(part.clone()),
            }
        }
        let mut node = input;
        if let Some(predicate) = conjunction(plain) {
            let predicate = self.physical(&predicate, schema)?;
            let (schema, properties) = (self.schema(input).clone(), self.properties(input).clone());
            node = self.add(Op::Filter { predicate }, vec![input], schema, properties);
        }
        for part in temporal {
            for comparison in comparisons(part)? {
                node = self.temporal(node, &comparison, schema)?;
            }
        }
        Ok(node)
    }

    fn temporal(&mut self, input: NodeId, comparison: &Comparison, schema: &DFSchema) -> Result<NodeId> {
        let clock = over_clock(comparison.clock.clone())?;
        let bound = self.physical(&clock, &DFSchema::try_from(clock_schema().as_ref().clone())?)?;
        if !watermark::carries(&bound, &BTreeSet::from([0])) {
            return Err(refused(&format!("{} may fall as time passes", comparison.clock)).with_detail(
                "A month before now may be later today than tomorrow, at the end of a month; days are all alike.",
            ));
        }
        let row = self.physical(&comparison.row, schema)?;
        let of_row = row.data_type(self.schema(input))?;
        let known = matches!(of_row, DataType::Timestamp(TimeUnit::Microsecond, _) | DataType::Date32);
        if !known || of_row != bound.data_type(&clock_schema())? {
            return Err(refused(&format!("{} is not compared with a time of its own type", comparison.row)));
        }
        let width = self.schema(input).fields().len();
        let (mut node, columns) = self.with_columns(input, &[row])?;
        let column = columns[0];
        for (keeps, or_equal) in directions(comparison.operator)? {
            let (schema, properties) = (self.schema(node).clone(), self.properties(node).clone());
            node = self.add(Op::Exchange { keys: vec![column] }, vec![node], schema.clone(), properties.clone());
            let properties = Properties {
                append_only: properties.append_only && keeps == Keeps::Below,
                key: properties.key,
                watermarks: BTreeSet::new(),
            };
            let op = Op::Temporal(plan::Temporal { column, bound: Arc::clone(&bound), keeps, or_equal });
            node = self.add(op, vec![node], schema, properties);
        }
        if self.schema(node).fields().len() == width {
            return Ok(node);
        }
        let schema = Arc::new(self.schema(node).project(&(0..width).collect::<Vec<_>>())?);
        let columns = super::join::column_exprs(&schema);
        Ok(self.project(node, columns, schema))
    }

    /// A projection with proctime(): the time of the epoch becomes a column first.
    pub(super) fn with_clock(
        &mut self,
        projection: &Projection,
        input: NodeId,
        schema: &DFSchema,
    ) -> Result<Option<NodeId>> {
        let mut asks = false;
        for expr in &projection.expr {
            asks |= clock_call(expr)?.is_some_and(|name| name == PROCTIME);
        }
        if !asks {
            return Ok(None);
        }
        let properties = self.properties(input).clone();
        if !properties.append_only {
            return Err(Error::unsupported("proctime() over rows that change is not supported")
                .with_detail("A row that is taken back would have to be found with the time at which it came.")
                .with_hint("Use proctime() over sources and other inputs that only grow, or a column of event time."));
        }
        let clock = Field::new(CLOCK, clock_type(), false);
        let mut fields: Vec<Field> = self.schema(input).fields().iter().map(|f| f.as_ref().clone()).collect();
        let column = fields.len();
        fields.push(clock.clone());
        let mut watermarks = properties.watermarks;
        watermarks.insert(column);
        let with_clock = Properties { append_only: true, key: properties.key, watermarks };
        let node = self.add(Op::Clock, vec![input], Arc::new(Schema::new(fields)), with_clock);
        let schema = schema.join(&DFSchema::try_from(Schema::new(vec![clock]))?)?;
        let exprs = projection.expr.iter().map(|expr| self.physical(&over_clock(expr.clone())?, &schema));
        let exprs = exprs.collect::<Result<Vec<_>>>()?;
        Ok(Some(self.project(node, exprs, Arc::new(projection.schema.as_arrow().clone()))))
    }
}

/// The parts of a condition that do not ask the clock, and those that do.
pub(super) fn without_clock(condition: Option<Expr>) -> Result<(Option<Expr>, Option<Expr>)> {
    let (mut plain, mut temporal) = (Vec::new(), Vec::new());
    for part in condition.iter().flat_map(split_conjunction) {
        match clock_call(part)? {
            Some(_) => temporal.push(part.clone()),
            None => plain.push(part.clone()),
        }
    }
    Ok((conjunction(plain), conjunction(temporal)))
}

/// Which conditions a comparison of the row with the clock is.
fn directions(operator: Operator) -> Result<Vec<(Keeps, bool)>> {
    Ok(match operator {
        Operator::Gt => vec![(Keeps::Above, false)],
        Operator::GtEq => vec![(Keeps::Above, true)],
        Operator::Lt => vec![(Keeps::Below, false)],
        Operator::LtEq => vec![(Keeps::Below, true)],
        Operator::Eq => vec![(Keeps::Below, true), (Keeps::Above, true)],
        other => return Err(refused(&format!("{other} is no order"))),
    })
}

/// `proctime() IS NOT NULL`, as the windows ask it.
fn is_time_there(part: &Expr) -> bool {
    matches!(part, Expr::IsNotNull(inner) if inner.column_refs().is_empty())
}

fn comparisons(part: &Expr) -> Result<Vec<Comparison>> {
    match part {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => Ok(vec![comparison(left, *op, right)?]),
        Expr::Between(between) if !between.negated => Ok(vec![
            comparison(&between.expr, Operator::GtEq, &between.low)?,
            comparison(&between.expr, Operator::LtEq, &between.high)?,
        ]),
        other => Err(refused(&format!("{other} is no comparison of its own"))),
    }
}

fn comparison(left: &Expr, operator: Operator, right: &Expr) -> Result<Comparison> {
    if clock_call(left)?.is_some() && clock_call(right)?.is_none() {
        let turned = operator.swap().ok_or_else(|| refused(&format!("{operator} is no order")))?;
        return match difference(left, turned, right)? {
            Some(comparison) => Ok(comparison),
            None => of_clock(right, turned, left),
        };
    }
    if clock_call(left)?.is_none() {
        return match difference(right, operator, left)? {
            Some(comparison) => Ok(comparison),
            None => of_clock(left, operator, right),
        };
    }
    Err(refused("both sides ask the clock"))
}

fn of_clock(row: &Expr, operator: Operator, clock: &Expr) -> Result<Comparison> {
    if !clock.column_refs().is_empty() {
        return Err(refused(&format!("{clock} mixes the row and the clock")));
    }
    Ok(Comparison { row: row.clone(), operator, clock: clock.clone() })
}

/// `constant operator a - b`, one of them of the row and the other of the clock, with a constant interval.
fn difference(order: &Expr, operator: Operator, constant: &Expr) -> Result<Option<Comparison>> {
    let Some(micros) = micros_of(constant) else { return Ok(None) };
    let Some([difference]) = arguments(order, "tidemark_interval_order") else { return Ok(None) };
    let Some([a, b]) = arguments(difference, "tidemark_timestamp_diff") else { return Ok(None) };
    let interval = || Box::new(micros_interval(micros));
    let moved = |expr: &Expr, op| Expr::BinaryExpr(BinaryExpr { left: Box::new(expr.clone()), op, right: interval() });
    if clock_call(b)?.is_none() {
        // c < a - b  is  b < a - c
        return of_clock(b, operator, &moved(a, Operator::Minus)).map(Some);
    }
    // c < a - b  is  a > b + c
    let turned = operator.swap().ok_or_else(|| refused(&format!("{operator} is no order")))?;
    of_clock(a, turned, &moved(b, Operator::Plus)).map(Some)
}

fn arguments<'a, const N: usize>(expr: &'a Expr, function: &str) -> Option<&'a [Expr; N]> {
    match expr {
        Expr::ScalarFunction(call) if call.func.name() == function => call.args.as_slice().try_into().ok(),
        _ => None,
    }
}

/// A whole number of microseconds.
fn micros_of(constant: &Expr) -> Option<i64> {
    let Expr::Literal(ScalarValue::Decimal128(Some(value), _, scale), _) = constant else { return None };
    let unit = 10i128.checked_pow(u32::try_from(*scale).ok()?)?;
    (value % unit == 0).then(|| i64::try_from(value / unit).ok()).flatten()
}

fn refused(why: &str) -> Error {
    Error::unsupported(format!("this condition on the clock cannot be kept up to date: {why}")).with_hint(
        "Write conditions on now() as comparisons of their own, tied by AND, such as ts > now() - INTERVAL '1 hour'.",
    )
}
