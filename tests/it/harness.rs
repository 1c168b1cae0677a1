//! What every test here needs: a server on a directory of its own, psql, a client, and waiting for something to be so.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

pub use tidemark_sqllogictest::Server;
use tokio_postgres::NoTls;

/// How long a condition may take to come true; generous, for loaded machines.
const PATIENCE: Duration = Duration::from_secs(120);

/// A server and its directory, gone when dropped.
pub struct Instance {
    pub server: Server,
    pub dir: tempfile::TempDir,
}

pub async fn start() -> Instance {
    start_with(&[]).await
}

pub async fn start_with(flags: &[&str]) -> Instance {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_with(&dir.path().join("data"), flags, &[]).await.unwrap();
    Instance { server, dir }
}

pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub fn binary() -> PathBuf {
    env!("CARGO_BIN_EXE_tidemark").into()
}

impl Instance {
    /// A client of the extended protocol.
    pub async fn client(&self) -> tokio_postgres::Client {
        let (client, connection) = tokio_postgres::connect(&self.server.url(), NoTls).await.unwrap();
        tokio::spawn(async move {
            // Ends with an error when the server is killed, which is what some tests do.
            let _ = connection.await;
        });
        client
    }

    /// Rows as text, columns a space apart, NULL as `NULL`.
    pub async fn lines(&self, sql: &str) -> Vec<String> {
        let mut client = self.server.connect().await.unwrap();
        client.lines(sql).await.unwrap_or_else(|e| panic!("{e}\n[SQL] {sql}\n{}", self.server.log_tail()))
    }

    pub async fn run(&self, sql: &str) {
        self.lines(sql).await;
    }

    /// The one value of a one-row query.
    pub async fn value(&self, sql: &str) -> String {
        let lines = self.lines(sql).await;
        assert_eq!(lines.len(), 1, "{sql}: {lines:?}");
        lines.into_iter().next().unwrap()
    }

    /// SQLSTATE and message of a statement that must fail.
    pub async fn error(&self, sql: &str) -> (String, String) {
        let client = self.client().await;
        let error = client.simple_query(sql).await.err().unwrap_or_else(|| panic!("succeeded: {sql}"));
        let error = error.as_db_error().unwrap_or_else(|| panic!("{error:?}: {sql}\n{}", self.server.log_tail()));
        (error.code().code().to_string(), error.message().to_string())
    }

    /// Waits until the query's rows are as expected; panics with the last ones if that never happens.
    pub async fn wait_for(&self, sql: &str, expected: &[&str]) {
        let began = Instant::now();
        loop {
            let lines = self.lines(sql).await;
            if lines == expected {
                return;
            }
            assert!(
                began.elapsed() < PATIENCE,
                "still not {expected:?} but {lines:?}: {sql}\n{}",
                self.server.log_tail()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub fn psql_command(&self) -> Command {
        let mut command = Command::new("psql");
        command
            .args(["-X", "-h", "127.0.0.1", "-U", "tidemark", "-d", "tidemark", "-p", &self.server.port.to_string()])
            .env("PGCLIENTENCODING", "UTF8")
            .env("LC_ALL", "C.UTF-8");
        command
    }

    /// Runs psql with these arguments; what it said, whatever its exit code.
    pub fn psql(&self, args: &[&str]) -> Output {
        self.psql_command().args(args).stdin(Stdio::null()).output().expect("psql is installed (make setup)")
    }

    /// Runs one command of psql, which must succeed without a word on stderr.
    pub fn psql_ok(&self, command: &str) -> String {
        let output = self.psql(&["-v", "ON_ERROR_STOP=1", "-c", command]);
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success() && err.is_empty(), "{command}\n{out}{err}\n{}", self.server.log_tail());
        out
    }

    /// GET on the HTTP port: status and body.
    pub async fn http(&self, path: &str) -> (u16, String) {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", self.server.http_port)).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).await.unwrap();
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_string())
    }
}

/// Ports that nobody listens on, each another one.
pub fn free_ports<const N: usize>() -> [u16; N] {
    [(); N].map(|()| tidemark_sqllogictest::free_port().unwrap())
}

/// A service that `script` runs for as long as its input is open; its command is given here.
pub fn service(script: &mut Command) -> Child {
    script.args(["bash", "-c", "echo ready; cat"]); // until its input ends
    let mut child = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line.trim(), "ready", "{script:?} does not start (make setup installs what it needs)");
    child
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Numbers that look random and are the same in each run.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}
