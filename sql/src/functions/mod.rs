//! Functions: Postgres' own that DataFusion lacks or does otherwise, and Tidemark's windows.
//!
//! ```text
//!   SQL ──planner (operators, EXTRACT)──▶ function by name ──▶ declare.rs: one row at a time, or an own vectorised kernel
//! ```
//!
//! [`register`] is called once for all sessions, [`session_functions`] once a session. What is not here is DataFusion's, and
//! `parity.txt` says of both how they compare with PostgreSQL.

mod aggregates;
mod arithmetic;
mod arrays;
mod binary;
mod calendar;
mod casts;
mod clock;
mod date_trunc;
mod datetime;
mod declare;
pub(crate) mod epoch_clock;
mod extract;
mod format_number;
mod format_time;
mod input;
mod json;
mod json_access;
mod json_edit;
mod math;
mod names;
mod numbering;
mod output;
#[cfg(test)]
mod parity;
mod planner;
mod ratio;
mod read_time;
mod regexp;
mod rewrite;
mod row;
mod session;
mod session_windows;
mod strings;
mod system;
mod text;
mod to_char;
mod value;
mod windows;

use std::sync::Arc;

use datafusion::execution::FunctionRegistry;
use datafusion::logical_expr::ScalarUDF;
use tidemark_common::Result;

pub use arrays::parse_text_array;
pub use binary::parse_bytea;
pub use casts::{ASSIGN_CHAR, ASSIGN_VARCHAR, TO_CHAR, TO_JSON, TO_JSONB, TO_NUMERIC, TO_UUID, TO_VARCHAR};
pub use clock::Clock;
pub use epoch_clock::{AS_OF, ASOF, CURRENT, clock_at, current_function, epoch_clock};
pub use input::{parse_date, parse_time, parse_timestamp, parse_timestamptz};
pub use json_access::{
    JSON_GET, JSON_GET_PATH, JSON_GET_PATH_TEXT, JSON_GET_TEXT, JSONB_CONTAINS, JSONB_EXISTS, JSONB_EXISTS_ALL,
    JSONB_EXISTS_ANY,
};
pub use output::text_of;
pub use planner::expr_planners;
pub use rewrite::interval_literal;
pub use session::{SessionFacts, session_functions};
pub use session_windows::{SESSION_END, SESSION_START, session_end_function};
pub use strings::{quote_ident, quote_literal};
pub use system::POSTGRES_VERSION;
pub use windows::{
    CUMULATE_ENDS, HOP_STARTS, MAX_WINDOWS_PER_ROW, Span, TUMBLE_END, TUMBLE_START, WINDOW_END, pane_start_function,
    paned,
};

/// Every function that is the same for all sessions.
pub fn functions() -> Vec<ScalarUDF> {
    [
        arithmetic::functions(),
        ratio::functions(),
        windows::functions(),
        casts::functions(),
        clock::functions(),
        epoch_clock::functions(),
        json_access::functions(),
        arrays::functions(),
        regexp::functions(),
        strings::functions(),
        binary::functions(),
        date_trunc::functions(),
        datetime::functions(),
        extract::functions(),
        json_edit::functions(),
        input::functions(),
        rewrite::functions(),
        math::functions(),
        system::functions(),
        to_char::functions(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Registers [`functions`], over DataFusion's of the same name, and the rule for Postgres' casts. Operators are planned by
/// [`expr_planners`], which the session's builder must be given because ours come first.
pub fn register(registry: &mut dyn FunctionRegistry) -> Result<()> {
    for function in functions() {
        registry.register_udf(Arc::new(function))?;
    }
    // The standard's name of bool_and.
    let every = datafusion::functions_aggregate::bool_and_or::bool_and_udaf().as_ref().clone().with_aliases(["every"]);
    registry.register_udaf(Arc::new(every))?;
    for function in aggregates::functions() {
        registry.register_udaf(Arc::new(function))?;
    }
    for function in numbering::functions().into_iter().chain(session_windows::functions()) {
        registry.register_udwf(Arc::new(function))?;
    }
    registry.register_function_rewrite(Arc::new(rewrite::PostgresCasts::new()))?;
    Ok(())
}
