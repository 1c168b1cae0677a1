//! From a fresh socket to a session: encryption agreed or refused, protocol agreed, user proved, settings told.
//!
//! ```text
//!   SSLRequest ─▶ N, or S and TLS    GSSENCRequest ─▶ N    CancelRequest ─▶ cancel, hang up
//!   Startup ─▶ [SCRAM-SHA-256] ─▶ AuthenticationOk, ParameterStatus.., BackendKeyData, ReadyForQuery
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use pgwire::api::auth::Password;
use pgwire::api::auth::sasl::SCRAM_SHA_256_METHOD;
use pgwire::api::auth::sasl::scram::{SCRAM_ITERATIONS, ScramServerAuth, gen_salted_password};
use pgwire::messages::response::{GssEncResponse, SslResponse};
use pgwire::messages::startup::{Authentication, BackendKeyData, NegotiateProtocolVersion, ParameterStatus, SecretKey};
use tidemark_common::{Error, SqlState};
use tokio::io::{AsyncRead, AsyncWrite};

use super::backend::{Backend, WireSession};
use super::errors::{Flow, Stop, protocol_violation};
use super::io::{Input, Output};
use super::message::{Body, Frontend, Opening};

/// The version of Postgres that clients are told; they choose what to ask by it.
const SERVER_VERSION: &str = "15.0";
/// The only version of the protocol, as the newest that a client may be told of.
const PROTOCOL_3_0: i32 = 3 << 16;

/// Settings that clients hear of at the start, and what they are if the session has no say.
const REPORTED: [(&str, &str); 14] = [
    ("server_version", SERVER_VERSION),
    ("server_encoding", "UTF8"),
    ("client_encoding", "UTF8"),
    ("DateStyle", "ISO, MDY"),
    ("TimeZone", "UTC"),
    ("integer_datetimes", "on"),
    ("standard_conforming_strings", "on"),
    ("IntervalStyle", "postgres"),
    ("is_superuser", "on"),
    ("session_authorization", ""),
    ("application_name", ""),
    ("in_hot_standby", "off"),
    ("default_transaction_read_only", "off"),
    ("scram_iterations", "4096"),
];

/// The name by which clients know a reported setting, whose case they mind.
pub(super) fn reported_name(name: &str) -> Option<&'static str> {
    REPORTED.iter().map(|(reported, _)| *reported).find(|reported| reported.eq_ignore_ascii_case(name))
}

/// Who wants in, and with what settings.
pub(super) struct Startup {
    pub user: String,
    pub database: String,
    pub parameters: BTreeMap<String, String>,
}

/// How a connection is protected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Protection {
    /// It is encrypted.
    pub encrypted: bool,
    /// It could be.
    pub offered: bool,
    /// It must be.
    pub required: bool,
}

/// What a client opened its connection for.
pub(super) enum Opened {
    Startup(Startup),
    /// TLS was agreed on: its handshake comes next.
    Encrypt,
    /// It was there to cancel another.
    Cancelled,
}

/// Reads up to the Startup message.
pub(super) async fn open<R, W, B>(
    input: &mut Input<R>,
    output: &mut Output<W>,
    backend: &Arc<B>,
    protection: Protection,
) -> Flow<Opened>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
    B: Backend,
{
    let (mut ssl_asked, mut gss_asked) = (false, false);
    loop {
        match input.receive_opening().await? {
            Opening::Ssl if !ssl_asked => {
                ssl_asked = true;
                if protection.offered && !protection.encrypted {
                    if input.is_ahead() {
                        return Err(Stop::Fatal(unencrypted_data()));
                    }
                    output.put(SslResponse::Accept)?;
                    output.flush().await?;
                    return Ok(Opened::Encrypt);
                }
                output.put(SslResponse::Refuse)?;
            }
            Opening::Gss if !gss_asked => {
                gss_asked = true;
                output.put(GssEncResponse::Refuse)?;
            }
            Opening::Ssl | Opening::Gss => {
                return Err(Stop::Fatal(protocol_violation("encryption was refused already")));
            }
            Opening::Cancel { pid, secret } => {
                backend.cancel(pid, secret);
                return Ok(Opened::Cancelled);
            }
            Opening::Startup { .. } if protection.required && !protection.encrypted => {
                let message = "connections from other machines must be encrypted";
                return Err(Stop::Fatal(
                    Error::new(SqlState::InvalidAuthorization, message).with_hint("Connect with sslmode=require."),
                ));
            }
            Opening::Startup { minor, parameters } => {
                negotiate(minor, &parameters, output)?;
                return Ok(Opened::Startup(read_parameters(parameters)?));
            }
        }
        if input.is_ahead() {
            return Err(Stop::Fatal(unencrypted_data()));
        }
        output.flush().await?;
    }
}

fn unencrypted_data() -> Error {
    protocol_violation("received unencrypted data after an encryption request")
}

/// A client that asks for more than version 3.0 is told what there is, and decides whether to go on.
fn negotiate<W: AsyncWrite + Unpin>(
    minor: u16,
    parameters: &BTreeMap<String, String>,
    output: &mut Output<W>,
) -> Flow<()> {
    let unknown: Vec<String> = parameters.keys().filter(|name| name.starts_with("_pq_.")).cloned().collect();
    if minor > 0 || !unknown.is_empty() {
        output.put(NegotiateProtocolVersion::new(PROTOCOL_3_0, unknown))?;
    }
    Ok(())
}

fn read_parameters(mut parameters: BTreeMap<String, String>) -> Flow<Startup> {
    parameters.retain(|name, _| !name.starts_with("_pq_."));
    let user = parameters.remove("user").filter(|user| !user.is_empty()).ok_or_else(|| {
        Stop::Fatal(Error::new(SqlState::InvalidAuthorization, "no PostgreSQL user name specified in startup packet"))
    })?;
    let database = parameters.remove("database").filter(|name| !name.is_empty()).unwrap_or_else(|| user.clone());
    if let Some(options) = parameters.remove("options") {
        for (name, value) in read_options(&options).map_err(Stop::Fatal)? {
            parameters.entry(name).or_insert(value);
        }
    }
    // Asks for text as it is, without conversion: it is UTF-8.
    if parameters.get("client_encoding").is_some_and(|encoding| encoding.eq_ignore_ascii_case("sql_ascii")) {
        parameters.remove("client_encoding");
    }
    match parameters.remove("replication").as_deref() {
        None | Some("false" | "off" | "no" | "0") => Ok(Startup { user, database, parameters }),
        Some(_) => Err(Stop::Fatal(Error::unsupported("replication connections are not supported"))),
    }
}

/// Settings out of PGOPTIONS: `-c name=value`, `-cname=value`, `--name=value`; a backslash keeps a blank within a word.
fn read_options(options: &str) -> Result<Vec<(String, String)>, Error> {
    let mut words = vec![String::new()];
    let mut characters = options.chars();
    while let Some(c) = characters.next() {
        let word = words.last_mut().expect("there is one from the start");
        match c {
            '\\' => word.extend(characters.next()),
            c if c.is_ascii_whitespace() => words.push(String::new()),
            c => word.push(c),
        }
    }
    let mut words = words.into_iter().filter(|word| !word.is_empty());
    let mut settings = Vec::new();
    while let Some(word) = words.next() {
        let setting = match word.strip_prefix("--") {
            Some(long) => Some(long.to_string()),
            None => match word.strip_prefix("-c") {
                Some("") => words.next(),
                short => short.map(str::to_string),
            },
        };
        match setting.as_deref().and_then(|setting| setting.split_once('=')) {
            Some((name, value)) => settings.push((name.replace('-', "_"), value.to_string())),
            None => {
                let message = format!("invalid command-line argument for server process: {word}");
                return Err(Error::syntax(message).with_hint("Options are written -c name=value."));
            }
        }
    }
    Ok(settings)
}

/// Lets the client prove that it knows the password, if there is one.
pub(super) async fn authenticate<R, W>(
    input: &mut Input<R>,
    output: &mut Output<W>,
    user: &str,
    password: Option<String>,
) -> Flow<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    if let Some(password) = password {
        let refused = || {
            let message = format!("password authentication failed for user \"{user}\"");
            Stop::Fatal(Error::new(SqlState::InvalidPassword, message))
        };
        output.put(Authentication::SASL(vec![SCRAM_SHA_256_METHOD.to_string()]))?;
        output.flush().await?;
        let client_first = first_response(receive_password(input).await?).map_err(Stop::Fatal)?;

        #[allow(clippy::disallowed_methods)] // a salt: nothing that a query could see
        let salt: [u8; 16] = rand::random();
        let salted = gen_salted_password(&password, &salt, SCRAM_ITERATIONS);
        let scram = ScramServerAuth::new();
        let (server_first, waiting) = scram
            .on_client_first_message(&client_first, Password::new(Some(salt.to_vec()), salted))
            .map_err(|_| Stop::Fatal(protocol_violation("malformed SCRAM message")))?;
        output.put(Authentication::SASLContinue(server_first.into()))?;
        output.flush().await?;

        let client_final = receive_password(input).await?;
        let server_final = waiting.on_client_final_message(&client_final).map_err(|_| refused())?;
        output.put(Authentication::SASLFinal(server_final.into()))?;
    }
    Ok(output.put(Authentication::Ok)?)
}

async fn receive_password<R: AsyncRead + Unpin>(input: &mut Input<R>) -> Flow<bytes::Bytes> {
    match input.receive().await? {
        Frontend::Password(body) => Ok(body),
        Frontend::Terminate => Err(Stop::Gone),
        _ => Err(Stop::Fatal(protocol_violation("expected SASL response"))),
    }
}

/// SASLInitialResponse: the mechanism chosen and the first message of it.
fn first_response(body: bytes::Bytes) -> Result<bytes::Bytes, Error> {
    let mut body = Body(body);
    if body.string()? != SCRAM_SHA_256_METHOD {
        return Err(protocol_violation("client selected an invalid SASL authentication mechanism"));
    }
    body.value()?.ok_or_else(|| protocol_violation("malformed SCRAM message"))
}

/// Tells the client what it needs to know of its session.
pub(super) fn introduce<W, S>(output: &mut Output<W>, session: &S, user: &str) -> Flow<()>
where
    W: AsyncWrite + Unpin,
    S: WireSession,
{
    for (name, fallback) in REPORTED {
        let value = match name {
            // These are what the wire does, whatever was asked for.
            "server_version" | "server_encoding" | "client_encoding" | "integer_datetimes" => fallback.to_string(),
            "session_authorization" => user.to_string(),
            _ => session.setting(name).unwrap_or_else(|| fallback.to_string()),
        };
        output.put(ParameterStatus::new(name.to_string(), value))?;
    }
    let (pid, secret) = session.backend_key();
    Ok(output.put(BackendKeyData::new(pid, SecretKey::I32(secret)))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_settings() {
        let read = |options| read_options(options).map(|list| format!("{list:?}")).map_err(|e| e.message().to_string());
        assert_eq!(
            read(r"-c search_path=a,b  -cextra_float_digits=0 --statement-timeout=5s -c a=x\ y").unwrap(),
            r#"[("search_path", "a,b"), ("extra_float_digits", "0"), ("statement_timeout", "5s"), ("a", "x y")]"#
        );
        assert_eq!(read("").unwrap(), "[]");
        assert!(read("-c").is_err() && read("-c x").is_err() && read("-d").is_err());
    }
}
