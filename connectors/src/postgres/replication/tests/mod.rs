//! The source against a PostgreSQL of the tests' own. A [`mirror::Mirror`] stands for the engine: it keeps the rows by key, stores
//! positions with whole transactions only, and starts again from them wherever a test lets it fall.

mod failing;
mod mirror;
mod random;
mod reading;
mod restarting;
mod server;
mod signing_in;
