//! CREATE TABLE .. WITH (strategy = ..): the columns and the key that a strategy needs, and the strategy back from the catalog.

use datafusion::sql::sqlparser::ast as sql;
use tidemark_catalog::{Column, Key, Object, ObjectKind, Table, TableLoad};
use tidemark_common::{Error, Result, SqlState};
use tidemark_connectors::load::{self, Declared, Load, Strategy};

use super::tables::{Draft, new_column};
use crate::session::{Session, fold};

/// How rows are loaded into a table; `None`: as any INSERT says.
pub(crate) fn load_of(object: &Object) -> Result<Option<Load>> {
    let ObjectKind::Table(Table { load: Some(stored), columns, .. }) = &object.kind else { return Ok(None) };
    let declared: Vec<Declared> =
        columns.iter().filter(|column| !stored.own.contains(&column.name)).map(declared_column).collect();
    let key = declared_key(object).map(|key| names(columns, &key.columns));
    let unique = unique_of(object, columns);
    let table = load::Table { name: &object.name, columns: &declared, primary_key: key.as_deref(), unique: &unique };
    let parsed = Load::parse(&stored.options, table)?;
    Ok(parsed.map(|(load, _)| load))
}

/// The key as CREATE TABLE said it.
pub(crate) fn declared_key(object: &Object) -> Option<&Key> {
    let ObjectKind::Table(table) = &object.kind else { return None };
    match &table.load {
        Some(load) => load.declared_key.as_ref(),
        None => table.primary_key.as_ref(),
    }
}

fn unique_of(object: &Object, columns: &[Column]) -> Vec<Vec<String>> {
    let ObjectKind::Table(table) = &object.kind else { return Vec::new() };
    table.unique.iter().map(|key| names(columns, &key.columns)).collect()
}

fn names(columns: &[Column], positions: &[usize]) -> Vec<String> {
    positions.iter().map(|at| columns[*at].name.clone()).collect()
}

fn declared_column(column: &Column) -> Declared {
    Declared { name: column.name.clone(), sql_type: column.sql_type.clone() }
}

/// The options of a CREATE TABLE.
pub(super) fn options(create: &sql::CreateTable) -> Result<Vec<(String, String)>> {
    let sql::CreateTableOptions::With(options) = &create.table_options else { return Ok(Vec::new()) };
    let option = |option: &sql::SqlOption| match option {
        sql::SqlOption::KeyValue { key, value } => {
            let value = match value {
                sql::Expr::Value(value) => value.value.clone().into_string().unwrap_or_else(|| value.to_string()),
                other => other.to_string(),
            };
            Ok((fold(key), value))
        }
        other => Err(Error::unsupported(format!("table option {other} is not supported"))
            .with_hint("Options are written key = 'value'.")),
    };
    options.iter().map(option).collect()
}

impl Session {
    /// Adds to a table in the making what its strategy needs.
    pub(super) fn draft_load(&mut self, draft: &mut Draft, options: Vec<(String, String)>) -> Result<()> {
        let declared: Vec<Declared> = draft.columns.iter().map(declared_column).collect();
        let key = draft.primary_key.as_ref().map(|key| names(&draft.columns, &key.columns));
        let unique: Vec<Vec<String>> = draft.unique.iter().map(|key| names(&draft.columns, &key.columns)).collect();
        let table = load::Table { name: &draft.name, columns: &declared, primary_key: key.as_deref(), unique: &unique };
        let Some((load, notices)) = Load::parse(&options, table)? else { return Ok(()) };
        notices.into_iter().for_each(|notice| self.tell(notice));
        self.check_ttl(&load)?;
        let own = load.own_columns();
        for own in &own {
            let mut column = new_column(own.name.clone(), own.sql_type.clone(), draft.columns.len());
            column.nullable = own.nullable;
            draft.columns.push(column);
        }
        if let Strategy::Append { loaded_at: Some(name), .. } = &load.strategy {
            let filled = draft.columns.iter_mut().filter(|column| column.name == *name);
            filled.for_each(|column| column.default = Some("now()".into()));
        }
        let declared_key = draft.primary_key.clone();
        if load.compares() {
            self.draft_load_key(draft, &load)?;
        }
        let own = own.into_iter().map(|own| own.name).collect();
        draft.load = Some(TableLoad { options, own, declared_key });
        Ok(())
    }

    /// The key by which rows are found, if another one was declared or none.
    fn draft_load_key(&mut self, draft: &mut Draft, load: &Load) -> Result<()> {
        let position = |name: &String| draft.columns.iter().position(|column| column.name == *name);
        let wanted = load.table_key().iter().map(position).collect::<Option<Vec<_>>>();
        let wanted = wanted.ok_or_else(|| Error::internal("a key of the strategy is no column"))?;
        let versions = matches!(load.strategy, Strategy::Scd2(_));
        let keys = &wanted[..load.keys.len()];
        let same = |columns: &[usize]| columns.len() == keys.len() && columns.iter().all(|c| keys.contains(c));
        if versions {
            if let Some(other) = draft.unique.iter().find(|key| !same(&key.columns)) {
                return Err(Error::new(
                    SqlState::InvalidTableDefinition,
                    format!("constraint \"{}\" would refuse a second version of a row", other.name),
                )
                .with_hint("A table of strategy scd2 has one key, by which its rows are told apart."));
            }
            // Of the same things; the versions of them are told apart by when they begin, too.
            draft.unique.clear();
        }
        if draft.primary_key.is_none() || versions {
            let name =
                draft.primary_key.as_ref().map_or_else(|| format!("{}_pkey", draft.name), |key| key.name.clone());
            draft.primary_key = Some(Key { oid: self.database().new_oid(), name, columns: wanted });
        }
        Ok(())
    }

    /// Columns that a strategy compares, or adds itself, stay as they are: with others, every row would have changed.
    pub(super) fn refuse_if_loaded_by(&self, object: &Object, column: &str) -> Result<()> {
        let Some(load) = load_of(object)? else { return Ok(()) };
        let own = load.own_columns().iter().any(|own| own.name == column);
        if !own && (!load.compares() || !object.columns().iter().any(|c| c.name == column)) {
            return Ok(());
        }
        let message = format!("column \"{column}\" of \"{}\" is part of its strategy {}", object.name, load.name());
        Err(Error::new(SqlState::DependentObjectsStillExist, message)
            .with_hint("Make a table with other columns, and load it from this one."))
    }

    fn check_ttl(&self, load: &Load) -> Result<()> {
        let Strategy::Scd2(scd2) = &load.strategy else { return Ok(()) };
        let Some(ttl) = &scd2.ttl else { return Ok(()) };
        let qualifier = tidemark_sql::grammar::interval::Qualifier::default();
        let positive = |i: &tidemark_sql::grammar::interval::Interval| i.months > 0 || i.days > 0 || i.micros > 0;
        match tidemark_sql::grammar::interval::parse(ttl, qualifier).ok().filter(positive) {
            Some(_) => Ok(()),
            None => Err(Error::invalid(format!("option \"ttl\" must be a time such as '90 days', not \"{ttl}\""))),
        }
    }
}
