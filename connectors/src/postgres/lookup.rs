//! Rows of a table asked for by key, as a lookup join does.
//!
//! ```text
//!   BEGIN; SELECT FROM t LIMIT 0 ──▶ nobody can change the table's columns until the end
//!   its columns ──▶ those that the view knows, with the types that it knows? else an error
//!   COPY (SELECT columns FROM t WHERE key IN (..)) TO STDOUT BINARY ──▶ RecordBatch
//!   COMMIT
//! ```
//!
//! So a table that was changed over there gives an error, never a value that is read as another type.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::{Array, RecordBatch};
use datafusion::arrow::compute::concat_batches;
use datafusion::arrow::datatypes::{Field, SchemaRef};
use datafusion::scalar::ScalarValue;
use futures::StreamExt;
use tidemark_common::connector::{LookupCache, LookupSession};
use tidemark_common::types::SqlType;
use tidemark_common::{Error, Result, SqlState};

use super::client::Client;
use super::copy::Decoder;
use super::describe::describe;
use super::error;
use super::filter::{constant_of, identifier};
use super::options::PostgresOptions;
use super::table::Item;
use super::types::RemoteColumn;

/// Rows that the keys asked for together may have.
const MAX_ROWS: usize = 1_000_000;

pub struct Lookup {
    client: Client,
    schema: String,
    table: String,
    /// The columns asked for, and as they are known here.
    columns: SchemaRef,
    by: Vec<usize>,
}

impl Lookup {
    /// Asks for `columns` of a table, by those at the positions `by`.
    pub async fn open(
        name: &Arc<str>,
        options: &Arc<PostgresOptions>,
        (schema, table): (&str, &str),
        columns: SchemaRef,
        by: Vec<usize>,
    ) -> Result<Self> {
        let client = Client::connect(name, options).await?;
        client.run(super::reading::SETTINGS).await?;
        Ok(Self { client, schema: schema.into(), table: table.into(), columns, by })
    }

    fn from(&self) -> String {
        format!("{}.{}", identifier(&self.schema), identifier(&self.table))
    }

    /// The columns as they stand in a SELECT list, if they are what they were.
    async fn items(&self) -> Result<Vec<Item>> {
        let found = describe(&self.client, &self.schema, &self.table).await?;
        self.columns.fields().iter().map(|field| self.item(field, &found)).collect()
    }

    fn item(&self, field: &Field, found: &[RemoteColumn]) -> Result<Item> {
        let name = format!("{}.{}.{}", self.client.name, self.schema, self.table);
        let hint = "Change it back over there, or drop what reads it here and create it again.";
        let Some(column) = found.iter().find(|column| column.name == *field.name()) else {
            let message = format!("column \"{}\" of {name} is not there any more", field.name());
            return Err(Error::new(SqlState::UndefinedColumn, message).with_hint(hint));
        };
        let known = SqlType::from_field(field);
        if column.sql_type != known {
            let message =
                format!("column \"{}\" of {name} has become {}, it was {known}", field.name(), column.sql_type);
            return Err(Error::new(SqlState::DatatypeMismatch, message).with_hint(hint));
        }
        Ok(Item::of(column.clone()))
    }

    fn select(&self, items: &[Item], keys: &RecordBatch) -> Result<String> {
        let list: Vec<&str> = items.iter().map(|item| item.sql.as_str()).collect();
        let by: Vec<&Item> = self.by.iter().map(|column| &items[*column]).collect();
        Ok(format!("SELECT {} FROM {} WHERE {}", list.join(", "), self.from(), condition(&by, keys)?))
    }

    async fn copy(&self, sql: &str) -> Result<RecordBatch> {
        let failed = |e: tokio_postgres::Error| error::remote(&self.client.name, &e, Some(sql));
        let mut canceller = self.client.canceller();
        let copied = self.client.postgres.copy_out(&format!("COPY ({sql}) TO STDOUT (FORMAT binary)")).await;
        let mut stream = std::pin::pin!(copied.map_err(failed)?);
        let mut decoder = Decoder::new(self.columns.clone())?;
        let (mut batches, mut rows) = (Vec::new(), 0);
        while let Some(bytes) = stream.next().await {
            decoder.push(&bytes.map_err(failed)?)?;
            while let Some(batch) = decoder.take()? {
                rows += batch.num_rows();
                batches.push(batch);
                decoder.go_on()?;
            }
            if rows > MAX_ROWS {
                return Err(Error::new(
                    SqlState::ProgramLimitExceeded,
                    format!(
                        "a lookup in {} finds more than {MAX_ROWS} rows for the keys asked for together",
                        self.from()
                    ),
                )
                .with_hint("Join by a key that tells the table's rows apart, or load it into a table here."));
            }
        }
        canceller.disarm();
        decoder.finish()?;
        Ok(concat_batches(&self.columns, &batches)?)
    }
}

#[async_trait]
impl LookupSession for Lookup {
    async fn rows(&mut self, keys: &RecordBatch) -> Result<RecordBatch> {
        self.client.run(&format!("BEGIN READ ONLY; SELECT FROM {} LIMIT 0", self.from())).await?;
        let sql = self.select(&self.items().await?, keys)?;
        let rows = self.copy(&sql).await?;
        self.client.run("COMMIT").await?;
        Ok(rows)
    }

    fn cache(&self) -> LookupCache {
        self.client.options.lookup_cache
    }
}

/// `k IN ('1'::bigint, ..)`, of several columns `(a, b) IN (('1'::bigint, 'x'::text), ..)`.
fn condition(by: &[&Item], keys: &RecordBatch) -> Result<String> {
    // Texts that differ are different keys, whatever the column's collation says, and what is no type here is compared as text.
    let side = |item: &&Item| match (&item.column.sql_type, item.column.cast, item.column.texts.bytewise) {
        (SqlType::Text | SqlType::Varchar(_), None, false) => format!("{} COLLATE \"C\"", item.sql),
        _ => item.sql.clone(),
    };
    let row = |values: Vec<String>| if by.len() == 1 { values.concat() } else { format!("({})", values.join(", ")) };
    let mut wanted = Vec::with_capacity(keys.num_rows());
    for key in 0..keys.num_rows() {
        let value = |(item, column): (&&Item, &Arc<dyn Array>)| {
            let value = ScalarValue::try_from_array(column, key)?;
            constant_of(&value, &item.column.sql_type)
                .ok_or_else(|| Error::internal(format!("a key of type {} in a lookup", item.column.sql_type)))
        };
        wanted.push(row(by.iter().zip(keys.columns()).map(value).collect::<Result<_>>()?));
    }
    Ok(format!("{} IN ({})", row(by.iter().map(side).collect()), wanted.join(", ")))
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{ArrayRef, Int32Array, StringArray};

    use super::super::types::Texts;
    use super::*;

    fn item(name: &str, sql_type: SqlType, bytewise: bool) -> Item {
        let texts = Texts { bytewise, ordered: true, folded: true };
        Item::of(RemoteColumn { name: name.into(), sql_type, nullable: true, cast: None, texts })
    }

    #[test]
    fn keys_are_constants_of_their_types() {
        let keys = RecordBatch::try_from_iter([
            ("a", Arc::new(Int32Array::from(vec![1, -2])) as ArrayRef),
            ("b", Arc::new(StringArray::from(vec!["it's", ""])) as ArrayRef),
        ])
        .unwrap();
        let (a, b) = (item("a", SqlType::Integer, true), item("B\"", SqlType::Text, false));
        let one = keys.project(&[0]).unwrap();
        assert_eq!(condition(&[&a], &one).unwrap(), "\"a\" IN ('1'::integer, '-2'::integer)");
        assert_eq!(
            condition(&[&a, &b], &keys).unwrap(),
            "(\"a\", \"B\"\"\" COLLATE \"C\") IN (('1'::integer, 'it''s'::text), ('-2'::integer, ''::text))"
        );
    }
}
