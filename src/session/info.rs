//! What is known of a session outside of it: settings, activity, and the way to cancel it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use tidemark_catalog::{Catalog, SYSTEM_SCHEMAS};
use tidemark_common::{Error, Oid, Result, SqlState};
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use super::TransactionStatus;
use super::settings::{self, SETTINGS};
use crate::database::Database;
use crate::pg_catalog::CursorFact;

pub struct SessionInfo {
    pub user: String,
    pub database: String,
    pub started_at: i64,
    pid: AtomicI32,
    state: Mutex<State>,
}

struct State {
    /// By lower-case name; only those that differ from the default.
    settings: BTreeMap<String, String>,
    /// Counts the changes of `settings`.
    version: u64,
    /// What this transaction has set, and what was there before.
    undo: Vec<Undo>,
    /// Changes that the client has not been told of.
    reported: Vec<(String, String)>,
    cancel: CancellationToken,
    timed_out: bool,
    /// statement_timeout in milliseconds, and the `version` of the settings in which it was that.
    timeout: Option<(u64, Option<u64>)>,
    /// Of statement_timeout.
    timer: Option<AbortHandle>,
    /// Statements begun so far.
    statements: u64,
    random: StdRng,
    activity: Activity,
    schemas: Vec<String>,
    /// The catalog that `schemas` are of.
    schemas_of: Weak<Catalog>,
    /// Open cursors, for pg_cursors.
    cursors: Vec<CursorFact>,
    numbers: Numbers,
    /// What the transaction under way sees, its own changes included.
    catalog: Option<Arc<Catalog>>,
}

/// What nextval has given this session.
#[derive(Default)]
struct Numbers {
    by_sequence: HashMap<Oid, i64>,
    last: Option<Oid>,
}

/// A SET of the transaction under way.
struct Undo {
    name: String,
    before: Option<String>,
    /// SET LOCAL: undone by COMMIT, too.
    local: bool,
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

impl State {
    fn see(&mut self, catalog: &Arc<Catalog>) {
        if !std::ptr::eq(self.schemas_of.as_ptr(), Arc::as_ptr(catalog)) {
            self.schemas = catalog.schemas().map(|s| s.name.clone()).collect();
            self.schemas_of = Arc::downgrade(catalog);
        }
        self.catalog = Some(catalog.clone());
    }

    /// What statement_timeout allows, in milliseconds.
    fn timeout(&mut self) -> Option<u64> {
        match self.timeout {
            Some((version, limit)) if version == self.version => limit,
            _ => {
                let limit = self.settings.get("statement_timeout").and_then(|limit| settings::millis(limit));
                let limit = limit.filter(|ms| *ms > 0);
                self.timeout = Some((self.version, limit));
                limit
            }
        }
    }

    fn go_back(&mut self, undo: Undo) {
        let Undo { name, before, .. } = undo;
        self.version += 1;
        if let Some(setting) = settings::find(&name)
            && setting.reported
        {
            let value = before.clone().unwrap_or_else(|| setting.default.to_string());
            self.reported.push((name.clone(), value));
        }
        match before {
            Some(value) => self.settings.insert(name, value),
            None => self.settings.remove(&name),
        };
    }
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
            pid: AtomicI32::new(0),
            state: Mutex::new(State {
                settings: BTreeMap::new(),
                version: 0,
                undo: Vec::new(),
                reported: Vec::new(),
                cancel: CancellationToken::new(),
                timed_out: false,
                timeout: None,
                timer: None,
                statements: 0,
                random: StdRng::from_os_rng(),
                activity: Activity::default(),
                schemas: db.moment().catalog.schemas().map(|s| s.name.clone()).collect(),
                schemas_of: Weak::new(),
                cursors: Vec::new(),
                numbers: Numbers::default(),
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
        let Some(setting) = settings::find(name) else {
            return self.lock().settings.get(&name.to_lowercase()).cloned();
        };
        Some(self.lock().settings.get(setting.name).cloned().unwrap_or_else(|| setting.default.to_string()))
    }

    /// Changes whenever a setting does.
    pub fn settings_version(&self) -> u64 {
        self.lock().version
    }

    /// SET; `local`: until the transaction ends. Returns the value as it will be shown.
    pub fn set(&self, name: &str, value: Option<&str>, local: bool) -> Result<String> {
        let Some(setting) = settings::find(name) else {
            return self.set_custom(name, value, local);
        };
        let value = match value {
            Some(value) => setting.check(value)?,
            None => setting.default.to_string(),
        };
        let mut state = self.lock();
        state.version += 1;
        let before = state.settings.insert(setting.name.to_string(), value.clone());
        if setting.reported && before.as_deref().unwrap_or(setting.default) != value {
            state.reported.push((setting.name.to_string(), value.clone()));
        }
        state.undo.push(Undo { name: setting.name.to_string(), before, local });
        Ok(value)
    }

    /// A setting of the user's own has a dot in its name.
    fn set_custom(&self, name: &str, value: Option<&str>, local: bool) -> Result<String> {
        let name = name.to_lowercase();
        if !name.contains('.') {
            return Err(settings::unknown(&name));
        }
        let value = value.unwrap_or_default().to_string();
        let mut state = self.lock();
        state.version += 1;
        let before = state.settings.insert(name.clone(), value.clone());
        state.undo.push(Undo { name, before, local });
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
        state.undo.clear();
        state.see(catalog);
    }

    /// The transaction has made or dropped schemas.
    pub fn note_schemas(&self, catalog: &Arc<Catalog>) {
        self.lock().see(catalog);
    }

    /// The catalog of the transaction under way.
    pub fn catalog(&self) -> Option<Arc<Catalog>> {
        self.lock().catalog.clone()
    }

    pub fn end_transaction(&self) {
        let mut state = self.lock();
        state.activity.transaction_started = None;
        state.catalog = None;
        let mut kept = BTreeSet::new();
        for undo in std::mem::take(&mut state.undo).into_iter().rev() {
            // What a later SET of the session has settled stays.
            if !undo.local {
                kept.insert(undo.name);
            } else if !kept.contains(&undo.name) {
                state.go_back(undo);
            }
        }
    }

    /// ROLLBACK: nothing that the transaction has set was.
    pub fn roll_back_settings(&self) {
        self.roll_back_settings_to(0);
    }

    /// For [`SessionInfo::roll_back_settings_to`].
    pub fn settings_mark(&self) -> usize {
        self.lock().undo.len()
    }

    /// ROLLBACK TO: what was set since the mark was not.
    pub fn roll_back_settings_to(&self, mark: usize) {
        let mut state = self.lock();
        let at = mark.min(state.undo.len());
        for undo in state.undo.split_off(at).into_iter().rev() {
            state.go_back(undo);
        }
    }

    // ---- Cursors and sequences --------------------------------------------------------------------------------------

    pub fn note_cursors(&self, cursors: Vec<CursorFact>) {
        self.lock().cursors = cursors;
    }

    pub fn cursors(&self) -> Vec<CursorFact> {
        self.lock().cursors.clone()
    }

    /// nextval or setval; `last`: lastval tells of it from now on.
    pub fn note_number(&self, sequence: Oid, number: i64, last: bool) {
        let numbers = &mut self.lock().numbers;
        numbers.by_sequence.insert(sequence, number);
        if last {
            numbers.last = Some(sequence);
        }
    }

    /// What nextval gave last of this sequence.
    pub fn number(&self, sequence: Oid) -> Option<i64> {
        self.lock().numbers.by_sequence.get(&sequence).copied()
    }

    /// What nextval gave last of any.
    pub fn last_number(&self) -> Option<i64> {
        let numbers = &self.lock().numbers;
        numbers.by_sequence.get(&numbers.last?).copied()
    }

    /// DISCARD SEQUENCES
    pub fn forget_numbers(&self) {
        self.lock().numbers = Numbers::default();
    }

    /// Starts the clock of statement_timeout, which runs until the next statement begins: rows are sent after `execute`.
    pub fn begin_statement(self: &Arc<Self>, text: &str, now: i64) -> CancellationToken {
        /// Characters of a statement that pg_stat_activity shows.
        const SHOWN: usize = 1024;
        let mut state = self.lock();
        // Nobody listens to the last statement's any more, so that it is as good as new.
        if state.cancel.is_cancelled() {
            state.cancel = CancellationToken::new();
        }
        state.timed_out = false;
        state.statements += 1;
        if let Some(timer) = state.timer.take() {
            timer.abort();
        }
        if let Some(limit) = state.timeout()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let (info, statement) = (Arc::downgrade(self), state.statements);
            let timer = runtime.spawn(async move {
                tokio::time::sleep(Duration::from_millis(limit)).await;
                if let Some(info) = info.upgrade() {
                    info.time_out(statement);
                }
            });
            state.timer = Some(timer.abort_handle());
        }
        let shown = match text.len() <= SHOWN {
            true => text,
            false => text.char_indices().nth(SHOWN).map_or(text, |(end, _)| &text[..end]),
        };
        state.activity.query.clear();
        state.activity.query.push_str(shown);
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
