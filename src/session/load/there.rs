//! A load into a table that is kept in another system: what comes is sent on, batch by batch, and nothing is held here.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{Field, FieldRef, Schema};
use datafusion::logical_expr::LogicalPlan;
use datafusion::sql::sqlparser::ast as sql;
use rand::Rng;
use tidemark_catalog::{Column, Object, ObjectKind, Table};
use tidemark_common::{Error, Result};
use tidemark_connectors::load::{Counts, Load, LoadRun};
use tidemark_connectors::postgres::{Begun, LoadPlan, Loading, PostgresOptions, Wanted, Within};
use uuid::Uuid;

use super::Given;
use crate::coordinator::connections;
use crate::coordinator::loads::load_of;
use crate::coordinator::remote::target_table;
use crate::query::Names;
use crate::session::Session;
use crate::session::insert::given_columns;

pub(in crate::session) struct There {
    given: Given,
    strategy: Load,
    name: String,
    begun: Begun,
}

impl Session {
    pub(super) async fn load_there(
        &mut self,
        object: &Arc<Object>,
        load: Load,
        run: Option<LoadRun>,
    ) -> Result<Box<There>> {
        let remote = object.remote().ok_or_else(|| Error::internal(format!("\"{}\" is kept here", object.name)))?;
        let client = match run.as_ref().is_some_and(|run| run.dry) {
            true => self.try_remote(object, remote).await?.0,
            false => self.settle_remote(object, remote).await?,
        };
        #[allow(clippy::disallowed_methods)] // an id, which no query computes with
        let batch_id = Uuid::from_u128(rand::rng().random()).to_string();
        let plan = LoadPlan {
            table: target_table(object, remote)?,
            load: load.clone(),
            batch_id,
            run: run.or_else(|| self.run_of_setting(object)),
        };
        let begun = Loading::begin(client, plan).await?;
        let given = Given::new(&load, object)?;
        Ok(Box::new(There { given, strategy: load, name: object.name.clone(), begun }))
    }

    /// `SET tidemark.run_id`
    fn run_of_setting(&self, object: &Object) -> Option<LoadRun> {
        let id = self.info.setting("tidemark.run_id").filter(|id| !id.is_empty())?;
        let target = self.transaction().ok()?.catalog.qualified_name(object);
        Some(LoadRun { id, target, payload: None, dry: false, anew: false })
    }

    pub(super) async fn end_there(&mut self, there: There) -> Result<Counts> {
        let There { strategy, name, begun, .. } = there;
        let counts = match begun {
            Begun::Loading(loading) => loading.finish().await?,
            Begun::Done(counts) => {
                self.notice(format!("the run has loaded \"{name}\" before: nothing is done again"));
                counts
            }
        };
        if strategy.compares() {
            self.notice(format!("{} into \"{name}\": {counts}", strategy.name()));
        }
        Ok(counts)
    }

    /// Has the other system run the query itself, if it reads nothing but tables of the same database. `given`: the positions that
    /// the query's columns are for; `kept`: those of them that are there. False: its rows have to be sent.
    pub(in crate::session) async fn load_within(
        &mut self,
        names: &Names,
        plan: &LogicalPlan,
        object: &Object,
        (given, kept): (&[usize], &[usize]),
        there: &mut There,
    ) -> Result<bool> {
        let loading = match &mut there.begun {
            Begun::Done(_) => return Ok(true),
            Begun::Loading(loading) => loading,
        };
        let Some(within) = within(names, plan, object, (given, kept), loading.options())? else { return Ok(false) };
        loading.insert(&within).await?;
        let connection = loading.connection().clone();
        self.notice(format!("no row left connection \"{connection}\": the load runs there as SQL"));
        Ok(true)
    }

    /// A line about where the rows of an INSERT go, if its table is kept elsewhere.
    pub(in crate::session) fn shown_load(&mut self, insert: &sql::Insert, query: &sql::Query) -> Result<String> {
        let (object, _) = self.insert_target(insert)?;
        let (Some(remote), Some(load)) = (object.remote(), load_of(&object)?) else { return Ok(String::new()) };
        let catalog = self.catalog()?;
        let connection = catalog.expect(remote.connection)?;
        let options = connections::options(connection, &catalog, self.db.environment.secret_key.as_ref())?;
        let names = self.names(None)?;
        let plan = names.plan(query)?;
        let mut positions = given_columns(&object, insert)?;
        positions.truncate(plan.schema().fields().len());
        let way = match within(&names, &plan, &object, (&positions, &positions), &options)? {
            Some(within) => format!("as SQL over there: {}", within.query()),
            None => "by COPY".to_string(),
        };
        Ok(format!("Load: {} into {} of connection \"{}\", {way}\n", load.name(), remote.name(), connection.name))
    }
}

/// What the other system, of these options, can be asked instead of the plan.
fn within(
    names: &Names,
    plan: &LogicalPlan,
    object: &Object,
    (given, kept): (&[usize], &[usize]),
    options: &PostgresOptions,
) -> Result<Option<Within>> {
    // Defaults are computed here, but for those of the strategy's columns, and NORMALIZE of what is not given is done here.
    let own: &[String] = match &object.kind {
        ObjectKind::Table(Table { load: Some(load), .. }) => &load.own,
        _ => &[],
    };
    let is_filled = |(at, column): (usize, &Column)| {
        (column.default.is_some() || column.normalize.is_some()) && !kept.contains(&at) && !own.contains(&column.name)
    };
    if object.columns().iter().enumerate().any(is_filled) {
        return Ok(None);
    }
    let optimized = crate::planning::aside(|| names.planner().optimize(plan))?;
    let wanted = |at: &usize| {
        let column = kept.contains(at).then(|| &object.columns()[*at])?;
        Some(Wanted { name: &column.name, sql_type: &column.sql_type, normalize: column.normalize.as_ref() })
    };
    let columns: Vec<_> = given.iter().map(wanted).collect();
    let within = Within::of(&optimized, &columns)?;
    Ok(within.filter(|within| options.is_same_database(&within.reading.options)))
}

impl There {
    /// Takes rows of which the keys go, if they do not come as well: columns by name.
    pub(super) async fn confine(&mut self, gone: &[RecordBatch]) -> Result<()> {
        let Begun::Loading(loading) = &mut self.begun else { return Ok(()) };
        let declared = loading.key_columns();
        let fields: Vec<Field> = declared.iter().map(|key| key.sql_type.to_field(&key.name, true)).collect();
        let schema = Arc::new(Schema::new(fields));
        let keys_of = |rows: &RecordBatch| {
            let key =
                |field: &FieldRef| Ok(cast(rows.column(rows.schema().index_of(field.name())?), field.data_type())?);
            let columns = schema.fields().iter().map(key).collect::<Result<Vec<_>>>()?;
            Ok(RecordBatch::try_new(schema.clone(), columns)?)
        };
        loading.confine(&gone.iter().map(keys_of).collect::<Result<Vec<_>>>()?).await
    }

    /// Sends rows: all columns of the table by position.
    pub(super) async fn push(&mut self, columns: &[ArrayRef], rows: usize) -> Result<()> {
        match &mut self.begun {
            Begun::Loading(loading) => loading.push(&self.given.batch(columns, rows)?).await,
            Begun::Done(_) => Ok(()),
        }
    }
}
