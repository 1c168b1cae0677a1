//! The rows of some records: one that fails leaves nothing behind.

use datafusion::arrow::array::ArrayRef;
use datafusion::arrow::datatypes::SchemaRef;
use tidemark_common::{Error, Result};

use super::Column;
use crate::formats::Failures;

pub(crate) struct Rows {
    columns: Vec<Column>,
    rows: usize,
    failures: Failures,
}

impl Rows {
    pub fn new(schema: &SchemaRef) -> Result<Self> {
        let columns = schema.fields().iter().map(Column::new).collect::<Result<_>>()?;
        Ok(Self { columns, rows: 0, failures: Failures::new() })
    }

    /// The next record: `decode` appends one value to each column.
    pub fn record(&mut self, decode: impl FnOnce(&mut [Column]) -> Result<()>) {
        if let Err(error) = decode(&mut self.columns) {
            self.fail(error);
            return;
        }
        self.rows += 1;
        debug_assert!(self.columns.iter().all(|column| column.len() == self.rows), "one value to each column");
    }

    /// The next record cannot be read.
    pub fn fail(&mut self, error: Error) {
        self.failures.push((self.rows, error));
        for column in &mut self.columns {
            column.truncate(self.rows);
            column.null();
        }
        self.rows += 1;
    }

    pub fn finish(self) -> Result<(Vec<ArrayRef>, Failures)> {
        let columns = self.columns.into_iter().map(Column::finish).collect::<Result<_>>()?;
        Ok((columns, self.failures))
    }
}
