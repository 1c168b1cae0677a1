//! A PostgreSQL of a test's own: fresh, with TCP on a port of its own, gone when dropped.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use tokio_postgres::NoTls;

use crate::certificates::{Authority, Identity};
use crate::harness::{free_ports, repository, service};

pub struct Postgres {
    child: Child,
    pub port: u16,
}

impl Postgres {
    /// Superuser `tidemark` without a password, database `postgres`.
    pub async fn start() -> Postgres {
        Self::start_with("").await
    }

    /// With more lines of postgresql.conf.
    pub async fn start_with(conf: &str) -> Postgres {
        let [port] = free_ports();
        let mut script = Command::new(repository().join("scripts/postgres.sh"));
        script.env("PG_LISTEN", "127.0.0.1").env("PG_PORT", port.to_string()).env("PG_CONF", conf);
        Postgres { child: service(&mut script), port }
    }

    pub async fn client(&self) -> tokio_postgres::Client {
        let url = format!("host=127.0.0.1 port={} user=tidemark dbname=postgres", self.port);
        let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    pub async fn run(&self, sql: &str) {
        self.client().await.batch_execute(sql).await.unwrap_or_else(|e| panic!("{e:?}: {sql}"));
    }

    pub async fn value(&self, sql: &str) -> String {
        self.client().await.query_one(&format!("SELECT ({sql})::text"), &[]).await.unwrap().get(0)
    }

    /// Rows as text, columns a space apart, NULL as `NULL`.
    pub async fn lines(&self, sql: &str) -> Vec<String> {
        let client = self.client().await;
        client.batch_execute("SET TimeZone = 'UTC'").await.unwrap();
        let messages = client.simple_query(sql).await.unwrap_or_else(|e| panic!("{e:?}: {sql}"));
        let line = |row: &tokio_postgres::SimpleQueryRow| {
            (0..row.len()).map(|at| row.get(at).unwrap_or("NULL")).collect::<Vec<_>>().join(" ")
        };
        let rows = messages.iter().filter_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => Some(line(row)),
            _ => None,
        });
        rows.collect()
    }

    /// How a user must prove who he is: a line for TCP, first of all.
    pub async fn authenticate(&self, method: &str) {
        let hba = PathBuf::from(self.value("current_setting('hba_file')").await);
        let rules = std::fs::read_to_string(&hba).unwrap();
        std::fs::write(&hba, format!("{method}\n{rules}")).unwrap();
        self.run("SELECT pg_reload_conf()").await;
    }

    /// Speaks TLS from now on.
    pub async fn encrypt(&self, certificate: &Path, key: &Path) {
        let data = PathBuf::from(self.value("current_setting('data_directory')").await);
        for (from, to) in [(certificate, "server.crt"), (key, "server.key")] {
            let to = data.join(to);
            std::fs::copy(from, &to).unwrap();
            let like = Command::new("chown").arg("--reference").arg(data.join("PG_VERSION")).arg(&to).status().unwrap();
            assert!(like.success());
            assert!(Command::new("chmod").arg("600").arg(&to).status().unwrap().success());
        }
        let client = self.client().await;
        client.execute("ALTER SYSTEM SET ssl = on", &[]).await.unwrap();
        client.execute("SELECT pg_reload_conf()", &[]).await.unwrap();
    }

    /// CREATE CONNECTION c to it.
    pub fn connection(&self, more: &str) -> String {
        format!(
            "CREATE CONNECTION c WITH (type = 'postgres', host = '127.0.0.1', port = {}, user = 'tidemark', \
             database = 'postgres'{more})",
            self.port
        )
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // The script cleans up behind it.
        let _ = self.child.wait();
    }
}

/// An authority, and a certificate for localhost that it has signed: authority, certificate, key.
pub fn certificates(dir: &Path, name: &str) -> (PathBuf, PathBuf, PathBuf) {
    let authority = Authority::new(dir, name);
    let Identity { certificate, key } = authority.sign(&format!("{name}-server"), "DNS:localhost");
    (authority.certificate, certificate, key)
}
