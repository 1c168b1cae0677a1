//! CREATE VIEW and CREATE MATERIALIZED VIEW.

use datafusion::sql::sqlparser::ast as sql;
use tidemark_catalog::{Catalog, Change, Column, MaterializedView, Object, ObjectKind, View, columns_of};
use tidemark_common::plan::Dataflow;
use tidemark_common::types::SqlType;
use tidemark_common::{Error, Result, SqlState};
use tidemark_sql::ast::{CreateMaterializedView, WithOptions};

use super::indexes::indexes_used;
use super::{already_exists, definitions, dependencies, lookups};
use crate::pg_catalog::output_names;
use crate::session::{Outcome, Session};
use crate::transaction::PlannedStep;

impl Session {
    pub(crate) fn create_view(&mut self, create: &sql::CreateView) -> Result<Outcome> {
        let done = || Ok(Outcome::Command("CREATE VIEW".into()));
        let target = self.target(&create.name, create.temporary)?;
        let before = self.existing(&target)?;
        if let Some(before) = &before {
            if create.if_not_exists {
                self.tell(format!("relation \"{}\" already exists, skipping", before.name));
                return done();
            }
            if !create.or_replace {
                return Err(already_exists(before));
            }
            if !matches!(before.kind, ObjectKind::View(_)) {
                return Err(Error::new(SqlState::WrongObjectType, format!("\"{}\" is not a view", before.name)));
            }
        }
        let idents: Vec<sql::Ident> = create.columns.iter().map(|c| c.name.clone()).collect();
        distinct_names(&create.query, &idents)?;
        let names = self.names_for_ddl()?;
        let plan = names.plan(&create.query)?;
        let path = names.search_path.clone();
        let depends_on = dependencies(&plan, &names.catalog, &create.query, &path)?;
        let idents: Vec<sql::Ident> = create.columns.iter().map(|c| c.name.clone()).collect();
        let columns = named_columns(columns_of(plan.schema().as_arrow()), &create.query, &idents)?;
        let view = View { columns, query: create.query.to_string(), search_path: path, own_names: !idents.is_empty() };
        let mut object = self.object(target, depends_on, ObjectKind::View(view))?;
        object.temporary = create.temporary;
        if let Some(before) = before {
            keeps_columns(&before, &object)?;
            if object.depends_on.contains(&before.oid)
                || names.catalog.dependants(before.oid).iter().any(|d| object.depends_on.contains(&d.oid))
            {
                return Err(Error::new(
                    SqlState::InvalidObjectDefinition,
                    format!("view \"{}\" cannot depend on itself", before.name),
                ));
            }
            object.oid = before.oid;
            object.comment.clone_from(&before.comment);
        }
        self.change_catalog(vec![Change::Put(Box::new(object))], vec![])?;
        done()
    }

    pub(crate) fn create_materialized_view(&mut self, create: &CreateMaterializedView) -> Result<Outcome> {
        let done = || Ok(Outcome::Command("CREATE MATERIALIZED VIEW".into()));
        let target = self.target(&create.name, false)?;
        let mut changes = Vec::new();
        let mut steps = Vec::new();
        let mut replaced = None;
        if let Some(before) = self.existing(&target)? {
            if create.if_not_exists {
                self.tell(format!("relation \"{}\" already exists, skipping", before.name));
                return done();
            }
            if !create.or_replace {
                return Err(already_exists(&before));
            }
            replaced = Some(before);
        }
        if create.with_no_data {
            return Err(Error::unsupported("WITH NO DATA is not supported")
                .with_hint("A materialized view is always up to date; leave WITH NO DATA out."));
        }
        let mut object = self.plan_materialized_view(create)?;
        object.schema = target.schema;
        object.name = target.name;
        if let Some(before) = replaced {
            let earlier = self.stand_in(&before, &mut object)?;
            changes.extend(earlier.iter().map(|oid| Change::Remove(*oid)));
            steps.extend(earlier.into_iter().map(PlannedStep::Drop));
        }
        steps.push(PlannedStep::Create(object.oid));
        changes.push(Change::Put(Box::new(object)));
        self.change_catalog(changes, steps)?;
        done()
    }

    /// Says which operators keep more and more.
    pub(super) fn tell_what_grows(&mut self, dataflow: &Dataflow, catalog: &Catalog) {
        let endless = |oid| catalog.get(oid).is_some_and(|object| is_endless(catalog, object));
        for growth in dataflow.growing(&endless) {
            self.notice_with_hint(format!("state grows for as long as rows come: {growth}"), growth.hint);
        }
    }

    /// The catalog object that a CREATE MATERIALIZED VIEW describes.
    pub(crate) fn plan_materialized_view(&mut self, create: &CreateMaterializedView) -> Result<Object> {
        let emit = create.emit;
        distinct_names(&create.query, &create.columns)?;
        let names = self.names_for_ddl()?;
        let path = names.search_path.clone();
        let env = self.database().environment.clone();
        let asked = lookups::asked(&names.remote, &names.catalog)?;
        let dataflow = definitions::dataflow(&create.query, &path, emit, None, &asked, &names.catalog, &env)?;
        let depends_on: std::collections::BTreeSet<_> = {
            let mut inputs = dataflow.inputs();
            inputs.extend(dependencies(&names.plan(&create.query)?, &names.catalog, &create.query, &path)?);
            inputs.extend(indexes_used(&dataflow, &names.catalog));
            inputs
        };
        self.tell_what_grows(&dataflow, &names.catalog);
        let output = dataflow.output();
        let columns = named_columns(columns_of(&output.schema), &create.query, &create.columns)?;
        stored_types(&columns)?;
        let view = MaterializedView {
            columns,
            query: create.query_text.clone(),
            search_path: path,
            own_names: !create.columns.is_empty(),
            emit,
            options: self.view_options(&create.options)?,
            key: output.properties.key.clone(),
            append_only: output.properties.append_only,
            watermark: output.properties.watermarks.first().copied(),
            fingerprint: dataflow.fingerprint(),
            storage: None,
            replaces: None,
        };
        let target = self.target(&create.name, false)?;
        let mut object = self.object(target, depends_on, ObjectKind::MaterializedView(view))?;
        object.lookups = dataflow.lookups().into_iter().collect();
        object.asked = asked;
        Ok(object)
    }

    /// WITH as it is stored; what it does not say, the session's settings do.
    fn view_options(&self, given: &WithOptions) -> Result<WithOptions> {
        let rate = match given_backfill_rate(given)? {
            Some(rate) => rate,
            None => parse_rate(&self.setting(BACKFILL_RATE).unwrap_or_default())?,
        };
        let limit = given_state_limit(given)?.map(|limit| (STATE_LIMIT.to_string(), limit.to_string()));
        Ok(rate_option(rate).into_iter().chain(limit).collect())
    }

    /// `ALTER MATERIALIZED VIEW .. SET backfill_rate_limit = ..`: for the rest of a backfill that is under way.
    pub(super) fn set_view_options(&mut self, object: &Object, given: &WithOptions) -> Result<()> {
        let ObjectKind::MaterializedView(view) = &object.kind else {
            return Err(Error::internal("not a materialized view"));
        };
        if given_state_limit(given)?.is_some() {
            return Err(Error::unsupported(format!("{STATE_LIMIT} cannot be changed"))
                .with_hint("CREATE OR REPLACE MATERIALIZED VIEW with another limit."));
        }
        let Some(rate) = given_backfill_rate(given)? else { return Ok(()) };
        let kept = view.options.iter().filter(|(key, _)| key != BACKFILL_RATE).cloned();
        let options = rate_option(rate).into_iter().chain(kept).collect();
        let view = MaterializedView { options, ..view.clone() };
        let object = Object { kind: ObjectKind::MaterializedView(view), ..object.clone() };
        let step = PlannedStep::LimitBackfill(object.oid, rate);
        self.change_catalog(vec![Change::Put(Box::new(object))], vec![step])
    }

    /// OR REPLACE: of the same kind, and nothing depends on it.
    pub(crate) fn replaceable(&self, before: &Object, kind: &str) -> Result<()> {
        if before.kind_name() != kind {
            return Err(Error::new(SqlState::WrongObjectType, format!("\"{}\" is not a {kind}", before.name)));
        }
        let dependants = self.catalog()?.dependants(before.oid);
        match dependants.iter().find(|d| d.index().is_none()) {
            None => Ok(()),
            Some(first) => Err(Error::new(
                SqlState::DependentObjectsStillExist,
                format!("cannot replace {kind} {} because other objects depend on it", before.name),
            )
            .with_detail(format!("{} {} depends on it.", first.kind_name(), first.name))
            .with_hint("Drop what depends on it first.")),
        }
    }
}

const BACKFILL_RATE: &str = "backfill_rate_limit";
const STATE_LIMIT: &str = "max_state_entries";

/// The limit of the backfill that options name; outer `None`: they do not.
fn given_backfill_rate(options: &WithOptions) -> Result<Option<Option<u64>>> {
    if let Some((key, _)) = options.iter().find(|(key, _)| key != BACKFILL_RATE && key != STATE_LIMIT) {
        let error = Error::invalid(format!("unrecognized option \"{key}\""));
        return Err(error.with_hint(format!("A materialized view has the options {BACKFILL_RATE} and {STATE_LIMIT}.")));
    }
    given(options, BACKFILL_RATE).map(parse_rate).transpose()
}

fn given<'a>(options: &'a WithOptions, name: &str) -> Option<&'a str> {
    options.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

/// Entries that the state of a view may have.
fn given_state_limit(options: &WithOptions) -> Result<Option<u64>> {
    let limit = given(options, STATE_LIMIT).map(|text| {
        text.parse().ok().filter(|limit| (1..=i64::MAX as u64).contains(limit)).ok_or_else(|| {
            Error::invalid(format!("option \"{STATE_LIMIT}\" must be a number of entries, 1 or more, not \"{text}\""))
        })
    });
    limit.transpose()
}

/// Rows a second; `None`: no limit.
fn parse_rate(text: &str) -> Result<Option<u64>> {
    match text.to_lowercase().as_str() {
        "default" | "-1" => Ok(None),
        number => number.parse().ok().filter(|rate| i64::try_from(*rate).is_ok()).map(Some).ok_or_else(|| {
            Error::invalid(format!("option \"{BACKFILL_RATE}\" must be rows a second, 0 or more, not \"{text}\""))
                .with_hint("0 lets the backfill stand still; DEFAULT or -1: no limit.")
        }),
    }
}

fn rate_option(rate: Option<u64>) -> WithOptions {
    rate.map(|rate| (BACKFILL_RATE.to_string(), rate.to_string())).into_iter().collect()
}

/// What a view in the catalog says.
pub(super) fn stored_backfill_rate(view: &MaterializedView) -> Result<Option<u64>> {
    Ok(given_backfill_rate(&view.options)?.flatten())
}

/// What a view in the catalog says.
pub(super) fn stored_state_limit(view: &MaterializedView) -> Result<Option<u64>> {
    given_state_limit(&view.options)
}

/// The query's columns under the names that the statement lists; all different.
pub(super) fn named_columns(mut columns: Vec<Column>, query: &sql::Query, names: &[sql::Ident]) -> Result<Vec<Column>> {
    // As the query has them: the plan gives a number to a second one of a name.
    if let Some(own) = output_names(&sql::Statement::Query(Box::new(query.clone())))
        && own.len() == columns.len()
    {
        columns.iter_mut().zip(own).for_each(|(column, name)| column.name = name);
    }
    if names.len() > columns.len() {
        return Err(Error::syntax("CREATE specifies more column names than columns"));
    }
    for (column, name) in columns.iter_mut().zip(names) {
        column.name = crate::session::fold(name);
    }
    refuse_twins(&columns.iter().map(|c| c.name.as_str()).collect::<Vec<_>>())?;
    Ok(columns)
}

/// A relation's columns have names of their own, where a plain SELECT's need not (the planner tells them apart).
fn distinct_names(query: &sql::Query, given: &[sql::Ident]) -> Result<()> {
    let Some(mut names) = output_names(&sql::Statement::Query(Box::new(query.clone()))) else { return Ok(()) };
    for (name, given) in names.iter_mut().zip(given) {
        *name = crate::session::fold(given);
    }
    refuse_twins(&names.iter().map(String::as_str).collect::<Vec<_>>())
}

fn refuse_twins(names: &[&str]) -> Result<()> {
    match names.iter().enumerate().find(|(i, name)| names[..*i].contains(name)) {
        None => Ok(()),
        Some((_, name)) => {
            Err(Error::new(SqlState::DuplicateColumn, format!("column \"{name}\" specified more than once"))
                .with_hint("Give the columns names of their own with AS."))
        }
    }
}

/// Every column has a type that can be stored.
pub(super) fn stored_types(columns: &[Column]) -> Result<()> {
    for column in columns {
        if let SqlType::Other(data_type) = &column.sql_type {
            return Err(Error::unsupported(format!(
                "column \"{}\" has type {data_type}, which cannot be stored",
                column.name
            ))
            .with_hint("Cast it to a SQL type."));
        }
    }
    Ok(())
}

/// CREATE OR REPLACE VIEW may only add columns at the end, as in Postgres.
pub(super) fn keeps_columns(before: &Object, after: &Object) -> Result<()> {
    let (old, new) = (before.columns(), after.columns());
    if new.len() < old.len() {
        return Err(Error::new(SqlState::InvalidTableDefinition, "cannot drop columns from view"));
    }
    for (old, new) in old.iter().zip(new) {
        if old.name != new.name {
            return Err(Error::new(
                SqlState::InvalidTableDefinition,
                format!("cannot change name of view column \"{}\" to \"{}\"", old.name, new.name),
            ));
        }
        if old.sql_type != new.sql_type {
            return Err(Error::new(
                SqlState::InvalidTableDefinition,
                format!(
                    "cannot change data type of view column \"{}\" from {} to {}",
                    old.name, old.sql_type, new.sql_type
                ),
            ));
        }
    }
    Ok(())
}

/// A source, or a view that hands on the rows of one and never takes any back.
fn is_endless(catalog: &Catalog, object: &Object) -> bool {
    match &object.kind {
        ObjectKind::Source(source) => source.key.is_empty(),
        ObjectKind::MaterializedView(view) if view.append_only => {
            object.depends_on.iter().filter_map(|oid| catalog.get(*oid)).any(|input| is_endless(catalog, input))
        }
        _ => false,
    }
}
