//! ALTER .. RENAME and what it needs: whoever reads the renamed goes on, and is shown with the name of now.
//!
//! ```text
//!   RENAME ──▶ the catalog's object has the new name; stored queries keep theirs, and what they mean by it ([`Read`])
//!                 │
//!                 └──▶ each reader's text is written with the new name and planned: what cannot be shown is refused
//! ```
//!
//! [`Read`]: tidemark_catalog::Read

use std::sync::Arc;

use tidemark_catalog::{Catalog, Change, Column, Object, ObjectKind, quote_ident};
use tidemark_common::{Error, Oid, Result, SqlState};

use super::alter::names_column;
use super::{already_exists, definitions};
use crate::pg_catalog::present_query;
use crate::query::Names;
use crate::session::Session;
use crate::transaction::PlannedStep;

impl Session {
    pub(super) fn rename(&mut self, object: &Arc<Object>, name: &str) -> Result<()> {
        if let Some(taken) = self.catalog()?.find_in(object.schema, name) {
            return Err(already_exists(taken));
        }
        self.refuse_if_named(object, "rename")?;
        let renamed = Object { name: name.to_string(), ..object.as_ref().clone() };
        // The engine names an index in its errors.
        let relation = object.index().map(|index| self.catalog()?.expect(index.relation).cloned()).transpose()?;
        let step = relation.and_then(|relation| self.redefinition(&relation));
        self.change_catalog(vec![Change::Put(Box::new(renamed))], step.into_iter().collect())?;
        self.readers_can_be_shown(object.oid)
    }

    pub(super) fn rename_schema(&mut self, schema: &Arc<Object>, name: &str) -> Result<()> {
        super::schemas::check_name(name)?;
        let catalog = self.catalog()?;
        let prefix = format!("'{}.", quote_ident(&schema.name));
        for object in catalog.objects().filter(|o| o.schema == schema.oid) {
            self.refuse_if_named(object, "rename the schema of")?;
            let named = |c: &&Column| c.default.as_ref().is_some_and(|default| default.contains(&prefix));
            if let Some(column) = object.columns().iter().find(named) {
                return Err(Error::new(
                    SqlState::DependentObjectsStillExist,
                    format!("cannot rename schema \"{}\" because other objects depend on it", schema.name),
                )
                .with_detail(format!("The default of \"{}\".\"{}\" names it.", object.name, column.name))
                .with_hint("Drop the default first."));
            }
        }
        self.rename(schema, name)
    }

    /// A stored query knows what it reads, whatever it is called; a DEFAULT knows a sequence by its name only.
    pub(super) fn refuse_if_named(&self, object: &Object, what: &str) -> Result<()> {
        if matches!(object.kind, ObjectKind::Secret(_)) {
            return Ok(()); // Options know it by its OID.
        }
        // A table that is kept through a connection knows it by its OID, too.
        self.refuse_if_used(object, what, |user| {
            !user.reads.iter().any(|read| read.oid == object.oid) && user.remote().is_none()
        })
    }

    pub(super) fn refuse_if_read(&self, object: &Object, what: &str) -> Result<()> {
        self.refuse_if_used(object, what, |_| true)
    }

    fn refuse_if_used(&self, object: &Object, what: &str, counts: impl Fn(&Object) -> bool) -> Result<()> {
        let catalog = self.catalog()?;
        let counts = |user: &Object| user.index().is_none() && counts(user);
        let user = catalog.objects().find(|o| o.depends_on.contains(&object.oid) && counts(o));
        let Some(user) = user else { return Ok(()) };
        Err(Error::new(
            SqlState::DependentObjectsStillExist,
            format!("cannot {what} {} \"{}\" because other objects depend on it", object.kind_name(), object.name),
        )
        .with_detail(format!("{} \"{}\" names it in its query.", user.kind_name(), user.name))
        .with_hint("Drop what depends on it first."))
    }

    /// RENAME COLUMN of a table or a view.
    pub(super) fn rename_column(&mut self, object: &Arc<Object>, from: &str, to: &str) -> Result<()> {
        let mut renamed = object.as_ref().clone();
        let steps = match &mut renamed.kind {
            ObjectKind::Table(table) => {
                let quoted = quote_ident(from);
                if let Some(check) = table.checks.iter().find(|c| names_column(&c.expr, &quoted)) {
                    return Err(Error::new(
                        SqlState::DependentObjectsStillExist,
                        format!("cannot rename column \"{from}\": CHECK constraint \"{}\" names it", check.name),
                    )
                    .with_hint("Drop the constraint, rename the column, and add the constraint again."));
                }
                // Contents name their columns only in memory: the bytes stay as they are.
                vec![PlannedStep::Redefine(object.oid)]
            }
            ObjectKind::View(view) => {
                view.own_names = true;
                vec![]
            }
            ObjectKind::MaterializedView(view) => {
                refuse_if_replaced(object, self.catalog()?.as_ref())?;
                view.own_names = true;
                vec![]
            }
            _ => {
                return Err(Error::new(
                    SqlState::WrongObjectType,
                    format!("cannot rename columns of {} \"{}\"", object.kind_name(), object.name),
                ));
            }
        };
        let Some(column) = renamed.columns_mut().iter_mut().find(|c| c.name == from) else {
            return Err(Error::new(SqlState::UndefinedColumn, format!("column \"{from}\" does not exist")));
        };
        column.name = to.to_string();
        if object.columns().iter().any(|c| c.name == to) {
            return Err(Error::new(
                SqlState::DuplicateColumn,
                format!("column \"{to}\" of relation \"{}\" already exists", object.name),
            ));
        }
        self.change_catalog(vec![Change::Put(Box::new(renamed))], steps)?;
        self.readers_can_be_shown(object.oid)
    }

    /// The queries that read it can be written with its new names, and mean the same. (A window function takes a relation
    /// without other names for its columns.)
    pub(super) fn readers_can_be_shown(&self, oid: Oid) -> Result<()> {
        let names = self.names_for_ddl()?;
        for reader in names.catalog.objects().filter(|o| o.reads.iter().any(|read| read.oid == oid)) {
            let Some((_, path)) = reader.query() else { continue };
            if is_far(reader, &names.catalog) {
                continue; // Its other tables are on a server that nobody has asked.
            }
            let inside = Names { search_path: path.to_vec(), system: None, ..names.clone() };
            let text = present_query(&names.catalog, reader);
            definitions::stored_query(&text).and_then(|query| inside.plan(&query)).map_err(|error| {
                Error::new(
                    SqlState::DependentObjectsStillExist,
                    format!(
                        "the query of {} \"{}\" cannot be written with the new name",
                        reader.kind_name(),
                        reader.name
                    ),
                )
                .with_detail(error.to_string())
                .with_hint("Drop what depends on it first.")
            })?;
        }
        Ok(())
    }
}

/// Whether some of what it reads, through views or not, is on another server.
fn is_far(reader: &Object, catalog: &Catalog) -> bool {
    let far = |object: &Object| match &object.kind {
        ObjectKind::Connection(_) => true,
        ObjectKind::View(_) => is_far(object, catalog),
        _ => object.remote().is_some(),
    };
    reader.depends_on.iter().filter_map(|oid| catalog.get(*oid)).any(|object| far(object))
}

/// The names of a view that is being replaced are those of the replacement.
fn refuse_if_replaced(view: &Object, catalog: &Catalog) -> Result<()> {
    if !catalog.objects().any(|o| o.replaces() == Some(view.oid)) {
        return Ok(());
    }
    Err(Error::new(
        SqlState::ObjectNotInPrerequisiteState,
        format!("materialized view \"{}\" is just being replaced", view.name),
    )
    .with_hint("Rename the column when SHOW JOBS has the replacement no longer."))
}
