//! The simple protocol: a script in one message, all results as text but those of a BINARY cursor.

use pgwire::messages::response::EmptyQueryResponse;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use super::backend::WireSession;
use super::connection::Connection;
use super::errors::Flow;
use super::rows::{Format, RowSender, Sent, describe};
use crate::session::{Outcome, Rows};

impl<R, W, S> Connection<R, W, S>
where
    R: AsyncRead + Unpin + Send,
    W: AsyncWrite + Unpin + Send,
    S: WireSession,
{
    pub(super) async fn simple_query(&mut self, script: &str) -> Flow<()> {
        // As in Postgres, a Query message ends what was prepared or bound without a name, and an open pipeline.
        self.finish_implicit().await?;
        self.statements.remove("");
        self.portals.remove("");
        if let Err(stop) = self.run_script(script).await {
            self.fail(stop).await?;
        }
        self.finish_implicit().await?;
        self.ready().await
    }

    async fn run_script(&mut self, script: &str) -> Flow<()> {
        let statements = self.session.parse(script)?;
        if statements.is_empty() {
            self.output.put(EmptyQueryResponse::new())?;
            return Ok(());
        }
        if statements.len() > 1 {
            self.start_implicit();
        }
        for statement in &statements {
            let outcome = self.execute(statement, &[]).await?;
            let token = self.session.cancellation();
            self.send_outcome(outcome, &token).await?;
        }
        Ok(())
    }

    async fn send_outcome(&mut self, outcome: Outcome, token: &CancellationToken) -> Flow<()> {
        match outcome {
            Outcome::Rows(rows) => self.send_rows(rows, token).await,
            Outcome::Command(tag) => self.complete(tag),
            Outcome::CopyIn(copy) => self.copy_in(copy, token).await,
            Outcome::CopyOut(rows, options) => self.copy_out(rows, &options, token).await,
            Outcome::Deallocate(name) => self.deallocate(&name),
            Outcome::Empty => Ok(self.output.put(EmptyQueryResponse::new())?),
        }
    }

    async fn send_rows(&mut self, rows: Rows, token: &CancellationToken) -> Flow<()> {
        let style = self.style()?;
        let format = if rows.binary { Format::Binary } else { Format::Text };
        let formats = vec![format; rows.schema.fields().len()];
        self.write_notices();
        self.output.put(describe(&rows.schema, &formats))?;
        let mut sender = RowSender::new(rows, formats);
        match sender.send(self.channel(token), &style, 0).await? {
            Sent::All(count) => self.complete(sender.finished(count)),
            Sent::Limit => unreachable!("no limit was given"),
        }
    }
}
