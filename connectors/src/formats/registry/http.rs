//! Questions to a registry over HTTP: one URL after the other, and all of them again after a while.
//!
//! ```text
//!   question ─▶ url 1 ─✗─▶ url 2 ─✗─▶ (wait) ─▶ url 1 ..      what does not pass by waiting is told at once
//! ```

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use reqwest::{Client, Identity, Method, StatusCode};
use serde_json::Value;
use tidemark_common::{Error, Result, SqlState};

use super::options::RegistryOptions;
use crate::https;

/// How often all URLs are tried, and how long it waits before the second time; twice as long before each further one.
const ROUNDS: u32 = 3;
const FIRST_WAIT: Duration = Duration::from_millis(200);
/// Answers that are longer are an error.
const LONGEST_ANSWER: usize = 16 << 20;
const CONTENT_TYPE: &str = "application/vnd.schemaregistry.v1+json";

#[derive(Debug)]
pub(super) struct Http {
    options: RegistryOptions,
    client: OnceLock<Client>,
    /// The URL that answered last.
    answered: AtomicUsize,
}

impl Http {
    pub fn new(options: RegistryOptions) -> Self {
        Self { options, client: OnceLock::new(), answered: AtomicUsize::new(0) }
    }

    /// `what`: what is asked for, e.g. `subject "orders-value"`.
    pub async fn get(&self, path: &str, what: &str) -> Result<Value> {
        self.ask(Method::GET, path, None, what).await
    }

    pub async fn post(&self, path: &str, body: &Value, what: &str) -> Result<Value> {
        self.ask(Method::POST, path, Some(body.to_string()), what).await
    }

    async fn ask(&self, method: Method, path: &str, body: Option<String>, what: &str) -> Result<Value> {
        let (client, urls) = (self.client()?, &self.options.urls);
        let mut failed = Error::internal("nobody has been asked");
        for round in 0..ROUNDS {
            if round > 0 {
                tokio::time::sleep(FIRST_WAIT * 2_u32.pow(round - 1)).await;
            }
            let first = self.answered.load(Ordering::Relaxed);
            for at in (0..urls.len()).map(|step| (first + step) % urls.len()) {
                match self.once(&client, &method, &urls[at], path, body.as_deref(), what).await {
                    Err(error) if super::is_passing(&error) => failed = error,
                    answer => {
                        self.answered.store(at, Ordering::Relaxed);
                        return answer;
                    }
                }
            }
        }
        Err(failed)
    }

    async fn once(
        &self,
        client: &Client,
        method: &Method,
        url: &str,
        path: &str,
        body: Option<&str>,
        what: &str,
    ) -> Result<Value> {
        let mut request = client.request(method.clone(), format!("{url}{path}")).header("Accept", CONTENT_TYPE);
        if let Some((user, password)) = &self.options.user {
            request = request.basic_auth(user.reveal(), Some(password.reveal()));
        }
        if let Some(body) = body {
            request = request.header("Content-Type", CONTENT_TYPE).body(body.to_string());
        }
        let response = request.send().await.map_err(|e| unreachable(&e, url, what))?;
        let status = response.status();
        let answer = https::body(response, LONGEST_ANSWER).await.map_err(|e| unreachable(&e, url, what))?;
        let answer = answer.ok_or_else(|| {
            let message =
                format!("the schema registry's answer about {what} is longer than {} MiB", LONGEST_ANSWER >> 20);
            Error::new(SqlState::ProgramLimitExceeded, message)
        })?;
        let read = serde_json::from_slice::<Value>(&answer);
        match (status, read) {
            (status, Ok(answer)) if status.is_success() => Ok(answer),
            (status, Err(error)) if status.is_success() => Err(Error::new(
                SqlState::ProtocolViolation,
                format!("{url} does not answer as a schema registry about {what}: {error}"),
            )),
            (status, said) => {
                let said = said.ok().and_then(|said| Some(said["message"].as_str()?.to_string()));
                Err(refusal(status, url, what, &said.unwrap_or_default()))
            }
        }
    }

    /// Made with the first question, so that nothing is read where a source is opened.
    fn client(&self) -> Result<Client> {
        if let Some(client) = self.client.get() {
            return Ok(client.clone());
        }
        let mut builder = Client::builder().timeout(self.options.timeout).user_agent("tidemark");
        if let Some(path) = &self.options.ca {
            builder = https::trusting(builder, "schema.registry.ca", path)?;
        }
        if let Some((certificate, key)) = &self.options.certificate {
            let mut pem = https::read("schema.registry.key", key)?;
            pem.push(b'\n');
            pem.extend(https::read("schema.registry.certificate", certificate)?);
            let identity = Identity::from_pem(&pem)
                .map_err(|e| https::not_pem("schema.registry.certificate", certificate, &https::causes(&e)))?;
            builder = builder.identity(identity);
        }
        let client = builder.build().map_err(|e| Error::invalid(format!("schema registry: {}", causes(&e))))?;
        Ok(self.client.get_or_init(|| client).clone())
    }
}

fn unreachable(error: &reqwest::Error, url: &str, what: &str) -> Error {
    let why = causes(error);
    let hint = https::about_certificates(&why, "schema.registry.ca", Some("schema.registry.certificate"));
    Error::new(SqlState::ConnectionException, format!("the schema registry {url} cannot be asked about {what}: {why}"))
        .with_hint(hint.unwrap_or_else(|| "Is schema.registry right, and can it be reached from here?".into()))
}

fn causes(error: &reqwest::Error) -> String {
    match error.is_timeout() {
        true => "it takes too long (schema.registry.timeout)".to_string(),
        false => https::causes(error),
    }
}

fn refusal(status: StatusCode, url: &str, what: &str, said: &str) -> Error {
    let (state, message, hint) = match status {
        StatusCode::UNAUTHORIZED => (
            SqlState::InvalidAuthorization,
            format!("the schema registry {url} does not let us in to ask for {what}"),
            "See schema.registry.username and schema.registry.password.",
        ),
        StatusCode::FORBIDDEN => (
            SqlState::InsufficientPrivilege,
            format!("the schema registry {url} does not allow {what}"),
            "The user needs the right to read the subject, and for a sink to write it.",
        ),
        StatusCode::NOT_FOUND => (
            SqlState::UndefinedObject,
            format!("the schema registry {url} has no {what}"),
            "Subjects are named by schema.registry.name.strategy; by default after the topic: topic-value.",
        ),
        StatusCode::CONFLICT => (
            SqlState::InvalidObjectDefinition,
            format!("the schema is not compatible with what the schema registry {url} has for {what}"),
            "Columns can be added if they may be NULL; or change the compatibility of the subject.",
        ),
        StatusCode::UNPROCESSABLE_ENTITY => (
            SqlState::InvalidObjectDefinition,
            format!("the schema registry {url} does not take what was asked of {what}"),
            "Its own words say what it does not like.",
        ),
        StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => {
            (SqlState::ConnectionException, format!("the schema registry {url} is busy"), "It is asked again.")
        }
        other if other.is_server_error() => (
            SqlState::ConnectionException,
            format!("the schema registry {url} fails at {what} ({})", other.as_u16()),
            "Its own log says more.",
        ),
        other => (
            SqlState::ProtocolViolation,
            format!("{url} answers {} to a question about {what}", other.as_u16()),
            "Is schema.registry the URL of a schema registry?",
        ),
    };
    let error = Error::new(state, message).with_hint(hint);
    match said.is_empty() {
        true => error,
        false => error.with_detail(said),
    }
}
