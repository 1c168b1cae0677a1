//! OVER: functions with one PARTITION BY and ORDER BY are one operator, those with another one behind it.

use std::sync::Arc;

use datafusion::arrow::datatypes::Schema;
use datafusion::functions_window::lead_lag::lead_udwf;
use datafusion::logical_expr::expr::WindowFunction;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{Expr, SortExpr, Window, WindowFunctionDefinition};
use datafusion::physical_expr::window::WindowExpr;
use datafusion::physical_planner::create_window_expr;
use datafusion::scalar::ScalarValue;
use tidemark_common::plan::{self, NodeId, Op, Properties};
use tidemark_common::{Error, Result};

use super::{Lowering, watermark};
use crate::functions::{SESSION_END, SESSION_START, session_end_function};

/// Functions over the same rows in the same order.
struct Frame<'a> {
    partition: &'a [Expr],
    order: &'a [SortExpr],
    /// Numbers in the list of the logical node.
    functions: Vec<usize>,
}

impl Lowering {
    pub(super) fn over(&mut self, window: &Window) -> Result<NodeId> {
        let mut node = self.plan(&window.input)?;
        let width = window.input.schema().fields().len();
        let mut positions = vec![0; window.window_expr.len()];
        for frame in frames(&window.window_expr)? {
            let first;
            (node, first) = self.frame(node, window, &frame)?;
            frame.functions.iter().enumerate().for_each(|(at, &function)| positions[function] = first + at);
        }
        let schema = Arc::new(window.schema.as_arrow().clone());
        Ok(self.pick(node, &(0..width).chain(positions).collect::<Vec<_>>(), &schema))
    }

    /// The node, and where its functions' columns begin.
    fn frame(&mut self, input: NodeId, window: &Window, frame: &Frame<'_>) -> Result<(NodeId, usize)> {
        let keys = self.keys(input, frame.partition, frame.order, window.input.schema())?;
        let exchanged = self.exchange(keys.node, keys.partition.clone());
        let mut functions = frame
            .functions
            .iter()
            .map(|&function| self.window_expr(&window.window_expr[function], window))
            .collect::<Result<Vec<_>>>()?;
        let from = self.properties(exchanged).clone();
        // A row that comes changes what is said of earlier ones, in its partition.
        let watermarks = from.watermarks.iter().copied().filter(|column| keys.partition.contains(column)).collect();
        let mut properties = Properties { append_only: false, key: from.key, watermarks };
        let first = self.schema(exchanged).fields().len();
        let mut fields = self.schema(exchanged).fields().to_vec();
        let width = window.input.schema().fields().len();
        fields.extend(frame.functions.iter().map(|&f| {
            let field = &window.schema.fields()[width + f];
            match window_function(&window.window_expr[f]).map(|call| call.fun.name()) {
                Some(SESSION_START) => Arc::new(field.as_ref().clone().with_name("window_start")),
                Some(SESSION_END) => Arc::new(field.as_ref().clone().with_name("window_end")),
                _ => Arc::clone(field),
            }
        }));
        let time = keys.order.first().map(|key| key.column).filter(|column| from.watermarks.contains(column));
        let session_end = if time.is_some() { session_end(window, frame) } else { None };
        let until = match (time, session_end) {
            (Some(time), None) if is_next_time(window, frame) => {
                properties.watermarks.insert(first);
                Some(plan::Until { time, function: 0, emit_on_close: false })
            }
            (Some(time), None) => match next_time(window, frame) {
                // What comes changes what is said of later rows. One is needed until its successor can have no other before it.
                Some(next) => {
                    properties.watermarks.insert(time);
                    let next = self.window_expr(&next, window)?;
                    fields.push(next.field()?);
                    functions.push(next);
                    Some(plan::Until { time, function: functions.len() - 1, emit_on_close: false })
                }
                None => None,
            },
            (Some(time), Some(end)) => {
                let function = match end {
                    SessionEnd::At(function) => function,
                    // Nobody asks for it, but to know what is final.
                    SessionEnd::Like(start) => {
                        let end = self.window_expr(&start, window)?;
                        fields.push(end.field()?);
                        functions.push(end);
                        functions.len() - 1
                    }
                };
                properties.watermarks.insert(first + function);
                properties.append_only = self.emit_on_close;
                self.closes = true;
                Some(plan::Until { time, function, emit_on_close: self.emit_on_close })
            }
            _ => None,
        };
        let over = plan::Over {
            close: watermark::tightest(
                self.schema(exchanged),
                keys.partition.iter().copied().filter(|column| properties.watermarks.contains(column)),
            ),
            partition: keys.partition,
            order: keys.order,
            functions,
            until,
        };
        Ok((self.add(Op::Over(over), vec![exchanged], Arc::new(Schema::new(fields)), properties), first))
    }

    fn window_expr(&self, expr: &Expr, window: &Window) -> Result<Arc<dyn WindowExpr>> {
        let planning = PhysicalPlanningContext::default();
        let function = create_window_expr(expr, window.input.schema(), &self.props, &planning)?;
        // Whether a frame that moves can be computed shows when the function is made.
        if function.create_window_fn().is_err() {
            let name = window_function(expr).map_or_else(|| expr.to_string(), |f| f.fun.to_string());
            return Err(Error::unsupported(format!("{name} cannot be computed over this window frame"))
                .with_detail("The frame moves with the row, and the function cannot forget the rows that leave it.")
                .with_hint("Let the frame begin at UNBOUNDED PRECEDING."));
        }
        Ok(function)
    }
}

/// What an expression of a window node calls, its alias aside.
pub(super) fn window_function(expr: &Expr) -> Option<&WindowFunction> {
    match expr {
        Expr::Alias(alias) => window_function(&alias.expr),
        Expr::WindowFunction(function) => Some(function),
        _ => None,
    }
}

/// Where the end of a row's session is found.
enum SessionEnd {
    /// The function of the frame with this number.
    At(usize),
    /// A function to add.
    Like(Expr),
}

/// If a frame is nothing but sessions, all with one gap, over its order.
fn session_end(window: &Window, frame: &Frame<'_>) -> Option<SessionEnd> {
    let [order] = frame.order else { return None };
    let calls: Vec<&WindowFunction> =
        frame.functions.iter().map(|&f| window_function(&window.window_expr[f])).collect::<Option<_>>()?;
    let first = *calls.first()?;
    let is_session = |call: &WindowFunction| matches!(call.fun.name(), SESSION_START | SESSION_END);
    let is_one = calls.iter().all(|call| is_session(call) && call.params.args == first.params.args);
    if !is_one || !order.asc || first.params.args.first() != Some(&order.expr) {
        return None;
    }
    match calls.iter().position(|call| call.fun.name() == SESSION_END) {
        Some(at) => Some(SessionEnd::At(at)),
        None => {
            let fun = WindowFunctionDefinition::WindowUDF(session_end_function());
            Some(SessionEnd::Like(Expr::from(WindowFunction { fun, params: first.params.clone() })))
        }
    }
}

/// If all that a frame asks is the time of the next row, in the order of time: `lead(ts) OVER (PARTITION BY k ORDER BY ts)`. It is
/// final when it lies below the watermark, since no row comes between any more.
fn is_next_time(window: &Window, frame: &Frame<'_>) -> bool {
    let ([order, ..], [function]) = (frame.order, frame.functions.as_slice()) else { return false };
    let Some(call) = neighbour(window, *function, "lead") else { return false };
    is_in_time(order) && call.params.args.first() == Some(&order.expr)
}

/// If all that a frame asks is of the row before, in the order of time: the function that gives the time of the next one.
fn next_time(window: &Window, frame: &Frame<'_>) -> Option<Expr> {
    let order = frame.order.first().filter(|order| is_in_time(order))?;
    let calls = frame.functions.iter().map(|&function| neighbour(window, function, "lag"));
    let first = calls.collect::<Option<Vec<_>>>()?.into_iter().next()?;
    let mut params = first.params.clone();
    params.args = vec![order.expr.clone()];
    params.null_treatment = None;
    Some(Expr::from(WindowFunction { fun: WindowFunctionDefinition::WindowUDF(lead_udwf()), params }))
}

fn is_in_time(order: &SortExpr) -> bool {
    order.asc && !order.nulls_first
}

/// `lag(..)` or `lead(..)` by one row, without a default.
fn neighbour<'a>(window: &'a Window, function: usize, name: &str) -> Option<&'a WindowFunction> {
    let call = window_function(&window.window_expr[function]).filter(|call| call.fun.name() == name)?;
    let is_one = |offset: &Expr| matches!(offset, Expr::Literal(ScalarValue::Int64(Some(1)), _));
    let is_null = |default: &Expr| matches!(default, Expr::Literal(value, _) if value.is_null());
    let (offset, default) = (call.params.args.get(1), call.params.args.get(2));
    let plain = offset.is_none_or(is_one) && default.is_none_or(is_null);
    (plain && call.params.null_treatment.is_none() && call.params.filter.is_none()).then_some(call)
}

fn frames(functions: &[Expr]) -> Result<Vec<Frame<'_>>> {
    let mut frames: Vec<Frame<'_>> = Vec::new();
    for (number, expr) in functions.iter().enumerate() {
        let Some(function) = window_function(expr) else {
            return Err(Error::internal(format!("{expr} is not a window function")));
        };
        let (partition, order) = (function.params.partition_by.as_slice(), function.params.order_by.as_slice());
        match frames.iter_mut().find(|f| f.partition == partition && f.order == order) {
            Some(frame) => frame.functions.push(number),
            None => frames.push(Frame { partition, order, functions: vec![number] }),
        }
    }
    Ok(frames)
}
