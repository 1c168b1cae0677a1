//! A replication connection, message by message: sign in, ask, and then bytes both ways.
//!
//! ```text
//!   reach ─▶ TLS ─▶ startup (replication=database) ─▶ authentication ─▶ ready
//!     ready ──query──▶ rows ─▶ ready
//!     ready ──START_REPLICATION──▶ CopyBoth:  ◀── changes, keepalives     status updates ──▶
//! ```

use bytes::{Buf, Bytes, BytesMut};
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::frontend;
use tidemark_common::{Error, Result, SqlState};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::raw::{Raw, malformed};
use super::session::Place;
use crate::postgres::client::{Steps, reach};
use crate::postgres::error;
use crate::postgres::options::PostgresOptions;
use crate::postgres::tls::{Io, secure};

/// A message that is longer is none: PostgreSQL's own end there.
const MAX_MESSAGE: usize = 1 << 30;
/// Bytes that are read at a time, about.
const READ: usize = 64 << 10;

/// Values as text are the same whatever the server's settings.
const SETTINGS: [(&str, &str); 8] = [
    ("replication", "database"),
    ("client_encoding", "UTF8"),
    ("search_path", "pg_catalog"),
    ("datestyle", "ISO"),
    ("intervalstyle", "postgres"),
    ("timezone", "UTC"),
    ("extra_float_digits", "3"),
    ("bytea_output", "hex"),
];

pub struct Frame {
    pub tag: u8,
    pub body: Bytes,
}

pub struct Wire {
    stream: Box<dyn Io>,
    received: BytesMut,
}

impl Wire {
    pub async fn open(place: &Place) -> Result<Wire> {
        let options = &place.options;
        let opened = timeout(options.connect_timeout, async {
            let stream = reach(options, &mut Steps::new()).await?;
            let (stream, _) = secure(stream, options).await?;
            let mut wire = Wire { stream, received: BytesMut::new() };
            wire.sign_in(options).await?;
            Ok(wire)
        });
        let opened = opened.await.unwrap_or_else(|_| {
            let message = format!("it gave no answer within connect_timeout, {:?}", options.connect_timeout);
            Err(Error::new(SqlState::ConnectionException, message))
        });
        opened.map_err(|e| place.named(e))
    }

    async fn sign_in(&mut self, options: &PostgresOptions) -> Result<()> {
        let mut parameters = vec![
            ("user", options.user.as_str()),
            ("database", options.database.as_str()),
            ("application_name", options.application_name.as_str()),
        ];
        parameters.extend(options.options.as_deref().map(|settings| ("options", settings)));
        parameters.extend(SETTINGS);
        let mut message = BytesMut::new();
        frontend::startup_message(parameters, &mut message)?;
        self.send(&message).await?;
        let mut scram = None;
        loop {
            let frame = self.frame().await?;
            match frame.tag {
                b'R' => self.authenticate(&frame.body, options, &mut scram).await?,
                b'Z' => return Ok(()),
                b'E' => {
                    let said = said(&frame.body)?;
                    let hint = "Check user and password, and the server's pg_hba.conf.";
                    return Err(if said.hint().is_some() { said } else { said.with_hint(hint) });
                }
                // The backend's key, parameters, notices.
                b'K' | b'S' | b'N' => {}
                other => return Err(unexpected(other)),
            }
        }
    }

    async fn authenticate(
        &mut self,
        request: &[u8],
        options: &PostgresOptions,
        scram: &mut Option<ScramSha256>,
    ) -> Result<()> {
        let mut raw = Raw::new(request);
        let mut answer = BytesMut::new();
        let method = raw.u32()?;
        if method == 0 {
            return Ok(());
        }
        let password = options.password.as_ref().map(|password| password.reveal().as_bytes()).ok_or_else(|| {
            Error::new(SqlState::InvalidPassword, "the server asks for a password, and none is given")
                .with_hint("password = SECRET name")
        })?;
        match method {
            3 => frontend::password_message(password, &mut answer)?,
            5 => {
                let salt = raw.take(4)?.try_into().map_err(|_| malformed("a salt has four bytes"))?;
                let hash = md5_hash(options.user.as_bytes(), password, salt);
                frontend::password_message(hash.as_bytes(), &mut answer)?;
            }
            10 => {
                let mut offered = false;
                while !raw.is_empty() {
                    offered |= raw.text()? == SCRAM_SHA_256;
                }
                if !offered {
                    return Err(Error::unsupported("the server offers no SCRAM-SHA-256"));
                }
                let begun = scram.insert(ScramSha256::new(password, ChannelBinding::unsupported()));
                frontend::sasl_initial_response(SCRAM_SHA_256, begun.message(), &mut answer)?;
            }
            11 | 12 => {
                let begun = scram.as_mut().ok_or_else(|| malformed("SCRAM goes on that has not begun"))?;
                let refused = |e: std::io::Error| Error::new(SqlState::InvalidPassword, format!("SCRAM: {e}"));
                if method == 12 {
                    return begun.finish(raw.rest()).map_err(refused);
                }
                begun.update(raw.rest()).map_err(refused)?;
                frontend::sasl_response(begun.message(), &mut answer)?;
            }
            other => {
                return Err(Error::unsupported(format!("the server asks for authentication of kind {other}"))
                    .with_hint("Known: scram-sha-256, md5, password."));
            }
        }
        self.send(&answer).await
    }

    /// The rows of a command, as text.
    pub async fn query(&mut self, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
        self.ask(sql).await?;
        let (mut rows, mut failed) = (Vec::new(), None);
        loop {
            let frame = self.frame().await?;
            match frame.tag {
                b'D' => rows.push(data_row(&frame.body)?),
                b'E' => failed = Some(said(&frame.body)?.with_detail(format!("Remote statement: {sql}"))),
                b'Z' => return failed.map_or(Ok(rows), Err),
                b'T' | b'C' | b'N' | b'S' => {}
                other => return Err(unexpected(other)),
            }
        }
    }

    /// A command after which bytes go both ways.
    pub async fn copy_both(&mut self, sql: &str) -> Result<()> {
        self.ask(sql).await?;
        loop {
            let frame = self.frame().await?;
            match frame.tag {
                b'W' => return Ok(()),
                b'E' => return Err(said(&frame.body)?.with_detail(format!("Remote statement: {sql}"))),
                b'N' | b'S' => {}
                other => return Err(unexpected(other)),
            }
        }
    }

    async fn ask(&mut self, sql: &str) -> Result<()> {
        let mut message = BytesMut::new();
        frontend::query(sql, &mut message)?;
        self.send(&message).await
    }

    pub async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let sent = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        sent.await.map_err(|e| lost(&e))
    }

    async fn frame(&mut self) -> Result<Frame> {
        loop {
            if let Some(frame) = self.arrived()? {
                return Ok(frame);
            }
            self.more().await?;
        }
    }

    /// The next message, if all of it has come.
    pub fn arrived(&mut self) -> Result<Option<Frame>> {
        let Some(mut header) = self.received.get(..5) else { return Ok(None) };
        let (tag, length) = (header.get_u8(), header.get_u32() as usize);
        if !(4..MAX_MESSAGE).contains(&length) {
            return Err(malformed(format_args!("it says that it is {length} bytes long")));
        }
        if self.received.len() < 1 + length {
            return Ok(None);
        }
        let mut body = self.received.split_to(1 + length).freeze();
        body.advance(5);
        Ok(Some(Frame { tag, body }))
    }

    /// Waits for more bytes. Cancel-safe.
    pub async fn more(&mut self) -> Result<()> {
        self.received.reserve(READ);
        match self.stream.read_buf(&mut self.received).await {
            Ok(0) => Err(Error::new(SqlState::ConnectionException, "the server closed the connection")),
            Ok(_) => Ok(()),
            Err(error) => Err(lost(&error)),
        }
    }
}

fn lost(error: &std::io::Error) -> Error {
    Error::new(SqlState::ConnectionException, format!("the connection is lost: {error}"))
}

pub fn unexpected(tag: u8) -> Error {
    malformed(format_args!("{:?} cannot stand there", char::from(tag)))
}

fn data_row(body: &[u8]) -> Result<Vec<Option<String>>> {
    let mut raw = Raw::new(body);
    let count = raw.count()?;
    let value = |_| Ok(raw.sized()?.map(|value| String::from_utf8_lossy(value).into_owned()));
    (0..count).map(value).collect()
}

/// The server's own error: fields, each with its letter before it, and a zero byte at the end.
pub fn said(body: &[u8]) -> Result<Error> {
    let mut raw = Raw::new(body);
    let (mut code, mut message, mut detail, mut hint) = ("", "", None, None);
    loop {
        match raw.u8()? {
            0 => break,
            b'C' => code = raw.text()?,
            b'M' => message = raw.text()?,
            b'D' => detail = Some(raw.text()?),
            b'H' => hint = Some(raw.text()?),
            _ => drop(raw.text()?),
        }
    }
    let mut error = Error::new(error::state(code), message);
    if let Some(detail) = detail {
        error = error.with_detail(detail);
    }
    Ok(if let Some(hint) = hint { error.with_hint(hint) } else { error })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_the_servers_own() {
        let body = b"SFATAL\0C55006\0Mreplication slot \"s\" is active for PID 7\0HWait.\0Rx\0\0";
        let error = said(body).unwrap();
        assert_eq!((error.code(), error.hint()), ("55006", Some("Wait.")));
        assert_eq!(error.message(), "replication slot \"s\" is active for PID 7");
        for length in 0..body.len() - 1 {
            assert_eq!(said(&body[..length]).unwrap_err().code(), "08P01");
        }
    }

    #[tokio::test]
    async fn messages_may_break_anywhere() {
        let (mut there, here) = tokio::io::duplex(64);
        let mut wire = Wire { stream: Box::new(here), received: BytesMut::new() };
        for size in 1..12 {
            let bytes = [&b"d\0\0\0\x06ab"[..], b"k\0\0\0\x04"].concat();
            for piece in bytes.chunks(size) {
                there.write_all(piece).await.unwrap();
                wire.more().await.unwrap();
            }
            let mut frames = Vec::new();
            while let Some(frame) = wire.arrived().unwrap() {
                frames.push((frame.tag, frame.body));
            }
            assert_eq!(frames, [(b'd', Bytes::from_static(b"ab")), (b'k', Bytes::new())], "in pieces of {size}");
        }
        there.write_all(b"d\0\0\0\x03").await.unwrap();
        wire.more().await.unwrap();
        assert_eq!(wire.arrived().err().unwrap().code(), "08P01");
        drop(there);
        assert_eq!(wire.more().await.unwrap_err().code(), "08000");
    }
}
