//! Lanes: threads for connections that do nothing but look rows up.
//!
//! ```text
//!   shared runtime                                                   lane
//!   connection ──so many lookups in a row, nothing else between────▶ connection
//!              ◀──a message that may be more than a lookup, as it is──
//! ```
//!
//! A lookup takes a few microseconds, and on the shared runtime one worker waits for sockets and wakes the others to share what it
//! gets: two servers of one worker each answered 1.4 times as many as one of two workers. A lane is one thread with its own sockets,
//! so nobody is woken and nothing moves between cores. It is not held up either: what may take longer is sent back before it is
//! begun.
//!
//! Only plain sockets move; an encrypted connection stays where it is.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use tidemark_common::Result;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::runtime::{Builder, Handle};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::backend::WireSession;
use super::connection::Connection;
use super::message::Frontend;

/// Lookups that a connection must have done in a row to move to a lane: moving takes as long as a few.
const LOOKUPS: u32 = 64;
const MAX_LANES: usize = 16;

/// A connection whose socket is in no runtime.
type Detached<S> = Connection<std::net::TcpStream, (), S>;
type Attached<S> = Connection<OwnedReadHalf, OwnedWriteHalf, S>;

/// Where a connection is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Home {
    /// On the shared runtime, and stays there.
    Fixed,
    /// On the shared runtime, after so many lookups in a row.
    Shared {
        lookups: u32,
    },
    Lane,
}

impl Home {
    pub fn shared() -> Self {
        Home::Shared { lookups: 0 }
    }

    /// A statement was a lookup.
    pub fn looked_up(&mut self) {
        if let Home::Shared { lookups } = self {
            *lookups += 1;
        }
    }

    /// A statement was something else.
    pub fn worked(&mut self) {
        if let Home::Shared { lookups } = self {
            *lookups = 0;
        }
    }

    pub fn moves_to_lane(&self) -> bool {
        matches!(self, Home::Shared { lookups } if *lookups >= LOOKUPS)
    }
}

/// Whether a lane may handle the message: it takes no time, or is an Execute, of which the portal will tell.
pub(super) fn is_light(message: &Frontend) -> bool {
    use Frontend::*;
    matches!(message, Bind(_) | Describe(_) | Execute { .. } | Close(_) | Flush | Sync | Terminate)
}

pub(super) struct Lanes {
    lanes: Vec<Lane>,
    /// Ends the threads.
    _stop: DropGuard,
}

struct Lane {
    runtime: Handle,
    connections: Arc<AtomicUsize>,
}

impl Lanes {
    /// One for each core.
    pub fn start() -> Result<Lanes> {
        let cores = thread::available_parallelism().map_or(1, |n| n.get());
        let stop = CancellationToken::new();
        let lanes = (0..cores.min(MAX_LANES)).map(|_| Lane::start(stop.clone())).collect::<Result<_>>()?;
        Ok(Lanes { lanes, _stop: stop.drop_guard() })
    }

    /// Serves a connection that wants to move to a lane, by turns there and here, until it ends.
    pub async fn serve<S: WireSession>(&self, mut connection: Attached<S>) {
        loop {
            let back = match connection.detach() {
                Ok(detached) => self.serve_on_lane(detached).await,
                Err(error) => return tracing::debug!(%error, "a connection could not move to a lane"),
            };
            let Some(back) = back else { return };
            let ended = match back.attach(Home::shared()) {
                Ok(attached) => attached.run().await,
                Err(error) => return tracing::debug!(%error, "a connection could not move from a lane"),
            };
            match ended {
                Some(moves) => connection = moves,
                None => return,
            }
        }
    }

    /// Gives the connection back if it has more to do than a lane may.
    async fn serve_on_lane<S: WireSession>(&self, connection: Detached<S>) -> Option<Detached<S>> {
        let lane = self.lanes.iter().min_by_key(|lane| lane.connections.load(Ordering::Relaxed))?;
        let _place = Counted::new(&lane.connections);
        let served = lane.runtime.spawn(async move {
            let back = connection.attach(Home::Lane)?.run().await;
            back.map(Connection::detach).transpose()
        });
        match EndOnDrop(served).join().await {
            Ok(Ok(back)) => back,
            Ok(Err(error)) => {
                tracing::debug!(%error, "a connection could not move");
                None
            }
            Err(error) => {
                if error.is_panic() {
                    tracing::error!(%error, "a connection's task panicked");
                }
                None
            }
        }
    }
}

impl Lane {
    fn start(stop: CancellationToken) -> Result<Lane> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        thread::Builder::new()
            .name("lane".into())
            .stack_size(crate::STACK)
            .spawn(move || runtime.block_on(stop.cancelled()))?;
        Ok(Lane { runtime: handle, connections: Arc::default() })
    }
}

/// A connection of a lane, for as long as this is there.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A task that ends with who waits for it.
struct EndOnDrop<T>(JoinHandle<T>);

impl<T> EndOnDrop<T> {
    async fn join(mut self) -> std::result::Result<T, tokio::task::JoinError> {
        (&mut self.0).await
    }
}

impl<T> Drop for EndOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl<S: WireSession> Attached<S> {
    /// Takes the socket out of its runtime.
    fn detach(self) -> io::Result<Detached<S>> {
        let home = self.home;
        self.over(home, |reader, writer| {
            let socket = reader.reunite(writer).map_err(io::Error::other)?;
            Ok((socket.into_std()?, ()))
        })
    }
}

impl<S: WireSession> Detached<S> {
    /// Puts the socket into the runtime that calls this.
    fn attach(self, home: Home) -> io::Result<Attached<S>> {
        self.over(home, |socket, ()| Ok(TcpStream::from_std(socket)?.into_split()))
    }
}
