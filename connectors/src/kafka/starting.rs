//! A source begins to read, however often that takes: while brokers, or who gives out tokens for them, are away.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tidemark_common::{Error, Result, SqlState};
use tokio::task::JoinHandle;

use super::client::blocking;
use super::options::KafkaOptions;
use super::reader::{self, KafkaReader};
use super::stored::Stored;
use crate::{Positions, SourceBatch, SourceReader};

/// How long it waits before it tries again; each time twice as long, up to the second.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// What a reader is to read.
#[derive(Clone)]
pub(super) struct Start {
    pub options: Arc<KafkaOptions>,
    pub stored: Arc<Stored>,
    pub from: Positions,
    pub until: Option<Positions>,
    pub projection: Option<Vec<usize>>,
}

impl Start {
    pub async fn once(self) -> Result<KafkaReader> {
        blocking(move || {
            let Self { options, stored, from, until, projection } = self;
            reader::start(&options, stored, &from, until.as_ref(), projection.as_deref())
        })
        .await
    }

    fn after(&self, wait: Duration) -> JoinHandle<Result<KafkaReader>> {
        let this = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            this.once().await
        })
    }

    /// Whether it may come to something another time.
    fn may_pass(&self, error: &Error) -> bool {
        error.state() == SqlState::ConnectionException || self.options.client.has_tokens() && is_about_tokens(error)
    }
}

/// Those who are let in by tokens may be let in by the next.
fn is_about_tokens(error: &Error) -> bool {
    matches!(error.state(), SqlState::InvalidAuthorization | SqlState::ProtocolViolation)
}

/// A reader once it has started.
pub(super) struct Starting {
    start: Start,
    now: Now,
    trouble: Option<Error>,
    wait: Duration,
}

enum Now {
    Trying(JoinHandle<Result<KafkaReader>>),
    Reading(Box<KafkaReader>),
}

impl Starting {
    pub fn new(start: Start) -> Self {
        let now = Now::Trying(start.after(Duration::ZERO));
        Self { start, now, trouble: None, wait: FIRST_WAIT }
    }
}

#[async_trait]
impl SourceReader for Starting {
    async fn next(&mut self) -> Result<Option<SourceBatch>> {
        loop {
            let tried = match &mut self.now {
                Now::Reading(reader) => return reader.next().await,
                Now::Trying(trying) => trying.await,
            };
            let tried = tried.unwrap_or_else(|e| Err(Error::internal(format!("starting to read failed: {e}"))));
            self.now = match tried {
                Ok(reader) => Now::Reading(Box::new(reader)),
                Err(error) if self.start.may_pass(&error) => {
                    tracing::warn!(source = self.start.options.name, %error, "not yet reading");
                    self.trouble = Some(error);
                    let wait = self.wait;
                    self.wait = (wait * 2).min(LONGEST_WAIT);
                    Now::Trying(self.start.after(wait))
                }
                Err(error) => return Err(error),
            };
        }
    }

    fn lag_rows(&self) -> Option<u64> {
        match &self.now {
            Now::Reading(reader) => reader.lag_rows(),
            Now::Trying(_) => None,
        }
    }

    fn trouble(&self) -> Option<Error> {
        match &self.now {
            Now::Reading(reader) => reader.trouble(),
            Now::Trying(_) => self.trouble.clone(),
        }
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        if let Now::Trying(trying) = &self.now {
            trying.abort();
        }
    }
}
