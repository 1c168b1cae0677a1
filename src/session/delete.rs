//! DELETE: the rows that WHERE finds go out of the table.

use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::scalar::ScalarValue;
use datafusion::sql::sqlparser::ast as sql;
use futures::StreamExt;
use tidemark_catalog::Object;
use tidemark_common::types::SqlType;
use tidemark_common::{Error, Result};

use super::dml::Returning;
use super::update::{Scope, Search};
use super::{Outcome, Session, select, with_parameters};

impl Session {
    pub(super) async fn delete(&mut self, delete: &sql::Delete, parameters: &[ScalarValue]) -> Result<Outcome> {
        self.delete_with(delete, None, parameters).await
    }

    pub(super) async fn delete_with(
        &mut self,
        delete: &sql::Delete,
        with: Option<&sql::With>,
        parameters: &[ScalarValue],
    ) -> Result<Outcome> {
        let scope = self.delete_scope(delete, with)?;
        let names = self.names(Some(scope.object.oid))?;
        let mut writer = self.remover(&names, &scope.object)?;
        let plan = with_parameters(scope.plan(&names, &writer, &[])?, parameters)?;
        let mut rows = scope.rows(&plan, &writer, 0);
        let returning = delete.returning.as_ref().map(|items| Returning::plan(&names, &rows, items)).transpose()?;
        let hits = self.hits(&names, &writer, plan, 0).await?;
        let count = hits.old.num_rows();
        writer.remove(hits.old.clone(), self.transaction_mut()?)?;
        match returning {
            None => Ok(Outcome::Command(format!("DELETE {count}"))),
            Some(returning) => {
                let old = hits.old.columns()[..writer.columns().len()].to_vec();
                rows.push(hits.others_after(old));
                returning.outcome(&names, &rows, parameters, "DELETE").await
            }
        }
    }

    pub(super) fn delete_scope<'a>(&self, delete: &'a sql::Delete, with: Option<&'a sql::With>) -> Result<Scope<'a>> {
        if delete.limit.is_some() || !delete.order_by.is_empty() || !delete.tables.is_empty() {
            return Err(Error::syntax("DELETE takes one table, and no ORDER BY or LIMIT"));
        }
        let (sql::FromTable::WithFromKeyword(from) | sql::FromTable::WithoutKeyword(from)) = &delete.from;
        let [target] = from.as_slice() else {
            return Err(Error::syntax("DELETE changes one table").with_hint("Put the others after USING."));
        };
        let others = delete.using.as_deref().unwrap_or_default();
        let search = Search { with, others, selection: delete.selection.as_ref() };
        self.scope(target, search, delete.returning.is_some(), "delete from")
    }

    pub(super) fn describe_delete(
        &mut self,
        delete: &sql::Delete,
        parameters: &mut [Option<SqlType>],
    ) -> Result<Option<SchemaRef>> {
        self.describe_delete_with(delete, None, parameters)
    }

    pub(super) fn describe_delete_with(
        &mut self,
        delete: &sql::Delete,
        with: Option<&sql::With>,
        parameters: &mut [Option<SqlType>],
    ) -> Result<Option<SchemaRef>> {
        let scope = self.delete_scope(delete, with)?;
        self.describe_scope(&scope, &[], delete.returning.as_deref(), parameters)
    }

    /// Takes out all rows of a table, so that whoever follows it hears of each; how many they were.
    pub(crate) async fn delete_all(&mut self, object: &Arc<Object>) -> Result<u64> {
        let names = self.names(Some(object.oid))?;
        let mut writer = self.remover(&names, object)?;
        let catalog = self.transaction()?.catalog.clone();
        let name = catalog.qualified_name(object);
        let all = crate::coordinator::definitions::stored_query(&format!("SELECT * FROM {name}"))?;
        let (_, mut stream) = select::execute(&names, names.plan(&all)?).await?;
        let schema = writer.def.collection.schema().clone();
        let mut gone = 0;
        while let Some(batch) = stream.next().await {
            let rows = RecordBatch::try_new(schema.clone(), batch?.columns().to_vec())?;
            gone += rows.num_rows() as u64;
            writer.remove(rows, self.transaction_mut()?)?;
        }
        Ok(gone)
    }
}
