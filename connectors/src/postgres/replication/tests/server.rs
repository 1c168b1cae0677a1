//! PostgreSQL with a log that can be read, one for all tests; each has a database of its own.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, OnceLock};

use tidemark_common::types::SqlType;
use tokio_postgres::{NoTls, SimpleQueryMessage};

use crate::testing::spec;
use crate::{Source, SourceSpec, open_source};

pub struct Server {
    _child: Child,
    pub port: u16,
}

impl Server {
    pub fn start(conf: &str) -> Server {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/postgres.sh");
        let mut script = Command::new(script);
        script.env("PG_LISTEN", "127.0.0.1").env("PG_PORT", port.to_string()).env("PG_CONF", conf);
        // Until its input ends, which is when this process does.
        script.args(["bash", "-c", "echo ready; cat"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = script.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line.trim(), "ready", "PostgreSQL does not start (make setup installs it)");
        Server { _child: child, port }
    }

    fn shared() -> &'static Server {
        static SHARED: OnceLock<Server> = OnceLock::new();
        SHARED.get_or_init(|| {
            Server::start(
                "wal_level = logical\nmax_replication_slots = 60\nmax_wal_senders = 60\nmax_connections = 200",
            )
        })
    }
}

/// A database of a test's own.
pub struct Database {
    pub port: u16,
    pub name: String,
}

impl Database {
    pub async fn new(name: &str) -> Database {
        let port = Server::shared().port;
        let database = Database { port, name: "postgres".into() };
        database.run(&format!("CREATE DATABASE {name}")).await;
        Database { name: name.into(), ..database }
    }

    pub async fn client(&self) -> tokio_postgres::Client {
        let url = format!("host=127.0.0.1 port={} user=tidemark dbname={}", self.port, self.name);
        let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    pub async fn run(&self, sql: &str) {
        self.client().await.batch_execute(sql).await.unwrap_or_else(|e| panic!("{e:?}: {sql}"));
    }

    /// Rows as text.
    pub async fn rows(&self, sql: &str) -> Vec<Vec<Option<String>>> {
        let messages = self.client().await.simple_query(sql).await.unwrap_or_else(|e| panic!("{e:?}: {sql}"));
        let rows = messages.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some((0..row.len()).map(|i| row.get(i).map(String::from)).collect()),
            _ => None,
        });
        rows.collect()
    }

    pub async fn value(&self, sql: &str) -> String {
        self.rows(sql).await.remove(0).remove(0).unwrap_or_else(|| "NULL".into())
    }

    /// A source of table `table`, its slot named after database and table. The first `key` columns are its key.
    pub fn spec(&self, table: &str, columns: &[(&str, SqlType)], key: usize, more: &[(&str, &str)]) -> SourceSpec {
        let (port, slot) = (self.port.to_string(), format!("{}_{table}", self.name));
        let mut options = vec![
            ("connector", "postgres-cdc"),
            ("hostname", "127.0.0.1"),
            ("port", port.as_str()),
            ("username", "tidemark"),
            ("database.name", self.name.as_str()),
            ("table.name", table),
            ("slot.name", slot.as_str()),
        ];
        options.retain(|(key, _)| !more.iter().any(|(other, _)| other == key));
        options.extend(more);
        SourceSpec { key: (0..key).collect(), ..spec(columns, &options) }
    }

    pub fn source(&self, table: &str, columns: &[(&str, SqlType)], key: usize) -> Arc<dyn Source> {
        open_source(self.spec(table, columns, key, &[])).unwrap()
    }
}
