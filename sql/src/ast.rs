//! A parsed statement: Postgres' own as `sqlparser` has them, ours beside them.

use datafusion::sql::sqlparser::ast;
use tidemark_common::Hidden;
pub use tidemark_common::plan::Emit;

/// An identifier as Postgres folds it.
pub fn fold(ident: &ast::Ident) -> String {
    match ident.quote_style {
        Some(_) => ident.value.clone(),
        None => ident.value.to_lowercase(),
    }
}

/// One statement of a script.
#[derive(Debug, Clone, PartialEq)]
pub struct Parsed {
    pub statement: Statement,
    /// The statement's own text, without the semicolon and without surrounding blanks and comments.
    pub text: String,
    /// Characters of the script before `text`: error positions are counted from the script's start.
    pub offset: usize,
}

// One at a time, and moved seldom: the large variants are not worth a box.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Clone, PartialEq)]
pub enum Statement {
    /// What `sqlparser` parses and Postgres knows: queries, DML, DDL on tables, views, schemas, transactions, SET, COPY, ...
    Sql(Box<ast::Statement>),
    CreateSource(CreateSource),
    CreateMaterializedView(CreateMaterializedView),
    CreateSink(CreateSink),
    CreateSecret(CreateSecret),
    /// `ALTER SECRET [IF EXISTS] name AS .. | FROM ..`: another value.
    AlterSecret(AlterSecret),
    CreateConnection(CreateConnection),
    CreatePipeline(CreatePipeline),
    /// `[DRY] RUN PIPELINE name [WITH FULL REFRESH]`
    RunPipeline(RunPipeline),
    /// `REPLAY DEAD LETTERS [FORCE] FROM source [WHERE ..]`: records that were set aside are decoded again.
    ReplayDeadLetters(ReplayDeadLetters),
    /// `VALIDATE PIPELINE name`: whether a run would get as far as its first row, against what is there now.
    ValidatePipeline(ast::ObjectName),
    /// `SHOW RUNS [FOR pipeline] [LIMIT n]`
    ShowRuns(ShowRuns),
    /// `CHECK CONNECTION name`: each step of connecting, and how it goes.
    CheckConnection(ast::ObjectName),
    /// `SUBSCRIBE [TO] name | (query) [WITH (snapshot = false)]`
    Subscribe(Subscribe),
    /// `COPY (SUBSCRIBE ..) TO STDOUT [options]`: the COPY is that of a query in the SUBSCRIBE's place.
    CopySubscribe {
        subscribe: Subscribe,
        copy: Box<ast::Statement>,
    },
    /// `DECLARE name [options] CURSOR [WITH HOLD] FOR query | SUBSCRIBE ..`
    Declare(Declare),
    /// `FETCH` and `MOVE`
    Fetch(Fetch),
    /// `CLOSE name`; `None`: `CLOSE ALL`
    Close(Option<ast::Ident>),
    /// `DROP SOURCE | SINK | MATERIALIZED VIEW [IF EXISTS] a, b [CASCADE | RESTRICT]`
    Drop(Drop),
    /// `ALTER SOURCE | SINK | MATERIALIZED VIEW name ...`; also what `sqlparser` has not of VIEW, SEQUENCE, DATABASE, and
    /// `ALTER TABLE name SET SCHEMA`.
    Alter(Alter),
    /// `SHOW TABLES | VIEWS | SOURCES | ... [FROM schema] [LIKE 'pattern']`
    ShowObjects(ShowObjects),
    /// `SHOW CREATE TABLE | VIEW | MATERIALIZED VIEW | SOURCE | SINK name`; the kind may be left out.
    ShowCreate(ShowCreate),
    /// `SHOW COLUMNS FROM name`, `DESCRIBE name`
    ShowColumns(ast::ObjectName),
    /// `EXPLAIN [(options) | ANALYZE | VERBOSE] ...` of a query, of a CREATE .. AS, or of a view by name.
    Explain(Explain),
    /// `COMMENT ON kind name IS 'text' | NULL`, for kinds that sqlparser has not.
    Comment(Comment),
    /// `CANCEL JOB id | name`
    CancelJob(String),
    /// `REFRESH MATERIALIZED VIEW name`: nothing to do, for a view that exists is up to date.
    Refresh(ast::ObjectName),
    /// `VALIDATE MATERIALIZED VIEW name`: the rows in which the view and its query differ.
    Validate(ast::ObjectName),
    /// What Postgres needs and Tidemark does by itself; the command's tag. VACUUM, ANALYZE, CHECKPOINT, REINDEX, CLUSTER,
    /// SET CONSTRAINTS.
    NoOp(&'static str),
    /// Nothing between two semicolons.
    Empty,
}

/// `WITH (key = value, ..)`: keys lower-case and without quotes, values as text.
pub type WithOptions = Vec<(String, String)>;

/// `key = SECRET name` in a WITH clause.
pub type SecretOptions = Vec<(String, ast::Ident)>;

/// `CREATE SECRET name AS 'value' | FROM ENV 'NAME' | FROM FILE 'path'`
#[derive(Debug, Clone, PartialEq)]
pub struct CreateSecret {
    pub or_replace: bool,
    pub if_not_exists: bool,
    pub name: ast::ObjectName,
    pub from: SecretFrom,
}

#[derive(Debug, Clone, PartialEq)]
pub struct AlterSecret {
    pub if_exists: bool,
    pub name: ast::ObjectName,
    pub from: SecretFrom,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretFrom {
    Literal(Hidden),
    Env(String),
    File(String),
}

/// `CREATE CONNECTION name WITH (type = .., ..)`
#[derive(Debug, Clone, PartialEq)]
pub struct CreateConnection {
    pub or_replace: bool,
    pub if_not_exists: bool,
    pub name: ast::ObjectName,
    pub options: WithOptions,
    pub secrets: SecretOptions,
}

/// `CREATE PIPELINE name INTO table, .. clauses AS query`
#[derive(Debug, Clone, PartialEq)]
pub struct CreatePipeline {
    pub or_replace: bool,
    pub if_not_exists: bool,
    pub name: ast::ObjectName,
    pub targets: Vec<ast::ObjectName>,
    /// `None`: not said.
    pub trigger: Option<PipelineTrigger>,
    pub after: Vec<ast::ObjectName>,
    /// Scripts, each parsed once.
    pub on_success: Vec<String>,
    pub on_failure: Vec<String>,
    pub options: WithOptions,
    pub secrets: SecretOptions,
    pub query: Box<ast::Query>,
    /// The query's own text, as typed.
    pub query_text: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PipelineTrigger {
    Manual,
    Continuous,
    /// `SCHEDULE 'cron' [TIME ZONE 'zone']`
    Schedule {
        pattern: String,
        zone: Option<String>,
    },
    /// `EVERY INTERVAL '..'`, in microseconds.
    Every(i64),
}

#[derive(Debug, Clone, PartialEq)]
pub struct RunPipeline {
    pub name: ast::ObjectName,
    pub full_refresh: bool,
    /// Nothing of it stays.
    pub dry: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ReplayDeadLetters {
    pub source: ast::ObjectName,
    /// Also where the records may be older than the rows that are there.
    pub force: bool,
    /// Which of them.
    pub selection: Option<Box<ast::Expr>>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ShowRuns {
    pub pipeline: Option<ast::ObjectName>,
    pub limit: Option<u64>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct CreateSource {
    pub or_replace: bool,
    pub if_not_exists: bool,
    pub name: ast::ObjectName,
    pub columns: Vec<ast::ColumnDef>,
    /// `column type FROM '$.path'`: where in a record the value is, by position of the column.
    pub paths: Vec<(usize, String)>,
    /// `(*)`: columns taken from the data.
    pub columns_from_data: bool,
    pub constraints: Vec<ast::TableConstraint>,
    /// `FROM source TABLE 'schema.table'`
    pub from: Option<(ast::ObjectName, String)>,
    pub watermark: Option<Watermark>,
    pub include: Vec<Include>,
    pub options: WithOptions,
    pub secrets: SecretOptions,
    pub format: Option<Format>,
}

/// `WATERMARK FOR column AS expr`
#[derive(Debug, Clone, PartialEq)]
pub struct Watermark {
    pub column: ast::Ident,
    pub expr: ast::Expr,
}

/// `INCLUDE what [AS alias]`: `what` is lower-case: offset, partition, timestamp, key, headers, file
#[derive(Debug, Clone, PartialEq)]
pub struct Include {
    pub what: String,
    pub alias: Option<ast::Ident>,
}

/// `FORMAT format ENCODE encode [(key = value, ..)]`, both words upper-case.
#[derive(Debug, Clone, PartialEq)]
pub struct Format {
    pub format: String,
    pub encode: String,
    pub options: WithOptions,
}

#[derive(Debug, Clone, PartialEq)]
pub struct CreateMaterializedView {
    pub or_replace: bool,
    pub if_not_exists: bool,
    pub name: ast::ObjectName,
    pub columns: Vec<ast::Ident>,
    pub options: WithOptions,
    pub query: Box<ast::Query>,
    /// The query's own text, as typed.
    pub query_text: String,
    pub emit: Emit,
    /// `WITH NO DATA`
    pub with_no_data: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct CreateSink {
    pub or_replace: bool,
    pub if_not_exists: bool,
    pub name: ast::ObjectName,
    pub from: SinkFrom,
    pub options: WithOptions,
    pub secrets: SecretOptions,
    pub format: Option<Format>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum SinkFrom {
    Relation(ast::ObjectName),
    Query { query: Box<ast::Query>, text: String, emit: Emit },
}

#[derive(Debug, Clone, PartialEq)]
pub struct Subscribe {
    pub from: SubscribeFrom,
    pub options: WithOptions,
}

#[derive(Debug, Clone, PartialEq)]
pub enum SubscribeFrom {
    Relation(ast::ObjectName),
    Query { query: Box<ast::Query>, text: String },
}

#[derive(Debug, Clone, PartialEq)]
pub struct Declare {
    pub name: ast::Ident,
    /// The whole statement, as pg_cursors shows it.
    pub text: String,
    pub binary: bool,
    /// `None`: neither SCROLL nor NO SCROLL.
    pub scroll: Option<bool>,
    /// `WITH HOLD`
    pub hold: bool,
    pub of: DeclareOf,
}

#[derive(Debug, Clone, PartialEq)]
pub enum DeclareOf {
    Query(Box<ast::Query>),
    Subscribe(Subscribe),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Fetch {
    pub name: ast::Ident,
    pub direction: FetchDirection,
    /// `MOVE`: the rows are passed over.
    pub moves: bool,
    pub options: WithOptions,
}

/// Where FETCH goes, its many spellings told in four.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FetchDirection {
    /// So many rows on, or back if negative. `None`: all.
    Forward(Option<i64>),
    Backward(Option<i64>),
    /// The row of this number, from the end if negative.
    Absolute(i64),
    /// The row so many on from here.
    Relative(i64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ObjectType {
    Table,
    View,
    MaterializedView,
    Source,
    Sink,
    Schema,
    Index,
    Sequence,
    Role,
    Database,
    Function,
    Type,
    Job,
    Secret,
    Connection,
    Pipeline,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Drop {
    pub object_type: ObjectType,
    pub if_exists: bool,
    pub names: Vec<ast::ObjectName>,
    pub cascade: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Alter {
    pub object_type: ObjectType,
    pub if_exists: bool,
    pub name: ast::ObjectName,
    pub action: AlterAction,
}

#[derive(Debug, Clone, PartialEq)]
pub enum AlterAction {
    Rename(ast::Ident),
    /// The column's name, and the new one.
    RenameColumn(ast::Ident, ast::Ident),
    SetSchema(ast::Ident),
    OwnerTo(String),
    Set(WithOptions, SecretOptions),
    /// `RESET (key, ..)`
    Reset(Vec<String>),
    Pause,
    Resume,
    /// `ALTER PIPELINE name RESET [WATERMARK]`
    ResetWatermark,
    /// `ALTER SEQUENCE name RESTART [WITH value]`
    Restart(Option<i64>),
    /// `ALTER SOURCE name ADD [COLUMN] [IF NOT EXISTS] column type [FROM '$.path']`
    AddColumn {
        if_not_exists: bool,
        column: Box<ast::ColumnDef>,
        path: Option<String>,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub struct ShowObjects {
    pub object_type: ObjectType,
    pub schema: Option<ast::Ident>,
    pub like: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ShowCreate {
    pub object_type: Option<ObjectType>,
    pub name: ast::ObjectName,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Explain {
    pub analyze: bool,
    pub verbose: bool,
    pub target: ExplainTarget,
}

#[derive(Debug, Clone, PartialEq)]
pub enum ExplainTarget {
    /// A query, DML, or CREATE MATERIALIZED VIEW / CREATE SINK.
    Statement(Box<Statement>),
    /// `EXPLAIN MATERIALIZED VIEW name`, `EXPLAIN VIEW name`, `EXPLAIN SINK name`
    Object(ObjectType, ast::ObjectName),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Comment {
    pub object_type: CommentObject,
    pub name: ast::ObjectName,
    pub comment: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommentObject {
    Object(ObjectType),
    /// `name` ends in the column.
    Column,
}

/// `INSERT .. OVERRIDING {SYSTEM | USER} VALUE`: what becomes of values that are given for identity columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overriding {
    /// They are taken, also where they are always generated.
    System,
    /// They are not: the column's own are.
    User,
}

/// `sqlparser` has no place for it. The grammar spells it as other words before the table, which together mean nothing else:
/// `INSERT OVERWRITE INTO` and `INSERT OVERWRITE INTO TABLE`.
pub fn overriding(insert: &ast::Insert) -> Option<Overriding> {
    match (insert.overwrite && insert.into, insert.has_table_keyword) {
        (false, _) => None,
        (true, false) => Some(Overriding::System),
        (true, true) => Some(Overriding::User),
    }
}
