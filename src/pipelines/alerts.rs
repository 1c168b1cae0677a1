//! Word of pipelines that fail, sent to a webhook: at once, again while it stays so, and once when it is over.
//!
//! The body is JSON; `text` is what chat systems show.

use std::time::Duration;

use serde_json::json;
use tidemark_common::{Error, Result};

/// One attempt to deliver.
const TIMEOUT: Duration = Duration::from_secs(10);
const ATTEMPTS: u32 = 3;

/// Times are microseconds since 1970.
#[derive(Debug, Clone)]
pub struct Alert {
    pub pipeline: String,
    pub run: i64,
    pub failing_since: i64,
    /// `None`: it has recovered.
    pub error: Option<String>,
}

impl Alert {
    fn body(&self) -> serde_json::Value {
        let since = chrono::DateTime::from_timestamp_micros(self.failing_since).unwrap_or_default();
        let since = since.format("%Y-%m-%dT%H:%M:%SZ").to_string();
        let Self { pipeline, run, error, .. } = self;
        let (status, text) = match error {
            Some(error) => ("failed", format!("pipeline {pipeline} fails since {since}: {error} (run {run})")),
            None => {
                ("recovered", format!("pipeline {pipeline} works again, which had failed since {since} (run {run})"))
            }
        };
        json!({ "text": text, "pipeline": pipeline, "status": status, "run": run, "error": error, "failing_since": since })
    }

    /// Sends it. The address may hold a secret, so no error repeats it.
    pub async fn send(&self, address: &str) -> Result<()> {
        let client = reqwest::Client::builder().timeout(TIMEOUT).build();
        let client = client.map_err(|e| Error::internal(format!("no HTTP client: {}", e.without_url())))?;
        let mut problem = String::new();
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                tokio::time::sleep(Duration::from_secs(1 << attempt)).await;
            }
            let request = client.post(address).header("content-type", "application/json").body(self.body().to_string());
            match request.send().await {
                Ok(response) if response.status().is_success() => return Ok(()),
                Ok(response) => problem = format!("the webhook answered {}", response.status()),
                Err(error) => problem = error.without_url().to_string(),
            }
        }
        Err(Error::new(tidemark_common::SqlState::ConnectionException, problem))
    }
}
