//! The listener: a task a connection, so many and no more, and an orderly end.

use std::sync::Arc;
use std::time::Duration;

use tidemark_common::{Error, Result, SqlState};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::backend::{Backend, WireSession};
use super::connection::Connection;
use super::errors::{self, Flow, Report, Stop, shutting_down};
use super::io::{Input, Output};
use super::lanes::{Home, Lanes};
use super::startup::{self, Opened, Protection};
use super::tls::Encryption;

/// A client must be through authentication by then, as in Postgres.
const STARTUP_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a client may take to read the message that ends its connection.
pub(super) const GOODBYE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long connections may take to end when the server stops.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections beyond the limit that are told so (or bring a cancel request) at the same time; more are closed.
const MAX_REFUSING: usize = 64;
/// Pause after the system could not accept, e.g. for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves clients until `shutdown`, then tells each and waits for them to end.
pub async fn serve<B: Backend>(
    listener: TcpListener,
    backend: Arc<B>,
    encryption: Encryption,
    shutdown: CancellationToken,
) -> Result<()> {
    let room = Arc::new(Semaphore::new(backend.max_connections().min(Semaphore::MAX_PERMITS)));
    let refusing = Arc::new(Semaphore::new(MAX_REFUSING));
    let lanes = Arc::new(Lanes::start()?);
    let mut connections = JoinSet::new();
    loop {
        let socket = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended && error.is_panic() {
                    tracing::error!(%error, "a connection's task panicked");
                }
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        let (socket, peer) = match socket {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let place = match Arc::clone(&room).try_acquire_owned() {
            Ok(permit) => Place { refused: false, _permit: permit },
            Err(_) => match Arc::clone(&refusing).try_acquire_owned() {
                Ok(permit) => Place { refused: true, _permit: permit },
                Err(_) => continue,
            },
        };
        if let Err(error) = socket.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY");
        }
        let required = encryption.is_required() && !peer.ip().is_loopback();
        let (backend, lanes, encryption) = (Arc::clone(&backend), Arc::clone(&lanes), encryption.clone());
        // One of its own, which it waits for without meeting the others at a lock.
        let shutdown = shutdown.child_token();
        connections.spawn(serve_socket(socket, backend, lanes, encryption, required, shutdown, place));
    }
    drop(listener);
    let ended = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(SHUTDOWN_TIMEOUT, ended).await.is_err() {
        tracing::warn!("connections did not end in time");
        connections.shutdown().await;
    }
    Ok(())
}

/// What holds a connection's place for as long as it is there.
pub(super) struct Place {
    /// There is no room: to be told so.
    pub refused: bool,
    pub _permit: OwnedSemaphorePermit,
}

/// The first byte of a TLS handshake; the length that a plain connection begins with is never so large.
const TLS_HANDSHAKE: u8 = 0x16;

async fn serve_socket<B: Backend>(
    socket: TcpStream,
    backend: Arc<B>,
    lanes: Arc<Lanes>,
    encryption: Encryption,
    required: bool,
    shutdown: CancellationToken,
    place: Place,
) {
    let first = tokio::select! {
        biased;
        () = shutdown.cancelled() => None,
        first = tokio::time::timeout(STARTUP_TIMEOUT, first_byte(&socket)) => first.ok().flatten(),
    };
    let Some(first) = first else { return };
    let protection = Protection { encrypted: false, offered: encryption.is_offered(), required };
    let socket = if first == TLS_HANDSHAKE && encryption.is_offered() {
        socket
    } else {
        let (reader, writer) = socket.into_split();
        let served = serve_one(reader, writer, &backend, &shutdown, &place, protection, Home::shared()).await;
        let (reader, writer) = match served {
            Served::Encrypt(reader, writer) => (reader, writer),
            Served::Moves(connection) => return lanes.serve(*connection).await,
            Served::Ended => return,
        };
        match reader.reunite(writer) {
            Ok(socket) => socket,
            Err(error) => return tracing::error!(%error, "two halves of different sockets"),
        }
    };
    let accepted = encryption.accept(socket, first == TLS_HANDSHAKE);
    let stream = tokio::select! {
        biased;
        () = shutdown.cancelled() => return,
        accepted = tokio::time::timeout(STARTUP_TIMEOUT, accepted) => match accepted {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return tracing::debug!(%error, "a TLS handshake failed"),
            Err(_) => return,
        },
    };
    let (reader, writer) = tokio::io::split(stream);
    let protection = Protection { encrypted: true, ..protection };
    let again = serve_one(reader, writer, &backend, &shutdown, &place, protection, Home::Fixed).await;
    debug_assert!(matches!(again, Served::Ended), "what is encrypted is not encrypted again");
}

/// What the client sends first, left where it is.
async fn first_byte(socket: &TcpStream) -> Option<u8> {
    let mut first = [0];
    matches!(socket.peek(&mut first).await, Ok(1)).then_some(first[0])
}

/// How serving a connection ended.
pub(super) enum Served<R, W, S: WireSession> {
    Ended,
    /// The client wants it encrypted, and knows that it will be.
    Encrypt(R, W),
    /// It is to go on elsewhere.
    Moves(Box<Connection<R, W, S>>),
}

pub(super) async fn serve_one<R, W, B>(
    reader: R,
    writer: W,
    backend: &Arc<B>,
    shutdown: &CancellationToken,
    place: &Place,
    protection: Protection,
    home: Home,
) -> Served<R, W, B::Session>
where
    R: AsyncRead + Unpin + Send,
    W: AsyncWrite + Unpin + Send,
    B: Backend,
{
    let mut input = Input::new(reader);
    let mut output = Output::new(writer);
    let opened = tokio::select! {
        biased;
        () = shutdown.cancelled() => Err(Stop::Fatal(shutting_down())),
        opened = tokio::time::timeout(STARTUP_TIMEOUT, open(&mut input, &mut output, backend, place, protection)) => {
            opened.unwrap_or(Err(Stop::Gone))
        }
    };
    match opened {
        Ok(Entry::Session(session)) => {
            let mut connection = Connection::new(input, output, session, shutdown.clone(), home);
            if connection.ready().await.is_ok()
                && let Some(moves) = connection.run().await
            {
                return Served::Moves(Box::new(moves));
            }
        }
        Ok(Entry::Encrypt) => return Served::Encrypt(input.into_inner(), output.into_inner()),
        Ok(Entry::Ended) | Err(Stop::Gone) => {}
        Err(Stop::Fatal(error)) => refuse(&mut output, Report { error, context: None }).await,
        Err(Stop::Cancelled) => unreachable!("nothing runs before there is a session"),
        Err(Stop::Report(report)) => refuse(&mut output, report).await,
    }
    Served::Ended
}

/// How the opening of a connection ended.
enum Entry<S> {
    Session(S),
    Encrypt,
    Ended,
}

async fn open<R, W, B>(
    input: &mut Input<R>,
    output: &mut Output<W>,
    backend: &Arc<B>,
    place: &Place,
    protection: Protection,
) -> Flow<Entry<B::Session>>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
    B: Backend,
{
    let startup = match startup::open(input, output, backend, protection).await? {
        Opened::Startup(startup) => startup,
        Opened::Encrypt => return Ok(Entry::Encrypt),
        Opened::Cancelled => return Ok(Entry::Ended),
    };
    if place.refused {
        return Err(Stop::Fatal(
            Error::new(SqlState::TooManyConnections, "sorry, too many clients already")
                .with_hint("Raise max_connections, or use a connection pool."),
        ));
    }
    startup::authenticate(input, output, &startup.user, backend.password(&startup.user)).await?;
    let mut session = backend.open(&startup.user, &startup.database, &startup.parameters)?;
    input.trust();
    // What the startup message set is told with all the rest.
    drop(session.take_parameter_changes());
    startup::introduce(output, &session, &startup.user)?;
    Ok(Entry::Session(session))
}

async fn refuse<W: AsyncWrite + Unpin>(output: &mut Output<W>, report: Report) {
    errors::write_error("FATAL", &report, &mut output.buffer);
    match tokio::time::timeout(GOODBYE_TIMEOUT, output.flush()).await {
        Ok(Ok(())) => output.close().await,
        _ => tracing::debug!("a refused client did not read why"),
    }
}
