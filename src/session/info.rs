//! What is known of a session outside of it: settings, activity, and the way to cancel it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use tidemark_catalog::{Catalog, SYSTEM_SCHEMAS};
use tidemark_common::{Error, Result, SqlState};
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use super::TransactionStatus;
use super::settings::{self, SETTINGS};
use crate::database::Database;

pub struct SessionInfo {
    pub user: String,
    pub database: String,
    pub started_at: i64,
    pub server_started_at: i64,
    pid: AtomicI32,
    state: Mutex<State>,
}

struct State {
    /// By lower-case name; only those that differ from the default.
    settings: BTreeMap<&'static str, String>,
    /// SET LOCAL: what to go back to at the end of the transaction.
    local: Vec<(&'static str, Option<String>)>,
    /// What was set in this transaction, undone by ROLLBACK.
    reported: Vec<(String, String)>,
    cancel: CancellationToken,
    timed_out: bool,
    /// Of statement_timeout.
    timer: Option<AbortHandle>,
    /// Statements begun so far.
    statements: u64,
    random: StdRng,
    activity: Activity,
    schemas: Vec<String>,
    /// What the transaction under way sees, its own changes included.
    catalog: Option<Arc<Catalog>>,
}

/// For pg_stat_activity.
#[derive(Debug, Clone, Default)]
pub struct Activity {
    pub query: String,
    pub query_started: Option<i64>,
    pub state_changed: Option<i64>,
    pub transaction_started: Option<i64>,
    pub active: bool,
    pub status: Option<TransactionStatus>,
}

impl std::fmt::Debug for SessionInfo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SessionInfo({})", self.pid())
    }
}

impl SessionInfo {
    pub fn new(db: &Arc<Database>, user: &str) -> Self {
        Self {
            user: user.to_string(),
            database: db.name.clone(),
            started_at: db.now(),
            server_started_at: db.started_at,
            pid: AtomicI32::new(0),
            state: Mutex::new(State {
                settings: BTreeMap::new(),
                local: Vec::new(),
                reported: Vec::new(),
                cancel: CancellationToken::new(),
                timed_out: false,
                timer: None,
                statements: 0,
                random: StdRng::from_os_rng(),
                activity: Activity::default(),
                schemas: db.moment().catalog.schemas().map(|s| s.name.clone()).collect(),
                catalog: None,
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn pid(&self) -> i32 {
        self.pid.load(Ordering::Relaxed)
    }

    pub fn set_pid(&self, pid: i32) {
        self.pid.store(pid, Ordering::Relaxed);
    }

    // ---- Settings ---------------------------------------------------------------------------------------------------

    /// The value as SHOW prints it; `None`: there is no such setting.
    pub fn setting(&self, name: &str) -> Option<String> {
        let setting = settings::find(name)?;
        Some(self.lock().settings.get(setting.name).cloned().unwrap_or_else(|| setting.default.to_string()))
    }

    /// SET; `local`: until the transaction ends. Returns the value as it will be shown.
    pub fn set(&self, name: &str, value: Option<&str>, local: bool) -> Result<String> {
        let setting = settings::find(name).ok_or_else(|| settings::unknown(name))?;
        let value = match value {
            Some(value) => setting.check(value)?,
            None => setting.default.to_string(),
        };
        let mut state = self.lock();
        let before = state.settings.insert(setting.name, value.clone());
        if local {
            state.local.push((setting.name, before.clone()));
        }
        if setting.reported && before.as_deref().unwrap_or(setting.default) != value {
            state.reported.push((setting.name.to_string(), value.clone()));
        }
        Ok(value)
    }

    /// From the startup message: what is not a setting is not for us.
    pub fn set_at_start(&self, name: &str, value: &str) -> Result<()> {
        match settings::find(name) {
            Some(_) => self.set(name, Some(value), false).map(|_| ()),
            None => Ok(()),
        }
    }

    pub fn reset_all(&self) {
        for setting in SETTINGS {
            if setting.context == "user" && self.lock().settings.contains_key(setting.name) {
                // A default is always acceptable.
                let _unchanged = self.set(setting.name, None, false);
            }
        }
    }

    pub fn take_reported_changes(&self) -> Vec<(String, String)> {
        std::mem::take(&mut self.lock().reported)
    }

    /// The schemas of search_path that exist.
    pub fn search_path(&self) -> Vec<String> {
        let path = self.setting("search_path").unwrap_or_default();
        let state = self.lock();
        settings::split_list(&path)
            .into_iter()
            // The superuser has the name of the system's own schema, which is not the user's.
            .filter(|s| s != "$user" || !SYSTEM_SCHEMAS.iter().any(|(_, system)| *system == self.user))
            .map(|s| if s == "$user" { self.user.clone() } else { s })
            .filter(|s| state.schemas.contains(s))
            .collect()
    }

    // ---- Statements and transactions --------------------------------------------------------------------------------

    pub fn begin_transaction(&self, started_at: i64, catalog: &Arc<Catalog>) {
        let mut state = self.lock();
        state.activity.transaction_started = Some(started_at);
        state.schemas = catalog.schemas().map(|s| s.name.clone()).collect();
        state.catalog = Some(catalog.clone());
    }

    /// The transaction has made or dropped schemas.
    pub fn note_schemas(&self, catalog: &Arc<Catalog>) {
        let mut state = self.lock();
        state.schemas = catalog.schemas().map(|s| s.name.clone()).collect();
        state.catalog = Some(catalog.clone());
    }

    /// The catalog of the transaction under way.
    pub fn catalog(&self) -> Option<Arc<Catalog>> {
        self.lock().catalog.clone()
    }

    pub fn end_transaction(&self) {
        let mut state = self.lock();
        state.activity.transaction_started = None;
        state.catalog = None;
        for (name, before) in std::mem::take(&mut state.local).into_iter().rev() {
            match before {
                Some(value) => state.settings.insert(name, value),
                None => state.settings.remove(name),
            };
        }
    }

    /// Starts the clock of statement_timeout, which runs until the next statement begins: rows are sent after `execute`.
    pub fn begin_statement(self: &Arc<Self>, text: &str, now: i64) -> CancellationToken {
        /// Characters of a statement that pg_stat_activity shows.
        const SHOWN: usize = 1024;
        let limit = self.setting("statement_timeout").and_then(|limit| settings::millis(&limit)).filter(|ms| *ms > 0);
        let mut state = self.lock();
        state.cancel = CancellationToken::new();
        state.timed_out = false;
        state.statements += 1;
        if let Some(timer) = state.timer.take() {
            timer.abort();
        }
        if let (Some(limit), Ok(runtime)) = (limit, tokio::runtime::Handle::try_current()) {
            let (info, statement) = (Arc::downgrade(self), state.statements);
            let timer = runtime.spawn(async move {
                tokio::time::sleep(Duration::from_millis(limit)).await;
                if let Some(info) = info.upgrade() {
                    info.time_out(statement);
                }
            });
            state.timer = Some(timer.abort_handle());
        }
        state.activity.query = text.chars().take(SHOWN).collect();
        state.activity.query_started = Some(now);
        state.activity.state_changed = Some(now);
        state.activity.active = true;
        state.cancel.clone()
    }

    pub fn end_statement(&self, status: TransactionStatus, now: i64) {
        let mut state = self.lock();
        state.activity.state_changed = Some(now);
        state.activity.active = false;
        state.activity.status = Some(status);
    }

    pub fn activity(&self) -> Activity {
        self.lock().activity.clone()
    }

    pub fn cancellation(&self) -> CancellationToken {
        self.lock().cancel.clone()
    }

    pub fn cancel(&self) {
        self.lock().cancel.cancel();
    }

    /// statement_timeout has passed for the `statement`th statement; by now the next may have begun.
    fn time_out(&self, statement: u64) {
        let mut state = self.lock();
        if state.statements == statement && !state.cancel.is_cancelled() {
            state.timed_out = true;
            state.cancel.cancel();
        }
    }

    /// What random() and uuids are made of.
    pub fn random_bits(&self) -> u64 {
        self.lock().random.next_u64()
    }

    /// setseed: the same seed gives the same numbers.
    pub fn set_seed(&self, seed: f64) {
        self.lock().random = StdRng::seed_from_u64(seed.to_bits());
    }

    pub fn cancel_reason(&self) -> Error {
        let message = match self.lock().timed_out {
            true => "canceling statement due to statement timeout",
            false => "canceling statement due to user request",
        };
        Error::new(SqlState::QueryCanceled, message)
    }
}
