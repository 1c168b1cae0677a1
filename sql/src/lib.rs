//! Text -> statements -> plans.
//!
//! ```text
//!   text ──grammar──▶ ast::Parsed ──planner──▶ LogicalPlan ──lower──▶ Dataflow     (views, sinks)
//!                                                   └──DataFusion──▶ rows           (SELECT)
//! ```
//!
//! Architecture invariant: no I/O, and no knowledge of how anything is stored.

mod aggregate_order;
mod asof;
pub mod ast;
mod column_names;
mod date_bounds;
mod distinct_on;
pub mod functions;
pub mod grammar;
mod grouping_keys;
pub mod lateral;
mod literals;
pub mod lower;
pub mod optimizer;
mod order_names;
mod outer_types;
mod partition_keys;
pub mod planner;
pub mod relation;
mod rows;
mod set_operations;
pub mod subqueries;
mod ttl;
mod using;
