//! What system tables and session functions ask of the session and the database.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use bytes::BytesMut;
use datafusion::arrow::array::RecordBatch;
use datafusion::logical_expr::ScalarUDF;
use tidemark_catalog::{Object, ObjectKind};
use tidemark_common::values::{Column as ValueColumn, Style};
use tidemark_common::{Oid, Result};
use tidemark_engine::Moment;
use tidemark_sql::functions::{SessionFacts, session_functions};

use super::settings::{self, SETTINGS};
use super::{SessionInfo, TransactionStatus, sequence_functions};
use crate::coordinator::definitions;
use crate::database::Database;
use crate::pg_catalog::{
    CursorFact, EpochFact, FunctionFact, JobFact, LateRowFact, LookupFact, RelationSize, SessionFact, SettingFact,
    SinkFact, SourceFact, SystemFacts, registry_functions,
};
use crate::pipelines::PipelineFact;

/// The functions that depend on the session, by every name they have.
pub(super) fn functions(db: &Arc<Database>, info: &Arc<SessionInfo>) -> HashMap<String, Arc<ScalarUDF>> {
    let facts = Arc::new(Of { db: db.clone(), info: info.clone() });
    let all = session_functions(facts).into_iter().chain(sequence_functions::functions(db, info));
    let mut by_name = HashMap::new();
    for function in all {
        let function = Arc::new(function);
        for alias in function.aliases() {
            by_name.insert(alias.clone(), function.clone());
        }
        by_name.insert(function.name().to_string(), function);
    }
    by_name
}

struct Of {
    db: Arc<Database>,
    info: Arc<SessionInfo>,
}

impl std::fmt::Debug for Of {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "session {}", self.info.pid())
    }
}

impl SessionFacts for Of {
    fn user(&self) -> String {
        self.info.user.clone()
    }

    fn database(&self) -> String {
        self.info.database.clone()
    }

    fn search_path(&self) -> Vec<String> {
        self.info.search_path()
    }

    fn setting(&self, name: &str) -> Option<String> {
        let of_server = || self.db.config.facts().find(|fact| fact.name == name).map(|fact| fact.value);
        self.info.setting(name).or_else(of_server)
    }

    fn set_setting(&self, name: &str, value: &str, is_local: bool) -> Result<String> {
        self.info.set(name, Some(value), is_local)
    }

    fn backend_pid(&self) -> i32 {
        self.info.pid()
    }

    fn transaction_start_micros(&self) -> i64 {
        self.info.activity().transaction_started.unwrap_or_else(|| self.db.now())
    }

    fn statement_start_micros(&self) -> i64 {
        self.info.activity().query_started.unwrap_or_else(|| self.db.now())
    }

    fn now_micros(&self) -> i64 {
        self.db.now()
    }

    fn server_start_micros(&self) -> i64 {
        self.db.started_at
    }

    fn random_bits(&self) -> u64 {
        self.info.random_bits()
    }

    fn set_seed(&self, seed: f64) {
        self.info.set_seed(seed);
    }

    fn transaction_id(&self) -> i64 {
        self.db.moment().epoch() as i64
    }
}

/// For the system tables, as of one moment.
pub struct Facts {
    db: Arc<Database>,
    info: Arc<SessionInfo>,
    moment: Moment,
}

impl std::fmt::Debug for Facts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "facts of epoch {}", self.moment.epoch())
    }
}

impl Facts {
    pub fn new(db: Arc<Database>, info: Arc<SessionInfo>, moment: Moment) -> Self {
        Self { db, info, moment }
    }
}

impl SystemFacts for Facts {
    fn cursors(&self) -> Vec<CursorFact> {
        self.info.cursors()
    }

    fn pipelines(&self) -> Vec<PipelineFact> {
        self.db.pipelines.facts(&self.moment.catalog)
    }

    fn jobs(&self) -> Vec<JobFact> {
        let status = self.db.engine.status();
        status
            .jobs
            .iter()
            .map(|job| JobFact {
                id: i64::from(job.oid),
                object: job.oid,
                kind: job.kind.to_string(),
                state: job.state.name().to_string(),
                rows_done: Some(job.rows_done as i64),
                rows_total: job.rows_total.map(|rows| rows as i64),
                started_at: Some(job.created),
                error: match &job.state {
                    tidemark_engine::JobState::Failed(reason) => Some(reason.clone()),
                    _ => None,
                },
            })
            .collect()
    }

    fn sources(&self) -> Vec<SourceFact> {
        let status = self.db.engine.status();
        let mut facts: Vec<SourceFact> = status
            .sources
            .iter()
            .map(|source| SourceFact {
                oid: source.oid,
                state: source.state.to_string(),
                offsets: offsets(&source.positions),
                watermark: source.watermark,
                rows: source.rows as i64,
                late_rows: source.late_rows as i64,
                future_rows: source.future_rows as i64,
                bad_rows: source.dropped as i64,
                stale_rows: source.stale_rows as i64,
                unknown_columns: Some(source.unknown_columns.join(", ")).filter(|names| !names.is_empty()),
                lag_rows: source.lag_rows.map(|l| l as i64),
                lag_bytes: source.lag_bytes.map(|l| l as i64),
                lag_seconds: None,
                error: source.error.clone(),
            })
            .collect();
        let of_tables = self
            .db
            .moment()
            .catalog
            .objects()
            .filter_map(|object| table_fact(object, &status.sources))
            .collect::<Vec<_>>();
        facts.extend(of_tables);
        facts
    }

    fn late_rows(&self) -> Vec<LateRowFact> {
        let status = self.db.engine.status();
        let of_source = |source: &tidemark_engine::SourceStatus| {
            let fact = |refused: &tidemark_engine::RefusedRow, oid| LateRowFact {
                source: oid,
                read_at: refused.read_at,
                reason: refused.reason.name().to_string(),
                event_time: refused.time,
                limit: refused.limit,
                row: row_text(&refused.row).unwrap_or_else(|error| error.to_string()),
            };
            source.refused.iter().map(|refused| fact(refused, source.oid)).collect::<Vec<_>>()
        };
        status.sources.iter().flat_map(of_source).collect()
    }

    fn sinks(&self) -> Vec<SinkFact> {
        let status = self.db.engine.status();
        status
            .sinks
            .iter()
            .map(|sink| SinkFact {
                oid: sink.oid,
                state: sink.state.to_string(),
                delivered_epoch: Some(sink.delivered_epoch),
                epochs_behind: sink.pending_epochs,
                rows: sink.delivered_rows as i64,
                failures: sink.failures as i64,
                next_attempt: sink.next_attempt,
                pending_rows: sink.pending_rows as i64,
                pending_bytes: sink.pending_bytes as i64,
                error: sink.error.clone(),
            })
            .collect()
    }

    fn lookups(&self) -> Vec<LookupFact> {
        let status = self.db.engine.status();
        let lookups = status.jobs.iter().flat_map(|job| job.lookups.iter().map(|lookup| (job.oid, lookup)));
        lookups
            .map(|(object, lookup)| LookupFact {
                object,
                table: lookup.table.clone(),
                rows_waiting: lookup.rows_waiting as i64,
                bytes_waiting: lookup.bytes_waiting as i64,
                keys_waiting: lookup.keys_waiting as i64,
                keys_cached: lookup.keys_cached as i64,
                keys_asked: lookup.report.answered as i64,
                cache_hits: lookup.hits as i64,
                failures: lookup.report.failures as i64,
                next_attempt: lookup.report.next_attempt,
                error: lookup.report.error.clone(),
            })
            .collect()
    }

    fn epochs(&self) -> Vec<EpochFact> {
        let status = self.db.engine.status();
        status
            .epochs
            .iter()
            .map(|epoch| EpochFact {
                epoch: epoch.epoch,
                committed: epoch.committed_at,
                duration_ms: epoch.duration_micros as f64 / 1000.0,
                commit_ms: epoch.commit_micros as f64 / 1000.0,
                rows_in: epoch.rows as i64,
                rows_out: epoch.rows_out as i64,
                bytes: epoch.bytes as i64,
            })
            .collect()
    }

    fn settings(&self) -> Vec<SettingFact> {
        let session = SETTINGS.iter().map(|setting| {
            let value = self.info.setting(setting.name).unwrap_or_default();
            SettingFact {
                name: setting.name.to_string(),
                source: if value == setting.default { "default" } else { "session" }.to_string(),
                value,
                default: setting.default.to_string(),
                unit: None,
                description: setting.description.to_string(),
                context: setting.context.to_string(),
                kind: match setting.kind {
                    settings::Kind::Bool => "bool",
                    settings::Kind::Integer(..) | settings::Kind::Millis => "integer",
                    settings::Kind::OneOf(_) => "enum",
                    settings::Kind::Text | settings::Kind::TimeZone => "string",
                }
                .to_string(),
            }
        });
        session.chain(self.db.config.facts()).collect()
    }

    fn sessions(&self) -> Vec<SessionFact> {
        self.db
            .sessions()
            .into_iter()
            .map(|(pid, info)| {
                let activity = info.activity();
                SessionFact {
                    pid,
                    user: info.user.clone(),
                    application_name: info.setting("application_name").unwrap_or_default(),
                    client_address: None,
                    client_port: None,
                    started: info.started_at,
                    transaction_started: activity.transaction_started,
                    query_started: activity.query_started,
                    state_changed: activity.state_changed,
                    state: match (activity.active, activity.status) {
                        (true, _) => "active",
                        (_, Some(TransactionStatus::InTransaction)) => "idle in transaction",
                        (_, Some(TransactionStatus::Failed)) => "idle in transaction (aborted)",
                        _ => "idle",
                    }
                    .to_string(),
                    query: activity.query,
                }
            })
            .collect()
    }

    fn functions(&self) -> Vec<FunctionFact> {
        static ALL: OnceLock<Vec<FunctionFact>> = OnceLock::new();
        ALL.get_or_init(|| registry_functions(self.db.environment.state.as_ref())).clone()
    }

    fn size(&self, oid: Oid) -> Option<RelationSize> {
        let Moment { catalog, snapshot, .. } = &self.moment;
        let object = catalog.get(oid)?;
        let (collection, indexes) = match &object.kind {
            ObjectKind::Table(table) if table.remote.is_none() => {
                let def = definitions::table(object, table, catalog).ok()?;
                (def.collection, def.indexes)
            }
            ObjectKind::MaterializedView(view) => {
                (definitions::view_collection(object, view).ok()?, definitions::view_indexes(object, catalog).ok()?)
            }
            ObjectKind::Index(index) => {
                let relation = catalog.get(index.relation)?;
                let index = definitions::created_index(relation, oid, catalog).ok()?;
                let rows = self.size(relation.oid)?.rows;
                return Some(RelationSize {
                    rows,
                    bytes: index.approximate_bytes(snapshot) as i64,
                    ..RelationSize::default()
                });
            }
            _ => return None,
        };
        Some(RelationSize {
            rows: collection.row_count(snapshot).ok()? as i64,
            column_rows: collection.rows_by_column(snapshot).ok()? as i64,
            bytes: collection.approximate_bytes(snapshot) as i64,
            index_bytes: indexes.iter().map(|index| index.approximate_bytes(snapshot) as i64).sum(),
            ..RelationSize::default()
        })
    }

    fn sequence_last_value(&self, oid: Oid) -> Option<i64> {
        self.db.sequences.last(oid)
    }

    fn database_bytes(&self) -> u64 {
        self.db.store.stats().map_or(0, |s| s.table_bytes)
    }
}

/// A table of a source: what is known is known of the source, but for its copy.
fn table_fact(object: &Object, sources: &[tidemark_engine::SourceStatus]) -> Option<SourceFact> {
    let ObjectKind::Source(table) = &object.kind else { return None };
    let shared = table.shared.as_ref()?;
    let source = sources.iter().find(|source| source.oid == shared.source)?;
    let own = format!("#{}", object.oid);
    let copied: Vec<(String, String)> =
        source.positions.iter().filter(|(split, _)| split.ends_with(&own)).cloned().collect();
    Some(SourceFact {
        oid: object.oid,
        state: source.state.to_string(),
        offsets: offsets(&copied),
        lag_bytes: source.lag_bytes.map(|l| l as i64),
        error: source.error.clone(),
        ..SourceFact::default()
    })
}

fn offsets(positions: &[(String, String)]) -> Option<String> {
    match positions {
        [] => None,
        many => {
            let map: serde_json::Map<String, serde_json::Value> =
                many.iter().map(|(split, at)| (split.clone(), serde_json::Value::String(at.clone()))).collect();
            Some(serde_json::Value::Object(map).to_string())
        }
    }
}

/// `name=value, ..` of a batch of one row.
fn row_text(row: &RecordBatch) -> Result<String> {
    let mut text = BytesMut::new();
    for (array, field) in row.columns().iter().zip(row.schema_ref().fields()) {
        if !text.is_empty() {
            text.extend_from_slice(b", ");
        }
        text.extend_from_slice(field.name().as_bytes());
        text.extend_from_slice(b"=");
        let column = ValueColumn::new(array, field)?;
        match column.is_null(0) {
            true => text.extend_from_slice(b"NULL"),
            false => column.write_text(0, &Style::default(), &mut text),
        }
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}
