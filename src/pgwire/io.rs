//! The two directions of a connection, apart, so that one can be watched while the other is busy.

use bytes::{Buf, BytesMut};
use pgwire::messages::Message;
use tidemark_common::Result;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

use super::errors::{Flow, Stop};
use super::message::{self, Frontend, MAX_MESSAGE_BYTES, Opening};

/// Output waits for the client once this much is there to send.
pub(super) const FLUSH_BYTES: usize = 64 << 10;
/// Bytes asked for in one read.
const READ_BYTES: usize = 16 << 10;
/// What a client may send ahead while its statement runs; beyond it waits in the socket.
const READ_AHEAD_BYTES: usize = 256 << 10;

pub(super) struct Input<R> {
    reader: R,
    buffer: BytesMut,
    /// Longest message taken now.
    pub limit: usize,
}

impl<R> Input<R> {
    /// The same input, to go on from another reader.
    pub fn apart(self) -> (R, Input<()>) {
        (self.reader, Input { reader: (), buffer: self.buffer, limit: self.limit })
    }
}

impl Input<()> {
    pub fn over<R>(self, reader: R) -> Input<R> {
        Input { reader, buffer: self.buffer, limit: self.limit }
    }
}

impl<R: AsyncRead + Unpin> Input<R> {
    pub fn new(reader: R) -> Self {
        Self { reader, buffer: BytesMut::new(), limit: message::MAX_STARTUP_BYTES }
    }

    /// What is read from. What was read of it and not taken is lost.
    pub fn into_inner(self) -> R {
        self.reader
    }

    /// The client has proved who it is.
    pub fn trust(&mut self) {
        self.limit = MAX_MESSAGE_BYTES;
    }

    /// The next message. Cancel-safe.
    pub async fn receive(&mut self) -> Flow<Frontend> {
        loop {
            if let Some(message) = self.take()? {
                return Ok(message);
            }
            self.fill().await?;
        }
    }

    /// The next message, if it is there already.
    pub fn take(&mut self) -> Flow<Option<Frontend>> {
        message::take_message(&mut self.buffer, self.limit).map_err(Stop::Fatal)
    }

    pub async fn receive_opening(&mut self) -> Flow<Opening> {
        loop {
            if let Some(opening) = message::take_opening(&mut self.buffer).map_err(Stop::Fatal)? {
                return Ok(opening);
            }
            self.fill().await?;
        }
    }

    /// True if the client sent more than it was asked for: what comes before encryption must not count after it.
    pub fn is_ahead(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// True if the next message is there already and is Sync.
    pub fn next_is_sync(&self) -> bool {
        self.buffer.first() == Some(&b'S')
    }

    async fn fill(&mut self) -> Flow<()> {
        self.buffer.reserve(READ_BYTES);
        match self.reader.read_buf(&mut self.buffer).await {
            Ok(0) | Err(_) => Err(Stop::Gone),
            Ok(_) => Ok(()),
        }
    }

    /// Returns when the client has hung up. Cancel-safe: what it sends meanwhile is kept.
    pub async fn gone(&mut self) {
        while self.buffer.len() < READ_AHEAD_BYTES {
            if self.fill().await.is_err() {
                return;
            }
        }
        std::future::pending().await
    }
}

pub(super) struct Output<W> {
    writer: W,
    pub buffer: BytesMut,
}

impl<W> Output<W> {
    /// The same output, to go on to another writer.
    pub fn apart(self) -> (W, Output<()>) {
        (self.writer, Output { writer: (), buffer: self.buffer })
    }
}

impl Output<()> {
    pub fn over<W>(self, writer: W) -> Output<W> {
        Output { writer, buffer: self.buffer }
    }
}

impl<W: AsyncWrite + Unpin> Output<W> {
    pub fn new(writer: W) -> Self {
        Self { writer, buffer: BytesMut::new() }
    }

    /// What is written to. What was not flushed is lost.
    pub fn into_inner(self) -> W {
        self.writer
    }

    pub fn put(&mut self, message: impl Message) -> Result<(), pgwire::error::PgWireError> {
        message.encode(&mut self.buffer)
    }

    /// Sends what is there. Cancel-safe: what was not sent stays.
    pub async fn flush(&mut self) -> Flow<()> {
        while self.buffer.has_remaining() {
            // Not `write_buf`: for one piece, a vectored write is more work for the system.
            match self.writer.write(&self.buffer).await? {
                0 => return Err(Stop::Gone),
                sent => self.buffer.advance(sent),
            }
        }
        self.writer.flush().await?;
        Ok(())
    }

    /// Gives back what a large row took.
    pub fn shrink(&mut self) {
        if self.buffer.is_empty() && self.buffer.capacity() > 8 * FLUSH_BYTES {
            self.buffer = BytesMut::new();
        }
    }

    pub async fn close(&mut self) {
        // The client may have closed first; there is nobody left to tell.
        if let Err(error) = self.writer.shutdown().await {
            tracing::debug!(%error, "closing a connection");
        }
    }
}

/// What may interrupt a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Interrupt {
    Cancelled,
    Shutdown,
    Gone,
}

/// Returns when something interrupts the statement that `token` belongs to.
pub(super) async fn interrupt<R: AsyncRead + Unpin>(
    input: &mut Input<R>,
    shutdown: &CancellationToken,
    token: &CancellationToken,
) -> Interrupt {
    tokio::select! {
        biased;
        () = shutdown.cancelled() => Interrupt::Shutdown,
        () = token.cancelled() => Interrupt::Cancelled,
        () = input.gone() => Interrupt::Gone,
    }
}
