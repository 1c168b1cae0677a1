//! The coordinator: the one place that changes the catalog.
//!
//! ```text
//!   CREATE, ALTER, DROP ──check──▶ Change (what the catalog will say) + PlannedStep (what the engine will do)
//!                                        └── both in the session's transaction, true with its commit
//! ```
//!
//! Statements are methods of the session, because they run in its transaction; they live here, by the kind of object.

mod alter;
pub mod connections;
pub mod definitions;
pub mod drop;
mod event_time;
mod indexes;
pub(crate) mod loads;
pub mod lookups;
mod normalize;
mod pipelines;
pub(crate) mod remote;
mod rename;
mod replace;
mod schemas;
pub mod secrets;
mod shared_source;
mod sinks;
pub(crate) mod source_columns;
mod source_keys;
mod sources;
pub mod tables;
mod ttl;
mod views;

use std::collections::BTreeSet;
use std::sync::Arc;

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::logical_expr::LogicalPlan;
use datafusion::sql::sqlparser::ast as sql;
use tidemark_catalog::{Catalog, Object, ObjectKind, Read, SUPERUSER, SYSTEM_SCHEMAS, TIDEMARK_SCHEMA};
use tidemark_common::{Error, Oid, Result, SqlState};

use crate::query::{object_name, remote_name};
use crate::session::Session;

/// Where a new object goes.
pub(crate) struct Target {
    pub schema: Oid,
    pub name: String,
}

/// Longest name of anything, in bytes, as in Postgres.
const MAX_NAME: usize = 63;

impl Session {
    /// Schema and name of an object to be created.
    pub(crate) fn target(&mut self, name: &sql::ObjectName, temporary: bool) -> Result<Target> {
        let catalog = self.catalog()?;
        let (schema, name) = object_name(name, &catalog.database)?;
        check_length(&name)?;
        let schema = match (schema, temporary) {
            (Some(schema), true) if schema != "pg_temp" => {
                return Err(Error::new(
                    SqlState::InvalidTableDefinition,
                    "cannot create temporary relation in non-temporary schema",
                ));
            }
            (_, true) => self.temporary_schema()?,
            (Some(schema), false) => catalog.schema(&schema)?,
            (None, false) => match self.info().search_path().first() {
                Some(first) => catalog.schema(first)?,
                None => {
                    return Err(Error::new(SqlState::UndefinedSchema, "no schema has been selected to create in")
                        .with_hint("SET search_path TO public, or name the schema."));
                }
            },
        };
        let own = schema == TIDEMARK_SCHEMA && self.is_internal();
        if SYSTEM_SCHEMAS.iter().any(|(oid, _)| *oid == schema) && !own {
            return Err(Error::new(
                SqlState::InsufficientPrivilege,
                format!("permission denied to create \"{}.{name}\"", catalog.schema_name(schema)),
            )
            .with_detail("System schemas cannot be changed."));
        }
        Ok(Target { schema, name })
    }

    /// The object of that name, if something is in the way.
    pub(crate) fn existing(&self, target: &Target) -> Result<Option<Arc<Object>>> {
        Ok(self.catalog()?.find_in(target.schema, &target.name).cloned())
    }

    pub(crate) fn catalog(&self) -> Result<Arc<Catalog>> {
        Ok(self.current_transaction()?.catalog.clone())
    }

    /// A new object of this session's user.
    pub(crate) fn object(&self, target: Target, depends_on: BTreeSet<Oid>, kind: ObjectKind) -> Result<Object> {
        let catalog = self.catalog()?;
        let relations = depends_on.iter().filter_map(|oid| catalog.get(*oid)).filter(|o| o.kind.is_relation());
        Ok(Object {
            oid: self.database().new_oid(),
            schema: target.schema,
            name: target.name,
            owner: SUPERUSER,
            comment: None,
            reads: relations.map(|o| read(&catalog, o)).collect(),
            depends_on,
            lookups: Vec::new(),
            asked: Vec::new(),
            temporary: false,
            kind,
        })
    }
}

fn check_length(name: &str) -> Result<()> {
    if name.is_empty() {
        return Err(Error::syntax("zero-length delimited identifier at or near \"\"\"\""));
    }
    if name.len() > MAX_NAME {
        return Err(Error::new(SqlState::InvalidName, format!("\"{name}\" is longer than {MAX_NAME} bytes")));
    }
    Ok(())
}

/// A relation as a query that is stored now knows it.
fn read(catalog: &Catalog, relation: &Object) -> Read {
    Read {
        oid: relation.oid,
        schema: catalog.schema_name(relation.schema).to_string(),
        name: relation.name.clone(),
        columns: relation.columns().iter().map(|c| c.name.clone()).collect(),
    }
}

pub(crate) fn already_exists(object: &Object) -> Error {
    let (state, what) = match object.kind {
        ObjectKind::Schema => (SqlState::DuplicateSchema, "schema"),
        ObjectKind::Secret(_) | ObjectKind::Connection(_) | ObjectKind::Pipeline(_) => {
            (SqlState::DuplicateObject, object.kind_name())
        }
        _ => (SqlState::DuplicateTable, "relation"),
    };
    Error::new(state, format!("{what} \"{}\" already exists", object.name))
}

/// Stored relations that a plan reads, directly or through views, and the views themselves.
pub(crate) fn dependencies(
    plan: &LogicalPlan,
    catalog: &Catalog,
    query: &sql::Query,
    path: &[String],
) -> Result<BTreeSet<Oid>> {
    let mut found = BTreeSet::new();
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node
            && let Ok(provider) = datafusion::datasource::source_as_provider(&scan.source)
            && let Some(relation) = provider.downcast_ref::<tidemark_sql::relation::Relation>()
        {
            found.insert(relation.oid);
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    // A view gives way to its query in the plan, so names are looked at too.
    let _all = sql::visit_relations(query, |name| {
        if let Some((connection, _, _)) = remote_name(name, catalog) {
            found.extend(catalog.connection(&connection).map(|o| o.oid));
        } else if let Ok((schema, name)) = object_name(name, &catalog.database)
            && let Some(object) = catalog.find(schema.as_deref(), &name, path)
        {
            found.insert(object.oid);
        }
        std::ops::ControlFlow::<()>::Continue(())
    });
    Ok(found)
}
