//! Batch queries: names to relations, relations to rows of one moment.
//!
//! ```text
//!   ast::Query ──Names──▶ LogicalPlan ──DataFusion──▶ physical plan ──scan──▶ rows of the moment, own changes over them
//! ```

mod access;
mod lookup;
mod names;
mod scan;
mod shown;

pub use lookup::{Lookup, types_of};
pub use names::{Names, Scans, find_relation, object_name, remote_name, rewrite};
pub use scan::{StoredRows, stored_relation};
