//! The other server goes down and comes back.

use std::process::{Command, Stdio};

use tidemark_common::types::SqlType;

use super::mirror::Mirror;
use super::server::{Database, Server};

const SELECT: &str = "SELECT id, n FROM t";

/// What restarts the server, as the user that it runs as.
async fn restart(database: &Database, mode: &str) -> Command {
    let bin = database.value("SELECT setting FROM pg_config WHERE name = 'BINDIR'").await;
    let data = database.value("SELECT current_setting('data_directory')").await;
    // Not by root: who owns the data runs it.
    let mut command = Command::new("bash");
    let script = "cd / && if [ $(id -u) -eq 0 ]; then set -- setpriv --reuid=postgres --regid=postgres --clear-groups \"$@\"; fi; exec \"$@\"";
    command.args(["-c", script, "restart", &format!("{bin}/pg_ctl"), "-D", &data, "-s", "-w", "-m", mode]);
    command.args(["-l", &format!("{data}/../log"), "restart"]).stdout(Stdio::null());
    command
}

/// The stream is waited for, and goes on where it was: after a crash, and after a shutdown, which does not wait for ever for us.
#[tokio::test]
async fn a_server_that_restarts() {
    let server = Server::start("wal_level = logical");
    let database = Database { port: server.port, name: "postgres".into() };
    database.run("CREATE TABLE t (id bigint PRIMARY KEY, n int); INSERT INTO t VALUES (0, 0)").await;
    let columns = [("id", SqlType::BigInt), ("n", SqlType::Integer)];
    let mut mirror = Mirror::new(database.source("t", &columns, 1), 1);
    mirror.until_equal(&database, SELECT).await;
    for (round, mode) in ["immediate", "fast", "immediate"].into_iter().enumerate() {
        database.run(&format!("INSERT INTO t SELECT 20000 * {round} + g, g FROM generate_series(1, 20000) g")).await;
        let mut command = restart(&database, mode).await;
        let restarted = tokio::task::spawn_blocking(move || command.status().unwrap());
        while !restarted.is_finished() {
            tokio::select! {
                read = mirror.step() => {
                    read.unwrap();
                    mirror.commit();
                }
                () = tokio::time::sleep(std::time::Duration::from_millis(100)) => {}
            }
        }
        assert!(restarted.await.unwrap().success(), "{mode}");
        database.run("UPDATE t SET n = n + 1 WHERE id % 7 = 0").await;
        mirror.until_equal(&database, SELECT).await;
    }
    assert_eq!(mirror.ops.iter().filter(|op| op.as_str() == "Truncate").count(), 1);
    assert_eq!(mirror.ops.len(), 2 + 60_000 + (0..3).map(|round| 1 + 20_000 * (round + 1) / 7).sum::<usize>());
}
