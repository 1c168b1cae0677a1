//! A table of PostgreSQL as a source, by logical replication: its rows as they were at one moment, then what has changed since.
//!
//! ```text
//!   first start                                                       position stored with the epoch
//!     publication ─▶ slot: consistent point 0/A, exported snapshot
//!                      └─▶ Truncate, COPY in that snapshot ─▶ Puts      "snapshot 0/A, 8192 rows", ..
//!                                                    last batch         "0/A"
//!   from then on, and at each start
//!     START_REPLICATION at the position ─▶ Begin rows.. Commit ─▶ ops    "0/B": the end of the transaction
//!     nothing for this table ─▶ keepalives                              "0/C": how far the server has looked
//!
//!   WAL  ────────────┼───────────────┼──────────────┼──────────────▶
//!          let go    slot: committed  stored         read
//! ```
//!
//! What an epoch has stored is the truth. Only what [`Source::committed`](crate::Source::committed) has been told does the slot let go,
//! so that whatever is not stored comes again; and what comes again though it is stored is left out. Where `kill -9` may hit:
//!
//! - Publication or slot are there, nothing is stored: the slot goes, and another is made with a snapshot of its own.
//! - Half a snapshot is stored: the same. The copy begins with a Truncate, so that what was stored of the first one goes.
//! - In the stream: it goes on behind the last transaction that was stored whole.
//!
//! ```text
//!   Worker (a task) ─ wire: the connection ─▶ pgoutput: messages ─▶ shape: columns ─▶ rows: batches ─▶ bounded channel ─▶ Reader
//! ```
//!
//! **A slot that tables share.** A source without a table has a slot and a publication to which tables come and from which they go
//! (`CREATE TABLE t .. FROM source TABLE 's.t'`). Its one worker reads all of them, one [`Following`](worker::Following) each; every batch
//! says whose rows it has, and the batches of a transaction are `unfinished` but for the last, so that the engine takes all of them in
//! one epoch, into the tables at once.
//!
//! ```text
//!   splits    stream               0/B         the end of the last transaction that was stored, of all tables
//!             public.orders#20005  0/S         copied at that moment: changes that commit from there on count
//!             public.items#20009   snapshot 0/T, 8192 rows: half a copy, which begins anew
//! ```
//!
//! The engine makes the source anew when a table comes or goes: another reader begins where the stream is stored, and [`join`] copies
//! what has not been copied. The split of a table has the number that the table has here, so that one that comes again is another.
//!
//! A connection that is lost is made again for as long as it takes; a transaction that was half handed out then is not begun again:
//! the server sends it as before, and what was handed out of it is passed over.

mod changes;
mod check;
mod copy_text;
mod feedback;
mod join;
mod lsn;
mod options;
mod pgoutput;
mod position;
mod publication;
mod raw;
mod reader;
mod rows;
mod session;
mod shape;
mod slot;
mod snapshot;
mod source;
mod stream;
mod table;
#[cfg(test)]
mod tests;
mod watch;
mod wire;
mod worker;

pub(crate) use source::{infer, open};
