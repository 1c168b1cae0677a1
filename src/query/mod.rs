//! Batch queries: names to relations, relations to rows of one moment.
//!
//! ```text
//!   ast::Query ──Names──▶ LogicalPlan ──DataFusion──▶ physical plan ──scan──▶ rows of the moment, own changes over them
//! ```

mod names;
mod scan;

pub use names::{Names, Scans, find_relation, object_name, rewrite};
pub use scan::{StoredRows, stored_relation};
