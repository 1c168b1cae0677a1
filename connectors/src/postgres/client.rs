//! Making a connection, step by step, and ending what runs on it.
//!
//! ```text
//!   resolve ──▶ connect ──▶ tls ──▶ authenticate ──▶ Client          all within connect_timeout
//! ```

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tidemark_common::{Error, Result, SqlState};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_postgres::config::SslMode as WireMode;
use tokio_postgres::{CancelToken, Config, NoTls, SimpleQueryMessage, SimpleQueryRow};

use super::error;
use super::options::PostgresOptions;
use super::tls::{Io, secure};

/// How long a request to cancel may take.
const CANCEL: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Resolve,
    Connect,
    Tls,
    Authenticate,
    Database,
}

impl Step {
    pub fn name(self) -> &'static str {
        match self {
            Step::Resolve => "resolve",
            Step::Connect => "connect",
            Step::Tls => "tls",
            Step::Authenticate => "authenticate",
            Step::Database => "database",
        }
    }
}

/// What has been done so far, and what is being done.
pub struct Steps {
    pub done: Vec<(Step, String)>,
    pub current: Step,
}

impl Steps {
    pub fn new() -> Self {
        Self { done: Vec::new(), current: Step::Resolve }
    }

    fn next(&mut self, detail: impl Into<String>, next: Step) {
        self.done.push((self.current, detail.into()));
        self.current = next;
    }
}

/// A session on another server; it ends when this is dropped.
pub struct Client {
    pub name: Arc<str>,
    pub options: Arc<PostgresOptions>,
    pub postgres: tokio_postgres::Client,
}

impl Client {
    pub async fn connect(name: &Arc<str>, options: &Arc<PostgresOptions>) -> Result<Client> {
        let connected = Self::connect_in_steps(name, options, &mut Steps::new()).await;
        connected.map_err(|e| e.context(format_args!("connection \"{name}\"")))
    }

    /// As [`Client::connect`], and `steps` says how far it came.
    pub async fn connect_in_steps(
        name: &Arc<str>,
        options: &Arc<PostgresOptions>,
        steps: &mut Steps,
    ) -> Result<Client> {
        let limit = options.connect_timeout;
        let connected = timeout(limit, open(options, steps)).await;
        let postgres = connected.unwrap_or_else(|_| {
            Err(Error::new(
                SqlState::ConnectionException,
                format!("{} gave no answer within connect_timeout, {limit:?}", options.address()),
            ))
        })?;
        Ok(Client { name: name.clone(), options: options.clone(), postgres })
    }

    /// Runs statements that give no rows. If nobody waits for their end, they are cancelled.
    pub async fn run(&self, sql: &str) -> Result<()> {
        let mut canceller = self.canceller();
        let done = self.postgres.batch_execute(sql).await;
        canceller.disarm();
        done.map_err(|e| error::remote(&self.name, &e, Some(sql)))
    }

    /// Runs a statement; how many rows it was about. If nobody waits for its end, it is cancelled.
    pub async fn execute(&self, sql: &str) -> Result<u64> {
        let mut rows = 0;
        for message in self.messages(sql).await? {
            if let SimpleQueryMessage::CommandComplete(count) = message {
                rows = count;
            }
        }
        Ok(rows)
    }

    /// The rows of a query, as text.
    pub async fn texts(&self, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
        let text = |row: &SimpleQueryRow| (0..row.len()).map(|at| row.get(at).map(String::from)).collect();
        let rows = self.messages(sql).await?;
        let rows = rows.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(text(row)),
            _ => None,
        });
        Ok(rows.collect())
    }

    async fn messages(&self, sql: &str) -> Result<Vec<SimpleQueryMessage>> {
        let mut canceller = self.canceller();
        let messages = self.postgres.simple_query(sql).await;
        canceller.disarm();
        messages.map_err(|e| error::remote(&self.name, &e, Some(sql)))
    }

    /// What ends the statement that runs when it is dropped before [`Canceller::disarm`].
    pub fn canceller(&self) -> Canceller {
        Canceller { token: Some(self.postgres.cancel_token()), options: self.options.clone() }
    }
}

async fn open(options: &PostgresOptions, steps: &mut Steps) -> Result<tokio_postgres::Client> {
    let stream = reach(options, steps).await?;
    let (stream, secured) = secure(stream, options).await?;
    steps.next(secured, Step::Authenticate);
    let mut config = Config::new();
    config
        .user(&options.user)
        .dbname(&options.database)
        .application_name(&options.application_name)
        .ssl_mode(WireMode::Disable);
    if let Some(password) = &options.password {
        config.password(password.reveal());
    }
    if let Some(settings) = &options.options {
        config.options(settings);
    }
    let (client, connection) = config.connect_raw(stream, NoTls).await.map_err(|e| refused(&e, options, steps))?;
    steps.next(format!("as {}", options.user), Step::Database);
    tokio::spawn(async move {
        // Whoever uses the client learns of it there.
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to another server ended");
        }
    });
    Ok(client)
}

/// A stream of bytes to the server.
pub(super) async fn reach(options: &PostgresOptions, steps: &mut Steps) -> Result<Box<dyn Io>> {
    let failed = |why: String| Error::new(SqlState::ConnectionException, why);
    if options.is_socket() {
        let path = format!("{}/.s.PGSQL.{}", options.host, options.port);
        steps.next(format!("a socket on this machine: {path}"), Step::Connect);
        let stream = UnixStream::connect(&path).await.map_err(|e| failed(format!("cannot connect to {path}: {e}")))?;
        steps.next(path, Step::Tls);
        return Ok(Box::new(stream));
    }
    let found = tokio::net::lookup_host((options.host.as_str(), options.port)).await;
    let addresses: Vec<SocketAddr> = found
        .map_err(|e| {
            failed(format!("host \"{}\" cannot be resolved: {e}", options.host))
                .with_hint("Check the host's name, and that this machine's DNS knows it.")
        })?
        .collect();
    let shown: Vec<String> = addresses.iter().map(|a| a.ip().to_string()).collect();
    steps.next(format!("{} is {}", options.host, shown.join(", ")), Step::Connect);
    let mut last = None;
    for address in &addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                steps.next(format!("{address}"), Step::Tls);
                return Ok(Box::new(stream));
            }
            Err(error) => last = Some(format!("{address}: {error}")),
        }
    }
    Err(failed(format!("cannot connect to {}", last.unwrap_or_else(|| options.address())))
        .with_hint("Check port and firewall, and that the server listens there (listen_addresses)."))
}

/// The server let nobody in, and says why.
fn refused(error: &tokio_postgres::Error, options: &PostgresOptions, steps: &mut Steps) -> Error {
    let Some(db) = error.as_db_error() else {
        return Error::new(SqlState::ConnectionException, error::causes(error));
    };
    let said = error::of_server(db);
    let hint = match said.code() {
        // These come after the password has been accepted.
        "3D000" | "42501" | "53300" | "57P03" => {
            steps.next(format!("as {}", options.user), Step::Database);
            "Check the option \"database\", and that the user may connect to it."
        }
        _ => "Check user and password, and the server's pg_hba.conf.",
    };
    if said.hint().is_some() { said } else { said.with_hint(hint) }
}

/// Cancels a statement on the other server unless it has ended by itself.
pub struct Canceller {
    token: Option<CancelToken>,
    options: Arc<PostgresOptions>,
}

impl Canceller {
    pub fn disarm(&mut self) {
        self.token = None;
    }
}

impl Drop for Canceller {
    fn drop(&mut self) {
        let (Some(token), Ok(runtime)) = (self.token.take(), tokio::runtime::Handle::try_current()) else { return };
        let options = self.options.clone();
        runtime.spawn(async move {
            let cancel = async {
                let stream = reach(&options, &mut Steps::new()).await?;
                let (stream, _) = secure(stream, &options).await?;
                let sent = token.cancel_query_raw(stream, NoTls).await;
                sent.map_err(|e| Error::new(SqlState::ConnectionException, error::causes(&e)))
            };
            match timeout(CANCEL, cancel).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%error, "a statement on another server could not be cancelled"),
                Err(_) => tracing::warn!("a statement on another server could not be cancelled in time"),
            }
        });
    }
}
