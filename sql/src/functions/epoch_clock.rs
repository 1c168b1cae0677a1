//! The clock as views see it: functions that stand for the time of the epoch.
//!
//! ```text
//!   WHERE ts > now() - INTERVAL '1 hour'    a view is planned with these functions, which are never called:
//!              └─ volatile, so it stays      the dataflow puts the epoch's time in their place
//! ```

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Result as DfResult, ScalarValue};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility, cast, lit,
};
use datafusion::prelude::col;
use tidemark_common::Error;
use tidemark_common::plan::CLOCK;
use tidemark_common::types::SqlType;

use super::declare::{Kind, function};
use super::value::Value;

/// `ASOF JOIN b ON c` is spelled `JOIN b ON tidemark_asof() AND c`.
pub const ASOF: &str = "tidemark_asof";
/// `JOIN b FOR SYSTEM_TIME AS OF t ON c` is spelled `JOIN b ON tidemark_as_of(t) AND c`.
pub const AS_OF: &str = "tidemark_as_of";
/// In a dataflow, of such a join as of proctime().
pub const CURRENT: &str = "tidemark_current";
/// The time at which a row is processed.
pub const PROCTIME: &str = "proctime";

const NAMES: [(&str, Kind); 8] = [
    ("now", Kind::TimestampTz),
    ("current_timestamp", Kind::TimestampTz),
    ("transaction_timestamp", Kind::TimestampTz),
    ("statement_timestamp", Kind::TimestampTz),
    ("localtimestamp", Kind::Timestamp),
    ("current_date", Kind::Date),
    ("today", Kind::Date),
    (PROCTIME, Kind::TimestampTz),
];

/// What the conditions of joins with versions call; they are gone from a plan before it runs.
pub(super) fn functions() -> Vec<ScalarUDF> {
    let uncalled = |_: &super::declare::Row<'_>| Err(Error::internal("a join with versions was not planned as one"));
    vec![
        function(ASOF).volatile().on(&[], Kind::Bool, uncalled).udf(),
        function(AS_OF)
            .volatile()
            .on(&[Kind::TimestampTz], Kind::Bool, uncalled)
            .on(&[Kind::Timestamp], Kind::Bool, uncalled)
            .udf(),
    ]
}

/// [`CURRENT`], of any columns.
pub fn current_function() -> Arc<ScalarUDF> {
    Arc::new(ScalarUDF::new_from_impl(Current { signature: Signature::variadic_any(Volatility::Volatile) }))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Current {
    signature: Signature,
}

impl ScalarUDFImpl for Current {
    fn name(&self) -> &str {
        CURRENT
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> DfResult<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, _arguments: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        Err(Error::internal("a join as of the present was not planned as one").into())
    }
}

/// For the planning of dataflows, by name.
pub fn epoch_clock() -> HashMap<String, Arc<ScalarUDF>> {
    declared(|name, kind| {
        let uncalled = move |_: &super::declare::Row<'_>| {
            Err(Error::internal(format!("{name}() in a dataflow was not replaced by the time of the epoch")))
        };
        function(name).volatile().on(&[], kind, uncalled).udf()
    })
}

/// The same functions for a batch that is to see the time that an epoch had, in microseconds.
pub fn clock_at(micros: i64) -> HashMap<String, Arc<ScalarUDF>> {
    declared(|name, kind| {
        let value = if kind == Kind::Date { micros.div_euclid(86_400_000_000) } else { micros };
        function(name).stable().on(&[], kind, move |_| Ok(Value::Int(value))).udf()
    })
}

fn declared(of: impl Fn(&'static str, Kind) -> ScalarUDF) -> HashMap<String, Arc<ScalarUDF>> {
    NAMES.into_iter().map(|(name, kind)| (name.to_string(), Arc::new(of(name, kind)))).collect()
}

/// Whether a function of that name, without arguments, tells the time.
pub fn asks_clock(name: &str) -> bool {
    NAMES.iter().any(|(known, _)| *known == name)
}

/// The name of a function of [`epoch_clock`] that `expr` calls.
fn called(expr: &Expr) -> Option<&str> {
    let Expr::ScalarFunction(call) = expr else { return None };
    let name = call.func.name();
    let ours = call.args.is_empty() && call.func.signature().volatility == Volatility::Volatile;
    NAMES.iter().find(|(known, _)| ours && *known == name).map(|(known, _)| *known)
}

/// The function of the clock that is called somewhere in `expr`.
pub fn clock_call(expr: &Expr) -> DfResult<Option<String>> {
    let mut found = None;
    expr.apply(|e| {
        found = found.take().or_else(|| called(e).map(str::to_string));
        Ok(datafusion::common::tree_node::TreeNodeRecursion::Continue)
    })?;
    Ok(found)
}

/// The expression over a column of the clock in place of the functions.
pub fn over_clock(expr: Expr) -> DfResult<Expr> {
    let replaced = expr.transform_up(|e| {
        let Some(name) = called(&e) else { return Ok(Transformed::no(e)) };
        let clock = col(CLOCK);
        Ok(Transformed::yes(match name {
            "localtimestamp" => cast(clock, SqlType::Timestamp.data_type()),
            "current_date" | "today" => cast(clock, SqlType::Date.data_type()),
            _ => clock,
        }))
    })?;
    Ok(replaced.data)
}

/// `INTERVAL` of so many microseconds.
pub fn micros_interval(micros: i64) -> Expr {
    lit(ScalarValue::new_interval_mdn(0, 0, micros.saturating_mul(1000)))
}
