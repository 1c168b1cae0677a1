//! CREATE SOURCE.

use std::sync::Arc;

use datafusion::sql::sqlparser::ast::ColumnDef;
use tidemark_catalog::{Change, Column, Format, ObjectKind, Source, Watermark, columns_of, columns_schema};
use tidemark_common::{Clock, Error, Result, SqlState};
use tidemark_connectors::SourceSpec;
use tidemark_sql::ast::CreateSource;
use tidemark_sql::grammar;

use super::event_time::EventTime;
use super::secrets::Resolved;
use super::{already_exists, connections, definitions, source_keys, ttl};
use crate::session::{Outcome, Session, fold};
use crate::transaction::PlannedStep;

impl Session {
    pub(crate) async fn create_source(&mut self, create: &CreateSource) -> Result<Outcome> {
        if let Some((from, table)) = &create.from {
            return self.create_shared_table(create, (from, table)).await;
        }
        let done = || Ok(Outcome::Command("CREATE SOURCE".into()));
        let target = self.target(&create.name, false)?;
        let mut changes = Vec::new();
        let mut steps = Vec::new();
        if let Some(before) = self.existing(&target)? {
            if create.if_not_exists {
                self.tell(format!("relation \"{}\" already exists, skipping", before.name));
                return done();
            }
            if !create.or_replace {
                return Err(already_exists(&before));
            }
            self.replaceable(&before, "source")?;
            changes.push(Change::Remove(before.oid));
            steps.push(PlannedStep::Drop(before.oid));
        }
        let source = self.source_object(create).await?;
        let besides = source.late_table.into_iter().chain(source.connection);
        let depends_on = source.secrets.iter().map(|(_, oid)| *oid).chain(besides).collect();
        let object = self.object(target, depends_on, ObjectKind::Source(source))?;
        let ObjectKind::Source(source) = &object.kind else { return done() };
        // Opened here for its errors; the engine opens its own.
        let def = definitions::source(&object, source, self.catalog()?.as_ref(), &self.database().environment)?;
        def.source.check().await?;
        if def.rows.is_none() {
            def.source.reader(&Default::default(), Some(&Default::default()), None).await?;
        }
        steps.push(PlannedStep::Create(object.oid));
        changes.push(Change::Put(Box::new(object)));
        self.change_catalog(changes, steps)?;
        done()
    }

    async fn source_object(&mut self, create: &CreateSource) -> Result<Source> {
        let env = self.database().environment.clone();
        let secrets = self.secret_options(&create.secrets)?;
        let mut options = create.options.clone();
        let ttl = ttl::Wanted::take(&mut options)?;
        let catalog = self.catalog()?;
        let connection = connections::of_connector(&mut options, &catalog)?;
        let secret_key = env.secret_key.as_ref();
        let resolved = connections::with_connection(&options, &secrets, connection, &catalog, secret_key)?;
        let format = create.format.as_ref().map(|f| Format {
            format: f.format.clone(),
            encode: f.encode.clone(),
            options: f.options.clone(),
        });
        let mut columns = declared_columns(create)?;
        let mut found_key = Vec::new();
        let has = |key: &str| resolved.options.iter().any(|(option, _)| option == key);
        let is_shared = |connector: &str| connector.eq_ignore_ascii_case("postgres-cdc") && !has("table.name");
        let connector = resolved.options.iter().find(|(key, _)| key == "connector").map(|(_, connector)| connector);
        let is_shared = !create.columns_from_data && connector.is_some_and(|connector| is_shared(connector));
        if columns.is_empty() && !is_shared {
            let spec = format.as_ref().map(definitions::format_spec);
            let (_, options) = EventTime::split(&resolved.options)?;
            let inferred = tidemark_connectors::infer_columns(&options, &resolved.secrets, spec.as_ref()).await?;
            columns = columns_of(inferred.as_ref());
            found_key = source_keys::found(inferred.as_ref())?;
            for column in &mut columns {
                column.nullable = true;
            }
        }
        let declared = columns.len();
        let include: Vec<(String, String)> = create
            .include
            .iter()
            .map(|i| (i.what.clone(), i.alias.as_ref().map_or_else(|| i.what.clone(), fold)))
            .collect();
        let names: Vec<&str> =
            columns.iter().map(|c| c.name.as_str()).chain(include.iter().map(|(_, name)| name.as_str())).collect();
        let mut key = source_keys::primary_key(create, &names)?;
        if key.is_empty() {
            key = found_key;
        }
        if !key.is_empty() && (create.watermark.is_some() || ttl.is_some()) {
            return Err(source_keys::rows_that_change());
        }
        let late_options = resolved.options.clone();
        columns.extend(included_columns(
            create,
            &columns,
            (&include, &key),
            format.as_ref(),
            resolved,
            env.clock.clone(),
        )?);
        source_keys::check_types(&columns, &key)?;
        for (i, column) in columns.iter().enumerate() {
            if columns[..i].iter().any(|c| c.name == column.name) {
                return Err(Error::new(
                    SqlState::DuplicateColumn,
                    format!("column \"{}\" specified more than once", column.name),
                ));
            }
        }
        let watermark = match &create.watermark {
            None => None,
            Some(w) => {
                let name = fold(&w.column);
                let column = columns.iter().position(|c| c.name == name).ok_or_else(|| {
                    Error::new(SqlState::UndefinedColumn, format!("column \"{name}\" of the watermark does not exist"))
                })?;
                Some(Watermark { column, expr: w.expr.to_string() })
            }
        };
        let ttl = ttl.map(|ttl| ttl.of(&columns, watermark.as_ref().map(|w| w.column))).transpose()?;
        let late_table = None;
        let mut source = Source {
            columns,
            declared,
            added: 0,
            include,
            watermark,
            options,
            secrets,
            format,
            late_table,
            ttl,
            connection,
            key,
            paths: create.paths.clone(),
            shared: None,
        };
        if source.watermark.is_some() {
            source.late_table = self.late_table(create, &source.columns, &late_options)?;
        }
        Ok(source)
    }
}

pub(super) fn declared_columns(create: &CreateSource) -> Result<Vec<Column>> {
    create.columns.iter().enumerate().map(|(at, column)| declared_column(column, at)).collect()
}

pub(super) fn declared_column(column: &ColumnDef, at: usize) -> Result<Column> {
    let mut options = column.options.iter().filter(|option| !source_keys::is_key(option));
    if let Some(option) = options.next() {
        let message = format!("{} on column \"{}\" of a source is not supported", option.option, column.name);
        return Err(Error::unsupported(message));
    }
    Ok(Column::new(fold(&column.name), grammar::types::sql_type(&column.data_type)?, at as i16 + 1))
}

/// The connector knows the types of what it can include.
fn included_columns(
    create: &CreateSource,
    declared: &[Column],
    (include, key): (&[(String, String)], &[usize]),
    format: Option<&Format>,
    resolved: Resolved,
    clock: Arc<dyn Clock>,
) -> Result<Vec<Column>> {
    let spec = SourceSpec {
        name: create.name.to_string(),
        columns: definitions::with_paths(&columns_schema(declared), &create.paths),
        added: 0,
        include: include.to_vec(),
        key: key.to_vec(),
        options: EventTime::split(&resolved.options)?.1,
        secrets: resolved.secrets,
        format: format.map(definitions::format_spec),
        shared: None,
        tables: Vec::new(),
        clock,
    };
    let all = columns_of(tidemark_connectors::open_source(spec)?.schema().as_ref());
    Ok(all.into_iter().skip(declared.len()).collect())
}
