//! What psql, drivers and BI tools ask of the system: `pg_catalog`, `information_schema` and `tidemark`.
//!
//! ```text
//!   SQL ──parse──▶ rewrite_statement ──plan──▶ system_table(..), function(..) ──▶ rows
//!                  (casts to regclass,             │
//!                   ARRAY(SELECT ..), ..)          └── SystemContext: one Catalog version + SystemFacts
//! ```
//!
//! Rows are computed when they are scanned: `relations.txt` says what columns a relation has, one builder fills it from the
//! catalog, and Postgres' own rows (types, operators, casts) come from `datafusion-pg-catalog`.
//!
//! Architecture invariant: nothing here changes anything, and nothing here waits.

mod array_functions;
mod context;
pub mod ddl;
mod decorrelate;
mod facts;
mod function_list;
mod functions;
mod information_schema;
mod output_names;
mod pg_core;
mod pg_proc;
mod pg_views;
mod present;
mod relation;
mod rewrite;
mod rewrite_access;
mod rewrite_arrays;
mod rewrite_casts;
mod rewrite_empty;
mod static_tables;
mod tables;
#[cfg(test)]
mod tests;
mod tidemark_schema;

pub use context::{SystemContext, keys};
pub use decorrelate::SystemSubqueries;
pub use facts::*;
pub use functions::{function, function_names};
pub use output_names::output_names;
pub use pg_proc::registry_functions;
pub use present::present_query;
pub use rewrite::rewrite_statement;
pub use tables::{system_table, system_table_names};
