//! CREATE SINK.

use rand::Rng;
use tidemark_catalog::{Change, Format, ObjectKind, Sink, columns_of};
use tidemark_common::Result;
use tidemark_sql::ast::{CreateSink, Emit, SinkFrom};

use super::indexes::indexes_used;
use super::{already_exists, connections, definitions, dependencies, lookups};
use crate::session::{Outcome, Session};
use crate::transaction::PlannedStep;

impl Session {
    pub(crate) async fn create_sink(&mut self, create: &CreateSink) -> Result<Outcome> {
        let done = || Ok(Outcome::Command("CREATE SINK".into()));
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
            self.replaceable(&before, "sink")?;
            changes.push(Change::Remove(before.oid));
            steps.push(PlannedStep::Drop(before.oid));
        }
        let (text, emit) = match &create.from {
            SinkFrom::Relation(name) => (format!("SELECT * FROM {name}"), Emit::Changes),
            SinkFrom::Query { text, emit, .. } => (text.clone(), *emit),
        };
        let query = definitions::stored_query(&text)?;
        let names = self.names_for_ddl()?;
        let path = names.search_path.clone();
        let env = self.database().environment.clone();
        let asked = lookups::asked(&names.remote, &names.catalog)?;
        let dataflow = definitions::dataflow(&query, &path, emit, None, &asked, &names.catalog, &env)?;
        let mut depends_on = dataflow.inputs();
        depends_on.extend(dependencies(&names.plan(&query)?, &names.catalog, &query, &path)?);
        depends_on.extend(indexes_used(&dataflow, &names.catalog));
        let output = dataflow.output();
        let mut options = create.options.clone();
        let connection = connections::of_connector(&mut options, &names.catalog)?;
        #[allow(clippy::disallowed_methods)] // a name, which no query computes with
        let unique: u64 = rand::rng().random();
        let sink = Sink {
            query: text,
            search_path: path,
            emit,
            columns: super::views::named_columns(columns_of(&output.schema), &query, &[])?,
            append_only: output.properties.append_only,
            key: output.properties.key.clone(),
            identity: format!("tidemark-{}-{unique:016x}", target.name),
            options,
            secrets: self.secret_options(&create.secrets)?,
            connection,
            format: create.format.as_ref().map(|f| Format {
                format: f.format.clone(),
                encode: f.encode.clone(),
                options: f.options.clone(),
            }),
            fingerprint: dataflow.fingerprint(),
        };
        depends_on.extend(sink.secrets.iter().map(|(_, oid)| *oid).chain(sink.connection));
        let mut object = self.object(target, depends_on, ObjectKind::Sink(sink))?;
        object.lookups = dataflow.lookups().into_iter().collect();
        object.asked = asked;
        // Opened here for its errors; delivery opens its own.
        if let tidemark_engine::Definition::Sink(def) = definitions::define(&object, &names.catalog, &env)? {
            def.sink.writer().await?;
        }
        steps.push(PlannedStep::Create(object.oid));
        changes.push(Change::Put(Box::new(object)));
        self.change_catalog(changes, steps)?;
        done()
    }
}
