//! The whole protocol over a socket, against a session that does what its statements say in so many words:
//! `rows N`, `echo` (its parameters), `fail`, `wait` (until cancelled), `copyin FORMAT`, `copyout FORMAT N`, `begin`, ...

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use datafusion::arrow::array::{ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray};
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::scalar::ScalarValue;
use futures::{SinkExt, StreamExt, TryStreamExt, stream};
use tidemark_common::types::SqlType;
use tidemark_common::{Error, Result, SqlState};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};
use tokio_util::sync::CancellationToken;

use super::backend::{Backend, Canceller, WireSession};
use super::lanes::Home;
use super::serve;
use super::serve::{Place, serve_one};
use super::startup::Protection;
use super::tls::Encryption;
use crate::session::{
    CopyFormat, CopyIn, CopyOptions, CursorShape, Description, Notice, Outcome, Rows, RowsTag, TransactionStatus,
};

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Default)]
struct Fake {
    password: Option<String>,
    max_connections: usize,
    tokens: Mutex<HashMap<i32, CancellationToken>>,
    /// What sessions did, in order.
    log: Mutex<Vec<String>>,
    batches_made: Mutex<usize>,
}

struct FakeSession {
    server: Arc<Fake>,
    key: (i32, i32),
    status: TransactionStatus,
    notices: Vec<Notice>,
    changes: Vec<(String, String)>,
    rows_copied: usize,
}

impl Backend for Fake {
    type Session = FakeSession;

    fn password(&self, _user: &str) -> Option<String> {
        self.password.clone()
    }

    fn open(self: &Arc<Self>, user: &str, database: &str, _: &BTreeMap<String, String>) -> Result<FakeSession> {
        if database != "tidemark" {
            return Err(Error::new(SqlState::UndefinedDatabase, format!("database \"{database}\" does not exist")));
        }
        if user == "nobody" {
            return Err(Error::new(SqlState::InvalidAuthorization, "role \"nobody\" does not exist"));
        }
        let mut tokens = self.tokens.lock().unwrap();
        let key = (tokens.len() as i32 + 1, 77);
        tokens.insert(key.0, CancellationToken::new());
        let server = Arc::clone(self);
        Ok(FakeSession {
            server,
            key,
            status: TransactionStatus::Idle,
            notices: vec![],
            changes: vec![],
            rows_copied: 0,
        })
    }

    fn cancel(&self, pid: i32, secret: i32) {
        assert_eq!(secret, 77);
        self.tokens.lock().unwrap()[&pid].cancel();
    }

    fn max_connections(&self) -> usize {
        self.max_connections
    }
}

impl Fake {
    fn fresh_token(&self, pid: i32) -> CancellationToken {
        let token = CancellationToken::new();
        self.tokens.lock().unwrap().insert(pid, token.clone());
        token
    }
}

impl FakeSession {
    fn log(&self, what: impl Into<String>) {
        self.server.log.lock().unwrap().push(what.into());
    }

    fn rows(&self, count: usize, tag: RowsTag, live: bool) -> Rows {
        const BATCH: usize = 1000;
        let server = Arc::clone(&self.server);
        let batches = stream::iter((0..count).step_by(BATCH)).map(move |from| {
            *server.batches_made.lock().unwrap() += 1;
            Ok(numbers(from as i32, (from + BATCH).min(count) as i32))
        });
        let schema = numbers(0, 0).schema();
        Rows {
            stream: Box::pin(RecordBatchStreamAdapter::new(schema.clone(), batches)),
            schema,
            tag,
            live,
            binary: false,
        }
    }
}

fn numbers(from: i32, to: i32) -> RecordBatch {
    let columns: [(&str, ArrayRef); 3] = [
        ("n", Arc::new(Int32Array::from_iter_values(from..to))),
        ("big", Arc::new(Int64Array::from_iter_values((from..to).map(|n| i64::from(n) * 1_000_000_007)))),
        ("t", Arc::new(StringArray::from_iter((from..to).map(|n| (n % 3 != 0).then(|| format!("row\t{n}")))))),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.map(|(name, array)| (name, array, true))).unwrap()
}

fn copy_options(format: &str) -> CopyOptions {
    let (format, delimiter, null) = match format {
        "csv" => (CopyFormat::Csv, b',', ""),
        "binary" => (CopyFormat::Binary, b'\t', "\\N"),
        _ => (CopyFormat::Text, b'\t', "\\N"),
    };
    CopyOptions {
        format,
        delimiter,
        null: null.into(),
        header: false,
        quote: b'"',
        escape: b'"',
        force_quote: vec![],
        force_not_null: vec![],
        force_null: vec![],
    }
}

impl WireSession for FakeSession {
    type Statement = String;

    fn parse(&self, script: &str) -> Result<Vec<String>> {
        if script.contains("syntax") {
            return Err(
                Error::syntax("syntax error at or near \"syntax\"").with_position(script.find("syntax").unwrap() + 1)
            );
        }
        Ok(script.split(';').map(str::trim).filter(|s| !s.is_empty()).map(String::from).collect())
    }

    fn backend_key(&self) -> (i32, i32) {
        self.key
    }

    fn look_up(&mut self, statement: &String, _: &[ScalarValue]) -> Result<Option<RecordBatch>> {
        let Some(count) = statement.strip_prefix("found ") else { return Ok(None) };
        self.server.fresh_token(self.key.0);
        self.log(statement.as_str());
        if std::thread::current().name() == Some("lane") {
            self.log("on a lane");
        }
        Ok(Some(numbers(0, count.parse().unwrap())))
    }

    async fn execute(&mut self, statement: &String, parameters: &[ScalarValue]) -> Result<Outcome> {
        let token = self.server.fresh_token(self.key.0);
        self.log(statement.as_str());
        let words: Vec<&str> = statement.split(' ').collect();
        let count = || words.last().unwrap().parse().unwrap();
        let word = words[0];
        Ok(match word {
            "rows" => Outcome::Rows(self.rows(count(), RowsTag::Select, false)),
            "live" => Outcome::Rows(self.rows(count(), RowsTag::Fixed("SUBSCRIBE"), true)),
            "returning" => Outcome::Rows(self.rows(count(), RowsTag::Count("INSERT 0"), false)),
            "echo" => {
                let columns = parameters.iter().map(|p| p.to_array().unwrap());
                let names = (0..parameters.len()).map(|at| format!("p{at}"));
                let batch = RecordBatch::try_from_iter_with_nullable(names.zip(columns).map(|(n, c)| (n, c, true)))?;
                let schema = batch.schema();
                let one = stream::iter([Ok(batch)]);
                let stream = Box::pin(RecordBatchStreamAdapter::new(schema.clone(), one));
                Outcome::Rows(Rows { schema, stream, tag: RowsTag::Select, live: false, binary: false })
            }
            "fail" => {
                return Err(Error::new(SqlState::DivisionByZero, "division by zero")
                    .with_detail("a detail")
                    .with_hint("a hint")
                    .with_position(3));
            }
            "failstream" => {
                let schema = numbers(0, 0).schema();
                let items = vec![Ok(numbers(0, 10)), Err(Error::new(SqlState::DivisionByZero, "late").into())];
                let stream = Box::pin(RecordBatchStreamAdapter::new(schema.clone(), stream::iter(items)));
                Outcome::Rows(Rows { schema, stream, tag: RowsTag::Select, live: false, binary: false })
            }
            "wait" => {
                token.cancelled().await;
                self.log("was cancelled");
                return Err(Error::new(SqlState::QueryCanceled, "canceling statement due to user request"));
            }
            "forever" => {
                let schema = numbers(0, 0).schema();
                let stream = Box::pin(RecordBatchStreamAdapter::new(schema.clone(), stream::pending()));
                Outcome::Rows(Rows { schema, stream, tag: RowsTag::Select, live: false, binary: false })
            }
            "copyin" => {
                self.rows_copied = 0;
                Outcome::CopyIn(CopyIn { schema: numbers(0, 0).schema(), options: copy_options(words[1]) })
            }
            "copyout" => Outcome::CopyOut(self.rows(count(), RowsTag::Select, false), copy_options(words[1])),
            "notice" => {
                self.notices.push(Notice {
                    severity: "NOTICE",
                    code: "00000",
                    message: "look here".into(),
                    detail: None,
                    hint: Some("or there".into()),
                });
                Outcome::Command("NOTICE".into())
            }
            "set" => {
                self.changes.push(("timezone".into(), "UTC".into()));
                self.changes.push(("search_path".into(), "x".into()));
                Outcome::Command("SET".into())
            }
            "discard" => Outcome::Command("DISCARD ALL".into()),
            "begin" => {
                self.status = TransactionStatus::InTransaction;
                Outcome::Command("BEGIN".into())
            }
            "rollback" => {
                self.status = TransactionStatus::Idle;
                Outcome::Command("ROLLBACK".into())
            }
            other => Outcome::Command(other.to_uppercase()),
        })
    }

    async fn describe(&mut self, statement: &String, given: &[Option<SqlType>]) -> Result<Description> {
        let numbers = || Some(numbers(0, 0).schema());
        Ok(match statement.split(' ').next().unwrap() {
            "echo" => {
                let parameters: Vec<_> = given.iter().map(|t| t.clone().unwrap_or(SqlType::Text)).collect();
                let fields = parameters.iter().enumerate().map(|(at, t)| t.to_field(&format!("p{at}"), true));
                let schema: SchemaRef = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
                Description { parameters, columns: Some(schema) }
            }
            "rows" | "found" | "failstream" | "returning" | "forever" => {
                Description { parameters: vec![], columns: numbers() }
            }
            _ => Description { parameters: vec![], columns: None },
        })
    }

    async fn copy_batch(&mut self, batch: RecordBatch) -> Result<()> {
        let expected = numbers(self.rows_copied as i32, (self.rows_copied + batch.num_rows()) as i32);
        assert_eq!(batch.columns(), expected.columns());
        self.rows_copied += batch.num_rows();
        *self.server.batches_made.lock().unwrap() += 1;
        Ok(())
    }

    async fn copy_finish(&mut self) -> Result<String> {
        Ok(format!("COPY {}", self.rows_copied))
    }

    fn copy_fail(&mut self) {
        self.log("copy_fail");
    }

    fn cursor(&self, _name: &str) -> Option<CursorShape> {
        None
    }

    fn close_cursor(&mut self, _name: &str) {}

    fn statement_failed(&mut self) {
        if self.status == TransactionStatus::InTransaction {
            self.status = TransactionStatus::Failed;
        }
        self.log("failed");
    }

    fn begin_implicit(&mut self) {
        self.log("begin implicit");
    }

    async fn end_implicit(&mut self) -> Result<()> {
        self.log("end implicit");
        Ok(())
    }

    fn transaction_status(&self) -> TransactionStatus {
        self.status
    }

    fn take_notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }

    fn take_parameter_changes(&mut self) -> Vec<(String, String)> {
        std::mem::take(&mut self.changes)
    }

    fn setting(&self, name: &str) -> Option<String> {
        (name == "TimeZone").then(|| "Europe/Berlin".to_string())
    }

    fn settings_version(&self) -> u64 {
        0
    }

    fn canceller(&self) -> Canceller {
        let (server, pid) = (Arc::clone(&self.server), self.key.0);
        Arc::new(move || server.cancel(pid, 77))
    }

    fn cancellation(&self) -> CancellationToken {
        self.server.tokens.lock().unwrap()[&self.key.0].clone()
    }

    fn resume(&mut self) -> CancellationToken {
        self.server.fresh_token(self.key.0)
    }

    fn cancel_reason(&self) -> Error {
        Error::new(SqlState::QueryCanceled, "canceling statement due to user request")
    }

    fn now_micros(&self) -> i64 {
        0
    }
}

struct Server {
    fake: Arc<Fake>,
    port: u16,
    shutdown: CancellationToken,
    task: JoinHandle<Result<()>>,
}

impl Server {
    async fn start(fake: Fake) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (fake, shutdown) = (Arc::new(fake), CancellationToken::new());
        let task = tokio::spawn(serve(listener, Arc::clone(&fake), Encryption::default(), shutdown.clone()));
        Server { fake, port, shutdown, task }
    }

    async fn plain() -> Server {
        Server::start(Fake { max_connections: 100, ..Fake::default() }).await
    }

    async fn client_as(&self, user: &str, password: &str, database: &str) -> Result<Client, tokio_postgres::Error> {
        let config = format!(
            "host=127.0.0.1 port={} user={user} password={password} dbname={database} sslmode=prefer",
            self.port
        );
        let (client, connection) = tokio_postgres::connect(&config, NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    async fn client(&self) -> Client {
        self.client_as("tidemark", "secret", "tidemark").await.unwrap()
    }

    async fn raw(&self) -> Raw {
        let mut raw = Raw { socket: TcpStream::connect(("127.0.0.1", self.port)).await.unwrap() };
        raw.start().await;
        raw
    }

    /// Waits until a session has done this.
    async fn seen(&self, wanted: &str) {
        let seen = async {
            while !self.fake.log.lock().unwrap().iter().any(|line| line == wanted) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, seen).await.expect("the session does it");
    }

    fn log(&self) -> Vec<String> {
        std::mem::take(&mut *self.fake.log.lock().unwrap())
    }
}

/// A client that speaks bytes.
struct Raw<S = TcpStream> {
    socket: S,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Raw<S> {
    async fn start(&mut self) {
        self.send_startup().await;
        self.until(b'Z').await;
    }

    async fn send_startup(&mut self) {
        let mut startup = BytesMut::new();
        startup.put_i32(3 << 16);
        startup.put_slice(b"user\0tidemark\0\0");
        self.socket.write_i32(startup.len() as i32 + 4).await.unwrap();
        self.socket.write_all(&startup).await.unwrap();
    }

    async fn send(&mut self, kind: u8, body: &[u8]) {
        let mut message = BytesMut::new();
        message.put_u8(kind);
        message.put_i32(body.len() as i32 + 4);
        message.put_slice(body);
        self.socket.write_all(&message).await.unwrap();
    }

    async fn next(&mut self) -> (u8, Bytes) {
        let read = async {
            let kind = self.socket.read_u8().await.unwrap();
            let mut body = vec![0; self.socket.read_i32().await.unwrap() as usize - 4];
            self.socket.read_exact(&mut body).await.unwrap();
            (kind, Bytes::from(body))
        };
        tokio::time::timeout(PATIENCE, read).await.expect("the server sends a message")
    }

    /// Kinds of the messages up to the one asked for.
    async fn until(&mut self, last: u8) -> String {
        let mut kinds = String::new();
        loop {
            let (kind, _) = self.next().await;
            kinds.push(char::from(kind));
            if kind == last {
                return kinds;
            }
        }
    }
}

fn code(error: &tokio_postgres::Error) -> String {
    error.as_db_error().map_or_else(|| error.to_string(), |e| format!("{} {}", e.code().code(), e.message()))
}

async fn simple(client: &Client, script: &str) -> Vec<String> {
    let messages = client.simple_query(script).await.unwrap();
    let row = |row: &tokio_postgres::SimpleQueryRow| {
        (0..row.len()).map(|at| row.get(at).unwrap_or("NULL")).collect::<Vec<_>>().join(",")
    };
    messages
        .iter()
        .filter_map(|message| match message {
            SimpleQueryMessage::Row(r) => Some(row(r)),
            SimpleQueryMessage::CommandComplete(count) => Some(format!("done {count}")),
            _ => None,
        })
        .collect()
}

#[tokio::test]
async fn encryption_is_refused_and_settings_are_told() {
    let server = Server::plain().await;
    let mut socket = TcpStream::connect(("127.0.0.1", server.port)).await.unwrap();
    for code in [80_877_104, 80_877_103] {
        socket.write_i32(8).await.unwrap();
        socket.write_i32(code).await.unwrap();
        assert_eq!(socket.read_u8().await.unwrap(), b'N');
    }
    let mut raw = Raw { socket };
    // Version 3.2 is talked down to 3.0.
    let body = b"\0\x03\0\x02user\0tidemark\0_pq_.novel\0on\0\0";
    raw.socket.write_i32(body.len() as i32 + 4).await.unwrap();
    raw.socket.write_all(body).await.unwrap();
    let (kind, body) = raw.next().await;
    assert_eq!((kind, &body[..]), (b'v', &b"\0\x03\0\0\0\0\0\x01_pq_.novel\0"[..]));
    let mut told = BTreeMap::new();
    loop {
        let (kind, body) = raw.next().await;
        match kind {
            b'S' => {
                let text = String::from_utf8_lossy(&body).into_owned();
                let mut words = text.split('\0').map(str::to_string);
                told.insert(words.next().unwrap(), words.next().unwrap());
            }
            b'Z' => break,
            other => assert!(matches!(other, b'R' | b'K'), "{other}"),
        }
    }
    assert_eq!(told["server_version"], "15.0");
    assert_eq!(told["client_encoding"], "UTF8");
    assert_eq!(told["TimeZone"], "Europe/Berlin");
    assert_eq!(told["session_authorization"], "tidemark");
    assert_eq!(told["integer_datetimes"], "on");
}

#[tokio::test]
async fn simple_queries_and_scripts() {
    let server = Server::plain().await;
    let client = server.client().await;
    assert_eq!(simple(&client, "rows 2").await, ["0,0,NULL", "1,1000000007,row\t1", "done 2"]);
    assert_eq!(server.log(), ["rows 2"]);
    assert_eq!(simple(&client, "create; rows 1; returning 1").await.len(), 5);
    assert_eq!(server.log(), ["begin implicit", "create", "rows 1", "returning 1", "end implicit"]);
    assert_eq!(simple(&client, " ; ").await, ["done 0"]);

    let error = client.simple_query("create; fail; create").await.unwrap_err();
    let db = error.as_db_error().unwrap();
    assert_eq!((db.code().code(), db.message(), db.severity()), ("22012", "division by zero", "ERROR"));
    assert_eq!((db.detail(), db.hint()), (Some("a detail"), Some("a hint")));
    assert_eq!(db.position(), Some(&tokio_postgres::error::ErrorPosition::Original(3)));
    assert_eq!(server.log(), ["begin implicit", "create", "fail", "failed", "end implicit"]);

    assert_eq!(
        code(&client.simple_query("a syntax error").await.unwrap_err()),
        "42601 syntax error at or near \"syntax\""
    );
    assert_eq!(code(&client.simple_query("failstream").await.unwrap_err()), "22012 late");
    assert_eq!(simple(&client, "rows 1").await.len(), 2);
}

#[tokio::test]
async fn parameters_and_results_in_binary() {
    use tokio_postgres::types::Type;
    let server = Server::plain().await;
    let client = server.client().await;
    let statement =
        client.prepare_typed("echo", &[Type::INT4, Type::TEXT, Type::FLOAT8, Type::INT4_ARRAY]).await.unwrap();
    let row = client.query_one(&statement, &[&7i32, &"x", &1.5f64, &vec![Some(1i32), None]]).await.unwrap();
    assert_eq!((row.get::<_, i32>(0), row.get::<_, &str>(1), row.get::<_, f64>(2)), (7, "x", 1.5));
    assert_eq!(row.get::<_, Vec<Option<i32>>>(3), [Some(1), None]);
    let row =
        client.query_one(&statement, &[&None::<i32>, &None::<&str>, &f64::NAN, &Vec::<i32>::new()]).await.unwrap();
    assert_eq!(row.get::<_, Option<i32>>(0), None);
    assert_eq!(row.columns()[0].type_(), &Type::INT4);
    assert_eq!(client.execute("create", &[]).await.unwrap(), 0);
    assert_eq!(client.query("rows 2500", &[]).await.unwrap().len(), 2500);
    assert!(code(&client.execute("fail", &[]).await.unwrap_err()).starts_with("22012"));
    assert_eq!(client.query("rows 3", &[]).await.unwrap().len(), 3);
}

#[tokio::test]
async fn portals_suspend_and_go_on_without_buffering() {
    let server = Server::plain().await;
    let mut client = server.client().await;
    server.fake.batches_made.lock().unwrap().clone_from(&0);
    client.batch_execute("begin").await.unwrap();
    let transaction = client.transaction().await.unwrap();
    let portal = transaction.bind("rows 1000000", &[]).await.unwrap();
    assert_eq!(transaction.query_portal(&portal, 1500).await.unwrap().len(), 1500);
    let next = transaction.query_portal(&portal, 700).await.unwrap();
    assert_eq!((next.len(), next[0].get::<_, i32>(0)), (700, 1500));
    assert!(*server.fake.batches_made.lock().unwrap() <= 4);
    let small = transaction.bind("rows 2", &[]).await.unwrap();
    assert_eq!(transaction.query_portal(&small, 2).await.unwrap().len(), 2);
    assert_eq!(transaction.query_portal(&small, 2).await.unwrap().len(), 0);
    assert_eq!(transaction.query_portal(&small, 2).await.unwrap().len(), 0);
    // What is found at once is given bit by bit, too.
    let found = transaction.bind("found 5", &[]).await.unwrap();
    assert_eq!(transaction.query_portal(&found, 3).await.unwrap().len(), 3);
    let next = transaction.query_portal(&found, 3).await.unwrap();
    assert_eq!((next.len(), next[0].get::<_, i32>(0)), (2, 3));
    assert_eq!(transaction.query_portal(&found, 3).await.unwrap().len(), 0);
}

#[tokio::test]
async fn rows_that_are_found_at_once_go_out_as_any() {
    let server = Server::plain().await;
    let client = server.client().await;
    for count in [0, 1, 3, 20_000] {
        let (found, rows) = (format!("found {count}"), format!("rows {count}"));
        let (found, rows) = (client.query(&found, &[]).await.unwrap(), client.query(&rows, &[]).await.unwrap());
        assert_eq!(found.len(), count);
        for (one, other) in found.iter().zip(&rows) {
            assert_eq!(one.get::<_, i64>(1), other.get::<_, i64>(1));
            assert_eq!(one.get::<_, Option<&str>>(2), other.get::<_, Option<&str>>(2));
        }
    }
    let mut raw = server.raw().await;
    raw.send(b'P', b"s\0found 2\0\0\0").await;
    raw.send(b'B', b"\0s\0\0\0\0\0\0\0").await;
    raw.send(b'E', b"\0\0\0\0\0").await;
    raw.send(b'S', b"").await;
    assert_eq!(raw.until(b'Z').await, "12DDCZ");
}

#[tokio::test]
async fn extended_protocol_message_by_message() {
    let server = Server::plain().await;
    let mut raw = server.raw().await;
    server.log();
    // Two statements in one pipeline share a transaction that ends at Sync.
    raw.send(b'P', b"s\0rows 3\0\0\0").await;
    raw.send(b'D', b"Ss\0").await;
    raw.send(b'B', b"p\0s\0\0\0\0\0\0\0").await;
    raw.send(b'D', b"Pp\0").await;
    raw.send(b'E', b"p\0\0\0\0\x02").await;
    raw.send(b'E', b"p\0\0\0\0\0").await;
    raw.send(b'E', b"p\0\0\0\0\0").await;
    raw.send(b'P', b"\0create\0\0\0").await;
    raw.send(b'B', b"\0\0\0\0\0\0\0\0").await;
    raw.send(b'E', b"\0\0\0\0\0").await;
    raw.send(b'C', b"Ss\0").await;
    raw.send(b'S', b"").await;
    assert_eq!(raw.until(b'Z').await, "1tT2TDDsDCC12C3Z");
    assert_eq!(server.log(), ["begin implicit", "rows 3", "create", "end implicit"]);

    // Alone, a statement needs none.
    raw.send(b'P', b"\0create\0\0\0").await;
    let mut rest = BytesMut::new();
    rest.put_slice(b"B\0\0\0\x0c\0\0\0\0\0\0\0\0E\0\0\0\x09\0\0\0\0\0S\0\0\0\x04");
    raw.socket.write_all(&rest).await.unwrap();
    assert_eq!(raw.until(b'Z').await, "12CZ");
    assert_eq!(server.log(), ["create"]);

    // After an error all is skipped up to Sync.
    raw.send(b'B', b"\0nosuch\0\0\0\0\0\0\0").await;
    raw.send(b'E', b"\0\0\0\0\0").await;
    raw.send(b'S', b"").await;
    let (kind, body) = raw.next().await;
    assert_eq!(kind, b'E');
    assert!(String::from_utf8_lossy(&body).contains("C26000\0Mprepared statement \"nosuch\" does not exist\0"));
    assert_eq!(raw.until(b'Z').await, "Z");

    for (kind, body, expected) in [
        (b'E', &b"nosuch\0\0\0\0\0"[..], "C34000\0Mportal \"nosuch\" does not exist"),
        (b'D', b"Snosuch\0", "C26000"),
        (b'B', b"\0\0\0\x01\0\x07\0\0\0\0", "C26000\0Munnamed prepared statement does not exist"),
        (b'P', b"x\0a; b\0\0\0", "C42601\0Mcannot insert multiple commands into a prepared statement"),
        (b'P', b"x\0echo\0\0\x01\xff\xff\xff\xff", "C42704"),
        (b'B', b"\0", "C08P01"),
        (b'D', b"Qx\0", "C08P01"),
    ] {
        raw.send(b'C', b"S\0").await;
        raw.send(kind, body).await;
        raw.send(b'S', b"").await;
        let mut error = String::new();
        loop {
            let (kind, body) = raw.next().await;
            match kind {
                b'E' => error = String::from_utf8_lossy(&body).into_owned(),
                b'Z' => break,
                _ => {}
            }
        }
        assert!(error.contains(expected), "{error} for {expected}");
    }

    // Names that are taken.
    raw.send(b'P', b"s\0rows 1\0\0\0").await;
    raw.send(b'P', b"s\0rows 1\0\0\0").await;
    raw.send(b'S', b"").await;
    assert_eq!(raw.until(b'Z').await, "1EZ");
    raw.send(b'B', b"p\0s\0\0\0\0\0\0\0").await;
    raw.send(b'B', b"p\0s\0\0\0\0\0\0\0").await;
    raw.send(b'S', b"").await;
    assert_eq!(raw.until(b'Z').await, "2EZ");
    // Skipping leaves out simple queries too, and DISCARD ALL forgets what was prepared.
    raw.send(b'E', b"nosuch\0\0\0\0\0").await;
    raw.send(b'Q', b"rows 1\0").await;
    raw.send(b'S', b"").await;
    assert_eq!(raw.until(b'Z').await, "EZ");
    raw.send(b'Q', b"discard\0").await;
    assert_eq!(raw.until(b'Z').await, "CZ");
    raw.send(b'D', b"Ss\0").await;
    raw.send(b'S', b"").await;
    assert_eq!(raw.until(b'Z').await, "EZ");
    // A portal does not outlive its transaction, an empty statement is one, and the connection is as good as new.
    raw.send(b'E', b"p\0\0\0\0\0").await;
    raw.send(b'S', b"").await;
    assert_eq!(raw.until(b'Z').await, "EZ");
    raw.send(b'P', b"\0\0\0\0").await;
    raw.send(b'B', b"\0\0\0\0\0\0\0\0").await;
    raw.send(b'D', b"P\0").await;
    raw.send(b'E', b"\0\0\0\0\0").await;
    raw.send(b'S', b"").await;
    assert_eq!(raw.until(b'Z').await, "12nIZ");
    raw.send(b'Q', b"rows 1\0").await;
    assert_eq!(raw.until(b'Z').await, "TDCZ");
}

#[tokio::test]
async fn transaction_status_and_notices_are_told() {
    let server = Server::plain().await;
    let mut raw = server.raw().await;
    for (script, kinds, status) in [
        (&b"notice\0"[..], "NCZ", b'I'),
        (b"set\0", "SCZ", b'I'),
        (b"begin\0", "CZ", b'T'),
        (b"fail\0", "EZ", b'E'),
        (b"rollback\0", "CZ", b'I'),
        (b"\0", "IZ", b'I'),
    ] {
        raw.send(b'Q', script).await;
        let mut seen = String::new();
        loop {
            let (kind, body) = raw.next().await;
            seen.push(char::from(kind));
            if kind == b'Z' {
                assert_eq!(body[0], status);
                break;
            }
        }
        assert_eq!(seen, kinds);
    }
}

#[tokio::test]
async fn cancel_requests_reach_waiting_and_streaming_statements() {
    let server = Server::plain().await;
    let client = server.client().await;
    for statement in ["wait", "forever"] {
        let cancel = client.cancel_token();
        let running = async { client.simple_query(statement).await.unwrap_err() };
        let cancelling = async {
            server.seen(statement).await;
            cancel.cancel_query(NoTls).await.unwrap();
        };
        let (error, ()) = tokio::time::timeout(PATIENCE, async { tokio::join!(running, cancelling) }).await.unwrap();
        assert_eq!(code(&error), "57014 canceling statement due to user request");
    }
    assert_eq!(simple(&client, "rows 1").await.len(), 2);
}

/// To a lane, and back with whatever is more than a lookup, time and again: nothing is lost on the way.
#[tokio::test]
async fn connections_move_to_lanes_and_back() {
    let server = Server::plain().await;
    let client = server.client().await;
    let found = client.prepare("found 2").await.unwrap();
    let rows = client.prepare("rows 2500").await.unwrap();
    let (wait, fail) = (client.prepare("wait").await.unwrap(), client.prepare("fail").await.unwrap());
    for round in 0..6 {
        server.log();
        for _ in 0..100 {
            assert_eq!(client.query(&found, &[]).await.unwrap().len(), 2);
        }
        assert!(server.log().iter().any(|line| line == "on a lane"), "{round}");
        match round {
            0 => assert_eq!(client.query(&rows, &[]).await.unwrap().len(), 2500),
            1 => assert!(code(&client.execute(&fail, &[]).await.unwrap_err()).starts_with("22012")),
            2 => assert_eq!(simple(&client, "rows 1; rows 2").await.len(), 5),
            3 => {
                let cancel = client.cancel_token();
                let cancelling = async {
                    server.seen("wait").await;
                    cancel.cancel_query(NoTls).await.unwrap();
                };
                let (waited, ()) = tokio::join!(client.execute(&wait, &[]), cancelling);
                assert!(code(&waited.unwrap_err()).starts_with("57014"));
            }
            4 => {
                let both = (0..200).map(|n| client.query(if n % 5 == 0 { &rows } else { &found }, &[]));
                for (n, rows) in futures::future::join_all(both).await.into_iter().enumerate() {
                    assert_eq!(rows.unwrap().len(), if n % 5 == 0 { 2500 } else { 2 });
                }
            }
            _ => assert_eq!(client.query("found 3", &[]).await.unwrap().len(), 3),
        }
    }
    // One that is on a lane when the server stops is told, too.
    let mut raw = server.raw().await;
    raw.send(b'P', b"s\0found 1\0\0\0").await;
    raw.send(b'S', b"").await;
    assert_eq!(raw.until(b'Z').await, "1Z");
    for _ in 0..100 {
        raw.socket.write_all(b"B\0\0\0\x0d\0s\0\0\0\0\0\0\0E\0\0\0\x09\0\0\0\0\0S\0\0\0\x04").await.unwrap();
        assert_eq!(raw.until(b'Z').await, "2DCZ");
    }
    server.shutdown.cancel();
    assert_eq!(raw.next().await.0, b'E');
    drop((client, raw));
    tokio::time::timeout(PATIENCE, server.task).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn a_client_that_leaves_cancels_its_statement() {
    let server = Server::plain().await;
    let mut raw = server.raw().await;
    raw.send(b'Q', b"wait\0").await;
    server.seen("wait").await;
    drop(raw);
    server.seen("was cancelled").await;
}

#[tokio::test]
async fn where_encryption_is_required_a_plain_client_is_told() {
    let fake = Arc::new(Fake::default());
    for (encrypted, expected) in [(false, b'E'), (true, b'R')] {
        let (client, server) = tokio::io::duplex(16 << 10);
        let (reader, writer) = tokio::io::split(server);
        let place = Place { refused: false, _permit: Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap() };
        let backend = Arc::clone(&fake);
        let protection = Protection { encrypted, offered: true, required: true };
        let task = tokio::spawn(async move {
            drop(serve_one(reader, writer, &backend, &CancellationToken::new(), &place, protection, Home::Fixed).await);
        });
        let mut raw = Raw { socket: client };
        raw.send_startup().await;
        let (kind, body) = raw.next().await;
        assert_eq!(kind, expected);
        assert!(encrypted || body.windows(5).any(|w| w == b"28000"), "{body:?}");
        drop(raw);
        task.await.unwrap();
    }
}

/// A client that does not read makes the server wait: few batches are made, and cancelling works all the same.
#[tokio::test]
async fn a_slow_client_holds_the_stream_back() {
    let fake = Arc::new(Fake::default());
    let (client, server) = tokio::io::duplex(16 << 10);
    let (reader, writer) = tokio::io::split(server);
    let place = Place { refused: false, _permit: Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap() };
    let backend = Arc::clone(&fake);
    let task = tokio::spawn(async move {
        let (shutdown, protection) = (CancellationToken::new(), Protection::default());
        drop(serve_one(reader, writer, &backend, &shutdown, &place, protection, Home::Fixed).await);
    });
    let mut raw = Raw { socket: client };
    raw.start().await;
    raw.send(b'Q', b"rows 10000000\0").await;
    // One thread and no real socket: after so many turns the server has long been waiting for its client.
    for _ in 0..10_000 {
        tokio::task::yield_now().await;
    }
    let made = *fake.batches_made.lock().unwrap();
    assert!((1..10).contains(&made), "{made} batches were made for a client that reads nothing");
    fake.cancel(1, 77);
    let kinds = raw.until(b'Z').await;
    assert!(kinds.starts_with("TD") && kinds.ends_with("DEZ"), "{}", &kinds[kinds.len() - 5..]);
    raw.send(b'Q', b"rows 1\0").await;
    assert_eq!(raw.until(b'Z').await, "TDCZ");
    raw.send(b'X', b"").await;
    task.await.unwrap();
}

#[tokio::test]
async fn copy_both_ways_in_every_format() {
    let server = Server::plain().await;
    let client = server.client().await;
    for format in ["text", "csv", "binary"] {
        let out = client.copy_out(&format!("copyout {format} 30000")).await.unwrap();
        let data: Vec<Bytes> = out.try_collect().await.unwrap();
        let whole = data.concat();
        // In pieces that end anywhere.
        for size in [7, 100_000] {
            server.fake.batches_made.lock().unwrap().clone_from(&0);
            let sink = client.copy_in(&format!("copyin {format}")).await.unwrap();
            futures::pin_mut!(sink);
            let data = if size == 7 { &whole[..whole.len().min(200_000)] } else { &whole[..] };
            for piece in data.chunks(size) {
                sink.feed(Bytes::copy_from_slice(piece)).await.unwrap();
            }
            if size == 7 {
                // Cut off in the middle of a row, most likely.
                let _ = sink.finish().await;
                continue;
            }
            assert_eq!(sink.finish().await.unwrap(), 30_000, "{format}");
            assert!(*server.fake.batches_made.lock().unwrap() > 3);
        }
    }
    assert_eq!(simple(&client, "rows 1").await.len(), 2);
}

#[tokio::test]
async fn copy_errors_name_line_and_column() {
    let server = Server::plain().await;
    let client = server.client().await;
    let copy = |format: &'static str, data: &'static [u8]| {
        let client = &client;
        async move {
            let sink = client.copy_in(&format!("copyin {format}")).await.unwrap();
            futures::pin_mut!(sink);
            sink.send(Bytes::from_static(data)).await.unwrap();
            let error = sink.finish().await.unwrap_err();
            let db = error.as_db_error().unwrap();
            format!("{} {} / {}", db.code().code(), db.message(), db.where_().unwrap_or(""))
        }
    };
    assert_eq!(
        copy("text", b"0\t0\t\\N\n1\tx\trow\n").await,
        "22P02 invalid input syntax for type bigint: \"x\" / COPY, line 2, column big: \"x\""
    );
    let bytes = "22P02 invalid byte sequence for encoding \"UTF8\" / COPY, line 1";
    assert_eq!(copy("text", b"0\t0\ta\xff\n").await, bytes);
    assert_eq!(copy("csv", b"0,0,a\0\n").await, bytes);
    assert_eq!(copy("text", b"0\t0\t\\xff\n").await, format!("{bytes}, column t"));
    assert_eq!(copy("text", b"0\t0\n").await, "22P04 missing data for column \"t\" / COPY, line 1");
    assert_eq!(copy("csv", b"0,0,a,b\n").await, "22P04 extra data after last expected column / COPY, line 1");
    assert_eq!(copy("csv", b"0,0,\"a\n").await, "22P04 unterminated CSV quoted field / COPY, line 1");
    assert_eq!(copy("binary", b"nonsense\n").await, "22P04 COPY file signature not recognized / COPY, line 0");
    assert_eq!(
        copy("binary", b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\0").await,
        "22P04 row field count is 1, expected 3 / COPY, line 1"
    );
    assert!(server.log().contains(&"copy_fail".to_string()));

    // The client gives up; and what it had sent ahead does not disturb what comes next.
    let mut raw = server.raw().await;
    raw.send(b'Q', b"copyin text\0").await;
    assert_eq!(raw.until(b'G').await, "G");
    raw.send(b'f', b"changed my mind\0").await;
    let (kind, body) = raw.next().await;
    assert_eq!(kind, b'E');
    assert!(String::from_utf8_lossy(&body).contains("C57014\0MCOPY from stdin failed: changed my mind"));
    raw.until(b'Z').await;
    raw.send(b'Q', b"copyin text\0").await;
    raw.until(b'G').await;
    raw.send(b'd', b"x\n").await;
    raw.send(b'd', b"y\n").await;
    raw.send(b'c', b"").await;
    assert_eq!(raw.until(b'Z').await, "EZ");
    raw.send(b'Q', b"rows 1\0").await;
    assert_eq!(raw.until(b'Z').await, "TDCZ");
}

#[tokio::test]
async fn passwords_databases_and_roles() {
    let server = Server::plain().await;
    let error = |result: Result<Client, tokio_postgres::Error>| code(&result.err().unwrap());
    assert_eq!(error(server.client_as("tidemark", "x", "other").await), "3D000 database \"other\" does not exist");
    assert_eq!(error(server.client_as("nobody", "x", "tidemark").await), "28000 role \"nobody\" does not exist");

    let fake = Fake { password: Some("secret".into()), max_connections: 1, ..Fake::default() };
    let server = Server::start(fake).await;
    assert_eq!(
        error(server.client_as("tidemark", "wrong", "tidemark").await),
        "28P01 password authentication failed for user \"tidemark\""
    );
    // The place of the one who failed is free again, soon.
    let client = loop {
        match server.client_as("tidemark", "secret", "tidemark").await {
            Ok(client) => break client,
            Err(error) => assert_eq!(code(&error), "53300 sorry, too many clients already"),
        }
    };
    assert_eq!(
        error(server.client_as("tidemark", "secret", "tidemark").await),
        "53300 sorry, too many clients already"
    );
    // There is always room for a cancel request.
    let cancel = client.cancel_token();
    let running = async { client.simple_query("wait").await.unwrap_err() };
    let cancelling = async {
        server.seen("wait").await;
        cancel.cancel_query(NoTls).await.unwrap();
    };
    let (error, ()) = tokio::join!(running, cancelling);
    assert!(code(&error).starts_with("57014"));
}

#[tokio::test]
async fn shutdown_tells_idle_and_busy_clients() {
    let server = Server::plain().await;
    let mut idle = server.raw().await;
    let mut busy = server.raw().await;
    busy.send(b'Q', b"wait\0").await;
    server.seen("wait").await;
    server.shutdown.cancel();
    for raw in [&mut idle, &mut busy] {
        let (kind, body) = raw.next().await;
        assert_eq!(kind, b'E');
        let text = String::from_utf8_lossy(&body).into_owned();
        assert!(text.starts_with("SFATAL\0VFATAL\0C57P01\0"), "{text}");
    }
    tokio::time::timeout(PATIENCE, server.task).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn broken_bytes_end_one_connection_and_no_other() {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};
    let server = Server::plain().await;
    let mut rng = StdRng::seed_from_u64(5);
    let client = server.client().await;
    for round in 0..60 {
        let mut bytes: Vec<u8> = (0..rng.random_range(1..200)).map(|_| rng.random()).collect();
        let mut socket = if round % 2 == 0 {
            TcpStream::connect(("127.0.0.1", server.port)).await.unwrap()
        } else {
            for byte in bytes.iter_mut().step_by(9) {
                *byte = b"QPBDECHSdcf\0\0\0"[usize::from(*byte) % 14];
            }
            server.raw().await.socket
        };
        // The server may hang up at any time.
        if socket.write_all(&bytes).await.is_ok() && socket.shutdown().await.is_ok() {
            let mut answer = Vec::new();
            let _ = tokio::time::timeout(PATIENCE, socket.read_to_end(&mut answer)).await.expect("the server hangs up");
        }
    }
    assert_eq!(simple(&client, "rows 1").await.len(), 2);
}
