//! The PostgreSQL wire protocol, version 3: the only code that knows it.
//!
//! ```text
//!   socket ──Input──▶ Frontend message ──Connection──▶ WireSession::execute ──▶ Outcome
//!      ▲                                                                          │
//!      └──Output (at most a few 64 KiB before it waits for the client) ◀──rows / copy_out ◀──┘
//! ```
//!
//! One task a connection. [`tls`] encrypts it if there is a certificate. [`startup`] brings a connection up to a session; [`connection`] is the loop over messages;
//! [`simple`] and [`extended`] are the two query protocols; [`rows`], [`copy_out`] and [`copy_in`] move the data. While a
//! statement runs, the task also listens for the client going away, for a cancel request and for the server's shutdown.
//! Connections that only look rows up by key move to [`lanes`].
//!
//! pgwire's messages and SCRAM are used as they are; its server loop is not, because results must stream, portals suspend and
//! cancelling must reach every phase. Messages from clients are decoded here, because pgwire's decoders trust their lengths.
//!
//! Architecture invariant: no SQL text is looked at here, and nothing but this module writes to a client.

mod backend;
mod connection;
mod copy_decode;
mod copy_in;
mod copy_out;
mod errors;
mod extended;
mod io;
mod lanes;
mod message;
mod prepared;
mod rows;
mod serve;
mod server;
mod simple;
mod startup;
#[cfg(test)]
mod tests;
mod tls;

pub use serve::serve;
pub use tls::Encryption;
