//! The source: what CREATE SOURCE checks, its readers, and what goes with it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use datafusion::arrow::datatypes::{Field, Schema, SchemaRef};
use tidemark_common::{Error, Result, SqlState};

use super::check::{check, check_columns};
use super::feedback::Feedback;
use super::options::CdcOptions;
use super::publication;
use super::reader;
use super::session::Place;
use super::slot::Slot;
use super::table::{Table, types};
use crate::options::Options;
use crate::spec::{FormatSpec, KEY_METADATA, SourceSpec, TableSpec, refuse_format};
use crate::{MissingColumn, Positions, Source, SourceReader};

/// How long a slot that is dropped may still be read from: the server takes a moment to notice that its reader is gone.
const LET_GO: Duration = Duration::from_secs(20);
const ASKED_AGAIN: Duration = Duration::from_millis(250);

#[derive(Debug)]
struct CdcSource {
    options: Arc<CdcOptions>,
    feedback: Arc<Feedback>,
    /// Those that share it, by their numbers here.
    tables: Vec<(u32, Arc<CdcOptions>)>,
}

pub(crate) fn open(spec: SourceSpec, options: Options) -> Result<Arc<dyn Source>> {
    let table = |table: &TableSpec| {
        let own = SourceSpec {
            name: table.name.clone(),
            columns: table.columns.clone(),
            key: table.key.clone(),
            added: table.added,
            shared: Some(spec.name.clone()),
            tables: Vec::new(),
            ..spec.clone()
        };
        Ok((table.id, Arc::new(CdcOptions::parse(own, options.clone().and(&table.options))?)))
    };
    let tables = spec.tables.iter().map(table).collect::<Result<_>>()?;
    let options = Arc::new(CdcOptions::parse(spec, options)?);
    Ok(Arc::new(CdcSource { options, feedback: Arc::default(), tables }))
}

#[async_trait]
impl Source for CdcSource {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.options.schema)
    }

    async fn check(&self) -> Result<()> {
        check(&self.options).await
    }

    async fn check_columns(&self) -> Result<()> {
        check_columns(&self.options).await
    }

    fn missing_columns(&self) -> Vec<MissingColumn> {
        let own = std::iter::once((None, &self.options));
        let all = own.chain(self.tables.iter().map(|(id, options)| (Some(*id), options)));
        all.flat_map(|(of, options)| {
            options.missing.get().into_iter().map(move |(name, sql_type)| MissingColumn { of, name, sql_type })
        })
        .collect()
    }

    async fn reader(
        &self,
        from: &Positions,
        until: Option<&Positions>,
        projection: Option<&[usize]>,
    ) -> Result<Box<dyn SourceReader>> {
        Ok(Box::new(reader::start(&self.options, &self.feedback, &self.tables, from, until, projection)?))
    }

    fn committed(&self, positions: &Positions) {
        if let Some(position) = positions.get(&self.options.lane()) {
            self.feedback.note(position);
        }
    }

    async fn dropped(&self) -> Result<()> {
        let by_hand = |e: Error| {
            let slot = &self.options.slot;
            e.context(format_args!("replication slot \"{slot}\" could not be dropped")).with_hint(format!(
                "It keeps that server's log for ever. Over there: SELECT pg_drop_replication_slot('{slot}')."
            ))
        };
        if self.options.shares.is_some() {
            let client = self.options.place.connect().await?;
            return publication::leave(&client, &self.options).await;
        }
        let client = self.options.place.connect().await.map_err(by_hand)?;
        let removed = tokio::time::timeout(LET_GO, async {
            loop {
                match Slot::remove(&client, &self.options).await {
                    Err(error) if error.state() == SqlState::ObjectInUse => tokio::time::sleep(ASKED_AGAIN).await,
                    other => return other,
                }
            }
        });
        let in_use = |_| Err(Error::new(SqlState::ObjectInUse, format!("it is still in use after {LET_GO:?}")));
        removed.await.unwrap_or_else(in_use).map_err(by_hand)?;
        publication::release(&client, &self.options).await
    }

    fn is_bounded(&self) -> bool {
        false
    }
}

/// The table's columns; its primary key is in the schema's metadata.
pub(crate) async fn infer(mut options: Options, format: Option<&FormatSpec>) -> Result<SchemaRef> {
    refuse_format(format, "postgres-cdc")?;
    let place = Place::take(&mut options, false)?;
    let client = place.connect().await?;
    let mut table = Table::find(&client, &place).await?;
    table.columns.retain(|column| !column.is_generated);
    if table.primary_key.is_empty() {
        return Err(Error::new(
            SqlState::InvalidTableDefinition,
            format!("table \"{}\" has no primary key that the source could take", place.label()),
        )
        .with_hint("Declare the columns, and PRIMARY KEY, or make one over there."));
    }
    let key = table.primary_key.iter().filter_map(|name| table.columns.iter().position(|c| c.name == *name));
    let key: Vec<String> = key.map(|at| at.to_string()).collect();
    let types = types(&client, &table.columns, &place.options.numeric).await?;
    let fields: Vec<Field> = table.columns.iter().zip(&types).map(|(c, t)| t.to_field(&c.name, true)).collect();
    let metadata = HashMap::from([(KEY_METADATA.to_string(), key.join(","))]);
    Ok(Arc::new(Schema::new_with_metadata(fields, metadata)))
}
