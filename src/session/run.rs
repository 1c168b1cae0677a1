//! Which statement is done where.

use datafusion::scalar::ScalarValue;
use datafusion::sql::sqlparser::ast as sql;
use tidemark_common::{Error, Result};
use tidemark_sql::ast::{Parsed, Statement};

use super::{Outcome, Session};

impl Session {
    pub(super) async fn run(&mut self, parsed: &Parsed, parameters: &[ScalarValue]) -> Result<Outcome> {
        self.find_remote(&parsed.statement).await?;
        match &parsed.statement {
            Statement::Sql(statement) => self.run_sql(statement, &parsed.text, parameters).await,
            Statement::CreateSource(create) => self.create_source(create).await,
            Statement::CreateMaterializedView(create) => self.create_materialized_view(create),
            Statement::CreateSink(create) => self.create_sink(create).await,
            Statement::CreateSecret(create) => self.create_secret(create),
            Statement::AlterSecret(alter) => self.alter_secret(alter),
            Statement::CreateConnection(create) => self.create_connection(create),
            Statement::CheckConnection(name) => self.check_connection(name).await,
            Statement::CreatePipeline(create) => self.create_pipeline(create).await,
            Statement::RunPipeline(run) => self.run_pipeline(run).await,
            Statement::ReplayDeadLetters(replay) => self.replay_dead_letters(replay).await,
            Statement::ValidatePipeline(name) => self.validate_pipeline(name).await,
            Statement::ShowRuns(show) => self.show_query_rows(self.runs_query(show)?).await,
            Statement::Subscribe(subscribe) => self.subscribe(subscribe, None).await,
            Statement::CopySubscribe { subscribe, copy } => self.copy_subscribe(subscribe, copy).await,
            Statement::Declare(declare) => self.declare(declare, parameters).await,
            Statement::Fetch(fetch) => self.fetch(fetch).await,
            Statement::Close(name) => self.close(name.as_ref()),
            Statement::Drop(drop) => self.drop_objects(drop.object_type, drop.if_exists, &drop.names, drop.cascade),
            Statement::Alter(alter) => self.alter_object(alter).await,
            Statement::ShowObjects(show) => self.show_objects(show).await,
            Statement::ShowCreate(show) => self.show_create(show),
            Statement::ShowColumns(name) => self.show_columns(name),
            Statement::Explain(explain) => self.explain(explain, parameters).await,
            Statement::Comment(comment) => self.comment(comment),
            Statement::CancelJob(job) => self.cancel_job(job),
            Statement::Refresh(name) => self.refresh(name),
            Statement::Validate(name) => self.validate(name).await,
            Statement::NoOp(tag) => Ok(Outcome::Command(tag.to_string())),
            Statement::Empty => Ok(Outcome::Empty),
        }
    }

    async fn run_sql(&mut self, statement: &sql::Statement, text: &str, parameters: &[ScalarValue]) -> Result<Outcome> {
        use sql::Statement as S;
        match statement {
            S::Query(query) => self.select(query, text, parameters).await,
            S::Insert(insert) => self.insert(insert, parameters).await,
            S::Update(update) => self.update(update, parameters).await,
            S::Delete(delete) => self.delete(delete, parameters).await,
            S::Copy { source, to, target, options, legacy_options, .. } => {
                self.copy(source, *to, target, options, legacy_options).await
            }
            S::Truncate(truncate) => self.truncate(truncate).await,

            S::CreateTable(create) => self.create_table(create, parameters).await,
            S::AlterTable(alter) => self.alter_table(alter).await,
            S::CreateView(create) => self.create_view(create),
            S::CreateIndex(create) => self.create_index(create).await,
            S::CreateSchema { schema_name, if_not_exists, .. } => self.create_schema(schema_name, *if_not_exists),
            S::CreateSequence { .. } => self.create_sequence(statement),
            S::Drop { object_type, if_exists, names, cascade, .. } => {
                let object_type = crate::coordinator::drop::object_type(object_type)?;
                self.drop_objects(object_type, *if_exists, names, *cascade)
            }

            S::StartTransaction { .. }
            | S::Commit { .. }
            | S::Rollback { .. }
            | S::Savepoint { .. }
            | S::ReleaseSavepoint { .. } => self.control(statement).await,
            S::Set(set) => self.set(set),
            S::Reset(reset) => self.reset(reset),
            S::ShowVariable { variable } => self.show_variable(variable),
            S::ShowVariables { .. } => self.show_all(),
            S::Discard { object_type } => self.discard(object_type),
            S::Prepare { name, data_types, statement, .. } => self.prepare(name, data_types, statement),
            S::Execute { name, parameters, .. } => self.execute_prepared(name.as_ref(), parameters).await,
            S::Deallocate { name, .. } => self.deallocate(name),
            S::Lock(_) => Err(Error::unsupported("LOCK TABLE is not supported")
                .with_hint("Nobody waits for a lock: of two transactions that write the same row the later one gets 40001 and tries again.")),
            other => Err(refuse(other)),
        }
    }
}

fn refuse(statement: &sql::Statement) -> Error {
    let text = statement.to_string();
    let words: Vec<&str> = text.split_whitespace().take(2).collect();
    Error::unsupported(format!("{} is not supported", words.join(" ")))
}
