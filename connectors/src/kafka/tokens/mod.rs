//! SASL OAUTHBEARER: tokens that say who we are, for a while.
//!
//! ```text
//!   Grant (a token endpoint · a signature for MSK · nothing but our word) ──▶ Token ──▶ each client that is made
//!                    ▲                                                          │
//!                    └── at 80% of its life, or a while after a failure ◀───────┴──▶ all clients there are
//! ```
//!
//! librdkafka asks for tokens only while somebody polls it, and by rdkafka takes no extensions: so clients are given theirs as soon
//! as there is a new one. A client goes on with the token that it has until that ends.

mod jwt;
mod msk;
mod oidc;
mod sigv4;
mod unsecured;

#[cfg(test)]
mod tests;

use std::ffi::{CString, c_char};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use rdkafka::bindings::rd_kafka_oauthbearer_set_token;
use rdkafka::client::{Client, ClientContext};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseProducer, Producer};
use rdkafka::types::RDKafkaRespErr;
use tidemark_common::{Clock, Error, Hidden, Result, SqlState, SystemClock};
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use super::client::{Context, Sending};
use super::security::{AWS_MSK_IAM, OAUTHBEARER, Properties, half, half_named, mechanism};
use crate::options::Options;

/// How long it waits after a failure before it asks again; after each further one twice as long, up to the second.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// Longer than any token lives, and short enough for every calculation.
const FAR: i64 = 365 * 86_400;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Token {
    value: Hidden,
    principal: String,
    extensions: Vec<(String, String)>,
    /// In microseconds since 1970.
    issued: i64,
    expires: i64,
}

impl Token {
    fn renewed_at(&self) -> i64 {
        self.issued + (self.expires - self.issued) / 5 * 4
    }
}

/// Where tokens come from.
#[derive(Debug)]
enum Grant {
    Oidc(oidc::Oidc),
    Msk(msk::Msk),
    Unsecured(unsecured::Unsecured),
}

/// The tokens of all clients by the same options.
#[derive(Debug)]
pub(super) struct Tokens {
    grant: Grant,
    last: tokio::sync::Mutex<Option<Arc<Token>>>,
    clients: Mutex<Clients>,
    /// Why there is no new one.
    trouble: Mutex<Option<Error>>,
}

#[derive(Default)]
struct Clients {
    all: Vec<Weak<dyn TakesToken>>,
    /// The task that gives them new tokens.
    renewal: Option<AbortHandle>,
}

impl std::fmt::Debug for Clients {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Clients").field("all", &self.all.len()).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Tokens {
    /// Takes what says where tokens come from; librdkafka is told no more than that there are some.
    pub fn take(properties: &mut Properties, options: &mut Options) -> Result<Option<Arc<Self>>> {
        let aws = msk::AwsOptions::take(options);
        let grant = match mechanism(properties).as_str() {
            AWS_MSK_IAM => {
                properties.insert("sasl.mechanism".into(), Hidden::new(OAUTHBEARER));
                Grant::Msk(msk::Msk::new(aws)?)
            }
            other => {
                if let Some(option) = aws.given() {
                    return Err(half_named(option, "properties.sasl.mechanism", "'AWS_MSK_IAM'"));
                }
                match other {
                    OAUTHBEARER => oauthbearer(properties)?,
                    _ => return Ok(None),
                }
            }
        };
        Ok(Some(Arc::new(Self {
            grant,
            last: Default::default(),
            clients: Mutex::default(),
            trouble: Mutex::default(),
        })))
    }

    /// Why there is no new token, if there is none.
    pub fn trouble(&self) -> Option<Error> {
        lock(&self.trouble).clone()
    }

    /// Makes a client, and sees to its tokens from now on. Blocks, on a thread that is none of the runtime's.
    pub fn sign_in<T: TakesToken + 'static>(self: &Arc<Self>, make: impl FnOnce() -> Result<T>) -> Result<Arc<T>> {
        let runtime = Handle::try_current().map_err(|e| Error::internal(format!("tokens for Kafka: {e}")))?;
        let token = runtime.block_on(self.current())?;
        let client = Arc::new(make()?);
        client.take_token(&token)?;
        let mut clients = lock(&self.clients);
        clients.all.retain(|client| client.strong_count() > 0);
        let added: Weak<T> = Arc::downgrade(&client);
        clients.all.push(added);
        if clients.renewal.is_none() {
            clients.renewal = Some(runtime.spawn(renew(Arc::downgrade(self))).abort_handle());
        }
        drop(clients);
        Ok(client)
    }

    /// The last token, or the next one. If there is no next one, the last, for as long as it lives.
    async fn current(&self) -> Result<Arc<Token>> {
        let mut last = self.last.lock().await;
        let now = SystemClock.now_micros();
        if let Some(token) = last.as_ref().filter(|token| now < token.renewed_at()) {
            return Ok(Arc::clone(token));
        }
        let asked = match &self.grant {
            Grant::Oidc(oidc) => oidc.token(now).await,
            Grant::Msk(msk) => msk.token(now).await,
            Grant::Unsecured(unsecured) => unsecured.token(now),
        };
        *lock(&self.trouble) = asked.as_ref().err().cloned();
        match asked {
            Ok(token) => Ok(Arc::clone(last.insert(Arc::new(token)))),
            Err(error) => last.clone().filter(|token| SystemClock.now_micros() < token.expires).ok_or(error),
        }
    }

    /// Whom there still is.
    fn live_clients(&self) -> Vec<Arc<dyn TakesToken>> {
        lock(&self.clients).all.iter().filter_map(Weak::upgrade).collect()
    }

    /// Until the next token is due.
    async fn rest(&self) -> Duration {
        let due = self.last.lock().await.as_ref().map_or(0, |token| token.renewed_at());
        Duration::from_micros(due.saturating_sub(SystemClock.now_micros()).max(0).unsigned_abs())
    }
}

impl Drop for Tokens {
    fn drop(&mut self) {
        if let Some(renewal) = lock(&self.clients).renewal.take() {
            renewal.abort();
        }
    }
}

/// New tokens for all clients, for as long as there are any.
async fn renew(tokens: Weak<Tokens>) {
    let mut wait = FIRST_WAIT;
    loop {
        let Some(rest) = (match tokens.upgrade() {
            Some(tokens) => Some(tokens.rest().await),
            None => None,
        }) else {
            return;
        };
        tokio::time::sleep(rest).await;
        let Some(this) = tokens.upgrade() else { return };
        {
            let mut clients = lock(&this.clients);
            clients.all.retain(|client| client.strong_count() > 0);
            if clients.all.is_empty() {
                // Who comes next starts it again.
                clients.renewal = None;
                return;
            }
        }
        let asked = this.current().await;
        let trouble = this.trouble();
        if let Ok(token) = asked.as_ref()
            && trouble.is_none()
        {
            let (token, clients) = (Arc::clone(token), this.live_clients());
            // The last who has a client waits for its end.
            let handed_out =
                tokio::task::spawn_blocking(move || clients.iter().try_for_each(|client| client.take_token(&token)));
            if let Ok(Err(error)) = handed_out.await {
                tracing::warn!(%error, "kafka does not take a token");
            }
            wait = FIRST_WAIT;
        }
        drop(this);
        if let Some(error) = trouble {
            tracing::warn!(%error, "kafka: no new token, trying again in {wait:?}");
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }
}

/// A client of librdkafka that signs in by tokens.
pub(super) trait TakesToken: Send + Sync {
    fn take_token(&self, token: &Token) -> Result<()>;
}

impl TakesToken for BaseConsumer<Context> {
    fn take_token(&self, token: &Token) -> Result<()> {
        set_token(self.client(), token)
    }
}

impl TakesToken for BaseProducer<Sending> {
    fn take_token(&self, token: &Token) -> Result<()> {
        set_token(self.client(), token)
    }
}

/// Rdkafka's own way there is a callback of `poll`, and knows no extensions.
#[allow(unsafe_code)]
fn set_token<C: ClientContext>(client: &Client<C>, token: &Token) -> Result<()> {
    let refused = |why: &str| Error::new(SqlState::ProtocolViolation, format!("no token for Kafka: {why}"));
    let text = |text: &str| CString::new(text).map_err(|_| refused("it has a zero byte"));
    let (value, principal) = (text(token.value.reveal())?, text(&token.principal)?);
    let extensions: Vec<CString> =
        token.extensions.iter().flat_map(|(key, value)| [key, value]).map(|part| text(part)).collect::<Result<_>>()?;
    let mut extensions: Vec<*const c_char> = extensions.iter().map(|part| part.as_ptr()).collect();
    let mut said: [c_char; 512] = [0; 512];
    // SAFETY: the client lives as long as its reference, the texts and arrays as long as this call, and librdkafka copies what it
    // keeps; any thread may call it.
    let code = unsafe {
        rd_kafka_oauthbearer_set_token(
            client.native_ptr(),
            value.as_ptr(),
            token.expires.div_euclid(1000),
            principal.as_ptr(),
            extensions.as_mut_ptr(),
            extensions.len(),
            said.as_mut_ptr(),
            said.len(),
        )
    };
    if code == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
        return Ok(());
    }
    let said: Vec<u8> = said.iter().map(|c| *c as u8).take_while(|c| *c != 0).collect();
    Err(refused(&String::from_utf8_lossy(&said)))
}

/// Where tokens of `sasl.mechanism = 'OAUTHBEARER'` come from.
fn oauthbearer(properties: &mut Properties) -> Result<Grant> {
    let unsecured = properties.remove("enable.sasl.oauthbearer.unsecure.jwt");
    let unsecured = unsecured.is_some_and(|given| given.reveal().eq_ignore_ascii_case("true"));
    let method = properties.remove("sasl.oauthbearer.method");
    match (method.as_ref().map(|method| method.reveal().to_lowercase()).as_deref(), unsecured) {
        (Some("oidc"), true) => Err(Error::invalid(
            "options \"properties.sasl.oauthbearer.method\" and \"properties.enable.sasl.oauthbearer.unsecure.jwt\" \
             exclude each other",
        )
        .with_hint("Leave one of them out.")),
        (Some("oidc"), false) => oidc::Oidc::take(properties).map(Grant::Oidc),
        (None | Some("default"), true) => unsecured::Unsecured::take(properties).map(Grant::Unsecured),
        (None | Some("default"), false) => {
            Err(half("sasl.mechanism", "sasl.oauthbearer.method", "'oidc', with a token endpoint to ask"))
        }
        (Some(other), _) => {
            Err(Error::invalid(format!("option \"properties.sasl.oauthbearer.method\" cannot be '{other}'"))
                .with_hint("Use 'oidc'."))
        }
    }
}

/// `a=1,b=2`
fn extensions(option: &str, text: &str) -> Result<Vec<(String, String)>> {
    let one = |pair: &str| {
        let (key, value) = pair.trim().split_once('=')?;
        let is_name = !key.is_empty() && key.bytes().all(|c| c.is_ascii_alphabetic()) && key != "auth";
        is_name.then(|| (key.to_string(), value.to_string()))
    };
    let all: Option<Vec<_>> = text.split(',').filter(|pair| !pair.trim().is_empty()).map(one).collect();
    all.ok_or_else(|| {
        Error::invalid(format!("option \"properties.{option}\" cannot be '{text}'"))
            .with_hint("Names of letters and their values: 'logicalCluster=lkc-1,identityPoolId=pool-1'.")
    })
}
