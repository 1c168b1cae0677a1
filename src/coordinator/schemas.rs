//! Schemas, sequences, comments, and the schema of a session's temporary tables.

use std::collections::BTreeSet;

use datafusion::sql::sqlparser::ast as sql;
use tidemark_catalog::{Change, Object, ObjectKind, SUPERUSER};
use tidemark_common::types::SqlType;
use tidemark_common::{Error, Oid, Result, SqlState};
use tidemark_sql::ast::{Comment, CommentObject};
use tidemark_sql::grammar::types::sql_type;

use super::already_exists;
use super::tables::sequence_for;
use crate::query::object_name;
use crate::session::{Outcome, Session, fold};

/// Refuses names that only system schemas may have.
pub(super) fn check_name(name: &str) -> Result<()> {
    if name.starts_with("pg_") {
        return Err(Error::new(SqlState::ReservedName, format!("unacceptable schema name \"{name}\""))
            .with_detail("The prefix \"pg_\" is reserved for system schemas."));
    }
    Ok(())
}

impl Session {
    pub(crate) fn create_schema(&mut self, name: &sql::SchemaName, if_not_exists: bool) -> Result<Outcome> {
        let done = || Ok(Outcome::Command("CREATE SCHEMA".into()));
        let name = match name {
            sql::SchemaName::Simple(name) | sql::SchemaName::NamedAuthorization(name, _) => object_name(name, "")?.1,
            sql::SchemaName::UnnamedAuthorization(role) => fold(role),
        };
        let catalog = self.catalog()?;
        if let Some(oid) = catalog.schema_oid(&name) {
            if if_not_exists {
                self.tell(format!("schema \"{name}\" already exists, skipping"));
                return done();
            }
            return Err(already_exists(catalog.expect(oid)?));
        }
        check_name(&name)?;
        self.add_schema(name, false)?;
        done()
    }

    fn add_schema(&mut self, name: String, temporary: bool) -> Result<Oid> {
        let object = Object {
            oid: self.database().new_oid(),
            schema: 0,
            name,
            owner: SUPERUSER,
            comment: None,
            depends_on: BTreeSet::new(),
            reads: Vec::new(),
            lookups: Vec::new(),
            asked: Vec::new(),
            temporary,
            kind: ObjectKind::Schema,
        };
        let oid = object.oid;
        self.change_catalog(vec![Change::Put(Box::new(object))], vec![])?;
        let catalog = self.catalog()?;
        self.info().note_schemas(&catalog);
        Ok(oid)
    }

    /// The schema of this session's temporary tables, made when it is first needed.
    pub(crate) fn temporary_schema(&mut self) -> Result<Oid> {
        let name = format!("pg_temp_{}", self.backend_key().0);
        if let Some(oid) = self.catalog()?.schema_oid(&name) {
            self.set_temporary_schema(oid);
            return Ok(oid);
        }
        let oid = self.add_schema(name, true)?;
        self.set_temporary_schema(oid);
        Ok(oid)
    }

    pub(crate) fn create_sequence(&mut self, create: &sql::Statement) -> Result<Outcome> {
        let done = || Ok(Outcome::Command("CREATE SEQUENCE".into()));
        let sql::Statement::CreateSequence { temporary, if_not_exists, name, data_type, sequence_options, .. } = create
        else {
            return Err(Error::internal("not a CREATE SEQUENCE"));
        };
        let target = self.target(name, *temporary)?;
        if let Some(before) = self.existing(&target)? {
            if *if_not_exists {
                self.tell(format!("relation \"{}\" already exists, skipping", before.name));
                return done();
            }
            return Err(already_exists(&before));
        }
        let of = data_type.as_ref().map(sql_type).transpose()?.unwrap_or(SqlType::BigInt);
        let sequence = sequence_for(&of, sequence_options)?;
        let mut object = self.object(target, BTreeSet::new(), ObjectKind::Sequence(sequence))?;
        object.temporary = *temporary;
        self.change_catalog(vec![Change::Put(Box::new(object))], vec![])?;
        done()
    }

    // ---- COMMENT ON -----------------------------------------------------------------------------------------------

    pub(crate) fn comment(&mut self, comment: &Comment) -> Result<Outcome> {
        let text = comment.comment.clone().filter(|c| !c.is_empty());
        let object = match comment.object_type {
            CommentObject::Object(object_type) => {
                let mut object = self.find_to_drop(object_type, &comment.name)?.as_ref().clone();
                object.comment = text;
                object
            }
            CommentObject::Column => self.with_column_comment(&comment.name, text)?,
        };
        self.change_catalog(vec![Change::Put(Box::new(object))], vec![])?;
        Ok(Outcome::Command("COMMENT".into()))
    }

    fn with_column_comment(&mut self, name: &sql::ObjectName, text: Option<String>) -> Result<Object> {
        let mut parts = name.0.clone();
        let column = parts.pop().and_then(|p| p.as_ident().map(fold)).unwrap_or_default();
        if parts.is_empty() {
            return Err(Error::syntax("column name must be qualified"));
        }
        let relation = crate::query::find_relation(
            self.catalog()?.as_ref(),
            &sql::ObjectName(parts),
            &self.settled_search_path(),
        )?;
        let mut object = relation.as_ref().clone();
        let found = object.columns_mut().iter_mut().find(|c| c.name == column);
        match found {
            Some(found) => found.comment = text,
            None => {
                return Err(Error::new(
                    SqlState::UndefinedColumn,
                    format!("column \"{column}\" of relation \"{}\" does not exist", relation.name),
                ));
            }
        }
        Ok(object)
    }
}
