//! Text -> statements -> plans.
//!
//! ```text
//!   text ──grammar──▶ ast::Parsed ──planner──▶ LogicalPlan ──lower──▶ Dataflow     (views, sinks)
//!                                                   └──DataFusion──▶ rows           (SELECT)
//! ```
//!
//! Architecture invariant: no I/O, and no knowledge of how anything is stored.

pub mod ast;
mod distinct_on;
pub mod functions;
pub mod grammar;
pub mod lateral;
mod literals;
pub mod lower;
mod order_constants;
mod order_names;
pub mod planner;
pub mod relation;
mod rows;
mod set_operations;
pub mod subqueries;
mod using;
