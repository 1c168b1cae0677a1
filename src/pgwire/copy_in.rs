//! COPY .. FROM STDIN: the client's data, decoded in batches as it comes.

use pgwire::messages::copy::CopyInResponse;
use tidemark_common::{Error, SqlState};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use super::backend::WireSession;
use super::connection::{Connection, watch};
use super::copy_decode::CopyDecoder;
use super::errors::{Flow, Stop, protocol_violation, shutting_down};
use super::message::Frontend;
use crate::session::{CopyFormat, CopyIn};

impl<R, W, S> Connection<R, W, S>
where
    R: AsyncRead + Unpin + Send,
    W: AsyncWrite + Unpin + Send,
    S: WireSession,
{
    /// Nothing of a COPY that fails is kept.
    pub(super) async fn copy_in(&mut self, copy: CopyIn, token: &CancellationToken) -> Flow<()> {
        match self.receive_copy(copy, token).await {
            Ok(tag) => self.complete(tag),
            Err(stop) => {
                self.session.copy_fail();
                Err(stop)
            }
        }
    }

    async fn receive_copy(&mut self, copy: CopyIn, token: &CancellationToken) -> Flow<String> {
        let count = copy.schema.fields().len();
        let format = i16::from(copy.options.format == CopyFormat::Binary);
        let mut decoder = CopyDecoder::new(copy, self.style()?)?;
        self.write_notices();
        self.output.put(CopyInResponse::new(format as i8, count as i16, vec![format; count]))?;
        self.output.flush().await?;
        loop {
            match self.receive_during_copy(token).await? {
                Frontend::CopyData(data) => {
                    decoder.push(&data);
                    while let Some(batch) = decoder.next_batch().map_err(Stop::Report)? {
                        self.store(batch, token).await?;
                    }
                }
                Frontend::CopyDone => break,
                Frontend::CopyFail(message) => {
                    let message = format!("COPY from stdin failed: {message}");
                    return Err(Error::new(SqlState::QueryCanceled, message).into());
                }
                // Clients send these along with the Execute that began the COPY.
                Frontend::Flush | Frontend::Sync => {}
                Frontend::Terminate => return Err(Stop::Gone),
                _ => return Err(protocol_violation("unexpected message during COPY from stdin").into()),
            }
        }
        while let Some(batch) = decoder.finish().map_err(Stop::Report)? {
            self.store(batch, token).await?;
        }
        let canceller = self.session.canceller();
        let work = self.session.copy_finish();
        watch(&mut self.input, &self.shutdown, &canceller, work).await
    }

    async fn receive_during_copy(&mut self, token: &CancellationToken) -> Flow<Frontend> {
        tokio::select! {
            biased;
            () = self.shutdown.cancelled() => Err(Stop::Fatal(shutting_down())),
            () = token.cancelled() => Err(Stop::Cancelled),
            message = self.input.receive() => message,
        }
    }

    async fn store(&mut self, batch: datafusion::arrow::array::RecordBatch, token: &CancellationToken) -> Flow<()> {
        let canceller = self.session.canceller();
        let work = self.session.copy_batch(batch);
        tokio::select! {
            biased;
            () = token.cancelled() => Err(Stop::Cancelled),
            stored = watch(&mut self.input, &self.shutdown, &canceller, work) => stored,
        }
    }
}
