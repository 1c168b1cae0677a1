//! Values as Postgres writes and reads them: text and binary forms of every SQL type, a column at a time.
//!
//! ```text
//!   Arrow array ──Column::new──▶ Column ──write_text / write_binary (row)──▶ bytes for a client or a COPY file
//!   bytes ──ColumnBuilder::append_text / append_binary──▶ ColumnBuilder ──finish──▶ Arrow array
//! ```
//!
//! A [`Column`] is an array brought into the one Arrow type that its SQL type has (see `SqlType::data_type`), so writers
//! know few types and pay for the cast once a batch. A [`ColumnBuilder`] makes arrays of exactly that type.
//!
//! Architecture invariant: nothing here knows the wire protocol; COPY, parameters and casts share it.

mod array_text;
mod binary_in;
mod binary_out;
mod builder;
mod column;
mod datetime;
mod datetime_in;
mod float;
pub(crate) mod interval;
mod json;
mod numeric;
mod style;
#[cfg(test)]
mod tests;
mod text_in;
mod text_out;

pub use builder::{ColumnBuilder, scalar_from_binary, scalar_from_text};
pub use column::Column;
pub use datetime_in::MONTHS;
pub use interval::duration_text;
pub use json::canonical as canonical_json;
pub use style::Style;
