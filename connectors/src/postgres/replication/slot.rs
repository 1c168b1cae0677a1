//! The replication slot: the server's promise to keep the log from there on.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tidemark_common::{Error, Result, SqlState};
use tokio::time::timeout;

use super::lsn::Lsn;
use super::options::CdcOptions;
use super::session::query;
use super::wire::Wire;
use crate::postgres::client::Client;
use crate::postgres::filter::identifier;

/// How long making a slot takes before somebody is told that it waits for others.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub struct Slot {
    /// It is one of this database's, with our output plugin.
    is_ours: bool,
    /// The server's process that reads from it.
    active: Option<i32>,
    /// What lies before is let go.
    confirmed: Lsn,
    /// The server has thrown away what it should have kept.
    is_lost: bool,
}

impl Slot {
    pub async fn find(client: &Client, options: &CdcOptions) -> Result<Option<Self>> {
        let rows = query(client, FIND, &[&options.slot]).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let confirmed: Option<String> = row.get(2);
        Ok(Some(Self {
            is_ours: row.get(0),
            active: row.get(1),
            confirmed: confirmed.map_or(Ok(Lsn(0)), |text| text.parse())?,
            is_lost: row.get(3),
        }))
    }

    /// An error if the source's slot could not be made.
    pub async fn check_absent(client: &Client, options: &CdcOptions) -> Result<()> {
        if let Some(found) = Self::find(client, options).await? {
            return Err(found.taken(options));
        }
        let rows = query(
            client,
            "SELECT count(*), current_setting('max_replication_slots')::bigint FROM pg_replication_slots",
            &[],
        );
        let rows = rows.await?;
        let (used, all): (i64, i64) = rows.first().map_or((0, 1), |row| (row.get(0), row.get(1)));
        match used < all {
            true => Ok(()),
            false => Err(Error::new(
                SqlState::ConfigurationLimitExceeded,
                format!("all {all} replication slots of connection \"{}\" are in use", options.place.name),
            )
            .with_hint("Drop one that nobody needs, or raise max_replication_slots over there.")),
        }
    }

    fn taken(&self, options: &CdcOptions) -> Error {
        let slot = &options.slot;
        let error = match self.active {
            Some(process) => Error::new(
                SqlState::ObjectInUse,
                format!("replication slot \"{slot}\" is in use, by process {process} of the server"),
            ),
            None => Error::new(SqlState::DuplicateObject, format!("replication slot \"{slot}\" already exists")),
        };
        error.with_hint(format!(
            "Each source has a slot of its own: choose another slot.name, or if nobody needs that one, over there: SELECT \
             pg_drop_replication_slot('{slot}')."
        ))
    }

    /// An error unless the log from `from` on is still there.
    pub async fn check_reaches(client: &Client, options: &CdcOptions, from: Lsn) -> Result<()> {
        let (slot, hint) = (&options.slot, "Make the source anew: it copies the table again.");
        let found = Self::find(client, options).await?.filter(|found| found.is_ours).ok_or_else(|| {
            Error::new(SqlState::UndefinedObject, format!("replication slot \"{slot}\" is no longer there"))
                .with_hint(hint)
        })?;
        if found.is_lost {
            let message =
                format!("the server no longer has the changes that replication slot \"{slot}\" should have kept");
            return Err(Error::new(SqlState::DataCorrupted, message)
                .with_hint(format!("{hint} Its max_slot_wal_keep_size says how much it keeps.")));
        }
        if found.confirmed > from {
            let message = format!(
                "replication slot \"{slot}\" has let go the changes from {from} to {}, which were not read",
                found.confirmed
            );
            return Err(Error::new(SqlState::DataCorrupted, message).with_hint(hint));
        }
        Ok(())
    }

    /// Drops it if it is there. In use it is an error.
    pub async fn remove(client: &Client, options: &CdcOptions) -> Result<()> {
        match Self::find(client, options).await? {
            None => Ok(()),
            Some(found) if !found.is_ours || found.active.is_some() => Err(found.taken(options)),
            Some(_) => query(client, "SELECT pg_drop_replication_slot($1::text)", &[&options.slot]).await.map(drop),
        }
    }

    /// Its consistent point, and the name of a snapshot of that moment, which lasts until the connection's next command. A temporary
    /// one lasts as long as the connection.
    pub async fn create(wire: &mut Wire, options: &CdcOptions, slot: &str, temporary: bool) -> Result<(Lsn, String)> {
        let kind = if temporary { "TEMPORARY LOGICAL" } else { "LOGICAL" };
        let sql = format!("CREATE_REPLICATION_SLOT {} {kind} pgoutput EXPORT_SNAPSHOT", identifier(slot));
        let mut making = std::pin::pin!(wire.query(&sql));
        let made = match timeout(PATIENCE, &mut making).await {
            Ok(made) => made,
            Err(_) => {
                let source = &options.name;
                tracing::warn!(
                    source,
                    slot,
                    "the server makes no slot while transactions are open that began before: waiting"
                );
                making.await
            }
        };
        let rows = made.map_err(|e| options.place.named(e))?;
        match rows.first().map(Vec::as_slice) {
            Some([_, Some(point), Some(snapshot), ..]) => Ok((point.parse()?, snapshot.clone())),
            _ => Err(Error::new(SqlState::ProtocolViolation, "the server made a slot without a snapshot")),
        }
    }
}

/// Slots that sources of this process read from: server and slot.
static LEASES: Mutex<BTreeSet<(String, String)>> = Mutex::new(BTreeSet::new());

/// Nobody else in this process has the slot, whether the server knows already or not.
#[derive(Debug)]
pub struct Lease((String, String));

impl Lease {
    pub fn take(options: &CdcOptions) -> Result<Self> {
        let key = (options.place.options.address(), options.slot.clone());
        match LEASES.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone()) {
            true => Ok(Self(key)),
            false => Err(Error::new(
                SqlState::ObjectInUse,
                format!("another source reads from replication slot \"{}\"", options.slot),
            )
            .with_hint("Each source has a slot of its own: choose another slot.name.")),
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        LEASES.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.0);
    }
}

/// `wal_status` is of PostgreSQL 13 and newer.
const FIND: &str = "
SELECT coalesce(s.slot_type = 'logical' AND s.plugin = 'pgoutput' AND s.database = current_database(), false), s.active_pid,
    s.confirmed_flush_lsn::text, coalesce(to_jsonb(s) ->> 'wal_status' = 'lost', false)
FROM pg_replication_slots s WHERE s.slot_name = $1::text";
