//! Which rows of the table a load is about.
//!
//! ```text
//!   few rows come, and those that do not come stay    k IN (1, 5, 7)                 found by key, if k is one or begins one
//!   some are to go by their keys                      keys that come or go           so many rows, and no others
//!   else                                              the table
//! ```
//!
//! The strategy's queries then read these rows in the table's place.

use std::collections::BTreeSet;

use datafusion::arrow::array::{Array, RecordBatch};
use tidemark_catalog::{quote_ident, quote_literal};
use tidemark_common::{Error, Result};
use tidemark_connectors::load::{self, Deletes};

use super::{LoadInput, give, keys_of, rows, shown_value};
use crate::query::Names;

/// Keys that are looked for one by one.
const FEW: usize = 500;

impl LoadInput {
    /// The rows that it is about, if that is not all of `table`. `columns`: those wanted.
    pub(super) async fn scope(
        &self,
        names: &Names,
        table: &str,
        columns: &[String],
    ) -> Result<Option<Vec<RecordBatch>>> {
        let confined = self.gone.is_some();
        if !confined && self.load.deletes != Deletes::Ignore {
            return Ok(None);
        }
        let list: Vec<String> = columns.iter().map(|name| format!("t.{}", quote_ident(name))).collect();
        let from = format!("SELECT {} FROM {table} AS t", list.join(", "));
        let gone: &[RecordBatch] = self.gone.as_deref().unwrap_or_default();
        let keys = self.batches.iter().chain(gone).map(RecordBatch::num_rows).sum::<usize>();
        if keys == 0 {
            return Ok(Some(Vec::new()));
        }
        if keys <= FEW {
            let condition = self.among(self.batches.iter().chain(gone))?;
            return Ok(Some(rows(names, &format!("{from} WHERE {condition}")).await?));
        }
        if !confined {
            return Ok(None);
        }
        let same = |key: &String| format!("s.{key} = t.{key}", key = quote_ident(key));
        let same: Vec<String> = self.load.keys.iter().map(same).collect();
        let mut names = names.clone();
        let of_keys =
            self.batches.iter().chain(gone).map(|batch| keys_of(batch, &self.load)).collect::<Result<Vec<_>>>()?;
        let schema = of_keys[0].schema();
        give(&mut names, load::SCOPE, schema, of_keys)?;
        let query = format!("{from} WHERE EXISTS (SELECT 1 FROM {} AS s WHERE {})", load::SCOPE, same.join(" AND "));
        Ok(Some(rows(&names, &query).await?))
    }

    /// `a IN (..) AND b IN (..)`: of several columns it holds for more keys than there are, whose rows change nothing.
    fn among<'a>(&self, batches: impl Iterator<Item = &'a RecordBatch> + Clone) -> Result<String> {
        let mut conditions = Vec::new();
        for key in &self.load.keys {
            let declared = self.load.columns.iter().find(|column| column.name == *key);
            let sql_type = &declared.ok_or_else(|| Error::internal(format!("key {key} is not declared")))?.sql_type;
            let mut values = BTreeSet::new();
            for batch in batches.clone() {
                let at = batch.schema().index_of(key)?;
                for row in (0..batch.num_rows()).filter(|row| batch.column(at).is_valid(*row)) {
                    values.insert(shown_value(batch, at, row)?);
                }
            }
            let values: Vec<String> =
                values.iter().map(|value| format!("CAST({} AS {sql_type})", quote_literal(value))).collect();
            conditions.push(match values.as_slice() {
                [] => "false".to_string(),
                values => format!("t.{} IN ({})", quote_ident(key), values.join(", ")),
            });
        }
        Ok(conditions.join(" AND "))
    }
}
