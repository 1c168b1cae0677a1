//! Tables of a source that has none itself: `CREATE TABLE name (columns) FROM source TABLE 'schema.table'`.
//!
//! ```text
//!   CREATE SOURCE pg WITH (connector = 'postgres-cdc', ..)    a slot, a publication: what the engine reads
//!   CREATE TABLE a (*) FROM pg TABLE 'public.a'   ┐ rows that are kept here: what queries read
//!   CREATE TABLE b (*) FROM pg TABLE 'public.b'   ┘ each makes the engine read pg anew, with one more
//! ```

use std::sync::Arc;

use datafusion::sql::sqlparser::ast as sql;
use tidemark_catalog::{Catalog, Change, Object, ObjectKind, Shared, Source, columns_of};
use tidemark_common::{Error, Oid, Result, SqlState};
use tidemark_connectors::TableSpec;
use tidemark_sql::ast::CreateSource;

use super::definitions::Environment;
use super::secrets::Resolved;
use super::sources::declared_columns;
use super::{already_exists, connections, definitions, source_keys};
use crate::query::find_relation;
use crate::session::{Outcome, Session};
use crate::transaction::PlannedStep;

impl Session {
    pub(super) async fn create_shared_table(
        &mut self,
        create: &CreateSource,
        (from, table): (&sql::ObjectName, &str),
    ) -> Result<Outcome> {
        let done = || Ok(Outcome::Command("CREATE TABLE".into()));
        let target = self.target(&create.name, false)?;
        if let Some(before) = self.existing(&target)? {
            if create.if_not_exists {
                self.tell(format!("relation \"{}\" already exists, skipping", before.name));
                return done();
            }
            return Err(already_exists(&before));
        }
        if create.or_replace || create.watermark.is_some() || !create.include.is_empty() || !create.paths.is_empty() {
            return Err(Error::unsupported(format!("a table of source \"{from}\" has columns and a primary key only"))
                .with_hint("CREATE TABLE name (*) FROM source TABLE 'schema.table'"));
        }
        let parent = find_relation(&*self.catalog()?, from, &self.settled_search_path())?;
        let ObjectKind::Source(of) = &parent.kind else { return Err(no_source_of_tables(&parent)) };
        if !of.is_shared() {
            return Err(no_source_of_tables(&parent));
        }
        let (schema, name) = table.split_once('.').unwrap_or(("public", table));
        let own =
            [("schema.name", schema), ("table.name", name)].map(|(key, value)| (key.to_string(), value.to_string()));
        self.refuse_again(&parent, &own, table)?;
        let mut source = Source {
            columns: declared_columns(create)?,
            options: [("connector".to_string(), "postgres-cdc".to_string())].into_iter().chain(own).collect(),
            shared: Some(Shared { source: parent.oid, table: table.to_string() }),
            ..Source::default()
        };
        if source.columns.is_empty() {
            self.take_columns(&mut source).await?;
        } else {
            let names: Vec<&str> = source.columns.iter().map(|column| column.name.as_str()).collect();
            source.key = source_keys::primary_key(create, &names)?;
        }
        source.declared = source.columns.len();
        source_keys::check_types(&source.columns, &source.key)?;
        let object = self.object(target, [parent.oid].into(), ObjectKind::Source(source))?;
        let ObjectKind::Source(source) = &object.kind else { return done() };
        let def = definitions::source(&object, source, self.catalog()?.as_ref(), &self.database().environment)?;
        def.source.check().await?;
        let steps = vec![PlannedStep::Create(object.oid), PlannedStep::Redefine(parent.oid)];
        self.change_catalog(vec![Change::Put(Box::new(object))], steps)?;
        done()
    }

    /// The columns and the key that the table has.
    async fn take_columns(&mut self, source: &mut Source) -> Result<()> {
        let env = self.database().environment.clone();
        let resolved = resolved(source, self.catalog()?.as_ref(), &env)?;
        let inferred = tidemark_connectors::infer_columns(&resolved.options, &resolved.secrets, None).await?;
        source.columns = columns_of(inferred.as_ref());
        source.columns.iter_mut().for_each(|column| column.nullable = true);
        source.key = source_keys::found(inferred.as_ref())?;
        Ok(())
    }

    /// A table is read once: what the other side says of it is told once.
    fn refuse_again(&self, parent: &Object, own: &[(String, String)], table: &str) -> Result<()> {
        let catalog = self.catalog()?;
        let has_all = |child: &&Source| own.iter().all(|pair| child.options.contains(pair));
        match children(&catalog, parent).find(|(_, child)| has_all(child)) {
            None => Ok(()),
            Some((object, _)) => Err(Error::new(
                SqlState::DuplicateObject,
                format!("table '{table}' of source \"{}\" is there already: \"{}\"", parent.name, object.name),
            )
            .with_hint("A view can have other columns of it.")),
        }
    }
}

fn no_source_of_tables(object: &Object) -> Error {
    Error::new(SqlState::WrongObjectType, format!("\"{}\" is not a source that has tables", object.name))
        .with_hint("CREATE SOURCE pg WITH (connector = 'postgres-cdc', ..), without columns and without table.name.")
}

/// The tables of a source.
fn children<'a>(catalog: &'a Catalog, parent: &Object) -> impl Iterator<Item = (&'a Arc<Object>, &'a Source)> {
    let oid = parent.oid;
    catalog.objects().filter_map(move |object| match &object.kind {
        ObjectKind::Source(source) if source.shared.as_ref().is_some_and(|of| of.source == oid) => {
            Some((object, source))
        }
        _ => None,
    })
}

/// What the connector is to read for a source that has tables.
pub(super) fn tables(catalog: &Catalog, parent: &Object) -> Vec<TableSpec> {
    let table = |(object, source): (&Arc<Object>, &Source)| TableSpec {
        id: object.oid,
        name: object.name.clone(),
        columns: definitions::source_schema(object),
        added: source.added,
        key: source.key.clone(),
        options: source.options.iter().filter(|(key, _)| key != "connector").cloned().collect(),
    };
    children(catalog, parent).map(table).collect()
}

/// The tables that share a source.
pub(super) fn oids(catalog: &Catalog, object: &Object) -> Vec<Oid> {
    tables(catalog, object).iter().map(|table| table.id).collect()
}

/// A source's options with those of its connection, and of the source that it is a table of.
pub(super) fn resolved(source: &Source, catalog: &Catalog, env: &Environment) -> Result<Resolved> {
    let key = env.secret_key.as_ref();
    let own = || connections::with_connection(&source.options, &source.secrets, source.connection, catalog, key);
    let Some(shared) = &source.shared else { return own() };
    let ObjectKind::Source(parent) = &catalog.expect(shared.source)?.kind else {
        return Err(Error::internal("a table of what is no source"));
    };
    let mut all = resolved(parent, catalog, env)?;
    all.options.extend(source.options.iter().filter(|(key, _)| key != "connector").cloned());
    Ok(all)
}

/// What the engine reads anew when these go.
pub(super) fn readers_of(gone: &[Arc<Object>]) -> Vec<PlannedStep> {
    let mut steps: Vec<PlannedStep> = Vec::new();
    for object in gone {
        let ObjectKind::Source(source) = &object.kind else { continue };
        let Some(shared) = &source.shared else { continue };
        let step = PlannedStep::Redefine(shared.source);
        if !gone.iter().any(|other| other.oid == shared.source) && !steps.contains(&step) {
            steps.push(step);
        }
    }
    steps
}
