//! Values as texts, for formats that have no type for them.

use bytes::BytesMut;
use datafusion::arrow::array::{Array, make_array};
use datafusion::arrow::datatypes::Field;
use tidemark_common::values::{Column, Style};
use tidemark_common::{Error, Result};

/// A value as PostgreSQL writes it.
pub(crate) fn as_text(field: &Field, array: &dyn Array, row: usize) -> Result<String> {
    let column = Column::new(&make_array(array.slice(row, 1).to_data()), field)?;
    let mut out = BytesMut::new();
    column.write_text(0, &Style::default(), &mut out);
    String::from_utf8(out.to_vec()).map_err(|e| Error::internal(format!("a value as text: {e}")))
}
