//! `sasl.oauthbearer.method = 'oidc'`: tokens of an endpoint, on client credentials, as librdkafka asks for them (which can where it
//! is built with curl).

use std::sync::OnceLock;

use reqwest::{Client, StatusCode, Url, redirect};
use serde_json::Value;
use tidemark_common::{Error, Hidden, Result, SqlState};

use super::super::client::TIMEOUT;
use super::super::security::{Properties, needs};
use super::{FAR, Token, jwt};
use crate::https;

const ID: &str = "sasl.oauthbearer.client.id";
const SECRET: &str = "sasl.oauthbearer.client.secret";
const ENDPOINT: &str = "sasl.oauthbearer.token.endpoint.url";
/// Answers that are longer are an error.
const LONGEST_ANSWER: usize = 1 << 20;

#[derive(Debug)]
pub(super) struct Oidc {
    endpoint: Url,
    id: Hidden,
    secret: Hidden,
    scope: Option<String>,
    extensions: Vec<(String, String)>,
    /// Option and value.
    ca: Option<(&'static str, Hidden)>,
    client: OnceLock<Client>,
}

impl Oidc {
    pub fn take(properties: &mut Properties) -> Result<Self> {
        needs(properties, "sasl.oauthbearer.method", &[ENDPOINT, ID, SECRET], "needed to ask for a token")?;
        let mut take = |key: &str| properties.remove(key);
        let missing = || Error::internal("a property that was there");
        let endpoint = endpoint_of(take(ENDPOINT).ok_or_else(missing)?.reveal())?;
        let (id, secret) = (take(ID).ok_or_else(missing)?, take(SECRET).ok_or_else(missing)?);
        let scope = take("sasl.oauthbearer.scope").map(|scope| scope.reveal().to_string());
        let given = take("sasl.oauthbearer.extensions").map(|text| text.reveal().to_string());
        let extensions = super::extensions("sasl.oauthbearer.extensions", &given.unwrap_or_default())?;
        let grant = take("sasl.oauthbearer.grant.type");
        let own = ["https.ca.location", "https.ca.pem"].map(|option| Some((option, take(option)?)));
        // As librdkafka does: who trusts an authority for the brokers may mean it for the endpoint.
        let shared = ["ssl.ca.location", "ssl.ca.pem"].map(|option| Some((option, properties.get(option)?.clone())));
        let is_file = |(_, value): &(&str, Hidden)| value.reveal() != "probe";
        let ca = own.into_iter().chain(shared).flatten().find(is_file);
        if grant.is_some_and(|grant| grant.reveal() != "client_credentials") {
            return Err(Error::unsupported("only sasl.oauthbearer.grant.type client_credentials is supported")
                .with_hint("Leave properties.sasl.oauthbearer.grant.type out."));
        }
        match properties.keys().find(|key| key.starts_with("sasl.oauthbearer.")) {
            Some(key) => Err(Error::unsupported(format!("option \"properties.{key}\" is not supported"))
                .with_hint("With 'oidc': token.endpoint.url, client.id, client.secret, scope and extensions.")),
            None => Ok(Self { endpoint, id, secret, scope, extensions, ca, client: OnceLock::new() }),
        }
    }

    pub async fn token(&self, now: i64) -> Result<Token> {
        let mut form = vec![("grant_type", "client_credentials")];
        form.extend(self.scope.as_deref().map(|scope| ("scope", scope)));
        let request = self.client()?.post(self.endpoint.clone());
        let request = request.basic_auth(self.id.reveal(), Some(self.secret.reveal())).form(&form);
        let response = request.header("Accept", "application/json").send().await.map_err(|e| self.unreachable(&e))?;
        let status = response.status();
        let answer = https::body(response, LONGEST_ANSWER).await.map_err(|e| self.unreachable(&e))?;
        let answer = answer.ok_or_else(|| self.senseless("its answer is too long"))?;
        let read = serde_json::from_slice::<Value>(&answer);
        match (status.is_success(), read) {
            (true, Ok(answer)) => self.read(&answer, now),
            (true, Err(error)) => Err(self.senseless(&error.to_string())),
            (false, said) => Err(self.refusal(status, &said.unwrap_or_default())),
        }
    }

    fn read(&self, answer: &Value, now: i64) -> Result<Token> {
        let value = answer["access_token"].as_str().filter(|token| !token.is_empty());
        let value = value.ok_or_else(|| self.senseless("its answer has no access_token"))?;
        let claims = jwt::claims(value).unwrap_or_default();
        let principal = claims["sub"].as_str().unwrap_or_else(|| self.id.reveal()).to_string();
        // A number, but some write it as a text.
        let seconds = |value: &Value| match value {
            Value::String(text) => text.parse().ok(),
            other => other.as_f64(),
        };
        let micros = |seconds: f64| (seconds.clamp(0.0, (FAR * 1000) as f64) * 1e6) as i64;
        let lives = seconds(&answer["expires_in"]).map(|lives| now + micros(lives.min(FAR as f64)));
        let ends = seconds(&claims["exp"]).map(micros);
        let expires = match (lives, ends) {
            (Some(lives), Some(ends)) => lives.min(ends),
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => return Err(self.senseless("its answer has no expires_in, and the token no exp")),
        };
        if expires <= now {
            return Err(self.senseless("its token has ended already").with_hint("Are the clocks of both right?"));
        }
        let (value, extensions) = (Hidden::new(value), self.extensions.clone());
        Ok(Token { value, principal, extensions, issued: now, expires: expires.min(now + FAR * 1_000_000) })
    }

    /// Made with the first question, so that nothing is read where a source is opened.
    fn client(&self) -> Result<Client> {
        if let Some(client) = self.client.get() {
            return Ok(client.clone());
        }
        // Credentials go where they were meant to go.
        let mut builder = Client::builder().timeout(TIMEOUT).user_agent("tidemark").redirect(redirect::Policy::none());
        if let Some((option, value)) = &self.ca {
            let (option, value) = (format!("properties.{option}"), value.reveal());
            builder = match option.ends_with(".pem") {
                true => https::trusting_pem(builder, value.as_bytes()).map_err(|why| {
                    Error::invalid(format!("option \"{option}\" cannot be used: {why}"))
                        .with_hint("It is certificates in PEM.")
                })?,
                false => https::trusting(builder, &option, value)?,
            };
        }
        let client = builder.build().map_err(|e| Error::invalid(format!("token endpoint: {}", https::causes(&e))))?;
        Ok(self.client.get_or_init(|| client).clone())
    }

    fn unreachable(&self, error: &reqwest::Error) -> Error {
        let why = match error.is_timeout() {
            true => format!("it takes longer than {} s", TIMEOUT.as_secs()),
            false => https::causes(error),
        };
        let hint = https::about_certificates(&why, "properties.https.ca.location", None);
        Error::new(
            SqlState::ConnectionException,
            format!("the token endpoint {} cannot be asked for a token: {why}", self.endpoint),
        )
        .with_hint(hint.unwrap_or_else(|| format!("Is properties.{ENDPOINT} right, and can it be reached from here?")))
    }

    fn senseless(&self, why: &str) -> Error {
        Error::new(SqlState::ProtocolViolation, format!("{} does not answer as a token endpoint: {why}", self.endpoint))
            .with_hint(format!("Is properties.{ENDPOINT} right?"))
    }

    fn refusal(&self, status: StatusCode, said: &Value) -> Error {
        let word = |name: &str| said[name].as_str().filter(|word| !word.is_empty());
        let said = word("error_description").or_else(|| word("error")).map(|said| format!(": {said}"));
        let said = format!("{status}{}", said.unwrap_or_default());
        match status {
            StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Error::new(
                SqlState::InvalidAuthorization,
                format!("the token endpoint {} gives us no token: {said}", self.endpoint),
            )
            .with_hint(format!("See properties.{ID}, properties.{SECRET} and the scope.")),
            _ => Error::new(
                SqlState::ConnectionException,
                format!("the token endpoint {} answers {said}", self.endpoint),
            )
            .with_hint(format!("Is properties.{ENDPOINT} right?")),
        }
    }
}

fn endpoint_of(text: &str) -> Result<Url> {
    // The text itself may hold a password.
    let wrong = |why: &str| {
        Error::invalid(format!("option \"properties.{ENDPOINT}\" {why}"))
            .with_hint("Such as 'https://id.example.com/oauth2/token'.")
    };
    let url = Url::parse(text).map_err(|e| wrong(&format!("is no URL: {e}")))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("must not hold a name and a password"));
    }
    match url.scheme() {
        "http" | "https" => Ok(url),
        other => Err(wrong(&format!("cannot begin with \"{other}:\""))),
    }
}
