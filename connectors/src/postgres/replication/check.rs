//! What CREATE SOURCE asks of the other server, so that nothing fails later that can be known now.

use tidemark_common::types::SqlType;
use tidemark_common::{Error, Result, SqlState};

use super::options::CdcOptions;
use super::publication::{self, Publication};
use super::session::query;
use super::shape::{Shape, check_identity, undeclared};
use super::slot::Slot;
use super::table::{Table, in_stream, types};
use super::wire::Wire;
use crate::postgres::client::Client;

pub async fn check(options: &CdcOptions) -> Result<()> {
    let place = &options.place;
    let client = place.connect().await?;
    log_level(&client).await?;
    if options.is_shared {
        publication::check_shared(&client, options).await?;
        Slot::check_absent(&client, options).await?;
        return replicates(options).await;
    }
    let table = Table::find(&client, place).await?;
    rights(options, &table)?;
    columns(&client, options, &table, true).await?;
    check_identity(options, &table.identity)?;
    let publication = Publication::find(&client, options).await?;
    Publication::check(publication.as_ref(), options, &table)?;
    // The slot that it shares is there.
    if options.shares.is_some() {
        return Ok(());
    }
    Slot::check_absent(&client, options).await?;
    replicates(options).await
}

/// When columns have been added. Rows that the table had before they were added there say nothing of them in the log.
pub async fn check_columns(options: &CdcOptions) -> Result<()> {
    let client = options.place.connect().await?;
    let table = Table::find(&client, &options.place).await?;
    columns(&client, options, &table, false).await?;
    let fields = options.schema.fields();
    let added: Vec<&str> = fields[fields.len() - options.added..].iter().map(|field| field.name().as_str()).collect();
    let rows = query(&client, FILLED, &[&table.oid, &added]).await?;
    match rows.first() {
        None => Ok(()),
        Some(row) => {
            let (column, label): (String, String) = (row.get(0), options.place.label());
            let message = format!(
                "column \"{column}\" of table \"{label}\" has a default, which rows that were there before it have got"
            );
            Err(Error::new(SqlState::ObjectNotInPrerequisiteState, message)
                .with_detail("The log does not tell these rows again: here they would be without it.")
                .with_hint("Make the source anew: it copies the table again."))
        }
    }
}

const FILLED: &str = "SELECT attname::text FROM pg_attribute WHERE attrelid = $1::oid AND attname = ANY($2::text[]) \
     AND (atthasmissing OR atthasdef OR attidentity <> '')";

async fn replicates(options: &CdcOptions) -> Result<()> {
    let place = &options.place;
    Wire::open(place).await.map(drop).map_err(|e| {
        match e.state() == SqlState::InsufficientPrivilege || e.code() == "42501" {
            true => e.with_hint(format!(
                "Over there: ALTER ROLE \"{}\" REPLICATION; or what the service has for that.",
                place.options.user
            )),
            false => e,
        }
    })
}

async fn log_level(client: &Client) -> Result<()> {
    let rows = query(client, "SELECT current_setting('wal_level')", &[]).await?;
    let level: String = rows.first().map_or_else(String::new, |row| row.get(0));
    match level.as_str() {
        "logical" => Ok(()),
        _ => Err(Error::new(
            SqlState::ObjectNotInPrerequisiteState,
            format!(
                "wal_level of connection \"{}\" is {level}, and changes are read only where it is logical",
                client.name
            ),
        )
        .with_hint("Over there: ALTER SYSTEM SET wal_level = logical, and restart that server.")),
    }
}

fn rights(options: &CdcOptions, table: &Table) -> Result<()> {
    let (place, user) = (&options.place, &options.place.options.user);
    if !table.can_select {
        let message =
            format!("user \"{user}\" may not read table \"{}\" in connection \"{}\"", place.label(), place.name);
        return Err(Error::new(SqlState::InsufficientPrivilege, message).with_hint(format!(
            "Over there: GRANT USAGE ON SCHEMA, and GRANT SELECT ON {} TO \"{user}\".",
            place.quoted()
        )));
    }
    if table.is_row_secured {
        let message = format!("row-level security hides rows of table \"{}\" from user \"{user}\"", place.label());
        return Err(Error::new(SqlState::InsufficientPrivilege, message)
            .with_hint(format!("The stream has them all. Over there: ALTER ROLE \"{user}\" BYPASSRLS.")));
    }
    Ok(())
}

async fn columns(client: &Client, options: &CdcOptions, table: &Table, is_new: bool) -> Result<()> {
    let types = types(client, &table.columns, &SqlType::Numeric(None)).await?;
    let named: Vec<(&str, &SqlType)> = table.columns.iter().map(|c| c.name.as_str()).zip(&types).collect();
    let shape = Shape::of(options, &named, true)?;
    if is_new {
        let declare = "Declare it, or take all columns from the table: CREATE SOURCE name (*) WITH (..).";
        undeclared(options, in_stream(table, &types)).map_err(|error| error.with_hint(declare))?;
    }
    match shape.places.iter().flatten().map(|at| &table.columns[*at]).find(|column| column.is_generated) {
        Some(generated) => Err(Error::unsupported(format!(
            "column \"{}\" of table \"{}\" is generated: it is not in the stream",
            generated.name,
            options.place.label()
        ))
        .with_hint("Leave it out, and compute it in a view.")),
        None => Ok(()),
    }
}
