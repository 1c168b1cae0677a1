//! What the stream does not say, asked now and then on a session of its own: how much of its log the server keeps for the slot, and
//! whether the publication still has the table. A table that is dropped there, or left out, is silent as one that nobody changes.

use std::sync::Arc;
use std::time::Duration;

use tidemark_common::Result;
use tokio::task::AbortHandle;

use super::feedback::Feedback;
use super::options::CdcOptions;
use super::publication::Publication;
use super::session::query;
use crate::postgres::client::Client;

const EVERY: Duration = Duration::from_secs(10);

/// Asks for as long as it is there, and of the tables that the publication must have.
#[derive(Debug)]
pub struct Watch(AbortHandle);

impl Watch {
    pub fn start(options: &Arc<CdcOptions>, feedback: &Arc<Feedback>, published: Vec<Arc<CdcOptions>>) -> Self {
        let (options, feedback) = (Arc::clone(options), Arc::clone(feedback));
        let task = tokio::spawn(async move {
            let mut client = None;
            loop {
                match ask(&mut client, &options, &published).await {
                    Ok((lag, left_out)) => {
                        feedback.set_lag(lag);
                        feedback.set_left_out(left_out);
                    }
                    Err(error) => {
                        // Whoever reads the stream tells of a server that is away.
                        tracing::debug!(source = options.name, %error, "the lag of a replication slot is not known");
                        client = None;
                        feedback.set_lag(None);
                    }
                }
                tokio::time::sleep(EVERY).await;
            }
        });
        Self(task.abort_handle())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The lag, and the table that is left out, if one is.
async fn ask(
    client: &mut Option<Client>,
    options: &CdcOptions,
    published: &[Arc<CdcOptions>],
) -> Result<(Option<u64>, Option<String>)> {
    let client = match client {
        Some(client) => client,
        None => client.insert(options.place.connect().await?),
    };
    let rows = query(client, LAG, &[&options.slot]).await?;
    let lag: Option<i64> = rows.first().and_then(|row| row.get(0));
    let lag = lag.and_then(|lag| u64::try_from(lag).ok());
    for of in published {
        if !Publication::has_table(client, of).await? {
            return Ok((lag, Some(of.place.label())));
        }
    }
    Ok((lag, None))
}

const LAG: &str = "
SELECT greatest(pg_wal_lsn_diff(
    CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END, confirmed_flush_lsn), 0)::bigint
FROM pg_replication_slots WHERE slot_name = $1::text";
