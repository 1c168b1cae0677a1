//! Aggregate functions that PostgreSQL has and DataFusion has not, or with other types.
//!
//! ```text
//!   sum, avg ─▶ integers and numerics: exact (sum.rs, exact.rs);  anything else: DataFusion's
//!   json_agg, json_object_agg ─▶ array_agg's accumulators, and its lists as JSON (json.rs)
//!   string_agg ─▶ DataFusion's, in any number of orders (string_agg.rs)
//!   mode() WITHIN GROUP (ORDER BY x) ─▶ how often each value is there (mode.rs)
//! ```
//!
//! They are ordinary `AggregateUDF`s, so the engine runs them in views as it does all others.

mod exact;
pub(super) mod integers;
mod json;
mod mode;
mod small;
mod string_agg;
mod sum;

pub(super) use json::in_zone as json_in_zone;

use datafusion::functions_aggregate::variance::var_samp_udaf;
use datafusion::logical_expr::AggregateUDF;

pub(super) fn functions() -> Vec<AggregateUDF> {
    let named = [var_samp_udaf().as_ref().clone().with_aliases(["variance"])];
    let own = [sum::functions(), json::functions(), mode::functions(), string_agg::functions()];
    own.into_iter().flatten().chain(named).collect()
}
