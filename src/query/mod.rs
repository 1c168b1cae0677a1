//! Batch queries: names to relations, relations to rows of one moment.
//!
//! ```text
//!   ast::Query ──Names──▶ LogicalPlan ──DataFusion──▶ physical plan ──scan──▶ rows of the moment, own changes over them
//! ```

mod access;
mod lookup;
mod names;
mod one_row;
mod parameters;
mod scan;
mod shown;
mod source_scan;

pub use lookup::Lookup;
pub use names::{
    Names, Scans, StatementState, find_relation, has_subquery, object_name, remote_name, rewrite, state_of,
};
pub use one_row::OneRow;
pub use parameters::types_of;
pub use scan::{StoredRows, stored_relation};
