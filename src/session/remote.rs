//! Tables of other systems that a statement names: found there before it is planned, because planning does no I/O.
//!
//! ```text
//!   connection.schema.table in the statement, or in a view that it reads ──Reading::table──▶ Names::remote ──▶ planning
//! ```
//!
//! All that one statement reads through one connection is of one moment over there.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::ControlFlow;
use std::sync::Arc;

use datafusion::catalog::TableProvider;
use datafusion::sql::sqlparser::ast as sql;
use tidemark_catalog::{Catalog, Object, ObjectKind};
use tidemark_common::Result;
use tidemark_connectors::postgres::Reading;
use tidemark_sql::ast::{DeclareOf, ExplainTarget, SinkFrom, Statement};

use super::Session;
use crate::coordinator::{connections, definitions};
use crate::query::{object_name, remote_name};

/// Connection, schema, table.
pub type RemoteName = (String, String, String);

pub type RemoteTables = HashMap<RemoteName, Arc<dyn TableProvider>>;

impl Session {
    /// Looks up what the statement names, for the planning that follows.
    pub(super) async fn find_remote(&mut self, statement: &Statement) -> Result<()> {
        self.remote = Arc::default();
        let catalog = self.transaction()?.catalog.clone();
        if !catalog.has_connections() {
            return Ok(());
        }
        let mut named = Named { catalog: &catalog, tables: BTreeSet::new(), views: BTreeSet::new() };
        named.in_statement(statement, &self.search_path())?;
        let mut by_connection: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
        for (connection, schema, table) in named.tables {
            by_connection.entry(connection).or_default().push((schema, table));
        }
        let mut found = RemoteTables::new();
        for (connection, tables) in by_connection {
            let key = self.db.environment.secret_key.as_ref();
            let options = connections::options(catalog.connection(&connection)?, &catalog, key)?;
            let reading = Reading::open(connection.as_str().into(), Arc::new(options)).await?;
            for (schema, table) in tables {
                let provider = Arc::new(reading.table(&schema, &table).await?);
                found.insert((connection.clone(), schema, table), provider);
            }
        }
        self.remote = Arc::new(found);
        Ok(())
    }
}

/// The table of another system that is this one's contents.
pub(crate) fn kept_elsewhere(object: &Object, catalog: &Catalog) -> Option<RemoteName> {
    let remote = object.remote()?;
    let connection = catalog.get(remote.connection)?;
    Some((connection.name.clone(), remote.schema.clone(), remote.table.clone()))
}

struct Named<'a> {
    catalog: &'a Catalog,
    tables: BTreeSet<RemoteName>,
    /// Views whose queries have been looked through.
    views: BTreeSet<tidemark_common::Oid>,
}

impl Named<'_> {
    fn in_statement(&mut self, statement: &Statement, search_path: &[String]) -> Result<()> {
        match statement {
            Statement::Sql(statement) => {
                if let sql::Statement::Copy { source: sql::CopySource::Table { table_name, .. }, to: true, .. } =
                    statement.as_ref()
                {
                    self.tables.extend(remote_name(table_name, self.catalog));
                    return self.named(table_name, search_path);
                }
                match statement.as_ref() {
                    // What rows are put into is not read.
                    sql::Statement::Insert(insert) => {
                        self.within(&insert.source, search_path)?;
                        self.within(&insert.on, search_path)?;
                        self.within(&insert.returning, search_path)
                    }
                    sql::Statement::AlterTable(_) | sql::Statement::CreateIndex(_) | sql::Statement::Truncate(_) => {
                        Ok(())
                    }
                    statement => self.within(statement, search_path),
                }
            }
            Statement::Explain(explain) => match &explain.target {
                ExplainTarget::Statement(statement) => self.in_statement(statement, search_path),
                ExplainTarget::Object(..) => Ok(()),
            },
            Statement::Declare(declare) => match &declare.of {
                DeclareOf::Query(query) => self.within(query.as_ref(), search_path),
                DeclareOf::Subscribe(_) => Ok(()),
            },
            // What is kept up to date may ask remote tables for rows by key.
            Statement::CreateMaterializedView(create) => self.within(create.query.as_ref(), search_path),
            Statement::CreatePipeline(create) => self.within(create.query.as_ref(), search_path),
            Statement::CreateSink(create) => match &create.from {
                SinkFrom::Query { query, .. } => self.within(query.as_ref(), search_path),
                SinkFrom::Relation(name) => self.named(name, search_path),
            },
            _ => Ok(()),
        }
    }

    fn within(&mut self, node: &impl sql::Visit, search_path: &[String]) -> Result<()> {
        let mut names = Vec::new();
        let _all = sql::visit_relations(node, |name| {
            names.push(name.clone());
            ControlFlow::<()>::Continue(())
        });
        names.iter().try_for_each(|name| self.named(name, search_path))
    }

    fn named(&mut self, name: &sql::ObjectName, search_path: &[String]) -> Result<()> {
        if let Some(remote) = remote_name(name, self.catalog) {
            self.tables.insert(remote);
            return Ok(());
        }
        let Ok((schema, name)) = object_name(name, &self.catalog.database) else { return Ok(()) };
        let Some(object) = self.catalog.find(schema.as_deref(), &name, search_path) else { return Ok(()) };
        match &object.kind {
            ObjectKind::View(view) if self.views.insert(object.oid) => {
                self.within(&definitions::stored_query(&view.query)?, &view.search_path)
            }
            _ => {
                self.tables.extend(kept_elsewhere(object, self.catalog));
                Ok(())
            }
        }
    }
}
