//! The conversation with the other system, beside the clock.
//!
//! ```text
//!   reach_out: Question (up to 1000 keys) ──▶ task: LookupSession::rows, tried until it is answered ──▶ Answer ──bell──▶ step
//! ```
//!
//! One question at a time, so that the answers come in order. Questions are bounded by the rows that wait for them, which the driver
//! bounds.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use datafusion::arrow::array::RecordBatch;
use tidemark_common::connector::{LookupCache, LookupSession, LookupTable};
use tidemark_common::{Clock, Error, Result};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use crate::outbox::backoff;
use crate::source_input::Waker;

/// A session that nobody asks anything is closed.
const IDLE: Duration = Duration::from_secs(60);

/// What an operator needs to reach what lies outside of the engine.
pub struct Outside {
    pub runtime: tokio::runtime::Handle,
    /// Makes the driver look.
    pub waker: Waker,
    pub clock: Arc<dyn Clock>,
}

/// Keys, as bytes and as columns.
pub struct Question {
    pub keys: Vec<Vec<u8>>,
    pub batch: RecordBatch,
}

pub struct Answer {
    pub keys: Vec<Vec<u8>>,
    pub rows: RecordBatch,
    pub cache: LookupCache,
}

/// How the conversation goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LookupReport {
    /// Keys that were answered.
    pub answered: u64,
    pub error: Option<String>,
    /// Attempts in a row that have failed, and when the next is due, in microseconds since 1970.
    pub failures: u64,
    pub next_attempt: Option<i64>,
}

pub struct Asker {
    subject: Arc<Subject>,
    questions: Option<mpsc::UnboundedSender<Question>>,
    said: Arc<Mutex<Said>>,
    task: Option<AbortHandle>,
}

/// What is asked for.
struct Subject {
    table: Arc<dyn LookupTable>,
    columns: Vec<usize>,
    by: Vec<usize>,
    /// For the log.
    name: String,
}

#[derive(Default)]
struct Said {
    answers: VecDeque<Answer>,
    report: LookupReport,
    /// The report has changed since somebody looked.
    news: bool,
}

impl Asker {
    pub fn new(table: Arc<dyn LookupTable>, columns: &[usize], by: &[usize], name: String) -> Self {
        let subject = Subject { table, columns: columns.to_vec(), by: by.to_vec(), name };
        Self { subject: Arc::new(subject), questions: None, said: Arc::default(), task: None }
    }

    pub fn ask(&mut self, question: Question, outside: &Outside) {
        let questions = self.questions.get_or_insert_with(|| {
            let (sender, receiver) = mpsc::unbounded_channel();
            let conversation = Conversation {
                subject: Arc::clone(&self.subject),
                said: Arc::clone(&self.said),
                waker: Arc::clone(&outside.waker),
                clock: Arc::clone(&outside.clock),
                session: None,
            };
            self.task = Some(outside.runtime.spawn(conversation.run(receiver)).abort_handle());
            sender
        });
        // The task ends with this, or with the runtime.
        let _heard = questions.send(question);
    }

    /// The answers that have come.
    pub fn take(&mut self) -> Vec<Answer> {
        let mut said = lock(&self.said);
        said.news = false;
        said.answers.drain(..).collect()
    }

    pub fn has_news(&self) -> bool {
        let said = lock(&self.said);
        said.news || !said.answers.is_empty()
    }

    pub fn report(&self) -> LookupReport {
        lock(&self.said).report.clone()
    }
}

impl Drop for Asker {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}

fn lock(said: &Mutex<Said>) -> MutexGuard<'_, Said> {
    said.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Conversation {
    subject: Arc<Subject>,
    said: Arc<Mutex<Said>>,
    waker: Waker,
    clock: Arc<dyn Clock>,
    session: Option<Box<dyn LookupSession>>,
}

impl Conversation {
    async fn run(mut self, mut questions: mpsc::UnboundedReceiver<Question>) {
        loop {
            let next = match timeout(IDLE, questions.recv()).await {
                Ok(next) => next,
                Err(_) => {
                    self.session = None;
                    questions.recv().await
                }
            };
            let Some(question) = next else { return };
            let (rows, cache) = self.insist(&question).await;
            let mut said = lock(&self.said);
            let answered = said.report.answered + question.keys.len() as u64;
            said.report = LookupReport { answered, ..LookupReport::default() };
            said.answers.push_back(Answer { keys: question.keys, rows, cache });
            drop(said);
            (self.waker)();
        }
    }

    /// Asks until there is an answer; slower each time.
    async fn insist(&mut self, question: &Question) -> (RecordBatch, LookupCache) {
        loop {
            match self.ask(question).await {
                Ok(answer) => return answer,
                Err(error) => {
                    self.session = None;
                    let pause = self.failed(&error);
                    (self.waker)();
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    async fn ask(&mut self, question: &Question) -> Result<(RecordBatch, LookupCache)> {
        let session = match &mut self.session {
            Some(session) => session,
            None => self.session.insert(self.subject.table.session(&self.subject.columns, &self.subject.by).await?),
        };
        let rows = session.rows(&question.batch).await?;
        Ok((rows, session.cache()))
    }

    /// How long to wait before the next attempt.
    fn failed(&self, error: &Error) -> Duration {
        tracing::warn!(lookup = self.subject.name, %error, "a lookup failed, trying again");
        let mut said = lock(&self.said);
        let pause = backoff(said.report.failures, self.subject.by.len() as u32);
        let next = self.clock.now_micros().saturating_add(pause.as_micros() as i64);
        let report = &mut said.report;
        (report.error, report.failures, report.next_attempt) =
            (Some(error.to_string()), report.failures + 1, Some(next));
        said.news = true;
        pause
    }
}
