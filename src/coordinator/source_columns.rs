//! Columns that a source is given after it was made: ALTER SOURCE .. ADD COLUMN, by hand or by `on_drift = 'evolve'`.
//!
//! ```text
//!   records have one column more ──▶ the source stops before them ──▶ SourceStatus::missing ──evolve──▶ ADD COLUMN
//!                                          ▲                                                                │
//!                                          └──────── reads on, from the position that is stored ────────────┘
//! ```
//!
//! The column is the last. Rows that a source keeps are not written again: those that have no value for it are NULL there. Who reads
//! the source goes on with the columns that it has.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use datafusion::sql::sqlparser::ast as sql;
use tidemark_catalog::{Catalog, Change, Object, ObjectKind, Source, quote_ident};
use tidemark_common::{Error, Result, SqlState};
use tidemark_connectors::MissingColumn;

use super::definitions;
use super::sources::declared_column;
use crate::database::Database;
use crate::pipelines::history::schema_changed;
use crate::session::{Session, fold};
use crate::transaction::PlannedStep;

/// How often it is looked for sources that wait for a column.
const LOOK: Duration = Duration::from_millis(500);

impl Session {
    pub(super) async fn add_source_column(
        &mut self,
        object: &Arc<Object>,
        column: &sql::ColumnDef,
        path: Option<&str>,
        if_not_exists: bool,
    ) -> Result<()> {
        let ObjectKind::Source(source) = &object.kind else {
            return Err(Error::new(SqlState::WrongObjectType, format!("\"{}\" is not a source", object.name)));
        };
        let name = fold(&column.name);
        if source.columns.iter().any(|known| known.name == name) {
            let message = format!("column \"{name}\" of relation \"{}\" already exists", object.name);
            if if_not_exists {
                self.tell(format!("{message}, skipping"));
                return Ok(());
            }
            return Err(Error::new(SqlState::DuplicateColumn, message));
        }
        refuse(object, source)?;
        let mut after = source.clone();
        after.columns.push(declared_column(column, source.columns.len())?);
        after.paths.extend(path.map(|path| (source.columns.len(), path.to_string())));
        (after.declared, after.added) = (after.declared + 1, after.added + 1);
        let mut steps = vec![PlannedStep::Redefine(object.oid)];
        steps.extend(after.shared.as_ref().map(|shared| PlannedStep::Redefine(shared.source)));
        let object = Object { kind: ObjectKind::Source(after.clone()), ..object.as_ref().clone() };
        let def = definitions::source(&object, &after, self.catalog()?.as_ref(), &self.database().environment)?;
        def.source.check_columns().await?;
        self.change_catalog(vec![Change::Put(Box::new(object))], steps)
    }
}

/// Sources whose columns stay as they are.
fn refuse(object: &Object, source: &Source) -> Result<()> {
    let refused = |why: &str, hint: &str| {
        let message = format!("source \"{}\" cannot be given a column: {why}", object.name);
        Err(Error::unsupported(message).with_hint(hint))
    };
    if source.is_shared() {
        return refused("its tables have the columns", "ALTER TABLE .. ADD COLUMN of one of them.");
    }
    if !source.include.is_empty() {
        return refused("it has columns of INCLUDE, which are the last", "CREATE OR REPLACE SOURCE, or another one.");
    }
    let connector = source.options.iter().find(|(key, _)| key == "connector").map(|(_, connector)| connector.as_str());
    match connector {
        Some("datagen" | "nexmark") => refused("its rows are made, and would be others", "Make another one."),
        _ => Ok(()),
    }
}

/// Gives sources the columns that they wait for, for as long as the server runs.
pub(crate) async fn evolve(db: &Arc<Database>) {
    // What could not be done is not tried again before somebody has changed something.
    let mut failed: BTreeSet<(u64, String)> = BTreeSet::new();
    let shutdown = db.shutdown_token();
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = shutdown.cancelled() => return,
        }
        let catalog = db.moment().catalog;
        let evolves = |object: &Arc<Object>| {
            let ObjectKind::Source(source) = &object.kind else { return false };
            source.options.iter().any(|(key, way)| key == "on_drift" && way.eq_ignore_ascii_case("evolve"))
        };
        if !catalog.objects().any(evolves) {
            continue;
        }
        for source in db.engine.status().sources {
            for MissingColumn { of, name, sql_type } in source.missing_columns {
                let Some(object) = catalog.get(of.unwrap_or(source.oid)) else { continue };
                let of = catalog.qualified_name(object);
                let column = format!("{} {sql_type}", quote_ident(&name));
                let text = format!("ALTER SOURCE {of} ADD COLUMN IF NOT EXISTS {column}");
                if failed.contains(&(catalog.version, text.clone())) {
                    continue;
                }
                match add(db, &catalog, object, &text).await {
                    Ok(()) => {
                        tracing::info!(source = source.name, column = name, %sql_type, "the source has a new column")
                    }
                    Err(error) => {
                        tracing::warn!(source = source.name, column = name, %error, "the source could not be given a column");
                        failed.insert((catalog.version, text));
                    }
                }
            }
        }
    }
}

/// Also writes it down in `tidemark.schema_history`.
async fn add(db: &Arc<Database>, catalog: &Catalog, object: &Object, text: &str) -> Result<()> {
    let mut session = Session::internal(db, "on_drift = 'evolve'")?;
    let mut tries = 0;
    loop {
        session.script("BEGIN").await?;
        let done = match session.script(text).await {
            Ok(()) => schema_changed(&mut session, catalog, object, None, "add column", text).await,
            Err(error) => Err(error),
        };
        if session.block_done(done, &mut tries).await?.is_some() {
            return Ok(());
        }
    }
}
