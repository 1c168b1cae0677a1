//! CREATE TABLE, CREATE TABLE AS, TRUNCATE.

use std::collections::BTreeSet;
use std::sync::Arc;

use datafusion::common::DFSchema;
use datafusion::scalar::ScalarValue;
use datafusion::sql::sqlparser::ast as sql;
use tidemark_catalog::{
    Change, Check, Column, Identity, Key, Object, ObjectKind, Remote, Sequence, Table, TableLoad, Ttl, columns_of,
    columns_schema, quote_ident,
};
use tidemark_common::types::SqlType;
use tidemark_common::{Error, Oid, Result, SqlState};
use tidemark_sql::grammar::types::{SerialKind, serial_kind, sql_type};

use super::ttl;
use super::{Target, already_exists};
use crate::session::{Outcome, Session, fold};
use crate::transaction::PlannedStep;

/// `SELECT .. INTO t` as the CREATE TABLE AS that it is.
pub fn select_into(query: &sql::Query) -> Option<sql::CreateTable> {
    let sql::SetExpr::Select(select) = query.body.as_ref() else { return None };
    let into = select.into.as_ref()?;
    let mut query = query.clone();
    if let sql::SetExpr::Select(select) = query.body.as_mut() {
        select.into = None;
    }
    let create = sql::helpers::stmt_create_table::CreateTableBuilder::new(into.name.clone());
    Some(create.temporary(into.temporary).query(Some(Box::new(query))).build())
}

/// A table in the making.
pub(super) struct Draft {
    pub oid: Oid,
    pub name: String,
    pub columns: Vec<Column>,
    pub primary_key: Option<Key>,
    pub unique: Vec<Key>,
    pub checks: Vec<Check>,
    /// Sequences of serial and identity columns, by column.
    sequences: Vec<(usize, Sequence)>,
    pub load: Option<TableLoad>,
    pub remote: Option<Remote>,
    pub ttl: Option<Ttl>,
}

impl Session {
    pub(crate) async fn create_table(
        &mut self,
        create: &sql::CreateTable,
        parameters: &[ScalarValue],
    ) -> Result<Outcome> {
        if create.query.is_some() {
            return self.create_table_as(create, parameters).await;
        }
        let target = self.target(&create.name, create.temporary)?;
        if let Some(before) = self.existing(&target)? {
            if create.if_not_exists {
                self.tell(format!("relation \"{}\" already exists, skipping", before.name));
                return Ok(Outcome::Command("CREATE TABLE".into()));
            }
            return Err(already_exists(&before));
        }
        check_options(create)?;
        let draft = self.draft(create, &target)?;
        self.make_remote(&draft, &target, create.temporary).await?;
        self.add_table(draft, target, create.temporary)?;
        Ok(Outcome::Command("CREATE TABLE".into()))
    }

    pub(crate) async fn create_table_as(
        &mut self,
        create: &sql::CreateTable,
        parameters: &[ScalarValue],
    ) -> Result<Outcome> {
        let target = self.target(&create.name, create.temporary)?;
        if let Some(before) = self.existing(&target)? {
            if create.if_not_exists {
                self.tell(format!("relation \"{}\" already exists, skipping", before.name));
                return Ok(Outcome::Command("CREATE TABLE AS".into()));
            }
            return Err(already_exists(&before));
        }
        let query = create.query.as_ref().ok_or_else(|| Error::internal("CREATE TABLE AS without a query"))?;
        let names = self.names_for_ddl()?;
        let plan = crate::session::with_parameters(names.plan(query)?, parameters)?;
        let idents: Vec<sql::Ident> = create.columns.iter().map(|c| c.name.clone()).collect();
        let mut columns = super::views::named_columns(columns_of(plan.schema().as_arrow()), query, &idents)?;
        super::views::stored_types(&columns)?;
        for column in &mut columns {
            column.nullable = true;
        }
        let draft = self.plain_draft(&target, columns);
        let object = self.add_table(draft, target, create.temporary)?;
        let rows = self.insert_rows(&object, plan).await?;
        Ok(Outcome::Command(format!("SELECT {rows}")))
    }

    /// A table of these columns and nothing else.
    pub(super) fn add_plain_table(&mut self, target: Target, columns: Vec<Column>) -> Result<Arc<Object>> {
        let draft = self.plain_draft(&target, columns);
        self.add_table(draft, target, false)
    }

    fn plain_draft(&self, target: &Target, columns: Vec<Column>) -> Draft {
        Draft {
            oid: self.database().new_oid(),
            name: target.name.clone(),
            columns,
            primary_key: None,
            unique: Vec::new(),
            checks: Vec::new(),
            sequences: Vec::new(),
            load: None,
            remote: None,
            ttl: None,
        }
    }

    fn draft(&mut self, create: &sql::CreateTable, target: &Target) -> Result<Draft> {
        let mut draft = self.plain_draft(target, Vec::new());
        if let Some(sql::CreateTableLikeKind::Plain(like) | sql::CreateTableLikeKind::Parenthesized(like)) =
            &create.like
        {
            let other = crate::query::find_relation(self.catalog()?.as_ref(), &like.name, &self.settled_search_path())?;
            draft.columns = other
                .columns()
                .iter()
                .map(|c| Column { default: None, identity: None, normalize: None, comment: None, ..c.clone() })
                .collect();
        }
        for column in &create.columns {
            self.draft_column(&mut draft, column)?;
        }
        for constraint in &create.constraints {
            self.draft_constraint(&mut draft, constraint)?;
        }
        let mut options = super::loads::options(create)?;
        draft.remote = self.remote_of(&mut options, &draft.name)?;
        draft.ttl = ttl::of_table(&mut options, &draft.columns, draft.remote.is_some())?;
        self.draft_load(&mut draft, options)?;
        if let Some(key) = &draft.primary_key {
            for column in &key.columns {
                draft.columns[*column].nullable = false;
            }
        }
        for (i, column) in draft.columns.iter_mut().enumerate() {
            column.attnum = i as i16 + 1;
        }
        self.check_expressions(&draft)?;
        Ok(draft)
    }

    fn draft_column(&mut self, draft: &mut Draft, column: &sql::ColumnDef) -> Result<()> {
        let name = fold(&column.name);
        if draft.columns.iter().any(|c| c.name == name) {
            return Err(Error::new(SqlState::DuplicateColumn, format!("column \"{name}\" specified more than once")));
        }
        let position = draft.columns.len();
        draft.columns.push(new_column(name.clone(), column_type(&column.data_type)?, position));
        if let Some(serial) = serial_kind(&column.data_type) {
            draft.sequences.push((position, sequence_for(&serial.sql_type(), &[])?));
            draft.columns[position].nullable = false;
        }
        let mut constraint_name: Option<sql::Ident>;
        for option in &column.options {
            constraint_name = option.name.clone();
            match &option.option {
                sql::ColumnOption::Null => {}
                sql::ColumnOption::NotNull => draft.columns[position].nullable = false,
                // DEFAULT NULL is no default.
                sql::ColumnOption::Default(sql::Expr::Value(v)) if v.value == sql::Value::Null => {}
                sql::ColumnOption::Default(expr) => draft.columns[position].default = Some(expr.to_string()),
                sql::ColumnOption::PrimaryKey(_) => {
                    self.draft_key(draft, constraint_name.as_ref(), vec![position], true)?;
                }
                sql::ColumnOption::Unique(_) => {
                    self.draft_key(draft, constraint_name.as_ref(), vec![position], false)?;
                }
                sql::ColumnOption::Check(check) => {
                    let name = constraint_name.or_else(|| check.name.clone());
                    self.draft_check(draft, name.as_ref(), &check.expr);
                }
                sql::ColumnOption::Generated { generated_as, sequence_options, generation_expr: None, .. } => {
                    let options = sequence_options.as_deref().unwrap_or_default();
                    let sequence = sequence_for(&draft.columns[position].sql_type, options)?;
                    draft.sequences.push((position, sequence));
                    draft.columns[position].nullable = false;
                    draft.columns[position].identity = Some(match generated_as {
                        sql::GeneratedAs::Always => Identity::Always,
                        _ => Identity::ByDefault,
                    });
                }
                sql::ColumnOption::Generated { .. } => {
                    return Err(Error::unsupported("generated columns are not supported")
                        .with_hint("Compute the value in a view over the table."));
                }
                sql::ColumnOption::ForeignKey(_) => return Err(no_foreign_keys()),
                sql::ColumnOption::Collation(collation) => {
                    let plain = collation.to_string().to_lowercase();
                    if !matches!(plain.trim_matches('"'), "c" | "posix" | "default" | "ucs_basic") {
                        return Err(Error::unsupported(format!("collation {collation} is not supported"))
                            .with_hint("Text is ordered by its bytes, as in collation \"C\"."));
                    }
                }
                sql::ColumnOption::Options(clause) => super::normalize::set(&mut draft.columns[position], clause)?,
                sql::ColumnOption::Comment(text) => draft.columns[position].comment = Some(text.clone()),
                other => return Err(Error::unsupported(format!("column option {other} is not supported"))),
            }
        }
        Ok(())
    }

    fn draft_constraint(&mut self, draft: &mut Draft, constraint: &sql::TableConstraint) -> Result<()> {
        match constraint {
            sql::TableConstraint::PrimaryKey(key) => {
                let columns = key_columns(draft, &key.columns)?;
                self.draft_key(draft, key.name.as_ref(), columns, true)
            }
            sql::TableConstraint::Unique(key) => {
                let columns = key_columns(draft, &key.columns)?;
                self.draft_key(draft, key.name.as_ref(), columns, false)
            }
            sql::TableConstraint::Check(check) => {
                self.draft_check(draft, check.name.as_ref(), &check.expr);
                Ok(())
            }
            sql::TableConstraint::ForeignKey(_) => Err(no_foreign_keys()),
            other => Err(Error::unsupported(format!("table constraint {other} is not supported"))),
        }
    }

    fn draft_key(
        &mut self,
        draft: &mut Draft,
        name: Option<&sql::Ident>,
        columns: Vec<usize>,
        primary: bool,
    ) -> Result<()> {
        if primary && draft.primary_key.is_some() {
            return Err(Error::new(
                SqlState::InvalidTableDefinition,
                format!("multiple primary keys for table \"{}\" are not allowed", draft.name),
            ));
        }
        for column in &columns {
            if matches!(draft.columns[*column].sql_type, SqlType::Json) {
                return Err(Error::new(
                    SqlState::UndefinedObject,
                    format!("data type json of column \"{}\" cannot be a key", draft.columns[*column].name),
                )
                .with_hint("Use jsonb, whose values have one form."));
            }
        }
        let name = name.map(fold).unwrap_or_else(|| {
            if primary {
                return format!("{}_pkey", draft.name);
            }
            let columns: Vec<&str> = columns.iter().map(|c| draft.columns[*c].name.as_str()).collect();
            format!("{}_{}_key", draft.name, columns.join("_"))
        });
        let key = Key { oid: self.database().new_oid(), name, columns };
        match primary {
            true => draft.primary_key = Some(key),
            false => draft.unique.push(key),
        }
        Ok(())
    }

    fn draft_check(&mut self, draft: &mut Draft, name: Option<&sql::Ident>, expr: &sql::Expr) {
        let name = name.map(fold).unwrap_or_else(|| {
            // Of one column it has that column's name.
            let base = match columns_in(expr, draft).as_slice() {
                [column] => format!("{}_{column}_check", draft.name),
                _ => format!("{}_check", draft.name),
            };
            let taken = |name: &str| draft.checks.iter().any(|c| c.name == name);
            (0..).map(|n| if n == 0 { base.clone() } else { format!("{base}{n}") }).find(|n| !taken(n)).unwrap_or(base)
        });
        draft.checks.push(Check { oid: self.database().new_oid(), name, expr: expr.to_string() });
    }

    /// The table with one more constraint.
    pub(super) fn table_with_constraint(
        &mut self,
        object: &Object,
        table: &Table,
        constraint: &sql::TableConstraint,
    ) -> Result<Table> {
        let mut draft = Draft {
            oid: object.oid,
            name: object.name.clone(),
            columns: table.columns.clone(),
            primary_key: table.primary_key.clone(),
            unique: table.unique.clone(),
            checks: table.checks.clone(),
            sequences: Vec::new(),
            load: None,
            remote: None,
            ttl: None,
        };
        self.draft_constraint(&mut draft, constraint)?;
        self.check_expressions(&draft)?;
        if let Some(key) = &draft.primary_key {
            for column in &key.columns {
                draft.columns[*column].nullable = false;
            }
        }
        let Draft { columns, primary_key, unique, checks, .. } = draft;
        let is_new = |key: &&Key| !table.unique.contains(key) && table.primary_key.as_ref() != Some(key);
        self.check_key_names(object.schema, primary_key.iter().chain(&unique).filter(is_new))?;
        Ok(Table { columns, primary_key, unique, checks, ..table.clone() })
    }

    /// DEFAULT and CHECK must make sense now, not at the first INSERT.
    fn check_expressions(&mut self, draft: &Draft) -> Result<()> {
        self.check_normalized(&draft.name, &draft.columns)?;
        let names = self.names_for_ddl()?;
        let schema = DFSchema::try_from(columns_schema(&draft.columns).as_ref().clone())?;
        let env = &self.database().environment;
        for column in &draft.columns {
            if let Some(default) = &column.default {
                let expr = names.expr(default, &DFSchema::empty()).map_err(|e| match e.state() {
                    SqlState::UndefinedColumn => {
                        Error::unsupported("cannot use column reference in DEFAULT expression")
                    }
                    _ => e,
                })?;
                let expr = super::definitions::coerce(expr, &DFSchema::empty(), env)?;
                crate::session::check_default(&expr, column)?;
            }
        }
        for check in &draft.checks {
            let expr = super::definitions::coerce(names.expr(&check.expr, &schema)?, &schema, env)?;
            let data_type = datafusion::logical_expr::ExprSchemable::get_type(&expr, &schema)?;
            if !matches!(data_type, datafusion::arrow::datatypes::DataType::Boolean) {
                return Err(Error::new(
                    SqlState::DatatypeMismatch,
                    format!("argument of CHECK must be type boolean, not type {}", SqlType::from_data_type(&data_type)),
                ));
            }
        }
        Ok(())
    }

    fn add_table(&mut self, draft: Draft, target: Target, temporary: bool) -> Result<Arc<Object>> {
        let schema = target.schema;
        let Draft { oid, name, mut columns, primary_key, unique, checks, sequences, load, remote, ttl } = draft;
        self.check_key_names(schema, primary_key.iter().chain(&unique))?;
        let mut changes = Vec::new();
        for (position, mut sequence) in sequences {
            sequence.owned_by = Some((oid, position as i16 + 1));
            let sequence_name = self.free_name(schema, &format!("{name}_{}_seq", columns[position].name))?;
            let qualified = format!("{}.{}", self.schema_text(schema)?, quote_ident(&sequence_name));
            if columns[position].default.is_some() {
                return Err(Error::syntax(format!(
                    "both default and identity specified for column \"{}\" of table \"{name}\"",
                    columns[position].name
                )));
            }
            columns[position].default = Some(format!("nextval('{}')", qualified.replace('\'', "''")));
            let target = Target { schema, name: sequence_name };
            let mut object = self.object(target, BTreeSet::new(), ObjectKind::Sequence(sequence))?;
            object.temporary = temporary;
            changes.push(Change::Put(Box::new(object)));
        }
        let depends_on: BTreeSet<Oid> = remote.iter().map(|remote| remote.connection).collect();
        let table = Table { columns, primary_key, unique, checks, generation: 0, load, remote, ttl };
        let mut object = self.object(target, depends_on, ObjectKind::Table(table))?;
        object.oid = oid;
        object.temporary = temporary;
        let step = super::definitions::runs(&object).then_some(PlannedStep::Create(oid));
        changes.push(Change::Put(Box::new(object)));
        self.change_catalog(changes, step.into_iter().collect())?;
        self.catalog()?.expect(oid).cloned()
    }

    /// `name`, or `name1`, `name2`, ... if that is taken.
    fn free_name(&self, schema: Oid, name: &str) -> Result<String> {
        let catalog = self.catalog()?;
        let mut candidates = std::iter::once(name.to_string()).chain((1..).map(|n| format!("{name}{n}")));
        candidates
            .find(|n| catalog.find_in(schema, n).is_none())
            .ok_or_else(|| Error::internal("there is no free name"))
    }

    fn schema_text(&self, schema: Oid) -> Result<String> {
        Ok(quote_ident(self.catalog()?.schema_name(schema)))
    }

    pub(crate) async fn truncate(&mut self, truncate: &sql::Truncate) -> Result<Outcome> {
        for target in &truncate.table_names {
            let object = match crate::query::find_relation(
                self.catalog()?.as_ref(),
                &target.name,
                &self.settled_search_path(),
            ) {
                Ok(object) => object,
                Err(_) if truncate.if_exists => continue,
                Err(error) => return Err(error),
            };
            let ObjectKind::Table(_) = &object.kind else {
                return Err(Error::new(SqlState::WrongObjectType, format!("\"{}\" is not a table", object.name)));
            };
            self.check_may_delete(object.schema, &object.name)?;
            self.refuse_if_remote(&object, "truncate")?;
            if matches!(truncate.identity, Some(sql::TruncateIdentityOption::Restart)) {
                self.restart_sequences(&object)?;
            }
            let followed = self.catalog()?.dependants(object.oid).iter().any(|d| super::definitions::runs(d));
            let in_block = self.in_transaction_block();
            let created_here = self.current_transaction()?.steps.contains(&PlannedStep::Create(object.oid));
            if followed || in_block || created_here {
                // Views must hear of every row, and what follows in the transaction must not see them.
                self.delete_all(&object).await?;
            } else {
                self.forget_table(object.oid)?;
                self.change_catalog(vec![], vec![PlannedStep::Truncate(object.oid)])?;
            }
        }
        Ok(Outcome::Command("TRUNCATE TABLE".into()))
    }

    fn restart_sequences(&mut self, table: &Object) -> Result<()> {
        let catalog = self.catalog()?;
        for object in catalog.objects() {
            if let ObjectKind::Sequence(sequence) = &object.kind
                && sequence.owned_by.is_some_and(|(owner, _)| owner == table.oid)
            {
                let db = self.database();
                db.sequences.set(object.oid, sequence.start, false, sequence, &db.engine)?;
            }
        }
        Ok(())
    }
}

/// The columns of the table that an expression names.
fn columns_in<'a>(expr: &sql::Expr, draft: &'a Draft) -> Vec<&'a str> {
    let mut found: BTreeSet<String> = BTreeSet::new();
    let visited = sql::visit_expressions(expr, |e| {
        match e {
            sql::Expr::Identifier(ident) => found.insert(fold(ident)),
            sql::Expr::CompoundIdentifier(path) => path.last().is_some_and(|ident| found.insert(fold(ident))),
            _ => false,
        };
        std::ops::ControlFlow::<()>::Continue(())
    });
    debug_assert!(visited.is_continue(), "nothing stops the walk");
    draft.columns.iter().map(|c| c.name.as_str()).filter(|name| found.contains(*name)).collect()
}

fn no_foreign_keys() -> Error {
    Error::unsupported("foreign keys are not supported")
        .with_hint("Leave REFERENCES and FOREIGN KEY out: a constraint that is not checked would promise too much.")
}

fn check_options(create: &sql::CreateTable) -> Result<()> {
    if create.partition_by.is_some() || create.partition_of.is_some() || create.inherits.is_some() {
        return Err(Error::unsupported("partitioned and inherited tables are not supported")
            .with_hint("A plain table needs no partitions: it is kept in order of its primary key."));
    }
    Ok(())
}

pub(super) fn new_column(name: String, sql_type: SqlType, position: usize) -> Column {
    Column::new(name, sql_type, position as i16 + 1)
}

pub(super) fn column_type(data_type: &sql::DataType) -> Result<SqlType> {
    match serial_kind(data_type) {
        Some(serial) => Ok(SerialKind::sql_type(serial)),
        None => sql_type(data_type),
    }
}

fn key_columns(draft: &Draft, columns: &[sql::IndexColumn]) -> Result<Vec<usize>> {
    let mut found = Vec::new();
    for column in columns {
        let sql::Expr::Identifier(ident) = &column.column.expr else {
            return Err(Error::unsupported("a key over an expression is not supported"));
        };
        let name = fold(ident);
        let position = draft.columns.iter().position(|c| c.name == name).ok_or_else(|| {
            Error::new(SqlState::UndefinedColumn, format!("column \"{name}\" named in key does not exist"))
        })?;
        if found.contains(&position) {
            return Err(Error::new(
                SqlState::DuplicateColumn,
                format!("column \"{name}\" appears twice in a key constraint"),
            ));
        }
        found.push(position);
    }
    Ok(found)
}

/// The sequence behind a column of that type.
pub(super) fn sequence_for(sql_type: &SqlType, options: &[sql::SequenceOptions]) -> Result<Sequence> {
    let (low, high) = match sql_type {
        SqlType::SmallInt => (i64::from(i16::MIN), i64::from(i16::MAX)),
        SqlType::Integer => (i64::from(i32::MIN), i64::from(i32::MAX)),
        SqlType::BigInt => (i64::MIN, i64::MAX),
        other => {
            return Err(Error::new(
                SqlState::InvalidParameterValue,
                format!("identity column type must be smallint, integer, or bigint, not {other}"),
            ));
        }
    };
    let mut increment = 1;
    let (mut min, mut max, mut start, mut cycle) = (None, None, None, false);
    for option in options {
        match option {
            sql::SequenceOptions::IncrementBy(n, _) => increment = number(n)?,
            sql::SequenceOptions::MinValue(n) => min = n.as_ref().map(number).transpose()?,
            sql::SequenceOptions::MaxValue(n) => max = n.as_ref().map(number).transpose()?,
            sql::SequenceOptions::StartWith(n, _) => start = Some(number(n)?),
            sql::SequenceOptions::Cache(_) => {}
            sql::SequenceOptions::Cycle(no) => cycle = !no,
        }
    }
    if increment == 0 {
        return Err(Error::invalid("INCREMENT must not be zero"));
    }
    let up = increment > 0;
    let min = min.unwrap_or(if up { 1 } else { low });
    let max = max.unwrap_or(if up { high } else { -1 });
    let start = start.unwrap_or(if up { min } else { max });
    if min >= max {
        return Err(Error::invalid(format!("MINVALUE ({min}) must be less than MAXVALUE ({max})")));
    }
    if !(min..=max).contains(&start) {
        return Err(Error::invalid(format!(
            "START value ({start}) must be between MINVALUE ({min}) and MAXVALUE ({max})"
        )));
    }
    Ok(Sequence { sql_type: sql_type.clone(), start, increment, min, max, cycle, owned_by: None })
}

fn number(expr: &sql::Expr) -> Result<i64> {
    let text = expr.to_string().replace(' ', "");
    text.parse().map_err(|_| Error::syntax(format!("\"{text}\" is not a whole number")))
}
