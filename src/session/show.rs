//! SHOW of settings and objects, SHOW CREATE, SHOW COLUMNS, CANCEL JOB.

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::sql::sqlparser::ast as sql;
use tidemark_catalog::quote_literal;
use tidemark_common::{Error, Result, SqlState};
use tidemark_sql::ast::{ObjectType, ShowCreate, ShowObjects, Statement};

use super::describe::text_columns;
use super::select::text_rows;
use super::settings::{self, SETTINGS};
use super::{Outcome, Session};
use crate::coordinator::definitions;
use crate::pg_catalog::ddl;

impl Session {
    pub(super) fn show_variable(&mut self, variable: &[sql::Ident]) -> Result<Outcome> {
        let words: Vec<String> = variable.iter().map(|i| i.value.to_lowercase()).collect();
        let name = words.join(" ");
        if name == "all" {
            return self.show_all();
        }
        let name = match name.as_str() {
            "transaction isolation level" => "transaction_isolation".to_string(),
            "time zone" => "timezone".to_string(),
            // The parts of a name of the user's own.
            _ if words.len() == 2 && settings::find(&name).is_none() => words.join("."),
            other => other.to_string(),
        };
        let value = match self.setting(&name) {
            Some(value) => value,
            None => self.db.config.shown_setting(&name).ok_or_else(|| settings::unknown(&name))?,
        };
        text_rows(&[(&name, vec![Some(value)])], "SHOW")
    }

    pub(super) fn show_all(&mut self) -> Result<Outcome> {
        let column = |f: &dyn Fn(&settings::Setting) -> String| SETTINGS.iter().map(|s| Some(f(s))).collect();
        text_rows(
            &[
                ("name", column(&|s| s.name.to_string())),
                ("setting", column(&|s| self.setting(s.name).unwrap_or_default())),
                ("description", column(&|s| s.description.to_string())),
            ],
            "SHOW",
        )
    }

    pub(super) fn show_create(&mut self, show: &ShowCreate) -> Result<Outcome> {
        let catalog = self.catalog()?;
        let object = match show.object_type {
            Some(object_type) => self.find_to_drop(object_type, &show.name)?,
            None => crate::query::find_relation(&catalog, &show.name, &self.search_path())?,
        };
        let text = ddl::show_create(&catalog, &object);
        let name = catalog.qualified_name(&object);
        text_rows(&[("name", vec![Some(name)]), ("create_sql", vec![Some(text)])], "SHOW CREATE")
    }

    pub(super) fn show_columns(&mut self, name: &sql::ObjectName) -> Result<Outcome> {
        let catalog = self.catalog()?;
        let object = crate::query::find_relation(&catalog, name, &self.search_path())?;
        let column = |f: &dyn Fn(&tidemark_catalog::Column) -> Option<String>| object.columns().iter().map(f).collect();
        text_rows(
            &[
                ("name", column(&|c| Some(c.name.clone()))),
                ("type", column(&|c| Some(c.sql_type.to_string()))),
                ("nullable", column(&|c| Some(if c.nullable { "yes" } else { "no" }.into()))),
                ("default", column(&|c| c.default.clone())),
                ("normalize", column(&|c| c.normalize.as_ref().map(|normalize| normalize.to_string()))),
                ("comment", column(&|c| c.comment.clone())),
            ],
            "SHOW COLUMNS",
        )
    }

    pub(super) async fn show_objects(&mut self, show: &ShowObjects) -> Result<Outcome> {
        self.show_query_rows(self.show_query(show)?).await
    }

    /// A SHOW that is this SELECT.
    pub(super) async fn show_query_rows(&mut self, query: String) -> Result<Outcome> {
        let query = definitions::stored_query(&query)?;
        let names = self.names(None)?;
        let plan = names.plan(&query)?;
        let (schema, stream) = super::select::execute(&names, plan).await?;
        Ok(Outcome::Rows(super::Rows {
            schema,
            stream,
            tag: super::RowsTag::Fixed("SHOW"),
            live: false,
            binary: false,
        }))
    }

    /// SHOW as the SELECT over system tables that it is.
    fn show_query(&self, show: &ShowObjects) -> Result<String> {
        let like = |column: &str| match &show.like {
            Some(pattern) => format!(" AND {column} LIKE {}", quote_literal(pattern)),
            None => String::new(),
        };
        let schema = match &show.schema {
            Some(schema) => {
                let schema = super::fold(schema);
                self.catalog()?.schema(&schema)?;
                format!(" AND schema_name = {}", quote_literal(&schema))
            }
            None => String::new(),
        };
        // The server's own tables are shown to those who ask for them.
        let schema_or_users = if schema.is_empty() { " AND schema_name <> 'tidemark'" } else { &schema };
        let objects = |kind: &str| {
            let like = like("name");
            format!(
                "SELECT name, schema_name AS schema, comment FROM tidemark.objects WHERE kind = '{kind}'{schema_or_users}{like} ORDER BY 2, 1"
            )
        };
        Ok(match show.object_type {
            ObjectType::Table => objects("table"),
            ObjectType::View => objects("view"),
            ObjectType::MaterializedView => objects("materialized view"),
            ObjectType::Sequence => objects("sequence"),
            ObjectType::Source => {
                format!("SELECT * FROM tidemark.sources WHERE true{schema}{} ORDER BY schema_name, name", like("name"))
            }
            ObjectType::Sink => {
                format!("SELECT * FROM tidemark.sinks WHERE true{schema}{} ORDER BY schema_name, name", like("name"))
            }
            ObjectType::Secret => format!(
                "SELECT name, source, reference, comment FROM tidemark.secrets WHERE true{} ORDER BY name",
                like("name")
            ),
            ObjectType::Connection => format!(
                "SELECT name, type, host, port, database, comment FROM tidemark.connections WHERE true{} ORDER BY name",
                like("name")
            ),
            ObjectType::Pipeline => format!(
                "SELECT name, targets, schedule, state, next_run, last_run, last_status, error FROM tidemark.pipelines \
                 WHERE true{} ORDER BY name",
                like("name")
            ),
            ObjectType::Job => "SELECT * FROM tidemark.jobs ORDER BY id".to_string(),
            ObjectType::Schema => format!(
                "SELECT nspname AS name FROM pg_catalog.pg_namespace WHERE true{} ORDER BY nspname",
                like("nspname")
            ),
            ObjectType::Database => "SELECT datname AS name FROM pg_catalog.pg_database ORDER BY datname".to_string(),
            ObjectType::Role => {
                "SELECT rolname AS name, rolsuper AS superuser FROM pg_catalog.pg_roles ORDER BY rolname".to_string()
            }
            ObjectType::Index => format!(
                "SELECT indexname AS name, tablename AS table, indexdef AS definition FROM pg_catalog.pg_indexes \
                 WHERE true{}{} ORDER BY indexname",
                schema.replace("schema_name", "schemaname"),
                like("indexname")
            ),
            ObjectType::Function | ObjectType::Type => {
                return Err(Error::unsupported("this SHOW is not supported").with_hint("Use \\df or \\dT in psql."));
            }
        })
    }

    pub(super) fn describe_show(&mut self, statement: &Statement) -> Result<Option<SchemaRef>> {
        Ok(Some(match statement {
            Statement::ShowCreate(_) => text_columns(&["name", "create_sql"]),
            Statement::ShowColumns(_) => text_columns(&["name", "type", "nullable", "default", "normalize", "comment"]),
            Statement::Explain(_) => text_columns(&["QUERY PLAN"]),
            Statement::CheckConnection(_) => crate::coordinator::connections::check_columns(),
            Statement::RunPipeline(_) | Statement::ValidatePipeline(_) => {
                return Ok(super::pipeline::columns_of(statement));
            }
            Statement::ShowObjects(_) | Statement::ShowRuns(_) => {
                let text = match statement {
                    Statement::ShowObjects(show) => self.show_query(show)?,
                    Statement::ShowRuns(show) => self.runs_query(show)?,
                    _ => return Ok(None),
                };
                let query = definitions::stored_query(&text)?;
                let plan = self.names(None)?.plan(&query)?;
                std::sync::Arc::new(plan.schema().as_arrow().clone())
            }
            _ => return Ok(None),
        }))
    }

    /// REFRESH: there is nothing to do, and the client learns why.
    pub(super) fn refresh(&mut self, name: &sql::ObjectName) -> Result<Outcome> {
        self.find_to_drop(ObjectType::MaterializedView, name)?;
        self.notice("a materialized view is always up to date, REFRESH does nothing");
        Ok(Outcome::Command("REFRESH MATERIALIZED VIEW".into()))
    }

    /// Ends what a view's creation is still building.
    pub(super) fn cancel_job(&mut self, job: &str) -> Result<Outcome> {
        let catalog = self.catalog()?;
        if let Ok(pipeline) = catalog.pipeline(job)
            && self.db.pipelines.cancel(pipeline.oid)
        {
            return Ok(Outcome::Command("CANCEL JOB".into()));
        }
        let status = self.db.engine.status();
        let found =
            status.jobs.iter().find(|j| j.oid.to_string() == job || catalog.get(j.oid).is_some_and(|o| o.name == job));
        let Some(found) = found else {
            return Err(Error::new(SqlState::UndefinedObject, format!("job \"{job}\" does not exist"))
                .with_hint("SHOW JOBS lists what runs."));
        };
        if found.state != tidemark_engine::JobState::Backfilling {
            return Err(Error::new(
                SqlState::ObjectNotInPrerequisiteState,
                format!("job \"{job}\" is not backfilling, so there is nothing to cancel"),
            )
            .with_hint("DROP the view or sink to end it."));
        }
        let catalog = self.catalog()?;
        catalog.expect(found.oid)?;
        let gone: Vec<_> = catalog.indexes_of(found.oid).map(|(o, _)| o.oid).chain([found.oid]).collect();
        let changes = gone.iter().map(|oid| tidemark_catalog::Change::Remove(*oid)).collect();
        self.change_catalog(changes, gone.into_iter().map(crate::transaction::PlannedStep::Drop).collect())?;
        Ok(Outcome::Command("CANCEL JOB".into()))
    }
}
