//! A query's rows into a table, for whoever runs loads: what INSERT .. SELECT does, and what became of the rows.

use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::datasource::MemTable;
use datafusion::sql::sqlparser::ast as sql;
use tidemark_catalog::Object;
use tidemark_common::Result;
use tidemark_connectors::load::{Counts, LoadRun};
use tidemark_connectors::postgres::recorded;
use tidemark_sql::ast::Statement;

use super::sources;
use crate::coordinator::definitions::stored_query;
use crate::coordinator::loads::load_of;
use crate::session::load::given_to_load;
use crate::session::{Session, dml};

impl Session {
    /// Loads what a query gives into a table, through its strategy if it has one. `columns`: those that the query's are for, by
    /// position; if none are named, all that a load gives. For a table kept here it is part of the transaction, which is begun; in
    /// another system it is committed there, together with `run`, which is done once however often it is tried.
    pub(crate) async fn load_select(
        &mut self,
        object: &Arc<Object>,
        columns: &[String],
        query: &sql::Query,
        run: Option<LoadRun>,
    ) -> Result<Counts> {
        let statement = Statement::Sql(Box::new(sql::Statement::Query(Box::new(query.clone()))));
        self.find_remote(&statement).await?;
        let names = self.names(None)?;
        // They hold on to sessions of other systems.
        self.remote = Arc::default();
        let plan = names.plan(query)?;
        let sources = sources(&plan, query);
        let positions = load_positions(object, columns)?;
        let mut insertion = self.insertion(&names, object, positions, load_of(object)?, run).await?;
        self.insert_query(&names, &mut insertion, plan, sources, columns.is_empty(), &[]).await?;
        self.close_way(object, insertion.writer, insertion.way).await
    }

    /// What a run has done to a table kept in another system, and the payload that was recorded with it, if it has been. Whoever
    /// tries a run again must know before he decides what to load: what was there then may not be what there is now.
    pub(crate) async fn loaded_by(&self, object: &Object, run: &LoadRun) -> Result<Option<(Counts, Option<String>)>> {
        let Some(remote) = object.remote() else { return Ok(None) };
        recorded(&self.connect_remote(remote).await?, run).await
    }
}

/// Rows that come and rows that go, as a query's changes have them.
pub(crate) struct Changed {
    pub schema: SchemaRef,
    pub come: Vec<RecordBatch>,
    /// Of rows that only ever come, `None`.
    pub gone: Option<Vec<RecordBatch>>,
}

/// What the rows that come are called while they are loaded.
const CHANGED: &str = "tidemark_changed";

impl Session {
    /// Loads the rows that come, and takes out those of keys that only go, as the strategy's `deletes` says.
    pub(crate) async fn load_changed(
        &mut self,
        object: &Arc<Object>,
        changed: Changed,
        run: Option<LoadRun>,
    ) -> Result<Counts> {
        let names: Vec<String> = changed.schema.fields().iter().map(|field| field.name().clone()).collect();
        let table = MemTable::try_new(changed.schema, vec![changed.come])?;
        self.given.insert(CHANGED.into(), Some(Arc::new(table)));
        self.gone = changed.gone;
        let query = stored_query(&format!("SELECT * FROM {CHANGED}"))?;
        let loaded = self.load_select(object, &names, &query, run).await;
        self.given.clear();
        self.gone = None;
        loaded
    }
}

fn load_positions(object: &Object, columns: &[String]) -> Result<Vec<usize>> {
    let idents: Vec<sql::Ident> = columns.iter().map(|name| sql::Ident::with_quote('"', name)).collect();
    given_to_load(object, dml::column_positions(object, &idents)?, idents.is_empty())
}
