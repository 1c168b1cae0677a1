//! The extended protocol: Parse, Bind, Describe, Execute, Close, Flush.

use std::collections::hash_map::Entry;
use std::sync::Arc;

use pgwire::messages::data::{NoData, ParameterDescription};
use pgwire::messages::extendedquery::{BindComplete, CloseComplete, ParseComplete, PortalSuspended};
use pgwire::messages::response::EmptyQueryResponse;
use tidemark_common::{Error, Oid, Result, SqlState};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use super::backend::WireSession;
use super::connection::{Connection, watch};
use super::errors::{Flow, protocol_violation};
use super::lanes::Home;
use super::message::{Bind, Frontend, Target};
use super::prepared::{Bound, Portal, PortalState, Prepared, no_portal, no_statement, type_of_oid};
use super::rows::{Format, RowSender, Sent, command_tag, describe};
use crate::session::{Description, Outcome, RowsTag};

/// Prepared statements a session may keep, and portals a transaction may have open.
const MAX_NAMED: usize = 10_000;

impl<R, W, S> Connection<R, W, S>
where
    R: AsyncRead + Unpin + Send,
    W: AsyncWrite + Unpin + Send,
    S: WireSession,
{
    pub(super) async fn extended(&mut self, message: Frontend) -> Flow<()> {
        match message {
            Frontend::Parse { name, query, types } => self.parse(name, &query, types).await,
            Frontend::Bind(bind) => self.bind(bind),
            Frontend::Describe(Target::Statement(name)) => self.describe_statement(&name),
            Frontend::Describe(Target::Portal(name)) => self.describe_portal(&name),
            Frontend::Execute { portal, max_rows } => self.execute_portal(portal, max_rows).await,
            Frontend::Close(target) => {
                // Closing what does not exist is no error.
                match target {
                    Target::Statement(name) => drop(self.statements.remove(&name)),
                    Target::Portal(name) => {
                        if self.portals.remove(&name).is_none() {
                            self.session.close_cursor(&name);
                        }
                    }
                }
                Ok(self.output.put(CloseComplete::new())?)
            }
            Frontend::Flush => self.output.flush().await,
            Frontend::Malformed { message, .. } => Err(protocol_violation(message).into()),
            other => Err(protocol_violation(format!("unexpected message {other:?}")).into()),
        }
    }

    async fn parse(&mut self, name: String, query: &str, parameter_oids: Vec<Oid>) -> Flow<()> {
        if name.is_empty() {
            self.statements.remove("");
        } else if self.statements.contains_key(&name) {
            return Err(Error::new(
                SqlState::DuplicatePreparedStatement,
                format!("prepared statement \"{name}\" already exists"),
            )
            .into());
        }
        check_room(self.statements.len(), "prepared statements")?;
        let given = parameter_oids.iter().map(|oid| type_of_oid(*oid)).collect::<Result<Vec<_>>>()?;
        let mut statements = self.session.parse(query)?;
        if statements.len() > 1 {
            return Err(Error::syntax("cannot insert multiple commands into a prepared statement").into());
        }
        let statement = statements.pop();
        let description = match &statement {
            None => Description { parameters: Vec::new(), columns: None },
            Some(statement) => {
                let canceller = self.session.canceller();
                let work = self.session.describe(statement, &given);
                watch(&mut self.input, &self.shutdown, &canceller, work).await?
            }
        };
        self.statements.insert(name, Arc::new(Prepared::new(statement, description, parameter_oids)));
        Ok(self.output.put(ParseComplete::new())?)
    }

    fn bind(&mut self, bind: Bind) -> Flow<()> {
        let style = self.style()?;
        let prepared = self.statements.get(&bind.statement).ok_or_else(|| no_statement(&bind.statement))?;
        let prepared = Arc::clone(prepared);
        let parameters = prepared.bind(&bind, &style)?;
        prepared.result_formats(&bind.result_formats)?;
        if bind.portal.is_empty() {
            self.portals.remove("");
        }
        check_room(self.portals.len(), "portals")?;
        if self.session.cursor(&bind.portal).is_some() {
            let message = format!("cursor \"{}\" already exists", bind.portal);
            return Err(Error::new(SqlState::DuplicateCursor, message).into());
        }
        let bound = Bound { prepared, parameters, result_formats: bind.result_formats };
        let portal = Portal { bound, state: PortalState::Ready };
        match self.portals.entry(bind.portal) {
            Entry::Vacant(free) => drop(free.insert(portal)),
            Entry::Occupied(taken) => {
                let message = format!("cursor \"{}\" already exists", taken.key());
                return Err(Error::new(SqlState::DuplicateCursor, message).into());
            }
        }
        Ok(self.output.put(BindComplete::new())?)
    }

    fn describe_statement(&mut self, name: &str) -> Flow<()> {
        let prepared = Arc::clone(self.statements.get(name).ok_or_else(|| no_statement(name))?);
        self.output.put(ParameterDescription::new(prepared.parameter_types()))?;
        match &prepared.description.columns {
            Some(schema) => self.output.put(describe(schema, &[]))?,
            None => self.output.put(NoData::new())?,
        }
        Ok(())
    }

    fn describe_portal(&mut self, name: &str) -> Flow<()> {
        let Some(portal) = self.portals.get(name) else {
            // Of a cursor that SQL has declared, clients ask what its rows will be.
            let cursor = self.session.cursor(name).ok_or_else(|| no_portal(name))?;
            let format = if cursor.binary { Format::Binary } else { Format::Text };
            let formats = vec![format; cursor.schema.fields().len()];
            return Ok(self.output.put(describe(&cursor.schema, &formats))?);
        };
        match &portal.bound.prepared.description.columns {
            Some(schema) => {
                let formats = portal.bound.prepared.result_formats(&portal.bound.result_formats)?;
                self.output.put(describe(schema, &formats))?;
            }
            None => self.output.put(NoData::new())?,
        }
        Ok(())
    }

    /// The portal is taken out while it runs, so that an error leaves none behind.
    async fn execute_portal(&mut self, name: String, max_rows: i32) -> Flow<()> {
        let Some(mut portal) = self.portals.remove(&name) else {
            if self.session.cursor(&name).is_some() {
                let message = format!("cursor \"{name}\" was declared by SQL");
                return Err(Error::unsupported(message).with_hint("Use FETCH in the place of Execute.").into());
            }
            return Err(no_portal(&name).into());
        };
        let limit = u64::try_from(max_rows).unwrap_or(0);
        if self.home == Home::Lane && !matches!(portal.state, PortalState::Ready | PortalState::Exhausted(_)) {
            return self.postpone(name, portal, max_rows);
        }
        portal.state = match std::mem::replace(&mut portal.state, PortalState::Done) {
            PortalState::Ready => match self.look_up(&portal.bound, limit).await? {
                Some(state) => state,
                None if self.home == Home::Lane => {
                    portal.state = PortalState::Ready;
                    return self.postpone(name, portal, max_rows);
                }
                None => {
                    self.home.worked();
                    self.start_portal(&portal.bound, limit).await?
                }
            },
            PortalState::Suspended(sender) => {
                let token = self.session.resume();
                self.continue_portal(sender, limit, &token).await?
            }
            PortalState::Exhausted(tag) => {
                self.complete(command_tag(&tag, 0))?;
                PortalState::Exhausted(tag)
            }
            PortalState::Done => {
                return Err(Error::new(
                    SqlState::ObjectNotInPrerequisiteState,
                    format!("portal \"{name}\" cannot be run"),
                )
                .into());
            }
        };
        self.portals.insert(name, portal);
        Ok(())
    }

    /// Leaves an Execute to who serves the connection next.
    fn postpone(&mut self, name: String, portal: Portal<S::Statement>, max_rows: i32) -> Flow<()> {
        self.portals.insert(name.clone(), portal);
        self.pending = Some(Frontend::Execute { portal: name, max_rows });
        Ok(())
    }

    /// Executes what is found at once; `None`: the statement is more than that.
    async fn look_up(&mut self, bound: &Bound<S::Statement>, limit: u64) -> Flow<Option<PortalState>> {
        let Some(statement) = &bound.prepared.statement else { return Ok(None) };
        // Others may follow in the same transaction, which is still to begin.
        if !self.implicit && !self.input.next_is_sync() {
            return Ok(None);
        }
        let Some(rows) = self.session.look_up(statement, &bound.parameters)? else { return Ok(None) };
        self.home.looked_up();
        bound.prepared.check_columns(rows.schema_ref())?;
        let sender = RowSender::found(&rows, bound.prepared.result_formats(&bound.result_formats)?)?;
        let token = self.session.cancellation();
        self.continue_portal(sender, limit, &token).await.map(Some)
    }

    async fn start_portal(&mut self, bound: &Bound<S::Statement>, limit: u64) -> Flow<PortalState> {
        let Some(statement) = &bound.prepared.statement else {
            self.output.put(EmptyQueryResponse::new())?;
            return Ok(PortalState::Done);
        };
        // With Sync right behind, this is the only statement: it needs no transaction around it, and can be run again by itself.
        if !self.input.next_is_sync() {
            self.start_implicit();
        }
        let outcome = self.execute(statement, &bound.parameters).await?;
        let token = self.session.cancellation();
        match outcome {
            Outcome::Rows(rows) => {
                bound.prepared.check_columns(&rows.schema)?;
                let formats = bound.prepared.result_formats(&bound.result_formats)?;
                return self.continue_portal(RowSender::new(rows, formats), limit, &token).await;
            }
            Outcome::Command(tag) => self.complete(tag)?,
            Outcome::CopyIn(copy) => self.copy_in(copy, &token).await?,
            Outcome::CopyOut(rows, options) => self.copy_out(rows, &options, &token).await?,
            Outcome::Deallocate(name) => self.deallocate(&name)?,
            Outcome::Empty => self.output.put(EmptyQueryResponse::new())?,
        }
        Ok(PortalState::Done)
    }

    async fn continue_portal(
        &mut self,
        mut sender: RowSender,
        limit: u64,
        token: &CancellationToken,
    ) -> Flow<PortalState> {
        let style = self.style()?;
        match sender.send(self.channel(token), &style, limit).await? {
            Sent::All(count) => {
                self.complete(sender.finished(count))?;
                Ok(match sender.tag {
                    RowsTag::Count(_) => PortalState::Done,
                    tag => PortalState::Exhausted(tag),
                })
            }
            Sent::Limit => {
                self.write_notices();
                self.output.put(PortalSuspended::new())?;
                Ok(PortalState::Suspended(sender))
            }
        }
    }
}

fn check_room(count: usize, what: &str) -> Result<()> {
    if count < MAX_NAMED {
        return Ok(());
    }
    Err(Error::new(SqlState::ConfigurationLimitExceeded, format!("too many {what}: {MAX_NAMED} are open"))
        .with_hint("Close those that are no longer used."))
}
