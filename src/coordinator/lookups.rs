//! Tables of other systems whose rows a dataflow asks for by key: JOIN warehouse.raw.customers FOR SYSTEM_TIME AS OF proctime().
//!
//! ```text
//!   CREATE: find_remote asks the other server for the columns ──▶ Object::asked, kept with the query
//!   planning, now and at every start: Asked ──▶ Relation that can be asked ──▶ Lookup Join
//!   running: AskedTable::session ──▶ the connection as the catalog has it then ──▶ postgres::Lookup
//! ```

use std::fmt;
use std::sync::{Arc, OnceLock, Weak};

use async_trait::async_trait;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::catalog::TableProvider;
use tidemark_catalog::{Asked, Catalog, Column, Object};
use tidemark_common::connector::{LookupCache, LookupSession, LookupTable};
use tidemark_common::types::SqlType;
use tidemark_common::{Error, Result, SqlState};
use tidemark_connectors::postgres::Lookup;
use tidemark_sql::relation::Relation;

use super::connections;
use super::definitions::Environment;
use crate::database::Database;
use crate::session::RemoteTables;

/// The tables that a statement names, as they are stored with what it creates.
pub fn asked(found: &RemoteTables, catalog: &Catalog) -> Result<Vec<Asked>> {
    let asked = |((connection, schema, table), provider): (&(String, String, String), &Arc<dyn TableProvider>)| {
        let fields = provider.schema();
        let column = |(at, field): (usize, &Arc<Field>)| {
            let number = i16::try_from(at + 1).map_err(|_| Error::internal("a table with more than 32767 columns"))?;
            let column = Column::new(field.name(), SqlType::from_field(field), number);
            Ok(Column { nullable: field.is_nullable(), ..column })
        };
        Ok(Asked {
            connection: catalog.connection(connection)?.oid,
            schema: schema.clone(),
            table: table.clone(),
            columns: fields.fields().iter().enumerate().map(column).collect::<Result<_>>()?,
        })
    };
    let mut asked = found.iter().map(asked).collect::<Result<Vec<_>>>()?;
    asked.sort_by_key(|asked| (asked.connection, asked.schema.clone(), asked.table.clone()));
    Ok(asked)
}

/// What the names in a stored query stand for.
pub fn relations(asked: &[Asked], catalog: &Catalog, env: &Environment) -> Result<RemoteTables> {
    let mut relations = RemoteTables::new();
    for asked in asked {
        let schema = schema_of(asked);
        let connection = &catalog.expect(asked.connection)?.name;
        let table = AskedTable { asked: asked.clone(), schema: schema.clone(), database: env.database.clone() };
        let relation: Arc<dyn TableProvider> = Arc::new(Relation {
            oid: asked.connection,
            name: format!("{}.{}.{}", connection, asked.schema, asked.table),
            schema,
            append_only: false,
            key: None,
            indexed: Vec::new(),
            lookups: Vec::new(),
            watermark: None,
            ttl: None,
            versions: None,
            constraints: None,
            scan: None,
            asked: Some(Arc::new(table)),
        });
        relations.insert((connection.clone(), asked.schema.clone(), asked.table.clone()), relation);
    }
    Ok(relations)
}

fn schema_of(asked: &Asked) -> SchemaRef {
    let field = |column: &Column| column.sql_type.to_field(&column.name, column.nullable);
    Arc::new(Schema::new(asked.columns.iter().map(field).collect::<Vec<_>>()))
}

#[derive(Clone)]
struct AskedTable {
    asked: Asked,
    schema: SchemaRef,
    database: Arc<OnceLock<Weak<Database>>>,
}

impl fmt::Debug for AskedTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Asked { connection, schema, table, .. } = &self.asked;
        write!(f, "{schema}.{table} of connection {connection}")
    }
}

#[async_trait]
impl LookupTable for AskedTable {
    async fn session(&self, columns: &[usize], by: &[usize]) -> Result<Box<dyn LookupSession>> {
        let (object, lookup) = self.open(columns, by).await?;
        let table = self.clone();
        Ok(Box::new(Session { table, columns: columns.to_vec(), by: by.to_vec(), object, lookup }))
    }
}

impl AskedTable {
    fn database(&self) -> Result<Arc<Database>> {
        let database = self.database.get().and_then(Weak::upgrade);
        database.ok_or_else(|| Error::new(SqlState::CannotConnectNow, "the server is starting up, or stopping"))
    }

    /// The connection as it is now.
    fn connection(&self) -> Result<(Arc<Object>, Arc<Catalog>)> {
        let catalog = self.database()?.engine.moment().catalog;
        Ok((catalog.expect(self.asked.connection)?.clone(), catalog))
    }

    async fn open(&self, columns: &[usize], by: &[usize]) -> Result<(Arc<Object>, Lookup)> {
        let (object, catalog) = self.connection()?;
        let key = self.database()?.environment.secret_key.clone();
        let options = Arc::new(connections::options(&object, &catalog, key.as_ref())?);
        let name: Arc<str> = object.name.as_str().into();
        let columns = Arc::new(self.schema.project(columns)?);
        let table = (self.asked.schema.as_str(), self.asked.table.as_str());
        let lookup = Lookup::open(&name, &options, table, columns, by.to_vec()).await?;
        Ok((object, lookup))
    }
}

/// A session that begins anew when the connection is altered.
struct Session {
    table: AskedTable,
    columns: Vec<usize>,
    by: Vec<usize>,
    object: Arc<Object>,
    lookup: Lookup,
}

#[async_trait]
impl LookupSession for Session {
    async fn rows(&mut self, keys: &RecordBatch) -> Result<RecordBatch> {
        if self.table.connection()?.0 != self.object {
            (self.object, self.lookup) = self.table.open(&self.columns, &self.by).await?;
        }
        self.lookup.rows(keys).await
    }

    fn cache(&self) -> LookupCache {
        self.lookup.cache()
    }
}
