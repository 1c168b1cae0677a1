//! A schema registry, as Confluent's speaks: what the number before a record stands for.
//!
//! ```text
//!   record ──frame──▶ id, body
//!                      └─▶ Lookup ──▶ Registry ──known?──▶ Fetched (the schema and all that it refers to)
//!                                         └─ GET /schemas/ids/7 ─▶ http: one URL after the other, a few times
//!   CREATE ──▶ latest version of a subject            sink ──▶ register: POST /subjects/orders-value/versions
//! ```
//!
//! A schema never changes under its id, so what has been fetched is kept. Records are decoded in threads that are none of tokio's:
//! [`Lookup`] has the runtime's handle, runs the question as a task there and blocks its own thread until the answer is in.

mod by_id;
mod fetched;
pub(crate) mod frame;
mod http;
mod options;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use serde_json::{Value, json};
use tidemark_common::{Error, Result, SqlState};
use tokio::runtime::{Handle, RuntimeFlavor};

pub(crate) use by_id::ById;
pub(crate) use fetched::{Fetched, Named, SchemaKind};
use fetched::{Reference, read_id, read_schema};
use http::Http;
pub(crate) use options::{RegistryOptions, either};

use crate::https::percent_encoded;

/// Schemas that are kept; with more they are fetched anew.
const KEPT: usize = 10_000;
/// Schemas that one may refer to, directly and through others.
const MOST_REFERENCES: usize = 200;

#[derive(Debug)]
pub(crate) struct Registry {
    http: Http,
    known: RwLock<HashMap<u32, Arc<Fetched>>>,
}

impl Registry {
    pub fn new(options: RegistryOptions) -> Self {
        Self { http: Http::new(options), known: RwLock::default() }
    }

    pub async fn by_id(&self, id: u32) -> Result<Arc<Fetched>> {
        if let Some(known) = self.known(id) {
            return Ok(known);
        }
        let answer = self.http.get(&format!("/schemas/ids/{id}"), &format!("schema {id}")).await?;
        self.keep(id, &answer).await
    }

    /// The latest version of a subject.
    pub async fn latest(&self, subject: &str) -> Result<Arc<Fetched>> {
        let answer = self.http.get(&version_path(subject, "latest"), &format!("subject \"{subject}\"")).await?;
        let id = read_id(&answer)?;
        self.keep(id, &answer).await
    }

    /// The id of a schema under a subject; it is made a version of it if it is none yet.
    pub async fn register(&self, subject: &str, kind: SchemaKind, text: &str) -> Result<u32> {
        let body = json!({ "schema": text, "schemaType": kind.name() });
        let path = format!("/subjects/{}/versions", percent_encoded(subject));
        let answer = self.http.post(&path, &body, &format!("subject \"{subject}\"")).await?;
        read_id(&answer)
    }

    /// What is known of an id without asking.
    fn known(&self, id: u32) -> Option<Arc<Fetched>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    async fn keep(&self, id: u32, answer: &Value) -> Result<Arc<Fetched>> {
        let (kind, text, references) = read_schema(answer)?;
        let references = self.refer(references).await?;
        let fetched = Arc::new(Fetched { id, kind, text, references });
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KEPT {
            known.clear();
        }
        known.insert(id, Arc::clone(&fetched));
        Ok(fetched)
    }

    /// The schemas referred to, each after those that it refers to itself.
    async fn refer(&self, references: Vec<Reference>) -> Result<Vec<Named>> {
        let names = |references: &[Reference]| references.iter().map(|one| one.name.clone()).collect::<Vec<_>>();
        let (wanted, mut open, mut found) = (names(&references), references, HashMap::new());
        while let Some(reference) = open.pop() {
            if found.contains_key(&reference.name) {
                continue;
            }
            if found.len() >= MOST_REFERENCES {
                let message = format!("a schema refers to more than {MOST_REFERENCES} others");
                return Err(Error::new(SqlState::ProgramLimitExceeded, message));
            }
            let path = version_path(&reference.subject, &reference.version.to_string());
            let what = format!("subject \"{}\", version {}", reference.subject, reference.version);
            let (_, text, more) = read_schema(&self.http.get(&path, &what).await?)?;
            found.insert(reference.name, (text, names(&more)));
            open.extend(more);
        }
        let mut ordered = Vec::new();
        wanted.into_iter().for_each(|name| place(name, &mut found, &mut ordered));
        Ok(ordered)
    }

    #[cfg(test)]
    pub(crate) fn learn(&self, fetched: Fetched) {
        self.known.write().unwrap().insert(fetched.id, Arc::new(fetched));
    }
}

/// Puts a schema after those that it refers to. What has been placed is found no more.
fn place(name: String, found: &mut HashMap<String, (String, Vec<String>)>, ordered: &mut Vec<Named>) {
    if let Some((text, before)) = found.remove(&name) {
        before.into_iter().for_each(|other| place(other, found, ordered));
        ordered.push(Named { name, text });
    }
}

fn version_path(subject: &str, version: &str) -> String {
    format!("/subjects/{}/versions/{version}", percent_encoded(subject))
}

/// True of what may be otherwise when it is asked again.
pub(crate) fn is_passing(error: &Error) -> bool {
    error.state() == SqlState::ConnectionException
}

/// A registry for threads that are none of the runtime's.
#[derive(Debug)]
pub(crate) struct Lookup {
    registry: Arc<Registry>,
    runtime: Handle,
}

impl Lookup {
    /// Made where the runtime is known.
    pub fn new(registry: &Arc<Registry>) -> Result<Self> {
        let runtime = Handle::try_current().map_err(|e| Error::internal(format!("a schema registry: {e}")))?;
        Ok(Self { registry: Arc::clone(registry), runtime })
    }

    /// Blocks if it has to be asked for.
    pub fn by_id(&self, id: u32) -> Result<Arc<Fetched>> {
        if let Some(known) = self.registry.known(id) {
            return Ok(known);
        }
        let registry = Arc::clone(&self.registry);
        self.wait(async move { registry.by_id(id).await })
    }

    /// Blocks.
    pub fn latest(&self, subject: &str) -> Result<Arc<Fetched>> {
        let (registry, subject) = (Arc::clone(&self.registry), subject.to_string());
        self.wait(async move { registry.latest(&subject).await })
    }

    /// Blocks.
    pub fn register(&self, subject: &str, kind: SchemaKind, text: &str) -> Result<u32> {
        let (registry, subject, text) = (Arc::clone(&self.registry), subject.to_string(), text.to_string());
        self.wait(async move { registry.register(&subject, kind, &text).await })
    }

    fn wait<T: Send + 'static>(&self, question: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        self.runtime.spawn(async move {
            // Nobody listens where the thread has ended.
            let _told = sender.send(question.await);
        });
        let ended = || Error::new(SqlState::AdminShutdown, "the server is shutting down");
        let answer = || receiver.recv().unwrap_or_else(|_| Err(ended()));
        match self.runtime.runtime_flavor() {
            // Where the thread is one of the runtime's after all, another takes its place.
            RuntimeFlavor::MultiThread => tokio::task::block_in_place(answer),
            _ => answer(),
        }
    }
}
