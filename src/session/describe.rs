//! Describe: parameter and result types of a statement, without running it.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::logical_expr::LogicalPlan;
use datafusion::scalar::ScalarValue;
use datafusion::sql::sqlparser::ast as sql;
use tidemark_common::Result;
use tidemark_common::types::SqlType;
use tidemark_sql::ast::{DeclareOf, Parsed, Statement};
use tidemark_sql::grammar::types::sql_type;

use super::{Description, Session, fold, with_parameters};
use crate::query::Names;

impl Session {
    /// Parameter and result types without running it. `given`: types that the client declared, by position.
    pub async fn describe(&mut self, statement: &Parsed, given: &[Option<SqlType>]) -> Result<Description> {
        let own = self.transaction.is_none();
        self.begin_if_none();
        let described = match self.find_remote(&statement.statement).await {
            Ok(()) => self.describe_statement(statement, given),
            Err(error) => Err(error),
        };
        self.remote = Arc::default();
        if own {
            self.rollback();
        }
        described
    }

    pub(super) fn describe_statement(&mut self, parsed: &Parsed, given: &[Option<SqlType>]) -> Result<Description> {
        let count = count_parameters(&parsed.text);
        let mut parameters: Vec<Option<SqlType>> = given.to_vec();
        parameters.resize(count.max(given.len()), None);
        let columns = match &parsed.statement {
            Statement::Sql(statement) => self.describe_sql(statement, &mut parameters)?,
            Statement::ShowObjects(_)
            | Statement::ShowCreate(_)
            | Statement::ShowColumns(_)
            | Statement::Explain(_)
            | Statement::CheckConnection(_)
            | Statement::RunPipeline(_)
            | Statement::ValidatePipeline(_)
            | Statement::ShowRuns(_) => self.describe_show(&parsed.statement)?,
            Statement::Declare(declare) => {
                if let DeclareOf::Query(query) = &declare.of {
                    self.describe_sql(&sql::Statement::Query(query.clone()), &mut parameters)?;
                }
                None
            }
            Statement::Fetch(fetch) if !fetch.moves => self.cursor(&fold(&fetch.name)).map(|cursor| cursor.schema),
            Statement::Subscribe(subscribe) => Some(self.subscribe_schema(subscribe)?),
            Statement::Validate(name) => Some(self.describe_validate(name)?),
            _ => None,
        };
        let parameters = parameters.into_iter().map(|p| p.unwrap_or(SqlType::Text)).collect();
        Ok(Description { parameters, columns })
    }

    pub(super) fn describe_sql(
        &mut self,
        statement: &sql::Statement,
        parameters: &mut [Option<SqlType>],
    ) -> Result<Option<SchemaRef>> {
        note_casts(statement, parameters);
        match statement {
            sql::Statement::Query(query) if super::parts::has_parts(query) => self.describe_parts(query, parameters),
            sql::Statement::Query(query) if super::dml::modifying(query).is_some() => {
                self.describe_modifying(query, parameters)
            }
            sql::Statement::Query(query) if crate::coordinator::tables::select_into(query).is_some() => Ok(None),
            sql::Statement::Query(query) => {
                let names = self.names(None)?;
                let plan = names.plan(query)?;
                fill_fields(parameters, plan.get_parameter_fields().unwrap_or_default());
                let plan = settled(&names, plan, parameters);
                let schema = Arc::new(plan.schema().as_arrow().clone());
                Ok(Some(super::select::renamed(schema, query)))
            }
            sql::Statement::Insert(insert) => self.describe_insert(insert, parameters),
            sql::Statement::Update(update) => self.describe_update(update, parameters),
            sql::Statement::Delete(delete) => self.describe_delete(delete, parameters),
            sql::Statement::ShowVariable { variable } => {
                let name = variable.iter().map(|i| i.value.as_str()).collect::<Vec<_>>().join(" ");
                Ok(Some(text_columns(&[&name.to_lowercase()])))
            }
            sql::Statement::ShowVariables { .. } => Ok(Some(text_columns(&["name", "setting", "description"]))),
            sql::Statement::Execute { name: Some(name), .. } => {
                let name = name.to_string().trim_matches('"').to_lowercase();
                match self.prepared.get(&name).cloned() {
                    Some(prepared) => Ok(self.describe_statement(&prepared.statement, &[])?.columns),
                    None => Ok(None),
                }
            }
            _ => Ok(None),
        }
    }
}

/// The plan with the types that it will have when it runs. Parameters that are still unknown are text.
fn settled(names: &Names, plan: LogicalPlan, parameters: &[Option<SqlType>]) -> LogicalPlan {
    let nulls: Option<Vec<ScalarValue>> = parameters
        .iter()
        .map(|p| ScalarValue::try_new_null(&p.as_ref().unwrap_or(&SqlType::Text).data_type()).ok())
        .collect();
    let typed = nulls.and_then(|nulls| with_parameters(plan.clone(), &nulls).ok());
    // An error belongs to the run: a value may be right where its type alone is not.
    typed.and_then(|typed| names.planner().analyze(&typed).ok()).unwrap_or(plan)
}

/// A parameter under a cast has the cast's type, the first one where there are several, as in Postgres.
fn note_casts(statement: &sql::Statement, parameters: &mut [Option<SqlType>]) {
    let walked = sql::visit_expressions(statement, |expr| {
        if let sql::Expr::Cast { expr, data_type, .. } = expr
            && let sql::Expr::Value(value) = expr.as_ref()
            && let sql::Value::Placeholder(name) = &value.value
            && let Some(at) = name.trim_start_matches('$').parse::<usize>().ok().and_then(|n| n.checked_sub(1))
            && let (Some(slot), Ok(sql_type)) = (parameters.get_mut(at), sql_type(data_type))
        {
            slot.get_or_insert(sql_type);
        }
        std::ops::ControlFlow::<()>::Continue(())
    });
    debug_assert!(walked.is_continue(), "nothing stops the walk");
}

pub(super) fn text_columns(names: &[&str]) -> SchemaRef {
    Arc::new(Schema::new(names.iter().map(|n| Field::new(*n, DataType::Utf8, true)).collect::<Vec<_>>()))
}

/// As [`fill`], with the SQL types that fields carry.
pub(super) fn fill_fields(parameters: &mut [Option<SqlType>], found: HashMap<String, Option<FieldRef>>) {
    for (name, field) in found {
        if let (Some(slot), Some(field)) = (slot(parameters, &name), field) {
            slot.get_or_insert_with(|| SqlType::from_field(&field));
        }
    }
}

fn slot<'a>(parameters: &'a mut [Option<SqlType>], name: &str) -> Option<&'a mut Option<SqlType>> {
    let position = name.trim_start_matches('$').parse::<usize>().ok()?.checked_sub(1)?;
    parameters.get_mut(position)
}

/// Puts the types that planning found where the client gave none.
pub(super) fn fill(parameters: &mut [Option<SqlType>], found: HashMap<String, Option<DataType>>) {
    for (name, data_type) in found {
        if let (Some(slot), Some(data_type)) = (slot(parameters, &name), data_type) {
            slot.get_or_insert_with(|| SqlType::from_data_type(&data_type));
        }
    }
}

/// The highest `$n` in a statement's text, quotes and comments aside.
fn count_parameters(text: &str) -> usize {
    use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
    use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};
    let tokens = Tokenizer::new(&PostgreSqlDialect {}, text).tokenize().unwrap_or_default();
    tokens
        .iter()
        .filter_map(|t| match t {
            Token::Placeholder(p) => p.strip_prefix('$')?.parse().ok(),
            _ => None,
        })
        .max()
        .unwrap_or(0)
}
