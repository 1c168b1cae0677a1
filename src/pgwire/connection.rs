//! The loop over a connection's messages, once its session is open.
//!
//! ```text
//!   Query ─────────────────────────▶ simple.rs ──▶ .. ReadyForQuery
//!   Parse Bind Describe Execute .. ─▶ extended.rs; after an error everything up to Sync is skipped
//!   Sync ──▶ end of the implicit transaction ──▶ ReadyForQuery
//! ```

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use datafusion::scalar::ScalarValue;
use pgwire::messages::response::{CommandComplete, ReadyForQuery, TransactionStatus as WireStatus};
use pgwire::messages::startup::ParameterStatus;
use tidemark_common::Result;
use tidemark_common::values::Style;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use super::backend::{Canceller, WireSession};
use super::errors::{self, Flow, Report, Stop, protocol_violation};
use super::io::{FLUSH_BYTES, Input, Output};
use super::lanes::{Home, is_light};
use super::message::Frontend;
use super::prepared::{Portal, Prepared, no_statement};
use super::rows::{Channel, style_of};
use super::startup::reported_name;
use crate::session::{Outcome, TransactionStatus};

pub(super) struct Connection<R, W, S: WireSession> {
    pub input: Input<R>,
    pub output: Output<W>,
    pub session: S,
    pub shutdown: CancellationToken,
    pub statements: HashMap<String, Arc<Prepared<S::Statement>>>,
    pub portals: HashMap<String, Portal<S::Statement>>,
    /// An error in the extended protocol: messages are skipped up to Sync.
    pub skipping: bool,
    /// `begin_implicit` was called since the last Sync.
    pub implicit: bool,
    pub home: Home,
    /// A message to be handled elsewhere, as the first one there.
    pub pending: Option<Frontend>,
    /// How values are written, and the version of the settings that it was read from.
    style: Option<(u64, Style)>,
}

impl<R, W, S: WireSession> Connection<R, W, S> {
    /// The same connection over another reader and writer, to be served elsewhere.
    pub fn over<R2, W2>(
        self,
        home: Home,
        change: impl FnOnce(R, W) -> std::io::Result<(R2, W2)>,
    ) -> std::io::Result<Connection<R2, W2, S>> {
        let ((reader, input), (writer, output)) = (self.input.apart(), self.output.apart());
        let (reader, writer) = change(reader, writer)?;
        Ok(Connection {
            input: input.over(reader),
            output: output.over(writer),
            session: self.session,
            shutdown: self.shutdown,
            statements: self.statements,
            portals: self.portals,
            skipping: self.skipping,
            implicit: self.implicit,
            home,
            pending: self.pending,
            style: self.style,
        })
    }
}

impl<R, W, S> Connection<R, W, S>
where
    R: AsyncRead + Unpin + Send,
    W: AsyncWrite + Unpin + Send,
    S: WireSession,
{
    pub fn new(input: Input<R>, output: Output<W>, session: S, shutdown: CancellationToken, home: Home) -> Self {
        Self {
            input,
            output,
            session,
            shutdown,
            statements: HashMap::new(),
            portals: HashMap::new(),
            skipping: false,
            implicit: false,
            home,
            pending: None,
            style: None,
        }
    }

    /// Serves the client until it leaves, breaks the protocol, or the server stops; or gives the connection back, to be served
    /// elsewhere.
    pub async fn run(mut self) -> Option<Self> {
        let end = loop {
            let message = match self.next().await {
                Ok(Frontend::Terminate) => break Stop::Gone,
                Ok(message) => message,
                Err(stop) => break stop,
            };
            if is_light(&message) {
                if let Err(stop) = self.handle(message).await {
                    break stop;
                }
            } else if self.home == Home::Lane {
                self.pending = Some(message);
            } else {
                self.home.worked();
                if let Err(stop) = self.handle(message).await {
                    break stop;
                }
            }
            if self.pending.is_some() || self.home.moves_to_lane() {
                return Some(self);
            }
        };
        if let Stop::Fatal(error) = end {
            self.say_goodbye(error).await;
        }
        None
    }

    /// The next message. Most are there already: several come in one piece.
    async fn next(&mut self) -> Flow<Frontend> {
        if let Some(message) = self.pending.take() {
            return Ok(message);
        }
        if let Some(message) = self.input.take()? {
            return Ok(message);
        }
        if self.shutdown.is_cancelled() {
            return Err(Stop::Fatal(errors::shutting_down()));
        }
        tokio::select! {
            biased;
            message = self.input.receive() => message,
            () = self.shutdown.cancelled() => Err(Stop::Fatal(errors::shutting_down())),
        }
    }

    /// The last message; a client that does not read it does not hold the connection.
    async fn say_goodbye(&mut self, error: tidemark_common::Error) {
        errors::write_error("FATAL", &Report { error, context: None }, &mut self.output.buffer);
        let sent = tokio::time::timeout(super::serve::GOODBYE_TIMEOUT, self.output.flush()).await;
        if !matches!(sent, Ok(Ok(()))) {
            tracing::debug!("a client did not take its last message");
        }
        self.output.close().await;
    }

    /// Fails only if the connection ends.
    async fn handle(&mut self, message: Frontend) -> Flow<()> {
        match message {
            Frontend::Sync => self.sync().await,
            _ if self.skipping => Ok(()),
            Frontend::Query(script) => self.simple_query(&script).await,
            // Left over from a COPY that failed: the client had not seen the error yet.
            Frontend::CopyData(_) | Frontend::CopyDone | Frontend::CopyFail(_) => Ok(()),
            Frontend::Malformed { extended: false, message } => {
                self.fail(protocol_violation(message).into()).await?;
                self.ready().await
            }
            Frontend::FunctionCall => {
                self.fail(
                    tidemark_common::Error::unsupported("function calls by the fastpath are not supported").into(),
                )
                .await?;
                self.ready().await
            }
            Frontend::Password(_) => Err(Stop::Fatal(protocol_violation("unexpected password message"))),
            message => match self.extended(message).await {
                Ok(()) => self.flush_if_full().await,
                Err(stop) => {
                    self.skipping = true;
                    self.fail(stop).await?;
                    self.output.flush().await
                }
            },
        }
    }

    async fn sync(&mut self) -> Flow<()> {
        self.skipping = false;
        self.finish_implicit().await?;
        self.ready().await
    }

    /// Ends the implicit transaction, if there is one; its failure is reported, not returned.
    pub async fn finish_implicit(&mut self) -> Flow<()> {
        if std::mem::take(&mut self.implicit)
            && let Err(error) = self.session.end_implicit().await
        {
            self.fail(error.into()).await?;
        }
        Ok(())
    }

    /// How the session wants values written now.
    pub fn style(&mut self) -> Result<Style> {
        let version = self.session.settings_version();
        let mut style = match &self.style {
            Some((read, style)) if *read == version => style.clone(),
            _ => {
                let style = style_of(&self.session)?;
                self.style = Some((version, style.clone()));
                style
            }
        };
        style.now_micros = self.session.now_micros();
        Ok(style)
    }

    pub fn start_implicit(&mut self) {
        if !self.implicit {
            self.implicit = true;
            self.session.begin_implicit();
        }
    }

    /// Reports an error to the client. What ends the connection is handed on.
    pub async fn fail(&mut self, stop: Stop) -> Flow<()> {
        self.session.statement_failed();
        let report = match stop {
            Stop::Report(report) => report,
            Stop::Cancelled => Report { error: self.session.cancel_reason(), context: None },
            end => return Err(end),
        };
        self.write_notices();
        errors::write_error("ERROR", &report, &mut self.output.buffer);
        Ok(())
    }

    /// What the session wants to say besides its results.
    pub fn write_notices(&mut self) {
        for notice in self.session.take_notices() {
            errors::write_notice(&notice, &mut self.output.buffer);
        }
        for (name, value) in self.session.take_parameter_changes() {
            let Some(name) = reported_name(&name) else { continue };
            if let Err(error) = self.output.put(ParameterStatus::new(name.to_string(), value)) {
                tracing::warn!(%error, "a setting is too long to be told to a client");
            }
        }
    }

    pub async fn ready(&mut self) -> Flow<()> {
        self.write_notices();
        let status = match self.session.transaction_status() {
            TransactionStatus::Idle => {
                // Portals live as long as their transaction.
                self.portals.clear();
                WireStatus::Idle
            }
            TransactionStatus::InTransaction => WireStatus::Transaction,
            TransactionStatus::Failed => WireStatus::Error,
        };
        self.output.put(ReadyForQuery::new(status))?;
        self.output.flush().await?;
        self.output.shrink();
        Ok(())
    }

    pub async fn flush_if_full(&mut self) -> Flow<()> {
        if self.output.buffer.len() < FLUSH_BYTES { Ok(()) } else { self.output.flush().await }
    }

    pub fn complete(&mut self, tag: impl Into<String>) -> Flow<()> {
        let tag = tag.into();
        if matches!(tag.as_str(), "DEALLOCATE ALL" | "DISCARD ALL") {
            self.statements.clear();
        }
        self.write_notices();
        Ok(self.output.put(CommandComplete::new(tag))?)
    }

    /// DEALLOCATE of a statement that SQL has not prepared: then it was by Parse, or not at all.
    pub fn deallocate(&mut self, name: &str) -> Flow<()> {
        self.statements.remove(name).ok_or_else(|| no_statement(name))?;
        self.complete("DEALLOCATE")
    }

    /// Runs a statement while watching the client. An interrupted statement is told and gets to end in its own way: it may have
    /// committed already.
    pub async fn execute(&mut self, statement: &S::Statement, parameters: &[ScalarValue]) -> Flow<Outcome> {
        let canceller = self.session.canceller();
        let work = self.session.execute(statement, parameters);
        watch(&mut self.input, &self.shutdown, &canceller, work).await
    }

    pub fn channel<'a>(&'a mut self, token: &'a CancellationToken) -> Channel<'a, R, W> {
        Channel { input: &mut self.input, output: &mut self.output, shutdown: &self.shutdown, token }
    }
}

/// How long a statement may take to end once it was cancelled because its client left or the server stops.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);

/// Waits for `work`, which minds cancel requests itself; cancels it if the client leaves or the server stops.
pub(super) async fn watch<T, R: AsyncRead + Unpin>(
    input: &mut Input<R>,
    shutdown: &CancellationToken,
    canceller: &Canceller,
    work: impl Future<Output = Result<T>>,
) -> Flow<T> {
    tokio::pin!(work);
    let end = tokio::select! {
        biased;
        result = &mut work => return Ok(result?),
        () = shutdown.cancelled() => Stop::Fatal(errors::shutting_down()),
        () = input.gone() => Stop::Gone,
    };
    canceller();
    if tokio::time::timeout(CANCEL_TIMEOUT, work).await.is_err() {
        tracing::warn!("a statement did not end when it was cancelled");
    }
    Err(end)
}
