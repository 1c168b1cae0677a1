//! ALTER TABLE, and ALTER of views, sources and sinks. Renaming is in [`super::rename`].
//!
//! What does not touch the rows changes the catalog alone. What does (a column added, dropped, or of another type) gives the
//! table new contents under a new generation, within the same commit; views that read the table keep reading their columns,
//! which is why a column in use cannot be dropped or change its type.

use std::sync::Arc;

use datafusion::sql::sqlparser::ast as sql;
use tidemark_catalog::{Change, Check, Column, Object, ObjectKind, Table, quote_ident};
use tidemark_common::{Error, Result, SqlState};
use tidemark_sql::ast::{Alter, AlterAction, ObjectType};

use super::drop::is_missing;
use super::tables::{column_type, new_column};
use super::{already_exists, definitions};
use super::{event_time, ttl};
use crate::query::object_name;
use crate::session::{Outcome, Session, fold};
use crate::transaction::PlannedStep;

impl Session {
    pub(crate) async fn alter_table(&mut self, alter: &sql::AlterTable) -> Result<Outcome> {
        let done = || Ok(Outcome::Command("ALTER TABLE".into()));
        let (schema, name) = object_name(&alter.name, &self.catalog()?.database)?;
        let Some(object) = self.catalog()?.find(schema.as_deref(), &name, &self.settled_search_path()).cloned() else {
            if alter.if_exists {
                self.tell(format!("relation \"{name}\" does not exist, skipping"));
                return done();
            }
            return Err(Error::new(SqlState::UndefinedTable, format!("relation \"{name}\" does not exist")));
        };
        for operation in &alter.operations {
            let object = self.catalog()?.expect(object.oid)?.clone();
            self.alter_once(&object, operation).await?;
        }
        done()
    }

    async fn alter_once(&mut self, object: &Arc<Object>, operation: &sql::AlterTableOperation) -> Result<()> {
        use sql::AlterTableOperation as Op;
        if !matches!(operation, Op::RenameTable { .. } | Op::OwnerTo { .. }) {
            self.refuse_if_remote(object, "alter")?;
        }
        match operation {
            Op::RenameTable { table_name: sql::RenameTableNameKind::To(name) | sql::RenameTableNameKind::As(name) } => {
                return self.rename(object, &object_name(name, "")?.1);
            }
            Op::OwnerTo { new_owner } => return self.check_owner(&new_owner.to_string()),
            Op::RenameColumn { old_column_name, new_column_name } => {
                event_time::refuse_if_late_table(self.catalog()?.as_ref(), object, "rename a column of")?;
                self.refuse_if_normalized(object, &fold(old_column_name), operation)?;
                return self.rename_column(object, &fold(old_column_name), &fold(new_column_name));
            }
            _ => {}
        }
        if let (true, Op::AddColumn { if_not_exists, column_def, .. }) = (object.is_table_of_source(), operation) {
            return self.add_source_column(object, column_def, None, *if_not_exists).await;
        }
        let ObjectKind::Table(table) = &object.kind else {
            return Err(Error::new(SqlState::WrongObjectType, format!("\"{}\" is not a table", object.name)));
        };
        if let Op::RenameColumn { old_column_name: name, .. } | Op::AlterColumn { column_name: name, .. } = operation {
            self.refuse_if_loaded_by(object, &fold(name))?;
            self.refuse_if_normalized(object, &fold(name), operation)?;
        }
        if let Op::DropColumn { column_names, .. } = operation {
            for name in column_names.iter().map(fold) {
                self.refuse_if_loaded_by(object, &name)?;
                self.refuse_if_normalized(object, &name, operation)?;
                ttl::refuse_if_expired_by(object, &name)?;
            }
        }
        event_time::refuse_if_late_table(self.catalog()?.as_ref(), object, "ALTER TABLE")?;
        if let Op::AlterColumn { column_name, op: sql::AlterColumnOperation::SetDataType { .. } } = operation {
            ttl::refuse_if_expired_by(object, &fold(column_name))?;
        }
        match operation {
            Op::AddColumn { if_not_exists, column_def, .. } => {
                self.add_column(object, table, column_def, *if_not_exists).await
            }
            Op::DropColumn { column_names, if_exists, drop_behavior, .. } => {
                let cascade = matches!(drop_behavior, Some(sql::DropBehavior::Cascade));
                for name in column_names {
                    self.drop_column(object, &fold(name), *if_exists, cascade).await?;
                }
                Ok(())
            }
            Op::AlterColumn { column_name, op } => self.alter_column(object, table, &fold(column_name), op).await,
            Op::AddConstraint { constraint, .. } => self.add_constraint(object, table, constraint).await,
            Op::DropConstraint { name, if_exists, .. } => self.drop_constraint(object, table, &fold(name), *if_exists),
            other => Err(Error::unsupported(format!("ALTER TABLE .. {other} is not supported"))),
        }
    }

    fn put(&mut self, object: Object) -> Result<()> {
        self.change_catalog(vec![Change::Put(Box::new(object))], vec![])
    }

    fn put_table(&mut self, object: &Object, table: Table) -> Result<()> {
        self.put(Object { kind: ObjectKind::Table(table), ..object.clone() })
    }

    fn check_owner(&self, owner: &str) -> Result<()> {
        let owner = owner.trim_matches('"').to_lowercase();
        if owner == self.catalog()?.superuser || owner == "current_user" || owner == "session_user" {
            return Ok(());
        }
        Err(Error::new(SqlState::UndefinedObject, format!("role \"{owner}\" does not exist")))
    }

    async fn add_column(
        &mut self,
        object: &Arc<Object>,
        table: &Table,
        def: &sql::ColumnDef,
        if_not_exists: bool,
    ) -> Result<()> {
        let name = fold(&def.name);
        if table.columns.iter().any(|c| c.name == name) {
            if if_not_exists {
                self.tell(format!("column \"{name}\" of relation \"{}\" already exists, skipping", object.name));
                return Ok(());
            }
            return Err(Error::new(
                SqlState::DuplicateColumn,
                format!("column \"{name}\" of relation \"{}\" already exists", object.name),
            ));
        }
        let mut column = new_column(name.clone(), column_type(&def.data_type)?, table.columns.len());
        column.attnum = table.columns.iter().map(|c| c.attnum).max().unwrap_or(0) + 1;
        let mut checks = table.checks.clone();
        for option in &def.options {
            match &option.option {
                sql::ColumnOption::Null => {}
                sql::ColumnOption::NotNull => column.nullable = false,
                sql::ColumnOption::Default(expr) => column.default = Some(expr.to_string()),
                sql::ColumnOption::Options(clause) => super::normalize::set(&mut column, clause)?,
                sql::ColumnOption::Check(check) => checks.push(Check {
                    oid: self.database().new_oid(),
                    name: option.name.as_ref().map_or_else(|| format!("{}_{name}_check", object.name), fold),
                    expr: check.expr.to_string(),
                }),
                other => {
                    return Err(Error::unsupported(format!("ADD COLUMN with {other} is not supported"))
                        .with_hint("Add the column first, then the constraint."));
                }
            }
        }
        let value = super::normalize::value_when_added(&column)?;
        let mut columns = table.columns.clone();
        columns.push(column);
        self.check_normalized(&object.name, &columns)?;
        let mut values: Vec<String> = table.columns.iter().map(|c| quote_ident(&c.name)).collect();
        values.push(value);
        let after = Table { columns, checks, generation: table.generation + 1, ..table.clone() };
        self.rewrite_table(object, after, &values).await
    }

    async fn drop_column(&mut self, object: &Arc<Object>, name: &str, if_exists: bool, cascade: bool) -> Result<()> {
        let object = self.catalog()?.expect(object.oid)?.clone();
        let ObjectKind::Table(table) = &object.kind else { return Ok(()) };
        let Some(position) = table.columns.iter().position(|c| c.name == name) else {
            if if_exists {
                self.tell(format!("column \"{name}\" of relation \"{}\" does not exist, skipping", object.name));
                return Ok(());
            }
            return Err(no_column(name, &object));
        };
        self.refuse_if_read(&object, &format!("drop column {name} of"))?;
        let uses = |columns: &[usize]| columns.contains(&position);
        let in_key = table.primary_key.iter().chain(&table.unique).any(|k| uses(&k.columns) && k.columns.len() > 1);
        if in_key && !cascade {
            return Err(Error::new(
                SqlState::DependentObjectsStillExist,
                format!("cannot drop column {name} of table {} because other objects depend on it", object.name),
            )
            .with_hint("Use DROP COLUMN ... CASCADE to drop the constraint too."));
        }
        let shift = |key: &tidemark_catalog::Key| tidemark_catalog::Key {
            columns: key.columns.iter().map(|c| if *c > position { c - 1 } else { *c }).collect(),
            ..key.clone()
        };
        let mut columns = table.columns.clone();
        columns.remove(position);
        let quoted = quote_ident(name);
        let after = Table {
            primary_key: table.primary_key.as_ref().filter(|k| !uses(&k.columns)).map(shift),
            unique: table.unique.iter().filter(|k| !uses(&k.columns)).map(shift).collect(),
            checks: table.checks.iter().filter(|c| !names_column(&c.expr, &quoted)).cloned().collect(),
            generation: table.generation + 1,
            columns,
            ..table.clone()
        };
        let values: Vec<String> = after.columns.iter().map(|c| quote_ident(&c.name)).collect();
        self.drop_indexed_column(object.oid, position)?;
        self.rewrite_table(&object, after, &values).await
    }

    async fn alter_column(
        &mut self,
        object: &Arc<Object>,
        table: &Table,
        name: &str,
        operation: &sql::AlterColumnOperation,
    ) -> Result<()> {
        use sql::AlterColumnOperation as Op;
        let Some(position) = table.columns.iter().position(|c| c.name == name) else {
            return Err(no_column(name, object));
        };
        let mut after = table.clone();
        let column: &mut Column = &mut after.columns[position];
        match operation {
            Op::SetDefault { value } => column.default = Some(value.to_string()),
            Op::DropDefault => column.default = None,
            Op::DropNotNull => {
                if table.primary_key.as_ref().is_some_and(|k| k.columns.contains(&position)) {
                    return Err(Error::new(
                        SqlState::InvalidTableDefinition,
                        format!("column \"{name}\" is in a primary key"),
                    ));
                }
                column.nullable = true;
            }
            Op::SetNotNull => {
                column.nullable = false;
                let values: Vec<String> = table.columns.iter().map(|c| quote_ident(&c.name)).collect();
                after.generation += 1;
                return self.rewrite_table(object, after, &values).await;
            }
            Op::SetDataType { data_type, using, .. } => {
                self.refuse_if_read(object, &format!("change the type of column {name} of"))?;
                column.sql_type = column_type(data_type)?;
                let mut values: Vec<String> = table.columns.iter().map(|c| quote_ident(&c.name)).collect();
                values[position] = match using {
                    Some(expr) => expr.to_string(),
                    None if !crate::session::converts(&table.columns[position].sql_type, &column.sql_type) => {
                        return Err(Error::new(
                            SqlState::DatatypeMismatch,
                            format!("column \"{name}\" cannot be cast automatically to type {}", column.sql_type),
                        )
                        .with_hint(format!("You might need to specify \"USING {name}::{}\".", column.sql_type)));
                    }
                    None => format!("CAST({} AS {data_type})", quote_ident(name)),
                };
                after.generation += 1;
                return self.rewrite_table(object, after, &values).await;
            }
            Op::AddGenerated { .. } => {
                return Err(Error::unsupported("ADD GENERATED is not supported")
                    .with_hint("SET DEFAULT nextval('a_sequence') does the same."));
            }
        }
        let oid = object.oid;
        let object = Object { kind: ObjectKind::Table(after), ..object.as_ref().clone() };
        self.change_catalog(vec![Change::Put(Box::new(object))], vec![PlannedStep::Redefine(oid)])
    }

    async fn add_constraint(
        &mut self,
        object: &Arc<Object>,
        table: &Table,
        constraint: &sql::TableConstraint,
    ) -> Result<()> {
        let mut after = self.table_with_constraint(object, table, constraint)?;
        after.generation += 1;
        // Writing all rows again checks them against the new constraint.
        let values: Vec<String> = table.columns.iter().map(|c| quote_ident(&c.name)).collect();
        self.rewrite_table(object, after, &values).await
    }

    fn drop_constraint(&mut self, object: &Arc<Object>, table: &Table, name: &str, if_exists: bool) -> Result<()> {
        let mut after = table.clone();
        after.checks.retain(|c| c.name != name);
        if after.checks.len() < table.checks.len() {
            return self.put_table(object, after);
        }
        if table.primary_key.iter().chain(&table.unique).any(|k| k.name == name) {
            return Err(Error::unsupported(format!("dropping the key \"{name}\" is not supported"))
                .with_hint("Make a table without it by CREATE TABLE .. AS SELECT."));
        }
        if if_exists {
            self.tell(format!("constraint \"{name}\" of relation \"{}\" does not exist, skipping", object.name));
            return Ok(());
        }
        Err(Error::new(
            SqlState::UndefinedObject,
            format!("constraint \"{name}\" of relation \"{}\" does not exist", object.name),
        ))
    }

    /// Gives a table new contents: for each row, `values` over the old one.
    pub(super) async fn rewrite_table(&mut self, object: &Arc<Object>, after: Table, values: &[String]) -> Result<()> {
        let names = self.names_for_ddl()?;
        let from = self.catalog()?.qualified_name(object);
        let query = definitions::stored_query(&format!("SELECT {} FROM {from}", values.join(", ")))?;
        let plan = names.plan(&query)?;
        let rows = self.rows_of(&names, plan).await?;
        self.forget_table(object.oid)?;
        let oid = object.oid;
        let object = Object { kind: ObjectKind::Table(after), ..object.as_ref().clone() };
        let step = match self.current_transaction()?.steps.contains(&PlannedStep::Create(oid)) {
            true => vec![],
            false => vec![PlannedStep::ReplaceTable(oid)],
        };
        self.change_catalog(vec![Change::Put(Box::new(object))], step)?;
        let object = self.catalog()?.expect(oid)?.clone();
        self.insert_batches(&object, rows).await
    }

    // ---- ALTER of the rest ------------------------------------------------------------------------------------------

    pub(crate) async fn alter_object(&mut self, alter: &Alter) -> Result<Outcome> {
        let kind = super::drop::kind_words(alter.object_type);
        let done = || Ok(Outcome::Command(format!("ALTER {}", kind.to_uppercase())));
        let object = match self.find_to_drop(alter.object_type, &alter.name) {
            Ok(object) => object,
            Err(error) if alter.if_exists && is_missing(&error) => {
                self.tell(format!("{}, skipping", error.message()));
                return done();
            }
            Err(error) => return Err(error),
        };
        match &alter.action {
            AlterAction::Rename(name) if object.kind == ObjectKind::Schema => {
                self.rename_schema(&object, &fold(name))?
            }
            AlterAction::Rename(name) => self.rename(&object, &fold(name))?,
            AlterAction::RenameColumn(from, to) => self.rename_column(&object, &fold(from), &fold(to))?,
            AlterAction::SetSchema(_)
                if matches!(
                    object.kind,
                    ObjectKind::Secret(_) | ObjectKind::Connection(_) | ObjectKind::Pipeline(_)
                ) =>
            {
                return Err(Error::new(SqlState::WrongObjectType, format!("a {kind} is in no schema")));
            }
            AlterAction::SetSchema(schema) => {
                let schema = self.catalog()?.schema(&fold(schema))?;
                if let Some(taken) = self.catalog()?.find_in(schema, &object.name) {
                    return Err(already_exists(taken));
                }
                self.refuse_if_named(&object, "move")?;
                let mut moved = vec![Object { schema, ..object.as_ref().clone() }];
                for (index, _) in self.catalog()?.indexes_of(object.oid) {
                    if let Some(taken) = self.catalog()?.find_in(schema, &index.name) {
                        return Err(already_exists(taken));
                    }
                    moved.push(Object { schema, ..index.as_ref().clone() });
                }
                self.change_catalog(moved.into_iter().map(|o| Change::Put(Box::new(o))).collect(), vec![])?;
                self.readers_can_be_shown(object.oid)?;
            }
            AlterAction::OwnerTo(owner) => self.check_owner(owner)?,
            AlterAction::Pause | AlterAction::Resume if alter.object_type == ObjectType::Pipeline => {
                self.pause_pipeline(&object, alter.action == AlterAction::Pause)?
            }
            AlterAction::ResetWatermark => self.reset_watermark(&object).await?,
            AlterAction::Pause | AlterAction::Resume => {
                if !matches!(alter.object_type, ObjectType::Source | ObjectType::Sink) {
                    return Err(Error::unsupported(format!("a {kind} cannot be paused"))
                        .with_hint("Pause the source that it reads."));
                }
                if object.is_table_of_source() {
                    return Err(Error::unsupported(format!("\"{}\" cannot be paused by itself", object.name))
                        .with_hint("Pause the source that it is a table of: its tables are read together."));
                }
                let paused = alter.action == AlterAction::Pause;
                self.change_catalog(vec![], vec![PlannedStep::Pause(object.oid, paused)])?;
            }
            AlterAction::AddColumn { if_not_exists, column, path } => {
                self.add_source_column(&object, column, path.as_deref(), *if_not_exists).await?
            }
            AlterAction::Restart(start) => {
                let ObjectKind::Sequence(sequence) = &object.kind else {
                    return Err(Error::new(
                        SqlState::WrongObjectType,
                        format!("\"{}\" is not a sequence", object.name),
                    ));
                };
                let db = self.database();
                db.sequences.set(object.oid, start.unwrap_or(sequence.start), false, sequence, &db.engine)?;
            }
            AlterAction::Set(options, secrets) if alter.object_type == ObjectType::Connection => {
                self.set_connection_options(&object, options, secrets, &[])?
            }
            AlterAction::Set(options, secrets) if alter.object_type == ObjectType::Pipeline => {
                self.set_pipeline_options(&object, options, secrets, &[])?;
                self.check_pipeline(object.oid).await?;
            }
            AlterAction::Reset(keys) if alter.object_type == ObjectType::Pipeline => {
                self.set_pipeline_options(&object, &vec![], &vec![], keys)?
            }
            AlterAction::Reset(keys) => self.set_connection_options(&object, &vec![], &vec![], keys)?,
            AlterAction::Set(options, secrets)
                if alter.object_type == ObjectType::MaterializedView && secrets.is_empty() =>
            {
                self.set_view_options(&object, options)?
            }
            AlterAction::Set(options, _) if alter.object_type == ObjectType::Secret => {
                let names: Vec<&str> = options.iter().map(|(k, _)| k.as_str()).collect();
                return Err(Error::syntax(format!("a secret has no option {}", names.join(", ")))
                    .with_hint("ALTER SECRET name AS '..' gives it another value."));
            }
            AlterAction::Set(options, _) => {
                let names: Vec<&str> = options.iter().map(|(k, _)| k.as_str()).collect();
                return Err(Error::unsupported(format!(
                    "ALTER {} .. SET ({}) is not supported",
                    kind.to_uppercase(),
                    names.join(", ")
                ))
                .with_hint(format!("Use CREATE OR REPLACE {}.", kind.to_uppercase())));
            }
        }
        done()
    }
}

fn no_column(name: &str, object: &Object) -> Error {
    Error::new(SqlState::UndefinedColumn, format!("column \"{name}\" of relation \"{}\" does not exist", object.name))
}

/// True if the expression's text names the column.
pub(super) fn names_column(expr: &str, quoted: &str) -> bool {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    expr.match_indices(quoted).any(|(at, _)| {
        let before = expr[..at].chars().next_back();
        let after = expr[at + quoted.len()..].chars().next();
        !before.is_some_and(word) && !after.is_some_and(word)
    })
}
