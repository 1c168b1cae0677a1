//! Catalog objects -> what the engine runs. Used when an object is created and again at every start.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, Weak};

use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::catalog::TableProvider;
use datafusion::common::DFSchema;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::execution::SessionState;
use datafusion::execution::context::ExecutionProps;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{
    EmptyRelation, Expr, LogicalPlan, LogicalPlanBuilder, Operator, ScalarUDF, binary_expr,
};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::physical_expr::create_physical_expr;
use datafusion::physical_expr::utils::collect_columns;
use datafusion::scalar::ScalarValue;
use datafusion::sql::sqlparser::ast;
use tidemark_catalog::{
    Asked, Catalog, MaterializedView, Object, ObjectKind, SecretKey, Sink, Source, TIDEMARK_SCHEMA, Table,
};
use tidemark_common::plan::{Dataflow, Emit};
use tidemark_common::{Clock, Error, Oid, Result};
use tidemark_connectors::{FormatSpec, PATH_METADATA, SinkSpec, SourceSpec};
use tidemark_engine::{Definition, SinkDef, SourceDef, TableDef, TableTtl, ViewDef, WatermarkDef};
use tidemark_sql::ast::Statement;
use tidemark_sql::subqueries::{self, NotIn};
use tidemark_sql::{grammar, lower};
use tidemark_storage::{Collection, Index, Layout, StateId};

use super::event_time::EventTime;
use super::{connections, lookups, shared_source, views};
use crate::database::Database;
use crate::pipelines::continuous;
use crate::pipelines::history::DEAD_LETTERS;
use crate::query::{Names, Scans, state_of, stored_relation};

/// Which of a table's states has its rows by the time at which they go.
const TTL_INDEX: usize = 255;

/// The hidden column that tells rows apart in a table without a primary key.
pub const ROW_NUMBER: &str = "tidemark_row_number";

/// What making definitions needs besides the catalog.
#[derive(Debug)]
pub struct Environment {
    /// Functions and optimizer of all sessions.
    pub state: Arc<SessionState>,
    pub clock: Arc<dyn Clock>,
    /// Where continuous pipelines load; set once the database is open.
    pub database: Arc<OnceLock<Weak<Database>>>,
    /// Opens secrets.
    pub secret_key: Option<SecretKey>,
}

pub fn define(object: &Object, catalog: &Arc<Catalog>, env: &Environment) -> Result<Definition> {
    let definition = match &object.kind {
        ObjectKind::Table(t) => table(object, t, catalog).map(Definition::Table),
        ObjectKind::Source(s) if s.shared.is_some() => match source_rows(object, s)? {
            Some(rows) => Ok(Definition::Table(rows)),
            None => Err(Error::internal("a table of a source without a primary key")),
        },
        ObjectKind::Source(s) => source(object, s, catalog, env).map(Definition::Source),
        ObjectKind::MaterializedView(v) => view(object, v, catalog, env).map(Definition::View),
        ObjectKind::Sink(s) => sink(object, s, catalog, env).map(Definition::Sink),
        ObjectKind::Pipeline(p) if p.continuous().is_some() => pipeline(object, catalog, env).map(Definition::Sink),
        other => Err(Error::internal(format!("a {} does not run", other.name()))),
    };
    definition.map_err(|e| e.context(format_args!("{} \"{}\"", object.kind_name(), object.name)))
}

/// As [`define`], but what is missing in the outside world now (a directory, a bucket) does not keep the server from starting:
/// the source or sink reports the error until it is back.
pub fn define_at_start(object: &Object, catalog: &Arc<Catalog>, env: &Environment) -> Result<Definition> {
    match (define(object, catalog, env), &object.kind) {
        (Err(error), ObjectKind::Source(_)) => {
            tracing::error!(source = object.name, %error, "the source cannot be opened");
            let schema = source_schema(object);
            Ok(Definition::Source(SourceDef {
                oid: object.oid,
                name: object.name.clone(),
                source: Arc::new(Unavailable { error, schema: schema.clone() }),
                schema,
                watermark: None,
                idle_timeout: None,
                late_table: None,
                dead_letters: None,
                tables: match &object.kind {
                    ObjectKind::Source(source) if source.is_shared() => Some(shared_source::oids(catalog, object)),
                    _ => None,
                },
                rows: match &object.kind {
                    ObjectKind::Source(source) => source_rows(object, source)?,
                    _ => None,
                },
            }))
        }
        (Err(error), ObjectKind::Sink(_)) => {
            tracing::error!(sink = object.name, %error, "the sink cannot be opened");
            let dataflow = Arc::new(stored_dataflow(object, catalog, env)?);
            let sink = Arc::new(Unavailable { error, schema: object.arrow_schema() });
            Ok(Definition::Sink(SinkDef { oid: object.oid, name: object.name.clone(), dataflow, sink }))
        }
        (defined, _) => defined,
    }
}

/// A source or sink that could not be opened.
#[derive(Debug)]
struct Unavailable {
    error: Error,
    schema: SchemaRef,
}

#[async_trait::async_trait]
impl tidemark_common::connector::Source for Unavailable {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    async fn reader(
        &self,
        _from: &tidemark_common::connector::Positions,
        _until: Option<&tidemark_common::connector::Positions>,
        _projection: Option<&[usize]>,
    ) -> Result<Box<dyn tidemark_common::connector::SourceReader>> {
        Err(self.error.clone())
    }

    fn is_bounded(&self) -> bool {
        false
    }
}

#[async_trait::async_trait]
impl tidemark_common::connector::Sink for Unavailable {
    async fn writer(&self) -> Result<Box<dyn tidemark_common::connector::SinkWriter>> {
        Err(self.error.clone())
    }
}

/// True for objects that the engine runs.
pub fn runs(object: &Object) -> bool {
    match &object.kind {
        ObjectKind::Table(table) => table.remote.is_none(),
        ObjectKind::Pipeline(pipeline) => pipeline.continuous().is_some(),
        kind => matches!(kind, ObjectKind::Source(_) | ObjectKind::MaterializedView(_) | ObjectKind::Sink(_)),
    }
}

/// True for objects of which something is kept in the store or known to the engine.
pub fn is_kept(object: &Object) -> bool {
    runs(object) || object.index().is_some()
}

/// Contents of a table: its columns, and the row number if no primary key tells the rows apart.
pub fn table(object: &Object, table: &Table, catalog: &Catalog) -> Result<TableDef> {
    let mut fields: Vec<Field> = table.columns.iter().map(|c| c.sql_type.to_field(&c.name, c.nullable)).collect();
    let (key, key_name) = match &table.primary_key {
        Some(key) => (key.columns.clone(), Some(key.name.clone())),
        None => {
            fields.push(Field::new(ROW_NUMBER, DataType::Int64, true));
            (vec![fields.len() - 1], None)
        }
    };
    let state = |index: usize| StateId::new(object.oid, (table.generation << 8) | index as u32);
    let schema: SchemaRef = Arc::new(Schema::new(fields));
    let of_constraint = |(i, u): (usize, &tidemark_catalog::Key)| {
        Ok(Arc::new(Index::new(state(i + 1), &u.name, &schema, u.columns.clone(), true)?))
    };
    let mut indexes = table.unique.iter().enumerate().map(of_constraint).collect::<Result<Vec<_>>>()?;
    indexes.extend(created_indexes(object, &schema, table.generation, catalog)?);
    let layout = Layout::Keyed { key: key.clone() };
    let ttl = table.ttl.map(|ttl| -> Result<TableTtl> {
        let column = ttl.position(&table.columns);
        let column = column.ok_or_else(|| Error::internal("the column of a ttl is not there"))?;
        let index = Arc::new(Index::new(state(TTL_INDEX), "ttl", &schema, vec![column], false)?);
        Ok(TableTtl { column, micros: ttl.micros, index })
    });
    let ttl = ttl.transpose()?;
    indexes.extend(ttl.iter().map(|ttl| ttl.index.clone()));
    let mut collection = Collection::new(state(0), schema, layout)?.with_name(&object.name);
    if key_name.is_none() {
        collection = collection.with_blocks()?;
    }
    let name = object.name.clone();
    Ok(TableDef { oid: object.oid, name, collection: Arc::new(collection), key, key_name, indexes, ttl })
}

/// What CREATE INDEX has made of a relation. `generation`: of a table's contents, as its indexes have it too.
fn created_indexes(
    relation: &Object,
    schema: &SchemaRef,
    generation: u32,
    catalog: &Catalog,
) -> Result<Vec<Arc<Index>>> {
    let of_object = |(object, index): (&Arc<Object>, &tidemark_catalog::Index)| {
        let state = StateId::new(object.oid, generation);
        Ok(Arc::new(Index::new(state, &object.name, schema, index.positions(), index.unique)?))
    };
    catalog.indexes_of(relation.oid).map(of_object).collect()
}

/// The index of that OID as its relation has it.
pub fn created_index(relation: &Object, oid: Oid, catalog: &Catalog) -> Result<Arc<Index>> {
    let indexes = match &relation.kind {
        ObjectKind::Table(t) => table(relation, t, catalog)?.indexes,
        _ => view_indexes(relation, catalog)?,
    };
    let found = indexes.into_iter().find(|index| index.id().oid() == oid);
    found.ok_or_else(|| Error::internal(format!("\"{}\" has no index {oid}", relation.name)))
}

/// The indexes of a materialized view.
pub fn view_indexes(object: &Object, catalog: &Catalog) -> Result<Vec<Arc<Index>>> {
    created_indexes(object, &object.arrow_schema(), 0, catalog)
}

/// Columns of a source. None is NOT NULL: what a plan does not need is not read and stands as NULL.
pub fn source_schema(object: &Object) -> SchemaRef {
    Arc::new(Schema::new(object.columns().iter().map(|c| c.sql_type.to_field(&c.name, true)).collect::<Vec<_>>()))
}

pub fn source(object: &Object, source: &Source, catalog: &Catalog, env: &Environment) -> Result<SourceDef> {
    let schema = source_schema(object);
    let declared: Vec<usize> = (0..source.declared).collect();
    let resolved = shared_source::resolved(source, catalog, env)?;
    let shared = source.shared.as_ref().map(|shared| Ok::<_, Error>(catalog.expect(shared.source)?.name.clone()));
    let tables = if source.is_shared() { shared_source::tables(catalog, object) } else { Vec::new() };
    let (time, options) = EventTime::split(&resolved.options)?;
    let dead_letters = dead_letters(&options, catalog)?;
    let spec = SourceSpec {
        name: object.name.clone(),
        columns: with_paths(&schema.project(&declared)?.into(), &source.paths),
        added: source.added,
        include: source.include.clone(),
        key: source.key.clone(),
        options,
        secrets: resolved.secrets,
        format: source.format.as_ref().map(format_spec),
        shared: shared.transpose()?,
        tables,
        clock: env.clock.clone(),
    };
    let watermark = source.watermark.as_ref().map(|w| watermark(w, &time, &schema, env)).transpose()?;
    time.check(watermark.is_some())?;
    Ok(SourceDef {
        oid: object.oid,
        name: object.name.clone(),
        source: tidemark_connectors::open_source(spec)?,
        schema,
        watermark,
        idle_timeout: time.idle_timeout,
        late_table: source.late_table,
        dead_letters,
        rows: source_rows(object, source)?,
        tables: source.is_shared().then(|| shared_source::oids(catalog, object)),
    })
}

/// The table that takes records that cannot be decoded, if they are to be kept.
fn dead_letters(options: &[(String, String)], catalog: &Catalog) -> Result<Option<Oid>> {
    let kept = options.iter().any(|(key, value)| key == "on_error" && value.eq_ignore_ascii_case("dlq"));
    if !kept {
        return Ok(None);
    }
    let table = catalog.find_in(TIDEMARK_SCHEMA, DEAD_LETTERS);
    let missing = || Error::internal(format!("there is no table tidemark.{DEAD_LETTERS}"));
    table.map(|table| Some(table.oid)).ok_or_else(missing)
}

/// The columns, with where connectors find their values, if that is not under their names.
pub fn with_paths(columns: &SchemaRef, paths: &[(usize, String)]) -> SchemaRef {
    let fields = columns.fields().iter().enumerate().map(|(at, field)| {
        let mut field = field.as_ref().clone();
        if let Some((_, path)) = paths.iter().find(|(of, _)| *of == at) {
            let mut metadata = field.metadata().clone();
            metadata.insert(PATH_METADATA.to_string(), path.clone());
            field = field.with_metadata(metadata);
        }
        field
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// Where a source with a primary key has its rows.
pub fn source_rows(object: &Object, source: &Source) -> Result<Option<TableDef>> {
    if source.key.is_empty() {
        return Ok(None);
    }
    let layout = Layout::Keyed { key: source.key.clone() };
    let collection = Collection::new(StateId::new(object.oid, 0), source_schema(object), layout)?;
    let collection = collection.with_added(source.added)?;
    Ok(Some(TableDef {
        oid: object.oid,
        name: object.name.clone(),
        collection: Arc::new(collection.with_name(&object.name)),
        key: source.key.clone(),
        key_name: Some(format!("{}_pkey", object.name)),
        indexes: Vec::new(),
        ttl: None,
    }))
}

pub fn format_spec(format: &tidemark_catalog::Format) -> FormatSpec {
    FormatSpec { format: format.format.clone(), encode: format.encode.clone(), options: format.options.clone() }
}

/// An interval without months and days is so many microseconds: taking these from a time saves the calendar's arithmetic, a row at a time.
fn without_calendar(expr: Expr, schema: &Schema) -> Transformed<Expr> {
    let Expr::BinaryExpr(binary) = &expr else { return Transformed::no(expr) };
    let (Expr::Column(column), Expr::Literal(ScalarValue::IntervalMonthDayNano(Some(interval)), _)) =
        (binary.left.as_ref(), binary.right.as_ref())
    else {
        return Transformed::no(expr);
    };
    let is_time = schema
        .field_with_name(&column.name)
        .is_ok_and(|field| matches!(field.data_type(), DataType::Timestamp(TimeUnit::Microsecond, _)));
    let is_exact = interval.months == 0 && interval.days == 0 && interval.nanoseconds % 1000 == 0;
    if !is_time || !is_exact || !matches!(binary.op, Operator::Plus | Operator::Minus) {
        return Transformed::no(expr);
    }
    let micros = ScalarValue::DurationMicrosecond(Some(interval.nanoseconds / 1000));
    Transformed::yes(binary_expr(*binary.left.clone(), binary.op, Expr::Literal(micros, None)))
}

fn watermark(
    watermark: &tidemark_catalog::Watermark,
    time: &EventTime,
    schema: &SchemaRef,
    env: &Environment,
) -> Result<WatermarkDef> {
    let names = Names {
        state: state_of(env.state.clone()),
        functions: Arc::new(HashMap::<String, Arc<ScalarUDF>>::new()),
        catalog: Arc::new(Catalog::new("", "")),
        search_path: vec![],
        reads: vec![],
        system: None,
        scans: Arc::new(NoRelations),
        returned: HashMap::new(),
        remote: Arc::default(),
    };
    let columns = DFSchema::try_from(schema.as_ref().clone())?;
    let expr = names.expr(&watermark.expr, &columns)?;
    let expr = simplifier(&columns, env).simplify(coerce(expr, &columns, env)?)?;
    let expr = expr.transform(|expr| Ok(without_calendar(expr, schema)))?.data;
    let physical = create_physical_expr(&expr, &columns, &ExecutionProps::new(), &PhysicalPlanningContext::default())?;
    let field = schema.field(watermark.column);
    let made = physical.data_type(schema)?;
    if made != *field.data_type() || !matches!(made, DataType::Timestamp(..)) {
        return Err(Error::new(
            tidemark_common::SqlState::DatatypeMismatch,
            format!("the watermark of \"{}\" must be a timestamp of the column's own type", field.name()),
        )
        .with_hint("Write WATERMARK FOR ts AS ts - INTERVAL '5 seconds' over a TIMESTAMP or TIMESTAMPTZ column."));
    }
    let mut reads: Vec<usize> = collect_columns(&physical).iter().map(|c| c.index()).collect();
    reads.push(watermark.column);
    Ok(WatermarkDef {
        column: watermark.column,
        expr: physical,
        reads,
        max_future: time.max_future,
        allowed_lateness: time.allowed_lateness.unwrap_or(0),
    })
}

/// Settles the types of an expression over `schema`.
pub fn coerce(expr: Expr, schema: &DFSchema, env: &Environment) -> Result<Expr> {
    Ok(simplifier(schema, env).coerce(expr, schema)?)
}

/// As a query's: with casts and comparisons as Postgres has them, and coalesce in a form that can be run.
pub fn runnable(expr: Expr, schema: &DFSchema, env: &Environment) -> Result<Expr> {
    let nothing = EmptyRelation { produce_one_row: false, schema: Arc::new(schema.clone()) };
    let plan = LogicalPlanBuilder::from(LogicalPlan::EmptyRelation(nothing)).project([expr])?.build()?;
    let plan = env.state.analyzer().execute_and_check(plan, env.state.config_options(), |_, _| {})?;
    let LogicalPlan::Projection(projection) = plan else {
        return Err(Error::internal("an expression over columns is no projection"));
    };
    let expr = projection.expr.into_iter().next().ok_or_else(|| Error::internal("a projection has no expression"))?;
    Ok(simplifier(schema, env).simplify(expr.unalias())?)
}

fn simplifier(schema: &DFSchema, env: &Environment) -> ExprSimplifier {
    let context = SimplifyContext::builder()
        .with_schema(Arc::new(schema.clone()))
        .with_config_options(env.state.config_options().clone())
        .build();
    ExprSimplifier::new(context)
}

struct NoRelations;

impl Scans for NoRelations {
    fn relation(&self, _catalog: &Catalog, object: &Arc<Object>) -> Result<Arc<dyn TableProvider>> {
        Err(Error::internal(format!("\"{}\" in an expression over columns", object.name)))
    }
}

/// Relations as inputs of a dataflow.
struct StreamInputs {
    /// Of a plan that has kept state: where it looks rows up, and nowhere else, whatever indexes were made since.
    lookups: Option<Vec<(Oid, Vec<usize>)>>,
}

impl Scans for StreamInputs {
    fn relation(&self, catalog: &Catalog, object: &Arc<Object>) -> Result<Arc<dyn TableProvider>> {
        let mut relation = stored_relation(catalog, object)?;
        if let Some(allowed) = &self.lookups {
            relation.lookups.retain(|by| allowed.iter().any(|(oid, columns)| *oid == object.oid && columns == by));
        }
        Ok(Arc::new(relation))
    }
}

/// DataFusion as it plans dataflows: every subquery becomes a join, and the names that it makes up are the same each time.
fn for_dataflows(state: &SessionState) -> SessionState {
    let mut state = state.clone();
    state.config_mut().options_mut().optimizer.enable_physical_uncorrelated_scalar_subquery = false;
    state.execution_props_mut().alias_generator = Arc::default();
    state
}

/// Plans a view's or sink's query as a dataflow. `stored`: it is that of this object, and must come out as it did first. `asked`:
/// the tables of other systems that it names.
pub fn dataflow(
    query: &ast::Query,
    search_path: &[String],
    emit: Emit,
    stored: Option<&Object>,
    asked: &[Asked],
    catalog: &Arc<Catalog>,
    env: &Environment,
) -> Result<Dataflow> {
    let names = Names {
        state: state_of(Arc::new(for_dataflows(&env.state))),
        functions: Arc::new(tidemark_sql::functions::epoch_clock()),
        catalog: catalog.clone(),
        search_path: search_path.to_vec(),
        reads: stored.map_or(Vec::new(), |object| object.reads.clone()),
        system: None,
        scans: Arc::new(StreamInputs { lookups: stored.map(|object| object.lookups.clone()) }),
        returned: HashMap::new(),
        remote: Arc::new(lookups::relations(asked, catalog, env)?),
    };
    let plan = names.plan(query)?;
    lower::check_deterministic(&plan)?;
    subqueries::check_single_rows(&plan)?;
    let plan = subqueries::rewrite(plan, NotIn::All)?;
    let optimized = names.planner().optimize(&plan)?;
    lower::lower(&optimized, emit)
}

/// Plans the dataflow of an object that has one: as it came out first.
pub fn stored_dataflow(object: &Object, catalog: &Arc<Catalog>, env: &Environment) -> Result<Dataflow> {
    let Some((query, path)) = object.query() else {
        return Err(Error::internal(format!("a {} has no dataflow", object.kind_name())));
    };
    dataflow(&stored_query(query)?, path, object.emit(), Some(object), &object.asked, catalog, env)
}

/// A stored query's AST.
pub fn stored_query(text: &str) -> Result<ast::Query> {
    if let Statement::Sql(statement) = grammar::parse_one(text)?.statement
        && let ast::Statement::Query(query) = *statement
    {
        return Ok(*query);
    }
    Err(Error::internal("the stored text is no query"))
}

/// Whose OID a view's rows and state are kept under.
pub fn view_storage(object: &Object, view: &MaterializedView) -> Oid {
    view.storage.unwrap_or(object.oid)
}

pub fn view_collection(object: &Object, view: &MaterializedView) -> Result<Arc<Collection>> {
    let layout = match (&view.key, view.append_only) {
        (Some(key), _) => Layout::Keyed { key: key.clone() },
        (None, true) => Layout::Sequence,
        (None, false) => Layout::Multiset,
    };
    let collection = Collection::new(StateId::new(view_storage(object, view), 0), object.arrow_schema(), layout)?;
    Ok(Arc::new(collection.with_name(&object.name)))
}

fn view(object: &Object, view: &MaterializedView, catalog: &Arc<Catalog>, env: &Environment) -> Result<ViewDef> {
    let dataflow = stored_dataflow(object, catalog, env)?;
    Ok(ViewDef {
        oid: object.oid,
        storage: view_storage(object, view),
        name: object.name.clone(),
        dataflow: Arc::new(dataflow),
        collection: view_collection(object, view)?,
        indexes: view_indexes(object, catalog)?,
        backfill_rate: views::stored_backfill_rate(view)?,
        max_state_entries: views::stored_state_limit(view)?,
    })
}

fn sink(object: &Object, sink: &Sink, catalog: &Arc<Catalog>, env: &Environment) -> Result<SinkDef> {
    let dataflow = Arc::new(stored_dataflow(object, catalog, env)?);
    let key = env.secret_key.as_ref();
    let resolved = connections::with_connection(&sink.options, &sink.secrets, sink.connection, catalog, key)?;
    let spec = SinkSpec {
        name: object.name.clone(),
        schema: object.arrow_schema(),
        identity: sink.identity.clone(),
        append_only: sink.append_only,
        key: sink.key.clone(),
        options: resolved.options,
        secrets: resolved.secrets,
        format: sink.format.as_ref().map(format_spec),
        clock: env.clock.clone(),
    };
    let sink = tidemark_connectors::open_sink(spec)?;
    Ok(SinkDef { oid: object.oid, name: object.name.clone(), dataflow, sink })
}

/// A continuous pipeline: a sink whose target is its table.
fn pipeline(object: &Object, catalog: &Arc<Catalog>, env: &Environment) -> Result<SinkDef> {
    let dataflow = stored_dataflow(object, catalog, env)?;
    let sink = Arc::new(continuous::Loads::new(object, env.database.clone()));
    Ok(SinkDef { oid: object.oid, name: object.name.clone(), dataflow: Arc::new(dataflow), sink })
}
